"""`benchmark.sh`: its lists of runs; suites of stand-ins and of tiny real runs that fail, are killed or stopped."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tyro
from helpers import ROOT, load

TINY = "--batch-size 8 --learning-starts 64 --buffer-size 400 --eval-envs 2 --eval-episodes 2 --no-cuda"
# The environment that the tests run in is the active one, as after `source .venv/bin/activate`
ENV = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

MINATAR = ["Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"]
ATARI5 = ["BattleZone", "DoubleDunk", "NameThisGame", "Phoenix", "Qbert"]
ABLATION11 = [*ATARI5, "Alien", "Asterix", "Seaquest", "SpaceInvaders", "WizardOfWor", "Zaxxon"]
ATARI57 = sorted(game.removeprefix("ALE/").removesuffix("-v5") for game in load("report").HUMAN)


def benchmark(*flags, cwd, check=0, env=ENV, script=ROOT / "benchmark.sh"):
    command = ["bash", str(script), *shlex.split(" ".join(flags))]
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert result.returncode == check, (result.returncode, result.stdout[-2000:], result.stderr[-2000:])
    return result


def parse(line):
    """A printed command: its script and the script's own parser's result."""
    threads, python, path, *flags = shlex.split(line)
    assert threads == "OMP_NUM_THREADS=1" and python == f"{Path(sys.executable).parent}/python"
    script = load(str(Path(path).relative_to(ROOT).with_suffix("")))
    return script.__name__, tyro.cli(script.Args, args=flags)


# LISTS


@pytest.mark.parametrize(
    "suite,games,agents,seeds,steps",
    [
        ("quick", ["SpaceInvaders"], ["minatar_dqn", "minatar_mexp"], 2, 200_000),
        ("minatar", MINATAR, ["minatar_dqn", "minatar_mexp"], 5, 5_000_000),
        ("atari5", ATARI5, ["dqn", "dqn_mexp", "iqn", "iqn_mexp"], 5, 50_000_000),
        ("ablation11", ABLATION11, ["dqn", "dqn_mexp", "iqn", "iqn_mexp"], 5, 50_000_000),
        ("atari57", ATARI57, ["dqn", "dqn_mexp", "iqn", "iqn_mexp"], 5, 50_000_000),
        ("lunarlander", ["LunarLander"], [f"lunarlander_k{k}" for k in (0, 0.5, 1, 2, 4, 8, 16, 32)], 10, 100_000),
    ],
)
def test_suites(suite, games, agents, seeds, steps, tmp_path):
    lines = benchmark(suite, "--dry-run", cwd=tmp_path).stdout.splitlines()
    assert not list(tmp_path.iterdir())
    out = tmp_path / "benchmark" / suite
    if suite == "quick":
        script, args = parse(lines.pop(0))
        assert script == "tabular_mexp" and args.out == str(out / "tabular") and 0 in args.k and len(args.k) > 1
    pattern = rf"--env-id (\S+) --seed (\d+) --exp-name (\S+) --total-timesteps {steps} --runs-dir {out}/runs --resume$"
    keys = [re.search(pattern, line).groups() for line in lines]
    form = {"quick": "MinAtar/{}-v1", "minatar": "MinAtar/{}-v1", "lunarlander": "{}-v3"}.get(suite, "ALE/{}-v5")
    seeds = range(1, seeds + 1)
    assert keys == [(form.format(game), str(seed), agent) for game in games for seed in seeds for agent in agents]


def test_every_agent(tmp_path):
    """What --help lists runs as its name says: the script's own parser takes its flags, and `_mexp` means k = n."""
    text = " ".join(benchmark("--help", cwd=tmp_path).stdout.split())
    commands = {}
    for games, suite in (("Atari", "atari5"), ("MinAtar", "minatar")):
        agents = re.search(rf"agents of {games}: (.*?)(?: agents of|$)", text)[1].replace(" ", "")
        lines = benchmark(suite, f"--agents {agents} --seeds 1 --dry-run", cwd=tmp_path).stdout.splitlines()
        for agent, line in zip(agents.split(","), lines, strict=False):
            _, args = parse(line)
            assert args.exp_name == agent
            if hasattr(args, "mean_scaling_coefficient"):
                assert args.mean_scaling_coefficient == ("n" if "mexp" in agent else 0)
            commands[agent] = line.split(f"{ROOT}/")[-1].split(" --env-id")[0]
    assert len(set(commands.values())) == len(commands) > 60, "two names for one agent"
    layer = "--mean-scaling-coefficient n"
    for agent, command in {
        "dqn": "dqn_atari.py",
        "iqn_mexp": "iqn_atari_mexp.py",
        "minatar_iqn_mexp": f"related/iqn_minatar.py {layer}",
        "rdq": "related/dueling_atari.py --rdq-beta 0.001",
        "munchausen_mexp": f"related/softq_atari.py --munchausen 0.9 --entropy-form entropy {layer}",
        "minatar_targetbased": "related/isdqn_minatar.py --num-iterations 1 --target-network",
        "minatar_targetfree_noln_mexp": f"related/isdqn_minatar.py --num-iterations 0 --no-layer-norm {layer}",
        "minatar_eaudeqn_w512": "related/eaudeqn_minatar.py --width 512",
        "softq_pg": "related/softq_online_atari.py --method pg",
    }.items():
        assert commands[agent] == command
    scripts = {command.split()[0] for command in commands.values()}
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("related/*.py")} < scripts, "a script without an agent"


