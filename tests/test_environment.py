"""The environment against gymnasium's wrappers, frame for frame, on the real emulator."""

from unittest import mock

import ale_py
import gymnasium
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from helpers import load

dqn = load("dqn_atari")
gymnasium.register_envs(ale_py)
GAMES = ["SpaceInvaders"]
MORE_GAMES = ["Breakout", "Pong", "Seaquest", "MsPacman", "Qbert", "Asteroids", "Frostbite"]


def reference(game: str, repeat_action_probability: float, seed: int):
    """gymnasium's preprocessing of the same ROM with the same seed; without a limit on the episode's length."""
    env = gymnasium.make(
        f"ALE/{game}-v5",
        frameskip=1,
        repeat_action_probability=repeat_action_probability,
        full_action_space=True,
        max_num_frames_per_episode=10**9,
    )
    ale = env.unwrapped.ale
    ale.setInt("random_seed", seed)
    ale.loadROM(ale_py.roms.get_rom_path(env.spec.kwargs["game"]))
    env = AtariPreprocessing(env, noop_max=0, frame_skip=4, terminal_on_life_loss=False)
    return FrameStackObservation(env, 4, padding_type="zero")


def make_envs(game: str, repeat_action_probability: float):
    """The script's environment of one game, with other sticky actions."""

    def vector_env(*args, **options):
        return AtariVectorEnv(*args, **options | {"repeat_action_probability": repeat_action_probability})

    with mock.patch.object(dqn, "AtariVectorEnv", vector_env):
        return dqn.AtariEnvs(f"ALE/{game}-v5", 1)


def play_both(game, repeat_action_probability, episodes, limit):
    """Play the same random actions on both and compare every step; returns the episodes' scores."""
    seed = 7
    envs = make_envs(game, repeat_action_probability)
    ref = reference(game, repeat_action_probability, seed)
    rng = np.random.default_rng(3)
    obs, (ref_obs, _) = envs.reset(np.array([seed])), ref.reset()
    assert obs.shape == (1, 4, 84, 84) and obs.dtype == np.uint8
    assert np.array_equal(obs[0], ref_obs) and not obs[0, :3].any()
    scores, score, length = [], 0, 0
    for _ in range(limit):
        action = rng.integers(18)
        envs.send(np.array([action]))
        obs, rewards, terminated, truncated, done, info = envs.recv()
        ref_obs, reward, ref_terminated, ref_truncated, _ = ref.step(action)
        score, length = score + reward, length + 1
        assert rewards[0] == reward and terminated[0] == ref_terminated and not truncated[0] and not ref_truncated
        assert info["score"][0] == score and info["length"][0] == length and done[0] == ref_terminated
        if ref_terminated:
            scores, score, length = [*scores, score], 0, 0
            ref_obs, _ = ref.reset()
        assert np.array_equal(obs[0], ref_obs)
        if len(scores) == episodes:
            break
    return scores


@pytest.mark.parametrize("game", GAMES + [pytest.param(game, marks=pytest.mark.slow) for game in MORE_GAMES])
def test_frame_for_frame_without_sticky_actions(game):
    assert len(play_both(game, 0.0, episodes=2, limit=20_000)) == 2


@pytest.mark.parametrize("game", ["Breakout", "Seaquest"])
def test_frame_for_frame_with_sticky_actions(game):
    assert len(play_both(game, 0.25, episodes=2, limit=20_000)) == 2


def step(envs, actions):
    envs.send(np.asarray(actions))
    return envs.recv()


def test_sticky_actions_are_the_default():
    actions = np.random.default_rng(0).integers(18, size=(150, 1))

    def play(envs):
        envs.reset(np.array([3]))
        return np.concatenate([step(envs, a)[0] for a in actions])

    default = play(dqn.AtariEnvs("ALE/Breakout-v5", 1))
    assert np.array_equal(default, play(make_envs("Breakout", 0.25)))
    assert not np.array_equal(default, play(make_envs("Breakout", 0.0)))


