"""What every script under `related/` must do as its base does: a whole run's files, resuming, saved models, bad input.
Their algorithms are tested in files of their own."""

import csv
import json
import re

import pytest
from conftest import GAMES_OF, RELATED, accepted, load
from test_bad_input import refused
from test_outputs import COLUMNS
from test_resume import FLAGS as ATARI
from test_resume import assert_same_run, killed_and_resumed, run_here, scalars, stopped_and_resumed

MINATAR = (
    "--env-id MinAtar/Seaquest-v1 --batch-size 8 --learning-starts 64 --buffer-size 400 --train-frequency 8 "
    "--exploration-steps 600 --target-network-frequency 150 --eval-frequency 250 --eval-episodes 3 --eval-envs 2 "
    "--eval-epsilon 1 --checkpoint-frequency 200 --save-model"
)
# A shift every 5 updates, so that a resumed run that counted them anew would shift at other steps
HEADS = "--mean-scaling-coefficient None --num-iterations 3 --eval-head random --target-network-frequency 40"
VARIANTS = {  # flags that turn on what the default leaves out
    "dueling_atari": "--rdq-beta 0.001",
    "dueling_minatar": "--rdq-beta 0.001",
    "eaudeqn_atari": "--mean-scaling-coefficient None --width 32 --num-networks 3 --horizon 9000",
    "eaudeqn_minatar": "--mean-scaling-coefficient None --width 32 --horizon 9000 --num-envs 3",
    "isdqn_atari": HEADS,
    "isdqn_minatar": HEADS,
    "nature_dqn_atari": "--mean-scaling-coefficient None",
    "nature_dqn_minatar": "--mean-scaling-coefficient None",
    "softq_atari": "--mean-scaling-coefficient None --munchausen 0.9 --entropy-form entropy --policy boltzmann",
    "softq_minatar": "--mean-scaling-coefficient None --munchausen 0.9 --entropy-form entropy --policy boltzmann",
    "softq_online_atari": "--temperature 0.02 --method pg --num-envs 3",
    "softq_online_minatar": "--temperature 0.02 --method pg --num-envs 3",
}


def flags_of(name, total):
    flags = ATARI if GAMES_OF[name] == "Atari" else MINATAR
    flags = flags.replace("--save-model", f"--total-timesteps {total}")
    return f"{accepted(name, flags)} --save-model"


def stem(name):
    return name.removeprefix("related/")


# Runs of Atari take long: of these scripts they are among the slow tests
LONG = ["related/nature_dqn_atari", "related/softq_atari", "related/isdqn_atari", "related/eaudeqn_atari"]
MARKED = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in RELATED]


@pytest.fixture(scope="module", params=MARKED)
def finished(request, tmp_path_factory):
    """A run of every script with its variant's flags, whole, and one that was stopped and resumed."""
    tmp_path = tmp_path_factory.mktemp("related")
    flags = f"{flags_of(request.param, 310)} {VARIANTS[stem(request.param)]}"
    whole, resumed = stopped_and_resumed(request.param, flags, tmp_path, stop_at=270)
    return request.param, flags, whole, resumed


def test_every_script_has_a_variant():
    assert set(VARIANTS) == {stem(name) for name in RELATED}


def test_resumes_bit_for_bit(finished):
    _, _, whole, resumed = finished
    assert_same_run(whole, resumed)


