"""`lunarlander_mexp.py`: environments against Gymnasium, replay against a list, the update by its formula, runs."""

import copy
import csv
import io
import json
import re
from types import SimpleNamespace
from unittest import mock

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import load, run, run_folders
from gymnasium.envs.box2d.lunar_lander import heuristic
from test_bad_input import checkpointed_run, put, refused
from test_outputs import COLUMNS
from test_resume import (
    assert_same_run,
    assert_same_weights,
    evaluations,
    killed_and_resumed,
    new_folders,
    run_here,
    scalars,
    stopped_and_resumed,
)

script = load("lunarlander_mexp")
CPU = torch.device("cpu")
SHORT = "--batch-size 8 --learning-starts 64 --buffer-size 1000 --eval-envs 4 --eval-episodes 6"


class Dial(gymnasium.Env):
    """An episode of four steps; the reward is the action, which is 5, 6 or 7. Observes in float64 the number of the
    episode, the step, and the action before."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gymnasium.spaces.Box(-100.0, 100.0, (3,), np.float64)
    action_space = gymnasium.spaces.Discrete(3, start=5)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.obs = np.zeros(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        episode = 0 if seed is not None else self.obs[0] + 1
        self.obs = np.array([episode, 0.0, 0.0])
        return self.obs, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.obs = np.array([self.obs[0], self.obs[1] + 1, action], np.float64)
        return self.obs, float(action), self.obs[1] == 4, False, {}

    def render(self):
        """Red in the first step, and brighter by the action taken."""
        brightness = 30 * self.obs[2]
        return np.full((64, 96, 3), brightness, np.uint8)


class Wide(Dial):
    action_space = gymnasium.spaces.Discrete(257)


class Dark(Dial):
    metadata = {"render_modes": []}


class NoLibrary(Dial):
    """What an environment does whose package is missing."""

    def __init__(self):
        raise gymnasium.error.DependencyNotInstalled("`pip install engine` brings it")


class Undrawn(Dial):
    """Needs a package only when it draws."""

    def render(self):
        raise gymnasium.error.DependencyNotInstalled("`pip install brush` brings it")


class Grey(Dial):
    def render(self):
        return np.zeros((64, 96), np.uint8)


class Blind(Dial):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (0,), np.float32)


class InPlace(Dial):
    """Returns the same array each time, and changes it."""

    def reset(self, *, seed=None, options=None):
        self.same = super().reset(seed=seed)[0].copy()
        return self.same, {}

    def step(self, action):
        obs, *others = super().step(action)
        self.same[:] = obs
        return self.same, *others


class Ageing(Dial):
    """Its rewards tell how often it was reset, seeded or not."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        return super().reset(seed=seed)

    def step(self, action):
        obs, _, *others = super().step(action)
        return obs, float(self.resets), *others


CARTPOLE = "gymnasium.envs.classic_control:CartPoleEnv"
gymnasium.register("tests/Dial-v0", Dial)
gymnasium.register("tests/DialOfThree-v0", Dial, max_episode_steps=3)
gymnasium.register("tests/DialOfFour-v0", Dial, max_episode_steps=4)  # terminated and truncated at once
gymnasium.register("tests/Wide-v0", Wide)
gymnasium.register("tests/Dark-v0", Dark)
gymnasium.register("tests/NoLibrary-v0", NoLibrary)
gymnasium.register("tests/Undrawn-v0", Undrawn)
gymnasium.register("tests/Grey-v0", Grey)
gymnasium.register("tests/Blind-v0", Blind)
gymnasium.register("tests/InPlace-v0", InPlace, max_episode_steps=3)
gymnasium.register("tests/Ageing-v0", Ageing)
gymnasium.register("tests/ShortCartPole-v0", CARTPOLE, max_episode_steps=15)
gymnasium.register("tests/ShortCar-v0", "gymnasium.envs.classic_control:MountainCarEnv", max_episode_steps=30)


# ENVIRONMENTS


@pytest.mark.parametrize("env_id,num_actions", [("CartPole-v1", 2), ("LunarLander-v3", 4), ("tests/ShortCar-v0", 3)])
def test_against_gymnasium(env_id, num_actions):
    """Three at once: each as Gymnasium plays it alone. A new episode begins in the step that ends the one before."""
    envs = script.GymEnvs(env_id, 3, reward_scale=0.25)
    alone = [gymnasium.make(env_id) for _ in range(3)]
    seeds = [5, 6, 2**31 - 1]
    obs = envs.reset(np.array(seeds))
    for i in range(3):
        assert np.array_equal(obs[i], alone[i].reset(seed=seeds[i])[0])
    assert envs.num_actions == num_actions
    assert obs.dtype == np.float32
    assert obs.shape == (3, envs.obs_size)

    rng = np.random.default_rng(0)
    scores = [0.0, 0.0, 0.0]
    lengths = [0, 0, 0]
    ends = 0
    for _ in range(500):
        actions = rng.integers(num_actions, size=3)
        before = obs.copy()
        next_obs, rewards, terminated, truncated, done, info = envs.step(actions)
        assert np.array_equal(obs, before), "what was returned before is left alone"
        obs = next_obs
        assert obs.dtype == info["final_obs"].dtype == np.float32
        for i, single in enumerate(alone):
            last_obs, reward, over, cut, _ = single.step(actions[i])
            scores[i] += reward
            lengths[i] += 1
            assert rewards[i] == 0.25 * reward
            assert (terminated[i], truncated[i], done[i]) == (over, cut, over or cut)
            assert np.array_equal(info["final_obs"][i], last_obs)
            assert (info["score"][i], info["length"][i]) == (scores[i], lengths[i])
            if over or cut:
                last_obs, _ = single.reset()
                scores[i] = 0.0
                lengths[i] = 0
                ends += 1
            assert np.array_equal(obs[i], last_obs)
    assert ends > 9


