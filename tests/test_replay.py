"""The replay buffers: Atari's against a naive list of stacked observations, the others' against one of transitions."""

import copy
import io

import gymnasium
import numpy as np
import pytest
import torch
from helpers import CPU, Chosen, load
from scipy.stats import chisquare

dqn = load("dqn_atari")


class NaiveReplay:
    """Every transition ever, with its stacks, under the number that is written into its newest frame."""

    def __init__(self, num_envs):
        self.transitions, self.order = {}, [[] for _ in range(num_envs)]
        self.counter = 0

    def frame(self):
        """A new frame, unlike all others."""
        self.counter += 1
        frame = np.full((84, 84), self.counter % 251 + 1, np.uint8)
        frame[0, :4] = np.frombuffer(np.uint32(self.counter).tobytes(), np.uint8)
        return frame

    @staticmethod
    def number(frame):
        return int(np.frombuffer(np.ascontiguousarray(frame[0, :4]).tobytes(), np.uint32)[0])

    def add(self, env, stack, action, reward, terminated, successor):
        self.transitions[self.number(stack[-1])] = (stack, action, reward, terminated, successor)
        self.order[env].append(self.number(stack[-1]))


def push(stack, frame):
    return np.concatenate([stack[1:], frame[None]])


def start(frame):
    return push(np.zeros((4, 84, 84), np.uint8), frame)


def fill(buffer, naive, steps, rng, p_terminated=0.05, p_truncated=0.0, p_cut=0.0, check=None):
    """Random episodes through the calls that the training loop makes, in its order."""
    n = buffer.num_envs
    stacks, done = [start(naive.frame()) for _ in range(n)], np.ones(n, bool)
    for t in range(steps):
        actions = rng.integers(18, size=n)
        buffer.append(np.arange(n), np.stack([stack[-1] for stack in stacks]), done, actions)
        if check and t % 7 == 3:
            check()
        rewards = rng.integers(-1, 2, size=n)
        terminated = rng.random(n) < p_terminated
        truncated = (rng.random(n) < p_truncated) & ~terminated
        done = terminated | truncated
        successors = [push(stack, naive.frame()) for stack in stacks]
        buffer.complete(rewards, terminated)
        if truncated.any():
            buffer.truncate(truncated, np.stack([successor[-1] for successor in successors]))
        for i in range(n):
            naive.add(i, stacks[i], actions[i], rewards[i], terminated[i], successors[i])
            stacks[i] = start(naive.frame()) if done[i] else successors[i]
        if rng.random() < p_cut:  # what happens at a checkpoint
            buffer.truncate(~done, np.stack([stack[-1] for stack in stacks]))
            stacks, done = [start(naive.frame()) for _ in range(n)], np.ones(n, bool)
    actions = rng.integers(18, size=n)
    buffer.append(np.arange(n), np.stack([stack[-1] for stack in stacks]), done, actions)


