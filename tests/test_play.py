"""play.py plays what runs save: the last network, and with --save-best that of the best evaluation phase."""

import json
import re
import shutil
import sys
from pathlib import Path

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from helpers import (
    FEW_QUANTILES,
    GAMES_OF,
    IQN,
    ROOT,
    TRAINED,
    accepted,
    assert_same_run,
    evaluations,
    fork,
    load,
    new_folders,
    run,
    run_folders,
    run_here,
)

# Random actions: an untrained network may play one Breakout game for 27,000 steps
SHORT = (
    "--batch-size 8 --learning-starts 16 --buffer-size 400 --train-frequency 8 --eval-frequency 40 --eval-epsilon 1 "
    "--num-envs 1 --total-timesteps 80"
)
OF_THE_GAMES = {
    "Atari": "--env-id ALE/Breakout-v5 --eval-steps 1 --eval-envs 1",
    "MinAtar": "--env-id MinAtar/Breakout-v1 --eval-episodes 2 --eval-envs 2",
    "Gym": "--env-id CartPole-v1 --eval-episodes 2 --eval-envs 2",
}


def play(folder, *flags, **kwargs):
    """play.py in this process. The script that it imports does not stay as that of other tests."""
    stems = [Path(name).name for name in TRAINED]
    before = {stem: sys.modules[stem] for stem in stems if stem in sys.modules}
    try:
        return run_here("play", str(folder), *flags, cwd=folder, **kwargs)
    finally:
        for stem in stems:
            sys.modules.pop(stem, None)
        sys.modules.update(before)


def result_of(folder, *flags):
    """What play.py writes, which it prints too."""
    printed = play(folder, *flags).stdout.splitlines()
    result = json.loads((folder / "play.json").read_text())
    for name in ("episodes", "score_mean", "mean_q", "q_norm"):
        assert f"{name} {result[name]:.5g}" in printed
    return result


def weights(folder, name):
    return torch.load(folder / name, weights_only=True)


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """The folder of a short run of a script, evaluated at 40 and at 80; each script runs once."""
    folders = {}

    def make(name):
        if name not in folders:
            cwd = tmp_path_factory.mktemp(Path(name).name)
            flags = accepted(name, f"{SHORT} {OF_THE_GAMES[GAMES_OF[name]]}")
            if name in IQN:
                flags += f" {FEW_QUANTILES}"
            if "eaudeqn" in name:
                flags += " --target-network-frequency 20"  # the target network is what it keeps
            run_here(name, flags, "--save-model --save-best", cwd=cwd)
            (folders[name],) = run_folders(cwd)
        return folders[name]

    return make


# EVERY SCRIPT


QUICK = ["dqn_atari_mexp", "minatar_mexp", "lunarlander_mexp", "related/isdqn_minatar"]
QUICK += ["related/eaudeqn_minatar", "related/softq_online_minatar"]


@pytest.mark.parametrize(
    "name", QUICK + [pytest.param(name, marks=pytest.mark.slow) for name in TRAINED if name not in QUICK]
)
def test_every_script(name, run_of):
    """The last network and the best one, which knows its step."""
    folder = run_of(name)
    episodes = 1 if GAMES_OF[name] == "Atari" else 2
    result = result_of(folder, f"--episodes {episodes} --epsilon 1 --seed 5")
    assert result["script"] == str(ROOT / f"{name}.py")
    assert (result["seed"], result["epsilon"], result["episodes"]) == (5, 1.0, episodes)
    assert (result["best"], result["step"]) == (False, None)
    best = result_of(folder, f"--episodes {episodes} --epsilon 1 --seed 5 --best")
    first, last = [float(row["score_mean"]) for row in evaluations(folder)]
    assert (best["best"], best["step"]) == (True, 40 if first >= last else 80)
    saved = weights(folder, "model_best.pt")
    assert set(saved) == {"step", "score_mean", "weights"} and saved["step"] == best["step"]
    assert saved["score_mean"] == max(first, last)
    assert same(saved["weights"], weights(folder, "model.pt")) == (best["step"] == 80)
    assert best["score_mean"] == result["score_mean"], "the same random actions"
    assert (best["mean_q"] == result["mean_q"]) == (best["step"] == 80), "of another network"


