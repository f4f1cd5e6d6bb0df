"""`report.py` on synthetic suites with known answers, unfinished, ragged and damaged ones, and its statistics."""

import csv
import filecmp
import json
import re
import shlex
import shutil
import subprocess
import sys
from itertools import combinations, product
from types import SimpleNamespace

import matplotlib.colors
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


def make_run(root, env_id, agent, seed, scores, every=250_000, total=None, num_actions=None, norms=False, **args):
    """A run's two files; its overestimation is a tenth of its score, its action gap a hundredth. With `norms` that of q
    is twice its score; that of z, which older runs measured too, is in no report."""
    folder = root / f"{env_id}__{agent}__{seed}__{len(list(root.rglob('config.json')))}"
    folder.mkdir(parents=True)
    args = {"exp_name": agent, "env_id": env_id, "seed": seed, "total_timesteps": total or every * len(scores)} | args
    if K.get(agent) is not None:
        args.setdefault("mean_scaling_coefficient", K[agent])
    if not env_id.startswith("MinAtar/"):
        args.setdefault("full_action_space", True)
    config = {"args": args, "finished": True}
    if num_actions is not None:
        config["starts"] = [{"step": 0, "num_actions": num_actions}]
    (folder / "config.json").write_text(json.dumps(config))
    header = HEADER
    rows = [f"{every * (i + 1)},10,{s},{s},0,1,1,{s / 10},{s / 100},5.0" for i, s in enumerate(scores)]
    if norms:
        header += ",q_norm,z_norm"
        rows = [f"{row},{2 * s},{5 * s}" for row, s in zip(rows, scores, strict=True)]
    (folder / "eval.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


@pytest.fixture
def make_report(monkeypatch, capsys):
    """A function that makes the report of the runs below a folder, in this process; figures are returned by name, and
    saved if `draw` is True or has the name."""
    save = report.save

    def make_report(root, *flags, check=True, draw=()):
        argv = ["report.py", str(root), "--out", f"{root}/out", "--reps", "200", *flags]
        monkeypatch.setattr(sys, "argv", argv)
        figures = {}

        def keep(figure, out, name):
            figures[name] = figure
            if draw is True or name in draw:
                save(figure, out, name)
            plt.close(figure)

        monkeypatch.setattr(report, "save", keep)
        capsys.readouterr()
        code = 0
        try:
            report.main()
        except SystemExit as exit:
            code = exit.code
        stdout, stderr = capsys.readouterr()
        assert not check or code == 0, stderr
        assert not plt.get_fignums(), "every figure is closed"
        return SimpleNamespace(returncode=code, stdout=stdout, stderr=stderr, figures=figures)

    return make_report


def run_report(*flags):
    """The program as a user starts it."""
    command = [sys.executable, str(ROOT / "report.py"), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def table(root, name):
    with open(root / "out" / name, newline="") as file:
        return list(csv.DictReader(file))


def readme(root):
    return (root / "out" / "README.md").read_text()


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
        ("iqn_atari", None, 18, "IQN"),
        ("minatar_iqn_mexp", 3.0, 3, "IB-IQN(n)"),
        ("minatar_dqn", 0.0, 3, "DQN"),
        ("dqn_atari_mexp", 18.0, 18, "IB-DQN(n)"),
        ("minatar_mexp", 3.0, 3, "IB-DQN(n)"),
        ("iqn_atari_mexp", 2.0, 18, "IB-IQN(2)"),
        ("dqn_mexp", 0.5, 18, "IB-DQN(0.5)"),
        ("dqn_mexp", 72.0, 18, "IB-DQN(4n)"),
        ("dqn_mexp", 27.0, 18, "IB-DQN(27)"),
        ("dqn_mexp", 18.0, None, "IB-DQN(18)"),
        ("my_fork", 18.0, 18, "my_fork"),
        ("lunarlander_k0", 0.0, 4, "DQN"),
        ("minatar_mexp_k1e-05", 1e-05, 3, "IB-DQN(1e-05)"),
        ("lunarlander_k1", 2.0, 4, "IB-DQN(2)"),  # what counts is config.json's k
        ("minatar_mexp_k4n", 12.0, 3, "IB-DQN(4n)"),
        ("my_fork_k2", 2.0, 18, "my_fork"),
        ("my_fork_k4n", 72.0, 18, "my_fork"),
        ("my_fork_k3", 18.0, 18, "my_fork_k3"),  # no sweep's name
        ("my_fork_kn", 18.0, None, "my_fork_kn"),
        ("nature", 0.0, 18, "Nature DQN"),
        ("minatar_nature_mexp_k1", 1.0, 3, "IB-Nature DQN(1)"),
        ("nature_dqn_atari", 18.0, 18, "IB-Nature DQN(n)"),
    ],
)
def test_names_of_agents(exp_name, k, n, name):
    args = {"exp_name": exp_name}
    if k is not None:
        args["mean_scaling_coefficient"] = k
    assert report.agent_name(args, n) == name


@pytest.mark.parametrize("exp_name", ["dueling", "rdq", "dueling_minatar", "minatar_rdq"])
def test_names_of_dueling_networks(exp_name):
    """What counts is config.json's rdq_beta."""
    for args, name in (({}, "Dueling DQN"), ({"rdq_beta": 0.0}, "Dueling DQN"), ({"rdq_beta": 0.001}, "RDQ")):
        assert report.agent_name({"exp_name": exp_name} | args, 18) == name


def test_soft_values_are_no_overestimation(tmp_path, make_report):
    """Said where there is a soft agent, and only there."""
    soft = {"munchausen": 0.0, "entropy_form": "kl"}
    for name, args, said in (("minatar_mexp", {}, False), ("minatar_softq", soft, True)):
        folder = tmp_path / f"beside_{name}"
        for (game, n), seed in product((("Asterix", 5.0), ("Breakout", 3.0)), (1, 2)):
            env_id = f"MinAtar/{game}-v1"
            make_run(folder, env_id, "minatar_dqn", seed, [1, 2], mean_scaling_coefficient=0.0)
            make_run(folder, env_id, name, seed, [1, 2], mean_scaling_coefficient=n, **args)
        make_report(folder)
        text = readme(folder)
        assert "## Relative to DQN" in text and "final overestimation" in text
        assert ("The values of IB-Soft DQN(n) are soft" in text) == said
        assert ("difference need not be an overestimation" in text) == said
    assert report.soft_agents(["Policy gradient", "Munchausen-DQN", "DQN"]) == ["Policy gradient", "Munchausen-DQN"]


def test_names_of_soft_agents():
    """What counts is config.json's munchausen, entropy_form and method."""
    for name in ("softq", "munchausen", "minatar_softq_mexp", "softq_atari", "minatar_munchausen_k4n"):
        for alpha, agent in ((0.0, "Soft DQN"), (0.9, "Munchausen-DQN")):
            args = {"exp_name": name, "munchausen": alpha, "mean_scaling_coefficient": 0.0}
            if "4n" not in name:
                assert report.agent_name(args, 5) == agent
            assert report.agent_name(args | {"mean_scaling_coefficient": 20.0}, 5) == f"IB-{agent}(4n)"
    args = {"exp_name": "softq_minatar", "munchausen": 0.9}
    assert report.agent_name(args | {"entropy_form": "entropy"}, 5) == "Munchausen-DQN"
    assert report.agent_name(args | {"entropy_form": "kl"}, 5) == "Munchausen-DQN (KL)", "not what was published"
    assert report.baseline_of("IB-Munchausen-DQN (KL)(n)") == "Munchausen-DQN (KL)"
    args["munchausen"] = 0.0
    assert report.agent_name(args | {"entropy_form": "kl"}, 5) == "Soft DQN"
    with_layer = args | {"entropy_form": "entropy", "mean_scaling_coefficient": 5.0}
    assert report.agent_name(with_layer, 5) == "IB-Soft DQN (entropy)(n)"
    assert report.baseline_of("IB-Soft DQN (entropy)(n)") == "Soft DQN (entropy)"
    for name in ("softq_pg", "softq_online_minatar", "minatar_softq_online"):
        assert report.agent_name({"exp_name": name, "method": "q"}, 5) == "Online soft DQN"
        assert report.agent_name({"exp_name": name, "method": "pg"}, 5) == "Policy gradient"


