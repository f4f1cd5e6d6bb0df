#!/usr/bin/env bash
# ale-py 0.12.1 AtariVectorEnv: the observation at its own time limit is not what the game shows there.
#
# The guess: at max_num_frames_per_episode the step is truncated and its observation is, as ever, the maximum of the
# step's last two frames, so that one can bootstrap from it; and the limit counts all frames of the episode.
# It is wrong: the last observation is a stale one. The two games compared have the same seed and actions and are equal
# in every step before. The no-ops of the reset are not counted, so episodes end at different frames. An agent that
# does not bootstrap at the limit sees no difference.
#
# Seen (Pong, limit 240 frames, no no-ops; then limit 2,000 with no-ops):
#   truncated at step 60: observations equal before True, at the limit False
#   truncated at step 500, frame 2016
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ale-py==0.12.1 gymnasium==1.4.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import ale_py
import numpy as np

limits = (240, 10**8)
games = [ale_py.AtariVectorEnv("pong", 1, max_num_frames_per_episode=n, noop_max=0) for n in limits]
for game in games:
    game.reset(seed=np.array([1]))
rng, equal, truncated = np.random.default_rng(0), [], False
while not truncated:
    action = rng.integers(6, size=1)
    (obs, _, _, (truncated,), _), (unlimited_obs, *_) = [game.step(action) for game in games]
    equal.append(np.array_equal(obs, unlimited_obs))
print(f"truncated at step {len(equal)}: observations equal before {all(equal[:-1])}, at the limit {equal[-1]}")
assert len(equal) == 60 and all(equal[:-1]) and not equal[-1]

game = ale_py.AtariVectorEnv("montezuma_revenge", 1, max_num_frames_per_episode=2000)
game.reset(seed=np.array([0]))
steps, truncated = 0, False
while not truncated:
    _, _, _, (truncated,), info = game.step(np.zeros(1, int))
    steps += 1
print(f"truncated at step {steps}, frame {info['episode_frame_number'][0]}")
assert steps == 500 and info["episode_frame_number"][0] > 2000
EOF
