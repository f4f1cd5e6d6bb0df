"""Soft Q-learning: the equivalence with the policy gradient, values and targets against their formulas, whole runs."""

import copy
import itertools
import math
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn as nn
from helpers import (
    CPU,
    TINY,
    ScriptedEnvs,
    assert_same_weights,
    batch_of,
    checkpointed_run,
    evaluate_on,
    evaluations,
    fork,
    load,
    make_network,
    new_folders,
    run_folders,
    run_here,
    scalars,
    stopped_and_resumed,
)

softq = load("related/softq_minatar")
online = load("related/softq_online_minatar")
TEMPERATURES = [1.0, 0.1, 0.03, 1e-3]


def observations(script, *shape):
    """Random ones of these leading axes, as the script's network takes them."""
    if hasattr(script, "AtariEnvs"):
        return torch.randint(256, (*shape, 4, 84, 84), dtype=torch.uint8)
    return torch.rand(*shape, 10, 10, 4) < 0.3


# THE EQUIVALENCE (Schulman et al. 2017), EXACT OVER ALL ACTIONS


@pytest.mark.parametrize("name", ["softq_online_minatar", "softq_online_atari"])
def test_both_updates_have_the_same_expected_gradient(name):
    """The real `update` on a rollout of two steps of two environments, once for each of the 81 choices of its four
    actions: summed with their probabilities the steps are equal; with equal weights those of the policy's head are
    not."""
    script = load(f"related/{name}")
    torch.manual_seed(0)
    network = make_network(script, 3, temperature=0.05)
    obs = observations(script, 3, 2)
    with torch.no_grad():
        network.logits.weight.mul_(4000)  # pi is nearly uniform at first
    before = copy.deepcopy(network.state_dict())
    v, log_pi = [head.detach() for head in network.heads(obs[:2].flatten(0, 1))]
    pi = log_pi.exp()
    assert (pi.max(1).values > 1.2 * pi.min(1).values).all()
    q = network(obs[:2].flatten(0, 1)).detach()
    torch.testing.assert_close((q / 0.05).log_softmax(1), log_pi)
    torch.testing.assert_close(0.05 * ((q / 0.05).logsumexp(1) - math.log(3)), v)

    drawn, uniform = {}, {}
    for method in ("q", "pg"):
        args = script.Args(method=method, temperature=0.05, num_steps=2, max_grad_norm=1e9, gamma=0.9)
        drawn[method], uniform[method] = 0, 0
        for choice in itertools.product(range(3), repeat=4):
            network.load_state_dict(before)
            optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
            none = torch.zeros(2, 2)
            actions = torch.tensor(choice).view(2, 2)
            rollout = script.Rollout(obs[:2], actions, 0.3 + 2.0 * actions, obs[1:], none, none)
            script.update(network, optimizer, args, rollout)
            step = torch.cat([(before[key] - network.state_dict()[key]).flatten() for key in before])
            drawn[method] += pi[range(4), choice].prod() * step
            uniform[method] += (before["logits.weight"] - network.logits.weight.detach()) / 81
    assert drawn["q"].norm() > 0.01
    assert (drawn["q"] - drawn["pg"]).norm() < 1e-5 * drawn["q"].norm()
    assert (uniform["q"] - uniform["pg"]).norm() > 0.1 * uniform["q"].norm()


# VALUES


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soft_values(temperature):
    """Both forms in float64, and that of entropy is the policy's mean value and its bonus."""
    torch.manual_seed(0)
    q = 3 * torch.randn(500, 6).double()
    entropy = softq.soft_values(q, temperature, "entropy")
    by_hand = [sum(math.exp((x - max(row)) / temperature) for x in row) for row in q.tolist()]
    by_hand = [max(row) + temperature * math.log(total) for row, total in zip(q.tolist(), by_hand, strict=True)]
    np.testing.assert_allclose(entropy.numpy(), by_hand, rtol=1e-12)
    torch.testing.assert_close(softq.soft_values(q, temperature, "kl"), entropy - temperature * math.log(6))
    log_pi = softq.log_policy(q, temperature)
    torch.testing.assert_close((log_pi.exp() * (q - temperature * log_pi)).sum(1), entropy)
    for form in ("kl", "entropy"):
        assert torch.equal(softq.soft_values(q, 0, form), q.amax(1))


