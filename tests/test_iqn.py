"""IQN: the embedding, the loss and the update by hand, and that it learns distributions."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers import IQN, batch_of, bind, doubles, features_by_hand, load, make_network

GAMMA, K = 0.9, 2.5


@pytest.fixture(params=IQN)
def script(request):
    return load(request.param)


def observations(count, seed=0):
    return torch.randint(0, 256, (count, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def quantiles_by_hand(script, weights, obs, taus, k):
    """The network in float64, one fraction at a time; the layer as a product with M_k."""
    x, columns = features_by_hand(script, weights, obs, "torso").flatten(1), []
    for j in range(taus.shape[1]):
        cosines = torch.tensor([[math.cos(math.pi * i * tau) for i in range(1, 65)] for tau in taus[:, j].tolist()])
        phi = F.relu(cosines.double() @ weights["embedding.0.weight"].T + weights["embedding.0.bias"])
        hidden = F.relu((x * phi) @ weights["hidden.0.weight"].T + weights["hidden.0.bias"])
        z = hidden @ weights["output.weight"].T + weights["output.bias"]
        columns.append(z @ (torch.eye(z.shape[1]) + k / z.shape[1]).double().T)
    return torch.stack(columns, 1)


def layer_k(script):
    return K if hasattr(script, "MeanExpansion") else 0.0


def test_embedding(script):
    """cos(pi i tau) for i = 1..64, at fractions that include the ends."""
    taus = torch.tensor([[0.0, 0.5, 1.0, 0.123]])
    network = make_network(script, 3, K)
    got = torch.cos(taus[:, :, None] * network.frequencies)
    expected = [[math.cos(math.pi * i * tau) for i in range(1, 65)] for tau in taus[0].tolist()]
    torch.testing.assert_close(got[0], torch.tensor(expected), atol=2e-5, rtol=0)


def test_network(script):
    torch.manual_seed(0)
    network, obs, taus = make_network(script, 5, K), observations(3), torch.rand(3, 7)
    quantiles = network(obs, taus)
    assert quantiles.shape == (3, 7, 5) and quantiles.dtype == torch.float32
    by_hand = quantiles_by_hand(script, doubles(network), obs, taus, layer_k(script))
    torch.testing.assert_close(quantiles.double(), by_hand, rtol=1e-4, atol=1e-5)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == {
        **{"torso.0.weight": (32, 4, 8, 8), "torso.2.weight": (64, 32, 4, 4), "torso.4.weight": (64, 64, 3, 3)},
        **{"torso.0.bias": (32,), "torso.2.bias": (64,), "torso.4.bias": (64,)},
        **{"embedding.0.weight": (3136, 64), "embedding.0.bias": (3136,), "hidden.0.weight": (512, 3136)},
        **{"hidden.0.bias": (512,), "output.weight": (5, 512), "output.bias": (5,)},
    }


def test_torso_runs_once():
    """For all fractions of an observation together."""
    script = load("iqn_atari_mexp")
    network, calls = make_network(script, 5, K), []
    network.torso.register_forward_hook(lambda module, inputs, output: calls.append(tuple(output.shape)))
    network(observations(2), torch.rand(2, 9))
    assert calls == [(2, 3136)]


def test_the_layer_commutes_with_the_mean_over_taus():
    script = load("iqn_atari_mexp")
    z = torch.randn(4, 9, 6, dtype=torch.float64)
    layer = script.MeanExpansion(K)
    torch.testing.assert_close(layer(z).mean(1), layer(z.mean(1)))
    assert torch.equal(layer(z)[:, 3], layer(z[:, 3])), "every quantile separately"


def test_action_values_are_the_mean_over_fresh_taus():
    script = load("iqn_atari_mexp")
    torch.manual_seed(1)
    network, obs = make_network(script, 5, K), observations(3)
    torch.manual_seed(2)
    one, other = script.action_values(network, 32, obs), script.action_values(network, 32, obs)
    torch.manual_seed(2)
    expected = network(obs, torch.rand(3, 32)).mean(1)
    torch.testing.assert_close(one, expected)
    assert not torch.equal(one, other) and not one.requires_grad


@pytest.mark.parametrize("n,n_prime", [(1, 1), (3, 5), (8, 2)])
def test_loss_against_loops(n, n_prime):
    script = load("iqn_atari")
    torch.manual_seed(n)
    batch = 4
    quantiles = 2 * torch.randn(batch, n, dtype=torch.float64)
    taus, targets = torch.rand(batch, n, dtype=torch.float64), 2 * torch.randn(batch, n_prime, dtype=torch.float64)
    total = 0.0
    for b in range(batch):
        for i in range(n):
            for j in range(n_prime):
                u = float(targets[b, j] - quantiles[b, i])
                huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                total += abs(float(taus[b, i]) - (1.0 if u < 0 else 0.0)) * huber / (batch * n_prime)
    assert script.quantile_huber_loss(quantiles, taus, targets).item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(
    "u,tau,expected", [(0.5, 0.3, 0.3 * 0.125), (-0.5, 0.3, 0.7 * 0.125), (3.0, 0.9, 0.9 * 2.5), (-3.0, 0.9, 0.1 * 2.5)]
)
def test_loss_by_hand_at_one_sample(u, tau, expected):
    script = load("iqn_atari")
    loss = script.quantile_huber_loss(torch.tensor([[2.0]]), torch.tensor([[tau]]), torch.tensor([[2.0 + u]]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_one_step_equals_the_formula(script):
    """The update's loss from its own fractions, with explicit loops in float64; terminal and truncated cases."""
    torch.manual_seed(0)
    network, target = make_network(script, 6, K), make_network(script, 6, K).requires_grad_(False)
    batch = batch_of(script)
    args = script.Args(gamma=GAMMA, num_tau_samples=5, num_tau_prime_samples=4, num_quantile_samples=3)
    torch.manual_seed(7)
    next_taus, taus = torch.rand(16, 7), torch.rand(16, 5)  # the target's K and N', then the online network's N
    k, weights = layer_k(script), {name: value.requires_grad_() for name, value in doubles(network).items()}
    quantiles = quantiles_by_hand(script, weights, batch.obs, taus, k)
    next_quantiles = quantiles_by_hand(script, doubles(target), batch.next_obs, next_taus, k)
    loss, values, td_errors = 0.0, [], []
    for b in range(16):
        greedy = next_quantiles[b, :3].mean(0).argmax()
        errors = []
        for i in range(5):
            prediction = quantiles[b, i, batch.actions[b]]
            values.append(prediction.item())
            for j in range(4):
                bootstrap = 0.0 if batch.terminated[b] else GAMMA * next_quantiles[b, 3 + j, greedy]
                u = float(batch.rewards[b]) + bootstrap - prediction
                huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
                loss = loss + abs(float(taus[b, i]) - float(u < 0)) * huber / (16 * 4)
                errors.append(u.item())
        td_errors.append(np.mean(errors))
    loss.backward()

    torch.manual_seed(7)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    got_loss, got_q, got_errors = script.update(network, target, optimizer, args, batch)
    assert got_loss.item() == pytest.approx(loss.item(), rel=1e-4)
    assert got_q.item() == pytest.approx(np.mean(values), rel=1e-3, abs=1e-5)
    assert got_errors.tolist() == pytest.approx(td_errors, rel=1e-4, abs=1e-5)
    for name, value in network.state_dict().items():
        expected = before[name].double() - weights[name].grad
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=2e-6)


