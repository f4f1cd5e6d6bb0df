"""What every script under `related/` must do as its base does: a whole run's files, resuming, saved models, bad input.
Their algorithms are tested in files of their own."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from helpers import (
    ATARI_FLAGS,
    COLUMNS,
    GAMES_OF,
    RELATED,
    ROOT,
    accepted,
    assert_same_run,
    evaluations,
    killed_and_resumed,
    load,
    refused,
    run_folders,
    run_here,
    scalars,
    stopped_and_resumed,
)

MINATAR_FLAGS = (
    "--env-id MinAtar/Seaquest-v1 --batch-size 8 --learning-starts 64 --buffer-size 400 --train-frequency 8 "
    "--exploration-steps 600 --target-network-frequency 150 --eval-frequency 250 --eval-episodes 3 --eval-envs 2 "
    "--eval-epsilon 1 --checkpoint-frequency 200 --save-model"
)
# A shift every 5 updates, so that a resumed run that counted them anew would shift at other steps
HEADS = "--mean-scaling-coefficient n --num-iterations 3 --eval-head random --target-network-frequency 40"
MUNCHAUSEN = "--mean-scaling-coefficient n --munchausen 0.9 --entropy-form entropy --policy boltzmann"
VARIANTS = {  # flags that turn on what the default leaves out
    "dueling_atari": "--rdq-beta 0.001",
    "dueling_minatar": "--rdq-beta 0.001",
    "eaudeqn_atari": "--mean-scaling-coefficient n --width 32 --num-networks 3 --horizon 9000",
    "eaudeqn_minatar": "--mean-scaling-coefficient n --width 32 --horizon 9000 --num-envs 3",
    "iqn_minatar": "--mean-scaling-coefficient n --num-tau-samples 4",
    "isdqn_atari": HEADS,
    "isdqn_minatar": HEADS,
    "nature_dqn_atari": "--mean-scaling-coefficient n",
    "nature_dqn_minatar": "--mean-scaling-coefficient n",
    "softq_atari": MUNCHAUSEN,
    "softq_minatar": MUNCHAUSEN,
    "softq_online_atari": "--temperature 0.02 --method pg --num-envs 3",
    "softq_online_minatar": "--temperature 0.02 --method pg --num-envs 3",
}
GAMES = ("atari", "minatar")


def flags_of(name, total):
    flags = ATARI_FLAGS if GAMES_OF[name] == "Atari" else MINATAR_FLAGS
    flags = flags.replace("--save-model", f"--total-timesteps {total}")
    return f"{accepted(name, flags)} --save-model"


def stem(name):
    return name.removeprefix("related/")


# Runs of Atari take long, and the loops' additions are the same text on MinAtar
MARKED = [pytest.param(name, marks=pytest.mark.slow) if GAMES_OF[name] == "Atari" else name for name in RELATED]


@pytest.fixture(scope="module", params=MARKED)
def finished(request, tmp_path_factory):
    """A run of every script with its variant's flags, whole, and one that was stopped and resumed."""
    tmp_path = tmp_path_factory.mktemp("related")
    flags = f"{flags_of(request.param, 310)} {VARIANTS[stem(request.param)]}"
    whole, resumed = stopped_and_resumed(request.param, flags, tmp_path, stop_at=270)
    return request.param, flags, whole, resumed


def test_every_script_has_a_variant():
    assert set(VARIANTS) >= {stem(name) for name in RELATED}


def test_resumes_bit_for_bit(finished):
    _, _, whole, resumed = finished
    assert_same_run(whole, resumed)


