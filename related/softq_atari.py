# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#     "ale-py==0.12.1",
#     "gymnasium==1.4.0",
#     "imageio-ffmpeg==0.8.1",
#     "numpy==2.4.6",
#     "psutil==7.2.2",
#     "tensorboard==2.21.0",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "tyro==1.0.17",
# ]
# ///
"""Soft DQN on Atari games: Q-learning with entropy-regularised values (Haarnoja et al. 2017; Schulman, Chen & Abbeel
2017, arXiv 1704.06440), with Munchausen-DQN (Vieillard, Pietquin & Geist 2020, arXiv 2007.14430), with and without the
mean-expansion layer (arXiv 2606.29806). pi is the Boltzmann policy softmax(Q / tau), tau the temperature.

Soft DQN (`--entropy-form kl`, no bonus for a uniform policy) changes one line of `dqn_atari_mexp.py`: the target
bootstraps from the soft value rather than from the greatest action-value. Munchausen-DQN, `--munchausen 0.9
--entropy-form entropy`, adds a clipped tau log pi(a|s) to the reward. `--temperature 0` is plain DQN. Rewards are
clipped to [-1, 1]: the temperature is in their units. The layer shifts all q of a state alike, so pi is that of z too.

Usage: python related/softq_atari.py --env-id ALE/Pong-v5
"""

import copy
import csv
import ctypes
import difflib
import fcntl
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
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn, Optional, TextIO

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
    # RUN
    exp_name: str = os.path.basename(__file__)[: -len(".py")]  # the name of this experiment
    seed: int = 1  # seed of the experiment
    torch_deterministic: bool = True  # if toggled, `torch.backends.cudnn.deterministic=True`
    cuda: bool = True  # if toggled, train on the GPU when there is one
    cuda_graphs: bool = True  # if toggled, `update` and `action_values` run as CUDA graphs, which is faster (GPU only)
    track: bool = False  # if toggled, this experiment is tracked with Weights and Biases (`pip install wandb`)
    wandb_project_name: str = "mean-expansion"  # the wandb's project name
    wandb_entity: Optional[str] = None  # the entity (team) of wandb's project
    save_model: bool = False  # whether to save the trained model into the run's folder
    save_best: bool = False  # keep the network of the best evaluation phase, and play it at the end (best.json)
    runs_dir: str = "runs"  # the folder in which every run makes its own
    resume: bool = False  # go on with the newest run of this env, script and seed, unless it has finished or is new
    checkpoint_frequency: int = 1_000_000  # agent steps between checkpoints (7 GB), where games start anew; 0 is never

    # ENVIRONMENT
    env_id: str = "ALE/Breakout-v5"  # the game; `Breakout-v5` and `BreakoutNoFrameskip-v4` name the same ROM
    num_envs: int = 1  # emulators, run in threads; all schedules count the agent steps of all together
    full_action_space: bool = True  # all 18 (Machado et al. 2018; 9 in Skiing, LostLuggage), or those that do something
    terminal_on_life_loss: bool = False  # if toggled, a lost life is terminal for learning; the game itself goes on

    # AGENT
    total_timesteps: int = 50_000_000  # agent steps of 4 frames: 200M frames (Machado et al. 2018)
    learning_rate: float = 6.25e-5  # of Adam (Hessel et al. 2018)
    adam_eps: float = 1.5e-4  # epsilon of Adam (Hessel et al. 2018)
    mean_scaling_coefficient: Optional[float] = 0.0  # k of the layer; the number of actions if None; 0 is without it
    temperature: float = 0.03  # tau, in units of reward (Vieillard et al. 2020); 0 is plain DQN
    entropy_form: Literal["entropy", "kl"] = "kl"  # the bonus of a step: tau H(pi), or -tau KL(pi, uniform), at most 0
    policy: Literal["epsilon", "boltzmann"] = "epsilon"  # training acts epsilon-greedily, or by pi (no epsilon)
    munchausen: float = 0.0  # alpha; 0.9 with the entropy form is Munchausen-DQN (Vieillard et al. 2020)
    buffer_size: int = 1_000_000  # transitions in the replay memory (Mnih et al. 2015)
    buffer_device: Literal["auto", "cpu"] = "auto"  # the replay's memory: the training device's (auto) or the host's
    gamma: float = 0.99  # the discount factor (Mnih et al. 2015)
    target_network_frequency: int = 10_000  # agent steps between copies to the target network (the authors' release)
    batch_size: int = 32  # transitions of one gradient step (Mnih et al. 2015)
    start_e: float = 1.0  # the starting epsilon for exploration (Mnih et al. 2015)
    end_e: float = 0.01  # the ending epsilon for exploration (Hessel et al. 2018)
    exploration_steps: int = 1_000_000  # agent steps over which epsilon falls linearly (Mnih et al. 2015)
    learning_starts: int = 50_000  # agent step at which learning starts (Mnih et al. 2015)
    train_frequency: int = 4  # agent steps for each gradient step (Mnih et al. 2015)

    # EVALUATION
    eval_frequency: int = 250_000  # agent steps between evaluation phases (Mnih et al. 2015); 0 is never
    eval_steps: int = 125_000  # a phase starts episodes until it took this many agent steps (Mnih et al. 2015)
    eval_envs: int = 8  # emulators of an evaluation phase
    eval_epsilon: float = 0.001  # epsilon of an evaluation phase (Dabney et al. 2018)
    eval_only: Optional[str] = None  # evaluate this saved model, RUN/model.pt, for one phase instead of training
    capture_video: bool = False  # whether to film the first episode of every evaluation phase (videos/ in the run)


# AGENT


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
    """The network of Mnih et al. 2015: observations (B, 4, 84, 84) uint8 to action-values (B, n) float32.

    Weights are LeCun normal, with standard deviation 1/sqrt(fan_in); biases 0.1, and 0 in the last layer, as in PFRL,
    the engine of the paper.
    """

    def __init__(self, num_actions: int, mean_scaling_coefficient: float):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(4, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3136, 512),
            nn.ReLU(),
        )
        self.output = nn.Linear(512, num_actions)
        self.mean_expansion = MeanExpansion(mean_scaling_coefficient)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                fan_in = layer.weight[0].numel()
                nn.init.normal_(layer.weight, std=fan_in**-0.5)
                nn.init.constant_(layer.bias, 0.1)
        nn.init.zeros_(self.output.bias)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        z = self.output(self.network(obs.float() / 255))
        return self.mean_expansion(z)  # q = z + k * mean(z)

    def folded_state_dict(self) -> dict[str, torch.Tensor]:
        """The state dict of `dqn_atari.py`'s `QNetwork` with the same outputs: W + k rowmean(W) and b + k mean(b)."""
        folded = self.state_dict()
        for name in ("output.weight", "output.bias"):
            folded[name] = folded[name] + self.mean_expansion.k * folded[name].mean(0, keepdim=True)
        return folded


