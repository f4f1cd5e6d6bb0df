"""IBQ(k) and its gridworld: by hand, by counting, by value iteration, and against a plain Q-learning loop."""

import csv
import re
from types import SimpleNamespace

import numpy as np
import pytest
import tyro
from conftest import ROOT, load, run

tabular = load("tabular_mexp")


def episodes_of(k, alpha, seeds, args, steps):
    """The episodes that `simulate` counted by each of `steps`, (len(seeds), len(steps), C)."""
    return np.stack([episodes for episodes, _ in tabular.simulate(k, alpha, seeds, args, steps)], axis=1)


# The states in the order of the page; S is where the agent starts, G where the episode ends.
#   0  1  2  3  G        up, down, left, right
#   5  6  7  8  9
#  10 11 12 13 14
#  15 16 17 18 19
#   S 21 22 23 24
BY_HAND = {
    0: (0, 5, 0, 1),
    2: (2, 7, 1, 3),
    3: (3, 8, 2, 4),
    4: (4, 9, 3, 4),
    5: (0, 10, 5, 6),
    9: (4, 14, 8, 9),
    12: (7, 17, 11, 13),
    14: (9, 19, 13, 14),
    20: (15, 20, 20, 21),
    22: (17, 22, 21, 23),
    24: (19, 24, 23, 24),
}


def test_transitions_by_hand():
    table = tabular.transitions()
    assert table.shape == (25, 4)
    for state, successors in BY_HAND.items():
        assert tuple(table[state]) == successors
    rows, columns = np.divmod(np.arange(25), 5)
    for action in range(4):
        moved = abs(rows[table[:, action]] - rows) + abs(columns[table[:, action]] - columns)
        assert np.count_nonzero(moved == 0) == 5 and moved.max() == 1
    assert (tabular.START, tabular.GOAL) == (20, 4)


def test_slips_by_counting():
    """A quarter of the actions becomes another one, each of the three as often."""
    rng, count = np.random.default_rng(0), 400_000
    for action in range(4):
        executed = tabular.executed_actions(np.full(count, action), rng.random(count), rng.random(count))
        shares = np.bincount(executed, minlength=4) / count
        expected = np.full(4, 0.25 / 3)
        expected[action] = 0.75
        np.testing.assert_allclose(shares, expected, atol=0.003)


def test_ties_are_broken_evenly():
    q, count = np.array([1.0, 3.0, 3.0, 3.0]), 300_000
    actions = tabular.greedy_actions(np.tile(q, (count, 1)), np.random.default_rng(0).random(count))
    np.testing.assert_allclose(np.bincount(actions, minlength=4) / count, [0, 1 / 3, 1 / 3, 1 / 3], atol=0.004)
    assert tabular.greedy_actions(np.array([[0.0, 5.0, 1.0, 2.0]]), np.array([0.99]))[0] == 1


@pytest.mark.parametrize("k", [0.0, 0.4, 4.0, 12.8])
def test_update_is_the_matrix_form(k):
    """Q moves by M_k M_k^T's column times alpha and the TD error."""
    rng, n = np.random.default_rng(0), 4
    z, actions = rng.normal(size=(50, n)), rng.integers(n, size=50)
    alpha, errors = rng.uniform(size=50), rng.normal(size=50)
    steps = alpha * errors
    matrix = np.eye(n) + k / n
    before = z.copy()
    moved = (tabular.update(z, np.full(50, k), alpha, actions, errors) - z) @ matrix.T
    assert np.array_equal(z, before)
    np.testing.assert_allclose(tabular.action_values(z, np.full(50, k)), z @ matrix.T, atol=1e-12 * (k + 1))
    np.testing.assert_allclose(moved, steps[:, None] * (matrix @ matrix.T)[:, actions].T, atol=1e-12 * (k + 1) ** 2)
    square = (2 * k + k * k) / n
    np.testing.assert_allclose(moved[np.arange(50), actions], steps * (1 + square), atol=1e-10)


