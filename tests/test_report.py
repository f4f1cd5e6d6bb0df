"""`report.py` on synthetic suites with known answers, unfinished, ragged and damaged ones, and its statistics."""

import csv
import json
import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, load
from rliable import library, metrics

report = load("report")
ARGS = SimpleNamespace(interval="bootstrap", reps=400, seed=1)
HEADER = (
    "step,episodes,score_mean,score_median,score_std,mean_q,mean_discounted_return,overestimation,action_gap,wall_time"
)
K = {"dqn": None, "dqn_mexp": 18.0, "iqn": None, "iqn_mexp": 18.0, "minatar_dqn": 0.0, "minatar_mexp": 3.0}


def make_run(root, env_id, agent, seed, scores, every=250_000, total=None, **args):
    """A run's two files; its overestimation is a tenth of its score, its action gap a hundredth."""
    folder = root / f"{env_id}__{agent}__{seed}__{len(list(root.rglob('config.json')))}"
    folder.mkdir(parents=True)
    args = {"exp_name": agent, "env_id": env_id, "seed": seed, "total_timesteps": total or every * len(scores)} | args
    if K.get(agent) is not None:
        args.setdefault("mean_scaling_coefficient", K[agent])
    (folder / "config.json").write_text(json.dumps({"args": args, "finished": True}))
    rows = [f"{every * (i + 1)},10,{s},{s},0,1,1,{s / 10},{s / 100},5.0" for i, s in enumerate(scores)]
    (folder / "eval.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


def make_report(root, *flags, check=True):
    command = [sys.executable, str(ROOT / "report.py"), str(root), "--out", str(root / "out"), "--reps", "200", *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not check or result.returncode == 0, result.stderr
    return result


def table(root, name):
    with open(root / "out" / name, newline="") as file:
        return list(csv.DictReader(file))


def assert_drawn(root, *names):
    """Every figure is there as PNG, with more than one colour, and as SVG, with paths."""
    for name in names:
        image = matplotlib.image.imread(root / "out" / f"{name}.png")
        assert len(np.unique(image[..., :3].reshape(-1, 3), axis=0)) > 20, f"{name} is empty"
        assert (root / "out" / f"{name}.svg").read_text().count("<path") > 5
        assert f"({name}.png)" in (root / "out" / "README.md").read_text()


# STATISTICS


def test_human_scores():
    assert len(report.HUMAN) == 57
    assert report.HUMAN["ALE/Breakout-v5"] == (1.7, 30.5) and report.HUMAN["ALE/Zaxxon-v5"] == (32.5, 9173.3)
    assert report.HUMAN["ALE/Skiing-v5"] == (-17098.1, -4336.9)
    assert all(low < high for low, high in report.HUMAN.values())
    assert report.normalised("ALE/Breakout-v5", np.array([1.7, 30.5, 16.1])) == pytest.approx([0, 1, 0.5])
    assert report.normalised("ALE/Skiing-v5", np.array([-17098.1 - 12761.2])) == pytest.approx([-1])


def test_aggregates_by_hand():
    """2 runs x 4 games at one step."""
    scores = np.array([[0.0, 2.0, 0.5, 9.0], [1.0, 4.0, 0.5, 1.0]])[:, :, None]
    mean, median, iqm, gap = report.aggregates(scores)[:, 0]
    assert mean == pytest.approx((0.5 + 3 + 0.5 + 5) / 4)
    assert median == pytest.approx((0.5 + 3) / 2)  # of the games' means 0.5, 0.5, 3, 5
    assert iqm == pytest.approx((0.5 + 1 + 1 + 2) / 4)  # of 0 .5 .5 1 1 2 4 9 the middle four
    assert gap == pytest.approx((1 + 0 + 0.5 + 0 + 0 + 0 + 0.5 + 0) / 8)


def test_aggregates_and_intervals_against_rliable():
    scores = np.random.default_rng(0).gamma(1.0, 1.0, size=(5, 7, 3))
    names = (metrics.aggregate_mean, metrics.aggregate_median, metrics.aggregate_iqm, metrics.aggregate_optimality_gap)
    for t in range(3):
        assert report.aggregates(scores)[:, t] == pytest.approx([name(scores[..., t]) for name in names])
    last = scores[..., 2:]
    points, intervals = report.estimates({"x": last}, lambda x: report.aggregates(x).ravel(), ARGS)
    np.random.seed(ARGS.seed)
    expected_points, expected = library.get_interval_estimates(
        {"x": last[..., 0]}, lambda x: np.array([name(x) for name in names]), reps=ARGS.reps
    )
    assert points["x"] == pytest.approx(expected_points["x"])
    np.testing.assert_allclose(intervals["x"], expected["x"])
    assert (expected["x"][0] < expected_points["x"]).all() and (expected_points["x"] < expected["x"][1]).all()
    _, curves = report.estimates({"x": scores}, lambda x: report.aggregates(x).ravel(), ARGS)
    np.testing.assert_allclose(curves["x"].reshape(2, 4, 3)[:, :, 2], expected["x"], atol=0.1)
    again = report.estimates({"x": scores}, lambda x: report.aggregates(x).ravel(), ARGS)[1]
    assert np.array_equal(again["x"], curves["x"]), "the same report every time"


def test_bands():
    two = np.array([[1.0, 5.0], [3.0, 5.0]])
    low, high = report.band(two, ARGS)  # the means of resamples are 1, 2 and 3 with 1/4, 1/2 and 1/4
    assert low.tolist() == [1.0, 5.0] and high.tolist() == [3.0, 5.0]
    many = np.random.default_rng(0).normal(10, 2, size=(100, 1))
    low, high = report.band(many, ARGS)
    assert low[0] == pytest.approx(many.mean() - 1.96 * 0.2, abs=0.12)
    assert high[0] == pytest.approx(many.mean() + 1.96 * 0.2, abs=0.12)
    low, high = report.band(many, SimpleNamespace(interval="minmax"))
    assert low[0] == many.min() and high[0] == many.max()
    assert report.band(two[:1], ARGS) is None


@pytest.mark.parametrize(
    "args,name",
    [
        ({"exp_name": "dqn_atari"}, "DQN"),
        ({"exp_name": "dqn", "env_id": "ALE/Pong-v5"}, "DQN"),
        ({"exp_name": "dqn_atari_mexp", "mean_scaling_coefficient": 18.0}, "IB-DQN"),
        ({"exp_name": "dqn_mexp", "mean_scaling_coefficient": 18.0}, "IB-DQN"),
        ({"exp_name": "iqn_atari"}, "IQN"),
        ({"exp_name": "iqn_atari_mexp", "mean_scaling_coefficient": 2.0}, "IB-IQN"),
        ({"exp_name": "minatar_mexp", "mean_scaling_coefficient": 3.0}, "IB-DQN"),
        ({"exp_name": "minatar_mexp", "mean_scaling_coefficient": 0.0}, "DQN"),
        ({"exp_name": "minatar_dqn", "mean_scaling_coefficient": 0.0}, "DQN"),
        ({"exp_name": "my_fork"}, "my_fork"),
    ],
)
def test_names_of_agents(args, name):
    assert report.agent_name(args) == name


# SUITES


def test_suite_with_known_answers(tmp_path):
    """Two games with a human score: DQN ends at the random policy's, IB-DQN at a human's."""
    for game, seed in product(("Breakout", "Pong"), (1, 2, 3)):
        low, high = report.HUMAN[f"ALE/{game}-v5"]
        make_run(tmp_path, f"ALE/{game}-v5", "dqn", seed, [low, low])
        make_run(tmp_path, f"ALE/{game}-v5", "dqn_mexp", seed, [low, high])
    result = make_report(tmp_path)
    assert "warning" not in result.stderr
    aggregates = {row["agent"]: row for row in table(tmp_path, "aggregates.csv")}
    for name, (plain, modified) in {"mean": (0, 1), "median": (0, 1), "IQM": (0, 1), "optimality gap": (1, 0)}.items():
        for agent, value in (("DQN", plain), ("IB-DQN", modified)):
            row = aggregates[agent]
            assert [float(row[name + end]) for end in ("", " low", " high")] == pytest.approx([value] * 3, abs=1e-9)
            assert (row["games"], row["runs"], row["steps"]) == ("2", "3", "500000")
    (improvement,) = table(tmp_path, "improvement.csv")
    assert float(improvement["probability"]) == 1 and (improvement["agent"], improvement["baseline"]) == (
        "IB-DQN",
        "DQN",
    )
    games = {(row["game"], row["agent"]): row for row in table(tmp_path, "games.csv")}
    row = games["ALE/Breakout-v5", "IB-DQN"]
    assert (row["runs"], row["steps"], row["evaluations"]) == ("3", "500000", "2")
    assert float(row["final_score"]) == 30.5 and float(row["auc"]) == pytest.approx((1.7 + 30.5) / 2)
    assert float(row["overestimation"]) == pytest.approx(3.05) and float(row["human_normalised"]) == 1
    assert float(row["action_gap"]) == pytest.approx(0.305)
    names = ["learning_curves", "overestimation", "action_gap", "normalised_curves", "aggregates", "improvement"]
    assert_drawn(tmp_path, *names, "change_ib_dqn_dqn")
    assert "| Breakout | IB-DQN | 3 | 500,000 | 30.5 (30.5, 30.5) |" in (tmp_path / "out" / "README.md").read_text()


def test_only_config_and_eval_are_read(tmp_path):
    folder = make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0])
    (folder / "checkpoint.pt").write_bytes(b"damaged"), (folder / "events.out").write_bytes(b"damaged")
    assert "1 runs, 1 games" in make_report(tmp_path).stdout