def linear_schedule(start_e: float, end_e: float, duration: int, t: int) -> float:
    """What falls on a schedule, such as epsilon, at agent step `t`: linear from `start_e` to `end_e` over `duration`
    steps, then constant."""
    return start_e + (end_e - start_e) * min(t / duration, 1.0)


def due(step: int, num_envs: int, frequency: int) -> int:
    """How many multiples of `frequency` are among the agent steps step - num_envs + 1, ..., step; none if it is 0."""
    if frequency == 0:
        return 0
    step_before = max(step - num_envs, 0)
    return step // frequency - step_before // frequency


def clip_rewards(rewards: np.ndarray) -> np.ndarray:
    """Rewards for learning: the sign (Mnih et al. 2015). The score is not clipped."""
    return np.sign(rewards)


@torch.no_grad()
def action_values(q_network: nn.Module, obs: torch.Tensor) -> torch.Tensor:
    """The values (B, n) float32 that choose actions, of observations as the network takes them."""
    return q_network(obs)


def soft_values(q: torch.Tensor, temperature: float, entropy_form: str) -> torch.Tensor:
    """The soft value of action-values (..., n), (...,): what the Boltzmann policy collects, with its bonus (Schulman et
    al. 2017).

    tau log sum_a exp(q_a / tau), and in the KL form less tau log n, which is mellowmax (Asadi & Littman 2017). At
    temperature 0 both are max_a q_a. The greatest value is taken off before dividing, so nothing overflows.
    """
    greatest = q.amax(-1, keepdim=True)
    if temperature == 0:
        return greatest.squeeze(-1)
    log_sum = ((q - greatest) / temperature).logsumexp(-1)
    if entropy_form == "kl":
        log_sum = log_sum - math.log(q.shape[-1])
    return greatest.squeeze(-1) + temperature * log_sum


def log_policy(q: torch.Tensor, temperature: float) -> torch.Tensor:
    """log pi, the logarithm of the Boltzmann policy softmax(q / tau), of action-values (..., n): (..., n). tau > 0."""
    greatest = q.amax(-1, keepdim=True)
    return ((q - greatest) / temperature).log_softmax(-1)


def policy_metrics(q: np.ndarray, temperature: float, entropy_form: str) -> dict[str, np.ndarray]:
    """Of action-values (N, n), (N,) each: the entropy of pi in nats, V - max Q, and the action gap / tau. tau > 0."""
    values = torch.from_numpy(q)
    log_pi = log_policy(values, temperature)
    best = values.topk(2).values
    return {
        "entropy": -(log_pi.exp() * log_pi).sum(1).numpy(),
        "soft_minus_max": (soft_values(values, temperature, entropy_form) - best[:, 0]).numpy(),
        "gap_over_temperature": ((best[:, 0] - best[:, 1]) / temperature).numpy(),
    }


def update(q_network, target_network, optimizer, args: Args, batch: "Batch") -> tuple[torch.Tensor, ...]:
    """One gradient step. Returns the loss and the mean Q(s, a), of shape (), and the batch's TD errors, (B,).

    The loss is half the squared TD error, summed over the batch; all but terminal transitions bootstrap, from the soft
    value. With `--munchausen` alpha the reward has alpha clip(tau log pi(a|s), -1, 0) added, pi being the target
    network's (Vieillard et al. 2020; -1 bounds what an improbable action costs).
    """
    with torch.no_grad():
        next_values = soft_values(target_network(batch.next_obs), args.temperature, args.entropy_form)
        td_target = batch.rewards + args.gamma * (1 - batch.terminated) * next_values
        if args.munchausen > 0:
            log_pi = log_policy(target_network(batch.obs), args.temperature)
            log_pi = log_pi.gather(1, batch.actions[:, None]).squeeze(1)
            td_target = td_target + args.munchausen * (args.temperature * log_pi).clamp(-1, 0)
    old_val = q_network(batch.obs).gather(1, batch.actions[:, None]).squeeze(1)
    td_errors = td_target - old_val
    assert td_errors.shape == batch.actions.shape, "a td_target of another shape than (B,) is broadcast"
    loss = 0.5 * td_errors.square().sum()

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), old_val.detach().mean(), td_errors.detach()


# ENVIRONMENT


class AtariEnvs:
    """N games in C++ threads: `ale_py.AtariVectorEnv` with the protocol of Machado et al. 2018.

    One agent step is 4 frames, and each repeats the previous action with probability 0.25. Observations stack 4 steps,
    each the max of its last two frames as 84x84 grayscale; zeros before an episode's start. Episodes end at game over
    or after `max_steps` agent steps. The limit is kept here, since the emulator's own leaves the last frame out of the
    observation that a truncated transition bootstraps from. `options` goes to `AtariVectorEnv`. Raises ValueError for a
    game that there is not.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        full_action_space: bool = True,
        life_loss: bool = False,
        max_steps: int = 27_000,
        repeat_action_probability: float = 0.25,
        **options,
    ):
        gymnasium.register_envs(ale_py)
        known = [name for name in gymnasium.registry if re.fullmatch(r"ALE/\w+-v5", name)]
        match = re.fullmatch(r"(?:ALE/)?(\w+)-v5", env_id) or re.fullmatch(r"(\w+)NoFrameskip-v4", env_id)
        self.env_id = f"ALE/{match[1]}-v5" if match else env_id
        if self.env_id not in known:
            close = difflib.get_close_matches(self.env_id, known, cutoff=0.5) or ["ALE/Breakout-v5"]
            raise ValueError(f"--env-id {env_id!r} is not an Atari game; try {' or '.join(close)}")
        rom = gymnasium.spec(self.env_id).kwargs["game"]
        if ale_py.roms.get_rom_path(rom) is None:
            raise ValueError(f"--env-id {env_id!r} has no ROM; `pip install --force-reinstall ale-py` brings {rom}.bin")
        self.envs = AtariVectorEnv(
            rom,
            num_envs,
            num_threads=num_envs,
            autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
            repeat_action_probability=repeat_action_probability,
            full_action_space=full_action_space,
            max_num_frames_per_episode=2**30,  # never: see `max_steps`
            noop_max=0,
            use_fire_reset=False,
            reward_clipping=False,
            **options,
        )
        self.num_envs = num_envs
        self.num_actions = int(self.envs.single_action_space.n)
        self.life_loss = life_loss
        self.max_steps = max_steps

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Start an episode in every game, seeded by (N,) int64; returns the observations, (N, 4, 84, 84) uint8."""
        obs, info = self.envs.reset(seed=seeds)
        self.lives = info["lives"]
        self.scores = np.zeros(self.num_envs, np.int64)
        self.lengths = np.zeros(self.num_envs, np.int64)
        return obs

    def send(self, actions: np.ndarray) -> None:
        """Take the actions, (N,) int64, and return at once: the emulators run until `recv`. Raises ValueError for an
        action that there is not, with which the emulator would hang."""
        if actions.min() < 0 or actions.max() >= self.num_actions:
            raise ValueError(f"actions {actions} must be in 0..{self.num_actions - 1}")
        self.envs.send(actions)

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Wait for the emulators. Returns, each with N rows: the next observations (uint8), of a new episode where one
        ended; unclipped rewards (int32); whether the step was terminal for learning; whether the time limit cut it;
        whether the episode is done (bool); and in `info` the `score` and `length` (agent steps) of the episodes so far,
        (N,), and `newest_frame`, (N, 84, 84) uint8: where the limit cut, it is the true successor's."""
        obs, rewards, game_over, _, info = self.envs.recv()
        self.scores = self.scores + rewards
        self.lengths = self.lengths + 1
        truncated = (self.lengths >= self.max_steps) & ~game_over
        done = game_over | truncated
        terminated = game_over
        if self.life_loss:
            terminated = game_over | (info["lives"] < self.lives)
        step_info = {"newest_frame": obs[:, -1], "score": self.scores, "length": self.lengths}
        if truncated.any():
            obs, info = self.envs.reset(options={"reset_mask": truncated})
        self.lives = info["lives"]
        self.scores = np.where(done, 0, self.scores)
        self.lengths = np.where(done, 0, self.lengths)
        return obs, rewards, terminated, truncated, done, step_info


