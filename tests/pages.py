"""The tables of results in the README and under docs/, and the prose that counts, made of committed reports and runs.

python tests/pages.py        prints what a page should say and does not
python tests/pages.py --fix  writes it

A table is found by its header, a paragraph by the comment above it; all up to the next empty line is replaced.
"""

import csv
import math
import sys
import textwrap
from collections import Counter
from functools import cache, partial
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
GAMES = {
    "Asterix": "MinAtar/Asterix-v1",
    "Breakout": "MinAtar/Breakout-v1",
    "Freeway": "MinAtar/Freeway-v1",
    "Seaquest": "MinAtar/Seaquest-v1",
    "Space Invaders": "MinAtar/SpaceInvaders-v1",
}
TWO = {game: GAMES[game] for game in ("Asterix", "Space Invaders")}
IQN_GAMES = {game: GAMES[game] for game in ("Asterix", "Breakout")}
ONLINE = {game: GAMES[game] for game in ("Breakout", "Space Invaders")}
ATARI = {"Breakout": "ALE/Breakout-v5", "Pong": "ALE/Pong-v5"}
LABELS = {
    "final_score": "final score",
    "auc": "area under the curve",
    "overestimation": "overestimation",
    "action_gap": "action gap",
    "q_norm": "norm of q",
}
SCORES = ["final_score", "overestimation"]


def number(x):
    """Three significant digits: 0.0921, 4.02, 104."""
    return f"{x:#.3g}".rstrip(".")


def cell(row, measure):
    """mean (low, high) of a row of games.csv; the mean alone of a single run."""
    low, high = row[f"{measure}_low"], row[f"{measure}_high"]
    return number(row[measure]) + ("" if row["runs"] == 1 else f" ({number(low)}, {number(high)})")


def markdown(header, rows):
    aligned = ["---:" if name in ("seeds", "steps", "games", "k", "p") else "---" for name in header]
    return ["| " + " | ".join(cells) + " |" for cells in (header, aligned, *rows)]


@cache
def report(folder, name="games"):
    return pd.read_csv(ROOT / "docs" / folder / "report" / f"{name}.csv")


def rows_of(folder):
    """The rows of games.csv by game and agent."""
    return {(row["game"], row["agent"]): row for _, row in report(folder).iterrows()}


def games_table(folder, measures, games):
    """Agents as rows, and as columns the games of each measure, or the measures of one game."""
    rows, lines = rows_of(folder), []
    agents = dict.fromkeys(agent for _, agent in rows)
    for agent in agents:
        own = [rows.get((env_id, agent)) for env_id in games.values()]
        cells = ["" if row is None else cell(row, measure) for measure in measures for row in own]
        lines.append([agent, seeds_of([row for row in own if row is not None]), *cells])
    header = [f"{LABELS[m]}, {game}" if len(games) > 1 else LABELS[m] for m in measures for game in games]
    if len(measures) == 1:
        return markdown([LABELS[measures[0]], "seeds", *games], lines)
    return markdown(["agent", "seeds", *header], lines)


# THE LAYER AGAINST NO LAYER, OF EVERY AGENT


@cache
def forest():
    """The rows of forest.csv by folder, family and agent, then by game and measure."""
    rows = {}
    for _, row in pd.read_csv(ROOT / "docs/evidence/forest.csv").iterrows():
        key = Path(row["folder"]).name, row["family"], row["agent"]
        rows.setdefault(key, {})[row["game"], row["measure"]] = row
    return rows


def seeds_of(rows):
    numbers = sorted({int(row[name]) for row in rows for name in ("runs_with", "runs_without", "runs") if name in row})
    return " to ".join(str(n) for n in dict.fromkeys([numbers[0], numbers[-1]]))


def layer_rows():
    """Label and rows of every agent in forest.csv, named and ordered as in forest.png."""
    return {agent + ("" if family == "MinAtar" else f", {family}"): of for (_, family, agent), of in forest().items()}


def minatar_rows():
    """Those of README's table. A score of PolyPrune, near zero, says nothing."""
    return {label: rows for label, rows in layer_rows().items() if "," not in label and label != "PolyPrune"}