def documented():
    """The commands of all pages, `$agents` replaced by what the same block gives it."""
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text().replace("\\\n", " "), re.DOTALL):
            variables = dict(re.findall(r"^(\w+)=(\S+)$", block, re.MULTILINE))
            for command in re.findall(r"^ *bash benchmark\.sh +([^#\n]*)", block, re.MULTILINE):
                yield re.sub(r"\$(\w+)", lambda match: variables[match[1]], command)  # noqa: B023


def test_documented_commands(tmp_path):
    commands = sorted(set(documented()))
    assert len(commands) >= 10
    for command in commands:
        flags, _, extra = command.partition(" -- ")
        assert benchmark(flags, "--dry-run --", extra, cwd=tmp_path).stdout.count("--resume") > 0


def test_options(tmp_path):
    flags = "--games Pong,Qbert --agents iqn_mexp,dqn --seeds 07,9 --steps 1000 --gpus 0,3 --out here --dry-run"
    lines = benchmark("atari5", flags, "-- --num-envs 16 --gamma .9", cwd=tmp_path).stdout.splitlines()
    keys = re.findall(r"ALE/(\w+)-v5 --seed (\d) --exp-name (\w+) --total-timesteps 1000 ", "\n".join(lines))
    assert keys == [(g, s, a) for g in ("Pong", "Qbert") for s in "79" for a in ("iqn_mexp", "dqn")]
    assert len(lines) == len(keys)
    _, args = parse(lines[0])
    assert (args.num_envs, args.gamma, args.runs_dir) == (16, 0.9, str(tmp_path / "here" / "runs"))
    lines = benchmark("quick --seeds 4, --out 'a b' --dry-run -- --x 'c d'", cwd=tmp_path).stdout.splitlines()
    assert len(lines) == 3, "the gridworld, and one seed of two agents"
    for line in lines:
        assert f"{tmp_path}/a b/{'tabular' if 'tabular_mexp' in line else 'runs'}" in shlex.split(line)
    assert shlex.split(lines[-1])[-2:] == ["--x", "c d"] and " --seed 4 " in lines[-1]


def ks(flags, cwd):
    parsed = [parse(line)[1] for line in benchmark(flags, cwd=cwd).stdout.splitlines()]
    return [(args.exp_name, args.mean_scaling_coefficient) for args in parsed]


