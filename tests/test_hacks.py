"""The four hacks of docs/hacking.md: each patch applies, is short, survives a kill, and computes what it claims."""

import copy
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers import (
    CPU,
    ROOT,
    Chosen,
    assert_same_run,
    batch_of,
    load,
    make_network,
    run_folders,
    run_here,
    stopped_and_resumed,
)

PAGE = (ROOT / "docs" / "hacking.md").read_text()
MOST_LINES = {"double_dqn": 6, "n_step": 40, "impala": 40, "prioritised_replay": 80}
FLAGS = (
    "--env-id ALE/Pong-v5 --no-cuda --total-timesteps 310 --learning-starts 100 --batch-size 4 --buffer-size 200 "
    "--exploration-steps 500 --train-frequency 8 --target-network-frequency 150 --checkpoint-frequency 200 "
    "--eval-frequency 250 --eval-steps 1 --eval-envs 1 --eval-epsilon 1 --save-model"
)


@pytest.fixture(scope="module")
def hacked(tmp_path_factory):
    """`hacked(name)` is the path of the script with the patch `name`, under the name of the patch."""
    folder = tmp_path_factory.mktemp("hacked")
    outside = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}  # or git would look for a repository above

    def patched(name):
        path = folder / f"{name}.py"
        if not path.exists():
            script = folder / "dqn_atari_mexp.py"
            script.write_bytes((ROOT / script.name).read_bytes())
            patch = ROOT / "docs" / "hacks" / f"{name}.patch"
            git = subprocess.run(["git", "apply", patch], cwd=folder, env=outside, capture_output=True, text=True)
            assert git.returncode == 0, git.stderr
            script.rename(path)
        return path

    return patched


@pytest.fixture(scope="module")
def module(hacked):
    """`module(name)` is the patched script as a module."""
    return lambda name: load(str(hacked(name).with_suffix("")))


# EVERY PATCH


def test_no_patch_is_forgotten():
    assert {path.stem for path in (ROOT / "docs" / "hacks").glob("*.patch")} == set(MOST_LINES)


@pytest.mark.parametrize("name", MOST_LINES)
def test_applies_and_is_short(name, hacked):
    """The page says how many lines change."""
    diff = subprocess.run(["diff", ROOT / "dqn_atari_mexp.py", hacked(name)], capture_output=True, text=True)
    changed = [line for line in diff.stdout.splitlines() if line[0] in "<>"]
    assert 0 < len(changed) <= MOST_LINES[name]
    assert f"| [{name}](hacks/{name}.patch) | {len(changed)} |" in PAGE


def test_the_patched_files_are_clean(hacked):
    files = [hacked(name) for name in MOST_LINES]
    config = ["--no-cache", "--config", ROOT / "pyproject.toml"]
    for tool in (["check"], ["format", "--check"]):
        ruff = subprocess.run([sys.executable, "-m", "ruff", *tool, *config, *files], capture_output=True, text=True)
        assert ruff.returncode == 0, ruff.stdout + ruff.stderr


def patched_with(script, name, new):
    """Whether the page's `patch -o NEW OLD PATCH` fits; `new` is the file that it makes."""
    command = ["patch", "-o", new, "-r", "-", script, f"docs/hacks/{name}.patch"]
    return subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def test_the_documented_command_makes_the_same_file(hacked, tmp_path):
    for name in MOST_LINES:
        assert patched_with("dqn_atari_mexp.py", name, tmp_path / name)
        assert (tmp_path / name).read_bytes() == hacked(name).read_bytes()


def test_which_fit_on_top_of_one_another(hacked, tmp_path):
    """The page says: all pairs but those of n-step returns with two others."""
    for i, first in enumerate(MOST_LINES):
        for second in list(MOST_LINES)[i + 1 :]:
            fits = "n_step" not in (first, second) or "impala" in (first, second)
            assert patched_with(hacked(first), second, tmp_path / "both.py") == fits, (first, second)
            if fits:
                compile((tmp_path / "both.py").read_text(), "both.py", "exec")


