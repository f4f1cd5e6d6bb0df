"""What `capture` does with a CUDA graph, on the CPU, with stand-ins for graph and streams (the fixture `cuda`);
test_cuda.py has real ones.

The text is the same in all scripts, so one is tested.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn as nn
from helpers import batch_of, bind, load, make_network

script = load("dqn_atari_mexp")


def double(x, y):
    return 2 * x, x + y


def test_three_real_calls_then_a_graph(cuda):
    captured = script.capture(cuda.launched(double))
    real_call = ["side waits for main", "called on side", "main waits for side"]
    outputs = []
    for t in range(10):
        x, y = torch.tensor([float(t)]), torch.tensor([10.0])
        outputs.append(captured(x, y))
        assert [tensor.item() for tensor in outputs[-1]] == [2 * t, t + 10]
        if t == 2:
            assert cuda.events == 3 * real_call
    assert cuda.events == 3 * real_call + 7 * ["replayed"]
    assert cuda.captures == 1 and cuda.stream is cuda.main_stream
    assert all(a is b for later in outputs[4:] for a, b in zip(outputs[3], later, strict=True)), "the same tensors"
    assert outputs[2][0].item() == 4, "a real call's outputs are its own"


def test_inputs_are_copied(cuda):
    """The graph neither reads the caller's tensors, which it may overwrite, nor writes into them."""
    captured = script.capture(cuda.launched(double))
    x = torch.zeros(2)
    different = [torch.full((2,), float(t)) for t in range(6)]
    for t in range(6):
        x.fill_(t)
        outputs = captured(x, different[t])
        x.fill_(-1)
        assert outputs[0].tolist() == outputs[1].tolist() == [2.0 * t] * 2
    assert [y.tolist() for y in different] == [[float(t)] * 2 for t in range(6)]


def test_two_graphs_of_one_function_do_not_meet(cuda):
    one, other = script.capture(cuda.launched(double)), script.capture(cuda.launched(double))
    for t in range(6):
        small, large = one(torch.full((1,), 1.0 * t), torch.zeros(1)), other(torch.full((5,), 3.0 * t), torch.zeros(5))
        assert small[0].tolist() == [2 * t] and large[0].tolist() == 5 * [6 * t]
    assert cuda.captures == 2


def test_every_shape_and_type_has_a_graph(cuda):
    """As when one update is due at some steps and two at others; nothing is broadcast into another one's inputs."""
    captured = script.capture(cuda.launched(double))
    kinds = [((3, 2), torch.float32), ((1, 2), torch.float32), ((3, 1), torch.float32), ((3, 2), torch.float64)]
    for t, (shape, dtype) in enumerate([kind for kind in kinds for _ in range(5)] + kinds):
        x, y = torch.full(shape, t, dtype=dtype), torch.full(shape, 10, dtype=dtype)
        twice, total = captured(x, y)
        assert torch.equal(twice, 2 * x) and torch.equal(total, x + y)
    assert cuda.captures == len(kinds)
    assert cuda.events.count("called on side") == 3 * len(kinds) == cuda.events.count("replayed")