def test_names_of_sparse_agents():
    """What counts is config.json's method and width; the width is named where it is not the script's default."""
    for name in ("eaudeqn", "minatar_polyprune_mexp", "eaudeqn_minatar", "dense", "minatar_eaudeqn_w512"):
        for method, agent in (("eaudeqn", "EauDeQN"), ("polyprune", "PolyPrune"), ("dense", "Dense DQN")):
            args = {"exp_name": name, "method": method, "env_id": "MinAtar/Asterix-v1", "width": 128}
            assert report.agent_name(args, 5) == agent
            with_layer = args | {"mean_scaling_coefficient": 5.0}
            assert report.agent_name(with_layer, 5) == f"IB-{agent}(n)"
            assert report.agent_name(args | {"width": 512}, 5) == f"{agent}-512"
            assert report.agent_name(with_layer | {"width": 32}, 5) == f"IB-{agent}-32(n)"
            assert report.baseline_of(f"IB-{agent}-32(n)") == f"{agent}-32"
            atari = args | {"env_id": "ALE/Pong-v5"}
            assert report.agent_name(atari | {"width": 512}, 18) == agent
            assert report.agent_name(atari, 18) == f"{agent}-128"


@pytest.mark.parametrize(
    "args,agent",
    [
        ({}, "iS-DQN K=9"),
        ({"num_iterations": 4}, "iS-DQN K=4"),
        ({"num_iterations": 1}, "iS-DQN K=1"),
        ({"num_iterations": 0}, "Target-free DQN"),
        ({"num_iterations": 0, "layer_norm": False}, "Target-free DQN without LayerNorm"),
        ({"num_iterations": 1, "target_network": True}, "Target-based DQN"),
        ({"num_iterations": 4, "eval_head": "random"}, "iS-DQN K=4 (random head)"),
    ],
)
def test_names_of_isdqn(args, agent):
    """What counts is config.json, whatever name of benchmark.sh a run has."""
    for name in ("isdqn", "isdqn1_mexp", "isdqn_minatar", "minatar_targetfree", "minatar_targetfree_noln_kn"):
        assert report.agent_name({"exp_name": name, "mean_scaling_coefficient": 5.0} | args, 5) == f"IB-{agent}(n)"
        if not name.endswith("_kn"):
            assert report.agent_name({"exp_name": name} | args, 5) == agent
    assert report.baseline_of(f"IB-{agent}(n)") == agent


