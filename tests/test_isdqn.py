"""Iterated shared Q-learning: network, loss and shift against loops and formulas, heads that act, whole runs."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from helpers import (
    MINATAR_FLAGS,
    assert_same_run,
    batch_of,
    doubles,
    fork,
    games_of,
    load,
    run_folders,
    run_here,
    scalars,
    stopped_and_resumed,
)
from helpers import make_network as helpers_make_network

ATARI, MINATAR = "related/isdqn_atari", "related/isdqn_minatar"
minatar = load(MINATAR)
GAMMA, LR = 0.99, 1e-3
TARGET = "--num-iterations 1 --target-network"
SMALL = "--batch-size 4 --learning-starts 64 --buffer-size 400 --eval-frequency 0"


@pytest.fixture(params=[ATARI, MINATAR])
def script(request):
    return load(request.param)


def on_atari(script):
    return games_of(script) == "Atari"


def make_network(script, num_heads, k=0.0, layer_norm=True, num_actions=6):
    """A network whose biases, scales and shifts are not those of its initialisation, at which some errors hide."""
    torch.manual_seed(1)
    network = helpers_make_network(script, num_actions, k, num_heads=num_heads, layer_norm=layer_norm)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
        elif parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return network


def adam(network):
    return torch.optim.Adam(network.parameters(), lr=LR, eps=1e-4, fused=True)


# NETWORK


def values_by_hand(script, weights, obs, num_heads, k, layer_norm):
    """The values (B, H, n) in float64, from the weights and the paper's layers; SAME padding written out."""
    x = obs.double() / 255 if on_atari(script) else obs.double().permute(0, 3, 1, 2)
    names = [name.removesuffix(".weight") for name in weights if name.endswith("weight")]
    for name in names[:-1]:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if weight.ndim == 4 and on_atari(script):
            stride = {8: 4, 4: 2, 3: 1}[weight.shape[-1]]
            size = -(-x.shape[-1] // stride)  # what JAX calls SAME: the size divided by the stride, rounded up
            padding = (size - 1) * stride + weight.shape[-1] - x.shape[-1]
            before, after = padding // 2, padding - padding // 2
            x = F.conv2d(F.pad(x, (before, after, before, after)), weight, bias, stride=stride)
            assert x.shape[-1] == size
        elif weight.ndim == 4:
            x = F.conv2d(x, weight, bias)
        elif weight.ndim == 2:
            x = F.linear(x.flatten(1), weight, bias)
        else:  # a layer normalisation
            last = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
            normal = (last - last.mean(-1, keepdim=True)) / (last.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
            last = normal * weight + bias
            x = last.permute(0, 3, 1, 2) if x.ndim == 4 else last
        if weight.ndim == 1 or not layer_norm:
            x = x.relu()
    z = F.linear(x, weights["output.weight"], weights["output.bias"]).view(len(x), num_heads, -1)
    return z + k * z.mean(2, keepdim=True)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("num_heads,k", [(1, 0.0), (10, 6.0)])
def test_values_are_the_formulas(script, num_heads, k, layer_norm):
    network = make_network(script, num_heads, k, layer_norm)
    weights = doubles(network)
    obs = batch_of(script).obs
    q = network(obs)
    assert q.shape == (16, num_heads, 6) and q.dtype == torch.float32
    by_hand = values_by_hand(script, weights, obs, num_heads, k, layer_norm)
    torch.testing.assert_close(q.double(), by_hand, rtol=1e-4, atol=1e-4)


def test_initialisation(script):
    """Xavier uniform, of the last layer over the whole matrix; biases 0; head 0 is no copy of head 1."""
    torch.manual_seed(0)
    network = helpers_make_network(script, num_heads=10, layer_norm=True)
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fan_in, fan_out = layer.weight[0].numel(), layer.weight[:, 0].numel()
            limit = (6 / (fan_in + fan_out)) ** 0.5
            assert 0.95 * limit < layer.weight.abs().max() <= limit and not layer.bias.any()
    heads = network.output.weight.view(10, 6, -1)
    assert network.output.out_features == 60 and not torch.equal(heads[0], heads[1])


def test_memory(script):
    """Ten heads have fewer parameters than a network and its target network: the numbers of docs/protocol.md."""
    num_actions, ten_heads, two_networks = (18, 4_137_108, 8_108_004) if on_atari(script) else (3, 135_950, 264_934)
    networks = [make_network(script, heads, num_actions=num_actions) for heads in (10, 1)]
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    assert sizes[0] == ten_heads and 2 * sizes[1] == two_networks


@pytest.mark.parametrize("k", [0.0, 6.0])
def test_folded_state_dict(script, k):
    """The same values at k = 0, in every head."""
    network, plain = make_network(script, 4, k), make_network(script, 4, 0.0)
    plain.load_state_dict(network.folded_state_dict())
    obs = batch_of(script).obs
    torch.testing.assert_close(plain(obs), network(obs), rtol=1e-4, atol=1e-4)


# HEADS THAT ACT


def test_which_heads_act(script):
    q = torch.randn(3, 10, 6)
    assert torch.equal(script.online_heads(q), q[:, [1, 2, 3, 4, 5, 6, 7, 8, 9]])
    assert torch.equal(script.target_heads(q), q[:, [0, 1, 2, 3, 4, 5, 6, 7, 8]])
    assert torch.equal(script.online_heads(q[:, :1]), q[:, :1]) and torch.equal(script.target_heads(q[:, :1]), q[:, :1])
    network = make_network(script, 4)
    obs = batch_of(script).obs[:5]
    with torch.no_grad():
        values = network(obs)
    torch.testing.assert_close(
        script.action_values(network, "mean", obs), (values[:, 1] + values[:, 2] + values[:, 3]) / 3
    )


def test_the_random_head_is_uniform():
    """Each of the online heads is drawn a third of the time, for each row by itself, and never the target's."""
    network = make_network(minatar, 4)
    obs = torch.zeros(3000, 10, 10, 4, dtype=torch.bool)
    with torch.no_grad():
        values = network(obs[:1])[0]
    drawn = minatar.action_values(network, "random", obs)
    which = (drawn[:, None] - values[None]).abs().amax(2).argmin(1)
    torch.testing.assert_close(drawn, values[which])
    counts = torch.bincount(which, minlength=4)
    assert counts[0] == 0 and (counts[1:] > 900).all()  # 1,000 expected, the standard deviation is 26


# UPDATE


def loss_by_hand(script, network, target, batch, num_heads, shared):
    """Loops over heads and batch: the loss, the loss of every head and the TD errors."""
    q, next_q = network(batch.obs), target(batch.next_obs).detach()
    first = 1 if shared else 0  # the head that learns first
    td_errors, head_losses = torch.zeros(16, num_heads - first).double(), []
    for head in range(first, num_heads):
        head_loss = 0.0
        for b in range(16):
            value = max(next_q[b, head - first].tolist())
            y = batch.rewards[b].item()
            if batch.terminated[b] == 0:
                y += GAMMA * value
            error = y - q[b, head, batch.actions[b]]
            td_errors[b, head - first] = error.detach()
            head_loss = head_loss + error**2 / 16
        head_losses.append(head_loss)
    return sum(head_losses), torch.stack(head_losses).detach(), td_errors


@pytest.mark.parametrize("k", [0.0, 6.0])
@pytest.mark.parametrize("variant", ["K=9", "K=1", "K=0", "target network"])
def test_update_against_loops(variant, k):
    """Loss, gradients and one step of plain Adam in float64."""
    num_heads = {"K=9": 10, "K=1": 2, "K=0": 1, "target network": 1}[variant]
    network = make_network(minatar, num_heads, k).double()
    by_hand = copy.deepcopy(network)
    target, target_by_hand = network, by_hand
    if variant == "target network":
        target = make_network(minatar, num_heads, k).double().requires_grad_(False)
        target.output.weight.data += 0.1
        target_by_hand = target
    batch = batch_of(minatar)
    batch = batch._replace(rewards=batch.rewards.double(), terminated=batch.terminated.double())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)  # what the network makes of its observations
        args = minatar.Args(gamma=GAMMA)
        loss, mean_q, td_errors, head_losses, distances = minatar.update(network, target, adam(network), args, batch)
        loss_, head_losses_, td_errors_ = loss_by_hand(
            minatar, by_hand, target_by_hand, batch, num_heads, shared=num_heads > 1
        )
        q = by_hand(batch.obs).detach()
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=LR, eps=1e-4)
    loss_.backward()
    optimizer.step()
    for ours, theirs in ((loss, loss_.detach()), (head_losses, head_losses_), (td_errors, td_errors_)):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for (name, ours), theirs in zip(network.named_parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)
    apart = [(q[:, head] - q[:, head - 1]).abs().mean().item() for head in range(1, num_heads)]
    assert distances.tolist() == pytest.approx(apart, rel=1e-12) and len(distances) == num_heads - 1
    online = q[:, 1:] if num_heads > 1 else q
    chosen = online[torch.arange(16), :, batch.actions]
    assert mean_q.item() == pytest.approx(chosen.mean().item(), rel=1e-12)


