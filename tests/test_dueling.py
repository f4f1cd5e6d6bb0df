"""`related/dueling_*.py`: network and update of Dueling DQN and RDQ against the formulas in float64."""

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers import TINY, batch_of, doubles, features_by_hand, games_of, load, make_network, run_folders, run_here
from helpers import networks as networks_of

ATARI, MINATAR = "related/dueling_atari", "related/dueling_minatar"
GAMMA, LR, ADAM_EPS = 0.99, 1e-3, 1.5e-4
BETA = 0.5  # with the paper's 0.001 the L2 term would hide in the tolerances


@pytest.fixture(params=[ATARI, MINATAR])
def script(request):
    return load(request.param)


def networks(script, rdq):
    """A network, with biases that are not 0 either, and a target network that differs from it."""
    network, target = networks_of(script, rdq=rdq)
    for module in (network, target):
        for stream in (module.value, module.advantage):
            for layer in (stream[0], stream[2]):
                nn.init.normal_(layer.bias, std=0.3)
    return network, target


def with_gradients(network):
    """The weights by name in float64, which gather gradients of their own."""
    return {name: value.requires_grad_() for name, value in doubles(network).items()}


def streams_by_hand(script, weights, obs):
    """v, (B, 1), and a, (B, n), in float64 from the weights."""
    x = features_by_hand(script, weights, obs).flatten(1)
    results = []
    for name in ("value", "advantage"):
        hidden = F.relu(F.linear(x, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"]))
        results.append(F.linear(hidden, weights[f"{name}.2.weight"], weights[f"{name}.2.bias"]))
    return results


def values_by_hand(v, a, rdq):
    """q, (B, n), one state and action at a time."""
    rows = []
    for b in range(len(v)):
        baseline = 0.0 if rdq else sum(a[b]) / len(a[b])
        rows.append(torch.stack([v[b, 0] + advantage - baseline for advantage in a[b]]))
    return torch.stack(rows)


# NETWORK


def test_architecture(script):
    """Two streams on the convolutions: as wide as the baseline's hidden layer each, and of 1 and n outputs."""
    network = make_network(script, 7, rdq=False)
    convolutions, features, hidden = [(16, 4, 3, 3)], 1024, 128
    if games_of(script) == "Atari":
        convolutions, features, hidden = [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3)], 3136, 512
    expected = {
        "network": convolutions,
        "value": [(hidden, features), (1, hidden)],
        "advantage": [(hidden, features), (7, hidden)],
    }
    parameters = 0
    for name, shapes in expected.items():
        layers = [layer for layer in getattr(network, name).modules() if hasattr(layer, "weight")]
        assert [tuple(layer.weight.shape) for layer in layers] == shapes
        parameters += sum(layer.weight.numel() + layer.bias.numel() for layer in layers)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    rdq = make_network(script, 7, rdq=True)
    assert [p.shape for p in rdq.parameters()] == [p.shape for p in network.parameters()]


@pytest.mark.parametrize("rdq", [False, True])
def test_initialisation(script, rdq):
    """LeCun normal weights; biases 0.03 in the convolutions and 0 elsewhere."""
    torch.manual_seed(2)
    network = make_network(script, rdq=rdq)
    layers = [layer for layer in network.modules() if hasattr(layer, "weight")]
    assert len(layers) == (7 if games_of(script) == "Atari" else 5)
    for layer in layers:
        spread = layer.weight.std().item() * layer.weight[0].numel() ** 0.5
        assert abs(spread - 1) < 5 / (2 * layer.weight.numel()) ** 0.5
        assert abs(layer.weight.mean().item()) < 5 / (layer.weight.numel() * layer.weight[0].numel()) ** 0.5
        bias = 0.03 if isinstance(layer, nn.Conv2d) else 0.0
        assert torch.equal(layer.bias, torch.full_like(layer.bias, bias))


@pytest.mark.parametrize("rdq", [False, True])
def test_values_equal_the_formula(script, rdq):
    """Of Dueling DQN the mean over actions is v; of RDQ q is v + a, whose mean is not."""
    network, _ = networks(script, rdq)
    obs = batch_of(script).obs
    with torch.no_grad():
        v, a = network.streams(obs)
        q = network(obs)
    expected_v, expected_a = streams_by_hand(script, doubles(network), obs)
    torch.testing.assert_close(v.double(), expected_v.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.double(), expected_a.detach(), rtol=1e-4, atol=1e-5)
    expected = values_by_hand(expected_v, expected_a, rdq).detach()
    assert q.dtype == torch.float32 and q.shape == (16, 6)
    torch.testing.assert_close(q.double(), expected, rtol=1e-4, atol=1e-5)
    assert a.mean(1).abs().min() > 1e-3, "a mean that one could overlook tells nothing"
    if rdq:
        assert torch.equal(q, v + a)
    else:
        torch.testing.assert_close(q.mean(1, keepdim=True), v, rtol=1e-5, atol=1e-6)
    values = script.action_values(network, obs)
    assert torch.equal(values, q) and not values.requires_grad


# UPDATE


def loss_by_hand(script, weights, target_weights, batch, beta):
    """The loss, the TD errors and the values of the actions taken, one transition at a time."""
    rdq = beta > 0
    v, a = streams_by_hand(script, weights, batch.obs)
    q = values_by_hand(v, a, rdq)
    q_next = values_by_hand(*streams_by_hand(script, target_weights, batch.next_obs), rdq)
    td_errors, squares, norms = [], [], []
    for b in range(len(batch.actions)):
        bootstrap = 0.0 if batch.terminated[b] else GAMMA * max(q_next[b].tolist())
        td_errors.append(float(batch.rewards[b]) + bootstrap - q[b, batch.actions[b]])
        squares.append(0.5 * td_errors[-1] ** 2)
        norms.append(0.5 * (v[b, 0] ** 2 + sum(advantage**2 for advantage in a[b])))
    loss = sum(squares)
    if rdq:
        loss = sum(squares) / len(squares) + beta * sum(norms) / len(norms)
    return loss, torch.stack(td_errors).detach(), q.gather(1, batch.actions[:, None]).detach()


@pytest.mark.parametrize("beta", [0.0, BETA])
def test_one_step_equals_the_formula(script, beta):
    """Dueling DQN sums half the squared TD errors; RDQ averages them, and adds its L2 term."""
    network, target = networks(script, rdq=beta > 0)
    batch = batch_of(script)
    assert 0 < batch.terminated.sum() < 16
    weights = with_gradients(network)
    target_weights = doubles(target)
    loss, td_errors, taken = loss_by_hand(script, weights, target_weights, batch, beta)
    loss.backward()

    optimizer = torch.optim.Adam(network.parameters(), lr=LR, eps=ADAM_EPS, fused=True)
    args = script.Args(gamma=GAMMA, rdq_beta=beta)
    got_loss, got_q, got_errors = script.update(network, target, optimizer, args, batch)
    assert not any(got.requires_grad for got in (got_loss, got_q, got_errors))
    assert got_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert got_q.item() == pytest.approx(taken.mean().item(), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(got_errors.double(), td_errors, rtol=1e-4, atol=1e-5)
    for name, parameter in network.named_parameters():
        gradient = weights[name].grad
        torch.testing.assert_close(parameter.grad.double(), gradient, rtol=1e-4, atol=2e-6)
        expected = weights[name].detach() - LR * gradient / (gradient.abs() + ADAM_EPS)  # Adam's first step
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-4, atol=2e-6)
    for name, value in target.state_dict().items():
        assert torch.equal(value.double(), target_weights[name]), "the target network stays"


def without_td_errors(batch, q):
    """The batch with rewards that are the values `q`, (B, n), of its actions, and no successors."""
    rewards = q.gather(1, batch.actions[:, None]).squeeze(1)
    return batch._replace(rewards=rewards, terminated=torch.ones_like(rewards))


class HeldValues(nn.Module):
    """A network whose q = v + a stays, whatever v is learned: a is q - v."""

    def __init__(self, script, q):
        super().__init__()
        self.rdq = True
        self.script = script
        self.q = q
        self.v = nn.Parameter(torch.zeros(len(q), 1, dtype=q.dtype))

    def streams(self, obs):
        return self.v, self.q - self.v

    def combine(self, v, a):
        return self.script.QNetwork.combine(self, v, a)

    def forward(self, obs):
        return self.q


@pytest.mark.parametrize("num_actions", [2, 6, 18])
def test_proposition_1(script, num_actions):
    """At a fixed q the L2 term alone, minimised by gradient descent over how v and a share q, ends where v is
    sum(q) / (n + 1), and a the z of the mean-expansion layer with k = n."""
    q = 3 * torch.randn(16, num_actions, generator=torch.manual_seed(3), dtype=torch.float64) + 2
    network = HeldValues(script, q)
    batch = batch_of(load(MINATAR), num_actions)
    batch = without_td_errors(batch, q)
    # The gradient in v is BETA / 16 * ((n + 1) v - sum(q)): each step halves the distance to where it is 0
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5 * 16 / (BETA * (num_actions + 1)))
    losses = []
    for _ in range(60):
        loss, _, td_errors = script.update(network, network, optimizer, script.Args(rdq_beta=BETA), batch)
        assert td_errors.abs().max() < 1e-12
        losses.append(loss.item())
    assert np.diff(losses).max() < 1e-12 and losses[-1] < 0.99 * losses[0], "it descends"
    v, a = (stream.detach() for stream in network.streams(None))
    torch.testing.assert_close(v, q.sum(1, keepdim=True) / (num_actions + 1), rtol=1e-12, atol=1e-12)
    layer = load("dqn_atari_mexp").MeanExpansion(num_actions)
    torch.testing.assert_close(layer(a), q, rtol=1e-12, atol=1e-12)
    # The layer has an inverse, so this z is the only one
    solved = torch.linalg.solve(layer(torch.eye(num_actions, dtype=q.dtype)).T, q.T).T
    torch.testing.assert_close(a, solved, rtol=1e-12, atol=1e-12)


# THE FLAG


def test_the_flag_chooses_the_network(script):
    """Dueling DQN's by default, RDQ's with any weight of its L2 term."""
    assert script.Args().rdq_beta == 0
    for beta in (0.0, 0.001):
        args = script.Args(rdq_beta=beta)
        assert script.make_network(args, script.make_envs(args, 1)).rdq is (beta > 0)


def test_a_run_on_atari(tmp_path):
    """Three updates of a whole run change both streams."""
    run_here(ATARI, TINY, "--env-id ALE/Pong-v5 --total-timesteps 73 --save-model --rdq-beta 0.001", cwd=tmp_path)
    (folder,) = run_folders(tmp_path)
    assert not (folder / "model_folded.pt").exists(), "there is no layer to fold"
    torch.manual_seed(1)
    made = load(ATARI).QNetwork(18, rdq=True).state_dict()
    weights = torch.load(folder / "model.pt", weights_only=True)
    assert list(weights) == list(made) and not any(torch.equal(weights[name], made[name]) for name in made)