def test_sweep_over_k(tmp_path):
    """Numbers and multiples of n as the scripts take them; what is one k of a game is run once."""
    names = ["minatar_mexp_k0", "minatar_mexp_k1.5", "minatar_mexp_kn", "minatar_mexp_k4n"]
    assert ks("minatar --dry-run --k 0,1.5,n,4n --seeds 3,5", tmp_path) == 10 * list(
        zip(names, (0, 1.5, "n", "4n"), strict=True)
    )
    expected = {"SpaceInvaders": [("k4", 4), ("k2n", "2n")], "Seaquest": [("k4", 4), ("kn", "n"), ("k2n", "2n")]}
    expected["Seaquest"].append(("k8", 8))
    for game, of_game in expected.items():
        swept = ks(f"minatar --dry-run --games {game} --agents minatar_iqn --seeds 1 --k 4,n,2n,8", tmp_path)
        assert swept == [(f"minatar_iqn_{name}", k) for name, k in of_game]
    swept = ks("atari57 --dry-run --games Skiing --seeds 1 --k 9,18,n,2n", tmp_path)
    assert swept == [("dqn_mexp_k9", 9), ("dqn_mexp_k18", 18)], "Skiing's full set has 9 actions"
    swept = ks("atari5 --dry-run --games Pong --seeds 1 --k 18,n -- --no-full-action-space", tmp_path)
    assert swept == [("dqn_mexp_k18", 18), ("dqn_mexp_kn", "n")], "n is 6 there"
    swept = ks("minatar --dry-run --games Seaquest --seeds 1 --k 0.50,0.5,00.5,6.0,n,10,1.05", tmp_path)
    assert [k for _, k in swept] == [0.5, 6, 10, 1.05]


@pytest.mark.parametrize(
    "flags,words",
    [
        ("nope", "SUITE 'nope' must be quick, minatar, atari5, ablation11, atari57 or lunarlander"),
        ("atari5 --agents dqn,minatar_dqn", "'minatar_dqn' is none of dense dense_mexp dqn dqn_mexp"),
        ("minatar --agents minatar_rdq --k 1", "'minatar_rdq' is none of minatar_dense minatar_eaudeqn minatar"),
        ("minatar --k 3n", "--k '3n' must be a list"),
        ("quick --gpus 0,1 --slurm --mem=1G", "--gpus cannot be combined with --slurm"),
        ("quick --dry-run -- --seed 7", "--seed after -- would be that of every run; see --games"),
        ("quick --dry-run -- --gamma 0.9 --mean_scaling_coefficient=2", "--mean-scaling-coefficient after --"),
        ("minatar --games Breakout,Pong", f"--games 'Breakout,Pong': 'Pong' is none of {', '.join(MINATAR)}"),
        ("quick --games *", "--games '*': '*' is none of Asterix"),
        ("quick --games ''", "--games '' --agents "),
        ("quick --agents ''", "--agents '' must name one"),
        ("quick --out ''", "--out '' names no folder"),
        ("quick --seeds 0", "--seeds '0'"),
        ("quick --workers 0", "--workers '0'"),
        ("quick --steps", "--steps needs a value"),
        ("quick --colour red", "unknown option '--colour'"),
        ("quick --out /proc/none --steps 10", "--out /proc/none"),
        ("""quick --slurm "--comment='a b" """, """--slurm '--comment='a b': a quote has no end"""),
        ("quick --slurm '--mem=1G --signal=B:USR1@60'", "any --signal would end the runs"),
        ("quick --slurm '--mem=1G\n-d singleton'", "benchmark.sh sets --array, --dependency and --wrap"),
    ],
)
def test_bad_options(flags, words, tmp_path):
    result = benchmark(flags, cwd=tmp_path, check=2)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert words in line and not list(tmp_path.iterdir())


# RUNS OF STAND-INS


def logs(out):
    return {path.stem: path.read_text() for path in (out / "logs").glob("*.log")}