@pytest.mark.parametrize(
    "env_id,config,n",
    [
        ("ALE/Pong-v5", {"starts": [{"num_actions": 6}], "args": {"full_action_space": True}}, 6),
        ("ALE/Pong-v5", {"num_actions": 6, "args": {"full_action_space": True}}, 6),  # before November 2026
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
    for game, seed in product(("Breakout", "Freeway"), (1, 2)):
        for agent, k in (("minatar_dqn", 0.0), ("minatar_mexp", 3.0), ("minatar_mexp_k1", 1.0)):
            args = {"mean_scaling_coefficient": k, "norms": True}
            make_run(tmp_path, f"MinAtar/{game}-v1", agent, seed, [1.0, 2.0 + seed + k], every=100_000, **args)
    make_report(tmp_path, draw=True)
    first = tmp_path / "out"
    second = tmp_path / "again"
    result = run_report(tmp_path, "--out", second, "--reps", 200)
    assert result.returncode == 0 and f"{second}/README.md: 12 runs, 2 games" in result.stdout, result.stderr
    names = sorted(path.name for path in first.iterdir())
    assert {"q_norm.svg", "relative.csv", "relative.svg", "sweep.csv", "sweep.png"} < set(names)
    assert len(names) == 24 and names == sorted(path.name for path in second.iterdir())
    assert filecmp.cmpfiles(first, second, names, shallow=False) == (names, [], [])


@pytest.mark.parametrize(
    "folder", ["minatar", "atari", "eaudeqn", "gpu", "gpu_h100", "isdqn", "lunarlander", "online", "softq"]
)
def test_committed_evidence(folder, tmp_path, make_report, monkeypatch):
    """The tables under docs/ are those of the runs beside them, by the command that the page gives."""
    page = (ROOT / "docs" / folder / "README.md").read_text()
    command = rf"^python report\.py docs/{folder}(.*) --out docs/{folder}/report$"
    (flags,) = re.findall(command, page, flags=re.MULTILINE)
    out = tmp_path / "out"
    committed = ROOT / "docs" / folder / "report"
    monkeypatch.chdir(ROOT)
    for name in [name for name in vars(report) if name.startswith("draw_")]:  # no table needs them
        monkeypatch.setattr(report, name, lambda *args: None)
    make_report(f"docs/{folder}", "--out", str(out), "--reps", "2000", *shlex.split(flags))
    names = ["README.md", *sorted(path.name for path in committed.glob("*.csv"))]
    assert names == ["README.md", *sorted(path.name for path in out.glob("*.csv"))]
    assert filecmp.cmpfiles(out, committed, names, shallow=False) == (names, [], [])
    drawn = re.findall(r"\((\w+)\.png\)", (committed / "README.md").read_text())
    pictures = [f"{name}.{suffix}" for name in drawn for suffix in ("png", "svg")]
    assert sorted(path.name for path in committed.iterdir()) == sorted([*names, *pictures]), "nothing stale"


def table_of(path, columns):
    """The rows of the page's table whose header begins with these columns, as lists of cells."""
    page = (ROOT / path).read_text()
    (rows,) = re.findall(rf"^\| {re.escape(columns)}.*\n\| -.*\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows.splitlines()]


def says(cell, values):
    """Whether the numbers of a cell are these values, rounded to as many digits after the point as it has."""
    numbers = re.findall(r"-?\d[\d.]*", cell)
    halves = [0.5 * 10.0 ** -len(number.partition(".")[2]) for number in numbers]  # of the last digit
    return all(
        abs(float(number) - value) < half + 1e-9 for number, value, half in zip(numbers, values, halves, strict=True)
    )


def says_ranges(cells, row, names):
    """Whether the cells hold these columns of a row of games.csv: mean (low to high)."""
    columns = [(name, f"{name}_low", f"{name}_high") for name in names]
    return [says(cell, row[list(three)]) for cell, three in zip(cells, columns, strict=True)]


def rows_of(folder):
    """The rows of the report's games.csv, by the game's short name and the agent."""
    table = pd.read_csv(ROOT / "docs" / folder / "report/games.csv")
    return {(row["game"].split("/")[1].split("-")[0], row["agent"]): row for _, row in table.iterrows()}


@pytest.mark.parametrize("folder", ["eaudeqn", "isdqn", "minatar", "softq"])
def test_tables_of_games(folder):
    names = ["final_score", "auc", "overestimation", "action_gap"]
    rows = rows_of(folder)
    page = table_of(f"docs/{folder}/README.md", "game | agent | seeds")
    assert len(page) == len(rows)
    for game, agent, seeds, *cells in page:
        row = rows[game, agent]
        assert seeds == str(row["runs"])
        if seeds == "1":  # without a range
            assert all(says(cell, [row[name]]) for cell, name in zip(cells, names, strict=True)), (game, agent)
        else:
            assert all(says_ranges(cells, row, names)), (game, agent)


def test_table_of_the_readme():
    rows = rows_of("minatar")
    for game, _, *cells in table_of("README.md", "game | n | DQN"):
        for cell, agent in zip(cells, ("DQN", "IB-DQN(n)"), strict=True):
            assert all(says_ranges([cell], rows[game.replace(" ", ""), agent], ["final_score"])), (game, agent)


def test_runs_in_two_folders_are_the_same():
    """Those of DQN and IB-DQN(n) beside the soft agents are copies of MinAtar's."""
    copies = [
        path for agent in ("dqn", "mexp") for path in (ROOT / "docs/softq/MinAtar").glob(f"*__minatar_{agent}__*")
    ]
    assert len(copies) == 20
    for folder in copies:
        names = ["config.json", "eval.csv"]
        original = ROOT / "docs/minatar/MinAtar" / folder.name
        assert filecmp.cmpfiles(folder, original, names, shallow=False) == (names, [], [])


@pytest.mark.parametrize("path", ["docs/minatar/README.md", "docs/evidence.md"])
def test_tables_of_scores_relative_to_dqn(path):
    table = pd.read_csv(ROOT / "docs/minatar/report/relative.csv").set_index(["agent", "measure"])
    for agent, runs, *cells in table_of(path, "agent | runs a game"):
        for cell, measure in zip(cells, ("final_score", "auc", "overestimation"), strict=True):
            row = table.loc[(agent, measure)]
            assert runs == str(row["runs"])
            assert says(cell, [row["mean"], row["mean low"], row["mean high"]]), (agent, measure)


def test_table_of_the_lunarlander_page():
    names = ["final_score", "auc", "overestimation", "action_gap", "q_norm"]
    rows = pd.read_csv(ROOT / "docs/lunarlander/report/games.csv").set_index("agent")
    page = table_of("docs/lunarlander/README.md", "k | seeds")
    assert len(page) == len(rows)
    for k, seeds, *cells in page:
        of_n = {"0": "DQN", "4": "IB-DQN(n)", "8": "IB-DQN(2n)", "16": "IB-DQN(4n)", "32": "IB-DQN(8n)"}
        row = rows.loc[of_n.get(k, f"IB-DQN({k})")]
        assert seeds == str(row["runs"]) and all(says_ranges(cells, row, names)), k


def test_table_of_the_atari_page():
    runs = {}
    for path in (ROOT / "docs/atari/ALE").glob("*/eval.csv"):
        _, agent, seed, _ = path.parent.name.split("__")
        runs[{"dqn_atari": "DQN", "dqn_atari_mexp": "IB-DQN(n)"}[agent], seed] = pd.read_csv(path)
    _, *page = table_of("docs/atari/README.md", "at 600,000 steps")
    assert len(page) == len(runs)
    for agent, seed, episodes, *cells in page:
        run = runs[agent, seed]
        last = run.iloc[-1]
        assert (last["step"], len(run), str(int(last["episodes"]))) == (600_000, 12, episodes)
        values = [last["score_mean"], last["score_std"], run["score_mean"].mean(), last["overestimation"]]
        assert all(says(cell, [value]) for cell, value in zip(cells, values, strict=True)), (agent, seed)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["lunarlander", "eaudeqn", "gpu", "gpu_h100", "isdqn", "minatar", "online", "softq"])
def test_programs_of_pages(folder):
    """The page's last program prints what the page says."""
    page = (ROOT / "docs" / folder / "README.md").read_text()
    program = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[-1]
    (printed,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == printed, result.stderr


def test_only_config_and_eval_are_read(tmp_path, make_report):
    folder = make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0])
    (folder / "checkpoint.pt").write_bytes(b"damaged")
    (folder / "events.out").write_bytes(b"damaged")
    assert "1 runs, 1 games" in make_report(tmp_path).stdout


def test_runs_behind_symbolic_links(tmp_path, make_report):
    """Runs kept elsewhere are found, each once, and a link to a folder around it ends no report."""
    for seed in (1, 2):
        make_run(tmp_path / "elsewhere", "ALE/Pong-v5", "dqn", seed, [1.0])
    runs = tmp_path / "runs"
    make_run(runs, "ALE/Pong-v5", "dqn_mexp", 1, [2.0])
    (runs / "linked").symlink_to(tmp_path / "elsewhere")
    (runs / "linked again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "around").symlink_to(runs)
    result = make_report(runs)
    assert "3 runs, 1 games" in result.stdout and "ignored" not in result.stderr


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
    make_report(tmp_path, draw=("normalised_curves", "aggregates", "improvement"))
    text = (tmp_path / "out" / "README.md").read_text()
    assert "One run a game: no intervals." in text and "Where there is one run there is no band." in text
    assert "| Pong | IQN | 1 | 500,000 | 2 | 1.5 |" in text
    assert table(tmp_path, "aggregates.csv")[0]["mean low"] == ""
    assert_drawn(tmp_path, "normalised_curves", "aggregates", "improvement")


@pytest.mark.parametrize("flags,ends", [((), ("8.0", "12.0")), (("--interval", "minmax"), ("8.0", "12.0"))])
def test_games_without_a_human_score(flags, ends, tmp_path, make_report):
    for seed in (1, 2):
        make_run(tmp_path, "MinAtar/Breakout-v1", "minatar_dqn", seed, [1.0, 4.0 + 4.0 * seed], every=100_000)
        make_run(tmp_path, "MinAtar/Breakout-v1", "minatar_mexp", seed, [1.0, 15.0], every=100_000)
    make_report(tmp_path, *flags, draw=("change_ib_dqn_n_dqn_raw",))
    text = readme(tmp_path)
    assert "no human-normalised aggregates" in text and not (tmp_path / "out" / "aggregates.csv").exists()
    assert "Relative to DQN" not in text and not (tmp_path / "out" / "relative.csv").exists(), "of one game"
    plain, modified = table(tmp_path, "games.csv")
    assert (plain["agent"], modified["agent"]) == ("DQN", "IB-DQN(n)") and "human_normalised" not in plain
    assert (plain["final_score"], plain["final_score_low"], plain["final_score_high"]) == ("10.0", *ends)
    assert_drawn(tmp_path, "change_ib_dqn_n_dqn_raw")
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
        "no_norm": lambda f: (f / "eval.csv").write_text(HEADER + ",q_norm\n1,2,3,4,5,6,7,8,9,10,\n"),
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
    old = make_run(tmp_path / "names", "MinAtar/Asterix-v1", "minatar_mexp", 1, [1.0], mean_scaling_coefficient=0.0)
    new = make_run(tmp_path / "names", "MinAtar/Asterix-v1", "minatar_dqn", 1, [2.0])
    old.rename(old.with_name("Asterix-v1__minatar_mexp__1__1700000000"))
    new.rename(new.with_name("Asterix-v1__minatar_dqn__1__1800000000"))
    notes = make_report(tmp_path / "names").stderr
    assert "minatar_mexp__1__1700000000` is ignored" in notes, "whatever the alphabet says"


def test_ablation(tmp_path, make_report):
    for k, score in ((1.0, 5.0), (18.0, 6.0), (72.0, 6.5), (100.0, 6.7), (9.0, 5.5)):
        make_run(tmp_path, "ALE/Pong-v5", "dqn_mexp", 1, [score], mean_scaling_coefficient=k)
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [4.0])
    make_run(tmp_path, "ALE/Pong-v5", "my_fork", 1, [7.0])
    make_report(tmp_path)
    scores = {row["agent"]: row["final_score"] for row in table(tmp_path, "games.csv")}
    ablation = {"IB-DQN(1)": "5.0", "IB-DQN(9)": "5.5", "IB-DQN(4n)": "6.5", "IB-DQN(100)": "6.7"}
    assert scores == {"DQN": "4.0", "IB-DQN(n)": "6.0"} | ablation | {"my_fork": "7.0"}
    assert list(scores) == ["DQN", "IB-DQN(n)", *ablation, "my_fork"], "in the order of k"


def test_settings_that_differ(tmp_path, make_report):
    """Among the runs of an agent, or from its baseline's: noted, but for k, name, what changes no result, and flags
    that an older run lacks."""
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [4.0], gamma=0.99, save_best=True, eval_only=None)
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 2, [4.0], gamma=0.99, adam_eps=1.5e-4, total=1_000_000)
    tuned = make_run(tmp_path, "ALE/Pong-v5", "dqn_mexp", 1, [5.0], gamma=0.99)
    make_run(tmp_path, "ALE/Pong-v5", "softq_online", 1, [1.0], gamma=0.99, method="q")
    assert "differ" not in make_report(tmp_path).stderr
    (tuned / "config.json").write_text((tuned / "config.json").read_text().replace("0.99", "0.9"))
    note = "IB-DQN(n) and DQN, with which it is compared, differ in `--gamma`."
    assert note in make_report(tmp_path).stderr
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 3, [4.0], gamma=0.9, adam_eps=1e-8, eval_epsilon=0.001)
    make_run(tmp_path, "ALE/Pong-v5", "softq_online", 2, [1.0], gamma=0.99, method="q", total=1_000_000)
    notes = make_report(tmp_path).stderr
    assert "The runs of DQN differ in `--adam-eps`, `--gamma`." in notes
    assert "The runs of Online soft DQN differ in `--total-timesteps`." in notes, "over which its learning rate falls"


