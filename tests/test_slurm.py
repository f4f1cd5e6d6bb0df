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


@pytest.mark.slow
def test_killed_requeued_and_out_of_time(slurm, tmp_path):
    """A suite as two arrays and a report. A task is killed with SIGKILL and requeued, and goes on from its checkpoint.
    The same command, submitted meanwhile, waits, and finds nothing left to do. A run beyond its time limit is told."""
    extra = f"-- {TINY} --eval-frequency 15000 --checkpoint-frequency 1000".split()
    suite = ["bash", str(ROOT / "benchmark.sh"), "quick", *"--seeds 2 --steps 30000 --workers 2 --out out".split()]
    assert "error: sbatch refused (see above)" in slurm(*suite, "--slurm", "--no-such-option", *extra, check=2)
    flags = "minatar --games Breakout --agents minatar_mexp --seeds 4, --steps 9000000 --out long --slurm".split()
    slurm("bash", str(ROOT / "benchmark.sh"), *flags, "--time=1 --mem=0", *extra)
    out = slurm(*suite, "--slurm", "--mem=0 '--comment=two words'", *extra)
    first, second, after = re.search(r"submitted 5 runs and then the report as jobs (\d+) (\d+) (\d+);", out).groups()
    details = slurm("scontrol", "show", "job", first)
    assert "ArrayTaskThrottle=2" in details and "Comment=two words" in details
    again = re.search(r"as jobs (\d+)", slurm(*suite, "--slurm", "--mem=0", *extra))[1]
    for job in (second, after, again):
        until = time.monotonic() + 120  # Slurm gives the reason when its scheduler has looked at the job
        while "(None)" in (state := slurm("squeue", "-h", "-j", job, "-o", "%T %R")) and time.monotonic() < until:
            time.sleep(1)
        assert state.startswith("PENDING (Dependency)")

    def checkpointed():
        name = "SpaceInvaders-v1__minatar_dqn__1__*"
        return [path.parent for path in (tmp_path / "out").glob(f"runs/MinAtar/{name}/checkpoint.pt")]

    (victim,) = wait(checkpointed, "the second task's first checkpoint")
    slurm("scancel", "--signal=KILL", f"{first}_1")
    state = lambda task: re.search(r"JobState=(\w+)", slurm("scontrol", "show", "job", task))[1]  # noqa: E731
    wait(lambda: state(f"{first}_1") in ("CANCELLED", "FAILED"), "the kill")
    assert '"finished": false' in (victim / "config.json").read_text() and (victim / "checkpoint.pt").exists()
    slurm("scontrol", "requeue", f"{first}_1")

    folder = tmp_path / "long" / "logs"
    wait(
        lambda: (folder / "report.log").exists() and "goes on" in (folder / "report.log").read_text(), "the limit", 300
    )
    word = "Breakout-minatar_mexp-4: stopped by Slurm's time limit"
    assert f"not finished: {word}; log {folder}/Breakout-minatar_mexp-4.log" in (folder / "report.log").read_text()
    assert (folder / "Breakout-minatar_mexp-4.log").read_text().endswith(f"] {word}\n")

    # Slurm lets a requeued job wait for two minutes, until its node is clean
    wait(lambda: not slurm("squeue", "-h"), "the end of all jobs", 600)
    folder = tmp_path / "out" / "logs"
    assert (
        "2 runs" not in (folder / "report.log").read_text()
        and "not finished" not in (folder / "report.log").read_text()
    )
    assert (tmp_path / "out" / "report" / "README.md").exists()
    log = (folder / "SpaceInvaders-minatar_dqn-1.log").read_text()
    assert re.search("attempt 1.*attempt 1.*goes on from step [1-9].*done.*attempt 1.*nothing is left", log, re.DOTALL)
    assert len(run_folders(tmp_path / "out")) == 4 and '"finished": true' in (victim / "config.json").read_text()
    tasks = [f"{job}_{i}" for job in (first, again) for i in range(4)]
    assert {f"slurm-{task}.log" for task in tasks} < {path.name for path in folder.iterdir()}
    assert len(list((tmp_path / "out" / "tabular").glob("*.png"))) == 2
