"""The scripts are whole: no shared module, the same text for what is shared, a small diff for the layer."""

import ast
import difflib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields

import copies
import pytest
from helpers import IQN, RELATED, ROOT, SCRIPTS, TRAINED, load

PAIRS = [(name, f"{name}_mexp") for name in SCRIPTS if f"{name}_mexp" in SCRIPTS]
WHOLE = sorted(copies.scripts(ROOT))  # all scripts, those that train no network too


# COPIES


def test_copies_agree():
    assert copies.problems() == []


def test_a_copy_that_differs_is_found_and_mended(tmp_path):
    (tmp_path / "tests").mkdir()
    for name in [*WHOLE, "tests/copies.py"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    def compare(*flags):
        command = [sys.executable, tmp_path / "tests" / "copies.py", *flags]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return result.returncode, result.stdout

    def change(name):
        text = (ROOT / f"{name}.py").read_text()
        return text.replace("min(t / duration, 1.0)", "min(1.0, t / duration)") if name in TRAINED else text

    (tmp_path / "iqn_atari.py").write_text(change("iqn_atari"))
    code, out = compare()
    assert code == 1 and re.fullmatch(r"linear_schedule differs: .*[:|] iqn_atari\.py( \|.*)?\n", out), out
    code, out = compare("--fix", "iqn_atari.py")
    assert code == 0 and out.endswith("all copies agree\n"), out
    for path in WHOLE:
        assert (tmp_path / path).read_text() == change(path.removesuffix(".py")), path
    (tmp_path / "dqn_atari.py").write_text(change("dqn_atari").replace("def write_config(", "def write_the_config("))
    code, out = compare()
    assert code == 1 and "write_config is missing in dqn_atari.py" in out


# FILES


@pytest.mark.parametrize("name", TRAINED)
def test_file_order(name):
    """A reader finds the sections in the same order in every script, and the main block last."""
    lines = (ROOT / f"{name}.py").read_text().split("\n")
    replay = "# ROLLOUTS" if "online" in name else "# REPLAY BUFFER"
    sections = ["# AGENT", "# ENVIRONMENT", replay, "# EVALUATION", "# MEMORY AND SPEED", "# RUNS (skip at first)"]
    assert [line for line in lines if line in [*sections, "# ROLLOUTS", "# REPLAY BUFFER"]] == sections
    (main,) = [i for i, line in enumerate(lines) if line == 'if __name__ == "__main__":']
    assert not [line for line in lines[main + 1 :] if line and not line.startswith(" ")]


def changed_lines(old, new):
    """What `diff` prints of two files, but for the places."""
    result = subprocess.run(["diff", ROOT / old, ROOT / new], capture_output=True, text=True)
    return [line for line in result.stdout.splitlines() if line[0] in "<>"]


@pytest.mark.parametrize("baseline,modified", PAIRS)
def test_the_diff_is_the_layer(baseline, modified):
    changed = changed_lines(f"{baseline}.py", f"{modified}.py")
    assert len(changed) < 45
    removed = [line[1:].strip() for line in changed if line[0] == "<"]
    body = [line for line in removed if line and line[0].islower() and "(" in line]
    assert len(body) <= 2, body  # the network's signature and its call


@pytest.mark.parametrize("baseline", [baseline for baseline, _ in PAIRS])
def test_the_baseline_holds_no_trace_of_the_layer(baseline):
    """But in its docstring, and in the name of the project."""
    text = text_of(baseline)
    for allowed in (ast.get_docstring(ast.parse(text), False), 'wandb_project_name: str = "mean-expansion"'):
        text = text.replace(allowed, "")
    for word in ("mean_scaling", "MeanExpansion", "expansion", "coefficient", "folded", "mexp"):
        assert word not in text, word


def text_of(name):
    return (ROOT / f"{name}.py").read_text()


NETWORK = {"Args", "QNetwork", "make_network"}
SOFT = {"Args", "soft_values", "log_policy", "policy_metrics", "update", "evaluate", "check_agent"}
ONLINE = NETWORK | {"MeanExpansion", "log_pi_of", "draw_actions", "scale_gradient", "rollout_targets", "loss_q"}
ONLINE |= {
    "loss_pg",
    "update",
    "update_minibatches",
    "Rollout",
    "RolloutBuffer",
    "Batch",
    "ReplayBuffer",
    "evaluate",
    "check_args",
}
HEADS = NETWORK | {"ChannelLayerNorm", "online_heads", "target_heads", "check_shift", "action_values", "update"}
HEADS |= {"check_agent"}
EAU = NETWORK | {"QNetworks", "check_stack", "check_memory", "num_pruned", "next_sparsities", "polyprune_sparsity"}
EAU |= {"acting_probabilities", "select", "end_period", "sparsity_metrics", "update", "check_agent", "action_values"}
LUNAR = NETWORK | {"update", "MinAtarEnvs", "GymEnvs", "make_envs", "ReplayBuffer", "start_config"}
# A script: what it is a copy of, the definitions that are its algorithm, changed lines of set-up, loop and end
BASES = {
    "dueling_atari": ("dqn_atari", NETWORK | {"update"}, (0, 0, 0)),
    "dueling_minatar": ("minatar_mexp", NETWORK | {"update", "MeanExpansion"}, (3, 0, 1)),
    "eaudeqn_atari": ("dqn_atari_mexp", EAU, (24, 20, 4)),
    "eaudeqn_minatar": ("minatar_mexp", EAU, (23, 20, 4)),
    "iqn_minatar": ("minatar_mexp", {"Args", "QNetwork", "action_values", "quantile_huber_loss", "update"}, (4, 0, 0)),
    "isdqn_atari": ("dqn_atari_mexp", HEADS, (34, 23, 0)),
    "isdqn_minatar": ("minatar_mexp", HEADS, (34, 23, 0)),
    "lunarlander_mexp": ("minatar_mexp", LUNAR, (5, 5, 0)),
    "nature_dqn_atari": ("dqn_atari_mexp", {"Args", "RMSprop", "update"}, (7, 0, 0)),
    "nature_dqn_minatar": ("minatar_mexp", {"Args", "RMSprop", "update"}, (7, 0, 0)),
    "softq_atari": ("dqn_atari_mexp", SOFT, (1, 5, 0)),
    "softq_minatar": ("minatar_mexp", SOFT, (1, 5, 0)),
    "softq_online_atari": ("dqn_atari_mexp", ONLINE, (28, 48, 1)),
    "softq_online_minatar": ("minatar_mexp", ONLINE, (28, 25, 1)),
}


@pytest.mark.parametrize("name", [*RELATED, "lunarlander_mexp"])
def test_the_diff_of_a_script_is_its_algorithm(name):
    """Other definitions are the same text in the same order, and the main block changes where it must."""
    base, own, most = BASES[name.removeprefix("related/")]
    old, new = [copies.definitions(ROOT / f"{path}.py") for path in (base, name)]
    assert [text for text in old if text not in own] == [text for text in new if text not in own]
    assert {text for text in old.keys() | new.keys() if old.get(text) != new.get(text)} == own
    parts = []
    for path in (base, name):
        (_, main_block) = (ROOT / f"{path}.py").read_text().split('if __name__ == "__main__":\n')
        set_up, rest = main_block.split("# TRY NOT TO MODIFY: start the game\n")
        loop, end = rest.split("    if args.save_model:\n")
        parts.append([set_up.splitlines(), loop.splitlines(), end.splitlines()])
    for before, after, lines in zip(*parts, most, strict=True):
        changed = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[0] in "+-"][2:]
        assert len(changed) <= lines, "\n".join(changed)