# REPLAY BUFFER


class Batch(NamedTuple):
    """Transitions on the training device: observations and their successors as the network takes them, (B, ...), a
    successor having no meaning where it is terminal; actions (B,) int64; rewards for learning (B,) float32; and
    terminated (B,) float32, which is 1 where the successor is terminal."""

    obs: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_obs: torch.Tensor
    terminated: torch.Tensor


class ReplayBuffer:
    """Uniform replay of the last `capacity` transitions, one 84x84 uint8 frame each, preallocated on `device`.

    The slots are a table of `length` rows and a column for each environment, stored row by row: a slot is
    row * num_envs + env, and every column is a ring. A slot holds the newest frame of an observation and the action,
    reward and termination that followed; stacks are rebuilt when sampling. A column has 4 more slots than transitions:
    for the newest observation and for the history of the oldest transition. The final observation of a truncated
    episode takes a slot too. Raises MemoryError, with the bytes needed and there.
    """

    def __init__(self, capacity: int, num_envs: int, device: torch.device):
        self.num_envs = num_envs
        self.device = device
        self.length = math.ceil(capacity / num_envs) + 4  # rows
        self.size = self.length * num_envs
        self.frames = allocate((self.size + 1, 84, 84), torch.uint8, device, capacity)  # the last one stays zero
        self.actions = np.zeros(self.size, np.uint8)
        self.rewards = np.zeros(self.size, np.float32)
        self.terminated = np.zeros(self.size, bool)
        self.history = np.zeros(self.size, np.uint8)  # how many of the 3 frames before are of the same episode
        self.written = np.zeros(num_envs, np.int64)  # slots ever written, of each environment

    def append(self, envs: np.ndarray, frames: np.ndarray, done: np.ndarray, actions: np.ndarray) -> None:
        """Store the newest frames of `envs`, (M, 84, 84) uint8, and the actions taken, (M,) int64. Where `done`, (M,)
        bool, the step before ended an episode: the frame begins another."""
        rows = self.written[envs] % self.length
        slots = rows * self.num_envs + envs
        previous = slots - self.num_envs  # negative in row 0, where NumPy wraps around too
        self.frames.index_copy_(0, to_device(slots, self.device), to_device(frames, self.device))
        self.history[slots] = np.where(done, 0, np.minimum(self.history[previous] + 1, 3))
        self.actions[slots] = actions
        self.rewards[slots] = 0
        self.terminated[slots] = False
        self.written[envs] += 1

    def complete(self, rewards: np.ndarray, terminated: np.ndarray) -> None:
        """Store what followed the newest actions of all environments: rewards for learning and terminations, (N,)."""
        rows = (self.written - 1) % self.length
        slots = rows * self.num_envs + np.arange(self.num_envs)
        self.rewards[slots] = rewards
        self.terminated[slots] = terminated

    def truncate(self, cut: np.ndarray, newest_frames: np.ndarray) -> None:
        """End the episodes where `cut`, (N,) bool; `newest_frames`, (N, 84, 84) uint8, are of the final observations,
        from which the cut transitions bootstrap. The caller must append with `done` next, in these environments."""
        self.append(np.flatnonzero(cut), newest_frames[cut], done=np.zeros(cut.sum(), bool), actions=0)

    def valid(self, slots: np.ndarray) -> np.ndarray:
        """Which of the `slots` may be sampled, bool. A transition is whole if its successor is terminal, or follows in
        the next slot as a frame of the same episode, and if no frame of its history has been overwritten."""
        rows, envs = np.divmod(slots, self.num_envs)
        written = self.written[envs]
        age = (written - 1 - rows) % self.length  # rows written in this column since then; 0 is the newest
        is_written = age < written
        next_slots = (slots + self.num_envs) % self.size
        has_successor = (age > 0) & (self.history[next_slots] > 0)  # the first frame of an episode has history 0
        has_history = age + self.history[slots] < self.length
        return is_written & (self.terminated[slots] | has_successor) & has_history

    def sample(self, batch_size: int, rng: np.random.Generator, device: torch.device) -> Batch:
        """Draw transitions uniformly, with replacement, onto `device`; observations are (B, 4, 84, 84) uint8."""
        slots = rng.integers(self.filled(), size=batch_size)
        rejected = ~self.valid(slots)
        while rejected.any():
            slots[rejected] = rng.integers(self.filled(), size=np.count_nonzero(rejected))
            rejected = ~self.valid(slots)

        # Five frames are gathered: the four of the observation, and the newest of its successor
        offsets = np.array([-3, -2, -1, 0, 1])  # in agent steps
        frame_slots = (slots[:, None] + offsets * self.num_envs) % self.size
        before_the_start = offsets < -self.history[slots].astype(np.int64)[:, None]
        after_the_end = (offsets == 1) & self.terminated[slots][:, None]
        frame_slots = np.where(before_the_start | after_the_end, self.size, frame_slots)  # the frame of zeros
        frames = self.frames.index_select(0, to_device(frame_slots.ravel(), self.device)).view(-1, 5, 84, 84)
        if self.device.type != device.type:
            frames = to_device(frames.numpy(), device)
        return Batch(
            obs=frames[:, :4],
            actions=to_device(self.actions[slots].astype(np.int64), device),
            rewards=to_device(self.rewards[slots], device),
            next_obs=frames[:, 1:],
            terminated=to_device(self.terminated[slots].astype(np.float32), device),
        )

    def filled(self) -> int:
        """The number of slots, from the first, among which all transitions lie."""
        return min(int(self.written.max()), self.length) * self.num_envs

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The filled slots; on the CPU the tensors share the buffer's memory."""
        filled = self.filled()
        return {
            "frames": torch.from_numpy(self.frames[:filled].cpu().numpy()),  # a slice would save all of it
            "actions": torch.from_numpy(self.actions[:filled]),
            "rewards": torch.from_numpy(self.rewards[:filled]),
            "terminated": torch.from_numpy(self.terminated[:filled]),
            "history": torch.from_numpy(self.history[:filled]),
            "written": torch.from_numpy(self.written),
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Put the filled slots back."""
        filled = len(state["frames"])
        self.frames[:filled] = state["frames"]
        self.actions[:filled] = state["actions"]
        self.rewards[:filled] = state["rewards"]
        self.terminated[:filled] = state["terminated"]
        self.history[:filled] = state["history"]
        self.written[:] = state["written"]


def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, capacity: int) -> torch.Tensor:
    """A tensor of zeros for `capacity` transitions. Raises MemoryError, with what would fit, if it is too large."""
    needed = math.prod(shape) * dtype.itemsize
    free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else psutil.virtual_memory().available
    try:
        if needed > 0.95 * free:
            raise MemoryError
        return torch.empty(shape, dtype=dtype, device=device).fill_(0)  # filling takes every page now, not later
    except (MemoryError, RuntimeError) as error:
        fits = int(0.8 * min(free, needed)) * capacity // needed  # less than what has just failed
        hint = f"try --buffer-size {fits}"
        if device.type != "cpu":
            hint += " or --buffer-device cpu"
        raise MemoryError(f"--buffer-size {capacity} needs {needed:,} bytes, {free:,} are free; {hint}") from error


# EVALUATION


def evaluate(envs: AtariEnvs, q_values, args: Args, step: int) -> tuple[dict[str, float], np.ndarray, list[int]]:
    """An evaluation phase; `q_values` maps (N, 4, 84, 84) uint8 arrays to values (N, n).

    Episodes start while fewer than `--eval-steps` agent steps were taken; all are finished and counted. Returns the
    metrics over all their steps, and the seed and actions of the first game's first episode, to film it.
    """
    rng = np.random.default_rng((args.seed, step))  # of its own: evaluating leaves the training as it is
    seeds = rng.integers(2**31, size=envs.num_envs)
    obs = envs.reset(seeds)
    every_env = np.arange(envs.num_envs)
    active = np.ones(envs.num_envs, bool)  # games that play an episode which counts
    steps_taken = 0
    first_episode = []
    first_done = False
    scores = []

    k = getattr(args, "mean_scaling_coefficient", 0.0)  # a script without this flag has no layer, and z is q
    discount_sum = np.zeros(envs.num_envs)
    sums = {}  # of what is measured, by name: over the steps so far of the episode that each game plays, (N,)
    totals = {}  # over all steps of the episodes that are done
    total_steps = 0.0
    while active.any():
        q = q_values(obs)
        explore = rng.random(envs.num_envs) < args.eval_epsilon
        random_actions = rng.integers(q.shape[1], size=envs.num_envs)
        actions = np.where(explore, random_actions, q.argmax(1))
        envs.send(actions)
        if not first_done:
            first_episode.append(actions[0])
        obs, rewards, _, _, done, info = envs.recv()
        first_done = first_done or done[0]
        steps_taken += np.count_nonzero(active)

        # The returns G_u, G_{u-1}, ..., G_0 contain the reward r_u times 1, gamma, ..., gamma^u. So the sum of all
        # returns of an episode is the sum of all r_u * (1 + gamma + ... + gamma^u)
        discount_sum = 1 + args.gamma * discount_sum
        ascending = np.sort(q, axis=1)
        z = q - k / (k + 1) * q.mean(1, keepdims=True)  # inverts q = z + k * mean(z)
        measured = {
            "mean_q": q[every_env, actions],
            "mean_discounted_return": clip_rewards(rewards) * discount_sum,
            "action_gap": ascending[:, -1] - ascending[:, -2],
            "q_norm": np.linalg.norm(q, axis=1),
            "z_norm": np.linalg.norm(z, axis=1),
        }
        if args.temperature > 0:
            measured |= policy_metrics(q, args.temperature, args.entropy_form)

        finished = done & active
        scores += info["score"][finished].tolist()
        total_steps += info["length"][finished].sum()
        for name, values in measured.items():
            sum_so_far = sums.get(name, np.zeros(envs.num_envs)) + values
            totals[name] = totals.get(name, 0.0) + sum_so_far[finished].sum()
            sums[name] = np.where(done, 0.0, sum_so_far)
        discount_sum[done] = 0
        if steps_taken >= args.eval_steps:
            active = active & ~done  # no other episode starts

    means = {name: float(total / total_steps) for name, total in totals.items()}
    metrics = {
        "episodes": len(scores),
        "score_mean": float(np.mean(scores)),
        "score_median": float(np.median(scores)),
        "score_std": float(np.std(scores)),
        "mean_q": means["mean_q"],
        "mean_discounted_return": means["mean_discounted_return"],
        "overestimation": means["mean_q"] - means["mean_discounted_return"],
    }
    return metrics | means, seeds[:1], first_episode


def record_video(path: Path, args: Args, seeds: np.ndarray, actions: list[int]) -> None:
    """Film an episode in colour by playing it again: the emulator is deterministic given its seed and the actions."""
    colour = {"grayscale": False, "img_height": 210, "img_width": 160, "stack_num": 1}
    envs = AtariEnvs(args.env_id, 1, args.full_action_space, **colour)
    path.parent.mkdir(exist_ok=True)
    zoom = ["-vf", "scale=320:420:flags=neighbor"]
    file = str(path.absolute())
    video = imageio_ffmpeg.write_frames(file, (160, 210), fps=15, macro_block_size=1, output_params=zoom)
    video.send(None)  # starts the generator
    video.send(envs.reset(seeds).tobytes())
    for action in actions[:-1]:  # the last one ends the episode
        envs.send(np.array([action]))
        *_, info = envs.recv()
        video.send(info["newest_frame"].tobytes())
    video.close()


class BestNetwork:
    """The network of the evaluation phase with the highest mean score, for `--save-best`; of equals the first."""

    def __init__(self):
        self.step = 0
        self.score = -math.inf
        self.weights = {}

    def offer(self, q_network: nn.Module, score: float, step: int) -> None:
        """Keep a copy of the network if its mean score, in the phase at agent step `step`, is the first or highest."""
        if not self.weights or score > self.score:
            self.step = step
            self.score = score
            self.weights = {name: weight.detach().cpu().clone() for name, weight in q_network.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write the weights, whole or not at all. If that fails, as on a full disk, a warning is printed."""
        unfinished = path.with_suffix(".tmp")
        try:
            torch.save(self.weights, unfinished)
            unfinished.replace(path)
        except (OSError, RuntimeError) as error:  # torch.save makes a RuntimeError of a full disk
            unfinished.unlink(missing_ok=True)
            tqdm.write(f"warning: {path} was not written: {error!r}")

    def state_dict(self) -> dict:
        return {"step": self.step, "score": self.score, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]
        self.score = state["score"]
        self.weights = state["weights"]


# SPEED


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A tensor of `array`. On the CPU it shares the array's memory; the copy to a GPU is from pinned memory, and Python
    does not wait for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def capture(function: Callable, optimizer: Optional[torch.optim.Optimizer] = None) -> Callable:
    """`function` of tensors as a CUDA graph: the GPU then repeats its kernels without Python.

    The first three calls are real ones, on a side stream, in which PyTorch allocates what it needs. The fourth is
    captured: `function` runs in Python for the last time. From then on inputs are copied into the captured ones, and
    outputs are the same tensors, overwritten by every call. Frozen are shapes, branches taken, Python numbers (gamma,
    k, the learning rate) and the tensors that `function` found: parameters must be changed in place. A call raises
    RuntimeError if the shape or dtype of an input has changed, or a number of `optimizer`, such as the learning rate.
    If capturing fails, a line says so and all calls are real ones.
    """
    side_stream = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    calls = 0
    failed = False
    static_inputs = []
    static_outputs = None
    captured_numbers = []

    def numbers() -> list:
        if optimizer is None:
            return []
        return [value for group in optimizer.param_groups for name, value in group.items() if name != "params"]

    def record(inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal failed, static_inputs, static_outputs, captured_numbers
        static_inputs = [tensor.clone() for tensor in inputs]
        captured_numbers = numbers()
        try:
            # The outer context puts the current stream back, which a capture that fails does not
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
                # What waits for the GPU, such as `.item()`, must raise before it does: a wait would break the capture
                # off, and with PyTorch 2.11 the other graphs and the random numbers of the GPU with it
                with warnings.catch_warnings(action="ignore"):  # that this mode is a prototype
                    torch.cuda.set_sync_debug_mode("error")
                try:
                    static_outputs = function(*static_inputs)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
        except Exception as error:  # whatever a hacked function does that a graph cannot
            failed = True
            reason = str(error.__context__ or error)  # to end a capture that went wrong raises another error
            tqdm.write(f"warning: no CUDA graph, which is slower: {' '.join(reason.split())}")

    def replay(inputs: tuple[torch.Tensor, ...]):
        if numbers() != captured_numbers:
            raise RuntimeError("the learning rate is frozen in the CUDA graph: make it a tensor, or --no-cuda-graphs")
        for static, new in zip(static_inputs, inputs, strict=True):
            if (static.shape, static.dtype) != (new.shape, new.dtype):
                raise RuntimeError(f"captured for {static.shape} {static.dtype}, not {new.shape} {new.dtype}")
            static.copy_(new)
        graph.replay()
        return static_outputs

    def call(*inputs: torch.Tensor):
        nonlocal calls
        calls += 1
        if calls <= 3:
            side_stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side_stream):
                outputs = function(*inputs)
            torch.cuda.current_stream().wait_stream(side_stream)
            return outputs
        if calls == 4:
            record(inputs)
        if failed:
            return function(*inputs)
        return replay(inputs)

    return call


def keep_freed_memory() -> None:
    """Make glibc's malloc keep what is freed: to fault it in anew takes a fifth of an update's time on the CPU."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD


# RUNS (skip at first)


def fail(message: object) -> NoReturn:
    """End the program over a user's mistake: one line on stderr, exit code 2."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


BOUNDS = {  # the least and the greatest value that can work; `check_args` leaves other flags alone
    "seed": (0, 2**63 - 1),
    "checkpoint_frequency": (0, math.inf),
    "num_envs": (1, math.inf),
    "total_timesteps": (1, math.inf),
    "learning_rate": (1e-12, 1e3),
    "adam_eps": (1e-12, 1e3),
    "temperature": (0, 1e3),
    "munchausen": (0, 1),
    "gamma": (0, 1),
    "target_network_frequency": (1, math.inf),
    "start_e": (0, 1),
    "end_e": (0, 1),
    "exploration_steps": (1, math.inf),
    "train_frequency": (1, math.inf),
    "eval_frequency": (0, math.inf),
    "eval_steps": (1, math.inf),
    "eval_envs": (1, math.inf),
    "eval_epsilon": (0, 1),
}


NETWORK_FLAGS = ("env_id", "gamma", "temperature", "entropy_form")  # besides k, what `--eval-only` must find as trained


def check_args(args: Args) -> None:
    """Refuse values that cannot work, and warn of those that do not belong together."""
    bounds = BOUNDS | {
        "buffer_size": (8 * args.num_envs, math.inf),
        "batch_size": (1, args.buffer_size),
        "learning_starts": (args.batch_size, args.buffer_size),
    }
    for name, value in vars(args).items():
        if name not in bounds:
            continue
        least, most = bounds[name]
        if not least <= value <= most:
            at_most = f" and at most {most}" if most < math.inf else ""
            fail(f"--{name.replace('_', '-')} {value} must be at least {least}{at_most}")
    if 0 < args.temperature < 1e-9:
        fail(f"--temperature {args.temperature} is lost in float32; it must be at least 1e-9, or 0, which is plain DQN")
    if args.temperature == 0 and (args.munchausen > 0 or args.policy == "boltzmann"):
        fail("--temperature 0 has no Boltzmann policy, which --munchausen and --policy boltzmann need; try 0.03")
    if args.munchausen > 0 and args.entropy_form == "kl":
        print("warning: --munchausen with --entropy-form kl is not Munchausen-DQN, which has --entropy-form entropy")
    if args.save_best and not 0 < args.eval_frequency <= args.total_timesteps:
        fail(f"--save-best needs evaluation phases: --eval-frequency must be 1 to {args.total_timesteps}, the steps")
    if args.track and importlib.util.find_spec("wandb") is None:
        fail("--track needs the package wandb; `pip install wandb` brings it")


def load_model(path: Path, args: Args, q_network: nn.Module) -> None:
    """Load a saved model; refuses, by the `config.json` beside it, another k or other values of `NETWORK_FLAGS`, and
    what is another architecture."""
    refusal = f"--eval-only {path} is no model of this script and these flags"
    trained = plain(args)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        config = path.with_name("config.json")
        if config.exists():
            trained = json.loads(config.read_text())["args"]
        k = 0 if path.name == "model_folded.pt" else trained.get("mean_scaling_coefficient", 0)
    except Exception as error:  # torch raises whatever a file that is no model leads to
        fail(f"{refusal}: {error}")
    of_the_network = {name: trained[name] for name in NETWORK_FLAGS if name in trained}
    if flags := other_flags(args, of_the_network):
        fail(f"--eval-only {path} was trained with {' '.join(flags)}; add that")
    if k != vars(args).get("mean_scaling_coefficient", 0):
        fail(f"--eval-only {path} has k = {k}; give that --mean-scaling-coefficient, or k = 0 and model_folded.pt")
    try:
        q_network.load_state_dict(weights)
    except Exception as error:
        fail(f"{refusal}: {error}")
    if not config.exists():
        print(f"warning: no config.json beside {path}, so nothing tells whether k and other flags fit it")


def find_runs(args: Args) -> list[Path]:
    """The folders of all runs of this environment, script and seed, the newest last."""
    stem = Path(args.runs_dir) / f"{args.env_id}__{args.exp_name}__{args.seed}__"
    folders = stem.parent.glob(glob.escape(stem.name) + "*")
    folders = [folder for folder in folders if folder.name.removeprefix(stem.name).isdecimal()]
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix(stem.name)))


