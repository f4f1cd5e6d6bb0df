"""`report.py` on made-up studies with known answers, unfinished, odd and damaged ones, and its statistics."""

import csv
import filecmp
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from types import SimpleNamespace

import matplotlib.image
import minatar
import numpy as np
import pytest
import scipy.stats
from helpers import ROOT, load
from rliable import library, metrics

report = load("report")
ARGS = SimpleNamespace(interval="confidence")
MINMAX = SimpleNamespace(interval="minmax")
HEADER = "step,episodes,score_mean,mean_q,overestimation,action_gap,wall_time"
K = {"dqn_mexp": 18.0, "iqn_mexp": 18.0, "minatar_dqn": 0.0, "minatar_mexp": 3.0}


def make_run(root, env_id, agent, seed, scores, every=100_000, total=None, sparsity=None, **args):
    """A run's two files; its overestimation is a tenth of its score, its action gap a hundredth."""
    folder = root / f"{env_id}__{agent}__{seed}__{len(list(root.rglob('config.json')))}"
    folder.mkdir(parents=True)
    args = {"exp_name": agent, "env_id": env_id, "seed": seed, "total_timesteps": total or every * len(scores)} | args
    if agent in K:
        args.setdefault("mean_scaling_coefficient", K[agent])
    n = {"ALE": 18, "MinAtar": 3}.get(env_id.split("/")[0], 4)
    (folder / "config.json").write_text(json.dumps({"args": args, "starts": [{"step": 0, "num_actions": n}]}))
    rows = [f"{every * (i + 1)},10,{s},1,{s / 10},{abs(s) / 100},5.0" for i, s in enumerate(scores)]
    header = HEADER
    if sparsity is not None:
        header += ",sparsity"
        rows = [f"{row},{sparsity}" for row in rows]
    (folder / "eval.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


@pytest.fixture
def make_report(monkeypatch, capsys):
    """A function that makes the report of the runs below a folder, in this process, into its folder out; figures are
    not saved, but returned as what draws them, by name."""
    write = report.Report.write

    def make_report(root, *flags, check=True):
        figures = {}

        def write_tables(self, out):
            figures.update(self.figures)
            self.figures = {}
            write(self, out)

        monkeypatch.setattr(report.Report, "write", write_tables)
        roots = root if isinstance(root, list) else [root]
        argv = ["report.py", *map(str, roots), "--out", f"{roots[0]}/out", *map(str, flags)]
        monkeypatch.setattr(sys, "argv", argv)
        capsys.readouterr()
        code = 0
        try:
            report.main()
        except SystemExit as exit:
            code = exit.code
        stdout, stderr = capsys.readouterr()
        assert not check or code == 0, stderr
        return SimpleNamespace(code=code, stdout=stdout, stderr=stderr, figures=figures)

    return make_report


def table(root, name):
    with open(root / "out" / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def page(root):
    return (root / "out" / "README.md").read_text()


def three(row, name):
    return [float(row[f"{name}{end}"] or "nan") for end in ("", "_low", "_high")]


# STATISTICS


def test_human_scores():
    assert len(report.HUMAN) == 57 and all(low < high for low, high in report.HUMAN.values())
    assert report.normalised("ALE/Breakout-v5", np.array([1.7, 30.5, 16.1])) == pytest.approx([0, 1, 0.5])


def test_intervals_of_one_game():
    values = np.array([[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]])
    mean, low, high = report.band(values, ARGS, "final_score", "ALE/Pong-v5")
    expected = scipy.stats.ttest_1samp(values[:, 0], 0).confidence_interval()
    assert (mean[0], low[0], high[0]) == pytest.approx((4, *expected)) and low[1] == high[1] == 5
    assert report.band(values, ARGS, "final_score", "MinAtar/Asterix-v1")[1, 0] == 0, "no score is below 0 there"
    assert report.band(values, ARGS, "sparsity", "ALE/Pong-v5")[2, 0] == 1
    assert report.band(values, MINMAX, "final_score", "ALE/Pong-v5")[:, 0].tolist() == [4, 1, 8]
    assert report.band(values[:2], ARGS, "final_score", "ALE/Pong-v5")[:, 0].tolist() == [2, 1, 3], "of two runs, both"
    assert np.isnan(report.band(values[:1], ARGS, "final_score", "ALE/Pong-v5")[1:]).all()


def test_half_width_is_welchs():
    x, y = np.random.default_rng(0).normal(size=(2, 4))
    interval = scipy.stats.ttest_ind(x, y[:3], equal_var=False).confidence_interval()
    half, _ = report.half_width([x[:, None], y[:3, None]])
    assert half == pytest.approx((interval.high - interval.low) / 2)
    assert np.isnan(report.half_width([x[:2, None]])).all(), "one degree of freedom"
    assert report.half_width([np.ones((3, 2))]) == (0, 1)


@pytest.mark.parametrize("with_baseline", [False, True])
def test_aggregates_against_rliable(with_baseline, monkeypatch):
    """The values, and the bootstrap's interval before it is stretched by sqrt(n / (n - 1)) t / 1.96."""
    monkeypatch.setattr(report, "RESAMPLES", 20_000)
    generator = np.random.default_rng(0)
    scores = generator.gamma(4.0, 0.25, size=(5, 7))
    baseline = generator.gamma(40.0, 0.025, size=(5, 7)) if with_baseline else np.ones((2, 7))
    names = (metrics.aggregate_mean, metrics.aggregate_median, metrics.aggregate_iqm, metrics.aggregate_optimality_gap)
    values, low, high = report.aggregate(scores, baseline).T

    def statistics(x, y):
        return np.array([name(x / y.mean(0)) for name in names])

    assert values == pytest.approx(statistics(scores, baseline))
    np.random.seed(2)  # rliable 1.2.0 draws from the global generator
    _, expected = library.get_interval_estimates({"x": [scores, baseline]}, statistics, reps=1_000)
    ratios = scores / baseline.mean(0)
    variance = ratios.var(0, ddof=1) / 5
    if with_baseline:
        variance = np.concatenate([variance, (ratios.mean(0) / baseline.mean(0)) ** 2 * baseline.var(0, ddof=1) / 5])
    df = variance.sum() ** 2 / (variance**2 / 4).sum()
    stretch = np.sqrt(5 / 4) * scipy.stats.t.ppf(0.975, df) / 1.96
    for i in (1, 2):
        ends = values[i] + stretch * (expected["x"][:, i] - values[i])
        assert [low[i], high[i]] == pytest.approx(ends, abs=0.02)
    assert high[0] - low[0] == pytest.approx(stretch * (expected["x"][1, 0] - expected["x"][0, 0]), rel=0.1)
    assert report.aggregate(scores, baseline).T.tolist() == [values.tolist(), low.tolist(), high.tolist()], "seeded"


def test_probability_of_improvement():
    generator = np.random.default_rng(0)
    for runs, others, games in ((3, 5, 7), (1, 1, 2), (4, 4, 1)):
        x = generator.integers(0, 4, size=(runs, games)).astype(float)  # with ties
        y = generator.integers(0, 4, size=(others, games)).astype(float)
        value, low, high = report.probability_of_improvement(x, y)
        assert value == pytest.approx(metrics.probability_of_improvement(x, y))
        if runs > 1:  # Wilson's ends: there the value lies t standard deviations from the mean
            t = scipy.stats.t.ppf(0.975, games * (runs + others - 2))
            trials = 0.25 / ((runs + others + 1) / (12 * runs * others * games))  # Mann & Whitney's variance
            for end in (low, high):
                assert abs(value - end) == pytest.approx(t * np.sqrt(end * (1 - end) / trials))
    three_wins = report.probability_of_improvement(np.array([[4.0], [5], [6]]), np.array([[1.0], [2], [3]]))
    assert three_wins[0] == 1 and three_wins[1] < 0.5, "by chance in one of ten studies"


def test_ratios():
    x, y = np.array([2.0, 3.0, 4.0]), np.array([1.0, 1.5, 2.0])
    value, low, high = report.ratio([(x, y)], geometric=True)
    assert value == pytest.approx(2) and low * high == pytest.approx(4)
    assert report.ratio([(y, x)], geometric=True) == pytest.approx((1 / value, 1 / high, 1 / low))
    assert report.ratio([(x, y), (y, x)], geometric=True)[0] == pytest.approx(1)
    assert report.ratio([(x, y), (y, x)], geometric=False)[0] == pytest.approx(1.25)
    assert np.isnan(report.ratio([(x, np.array([0.0, 1.0, 2.0]))], geometric=False)).all()
    assert report.ratio([(-x, y)], geometric=False)[0] == pytest.approx(-2)
    assert report.above(x, y) == 0 and report.above(x + 1, y) == 1 and report.above(y, x + 1) == -1
    assert report.above(x[:2] + 9, y) == 0, "two runs separate by chance"


@pytest.mark.slow
def test_intervals_cover(monkeypatch):
    """Of studies with normal scores about 95% of the intervals hold the true value, of 3 runs too; a percentile
    bootstrap's hold it in 73% of studies of one game and in 86% of five."""
    monkeypatch.setattr(report, "RESAMPLES", 400)
    generator = np.random.default_rng(0)
    for games, runs in product((1, 5), (3, 5)):
        covered = []
        for _ in range(500):
            x, y = generator.normal(10, 1, size=(2, runs, games))
            one = report.band(x[:, 0], ARGS, "final_score", "")
            mean, median, iqm, _ = report.aggregate(x, np.ones((2, games)))
            pairs = list(zip(x.T, y.T, strict=True))
            truths = [10, 10, 10, 10, 0.5, 1, 1]
            probability = report.probability_of_improvement(x, y)
            found = [one, mean, median, iqm, probability, report.ratio(pairs, True), report.ratio(pairs, False)]
            covered.append([low <= truth <= high for (_, low, high), truth in zip(found, truths, strict=True)])
        assert (np.mean(covered, axis=0) > 0.9).all(), (games, runs, np.mean(covered, axis=0))


# NAMES


@pytest.mark.parametrize(
    "exp_name,k,n,name",
    [
        ("dqn_atari", 0, 18, "DQN"),
        ("iqn_atari_mexp", 2, 18, "IB-IQN(2)"),
        ("minatar_mexp_k4n", 20, 5, "IB-DQN(4n)"),
        ("lunarlander_k0.5", 0.5, 4, "IB-DQN(0.5)"),
        ("minatar_targetfree_noln_kn", 5, 5, "IB-Target-free DQN without LayerNorm(n)"),
        ("eaudeqn_w32", 0, 18, "EauDeQN-32"),
        ("my_fork", 0, 18, "my_fork"),  # nothing has to be entered for a new agent
        ("minatar_my_fork_mexp", 5, 5, "IB-my_fork(n)"),
        ("my_fork_k4n", 72, 18, "IB-my_fork(4n)"),
        ("my_fork_k3", 18, 18, "IB-my_fork_k3(n)"),  # no sweep's name
        ("my_fork_kn", 18, float("nan"), "IB-my_fork_kn(18)"),
    ],
)
def test_names_of_agents(exp_name, k, n, name):
    base, agent = report.name_agent(exp_name, k, n)
    assert agent == name and (base == name if k == 0 else name.startswith(f"IB-{base}("))


@pytest.mark.parametrize(
    "game,config,n",
    [
        ("ALE/Pong-v5", {"starts": [{"num_actions": 6}], "args": {"full_action_space": True}}, 6),
        ("ALE/Pong-v5", {"args": {"full_action_space": True}}, 18),
        ("MinAtar/Seaquest-v1", {"args": {}}, 6),
    ],
)
def test_number_of_actions(game, config, n):
    assert report.num_actions(config, game) == n


def test_number_of_actions_of_minatar():
    """The table for runs whose config.json does not tell."""
    for game, n in report.MINATAR_ACTIONS.items():
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", game).lower()  # space_invaders
        assert n == len(minatar.Environment(name).minimal_action_set())


# A STUDY WITH KNOWN ANSWERS: two games with a human score and three without, a sweep over k and an agent that prunes


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of its runs, and of its report as a user makes it, with the output of that."""
    root = tmp_path_factory.mktemp("study")
    for game, seed in product(("Breakout", "Pong"), (1, 2, 3)):
        low, high = report.HUMAN[f"ALE/{game}-v5"]
        make_run(root, f"ALE/{game}-v5", "dqn", seed, [low, low])
        make_run(root, f"ALE/{game}-v5", "dqn_mexp", seed, [low, high])
    for game, seed in product(("Asterix", "SpaceInvaders"), (1, 2, 3)):
        for agent, k, score in (("dqn", 0.0, 10), ("mexp_k1", 1.0, 20), ("mexp", 3.0, 40), ("mexp_k4n", 12.0, 30)):
            scores = [0.5 * (score + seed), score + seed]
            make_run(root, f"MinAtar/{game}-v1", f"minatar_{agent}", seed, scores, mean_scaling_coefficient=k)
        sparsity = seed / 10
        make_run(root, f"MinAtar/{game}-v1", "minatar_a|b", seed, [5.0, 6.0], sparsity=sparsity, temperature=0.1)
    result = subprocess.run(
        [sys.executable, ROOT / "report.py", root, "--out", root / "out"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return SimpleNamespace(root=root, stdout=result.stdout, stderr=result.stderr)


def test_tables_of_the_study(study):
    rows = table(study.root, "aggregates")
    assert [row["agent"] for row in rows] == ["DQN", "IB-DQN(n)"]
    for name, values in {"mean": (0, 1), "median": (0, 1), "IQM": (0, 1), "optimality_gap": (1, 0)}.items():
        for row, value in zip(rows, values, strict=True):
            assert three(row, name) == pytest.approx([value] * 3, abs=1e-9) and (row["games"], row["runs"]) == (
                "2",
                "3",
            )
    rows = {(row["game"], row["agent"]): row for row in table(study.root, "games")}
    row = rows["ALE/Breakout-v5", "IB-DQN(n)"]
    assert (row["runs"], row["steps"], row["evaluations"], row["k"]) == ("3", "200000", "2", "18")
    for name, value in {"final_score": 30.5, "auc": 16.1, "overestimation": 3.05, "human_normalised": 1}.items():
        assert float(row[name]) == pytest.approx(value)
    row = rows["MinAtar/Asterix-v1", "a|b"]
    half = scipy.stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert three(row, "sparsity") == pytest.approx([0.2, 0, 0.2 + half]) and row["human_normalised"] == ""
    rows = {(row["agent"], row["measure"]): row for row in table(study.root, "relative")}
    assert three(rows["IB-DQN(n)", "final_score"], "mean") == pytest.approx([3.5, 3.174, 3.826], abs=1e-3)
    assert {row["games"] for row in rows.values()} == {"2"} and ("a|b", "overestimation") in rows
    rows = {(row["agent"], row["baseline"], row["measure"]): row for row in table(study.root, "improvement")}
    assert float(rows["IB-DQN(n)", "DQN", "auc"]["probability"]) == 1 and ("a|b", "DQN", "auc") in rows
    best = [row for row in table(study.root, "best_k") if row["game"] == "MinAtar/Asterix-v1"]
    assert [(row["measure"], row["best_k"], row["within_the_interval_of_k"]) for row in best] == [
        ("final_score", "3", "none"),
        ("auc", "3", "none"),
    ]


def test_page_of_the_study(study):
    text = page(study.root)
    assert text.startswith("# Report\n\n42 runs, 4 games, 3 seeds of an agent in a game: DQN, IB-DQN(1), IB-DQN(n), ")
    assert r"| Space Invaders | a\|b | 3 | 200,000 |" in text and "SpaceInvaders" not in text
    assert "9 scores of 15" in text and "of two seeds" not in text
    lines = study.stdout.splitlines()
    assert lines[0].startswith("reading ") and lines[1] == "42 runs, 4 games" and lines[-1].endswith("out/README.md")
    out = study.root / "out"
    linked = re.findall(r"\((\w+)\.png\)", text)
    assert {"learning_curves", "sparsity", "final_sparsity", "sweep", "relative", "aggregates", "changes"} < {*linked}
    for name in linked:
        image = matplotlib.image.imread(out / f"{name}.png")
        assert len(np.unique(image[::2, ::2, 0])) > 20, f"{name} is empty"
        assert (out / f"{name}.svg").read_text().count("<path") > 5
    others = {path.name for path in out.iterdir()} - {f"{name}.{end}" for name in linked for end in ("png", "svg")}
    assert all(name.endswith(".csv") or name == "README.md" for name in others), others


def test_the_same_runs_give_the_same_report(study, tmp_path):
    """Byte for byte, also where NumPy and its linear algebra have none of this processor's instructions."""
    plain = {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 X86_V3 X86_V4", "OPENBLAS_CORETYPE": "Prescott"}
    command = [sys.executable, "-W", "ignore", ROOT / "report.py", study.root, "--out", tmp_path]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | plain)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert filecmp.cmpfiles(study.root / "out", tmp_path, names, shallow=False) == (names, [], [])


def test_forest(study, make_report):
    result = make_report(study.root, "--forest")
    rows = {(row["family"], row["game"], row["measure"]): row for row in table(study.root, "forest")}
    row = rows["MinAtar", "all", "final_score"]
    assert (row["agent"], row["runs_with"], row["separate"]) == ("DQN", "3", "True")
    assert float(row["ratio"]) == pytest.approx(3.5) and float(row["ratio_low"]) < 3.5 < float(row["ratio_high"])
    assert rows["Atari", "ALE/Pong-v5", "final_score"]["ratio"] == "", "a score below 0 divides nothing"
    lines = (study.root / "out" / "forest.md").read_text().splitlines()
    assert lines[0] == "| agent | Breakout (Atari) | Pong (Atari) | Asterix | Space Invaders |"
    assert lines[2].endswith("| **42 / 12**<br>**4.2 / 1.2** | **42 / 12**<br>**4.2 / 1.2** |")
    figure = result.figures["forest"]()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    markers = [line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert [label.split(": ")[1] for label in labels] == ["2 Atari games, 200k steps", "2 MinAtar games, 200k steps"]
    assert markers == ["black"], "the seeds separate in both games"
    before = table(study.root, "forest")
    make_report([study.root, f"{study.root}/."], "--forest")
    assert len(table(study.root, "forest")) == len(before), "a folder given twice is one"
    none = make_report(study.root, "--forest", "--k", "2n", check=False)
    assert none.code == 2 and "no agent has played a game both with k = 2n and without the layer" in none.stderr


def test_folders_of_one_name_are_two_lines_of_the_forest(tmp_path, make_report):
    roots = [tmp_path / name / "runs" for name in ("one", "two")]
    for root, agent, seed in product(roots, ("minatar_dqn", "minatar_mexp"), (1, 2)):
        make_run(root, "MinAtar/Breakout-v1", agent, seed, [1.0])
    make_report(roots, "--forest", "--out", tmp_path / "out")
    assert len({row["name"] for row in table(tmp_path, "forest")}) == 2


# RUNS AS THEY COME


def test_a_smoke_run_is_left_out(tmp_path, make_report):
    for seed, game in product((1, 2, 3), ("Pong", "Qbert")):
        make_run(tmp_path, f"ALE/{game}-v5", "dqn", seed, [1.0] * 4)
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 4, [9.0, 9.0], every=500)
    make_run(tmp_path, "ALE/Qbert-v5", "dqn", 4, [9.0] * 3, every=99_000)
    result = make_report(tmp_path)
    notes = result.stderr.splitlines()
    assert "dqn__4__" in notes[0] and notes[0].endswith(
        "2 evaluations up to 1,000 steps, which most runs of ALE/Pong-v5 do not share."
    )
    assert "up to 297,000 steps" in notes[1]
    assert {(row["runs"], row["final_score"], row["steps"]) for row in table(tmp_path, "games")} == {
        ("3", "1", "400000")
    }


def test_lengths_and_missing_runs(tmp_path, make_report):
    """Compared at what all runs of a game share; over games, as many runs of each as the game with the fewest has."""
    for game, seed, agent in product(("Breakout", "Pong"), (1, 2, 3), ("dqn", "dqn_mexp")):
        length = 3 if (game, agent, seed) == ("Pong", "dqn_mexp", 2) else 5
        if (game, agent, seed) != ("Breakout", "dqn", 3):
            make_run(tmp_path, f"ALE/{game}-v5", agent, seed, [float(i) for i in range(length)], total=1_000_000)
    make_run(tmp_path, "ALE/Qbert-v5", "dqn", 1, [1.0])
    text = make_report(tmp_path).stderr
    assert "ALE/Pong-v5: compared at what all runs share, 3 evaluations, up to 300,000 of 1,000,000 steps" in text
    assert "ALE/Breakout-v5: compared at what all runs share, 5 evaluations, up to 500,000 of 1,000,000 steps" in text
    assert "ALE/Qbert-v5 has no runs of IB-DQN(n)." in text
    steps = {row["game"]: (row["steps"], row["final_score"]) for row in table(tmp_path, "games")}
    assert steps["ALE/Breakout-v5"] == ("500000", "4") and steps["ALE/Pong-v5"] == ("300000", "2")
    rows = {row["agent"]: (row["games"], row["runs"]) for row in table(tmp_path, "aggregates")}
    assert rows == {"DQN": ("2", "2"), "IB-DQN(n)": ("2", "3")}


def test_one_seed_and_two(tmp_path, make_report):
    """No interval is claimed of them, no section is empty, and the gridworld's figures of the quick suite are shown."""
    runs = tmp_path / "runs"
    (tmp_path / "tabular").mkdir()
    (tmp_path / "tabular" / "values.png").touch()
    for seed, agent in product((1, 2), ("minatar_dqn", "minatar_mexp")):
        make_run(runs, "MinAtar/SpaceInvaders-v1", agent, seed, [1.0, 4.0 + 4.0 * seed])
    figures = make_report(runs, "--out", tmp_path / "out").figures
    text = page(tmp_path)
    assert (
        "4 runs, 1 game, 2 seeds of an agent in a game: DQN, IB-DQN(n)." in text
        and "of two seeds they hold both" in text
    )
    assert "![Gridworld: values](../tabular/values.png)" in text
    assert re.findall("^## (.*)", text, re.M) == ["Against the baseline", "Game by game", "Reading it"]
    assert three(table(tmp_path, "games")[0], "final_score") == [10, 8, 12]
    figure = figures["changes_raw"]()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["Space Invaders"]
    shutil.rmtree(tmp_path / "tabular")
    for folder in runs.glob("MinAtar/*__2__*"):
        shutil.rmtree(folder)
    make_report(runs, "--out", tmp_path / "out")
    assert "2 runs, 1 game, 1 seed of an agent" in page(tmp_path) and table(tmp_path, "games")[0]["auc_low"] == ""


def test_runs_behind_symbolic_links(tmp_path, make_report):
    """Runs kept elsewhere are found, each once, and a link to a folder around it ends no report."""
    make_run(tmp_path / "elsewhere", "ALE/Pong-v5", "dqn", 1, [1.0])
    runs = tmp_path / "runs"
    make_run(runs, "ALE/Pong-v5", "dqn_mexp", 1, [2.0])
    for name in ("linked", "linked again"):
        (runs / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "around").symlink_to(runs)
    result = make_report([runs, tmp_path / "elsewhere"])
    assert "2 runs, 1 game\n" in result.stdout and "ignored" not in result.stderr


def test_damaged_folders_are_named(tmp_path, make_report):
    damage = {
        "no_config": lambda f: (f / "config.json").unlink(),
        "cut_config": lambda f: (f / "config.json").write_text('{"args": {'),
        "other_config": lambda f: (f / "config.json").write_text('{"args": {"seed": 3}}'),
        "no_start": lambda f: (f / "config.json").write_text(
            '{"args": {"env_id": "MinAtar/Asterix-v1", "exp_name": "dqn"}, "starts": []}'
        ),
        "empty_csv": lambda f: (f / "eval.csv").write_text(""),
        "only_header": lambda f: (f / "eval.csv").write_text(HEADER + "\n"),
        "cut_row": lambda f: (f / "eval.csv").write_text(HEADER + "\n1,2,3\n"),
        "binary": lambda f: (f / "eval.csv").write_bytes(bytes(range(256))),
        "no_norm": lambda f: (f / "eval.csv").write_text(HEADER + ",q_norm\n1,2,3,4,5,6,7,\n"),
        "twice": lambda f: (f / "eval.csv").write_text(HEADER + "\n" + "5,2,3,4,5,6,7\n" * 2),
        "no_score": lambda f: (f / "eval.csv").write_text(HEADER + "\n5,2,nan,4,5,6,7\n"),
    }
    for i, (name, hurt) in enumerate(damage.items()):
        hurt(make_run(tmp_path / name, "ALE/Pong-v5", "dqn", 10 + i, [1.0]))
    (make_run(tmp_path / "young", "ALE/Pong-v5", "dqn", 50, [1.0]) / "eval.csv").unlink()
    result = make_report(tmp_path, check=False)
    assert result.code == 2 and "holds no run with an evaluation" in result.stderr
    make_run(tmp_path / "good", "ALE/Pong-v5", "dqn", 1, [1.0])
    result = make_report(tmp_path)
    assert "1 run, 1 game\n" in result.stdout
    for name in damage:
        line = next(line for line in result.stderr.splitlines() if f"/{name}/" in line)
        assert "is damaged" in line and line.removeprefix("warning: ") in page(tmp_path)
    assert next(line for line in result.stderr.splitlines() if "/young/" in line).endswith("not been evaluated yet.")
    make_run(tmp_path / "good", "ALE/Pong-v5", "dqn", 2, [1.0], every=77_777)
    for folder in (*damage, "young"):
        shutil.rmtree(tmp_path / folder)
    result = make_report(tmp_path, check=False)
    assert "ALE/Pong-v5 is left out: its runs share no evaluation step." in result.stderr
    assert "holds no runs that can be compared" in result.stderr


def test_of_two_runs_of_a_seed_the_longer_counts(tmp_path, make_report):
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0, 2.0, 3.0])
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [9.0])
    assert "another run of ALE/Pong-v5, DQN, seed 1 is as long or longer" in make_report(tmp_path).stderr
    assert [(row["runs"], row["final_score"]) for row in table(tmp_path, "games")] == [("1", "3")]
    for name, score in (("dqn__1__1800000000", 6.0), ("dqn_atari__1__1700000000", 5.0)):
        folder = make_run(tmp_path, "ALE/Pong-v5", name.split("__")[0], 1, [4.0, 5.0, score])
        folder.rename(folder.with_name(f"Pong-v5__{name}"))
    make_report(tmp_path)
    assert [row["final_score"] for row in table(tmp_path, "games")] == ["6"], "of equals the newer"


