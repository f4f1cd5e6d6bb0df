"""What a run prints and leaves behind, and where: files, curves, warnings, the log, the help."""

import contextlib
import csv
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import psutil
import pytest
import torch
from helpers import (
    COLUMNS,
    CPU,
    FEW_QUANTILES,
    MINATAR_FLAGS,
    ROOT,
    TINY,
    TRAINED,
    command,
    load,
    run,
    run_folders,
    run_here,
    scalars,
)

# Evaluated with random actions: an untrained network may play one Breakout game for 27,000 steps
FLAGS = "--batch-size 8 --learning-starts 100 --buffer-size 2000 --eval-frequency 600 --total-timesteps 1200 "
FLAGS += "--train-frequency 20 --eval-envs 2 --eval-epsilon 1 --save-model"
MINATAR = f"{MINATAR_FLAGS} --env-id Breakout --eval-frequency 0"
# A script: its flags, the game's name, the number of actions, the packages that it is recorded with
FINISHED = {
    "dqn_atari_mexp": ("--env-id ALE/Breakout-v5 --eval-steps 10", "ALE/Breakout-v5", 18, {"ale-py"}),
    "iqn_atari": (f"--env-id ALE/Breakout-v5 --eval-steps 10 {FEW_QUANTILES}", "ALE/Breakout-v5", 18, {"ale-py"}),
    "minatar_mexp": ("--env-id Breakout --eval-episodes 6", "MinAtar/Breakout-v1", 3, {"MinAtar"}),
    "lunarlander_mexp": ("--env-id CartPole --eval-episodes 6", "CartPole-v1", 2, set()),
}


SLOW = pytest.param("iqn_atari", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[SLOW if name == "iqn_atari" else name for name in FINISHED])
def finished(request, tmp_path_factory):
    """A short run, in a process of its own: the script's name, the run's folder, and what it printed."""
    cwd = tmp_path_factory.mktemp(request.param)
    result = run(request.param, FLAGS, FINISHED[request.param][0], cwd=cwd)
    (folder,) = run_folders(cwd)
    return request.param, folder, result


def test_folder_and_config(finished):
    name, folder, _ = finished
    _, env_id, num_actions, packages = FINISHED[name]
    runs = folder.parents[env_id.count("/")]
    assert runs.name == "runs"
    assert re.fullmatch(rf"{env_id}__{name}__1__\d{{10}}", str(folder.relative_to(runs)))
    config = json.loads((folder / "config.json").read_text())
    assert config["finished"] is True and config["args"]["batch_size"] == 8 and config["args"]["env_id"] == env_id
    assert set(config["args"]) == set(vars(load(name).Args()))
    assert (folder / config["script"]).resolve() == ROOT / f"{name}.py"
    (start,) = config["starts"]
    assert start["step"] == 0 and start["num_actions"] == num_actions and "CPU" in start["device"]
    versions = [version.split("+")[0] for version in (start["packages"]["torch"], torch.__version__)]
    assert versions[0] == versions[1], "but for a label such as +cu130, which the package of a CUDA build may lack"
    assert set(start["packages"]) == {"python", "torch", "numpy", "gymnasium"} | packages
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|None", str(start["git_commit"]))
    if name.endswith("_mexp"):
        assert config["args"]["mean_scaling_coefficient"] == num_actions
    left = {path.name.split(".")[0] for path in folder.iterdir()}
    folded = {"model_folded"} if name.endswith("_mexp") else set()
    assert left == {"config", "eval", "events", "model"} | folded, "no checkpoint and nothing unfinished"


