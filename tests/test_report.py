"""`report.py` on synthetic suites with known answers, unfinished, ragged and damaged ones, and its statistics."""

import csv
import filecmp
import json
import re
import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import matplotlib.image
import matplotlib.pyplot as plt
import minatar
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
    if not env_id.startswith("MinAtar/"):
        args.setdefault("full_action_space", True)
    (folder / "config.json").write_text(json.dumps({"args": args, "finished": True}))
    rows = [f"{every * (i + 1)},10,{s},{s},0,1,1,{s / 10},{s / 100},5.0" for i, s in enumerate(scores)]
    (folder / "eval.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


@pytest.fixture
def make_report(monkeypatch, capsys):
    """A function that makes the report of the runs below a folder, in this process; figures are saved if `draw`."""
    save = report.save

    def make_report(root, *flags, check=True, draw=False):
        argv = ["report.py", str(root), "--out", str(root / "out"), "--reps", "200", *flags]
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.setattr(report, "save", save if draw else lambda figure, out, name: plt.close(figure))
        capsys.readouterr()
        code = 0
        try:
            report.main()
        except SystemExit as exit:
            code = exit.code
        stdout, stderr = capsys.readouterr()
        assert not check or code == 0, stderr
        assert not plt.get_fignums(), "every figure is closed"
        return SimpleNamespace(returncode=code, stdout=stdout, stderr=stderr)

    return make_report


def run_report(*flags):
    """The program as a user starts it."""
    command = [sys.executable, str(ROOT / "report.py"), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


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


def test_probability_of_improvement_against_rliable():
    generator = np.random.default_rng(0)
    for runs, other_runs, games in ((3, 5, 7), (1, 1, 2), (4, 4, 1)):
        x = generator.integers(0, 4, size=(runs, games)).astype(float)  # with ties
        y = generator.integers(0, 4, size=(other_runs, games)).astype(float)
        expected = metrics.probability_of_improvement(x, y)
        assert report.probability_of_improvement(x, y) == pytest.approx([expected], abs=1e-12)
    assert report.probability_of_improvement(np.array([[2.0], [0.0]]), np.array([[1.0], [0.0]])) == [(2 + 0.5) / 4]


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
    "exp_name,k,n,name",
    [
        ("dqn_atari", None, 18, "DQN"),
        ("dqn", None, None, "DQN"),
        ("iqn_atari", None, 18, "IQN"),
        ("minatar_dqn", 0.0, 3, "DQN"),
        ("minatar_mexp", 0.0, 3, "DQN"),
        ("dqn_atari_mexp", 0.0, 18, "DQN"),
        ("dqn_atari_mexp", 18.0, 18, "IB-DQN(n)"),
        ("dqn_mexp", 18.0, 18, "IB-DQN(n)"),
        ("minatar_mexp", 3.0, 3, "IB-DQN(n)"),
        ("iqn_atari_mexp", 2.0, 18, "IB-IQN(2)"),
        ("iqn_mexp", 36.0, 18, "IB-IQN(2n)"),
        ("dqn_mexp", 1.0, 18, "IB-DQN(1)"),
        ("dqn_mexp", 0.5, 18, "IB-DQN(0.5)"),
        ("dqn_mexp", 72.0, 18, "IB-DQN(4n)"),
        ("dqn_mexp", 27.0, 18, "IB-DQN(27)"),
        ("dqn_mexp", 18.0, None, "IB-DQN(18)"),
        ("my_fork", 18.0, 18, "my_fork"),
    ],
)
def test_names_of_agents(exp_name, k, n, name):
    args = {"exp_name": exp_name}
    if k is not None:
        args["mean_scaling_coefficient"] = k
    assert report.agent_name(args, n) == name


@pytest.mark.parametrize(
    "env_id,config,n",
    [
        ("ALE/Pong-v5", {"num_actions": 6, "args": {"full_action_space": True}}, 6),
        ("ALE/Pong-v5", {"args": {"full_action_space": True}}, 18),
        ("ALE/Pong-v5", {"args": {"full_action_space": False}}, None),
        ("PongNoFrameskip-v4", {"args": {"full_action_space": True}}, 18),
        ("Pong-v5", {"args": {"full_action_space": True}}, 18),
        ("MinAtar/Seaquest-v1", {"args": {}}, 6),
        ("MinAtar/Seaquest-v0", {"args": {}}, None),
        ("CartPole-v1", {"args": {}}, None),
    ],
)
def test_number_of_actions(env_id, config, n):
    assert report.num_actions(config, report.canonical_game(env_id)) == n


def test_number_of_actions_of_minatar():
    """The table for runs whose config.json does not tell."""
    for game, n in report.MINATAR_ACTIONS.items():
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", game).lower()  # space_invaders
        assert n == len(minatar.Environment(name).minimal_action_set())


# SUITES


def test_suite_with_known_answers(tmp_path, make_report):
    """Two games with a human score: DQN ends at the random policy's, IB-DQN at a human's."""
    for game, seed in product(("Breakout", "Pong"), (1, 2, 3)):
        low, high = report.HUMAN[f"ALE/{game}-v5"]
        make_run(tmp_path, f"ALE/{game}-v5", "dqn", seed, [low, low])
        make_run(tmp_path, f"ALE/{game}-v5", "dqn_mexp", seed, [low, high])
    result = make_report(tmp_path, draw=True)
    assert "warning" not in result.stderr
    aggregates = {row["agent"]: row for row in table(tmp_path, "aggregates.csv")}
    for name, (plain, modified) in {"mean": (0, 1), "median": (0, 1), "IQM": (0, 1), "optimality gap": (1, 0)}.items():
        for agent, value in (("DQN", plain), ("IB-DQN(n)", modified)):
            row = aggregates[agent]
            assert [float(row[name + end]) for end in ("", " low", " high")] == pytest.approx([value] * 3, abs=1e-9)
            assert (row["games"], row["runs"], row["steps"]) == ("2", "3", "500000")
    (improvement,) = table(tmp_path, "improvement.csv")
    assert (improvement["agent"], improvement["baseline"]) == ("IB-DQN(n)", "DQN")
    assert float(improvement["probability"]) == 1
    games = {(row["game"], row["agent"]): row for row in table(tmp_path, "games.csv")}
    row = games["ALE/Breakout-v5", "IB-DQN(n)"]
    assert (row["runs"], row["steps"], row["evaluations"]) == ("3", "500000", "2")
    assert float(row["final_score"]) == 30.5 and float(row["auc"]) == pytest.approx((1.7 + 30.5) / 2)
    assert float(row["overestimation"]) == pytest.approx(3.05) and float(row["human_normalised"]) == 1
    assert float(row["action_gap"]) == pytest.approx(0.305)
    names = ["learning_curves", "overestimation", "action_gap", "normalised_curves", "aggregates", "improvement"]
    assert_drawn(tmp_path, *names, "change_ib_dqn_n_dqn")
    assert "| Breakout | IB-DQN(n) | 3 | 500,000 | 30.5 (30.5, 30.5) |" in (tmp_path / "out" / "README.md").read_text()


def test_the_same_runs_give_the_same_report(tmp_path, make_report):
    """Byte for byte, from a program of its own too: neither the process nor the time leaves a trace."""
    for seed, agent in product((1, 2), ("minatar_dqn", "minatar_mexp")):
        make_run(tmp_path, "MinAtar/Breakout-v1", agent, seed, [1.0, 2.0 + seed], every=100_000)
    make_report(tmp_path, draw=True)
    first = tmp_path / "out"
    second = tmp_path / "again"
    result = run_report(tmp_path, "--out", second, "--reps", 200)
    assert result.returncode == 0 and f"{second}/README.md: 4 runs, 1 games" in result.stdout, result.stderr
    names = sorted(path.name for path in first.iterdir())
    assert len(names) == 13 and names == sorted(path.name for path in second.iterdir())
    assert filecmp.cmpfiles(first, second, names, shallow=False) == (names, [], [])


@pytest.mark.parametrize("folder,flags", [("minatar", ["--interval", "minmax"]), ("atari", [])])
def test_committed_evidence(folder, flags, tmp_path, make_report):
    """The tables under docs/ are those of the runs beside them."""
    out = tmp_path / "out"
    committed = ROOT / "docs" / folder / "report"
    make_report(ROOT / "docs" / folder, "--out", str(out), "--reps", "2000", *flags)
    names = ["README.md", *sorted(path.name for path in committed.glob("*.csv"))]
    assert names == ["README.md", *sorted(path.name for path in out.glob("*.csv"))]
    assert filecmp.cmpfiles(out, committed, names, shallow=False) == (names, [], [])
    drawn = re.findall(r"\((\w+)\.png\)", (committed / "README.md").read_text())
    pictures = [f"{name}.{suffix}" for name in drawn for suffix in ("png", "svg")]
    assert sorted(path.name for path in committed.iterdir()) == sorted([*names, *pictures]), "nothing stale"


def test_only_config_and_eval_are_read(tmp_path, make_report):
    folder = make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0])
    (folder / "checkpoint.pt").write_bytes(b"damaged")
    (folder / "events.out").write_bytes(b"damaged")
    assert "1 runs, 1 games" in make_report(tmp_path).stdout


