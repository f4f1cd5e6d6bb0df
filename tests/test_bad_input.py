"""A user's mistakes: one line that names the flag and what would work, exit code 2, nothing written."""

import os
import signal
import subprocess
import time

import pytest
import torch
from conftest import SCRIPTS, TINY, command, load, make_network, run, run_folders


def refused(name, *flags, cwd, **kwargs):
    """Run a script that must refuse; returns its one line of error."""
    before = {path: path.read_bytes() for path in cwd.rglob("*") if path.is_file()}
    result = run(name, *flags, cwd=cwd, check=False, **kwargs)
    assert result.returncode == 2, (result.returncode, result.stdout, result.stderr[-2000:])
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: --"), result.stderr
    assert before == {path: path.read_bytes() for path in cwd.rglob("*") if path.is_file()}, "something was written"
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
        ("--total-timesteps -1", ["--total-timesteps -1", "at least 1"]),
        ("--train-frequency 0", ["--train-frequency 0", "at least 1"]),
        ("--target-network-frequency 0", ["--target-network-frequency 0", "at least 1"]),
        ("--exploration-steps 0", ["--exploration-steps 0", "at least 1"]),
        ("--eval-frequency -1", ["--eval-frequency -1", "at least 0"]),
        ("--eval-steps 0", ["--eval-steps 0", "at least 1"]),
        ("--eval-envs 0", ["--eval-envs 0", "at least 1"]),
        ("--checkpoint-frequency -1", ["--checkpoint-frequency -1", "at least 0"]),
        ("--seed -1", ["--seed -1", "at least 0"]),
        ("--gamma 1.5", ["--gamma 1.5", "at most 1"]),
        ("--end-e -0.1", ["--end-e -0.1", "at least 0"]),
        ("--learning-rate 0", ["--learning-rate 0", "at least"]),
        ("--learning-rate nan", ["--learning-rate nan", "at least"]),
        ("--buffer-size 100000000", ["--buffer-size 100000000", "bytes", "try --buffer-size"]),
        ("--track", ["--track", "pip install wandb"]),
        ("--eval-only nothing.pt", ["--eval-only", "nothing.pt"]),
    ],
)
def test_flags(flags, words, tmp_path):
    if flags == "--track" and load_wandb():
        pytest.skip("wandb is installed here, so --track is no mistake")
    line = refused("dqn_atari_mexp", TINY, flags, cwd=tmp_path)
    assert all(word in line for word in words), line


def load_wandb():
    import importlib.util

    return importlib.util.find_spec("wandb") is not None


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_baseline_refuses_too(name, tmp_path):
    assert "ALE/Pong-v5" in refused(name, TINY, "--env-id ALE/Pang-v5", cwd=tmp_path)


def test_unknown_flag_and_value(tmp_path):
    for flags in ("--no-such-flag 1", "--seed one", "--buffer-device tpu", "--mean-scaling-coefficient many"):
        result = run("dqn_atari_mexp", flags, cwd=tmp_path, check=False)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert flags.split()[0] in result.stderr + result.stdout
    assert (
        "mean-scaling-coefficient" in run("dqn_atari", "--mean-scaling-coefficient 2", cwd=tmp_path, check=False).stderr
    )


def test_too_little_memory(tmp_path):
    """Under a limit on the process's address space, as a batch system sets it."""
    import resource

    limit = 12 * 2**30

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    line = refused("dqn_atari", "--buffer-size 2000000 --learning-starts 100", cwd=tmp_path, preexec_fn=limited)
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
    run("dqn_atari_mexp", TINY, flags, "--mean-scaling-coefficient 3", cwd=tmp_path)
    (folder,) = run_folders(tmp_path)
    for name, flag in (("dqn_atari", ""), ("dqn_atari_mexp", ""), ("dqn_atari_mexp", "--mean-scaling-coefficient 2")):
        assert "k = 3" in refused(name, flags, flag, f"--eval-only {folder}/model.pt", cwd=tmp_path)
    assert "k = 0" in refused("dqn_atari_mexp", flags, f"--eval-only {folder}/model_folded.pt", cwd=tmp_path)


def checkpointed_run(tmp_path, name="dqn_atari_mexp", flags=f"{TINY} --env-id ALE/Pong-v5"):
    """A run that was killed after its first checkpoint; returns its flags and folder."""
    flags = f"{flags} --checkpoint-frequency 100 --total-timesteps 100000000"
    process = subprocess.Popen(command(name, flags), cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        while not list(tmp_path.rglob("checkpoint.pt")) and process.poll() is None:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (folder,) = run_folders(tmp_path)
    return flags, folder


def test_checkpoints_that_do_not_fit(tmp_path):
    flags, folder = checkpointed_run(tmp_path)
    line = refused("dqn_atari_mexp", flags, "--resume --learning-rate 0.5 --gamma 0.9", cwd=tmp_path)
    assert "--learning-rate 6.25e-05" in line and "--gamma 0.99" in line and "--batch-size" not in line
    line = refused("dqn_atari_mexp", flags, "--resume --mean-scaling-coefficient 3", cwd=tmp_path)
    assert "--mean-scaling-coefficient 18.0" in line

    content = (folder / "checkpoint.pt").read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (content[: len(content) // 2], content[:-1], b"", bytes(flipped)):
        (folder / "checkpoint.pt").write_bytes(damaged)
        line = refused("dqn_atari_mexp", flags, "--resume", cwd=tmp_path)
        assert "--resume" in line and "checkpoint.pt is damaged" in line
    assert os.listdir(folder.parent) == [folder.name]