@pytest.mark.parametrize("target_of", ["max", "expected_sarsa"])
@pytest.mark.parametrize("step_reward", [-1.0, 0.0])
@pytest.mark.parametrize("k", [0.0, 3.2])
def test_equals_a_plain_loop(k, step_reward, target_of):
    """One run, step for step, in scalar Python with the same random numbers; k = 0 is plain Q-learning.

    Expected SARSA by the probabilities of the four actions, of which ties share the greedy one.
    """
    args, alpha, steps = tabular.Args(step_reward=step_reward, target=target_of), 0.1, 3000
    q_learning = [[0.0] * 4 for _ in range(25)]
    state, episodes, marks = 20, 0, []
    for explore, random_action, tie, slip, which in np.random.default_rng(11).random((steps, 5)):
        z = q_learning[state]
        q = [value + k * (sum(z) / 4) for value in z]
        best = [a for a in range(4) if q[a] == max(q)]
        action = int(random_action * 4) if explore < 0.1 else best[int(tie * len(best))]
        executed = (action + 1 + int(which * 3)) % 4 if slip < 0.25 else action
        row, column = divmod(state, 5)
        row, column = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)][executed]
        successor = min(max(row, 0), 4) * 5 + min(max(column, 0), 4)
        if successor == 4:
            target = 5.0
        else:
            following = q_learning[successor]
            value = max(following)
            if target_of == "expected_sarsa":
                ties = following.count(value)
                value = sum((0.1 / 4 + (v == value) * 0.9 / ties) * v for v in following)
            target = step_reward + 0.95 * (value + k * (sum(following) / 4))
        step = alpha * (target - q[action])
        for other in range(4):
            z[other] += step * k / 4
        z[action] += step
        episodes += successor == 4
        state = 20 if successor == 4 else successor
        marks.append(episodes)
    got = list(tabular.simulate(np.array([k]), np.array([alpha]), range(11, 12), args, tuple(range(1, steps + 1))))
    assert marks[-1] > 50 and [episodes[0, 0] for episodes, _ in got] == marks
    q = np.array(q_learning)
    np.testing.assert_allclose(got[-1][1][0, 0], q + k * q.mean(1, keepdims=True), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", ["max", "expected_sarsa", "sarsa"])
def test_targets_by_hand(target, monkeypatch):
    """Three steps with k = n = 4 and alpha = 0.5: a TD error d moves z[a] by d and every other z[b] by d / 2.

    1. Down from the start, state 20, into the wall; every q is 0, so d = -1. Then q(20) = (-3, -3.5, -3, -3).
    2. A greedy action, from the number 0.3 for ties. SARSA draws it before the update, when four are tied: down again.
       The others draw it after the update, when three are tied: up to state 15, where q is 0, so d = -1 - (-3) = 2.
    3. A random action, down: into the wall again with SARSA; back to 20, where q = (4, 2.5, 3, 3), with the others.
    """
    down, right = 0.3, 0.9  # times 4: actions 1 and 3
    numbers = [[0.0, down, 0.0, 0.9, 0.0], [0.5, right, 0.3, 0.9, 0.0], [0.0, down, 0.0, 0.9, 0.0]]
    numbers.append([0.0, right, 0.0, 0.9, 0.0])  # explore, random action, tie, slip, which
    generator = SimpleNamespace(random=lambda size: np.array(numbers))
    monkeypatch.setattr(np.random, "default_rng", lambda seed: generator)
    args = tabular.Args(target=target)
    got = [q[0, 0] for _, q in tabular.simulate(np.array([4.0]), np.array([0.5]), range(1), args, (1, 2, 3))]

    z = np.zeros((3, 25, 4))
    z[:, 20] = [-0.5, -1, -0.5, -0.5]
    if target == "sarsa":
        error = -1 + 0.95 * -3.5 - -3.5  # the next action is step 3's: down
        z[1:, 20] += error * np.array([0.5, 1, 0.5, 0.5])
        q = z[1, 20] + 4 * z[1, 20].mean()
        error = -1 + 0.95 * q[3] - q[1]  # the next action is that of step 4, which is not made: right
        z[2, 20] += error * np.array([0.5, 1, 0.5, 0.5])
    else:
        z[1:, 20] += 2 * np.array([1, 0.5, 0.5, 0.5])
        bootstrap = 4 if target == "max" else 0.925 * 4 + 0.025 * (2.5 + 3 + 3)
        z[2, 15] = (-1 + 0.95 * bootstrap) * np.array([0.5, 1, 0.5, 0.5])
    np.testing.assert_allclose(got, z + 4 * z.mean(-1, keepdims=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [0.0, 3.2])
def test_expected_sarsa_without_exploration_is_q_learning(k, monkeypatch):
    def last_values(target):
        args = tabular.Args(target=target)
        ((episodes, q),) = tabular.simulate(np.array([k]), np.array([0.1]), range(8), args, (1000,))
        assert episodes.min() > 5
        return q

    assert not np.array_equal(last_values("max"), last_values("expected_sarsa"))
    monkeypatch.setattr(tabular, "EPSILON", 0.0)
    assert np.array_equal(last_values("max"), last_values("expected_sarsa"))


def test_sarsa_without_the_layer_is_the_textbooks():
    """One run of SARSA as Sutton and Barto (2018, section 6.4) write it: the same tables to the last bit."""
    args, alpha, steps = tabular.Args(target="sarsa"), 0.3, 3000
    numbers = np.random.default_rng(11).random((steps + 1, 5)).tolist()
    table, tables = [[0.0] * 4 for _ in range(25)], []

    def choose(state, step):
        explore, random_action, tie, _, _ = numbers[step]
        best = [a for a in range(4) if table[state][a] == max(table[state])]
        return int(random_action * 4) if explore < 0.1 else best[int(tie * len(best))]

    state, action = 20, choose(20, 0)
    for step in range(steps):
        _, _, _, slip, which = numbers[step]
        executed = (action + 1 + int(which * 3)) % 4 if slip < 0.25 else action
        row, column = divmod(state, 5)
        row, column = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)][executed]
        successor = min(max(row, 0), 4) * 5 + min(max(column, 0), 4)
        if successor == 4:
            table[state][action] += alpha * (5.0 - table[state][action])
            state, action = 20, choose(20, step + 1)
        else:
            following = choose(successor, step + 1)
            table[state][action] += alpha * (-1.0 + 0.95 * table[successor][following] - table[state][action])
            state, action = successor, following
        tables.append(np.array(table))
    got = list(tabular.simulate(np.array([0.0]), np.array([alpha]), range(11, 12), args, tuple(range(1, steps + 1))))
    assert got[-1][0][0, 0] > 50
    assert np.array_equal([q[0, 0] for _, q in got], tables)


