"""A user's mistakes: one line that names the flag and what would work, exit code 2, nothing written."""

import importlib.util
import json
import os
import resource
from pathlib import Path
from unittest import mock

import pytest
import torch
from helpers import (
    GAMES_OF,
    TINY,
    TRAINED,
    accepted,
    checkpointed_run,
    fork,
    put,
    refused,
    run,
    run_folders,
    run_here,
)


@pytest.mark.parametrize(
    "flags,words",
    [
        ("--env-id ALE/Breakot-v5", ["--env-id ALE/Breakot-v5", "Breakout"]),
        ("--env-id CartPole-v1", ["--env-id CartPole-v1", "ALE"]),
        ("--env-id=", ["--env-id"]),  # as "$GAME" gives it when the variable is not set
        ("--mean-scaling-coefficient -1", ["--mean-scaling-coefficient -1", "at least 0"]),
        ("--mean-scaling-coefficient nan", ["--mean-scaling-coefficient nan", "at least 0"]),
        ("--learning-starts 0", ["--learning-starts 0", "at least 1"]),
        ("--buffer-size -5", ["--buffer-size -5", "at least 8"]),
        ("--num-envs 0", ["--num-envs 0", "at least 1"]),
        ("--num-envs 64", ["--buffer-size 400", "at least 512"]),
        ("--batch-size 0", ["--batch-size 0", "at least 1"]),
        ("--total-timesteps -1", ["--total-timesteps -1", "at least 1"]),
        ("--eval-epsilon 1.1", ["--eval-epsilon 1.1", "from 0 to 1"]),
        ("--seed -1", ["--seed -1", "at least 0"]),
        ("--gamma 1.5", ["--gamma 1.5", "from 0 to 1"]),
        ("--learning-rate nan", ["--learning-rate nan", "at least 0"]),
        ("--learning-rate inf", ["--learning-rate inf", "finite"]),
        ("--buffer-size 100000000", ["--buffer-size 100000000 needs 705,6", "bytes", "free; try "]),
    ],
)
def test_flags(flags, words, tmp_path):
    line = refused("dqn_atari_mexp", TINY, flags, cwd=tmp_path)
    assert all(word in line for word in words), line


@pytest.mark.parametrize("flags", ["--num-tau-samples 0", "--num-tau-prime-samples 0", "--num-quantile-samples 0"])
def test_flags_of_iqn(flags, tmp_path):
    assert f"{flags} must be a finite number, at least 1" in refused("iqn_atari_mexp", TINY, flags, cwd=tmp_path)


def test_what_people_try_when_they_debug_works(tmp_path):
    """No learning, all of the buffer never filled, a batch larger than it."""
    flags = "--env-id Pong --learning-rate 0 --adam-eps 0 --batch-size 500 --train-frequency 100 --total-timesteps 800"
    run_here("dqn_atari_mexp", TINY, flags, "--learning-starts 700", cwd=tmp_path)


@pytest.mark.parametrize("name", TRAINED)
def test_every_script_refuses(name, tmp_path):
    """As a user meets it: in a process of its own, in which no library writes anything beside the line either. All
    scripts of the same games import the same, so that one of each is tried so."""
    env_id, close = {
        "Atari": ("ALE/Pang-v5", "Pong"),
        "MinAtar": ("MinAtar/Breakot-v1", "Breakout"),
        "Gym": ("LunarLandr-v3", "LunarLander"),
    }[GAMES_OF[name]]
    runner = run if name in ("dqn_atari", "minatar_mexp", "lunarlander_mexp") else run_here
    line = refused(name, accepted(name, f"{TINY} --env-id {env_id}"), cwd=tmp_path, runner=runner)
    assert line.startswith(f"error: --env-id {env_id}: ") and close in line.split(": ", 2)[2]


def test_unknown_flag_and_value(tmp_path):
    for flags in ("--no-such-flag 1", "--seed one", "--buffer-device tpu", "--mean-scaling-coefficient 3n"):
        result = run_here("dqn_atari_mexp", flags, cwd=tmp_path, check=False, stop_at=1)
        assert result.returncode == 2
        assert flags.split()[0] in result.stderr + result.stdout
    result = run_here("dqn_atari", "--mean-scaling-coefficient 2", cwd=tmp_path, check=False, stop_at=1)
    assert result.returncode == 2 and "mean-scaling-coefficient" in result.stderr


def test_track_without_wandb(tmp_path):
    find_spec = importlib.util.find_spec

    def find_all_but_wandb(name, *args):
        return None if name == "wandb" else find_spec(name, *args)

    with mock.patch.object(importlib.util, "find_spec", find_all_but_wandb):
        line = refused("dqn_atari", TINY, "--track", cwd=tmp_path)
    assert "--track" in line and "pip install wandb" in line


