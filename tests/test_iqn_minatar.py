"""IQN on MinAtar: network, loss and greedy action by hand. What is shared with `iqn_atari.py` is compared as text."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import load


@pytest.fixture(scope="module")
def script():
    return load("related/iqn_minatar")


def observations(count, channels=4):
    return torch.rand(count, 10, 10, channels, generator=torch.Generator().manual_seed(count)) < 0.3


def test_defaults(script):
    """Section 5 of the protocol with Dabney et al.'s epsilon; N and N' are ours."""
    args = script.Args()
    assert (args.num_tau_samples, args.num_tau_prime_samples, args.num_quantile_samples) == (8, 8, 32)
    assert (args.learning_rate, args.adam_eps, args.mean_scaling_coefficient) == (2.5e-4, 0.01 / 32, 0.0)


def test_network_by_hand(script):
    """In float64, one fraction at a time: cosines from i = 1 on, times the torso; the layer on every quantile."""
    torch.manual_seed(0)
    k, network = 2.5, script.QNetwork(4, 5, 2.5)
    weights = {name: value.double() for name, value in network.state_dict().items()}
    obs, taus = observations(3), torch.rand(3, 7)
    planes = obs.permute(0, 3, 1, 2).double()
    torso = F.relu(F.conv2d(planes, weights["torso.0.weight"], weights["torso.0.bias"])).flatten(1)
    columns = []
    for j in range(7):
        cosines = torch.tensor([[math.cos(math.pi * i * tau) for i in range(1, 65)] for tau in taus[:, j].tolist()])
        phi = F.relu(cosines.double() @ weights["embedding.0.weight"].T + weights["embedding.0.bias"])
        hidden = F.relu((torso * phi) @ weights["hidden.0.weight"].T + weights["hidden.0.bias"])
        z = hidden @ weights["output.weight"].T + weights["output.bias"]
        columns.append(z + k * z.mean(1, keepdim=True))
    quantiles = network(obs, taus)
    assert quantiles.shape == (3, 7, 5) and quantiles.dtype == torch.float32
    torch.testing.assert_close(quantiles.double(), torch.stack(columns, 1), rtol=1e-4, atol=1e-5)


def test_the_layer_folds_into_the_last_one(script):
    torch.manual_seed(0)
    network, plain = script.QNetwork(4, 3, 3.0), script.QNetwork(4, 3, 0.0)
    obs, taus = observations(4), torch.rand(4, 6)
    plain.load_state_dict(network.folded_state_dict())
    torch.testing.assert_close(plain(obs, taus), network(obs, taus), rtol=1e-5, atol=1e-5)
    assert not torch.equal(plain.output.weight, network.output.weight)


def test_loss_by_loops(script):
    """Over both quantile axes in float64: mean over targets, sum over predictions, mean over the batch."""
    torch.manual_seed(0)
    quantiles, targets, taus = 2 * torch.randn(3, 4).double(), 2 * torch.randn(3, 5).double(), torch.rand(3, 4).double()
    total = 0.0
    for b in range(3):
        for i in range(4):
            for j in range(5):
                error = (targets[b, j] - quantiles[b, i]).item()
                huber = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
                total += abs(taus[b, i].item() - (error < 0)) * huber / 5 / 3
    assert script.quantile_huber_loss(quantiles, taus, targets).item() == pytest.approx(total, rel=1e-12)


def test_values_are_means_of_k_fractions(script):
    network, obs = script.QNetwork(4, 3, 0.0), observations(5)
    torch.manual_seed(7)
    values = script.action_values(network, 16, obs)
    torch.manual_seed(7)
    taus = torch.rand(5, 16)
    with torch.no_grad():
        one_by_one = torch.stack([network(obs, taus[:, j : j + 1]).squeeze(1) for j in range(16)])
    torch.testing.assert_close(values, one_by_one.mean(0))
    assert values.shape == (5, 3) and not values.requires_grad
