"""A run that is killed and resumed ends as one that never was: the same weights, the same logs."""

import contextlib
import csv
import gc
import io
import os
import random
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import IQN, ROOT, command, load, run, run_folders
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

# An evaluation of random actions is short: an untrained network may play one Breakout game for 27,000 steps
FLAGS = (
    "--env-id ALE/Breakout-v5 --batch-size 8 --learning-starts 100 --buffer-size 450 --exploration-steps 600 "
    "--train-frequency 8 --target-network-frequency 150 --eval-frequency 250 --eval-steps 1 --eval-envs 1 "
    "--eval-epsilon 1 --checkpoint-frequency 200 --save-model"
)
FEW_QUANTILES = "--num-tau-samples 8 --num-tau-prime-samples 7 --num-quantile-samples 4"
TIMED = {"wall_time"}


# RUNNING SCRIPTS


class Stopped(BaseException):
    """Ends a run as a signal does: the script can neither catch it nor tidy up."""


@contextlib.contextmanager
def stopping(step, stop):
    """Here a run calls `stop` once it has taken `step` agent steps, with all that it has logged on the disk."""
    update = tqdm.update
    add_scalar = SummaryWriter.add_scalar

    def update_and_stop(progress, n=1):
        update(progress, n)
        if progress.n >= step:
            stop()

    def add_scalar_and_flush(writer, *args):
        add_scalar(writer, *args)
        writer.flush()

    with mock.patch.object(tqdm, "update", update_and_stop):
        with mock.patch.object(SummaryWriter, "add_scalar", add_scalar_and_flush):
            yield


def run_here(name, *flags, cwd, check=True, stop_at=None):
    """As conftest's `run`, but in this process, which need not import everything once more. With `stop_at` the run ends
    at that agent step, and its return code is that of a killed one."""

    def stop():
        raise Stopped

    stdout = io.TextIOWrapper(io.BytesIO(), write_through=True)
    stderr = io.StringIO()
    argv = command(name, *flags)[1:]
    threads = torch.get_num_threads()
    code = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(cwd))
        stack.enter_context(mock.patch.object(sys, "argv", argv))
        stack.enter_context(contextlib.redirect_stdout(stdout))
        stack.enter_context(contextlib.redirect_stderr(stderr))
        if stop_at is not None:
            stack.enter_context(stopping(stop_at, stop))
        try:
            runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except Stopped:
            code = -signal.SIGKILL
    torch.set_num_threads(threads)
    gc.collect()  # what a process leaves to its end: the run's lock
    result = subprocess.CompletedProcess(argv, code, stdout.buffer.getvalue().decode(), stderr.getvalue())
    if stop_at is not None and check:
        assert code == -signal.SIGKILL, "the run ended before the step at which it was to be stopped"
    elif check:
        assert code == 0, result.stderr[-3000:]
    return result