def test_as_a_user(run_of):
    """In a process of its own, from another folder."""
    folder = run_of("minatar_mexp")
    result = run("play", f"{folder.relative_to(folder.parents[1])} --video", cwd=folder.parents[1])
    lines = result.stdout.splitlines()
    assert lines[0] == "episodes 30" and lines[-1] == f"{folder.relative_to(folder.parents[1])}/play.mp4"
    assert (folder / "play.mp4").stat().st_size > 1000


# WHAT IS PLAYED


CARTPOLE = (
    "--env-id CartPole-v1 --batch-size 8 --learning-starts 64 --buffer-size 2000 --train-frequency 4 --eval-envs 2 "
    "--eval-episodes 2 --eval-epsilon 0 --eval-frequency 300 --checkpoint-frequency 400 --save-model --no-cuda"
)
# A fork whose evaluations have these mean scores, by agent step: the best one is neither the first nor the last, and
# another is its equal
SCORES = {300: 1.0, 600: 5.0, 900: 5.0, 1200: 2.0}
SCORED = ('"score_mean": float(np.mean(scores))', f'"score_mean": {SCORES}.get(step, float(np.mean(scores)))')


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """What `run_here` calls the fork, which lies outside the repository, and the folder of a run of it."""
    cwd = tmp_path_factory.mktemp("scored")
    name = fork(cwd / "scored.py", SCORED, name="lunarlander_mexp")
    run_here(name, CARTPOLE, "--total-timesteps 1200 --save-best", cwd=cwd)
    (folder,) = run_folders(cwd)
    assert {int(row["step"]): float(row["score_mean"]) for row in evaluations(folder)} == SCORES
    return name, folder


def play_by_hand(network, seeds):
    """The scores of CartPole's games of these seeds, and the mean value of the greedy actions."""
    games = [gymnasium.make("CartPole-v1") for _ in seeds]
    obs = np.array([game.reset(seed=int(seed))[0] for game, seed in zip(games, seeds, strict=True)])
    scores, values = np.zeros(len(seeds)), []
    playing = set(range(len(seeds)))
    while playing:
        with torch.no_grad():
            q, actions = network(torch.from_numpy(obs)).max(1)
        for i in sorted(playing):
            values.append(q[i].item())
            obs[i], reward, terminated, truncated, _ = games[i].step(int(actions[i]))
            scores[i] += reward
            if terminated or truncated:
                playing.remove(i)
    return scores, np.mean(values)


@pytest.mark.parametrize("best", [False, True])
def test_thirty_games_by_hand(best, scored):
    """With the run's k, 2, which nobody names again; at a fork's path that the run's config tells."""
    name, folder = scored
    result = result_of(folder, "--best" if best else "")
    assert result["script"] == f"{name}.py" and result["episodes"] == 30
    seeds = np.random.default_rng((1, 0)).integers(2**31, size=30)
    network = load("lunarlander_mexp").QNetwork(4, 2, 0.1, 2.0)
    network.load_state_dict(weights(folder, "model_best.pt")["weights"] if best else weights(folder, "model.pt"))
    scores, mean_q = play_by_hand(network, seeds)
    assert result["score_mean"] == pytest.approx(scores.mean())
    assert result["score_median"] == pytest.approx(np.median(scores))
    assert result["score_std"] == pytest.approx(scores.std())
    assert result["mean_q"] == pytest.approx(mean_q, rel=1e-4)
    if best:
        assert result["step"] == 600


def test_seed_and_epsilon(scored):
    """Both change the games; without them a repeated call plays the same ones."""
    _, folder = scored
    first, again = result_of(folder), result_of(folder)
    assert first == again
    other, random = result_of(folder, "--seed 7"), result_of(folder, "--epsilon 1")
    assert len({result["mean_q"] for result in (first, other, random)}) == 3
    assert result_of(folder, "--episodes 3")["episodes"] == 3


def test_a_folded_network_is_the_base_scripts(run_of, tmp_path):
    """With --script: the same values up to rounding, on Atari's baseline, which lacks k."""
    folder = run_of("dqn_atari_mexp")
    own = result_of(folder, "--episodes 1 --epsilon 1")
    shutil.copy(folder / "config.json", tmp_path)
    shutil.copy(folder / "model_folded.pt", tmp_path / "model.pt")
    folded = result_of(tmp_path, f"--episodes 1 --epsilon 1 --script {ROOT}/dqn_atari.py")
    for name in ("score_mean", "mean_q", "mean_discounted_return", "action_gap", "q_norm"):
        assert own[name] == pytest.approx(folded[name], rel=1e-3), name