def balance(obs):
    """Keeps CartPole's pole up."""
    return (obs @ np.array([0.1, 0.3, 1.0, 1.0]) > 0).astype(np.int64)


def hover(obs):
    """Gymnasium's own pilot of LunarLander, who is told that the ground is higher than it is."""
    env = gymnasium.make("LunarLander-v3")
    lower = obs.astype(np.float64)
    lower[:, 1] -= 0.5
    return np.array([heuristic(env, state) for state in lower])


@pytest.mark.parametrize("env_id,policy,limit", [("CartPole-v1", balance, 500), ("LunarLander-v3", hover, 1000)])
def test_time_limit(env_id, policy, limit):
    """It cuts after exactly that many steps, which is no termination; the true successor stays at hand."""
    envs = script.GymEnvs(env_id, 2, reward_scale=1.0)
    single = gymnasium.make(env_id)
    obs = envs.reset(np.array([0, 1]))
    single.reset(seed=0)
    for t in range(1, limit + 1):
        actions = policy(obs)
        obs, _, terminated, truncated, done, info = envs.step(actions)
        last_obs, *_ = single.step(actions[0])
        assert not terminated.any()
        assert truncated.tolist() == done.tolist() == [t == limit] * 2
        assert info["length"].tolist() == [t, t]
        assert np.array_equal(info["final_obs"][0], last_obs)
    first_obs, _ = single.reset()
    assert np.array_equal(obs[0], first_obs)
    assert not np.array_equal(first_obs, last_obs)


def test_observations_that_change_in_place():
    """The last observation of a cut episode is kept, not what the reset makes of its array."""
    envs = script.GymEnvs("tests/InPlace-v0", 2, reward_scale=1.0)
    obs = envs.reset(np.array([0, 1]))
    for t in range(1, 10):
        before = obs.copy()
        next_obs, _, terminated, truncated, _, info = envs.step(np.array([0, 2]))
        assert np.array_equal(obs, before)
        obs = next_obs
        episode, step = divmod(t - 1, 3)
        assert info["final_obs"].tolist() == [[episode, step + 1, 5], [episode, step + 1, 7]]
        assert truncated.tolist() == [step == 2] * 2 and not terminated.any()
        if step == 2:
            assert obs.tolist() == [[episode + 1, 0, 0]] * 2
        else:
            assert np.array_equal(obs, info["final_obs"])


def test_terminated_in_the_last_step_of_the_time_limit():
    for env_id, length, termination in (("tests/DialOfThree-v0", 3, False), ("tests/DialOfFour-v0", 4, True)):
        envs = script.GymEnvs(env_id, 1, reward_scale=1.0)
        envs.reset(np.array([0]))
        for _ in range(length):
            _, _, terminated, truncated, done, _ = envs.step(np.array([0]))
        assert (terminated[0], truncated[0], done[0]) == (termination, not termination, True)


def test_actions_that_do_not_begin_with_zero():
    """The agent's 0, 1, 2 are the environment's 5, 6, 7."""
    envs = script.GymEnvs("tests/Dial-v0", 3, reward_scale=0.1)
    envs.reset(np.array([0, 0, 0]))
    obs, rewards, _, _, _, info = envs.step(np.array([0, 1, 2]))
    assert obs.dtype == np.float32
    assert obs[:, 2].tolist() == [5, 6, 7]
    assert rewards == pytest.approx([0.5, 0.6, 0.7])
    assert info["score"].tolist() == [5, 6, 7], "unscaled"


# REPLAY