def test_files(finished):
    name, _, folder, resumed = finished
    assert re.fullmatch(rf"\w+-v\d__{stem(name)}__1__\d+", folder.name)
    config = json.loads((folder / "config.json").read_text())
    assert config["finished"] is True and set(config["args"]) == set(vars(load(name).Args()))
    assert (folder / config["script"]).resolve() == ROOT / f"{name}.py"
    checkpointed = 201 if "--num-envs 3" in VARIANTS[stem(name)] else 200
    starts = json.loads((resumed / "config.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, checkpointed]
    left = {path.name.split(".")[0] for path in folder.iterdir()}
    folded = {"model_folded"} if hasattr(load(name), "MeanExpansion") else set()
    assert left == {"config", "eval", "events", "model"} | folded
    columns = (folder / "eval.csv").read_text().splitlines()[0]
    assert columns.startswith(COLUMNS.removesuffix("wall_time")) and columns.endswith(",wall_time")
    assert [int(row["step"]) for row in evaluations(folder)] == [252 if checkpointed == 201 else 250]
    tags = {tag for tag, _, _ in scalars(folder)}
    assert tags >= {f"eval/{column}" for column in columns.split(",")[1:-1]}
    if "eaudeqn" in name:
        assert columns.endswith(",sparsity,nonzero_weights,wall_time")
        of_a_period = {"chosen", "target_sparsity", "target_nonzero_weights", "sparsity_2", "accumulated_loss_2"}
        assert tags >= {f"networks/{tag}" for tag in of_a_period}


def played(name, folder, cwd):
    """What `play.py` writes of the run, whose script must not stay in the place of the tests' module."""
    module = load(name)
    run_here("play", f"{folder} --episodes 2", cwd=cwd)
    sys.modules[stem(name)] = module
    return json.loads((folder / "play.json").read_text())


def test_saved_models_play(finished, tmp_path):
    """With the run's flags; where there is a layer, the folded model gives the same values at k = 0."""
    name, _, folder, _ = finished
    own = played(name, folder, tmp_path)
    assert own["episodes"] == 2 and own["epsilon"] == 1 and own["script"] == str(ROOT / f"{name}.py")
    assert set(own) > set(evaluations(folder)[0]) - {"sparsity", "nonzero_weights"}
    if hasattr(load(name), "MeanExpansion"):
        shutil.copytree(folder, tmp_path / "folded")
        config = json.loads((folder / "config.json").read_text())
        assert config["args"]["mean_scaling_coefficient"] > 0
        config["args"]["mean_scaling_coefficient"] = 0.0
        config["script"] = str(ROOT / f"{name}.py")
        (tmp_path / "folded" / "config.json").write_text(json.dumps(config))
        (tmp_path / "folded" / "model_folded.pt").replace(tmp_path / "folded" / "model.pt")
        folded = played(name, tmp_path / "folded", tmp_path)
        for metric, value in own.items():
            assert folded[metric] == (pytest.approx(value, rel=2e-3, abs=1e-6) if type(value) is float else value)


def test_resuming_with_other_flags(finished):
    """A finished run is not taken for that of other flags."""
    name, flags, _, folder = finished
    cwd = folder.parents[2]
    assert "had gamma = 0.99, not 0.9;" in refused(name, flags, "--resume --gamma 0.9", cwd=cwd)
    variant = VARIANTS[stem(name)]
    named = re.search(r" had (\w+) = ", refused(name, flags.replace(variant, ""), "--resume", cwd=cwd))[1]
    assert f"--{named.replace('_', '-')} " in variant


# BAD INPUT


def number(text):
    try:
        return float(text) if "." in text or text == "nan" else int(text)
    except ValueError:
        return text


def checked(name, flags, capsys):
    """The line with which `check_args` and `check_agent` refuse the flags, or None, and what they print else."""
    script = load(name)
    words = [number(word) for word in flags.split()]
    given = {
        word.removeprefix("--").replace("-", "_"): value for word, value in zip(words[::2], words[1::2], strict=True)
    }
    line = None
    try:
        script.check_args(script.Args(**given))
        if hasattr(script, "check_agent"):
            script.check_agent(script.Args(**given))
    except SystemExit as end:
        assert end.code == 2
    captured = capsys.readouterr()
    if captured.err:
        (line,) = captured.err.splitlines()
        assert line.startswith("error: --")
    return line, captured.out


AGENTS = "--num-networks 5 --horizon 1000 --total-timesteps 1000 --learning-starts 64"  # of eaudeqn
ONE = AGENTS.replace("networks 5", "networks 1")


@pytest.mark.parametrize(
    "name,flags,words",
    [
        ("dueling", "--rdq-beta -0.1", "--rdq-beta -0.1 must be a finite number, at least 0"),
        ("dueling", "--rdq-beta nan", "--rdq-beta nan must be a finite number, at least 0"),
        ("nature_dqn", "--rmsprop-eps -1", "--rmsprop-eps -1 must be a finite number, at least 0"),
        ("nature_dqn", "--rmsprop-alpha 1.5", "--rmsprop-alpha 1.5 must be from 0 to 1"),
        ("nature_dqn", "--mean-scaling-coefficient -1", "--mean-scaling-coefficient -1 must be"),
        ("softq", "--temperature -0.1", "--temperature -0.1 must be a finite number, at least 0"),
        ("softq", "--temperature nan", "--temperature nan must be a finite number, at least 0"),
        ("softq", "--munchausen 1.5", "--munchausen 1.5 must be from 0 to 1"),
        ("softq", "--temperature 0 --munchausen 0.9", "--temperature 0 has no Boltzmann policy"),
        ("softq", "--temperature 0 --policy boltzmann", "--temperature 0 has no Boltzmann policy"),
        ("softq", "--mean-scaling-coefficient -1", "--mean-scaling-coefficient -1 must be"),
        ("softq_online", "--temperature 0", "--temperature 0 must be a finite number, at least 0.0001"),
        ("softq_online", "--num-steps 0", "--num-steps 0 must be a finite number, at least 1"),
        ("softq_online", "--num-envs 0", "--num-envs 0 must be a finite number, at least 1"),
        ("softq_online", "--max-grad-norm 0", "--max-grad-norm 0 must be"),
        ("softq_online", "--value-coefficient -1", "--value-coefficient -1 must be"),
        ("isdqn", "--num-iterations -1", "--num-iterations -1 must be a finite number, at least 0"),
        ("isdqn", "--target-network 1", "--target-network learns one Bellman update, not 9: add --num-iterations 1"),
        ("isdqn", "--target-network 1 --num-iterations 0", "not 0: add --num-iterations 1"),
        ("isdqn", "--mean-scaling-coefficient -1", "--mean-scaling-coefficient -1 must be"),
        ("isdqn", "--target-network-frequency 0", "--target-network-frequency 0 must be a finite number, at least 1"),
        ("isdqn", "--target-network-frequency 3", "--target-network-frequency 3 must be at least --train-frequency 4"),
        ("eaudeqn", f"{AGENTS} --num-networks 0", "--num-networks 0 must be a finite number, at least 1"),
        ("eaudeqn", f"{AGENTS} --num-networks 1", "--num-networks 1 would never be pruned by --method eaudeqn"),
        ("eaudeqn", f"{AGENTS} --method polyprune", "--num-networks 5 is too many for --method polyprune, which has 1"),
        ("eaudeqn", f"{AGENTS} --method dense", "--num-networks 5 is too many for --method dense, which has 1"),
        ("eaudeqn", f"{AGENTS} --width 0", "--width 0 must be a finite number, at least 1"),
        ("eaudeqn", f"{AGENTS} --max-exponent -1", "--max-exponent -1 must be"),
        ("eaudeqn", f"{AGENTS} --max-speed nan", "--max-speed nan must be"),
        ("eaudeqn", f"{ONE} --method polyprune --final-sparsity 1.1", "--final-sparsity 1.1 must be from 0 to 1"),
        ("eaudeqn", f"{AGENTS} --prune-frequency 0", "--prune-frequency 0 must be a finite number, at least 1"),
        ("eaudeqn", f"{AGENTS} --horizon 999", "--horizon 999 must be at least 1000, which is --total-timesteps"),
        ("eaudeqn", f"{AGENTS} --target-network-frequency 3", "--target-network-frequency must be at least"),
    ],
)
@pytest.mark.parametrize("games", GAMES)
def test_bad_flags(name, flags, words, games, capsys):
    line, _ = checked(f"related/{name}_{games}", flags, capsys)
    assert line is not None and words in line


@pytest.mark.parametrize(
    "name,flags",
    [
        ("isdqn", "--target-network"),
        ("softq", "--temperature 0 --munchausen 0.9"),
        ("eaudeqn", "--method dense --num-networks 2"),
        ("eaudeqn", "--width 100000 --num-networks 100"),  # which would not fit into memory
        ("softq_online", "--num-steps 1000000000 --total-timesteps 16000000000"),
    ],
)
@pytest.mark.parametrize("games", GAMES)
def test_what_a_run_refuses(name, flags, games, tmp_path):
    """Flags that cannot work together, which `check_agent` finds, and too little memory leave nothing behind."""
    line = refused(f"related/{name}_{games}", flags, cwd=tmp_path)
    assert flags.split()[0] in line
    assert ("bytes" in line) == ("000000" in flags or "100000" in flags)


@pytest.mark.parametrize(
    "name,flags,total,warned",
    [
        # Four updates a period, at 64, 68, 72 and 76; with three environments in the steps to 66, 69, 72 and 78
        ("isdqn", "--learning-starts 64 --target-network-frequency 16 --num-iterations 2", 80, True),
        ("isdqn", "--learning-starts 64 --target-network-frequency 16 --num-iterations 2", 81, False),
        ("isdqn", "--learning-starts 64 --target-network-frequency 16 --num-iterations 2 --num-envs 3", 81, True),
        ("isdqn", "--learning-starts 64 --target-network-frequency 16 --num-iterations 2 --num-envs 3", 82, False),
        ("isdqn", "--learning-starts 64 --target-network-frequency 16 --num-iterations 0", 80, False),
        # The KL form is not Munchausen-DQN
        ("softq", "--learning-starts 64 --munchausen 0.9", 100, True),
        ("softq", "--learning-starts 64 --munchausen 0.9 --entropy-form entropy", 100, False),
    ],
)
@pytest.mark.parametrize("games", GAMES)
def test_warnings(name, flags, total, warned, games, capsys):
    line, out = checked(f"related/{name}_{games}", f"{flags} --total-timesteps {total}", capsys)
    assert line is None
    words = {"isdqn": "warning: --target-network-frequency is 4 updates", "softq": "is not Munchausen-DQN"}
    assert (words[name] in out) == warned


@pytest.mark.slow
@pytest.mark.parametrize("name", ["related/isdqn_minatar", "related/softq_online_atari"])  # most of their own to save
def test_killed_at_three_random_moments(name, tmp_path):
    total = 1000 if GAMES_OF[name] == "Atari" else 4000
    killed_and_resumed(name, f"{flags_of(name, total)} {accepted(name, '--train-frequency 4')}", tmp_path)


SHORT = "--env-id Breakout --total-timesteps 40000 --eval-frequency 40000 --exploration-steps 20000 --buffer-size 40000"
ONLINE = "--env-id Breakout --total-timesteps 150000 --eval-frequency 150000"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,flags",
    [
        ("softq", SHORT),
        ("softq_online", ONLINE),
        ("isdqn", f"{SHORT} --num-iterations 9"),
        ("eaudeqn", SHORT),
        ("eaudeqn", f"{SHORT} --method polyprune --prune-frequency 1000"),
    ],
)
def test_learns_breakout(name, flags, tmp_path):
    """It beats the random policy's mean score by a factor of three, and EauDeQN gets sparse meanwhile."""
    envs, rng, scores = load(f"related/{name}_minatar").MinAtarEnvs("Breakout", 10), np.random.default_rng(0), []
    envs.reset(np.arange(10))
    for _ in range(1000):
        *_, done, info = envs.step(rng.integers(3, size=10))
        scores += info["score"][done].tolist()
    run_here(f"related/{name}_minatar", flags, cwd=tmp_path)
    (row,) = evaluations(run_folders(tmp_path)[0])
    print(row, "random", np.mean(scores))  # shown when the test fails
    assert float(row["score_mean"]) > 3 * np.mean(scores)
    if name == "eaudeqn":
        assert float(row["sparsity"]) > (0.94 if "polyprune" in flags else 0.05)