def test_unequal_lengths(tmp_path):
    """Compared up to what all runs of a game share, aggregates up to what all games share."""
    for game, seed in product(("Breakout", "Pong"), (1, 2)):
        for agent in ("dqn", "dqn_mexp"):
            length = 3 if (game, agent, seed) == ("Pong", "dqn_mexp", 2) else 5
            make_run(tmp_path, f"ALE/{game}-v5", agent, seed, [float(i) for i in range(length)], total=2_500_000)
    text = make_report(tmp_path).stderr
    assert "ALE/Pong-v5: compared up to 750,000 steps" in text and "dqn_mexp__2" in text
    assert "ALE/Breakout-v5: its runs have come to 1,250,000 of 2,500,000 steps" in text
    steps = {row["game"]: (row["steps"], row["final_score"]) for row in table(tmp_path, "games.csv")}
    assert steps == {"ALE/Breakout-v5": ("1250000", "4.0"), "ALE/Pong-v5": ("750000", "2.0")}
    assert {row["steps"] for row in table(tmp_path, "aggregates.csv")} == {"750000"}
    assert "compared up to 750,000 steps" in (tmp_path / "out" / "README.md").read_text()


def test_missing_seeds_and_games(tmp_path):
    for seed in (1, 2, 3):
        make_run(tmp_path, "ALE/Pong-v5", "dqn", seed, [float(seed)])
        make_run(tmp_path, "ALE/Pong-v5", "dqn_mexp", seed, [float(seed)])
        make_run(tmp_path, "ALE/Qbert-v5", "dqn", seed, [float(seed)])
    make_run(tmp_path, "ALE/Breakout-v5", "dqn", 1, [5.0])
    make_run(tmp_path, "ALE/Breakout-v5", "dqn", 2, [5.0])
    for seed in (1, 2, 3):
        make_run(tmp_path, "ALE/Breakout-v5", "dqn_mexp", seed, [9.0])
    text = make_report(tmp_path).stderr
    assert "ALE/Qbert-v5 has no runs of IB-DQN" in text and "Aggregates use 2 runs a game of DQN" in text
    rows = {row["agent"]: (row["games"], row["runs"]) for row in table(tmp_path, "aggregates.csv")}
    assert rows == {"DQN": ("2", "2"), "IB-DQN": ("2", "3")}
    runs = {(row["game"], row["agent"]): row["runs"] for row in table(tmp_path, "games.csv")}
    assert runs["ALE/Pong-v5", "DQN"] == "3" and runs["ALE/Breakout-v5", "DQN"] == "2" and len(runs) == 5