def test_settings_that_differ(tmp_path, make_report):
    """Noted among the runs of an agent and from its baseline's, but for what changes no result and flags that an older
    run lacks."""
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [4.0], gamma=0.99, save_best=True)
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 2, [4.0], gamma=0.99, adam_eps=1.5e-4)
    tuned = make_run(tmp_path, "ALE/Pong-v5", "dqn_mexp", 1, [5.0], gamma=0.99)
    assert "differ" not in make_report(tmp_path).stderr
    (tuned / "config.json").write_text((tuned / "config.json").read_text().replace("0.99", "0.9"))
    assert "IB-DQN(n) and DQN, with which it is compared, differ in `--gamma`." in make_report(tmp_path).stderr
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 3, [4.0], gamma=0.9, adam_eps=1e-8)
    assert "The runs of DQN differ in `--adam-eps`, `--gamma`." in make_report(tmp_path).stderr


def test_a_measure_that_not_all_runs_have_is_named(tmp_path, make_report):
    for seed, sparsity in ((1, None), (2, 0.5), (3, 0.5)):
        make_run(tmp_path, "ALE/Pong-v5", "dense", seed, [4.0], sparsity=sparsity)
        make_run(tmp_path, "ALE/Pong-v5", "eaudeqn", seed, [4.0], sparsity=0.5)
        make_run(tmp_path, "ALE/Pong-v5", "dqn", seed, [4.0])
    assert "`sparsity` of Dense DQN is that of the runs that have it, not of all." in make_report(tmp_path).stderr


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_run_whose_values_diverged_keeps_its_score(value, tmp_path, make_report):
    """Left out whole, it would make its agent look better than it is."""
    for game, seed in product(("Breakout", "Freeway"), (1, 2, 3)):
        make_run(tmp_path, f"MinAtar/{game}-v1", "minatar_dqn", seed, [5.0])
        folder = make_run(tmp_path, f"MinAtar/{game}-v1", "minatar_mexp", seed, [6.0 - 3 * (seed == 3)])
        if seed == 3:
            text = (folder / "eval.csv").read_text()
            (folder / "eval.csv").write_text(text.replace(",0.3,", f",{value},"))
    notes = make_report(tmp_path).stderr
    assert "MinAtar/Freeway-v1, IB-DQN(n), seed 3: `overestimation` is not finite everywhere and left out." in notes
    for row in [row for row in table(tmp_path, "games") if row["agent"] == "IB-DQN(n)"]:
        assert [float(row[name]) for name in ("runs", "final_score", "overestimation")] == pytest.approx([3, 5, 0.6])
    assert {row["measure"] for row in table(tmp_path, "relative")} == {"final_score", "auc"}
    assert "Left out relative to DQN: overestimation (" in notes