def ratio_cell(row):
    """A ratio of two means, bold and with an arrow where the seeds separate; "–" where report.py gives none."""
    text = "–" if np.isnan(row["ratio"]) else f"{row['ratio']:.2f}"
    return f"**{text} {'↑' if row['with'] > row['without'] else '↓'}**" if row["separate"] else text


def layer_table():
    """Ratios of the means with the layer and without it in each game: the score above, overestimation below."""
    lines = []
    for label, rows in minatar_rows().items():
        cells = [[rows[game, m] for m in SCORES if (game, m) in rows] for game in GAMES.values()]
        steps = f"{next(iter(rows.values()))['steps']:,}"
        start = [label, steps, seeds_of(rows.values()), "score<br>overestimation"]
        lines.append([*start, *["<br>".join(map(ratio_cell, cell)) for cell in cells]])
    return markdown(["agent", "steps", "seeds", "with / without", *GAMES], lines)


def paragraph(name, text):
    """Prose made of numbers: a comment, by which it is found, and the lines below it."""
    return [f"<!-- tests/pages.py: {name} -->", *textwrap.wrap(text, 120, break_on_hyphens=False)]


def missing():
    """What has not been run."""
    return "Atari at the paper's length" + ("" if "IQN" in layer_rows() else ", IQN on MinAtar")


def counts():
    """In how many cells of README's table the seeds separate, and what has no column or row there."""
    texts = []
    for measure, label in {**LABELS, "auc": "area under the curve (not shown)"}.items():
        rows = [
            row for of in minatar_rows().values() for (game, m), row in of.items() if m == measure and game != "all"
        ]
        rows = [row for row in rows if min(row["runs_with"], row["runs_without"]) >= 3]  # fewer get no arrow
        if rows:
            up, down = [sum(row["separate"] and (row["with"] > row["without"]) == so for row in rows) for so in (1, 0)]
            seeds = [(int(row["runs_with"]), int(row["runs_without"])) for row in rows]
            texts.append(f"{label} {up} ↑, {down} ↓")
    chance = sum(2 / math.comb(ours + theirs, ours) for ours, theirs in seeds)
    rows = layer_rows()["DQN, Atari"]
    atari = [f"{LABELS[m]} {ratio_cell(rows['ALE/Breakout-v5', m])}" for m in LABELS if ("all", m) in rows]
    steps, runs = rows["all", "auc"]["steps"], seeds_of(rows.values())
    text = f"Arrows, in {len(seeds)} cells of 3 seeds or more: {'; '.join(texts)}; "
    text += f"by chance alone about {chance:.0f} a measure. "
    text += f"Atari's Breakout, {steps:,} steps, {runs} seeds: {', '.join(atari)}. Not run: {missing()}."
    return paragraph("counts", text)


def forest_table():
    """The means over games of the same ratios, with their intervals."""
    lines = []
    for label, rows in layer_rows().items():
        games = {game for game, _ in rows} - {"all"}
        cells = []
        for measure in ("final_score", "auc", "overestimation"):
            ratio, low, high = rows["all", measure][["ratio", "ratio_low", "ratio_high"]]
            interval = "" if np.isnan(low) else f" ({low:.2f}, {high:.2f})"  # a single run has none
            cells.append("–" if np.isnan(ratio) else f"{ratio:.2f}{interval}")
        lines.append([label, str(len(games)), seeds_of(rows.values()), *cells])
    if "IQN" not in layer_rows():
        lines.append(["IQN", "", "not run", "", "", ""])
    header = ["with / without", "games", "seeds", "final score", "area under the curve", "overestimation"]
    return markdown(header, lines)


# MINATAR'S PRIMARY FIGURE


