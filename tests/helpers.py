"""What the tests share: the scripts as modules, ways to run them as a user does, what runs leave, networks and batches.

Fixtures are in conftest.py. Tests import from here, never from one another.
"""

import contextlib
import copy
import csv
import gc
import importlib.util
import inspect
import io
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from unittest import mock

import copies
import numpy as np
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
DQN, IQN = ["dqn_atari", "dqn_atari_mexp"], ["iqn_atari", "iqn_atari_mexp"]
SCRIPTS = DQN + IQN
GAMES_OF = {path.removesuffix(".py"): own[0] for path, own in copies.SCRIPTS.items() if own}
TRAINED = list(GAMES_OF)  # every script that trains a network
RELATED = [name for name in TRAINED if name.startswith("related/")]
CPU = torch.device("cpu")

# FLAGS. An evaluation of random actions is short: an untrained network may play one Breakout game for 27,000 steps
TINY = "--num-envs 1 --batch-size 8 --learning-starts 64 --buffer-size 400 --eval-frequency 0 --checkpoint-frequency 0"
ATARI_FLAGS = (
    "--env-id ALE/Breakout-v5 --batch-size 8 --learning-starts 100 --buffer-size 450 --exploration-steps 600 "
    "--train-frequency 8 --target-network-frequency 150 --eval-frequency 250 --eval-steps 1 --eval-envs 1 "
    "--eval-epsilon 1 --checkpoint-frequency 200 --save-model"
)
MINATAR_FLAGS = (
    "--batch-size 8 --learning-starts 64 --buffer-size 400 --train-frequency 16 --eval-envs 4 --eval-episodes 6 "
    "--eval-epsilon 1"
)
FEW_QUANTILES = "--num-tau-samples 8 --num-tau-prime-samples 7 --num-quantile-samples 4"
COLUMNS = (
    "step,episodes,score_mean,score_median,score_std,mean_q,mean_discounted_return,overestimation,action_gap,q_norm,"
    "wall_time"
)


# SCRIPTS AS MODULES


