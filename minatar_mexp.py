"""DQN on the five MinAtar games with the mean-expansion layer: IB-DQN(k) of Nagarajan, Daley, White & Machado (ICML
2026, 2606.29806). `--mean-scaling-coefficient 0` is plain DQN.

Network and hyperparameters are those of Ceron & Castro 2021, "Revisiting Rainbow"; sticky actions (0.1) and difficulty
ramping are the game package's defaults (Young & Tian 2019). Rewards are not clipped.
This is `dqn_atari_mexp.py` with other games, a smaller network, and a replay that keeps whole transitions.

Usage: python minatar_mexp.py --env-id MinAtar/Breakout-v1
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
import pickle
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn, Optional

import gymnasium
import imageio_ffmpeg
import minatar.gym
import numpy as np
import psutil
import seaborn
import torch
import torch.nn as nn
import tyro
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
    checkpoint_frequency: int = 250_000  # agent steps between checkpoints (at most 200 MB); 0 is never
    env_id: str = "MinAtar/Breakout-v1"  # the game, or just its name; v1 has its minimal action set, v0 all 6 actions
    num_envs: int = 1  # games, stepped one after the other; all schedules count the agent steps of all together
    num_threads: int = 1  # CPU threads of PyTorch; more make a network this small slower
    total_timesteps: int = 5_000_000  # agent steps, of one frame each (Young & Tian 2019)
    learning_rate: float = 2.5e-4  # of Adam (Ceron & Castro 2021)
    mean_scaling_coefficient: Optional[float] = None  # k of the layer; the number of actions if None; 0 is plain DQN
    buffer_size: int = 100_000  # transitions in the replay memory (Young & Tian 2019)
    buffer_device: Literal["auto", "cpu"] = "auto"  # the replay's memory: the training device's (auto) or the host's
    gamma: float = 0.99  # the discount factor (Mnih et al. 2015)
    target_network_frequency: int = 1_000  # agent steps between hard copies to the target network (Young & Tian 2019)
    batch_size: int = 32  # transitions of one gradient step (Mnih et al. 2015)
    start_e: float = 1.0  # the starting epsilon for exploration (Mnih et al. 2015)
    end_e: float = 0.01  # the ending epsilon for exploration (Ceron & Castro 2021)
    exploration_steps: int = 100_000  # agent steps over which epsilon falls linearly (Young & Tian 2019)
    learning_starts: int = 5_000  # agent step at which learning starts (Young & Tian 2019)
    train_frequency: int = 4  # agent steps for each gradient step (Ceron & Castro 2021)
    eval_frequency: int = 100_000  # agent steps between evaluation phases; 0 is never
    eval_episodes: int = 100  # episodes of an evaluation phase
    eval_envs: int = 20  # games that an evaluation phase plays at a time
    eval_only: Optional[str] = None  # evaluate this saved model, RUN/model.pt, for one phase instead of training


class MinAtarEnvs:
    """N games of the package MinAtar (Young & Tian 2019), stepped one after the other.

    With probability 0.1 a game repeats its previous action, and most games get harder with time: the package's
    defaults. Observations are (10, 10, C) bool, one channel for each kind of object. Episodes end at game over or after
    `max_steps` agent steps. `env_id` is the game's name or its gymnasium id. Raises ValueError for another.
    """

    def __init__(self, env_id: str, num_envs: int, max_steps: int = 27_000):
        if "MinAtar/Breakout-v1" not in gymnasium.registry:
            minatar.gym.register_envs()
        specs = [spec for spec in gymnasium.registry.values() if spec.namespace == "MinAtar"]
        names = {spec.id: spec for spec in specs}
        names |= {name: spec for spec in specs if spec.version == 1 for name in (spec.name, spec.kwargs["game"])}
        if env_id not in names:
            close = difflib.get_close_matches(env_id, names, n=1) or [spec.id for spec in specs if spec.version == 1]
            raise ValueError(f"--env-id {env_id!r} is not a MinAtar game; try {' or '.join(close)}")
        self.env_id, game = names[env_id].id, names[env_id].kwargs
        self.games = [minatar.Environment(game["game"]) for _ in range(num_envs)]
        actions = self.games[0].minimal_action_set() if game["use_minimal_action_set"] else range(6)
        self.action_set = list(actions)  # the package's actions; an agent's action is an index of this list
        self.num_envs, self.num_actions, self.max_steps = num_envs, len(self.action_set), max_steps
        self.obs_shape = tuple(self.games[0].state_shape())

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Start an episode in every game, seeded by (N,) int64; returns the observations, (N, 10, 10, C) bool."""
        for game, seed in zip(self.games, seeds, strict=True):
            game.seed(int(seed))
            game.reset()
        self.scores, self.lengths = np.zeros(len(seeds), int), np.zeros(len(seeds), int)
        return np.stack([game.state() for game in self.games])

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Take the actions, (N,) int64. Returns, each with N rows: the next observations (bool), of a new episode where
        one ended; rewards (int64); whether the game was over; whether the time limit cut it; whether an episode begins
        (bool); and `score` and `length` (agent steps) of the games so far, (N,), with `final_obs`, (N, 10, 10, C) bool:
        the true successors, also where an episode ended."""
        results = [game.act(self.action_set[a]) for game, a in zip(self.games, actions, strict=True)]
        rewards, terminated = np.array([r for r, _ in results]), np.array([over for _, over in results])
        self.scores, self.lengths = self.scores + rewards, self.lengths + 1
        truncated = (self.lengths >= self.max_steps) & ~terminated
        first = terminated | truncated
        obs = final_obs = np.stack([game.state() for game in self.games])
        extra = dict(final_obs=final_obs, score=self.scores, length=self.lengths)
        if first.any():
            for i in np.flatnonzero(first):
                self.games[i].reset()
            obs = np.stack([game.state() for game in self.games])
            self.scores, self.lengths = self.scores * ~first, self.lengths * ~first
        return obs, rewards, terminated, truncated, first, extra


class ReplayBuffer:
    """Uniform replay of the last `capacity` transitions, preallocated on `device`: row i of `frames` is transition i's
    observation and its successor. Raises MemoryError, with the bytes needed and there.
    """

    def __init__(self, capacity: int, obs_shape: tuple[int, ...], device: torch.device):
        self.device, self.size = device, capacity
        needed = capacity * 2 * math.prod(obs_shape)
        free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else psutil.virtual_memory().available
        try:
            if needed > 0.95 * free:
                raise MemoryError
            # Filling makes the system hand out every page now
            self.frames = torch.empty((capacity, 2, *obs_shape), dtype=torch.bool, device=device).fill_(False)
        except (MemoryError, RuntimeError) as error:
            hint = f"try --buffer-size {int(0.8 * min(free, needed)) // (2 * math.prod(obs_shape))}"
            hint += " or --buffer-device cpu" if device.type != "cpu" else ""
            raise MemoryError(f"--buffer-size {capacity} needs {needed:,} bytes, {free:,} are free; {hint}") from error
        self.actions, self.rewards = np.zeros(capacity, np.uint8), np.zeros(capacity, np.float32)
        self.terminated = np.zeros(capacity, bool)
        self.written = np.zeros(1, np.int64)  # transitions ever written

    def append(self, obs, final_obs, actions, rewards, terminated) -> None:
        """Store N transitions: observations and their successors, (N, 10, 10, C) bool, the actions, rewards and whether
        the successor is terminal, (N,). A truncated episode's successor is no terminal one."""
        slots = (self.written + np.arange(len(actions))) % self.size
        self.actions[slots], self.rewards[slots], self.terminated[slots] = actions, rewards, terminated
        pairs = to_device(np.stack((obs, final_obs), 1), self.device)
        self.frames.index_copy_(0, to_device(slots, self.device), pairs)
        self.written += len(actions)

    def sample(self, batch_size: int, rng: np.random.Generator, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Draw transitions uniformly. Returns on `device`: frames (B, 2, 10, 10, C) bool, the observation and its
        successor, actions (B,) int64, rewards and terminated (B,) float32."""
        index = rng.integers(self.filled(), size=batch_size)
        frames = self.frames.index_select(0, to_device(index, self.device))
        frames = frames if self.device.type == device.type else to_device(frames.numpy(), device)
        arrays = self.actions[index].astype(np.int64), self.rewards[index], self.terminated[index].astype(np.float32)
        return frames, *(to_device(array, device) for array in arrays)

    def filled(self) -> int:
        """The number of transitions kept, which are the first rows."""
        return min(int(self.written[0]), self.size)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The filled slots; on the CPU the tensors share the buffer's memory."""
        arrays = {name: array for name, array in vars(self).items() if isinstance(array, np.ndarray)}
        arrays["frames"] = self.frames[: self.filled()].cpu().numpy()
        return {name: torch.from_numpy(array[: self.filled()]) for name, array in arrays.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put the filled slots back."""
        for name, tensor in state.items():
            torch.as_tensor(vars(self)[name])[: len(tensor)] = tensor


class MeanExpansion(nn.Module):
    """q = z + k * mean(z): shares value across the actions of a state (arXiv 2606.29806); no parameters.

    Maps (..., n) to (..., n) of the same dtype. Differences between actions stay, and so does the greedy action, but
    gradients are shared: dL/dz = (I + k/n 11^T) dL/dq. k = 0 is the identity. Raises ValueError for k < 0 or infinite.
    """

    def __init__(self, k: float):
        super().__init__()
        if not 0 <= k < math.inf:
            raise ValueError(f"--mean-scaling-coefficient {k} must be a finite number, at least 0")
        self.k = float(k)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z + self.k * z.mean(-1, keepdim=True)


class QNetwork(nn.Module):
    """The network of Young & Tian 2019: observations (B, 10, 10, C) bool to action-values (B, n) float32.

    Weights are LeCun normal, biases 0.1 and in the last layer 0, as in `dqn_atari_mexp.py`. k = 0 leaves the
    mean-expansion layer out.
    """

    def __init__(self, num_channels: int, num_actions: int, mean_scaling_coefficient: float):
        super().__init__()
        self.k = mean_scaling_coefficient
        layers = nn.Conv2d(num_channels, 16, 3), nn.Linear(1024, 128), nn.Linear(128, num_actions)
        head = [nn.Flatten(), layers[1], nn.ReLU(), layers[2]]
        self.network = nn.Sequential(layers[0], nn.ReLU(), *head, *([MeanExpansion(self.k)] if self.k else []))
        for layer in layers:
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)  # 1/sqrt(fan_in)
            nn.init.constant_(layer.bias, 0.0 if layer is layers[2] else 0.1)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.network(obs.permute(0, 3, 1, 2).float(memory_format=torch.contiguous_format))

    def folded_state_dict(self) -> dict[str, torch.Tensor]:
        """The state dict of a plain DQN (k = 0) with the same outputs: W + k rowmean(W) and b + k mean(b)."""
        folded = self.state_dict()
        for name in list(folded)[-2:]:
            folded[name] = folded[name] + self.k * folded[name].mean(0, keepdim=True)
        return folded


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
def act(q_network: nn.Module, obs: torch.Tensor) -> torch.Tensor:
    """The action-values that choose actions: observations (B, 10, 10, C) bool to (B, n) float32."""
    return q_network(obs)


def update(q_network, target_network, optimizer, gamma: float, frames, actions, rewards, terminated):
    """One gradient step on a batch of `ReplayBuffer.sample`. Returns the loss and the mean Q(s, a), each of shape ().

    The loss is half the squared TD error, summed over the batch; all but terminal transitions bootstrap.
    """
    with torch.no_grad():
        td_target = rewards + gamma * (1 - terminated) * target_network(frames[:, 1]).amax(1)
    old_val = q_network(frames[:, 0]).gather(1, actions[:, None]).squeeze(1)
    loss = 0.5 * (td_target - old_val).square().sum()
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


def evaluate(envs: MinAtarEnvs, q_values, args: Args, step: int) -> tuple[dict[str, float], list[np.ndarray]]:
    """`--eval-episodes` episodes at epsilon 0.001; `q_values` maps (N, 10, 10, C) bool arrays to values (N, n).

    A game whose episode has ended starts another while fewer than that many were started, and all are finished and
    counted. Returns the metrics over all their steps, and the observations of the first game's first episode.
    """
    rng = np.random.default_rng((args.seed, step))  # of its own: evaluating leaves the training as it is
    obs, games = envs.reset(rng.integers(2**31, size=envs.num_envs)), np.arange(envs.num_envs)
    active = games < args.eval_episodes
    started, weight, sums, totals = active.sum(), np.zeros(len(games)), np.zeros((4, len(games))), np.zeros(4)
    scores, film, filming = [], [], True
    while active.any():
        q = q_values(obs)
        actions = np.where(rng.random(len(q)) < 0.001, rng.integers(q.shape[1], size=len(q)), q.argmax(1))
        film += [obs[0]] if filming else []
        second, best = np.partition(q, -2, axis=1)[:, -2:].T
        obs, rewards, _, _, ended, extra = envs.step(actions)
        weight = 1 + args.gamma * weight  # the reward at t counts in G_t, G_{t-1}, ... with 1, gamma, ...
        sums += np.stack([q[games, actions], rewards * weight, best - second, np.ones(len(q))])
        if ended.any():
            totals += sums[:, ended & active].sum(1)
            scores += extra["score"][ended & active].tolist()
            sums[:, ended], weight[ended], filming = 0, 0, filming and not ended[0]
            again = ended & active & (started + np.cumsum(ended & active) <= args.eval_episodes)
            started, active = started + again.sum(), active & ~ended | again
    mean_q, mean_return, action_gap = (totals[:3] / totals[3]).tolist()
    metrics = {"episodes": len(scores), "score_mean": np.mean(scores).item(), "score_median": np.median(scores).item()}
    metrics |= {"score_std": np.std(scores).item(), "mean_q": mean_q, "mean_discounted_return": mean_return}
    return metrics | {"overestimation": mean_q - mean_return, "action_gap": action_gap}, film


def record_video(path: Path, observations: list[np.ndarray]) -> None:
    """Film an episode of (10, 10, C) bool observations in the colours in which the package displays its games."""
    channels = observations[0].shape[-1]
    colours = np.array([(0, 0, 0), *seaborn.color_palette("cubehelix", channels)])
    path.parent.mkdir(exist_ok=True)
    zoom = ["-vf", "scale=320:320:flags=neighbor"]
    video = imageio_ffmpeg.write_frames(str(path), (10, 10), fps=15, macro_block_size=1, output_params=zoom)
    video.send(None)
    for obs in observations:
        video.send((255 * colours[(obs * np.arange(1, channels + 1)).max(-1)]).astype(np.uint8).tobytes())
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
    torch.set_num_threads(args.num_threads)
    # TRY NOT TO MODIFY: seeding
    torch.manual_seed(args.seed)
    torch.backends.cudnn.deterministic = args.torch_deterministic
    rng = np.random.default_rng(args.seed)

    # ENV, BUFFER AND NETWORK SETUP
    try:
        envs = MinAtarEnvs(args.env_id, args.num_envs)
        args.env_id = envs.env_id
        if args.mean_scaling_coefficient is None:
            args.mean_scaling_coefficient = float(envs.num_actions)
        q_network = QNetwork(envs.obs_shape[-1], envs.num_actions, args.mean_scaling_coefficient)
        buffer_device = device if args.buffer_device == "auto" else torch.device(args.buffer_device)
        buffer = None if args.eval_only else ReplayBuffer(args.buffer_size, envs.obs_shape, buffer_device)
    except (ValueError, MemoryError) as error:
        fail(error)
    q_network.to(device)
    target_network = copy.deepcopy(q_network).requires_grad_(False)
    adam = dict(lr=args.learning_rate, eps=3.125e-4, fused=True, capturable=device.type == "cuda")  # Ceron & Castro
    optimizer = torch.optim.Adam(q_network.parameters(), **adam)
    train_act = eval_act = partial(act, q_network)
    learn = partial(update, q_network, target_network, optimizer, args.gamma)
    if device.type == "cuda" and args.cuda_graphs:
        train_act, eval_act, learn = capture(train_act), capture(eval_act), capture(learn, optimizer)

    def evaluation_phase(step: int, folder: Path) -> dict[str, float]:
        games = MinAtarEnvs(args.env_id, args.eval_envs)
        metrics, film = evaluate(games, lambda obs: eval_act(to_device(obs, device)).cpu().numpy(), args, step)
        tqdm.write(f"step {step:,}: " + ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()))
        if args.capture_video:
            record_video(folder / "videos" / f"step_{step}.mp4", film)
        return metrics

    if args.eval_only:
        load_model(Path(args.eval_only), args, q_network)
        evaluation_phase(0, Path(args.eval_only).parent)
        raise SystemExit

    # RUN SETUP: a new run, or the one that --resume goes on with
    run_dir, state = open_run(args, device_name, ("torch", "numpy", "MinAtar", "gymnasium"))
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
    if state:
        envs, obs = pickle.loads(state["games"])
    else:
        obs = envs.reset(rng.integers(2**31, size=args.num_envs))
    progress = tqdm(total=args.total_timesteps, initial=global_step, unit="step", mininterval=1, dynamic_ncols=True)
    while global_step < args.total_timesteps:
        # ALGO LOGIC: put action logic here
        epsilon = linear_schedule(args.start_e, args.end_e, args.exploration_steps, global_step)
        actions, explore = rng.integers(envs.num_actions, size=args.num_envs), rng.random(args.num_envs) < epsilon
        if not explore.all():
            actions = np.where(explore, actions, train_act(to_device(obs, device)).cpu().numpy().argmax(1))
        next_obs, rewards, terminated, truncated, first, extra = envs.step(actions)
        buffer.append(obs, extra["final_obs"], actions, rewards, terminated)
        obs, global_step = next_obs, global_step + args.num_envs

        # ALGO LOGIC: training
        if global_step >= args.learning_starts:
            for _ in range(crossings(global_step, args.num_envs, args.train_frequency)):
                last_update = learn(*buffer.sample(args.batch_size, rng, device))
            if crossings(global_step, args.num_envs, args.target_network_frequency):
                target_network.load_state_dict(q_network.state_dict())

        # TRY NOT TO MODIFY: logging
        if crossings(global_step, args.num_envs, 1_000):
            writer.add_scalar("charts/epsilon", epsilon, global_step)
            writer.add_scalar("charts/SPS", global_step / (time.time() - start_time), global_step)
            for tag, value in zip(("losses/td_loss", "losses/q_values"), last_update or (), strict=False):
                writer.add_scalar(tag, float(value), global_step)
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
            writer.flush()
            state = {name: thing.state_dict() for name, thing in stateful.items()}
            state |= {"args": vars(args), "global_step": global_step, "wall_time": time.time() - start_time}
            state |= {"games": pickle.dumps((envs, obs))}
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

    if args.save_model:
        torch.save(q_network.state_dict(), run_dir / "model.pt")
        torch.save(q_network.folded_state_dict(), run_dir / "model_folded.pt")
    config = (run_dir / "config.json").read_text().replace('"finished": false', '"finished": true')
    (run_dir / "config.tmp").write_text(config)
    (run_dir / "config.tmp").replace(run_dir / "config.json")
    for checkpoint in run_dir.glob("checkpoint.*"):
        checkpoint.unlink()
    progress.close(), writer.close()
