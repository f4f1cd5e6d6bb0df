# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pandas==2.3.3",
#     "rliable==1.2.0",
#     "scipy==1.17.1",
#     "tyro==1.0.17",
# ]
# ///
"""The paper's tables and figures from a folder of runs, finished or not: reads their `config.json` and `eval.csv`.

Writes README.md, figures (PNG and SVG) and tables (CSV). Learning curves, overestimation and action gap of every game,
and the norm of q where runs have it; over the games with a human score (Wang et al. 2016) the mean, median,
IQM and optimality gap of the human-normalised score with 95% stratified bootstrap intervals (Agarwal et al. 2021,
`rliable`), and over the games without one the mean, median and IQM of score and overestimation divided by those of DQN
(`--relative-to`); final score and area under the curve against k, and the best k, where a game has three values of k;
score and sparsity of agents that prune; and the probability of improvement.
The same runs give the same report, byte for byte.

Usage: python report.py runs --out report
"""

import json
import math
import os
import re
import sys
import textwrap
import warnings
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal, NoReturn, Optional

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.stats
import tyro
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.ticker import EngFormatter
from rliable import library, plot_utils

matplotlib.rcParams["svg.hashsalt"] = "mean-expansion"  # the ids in an SVG are random without it


@dataclass
class Args:
    runs: tyro.conf.Positional[str]  # the folder of the runs; subfolders are searched
    out: str = "report"  # the folder to write to
    interval: Literal["bootstrap", "minmax"] = "bootstrap"  # bands of a game: 95% intervals of the mean, or all seeds
    reps: int = 2_000  # bootstrap resamples
    seed: int = 1  # of the bootstrap
    relative_to: str = "DQN"  # the agent by whose mean the scores of games without a human score are divided


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

# The scripts' `--exp-name`s without `_mexp`, and `benchmark.sh`'s
BASELINES = {
    "dqn": "DQN",
    "dqn_atari": "DQN",
    "minatar": "DQN",
    "minatar_dqn": "DQN",
    "lunarlander": "DQN",
    "iqn": "IQN",
    "iqn_atari": "IQN",
    "iqn_minatar": "IQN",
    "minatar_iqn": "IQN",
    "nature": "Nature DQN",
    "nature_dqn_atari": "Nature DQN",
    "nature_dqn_minatar": "Nature DQN",
    "minatar_nature": "Nature DQN",
    "dueling": "Dueling DQN",  # RDQ if `--rdq-beta` is more than 0, whatever the name
    "dueling_atari": "Dueling DQN",
    "dueling_minatar": "Dueling DQN",
    "minatar_dueling": "Dueling DQN",
    "rdq": "Dueling DQN",
    "minatar_rdq": "Dueling DQN",
    "eaudeqn": "EauDeQN",  # PolyPrune or Dense DQN by `--method`; with `--width` if it is not the script's default
    "eaudeqn_atari": "EauDeQN",
    "eaudeqn_minatar": "EauDeQN",
    "minatar_eaudeqn": "EauDeQN",
    "eaudeqn_w32": "EauDeQN",
    "eaudeqn_w2048": "EauDeQN",
    "minatar_eaudeqn_w32": "EauDeQN",
    "minatar_eaudeqn_w512": "EauDeQN",
    "polyprune": "EauDeQN",
    "minatar_polyprune": "EauDeQN",
    "dense": "EauDeQN",
    "minatar_dense": "EauDeQN",
    "softq": "Soft DQN",  # Munchausen-DQN if `--munchausen` is more than 0
    "softq_atari": "Soft DQN",
    "softq_minatar": "Soft DQN",
    "minatar_softq": "Soft DQN",
    "munchausen": "Soft DQN",
    "minatar_munchausen": "Soft DQN",
    "softq_online": "Online soft DQN",  # the policy gradient if `--method` is pg
    "softq_online_atari": "Online soft DQN",
    "softq_online_minatar": "Online soft DQN",
    "minatar_softq_online": "Online soft DQN",
    "softq_pg": "Online soft DQN",
    "minatar_softq_pg": "Online soft DQN",
    "isdqn": "iS-DQN",  # its name says K, a target network and a missing layer normalisation: `name_isdqn`
    "isdqn_atari": "iS-DQN",
    "isdqn_minatar": "iS-DQN",
    "isdqn1": "iS-DQN",
    "targetfree": "iS-DQN",
    "targetbased": "iS-DQN",
    "targetfree_noln": "iS-DQN",
    "minatar_isdqn": "iS-DQN",
    "minatar_isdqn1": "iS-DQN",
    "minatar_targetfree": "iS-DQN",
    "minatar_targetbased": "iS-DQN",
    "minatar_targetfree_noln": "iS-DQN",
}

# The numbers of actions for runs older than the key "num_actions" of config.json
MINATAR_ACTIONS = {"Asterix": 5, "Breakout": 3, "Freeway": 3, "Seaquest": 6, "SpaceInvaders": 4}  # v1, minimal sets
ATARI_ACTIONS = 18  # the full set

COLOURS = {  # Okabe & Ito's palette, with a brown and a grey
    "DQN": "#0072B2",
    "IB-DQN(n)": "#D55E00",
    "IQN": "#56B4E9",
    "IB-IQN(n)": "#E69F00",
    "Nature DQN": "#6B4423",
    "IB-Nature DQN(n)": "#999999",
    "Dueling DQN": "#009E73",
    "RDQ": "#CC79A7",
    "Soft DQN": "#B2182B",
    "IB-Soft DQN(n)": "#FB8072",
    "Munchausen-DQN": "#01665E",
    "IB-Munchausen-DQN(n)": "#80CDC1",
    "Online soft DQN": "#E7298A",
    "Policy gradient": "#000000",
    "Target-based DQN": "#332288",
    "IB-Target-based DQN(n)": "#9A90DA",
    "Target-free DQN": "#AA4499",
    "IB-Target-free DQN(n)": "#E3A1D3",
    "iS-DQN K=1": "#117733",
    "IB-iS-DQN K=1(n)": "#77C08D",
    "iS-DQN K=9": "#B8860B",
    "IB-iS-DQN K=9(n)": "#EBD08A",
    "EauDeQN": "#1A9850",
    "IB-EauDeQN(n)": "#A6D96A",
    "EauDeQN-32": "#2C7FB8",
    "EauDeQN-512": "#0B3D0B",
    "PolyPrune": "#5E3C99",
    "IB-PolyPrune(n)": "#B2ABD2",
    "Dense DQN": "#525252",
    "IB-Dense DQN(n)": "#BDBDBD",
}
OTHER_COLOURS = ["#BEBADA", "#1B4F9C", "#CCEBC5", "#A6761D", "#7A0177", "#3F007D", "#FFD92F", "#4D4D4D", "#66A61E"]
# Agents with another k than n, from the least k to the greatest: yellow, olive, purple, away from the colours above
SWEEP_COLOURS = LinearSegmentedColormap.from_list("sweep", ["#E8CC00", "#8FB000", "#56700A", "#9146C0", "#2B0A3D"])

VALUE_METRICS = ["overestimation", "action_gap"]  # of the action-values, which may diverge
METRICS = ["score_mean", *VALUE_METRICS]  # what is used of eval.csv, besides the step
OPTIONAL = ["q_norm", "sparsity", "nonzero_weights"]  # the same, where runs have them
AGGREGATES = ["mean", "median", "IQM", "optimality gap"]
MEASURES = {"final_score": "final score", "auc": "area under the curve"}  # of sweeps over k and relative scores
RELATIVE_MEASURES = MEASURES | {"overestimation": "final overestimation"}

# Arguments in which the runs of one agent may differ without a note
MAY_DIFFER = {
    "seed",
    "env_id",
    "total_timesteps",
    "mean_scaling_coefficient",
    "runs_dir",
    "resume",
    "checkpoint_frequency",
    "save_model",
    "save_best",
    "capture_video",  # a flag of older runs
    "track",
    "wandb_project_name",
    "wandb_entity",
    "cuda",
    "cuda_graphs",
    "buffer_device",
    "num_threads",
    "eval_only",  # likewise
}


# READING


