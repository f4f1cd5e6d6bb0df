"""`benchmark.sh`: its lists of runs, and tiny real suites that are repeated, hurt and interrupted."""

import collections
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tyro
from conftest import ROOT, load, run_folders

TINY = "--batch-size 8 --learning-starts 64 --buffer-size 400 --eval-envs 2 --eval-episodes 2 --no-cuda"
# The environment that the tests run in is the active one, as after `source .venv/bin/activate`
ENV = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def benchmark(*flags, cwd, check=0):
    command = ["bash", str(ROOT / "benchmark.sh"), *" ".join(flags).split()]
    result = subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True, timeout=280)
    assert result.returncode == check, (result.returncode, result.stdout[-2000:], result.stderr[-2000:])
    return result


def parse(line):
    """A printed command: its environment, its script and the script's own parser's result."""
    words = shlex.split(line)
    variables = {}
    while "=" in words[0]:
        name, value = words.pop(0).split("=", 1)
        variables[name] = value
    script = load(Path(words[1]).stem)
    return variables, script.__name__, tyro.cli(script.Args, args=words[2:])


@pytest.mark.parametrize(
    "suite,runs,games,agents,seeds,steps",
    [("quick", 8, 2, 2, 2, 200_000), ("minatar", 50, 5, 2, 5, 5_000_000), ("atari5", 100, 5, 4, 5, 50_000_000)]
    + [("atari57", 1140, 57, 4, 5, 50_000_000)],
)
def test_dry_run(suite, runs, games, agents, seeds, steps, tmp_path):
    lines = benchmark(suite, "--dry-run", cwd=tmp_path).stdout.splitlines()
    assert len(lines) == len(set(lines)) == runs == games * agents * seeds and not list(tmp_path.iterdir())
    parsed = [parse(line) for line in lines]
    keys = {(args.env_id, args.exp_name, args.seed) for _, _, args in parsed}
    assert len(keys) == runs
    assert [len({key[i] for key in keys}) for i in range(3)] == [games, agents, seeds]
    for variables, script, args in parsed:
        assert variables == {"OMP_NUM_THREADS": "1"} and args.resume and args.total_timesteps == steps
        assert args.runs_dir == str(tmp_path / "benchmark" / suite / "runs")
        expected = {"minatar_dqn": "minatar_mexp", "minatar_mexp": "minatar_mexp"}
        expected |= {"dqn": "dqn_atari", "dqn_mexp": "dqn_atari_mexp", "iqn": "iqn_atari", "iqn_mexp": "iqn_atari_mexp"}
        assert script == expected[args.exp_name]
        if script.endswith("_mexp"):
            assert args.mean_scaling_coefficient == (0 if args.exp_name == "minatar_dqn" else None)
    if suite == "atari57":
        assert {env_id for env_id, _, _ in keys} == set(load("report").HUMAN)
    elif suite == "atari5":
        names = {"BattleZone", "DoubleDunk", "NameThisGame", "Phoenix", "Qbert"}
        assert {env_id for env_id, _, _ in keys} == {f"ALE/{name}-v5" for name in names}
    else:
        for env_id, _, _ in keys:
            assert load("minatar_mexp").MinAtarEnvs(env_id, 1).env_id == env_id


def test_options(tmp_path):
    flags = (
        "--agents iqn_mexp,dqn --seeds 7,9 --steps 1000 --gpus 0,3,5 --out here --dry-run -- --num-envs 16 --gamma .9"
    )
    parsed = [parse(line) for line in benchmark("atari5", flags, cwd=tmp_path).stdout.splitlines()]
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables, _, _ in parsed] == (["0", "3", "5"] * 7)[:20]
    assert collections.Counter(args.seed for _, _, args in parsed) == {7: 10, 9: 10}
    assert {args.exp_name for _, _, args in parsed} == {"iqn_mexp", "dqn"}
    for _, _, args in parsed:
        assert (args.num_envs, args.gamma, args.total_timesteps) == (16, 0.9, 1000)
        assert args.runs_dir == str(tmp_path / "here" / "runs")


