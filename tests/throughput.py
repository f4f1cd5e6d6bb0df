"""How fast a script is, part by part, and how much of that its training loop keeps.

Measures the emulator, `action_values` and `update` alone and the real training loop (the script itself, as a
subprocess, with epsilon 0.01 so that every step needs the network). The loop's efficiency is the time that its parts
must take, update and emulator overlapping as they may, over the time that the loop takes. With MinAtar and Gymnasium,
whose games are stepped in Python, nothing overlaps; there a bare loop of the three parts, which drive each other out of
the caches, is what they must take. Of IQN the update of DQN is measured too; of a script that stacks networks that of
the script that it is a copy of, and of a stack of one.
All rounds alternate between the parts, the loop of the script and that of its baseline (or of k = 0), and
medians are printed, because machines are noisy.

With `--host` it measures what the loop of an Atari script that trains on a GPU costs Python a step of all environments,
and needs none: the emulators answer at once, networks and graphs do nothing, frames on the device have one pixel.
`--against` names another checkout to alternate with.

Usage: python tests/throughput.py --script dqn_atari_mexp.py --num-envs 1 --device cpu
       python tests/throughput.py --script dqn_atari_mexp.py --num-envs 16 --host --against ../older
"""

import ast
import copy
import ctypes
import importlib.util
import inspect
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Literal, Optional
from unittest import mock

import numpy as np
import psutil
import torch
import torch.nn as nn
import tyro
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Args:
    script: str = "dqn_atari_mexp.py"  # the script to measure
    num_envs: int = 1  # emulators
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto takes the GPU if there is one
    env_id: Optional[str] = None  # the game; the script's default if None
    buffer_size: int = 100_000  # transitions; the paper's 1,000,000 if the memory is there
    rounds: int = 3  # repetitions, of which the median counts
    seconds: float = 15.0  # time to measure a loop in each round
    host: bool = False  # measure only what a step of all environments costs Python, with stand-ins for the rest
    against: Optional[Path] = None  # with --host: another checkout, whose script is measured too


def rate(function, seconds: float, device: torch.device) -> float:
    """Calls a second, after a warm-up, with the GPU's work done."""
    for _ in range(5):
        function()
    calls = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(5):
            function()
        calls += 5
    if device.type == "cuda":
        torch.cuda.synchronize()
    return calls / (time.perf_counter() - start)