@pytest.mark.parametrize(
    "script,fitting",
    [
        ("dqn_atari", {"double_dqn", "n_step", "prioritised_replay"}),
        ("minatar_mexp", {"double_dqn"}),
        ("lunarlander_mexp", {"double_dqn"}),
        ("related/dueling_atari", {"double_dqn"}),
        ("related/dueling_minatar", {"double_dqn"}),
        ("related/nature_dqn_atari", {"double_dqn", "impala", "n_step"}),
        ("related/softq_atari", {"impala", "prioritised_replay"}),
    ],
)
def test_which_fit_other_scripts(script, fitting, tmp_path):
    """As the page says."""
    assert {name for name in MOST_LINES if patched_with(f"{script}.py", name, tmp_path / "new")} == fitting
    assert script.replace("dueling_atari", "dueling_*").replace("dueling_minatar", "dueling_*") + ".py" in PAGE


# One has state of its own to save
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("double_dqn", "impala", "n_step")]


@pytest.mark.parametrize("name", ["prioritised_replay", *SLOW])
def test_stopped_and_resumed(name, hacked, tmp_path):
    """A run of the emulator that was stopped after a checkpoint ends with the same weights."""
    whole, resumed = stopped_and_resumed(str(hacked(name).with_suffix("")), FLAGS, tmp_path, stop_at=270)
    assert_same_run(whole, resumed)
    assert resumed.name.startswith(f"Pong-v5__{name}__1__"), "a copy under another name is another experiment"
    if name == "prioritised_replay":
        (stopped,) = run_folders(tmp_path / "stopped")
        buffer = torch.load(stopped / "checkpoint.pt", weights_only=True)["components"]["buffer"]
        assert len(buffer["priorities"].unique()) > 20, "priorities of TD errors"


def test_the_first_command(tmp_path):
    """The first block of the page, as a user types it: a fork that trains, saves its network, and is played."""
    for name in ("minatar_mexp.py", "play.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    block = re.search(r"```bash\n(.+?)```", PAGE, re.DOTALL)[1]
    assert block.startswith("cp minatar_mexp.py my_dqn.py\n") and block.endswith("diff minatar_mexp.py my_dqn.py\n")
    python = os.path.dirname(sys.executable)  # the page's `python` is that of an active environment
    where = {"TMPDIR": str(tmp_path), "PATH": python + os.pathsep + os.environ["PATH"]}
    trained = subprocess.run(
        ["bash", "-ec", block], cwd=tmp_path, env=os.environ | where, capture_output=True, text=True, timeout=600
    )
    assert trained.returncode == 0, trained.stderr
    assert not (tmp_path / "runs").exists()
    (folder,) = run_folders(tmp_path)
    assert folder.name.startswith("Breakout-v1__my_dqn__1__") and len(list(folder.glob("eval.csv"))) == 1
    last = trained.stdout.splitlines()[-1]
    assert last.endswith(f"to watch: python play.py {folder} --video")
    play = run_here("play", f"{folder} --episodes 2", cwd=tmp_path)
    assert play.stdout.startswith("episodes 2\n")


# WHAT THE TESTS BELOW SHARE


def step_by_hand(script, args, batch, targets, network, target):
    """Check `update` of one SGD step against given targets: errors, and the gradient of the weighted sum of squares."""
    weights = batch.weights if "weights" in batch._fields else torch.ones(len(batch.actions))
    expected = copy.deepcopy(network)
    values = expected(batch.obs)[torch.arange(len(batch.actions)), batch.actions]
    errors = torch.tensor(targets) - values
    loss = sum(0.5 * weight * error**2 for weight, error in zip(weights, errors, strict=True))
    loss.backward()
    rate = 1e-4
    got = script.update(network, target, torch.optim.SGD(network.parameters(), lr=rate), args, batch)
    torch.testing.assert_close(got[0], loss.detach())
    torch.testing.assert_close(got[2], errors.detach())
    for (name, parameter), other in zip(network.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), other.detach() - rate * other.grad, msg=name)