def expected_values(values, step_reward, goal_reward):
    """E[reward + 0.95 * values] for every state but the goal and every chosen action, (25, 4), with plain loops."""
    q = np.zeros((25, 4))
    for state in range(25):
        row, column = divmod(state, 5)
        for chosen in range(4):
            for executed, (down, right) in enumerate([(-1, 0), (1, 0), (0, -1), (0, 1)]):
                probability = 3 / 4 if executed == chosen else 1 / 12
                successor = min(max(row + down, 0), 4) * 5 + min(max(column + right, 0), 4)
                target = goal_reward if successor == 4 else step_reward + 0.95 * values[successor]
                q[state, chosen] += probability * target
    q[4] = 0
    return q


@pytest.mark.parametrize("rewards", [(-1.0, 5.0), (0.0, 5.0), (-2.5, -7.0)])
def test_value_iteration_solves_the_bellman_equation(rewards):
    q = tabular.optimal_action_values(tabular.Args(step_reward=rewards[0], goal_reward=rewards[1]))
    assert q.shape == (25, 4) and abs(q).max() > 3
    np.testing.assert_allclose(q, expected_values(q.max(1), *rewards), rtol=0, atol=1e-11)


def test_value_iteration_equals_the_solution_for_its_policy():
    """The values of the policy that is greedy to q*, from 25 linear equations, are those of value iteration."""
    args = tabular.Args()
    q = tabular.optimal_action_values(args)
    policy = q.argmax(1)
    # By linearity: the expected reward is what the values 0 leave, the transition matrix is what unit values add.
    rewards = expected_values(np.zeros(25), args.step_reward, args.goal_reward)[np.arange(25), policy]
    columns = [expected_values(unit, 0.0, 0.0)[np.arange(25), policy] for unit in np.eye(25)]
    values = np.linalg.solve(np.eye(25) - np.stack(columns, axis=1), rewards)
    np.testing.assert_allclose(q.max(1), values, rtol=0, atol=1e-11)
    assert values[3] > values[8] > values[20]
    assert values[9] == pytest.approx(values[3]) and values[14] == pytest.approx(values[2])  # the grid's symmetry


