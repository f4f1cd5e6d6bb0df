# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#     "ale-py==0.12.1",
#     "gymnasium==1.4.0",
#     "numpy==2.4.6",
#     "psutil==7.2.2",
#     "tensorboard==2.21.0",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "tyro==1.0.17",
# ]
# ///
"""DQN on Atari with the optimizer and loss of Mnih et al. 2015, "Human-level control through deep
reinforcement learning": RMSprop with epsilon inside the square root, and the Huber loss. With
`--mean-scaling-coefficient n` it is the IB-DQN (RMSprop, Huber) of the mean-expansion layer's paper
(Nagarajan, Daley, White & Machado, ICML 2026, arXiv 2606.29806).

All else is as in `dqn_atari_mexp.py`, from which only the optimizer, the loss and the default k = 0 differ: the
protocol of Machado et al. 2018 and the final epsilon of Rainbow.
It is no reproduction of Mnih et al. 2015, whose games, final epsilon, initialisation and evaluation are others.

Usage: python related/nature_dqn_atari.py --env-id ALE/Breakout-v5
"""

import copy
import csv
import ctypes
import fcntl
import glob
import importlib.metadata
import importlib.util
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, NamedTuple, NoReturn, Optional, TextIO

import ale_py
import gymnasium
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
    cuda: bool = True  # train on the GPU when there is one
    cuda_graphs: bool = True  # run `update` and `action_values` as CUDA graphs, which is faster (GPU only)
    track: bool = False  # if toggled, this experiment is tracked with Weights and Biases (`pip install wandb`)
    wandb_project_name: str = "mean-expansion"  # the wandb's project name
    wandb_entity: Optional[str] = None  # the entity (team) of wandb's project
    save_model: bool = False  # whether to save the trained model into the run's folder; `play.py` shows it
    save_best: bool = False  # whether to save the network of the best evaluation phase there (`play.py --best`)
    runs_dir: str = "runs"  # the folder in which every run makes its own
    resume: bool = False  # go on with the newest run of this env, name and seed that has a checkpoint, if there is one
    checkpoint_frequency: int = 1_000_000  # agent steps between checkpoints (7 GB); each restarts all games; 0 is never

    # ENVIRONMENT
    env_id: str = "ALE/Breakout-v5"  # the game; `Breakout` and `BreakoutNoFrameskip-v4` name the same ROM
    num_envs: int = 1  # emulators, run in threads; all schedules count the agent steps of all together
    full_action_space: bool = True  # all 18 (Machado et al. 2018; 9 in Skiing, LostLuggage), or those that do something
    terminal_on_life_loss: bool = False  # if toggled, a lost life is terminal for learning; the game itself goes on

    # AGENT
    total_timesteps: int = 50_000_000  # agent steps of 4 frames: 200M frames (Machado et al. 2018)
    learning_rate: float = 2.5e-4  # of RMSprop (Mnih et al. 2015)
    rmsprop_alpha: float = 0.95  # the decay of RMSprop's averages of gradients and their squares (Mnih et al. 2015)
    rmsprop_eps: float = 1e-2  # epsilon of RMSprop, inside the square root (Mnih et al. 2015)
    mean_scaling_coefficient: float | Literal["n", "2n", "4n"] = 0.0  # k of the layer; n is the number of actions
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


# AGENT


class MeanExpansion(nn.Module):
    """q = z + k * mean(z): shares value across the actions of a state (arXiv 2606.29806); no parameters.

    Maps (..., n) to (..., n) of the same dtype. Differences between actions stay, and so does the greedy action, but
    gradients are shared: dL/dz = (I + k/n 11^T) dL/dq. k = 0 is the identity. Raises ValueError for k < 0 or infinite.
    """

    def __init__(self, k: float):
        super().__init__()
        if not 0 <= k < math.inf:
            raise ValueError(f"k = {k} must be a finite number, at least 0")
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


def make_network(args: Args, envs: "AtariEnvs") -> QNetwork:
    return QNetwork(envs.num_actions, args.mean_scaling_coefficient)


def linear_schedule(start_e: float, end_e: float, duration: int, t: int) -> float:
    """Linear decay from `start_e` to `end_e` over `duration` agent steps, then constant; `t` is the agent step."""
    return start_e + (end_e - start_e) * min(t / duration, 1.0)


def due(step: int, num_envs: int, frequency: int) -> int:
    """How many multiples of `frequency` the last step of all environments reached or passed; none if it is 0."""
    if frequency == 0:
        return 0
    step_before = max(step - num_envs, 0)
    return step // frequency - step_before // frequency