def two_networks(script):
    """An online and a target network that disagree on the best actions."""
    torch.manual_seed(1)
    return make_network(script), make_network(script).requires_grad_(False)


def batch_with(script, **fields):
    """16 transitions, some of them terminal, and what the patch adds to them."""
    return script.Batch(**batch_of(load("dqn_atari_mexp"))._asdict(), **fields)


class Episodes:
    """Random episodes, put into a buffer as the training loop does, and kept as plain lists.

    Every frame carries a number; `place` maps it to its episode and to its index there.
    """

    def __init__(self, buffer, rng, p_terminated, p_truncated, p_cut):
        self.buffer = buffer
        self.rng = rng
        self.chances = p_terminated, p_truncated, p_cut
        self.frames_made = 0
        self.place = {}
        self.current = [self.begin() for _ in range(buffer.num_envs)]
        self.done = np.ones(buffer.num_envs, bool)

    def begin(self):
        episode = {"numbers": [], "rewards": [], "terminal": False}
        self.observe(episode)
        return episode

    def observe(self, episode):
        self.frames_made += 1
        self.place[self.frames_made] = (episode, len(episode["numbers"]))
        episode["numbers"].append(self.frames_made)

    def newest_frames(self):
        frames = np.zeros((self.buffer.num_envs, 84, 84), np.uint8)
        for i, episode in enumerate(self.current):
            frames[i, 0, :4] = np.frombuffer(np.uint32(episode["numbers"][-1]).tobytes(), np.uint8)
        return frames

    def act(self):
        """The first half of the loop's body, after which it samples."""
        everyone = np.arange(self.buffer.num_envs)
        actions = np.array([episode["numbers"][-1] % 18 for episode in self.current])
        self.buffer.append(everyone, self.newest_frames(), self.done, actions)

    def answer(self):
        """The second half: rewards, ends of episodes, and now and then a checkpoint, which cuts all that go on."""
        n = self.buffer.num_envs
        p_terminated, p_truncated, p_cut = self.chances
        rewards = self.rng.integers(-1, 2, size=n)
        terminated = self.rng.random(n) < p_terminated
        truncated = (self.rng.random(n) < p_truncated) & ~terminated
        for i, episode in enumerate(self.current):
            episode["rewards"].append(int(rewards[i]))
            episode["terminal"] = bool(terminated[i])
            if not terminated[i]:
                self.observe(episode)
        self.buffer.complete(rewards, terminated)
        if truncated.any():
            self.buffer.truncate(truncated, self.newest_frames())
        self.done = terminated | truncated
        if self.rng.random() < p_cut:
            self.buffer.truncate(~self.done, self.newest_frames())
            self.done[:] = True
        for i in np.flatnonzero(self.done):
            self.current[i] = self.begin()

    def stack(self, episode, index):
        """The numbers of the four frames of an observation, 0 before the episode's start."""
        return [episode["numbers"][i] if i >= 0 else 0 for i in range(index - 3, index + 1)]


def numbers(frames):
    """The numbers in frames (..., 84, 84)."""
    return np.ascontiguousarray(frames.numpy()[..., 0, :4]).view(np.uint32)[..., 0].astype(int)


KINDS = [
    dict(p_terminated=0.05, p_truncated=0, p_cut=0),
    dict(p_terminated=0.0, p_truncated=0, p_cut=0),  # one endless episode
    dict(p_terminated=0.05, p_truncated=0.1, p_cut=0.02),
    dict(p_terminated=0.2, p_truncated=0.2, p_cut=0.2),  # episodes shorter than a stack and than n
]


# TARGETS AND LOSSES


