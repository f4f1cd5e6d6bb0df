"""A run that is killed and resumed ends as one that never was: the same weights, evaluations and curves."""

import contextlib
import json
import os
import pickle
import resource
import shutil
import subprocess
import time

import numpy as np
import pytest
import torch
from helpers import (
    ATARI_FLAGS,
    FEW_QUANTILES,
    IQN,
    MINATAR_FLAGS,
    assert_same_run,
    assert_same_weights,
    command,
    evaluations,
    files,
    fork,
    kill_at,
    killed_and_resumed,
    load,
    new_folders,
    run,
    run_folders,
    run_here,
    scalars,
    stopped_and_resumed,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

MINATAR = f"{MINATAR_FLAGS} --env-id Breakout --eval-frequency 0 --checkpoint-frequency 0"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupts, and its flags."""
    cwd = tmp_path_factory.mktemp("whole")
    flags = f"{ATARI_FLAGS} --total-timesteps 700 --num-envs 2"
    run_here("dqn_atari_mexp", flags, cwd=cwd)
    (folder,) = run_folders(cwd)
    return folder, flags


# KILLED AND RESUMED


def test_killed_after_logs_ran_ahead(whole, tmp_path):
    """What was logged after the checkpoint is logged anew: no row and no point of a curve comes twice. Nothing else in
    the folder goes."""
    whole_folder, flags = whole
    kill_at(550, "dqn_atari_mexp", flags, cwd=tmp_path)  # evaluated at 500, checkpointed at 400
    (folder,) = run_folders(tmp_path)
    assert [row["step"] for row in evaluations(folder)] == ["250", "500"]
    assert max(step for _, step, _ in scalars(folder)) >= 500
    theirs = {"evolution.png": b"a picture", "eval.csv.bak": b"a copy"}
    for name, content in theirs.items():
        (folder / name).write_bytes(content)

    result = run("dqn_atari_mexp", flags, "--resume", cwd=tmp_path)
    assert "goes on from step 400" in result.stdout
    assert_same_run(whole_folder, folder)
    assert theirs == {name: (folder / name).read_bytes() for name in theirs}
    shown = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # TensorBoard's own reader
    shown.Reload()
    for tag in shown.Tags()["scalars"]:
        steps = [scalar.step for scalar in shown.Scalars(tag) if scalar.step > 400]
        assert len(steps) == len(set(steps)) or tag.startswith("charts/episodic"), tag
        assert len([step for step in steps if step == 500]) == tag.startswith("eval/"), tag
    result = run_here("dqn_atari_mexp", flags, "--resume", cwd=tmp_path)
    assert "has finished" in result.stdout, "repeating the command is harmless"
    assert_same_run(whole_folder, folder)


@contextlib.contextmanager
def limit_on_files(folder, network, transition):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (network + 300 * transition, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def small_disk(folder, network, transition):
    """A tmpfs that has room for a checkpoint of 200 transitions, but not for that and one of 400."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={2 * network + 500 * transition}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here; that takes root")
    try:
        yield
    finally:
        shutil.copytree(folder, folder.with_name("copy"))
        subprocess.run(["umount", "-l", folder], check=True)
        shutil.copytree(folder.with_name("copy"), folder, dirs_exist_ok=True)


@pytest.mark.parametrize("full", [limit_on_files, pytest.param(small_disk, marks=pytest.mark.slow)])
def test_full_disk_keeps_the_previous_checkpoint(full, whole, tmp_path):
    """The second checkpoint does not fit; that is said, and training goes on."""
    whole_folder, flags = whole
    killed, resumed = new_folders(tmp_path, "killed", "resumed")
    network = 4 * 4 * 1_693_362  # bytes of the weights, the target's and two moments
    with full(killed, network, 84 * 84):
        result = run_here("dqn_atari_mexp", flags, cwd=killed, stop_at=550)
    assert "warning: no checkpoint at step 400, the one before is kept" in result.stdout
    (folder,) = run_folders(killed)
    assert not list(folder.glob("*.tmp"))

    # The checkpoint is older than the first evaluation: there was no eval.csv yet
    shutil.copytree(killed, resumed, dirs_exist_ok=True)  # a stopped run's writer may still hold its files
    result = run_here("dqn_atari_mexp", flags, "--resume", cwd=resumed)
    assert "goes on from step 200" in result.stdout
    assert_same_run(whole_folder, run_folders(resumed)[0])


