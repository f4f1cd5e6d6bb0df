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
"""Online soft Q-learning on Atari, and the policy gradient that it equals (Schulman, Chen & Abbeel 2017, "Equivalence
Between Policy Gradients and Soft Q-Learning", arXiv 1704.06440, section 6.3). 16 environments play rollouts of 5 steps
by the Boltzmann policy pi of Q itself; there is no replay, no target network and no epsilon.

A policy head (log pi) and a value head V on a shared torso make Q = V + tau (log pi + log n), tau the temperature, n
the number of actions. `--method q` minimises the squared error of Q(s, a) with scaled gradients, `--method pg` is A2C
with a KL penalty: over actions drawn from pi their expected gradients are equal. For one action drawn they are not, and
clipping and RMSprop are not linear, so the two learn alike on average at best. They differ in `loss_q` and `loss_pg`
only. Rewards are clipped to [-1, 1]: tau is in their units.

The mean-expansion layer is left out: on this Q it would change V only, since softmax(Q / tau) stays as it is, and V has
a head of its own.

Forks: it learns by `heads`; `loss_q` and `update` write Q out again. Actions must come from the pi that learns. For GAE
`q_target` takes `(1 - lam) * next_v[t] + lam * v_target` in the place of `v_target`.

Usage: python related/softq_online_atari.py --env-id ALE/Breakout-v5
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
    checkpoint_frequency: int = 1_000_000  # agent steps between checkpoints (20 MB), where games start anew; 0 is never

    # ENVIRONMENT
    env_id: str = "ALE/Breakout-v5"  # the game; `Breakout` and `BreakoutNoFrameskip-v4` name the same ROM
    num_envs: int = 16  # emulators, run in threads; all schedules count the agent steps of all together
    full_action_space: bool = True  # all 18 (Machado et al. 2018; 9 in Skiing, LostLuggage), or those that do something
    terminal_on_life_loss: bool = False  # if toggled, a lost life is terminal for learning; the game itself goes on

    # AGENT
    total_timesteps: int = 50_000_000  # agent steps of 4 frames: 200M frames (Machado et al. 2018)
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
    eval_frequency: int = 250_000  # agent steps between evaluation phases (Mnih et al. 2015); 0 is never
    eval_steps: int = 125_000  # a phase starts episodes until it took this many agent steps (Mnih et al. 2015)
    eval_envs: int = 8  # emulators of an evaluation phase
    eval_epsilon: float = 0.001  # epsilon on top of pi in an evaluation phase (Dabney et al. 2018)


# AGENT


class QNetwork(nn.Module):
    """The network of Mnih et al. 2015 with two heads: observations (B, 4, 84, 84) uint8 to action-values (B, n).

    Weights are LeCun normal, with standard deviation 1/sqrt(fan_in); biases 0.1, and 0 in the heads. Those of the
    policy's head are a hundredth of that, so that pi is nearly uniform at first: a choice of ours.
    """

    def __init__(self, num_actions: int, temperature: float):
        super().__init__()
        self.temperature = temperature
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
        self.logits = nn.Linear(512, num_actions)
        self.value = nn.Linear(512, 1)
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
        features = self.network(obs.float() / 255)
        return self.value(features).squeeze(1), self.logits(features).log_softmax(1)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Q, (B, n) float32: its Boltzmann policy softmax(Q / tau) is pi, and its soft value, in the KL form, is V.

        For evaluation: training acts by `heads`, and `loss_q` and `update` write Q out themselves.
        """
        v, log_pi = self.heads(obs)
        return v[:, None] + self.temperature * (log_pi + math.log(log_pi.shape[1]))


def make_network(args: Args, envs: "AtariEnvs") -> QNetwork:
    return QNetwork(envs.num_actions, args.temperature)


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


def update(
    q_network: nn.Module, optimizer: torch.optim.Optimizer, args: Args, rollout: "Rollout"
) -> tuple[torch.Tensor, ...]:
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


# ROLLOUTS