def test_double_dqn_target(module):
    """The online network chooses the action and the target network evaluates it, in a loop over the batch."""
    script = module("double_dqn")
    network, target = two_networks(script)
    batch = batch_with(script)
    targets = []
    of_dqn = []
    with torch.no_grad():
        online_values, target_values = network(batch.next_obs).tolist(), target(batch.next_obs).tolist()
    for b in range(16):
        chosen = online_values[b].index(max(online_values[b]))
        goes_on = 1 - float(batch.terminated[b])
        targets.append(float(batch.rewards[b]) + 0.9 * goes_on * target_values[b][chosen])
        of_dqn.append(float(batch.rewards[b]) + 0.9 * goes_on * max(target_values[b]))
    assert sum(a < b - 1e-3 for a, b in zip(targets, of_dqn, strict=True)) >= 5, "else this test shows nothing"
    step_by_hand(script, script.Args(gamma=0.9), batch, targets, network, target)


@pytest.mark.parametrize("name", ["n_step", "prioritised_replay"])
def test_discounts_and_weights_of_a_batch(name, module):
    """Each transition's own discount in its target, and its own weight in the loss."""
    script = module(name)
    network, target = two_networks(script)
    discounts, field = torch.full((16,), 0.99), {"weights": torch.linspace(0.1, 1, 16)}
    if name == "n_step":
        discounts = 0.9 ** torch.arange(1, 17)
        field = {"discounts": discounts}
    batch = batch_with(script, **field)
    with torch.no_grad():
        next_values = target(batch.next_obs).amax(1)
    targets = (batch.rewards + discounts * (1 - batch.terminated) * next_values).tolist()
    step_by_hand(script, script.Args(), batch, targets, network, target)


# N-STEP RETURNS


@pytest.mark.parametrize("n_step", [2, 3, 6])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("kinds", KINDS, ids=["terminated", "endless", "truncated", "short"])
def test_n_step_against_lists(kinds, num_envs, n_step, module):
    """Every valid slot's return, discount, successor and end, many times over a ring that wraps."""
    script = module("n_step")
    args = script.Args(n_step=n_step, gamma=0.9)
    rng = np.random.default_rng(n_step)
    buffer = script.ReplayBuffer(20 * num_envs, num_envs, CPU)
    episodes = Episodes(buffer, rng, **kinds)
    lengths_seen = {"terminal": set(), "cut": set(), "newest": set()}
    checks = 0
    for t in range(120):
        episodes.act()
        if t > 3 and t % 4 == 0:
            slots = np.flatnonzero(buffer.valid(np.arange(buffer.size)))
            batch = buffer.sample(len(slots), Chosen(slots.copy()), CPU, args)
            for b, (stack, successor) in enumerate(zip(numbers(batch.obs), numbers(batch.next_obs), strict=True)):
                episode, start = episodes.place[stack[-1]]
                returned = 0.0
                steps = 0
                while steps < n_step and start + steps < len(episode["rewards"]):
                    returned += 0.9**steps * episode["rewards"][start + steps]
                    steps += 1
                ends = episode["terminal"] and start + steps == len(episode["rewards"])
                assert list(stack) == episodes.stack(episode, start)
                assert batch.actions[b] == stack[-1] % 18
                assert batch.rewards[b].item() == pytest.approx(returned, abs=1e-6)
                assert batch.discounts[b].item() == pytest.approx(0.9**steps)
                assert batch.terminated[b].item() == ends
                if not ends:
                    assert list(successor) == episodes.stack(episode, start + steps)
                kind = "terminal" if ends else "newest" if episode in episodes.current else "cut"
                lengths_seen[kind].add(steps)
            assert batch.rewards.dtype == batch.discounts.dtype == batch.terminated.dtype == torch.float32
            checks += len(slots)
        episodes.answer()
    assert checks > 200
    likely = set(range(1, min(n_step, 3) + 1))  # longer returns are rare where episodes are short
    assert likely <= lengths_seen["newest"]
    if kinds["p_terminated"] > 0:
        assert likely <= lengths_seen["terminal"]
    if kinds["p_truncated"] > 0:
        assert likely <= lengths_seen["cut"]