@pytest.fixture
def stand_in(tmp_path):
    """Returns a function that makes a stand-in for Python, whose `lines` of bash see each run's command as `$*`, and an
    environment in which it is the active Python. The file `calls` lists the scripts that it is started with."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(lines="", name="python"):
        start = f'[ "$1" != -c ] || exit 0 # all that is required is there\nbasename "$1" >>{tmp_path}/calls\n'
        (folder / name).write_text(f"#!/bin/bash\n{start if name == 'python' else ''}{lines}\n")
        (folder / name).chmod(0o755)
        return ENV | {"PATH": f"{folder}{os.pathsep}{ENV['PATH']}", "PIP_NO_INDEX": "1"}

    return make


ONE = "minatar --games Breakout --agents minatar_mexp --seeds 1, --out out"


def test_repeated_where_commands_fail(stand_in, tmp_path):
    """A run that fails is tried once more and named at the end, the others go on; the same command starts all again,
    for --resume to decide."""
    env = stand_in('[[ $* != *minatar_dqn* ]] || { echo "ValueError: no luck" >&2; exit 1; }')
    flags = "quick --out out --seeds 1 --workers 1"
    result = benchmark(flags, cwd=tmp_path, check=1, env=env)
    log = tmp_path / "out" / "logs" / "SpaceInvaders-minatar_dqn-1.log"
    failed = "SpaceInvaders-minatar_dqn-1: exit status 1, ValueError: no luck"
    assert result.stderr.splitlines() == [
        f"not finished: {failed}; log {log}",
        "the same command goes on with what is not finished",
    ]
    assert log.read_text().count(failed) == 2
    calls = ["tabular_mexp.py", "minatar_mexp.py", "minatar_mexp.py", "minatar_mexp.py", "report.py"]
    assert (tmp_path / "calls").read_text().split() == calls
    assert f"runs done in {tmp_path}/out: 2" in result.stdout

    (tmp_path / "calls").unlink()
    result = benchmark(flags, cwd=tmp_path, env=stand_in("[ $(basename $1) != report.py ]"))
    assert result.stderr == f"no report was made of {tmp_path}/out/runs\n"
    assert (tmp_path / "calls").read_text().split() == calls[:3] + calls[-1:]
    assert f"runs done in {tmp_path}/out: 3" in result.stdout


@pytest.mark.parametrize(
    "lines,reason,attempts",
    [
        ("kill -KILL $$", "exit status 137, SIGKILL, out of memory?", 2),
        ("echo 'torch.OutOfMemoryError: CUDA' >&2; echo end; exit 1", "exit status 1, torch.OutOfMemoryError: CUDA", 2),
        ("echo 'error: --gamma 2.0 must be 0 to 1' >&2; exit 2", "exit status 2, error: --gamma 2.0 must be 0 to 1", 1),
        ("printf '34%%'; exit 255", "exit status 255", 2),
    ],
)
def test_the_reason_of_a_failure_is_told(lines, reason, attempts, stand_in, tmp_path):
    """In the log and in the summary: the exit status, the signal, the last error; what a script refuses is not tried
    again, and whatever one run's end is, the next one is begun."""
    env = stand_in(f"[[ $* != *minatar_dqn* ]] || {{ {lines}; }}")
    flags = "minatar --games Breakout --seeds 1 --out out --workers 1"
    result = benchmark(flags, cwd=tmp_path, check=1, env=env)
    log = tmp_path / "out" / "logs" / "Breakout-minatar_dqn-1.log"
    told = f"Breakout-minatar_dqn-1: {reason}"
    assert result.stderr.splitlines()[0] == f"not finished: {told}; log {log}"
    assert log.read_text().count(f"] {told}\n") == attempts
    assert (tmp_path / "calls").read_text().count("minatar_mexp.py") == attempts + 1


