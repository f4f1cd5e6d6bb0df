#!/usr/bin/env bash
# gymnasium 1.4.0 with ale-py 0.12.1: make_vec("ALE/MsPacman-v5") is another environment than make("ALE/MsPacman-v5").
#
# The guess: n copies of what `make` builds, raw scores and 210x160 pictures in colour, as with every other id.
# It is wrong: it is ale-py's own vector environment, with up to 30 no-ops and FIRE at a reset, 84x84 stacks of four and
# rewards clipped to -1, 0, 1. A score that RecordEpisodeStatistics reports is a count of rewards. Asking for
# vectorization_mode="sync" gives the copies.
#
# Seen (8 random episodes each):
#   make_vec: AtariVectorEnv (84, 84), mean score 21
#   make_vec, sync: SyncVectorEnv (160, 3), mean score 196
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gymnasium==1.4.0 ale-py==0.12.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import ale_py
import gymnasium
import numpy as np

gymnasium.register_envs(ale_py)


def play(name, **kwargs):
    envs = gymnasium.make_vec("ALE/MsPacman-v5", num_envs=2, **kwargs)
    kind = type(envs.unwrapped).__name__
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    envs.reset(seed=1)
    rng, scores, rewards_seen = np.random.default_rng(0), [], set()
    while len(scores) < 8:
        _, rewards, _, _, info = envs.step(rng.integers(9, size=2))
        rewards_seen.update(np.asarray(rewards).tolist())
        if "episode" in info:
            scores += [float(r) for r, done in zip(info["episode"]["r"], info["_episode"]) if done]
    print(f"{name}: {kind} {envs.single_observation_space.shape[-2:]}, mean score {np.mean(scores):.0f}")
    return kind, max(rewards_seen)


assert play("make_vec") == ("AtariVectorEnv", 1)
kind, largest = play("make_vec, sync", vectorization_mode="sync")
assert kind == "SyncVectorEnv" and largest >= 10
EOF