def test_head_0_moves_in_shifts_only(script):
    """Momentum is no exception: over updates before, between and after two shifts, which leave Adam's moments."""
    network = make_network(script, 4, 6.0)
    optimizer, args, batch = adam(network), script.Args(), batch_of(script)

    def heads():
        return network.output.weight.detach().clone().view(4, 6, -1), network.output.bias.detach().clone().view(4, 6)

    for _ in range(3):
        before = heads()
        for _ in range(4):
            script.update(network, network, optimizer, args, batch)
            assert not network.output.weight.grad.view(4, 6, -1)[0].any()
        after = heads()
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old[0], new[0])
            assert all(not torch.equal(old[head], new[head]) for head in (1, 2, 3))
        moments = copy.deepcopy(optimizer.state_dict()["state"])
        network.shift()
        for index, state in optimizer.state_dict()["state"].items():
            assert all(torch.equal(value, moments[index][name]) for name, value in state.items())
        for old, new in zip(after, heads(), strict=True):
            assert torch.equal(new[0], old[1]) and not torch.equal(new[0], old[0])


# SHIFT


def test_shift_of_a_matrix_by_hand(script):
    """Heads of two actions; each takes over the next one's rows, the last keeps its own; the storage stays."""
    network = make_network(script, 3, num_actions=2)
    rows = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]])
    network.output.weight.data[:] = rows
    network.output.bias.data[:] = 10 * rows[:, 0]
    storages = [parameter.data_ptr() for parameter in network.parameters()]
    others = {name: weight.clone() for name, weight in network.state_dict().items() if "output" not in name}
    network.shift()
    assert network.output.weight[:, 0].tolist() == [3, 4, 5, 6, 5, 6]
    assert network.output.bias.tolist() == [30, 40, 50, 60, 50, 60]
    network.shift()
    assert network.output.weight[:, 7].tolist() == [5, 6, 5, 6, 5, 6]
    assert storages == [parameter.data_ptr() for parameter in network.parameters()]
    assert network.output.weight.requires_grad
    assert all(torch.equal(network.state_dict()[name], weight) for name, weight in others.items())


