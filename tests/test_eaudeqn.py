"""`related/eaudeqn_*.py`: masks, selection, schedules, and the stack of networks against plain modules in float64."""

import copy
import json
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    ROOT,
    assert_same_run,
    evaluations,
    fork,
    load,
    make_network,
    run_folders,
    run_here,
    scalars,
    stopped_and_resumed,
)

ATARI, MINATAR = "related/eaudeqn_atari", "related/eaudeqn_minatar"
minatar = load(MINATAR)
LR, EPS = 1e-3, 1e-3


@pytest.fixture(params=[ATARI, MINATAR])
def script(request):
    return load(request.param)


@pytest.fixture
def doubles(monkeypatch):
    """The scripts' networks compute in float64: what they convert to float32 becomes float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def make_networks(script, count=5, width=16, k=3.0):
    """Networks with biases that are not 0 either."""
    torch.manual_seed(0)
    networks = [make_network(script, 3, k, width=width) for _ in range(count)]
    for network in networks:
        torch.nn.init.normal_(network.output.bias, std=0.3)
    return networks


def make_batch(script, size=8, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    if hasattr(script, "AtariEnvs"):
        obs = torch.randint(256, (2, size, 4, 84, 84), dtype=torch.uint8, generator=generator)
    else:
        obs = torch.rand(2, size, 10, 10, 4, generator=generator) < 0.3
    return script.Batch(
        obs=obs[0],
        actions=torch.randint(3, (size,), generator=generator),
        rewards=torch.randn(size, generator=generator).to(dtype),
        next_obs=obs[1],
        terminated=(torch.arange(size) % 5 == 0).to(dtype),
    )


def stack(script, count=5):
    """A stack of networks, a target network, and Adam."""
    networks = make_networks(script, count)
    q_networks = script.QNetworks(networks)
    target = copy.deepcopy(networks[0]).requires_grad_(False)
    return q_networks, target, adam(q_networks.parameters.values())


def adam(parameters):
    return torch.optim.Adam(parameters, lr=LR, eps=EPS, fused=True)


# MASKS


@pytest.mark.parametrize("sparsity", [0.0, 0.01, 0.5, 0.9999, 1.0])
def test_numbers_of_pruned_weights(script, sparsity):
    """Of every weight tensor, the last layer's too, the nearest whole number, never all; the smallest; no bias."""
    networks = make_networks(script)
    before = networks[2].state_dict()
    q_networks = script.QNetworks(networks)
    q_networks.copy_and_prune(2, [0.0, sparsity, sparsity / 2, 0.0, 0.5])
    for i, asked in enumerate(q_networks.sparsities):
        for name, after in q_networks.state_of(i).items():
            if name.endswith("bias"):
                assert torch.equal(after, before[name])
                continue
            size = after.numel()
            count = min(round(asked * size), size - 1)
            mask = q_networks.masks[name][i]
            assert int((mask == 0).sum()) == int((after == 0).sum()) == count, (name, asked)
            assert torch.equal(after, before[name] * mask) and set(mask.unique().tolist()) <= {0.0, 1.0}
            if 0 < count:
                assert before[name][mask == 0].abs().max() <= before[name][mask == 1].abs().min()


def test_what_is_pruned_stays_pruned_beside_a_zero():
    """A weight that happens to be 0 does not take the place of a pruned one."""
    q_networks = minatar.QNetworks(make_networks(minatar, 2))
    q_networks.copy_and_prune(0, [0.3, 0.3])
    name = "network.3.weight"
    pruned = q_networks.masks[name][0] == 0
    first_kept = int(torch.nonzero(~pruned.flatten())[0])
    q_networks.parameters[name].data[0].view(-1)[first_kept] = 0.0
    q_networks.copy_and_prune(0, [0.3, 0.4])
    assert torch.equal(q_networks.masks[name][0] == 0, pruned), "as many as before: the same"
    assert (q_networks.masks[name][1] == 0)[pruned].all()


