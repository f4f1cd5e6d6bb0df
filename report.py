# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "scipy==1.17.1",
#     "tqdm==4.70.1",
#     "tyro==1.0.17",
# ]
# ///
"""The paper's tables and figures from folders of runs, finished or not: reads their `config.json` and `eval.csv`.

Writes README.md, figures (PNG and SVG) and tables (CSV): every game's curves; mean, median, IQM and optimality gap of
human-normalised scores (Agarwal et al. 2021), or relative to DQN over games without a human score; sweeps over k; every
agent against its baseline. `--forest` makes instead a figure and a table of all agents with the layer over those
without it. The same runs give the same files, byte for byte.

Usage: python report.py runs --out report
       python report.py docs/minatar docs/softq --forest --out docs/evidence
"""

import csv
import gc
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, product
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NoReturn

import numpy as np
import tyro
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter
from scipy.special import stdtrit
from tqdm import tqdm

rcParams.update({"svg.hashsalt": "mean-expansion", "text.parse_math": False})  # no random ids; a $ in a name is a $
rcParams.update({"font.size": 9, "axes.titlesize": 9, "axes.titley": 1.0, "axes.grid": True, "grid.alpha": 0.3})
rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
gc.set_threshold(100_000)  # a figure is many objects


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[str, ...]]  # folders of runs, or runs; subfolders are searched
    out: str = "report"  # the folder to write to
    interval: Literal["confidence", "minmax"] = "confidence"  # bands of a game: 95%, or from the least run to the best
    relative_to: str = "DQN"  # the agent by whose mean the scores of games without a human score are divided
    forest: bool = False  # draw the agents with the layer over those without it, each folder a study of its own
    k: str = "n"  # of the agents with the layer in --forest


# CONSTANTS

# Random and human scores of the 57 games, no-op starts (Wang et al. 2016, as in DQN Zoo)
SCORES = """
    Alien 227.8 7127.7, Amidar 5.8 1719.5, Assault 222.4 742.0, Asterix 210.0 8503.3, Asteroids 719.1 47388.7,
    Atlantis 12850.0 29028.1, BankHeist 14.2 753.1, BattleZone 2360.0 37187.5, BeamRider 363.9 16926.5,
    Berzerk 123.7 2630.4, Bowling 23.1 160.7, Boxing 0.1 12.1, Breakout 1.7 30.5, Centipede 2090.9 12017.0,
    ChopperCommand 811.0 7387.8, CrazyClimber 10780.5 35829.4, Defender 2874.5 18688.9, DemonAttack 152.1 1971.0,
    DoubleDunk -18.6 -16.4, Enduro 0.0 860.5, FishingDerby -91.7 -38.7, Freeway 0.0 29.6, Frostbite 65.2 4334.7,
    Gopher 257.6 2412.5, Gravitar 173.0 3351.4, Hero 1027.0 30826.4, IceHockey -11.2 0.9, Jamesbond 29.0 302.8,
    Kangaroo 52.0 3035.0, Krull 1598.0 2665.5, KungFuMaster 258.5 22736.3, MontezumaRevenge 0.0 4753.3,
    MsPacman 307.3 6951.6, NameThisGame 2292.3 8049.0, Phoenix 761.4 7242.6, Pitfall -229.4 6463.7,
    Pong -20.7 14.6, PrivateEye 24.9 69571.3, Qbert 163.9 13455.0, Riverraid 1338.5 17118.0,
    RoadRunner 11.5 7845.0, Robotank 2.2 11.9, Seaquest 68.4 42054.7, Skiing -17098.1 -4336.9,
    Solaris 1236.3 12326.7, SpaceInvaders 148.0 1668.7, StarGunner 664.0 10250.0, Surround -10.0 6.5,
    Tennis -23.8 -8.3, TimePilot 3568.0 5229.2, Tutankham 11.4 167.6, UpNDown 533.4 11693.2, Venture 0.0 1187.5,
    VideoPinball 16256.9 17667.9, WizardOfWor 563.5 4756.5, YarsRevenge 3092.9 54576.9, Zaxxon 32.5 9173.3
"""
HUMAN = {}  # game: (score of the random policy, score of a human)
for line in SCORES.split(","):
    game_name, random_score, human_score = line.split()
    HUMAN[f"ALE/{game_name}-v5"] = (float(random_score), float(human_score))

# Names for tables and figures, in their order, of what `base_name` leaves of an `--exp-name`; others keep that
NAMES = """
    dqn DQN, minatar DQN, lunarlander DQN, iqn IQN, nature Nature DQN, nature_dqn Nature DQN, dueling Dueling DQN,
    rdq RDQ, softq Soft DQN, munchausen Munchausen-DQN, softq_online Online soft DQN, softq_pg Policy gradient,
    targetbased Target-based DQN, targetfree Target-free DQN, targetfree_noln Target-free DQN without LayerNorm,
    isdqn1 iS-DQN K=1, isdqn iS-DQN K=9, eaudeqn EauDeQN, eaudeqn_w32 EauDeQN-32, polyprune PolyPrune, dense Dense DQN
"""
DISPLAY_NAMES = dict(entry.strip().split(maxsplit=1) for entry in NAMES.split(","))
ORDER = list(dict.fromkeys(DISPLAY_NAMES.values()))

COLOURS = "#0072B2 #D55E00 #009E73 #CC79A7 #56B4E9 #E69F00 #6B4423 #999999 #332288 #B2182B #A6D96A #000000".split()
# for the agents in their order, after Okabe & Ito; more agents start again

# The numbers of actions of MinAtar's v1 games, for runs older than the key "num_actions" of config.json
MINATAR_ACTIONS = {"Asterix": 5, "Breakout": 3, "Freeway": 3, "Seaquest": 6, "SpaceInvaders": 4}

METRICS = ["score_mean", "overestimation", "action_gap", "q_norm", "sparsity", "nonzero_weights"]  # of eval.csv
AGGREGATES = ["mean", "median", "IQM", "optimality_gap"]
SCORE_MEASURES = ["final_score", "auc"]
CURVES = {  # metric: label
    "score_mean": "score (unclipped return)",
    "overestimation": "overestimation (mean Q minus mean discounted return)",
    "action_gap": "action gap (best minus second-best action-value)",
    "q_norm": "norm of the action-values q",
    "sparsity": "sparsity (share of zero weights, without biases)",
}

