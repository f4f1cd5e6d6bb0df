"""The replay buffer against a naive list of stacked observations."""

import numpy as np
import pytest
import torch
from conftest import load

dqn = load("dqn_atari")
CPU = torch.device("cpu")


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
    stacks, first = [start(naive.frame()) for _ in range(n)], np.ones(n, bool)
    for t in range(steps):
        actions = rng.integers(18, size=n)
        buffer.append(np.arange(n), np.stack([stack[-1] for stack in stacks]), first, actions)
        if check and t % 7 == 3:
            check()
        rewards = rng.integers(-1, 2, size=n)
        terminated = rng.random(n) < p_terminated
        truncated = (rng.random(n) < p_truncated) & ~terminated
        first = terminated | truncated
        successors = [push(stack, naive.frame()) for stack in stacks]
        buffer.complete(rewards, terminated)
        if truncated.any():
            buffer.truncate(truncated, np.stack([successor[-1] for successor in successors]))
        for i in range(n):
            naive.add(i, stacks[i], actions[i], rewards[i], terminated[i], successors[i])
            stacks[i] = start(naive.frame()) if first[i] else successors[i]
        if rng.random() < p_cut:  # what happens at a checkpoint
            buffer.truncate(~first, np.stack([stack[-1] for stack in stacks]))
            stacks, first = [start(naive.frame()) for _ in range(n)], np.ones(n, bool)
    actions = rng.integers(18, size=n)
    buffer.append(np.arange(n), np.stack([stack[-1] for stack in stacks]), first, actions)


def check_draws(buffer, naive, rng, batches, batch_size=32):
    """Draws whatever the buffer gives and compares it with the list; returns how often each transition came."""
    counts = {}
    for _ in range(batches):
        frames, actions, rewards, terminated = (x.numpy() for x in buffer.sample(batch_size, rng, CPU))
        assert frames.shape == (batch_size, 5, 84, 84) and frames.dtype == np.uint8
        assert actions.dtype == np.int64 and rewards.dtype == terminated.dtype == np.float32
        for b in range(batch_size):
            number = naive.number(frames[b, 3])
            stack, action, reward, was_terminated, successor = naive.transitions[number]
            assert np.array_equal(frames[b, :4], stack)
            assert (actions[b], rewards[b], terminated[b]) == (action, reward, was_terminated)
            if was_terminated:
                assert not frames[b, 4].any()
            else:
                assert np.array_equal(frames[b, 1:], successor)
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
    counts = check_draws(buffer, naive, rng, 100)
    capacity = 120 // num_envs
    for order in naive.order:
        drawn = [i for i, number in enumerate(order) if number in counts]
        assert drawn[0] >= len(order) - capacity - 3, "older than what the buffer can hold"
        if not (kinds.get("p_truncated") or kinds.get("p_cut")):
            assert set(range(max(0, len(order) - capacity), len(order))) <= set(drawn), "not all that it should hold"
        if not kinds["p_terminated"]:
            assert len(drawn) == min(capacity, len(order)), "exactly its capacity"
        assert drawn[-1] == len(order) - 1, "the newest transition is there"
    if steps > 60:  # uniform: the rarest and the most frequent are within what chance allows
        mean = 3200 / len(counts)
        assert mean - 5 * mean**0.5 < min(counts.values()) and max(counts.values()) < mean + 6 * mean**0.5


def test_against_the_emulator():
    """Observations come back as the emulator stacked them, over game overs, time limits and a checkpoint's cut."""
    n, rng = 3, np.random.default_rng(0)
    envs, buffer = dqn.AtariEnvs("ALE/Breakout-v5", n, max_steps=180), dqn.ReplayBuffer(500, n, CPU)
    obs, first, known = envs.reset(np.arange(n)), np.ones(n, bool), {}
    for t in range(700):
        actions = rng.integers(18, size=n)
        envs.send(actions)
        buffer.append(np.arange(n), obs[:, -1], first, actions)
        slots = (buffer.written - 1) % buffer.length * n + np.arange(n)
        old, (obs, rewards, terminated, truncated, first, extra) = obs, envs.recv()
        buffer.complete(np.sign(rewards), terminated)
        if truncated.any():
            buffer.truncate(truncated, extra["final_frame"])
        for i in range(n):
            newest = extra["final_frame"][i] if truncated[i] else obs[i, -1]
            known[slots[i]] = (old[i], np.concatenate([old[i, 1:], newest[None]]), actions[i], terminated[i])
        if t == 400:
            buffer.truncate(~first, obs[:, -1])
            obs, first = envs.reset(np.arange(n) + 50), np.ones(n, bool)
    valid = np.flatnonzero(buffer.valid)
    assert len(valid) > 480
    calls = iter(np.array_split(valid, 10))

    class Chosen:
        """Stands for the generator, to draw every valid slot once."""

        def integers(self, high, size):
            return next(calls)

    for chosen in np.array_split(valid, 10):
        frames, actions, rewards, terminated = (x.numpy() for x in buffer.sample(len(chosen), Chosen(), CPU))
        for slot, stack, action, done in zip(chosen, frames, actions, terminated, strict=True):
            obs, successor, known_action, known_terminated = known[slot]
            assert np.array_equal(stack[:4], obs) and action == known_action and done == known_terminated
            assert done or np.array_equal(stack[1:], successor)


def test_state_dict_round_trip():
    rng = np.random.default_rng(0)
    for steps in (20, 300):
        buffer, naive = dqn.ReplayBuffer(100, 2, CPU), NaiveReplay(2)
        fill(buffer, naive, steps, rng, p_truncated=0.05)
        state = {name: tensor.clone() for name, tensor in buffer.state_dict().items()}
        assert len(state["frames"]) == 2 * min(max(buffer.written), buffer.length) <= buffer.size
        other = dqn.ReplayBuffer(100, 2, CPU)
        other.load_state_dict(state)
        for a, b in zip(
            buffer.sample(64, np.random.default_rng(5), CPU),
            other.sample(64, np.random.default_rng(5), CPU),
            strict=True,
        ):
            assert torch.equal(a, b)


def test_memory_of_a_million_transitions():
    """At most 7.2 GB: 7,200 bytes a transition, all allocated at the start."""
    capacity = 20_000
    buffer = dqn.ReplayBuffer(capacity, 1, CPU)
    arrays = [array for array in vars(buffer).values() if isinstance(array, np.ndarray)]
    assert buffer.frames.nbytes + sum(array.nbytes for array in arrays) <= 7_200 * capacity
    assert buffer.frames.untyped_storage().nbytes() == buffer.frames.nbytes


def test_too_large():
    with pytest.raises(MemoryError, match=r"--buffer-size 1000000000000 needs 7,056,.* bytes.*try --buffer-size \d+$"):
        dqn.ReplayBuffer(10**12, 1, CPU)