def plain(args: Args) -> dict:
    """The arguments as `config.json` and a checkpoint keep them: a tuple becomes a list, a Path a string."""
    return json.loads(json.dumps(vars(args), default=str))


def new_run(args: Args, num_actions: int, device_name: str, packages: tuple[str, ...]) -> Path:
    """Make a run's folder, named by the time in seconds, with its `config.json`."""
    describe = "git describe --always --dirty --abbrev=40 --exclude='*'"  # the commit, and -dirty if it was changed
    git = subprocess.run(describe, shell=True, cwd=Path(__file__).parent, capture_output=True, text=True)
    config = {
        "args": plain(args),
        "finished": False,
        "num_actions": num_actions,
        "git_commit": git.stdout.strip() or None,
        "device": device_name,
        "packages": {"python": sys.version} | {name: importlib.metadata.version(name) for name in packages},
    }
    started = int(time.time())
    for run in find_runs(args):
        started = max(started, int(run.name.split("__")[-1]) + 1)  # where the clock was set back
    while True:
        run_dir = Path(args.runs_dir) / f"{args.env_id}__{args.exp_name}__{args.seed}__{started}"
        try:
            run_dir.mkdir(parents=True)
            write_config(run_dir, config)
            return run_dir
        except FileExistsError:  # another run of this second was first
            started += 1
        except OSError as error:
            fail(f"--runs-dir {args.runs_dir} cannot be written to ({error.strerror}); name a folder that can")


