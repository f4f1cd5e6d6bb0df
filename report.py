"""The paper's tables and figures from a folder of runs, finished or not: reads their `config.json` and `eval.csv`.

Writes README.md, figures (PNG and SVG) and tables (CSV). Learning curves, overestimation and action gap of every game;
over the games with a human score (Wang et al. 2016) the mean, median, IQM and optimality gap of the human-normalised
score with 95% stratified bootstrap intervals (Agarwal et al. 2021, `rliable`), and the probability of improvement.

Usage: python report.py runs --out report
"""

import json
import math
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, Optional

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.stats
import tyro
from matplotlib.ticker import EngFormatter
from rliable import library, metrics

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
HUMAN = {f"ALE/{name}-v5": (float(low), float(high)) for name, low, high in map(str.split, SCORES.split(","))}
NAMES = {"dqn": "DQN", "dqn_atari": "DQN", "minatar": "DQN", "minatar_dqn": "DQN", "iqn": "IQN", "iqn_atari": "IQN"}
COLOURS = {"DQN": "#0072B2", "IB-DQN": "#D55E00", "IQN": "#56B4E9", "IB-IQN": "#E69F00"}  # Okabe & Ito's palette
OTHERS = ["#009E73", "#CC79A7", "#000000", "#8C6BB1", "#999999"]
COLUMNS = ["step", "score_mean", "overestimation", "action_gap"]  # what is used of eval.csv
FREE = {"seed", "env_id", "runs_dir", "resume", "track", "wandb_project_name", "wandb_entity", "capture_video"}
FREE |= {"save_model", "checkpoint_frequency", "total_timesteps", "mean_scaling_coefficient", "num_threads", "cuda"}
FREE |= {"cuda_graphs", "buffer_device", "eval_only"}  # arguments in which an agent's runs may differ


@dataclass
class Args:
    runs: tyro.conf.Positional[str]  # the folder of the runs; subfolders are searched
    out: str = "report"  # the folder to write to
    interval: Literal["bootstrap", "minmax"] = "bootstrap"  # bands of a game: 95% intervals of the mean, or all seeds
    reps: int = 2_000  # bootstrap resamples
    seed: int = 1  # of the bootstrap