def test_runs_of_before_november_2026(run_of, tmp_path):
    """Their config names no script and has flags that are gone; their model_best.pt holds nothing but the weights."""
    folder = run_of("related/isdqn_minatar")
    config = json.loads((folder / "config.json").read_text())
    old = {"args": config["args"] | {"capture_video": False, "eval_only": None}, "finished": True, "git_commit": None}
    (tmp_path / "config.json").write_text(json.dumps(old))
    torch.save(weights(folder, "model_best.pt")["weights"], tmp_path / "model_best.pt")
    shutil.copy(folder / "model.pt", tmp_path)
    for flags in ("", "--best"):
        flags += " --episodes 2"
        result, new = result_of(tmp_path, flags), result_of(folder, flags)
        assert result == new | {"step": None}


# --save-best


def test_is_that_of_the_best_row(scored, tmp_path):
    """A run that ends with the first of the two best phases has the same weights; 1,200 steps have others. The flag
    changes nothing else."""
    name, folder = scored
    shorter, without = new_folders(tmp_path, "shorter", "without")
    run_here(name, CARTPOLE, "--total-timesteps 600", cwd=shorter)
    best = weights(folder, "model_best.pt")
    assert (best["step"], best["score_mean"]) == (600, 5.0)
    assert same(best["weights"], weights(run_folders(shorter)[0], "model.pt"))
    assert not same(best["weights"], weights(folder, "model.pt"))
    run_here(name, CARTPOLE, "--total-timesteps 1200", cwd=without)
    assert_same_run(folder, run_folders(without)[0])
    assert not (run_folders(without)[0] / "model_best.pt").exists()


@pytest.mark.parametrize("stop_at", [700, 1200])
def test_best_of_a_stopped_run(scored, stop_at, tmp_path):
    """The best phase is at 600: after the checkpoint at 400, so it is played again, or before that at 800."""
    name, folder = scored
    stopped, resumed = new_folders(tmp_path, "stopped", "resumed")
    run_here(name, CARTPOLE, "--total-timesteps 1200 --save-best", cwd=stopped, stop_at=stop_at)
    shutil.copytree(stopped, resumed, dirs_exist_ok=True)
    result = run_here(name, CARTPOLE, "--total-timesteps 1200 --save-best --resume", cwd=resumed)
    assert f"goes on from step {400 if stop_at == 700 else 800}" in result.stdout
    assert_same_best(folder, run_folders(resumed)[0])


def assert_same_best(folder, other):
    assert_same_run(folder, other)
    best, others_best = weights(folder, "model_best.pt"), weights(other, "model_best.pt")
    assert best["step"] == others_best["step"] and same(best["weights"], others_best["weights"])


# --video


def first_episode(script, args):
    """The length of the first game that `evaluate` plays with epsilon 1, by its random numbers."""
    envs = script.make_envs(args, 1)
    rng = np.random.default_rng((args.seed, 0))
    envs.reset(rng.integers(2**31, size=1))
    for length in range(1, 30_000):
        rng.random(1)
        action = rng.integers(envs.num_actions, size=1)
        if hasattr(envs, "send"):
            envs.send(action)
        *_, done, info = envs.recv() if hasattr(envs, "send") else envs.step(action)
        if done[0]:
            assert info["length"][0] == length
            return length, info["score"][0]


@pytest.mark.parametrize(
    "name,size,fps",
    [("dqn_atari_mexp", (320, 420), 15), ("minatar_mexp", (320, 320), 15), ("lunarlander_mexp", (600, 400), 50)],
)
def test_video(name, size, fps, run_of):
    """The first episode whole, and nothing else: its first observation and one picture after each action."""
    folder = run_of(name)
    result = result_of(folder, "--episodes 1 --epsilon 1 --seed 3 --video")
    args = load(name).Args(**json.loads((folder / "config.json").read_text())["args"])
    args.seed = 3
    length, score = first_episode(load(name), args)
    assert score == result["score_mean"]
    frames = imageio_ffmpeg.read_frames(str(folder / "play.mp4"))
    meta = next(frames)
    assert meta["size"] == size and meta["fps"] == fps
    pictures = [np.frombuffer(frame, np.uint8).reshape(size[1], size[0], 3) for frame in frames]
    assert len(pictures) == length + 1
    assert any((a != b).any() for a, b in zip(pictures, pictures[1:], strict=False))
    if GAMES_OF[name] == "Atari":
        assert pictures[0].std(axis=2).max() > 20, "in colour"
    if GAMES_OF[name] == "MinAtar":
        bricks, empty = pictures[0][32:128].astype(int), pictures[0][160:256].astype(int)  # rows 1 to 3 and 5 to 7
        assert np.median(bricks.max(2)) > 100 and np.median(empty.max(2)) < 20