def test_pruned_weights_stay_zero(script):
    """Through steps of Adam, whose momentum from before the pruning would revive them, until they are replaced."""
    q_networks, target, optimizer = stack(script, 3)
    args = script.Args()
    for seed in range(5):  # momentum
        script.update(q_networks, target, optimizer, args, make_batch(script, 4, seed))
    q_networks.copy_and_prune(1, [0.0, 0.5, 0.9])
    masks = {name: mask.clone() for name, mask in q_networks.masks.items()}
    assert any(state["exp_avg"].abs().max() > 1e-4 for state in optimizer.state.values())
    for seed in range(12):
        script.update(q_networks, target, optimizer, args, make_batch(script, 4, seed))
        for name, mask in masks.items():
            stacked = q_networks.parameters[name]
            assert (stacked[mask == 0] == 0).all() and (stacked.grad[mask == 0] == 0).all()
    assert all(torch.equal(q_networks.masks[name], mask) for name, mask in masks.items())
    q_networks.copy_and_prune(0, [0.0, 0.0, 0.2])
    for name, mask in q_networks.masks.items():
        assert (mask[1] == 1).all() and torch.equal(q_networks.parameters[name][1], q_networks.parameters[name][0])


# SELECTION


@pytest.mark.parametrize(
    "losses,chosen",
    [
        ([3.0, 2.0, 1.0, 2.0, 5.0], 2),
        ([2.0, 1.0, 1.0, 3.0, 1.0], 1),  # of equal ones the first
        ([math.nan, 2.0, math.nan, 1.0, 9.0], 3),
        ([math.inf, math.nan, 7.0, math.inf, 8.0], 2),
        ([math.nan, math.inf, math.inf, math.nan, math.nan], 0),
    ],
)
def test_selection(losses, chosen, capsys):
    """The chosen network is the target, and all slots are made of it as it was; in place, with Adam's state zero."""
    q_networks, target, optimizer = stack(minatar)
    args = minatar.Args(total_timesteps=100_000, horizon=100_000, max_speed=0.05)
    sparsities = [0.05, 0.1, 0.2, 0.3, 0.4]
    q_networks.copy_and_prune(1, sparsities)  # networks that differ in masks ...
    for seed in range(3):
        minatar.update(q_networks, target, optimizer, args, make_batch(minatar, seed=seed))  # ... and weights
    q_networks.loss_sums.copy_(torch.tensor(losses))
    before = [{name: value.clone() for name, value in q_networks.state_of(i).items()} for i in range(5)]

    def places():  # a CUDA graph goes on reading and writing there
        tensors = [*q_networks.parameters.values(), *q_networks.masks.values(), *target.parameters()]
        tensors += [tensor for moments in optimizer.state.values() for tensor in moments.values()]
        return [tensor.data_ptr() for tensor in [*tensors, q_networks.loss_sums]]

    places_before = places()
    assert all(moments["step"] == 3 and moments["exp_avg"].any() for moments in optimizer.state.values())
    logged = minatar.end_period(q_networks, target, optimizer, args, np.random.default_rng(0), 50_000)
    assert logged["networks/chosen"] == chosen
    warning = "warning: step 50,000: the losses of all networks are NaN or infinite"
    assert (warning in capsys.readouterr().out) == (not np.isfinite(losses).any())
    sparsity = sparsities[chosen]
    assert q_networks.sparsities[0] == logged["networks/target_sparsity"] == sparsity
    expected = minatar.next_sparsities(sparsity, np.random.default_rng(0).uniform(0, 3, size=4), args, 50_000)
    assert q_networks.sparsities[1:] == expected.tolist()
    for name, value in before[chosen].items():
        assert torch.equal(target.state_dict()[name], value) and torch.equal(q_networks.state_of(0)[name], value)
        for i in range(1, 5):
            by_hand = value.clone().flatten()
            if name.endswith(
                "weight"
            ):  # the smallest go, which are those that had gone before; of equal ones the first
                order = np.argsort(by_hand.abs().numpy(), kind="stable")
                by_hand[order[: round(q_networks.sparsities[i] * value.numel())].copy()] = 0
            assert torch.equal(q_networks.state_of(i)[name].flatten(), by_hand)
    assert all(not tensor.any() for moments in optimizer.state.values() for tensor in moments.values())
    assert not q_networks.loss_sums.any()
    assert places() == places_before
    for i in range(5):
        assert logged[f"networks/accumulated_loss_{i}"] == pytest.approx(losses[i], nan_ok=True)
        assert logged[f"networks/sparsity_{i}"] == sparsities[i]