# WHOLE RUNS


@pytest.mark.parametrize(
    "name,flags,own",
    [
        (MINATAR, "--num-iterations 0", True),
        (MINATAR, "--num-iterations 2", True),
        (MINATAR, TARGET, False),
        (ATARI, TARGET, False),
    ],
)
def test_whose_targets_in_a_run(name, flags, own, tmp_path):
    """A copy of the script writes down which network gives the targets: the one that learns, or another."""
    line = "        next_values = target_heads(target_network(batch.next_obs)).amax(2)\n"
    seen = '        open("targets.txt", "a").write(f"{target_network is q_network}\\n")\n'
    forked = fork(tmp_path / "targets.py", (line, seen + line), name=name)
    result = run_here(forked, SMALL, "--total-timesteps 80 --no-cuda", flags, cwd=tmp_path)
    assert set((tmp_path / "targets.txt").read_text().split()) == {str(own)}
    assert ("warning: --target-network-frequency is" in result.stdout) is (flags != "--num-iterations 0")


class WithOtherHeads:
    """What a fork may do: a value of each head added outside of `output`, which `shift` does not move."""

    def forward(self, obs):
        return super().forward(obs) + self.values[None, :, None]


def test_shift_that_forgets_a_layer(script, monkeypatch):
    network = make_network(script, 3, 6.0)
    before = copy.deepcopy(network.state_dict())
    state = torch.random.get_rng_state()
    obs = batch_of(script).obs
    script.check_shift(network, obs)
    assert torch.equal(torch.random.get_rng_state(), state), "a run's random numbers are as without the check"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    other = make_network(script, 3, 6.0)
    other.__class__ = type("Other", (WithOtherHeads, script.QNetwork), {})
    other.values = nn.Parameter(torch.tensor([0.0, 1.0, 2.0]))
    with pytest.raises(RuntimeError, match="must move all layers that have heads"):
        script.check_shift(other, obs)
    nn.init.zeros_(network.output.bias)
    monkeypatch.setattr(script.QNetwork, "shift", shift_of_weights)
    with pytest.raises(RuntimeError, match="must move all layers that have heads"):
        script.check_shift(network, obs)


