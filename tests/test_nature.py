"""`related/nature_dqn_*.py`: RMSprop of Mnih et al. 2015 and the Huber loss against the formulas in float64."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn as nn
from helpers import MINATAR_FLAGS, TINY, checkpointed_run, doubles, games_of, load, make_network, values_by_hand
from helpers import batch_of as helpers_batch_of
from helpers import networks as helpers_networks

ATARI, MINATAR = "related/nature_dqn_atari", "related/nature_dqn_minatar"
LR, ALPHA, EPS = 2.5e-4, 0.95, 1e-2  # of Mnih et al. 2015
TINY_RUN = {
    ATARI: f"{TINY} --env-id ALE/Pong-v5 --no-full-action-space",
    MINATAR: f"{MINATAR_FLAGS} --env-id Seaquest --eval-frequency 0",
}


@pytest.fixture(params=[ATARI, MINATAR])
def script(request):
    return load(request.param)


def networks(script, k):
    network, target = helpers_networks(script, k=k)
    nn.init.normal_(network.output.bias, std=0.3)
    return network, target


def batch_of(script):
    """Some transitions are terminal, and some rewards make TD errors larger than 1."""
    batch = helpers_batch_of(script)
    return batch._replace(rewards=2 * batch.rewards) if games_of(script) == "Atari" else batch


def rmsprop(script, parameters, lr=LR, alpha=ALPHA, eps=EPS):
    return script.RMSprop(parameters, lr=lr, alpha=alpha, eps=eps)


# THE OPTIMIZER


def random_parameters(dtype):
    generator = torch.Generator().manual_seed(4)
    shapes = ((3, 4), (5,))
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def random_gradients(steps, dtype=torch.float64):
    """Gradients of 1e-3 to 100, larger and smaller than epsilon's square root, for each step and parameter."""
    generator = torch.Generator().manual_seed(5)
    scales = [torch.logspace(-3, 2, 12, dtype=torch.float64).view(3, 4), torch.logspace(-3, 2, 5, dtype=torch.float64)]
    drawn = [[torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in scales] for _ in range(steps)]
    return [[(scale * (x + 0.5)).to(dtype) for scale, x in zip(scales, draws, strict=True)] for draws in drawn]