def test_nothing_overflows():
    q = torch.tensor([[1e4, -1e4, 0.0], [1e4, 1e4, -1e4]], requires_grad=True)
    for form, expected in (("entropy", [1e4, 1e4]), ("kl", [1e4, 1e4])):
        values = softq.soft_values(q, 1e-3, form)
        torch.testing.assert_close(values, torch.tensor(expected))
        values.sum().backward()
        assert q.grad.isfinite().all()
    log_pi = softq.log_policy(q, 1e-3)
    assert log_pi.isfinite().all() and log_pi[0].tolist() == [0.0, -2e7, -1e7]


def test_metrics_of_the_policy():
    metrics = softq.policy_metrics(np.array([[0.0, 0.0, 0.0], [0.3, 0.1, -0.2]], np.float32), 0.1, "kl")
    weights = np.exp([3.0, 1.0, -2.0])
    pi = weights / weights.sum()
    assert metrics["entropy"] == pytest.approx([math.log(3), -(pi * np.log(pi)).sum()], rel=1e-5)
    soft = 0.1 * math.log(weights.sum() / 3)
    assert metrics["soft_minus_max"] == pytest.approx([0.0, soft - 0.3], abs=1e-6)
    assert metrics["gap_over_temperature"] == pytest.approx([0.0, 2.0], rel=1e-5)


# UPDATES


@pytest.mark.parametrize("k", [0.0, 3.0])
@pytest.mark.parametrize(
    "temperature,form,alpha", [(0.0, "kl", 0.0), (0.1, "kl", 0.0), (0.1, "entropy", 0.0), (0.1, "entropy", 0.9)]
)
def test_td_errors_by_hand(temperature, form, alpha, k):
    torch.manual_seed(0)
    network = softq.QNetwork(4, 3, k)
    target = softq.QNetwork(4, 3, k)
    batch = batch_of(softq, 3)
    q, q_next, q_old = [
        net(obs).double().tolist() for net, obs in ((network, batch.obs), (target, batch.next_obs), (target, batch.obs))
    ]
    errors = []
    clipped = 0
    for i in range(16):
        a = int(batch.actions[i])
        value = max(q_next[i])
        if temperature > 0:
            value += temperature * math.log(sum(math.exp((x - value) / temperature) for x in q_next[i]))
            if form == "kl":
                value -= temperature * math.log(3)
        y = float(batch.rewards[i]) + 0.9 * (1 - float(batch.terminated[i])) * value
        if alpha > 0:
            top = max(q_old[i])
            log_sum = top + temperature * math.log(sum(math.exp((x - top) / temperature) for x in q_old[i]))
            scaled_log_pi = q_old[i][a] - log_sum
            clipped += scaled_log_pi < -1
            y += alpha * min(0.0, max(-1.0, scaled_log_pi))
        errors.append(y - q[i][a])
    if alpha > 0:
        assert 0 < clipped < 16, "some are clipped and some not"
    args = softq.Args(gamma=0.9, temperature=temperature, entropy_form=form, munchausen=alpha)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss, _, got = softq.update(network, target, optimizer, args, batch)
    np.testing.assert_allclose(got.numpy(), errors, rtol=1e-4, atol=1e-5)
    assert loss.item() == pytest.approx(0.5 * sum(error**2 for error in errors), rel=1e-4)


def test_rollout_targets_against_loops():
    """Rewards less tau KL from the second step on, up to the end of the rollout or of the episode."""
    rng = np.random.default_rng(0)
    terminated = rng.random((5, 40)) < 0.15
    truncated = (rng.random((5, 40)) < 0.15) & ~terminated
    rewards, next_v, kl = rng.normal(size=(3, 5, 40))
    tensors = [torch.from_numpy(array.astype(float)) for array in (rewards, terminated, truncated, next_v, kl)]
    nothing = torch.zeros(1)
    rollout = online.Rollout(nothing, nothing, tensors[0], nothing, tensors[1], tensors[2])
    args = online.Args(num_steps=5, temperature=0.2, gamma=0.9)
    got = online.rollout_targets(args, rollout, tensors[3], tensors[4]).numpy()
    for t, i in np.ndindex(5, 40):
        total, discount = 0.0, 1.0
        for u in range(t, 5):
            total += discount * (rewards[u, i] - (0.2 * kl[u, i] if u > t else 0.0))
            discount *= 0.9
            if terminated[u, i]:
                break
            if truncated[u, i] or u == 4:
                total += discount * next_v[u, i]
                break
        assert got[t, i] == pytest.approx(total)


