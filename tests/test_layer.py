"""The mean-expansion layer: the definition, its gradient, and what docs/layer.md states beyond a line of algebra."""

import re

import numpy as np
import pytest
import torch
from helpers import DQN, ROOT, load, make_network

dqn, mexp = load("dqn_atari"), load("dqn_atari_mexp")
DTYPES = [torch.float32, torch.float64]
CASES = [(1, 3.0), (2, 0.5), (4, 1000.0), (18, 0.0), (18, 1.0), (18, 18.0)]  # (n, k)


def matrix_of(n: int, k: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """M_k = I + (k/n) 1 1^T."""
    return torch.eye(n, dtype=dtype) + k / n * torch.ones(n, n, dtype=dtype)


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * 4)


def observations(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_worked_example():
    """The page's numbers: n = k = 2, z = (3, 1)."""
    z = torch.tensor([3.0, 1.0], requires_grad=True)
    q = mexp.MeanExpansion(2)(z)
    assert q.tolist() == [7.0, 5.0]
    (0.5 * (q[0] - 8).square()).backward()  # the TD error of the first action is 1
    assert (-z.grad).tolist() == [2.0, 1.0]
    moved = mexp.MeanExpansion(2)(z - 0.1 * z.grad) - q
    close(moved, torch.tensor([0.5, 0.4]), 1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n,k", CASES)
def test_forward_and_gradient(n, k, dtype):
    """M_k z, over any leading dimensions, in the dtype of z; dL/dz = M_k dL/dq."""
    torch.manual_seed(n)
    z = torch.randn(7, n, dtype=dtype, requires_grad=True)
    upstream = torch.randn(7, n, dtype=dtype)
    matrix, tolerance = matrix_of(n, k, dtype), (k + 1) * 8 * torch.finfo(dtype).eps
    q = mexp.MeanExpansion(k)(z)
    assert q.shape == z.shape and q.dtype == dtype
    close(q, z @ matrix.T, tolerance)
    stacked = mexp.MeanExpansion(k)(z.reshape(7, 1, n).expand(7, 3, n))
    assert torch.equal(stacked, q.reshape(7, 1, n).expand(7, 3, n))
    q.backward(upstream)
    close(z.grad, upstream @ matrix, tolerance)


def test_rounding_can_make_ties():
    """float32, k = 1000: neighbours at 1 fall together at 1001."""
    z = torch.tensor([1.0, 1.0 + 2.0**-23])
    q = mexp.MeanExpansion(1000)(z)
    assert z[0] < z[1] and q[0] == q[1]
    q = mexp.MeanExpansion(1000)(z.double())
    assert q[0] < q[1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 18])
def test_k_zero_is_bit_exact(n, dtype):
    """Forward and gradient are the identity's."""
    torch.manual_seed(n)
    z = (1e3 * torch.randn(500, n, dtype=dtype)).requires_grad_()
    upstream = torch.randn(500, n, dtype=dtype)
    q = mexp.MeanExpansion(0)(z)
    assert torch.equal(q, z)
    q.backward(upstream)
    assert torch.equal(z.grad, upstream)


@pytest.mark.parametrize("n,k", [case for case in CASES if case[1] > 0])
def test_minimum_norm(n, k):
    """Of all (b, z) with b 1 + z = q the layer's has the least |z|^2 + (n/k) b^2; at k = n that is Prop. 1."""
    torch.manual_seed(0)
    z = torch.randn(7, n, dtype=torch.float64)
    q = mexp.MeanExpansion(k)(z)
    weight = (n / k) ** 0.5  # the unknowns are weight * b and z, so that the pseudo-inverse minimises the right norm
    system = torch.cat([torch.full((n, 1), 1 / weight, dtype=torch.float64), torch.eye(n, dtype=torch.float64)], dim=1)
    solution = q @ torch.linalg.pinv(system).T
    close(solution[:, 0] / weight, k * z.mean(-1))
    close(solution[:, 1:], z)


@pytest.mark.parametrize("n,k", CASES)
def test_folding(n, k):
    """The baseline's network gives the folded network's values; at k = 0 bit for bit."""
    torch.manual_seed(n)
    network, plain = mexp.QNetwork(n, k), dqn.QNetwork(n)
    torch.nn.init.normal_(network.output.bias)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    plain.load_state_dict(network.folded_state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(before[name], tensor), f"folding changed the network's own {name}"
    obs = observations(5)
    close(plain(obs), network(obs), (k + 1) * 200 * torch.finfo(torch.float32).eps)
    if k == 0:
        assert torch.equal(plain(obs), network(obs))
    network, plain = network.double(), dqn.QNetwork(n).double()
    plain.load_state_dict(network.folded_state_dict())
    matrix = matrix_of(n, k)
    close(plain.output.weight, matrix @ network.output.weight, (k + 1) * 1e-14)
    close(plain.output.bias, matrix @ network.output.bias, (k + 1) * 1e-14)


@pytest.mark.parametrize("n,k", [(6, 6.0), (18, 1.0)])
def test_gradient_descent_is_that_of_the_folded_network_but_for_the_last_layer(n, k):
    """Every other layer takes the baseline's step, and the last one M_k^2 times its step."""
    torch.manual_seed(n)
    network, plain = mexp.QNetwork(n, k).double(), dqn.QNetwork(n).double()
    torch.nn.init.normal_(network.output.bias)
    plain.load_state_dict(network.folded_state_dict())
    matrix = matrix_of(n, k)
    images = observations(2).double() / 255
    upstream = torch.randn(2, n, dtype=torch.float64)
    network.mean_expansion(network.output(network.network(images))).backward(upstream)
    plain.output(plain.network(images)).backward(upstream)
    before, gradients = plain.state_dict(), {name: value.grad for name, value in plain.named_parameters()}
    torch.optim.SGD(network.parameters(), lr=0.01).step()
    for name, tensor in network.folded_state_dict().items():
        last = name.startswith("output")
        step = matrix @ matrix @ gradients[name] if last else gradients[name]
        close(tensor, before[name] - 0.01 * step)
    assert min(gradient.abs().max() for gradient in gradients.values()) > 1e-6


@pytest.mark.parametrize("k", [-1, -1e-9, float("nan"), float("inf")])
def test_bad_k(k):
    with pytest.raises(ValueError, match="must be a finite number, at least 0"):
        mexp.MeanExpansion(k)


@pytest.mark.parametrize("name", DQN)
def test_initialisation(name):
    """LeCun normal weights, biases 0.1 and 0 in the last layer, and no other parameters."""
    torch.manual_seed(0)
    network = make_network(load(name), 18)
    layers = [layer for layer in network.network if hasattr(layer, "weight")] + [network.output]
    for layer in layers:
        fan_in = np.prod(layer.weight.shape[1:])
        count = layer.weight.numel()
        assert abs(layer.weight.std().item() * fan_in**0.5 - 1) < 5 / (2 * count) ** 0.5
        assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.0 if layer is network.output else 0.1))
    shapes = [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136), (18, 512)]
    assert [tuple(layer.weight.shape) for layer in layers] == shapes
    assert len(network.state_dict()) == 2 * len(layers)


def test_page_and_tests_agree():
    """Every test that docs/layer.md names exists, and it names every test of this file."""
    page = (ROOT / "docs" / "layer.md").read_text()
    named = set(re.findall(r"`(tests/\w+\.py)::(test_\w+)`", page))
    assert named
    for file, test in sorted(named):
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file} has no {test}"
    here = set(re.findall(r"^def (test_\w+)\(", (ROOT / "tests" / "test_layer.py").read_text(), re.MULTILINE))
    assert here == {test for file, test in named if file == "tests/test_layer.py"}
