"""The evaluation phase on a scripted environment whose metrics are computed by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import load

dqn = load("dqn_atari")


class ScriptedEnvs:
    """Games with given episodes: a list of reward lists for each; the observation is the step's number."""

    def __init__(self, episodes):
        self.games, self.num_envs, self.num_actions = episodes, len(episodes), 3
        self.actions = []

    def reset(self, seeds):
        assert seeds.shape == (self.num_envs,)
        self.episode, self.t = [0] * self.num_envs, [0] * self.num_envs
        self.scores = np.zeros(self.num_envs, int)
        return self.observe()

    def observe(self):
        return np.array([[self.episode[i], self.t[i]] for i in range(self.num_envs)])

    def send(self, actions):
        self.actions.append(actions)

    def recv(self):
        episodes = [self.games[i][self.episode[i] % len(self.games[i])] for i in range(self.num_envs)]
        rewards = np.array([episodes[i][self.t[i]] for i in range(self.num_envs)])
        self.t = [t + 1 for t in self.t]
        done = np.array([self.t[i] == len(episodes[i]) for i in range(self.num_envs)])
        self.scores = self.scores + rewards
        info = {"score": self.scores, "length": np.array(self.t)}
        self.scores = self.scores * ~done
        self.episode = [e + bool(x) for e, x in zip(self.episode, done, strict=True)]
        self.t = [0 if x else t for t, x in zip(self.t, done, strict=True)]
        return self.observe(), rewards, done, done & False, done, info


def q_values(obs):
    """Action 1 is best, by 0.5 + t; its value is 10 e + t in step t of episode e."""
    best = 10.0 * obs[:, 0] + obs[:, 1]
    return np.stack([best - 20.0, best, best - 0.5 - obs[:, 1]], axis=1).astype(np.float32)


def by_hand(episodes, gamma, k):
    """Metrics of (number, rewards) episodes by the definitions, with a backward sum for every return; the layer's input
    z by the inverse of its matrix."""
    q, returns, gaps, q_norms, z_norms = [], [], [], [], []
    layer = np.eye(3) + k / 3
    for e, rewards in episodes:
        for t in range(len(rewards)):
            q.append(10.0 * e + t)
            gaps.append(0.5 + t)
            values = q_values(np.array([[e, t]]))[0].astype(float)
            q_norms.append(sum(value**2 for value in values) ** 0.5)
            z_norms.append(sum(value**2 for value in np.linalg.inv(layer) @ values) ** 0.5)
            returns.append(sum(gamma**i * np.sign(r) for i, r in enumerate(rewards[t:])))
    scores = [sum(rewards) for _, rewards in episodes]
    return {
        "episodes": len(scores),
        "score_mean": np.mean(scores),
        "score_median": np.median(scores),
        "score_std": np.std(scores),
        "mean_q": np.mean(q),
        "mean_discounted_return": np.mean(returns),
        "overestimation": np.mean(q) - np.mean(returns),
        "action_gap": np.mean(gaps),
        "q_norm": np.mean(q_norms),
        "z_norm": np.mean(z_norms),
    }


A, B, C = [0, 7, -3, 0], [5, 0, 0, 0, 0, 0, 0, 2, 1, 1], [-1, 100]


@pytest.mark.parametrize(
    "eval_steps,expected",
    [
        # Game 0 plays A C A C ..., game 1 plays B. After step s, 2 s steps were taken until a game stops.
        (1, [(0, A), (0, B)]),  # both were started at once, with no step taken
        (8, [(0, A), (0, B)]),  # A ends after 8 steps in all: nothing new starts
        (9, [(0, A), (1, C), (0, B)]),  # one step fewer, and C starts; it ends after 12
        (13, [(0, A), (1, C), (2, A), (0, B)]),  # A again, from step 6 to 10, ends with B after 20
        (20, [(0, A), (1, C), (2, A), (0, B)]),
        (21, [(0, A), (1, C), (2, A), (0, B), (3, C), (1, B)]),
    ],
)
def test_metrics_by_hand(eval_steps, expected):
    envs = ScriptedEnvs([[A, C], [B]])
    args = SimpleNamespace(seed=1, gamma=0.9, eval_steps=eval_steps, eval_epsilon=0.001, mean_scaling_coefficient=2.5)
    metrics, seeds, film = dqn.evaluate(envs, q_values, args, 0)
    assert metrics == pytest.approx(by_hand(expected, 0.9, k=2.5))
    assert metrics["z_norm"] < metrics["q_norm"] - 1
    del args.mean_scaling_coefficient  # without the layer z is q
    metrics, _, _ = dqn.evaluate(ScriptedEnvs([[A, C], [B]]), q_values, args, 0)
    assert metrics == pytest.approx(by_hand(expected, 0.9, k=0)) and metrics["z_norm"] == metrics["q_norm"]
    assert film == [1] * len(A), "the first game's first episode"
    assert all((actions == 1).all() for actions in envs.actions)


@pytest.mark.parametrize("epsilon", [0.0, 0.001, 0.1])
def test_epsilon_and_the_executed_actions_value(epsilon):
    """That share of the actions is random, and Q(s, a) is that of the action executed."""
    envs = ScriptedEnvs([[[0] * 5000]] * 4)
    args = SimpleNamespace(seed=1, gamma=0.99, eval_steps=20_000, eval_epsilon=epsilon)
    metrics, _, _ = dqn.evaluate(envs, lambda obs: np.tile([0.0, 3.0, 1.0], (4, 1)), args, 0)
    actions = np.concatenate(envs.actions)
    random = np.count_nonzero(actions != 1)
    expected = 20_000 * epsilon * 2 / 3
    assert abs(random - expected) <= 3 * expected**0.5
    assert metrics["mean_q"] == pytest.approx(np.array([0.0, 3.0, 1.0])[actions].mean())
    assert metrics["action_gap"] == pytest.approx(2.0)


def test_streams_differ_by_seed_and_step():
    def actions(seed, step):
        envs = ScriptedEnvs([[[0] * 50]])
        args = SimpleNamespace(seed=seed, gamma=0.9, eval_steps=1, eval_epsilon=1.0)
        dqn.evaluate(envs, lambda obs: np.zeros((1, 3)), args, step)
        return np.concatenate(envs.actions).tolist()

    assert actions(1, 0) == actions(1, 0)
    assert len({tuple(actions(seed, step)) for seed in (1, 2) for step in (0, 250_000)}) == 4


def test_on_the_emulator():
    """The score is the game's own, the return is of signs: checked by playing the film again."""
    envs = dqn.AtariEnvs("ALE/MsPacman-v5", 1)
    args = SimpleNamespace(seed=3, gamma=0.99, eval_steps=1, eval_epsilon=0.001)
    rng = np.random.default_rng(0)
    metrics, seeds, film = dqn.evaluate(envs, lambda obs: rng.random((1, 18)), args, 5)
    envs.reset(seeds)
    rewards = []
    for action in film:
        envs.send(np.array([action]))
        _, reward, _, _, done, info = envs.recv()
        rewards.append(reward[0])
    assert done[0] and metrics["episodes"] == 1
    assert metrics["score_mean"] == metrics["score_median"] == info["score"][0] == sum(rewards)
    returns = [sum(0.99**i * np.sign(r) for i, r in enumerate(rewards[t:])) for t in range(len(rewards))]
    assert metrics["mean_discounted_return"] == pytest.approx(np.mean(returns))