def test_every_place_has_its_gpu(stand_in, tmp_path):
    """Runs of very different lengths: the two at a time are never on one GPU."""
    env = stand_in(
        f"""[ "$(basename "$1")" != report.py ] || exit 0
echo "start $CUDA_VISIBLE_DEVICES" >>{tmp_path}/events
[[ $* != *"--exp-name minatar_mexp "* ]] || sleep 0.3
echo "end $CUDA_VISIBLE_DEVICES" >>{tmp_path}/events"""
    )
    benchmark("minatar --games Breakout,Freeway,Seaquest --out out --seeds 1 --gpus 3,5", cwd=tmp_path, env=env)
    at_work = set()
    events = [line.split() for line in (tmp_path / "events").read_text().splitlines()]
    for what, gpu in events:
        if what == "start":
            assert gpu in ("3", "5") and gpu not in at_work
            at_work.add(gpu)
        else:
            at_work.remove(gpu)
    assert len(events) == 2 * 6


def test_goes_on_in_the_folder_of_an_older_suite(stand_in, tmp_path):
    """Its lists and states are neither heeded nor taken away, nor are other files."""
    out = tmp_path / "out"
    old = {name: out / name for name in ("state/done/thesis.tex", "names.txt", "commands.txt", "lock", "runs/notes")}
    for path in old.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("years of work")
    (out / "logs").mkdir()
    log = out / "logs" / "Breakout-minatar_mexp-1.log"
    log.write_text("[2026-11-01 00:00:00] attempt 1: python minatar_mexp.py\n12%")
    result = benchmark(ONE, cwd=tmp_path, env=stand_in())
    assert log.read_text().endswith("] Breakout-minatar_mexp-1: done\n") and not result.stderr
    assert {path.read_text() for path in old.values()} == {"years of work"}


def test_relative_path_of_python(stand_in, tmp_path):
    env = stand_in() | {"PATH": f"bin{os.pathsep}{ENV['PATH']}", "CDPATH": str(ROOT.parent)}
    benchmark(ONE, cwd=tmp_path, env=env)
    assert (tmp_path / "calls").read_text().split() == ["minatar_mexp.py", "report.py"]


@pytest.mark.parametrize(
    "files,cores",
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": "99900000 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_workers_are_the_cores_that_may_be_used(files, cores, stand_in, tmp_path):
    """At most a container's quota, of cgroup v2 or v1, whatever OMP_NUM_THREADS is, which nproc obeys."""
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text + "\n")
    text = (ROOT / "benchmark.sh").read_text()
    assert text.count("/sys/fs/cgroup") == 1
    script = tmp_path / "benchmark.sh"
    script.write_text(text.replace("/sys/fs/cgroup", str(tmp_path / "cgroup")))
    (tmp_path / "requirements.txt").touch()
    env = stand_in() | {"OMP_NUM_THREADS": "7", "OMP_THREAD_LIMIT": "5"}
    cores = cores or len(os.sched_getaffinity(0))
    result = benchmark(ONE, cwd=tmp_path, env=env, script=script)
    assert f"1 runs, {cores} at a time" in result.stdout and not result.stderr


def test_an_environment_is_made_where_none_is(stand_in, tmp_path):
    """It is said that the download is large, and pip shows how far it is."""
    (tmp_path / "benchmark.sh").write_text((ROOT / "benchmark.sh").read_text())
    (tmp_path / "requirements.txt").write_text(
        "# training\ntorch==2.13.0\ngymnasium[box2d]==1.4.0\n# testing\npytest\n"
    )
    # No package is there before pip has run. What it is asked for: the names, without those of the tests
    python = f"""if [ "$1" = -m ]; then echo "pip: $*"; touch {tmp_path}/installed; fi
if [ "$1" = -c ]; then echo "$3" >{tmp_path}/asked; [ -e {tmp_path}/installed ]; fi"""
    stand_in(python, name="any_python")
    stand_in("exit 1")
    (tmp_path / "bin" / "python").write_text("#!/bin/bash\nexit 1\n")
    env = stand_in(f'mkdir -p "$3/bin"; cp {tmp_path}/bin/any_python "$3/bin/python"', name="python3")
    result = benchmark(ONE, cwd=tmp_path, env=env, script=tmp_path / "benchmark.sh")
    assert f"making {tmp_path}/.venv: gigabytes to download" in result.stdout
    assert f"pip: -m pip install -r {tmp_path}/requirements.txt\n" in result.stdout, "not in silence"
    result = benchmark(ONE, cwd=tmp_path, env=env, script=tmp_path / "benchmark.sh")
    assert "making" not in result.stdout and (tmp_path / "asked").read_text().split() == ["torch", "gymnasium"]