def test_no_page_but_a_report_is_overwritten(tmp_path, make_report):
    make_run(tmp_path / "runs", "ALE/Pong-v5", "dqn", 1, [1.0])
    page = tmp_path / "README.md"
    page.write_text("# My page\n")
    result = make_report(tmp_path / "runs", "--out", str(tmp_path), check=False)
    error = f"error: --out {tmp_path} holds a README.md that is no report and would be lost; name another folder\n"
    assert (result.returncode, result.stderr, page.read_text()) == (2, error, "# My page\n")
    page.write_text("")
    for _ in range(2):
        make_report(tmp_path / "runs", "--out", str(tmp_path))
    assert page.read_text().startswith("# Report\n")


def test_colours():
    """An agent of the paper has one colour, whoever it is drawn with, and no two agents share one."""
    ablation = [f"IB-DQN({k})" for k in (1, 32, 64, 128, 256, 512, 1024)]
    paper = list(report.COLOURS)
    forks = ["fork_a", "fork_b", "fork_c(0)", "fork_c(n)"]
    for agents in (["DQN", "IB-IQN(n)"], ["IB-IQN(n)"], [*paper, *ablation], [*paper, *ablation, "IB-IQN(2)", *forks]):
        rows = [dict(game="g", agent=agent, run=agent) for agent in agents]
        data = pd.DataFrame(rows).assign(step=1, seed=1, total=1, k=1.0)
        data = data.assign(score_mean=1.0, overestimation=1.0, action_gap=1.0)
        study, notes = report.compare(data)
        assert set(study.agents) == set(agents) and not notes
        assert {name: study.colours[name] for name in report.COLOURS} == report.COLOURS
        assert len({study.colours[agent].lower() for agent in agents}) == len(agents)


def test_colours_of_a_sweep():
    """From light to dark in the order of k, and far enough from each other and from the fixed ones to be told apart."""
    sweep = [f"IB-DQN({k})" for k in ("0.5", "1", "2", "2n", "4n", "8n")]
    colours = report.choose_colours(["DQN", "IB-DQN(n)", *sweep])
    rgb = {agent: np.array(matplotlib.colors.to_rgb(colours[agent])) for agent in ["DQN", "IB-DQN(n)", *sweep]}
    assert all(np.abs(rgb[x] - rgb[y]).max() > 0.15 for x, y in combinations(rgb, 2))
    brightness = [rgb[agent] @ (0.299, 0.587, 0.114) for agent in sweep]
    assert brightness == sorted(brightness, reverse=True)
    assert report.choose_colours(["IB-DQN(2)"])["IB-DQN(2)"] != colours["DQN"]


# NORMS


def test_norms_of_new_runs_beside_older_ones(tmp_path, make_report):
    """That of q is of the runs that have it; everything else is of all runs, the same as if none had it."""
    for folder, norms in (("with", True), ("without", False)):
        root = tmp_path / folder
        for seed, score in ((1, 1.0), (2, 3.0), (3, 8.0)):
            args = {"every": 100_000, "norms": norms and seed > 1}
            make_run(root, "MinAtar/Breakout-v1", "minatar_mexp", seed, [score, 2 * score], **args)
        make_run(root, "MinAtar/Breakout-v1", "minatar_dqn", 1, [4.0, 5.0], every=100_000)
        make_run(root, "MinAtar/Freeway-v1", "minatar_dqn", 1, [6.0, 7.0], every=100_000)
    drawn = make_report(tmp_path / "with").figures
    older = make_report(tmp_path / "without")
    assert "damaged" not in older.stderr and "q_norm" not in older.figures and "z_norm" not in drawn
    assert "q_norm" not in readme(tmp_path / "without") and "z_norm" not in readme(tmp_path / "with")

    rows = {(row["game"], row["agent"]): row for row in table(tmp_path / "with", "games.csv")}
    row = rows["MinAtar/Breakout-v1", "IB-DQN(n)"]
    assert [float(row[f"q_norm{end}"]) for end in ("", "_low", "_high")] == [22.0, 12.0, 32.0]  # of 2 x 6 and 2 x 16
    assert (row["runs"], float(row["final_score"])) == ("3", pytest.approx(8))
    for key in (("MinAtar/Breakout-v1", "DQN"), ("MinAtar/Freeway-v1", "DQN")):
        assert rows[key]["q_norm"] == "" and rows[key]["final_score"] != ""
    for row in table(tmp_path / "without", "games.csv"):
        newer = rows[row["game"], row["agent"]]
        assert row == {name: newer[name] for name in row} and "q_norm" not in row
    assert "action gap | q norm |" in readme(tmp_path / "with") and " | 22 (12, 32) |\n" in readme(tmp_path / "with")
    assert "(q_norm.png)" in readme(tmp_path / "with")
    (axis,) = drawn["q_norm"].axes  # Freeway has no run that measured it
    (line,) = axis.lines
    assert axis.get_title() == "Breakout" and line.get_label() == "IB-DQN(n)"
    assert line.get_xydata().tolist() == [[100_000, 11.0], [200_000, 22.0]]
    lines = drawn["learning_curves"].axes[0].lines
    assert [line.get_ydata().tolist() for line in lines] == [[4.0, 5.0], [4.0, 8.0]]