def load(name: str):
    """The script as a module, by its path without `.py`; importing it must have no side effects."""
    stem = Path(name).name
    if stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(stem, ROOT / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[stem] = module
        spec.loader.exec_module(module)
    return sys.modules[stem]


def fork(path, *changes, name="dqn_atari_mexp"):
    """A copy of a script at `path` with every (old, new) replaced; returns what `run_here` and `load` call it."""
    text = (ROOT / f"{name}.py").read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        text = text.replace(old, new)
    path.write_text(text)
    return str(path.with_suffix(""))


def games_of(script) -> str:
    """The games that a script plays, a fork's too: Atari, MinAtar or Gym."""
    return next(games for games in ("MinAtar", "Atari", "Gym") if hasattr(script, f"{games}Envs"))


def accepted(name: str, flags: str) -> str:
    """Those of the flags, each with a value, that the script has."""
    words = flags.split()
    pairs = zip(words[::2], words[1::2], strict=True)
    known = vars(load(name).Args())
    return " ".join(f"{flag} {value}" for flag, value in pairs if flag.removeprefix("--").replace("-", "_") in known)


# NETWORKS, BATCHES, UPDATES


def make_network(script, num_actions: int = 6, k: float = 2.0, **sizes):
    """The script's QNetwork. `k` goes only to those that have the layer, `sizes` (rdq, num_heads, layer_norm, width)
    only to those that have them; MinAtar's have 4 channels, Gymnasium's 8 observations, scaled by 0.1."""
    sizes = dict(num_channels=4, obs_size=8, obs_scale=0.1, mean_scaling_coefficient=k, temperature=0.05) | sizes
    known = inspect.signature(script.QNetwork.__init__).parameters
    return script.QNetwork(num_actions=num_actions, **{name: size for name, size in sizes.items() if name in known})


def networks(script, num_actions: int = 6, k: float = 2.0, **sizes):
    """A network, and a target network with other weights."""
    torch.manual_seed(1)
    network = make_network(script, num_actions, k, **sizes)
    target = copy.deepcopy(network)
    for parameter in target.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    return network, target.requires_grad_(False)


class Chosen:
    """Stands for the generator of `ReplayBuffer.sample`, which then draws these slots."""

    def __init__(self, slots):
        self.slots = slots

    def integers(self, high, size):
        return self.slots


def batch_of(script, num_actions: int = 6):
    """16 transitions, some of them terminal. Atari's are the buffer's own: within an episode, at its terminal step, and
    truncated; a truncated one's successor is the final frame, not the next episode's first."""
    rng = np.random.default_rng(0)
    if games_of(script) != "Atari":
        if games_of(script) == "MinAtar":
            obs = torch.from_numpy(rng.random((2, 16, 10, 10, 4)) < 0.2)
            rewards = rng.integers(4, size=16)
        else:
            obs = torch.from_numpy(5 * rng.normal(size=(2, 16, 8))).float()
            rewards = rng.normal(size=16)
        return script.Batch(
            obs=obs[0],
            actions=torch.arange(16) % num_actions,
            rewards=torch.from_numpy(rewards).float(),
            next_obs=obs[1],
            terminated=torch.arange(16).remainder(4).eq(1).float(),
        )
    buffer = script.ReplayBuffer(30, 1, CPU)
    frames = rng.integers(0, 256, size=(40, 1, 84, 84), dtype=np.uint8)
    done, truncations = np.ones(1, bool), []
    for t in range(30):
        buffer.append(np.arange(1), frames[t], done, rng.integers(num_actions, size=1))
        slot = int(buffer.written[0] - 1) % buffer.length
        terminated, truncated = np.array([t % 10 == 4]), np.array([t % 10 == 8])
        buffer.complete(np.array([[-1.0, 0.0, 1.0][t % 3]]), terminated)
        if truncated[0]:
            buffer.truncate(truncated, frames[30 + t // 10])
            truncations.append(slot)
        done = terminated | truncated
    slots = np.arange(buffer.size)
    chosen = slots[buffer.valid(slots)][-16:]
    batch = buffer.sample(16, Chosen(chosen), CPU)
    truncated = np.isin(chosen, truncations)
    assert batch.terminated.any() and truncated.any() and not batch.terminated[truncated].any()
    for b in np.flatnonzero(truncated):
        assert any(np.array_equal(batch.next_obs[b, 3], frames[30 + i, 0]) for i in range(3))
    return batch


def doubles(network) -> dict[str, torch.Tensor]:
    """The network's weights in float64, to compute by hand with."""
    return {name: value.double().clone() for name, value in network.state_dict().items()}


def features_by_hand(script, weights, obs, layers="network"):
    """What goes into the last layer, in float64, from the weights of the `nn.Sequential` of that name."""
    x = obs.double()
    strides = []
    if games_of(script) == "Atari":
        x, strides = x / 255, [4, 2, 1]
    elif games_of(script) == "MinAtar":
        x, strides = x.permute(0, 3, 1, 2), [1]
    else:
        x = x / 10
    for name in [name for name in weights if name.startswith(f"{layers}.") and name.endswith(".weight")]:
        weight, bias = weights[name], weights[name.replace(".weight", ".bias")]
        if weight.ndim == 4:
            x = F.relu(F.conv2d(x, weight, bias, stride=strides.pop(0)))
        else:
            x = F.relu(F.linear(x.flatten(1), weight, bias))
    return x


def values_by_hand(script, weights, obs, k: float):
    """The network of `network` and `output` in float64, from its weights; the layer as a product with M_k."""
    z = F.linear(features_by_hand(script, weights, obs), weights["output.weight"], weights["output.bias"])
    n = z.shape[1]
    return z @ (torch.eye(n) + k / n).double().T


def td_loss_by_hand(batch, q, q_next, gamma: float):
    """The loss of `update`, summed over the batch, and the TD errors, (B,), one transition at a time."""
    errors = []
    for b in range(len(batch.actions)):
        bootstrap = 0.0 if batch.terminated[b] else gamma * max(q_next[b].tolist())
        errors.append(float(batch.rewards[b]) + bootstrap - q[b, batch.actions[b]])
    return sum(0.5 * error**2 for error in errors), torch.stack(errors)


def assert_adams_first_step(network, weights, lr: float, eps: float):
    """The network is one step of Adam away from `weights`, which have their gradients."""
    for name, parameter in network.named_parameters():
        gradient = weights[name].grad
        expected = weights[name].detach() - lr * gradient / (gradient.abs() + eps)
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-4, atol=2e-6)


def bind(script, network, target, optimizer, **flags):
    """The script's `update` of a minibatch's tensors, and its `action_values`, as the main block binds them."""
    args = script.Args(**flags)

    def learn(*batch):
        (outputs,) = script.update_minibatches(network, target, optimizer, args, *batch)
        return outputs

    between = list(inspect.signature(script.action_values).parameters)[1:-1]
    return learn, partial(script.action_values, network, *(getattr(args, name) for name in between))


# EVALUATIONS BY HAND


class ScriptedEnvs:
    """Games with given episodes: a list of reward lists for each; the observation is the step's number. They can be
    sent actions and received from, or stepped in one call."""

    def __init__(self, episodes):
        self.games, self.num_envs, self.num_actions = episodes, len(episodes), 3
        self.actions = []

    def reset(self, seeds):
        assert seeds.shape == (self.num_envs,)
        self.episode, self.t = [0] * self.num_envs, [0] * self.num_envs
        self.scores = np.zeros(self.num_envs, int)
        return self.observe()

    def observe(self):
        return np.array([[self.episode[i], self.t[i]] for i in range(self.num_envs)])

    def send(self, actions):
        self.actions.append(actions)

    def recv(self):
        episodes = [self.games[i][self.episode[i] % len(self.games[i])] for i in range(self.num_envs)]
        rewards = np.array([episodes[i][self.t[i]] for i in range(self.num_envs)])
        self.t = [t + 1 for t in self.t]
        done = np.array([self.t[i] == len(episodes[i]) for i in range(self.num_envs)])
        self.scores = self.scores + rewards
        info = {"score": self.scores, "length": np.array(self.t)}
        self.scores = self.scores * ~done
        self.episode = [e + bool(x) for e, x in zip(self.episode, done, strict=True)]
        self.t = [0 if x else t for t, x in zip(self.t, done, strict=True)]
        return self.observe(), rewards, done, done & False, done, info

    def step(self, actions):
        self.send(actions)
        return self.recv()


def evaluate_on(script, envs, values, args, step=0):
    """The script's `evaluate` on these games instead of its own; `values` maps NumPy observations to NumPy values."""

    def tensor_values(obs):
        return torch.as_tensor(np.asarray(values(obs.numpy())))

    with mock.patch.object(script, "make_envs", lambda args, num_envs: envs):
        return script.evaluate(tensor_values, args, step, CPU)


# Three episodes' rewards, and values by which action 1 is best: it is worth 10 e + t in step t of episode e
A, B, C = [0, 7, -3, 0], [5, 0, 0, 0, 0, 0, 0, 2, 1, 1], [-1, 100]


def scripted_values(obs):
    best = 10.0 * obs[:, 0] + obs[:, 1]
    return np.stack([best - 20.0, best, best - 0.5 - obs[:, 1]], axis=1).astype(np.float32)


def metrics_by_hand(episodes, gamma, clip):
    """Metrics of (number, rewards) episodes by the definitions, with a backward sum for every return; `clip` makes the
    reward for learning."""
    q, returns, gaps, norms = [], [], [], []
    for e, rewards in episodes:
        for t in range(len(rewards)):
            q.append(10.0 * e + t)
            gaps.append(0.5 + t)
            values = scripted_values(np.array([[e, t]]))[0].astype(float)
            norms.append(sum(value**2 for value in values) ** 0.5)
            returns.append(sum(gamma**i * clip(r) for i, r in enumerate(rewards[t:])))
    scores = [sum(rewards) for _, rewards in episodes]
    return {
        "episodes": len(scores),
        "score_mean": np.mean(scores),
        "score_median": np.median(scores),
        "score_std": np.std(scores),
        "mean_q": np.mean(q),
        "mean_discounted_return": np.mean(returns),
        "overestimation": np.mean(q) - np.mean(returns),
        "action_gap": np.mean(gaps),
        "q_norm": np.mean(norms),
    }


# RUNNING SCRIPTS


def command(name: str, *flags: str, cuda: bool = False) -> list[str]:
    """A script's command line; on the CPU, where runs repeat bit for bit, unless `cuda`. Flags are split at spaces."""
    device = [] if cuda or name not in TRAINED else ["--no-cuda"]
    return [sys.executable, str(ROOT / f"{name}.py"), *" ".join(flags).split(), *device]


def run(name: str, *flags: str, cwd, check: bool = True, cuda: bool = False, **kwargs) -> subprocess.CompletedProcess:
    """Run a script in `cwd`, in a process of its own, until it ends."""
    kwargs = dict(capture_output=True, text=True, timeout=600) | kwargs
    result = subprocess.run(command(name, *flags, cuda=cuda), cwd=cwd, **kwargs)
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


class Stopped(BaseException):
    """Ends a run as a signal does: the script can neither catch it nor tidy up."""


@contextlib.contextmanager
def stopping(step, stop):
    """Here a run calls `stop` once it has taken `step` agent steps, with all that it has logged on the disk."""
    update = tqdm.update
    add_scalar = SummaryWriter.add_scalar

    def update_and_stop(progress, n=1):
        update(progress, n)
        if progress.n >= step:
            stop()

    def add_scalar_and_flush(writer, *args):
        add_scalar(writer, *args)
        writer.flush()

    with mock.patch.object(tqdm, "update", update_and_stop):
        with mock.patch.object(SummaryWriter, "add_scalar", add_scalar_and_flush):
            yield


def run_here(name, *flags, cwd, check=True, stop_at=None):
    """As `run`, but in this process, which need not import everything once more. With `stop_at` the run ends at that
    agent step, and its return code is that of a killed one."""

    def stop():
        raise Stopped

    stdout = io.TextIOWrapper(io.BytesIO(), write_through=True)
    stderr = io.StringIO()
    argv = command(name, *flags)[1:]
    threads = torch.get_num_threads()
    code = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(cwd))
        stack.enter_context(mock.patch.object(sys, "argv", argv))
        stack.enter_context(contextlib.redirect_stdout(stdout))
        stack.enter_context(contextlib.redirect_stderr(stderr))
        if stop_at is not None:
            stack.enter_context(stopping(stop_at, stop))
        try:
            runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except Stopped:
            code = -signal.SIGKILL
    torch.set_num_threads(threads)
    gc.collect()  # what a process leaves to its end: the run's lock
    result = subprocess.CompletedProcess(argv, code, stdout.buffer.getvalue().decode(), stderr.getvalue())
    if stop_at is not None and check:
        assert code == -signal.SIGKILL, "the run ended before the step at which it was to be stopped"
    elif check:
        assert code == 0, result.stderr[-3000:]
    return result


def run_until_killed():
    """What a process of `kill_at` does: runs the script of its arguments, and kills itself at the step before them."""
    step = int(sys.argv[1])
    del sys.argv[:2]
    with stopping(step, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        runpy.run_path(sys.argv[0], run_name="__main__")


def kill_at(step, name, *flags, cwd, cuda=False, **variables):
    """Run a script in a process of its own, with `variables` in its environment, which a SIGKILL ends at agent step
    `step`."""
    program = "import helpers; helpers.run_until_killed()"
    result = subprocess.run(
        [sys.executable, "-c", program, str(step), *command(name, *flags, cuda=cuda)[1:]],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"} | variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr[-3000:]
    return result


def new_folders(tmp_path, *names):
    folders = [tmp_path / name for name in names]
    for folder in folders:
        folder.mkdir()
    return folders


def stopped_and_resumed(name, flags, tmp_path, stop_at):
    """A run that is stopped and resumed in this process; returns the folder of a whole one and that of this one."""
    whole, stopped, resumed = new_folders(tmp_path, "whole", "stopped", "resumed")
    run_here(name, flags, cwd=whole)
    run_here(name, flags, cwd=stopped, stop_at=stop_at)
    shutil.copytree(stopped, resumed, dirs_exist_ok=True)  # a stopped run's writer may still hold its files
    result = run_here(name, flags, "--resume", cwd=resumed)
    assert "goes on from step" in result.stdout
    return run_folders(whole)[0], run_folders(resumed)[0]


def killed_and_resumed(name, flags, tmp_path):
    """A run that is killed at three random moments and resumed each time against one that was let alone."""
    whole, killed = new_folders(tmp_path, "whole", "killed")
    started = time.monotonic()
    run(name, flags, cwd=whole)
    duration = time.monotonic() - started

    moments = [random.uniform(0.15, 0.95) * duration for _ in range(3)]
    print("killed after", moments, "of", duration, "seconds")  # shown when the test fails
    for moment in moments:
        with open(tmp_path / "log", "a") as log:
            process = subprocess.Popen(command(name, flags, "--resume"), cwd=killed, stderr=log, stdout=log)
            try:
                process.wait(timeout=moment)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
    run(name, flags, "--resume", cwd=killed)
    (whole_folder,) = run_folders(whole)
    assert_same_run(whole_folder, run_folders(killed)[-1])


def checkpointed_run(tmp_path, name="dqn_atari_mexp", flags=f"{TINY} --env-id ALE/Pong-v5"):
    """A run that was stopped after its first checkpoint, at step 100; returns its flags and folder."""
    flags = f"{flags} --checkpoint-frequency 100 --total-timesteps 100000000"
    run_here(name, flags, cwd=tmp_path, stop_at=101)
    (folder,) = run_folders(tmp_path)
    return flags, folder


def put(path, content):
    """Another file in its place: the one that is there may still be mapped into this process, which a change kills."""
    new = path.with_name("new")
    if isinstance(content, bytes):
        new.write_bytes(content)
    else:
        torch.save(content, new)
    new.replace(path)


def files(cwd) -> dict:
    return {path: path.read_bytes() for path in cwd.rglob("*") if path.is_file()}


def refused(name, *flags, cwd, runner=run_here, **kwargs):
    """Run a script that must refuse, in this process unless told otherwise; returns its one line of error."""
    before = files(cwd)
    if runner is run_here:
        kwargs["stop_at"] = 1  # what is accepted does not run on
    result = runner(name, *flags, cwd=cwd, check=False, **kwargs)
    assert result.returncode == 2, (result.returncode, result.stdout, result.stderr[-2000:])
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: --"), result.stderr
    assert before == files(cwd), "something was written"
    return lines[0]


# WHAT RUNS LEAVE


def run_folders(cwd) -> list[Path]:
    """The folders of all runs below `cwd`, oldest first."""
    return sorted((path.parent for path in Path(cwd).rglob("config.json")), key=lambda path: path.name)


def evaluations(folder) -> list[dict[str, str]]:
    """The rows of eval.csv, without the time."""
    with open(folder / "eval.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name != "wall_time"} for row in csv.DictReader(file)]


def scalars(folder):
    """Every (tag, step, value) that TensorBoard shows of the run, in order and once, but for the speed: where a run
    went on, what was logged beyond that step before is hidden."""

    def age(path):  # names end in the second, host, process and the process's count of writers
        words = path.name.split(".")
        return int(words[3]), int(words[-1])

    values = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=age):
        for event in EventFileLoader(str(path)).Load():
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                values = [value for value in values if value[1] < event.step]
            for value in event.summary.value:
                if value.tag != "charts/SPS":
                    values.append((value.tag, event.step, value.tensor.float_val[0]))
    return list(dict.fromkeys(values))


def assert_same_weights(folder, other):
    models = [torch.load(f / "model.pt", weights_only=True) for f in (folder, other)]
    assert list(models[0]) == list(models[1])
    for name in models[0]:
        assert torch.equal(models[0][name], models[1][name]), name


def assert_same_run(folder, other):
    assert_same_weights(folder, other)
    assert len(evaluations(folder)) > 0
    assert evaluations(folder) == evaluations(other)
    assert len(scalars(folder)) >= 8
    assert scalars(folder) == scalars(other)
    assert not (other / "checkpoint.pt").exists()
    assert not list(other.glob("*.tmp"))
