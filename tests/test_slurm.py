"""`benchmark.sh --slurm` on a real Slurm: a cluster of one node, started here on the loopback."""

import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from helpers import ROOT, run_folders
from test_benchmark import ENV, TINY

PROGRAMS = {
    name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("munged", "slurmctld", "slurmd")
}
if None in PROGRAMS.values() or not shutil.which("sbatch"):
    pytest.skip("Slurm is not installed here (Debian: apt-get install slurm-wlm munge)", allow_module_level=True)
if os.geteuid():
    pytest.skip("Slurm's daemons need root to start a cluster of their own", allow_module_level=True)


def free_port():
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait(condition, what, seconds=150):
    for _ in range(seconds * 5):
        if result := condition():
            return result
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} seconds for {what}")


@pytest.fixture
def slurm(tmp_path):
    """A cluster of this machine alone; returns a function that runs one of Slurm's commands."""
    host = platform.node().split(".")[0]
    conf, folder = tmp_path / "slurm.conf", tmp_path / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    conf.write_text(
        f"""ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobRequeue=1
MaxArraySize=4
ReturnToService=2
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
    )
    env = ENV | {"SLURM_CONF": str(conf)}

    def slurm(*command, check=0):
        result = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert check in (None, result.returncode), (command, result.stdout, result.stderr)
        return result.stdout + result.stderr

    started_munge = subprocess.run(["munge", "-n"], capture_output=True).returncode != 0
    if started_munge:
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        subprocess.run(["runuser", "-u", "munge", "--", PROGRAMS["munged"]], check=True)
        wait(lambda: subprocess.run(["munge", "-n"], capture_output=True).returncode == 0, "munge", 20)
    daemons = []
    try:
        for name in ("slurmctld", "slurmd"):
            with open(folder / f"{name}.log", "w") as log:
                daemons.append(subprocess.Popen([PROGRAMS[name], "-D"], env=env, stdout=log, stderr=log))
        try:
            wait(lambda: "idle" in slurm("sinfo", "-h", "-o", "%T", check=None), "the node", 60)
        except AssertionError as error:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
            raise AssertionError(f"{error}\n{logs}") from None
        yield slurm
    finally:
        slurm("scancel", "--user=root", check=None)
        time.sleep(1)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
        if started_munge:
            os.kill(int(Path("/run/munge/munged.pid").read_text()), signal.SIGTERM)


def longer_than_an_array(slurm, tmp_path):
    """Six commands, one of them the gridworld's, where an array may have four: two arrays, the second after the first,
    and every command once."""
    flags = "quick --games Asterix,Breakout,Freeway,Seaquest,SpaceInvaders --agents minatar_mexp --seeds 1".split()
    flags += "--steps 200 --workers 2 --out long --slurm --mem=0".split()
    out = slurm("bash", str(ROOT / "benchmark.sh"), *flags, *f"-- {TINY} --eval-frequency 100".split())
    first, second, after = re.search(r"submitted 6 runs as job (\d+) (\d+), .* report as job (\d+)", out).groups()
    waits = [slurm("squeue", "-h", "-j", job, "-o", "%E") for job in (second, after)]
    assert f"afterany:{first}_*" in waits[0] and all(f"afterany:{job}_*" in waits[1] for job in (first, second))
    report_log = tmp_path / "long" / "logs" / "report.log"
    wait(lambda: report_log.exists() and "5 games" in report_log.read_text(), "the long list", 400)
    assert len(list((tmp_path / "long" / "state" / "done").iterdir())) == 6 and len(run_folders(tmp_path / "long")) == 5
    assert len(list((tmp_path / "long" / "tabular").glob("*.png"))) == 2
    slurms = sorted(path.name for path in (tmp_path / "long" / "logs").glob("slurm-*"))
    tasks = [*(f"{first}_{i}" for i in range(4)), f"{second}_0", f"{second}_1"]
    assert slurms == sorted(f"slurm-{task}.log" for task in tasks)


@pytest.mark.slow
def test_killed_and_requeued(slurm, tmp_path):
    """The suite as an array; a task is killed with SIGKILL and requeued, goes on from its checkpoint, and the dependent
    job makes the report of all runs."""
    flags = "minatar --games Asterix,Breakout --seeds 1 --steps 30000 --workers 2 --out out".split()
    extra = f"-- {TINY} --eval-frequency 15000 --checkpoint-frequency 1000".split()
    submit = ["bash", str(ROOT / "benchmark.sh"), *flags, "--slurm"]
    assert "error: sbatch refused the runs" in slurm(*submit, "--no-such-option", *extra, check=2)
    out = slurm(*submit, "--cpus-per-task=1 --mem=0", *extra)
    job, after = re.search(r"submitted 4 runs as job (\d+), 2 at a time, and the report as job (\d+)", out).groups()
    at_work = f"--out {tmp_path}/out: Slurm's job {job} is at work there"
    assert at_work in slurm(*submit, "", *extra, check=2), "not twice at a time"
    for spelled in ("out", "out/", f"../{tmp_path.name}/out"):
        other = f"quick --seeds 1 --steps 100 --out {spelled}".split()
        refused = slurm("bash", str(ROOT / "benchmark.sh"), *other, check=2)
        assert at_work in refused, "nor another suite, on this machine"
    assert "ArrayTaskThrottle=2" in slurm("scontrol", "show", "job", job)

    def checkpointed():
        names = [folder for folder in run_folders(tmp_path) if (folder / "checkpoint.pt").exists()]
        return [folder for folder in names if "Asterix-v1__minatar_dqn" in folder.name]

    (victim,) = wait(checkpointed, "the first task's first checkpoint")
    slurm("scancel", "--signal=KILL", f"{job}_0")
    state = lambda task: re.search(r"JobState=(\w+)", slurm("scontrol", "show", "job", task))[1]  # noqa: E731
    wait(lambda: state(f"{job}_0") in ("CANCELLED", "FAILED"), "the kill")
    assert '"finished": false' in (victim / "config.json").read_text() and (victim / "checkpoint.pt").exists()
    assert state(after) == "PENDING"
    slurm("scontrol", "requeue", f"{job}_0")
    longer_than_an_array(slurm, tmp_path)
    report = tmp_path / "out" / "report" / "README.md"
    wait(report.exists, "the report", 400)  # Slurm lets a requeued job wait for two minutes, until its node is clean
    wait(lambda: "runs, 2 games" in (tmp_path / "out" / "logs" / "report.log").read_text(), "the report's end")
    assert "4 runs of DQN, IB-DQN(n) on 2 game(s)" in report.read_text()
    log = (tmp_path / "out" / "logs" / "Asterix-minatar_dqn-1.log").read_text()
    assert log.count("attempt 1") == 2 and re.search("goes on from step [1-9]", log)
    assert "failed" not in (tmp_path / "out" / "logs" / "report.log").read_text()
    assert '"finished": true' in (victim / "config.json").read_text()
    assert len(run_folders(tmp_path / "out")) == 4, "the requeued task went on in its folder"
    assert [path.name for path in sorted((tmp_path / "out" / "state" / "done").iterdir())] == [
        f"{game}-{agent}-1" for game in ("Asterix", "Breakout") for agent in ("minatar_dqn", "minatar_mexp")
    ]
