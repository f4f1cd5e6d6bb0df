"""`minatar_mexp.py`: games against the package, replay against a list, the update against its formula, whole runs."""

import csv
import re

import gymnasium
import minatar
import numpy as np
import pytest
import torch
from helpers import (
    GAMES_OF,
    MINATAR_FLAGS,
    TRAINED,
    assert_same_run,
    assert_same_weights,
    checkpointed_run,
    fork,
    kill_at,
    killed_and_resumed,
    load,
    new_folders,
    put,
    refused,
    run,
    run_folders,
    run_here,
    scalars,
)

script = load("minatar_mexp")
GAMES = {"Asterix": 5, "Breakout": 3, "Freeway": 3, "Seaquest": 6, "SpaceInvaders": 4}  # actions that do something


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


@pytest.mark.parametrize("env_id", ["MinAtar/SpaceInvaders-v1", "SpaceInvaders", "SpaceInvaders-v1"])
def test_names_of_one_game(env_id):
    envs = script.MinAtarEnvs(env_id, 1)
    assert envs.env_id == "MinAtar/SpaceInvaders-v1" and envs.action_set == [0, 1, 3, 5]


def test_all_six_actions():
    assert script.MinAtarEnvs("MinAtar/SpaceInvaders-v0", 1).action_set == list(range(6))


@pytest.mark.parametrize("env_id", ["MinAtar/Breakot-v1", "ALE/Pong-v5", "MinAtar/Breakout-v7", "breakout", ""])
def test_unknown_games(env_id):
    with pytest.raises(gymnasium.error.Error):
        script.MinAtarEnvs(env_id, 1)


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


# WHOLE RUNS


RESUMED = (
    f"{MINATAR_FLAGS} --exploration-steps 2000 --target-network-frequency 100 --eval-frequency 900 "
    "--checkpoint-frequency 400 --save-model --total-timesteps"
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
    replay = torch.load(folder / "checkpoint.pt", weights_only=True)["components"]["buffer"]
    frames = replay["frames"]
    assert len(frames) == replay["written"] == 100 and not replay["terminated"].any()
    follows = (frames[:-1, 1] == frames[1:, 0]).flatten(1).all(1)
    assert np.flatnonzero(~follows).tolist() == [29, 59, 89]


def test_evaluating_a_network_with_dropout_does_not_change_the_training(tmp_path):
    """Whether and how often: a fork's network may draw random numbers of PyTorch's."""
    dense = "            nn.Linear(1024, 128),\n"
    name = fork(tmp_path / "dropout.py", (dense, dense + "            nn.Dropout(0.2),\n"), name="minatar_mexp")
    without, often = new_folders(tmp_path, "without", "often")
    run_here(name, f"{RESUMED} 500 --eval-frequency 0", cwd=without)
    run_here(name, f"{RESUMED} 500 --eval-frequency 150 --eval-envs 2", cwd=often)
    assert_same_weights(run_folders(without)[0], run_folders(often)[0])


def test_a_checkpoint_without_the_games(tmp_path):
    """What else can be wrong with one, test_bad_input.py tries."""
    flags, folder = checkpointed_run(tmp_path, "minatar_mexp", f"{MINATAR_FLAGS} --env-id Asterix --eval-frequency 0")
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    del checkpoint["components"]["envs"]
    put(folder / "checkpoint.pt", checkpoint)
    assert "is damaged or of another script" in refused("minatar_mexp", flags, "--resume", cwd=tmp_path)


# LEARNING


@pytest.mark.slow
def test_learns_breakout(tmp_path):
    """40,000 steps beat the random policy's mean score by a factor of three."""
    envs, rng, scores = script.MinAtarEnvs("Breakout", 10), np.random.default_rng(0), []
    envs.reset(np.arange(10))
    for _ in range(1000):
        *_, done, info = envs.step(rng.integers(3, size=10))
        scores += info["score"][done].tolist()
    assert len(scores) > 300
    flags = "--env-id Breakout --total-timesteps 40000 --eval-frequency 40000 --exploration-steps 20000"
    run("minatar_mexp", flags, cwd=tmp_path)
    with open(run_folders(tmp_path)[0] / "eval.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    print(f"{row['score_mean']}, random {np.mean(scores)}")  # shown when the test fails
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