def test_unwritable_run_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    line = refused("dqn_atari", TINY, "--runs-dir file", cwd=tmp_path)
    assert "--runs-dir file" in line and "Not a directory" in line
    assert "--runs-dir /proc" in refused("dqn_atari", TINY, "--runs-dir /proc/none", cwd=tmp_path)


@pytest.mark.parametrize("flags,runner", [("", run), ("--resume", run_here)])
def test_runs_is_a_link_to_nowhere(flags, runner, tmp_path):
    """Such as to a disk that is not mounted."""
    (tmp_path / "runs").symlink_to("/nonexistent/disk")
    assert "--runs-dir runs" in refused("minatar_mexp", flags, cwd=tmp_path, runner=runner)


@pytest.fixture
def small_group():
    """A memory cgroup of 3 GiB, as a Slurm job with --mem or a container has one."""
    groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    for controllers, mount, limit in (
        ("memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("", "/sys/fs/cgroup", "memory.max"),
    ):
        parent = Path(mount + groups.get(controllers, "/"))
        group = parent / f"mean-expansion-test-{os.getpid()}"
        try:
            assert (parent / "cgroup.procs").exists()
            group.mkdir()
        except (AssertionError, OSError):
            continue
        try:
            (group / limit).write_text(str(3 * 2**30))
            yield group
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("no memory cgroup can be made here; that takes root, and a writable /sys/fs/cgroup")


def test_a_replay_beyond_the_limit_of_a_cgroup(small_group, tmp_path):
    """The kernel would kill the process while it fills the memory."""

    def enter():
        (small_group / "cgroup.procs").write_text(str(os.getpid()))

    line = refused("dqn_atari", "--buffer-size 600000", cwd=tmp_path, runner=run, preexec_fn=enter)
    assert "--buffer-size 600000 needs 4,233," in line
    free = int(line.split(" cpu has ")[1].split()[0].replace(",", ""))
    assert 2**30 < free < 3 * 2**30
    assert 0.7 * free < 7056 * int(line.split("; try ")[1]) < 0.9 * free


def test_a_replay_beyond_a_ulimit(tmp_path):
    """Of the process's address space, as a batch system sets it."""

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))

    line = refused("dqn_atari", "--buffer-size 2000000", cwd=tmp_path, runner=run, preexec_fn=limited)
    assert "--buffer-size 2000000 needs 14,112," in line
    assert int(line.split("; try ")[1]) < 1_600_000, "less than what would just fit"


# CHECKPOINTS


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped after a checkpoint: its folder of runs, its flags, and the checkpoint's bytes."""
    cwd = tmp_path_factory.mktemp("stopped")
    flags, folder = checkpointed_run(cwd)
    return cwd, flags, folder, (folder / "checkpoint.pt").read_bytes()


@pytest.mark.parametrize(
    "other,words",
    [
        ("--learning-rate 0.5", "had learning_rate = 6.25e-05, not 0.5"),
        ("--mean-scaling-coefficient 3", "had mean_scaling_coefficient = 18.0, not 3.0"),
        ("--terminal-on-life-loss", "had terminal_on_life_loss = False, not True"),
        ("--checkpoint-frequency 50", "had checkpoint_frequency = 100, not 50"),  # games start anew at each
        ("--save-best", "had save_best = False, not True"),  # the phases before would not count
    ],
)
def test_resuming_with_other_flags(other, words, stopped):
    cwd, flags, folder, _ = stopped
    line = refused("dqn_atari_mexp", flags, "--resume", other, cwd=cwd)
    assert words in line and folder.name in line and "start a new run without --resume" in line


def test_resuming_a_finished_run_with_other_flags(tmp_path):
    """Else a second run with another gamma would be taken for done."""
    flags = f"{TINY} --total-timesteps 8"
    run_here("dqn_atari", flags, cwd=tmp_path)
    assert "had gamma = 0.99, not 0.9" in refused("dqn_atari", flags, "--resume --gamma 0.9", cwd=tmp_path)
    result = run_here("dqn_atari", flags, "--resume --save-model", cwd=tmp_path)
    assert "has finished" in result.stdout, "what changes no result may differ"