def hear_ctrl_c():
    """Takes back that interrupts are ignored, as they are in what a shell without job control starts with `&`: bash
    cannot trap them then."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(flags, env, cwd):
    command = ["bash", str(ROOT / "benchmark.sh"), *flags.split()]
    own = dict(start_new_session=True, preexec_fn=hear_ctrl_c)
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **own)


def wait(condition, suite):
    for _ in range(60_000):
        if result := condition():
            return result
        assert suite.poll() is None, "the suite has ended"
        time.sleep(0.005)
    raise AssertionError("waited for five minutes")


def processes(out):
    return [p for p in psutil.process_iter(["cmdline"]) if f"{out}/" in " ".join(p.info["cmdline"] or [])]


def interrupt(suite, out):
    os.killpg(suite.pid, signal.SIGINT)  # what Ctrl-C does
    try:
        _, stderr = suite.communicate(timeout=30)
    finally:
        suite.kill()
    assert suite.returncode == 130 and "stopped; the same command goes on from the last checkpoints" in stderr
    assert not processes(out), "a child survived"


def test_no_ctrl_c_is_lost(stand_in, tmp_path):
    """Suites whose runs only sleep, each interrupted at another moment after their start: bash may swallow an interrupt
    that comes while it waits for a command in the foreground."""
    env = stand_in("exec sleep 60")
    for i in range(4):
        out = tmp_path / f"out{i}"
        suite = start(f"quick --out {out} --workers 2", env, tmp_path)
        wait(lambda: len(list(out.glob("logs/*"))) >= 1 + i % 2, suite)  # noqa: B023
        time.sleep(0.02 * i)
        interrupt(suite, out)


# SLURM, without Slurm: test_slurm.py has a real one

SBATCH = """n=$(ls {0}/job* 2>/dev/null | wc -l)
printf '%s\\n' "$@" >{0}/options$n
cat >{0}/job$n
[ $n -lt 3 ] && echo $((7 + n))"""
SCONTROL = "[ $2 = config ] && echo 'MaxArraySize            = 2' || echo 'JobState=COMPLETING Reason=TimeLimit'"


def test_what_slurm_is_given(stand_in, tmp_path):
    """Its options as a shell reads them, quotes and lines included; a list that is longer than an array may be as
    several arrays, and a report after them; and the scripts as they run there."""
    stand_in(SBATCH.format(tmp_path), name="sbatch")
    stand_in(SCONTROL, name="scontrol")
    env = stand_in("[[ $* != *minatar_mexp.py* ]] || exec sleep 60")
    flags = "minatar --games Breakout,Freeway --agents minatar_mexp --seeds 4, --out out"
    options = """ --slurm '--comment="a  b" --mail-user=\\"me\\"\n  --mem=1G' """
    result = benchmark(flags, "--steps 10 --workers 1", options, cwd=tmp_path, env=env)
    assert "submitted 2 runs and then the report as jobs 7 8;" in result.stdout
    given = [(tmp_path / f"options{i}").read_text().splitlines() for i in range(2)]
    for words in given:
        assert ["--comment=a  b", '--mail-user="me"', "--mem=1G"] == [
            w for w in words if w[:4] in ("--co", "--ma", "--me")
        ]
    assert "--array=0-1%1" in given[0] and "--dependency=singleton" in given[0] and "--requeue" in given[0]
    assert "--dependency=afterany:7" in given[1] and not [word for word in given[1] if "--array" in word]

    # The second run, with the signal that Slurm sends at its time limit
    env["SLURM_JOB_ID"] = "9"
    job = subprocess.Popen(["bash", tmp_path / "job0"], env=env | {"SLURM_ARRAY_TASK_ID": "1"}, stdout=subprocess.PIPE)
    wait(lambda: (tmp_path / "calls").exists(), job)
    job.terminate()
    job.communicate(timeout=30)
    assert job.returncode == 1 and not processes(tmp_path / "out")
    result = subprocess.run(["bash", tmp_path / "job1"], env=env, capture_output=True, text=True)
    folder = tmp_path / "out" / "logs"
    assert result.returncode == 1 and result.stderr.splitlines()[:2] == [
        "not finished: Breakout-minatar_mexp-4: at work, never begun, or ended without a word; "
        f"log {folder}/Breakout-minatar_mexp-4.log",
        f"not finished: Freeway-minatar_mexp-4: stopped by Slurm's time limit; log {folder}/Freeway-minatar_mexp-4.log",
    ]

    for file in tmp_path.glob("job?"):
        file.unlink()
    result = benchmark(flags, "--games", ",".join(MINATAR), "--slurm ''", cwd=tmp_path, env=env, check=2)
    assert "error: sbatch refused (see above); submitted are jobs  7 8 9" in result.stderr, "of four"
    given = [(tmp_path / f"options{i}").read_text().splitlines() for i in range(3)]
    assert [next(word for word in words if "--array" in word) for words in given] == [
        "--array=0-1",
        "--array=0-1",
        "--array=0-0",
    ]


def test_without_slurm(tmp_path, stand_in):
    env = stand_in("exit 1", name="scontrol")
    result = benchmark("quick --slurm --mem=1G", cwd=tmp_path, env=env, check=2)
    assert result.stderr == "error: --slurm: Slurm does not tell its MaxArraySize (see above)\n"


# REAL RUNS


@pytest.mark.slow
def test_killed_run_goes_on_and_ctrl_c_stops_all(tmp_path):
    flags = f"minatar --games Asterix --out out --seeds 2 --workers 2 --steps 6000 -- {TINY}"
    flags += " --eval-frequency 3000 --checkpoint-frequency 1000"
    out = tmp_path / "out"

    def runs(text):
        return [path.parent for path in out.glob("runs/*/*/config.json") if text in path.read_text()]

    def checkpointed():
        return [folder for folder in runs('"finished": false') if (folder / "checkpoint.pt").exists()]

    suite = start(flags, ENV, tmp_path)
    agent, seed = wait(checkpointed, suite)[0].name.split("__")[1:3]
    words = f"--seed {seed} --exp-name {agent} "
    pids = [
        p for p in processes(out) if words in " ".join(p.info["cmdline"]) and "minatar_mexp" in p.info["cmdline"][1]
    ]
    pids[0].kill()  # as the kernel does when memory runs out: the second attempt goes on from the checkpoint
    log = out / "logs" / f"Asterix-{agent}-{seed}.log"
    wait(lambda: re.search("SIGKILL, out of memory.*goes on from step [1-9]", log.read_text(), re.DOTALL), suite)
    interrupt(suite, out)
    kept, lost = checkpointed(), len(runs('"finished": false')) - len(checkpointed())
    assert kept and log.read_text().endswith(f"] Asterix-{agent}-{seed}: stopped by SIGTERM\n")

    result = benchmark(flags, cwd=tmp_path)
    assert f"runs done in {out}: 4" in result.stdout and not result.stderr
    assert len(runs('"finished": true')) == 4 and set(kept) <= set(runs('"finished": true'))
    assert len(runs("")) == 4 + lost, "only runs without a checkpoint start anew"
    assert "IB-DQN(n)" in (out / "report" / "README.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("eval.csv")}
    benchmark(flags, cwd=tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("eval.csv")}
    assert all("has finished, nothing is left" in text for text in logs(out).values())
