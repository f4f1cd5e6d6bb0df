"""`lunarlander_mexp.py`: environments against Gymnasium, replay against a list, the update by its formula, runs."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from helpers import (
    assert_same_run,
    batch_of,
    checkpointed_run,
    evaluations,
    killed_and_resumed,
    load,
    make_network,
    refused,
    run_folders,
    run_here,
    stopped_and_resumed,
)

script = load("lunarlander_mexp")
SHORT = "--batch-size 8 --learning-starts 64 --buffer-size 1000 --eval-envs 4 --eval-episodes 6"


class Dial(gymnasium.Env):
    """An episode of four steps; the reward is the action, which is 5, 6 or 7. Observes in float64 the number of the
    episode, the step, and the action before."""

    observation_space = gymnasium.spaces.Box(-100.0, 100.0, (3,), np.float64)
    action_space = gymnasium.spaces.Discrete(3, start=5)
    obs = np.zeros(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        episode = 0 if seed is not None else self.obs[0] + 1
        self.obs = np.array([episode, 0.0, 0.0])
        return self.obs, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.obs = np.array([self.obs[0], self.obs[1] + 1, action], np.float64)
        return self.obs, float(action), self.obs[1] == 4, False, {}


class Wide(Dial):
    action_space = gymnasium.spaces.Discrete(257)


class NoLibrary(Dial):
    """What an environment does whose package is missing."""

    def __init__(self):
        raise gymnasium.error.DependencyNotInstalled("`pip install engine` brings it")


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
gymnasium.register("tests/NoLibrary-v0", NoLibrary)
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


# NETWORK AND EVALUATION


def test_scale_of_the_observations():
    """It is applied in the network, so the replay keeps observations as they are."""
    obs = batch_of(script, 4).obs
    scaled, unscaled = make_network(script, 4, obs_scale=0.25), make_network(script, 4, obs_scale=1.0)
    unscaled.load_state_dict(scaled.state_dict())
    assert torch.equal(scaled(obs), unscaled(0.25 * obs))
    assert not torch.allclose(scaled(obs), unscaled(obs))


def test_defaults():
    """Those of the authors' release."""
    expected = dict(env_id="LunarLander-v3", num_envs=1, obs_scale=0.1, reward_scale=0.1, total_timesteps=100_000)
    expected |= dict(learning_rate=1e-3, adam_eps=3.125e-4, mean_scaling_coefficient="n", buffer_size=500_000)
    expected |= dict(gamma=0.99, target_network_frequency=100, train_frequency=1, batch_size=128, start_e=1.0)
    expected |= dict(end_e=0.05, exploration_steps=10_000, learning_starts=1_000, eval_frequency=10_000)
    expected |= dict(eval_episodes=100, eval_epsilon=0.0)
    args = script.Args()
    assert {name: getattr(args, name) for name in expected} == expected


# WHOLE RUNS


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


def test_replay_of_a_run(tmp_path):
    """MountainCar, cut every 30 steps and never at its goal: every stored transition obeys the car's law of motion.
    So the true successor is stored where the time limit cut an episode, and it is not called terminal."""
    flags = f"{SHORT} --env-id tests/ShortCar-v0 --eval-frequency 0 --reward-scale 0.25"
    _, folder = checkpointed_run(tmp_path, "lunarlander_mexp", flags)
    replay = torch.load(folder / "checkpoint.pt", weights_only=True)["components"]["buffer"]
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
    replay = torch.load(folder / "checkpoint.pt", weights_only=True)["components"]["buffer"]
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
        ("--env-id LunarLandr-v3", ["LunarLander"]),
        ("--env-id LunarLander-v2", ["LunarLander-v3"]),  # the paper's, which Gymnasium no longer has
        ("--env-id ALE/NoSuchGame-v5", []),
        ("--env-id no_such_module:Env-v0", ["no_such_module", "cannot be made", "try LunarLander-v3"]),
        ("--env-id a:b:CartPole-v1", ["cannot be made"]),
        ("--env-id tests/Blind-v0", ["not flat", "try LunarLander-v3"]),
        ("--env-id tests/NoLibrary-v0", ["pip install engine"]),
        ("--env-id Pendulum-v1", ["no 2 to 256 discrete actions", "try LunarLander-v3"]),
        ("--env-id tests/Wide-v0", ["Discrete(257)", "try LunarLander-v3"]),
        ("--env-id Blackjack-v1", ["Tuple(", "not flat", "try LunarLander-v3"]),
        ("--env-id CarRacing-v3", ["(96, 96, 3)", "not flat", "try LunarLander-v3"]),
        ("--obs-scale inf", ["--obs-scale inf", "finite"]),
    ],
)
def test_bad_flags(flags, words, tmp_path):
    line = refused("lunarlander_mexp", SHORT, flags, cwd=tmp_path)
    assert line.startswith(f"error: {flags}")
    assert all(word in line for word in words), line


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


# LEARNING


@pytest.mark.slow
def test_learns_cartpole(tmp_path):
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
    run_here("lunarlander_mexp", flags, cwd=tmp_path)
    (row,) = evaluations(run_folders(tmp_path)[0])
    print(f"{row['score_mean']}, random {np.mean(scores)}")  # shown when the test fails
    assert float(row["score_mean"]) > 3 * np.mean(scores)