def test_one_step_is_the_script(module):
    """`--n-step 1` draws the script's own batches."""
    script = module("n_step")
    original = load("dqn_atari_mexp")
    batches = []
    for buffer in (original.ReplayBuffer(30, 2, CPU), script.ReplayBuffer(30, 2, CPU)):
        episodes = Episodes(buffer, np.random.default_rng(0), 0.1, 0.1, 0.05)
        for _ in range(60):
            episodes.act()
            episodes.answer()
        last = [script.Args(n_step=1)] if batches else []
        batches.append(buffer.sample(64, np.random.default_rng(5), CPU, *last))
    for field in original.Batch._fields:
        assert torch.equal(getattr(batches[0], field), getattr(batches[1], field)), field
    assert (batches[1].discounts == np.float32(0.99)).all()


# IMPALA'S NETWORK


def impala_by_hand(weights, obs, k):
    """The network in float64 from its weights, by the description in the paper."""
    names = iter([name.removesuffix(".weight") for name in weights if name.endswith(".weight")])

    def conv(x):
        name = next(names)
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    x = obs.double() / 255
    for channels, size in ((16, 42), (32, 21), (32, 11)):
        x = F.max_pool2d(conv(x), 3, stride=2, padding=1)
        assert x.shape[1:] == (channels, size, size)
        for _ in range(2):
            x = x + conv(F.relu(conv(F.relu(x))))
    x = F.relu(x).flatten(1)
    for width in (256, 6):
        name = next(names)
        x = F.linear(x if width == 256 else F.relu(x), weights[f"{name}.weight"], weights[f"{name}.bias"])
        assert x.shape[1] == width
    assert next(names, None) is None
    return x + k * x.mean(1, keepdim=True)


def test_impala_network(module):
    """Values, the 34 tensors, which are LeCun normal as in the network that it replaces, and the layer folded away."""
    script = module("impala")
    torch.manual_seed(0)
    network = script.QNetwork(6, 2.0)
    obs = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    values = network(obs)
    weights = {name: value.double() for name, value in network.state_dict().items()}
    assert values.shape == (3, 6) and values.dtype == torch.float32
    torch.testing.assert_close(values.double(), impala_by_hand(weights, obs, 2.0), rtol=1e-4, atol=1e-4)

    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 17 and len(list(network.parameters())) == 34
    for layer in layers:
        scaled = layer.weight.detach() * layer.weight[0].numel() ** 0.5
        assert abs(scaled.std() - 1) < 5 / (2 * scaled.numel()) ** 0.5
        assert (layer.bias == (0 if layer is network.output else 0.1)).all()
    folded = script.QNetwork(6, 0.0)
    folded.load_state_dict(network.folded_state_dict())
    torch.testing.assert_close(folded(obs), values, rtol=1e-4, atol=1e-4)


# PRIORITISED REPLAY


@pytest.mark.parametrize("size", [2, 7, 64, 65, 1000])
def test_sum_tree_against_cumulated_sums(size, module):
    """Whole numbers as priorities, so that both ways of adding them are exact."""
    rng = np.random.default_rng(size)
    tree = module("prioritised_replay").SumTree(size)
    priorities = np.zeros(size)
    for _ in range(30):
        slots = rng.integers(size, size=rng.integers(1, 9))
        priorities[slots] = slots % 5 + rng.integers(3)  # zeros too; the same slot twice gets the same
        tree.set(slots, priorities[slots])
        cumulated = np.cumsum(priorities)
        assert tree.nodes[1] == cumulated[-1]
        if cumulated[-1] > 0:
            sums = np.append(rng.random(50) * cumulated[-1], [0, cumulated[-1] - 1])
            assert np.array_equal(tree.find(sums), np.searchsorted(cumulated, sums, side="right"))
            beyond = tree.find(np.array([cumulated[-1], 2 * cumulated[-1]]))
            assert (priorities[beyond] > 0).all(), "a sum that was rounded up still finds a slot that can be drawn"


