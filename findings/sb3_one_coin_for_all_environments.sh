#!/usr/bin/env bash
# Stable-Baselines3 2.9.2 DQN with several environments: one exploration coin a vector step, for all of them together.
#
# The guess: each of 8 environments explores with probability epsilon by itself. At epsilon 0.1 a step in which all
# explore then has probability 1e-8, and at least one explores in 57 of 100.
# It is wrong: all take random actions or none does. The share of random actions is right; the data of one vector step
# are all greedy or all random. By default there is also a quarter of a gradient step a vector step, so 8 environments
# learn 8 times less from a transition than one does, and total_timesteps is rounded up to 4 vector steps.
#
# Seen (epsilon 0.1, 2,000 vector steps of 8 environments):
#   steps in which all explore: 0.10, some: 0.00
#   total_timesteps 1001 with 1 environment: 1004 transitions, 251 gradient steps
#   total_timesteps 1001 with 8 environments: 1024 transitions, 32 gradient steps
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q torch==2.13.0 stable-baselines3==2.9.2 gymnasium==1.4.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import gymnasium
import numpy as np
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env


class ThousandActions(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(1000)

    def reset(self, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}


def agent(num_envs):
    schedule = {"exploration_initial_eps": 0.1, "exploration_final_eps": 0.1, "learning_starts": 0}
    return DQN("MlpPolicy", make_vec_env(ThousandActions, num_envs), buffer_size=5000, seed=0, **schedule)


dqn = agent(8)
dqn.learn(8)  # sets epsilon
obs = np.zeros((8, 2), np.float32)
greedy, _ = dqn.policy.predict(obs, deterministic=True)
explored = np.array([(dqn.predict(obs)[0] != greedy).sum() for _ in range(2000)])
all_explore, some_explore = np.mean(explored >= 7), np.mean((explored > 0) & (explored < 7))  # 1 in 1,000 is greedy
print(f"steps in which all explore: {all_explore:.2f}, some: {some_explore:.2f}")
assert 0.07 < all_explore < 0.13 and some_explore == 0

for num_envs, transitions, gradient_steps in ((1, 1004, 251), (8, 1024, 32)):
    dqn = agent(num_envs)
    dqn.learn(1001)
    environments = f"{num_envs} environment{'s' * (num_envs > 1)}"
    print(
        f"total_timesteps 1001 with {environments}: {dqn.num_timesteps} transitions, {dqn._n_updates} gradient steps"
    )
    assert (dqn.num_timesteps, dqn._n_updates) == (transitions, gradient_steps)
EOF