def fail(message: object) -> NoReturn:
    """End the program over a user's mistake: one line on stderr, exit code 2."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


def canonical_game(env_id: str) -> str:
    """One name for each Atari game: ALE/Pong-v5, also for Pong-v5 and PongNoFrameskip-v4."""
    atari = re.fullmatch(r"(?:ALE/)?(\w+)-v5|(\w+)NoFrameskip-v4", env_id)
    if atari is None:
        return env_id
    return f"ALE/{atari[1] or atari[2]}-v5"


def num_actions(config: dict, game: str) -> Optional[int]:
    """n, the number of actions of a run's game; None if neither its config.json nor the game's name tells."""
    facts = config["starts"][-1] if "starts" in config else config  # runs of before November 2026 have no "starts"
    if "num_actions" in facts:
        return int(facts["num_actions"])
    minatar = re.fullmatch(r"MinAtar/(\w+)-v1", game)
    if minatar is not None:
        return MINATAR_ACTIONS.get(minatar[1])
    if game.startswith("ALE/") and config["args"].get("full_action_space"):
        return ATARI_ACTIONS
    return None


def name_coefficient(k: float, n: Optional[int]) -> str:
    """k relative to the number of actions: n, 2n, 4n where it is a whole multiple, or else the number."""
    if not n or k < n or k % n != 0:
        return f"{k:g}"
    if k == n:
        return "n"
    return f"{k / n:g}n"


def without_sweep(exp_name: str, k: float, n: Optional[int]) -> str:
    """An `--exp-name` without the ending `_k0.5` or `_k4n` that `benchmark.sh --k` gives it. A fork's name keeps such
    an ending if it says something other than the run's k."""
    match = re.fullmatch(r"(.+)_k(\d+(?:\.\d+)?(?:e[+-]\d+)?|(\d*)n)", exp_name)
    if match is None:
        return exp_name
    stem, coefficient, multiple = match.groups()
    if multiple is None:
        value = float(coefficient)
    else:
        value = int(multiple or 1) * (n or math.nan)
    if stem.removesuffix("_mexp") in BASELINES or value == k:
        return stem
    return exp_name


def name_isdqn(args: dict) -> str:
    """The name of a run of `related/isdqn_*.py`, by its K and by what is compared with it there."""
    num_iterations = int(args.get("num_iterations", 9))
    if args.get("target_network"):
        name = "Target-based DQN"
    elif num_iterations == 0:
        name = "Target-free DQN"
    else:
        name = f"iS-DQN K={num_iterations}"
    if not args.get("layer_norm", True):
        name += " without LayerNorm"
    if args.get("eval_head") == "random":
        name += " (random head)"
    return name


def agent_name(args: dict, n: Optional[int]) -> str:
    """The paper's name of an agent, from its run's arguments: IB-DQN(n), or DQN at k = 0; a fork's own `--exp-name`."""
    k = float(args.get("mean_scaling_coefficient") or 0)
    name = without_sweep(args["exp_name"], k, n)
    baseline = BASELINES.get(name.removesuffix("_mexp"))
    if baseline is None:
        return name
    if baseline == "Dueling DQN" and float(args.get("rdq_beta") or 0) > 0:
        baseline = "RDQ"
    if baseline == "Soft DQN" and float(args.get("munchausen") or 0) > 0:
        baseline = "Munchausen-DQN"
        if args.get("entropy_form") == "kl":
            baseline += " (KL)"
    elif baseline == "Soft DQN" and args.get("entropy_form") == "entropy":
        baseline += " (entropy)"
    if baseline == "Online soft DQN" and args.get("method") == "pg":
        baseline = "Policy gradient"
    if baseline == "iS-DQN":
        baseline = name_isdqn(args)
    if baseline == "EauDeQN":
        baseline = {"polyprune": "PolyPrune", "dense": "Dense DQN"}.get(args.get("method"), baseline)
        width = args.get("width")
        if width not in (None, 128 if str(args.get("env_id")).startswith("MinAtar/") else 512):
            baseline += f"-{width}"
    if k == 0:
        return baseline
    return f"IB-{baseline}({name_coefficient(k, n)})"


def baseline_of(agent: str) -> str:
    """The agent without the layer: DQN for IB-DQN(k), fork for fork(k); any other agent itself."""
    return re.sub(r"^IB-|\([\d.e+-]*n?\)$", "", agent)  # and not Munchausen-DQN's (KL)


def read_run(folder: Path) -> pd.DataFrame:
    """One row for each evaluation of a run; raises ValueError or OSError if its files are missing or damaged."""
    config = json.loads((folder / "config.json").read_text())
    args = config["args"]
    text = pd.read_csv(folder / "eval.csv", dtype=str, keep_default_na=False)
    if text.isna().any(axis=None) or (text == "").any(axis=None):
        raise ValueError("values are missing")
    table = pd.read_csv(folder / "eval.csv")
    others = [name for name in OPTIONAL if name in table]
    table = table[["step", *METRICS, *others]].astype(float)
    if np.isinf(table.to_numpy()).any():  # action-values may diverge, and leave a score all the same
        table = table.replace([math.inf, -math.inf], math.nan)
    if table.empty or table[["step", "score_mean"]].isna().any(axis=None) or not table["step"].is_monotonic_increasing:
        raise ValueError("rows are missing or damaged")
    if not table["step"].is_unique:
        raise ValueError("steps come twice")
    table["step"] = table["step"].astype(int)
    game = canonical_game(args["env_id"])
    n = num_actions(config, game)
    k = float(args.get("mean_scaling_coefficient") or 0)
    compared = {name: value for name, value in args.items() if name not in MAY_DIFFER}
    if args.get("method") in ("q", "pg"):  # online soft Q-learning, whose learning rate falls over all steps
        compared["total_timesteps"] = args["total_timesteps"]
    return table.assign(
        game=game,
        agent=agent_name(args, n),
        coefficient=name_coefficient(k, n),
        k=k,
        seed=int(args["seed"]),
        run=str(folder),
        total=int(args["total_timesteps"]),
        settings=json.dumps(compared, sort_keys=True),
    )


def start_time(run: str) -> int:
    """When a run was started, in seconds since 1970, which its folder's name ends with; 0 if it does not."""
    match = re.search(r"__(\d+)$", run)
    return int(match[1]) if match else 0


def differing_settings(settings: list[dict]) -> list[str]:
    """The arguments in which runs differ, but for those that an older run does not have."""
    names = sorted(set().union(*settings))
    differing = []
    for name in names:
        values = [one[name] for one in settings if name in one]
        if any(value != values[0] for value in values):
            differing.append(name)
    return differing


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


def read_runs(root: Path) -> tuple[pd.DataFrame, list[str]]:
    """The evaluations of all runs below `root`, one run of each game, agent and seed, and notes: what was left out and
    why, and in which settings runs of an agent, or of it and the one without the layer, differ."""
    notes = []
    tables = []
    for folder in run_folders(root):
        try:
            tables.append(read_run(folder))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            waiting = (folder / "config.json").exists() and not (folder / "eval.csv").exists()
            reason = "it has not been evaluated yet" if waiting else f"it is damaged ({error!r})"
            notes.append(f"`{folder}` is ignored: {' '.join(reason.split())}.")
    if not tables:
        return pd.DataFrame(), notes
    data = pd.concat(tables, ignore_index=True)

    # A fork keeps its name, unless its runs of one game have several k: they are no seeds of one agent
    values_of_k = data.groupby(["game", "agent"])["k"].nunique()
    for agent in values_of_k[values_of_k > 1].index.get_level_values("agent").unique():
        rows = data["agent"] == agent
        data.loc[rows, "agent"] = agent + "(" + data.loc[rows, "coefficient"] + ")"

    for (game, agent, seed), runs in data.groupby(["game", "agent", "seed"]):
        last_steps = runs.groupby("run")["step"].max()
        by_length = sorted(last_steps.index, key=lambda run: (last_steps[run], start_time(run), run))
        for run in by_length[:-1]:
            notes.append(f"`{run}` is ignored: another run of {game}, {agent}, seed {seed} is as long or longer.")
            data = data[data["run"] != run]

    for agent, runs in data.groupby("agent"):
        differing = differing_settings([json.loads(settings) for settings in runs["settings"].unique()])
        flags = [f"`--{name.replace('_', '-')}`" for name in differing if name != "exp_name"]
        if flags:
            notes.append(f"The runs of {agent} differ in {', '.join(flags)}.")
        elif differing:
            notes.append(f"The runs of {agent} differ in `--exp-name`.")

    for agent, runs in data.groupby("agent"):
        baseline = baseline_of(agent)
        others = data[data["agent"].isin([baseline, f"{baseline}(0)"]) & (data["agent"] != agent)]
        if others.empty:
            continue
        settings = {*runs["settings"], *others["settings"]}
        differing = differing_settings([json.loads(one) for one in settings])
        flags = [f"`--{name.replace('_', '-')}`" for name in differing if name != "exp_name"]
        if flags:
            notes.append(f"{agent} and {baseline}, with which it is compared, differ in {', '.join(flags)}.")
    return data, notes


