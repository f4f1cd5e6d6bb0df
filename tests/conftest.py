"""What the tests share: the scripts as modules, and a way to run them as a user does."""

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import copies
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks are slower on many threads

ROOT = Path(__file__).resolve().parent.parent
DQN, IQN = ["dqn_atari", "dqn_atari_mexp"], ["iqn_atari", "iqn_atari_mexp"]
SCRIPTS = DQN + IQN
GAMES_OF = {path.removesuffix(".py"): own[0] for path, own in copies.SCRIPTS.items() if own}
TRAINED = list(GAMES_OF)  # every script that trains a network
RELATED = [name for name in TRAINED if name.startswith("related/")]
TINY = "--num-envs 1 --batch-size 8 --learning-starts 64 --buffer-size 400 --eval-frequency 0 --checkpoint-frequency 0"


def load(name: str):
    """The script as a module, by its path without `.py`; importing it must have no side effects."""
    stem = Path(name).name
    if stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(stem, ROOT / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[stem] = module
        spec.loader.exec_module(module)
    return sys.modules[stem]


@pytest.fixture(params=SCRIPTS)
def script(request):
    return load(request.param)


def make_network(script, num_actions: int, k: float = 2.0):
    """The script's QNetwork; `k` goes only to those that have the layer."""
    return script.QNetwork(num_actions, k) if hasattr(script, "MeanExpansion") else script.QNetwork(num_actions)


def bind(script, network, target, optimizer, **flags):
    """The script's `update` of a batch's five tensors, and its `action_values`, as the main block binds them."""
    args = script.Args(**flags)

    def learn(*batch):
        return script.update(network, target, optimizer, args, script.Batch(*batch))

    if script.__name__ in IQN:
        return learn, partial(script.action_values, network, args.num_quantile_samples)
    return learn, partial(script.action_values, network)


def accepted(name: str, flags: str) -> str:
    """Those of the flags, each with a value, that the script has."""
    words = flags.split()
    pairs = zip(words[::2], words[1::2], strict=True)
    known = vars(load(name).Args())
    return " ".join(f"{flag} {value}" for flag, value in pairs if flag.removeprefix("--").replace("-", "_") in known)


def command(name: str, *flags: str, cuda: bool = False) -> list[str]:
    """A script's command line; on the CPU, where runs repeat bit for bit, unless `cuda`."""
    device = [] if cuda or name not in TRAINED else ["--no-cuda"]
    return [sys.executable, str(ROOT / f"{name}.py"), *" ".join(flags).split(), *device]


def run(name: str, *flags: str, cwd, check: bool = True, cuda: bool = False, **kwargs) -> subprocess.CompletedProcess:
    """Run a script in `cwd` until it ends; flags are split at spaces."""
    result = subprocess.run(
        command(name, *flags, cuda=cuda), cwd=cwd, capture_output=True, text=True, timeout=240, **kwargs
    )
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


def run_folders(cwd) -> list[Path]:
    """The folders of all runs below `cwd`, oldest first."""
    return sorted((path.parent for path in Path(cwd).rglob("config.json")), key=lambda path: path.name)
