"""The mean-expansion layer: every property that the paper states, and the network that it folds into."""

import numpy as np
import pytest
import torch
from conftest import DQN, load, make_network

dqn, mexp = load("dqn_atari"), load("dqn_atari_mexp")
CASES = [(n, k) for n in (1, 2, 18) for k in (0.0, 0.5, float(n), 1000.0)]
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(params=CASES, ids=lambda case: f"n{case[0]}-k{case[1]:g}")
def case(request):
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def sample(request, case):
    """n, k, random z of shape (7, n), q = layer(z), the matrix M_k, and a tolerance for this dtype."""
    n, k = case
    torch.manual_seed(n)
    z = torch.randn(7, n, dtype=request.param)
    matrix = torch.eye(n, dtype=request.param) + k / n * torch.ones(n, n, dtype=request.param)
    tolerance = (k + 1) * 8 * torch.finfo(request.param).eps
    return n, k, z, mexp.MeanExpansion(k)(z), matrix, tolerance


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * 4)


def test_matrix_shape_and_dtype(sample):
    n, k, z, q, matrix, tolerance = sample
    assert q.shape == z.shape and q.dtype == z.dtype
    close(q, z @ matrix.T, tolerance)
    stacked = mexp.MeanExpansion(k)(z.reshape(7, 1, n).expand(7, 3, n))
    assert torch.equal(stacked, q.reshape(7, 1, n).expand(7, 3, n))


def test_mean(sample):
    n, k, z, q, _, tolerance = sample
    close(q.mean(-1), (k + 1) * z.mean(-1), tolerance)


def test_differences_and_greedy_action(sample):
    n, k, z, q, _, tolerance = sample
    close(q[:, :, None] - q[:, None, :], z[:, :, None] - z[:, None, :], tolerance)
    assert torch.equal(q.argmax(-1), z.argmax(-1))


def test_baseline(sample):
    n, k, z, q, _, tolerance = sample
    b = q - z
    close(b, (k * z.mean(-1, keepdim=True)).expand_as(z), tolerance)
    if k > 0:
        close(b[:, 0], q.sum(-1) / (n + n / k), tolerance)
    if k == n:
        close(b[:, 0], q.sum(-1) / (n + 1), tolerance)

        def objective(value):
            return (q - value[:, None]).square().sum(-1) + value.square()

        best = objective(b[:, 0])
        for shift in (-0.1, -0.01, 0.01, 0.1):
            assert (objective(b[:, 0] + shift) > best).all()


def test_gradient(sample):
    n, k, z, _, matrix, tolerance = sample
    z = z.clone().requires_grad_()
    upstream = torch.randn(7, n, dtype=z.dtype)
    (mexp.MeanExpansion(k)(z) * upstream).sum().backward()
    close(z.grad, upstream @ matrix, tolerance)
    one = torch.zeros(n, dtype=z.dtype)
    one[0] = 1.0
    (jacobian,) = torch.autograd.grad(mexp.MeanExpansion(k)(z[0])[0], z)
    expected = torch.full((n,), k / n, dtype=z.dtype) + one
    close(jacobian[0], expected, tolerance)


def test_gradient_against_finite_differences(case):
    n, k = case
    torch.manual_seed(0)
    z = torch.randn(3, n, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mexp.MeanExpansion(k), (z,))


def test_effect_of_one_tabular_step(sample):
    n, k, z, q, matrix, tolerance = sample
    alpha, error, action = 0.1, 0.7, n - 1
    step = torch.full((n,), alpha * error * k / n, dtype=z.dtype)
    step[action] += alpha * error
    moved = mexp.MeanExpansion(k)(step)
    expected = torch.full((n,), alpha * error * (2 * k + k * k) / n, dtype=z.dtype)
    expected[action] += alpha * error
    close(moved, expected, tolerance)
    close(moved, alpha * error * (matrix @ matrix.T)[:, action], tolerance)


def test_spectrum_and_inverse(sample):
    n, k, z, q, matrix, tolerance = sample
    jacobian = torch.func.jacrev(mexp.MeanExpansion(k))(z[0])
    eigenvalues = torch.linalg.eigvalsh(jacobian)
    close(eigenvalues[:-1], torch.ones(n - 1, dtype=z.dtype), 8 * tolerance)
    close(eigenvalues[-1], torch.tensor(k + 1, dtype=z.dtype), 8 * tolerance)
    close(q - k / (k + 1) * q.mean(-1, keepdim=True), z, 2 * tolerance)


def test_norm(sample):
    n, k, z, q, _, tolerance = sample
    squared = q.square().sum(-1) - n * q.mean(-1).square() * (1 - 1 / (k + 1) ** 2)
    close(z.square().sum(-1), squared, 4 * (k + 1) * n * tolerance)
    if k > 0:
        assert (z.norm(dim=-1) < q.norm(dim=-1)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 18])
def test_k_zero_is_bit_exact(n, dtype):
    z = torch.randn(50, n, dtype=dtype) * 1e3
    assert torch.equal(mexp.MeanExpansion(0)(z), z)


@pytest.mark.parametrize("k", [-1, -1e-9, float("nan"), float("inf")])
def test_bad_k(k):
    with pytest.raises(ValueError, match="mean-scaling-coefficient"):
        mexp.MeanExpansion(k)


def test_no_parameters():
    assert not mexp.MeanExpansion(3.0).state_dict()
    assert list(mexp.QNetwork(6, 6.0).state_dict()) == list(dqn.QNetwork(6).state_dict())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n,k", CASES)
def test_folding(n, k, dtype):
    """The baseline's network gives the folded network's values."""
    torch.manual_seed(n)
    network, plain = mexp.QNetwork(n, k).to(dtype), dqn.QNetwork(n).to(dtype)
    torch.nn.init.normal_(network.network[9].bias)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    plain.load_state_dict(network.folded_state_dict())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    obs = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    hidden = network.network[:9](obs.to(dtype) / 255)
    tolerance = (k + 1) * 200 * torch.finfo(dtype).eps
    close(plain.network[9](hidden), network.network[9:](hidden), tolerance)
    if k == 0:
        assert torch.equal(plain.network[9](hidden), network.network[9:](hidden))
    if dtype == torch.float32:
        close(plain(obs), network(obs), tolerance)


@pytest.mark.parametrize("name", DQN)
def test_initialisation(name):
    """LeCun normal weights, biases 0.1 and 0 in the last layer."""
    script = load(name)
    torch.manual_seed(0)
    layers = [layer for layer in make_network(script, 18).network if hasattr(layer, "weight")]
    for i, layer in enumerate(layers):
        fan_in = np.prod(layer.weight.shape[1:])
        count = layer.weight.numel()
        assert abs(layer.weight.std().item() * fan_in**0.5 - 1) < 5 / (2 * count) ** 0.5
        assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.0 if i == 4 else 0.1))
    assert [tuple(layer.weight.shape) for layer in layers] == [
        (32, 4, 8, 8),
        (64, 32, 4, 4),
        (64, 64, 3, 3),
        (512, 3136),
        (18, 512),
    ]
