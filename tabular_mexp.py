# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "tqdm==4.70.1",
#     "tyro==1.0.17",
# ]
# ///
"""IBQ(k): tabular Q-learning with mean expansion on the gridworld of Nagarajan et al. (ICML 2026, 2606.29806).

The agent stores a table Z and acts and bootstraps with q(s, a) = Z[s, a] + k * mean_b Z[s, b]; k = 0 is Q-learning.
With `--target sarsa` or `expected_sarsa` it bootstraps from its epsilon-greedy policy and not from the maximum.
Every k is compared at the step size that suits it best, as in the paper's Figure 2. All seeds, step sizes and values
of k are advanced together, as arrays; everything but the two drawings is NumPy. Written into the folder `--out`:

    tabular.csv, tabular.png   episodes finished by 500, 1,000, 2,500 and 5,000 steps, and the gain over k = 0
    values.csv, values.png     state values after 200, 500 and 1,000 steps beside the optimal ones

Usage: python tabular_mexp.py --k 0 0.8 3.2 12.8 --seeds 64
"""

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, Optional

import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from tqdm import tqdm


@dataclass
class Args:
    # the run
    out: str = "tabular"  # the folder for the tables (CSV) and the figures (PNG)
    seeds: int = 128  # independent runs of each k and step size, as many as in the paper
    seed: int = 1  # the first of them
    picture_k: Optional[float] = None  # the k of values.png; default: the one of --k that is closest to 4, the actions

    # the environment
    step_reward: float = -1.0  # for every step that does not reach the goal: -1 in the authors' library, 0 in the paper
    goal_reward: float = 5.0  # for reaching the goal

    # the agent
    target: Literal["max", "sarsa", "expected_sarsa"] = "max"  # what it bootstraps from; max is Q-learning's
    k: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)  # mean-scaling coefficients; 0: no layer
    step_sizes: tuple[float, ...] = tuple(np.exp(np.linspace(-6, 0, 61)).tolist())  # the paper's 61


# ALGO LOGIC: a row is one run's four entries for one state; R rows are handled at once.
GAMMA = 0.95  # discount (the paper)
EPSILON = 0.1  # exploration (the paper)


