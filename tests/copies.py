"""The scripts share code by copying it: compares the copies, and writes one script's into all others.

Usage:
    python tests/copies.py                          prints what differs and should not; the exit code is 1 then
    python tests/copies.py --fix dqn_atari_mexp.py  first writes this file's version into the other scripts

Compared is the text of all classes and functions at the top level of a file that have the same name, but for what is
listed here. Imports, constants and the main block are not compared.
"""

import argparse
import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Every script: the games it plays and the agent it trains. None: it trains no network, and may lack what others share
SCRIPTS = {
    "dqn_atari.py": ("Atari", "DQN"),
    "dqn_atari_mexp.py": ("Atari", "DQN"),
    "iqn_atari.py": ("Atari", "IQN"),
    "iqn_atari_mexp.py": ("Atari", "IQN"),
    "lunarlander_mexp.py": ("Gym", "DQN"),
    "minatar_mexp.py": ("MinAtar", "DQN"),
    "related/dueling_atari.py": ("Atari", "Dueling DQN"),
    "related/dueling_minatar.py": ("MinAtar", "Dueling DQN"),
    "related/eaudeqn_atari.py": ("Atari", "Eau De DQN"),
    "related/eaudeqn_minatar.py": ("MinAtar", "Eau De DQN"),
    "related/iqn_minatar.py": ("MinAtar", "IQN"),
    "related/isdqn_atari.py": ("Atari", "iS-DQN"),
    "related/isdqn_minatar.py": ("MinAtar", "iS-DQN"),
    "related/nature_dqn_atari.py": ("Atari", "Nature DQN"),
    "related/nature_dqn_minatar.py": ("MinAtar", "Nature DQN"),
    "related/softq_atari.py": ("Atari", "Soft DQN"),
    "related/softq_minatar.py": ("MinAtar", "Soft DQN"),
    "related/softq_online_atari.py": ("Atari", "Online soft DQN"),
    "related/softq_online_minatar.py": ("MinAtar", "Online soft DQN"),
    "play.py": None,
    "report.py": None,
    "tabular_mexp.py": None,
}

# Not shared: every script has its own
OWN = {"Args", "QNetwork", "make_network"}

# Shared only by the scripts of the same games
OF_THE_GAMES = {
    "AtariEnvs",
    "MinAtarEnvs",
    "GymEnvs",
    "make_envs",
    "clip_rewards",
    "ReplayBuffer",
    "RolloutBuffer",
    "evaluate",
    "check_memory",
    "start_config",
}

# Shared only by the scripts of the same agent
OF_THE_AGENT = {
    "update",
    "quantile_huber_loss",
    "RMSprop",
    "soft_values",
    "log_policy",
    "policy_metrics",
    "log_pi_of",
    "draw_actions",
    "scale_gradient",
    "rollout_targets",
    "loss_q",
    "loss_pg",
    "Rollout",
    "ChannelLayerNorm",
    "online_heads",
    "target_heads",
    "QNetworks",
    "check_stack",
    "check_shift",
    "check_agent",
    "num_pruned",
    "next_sparsities",
    "polyprune_sparsity",
    "acting_probabilities",
    "select",
    "end_period",
    "sparsity_metrics",
}

# Shared by all that are DQN or all that are IQN: what the last word of the agent's name says
OF_THE_FAMILY = {"action_values"}

# Shared, and the same wherever it is; not every script has the layer or a replay
NOT_IN_ALL = {"MeanExpansion", "Batch", "update_minibatches", "ReplayBuffer", "RolloutBuffer"}

# Shared by all others, but these agents have their own, the same in their scripts (of the same games)
OWN_OF_THE_AGENT = {
    "Soft DQN": {"evaluate"},  # columns of the policy
    "Online soft DQN": {"evaluate", "check_args"},  # acts by the policy and has no epsilon
    "Eau De DQN": {"action_values", "check_memory"},  # of several networks
}

# What single scripts have of their own besides
OWN_OF = {
    "lunarlander_mexp.py": {"update"},  # averages the loss over the batch
    "tabular_mexp.py": {"action_values", "update", "check_args"},
}