def filled_priorities(script, num_envs, steps=150, **kinds):
    """A buffer after random episodes, some of whose transitions were sampled and have got their TD errors."""
    rng = np.random.default_rng(num_envs)
    buffer = script.ReplayBuffer(40 * num_envs, num_envs, CPU)
    episodes = Episodes(buffer, rng, **kinds)
    args = script.Args()
    for t in range(steps):
        episodes.act()
        if t > 5:
            _, slots = buffer.sample(8, rng, CPU, 0.5)
            assert buffer.valid(slots).all()
            buffer.prioritise(slots, torch.from_numpy(slots % 7 / 2).float(), args)
        if t < steps - 1:
            episodes.answer()
    return buffer


def leaves(buffer):
    return buffer.priorities.nodes[buffer.priorities.leaves :][: buffer.size]


def test_priorities_by_hand(module):
    """New transitions have the largest priority so far; those sampled (|TD error| + eps)^alpha, kept until then."""
    script = module("prioritised_replay")
    args = script.Args(priority_alpha=0.5, priority_eps=0.01)
    buffer = script.ReplayBuffer(100, 2, CPU)
    episodes = Episodes(buffer, np.random.default_rng(0), 0.1, 0.0, 0.0)
    for _ in range(10):
        episodes.act()
        episodes.answer()
    expected = np.zeros(buffer.size)
    expected[:20] = 1  # nothing was sampled yet
    assert np.array_equal(leaves(buffer), expected)
    buffer.prioritise(np.array([3, 8, 3]), torch.tensor([-3.99, 0.24, -3.99]), args)
    expected[[3, 8]] = [2.0, 0.5]
    np.testing.assert_allclose(leaves(buffer), expected, rtol=1e-6)
    buffer.prioritise(np.array([3]), torch.tensor([0.0]), args)
    expected[3] = 0.1
    episodes.act()
    episodes.answer()
    expected[20:22] = 2.0  # the largest ever, though no transition has it any more
    np.testing.assert_allclose(leaves(buffer), expected, rtol=1e-6)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("kinds", KINDS, ids=["terminated", "endless", "truncated", "short"])
def test_drawn_by_priority(kinds, num_envs, module):
    """How often each slot is drawn, and its weight, against the definitions over all valid slots."""
    script = module("prioritised_replay")
    buffer = filled_priorities(script, num_envs, **kinds)
    valid = buffer.valid(np.arange(buffer.size))
    probabilities = np.where(valid, leaves(buffer), 0)
    probabilities = probabilities / probabilities.sum()
    assert len(np.unique(probabilities)) > 4
    rng = np.random.default_rng(0)
    counts = np.zeros(buffer.size)
    draws = 6400
    for _ in range(draws // 32):
        batch, slots = buffer.sample(32, rng, CPU, 0.7)
        assert valid[slots].all()
        assert np.array_equal(numbers(buffer.frames[: buffer.size])[slots], numbers(batch.obs)[:, -1])
        np.add.at(counts, slots, 1)
        weights = (valid.sum() * probabilities[slots]) ** -0.7
        np.testing.assert_allclose(batch.weights, weights / weights.max(), rtol=1e-6)
    assert batch.weights.dtype == torch.float32
    expected = draws * probabilities
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected) + 2).all()


def test_without_priorities_all_weigh_the_same(module):
    script = module("prioritised_replay")
    buffer = filled_priorities(script, 1, p_terminated=0.05, p_truncated=0, p_cut=0)
    args = script.Args(priority_alpha=0.0)
    buffer.prioritise(np.arange(buffer.size), torch.linspace(0, 9, buffer.size), args)
    assert (leaves(buffer) == 1).all()
    batch, _ = buffer.sample(32, np.random.default_rng(0), CPU, 0.4)
    assert (batch.weights == 1).all()