class Deep(nn.Module):
    """A network of 40 parameter tensors, more than Nature DQN's ten."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(16, 16) for _ in range(19)]
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), *layers, nn.Linear(16, 6))

    def forward(self, obs):
        return self.layers(obs.float() / 255)


def nature_network():
    torch.manual_seed(1)
    return make_network(script, 6, 2.5)


def learner(network, optimizer_class=torch.optim.Adam, lr=1e-3):
    """`update` bound to a copy of the network; what it trains."""
    network = copy.deepcopy(network)
    optimizer = optimizer_class(network.parameters(), lr=lr, fused=True)
    learn, _ = bind(script, network, copy.deepcopy(network), optimizer)
    return learn, network, optimizer


def batches(count):
    """Batches that differ."""
    batch = batch_of(script)
    return [batch._replace(rewards=batch.rewards + t) for t in range(count)]


def assert_same_weights(network, other):
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("make", [nature_network, Deep])
def test_ten_captured_updates_are_ten_plain_ones(cuda, make):
    """Nothing is done twice, none is left out: the same losses, TD errors, weights and moments."""
    network = make()
    plain, plain_network, plain_optimizer = learner(network)
    function, captured_network, optimizer = learner(network)
    captured = script.capture(cuda.launched(function), optimizer)
    for batch in batches(10):
        for expected, got in zip(plain(*batch), captured(*batch), strict=True):
            assert torch.equal(expected, got)
    assert_same_weights(plain_network, captured_network)
    assert len(list(network.parameters())) == {nature_network: 10, Deep: 40}[make]
    assert [state["step"].item() for state in optimizer.state.values()] == [10] * len(list(network.parameters()))
    for ours, theirs in zip(optimizer.state.values(), plain_optimizer.state.values(), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert cuda.events.count("called on side") == 3 and cuda.events.count("replayed") == 7


def test_changed_numbers_of_the_optimizer_are_refused(cuda):
    """A graph would go on with the old ones without a word."""
    function, network, optimizer = learner(Deep())
    captured = script.capture(cuda.launched(function), optimizer)
    for t, batch in enumerate(batches(6)):
        if t < 3:
            optimizer.param_groups[0]["lr"] = 1e-3 / (t + 1)  # before the capture it may change
        captured(*batch)
    before = copy.deepcopy(network)
    for name, value in (("lr", 1e-4), ("eps", 1e-3), ("betas", (0.9, 0.99))):
        captured_value, optimizer.param_groups[0][name] = optimizer.param_groups[0][name], value
        with pytest.raises(RuntimeError, match="learning rate.*--no-cuda-graphs"):
            captured(*batch)
        optimizer.param_groups[0][name] = captured_value
    assert_same_weights(before, network)
    captured(*batch)
    assert not torch.equal(before.layers[2].weight, network.layers[2].weight), "it goes on once it is put back"


def test_a_learning_rate_in_a_tensor_may_change(cuda):
    plain, plain_network, plain_optimizer = learner(Deep(), lr=torch.tensor(1e-3))
    function, network, optimizer = learner(Deep(), lr=torch.tensor(1e-3))
    captured = script.capture(cuda.launched(function), optimizer)
    for t, batch in enumerate(batches(8)):
        for each in (plain_optimizer, optimizer):
            each.param_groups[0]["lr"].fill_(1e-3 / (t + 1))
        plain(*batch)
        captured(*batch)
    assert_same_weights(plain_network, network)


@pytest.mark.parametrize("place", ["before the step", "in the backward pass"])
def test_a_failed_capture_says_why(cuda, place):
    """And what to do: it is a fork's own doing, which no other way may hide. Nothing has changed by the failed call."""

    def fail_while_capturing():
        if cuda.graph is not None:
            raise RuntimeError("operation not permitted\n when stream is capturing")

    class Uncapturable(torch.optim.Adam):
        def step(self, closure=None):
            fail_while_capturing()
            return super().step(closure)

    function, network, optimizer = learner(nature_network(), Uncapturable)
    if place == "in the backward pass":  # the others have their gradient then
        network.network[0].weight.register_hook(lambda gradient: fail_while_capturing())
    captured = script.capture(function, optimizer)
    *first, last = batches(4)
    for batch in first:
        captured(*batch)
    before = copy.deepcopy(network)
    with pytest.raises(RuntimeError, match=r"(?s)no CUDA graph \(operation not permitted.*add --no-cuda-graphs"):
        captured(*last)
    assert_same_weights(before, network)
    assert cuda.captures == 1


def test_the_reason_is_the_first_error(cuda, monkeypatch):
    """Ending a capture that went wrong raises another error, which says nothing."""

    class Broken:
        def __enter__(self):
            cuda.graph = self

        def __exit__(self, *error):
            cuda.graph = None
            raise RuntimeError("capture was invalidated")

    def function(x):
        if cuda.graph is not None:
            raise ValueError("a copy to the host")
        return (x,)

    monkeypatch.setattr(torch.cuda, "graph", lambda graph: Broken())
    captured = script.capture(function)
    for _ in range(3):
        captured(torch.zeros(1))
    with pytest.raises(RuntimeError, match="a copy to the host.*--no-cuda-graphs"):
        captured(torch.zeros(1))


def test_a_late_copy_to_the_gpu_reads_what_was_sent(monkeypatch):
    """Python does not wait for it: neither the caller's array nor a later call may change what it reads."""
    late = []  # what the GPU has still to read

    def copy_later(tensor, device, non_blocking):
        assert device.type == "cuda" and non_blocking
        late.append(tensor)

    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    monkeypatch.setattr(torch.Tensor, "to", copy_later)
    array = np.zeros(5)
    for t in range(4):
        array[:] = t
        script.to_device(array, torch.device("cuda"))
    assert [tensor.tolist() for tensor in late] == [5 * [t] for t in range(4)]
