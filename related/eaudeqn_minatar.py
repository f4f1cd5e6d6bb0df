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
"""Eau De Q-Network on the five MinAtar games (EauDeQN; Vincent et al. 2025, arXiv 2503.01437), with and without the
mean-expansion layer (Nagarajan, Daley, White & Machado, ICML 2026, arXiv 2606.29806): DQN whose network gets sparse at
its own pace.

Five online networks of different sparsity learn from the same batches, against one target network, and each adds up its
losses. At the end of a period (`--target-network-frequency`) the one of the least loss becomes the target. Slot 0 keeps
it as it is, the other slots become copies of it, pruned further, and Adam begins anew. The target network is thus the
one selected last: it is what is evaluated and saved. `--method polyprune --num-networks 1` prunes one network by a
schedule instead, `--method dense --num-networks 1` never does, which is DQN with a mean squared loss. The layer has no
weights: it is never pruned and never counted.

The authors' training code is not public; `--num-networks`, `--max-exponent` and `--max-speed` are those of their
published configuration. Reconstructed and not read are the formula of new sparsities and the uniform draw of its
exponent u, from the names of the constants, max_noise and max_speed (`next_sparsities`, `end_period`); how the network
that acts is drawn, from the same authors' AdaDQN (`acting_probabilities`); and what the slots are: the first keeps its
network, each of the others draws a sparsity of its own. Chosen by us, where nothing could be read: the networks start
apart, and the first target network is a copy of the first; numbers of pruned weights are rounded, and never all; Adam's
epsilon is DQN's; only eaudeqn resets Adam; the target network is what is evaluated.
Games, schedule, network and evaluation are those of `minatar_mexp.py`, not the paper's.

Usage: python related/eaudeqn_minatar.py --env-id MinAtar/Breakout-v1
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
    checkpoint_frequency: int = 250_000  # agent steps between checkpoints (up to some 200 MB); 0 is never
    num_threads: int = 1  # CPU threads of PyTorch; more make a network this small slower

    # ENVIRONMENT
    env_id: str = "MinAtar/Breakout-v1"  # the game, or just its name; v1 has its minimal action set, v0 all 6 actions
    num_envs: int = 1  # games, stepped one after the other; all schedules count the agent steps of all together

    # AGENT
    total_timesteps: int = 5_000_000  # agent steps, of one frame each (Young & Tian 2019)
    learning_rate: float = 2.5e-4  # of Adam (Ceron & Castro 2021)
    adam_eps: float = 3.125e-4  # epsilon of Adam (Ceron & Castro 2021)
    mean_scaling_coefficient: Optional[float] = 0.0  # k of the layer; the number of actions if None; 0 is without it
    method: Literal["eaudeqn", "polyprune", "dense"] = "eaudeqn"  # how the network is pruned; dense is not at all
    num_networks: int = 5  # online networks (Vincent et al. 2025); polyprune and dense have 1
    width: int = 128  # units of the dense layer (Young & Tian 2019)
    max_exponent: float = 3.0  # u is drawn from 0 to this, uniformly (reconstructed; Vincent et al. 2025); eaudeqn only
    max_speed: float = 0.01  # the most that sparsity grows in a period (Vincent et al. 2025); eaudeqn only
    final_sparsity: float = 0.95  # of the schedule (Vincent et al. 2025); polyprune only
    prune_frequency: int = 4_000  # agent steps between prunings (Vincent et al. 2025); polyprune only
    horizon: Optional[int] = None  # agent step to which sparsity is planned; --total-timesteps if None; not of dense
    buffer_size: int = 100_000  # transitions in the replay memory (Young & Tian 2019)
    buffer_device: Literal["auto", "cpu"] = "auto"  # the replay's memory: the training device's (auto) or the host's
    gamma: float = 0.99  # the discount factor (Mnih et al. 2015)
    target_network_frequency: int = 1_000  # agent steps of a period: between new target networks (Young & Tian 2019)
    batch_size: int = 32  # transitions of one gradient step (Mnih et al. 2015)
    start_e: float = 1.0  # the starting epsilon for exploration (Mnih et al. 2015)
    end_e: float = 0.01  # the ending epsilon for exploration (Ceron & Castro 2021)
    exploration_steps: int = 100_000  # agent steps over which epsilon falls linearly (Young & Tian 2019)
    learning_starts: int = 5_000  # agent step at which learning starts (Young & Tian 2019)
    train_frequency: int = 4  # agent steps for each gradient step (Ceron & Castro 2021)

    # EVALUATION
    eval_frequency: int = 100_000  # agent steps between evaluation phases; 0 is never
    eval_episodes: int = 100  # episodes of an evaluation phase
    eval_envs: int = 20  # games that an evaluation phase plays at a time
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
    """The network of Young & Tian 2019: observations (B, 10, 10, C) bool to action-values (B, n) float32.

    Weights are LeCun normal, with standard deviation 1/sqrt(fan_in); biases 0.1, and 0 in the last layer, as in PFRL,
    the engine of the paper.
    """

    def __init__(self, num_channels: int, num_actions: int, mean_scaling_coefficient: float, width: int):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(num_channels, 16, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1024, width),
            nn.ReLU(),
        )
        self.output = nn.Linear(width, num_actions)
        self.mean_expansion = MeanExpansion(mean_scaling_coefficient)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                fan_in = layer.weight[0].numel()
                nn.init.normal_(layer.weight, std=fan_in**-0.5)
                nn.init.constant_(layer.bias, 0.1)
        nn.init.zeros_(self.output.bias)

    def inputs(self, obs: torch.Tensor) -> torch.Tensor:
        """What the first layer takes, float32, of observations."""
        return obs.permute(0, 3, 1, 2).float().contiguous()  # (B, C, 10, 10)

    def layers(self) -> list[tuple[str, nn.Module]]:
        """All layers but the mean expansion, from first to last, each with its name in the state dict."""
        named = [(f"network.{i}", layer) for i, layer in enumerate(self.network)]
        return named + [("output", self.output)]

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        z = self.output(self.network(self.inputs(obs)))
        return self.mean_expansion(z)  # q = z + k * mean(z)

    def folded_state_dict(self) -> dict[str, torch.Tensor]:
        """The state dict of a network with k = 0 and the same outputs: W + k rowmean(W) and b + k mean(b)."""
        folded = self.state_dict()
        for name in ("output.weight", "output.bias"):
            folded[name] = folded[name] + self.mean_expansion.k * folded[name].mean(0, keepdim=True)
        return folded


class QNetworks:
    """N QNetworks as one: their parameters are stacked along a first axis, (N, ...), as are the masks of their weights,
    1 where a weight is kept and 0 where it is pruned; biases have none.

    Maps what a QNetwork takes to action-values (N, B, n) float32. Convolutions are N groups of channels, linear layers
    N products at a time, all with a bias; the first layer is a convolution. Any other layer must act element by
    element, as ReLU does. What is pruned and counted are the parameters whose names end in `weight`. `loss_sums`, (N,)
    float32, is the sum of each network's losses since the period began. Tensors are changed in place only, as a CUDA
    graph wants.
    """

    def __init__(self, networks: list[QNetwork]):
        self.network = copy.deepcopy(networks[0]).to("meta")  # the architecture, without numbers
        self.parameters, _ = torch.func.stack_module_state(networks)
        weights = [name for name in self.parameters if name.endswith("weight")]
        self.masks = {name: torch.ones_like(self.parameters[name], requires_grad=False) for name in weights}
        self.loss_sums = networks[0].output.bias.new_zeros(len(networks))
        self.sparsities = [0.0] * len(networks)  # as they were asked for: the numbers of pruned weights are rounded

    def __call__(self, obs: torch.Tensor) -> torch.Tensor:
        x = self.network.inputs(obs)  # (B, C, H, W), the same for all networks
        for name, layer in self.network.layers():
            if isinstance(layer, nn.Conv2d):  # to (B, N * C, H, W)
                weight = self.parameters[f"{name}.weight"].flatten(0, 1)
                bias = self.parameters[f"{name}.bias"].flatten()
                groups = x.shape[1] // layer.in_channels  # 1 in the first layer, whose input all networks share; then N
                x = nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, groups)
            elif isinstance(layer, nn.Flatten):  # to (N, features, B)
                x = x.reshape(len(x), len(self.loss_sums), -1).permute(1, 2, 0)
            elif isinstance(layer, nn.Linear):
                x = torch.baddbmm(self.parameters[f"{name}.bias"][:, :, None], self.parameters[f"{name}.weight"], x)
            elif list(layer.parameters()):
                raise RuntimeError(f"QNetworks cannot stack {name}, a {type(layer).__name__}: give it a branch here")
            else:
                x = layer(x)
        return self.network.mean_expansion(x.transpose(1, 2))

    def state_of(self, i: int) -> dict[str, torch.Tensor]:
        """The state dict of network `i`."""
        return {name: stacked[i].detach() for name, stacked in self.parameters.items()}

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights, so that Adam's moments of them get no larger."""
        for name, mask in self.masks.items():
            self.parameters[name].grad.mul_(mask)

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Zero the pruned weights, which Adam's momentum may have revived (polyprune's, since eaudeqn resets Adam)."""
        for name, mask in self.masks.items():
            self.parameters[name].mul_(mask)

    @torch.no_grad()
    def copy_and_prune(self, chosen: int, sparsities: list[float]) -> None:
        """Network i becomes a copy of network `chosen`, pruned to `sparsities[i]`: in every weight tensor the smallest
        absolute values, of equal ones the first. What is pruned in `chosen` is so in every copy; biases are copied."""
        for name, stacked in self.parameters.items():
            original = stacked[chosen].clone()  # before its slot is overwritten
            stacked.copy_(original.expand_as(stacked))
            if name not in self.masks:
                continue
            masks = self.masks[name]
            original_mask = masks[chosen].clone()
            masks.copy_(original_mask.expand_as(masks))
            # Another rule is another `importance`. What was pruned must come first, so that a slot of the same
            # sparsity stays as it is, and the numbers of pruned weights are those that are logged
            importance = original.abs().masked_fill(original_mask == 0, -math.inf)
            order = importance.flatten().argsort(stable=True)
            for mask, sparsity in zip(masks, sparsities, strict=True):
                mask.view(-1).index_fill_(0, order[: num_pruned(sparsity, len(order))], 0)
        self.mask_weights()
        self.sparsities = [float(sparsity) for sparsity in sparsities]

    def state_dict(self) -> dict:
        return {
            "parameters": {name: stacked.detach() for name, stacked in self.parameters.items()},
            "masks": self.masks,
            "loss_sums": self.loss_sums,
            "sparsities": self.sparsities,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        for name, stacked in self.parameters.items():
            stacked.copy_(state["parameters"][name])
        for name, mask in self.masks.items():
            mask.copy_(state["masks"][name])
        self.loss_sums.copy_(state["loss_sums"])
        self.sparsities = state["sparsities"]


@torch.no_grad()
def check_stack(networks: list[QNetwork], obs: torch.Tensor) -> None:
    """Raises RuntimeError if a stack of such networks does not give, for the observations, what they do one by one:
    whoever changes `QNetwork.forward`, which the target network runs, must change `QNetworks` too, which learns."""
    networks = copy.deepcopy(networks)
    generator = torch.Generator(obs.device).manual_seed(0)
    for network in networks:
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):  # they start alike, so that exchanged or missing ones would not show
                parameter.normal_(generator=generator)
    for stacked, network in zip(QNetworks(networks)(obs), networks, strict=True):
        q = network(obs)
        close = (stacked - q).abs().max() <= 1e-2 * q.abs().max()  # a GPU's convolutions have three digits (TF32)
        if not close:  # so written, NaN is refused too
            raise RuntimeError("QNetworks.__call__ and QNetwork.forward give different values: change both alike")


def num_pruned(sparsity: float, size: int) -> int:
    """How many weights of a tensor of `size` weights are pruned: the nearest whole number (of a half the even one), but
    never all."""
    return min(round(sparsity * size), size - 1)


def next_sparsities(sparsity: float, exponents: np.ndarray, args: Args, step: int) -> np.ndarray:
    """The sparsities that follow `sparsity`, one for each exponent u >= 0, at agent step `step`; never above 1.

    1 - (1 - s)(1 - T / (H - t))^u, but at most s + `--max-speed`; T is `--target-network-frequency` and H `--horizon`,
    where u = 1 in every period ends with no weight left. In the last period 1 - T / (H - t) counts as 0.
    Reconstructed from the published constants' names, not read in the paper.
    """
    remaining = args.horizon - step
    kept = 1 - args.target_network_frequency / remaining if remaining > args.target_network_frequency else 0.0
    grown = sparsity + (1 - sparsity) * (1 - kept**exponents)  # the formula, written so that rounding never lowers s
    return np.minimum(grown, sparsity + args.max_speed)


def polyprune_sparsity(progress: float, final_sparsity: float) -> float:
    """PolyPrune's sparsity after a share `progress` of `--horizon`: 0 up to 20%, then s_F (1 - (1 - p)^3) with p from 0
    to 1 at 80%, and s_F from there on (Vincent et al. 2025)."""
    p = min(max((progress - 0.2) / (0.8 - 0.2), 0.0), 1.0)
    return final_sparsity * (1 - (1 - p) ** 3)


def acting_probabilities(losses: np.ndarray) -> np.ndarray:
    """With which probabilities the networks act, given their losses, (N,) each: in proportion to 1 / (loss + 1e-6), as
    in AdaDQN by the same authors; 0 if the loss is NaN or infinite, and all alike if all are."""
    weights = np.where(np.isfinite(losses), 1 / (losses.astype(np.float64) + 1e-6), 0.0)
    if not weights.any():
        weights = np.ones(len(losses))
    return weights / weights.sum()


def select(losses: np.ndarray) -> int:
    """The network of the least loss, of equal ones the first; NaN counts as infinite."""
    return int(np.where(np.isnan(losses), np.inf, losses).argmin())


def end_period(q_networks: QNetworks, target_network, optimizer, args: Args, rng, step: int) -> dict[str, float]:
    """Make the network of the least loss the target network and, with `--method eaudeqn`, replace all networks and zero
    Adam's state, in place. Returns what to log, by tag, of the period that ends at agent step `step`.

    Slot 0 gets the chosen network as it is, each other slot a copy that is pruned to a sparsity of its own. Reading the
    losses is all that waits for the GPU.
    """
    losses = q_networks.loss_sums.cpu().numpy()
    if not np.isfinite(losses).any():
        tqdm.write(f"warning: step {step:,}: the losses of all networks are NaN or infinite")
    chosen = select(losses)
    sparsity = q_networks.sparsities[chosen]
    logged = {"networks/chosen": chosen, "networks/target_sparsity": sparsity}
    sizes = [mask[0].numel() for mask in q_networks.masks.values()]
    logged["networks/target_nonzero_weights"] = sum(size - num_pruned(sparsity, size) for size in sizes)
    for i in range(len(losses)):
        logged[f"networks/sparsity_{i}"] = q_networks.sparsities[i]
        logged[f"networks/accumulated_loss_{i}"] = float(losses[i])

    target_network.load_state_dict(q_networks.state_of(chosen))
    if args.method == "eaudeqn":
        exponents = rng.uniform(0, args.max_exponent, size=len(losses) - 1)
        q_networks.copy_and_prune(chosen, [sparsity, *next_sparsities(sparsity, exponents, args, step)])
        for moments in optimizer.state.values():
            for tensor in moments.values():
                tensor.zero_()  # with which Adam begins; another optimizer may begin with something else
    q_networks.loss_sums.zero_()
    return logged


def sparsity_metrics(q_network: nn.Module) -> dict[str, float]:
    """The share of a network's weights that are zero, and the number of those that are not; biases do not count."""
    weights = [parameter for name, parameter in q_network.named_parameters() if name.endswith("weight")]
    nonzero = sum(int(weight.count_nonzero()) for weight in weights)
    return {"sparsity": 1 - nonzero / sum(weight.numel() for weight in weights), "nonzero_weights": nonzero}


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
    """The values that choose actions, of observations as the network takes them: (B, n) float32, of a stack of networks
    (N, B, n)."""
    return q_network(obs)