def check_draws(buffer, naive, rng, batches, batch_size=32):
    """Draws whatever the buffer gives and compares it with the list; returns how often each transition came."""
    counts = {}
    for _ in range(batches):
        batch = dqn.Batch(*(x.numpy() for x in buffer.sample(batch_size, rng, CPU)))
        assert batch.obs.shape == batch.next_obs.shape == (batch_size, 4, 84, 84)
        assert batch.obs.dtype == batch.next_obs.dtype == np.uint8 and batch.actions.dtype == np.int64
        assert batch.rewards.dtype == batch.terminated.dtype == np.float32
        for b in range(batch_size):
            number = naive.number(batch.obs[b, 3])
            stack, action, reward, terminated, successor = naive.transitions[number]
            assert np.array_equal(batch.obs[b], stack)
            assert (batch.actions[b], batch.rewards[b], batch.terminated[b]) == (action, reward, terminated)
            if not terminated:
                assert np.array_equal(batch.next_obs[b], successor)
            counts[number] = counts.get(number, 0) + 1
    return counts


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(
    "steps,kinds",
    [
        (60, dict(p_terminated=0.05)),  # not yet full
        (1000, dict(p_terminated=0.05)),  # over the ring's end, many times
        (1000, dict(p_terminated=0.3)),  # episodes shorter than a stack
        (1000, dict(p_terminated=0.0)),  # one endless episode
        (1000, dict(p_terminated=0.05, p_truncated=0.1)),
        (1000, dict(p_terminated=0.2, p_truncated=0.2, p_cut=0.2)),
    ],
    ids=["filling", "ring", "short", "endless", "truncated", "cut"],
)
def test_against_naive_list(num_envs, steps, kinds):
    rng = np.random.default_rng(steps + num_envs)
    buffer, naive = dqn.ReplayBuffer(120, num_envs, CPU), NaiveReplay(num_envs)
    fill(
        buffer,
        naive,
        steps,
        rng,
        **kinds,
        check=lambda: len(naive.transitions) > 9 and check_draws(buffer, naive, rng, 1),
    )
    counts = check_draws(buffer, naive, rng, 25, 128)  # as much as four updates at once draw
    capacity = 120 // num_envs
    for order in naive.order:
        drawn = [i for i, number in enumerate(order) if number in counts]
        assert drawn[0] >= len(order) - capacity - 3, "older than what the buffer can hold"
        if not (kinds.get("p_truncated") or kinds.get("p_cut")):
            assert set(range(max(0, len(order) - capacity), len(order))) <= set(drawn), "not all that it should hold"
        if not kinds["p_terminated"]:
            assert len(drawn) == min(capacity, len(order)), "exactly its capacity"
        assert drawn[-1] == len(order) - 1, "the newest transition is there"
    assert chisquare(list(counts.values())).pvalue > 0.01, "uniform"


def test_terminal_successor_has_no_frame_of_the_next_episode():
    """It is not used, but nothing of it may come from the future."""
    rng = np.random.default_rng(0)
    buffer, naive = dqn.ReplayBuffer(50, 2, CPU), NaiveReplay(2)
    fill(buffer, naive, 200, rng, p_terminated=0.3)
    batch = buffer.sample(200, rng, CPU)
    terminal = batch.terminated.bool()
    assert 20 < terminal.sum() < 100
    assert not batch.next_obs[terminal, 3].any() and batch.next_obs[~terminal, 3].flatten(1).any(1).all()
    assert torch.equal(batch.next_obs[:, :3], batch.obs[:, 1:])


def test_a_truncations_extra_slot_is_clean():
    """Its reward is 0 and it is not terminal, also where the ring has wrapped around over other values."""
    rng = np.random.default_rng(0)
    buffer, slots = dqn.ReplayBuffer(21, 2, CPU), []
    done = np.ones(2, bool)
    for t in range(200):
        frames = rng.integers(1, 256, size=(2, 84, 84), dtype=np.uint8)
        buffer.append(np.arange(2), frames, done, rng.integers(1, 18, size=2))
        buffer.complete(np.ones(2), np.ones(2, bool))  # whatever lay in a slot before was rewarded and terminal
        done = np.ones(2, bool)
        if t % 3 == 1:
            buffer.complete(np.ones(2), np.array([t % 2 == 0, True]))
            cut = np.array([t % 2 == 1, False])
            buffer.truncate(cut, frames)
            if cut[0]:
                slot = (buffer.written[0] - 1) % buffer.length * 2
                slots.append(slot)
                assert buffer.rewards[slot] == 0 and not buffer.terminated[slot] and buffer.actions[slot] == 0
                assert not buffer.valid(np.array([slot]))[0]
                before = (buffer.written[0] - 2) % buffer.length * 2
                assert buffer.valid(np.array([before]))[0] and not buffer.terminated[before]
    assert buffer.written[0] > 10 * buffer.length and len(set(slots)) > 3


