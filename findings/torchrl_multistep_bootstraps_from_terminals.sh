#!/usr/bin/env bash
# torchrl 0.14.1 MultiStep and MultiStepTransform with DQNLoss: an n-step return that reaches the end of an episode
# still bootstraps from the terminal state.
#
# The guess: within n steps of a terminal the target is the sum of the rewards that are left.
# It is wrong: the reward is summed up to the end and the next observation is the terminal one, but ("next",
# "terminated") stays that of the first step, False. The loss adds gamma^steps times the value of the terminal state.
# Only the episode's last transition has the right target.
#
# Seen (rewards of 1, gamma 0.5, n 3, every value 100, the third step terminal; the truth is 1.75, 1.5, 1):
#   MultiStep: 14.25 26.5 1.0
#   MultiStepTransform in the replay buffer: 14.25 26.5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q torch==2.13.0 torchrl==0.14.1 tensordict==0.14.3 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import torch
from tensordict import TensorDict
from torchrl.data import Categorical, LazyTensorStorage, ReplayBuffer
from torchrl.data.postprocs import MultiStep
from torchrl.envs.transforms import MultiStepTransform
from torchrl.modules import QValueActor
from torchrl.objectives import DQNLoss


class Always100(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(100.0))

    def forward(self, obs):
        return self.value.expand(*obs.shape[:-1], 2)


steps = torch.arange(5.0)[:, None]
terminated = torch.tensor([False, False, True, False, False])[:, None]
after = {"observation": steps + 1, "reward": torch.ones(5, 1), "done": terminated, "terminated": terminated}
trajectory = TensorDict({"observation": steps, "action": torch.zeros(5, dtype=torch.long), "next": after}, [5])

loss = DQNLoss(QValueActor(Always100(), spec=Categorical(2)), action_space="categorical", delay_value=True)
loss.make_value_estimator(gamma=0.5)


def targets(batch):
    values = loss.value_estimator.value_estimate(batch.clone(), target_params=loss.target_value_network_params)
    return values.flatten().tolist()


by_collector = targets(MultiStep(gamma=0.5, n_steps=3)(trajectory[None].clone()))[:3]
print("MultiStep:", *by_collector)
buffer = ReplayBuffer(
    storage=LazyTensorStorage(100), transform=MultiStepTransform(n_steps=3, gamma=0.5), batch_size=2
)
buffer.extend(trajectory.clone())
by_buffer = targets(buffer[:2])
print("MultiStepTransform in the replay buffer:", *by_buffer)

assert by_collector == [14.25, 26.5, 1.0] and by_buffer == [14.25, 26.5]
EOF