def fail(message: object) -> NoReturn:
    """End the program over a user's mistake: one line on stderr, exit code 2."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


# READING


def agent_name(args: dict) -> str:
    """The paper's name of an agent, from its run's arguments; `--exp-name` where it is none of ours."""
    base = NAMES.get(args["exp_name"].removesuffix("_mexp"))
    return args["exp_name"] if base is None else base if not args.get("mean_scaling_coefficient") else f"IB-{base}"


def read_run(folder: Path) -> pd.DataFrame:
    """One row for each evaluation of a run; raises ValueError or OSError if its files are missing or damaged."""
    args = json.loads((folder / "config.json").read_text())["args"]
    table = pd.read_csv(folder / "eval.csv")[COLUMNS].astype(float)
    if table.empty or not np.isfinite(table.to_numpy()).all() or not table["step"].is_monotonic_increasing:
        raise ValueError("rows are missing or damaged")
    if not table["step"].is_unique:
        raise ValueError("steps come twice")
    table["step"] = table["step"].astype(int)
    env_id = re.sub(r"^(ALE/)?(\w+)-v5$|^(\w+)NoFrameskip-v4$", r"ALE/\2\3-v5", args["env_id"])
    k = args.get("mean_scaling_coefficient") or 0.0
    settings = json.dumps({name: value for name, value in args.items() if name not in FREE}, sort_keys=True)
    total = int(args["total_timesteps"])
    return table.assign(
        game=env_id, agent=agent_name(args), seed=int(args["seed"]), k=float(k), run=str(folder), total=total
    ).assign(settings=settings)


def read_runs(root: Path) -> tuple[pd.DataFrame, list[str]]:
    """The evaluations of all runs below `root`, one run of each game, agent and seed, and what was left out and why."""
    notes, tables = [], []
    for folder in sorted({path.parent for name in ("config.json", "eval.csv") for path in root.rglob(name)}):
        try:
            tables.append(read_run(folder))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            waiting = (folder / "config.json").exists() and not (folder / "eval.csv").exists()
            reason = "it has not been evaluated yet" if waiting else f"it is damaged ({error!r})"
            notes.append(f"`{folder}` is ignored: {' '.join(reason.split())}.")
    if not tables:
        return pd.DataFrame(), notes
    data = pd.concat(tables, ignore_index=True)
    several = data.groupby(["game", "agent"])["k"].nunique()
    for agent in several[several > 1].index.get_level_values("agent").unique():  # an ablation over k
        mine = data["agent"] == agent
        data.loc[mine, "agent"] = [f"{agent}({k:g})" for k in data.loc[mine, "k"]]
    for (game, agent, seed), runs in data.groupby(["game", "agent", "seed"]):
        longest = (
            runs.groupby("run")["step"].max().sort_index().sort_values(kind="stable").index
        )  # of equals the newest
        for run in longest[:-1]:
            notes.append(f"`{run}` is ignored: another run of {game}, {agent}, seed {seed} is as long or longer.")
            data = data[data["run"] != run]
    for agent, runs in data.groupby("agent"):
        settings = [json.loads(s) for s in runs["settings"].unique()]
        if differ := sorted(name for name in settings[0] if any(s.get(name) != settings[0][name] for s in settings)):
            flags = ", ".join(f"`--{name.replace('_', '-')}`" for name in differ if name != "exp_name")
            notes.append(f"The runs of {agent} differ in {flags or '`--exp-name`'}.")
    return data, notes


class Study:
    """The evaluations that can be compared: of each game the steps that all its runs share."""

    def __init__(self, data: pd.DataFrame, notes: list[str]):
        self.notes = notes
        known = [agent for agent in COLOURS if agent in set(data["agent"])]
        self.agents = known + sorted(set(data["agent"]) - set(known))
        others = [agent for agent in self.agents if agent not in COLOURS]
        self.colours = COLOURS | {agent: OTHERS[i % len(OTHERS)] for i, agent in enumerate(others)}
        self.games, self.steps, self.seeds, self.curves = sorted(set(data["game"])), {}, {}, {}
        for game in list(self.games):
            here = data[data["game"] == game]
            runs = here.groupby("run")["step"]
            shared = sorted(set.intersection(*runs.apply(set)))
            if not shared:
                notes.append(f"{game} is left out: its runs share no evaluation step.")
                self.games.remove(game)
                continue
            if (runs.max() > shared[-1]).any():
                short = runs.max().idxmin()
                notes.append(f"{game}: compared up to {shared[-1]:,} steps, as far as all have come (`{short}`).")
            elif shared[-1] < here["total"].max():
                notes.append(f"{game}: its runs have come to {shared[-1]:,} of {here['total'].max():,} steps.")
            self.steps[game] = shared
            here = here[here["step"].isin(shared)]
            for agent, mine in here.groupby("agent"):
                pivots = {name: mine.pivot(index="seed", columns="step", values=name) for name in COLUMNS[1:]}
                self.seeds[game, agent] = pivots["score_mean"].index.tolist()
                self.curves[game, agent] = {name: pivot.to_numpy() for name, pivot in pivots.items()}  # (runs, steps)
            if missing := [agent for agent in self.agents if (game, agent) not in self.curves]:
                notes.append(f"{game} has no runs of {', '.join(missing)}; aggregates over games leave it out.")

    def complete(self, human: bool) -> list[str]:
        """The games that every agent has played, with or without a human score."""
        games = [game for game in self.games if all((game, agent) in self.curves for agent in self.agents)]
        return [game for game in games if game in HUMAN or not human]

    def pairs(self) -> list[tuple[str, str]]:
        """Every agent with the one that it is compared with: IB-DQN with DQN, IB-IQN with IQN, others with either."""
        base = {agent: re.sub(r"^IB-|\(.*\)$", "", agent) for agent in self.agents}
        fallback = next((agent for agent in ("DQN", "IQN") if agent in self.agents), None)
        found = {a: base[a] if base[a] != a and base[a] in self.agents else fallback for a in self.agents}
        plain = ("DQN", "IQN")
        return [(agent, other) for agent, other in found.items() if other not in (None, agent) and agent not in plain]


# STATISTICS


def normalised(game: str, score: np.ndarray) -> np.ndarray:
    """Human-normalised scores: 0 is the random policy's, 1 a human's."""
    low, high = HUMAN[game]
    return (score - low) / (high - low)


def band(values: np.ndarray, args: Args) -> Optional[tuple[np.ndarray, np.ndarray]]:
    """The lower and upper ends for the mean over runs, values (runs, ...): percentiles of a bootstrap over runs, or the
    least and greatest; None with one run."""
    if len(values) < 2:
        return None
    if args.interval == "minmax":
        return values.min(0), values.max(0)
    if not np.ptp(values, axis=0).any():
        return values[0], values[0]
    options = dict(n_resamples=args.reps, method="percentile", rng=np.random.default_rng(args.seed))
    interval = scipy.stats.bootstrap((values,), np.mean, axis=0, **options).confidence_interval
    return interval.low, interval.high


def aggregates(scores: np.ndarray) -> np.ndarray:
    """Mean, median, IQM and optimality gap of human-normalised scores (runs, games, steps) at every step: (4, steps).
    Mean and median are over games of the means over runs, the IQM is over all runs (Agarwal et al. 2021)."""
    means = scores.mean(0)
    iqm = scipy.stats.trim_mean(scores.reshape(-1, scores.shape[-1]), 0.25, axis=0)  # `metrics.aggregate_iqm` by steps
    gap = 1 - np.minimum(scores, 1).mean((0, 1))
    return np.stack([means.mean(0), np.median(means, axis=0), iqm, gap])


def estimates(scores: dict, function, args: Args) -> tuple[dict, dict]:
    """Values of `function` and their 95% stratified bootstrap intervals, for each key of `scores`; one run has none."""
    np.random.seed(args.seed)  # rliable 1.2.0 draws from the global generator, whatever `random_state` it is given
    points = {key: function(*(s if isinstance(s, tuple) else (s,))) for key, s in scores.items()}
    many = {k: s for k, s in scores.items() if min(len(x) for x in (s if isinstance(s, tuple) else (s,))) > 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of samples without any spread
        _, intervals = library.get_interval_estimates(many, function, reps=args.reps)
    return points, intervals


# DRAWING


def save(figure: plt.Figure, out: Path, name: str) -> None:
    """Write a figure as PNG and SVG."""
    for suffix in ("png", "svg"):
        figure.savefig(
            out / f"{name}.{suffix}", dpi=150, bbox_inches="tight", metadata={"Date": None} if suffix == "svg" else None
        )
    plt.close(figure)


def panels(count: int) -> tuple[plt.Figure, list[plt.Axes]]:
    """A grid of `count` small axes."""
    columns = min(8, math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3 * columns, 2.4 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, list(axes.flat[:count])


def draw_line(axis: plt.Axes, study: Study, agent: str, steps, values, ends) -> None:
    """A curve with its band; a cross where there is but one point."""
    axis.plot(steps, values, label=agent, color=study.colours[agent], marker="x" if len(steps) == 1 else None)
    if ends is not None:
        axis.fill_between(steps, *ends, color=study.colours[agent], alpha=0.2, linewidth=0)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.grid(alpha=0.3)


def draw_games(study: Study, metric: str, label: str, out: Path, name: str, args: Args) -> None:
    """`metric` against steps, one panel a game."""
    figure, axes = panels(len(study.games))
    for game, axis in zip(study.games, axes, strict=True):
        for agent in study.agents:
            if (game, agent) in study.curves:
                values = study.curves[game, agent][metric]
                draw_line(axis, study, agent, study.steps[game], values.mean(0), band(values, args))
        axis.set_title(short(game), fontsize=10)
    lines = [plt.Line2D([], [], color=study.colours[agent], label=agent) for agent in study.agents]
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), frameon=False)
    figure.supxlabel("agent steps"), figure.supylabel(label)
    save(figure, out, name)


def short(game: str) -> str:
    """A game's name for titles."""
    return re.sub(r"^ALE/(\w+)-v5$|^MinAtar/(\w+)-v1$", r"\1\2", game)