class Dial(gymnasium.Env):
    """An episode of four steps, whose picture is brighter by the action before; its actions begin with 5."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gymnasium.spaces.Box(-100.0, 100.0, (3,), np.float64)
    action_space = gymnasium.spaces.Discrete(3, start=5)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.obs = np.zeros(3)
        return self.obs, {}

    def step(self, action):
        self.obs = np.array([0.0, self.obs[1] + 1, action])
        return self.obs, float(action), self.obs[1] == 4, False, {}

    def render(self):
        return np.full((64, 96, 3), 30 * self.obs[2], np.uint8)


class Undrawn(Dial):
    """Needs a package only when it draws."""

    def render(self):
        raise gymnasium.error.DependencyNotInstalled("`pip install brush` brings it")


gymnasium.register("tests/PlayedDial-v0", Dial)
gymnasium.register("tests/Undrawn-v0", Undrawn)


def run_of_env(env_id, cwd):
    run_here("lunarlander_mexp", accepted("lunarlander_mexp", SHORT), f"--env-id {env_id} --save-model", cwd=cwd)
    return run_folders(cwd)[0]


def test_video_shows_the_played_actions(tmp_path):
    """Of an environment whose actions do not begin with 0. Small pictures are enlarged."""
    folder = run_of_env("tests/PlayedDial-v0", tmp_path)
    result = result_of(folder, "--episodes 1 --epsilon 1 --video")
    frames = list(imageio_ffmpeg.read_frames(str(folder / "play.mp4")))
    assert frames[0]["size"][0] == 320
    shown = [round(np.frombuffer(frame, np.uint8).mean() / 30) for frame in frames[1:]]
    assert len(shown) == 5 and shown[0] == 0 and set(shown[1:]) <= {5, 6, 7}
    assert sum(shown) == result["score_mean"]


# MISTAKES


def complaint(folder, *flags):
    """The one line with which play.py refuses."""
    result = play(folder, *flags, check=False)
    assert result.returncode == 2, result.stderr[-2000:]
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_mistakes(run_of, tmp_path):
    folder = run_of("minatar_mexp")
    assert "--episodes 0 must be at least 1" in complaint(folder, "--episodes 0")
    assert "--epsilon 1.5 must be from 0 to 1" in complaint(folder, "--epsilon 1.5")
    assert re.search("is no run's folder.*config.json", complaint(tmp_path))
    (tmp_path / "config.json").write_text('{"args"')
    assert "is no run's folder" in complaint(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    assert re.search(r"model.pt is not there; .* --save-model$", complaint(tmp_path))
    assert re.search(r"model_best.pt is not there; .* --save-best$", complaint(tmp_path, "--best"))
    (tmp_path / "model.pt").write_bytes((folder / "model.pt").read_bytes()[:10_000])
    assert "model.pt is damaged" in complaint(tmp_path)
    shutil.copy(run_of("lunarlander_mexp") / "model.pt", tmp_path)
    assert "does not fit" in complaint(tmp_path, f"--script {ROOT}/minatar_mexp.py")
    config = json.loads((folder / "config.json").read_text())
    config["args"]["exp_name"] = "mine"
    (tmp_path / "config.json").write_text(json.dumps(config | {"script": "../away/mine.py"}))
    assert re.search("script .*mine.py .* is not there; name it with --script", complaint(tmp_path))
    assert "nowhere.py" in complaint(tmp_path, "--script nowhere.py")
    shutil.copy(folder / "model.pt", tmp_path)
    assert result_of(tmp_path, f"--episodes 2 --script {ROOT}/minatar_mexp.py")["episodes"] == 2


def test_an_environment_that_cannot_be_drawn(tmp_path):
    folder = run_of_env("tests/Undrawn-v0", tmp_path)
    line = complaint(folder, "--episodes 1 --epsilon 1 --video")
    assert "--video: tests/Undrawn-v0 cannot be drawn" in line and "pip install brush" in line
    assert result_of(folder, "--episodes 1 --epsilon 1")["episodes"] == 1