def update(q_networks, target_network, optimizer, args: Args, batch: "Batch") -> tuple[torch.Tensor, ...]:
    """One gradient step of all networks. Returns the loss and the mean Q(s, a), of shape () and averaged over the
    networks, and the batch's TD errors, (N, B).

    The loss of each network is its squared TD error, averaged over the batch, and is added to `q_networks.loss_sums`.
    All but terminal transitions bootstrap, from the one target network.
    """
    with torch.no_grad():
        next_values = target_network(batch.next_obs).amax(1)
        td_target = batch.rewards + args.gamma * (1 - batch.terminated) * next_values
    q = q_networks(batch.obs)
    old_val = q.gather(2, batch.actions[None, :, None].expand(len(q), -1, 1)).squeeze(2)
    td_errors = td_target - old_val
    losses = td_errors.square().mean(1)
    if losses.shape != q_networks.loss_sums.shape:
        raise RuntimeError(f"losses must be one for each network, {tuple(q_networks.loss_sums.shape)}: they select one")

    optimizer.zero_grad()
    losses.sum().backward()
    q_networks.mask_gradients()
    optimizer.step()
    q_networks.mask_weights()
    q_networks.loss_sums.add_(losses.detach())
    return losses.detach().mean(), old_val.detach().mean(), td_errors.detach()


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
    """Uniform replay of the last `capacity` transitions, preallocated on `device`: frames[i, 0] is the observation of
    transition i and frames[i, 1] its successor. Raises MemoryError, with the bytes needed and there.
    """

    def __init__(self, capacity: int, obs_shape: tuple[int, ...], device: torch.device):
        self.device = device
        self.size = capacity
        self.frames = allocate((capacity, 2, *obs_shape), torch.bool, device, capacity)
        self.actions = np.zeros(capacity, np.uint8)
        self.rewards = np.zeros(capacity, np.float32)
        self.terminated = np.zeros(capacity, bool)
        self.written = 0  # transitions ever written

    def append(
        self,
        obs: np.ndarray,
        final_obs: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
    ) -> None:
        """Store N transitions: observations and their successors, (N, 10, 10, C) bool, the actions, rewards and whether
        the successor is terminal, (N,). The successor of a truncated transition is not."""
        slots = (self.written + np.arange(len(actions))) % self.size
        pairs = np.stack((obs, final_obs), axis=1)
        self.frames.index_copy_(0, to_device(slots, self.device), to_device(pairs, self.device))
        self.actions[slots] = actions
        self.rewards[slots] = rewards
        self.terminated[slots] = terminated
        self.written += len(actions)

    def sample(self, batch_size: int, rng: np.random.Generator, device: torch.device) -> Batch:
        """Draw transitions uniformly, with replacement, onto `device`; observations are (B, 10, 10, C) bool."""
        slots = rng.integers(self.filled(), size=batch_size)
        frames = self.frames.index_select(0, to_device(slots, self.device))
        if self.device.type != device.type:
            frames = to_device(frames.numpy(), device)
        return Batch(
            obs=frames[:, 0],
            actions=to_device(self.actions[slots].astype(np.int64), device),
            rewards=to_device(self.rewards[slots], device),
            next_obs=frames[:, 1],
            terminated=to_device(self.terminated[slots].astype(np.float32), device),
        )

    def filled(self) -> int:
        """The number of transitions kept, which are the first rows."""
        return min(self.written, self.size)

    def state_dict(self) -> dict:
        """The filled rows; on the CPU the tensors share the buffer's memory."""
        filled = self.filled()
        return {
            "frames": torch.from_numpy(self.frames[:filled].cpu().numpy()),  # a slice would save all of it
            "actions": torch.from_numpy(self.actions[:filled]),
            "rewards": torch.from_numpy(self.rewards[:filled]),
            "terminated": torch.from_numpy(self.terminated[:filled]),
            "written": self.written,
        }

    def load_state_dict(self, state: dict) -> None:
        """Put the filled rows back."""
        filled = len(state["frames"])
        self.frames[:filled] = state["frames"]
        self.actions[:filled] = state["actions"]
        self.rewards[:filled] = state["rewards"]
        self.terminated[:filled] = state["terminated"]
        self.written = state["written"]


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
        actions = np.where(explore, random_actions, q.argmax(1))
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
    "adam_eps": (1e-12, 1e3),
    "gamma": (0, 1),
    "target_network_frequency": (1, math.inf),
    "start_e": (0, 1),
    "end_e": (0, 1),
    "exploration_steps": (1, math.inf),
    "train_frequency": (1, math.inf),
    "eval_frequency": (0, math.inf),
    "eval_episodes": (1, math.inf),
    "eval_envs": (1, math.inf),
    "eval_epsilon": (0, 1),
    "num_networks": (1, 100),
    "width": (1, 100_000),
    "max_exponent": (1e-6, 1e3),
    "max_speed": (1e-6, 1),
    "final_sparsity": (0, 0.9999),
    "prune_frequency": (1, math.inf),
}