def test_sparsity_of_agents_that_prune(tmp_path, make_report):
    """Beside agents that measure none: two figures with known points, and columns in the table."""
    root = tmp_path / "with"
    sparse = {"exp": "minatar_eaudeqn", "scores": {1: ([2.0, 4.0], [0.1, 0.3]), 2: ([4.0, 8.0], [0.2, 0.5])}}
    for seed, (scores, sparsities) in sparse["scores"].items():
        args = {"every": 100_000, "method": "eaudeqn", "width": 128, "mean_scaling_coefficient": 0.0}
        folder = make_run(root, "MinAtar/Breakout-v1", sparse["exp"], seed, scores, **args)
        header, *rows = (folder / "eval.csv").read_text().splitlines()
        rows = [f"{row},{s},{round(1000 * (1 - s))}" for row, s in zip(rows, sparsities, strict=True)]
        (folder / "eval.csv").write_text("\n".join([f"{header},sparsity,nonzero_weights", *rows]) + "\n")
    make_run(root, "MinAtar/Breakout-v1", "minatar_dqn", 1, [1.0, 3.0], every=100_000)
    make_run(root, "MinAtar/Freeway-v1", "minatar_dqn", 1, [1.0, 3.0], every=100_000)
    result = make_report(root, draw=("sparsity_curves", "final_sparsity"))
    assert_drawn(root, "sparsity_curves", "final_sparsity")
    curves = result.figures["sparsity_curves"].axes
    assert len(curves) == 2 and curves[0].get_title() == "Breakout"
    lines = {line.get_label(): line.get_xydata().tolist() for line in curves[0].lines}
    assert lines == {"DQN": [[1e5, 1.0], [2e5, 3.0]], "EauDeQN": [[1e5, 3.0], [2e5, 6.0]]}
    (line,) = curves[1].lines
    assert line.get_label() == "EauDeQN"
    np.testing.assert_allclose(line.get_xydata(), [[1e5, 0.15], [2e5, 0.4]])
    (axis,) = result.figures["final_sparsity"].axes
    points, mean = [line.get_xydata().tolist() for line in axis.lines]
    assert points == [[0.3, 4.0], [0.5, 8.0]] and mean == [[0.4, 6.0]]
    rows = {(row["game"], row["agent"]): row for row in table(root, "games.csv")}
    row = rows["MinAtar/Breakout-v1", "EauDeQN"]
    assert (float(row["sparsity"]), float(row["nonzero_weights"])) == (pytest.approx(0.4), pytest.approx(600))
    assert rows["MinAtar/Breakout-v1", "DQN"]["sparsity"] == ""
    assert "## Sparsity" in readme(root) and "| sparsity | nonzero weights |" in readme(root)

    make_run(tmp_path / "without", "MinAtar/Breakout-v1", "minatar_dqn", 1, [1.0, 3.0], every=100_000)
    older = make_report(tmp_path / "without")
    assert not {"sparsity_curves", "final_sparsity"} & {*older.figures}
    assert "parsity" not in readme(tmp_path / "without")


# SWEEPS OVER K


def make_sweep(root, scores, game="LunarLander-v3", agent="lunarlander", n=4):
    """Runs of each k of `scores` = {k: scores of seed 1, of seed 2 ...}, named as `benchmark.sh --k` names them."""
    for k, runs in scores.items():
        for seed, of_run in enumerate(runs, start=1):
            args = {"every": 10_000, "num_actions": n, "mean_scaling_coefficient": float(k)}
            make_run(root, game, f"{agent}_k{k}", seed, of_run, **args)


def test_sweep_with_known_answers(tmp_path, make_report):
    """Of two seeds the interval is from the one to the other: the means of resamples are either, or theirs."""
    scores = {
        "0": ([0.0, 10.0], [0.0, 20.0]),
        "0.5": ([0.0, 30.0], [0.0, 34.0]),
        "4": ([0.0, 33.0], [0.0, 41.0]),  # the best final score, within the interval of 0.5: 33 < 34
        "16": ([60.0, 32.0], [60.0, 32.5]),  # the best area
    }
    make_sweep(tmp_path, scores)
    make_run(tmp_path, "LunarLander-v3", "my_fork", 1, [0.0, 99.0], every=10_000)  # in no sweep
    result = make_report(tmp_path, draw=("sweep",))
    final = {0.0: (15.0, 10.0, 20.0), 0.5: (32.0, 30.0, 34.0), 4.0: (37.0, 33.0, 41.0), 16.0: (32.25, 32.0, 32.5)}
    auc = {0.0: (7.5, 5.0, 10.0), 0.5: (16.0, 15.0, 17.0), 4.0: (18.5, 16.5, 20.5), 16.0: (46.125, 46.0, 46.25)}
    agents = {0.0: "DQN", 0.5: "IB-DQN(0.5)", 4.0: "IB-DQN(n)", 16.0: "IB-DQN(4n)"}
    rows = table(tmp_path, "sweep.csv")
    assert [float(row["k"]) for row in rows] == list(agents), "in the order of k"
    for row in rows:
        k = float(row["k"])
        assert (row["game"], row["baseline"], row["agent"]) == ("LunarLander-v3", "DQN", agents[k])
        assert (row["runs"], row["steps"], row["evaluations"]) == ("2", "20000", "2")
        assert tuple(float(row[f"final_score{end}"]) for end in ("", "_low", "_high")) == final[k]
        assert tuple(float(row[f"auc{end}"]) for end in ("", "_low", "_high")) == auc[k]

    of_final, of_auc = table(tmp_path, "best_k.csv")
    assert (of_final["measure"], of_final["agent"]) == ("final_score", "IB-DQN(n)")
    assert of_final["within_the_interval_of"] == "0.5"
    assert tuple(float(of_final[name]) for name in ("best_k", "mean", "low", "high")) == (4.0, 37.0, 33.0, 41.0)
    assert (of_auc["measure"], of_auc["agent"], of_auc["within_the_interval_of"]) == ("auc", "IB-DQN(4n)", "")
    assert tuple(float(of_auc[name]) for name in ("best_k", "mean", "low", "high")) == (16.0, 46.125, 46.0, 46.25)
    text = readme(tmp_path)
    assert "| LunarLander-v3 | final score | 4 | IB-DQN(n) | 2 | 37 (33, 41) | 0.5 |" in text
    assert "| LunarLander-v3 | area under the curve | 16 | IB-DQN(4n) | 2 | 46.12 (46, 46.25) | none |" in text
    assert "| LunarLander-v3 | 0.5 | IB-DQN(0.5) | 2 | 32 (30, 34) | 16 (15, 17) |" in text
    assert_drawn(tmp_path, "sweep")

    for axis, numbers in zip(result.figures["sweep"].axes, (final, auc), strict=True):
        assert axis.get_xscale() == "log"
        lines = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
        assert lines["IB-DQN(k)"] == [[k, numbers[k][0]] for k in (0.5, 4.0, 16.0)]
        band, bars, bar = axis.collections  # the last of k = 0
        corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
        assert corners == {(k, end) for k in (0.5, 4.0, 16.0) for end in numbers[k][1:]}
        ((place, value),) = lines["DQN, k = 0"]
        assert value == numbers[0.0][0]
        assert bar.get_segments()[0].tolist() == [[place, numbers[0.0][1]], [place, numbers[0.0][2]]]
        assert axis.get_xlim()[0] < place < 0.5, "set off at the left"
        ticks = dict(zip(axis.get_xticks(), (text.get_text() for text in axis.get_xticklabels()), strict=True))
        assert ticks == {place: "0", 0.5: "0.5", 4.0: "4 (n)", 16.0: "16 (4n)"}


def test_sweep_needs_three_values_of_k(tmp_path, make_report):
    make_sweep(tmp_path, {"0": ([1.0],), "4": ([2.0],)})
    result = make_report(tmp_path)
    assert "sweep" not in result.figures and "Sweep over k" not in readme(tmp_path)
    assert not (tmp_path / "out" / "sweep.csv").exists() and not (tmp_path / "out" / "best_k.csv").exists()
    make_sweep(tmp_path, {"2": ([3.0],)})
    assert "sweep" in make_report(tmp_path).figures and "Sweep over k" in readme(tmp_path)