def permutation_p(games):
    """The probability of improvement over games [(ours, theirs)], and its exact two-sided p: the share of the ways to
    deal out each game's runs that are at least as far from one half."""
    observed, chances = 0.0, {0.0: 1.0}  # distance from one half: its chance
    for ours, theirs in games:
        runs = np.array([*ours, *theirs])
        wins = np.sign(runs[:, None] - runs).sum(1) / (2 * len(ours) * len(theirs) * len(games))
        observed += wins[: len(ours)].sum()
        deals = Counter(round(sum(deal), 9) for deal in combinations(wins.tolist(), len(ours)))
        before, chances = chances, Counter()
        for (far, chance), (more, ways) in product(before.items(), deals.items()):
            chances[round(far + more, 9)] += chance * ways / deals.total()
    return observed + 0.5, sum(chance for far, chance in chances.items() if abs(far) >= abs(observed) - 1e-6)


@cache
def areas(folder):
    """The mean score over the evaluations of every run, by game and --exp-name."""
    runs = {}
    for path in sorted((ROOT / "docs" / folder).glob("*/*/eval.csv")):
        game, agent, seed, _ = path.parent.name.split("__")
        runs.setdefault((game, agent), {})[int(seed)] = pd.read_csv(path)["score_mean"].mean()
    return runs


def primary_table():
    runs = areas("minatar")
    pairs = [(runs[game, "minatar_mexp"], runs[game, "minatar_dqn"]) for game, agent in runs if agent == "minatar_dqn"]
    observed, p = permutation_p([[list(of.values()) for of in pair] for pair in pairs])
    numbers = sorted({len(of) for pair in pairs for of in pair})
    improved = report("minatar", "improvement")
    (row,) = [row for _, row in improved.iterrows() if (row["agent"], row["measure"]) == ("IB-DQN(n)", "auc")]
    assert abs(row["probability"] - observed) < 0.02 or len(numbers) > 1
    interval = f"{row['probability_low']:.2f} to {row['probability_high']:.2f}"
    seeds = " to ".join(str(n) for n in dict.fromkeys([numbers[0], numbers[-1]]))
    cells = ["IB-DQN(n) against DQN, area under the curve, five games", seeds, f"{observed:.2f}", interval, f"{p:.3f}"]
    return markdown(["primary figure", "seeds", "probability of improvement", "95% interval", "p"], [cells])


# THE GRIDWORLD


