#!/usr/bin/env bash
# gymnasium 1.4.0 AtariPreprocessing(terminal_on_life_loss=True) and ale-py 0.12.1 AtariVectorEnv(episodic_life=True):
# after a lost life the whole game starts again.
#
# The guess: as EpisodicLifeEnv of OpenAI Baselines (Stable-Baselines3, CleanRL, tianshou, EnvPool), the next episode
# goes on with the lives that are left, so that Breakout's episodes begin with 5, 4, 3, 2, 1, 5, ... lives.
# It is wrong in both: every episode begins with 5 lives and a full wall. The agent never sees a game after its first
# lost life, and a "return per episode" is that of one life.
#
# Seen:
#   AtariPreprocessing: lives at the starts of episodes 5 5 5 5 5 5 5 5
#   AtariVectorEnv: lives at the starts of episodes 5 5 5 5 5 5 5 5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gymnasium==1.4.0 ale-py==0.12.1 numpy==2.4.6 opencv-python-headless==5.0.0.93
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import ale_py
import gymnasium
import numpy as np
from gymnasium.wrappers import AtariPreprocessing

gymnasium.register_envs(ale_py)
rng = np.random.default_rng(0)

env = AtariPreprocessing(gymnasium.make("BreakoutNoFrameskip-v4"), terminal_on_life_loss=True)
_, info = env.reset(seed=0)
wrapper_lives = [info["lives"]]
while len(wrapper_lives) < 8:
    _, _, terminated, truncated, _ = env.step(rng.integers(4))
    if terminated or truncated:
        _, info = env.reset()
        wrapper_lives.append(info["lives"])
print("AtariPreprocessing: lives at the starts of episodes", *wrapper_lives)

envs = ale_py.AtariVectorEnv("breakout", 1, episodic_life=True)
_, info = envs.reset(seed=np.array([0]))
vector_lives, ended = [int(info["lives"][0])], False
while len(vector_lives) < 8:
    _, _, terminated, truncated, info = envs.step(rng.integers(4, size=1))  # the step after an end resets
    if ended:
        vector_lives.append(int(info["lives"][0]))
    ended = terminated[0] or truncated[0]
print("AtariVectorEnv: lives at the starts of episodes", *vector_lives)

assert wrapper_lives == vector_lives == [5] * 8
EOF
