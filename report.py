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

Writes README.md, figures (PNG and SVG) and tables (CSV): learning curves, overestimation and action gap of every game;
mean, median, IQM and optimality gap of the human-normalised score (Agarwal et al. 2021), and over games without a human
score mean, median and IQM relative to DQN; sweeps over k; the sparsity of agents that prune; every agent against its
baseline. `--forest` draws instead all agents with the layer over those without it, in one figure and one table. The
same runs give the same files, byte for byte.

Usage: python report.py runs --out report
       python report.py docs/minatar docs/softq --forest --out docs/evidence
"""

import csv
import json
import math
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn, Optional

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.colors import to_rgb
from matplotlib.ticker import EngFormatter
from scipy.special import stdtrit
from tqdm import tqdm

plt.rc("svg", hashsalt="mean-expansion")  # the ids in an SVG are random without it
plt.rc("text", parse_math=False)  # a $ in a name is a $
plt.rc("font", size=9)
plt.rc("axes", titlesize=9, grid=True)
plt.rc("grid", alpha=0.3)
plt.rc("legend", frameon=False)


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[str, ...]]  # folders of runs, or runs; subfolders are searched
    out: str = "report"  # the folder to write to
    interval: Literal["confidence", "minmax"] = (
        "confidence"  # bands of a game: 95%, or from the least run to the greatest
    )
    reps: int = 2_000  # bootstrap resamples
    seed: int = 1  # of the bootstrap
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

# A pair for each base in turn, without the layer and with k = n (after Okabe & Ito); more start again
COLOURS = "#0072B2 #D55E00  #009E73 #CC79A7  #56B4E9 #E69F00  #6B4423 #999999  #332288 #9A90DA  #B2182B #FB8072".split()
COLOURS += "#117733 #A6D96A  #000000 #B8860B".split()
OTHER_K = plt.get_cmap("plasma")  # agents with another k, from the least k to the greatest

# The numbers of actions for runs older than the key "num_actions" of config.json
MINATAR_ACTIONS = {"Asterix": 5, "Breakout": 3, "Freeway": 3, "Seaquest": 6, "SpaceInvaders": 4}  # v1, minimal sets
ATARI_ACTIONS = 18  # the full set

METRICS = ["score_mean", "overestimation", "action_gap"]  # what is used of eval.csv, besides the step
OPTIONAL = ["q_norm", "sparsity", "nonzero_weights"]  # the same, where runs have them
AGGREGATES = ["mean", "median", "IQM", "optimality_gap"]
MEASURES = {
    "final_score": "final score",
    "auc": "area under the curve",
    "overestimation": "final overestimation",
    "human_normalised": "human-normalised score",
}
FIGURES = {  # metric: (name, label)
    "score_mean": ("learning_curves", "score (unclipped return)"),
    "overestimation": ("overestimation", "overestimation (mean Q minus mean discounted return)"),
    "action_gap": ("action_gap", "action gap (best minus second-best action-value)"),
    "q_norm": ("q_norm", "norm of the action-values q"),
    "sparsity": ("sparsity", "sparsity (share of zero weights, without biases)"),
}
POSITIVE = ["action_gap", "q_norm", "nonzero_weights", "optimality_gap"]

# Arguments in which the runs of one agent may differ without a note; capture_video and eval_only are older runs'
MAY_DIFFER = """
    seed env_id exp_name total_timesteps mean_scaling_coefficient runs_dir resume checkpoint_frequency save_model
    save_best capture_video track wandb_project_name wandb_entity cuda cuda_graphs buffer_device num_threads eval_only
""".split()
UNFINISHED = ".unfinished"  # the folder in `--out` of a report that is being made


# READING


def fail(message: object) -> NoReturn:
    """End the program over a user's mistake: one line on stderr, exit code 2."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


def count(number: int, noun: str) -> str:
    """1 game, 2 games."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def canonical_game(env_id: str) -> str:
    """One name for each Atari game: ALE/Pong-v5, also for Pong-v5 and PongNoFrameskip-v4."""
    atari = re.fullmatch(r"(?:ALE/)?(\w+)-v5|(\w+)NoFrameskip-v4", env_id)
    return env_id if atari is None else f"ALE/{atari[1] or atari[2]}-v5"


def short(game: str) -> str:
    """A game's name for readers: Space Invaders for MinAtar/SpaceInvaders-v1."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"^(ALE|MinAtar)/|-v\d+$", "", game))


def num_actions(config: dict, game: str) -> float:
    """n, the number of actions of a run's game; NaN if neither its config.json nor the game's name tells."""
    facts = config["starts"][-1] if "starts" in config else config  # runs of before November 2026 have no "starts"
    if "num_actions" in facts:
        return int(facts["num_actions"])
    if game.startswith("ALE/") and config["args"].get("full_action_space"):
        return ATARI_ACTIONS
    minatar = re.fullmatch(r"MinAtar/(\w+)-v1", game)
    return MINATAR_ACTIONS.get(minatar[1], math.nan) if minatar else math.nan


def name_coefficient(k: float, n: float) -> str:
    """k relative to the number of actions: n, 2n, 4n where it is a whole multiple, or else the number."""
    if k > 0 and k % n == 0:
        return "n" if k == n else f"{k / n:g}n"
    return f"{k:g}"


def base_name(exp_name: str, k: float, n: float) -> str:
    """The agent without the layer, from its `--exp-name`: without what says the game (minatar_, _atari), the layer
    (_mexp) or the k of a sweep (_k0.5, _k4n), as `benchmark.sh` and the scripts name their runs."""
    sweep = re.fullmatch(r"(.+)_k(?:(\d+(?:\.\d+)?(?:e[+-]\d+)?)|(\d*)n)", exp_name)
    if sweep is not None and k == (float(sweep[2]) if sweep[2] else int(sweep[3] or 1) * n):
        exp_name = sweep[1]
    name = exp_name.removesuffix("_mexp").removesuffix("_atari").removesuffix("_minatar").removeprefix("minatar_")
    return DISPLAY_NAMES.get(name, " ".join(name.split()))


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

    def age(self) -> tuple:
        """Of two runs of a seed the longer counts, of equals the newer: a folder's name ends with the time."""
        started = re.search(r"__(\d+)$", self.folder.name)
        return self.steps[-1], int(started[1]) if started else 0, str(self.folder)


def read_run(folder: Path) -> Run:
    """A run's evaluations; raises an error (see `read_runs`) if its files are missing or damaged."""
    config = json.loads((folder / "config.json").read_text())
    args = config["args"]
    with open(folder / "eval.csv", newline="") as file:
        rows = list(csv.DictReader(file, restval=""))
    metrics = METRICS + [name for name in OPTIONAL if rows and name in rows[0]]
    curves = {metric: np.array([float(row[metric]) for row in rows]) for metric in metrics}
    steps = [int(row["step"]) for row in rows]
    damaged = any("" in row.values() for row in rows) or any(np.diff(steps) <= 0)
    if not rows or damaged or not np.isfinite(curves["score_mean"]).all():
        raise ValueError("rows are missing or damaged")
    game = canonical_game(args["env_id"])
    n = num_actions(config, game)
    k = float(args.get("mean_scaling_coefficient") or 0)
    base = base_name(args["exp_name"], k, n)
    agent = f"IB-{base}({name_coefficient(k, n)})" if k > 0 else base
    settings = {name: value for name, value in args.items() if name not in MAY_DIFFER}
    if "method" in args and "num_steps" in args:  # online soft Q-learning, whose learning rate falls over all steps
        settings["total_timesteps"] = args["total_timesteps"]
    seed, total = int(args["seed"]), int(args["total_timesteps"])
    return Run(folder, game, base, agent, k, seed, total, settings, steps, curves)