@torch.no_grad()
def action_values(q_network: nn.Module, obs: torch.Tensor) -> torch.Tensor:
    """The values (B, n) float32 that choose actions, of observations as the network takes them."""
    return q_network(obs)


class RMSprop(torch.optim.Optimizer):
    """RMSprop of Graves 2013 (arXiv 1308.0850, eq. 38 to 41, no momentum) as Mnih et al. 2015 used it: centred, and
    with epsilon inside the square root; `torch.optim.RMSprop` adds it outside. For the gradient g of a weight w:

    m <- alpha m + (1 - alpha) g;  v <- alpha v + (1 - alpha) g^2;  w <- w - lr g / sqrt(v - m^2 + eps)
    """

    def __init__(self, params, lr: float, alpha: float, eps: float):
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps})

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters in place, as a CUDA graph wants; those without a gradient are left alone."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["m"] = torch.zeros_like(param)
                    state["v"] = torch.zeros_like(param)
                m = state["m"]
                v = state["v"]
                m.lerp_(param.grad, 1 - group["alpha"])
                v.lerp_(param.grad.square(), 1 - group["alpha"])
                variance = (v - m.square()).clamp_(min=0)  # rounding could make it negative
                param.sub_(group["lr"] * param.grad / (variance + group["eps"]).sqrt())


def update(
    q_network: nn.Module, target_network: nn.Module, optimizer: torch.optim.Optimizer, args: Args, batch: "Batch"
) -> tuple[torch.Tensor, ...]:
    """One gradient step. Returns the loss and the mean Q(s, a), of shape (), and the batch's TD errors, (B,).

    The loss is the Huber loss of the TD error with delta 1, summed over the batch, which clips the TD error in the
    gradient to [-1, 1] (Mnih et al. 2015); all but terminal transitions bootstrap.
    """
    with torch.no_grad():
        next_values = target_network(batch.next_obs).amax(1)
        td_target = batch.rewards + args.gamma * (1 - batch.terminated) * next_values
    q_taken = q_network(batch.obs).gather(1, batch.actions[:, None]).squeeze(1)
    td_errors = td_target - q_taken
    assert td_errors.shape == batch.actions.shape, "a td_target of another shape than (B,) is broadcast"
    loss = nn.functional.huber_loss(td_errors, torch.zeros_like(td_errors), reduction="sum", delta=1.0)

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), q_taken.detach().mean(), td_errors.detach()


def update_minibatches(
    q_network: nn.Module, target_network: nn.Module, optimizer: torch.optim.Optimizer, args: Args, *fields: torch.Tensor
) -> list[tuple[torch.Tensor, ...]]:
    """One `update` for every `--batch-size` transitions of a batch, given by its fields; returns what each returned."""
    minibatches = zip(*(field.split(args.batch_size) for field in fields), strict=True)
    return [update(q_network, target_network, optimizer, args, Batch(*minibatch)) for minibatch in minibatches]


# ENVIRONMENT