def test_optimal_values_are_learned():
    """With small steps and much time, IBQ(k) finishes episodes about as fast as the greedy policy of q*."""
    table, policy = tabular.transitions(), tabular.optimal_action_values(tabular.Args()).argmax(1)
    rng, walkers, lengths = np.random.default_rng(0), np.full(3000, 20), np.zeros(3000)
    while (walkers != 4).any():
        lengths += walkers != 4
        executed = tabular.executed_actions(policy[walkers], rng.random(3000), rng.random(3000))
        walkers = np.where(walkers == 4, 4, table[walkers, executed])
    optimal = lengths.mean()
    assert optimal > 8  # the shortest way
    for k in (0.0, 3.2):  # epsilon-greedy Q-learning comes close to the optimal policy's rate, and cannot beat it
        counts = episodes_of(np.array([k]), np.array([0.1]), range(8), tabular.Args(), (15_000, 20_000))[:, :, 0]
        rate = 5000 / (counts[:, 1] - counts[:, 0]).mean()
        assert optimal < rate < 1.35 * optimal


@pytest.mark.parametrize("target", ["max", "sarsa"])
def test_pairs_and_seeds_do_not_touch_each_other(target):
    args, steps = tabular.Args(target=target), (500, 1500)
    k, alpha = np.array([0.0, 0.0, 3.2]), np.array([0.1, 0.5, 0.1])
    together = episodes_of(k, alpha, range(4, 7), args, steps)
    assert together.shape == (3, 2, 3)
    for i, seed in enumerate(range(4, 7)):
        for j in range(3):
            alone = episodes_of(k[j : j + 1], alpha[j : j + 1], range(seed, seed + 1), args, steps)
            assert np.array_equal(alone[0, :, 0], together[i, :, j])


def test_summary_by_hand():
    """The best step size by the mean, and the gain over k = 0 at its own best."""
    args = tabular.Args(k=(0.0, 2.0), step_sizes=(0.1, 0.2), seeds=2)
    episodes = np.zeros((2, 4, 2, 2))
    episodes[0, :, 0], episodes[1, :, 0] = [10, 30], [10, 50]
    episodes[0, :, 1], episodes[1, :, 1] = [60, 1], [60, 2]
    table = tabular.summarise(episodes, args)
    assert [(row["steps"], row["k"]) for row in table[:3]] == [(500, 0.0), (500, 2.0), (1000, 0.0)]
    assert (table[0]["step_size"], table[0]["episodes"], table[0]["gain"]) == (0.2, 40.0, 0.0)
    assert (table[1]["step_size"], table[1]["episodes"], table[1]["gain"]) == (0.1, 60.0, pytest.approx(50.0))
    assert table[1]["gain_low"] == pytest.approx(20.0) and table[1]["gain_high"] == pytest.approx(100.0)


@pytest.mark.parametrize("target", ["max", "sarsa"])
def test_the_picture_shows_the_tables_runs(target):
    """A run's values after 500 and 1,000 steps are the same whatever other steps are looked at."""
    args, k, alpha, seeds = tabular.Args(target=target), np.array([0.0, 3.2]), np.array([0.7, 0.07]), range(3, 6)
    table = [q for _, q in tabular.simulate(k, alpha, seeds, args, tabular.STEPS)]
    picture = [q for _, q in tabular.simulate(k, alpha, seeds, args, tabular.PICTURE_STEPS)]
    assert tabular.STEPS[:2] == tabular.PICTURE_STEPS[1:] == (500, 1000)
    assert np.array_equal(table[0], picture[1]) and np.array_equal(table[1], picture[2])
    assert not np.array_equal(picture[0], picture[1])


