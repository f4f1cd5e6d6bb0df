"""One gradient step against the formula, computed by hand in float64."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import (
    DQN,
    TRAINED,
    assert_adams_first_step,
    batch_of,
    bind,
    doubles,
    fork,
    load,
    make_network,
    networks,
    td_loss_by_hand,
    values_by_hand,
)

GAMMA, LR, K = 0.99, 1e-3, 2.5


@pytest.fixture(params=[*DQN, "minatar_mexp", "lunarlander_mexp"])
def script(request):
    return load(request.param)


def layer_k(script):
    return K if hasattr(script, "MeanExpansion") else 0.0


def test_one_step_equals_the_formula(script):
    network, target = networks(script, k=K)
    batch, k = batch_of(script), layer_k(script)
    weights = {name: value.requires_grad_() for name, value in doubles(network).items()}
    target_weights = doubles(target)
    q, q_next = (values_by_hand(script, *of, k) for of in ((weights, batch.obs), (target_weights, batch.next_obs)))
    loss, td_errors = td_loss_by_hand(batch, q, q_next, GAMMA)
    if script.__name__ == "lunarlander_mexp":
        loss = loss / 16  # averaged over the batch
    loss.backward()

    optimizer = torch.optim.Adam(network.parameters(), lr=LR, eps=1.5e-4, fused=True)
    got_loss, got_q, got_errors = script.update(network, target, optimizer, script.Args(gamma=GAMMA), batch)
    assert not any(got.requires_grad for got in (got_loss, got_q, got_errors))
    assert got_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert got_q.item() == pytest.approx(q.gather(1, batch.actions[:, None]).mean().item(), rel=1e-4, abs=1e-6)
    assert got_errors.tolist() == pytest.approx(td_errors.tolist(), rel=1e-4, abs=1e-5)
    assert_adams_first_step(network, weights, LR, 1.5e-4)
    for name, value in target.state_dict().items():
        assert torch.equal(value.double(), target_weights[name]), "the target network stays"


@pytest.mark.parametrize("name", [name for name in TRAINED if "online" not in name])
def test_minibatches_of_one_call_are_updates_in_turn(name):
    """Bit for bit: outputs and weights."""
    script = load(name)
    args, batch, results = script.Args(batch_size=4), batch_of(script), []
    for together in (True, False):
        network, target = networks(script, num_heads=3, layer_norm=True, width=16, rdq=True)
        parameters = list(network.parameters())
        if hasattr(script, "QNetworks"):
            network = script.QNetworks([network, copy.deepcopy(network)])
            parameters = list(network.parameters.values())
        optimizer = torch.optim.Adam(parameters, lr=LR)
        torch.manual_seed(0)  # of IQN's fractions
        if together:
            outputs = script.update_minibatches(network, target, optimizer, args, *batch)
        else:
            minibatches = [script.Batch(*(field[i : i + 4] for field in batch)) for i in range(0, 16, 4)]
            outputs = [script.update(network, target, optimizer, args, minibatch) for minibatch in minibatches]
        assert len(outputs) == 4
        results.append([*parameters, *(tensor for one in outputs for tensor in one)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_old_gradients_do_not_count():
    """What an interrupted call left in the gradients: the same step as without."""
    script, weights = load("dqn_atari_mexp"), []
    for left in (None, 1.0):
        network, target = networks(script, k=K)
        for parameter in network.parameters():
            parameter.grad = None if left is None else torch.full_like(parameter, left)
        learn, _ = bind(script, network, target, torch.optim.SGD(network.parameters(), lr=1e-3))
        learn(*batch_of(script))
        weights.append(network.output.weight.detach())
    assert torch.equal(*weights)


def test_the_layer_changes_the_update():
    """With k the bias of an action that was not taken moves too, by k / n of the TD error (first step of SGD)."""
    script = load("dqn_atari_mexp")
    network, target = networks(script, k=K)
    batch = batch_of(script)
    batch = batch._replace(actions=torch.zeros_like(batch.actions))
    before = network.output.bias.detach().clone()
    learn, _ = bind(script, network, target, torch.optim.SGD(network.parameters(), lr=1.0), gamma=GAMMA)
    _, _, td_errors = learn(*batch)
    moved = network.output.bias.detach() - before
    expected = torch.full((6,), K / 6)
    expected[0] += 1
    torch.testing.assert_close(moved, expected * td_errors.sum(), rtol=1e-4, atol=1e-5)


def test_k_zero_is_the_baseline():
    """With k = 0 and the same seed both scripts give the same bits for 20 updates."""
    results = []
    for script in (load("dqn_atari"), load("dqn_atari_mexp")):
        torch.manual_seed(3)
        network = make_network(script, 6, 0.0)
        target, optimizer = copy.deepcopy(network), torch.optim.Adam(network.parameters())
        learn, values = bind(script, network, target, optimizer, gamma=GAMMA)
        batch = batch_of(script)
        losses = [[x.tolist() for x in learn(*batch)] for _ in range(20)]
        results.append((losses, values(batch.obs).tolist()))
    assert results[0] == results[1] and len({loss for loss, _, _ in results[0][0]}) == 20


def test_repeated_steps_reduce_the_loss():
    script = load("dqn_atari_mexp")
    network, target = networks(script, k=K)
    optimizer = torch.optim.Adam(network.parameters(), lr=2.5e-4, eps=1.5e-4, fused=True)
    learn, _ = bind(script, network, target, optimizer)
    batch = batch_of(script)
    losses = [learn(*batch)[0].item() for _ in range(40)]
    assert losses[-1] < losses[0] / 10


def test_action_values_are_the_networks(script):
    network, _ = networks(script, k=K)
    obs = batch_of(script).obs
    values = script.action_values(network, obs)
    assert values.dtype == torch.float32 and not values.requires_grad
    expected = values_by_hand(script, doubles(network), obs, layer_k(script))
    torch.testing.assert_close(values.double(), expected, rtol=1e-4, atol=1e-5)


# The scripts that have no baseline of their own; Atari's: test_k_zero_is_the_baseline and test_layer.py


SHAPES = {
    "minatar_mexp": [(16, 4, 3, 3), (128, 1024), (6, 128)],
    "lunarlander_mexp": [(256, 8), (256, 256), (6, 256)],
}


@pytest.mark.parametrize("name", SHAPES)
def test_k_zero_is_the_plain_network(name):
    """The layer at k = 0 changes no bit: not of the values, and not of the weights after 20 updates."""
    script = load(name)
    network, _ = networks(script, k=0.0)
    plain = copy.deepcopy(network)
    plain.mean_expansion = torch.nn.Identity()
    batch = batch_of(script)
    assert isinstance(network.mean_expansion, script.MeanExpansion)
    assert torch.equal(network(batch.obs), plain(batch.obs))
    losses = []
    for net in (network, plain):
        learn, _ = bind(script, net, copy.deepcopy(net), torch.optim.Adam(net.parameters(), fused=True))
        losses.append([learn(*batch)[0].item() for _ in range(20)])
    assert losses[0] == losses[1] and len(set(losses[0])) == 20
    for name, value in network.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


@pytest.mark.parametrize("name", SHAPES)
def test_initialisation(name):
    """LeCun normal weights; biases 0.1 and 0 in the last layer, and 0 in all layers of LunarLander's."""
    network, _ = networks(load(name))
    layers = [layer for layer in network.modules() if hasattr(layer, "weight")]
    assert [tuple(layer.weight.shape) for layer in layers] == SHAPES[name]
    for layer in layers:
        scaled = layer.weight * layer.weight[0].numel() ** 0.5
        assert abs(scaled.std().item() - 1) < 5 / (2 * layer.weight.numel()) ** 0.5
        assert scaled.abs().max() > 2, "normal, not uniform"
        bias = 0.0 if layer is network.output or name == "lunarlander_mexp" else 0.1
        assert torch.equal(layer.bias, torch.full_like(layer.bias, bias))