def load(path: str):
    """A script as a module."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    script = importlib.util.module_from_spec(spec)
    sys.modules[name] = script
    spec.loader.exec_module(script)
    return script


class Parts:
    """The script's parts, bound as its main block binds them, with a replay that random actions have filled."""

    def __init__(self, args: Args, device: torch.device):
        script = load(args.script)
        if not hasattr(script, "ReplayBuffer"):
            raise SystemExit(f"--script {args.script} has no replay, whose parts are measured here")
        self.device = device
        self.due = script.due
        self.defaults = script.Args()
        self.num_envs = args.num_envs
        self.steps = 0
        self.in_turn = not hasattr(script, "AtariEnvs")  # the games are stepped in Python
        self.rng = np.random.default_rng(0)
        args.env_id = args.env_id or self.defaults.env_id
        iqn = hasattr(script, "quantile_huber_loss")
        torch.set_float32_matmul_precision("high" if iqn and device.type == "cuda" else "highest")
        if self.in_turn:
            torch.set_num_threads(self.defaults.num_threads)
        elif device.type == "cuda":
            torch.set_num_threads(1)  # as the scripts do
        self.defaults.env_id = args.env_id
        self.envs = script.make_envs(self.defaults, args.num_envs)
        if hasattr(script, "MeanExpansion"):
            self.defaults.mean_scaling_coefficient = float(self.envs.num_actions)
        if hasattr(script, "GymEnvs"):
            per_slot = self.envs.obs_size
        elif self.in_turn:
            per_slot = self.envs.obs_shape
        else:
            per_slot = args.num_envs
        self.buffer = script.ReplayBuffer(10_000, per_slot, device)
        memory_format = torch.preserve_format if self.in_turn else torch.channels_last
        shared_heads = hasattr(script, "online_heads")
        if shared_heads:
            self.defaults.eval_head = "random"

        def bind(script, count: int = 1) -> tuple:
            """`update` of a batch's tensors and `action_values`, of `count` networks where the script stacks them."""
            network = script.make_network(self.defaults, self.envs).to(device, memory_format=memory_format)
            target = network if shared_heads else copy.deepcopy(network).requires_grad_(False)
            parameters = network.parameters()
            if hasattr(script, "QNetworks"):
                networks = [script.make_network(self.defaults, self.envs).to(device) for _ in range(count)]
                network = script.QNetworks(networks)
                parameters = network.parameters.values()
            if hasattr(script, "RMSprop"):
                optimizer = script.RMSprop(
                    parameters,
                    lr=self.defaults.learning_rate,
                    alpha=self.defaults.rmsprop_alpha,
                    eps=self.defaults.rmsprop_eps,
                )
            else:
                optimizer = torch.optim.Adam(
                    parameters,
                    lr=self.defaults.learning_rate,
                    eps=self.defaults.adam_eps,
                    fused=True,
                    capturable=device.type == "cuda",
                )

            def learn(*batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return script.update(network, target, optimizer, self.defaults, script.Batch(*batch))

            flags = list(inspect.signature(script.action_values).parameters)[1:-1]
            action_values = partial(script.action_values, network, *(getattr(self.defaults, flag) for flag in flags))
            if device.type == "cuda":
                learn = script.capture(learn, optimizer)
                action_values = script.capture(action_values)
            return learn, action_values

        self.others = {}  # updates to compare with
        if iqn or hasattr(script, "QNetworks"):
            base = load("minatar_mexp.py" if self.in_turn else "dqn_atari_mexp.py")
            self.others["base"], _ = bind(base)
        if hasattr(script, "QNetworks"):
            self.others["one"], _ = bind(script)
        learn, action_values = bind(script, 5 if hasattr(script, "QNetworks") else 1)
        self.learn = learn
        self.values = action_values
        self.to_device = script.to_device

        self.obs = self.envs.reset(np.arange(args.num_envs))
        self.done = np.ones(args.num_envs, bool)
        for _ in range(1000 // args.num_envs + 100):
            self.fill()

    def random_actions(self) -> np.ndarray:
        return self.rng.integers(self.envs.num_actions, size=self.num_envs)

    def fill(self) -> None:
        """One step of all environments, into the replay."""
        actions = self.random_actions()
        if self.in_turn:
            obs, rewards, terminated, _, _, info = self.envs.step(actions)
            self.buffer.append(self.obs, info["final_obs"], actions, rewards, terminated)
            self.obs = obs
            return
        self.envs.send(actions)
        self.buffer.append(np.arange(self.num_envs), self.obs[:, -1], self.done, actions)
        self.obs, rewards, terminated, truncated, self.done, info = self.envs.recv()
        self.buffer.complete(np.sign(rewards), terminated)
        if truncated.any():
            self.buffer.truncate(truncated, info["newest_frame"])

    def emulate(self) -> None:
        actions = self.random_actions()
        if self.in_turn:
            self.obs, *_ = self.envs.step(actions)
            return
        self.envs.send(actions)
        self.obs, *_ = self.envs.recv()

    def act(self) -> np.ndarray:
        return self.values(self.to_device(self.obs, self.device)).cpu().numpy().argmax(-1)

    def update(self, other: Optional[str] = None) -> None:
        learn = self.others[other] if other else self.learn
        learn(*self.buffer.sample(self.defaults.batch_size, self.rng, self.device))

    def bare(self) -> None:
        """One step of the bare loop: all environments, and the updates that are due."""
        self.act()
        self.emulate()
        self.steps += self.num_envs
        for _ in range(self.due(self.steps, self.num_envs, self.defaults.train_frequency)):
            self.update()

    def rates(self, seconds: float) -> dict[str, float]:
        """Calls a second of every part."""
        parts = {"emulate": self.emulate, "act": self.act, "update": self.update}
        if self.in_turn:
            parts["bare"] = self.bare
        for other in self.others:
            parts[f"update_{other}"] = partial(self.update, other)
        return {name: rate(part, seconds, self.device) for name, part in parts.items()}


def vector_step_time(rates: dict[str, float], num_envs: int, train_frequency: int) -> float:
    """Seconds that a step of all environments must take: act and emulate follow each other, updates run beside."""
    if "bare" in rates:
        return 1 / rates["bare"]
    emulate, act, update = (1 / rates[name] for name in ("emulate", "act", "update"))
    updates = num_envs / train_frequency
    if updates >= 1:
        return act + max(emulate, updates * update)
    return act + (1 - updates) * emulate + updates * max(emulate, update)


def memory_used(process: psutil.Process, device: torch.device) -> int:
    """Bytes: of the GPU as a whole, or resident in the process."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        return total - free
    return process.memory_info().rss


def loop(args: Args, script: str, device: torch.device, expected: float, *extra: str) -> tuple[float, int, int]:
    """Runs the script; returns its agent steps a second, its peak memory, and how much that grew while it learned."""
    starts = 2_000  # the script logs every 1,000 steps; where those take long, one such interval has to do
    steps = starts + 1_001 + args.num_envs + 1_000 * int(expected * args.seconds / 1_000)
    flags = f"--env-id {args.env_id} --num-envs {args.num_envs} --total-timesteps {steps} --learning-starts {starts} "
    flags += f"--buffer-size {args.buffer_size} --start-e 0.01 --end-e 0.01 --eval-frequency 0 --checkpoint-frequency 0"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / script), *flags.split(), *extra, "--runs-dir", folder]
        if device.type != "cuda":
            command.append("--no-cuda")
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            watched = psutil.Process(process.pid)
            used = []
            while process.poll() is None:
                try:
                    used.append((time.time(), memory_used(watched, device)))
                except psutil.Error:
                    break
                time.sleep(0.1)
            error = process.stderr.read().decode()
        if process.returncode:
            raise SystemExit(f"{script} failed:\n{error}")
        events = [event for path in Path(folder).rglob("events.*") for event in EventFileLoader(str(path)).Load()]
    marks = [
        (event.step, event.wall_time) for event in events if any(v.tag == "charts/SPS" for v in event.summary.value)
    ]
    marks = [mark for mark in marks if mark[0] >= starts][-1 - max(1, int(expected * args.seconds / 1_000)) :]
    (first_step, first_time), (last_step, last_time) = marks[0], marks[-1]
    settled = first_time + 0.2 * (last_time - first_time)  # the first update allocates its activations
    learning = [memory for when, memory in used if settled <= when <= last_time]
    return (last_step - first_step) / (last_time - first_time), max(learning), learning[-1] - learning[0]


class StandInEmulators:
    """In place of `AtariVectorEnv`: answers with the first step of real emulators, and notes the thread's time."""

    def __init__(self, envs, times: list[float]):
        self.single_action_space = envs.single_action_space
        self.times = times
        self.first = envs.reset(seed=np.arange(envs.num_envs))
        self.answer = envs.step(np.zeros(envs.num_envs, np.int64))

    def reset(self, **_):
        return self.first

    def send(self, actions: np.ndarray) -> None:
        pass

    def recv(self):
        self.times.append(time.thread_time())
        return self.answer


class StandInNetwork(nn.Module):
    def __init__(self, *_):
        super().__init__()
        self.output = nn.Linear(1, 1)

    def to(self, *_, **__):
        return self


def host_time(path: Path, num_envs: int, steps: int = 5_000) -> float:
    """Seconds of the thread's time a step of all environments in the main block of the script at `path`."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value == 84:
            node.value = 1
    *definitions, main_block = tree.body
    module = sys.modules["host"] = ModuleType("host")  # dataclasses look their module up
    module.__file__ = str(path)
    exec(compile(ast.Module(definitions, []), path, "exec"), vars(module))

    cpu = torch.device("cpu")
    times = []
    q, zero, td_errors = torch.zeros(num_envs, 18), torch.zeros(()), torch.zeros(32)
    real_emulators = module.AtariVectorEnv

    class Buffer(module.ReplayBuffer):
        def __init__(self, capacity, num_envs, device):
            super().__init__(capacity, num_envs, cpu)

        def sample(self, batch_size, rng, device):
            return super().sample(batch_size, rng, cpu)

    def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array)).clone()  # as `pin_memory` copies
        return tensor[..., :1, :1] if array.shape[-2:] == (84, 84) else tensor

    module.AtariVectorEnv = lambda *args, **options: StandInEmulators(real_emulators(*args, **options), times)
    module.QNetwork, module.ReplayBuffer, module.to_device = StandInNetwork, Buffer, to_device
    module.action_values, module.update = lambda *_: q, lambda *_: (zero, zero, td_errors)
    module.__name__ = "__main__"
    graph = SimpleNamespace(replay=lambda: None, wait_stream=lambda _: None)  # or a stream
    cuda = {
        "is_available": lambda: True,
        "get_device_name": lambda: "a stand-in",
        "Stream": lambda: graph,
        "CUDAGraph": lambda: graph,
        "current_stream": lambda: graph,
        "stream": lambda _: nullcontext(),
        "graph": lambda _: nullcontext(),
        "set_sync_debug_mode": lambda _: None,  # older commits
    }
    flags = (
        f"--env-id ALE/Breakout-v5 --num-envs {num_envs} --total-timesteps {(steps + 500) * num_envs} --start-e 0.01 "
    )
    flags += f"--end-e 0.01 --learning-starts {100 * num_envs} --buffer-size 100000 --eval-frequency 0 "
    flags += "--checkpoint-frequency 0"
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as null:
        silent = mock.patch.multiple("sys", argv=[path, *flags.split(), "--runs-dir", folder], stdout=null, stderr=null)
        with silent, mock.patch.multiple("torch.cuda", **cuda):
            exec(compile(ast.Module([main_block], []), path, "exec"), vars(module))
    return (times[-1] - times[-1 - steps]) / steps


def compare_host_times(args: Args) -> None:
    """Prints the medians of `--rounds`, alternating between the checkouts."""
    checkouts = [ROOT] + ([args.against] if args.against else [])
    rounds = [[host_time(folder / args.script, args.num_envs) for folder in checkouts] for _ in range(args.rounds)]
    print(f"{args.script}, {args.num_envs} environment(s), thread time a step of all, median of {args.rounds} rounds")
    for folder, times in zip(checkouts, zip(*rounds, strict=True), strict=True):
        print(f"{1e6 * statistics.median(times):.0f} us in {folder.resolve()}")
    if args.against:
        print(f"ratio {statistics.median(ours / theirs for ours, theirs in rounds):.2f}")


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    if args.host:
        compare_host_times(args)
        return
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu and args.device != "cpu" else "cpu")
    if args.device == "cuda" and not has_gpu:
        raise SystemExit("--device cuda: no CUDA GPU was found")
    if sys.platform == "linux":  # as the scripts do
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD
    baseline = args.script.replace("_mexp", "")
    plain = []
    parts = Parts(args, device)
    if not (ROOT / baseline).exists():
        baseline = args.script
        plain = ["--mean-scaling-coefficient", "0"]
    rounds = []
    loops = []
    base = []
    train_frequency = parts.defaults.train_frequency
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds} ...", file=sys.stderr, flush=True)
        rounds.append(parts.rates(args.seconds / 5))
        expected = args.num_envs / vector_step_time(rounds[-1], args.num_envs, train_frequency)
        loops.append(loop(args, args.script, device, expected))
        same = baseline == args.script and not plain
        base.append(loops[-1] if same else loop(args, baseline, device, expected, *plain))
        rounds.append(parts.rates(args.seconds / 5))

    rates = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    steps = statistics.median(speed for speed, _, _ in loops)
    must = vector_step_time(rates, args.num_envs, train_frequency)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"\n{args.script}, {args.num_envs} environment(s), {name}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, medians of {args.rounds} rounds\n")
    print("| part | steps/s | |\n| --- | ---: | --- |")
    print(f"| emulator alone | {rates['emulate'] * args.num_envs:,.0f} | agent steps |")
    print(f"| `action_values` alone | {rates['act'] * args.num_envs:,.0f} | agent steps |")
    print(f"| `update` alone | {rates['update']:,.1f} | gradient steps of {parts.defaults.batch_size} |")
    names = {"one": "a stack of one network", "base": "the base script"}
    for other in parts.others:
        speed = rates[f"update_{other}"]
        ratio = statistics.median(r[f"update_{other}"] / r["update"] for r in rounds)
        print(f"| `update` of {names[other]} | {speed:,.1f} | gradient steps; {ratio:.2f} times as many a second |")
    if parts.in_turn:
        print(f"| bare loop of the three | {rates['bare'] * args.num_envs:,.0f} | agent steps |")
    print(f"| full loop | {steps:,.1f} | agent steps |")
    print(f"| loop / emulator alone | {steps / rates['emulate'] / args.num_envs:.2f} | |")
    print(f"| loop efficiency | {must / (args.num_envs / steps):.2f} | time its parts must take / its time |")
    if baseline != args.script or plain:
        ratio = statistics.median(a[0] / b[0] for a, b in zip(loops, base, strict=True))
        print(f"| loop / loop of {' '.join([baseline, *plain])} | {ratio:.2f} | median of the rounds' ratios |")
    peak = max(memory for _, memory, _ in loops) / 2**20
    growth = max(more for _, _, more in loops) / 2**20
    print(f"| peak memory | {peak:,.0f} MiB | {growth:+.1f} MiB while learning; replay of {args.buffer_size:,} |")


if __name__ == "__main__":
    main()
