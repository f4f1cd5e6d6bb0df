"""The mean-expansion layer: one test for every statement of docs/layer.md, in that page's order."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import DQN, ROOT, load, make_network

dqn, mexp = load("dqn_atari"), load("dqn_atari_mexp")
DTYPES = [torch.float32, torch.float64]
CASES = [(1, 3.0), (2, 0.5), (4, 1000.0), (18, 0.0), (18, 1.0), (18, 18.0)]  # (n, k)


@pytest.fixture(params=CASES, ids=lambda case: f"n{case[0]}-k{case[1]:g}")
def case(request):
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def sample(request, case):
    """n, k, random z of shape (7, n), q = layer(z), the matrix M_k, and a tolerance for this dtype."""
    n, k = case
    torch.manual_seed(n)
    z = torch.randn(7, n, dtype=request.param)
    tolerance = (k + 1) * 8 * torch.finfo(request.param).eps
    return n, k, z, mexp.MeanExpansion(k)(z), matrix_of(n, k, request.param), tolerance


def matrix_of(n: int, k: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """M_k = I + (k/n) 1 1^T."""
    return torch.eye(n, dtype=dtype) + k / n * torch.ones(n, n, dtype=dtype)


def self_weight(n: int, k: float) -> float:
    """c = 1 + (2k + k^2)/n, the diagonal of M_k^2."""
    return 1 + (2 * k + k * k) / n


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * 4)


# Forward


def test_worked_example():
    """The page's numbers: n = k = 2, z = (3, 1)."""
    z = torch.tensor([3.0, 1.0], requires_grad=True)
    q = mexp.MeanExpansion(2)(z)
    assert q.tolist() == [7.0, 5.0]
    (0.5 * (q[0] - 8).square()).backward()  # the TD error of the first action is 1
    assert (-z.grad).tolist() == [2.0, 1.0]
    moved = mexp.MeanExpansion(2)(z - 0.1 * z.grad) - q
    close(moved, torch.tensor([0.5, 0.4]), 1e-5)


def test_forward(sample):
    """M_k z, over any leading dimensions, in the dtype of z."""
    n, k, z, q, matrix, tolerance = sample
    assert q.shape == z.shape and q.dtype == z.dtype
    close(q, z @ matrix.T, tolerance)
    stacked = mexp.MeanExpansion(k)(z.reshape(7, 1, n).expand(7, 3, n))
    assert torch.equal(stacked, q.reshape(7, 1, n).expand(7, 3, n))


def test_mean(sample):
    _, k, z, q, _, tolerance = sample
    close(q.mean(-1), (k + 1) * z.mean(-1), tolerance)


def test_z_is_not_centred(sample):
    """A z of zero mean gives a q of zero mean only, and the first gradient step moves it away from there."""
    n, k, z, _, _, tolerance = sample
    centred = (z - z.mean(-1, keepdim=True)).requires_grad_()
    q = mexp.MeanExpansion(k)(centred)
    close(q.mean(-1), torch.zeros(7, dtype=z.dtype), tolerance)
    q[:, 0].sum().backward()
    stepped = centred + 0.1 * centred.grad
    close(stepped.mean(-1), torch.full((7,), 0.1 * (k + 1) / n, dtype=z.dtype), tolerance)


def test_differences(sample):
    _, _, z, q, _, tolerance = sample
    close(q[:, :, None] - q[:, None, :], z[:, :, None] - z[:, None, :], tolerance)


def test_greedy_action(sample):
    """Rounding keeps the order, for all of z is shifted by one number; close values may become equal, no more."""
    _, _, z, q, _, _ = sample
    best = z.argmax(-1, keepdim=True)
    assert torch.equal(q.gather(-1, best), q.max(-1, keepdim=True).values)
    if z.dtype == torch.float64:
        assert torch.equal(q.argmax(-1, keepdim=True), best)


def test_rounding_can_make_ties():
    """float32, k = 1000: neighbours at 1 fall together at 1001."""
    z = torch.tensor([1.0, 1.0 + 2.0**-23])
    q = mexp.MeanExpansion(1000)(z)
    assert z[0] < z[1] and q[0] == q[1]
    q = mexp.MeanExpansion(1000)(z.double())
    assert q[0] < q[1]