def write_config(run_dir: Path, config: dict) -> None:
    """Write `config.json`, whole or not at all."""
    (run_dir / "config.tmp").write_text(json.dumps(config, indent=2))
    (run_dir / "config.tmp").replace(run_dir / "config.json")


def other_flags(args: Args, old_args: dict) -> list[str]:
    """The flags, with their old values, in which a run differs from this one in a way that could change its results."""
    may_differ = ("resume", "runs_dir", "track", "wandb_project_name", "wandb_entity", "save_model", "capture_video")
    flags = []
    for name, value in plain(args).items():
        old_value = old_args.get(name, value)
        if name in may_differ or old_value == value:
            continue
        flag = name.replace("_", "-")
        if isinstance(old_value, bool):
            flags.append(f"--{flag}" if old_value else f"--no-{flag}")
        else:
            flags.append(f"--{flag} {old_value}")
    return flags


def run_to_resume(args: Args) -> Optional[Path]:
    """The newest run's folder if it has a checkpoint, or None. Ends the program if that run has finished."""
    runs = find_runs(args)
    if not runs:
        print(f"--resume: no run of {args.env_id}, {args.exp_name}, seed {args.seed} yet; starting afresh")
        return None
    newest = runs[-1]
    if not (newest / "config.json").exists():
        print(f"--resume: {newest} has no config.json, and so no checkpoint; starting afresh")
        return None
    try:
        config = json.loads((newest / "config.json").read_text())
        finished = config["finished"]
        flags = other_flags(args, plain(Args()) | config["args"])  # what it did not have had its default
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fail(f"--resume: {newest}/config.json is damaged ({error!r}); start a new run without --resume")
    if flags and (finished or (newest / "checkpoint.pt").exists()):
        fail(f"--resume: {newest} ran with {' '.join(flags)}; repeat that, or start a new run without --resume")
    if finished:
        print(f"--resume: {newest} has finished, nothing is left to do")
        (newest / "checkpoint.pt").unlink(missing_ok=True)  # if it was killed between its last two lines
        raise SystemExit
    if not (newest / "checkpoint.pt").exists():
        print(f"--resume: {newest} has no checkpoint yet; starting afresh")
        return None
    return newest