@pytest.mark.parametrize("num_envs,capacity", [(1, 40), (3, 40), (3, 10_000)])
def test_replay_against_a_list(num_envs, capacity):
    """Every draw is one of the last `capacity` transitions, bit for bit, and each of them is drawn about as often."""
    envs = script.GymEnvs("tests/ShortCartPole-v0", num_envs, reward_scale=1.0)
    rng = np.random.default_rng(0)
    buffer = script.ReplayBuffer(capacity, envs.obs_size, CPU)
    kept = []
    cut = 0
    over = 0
    obs = envs.reset(np.arange(num_envs))
    for _ in range(200):
        actions = rng.integers(2, size=num_envs)
        next_obs, rewards, terminated, truncated, _, info = envs.step(actions)
        rewards = rewards + rng.integers(9, size=num_envs)  # so that transitions can be told apart
        buffer.append(obs, info["final_obs"], actions, rewards, terminated)
        for i in range(num_envs):
            kept.append((obs[i], info["final_obs"][i], actions[i], rewards[i], terminated[i]))
        obs = next_obs
        cut += truncated.sum()
        over += terminated.sum()
    assert cut > 3
    assert over > 3
    kept = kept[-capacity:]
    assert buffer.filled() == len(kept)

    def key(*transition):
        return b"|".join(np.asarray(x, dtype=float).tobytes() for x in transition)

    drawn = {key(*transition): 0 for transition in kept}
    assert len(drawn) == len(kept)
    for _ in range(400):
        batch = buffer.sample(32, rng, CPU)
        assert batch.obs.dtype == batch.next_obs.dtype == batch.rewards.dtype == batch.terminated.dtype == torch.float32
        assert batch.actions.dtype == torch.int64
        assert batch.actions.shape == batch.rewards.shape == batch.terminated.shape == (32,)
        for drawn_obs, action, reward, next_obs, terminated in zip(*batch, strict=True):
            drawn[key(drawn_obs, next_obs, action, reward, terminated)] += 1  # a KeyError for what is not kept
    expected = 400 * 32 / len(kept)
    assert all(abs(count - expected) < 6 * expected**0.5 for count in drawn.values())


def test_replay_state():
    """What is saved is what is filled, and not a byte of the rest; put back, it goes on in the same way."""
    buffer = script.ReplayBuffer(50, 8, CPU)
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(31):
        pair = rng.normal(size=(2, 2, 8)).astype(np.float32)
        buffer.append(pair[0], pair[1], rng.integers(4, size=2), rng.random(2), rng.random(2) < 0.5)
        file = io.BytesIO()
        torch.save(buffer.state_dict()["frames"], file)
        sizes.append(len(file.getvalue()))
    assert sizes[9] < sizes[19] < sizes[24] == sizes[30]
    other = script.ReplayBuffer(50, 8, CPU)
    other.load_state_dict(copy.deepcopy(buffer.state_dict()))
    for x, y in zip(*(b.sample(64, np.random.default_rng(3), CPU) for b in (buffer, other)), strict=True):
        assert torch.equal(x, y)
    for b in (buffer, other):
        b.append(pair[1], pair[0], np.zeros(2, int), np.ones(2), np.zeros(2, bool))
    assert torch.equal(buffer.frames, other.frames)
    assert buffer.written == other.written == 64
    with pytest.raises(MemoryError, match="--buffer-size 1000000000000 needs 64,000,000,000,000 bytes.*try --buffer"):
        script.ReplayBuffer(10**12, 8, CPU)


# NETWORK AND UPDATE


def networks(k, obs_scale=0.1):
    """A network of 8 observations and 4 actions, and a target with other weights."""
    torch.manual_seed(1)
    network = script.QNetwork(8, 4, obs_scale, k)
    target = copy.deepcopy(network)
    for parameter in target.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network, target.requires_grad_(False)


def make_batch():
    rng = np.random.default_rng(2)
    return script.Batch(
        obs=torch.from_numpy(rng.normal(size=(16, 8)) * 5).float(),
        actions=torch.from_numpy(rng.integers(4, size=16)),
        rewards=torch.from_numpy(rng.normal(size=16)).float(),
        next_obs=torch.from_numpy(rng.normal(size=(16, 8)) * 5).float(),
        terminated=torch.arange(16).remainder(4).eq(1).float(),
    )


def values_by_hand(weights, obs, k):
    """The network in float64 from its weights, of observations / 10; the layer as a product with M_k."""
    x = F.relu(F.linear(obs.double() / 10, weights["network.0.weight"], weights["network.0.bias"]))
    x = F.relu(F.linear(x, weights["network.2.weight"], weights["network.2.bias"]))
    z = F.linear(x, weights["output.weight"], weights["output.bias"])
    return z @ (torch.eye(4) + k / 4).double().T


@pytest.mark.parametrize("k", [0.0, 4.0])
def test_one_step_equals_the_formula(k):
    """Half the squared TD error, averaged over the batch, and Adam's first step."""
    network, target = networks(k)
    batch = make_batch()
    weights = {name: value.double().clone().requires_grad_() for name, value in network.state_dict().items()}
    target_weights = {name: value.double() for name, value in target.state_dict().items()}
    q = values_by_hand(weights, batch.obs, k)
    q_next = values_by_hand(target_weights, batch.next_obs, k)
    errors = []
    for b in range(16):
        bootstrap = 0.0 if batch.terminated[b] else 0.9 * max(q_next[b].tolist())
        errors.append(float(batch.rewards[b]) + bootstrap - q[b, batch.actions[b]])
    loss = sum(0.5 * error**2 for error in errors) / 16
    loss.backward()

    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=3.125e-4, fused=True)
    got_loss, got_q, got_errors = script.update(network, target, optimizer, script.Args(gamma=0.9), batch)
    assert got_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert got_q.item() == pytest.approx(q.gather(1, batch.actions[:, None]).mean().item(), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(got_errors.double(), torch.stack(errors).detach(), rtol=1e-4, atol=1e-5)
    for name, parameter in network.named_parameters():
        gradient = weights[name].grad
        expected = weights[name].detach() - 1e-3 * gradient / (gradient.abs() + 3.125e-4)  # Adam's first step
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-4, atol=2e-6)
    for name, value in target.state_dict().items():
        assert torch.equal(value.double(), target_weights[name])


