"""`benchmark.sh`: its lists of runs, and tiny real suites that are repeated, hurt and interrupted."""

import fcntl
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
from helpers import ROOT, load, run_folders

TINY = "--batch-size 8 --learning-starts 64 --buffer-size 400 --eval-envs 2 --eval-episodes 2 --no-cuda"
# The environment that the tests run in is the active one, as after `source .venv/bin/activate`
ENV = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


MINATAR = ["Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"]
ATARI5 = ["BattleZone", "DoubleDunk", "NameThisGame", "Phoenix", "Qbert"]
ABLATION11 = [*ATARI5, "Alien", "Asterix", "Seaquest", "SpaceInvaders", "WizardOfWor", "Zaxxon"]
ATARI57 = sorted(game.removeprefix("ALE/").removesuffix("-v5") for game in load("report").HUMAN)
SCRIPTS = {
    "dqn": "dqn_atari.py",
    "dqn_mexp": "dqn_atari_mexp.py",
    "iqn": "iqn_atari.py",
    "iqn_mexp": "iqn_atari_mexp.py",
    "minatar_dqn": "minatar_mexp.py --mean-scaling-coefficient 0",
    "minatar_mexp": "minatar_mexp.py",
    "minatar_iqn": "related/iqn_minatar.py",
    "minatar_iqn_mexp": "related/iqn_minatar.py --mean-scaling-coefficient n",
}
WITHOUT_LAYER = {
    "dueling": "dueling_GAMES.py",
    "rdq": "dueling_GAMES.py --rdq-beta 0.001",
    "softq_online": "softq_online_GAMES.py --method q",
    "softq_pg": "softq_online_GAMES.py --method pg",
}
WITH_LAYER = {
    "nature": "nature_dqn_GAMES.py",
    "softq": "softq_GAMES.py",
    "munchausen": "softq_GAMES.py --munchausen 0.9 --entropy-form entropy",
    "eaudeqn": "eaudeqn_GAMES.py",
    "polyprune": "eaudeqn_GAMES.py --method polyprune",
    "dense": "eaudeqn_GAMES.py --method dense",
    "isdqn": "isdqn_GAMES.py",
    "isdqn1": "isdqn_GAMES.py --num-iterations 1",
    "targetfree": "isdqn_GAMES.py --num-iterations 0",
    "targetbased": "isdqn_GAMES.py --num-iterations 1 --target-network",
    "targetfree_noln": "isdqn_GAMES.py --num-iterations 0 --no-layer-norm",
}
for prefix, games, width in (("", "atari", 2048), ("minatar_", "minatar", 512)):
    for name, command in (WITHOUT_LAYER | WITH_LAYER).items():
        SCRIPTS[prefix + name] = f"related/{command.replace('GAMES', games)}"
        if name in WITH_LAYER:
            SCRIPTS[f"{prefix}{name}_mexp"] = f"{SCRIPTS[prefix + name]} --mean-scaling-coefficient n"
    for each in (32, width):
        SCRIPTS[f"{prefix}eaudeqn_w{each}"] = f"related/eaudeqn_{games}.py --width {each}"


def benchmark(*flags, cwd, check=0, env=ENV):
    command = ["bash", str(ROOT / "benchmark.sh"), *shlex.split(" ".join(flags))]
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert result.returncode == check, (result.returncode, result.stdout[-2000:], result.stderr[-2000:])
    return result


def parse(line):
    """A printed command: its environment, its script and the script's own parser's result."""
    words = shlex.split(line)
    variables = {}
    while "=" in words[0]:
        name, value = words.pop(0).split("=", 1)
        variables[name] = value
    script = load(str(Path(words[1]).relative_to(ROOT).with_suffix("")))
    return variables, script.__name__, tyro.cli(script.Args, args=words[2:])