def run_folders(root: Path) -> list[Path]:
    """The folders below `root` that hold a file of a run, each once, those behind symbolic links too."""
    folders = []
    seen = set()
    for path, subfolders, names in os.walk(root, followlinks=True):
        target = os.path.realpath(path)
        if target in seen:  # a second link to it, or one to a folder around it
            subfolders.clear()
            continue
        seen.add(target)
        subfolders.sort()
        if "config.json" in names or "eval.csv" in names:
            folders.append(Path(path))
    return sorted(folders)


def differing(runs: list[Run]) -> str:
    """The arguments in which runs differ, but for those that an older run does not have, as flags."""
    names = sorted({name for run in runs for name in run.settings})
    values = {name: {json.dumps(run.settings[name]) for run in runs if name in run.settings} for name in names}
    return ", ".join(f"`--{name.replace('_', '-')}`" for name in names if len(values[name]) > 1)


def read_runs(roots: Sequence[str]) -> tuple[list[Run], list[str]]:
    """All runs below `roots`, one of each game, agent and seed, and notes: what was left out and why, and in which
    settings runs of an agent, or of it and the one without the layer, differ."""
    notes = []
    longest: dict[tuple, Run] = {}
    folders = {os.path.realpath(folder): folder for root in roots for folder in run_folders(Path(root))}
    for folder in folders.values():
        try:
            run = read_run(folder)
        except (ValueError, KeyError, TypeError, AttributeError, OSError, csv.Error) as error:
            waiting = (folder / "config.json").exists() and not (folder / "eval.csv").exists()
            reason = "it has not been evaluated yet" if waiting else f"it is damaged ({error!r})"
            notes.append(f"`{folder}` is ignored: {' '.join(reason.split())}.")
            continue
        place = (run.game, run.agent, run.seed)
        if place in longest:
            run, shorter = sorted((run, longest[place]), key=Run.age, reverse=True)
            why = f"another run of {run.game}, {run.agent}, seed {run.seed} is as long or longer"
            notes.append(f"`{shorter.folder}` is ignored: {why}.")
        longest[place] = run
    runs = list(longest.values())
    for agent, base in sorted({(run.agent, run.base) for run in runs}):
        own = [run for run in runs if run.agent == agent]
        both = [run for run in runs if run.agent in (agent, base)]
        if differing(own):
            notes.append(f"The runs of {agent} differ in {differing(own)}.")
        elif len(both) > len(own) and differing(both):
            notes.append(f"{agent} and {base}, with which it is compared, differ in {differing(both)}.")
    return runs, notes


@dataclass
class Study:
    """The evaluations that can be compared: of each game the steps that all its runs share."""

    agents: list[str] = field(default_factory=list)  # in the order of tables and legends
    base: dict[str, str] = field(default_factory=dict)  # agent: the one without the layer
    colours: dict[str, tuple] = field(default_factory=dict)
    games: list[str] = field(default_factory=list)
    steps: dict[str, list[int]] = field(default_factory=dict)  # game: steps
    k: dict[tuple[str, str], float] = field(default_factory=dict)  # (game, agent): k
    curves: dict[tuple[str, str], dict[str, np.ndarray]] = field(default_factory=dict)  # metric: (runs, steps)

    def seeds(self, game: str, agent: str) -> int:
        return len(self.curves[game, agent]["score_mean"])

    def having(self, metric: str) -> tuple[list[str], list[str]]:
        """The games and the agents with a run that measured `metric`."""
        places = [place for place, curves in self.curves.items() if metric in curves]
        games, agents = {game for game, _ in places}, {agent for _, agent in places}
        return [game for game in self.games if game in games], [agent for agent in self.agents if agent in agents]

    def common(self, *agents: str) -> list[str]:
        """The games that all `agents` have played."""
        return [game for game in self.games if all((game, agent) in self.curves for agent in agents)]

    def final(self, game: str, agent: str) -> dict[str, np.ndarray]:
        """What tables hold of a game's runs, (runs,) each: what they end with, and the mean score on the way there."""
        curves = self.curves[game, agent]
        values = {"final_score": curves["score_mean"][:, -1], "auc": curves["score_mean"].mean(1)}
        values |= {metric: curve[:, -1] for metric, curve in curves.items() if metric != "score_mean"}
        if game in HUMAN:
            values["human_normalised"] = normalised(game, values["final_score"])
        return values

    def rectangle(self, agent: str, games: list[str], measure: str) -> np.ndarray:
        """A measure of `final`, (runs, games), of as many runs as every one of the games has; (0, games) if one of
        these did not measure it."""
        runs = min(self.seeds(game, agent) for game in games)
        columns = [self.final(game, agent).get(measure, [])[:runs] for game in games]
        return np.stack(columns, axis=1) if min(map(len, columns)) == runs else np.empty((0, len(games)))

    def pairs(self, relative_to: str) -> list[tuple[str, str]]:
        """Every agent with the one that it is compared with: itself without the layer, or else DQN, IQN or the agent
        that `--relative-to` names, the first with which it shares a game."""
        pairs = []
        for agent in self.agents:
            candidates = [self.base[agent], "DQN", "IQN", relative_to]
            found = [other for other in candidates if other != agent and self.common(agent, other)]
            if found and agent not in ("DQN", "IQN"):
                pairs.append((agent, found[0]))
        return pairs


def without_odd_runs(game: str, runs: list[Run]) -> tuple[list[Run], list[str]]:
    """The runs of a game without those that would leave nothing of the others to compare, such as a smoke run of 1,000
    steps, and a note on each of these."""
    middle = np.median([run.steps[-1] for run in runs])
    having = Counter(step for run in runs for step in run.steps)
    usual = {step for step, number in having.items() if 2 * number > len(runs)}
    kept, notes = [], []
    for run in runs:
        if run.steps[-1] < middle / 10:
            notes.append(f"`{run.folder}` is left out: {run.steps[-1]:,} steps, far fewer than most runs of {game}.")
        elif usual and not usual.intersection(run.steps):
            notes.append(f"`{run.folder}` is left out: it shares no evaluation step with most runs of {game}.")
        else:
            kept.append(run)
    return kept, notes