def test_policy_and_maximum(sample):
    """Softmax over actions is that of z; the maximum, which the target bootstraps from, is shifted by k mean(z)."""
    _, k, z, q, _, tolerance = sample
    close(q.softmax(-1), z.softmax(-1), 4 * tolerance)
    close(q.max(-1).values, z.max(-1).values + k * z.mean(-1), tolerance)


def test_spectrum_and_inverse(sample):
    """Eigenvalue 1 for differences and k + 1 for the mean, and so condition number k + 1."""
    n, k, z, q, _, tolerance = sample
    jacobian = torch.func.jacrev(mexp.MeanExpansion(k))(z[0])
    eigenvalues = torch.linalg.eigvalsh(jacobian)
    close(eigenvalues[:-1], torch.ones(n - 1, dtype=z.dtype), 8 * tolerance)
    close(eigenvalues[-1], torch.tensor(k + 1, dtype=z.dtype), 8 * tolerance)
    close(q - k / (k + 1) * q.mean(-1, keepdim=True), z, 2 * tolerance)


# k = 0


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


def test_k_zero_network_is_the_baseline():
    """Same values and the same gradient of every parameter, bit for bit."""
    plain, network = dqn.QNetwork(6), mexp.QNetwork(6, 0.0)
    network.load_state_dict(plain.state_dict())
    obs, upstream = observations(3), torch.randn(3, 6)
    for net in (plain, network):
        net(obs).backward(upstream)
    assert torch.equal(network(obs), plain(obs))
    gradients = dict(network.named_parameters())
    for name, parameter in plain.named_parameters():
        assert torch.equal(gradients[name].grad, parameter.grad), name


def test_k_zero_of_the_papers_listing_rounds():
    """(1 + k) mean + (z - mean): the same function, but not the identity at k = 0."""
    torch.manual_seed(0)
    z = torch.randn(500, 6)
    mean = z.mean(-1, keepdim=True)
    for k in (0.0, 6.0):
        close((1 + k) * mean + (z - mean), mexp.MeanExpansion(k)(z), 1e-5)
    assert not torch.equal(mean + (z - mean), z)


def test_k_zero_where_it_is_not_exact():
    """The two ends of the number range: the sign of -0 is lost, and a sum that overflows makes NaN."""
    assert not mexp.MeanExpansion(0)(torch.tensor([-0.0, 1.0]))[0].signbit()
    assert mexp.MeanExpansion(0)(torch.tensor([3e38, 3e38])).isnan().all()


# Backward


def test_gradient(sample):
    """dL/dz = M_k dL/dq; an error on one action weighs 1 + k/n on it and k/n on every other."""
    n, k, z, _, matrix, tolerance = sample
    z = z.clone().requires_grad_()
    upstream = torch.randn(7, n, dtype=z.dtype)
    (mexp.MeanExpansion(k)(z) * upstream).sum().backward()
    close(z.grad, upstream @ matrix, tolerance)
    (weights,) = torch.autograd.grad(mexp.MeanExpansion(k)(z[0])[0], z)
    expected = torch.full((n,), k / n, dtype=z.dtype)
    expected[0] += 1
    close(weights[0], expected, tolerance)


def test_gradient_against_finite_differences(case):
    n, k = case
    torch.manual_seed(0)
    z = torch.randn(3, n, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mexp.MeanExpansion(k), (z,))


def test_identity_jacobian_would_be_another_method():
    """With the mean detached the Jacobian is the identity: same values, and no action but the taken one learns in z."""
    n, k = 6, 6.0
    torch.manual_seed(0)
    z = torch.randn(n, dtype=torch.float64, requires_grad=True)
    q = mexp.MeanExpansion(k)(z)
    detached = z + k * z.mean().detach()
    assert torch.equal(q, detached)
    (gradient,) = torch.autograd.grad(q[2], z)
    (gradient_detached,) = torch.autograd.grad(detached[2], z)
    assert torch.count_nonzero(gradient) == n
    assert torch.count_nonzero(gradient_detached) == 1


