"""A user's mistakes: one line that names the flag and what would work, exit code 2, nothing written."""

import fcntl
import importlib.util
import json
import os
import resource
from unittest import mock

import pytest
import torch
from conftest import GAMES_OF, RELATED, TINY, TRAINED, accepted, load, make_network, run, run_folders
from test_resume import fork, run_here


def files(cwd):
    return {path: path.read_bytes() for path in cwd.rglob("*") if path.is_file()}


def refused(name, *flags, cwd, runner=run_here, **kwargs):
    """Run a script that must refuse, in this process unless told otherwise; returns its one line of error."""
    before = files(cwd)
    if runner is run_here:
        kwargs["stop_at"] = 1  # what is accepted does not run on
    result = runner(name, *flags, cwd=cwd, check=False, **kwargs)
    assert result.returncode == 2, (result.returncode, result.stdout, result.stderr[-2000:])
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: --"), result.stderr
    assert before == files(cwd), "something was written"
    return lines[0]


@pytest.mark.parametrize(
    "flags,words",
    [
        ("--env-id ALE/Breakot-v5", ["--env-id", "ALE/Breakout-v5"]),
        ("--env-id CartPole-v1", ["--env-id", "ALE/"]),
        ("--env-id ALE/NoSuchRom-v5", ["--env-id", "ALE/"]),
        ("--mean-scaling-coefficient -1", ["--mean-scaling-coefficient", "at least 0"]),
        ("--mean-scaling-coefficient nan", ["--mean-scaling-coefficient", "at least 0"]),
        ("--learning-starts 7", ["--learning-starts 7", "at least 8"]),
        ("--learning-starts 500", ["--learning-starts 500", "at most 400"]),
        ("--buffer-size 0", ["--buffer-size 0", "at least"]),
        ("--buffer-size -5", ["--buffer-size -5", "at least"]),
        ("--num-envs 0", ["--num-envs 0", "at least 1"]),
        ("--num-envs 64", ["--buffer-size 400", "at least 512"]),
        ("--batch-size 0", ["--batch-size 0", "at least 1"]),
        ("--batch-size 401", ["--batch-size 401", "at most 400"]),
        ("--total-timesteps -1", ["--total-timesteps -1", "at least 1"]),
        ("--train-frequency 0", ["--train-frequency 0", "at least 1"]),
        ("--target-network-frequency 0", ["--target-network-frequency 0", "at least 1"]),
        ("--exploration-steps 0", ["--exploration-steps 0", "at least 1"]),
        ("--eval-frequency -1", ["--eval-frequency -1", "at least 0"]),
        ("--eval-steps 0", ["--eval-steps 0", "at least 1"]),
        ("--eval-envs 0", ["--eval-envs 0", "at least 1"]),
        ("--eval-epsilon 1.1", ["--eval-epsilon 1.1", "at least 0", "at most 1"]),
        ("--checkpoint-frequency -1", ["--checkpoint-frequency -1", "at least 0"]),
        ("--seed -1", ["--seed -1", "at least 0"]),
        ("--gamma 1.5", ["--gamma 1.5", "at most 1"]),
        ("--start-e 1.5", ["--start-e 1.5", "at most 1"]),
        ("--end-e -0.1", ["--end-e -0.1", "at least 0"]),
        ("--learning-rate 0", ["--learning-rate 0", "at least"]),
        ("--learning-rate nan", ["--learning-rate nan", "at least"]),
        ("--adam-eps 0", ["--adam-eps 0", "at least"]),
        ("--buffer-size 100000000", ["--buffer-size 100000000", "bytes", "try --buffer-size"]),
        ("--eval-only nothing.pt", ["--eval-only", "nothing.pt"]),
        ("--eval-only=", ["--eval-only"]),  # as "$MODEL" gives it when the variable is not set
    ],
)
def test_flags(flags, words, tmp_path):
    line = refused("dqn_atari_mexp", TINY, flags, cwd=tmp_path)
    assert all(word in line for word in words), line


@pytest.mark.parametrize("flags", ["--num-tau-samples 0", "--num-tau-prime-samples 0", "--num-quantile-samples 0"])
def test_flags_of_iqn(flags, tmp_path):
    assert f"{flags} must be at least 1" in refused("iqn_atari_mexp", TINY, flags, cwd=tmp_path)


@pytest.mark.parametrize("name", TRAINED)
def test_every_script_refuses(name, tmp_path):
    """As a user meets it: in a process of its own, in which no library writes anything beside the line either. Related
    scripts import what their bases do; they are tried in this process."""
    env_id, close = {
        "Atari": ("ALE/Pang-v5", "ALE/Pong-v5"),
        "MinAtar": ("MinAtar/Breakot-v1", "MinAtar/Breakout-v1"),
        "Gym": ("LunarLander-v2", "LunarLander-v3"),
    }[GAMES_OF[name]]
    assert close in refused(
        name, accepted(name, f"{TINY} --env-id {env_id}"), cwd=tmp_path, runner=run_here if name in RELATED else run
    )