class Plain(nn.Module):
    """The network written without the layer."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
        self.output = nn.Linear(256, 4)

    def forward(self, obs):
        return self.output(self.network(0.1 * obs))


def test_k_zero_is_the_plain_network():
    """The layer at k = 0 changes no bit: not of the values, and not of the weights after 20 updates."""
    network, _ = networks(0.0)
    plain = Plain()
    plain.load_state_dict(network.state_dict())
    batch = make_batch()
    assert isinstance(network.mean_expansion, script.MeanExpansion)
    assert network.mean_expansion.k == 0
    assert torch.equal(network(batch.obs), plain(batch.obs))
    losses = []
    for net in (network, plain):
        target = copy.deepcopy(net)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
        losses.append([script.update(net, target, optimizer, script.Args(), batch)[0].item() for _ in range(20)])
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 20
    weights = plain.state_dict()
    assert list(network.state_dict()) == list(weights)
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name]), name
    for k in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="--mean-scaling-coefficient"):
            script.QNetwork(8, 4, 0.1, k)


def test_initialisation_and_action_values():
    """LeCun normal weights, and biases of 0."""
    network, _ = networks(4.0)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == {
        "network.0.weight": (256, 8),
        "network.0.bias": (256,),
        "network.2.weight": (256, 256),
        "network.2.bias": (256,),
        "output.weight": (4, 256),
        "output.bias": (4,),
    }
    for name, value in network.state_dict().items():
        if name.endswith("bias"):
            assert not value.any()
        else:
            spread = value.std().item() * value.shape[1] ** 0.5
            assert abs(spread - 1) < 5 / (2 * value.numel()) ** 0.5
            assert value.abs().max() > 2 / value.shape[1] ** 0.5, "normal, not uniform"
    weights = {name: value.double() for name, value in network.state_dict().items()}
    obs = make_batch().obs
    values = script.action_values(network, obs)
    assert values.dtype == torch.float32
    assert not values.requires_grad
    torch.testing.assert_close(values.double(), values_by_hand(weights, obs, 4.0), rtol=1e-5, atol=1e-6)


def test_scale_of_the_observations():
    """It is applied in the network, so the replay keeps observations as they are."""
    obs = make_batch().obs
    scaled, _ = networks(4.0, obs_scale=0.25)
    unscaled, _ = networks(4.0, obs_scale=1.0)
    assert torch.equal(scaled(obs), unscaled(0.25 * obs))
    assert not torch.allclose(scaled(obs), unscaled(obs))


@pytest.mark.parametrize("k", [0.0, 0.5, 4.0])
def test_folding(k):
    network, _ = networks(k)
    plain = script.QNetwork(8, 4, 0.1, 0.0)
    plain.load_state_dict(network.folded_state_dict())
    obs = make_batch().obs
    torch.testing.assert_close(plain(obs), network(obs), rtol=1e-5, atol=1e-6)


def test_defaults():
    """Those of the authors' release."""
    args = script.Args()
    expected = {
        "env_id": "LunarLander-v3",
        "num_envs": 1,
        "obs_scale": 0.1,
        "reward_scale": 0.1,
        "total_timesteps": 100_000,
        "learning_rate": 1e-3,
        "adam_eps": 3.125e-4,
        "mean_scaling_coefficient": None,  # becomes the number of actions
        "buffer_size": 500_000,
        "gamma": 0.99,
        "target_network_frequency": 100,  # in agent steps, and so in updates
        "train_frequency": 1,
        "batch_size": 128,
        "start_e": 1.0,
        "end_e": 0.05,
        "exploration_steps": 10_000,
        "learning_starts": 1_000,
        "eval_frequency": 10_000,
        "eval_episodes": 100,
        "eval_epsilon": 0.0,
    }
    assert {name: getattr(args, name) for name in expected} == expected


# EVALUATION


@pytest.mark.parametrize("k", [0.0, 4.0])
def test_metrics_by_hand(k):
    """Five episodes of three games on the Dial, two of which start another: the values are the step's number."""

    def q_values(obs):
        best = 10.0 + obs[:, 1]
        return np.stack([best - 3.0, best, best - 0.5], axis=1).astype(np.float32)

    args = SimpleNamespace(seed=1, gamma=0.9, eval_episodes=5, eval_epsilon=0.0, mean_scaling_coefficient=k)
    metrics, seeds, first_episode = script.evaluate(script.GymEnvs("tests/Dial-v0", 3, 0.1), q_values, args, 7)
    rewards = [0.6, 0.6, 0.6, 0.6]  # 6, scaled
    returns = [sum(0.9**i * reward for i, reward in enumerate(rewards[t:])) for t in range(4)]
    q = np.array([[7.0, 10.0, 9.5]]) + np.arange(4)[:, None]
    layer = np.eye(3) + k / 3
    z = np.linalg.solve(layer, q.T).T
    assert metrics == pytest.approx(
        {
            "episodes": 5,
            "score_mean": 24.0,
            "score_median": 24.0,
            "score_std": 0.0,
            "mean_q": 11.5,
            "mean_discounted_return": np.mean(returns),
            "overestimation": 11.5 - np.mean(returns),
            "action_gap": 0.5,
            "q_norm": np.linalg.norm(q, axis=1).mean(),
            "z_norm": np.linalg.norm(z, axis=1).mean(),
        }
    )
    assert np.array(seeds).shape == (1,)
    assert [int(action) for action in first_episode] == [1, 1, 1, 1]