def definitions(path: Path) -> dict[str, str]:
    """The text of every class and function at the top level of a file, decorators included, by name."""
    lines = path.read_text().split("\n")
    return {name: "\n".join(lines[first:last]) for name, (first, last) in spans(path).items()}


def spans(path: Path) -> dict[str, tuple[int, int]]:
    """Where each of them begins and ends: the index of its first line, and of the first line after it."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = (first - 1, node.end_lineno)
    return found


def scripts(root: Path) -> dict[str, Path]:
    """All scripts, by the name that `SCRIPTS` gives them."""
    paths = sorted(root.glob("*.py")) + sorted(root.glob("related/*.py"))
    return {path.relative_to(root).as_posix(): path for path in paths}


def sharing(script: str, definition: str) -> tuple[str, ...] | None:
    """What a script's definition must be the same text as: two are copies if this is equal. None if it is its own."""
    if definition in OWN or definition in OWN_OF.get(script, set()):
        return None
    if SCRIPTS[script] is None:
        return (definition,)
    games, agent = SCRIPTS[script]
    if definition in OWN_OF_THE_AGENT.get(agent, set()):
        return (definition, agent, games) if definition in OF_THE_GAMES else (definition, agent)
    if definition in OF_THE_GAMES:
        return (definition, games)
    if definition in OF_THE_AGENT:
        return (definition, agent)
    if definition in OF_THE_FAMILY:
        return (definition, agent.split()[-1])
    return (definition,)


def problems(root: Path = ROOT) -> list[str]:
    """What is wrong with the copies, a line each."""
    found = scripts(root)
    lines = [f"{script} is not listed in SCRIPTS of tests/copies.py" for script in found if script not in SCRIPTS]
    lines += [f"{script} is listed in SCRIPTS of tests/copies.py, but missing" for script in SCRIPTS.keys() - found]
    listed = {script: definitions(path) for script, path in found.items() if script in SCRIPTS}

    copies = {}  # what is shared: {text: the scripts that have it}
    for script, texts in listed.items():
        for definition, text in texts.items():
            key = sharing(script, definition)
            if key is not None:
                copies.setdefault(key, {}).setdefault(text, []).append(script)

    for (definition, *family), texts in copies.items():
        if len(texts) > 1:
            versions = " | ".join(", ".join(having) for having in texts.values())
            lines.append(f"{definition} differs: {versions}")
        if definition in NOT_IN_ALL:
            continue
        having = sum(texts.values(), [])
        if all(SCRIPTS[script] is None for script in having):
            continue
        for script in listed:
            of_the_family = SCRIPTS[script] is not None and sharing(script, definition) == (definition, *family)
            if of_the_family and script not in having:
                lines.append(f"{definition} is missing in {script}, but not in {', '.join(having)}")
    return lines


def fix(source: Path, root: Path = ROOT) -> list[str]:
    """Write `source`'s version of all that it shares into the other scripts. Returns what was written, a line each."""
    name = source.resolve().relative_to(root).as_posix()
    wanted = {}
    for definition, text in definitions(source).items():
        key = sharing(name, definition)
        if key is not None:
            wanted[key] = text

    written = []
    for script, path in scripts(root).items():
        if script not in SCRIPTS:
            continue
        lines = path.read_text().split("\n")
        changed = []
        for definition, (first, last) in reversed(spans(path).items()):  # from the end: what is above keeps its place
            text = wanted.get(sharing(script, definition))
            if text is not None and text != "\n".join(lines[first:last]):
                lines[first:last] = text.split("\n")
                changed.append(definition)
        if changed:
            path.write_text("\n".join(lines))
            written += [f"{definition} written into {script}" for definition in reversed(changed)]
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fix", metavar="FILE", type=Path, help="the script whose version the others get")
    args = parser.parse_args()
    if args.fix:
        known = {path.resolve(): script for script, path in scripts(ROOT).items()}
        if known.get(args.fix.resolve()) not in SCRIPTS:
            parser.error(f"--fix {args.fix} is no script that is listed in SCRIPTS of tests/copies.py")
        for line in fix(args.fix):
            print(line)
    found = problems()
    for line in found:
        print(line)
    if found:
        sys.exit(1)
    print("all copies agree")


if __name__ == "__main__":
    main()