@pytest.mark.parametrize("stem", ["eaudeqn", "isdqn", "softq"])
def test_the_loops_of_both_games_change_alike(stem):
    """What these scripts add to the loop of their base is the same text on Atari and on MinAtar."""
    added = []
    for games in ("atari", "minatar"):
        loops = []
        for path in (BASES[f"{stem}_{games}"][0], f"related/{stem}_{games}"):
            main_block = (ROOT / f"{path}.py").read_text().split("# TRY NOT TO MODIFY: start the game\n")[1]
            loops.append(main_block.split("    if args.save_model:\n")[0].splitlines())
        changed = difflib.unified_diff(*loops, n=0, lineterm="")
        added.append([line for line in changed if line[0] == "+"][1:])
    assert added[0] == added[1] and added[0]


def test_the_table_of_changed_lines():
    """CONTRIBUTING.md lists every script but the first, with what `diff` prints of it and of its base."""
    rows = re.findall(r"^\| `([\w/]+\.py)` \| `([\w/]+\.py)` \| (\d+) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert sorted(script for script, _, _ in rows) == sorted(f"{name}.py" for name in TRAINED if name != "dqn_atari")
    for script, base, lines in rows:
        assert abs(len(changed_lines(base, script)) - int(lines)) <= 15, (script, base)


def test_import_has_no_side_effects(tmp_path):
    """All that train in one interpreter; each alone would take seconds to start."""
    modules = ", ".join(name.removeprefix("related/") for name in TRAINED)
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'related')!r}]; import {modules}"
    result = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    errors = [line for line in result.stderr.splitlines() if "font cache" not in line]  # Matplotlib, once a machine
    assert (result.returncode, result.stdout, errors) == (0, "", [])
    assert not list(tmp_path.iterdir())