@pytest.mark.parametrize(
    "flags,words",
    [
        ("nope", "SUITE 'nope' must be quick, minatar, atari5 or atari57"),
        ("", "SUITE"),
        ("quick --agents dqn", "minatar_dqn and minatar_mexp"),
        ("atari5 --agents dqn,minatar_dqn", "dqn, dqn_mexp, iqn and iqn_mexp"),
        ("quick --steps 0", "--steps '0'"),
        ("quick --steps many", "--steps 'many'"),
        ("quick --seeds 0", "--seeds '0'"),
        ("quick --seeds 1,b", "--seeds '1,b'"),
        ("quick --workers 0", "--workers '0'"),
        ("quick --gpus a", "--gpus 'a'"),
        ("quick --steps", "--steps needs a value"),
        ("quick --colour red", "unknown option '--colour'"),
        ("quick --out /proc/none --steps 10", "--out /proc/none"),
    ],
)
def test_bad_options(flags, words, tmp_path):
    result = benchmark(flags, cwd=tmp_path, check=2)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert words in line and not list(tmp_path.iterdir())


def test_without_slurm(tmp_path):
    """Where there is no sbatch, one line says so."""
    (tmp_path / "bin").mkdir()
    tools = "bash dirname nproc seq mkdir rm cksum cut cat flock".split()
    for tool in tools:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    path = f"{Path(sys.executable).parent}{os.pathsep}{tmp_path}/bin"
    command = ["bash", str(ROOT / "benchmark.sh"), "quick", "--out", "out", "--slurm", "--mem=1G"]
    result = subprocess.run(command, cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, "error: --slurm needs Slurm's sbatch, which was not found\n")


def logs(out):
    return {path.stem: path.read_text() for path in (out / "logs").glob("*.log")}


def test_repeated_with_one_run_that_fails(tmp_path):
    """One run's checkpoint is damaged: the others finish, it is tried twice and named. Mended, only it is run."""
    broken = tmp_path / "out" / "runs" / "MinAtar" / "Asterix-v1__minatar_dqn__1__1700000000"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text('{"finished": false}')
    (broken / "checkpoint.pt").write_bytes(b"no checkpoint")
    flags = f"quick --out out --seeds 1 --steps 300 --workers 2 -- {TINY} --eval-frequency 100"
    result = benchmark(flags, cwd=tmp_path, check=1)
    log = tmp_path / "out" / "logs" / "Asterix-minatar_dqn-1.log"
    assert f"failed twice: Asterix-minatar_dqn-1, log {log}" in result.stderr
    assert "3 of 4 runs done, 0 running, 1 failed" in result.stdout
    assert log.read_text().count("checkpoint.pt is damaged") == 2 and "attempt 2" in log.read_text()
    assert all("attempt 2" not in text for name, text in logs(tmp_path / "out").items() if name != log.stem)
    report = (tmp_path / "out" / "report" / "README.md").read_text()
    assert "3 runs of DQN, IB-DQN on 2 game(s)" in report and broken.name in report

    (broken / "checkpoint.pt").unlink()
    before = {folder: (folder / "eval.csv").stat().st_mtime_ns for folder in run_folders(tmp_path) if folder != broken}
    result = benchmark(flags, cwd=tmp_path)
    assert "4 of 4 runs done, 0 running, 0 failed" in result.stdout and "failed twice" not in result.stderr
    assert before == {folder: (folder / "eval.csv").stat().st_mtime_ns for folder in before}, (
        "finished runs are skipped"
    )
    assert len(run_folders(tmp_path)) == 5
    skipped = [name for name, text in logs(tmp_path / "out").items() if "has finished, nothing is left" in text]
    assert len(skipped) == 3 and log.stem not in skipped
    assert "4 runs of DQN" in (tmp_path / "out" / "report" / "README.md").read_text()