def test_measures_of_values_by_hand():
    optimal = tabular.optimal_action_values(tabular.Args())
    states = np.arange(25) != 4
    q = np.stack([optimal, optimal])
    q[0, states] += 3  # too high by 3 everywhere in one run, too low by 1 in the other: they must not cancel
    q[1, states] -= 1
    measures = tabular.summarise_values(q, optimal)
    assert measures["rmse"] == pytest.approx(2) and measures["mean_error"] == pytest.approx(1)
    assert measures["rmse_low"] == pytest.approx(1) and measures["rmse_high"] == pytest.approx(3)
    assert measures["optimal_actions"] == 100
    np.testing.assert_allclose(measures["values"][states], optimal.max(1)[states] + 1)

    measures = tabular.summarise_values(np.zeros((2, 25, 4)), optimal)  # all actions tied
    # one of four actions is optimal, but two (up and right) on the diagonal from the start to the goal
    assert measures["optimal_actions"] == pytest.approx(100 * (20 * 1 / 4 + 4 * 2 / 4) / 24)
    assert measures["rmse"] == pytest.approx(np.sqrt((optimal.max(1)[states] ** 2).mean()))

    worst = -optimal
    worst[4] = 0
    assert tabular.summarise_values(worst[None], optimal)["optimal_actions"] == 0


def figure_of(monkeypatch, draw, *arguments):
    """The figure that `draw` saves."""
    figures = []
    monkeypatch.setattr(tabular.Figure, "savefig", lambda figure, path, **kwargs: figures.append(figure))
    draw(*arguments)
    assert len(figures) == 1
    return figures[0]


BASELINES = {"max": "Q-learning", "sarsa": "SARSA", "expected_sarsa": "expected SARSA"}


@pytest.mark.parametrize("flags", [{}, {"picture_k": 0.8, "target": "sarsa"}, {"target": "expected_sarsa"}])
def test_picture(flags, monkeypatch):
    """Six gridworlds and the optimal one: each cell's number and colour is the simulation's, on one scale."""
    args = tabular.Args(k=(0.0, 0.8, 3.2, 12.8), seeds=5, **flags)
    drawn = args.picture_k or 3.2  # the closest to 4
    seeds = range(1, 6)
    step_sizes = {0.0: 0.7, 0.8: 0.2, 3.2: 0.07, 12.8: 0.007}
    table = []  # only the row of 1,000 steps counts
    for steps, factor in ((500, 0.5), (1000, 1), (2500, 0.25), (5000, 0.1)):
        table += [{"steps": steps, "k": k, "step_size": factor * step_sizes[k]} for k in args.k]
    optimal = tabular.optimal_action_values(args)
    panels = tabular.value_panels(table, optimal, seeds, args)
    assert [(p["k"], p["step_size"], p["steps"]) for p in panels] == [
        (k, step_sizes[k], steps) for k in (0.0, drawn) for steps in (200, 500, 1000)
    ]
    figure = figure_of(monkeypatch, tabular.draw_values, panels, optimal.max(1), "values.png", args)
    grids = [axes for axes in figure.axes if axes.images]
    assert len(grids) == 7 and "5 runs" in figure.get_suptitle()

    shown = []
    for k in (0.0, drawn):
        for _, q in tabular.simulate(np.array([k]), np.array([step_sizes[k]]), seeds, args, (200, 500, 1000)):
            shown.append(q[:, 0].max(-1).mean(0))
    shown.append(optimal.max(1))
    for axes, values in zip(grids, shown, strict=True):
        assert np.array_equal(axes.images[0].get_array().ravel(), values)
        assert axes.images[0].get_clim() == (-max(abs(v).max() for v in shown), max(abs(v).max() for v in shown))
        numbers = {}
        for text in axes.texts:
            column, row = text.get_position()
            if text.get_text() == "start":
                assert (column, round(row)) == (0, 4)
            else:
                numbers[5 * row + column] = text.get_text()
        assert len(numbers) == 25 and len(axes.texts) == 26
        assert numbers.pop(4) == "goal"
        for state, number in numbers.items():
            assert abs(float(number) - values[state]) <= 0.05 + 1e-9
    for axes, panel, values in zip(grids, panels, shown, strict=False):
        assert np.array_equal(panel["values"], values)
        percent = f"{panel['optimal_actions']:.0f}%"
        assert f"RMSE {panel['rmse']:.2f}" in axes.get_xlabel() and percent in axes.get_xlabel()
    assert grids[0].get_ylabel().startswith(f"{BASELINES[args.target]}\n") and "with the layer" in grids[3].get_ylabel()
    assert f"k = {drawn:g}" in grids[3].get_ylabel()