def run_until_killed():
    """What a process of `kill_at` does: runs the script of its arguments, and kills itself at the step before them."""
    step = int(sys.argv[1])
    del sys.argv[:2]
    with stopping(step, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        runpy.run_path(sys.argv[0], run_name="__main__")


def kill_at(step, name, *flags, cwd, cuda=False, **variables):
    """Run a script in a process of its own, with `variables` in its environment, which a SIGKILL ends at agent step
    `step`."""
    program = "import test_resume; test_resume.run_until_killed()"
    result = subprocess.run(
        [sys.executable, "-c", program, str(step), *command(name, *flags, cuda=cuda)[1:]],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"} | variables,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr[-3000:]
    return result


def fork(path, *changes, name="dqn_atari_mexp"):
    """A copy of a script at `path` with every (old, new) replaced; returns what `run_here` calls it."""
    text = (ROOT / f"{name}.py").read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        text = text.replace(old, new)
    path.write_text(text)
    return str(path.with_suffix(""))


# WHAT RUNS LEAVE


def evaluations(folder):
    with open(folder / "eval.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name not in TIMED} for row in csv.DictReader(file)]


def scalars(folder):
    """Every (tag, step, value) of the run's TensorBoard files, in order, but for the speed."""

    def age(path):  # names end in the second, host, process and the process's count of writers
        words = path.name.split(".")
        return int(words[3]), int(words[-1])

    values = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=age):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag != "charts/SPS":
                    values.append((value.tag, event.step, value.tensor.float_val[0]))
    return values


def assert_same_weights(folder, other):
    models = [torch.load(f / "model.pt", weights_only=True) for f in (folder, other)]
    assert list(models[0]) == list(models[1])
    for name in models[0]:
        assert torch.equal(models[0][name], models[1][name]), name


def assert_same_run(folder, other):
    assert_same_weights(folder, other)
    assert len(evaluations(folder)) > 0
    assert evaluations(folder) == evaluations(other)
    assert len(scalars(folder)) >= 8
    assert scalars(folder) == scalars(other)
    assert not (other / "checkpoint.pt").exists()
    assert not list(other.glob("*.tmp"))


def new_folders(tmp_path, *names):
    folders = [tmp_path / name for name in names]
    for folder in folders:
        folder.mkdir()
    return folders


# TESTS


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupts, and its flags."""
    cwd = tmp_path_factory.mktemp("whole")
    flags = f"{FLAGS} --total-timesteps 700 --num-envs 2"
    run_here("dqn_atari_mexp", flags, cwd=cwd)
    (folder,) = run_folders(cwd)
    return folder, flags


def test_killed_after_logs_ran_ahead(whole, tmp_path):
    """The logs of the steps after the checkpoint are rewound: no row and no scalar comes twice. Nothing else goes."""
    whole_folder, flags = whole
    kill_at(550, "dqn_atari_mexp", flags, cwd=tmp_path)  # evaluated at 500, checkpointed at 400
    (folder,) = run_folders(tmp_path)
    assert [row["step"] for row in evaluations(folder)] == ["250", "500"]
    assert max(step for _, step, _ in scalars(folder)) >= 500
    theirs = {"evolution.png": b"a picture", "events.txt": b"notes", "eval.csv.bak": b"a copy", "evaluation": b"more"}
    for name, content in theirs.items():
        (folder / name).write_bytes(content)
    stray = folder / "events.out.tfevents.1.after.the.checkpoint"
    shutil.copy(next(folder.glob("events.out.tfevents.*")), stray)

    result = run("dqn_atari_mexp", flags, "--resume", cwd=tmp_path)
    assert "goes on from step 400" in result.stdout
    assert_same_run(whole_folder, folder)
    assert not stray.exists()
    assert theirs == {name: (folder / name).read_bytes() for name in theirs}
    result = run_here("dqn_atari_mexp", flags, "--resume", cwd=tmp_path)
    assert "has finished" in result.stdout, "repeating the command is harmless"
    assert_same_run(whole_folder, folder)


def test_full_disk_keeps_the_previous_checkpoint(whole, tmp_path):
    """A limit on the size of files fails the second checkpoint as a full disk does; training goes on."""
    whole_folder, flags = whole
    killed, resumed = new_folders(tmp_path, "killed", "resumed")
    network = 4 * 4 * 1_693_362  # bytes of the weights, the target's and two moments
    transition = 84 * 84
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (network + 300 * transition, before[1]))
    try:
        result = run_here("dqn_atari_mexp", flags, cwd=killed, stop_at=550)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "warning: no checkpoint at step 400, the one before is kept" in result.stdout
    (folder,) = run_folders(killed)
    assert not list(folder.glob("*.tmp"))

    # The checkpoint is older than the first evaluation: there was no eval.csv yet
    shutil.copytree(killed, resumed, dirs_exist_ok=True)  # a stopped run's writer may still hold its files
    result = run_here("dqn_atari_mexp", flags, "--resume", cwd=resumed)
    assert "goes on from step 200" in result.stdout
    assert_same_run(whole_folder, run_folders(resumed)[0])


def stopped_and_resumed(name, flags, tmp_path, stop_at):
    """A run that is stopped and resumed in this process; returns the folder of a whole one and that of this one."""
    whole, stopped, resumed = new_folders(tmp_path, "whole", "stopped", "resumed")
    run_here(name, flags, cwd=whole)
    run_here(name, flags, cwd=stopped, stop_at=stop_at)
    shutil.copytree(stopped, resumed, dirs_exist_ok=True)
    result = run_here(name, flags, "--resume", cwd=resumed)
    assert "goes on from step" in result.stdout
    return run_folders(whole)[0], run_folders(resumed)[0]


def test_iqn_resumes(tmp_path):
    """Its update and its actions draw fractions from PyTorch's generator, which the checkpoint holds too."""
    flags = f"{FLAGS} {FEW_QUANTILES} --total-timesteps 310"
    assert_same_run(*stopped_and_resumed("iqn_atari_mexp", flags, tmp_path, stop_at=270))


ADDED_ARRAY = (
    (
        "        self.written = np.zeros(num_envs, np.int64)",
        "        self.added = np.zeros(self.size, np.float32)\n        self.written = np.zeros(num_envs, np.int64)",
    ),
    (
        "        self.actions[slots] = actions\n",
        "        self.actions[slots] = actions\n        self.added[slots] = 1\n",
    ),
    (
        "rewards=to_device(self.rewards[slots], device)",
        "rewards=to_device(self.rewards[slots] + self.added[slots], device)",
    ),
)
SAVED_ARRAY = (
    (
        '            "written": torch.from_numpy(self.written),\n',
        '            "written": torch.from_numpy(self.written),\n'
        '            "added": torch.from_numpy(self.added[:filled]),\n',
    ),
    (
        '        self.written[:] = state["written"]\n',
        '        self.written[:] = state["written"]\n        self.added[:filled] = state["added"]\n',
    ),
)


@pytest.mark.parametrize("saved", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_fork_with_one_more_array_in_its_replay(saved, tmp_path):
    """It resumes bit for bit if `state_dict` names the array. If not, it does not: the array counts."""
    changes = ADDED_ARRAY + SAVED_ARRAY if saved else ADDED_ARRAY
    name = fork(tmp_path / "fork.py", *changes)
    flags = f"{FLAGS} --total-timesteps 310 --no-cuda"
    folder, resumed = stopped_and_resumed(name, flags, tmp_path, stop_at=210)
    if saved:
        assert_same_run(folder, resumed)
    else:
        with pytest.raises(AssertionError, match="weight"):
            assert_same_weights(folder, resumed)


def test_starts_afresh_without_a_checkpoint(tmp_path):
    flags = f"{FLAGS} --total-timesteps 60".replace("--learning-starts 100", "--learning-starts 20")
    killed_early = tmp_path / "runs" / "ALE" / f"Breakout-v5__dqn_atari__1__{int(time.time()) + 1000}"
    killed_early.mkdir(parents=True)  # and no config.json yet
    (killed_early / "config.tmp").write_text('{"args": ')
    result = run_here("dqn_atari", flags, "--resume", cwd=tmp_path)
    assert "no config.json" in result.stdout and "starting afresh" in result.stdout
    (folder,) = run_folders(tmp_path)
    number, number_before = [int(path.name.split("__")[-1]) for path in (folder, killed_early)]
    assert number == number_before + 1, "it is the newest, so the next --resume finds it"
    result = run_here("dqn_atari", flags, "--resume", cwd=tmp_path)
    assert "has finished" in result.stdout and len(run_folders(tmp_path)) == 1
    run_here("dqn_atari", flags, "--resume --seed 2", cwd=tmp_path)
    result = run_here("dqn_atari_mexp", flags, "--resume", cwd=tmp_path)
    assert "no run of" in result.stdout and "starting afresh" in result.stdout
    run_here("dqn_atari", flags, cwd=tmp_path, stop_at=30)
    assert len(run_folders(tmp_path)) == 4, "another seed, another script and no --resume are other runs"
    result = run_here("dqn_atari", flags, "--resume --gamma 0.9", cwd=tmp_path)
    assert "has no checkpoint yet; starting afresh" in result.stdout
    assert len(run_folders(tmp_path)) == 5


def test_folders_of_the_same_second(tmp_path):
    """A run that another one overtakes, between looking for folders and making its own, takes the next number."""
    script = load("dqn_atari")
    args = script.Args(runs_dir=str(tmp_path))
    with mock.patch.object(script, "find_runs", return_value=[]), mock.patch.object(time, "time", return_value=1000.5):
        folders = [script.new_run(args, 18, "CPU", ("torch",)) for _ in range(3)]
    assert [folder.name.split("__")[-1] for folder in folders] == ["1000", "1001", "1002"]
    assert script.find_runs(args) == folders
    assert script.new_run(args, 18, "CPU", ("torch",)) == script.find_runs(args)[-1]


@pytest.mark.parametrize(
    "name", ["dqn_atari_mexp", "iqn_atari_mexp", pytest.param("related/isdqn_atari", marks=pytest.mark.slow)]
)
def test_evaluating_does_not_change_the_training(name, tmp_path):
    """Whether, when and with how many emulators a run is evaluated: the weights are the same."""
    flags = f"{FLAGS} --total-timesteps 310"
    if name in IQN:
        flags += f" {FEW_QUANTILES}"
    if "isdqn" in name:
        flags += " --eval-head random --num-iterations 3 --end-e 0 --exploration-steps 1"
    without, often = new_folders(tmp_path, "without", "often")
    run_here(name, flags, "--eval-frequency 0", cwd=without)
    run_here(name, flags, "--eval-frequency 130 --eval-envs 2", cwd=often)
    (without,), (often,) = run_folders(without), run_folders(often)
    assert not (without / "eval.csv").exists() and len(evaluations(often)) == 2
    assert_same_weights(without, often)


# SLOW TESTS


def killed_and_resumed(name, flags, tmp_path):
    """A run that is killed at three random moments and resumed each time against one that was let alone."""
    whole, killed = new_folders(tmp_path, "whole", "killed")
    started = time.monotonic()
    run(name, flags, cwd=whole)
    duration = time.monotonic() - started

    moments = [random.uniform(0.15, 0.95) * duration for _ in range(3)]
    print("killed after", moments, "of", duration, "seconds")  # shown when the test fails
    for moment in moments:
        with open(tmp_path / "log", "a") as log:
            process = subprocess.Popen(command(name, flags, "--resume"), cwd=killed, stderr=log, stdout=log)
            try:
                process.wait(timeout=moment)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
    run(name, flags, "--resume", cwd=killed)
    (whole_folder,) = run_folders(whole)
    assert_same_run(whole_folder, run_folders(killed)[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,num_envs,total", [("dqn_atari_mexp", 1, 1300), ("dqn_atari", 3, 1800), ("iqn_atari_mexp", 1, 1050)]
)
def test_killed_at_three_random_moments(name, num_envs, total, tmp_path):
    flags = f"{FLAGS} --total-timesteps {total} --num-envs {num_envs} --train-frequency 4"
    if name in IQN:
        flags += f" {FEW_QUANTILES}"
    killed_and_resumed(name, flags, tmp_path)


@pytest.mark.slow
def test_runs_of_the_same_second_do_not_meet(tmp_path):
    flags = f"{FLAGS} --total-timesteps 8"
    processes = [subprocess.Popen(command("dqn_atari", flags), cwd=tmp_path, stderr=subprocess.PIPE) for _ in range(4)]
    errors = [process.communicate()[1].decode() for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0, 0, 0, 0], errors
    assert len(run_folders(tmp_path)) == 4


@pytest.mark.parametrize("saved,own", [(False, True), (True, False)])
def test_whether_an_optimizer_is_capturable_is_not_loaded(saved, own, tmp_path):
    """It is a matter of the device, and a run may go on on another."""
    script = load("minatar_mexp")

    def stepped(capturable):
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.Adam([parameter], fused=True, capturable=capturable)
        parameter.grad = torch.ones(3)
        optimizer.step()
        return optimizer

    args, rng = script.Args(), np.random.default_rng(0)
    script.save_checkpoint(tmp_path, args, {"optimizer": stepped(saved)}, rng, {"global_step": 1})
    optimizer = stepped(own)
    script.load_checkpoint(tmp_path, args, {"optimizer": optimizer}, rng)
    assert [group["capturable"] for group in optimizer.param_groups] == [own]