def take_steps(optimizer, parameters, gradients):
    for step_gradients in gradients:
        for parameter, gradient in zip(parameters, step_gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def weights_by_hand(weights, gradients, lr, alpha, eps):
    """The weights after all steps, in a loop for each number: the centred RMSprop of Graves 2013."""
    results = []
    for i, tensor in enumerate(weights):
        new = tensor.double().numpy().copy()
        for index in np.ndindex(new.shape):
            w, m, v = new[index], 0.0, 0.0
            for step_gradients in gradients:
                g = float(step_gradients[i][index])
                m = alpha * m + (1 - alpha) * g
                v = alpha * v + (1 - alpha) * g * g
                w = w - lr * g / (v - m * m + eps) ** 0.5
            new[index] = w
        results.append(torch.from_numpy(new))
    return results


@pytest.mark.parametrize("lr,alpha,eps", [(LR, ALPHA, EPS), (0.1, 0.9, 1e-4), (0.1, 0.0, 0.5)])
def test_rmsprop_against_a_loop(script, lr, alpha, eps):
    """20 steps with random gradients; in float32, as in training, to the rounding of float32."""
    for dtype, rtol, atol in ((torch.float64, 1e-10, 1e-14), (torch.float32, 1e-4, 2e-6)):
        parameters, gradients = random_parameters(dtype), random_gradients(20, dtype)
        before = [parameter.detach().clone() for parameter in parameters]
        expected = weights_by_hand(before, gradients, lr, alpha, eps)
        take_steps(rmsprop(script, parameters, lr, alpha, eps), parameters, gradients)
        for parameter, old, new in zip(parameters, before, expected, strict=True):
            moved = parameter.detach().double() - old.double()
            torch.testing.assert_close(moved, new - old.double(), rtol=rtol, atol=atol)
            assert parameter.dtype == dtype and moved.abs().max() > lr


def test_rmsprop_of_a_gradient_that_does_not_vary(script):
    """Its variance is 0, and in float32 v - m^2 may be less: the weights must not become the root of that."""
    parameter = nn.Parameter(torch.zeros(1000))
    gradient = 1000 * torch.rand(1000, generator=torch.Generator().manual_seed(6)) + 1000
    optimizer = rmsprop(script, [parameter])
    for step in range(400):
        parameter.grad = gradient * (10 if step < 5 else 1)
        old = parameter.detach().clone()
        optimizer.step()
        assert torch.isfinite(parameter).all()
    (state,) = optimizer.state.values()
    below = (state["v"] - state["m"].square()) < -EPS
    assert below.any()
    moved = parameter.detach() - old
    torch.testing.assert_close(moved[below], -LR * gradient[below] / EPS**0.5, rtol=1e-3, atol=0)


def test_rmsprop_works_in_place(script):
    """As a CUDA graph needs it, in which tensors keep their addresses: parameters, averages and gradients stay."""
    parameters = random_parameters(torch.float32)
    optimizer = rmsprop(script, parameters)
    take_steps(optimizer, parameters, random_gradients(1, torch.float32))  # makes the averages, before any capture
    tensors = parameters + [tensor for state in optimizer.state.values() for tensor in state.values()]
    assert len(tensors) == 2 + 4
    before = [tensor.data_ptr() for tensor in tensors]
    for gradients in random_gradients(3, torch.float32):
        old = [tensor.detach().clone() for tensor in tensors]
        take_steps(optimizer, parameters, [gradients])
        assert all(torch.equal(p.grad, gradient) for p, gradient in zip(parameters, gradients, strict=True))
        assert not any(torch.equal(tensor, was) for tensor, was in zip(tensors, old, strict=True))
    now = parameters + [tensor for state in optimizer.state.values() for tensor in state.values()]
    assert [tensor.data_ptr() for tensor in now] == before


def test_rmsprop_as_other_optimizers(script):
    """A parameter without a gradient stays, one added later is trained, and a learning rate may be a tensor."""
    frozen = nn.Parameter(torch.ones(3))
    trained = nn.Parameter(torch.ones(3))
    added = nn.Parameter(torch.ones(3))
    optimizer = rmsprop(script, [frozen, trained], lr=torch.tensor(LR))
    optimizer.add_param_group({"params": [added], "lr": torch.tensor(2 * LR)})
    trained.grad = torch.full((3,), 0.5)
    added.grad = torch.full((3,), 0.5)
    optimizer.step()
    assert torch.equal(frozen, torch.ones(3))
    torch.testing.assert_close(1 - added, 2 * (1 - trained))
    assert (trained < 1).all()


# THE LOSS


class Values(nn.Module):
    """A network whose values of every state are its parameters, 0 at first."""

    def __init__(self):
        super().__init__()
        self.q = nn.Parameter(torch.zeros(5, 3))

    def forward(self, obs):
        return self.q


def test_huber_loss_by_hand(script):
    """Half the square of a TD error up to 1, beyond it the absolute value less a half; summed over the batch. In the
    gradient, by which SGD moves the values of the actions taken, TD errors are clipped to [-1, 1]."""
    network = Values()
    rewards = torch.tensor([0.25, -0.5, 1.0, 3.0, -7.0])
    actions = torch.tensor([0, 1, 2, 1, 0])
    batch = script.Batch(torch.zeros(5), actions, rewards, torch.zeros(5), terminated=torch.ones(5))
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    loss, mean_q, td_errors = script.update(network, Values(), optimizer, script.Args(), batch)
    assert td_errors.tolist() == rewards.tolist() and mean_q.item() == 0
    assert loss.item() == 0.03125 + 0.125 + 0.5 + 2.5 + 6.5
    expected = torch.zeros(5, 3)
    expected[range(5), actions] = torch.tensor([0.25, -0.5, 1.0, 1.0, -1.0])
    assert torch.equal(network.q.detach(), expected)


@pytest.mark.parametrize("k", [0.0, 6.0])
def test_one_step_equals_the_formula(script, k):
    """The real update with the settings of Mnih et al. 2015, of which RMSprop's first step is by hand."""
    network, target = networks(script, k)
    batch = batch_of(script)
    weights = {name: value.requires_grad_() for name, value in doubles(network).items()}
    target_weights = doubles(target)
    q = values_by_hand(script, weights, batch.obs, k)
    q_next = values_by_hand(script, target_weights, batch.next_obs, k)
    loss, td_errors = 0.0, []
    for b in range(len(batch.actions)):
        bootstrap = 0.0 if batch.terminated[b] else 0.99 * max(q_next[b].tolist())
        error = float(batch.rewards[b]) + bootstrap - q[b, batch.actions[b]]
        td_errors.append(error.item())
        loss = loss + (0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5)
    loss.backward()
    large = sum(abs(error) > 1 for error in td_errors)
    assert 3 <= large <= 13 and 0 < batch.terminated.sum() < 16

    got_loss, got_q, got_errors = script.update(
        network, target, rmsprop(script, network.parameters()), script.Args(), batch
    )
    assert not any(got.requires_grad for got in (got_loss, got_q, got_errors))
    assert got_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert got_q.item() == pytest.approx(q.gather(1, batch.actions[:, None]).mean().item(), rel=1e-4, abs=1e-6)
    assert got_errors.tolist() == pytest.approx(td_errors, rel=1e-4, abs=1e-5)
    for name, parameter in network.named_parameters():
        gradient = weights[name].grad
        torch.testing.assert_close(parameter.grad.double(), gradient, rtol=1e-4, atol=1e-5)
        # m = (1 - alpha) g and v = (1 - alpha) g^2, so that v - m^2 = (1 - alpha) alpha g^2
        step = LR * gradient / (ALPHA * (1 - ALPHA) * gradient**2 + EPS).sqrt()
        torch.testing.assert_close(parameter.double(), weights[name].detach() - step, rtol=1e-6, atol=2e-7)
        assert step.abs().max() > LR / 10
    for name, value in target.state_dict().items():
        assert torch.equal(value.double(), target_weights[name]), "the target network stays"


# THE LAYER


class Nothing(nn.Module):
    """Stands in the place of the layer."""

    def forward(self, z):
        return z


def plain_network(script):
    """The network without the layer."""
    plain = make_network(script, k=1.0)
    plain.mean_expansion = Nothing()
    return plain


def test_k_zero_is_the_plain_network(script):
    """The layer at k = 0 changes no bit: not of the values, and not of the weights after 20 updates."""
    network, plain = networks(script, 0.0)[0], plain_network(script)
    plain.load_state_dict(network.state_dict())
    assert isinstance(network.mean_expansion, script.MeanExpansion) and network.mean_expansion.k == 0
    batch = batch_of(script)
    assert torch.equal(network(batch.obs), plain(batch.obs))
    losses = []
    for net in (network, plain):
        target, optimizer = copy.deepcopy(net), rmsprop(script, net.parameters())
        updates = [script.update(net, target, optimizer, script.Args(), batch) for _ in range(20)]
        losses.append([loss.item() for loss, _, _ in updates])
    assert losses[0] == losses[1] and len(set(losses[0])) == 20
    for name, value in network.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name])