def test_effect_of_one_tabular_step(sample):
    """q_a moves by alpha d (1 + (2k + k^2)/n), every other q_b by alpha d (2k + k^2)/n, the mean (k + 1)^2 as much."""
    n, k, z, q, matrix, tolerance = sample
    alpha, action = 0.1, n - 1
    error = 0.7
    z = z.clone().requires_grad_()
    target = q[:, action] + error
    (0.5 * (mexp.MeanExpansion(k)(z)[:, action] - target).square().sum()).backward()
    moved = mexp.MeanExpansion(k)(z - alpha * z.grad) - q
    expected = torch.full((7, n), alpha * error * (2 * k + k * k) / n, dtype=z.dtype)
    expected[:, action] += alpha * error
    tolerance = tolerance * (k + 1) * 8
    close(moved, expected, tolerance)
    close(moved, (alpha * error * (matrix @ matrix)[action]).expand(7, n), tolerance)
    close(moved.mean(-1), torch.full((7,), alpha * error * (k + 1) ** 2 / n, dtype=z.dtype), tolerance)


def test_largest_step_size(case):
    """For a fixed target the error shrinks if and only if alpha < 2/c; at alpha = 1/c it is gone in one step."""
    n, k = case
    c = self_weight(n, k)
    torch.manual_seed(0)
    start = torch.randn(n, dtype=torch.float64)
    layer, error = mexp.MeanExpansion(k), 0.7
    target = layer(start)[0] + error
    left = {}
    for factor in (0.5, 1.0, 1.99, 2.01):
        z = start.clone().requires_grad_()
        (0.5 * (layer(z)[0] - target).square()).backward()
        after = target - layer(z - factor / c * z.grad)[0]
        left[factor] = after.item() / error
    assert left == pytest.approx({0.5: 0.5, 1.0: 0.0, 1.99: -0.99, 2.01: -1.01}, abs=1e-9)


# The baseline, and the norm


def test_baseline(sample):
    """b = q - z = k mean(z) = sum(q) / (n + n/k); at k = n that is sum(q) / (n + 1)."""
    n, k, z, q, _, tolerance = sample
    b = q - z
    close(b, (k * z.mean(-1, keepdim=True)).expand_as(z), tolerance)
    if k > 0:
        close(b[:, 0], q.sum(-1) / (n + n / k), tolerance)
    if k == n:
        close(b[:, 0], q.sum(-1) / (n + 1), tolerance)


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

    def objective(b):
        return (q - b[:, None]).square().sum(-1) + (n / k) * b.square()

    for shift in (-0.1, -0.001, 0.001, 0.1):
        assert (objective(k * z.mean(-1) + shift) > objective(k * z.mean(-1))).all()


def test_norm(sample):
    """|z|^2 = |q|^2 - n mean(q)^2 (1 - 1/(k+1)^2) for any q whatever: nothing here was trained."""
    n, k, z, q, _, _ = sample
    squared = q.square().sum(-1) - n * q.mean(-1).square() * (1 - 1 / (k + 1) ** 2)
    rounding = 16 * torch.finfo(z.dtype).eps * q.square().sum(-1)
    assert ((z.square().sum(-1) - squared).abs() <= rounding).all()
    if k > 0:
        assert (z.norm(dim=-1) < q.norm(dim=-1)).all()


def test_norm_at_its_ends():
    """Nothing is saved where mean(q) = 0, the factor k + 1 where all values are equal, almost that where nearly so."""
    layer = mexp.MeanExpansion(5.0)
    centred = torch.tensor([3.0, -1.0, -2.0, 4.0, -3.0, -1.0], dtype=torch.float64)
    close(layer(centred).norm(), centred.norm())
    equal = torch.full((6,), 10.0, dtype=torch.float64)
    close(layer(equal).norm(), 6 * equal.norm())
    nearly = equal + 0.05 * centred
    assert 5.9 < layer(nearly).norm() / nearly.norm() < 6


# Folding