def test_unequal_lengths(tmp_path, make_report):
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


def test_missing_seeds_and_games(tmp_path, make_report):
    for seed in (1, 2, 3):
        make_run(tmp_path, "ALE/Pong-v5", "dqn", seed, [float(seed)])
        make_run(tmp_path, "ALE/Pong-v5", "dqn_mexp", seed, [float(seed)])
        make_run(tmp_path, "ALE/Qbert-v5", "dqn", seed, [float(seed)])
    make_run(tmp_path, "ALE/Breakout-v5", "dqn", 1, [5.0])
    make_run(tmp_path, "ALE/Breakout-v5", "dqn", 2, [5.0])
    for seed in (1, 2, 3):
        make_run(tmp_path, "ALE/Breakout-v5", "dqn_mexp", seed, [9.0])
    text = make_report(tmp_path).stderr
    assert "ALE/Qbert-v5 has no runs of IB-DQN(n)" in text and "Aggregates use 2 runs a game of DQN" in text
    rows = {row["agent"]: (row["games"], row["runs"]) for row in table(tmp_path, "aggregates.csv")}
    assert rows == {"DQN": ("2", "2"), "IB-DQN(n)": ("2", "3")}
    runs = {(row["game"], row["agent"]): row["runs"] for row in table(tmp_path, "games.csv")}
    assert runs["ALE/Pong-v5", "DQN"] == "3" and runs["ALE/Breakout-v5", "DQN"] == "2" and len(runs) == 5