def compare(runs: list[Run]) -> tuple[Study, list[str]]:
    """What can be compared in the evaluations of all runs, and notes on what is missing."""
    study = Study()
    notes = []
    kept: list[Run] = []
    for game in sorted({run.game for run in runs}):
        here, odd = without_odd_runs(game, [run for run in runs if run.game == game])
        notes += odd
        shared = sorted(set.intersection(*(set(run.steps) for run in here)))
        if not shared:
            notes.append(f"{game} is left out: its runs share no evaluation step.")
            continue
        kept += here
        study.games.append(game)
        study.steps[game] = shared
        shortest = min(here, key=lambda run: run.steps[-1])
        until_then = {step for run in here for step in run.steps if step <= shared[-1]}
        if len(until_then) > len(shared):
            used = f"{len(shared)} of the {len(until_then)} steps up to {shared[-1]:,} at which there are evaluations"
            notes.append(f"{game}: its runs have other `--eval-frequency`s; compared at {used}.")
        elif shared[-1] < max(run.steps[-1] for run in here):
            notes.append(f"{game}: compared up to {shared[-1]:,} steps, as far as all have come (`{shortest.folder}`).")
        elif shared[-1] < max(run.total for run in here):
            notes.append(f"{game}: its runs have come to {shared[-1]:,} of {max(run.total for run in here):,} steps.")

    study.base = {run.agent: run.base for run in kept}
    mean_k = {agent: float(np.mean([run.k for run in kept if run.agent == agent])) for agent in study.base}
    study.agents = sorted(study.base, key=lambda agent: (order(study.base[agent]), mean_k[agent], agent))
    study.colours = choose_colours(study, mean_k)
    for game in study.games:
        for agent in study.agents:
            here = sorted((run for run in kept if (run.game, run.agent) == (game, agent)), key=lambda run: run.seed)
            if here:
                study.k[game, agent] = here[0].k
                study.curves[game, agent], diverged = stack(here, study.steps[game])
                notes += [f"{game}, {agent}, {text}" for text in diverged]
        missing = [agent for agent in study.agents if (game, agent) not in study.curves]
        if missing:
            notes.append(f"{game} has no runs of {', '.join(missing)}.")
    return study, notes


def order(base: str) -> tuple:
    """The place of an agent in tables and legends: that in NAMES, then the others by name."""
    return ORDER.index(base) if base in ORDER else len(ORDER), base


def choose_colours(study: Study, mean_k: dict[str, float]) -> dict[str, tuple]:
    """A colour for each agent: a pair of COLOURS for each base and its k = n, OTHER_K for every other k."""
    colours = {}
    bases = list(dict.fromkeys(study.base[agent] for agent in study.agents))
    others = sorted({mean_k[agent] for agent, base in study.base.items() if agent not in (base, f"IB-{base}(n)")})
    for agent, base in study.base.items():
        if agent in (base, f"IB-{base}(n)"):
            colours[agent] = to_rgb(COLOURS[(2 * bases.index(base) + (agent != base)) % len(COLOURS)])
        else:
            colours[agent] = OTHER_K(0.9 * (others.index(mean_k[agent]) + 0.5) / len(others))[:3]
    return colours


