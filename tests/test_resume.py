"""A run that is killed and resumed ends as one that never was: the same weights, the same logs."""

import csv
import random
import resource
import signal
import subprocess
import time

import pytest
import torch
from conftest import IQN, command, run, run_folders
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

FLAGS = (
    "--env-id ALE/Pong-v5 --batch-size 8 --learning-starts 100 --buffer-size 450 --exploration-steps 600 "
    "--train-frequency 2 --target-network-frequency 150 --eval-frequency 450 --eval-steps 1 --eval-envs 1 "
    "--checkpoint-frequency 200 --total-timesteps {total} --save-model"
)
TIMED = {"wall_time"}


def evaluations(folder):
    with open(folder / "eval.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name not in TIMED} for row in csv.DictReader(file)]


def scalars(folder):
    """Every (tag, step, value) of the run's TensorBoard files, in order, but for the speed."""
    values = []
    for path in sorted(folder.glob("events.*"), key=lambda path: path.name):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag != "charts/SPS":
                    values.append((value.tag, event.step, value.tensor.float_val[0]))
    return values


def assert_same_run(folder, other):
    model, other_model = [torch.load(f / "model.pt", weights_only=True) for f in (folder, other)]
    assert list(model) == list(other_model)
    for name in model:
        assert torch.equal(model[name], other_model[name]), name
    assert len(evaluations(folder)) > 0 and evaluations(folder) == evaluations(other)
    assert scalars(folder) == scalars(other) and len(scalars(folder)) > 10
    assert not (other / "checkpoint.pt").exists() and not list(other.glob("*.tmp"))


@pytest.mark.parametrize(
    "name,num_envs,total", [("dqn_atari_mexp", 1, 1300), ("dqn_atari", 3, 1800), ("iqn_atari_mexp", 1, 1000)]
)
def test_killed_at_three_random_moments(name, num_envs, total, tmp_path):
    flags = f"{FLAGS.format(total=total)} --num-envs {num_envs}"
    if name in IQN:
        flags += " --num-tau-samples 8 --num-tau-prime-samples 7 --num-quantile-samples 4"
    killed_and_resumed(name, flags, tmp_path)


def killed_and_resumed(name, flags, tmp_path):
    """A run that is killed at three random moments and resumed each time against one that was let alone."""
    (tmp_path / "whole").mkdir(), (tmp_path / "killed").mkdir()
    started = time.monotonic()
    run(name, flags, cwd=tmp_path / "whole")
    duration = time.monotonic() - started

    moments = [random.uniform(0.15, 0.95) * duration for _ in range(3)]
    print("killed after", moments, "of", duration, "seconds")  # shown when the test fails
    for moment in moments:
        with open(tmp_path / "log", "a") as log:
            process = subprocess.Popen(
                command(name, flags, "--resume"), cwd=tmp_path / "killed", stderr=log, stdout=log
            )
            try:
                process.wait(timeout=moment)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
    run(name, flags, "--resume", cwd=tmp_path / "killed")
    (whole,) = run_folders(tmp_path / "whole")
    assert_same_run(whole, run_folders(tmp_path / "killed")[-1])
    result = run(name, flags, "--resume", cwd=tmp_path / "killed")
    assert "has finished" in result.stdout, "repeating the command is harmless"
    assert_same_run(whole, run_folders(tmp_path / "killed")[-1])


def kill_at(name, flags, cwd, words, rows=0, **kwargs):
    """Run a script and SIGKILL it as soon as it has printed `words` and its eval.csv has `rows`."""
    process = subprocess.Popen(
        command(name, flags), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **kwargs
    )
    printed = ""
    for line in process.stdout:
        printed += line
        if words in line:
            (folder,) = run_folders(cwd)
            while process.poll() is None and rows and not (folder / "eval.csv").exists():
                time.sleep(0.01)
            while process.poll() is None and rows and len(evaluations(folder)) < rows:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
    process.wait()
    assert words in printed, printed
    return printed


def test_killed_after_logs_ran_ahead(tmp_path):
    """The logs of the steps after the checkpoint are rewound: no row and no scalar comes twice."""
    flags = FLAGS.format(total=1000)
    (tmp_path / "whole").mkdir(), (tmp_path / "killed").mkdir()
    run("dqn_atari", flags, cwd=tmp_path / "whole")
    kill_at("dqn_atari", flags, tmp_path / "killed", "step 900", rows=2)  # evaluated at 900, checkpointed at 800
    (folder,) = run_folders(tmp_path / "killed")
    assert [row["step"] for row in evaluations(folder)] == ["450", "900"]
    result = run("dqn_atari", flags, "--resume", cwd=tmp_path / "killed")
    assert "goes on from step 800" in result.stdout
    assert_same_run(run_folders(tmp_path / "whole")[0], folder)


def test_full_disk_keeps_the_previous_checkpoint(tmp_path):
    """A limit on the size of files fails the second checkpoint as a full disk does; training goes on."""
    flags = FLAGS.format(total=1000) + " --num-envs 1"
    (tmp_path / "whole").mkdir(), (tmp_path / "killed").mkdir()
    run("dqn_atari", flags, cwd=tmp_path / "whole")
    network, frames = 4 * 4 * 1_693_362, 84 * 84  # weights, target, two moments; bytes of one transition
    limit = network + 300 * frames

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    printed = kill_at("dqn_atari", flags, tmp_path / "killed", "step 900", preexec_fn=limited)
    assert all(f"warning: no checkpoint at step {step}" in printed for step in (400, 600, 800))
    (folder,) = run_folders(tmp_path / "killed")
    assert not list(folder.glob("*.tmp"))
    result = run("dqn_atari", flags, "--resume", cwd=tmp_path / "killed")
    assert "goes on from step 200" in result.stdout
    assert_same_run(run_folders(tmp_path / "whole")[0], folder)


def test_starts_afresh_without_a_checkpoint(tmp_path):
    flags = FLAGS.format(total=60).replace("--learning-starts 100", "--learning-starts 20")
    result = run("dqn_atari", flags, "--resume", cwd=tmp_path)
    assert "no checkpoint" in result.stdout and "afresh" in result.stdout
    result = run("dqn_atari", flags, "--resume", cwd=tmp_path)
    assert "has finished" in result.stdout and len(run_folders(tmp_path)) == 1
    run("dqn_atari", flags, "--resume --seed 2", cwd=tmp_path)
    run("dqn_atari_mexp", flags, "--resume", cwd=tmp_path)
    run("dqn_atari", flags, cwd=tmp_path)
    assert len(run_folders(tmp_path)) == 4, "another seed, another script and no --resume are other runs"


def test_runs_of_the_same_second_do_not_meet(tmp_path):
    flags = "--total-timesteps 8 --env-id ALE/Pong-v5 --batch-size 8 --learning-starts 8 --buffer-size 100"
    processes = [subprocess.Popen(command("dqn_atari", flags), cwd=tmp_path, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1].decode() for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0, 0], errors
    assert len(run_folders(tmp_path)) == 2


@pytest.mark.parametrize("name", ["dqn_atari_mexp", "iqn_atari_mexp"])
def test_evaluating_does_not_change_the_training(name, tmp_path):
    """Whether, when and with how many emulators a run is evaluated: the weights are the same."""
    flags = FLAGS.format(total=500)
    if name in IQN:
        flags += " --num-tau-samples 8 --num-tau-prime-samples 7 --num-quantile-samples 4"
    models = []
    for evaluation in ("--eval-frequency 0", "--eval-frequency 150 --eval-envs 2"):
        folder = tmp_path / evaluation.replace(" ", "_")
        folder.mkdir()
        run(name, flags, evaluation, cwd=folder)
        models.append(torch.load(run_folders(folder)[0] / "model.pt", weights_only=True))
    assert all(torch.equal(models[0][weights], models[1][weights]) for weights in models[0])