@dataclass
class Study:
    """The evaluations that can be compared: of each game the steps that all its runs share."""

    agents: list[str]
    colours: dict[str, str]  # agent: colour
    games: list[str] = field(default_factory=list)
    steps: dict[str, list[int]] = field(default_factory=dict)  # game: steps
    seeds: dict[tuple[str, str], list[int]] = field(default_factory=dict)  # (game, agent): seeds
    curves: dict[tuple[str, str], dict[str, np.ndarray]] = field(default_factory=dict)  # metric: (runs, steps)
    k: dict[tuple[str, str], float] = field(default_factory=dict)  # (game, agent): k

    def having(self, metric: str) -> tuple[list[str], list[str]]:
        """The games and the agents with runs that measured `metric`: all of them, but for OPTIONAL ones."""
        places = [place for place, curves in self.curves.items() if metric in curves]
        games = [game for game in self.games if any(place[0] == game for place in places)]
        agents = [agent for agent in self.agents if any(place[1] == agent for place in places)]
        return games, agents

    def complete_games(self) -> list[str]:
        """The games with a human score that every agent has played, but for agents that have played none of them."""
        games = [game for game in self.games if game in HUMAN]
        agents = {agent for game, agent in self.curves if game in HUMAN}
        return [game for game in games if all((game, agent) in self.curves for agent in agents)]

    def pairs(self, relative_to: str) -> list[tuple[str, str]]:
        """Every agent with the one that it is compared with: IB-DQN(k) with DQN, IB-IQN(k) with IQN, IB-Nature DQN(k)
        with Nature DQN, fork(k) with fork or fork(0). Dueling DQN, RDQ, Nature DQN and forks with DQN, or where they
        share no game with it with IQN, or else with the agent that `--relative-to` names."""
        pairs = []
        for agent in self.agents:
            own_baseline = baseline_of(agent)
            if agent == "DQN" or agent == "IQN":
                continue
            if own_baseline == agent or agent == f"{own_baseline}(0)":
                candidates = ["DQN", "IQN", relative_to]
            else:
                candidates = [own_baseline, f"{own_baseline}(0)", "DQN", "IQN", relative_to]
            for candidate in candidates:
                if candidate != agent and common_games(self, agent, candidate):
                    pairs.append((agent, candidate))
                    break
        return pairs


def order_agents(data: pd.DataFrame) -> list[str]:
    """The agents that have a colour of their own first, then the others by name and k."""
    mean_k = data.groupby("agent")["k"].mean()
    known = [agent for agent in COLOURS if agent in mean_k.index]
    others = [agent for agent in mean_k.index if agent not in COLOURS]
    return known + sorted(others, key=lambda agent: (re.sub(r"\(.*\)$", "", agent), mean_k[agent]))


def choose_colours(agents: list[str]) -> dict[str, str]:
    """A colour for each of `agents`, which come in the order of `order_agents`."""
    colours = dict(COLOURS)
    others = [agent for agent in agents if agent not in COLOURS]
    with_k = [agent for agent in others if baseline_of(agent) != agent]
    for agent, position in zip(with_k, np.linspace(0, 1, len(with_k)), strict=True):
        colours[agent] = to_hex(SWEEP_COLOURS(position))
    forks = [agent for agent in others if baseline_of(agent) == agent]
    for i, agent in enumerate(forks):
        colours[agent] = OTHER_COLOURS[i % len(OTHER_COLOURS)]
    return colours


def compare(data: pd.DataFrame) -> tuple[Study, list[str]]:
    """What can be compared in the evaluations of all runs, and notes on what is missing."""
    agents = order_agents(data)
    study = Study(agents, choose_colours(agents))
    metrics = METRICS + [name for name in OPTIONAL if name in data]
    with_human = set(data.loc[data["game"].isin(list(HUMAN)), "agent"])  # played a game with a human score
    notes = []
    for game, here in data.groupby("game"):
        runs = here.groupby("run")["step"]
        shared = sorted(set.intersection(*runs.apply(set)))
        if not shared:
            notes.append(f"{game} is left out: its runs share no evaluation step.")
            continue
        if runs.max().min() > shared[-1]:
            notes.append(f"{game}: compared up to {shared[-1]:,} steps, the last at which all runs were evaluated.")
        elif runs.max().max() > shared[-1]:
            shortest = runs.max().idxmin()
            notes.append(f"{game}: compared up to {shared[-1]:,} steps, as far as all have come (`{shortest}`).")
        elif shared[-1] < here["total"].max():
            notes.append(f"{game}: its runs have come to {shared[-1]:,} of {here['total'].max():,} steps.")
        until_then = here.loc[here["step"] <= shared[-1], "step"].nunique()
        if until_then > len(shared):
            used = f"{len(shared)} of the {until_then} steps up to there at which there are evaluations"
            notes.append(f"{game}: its runs have other `--eval-frequency`s; compared at {used}.")
        study.games.append(game)
        study.steps[game] = shared
        here = here[here["step"].isin(shared)]
        for agent, runs_of_agent in here.groupby("agent"):
            curves = {}
            for metric in metrics:
                pivot = runs_of_agent.pivot(index="seed", columns="step", values=metric)
                if metric == "score_mean":
                    study.seeds[game, agent] = pivot.index.tolist()
                if metric in METRICS and pivot.isna().any(axis=None):
                    diverged = ", ".join(f"seed {seed}" for seed in pivot.index[pivot.isna().any(axis=1)])
                    notes.append(f"{game}, {agent}, {diverged}: `{metric}` is not finite everywhere and left out.")
                if pivot.isna().any(axis=None):
                    pivot = pivot.dropna()  # without the runs that did not measure it, or whose values diverged
                if not pivot.empty:
                    curves[metric] = pivot.to_numpy()
            study.curves[game, agent] = curves
            study.k[game, agent] = float(runs_of_agent["k"].mean())
        missing = [agent for agent in agents if (game, agent) not in study.curves]
        if missing:
            left_out = game in HUMAN and with_human.intersection(missing)
            consequence = "; aggregates over games leave it out" if left_out else ""
            notes.append(f"{game} has no runs of {', '.join(missing)}{consequence}.")
    return study, notes


# STATISTICS


def normalised(game: str, score: np.ndarray) -> np.ndarray:
    """Human-normalised scores: 0 is the random policy's, 1 a human's."""
    random_score, human_score = HUMAN[game]
    return (score - random_score) / (human_score - random_score)


def band(values: np.ndarray, args: Args) -> Optional[tuple[np.ndarray, np.ndarray]]:
    """The lower and upper ends for the mean over runs, values (runs, ...): percentiles of a bootstrap over runs, or the
    least and greatest; None with one run."""
    if len(values) < 2:
        return None
    if args.interval == "minmax":
        return values.min(0), values.max(0)
    if not np.ptp(values, axis=0).any():
        return values[0], values[0]
    generator = np.random.default_rng(args.seed)
    result = scipy.stats.bootstrap(
        (values,), np.mean, axis=0, n_resamples=args.reps, method="percentile", rng=generator
    )
    return result.confidence_interval.low, result.confidence_interval.high