def tabular_rows(name):
    with open(ROOT / "docs/tabular" / f"{name}.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def gains_table():
    targets = {"max": "step_reward", "sarsa": "sarsa_step_reward", "expected_sarsa": "expected_sarsa_step_reward"}
    lines = []
    for reward, suffix in ((-1, "minus_1"), (0, "0")):
        for target, name in targets.items():
            rows = [row for row in tabular_rows(f"{name}_{suffix}") if row["k"] == 3.2]
            cells = [f"{row['gain']:+.1f} ({row['gain_low']:+.1f}, {row['gain_high']:+.1f})" for row in rows]
            lines.append([str(reward), f"`{target}`", *cells])
    return markdown(["reward a step", "`--target`", "500 steps", "1,000", "2,500", "5,000"], lines)


def gains_by_k_table():
    lines = []
    for k in sorted({row["k"] for row in tabular_rows("step_reward_minus_1")} - {0}):
        cells = [f"{k:g}"]
        for name in ("step_reward_minus_1", "step_reward_0"):
            (row,) = [row for row in tabular_rows(name) if (row["k"], row["steps"]) == (k, 1000)]
            cells.append(f"{row['gain']:+.1f} ({row['gain_low']:+.1f}, {row['gain_high']:+.1f})")
        lines.append(cells)
    return markdown(["k", "reward -1 a step", "reward 0"], lines)


def values_table():
    lines = []
    with open(ROOT / "docs/tabular/values.csv", newline="") as file:
        rows = list(csv.DictReader(file))[:-1]  # the last one is value iteration's
    for row in rows:
        k, steps, error = float(row["k"]), float(row["steps"]), float(row["mean_error"])
        measures = []
        for name, digits in (("rmse", 2), ("optimal_actions", 1)):
            mean, low, high = [f"{float(row[name + end]):.{digits}f}" for end in ("", "_low", "_high")]
            measures.append(f"{mean} ({low}, {high})")
        lines.append([f"{k:g}", f"{steps:,.0f}", measures[0], f"{error:+.2f}", measures[1]])
    return markdown(["k", "steps", "RMSE of the values", "mean error", "optimal actions, %"], lines)


# THE PAGES


def evaluation_table(title, folder, agents, columns, games=TWO):
    """Columns of eval.csv, each at one evaluation: mean, least and greatest seed."""
    lines = []
    for label, exp_name in agents.items():
        cells, numbers = [], set()
        for column, evaluation in columns.values():
            for env_id in games.values():
                paths = (ROOT / "docs" / folder).glob(f"{env_id}__{exp_name}__*/eval.csv")
                values = [pd.read_csv(path)[column].iloc[evaluation] for path in paths]
                numbers.add(len(values))
                cells.append(f"{number(np.mean(values))} ({number(min(values))}, {number(max(values))})")
        (seeds,) = numbers
        lines.append([label, str(seeds), *cells])
    header = [f"{label}, {game}" if len(games) > 1 else label for label in columns for game in games]
    return markdown([title, "seeds", *header], lines)


SOFT = {"Soft DQN": "minatar_softq", "IB-Soft DQN(n)": "minatar_softq_mexp"}
SOFT |= {"Munchausen-DQN": "minatar_munchausen", "IB-Munchausen-DQN(n)": "minatar_munchausen_mexp"}
SOFTNESS = {"entropy": ("entropy", -1), "gap / tau": ("gap_over_temperature", -1)}
HEADS = {"Target-based DQN": "minatar_targetbased", "IB-Target-based DQN(n)": "minatar_targetbased_mexp"}
HEADS |= {"Target-free DQN": "minatar_targetfree", "IB-Target-free DQN(n)": "minatar_targetfree_mexp"}
HEADS |= {"iS-DQN K=9": "minatar_isdqn", "IB-iS-DQN K=9(n)": "minatar_isdqn_mexp"}
EARLY = {"100,000 steps": ("overestimation", 0), "200,000": ("overestimation", 1)}
PRUNED = {"EauDeQN": "minatar_eaudeqn", "IB-EauDeQN(n)": "minatar_eaudeqn_mexp", "EauDeQN-32": "minatar_eaudeqn_w32"}
SPARSITY = {"150,000 steps": ("sparsity", 2), "500,000": ("sparsity", -1)}
BREAKOUT = {"Breakout": ATARI["Breakout"]}
ON_ATARI = {"DQN": "dqn_atari", "IB-DQN(n)": "dqn_atari_mexp"}
VALUES = {"200,000 steps": ("overestimation", 3), "400,000": ("overestimation", 7), "600,000": ("overestimation", 11)}


def distances_table():
    """Mean distance of the scores of two runs, over evaluations and pairs of runs, of one method and of both."""
    rows = [["two seeds of Online soft DQN"], ["two seeds of Policy gradient"], ["one run of each"]]
    numbers = set()
    for env_id in ONLINE.values():
        q, pg = [
            np.array([pd.read_csv(path)["score_mean"] for path in sorted((ROOT / "docs/online").glob(pattern))])
            for pattern in (f"{env_id}__minatar_softq_{method}__*/eval.csv" for method in ("online", "pg"))
        ]
        numbers |= {len(q), len(pg)}
        for part in (slice(None), slice(-(q.shape[1] // 4), None)):
            pairs = [combinations(q[:, part], 2), combinations(pg[:, part], 2), product(q[:, part], pg[:, part])]
            for row, of in zip(rows, pairs, strict=True):
                row.append(number(np.mean([abs(one - other).mean() for one, other in of])))
    (seeds,) = numbers
    header = [name for game in ONLINE for name in (game, f"{game}, last quarter")]
    lines = [[label, str(seeds), *cells] for label, *cells in rows]
    return markdown(["mean distance of two runs", "seeds", *header], lines)


def sweep_table(folder, measures):
    """One game's rows of games.csv, with k in the agent's place."""
    lines = []
    for _, row in report(folder).sort_values("k").iterrows():
        lines.append([f"{row['k']:g}", str(row["runs"]), *[cell(row, measure) for measure in measures]])
    return markdown(["k", "seeds", *[LABELS[m] for m in measures]], lines)


def relative_table(folder, baseline="DQN"):
    table = report(folder, "relative")
    lines = []
    for agent in dict.fromkeys(table["agent"]):
        rows = [row for _, row in table[table["agent"] == agent].iterrows()]
        cells = {row["measure"]: f"{row['mean']:.2f} ({row['mean_low']:.2f}, {row['mean_high']:.2f})" for row in rows}
        lines.append([agent, seeds_of(rows), *[cells[m] for m in ("final_score", "auc", "overestimation")]])
    return markdown(
        [f"relative to {baseline}", "seeds", "final score", "area under the curve", "overestimation"], lines
    )


TABLES = [  # page, what makes its table
    ("README.md", layer_table),
    ("README.md", counts),
    ("docs/evidence.md", forest_table),
    ("docs/minatar/README.md", primary_table),
    ("docs/minatar/README.md", partial(relative_table, "minatar")),
    ("docs/minatar/README.md", partial(games_table, "minatar", ["final_score"], GAMES)),
    ("docs/minatar/README.md", partial(games_table, "minatar", ["auc"], GAMES)),
    ("docs/minatar/README.md", partial(games_table, "minatar", ["overestimation"], GAMES)),
    ("docs/minatar/README.md", partial(games_table, "minatar", ["action_gap"], GAMES)),
    ("docs/softq/README.md", partial(games_table, "softq", SCORES, TWO)),
    ("docs/softq/README.md", partial(evaluation_table, "at the last evaluation", "softq", SOFT, SOFTNESS)),
    ("docs/iqn/README.md", partial(games_table, "iqn", SCORES, IQN_GAMES)),
    ("docs/isdqn/README.md", partial(games_table, "isdqn", SCORES, TWO)),
    ("docs/isdqn/README.md", partial(relative_table, "isdqn", "Target-based DQN")),
    ("docs/isdqn/README.md", partial(evaluation_table, "overestimation", "isdqn", HEADS, EARLY)),
    ("docs/eaudeqn/README.md", partial(games_table, "eaudeqn", SCORES, TWO)),
    ("docs/eaudeqn/README.md", partial(evaluation_table, "sparsity", "eaudeqn", PRUNED, SPARSITY)),
    ("docs/eaudeqn/README.md", partial(relative_table, "eaudeqn", "Dense DQN")),
    ("docs/online/README.md", partial(games_table, "online", ["final_score", "auc"], ONLINE)),
    ("docs/online/README.md", distances_table),
    ("docs/atari/README.md", partial(games_table, "atari", list(LABELS)[:4], BREAKOUT)),
    ("docs/atari/README.md", partial(evaluation_table, "overestimation", "atari", ON_ATARI, VALUES, BREAKOUT)),
    ("docs/gpu/README.md", partial(games_table, "gpu", SCORES, ATARI)),
    ("docs/lunarlander/README.md", partial(sweep_table, "lunarlander", list(LABELS))),
    ("docs/tabular/README.md", gains_table),
    ("docs/tabular/README.md", gains_by_k_table),
    ("docs/tabular/README.md", values_table),
]


def problems(fix=False, tables=TABLES, root=ROOT):
    """What the pages lack, an entry a table; with `fix` the tables are written into the pages first."""
    found = []
    for path, make in tables:
        lines, page = make(), (root / path).read_text().split("\n")
        places = [i for i, line in enumerate(page) if line == lines[0]]
        if len(places) != 1:
            found.append(f"{path} has {len(places)} tables with the header {lines[0]}")
            continue
        (start,) = places
        end = page.index("", start)
        if fix:
            page[start:end] = lines
            (root / path).write_text("\n".join(page))
        elif page[start:end] != lines:
            missing = [line for line in lines if line not in page[start:end]]
            found.append("\n".join([f"{path} should say", *missing]))
    return found


if __name__ == "__main__":
    found = problems(fix="--fix" in sys.argv[1:])
    print("\n".join(found) or "all tables of the pages are those of their runs")
    sys.exit(bool(found))