# Arguments in which the runs of one agent may differ without a note; capture_video and eval_only are older runs'
MAY_DIFFER = """
    seed env_id exp_name total_timesteps mean_scaling_coefficient runs_dir resume checkpoint_frequency save_model
    save_best capture_video track wandb_project_name wandb_entity cuda cuda_graphs buffer_device num_threads eval_only
""".split()
RESAMPLES = 2_000  # of the bootstrap


# READING


def fail(message: object) -> NoReturn:
    """End the program over a user's mistake: one line on stderr, exit code 2."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


def count(number: int, noun: str) -> str:
    """1 game, 2 games."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def short(game: str) -> str:
    """A game's name for readers: Space Invaders for MinAtar/SpaceInvaders-v1."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"^(ALE|MinAtar)/|-v\d+\b", "", game))


def num_actions(config: dict, game: str) -> float:
    """n, the number of actions of a run's game; NaN if neither its config.json nor the game's name tells."""
    facts = config["starts"][-1] if "starts" in config else config  # runs of before November 2026 have no "starts"
    if "num_actions" in facts:
        return int(facts["num_actions"])
    if game.startswith("ALE/") and config["args"].get("full_action_space"):
        return 18
    return MINATAR_ACTIONS.get(game.removeprefix("MinAtar/").removesuffix("-v1"), math.nan)


def name_agent(exp_name: str, k: float, n: float) -> tuple[str, str]:
    """The agent without the layer and with it, such as DQN and IB-DQN(n), from `--exp-name` without what says the game
    (minatar_, _atari), the layer (_mexp) or the k of a sweep (_k0.5, _k4n); the same twice if k is 0."""
    sweep = re.fullmatch(r"(.+)_k(?:(\d+(?:\.\d+)?(?:e[+-]\d+)?)|(\d*)n)", exp_name)
    if sweep is not None and k == (float(sweep[2]) if sweep[2] else int(sweep[3] or 1) * n):
        exp_name = sweep[1]
    name = exp_name.removesuffix("_mexp").removesuffix("_atari").removesuffix("_minatar").removeprefix("minatar_")
    base = DISPLAY_NAMES.get(name, " ".join(name.split()))
    if k == 0:
        return base, base
    coefficient = f"{k:g}" if k % n != 0 else "n" if k == n else f"{k / n:g}n"
    return base, f"IB-{base}({coefficient})"


def order(base: str) -> tuple:
    """The place of an agent in tables and legends: that in NAMES, then the others by name."""
    return ORDER.index(base) if base in ORDER else len(ORDER), base


@dataclass
class Run:
    folder: Path
    game: str
    base: str  # the agent without the layer, such as DQN
    agent: str  # with it, such as IB-DQN(n), or else the same
    k: float
    seed: int
    total: int  # --total-timesteps
    settings: dict  # the arguments in which runs of an agent should not differ
    steps: list[int]  # of the evaluations
    curves: dict[str, np.ndarray]  # metric: its values; NaN or infinite where action-values diverged


def read_run(folder: Path) -> Run:
    """A run's evaluations; raises an error if its files are missing or damaged."""
    config = json.loads((folder / "config.json").read_text())
    args = config["args"]
    with open(folder / "eval.csv", newline="") as file:
        rows = list(csv.DictReader(file, restval=""))
    metrics = [metric for metric in METRICS if rows and metric in rows[0]]  # older runs measured fewer
    curves = {metric: np.array([float(row[metric]) for row in rows]) for metric in metrics}
    steps = [int(row["step"]) for row in rows]
    damaged = any("" in row.values() for row in rows) or any(np.diff(steps) <= 0)
    if not rows or damaged or not np.isfinite(curves["score_mean"]).all():
        raise ValueError("rows are missing or damaged")
    atari = re.fullmatch(r"(?:ALE/)?(\w+)-v5|(\w+)NoFrameskip-v4", args["env_id"])
    game = f"ALE/{atari[1] or atari[2]}-v5" if atari else args["env_id"]
    k = float(args.get("mean_scaling_coefficient") or 0)
    settings = {name: value for name, value in args.items() if name not in MAY_DIFFER}
    names = name_agent(args["exp_name"], k, num_actions(config, game))
    return Run(folder, game, *names, k, int(args["seed"]), int(args["total_timesteps"]), settings, steps, curves)


def run_folders(root: str) -> list[Path]:
    """The folders below `root` that hold a file of a run, each once, those behind symbolic links too."""
    folders, seen = [], set()
    for path, subfolders, names in os.walk(root, followlinks=True):
        target = os.path.realpath(path)
        if target in seen:  # a second link to it, or one to a folder around it
            subfolders.clear()
        elif "config.json" in names or "eval.csv" in names:
            folders.append(Path(path))
        seen.add(target)
    return sorted(folders)


def differing(runs: list[Run]) -> str:
    """The arguments in which runs differ, but for those that an older run does not have, as flags."""
    names = sorted({name for run in runs for name in run.settings})
    values = {name: {json.dumps(run.settings[name]) for run in runs if name in run.settings} for name in names}
    return ", ".join(f"`--{name.replace('_', '-')}`" for name in names if len(values[name]) > 1)


def read_runs(roots: Sequence[str]) -> tuple[list[Run], list[str]]:
    """All runs below `roots`, one of each game, agent and seed, and notes on what was left out and what differs."""
    notes = []
    longest: dict[tuple, Run] = {}
    for folder in {os.path.realpath(folder): folder for root in roots for folder in run_folders(root)}.values():
        try:
            run = read_run(folder)
        except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, OSError, csv.Error) as error:
            waiting = (folder / "config.json").exists() and not (folder / "eval.csv").exists()
            reason = "it has not been evaluated yet" if waiting else f"it is damaged ({error!r})"
            notes.append(f"`{folder}` is ignored: {' '.join(reason.split())}.")
            continue
        other = longest.get((run.game, run.agent, run.seed), run)
        if other is not run:
            shorter, run = sorted((run, other), key=lambda run: (run.steps[-1], run.folder.name.split("__")[-1]))
            why = f"another run of {run.game}, {run.agent}, seed {run.seed} is as long or longer"
            notes.append(f"`{shorter.folder}` is ignored: {why}.")
        longest[run.game, run.agent, run.seed] = run
    runs = list(longest.values())
    for agent, base in sorted({(run.agent, run.base) for run in runs}):
        own = [run for run in runs if run.agent == agent]
        both = [run for run in runs if run.agent in (agent, base)]
        if differing(own):
            notes.append(f"The runs of {agent} differ in {differing(own)}.")
        elif len(both) > len(own) and differing(both):
            notes.append(f"{agent} and {base}, with which it is compared, differ in {differing(both)}.")
    return runs, notes