def draw_change(study: Study, agent: str, base: str, games: list[str], out: Path, name: str) -> list[tuple[str, float]]:
    """Bars of the change from `base` to `agent` in the final score of each game: in human-normalised percentage points,
    or in percent of the baseline's score for games without a human score."""
    human, changes = games[0] in HUMAN, []
    for game in games:
        new, old = (study.curves[game, a]["score_mean"][:, -1] for a in (agent, base))
        if human:
            changes.append((game, 100 * (normalised(game, new).mean() - normalised(game, old).mean())))
        elif old.mean():
            changes.append((game, 100 * (new.mean() - old.mean()) / abs(old.mean())))
    changes.sort(key=lambda item: item[1])
    figure, axis = plt.subplots(figsize=(6, 1 + 0.22 * len(changes)), layout="constrained")
    colours = [study.colours[agent if change > 0 else base] for _, change in changes]
    bars = axis.barh(range(len(changes)), [change for _, change in changes], color=colours)
    axis.set_yticks(range(len(changes)), [short(game) for game, _ in changes])
    axis.bar_label(bars, fmt="%+.1f", padding=2, fontsize=8)
    axis.margins(x=0.15, y=0.01)
    axis.axvline(0, color="black", linewidth=0.8)
    if human and max((abs(change) for _, change in changes), default=0) > 1000:
        axis.set_xscale("symlog", linthresh=10)
    unit = "human-normalised score (percentage points)" if human else f"score (% of {base}'s)"
    axis.set_xlabel(f"{agent} minus {base}: {unit}")
    save(figure, out, name)
    return changes