def test_one_seed(tmp_path, make_report):
    for agent in ("iqn", "iqn_mexp"):
        make_run(tmp_path, "ALE/Pong-v5", agent, 1, [1.0, 2.0])
    make_report(tmp_path, draw=True)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "One run a game: no intervals." in text and "Where there is one run there is no band." in text
    assert "| Pong | IQN | 1 | 500,000 | 2 | 1.5 |" in text
    assert table(tmp_path, "aggregates.csv")[0]["mean low"] == ""
    assert_drawn(tmp_path, "learning_curves", "normalised_curves", "aggregates", "improvement", "change_ib_iqn_n_iqn")


@pytest.mark.parametrize("flags,ends", [((), ("8.0", "12.0")), (("--interval", "minmax"), ("8.0", "12.0"))])
def test_games_without_a_human_score(flags, ends, tmp_path, make_report):
    for seed in (1, 2):
        make_run(tmp_path, "MinAtar/Breakout-v1", "minatar_dqn", seed, [1.0, 4.0 + 4.0 * seed], every=100_000)
        make_run(tmp_path, "MinAtar/Breakout-v1", "minatar_mexp", seed, [1.0, 15.0], every=100_000)
    make_report(tmp_path, *flags, draw=True)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "raw scores only" in text and not (tmp_path / "out" / "aggregates.csv").exists()
    plain, modified = table(tmp_path, "games.csv")
    assert (plain["agent"], modified["agent"]) == ("DQN", "IB-DQN(n)") and "human_normalised" not in plain
    assert (plain["final_score"], plain["final_score_low"], plain["final_score_high"]) == ("10.0", *ends)
    names = ["learning_curves", "overestimation", "action_gap", "improvement", "change_ib_dqn_n_dqn_raw"]
    assert_drawn(tmp_path, *names)
    assert ("least and greatest run" in text) == bool(flags)