def test_killed_run_goes_on_and_ctrl_c_stops_all(tmp_path):
    flags = f"quick --out out --seeds 1 --workers 2 --steps 9000 -- {TINY} --eval-frequency 3000"
    flags += " --checkpoint-frequency 1000"
    command = ["bash", str(ROOT / "benchmark.sh"), *flags.split()]

    def children():
        mine = str(tmp_path / "out")
        return [p for p in psutil.process_iter(["cmdline"]) if mine in " ".join(p.info["cmdline"] or [])]

    def scripts():
        return [p for p in children() if "minatar_mexp.py" in p.info["cmdline"][1]]

    def wait(condition):
        for _ in range(6000):
            if condition():
                return
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        raise AssertionError("waited for a minute")

    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=ENV,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait(lambda: list(tmp_path.rglob("checkpoint.pt")) and scripts())
    victim = (
        run_folders(tmp_path)[0] if (run_folders(tmp_path)[0] / "checkpoint.pt").exists() else run_folders(tmp_path)[1]
    )
    agent = victim.name.split("__")[1]
    (script,) = [p for p in scripts() if agent in p.info["cmdline"]]
    script.kill()  # as the kernel does when memory runs out: the second attempt goes on from the checkpoint
    log = tmp_path / "out" / "logs" / f"Asterix-{agent}-1.log"
    wait(lambda: re.search("goes on from step [1-9]", log.read_text()))
    wait(lambda: len(scripts()) == 2)
    assert "is at work there" in benchmark(flags, cwd=tmp_path, check=2).stderr, "not twice at a time"
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130 and "the same command goes on" in stderr
    assert not children(), "a child survived"
    unfinished = [
        folder for folder in run_folders(tmp_path) if '"finished": false' in (folder / "config.json").read_text()
    ]
    assert unfinished

    result = benchmark(flags, cwd=tmp_path)
    assert "4 of 4 runs done, 0 running, 0 failed" in result.stdout
    assert "4 runs of DQN, IB-DQN on 2 game(s)" in (tmp_path / "out" / "report" / "README.md").read_text()
    assert len(run_folders(tmp_path)) <= 4 + len(unfinished), "a run without a checkpoint starts anew, no other"
    assert all((folder / "eval.csv").exists() for folder in run_folders(tmp_path)[-2:])


def test_no_ctrl_c_is_lost(tmp_path):
    """Suites whose runs only sleep, each interrupted at another moment after their start, where the progress is shown:
    bash may swallow an interrupt that comes while it waits for a command in the foreground."""
    (tmp_path / "bin").mkdir()
    sleeper = tmp_path / "bin" / "python"
    sleeper.write_text('#!/bin/bash\n[ "$1" = - ] && exit 0 # all that is required is there\nexec sleep 60\n')
    sleeper.chmod(0o755)
    env = ENV | {"PATH": f"{tmp_path}/bin{os.pathsep}{ENV['PATH']}"}
    for i in range(6):
        out = tmp_path / f"out{i}"
        command = ["bash", str(ROOT / "benchmark.sh"), "quick", "--out", str(out), "--workers", "2"]
        pipes = dict(start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        suite = subprocess.Popen(command, env=env, **pipes)
        while len(list(out.glob("running/*"))) < 1 + i % 2:  # the trap is set by then
            assert suite.poll() is None, suite.stderr.read()
            time.sleep(0.001)
        time.sleep(0.005 * i)
        os.killpg(suite.pid, signal.SIGINT)
        try:
            suite.communicate(timeout=10)
        finally:
            suite.terminate()
        assert suite.returncode == 130, f"interrupt {i}"
        assert not [p for p in psutil.process_iter(["cmdline"]) if f"{out}/" in " ".join(p.info["cmdline"] or [])]
