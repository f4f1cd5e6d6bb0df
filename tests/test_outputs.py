"""What a run leaves behind, and what --eval-only and --help do with it."""

import csv
import json
import os
import re
import sys

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from conftest import IQN, SCRIPTS, TRAINED, load, run, run_folders
from test_resume import FEW_QUANTILES, run_here, scalars

# Evaluated with random actions: an untrained network may play one Breakout game for 27,000 steps
FLAGS = (
    "--env-id ALE/Breakout-v5 --batch-size 8 --learning-starts 100 --buffer-size 2000 --eval-frequency 600 "
    "--eval-steps 10 --eval-envs 2 --eval-epsilon 1 --total-timesteps 1200 --train-frequency 20 --save-model "
    "--capture-video"
)
COLUMNS = (
    "step,episodes,score_mean,score_median,score_std,mean_q,mean_discounted_return,overestimation,action_gap,q_norm,z_norm,"
    "wall_time"
)


@pytest.fixture(scope="module", params=SCRIPTS)
def finished(request, tmp_path_factory):
    """A short run of each script, in a process of its own: its name, folder, and what it printed."""
    cwd = tmp_path_factory.mktemp(request.param)
    flags = f"{FLAGS} {FEW_QUANTILES}" if request.param in IQN else FLAGS
    result = run(request.param, flags, cwd=cwd)
    (folder,) = run_folders(cwd)
    return request.param, folder, result


def test_folder_and_config(finished):
    name, folder, _ = finished
    assert re.fullmatch(rf"Breakout-v5__{name}__1__\d+", folder.name) and folder.parent.name == "ALE"
    assert folder.parent.parent.name == "runs"
    config = json.loads((folder / "config.json").read_text())
    assert config["finished"] is True and config["args"]["batch_size"] == 8 and config["num_actions"] == 18
    assert set(config["args"]) == set(vars(load(name).Args()))
    versions = [version.split("+")[0] for version in (config["packages"]["torch"], torch.__version__)]
    assert versions[0] == versions[1], "but for a label such as +cu130, which the package of a CUDA build may lack"
    assert "ale-py" in config["packages"]
    assert "CPU" in config["device"] and re.fullmatch(r"[0-9a-f]{40}(-dirty)?|None", str(config["git_commit"]))
    if name.endswith("_mexp"):
        assert config["args"]["mean_scaling_coefficient"] == 18.0
    left = {path.name.split(".")[0] for path in folder.iterdir()}
    folded = {"model_folded"} if name.endswith("_mexp") else set()
    assert left == {"config", "eval", "events", "model", "videos"} | folded, "no checkpoint and nothing unfinished"


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
    _, folder, _ = finished
    values = scalars(folder)
    tags = {tag for tag, _, _ in values}
    assert tags >= {"charts/episodic_return", "charts/episodic_length", "charts/epsilon", "losses/td_loss"}
    assert tags >= {"losses/q_values", "eval/episodic_return", "eval/mean_q", "eval/mean_discounted_return"}
    assert tags >= {"eval/overestimation", "eval/action_gap", "eval/q_norm", "eval/z_norm"}
    epsilons = {step: value for tag, step, value in values if tag == "charts/epsilon"}
    assert epsilons == {1000: pytest.approx(1 - 0.99 * 1000 / 1_000_000)}
    lengths = [(step, value) for tag, step, value in values if tag == "charts/episodic_length"]
    assert [step for step, _ in lengths] == np.cumsum([value for _, value in lengths]).tolist()
    with open(folder / "eval.csv", newline="") as file:
        for row in csv.DictReader(file):
            for tag, column in (("episodic_return", "score_mean"), ("action_gap", "action_gap"), ("mean_q", "mean_q")):
                logged = [v for t, step, v in values if t == f"eval/{tag}" and step == int(row["step"])]
                assert logged == [pytest.approx(float(row[column]), rel=1e-5)]


def test_terminal(finished):
    _, _, result = finished
    assert result.stdout.splitlines()[0].startswith("device: CPU")
    assert "step/s" in result.stderr and "score=" in result.stderr and "1200/1200" in result.stderr