def test_iqn_resumes(tmp_path):
    """Its update and its actions draw fractions from PyTorch's generator, which the checkpoint holds too."""
    flags = f"{ATARI_FLAGS} {FEW_QUANTILES} --total-timesteps 310"
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
        'for name in ("actions", "rewards", "terminated", "history"):\n            arrays',
        'for name in ("actions", "rewards", "terminated", "history", "added"):\n            arrays',
    ),
)


@pytest.mark.parametrize("saved", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_fork_with_one_more_array_in_its_replay(saved, tmp_path):
    """It resumes bit for bit if `views` names the array. If not, it does not: the array counts."""
    changes = ADDED_ARRAY + SAVED_ARRAY if saved else ADDED_ARRAY
    name = fork(tmp_path / "fork.py", *changes)
    flags = f"{ATARI_FLAGS} --total-timesteps 310 --no-cuda"
    folder, resumed = stopped_and_resumed(name, flags, tmp_path, stop_at=210)
    if saved:
        assert_same_run(folder, resumed)
    else:
        with pytest.raises(AssertionError, match="weight"):
            assert_same_weights(folder, resumed)


COMPONENT = '    components = {"q_network": q_network,'


@pytest.mark.parametrize("body,error", [("raise RuntimeError('mine')", RuntimeError), ("return {'x': rng}", Exception)])
def test_a_component_that_cannot_be_saved(body, error, tmp_path):
    """A fork's own error ends the run at its first checkpoint, and is not taken for a full disk. The second state is no
    tensor or plain value, so nothing could be loaded from it."""
    broken = (
        f'    Broken = type("Broken", (), dict(state_dict=lambda self: broken_state()))\n{COMPONENT} "x": Broken(),'
    )
    function = f'def broken_state():\n    {body}\n\n\nif __name__ == "__main__":\n'
    name = fork(
        tmp_path / "fork.py", (COMPONENT, broken), ('if __name__ == "__main__":\n', function), name="minatar_mexp"
    )
    flags = f"{MINATAR} --total-timesteps 300 --checkpoint-frequency 100 --no-cuda"
    with pytest.raises(error) as raised:
        run_here(name, flags, cwd=tmp_path)
    assert isinstance(raised.value, pickle.UnpicklingError) or str(raised.value) == "mine"
    (folder,) = run_folders(tmp_path)
    assert not (folder / "checkpoint.pt").exists()


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

    rng = np.random.default_rng(0)
    script.save_checkpoint(tmp_path / "checkpoint.pt", {"optimizer": stepped(saved)}, {"global_step": 1}, rng)
    optimizer = stepped(own)
    script.load_checkpoint(tmp_path / "checkpoint.pt", {"optimizer": optimizer}, rng)
    assert [group["capturable"] for group in optimizer.param_groups] == [own]


# WHICH RUN GOES ON


def test_the_newest_run_with_a_checkpoint_goes_on(tmp_path):
    """Not a new one, though a newer run of this name was stopped before it had one."""
    flags = f"{MINATAR} --checkpoint-frequency 100 --total-timesteps 300"
    run_here("minatar_mexp", flags, cwd=tmp_path, stop_at=210)
    (folder,) = run_folders(tmp_path)
    newer = folder.with_name(folder.name[:-10] + f"{int(folder.name[-10:]) + 1000}")
    shutil.copytree(folder, newer, ignore=shutil.ignore_patterns("checkpoint.pt"))
    newest = folder.with_name(folder.name[:-10] + f"{int(folder.name[-10:]) + 2000}")
    newest.mkdir()  # and no config.json yet
    result = run_here("minatar_mexp", flags, "--resume --checkpoint-frequency 50", cwd=tmp_path)  # may differ
    assert "goes on from step 200" in result.stdout and f"run: {folder.relative_to(tmp_path)}" in result.stdout
    result = run_here("minatar_mexp", flags, "--resume", cwd=tmp_path)
    assert f"{folder.name} has finished" in result.stdout


def test_starts_afresh_without_a_checkpoint(tmp_path):
    flags = f"{MINATAR} --total-timesteps 60"
    run_here("minatar_mexp", flags, "--resume", cwd=tmp_path)
    (folder,) = run_folders(tmp_path)
    result = run_here("minatar_mexp", flags, "--resume", cwd=tmp_path)
    assert "has finished" in result.stdout and len(run_folders(tmp_path)) == 1
    run_here("minatar_mexp", flags, "--resume --seed 2", cwd=tmp_path)
    run_here("minatar_mexp", flags, "--resume --exp-name other", cwd=tmp_path)
    run_here("minatar_mexp", flags, "--resume --env-id Freeway", cwd=tmp_path)
    assert len(run_folders(tmp_path)) == 4, "another seed, name and game are other runs"
    os.rename(folder, folder.with_name(folder.name[:-10] + "1000000000"))
    run_here("minatar_mexp", flags, cwd=tmp_path)
    assert len(run_folders(tmp_path)) == 5, "without --resume it is a new run"


def test_the_same_command_twice(tmp_path):
    """Before the first checkpoint too the second one leaves the first alone; once that is gone, it starts."""
    flags = f"{MINATAR} --total-timesteps 100000000 --resume"
    with subprocess.Popen(command("minatar_mexp", flags), cwd=tmp_path, stdout=subprocess.PIPE, text=True) as first:
        try:
            for line in first.stdout:
                if line.startswith("run: "):
                    break
            folder = tmp_path / line.split()[1]
            result = run("minatar_mexp", flags, cwd=tmp_path, check=False)
            assert result.returncode == 2
            (error,) = result.stderr.strip().splitlines()
            assert "another process is at work" in error and folder.name in error
            assert run_folders(tmp_path) == [folder]
        finally:
            first.kill()
    run_here("minatar_mexp", flags, cwd=tmp_path, stop_at=10)
    assert len(run_folders(tmp_path)) == 2


def test_two_runs_of_the_same_second_do_not_meet(tmp_path, monkeypatch):
    """Folders are named by the second: two runs that begin in one, as in a sweep over a flag, get one each."""
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.5)
    for k in ("0", "1"):
        run_here("minatar_mexp", f"{MINATAR} --total-timesteps 60 --mean-scaling-coefficient {k}", cwd=tmp_path)
    assert [folder.name[-10:] for folder in run_folders(tmp_path)] == ["1800000000", "1800000001"]


