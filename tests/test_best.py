"""--save-best: `model_best.pt` is the network of the best evaluation phase, `best.json` what it scores in 30 games."""

import csv
import json
import shutil
from unittest import mock

import gymnasium
import numpy as np
import pytest
import torch
from conftest import GAMES_OF, IQN, RELATED, TRAINED, accepted, load, run_folders
from test_bad_input import TINY, checkpointed_run, refused
from test_resume import FEW_QUANTILES, assert_same_run, fork, kill_at, new_folders, run_here, stopped_and_resumed

script = load("lunarlander_mexp")
FLAGS = (
    "--env-id CartPole-v1 --batch-size 8 --learning-starts 64 --buffer-size 2000 --train-frequency 4 --eval-envs 2 "
    "--eval-episodes 2 --eval-epsilon 0 --eval-frequency 300 --checkpoint-frequency 400 --save-model --no-cuda"
)

# A copy of the script whose evaluations have these mean scores, by agent step: the best one is neither the first nor
# the last, and another is its equal
SCORES = {300: 1.0, 600: 5.0, 900: 5.0, 1200: 2.0}
SCORED = ('"score_mean": float(np.mean(scores))', f'"score_mean": {SCORES}.get(step, float(np.mean(scores)))')


def rows(folder):
    with open(folder / "eval.csv", newline="") as file:
        return list(csv.DictReader(file))


def best_step(folder):
    """The step of the first row of `eval.csv` whose mean score no other row exceeds."""
    scores = [float(row["score_mean"]) for row in rows(folder)]
    return int(rows(folder)[scores.index(max(scores))]["step"])


def best_scores(folder):
    return json.loads((folder / "best.json").read_text())


def weights(folder, name):
    return torch.load(folder / name, weights_only=True)


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """What `run_here` calls the copy of the script, and the folder of a run of it."""
    cwd = tmp_path_factory.mktemp("scored")
    name = fork(cwd / "scored.py", SCORED, name="lunarlander_mexp")
    run_here(name, FLAGS, "--total-timesteps 1200 --save-best", cwd=cwd)
    (folder,) = run_folders(cwd)
    assert {int(row["step"]): float(row["score_mean"]) for row in rows(folder)} == SCORES
    return name, folder


# THE NETWORK


def test_offers():
    """Of equals the first is kept, as a copy: what training does to the network later does not reach it."""
    network = torch.nn.Linear(2, 1)
    best = script.BestNetwork()
    for step, score in ((10, -3.0), (20, -5.0), (30, 1.0), (40, 1.0), (50, 0.5)):
        torch.nn.init.constant_(network.weight, step)
        best.offer(network, score, step)
    assert (best.step, best.score) == (30, 1.0)
    assert best.weights["weight"].tolist() == [[30.0, 30.0]]
    restored = script.BestNetwork()
    restored.load_state_dict(best.state_dict())
    restored.offer(network, 1.0, 60)
    assert restored.step == 30
    assert same(restored.weights, best.weights)
    of_bad_scores = script.BestNetwork()
    of_bad_scores.offer(network, -np.inf, 10)
    assert of_bad_scores.step == 10 and same(of_bad_scores.weights, network.state_dict()), "there is always one"


def test_is_that_of_the_best_row(scored, tmp_path):
    """A run that ends with the first of the two best phases has the same weights; 1,200 steps have others."""
    name, folder = scored
    assert best_step(folder) == best_scores(folder)["step"] == 600
    run_here(name, FLAGS, "--total-timesteps 600", cwd=tmp_path)
    (shorter,) = run_folders(tmp_path)
    assert same(weights(folder, "model_best.pt"), weights(shorter, "model.pt"))
    assert not same(weights(folder, "model_best.pt"), weights(folder, "model.pt"))


def test_changes_nothing_else(scored, tmp_path):
    """Without the flag the run is the same, with the last network as its model, and neither file is there."""
    name, folder = scored
    run_here(name, FLAGS, "--total-timesteps 1200", cwd=tmp_path)
    (without,) = run_folders(tmp_path)
    assert_same_run(folder, without)
    added = {path.name for path in folder.iterdir()} - {path.name for path in without.iterdir()}
    assert {"model_best.pt", "best.json"} <= added
    assert not (without / "model_best.pt").exists()
    assert not (without / "best.json").exists()


# THE LAST GAMES


def play(network, seeds):
    """The scores of CartPole's games of these seeds."""
    games = [gymnasium.make("CartPole-v1") for _ in seeds]
    obs = np.array([game.reset(seed=seed)[0] for game, seed in zip(games, seeds, strict=True)])
    scores = np.zeros(len(seeds))
    playing = set(range(len(seeds)))
    while playing:
        with torch.no_grad():
            actions = network(torch.from_numpy(obs)).argmax(1).tolist()
        for i in sorted(playing):
            obs[i], reward, terminated, truncated, _ = games[i].step(actions[i])
            scores[i] += reward
            if terminated or truncated:
                playing.remove(i)
    return scores