def test_one_seed(tmp_path):
    for agent in ("iqn", "iqn_mexp"):
        make_run(tmp_path, "ALE/Pong-v5", agent, 1, [1.0, 2.0])
    make_report(tmp_path)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "(One run a game: no intervals.)" in text and "Where there is one run there is no band." in text
    assert "| Pong | IQN | 1 | 500,000 | 2 | 1.5 |" in text
    assert table(tmp_path, "aggregates.csv")[0]["mean low"] == ""
    assert_drawn(tmp_path, "learning_curves", "normalised_curves", "aggregates", "improvement", "change_ib_iqn_iqn")


@pytest.mark.parametrize("flags,ends", [((), ("8.0", "12.0")), (("--interval", "minmax"), ("8.0", "12.0"))])
def test_games_without_a_human_score(flags, ends, tmp_path):
    for seed in (1, 2):
        make_run(tmp_path, "MinAtar/Breakout-v1", "minatar_dqn", seed, [1.0, 4.0 + 4.0 * seed], every=100_000)
        make_run(tmp_path, "MinAtar/Breakout-v1", "minatar_mexp", seed, [1.0, 15.0], every=100_000)
    make_report(tmp_path, *flags)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "raw scores only" in text and not (tmp_path / "out" / "aggregates.csv").exists()
    plain, modified = table(tmp_path, "games.csv")
    assert (plain["agent"], modified["agent"]) == ("DQN", "IB-DQN") and "human_normalised" not in plain
    assert (plain["final_score"], plain["final_score_low"], plain["final_score_high"]) == ("10.0", *ends)
    assert_drawn(tmp_path, "learning_curves", "overestimation", "action_gap", "improvement", "change_ib_dqn_dqn_raw")
    assert ("least and greatest run" in text) == bool(flags)


