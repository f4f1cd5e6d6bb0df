# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#     "gymnasium==1.4.0",
#     "imageio-ffmpeg==0.8.1",
#     "MinAtar==1.0.15",
#     "numpy==2.4.6",
#     "psutil==7.2.2",
#     "seaborn==0.13.2",
#     "tensorboard==2.21.0",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "tyro==1.0.17",
# ]
# ///
"""Online soft Q-learning on the five MinAtar games, and the policy gradient that it equals (Schulman, Chen & Abbeel
2017, "Equivalence Between Policy Gradients and Soft Q-Learning", arXiv 1704.06440, section 6.3). 16 environments play
rollouts of 5 steps by the Boltzmann policy pi of Q itself; there is no replay, no target network and no epsilon.

A policy head (log pi) and a value head V on a shared torso make Q = V + tau (log pi + log n), tau the temperature, n
the number of actions. `--method q` minimises the squared error of Q(s, a) with scaled gradients, `--method pg` is A2C
with a KL penalty: over actions drawn from pi their expected gradients are equal. For one action drawn they are not, and
clipping and RMSprop are not linear, so the two learn alike on average at best. They differ in `loss_q` and `loss_pg`
only. Rewards are not clipped: the temperature is in their units.

The mean-expansion layer is left out: on this Q it would change V only, since softmax(Q / tau) stays as it is, and V has
a head of its own.

Usage: python related/softq_online_minatar.py --env-id MinAtar/Breakout-v1
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
import pickle
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
    checkpoint_frequency: int = 250_000  # agent steps between checkpoints (2 MB with the defaults); 0 is never
    num_threads: int = 1  # CPU threads of PyTorch; more make a network this small slower

    # ENVIRONMENT
    env_id: str = "MinAtar/Breakout-v1"  # the game, or just its name; v1 has its minimal action set, v0 all 6 actions
    num_envs: int = 16  # games, stepped one after the other; all schedules count the agent steps of all together

    # AGENT
    total_timesteps: int = 5_000_000  # agent steps, of one frame each (Young & Tian 2019)
    learning_rate: float = 7e-4  # of RMSprop at first, falls to 0 (from here to gamma: Schulman et al. 2017, 6.3)
    rmsprop_alpha: float = 0.99  # the decay of RMSprop's average of squared gradients
    rmsprop_eps: float = 1e-5  # epsilon of RMSprop
    max_grad_norm: float = 0.5  # a greater norm of the gradient is scaled down to this
    method: Literal["q", "pg"] = "q"  # soft Q-learning with scaled gradients, or A2C with the same expected gradient
    temperature: float = 0.01  # tau, in units of reward
    value_coefficient: float = 0.5  # c, the weight of the error of V
    num_steps: int = 5  # steps of a rollout, in each environment, for each gradient step
    gamma: float = 0.99  # the discount factor

    # EVALUATION
    eval_frequency: int = 100_000  # agent steps between evaluation phases; 0 is never
    eval_episodes: int = 100  # episodes of an evaluation phase
    eval_envs: int = 20  # games that an evaluation phase plays at a time
    eval_epsilon: float = 0.001  # epsilon on top of pi in an evaluation phase (Dabney et al. 2018)
    eval_only: Optional[str] = None  # evaluate this saved model, RUN/model.pt, for one phase instead of training
    capture_video: bool = False  # whether to film the first episode of every evaluation phase (videos/ in the run)


# AGENT


class QNetwork(nn.Module):
    """The network of Young & Tian 2019 with two heads: observations (B, 10, 10, C) bool to action-values (B, n).

    Weights are LeCun normal, with standard deviation 1/sqrt(fan_in); biases 0.1, and 0 in the heads. Those of the
    policy's head are a hundredth of that, so that pi is nearly uniform at first: a choice of ours.
    """

    def __init__(self, num_channels: int, num_actions: int, temperature: float):
        super().__init__()
        self.temperature = temperature
        self.network = nn.Sequential(
            nn.Conv2d(num_channels, 16, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1024, 128),
            nn.ReLU(),
        )
        self.logits = nn.Linear(128, num_actions)
        self.value = nn.Linear(128, 1)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                fan_in = layer.weight[0].numel()
                nn.init.normal_(layer.weight, std=fan_in**-0.5)
                nn.init.constant_(layer.bias, 0.1)
        nn.init.zeros_(self.logits.bias)
        nn.init.zeros_(self.value.bias)
        with torch.no_grad():
            self.logits.weight.mul_(0.01)

    def heads(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The value V, (B,) float32, and log pi, (B, n) float32."""
        planes = obs.permute(0, 3, 1, 2).float().contiguous()  # (B, C, 10, 10)
        features = self.network(planes)
        return self.value(features).squeeze(1), self.logits(features).log_softmax(1)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Q, (B, n) float32: its Boltzmann policy softmax(Q / tau) is pi, and its soft value, in the KL form, is V.

        For evaluation: training acts by `heads`, and `loss_q` and `update` write Q out themselves.
        """
        v, log_pi = self.heads(obs)
        return v[:, None] + self.temperature * (log_pi + math.log(log_pi.shape[1]))


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


@torch.no_grad()
def action_values(q_network: nn.Module, obs: torch.Tensor) -> torch.Tensor:
    """The values (B, n) float32 that choose actions, of observations as the network takes them."""
    return q_network(obs)


@torch.no_grad()
def log_pi_of(q_network: nn.Module, obs: torch.Tensor) -> torch.Tensor:
    """log pi, (B, n) float32, of observations as the network takes them."""
    return q_network.heads(obs)[1]


def draw_actions(log_pi: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Actions (N,) int64 drawn from pi, given log pi, (N, n), up to a constant of each row: the argmax of it with
    Gumbel noise is such a draw."""
    return (log_pi + rng.gumbel(size=log_pi.shape)).argmax(1)