@torch.no_grad()
def shift_of_weights(network):
    """A shift without that of the biases, which are all 0 when a run starts."""
    heads = network.output.weight.unflatten(0, (network.num_heads, -1))
    heads[:-1].copy_(heads[1:].clone())


@pytest.mark.parametrize("fault", ["scalar", "one", "broadcast"])
def test_losses_and_targets_of_other_shapes(fault, tmp_path):
    """PyTorch's losses average over everything by default; a target without its axis of heads broadcasts."""
    loss, target = "head_losses = td_errors.square().mean(0)", "args.gamma * (1 - batch.terminated[:, None])"
    huber = "head_losses = nn.functional.smooth_l1_loss(q_taken, td_targets"
    changes = {
        "scalar": ((loss, huber + ")"),),
        "one": ((loss, huber + ", reduction='none').mean(0)"),),
        "broadcast": (("batch.rewards[:, None] +", "batch.rewards +"), (target, target.replace("[:, None]", ""))),
    }
    forked = load(fork(tmp_path / f"{fault}.py", *changes[fault], name=MINATAR))
    network = make_network(forked, 1 if fault == "broadcast" else 3)
    parts = (network, network, adam(network), forked.Args(), batch_of(forked))
    if fault == "one":
        assert forked.update(*parts)[3].shape == (2,)
    else:
        with pytest.raises(RuntimeError, match="one of each online head"):
            forked.update(*parts)


@pytest.mark.parametrize(
    "name,num_envs,period,shifted_at",
    [(MINATAR, 1, 100, 460), (MINATAR, 3, 100, 462), (MINATAR, 16, 100, 448), (ATARI, 1, 4, 76)],
)
def test_the_shift_counts_updates(name, num_envs, period, shifted_at, tmp_path):
    """Learning starts at step 64 with an update every 4 steps: the heads shift after the last update of a period,
    whatever the number of environments, and not before. On Atari the last turn begins at that step."""
    script, num_actions, total = load(name), 3, shifted_at
    if name == ATARI:
        num_actions, total = 18, shifted_at + 1
    torch.manual_seed(1)
    made = helpers_make_network(script, num_actions, 0.0, num_heads=3, layer_norm=True).output.weight
    flags = f"{SMALL} --train-frequency 4 --num-iterations 2 --num-envs {num_envs} --save-model"
    run_here(name, flags, f"--target-network-frequency {4 * period} --total-timesteps {total}", cwd=tmp_path)
    (folder,) = run_folders(tmp_path)
    logged = scalars(folder)
    assert {(tag, step) for tag, step, _ in logged if tag.startswith("heads/")} == {
        (f"heads/{tag}", shifted_at) for tag in ("loss_1", "loss_2", "distance_0_1", "distance_1_2")
    }
    weight = torch.load(folder / "model.pt", weights_only=True)["output.weight"]
    heads, made = [matrix.view(3, num_actions, -1) for matrix in (weight, made)]
    assert not torch.equal(heads[0], made[0]) and not torch.equal(heads[1], made[1])
    assert torch.equal(heads[1], heads[2]), "nothing was learnt since"


@pytest.mark.parametrize("frequency,copied", [(75, False), (76, True)])
def test_the_target_network_of_a_run(frequency, copied, tmp_path):
    """It is copied in the place of the shift: in a checkpoint right after the fourth update, the last of a period, it
    is the network itself, and in one before it the network as it was made."""
    torch.manual_seed(1)
    made = helpers_make_network(minatar, 3, 0.0, num_heads=1, layer_norm=True).state_dict()
    flags = f"{SMALL} --target-network-frequency 16 --total-timesteps 900 --checkpoint-frequency {frequency}"
    run_here(MINATAR, flags, TARGET, cwd=tmp_path, stop_at=78)
    checkpoint = torch.load(run_folders(tmp_path)[0] / "checkpoint.pt", weights_only=True)["components"]
    for key, weight in checkpoint["target_network"].items():
        assert torch.equal(weight, checkpoint["q_network"][key] if copied else made[key])