def lock_run(run_dir: Path) -> TextIO:
    """Keep other processes from going on with this run while ours does. The open file that is returned is the lock."""
    file = open(run_dir / "config.json", "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fail(f"--resume: another process is at work on {run_dir}; wait for its end, or stop it")
    except OSError:
        pass  # a file system that has no locks
    return file


def log_files(run_dir: Path) -> list[Path]:
    """What a run appends to: `eval.csv` and TensorBoard's events."""
    return [*run_dir.glob("eval.csv"), *run_dir.glob("events.out.tfevents.*")]


def save_checkpoint(run_dir: Path, args: Args, stateful: dict, rng: np.random.Generator, counters: dict) -> None:
    """Write `checkpoint.pt`. If that fails, as on a full disk, the one before is kept and a warning printed.

    `stateful` holds what has a `state_dict`, `counters` whatever else the loop needs to go on. All that is saved must
    be a tensor or a plain Python value, or this raises pickle.UnpicklingError.
    """
    unfinished = run_dir / "checkpoint.tmp"
    try:
        checkpoint = {
            "args": plain(args),
            "stateful": {name: thing.state_dict() for name, thing in stateful.items()},
            "counters": counters,
            "rng": rng.bit_generator.state,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
            "log_sizes": {log.name: log.stat().st_size for log in log_files(run_dir)},
        }
        for log in log_files(run_dir):  # a checkpoint on the disk must not be ahead of the logs there
            with open(log, "rb") as file:
                os.fsync(file.fileno())
        with open(unfinished, "wb") as file:
            torch.save(checkpoint, file)
            os.fsync(file.fileno())
        torch.load(unfinished, map_location="cpu", weights_only=True, mmap=True)  # what this refuses is of no use later
        unfinished.replace(run_dir / "checkpoint.pt")
    except (OSError, RuntimeError, MemoryError) as error:  # torch.save makes a RuntimeError of a full disk
        unfinished.unlink(missing_ok=True)
        tqdm.write(f"warning: no checkpoint at step {counters['global_step']:,}, the one before is kept: {error!r}")


def load_checkpoint(run_dir: Path, args: Args, stateful: dict, rng: np.random.Generator) -> dict:
    """Put everything back as `save_checkpoint` found it, cut the logs to where they were, and return the `counters`.
    Ends the program if the file is damaged or of other arguments."""
    path = run_dir / "checkpoint.pt"
    try:
        if damaged := zipfile.ZipFile(path).testzip():
            raise ValueError(f"wrong checksum of {damaged}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # zipfile and torch raise whatever a damaged file leads to
        fail(f"--resume: {path} is damaged ({error}); delete it, or start a new run without --resume")
    try:
        if flags := other_flags(args, plain(Args()) | checkpoint["args"]):
            fail(f"--resume: {run_dir} ran with {' '.join(flags)}; repeat that, or start a new run without --resume")
        log_sizes = checkpoint["log_sizes"]
        for name, size in log_sizes.items():
            if not (run_dir / name).exists() or (run_dir / name).stat().st_size < size:
                fail(f"--resume: {run_dir / name} is shorter than it was; put it back, or start a new run")
        for name, thing in stateful.items():
            saved = checkpoint["stateful"][name]
            if name != "buffer":  # too large to copy, and it does not go on using the tensors it is given
                saved = copy.deepcopy(saved)
            if isinstance(thing, torch.optim.Optimizer):  # this flag is the device's, and says where `step` goes
                for group, saved_group in zip(thing.param_groups, saved["param_groups"], strict=True):
                    if "capturable" in group:
                        saved_group["capturable"] = group["capturable"]
            thing.load_state_dict(saved)
        rng.bit_generator.state = checkpoint["rng"]
        torch.set_rng_state(checkpoint["torch_rng"])
        if torch.cuda.is_initialized() and checkpoint["cuda_rng"] is not None:
            torch.cuda.set_rng_state(checkpoint["cuda_rng"])
        counters = checkpoint["counters"]
    except Exception as error:  # whatever a file of another version leads to
        fail(f"--resume: {path} is of another version of this script ({error!r}); start a new run without --resume")
    for log in log_files(run_dir):
        if log.name in log_sizes:
            os.truncate(log, log_sizes[log.name])
        else:
            log.unlink()
    print(f"--resume: {run_dir} goes on from step {counters['global_step']:,}")
    return counters


def log_training(writer: SummaryWriter, epsilon: float, losses: dict, global_step: int, wall_time: float) -> None:
    """Log epsilon, agent steps a second, and the newest of the `losses`, which are named by their tags."""
    writer.add_scalar("charts/epsilon", epsilon, global_step)
    writer.add_scalar("charts/SPS", global_step / wall_time, global_step)
    for tag, value in losses.items():
        writer.add_scalar(tag, float(value), global_step)


def log_episodes(writer: SummaryWriter, progress: tqdm, done: np.ndarray, info: dict, global_step: int) -> None:
    """Log the score and length of the episodes that are done."""
    for i in np.flatnonzero(done):
        writer.add_scalar("charts/episodic_return", info["score"][i], global_step)
        writer.add_scalar("charts/episodic_length", info["length"][i], global_step)
        progress.set_postfix(score=info["score"][i], refresh=False)


def log_evaluation(run_dir: Path, writer: SummaryWriter, metrics: dict, global_step: int, wall_time: float) -> None:
    """Append the metrics to `eval.csv`, whose `wall_time` is in seconds, and to TensorBoard."""
    for name, value in metrics.items():
        writer.add_scalar("eval/" + name.replace("score_mean", "episodic_return"), value, global_step)
    row = {"step": global_step} | metrics | {"wall_time": round(wall_time, 1)}
    with open(run_dir / "eval.csv", "a", newline="") as file:
        table = csv.DictWriter(file, row)
        if file.tell() == 0:
            table.writeheader()
        table.writerow(row)


def save_best_scores(run_dir: Path, best: BestNetwork, metrics: dict) -> None:
    """Write `best.json`: the scores of the best network's final episodes, and the agent step that it is from."""
    names = ("episodes", "score_mean", "score_median", "score_std")
    scores = {"step": best.step} | {name: metrics[name] for name in names}
    (run_dir / "best.json").write_text(json.dumps(scores, indent=2))


def finish_run(run_dir: Path) -> None:
    """Mark the run as finished and delete its checkpoint."""
    config = json.loads((run_dir / "config.json").read_text())
    config["finished"] = True
    write_config(run_dir, config)
    for name in ("checkpoint.pt", "checkpoint.tmp", "model_best.tmp"):
        (run_dir / name).unlink(missing_ok=True)


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    check_args(args)
    device = torch.device("cuda" if torch.cuda.is_available() and args.cuda else "cpu")
    device_name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU (no CUDA GPU found, or --no-cuda)"
    sys.stdout.reconfigure(line_buffering=True)
    print("device:", device_name)
    keep_freed_memory()
    if device.type == "cuda":
        torch.set_num_threads(1)  # others would only copy, and then spin for more work on the emulators' cores

    # TRY NOT TO MODIFY: seeding
    torch.manual_seed(args.seed)
    torch.backends.cudnn.deterministic = args.torch_deterministic
    rng = np.random.default_rng(args.seed)

    # ENV, BUFFER AND NETWORK SETUP
    try:
        envs = AtariEnvs(args.env_id, args.num_envs, args.full_action_space, args.terminal_on_life_loss)
        args.env_id = envs.env_id
        if args.mean_scaling_coefficient is None:
            args.mean_scaling_coefficient = float(envs.num_actions)
        q_network = QNetwork(envs.num_actions, args.mean_scaling_coefficient)
        if args.eval_only is None:
            buffer_device = device if args.buffer_device == "auto" else torch.device(args.buffer_device)
            buffer = ReplayBuffer(args.buffer_size, args.num_envs, buffer_device)
    except (ValueError, MemoryError) as error:
        fail(error)
    q_network.to(device, memory_format=torch.channels_last)  # of the layouts the fastest on a CPU
    target_network = copy.deepcopy(q_network).requires_grad_(False)
    optimizer = torch.optim.Adam(
        q_network.parameters(),
        lr=args.learning_rate,
        eps=args.adam_eps,
        fused=True,
        capturable=device.type == "cuda",
    )

    def learn(*batch: torch.Tensor) -> tuple[torch.Tensor, ...]:  # of tensors, as a graph wants
        return update(q_network, target_network, optimizer, args, Batch(*batch))

    train_values = partial(action_values, q_network)
    eval_values = partial(action_values, q_network)
    if device.type == "cuda" and args.cuda_graphs:
        learn = capture(learn, optimizer)
        # Two graphs of one function, since training and evaluation have different numbers of environments
        train_values = capture(train_values)
        eval_values = capture(eval_values)

    def play(values: Callable, eval_args: Args, step: int) -> tuple:
        """What `evaluate` returns of the network whose `action_values` are given; `step` seeds the episodes."""
        eval_envs = AtariEnvs(args.env_id, eval_args.eval_envs, args.full_action_space)

        def q_values(obs: np.ndarray) -> np.ndarray:
            return values(to_device(obs, device)).cpu().numpy()

        with torch.random.fork_rng([0] if device.type == "cuda" else []):  # evaluating leaves the training as it is
            return evaluate(eval_envs, q_values, eval_args, step)

    def evaluation_phase(step: int, folder: Path) -> dict[str, float]:
        metrics, seeds, actions = play(eval_values, args, step)
        tqdm.write(f"step {step:,}: " + ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()))
        if args.capture_video:
            record_video(folder / "videos" / f"step_{step}.mp4", args, seeds, actions)
        return metrics

    if args.eval_only is not None:
        load_model(Path(args.eval_only), args, q_network)
        evaluation_phase(0, Path(args.eval_only).parent)
        raise SystemExit

    # RUN SETUP: the run that --resume goes on with, or a new one
    # A checkpoint holds `stateful` and `counters`: what a hack adds to the state of the loop belongs in one of them
    best = BestNetwork()
    stateful = {
        "q_network": q_network,
        "target_network": target_network,
        "optimizer": optimizer,
        "buffer": buffer,
        "best": best,
    }
    counters = {"global_step": 0, "wall_time": 0.0, "losses": {}}
    run_dir = run_to_resume(args) if args.resume else None
    if run_dir:
        lock = lock_run(run_dir)
        counters = load_checkpoint(run_dir, args, stateful, rng)
    else:
        run_dir = new_run(args, envs.num_actions, device_name, ("torch", "numpy", "ale-py", "gymnasium"))
        lock = lock_run(run_dir)
    global_step = counters["global_step"]
    losses = counters["losses"]
    start_time = time.time() - counters["wall_time"]
    if args.track:
        import wandb

        wandb.init(
            project=args.wandb_project_name,
            entity=args.wandb_entity,
            id=run_dir.name,
            name=run_dir.name,
            resume="allow",
            sync_tensorboard=True,
            config=vars(args),
            save_code=True,
        )
    writer = SummaryWriter(str(run_dir))

    # TRY NOT TO MODIFY: start the game
    every_env = np.arange(args.num_envs)
    obs = envs.reset(rng.integers(2**31, size=args.num_envs))
    done = np.ones(args.num_envs, bool)  # `obs` begins an episode
    progress = tqdm(total=args.total_timesteps, initial=global_step, unit="step", mininterval=1, dynamic_ncols=True)
    while global_step < args.total_timesteps:
        # ALGO LOGIC: put action logic here
        epsilon = linear_schedule(args.start_e, args.end_e, args.exploration_steps, global_step)
        if args.policy == "boltzmann":
            epsilon = 0.0  # pi explores, though its first values may lie many temperatures apart
        actions = rng.integers(envs.num_actions, size=args.num_envs)
        explore = rng.random(args.num_envs) < epsilon
        if not explore.all():
            q = train_values(to_device(obs, device)).cpu().numpy()
            if args.policy == "boltzmann":
                # log pi up to a constant, with noise: the argmax below is a draw from pi
                q = (q - q.max(1, keepdims=True)) / args.temperature + rng.gumbel(size=q.shape)
            actions = np.where(explore, actions, q.argmax(1))
        envs.send(actions)

        # ALGO LOGIC: training, while the emulators run
        buffer.append(every_env, obs[:, -1], done, actions)
        if global_step >= args.learning_starts:
            for _ in range(due(global_step, args.num_envs, args.train_frequency)):
                batch = buffer.sample(args.batch_size, rng, device)
                loss, mean_q, td_errors = learn(*batch)
                losses = {"losses/td_loss": loss, "losses/q_values": mean_q}
            if due(global_step, args.num_envs, args.target_network_frequency):
                target_network.load_state_dict(q_network.state_dict())
        if due(global_step, args.num_envs, 1_000):
            log_training(writer, epsilon, losses, global_step, time.time() - start_time)

        # TRY NOT TO MODIFY: what the games answered. From here on `global_step` counts the step just taken
        obs, rewards, terminated, truncated, done, info = envs.recv()
        global_step += args.num_envs
        buffer.complete(clip_rewards(rewards), terminated)
        if truncated.any():
            buffer.truncate(truncated, info["newest_frame"])
        log_episodes(writer, progress, done, info, global_step)
        progress.update(args.num_envs)

        if due(global_step, args.num_envs, args.eval_frequency):
            metrics = evaluation_phase(global_step, run_dir)
            log_evaluation(run_dir, writer, metrics, global_step, time.time() - start_time)
            if args.save_best:
                best.offer(q_network, metrics["score_mean"], global_step)
                best.save(run_dir / "model_best.pt")
        if due(global_step, args.num_envs, args.checkpoint_frequency) and global_step < args.total_timesteps:
            # The emulators' state cannot be saved: all games start anew, in a run that goes on as in one that resumes
            buffer.truncate(~done, obs[:, -1])
            writer.flush()
            counters = {
                "global_step": global_step,
                "wall_time": time.time() - start_time,
                "losses": {tag: float(value) for tag, value in losses.items()},
            }
            save_checkpoint(run_dir, args, stateful, rng, counters)
            obs = envs.reset(rng.integers(2**31, size=args.num_envs))
            done = np.ones(args.num_envs, bool)  # `obs` begins an episode

    if args.save_model:
        torch.save(q_network.state_dict(), run_dir / "model.pt")
        torch.save(q_network.folded_state_dict(), run_dir / "model_folded.pt")
    if args.save_best:
        q_network.load_state_dict(best.weights)
        best_args = replace(args, eval_envs=30, eval_steps=1)  # 30 episodes (the authors' release), one a game
        new_step = global_step + 1  # no phase had it, so these are not the episodes that selected the network
        metrics, *_ = play(partial(action_values, q_network), best_args, new_step)
        save_best_scores(run_dir, best, metrics)
    progress.close()
    writer.close()
    finish_run(run_dir)