@pytest.mark.parametrize(
    "suite,games,agents,seeds,steps",
    [
        ("quick", ["SpaceInvaders"], ["minatar_dqn", "minatar_mexp"], 2, 200_000),
        ("minatar", MINATAR, ["minatar_dqn", "minatar_mexp"], 5, 5_000_000),
        ("atari5", ATARI5, ["dqn", "dqn_mexp", "iqn", "iqn_mexp"], 5, 50_000_000),
        ("ablation11", ABLATION11, ["dqn", "dqn_mexp", "iqn", "iqn_mexp"], 5, 50_000_000),
        ("atari57", ATARI57, ["dqn", "dqn_mexp", "iqn", "iqn_mexp"], 5, 50_000_000),
    ],
)
def test_dry_run(suite, games, agents, seeds, steps, tmp_path):
    """The commands word for word; that the scripts take them is checked of every agent below."""
    lines = benchmark(suite, "--dry-run", cwd=tmp_path).stdout.splitlines()
    assert not list(tmp_path.iterdir())
    out = tmp_path / "benchmark" / suite
    start = f"OMP_NUM_THREADS=1 {Path(sys.executable).parent}/python {ROOT}"
    if suite == "quick":
        _, script, args = parse(lines.pop(0))
        assert script == "tabular_mexp" and args.out == str(out / "tabular") and 0 in args.k and len(args.k) > 1
    ids = [f"MinAtar/{game}-v1" if suite in ("quick", "minatar") else f"ALE/{game}-v5" for game in games]
    assert lines == [
        f"{start}/{SCRIPTS[agent]} --env-id {env_id} --seed {seed} --exp-name {agent} --total-timesteps {steps} "
        f"--runs-dir {out}/runs --resume"
        for env_id in ids
        for seed in range(1, seeds + 1)
        for agent in agents
    ]


def test_options(tmp_path):
    flags = "--games Pong,Qbert --agents iqn_mexp,dqn --seeds 07,9 --steps 1000 --gpus 0,3 --out here --dry-run"
    lines = benchmark("atari5", flags, "-- --num-envs 16 --gamma .9", cwd=tmp_path).stdout.splitlines()
    keys = re.findall(r"ALE/(\w+)-v5 --seed (\d) --exp-name (\w+) --total-timesteps 1000 ", "\n".join(lines))
    assert keys == [(g, s, a) for g in ("Pong", "Qbert") for s in "79" for a in ("iqn_mexp", "dqn")]
    assert len(lines) == len(keys)
    _, _, args = parse(lines[0])
    assert (args.num_envs, args.gamma, args.runs_dir) == (16, 0.9, str(tmp_path / "here" / "runs"))
    lines = benchmark("quick --seeds 1 --out 'a b' --dry-run -- --x 'c d'", cwd=tmp_path).stdout.splitlines()
    for line in lines:
        assert f"{tmp_path}/a b/{'tabular' if 'tabular_mexp' in line else 'runs'}" in shlex.split(line)
    assert shlex.split(lines[-1])[-2:] == ["--x", "c d"]
    lines = benchmark("minatar --games Seaquest --seeds 4, --dry-run", cwd=tmp_path).stdout.splitlines()
    assert [re.search(r"--seed (\d+) ", line)[1] for line in lines] == ["4", "4"], "one seed, both agents"


def test_every_agent(tmp_path):
    """Each is the script and the flags that its name says, and no agent is missing here."""
    of_atari = [agent for agent in SCRIPTS if not agent.startswith("minatar")]
    of_minatar = [agent for agent in SCRIPTS if agent.startswith("minatar")]
    for suite, agents in (("atari5", of_atari), ("minatar", of_minatar)):
        line = benchmark(suite, "--agents none", cwd=tmp_path, check=2).stderr
        assert line.endswith(f"'none' is none of {', '.join(sorted(agents))}\n")
        lines = benchmark(suite, f"--agents {','.join(agents)} --seeds 1 --dry-run", cwd=tmp_path).stdout.splitlines()
        for agent, line in zip(agents, lines, strict=False):
            assert f"{ROOT}/{SCRIPTS[agent]} --env-id" in line
            _, _, args = parse(line)  # which the script's own parser takes
            assert args.exp_name == agent
            if hasattr(args, "mean_scaling_coefficient"):
                assert args.mean_scaling_coefficient == ("n" if "mexp" in agent else 0)


def test_suite_of_lunarlander(tmp_path):
    lines = benchmark("lunarlander --dry-run", cwd=tmp_path).stdout.splitlines()
    keys = [(args.seed, args.mean_scaling_coefficient, args.exp_name) for _, _, args in map(parse, lines)]
    ks = ["0", "0.5", "1", "2", "4", "8", "16", "32"]
    assert keys == [(seed, float(k), f"lunarlander_k{k}") for seed in range(1, 11) for k in ks]
    _, script, args = parse(lines[0])
    assert script == "lunarlander_mexp" and args.env_id == "LunarLander-v3" and args.total_timesteps == 100_000


