"""The evaluation phase on scripted games whose metrics are computed by hand."""

import numpy as np
import pytest
from helpers import A, B, C, ScriptedEnvs, evaluate_on, load, metrics_by_hand, scripted_values

dqn, minatar = load("dqn_atari"), load("minatar_mexp")


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
def test_metrics_of_atari(eval_steps, expected):
    """Rewards are clipped in the return, not in the score."""
    envs = ScriptedEnvs([[A, C], [B]])
    args = dqn.Args(gamma=0.9, eval_steps=eval_steps)
    metrics = evaluate_on(dqn, envs, scripted_values, args)
    assert metrics == pytest.approx(metrics_by_hand(expected, 0.9, np.sign))
    assert all((actions == 1).all() for actions in envs.actions)


@pytest.mark.parametrize(
    "eval_episodes,expected",
    [
        # Game 0 plays A C A C ..., game 1 plays B B ...: A ends at step 4, C at 6, A at 10, with B
        (1, [(0, A)]),  # game 1 never starts
        (2, [(0, A), (0, B)]),
        (3, [(0, A), (1, C), (0, B)]),
        (4, [(0, A), (1, C), (2, A), (0, B)]),
        (5, [(0, A), (1, C), (2, A), (0, B), (3, C)]),  # of two that end together the first game starts again
        (6, [(0, A), (1, C), (2, A), (0, B), (3, C), (1, B)]),
    ],
)
def test_metrics_of_minatar(eval_episodes, expected):
    """Rewards are not clipped."""
    args = minatar.Args(gamma=0.9, eval_episodes=eval_episodes)
    metrics = evaluate_on(minatar, ScriptedEnvs([[A, C], [B]]), scripted_values, args)
    assert metrics == pytest.approx(metrics_by_hand(expected, 0.9, float))
    assert metrics["episodes"] == eval_episodes


@pytest.mark.parametrize("script,length", [(dqn, dict(eval_steps=8_000)), (minatar, dict(eval_episodes=4))])
@pytest.mark.parametrize("epsilon", [0.0, 0.02])
def test_epsilon_and_the_executed_actions_value(script, length, epsilon):
    """That share of the actions is random, and Q(s, a) is that of the action executed."""
    envs = ScriptedEnvs([[[0] * 2000]] * 4)
    args = script.Args(eval_epsilon=epsilon, **length)
    metrics = evaluate_on(script, envs, lambda obs: np.tile([0.0, 3.0, 1.0], (4, 1)), args)
    actions = np.concatenate(envs.actions)
    random = np.count_nonzero(actions != 1)
    expected = 8_000 * epsilon * 2 / 3  # a random action may be the best one
    assert abs(random - expected) <= 3 * expected**0.5
    assert metrics["mean_q"] == pytest.approx(np.array([0.0, 3.0, 1.0])[actions].mean())
    assert metrics["action_gap"] == pytest.approx(2.0)


def test_streams_differ_by_seed_and_step():
    def actions(seed, step):
        envs = ScriptedEnvs([[[0] * 50]])
        args = dqn.Args(seed=seed, eval_steps=1, eval_epsilon=1.0)
        evaluate_on(dqn, envs, lambda obs: np.zeros((1, 3)), args, step)
        return np.concatenate(envs.actions).tolist()

    assert actions(1, 0) == actions(1, 0)
    assert len({tuple(actions(seed, step)) for seed in (1, 2) for step in (0, 250_000)}) == 4


def test_on_the_emulator():
    """The score is the game's own, the return is of signs: checked by playing the same actions again."""
    args = dqn.Args(env_id="ALE/MsPacman-v5", seed=3, eval_steps=1, eval_epsilon=0.001)
    envs = dqn.make_envs(args, 1)
    values, seeds, taken = np.random.default_rng(0), [], []
    reset, send = envs.reset, envs.send
    envs.reset = lambda env_seeds: (seeds.append(env_seeds), reset(env_seeds))[1]
    envs.send = lambda actions: (taken.append(actions), send(actions))[1]
    metrics = evaluate_on(dqn, envs, lambda obs: values.random((1, 18)), args, 5)
    reset(seeds[0])
    rewards = []
    for actions in taken:
        send(actions)
        _, reward, _, _, done, info = envs.recv()
        rewards.append(reward[0])
    assert done[0] and metrics["episodes"] == 1
    assert metrics["score_mean"] == metrics["score_median"] == info["score"][0] == sum(rewards)
    returns = [sum(0.99**i * np.sign(r) for i, r in enumerate(rewards[t:])) for t in range(len(rewards))]
    assert metrics["mean_discounted_return"] == pytest.approx(np.mean(returns))
