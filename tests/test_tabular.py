"""IBQ(k) and its gridworld: against a plain loop, by hand, by value iteration, and the committed tables."""

import csv

import numpy as np
import pytest
import tyro
from helpers import ROOT, load, run

tabular = load("tabular_mexp")


def episodes_of(k, alpha, seeds, args, steps):
    """The episodes that `simulate` counted by each of `steps`, (len(seeds), len(steps), C)."""
    return np.stack([episodes for episodes, _ in tabular.simulate(k, alpha, seeds, args, steps)], axis=1)


@pytest.mark.parametrize("target_of", ["max", "expected_sarsa", "sarsa"])
@pytest.mark.parametrize("step_reward", [-1.0, 0.0])
@pytest.mark.parametrize("k", [0.0, 3.2])
def test_equals_a_plain_loop(k, step_reward, target_of):
    """One run, step for step, in scalar Python with the same random numbers; k = 0 is the textbook's Q-learning, or its
    SARSA (Sutton and Barto 2018, section 6.4), which draws the next action before it learns.

    Expected SARSA by the probabilities of the four actions, of which ties share the greedy one.
    """
    args, alpha, steps = tabular.Args(step_reward=step_reward, target=target_of), 0.1, 3000
    numbers = np.random.default_rng(11).random((steps + 1, 5)).tolist()
    table = [[0.0] * 4 for _ in range(25)]

    def values(state):
        z = table[state]
        return [value + k * (sum(z) / 4) for value in z]

    def choose(state, step):
        explore, random_action, tie, _, _ = numbers[step]
        q = values(state)
        best = [a for a in range(4) if q[a] == max(q)]
        return int(random_action * 4) if explore < 0.1 else best[int(tie * len(best))]

    state, action, episodes, marks = 20, choose(20, 0), 0, []
    for step in range(steps):
        _, _, _, slip, which = numbers[step]
        executed = (action + 1 + int(which * 3)) % 4 if slip < 0.25 else action
        row, column = divmod(state, 5)
        row, column = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)][executed]
        successor = min(max(row, 0), 4) * 5 + min(max(column, 0), 4)
        following = 20 if successor == 4 else successor
        next_action = choose(following, step + 1)
        q_next = values(successor)
        if successor == 4:
            target = 5.0
        elif target_of == "max":
            target = step_reward + 0.95 * max(q_next)
        elif target_of == "sarsa":
            target = step_reward + 0.95 * q_next[next_action]
        else:
            greedy = [0.1 / 4 + (q == max(q_next)) * 0.9 / q_next.count(max(q_next)) for q in q_next]
            target = step_reward + 0.95 * sum(p * q for p, q in zip(greedy, q_next, strict=True))
        move = alpha * (target - values(state)[action])
        for other in range(4):
            table[state][other] += move * k / 4
        table[state][action] += move
        episodes += successor == 4
        marks.append(episodes)
        state = following
        action = next_action if target_of == "sarsa" else choose(state, step + 1)
    got = list(tabular.simulate(np.array([k]), np.array([alpha]), range(11, 12), args, tuple(range(1, steps + 1))))
    assert marks[-1] > 50 and [episodes[0, 0] for episodes, _ in got] == marks
    np.testing.assert_allclose(got[-1][1][0, 0], [values(state) for state in range(25)], rtol=1e-12, atol=1e-12)


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


def test_picture(monkeypatch):
    """Six gridworlds and the optimal one: each cell's number and colour is the simulation's."""
    args = tabular.Args(k=(0.0, 0.8, 3.2, 12.8), seeds=5, target="sarsa")
    step_sizes = {0.0: 0.7, 0.8: 0.2, 3.2: 0.07, 12.8: 0.007}
    table = [{"steps": 500, "k": k, "step_size": 0.5} for k in args.k]  # only the row of 1,000 steps counts
    table += [{"steps": 1000, "k": k, "step_size": step_sizes[k]} for k in args.k]
    optimal = tabular.optimal_action_values(args)
    panels = tabular.value_panels(table, optimal, range(1, 6), args)
    figure = figure_of(monkeypatch, tabular.draw_values, panels, optimal.max(1), "values.png", args)
    shown = []
    for k in (0.0, 3.2):  # the closest to 4
        runs = tabular.simulate(np.array([k]), np.array([step_sizes[k]]), range(1, 6), args, (200, 500, 1000))
        shown += [q[:, 0].max(-1).mean(0) for _, q in runs]
    grids = [axes for axes in figure.axes if axes.images]
    for axes, values in zip(grids, [*shown, optimal.max(1)], strict=True):
        assert np.array_equal(axes.images[0].get_array().ravel(), values)
        numbers = [float(text.get_text()) for text in axes.texts if text.get_text() not in ("start", "goal")]
        np.testing.assert_allclose(numbers, np.delete(values, 4), rtol=0, atol=0.05 + 1e-9)


FOLDER = ROOT / "docs" / "tabular"
CSVS = {"max": "step_reward", "sarsa": "sarsa_step_reward", "expected_sarsa": "expected_sarsa_step_reward"}


def committed(target, step_reward):
    """The rows of docs/tabular's CSV for this target and reward, by steps and k."""
    name = f"{CSVS[target]}_{'0' if step_reward == 0 else 'minus_1'}.csv"
    with open(FOLDER / name, newline="") as file:
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


def test_command(tmp_path):
    """A small experiment: tables on the terminal, the same as CSV, figures; k = 3.2 is ahead, as published."""
    result = run("tabular_mexp", "--k 0 3.2 --seeds 24 --step-sizes 0.1 0.2 0.4 0.7", cwd=tmp_path)
    assert "Warning" not in result.stderr  # 0.7 diverges with k = 3.2, and that is no accident
    with open(tmp_path / "tabular" / "tabular.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["steps"], row["k"]) for row in rows[:3]] == [("500", "0.0"), ("500", "3.2"), ("1000", "0.0")]
    assert len(rows) == 8 and all(f"{float(row['episodes']):.1f}" in result.stdout for row in rows)
    assert all(float(row["gain_low"]) > 0 for row in rows if row["k"] == "3.2")
    with open(tmp_path / "tabular" / "values.csv", newline="") as file:
        *rows, optimal = csv.DictReader(file)
    assert [(row["k"], row["steps"]) for row in rows] == [
        (k, s) for k in ("0.0", "3.2") for s in ("200", "500", "1000")
    ]
    assert all(f" | {row['steps']} | {float(row['rmse']):.2f} (" in result.stdout for row in rows)
    values = [float(optimal[f"v_{state}"]) for state in range(25)]
    np.testing.assert_allclose(values, expected_values(values, -1.0, 5.0).max(1), atol=1e-10)
    for name in ("tabular.png", "values.png"):
        assert len((tmp_path / "tabular" / name).read_bytes()) > 10_000


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
        "--k 0 inf",
        "--picture-k 5",
        "--step-sizes 0 0.1",
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