def test_k_zero_is_the_baseline():
    """With k = 0 and the same seed both scripts give the same bits for 20 updates."""
    results = []
    for script in (load("iqn_atari"), load("iqn_atari_mexp")):
        torch.manual_seed(3)
        network = make_network(script, 6, 0.0)
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-5, eps=0.01 / 32, fused=True)
        flags = dict(num_tau_samples=4, num_tau_prime_samples=3, num_quantile_samples=2)
        learn, values = bind(script, network, copy.deepcopy(network).requires_grad_(False), optimizer, **flags)
        batch = batch_of(script)
        losses = [[x.tolist() for x in learn(*batch)] for _ in range(20)]
        results.append((losses, values(batch.obs).tolist()))
    assert results[0] == results[1] and len({loss for loss, _, _ in results[0][0]}) == 20


def test_repeated_steps_reduce_the_loss():
    """On a fixed terminal batch, by a factor of ten."""
    script = load("iqn_atari_mexp")
    torch.manual_seed(0)
    network = make_network(script, 6, K)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4, eps=0.01 / 32, fused=True)
    flags = dict(num_tau_samples=4, num_tau_prime_samples=4, num_quantile_samples=2)
    learn, _ = bind(script, network, network, optimizer, **flags)
    batch = batch_of(script)
    batch = batch._replace(terminated=torch.ones_like(batch.terminated))
    losses = [learn(*batch)[0].item() for _ in range(60)]
    assert np.mean(losses[-10:]) < losses[0] / 10