def stack(runs: list[Run], steps: list[int]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Each metric at `steps`, (runs, steps), of the runs that measured it and whose values are finite; notes on runs
    whose values diverged."""
    curves, notes = {}, []
    for metric in METRICS + OPTIONAL:
        rows = [(run.seed, run.curves[metric][np.isin(run.steps, steps)]) for run in runs if metric in run.curves]
        finite = [row for _, row in rows if np.isfinite(row).all()]
        for seed, row in rows:
            if not np.isfinite(row).all():
                notes.append(f"seed {seed}: `{metric}` is not finite everywhere and left out.")
        if finite:
            curves[metric] = np.stack(finite)
    return curves, notes


# STATISTICS: intervals are (low, high); scores are (runs, games) or (runs, ...)


def normalised(game: str, score: np.ndarray) -> np.ndarray:
    """Human-normalised scores: 0 is the random policy's, 1 a human's."""
    random_score, human_score = HUMAN[game]
    return (score - random_score) / (human_score - random_score)


def t_quantile(df: float) -> float:
    """The 97.5% quantile of Student's t."""
    return stdtrit(df, 0.975)


def bounds(measure: str, game: str) -> tuple[float, float]:
    """The least and the greatest value that a measure can have: no game of MinAtar has a negative reward."""
    positive = measure in POSITIVE or measure in ("final_score", "auc", "score_mean") and game.startswith("MinAtar/")
    return (0, 1) if measure == "sparsity" else (0 if positive else -math.inf, math.inf)


def band(values: np.ndarray, args: Args, measure: str, game: str) -> Optional[tuple]:
    """The ends for the mean over runs, values (runs, ...): Student's t, or the least and the greatest run, which also
    stand for two runs, of which an interval says nothing; None with one run."""
    if len(values) < 2:
        return None
    if len(values) == 2 or args.interval == "minmax":
        return values.min(0), values.max(0)
    half = t_quantile(len(values) - 1) * values.std(0, ddof=1) / math.sqrt(len(values))
    low, high = bounds(measure, game)
    return np.clip(values.mean(0) - half, low, high), np.clip(values.mean(0) + half, low, high)


def standard_error(parts: Iterable[np.ndarray]) -> tuple[float, float, float]:
    """Of a sum of independent means over runs, one a column of `parts`, each (runs, columns): its standard error,
    Satterthwaite's degrees of freedom, and the standard error over the one that a bootstrap of so few runs sees."""
    variances, runs = [], []
    for part in parts:
        variances.append(part.var(0, ddof=1) / len(part))
        runs.append(np.full(part.shape[1], len(part)))
    variance, runs = np.concatenate(variances), np.concatenate(runs)
    total = variance.sum()
    if not total > 0:
        return 0.0, math.inf, 1.0
    df = total**2 / (variance**2 / (runs - 1)).sum()
    return math.sqrt(total), df, math.sqrt(total / (variance * (runs - 1) / runs).sum())


def middle_half(scores: np.ndarray) -> np.ndarray:
    """The IQM of scores (..., runs, games): the mean without the lowest and the highest quarter, rounded down."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    cut = flat.shape[-1] // 4
    return np.partition(flat, (cut, flat.shape[-1] - cut - 1), axis=-1)[..., cut : flat.shape[-1] - cut].mean(-1)


def aggregate(scores: np.ndarray, args: Args, baseline: Optional[np.ndarray] = None) -> np.ndarray:
    """AGGREGATES of scores (runs, games), or of these divided by the mean of `baseline`, (runs, games), in each game,
    each with its interval: (4, 3). NaN where an interval would rest on one run, or on two of a single game.

    Mean and optimality gap: a t interval of the mean over games. Median and IQM: percentiles of a stratified bootstrap
    over runs, of the agent and of the baseline, stretched about the value by what it misses with few runs."""
    games = np.arange(scores.shape[1])
    unit = np.ones(len(games)) if baseline is None else baseline.mean(0)
    ratios = scores / unit
    capped = np.minimum(ratios, 1)
    values = np.array([ratios.mean(), np.median(ratios.mean(0)), middle_half(ratios), 1 - capped.mean()])
    samples = [scores] if baseline is None else [scores, baseline]
    if min(map(len, samples)) < 2 or scores.shape == (2, 1):
        return np.stack([values, *np.full((2, 4), math.nan)], axis=1)

    generator = np.random.default_rng(args.seed)
    resampled, *others = [x[generator.integers(len(x), size=(args.reps, *x.shape)), games] for x in samples]
    for other in others:
        resampled = resampled / other.mean(1, keepdims=True)
    parts = [ratios / len(games)]
    if baseline is not None:
        parts.append(ratios.mean(0) * baseline / unit / len(games))
    error, df, missed = standard_error(parts)
    gap_error, gap_df, _ = standard_error([capped / len(games)])
    draws = np.stack([np.median(resampled.mean(1), axis=-1), middle_half(resampled)])  # (2, reps)
    stretch = missed * t_quantile(df) / t_quantile(math.inf)
    ends = values + np.outer([-1, 1], [error * t_quantile(df), 0, 0, gap_error * t_quantile(gap_df)])
    ends[:, 1:3] += stretch * (np.percentile(draws, (2.5, 97.5), axis=1) - values[1:3])
    ends[:, 3] = np.clip(ends[:, 3], 0, None)
    return np.stack([values, *ends], axis=1)


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """How often a run of `x`, (runs, games), beats one of `y`, with ties as half, averaged over games, and its interval
    (Wilson 1927), with the variance that the average has between equal agents (Mann & Whitney 1947)."""
    value = ((x[:, None] > y) + 0.5 * (x[:, None] == y)).mean()
    if min(len(x), len(y)) < 2:
        return value, math.nan, math.nan
    trials = 3 * len(x) * len(y) * x.shape[1] / (len(x) + len(y) + 1)  # 0.25 / trials is that variance
    z = t_quantile(x.shape[1] * (len(x) + len(y) - 2)) ** 2 / trials
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
    half = math.nan
    if min(map(len, parts)) > 1:
        error, df, _ = standard_error(parts)
        half = error * t_quantile(df)
    centre = np.log(ratios).mean() if geometric else ratios.mean()
    values = np.array([centre, centre - half, centre + half])
    return tuple(np.exp(values) if geometric else values)


def side(x: np.ndarray, y: np.ndarray) -> int:
    """1 if every run of `x` is above every run of `y`, -1 if below, else 0; 0 with fewer than three of either."""
    if min(len(x), len(y)) < 3:
        return 0
    return int(x.min() > y.max()) - int(x.max() < y.min())


# DRAWING: sizes are in inches and fixed, so that a figure is not laid out to be measured, and is the same everywhere


def panels(titles: Sequence[str], columns: int, size: tuple, legend: dict, x: str, y: str = "", **room: float):
    """A figure of panels of `size` (width, height), with `legend`, {label: handle}, on top and labels that all panels
    share. Room at the left, and between panels (`across`, `down`). Returns the figure and its axes, a list."""
    left, across, down = room.get("left", 0.85), room.get("across", 0.55), room.get("down", 0.5)
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    width = max(5.0, left + columns * (size[0] + across))
    per_row = max(1, int(width / (0.6 + 0.075 * max(map(len, legend), default=1))))
    top = 0.35 + 0.2 * math.ceil(len(legend) / per_row)
    height = top + rows * (size[1] + down) + 0.1
    figure = plt.figure(figsize=(width, height))
    axes = []
    for i, title in enumerate(titles):
        corner = left + i % columns * (size[0] + across), height - top - (i // columns + 1) * (size[1] + down) + down
        place = corner[0] / width, corner[1] / height, size[0] / width, size[1] / height
        axes.append(figure.add_axes(place, title=title))
    if legend:
        top = (0.5, 1 - 0.05 / height)
        figure.legend(legend.values(), legend.keys(), loc="upper center", bbox_to_anchor=top, ncols=per_row)
    figure.text(0.5, 0.12 / height, x, ha="center")
    figure.text(0.1 / width, 0.5, y, va="center", rotation=90)
    return figure, axes


def lines(study: Study, agents: list[str], **style) -> dict:
    """A legend: the agents' lines by name."""
    return {agent: plt.Line2D([], [], color=study.colours[agent], **style) for agent in agents}


def draw_curve(axis: plt.Axes, steps: list[int], values: np.ndarray, ends: Optional[Sequence], colour: tuple) -> None:
    """A curve with its band; a cross where there is but one point."""
    axis.plot(steps, values, color=colour, marker="x" if len(steps) == 1 else None)
    if ends is not None:
        axis.fill_between(steps, *ends, color=colour, alpha=0.2, linewidth=0)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.locator_params(nbins=5)


def draw_games(study: Study, metric: str, label: str, args: Args) -> plt.Figure:
    """`metric` against steps, one panel a game, of the games and agents that have it."""
    games, agents = study.having(metric)
    columns = min(8, math.ceil(math.sqrt(len(games))))
    size = (4.0, 2.6) if len(games) == 1 else (2.4, 1.8)
    label = label if len(games) > columns or len(games) == 1 else label.split(" (")[0]  # the longer is as high as two
    figure, axes = panels(list(map(short, games)), columns, size, lines(study, agents), "agent steps", label)
    for game, axis in zip(games, axes, strict=True):
        for agent in agents:
            values = study.curves.get((game, agent), {}).get(metric)
            if values is not None:
                ends = band(values, args, metric, game)
                draw_curve(axis, study.steps[game], values.mean(0), ends, study.colours[agent])
    return figure


def draw_final_sparsity(study: Study, args: Args) -> plt.Figure:
    """The final score against the final sparsity, one panel a game: a small point a run, a large one the mean of each
    agent, with the band of its score."""
    games, agents = study.having("sparsity")
    legend = lines(study, agents, marker="o", linestyle="none")
    label = "final sparsity (share of zero weights)"
    figure, axes = panels(list(map(short, games)), 4, (2.8, 2.2), legend, label, "final score")
    for game, axis in zip(games, axes, strict=True):
        axis.set_xlim(-0.05, 1.05)
        for agent in agents:
            final = study.final(game, agent) if (game, agent) in study.curves else {}
            score, sparsity, colour = final.get("final_score", []), final.get("sparsity", []), study.colours[agent]
            if len(sparsity) and len(sparsity) == len(score):  # of all runs it is known
                axis.plot(sparsity, score, marker="o", markersize=3, linestyle="none", color=colour, alpha=0.5)
                axis.plot(sparsity.mean(), score.mean(), marker="o", markersize=7, color=colour)
                axis.vlines(sparsity.mean(), *(band(score, args, "final_score", game) or (score, score)), color=colour)
    return figure


def draw_aggregate_curves(study: Study, steps: list[int], curves: dict[str, np.ndarray]) -> plt.Figure:
    """Mean, median and IQM of the human-normalised score against steps: {agent: (steps, 4, 3)}, as `aggregate`."""
    legend = lines(study, list(curves))
    figure, axes = panels(AGGREGATES[:3], 3, (3.2, 2.4), legend, "agent steps", "human-normalised score")
    for i, axis in enumerate(axes):
        for agent, curve in curves.items():
            ends = None if np.isnan(curve[:, i, 1:]).all() else curve[:, i, 1:].T
            draw_curve(axis, steps, curve[:, i, 0], ends, study.colours[agent])
    return figure


def draw_intervals(study: Study, rows: list[dict], columns: Sequence[str], label: str, line: float = math.nan):
    """A table's values with their intervals: a row of panels for each measure, the `columns` side by side, and in each
    panel a bar for each row, the first on top."""
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    names = list(dict.fromkeys(name_of(row) for row in rows))
    titles = [MEASURES[measure] for measure in measures]
    if len(columns) > 1:
        titles = [f"{title}, {column.replace('_', ' ')}" for title in titles for column in columns]
    across = len(columns) if len(columns) > 1 else len(measures)
    size, left = (2.3, 0.2 + 0.24 * len(names)), 0.35 + 0.07 * max(map(len, names))
    figure, axes = panels(titles, across, size, {}, label, left=left, across=0.25)
    for i, axis in enumerate(axes):
        column = columns[i % len(columns)]
        here = [row for row in rows if row["measure"] == measures[i // len(columns)]]
        for j, row in enumerate(here):
            value, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
            axis.barh(j, high - low, left=low, height=0.6, color=study.colours[row["agent"]], alpha=0.75)
            axis.plot([value, value], [j - 0.3, j + 0.3], color="black", linewidth=2)
        axis.axvline(line, color="black", linewidth=0.8, linestyle="--")
        axis.set_yticks(range(len(here)), [name_of(row) for row in here] if i % across == 0 else [""] * len(here))
        axis.set_ylim(len(here) - 0.4, -0.6)
        axis.use_sticky_edges = False
        axis.locator_params(axis="x", nbins=5)
    return figure


def draw_sweep(study: Study, sweep: list[dict]) -> plt.Figure:
    """Final score, then area under the curve against k, one panel a game: for each base a line with its band. A log
    axis has no 0: k = 0 stands at the left in a grey field, with a dashed line at its height across the panel."""
    games = list(dict.fromkeys(row["game"] for row in sweep))
    bases = list(dict.fromkeys(row["base"] for row in sweep))
    colours = {row["base"]: study.colours[row["agent"]] for row in sweep}
    colours |= {base: study.colours[f"IB-{base}(n)"] for base in bases if f"IB-{base}(n)" in study.colours}
    legend = {}
    for base in bases:
        legend[f"{base}, k = 0"] = plt.Line2D([], [], color=study.colours.get(base), marker="D", linestyle="--")
        legend[f"IB-{base}(k)"] = plt.Line2D([], [], color=colours[base], marker="o")
    places = [(measure, game) for measure in ("final_score", "auc") for game in games]
    titles = [f"{short(game)}: {MEASURES[measure]}" for measure, game in places]
    columns = min(6, len(games))
    figure, axes = panels(titles, columns, (2.5, 1.9), legend, "k (log axis; k = 0 set off in grey)", down=0.9)
    for (measure, game), axis in zip(places, axes, strict=True):
        here = [row for row in sweep if row["game"] == game]
        least = min(row["k"] for row in here if row["k"] > 0)
        ticks = {}  # place on the axis: label
        for row in here:
            multiple_of_n = re.search(r" ?\(\d*n\)$", row["agent"])
            ticks[row["k"] or least / 4] = f"{row['k']:g}" + (multiple_of_n[0] if multiple_of_n else "")
        axis.set_xscale("log")
        axis.set_xlim(least / 7, max(row["k"] for row in here) * 1.3)
        axis.axvspan(least / 7, least / 2, color="black", alpha=0.07, linewidth=0)
        for base in bases:
            rows = sorted((row for row in here if row["base"] == base), key=lambda row: row["k"])
            expanded = [row for row in rows if row["k"] > 0]
            k, values, low, high = ([row[name] for row in expanded] for name in ("k", *with_ends(measure)))
            axis.plot(k, values, marker="o", markersize=4, color=colours[base])
            axis.fill_between(k, low, high, color=colours[base], alpha=0.2, linewidth=0)
            axis.vlines(k, low, high, color=colours[base], linewidth=1)  # seen where a neighbour has no interval, too
            for row in rows[: len(rows) - len(expanded)]:
                colour, place = study.colours[row["agent"]], least / 4 * 1.3 ** bases.index(base)
                axis.plot(place, row[measure], marker="D", markersize=5, color=colour)
                axis.vlines(place, *(row[name] for name in with_ends(measure)[1:]), color=colour)
                axis.axhline(row[measure], color=colour, linewidth=0.8, linestyle="--")
        axis.set_xticks(list(ticks), ticks.values(), rotation=90)
        axis.minorticks_off()
    return figure


def draw_changes(study: Study, changes: dict[tuple, list], unit: str) -> plt.Figure:
    """Bars of the change in the final score of each game, one panel a pair of agents: {pair: `score_changes`}."""
    most = max(map(len, changes.values()))
    titles = [f"{agent} over {baseline}" for agent, baseline in changes]
    size = (2.2, 0.3 + 0.2 * most)
    figure, axes = panels(titles, 3, size, {}, f"change in final score ({unit})", left=1.4, across=1.5)
    for ((agent, _), bars), axis in zip(changes.items(), axes, strict=True):
        bar = axis.barh([short(game) for game, _ in bars], [change for _, change in bars], color=study.colours[agent])
        axis.bar_label(bar, fmt="%+.1f", padding=2, fontsize=7)
        axis.set_ylim(-0.7, most - 0.3)
        axis.margins(x=0.3)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.locator_params(axis="x", nbins=4)
    return figure


def draw_forest(rows: list[dict]) -> plt.Figure:
    """A line for each folder, agent and family of games: a small circle a game, a diamond the mean with its interval;
    filled where the seeds separate (of a mean: in every game, in one direction)."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["label"], []).append(row)
    size, left = (3.1, 0.3 + 0.34 * len(groups)), 0.2 + 0.068 * max(map(len, groups))
    titles = ["final score (log axis)", "final overestimation"]
    figure, axes = panels(titles, 2, size, {}, "with the layer / without it", left=left, across=0.25)
    for axis, measure in zip(axes, ("final_score", "overestimation"), strict=True):
        for i, group in enumerate(groups.values()):
            here = [row for row in group if row["measure"] == measure]
            for row in here:
                is_mean = row is here[-1]  # or the only game
                colour, height = ("#D55E00", i) if is_mean else ("#777777", i + 0.28)
                style = {"marker": "D", "markersize": 6} if is_mean else {"marker": "o", "markersize": 4}
                fill = colour if row["separate"] else "white"
                axis.plot(row["ratio"], height, color=colour, markerfacecolor=fill, zorder=3, **style)
            axis.hlines(i, here[-1]["ratio_low"], here[-1]["ratio_high"], color="#D55E00")
            if math.isnan(here[-1]["ratio"]):
                axis.text(0.5, i, "no ratio", va="center", ha="center", transform=axis.get_yaxis_transform())
        ratios = [row["ratio"] for row in rows if row["measure"] == measure and math.isfinite(row["ratio"])]
        least, most = min([1, *ratios]), max([1, *ratios])
        if measure == "final_score":
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlim((least / 1.5, most * 1.5) if measure == "final_score" else (min(0, least) - 0.2, most + 0.4))
        axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
        axis.set_yticks(range(len(groups)), groups if axis is axes[0] else [""] * len(groups))
        axis.set_ylim(len(groups) - 0.4, -0.6)
    return figure


# TABLES: lists of rows, each a dictionary by column


def with_ends(name: str) -> tuple[str, str, str]:
    """The columns of a value and of its interval."""
    return name, f"{name}_low", f"{name}_high"


def estimate(name: str, values: Iterable[float]) -> dict:
    """These columns: of a value, low and high."""
    return dict(zip(with_ends(name), map(float, values), strict=True))


def name_of(row: dict) -> str:
    """What a row of a table is about: an agent, or a pair."""
    return f"{row['agent']} over {row['baseline']}" if "probability" in row else row["agent"]


def game_table(study: Study, args: Args) -> list[dict]:
    """One row for each game and agent: how much it rests on, and every measure with the ends of its band."""
    names = {name: None for place in study.curves for name in study.final(*place)}
    rows = []
    for game, agent in study.curves:
        row = {"game": game, "agent": agent, "k": study.k[game, agent], "runs": study.seeds(game, agent)}
        row |= {"steps": study.steps[game][-1], "evaluations": len(study.steps[game])}
        for name in names:
            values = study.final(game, agent).get(name, np.array([math.nan]))
            row |= estimate(name, (values.mean(), *(band(values, args, name, game) or (math.nan, math.nan))))
        rows.append(row)
    return rows


def best_table(sweep: list[dict]) -> list[dict]:
    """The k with the greatest mean of each game, base and measure (of equal ones the least), and the others that it is
    within the interval of: all but those whose intervals end below that of the best. One run has no interval that could
    end anywhere."""
    best_rows = []
    for game, base in dict.fromkeys((row["game"], row["base"]) for row in sweep):
        rows = sorted((row for row in sweep if (row["game"], row["base"]) == (game, base)), key=lambda row: row["k"])
        for measure in ("final_score", "auc"):
            best = max(rows, key=lambda row: row[measure])  # noqa: B023
            value, low, high = (best[name] for name in with_ends(measure))
            near = [row for row in rows if row is not best and not row[f"{measure}_high"] < low]
            within = ", ".join(f"{row['k']:g}" + " (one run)" * (row["runs"] == 1) for row in near)
            row = {"game": game, "measure": measure, "best_k": f"{best['k']:g}", "agent": best["agent"]}
            row |= {"runs": best["runs"]} | estimate("mean", (value, low, high))
            best_rows.append(row | {"within_the_interval_of_k": within or "none"})
    return best_rows


def aggregate_table(study: Study, games: list[str], measures: Sequence[str], args: Args, baseline: str = ""):
    """The aggregates over `games` of all agents that have played them, divided by the mean of `baseline` if there is
    one: a row for each agent and measure, and notes on runs that are left out."""
    rows, notes = [], []
    agents = [agent for agent in study.agents if set(games) <= set(study.common(agent))]
    for agent in agents:
        seeds = [study.seeds(game, agent) for game in games]
        if min(seeds) < max(seeds):
            notes.append(f"Aggregates use {count(min(seeds), 'run')} a game of {agent}, as many as every game has.")
        for measure in measures:
            scores = study.rectangle(agent, games, measure)
            divisor = study.rectangle(baseline, games, measure) if baseline else None
            values = aggregate(scores, args, divisor)
            row = {"agent": agent, "measure": measure, "games": len(games), "runs": len(scores)}
            row |= {"steps": max(study.steps[game][-1] for game in games)}
            for name, three in zip(AGGREGATES[: 3 if baseline else 4], values, strict=False):
                row |= estimate(name, three)
            rows.append(row)
    return rows, notes


def improvement_table(study: Study, args: Args) -> list[dict]:
    """The probability of improvement of each agent over its baseline, over the games of both."""
    rows = []
    for agent, baseline in study.pairs(args.relative_to):
        games = study.common(agent, baseline)
        for measure in ("final_score", "auc"):
            x, y = study.rectangle(agent, games, measure), study.rectangle(baseline, games, measure)
            row = {"agent": agent, "baseline": baseline, "measure": measure, "games": len(games)}
            row |= {"runs": len(x), "baseline_runs": len(y)}
            rows.append(row | estimate("probability", probability_of_improvement(x, y)))
    return rows


def score_changes(study: Study, agent: str, baseline: str, human: bool) -> list[tuple[str, float]]:
    """The change from `baseline` to `agent` in the final score of each game, least first: in human-normalised
    percentage points, or in percent of the baseline's score for games without a human score."""
    changes = []
    for game in study.common(agent, baseline):
        new, old = study.final(game, agent), study.final(game, baseline)
        if human and game in HUMAN:
            changes.append((game, 100 * (new["human_normalised"].mean() - old["human_normalised"].mean())))
        elif not human and game not in HUMAN and old["final_score"].mean() != 0:
            before = old["final_score"].mean()
            changes.append((game, 100 * (new["final_score"].mean() - before) / abs(before)))
    return sorted(changes, key=lambda change: change[1])


def forest_table(args: Args) -> tuple[list[dict], list[str]]:
    """A row for each folder, agent, family of games, game and measure, and one for the mean over games ("all"): both
    means, their ratio, and whether the seeds separate. Notes on what is left out."""
    rows, notes = [], []
    for folder in args.runs:
        runs, more = read_runs([folder])
        notes += more
        for base in sorted({run.base for run in runs}, key=order):
            with_layer = f"IB-{base}({args.k})"
            study, more = compare([run for run in runs if run.agent in (base, with_layer)])
            games = study.common(base, with_layer)
            notes += more if games else []
            for family in dict.fromkeys(map(family_of, games)):
                here = [game for game in games if family_of(game) == family]
                steps = max(study.steps[game][-1] for game in here)
                where = f"{family}, {len(here)} games" if len(here) > 1 else f"{family}, {short(here[0])}"
                where = where.split(", ")[0] if where == f"{family}, {family}" else where
                facts = {"folder": folder, "agent": base, "family": family, "steps": steps}
                facts |= {"label": f"{base}: {where}, {EngFormatter(sep='')(steps)} steps"}
                for measure in ("final_score", "auc", "overestimation"):
                    for names in [[game] for game in here] + ([here] if len(here) > 1 else []):
                        rows.append(facts | forest_row(study, base, with_layer, names, measure))
    return rows, notes


def forest_row(study: Study, base: str, with_layer: str, games: list[str], measure: str) -> dict:
    """What a row of `forest_table` says of `games`, of one or of all."""
    none = np.empty(0)
    pairs = [[study.final(game, agent).get(measure, none) for agent in (with_layer, base)] for game in games]
    row = {"game": games[0] if len(games) == 1 else "all", "measure": measure}
    row |= {"runs_with": min(len(x) for x, _ in pairs), "runs_without": min(len(y) for _, y in pairs)}
    means = [sample.mean() if len(sample) and len(games) == 1 else math.nan for sample in pairs[0]]
    row |= {"with": means[0], "without": means[1]} | estimate("ratio", ratio(pairs, measure != "overestimation"))
    return row | {"separate": {side(x, y) for x, y in pairs} in ({1}, {-1})}


def family_of(game: str) -> str:
    """MinAtar, Atari, or a game of its own."""
    return {"ALE": "Atari", "MinAtar": "MinAtar"}.get(game.split("/")[0], short(game))


def forest_markdown(rows: list[dict]) -> str:
    """The final score and, below it, the final overestimation, with the layer / without it: a line an agent, a column a
    game, bold where the seeds separate. An agent and game of a second folder stand in a line of their own."""
    lines: list[dict] = []
    names = {}
    cells: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["game"] != "all" and row["measure"] != "auc":
            cells.setdefault((row["agent"], row["game"], row["folder"]), []).append(row)
            atari = " (Atari)" if row["family"] == "Atari" else ""
            names[row["game"]] = short(row["game"]) + atari
    for (agent, game, _), of_game in cells.items():
        free = [line for line in lines if line["agent"] == agent and game not in line]
        if not free:
            free = [{"agent": agent, "seeds": set()}]
            lines += free
        texts = [f"{row['with']:.3g} / {row['without']:.3g}" for row in of_game]
        bold = [f"**{text}**" if row["separate"] else text for text, row in zip(texts, of_game, strict=True)]
        free[0][game] = "<br>".join(bold)
        free[0]["seeds"] |= {number for row in of_game for number in (row["runs_with"], row["runs_without"])} - {0}
    table = []
    for line in lines:
        seeds = " to ".join(str(number) for number in sorted({min(line["seeds"]), max(line["seeds"])}))
        table.append([line["agent"], seeds, *(line.get(game, "") for game in names)])
    return markdown(["agent", "seeds", *names.values()], table)


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; a | in a name ends no cell."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(str(text).replace("|", "\\|") for text in line) + " |\n" for line in lines)


def cell(row: dict, column: str) -> str:
    """What README.md says of a table's cell, with its interval if there is one."""
    value, low, high = (row.get(name) for name in with_ends(column))
    if column == "game":
        return short(value)
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else MEASURES.get(value, value)
    if math.isnan(value):
        return ""
    return f"{value:.4g}" + (f" ({low:.4g}, {high:.4g})" if low is not None and math.isfinite(low) else "")


# THE REPORT


@dataclass
class Report:
    """What will be written. The sections below add to it."""

    lines: list[str] = field(default_factory=list)  # of README.md
    notes: list[str] = field(default_factory=list)
    tables: dict[str, list[dict]] = field(default_factory=dict)  # name: rows
    figures: dict[str, Callable] = field(default_factory=dict)  # name: what draws it

    def table(self, name: str, rows: list[dict], columns: Sequence[str]) -> None:
        """A CSV file, and its `columns` in README.md."""
        self.tables[name] = rows
        header = [column.replace("_", " ").replace("measure", "of") for column in columns]
        self.lines.append(markdown(header, [[cell(row, column) for column in columns] for row in rows]))

    def figure(self, name: str, caption: str, draw: Callable) -> None:
        self.figures[name] = draw
        self.lines += [f"![{caption}]({name}.png)", ""]

    def write(self, out: Path, page: str) -> None:
        """Save everything, then move it to its place at once: a report that is cut off leaves the one before it."""
        folder = out / UNFINISHED
        for name, rows in self.tables.items():
            with open(folder / f"{name}.csv", "w", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(rows[0])
                for row in rows:  # ten digits: more would differ between machines
                    texts = [f"{value:.10g}" if isinstance(value, float) else value for value in row.values()]
                    writer.writerow(["" if text == "nan" else text for text in texts])
        for name, draw in tqdm(self.figures.items(), "figures", disable=None, leave=False):
            figure = draw()
            figure.savefig(folder / f"{name}.png", dpi=150)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)
        (folder / page).write_text("\n".join(self.lines) + "\n")
        for path in sorted(folder.iterdir(), key=lambda path: path.name == page):  # the page last
            path.replace(out / path.name)


def report_aggregates(report: Report, study: Study, args: Args) -> None:
    """Over games with a human score: the aggregates' curves, final values and their table."""
    agents = [agent for agent in study.agents if any(game in HUMAN for game in study.common(agent))]
    games = [game for game in study.common(*agents) if game in HUMAN] if agents else []
    left_out = [game for game in study.games if game in HUMAN and game not in games]
    if left_out:
        report.notes.append(f"Not every agent has played {', '.join(left_out)}: the aggregates leave it out.")
    steps = sorted(set.intersection(*(set(study.steps[game]) for game in games))) if games else []
    if not steps:
        return
    curves = {}
    for agent in agents:
        runs = min(study.seeds(game, agent) for game in games)
        columns = []
        for game in games:
            shared = np.isin(study.steps[game], steps)
            columns.append(normalised(game, study.curves[game, agent]["score_mean"][:runs, shared]))
        scores = np.stack(columns, axis=1)  # (runs, games, steps)
        bar = tqdm(range(len(steps)), f"aggregates of {agent}", disable=None, leave=False)
        curves[agent] = np.stack([aggregate(scores[..., i], args) for i in bar])
    rows, notes = aggregate_table(study, games, ["human_normalised"], args)
    report.notes += notes
    report.lines += ["## Human-normalised score", "", say_aggregates(rows), ""]
    report.table("aggregates", rows, ["agent", *AGGREGATES])
    draw = lambda: draw_aggregate_curves(study, steps, curves)  # noqa: E731
    report.figure("normalised_curves", "Human-normalised score against agent steps", draw)
    draw = lambda: draw_intervals(study, rows, AGGREGATES, "human-normalised score")  # noqa: E731
    report.figure("aggregates", "Final aggregates with intervals", draw)


def say_aggregates(rows: list[dict]) -> str:
    """What aggregates rest on, and what an IQM averages."""
    games = rows[0]["games"]
    runs = {row["agent"]: row["runs"] for row in rows}
    kept = [f"{number * games - number * games // 4 * 2} of {number * games}" for number in sorted({*runs.values()})]
    used = ", ".join(f"{number} of {agent}" for agent, number in runs.items())
    return (
        f"Over {count(games, 'game')}; runs a game: {used}. Mean and median are those of the games' means, the IQM\n"
        f"the mean of all runs without the lowest and the highest quarter, rounded down ({', '.join(kept)} scores)."
    )


def report_relative(report: Report, study: Study, args: Args) -> None:
    """Over games without a human score: figure and table of the aggregates relative to a baseline."""
    baseline = args.relative_to
    games = [game for game in study.common(baseline) if game not in HUMAN]
    measures = ["final_score", "auc", "overestimation"]
    # Resampled, runs of which one scored 0 or less could have a mean of 0 or less, by which nothing can be divided
    least = {game: min(study.final(game, baseline)[name].min() for name in measures[:2]) for game in games}
    for game in [game for game in games if least[game] <= 0]:
        reason = f"a run of {baseline} scored 0 or less there"
        report.notes.append(f"{game} is left out of the scores relative to {baseline}: {reason}.")
        games.remove(game)
    if len(games) < 2 or len(study.agents) < 2:
        return
    agents = [agent for agent in study.agents if set(games) <= set(study.common(agent))]
    over = [study.rectangle(agent, games, "overestimation") for agent in agents]
    if min(map(len, over)) == 0 or study.rectangle(baseline, games, "overestimation").min() <= 0:
        report.notes.append(
            f"No overestimation relative to {baseline}: in one of its runs it is not above 0, or unknown."
        )
        measures.remove("overestimation")
    if missing := [agent for agent in study.agents if agent not in agents]:
        report.notes.append(f"Without runs in all games of {baseline}, left out relative to it: {', '.join(missing)}.")
    rows, notes = aggregate_table(study, games, measures, args, baseline)
    report.notes += notes
    report.lines += [f"## Relative to {baseline}", "", say_aggregates(rows)]
    report.lines += [f"Divided by the mean of {baseline} in the game; its own row compares two draws of its runs.", ""]
    report.table("relative", rows, ["agent", "measure", *AGGREGATES[:3]])
    label = f"divided by the mean of {baseline} in the game"
    draw = lambda: draw_intervals(study, rows, AGGREGATES[:3], label, 1.0)  # noqa: E731
    report.figure("relative", f"Scores relative to {baseline} with intervals", draw)


def report_sweep(report: Report, study: Study, games: list[dict]) -> None:
    """The sweeps over k, of bases with three values of k in a game: figure and table of the best."""
    rows = [row | {"base": study.base[row["agent"]]} for row in games]
    values = Counter((row["game"], row["base"]) for row in rows)
    sweep = [row for row in rows if values[row["game"], row["base"]] >= 3]
    if not sweep:
        return
    report.lines += ["## Sweep over k", ""]
    report.lines += [
        "The best k has the greatest mean over runs, which tends to be too great, as the greatest of several."
    ]
    report.lines += ["It is not shown to be better than k whose intervals overlap; one run has no interval.", ""]
    columns = ["game", "measure", "best_k", "agent", "runs", "mean", "within_the_interval_of_k"]
    report.table("best_k", best_table(sweep), columns)
    caption = "Final score and area under the curve against k, one panel a game"
    report.figure("sweep", caption, lambda: draw_sweep(study, sweep))


def report_pairs(report: Report, study: Study, args: Args) -> None:
    """Every agent against its baseline: the probability of improvement, and the change in each game."""
    rows = improvement_table(study, args)
    if not rows:
        return
    report.lines += ["## Against the baseline", ""]
    columns = ["agent", "baseline", "measure", "probability", "games", "runs", "baseline_runs"]
    report.table("improvement", rows, columns)
    draw = lambda: draw_intervals(study, rows, ["probability"], "probability of improvement", 0.5)  # noqa: E731
    report.figure("improvement", "Probability of improvement", draw)
    for human, name, unit in (
        (True, "changes", "human-normalised points"),
        (False, "changes_raw", "% of the baseline's"),
    ):
        pairs = {(row["agent"], row["baseline"]): None for row in rows}
        changes = {pair: score_changes(study, *pair, human) for pair in pairs}
        changes = {pair: bars for pair, bars in changes.items() if bars}
        if changes:
            draw = lambda changes=changes, unit=unit: draw_changes(study, changes, unit)  # noqa: E731
            report.figure(name, "Change in final score from the baseline, game by game", draw)


def report_games(report: Report, study: Study, games: list[dict], soft: set[str], args: Args) -> None:
    """Every game: the figures, and the table `games` of `game_table`."""
    report.lines += [
        "## Game by game",
        "",
        "Final score, overestimation and action gap are those of the last evaluation that all runs of a game share;",
        "`auc` is the mean score over all shared evaluations. Overestimation is the mean action-value minus the mean",
        "discounted return, both over the evaluated episodes.",
    ]
    if soft:
        report.lines.append(f"Of {', '.join(sorted(soft))} it holds the bonuses of a soft value, and need not be one.")
    report.lines.append("")
    for metric, (name, label) in FIGURES.items():
        if study.having(metric)[0]:
            caption = f"{label[0].upper()}{label[1:]} against agent steps, one panel a game"
            draw = lambda metric=metric, label=label: draw_games(study, metric, label, args)  # noqa: E731
            report.figure(name, caption, draw)
    if study.having("sparsity")[0]:
        caption = "Final score against final sparsity, one panel a game: small points are runs, large ones means"
        report.figure("final_sparsity", caption, lambda: draw_final_sparsity(study, args))
    measures = [name for name in games[0] if f"{name}_low" in games[0]]
    report.table("games", games, ["game", "agent", "runs", "steps", *measures])


def report_intervals(report: Report, study: Study, args: Args) -> None:
    """What bands and brackets are: said once."""
    report.lines += ["## Intervals", ""]
    seeds = {study.seeds(*place) for place in study.curves}
    if args.interval == "minmax":
        report.lines.append("Bands and brackets of a game reach from the least run to the greatest.")
    elif max(seeds) > 2:
        report.lines.append("Bands and brackets of a game are 95% intervals of the mean over runs (Student's t).")
    if 2 in seeds and args.interval != "minmax":
        report.lines.append("Of two runs a band holds both; it is no confidence interval.")
    if 1 in seeds:
        report.lines.append("One run has no band.")
    if {"aggregates", "relative"} & set(report.tables):
        report.lines += [
            "Over games, mean and optimality gap have a 95% t interval, with the standard error of independent games",
            "and Satterthwaite's degrees of freedom; median and IQM that of a stratified bootstrap",
            f"({args.reps:,} resamples), widened for few runs. Simulated with 3 to 10 runs a game, the intervals hold the",
            "true value in 94% of studies or more if scores are normal; if a fifth of the runs fail, in 87% over games",
            "and in as few as 71% of one game.",
        ]
    if "improvement" in report.tables:
        report.lines += ["The probability of improvement has Wilson's, with the variance that it has of equal agents."]
    report.lines.append("An interval is cut where the quantity is bounded.")


# MAIN


def check(args: Args) -> None:
    """End the program where the flags cannot work."""
    for root in args.runs:
        if not Path(root).is_dir():
            fail(f"{root} is no folder; name the one that holds the runs, such as runs")
    if args.reps < 1:
        fail(f"--reps {args.reps} must be at least 1")
    if args.seed < 0:
        fail(f"--seed {args.seed} must be at least 0")
    page = Path(args.out) / "README.md"
    try:
        (page.parent / UNFINISHED).mkdir(parents=True, exist_ok=True)
        text = page.read_text(errors="replace") if page.exists() else ""
    except OSError as error:
        fail(f"--out {args.out} cannot be written to ({error.strerror}); name a folder that can")
    if text and not text.startswith("# Report\n") and not args.forest:
        fail(f"--out {args.out} holds a README.md that is no report and would be lost; name another folder")


def warn(notes: list[str]) -> None:
    for note in notes:
        print("warning:", note, file=sys.stderr)


def make_forest(args: Args) -> None:
    """`--forest`: forest.png, forest.svg, forest.csv and forest.md."""
    rows, notes = forest_table(args)
    warn(notes)
    if not rows:
        fail(f"no agent has played a game both with k = {args.k} and without the layer")
    report = Report([forest_markdown(rows)], tables={"forest": rows}, figures={"forest": lambda: draw_forest(rows)})
    report.write(Path(args.out), "forest.md")
    print(f"{args.out}/forest.png: {count(len({row['label'] for row in rows}), 'row')}")


def make_report(args: Args) -> None:
    """README.md, tables and figures."""
    print(f"reading {', '.join(args.runs)}", flush=True)
    runs, notes = read_runs(args.runs)
    study, more_notes = compare(runs)
    notes += more_notes
    if not study.games:
        warn(notes)
        fail(f"{' '.join(args.runs)} holds no {'runs that can be compared' if runs else 'run with an evaluation'}")
    if args.relative_to not in ("DQN", *study.agents):
        fail(f"--relative-to {args.relative_to!r} is none of the agents: {', '.join(study.agents)}")
    report = Report(notes=notes)
    games = game_table(study, args)
    report_aggregates(report, study, args)
    report_relative(report, study, args)
    report_sweep(report, study, games)
    report_pairs(report, study, args)
    report_games(report, study, games, {run.agent for run in runs if run.settings.get("temperature")}, args)
    report_intervals(report, study, args)
    warn(report.notes)

    seeds = sorted({study.seeds(*place) for place in study.curves})
    each = f"{seeds[0]} to {count(seeds[-1], 'seed')}" if len(seeds) > 1 else count(seeds[0], "seed")
    total = f"{count(sum(study.seeds(*place) for place in study.curves), 'run')}, {count(len(study.games), 'game')}"
    head = ["# Report", "", f"{total}, {each} of an agent in a game: {', '.join(study.agents)}.", ""]
    if report.notes:
        head += ["## Notes", "", *(f"- {note}" for note in report.notes), ""]
    out = Path(args.out)
    for root in map(Path, args.runs):  # `benchmark.sh quick` puts the gridworld's figures beside the runs
        figures = sorted(root.with_name("tabular").glob("*.png")) if root.name == "runs" else []
        head += ["## Gridworld", ""] if figures else []
        head += [f"![{path.stem}]({os.path.relpath(path, out)})\n" for path in figures]
    report.lines = head + report.lines
    print(f"drawing {count(len(report.figures), 'figure')} of {total}", flush=True)
    report.write(out, "README.md")
    print(f"{out}/README.md: {total}")


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    check(args)
    try:
        if args.forest:
            make_forest(args)
        else:
            make_report(args)
    finally:
        shutil.rmtree(Path(args.out) / UNFINISHED, ignore_errors=True)


if __name__ == "__main__":
    main()
