#!/usr/bin/env bash
# torchrl 0.14.1 GymEnv("ALE/Breakout-v5"): the agent acts on every frame, not on every fourth.
#
# The guess: GymEnv("ALE/Breakout-v5") is gymnasium.make("ALE/Breakout-v5"), which skips 4 frames.
# It is wrong: GymEnv passes frameskip=1 to `make` and skips by itself, `frame_skip` times, by default once. Sticky
# actions stay, with 0.25 a frame. With frame_skip=4 the observation is the last frame, not the maximum of two.
#
# Seen (frames of the emulator for 20 agent steps):
#   gymnasium.make: 80
#   GymEnv: 20
#   GymEnv, frame_skip=4: 80
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q torch==2.13.0 torchrl==0.14.1 tensordict==0.14.3 gymnasium==1.4.0 ale-py==0.12.1 \
  numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import ale_py
import gymnasium
from torchrl.envs import GymEnv

gymnasium.register_envs(ale_py)
env = gymnasium.make("ALE/Breakout-v5")
env.reset(seed=0)
for _ in range(20):
    env.step(0)
frames = [env.unwrapped.ale.getEpisodeFrameNumber()]
for kwargs in ({}, {"frame_skip": 4}):
    env = GymEnv("ALE/Breakout-v5", **kwargs)
    env.rollout(20)
    frames.append(env._env.unwrapped.ale.getEpisodeFrameNumber())
print("gymnasium.make:", frames[0])
print("GymEnv:", frames[1])
print("GymEnv, frame_skip=4:", frames[2])
assert frames == [80, 20, 80]
EOF