def test_files(finished):
    name, _, folder, _ = finished
    assert re.fullmatch(rf"\w+-v\d__{stem(name)}__1__\d+", folder.name)
    config = json.loads((folder / "config.json").read_text())
    assert config["finished"] is True and set(config["args"]) == set(vars(load(name).Args()))
    left = {path.name.split(".")[0] for path in folder.iterdir()}
    folded = {"model_folded"} if hasattr(load(name), "MeanExpansion") else set()
    assert left == {"config", "eval", "events", "model"} | folded
    columns = (folder / "eval.csv").read_text().splitlines()[0]
    assert columns.startswith(COLUMNS.removesuffix("wall_time")) and columns.endswith(",wall_time")
    with open(folder / "eval.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [252 if "--num-envs 3" in VARIANTS[stem(name)] else 250]
    tags = {tag for tag, _, _ in scalars(folder)}
    assert tags >= {"eval/episodic_return", "eval/overestimation", "eval/action_gap", "eval/q_norm", "eval/z_norm"}
    if "eaudeqn" in name:
        assert columns.endswith(",sparsity,nonzero_weights,wall_time")
        of_a_period = {"chosen", "target_sparsity", "target_nonzero_weights", "sparsity_2", "accumulated_loss_2"}
        assert tags >= {f"networks/{tag}" for tag in of_a_period} | {"eval/sparsity", "eval/nonzero_weights"}


def numbers(line):
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", line)]


def test_saved_models_play(finished, tmp_path):
    """With the flags of the run; where there is a layer, the folded model gives the same values at k = 0."""
    name, flags, folder, _ = finished
    own = run_here(name, flags, f"--eval-only {folder}/model.pt", cwd=tmp_path).stdout.splitlines()[-1]
    assert own.startswith("step 0: episodes")
    if hasattr(load(name), "MeanExpansion"):
        only = f"--eval-only {folder}/model_folded.pt --mean-scaling-coefficient 0"
        folded = run_here(name, flags, only, cwd=tmp_path).stdout.splitlines()[-1]
        own, folded = [line.split(", z_norm")[0] for line in (own, folded)]  # at k = 0 z is q
        assert numbers(own) == pytest.approx(numbers(folded), rel=2e-3)
    other = "ALE/Pong-v5" if GAMES_OF[name] == "Atari" else "MinAtar/Seaquest-v0"
    line = refused(name, flags, f"--env-id {other} --eval-only {folder}/model.pt", cwd=tmp_path)
    assert "--eval-only" in line
    default = flags.replace(VARIANTS[stem(name)], "")
    assert "--eval-only" in refused(name, default, f"--eval-only {folder}/model.pt", cwd=tmp_path)


def test_resuming_with_other_flags(finished):
    """A finished run is not taken for that of other flags."""
    name, flags, _, folder = finished
    cwd = folder.parents[2]
    line = refused(name, flags, "--resume --gamma 0.9", cwd=cwd)
    assert "--gamma 0.99" in line
    variant = VARIANTS[stem(name)]
    assert variant.split()[0] in refused(name, flags.replace(variant, ""), "--resume", cwd=cwd)


@pytest.mark.parametrize(
    "name,flags",
    [
        ("dueling", "--rdq-beta -0.1"),
        ("dueling", "--rdq-beta nan"),
        ("nature_dqn", "--rmsprop-eps 0"),
        ("nature_dqn", "--rmsprop-alpha 1"),
        ("nature_dqn", "--mean-scaling-coefficient -1"),
        ("softq", "--munchausen -1"),
        ("isdqn", "--num-iterations -1"),
    ],
)
@pytest.mark.parametrize("games", ["atari", "minatar"])
def test_own_flags(name, flags, games, tmp_path):
    line = refused(f"related/{name}_{games}", "--buffer-size 400 --learning-starts 64", flags, cwd=tmp_path)
    assert line.startswith(f"error: {flags}") and "at least" in line


# Atari's checkpoints are one mechanism, which the bases' random kills and the resumed runs above test; only the online
# script has another loop
RANDOMLY_KILLED = [name for name in RELATED if GAMES_OF[name] != "Atari" or "online" in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOMLY_KILLED)
def test_killed_at_three_random_moments(name, tmp_path):
    total = 1000 if GAMES_OF[name] == "Atari" else 4000
    killed_and_resumed(name, f"{flags_of(name, total)} {accepted(name, '--train-frequency 4')}", tmp_path)