@pytest.mark.parametrize("method", ["polyprune", "dense"])
def test_periods_of_a_single_network(method):
    """The target network follows it; its weights and Adam's state stay."""
    q_networks, target, optimizer = stack(minatar, 1)
    args = minatar.Args(method=method, num_networks=1, horizon=100_000)
    minatar.update(q_networks, target, optimizer, args, make_batch(minatar))
    q_networks.copy_and_prune(0, [0.4])
    state, moments = copy.deepcopy(q_networks.state_of(0)), copy.deepcopy(optimizer.state_dict()["state"])
    rng = np.random.default_rng(0)
    assert q_networks.loss_sums.item() > 0
    logged = minatar.end_period(q_networks, target, optimizer, args, rng, 1000)
    assert logged["networks/target_sparsity"] == 0.4 and q_networks.loss_sums.item() == 0
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state
    for name in state:
        assert torch.equal(state[name], target.state_dict()[name])
        assert torch.equal(state[name], q_networks.state_of(0)[name])
    for i, saved in optimizer.state_dict()["state"].items():
        assert all(torch.equal(saved[key], moments[i][key]) for key in saved)


# SPARSITIES


BY_HAND = [  # T, H, t, s, u, max_speed, the new sparsity
    (8_000, 10_000_000, 24_000, 0.0, 0.0, 0.01, 0.0),
    (8_000, 10_000_000, 24_000, 0.0, 3.0, 0.01, 1 - (9_968_000 / 9_976_000) ** 3),
    (8_000, 10_000_000, 9_900_000, 0.5, 1.0, 0.01, 0.51),  # 0.54 without the cap
    (8_000, 10_000_000, 9_900_000, 0.5, 1.0, 0.1, 0.54),
    (8_000, 10_000_000, 9_992_000, 0.9, 1.0, 1.0, 1.0),  # the last period
    (8_000, 10_000_000, 10_000_000, 0.9, 0.5, 0.02, 0.92),  # the horizon itself
    (8_000, 10_000_000, 9_996_000, 0.995, 2.0, 0.01, 1.0),  # less than a period is left
    (1_000, 500_000, 250_000, 0.2, 1.5, 0.01, 1 - 0.8 * 0.996**1.5),
]


@pytest.mark.parametrize("period,horizon,step,sparsity,exponent,max_speed,expected", BY_HAND)
def test_next_sparsities_by_hand(period, horizon, step, sparsity, exponent, max_speed, expected):
    args = minatar.Args(target_network_frequency=period, horizon=horizon, max_speed=max_speed)
    (got,) = minatar.next_sparsities(sparsity, np.array([exponent]), args, step)
    assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "progress,expected",
    [(0.0, 0), (0.2, 0), (0.35, 0.95 * (1 - 0.75**3)), (0.5, 0.95 * 0.875), (0.8, 0.95), (0.9, 0.95), (1.0, 0.95)],
)
def test_schedule_of_polyprune(progress, expected):
    assert minatar.polyprune_sparsity(progress, 0.95) == pytest.approx(expected, abs=1e-12)


# ACTING


def test_acting_probabilities():
    got = minatar.acting_probabilities(np.array([1.0, 2.0, 4.0], np.float32))
    np.testing.assert_allclose(got, np.array([4, 2, 1]) / 7, rtol=1e-5)
    got = minatar.acting_probabilities(np.array([0.0, 1e-6, 3e-6]))
    np.testing.assert_allclose(got, np.array([4, 2, 1]) / 7)
    np.testing.assert_allclose(minatar.acting_probabilities(np.zeros(5)), 0.2)
    got = minatar.acting_probabilities(np.array([math.nan, 3.0, math.inf, 1.0], np.float32))
    np.testing.assert_allclose(got, [0, 0.25, 0, 0.75], rtol=1e-5)
    np.testing.assert_allclose(minatar.acting_probabilities(np.array([math.nan, math.inf])), 0.5)
    for count in (1, 5, 64):
        assert minatar.acting_probabilities(np.random.default_rng(0).random(count)).sum() == pytest.approx(1, abs=1e-12)


STEP = "        next_obs, rewards, terminated, truncated, done, info = envs.step(actions)\n"
ONE_HOT = (  # a copy of the script in which network i prefers action i, and whose actions are written down
    ("return self.network.mean_expansion(x.transpose(1, 2))", "return torch.eye(5)[:, None].repeat(1, len(obs), 1)"),
    (STEP, "        print('acts', *actions)\n" + STEP),
    ("    check_stack(networks, to_device(example, device))\n", ""),  # which would find out
)