def aggregates(scores: np.ndarray) -> np.ndarray:
    """Mean, median, IQM and optimality gap of human-normalised scores (runs, games, steps) at every step: (4, steps).
    Mean and median are over games of the means over runs, the IQM is over all runs (Agarwal et al. 2021)."""
    means = scores.mean(0)
    flat = scores.reshape(-1, scores.shape[-1])
    cut = len(flat) // 4
    # `metrics.aggregate_iqm` by steps, as scipy.stats.trim_mean computes it, whose checks take ten times as long
    iqm = np.partition(flat, (cut, len(flat) - cut - 1), axis=0)[cut : len(flat) - cut].mean(0)
    gap = 1 - np.minimum(scores, 1).mean((0, 1))
    return np.stack([means.mean(0), np.median(means, axis=0), iqm, gap])


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How often a run of `x`, (runs, games), beats one of `y`, with ties as half, averaged over games: (1,). That is
    `metrics.probability_of_improvement`, all games at once."""
    better = (x[:, None] > y).sum((0, 1))
    equal = (x[:, None] == y).sum((0, 1))
    return np.array([((better + 0.5 * equal) / (len(x) * len(y))).mean()])


def estimates(scores: dict, function, args: Args) -> tuple[dict, dict]:
    """Values of `function` and their 95% stratified bootstrap intervals, for each key of `scores`, whose values are
    arrays (runs, ...) or tuples of such; where one has a single run there is no interval."""
    np.random.seed(args.seed)  # rliable 1.2.0 draws from the global generator, whatever `random_state` it is given
    points = {}
    with_several_runs = {}
    for key, value in scores.items():
        samples = value if isinstance(value, tuple) else (value,)
        points[key] = function(*samples)
        if min(len(sample) for sample in samples) > 1:
            with_several_runs[key] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of samples without any spread
        _, intervals = library.get_interval_estimates(with_several_runs, function, reps=args.reps)
    return points, intervals


def game_table(study: Study, args: Args) -> pd.DataFrame:
    """One row for each game and agent: how much it rests on, and every metric with the ends of its band."""
    rows = []
    for game, agent in [(game, agent) for game in study.games for agent in study.agents]:
        if (game, agent) not in study.curves:
            continue
        curves = study.curves[game, agent]
        values = {"final_score": curves["score_mean"][:, -1], "auc": curves["score_mean"].mean(1)}
        for name in (*VALUE_METRICS, *OPTIONAL):
            if name in curves:
                values[name] = curves[name][:, -1]
        if game in HUMAN:
            values["human_normalised"] = normalised(game, values["final_score"])
        row = {
            "game": game,
            "agent": agent,
            "runs": len(study.seeds[game, agent]),
            "steps": study.steps[game][-1],
            "evaluations": len(study.steps[game]),
        }
        for name, value in values.items():
            low, high = band(value, args) or (math.nan, math.nan)
            row[name] = value.mean()
            row[f"{name}_low"] = float(low)
            row[f"{name}_high"] = float(high)
        rows.append(row)
    return pd.DataFrame(rows)


@dataclass
class Aggregates:
    """The human-normalised scores of the agents over the games that all have played, at the steps that these share."""

    games: list[str]
    steps: list[int]
    runs: dict[str, int]  # agent: runs of each game
    points: dict[str, np.ndarray]  # agent: (4, steps), in the order of AGGREGATES
    intervals: dict[str, np.ndarray]  # agent: (2, 4, steps); the points themselves where there is one run
    bootstrapped: set[str]  # the agents that have intervals


def aggregate(study: Study, args: Args) -> tuple[Aggregates, list[str]]:
    """The aggregates over games (its games or steps are empty if there are none), and notes on runs left out."""
    notes = []
    games = study.complete_games()
    steps = sorted(set.intersection(*(set(study.steps[game]) for game in games))) if games else []
    result = Aggregates(games, steps, {}, {}, {}, set())
    if not steps:
        return result, notes
    scores = {}
    for agent in study.agents:
        if (games[0], agent) not in study.curves:
            notes.append(f"{agent} is left out of the aggregates: it has no game with a human score.")
            continue
        counts = [len(study.seeds[game, agent]) for game in games]
        runs = min(counts)
        result.runs[agent] = runs
        if max(counts) > runs:
            notes.append(f"Aggregates use {runs} runs a game of {agent}, as many as every game has.")
        columns = []
        for game in games:
            shared = np.isin(study.steps[game], steps)
            columns.append(normalised(game, study.curves[game, agent]["score_mean"][:runs, shared]))
        scores[agent] = np.stack(columns, axis=1)  # (runs, games, steps)
    # rliable wants one dimension: four aggregates x steps
    points, intervals = estimates(scores, lambda x: aggregates(x).ravel(), args)
    for agent, flat in points.items():
        result.points[agent] = flat.reshape(len(AGGREGATES), -1)
        ends = intervals.get(agent, np.stack([flat, flat]))
        result.intervals[agent] = ends.reshape(2, len(AGGREGATES), -1)
    result.bootstrapped = set(intervals)
    return result, notes


def aggregate_table(result: Aggregates) -> pd.DataFrame:
    """One row for each agent: the aggregates at the last step, with their intervals."""
    rows = []
    for agent, runs in result.runs.items():
        row = {"agent": agent, "games": len(result.games), "runs": runs, "steps": result.steps[-1]}
        for i, name in enumerate(AGGREGATES):
            low, high = result.intervals[agent][:, i, -1]
            row[name] = result.points[agent][i, -1]
            row[f"{name} low"] = low if agent in result.bootstrapped else math.nan
            row[f"{name} high"] = high if agent in result.bootstrapped else math.nan
        rows.append(row)
    return pd.DataFrame(rows)


def relative_aggregates(scores: np.ndarray, baseline_scores: np.ndarray) -> np.ndarray:
    """Mean, median and IQM, as in `aggregates`, of scores (runs, games, measures) divided by the baseline's mean over
    its runs in that game and measure: flat, (3 x measures,)."""
    return aggregates(scores / baseline_scores.mean(0))[:3].ravel()


def relative_table(study: Study, args: Args) -> tuple[pd.DataFrame, list[str]]:
    """The aggregates over games without a human score, relative to `--relative-to`, and notes on what is left out: for
    each agent and each of RELATIVE_MEASURES a row, none if there are not two games or no agent to compare. The games
    are those of the baseline; both its runs and the agent's are resampled for the intervals. Overestimation is left out
    if it is not above 0 in every run of the baseline, or not finite in any run."""
    notes = []
    baseline = args.relative_to
    without_human = [game for game in study.games if game not in HUMAN]
    games = [game for game in without_human if (game, baseline) in study.curves]
    if len(games) < 2:
        if len(without_human) >= 2 and len(study.agents) >= 2:
            few = f"{baseline} has no runs of two games"
            notes.append(f"There are no scores relative to {baseline}: {few}. `--relative-to` names another agent.")
        return pd.DataFrame(), notes
    measured = {}  # (game, agent): (runs, measures)
    for game, agent in study.curves:
        curve = study.curves[game, agent]["score_mean"]
        overestimation = np.full(len(curve), math.nan)
        if len(study.curves[game, agent].get("overestimation", [])) == len(curve):
            overestimation = study.curves[game, agent]["overestimation"][:, -1]
        measured[game, agent] = np.stack([curve[:, -1], curve.mean(1), overestimation], axis=1)

    # Resampled, runs of which one scored 0 or less could have a mean of 0 or less, by which nothing can be divided
    positive = [game for game in games if (measured[game, baseline][:, :2] > 0).all()]
    for game in games:
        if game not in positive:
            scored = f"a run of {baseline} scored 0 or less there"
            notes.append(f"{game} is left out of the scores relative to {baseline}: {scored}.")
    if len(positive) < 2:
        return pd.DataFrame(), notes
    measures = list(RELATIVE_MEASURES)
    finite = all(np.isfinite(values).all() for (game, _), values in measured.items() if game in positive)
    if not finite or any((measured[game, baseline][:, 2] <= 0).any() for game in positive):
        measures.remove("overestimation")
    scores = {}
    for agent in study.agents:
        missing = [game for game in positive if (game, agent) not in measured]
        if missing:
            names = ", ".join(missing)
            notes.append(f"{agent} is left out of the scores relative to {baseline}: it has no runs of {names}.")
        else:
            counts = [len(measured[game, agent]) for game in positive]
            runs = min(counts)
            if max(counts) > runs:
                used = f"use {runs} runs a game of {agent}, as many as every game has"
                notes.append(f"Scores relative to {baseline} {used}.")
            columns = [measured[game, agent][:runs, : len(measures)] for game in positive]
            scores[agent] = np.stack(columns, axis=1)
    if len(scores) < 2:
        return pd.DataFrame(), notes
    if "overestimation" not in measures:
        reason = "in one of its runs it is not above 0" if finite else "that of a run is not finite"
        notes.append(f"No overestimation relative to {baseline}: {reason}.")

    baseline_scores = scores[baseline]  # (runs, games, measures)
    pairs = {agent: (of_agent, baseline_scores) for agent, of_agent in scores.items()}
    points, intervals = estimates(pairs, relative_aggregates, args)
    rows = []
    for agent, (i, measure) in product(scores, enumerate(measures)):
        row = {
            "agent": agent,
            "measure": measure,
            "baseline": baseline,
            "games": len(positive),
            "runs": len(scores[agent]),
            "baseline_runs": len(baseline_scores),
        }
        values = points[agent].reshape(3, -1)[:, i]
        for j, name in enumerate(AGGREGATES[:3]):
            low, high = math.nan, math.nan
            if agent in intervals:
                low, high = intervals[agent].reshape(2, 3, -1)[:, j, i]
            row[name] = values[j]
            row[f"{name} low"] = low
            row[f"{name} high"] = high
        rows.append(row)
    return pd.DataFrame(rows), notes


def sweep_table(study: Study, games: pd.DataFrame) -> pd.DataFrame:
    """The rows of `game_table` that belong to a sweep, in the order of k: of each game the baselines with three values
    of k or more."""
    k = [study.k[place] for place in zip(games["game"], games["agent"], strict=True)]
    table = games.assign(baseline=games["agent"].map(baseline_of), k=k)
    columns = ["game", "baseline", "k", "agent", "runs", "steps", "evaluations"]
    for measure in MEASURES:
        columns += [measure, f"{measure}_low", f"{measure}_high"]
    sweeps = [table[:0]]
    for game in study.games:
        here = table[table["game"] == game]
        for _, rows in here.groupby("baseline"):
            if rows["k"].nunique() >= 3:
                sweeps.append(rows.sort_values("k", kind="stable"))
    return pd.concat(sweeps, ignore_index=True)[columns]


def best_table(sweep: pd.DataFrame) -> pd.DataFrame:
    """The k with the greatest mean of each game, baseline and measure (of equal ones the least), and the others that it
    is within the interval of: all but those whose intervals end below that of the best. One run has no interval that
    could end anywhere."""
    best_rows = []
    for (game, baseline), rows in sweep.groupby(["game", "baseline"], sort=False):
        for measure in MEASURES:
            best = rows.loc[rows[measure].idxmax()]
            within = []
            for other in rows.drop(best.name).to_dict("records"):
                without_interval = best["runs"] == 1 or other["runs"] == 1
                if without_interval or other[f"{measure}_high"] >= best[f"{measure}_low"]:
                    mark = " (one run)" if other["runs"] == 1 else ""
                    within.append(f"{other['k']:g}{mark}")
            row = {
                "game": game,
                "baseline": baseline,
                "measure": measure,
                "best_k": best["k"],
                "agent": best["agent"],
                "runs": best["runs"],
                "mean": best[measure],
                "low": best[f"{measure}_low"],
                "high": best[f"{measure}_high"],
                "within_the_interval_of": ", ".join(within),
            }
            best_rows.append(row)
    return pd.DataFrame(best_rows)


def common_games(study: Study, agent: str, baseline: str) -> list[str]:
    """The games that both agents have played."""
    return [game for game in study.games if (game, agent) in study.curves and (game, baseline) in study.curves]


def improvement_table(study: Study, args: Args) -> pd.DataFrame:
    """One row for each agent that has a baseline: the probability of improvement over it, over the games of both. Of
    each agent as many runs a game count as it has in every one, for rliable wants a rectangle."""
    rows = []
    for agent, baseline in study.pairs(args.relative_to):
        games = common_games(study, agent, baseline)
        finals = {}
        for name in (agent, baseline):
            runs = min(len(study.seeds[game, name]) for game in games)
            columns = [study.curves[game, name]["score_mean"][:runs, -1] for game in games]
            finals[name] = np.stack(columns, axis=1)  # (runs, games)
        scores = {"pair": (finals[agent], finals[baseline])}
        points, intervals = estimates(scores, probability_of_improvement, args)
        low, high = intervals["pair"][:, 0] if "pair" in intervals else (math.nan, math.nan)
        row = {
            "agent": agent,
            "baseline": baseline,
            "games": len(games),
            "runs": len(finals[agent]),
            "baseline_runs": len(finals[baseline]),
            "probability": points["pair"][0],
            "low": low,
            "high": high,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def score_changes(study: Study, agent: str, baseline: str, games: list[str]) -> list[tuple[str, float]]:
    """The change from `baseline` to `agent` in the final score of each game, least first: in human-normalised
    percentage points, or in percent of the baseline's score for games without a human score."""
    changes = []
    for game in games:
        new = study.curves[game, agent]["score_mean"][:, -1]
        old = study.curves[game, baseline]["score_mean"][:, -1]
        if game in HUMAN:
            changes.append((game, 100 * (normalised(game, new).mean() - normalised(game, old).mean())))
        elif old.mean() != 0:
            changes.append((game, 100 * (new.mean() - old.mean()) / abs(old.mean())))
    return sorted(changes, key=lambda change: change[1])