def test_sweep_over_k(tmp_path):
    """Numbers as they are, n and its multiples by the number of actions that each game has."""
    lines = benchmark("minatar --k 0,1.5,n,2n,12n --seeds 3,5 --steps 10 --dry-run", cwd=tmp_path).stdout.splitlines()
    assert len(lines) == 5 * 2 * 5
    for i, line in enumerate(lines):
        _, script, args = parse(line)
        n = load(script).MinAtarEnvs(args.env_id, 1).num_actions
        expected = [("_k0", 0), ("_k1.5", 1.5), ("_kn", "n"), ("_k2n", 2 * n), ("_k12n", 12 * n)]
        assert (args.exp_name.removeprefix("minatar_mexp"), args.mean_scaling_coefficient) == expected[i % 5]
        assert (args.env_id, args.seed) == (f"MinAtar/{MINATAR[i // 10]}-v1", (3, 5)[i // 5 % 2])
    flags = "atari57 --games Skiing,Pong --agents iqn_mexp,nature --k 2n --seeds 1 --dry-run"
    parsed = [parse(line) for line in benchmark(flags, cwd=tmp_path).stdout.splitlines()]
    scripts = ["iqn_atari_mexp", "nature_dqn_atari"]
    expected = [(script, 2 * n) for n in (9, 18) for script in scripts]  # with the full set Skiing has 9 actions
    assert [(script, args.mean_scaling_coefficient) for _, script, args in parsed] == expected


@pytest.mark.parametrize(
    "flags,words",
    [
        ("nope", "SUITE 'nope' must be quick, minatar, atari5, ablation11, atari57 or lunarlander"),
        ("", "SUITE"),
        ("atari5 --agents dqn,minatar_dqn", "'minatar_dqn' is none of dense, dense_mexp, dqn, dqn_mexp"),
        (
            "minatar --agents minatar_rdq --k 1",
            "'minatar_rdq' is none of minatar_mexp, minatar_iqn, minatar_nature, minatar_softq, ",
        ),
        ("lunarlander --games CartPole", "'CartPole' is none of LunarLander"),
        ("minatar --k 1,,2", "--k '1,,2' must be a list"),
        ("quick --dry-run --seeds 1,01", "name the run SpaceInvaders-minatar_dqn-1 twice"),
        ("quick --gpus 0,1 --slurm --mem=1G", "--gpus cannot be combined with --slurm"),
        ("minatar --dry-run --k 0.5,0.50", "name the run Asterix-minatar_mexp_k0.5-1 twice"),
        ("atari5 --k n,2n -- --no-full-action-space", "--k 'n,2n': multiples of n"),
        ("quick --dry-run -- --seed 7", "'--seed' after -- would be that of every run; see --games"),
        ("quick --dry-run -- --gamma 0.9 --mean_scaling_coefficient=2", "'--mean_scaling_coefficient=2' after --"),
        ("atari5 --agents dqn,,iqn", "--agents 'dqn,,iqn': '' is none of dense"),
        ("minatar --games Breakout,Pong", f"--games 'Breakout,Pong': 'Pong' is none of {', '.join(MINATAR)}"),
        ("quick --games *", "--games '*': '*' is none of Asterix"),
        ("quick --games ''", "--games names no game"),
        ("quick --agents ''", "--agents names no agent"),
        ("quick --out ''", "--out '' names no folder; try --out benchmark/quick"),
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


@pytest.mark.parametrize("ks,expected", [("0,4,n", ["_k0", "_k4"]), ("n,4,16,4n", ["_kn", "_k16"])])
def test_one_k_of_a_game_once(ks, expected, tmp_path):
    """4 and n are one k where a game has 4 actions; a k that the list itself has twice is refused (above)."""
    lines = benchmark(f"minatar --games SpaceInvaders --seeds 1 --k {ks} --dry-run", cwd=tmp_path).stdout.splitlines()
    assert [parse(line)[2].exp_name.removeprefix("minatar_mexp") for line in lines] == expected


def test_without_slurm(tmp_path):
    """Where there is no sbatch, one line says so."""
    (tmp_path / "bin").mkdir()
    tools = "bash dirname realpath nproc seq mkdir rm cksum cut cat flock sed sort paste uniq head".split()
    for tool in tools:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    path = f"{Path(sys.executable).parent}{os.pathsep}{tmp_path}/bin"
    command = ["bash", str(ROOT / "benchmark.sh"), "quick", "--out", "out", "--slurm", "--mem=1G"]
    result = subprocess.run(command, cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, "error: --slurm needs Slurm's sbatch, which was not found\n")


def logs(out):
    return {path.stem: path.read_text() for path in (out / "logs").glob("*.log")}


@pytest.fixture
def stand_in(tmp_path):
    """A stand-in for Python that notes every script that it is started with, and fails where the file `fail` names a
    word of the command. Returns the environment, the file of the notes and `fail`."""
    (tmp_path / "bin").mkdir()
    calls = tmp_path / "calls"
    fail = tmp_path / "fail"
    program = tmp_path / "bin" / "python"
    program.write_text(
        f"""#!/bin/bash
[ "$1" = - ] && exit 0 # all that is required is there
basename "$1" >>{calls}
[ "$(basename "$1")" != tabular_mexp.py ] || mkdir -p "${{@: -1}}" # --out comes last
! [ -e {fail} ] || ! grep -qwF "$(cat {fail})" <<<"$*"
"""
    )
    program.chmod(0o755)
    return ENV | {"PATH": f"{tmp_path}/bin{os.pathsep}{ENV['PATH']}"}, calls, fail


def test_repeated_where_commands_fail(stand_in, tmp_path):
    """Every command of the list is tried twice and named if it fails, the others go on; the gridworld's figures are
    made once, and again only if the folder or the command is another."""
    env, calls, fail = stand_in
    out = tmp_path / "out"
    flags = "quick --out out --seeds 1 --workers 1"

    def suite(check=0):
        calls.write_text("")
        result = benchmark(flags, cwd=tmp_path, check=check, env=env)
        return result, calls.read_text().split()

    fail.write_text("minatar_dqn")
    result, started = suite(check=1)
    name = "SpaceInvaders-minatar_dqn-1"
    assert result.stderr == f"failed twice: {name}, log {out}/logs/{name}.log\n"
    assert "2 of 3 runs done, 0 running, 1 failed" in result.stdout
    assert started == ["tabular_mexp.py", "minatar_mexp.py", "minatar_mexp.py", "minatar_mexp.py", "report.py"]
    assert logs(out)[name].count("attempt 2") == 1
    assert all("attempt 2" not in text for other, text in logs(out).items() if other != name)

    fail.unlink()
    result, started = suite()
    assert started == ["minatar_mexp.py", "minatar_mexp.py", "report.py"] and not result.stderr
    assert "3 of 3 runs done, 0 running, 0 failed" in result.stdout
    assert f"{out}/tabular: the gridworld's figures" in result.stdout

    shutil.rmtree(out / "tabular")
    fail.write_text("tabular_mexp.py")
    result, started = suite(check=1)
    assert started == [*["tabular_mexp.py"] * 2, *["minatar_mexp.py"] * 2, "report.py"]
    assert result.stderr == f"failed twice: tabular, log {out}/logs/tabular.log\n" and "gridworld" not in result.stdout
    assert "2 of 3 runs done, 0 running, 1 failed" in result.stdout

    fail.write_text("report.py")
    result, started = suite()
    assert result.stderr == f"no report was made; the runs are in {out}/runs\n"
    assert started.count("tabular_mexp.py") == 1
    fail.unlink()
    (out / "tabular" / "command.txt").write_text("another command\n")
    assert suite()[1].count("tabular_mexp.py") == 1


def test_every_place_has_its_gpu(stand_in, tmp_path):
    """Runs of very different lengths: the two at a time are never on one GPU."""
    env, calls, _ = stand_in
    program = tmp_path / "bin" / "python"
    program.write_text(
        f"""#!/bin/bash
[ "$1" = - ] && exit 0 # all that is required is there
[ "$(basename "$1")" != report.py ] || exit 0
echo "start $CUDA_VISIBLE_DEVICES" >>{calls}
[[ "$*" != *"--exp-name minatar_mexp "* ]] || sleep 0.5
echo "end $CUDA_VISIBLE_DEVICES" >>{calls}
"""
    )
    benchmark("minatar --out out --seeds 1 --workers 2 --gpus 3,5", cwd=tmp_path, env=env)
    at_work = set()
    events = [line.split() for line in calls.read_text().splitlines()]
    for what, gpu in events:
        if what == "start":
            assert gpu in ("3", "5") and gpu not in at_work
            at_work.add(gpu)
        else:
            at_work.remove(gpu)
    assert len(events) == 2 * 10


def test_a_folder_with_other_files(stand_in, tmp_path):
    """A suite takes nothing away from a folder that it did not make."""
    env, _, _ = stand_in
    for name in ("done", "failed", "running"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "thesis.tex").write_text("years of work")
    benchmark("minatar --games Breakout --seeds 1 --out mine", cwd=tmp_path, env=env)
    assert len(list((tmp_path / "mine").glob("*/thesis.tex"))) == 3


def test_relative_path_of_python(stand_in, tmp_path):
    """The runs are started in another folder."""
    env, calls, _ = stand_in
    env = env | {"PATH": f"bin{os.pathsep}{ENV['PATH']}", "CDPATH": str(ROOT.parent)}
    result = benchmark("minatar --games Breakout --seeds 1 --out out", cwd=tmp_path, env=env)
    assert "2 of 2 runs done" in result.stdout and calls.read_text().split().count("minatar_mexp.py") == 2


@pytest.mark.parametrize("last", ["error: --gamma 2.0 must be 0 to 1", "torch.OutOfMemoryError: CUDA", "Killed"])
def test_the_reason_of_a_failure_is_told(last, stand_in, tmp_path):
    """What the script refuses or raises is named at the end, not only in the log."""
    env, _, _ = stand_in
    program = tmp_path / "bin" / "python"
    crash = f"if [[ $* == *minatar_mexp.py* ]]; then echo '{last}' >&2; exit 1; fi"
    program.write_text(f"{program.read_text()}{crash}\n")
    flags = "minatar --games Breakout --agents minatar_mexp --seeds 1 --out out"
    result = benchmark(flags, cwd=tmp_path, check=1, env=env)
    log = tmp_path / "out" / "logs" / "Breakout-minatar_mexp-1.log"
    reason = "" if last == "Killed" else f" ({last})"
    assert f"failed twice: Breakout-minatar_mexp-1, log {log}{reason}\n" in result.stderr


def test_not_twice_at_a_time(stand_in, tmp_path):
    env, calls, _ = stand_in
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = benchmark("quick --out out", cwd=tmp_path, check=2, env=env)
    assert "is at work there" in result.stderr and not calls.exists()


def test_real_suite(tmp_path):
    """One run and its report."""
    flags = f"minatar --games Breakout --agents minatar_mexp --out out --seeds 1 --steps 300 -- {TINY}"
    result = benchmark(flags, "--eval-frequency 100", cwd=tmp_path)
    assert "1 of 1 runs done, 0 running, 0 failed" in result.stdout and not result.stderr
    (folder,) = run_folders(tmp_path)
    assert len((folder / "eval.csv").read_text().splitlines()) == 4
    text = (tmp_path / "out" / "report" / "README.md").read_text()
    assert "1 runs of IB-DQN(n) on 1 game(s)" in text and "## Notes" not in text


def hear_ctrl_c():
    """Takes back that interrupts are ignored, as they are in what a shell without job control starts with `&`: bash
    cannot trap them then."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_killed_run_goes_on_and_ctrl_c_stops_all(tmp_path):
    flags = f"minatar --games Asterix,Breakout --out out --seeds 1 --workers 2 --steps 9000 -- {TINY}"
    flags += " --eval-frequency 3000 --checkpoint-frequency 1000"
    command = ["bash", str(ROOT / "benchmark.sh"), *flags.split()]

    def children():
        mine = str(tmp_path / "out")
        return [p for p in psutil.process_iter(["cmdline"]) if mine in " ".join(p.info["cmdline"] or [])]

    def scripts():
        return [p for p in children() if "minatar_mexp.py" in p.info["cmdline"][1]]

    def wait(condition):
        for _ in range(60_000):
            if condition():
                return
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        raise AssertionError("waited for ten minutes")

    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=ENV,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
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
    assert "4 runs of DQN, IB-DQN(n) on 2 game(s)" in (tmp_path / "out" / "report" / "README.md").read_text()
    assert len(run_folders(tmp_path)) <= 4 + len(unfinished), "a run without a checkpoint starts anew, no other"
    before = {folder: (folder / "eval.csv").stat().st_mtime_ns for folder in run_folders(tmp_path)[-2:]}
    benchmark(flags, cwd=tmp_path)
    assert before == {folder: (folder / "eval.csv").stat().st_mtime_ns for folder in before}, (
        "finished runs are skipped"
    )
    assert all("has finished, nothing is left" in text for text in logs(tmp_path / "out").values())


@pytest.mark.slow
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
        own = dict(start_new_session=True, preexec_fn=hear_ctrl_c)
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        suite = subprocess.Popen(command, env=env, **own, **pipes)
        while len(list(out.glob("state/running/*"))) < 1 + i % 2:  # the trap is set by then
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