@pytest.mark.parametrize("losses", ["", "torch.tensor([1.0, 1e9, 3.0, 1e9, torch.nan])"])
def test_the_networks_that_act(losses, tmp_path):
    """Each environment draws one anew in every step; greedy actions of 600 steps."""
    changes = list(ONE_HOT)
    if losses:
        changes.append(("networks[0].output.bias.new_zeros(len(networks))", losses))
    name = fork(tmp_path / "one_hot.py", *changes, name=MINATAR)
    flags = "--env-id MinAtar/Asterix-v1 --num-envs 3 --start-e 0 --end-e 0 --total-timesteps 1800 --buffer-size 3000"
    flags += " --eval-frequency 0 --checkpoint-frequency 0 --learning-starts 2000"
    lines = run_here(name, flags, cwd=tmp_path).stdout.splitlines()
    actions = np.array([line.split()[1:] for line in lines if line.startswith("acts")]).astype(int)
    assert actions.shape == (600, 3)
    shares = np.bincount(actions.ravel(), minlength=5) / actions.size
    np.testing.assert_allclose(shares, [0.75, 0, 0.25, 0, 0] if losses else [0.2] * 5, atol=0.04)
    agree = (actions[:, 0] == actions[:, 1]).mean()
    assert agree == pytest.approx(0.625 if losses else 0.2, abs=0.08), "drawn for each environment"


# THE STACK AGAINST PLAIN MODULES


def plain_update(network, target, optimizer, masks, batch):
    """One network's step with plain modules. Returns its loss."""
    with torch.no_grad():
        bootstrap = target(batch.next_obs).max(1).values * (1 - batch.terminated)
    values = network(batch.obs)[torch.arange(len(batch.actions)), batch.actions]
    loss = F.mse_loss(values, batch.rewards + 0.99 * bootstrap)
    optimizer.zero_grad()
    loss.backward()
    parameters = dict(network.named_parameters())
    for name, mask in masks.items():
        parameters[name].grad *= mask
    optimizer.step()
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name] *= mask
    return loss.item()


@pytest.mark.parametrize(
    "name,updates,size", [(MINATAR, 50, 8), (ATARI, 6, 2), pytest.param(ATARI, 50, 2, marks=pytest.mark.slow)]
)
def test_five_stacked_networks_are_five_separate_ones(name, updates, size, doubles):
    """Updates in float64, with a period that ends in the middle."""
    script = load(name)
    networks = [network.double() for network in make_networks(script)]
    target = copy.deepcopy(networks[0]).requires_grad_(False)
    separate = copy.deepcopy(networks)
    other_target = copy.deepcopy(target)
    q_networks = script.QNetworks(networks)
    optimizer = adam(q_networks.parameters.values())
    optimizers = [torch.optim.Adam(network.parameters(), lr=LR, eps=EPS) for network in separate]
    masks = [{name: torch.ones_like(value[0]) for name, value in q_networks.masks.items()} for _ in range(5)]
    args = script.Args(gamma=0.99, horizon=10_000, target_network_frequency=1_000, max_speed=0.4)
    sums = [0.0] * 5
    for t in range(updates):
        batch = make_batch(script, size, seed=t, dtype=torch.float64)
        loss, mean_q, td_errors = script.update(q_networks, target, optimizer, args, batch)
        losses = [
            plain_update(network, other_target, each, mask, batch)
            for network, each, mask in zip(separate, optimizers, masks, strict=True)
        ]
        sums = [total + each for total, each in zip(sums, losses, strict=True)]
        assert loss.item() == pytest.approx(np.mean(losses), rel=1e-10)
        np.testing.assert_allclose(td_errors.square().mean(1), losses, rtol=1e-10)
        if t == updates // 2:
            np.testing.assert_allclose(q_networks.loss_sums, sums, rtol=1e-10)
            script.end_period(q_networks, target, optimizer, args, np.random.default_rng(t), 7_000)
            best = copy.deepcopy(separate[int(np.argmin(sums))])
            other_target.load_state_dict(best.state_dict())
            sums = [0.0] * 5
            assert q_networks.sparsities[0] == 0 and max(q_networks.sparsities) > 0.2
            for i in range(5):
                separate[i].load_state_dict(best.state_dict())
                optimizers[i] = torch.optim.Adam(separate[i].parameters(), lr=LR, eps=EPS)
                for name, weight in separate[i].named_parameters():
                    if name.endswith("weight"):
                        count = round(q_networks.sparsities[i] * weight.numel())
                        order = np.argsort(weight.detach().abs().flatten().numpy(), kind="stable")
                        masks[i][name].view(-1)[order[:count].copy()] = 0
                        weight.data *= masks[i][name]
    for i, network in enumerate(separate):
        for name, expected in network.state_dict().items():
            got = q_networks.state_of(i)[name]
            assert (got - expected).abs().max() < 1e-10, (i, name)
    distances = [
        (q_networks.state_of(0)["network.0.weight"] - q_networks.state_of(i)["network.0.weight"]).abs().max()
        for i in range(1, 5)
    ]
    assert min(distances) > 1e-5, "they are different networks"