@pytest.mark.parametrize("target", BASELINES)
def test_gains_are_drawn_as_in_the_table(target, monkeypatch):
    args = tabular.Args(k=(0.0, 0.8, 3.2), target=target)
    rng = np.random.default_rng(0)
    table = []
    for steps in tabular.STEPS:
        for k in args.k:
            low, gain, high = np.sort(rng.normal(size=3))
            table.append({"steps": steps, "k": k, "gain": gain, "gain_low": low, "gain_high": high})
    (axes,) = figure_of(monkeypatch, tabular.draw_gains, table, "tabular.png", args).axes
    for steps, line, band in zip(tabular.STEPS, axes.lines, axes.collections, strict=False):
        rows = [row for row in table if row["steps"] == steps and row["k"] > 0]
        assert line.get_label() == f"{steps:,} steps"
        assert line.get_xydata().tolist() == [[row["k"], row["gain"]] for row in rows]
        heights = set(band.get_paths()[0].vertices[:, 1])
        assert heights == {row[name] for row in rows for name in ("gain_low", "gain_high")}
    assert len(axes.collections) == 4 and f"than {BASELINES[target]} " in axes.get_ylabel()


PAGE = ROOT / "docs" / "tabular" / "sarsa.md"
CSVS = {"max": "step_reward", "sarsa": "sarsa_step_reward", "expected_sarsa": "expected_sarsa_step_reward"}