def action_values(z: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The layer, q = z + k * mean(z): `z` is (..., 4) float64, `k` broadcasts to (...), the result is (..., 4)."""
    return z + (k * z.mean(-1))[..., None]


def greedy_actions(q: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The best actions of `q`, (R, 4), as (R,) int64; ties are broken evenly by `uniform`, (R,) in [0, 1)."""
    best = q == q.max(1, keepdims=True)
    chosen = (uniform * best.sum(1)).astype(np.int64)  # the chosen-th of the best actions, counted from 0
    return (best.cumsum(1) > chosen[:, None]).argmax(1)


def epsilon_greedy_actions(
    q: np.ndarray, explore: np.ndarray, random_action: np.ndarray, tie: np.ndarray
) -> np.ndarray:
    """The policy's actions for `q`, (R, 4), as (R,) int64; the others are (R,), uniform in [0, 1)."""
    random_actions = (random_action * ACTIONS).astype(np.int64)
    return np.where(explore < EPSILON, random_actions, greedy_actions(q, tie))


def update(z: np.ndarray, k: np.ndarray, alpha: np.ndarray, actions: np.ndarray, td_errors: np.ndarray) -> np.ndarray:
    """The rows `z`, (R, 4), after one step along the gradient, as a new array; everything else is (R,).

    The TD error d of action a moves z[a] by alpha * d * (1 + k/n) and every other z[b] by alpha * d * k/n: the
    gradient of q[a] = z[a] + k * mean(z) with respect to z, the a-th row of M_k = I + (k/n) 1 1^T.
    """
    steps = alpha * td_errors
    z = z + (k * steps / ACTIONS)[:, None]
    z[np.arange(len(z)), actions] += steps
    return z


# ENVIRONMENT: states are numbered row by row from the top left; walls hold the agent in place.
SIZE = 5  # the grid's rows and columns (the paper)
STATES = SIZE * SIZE
ACTIONS = 4  # up, down, left, right
SLIP = 0.25  # probability that another action is executed, each of the three as often (the paper)
START = (SIZE - 1) * SIZE  # bottom left
GOAL = SIZE - 1  # top right; entering it is a termination


def transitions() -> np.ndarray:
    """The state after every state and executed action, (25, 4) int64."""
    rows, columns = np.divmod(np.arange(STATES), SIZE)
    up = (rows - 1).clip(0) * SIZE + columns
    down = (rows + 1).clip(max=SIZE - 1) * SIZE + columns
    left = rows * SIZE + (columns - 1).clip(0)
    right = rows * SIZE + (columns + 1).clip(max=SIZE - 1)
    return np.stack([up, down, left, right], axis=1)


def executed_actions(actions: np.ndarray, slip: np.ndarray, which: np.ndarray) -> np.ndarray:
    """What happens, (R,) int64: where `slip` < 1/4, one of the other three actions, chosen by `which`.

    Both are (R,), uniform in [0, 1).
    """
    others = (actions + 1 + (which * (ACTIONS - 1)).astype(np.int64)) % ACTIONS
    return np.where(slip < SLIP, others, actions)


def optimal_action_values(args: Args) -> np.ndarray:
    """q*(s, a), (25, 4) float64, by value iteration: E[reward + gamma max_b q*(next state, b)], slips included.

    These are the values of the agent that never explores. At the goal, where nothing follows, they are 0.
    """
    next_states = transitions()
    rewards = np.where(next_states == GOAL, args.goal_reward, args.step_reward)
    executed = np.full((ACTIONS, ACTIONS), SLIP / (ACTIONS - 1))  # P(executed action | chosen action)
    np.fill_diagonal(executed, 1 - SLIP)
    q = np.zeros((STATES, ACTIONS))
    while True:
        values = q.max(1)
        new_q = (rewards + GAMMA * values[next_states]) @ executed.T
        new_q[GOAL] = 0
        change = abs(new_q - q).max()
        q = new_q
        if change <= 1e-13 * abs(q).max():  # the error left is at most gamma / (1 - gamma) = 19 times that
            return q


# EXPERIMENT
STEPS = (500, 1000, 2500, 5000)  # when episodes are counted, in agent steps (the paper)
PICTURE_STEPS = (200, 500, 1000)  # when the values are drawn
PICTURE_CHECKPOINT = 1000  # one of STEPS: the picture's step sizes are those with the most episodes by then


def simulate(
    k: np.ndarray, alpha: np.ndarray, seeds: range, args: Args, steps: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Runs IBQ(k) for each of the C pairs of `k` and `alpha`, both (C,), with each of `seeds`.

    All pairs share a seed's random numbers, and these do not depend on `steps`: simulated again, a run is the same.
    SARSA draws the next step's action before the update, from the numbers that every other target draws it from later.

    Yields, after each of the ascending `steps`, the episodes finished so far, (len(seeds), C) int64, and the
    action-values, (len(seeds), C, 25, 4) float64.
    """
    pairs = len(k)
    k = np.tile(k, len(seeds))
    alpha = np.tile(alpha, len(seeds))
    runs = np.arange(len(seeds) * pairs)  # the runs of the first seed, then those of the second, ...
    random_numbers = np.stack([np.random.default_rng(seed).random((max(steps) + 1, 5)) for seed in seeds], axis=1)

    next_states = transitions()
    z = np.zeros((len(runs), STATES, ACTIONS))
    states = np.full(len(runs), START)
    episodes = np.zeros(len(runs), np.int64)
    next_actions = None  # SARSA's, drawn before the update
    for step, uniform in enumerate(tqdm(random_numbers[:-1], unit="step", mininterval=1), start=1):
        explore, random_action, tie, slip, which = np.repeat(uniform.T, pairs, axis=1)
        rows = z[runs, states]
        q = action_values(rows, k)
        actions = next_actions
        if actions is None:
            actions = epsilon_greedy_actions(q, explore, random_action, tie)

        successors = next_states[states, executed_actions(actions, slip, which)]
        terminated = successors == GOAL
        successors = np.where(terminated, START, successors)  # the next episode's first state; no bootstrap from there

        next_q = action_values(z[runs, successors], k)
        if args.target == "sarsa":
            explore, random_action, tie, _, _ = np.repeat(random_numbers[step].T, pairs, axis=1)  # of the next step
            next_actions = epsilon_greedy_actions(next_q, explore, random_action, tie)
            bootstrap = next_q[runs, next_actions]
        elif args.target == "expected_sarsa":  # how ties are broken changes nothing: tied actions have the same value
            bootstrap = (1 - EPSILON) * next_q.max(1) + EPSILON * next_q.mean(1)
        else:
            bootstrap = next_q.max(1)
        targets = np.where(terminated, args.goal_reward, args.step_reward + GAMMA * bootstrap)
        td_errors = targets - q[runs, actions]
        z[runs, states] = update(rows, k, alpha, actions, td_errors)

        episodes += terminated
        states = successors
        if step in steps:
            q_all = action_values(z, k[:, None])
            yield episodes.reshape(len(seeds), pairs).copy(), q_all.reshape(len(seeds), pairs, STATES, ACTIONS)


def resampled_means(samples: np.ndarray) -> np.ndarray:
    """2,000 bootstrap means of `samples`, (seeds, ...), over the seeds: (2000, ...).

    Every call draws the same seeds, so the quotient of two agents' means compares them on the same seeds.
    """
    draws = np.random.default_rng(0).integers(len(samples), size=(2000, len(samples)))
    return samples[draws].mean(1)


def summarise(episodes: np.ndarray, args: Args) -> list[dict]:
    """The table from `episodes`, (seeds, len(STEPS), len(k), len(step_sizes)).

    For each checkpoint and k: the step size with the most episodes on average over the seeds, their number, and their
    gain over k = 0 (at its own best step size) in percent, with 95% bootstrap intervals over the seeds.
    """
    baseline = args.k.index(0.0)
    table = []
    for checkpoint, steps in enumerate(STEPS):
        best = episodes[:, checkpoint].mean(0).argmax(1)  # (len(k),), indices of step sizes
        at_best = episodes[:, checkpoint, np.arange(len(args.k)), best]  # (seeds, len(k))
        means = at_best.mean(0)
        resampled = resampled_means(at_best)
        for i, k in enumerate(args.k):
            resampled_gain = 100 * (resampled[:, i] / resampled[:, baseline] - 1)
            low, high = np.percentile(resampled[:, i], [2.5, 97.5])
            gain_low, gain_high = np.percentile(resampled_gain, [2.5, 97.5])
            row = {
                "steps": steps,
                "k": k,
                "step_size": args.step_sizes[best[i]],
                "episodes": means[i],
                "episodes_low": low,
                "episodes_high": high,
                "gain": 100 * (means[i] / means[baseline] - 1),
                "gain_low": gain_low,
                "gain_high": gain_high,
            }
            table.append(row)
    return table


def summarise_values(q: np.ndarray, optimal_q: np.ndarray) -> dict:
    """One panel of values.png, from one agent's action-values, `q` (seeds, 25, 4), and the optimal ones, (25, 4).

    `values`, (25,), is V(s) = max_a q(s, a), averaged over the seeds. The measures are taken in each run alone and then
    averaged, so that errors of different runs do not cancel; they are over the 24 states that are not the goal: the
    root-mean-square error of V, its mean error, and the percentage of states whose greedy action is optimal (a state
    with ties counts by the share of its greedy actions that are). `low` and `high` are 95% bootstrap intervals.
    """
    states = np.arange(STATES) != GOAL
    errors = (q.max(-1) - optimal_q.max(-1))[:, states]  # (seeds, 24)
    rmse = np.sqrt((errors**2).mean(1))
    rmse_low, rmse_high = np.percentile(resampled_means(rmse), [2.5, 97.5])

    greedy = q == q.max(-1, keepdims=True)
    optimal = optimal_q > optimal_q.max(-1, keepdims=True) - 1e-9  # two in some states, by the grid's symmetry
    shares = (greedy & optimal).sum(-1) / greedy.sum(-1)  # (seeds, 25)
    optimal_actions = 100 * shares[:, states].mean(1)
    optimal_low, optimal_high = np.percentile(resampled_means(optimal_actions), [2.5, 97.5])
    return {
        "rmse": rmse.mean(),
        "rmse_low": rmse_low,
        "rmse_high": rmse_high,
        "mean_error": errors.mean(),
        "optimal_actions": optimal_actions.mean(),
        "optimal_actions_low": optimal_low,
        "optimal_actions_high": optimal_high,
        "values": q.max(-1).mean(0),
    }


def value_panels(table: list[dict], optimal_q: np.ndarray, seeds: range, args: Args) -> list[dict]:
    """The panels of values.png, row by row: k = 0 and then `--picture-k`, each after each of PICTURE_STEPS.

    Each agent has the step size with which it finished the most episodes by PICTURE_CHECKPOINT steps, from
    `summarise`'s table, and is simulated again with the table's seeds: these are the very runs of the table.
    """
    picture_k = args.picture_k
    if picture_k is None:
        picture_k = min((k for k in args.k if k > 0), key=lambda k: abs(k - ACTIONS))
    step_sizes = {row["k"]: row["step_size"] for row in table if row["steps"] == PICTURE_CHECKPOINT}
    k = np.array([0.0, picture_k])
    alpha = np.array([step_sizes[0.0], step_sizes[picture_k]])
    snapshots = [q for _, q in simulate(k, alpha, seeds, args, PICTURE_STEPS)]
    panels = []
    for i in range(len(k)):
        for steps, q in zip(PICTURE_STEPS, snapshots, strict=True):
            panel = {"k": k[i], "step_size": alpha[i], "steps": steps}
            panel.update(summarise_values(q[:, i], optimal_q))
            panels.append(panel)
    return panels


# DRAWING
NAMES = {"max": "Q-learning", "sarsa": "SARSA", "expected_sarsa": "expected SARSA"}  # of k = 0, by the target


def draw_gains(table: list[dict], path: Path, args: Args) -> None:
    """The paper's Figure 2: the gain in episodes against k, a line for each checkpoint, with bands of 95%."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito's, told apart by the colour-blind too
    for steps, colour in zip(STEPS, colours, strict=True):
        rows = [row for row in table if row["steps"] == steps and row["k"] > 0]
        rows.sort(key=lambda row: row["k"])
        k = [row["k"] for row in rows]
        gain = [row["gain"] for row in rows]
        low = [row["gain_low"] for row in rows]
        high = [row["gain_high"] for row in rows]
        axes.plot(k, gain, "o-", color=colour, label=f"{steps:,} steps")
        axes.fill_between(k, low, high, color=colour, alpha=0.2)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    ticks = [k for k in args.k if k > 0]
    axes.set_xticks(ticks, [f"{k:g}" for k in ticks])
    axes.minorticks_off()
    axes.set_xlabel("mean-scaling coefficient k")
    axes.set_ylabel(f"more episodes than {NAMES[args.target]} (%)")
    axes.set_title(
        f"reward {args.step_reward:g} per step, {args.goal_reward:+g} at the goal\n"
        f"mean of {args.seeds} seeds, bands: 95% bootstrap intervals of the mean",
        fontsize=10,
    )
    axes.legend()
    figure.savefig(path, dpi=150)


def draw_grid(axes: Axes, values: np.ndarray, limit: float) -> AxesImage:
    """One gridworld: `values`, (25,), as colours from red, -`limit`, over white, 0, to blue, and as numbers."""
    image = axes.imshow(values.reshape(SIZE, SIZE), cmap="RdBu", norm=Normalize(-limit, limit))
    for state, value in enumerate(values):
        row, column = divmod(state, SIZE)
        text = f"{value:.1f}".replace("-0.0", "0.0")
        colour = "white" if abs(value) > 0.6 * limit else "black"
        if state == GOAL:
            text = "goal"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        if state == START:
            axes.text(column, row + 0.33, "start", ha="center", va="center", fontsize=6, color=colour)
        if state in (START, GOAL):
            axes.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, linewidth=1.2))
    axes.set_xticks(np.arange(0.5, SIZE - 1), [])
    axes.set_yticks(np.arange(0.5, SIZE - 1), [])
    axes.tick_params(length=0)
    axes.grid(color="black", linewidth=0.3)
    return image