def observations(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def network_and_folded(n: int, k: float) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A network whose biases are not zero, and the baseline's network with its folded weights; float64."""
    torch.manual_seed(n)
    network, plain = mexp.QNetwork(n, k).double(), dqn.QNetwork(n).double()
    torch.nn.init.normal_(network.output.bias)
    plain.load_state_dict(network.folded_state_dict())
    return network, plain


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
    hidden = torch.rand(5, 512, dtype=torch.float64)
    matrix = matrix_of(n, k)
    close(plain.output.weight, matrix @ network.output.weight, (k + 1) * 1e-14)
    close(plain.output.bias, matrix @ network.output.bias, (k + 1) * 1e-14)
    close(plain.output(hidden), network.mean_expansion(network.output(hidden)), (k + 1) * 1e-13)


def test_norm_of_the_last_layer():
    """Every column of W' is M_k times that of W, so the norm's formula holds for the weights as well."""
    n, k = 6, 6.0
    network, plain = network_and_folded(n, k)
    folded = plain.output.weight
    squared = folded.square().sum() - n * folded.mean(0).square().sum() * (1 - 1 / (k + 1) ** 2)
    close(network.output.weight.square().sum(), squared)
    assert network.output.weight.norm() < folded.norm()


# Dueling


def dueling(parameters):
    """q = v + a - mean(a) of the outputs (v, a) of the two streams, (n + 1,)."""
    v, a = parameters[0], parameters[1:]
    return v + a - a.mean()


def test_dueling_form(sample):
    """v = (k + 1) mean(z) and a = z - mean(z) in a dueling network's last line give q; v is the mean of q in both."""
    n, k, z, q, _, tolerance = sample
    for row, values in zip(z, q, strict=True):
        v, a = (k + 1) * row.mean(), row - row.mean()
        combined = dueling(torch.cat([v[None], a]))
        close(combined, values, 2 * tolerance)
        close(combined.mean(), v, 2 * tolerance)
    free = torch.randn(n + 1, dtype=z.dtype)
    close(dueling(free).mean(), free[0], 2 * tolerance)


@pytest.mark.parametrize("n", [2, 6, 18])
def test_rates_of_dueling_and_rdq(n):
    """The mean of q learns n times as fast as differences in dueling, n + 1 in RDQ, (k + 1)^2 with the layer."""
    layer = mexp.MeanExpansion(n)
    rates = {}
    for name, function, inputs in (
        ("dueling", dueling, n + 1),
        ("rdq", lambda parameters: parameters[0] + parameters[1:], n + 1),
        ("layer", layer, n),
    ):
        jacobian = torch.func.jacrev(function)(torch.randn(inputs, dtype=torch.float64))
        eigenvalues, vectors = torch.linalg.eigh(jacobian @ jacobian.T)
        close(eigenvalues[:-1], torch.ones(n - 1, dtype=torch.float64))
        close(vectors[:, -1].abs(), torch.full((n,), n**-0.5, dtype=torch.float64))
        rates[name] = eigenvalues[-1].item()
    assert rates == pytest.approx({"dueling": n, "rdq": n + 1, "layer": (n + 1) ** 2})


# IQN (that the layer commutes with the mean over taus: tests/test_iqn.py)


def test_quantiles_stay_ordered():
    """M_k has no negative entry: if no z_b falls with tau, no q_a does."""
    torch.manual_seed(0)
    z = torch.randn(4, 9, 6, dtype=torch.float64).sort(dim=1).values
    q = mexp.MeanExpansion(6.0)(z)
    assert (q.diff(dim=1) > 0).all()
    matrix = torch.func.jacrev(mexp.MeanExpansion(6.0))(z[0, 0])
    assert (matrix > 0).all()


# Training


def test_rates_of_gradient_descent(case):
    """Errors on all actions at once: that of the mean shrinks by 1 - alpha (k+1)^2, differences by 1 - alpha."""
    n, k = case
    alpha = 0.5 / (k + 1) ** 2
    torch.manual_seed(0)
    z = torch.randn(n, dtype=torch.float64, requires_grad=True)
    target = torch.randn(n, dtype=torch.float64)
    before = target - mexp.MeanExpansion(k)(z)
    (0.5 * before.square().sum()).backward()
    after = target - mexp.MeanExpansion(k)(z - alpha * z.grad)
    close(after.mean(), before.mean() / 2)
    close(after - after.mean(), (1 - alpha) * (before - before.mean()))


@pytest.mark.parametrize("n,k", [(6, 6.0), (18, 1.0)])
def test_gradient_descent_is_that_of_the_folded_network_but_for_the_last_layer(n, k):
    """Every other layer takes the baseline's step, and the last one M_k^2 times its step."""
    network, plain = network_and_folded(n, k)
    matrix = matrix_of(n, k)
    images = observations(2).double() / 255
    upstream = torch.randn(2, n, dtype=torch.float64)
    network.mean_expansion(network.output(network.network(images))).backward(upstream)
    plain.output(plain.network(images)).backward(upstream)
    gradients = {name: parameter.grad.clone() for name, parameter in plain.named_parameters()}
    for name, parameter in network.named_parameters():
        last = name.startswith("output")
        close(parameter.grad, matrix @ gradients[name] if last else gradients[name])
    before = plain.state_dict()
    learning_rate = 0.01
    torch.optim.SGD(network.parameters(), lr=learning_rate).step()
    for name, tensor in network.folded_state_dict().items():
        last = name.startswith("output")
        step = matrix @ matrix @ gradients[name] if last else gradients[name]
        close(tensor, before[name] - learning_rate * step)
    assert min(gradient.abs().max() for gradient in gradients.values()) > 1e-6


def test_same_stationary_points():
    """M_k is invertible: the last layer's gradient vanishes where that of the folded weights does, and only there."""
    n, k = 6, 6.0
    torch.manual_seed(0)
    features, actions = torch.randn(200, 8, dtype=torch.float64), torch.randint(n, (200,))
    target = torch.randn(200, dtype=torch.float64)
    solution = torch.zeros(n, 8, dtype=torch.float64)  # of least squares for each action, that is of the plain network
    for action in range(n):
        rows = actions == action
        solution[action] = torch.linalg.lstsq(features[rows], target[rows]).solution

    def gradient(weight):
        weight = weight.clone().requires_grad_()
        q = mexp.MeanExpansion(k)(features @ weight.T)
        loss = 0.5 * (q.gather(1, actions[:, None])[:, 0] - target).square().sum()
        return torch.autograd.grad(loss, weight)[0]

    unfolded = torch.linalg.inv(matrix_of(n, k)) @ solution
    assert gradient(unfolded).abs().max() < 1e-10
    assert gradient(solution).abs().max() > 1, "the same matrix without unfolding is no such point"


@pytest.mark.parametrize("k", [0.0, 6.0])
def test_adams_first_step(k):
    """After an error on one action all values move by (k + 1) lr (1 + |h|_1); without the layer only its own does."""
    n, action, learning_rate = 6, 2, 1e-3
    torch.manual_seed(0)
    network = mexp.QNetwork(n, k).double()
    hidden = F.relu(torch.randn(512, dtype=torch.float64))
    optimizer = torch.optim.Adam(network.output.parameters(), lr=learning_rate, eps=1e-30)
    before = network.mean_expansion(network.output(hidden))
    before[action].backward(torch.tensor(-0.7, dtype=torch.float64))  # a TD error of 0.7
    optimizer.step()
    moved = network.mean_expansion(network.output(hidden)) - before
    expected = torch.full((n,), (k + 1) * learning_rate * (1 + hidden.sum().item()), dtype=torch.float64)
    if k == 0:
        expected[torch.arange(n) != action] = 0
    close(moved, expected)


def test_adams_first_step_in_the_other_layers():
    """It is the step of the folded baseline, for their gradients are."""
    network, plain = network_and_folded(6, 6.0)
    images, upstream = observations(1).double() / 255, torch.randn(1, 6, dtype=torch.float64)
    for net in (network, plain):
        optimizer = torch.optim.Adam(net.parameters(), lr=6.25e-5, eps=1.5e-4)
        q = net.output(net.network(images))
        if net is network:
            q = net.mean_expansion(q)
        q.backward(upstream)
        optimizer.step()
    others = dict(plain.network.named_parameters())
    for name, parameter in network.network.named_parameters():
        close(parameter, others[name])


@pytest.mark.parametrize("errors", ["noise", "common", "both"])
@pytest.mark.parametrize("n,k", [(4, 4.0), (18, 18.0), (18, 1.0)])
def test_adams_denominator(n, k, errors):
    """The layer multiplies Adam's second moment of a bias, averaged over the actions, by r = 1 + s (2k + k^2), where s
    is the share of the mean in the squared gradient: 1/n, so r = c, for errors of random sign on one action at a time;
    1, so r = (k + 1)^2, for an error common to all actions."""
    noise = 0.7 * torch.cat([torch.eye(n), -torch.eye(n)]).double()
    common = torch.full((2 * n, n), 0.2, dtype=torch.float64)
    upstream = {"noise": noise, "common": common, "both": noise + common}[errors]
    share = (n * upstream.mean(-1).square()).sum() / upstream.square().sum()
    moments = []
    for coefficient in (0.0, k):
        bias = torch.zeros(n, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([bias], lr=0.0, betas=(0.9, 1 - 1e-9))  # so slow that it is the plain average
        for row in upstream:
            optimizer.zero_grad()
            mexp.MeanExpansion(coefficient)(bias).backward(row)
            optimizer.step()
        moments.append(optimizer.state[bias]["exp_avg_sq"])
    close(moments[1].sum() / moments[0].sum(), 1 + share * (2 * k + k * k), 1e-6)
    known = {"noise": self_weight(n, k), "common": (k + 1) ** 2}
    if errors in known:
        close(moments[1] / moments[0], torch.full((n,), known[errors], dtype=torch.float64), 1e-6)


def test_initial_weights():
    """A row of the folded weights has on average c times the squared norm of a plain one, and two rows have the cosine
    (c - 1)/c instead of 0: errors on different actions pull the features almost the same way."""
    n, k, networks = 18, 18.0, 12
    torch.manual_seed(0)
    gram = torch.zeros(n, n)
    for _ in range(networks):
        weight = mexp.QNetwork(n, k).folded_state_dict()["output.weight"]
        gram += weight @ weight.T / networks
    c = self_weight(n, k)
    cosine = (gram.sum() - gram.trace()) / (n - 1) / gram.trace()
    assert c == pytest.approx(21)
    assert gram.trace().item() / n == pytest.approx(c, rel=0.1)  # a standard deviation is 0.02
    assert cosine.item() == pytest.approx((c - 1) / c, rel=0.02)


# The module, and the page


@pytest.mark.parametrize("k", [-1, -1e-9, float("nan"), float("inf")])
def test_bad_k(k):
    with pytest.raises(ValueError, match="must be a finite number, at least 0"):
        mexp.MeanExpansion(k)


def test_no_parameters():
    assert not mexp.MeanExpansion(3.0).state_dict()
    assert list(mexp.QNetwork(6, 6.0).state_dict()) == list(dqn.QNetwork(6).state_dict())


@pytest.mark.parametrize("name", DQN)
def test_initialisation(name):
    """LeCun normal weights, biases 0.1 and 0 in the last layer."""
    torch.manual_seed(0)
    network = make_network(load(name), 18)
    layers = [layer for layer in network.network if hasattr(layer, "weight")] + [network.output]
    for layer in layers:
        fan_in = np.prod(layer.weight.shape[1:])
        count = layer.weight.numel()
        assert abs(layer.weight.std().item() * fan_in**0.5 - 1) < 5 / (2 * count) ** 0.5
        assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.0 if layer is network.output else 0.1))
    assert [tuple(layer.weight.shape) for layer in layers] == [
        (32, 4, 8, 8),
        (64, 32, 4, 4),
        (64, 64, 3, 3),
        (512, 3136),
        (18, 512),
    ]


def test_page_and_tests_agree():
    """Every test that docs/layer.md names exists, and it names every test of this file."""
    page = (ROOT / "docs" / "layer.md").read_text()
    named = set(re.findall(r"`(tests/\w+\.py)::(test_\w+)`", page))
    assert named
    for file, test in sorted(named):
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file} has no {test}"
    here = set(re.findall(r"^def (test_\w+)\(", (ROOT / "tests" / "test_layer.py").read_text(), re.MULTILINE))
    assert here == {test for file, test in named if file == "tests/test_layer.py"}