def requirements():
    """The pinned versions of requirements.txt by the packages' names, without extras such as [box2d]."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    pins = [line.split("==") for line in lines if line]
    return {package.split("[")[0]: version for package, version in pins}


def imported_packages(path):
    """The names, as on the package index, of all packages outside the standard library that a script imports."""
    modules = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    modules.discard("wandb")  # optional, under `if args.track`
    distributions = importlib.metadata.packages_distributions()
    packages = {"tensorboard"} if "torch.utils.tensorboard" in modules else set()  # PyTorch does not bring it
    for module in {module.split(".")[0] for module in modules} - sys.stdlib_module_names:
        assert len(set(distributions[module])) == 1, module
        packages.add(distributions[module][0])
    return packages


@pytest.mark.parametrize("path", WHOLE)
def test_inline_metadata_lists_what_is_imported(path):
    """PEP 723: a single downloaded file runs, with the versions that the tests ran with; it needs no other file."""
    pattern = r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$"  # as the PEP gives it
    (block,) = re.finditer(pattern, (ROOT / path).read_text())
    assert block["type"] == "script" and block.start() == 0
    lines = [line[2:] if line.startswith("# ") else line[1:] for line in block["content"].splitlines()]
    metadata = tomllib.loads("\n".join(lines))
    assert metadata["requires-python"] == ">=3.11,<3.14"
    pairs = [requirement.split("==") for requirement in metadata["dependencies"]]
    listed = {package.split("[")[0]: version for package, version in pairs}
    needed = imported_packages(path)
    if path == "play.py":  # it imports the script that trained the run
        needed = needed.union(*(imported_packages(f"{name}.py") for name in TRAINED))
    assert set(listed) == needed
    pins = requirements()
    assert listed == {package: pins[package] for package in listed}
    assert metadata["dependencies"] == sorted(metadata["dependencies"], key=str.lower)


# FLAGS


def test_defaults_are_the_papers(script):
    """Section 3 of the protocol: Machado et al. 2018 with the learning settings of Rainbow and Dopamine."""
    expected = dict(total_timesteps=50_000_000, buffer_size=1_000_000, batch_size=32, learning_starts=50_000)
    expected |= dict(train_frequency=4, target_network_frequency=10_000, gamma=0.99, start_e=1.0, end_e=0.01)
    expected |= dict(exploration_steps=1_000_000, learning_rate=6.25e-5, adam_eps=1.5e-4, num_envs=1)
    expected |= dict(full_action_space=True, terminal_on_life_loss=False, env_id="ALE/Breakout-v5")
    expected |= dict(eval_frequency=250_000, eval_steps=125_000, eval_envs=8, eval_epsilon=0.001)
    expected |= dict(checkpoint_frequency=1_000_000, cuda=True, buffer_device="auto")
    if script.__name__ in IQN:
        expected |= dict(learning_rate=5e-5, adam_eps=0.01 / 32)
        expected |= dict(num_tau_samples=64, num_tau_prime_samples=64, num_quantile_samples=32)
    args = vars(script.Args())
    assert {name: args[name] for name in expected} == expected
    assert args["exp_name"] == script.__name__
    if hasattr(script, "MeanExpansion"):
        assert args["mean_scaling_coefficient"] == "n"


def test_defaults_of_minatar():
    """Section 5 of the protocol: Young & Tian 2019 and Ceron & Castro 2021."""
    expected = dict(total_timesteps=5_000_000, buffer_size=100_000, batch_size=32, learning_starts=5_000, num_envs=1)
    expected |= dict(train_frequency=4, target_network_frequency=1_000, gamma=0.99, start_e=1.0, end_e=0.01)
    expected |= dict(exploration_steps=100_000, learning_rate=2.5e-4, adam_eps=3.125e-4, eval_frequency=100_000)
    expected |= dict(eval_episodes=100, eval_epsilon=0.001, env_id="MinAtar/Breakout-v1", num_threads=1, cuda=True)
    expected |= dict(mean_scaling_coefficient="n", checkpoint_frequency=50_000)
    args = vars(load("minatar_mexp").Args())
    assert {name: args[name] for name in expected} == expected
    atari = set(vars(load("dqn_atari_mexp").Args()))
    assert set(args) - atari == {"num_threads", "eval_episodes"}
    assert atari - set(args) == {"full_action_space", "terminal_on_life_loss", "eval_steps"}


@pytest.mark.parametrize("name", TRAINED)
def test_every_flag_is_explained(name):
    """In a comment on its own line, of which `--help` makes its text: one that stands elsewhere is lost there."""
    lines = (ROOT / f"{name}.py").read_text().splitlines()
    (args,) = [node for node in ast.parse("\n".join(lines)).body if getattr(node, "name", "") == "Args"]
    assert len(args.body) > 20
    for field in args.body:
        assert field.lineno == field.end_lineno and "  # " in lines[field.lineno - 1], lines[field.lineno - 1]


@pytest.mark.parametrize("name", TRAINED)
def test_every_number_has_its_bounds(name):
    """But for those whose every value works, or depends on others. No bound is that of a flag which is not there, and
    the defaults are within theirs."""
    script = load(name)
    numbers = {field.name for field in fields(script.Args) if type(field.default) in (int, float)}
    bounded = [*script.AT_LEAST_0, *script.AT_LEAST_1, *script.FROM_0_TO_1]
    assert len(bounded) == len(set(bounded))
    free = {"eval_steps", "temperature", "max_grad_norm"} if "online" in name else {"buffer_size", "eval_steps"}
    assert numbers - set(bounded) <= free
    args = script.Args()
    assert set(bounded) <= set(vars(args))
    if "eaudeqn" in name:
        args.num_networks = 5  # None is the method's
    script.check_args(args)


def refusal(script, args, capsys):
    """What `check_args` prints; empty if it refuses nothing."""
    try:
        script.check_args(args)
    except SystemExit as exit:
        assert exit.code == 2
    return capsys.readouterr().err


def test_bounds_are_kept(capsys):
    """Each is enforced, and its end is allowed."""
    script = load("dqn_atari_mexp")
    for flags, least, most in ((script.AT_LEAST_0, 0, None), (script.AT_LEAST_1, 1, None), (script.FROM_0_TO_1, 0, 1)):
        for flag in flags:
            for value in (least - 1, float("nan"), float("inf"), *([1.5] if most else [])):
                line = refusal(script, script.Args(**{flag: value}), capsys)
                assert line.startswith(f"error: --{flag.replace('_', '-')} {value} must be"), line
                assert (f"at least {least}" if most is None else "from 0 to 1") in line
            for value in (least, most or least):
                assert refusal(script, script.Args(**{flag: value}), capsys) == ""
