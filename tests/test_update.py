"""One gradient step against the formula, computed by hand in float64."""

import copy
import inspect
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import DQN, bind, load, make_network
from test_resume import fork

GAMMA, LR, K = 0.99, 1e-3, 2.5
CPU = torch.device("cpu")


@pytest.fixture(params=DQN)
def script(request):
    return load(request.param)


def values_by_hand(weights, obs, k):
    """The network in float64 from its weights; the layer as a product with M_k."""
    x = obs.double() / 255
    for i, stride in ((0, 4), (2, 2), (4, 1)):
        x = F.relu(F.conv2d(x, weights[f"network.{i}.weight"], weights[f"network.{i}.bias"], stride=stride))
    x = F.relu(F.linear(x.flatten(1), weights["network.7.weight"], weights["network.7.bias"]))
    z = F.linear(x, weights["output.weight"], weights["output.bias"])
    n = z.shape[1]
    return z @ (torch.eye(n) + k / n).double().T


def batch_with_all_kinds(script):
    """Transitions of the buffer itself: within an episode, at its terminal step, and truncated."""
    buffer, rng = script.ReplayBuffer(30, 1, CPU), np.random.default_rng(0)
    frames = rng.integers(0, 256, size=(40, 1, 84, 84), dtype=np.uint8)
    done, truncations = np.ones(1, bool), []
    for t in range(30):
        buffer.append(np.arange(1), frames[t], done, rng.integers(6, size=1))
        slot = int(buffer.written[0] - 1) % buffer.length
        terminated, truncated = np.array([t % 10 == 4]), np.array([t % 10 == 8])
        buffer.complete(np.array([[-1.0, 0.0, 1.0][t % 3]]), terminated)
        if truncated[0]:
            buffer.truncate(truncated, frames[30 + t // 10])
            truncations.append(slot)
        done = terminated | truncated
    slots = np.arange(buffer.size)
    chosen = slots[buffer.valid(slots)][-16:]

    class Chosen:
        def integers(self, high, size):
            return chosen

    batch = buffer.sample(16, Chosen(), CPU)
    truncated = np.isin(chosen, truncations)
    assert batch.terminated.any() and truncated.any() and not batch.terminated[truncated].any()
    for b in np.flatnonzero(truncated):  # the successor is the final frame, not the next episode's first
        assert any(np.array_equal(batch.next_obs[b, 3], frames[30 + i, 0]) for i in range(3))
    return batch


def networks(script):
    torch.manual_seed(1)
    network = make_network(script, 6, K)
    target = copy.deepcopy(network)
    for parameter in target.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    return network, target.requires_grad_(False)


def layer_k(script):
    return K if hasattr(script, "MeanExpansion") else 0.0


def test_one_step_equals_the_formula(script):
    network, target = networks(script)
    batch, k = batch_with_all_kinds(script), layer_k(script)
    weights = {name: value.double().clone().requires_grad_() for name, value in network.state_dict().items()}
    target_weights = {name: value.double() for name, value in target.state_dict().items()}

    q, q_next = values_by_hand(weights, batch.obs, k), values_by_hand(target_weights, batch.next_obs, k)
    loss, td_errors = 0.0, []
    for b in range(len(batch.actions)):
        bootstrap = 0.0 if batch.terminated[b] else GAMMA * max(q_next[b].tolist())
        td_errors.append(float(batch.rewards[b]) + bootstrap - q[b, batch.actions[b]])
        loss = loss + 0.5 * td_errors[-1] ** 2
    loss.backward()

    optimizer = torch.optim.Adam(network.parameters(), lr=LR, eps=1.5e-4, fused=True)
    got_loss, got_q, got_errors = script.update(network, target, optimizer, script.Args(gamma=GAMMA), batch)
    assert not any(got.requires_grad for got in (got_loss, got_q, got_errors))
    assert got_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert got_q.item() == pytest.approx(q.gather(1, batch.actions[:, None]).mean().item(), rel=1e-4, abs=1e-6)
    assert got_errors.tolist() == pytest.approx([error.item() for error in td_errors], rel=1e-4, abs=1e-5)
    for name, parameter in network.named_parameters():
        gradient = weights[name].grad
        expected = weights[name].detach() - LR * gradient / (gradient.abs() + 1.5e-4)  # Adam's first step
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-4, atol=2e-6)
    for name, value in target.state_dict().items():
        assert torch.equal(value.double(), target_weights[name]), "the target network stays"


def test_old_gradients_do_not_count():
    """What an interrupted call left in the gradients: the same step as without."""
    script, weights = load("dqn_atari_mexp"), []
    for left in (None, 1.0):
        network, target = networks(script)
        for parameter in network.parameters():
            parameter.grad = None if left is None else torch.full_like(parameter, left)
        learn, _ = bind(script, network, target, torch.optim.SGD(network.parameters(), lr=1e-3))
        learn(*batch_with_all_kinds(script))
        weights.append(network.output.weight.detach())
    assert torch.equal(*weights)


def test_the_layer_changes_the_update():
    """With k the bias of an action that was not taken moves too, by k / n of the TD error (first step of SGD)."""
    script = load("dqn_atari_mexp")
    network, target = networks(script)
    batch = batch_with_all_kinds(script)
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
        batch = batch_with_all_kinds(script)
        losses = [[x.tolist() for x in learn(*batch)] for _ in range(20)]
        results.append((losses, values(batch.obs).tolist()))
    assert results[0] == results[1] and len({loss for loss, _, _ in results[0][0]}) == 20


def test_repeated_steps_reduce_the_loss():
    script = load("dqn_atari_mexp")
    network, target = networks(script)
    optimizer = torch.optim.Adam(network.parameters(), lr=2.5e-4, eps=1.5e-4, fused=True)
    learn, _ = bind(script, network, target, optimizer)
    batch = batch_with_all_kinds(script)
    losses = [learn(*batch)[0].item() for _ in range(40)]
    assert losses[-1] < losses[0] / 10


def test_action_values_are_the_networks(script):
    network, _ = networks(script)
    obs = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    weights = {name: value.double() for name, value in network.state_dict().items()}
    values = script.action_values(network, obs)
    assert values.dtype == torch.float32 and not values.requires_grad
    torch.testing.assert_close(values.double(), values_by_hand(weights, obs, layer_k(script)), rtol=1e-4, atol=1e-5)


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
    batch = batch_with_all_kinds(script)
    sizes = dict(num_actions=6, mean_scaling_coefficient=0.0, rdq=False)
    known = inspect.signature(script.QNetwork.__init__).parameters
    network = script.QNetwork(**{name: size for name, size in sizes.items() if name in known})
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    with pytest.raises(AssertionError, match="is broadcast"):
        script.update(network, copy.deepcopy(network), optimizer, script.Args(), batch)


COLUMN = "td_target = batch.rewards + args.gamma * (1 - batch.terminated) * next_values[:, None]"