class Study:
    """What can be compared in the evaluations of all runs: of each game the steps that all its runs share."""

    def __init__(self, runs: list[Run]):
        self.games: list[str] = []
        self.steps: dict[str, list[int]] = {}  # game: steps
        self.k: dict[tuple[str, str], float] = {}  # (game, agent): k
        self.curves: dict[tuple[str, str], dict[str, np.ndarray]] = {}  # (game, agent): {metric: (runs, steps)}
        self.notes: list[str] = []  # on what is missing
        runs = sorted(runs, key=lambda run: (order(run.base), run.k, run.seed))
        for game in sorted({run.game for run in runs}):
            self.add_game(game, [run for run in runs if run.game == game])
        self.base = {run.agent: run.base for run in runs if (run.game, run.agent) in self.curves}
        self.agents = list(self.base)  # in the order of tables and legends
        names = dict.fromkeys([*self.agents, *self.base.values()])
        self.colours = dict(zip(names, cycle(COLOURS), strict=False))
        for game in self.games:
            missing = [agent for agent in self.agents if (game, agent) not in self.curves]
            if missing:
                self.notes.append(f"{game} has no runs of {', '.join(missing)}.")

    def add_game(self, game: str, runs: list[Run]) -> None:
        """Add a game, without runs that would leave nothing of the others to compare, such as a smoke run."""
        middle = np.median([run.steps[-1] for run in runs])
        usual = {step for step, n in Counter(step for run in runs for step in run.steps).items() if 2 * n > len(runs)}
        for run in list(runs):
            if run.steps[-1] < middle / 10 or (usual and not usual.intersection(run.steps)):
                runs.remove(run)
                those = f"{count(len(run.steps), 'evaluation')} up to {run.steps[-1]:,} steps"
                self.notes.append(f"`{run.folder}` is left out: {those}, which most runs of {game} do not share.")
        steps = sorted(set.intersection(*(set(run.steps) for run in runs)))
        if not steps:
            self.notes.append(f"{game} is left out: its runs share no evaluation step.")
            return
        total = max(run.total for run in runs)
        if any(run.steps != steps for run in runs) or steps[-1] < total:
            shortest = min(runs, key=lambda run: run.steps[-1]).folder
            used = f"{count(len(steps), 'evaluation')}, up to {steps[-1]:,} of {total:,} steps"
            self.notes.append(f"{game}: compared at what all runs share, {used} (`{shortest}` is the shortest).")
        self.games.append(game)
        self.steps[game] = steps
        for run in runs:
            curves = self.curves.setdefault((game, run.agent), {})
            self.k[game, run.agent] = run.k
            for metric, of_run in run.curves.items():
                values = of_run[np.isin(run.steps, steps)]
                if np.isfinite(values).all():
                    curves[metric] = np.stack([*curves.get(metric, []), values])
                else:
                    where = f"{game}, {run.agent}, seed {run.seed}"
                    self.notes.append(f"{where}: `{metric}` is not finite everywhere and left out.")

    def seeds(self, game: str, agent: str) -> int:
        return len(self.curves[game, agent]["score_mean"])

    def common(self, *agents: str) -> list[str]:
        """The games that all `agents` have played."""
        return [game for game in self.games if all((game, agent) in self.curves for agent in agents)]

    def final(self, game: str, agent: str) -> dict[str, np.ndarray]:
        """The measures of tables, (runs,) each: what the runs end with, and the mean score on the way there."""
        curves = self.curves[game, agent]
        values = {"final_score": curves["score_mean"][:, -1], "auc": curves["score_mean"].mean(1)}
        values |= {metric: curve[:, -1] for metric, curve in curves.items() if metric != "score_mean"}
        if game in HUMAN:
            values["human_normalised"] = normalised(game, values["final_score"])
        return values

    def rectangle(self, agent: str, games: list[str], measure: str) -> np.ndarray:
        """A measure of `final`, (runs, games), of as many runs as every game has; (0, games) if one lacks it."""
        runs = min(self.seeds(game, agent) for game in games)
        columns = [self.final(game, agent).get(measure, [])[:runs] for game in games]
        return np.stack(columns, axis=1) if min(map(len, columns)) == runs else np.empty((0, len(games)))

    def pairs(self, relative_to: str) -> list[tuple[str, str]]:
        """Every agent with its baseline: itself without the layer, else DQN, IQN or that of `--relative-to`."""
        pairs = []
        for agent in [agent for agent in self.agents if agent not in ("DQN", "IQN")]:
            candidates = [self.base[agent], "DQN", "IQN", relative_to]
            found = [other for other in candidates if other != agent and self.common(agent, other)]
            pairs += [(agent, other) for other in found[:1]]
        return pairs


# STATISTICS: scores are (runs, games) or (runs, ...); stdtrit(df, 0.975) is the quantile of Student's t for 95%


def normalised(game: str, score: np.ndarray) -> np.ndarray:
    """Human-normalised scores: 0 is the random policy's, 1 a human's."""
    random_score, human_score = HUMAN[game]
    return (score - random_score) / (human_score - random_score)


def band(values: np.ndarray, args: Args, measure: str, game: str) -> np.ndarray:
    """The mean over runs of values (runs, ...) and its ends, (3, ...): Student's t, or the least and the greatest run,
    which also stand for two runs, of which an interval says nothing; NaN with one run."""
    mean = values.mean(0)
    if len(values) < 2:
        return np.stack([mean, mean * math.nan, mean * math.nan])
    if len(values) == 2 or args.interval == "minmax":
        return np.stack([mean, values.min(0), values.max(0)])
    half = stdtrit(len(values) - 1, 0.975) * values.std(0, ddof=1) / math.sqrt(len(values))
    is_score = measure in ("score_mean", *SCORE_MEASURES)
    low = 0 if measure in METRICS[2:] or (is_score and game.startswith("MinAtar/")) else -math.inf  # which rewards >= 0
    return np.stack([mean, *np.clip([mean - half, mean + half], low, 1 if measure == "sparsity" else math.inf)])