@pytest.mark.parametrize("k", [0.0, 0.5, 6.0])
@pytest.mark.parametrize("name", SHAPES)
def test_folding(name, k):
    script = load(name)
    network, plain = make_network(script, k=k), make_network(script, k=0.0)
    torch.nn.init.normal_(network.output.bias)
    plain.load_state_dict(network.folded_state_dict())
    obs = batch_of(script).obs
    torch.testing.assert_close(plain(obs), network(obs), rtol=1e-5, atol=1e-5)


def test_epsilon_schedule():
    epsilon = partial(load("dqn_atari").linear_schedule, 1.0, 0.01, 1_000_000)
    assert epsilon(0) == 1.0
    assert epsilon(500_000) == pytest.approx(0.505)
    assert epsilon(1_000_000) == epsilon(50_000_000) == pytest.approx(0.01)


@pytest.mark.parametrize("num_envs", [1, 3, 16])
@pytest.mark.parametrize("frequency", [1, 4, 10, 1000])
def test_every_multiple_is_due_once(num_envs, frequency):
    script = load("dqn_atari")
    steps = range(num_envs, 4000, num_envs)
    assert sum(script.due(step, num_envs, frequency) for step in steps) == steps[-1] // frequency
    assert script.due(1000, num_envs, 0) == 0
    assert script.due(0, num_envs, frequency) == 0


@pytest.mark.parametrize(
    "name", ["dqn_atari", "dqn_atari_mexp", "related/dueling_atari", "related/nature_dqn_atari", "related/softq_atari"]
)
def test_a_target_of_another_shape(name, tmp_path):
    """A fork that forgets the `squeeze` of double DQN would learn from the differences of all pairs of transitions."""
    changes = [("td_target = batch.rewards + args.gamma * (1 - batch.terminated) * next_values", COLUMN)]
    script = load(fork(tmp_path / f"column_{Path(name).name}.py", *changes, name=name))
    batch = batch_of(script)
    network = make_network(script, 6, 0.0, rdq=False)
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    with pytest.raises(AssertionError, match="is broadcast"):
        script.update(network, copy.deepcopy(network), optimizer, script.Args(), batch)


COLUMN = "td_target = batch.rewards + args.gamma * (1 - batch.terminated) * next_values[:, None]"
