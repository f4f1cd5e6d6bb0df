"""IQN on Atari: the baseline of the mean-expansion layer (Nagarajan et al., ICML 2026, arXiv 2606.29806).

The protocol is that of Machado et al. 2018; the agent is that of Dabney et al. 2018, "Implicit Quantile Networks".
`iqn_atari_mexp.py` is this file with the layer; their diff shows nothing else.

Usage: python iqn_atari.py --env-id ALE/Breakout-v5
"""

import copy
import csv
import ctypes
import difflib
import glob
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn, Optional

import ale_py
import gymnasium
import imageio_ffmpeg
import numpy as np
import psutil
import torch
import torch.nn as nn
import tyro
from ale_py.vector_env import AtariVectorEnv
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass
class Args:
    exp_name: str = os.path.basename(__file__)[: -len(".py")]  # the name of this experiment
    seed: int = 1  # seed of the experiment
    torch_deterministic: bool = True  # if toggled, `torch.backends.cudnn.deterministic=True`
    cuda: bool = True  # if toggled, train on the GPU when there is one
    cuda_graphs: bool = True  # if toggled, `update` and `act` run as CUDA graphs: same results, sooner (GPU only)
    track: bool = False  # if toggled, this experiment is tracked with Weights and Biases (`pip install wandb`)
    wandb_project_name: str = "mean-expansion"  # the wandb's project name
    wandb_entity: Optional[str] = None  # the entity (team) of wandb's project
    capture_video: bool = False  # whether to film the first episode of every evaluation phase (videos/ in the run)
    save_model: bool = False  # whether to save the trained model into the run's folder
    runs_dir: str = "runs"  # the folder in which every run makes its own
    resume: bool = False  # go on with the newest run of this env, script and seed, or start afresh if there is none
    checkpoint_frequency: int = 1_000_000  # agent steps between checkpoints (7 GB with the replay full); 0 is never
    env_id: str = "ALE/Breakout-v5"  # the game; `Breakout-v5` and `BreakoutNoFrameskip-v4` name the same ROM
    num_envs: int = 1  # emulators, each in its own thread; all schedules count the agent steps of all together
    full_action_space: bool = True  # 18 actions (Machado et al. 2018), or only those that do something in the game
    terminal_on_life_loss: bool = False  # if toggled, a lost life is terminal for learning; the game itself goes on
    total_timesteps: int = 50_000_000  # agent steps of 4 frames: 200M frames (Machado et al. 2018)
    learning_rate: float = 5e-5  # of Adam (Dabney et al. 2018)
    num_tau_samples: int = 64  # N, quantiles of the online network in the loss (Dabney et al. 2018)
    num_tau_prime_samples: int = 64  # N', quantiles of the target network in the loss (Dabney et al. 2018)
    num_quantile_samples: int = 32  # K, quantiles whose mean is an action's value (Dabney et al. 2018)
    buffer_size: int = 1_000_000  # transitions in the replay memory (Mnih et al. 2015)
    buffer_device: Literal["auto", "cpu"] = "auto"  # the replay's memory: the training device's (auto) or the host's
    gamma: float = 0.99  # the discount factor (Mnih et al. 2015)
    target_network_frequency: int = 10_000  # agent steps between hard copies to the target network (Mnih et al. 2015)
    batch_size: int = 32  # transitions of one gradient step (Mnih et al. 2015)
    start_e: float = 1.0  # the starting epsilon for exploration (Mnih et al. 2015)
    end_e: float = 0.01  # the ending epsilon for exploration (Dabney et al. 2018)
    exploration_steps: int = 1_000_000  # agent steps over which epsilon falls linearly (Mnih et al. 2015)
    learning_starts: int = 50_000  # agent step at which learning starts (Mnih et al. 2015)
    train_frequency: int = 4  # agent steps for each gradient step (Mnih et al. 2015)
    eval_frequency: int = 250_000  # agent steps between evaluation phases (Mnih et al. 2015); 0 is never
    eval_steps: int = 125_000  # a phase starts episodes until it took this many agent steps (Mnih et al. 2015)
    eval_envs: int = 8  # emulators of an evaluation phase
    eval_only: Optional[str] = None  # evaluate this saved model, RUN/model.pt, for one phase instead of training


