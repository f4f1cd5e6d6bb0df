#!/usr/bin/env bash
# tianshou 2.0.1: with the Huber loss DQN ignores the weights of prioritised replay, and IQN's loss grows with the number
# of target fractions.
#
# The guess: importance weights multiply the loss whichever it is, and IQN averages over target fractions and sums over
# online ones (Dabney et al. 2018, equation 3).
# It is wrong: huber_loss_delta=1.0 drops the weights without a word. IQN sums over target fractions and averages over
# online ones, so that target_sample_size is a factor of the loss and online_sample_size none.
#
# Seen (every TD error 3):
#   DQN, weights 1 and 0.5: squared 9.0 4.5 Huber 2.5 2.5
#   IQN, (online, target): (8, 8) 10, (8, 16) 20, (16, 8) 10
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q torch==2.13.0 tianshou==2.0.1 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import gymnasium
import numpy as np
import torch
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.iqn import IQN, IQNPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import ImplicitQuantileNetwork

torch.manual_seed(0)
actions = gymnasium.spaces.Discrete(2)
optim = AdamOptimizerFactory(lr=0.0)


def zeros(network):
    for parameter in network.parameters():
        parameter.data.zero_()
    return network


def batch(size, returns, **kwargs):
    return Batch(obs=np.zeros((size, 2), np.float32), act=np.zeros(size, int), returns=returns, info={}, **kwargs)


def dqn_losses(**kwargs):
    network = zeros(Net(state_shape=(2,), action_shape=2, hidden_sizes=[8]))
    dqn = DQN(policy=DiscreteQLearningPolicy(model=network, action_space=actions), optim=optim, **kwargs)
    weights = [torch.full((4,), w) for w in (1.0, 0.5)]
    return [dqn._update_with_batch(batch(4, torch.full((4,), 3.0), weight=w)).loss for w in weights]


def iqn_loss(online, target):
    network = ImplicitQuantileNetwork(
        preprocess_net=Net(state_shape=(2,), hidden_sizes=[8]), action_shape=2, num_cosines=8
    )
    sizes = {"sample_size": 4, "online_sample_size": online, "target_sample_size": target}
    policy = IQNPolicy(model=zeros(network), action_space=actions, **sizes)
    policy.train()
    iqn = IQN(policy=policy, optim=optim)
    return iqn._update_with_batch(batch(1024, torch.full((1024, target), 3.0))).loss


squared, huber = dqn_losses(), dqn_losses(huber_loss_delta=1.0)
print("DQN, weights 1 and 0.5: squared", *squared, "Huber", *huber)
assert squared == [9.0, 4.5] and huber == [2.5, 2.5]
losses = {sizes: round(iqn_loss(*sizes)) for sizes in ((8, 8), (8, 16), (16, 8))}
print("IQN, (online, target):", ", ".join(f"{sizes} {loss}" for sizes, loss in losses.items()))
assert list(losses.values()) == [10, 20, 10]
EOF