def test_truncation_gives_the_true_successor_observation():
    """At the time limit the final frame is the one that an unlimited game shows; then a new episode begins."""
    limited = dqn.AtariEnvs("ALE/Pong-v5", 2, max_steps=60)
    unlimited = dqn.AtariEnvs("ALE/Pong-v5", 2)
    seeds, rng = np.array([4, 5]), np.random.default_rng(0)
    limited.reset(seeds), unlimited.reset(seeds)
    for t in range(1, 61):
        actions = rng.integers(18, size=2)
        obs, rewards, terminated, truncated, done, info = step(limited, actions)
        free_obs, free_rewards, _, free_truncated, *_ = step(unlimited, actions)
        assert np.array_equal(rewards, free_rewards) and not free_truncated.any() and not terminated.any()
        assert truncated.tolist() == done.tolist() == [t == 60] * 2
        assert np.array_equal(info["newest_frame"], free_obs[:, -1])
    assert info["length"].tolist() == [60, 60]
    assert not obs[:, :3].any() and obs[:, 3].any()
    *_, info = step(limited, actions)
    assert info["length"].tolist() == [1, 1]


def test_truncation_of_one_of_several_games():
    """A game over shifts one game; the limit then cuts the games at different times and touches only its own."""
    envs = dqn.AtariEnvs("ALE/Breakout-v5", 2, max_steps=180)
    envs.reset(np.array([1, 2]))
    rng, lengths, cuts, previous = np.random.default_rng(1), np.zeros(2, int), [], None
    for _ in range(700):
        obs, _, terminated, truncated, done, info = step(envs, rng.integers(18, size=2))
        lengths += 1
        assert np.array_equal(info["length"], lengths)
        assert np.array_equal(truncated, (lengths == 180) & ~terminated)
        assert np.array_equal(done, terminated | truncated)
        assert np.array_equal(~obs[:, 0].any(axis=(1, 2)), lengths * ~done < 3)
        if previous is not None:  # a game that goes on keeps its stack
            assert np.array_equal(obs[~done, :3], previous[~done, 1:])
        lengths[done], previous = 0, obs
        cuts.append(truncated.tolist())
    assert [True, False] in cuts or [False, True] in cuts


def test_protocol_constants():
    """108,000 frames, 18 actions, scores unclipped."""
    envs = dqn.AtariEnvs("ALE/MsPacman-v5", 1)
    assert envs.max_steps * 4 == 108_000 and envs.num_actions == 18
    assert dqn.AtariEnvs("ALE/MsPacman-v5", 1, full_action_space=False).num_actions == 9
    envs.reset(np.array([0]))
    rewards = np.concatenate([step(envs, [a % 18])[1] for a in range(120)])
    assert rewards.max() >= 10


def test_life_loss_is_terminal_only_with_the_flag():
    actions = np.random.default_rng(0).integers(18, size=(400, 1))

    def play(life_loss):
        envs = dqn.AtariEnvs("ALE/Breakout-v5", 1, life_loss=life_loss)
        envs.reset(np.array([3]))
        results = [step(envs, a) for a in actions]
        return [np.concatenate([result[i] for result in results]) for i in (0, 2, 4)]

    (obs, terminated, done), (flag_obs, flag_terminated, flag_done) = play(False), play(True)
    assert np.array_equal(obs, flag_obs) and np.array_equal(done, flag_done)
    assert np.array_equal(terminated, done) and (flag_terminated | ~done).all()
    ends = np.flatnonzero(done)
    assert flag_terminated[: ends[0] + 1].sum() == 5  # Breakout has five lives, the last of which ends the game


def test_same_seed_same_game_whatever_came_before():
    """A seeded reset leaves nothing of the past: what resuming relies on."""
    envs = dqn.AtariEnvs("ALE/Seaquest-v5", 2)
    actions = np.random.default_rng(0).integers(18, size=(200, 2))
    first = envs.reset(np.array([8, 9]))
    played = [step(envs, a)[0] for a in actions]
    other = dqn.AtariEnvs("ALE/Seaquest-v5", 2)
    assert np.array_equal(other.reset(np.array([8, 9])), first)
    again = envs.reset(np.array([8, 9]))
    assert np.array_equal(again, first)
    for a, expected in zip(actions, played, strict=True):
        assert np.array_equal(step(envs, a)[0], expected) and np.array_equal(step(other, a)[0], expected)