@pytest.mark.parametrize("k", [0.0, 0.5, 6.0])
def test_folding(script, k):
    """The plain network with the folded weights has the values of the network with the layer, whose own are others."""
    network, plain = networks(script, k)[0], plain_network(script)
    obs = batch_of(script).obs
    plain.load_state_dict(network.folded_state_dict())
    torch.testing.assert_close(plain(obs), network(obs), rtol=1e-5, atol=1e-5)
    plain.load_state_dict(network.state_dict())
    assert torch.equal(plain(obs), network(obs)) == (k == 0)


# WHOLE RUNS


@pytest.mark.parametrize("name", [ATARI, MINATAR])
def test_optimizer_and_layer_of_a_run(name, tmp_path):
    """RMSprop with the numbers of Mnih et al. 2015 and no layer, or those of the flags; the optimizer's averages are in
    the checkpoint."""
    given = "--learning-rate 1e-3 --rmsprop-alpha 0.9 --rmsprop-eps 1e-3 --mean-scaling-coefficient n"
    for flags, numbers, k in (("", (LR, ALPHA, EPS), 0), (given, (1e-3, 0.9, 1e-3), 6)):
        runs = tmp_path / f"runs{len(flags)}"
        runs.mkdir()
        _, folder = checkpointed_run(runs, name, f"{TINY_RUN[name]} {flags}")
        config = json.loads((folder / "config.json").read_text())
        assert config["args"]["mean_scaling_coefficient"] == k and config["starts"][0]["num_actions"] == 6
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)["components"]["optimizer"]
        (group,) = saved["param_groups"]
        assert (group["lr"], group["alpha"], group["eps"]) == numbers
        assert len(saved["state"]) == len(group["params"]) == (10 if name == ATARI else 6)
        for state in saved["state"].values():
            assert set(state) == {"m", "v"} and state["v"].min() >= 0 and state["v"].max() > 0
            assert (state["m"].square() <= state["v"] * 1.001 + 1e-12).all(), "no variance is negative"
