#!/usr/bin/env bash
# Dopamine 4.1.2, replay of its JAX agents: the last transition of an episode is not stored.
#
# The guess: an episode of 8 steps gives 8 transitions, of which the last has the last reward and the terminal flag.
# It is wrong: the flag is on the seventh, one action early, and that one is stored once for each frame of the stack,
# four times. The eighth, with its reward, is never stored. With one-step returns a task whose only reward is its last
# (a goal, a won point at the game's end) looks like one without any; n-step returns lose it only from the last state.
# A truncated episode (terminal=False) loses its last transition too.
#
# Seen (a reward of 1 in the eighth and last step):
#   one step: actions 0 1 2 3 4 5 6 6 6 6 terminal 0 0 0 0 0 0 1 1 1 1 rewards 0.0 in all
#   three steps, gamma 0.5: rewards 0.0 (eight times) 0.25 0.5 of actions 0 1 2 3 4 4 4 4 5 6
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-deps dopamine-rl==4.1.2
"$folder/venv/bin/pip" install -q jax==0.4.38 jaxlib==0.4.38 flax==0.10.2 numpy==2.2.6 gin-config==0.5.0 absl-py \
  orbax-checkpoint==0.10.3 python-snappy msgpack
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import numpy as np
from dopamine.jax.replay_memory.accumulator import TransitionAccumulator
from dopamine.jax.replay_memory.elements import TransitionElement


def stored(**kwargs):
    """The calls of JaxDQNAgent.step and end_episode in an episode of 8 steps."""
    accumulator, elements = TransitionAccumulator(stack_size=4, **kwargs), []
    for t in range(8):
        last = t == 7
        step = TransitionElement(np.array([t]), t, float(last), last, last)  # observation, action, reward, ends
        elements += accumulator.accumulate(step)
    return [(e.action, e.reward, int(e.is_terminal)) for e in elements]


actions, rewards, terminal = zip(*stored(update_horizon=1, gamma=0.5), strict=True)
print("one step: actions", *actions, "terminal", *terminal, "rewards", sum(rewards), "in all")
assert actions == (0, 1, 2, 3, 4, 5, 6, 6, 6, 6) and sum(terminal) == 4 and sum(rewards) == 0
actions, rewards, terminal = zip(*stored(update_horizon=3, gamma=0.5), strict=True)
print("three steps, gamma 0.5: rewards", *rewards, "of actions", *actions)
assert rewards[-3:] == (0, 0.25, 0.5) and actions[-3:] == (4, 5, 6)
EOF
