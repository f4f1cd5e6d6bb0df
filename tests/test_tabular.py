"""IBQ(k) and its gridworld: by hand, by counting, by value iteration, and against a plain Q-learning loop."""

import csv

import numpy as np
import pytest
from conftest import load, run

tabular = load("tabular_mexp")

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
    z, actions, steps = rng.normal(size=(50, n)), rng.integers(n, size=50), rng.normal(size=50)
    matrix = np.eye(n) + k / n
    moved = (tabular.update(z, np.full(50, k), actions, steps) - z) @ matrix.T
    np.testing.assert_allclose(moved, steps[:, None] * (matrix @ matrix.T)[:, actions].T, atol=1e-12 * (k + 1) ** 2)
    square = (2 * k + k * k) / n
    np.testing.assert_allclose(moved[np.arange(50), actions], steps * (1 + square), atol=1e-10)


@pytest.mark.parametrize("step_reward", [-1.0, 0.0])
@pytest.mark.parametrize("k", [0.0, 3.2])
def test_equals_a_plain_loop(k, step_reward):
    """One run, step for step, in scalar Python with the same random numbers; k = 0 is plain Q-learning."""
    args, alpha, steps = tabular.Args(step_reward=step_reward), 0.1, 3000
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
            target = step_reward + 0.95 * (max(following) + k * (sum(following) / 4))
        step = alpha * (target - q[action])
        for other in range(4):
            z[other] += step * k / 4
        z[action] += step
        episodes += successor == 4
        state = 20 if successor == 4 else successor
        marks.append(episodes)
    got = tabular.simulate(np.array([k]), np.array([alpha]), range(11, 12), args, tuple(range(1, steps + 1)))
    assert marks[-1] > 50 and got[0, :, 0].tolist() == marks


def test_optimal_values_are_learned():
    """With small steps and much time, the greedy policy of IBQ(k) is that of value iteration."""
    table, values = tabular.transitions(), np.zeros(25)
    for _ in range(500):
        after = np.where(table == 4, 5.0, -1.0 + 0.95 * values[table])
        q = 0.75 * after + 0.25 / 3 * (after.sum(1, keepdims=True) - after)
        values = q.max(1)
    assert values[3] > values[8] > values[20]
    assert values[9] == pytest.approx(values[3]) and values[14] == pytest.approx(values[2])  # the grid's symmetry
    policy = q.argmax(1)
    episodes, state = [], 20
    rng = np.random.default_rng(0)
    steps = 0
    while len(episodes) < 3000:
        executed = tabular.executed_actions(policy[[state]], rng.random(1), rng.random(1))[0]
        state, steps = table[state, executed], steps + 1
        if state == 4:
            episodes.append(steps)
            state, steps = 20, 0
    optimal = np.mean(episodes)
    for k in (0.0, 3.2):  # epsilon-greedy Q-learning comes close to the optimal policy's rate, and cannot beat it
        counts = tabular.simulate(np.array([k]), np.array([0.1]), range(8), tabular.Args(), (15_000, 20_000))[:, :, 0]
        rate = 5000 / (counts[:, 1] - counts[:, 0]).mean()
        assert optimal < rate < 1.35 * optimal


def test_pairs_and_seeds_do_not_touch_each_other():
    args, steps = tabular.Args(), (500, 1500)
    k, alpha = np.array([0.0, 0.0, 3.2]), np.array([0.1, 0.5, 0.1])
    together = tabular.simulate(k, alpha, range(4, 7), args, steps)
    assert together.shape == (3, 2, 3)
    for i, seed in enumerate(range(4, 7)):
        for j in range(3):
            alone = tabular.simulate(k[j : j + 1], alpha[j : j + 1], range(seed, seed + 1), args, steps)
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


def test_command(tmp_path):
    """A small experiment: the table on the terminal, the same as CSV, the figure; k = 3.2 is ahead, as published."""
    result = run("tabular_mexp", "--k 0 3.2 --seeds 24 --step-sizes 0.1 0.2 0.4 0.7", cwd=tmp_path)
    with open(tmp_path / "tabular" / "tabular.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["steps"], row["k"]) for row in rows[:3]] == [("500", "0.0"), ("500", "3.2"), ("1000", "0.0")]
    assert len(rows) == 8 and len([line for line in result.stdout.splitlines() if line.startswith("| ")]) == 10
    for row in rows:
        assert f"{float(row['episodes']):.1f}" in result.stdout
    assert all(float(row["gain_low"]) > 0 for row in rows if row["k"] == "3.2")
    png = (tmp_path / "tabular" / "tabular.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) > 10_000


@pytest.mark.parametrize(
    "flags",
    ["--k 1 2", "--k 0", "--k 0 -1", "--step-sizes 0 0.1", "--step-sizes 2", "--seeds 0", "--seed -1", "--out file/x"],
)
def test_bad_input(flags, tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = run("tabular_mexp", flags, cwd=tmp_path, check=False)
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith(f"error: {flags.split()[0]}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