# WHOLE RUNS


FINISHED = (
    f"{SHORT} --env-id CartPole-v1 --num-envs 2 --total-timesteps 2000 --eval-frequency 1000 --train-frequency 4 "
    "--exploration-steps 2000 --save-model --capture-video"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run: its folder, and what it printed."""
    cwd = tmp_path_factory.mktemp("cartpole")
    result = run_here("lunarlander_mexp", FINISHED, cwd=cwd)
    (folder,) = run_folders(cwd)
    return folder, result


def test_outputs(finished):
    folder, result = finished
    assert re.fullmatch(r"CartPole-v1__lunarlander_mexp__1__\d+", folder.name)
    assert folder.parent.name == "runs"
    config = json.loads((folder / "config.json").read_text())
    assert config["finished"] is True
    assert config["args"]["mean_scaling_coefficient"] == 2.0
    assert config["num_actions"] == 2
    assert config["packages"]["gymnasium"] == gymnasium.__version__
    assert set(config["args"]) == set(vars(script.Args()))
    left = {path.name.split(".")[0] for path in folder.iterdir()}
    assert left == {"config", "eval", "events", "model", "model_folded", "videos"}, "no checkpoint, nothing unfinished"
    assert result.stdout.splitlines()[0].startswith("device: CPU")
    assert "2000/2000" in result.stderr


def test_eval_csv(finished):
    folder, result = finished
    assert (folder / "eval.csv").read_text().splitlines()[0] == COLUMNS
    with open(folder / "eval.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["episodes"]) for row in rows] == [("1000", "6"), ("2000", "6")]
    for row in rows:
        assert f"step {int(row['step']):,}: episodes 6" in result.stdout
        assert 8 <= float(row["score_mean"]) <= 500, "a reward of 1 a step, not scaled"
        assert float(row["mean_discounted_return"]) <= 10, "scaled by 0.1, at most 0.1 / (1 - 0.99)"
        assert 0 < float(row["z_norm"]) < float(row["q_norm"])


def test_tensorboard(finished):
    folder, _ = finished
    values = scalars(folder)
    metrics = COLUMNS.replace("score_mean", "episodic_return").split(",")[1:-1]
    expected = {f"eval/{name}" for name in metrics}
    expected |= {"charts/episodic_return", "charts/episodic_length", "charts/epsilon"}
    expected |= {"losses/td_loss", "losses/q_values"}
    assert {tag for tag, _, _ in values} == expected
    scores = [value for tag, _, value in values if tag == "charts/episodic_return"]
    lengths = [value for tag, _, value in values if tag == "charts/episodic_length"]
    assert scores == lengths, "a reward of 1 a step, not scaled"
    assert 1900 < sum(lengths) + 2 * max(lengths)
    assert sum(lengths) <= 2000
    epsilons = [value for tag, _, value in values if tag == "charts/epsilon"]
    steps_before = (1000 - 2) / 2000, (2000 - 2) / 2000
    assert epsilons == pytest.approx([1 - 0.95 * fraction for fraction in steps_before])


def test_videos_play(finished):
    folder, _ = finished
    for video in ("step_1000.mp4", "step_2000.mp4"):
        frames = imageio_ffmpeg.read_frames(str(folder / "videos" / video))
        meta = next(frames)
        assert meta["size"] == (600, 400)
        assert meta["fps"] == 50
        pictures = [np.frombuffer(frame, np.uint8) for frame in frames]
        assert len(pictures) >= 8
        assert any((a != b).any() for a, b in zip(pictures, pictures[1:], strict=False))


@pytest.mark.parametrize("env_id", ["LunarLander-v3", "tests/Dial-v0"])
def test_video_shows_the_evaluated_episode(env_id, tmp_path):
    """Played again to be filmed, which adds LunarLander's smoke, the episode has the same score and length."""
    rng = np.random.default_rng(0)
    args = script.Args(env_id=env_id, eval_episodes=1, mean_scaling_coefficient=0.0)
    envs = script.GymEnvs(env_id, 1, args.reward_scale)
    metrics, seeds, actions = script.evaluate(envs, lambda obs: rng.random((1, envs.num_actions)), args, 7)

    rewards = []
    ends = []
    make = gymnasium.make

    def watched(*args, **kwargs):
        env = make(*args, **kwargs)
        step = env.step

        def watched_step(action):
            result = step(action)
            rewards.append(result[1])
            ends.append(result[2] or result[3])
            return result

        env.step = watched_step
        return env

    with mock.patch.object(gymnasium, "make", watched):
        script.record_video(tmp_path / "videos" / "x.mp4", args, seeds, actions)
    assert sum(rewards) == pytest.approx(metrics["score_mean"])
    assert ends == [False] * (len(actions) - 1) + [True]
    frames = list(imageio_ffmpeg.read_frames(str(tmp_path / "videos" / "x.mp4")))
    assert len(frames[1:]) == len(actions) + 1, "the first observation and one after every action"
    if env_id == "tests/Dial-v0":
        shown = [round(np.frombuffer(frame, np.uint8).mean() / 30) for frame in frames[1:]]
        assert shown == [0] + [5 + int(action) for action in actions]


def test_eval_only(finished, tmp_path):
    """The saved network, and the folded one without the layer, play as the trained one."""
    folder, _ = finished
    flags = f"{SHORT} --env-id CartPole-v1 --eval-only {folder}/model"
    own = run_here("lunarlander_mexp", flags + ".pt", cwd=tmp_path).stdout.splitlines()[-1]
    again = run_here("lunarlander_mexp", flags + ".pt", cwd=tmp_path).stdout.splitlines()[-1]
    result = run_here("lunarlander_mexp", flags + "_folded.pt --mean-scaling-coefficient 0", cwd=tmp_path)
    folded = result.stdout.splitlines()[-1]
    numbers = []
    for line in (own, folded):
        metrics = line.split(", z_norm")[0]  # without the layer, z is q
        numbers.append([float(x) for x in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", metrics)])
    assert own.startswith("step 0: episodes 6")
    assert own == again
    assert len(numbers[0]) == 10
    assert numbers[0] == pytest.approx(numbers[1], rel=2e-3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "model,flags,words",
    [
        ("model.pt", "--mean-scaling-coefficient 1", "k = 2"),
        ("model.pt", "--mean-scaling-coefficient 0", "k = 2"),
        ("model_folded.pt", "", "k = 0"),
        ("model.pt", "--obs-scale 0.2", "trained with --obs-scale 0.1; add that"),
        ("model.pt", "--reward-scale 1", "trained with --reward-scale 0.1; add that"),
        (
            "model.pt",
            "--env-id tests/ShortCartPole-v0",
            "trained with --env-id CartPole-v1; add that",
        ),  # of the same architecture
        ("model.pt", "--env-id LunarLander-v3", "trained with --env-id CartPole-v1; add that"),
    ],
)
def test_eval_only_refuses(model, flags, words, finished, tmp_path):
    folder, _ = finished
    line = refused(
        "lunarlander_mexp", SHORT, "--env-id CartPole-v1", flags, f"--eval-only {folder}/{model}", cwd=tmp_path
    )
    assert "--eval-only" in line
    assert words in line


RESUMED = (
    f"{SHORT} --train-frequency 8 --exploration-steps 1000 --target-network-frequency 100 --eval-frequency 450 "
    "--checkpoint-frequency 200 --save-model --total-timesteps"
)


@pytest.mark.parametrize(
    "env_id,num_envs,k", [("CartPole-v1", 3, 2), ("LunarLander-v3", 1, 4), ("tests/Ageing-v0", 2, 1)]
)
def test_resumes(env_id, num_envs, k, tmp_path):
    """Stopped after the evaluation at 450, it goes on from the checkpoint at 400."""
    flags = f"{RESUMED} 1100 --env-id {env_id} --num-envs {num_envs} --mean-scaling-coefficient {k}"
    whole, resumed = stopped_and_resumed("lunarlander_mexp", flags, tmp_path, stop_at=560)
    assert_same_run(whole, resumed)
    assert [int(row["step"]) - int(row["step"]) % 450 for row in evaluations(whole)] == [450, 900]


@pytest.mark.slow
def test_killed_at_three_random_moments(tmp_path):
    flags = f"{RESUMED} 20000 --env-id LunarLander-v3 --eval-frequency 4000 --checkpoint-frequency 1000"
    killed_and_resumed("lunarlander_mexp", flags, tmp_path)


def test_evaluating_does_not_change_the_training(tmp_path):
    """Whether, when and with how many environments a run is evaluated and filmed: the weights are the same."""
    without, often = new_folders(tmp_path, "without", "often")
    flags = f"{RESUMED} 500 --env-id CartPole-v1"
    run_here("lunarlander_mexp", flags, "--eval-frequency 0", cwd=without)
    run_here("lunarlander_mexp", flags, "--eval-frequency 150 --eval-envs 2 --capture-video", cwd=often)
    (without,), (often,) = run_folders(without), run_folders(often)
    assert not (without / "eval.csv").exists()
    assert len(evaluations(often)) == 3
    assert_same_weights(without, often)


def test_replay_of_a_run(tmp_path):
    """MountainCar, cut every 30 steps and never at its goal: every stored transition obeys the car's law of motion.
    So the true successor is stored where the time limit cut an episode, and it is not called terminal."""
    flags = f"{SHORT} --env-id tests/ShortCar-v0 --eval-frequency 0 --reward-scale 0.25"
    _, folder = checkpointed_run(tmp_path, "lunarlander_mexp", flags)
    replay = torch.load(folder / "checkpoint.pt", weights_only=True)["stateful"]["buffer"]
    frames = replay["frames"].numpy()
    assert frames.shape == (100, 2, 2)
    assert replay["written"] == 100
    assert not replay["terminated"].any()
    assert (replay["rewards"] == -0.25).all(), "-1, scaled"
    position, velocity = frames[:, 0, 0].astype(np.float64), frames[:, 0, 1].astype(np.float64)
    push = replay["actions"].numpy().astype(np.float64) - 1
    new_velocity = velocity + 0.001 * push - 0.0025 * np.cos(3 * position)
    assert frames[:, 1, 1] == pytest.approx(new_velocity, abs=1e-6)
    assert frames[:, 1, 0] == pytest.approx(position + new_velocity, abs=1e-6)
    follows = (frames[:-1, 1] == frames[1:, 0]).all(1)
    assert np.flatnonzero(~follows).tolist() == [29, 59, 89]
    assert (frames[[30, 60, 90], 0, 1] == 0).all(), "a new episode begins at rest"


def test_terminal_transitions_of_a_run(tmp_path):
    """The Dial ends every fourth step; the observations are stored unscaled, the actions from 0, the rewards scaled."""
    flags = f"{SHORT} --env-id tests/Dial-v0 --eval-frequency 0 --reward-scale 0.5"
    _, folder = checkpointed_run(tmp_path, "lunarlander_mexp", flags)
    replay = torch.load(folder / "checkpoint.pt", weights_only=True)["stateful"]["buffer"]
    steps = torch.arange(100) % 4
    assert torch.equal(replay["terminated"], steps == 3)
    assert torch.equal(replay["frames"][:, 0, 1], steps.float())
    assert torch.equal(replay["frames"][:, 1, 1], steps.float() + 1)
    assert torch.equal(replay["frames"][:, 1, 2], replay["actions"].float() + 5)
    assert torch.equal(replay["rewards"], 0.5 * (replay["actions"].float() + 5))
    assert set(replay["actions"].tolist()) == {0, 1, 2}


# BAD INPUT


@pytest.mark.parametrize(
    "flags,words",
    [
        ("--env-id LunarLandr-v3", ["--env-id", "try LunarLander-v3"]),
        ("--env-id LunarLander-v7", ["--env-id", "try LunarLander-v3"]),
        ("--env-id Cartpole-v1", ["--env-id", "try CartPole-v1"]),
        ("--env-id ALE/Pong-v5", ["--env-id", "try LunarLander-v3"]),  # nothing of that name is close
        ("--env-id no_such_module:Env-v0", ["--env-id", "no_such_module", "try LunarLander-v3"]),
        ("--env-id a:b:CartPole-v1", ["--env-id 'a:b:CartPole-v1'", "cannot be made"]),
        ("--env-id .:CartPole-v1", ["--env-id '.:CartPole-v1'", "cannot be made"]),
        ("--env-id tests/Blind-v0", ["--env-id", "not flat", "try LunarLander-v3"]),
        ("--env-id tests/Dark-v0 --capture-video", ["--capture-video", "tests/Dark-v0 draws no pictures"]),
        ("--env-id tests/Grey-v0 --capture-video", ["--capture-video", "tests/Grey-v0 draws no pictures (H, W, 3)"]),
        ("--env-id tests/Undrawn-v0 --capture-video", ["--capture-video", "pip install brush", "leave that flag out"]),
        ("--env-id tests/NoLibrary-v0", ["--env-id", "pip install engine", "try CartPole-v1"]),
        ("--env-id Pendulum-v1", ["--env-id", "not 2 to 256 discrete actions", "try LunarLander-v3"]),
        ("--env-id tests/Wide-v0", ["--env-id", "Discrete(257)", "try LunarLander-v3"]),
        ("--env-id FrozenLake-v1", ["--env-id", "Discrete(16), not flat", "try LunarLander-v3"]),
        ("--env-id Blackjack-v1", ["--env-id", "Tuple(", "not flat", "try LunarLander-v3"]),
        ("--env-id CarRacing-v3", ["--env-id", "(96, 96, 3)", "not flat", "try LunarLander-v3"]),
        ("--reward-scale 0", ["--reward-scale 0", "at least"]),
        ("--reward-scale -1", ["--reward-scale -1", "at least"]),
        ("--reward-scale nan", ["--reward-scale nan", "at least"]),
        ("--obs-scale 0", ["--obs-scale 0", "at least"]),
        ("--obs-scale inf", ["--obs-scale inf", "at most"]),
        ("--mean-scaling-coefficient -0.5", ["--mean-scaling-coefficient", "at least 0"]),
        ("--mean-scaling-coefficient inf", ["--mean-scaling-coefficient", "at least 0"]),
        ("--num-envs 0", ["--num-envs 0", "at least 1"]),
        ("--num-threads 0", ["--num-threads 0", "at least 1"]),
        ("--eval-envs 0", ["--eval-envs 0", "at least 1"]),
        ("--eval-episodes 0", ["--eval-episodes 0", "at least 1"]),
        ("--learning-starts 1001", ["--learning-starts 1001", "at most 1000"]),
        ("--buffer-size 100000000000", ["--buffer-size 100000000000", "bytes", "try --buffer-size"]),
        ("--eval-only nothing.pt", ["--eval-only", "nothing.pt"]),
        ("--runs-dir /proc/none", ["--runs-dir /proc"]),
    ],
)
def test_bad_flags(flags, words, tmp_path):
    line = refused("lunarlander_mexp", SHORT, flags, cwd=tmp_path)
    assert all(word in line for word in words), line


def test_version_of_the_paper(tmp_path):
    """LunarLander-v2, which Gymnasium no longer has: in a process of its own no warning comes beside the line."""
    line = refused("lunarlander_mexp", "--env-id LunarLander-v2", cwd=tmp_path, runner=run)
    assert "--env-id 'LunarLander-v2'" in line
    assert "try LunarLander-v3" in line


@pytest.mark.parametrize("provider", [None, "tyro"])
def test_without_box2d(provider, tmp_path):
    """Where Box2D is not installed, environments that do without it run; config.json names the package that has it."""
    packages = {} if provider is None else {"Box2D": [provider]}
    flags = f"{SHORT} --env-id CartPole-v1 --total-timesteps 100 --eval-frequency 0"
    with mock.patch("importlib.metadata.packages_distributions", lambda: packages):
        run_here("lunarlander_mexp", flags, cwd=tmp_path)
    (folder,) = run_folders(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["finished"]
    assert set(config["packages"]) == {"python", "torch", "numpy", "gymnasium"} | set(packages.get("Box2D", []))


@pytest.mark.parametrize("env_id,name", [("CartPole", "CartPole-v1"), ("test_lunarlander:tests/Dial", "tests/Dial-v0")])
def test_ids_without_a_version(env_id, name, tmp_path):
    """They become those of the newest version, by which --resume finds the run."""
    flags = f"{SHORT} --total-timesteps 100 --eval-frequency 0 --env-id"
    output = run_here("lunarlander_mexp", flags, env_id, cwd=tmp_path).stdout
    assert ("has no time limit" in output) == ("Dial" in name)
    (folder,) = run_folders(tmp_path)
    whole = env_id.removesuffix("CartPole").removesuffix("tests/Dial") + name
    assert json.loads((folder / "config.json").read_text())["args"]["env_id"] == whole
    assert folder.name.startswith(name.split("/")[-1])
    run_here("lunarlander_mexp", flags, whole, "--resume", cwd=tmp_path)
    assert run_folders(tmp_path) == [folder]


def test_checkpoints_that_do_not_fit(tmp_path):
    flags, folder = checkpointed_run(tmp_path, "lunarlander_mexp", f"{SHORT} --eval-frequency 0")
    others = "--resume --gamma 0.9 --mean-scaling-coefficient 0 --obs-scale 1 --reward-scale 1"
    line = refused("lunarlander_mexp", flags, others, cwd=tmp_path)
    for flag in ("--gamma 0.99", "--mean-scaling-coefficient 4.0", "--obs-scale 0.1", "--reward-scale 0.1"):
        assert flag in line
    assert "--batch-size" not in line
    content = (folder / "checkpoint.pt").read_bytes()
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    checkpoint["stateful"]["buffer"]["frames"] = torch.zeros(100, 2, 7)
    put(folder / "checkpoint.pt", checkpoint)
    assert "of another version" in refused("lunarlander_mexp", flags, "--resume", cwd=tmp_path)
    put(folder / "checkpoint.pt", content[:-1])
    assert "checkpoint.pt is damaged" in refused("lunarlander_mexp", flags, "--resume", cwd=tmp_path)


# LEARNING


@pytest.mark.slow
@pytest.mark.parametrize("k", ["0", "2"])
def test_learns_cartpole(k, tmp_path):
    """4,000 steps beat the random policy's mean score by a factor of three."""
    envs = script.GymEnvs("CartPole-v1", 10, reward_scale=1.0)
    rng = np.random.default_rng(0)
    envs.reset(np.arange(10))
    scores = []
    for _ in range(1000):
        *_, done, info = envs.step(rng.integers(2, size=10))
        scores += info["score"][done].tolist()
    assert len(scores) > 300
    flags = (
        "--env-id CartPole-v1 --total-timesteps 4000 --eval-frequency 4000 --eval-episodes 20 "
        "--exploration-steps 3000 --batch-size 64"
    )
    run_here("lunarlander_mexp", f"{flags} --mean-scaling-coefficient {k}", cwd=tmp_path)
    (row,) = evaluations(run_folders(tmp_path)[0])
    print(f"k = {k}: {row['score_mean']}, random {np.mean(scores)}")  # shown when the test fails
    assert float(row["score_mean"]) > 3 * np.mean(scores)
