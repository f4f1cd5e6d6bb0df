#!/usr/bin/env bash
# tianshou 2.0.1 ReplayBuffer(stack_num=4): the stack that a transition bootstraps from is not the next stack.
#
# The guess: within an episode the successor of step t is what the agent saw at step t + 1.
# It is wrong in the first three steps of an episode by default, since the stack of successors repeats the first
# successor where the agent saw the first observation. With ignore_obs_next=True, as in tianshou's Atari examples, these
# are right, and the last step of an episode is its own successor: a truncated step bootstraps from the state it
# started in. Terminal steps do not bootstrap.
#
# Seen (observations 10 to 16 of an episode cut after 7 steps; the agent's stack after the first step is 10 10 10 11):
#   default, step 1: 11 11 11 11    step 7: 14 15 16 17
#   ignore_obs_next, step 1: 10 10 10 11    step 7: 13 14 15 16
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q torch==2.13.0 tianshou==2.0.1 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import numpy as np
from tianshou.data import Batch, ReplayBuffer


def stacks(**kwargs):
    buffer = ReplayBuffer(20, stack_num=4, **kwargs)
    for t in range(10, 17):
        step = {"obs": np.array([t]), "obs_next": np.array([t + 1]), "act": 0, "rew": 1.0, "info": {}}
        buffer.add(Batch(terminated=False, truncated=t == 16, **step))
    batch = buffer[np.arange(7)]
    return batch.obs.reshape(7, 4).tolist(), batch.obs_next.reshape(7, 4).tolist()


obs, default = stacks()
assert obs[1] == [10, 10, 10, 11]
print("default, step 1:", *default[0], "   step 7:", *default[-1])
assert default[0] == [11, 11, 11, 11] and default[1] == [11, 11, 11, 12] and default[2] == [11, 11, 12, 13]
assert default[3:-1] == obs[4:] and default[-1] == [14, 15, 16, 17]

obs, ignored = stacks(ignore_obs_next=True)
print("ignore_obs_next, step 1:", *ignored[0], "   step 7:", *ignored[-1])
assert ignored[:-1] == obs[1:] and ignored[-1] == obs[-1] == [13, 14, 15, 16]
EOF