def test_atari_and_minatar_games_of_one_name_stay_apart(tmp_path, make_report):
    for agent in ("dqn", "dqn_mexp"):
        make_run(tmp_path, "BreakoutNoFrameskip-v4", agent, 1, [30.5])
    for agent in ("minatar_dqn", "minatar_mexp"):
        make_run(tmp_path, "MinAtar/Breakout-v1", agent, 1, [7.0])
    make_report(tmp_path)
    rows = {(row["game"], row["agent"]): row["human_normalised"] for row in table(tmp_path, "games.csv")}
    assert rows["ALE/Breakout-v5", "DQN"] == "1.0" and rows["MinAtar/Breakout-v1", "DQN"] == ""


def test_damaged_folders_are_named(tmp_path, make_report):
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
    assert result.returncode == 2 and "no run with an evaluation" in result.stderr
    make_run(tmp_path / "good", "ALE/Pong-v5", "dqn", 1, [1.0])
    result = make_report(tmp_path)
    assert "1 runs, 1 games" in result.stdout
    notes = (tmp_path / "out" / "README.md").read_text()
    for name in damage:
        line = next(line for line in result.stderr.splitlines() if f"/{name}/" in line)
        assert "is damaged" in line and line.startswith("warning:") and line.removeprefix("warning: ") in notes
    assert next(line for line in result.stderr.splitlines() if "/young/" in line).endswith("not been evaluated yet.")


def test_of_two_runs_of_a_seed_the_longer_counts(tmp_path, make_report):
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0, 2.0, 3.0])
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [9.0])
    result = make_report(tmp_path)
    assert "another run of ALE/Pong-v5, DQN, seed 1 is as long or longer" in result.stderr
    assert [(row["runs"], row["final_score"]) for row in table(tmp_path, "games.csv")] == [("1", "3.0")]
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [4.0, 5.0, 6.0])
    make_report(tmp_path)
    assert [row["final_score"] for row in table(tmp_path, "games.csv")] == ["6.0"], "of equals the newer"


def test_ablation_and_other_settings(tmp_path, make_report):
    for k, score in ((1.0, 5.0), (18.0, 6.0), (72.0, 6.5), (100.0, 6.7), (9.0, 5.5)):
        make_run(tmp_path, "ALE/Pong-v5", "dqn_mexp", 1, [score], mean_scaling_coefficient=k)
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [4.0], learning_rate=1e-3)
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 2, [4.0], learning_rate=1e-4)
    make_run(tmp_path, "ALE/Pong-v5", "my_fork", 1, [7.0])
    result = make_report(tmp_path)
    assert "The runs of DQN differ in `--learning-rate`." in result.stderr
    scores = {row["agent"]: row["final_score"] for row in table(tmp_path, "games.csv")}
    ablation = {"IB-DQN(1)": "5.0", "IB-DQN(9)": "5.5", "IB-DQN(4n)": "6.5", "IB-DQN(100)": "6.7"}
    assert scores == {"DQN": "4.0", "IB-DQN(n)": "6.0"} | ablation | {"my_fork": "7.0"}
    assert list(scores) == ["DQN", "IB-DQN(n)", *ablation, "my_fork"], "in the order of k"
    pairs = {row["agent"]: row["baseline"] for row in table(tmp_path, "improvement.csv")}
    assert pairs == {agent: "DQN" for agent in scores if agent != "DQN"}