def check_two_point_and_uniform(script, network, obs, steps):
    """Learns from a batch of terminal transitions of two observations; the return is two-point in one (0 or 25, evenly)
    and uniform on [0, 25) in the other. The learned quantiles are theirs within 0.05 of that range, which is so large
    because quantile Huber with kappa = 1 turns into expectile regression where errors are below 1."""
    scale, count = 25.0, 16
    network.torso.requires_grad_(False)  # its random features tell the observations apart; the rest learns
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, eps=0.01 / 32, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.001, steps)
    flags = dict(num_tau_samples=16, num_tau_prime_samples=1, num_quantile_samples=1)
    learn, _ = bind(script, network, network, optimizer, **flags)
    repeated, evenly = obs.repeat_interleave(count, 0), torch.arange(count)
    rewards = scale * torch.cat([evenly % 2, (evenly + 0.5) / count])
    for _ in range(steps):
        learn(repeated, torch.zeros(2 * count, dtype=torch.int64), rewards, repeated, torch.ones(2 * count))
        schedule.step()
    taus = torch.linspace(0.05, 0.95, 19)
    with torch.no_grad():
        two_point, uniform = network(obs, taus.expand(2, -1))[:, :, 0] / scale
    away = (taus - 0.5).abs() > 0.09  # the two-point quantile function jumps at 0.5
    assert (two_point - (taus > 0.5).float())[away].abs().max() < 0.05, two_point
    assert (uniform - taus).abs().max() < 0.05, uniform


def test_a_small_network_recovers_known_return_distributions():
    torch.manual_seed(0)
    script = load("iqn_atari_mexp")
    network = make_network(script, 2, 2.0)
    network.torso = nn.Sequential(nn.Flatten(), nn.Linear(4 * 5 * 5, 64))
    network.embedding = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    network.hidden = nn.Sequential(nn.Linear(64, 128), nn.ReLU())
    network.output = nn.Linear(128, 2)
    check_two_point_and_uniform(script, network, observations(2)[:, :, :5, :5], steps=1500)


@pytest.mark.slow
def test_recovers_known_return_distributions():
    """The same with the script's own network."""
    torch.manual_seed(0)
    script = load("iqn_atari_mexp")
    check_two_point_and_uniform(script, make_network(script, 2, 2.0), observations(2), steps=900)


def test_folding():
    """The baseline's network gives the folded network's quantiles."""
    mexp, plain = load("iqn_atari_mexp").QNetwork(18, 18.0), load("iqn_atari").QNetwork(18)
    plain.load_state_dict(mexp.folded_state_dict())
    obs, taus = observations(3), torch.rand(3, 6)
    torch.testing.assert_close(plain(obs, taus), mexp(obs, taus), rtol=1e-4, atol=1e-5)


def test_bound_functions(script):
    """What the main block binds runs with the defaults."""
    network = make_network(script, 4)
    learn, values = bind(script, network, copy.deepcopy(network), torch.optim.Adam(network.parameters()))
    assert values(observations(2)).shape == (2, 4)
    obs, zeros = observations(2), torch.zeros(2)
    loss, q, td_errors = learn(obs, torch.tensor([0, 3]), zeros, obs, zeros)
    assert loss.shape == q.shape == () and td_errors.shape == (2,)