# WHOLE RUNS

SHORT = (
    "--env-id MinAtar/Asterix-v1 --batch-size 8 --learning-starts 100 --buffer-size 1000 --exploration-steps 600 "
    "--total-timesteps 1000 --eval-frequency 500 --eval-episodes 2 --eval-envs 2 --eval-epsilon 1 --save-model "
    "--checkpoint-frequency 0 --target-network-frequency 100 --width 16"
)


@pytest.mark.parametrize(
    "flags",
    [
        "--max-speed 0.1 --horizon 10000 --save-best",
        "--method polyprune --prune-frequency 50 --horizon 2000",
        "--method dense",
    ],
)
def test_columns_and_logs(flags, tmp_path):
    """The evaluated network is the one of `model.pt`, with its zeros; what is logged agrees with it."""
    run_here(MINATAR, SHORT, flags, cwd=tmp_path)
    (folder,) = run_folders(tmp_path)
    args = json.loads((folder / "config.json").read_text())["args"]
    assert args["num_networks"] == (1 if "method" in flags else 5)
    assert args["horizon"] == (1000 if "dense" in flags else int(flags.split("--horizon ")[1].split()[0]))
    row = evaluations(folder)[-1]
    weights = [value for name, value in torch.load(folder / "model.pt", weights_only=True).items() if "weight" in name]
    size, nonzero = sum(weight.numel() for weight in weights), sum(int(weight.count_nonzero()) for weight in weights)
    assert int(row["nonzero_weights"]) == nonzero and float(row["sparsity"]) == pytest.approx(1 - nonzero / size)
    logged = {(tag, step): value for tag, step, value in scalars(folder)}
    steps = sorted(step for tag, step in logged if tag == "networks/chosen")
    assert steps == list(range(100, 1001, 100))
    if "dense" in flags:
        assert nonzero == size
    elif "polyprune" in flags:
        sparsities = [logged["networks/target_sparsity", step] for step in steps]
        expected = [minatar.polyprune_sparsity(step / 2000, 0.95) for step in steps]
        assert sparsities == pytest.approx(expected, abs=1e-6)
    else:
        for step, following in zip(steps, steps[1:], strict=False):
            chosen = int(np.argmin([logged[f"networks/accumulated_loss_{i}", step] for i in range(5)]))
            assert logged["networks/chosen", step] == chosen
            sparsity = logged[f"networks/sparsity_{chosen}", step]
            assert logged["networks/target_sparsity", step] == sparsity == logged["networks/sparsity_0", following]
            later = [logged[f"networks/sparsity_{i}", following] for i in range(1, 5)]
            assert all(sparsity <= value <= sparsity + 0.1 + 1e-6 for value in later) and len(set(later)) == 4
        best = torch.load(folder / "model_best.pt", weights_only=True)
        (row,) = (row for row in evaluations(folder) if int(row["step"]) == best["step"])
        nonzero = sum(int(value.count_nonzero()) for name, value in best["weights"].items() if "weight" in name)
        assert int(row["nonzero_weights"]) == nonzero


def test_no_period_ends_before_something_was_learnt(tmp_path):
    """Learning may start at step 200, and the first update is at 208: the period that ends at 200 selects nothing."""
    run_here(MINATAR, SHORT, "--learning-starts 200 --train-frequency 16 --total-timesteps 400", cwd=tmp_path)
    logged = {(tag, step): value for tag, step, value in scalars(run_folders(tmp_path)[0])}
    assert [step for tag, step in logged if tag == "networks/chosen"] == [300, 400]
    assert min(logged[f"networks/accumulated_loss_{i}", 300] for i in range(5)) > 0
    assert max(logged[f"networks/sparsity_{i}", 300] for i in range(5)) == 0