def test_unknown_flag_and_value(tmp_path):
    for flags in ("--no-such-flag 1", "--seed one", "--buffer-device tpu", "--mean-scaling-coefficient many"):
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


def test_too_little_memory(tmp_path):
    """Under a limit on the process's address space, as a batch system sets it."""
    limit = 12 * 2**30

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    flags = "--buffer-size 2000000 --learning-starts 100"
    line = refused("dqn_atari", flags, cwd=tmp_path, runner=run, preexec_fn=limited)
    assert "--buffer-size 2000000 needs 14,112," in line and "--buffer-device" not in line
    assert int(line.split("try --buffer-size ")[1]) < 2_000_000, "less than what has just failed"


def test_unwritable_run_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    line = refused("dqn_atari", TINY, "--runs-dir file", cwd=tmp_path)
    assert "--runs-dir file" in line and "Not a directory" in line
    assert "--runs-dir /proc" in refused("dqn_atari", TINY, "--runs-dir /proc/none", cwd=tmp_path)


def test_model_of_another_architecture(tmp_path):
    network = make_network(load("dqn_atari"), 18)
    torch.save(network.state_dict(), tmp_path / "full.pt")
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "linear.pt")
    (tmp_path / "text.pt").write_text("no model")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "full.pt").read_bytes()[:100_000])
    for flags in ("full.pt --no-full-action-space", "linear.pt", "text.pt", "cut.pt"):
        line = refused("dqn_atari", "--eval-steps 1 --eval-only", flags, cwd=tmp_path)
        assert "--eval-only" in line and flags.split()[0] in line


def test_model_with_another_k(tmp_path):
    """The layer has no parameters, so the file alone does not tell; the run's config does."""
    flags = "--total-timesteps 8 --save-model --env-id ALE/Pong-v5 --eval-steps 1 --eval-envs 1"
    run_here("dqn_atari_mexp", TINY, flags, "--mean-scaling-coefficient 3", cwd=tmp_path)
    (folder,) = run_folders(tmp_path)
    for name, flag in (("dqn_atari", ""), ("dqn_atari_mexp", ""), ("dqn_atari_mexp", "--mean-scaling-coefficient 2")):
        assert "k = 3" in refused(name, flags, flag, f"--eval-only {folder}/model.pt", cwd=tmp_path)
    assert "k = 0" in refused("dqn_atari_mexp", flags, f"--eval-only {folder}/model_folded.pt", cwd=tmp_path)
    line = refused("dqn_atari_mexp", f"--eval-only {folder}/model.pt --mean-scaling-coefficient 3", cwd=tmp_path)
    assert "trained with --env-id ALE/Pong-v5; add that" in line, "all games have the same architecture"
    k = "--mean-scaling-coefficient 3"
    line = refused("dqn_atari_mexp", flags, k, f"--gamma 0.9 --eval-only {folder}/model.pt", cwd=tmp_path)
    assert "trained with --gamma 0.99; add that" in line, "the evaluation's discounted return has it"


def test_model_without_its_config(tmp_path):
    """Nothing tells then whether k fits; that is said."""
    torch.manual_seed(0)
    torch.save(make_network(load("dqn_atari_mexp"), 18).state_dict(), tmp_path / "alone.pt")
    flags = "--env-id ALE/Pong-v5 --eval-steps 1 --eval-envs 1 --eval-epsilon 1 --eval-only alone.pt"
    lines = run_here("dqn_atari_mexp", flags, cwd=tmp_path).stdout.splitlines()
    assert lines[1].startswith("warning: no config.json beside alone.pt") and lines[2].startswith("step 0: episodes 1")


# CHECKPOINTS


def checkpointed_run(tmp_path, name="dqn_atari_mexp", flags=f"{TINY} --env-id ALE/Pong-v5"):
    """A run that was stopped after its first checkpoint, at step 100; returns its flags and folder."""
    flags = f"{flags} --checkpoint-frequency 100 --total-timesteps 100000000"
    run_here(name, flags, cwd=tmp_path, stop_at=101)
    (folder,) = run_folders(tmp_path)
    return flags, folder


def put(path, content):
    """Another file in its place: the one that is there may still be mapped into this process, which a change kills."""
    new = path.with_name("new")
    if isinstance(content, bytes):
        new.write_bytes(content)
    else:
        torch.save(content, new)
    new.replace(path)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped after a checkpoint: its folder of runs, its flags, and the checkpoint's bytes."""
    cwd = tmp_path_factory.mktemp("stopped")
    flags, folder = checkpointed_run(cwd)
    return cwd, flags, folder, (folder / "checkpoint.pt").read_bytes()