def draw_values(panels: list[dict], optimal: np.ndarray, path: Path, args: Args) -> None:
    """`value_panels` as two rows, without and with the layer, of len(PICTURE_STEPS) gridworlds each, beside the
    `optimal` values, (25,); all on one scale of colours, on which white is 0, where every value starts."""
    columns = len(PICTURE_STEPS)
    limit = max(abs(values).max() for values in [optimal] + [panel["values"] for panel in panels])
    figure = Figure(figsize=(10, 5.5))
    grid = figure.add_gridspec(2, columns + 1, left=0.07, right=0.99, bottom=0.06, top=0.88, wspace=0.1, hspace=0.15)
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        axes = figure.add_subplot(grid[row, column])
        draw_grid(axes, panel["values"], limit)
        axes.set_xlabel(f"RMSE {panel['rmse']:.2f}, {panel['optimal_actions']:.0f}% optimal actions", fontsize=9)
        if row == 0:
            axes.set_title(f"after {panel['steps']:,} steps", fontsize=10)
        if column == 0:
            name = "with the layer" if panel["k"] > 0 else NAMES[args.target]
            axes.set_ylabel(f"{name}\nk = {panel['k']:g}, step size {panel['step_size']:.2g}", fontsize=10)
    axes = figure.add_subplot(grid[:, columns])
    image = draw_grid(axes, optimal, limit)
    axes.set_title("optimal values", fontsize=10)
    colours = axes.inset_axes((0.0, -0.15, 1.0, 0.06))
    figure.colorbar(image, cax=colours, orientation="horizontal").set_label("V(s) = max$_a$ q(s, a)", fontsize=9)
    note = "below each grid: error of the values\nand states whose greedy action is\noptimal, as means over single runs"
    figure.text(0.775, 0.05, note, fontsize=8)
    title = f"State values, averaged over {args.seeds} runs, each agent at its best step size"
    figure.suptitle(f"{title} ({args.step_reward:g} per step, {args.goal_reward:+g} at the goal)", fontsize=11)
    figure.savefig(path, dpi=150)