def test_polyprune_resumes_bit_for_bit(tmp_path):
    """From a checkpoint between a pruning and the end of its period."""
    flags = f"{SHORT} --method polyprune --prune-frequency 30 --total-timesteps 400"
    flags += " --eval-frequency 150 --checkpoint-frequency 250"
    assert_same_run(*stopped_and_resumed(MINATAR, flags, tmp_path, stop_at=290))


def test_the_baseline_plays_the_saved_network(script):
    """At the default width `model.pt` is a network of the base, zeros and all."""
    base = load("minatar_mexp" if script is minatar else "dqn_atari_mexp")
    q_networks = script.QNetworks(make_networks(script, 2, script.Args().width))
    q_networks.copy_and_prune(0, [0.0, 0.5])
    network, own = make_network(base, 3, 3.0), make_network(script, 3, 3.0, width=script.Args().width)
    obs = make_batch(script).obs
    for plays in (network, own):
        plays.load_state_dict(q_networks.state_of(1))
    torch.testing.assert_close(network(obs), own(obs))
    assert (network.output.weight == 0).any()


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_export(tmp_path, monkeypatch):
    """The code in the README of related/: the same weights come back, from a file whose size it gives."""
    code = (ROOT / "related" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    for sparsity, smaller in ((0.25, 0.67), (0.95, 9.0)):
        q_networks = minatar.QNetworks(make_networks(minatar, 1, 128))
        q_networks.copy_and_prune(0, [sparsity])
        weights = {name: weight.clone() for name, weight in q_networks.state_of(0).items()}
        torch.save(weights, "model.pt")
        names = {}
        exec(code, names)
        assert list(names["dense"]) == list(weights)
        assert all(torch.equal(names["dense"][name], weights[name]) for name in weights)
        sizes = [(tmp_path / name).stat().st_size for name in ("model.pt", "sparse.pt")]
        assert sizes[0] / sizes[1] == pytest.approx(smaller, rel=0.05)


@pytest.mark.parametrize("period,start,warned", [(250, 200, False), (301, 400, True), (420, 410, True)])
def test_a_target_network_that_never_learns(period, start, warned, tmp_path):
    """Of 500 steps. The period of 301 ends before learning starts; that of 420 after, but before the first update."""
    flags = f"--env-id Asterix --buffer-size 500 --learning-starts {start} --total-timesteps 500 --eval-frequency 0"
    flags += f" --width 16 --batch-size 4 --train-frequency 50 --target-network-frequency {period} --save-model"
    output = run_here(MINATAR, flags, cwd=tmp_path).stdout
    assert ("warning: no --target-network-frequency period" in output) == warned
    torch.manual_seed(1)
    made = make_network(minatar, 5, 0.0, width=16).output.weight
    model = torch.load(run_folders(tmp_path)[0] / "model.pt", weights_only=True)
    assert torch.equal(model["output.weight"], made) == warned


@pytest.mark.parametrize(
    "flags,warned",
    [
        ("--prune-frequency 10 --horizon 449", False),
        ("--prune-frequency 10 --horizon 450", True),  # pruned at step 90 last, which is 20% of the horizon
        ("--prune-frequency 60", True),  # at 60 only, before it learns
        ("--prune-frequency 61 --num-envs 4", False),  # which is due in step 64
    ],
)
def test_polyprune_that_never_prunes(flags, warned, tmp_path):
    """Learning starts at step 64 of 100, at whose end nothing is pruned."""
    small = "--buffer-size 500 --learning-starts 64 --total-timesteps 100 --eval-frequency 0 --width 8 --batch-size 4"
    small += " --env-id Asterix --method polyprune --target-network-frequency 33 --save-model"
    output = run_here(MINATAR, small, flags, cwd=tmp_path).stdout
    assert ("warning: polyprune prunes nothing before the last step" in output) == warned
    model = torch.load(run_folders(tmp_path)[0] / "model.pt", weights_only=True)
    assert all(weight.all() for name, weight in model.items() if name.endswith("weight")) == warned


@pytest.mark.parametrize("games", ["minatar", "atari"])
def test_stack_that_is_not_the_network(games, tmp_path):
    """A fork that changes what `QNetwork.forward` does, which the stack does not call, is told so at the start."""
    name = f"related/eaudeqn_{games}"
    line = "        return self.mean_expansion(z)"
    forked = fork(tmp_path / "forked.py", (line, line + " + 0.1"), name=name)
    flags = "--buffer-size 400 --learning-starts 64 --total-timesteps 100 --eval-frequency 0 --width 8"
    with pytest.raises(RuntimeError, match="change both alike"):
        run_here(forked, flags, cwd=tmp_path)


@pytest.mark.parametrize("fault", ["missing", "exchanged", "nan"])
def test_stack_with_other_biases(script, fault, monkeypatch):
    """In the networks as they are made these faults of a stack would change nothing, since biases are alike or 0."""

    class Faulty(script.QNetworks):
        def __call__(self, obs):
            biases = [stacked for name, stacked in self.parameters.items() if name.endswith("bias")]
            for stacked in biases if fault == "exchanged" else biases[-1:]:
                stacked.data = {"missing": 0 * stacked, "exchanged": stacked.flip(0), "nan": math.nan * stacked}[fault]
            return super().__call__(obs)

    networks = [make_network(script, 3, 3.0, width=16) for _ in range(5)]
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    state = torch.random.get_rng_state()
    script.check_stack(networks, make_batch(script).obs)
    assert torch.equal(torch.random.get_rng_state(), state), "a run's random numbers are as without the check"
    for network, parameters in zip(networks, before, strict=True):
        assert all(torch.equal(value, parameters[name]) for name, value in network.state_dict().items())
    monkeypatch.setattr(script, "QNetworks", Faulty)
    with pytest.raises(RuntimeError, match="change both alike"):
        script.check_stack(networks, make_batch(script).obs)


def test_layer_that_the_stack_does_not_know(script):
    class WithNorm(script.QNetwork):
        def layers(self):
            return [*super().layers()[:-1], ("norm", self.norm), super().layers()[-1]]

    networks = make_networks(script, 2)
    for network in networks:
        network.__class__ = WithNorm
        network.norm = torch.nn.LayerNorm(16)
    with pytest.raises(RuntimeError, match="cannot stack norm, a LayerNorm: give it a branch here"):
        script.check_stack(networks, make_batch(script).obs)


@pytest.mark.parametrize("end,works", [(")", False), (", reduction='none').mean(1)", True)])
def test_a_loss_of_all_networks_together(end, works, tmp_path):
    """PyTorch's losses average over everything by default: one number would be added to the sums of all networks."""
    huber = "losses = nn.functional.smooth_l1_loss(q_taken, td_target.expand_as(q_taken)"
    change = ("losses = td_errors.square().mean(1)", huber + end)
    forked = load(fork(tmp_path / f"huber_{works}.py", change, name=MINATAR))
    q_networks, target, optimizer = stack(forked)
    with nullcontext() if works else pytest.raises(RuntimeError, match=r"one for each network, \(5,\)"):
        forked.update(q_networks, target, optimizer, forked.Args(), make_batch(forked))
    assert len(set(q_networks.loss_sums.tolist())) == (5 if works else 1)


def test_defaults():
    """The authors' published constants on Atari; on MinAtar those of `minatar_mexp.py`."""
    common = dict(num_networks=None, max_exponent=3.0, max_speed=0.01, final_sparsity=0.95, prune_frequency=4_000)
    common |= dict(horizon=None, mean_scaling_coefficient=0.0, method="eaudeqn", train_frequency=4, batch_size=32)
    atari = dict(total_timesteps=10_000_000, target_network_frequency=8_000, learning_starts=20_000, width=512)
    atari |= dict(exploration_steps=250_000, learning_rate=6.25e-5, gamma=0.99, buffer_size=1_000_000, end_e=0.01)
    for name, expected in ((ATARI, common | atari), (MINATAR, common | {"width": 128})):
        args = vars(load(name).Args())
        assert {key: args[key] for key in expected} == expected
    new = set(common) | {"width"}
    base, own = vars(load("minatar_mexp").Args()), vars(minatar.Args())
    changed = {key for key in base if base[key] != own[key]}
    assert changed == {"exp_name", "mean_scaling_coefficient"} and set(own) - set(base) <= new