def test_damaged_checkpoints(stopped):
    cwd, flags, folder, content = stopped
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    try:
        for damaged in (content[: len(content) // 2], content[:-1], b"", bytes(flipped)):
            put(folder / "checkpoint.pt", damaged)
            line = refused("dqn_atari_mexp", flags, "--resume", cwd=cwd)
            assert "--resume" in line and "checkpoint.pt is damaged" in line
    finally:
        put(folder / "checkpoint.pt", content)
    assert os.listdir(folder.parent) == [folder.name]


def widened(checkpoint):
    checkpoint["components"]["q_network"]["output.weight"] = torch.zeros(20, 512)


def another_ring(checkpoint):
    checkpoint["components"]["buffer"]["frames"] = torch.zeros(500, 84, 84, dtype=torch.uint8)


def fewer_moments(checkpoint):
    del checkpoint["components"]["optimizer"]["param_groups"][0]["params"][-1]


def no_history(checkpoint):
    del checkpoint["components"]["buffer"]["history"]


def no_optimizer(checkpoint):
    del checkpoint["components"]["optimizer"]


def of_before_november_2026(checkpoint):
    checkpoint["stateful"] = checkpoint.pop("components")


def no_generator(checkpoint):
    del checkpoint["rng"]


def no_counters(checkpoint):
    del checkpoint["counters"]


@pytest.mark.parametrize(
    "change",
    [
        widened,
        another_ring,
        fewer_moments,
        no_history,
        no_optimizer,
        of_before_november_2026,
        no_generator,
        no_counters,
    ],
)
def test_checkpoints_of_another_version(stopped, change):
    """Such as a fork's before a change to its network or its replay."""
    cwd, flags, folder, content = stopped
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    change(checkpoint)
    try:
        put(folder / "checkpoint.pt", checkpoint)
        line = refused("dqn_atari_mexp", flags, "--resume", cwd=cwd)
    finally:
        put(folder / "checkpoint.pt", content)
    assert "checkpoint.pt is damaged or of another script" in line and "start a new run without --resume" in line


@pytest.mark.parametrize("content", ["", '{"args": {"seed"'])
def test_damaged_config(stopped, content):
    cwd, flags, folder, _ = stopped
    whole = (folder / "config.json").read_text()
    try:
        (folder / "config.json").write_text(content)
        line = refused("dqn_atari_mexp", flags, "--resume", cwd=cwd)
    finally:
        (folder / "config.json").write_text(whole)
    assert "--resume" in line and "config.json is damaged" in line


# FORKS


OWN_FLAGS = (
    "    batch_size: int = 32  # transitions of one gradient step (Mnih et al. 2015)\n",
    "    batch_size: int = 32  # transitions of one gradient step (Mnih et al. 2015)\n"
    "    priority_alpha: float = 0.5\n"
    "    weight_decay: float = 0.0\n"
    "    betas: tuple[float, float] = (0.9, 0.999)\n",
)
LATE_ANNOTATIONS = ("\nimport copy\nimport csv\n", "\nfrom __future__ import annotations\n\nimport copy\nimport csv\n")


def test_flags_of_a_fork(tmp_path):
    """`check_args` leaves flags alone that it does not know, and still refuses what it did."""
    name = fork(tmp_path / "fork.py", OWN_FLAGS, LATE_ANNOTATIONS)
    assert "--num-envs 0 must be" in refused(name, TINY, "--num-envs 0 --no-cuda", cwd=tmp_path)
    flags = "--env-id ALE/Pong-v5 --total-timesteps 100 --priority-alpha 0.25 --checkpoint-frequency 60 --no-cuda"
    run_here(name, TINY, flags, cwd=tmp_path, stop_at=61)
    assert "goes on from step 60" in run_here(name, TINY, flags, "--resume", cwd=tmp_path).stdout
    (folder,) = run_folders(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["finished"] is True
    assert config["args"]["priority_alpha"] == 0.25 and config["args"]["weight_decay"] == 0.0


def test_resume_with_a_flag_that_the_run_did_not_have(tmp_path):
    """A fork's new flag has its default in older runs: with another value it is another agent, finished or not."""
    flags, folder = checkpointed_run(tmp_path)
    new = "    gamma: float = 0.99"
    forked = fork(tmp_path / "with_a_flag.py", (new, "    n_step: int = 1\n" + new))
    flags = f"{flags} --exp-name dqn_atari_mexp --resume --no-cuda"
    assert "had n_step = 1, not 3" in refused(forked, flags, "--n-step 3", cwd=tmp_path)
    assert "goes on from step" in run_here(forked, flags, cwd=tmp_path, stop_at=101).stdout
    config = json.loads((folder / "config.json").read_text())
    put(folder / "config.json", json.dumps(config | {"finished": True}).encode())
    assert "had n_step = 1, not 3" in refused(forked, flags, "--n-step 3", cwd=tmp_path)
