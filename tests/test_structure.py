"""The scripts are whole: no shared module, the same text for what is shared, a small diff for the layer."""

import ast
import difflib
import subprocess
import sys

import pytest
from conftest import IQN, ROOT, SCRIPTS, TRAINED, load

PAIRS = [(name, f"{name}_mexp") for name in SCRIPTS if f"{name}_mexp" in SCRIPTS]
DIFFER = {"Args", "QNetwork"}  # the layer's flag, and the layer
AGENT = {"act", "update", "quantile_huber_loss"}  # what an agent has of its own, the same in its pair


def definitions(name):
    """The source of every top-level class and function of a script."""
    source = (ROOT / f"{name}.py").read_text()
    nodes = [n for n in ast.parse(source).body if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
    lines = source.splitlines()
    return {
        n.name: "\n".join(lines[min([n.lineno, *(d.lineno for d in n.decorator_list)]) - 1 : n.end_lineno])
        for n in nodes
    }


@pytest.mark.parametrize("name", SCRIPTS)
def test_shared_definitions_are_the_same_text(name):
    for reference in (SCRIPTS[0], name.removesuffix("_mexp")):
        own = set() if reference[:3] == name[:3] else AGENT
        first, other = definitions(reference), definitions(name)
        shared = set(first) & set(other) - DIFFER - own
        assert len(shared) >= 12
        for definition in shared:
            assert first[definition] == other[definition], f"{definition} differs between {reference}.py and {name}.py"
        assert set(other) - set(first) - own <= {"MeanExpansion"} and set(first) - own <= set(other)


def test_the_layer_is_the_same_text():
    assert len({definitions(name)["MeanExpansion"] for name in TRAINED if name.endswith("_mexp")}) == 1


def test_minatar_shares_what_it_can():
    atari, minatar = definitions("dqn_atari_mexp"), definitions("minatar_mexp")
    shared = {name for name in minatar if minatar[name] == atari.get(name)}
    assert set(minatar) - shared == {"Args", "MinAtarEnvs", "ReplayBuffer", "QNetwork", "evaluate", "record_video"} | {
        "act",  # another shape in its docstring
        "update",  # whole transitions, so another index
    }
    for name in ("act", "update"):
        changes = [x for x in difflib.ndiff(atari[name].splitlines(), minatar[name].splitlines()) if x[0] in "+-"]
        assert len(changes) == {"act": 2, "update": 4}[name]


@pytest.mark.parametrize("name", TRAINED)
def test_imports_no_file_of_the_repository(name):
    own = {path.stem for path in ROOT.glob("*.py")} | {"tests"}
    for node in ast.walk(ast.parse((ROOT / f"{name}.py").read_text())):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else modules
        assert not {module.split(".")[0] for module in modules} & own
        assert not (isinstance(node, ast.ImportFrom) and node.level)


@pytest.mark.parametrize("baseline,modified", PAIRS)
def test_the_diff_is_the_layer(baseline, modified):
    old, new = [(ROOT / f"{name}.py").read_text().splitlines() for name in (baseline, modified)]
    changed = [line for line in difflib.unified_diff(old, new, n=0, lineterm="") if line[0] in "+-"][2:]
    assert len(changed) < 45
    removed = [line[1:].strip() for line in changed if line[0] == "-"]
    body = [line for line in removed if line and line[0].islower() and "(" in line]
    assert len(body) <= 4, body  # the network's signature, its layers, its call, and the docstring's usage line


@pytest.mark.parametrize("name", TRAINED)
def test_length(name):
    assert len((ROOT / f"{name}.py").read_text().splitlines()) < 600


@pytest.mark.parametrize("name", TRAINED)
def test_import_has_no_side_effects(name, tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {name}"
    result = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    errors = [line for line in result.stderr.splitlines() if "font cache" not in line]  # Matplotlib, once a machine
    assert (result.returncode, result.stdout, errors) == (0, "", [])
    assert not list(tmp_path.iterdir())


def test_defaults_are_the_papers(script):
    """Section 3 of the protocol: Machado et al. 2018 with the learning settings of Rainbow and Dopamine."""
    expected = dict(total_timesteps=50_000_000, buffer_size=1_000_000, batch_size=32, learning_starts=50_000)
    expected |= dict(train_frequency=4, target_network_frequency=10_000, gamma=0.99, start_e=1.0, end_e=0.01)
    expected |= dict(exploration_steps=1_000_000, learning_rate=6.25e-5, num_envs=1, full_action_space=True)
    expected |= dict(terminal_on_life_loss=False, eval_frequency=250_000, eval_steps=125_000, eval_envs=8)
    expected |= dict(checkpoint_frequency=1_000_000, env_id="ALE/Breakout-v5", cuda=True, buffer_device="auto")
    if script.__name__ in IQN:
        expected |= dict(learning_rate=5e-5, num_tau_samples=64, num_tau_prime_samples=64, num_quantile_samples=32)
    args = vars(script.Args())
    assert {name: args[name] for name in expected} == expected
    if hasattr(script, "MeanExpansion"):
        assert args["mean_scaling_coefficient"] is None


@pytest.mark.parametrize("baseline,modified", PAIRS)
def test_only_the_layers_script_has_its_flag(baseline, modified):
    old, new = set(vars(load(baseline).Args())), set(vars(load(modified).Args()))
    assert new - old == {"mean_scaling_coefficient"} and old < new


def test_defaults_of_minatar():
    """Section 5 of the protocol: Young & Tian 2019 and Ceron & Castro 2021."""
    expected = dict(total_timesteps=5_000_000, buffer_size=100_000, batch_size=32, learning_starts=5_000, num_envs=1)
    expected |= dict(train_frequency=4, target_network_frequency=1_000, gamma=0.99, start_e=1.0, end_e=0.01)
    expected |= dict(exploration_steps=100_000, learning_rate=2.5e-4, eval_frequency=100_000, eval_episodes=100)
    expected |= dict(env_id="MinAtar/Breakout-v1", mean_scaling_coefficient=None, num_threads=1, cuda=True)
    args = vars(load("minatar_mexp").Args())
    assert {name: args[name] for name in expected} == expected
    assert "eps=3.125e-4" in (ROOT / "minatar_mexp.py").read_text()
    atari = set(vars(load("dqn_atari_mexp").Args()))
    assert set(args) - atari == {"num_threads", "eval_episodes"}
    assert atari - set(args) == {"full_action_space", "terminal_on_life_loss", "eval_steps"}