def test_a_finished_run_on_a_read_only_disk(tmp_path):
    """An archived run: nothing is left to do, and nothing is written."""
    flags = f"{MINATAR} --total-timesteps 60"
    run_here("minatar_mexp", flags, cwd=tmp_path)
    bind = ["mount", "--bind", tmp_path / "runs", tmp_path / "runs"]
    if shutil.which("mount") is None or subprocess.run(bind, capture_output=True).returncode:
        pytest.skip("no read-only mount can be made here; that takes root")
    before = files(tmp_path)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path / "runs"], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "runs" / "new").write_text("")
        result = run_here("minatar_mexp", flags, "--resume", cwd=tmp_path)
    finally:
        subprocess.run(["umount", "-l", tmp_path / "runs"], check=True)
    assert "has finished, nothing is left to do" in result.stdout and result.stderr == ""
    assert files(tmp_path) == before


def test_every_start_is_recorded(tmp_path):
    """With its step, in config.json; what differs from the start before is said."""
    flags = f"{MINATAR} --checkpoint-frequency 100 --total-timesteps 300"
    run_here("minatar_mexp", flags, cwd=tmp_path, stop_at=210)
    (folder,) = run_folders(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (start,) = config["starts"]
    assert start["step"] == 0
    start["device"] = "NVIDIA H100"
    start["git_commit"] = "0" * 40
    start["packages"]["torch"] = "1.0"
    (folder / "config.json").write_text(json.dumps(config))
    lines = run_here("minatar_mexp", flags, "--resume", cwd=tmp_path).stdout.splitlines()
    config = json.loads((folder / "config.json").read_text())
    first, second = config["starts"]
    assert first == start and second["step"] == 200 and second["packages"]["torch"] == torch.__version__
    assert set(second) == {"step", "git_commit", "packages", "num_actions", "device"}
    changes = [line for line in lines if " is now " in line]
    assert [line.split()[1] for line in changes] == ["git_commit", "packages", "device"]
    assert f"device is now {second['device']}, was NVIDIA H100" in changes[2]
    assert config["finished"] is True


# EVALUATING


@pytest.mark.parametrize(
    "name", ["dqn_atari_mexp", "iqn_atari_mexp", pytest.param("related/isdqn_atari", marks=pytest.mark.slow)]
)
def test_evaluating_does_not_change_the_training(name, tmp_path):
    """Whether, when and with how many emulators a run is evaluated: the weights are the same."""
    flags = f"{ATARI_FLAGS} --total-timesteps 310"
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


@pytest.mark.slow
@pytest.mark.parametrize("name,num_envs,total", [("dqn_atari", 3, 1800), ("iqn_atari_mexp", 1, 1050)])
def test_killed_at_three_random_moments(name, num_envs, total, tmp_path):
    flags = f"{ATARI_FLAGS} --total-timesteps {total} --num-envs {num_envs} --train-frequency 4"
    if name in IQN:
        flags += f" {FEW_QUANTILES}"
    killed_and_resumed(name, flags, tmp_path)