@pytest.mark.parametrize(
    "env_id", ["ALE/SpaceInvaders-v5", "SpaceInvaders-v5", "SpaceInvadersNoFrameskip-v4", "SpaceInvaders"]
)
def test_names_of_one_rom(env_id):
    envs = dqn.AtariEnvs(env_id, 1)
    expected = dqn.AtariEnvs("ALE/SpaceInvaders-v5", 1)
    assert envs.env_id == expected.env_id == "ALE/SpaceInvaders-v5"
    assert np.array_equal(envs.reset(np.array([1])), expected.reset(np.array([1])))
    assert np.array_equal(step(envs, [3])[0], step(expected, [3])[0])


@pytest.mark.parametrize("env_id", ["ALE/Breakot-v5", "breakout", "ALE/BreakoutNoFrameskip-v4-v0", "CartPole-v1", ""])
def test_unknown_env_id(env_id):
    with pytest.raises(gymnasium.error.Error):
        dqn.AtariEnvs(env_id, 1)


@pytest.mark.parametrize("full_action_space,actions", [(True, [0, 18]), (True, [-1, 3]), (False, [4, 0])])
def test_invalid_actions_are_refused(full_action_space, actions):
    """The emulator would hang; after the refusal the games go on."""
    envs = dqn.AtariEnvs("ALE/Breakout-v5", 2, full_action_space)
    envs.reset(np.array([1, 2]))
    with pytest.raises(ValueError, match=f"0..{envs.num_actions - 1}"):
        envs.send(np.array(actions))
    *_, info = step(envs, [envs.num_actions - 1, 0])
    assert info["length"].tolist() == [1, 1]


def test_seeds_hold_after_automatic_resets():
    """Games of different seeds have sticky actions of their own, also in the episodes that begin unseeded."""
    envs = dqn.AtariEnvs("ALE/Breakout-v5", 4, max_steps=40)
    envs.reset(np.array([1, 2, 1, 2]))
    rng, different = np.random.default_rng(0), []
    for _ in range(160):
        obs, *_ = step(envs, np.full(4, rng.integers(18)))
        assert np.array_equal(obs[0], obs[2]) and np.array_equal(obs[1], obs[3])
        different.append(not np.array_equal(obs[0], obs[1]))
    assert all(any(different[t : t + 40]) for t in range(0, 160, 40))


@pytest.mark.parametrize("max_steps", [27_000, 130])
def test_every_episode_has_lives_of_its_own(max_steps):
    """Breakout's five lives in every episode, though the emulators' lives are by then those of the next one."""
    envs = dqn.AtariEnvs("ALE/Breakout-v5", 2, life_loss=True, max_steps=max_steps)
    envs.reset(np.array([1, 2]))
    rng, lost, episodes = np.random.default_rng(0), np.zeros(2, int), []
    for _ in range(900):
        _, _, terminated, truncated, done, info = step(envs, rng.integers(18, size=2))
        lost += terminated
        assert not (terminated & (info["length"] == 1)).any()
        episodes += [(int(lost[i]), bool(truncated[i])) for i in np.flatnonzero(done)]
        lost[done] = 0
    assert len(episodes) >= 6 and all(1 <= losses <= 5 for losses, _ in episodes)
    assert all(losses == 5 for losses, cut in episodes if not cut)
    assert any(cut for _, cut in episodes) == (max_steps == 130)


def test_lives_that_rise_end_nothing():
    """Amidar's emulator reports no lives at a reset and some a frame later."""
    emulator = ale_py.AtariVectorEnv("amidar", 1, noop_max=0, use_fire_reset=False)
    _, info = emulator.reset(seed=np.array([1]))
    assert info["lives"][0] == 0 and emulator.step(np.array([0]))[4]["lives"][0] > 0
    envs = dqn.AtariEnvs("ALE/Amidar-v5", 1, life_loss=True)
    envs.reset(np.array([1]))
    assert not any(step(envs, [0])[2][0] for _ in range(10))
