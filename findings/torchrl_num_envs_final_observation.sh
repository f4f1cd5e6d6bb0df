#!/usr/bin/env bash
# torchrl 0.14.1 GymEnv(..., num_envs=2), gymnasium 1.4.0: the last observation of a truncated episode is zeros.
#
# The guess: ("next", "observation") of a truncated step is the episode's last observation, as with one environment or
# with SerialEnv, since a target has to bootstrap from it.
# It is wrong: num_envs makes gymnasium's AsyncVectorEnv, and the step that truncates has zeros there. `truncated` is
# True and `terminated` False, so every loss of torchrl bootstraps from the value of zeros.
#
# Seen (observations count the steps; the fourth is cut):
#   GymEnv: 1 2 3 4 1 2
#   SerialEnv: 1 2 3 4 1 2
#   GymEnv, num_envs=2: 1 2 3 0 1 2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q torch==2.13.0 torchrl==0.14.1 tensordict==0.14.3 gymnasium==1.4.0 numpy==2.4.6
cd "$folder"
cat > count.py <<'EOF'
import gymnasium
import numpy as np
from torchrl.envs import GymEnv, SerialEnv


class Count(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, **kwargs):
        pass

    def reset(self, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.full(1, self.steps, np.float32), 0.0, False, self.steps == 4, {}


gymnasium.register("Count-v0", Count)


def successors(name, env):
    rollout = env.rollout(6, break_when_any_done=False)
    rollout = rollout[0] if rollout.ndim == 2 else rollout
    assert rollout["next", "truncated"].flatten().tolist() == [False, False, False, True, False, False]
    values = rollout["next", "observation"].flatten().int().tolist()
    print(f"{name}:", *values)
    env.close()
    return values


if __name__ == "__main__":
    assert successors("GymEnv", GymEnv("Count-v0")) == [1, 2, 3, 4, 1, 2]
    assert successors("SerialEnv", SerialEnv(2, lambda: GymEnv("Count-v0"))) == [1, 2, 3, 4, 1, 2]
    assert successors("GymEnv, num_envs=2", GymEnv("Count-v0", num_envs=2)) == [1, 2, 3, 0, 1, 2]
EOF
timeout 120 "$folder/venv/bin/python" count.py