def test_atari_and_minatar_games_of_one_name_stay_apart(tmp_path):
    for agent in ("dqn", "dqn_mexp"):
        make_run(tmp_path, "BreakoutNoFrameskip-v4", agent, 1, [30.5])
    for agent in ("minatar_dqn", "minatar_mexp"):
        make_run(tmp_path, "MinAtar/Breakout-v1", agent, 1, [7.0])
    make_report(tmp_path)
    rows = {(row["game"], row["agent"]): row["human_normalised"] for row in table(tmp_path, "games.csv")}
    assert rows["ALE/Breakout-v5", "DQN"] == "1.0" and rows["MinAtar/Breakout-v1", "DQN"] == ""


def test_damaged_folders_are_named(tmp_path):
    damage = {
        "no_config": lambda f: (f / "config.json").unlink(),
        "cut_config": lambda f: (f / "config.json").write_text('{"args": {'),
        "other_config": lambda f: (f / "config.json").write_text('{"args": {"seed": 3}}'),
        "list_config": lambda f: (f / "config.json").write_text("[]"),
        "empty_csv": lambda f: (f / "eval.csv").write_text(""),
        "only_header": lambda f: (f / "eval.csv").write_text(HEADER + "\n"),
        "cut_row": lambda f: (f / "eval.csv").write_text(HEADER + "\n1,2,3\n"),
        "words": lambda f: (f / "eval.csv").write_text(HEADER + "\n1,2,three,4,5,6,7,8,9,10\n"),
        "binary": lambda f: (f / "eval.csv").write_bytes(bytes(range(256))),
        "twice": lambda f: (f / "eval.csv").write_text(HEADER + "\n" + "5,2,3,4,5,6,7,8,9,10\n" * 2),
        "backwards": lambda f: (f / "eval.csv").write_text(HEADER + "\n6,2,3,4,5,6,7,8,9,10\n5,2,3,4,5,6,7,8,9,10\n"),
    }
    for i, (name, hurt) in enumerate(damage.items()):
        folder = make_run(tmp_path / name, "ALE/Pong-v5", "dqn", 10 + i, [1.0])
        hurt(folder)
    young = make_run(tmp_path / "young", "ALE/Pong-v5", "dqn", 50, [1.0])
    (young / "eval.csv").unlink()
    result = make_report(tmp_path, check=False)
    assert result.returncode == 2 and "no run with an evaluation" in result.stderr and "Traceback" not in result.stderr
    make_run(tmp_path / "good", "ALE/Pong-v5", "dqn", 1, [1.0])
    result = make_report(tmp_path)
    assert "1 runs, 1 games" in result.stdout
    notes = (tmp_path / "out" / "README.md").read_text()
    for name in damage:
        line = next(line for line in result.stderr.splitlines() if f"/{name}/" in line)
        assert "is damaged" in line and line.startswith("warning:") and line.removeprefix("warning: ") in notes
    assert next(line for line in result.stderr.splitlines() if "/young/" in line).endswith("not been evaluated yet.")