def test_thirty_other_games(scored, tmp_path):
    """`best.json` agrees with 30 games that are played here with `model_best.pt`. None of them is one of an
    evaluation, or was trained on."""
    name, _ = scored
    seeds = []  # of the environments, by reset
    make_vec = gymnasium.make_vec

    def watched(*args, **kwargs):
        envs = make_vec(*args, **kwargs)
        reset = envs.reset

        def watched_reset(*, seed=None, options=None):
            if seed is not None:  # not of the next episodes
                seeds.append(seed)
            return reset(seed=seed, options=options)

        envs.reset = watched_reset
        return envs

    with mock.patch.object(gymnasium, "make_vec", watched):
        run_here(name, FLAGS, "--total-timesteps 1200 --save-best", cwd=tmp_path)
    (folder,) = run_folders(tmp_path)
    assert [len(some) for some in seeds] == [1, 2, 1, 2, 1, 2, 2, 30], (
        "training, evaluations, after checkpoints, the end"
    )
    last = set(seeds[-1])
    assert len(last) == 30
    assert not last & {seed for some in seeds[:-1] for seed in some}

    network = script.QNetwork(4, 2, 0.1, 2.0)
    network.load_state_dict(weights(folder, "model_best.pt"))
    scores = play(network, seeds[-1])
    assert best_scores(folder) == {
        "step": 600,
        "episodes": 30,
        "score_mean": pytest.approx(scores.mean()),
        "score_median": pytest.approx(np.median(scores)),
        "score_std": pytest.approx(scores.std()),
    }
    network.load_state_dict(weights(folder, "model.pt"))
    assert play(network, seeds[-1]).mean() != scores.mean(), "the last network would have been found out"


def test_eval_only_plays_it(scored, tmp_path):
    """With the run's k, which the `config.json` beside it tells."""
    _, folder = scored
    flags = f"--env-id CartPole-v1 --eval-episodes 2 --eval-envs 2 --eval-only {folder}/model_best.pt"
    result = run_here("lunarlander_mexp", flags, cwd=tmp_path)
    assert result.stdout.splitlines()[-1].startswith("step 0: episodes 2")
    assert not list(tmp_path.iterdir())
    assert "k = 2" in refused("lunarlander_mexp", flags, "--mean-scaling-coefficient 1", cwd=tmp_path)


# RESUMING


def assert_same_best(folder, other):
    assert_same_run(folder, other)
    assert same(weights(folder, "model_best.pt"), weights(other, "model_best.pt"))
    assert best_scores(folder) == best_scores(other)


@pytest.mark.parametrize("stop_at", [700, 1200])
def test_stopped_and_resumed(scored, stop_at, tmp_path):
    """The best phase is at 600: after the checkpoint at 400, so it is played again, or before that at 800."""
    name, folder = scored
    stopped, resumed = new_folders(tmp_path, "stopped", "resumed")
    run_here(name, FLAGS, "--total-timesteps 1200 --save-best", cwd=stopped, stop_at=stop_at)
    assert not (run_folders(stopped)[0] / "best.json").exists()
    shutil.copytree(stopped, resumed, dirs_exist_ok=True)
    result = run_here(name, FLAGS, "--total-timesteps 1200 --save-best --resume", cwd=resumed)
    assert f"goes on from step {400 if stop_at == 700 else 800}" in result.stdout
    assert_same_best(folder, run_folders(resumed)[0])


def test_killed_and_resumed(scored, tmp_path):
    """A worse network is not written over the best one, whose file is there while the run goes on."""
    name, folder = scored
    flags = f"{FLAGS} --total-timesteps 1200 --save-best"
    kill_at(1100, name, flags, cwd=tmp_path)
    (killed,) = run_folders(tmp_path)
    assert same(weights(killed, "model_best.pt"), weights(folder, "model_best.pt"))
    (killed / "model_best.pt").unlink()  # the checkpoint has what it takes
    run_here(name, flags, "--resume", cwd=tmp_path)
    assert_same_best(folder, killed)


def test_full_disk(tmp_path, capsys):
    """A warning; the file that was there is kept, and the unfinished one is gone."""
    best = load("dqn_atari").BestNetwork()
    network = torch.nn.Linear(2, 2)
    best.offer(network, 1.0, 10)
    best.save(tmp_path / "model_best.pt")
    before = (tmp_path / "model_best.pt").read_bytes()
    (tmp_path / "model_best.tmp").symlink_to("/dev/full")
    best.offer(torch.nn.Linear(300, 300), 2.0, 20)
    best.save(tmp_path / "model_best.pt")
    assert "model_best.pt was not written" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["model_best.pt"]
    assert (tmp_path / "model_best.pt").read_bytes() == before


# EVERY SCRIPT


EVERY = "--batch-size 8 --learning-starts 16 --buffer-size 400 --train-frequency 8 --eval-frequency 40 --eval-epsilon 1"
OF_THE_GAMES = {
    "Atari": "--env-id ALE/Breakout-v5 --eval-steps 1 --eval-envs 1",
    "MinAtar": "--env-id MinAtar/Breakout-v1 --eval-episodes 2 --eval-envs 2",
    "Gym": "--env-id CartPole-v1 --eval-episodes 2 --eval-envs 2",
}