def test_eval_csv(finished):
    _, folder, result = finished
    assert (folder / "eval.csv").read_text().splitlines()[0] == COLUMNS
    with open(folder / "eval.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["600", "1200"]
    for row in rows:
        assert int(row["episodes"]) >= 2 and float(row["wall_time"]) > 0
        q, g = float(row["mean_q"]), float(row["mean_discounted_return"])
        assert float(row["overestimation"]) == pytest.approx(q - g) and float(row["action_gap"]) > 0
        assert f"step {int(row['step']):,}: episodes {row['episodes']}" in result.stdout


def test_tensorboard(finished):
    """A metric has the same name as in eval.csv."""
    name, folder, _ = finished
    values = scalars(folder)
    metrics = COLUMNS.split(",")[1:-1]
    expected = {"charts/episodic_return", "charts/episodic_length", "charts/epsilon", "losses/td_loss"}
    assert {tag for tag, _, _ in values} == expected | {"losses/q_values"} | {f"eval/{name}" for name in metrics}
    args = load(name).Args()
    epsilon = 1 + (args.end_e - 1) * 1000 / args.exploration_steps
    assert [v for tag, _, v in values if tag == "charts/epsilon"] == [pytest.approx(epsilon, rel=1e-3)]
    lengths = [(step, value) for tag, step, value in values if tag == "charts/episodic_length"]
    assert [step for step, _ in lengths] == np.cumsum([value for _, value in lengths]).tolist()
    with open(folder / "eval.csv", newline="") as file:
        for row in csv.DictReader(file):
            for metric in metrics:
                logged = [v for tag, step, v in values if tag == f"eval/{metric}" and step == int(row["step"])]
                assert logged == [pytest.approx(float(row[metric]), rel=1e-5)]
    if name == "lunarlander_mexp":
        scores = [value for tag, _, value in values if tag == "charts/episodic_return"]
        assert scores == [value for _, value in lengths], "a reward of 1 a step, not scaled"
        returns = [value for tag, _, value in values if tag == "eval/mean_discounted_return"]
        assert 0 < max(returns) <= 10, "scaled by 0.1, at most 0.1 / (1 - 0.99)"


def test_terminal(finished):
    """The folder is named before the training, so that it can be watched, and at the end, with the score. A log that is
    no terminal gets few lines of progress, not ten a second."""
    _, folder, result = finished
    lines = result.stdout.splitlines()
    name = next(folder.relative_to(parent.parent) for parent in folder.parents if parent.name == "runs")
    assert lines[0].startswith("device: CPU") and lines[1] == f"run: {name}"
    with open(folder / "eval.csv", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    score, minutes = float(row["score_mean"]), float(row["wall_time"]) / 60
    assert lines[-1] == f"finished: {name}, score {score:.5g}; to watch: python play.py {name} --video"
    assert "score=" in result.stderr and "1200/1200" in result.stderr
    assert 1 <= result.stderr.count("step/s") <= 3 + 2 + minutes  # once more after each evaluation's line


def test_end_without_a_model(tmp_path):
    result = run_here("minatar_mexp", MINATAR, "--total-timesteps 20", cwd=tmp_path)
    assert result.stdout.splitlines()[-1].endswith(
        ", no evaluation; to watch: --save-model would have kept the network"
    )


@pytest.mark.parametrize(
    "name,flags,warnings",
    [
        ("minatar_mexp", "--total-timesteps 3000", ["ends before --learning-starts 5000", "step 3,000, the last"]),
        ("minatar_mexp", "--num-envs 7 --total-timesteps 299990", ["step 299,992, the last, is no multiple"]),
        ("minatar_mexp", "--num-envs 7 --total-timesteps 300000", []),
        ("dqn_atari", "", []),
        ("minatar_mexp", "--eval-frequency 0", ["no evaluation ends the run"]),
    ],
)
def test_warnings(name, flags, warnings, tmp_path):
    """Of a run that learns nothing, and of one whose final network is not evaluated; a line each."""
    result = run_here(name, flags, "--buffer-size 1000", cwd=tmp_path, stop_at=1)
    lines = [line for line in result.stdout.splitlines() if line.startswith("warning: ")]
    assert len(lines) == len(warnings)
    for line, words in zip(lines, warnings, strict=True):
        assert words in line, line


def test_names(tmp_path):
    """A bare name of a game, and multiples of the number of actions."""
    for flags, name, k in (
        ("--env-id Pong --mean-scaling-coefficient n", "ALE/Pong-v5", 18.0),
        ("--env-id PongNoFrameskip-v4 --mean-scaling-coefficient 2n --no-full-action-space", "ALE/Pong-v5", 12.0),
        ("--env-id ALE/Freeway-v5 --mean-scaling-coefficient 0", "ALE/Freeway-v5", 0.0),
    ):
        cwd = tmp_path / str(k)
        cwd.mkdir()
        run_here("dqn_atari_mexp", TINY, flags, "--total-timesteps 4", cwd=cwd)
        args = json.loads((run_folders(cwd)[0] / "config.json").read_text())["args"]
        assert (args["env_id"], args["mean_scaling_coefficient"]) == (name, k)
    flags = "--env-id Seaquest --mean-scaling-coefficient 4n --total-timesteps 4"
    run_here("minatar_mexp", TINY, flags, cwd=tmp_path)
    args = json.loads((run_folders(tmp_path / "runs")[0] / "config.json").read_text())["args"]
    assert (args["env_id"], args["mean_scaling_coefficient"]) == ("MinAtar/Seaquest-v1", 24.0)


def test_in_a_notebook(tmp_path, monkeypatch):
    """Whose stdout cannot be reconfigured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command("minatar_mexp", MINATAR, "--total-timesteps 100")[1:])
    stdout = io.StringIO()
    assert not hasattr(stdout, "reconfigure")
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(io.StringIO()):
        runpy.run_path(sys.argv[0], run_name="__main__")
    assert stdout.getvalue().splitlines()[-1].startswith("finished: ")


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_the_commit_of_a_repository_of_another_user(tmp_path):
    """As in a container."""
    repository = tmp_path / "repository"
    repository.mkdir()
    shutil.copy(ROOT / "minatar_mexp.py", repository)
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        git(repository, *words)
    for path in [repository, *repository.rglob("*")]:
        os.chown(path, 65534, 65534)
    plain = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True)
    assert plain.returncode and "dubious ownership" in plain.stderr
    run_here(str(repository / "minatar_mexp"), MINATAR, "--total-timesteps 20 --no-cuda", cwd=tmp_path)
    config = json.loads((run_folders(tmp_path)[0] / "config.json").read_text())
    assert config["starts"][0]["git_commit"] == git(repository, "rev-parse", "HEAD").strip()


def test_evaluations_leave_no_thread():
    """The emulators of a phase are gone with it."""
    script = load("dqn_atari")
    args = script.Args(env_id="ALE/Breakout-v5", eval_steps=1, eval_envs=2, eval_epsilon=1.0)

    def values(obs):
        return torch.zeros(len(obs), 18)

    script.evaluate(values, args, 0, CPU)
    before = psutil.Process().num_threads()
    for step in (1, 2):
        script.evaluate(values, args, step, CPU)
    assert psutil.Process().num_threads() == before
    envs = script.make_envs(args, 2)
    assert psutil.Process().num_threads() > before, "a phase has threads"
    del envs


# WEIGHTS AND BIASES


STAND_IN = """
import json
from pathlib import Path

def init(**options):
    Path("wandb.json").write_text(json.dumps(options))
"""
GAMES = """
import gymnasium
gymnasium.register("Cart-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=20)
"""
TRACKED = "--env-id games:Cart-v0 --batch-size 8 --learning-starts 8 --buffer-size 100 --total-timesteps 40 --track"


def test_track(tmp_path, monkeypatch):
    """What Weights and Biases is told, by a stand-in: a resumed run goes on under its own id, which has no colon."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "wandb.py").write_text(STAND_IN)
    (packages / "games.py").write_text(GAMES)
    monkeypatch.syspath_prepend(packages)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with mock.patch.dict("gymnasium.registry"):
        run_here("lunarlander_mexp", TRACKED, "--wandb-entity team", cwd=tmp_path)
    monkeypatch.delitem(sys.modules, "wandb")
    monkeypatch.delitem(sys.modules, "games")
    told = json.loads((tmp_path / "wandb.json").read_text())
    (folder,) = run_folders(tmp_path)
    assert folder.name.startswith("games:Cart-v0__") and told["name"] == folder.name
    assert told["id"] == folder.name.replace(":", "-") and told["resume"] == "allow"
    assert told["project"] == "mean-expansion" and told["entity"] == "team"
    assert told["sync_tensorboard"] is True and told["config"]["batch_size"] == 8


@pytest.mark.slow
def test_track_with_wandb_offline(tmp_path):
    pytest.importorskip("wandb", reason="--track needs wandb, which is optional")
    (tmp_path / "games.py").write_text(GAMES)
    variables = {"WANDB_MODE": "offline", "PYTHONPATH": str(tmp_path)}
    run("lunarlander_mexp", TRACKED, cwd=tmp_path, env=os.environ | variables)
    assert list((tmp_path / "wandb").glob("offline-run-*"))


# HELP


@pytest.mark.parametrize("name", TRAINED)
def test_help_explains_every_flag(name, tmp_path):
    text = " ".join(run_here(name, "--help", cwd=tmp_path).stdout.replace("│", " ").split())
    for field in vars(load(name).Args()):
        assert f"--{field.replace('_', '-')}" in text
    assert text.count("(default:") == len(vars(load(name).Args()))
    assert re.search(r"the discount factor (\(Mnih et al. 2015\) )?\(default: 0.99\)", text)