def test_against_the_emulator():
    """Observations come back as the emulator stacked them, over game overs, time limits and a checkpoint's cut."""
    n, rng = 3, np.random.default_rng(0)
    envs, buffer = dqn.AtariEnvs("ALE/Breakout-v5", n, max_steps=180), dqn.ReplayBuffer(500, n, CPU)
    obs, done, known = envs.reset(np.arange(n)), np.ones(n, bool), {}
    for t in range(450):
        actions = rng.integers(18, size=n)
        envs.send(actions)
        buffer.append(np.arange(n), obs[:, -1], done, actions)
        slots = (buffer.written - 1) % buffer.length * n + np.arange(n)
        old, (obs, rewards, terminated, truncated, done, info) = obs, envs.recv()
        buffer.complete(np.sign(rewards), terminated)
        if truncated.any():
            buffer.truncate(truncated, info["newest_frame"])
        for i in range(n):
            newest = info["newest_frame"][i] if truncated[i] else obs[i, -1]
            known[slots[i]] = (old[i], np.concatenate([old[i, 1:], newest[None]]), actions[i], terminated[i])
        if t == 300:
            buffer.truncate(~done, obs[:, -1])
            obs, done = envs.reset(np.arange(n) + 50), np.ones(n, bool)
    every_slot = np.arange(buffer.size)
    valid = every_slot[buffer.valid(every_slot)]
    assert len(valid) > 480
    for chosen in np.array_split(valid, 10):
        batch = dqn.Batch(*(x.numpy() for x in buffer.sample(len(chosen), Chosen(chosen), CPU)))
        for slot, stack, action, _, next_stack, was_terminated in zip(chosen, *batch, strict=True):
            known_obs, successor, known_action, known_terminated = known[slot]
            assert np.array_equal(stack, known_obs) and action == known_action and was_terminated == known_terminated
            assert was_terminated or np.array_equal(next_stack, successor)


def test_state_dict_round_trip():
    """What is saved has names; put back, the buffer draws and goes on as if nothing had been."""
    for steps in (20, 300):
        rng = np.random.default_rng(0)
        buffer, naive = dqn.ReplayBuffer(100, 2, CPU), NaiveReplay(2)
        fill(buffer, naive, steps, rng, p_truncated=0.05)
        state = {name: tensor.clone() for name, tensor in buffer.state_dict().items()}
        assert set(state) == {"frames", "actions", "rewards", "terminated", "history", "written"}
        assert len(state["frames"]) == 2 * min(max(buffer.written), buffer.length) <= buffer.size
        other = dqn.ReplayBuffer(100, 2, CPU)
        other.load_state_dict(state)
        for more in (0, 30):
            for both in (buffer, other):
                fill(both, NaiveReplay(2), more, np.random.default_rng(4), p_truncated=0.05)
            batches = [both.sample(64, np.random.default_rng(5), CPU) for both in (buffer, other)]
            assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_state_dict_leaves_a_hackers_arrays_alone():
    """What a fork adds is neither cut nor dropped: it must name it itself."""
    buffer, other = (dqn.ReplayBuffer(100, 1, CPU) for _ in range(2))
    buffer.priorities = other.priorities = np.ones(3)
    fill(buffer, NaiveReplay(1), 20, np.random.default_rng(0))
    other.load_state_dict(buffer.state_dict())
    assert "priorities" not in buffer.state_dict() and other.priorities.tolist() == [1, 1, 1]


def test_memory_of_a_million_transitions():
    """At most 7.2 GB: 7,200 bytes a transition, all allocated at the start."""
    capacity = 20_000
    buffer = dqn.ReplayBuffer(capacity, 1, CPU)
    arrays = [array for array in vars(buffer).values() if isinstance(array, np.ndarray)]
    assert buffer.frames.nbytes + sum(array.nbytes for array in arrays) <= 7_200 * capacity
    assert buffer.frames.untyped_storage().nbytes() == buffer.frames.nbytes


def test_too_large():
    with pytest.raises(MemoryError, match=r"--buffer-size 1000000000000 needs 7,056,.* bytes.*; try \d+$"):
        dqn.ReplayBuffer(10**12, 1, CPU)


# WHOLE TRANSITIONS


CARTPOLE = "gymnasium.envs.classic_control:CartPoleEnv"
gymnasium.register("tests/CartPole15-v0", CARTPOLE, max_episode_steps=15)


def whole_transitions(name, capacity, num_envs):
    """Games that are cut after 15 steps, and a buffer for their transitions."""
    script = load(name)
    if name == "minatar_mexp":
        envs = script.MinAtarEnvs("Breakout", num_envs, max_steps=15)
        return envs, script.ReplayBuffer(capacity, envs.obs_shape, CPU)
    envs = script.GymEnvs("tests/CartPole15-v0", num_envs, reward_scale=1.0)
    return envs, script.ReplayBuffer(capacity, envs.obs_size, CPU)