ATARI = [name for name in TRAINED if GAMES_OF[name] == "Atari"]
QUICK = [name for name in TRAINED if name not in ATARI] + ["dqn_atari", "iqn_atari_mexp"]
# 30 games of Atari take long; the other scripts have the same lines for them as one of these
THIRTY = ["dqn_atari_mexp", "iqn_atari", "related/softq_online_atari", "related/eaudeqn_atari"]


def flags_of(name):
    flags = accepted(name, f"{EVERY} {OF_THE_GAMES[GAMES_OF[name]]} --num-envs 1")
    if name in IQN:
        flags += f" {FEW_QUANTILES}"
    if "eaudeqn" in name:
        flags += " --target-network-frequency 20"  # the target network is what it keeps
    return flags


def assert_has_best(name, runnable, games, tmp_path):
    """A run of two evaluations, at 40 and at 80, which is its end."""
    run_here(runnable, flags_of(name), "--total-timesteps 80 --save-best --save-model --no-cuda", cwd=tmp_path)
    (folder,) = run_folders(tmp_path)
    scores = best_scores(folder)
    assert scores["step"] == best_step(folder)
    assert scores["episodes"] == games
    assert set(scores) == {"step", "episodes", "score_mean", "score_median", "score_std"}
    best, last = weights(folder, "model_best.pt"), weights(folder, "model.pt")
    assert list(best) == list(last), "a network of the same script"
    assert same(best, last) == (scores["step"] == 80)
    assert not list(folder.glob("*.tmp"))


@pytest.mark.parametrize(
    "name", QUICK + [pytest.param(name, marks=pytest.mark.slow) for name in ATARI if name not in QUICK + THIRTY]
)
def test_every_script(name, tmp_path):
    """In those of Atari with 2 games at the end."""
    runnable = name
    games = 30
    if name in ATARI:
        games = 2
        runnable = fork(tmp_path / "fork.py", ("eval_envs=30, eval_steps=1", "eval_envs=2, eval_steps=1"), name=name)
    assert_has_best(name, runnable, games, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", THIRTY)
def test_thirty_games_of_atari(name, tmp_path):
    assert_has_best(name, name, 30, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minatar_mexp", "dqn_atari_mexp", "iqn_atari"])
def test_resumes_in_other_scripts(name, tmp_path):
    flags = f"{flags_of(name)} --total-timesteps 160 --checkpoint-frequency 60 --save-best --save-model"
    folder, resumed = stopped_and_resumed(name, flags, tmp_path, stop_at=130)
    assert_same_best(folder, resumed)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ATARI else name
        for name in RELATED
        if name != "related/eaudeqn_atari"  # five networks of Atari's size take minutes; MinAtar's script is here
    ],
)
def test_resumes_in_related_scripts(name, tmp_path):
    """The best phase, at 80, is before the checkpoint from which the run goes on, and the last one is worse."""
    scores = {40: 1.0, 80: 5.0, 120: 5.0, 160: 2.0}
    scored = fork(tmp_path / "scored.py", (SCORED[0], f'"score_mean": {scores}.get(step, 0.0)'), name=name)
    flags = f"{flags_of(name)} --total-timesteps 160 --checkpoint-frequency 60 --save-best --save-model"
    folder, resumed = stopped_and_resumed(scored, flags, tmp_path, stop_at=130)
    assert best_scores(folder)["step"] == 80
    assert_same_best(folder, resumed)


# BAD INPUT


@pytest.mark.parametrize("name", TRAINED)
def test_refused_without_an_evaluation(name, tmp_path):
    line = refused(name, accepted(name, TINY), "--save-best --total-timesteps 1000", cwd=tmp_path)
    assert "--save-best needs evaluation phases" in line
    assert "--eval-frequency must be 1 to 1000" in line


@pytest.mark.parametrize("frequency,is_accepted", [(0, False), (1000, True), (1001, False)])
def test_frequencies(frequency, is_accepted, tmp_path):
    """There is a phase, and so a best one, if the first is due before the end."""
    flags = f"{FLAGS} --save-best --total-timesteps 1000 --eval-frequency {frequency}"
    if is_accepted:
        run_here("lunarlander_mexp", flags, cwd=tmp_path)
        assert best_scores(run_folders(tmp_path)[0])["step"] == 1000
    else:
        assert "--save-best" in refused("lunarlander_mexp", flags, cwd=tmp_path)


@pytest.mark.parametrize("before,after", [("--no-save-best", "--save-best"), ("--save-best", "--no-save-best")])
def test_switched_at_a_resume(before, after, tmp_path):
    """The phases before would not count."""
    flags, _ = checkpointed_run(tmp_path, "lunarlander_mexp", f"{FLAGS} {before}")
    line = refused("lunarlander_mexp", flags.replace(before, after), "--resume", cwd=tmp_path)
    assert f"ran with {before};" in line
