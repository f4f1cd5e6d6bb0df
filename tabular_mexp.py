"""IBQ(k): tabular Q-learning with mean expansion on the gridworld of Nagarajan et al., ICML 2026 (2606.29806).

All seeds, step sizes and values of k are advanced together as arrays. For each k the step size that finished the most
episodes by a checkpoint counts. Prints the table, and writes it as CSV and the paper's Figure 2 as PNG. NumPy only.

Usage: python tabular_mexp.py --k 0 0.8 3.2 12.8 --seeds 64
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import tyro
from tqdm import tqdm

SIZE, ACTIONS, GAMMA, EPSILON, SLIP = 5, 4, 0.95, 0.1, 0.25  # the paper's gridworld and agent
START, GOAL = (SIZE - 1) * SIZE, SIZE - 1  # bottom left, top right; states are numbered row by row from the top left
STEPS = (500, 1000, 2500, 5000)  # the checkpoints, in agent steps


@dataclass
class Args:
    k: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)  # mean-scaling coefficients; 0 is Q-learning
    step_sizes: tuple[float, ...] = tuple(np.exp(np.linspace(-6, 0, 61)).tolist())  # the paper's 61
    seeds: int = 128  # independent runs of each k and step size
    seed: int = 1  # the first of them
    step_reward: float = -1.0  # for every step that does not reach the goal: -1 in the authors' library, 0 in the paper
    goal_reward: float = 5.0  # for reaching the goal
    out: str = "tabular"  # the folder for the table (CSV) and the figure (PNG)


def transitions() -> np.ndarray:
    """The state after every state and executed action (up, down, left, right), (25, 4) int64; walls hold the agent."""
    rows, columns = np.divmod(np.arange(SIZE * SIZE), SIZE)
    moves = [(rows - 1, columns), (rows + 1, columns), (rows, columns - 1), (rows, columns + 1)]
    return np.stack([r.clip(0, SIZE - 1) * SIZE + c.clip(0, SIZE - 1) for r, c in moves], axis=1)


def executed_actions(actions: np.ndarray, slip: np.ndarray, which: np.ndarray) -> np.ndarray:
    """What happens: where `slip` < 1/4, one of the three other actions, chosen by `which`; both uniform in [0, 1)."""
    return np.where(slip < SLIP, (actions + 1 + (which * (ACTIONS - 1)).astype(np.int64)) % ACTIONS, actions)


def greedy_actions(q: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The best actions of `q`, (R, 4), ties broken evenly by `uniform`, (R,) in [0, 1)."""
    best = q == q.max(1, keepdims=True)
    chosen = (uniform * best.sum(1)).astype(np.int64)
    return (best.cumsum(1) > chosen[:, None]).argmax(1)