# DRAWING


def save(figure: plt.Figure, out: Path, name: str) -> None:
    """Write a figure as PNG and SVG."""
    figure.savefig(out / f"{name}.png", dpi=150, bbox_inches="tight")
    figure.savefig(out / f"{name}.svg", dpi=150, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def short(game: str) -> str:
    """A game's name for titles."""
    return re.sub(r"^ALE/(\w+)-v5$|^MinAtar/(\w+)-v1$", r"\1\2", game)


def draw_curve(axis: plt.Axes, study: Study, agent: str, steps: list[int], values: np.ndarray, ends) -> None:
    """A curve with its band; a cross where there is but one point."""
    axis.plot(steps, values, label=agent, color=study.colours[agent], marker="x" if len(steps) == 1 else None)
    if ends is not None:
        axis.fill_between(steps, *ends, color=study.colours[agent], alpha=0.2, linewidth=0)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.grid(alpha=0.3)


def draw_games(study: Study, metric: str, label: str, out: Path, name: str, args: Args) -> None:
    """`metric` against steps, one panel a game, of the games and agents that have it."""
    games, agents = study.having(metric)
    columns = min(8, math.ceil(math.sqrt(len(games))))
    rows = math.ceil(len(games) / columns)
    size = (max(6, 3 * columns), max(3.6, 2.4 * rows))  # of one game the legend and the label must have room too
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(games) :]:
        axis.axis("off")
    for game, axis in zip(games, axes.flat, strict=False):
        for agent in agents:
            if metric in study.curves.get((game, agent), {}):
                values = study.curves[game, agent][metric]
                draw_curve(axis, study, agent, study.steps[game], values.mean(0), band(values, args))
        axis.set_title(short(game), fontsize=10)
    lines = [plt.Line2D([], [], color=study.colours[agent], label=agent) for agent in agents]
    figure.legend(handles=lines, loc="outside upper center", ncols=min(4, len(lines)), frameon=False)
    figure.supxlabel("agent steps")
    label = textwrap.fill(label, 32 * rows, break_on_hyphens=False)  # a longer line would run over the legend
    figure.supylabel(label)
    save(figure, out, name)