@pytest.mark.parametrize("games", ["minatar", "atari"])
def test_value_of_another_shape(games, tmp_path):
    """A fork whose value head gives (B, 1), as CleanRL's does, would learn from the differences of all pairs."""
    name, line = f"related/softq_online_{games}", "return self.value(features).squeeze(1), "
    forked = load(fork(tmp_path / f"value_{games}.py", (line, "return self.value(features), "), name=name))
    network = make_network(forked, 3, temperature=0.05)
    obs = observations(forked, 2, 3)
    zeros = torch.zeros(2, 3)
    rollout = forked.Rollout(obs, zeros.long(), zeros, obs, zeros, zeros)
    with pytest.raises(RuntimeError, match=r"must return V of shape \(6,\), not \(6, 1\)"):
        forked.update(network, torch.optim.SGD(network.parameters(), lr=1.0), forked.Args(num_steps=2), rollout)


@pytest.mark.parametrize("method", ["q", "pg"])
def test_update_of_a_rollout_by_hand(method):
    """What it returns, of two steps without an end, from the two heads; and the step that it takes, of the length to
    which gradients are clipped."""
    torch.manual_seed(0)
    tau, log_n = 0.05, math.log(3)
    network = online.QNetwork(4, 3, tau)
    with torch.no_grad():
        network.logits.weight.mul_(500)  # pi is nearly uniform at first
    obs, next_obs = torch.rand(2, 2, 6, 10, 10, 4) < 0.3
    actions, rewards, none = torch.randint(3, (2, 6)), torch.randn(2, 6), torch.zeros(2, 6)
    v, log_pi = [head.detach().view(2, 6, -1) for head in network.heads(obs.flatten(0, 1))]
    next_v = network.heads(next_obs.flatten(0, 1))[0].detach().view(2, 6)
    q = v + tau * (log_pi + log_n)
    torch.testing.assert_close(network(obs.flatten(0, 1)).view(2, 6, 3), q)

    entropy = -(log_pi.exp() * log_pi).sum(2)
    kl = log_n - entropy
    last = rewards[1] + 0.9 * next_v[1]
    targets = torch.stack((rewards[0] + 0.9 * (last - tau * kl[1]), last))
    q_a, log_pi_a = [values.gather(2, actions[..., None]).squeeze(2) for values in (q, log_pi)]
    advantages = targets - tau * kl - v.squeeze(2)
    losses = {"q": 0.5 * (targets - q_a) ** 2, "pg": tau * kl - log_pi_a * advantages + 0.35 * advantages**2}
    args = online.Args(
        method=method, temperature=tau, num_steps=2, gamma=0.9, value_coefficient=0.7, max_grad_norm=0.01
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = nn.utils.parameters_to_vector(network.parameters())

    # What the update must follow: targets are constants, and so are, but for one factor each, the products with them
    v_now, log_pi_now = [head.view(2, 6, -1) for head in network.heads(obs.flatten(0, 1))]
    v_now, log_pi_a_now = v_now.squeeze(2), log_pi_now.gather(2, actions[..., None]).squeeze(2)
    kl_now = (log_pi_now.exp() * log_pi_now).sum(2) + log_n
    surrogates = {
        "q": -(targets - q_a) * (0.7 * v_now + log_pi_a_now),
        "pg": -log_pi_a_now * advantages + tau * kl_now - 0.7 * advantages * v_now,
    }
    parameters = list(network.parameters())
    gradient_by_hand = torch.autograd.grad(surrogates[method].mean(), parameters)
    direction = nn.utils.parameters_to_vector([-part for part in gradient_by_hand])

    got = online.update(network, optimizer, args, online.Rollout(obs, actions, rewards, next_obs, none, none))
    assert [value.item() for value in got] == pytest.approx(
        [losses[method].mean().item(), q_a.mean().item(), entropy.mean().item()], rel=1e-4
    )
    step = nn.utils.parameters_to_vector(network.parameters()) - before
    torch.testing.assert_close(step, 0.01 * direction / direction.norm(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("games", ["minatar", "atari"])
def test_pi_is_nearly_uniform_at_first(games):
    script = load(f"related/softq_online_{games}")
    torch.manual_seed(0)
    _, log_pi = make_network(script, 3, temperature=0.05).heads(observations(script, 20))
    torch.testing.assert_close(log_pi, torch.full_like(log_pi, -math.log(3)), rtol=0, atol=0.03)


PI = [0.1, 0.6, 0.3]


@pytest.mark.parametrize("games", ["minatar", "atari"])
def test_evaluation_draws_from_pi(games):
    script = load(f"related/softq_online_{games}")
    envs = ScriptedEnvs([[[0] * 5000]] * 4)
    length = {"eval_episodes": 4} if games == "minatar" else {"eval_steps": 20_000}
    args = script.Args(eval_epsilon=0.0, temperature=0.2, **length)
    evaluate_on(script, envs, lambda obs: np.tile(0.2 * np.log(PI) + 5.0, (4, 1)), args)
    np.testing.assert_allclose(np.bincount(np.concatenate(envs.actions)) / 20_000, PI, atol=0.01)


@pytest.mark.parametrize("games", ["minatar", "atari"])
def test_evaluation_measures_the_policy(games):
    """The mean of `policy_metrics` over the steps, here of two episodes of two steps with one set of values."""
    script = load(f"related/softq_{games}")
    length = {"eval_episodes": 2} if games == "minatar" else {"eval_steps": 1}
    args = script.Args(temperature=0.1, entropy_form="entropy", **length)
    values = np.tile(np.array([0.3, 0.1, -0.2], np.float32), (2, 1))
    metrics = evaluate_on(script, ScriptedEnvs([[[0, 0]]] * 2), lambda obs: values, args)
    assert metrics["episodes"] == 2
    for name, expected in script.policy_metrics(values[:1], 0.1, "entropy").items():
        assert metrics[name] == pytest.approx(expected[0])
    assert metrics["q_norm"] == pytest.approx((0.09 + 0.01 + 0.04) ** 0.5)


def test_rollouts():
    """What was appended comes out, on the device, in order; taking it empties the buffer."""
    buffer, rng, steps = online.RolloutBuffer(3, 2, (10, 10, 4)), np.random.default_rng(0), []
    for _ in range(3):
        assert not buffer.full()
        obs, next_obs = rng.random((2, 2, 10, 10, 4)) < 0.5
        steps.append((obs, next_obs, rng.integers(3, size=2), rng.normal(size=2), *(rng.random((2, 2)) < 0.5)))
        buffer.append(*steps[-1])
    assert buffer.full()
    rollout = buffer.take(CPU)
    columns = [rollout.obs, rollout.next_obs, rollout.actions, rollout.rewards, rollout.terminated, rollout.truncated]
    for column, values in zip(columns, zip(*steps, strict=True), strict=True):
        assert np.array_equal(column.numpy(), np.stack(values).astype(column.numpy().dtype))
    assert buffer.steps == 0


def test_defaults():
    """Those of spec and papers; everything else is the base's."""
    soft = dict(temperature=0.03, entropy_form="kl", policy="epsilon", munchausen=0.0, mean_scaling_coefficient=0.0)
    theirs = dict(
        method="q", temperature=0.01, value_coefficient=0.5, num_envs=16, num_steps=5, learning_rate=7e-4,
        rmsprop_alpha=0.99, rmsprop_eps=1e-5, max_grad_norm=0.5,
    )  # fmt: skip
    not_there = {
        "mean_scaling_coefficient", "adam_eps", "buffer_size", "buffer_device", "target_network_frequency",
        "batch_size", "start_e", "end_e", "exploration_steps", "learning_starts", "train_frequency",
    }  # fmt: skip
    for games, base in (("atari", "dqn_atari_mexp"), ("minatar", "minatar_mexp")):
        expected = vars(load(base).Args()) | soft | {"exp_name": f"softq_{games}"}
        assert vars(load(f"related/softq_{games}").Args()) == expected
        kept = {name: value for name, value in vars(load(base).Args()).items() if name not in not_there}
        expected = kept | theirs | {"exp_name": f"softq_online_{games}"}
        assert vars(load(f"related/softq_online_{games}").Args()) == expected


# WHOLE RUNS

SHORT = (
    "--env-id MinAtar/Asterix-v1 --learning-starts 200 --buffer-size 1000 --exploration-steps 800 "
    "--total-timesteps 1000 --eval-frequency 500 --eval-episodes 4 --eval-envs 2 --checkpoint-frequency 0 "
    "--target-network-frequency 150 --save-model"
)


@pytest.mark.parametrize(
    "games,base", [("minatar", "minatar_mexp"), pytest.param("atari", "dqn_atari_mexp", marks=pytest.mark.slow)]
)
def test_temperature_zero_is_dqn(games, base, tmp_path):
    """800 steps that are learned from, 136 on Atari, and evaluations, bit for bit."""
    plain, soft = new_folders(tmp_path, "plain", "soft")
    flags = f"{SHORT} --mean-scaling-coefficient n"
    if games == "atari":
        flags = f"{TINY} --env-id ALE/Pong-v5 --total-timesteps 200 --save-model --target-network-frequency 40"
        flags = f"{flags.replace('--eval-frequency 0', '--eval-frequency 100')} --eval-steps 1 --eval-envs 1"
        flags += " --eval-epsilon 1 --mean-scaling-coefficient n"
    run_here(base, flags, cwd=plain)
    run_here(f"related/softq_{games}", f"{flags} --temperature 0", cwd=soft)
    assert_same_weights(run_folders(plain)[0], run_folders(soft)[0])
    assert evaluations(run_folders(plain)[0]) == evaluations(run_folders(soft)[0])


def test_resuming_with_several_parameter_groups(tmp_path):
    """A fork's groups all go on by the schedule: the tensor that it is in replaces what the checkpoint loads."""
    old = "        q_network.parameters(),\n        lr"
    change = (old, old.replace("q_network.parameters()", "[{'params': [p]} for p in q_network.parameters()]"))
    forked = fork(tmp_path / "online_groups.py", change, name="related/softq_online_minatar")
    flags = "--total-timesteps 480 --eval-frequency 0 --checkpoint-frequency 160 --save-model --no-cuda"
    assert_same_weights(*stopped_and_resumed(forked, flags, tmp_path, stop_at=240))


def test_columns_and_tags_of_the_policy(tmp_path):
    """What docs/outputs.md lists of these scripts besides the base's."""
    flags = "--policy boltzmann --munchausen 0.9 --entropy-form entropy"
    result = run_here("related/softq_minatar", SHORT, flags, cwd=tmp_path)
    assert "warning" not in result.stdout
    (folder,) = run_folders(tmp_path)
    header = (folder / "eval.csv").read_text().splitlines()[0].split(",")
    assert header[-5:] == ["q_norm", "entropy", "soft_minus_max", "gap_over_temperature", "wall_time"]
    for row in evaluations(folder):
        assert 0 < float(row["entropy"]) <= math.log(5) and 0 <= float(row["soft_minus_max"]) <= 0.03 * math.log(5)
        assert float(row["gap_over_temperature"]) == pytest.approx(float(row["action_gap"]) / 0.03, rel=1e-4)
    tags = {"eval/entropy", "eval/soft_minus_max", "eval/gap_over_temperature", "charts/epsilon", "losses/td_loss"}
    assert tags <= {tag for tag, *_ in scalars(folder)}


def test_boltzmann_probabilities(tmp_path):
    """A copy of the script whose softmax(q / 0.2) is 0.6, 0.3 and 0.1, and next to nothing for other actions."""
    line = "    # TRY NOT TO MODIFY: start the game\n"
    always = "    q_network.output.weight.data.zero_()\n"
    always += "    q_network.output.bias.data.fill_(-9.0)\n"
    always += "    q_network.output.bias.data[:3] = 0.2 * torch.tensor([0.6, 0.3, 0.1]).log()\n"
    name = fork(tmp_path / "pi.py", (line, always + line), name="related/softq_minatar")
    flags = "--env-id Breakout --total-timesteps 2400 --learning-starts 2400 --buffer-size 2400 --num-envs 8"
    flags += " --eval-frequency 0 --no-cuda --policy boltzmann --temperature 0.2 --checkpoint-frequency 2000"
    run_here(name, flags, cwd=tmp_path, stop_at=2008)
    (folder,) = run_folders(tmp_path)
    buffer = torch.load(folder / "checkpoint.pt", weights_only=True)["components"]["buffer"]
    frequencies = buffer["actions"].flatten()[:2000].bincount() / 2000
    four_deviations = 4 * (0.24 / 2000) ** 0.5
    torch.testing.assert_close(frequencies, torch.tensor([0.6, 0.3, 0.1]), rtol=0, atol=four_deviations)


@pytest.mark.parametrize("games", ["minatar", "atari"])
def test_training_acts_by_pi(games, tmp_path):
    """A copy of the script whose pi has 0.9 for action 1 whatever it sees. On Atari rewards are clipped."""
    line = "    learning_rate = torch.tensor("
    always = "    q_network.logits.weight.data.zero_()\n"
    always += "    q_network.logits.bias.data[1] = math.log(9 * (envs.num_actions - 1))\n"
    name = fork(tmp_path / "pi.py", (line, always + line), name=f"related/softq_online_{games}")
    env_id = "Breakout" if games == "minatar" else "ALE/Asteroids-v5"
    flags = f"--env-id {env_id} --num-envs 4 --num-steps 1000 --eval-frequency 0 --no-cuda"
    flags = f"{flags} --checkpoint-frequency 1200 --total-timesteps 100000000"
    run_here(name, flags, cwd=tmp_path, stop_at=1204)
    (folder,) = run_folders(tmp_path)
    rollouts = torch.load(folder / "checkpoint.pt", weights_only=True)["components"]["rollouts"]
    actions = rollouts["actions"][:300]
    assert actions.eq(1).float().mean().item() == pytest.approx(0.9, abs=0.035)  # four standard deviations
    if games == "atari":
        assert rollouts["rewards"][:300].unique().tolist() == [0.0, 1.0], "a rock is worth 20 and more"


def test_learning_rate_falls_linearly(tmp_path):
    """What RMSprop has in each of the five updates, by the steps before the rollout's last; its other settings stay."""
    seen = []
    step = torch.optim.RMSprop.step

    def watched(optimizer):
        seen.append([float(optimizer.param_groups[0][name]) for name in ("lr", "alpha", "eps")])
        return step(optimizer)

    flags = "--env-id Breakout --num-envs 2 --total-timesteps 50 --eval-frequency 0"
    settings = "--learning-rate 0.1 --rmsprop-alpha 0.9 --rmsprop-eps 0.001"
    with mock.patch.object(torch.optim.RMSprop, "step", watched):
        run_here("related/softq_online_minatar", flags, settings, cwd=tmp_path)
    rates, alphas, epsilons = zip(*seen, strict=True)
    assert rates == pytest.approx([0.084, 0.064, 0.044, 0.024, 0.004])
    assert set(alphas) == {0.9} and set(epsilons) == {0.001}


@pytest.mark.parametrize("games", ["minatar", "atari"])
def test_time_limit_in_rollouts(games, tmp_path):
    """A copy of the script with a limit of 30 steps: where that cuts a game, the rollout has the true successor, which
    is not where the next game begins, and calls it truncated. So does Atari's last step before a checkpoint, after
    which all games start anew. Actions are drawn from pi, which is nearly uniform at first."""
    limit = "max_steps: int = 27_000" if games == "minatar" else "max_steps=27_000"
    change = (limit, limit.replace("27_000", "30"))
    name = fork(tmp_path / "limited.py", change, name=f"related/softq_online_{games}")
    flags = f"--env-id {'Freeway' if games == 'minatar' else 'ALE/Freeway-v5'} --num-envs 1 --num-steps 1000"
    _, folder = checkpointed_run(tmp_path, name, f"{flags} --eval-frequency 0 --no-cuda")
    rollouts = torch.load(folder / "checkpoint.pt", weights_only=True)["components"]["rollouts"]
    assert rollouts["steps"] == 100 and not rollouts["terminated"].any()
    cut = [29, 59, 89]
    obs, next_obs = rollouts["obs"][:100, 0], rollouts["next_obs"][:100, 0]
    follows = (next_obs[:-1] == obs[1:]).flatten(1).all(1)
    assert np.flatnonzero(~follows).tolist() == cut
    if games == "atari":
        cut = [*cut, 99]
        assert torch.equal(next_obs[:, :-1], obs[:, 1:]), "the true successor has three of the four frames"
    assert np.flatnonzero(rollouts["truncated"][:, 0]).tolist() == cut
    counts = np.bincount(rollouts["actions"][:100, 0])
    assert counts.max() < 50 and (len(counts) == 3 or len(counts) == 18)


@pytest.mark.parametrize("games", ["minatar", "atari"])
def test_memory_of_an_update(games, monkeypatch):
    """Rollouts are refused whose observations would fit, but not what an update makes of them."""
    script = load(f"related/softq_online_{games}")
    observations = 2 * 5 * 16 * 4 * 84 * 84
    for times, fits in ((50, True), (5, False)):
        monkeypatch.setattr(script, "free_memory", lambda device, free=times * observations: free)
        with nullcontext() if fits else pytest.raises(MemoryError):
            script.RolloutBuffer(5, 16, (4, 84, 84))