class AtariEnvs:
    """N games in C++ threads: `ale_py.AtariVectorEnv` with the protocol of Machado et al. 2018.

    One agent step is 4 frames, and each repeats the previous action with probability 0.25. Observations stack 4 steps,
    each the max of its last two frames as 84x84 grayscale; zeros before an episode's start. Episodes end at game over
    or after `max_steps` agent steps. The limit is kept here, since the emulator's own leaves the last frame out of the
    observation that a truncated transition bootstraps from. `options` goes to `AtariVectorEnv`. Raises ValueError.
    """

    def __init__(self, env_id: str, num_envs: int, all_actions=True, life_loss=False, max_steps=27_000, **options):
        gymnasium.register_envs(ale_py)
        ids = [i for i in gymnasium.registry if re.fullmatch(r"ALE/\w+-v5", i)]
        name = re.sub(r"^(ALE/)?(\w+)-v5$|^(\w+)NoFrameskip-v4$", r"ALE/\2\3-v5", env_id)
        if name not in ids:
            close = difflib.get_close_matches(name, ids, cutoff=0.5) or ["ALE/Breakout-v5"]
            raise ValueError(f"--env-id {env_id!r} is not an Atari game; try {' or '.join(close)}")
        rom = gymnasium.spec(name).kwargs["game"]
        if ale_py.roms.get_rom_path(rom) is None:
            raise ValueError(f"--env-id {env_id!r} has no ROM; `pip install --force-reinstall ale-py` brings {rom}.bin")
        protocol = dict(repeat_action_probability=0.25, noop_max=0, use_fire_reset=False, reward_clipping=False)
        protocol |= dict(max_num_frames_per_episode=2**30, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)
        protocol |= dict(num_threads=num_envs, full_action_space=all_actions)
        self.envs = AtariVectorEnv(rom, num_envs, **(protocol | options))
        self.send = self.envs.send  # takes the actions, (N,) int64, and returns at once: the emulators run meanwhile
        self.num_envs, self.num_actions = num_envs, int(self.envs.single_action_space.n)
        self.life_loss, self.max_steps = life_loss, max_steps

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Start an episode in every game, seeded by (N,) int64; returns the observations, (N, 4, 84, 84) uint8."""
        obs, info = self.envs.reset(seed=seeds)
        self.lives, self.scores, self.lengths = info["lives"], np.zeros(len(seeds), int), np.zeros(len(seeds), int)
        return obs

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Wait for the emulators. Returns, each with N rows: the next observations (uint8), of a new episode where one
        ended; unclipped rewards (int32); whether the step was terminal for learning; whether the time limit cut it;
        whether an episode begins (bool); and `score` and `length` (agent steps) of the games so far, (N,), with
        `final_frame`, (N, 84, 84) uint8: where the limit cut, the newest frame of the true successor."""
        obs, rewards, game_over, _, info = self.envs.recv()
        self.scores, self.lengths = self.scores + rewards, self.lengths + 1
        truncated = (self.lengths >= self.max_steps) & ~game_over
        terminated = game_over | ((info["lives"] < self.lives) & self.life_loss)
        first = game_over | truncated
        extra = dict(final_frame=obs[:, -1], score=self.scores, length=self.lengths)
        if truncated.any():
            obs, info = self.envs.reset(options={"reset_mask": truncated})
        self.lives, self.scores, self.lengths = info["lives"], self.scores * ~first, self.lengths * ~first
        return obs, rewards, terminated, truncated, first, extra