NETWORK_FLAGS = ("env_id", "gamma", "width")  # besides k, what `--eval-only` must find as trained


def check_args(args: Args) -> None:
    """Refuse values that cannot work, and warn of those that would learn or prune nothing."""
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
    last_period = (args.total_timesteps - 1) // args.target_network_frequency * args.target_network_frequency
    steps = range(0, args.total_timesteps, args.num_envs)
    updates = (s for s in steps if s >= args.learning_starts and due(s, args.num_envs, args.train_frequency))
    first_update = next(updates, math.inf)
    if args.eval_only is None and math.ceil(last_period / args.num_envs) * args.num_envs < first_update:
        print(
            "warning: no --target-network-frequency period in which it learns ends before the last step: "
            "the target network, which is evaluated, learns nothing until then"
        )
    if args.eval_only is None and args.method == "eaudeqn" and args.num_networks == 1:
        fail("--num-networks 1 would never be pruned by --method eaudeqn, which keeps one as it is; try 5")
    if args.method == "eaudeqn" and args.target_network_frequency < args.train_frequency:
        fail(
            f"--target-network-frequency {args.target_network_frequency} must be at least --train-frequency "
            f"{args.train_frequency}: the losses of a period select its network"
        )
    if args.eval_only is None and args.method != "eaudeqn" and args.num_networks != 1:
        fail(f"--num-networks {args.num_networks} is too many for --method {args.method}, which needs --num-networks 1")
    last_step = (args.total_timesteps - 1) // args.num_envs * args.num_envs
    if args.eval_only is None and args.method == "polyprune" and args.prune_frequency > last_step:
        fail(f"--prune-frequency {args.prune_frequency} must be at most {last_step}, the last step before the end")
    has_horizon = args.method != "dense" and args.horizon is not None
    if args.eval_only is None and has_horizon and args.horizon < args.total_timesteps:
        fail(f"--horizon {args.horizon} must be at least {args.total_timesteps}, which is --total-timesteps")
    last_pruning = last_step // args.prune_frequency * args.prune_frequency
    last_pruning = math.ceil(last_pruning / args.num_envs) * args.num_envs  # where the loop sees that it is due
    dense_steps = 0.2 * (args.horizon or args.total_timesteps)
    if args.eval_only is None and args.method == "polyprune":
        if last_pruning < args.learning_starts or last_pruning <= dense_steps:
            print(
                "warning: polyprune prunes nothing before the last step: it prunes every --prune-frequency steps, "
                "from --learning-starts and 20% of --horizon on"
            )
    if args.save_best and not 0 < args.eval_frequency <= args.total_timesteps:
        fail(f"--save-best needs evaluation phases: --eval-frequency must be 1 to {args.total_timesteps}, the steps")
    if args.track and importlib.util.find_spec("wandb") is None:
        fail("--track needs the package wandb; `pip install wandb` brings it")