def test_sweep_of_single_runs(tmp_path, make_report):
    """They have no interval, and nothing is claimed of them."""
    make_sweep(tmp_path, {"0": ([1.0], [2.0]), "1": ([9.0],), "2": ([5.0], [6.0]), "4": ([7.0], [8.0])})
    result = make_report(tmp_path)
    best = table(tmp_path, "best_k.csv")[0]
    assert (best["best_k"], best["low"], best["within_the_interval_of"]) == ("1.0", "", "0, 2, 4")
    bars = result.figures["sweep"].axes[0].collections[-2].get_segments()
    assert [bar.tolist() for bar in bars if np.isfinite(bar).all() and len(bar)] == [[[2, 5], [2, 6]], [[4, 7], [4, 8]]]
    make_sweep(tmp_path, {"8": ([10.0], [10.0])})
    make_report(tmp_path)
    best = table(tmp_path, "best_k.csv")[0]
    assert (best["best_k"], best["low"], best["within_the_interval_of"]) == ("8.0", "10.0", "1 (one run)")
    make_sweep(tmp_path, {"16": ([10.0], [10.0])})
    make_report(tmp_path)
    assert table(tmp_path, "best_k.csv")[0]["best_k"] == "8.0", "of equally good k the least"


def test_sweeps_of_several_games_and_baselines(tmp_path, make_report):
    """Nature DQN and a fork have lines of their own; a game with two values of k is in no panel."""
    minatar = {"game": "MinAtar/Breakout-v1", "n": 3}
    for agent, score in (("minatar_mexp", 1.0), ("minatar_nature_mexp", 11.0), ("my_fork", 21.0)):
        make_sweep(tmp_path, {"0": ([score],), "1": ([score + 1],), "3": ([score + 2],)}, agent=agent, **minatar)
    make_sweep(tmp_path, {"0": ([1.0],), "6": ([2.0],)}, "MinAtar/Seaquest-v1", "minatar_mexp", 6)
    make_sweep(tmp_path, {"1": ([1.0],), "2": ([2.0],), "8": ([3.0],)}, "MinAtar/SpaceInvaders-v1", "minatar_mexp", 4)
    figure = make_report(tmp_path).figures["sweep"]
    panels = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in panels] == ["Breakout", "SpaceInvaders", "", ""] and len(figure.axes) == 4
    breakout, space_invaders = panels[:2]
    lines = {line.get_label(): line.get_xydata().tolist() for line in breakout.lines}
    assert lines["IB-DQN(k)"] == [[1.0, 2.0], [3.0, 3.0]]
    assert lines["IB-Nature DQN(k)"] == [[1.0, 12.0], [3.0, 13.0]]
    assert lines["my_fork(k), k > 0"] == [[1.0, 22.0], [3.0, 23.0]]
    points = {label: xydata[0] for label, xydata in lines.items() if len(xydata) == 1}
    assert {label: point[1] for label, point in points.items()} == {
        "DQN, k = 0": 1.0,
        "Nature DQN, k = 0": 11.0,
        "my_fork(0)": 21.0,
    }
    assert len({point[0] for point in points.values()}) == 3, "side by side"
    assert not space_invaders.patches and len(space_invaders.lines) == 1, "it has no k = 0"
    games = {(row["game"], row["baseline"]) for row in table(tmp_path, "sweep.csv")}
    of_breakout = {("MinAtar/Breakout-v1", baseline) for baseline in ("DQN", "Nature DQN", "my_fork")}
    assert games == {*of_breakout, ("MinAtar/SpaceInvaders-v1", "DQN")}


# SCORES RELATIVE TO DQN

# Final scores: DQN's means are 2, 20 and 50, and IB-DQN(n)'s scores 2.5 and 3.5, 1 and 2, 0.9 and 1.1 times these
RELATIVE = {
    "Asterix": {"minatar_dqn": (1.0, 0.5, 4.5), "minatar_mexp": (5.0, 7.0), "minatar_dueling": (2.0, 2.0)},
    "Breakout": {"minatar_dqn": (10.0, 15.0, 35.0), "minatar_mexp": (20.0, 40.0), "minatar_dueling": (20.0, 20.0)},
    "Freeway": {"minatar_dqn": (50.0, 40.0, 60.0), "minatar_mexp": (45.0, 55.0), "minatar_dueling": (50.0, 50.0)},
}


def make_relative(root, games=RELATIVE):
    """Runs of two evaluations: DQN's areas are half of its final scores, those of the others equal to them."""
    for game, agents in games.items():
        k = float(report.MINATAR_ACTIONS.get(game, 4))
        for agent, scores in agents.items():
            args = {"mean_scaling_coefficient": k} if agent == "minatar_mexp" else {}
            for seed, score in enumerate(scores, start=1):
                first = 0.0 if agent == "minatar_dqn" else score
                make_run(root, f"MinAtar/{game}-v1", agent, seed, [first, score], every=100_000, **args)


def relative(root):
    return {(row["agent"], row["measure"]): row for row in table(root, "relative.csv")}


def test_relative_aggregates_by_hand(tmp_path, make_report):
    make_relative(tmp_path)
    result = make_report(tmp_path, draw=("relative",))
    rows = relative(tmp_path)
    expected = {
        # mean and median of the games' means 3, 1.5 and 1; IQM of 0.9 1 1.1 2 2.5 3.5: the middle four
        ("IB-DQN(n)", "final_score"): (5.5 / 3, 1.5, (1 + 1.1 + 2 + 2.5) / 4),
        ("IB-DQN(n)", "auc"): (11 / 3, 3.0, (1 + 1.1 + 2 + 2.5) / 2),
        ("Dueling DQN", "final_score"): (1, 1, 1),
        ("Dueling DQN", "auc"): (2, 2, 2),
        # IQM of 0.25 0.5 0.5 0.75 0.8 1 1.2 1.75 2.25: the middle five
        ("DQN", "final_score"): (1, 1, 0.85),
        ("DQN", "auc"): (1, 1, 0.85),
    }
    for agent in ("IB-DQN(n)", "Dueling DQN", "DQN"):  # in these runs a tenth of the score
        expected[agent, "overestimation"] = expected[agent, "final_score"]
    assert set(rows) == set(expected)
    for key, values in expected.items():
        assert [float(rows[key][name]) for name in ("mean", "median", "IQM")] == pytest.approx(values)
        runs = "3" if key[0] == "DQN" else "2"
        assert [rows[key][name] for name in ("baseline", "games", "runs", "baseline_runs")] == ["DQN", "3", runs, "3"]
    for key in expected:
        assert float(rows[key]["mean low"]) < float(rows[key]["mean"]) < float(rows[key]["mean high"])
    text = readme(tmp_path)
    assert "over 3 games without a human score" in text and "3 of DQN, 2 of IB-DQN(n), 2 of Dueling DQN." in text
    row = rows["IB-DQN(n)", "auc"]
    cells = [
        report.cell(*(float(row[name + end]) for end in ("", " low", " high"))) for name in ("mean", "median", "IQM")
    ]
    assert f"| IB-DQN(n) | area under the curve | {' | '.join(cells)} |" in text
    assert_drawn(tmp_path, "relative")

    agents = ["DQN", "IB-DQN(n)", "Dueling DQN"]
    names = product(("final_score", "auc", "overestimation"), ("mean", "median", "IQM"))
    for axis, (measure, name) in zip(result.figures["relative"].axes, names, strict=True):
        *marks, one = axis.lines
        assert set(one.get_xdata()) == {1} and axis.yaxis_inverted(), "the first is on top"
        for agent, mark, bar in zip(agents, marks, axis.patches, strict=True):
            row = rows[agent, measure]
            assert mark.get_xdata() == pytest.approx(2 * [float(row[name])])
            assert bar.get_x() == pytest.approx(float(row[f"{name} low"]))
            assert bar.get_x() + bar.get_width() == pytest.approx(float(row[f"{name} high"]))
            assert mark.get_ydata().mean() == pytest.approx(bar.get_y() + bar.get_height() / 2)
            assert matplotlib.colors.to_hex(bar.get_facecolor()).upper() == report.COLOURS[agent]
        if name == "mean":  # the left one names the rows for all three
            assert [text.get_text() for text in axis.get_yticklabels()] == agents


