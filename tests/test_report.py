"""`report.py` on synthetic suites with known answers, unfinished, ragged and damaged ones, and its statistics."""

import csv
import filecmp
import json
import re
import shlex
import shutil
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
from helpers import ROOT, load
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
    assert len(report.HUMAN) == 57 and all(low < high for low, high in report.HUMAN.values())
    assert report.normalised("ALE/Breakout-v5", np.array([1.7, 30.5, 16.1])) == pytest.approx([0, 1, 0.5])


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
    "exp_name,args,n,name",
    [
        ("dqn_atari", {}, 18, "DQN"),
        ("minatar_dqn", {"k": 0.0}, 3, "DQN"),
        ("iqn_atari_mexp", {"k": 2.0}, 18, "IB-IQN(2)"),
        ("dqn_mexp", {"k": 72.0}, 18, "IB-DQN(4n)"),
        ("lunarlander_k1", {"k": 2.0}, 4, "IB-DQN(2)"),  # what counts is config.json's k
        ("my_fork", {"k": 18.0}, 18, "my_fork"),
        ("my_fork_k4n", {"k": 72.0}, 18, "my_fork"),
        ("my_fork_k3", {"k": 18.0}, 18, "my_fork_k3"),  # no sweep's name
        ("my_fork_kn", {"k": 18.0}, None, "my_fork_kn"),
        ("nature_dqn_atari", {"k": 18.0}, 18, "IB-Nature DQN(n)"),
        ("dueling_minatar", {"rdq_beta": 0.0}, 5, "Dueling DQN"),
        ("dueling", {"rdq_beta": 0.001}, 18, "RDQ"),
        ("minatar_munchausen_k4n", {"munchausen": 0.0, "k": 20.0}, 5, "IB-Soft DQN(4n)"),
        ("softq_minatar", {"munchausen": 0.9, "entropy_form": "entropy"}, 5, "Munchausen-DQN"),
        ("softq_minatar", {"munchausen": 0.9, "entropy_form": "kl"}, 5, "Munchausen-DQN (KL)"),  # not the published one
        ("softq_minatar", {"munchausen": 0.0, "entropy_form": "kl"}, 5, "Soft DQN"),
        ("softq_minatar", {"munchausen": 0.0, "entropy_form": "entropy", "k": 5.0}, 5, "IB-Soft DQN (entropy)(n)"),
        ("softq_pg", {"method": "q"}, 18, "Online soft DQN"),
        ("minatar_softq_online", {"method": "pg"}, 5, "Policy gradient"),
        ("minatar_eaudeqn_w512", {"method": "polyprune", "width": 128, "k": 5.0}, 5, "IB-PolyPrune(n)"),
        ("eaudeqn_minatar", {"method": "eaudeqn", "width": 32, "k": 5.0}, 5, "IB-EauDeQN-32(n)"),
        ("dense", {"method": "dense", "width": 512, "env_id": "ALE/Pong-v5"}, 18, "Dense DQN"),
        ("dense", {"method": "dense", "width": 128, "env_id": "ALE/Pong-v5"}, 18, "Dense DQN-128"),
        ("isdqn_minatar", {}, 5, "iS-DQN K=9"),
        ("minatar_targetfree_noln_kn", {"layer_norm": False, "num_iterations": 0, "k": 5.0}, 5, "IB-{}(n)"),
        ("isdqn1_mexp", {"num_iterations": 1, "target_network": True, "k": 18.0}, 18, "IB-Target-based DQN(n)"),
        ("isdqn", {"num_iterations": 4, "eval_head": "random"}, 18, "iS-DQN K=4 (random head)"),
    ],
)
def test_names_of_agents(exp_name, args, n, name):
    """What counts is config.json, whatever name of benchmark.sh a run has."""
    args = {"exp_name": exp_name, "env_id": "MinAtar/Asterix-v1"} | args
    if "k" in args:
        args["mean_scaling_coefficient"] = args.pop("k")
    assert report.agent_name(args, n) == name.format("Target-free DQN without LayerNorm")


@pytest.mark.parametrize("agent", ["EauDeQN-32", "iS-DQN K=4 (random head)", "Munchausen-DQN (KL)"])
def test_baseline_of_an_agent_with_the_layer(agent):
    assert report.baseline_of(f"IB-{agent}(n)") == agent