def check_memory(sizes: tuple, args: Args, device: torch.device) -> None:
    """Raises MemoryError if the networks are too large: each online one has parameters, gradients, Adam's two moments
    and masks, and is made before it is stacked; there are the target network and `--save-best`'s copy of it."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in QNetwork(*sizes).parameters())
    needed = 4 * parameters * (6 * args.num_networks + 2)
    free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > 0.95 * free:
        raise MemoryError(
            f"--num-networks {args.num_networks} of --width {args.width} need {needed:,} bytes, {free:,} are free; "
            "try a smaller --width"
        )


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
        if args.horizon is None:
            args.horizon = args.total_timesteps
        sizes = (envs.obs_shape[-1], envs.num_actions, args.mean_scaling_coefficient, args.width)
        if args.eval_only is None:
            check_memory(sizes, args, device)
        networks = [QNetwork(*sizes).to(device) for _ in range(args.num_networks)]
        if args.eval_only is None:
            buffer_device = device if args.buffer_device == "auto" else torch.device(args.buffer_device)
            buffer = ReplayBuffer(args.buffer_size, envs.obs_shape, buffer_device)
    except (ValueError, MemoryError) as error:
        fail(error)
    q_networks = QNetworks(networks)
    example = np.random.default_rng(0).random((2, *envs.obs_shape)) < 0.3
    check_stack(networks, to_device(example, device))
    target_network = copy.deepcopy(networks[0]).requires_grad_(False)
    optimizer = torch.optim.Adam(
        q_networks.parameters.values(),
        lr=args.learning_rate,
        eps=args.adam_eps,
        fused=True,
        capturable=device.type == "cuda",
    )

    def learn(*batch: torch.Tensor) -> tuple[torch.Tensor, ...]:  # of tensors, as a graph wants
        return update(q_networks, target_network, optimizer, args, Batch(*batch))

    train_values = partial(action_values, q_networks)
    eval_values = partial(action_values, target_network)
    if device.type == "cuda" and args.cuda_graphs:
        learn = capture(learn, optimizer)
        # Two graphs of one function, since training and evaluation have different numbers of environments
        train_values = capture(train_values)
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
        metrics |= sparsity_metrics(target_network)
        tqdm.write(f"step {step:,}: " + ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()))
        if args.capture_video:
            record_video(folder / "videos" / f"step_{step}.mp4", first_episode)
        return metrics

    if args.eval_only is not None:
        load_model(Path(args.eval_only), args, target_network)
        evaluation_phase(0, Path(args.eval_only).parent)
        raise SystemExit

    # RUN SETUP: the run that --resume goes on with, or a new one
    # A checkpoint holds `stateful` and `counters`: what a hack adds to the state of the loop belongs in one of them
    best = BestNetwork()
    stateful = {
        "q_networks": q_networks,
        "target_network": target_network,
        "optimizer": optimizer,
        "buffer": buffer,
        "envs": envs,
        "best": best,
    }
    counters = {"global_step": 0, "wall_time": 0.0, "losses": {}}
    run_dir = run_to_resume(args) if args.resume else None
    if run_dir:
        lock = lock_run(run_dir)
        counters = load_checkpoint(run_dir, args, stateful, rng)
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
        epsilon = linear_schedule(args.start_e, args.end_e, args.exploration_steps, global_step)
        actions = rng.integers(envs.num_actions, size=args.num_envs)
        explore = rng.random(args.num_envs) < epsilon
        if not explore.all():
            q = train_values(to_device(obs, device)).cpu().numpy()  # (networks, environments, actions)
            probabilities = acting_probabilities(q_networks.loss_sums.cpu().numpy())
            acting = rng.choice(args.num_networks, size=args.num_envs, p=probabilities)
            actions = np.where(explore, actions, q[acting, np.arange(args.num_envs)].argmax(1))
        next_obs, rewards, terminated, truncated, done, info = envs.step(actions)
        buffer.append(obs, info["final_obs"], actions, rewards, terminated)  # `next_obs` may begin a new episode
        obs = next_obs
        global_step += args.num_envs  # from here on it counts the step just taken

        # ALGO LOGIC: training
        if global_step >= args.learning_starts:
            for _ in range(due(global_step, args.num_envs, args.train_frequency)):
                batch = buffer.sample(args.batch_size, rng, device)
                loss, mean_q, td_errors = learn(*batch)
                losses = {"losses/td_loss": loss, "losses/q_values": mean_q}
            if args.method == "polyprune" and due(global_step, args.num_envs, args.prune_frequency):
                # The one network becomes a pruned copy of itself
                q_networks.copy_and_prune(0, [polyprune_sparsity(global_step / args.horizon, args.final_sparsity)])
            if losses and due(global_step, args.num_envs, args.target_network_frequency):  # once it has learnt
                period = end_period(q_networks, target_network, optimizer, args, rng, global_step)
                for tag, value in period.items():
                    writer.add_scalar(tag, value, global_step)
        if due(global_step, args.num_envs, 1_000):
            log_training(writer, epsilon, losses, global_step, time.time() - start_time)
        log_episodes(writer, progress, done, info, global_step)
        progress.update(args.num_envs)

        if due(global_step, args.num_envs, args.eval_frequency):
            metrics = evaluation_phase(global_step, run_dir)
            log_evaluation(run_dir, writer, metrics, global_step, time.time() - start_time)
            if args.save_best:
                best.offer(target_network, metrics["score_mean"], global_step)
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
        torch.save(target_network.state_dict(), run_dir / "model.pt")
        torch.save(target_network.folded_state_dict(), run_dir / "model_folded.pt")
    if args.save_best:
        target_network.load_state_dict(best.weights)
        best_args = replace(args, eval_envs=30, eval_episodes=30)  # 30 episodes (the authors' release), one a game
        new_step = global_step + 1  # no phase had it, so these are not the episodes that selected the network
        metrics, *_ = play(partial(action_values, target_network), best_args, new_step)
        save_best_scores(run_dir, best, metrics)
    progress.close()
    writer.close()
    finish_run(run_dir)