def test_pairs_and_relative_to(tmp_path, make_report):
    """An agent is compared with itself without the layer, else with DQN, IQN or that of --relative-to."""
    for agent, k in (("dqn", 0.0), ("nature", 0.0), ("nature_mexp", 18.0), ("fork", 0.0), ("fork", 1.0)):
        make_run(tmp_path, "ALE/Pong-v5", agent, 1, [1.0], mean_scaling_coefficient=k)
    make_run(tmp_path, "ALE/Qbert-v5", "iqn", 1, [1.0])
    make_run(tmp_path, "ALE/Qbert-v5", "rdq", 1, [2.0])
    make_report(tmp_path)
    pairs = {row["agent"]: row["baseline"] for row in table(tmp_path, "improvement")}
    forks = {"fork": "DQN", "IB-fork(1)": "fork"}
    assert pairs == {"Nature DQN": "DQN", "IB-Nature DQN(n)": "Nature DQN", "RDQ": "IQN"} | forks
    line = make_report(tmp_path, "--relative-to", "EauDeQN", check=False).stderr.splitlines()[-1]
    assert line.startswith("error: --relative-to 'EauDeQN' is none of the agents: DQN, IQN, Nature DQN, ")


def test_no_page_but_a_report_is_overwritten(tmp_path, make_report):
    make_run(tmp_path / "runs", "ALE/Pong-v5", "dqn", 1, [1.0])
    path = tmp_path / "README.md"
    path.write_text("# My page\n")
    result = make_report(tmp_path / "runs", "--out", tmp_path, check=False)
    error = f"error: --out {tmp_path} holds a README.md that is no report and would be lost; name another folder\n"
    assert (result.code, result.stderr, path.read_text()) == (2, error, "# My page\n")
    path.write_text("")
    for _ in range(2):
        make_report(tmp_path / "runs", "--out", tmp_path)
    assert path.read_text().startswith("# Report\n")


def test_a_killed_report_leaves_the_one_before_it(tmp_path):
    """Whole, in spite of what has been drawn."""
    for i in range(20):
        make_run(tmp_path, f"Game{i}", "dqn", 1, [1.0])
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("# Report\nof yesterday")
    process = subprocess.Popen([sys.executable, ROOT / "report.py", tmp_path, "--out", out], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list(out.glob(".unfinished-*/*.png")) and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["README.md"]
    assert (out / "README.md").read_text() == "# Report\nof yesterday"


def test_bad_flags(tmp_path, make_report):
    result = make_report(tmp_path / "nothing", check=False)
    assert result.code == 2 and result.stderr.endswith("is no folder; name the one that holds the runs, such as runs\n")
    make_run(tmp_path, "ALE/Pong-v5", "dqn", 1, [1.0])
    result = make_report(tmp_path, "--out", "/proc/none", check=False)
    assert result.code == 2 and result.stderr.startswith("error: --out /proc/none cannot be written to (")
    assert make_report(tmp_path, "--out", "/proc", check=False).stderr.startswith("error: --out /proc cannot be")