def update(z: np.ndarray, k: np.ndarray, actions: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The rows `z`, (R, 4), after `steps`, (R,), alpha times the TD errors, on `actions`: along M_k^T's columns."""
    z = z + (k * steps / ACTIONS)[:, None]
    z[np.arange(len(z)), actions] += steps
    return z


def simulate(k: np.ndarray, alpha: np.ndarray, seeds: range, args: Args, steps: tuple[int, ...] = STEPS) -> np.ndarray:
    """Runs IBQ(k) for each of the pairs `k` and `alpha`, (C,), and each of `seeds`, whose random numbers pairs share.
    Returns the episodes finished by each of `steps`, (len(seeds), len(steps), C) int64."""
    streams = np.stack([np.random.default_rng(seed).random((max(steps), 5)) for seed in seeds], axis=1)
    pairs = len(k)
    k, alpha, runs = np.tile(k, len(seeds)), np.tile(alpha, len(seeds)), np.arange(pairs * len(seeds))
    z, table = np.zeros((len(runs), SIZE * SIZE, ACTIONS)), transitions()
    states, counts, results = np.full(len(runs), START), np.zeros(len(runs), np.int64), []
    for t, stream in enumerate(tqdm(streams, unit="step", mininterval=1), start=1):
        explore, random_action, tie, slip, which = np.repeat(stream.T, pairs, axis=1)
        rows = z[runs, states]
        q = rows + (k * rows.mean(1))[:, None]
        actions = np.where(explore < EPSILON, (random_action * ACTIONS).astype(np.int64), greedy_actions(q, tie))
        successors = table[states, executed_actions(actions, slip, which)]
        reached = successors == GOAL
        next_rows = z[runs, successors]
        values = next_rows.max(1) + k * next_rows.mean(1)
        targets = np.where(reached, args.goal_reward, args.step_reward + GAMMA * values)
        z[runs, states] = update(rows, k, actions, alpha * (targets - q[runs, actions]))
        counts += reached
        states = np.where(reached, START, successors)
        if t in steps:
            results.append(counts.reshape(len(seeds), pairs).copy())
    return np.stack(results, axis=1)


def summarise(episodes: np.ndarray, args: Args) -> list[dict]:
    """The table from `episodes`, (seeds, len(STEPS), len(k), len(step_sizes)): for each checkpoint and k the step size
    with the most episodes, their number and their gain over k = 0 in percent, with 95% bootstrap intervals over seeds.
    """
    draws = np.random.default_rng(0).integers(len(episodes), size=(2000, len(episodes)))
    table = []
    for c, steps in enumerate(STEPS):
        best = episodes[:, c].mean(0).argmax(1)
        chosen = episodes[:, c, np.arange(len(args.k)), best]  # (seeds, len(k))
        means, boot = chosen.mean(0), chosen[draws].mean(1)
        base = args.k.index(0.0)
        gains, boot_gains = [100 * (x.T / x.T[base] - 1) for x in (means, boot)]
        for i, k in enumerate(args.k):
            low, high = np.percentile(boot[:, i], [2.5, 97.5])
            gain_low, gain_high = np.percentile(boot_gains[i], [2.5, 97.5])
            row = {"steps": steps, "k": k, "step_size": args.step_sizes[best[i]], "episodes": means[i]}
            row |= {"episodes_low": low, "episodes_high": high, "gain": gains[i]}
            table.append(row | {"gain_low": gain_low, "gain_high": gain_high})
    return table


def draw(table: list[dict], path: Path, args: Args) -> None:
    """The paper's Figure 2: the gain in episodes against k, a line for each checkpoint, with bands of 95%."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for steps, colour in zip(STEPS, ("#0072B2", "#E69F00", "#009E73", "#CC79A7"), strict=True):  # Okabe and Ito's
        rows = [row for row in table if row["steps"] == steps and row["k"] > 0]
        k, gain, low, high = zip(
            *((row["k"], row["gain"], row["gain_low"], row["gain_high"]) for row in rows), strict=True
        )
        axes.plot(k, gain, "o-", color=colour, label=f"{steps:,} steps")
        axes.fill_between(k, low, high, color=colour, alpha=0.2)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks([k for k in args.k if k > 0], [f"{k:g}" for k in args.k if k > 0])
    axes.minorticks_off()
    axes.set_xlabel("mean-scaling coefficient k")
    axes.set_ylabel("more episodes than Q-learning (%)")
    axes.set_title(f"reward {args.step_reward:g} per step, {args.goal_reward:+g} at the goal; {args.seeds} seeds, 95%")
    axes.legend()
    figure.savefig(path, dpi=150)


def fail(message: object) -> NoReturn:
    """End the program over a user's mistake: one line on stderr, exit code 2."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    if 0.0 not in args.k or len(args.k) < 2 or not all(0 <= k < np.inf for k in args.k):
        fail(f"--k {' '.join(map(str, args.k))} must contain 0, the baseline, and other numbers of at least 0")
    if not args.step_sizes or not all(0 < alpha <= 1 for alpha in args.step_sizes):
        fail(f"--step-sizes {' '.join(map(str, args.step_sizes))} must be numbers above 0 and at most 1")
    if args.seeds < 1 or args.seed < 0:
        fail(f"--seeds {args.seeds} --seed {args.seed} must be at least 1 and at least 0")
    if not np.isfinite([args.step_reward, args.goal_reward]).all():
        fail(f"--step-reward {args.step_reward} --goal-reward {args.goal_reward} must be finite numbers")
    try:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        (Path(args.out) / "tabular.csv").open("a").close()
    except OSError as error:
        fail(f"--out {args.out} cannot be written to ({error.strerror}); name a folder that can")

    k, alpha = (x.ravel() for x in np.meshgrid(args.k, args.step_sizes, indexing="ij"))
    seeds = range(args.seed, args.seed + args.seeds)
    episodes = simulate(k, alpha, seeds, args)
    table = summarise(episodes.reshape(len(seeds), len(STEPS), len(args.k), len(args.step_sizes)), args)
    print("| steps | k | best step size | episodes (95%) | gain over k = 0 (95%) |\n| ---: | ---: | ---: | --- | --- |")
    for row in table:
        episodes = f"{row['episodes']:.1f} ({row['episodes_low']:.1f} to {row['episodes_high']:.1f})"
        gain = f"{row['gain']:+.1f}% ({row['gain_low']:+.1f} to {row['gain_high']:+.1f})" if row["k"] else ""
        print(f"| {row['steps']} | {row['k']:g} | {row['step_size']:.4f} | {episodes} | {gain} |")
    with open(Path(args.out) / "tabular.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    draw(table, Path(args.out) / "tabular.png", args)