def test_relative_intervals_against_rliable(tmp_path, make_report):
    """The runs of DQN are resampled with the agent's, as a second sample: its own spread is in the interval."""
    make_relative(tmp_path)
    make_report(tmp_path)
    samples = {}
    for agent, name in (("DQN", "minatar_dqn"), ("IB-DQN(n)", "minatar_mexp"), ("Dueling DQN", "minatar_dueling")):
        final = np.array([scores[name] for scores in RELATIVE.values()]).T  # (runs, games)
        samples[agent] = np.stack([final, final / 2 if agent == "DQN" else final, final / 10], axis=2)

    def statistics(x, y):
        ratios = x / y.mean(0)
        functions = (metrics.aggregate_mean, metrics.aggregate_median, metrics.aggregate_iqm)
        return np.array([function(ratios[..., i]) for function in functions for i in (0, 1, 2)])

    np.random.seed(1)
    _, expected = library.get_interval_estimates(
        {agent: [sample, samples["DQN"]] for agent, sample in samples.items()}, statistics, reps=200
    )
    for (agent, measure), row in relative(tmp_path).items():
        ends = expected[agent].reshape(2, 3, 3)[:, :, ("final_score", "auc", "overestimation").index(measure)]
        for j, name in enumerate(("mean", "median", "IQM")):
            assert [float(row[f"{name} low"]), float(row[f"{name} high"])] == pytest.approx(ends[:, j])


def test_relative_to_another_agent(tmp_path, make_report):
    """Its own rows are 1; DQN's are the inverse of the other's; an agent that there is not is refused."""
    make_relative(tmp_path)
    make_report(tmp_path, "--relative-to", "Dueling DQN")
    rows = relative(tmp_path)
    assert {row["baseline"] for row in rows.values()} == {"Dueling DQN"}
    assert float(rows["Dueling DQN", "auc"]["mean"]) == 1 and float(rows["DQN", "auc"]["mean"]) == 0.5
    assert "## Relative to Dueling DQN" in readme(tmp_path)
    line = make_report(tmp_path, "--relative-to", "RDQ", check=False).stderr.splitlines()[-1]
    assert line == "error: --relative-to 'RDQ' is none of the agents: DQN, IB-DQN(n), Dueling DQN"
    for folder in tmp_path.glob("MinAtar/*__minatar_dqn__*"):
        shutil.rmtree(folder)
    note = "no scores relative to DQN: DQN has no runs of two games. `--relative-to` names another agent."
    assert note in make_report(tmp_path).stderr


def test_no_relative_overestimation(tmp_path, make_report):
    """Where a run of the baseline underestimates, there is nothing to divide by."""
    make_relative(tmp_path)
    make_report(tmp_path)
    before = relative(tmp_path)
    (eval_csv,) = tmp_path.glob("MinAtar/Breakout-v1__minatar_dqn__2__*/eval.csv")
    eval_csv.write_text(eval_csv.read_text().replace(",1.5,", ",-1.5,"))
    assert "No overestimation relative to DQN: in one of its runs" in make_report(tmp_path).stderr
    after = relative(tmp_path)
    assert set(before) - set(after) == {(agent, "overestimation") for agent in ("DQN", "IB-DQN(n)", "Dueling DQN")}
    assert all(row["mean"] == before[key]["mean"] for key, row in after.items())


def test_relative_to_a_baseline_without_positive_scores(tmp_path, make_report):
    """A game is left out where DQN's mean is negative, or 0 in a resample of its runs."""
    make_relative(tmp_path)
    before = make_report(tmp_path) and relative(tmp_path)
    make_relative(tmp_path, {"Seaquest": {"minatar_dqn": (-9.0, 1.0), "minatar_mexp": (1.0, 1.0)}})
    make_relative(tmp_path, {"SpaceInvaders": {"minatar_dqn": (0.0, 9.0), "minatar_mexp": (1.0, 1.0)}})
    result = make_report(tmp_path)
    for game in ("Seaquest", "SpaceInvaders"):
        reason = "a run of DQN scored 0 or less there"
        assert f"MinAtar/{game}-v1 is left out of the scores relative to DQN: {reason}." in result.stderr
    assert relative(tmp_path) == before, "Dueling DQN lacks none of the others"


def test_relative_scores_with_missing_games_and_seeds(tmp_path, make_report):
    """The games are DQN's: who lacks one is left out, the rest is compared over the same games, as many runs of each
    as the game with the fewest has. Games with a human score are none of them."""
    make_relative(tmp_path)
    make_run(tmp_path, "MinAtar/Breakout-v1", "minatar_rdq", 1, [1.0, 2.0], every=100_000, rdq_beta=0.001)
    make_run(tmp_path, "MinAtar/Seaquest-v1", "minatar_rdq", 1, [1.0, 2.0], every=100_000, rdq_beta=0.001)
    result = make_report(tmp_path)
    missing = "MinAtar/Asterix-v1, MinAtar/Freeway-v1"
    assert f"RDQ is left out of the scores relative to DQN: it has no runs of {missing}." in result.stderr
    assert "MinAtar/Freeway-v1 has no runs of RDQ." in result.stderr and "aggregates over games" not in result.stderr
    before = relative(tmp_path)
    assert {agent for agent, _ in before} == {"DQN", "IB-DQN(n)", "Dueling DQN"}
    assert {row["games"] for row in before.values()} == {"3"}
    make_run(tmp_path, "MinAtar/Breakout-v1", "minatar_dqn", 4, [0.0, 900.0], every=100_000)
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0, 2.0])
    assert "Scores relative to DQN use 3 runs a game of DQN, as many as every game has." in make_report(tmp_path).stderr
    assert relative(tmp_path) == before


def test_relative_scores_of_single_runs(tmp_path, make_report):
    one = {game: {agent: scores[:1] for agent, scores in agents.items()} for game, agents in RELATIVE.items()}
    make_relative(tmp_path, one)
    result = make_report(tmp_path)
    row = relative(tmp_path)["IB-DQN(n)", "final_score"]
    assert float(row["mean"]) == pytest.approx((5 + 2 + 0.9) / 3) and row["mean low"] == row["IQM high"] == ""
    assert "| IB-DQN(n) | final score | 2.633 | 2 | " in readme(tmp_path)
    assert not result.figures["relative"].axes[0].patches and "resamples" not in readme(tmp_path)