def half_width(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    """Half of the 95% interval (Satterthwaite) of a sum of independent means over runs, one a column of `parts`, each
    (runs, columns), and what to stretch a bootstrap's by; NaN with one run or fewer than two degrees of freedom."""
    runs = np.concatenate([np.full(part.shape[1], len(part)) for part in parts])
    if min(runs) < 2:
        return math.nan, math.nan
    variance = np.concatenate([part.var(0, ddof=1) / len(part) for part in parts])
    total = variance.sum()
    if total == 0:
        return 0.0, 1.0
    df = total**2 / (variance**2 / (runs - 1)).sum()
    t = stdtrit(df, 0.975) if df >= 2 else math.nan
    return t * math.sqrt(total), t / 1.96 * math.sqrt(total / (variance * (runs - 1) / runs).sum())


def middle_half(scores: np.ndarray) -> np.ndarray:
    """The IQM of scores (..., runs, games): the mean without the lowest and the highest quarter, rounded down."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    cut = flat.shape[-1] // 4
    return np.partition(flat, (cut, flat.shape[-1] - cut - 1), axis=-1)[..., cut : flat.shape[-1] - cut].mean(-1)


def aggregate(scores: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """AGGREGATES of scores (runs, games) divided by the mean of `baseline`, (runs, games), in each game, with their
    intervals: (4, 3). Mean and optimality gap: a t interval of the mean over games. Median and IQM: percentiles of a
    bootstrap over runs, of the agent and of the baseline, in each game (stratified), stretched about the value."""
    games = scores.shape[1]
    ratios = scores / baseline.mean(0)
    capped = np.minimum(ratios, 1)
    values = np.array([ratios.mean(), np.median(ratios.mean(0)), middle_half(ratios), 1 - capped.mean()])
    draw = np.random.default_rng(1).integers
    x, y = (x[draw(len(x), size=(RESAMPLES, *x.shape)), np.arange(games)] for x in (scores, baseline))
    resampled = x / y.mean(1, keepdims=True)  # (resamples, runs, games)
    drawn = np.stack([np.median(resampled.mean(1), axis=-1), middle_half(resampled)])
    half, stretch = half_width([ratios / games, ratios.mean(0) * baseline / baseline.mean(0) / games])
    ends = values + np.outer([-1, 1], [half, 0, 0, half_width([capped / games])[0]])
    ends[:, 1:3] += stretch * (np.percentile(drawn, (2.5, 97.5), axis=1) - values[1:3])
    ends[:, 3] = np.clip(ends[:, 3], 0, None)
    return np.stack([values, *ends], axis=1)


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """How often a run of `x`, (runs, games), beats one of `y`, with ties as half, averaged over games, and its interval
    (Wilson 1927), with the variance that the average has between equal agents (Mann & Whitney 1947)."""
    value = ((x[:, None] > y) + 0.5 * (x[:, None] == y)).mean()
    if min(len(x), len(y)) < 2:
        return value, math.nan, math.nan
    trials = 3 * len(x) * len(y) * x.shape[1] / (len(x) + len(y) + 1)  # 0.25 / trials is that variance
    z = stdtrit(x.shape[1] * (len(x) + len(y) - 2), 0.975) ** 2 / trials
    centre = (value + z / 2) / (1 + z)
    half = math.sqrt(z * value * (1 - value) + z**2 / 4) / (1 + z)
    return value, max(0.0, centre - half), min(1.0, centre + half)


def ratio(pairs: list[tuple[np.ndarray, np.ndarray]], geometric: bool) -> tuple[float, float, float]:
    """The mean over games of the ratio of means over runs, with the layer over without it, (runs,) each, and its 95%
    interval by the delta method, NaN with one run. All are NaN where a run without the layer has 0 or less, or a
    geometric mean does not exist."""
    if any(not len(x) or not len(y) or y.min() <= 0 or (geometric and x.mean() <= 0) for x, y in pairs):
        return math.nan, math.nan, math.nan
    ratios = np.array([x.mean() / y.mean() for x, y in pairs])
    weights = 1 / ratios if geometric else np.ones(len(pairs))  # d log r = dr / r
    parts = []
    for (x, y), value, weight in zip(pairs, ratios, weights / len(pairs), strict=True):
        parts += [weight * x[:, None] / y.mean(), weight * value * y[:, None] / y.mean()]
    half, _ = half_width(parts)
    centre = np.log(ratios).mean() if geometric else ratios.mean()
    values = np.array([centre, centre - half, centre + half])
    return tuple(np.exp(values) if geometric else values)


def above(x: np.ndarray, y: np.ndarray) -> int:
    """1 if every run of `x` is above every run of `y`, -1 if below, else 0; 0 with fewer than three of either."""
    return 0 if min(len(x), len(y)) < 3 else int(x.min() > y.max()) - int(x.max() < y.min())


# DRAWING: sizes are in inches and fixed, so that a figure is not laid out to be measured, and is the same everywhere


def panels(titles: Sequence[str], columns: int, size: tuple, legend: dict, x: str, y: str = "", left=0.85, across=0.55):
    """A figure of panels of `size` (width, height), with `legend`, {label: handle}, on top, labels of all panels, and
    room at the left and between panels. Returns the figure and its axes, a list."""
    columns = min(columns, len(titles))
    width = max(5.0, left + columns * (size[0] + across))
    per_row = max(1, int(width / (0.6 + 0.075 * max(map(len, legend), default=1))))
    top = 0.35 + 0.2 * math.ceil(len(legend) / per_row)
    height = top + math.ceil(len(titles) / columns) * (size[1] + 0.6) + 0.1
    figure = Figure(figsize=(width, height))
    axes = []
    for i, title in enumerate(titles):
        corner = left + i % columns * (size[0] + across), height - top - i // columns * (size[1] + 0.6) - size[1]
        place = corner[0] / width, corner[1] / height, size[0] / width, size[1] / height
        axes.append(figure.add_axes(place, title=title))
    if legend:
        top = (0.5, 1 - 0.05 / height)
        figure.legend(legend.values(), legend.keys(), loc="upper center", bbox_to_anchor=top, ncols=per_row)
    figure.text(0.5, 0.12 / height, x, ha="center")
    figure.text(0.1 / width, 0.5, y, va="center", rotation=90)
    return figure, axes


def draw_curves(content: dict[str, dict], colours: dict, columns: int, size: tuple, x: str, y: str) -> Figure:
    """Curves with their bands, a panel for each title or game: {title: {label: (x, curve)}}, a curve (3, points) as
    `band` returns it; a bar if it is one point. x of strings are places side by side."""
    labels = dict.fromkeys(label for curves in content.values() for label in curves)
    legend = {label: Line2D([], [], color=colours[label]) for label in labels}
    figure, axes = panels(list(map(short, content)), columns, size, legend, x, y)
    for axis, curves in zip(axes, content.values(), strict=True):
        for label, (places, (value, low, high)) in curves.items():
            named = isinstance(places[0], str)
            axis.plot(places, value, color=colours[label], marker="o" if named or len(places) == 1 else None)
            axis.fill_between(places, low, high, color=colours[label], alpha=0.2, linewidth=0)
            if named or len(places) == 1:
                axis.vlines(places, low, high, color=colours[label])
        axis.locator_params(axis="y" if named else "both", nbins=4)
        if not named and places[-1] >= 1000:
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


def draw_intervals(colours: dict, rows: list[dict], columns: Sequence[str], label: str, line: float) -> Figure:
    """A table's values with their intervals: a panel for each measure and column, in it a bar for each name, in the
    colour of its agent, and a dashed line."""
    places = list(product(dict.fromkeys(row["measure"] for row in rows), columns))
    names = list(dict.fromkeys(row["name"] for row in rows))
    titles = [", ".join(place if len(columns) > 1 else place[:1]).replace("_", " ") for place in places]
    size, left = (2.5, 0.2 + 0.24 * len(names)), 0.35 + 0.07 * max(map(len, names))
    across = len(columns) if len(columns) > 1 else 3
    figure, axes = panels(titles, across, size, {}, label, left=left, across=0.25)
    for i, ((measure, column), axis) in enumerate(zip(places, axes, strict=True)):
        here = [row for row in rows if row["measure"] == measure]
        heights = np.array([names.index(row["name"]) for row in here])
        value, low, high = np.array([itemgetter(*with_ends(column))(row) for row in here]).T
        axis.barh(heights, high - low, 0.6, low, color=[colours[row["agent"]] for row in here], alpha=0.75)
        axis.vlines(value, heights - 0.3, heights + 0.3, color="black", linewidth=2)
        axis.axvline(line, color="black", linewidth=0.8, linestyle="--")
        axis.use_sticky_edges = False
        axis.locator_params(axis="x", nbins=4)
        axis.set_yticks(*[range(len(names)), names] if i % across == 0 else [[]])
        axis.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    return figure


def draw_forest(rows: list[dict]) -> Figure:
    """A line for each folder and agent: a circle a game, a diamond the mean over games with its interval; filled where
    the seeds separate (of a mean: in every game, in one direction)."""
    drawn = [row for row in rows if row["measure"] != "auc"]
    means = [row for row in drawn if row["game"] == "all"]
    names = list(dict.fromkeys(row["name"] for row in rows))
    colours = {row["agent"]: "#E69F00" for row in rows}
    figure = draw_intervals(colours, means, ["ratio"], "with the layer / without it; final score: log axis", 1)
    for axis, measure in zip(figure.axes, ("final_score", "overestimation"), strict=True):
        ratios = [1.0]
        for row in [row for row in drawn if row["measure"] == measure and math.isfinite(row["ratio"])]:
            marker, size, lower = ("D", 6, 0) if row["game"] == "all" else ("o", 3, 0.38)
            style = {"color": "black", "markerfacecolor": "black" if row["separate"] else "white", "marker": marker}
            axis.plot(row["ratio"], names.index(row["name"]) + lower, markersize=size, **style)
            ratios.append(row["ratio"])
        axis.set_xlim(min(0, *ratios) - 0.2, max(ratios) + 0.4)
        if measure == "final_score":
            axis.set_xscale("log", base=2)
            axis.set_xlim(min(ratios) / 1.5, max(ratios) * 1.5)
            axis.xaxis.set_major_formatter("{x:g}")
    return figure


# TABLES: lists of rows, each a dictionary by column


def with_ends(name: str) -> tuple[str, str, str]:
    """The columns of a value and of its interval."""
    return name, f"{name}_low", f"{name}_high"


def estimate(name: str, values: Iterable[float]) -> dict:
    """These columns: of a value, low and high."""
    return dict(zip(with_ends(name), map(float, values), strict=True))


def game_table(study: Study, args: Args) -> list[dict]:
    """One row for each game and agent: how much it rests on, and every measure with the ends of its band."""
    names = {name: None for place in study.curves for name in study.final(*place)}
    rows = []
    for game, agent in study.curves:
        row = {"game": game, "agent": agent, "k": study.k[game, agent], "runs": study.seeds(game, agent)}
        row |= {"steps": study.steps[game][-1], "evaluations": len(study.steps[game])}
        for name in names:
            values = study.final(game, agent).get(name, np.array([math.nan]))
            row |= estimate(name, band(values, args, name, game))
        rows.append(row)
    return rows


def aggregate_table(study: Study, agents: list[str], games: list[str], measures: Sequence[str], baseline: str = ""):
    """The aggregates over `games`, relative to `baseline` if there is one: a row for each agent and measure."""
    rows = []
    for measure, agent in product(measures, agents):
        scores = study.rectangle(agent, games, measure)
        divisor = study.rectangle(baseline, games, measure) if baseline else np.ones((2, len(games)))
        row = {"name": agent, "agent": agent, "measure": measure, "games": len(games), "runs": len(scores)}
        for name, three in zip(AGGREGATES[: 3 if baseline else 4], aggregate(scores, divisor), strict=False):
            row |= estimate(name, three)
        rows.append(row)
    return rows


def improvement_table(study: Study, args: Args) -> list[dict]:
    """The probability of improvement of each agent over its baseline, over the games of both."""
    rows = []
    for measure, (agent, baseline) in product(SCORE_MEASURES, study.pairs(args.relative_to)):
        games = study.common(agent, baseline)
        x, y = study.rectangle(agent, games, measure), study.rectangle(baseline, games, measure)
        row = {"name": f"{agent} over {baseline}", "agent": agent, "baseline": baseline, "measure": measure}
        row |= {"games": len(games), "runs": len(x), "baseline_runs": len(y)}
        rows.append(row | estimate("probability", probability_of_improvement(x, y)))
    return rows


def change_table(study: Study, agent: str, baseline: str, human: bool) -> list[dict]:
    """The change in the final score of each game: in human-normalised points, or in percent of the baseline's score."""
    rows = []
    for game in [game for game in study.common(agent, baseline) if (game in HUMAN) == human]:
        new, old = (study.final(game, one)["human_normalised" if human else "final_score"] for one in (agent, baseline))
        half, _ = half_width([new[:, None], old[:, None]])
        unit = 100 if human else 100 / (abs(old.mean()) or math.nan)
        row = {"name": short(game), "agent": agent, "measure": f"{agent} over {baseline}"}
        rows.append(row | estimate("change", unit * (new.mean() - old.mean() + np.array([0, -half, half]))))
    return rows


# THE REPORT


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; a | in a name ends no cell."""
    table = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(str(text).replace("|", "\\|") for text in row) + " |\n" for row in table)


def cell(row: dict, column: str) -> str:
    """What README.md says of a table's cell, with its interval if there is one."""
    value, low = row[column], row.get(f"{column}_low", math.nan)
    if column in ("game", "measure"):
        return short(value).replace("_", " ")
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else value
    text = "" if math.isnan(value) else f"{value:.4g}"
    return text if math.isnan(low) else f"{text} ({low:.4g}, {row[f'{column}_high']:.4g})"


@dataclass
class Report:
    """What will be written, with README.md or another `page`. The sections below add to it."""

    lines: list[str] = field(default_factory=list)  # of the page
    notes: list[str] = field(default_factory=list)
    tables: dict[str, list[dict]] = field(default_factory=dict)  # name: rows
    figures: dict[str, partial] = field(default_factory=dict)  # name: what draws it
    page: str = "README.md"

    def table(self, name: str, rows: list[dict], columns: Sequence[str]) -> None:
        """A CSV file, and its `columns` on the page."""
        self.tables[name] = rows
        header = [column.replace("_", " ").replace("measure", "of") for column in columns]
        self.lines.append(markdown(header, [[cell(row, column) for column in columns] for row in rows]))

    def figure(self, name: str, caption: str, *draw: object) -> None:
        """A figure, on the page too; `draw` is the function that draws it, and its arguments."""
        self.figures[name] = partial(*draw)
        self.lines += [f"![{caption}]({name}.png)", ""]

    def write(self, out: Path) -> None:
        """Save everything, then move it to its place at once: a report that is cut off leaves the one before it."""
        with TemporaryDirectory(dir=out, prefix=".unfinished-") as name:
            folder = Path(name)
            for name, rows in self.tables.items():
                with open(folder / f"{name}.csv", "w", newline="") as file:
                    writer = csv.writer(file, lineterminator="\n")
                    writer.writerow(rows[0])
                    for row in rows:  # ten digits: more would differ between machines
                        texts = [f"{value:.10g}" if isinstance(value, float) else value for value in row.values()]
                        writer.writerow(["" if text == "nan" else text for text in texts])
            for name, draw in tqdm(self.figures.items(), "figures", disable=None, leave=False):
                figure = draw()
                figure.savefig(folder / f"{name}.png", dpi=120)
                figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            (folder / self.page).write_text("\n".join(self.lines))
            for path in sorted(folder.iterdir(), key=lambda path: path.name == self.page):  # the page last
                path.replace(out / path.name)


def report_aggregates(report: Report, study: Study) -> None:
    """Over games with a human score: the aggregates' curves, final values and their table."""
    agents = [agent for agent in study.agents if any(game in HUMAN for game in study.common(agent))]
    games = [game for game in study.common(*agents) if game in HUMAN] if agents else []
    steps = sorted(set.intersection(*(set(study.steps[game]) for game in games))) if games else []
    if not steps:
        return
    curves: dict[str, dict] = {name: {} for name in AGGREGATES[:3]}
    for agent in agents:
        runs = min(study.seeds(game, agent) for game in games)
        curves_of = [(game, study.curves[game, agent]["score_mean"][:runs]) for game in games]
        scores = [normalised(game, curve[:, np.isin(study.steps[game], steps)]) for game, curve in curves_of]
        scores = np.stack(scores, axis=1)  # (runs, games, steps)
        bar = tqdm(range(len(steps)), f"aggregates of {agent}", disable=None, leave=False)
        values = np.stack([aggregate(scores[..., i], np.ones((2, len(games)))) for i in bar], axis=-1)
        for name, curve in zip(curves, values, strict=False):
            curves[name][agent] = steps, curve
    rows = aggregate_table(study, agents, games, ["human_normalised"])
    label = "human-normalised score"
    report.lines += [f"## The {label}", ""]
    report.table("aggregates", rows, ["agent", "games", "runs", *AGGREGATES])
    style = study.colours, 3, (3.2, 2.4), "agent steps", label
    report.figure("normalised_curves", f"The {label} against agent steps", draw_curves, curves, *style)
    report.figure("aggregates", "Final aggregates", draw_intervals, study.colours, rows, AGGREGATES, label, math.nan)


def report_relative(report: Report, study: Study, baseline: str) -> None:
    """Over games without a human score: figure and table of the aggregates relative to a baseline."""
    known = [game for game in study.common(baseline) if game not in HUMAN]
    # Resampled, runs of which one scored 0 or less could have a mean of 0 or less, by which nothing can be divided
    games = [game for game in known if min(study.final(game, baseline)[name].min() for name in SCORE_MEASURES) > 0]
    if len(games) < 2 or len(study.agents) < 2:
        return
    agents = [agent for agent in study.agents if set(games) <= set(study.common(agent))]
    over = [study.rectangle(agent, games, "overestimation") for agent in (baseline, *agents)]
    measures = [*SCORE_MEASURES, "overestimation"] if min(map(len, over)) and over[0].min() > 0 else SCORE_MEASURES
    left_out = [game for game in known if game not in games] + [name for name in study.agents if name not in agents]
    left_out += ["overestimation"] if measures is SCORE_MEASURES else []
    if left_out:
        why = "0 or less in one of its runs, or not known everywhere"
        report.notes.append(f"Left out relative to {baseline}: {', '.join(left_out)} ({why}).")
    rows = aggregate_table(study, agents, games, measures, baseline)
    text = f"Divided by the mean of {baseline} in the game; its own row compares two draws of its runs."
    report.lines += [f"## Relative to {baseline}", "", text, ""]
    report.table("relative", rows, ["agent", "measure", "games", "runs", *AGGREGATES[:3]])
    label = f"divided by the mean of {baseline} in the game"
    bars = [row | {"name": f"{row['measure'].replace('_', ' ')}, {row['agent']}"} for row in rows]
    bars = [row | {"measure": "relative"} for row in bars]
    report.figure("relative", f"Scores {label}", draw_intervals, study.colours, bars, AGGREGATES[:3], label, 1.0)


def report_sweep(report: Report, study: Study, games: list[dict]) -> None:
    """The sweeps over k, of bases with three values of k in a game: figure and table of the best."""
    rows = [row | {"base": study.base[row["agent"]]} for row in games]
    values = Counter((row["game"], row["base"]) for row in rows)
    sweep = [row for row in rows if values[row["game"], row["base"]] >= 3]
    if not sweep:
        return
    report.lines += ["## Sweep over k", "", "The best k has the greatest mean, which tends to be too great. It is not"]
    report.lines += ["shown to be better than a k whose interval reaches into its own; one run has no interval.", ""]
    best_rows, curves = [], {}
    for measure, (game, base) in product(SCORE_MEASURES, dict.fromkeys((row["game"], row["base"]) for row in sweep)):
        here = [row for row in sweep if (row["game"], row["base"]) == (game, base)]
        k = [f"{row['k']:g}\n" + re.search(r"(\(\d*n\))?$", row["agent"])[0] for row in here]
        values = np.array([itemgetter(*with_ends(measure))(row) for row in here]).T
        curves.setdefault(f"{game}: {measure.replace('_', ' ')}", {})[base] = k, values
        best = max(here, key=itemgetter(measure))
        near = [row for row in here if row is not best and not row[f"{measure}_high"] < best[f"{measure}_low"]]
        row = {"game": game, "measure": measure, "best_k": f"{best['k']:g}", "agent": best["agent"]}
        row |= {"runs": best["runs"]} | estimate("mean", itemgetter(*with_ends(measure))(best))
        best_rows.append(row | {"within_the_interval_of_k": ", ".join(f"{row['k']:g}" for row in near) or "none"})
    report.table("best_k", best_rows, [name for name in best_rows[0] if not name.startswith("mean_")])
    columns = max(2, min(5, len({row["game"] for row in sweep})))
    caption = "Final score and area under the curve against k, one panel a game"
    report.figure("sweep", caption, draw_curves, curves, study.colours, columns, (2.5, 1.9), "k", "")


def report_pairs(report: Report, study: Study, args: Args) -> None:
    """Every agent against its baseline: the probability of improvement, and the change in each game."""
    rows = improvement_table(study, args)
    if not rows:
        return
    report.lines += ["## Against the baseline", ""]
    report.table("improvement", rows, ["name", "measure", "probability", "games", "runs", "baseline_runs"])
    style = study.colours, rows, ["probability"], "probability of improvement", 0.5
    report.figure("improvement", "The probability of improvement", draw_intervals, *style)
    for human, name, unit in ((True, "changes", "points"), (False, "changes_raw", "% of the baseline's")):
        changes = [row for pair in study.pairs(args.relative_to) for row in change_table(study, *pair, human)]
        label = f"change in {'human-normalised' if human else 'final'} score ({unit})"
        if changes:
            report.figure(name, f"The {label}", draw_intervals, study.colours, changes, ["change"], label, 0)


def report_games(report: Report, study: Study, games: list[dict], args: Args) -> None:
    """Every game: the figures, and the table `games` of `game_table`."""
    report.lines += ["## Game by game", ""]
    for metric, label in CURVES.items():
        curves: dict[str, dict] = {}
        for (game, agent), of_place in study.curves.items():
            if metric in of_place:
                curve = band(of_place[metric], args, metric, game)
                curves.setdefault(game, {})[agent] = study.steps[game], curve
        if curves:
            columns = min(8, math.ceil(math.sqrt(len(curves))))
            size = (4.0, 2.6) if len(curves) == 1 else (2.4, 1.8)
            name = "learning_curves" if metric == "score_mean" else metric
            style = study.colours, columns, size, "agent steps", label.split(" (")[0]
            report.figure(name, f"The {label} against agent steps", draw_curves, curves, *style)
    points: dict[str, dict] = {}
    for game, agent in study.curves:
        final = study.final(game, agent)
        if "sparsity" in final:
            score = band(final["final_score"], args, "final_score", game)
            points.setdefault(game, {})[agent] = [final["sparsity"].mean()], score[:, None]
    if points:
        style = study.colours, 4, (2.8, 2.2), "final sparsity", "final score"
        report.figure("final_sparsity", "Final score against final sparsity", draw_curves, points, *style)
    for metric in METRICS:
        counts = {place: len(curves.get(metric, [])) for place, curves in study.curves.items()}
        fewer = dict.fromkeys(place[1] for place, runs in counts.items() if 0 < runs < study.seeds(*place))
        if fewer:
            report.notes.append(f"`{metric}` of {', '.join(fewer)} is that of the runs that have it, not of all.")
    measures = [name for name in games[0] if f"{name}_low" in games[0]]
    report.table("games", games, ["game", "agent", "runs", "steps", *measures])


READING = """
## Reading it

Final score, overestimation and action gap are those of the last evaluation that all runs of a game share, `auc` is the
mean score over all of them. Overestimation is the mean action-value minus the mean discounted return; a soft value (of
a run with a temperature) holds bonuses, and its overestimation need not be one. The IQM leaves out the lowest and the
highest quarter of all runs' scores, rounded down: of 3 runs of 5 games it averages 9 scores of 15.

Bands and brackets of a game are 95% intervals of the mean over runs (Student's t){exceptions}.
Over games, mean and optimality gap have a t interval with the standard error of independent games and Satterthwaite's
degrees of freedom; median and IQM a stratified bootstrap's ({resamples:,} resamples), stretched for few runs; the
probability of improvement Wilson's, with its variance between equal agents. They are cut where a quantity is bounded,
and not given with one run or fewer than two degrees of freedom. In simulations with 3 to 10 runs a game, those of mean
and IQM hold the true value in 93% to 97% of studies if scores are normal; if they are lognormal or a fifth of the runs
fail, in 87% or more over games and in 71% or more of one game. That of the probability of improvement excludes 0.5 in
3% of comparisons of equal agents with 3 runs of 5 games, where a percentile bootstrap's does in 9% to 10%.
"""


# MAIN


def make_forest(args: Args) -> Report:
    """`--forest`: forest.png, forest.svg, forest.csv and forest.md. In the table a row for each folder, agent, game and
    measure, and one for the mean over games ("all"): with the layer, without it, and whether the seeds separate."""
    rows, notes = [], []
    labels = [Path(folder).resolve().name for folder in args.runs]
    for folder, label in zip(args.runs, labels, strict=True):
        label = folder if labels.count(label) > 1 else label
        runs, more = read_runs([folder])
        notes += more
        for base in sorted({run.base for run in runs}, key=order):
            agents = {"with": f"IB-{base}({args.k})", "without": base}
            study = Study([run for run in runs if run.agent in agents.values()])
            families: dict[str, list[str]] = {}
            for game in study.common(*agents.values()):
                family = {"ALE": "Atari", "MinAtar": "MinAtar"}.get(game.split("/")[0], short(game))
                families.setdefault(family, []).append(game)
            notes += study.notes if families else []
            for family, games in families.items():
                steps = max(study.steps[game][-1] for game in games)
                where = short(games[0]) if len(games) == 1 else f"{len(games)} {family} games"
                name = f"{base}, {label}: {where}, {EngFormatter(sep='')(steps)} steps"
                for measure, here in product((*SCORE_MEASURES, "overestimation"), [*([game] for game in games), games]):
                    pairs = [[study.final(game, agent).get(measure, []) for agent in agents.values()] for game in here]
                    row = {"folder": folder, "agent": base, "family": family, "steps": steps, "name": name}
                    row |= {"game": "all" if here is games else here[0], "measure": measure}
                    for side, samples in zip(agents, zip(*pairs, strict=True), strict=True):
                        row |= {f"runs_{side}": min(map(len, samples))}
                        row |= {side: float(np.mean(samples[0])) if len(here) == 1 and len(samples[0]) else math.nan}
                    row |= estimate("ratio", ratio(pairs, geometric=measure != "overestimation"))
                    rows.append(row | {"separate": {above(*pair) for pair in pairs} in ({1}, {-1})})
    if not rows:
        fail(f"no agent has played a game both with k = {args.k} and without the layer")
    draw = {"forest": partial(draw_forest, rows)}
    return Report([forest_markdown(rows)], notes, {"forest": rows}, draw, "forest.md")


def forest_markdown(rows: list[dict]) -> str:
    """The final score and, below it, the final overestimation, with the layer / without it: a line an agent, a column a
    game, bold where the seeds separate; of an agent and a game in two folders the first."""
    table: dict[str, dict] = {}
    for row in [row for row in rows if row["game"] != "all" and row["measure"] != "auc"]:
        text = f"{row['with']:.3g} / {row['without']:.3g}"
        cells = table.setdefault(row["agent"], {}).setdefault(row["game"], {})
        cells.setdefault(row["measure"], f"**{text}**" if row["separate"] else text)
    games = list(dict.fromkeys(row["game"] for row in rows if row["game"] != "all"))
    texts = [[agent, *("<br>".join(of.get(game, {}).values()) for game in games)] for agent, of in table.items()]
    header = [short(game) + (" (Atari)" if game.startswith("ALE/") else "") for game in games]
    return markdown(["agent", *header], texts)


def make_report(args: Args) -> Report:
    """README.md, tables and figures."""
    runs, notes = read_runs(args.runs)
    study = Study(runs)
    report = Report(notes=notes + study.notes)
    if not study.games:
        for note in report.notes:
            print("warning:", note, file=sys.stderr)
        fail(f"{' '.join(args.runs)} holds no {'runs that can be compared' if runs else 'run with an evaluation'}")
    if args.relative_to not in ("DQN", *study.agents):
        fail(f"--relative-to {args.relative_to!r} is none of the agents: {', '.join(study.agents)}")
    tabular = [Path(root).with_name("tabular") for root in args.runs if Path(root).name == "runs"]
    for path in sorted(path for folder in tabular for path in folder.glob("*.png")):  # of `benchmark.sh quick`
        report.lines.append(f"![Gridworld: {path.stem}]({os.path.relpath(path, args.out)})\n")
    games = game_table(study, args)
    report_aggregates(report, study)
    report_relative(report, study, args.relative_to)
    report_sweep(report, study, games)
    report_pairs(report, study, args)
    report_games(report, study, games, args)
    seeds = sorted({study.seeds(*place) for place in study.curves})
    text = READING.format(resamples=RESAMPLES, exceptions="; of two seeds they hold both" * (2 in seeds))
    if args.interval == "minmax":
        text = re.sub("are 95%.*", "reach from the least run to the greatest.", text)
    report.lines.append(text.strip() + "\n")
    each = f"{seeds[0]} to {count(seeds[-1], 'seed')}" if len(seeds) > 1 else count(seeds[0], "seed")
    total = f"{count(sum(study.seeds(*place) for place in study.curves), 'run')}, {count(len(study.games), 'game')}"
    print(total, flush=True)
    head = ["# Report", "", f"{total}, {each} of an agent in a game: {', '.join(study.agents)}.", ""]
    head += ["## Notes", "", *(f"- {note}" for note in report.notes), ""] if report.notes else []
    report.lines = head + report.lines
    return report


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    for root in args.runs:
        if not Path(root).is_dir():
            fail(f"{root} is no folder; name the one that holds the runs, such as runs")
    args.runs = tuple({os.path.realpath(root): root for root in args.runs}.values())  # each once
    page = Path(args.out) / "README.md"
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        text = page.read_text(errors="replace") if page.exists() else ""
        TemporaryDirectory(dir=args.out).cleanup()  # as `write` will make
    except OSError as error:
        fail(f"--out {args.out} cannot be written to ({error.strerror}); name a folder that can")
    if text and not text.startswith("# Report\n") and not args.forest:
        fail(f"--out {args.out} holds a README.md that is no report and would be lost; name another folder")
    print(f"reading {', '.join(args.runs)}", flush=True)
    report = make_forest(args) if args.forest else make_report(args)
    for note in report.notes:
        print("warning:", note, file=sys.stderr)
    print(f"drawing {count(len(report.figures), 'figure')}", flush=True)
    report.write(Path(args.out))
    print(f"{args.out}/{report.page}")


if __name__ == "__main__":
    main()