# THE REPORT


def cell(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """A number and its interval, if there is one."""
    return f"{value:.4g}" + ("" if math.isnan(low) else f" ({low:.4g}, {high:.4g})")


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def game_rows(study: Study, args: Args) -> pd.DataFrame:
    """One row for each game and agent: how much it rests on, and every metric with the ends of its band."""
    rows = []
    for game in study.games:
        for agent in study.agents:
            if (game, agent) not in study.curves:
                continue
            curves, steps = study.curves[game, agent], study.steps[game]
            values = {"final_score": curves["score_mean"][:, -1], "auc": curves["score_mean"].mean(1)}
            values |= {name: curves[name][:, -1] for name in ("overestimation", "action_gap")}
            if game in HUMAN:
                values["human_normalised"] = normalised(game, values["final_score"])
            row = {"game": game, "agent": agent, "runs": len(study.seeds[game, agent]), "steps": steps[-1]}
            row["evaluations"] = len(steps)
            for name, value in values.items():
                low, high = band(value, args) or (math.nan, math.nan)
                row |= {name: value.mean(), f"{name}_low": float(low), f"{name}_high": float(high)}
            rows.append(row)
    return pd.DataFrame(rows)


def report_normalised(study: Study, out: Path, args: Args) -> list[str]:
    """The aggregates over games with a human score: curves, final values and their table."""
    games, names = study.complete(human=True), ["mean", "median", "IQM", "optimality gap"]
    if not games:
        return [
            "No game with a human score was played by all agents: no human-normalised aggregates, raw scores only.\n"
        ]
    steps = sorted(set.intersection(*(set(study.steps[game]) for game in games)))
    if not steps:
        return ["The games share no evaluation step: no aggregates over them.\n"]
    scores, used = {}, {}
    for agent in study.agents:
        used[agent] = min(len(study.seeds[game, agent]) for game in games)
        columns = [
            normalised(game, study.curves[game, agent]["score_mean"])[: used[agent], np.isin(study.steps[game], steps)]
            for game in games
        ]
        scores[agent] = np.stack(columns, axis=1)  # (runs, games, steps)
        if any(len(study.seeds[game, agent]) > used[agent] for game in games):
            study.notes.append(f"Aggregates use {used[agent]} runs a game of {agent}, as many as every game has.")
    points, intervals = estimates(scores, lambda x: aggregates(x).ravel(), args)  # rliable wants one dimension
    points = {agent: values.reshape(4, -1) for agent, values in points.items()}  # (aggregates, steps)
    intervals = {agent: ends.reshape(2, 4, -1) for agent, ends in intervals.items()}
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for i, axis in enumerate(axes):
        for agent in study.agents:
            ends = intervals[agent][:, i] if agent in intervals else None
            draw_line(axis, study, agent, steps, points[agent][i], ends)
        axis.set_title(names[i]), axis.set_xlabel("agent steps")
    axes[0].set_ylabel("human-normalised score"), axes[0].legend(frameon=False)
    save(figure, out, "normalised_curves")
    figure, axes = plt.subplots(1, 4, figsize=(12, 0.8 + 0.4 * len(study.agents)), sharey=True, layout="constrained")
    rows = []
    for i, axis in enumerate(axes):
        axis.use_sticky_edges = False  # an interval's end is no axis
        for y, agent in enumerate(reversed(study.agents)):
            value = points[agent][i, -1]
            if agent in intervals:
                low, high = intervals[agent][:, i, -1]
                axis.barh(y, high - low, left=low, height=0.5, color=study.colours[agent], alpha=0.5)
            axis.plot([value, value], [y - 0.25, y + 0.25], color=study.colours[agent], linewidth=3)
        axis.set_title(names[i]), axis.grid(alpha=0.3, axis="x")
        axis.set_yticks(range(len(study.agents)), list(reversed(study.agents)))
    figure.supxlabel("human-normalised score")
    save(figure, out, "aggregates")
    for agent in study.agents:
        ends = intervals[agent][:, :, -1] if agent in intervals else np.full((2, 4), math.nan)
        row = {"agent": agent, "games": len(games), "runs": used[agent], "steps": steps[-1]}
        for i, name in enumerate(names):
            row |= {name: points[agent][i, -1], f"{name} low": ends[0, i], f"{name} high": ends[1, i]}
        rows.append(row)
    table = pd.DataFrame(rows)
    table.to_csv(out / "aggregates.csv", index=False)
    text = [[r["agent"], *(cell(r[n], r[f"{n} low"], r[f"{n} high"]) for n in names)] for r in rows]
    runs = ", ".join(f"{used[agent]} of {agent}" for agent in study.agents)
    lines = [f"Over {len(games)} game(s) at {steps[-1]:,} agent steps; runs a game: {runs}. In brackets 95% stratified"]
    lines += [
        f"bootstrap intervals over runs ({args.reps:,} resamples)." if intervals else "(One run a game: no intervals.)"
    ]
    lines += [
        "",
        markdown(["agent", *names], text),
        "![Human-normalised score against agent steps](normalised_curves.png)",
    ]
    return [*lines, "", "![Final aggregates with intervals](aggregates.png)", ""]


def report_pairs(study: Study, out: Path, args: Args) -> list[str]:
    """Every agent against its baseline: the change in each game, and the probability of improvement."""
    lines, rows = [], []
    for agent, base in study.pairs():
        both = [game for game in study.games if (game, agent) in study.curves and (game, base) in study.curves]
        for human in (True, False):
            if games := [game for game in both if (game in HUMAN) == human]:
                name = re.sub(r"\W+", "_", f"change_{agent}_{base}{'' if human else '_raw'}".lower()).strip("_")
                draw_change(study, agent, base, games, out, name)
                lines += [f"![Change in final score from {base} to {agent}, game by game]({name}.png)", ""]
        if both:
            runs = [min(len(study.seeds[game, a]) for game in both) for a in (agent, base)]
            finals = tuple(
                np.stack([study.curves[game, a]["score_mean"][:n, -1] for game in both], axis=1)
                for a, n in zip((agent, base), runs, strict=True)
            )
            function = lambda x, y: np.array([metrics.probability_of_improvement(x, y)])  # noqa: E731
            points, intervals = estimates({"x": finals}, function, args)
            low, high = intervals["x"][:, 0] if "x" in intervals else (math.nan, math.nan)
            row = {"agent": agent, "baseline": base, "games": len(both), "runs": runs[0], "baseline_runs": runs[1]}
            rows.append(row | {"probability": points["x"][0], "low": low, "high": high})
    if not rows:
        return ["No agent has a baseline here to compare it with.\n"]
    table = pd.DataFrame(rows)
    table.to_csv(out / "improvement.csv", index=False)
    figure, axis = plt.subplots(figsize=(6, 0.9 + 0.4 * len(rows)), layout="constrained")
    for y, row in enumerate(reversed(rows)):
        if not math.isnan(row["low"]):
            axis.barh(
                y, row["high"] - row["low"], left=row["low"], height=0.5, color=study.colours[row["agent"]], alpha=0.5
            )
        axis.plot([row["probability"]] * 2, [y - 0.25, y + 0.25], color=study.colours[row["agent"]], linewidth=3)
    axis.set_yticks(range(len(rows)), [f"{row['agent']} over {row['baseline']}" for row in reversed(rows)])
    axis.axvline(0.5, color="black", linewidth=0.8, linestyle="--")
    axis.set_xlim(0, 1), axis.set_xlabel("probability of improvement (average over games)")
    save(figure, out, "improvement")
    text = [
        [f"{r['agent']} over {r['baseline']}", cell(r["probability"], r["low"], r["high"]), str(r["games"])]
        for r in rows
    ]
    header = ["", "probability of improvement", "games"]
    return [markdown(header, text), "![Probability of improvement](improvement.png)", "", *lines]


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    root, out = Path(args.runs), Path(args.out)
    if not root.is_dir():
        fail(f"{args.runs} is no folder; name the one that holds the runs, such as runs")
    if args.reps < 1 or args.seed < 0:
        fail(f"--reps {args.reps} must be at least 1 and --seed {args.seed} at least 0")
    data, notes = read_runs(root)
    study = Study(data, notes) if len(data) else None
    if study is None or not study.games:
        for note in notes:
            print("warning:", note, file=sys.stderr)
        fail(f"{args.runs} holds no run with an evaluation; a run makes its eval.csv at its first evaluation phase")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "README.md").touch()
    except OSError as error:
        fail(f"--out {args.out} cannot be written to ({error.strerror}); name a folder that can")

    curves = {"learning_curves": ("score_mean", "score (unclipped return)")}
    curves |= {"overestimation": ("overestimation", "overestimation (mean Q minus mean discounted return)")}
    curves |= {"action_gap": ("action_gap", "action gap (best minus second-best action-value)")}
    for name, (metric, label) in curves.items():
        draw_games(study, metric, label, out, name, args)
    normalised_part, pairs_part = report_normalised(study, out, args), report_pairs(study, out, args)
    games = game_rows(study, args)
    games.to_csv(out / "games.csv", index=False)

    names = ["final_score", "auc", "overestimation", "action_gap"] + ["human_normalised"] * (
        "human_normalised" in games
    )
    rows = [
        [short(r["game"]), r["agent"], str(r["runs"]), f"{r['steps']:,}"]
        + [cell(r[name], r[f"{name}_low"], r[f"{name}_high"]) if math.isfinite(r[name]) else "" for name in names]
        for r in games.to_dict("records")
    ]
    header = ["game", "agent", "runs", "steps", *(name.replace("_", " ") for name in names)]
    bands = (
        "95% bootstrap intervals of the mean over runs" if args.interval == "bootstrap" else "least and greatest run"
    )
    total = sum(len(seeds) for seeds in study.seeds.values())
    single = any(len(seeds) == 1 for seeds in study.seeds.values())
    text = ["# Report", "", f"{total} runs of {', '.join(study.agents)} on {len(study.games)} game(s).", ""]
    text += ["## Notes", "", *(f"- {note}" for note in study.notes), ""] if study.notes else []
    text += ["## Aggregates", "", *normalised_part, "## Against the baseline", "", *pairs_part]
    text += ["## Game by game", "", f"Lines are means over runs, bands and brackets the {bands}."]
    text += ["Where there is one run there is no band."] if single else []
    text += [
        "Final score, overestimation and action gap are those of the last evaluation that all runs of a game share;"
    ]
    text += [
        "`auc` is the mean score over all shared evaluations. Overestimation is the mean action-value minus the mean"
    ]
    text += ["discounted return, both over the evaluated episodes.", ""]
    for name, (_, label) in curves.items():
        text += [f"![{label[0].upper() + label[1:]} against agent steps, one panel a game]({name}.png)", ""]
    text += [markdown(header, rows)]
    (out / "README.md").write_text("\n".join(text))
    for note in study.notes:
        print("warning:", note, file=sys.stderr)
    print(f"{out / 'README.md'}: {total} runs, {len(study.games)} games")


if __name__ == "__main__":
    main()