def print_episodes(table: list[dict]) -> None:
    print("| steps | k | best step size | episodes (95%) | gain over k = 0 (95%) |")
    print("| ---: | ---: | ---: | --- | --- |")
    for row in table:
        episodes = f"{row['episodes']:.1f} ({row['episodes_low']:.1f} to {row['episodes_high']:.1f})"
        gain = f"{row['gain']:+.1f}% ({row['gain_low']:+.1f} to {row['gain_high']:+.1f})"
        if row["k"] == 0:
            gain = ""
        print(f"| {row['steps']} | {row['k']:g} | {row['step_size']:.4f} | {episodes} | {gain} |")


def print_values(panels: list[dict]) -> None:
    print("| k | step size | steps | RMSE of the values (95%) | mean error | optimal actions (95%) |")
    print("| ---: | ---: | ---: | --- | ---: | --- |")
    for panel in panels:
        agent = f"{panel['k']:g} | {panel['step_size']:.4f} | {panel['steps']}"
        rmse = f"{panel['rmse']:.2f} ({panel['rmse_low']:.2f} to {panel['rmse_high']:.2f})"
        optimal = f"{panel['optimal_actions']:.1f}%"
        interval = f"({panel['optimal_actions_low']:.1f} to {panel['optimal_actions_high']:.1f})"
        print(f"| {agent} | {rmse} | {panel['mean_error']:+.2f} | {optimal} {interval} |")