def draw_sparsity_curves(study: Study, out: Path, args: Args) -> None:
    """Score and, below it, sparsity against steps, one column a game, of the games with runs that measured sparsity; of
    the agents that did not the score alone."""
    games, _ = study.having("sparsity")
    agents = [agent for agent in study.agents if any((game, agent) in study.curves for game in games)]
    size = (max(6, 3.2 * len(games)), 5.2)
    figure, axes = plt.subplots(2, len(games), figsize=size, squeeze=False, sharex="col", layout="constrained")
    for game, column in zip(games, axes.T, strict=True):
        for metric, axis in zip(("score_mean", "sparsity"), column, strict=True):
            for agent in agents:
                if metric in study.curves.get((game, agent), {}):
                    values = study.curves[game, agent][metric]
                    draw_curve(axis, study, agent, study.steps[game], values.mean(0), band(values, args))
        column[0].set_title(short(game), fontsize=10)
        column[1].set_ylim(-0.02, 1.02)
    axes[0, 0].set_ylabel("score (unclipped return)")
    axes[1, 0].set_ylabel("sparsity (share of zero weights)")
    lines = [plt.Line2D([], [], color=study.colours[agent], label=agent) for agent in agents]
    figure.legend(handles=lines, loc="outside upper center", ncols=min(4, len(lines)), frameon=False)
    figure.supxlabel("agent steps")
    save(figure, out, "sparsity_curves")


def draw_final_sparsity(study: Study, out: Path, args: Args) -> None:
    """The final score against the final sparsity, one panel a game: a small point a run, a large one the mean of each
    agent, with the band of its score."""
    games, agents = study.having("sparsity")
    columns = min(4, len(games))
    rows = math.ceil(len(games) / columns)
    size = (max(6, 3.2 * columns), max(3.6, 3 * rows))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(games) :]:
        axis.axis("off")
    for game, axis in zip(games, axes.flat, strict=False):
        for agent in agents:
            curves = study.curves.get((game, agent), {})
            if "sparsity" not in curves or len(curves["sparsity"]) != len(curves["score_mean"]):
                continue  # of some runs the sparsity is not known
            score, sparsity = curves["score_mean"][:, -1], curves["sparsity"][:, -1]
            colour = study.colours[agent]
            axis.plot(sparsity, score, marker="o", markersize=3, linestyle="none", color=colour, alpha=0.5)
            axis.plot(sparsity.mean(), score.mean(), marker="o", markersize=7, color=colour)
            ends = band(score, args)
            if ends is not None:
                axis.vlines(sparsity.mean(), *ends, color=colour)
        axis.set_title(short(game), fontsize=10)
        axis.set_xlim(-0.05, 1.05)
        axis.grid(alpha=0.3)
    lines = [plt.Line2D([], [], color=study.colours[agent], label=agent, marker="o", ls="none") for agent in agents]
    figure.legend(handles=lines, loc="outside upper center", ncols=min(4, len(lines)), frameon=False)
    figure.supxlabel("final sparsity (share of zero weights)")
    figure.supylabel("final score")
    save(figure, out, "final_sparsity")


def draw_aggregate_curves(study: Study, result: Aggregates, out: Path) -> None:
    """Mean, median and IQM of the human-normalised score against steps."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for i, axis in enumerate(axes):
        for agent in result.runs:
            ends = result.intervals[agent][:, i]
            draw_curve(axis, study, agent, result.steps, result.points[agent][i], ends)
        axis.set_title(AGGREGATES[i])
        axis.set_xlabel("agent steps")
    axes[0].set_ylabel("human-normalised score")
    axes[0].legend(frameon=False)
    save(figure, out, "normalised_curves")


def draw_intervals(points: dict, intervals: dict, titles: list[str], colours: dict, label: str) -> plt.Figure:
    """rliable's bars, a panel for each of `titles` and a row for each key of `points`, the first on top."""
    rows = list(reversed(points))
    figure, _ = plot_utils.plot_interval_estimates(
        points, intervals, titles, rows, colours, row_height=0.6, xlabel=label, xlabel_y_coordinate=-0.75 / len(rows)
    )
    for axis in figure.axes:
        for line in axis.collections:
            line.set(alpha=1, linewidth=3)  # one run has no bar: its value must be seen without
        axis.use_sticky_edges = False
        axis.margins(x=0.08)
    return figure


def draw_aggregates(study: Study, result: Aggregates, out: Path) -> None:
    """The aggregates at the last step with their intervals."""
    points = {agent: result.points[agent][:, -1] for agent in result.runs}
    intervals = {agent: result.intervals[agent][:, :, -1] for agent in result.runs}
    figure = draw_intervals(points, intervals, AGGREGATES, study.colours, "human-normalised score")
    save(figure, out, "aggregates")


def draw_relative(study: Study, table: pd.DataFrame, out: Path) -> None:
    """The rows of `relative_table`: a row of panels a measure, a bar an agent, the first on top."""
    agents = list(table["agent"].unique())
    measures = table["measure"].nunique()
    size = (10, 0.8 + measures * (0.4 + 0.3 * len(agents)))
    figure, axes = plt.subplots(measures, 3, figsize=size, sharey=True, sharex="row", layout="constrained")
    for (measure, rows), axes_of_row in zip(table.groupby("measure", sort=False), axes, strict=True):
        for name, axis in zip(AGGREGATES[:3], axes_of_row, strict=True):
            axis.use_sticky_edges = False
            for i, row in enumerate(rows.to_dict("records")):
                low, high = row[f"{name} low"], row[f"{name} high"]
                if not math.isnan(low):
                    axis.barh(i, high - low, left=low, height=0.6, color=study.colours[row["agent"]], alpha=0.75)
                axis.plot(2 * [row[name]], [i - 0.3, i + 0.3], color="black", linewidth=2)
            axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
            axis.set_yticks(range(len(agents)), agents)
            axis.grid(axis="x", alpha=0.3)
            axis.set_title(f"{RELATIVE_MEASURES[measure]}, {name}", fontsize=10)
    axes[0, 0].invert_yaxis()
    figure.supxlabel(f"divided by the mean of {table['baseline'].iloc[0]} in the game", fontsize=10)
    save(figure, out, "relative")


def draw_sweep_of_game(axis: plt.Axes, study: Study, sweep: pd.DataFrame, measure: str) -> None:
    """`measure` against k in one game: for each baseline a line with its band. A log axis has no 0: k = 0 stands at the
    left in a grey field of its own, with a dashed line at its height across the panel."""
    axis.set_xscale("log")
    least = sweep.loc[sweep["k"] > 0, "k"].min()
    ticks = {}  # place on the axis: label
    for k, agent in zip(sweep["k"], sweep["agent"], strict=True):
        if k > 0:
            multiple_of_n = re.search(r"\(\d*n\)$", agent)
            ticks[k] = f"{k:g} {multiple_of_n[0]}" if multiple_of_n else f"{k:g}"
    for i, (baseline, rows) in enumerate(sweep.groupby("baseline", sort=False)):
        plain = rows[rows["k"] == 0]
        expanded = rows[rows["k"] > 0]
        if f"IB-{baseline}(n)" in study.colours:
            label = f"IB-{baseline}(k)"
            colour = study.colours[f"IB-{baseline}(n)"]
        else:
            label = f"{baseline}(k), k > 0"
            colour = study.colours[expanded["agent"].iloc[-1]]
        values, low, high = (expanded[f"{measure}{end}"] for end in ("", "_low", "_high"))
        axis.plot(expanded["k"], values, marker="o", markersize=4, color=colour, label=label)
        axis.fill_between(expanded["k"], low, high, color=colour, alpha=0.2, linewidth=0)
        axis.vlines(expanded["k"], low, high, color=colour, linewidth=1)  # seen where a neighbour has no interval, too
        if len(plain):
            values, low, high = (plain[f"{measure}{end}"] for end in ("", "_low", "_high"))
            agent = plain["agent"].iloc[0]
            colour = study.colours[agent]
            label = f"{agent}, k = 0" if agent == baseline else agent
            place = least / 4 * 1.3**i  # side by side, of several baselines
            axis.plot([place], values, marker="D", markersize=5, linestyle="none", color=colour, label=label)
            axis.vlines([place], low, high, color=colour)
            axis.axhline(values.iloc[0], color=colour, linewidth=0.8, linestyle="--")
            ticks[least / 4] = "0"
    axis.set_xticks(list(ticks), ticks.values(), fontsize=8, rotation=90)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    if least / 4 in ticks:
        left, right = least / 7, sweep["k"].max() * 1.3
        axis.axvspan(left, least / 2, color="black", alpha=0.07, linewidth=0)
        axis.set_xlim(left, right)