def test_of_two_runs_of_a_seed_the_longer_counts(tmp_path):
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0, 2.0, 3.0])
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [9.0])
    result = make_report(tmp_path)
    assert "another run of ALE/Pong-v5, DQN, seed 1 is as long or longer" in result.stderr
    assert [(row["runs"], row["final_score"]) for row in table(tmp_path, "games.csv")] == [("1", "3.0")]
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [4.0, 5.0, 6.0])
    make_report(tmp_path)
    assert [row["final_score"] for row in table(tmp_path, "games.csv")] == ["6.0"], "of equals the newer"


def test_ablation_and_other_settings(tmp_path):
    for k, score in ((1.0, 5.0), (18.0, 6.0)):
        make_run(tmp_path, "ALE/Pong-v5", "dqn_mexp", 1, [score], mean_scaling_coefficient=k)
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [4.0], learning_rate=1e-3)
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 2, [4.0], learning_rate=1e-4)
    make_run(tmp_path, "ALE/Pong-v5", "my_fork", 1, [7.0])
    result = make_report(tmp_path)
    assert "The runs of DQN differ in `--learning-rate`" in result.stderr
    scores = {row["agent"]: row["final_score"] for row in table(tmp_path, "games.csv")}
    assert scores == {"DQN": "4.0", "IB-DQN(1)": "5.0", "IB-DQN(18)": "6.0", "my_fork": "7.0"}
    assert {row["agent"] for row in table(tmp_path, "improvement.csv")} == {"IB-DQN(1)", "IB-DQN(18)", "my_fork"}


def test_colours(tmp_path):
    """An agent has one colour, whoever it is drawn with."""
    for agents in (["dqn", "iqn_mexp"], ["iqn_mexp"], ["dqn", "dqn_mexp", "iqn", "iqn_mexp", "a", "b"]):
        rows = [
            dict(game="g", agent=report.agent_name({"exp_name": a, "mean_scaling_coefficient": K.get(a)}), run=a)
            for a in agents
        ]
        data = pd.DataFrame(rows).assign(step=1, seed=1, total=1, score_mean=1.0, overestimation=1.0, action_gap=1.0)
        colours = report.Study(data, []).colours
        assert {name: colours[name] for name in report.COLOURS} == report.COLOURS
        assert len({colours[agent] for agent in set(data["agent"])}) == len(agents)


def test_bad_input(tmp_path):
    for flags in ([str(tmp_path / "nothing")], [str(tmp_path)], [str(tmp_path), "--reps", "0"]):
        result = subprocess.run([sys.executable, str(ROOT / "report.py"), *flags], capture_output=True, text=True)
        assert result.returncode == 2 and result.stderr.startswith("error: ") and "Traceback" not in result.stderr
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0])
    result = make_report(tmp_path, "--out", "/proc/none", check=False)
    assert result.returncode == 2 and "--out /proc/none" in result.stderr and "Traceback" not in result.stderr