def test_one_name_in_every_game(tmp_path, make_report):
    """k = n is 3 in one game and 6 in another; n is config.json's, or for older runs the game's."""
    for game, n in (("Breakout", 3), ("Seaquest", 6)):
        make_run(tmp_path, f"MinAtar/{game}-v1", "minatar_dqn", 1, [1.0])
        make_run(tmp_path, f"MinAtar/{game}-v1", "minatar_mexp", 1, [2.0], mean_scaling_coefficient=float(n))
    newer = make_run(tmp_path, "ALE/Pong-v5", "dqn_mexp", 1, [3.0], mean_scaling_coefficient=6.0)
    config = json.loads((newer / "config.json").read_text())
    (newer / "config.json").write_text(json.dumps(config | {"num_actions": 6}))
    make_report(tmp_path)
    agents = {(row["game"], row["agent"]) for row in table(tmp_path, "games.csv")}
    of_minatar = product(("MinAtar/Breakout-v1", "MinAtar/Seaquest-v1"), ("DQN", "IB-DQN(n)"))
    assert agents == {*of_minatar, ("ALE/Pong-v5", "IB-DQN(n)")}


def test_fork_with_several_k(tmp_path, make_report):
    """A fork keeps its name; only where its runs of one game have several k they are told apart."""
    for k in (1.0, 18.0):
        make_run(tmp_path, "ALE/Pong-v5", "fork_a", 1, [k], mean_scaling_coefficient=k)
    make_run(tmp_path, "ALE/Pong-v5", "fork_b", 1, [3.0], mean_scaling_coefficient=18.0)
    result = make_report(tmp_path)
    assert {row["agent"] for row in table(tmp_path, "games.csv")} == {"fork_a(1)", "fork_a(n)", "fork_b"}
    assert "ignored" not in result.stderr


def test_arguments_that_an_older_run_lacks(tmp_path, make_report):
    """A flag that was added later is no difference; another one is still found among runs with and without it."""
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0], gamma=0.99)
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 2, [1.0], gamma=0.99, adam_eps=1.5e-4)
    assert "differ" not in make_report(tmp_path).stderr
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 3, [1.0], gamma=0.9, adam_eps=1.5e-4)
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 4, [1.0], gamma=0.9, adam_eps=1e-8, eval_epsilon=0.001)
    assert "The runs of DQN differ in `--adam-eps`, `--gamma`." in make_report(tmp_path).stderr


def test_colours():
    """An agent of the paper has one colour, whoever it is drawn with, and no two agents share one."""
    ablation = [f"IB-DQN({k})" for k in (1, 32, 64, 128, 256, 512, 1024)]
    for agents in (["DQN", "IB-IQN(n)"], ["IB-IQN(n)"], ["DQN", "IB-DQN(n)", "IQN", "IB-IQN(n)", *ablation]):
        rows = [dict(game="g", agent=agent, run=agent) for agent in agents]
        data = pd.DataFrame(rows).assign(step=1, seed=1, total=1, k=1.0)
        data = data.assign(score_mean=1.0, overestimation=1.0, action_gap=1.0)
        study, notes = report.compare(data)
        assert set(study.agents) == set(agents) and not notes
        assert {name: study.colours[name] for name in report.COLOURS} == report.COLOURS
        assert len({study.colours[agent] for agent in agents}) == len(agents)


def test_bad_input(tmp_path, make_report):
    result = run_report(tmp_path / "nothing")
    assert result.returncode == 2 and result.stderr.startswith("error: ") and "Traceback" not in result.stderr
    result = make_report(tmp_path, check=False)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and "no run with an" in result.stderr
    result = make_report(tmp_path, "--reps", "0", check=False)
    assert result.returncode == 2 and result.stderr.startswith("error: --reps 0")
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0])
    result = make_report(tmp_path, "--out", "/proc/none", check=False)
    assert result.returncode == 2 and "--out /proc/none" in result.stderr