def test_what_is_logged(tmp_path):
    """Of the batch before each shift every online head's loss, whose sum is the loss, and how far consecutive heads are
    apart, which the shift makes 0 for the last two; once the size of the network. Learning begins at step 104, so that
    of the shifts at steps 200, 300, ... each tenth is at a step where `losses/td_loss` is logged."""
    schedule = "--learning-starts 104 --train-frequency 4 --target-network-frequency 100 --total-timesteps 1050"
    run_here(MINATAR, f"{MINATAR_FLAGS} {schedule} --eval-frequency 0 --num-iterations 3", cwd=tmp_path)
    logged = {}
    for tag, step, value in scalars(run_folders(tmp_path)[0]):
        logged.setdefault(tag, {})[step] = value
    tags = {f"heads/loss_{i}" for i in (1, 2, 3)} | {f"heads/distance_{i - 1}_{i}" for i in (1, 2, 3)}
    assert {tag for tag in logged if tag.startswith("heads/")} == tags
    for tag in tags:
        assert list(logged[tag]) == list(range(200, 1050, 100)) and min(logged[tag].values()) > 0
    loss = sum(logged[f"heads/loss_{i}"][1000] for i in (1, 2, 3))
    assert loss == pytest.approx(logged["losses/td_loss"][1000], rel=1e-5)
    size = sum(parameter.numel() for parameter in minatar.QNetwork(4, 3, 4, True, 0.0).parameters())
    assert (logged["charts/parameters"][0], logged["charts/parameter_bytes"][0]) == (size, 4 * size)


@pytest.mark.parametrize("name", [pytest.param(ATARI, marks=pytest.mark.slow), MINATAR])
@pytest.mark.parametrize("eval_head", ["mean", "random"])
def test_which_heads_act_in_a_run(name, eval_head, tmp_path):
    """A copy of the script writes down which: in training one is drawn, in evaluations what `--eval-head` says."""
    line = '    if eval_head == "mean":\n'
    changes = (line, '    open("heads.txt", "a").write(f"{eval_head} {len(obs)}\\n")\n' + line)
    forked = fork(tmp_path / "heads.py", changes, name=name)
    flags = (
        "--batch-size 4 --learning-starts 64 --buffer-size 400 --start-e 0 --end-e 0 --num-envs 3 --num-iterations 2"
    )
    flags += " --total-timesteps 66 --eval-frequency 66 --eval-envs 2 --eval-epsilon 1"
    flags += " --eval-steps 1" if name == ATARI else " --eval-episodes 2"
    run_here(forked, flags, f"--eval-head {eval_head} --no-cuda", cwd=tmp_path)
    acted = (tmp_path / "heads.txt").read_text().splitlines()
    assert acted[:22] == ["random 3"] * 22
    assert set(acted[22:]) == {f"{eval_head} 2"}


def test_flags_reach_the_network(script):
    for flags, heads, norms in (
        ({}, 10, True),
        ({"num_iterations": 0}, 1, True),
        ({"num_iterations": 2, "layer_norm": False}, 3, False),
        ({"num_iterations": 1, "target_network": True}, 1, True),
    ):
        args = script.Args(**flags)
        network = script.make_network(args, script.make_envs(args, 1))
        assert network.num_heads == heads
        layers = [layer for layer in network.modules() if isinstance(layer, nn.LayerNorm)]
        assert bool(layers) is norms and all(layer.eps == 1e-6 for layer in layers)


@pytest.mark.parametrize("flags", ["--num-iterations 0", TARGET])
def test_resumes_with_other_targets(flags, tmp_path):
    """K = 0, and a target network, whose copies are counted in updates as the shifts are."""
    flags = f"{MINATAR_FLAGS} {flags} --target-network-frequency 40 --checkpoint-frequency 100 --total-timesteps 310"
    flags = f"{flags} --eval-frequency 150 --eval-episodes 2 --eval-envs 2 --eval-epsilon 1 --save-model"
    assert_same_run(*stopped_and_resumed(MINATAR, flags, tmp_path, stop_at=270))


def test_defaults():
    """Those of Vincent et al. 2025 on Atari; the base's on MinAtar; everything else is the base's."""
    own = dict(mean_scaling_coefficient=0.0, num_iterations=9, layer_norm=True, target_network=False, eval_head="mean")
    theirs = dict(target_network_frequency=8_000, exploration_steps=250_000, learning_starts=20_000)
    for name, base, changed in ((ATARI, "dqn_atari_mexp", own | theirs), (MINATAR, "minatar_mexp", own)):
        expected = vars(load(base).Args()) | changed | {"exp_name": name.removeprefix("related/")}
        assert vars(load(name).Args()) == expected