@pytest.mark.parametrize(
    "games",
    [
        {"Asterix": RELATIVE["Asterix"]},
        {"Asterix": RELATIVE["Asterix"], "Seaquest": {"minatar_dqn": (-1.0, 0.0), "minatar_mexp": (1.0, 1.0)}},
        {game: {"minatar_dqn": agents["minatar_dqn"]} for game, agents in RELATIVE.items()},
        {game: {"minatar_mexp": agents["minatar_mexp"]} for game, agents in RELATIVE.items()},
        {"Asterix": {"minatar_dqn": (-1.0, 3.0), "minatar_mexp": (1.0, 1.0)}},
    ],
    ids=["one game", "one game with positive scores", "only DQN", "no DQN", "one game with negative scores"],
)
def test_nothing_to_aggregate_relative_scores_of(games, tmp_path, make_report):
    make_relative(tmp_path, games)
    result = make_report(tmp_path)
    assert "relative" not in result.figures and "Relative to DQN" not in readme(tmp_path)
    assert ("left out of the scores relative to DQN" in result.stderr) == ("Seaquest" in games)
    assert not (tmp_path / "out" / "relative.csv").exists()


# THE OTHER AGENTS


def diverge(folder, metric="overestimation", value="nan"):
    """Make the metric's last value what a script writes of action-values that have diverged."""
    frame = pd.read_csv(folder / "eval.csv")
    frame[metric] = frame[metric].astype(object)
    frame.loc[len(frame) - 1, metric] = value
    frame.to_csv(folder / "eval.csv", index=False)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_run_whose_values_diverged_keeps_its_score(value, tmp_path, make_report):
    """Left out whole, it would make its agent look better than it is."""
    for seed, score in ((1, 8.0), (2, 10.0), (3, 0.0)):
        for game in ("MinAtar/Breakout-v1", "MinAtar/Freeway-v1"):
            make_run(tmp_path, game, "minatar_dqn", seed, [5.0, 5.0])
            folder = make_run(tmp_path, game, "minatar_mexp", seed, [score, score])
            if seed == 3:
                diverge(folder, value=value)
    result = make_report(tmp_path)
    for game in ("MinAtar/Breakout-v1", "MinAtar/Freeway-v1"):
        assert f"{game}, IB-DQN(n), seed 3: `overestimation` is not finite everywhere and left out." in result.stderr
    rows = [row for row in table(tmp_path, "games.csv") if row["agent"] == "IB-DQN(n)"]
    for row in rows:
        assert (row["runs"], float(row["final_score"])) == ("3", 6.0)
        assert float(row["overestimation"]) == pytest.approx(0.9) and float(row["action_gap"]) == pytest.approx(0.06)
    assert "No overestimation relative to DQN: that of a run is not finite." in result.stderr
    assert {row["measure"] for row in table(tmp_path, "relative.csv")} == {"final_score", "auc"}
    (improvement,) = table(tmp_path, "improvement.csv")
    assert float(improvement["probability"]) == pytest.approx(2 / 3)
    diverge(folder, "score_mean", value)
    assert f"`{folder}` is ignored: it is damaged" in make_report(tmp_path).stderr


def test_other_evaluation_steps(tmp_path, make_report):
    """What is not compared is said, and no run is blamed for it that went far enough."""
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0] * 10, every=100_000)
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 2, [1.0] * 4, every=250_000)
    make_run(tmp_path, "ALE/Qbert-v5", "dqn", 1, [1.0] * 10, every=100_000)
    make_run(tmp_path, "ALE/Qbert-v5", "dqn", 2, [1.0] * 4, every=300_000)
    notes = make_report(tmp_path).stderr
    other = "its runs have other `--eval-frequency`s; compared at"
    assert f"ALE/Pong-v5: {other} 2 of the 12 steps up to there at which there are evaluations." in notes
    assert f"ALE/Qbert-v5: {other} 3 of the 9 steps up to there at which there are evaluations." in notes
    assert "ALE/Qbert-v5: compared up to 900,000 steps, the last at which all runs were evaluated." in notes
    assert "as far as all have come" not in notes


def test_what_aggregates_leave_out(tmp_path, make_report):
    """A game with a human score is left out where an agent has others of these; an agent that has none of them is."""
    for game, agent in product(("ALE/Pong-v5", "ALE/Breakout-v5"), ("dqn", "dqn_mexp")):
        make_run(tmp_path, game, agent, 1, [4.0])
    make_run(tmp_path, "MinAtar/Asterix-v1", "my_fork", 1, [4.0])
    notes = make_report(tmp_path).stderr
    assert [row["agent"] for row in table(tmp_path, "aggregates.csv")] == ["DQN", "IB-DQN(n)"]
    assert "my_fork is left out of the aggregates: it has no game with a human score." in notes
    assert "ALE/Pong-v5 has no runs of my_fork.\n" in notes
    make_run(tmp_path, "ALE/Breakout-v5", "my_fork", 1, [1.0])
    assert "ALE/Pong-v5 has no runs of my_fork; aggregates over games leave it out.\n" in make_report(tmp_path).stderr


def test_pairs(tmp_path, make_report):
    """An agent is compared with itself at k = 0, also a fork; else with DQN, or with IQN where there is no DQN. A fork
    whose runs of one game have several k becomes several agents."""
    agents = {"dqn": None, "dqn_mexp": 18.0, "nature": 0.0, "nature_mexp": 18.0, "nature_mexp_k1": 1.0, "dueling": None}
    for agent, k in agents.items():
        args = {} if k is None else {"mean_scaling_coefficient": k}
        make_run(tmp_path, "ALE/Pong-v5", agent, 1, [1.0], **args)
    for k in (0.0, 1.0, 18.0):
        make_run(tmp_path, "ALE/Pong-v5", "fork", 1, [k], num_actions=18, mean_scaling_coefficient=k)
    make_run(tmp_path, "ALE/Qbert-v5", "iqn", 1, [1.0])
    make_run(tmp_path, "ALE/Qbert-v5", "rdq", 1, [2.0], rdq_beta=0.001)
    assert "ignored" not in make_report(tmp_path).stderr
    assert {row["agent"]: row["baseline"] for row in table(tmp_path, "improvement.csv")} == {
        "IB-DQN(n)": "DQN",
        "Nature DQN": "DQN",
        "IB-Nature DQN(n)": "Nature DQN",
        "IB-Nature DQN(1)": "Nature DQN",
        "Dueling DQN": "DQN",
        "RDQ": "IQN",
        "fork(0)": "DQN",
        "fork(1)": "fork(0)",
        "fork(n)": "fork(0)",
    }


def test_no_change_in_percent_of_nothing(tmp_path, make_report):
    for agent, score in (("minatar_dqn", 0.0), ("minatar_mexp", 9.0)):
        make_run(tmp_path, "MinAtar/Freeway-v1", agent, 1, [score])
    result = make_report(tmp_path)
    assert not [name for name in result.figures if name.startswith("change")]
    assert "No change from DQN to IB-DQN(n) in percent where DQN scored 0: Freeway." in readme(tmp_path)
    for agent, score in (("minatar_dqn", 2.0), ("minatar_mexp", 3.0)):
        make_run(tmp_path, "MinAtar/Breakout-v1", agent, 1, [score])
    assert "change_ib_dqn_n_dqn_raw" in make_report(tmp_path).figures
    assert "DQN scored 0: Freeway." in readme(tmp_path)


def test_bad_input(tmp_path, make_report):
    result = run_report(tmp_path / "nothing")
    assert result.returncode == 2 and result.stderr.startswith("error: ") and "Traceback" not in result.stderr
    result = make_report(tmp_path, check=False)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and "no run with an" in result.stderr
    result = make_report(tmp_path, "--reps", "0", check=False)
    assert result.returncode == 2 and result.stderr.startswith("error: --reps 0")
    for seed in ("-1", str(2**32)):
        result = make_report(tmp_path, "--seed", seed, check=False)
        assert result.returncode == 2 and result.stderr.startswith(f"error: --seed {seed}")
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0])
    result = make_report(tmp_path, "--out", "/proc/none", check=False)
    assert result.returncode == 2 and "--out /proc/none" in result.stderr
