"""`minatar_mexp.py`: games against the package, replay against a list, the update against its formula, whole runs."""

import copy
import csv
import io
import json
import re

import imageio_ffmpeg
import minatar
import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import GAMES_OF, TRAINED, load, run, run_folders
from test_bad_input import checkpointed_run, put, refused
from test_evaluation import A, B, C, ScriptedEnvs, by_hand, q_values
from test_outputs import COLUMNS
from test_resume import (
    assert_same_run,
    assert_same_weights,
    fork,
    kill_at,
    killed_and_resumed,
    new_folders,
    run_here,
    scalars,
)

script = load("minatar_mexp")
CPU = torch.device("cpu")
GAMES = {"Asterix": 5, "Breakout": 3, "Freeway": 3, "Seaquest": 6, "SpaceInvaders": 4}  # actions that do something
SHORT = (
    "--batch-size 8 --learning-starts 64 --buffer-size 400 --train-frequency 16 --eval-envs 4 --eval-episodes 6 "
    "--eval-epsilon 1"
)


# THE GAMES


@pytest.mark.parametrize("game,num_actions", GAMES.items())
def test_against_the_package(game, num_actions):
    """Three games at once: each as the package plays it alone, transposed by nothing and never an episode late."""
    envs, rng, ends = script.MinAtarEnvs(f"MinAtar/{game}-v1", 3), np.random.default_rng(0), 0
    assert envs.num_actions == num_actions and envs.env_id == f"MinAtar/{game}-v1"
    alone = [minatar.Environment(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", game).lower()) for _ in range(3)]
    obs = envs.reset(np.array([5, 6, 7]))
    for seed, single in zip((5, 6, 7), alone, strict=True):
        single.seed(seed), single.reset()
    assert obs.dtype == bool and obs.shape == (3, *alone[0].state_shape()) == (3, *envs.obs_shape)
    scores, lengths = [0, 0, 0], [0, 0, 0]
    for _ in range(3000):
        actions = rng.integers(num_actions, size=3)
        obs, rewards, terminated, truncated, done, info = envs.step(actions)
        for i, single in enumerate(alone):
            reward, over = single.act(single.minimal_action_set()[actions[i]])
            scores[i], lengths[i] = scores[i] + reward, lengths[i] + 1
            assert (rewards[i], terminated[i], truncated[i], done[i]) == (reward, over, False, over)
            assert np.array_equal(info["final_obs"][i], single.state())
            assert (info["score"][i], info["length"][i]) == (scores[i], lengths[i])
            if over:
                single.reset()
                scores[i], lengths[i], ends = 0, 0, ends + 1
            assert np.array_equal(obs[i], single.state())
    assert ends > 2


def test_layout_of_breakout():
    """Rows from the top, columns from the left, channels paddle, ball, trail and brick."""
    obs = script.MinAtarEnvs("Breakout", 1).reset(np.array([0]))[0]
    assert np.argwhere(obs[:, :, 0]).tolist() == [[9, 4]]
    assert np.argwhere(obs[:, :, 1]).tolist() in ([[3, 0]], [[3, 9]])
    assert sorted(set(np.argwhere(obs[:, :, 3])[:, 0])) == [1, 2, 3] and obs[:, :, 3].sum() == 30


def test_package_defaults():
    """Sticky actions 0.1, by counting; difficulty ramps."""
    for game in ("Asterix", "Seaquest", "SpaceInvaders"):  # the two others have no ramping
        assert script.MinAtarEnvs(game, 1).games[0].env.ramping is True
    envs = script.MinAtarEnvs("Breakout", 1)
    envs.reset(np.array([1]))
    envs.games[0].env.act = lambda action: (taken.append(action), (0, False))[1]
    taken, asked = [], [0, 1] * 5000  # 0 and 1 are the package's actions 0 and 1 too
    for action in asked:
        envs.step(np.array([action]))
    repeated = np.mean(np.array(taken) != asked)
    assert abs(repeated - 0.1 / 1.1) < 0.01, (
        "a repeated action may itself be a repeated one, which is the one asked for"
    )


@pytest.mark.parametrize("env_id", ["MinAtar/SpaceInvaders-v1", "SpaceInvaders", "space_invaders"])
def test_names_of_one_game(env_id):
    envs = script.MinAtarEnvs(env_id, 1)
    assert envs.env_id == "MinAtar/SpaceInvaders-v1" and envs.action_set == [0, 1, 3, 5]


def test_all_six_actions():
    assert script.MinAtarEnvs("MinAtar/SpaceInvaders-v0", 1).action_set == list(range(6))


def test_truncation():
    """The time limit cuts after exactly that many steps; the true successor stays at hand, and a new game begins."""
    envs, single = script.MinAtarEnvs("Freeway", 2, max_steps=6), minatar.Environment("freeway")
    envs.reset(np.array([3, 4])), single.seed(3), single.reset()
    for t in range(1, 15):
        obs, _, terminated, truncated, done, info = envs.step(np.array([1, 1]))
        single.act(2)
        assert truncated.tolist() == done.tolist() == [t % 6 == 0] * 2 and not terminated.any()
        assert np.array_equal(info["final_obs"][0], single.state())
        assert info["length"].tolist() == [(t - 1) % 6 + 1] * 2
        if t % 6 == 0:
            assert obs[0, :, :, 0].argmax() // 10 == 9, "the chicken starts at the bottom"
            single.reset()
        assert np.array_equal(obs[0], single.state())


# REPLAY


@pytest.mark.parametrize("num_envs,capacity", [(1, 40), (3, 40), (3, 10_000)])
def test_replay_against_a_list(num_envs, capacity):
    """Every draw is one of the last `capacity` transitions, bit for bit, and each of them is drawn about as often."""
    envs, rng = script.MinAtarEnvs("Breakout", num_envs, max_steps=15), np.random.default_rng(0)
    buffer, kept, cut = script.ReplayBuffer(capacity, envs.obs_shape, CPU), [], 0
    obs = envs.reset(np.arange(num_envs))
    for _ in range(200):
        actions = rng.integers(3, size=num_envs)
        next_obs, rewards, terminated, truncated, _, info = envs.step(actions)
        rewards = rewards + rng.integers(9, size=num_envs)  # so that transitions can be told apart
        buffer.append(obs, info["final_obs"], actions, rewards, terminated)
        for i in range(num_envs):
            kept.append((obs[i], info["final_obs"][i], actions[i], rewards[i], terminated[i]))
        obs, cut = next_obs, cut + truncated.sum()
    assert cut > 3
    kept = kept[-capacity:]
    assert buffer.filled() == len(kept)

    def key(*transition):
        return b"|".join(np.asarray(x, dtype=float).tobytes() for x in transition)

    wanted, drawn = {}, {}
    for transition in kept:
        wanted[key(*transition)] = wanted.get(key(*transition), 0) + 1
    for _ in range(400):
        batch = buffer.sample(32, rng, CPU)
        assert batch.obs.dtype == batch.next_obs.dtype == torch.bool and batch.actions.dtype == torch.int64
        assert batch.rewards.dtype == batch.terminated.dtype == torch.float32 and batch.actions.shape == (32,)
        for obs, action, reward, next_obs, terminated in zip(*batch, strict=True):
            name = key(obs, next_obs, action, reward, terminated)
            drawn[name] = drawn.get(name, 0) + 1
    assert set(drawn) <= set(wanted)
    expected = {name: 400 * 32 * count / len(kept) for name, count in wanted.items()}
    assert all(abs(drawn.get(name, 0) - e) < 6 * e**0.5 for name, e in expected.items())


def test_replay_state():
    """What is saved is what is filled, and not a byte of the rest."""
    buffer, rng = script.ReplayBuffer(50, (10, 10, 4), CPU), np.random.default_rng(0)
    for number in range(31):
        if number == 10:
            file = io.BytesIO()
            torch.save(buffer.state_dict()["frames"].clone(), file)
            filled = len(file.getvalue())
            torch.save(buffer.state_dict()["frames"], file)
            assert len(file.getvalue()) == 2 * filled
        pair = rng.random((2, 2, 10, 10, 4)) < 0.3
        buffer.append(pair[0], pair[1], rng.integers(3, size=2), rng.random(2), rng.random(2) < 0.5)
    other = script.ReplayBuffer(50, (10, 10, 4), CPU)
    other.load_state_dict(copy.deepcopy(buffer.state_dict()))
    for x, y in zip(*(b.sample(64, np.random.default_rng(3), CPU) for b in (buffer, other)), strict=True):
        assert torch.equal(x, y)
    for b in (buffer, other):
        b.append(pair[1], pair[0], np.zeros(2, int), np.ones(2), np.zeros(2, bool))
    assert torch.equal(buffer.frames, other.frames) and other.written == 64
    with pytest.raises(MemoryError, match="--buffer-size 1000000000000 needs 800,000,000,000,000 bytes.*try --buffer"):
        script.ReplayBuffer(10**12, (10, 10, 4), CPU)


# NETWORK AND UPDATE


def networks(k):
    torch.manual_seed(1)
    network = script.QNetwork(4, 3, k)
    target = copy.deepcopy(network)
    for parameter in target.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    return network, target.requires_grad_(False)


def make_batch():
    rng = np.random.default_rng(2)
    frames = torch.from_numpy(rng.random((16, 2, 10, 10, 4)) < 0.2)
    return script.Batch(
        obs=frames[:, 0],
        actions=torch.from_numpy(rng.integers(3, size=16)),
        rewards=torch.from_numpy(rng.integers(4, size=16)).float(),
        next_obs=frames[:, 1],
        terminated=torch.arange(16).remainder(4).eq(1).float(),
    )


def values_by_hand(weights, obs, k):
    """The network in float64 from its weights; the layer as a product with M_k."""
    x = F.relu(F.conv2d(obs.double().permute(0, 3, 1, 2), weights["network.0.weight"], weights["network.0.bias"]))
    x = F.relu(F.linear(x.flatten(1), weights["network.3.weight"], weights["network.3.bias"]))
    z = F.linear(x, weights["output.weight"], weights["output.bias"])
    return z @ (torch.eye(z.shape[1]) + k / z.shape[1]).double().T


@pytest.mark.parametrize("k", [0.0, 3.0])
def test_one_step_equals_the_formula(k):
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
    loss = sum(0.5 * error**2 for error in errors)
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
    assert all(torch.equal(value.double(), target_weights[name]) for name, value in target.state_dict().items())


class Plain(nn.Module):
    """The network written without the layer."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 128), nn.ReLU())
        self.output = nn.Linear(128, 3)

    def forward(self, obs):
        return self.output(self.network(obs.permute(0, 3, 1, 2).float().contiguous()))


def test_k_zero_is_the_plain_network():
    """The layer at k = 0 changes no bit: not of the values, and not of the weights after 20 updates."""
    network, plain = networks(0.0)[0], Plain()
    plain.load_state_dict(network.state_dict())
    assert isinstance(network.mean_expansion, script.MeanExpansion) and network.mean_expansion.k == 0
    assert torch.equal(network(make_batch().obs), plain(make_batch().obs))
    losses = []
    for net in (network, plain):
        target, optimizer = copy.deepcopy(net), torch.optim.Adam(net.parameters(), lr=2.5e-4, fused=True)
        updates = [script.update(net, target, optimizer, script.Args(), make_batch()) for _ in range(20)]
        losses.append([loss.item() for loss, _, _ in updates])
    assert losses[0] == losses[1] and len(set(losses[0])) == 20
    for name, value in network.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name])
    for k in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="--mean-scaling-coefficient"):
            script.QNetwork(4, 3, k)


def test_initialisation_and_action_values():
    network, _ = networks(3.0)
    layers = [layer for layer in network.modules() if hasattr(layer, "weight")]
    assert [tuple(layer.weight.shape) for layer in layers] == [(16, 4, 3, 3), (128, 1024), (3, 128)]
    for i, layer in enumerate(layers):
        spread = layer.weight.std().item() * layer.weight[0].numel() ** 0.5
        assert abs(spread - 1) < 5 / (2 * layer.weight.numel()) ** 0.5
        assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.0 if i == 2 else 0.1))
    obs = make_batch().obs
    expected = values_by_hand({name: value.double() for name, value in network.state_dict().items()}, obs, 3.0)
    torch.testing.assert_close(script.action_values(network, obs).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [0.0, 0.5, 3.0])
def test_folding(k):
    network, plain = networks(k)[0], script.QNetwork(4, 3, 0.0)
    plain.load_state_dict(network.folded_state_dict())
    obs = make_batch().obs
    torch.testing.assert_close(plain(obs), network(obs), rtol=1e-5, atol=1e-5)


# EVALUATION


class Stepped(ScriptedEnvs):
    """Scripted games that are stepped in one call."""

    def step(self, actions):
        self.send(actions)
        return self.recv()


@pytest.mark.parametrize(
    "eval_episodes,expected",
    [
        # Game 0 plays A C A C ..., game 1 plays B B ...: A ends at step 4, C at 6, A at 10, with B
        (1, [(0, A)]),  # game 1 never starts
        (2, [(0, A), (0, B)]),
        (3, [(0, A), (1, C), (0, B)]),
        (4, [(0, A), (1, C), (2, A), (0, B)]),
        (5, [(0, A), (1, C), (2, A), (0, B), (3, C)]),  # of two that end together the first game starts again
        (6, [(0, A), (1, C), (2, A), (0, B), (3, C), (1, B)]),
    ],
)
def test_metrics_by_hand(eval_episodes, expected):
    envs = Stepped([[A, C], [B]])
    args = script.Args(gamma=0.9, eval_episodes=eval_episodes, mean_scaling_coefficient=4.0)
    metrics, film = script.evaluate(envs, q_values, args, 0)
    by_signs = by_hand(expected, 0.9, k=4.0)
    returns = [
        sum(0.9**i * r for i, r in enumerate(rewards[t:])) for _, rewards in expected for t in range(len(rewards))
    ]
    by_signs["mean_discounted_return"] = np.mean(returns)  # here rewards are not clipped
    by_signs["overestimation"] = by_signs["mean_q"] - np.mean(returns)
    assert metrics == pytest.approx(by_signs) and metrics["episodes"] == eval_episodes
    assert [obs.tolist() for obs in film] == [[0, t] for t in range(len(A))], "the first game's first episode"


@pytest.mark.parametrize("epsilon", [0.0, 0.001, 0.1])
def test_epsilon_of_the_evaluation(epsilon):
    envs = Stepped([[[0] * 5000]] * 4)
    args = script.Args(eval_episodes=4, eval_epsilon=epsilon, mean_scaling_coefficient=0.0)
    metrics, _ = script.evaluate(envs, lambda obs: np.tile([0.0, 3.0, 1.0], (4, 1)), args, 0)
    actions = np.concatenate(envs.actions)
    expected = 20_000 * epsilon * 2 / 3  # a random action may be the best one
    assert abs(np.count_nonzero(actions != 1) - expected) <= 3 * expected**0.5
    assert metrics["mean_q"] == pytest.approx(np.array([0.0, 3.0, 1.0])[actions].mean())


# WHOLE RUNS


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run: its folder, and what it printed."""
    cwd = tmp_path_factory.mktemp("minatar")
    flags = f"{SHORT} --env-id breakout --total-timesteps 2000 --eval-frequency 1000 --save-model --capture-video"
    result = run("minatar_mexp", flags, cwd=cwd)
    (folder,) = run_folders(cwd)
    return folder, result


def test_outputs(finished):
    folder, result = finished
    assert re.fullmatch(r"Breakout-v1__minatar_mexp__1__\d+", folder.name) and folder.parent.name == "MinAtar"
    config = json.loads((folder / "config.json").read_text())
    assert config["finished"] is True and config["args"]["env_id"] == "MinAtar/Breakout-v1"
    assert config["args"]["mean_scaling_coefficient"] == 3.0 and config["num_actions"] == 3
    assert config["packages"]["MinAtar"] == "1.0.15"
    assert set(config["args"]) == set(vars(script.Args())) and not (folder / "checkpoint.pt").exists()
    assert (folder / "eval.csv").read_text().splitlines()[0] == COLUMNS
    with open(folder / "eval.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["episodes"]) for row in rows] == [("1000", "6"), ("2000", "6")]
    values = scalars(folder)
    tags = {tag for tag, _, _ in values}
    assert tags >= {"charts/episodic_return", "charts/episodic_length", "charts/epsilon", "losses/td_loss"}
    assert tags >= {"losses/q_values", "eval/episodic_return", "eval/overestimation", "eval/action_gap"}
    lengths = [(step, value) for tag, step, value in values if tag == "charts/episodic_length"]
    assert [step for step, _ in lengths] == np.cumsum([value for _, value in lengths]).tolist()
    assert result.stdout.splitlines()[0].startswith("device: CPU") and "2000/2000" in result.stderr


def test_video(finished):
    folder, _ = finished
    for video in ("step_1000.mp4", "step_2000.mp4"):
        frames = imageio_ffmpeg.read_frames(str(folder / "videos" / video))
        assert next(frames)["size"] == (320, 320)
        pictures = [np.frombuffer(frame, np.uint8).reshape(320, 320, 3) for frame in frames]
        assert len(pictures) > 5 and any((a != b).any() for a, b in zip(pictures, pictures[1:], strict=False))
        bricks, empty = pictures[0][32:128].astype(int), pictures[0][160:256].astype(int)  # rows 1 to 3 and 5 to 7
        assert np.median(bricks.max(2)) > 100 and np.median(empty.max(2)) < 20


def test_eval_only(finished, tmp_path):
    """The saved network, and the folded one without the layer, play as the trained one."""
    folder, result = finished
    flags = f"{SHORT} --env-id Breakout --eval-only {folder}/model"
    own = run_here("minatar_mexp", flags + ".pt", cwd=tmp_path).stdout.splitlines()[-1]
    result = run_here("minatar_mexp", flags + "_folded.pt --mean-scaling-coefficient 0", cwd=tmp_path)
    folded = result.stdout.splitlines()[-1]
    both = [line.split(", z_norm")[0] for line in (own, folded)]  # without the layer z is q
    numbers = [[float(x) for x in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", line)] for line in both]
    assert own.startswith("step 0: episodes 6") and numbers[0] == pytest.approx(numbers[1], rel=2e-3)
    assert "k = 3" in refused("minatar_mexp", flags + ".pt --mean-scaling-coefficient 2", cwd=tmp_path)
    assert "--eval-only" in refused("minatar_mexp", flags.replace("Breakout", "Asterix") + ".pt", cwd=tmp_path)


RESUMED = (
    f"{SHORT} --exploration-steps 2000 --target-network-frequency 100 --eval-frequency 900 --checkpoint-frequency 400 "
    "--save-model --total-timesteps"
)


def test_resumes_where_the_games_were(tmp_path):
    """The checkpoint holds the games: a run without one is the same run, and a killed one plays on mid-episode."""
    whole, killed = new_folders(tmp_path, "whole", "killed")
    flags = f"{RESUMED} 1900 --env-id Seaquest"
    run_here("minatar_mexp", flags, "--checkpoint-frequency 0", cwd=whole)
    kill_at(1500, "minatar_mexp", flags, cwd=killed)  # evaluated at 900, checkpointed at 1,200
    (folder,) = run_folders(killed)
    result = run("minatar_mexp", flags, "--resume", cwd=killed)
    assert "goes on from step 1,200" in result.stdout
    assert_same_run(run_folders(whole)[0], folder)
    ends = {step for tag, step, _ in scalars(folder) if tag == "charts/episodic_length"}
    assert ends and 1200 not in ends, "the checkpoint was written in the middle of an episode"


@pytest.mark.slow
def test_killed_at_three_random_moments(tmp_path):
    flags = f"{RESUMED} 5000 --env-id Seaquest --num-envs 3 --mean-scaling-coefficient 0"
    killed_and_resumed("minatar_mexp", flags, tmp_path)


@pytest.mark.parametrize("name", [name for name in TRAINED if GAMES_OF[name] == "MinAtar" and "online" not in name])
def test_time_limit_in_training(name, tmp_path):
    """A copy of the script with a limit of 30 steps: where that cuts a game, the replay has the true successor, which
    is not where the next game begins, and does not call it terminal. Elsewhere transitions follow one another."""
    limit = ("max_steps: int = 27_000", "max_steps: int = 30")
    name = fork(tmp_path / "limited.py", limit, name=name)
    flags = "--env-id Freeway --batch-size 8 --learning-starts 64 --eval-frequency 0 --no-cuda"
    _, folder = checkpointed_run(tmp_path, name, flags)
    replay = torch.load(folder / "checkpoint.pt", weights_only=True)["stateful"]["buffer"]
    frames = replay["frames"]
    assert len(frames) == replay["written"] == 100 and not replay["terminated"].any()
    follows = (frames[:-1, 1] == frames[1:, 0]).flatten(1).all(1)
    assert np.flatnonzero(~follows).tolist() == [29, 59, 89]


def test_evaluating_does_not_change_the_training(tmp_path):
    without, often = new_folders(tmp_path, "without", "often")
    run_here("minatar_mexp", f"{RESUMED} 500 --eval-frequency 0", cwd=without)
    run_here("minatar_mexp", f"{RESUMED} 500 --eval-frequency 150 --eval-envs 2", cwd=often)
    assert_same_weights(run_folders(without)[0], run_folders(often)[0])


def test_evaluating_a_network_with_dropout_does_not_change_the_training(tmp_path):
    """A fork's network may draw random numbers of PyTorch's."""
    dense = "            nn.Linear(1024, 128),\n"
    name = fork(tmp_path / "dropout.py", (dense, dense + "            nn.Dropout(0.2),\n"), name="minatar_mexp")
    without, often = new_folders(tmp_path, "without", "often")
    run_here(name, f"{RESUMED} 500 --eval-frequency 0", cwd=without)
    run_here(name, f"{RESUMED} 500 --eval-frequency 150 --eval-envs 2", cwd=often)
    assert_same_weights(run_folders(without)[0], run_folders(often)[0])


# BAD INPUT


@pytest.mark.parametrize(
    "flags,words",
    [
        ("--env-id MinAtar/Breakot-v1", ["--env-id", "try MinAtar/Breakout-v1"]),
        ("--env-id ALE/Pong-v5", ["--env-id", "MinAtar/"]),
        ("--env-id MinAtar/Breakout-v7", ["--env-id", "MinAtar/Breakout-v"]),
        ("--mean-scaling-coefficient -0.5", ["--mean-scaling-coefficient", "at least 0"]),
        ("--num-threads 0", ["--num-threads 0", "at least 1"]),
        ("--eval-episodes 0", ["--eval-episodes 0", "at least 1"]),
        ("--learning-starts 500", ["--learning-starts 500", "at most 400"]),
        ("--buffer-size 100000000000", ["--buffer-size 100000000000", "bytes", "try --buffer-size"]),
        ("--eval-only nothing.pt", ["--eval-only", "nothing.pt"]),
        ("--runs-dir /proc/none", ["--runs-dir /proc"]),
    ],
)
def test_bad_flags(flags, words, tmp_path):
    line = refused("minatar_mexp", SHORT, flags, cwd=tmp_path)
    assert all(word in line for word in words), line


def test_checkpoints_that_do_not_fit(tmp_path):
    """With the games in it; what else can be wrong with one, test_bad_input.py tries by the text that all share."""
    flags, folder = checkpointed_run(tmp_path, "minatar_mexp", f"{SHORT} --env-id Asterix --eval-frequency 0")
    line = refused("minatar_mexp", flags, "--resume --gamma 0.9 --mean-scaling-coefficient 0", cwd=tmp_path)
    assert "--gamma 0.99" in line and "--mean-scaling-coefficient 5.0" in line and "--batch-size" not in line
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    del checkpoint["stateful"]["envs"]
    put(folder / "checkpoint.pt", checkpoint)
    assert "of another version" in refused("minatar_mexp", flags, "--resume", cwd=tmp_path)
    put(folder / "checkpoint.pt", (folder / "checkpoint.pt").read_bytes()[:-1])
    assert "checkpoint.pt is damaged" in refused("minatar_mexp", flags, "--resume", cwd=tmp_path)


# LEARNING


@pytest.mark.slow
@pytest.mark.parametrize("k", ["0", "3"])
def test_learns_breakout(k, tmp_path):
    """60,000 steps beat the random policy's mean score by a factor of three."""
    envs, rng, scores = script.MinAtarEnvs("Breakout", 10), np.random.default_rng(0), []
    envs.reset(np.arange(10))
    for _ in range(1000):
        *_, done, info = envs.step(rng.integers(3, size=10))
        scores += info["score"][done].tolist()
    assert len(scores) > 300
    flags = "--env-id Breakout --total-timesteps 60000 --eval-frequency 60000 --exploration-steps 30000 --buffer-size"
    run("minatar_mexp", flags, f"60000 --mean-scaling-coefficient {k}", cwd=tmp_path)
    with open(run_folders(tmp_path)[0] / "eval.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    print(f"k = {k}: {row['score_mean']}, random {np.mean(scores)}")  # shown when the test fails
    assert float(row["score_mean"]) > 3 * np.mean(scores)


def test_freeways_clock_is_terminal():
    """The package has no truncations: Freeway's clock ends an episode as a lost game does."""
    envs = script.MinAtarEnvs("Freeway", 1)
    envs.reset(np.array([0]))
    for length in range(1, 2502):
        _, _, terminated, truncated, done, info = envs.step(np.array([0]))
        assert terminated[0] == done[0] == (length == 2501) and not truncated[0] and info["length"][0] == length


def test_seaquest_surfaces_without_divers_after_six():
    """Six divers on board and one surfacing leave -1: from then on the game lets one surface with none."""

    def surfacings(divers, most=5):
        """How often the game lets the player surface, `most` at most, with nothing else in the water."""
        envs = script.MinAtarEnvs("Seaquest", 1)
        envs.reset(np.array([0]))
        game = envs.games[0].env
        game.diver_count, up, down, count = divers, envs.action_set.index(2), envs.action_set.index(4), 0
        for t in range(40):
            for things in (game.divers, game.e_fish, game.e_subs, game.e_bullets):
                things.clear()
            below = game.sub_y > 0
            _, _, terminated, *_ = envs.step(np.array([down if t % 8 < 4 else up]))
            if terminated[0]:
                return count
            count += below and game.sub_y == 0
        return min(count, most)

    assert surfacings(0) == 0 and surfacings(2) == 2
    assert surfacings(6) == 5  # and so on for ever