def draw_sweep(study: Study, sweep: pd.DataFrame, out: Path) -> None:
    """The rows of `sweep_table`, one column a game, final score above area under the curve; six games side by side."""
    games = list(sweep["game"].unique())
    columns = min(6, len(games))
    rows = 2 * math.ceil(len(games) / columns)
    size = (max(5, 3.2 * columns), 2.6 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    lines = {}  # label: what the legend shows
    for i, game in enumerate(games):
        for j, (measure, name) in enumerate(MEASURES.items()):
            axis = axes[2 * (i // columns) + j, i % columns]
            axis.axis("on")
            draw_sweep_of_game(axis, study, sweep[sweep["game"] == game], measure)
            if i % columns == 0:
                axis.set_ylabel(name)
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                lines.setdefault(label, handle)
        axes[2 * (i // columns), i % columns].set_title(short(game), fontsize=10)
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=min(4, len(lines)), frameon=False)
    figure.supxlabel("k (log axis; k = 0 set off in grey)", fontsize=10)
    save(figure, out, "sweep")


def draw_improvement(study: Study, table: pd.DataFrame, out: Path) -> None:
    """The probabilities of improvement with their intervals."""
    points = {}
    intervals = {}
    colours = {}
    for row in table.to_dict("records"):
        pair = f"{row['agent']} over {row['baseline']}"
        points[pair] = np.array([row["probability"]])
        intervals[pair] = np.array([[row["low"]], [row["high"]]])
        if math.isnan(row["low"]):
            intervals[pair][:] = row["probability"]
        colours[pair] = study.colours[row["agent"]]
    figure = draw_intervals(points, intervals, [""], colours, "probability of improvement (average over games)")
    (axis,) = figure.axes
    axis.axvline(0.5, color="black", linewidth=0.8, linestyle="--")
    axis.set_xlim(0, 1)
    save(figure, out, "improvement")


def draw_changes(
    study: Study, agent: str, baseline: str, changes: list[tuple[str, float]], human: bool, out: Path, name: str
) -> None:
    """Bars of the change in the final score of each game, as `score_changes` returns them."""
    games = [short(game) for game, _ in changes]
    values = [change for _, change in changes]
    figure, axis = plt.subplots(figsize=(6, 1 + 0.22 * len(changes)), layout="constrained")
    colours = [study.colours[agent if value > 0 else baseline] for value in values]
    bars = axis.barh(range(len(changes)), values, color=colours)
    axis.set_yticks(range(len(changes)), games)
    axis.bar_label(bars, fmt="%+.1f", padding=2, fontsize=8)
    axis.margins(x=0.15, y=0.01)
    axis.axvline(0, color="black", linewidth=0.8)
    if human and max(map(abs, values), default=0) > 1000:
        axis.set_xscale("symlog", linthresh=10)
    unit = "human-normalised score (percentage points)" if human else f"score (% of {baseline}'s)"
    axis.set_xlabel(f"{agent} minus {baseline}: {unit}")
    save(figure, out, name)


# THE REPORT: each section writes its tables and figures into `out` and returns its lines of README.md

FIGURES = {  # name: (metric, label)
    "learning_curves": ("score_mean", "score (unclipped return)"),
    "overestimation": ("overestimation", "overestimation (mean Q minus mean discounted return)"),
    "action_gap": ("action_gap", "action gap (best minus second-best action-value)"),
    "q_norm": ("q_norm", "norm of the action-values q"),
}


def cell(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """A number and its interval, if there is one."""
    if math.isnan(low):
        return f"{value:.4g}"
    return f"{value:.4g} ({low:.4g}, {high:.4g})"


def soft_agents(agents) -> list[str]:
    """Those of `agents` whose action-values have the bonuses of a soft value in them."""
    words = ("Soft", "soft", "Munchausen", "Policy gradient")
    return [agent for agent in agents if any(word in agent for word in words)]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def name_bands(args: Args) -> str:
    """What `band` returns, in words."""
    if args.interval == "minmax":
        return "least and greatest run"
    return "95% bootstrap intervals of the mean over runs"


def file_name(*words: str) -> str:
    """A name of small letters, digits and underscores: change_ib_dqn_n_dqn."""
    return "_".join(re.sub(r"\W+", "_", word.lower()).strip("_") for word in words)


def report_aggregates(study: Study, out: Path, args: Args) -> tuple[list[str], list[str]]:
    """The aggregates over games with a human score: curves, final values and their table. Returns lines and notes."""
    result, notes = aggregate(study, args)
    if not result.games:
        text = "No game with a human score was played by all agents: no human-normalised aggregates.\n"
        return [text], notes
    if not result.steps:
        return ["The games share no evaluation step: no aggregates over them.\n"], notes
    draw_aggregate_curves(study, result, out)
    draw_aggregates(study, result, out)
    table = aggregate_table(result)
    table.to_csv(out / "aggregates.csv", index=False)

    runs = ", ".join(f"{count} of {agent}" for agent, count in result.runs.items())
    lines = [f"Over {len(result.games)} game(s) at {result.steps[-1]:,} agent steps; runs a game: {runs}."]
    if result.bootstrapped:
        lines.append(f"In brackets 95% stratified bootstrap intervals over runs ({args.reps:,} resamples).")
    else:
        lines.append("One run a game: no intervals.")
    rows = []
    for row in table.to_dict("records"):
        cells = [cell(row[name], row[f"{name} low"], row[f"{name} high"]) for name in AGGREGATES]
        rows.append([row["agent"], *cells])
    lines += ["", markdown(["agent", *AGGREGATES], rows)]
    lines += ["![Human-normalised score against agent steps](normalised_curves.png)", ""]
    lines += ["![Final aggregates with intervals](aggregates.png)", ""]
    return lines, notes


def report_relative(study: Study, out: Path, args: Args) -> tuple[list[str], list[str]]:
    """The aggregates over games without a human score: figure and table. Returns lines, none if there is nothing to
    aggregate, and notes."""
    table, notes = relative_table(study, args)
    if table.empty:
        return [], notes
    draw_relative(study, table, out)
    table.to_csv(out / "relative.csv", index=False)
    baseline = args.relative_to
    games = table["games"].iloc[0]
    runs = ", ".join(f"{row['runs']} of {row['agent']}" for row in table.drop_duplicates("agent").to_dict("records"))
    lines = [
        f"## Relative to {baseline}",
        "",
        f"Divided by the mean of {baseline} in the game, over {games} games without a human score;",
        f"runs a game: {runs}.",
    ]
    if table["mean low"].notna().any():
        lines += [
            f"In brackets 95% stratified bootstrap intervals ({args.reps:,} resamples) over the runs of the agent and",
            f"those of {baseline}. The row of {baseline} compares its runs with another draw of the same runs:",
            "so far from 1 an agent may come that is no different.",
        ]
    else:
        lines.append(f"No intervals without two runs a game of {baseline} and of another agent.")
    soft = soft_agents(table["agent"].unique())
    if soft and "overestimation" in table["measure"].values:
        lines.append(f"The values of {', '.join(soft)} are soft: their overestimation need not be one, see below.")
    rows = []
    for row in table.to_dict("records"):
        cells = [cell(row[name], row[f"{name} low"], row[f"{name} high"]) for name in AGGREGATES[:3]]
        rows.append([row["agent"], RELATIVE_MEASURES[row["measure"]], *cells])
    lines += ["", markdown(["agent", "of", *AGGREGATES[:3]], rows)]
    lines += [f"![Scores relative to {baseline} with intervals](relative.png)", ""]
    return lines, notes


def report_sweep(study: Study, games: pd.DataFrame, out: Path, args: Args) -> list[str]:
    """The sweeps over k: figure and tables of every k and of the best; no lines if there is no sweep."""
    sweep = sweep_table(study, games)
    if sweep.empty:
        return []
    draw_sweep(study, sweep, out)
    sweep.to_csv(out / "sweep.csv", index=False)
    best = best_table(sweep)
    best.to_csv(out / "best_k.csv", index=False)
    rows_of_best = []
    for row in best.to_dict("records"):
        mean = cell(row["mean"], row["low"], row["high"])
        within = row["within_the_interval_of"] or "none"
        words = [short(row["game"]), MEASURES[row["measure"]], f"{row['best_k']:g}", row["agent"], str(row["runs"])]
        rows_of_best.append([*words, mean, within])
    rows_of_all = []
    for row in sweep.to_dict("records"):
        cells = [cell(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in MEASURES]
        rows_of_all.append([short(row["game"]), f"{row['k']:g}", row["agent"], str(row["runs"]), *cells])
    return [
        "## Sweep over k",
        "",
        "The best k is the one with the greatest mean over runs. Where its interval overlaps those of other k it is",
        "within the interval of these, and not shown to be better; one run has no interval and shows nothing. The",
        f"greatest of several means tends to be too great. Brackets and bands are the {name_bands(args)}.",
        "",
        markdown(["game", "of", "best k", "agent", "runs", "mean", "within the interval of k"], rows_of_best),
        "![Final score and area under the curve against k, one panel a game](sweep.png)",
        "",
        markdown(["game", "k", "agent", "runs", *MEASURES.values()], rows_of_all),
    ]


def report_sparsity(study: Study, out: Path, args: Args) -> list[str]:
    """Score and sparsity of the agents that prune: two figures; no lines if there is no such agent."""
    if not study.having("sparsity")[0]:
        return []
    draw_sparsity_curves(study, out, args)
    draw_final_sparsity(study, out, args)
    return [
        "## Sparsity",
        "",
        "The share of the evaluated network's weights that are zero. Biases do not count; the layer has no weights.",
        f"Small points are runs, large ones means over runs, bands and bars the {name_bands(args)}.",
        "",
        "![Score and sparsity against agent steps, one column a game](sparsity_curves.png)",
        "",
        "![Final score against final sparsity, one panel a game](final_sparsity.png)",
        "",
    ]


def report_pairs(study: Study, out: Path, args: Args) -> list[str]:
    """Every agent against its baseline: the probability of improvement, and the change in each game."""
    table = improvement_table(study, args)
    if table.empty:
        return ["No agent has a baseline here to compare it with.\n"]
    table.to_csv(out / "improvement.csv", index=False)
    draw_improvement(study, table, out)
    rows = []
    for row in table.to_dict("records"):
        probability = cell(row["probability"], row["low"], row["high"])
        counts = [str(row[name]) for name in ("games", "runs", "baseline_runs")]
        rows.append([f"{row['agent']} over {row['baseline']}", probability, *counts])
    lines = [markdown(["", "probability of improvement", "games", "runs a game", "of the baseline"], rows)]
    lines += [
        "Of each agent as many runs a game count as it has in every one of the games. Intervals of few runs are too",
        "narrow; one without any width, such as 1 (1, 1), is no certainty.",
        "",
    ]
    lines += ["![Probability of improvement](improvement.png)", ""]
    for agent, baseline in zip(table["agent"], table["baseline"], strict=True):
        games = common_games(study, agent, baseline)
        with_human = [game for game in games if game in HUMAN]
        without_human = [game for game in games if game not in HUMAN]
        for part, human in ((with_human, True), (without_human, False)):
            if not part:
                continue
            words = ["change", agent, baseline]
            if not human:
                words.append("raw")
            name = file_name(*words)
            changes = score_changes(study, agent, baseline, part)
            if changes:
                draw_changes(study, agent, baseline, changes, human, out, name)
                lines += [f"![Change in final score from {baseline} to {agent}, game by game]({name}.png)", ""]
            without = [short(game) for game in part if game not in dict(changes)]
            if without:
                lines += [
                    f"No change from {baseline} to {agent} in percent where {baseline} scored 0: {', '.join(without)}.",
                    "",
                ]
    return lines


def report_games(study: Study, games: pd.DataFrame, out: Path, args: Args) -> list[str]:
    """Every game: the figures, that of the norm if runs have it, and the table `games` of `game_table`."""
    lines = []
    for name, (metric, label) in FIGURES.items():
        if not study.having(metric)[0]:
            continue
        draw_games(study, metric, label, out, name, args)
        caption = f"{label[0].upper()}{label[1:]} against agent steps, one panel a game"
        lines += [f"![{caption}]({name}.png)", ""]
    games.to_csv(out / "games.csv", index=False)
    names = ["final_score", "auc", *VALUE_METRICS, *OPTIONAL, "human_normalised"]
    names = [name for name in names if name in games]
    rows = []
    for row in games.to_dict("records"):
        cells = []
        for name in names:
            known = math.isfinite(row[name])
            cells.append(cell(row[name], row[f"{name}_low"], row[f"{name}_high"]) if known else "")
        rows.append([short(row["game"]), row["agent"], str(row["runs"]), f"{row['steps']:,}", *cells])
    header = ["game", "agent", "runs", "steps"] + [name.replace("_", " ") for name in names]
    lines.append(markdown(header, rows))

    text = [f"Lines are means over runs, bands and brackets the {name_bands(args)}."]
    if any(len(seeds) == 1 for seeds in study.seeds.values()):
        text.append("Where there is one run there is no band.")
    text += [
        "Final score, overestimation and action gap are those of the last evaluation that all runs of a game share;",
        "`auc` is the mean score over all shared evaluations. Overestimation is the mean action-value minus the mean",
        "discounted return, both over the evaluated episodes.",
    ]
    if soft_agents(study.agents):
        text += [
            "With a soft value Q has the bonuses of the steps in it and the return has not: for these agents the",
            "difference need not be an overestimation.",
        ]
    if "q_norm" in games:
        text.append("`q_norm` is the mean norm of q over that evaluation's states, of the runs that measured it.")
    return [*text, "", *lines]


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    root = Path(args.runs)
    out = Path(args.out)
    if not root.is_dir():
        fail(f"{args.runs} is no folder; name the one that holds the runs, such as runs")
    if args.reps < 1:
        fail(f"--reps {args.reps} must be at least 1")
    if not 0 <= args.seed < 2**32:
        fail(f"--seed {args.seed} must be at least 0 and at most {2**32 - 1}")
    data, notes = read_runs(root)
    study = None
    if not data.empty:
        study, more_notes = compare(data)
        notes += more_notes
    if study is None or not study.games:
        for note in notes:
            print("warning:", note, file=sys.stderr)
        fail(f"{args.runs} holds no run with an evaluation; a run makes its eval.csv at its first evaluation phase")
    if args.relative_to not in ("DQN", *study.agents):
        fail(f"--relative-to {args.relative_to!r} is none of the agents: {', '.join(study.agents)}")
    page = out / "README.md"
    try:
        out.mkdir(parents=True, exist_ok=True)
        page.touch()
        if page.stat().st_size > 0 and not page.read_text(errors="replace").startswith("# Report\n"):
            fail(f"--out {args.out} holds a README.md that is no report and would be lost; name another folder")
    except OSError as error:
        fail(f"--out {args.out} cannot be written to ({error.strerror}); name a folder that can")

    games = game_table(study, args)
    of_games = report_games(study, games, out, args)
    of_aggregates, notes_on_aggregates = report_aggregates(study, out, args)
    of_relative, notes_on_relative = report_relative(study, out, args)
    of_sweep = report_sweep(study, games, out, args)
    of_sparsity = report_sparsity(study, out, args)
    of_pairs = report_pairs(study, out, args)
    notes += notes_on_aggregates + notes_on_relative

    total = sum(len(seeds) for seeds in study.seeds.values())
    text = ["# Report", "", f"{total} runs of {', '.join(study.agents)} on {len(study.games)} game(s).", ""]
    if notes:
        text += ["## Notes", "", *(f"- {note}" for note in notes), ""]
    text += ["## Aggregates", "", *of_aggregates, *of_relative, *of_sweep, *of_sparsity]
    text += ["## Against the baseline", "", *of_pairs]
    text += ["## Game by game", "", *of_games]
    page.write_text("\n".join(text))
    for note in notes:
        print("warning:", note, file=sys.stderr)
    print(f"{page}: {total} runs, {len(study.games)} games")


if __name__ == "__main__":
    main()