class Rollout(NamedTuple):
    """T steps of N environments on the training device. `next_obs` is undefined where `terminated`."""

    obs: torch.Tensor  # (T, N, ...), as the network takes them
    actions: torch.Tensor  # (T, N) int64
    rewards: torch.Tensor  # (T, N) float32, for learning
    next_obs: torch.Tensor  # (T, N, ...), the true successors where a time limit cut
    terminated: torch.Tensor  # (T, N) float32, 0 or 1
    truncated: torch.Tensor  # (T, N) float32, 0 or 1


class RolloutBuffer:
    """The steps of N environments since the last `take`, at most `num_steps`, in host memory; one more raises
    IndexError. Raises MemoryError if they and what `update` makes of them would not fit."""

    def __init__(self, num_steps: int, num_envs: int, obs_shape: tuple[int, ...]):
        # Bytes: of an update with this network 16 times those of the observations, of the two arrays below 2 times
        needed = 20 * num_steps * num_envs * math.prod(obs_shape)
        if needed > 0.95 * free_memory(torch.device("cpu")):
            raise MemoryError(f"--num-steps {num_steps} and --num-envs {num_envs} need {needed:,} bytes; try less")
        self.num_steps = num_steps
        self.obs = np.zeros((num_steps, num_envs, *obs_shape), np.uint8)
        self.actions = np.zeros((num_steps, num_envs), np.int64)
        self.rewards = np.zeros((num_steps, num_envs), np.float32)
        self.next_obs = np.zeros((num_steps, num_envs, *obs_shape), np.uint8)
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

    def truncate(self) -> None:
        """End the episodes that the newest step did not end, as all environments are to start anew."""
        if self.steps > 0:
            self.truncated[self.steps - 1] = 1 - self.terminated[self.steps - 1]

    def views(self) -> dict[str, torch.Tensor]:
        """The arrays, of which the first `steps` rows are filled, sharing their memory."""
        return {name: torch.from_numpy(getattr(self, name)) for name in Rollout._fields}

    def state_dict(self) -> dict:
        return self.views() | {"steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        for name, array in self.views().items():
            array.copy_(state[name])
        self.steps = state["steps"]


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
        drawn = draw_actions(q / args.temperature, rng)  # by pi, as in training: q / tau is log pi up to a constant
        actions = np.where(explore, random_actions, drawn)
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


AT_LEAST_0 = ("seed", "checkpoint_frequency", "learning_rate", "rmsprop_eps", "value_coefficient", "eval_frequency")
AT_LEAST_1 = ("num_envs", "total_timesteps", "num_steps", "eval_envs")
FROM_0_TO_1 = ("rmsprop_alpha", "gamma", "eval_epsilon")
MAY_DIFFER = ("resume", "runs_dir", "track", "wandb_project_name", "wandb_entity", "save_model")  # on --resume


def check_args(args: Args) -> None:
    """Refuse values that cannot work, and warn of a run that learns nothing or ends without an evaluation."""
    least = dict.fromkeys(AT_LEAST_0, 0) | dict.fromkeys(AT_LEAST_1, 1)
    least |= {"temperature": 1e-4, "max_grad_norm": 1e-12}  # with a smaller tau, V + tau log pi in float32 loses pi
    for name, value in vars(args).items():
        flag = f"--{name.replace('_', '-')} {value}"
        if name in least and not isinstance(value, str) and not least[name] <= value < math.inf:
            fail(f"{flag} must be a finite number, at least {least[name]}")
        if name in FROM_0_TO_1 and not 0 <= value <= 1:
            fail(f"{flag} must be from 0 to 1")
    if args.track and importlib.util.find_spec("wandb") is None:
        fail("--track needs the package wandb; `pip install wandb` brings it")
    if args.total_timesteps < args.num_envs * args.num_steps:
        print(f"warning: --total-timesteps {args.total_timesteps} ends before the first rollout: nothing is learned")
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
        run_dir, lock = open_run(args)
        rollouts = RolloutBuffer(args.num_steps, args.num_envs, (4, 84, 84))
    except gymnasium.error.Error as error:
        fail(f"--env-id {args.env_id}: {error}")
    except OSError as error:
        fail(f"--runs-dir {args.runs_dir}: {error}; name a folder that can be written to")
    except MemoryError as error:
        if not (run_dir / "config.json").exists():
            shutil.rmtree(run_dir)
        fail(error)
    q_network = make_network(args, envs).to(device, memory_format=torch.channels_last)  # the fastest layout on a CPU
    learning_rate = torch.tensor(args.learning_rate, device=device)  # a tensor, which a CUDA graph reads anew
    optimizer = torch.optim.RMSprop(
        q_network.parameters(),
        lr=learning_rate,
        alpha=args.rmsprop_alpha,
        eps=args.rmsprop_eps,
        capturable=device.type == "cuda",
    )

    def learn(*rollout: torch.Tensor) -> tuple[torch.Tensor, ...]:  # a graph takes tensors
        return update(q_network, optimizer, args, Rollout(*rollout))

    acting_policy = partial(log_pi_of, q_network)
    evaluation_values = partial(action_values, q_network)
    if device.type == "cuda" and args.cuda_graphs:
        learn = capture(learn, optimizer)
        acting_policy = capture(acting_policy)
        evaluation_values = capture(evaluation_values)

    # RUN SETUP. A checkpoint holds `components` and `counters`. What a hack adds to the loop's state belongs there; a
    # counter is set here, read back below, and saved at the loop's end
    components = {"q_network": q_network, "optimizer": optimizer, "rollouts": rollouts}
    counters = {"global_step": 0, "wall_time": 0.0, "losses": {}, "evaluations": [], "best": {"score_mean": -math.inf}}
    if (run_dir / "checkpoint.pt").exists():
        counters = load_checkpoint(run_dir / "checkpoint.pt", components, rng)
        optimizer.param_groups[0]["lr"] = learning_rate  # loading put another tensor there, maybe on another device
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
    obs = envs.reset(rng.integers(2**31, size=args.num_envs))
    interval = 1 if sys.stderr.isatty() else 60  # seconds; in a log every update is a line
    progress = tqdm(total=args.total_timesteps, initial=global_step, unit="step", miniters=1, mininterval=interval)
    while global_step < args.total_timesteps:
        # ALGO LOGIC: put action logic here
        rate = linear_schedule(args.learning_rate, 0.0, args.total_timesteps, global_step)
        log_pi = acting_policy(to_device(obs, device)).cpu().numpy()
        actions = draw_actions(log_pi, rng)
        envs.send(actions)

        # TRY NOT TO MODIFY: what the games answered. From here on `global_step` counts the step just taken
        next_obs, rewards, terminated, truncated, done, info = envs.recv()
        global_step += args.num_envs
        final_obs = next_obs
        if truncated.any():  # the next observation begins an episode; the true one has the newest frame
            final_obs = next_obs.copy()
            final_obs[truncated] = np.concatenate((obs[truncated, 1:], info["newest_frame"][truncated, None]), axis=1)
        rollouts.append(obs, final_obs, actions, clip_rewards(rewards), terminated, truncated)
        obs = next_obs

        # ALGO LOGIC: training
        if rollouts.full():
            for group in optimizer.param_groups:
                group["lr"].fill_(rate)
            loss, mean_q, entropy = learn(*rollouts.take(device))
            losses = {"losses/loss": loss, "losses/q_values": mean_q, "losses/entropy": entropy}
        if due(global_step, args.num_envs, 1_000):
            charts = {"charts/learning_rate": rate, "charts/SPS": global_step / (time.time() - start_time)}
            for tag, value in (charts | losses).items():
                writer.add_scalar(tag, float(value), global_step)
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
            rollouts.truncate()
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

    progress.close()
    writer.close()
    if args.save_model:
        torch.save(q_network.state_dict(), run_dir / "model.pt")
    write_config(run_dir, config | {"finished": True})
    for name in ("checkpoint.pt", "checkpoint.tmp", "lock"):
        (run_dir / name).unlink(missing_ok=True)
    score = f"score {evaluations[-1]['score_mean']:.5g}" if evaluations else "no evaluation"
    watch = f"python play.py {run_dir} --video" if args.save_model else "--save-model would have kept the network"
    print(f"finished: {run_dir}, {score}; to watch: {watch}")