class ReplayBuffer:
    """Uniform replay of the last `capacity` transitions, one 84x84 uint8 frame each, preallocated on `device`.

    A slot holds an observation's newest frame and the action, reward and termination that followed; slot i belongs to
    environment i % num_envs, whose slots form a ring. Stacks are rebuilt when sampling. A ring has 4 more slots than
    transitions: the newest observation and the oldest transition's history. A truncated episode's final observation
    takes a slot too. Raises MemoryError, with the bytes needed and there.
    """

    def __init__(self, capacity: int, num_envs: int, device: torch.device):
        self.num_envs, self.device, self.length = num_envs, device, math.ceil(capacity / num_envs) + 4
        self.size = self.length * num_envs
        needed = (self.size + 1) * 84 * 84
        free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else psutil.virtual_memory().available
        try:
            if needed > 0.95 * free:
                raise MemoryError
            # The last frame stays zero: a stack's padding. Filling makes the system hand out every page now.
            self.frames = torch.empty((self.size + 1, 84, 84), dtype=torch.uint8, device=device).fill_(0)
        except (MemoryError, RuntimeError) as error:
            hint = f"try --buffer-size {int(0.8 * min(free, needed)) // 7056}"
            hint += " or --buffer-device cpu" if device.type != "cpu" else ""
            raise MemoryError(f"--buffer-size {capacity} needs {needed:,} bytes, {free:,} are free; {hint}") from error
        self.actions, self.rewards = np.zeros(self.size, np.uint8), np.zeros(self.size, np.float32)
        self.age = np.zeros(self.size, np.uint8)  # how many of the 3 frames before are of the same episode
        self.terminated, self.valid = np.zeros(self.size, bool), np.zeros(self.size, bool)  # valid: may be sampled
        self.written = np.zeros(num_envs, np.int64)  # slots ever written

    def append(self, envs: np.ndarray, frames: np.ndarray, first: np.ndarray, actions: np.ndarray) -> None:
        """Store the newest frames of `envs`, (M, 84, 84) uint8, whether they begin an episode, (M,) bool, and the
        actions taken, (M,) int64. Completes the transitions that led to the frames."""
        slots = self.written[envs] % self.length * self.num_envs + envs
        previous = slots - self.num_envs  # negative at the ring's end, where NumPy wraps around too
        self.written[envs] += 1
        self.actions[slots], self.age[slots] = actions, np.where(first, 0, np.minimum(self.age[previous] + 1, 3))
        self.valid[slots], self.valid[previous[~first]] = False, True
        steps = np.arange(1, 4)  # the oldest transitions lose what they had of their history in this slot
        oldest = (slots[:, None] + steps * self.num_envs) % self.size
        self.valid[oldest] &= self.age[oldest] < steps
        self.frames.index_copy_(0, to_device(slots, self.device), to_device(frames, self.device))

    def complete(self, rewards: np.ndarray, terminated: np.ndarray) -> None:
        """Store what followed the newest actions of all environments: rewards for learning and terminations, (N,)."""
        slots = (self.written - 1) % self.length * self.num_envs + np.arange(self.num_envs)
        self.rewards[slots], self.terminated[slots], self.valid[slots] = rewards, terminated, terminated

    def truncate(self, ended: np.ndarray, final_frames: np.ndarray) -> None:
        """End the episodes where `ended`, (N,) bool; `final_frames`, (N, 84, 84) uint8, is what was last observed."""
        self.append(np.flatnonzero(ended), final_frames[ended], np.zeros(ended.sum(), bool), 0)

    def sample(self, batch_size: int, rng: np.random.Generator, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Draw transitions uniformly. Returns on `device`: frames (B, 5, 84, 84) uint8, the first four of which are the
        observation and the last four its successor, actions (B,) int64, rewards and terminated (B,) float32."""
        index = rng.integers(self.filled(), size=batch_size)
        while not (valid := self.valid[index]).all():
            index[~valid] = rng.integers(self.filled(), size=np.count_nonzero(~valid))
        slots = (index[:, None] + np.arange(-3, 2) * self.num_envs) % self.size
        slots[:, :3][self.age[index][:, None] < [3, 2, 1]] = self.size
        slots[self.terminated[index], 4] = self.size
        frames = self.frames.index_select(0, to_device(slots.ravel(), self.device)).view(-1, 5, 84, 84)
        frames = frames if self.device.type == device.type else to_device(frames.numpy(), device)
        arrays = self.actions[index].astype(np.int64), self.rewards[index], self.terminated[index].astype(np.float32)
        return frames, *(to_device(array, device) for array in arrays)

    def filled(self) -> int:
        """The number of slots, from the first, among which all transitions lie."""
        return min(int(self.written.max()), self.length) * self.num_envs

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The filled slots; on the CPU the tensors share the buffer's memory."""
        arrays = {name: array for name, array in vars(self).items() if isinstance(array, np.ndarray)}
        arrays["frames"] = self.frames[: self.filled()].cpu().numpy()
        return {name: torch.from_numpy(array[: self.filled()]) for name, array in arrays.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put the filled slots back."""
        for name, tensor in state.items():
            torch.as_tensor(vars(self)[name])[: len(tensor)] = tensor


class QNetwork(nn.Module):
    """The network of Dabney et al. 2018: observations (B, 4, 84, 84) uint8 and quantile fractions (B, N) float32 in
    [0, 1) to the return's quantiles for every action, (B, N, n) float32. The torso runs once for all fractions."""

    def __init__(self, num_actions: int):
        super().__init__()
        convs = nn.Conv2d(4, 32, 8, stride=4), nn.Conv2d(32, 64, 4, stride=2), nn.Conv2d(64, 64, 3, stride=1)
        self.torso = nn.Sequential(*[module for conv in convs for module in (conv, nn.ReLU())], nn.Flatten())
        self.embedding = nn.Sequential(nn.Linear(64, 3136), nn.ReLU())
        head = [nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, num_actions)]
        self.head = nn.Sequential(*head)
        self.register_buffer("frequencies", math.pi * torch.arange(1, 65), persistent=False)

    def forward(self, obs: torch.Tensor, taus: torch.Tensor) -> torch.Tensor:
        cosines = torch.cos(taus[:, :, None] * self.frequencies)
        return self.head(self.torso(obs.float() / 255)[:, None] * self.embedding(cosines))


def linear_schedule(start_e: float, end_e: float, duration: int, t: int) -> float:
    """Epsilon at agent step `t`: linear from `start_e` to `end_e` over `duration` steps, then constant."""
    return start_e + (end_e - start_e) * min(t / duration, 1.0)


def crossings(step: int, num_envs: int, frequency: int) -> int:
    """How many multiples of `frequency` lie in the last `num_envs` agent steps up to `step`; none if it is 0."""
    return step // frequency - max(step - num_envs, 0) // frequency if frequency else 0


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A tensor of `array`, for CUDA copied from pinned memory, which waits for nothing."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@torch.no_grad()
def act(q_network: nn.Module, num_quantile_samples: int, obs: torch.Tensor) -> torch.Tensor:
    """The action-values that choose actions, means over K fresh fractions: (B, 4, 84, 84) uint8 to (B, n) float32."""
    return q_network(obs, torch.rand(len(obs), num_quantile_samples, device=obs.device)).mean(1)


def quantile_huber_loss(quantiles: torch.Tensor, taus: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Dabney et al. 2018, equation 3, kappa = 1: mean over the batch and the `targets`, (B, N'), of the sum over the
    predicted `quantiles`, (B, N), at the fractions `taus`, (B, N). Of shape ()."""
    errors = targets[:, None, :] - quantiles[:, :, None]  # (B, N, N')
    huber = torch.where(errors.abs() <= 1, 0.5 * errors.square(), errors.abs() - 0.5)
    return ((taus[:, :, None] - (errors < 0).float()).abs() * huber).mean(2).sum(1).mean()


def update(q_network, target_network, optimizer, args: Args, frames, actions, rewards, terminated):
    """One gradient step on a batch of `ReplayBuffer.sample`. Returns the loss and the mean Q(s, a), each of shape ().

    The target network chooses the greedy action, by K fractions of its own; all but terminal transitions bootstrap.
    """
    with torch.no_grad():
        next_count = args.num_quantile_samples + args.num_tau_prime_samples
        next_taus = torch.rand(len(frames), next_count, device=frames.device)
        next_quantiles = target_network(frames[:, 1:], next_taus)
        greedy = next_quantiles[:, : args.num_quantile_samples].mean(1).argmax(1)
        next_values = next_quantiles[:, args.num_quantile_samples :].take_along_dim(greedy[:, None, None], 2).squeeze(2)
        td_target = rewards[:, None] + args.gamma * (1 - terminated[:, None]) * next_values
    taus = torch.rand(len(frames), args.num_tau_samples, device=frames.device)
    old_val = q_network(frames[:, :4], taus).take_along_dim(actions[:, None, None], 2).squeeze(2)
    loss = quantile_huber_loss(old_val, taus, td_target)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach(), old_val.detach().mean()


def capture(function, optimizer: Optional[torch.optim.Optimizer] = None):
    """`function` as a CUDA graph, captured at its first call; a call overwrites the outputs of the one before.

    The warm-up calls are undone: the `optimizer`'s weights and moments, if `function` steps one, and the generator.
    """
    graph, inputs, outputs = torch.cuda.CUDAGraph(), None, None

    def changed() -> list[torch.Tensor]:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]] if optimizer else []
        return weights + [tensor for weight in weights for tensor in optimizer.state[weight].values()]

    def call(*new_inputs: torch.Tensor):
        nonlocal inputs, outputs
        if inputs is None:
            inputs = [tensor.clone() for tensor in new_inputs]
            before, generator = [tensor.detach().clone() for tensor in changed()], torch.cuda.get_rng_state()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    function(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                outputs = function(*inputs)
            for tensor, value in zip(changed(), before + 99 * [torch.tensor(0.0)], strict=False):  # new moments are 0
                tensor.data.copy_(value)
            torch.cuda.set_rng_state(generator)
        for tensor, new in zip(inputs, new_inputs, strict=True):
            tensor.copy_(new)
        graph.replay()
        return outputs

    return call


def evaluate(envs: AtariEnvs, q_values, args: Args, step: int) -> tuple[dict[str, float], np.ndarray, list[int]]:
    """A phase at epsilon 0.001 (Dabney et al. 2018); `q_values` maps (N, 4, 84, 84) uint8 arrays to values (N, n).

    Episodes start while fewer than `--eval-steps` agent steps were taken; all are finished and counted. Returns the
    metrics over all their steps, and the seed and actions of the first game's first episode, to film it.
    """
    rng = np.random.default_rng((args.seed, step))  # of its own: evaluating leaves the training as it is
    seeds = rng.integers(2**31, size=envs.num_envs)
    obs, games, active = envs.reset(seeds), np.arange(envs.num_envs), np.ones(envs.num_envs, bool)
    weight, sums, totals = np.zeros(len(games)), np.zeros((4, len(games))), np.zeros(4)
    taken, scores, film, filming = 0, [], [], True
    while active.any():
        q = q_values(obs)
        actions = np.where(rng.random(len(q)) < 0.001, rng.integers(q.shape[1], size=len(q)), q.argmax(1))
        envs.send(actions)
        film += [actions[0]] if filming else []
        second, best = np.partition(q, -2, axis=1)[:, -2:].T
        obs, rewards, _, _, ended, extra = envs.recv()
        weight = 1 + args.gamma * weight  # the reward at t counts in G_t, G_{t-1}, ... with 1, gamma, ...
        sums += np.stack([q[games, actions], np.sign(rewards) * weight, best - second, np.ones(len(q))])
        taken += np.count_nonzero(active)
        totals += sums[:, ended & active].sum(1)
        scores += extra["score"][ended & active].tolist()
        sums[:, ended], weight[ended], filming = 0, 0, filming and not ended[0]
        active &= ~ended | (taken < args.eval_steps)
    mean_q, mean_return, action_gap = (totals[:3] / totals[3]).tolist()
    metrics = {"episodes": len(scores), "score_mean": np.mean(scores).item(), "score_median": np.median(scores).item()}
    metrics |= {"score_std": np.std(scores).item(), "mean_q": mean_q, "mean_discounted_return": mean_return}
    return metrics | {"overestimation": mean_q - mean_return, "action_gap": action_gap}, seeds[:1], film


def record_video(path: Path, args: Args, seeds: np.ndarray, actions: np.ndarray) -> None:
    """Film an episode in colour by playing it again: the emulator is deterministic given its seed and the actions."""
    colour = {"grayscale": False, "img_height": 210, "img_width": 160, "stack_num": 1}
    envs = AtariEnvs(args.env_id, 1, args.full_action_space, **colour)
    path.parent.mkdir(exist_ok=True)
    zoom = ["-vf", "scale=320:420:flags=neighbor"]
    video = imageio_ffmpeg.write_frames(str(path), (160, 210), fps=15, macro_block_size=1, output_params=zoom)
    video.send(None)
    video.send(envs.reset(seeds).tobytes())
    for action in actions[:-1]:  # the last one ends the episode
        envs.send(np.array([action]))
        video.send(envs.recv()[-1]["final_frame"].tobytes())
    video.close()


def fail(message: object) -> NoReturn:
    """End the program over a user's mistake: one line on stderr, exit code 2."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


def check_args(args: Args) -> None:
    """Refuse values that cannot work."""
    bounds = dict.fromkeys(("seed", "eval_frequency", "checkpoint_frequency"), (0, math.inf))
    bounds |= {"gamma": (0, 1), "start_e": (0, 1), "end_e": (0, 1), "learning_rate": (1e-12, 1e3)}
    bounds |= {"learning_starts": (args.batch_size, args.buffer_size), "buffer_size": (8 * args.num_envs, math.inf)}
    for field in fields(args):
        value, (least, most) = getattr(args, field.name), bounds.get(field.name, (1, math.inf))
        if field.type in (int, float) and not least <= value <= most:
            fail(f"--{field.name.replace('_', '-')} {value} must be at least {least} and at most {most}")
    if args.track and importlib.util.find_spec("wandb") is None:
        fail("--track needs the package wandb; `pip install wandb` brings it")


def load_model(path: Path, args: Args, q_network: nn.Module) -> None:
    """Load a saved model; refuses another architecture and, by the run's `config.json` beside it, another k."""
    try:
        q_network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        config = path.with_name("config.json")
        trained = json.loads(config.read_text())["args"] if config.exists() else vars(args)
    except Exception as error:  # torch raises whatever a file that is no model leads to
        fail(f"--eval-only {path} is no model of this script and these flags: {error}")
    k = 0 if path.name == "model_folded.pt" else trained.get("mean_scaling_coefficient", 0)
    if k != vars(args).get("mean_scaling_coefficient", 0):
        fail(f"--eval-only {path} has k = {k:g}; use the _mexp script with that k, or the baseline and model_folded.pt")


def open_run(args: Args, device_name: str, packages: tuple[str, ...]) -> tuple[Path, Optional[dict]]:
    """A new run's folder with its `config.json`, or the folder to resume and the state in its checkpoint. Ends the
    program if that run has finished or had other arguments, or if its checkpoint is damaged."""
    prefix = os.path.join(args.runs_dir, f"{args.env_id}__{args.exp_name}__{args.seed}__")
    times = [int(t) for path in glob.glob(glob.escape(prefix) + "*") if (t := path.removeprefix(prefix)).isdecimal()]
    run_dir = Path(f"{prefix}{max(times, default=0)}")
    if args.resume and any('"finished": true' in config.read_text() for config in run_dir.glob("config.json")):
        print(f"--resume: {run_dir} has finished, nothing is left to do")
        (run_dir / "checkpoint.pt").unlink(missing_ok=True)  # if it was killed between its last two lines
        raise SystemExit
    if args.resume and (path := run_dir / "checkpoint.pt").exists():
        try:
            if damaged := zipfile.ZipFile(path).testzip():
                raise ValueError(f"wrong checksum of {damaged}")
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # zipfile and torch raise whatever a damaged file leads to
            fail(f"--resume: {path} is damaged ({error}); delete it, or start a new run without --resume")
        free = ("resume", "runs_dir", "track", "wandb_project_name", "wandb_entity")  # these change no result
        old = {name: state["args"].get(name) for name in vars(args) if name not in free}
        if differ := [f"--{name.replace('_', '-')} {old[name]}" for name in old if old[name] != getattr(args, name)]:
            fail(f"--resume: {run_dir} ran with {' '.join(differ)}; repeat that, or start a new run without --resume")
        print(f"--resume: {run_dir} goes on from step {state['global_step']:,}")
        return run_dir, state
    if args.resume:
        print(f"--resume: no checkpoint of {args.env_id}, {args.exp_name}, seed {args.seed} yet; starting afresh")
    git = subprocess.run("git rev-parse HEAD", shell=True, cwd=Path(__file__).parent, capture_output=True, text=True)
    versions = {"python": sys.version} | {name: importlib.metadata.version(name) for name in packages}
    config = {"args": vars(args), "finished": False, "git_commit": git.stdout.strip() or None, "device": device_name}
    run_dir = Path(f"{prefix}{max([int(time.time()), *(t + 1 for t in times)])}")
    try:
        run_dir.mkdir(parents=True)
        (run_dir / "config.json").write_text(json.dumps(config | {"packages": versions}, indent=2))
    except OSError as error:
        if isinstance(error, FileExistsError) and run_dir.is_dir():  # another run of this second was first
            return open_run(args, device_name, packages)
        fail(f"--runs-dir {args.runs_dir} cannot be written to ({error.strerror}); name a folder that can")
    return run_dir, None


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    check_args(args)
    device = torch.device("cuda" if torch.cuda.is_available() and args.cuda else "cpu")
    device_name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU (no CUDA GPU found, or --no-cuda)"
    sys.stdout.reconfigure(line_buffering=True)
    print("device:", device_name)
    if sys.platform == "linux":  # malloc keeps freed memory; to fault it in anew takes a fifth of an update's time
        ctypes.CDLL(None).mallopt(-1, 2**30), ctypes.CDLL(None).mallopt(-3, 2**25)  # M_TRIM_ and M_MMAP_THRESHOLD
    # TRY NOT TO MODIFY: seeding
    torch.manual_seed(args.seed)
    torch.backends.cudnn.deterministic = args.torch_deterministic
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else "highest")  # TF32 on a GPU
    rng = np.random.default_rng(args.seed)

    # ENV, BUFFER AND NETWORK SETUP
    try:
        envs = AtariEnvs(args.env_id, args.num_envs, args.full_action_space, args.terminal_on_life_loss)
        q_network = QNetwork(envs.num_actions)
        buffer_device = device if args.buffer_device == "auto" else torch.device(args.buffer_device)
        buffer = None if args.eval_only else ReplayBuffer(args.buffer_size, args.num_envs, buffer_device)
    except (ValueError, MemoryError) as error:
        fail(error)
    q_network.to(device, memory_format=torch.channels_last)  # with the fused Adam the fastest on a CPU
    target_network = copy.deepcopy(q_network).requires_grad_(False)
    adam = dict(lr=args.learning_rate, eps=0.01 / 32, fused=True, capturable=device.type == "cuda")  # Dabney et al.
    optimizer = torch.optim.Adam(q_network.parameters(), **adam)
    train_act = eval_act = partial(act, q_network, args.num_quantile_samples)
    learn = partial(update, q_network, target_network, optimizer, args)
    if device.type == "cuda" and args.cuda_graphs:
        train_act, eval_act, learn = capture(train_act), capture(eval_act), capture(learn, optimizer)

    def evaluation_phase(step: int, folder: Path) -> dict[str, float]:
        games = AtariEnvs(args.env_id, args.eval_envs, args.full_action_space)
        with torch.random.fork_rng([0] if device.type == "cuda" else []):  # evaluating leaves the training as it is
            metrics, *episode = evaluate(games, lambda obs: eval_act(to_device(obs, device)).cpu().numpy(), args, step)
        tqdm.write(f"step {step:,}: " + ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()))
        if args.capture_video:
            record_video(folder / "videos" / f"step_{step}.mp4", args, *episode)
        return metrics

    if args.eval_only:
        load_model(Path(args.eval_only), args, q_network)
        evaluation_phase(0, Path(args.eval_only).parent)
        raise SystemExit

    # RUN SETUP: a new run, or the one that --resume goes on with
    run_dir, state = open_run(args, device_name, ("torch", "numpy", "ale-py", "gymnasium"))
    stateful = {"q_network": q_network, "target_network": target_network, "optimizer": optimizer, "buffer": buffer}
    global_step, last_update, start_time = 0, None, time.time()
    if state:
        global_step, last_update = state["global_step"], state["last_update"]
        start_time -= state["wall_time"]
        for name, thing in stateful.items():
            thing.load_state_dict(state[name] if name == "buffer" else copy.deepcopy(state[name]))
        rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch_rng"])
        if device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"])
        for log in run_dir.glob("ev*"):  # eval.csv and TensorBoard's events go back to where they were
            os.truncate(log, state["logs"][log.name]) if log.name in state["logs"] else log.unlink()
    if args.track:
        options = dict(id=run_dir.name, resume="allow", sync_tensorboard=True, save_code=True, config=vars(args))
        importlib.import_module("wandb").init(project=args.wandb_project_name, entity=args.wandb_entity, **options)
    writer = SummaryWriter(str(run_dir))

    # TRY NOT TO MODIFY: start the game
    obs, first = envs.reset(rng.integers(2**31, size=args.num_envs)), np.ones(args.num_envs, bool)
    progress = tqdm(total=args.total_timesteps, initial=global_step, unit="step", mininterval=1, dynamic_ncols=True)
    while global_step < args.total_timesteps:
        # ALGO LOGIC: put action logic here
        epsilon = linear_schedule(args.start_e, args.end_e, args.exploration_steps, global_step)
        actions, explore = rng.integers(envs.num_actions, size=args.num_envs), rng.random(args.num_envs) < epsilon
        if not explore.all():
            actions = np.where(explore, actions, train_act(to_device(obs, device)).cpu().numpy().argmax(1))
        envs.send(actions)
        # While the emulators run: store the observations acted on, log, and learn from the transitions before
        buffer.append(np.arange(args.num_envs), obs[:, -1], first, actions)
        if crossings(global_step, args.num_envs, 1_000):
            writer.add_scalar("charts/epsilon", epsilon, global_step)
            writer.add_scalar("charts/SPS", global_step / (time.time() - start_time), global_step)
            for tag, value in zip(("losses/td_loss", "losses/q_values"), last_update or (), strict=False):
                writer.add_scalar(tag, float(value), global_step)

        # ALGO LOGIC: training
        if global_step >= args.learning_starts:
            for _ in range(crossings(global_step, args.num_envs, args.train_frequency)):
                last_update = learn(*buffer.sample(args.batch_size, rng, device))
            if crossings(global_step, args.num_envs, args.target_network_frequency):
                target_network.load_state_dict(q_network.state_dict())

        # TRY NOT TO MODIFY: what the games answered
        obs, rewards, terminated, truncated, first, extra = envs.recv()
        global_step += args.num_envs
        buffer.complete(np.sign(rewards), terminated)
        if truncated.any():
            buffer.truncate(truncated, extra["final_frame"])
        for score, length in zip(extra["score"][first], extra["length"][first], strict=True):
            writer.add_scalar("charts/episodic_return", score, global_step)
            writer.add_scalar("charts/episodic_length", length, global_step)
            progress.set_postfix(score=score, refresh=False)
        progress.update(args.num_envs)
        if crossings(global_step, args.num_envs, args.eval_frequency):
            metrics = evaluation_phase(global_step, run_dir)
            for name, value in metrics.items():
                writer.add_scalar("eval/" + name.replace("score_mean", "episodic_return"), value, global_step)
            row = {"step": global_step} | metrics | {"wall_time": round(time.time() - start_time, 1)}
            with open(run_dir / "eval.csv", "a", newline="") as file:
                table = csv.DictWriter(file, row)
                table.writeheader() if file.tell() == 0 else None
                table.writerow(row)
        if crossings(global_step, args.num_envs, args.checkpoint_frequency) and global_step < args.total_timesteps:
            # The emulators' state cannot be saved: all games start anew, in a run that goes on as in one that resumes
            buffer.truncate(~first, obs[:, -1])
            writer.flush()
            state = {name: thing.state_dict() for name, thing in stateful.items()}
            state |= {"args": vars(args), "global_step": global_step, "wall_time": time.time() - start_time}
            state |= {"rng": rng.bit_generator.state, "torch_rng": torch.get_rng_state()}
            state |= {"cuda_rng": torch.cuda.get_rng_state() if device.type == "cuda" else None}
            state |= {"last_update": last_update and [float(value) for value in last_update]}
            state |= {"logs": {log.name: log.stat().st_size for log in run_dir.glob("ev*")}}
            try:
                with open(run_dir / "checkpoint.tmp", "wb") as file:
                    torch.save(state, file)
                    os.fsync(file.fileno())
                (run_dir / "checkpoint.tmp").replace(run_dir / "checkpoint.pt")
            except (OSError, RuntimeError) as error:  # torch.save makes a RuntimeError of a full disk
                (run_dir / "checkpoint.tmp").unlink(missing_ok=True)
                tqdm.write(f"warning: no checkpoint at step {global_step:,}, the one before is kept: {error!r}")
            obs, first = envs.reset(rng.integers(2**31, size=args.num_envs)), np.ones(args.num_envs, bool)

    if args.save_model:
        torch.save(q_network.state_dict(), run_dir / "model.pt")
    config = (run_dir / "config.json").read_text().replace('"finished": false', '"finished": true')
    (run_dir / "config.tmp").write_text(config)
    (run_dir / "config.tmp").replace(run_dir / "config.json")
    for checkpoint in run_dir.glob("checkpoint.*"):
        checkpoint.unlink()
    progress.close(), writer.close()