class AtariEnvs:
    """N games in C++ threads: `ale_py.AtariVectorEnv` with the protocol of Machado et al. 2018.

    One agent step is 4 frames, and each repeats the previous action with probability 0.25. Observations stack 4 steps,
    each the max of its last two frames as 84x84 grayscale; zeros before an episode's start. Episodes end at game over
    or after `max_steps` agent steps. The limit is kept here, since the emulator's own leaves the last frame out of the
    observation that a truncated transition bootstraps from. `options` goes to `AtariVectorEnv`. Raises
    gymnasium.error.Error for an unknown game.
    """

    def __init__(
        self, env_id: str, num_envs: int, full_action_space=True, life_loss=False, max_steps=27_000, **options
    ):
        gymnasium.register_envs(ale_py)
        game = env_id.removeprefix("ALE/").removesuffix("-v5").removesuffix("NoFrameskip-v4")
        self.env_id = f"ALE/{game}-v5"
        self.envs = AtariVectorEnv(
            gymnasium.spec(self.env_id).kwargs["game"],
            num_envs,
            num_threads=num_envs,
            autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
            repeat_action_probability=0.25,
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
        """Take the actions, (N,) int64, and return at once: the emulators run until `recv`."""
        if actions.min() < 0 or actions.max() >= self.num_actions:  # with which the emulator would hang
            raise ValueError(f"actions {actions} must be in 0..{self.num_actions - 1}")
        self.envs.send(actions)

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Wait for the emulators. Returns, for each game: the next observation, uint8, already of a new episode if
        `done`; the unclipped reward, int32; terminated (for learning), truncated and done, bool; and in `info` the
        `score` and `length` (agent steps) of the episode so far, and its `newest_frame`, (N, 84, 84) uint8, which for a
        truncated episode is the true last one."""
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


def make_envs(args: Args, num_envs: int) -> AtariEnvs:
    return AtariEnvs(args.env_id, num_envs, args.full_action_space, args.terminal_on_life_loss)


def clip_rewards(rewards: np.ndarray) -> np.ndarray:
    """Rewards for learning: the sign (Mnih et al. 2015). The score is not clipped."""
    return np.sign(rewards)


# REPLAY BUFFER


class Batch(NamedTuple):
    """Transitions on the training device. `next_obs` is undefined where `terminated`."""

    obs: torch.Tensor  # (B, ...), as the network takes them
    actions: torch.Tensor  # (B,) int64
    rewards: torch.Tensor  # (B,) float32, for learning
    next_obs: torch.Tensor  # (B, ...)
    terminated: torch.Tensor  # (B,) float32, 0 or 1


class ReplayBuffer:
    """Uniform replay of the last `capacity` transitions, one 84x84 uint8 frame each, preallocated on `device`.

    The slots are a table of `length` rows and a column for each environment, stored row by row: a slot is
    row * num_envs + env, and every column is a ring. A slot holds the newest frame of an observation and the action,
    reward and termination that followed; stacks are rebuilt when sampling. A column has 4 more slots than transitions:
    for the newest observation and for the history of the oldest transition. The final observation of a truncated
    episode takes a slot too. Raises MemoryError, with the bytes needed and free.
    """

    def __init__(self, capacity: int, num_envs: int, device: torch.device):
        self.num_envs = num_envs
        self.device = device
        self.length = math.ceil(capacity / num_envs) + 4  # rows
        self.size = self.length * num_envs
        needed, free = (self.size + 1) * 84 * 84, free_memory(device)
        if needed > 0.95 * free:
            fits = max(int(0.8 * capacity * free / needed), 0)
            raise MemoryError(
                f"--buffer-size {capacity} needs {needed:,} bytes, {device} has {free:,} free; try {fits}"
            )
        # The last frame stays zero. Filling takes all memory now, not in the middle of the run
        self.frames = torch.empty((self.size + 1, 84, 84), dtype=torch.uint8, device=device).fill_(0)
        self.actions = np.zeros(self.size, np.uint8)
        self.rewards = np.zeros(self.size, np.float32)
        self.terminated = np.zeros(self.size, bool)
        self.history = np.zeros(self.size, np.uint8)  # how many of the 3 frames before are of the same episode
        self.written = np.zeros(num_envs, np.int64)  # slots ever written, of each environment

    def append(self, columns: np.ndarray, frames: np.ndarray, first: np.ndarray, actions: np.ndarray) -> None:
        """Store the newest frames of the environments `columns`, (M, 84, 84) uint8, and the actions taken, (M,) int64.
        Where `first`, (M,) bool, the frame begins an episode."""
        rows = self.written[columns] % self.length
        slots = rows * self.num_envs + columns
        previous = slots - self.num_envs  # of row 0: negative, which NumPy counts from the end
        self.frames.index_copy_(0, to_device(slots, self.device), to_device(frames, self.device))
        self.history[slots] = np.where(first, 0, np.minimum(self.history[previous] + 1, 3))
        self.actions[slots] = actions
        self.rewards[slots] = 0
        self.terminated[slots] = False
        self.written[columns] += 1

    def complete(self, rewards: np.ndarray, terminated: np.ndarray) -> None:
        """Store what followed the newest actions of all environments: rewards for learning and terminations, (N,)."""
        rows = (self.written - 1) % self.length
        slots = rows * self.num_envs + np.arange(self.num_envs)
        self.rewards[slots] = rewards
        self.terminated[slots] = terminated

    def truncate(self, cut: np.ndarray, newest_frames: np.ndarray) -> None:
        """Where `cut`, (N,) bool, store the final frame of an episode, from which its last transition bootstraps. The
        next frame appended there must begin an episode."""
        self.append(np.flatnonzero(cut), newest_frames[cut], first=np.zeros(cut.sum(), bool), actions=0)

    def valid(self, slots: np.ndarray) -> np.ndarray:
        """Which slots may be sampled, bool: the successor is terminal, or follows in the next slot as a frame of the
        same episode, and no frame of the history has been overwritten."""
        rows, columns = np.divmod(slots, self.num_envs)
        written = self.written[columns]
        age = (written - 1 - rows) % self.length  # rows written in this column since then; 0 is the newest
        next_slots = (slots + self.num_envs) % self.size
        has_successor = (age > 0) & (self.history[next_slots] > 0)  # the first frame of an episode has history 0
        has_history = age + self.history[slots] < self.length
        was_written = age < written
        return was_written & has_history & (self.terminated[slots] | has_successor)

    def sample(self, batch_size: int, rng: np.random.Generator, device: torch.device) -> Batch:
        """Draw transitions uniformly, with replacement, onto `device`; observations are (B, 4, 84, 84) uint8."""
        slots = rng.integers(self.slots_in_use(), size=batch_size)
        while (rejected := ~self.valid(slots)).any():
            slots[rejected] = rng.integers(self.slots_in_use(), size=np.count_nonzero(rejected))

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

    def slots_in_use(self) -> int:
        """The number of slots, from the first, among which all transitions lie."""
        return min(int(self.written.max()), self.length) * self.num_envs

    def views(self, count: int) -> dict[str, torch.Tensor]:
        """What a checkpoint holds of the first `count` slots, sharing their memory: every array of `__init__`."""
        arrays = {"frames": self.frames[:count], "written": torch.from_numpy(self.written)}
        for name in ("actions", "rewards", "terminated", "history"):
            arrays[name] = torch.from_numpy(getattr(self, name)[:count])
        return arrays

    def state_dict(self) -> dict[str, torch.Tensor]:
        state = self.views(self.slots_in_use())
        state["frames"] = torch.from_numpy(state["frames"].cpu().numpy())  # a slice would save all of the memory
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for name, array in self.views(len(state["frames"])).items():
            array.copy_(state[name])


# EVALUATION


def evaluate(values: Callable, args: Args, step: int, device: torch.device) -> dict[str, float]:
    """An evaluation phase at agent step `step`; `values` maps observations to action-values (N, n), on `device`.

    Episodes start while fewer than `--eval-steps` agent steps were taken; all are finished and counted. Returns the
    metrics; those that are no scores are averages over all steps.
    """
    envs = make_envs(args, args.eval_envs)
    rng = np.random.default_rng((args.seed, step))  # of its own: evaluating leaves the training as it is
    obs = envs.reset(rng.integers(2**31, size=envs.num_envs))
    every_env = np.arange(envs.num_envs)
    scoring = np.ones(envs.num_envs, bool)  # games still being scored
    steps_taken = 0
    scores = []
    discount_sum = np.zeros(envs.num_envs)
    episode_sums = 0.0  # over the steps so far of the episode that each game plays: (quantities, N)
    totals = 0.0  # over all steps of the finished episodes: (quantities,)
    total_steps = 0
    while scoring.any():
        q = values(to_device(obs, device)).cpu().numpy()
        explore = rng.random(envs.num_envs) < args.eval_epsilon
        random_actions = rng.integers(q.shape[1], size=envs.num_envs)
        actions = np.where(explore, random_actions, q.argmax(1))
        envs.send(actions)
        obs, rewards, _, _, done, info = envs.recv()
        steps_taken += np.count_nonzero(scoring)

        # The returns G_u, ..., G_0 contain the reward r_u times 1, gamma, ..., gamma^u, so the sum of all returns of an
        # episode is the sum of all r_u * (1 + gamma + ... + gamma^u)
        discount_sum = 1 + args.gamma * discount_sum
        second, first = np.sort(q, axis=1)[:, -2:].T
        measured = {
            "mean_q": q[every_env, actions],
            "mean_discounted_return": clip_rewards(rewards) * discount_sum,
            "action_gap": first - second,
            "q_norm": np.linalg.norm(q, axis=1),
        }
        episode_sums = episode_sums + np.stack(list(measured.values()))

        finished = done & scoring
        scores += info["score"][finished].tolist()
        total_steps += info["length"][finished].sum()
        totals = totals + episode_sums[:, finished].sum(1)
        episode_sums[:, done] = 0
        discount_sum[done] = 0
        if steps_taken >= args.eval_steps:
            scoring = scoring & ~done  # no other episode starts

    means = dict(zip(measured, (totals / total_steps).tolist(), strict=True))
    metrics = {
        "episodes": len(scores),
        "score_mean": float(np.mean(scores)),
        "score_median": float(np.median(scores)),
        "score_std": float(np.std(scores)),
        "mean_q": means["mean_q"],
        "mean_discounted_return": means["mean_discounted_return"],
        "overestimation": means["mean_q"] - means["mean_discounted_return"],
    }
    return metrics | means


# MEMORY AND SPEED


def free_memory(device: torch.device) -> int:
    """Free bytes of the GPU, or of the host within the limits of a container or job."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    free = psutil.virtual_memory().available
    if (address_space := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:  # ulimit -v
        free = min(free, address_space - psutil.Process().memory_info().vms)
    processes = Path("/proc/self/cgroup")
    lines = processes.read_text().splitlines() if processes.exists() else []
    groups = dict(line.split(":", 2)[1:] for line in lines)
    for controllers, mount, limit, usage, cache in (
        ("", "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        group = Path(mount + groups.get(controllers, "/"))
        for folder in (group, *group.parents):
            if (folder / limit).exists() and (folder / limit).read_text() != "max\n":
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                used = int((folder / usage).read_text()) - int(stat[cache])  # file cache is given up when need be
                free = min(free, int((folder / limit).read_text()) - used)
    return free


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A tensor of `array`. On the CPU it shares the array's memory; the copy to a GPU is from pinned memory, and Python
    does not wait for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def capture(function: Callable, optimizer: Optional[torch.optim.Optimizer] = None) -> Callable:
    """`function` of tensors as CUDA graphs, one for each shape of its inputs: the GPU repeats kernels without Python.

    Three ordinary calls on a side stream come first, in which PyTorch allocates what it needs; the fourth is captured.
    From then on branches taken and Python numbers (gamma, k) are frozen, parameters must be changed in place, and every
    call overwrites the outputs of the one before. Raises RuntimeError if a number of `optimizer`, such as the learning
    rate, changes, or if `function` cannot be captured.
    """
    stream = torch.cuda.Stream()
    graphs = {}  # by the shapes and dtypes of the inputs

    def call(*inputs: torch.Tensor):
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        graph = graphs.setdefault(key, SimpleNamespace(calls=0))
        graph.calls += 1
        if graph.calls <= 3:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                outputs = function(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            return outputs
        groups = optimizer.param_groups if optimizer else []
        numbers = [value for group in groups for name, value in group.items() if name != "params"]
        if graph.calls == 4:
            graph.inputs = [tensor.clone() for tensor in inputs]
            graph.numbers = numbers
            graph.kernels = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph.kernels):
                    graph.outputs = function(*graph.inputs)
            except Exception as error:
                reason = error.__context__ or error  # to end a capture that went wrong raises another error
                raise RuntimeError(f"no CUDA graph ({reason}): change it, or add --no-cuda-graphs") from error
        if numbers != graph.numbers:
            raise RuntimeError("the learning rate is frozen in the CUDA graph: make it a tensor, or --no-cuda-graphs")
        for captured, new in zip(graph.inputs, inputs, strict=True):
            captured.copy_(new)
        graph.kernels.replay()
        return graph.outputs

    return call


# RUNS (skip at first)


def fail(message: object) -> NoReturn:
    """End the program over a user's mistake: one line on stderr, exit code 2."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


AT_LEAST_0 = ("seed", "checkpoint_frequency", "learning_rate", "rmsprop_eps", "eval_frequency")
AT_LEAST_0 += ("mean_scaling_coefficient",)
AT_LEAST_1 = ("num_envs", "total_timesteps", "target_network_frequency", "batch_size", "exploration_steps")
AT_LEAST_1 += ("learning_starts", "train_frequency", "eval_envs")
FROM_0_TO_1 = ("gamma", "start_e", "end_e", "eval_epsilon")
FROM_0_TO_1 += ("rmsprop_alpha",)
MAY_DIFFER = ("resume", "runs_dir", "track", "wandb_project_name", "wandb_entity", "save_model")  # on --resume


def check_args(args: Args) -> None:
    """Refuse values that cannot work, and warn of a run that learns nothing or ends without an evaluation."""
    least = dict.fromkeys(AT_LEAST_0, 0) | dict.fromkeys(AT_LEAST_1, 1) | {"buffer_size": 8 * args.num_envs}
    for name, value in vars(args).items():
        flag = f"--{name.replace('_', '-')} {value}"
        if name in least and not isinstance(value, str) and not least[name] <= value < math.inf:
            fail(f"{flag} must be a finite number, at least {least[name]}")
        if name in FROM_0_TO_1 and not 0 <= value <= 1:
            fail(f"{flag} must be from 0 to 1")
    if args.track and importlib.util.find_spec("wandb") is None:
        fail("--track needs the package wandb; `pip install wandb` brings it")
    if args.total_timesteps <= args.learning_starts:
        print(f"warning: --total-timesteps {args.total_timesteps} ends before --learning-starts {args.learning_starts}")
    last_step = math.ceil(args.total_timesteps / args.num_envs) * args.num_envs
    if not due(last_step, args.num_envs, args.eval_frequency):
        print(f"warning: step {last_step:,}, the last, is no multiple of --eval-frequency: no evaluation ends the run")


def lock_run(run_dir: Path) -> TextIO:
    """Keep other processes out of the run's folder until the returned file is closed, or our process ends."""
    file = open(run_dir / "lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fail(f"--resume: another process is at work on {run_dir}; wait for its end, or stop it")
    except OSError:
        pass  # a file system that has no locks
    return file


def open_run(args: Args) -> tuple[Path, TextIO]:
    """The run's folder and its lock: with `--resume` those of the newest run of this environment, name and seed that
    has a checkpoint, or else of a new one, named by the time. Ends the program if that run has finished."""
    name = f"{args.env_id}__{args.exp_name}__{args.seed}__"
    folders = sorted(Path(args.runs_dir).glob(glob.escape(name) + "[0-9]" * 10), reverse=True)
    for folder in folders if args.resume else []:
        try:
            config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").exists() else {}
        except ValueError as error:
            fail(f"--resume: {folder / 'config.json'} is damaged ({error}); start a new run without --resume")
        finished = config.get("finished", False)
        lock = None if finished else lock_run(folder)
        if not finished and not (folder / "checkpoint.pt").exists():
            continue
        old_args = vars(Args()) | config["args"]  # a flag that is newer than the run had its default
        for flag, value in json.loads(json.dumps(vars(args), default=str)).items():
            if flag not in MAY_DIFFER and value != old_args[flag]:
                fail(f"--resume: {folder} had {flag} = {old_args[flag]}, not {value}; start a new run without --resume")
        if finished:
            print(f"--resume: {folder} has finished, nothing is left to do")
            raise SystemExit
        return folder, lock
    started = int(time.time())
    while (run_dir := Path(args.runs_dir) / f"{name}{started}").is_dir():  # of another run of this second
        started += 1
    run_dir.mkdir(parents=True)
    return run_dir, lock_run(run_dir)


def start_config(run_dir: Path, args: Args, step: int, **facts) -> dict:
    """What `config.json` holds: the arguments, the script, and for every start, at agent step `step`, what else the run
    depends on. Prints what has changed since the start before."""
    describe = "git -c safe.directory='*' describe --always --dirty --abbrev=40 --exclude='*'"
    git = subprocess.run(describe, shell=True, cwd=Path(__file__).parent, capture_output=True, text=True)
    packages = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "ale-py", "gymnasium")}
    commit = git.stdout.strip() or None
    start = {"step": step, "git_commit": commit, "packages": {"python": sys.version} | packages} | facts
    config = {"args": vars(args), "script": os.path.relpath(__file__, run_dir), "finished": False, "starts": []}
    if step > 0:
        config = json.loads((run_dir / "config.json").read_text())
        for name, value in config["starts"][-1].items():
            if name != "step" and start[name] != value:
                print(f"--resume: {name} is now {start[name]}, was {value}")
    config["starts"].append(start)
    return config


def write_config(run_dir: Path, config: dict) -> None:
    (run_dir / "config.tmp").write_text(json.dumps(config, indent=2, default=str))
    (run_dir / "config.tmp").replace(run_dir / "config.json")


def save_checkpoint(path: Path, components: dict, counters: dict, rng: np.random.Generator) -> None:
    """Write what the loop needs to go on, whole or not at all; on a full disk the checkpoint before is kept. Raises
    pickle.UnpicklingError for what is no tensor or plain Python value."""
    checkpoint = {
        "components": {name: component.state_dict() for name, component in components.items()},
        "counters": counters,
        "rng": rng.bit_generator.state,
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }
    unfinished = path.with_suffix(".tmp")
    try:
        with open(unfinished, "wb") as file:
            torch.save(checkpoint, file)
            os.fsync(file.fileno())
        torch.load(unfinished, map_location="cpu", weights_only=True, mmap=True)  # what this refuses is of no use later
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save makes a RuntimeError of a full disk
        unfinished.unlink(missing_ok=True)
        tqdm.write(f"warning: no checkpoint at step {counters['global_step']:,}, the one before is kept: {error!r}")


def load_checkpoint(path: Path, components: dict, rng: np.random.Generator) -> dict:
    """Put everything back as `save_checkpoint` found it; returns the counters. Ends the program if that cannot be."""
    try:
        if damaged := zipfile.ZipFile(path).testzip():
            raise ValueError(f"wrong checksum of {damaged}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        for name, component in components.items():
            state = checkpoint["components"][name]
            if isinstance(component, torch.optim.Optimizer):
                state = copy.deepcopy(state)  # it keeps these tensors, which must not stay mapped to the file
                for group, own in zip(state["param_groups"], component.param_groups, strict=True):
                    group["capturable"] = own.get("capturable")  # the device's: a run may go on on another one
            component.load_state_dict(state)
        rng.bit_generator.state = checkpoint["rng"]
        torch.set_rng_state(checkpoint["torch_rng"])
        if torch.cuda.is_initialized() and checkpoint["cuda_rng"] is not None:
            torch.cuda.set_rng_state(checkpoint["cuda_rng"])
        print(f"--resume: {path} goes on from step {checkpoint['counters']['global_step']:,}")
    except Exception as error:  # zipfile, torch and a network of other sizes raise whatever they like
        fail(f"--resume: {path} is damaged or of another script ({error!r}); start a new run without --resume")
    return checkpoint["counters"]


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    check_args(args)
    device = torch.device("cuda" if torch.cuda.is_available() and args.cuda else "cpu")
    device_name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU (no CUDA GPU found, or --no-cuda)"
    if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
        sys.stdout.reconfigure(line_buffering=True)
    print("device:", device_name)
    if device.type == "cuda":
        torch.set_num_threads(1)  # more would take the emulators' cores
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc is to keep what is freed: to fault it in anew takes a fifth of an update
        libc.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD

    # TRY NOT TO MODIFY: seeding
    torch.manual_seed(args.seed)
    torch.backends.cudnn.deterministic = args.torch_deterministic
    rng = np.random.default_rng(args.seed)

    # ENV, RUN FOLDER, BUFFER AND NETWORK SETUP
    try:
        envs = make_envs(args, args.num_envs)
        args.env_id = envs.env_id
        if isinstance(args.mean_scaling_coefficient, str):
            multiple = {"n": 1.0, "2n": 2.0, "4n": 4.0}[args.mean_scaling_coefficient]
            args.mean_scaling_coefficient = multiple * envs.num_actions
        run_dir, lock = open_run(args)
        buffer_device = device if args.buffer_device == "auto" else torch.device(args.buffer_device)
        buffer = ReplayBuffer(args.buffer_size, args.num_envs, buffer_device)
    except gymnasium.error.Error as error:
        fail(f"--env-id {args.env_id}: {error}")
    except OSError as error:
        fail(f"--runs-dir {args.runs_dir}: {error}; name a folder that can be written to")
    except MemoryError as error:
        if not (run_dir / "config.json").exists():
            shutil.rmtree(run_dir)
        fail(error)
    q_network = make_network(args, envs).to(device, memory_format=torch.channels_last)  # the fastest layout on a CPU
    target_network = copy.deepcopy(q_network).requires_grad_(False)
    optimizer = RMSprop(
        q_network.parameters(),
        lr=args.learning_rate,
        alpha=args.rmsprop_alpha,
        eps=args.rmsprop_eps,
    )

    learn = partial(update_minibatches, q_network, target_network, optimizer, args)
    acting_values = partial(action_values, q_network)
    evaluation_values = partial(action_values, q_network)
    if device.type == "cuda" and args.cuda_graphs:
        learn = capture(learn, optimizer)
        acting_values = capture(acting_values)
        evaluation_values = capture(evaluation_values)

    # RUN SETUP. A checkpoint holds `components` and `counters`. What a hack adds to the loop's state belongs there; a
    # counter is set here, read back below, and saved at the loop's end
    components = {"q_network": q_network, "target_network": target_network, "optimizer": optimizer, "buffer": buffer}
    counters = {"global_step": 0, "wall_time": 0.0, "losses": {}, "evaluations": [], "best": {"score_mean": -math.inf}}
    if (run_dir / "checkpoint.pt").exists():
        counters = load_checkpoint(run_dir / "checkpoint.pt", components, rng)
    global_step, losses = counters["global_step"], counters["losses"]
    evaluations, best = counters["evaluations"], counters["best"]
    start_time = time.time() - counters["wall_time"]
    config = start_config(run_dir, args, global_step, num_actions=envs.num_actions, device=device_name)
    write_config(run_dir, config)
    print(f"run: {run_dir}")
    if args.track:
        import wandb

        wandb.init(
            project=args.wandb_project_name,
            entity=args.wandb_entity,
            id=run_dir.name.replace(":", "-"),
            name=run_dir.name,
            resume="allow",
            config=vars(args),
            sync_tensorboard=True,
        )
    # What a killed run logged after its checkpoint is hidden
    writer = SummaryWriter(str(run_dir), purge_step=global_step + 1 if global_step > 0 else None)

    # TRY NOT TO MODIFY: start the game
    every_env = np.arange(args.num_envs)
    obs = envs.reset(rng.integers(2**31, size=args.num_envs))
    done = np.ones(args.num_envs, bool)  # `obs` begins an episode
    interval = 1 if sys.stderr.isatty() else 60  # seconds; in a log every update is a line
    progress = tqdm(total=args.total_timesteps, initial=global_step, unit="step", miniters=1, mininterval=interval)
    while global_step < args.total_timesteps:
        # ALGO LOGIC: put action logic here
        epsilon = linear_schedule(args.start_e, args.end_e, args.exploration_steps, global_step)
        actions = rng.integers(envs.num_actions, size=args.num_envs)
        explore = rng.random(args.num_envs) < epsilon
        if not explore.all():
            q = acting_values(to_device(obs, device)).cpu().numpy()
            actions = np.where(explore, actions, q.argmax(1))
        envs.send(actions)

        # ALGO LOGIC: training, while the emulators run
        buffer.append(every_env, obs[:, -1], done, actions)
        if global_step >= args.learning_starts:
            if num_updates := due(global_step, args.num_envs, args.train_frequency):
                batch = buffer.sample(num_updates * args.batch_size, rng, device)  # for all updates that are due
                loss, mean_q, td_errors = learn(*batch)[-1]  # the last update's
                losses = {"losses/td_loss": loss, "losses/q_values": mean_q}
            if due(global_step, args.num_envs, args.target_network_frequency):
                target_network.load_state_dict(q_network.state_dict())
        if due(global_step, args.num_envs, 1_000):
            charts = {"charts/epsilon": epsilon, "charts/SPS": global_step / (time.time() - start_time)}
            for tag, value in (charts | losses).items():
                writer.add_scalar(tag, float(value), global_step)

        # TRY NOT TO MODIFY: what the games answered. From here on `global_step` counts the step just taken
        obs, rewards, terminated, truncated, done, info = envs.recv()
        global_step += args.num_envs
        buffer.complete(clip_rewards(rewards), terminated)
        if truncated.any():
            buffer.truncate(truncated, info["newest_frame"])
        for i in np.flatnonzero(done):
            writer.add_scalar("charts/episodic_return", info["score"][i], global_step)
            writer.add_scalar("charts/episodic_length", info["length"][i], global_step)
            progress.set_postfix(score=info["score"][i], refresh=False)
        progress.update(args.num_envs)

        if due(global_step, args.num_envs, args.eval_frequency):
            with torch.random.fork_rng([0] if device.type == "cuda" else []):  # evaluating leaves the training as it is
                metrics = evaluate(evaluation_values, args, global_step, device)
            tqdm.write(f"step {global_step:,}: " + ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()))
            for name, value in metrics.items():
                writer.add_scalar("eval/" + name, value, global_step)
            evaluations.append({"step": global_step} | metrics | {"wall_time": round(time.time() - start_time, 1)})
            with open(run_dir / "eval.csv", "w", newline="") as file:
                table = csv.DictWriter(file, evaluations[0])
                table.writeheader()
                table.writerows(evaluations)
            if args.save_best:  # written each time, since a killed run may have left the network of a later step
                if metrics["score_mean"] > best["score_mean"]:
                    best = {"step": global_step, "score_mean": metrics["score_mean"]}
                    best["weights"] = {name: weight.cpu().clone() for name, weight in q_network.state_dict().items()}
                torch.save(best, run_dir / "model_best.pt")
        if due(global_step, args.num_envs, args.checkpoint_frequency) and global_step < args.total_timesteps:
            # The emulators' state cannot be saved: all games start anew, in a run that goes on as in one that resumes
            buffer.truncate(~done, obs[:, -1])
            writer.flush()
            counters = {
                "global_step": global_step,
                "wall_time": time.time() - start_time,
                "losses": {tag: float(value) for tag, value in losses.items()},
                "evaluations": evaluations,
                "best": best,
            }
            save_checkpoint(run_dir / "checkpoint.pt", components, counters, rng)
            obs = envs.reset(rng.integers(2**31, size=args.num_envs))
            done = np.ones(args.num_envs, bool)  # `obs` begins an episode

    progress.close()
    writer.close()
    if args.save_model:
        torch.save(q_network.state_dict(), run_dir / "model.pt")
        torch.save(q_network.folded_state_dict(), run_dir / "model_folded.pt")
    write_config(run_dir, config | {"finished": True})
    for name in ("checkpoint.pt", "checkpoint.tmp", "lock"):
        (run_dir / name).unlink(missing_ok=True)
    score = f"score {evaluations[-1]['score_mean']:.5g}" if evaluations else "no evaluation"
    watch = f"python play.py {run_dir} --video" if args.save_model else "--save-model would have kept the network"
    print(f"finished: {run_dir}, {score}; to watch: {watch}")