def test_resuming_with_other_flags(stopped):
    cwd, flags, _, _ = stopped
    line = refused("dqn_atari_mexp", flags, "--resume --learning-rate 0.5 --gamma 0.9", cwd=cwd)
    assert "--learning-rate 6.25e-05" in line and "--gamma 0.99" in line and "--batch-size" not in line
    line = refused("dqn_atari_mexp", flags, "--resume --mean-scaling-coefficient 3", cwd=cwd)
    assert "--mean-scaling-coefficient 18.0" in line
    line = refused("dqn_atari_mexp", flags, "--resume --no-torch-deterministic --terminal-on-life-loss", cwd=cwd)
    assert "--torch-deterministic" in line and "--no-terminal-on-life-loss" in line


def test_resuming_a_finished_run_with_other_flags(tmp_path):
    """Else a second run with another gamma would be taken for done."""
    flags = f"{TINY} --total-timesteps 8"
    run_here("dqn_atari", flags, cwd=tmp_path)
    assert "--gamma 0.99" in refused("dqn_atari", flags, "--resume --gamma 0.9", cwd=tmp_path)
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
    weights = checkpoint["stateful"]["q_network"]
    weights["output.weight"] = torch.zeros(20, 512)


def another_ring(checkpoint):
    buffer = checkpoint["stateful"]["buffer"]
    buffer["frames"] = torch.zeros(500, 84, 84, dtype=torch.uint8)


def fewer_moments(checkpoint):
    del checkpoint["stateful"]["optimizer"]["param_groups"][0]["params"][-1]


def no_history(checkpoint):
    del checkpoint["stateful"]["buffer"]["history"]


def no_optimizer(checkpoint):
    del checkpoint["stateful"]["optimizer"]


def nothing_stateful(checkpoint):
    del checkpoint["stateful"]


def no_generator(checkpoint):
    del checkpoint["rng"]


def no_log_sizes(checkpoint):
    del checkpoint["log_sizes"]


def no_counters(checkpoint):
    del checkpoint["counters"]


def no_args(checkpoint):
    del checkpoint["args"]


@pytest.mark.parametrize(
    "change",
    [
        widened,
        another_ring,
        fewer_moments,
        no_history,
        no_optimizer,
        nothing_stateful,
        no_generator,
        no_log_sizes,
        no_counters,
        no_args,
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
    assert "checkpoint.pt is of another version of this script" in line
    assert "start a new run without --resume" in line


def test_logs_that_are_shorter_than_at_the_checkpoint(stopped):
    """They would be filled up with zeros."""
    cwd, flags, folder, _ = stopped
    log = next(path for path in folder.glob("events.*") if path.stat().st_size)
    whole = log.read_bytes()
    try:
        log.write_bytes(whole[:-1000])
        assert f"{log.name} is shorter than it was" in refused("dqn_atari_mexp", flags, "--resume", cwd=cwd)
        log.unlink()
        assert f"{log.name} is shorter than it was" in refused("dqn_atari_mexp", flags, "--resume", cwd=cwd)
    finally:
        log.write_bytes(whole)


def test_a_run_that_another_process_is_at_work_on(stopped):
    """As after a requeue where the first process did not end."""
    cwd, flags, folder, _ = stopped
    with open(folder / "config.json") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        line = refused("dqn_atari_mexp", flags, "--resume", cwd=cwd)
    assert "another process is at work" in line and folder.name in line


@pytest.mark.parametrize("content", ["", '{"args": {"seed"', "{}", "[]", "null"])
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


@pytest.mark.parametrize("changes", [(OWN_FLAGS,), (OWN_FLAGS, LATE_ANNOTATIONS)])
def test_flags_of_a_fork(changes, tmp_path):
    """`check_args` leaves flags alone that it does not know, and still refuses what it did."""
    name = fork(tmp_path / "fork.py", *changes)
    for flags in ("--gamma 1.5", "--num-envs 0", "--learning-starts 7"):
        assert f"{flags} must be at least" in refused(name, TINY, flags, "--no-cuda", cwd=tmp_path)
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
    assert "ran with --n-step 1; repeat that" in refused(forked, flags, "--n-step 3", cwd=tmp_path)
    assert "goes on from step" in run_here(forked, flags, cwd=tmp_path, stop_at=101).stdout
    config = json.loads((folder / "config.json").read_text())
    put(folder / "config.json", json.dumps(config | {"finished": True}).encode())
    assert "ran with --n-step 1; repeat that" in refused(forked, flags, "--n-step 3", cwd=tmp_path)