@pytest.mark.parametrize(
    "env_id,config,n",
    [
        ("ALE/Pong-v5", {"starts": [{"num_actions": 6}], "args": {"full_action_space": True}}, 6),
        ("ALE/Pong-v5", {"args": {"full_action_space": True}}, 18),
        ("ALE/Pong-v5", {"args": {"full_action_space": False}}, None),
        ("PongNoFrameskip-v4", {"args": {"full_action_space": True}}, 18),
        ("MinAtar/Seaquest-v1", {"args": {}}, 6),
        ("MinAtar/Seaquest-v0", {"args": {}}, None),
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
    names = ["learning_curves", "normalised_curves", "aggregates", "improvement", "change_ib_dqn_n_dqn"]
    assert "warning" not in make_report(tmp_path, draw=names).stderr
    assert_drawn(tmp_path, *names)
    rows = table(tmp_path, "aggregates.csv")
    for name, values in {"mean": (0, 1), "median": (0, 1), "IQM": (0, 1), "optimality gap": (1, 0)}.items():
        for row, value in zip(rows, values, strict=True):
            assert [float(row[name + end]) for end in ("", " low", " high")] == pytest.approx([value] * 3, abs=1e-9)
            assert (row["games"], row["runs"], row["steps"]) == ("2", "3", "500000")
    (improvement,) = table(tmp_path, "improvement.csv")
    assert (improvement["agent"], improvement["baseline"]) == ("IB-DQN(n)", "DQN")
    assert float(improvement["probability"]) == 1
    row = {(row["game"], row["agent"]): row for row in table(tmp_path, "games.csv")}["ALE/Breakout-v5", "IB-DQN(n)"]
    assert (row["runs"], row["steps"], row["evaluations"]) == ("3", "500000", "2")
    measures = [float(row[name]) for name in ("final_score", "auc", "overestimation", "action_gap", "human_normalised")]
    assert measures == pytest.approx([30.5, (1.7 + 30.5) / 2, 3.05, 0.305, 1])


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
    for game, seed, agent in product(("Breakout", "Pong"), (1, 2), ("dqn", "dqn_mexp")):
        length = 3 if (game, agent, seed) == ("Pong", "dqn_mexp", 2) else 5
        make_run(tmp_path, f"ALE/{game}-v5", agent, seed, [float(i) for i in range(length)], total=2_500_000)
    text = make_report(tmp_path).stderr
    assert "ALE/Pong-v5: compared up to 750,000 steps" in text and "dqn_mexp__2" in text
    assert "ALE/Breakout-v5: its runs have come to 1,250,000 of 2,500,000 steps" in text
    steps = {row["game"]: (row["steps"], row["final_score"]) for row in table(tmp_path, "games.csv")}
    assert steps == {"ALE/Breakout-v5": ("1250000", "4.0"), "ALE/Pong-v5": ("750000", "2.0")}
    assert {row["steps"] for row in table(tmp_path, "aggregates.csv")} == {"750000"}


def test_missing_seeds_and_games(tmp_path, make_report):
    for seed in (1, 2, 3):
        make_run(tmp_path, "ALE/Pong-v5", "dqn", seed, [float(seed)])
        make_run(tmp_path, "ALE/Pong-v5", "dqn_mexp", seed, [float(seed)])
        make_run(tmp_path, "ALE/Qbert-v5", "dqn", seed, [float(seed)])
        make_run(tmp_path, "ALE/Breakout-v5", "dqn_mexp", seed, [9.0])
        if seed < 3:
            make_run(tmp_path, "ALE/Breakout-v5", "dqn", seed, [5.0])
    text = make_report(tmp_path).stderr
    assert "ALE/Qbert-v5 has no runs of IB-DQN(n)" in text and "Aggregates use 2 runs a game of DQN" in text
    rows = {row["agent"]: (row["games"], row["runs"]) for row in table(tmp_path, "aggregates.csv")}
    assert rows == {"DQN": ("2", "2"), "IB-DQN(n)": ("2", "3")}
    runs = {(row["game"], row["agent"]): row["runs"] for row in table(tmp_path, "games.csv")}
    assert runs["ALE/Pong-v5", "DQN"] == "3" and runs["ALE/Breakout-v5", "DQN"] == "2" and len(runs) == 5


def test_one_seed(tmp_path, make_report):
    """No interval is claimed of a single run, and the figures are drawn without."""
    for agent in ("iqn", "iqn_mexp"):
        make_run(tmp_path, "ALE/Pong-v5", agent, 1, [1.0, 2.0])
    make_report(tmp_path, draw=("normalised_curves", "aggregates", "improvement"))
    text = readme(tmp_path)
    assert "One run a game: no intervals." in text and "Where there is one run there is no band." in text
    assert table(tmp_path, "aggregates.csv")[0]["mean low"] == ""
    assert_drawn(tmp_path, "normalised_curves", "aggregates", "improvement")


@pytest.mark.parametrize("flags", [(), ("--interval", "minmax")])
def test_games_without_a_human_score(flags, tmp_path, make_report):
    for seed in (1, 2):
        make_run(tmp_path, "MinAtar/Breakout-v1", "minatar_dqn", seed, [1.0, 4.0 + 4.0 * seed], every=100_000)
        make_run(tmp_path, "MinAtar/Breakout-v1", "minatar_mexp", seed, [1.0, 15.0], every=100_000)
    assert "change_ib_dqn_n_dqn_raw" in make_report(tmp_path, *flags).figures
    assert "no human-normalised aggregates" in readme(tmp_path) and not (tmp_path / "out" / "aggregates.csv").exists()
    plain, modified = table(tmp_path, "games.csv")
    assert (plain["agent"], modified["agent"]) == ("DQN", "IB-DQN(n)") and "human_normalised" not in plain
    assert [plain[f"final_score{end}"] for end in ("", "_low", "_high")] == ["10.0", "8.0", "12.0"]


def test_damaged_folders_are_named(tmp_path, make_report):
    damage = {
        "no_config": lambda f: (f / "config.json").unlink(),
        "cut_config": lambda f: (f / "config.json").write_text('{"args": {'),
        "other_config": lambda f: (f / "config.json").write_text('{"args": {"seed": 3}}'),
        "empty_csv": lambda f: (f / "eval.csv").write_text(""),
        "only_header": lambda f: (f / "eval.csv").write_text(HEADER + "\n"),
        "cut_row": lambda f: (f / "eval.csv").write_text(HEADER + "\n1,2,3\n"),
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
    for name, score in (("dqn__1__1800000000", 6.0), ("dqn_atari__1__1700000000", 5.0)):
        folder = make_run(tmp_path, "ALE/Pong-v5", name.split("__")[0], 1, [4.0, 5.0, score])
        folder.rename(folder.with_name(f"Pong-v5__{name}"))
    make_report(tmp_path)
    assert [row["final_score"] for row in table(tmp_path, "games.csv")] == ["6.0"], "of equals the newer"


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


# SPARSITY


def test_sparsity_of_agents_that_prune(tmp_path, make_report):
    """Beside an agent that measures none: two figures with known points, and columns in the table."""
    make_run(tmp_path, "MinAtar/Breakout-v1", "minatar_dqn", 1, [1.0, 3.0])
    assert not {"sparsity_curves", "final_sparsity"} & {*make_report(tmp_path).figures}
    for seed, scores, sparsities in ((1, [2.0, 4.0], (0.1, 0.3)), (2, [4.0, 8.0], (0.2, 0.5))):
        args = {"method": "eaudeqn", "width": 128, "mean_scaling_coefficient": 0.0}
        folder = make_run(tmp_path, "MinAtar/Breakout-v1", "minatar_eaudeqn", seed, scores, **args)
        header, *rows = (folder / "eval.csv").read_text().splitlines()
        rows = [f"{row},{s},{round(1000 * (1 - s))}" for row, s in zip(rows, sparsities, strict=True)]
        (folder / "eval.csv").write_text("\n".join([f"{header},sparsity,nonzero_weights", *rows]) + "\n")
    figures = make_report(tmp_path).figures
    scores, sparsity = figures["sparsity_curves"].axes
    assert [line.get_ydata().tolist() for line in scores.lines] == [[1.0, 3.0], [3.0, 6.0]]
    (line,) = sparsity.lines
    np.testing.assert_allclose(line.get_ydata(), [0.15, 0.4])
    points, mean = [line.get_xydata().tolist() for line in figures["final_sparsity"].axes[0].lines]
    assert points == [[0.3, 4.0], [0.5, 8.0]] and mean == [[0.4, 6.0]]
    plain, sparse = table(tmp_path, "games.csv")
    assert (float(sparse["sparsity"]), float(sparse["nonzero_weights"])) == (pytest.approx(0.4), pytest.approx(600))
    assert plain["sparsity"] == ""


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
        "16": ([60.0, 32.0], [60.0, 32.5]),  # the best area
        "0": ([0.0, 10.0], [0.0, 20.0]),
    }
    make_sweep(tmp_path, scores)
    assert "sweep" not in make_report(tmp_path).figures, "it needs three values of k"
    more = {
        "0.5": ([0.0, 30.0], [0.0, 34.0]),
        "4": ([0.0, 33.0], [0.0, 41.0]),  # the best final score, within the interval of 0.5: 33 < 34
    }
    make_sweep(tmp_path, more)
    make_run(tmp_path, "LunarLander-v3", "my_fork", 1, [0.0, 99.0], every=10_000)  # in no sweep
    axes = make_report(tmp_path).figures["sweep"].axes
    final = {0.0: (15.0, 10.0, 20.0), 0.5: (32.0, 30.0, 34.0), 4.0: (37.0, 33.0, 41.0), 16.0: (32.25, 32.0, 32.5)}
    auc = {0.0: (7.5, 5.0, 10.0), 0.5: (16.0, 15.0, 17.0), 4.0: (18.5, 16.5, 20.5), 16.0: (46.125, 46.0, 46.25)}
    rows = table(tmp_path, "sweep.csv")
    assert [row["agent"] for row in rows] == ["DQN", "IB-DQN(0.5)", "IB-DQN(n)", "IB-DQN(4n)"], "in the order of k"
    for axis, name, numbers in zip(axes, ("final_score", "auc"), (final, auc), strict=True):
        got = {float(row["k"]): tuple(float(row[name + end]) for end in ("", "_low", "_high")) for row in rows}
        assert got == numbers
        lines = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
        assert lines["IB-DQN(k)"] == [[k, numbers[k][0]] for k in (0.5, 4.0, 16.0)]
        ((_, value),) = lines["DQN, k = 0"]
        assert value == numbers[0.0][0]
    of_final, of_auc = table(tmp_path, "best_k.csv")
    assert (of_final["measure"], of_final["best_k"], of_final["within_the_interval_of"]) == (
        "final_score",
        "4.0",
        "0.5",
    )
    assert (of_auc["measure"], of_auc["best_k"], of_auc["within_the_interval_of"]) == ("auc", "16.0", "")


def test_sweep_of_single_runs(tmp_path, make_report):
    """They have no interval, and nothing is claimed of them; of equally good k the least is the best."""
    make_sweep(tmp_path, {"0": ([1.0], [2.0]), "1": ([9.0],), "2": ([5.0], [6.0]), "4": ([7.0], [8.0])})
    make_report(tmp_path)
    row = table(tmp_path, "best_k.csv")[0]
    assert (row["best_k"], row["low"], row["within_the_interval_of"]) == ("1.0", "", "0, 2, 4")
    make_sweep(tmp_path, {"8": ([10.0], [10.0]), "16": ([10.0], [10.0])})
    make_report(tmp_path)
    assert table(tmp_path, "best_k.csv")[0]["best_k"] == "8.0"


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


def test_relative_scores_against_rliable(tmp_path, make_report):
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
    points, intervals = library.get_interval_estimates(
        {agent: [sample, samples["DQN"]] for agent, sample in samples.items()}, statistics, reps=200
    )
    rows = relative(tmp_path)
    for agent, (i, measure) in product(samples, enumerate(("final_score", "auc", "overestimation"))):
        row = rows.pop((agent, measure))
        assert [row[name] for name in ("games", "runs", "baseline_runs")] == ["3", "3" if agent == "DQN" else "2", "3"]
        for j, name in enumerate(("mean", "median", "IQM")):
            assert float(row[name]) == pytest.approx(points[agent].reshape(3, 3)[j, i])
            ends = [float(row[f"{name} low"]), float(row[f"{name} high"])]
            assert ends == pytest.approx(intervals[agent].reshape(2, 3, 3)[:, j, i])
    assert not rows


def test_relative_to_another_agent(tmp_path, make_report):
    """Its own rows are 1; DQN's are the inverse of the other's; an agent that there is not is refused."""
    make_relative(tmp_path)
    make_report(tmp_path, "--relative-to", "Dueling DQN")
    rows = relative(tmp_path)
    assert float(rows["Dueling DQN", "auc"]["mean"]) == 1 and float(rows["DQN", "auc"]["mean"]) == 0.5
    line = make_report(tmp_path, "--relative-to", "RDQ", check=False).stderr.splitlines()[-1]
    assert line == "error: --relative-to 'RDQ' is none of the agents: DQN, IB-DQN(n), Dueling DQN"
    for folder in tmp_path.glob("MinAtar/*__minatar_dqn__*"):
        shutil.rmtree(folder)
    assert "no scores relative to DQN: DQN has no runs of two games." in make_report(tmp_path).stderr


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
    games = ("MinAtar/Breakout-v1", "MinAtar/Freeway-v1")
    for game, (seed, score) in product(games, ((1, 8.0), (2, 10.0), (3, 0.0))):
        make_run(tmp_path, game, "minatar_dqn", seed, [5.0, 5.0])
        folder = make_run(tmp_path, game, "minatar_mexp", seed, [score, score])
        if seed == 3:
            diverge(folder, value=value)
    result = make_report(tmp_path)
    for game in games:
        assert f"{game}, IB-DQN(n), seed 3: `overestimation` is not finite everywhere and left out." in result.stderr
    for row in [row for row in table(tmp_path, "games.csv") if row["agent"] == "IB-DQN(n)"]:
        assert (row["runs"], float(row["final_score"])) == ("3", 6.0)
        assert float(row["overestimation"]) == pytest.approx(0.9) and float(row["action_gap"]) == pytest.approx(0.06)
    assert {row["measure"] for row in table(tmp_path, "relative.csv")} == {"final_score", "auc"}
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
    for agent, k in (("dqn", 0.0), ("nature", 0.0), ("nature_mexp", 18.0), ("fork", 0.0), ("fork", 1.0)):
        make_run(tmp_path, "ALE/Pong-v5", agent, 1, [1.0], mean_scaling_coefficient=k)
    make_run(tmp_path, "ALE/Qbert-v5", "iqn", 1, [1.0])
    make_run(tmp_path, "ALE/Qbert-v5", "rdq", 1, [2.0], rdq_beta=0.001)
    assert "ignored" not in make_report(tmp_path).stderr
    pairs = {row["agent"]: row["baseline"] for row in table(tmp_path, "improvement.csv")}
    of_forks = {"fork(0)": "DQN", "fork(1)": "fork(0)"}
    assert pairs == {"Nature DQN": "DQN", "IB-Nature DQN(n)": "Nature DQN", "RDQ": "IQN"} | of_forks


def test_no_change_in_percent_of_nothing(tmp_path, make_report):
    for agent, score in (("minatar_dqn", 0.0), ("minatar_mexp", 9.0)):
        make_run(tmp_path, "MinAtar/Freeway-v1", agent, 1, [score])
    assert not [name for name in make_report(tmp_path).figures if name.startswith("change")]
    assert "No change from DQN to IB-DQN(n) in percent where DQN scored 0: Freeway." in readme(tmp_path)


@pytest.mark.parametrize("flags", ["--reps 0", "--seed -1", f"--seed {2**32}", "--out /proc/none"])
def test_bad_flags(flags, tmp_path, make_report):
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0])
    result = make_report(tmp_path, *flags.split(), check=False)
    assert result.returncode == 2 and f"error: {flags}" in result.stderr


def test_nothing_to_report(tmp_path, make_report):
    result = make_report(tmp_path, check=False)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and "no run with an" in result.stderr
    result = run_report(tmp_path / "nothing")
    assert result.returncode == 2 and result.stderr.startswith("error: ") and "Traceback" not in result.stderr