def committed(target, step_reward):
    """The rows of docs/tabular's CSV for this target and reward, by steps and k."""
    name = f"{CSVS[target]}_{'0' if step_reward == 0 else 'minus_1'}.csv"
    with open(PAGE.parent / name, newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return {(row["steps"], row["k"]): row for row in rows}


@pytest.mark.parametrize("target", CSVS)
@pytest.mark.parametrize("step_reward", [-1.0, 0.0])
def test_committed_tables_are_of_this_code(target, step_reward):
    """Episodes by 500 and 1,000 steps at the best step sizes, for two k: 128 seeds, to the last bit."""
    rows = committed(target, step_reward)
    assert len(rows) == 4 * 9
    cells = [(steps, k) for steps in (500, 1000) for k in (0.0, 3.2)]
    alpha = np.array([rows[cell]["step_size"] for cell in cells])
    args = tabular.Args(target=target, step_reward=step_reward)
    episodes = episodes_of(np.array([k for _, k in cells]), alpha, range(1, 129), args, (500, 1000)).mean(0)
    assert [episodes[0, 0], episodes[0, 1], episodes[1, 2], episodes[1, 3]] == [rows[c]["episodes"] for c in cells]


def test_tables_of_the_sarsa_page():
    lines = []
    for target in CSVS:
        for k in (0.0, 3.2):
            rows = [committed(target, -1.0)[steps, k] for steps in tabular.STEPS]
            cells = [f"{r['episodes']:.1f} ({r['episodes_low']:.1f} to {r['episodes_high']:.1f})" for r in rows]
            lines.append(" | ".join([f"| `{target}`", f"{k:g}", *cells]) + " |")
    for step_reward in (-1.0, 0.0):
        for target in CSVS:
            rows = [committed(target, step_reward)[steps, 3.2] for steps in tabular.STEPS]
            cells = [f"{r['gain']:+.1f} ({r['gain_low']:+.1f}, {r['gain_high']:+.1f})" for r in rows]
            lines.append(" | ".join([f"| {step_reward:g}", f"`{target}`", *cells]) + " |")
    assert [line for line in PAGE.read_text().splitlines() if re.match(r"\|.*\d\.\d", line)] == lines


def test_program_of_the_sarsa_page(monkeypatch):
    """It draws the gains of the three CSVs, a panel for each checkpoint."""
    monkeypatch.chdir(ROOT)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    panels = figure_of(monkeypatch, exec, program, {}).axes
    for axes, steps in zip(panels, tabular.STEPS, strict=True):
        assert axes.get_title() == f"{steps:,} steps"
        for target, line, band in zip(CSVS, axes.lines, axes.collections, strict=False):
            rows = [row for (at, k), row in committed(target, -1.0).items() if at == steps and k > 0]
            assert BASELINES[target] in line.get_label()
            np.testing.assert_allclose(line.get_xydata(), [[row["k"], row["gain"]] for row in rows], rtol=1e-12)
            heights = np.unique(band.get_paths()[0].vertices[:, 1].round(9))
            limits = [row[name] for row in rows for name in ("gain_low", "gain_high")]
            np.testing.assert_allclose(heights, np.unique(np.round(limits, 9)), rtol=0, atol=1e-8)


def test_command(tmp_path):
    """A small experiment: the table on the terminal, the same as CSV, the figure; k = 3.2 is ahead, as published."""
    result = run("tabular_mexp", "--k 0 3.2 --seeds 24 --step-sizes 0.1 0.2 0.4 0.7", cwd=tmp_path)
    with open(tmp_path / "tabular" / "tabular.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["steps"], row["k"]) for row in rows[:3]] == [("500", "0.0"), ("500", "3.2"), ("1000", "0.0")]
    assert (
        len(rows) == 8 and len([line for line in result.stdout.splitlines() if line.startswith("| ")]) == 2 + 8 + 2 + 6
    )
    for row in rows:
        assert f"{float(row['episodes']):.1f}" in result.stdout
    assert all(float(row["gain_low"]) > 0 for row in rows if row["k"] == "3.2")
    assert "Warning" not in result.stderr  # 0.7 diverges with k = 3.2, and that is no accident
    with open(tmp_path / "tabular" / "values.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    agents = [("0.0", "200"), ("0.0", "500"), ("0.0", "1000"), ("3.2", "200"), ("3.2", "500"), ("3.2", "1000")]
    assert [(row["k"], row["steps"]) for row in rows] == [*agents, ("optimal", "")]
    for row in rows[:-1]:
        line = f"| {float(row['k']):g} | {float(row['step_size']):.4f} | {row['steps']} | {float(row['rmse']):.2f} ("
        assert line in result.stdout and f"| {float(row['optimal_actions']):.1f}% (" in result.stdout
    for row in rows:
        values = [float(row[f"v_{state}"]) for state in range(25)]
        errors = [value - float(rows[-1][f"v_{state}"]) for state, value in enumerate(values) if state != 4]
        assert np.mean(errors) == pytest.approx(float(row["mean_error"]), abs=1e-9)
    optimal = [float(rows[-1][f"v_{state}"]) for state in range(25)]
    np.testing.assert_allclose(optimal, expected_values(optimal, -1.0, 5.0).max(1), atol=1e-10)
    for name in ("tabular.png", "values.png"):
        png = (tmp_path / "tabular" / name).read_bytes()
        assert png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) > 10_000


def test_divergence_is_told(tmp_path):
    """Where no step size fits the k, the table is there, and one line says why the picture is not."""
    result = run("tabular_mexp", "--k 0 12.8 --seeds 2 --step-sizes 0.9", cwd=tmp_path, check=False)
    assert result.returncode == 2 and "error: --step-sizes 0.9 make k = 12.8 diverge" in result.stderr
    assert "Warning" not in result.stderr
    assert sorted(path.name for path in (tmp_path / "tabular").iterdir()) == ["tabular.csv", "tabular.png"]


@pytest.mark.parametrize(
    "flags",
    [
        "--k 1 2",
        "--k 0",
        "--k 0 0",
        "--k 0 -1",
        "--k 0 inf",
        "--picture-k 0",
        "--picture-k 5",
        "--step-sizes 0 0.1",
        "--step-sizes 2",
        "--seeds 0",
        "--seed -1",
        "--step-reward nan",
        "--out file/x",
        "--target SARSA",
    ],
)
def test_bad_input(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit) as exit:
        tabular.check_args(tyro.cli(tabular.Args, args=flags.split()))
    error = capsys.readouterr().err
    assert exit.value.code == 2 and flags.split()[0] in error
    assert "target" in flags or len(error.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command_checks_its_flags(tmp_path):
    result = run("tabular_mexp", "--k 1 2", cwd=tmp_path, check=False)
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("error: --k 1.0 2.0") and not list(tmp_path.iterdir())