def test_video_plays(finished):
    _, folder, _ = finished
    videos = {video.name: video for video in (folder / "videos").iterdir()}
    assert set(videos) == {"step_600.mp4", "step_1200.mp4"}
    frames = imageio_ffmpeg.read_frames(str(videos["step_600.mp4"]))
    meta = next(frames)
    assert meta["size"] == (320, 420) and meta["fps"] == 15
    pictures = [np.frombuffer(frame, np.uint8).reshape(420, 320, 3) for frame in frames]
    assert len(pictures) > 20 and any((a != b).any() for a, b in zip(pictures, pictures[1:], strict=False))
    assert pictures[0].std(axis=2).max() > 20, "in colour"


def test_video_shows_the_evaluated_episode(tmp_path):
    """Played again in colour, the episode has the same score and length as when it was evaluated."""
    script = load("dqn_atari")
    rng = np.random.default_rng(0)
    args = script.Args(env_id="ALE/Seaquest-v5", eval_steps=1, eval_envs=1)
    envs = script.AtariEnvs(args.env_id, 1)
    metrics, seeds, film = script.evaluate(envs, lambda obs: rng.random((1, 18)), args, 7)
    script.record_video(tmp_path / "videos" / "x.mp4", args, seeds, film)
    frames = list(imageio_ffmpeg.read_frames(str(tmp_path / "videos" / "x.mp4")))[1:]
    assert len(frames) == len(film)  # the first observation and one after every action but the last
    colour = script.AtariEnvs(args.env_id, 1, grayscale=False, img_height=210, img_width=160, stack_num=1)
    colour.reset(seeds)
    for action in film:
        colour.send(np.array([action]))
        *_, done, info = colour.recv()
    assert done[0] and info["score"][0] == metrics["score_mean"] and info["length"][0] == len(film)


def test_eval_only_gives_what_the_network_plays(finished, tmp_path):
    """A saved model is played as during training: the same file gives the same line, whatever script trained it."""
    name, folder, _ = finished
    flags = "--env-id ALE/Breakout-v5 --eval-steps 10 --eval-envs 2 --eval-epsilon 1"
    if name in IQN:
        flags += f" {FEW_QUANTILES}"
    own = run_here(name, flags, f"--eval-only {folder}/model.pt", cwd=tmp_path).stdout.splitlines()[-1]
    assert own.startswith("step 0: episodes 2") or own.startswith("step 0: episodes 3")
    assert not list(tmp_path.iterdir())
    if name.endswith("_mexp"):  # the folded model is the baseline's, with the same values up to rounding
        result = run_here(name.removesuffix("_mexp"), flags, f"--eval-only {folder}/model_folded.pt", cwd=tmp_path)
        folded = result.stdout.splitlines()[-1]
        both = [line.split(", z_norm")[0] for line in (own, folded)]  # the baseline's z is q
        numbers = [[float(x) for x in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", line)] for line in both]
        assert numbers[0] == pytest.approx(numbers[1], rel=2e-3)


STAND_IN = """
import json
from pathlib import Path

def init(**options):
    Path("wandb.json").write_text(json.dumps(options))
"""


def test_track(tmp_path, monkeypatch):
    """What Weights and Biases is told, by a stand-in: a resumed run goes on under its own id."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "wandb.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(packages)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    flags = "--batch-size 8 --learning-starts 8 --buffer-size 100 --total-timesteps 8 --track --wandb-entity team"
    run_here("dqn_atari", flags, cwd=tmp_path)
    monkeypatch.delitem(sys.modules, "wandb")
    told = json.loads((tmp_path / "wandb.json").read_text())
    (folder,) = run_folders(tmp_path)
    assert told["id"] == told["name"] == folder.name and told["resume"] == "allow"
    assert told["project"] == "mean-expansion" and told["entity"] == "team"
    assert told["sync_tensorboard"] is True and told["config"]["batch_size"] == 8


@pytest.mark.slow
def test_track_with_wandb_offline(tmp_path):
    pytest.importorskip("wandb", reason="--track needs wandb, which is optional")
    flags = FLAGS.replace("--capture-video", "") + " --track"
    run("dqn_atari", flags, cwd=tmp_path, env=os.environ | {"WANDB_MODE": "offline"})
    assert list((tmp_path / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize("name", TRAINED)
def test_help_explains_every_flag(name, tmp_path):
    text = " ".join(run_here(name, "--help", cwd=tmp_path).stdout.replace("│", " ").split())
    for field in vars(load(name).Args()):
        assert f"--{field.replace('_', '-')}" in text
    assert text.count("(default:") == len(vars(load(name).Args()))
    assert re.search(r"the discount factor (\(Mnih et al. 2015\) )?\(default: 0.99\)", text)