def scale_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """x itself, with its gradient times `factor`."""
    return x.detach() + factor * (x - x.detach())


def rollout_targets(args: Args, rollout: "Rollout", next_v: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
    """The targets of Q(s, a), (T, N), from V of the successors and KL(pi, uniform) of the observations, (T, N) each.

    Qhat_t = r_t + gamma Vhat_t+1, and Vhat_t = Qhat_t - tau KL_t (Schulman et al. 2017, section 6.3). In the place of
    Vhat_t+1 stands V of the true successor where the rollout ends or a time limit cut the episode, and 0 where the step
    was terminal.
    """
    targets = []  # from the last step to the first
    v_target = next_v[-1]
    for t in reversed(range(args.num_steps)):
        v_target = torch.where(rollout.truncated[t] > 0, next_v[t], v_target)
        q_target = rollout.rewards[t] + args.gamma * (1 - rollout.terminated[t]) * v_target
        v_target = q_target - args.temperature * kl[t]
        targets.append(q_target)
    targets.reverse()
    return torch.stack(targets)


def loss_q(args: Args, v: torch.Tensor, log_pi_a: torch.Tensor, log_n: float, kl: torch.Tensor, targets: torch.Tensor):
    """Soft Q-learning: the mean of (Qhat - Q)^2 / 2, with Q(s, a) = V + tau (log pi(a|s) + log n); returns shape ().

    The gradient of V is scaled by c and that of tau (log pi + log n) by 1 / tau, which are the weights they have in
    `loss_pg` (Schulman et al. 2017, section 6.3). The tensors are (T * N,), `log_n` is a number; `kl` is not used here,
    so that both losses have the same arguments.
    """
    v = scale_gradient(v, args.value_coefficient)
    advantage = scale_gradient(args.temperature * (log_pi_a + log_n), 1 / args.temperature)
    return 0.5 * (targets - (v + advantage)).square().mean()


def loss_pg(args: Args, v: torch.Tensor, log_pi_a: torch.Tensor, log_n: float, kl: torch.Tensor, targets: torch.Tensor):
    """A2C with a KL penalty: the mean of -log pi(a|s) (Vhat - V) + tau KL + c/2 (Vhat - V)^2, where Vhat, and V in the
    first term, are constants (Schulman et al. 2017). Arguments as in `loss_q`. If the actions are drawn from pi, its
    expected gradient is that of `loss_q`."""
    v_targets = targets - args.temperature * kl.detach()
    policy_loss = -log_pi_a * (v_targets - v.detach()) + args.temperature * kl
    value_loss = 0.5 * (v_targets - v).square()
    return (policy_loss + args.value_coefficient * value_loss).mean()


def update(q_network, optimizer, args: Args, rollout: "Rollout") -> tuple[torch.Tensor, ...]:
    """One gradient step on a rollout. Returns the loss, the mean Q(s, a) and the mean entropy of pi, of shape ()."""
    v, log_pi = q_network.heads(rollout.obs.flatten(0, 1))
    log_n = math.log(log_pi.shape[1])
    log_pi_a = log_pi.gather(1, rollout.actions.flatten()[:, None]).squeeze(1)
    if v.shape != log_pi_a.shape:  # (B, 1) would broadcast to (B, B) below
        raise RuntimeError(f"QNetwork.heads must return V of shape {tuple(log_pi_a.shape)}, not {tuple(v.shape)}")
    kl = (log_pi.exp() * log_pi).sum(1) + log_n
    with torch.no_grad():
        # Of all successors, though few are needed: a CUDA graph has fixed shapes
        next_v, _ = q_network.heads(rollout.next_obs.flatten(0, 1))
        shape = rollout.rewards.shape
        targets = rollout_targets(args, rollout, next_v.view(shape), kl.view(shape)).flatten()
    if args.method == "q":
        loss = loss_q(args, v, log_pi_a, log_n, kl, targets)
    else:
        loss = loss_pg(args, v, log_pi_a, log_n, kl, targets)

    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(q_network.parameters(), args.max_grad_norm)
    optimizer.step()
    q = v + args.temperature * (log_pi_a + log_n)
    return loss.detach(), q.detach().mean(), (log_n - kl).detach().mean()


# ENVIRONMENT


class MinAtarEnvs:
    """N games of the package MinAtar (Young & Tian 2019), stepped one after the other.

    With probability 0.1 a game repeats its previous action, and most games get harder with time: the package's
    defaults. Observations are (10, 10, C) bool, one channel for each kind of object. Episodes end at game over or after
    `max_steps` agent steps. `env_id` is the game's name or its gymnasium id. Raises ValueError for another.
    """

    def __init__(self, env_id: str, num_envs: int, max_steps: int = 27_000):
        if "MinAtar/Breakout-v1" not in gymnasium.registry:
            minatar.gym.register_envs()
        specs = {spec.id: spec for spec in gymnasium.registry.values() if spec.namespace == "MinAtar"}
        spec_of = dict(specs)  # by what a user may write: the id of either version, or the game's name
        for spec in specs.values():
            if spec.version == 1:
                spec_of[spec.name] = spec  # SpaceInvaders
                spec_of[spec.kwargs["game"]] = spec  # space_invaders
        if env_id not in spec_of:
            close = difflib.get_close_matches(env_id, spec_of, n=1)
            if not close:
                close = [name for name in specs if name.endswith("-v1")]
            raise ValueError(f"--env-id {env_id!r} is not a MinAtar game; try {' or '.join(close)}")
        spec = spec_of[env_id]
        self.env_id = spec.id
        self.games = [minatar.Environment(spec.kwargs["game"]) for _ in range(num_envs)]
        self.action_set = list(range(6))  # the package's actions; an agent's action is an index of this list
        if spec.kwargs["use_minimal_action_set"]:
            self.action_set = self.games[0].minimal_action_set()
        self.num_envs = num_envs
        self.num_actions = len(self.action_set)
        self.obs_shape = tuple(self.games[0].state_shape())
        self.max_steps = max_steps
        self.scores = np.zeros(num_envs, np.int64)
        self.lengths = np.zeros(num_envs, np.int64)

    def observe(self) -> np.ndarray:
        """The observations of all games as they stand, (N, 10, 10, C) bool."""
        return np.stack([game.state() for game in self.games])

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Start an episode in every game, seeded by (N,) int64; returns the observations, (N, 10, 10, C) bool."""
        for game, seed in zip(self.games, seeds, strict=True):
            game.seed(int(seed))
            game.reset()
        self.scores = np.zeros(self.num_envs, np.int64)
        self.lengths = np.zeros(self.num_envs, np.int64)
        return self.observe()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Take the actions, (N,) int64. Returns, each with N rows: the next observations (bool), of a new episode where
        one ended; rewards (int64); whether the game was over; whether the time limit cut it; whether the episode is
        done (bool); and in `info` the `score` and `length` (agent steps) of the episodes so far, (N,), and `final_obs`,
        (N, 10, 10, C) bool: the successors, which where an episode ended are its last observations."""
        rewards = np.zeros(self.num_envs, np.int64)
        terminated = np.zeros(self.num_envs, bool)
        for i, action in enumerate(actions):
            rewards[i], terminated[i] = self.games[i].act(self.action_set[action])
        self.scores = self.scores + rewards
        self.lengths = self.lengths + 1
        truncated = (self.lengths >= self.max_steps) & ~terminated
        done = terminated | truncated
        final_obs = self.observe()
        info = {"final_obs": final_obs, "score": self.scores, "length": self.lengths}
        for i in np.flatnonzero(done):
            self.games[i].reset()
        obs = self.observe() if done.any() else final_obs
        self.scores = np.where(done, 0, self.scores)
        self.lengths = np.where(done, 0, self.lengths)
        return obs, rewards, terminated, truncated, done, info

    def state_dict(self) -> dict:
        """The games as they stand, with their generators."""
        return {"games": pickle.dumps((self.games, self.scores, self.lengths))}

    def load_state_dict(self, state: dict) -> None:
        """Put the games back. Unpickling runs code: only go on from checkpoints that you trust."""
        self.games, self.scores, self.lengths = pickle.loads(state["games"])


# ROLLOUTS


class Rollout(NamedTuple):
    """T steps of N environments on the training device, (T, N, ...): observations; actions int64; rewards for learning
    float32; successors, the true ones where a time limit cut and without meaning where terminal; terminated and
    truncated, float32 0 or 1."""

    obs: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_obs: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor


class RolloutBuffer:
    """The steps of N environments since the last `take`, at most `num_steps`, in host memory; one more raises
    IndexError. Raises MemoryError if they and what `update` makes of them would not fit."""

    def __init__(self, num_steps: int, num_envs: int, obs_shape: tuple[int, ...]):
        # Bytes: of an update with this network 20 (10 channels) to 40 (4 channels) times those of the observations
        needed = 40 * num_steps * num_envs * math.prod(obs_shape)
        if needed > 0.95 * psutil.virtual_memory().available:
            raise MemoryError
        self.num_steps = num_steps
        self.obs = np.zeros((num_steps, num_envs, *obs_shape), bool)
        self.actions = np.zeros((num_steps, num_envs), np.int64)
        self.rewards = np.zeros((num_steps, num_envs), np.float32)
        self.next_obs = np.zeros((num_steps, num_envs, *obs_shape), bool)
        self.terminated = np.zeros((num_steps, num_envs), np.float32)
        self.truncated = np.zeros((num_steps, num_envs), np.float32)
        self.steps = 0

    def append(
        self,
        obs: np.ndarray,
        final_obs: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        """Store one step: observations and their successors, (N, ...), the actions, rewards and ends, (N,)."""
        self.obs[self.steps] = obs
        self.actions[self.steps] = actions
        self.rewards[self.steps] = rewards
        self.next_obs[self.steps] = final_obs
        self.terminated[self.steps] = terminated
        self.truncated[self.steps] = truncated
        self.steps += 1

    def full(self) -> bool:
        """Whether there are `num_steps` steps."""
        return self.steps == self.num_steps

    def take(self, device: torch.device) -> Rollout:
        """The steps, onto `device`; the buffer is empty then. On the CPU they are its own arrays."""
        self.steps = 0
        return Rollout(
            obs=to_device(self.obs, device),
            actions=to_device(self.actions, device),
            rewards=to_device(self.rewards, device),
            next_obs=to_device(self.next_obs, device),
            terminated=to_device(self.terminated, device),
            truncated=to_device(self.truncated, device),
        )

    def state_dict(self) -> dict:
        """The arrays, of which the first `steps` rows are filled."""
        return {
            "obs": torch.from_numpy(self.obs),
            "actions": torch.from_numpy(self.actions),
            "rewards": torch.from_numpy(self.rewards),
            "next_obs": torch.from_numpy(self.next_obs),
            "terminated": torch.from_numpy(self.terminated),
            "truncated": torch.from_numpy(self.truncated),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict) -> None:
        """Put them back."""
        self.obs[:] = state["obs"]
        self.actions[:] = state["actions"]
        self.rewards[:] = state["rewards"]
        self.next_obs[:] = state["next_obs"]
        self.terminated[:] = state["terminated"]
        self.truncated[:] = state["truncated"]
        self.steps = state["steps"]


# EVALUATION


def evaluate(envs: MinAtarEnvs, q_values, args: Args, step: int) -> tuple[dict[str, float], list[np.ndarray]]:
    """`--eval-episodes` episodes; `q_values` maps (N, 10, 10, C) bool arrays to values (N, n).

    A game whose episode has ended starts another while fewer than that many were started, and all are finished and
    counted. Returns the metrics over all their steps, and the observations of the first game's first episode.
    """
    rng = np.random.default_rng((args.seed, step))  # of its own: evaluating leaves the training as it is
    obs = envs.reset(rng.integers(2**31, size=envs.num_envs))
    every_env = np.arange(envs.num_envs)
    active = every_env < args.eval_episodes  # games that play an episode which counts
    episodes_started = np.count_nonzero(active)
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
        drawn = draw_actions(q / args.temperature, rng)  # by pi, as in training: q / tau is log pi up to a constant
        actions = np.where(explore, random_actions, drawn)
        if not first_done:
            first_episode.append(obs[0])
        obs, rewards, _, _, done, info = envs.step(actions)
        first_done = first_done or done[0]

        # The returns G_u, G_{u-1}, ..., G_0 contain the reward r_u times 1, gamma, ..., gamma^u. So the sum of all
        # returns of an episode is the sum of all r_u * (1 + gamma + ... + gamma^u)
        discount_sum = 1 + args.gamma * discount_sum
        ascending = np.sort(q, axis=1)
        z = q - k / (k + 1) * q.mean(1, keepdims=True)  # inverts q = z + k * mean(z)
        measured = {
            "mean_q": q[every_env, actions],
            "mean_discounted_return": rewards * discount_sum,
            "action_gap": ascending[:, -1] - ascending[:, -2],
            "q_norm": np.linalg.norm(q, axis=1),
            "z_norm": np.linalg.norm(z, axis=1),
        }

        finished = done & active
        scores += info["score"][finished].tolist()
        total_steps += info["length"][finished].sum()
        for name, values in measured.items():
            sum_so_far = sums.get(name, np.zeros(envs.num_envs)) + values
            totals[name] = totals.get(name, 0.0) + sum_so_far[finished].sum()
            sums[name] = np.where(done, 0.0, sum_so_far)
        discount_sum[done] = 0
        for i in np.flatnonzero(finished):  # each of these games goes on with another episode if one is left
            if episodes_started < args.eval_episodes:
                episodes_started += 1
            else:
                active[i] = False

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
    return metrics | means, first_episode


def record_video(path: Path, observations: list[np.ndarray]) -> None:
    """Film an episode of (10, 10, C) bool observations in the colours in which the package displays its games."""
    num_channels = observations[0].shape[-1]
    colours = np.array([(0, 0, 0), *seaborn.color_palette("cubehelix", num_channels)])
    path.parent.mkdir(exist_ok=True)
    zoom = ["-vf", "scale=320:320:flags=neighbor"]
    video = imageio_ffmpeg.write_frames(str(path.absolute()), (10, 10), fps=15, macro_block_size=1, output_params=zoom)
    video.send(None)  # starts the generator
    for obs in observations:
        topmost = (obs * np.arange(1, num_channels + 1)).max(-1)  # 0 is nothing, i + 1 is channel i
        video.send((255 * colours[topmost]).astype(np.uint8).tobytes())
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
    "num_threads": (1, 1024),
    "num_envs": (1, math.inf),
    "total_timesteps": (1, math.inf),
    "learning_rate": (1e-12, 1e3),
    "rmsprop_alpha": (0, 1 - 1e-12),
    "rmsprop_eps": (1e-12, 1e3),
    "max_grad_norm": (1e-12, 1e12),
    "temperature": (1e-4, 1e4),  # with less, V + tau log pi in float32 loses pi
    "value_coefficient": (0, 1e6),
    "num_steps": (1, math.inf),
    "gamma": (0, 1),
    "eval_frequency": (0, math.inf),
    "eval_episodes": (1, math.inf),
    "eval_envs": (1, math.inf),
    "eval_epsilon": (0, 1),
}


NETWORK_FLAGS = ("env_id", "gamma", "temperature")  # besides k, what `--eval-only` must find as trained


def check_args(args: Args) -> None:
    """Refuse values that cannot work."""
    for name, value in vars(args).items():
        if name not in BOUNDS:
            continue
        least, most = BOUNDS[name]
        if not least <= value <= most:
            at_most = f" and at most {most}" if most < math.inf else ""
            fail(f"--{name.replace('_', '-')} {value} must be at least {least}{at_most}")
    rollout_steps = args.num_envs * args.num_steps
    if args.eval_only is None and args.total_timesteps < rollout_steps:
        fail(f"--total-timesteps {args.total_timesteps} must be at least {rollout_steps}: --num-envs times --num-steps")
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


def log_training(writer: SummaryWriter, rate: float, losses: dict, global_step: int, wall_time: float) -> None:
    """Log the learning rate, agent steps a second, and the newest of the `losses`, which are named by their tags."""
    writer.add_scalar("charts/learning_rate", rate, global_step)
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
    torch.set_num_threads(args.num_threads)

    # TRY NOT TO MODIFY: seeding
    torch.manual_seed(args.seed)
    torch.backends.cudnn.deterministic = args.torch_deterministic
    rng = np.random.default_rng(args.seed)

    # ENV, BUFFER AND NETWORK SETUP
    try:
        envs = MinAtarEnvs(args.env_id, args.num_envs)
        args.env_id = envs.env_id
        q_network = QNetwork(envs.obs_shape[-1], envs.num_actions, args.temperature)
        if args.eval_only is None:
            rollouts = RolloutBuffer(args.num_steps, args.num_envs, envs.obs_shape)
    except MemoryError:
        fail(f"--num-steps {args.num_steps} and --num-envs {args.num_envs} need more memory than there is; try less")
    except ValueError as error:
        fail(error)
    q_network.to(device)
    learning_rate = torch.tensor(args.learning_rate, device=device)  # a tensor, which a CUDA graph reads anew
    optimizer = torch.optim.RMSprop(
        q_network.parameters(),
        lr=learning_rate,
        alpha=args.rmsprop_alpha,
        eps=args.rmsprop_eps,
        capturable=device.type == "cuda",
    )

    def learn(*rollout: torch.Tensor) -> tuple[torch.Tensor, ...]:  # of tensors, as a graph wants
        return update(q_network, optimizer, args, Rollout(*rollout))

    train_policy = partial(log_pi_of, q_network)
    eval_values = partial(action_values, q_network)
    if device.type == "cuda" and args.cuda_graphs:
        learn = capture(learn, optimizer)
        train_policy = capture(train_policy)
        eval_values = capture(eval_values)

    def play(values: Callable, eval_args: Args, step: int) -> tuple:
        """What `evaluate` returns of the network whose `action_values` are given; `step` seeds the episodes."""
        eval_envs = MinAtarEnvs(args.env_id, eval_args.eval_envs)

        def q_values(obs: np.ndarray) -> np.ndarray:
            return values(to_device(obs, device)).cpu().numpy()

        with torch.random.fork_rng([0] if device.type == "cuda" else []):  # evaluating leaves the training as it is
            return evaluate(eval_envs, q_values, eval_args, step)

    def evaluation_phase(step: int, folder: Path) -> dict[str, float]:
        metrics, first_episode = play(eval_values, args, step)
        tqdm.write(f"step {step:,}: " + ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()))
        if args.capture_video:
            record_video(folder / "videos" / f"step_{step}.mp4", first_episode)
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
        "optimizer": optimizer,
        "rollouts": rollouts,
        "envs": envs,
        "best": best,
    }
    counters = {"global_step": 0, "wall_time": 0.0, "losses": {}}
    run_dir = run_to_resume(args) if args.resume else None
    if run_dir:
        lock = lock_run(run_dir)
        learning_rates = [group["lr"] for group in optimizer.param_groups]
        counters = load_checkpoint(run_dir, args, stateful, rng)
        for group, lr in zip(optimizer.param_groups, learning_rates, strict=True):
            group["lr"] = lr  # loading put another tensor there, maybe on another device
        obs = envs.observe()
    else:
        obs = envs.reset(rng.integers(2**31, size=args.num_envs))
        run_dir = new_run(args, envs.num_actions, device_name, ("torch", "numpy", "MinAtar", "gymnasium"))
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
    progress = tqdm(total=args.total_timesteps, initial=global_step, unit="step", mininterval=1, dynamic_ncols=True)
    while global_step < args.total_timesteps:
        # ALGO LOGIC: put action logic here
        rate = linear_schedule(args.learning_rate, 0.0, args.total_timesteps, global_step)
        log_pi = train_policy(to_device(obs, device)).cpu().numpy()
        actions = draw_actions(log_pi, rng)
        next_obs, rewards, terminated, truncated, done, info = envs.step(actions)
        rollouts.append(obs, info["final_obs"], actions, rewards, terminated, truncated)
        obs = next_obs
        global_step += args.num_envs  # from here on it counts the step just taken

        # ALGO LOGIC: training
        if rollouts.full():
            for group in optimizer.param_groups:
                group["lr"].fill_(rate)
            loss, mean_q, entropy = learn(*rollouts.take(device))
            losses = {"losses/loss": loss, "losses/q_values": mean_q, "losses/entropy": entropy}
        if due(global_step, args.num_envs, 1_000):
            log_training(writer, rate, losses, global_step, time.time() - start_time)
        log_episodes(writer, progress, done, info, global_step)
        progress.update(args.num_envs)

        if due(global_step, args.num_envs, args.eval_frequency):
            metrics = evaluation_phase(global_step, run_dir)
            log_evaluation(run_dir, writer, metrics, global_step, time.time() - start_time)
            if args.save_best:
                best.offer(q_network, metrics["score_mean"], global_step)
                best.save(run_dir / "model_best.pt")
        if due(global_step, args.num_envs, args.checkpoint_frequency) and global_step < args.total_timesteps:
            writer.flush()
            counters = {
                "global_step": global_step,
                "wall_time": time.time() - start_time,
                "losses": {tag: float(value) for tag, value in losses.items()},
            }
            save_checkpoint(run_dir, args, stateful, rng, counters)

    if args.save_model:
        torch.save(q_network.state_dict(), run_dir / "model.pt")
    if args.save_best:
        q_network.load_state_dict(best.weights)
        best_args = replace(args, eval_envs=30, eval_episodes=30)  # 30 episodes (the authors' release), one a game
        new_step = global_step + 1  # no phase had it, so these are not the episodes that selected the network
        metrics, *_ = play(partial(action_values, q_network), best_args, new_step)
        save_best_scores(run_dir, best, metrics)
    progress.close()
    writer.close()
    finish_run(run_dir)