def write_csv(rows: list[dict], path: Path) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_values(panels: list[dict], optimal_q: np.ndarray, path: Path) -> None:
    """values.csv: a row for each panel and a last one for the optimal values; v_0 to v_24 are the states' values."""
    optimal = {"k": "optimal", "step_size": "", "steps": ""}
    optimal.update(summarise_values(optimal_q[None], optimal_q))
    rows = []
    for panel in [*panels, optimal]:
        row = {name: panel[name] for name in panel if name != "values"}
        for state, value in enumerate(panel["values"]):
            row[f"v_{state}"] = value
        rows.append(row)
    write_csv(rows, path)


# ARGUMENT CHECKS
def fail(message: object) -> NoReturn:
    """End the program over a user's mistake: one line on stderr, exit code 2."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


def check_args(args: Args) -> None:
    """Ends the program, before anything is computed, over a flag that cannot work."""
    if 0.0 not in args.k or max(args.k) == 0 or not all(0 <= k < np.inf for k in args.k):
        fail(f"--k {' '.join(map(str, args.k))} must contain 0, the baseline, and other numbers of at least 0")
    if args.picture_k is not None and (args.picture_k == 0 or args.picture_k not in args.k):
        fail(f"--picture-k {args.picture_k} must be one of --k's other than 0: {' '.join(map(str, args.k))}")
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


def check_values(panels: list[dict], args: Args) -> None:
    """Ends the program if there are no values to draw, because an agent diverges at the best of the step sizes."""
    bound = max(abs(args.step_reward), abs(args.goal_reward)) / (1 - GAMMA)  # no policy's values are beyond
    for panel in panels:
        if not abs(panel["values"]).max() <= bound:  # so written, it is true of NaN too
            steps = " ".join(map(str, args.step_sizes))
            fail(f"--step-sizes {steps} make k = {panel['k']:g} diverge: no values.png; smaller ones would not")


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    check_args(args)
    out = Path(args.out)
    seeds = range(args.seed, args.seed + args.seeds)

    k = np.repeat(args.k, len(args.step_sizes))
    alpha = np.tile(args.step_sizes, len(args.k))
    # Step sizes too large for their k diverge; such runs finish few episodes, so they are not the best.
    with np.errstate(over="ignore", invalid="ignore"):
        episodes = np.stack([finished for finished, _ in simulate(k, alpha, seeds, args, STEPS)], axis=1)
    table = summarise(episodes.reshape(len(seeds), len(STEPS), len(args.k), len(args.step_sizes)), args)
    print_episodes(table)
    write_csv(table, out / "tabular.csv")
    draw_gains(table, out / "tabular.png", args)

    optimal_q = optimal_action_values(args)
    with np.errstate(over="ignore", invalid="ignore"):
        panels = value_panels(table, optimal_q, seeds, args)
    check_values(panels, args)
    print()
    print_values(panels)
    write_values(panels, optimal_q, out / "values.csv")
    draw_values(panels, optimal_q.max(1), out / "values.png", args)