def play_into(envs, buffer, steps, rng, kept):
    """Random actions; returns how many episodes were cut, and how many ended of themselves."""
    obs, cut, over = envs.reset(np.arange(envs.num_envs)), 0, 0
    for _ in range(steps):
        actions = rng.integers(envs.num_actions, size=envs.num_envs)
        next_obs, rewards, terminated, truncated, _, info = envs.step(actions)
        rewards = rewards + rng.integers(9, size=envs.num_envs)  # so that transitions can be told apart
        buffer.append(obs, info["final_obs"], actions, rewards, terminated)
        for i in range(envs.num_envs):
            kept.append((obs[i], info["final_obs"][i], actions[i], rewards[i], terminated[i]))
        obs, cut, over = next_obs, cut + truncated.sum(), over + terminated.sum()
    return cut, over


@pytest.mark.parametrize("num_envs,capacity", [(1, 40), (3, 40), (3, 10_000)])
@pytest.mark.parametrize("name,dtype", [("minatar_mexp", torch.bool), ("lunarlander_mexp", torch.float32)])
def test_against_a_list_of_transitions(name, dtype, num_envs, capacity):
    """Every draw is one of the last `capacity` transitions, bit for bit, and each of them is drawn about as often."""
    envs, buffer = whole_transitions(name, capacity, num_envs)
    rng, kept = np.random.default_rng(0), []
    cut, over = play_into(envs, buffer, 200, rng, kept)
    assert cut > 3 and over > 3
    kept = kept[-capacity:]
    assert buffer.slots_in_use() == len(kept)

    def key(*transition):
        return b"|".join(np.asarray(x, dtype=float).tobytes() for x in transition)

    wanted, drawn = {}, {}
    for transition in kept:
        wanted[key(*transition)] = wanted.get(key(*transition), 0) + 1
    for _ in range(200):
        batch = buffer.sample(32, rng, CPU)
        assert batch.obs.dtype == batch.next_obs.dtype == dtype and batch.actions.dtype == torch.int64
        assert batch.rewards.dtype == batch.terminated.dtype == torch.float32 and batch.actions.shape == (32,)
        for obs, action, reward, next_obs, terminated in zip(*batch, strict=True):
            name = key(obs, next_obs, action, reward, terminated)
            drawn[name] = drawn.get(name, 0) + 1
    assert set(drawn) <= set(wanted)
    expected = {name: 200 * 32 * count / len(kept) for name, count in wanted.items()}
    assert all(abs(drawn.get(name, 0) - e) < 6 * e**0.5 for name, e in expected.items())


@pytest.mark.parametrize("name,needed", [("minatar_mexp", "800,0"), ("lunarlander_mexp", "32,0")])
def test_state_of_transitions(name, needed):
    """What is saved is what is filled, and not a byte of the rest; put back, it goes on in the same way."""
    envs, buffer = whole_transitions(name, 50, 2)
    rng, sizes = np.random.default_rng(0), []
    for _ in range(4):
        play_into(envs, buffer, 10, rng, [])
        file = io.BytesIO()
        torch.save(buffer.state_dict()["frames"], file)
        sizes.append(len(file.getvalue()))
    assert sizes[0] < sizes[1] < sizes[2] == sizes[3]
    _, other = whole_transitions(name, 50, 2)
    other.load_state_dict(copy.deepcopy(buffer.state_dict()))
    for _ in range(2):
        for x, y in zip(*(b.sample(64, np.random.default_rng(3), CPU) for b in (buffer, other)), strict=True):
            assert torch.equal(x, y)
        for b in (buffer, other):
            play_into(envs, b, 8, np.random.default_rng(4), [])
    assert torch.equal(buffer.frames, other.frames) and buffer.written == other.written
    with pytest.raises(MemoryError, match=f"--buffer-size 1000000000000 needs {needed}.* bytes.*; try "):
        whole_transitions(name, 10**12, 1)
