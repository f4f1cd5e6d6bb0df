"""CUDA graphs and the GPU's replay give what plain calls and the CPU give."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from helpers import (
    GAMES_OF,
    IQN,
    TRAINED,
    accepted,
    bind,
    evaluations,
    fork,
    kill_at,
    load,
    make_network,
    run,
    run_folders,
    scalars,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU; none was found")
CUDA = torch.device("cuda")


def filled_buffer(script, device, num_envs=2):
    """A buffer with random frames and episodes."""
    buffer, rng = script.ReplayBuffer(300, num_envs, device), np.random.default_rng(0)
    done = np.ones(num_envs, bool)
    for _ in range(400):
        frames = rng.integers(0, 256, size=(num_envs, 84, 84), dtype=np.uint8)
        buffer.append(np.arange(num_envs), frames, done, rng.integers(6, size=num_envs))
        done = rng.random(num_envs) < 0.1
        buffer.complete(rng.integers(-1, 2, size=num_envs), done)
    return buffer


def learner(script, graphs, resumed=False):
    """`update` with everything bound, as the main block binds it, and the network that it trains."""
    torch.manual_seed(0)
    network = make_network(script, 6).to(CUDA, memory_format=torch.channels_last)
    target = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=6.25e-5, eps=1.5e-4, fused=True, capturable=True)
    learn, _ = bind(script, network, target, optimizer)
    if resumed:  # with moments that are not zero
        buffer, rng = filled_buffer(script, CUDA), np.random.default_rng(9)
        for _ in range(5):
            learn(*buffer.sample(32, rng, CUDA))
    return (script.capture(learn, optimizer) if graphs else learn), network, optimizer


@pytest.mark.parametrize("resumed", [False, True])
def test_graphs_on_and_off_give_the_same_losses(script, resumed):
    """Three real calls, then a graph: losses, TD errors, weights and the count of steps are those of plain calls."""
    torch.backends.cudnn.deterministic = True
    results = []
    for graphs in (False, True):
        learn, network, optimizer = learner(script, graphs, resumed)
        buffer, rng = filled_buffer(script, CUDA), np.random.default_rng(1)
        generator = torch.cuda.get_rng_state()
        losses = []
        for _ in range(50):
            loss, mean_q, td_errors = learn(*buffer.sample(32, rng, CUDA))
            assert td_errors.shape == (32,)
            losses.append([loss.item(), mean_q.item(), td_errors.abs().mean().item()])
        assert torch.equal(torch.cuda.get_rng_state(), generator) or script.__name__ in IQN
        steps = [moments["step"].item() for moments in optimizer.state.values()]
        assert steps == [55.0 if resumed else 50.0] * len(steps)
        results.append((losses, [parameter.detach().clone() for parameter in network.parameters()]))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    for plain, graphed in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(plain, graphed, rtol=1e-5, atol=1e-7)


def test_a_graph_is_used(script):
    """From the fourth call on the outputs are the same tensors, and a changed learning rate is refused."""
    learn, _, optimizer = learner(script, graphs=True)
    buffer, rng = filled_buffer(script, CUDA), np.random.default_rng(1)
    outputs = [learn(*buffer.sample(32, rng, CUDA)) for _ in range(6)]
    assert outputs[2][0] is not outputs[3][0]
    assert all(a is b for later in outputs[4:] for a, b in zip(outputs[3], later, strict=True))
    optimizer.param_groups[0]["lr"] = 1e-3
    with pytest.raises(RuntimeError, match="learning rate"):
        learn(*buffer.sample(32, rng, CUDA))


def test_four_updates_in_one_graph_are_four_in_turn(script):
    """And with another number of them a graph of its own: the same weights as with ordinary updates, one by one."""
    torch.backends.cudnn.deterministic = True
    results = []
    for together in (False, True):
        torch.manual_seed(0)
        network = make_network(script, 6).to(CUDA, memory_format=torch.channels_last)
        target = copy.deepcopy(network).requires_grad_(False)
        optimizer = torch.optim.Adam(network.parameters(), lr=6.25e-5, eps=1.5e-4, fused=True, capturable=True)
        learn = partial(script.update_minibatches, network, target, optimizer, script.Args())
        learn = script.capture(learn, optimizer) if together else learn
        buffer, rng = filled_buffer(script, CUDA), np.random.default_rng(1)
        losses = []
        for count in 10 * [4, 1]:
            batch = buffer.sample(32 * count, rng, CUDA)
            parts = [batch] if together else zip(*(field.split(32) for field in batch), strict=True)
            losses += [loss.item() for part in parts for loss, *_ in learn(*part)]
        results.append((losses, [parameter.detach().clone() for parameter in network.parameters()]))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    for plain, graphed in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(plain, graphed, rtol=1e-5, atol=1e-7)


def test_a_failed_capture_ends_the_run(tmp_path):
    """What copies to the host cannot be captured: the error says so, and what to do. With that the fork trains."""
    step = "    optimizer.step()\n    return"
    name = fork(tmp_path / "fork.py", (step, f"    assert loss.item() >= 0\n{step}"))
    flags = "--env-id ALE/Pong-v5 --learning-starts 100 --buffer-size 1000 --total-timesteps 200 --eval-frequency 0"
    result = run(name, flags, cwd=tmp_path, cuda=True, check=False)
    assert result.returncode == 1
    assert "RuntimeError: no CUDA graph (" in result.stderr and "add --no-cuda-graphs" in result.stderr
    run(name, flags, "--no-cuda-graphs", cwd=tmp_path, cuda=True)


def test_action_values_as_a_graph(script):
    torch.manual_seed(0)
    network = make_network(script, 6).to(CUDA, memory_format=torch.channels_last)
    _, plain = bind(script, network, network, None)
    graphed = script.capture(plain)
    for seed in range(8):  # three real calls, and five of the graph
        obs = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8, device=CUDA)
        values = []
        for function in (graphed, plain):
            torch.manual_seed(seed)  # IQN draws its fractions, in a graph too
            values.append(function(obs).clone())
        torch.testing.assert_close(*values)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_buffers_give_the_same_batches(script, device):
    """The generator is NumPy's: a buffer on the GPU, in host memory, and a CPU run's draw the same."""
    batches = []
    for buffer_device, batch_device in (("cpu", "cpu"), (device, "cuda")):
        buffer, rng = filled_buffer(script, torch.device(buffer_device)), np.random.default_rng(2)
        batches.append([[x.cpu() for x in buffer.sample(32, rng, torch.device(batch_device))] for _ in range(20)])
    for cpu, cuda in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(cpu, cuda, strict=True))


def test_too_large_for_the_gpu(script):
    with pytest.raises(MemoryError, match="--buffer-size 1000000000 needs .* bytes, cuda has .* free; try"):
        script.ReplayBuffer(10**9, 1, CUDA)


def test_a_graph_reads_the_learning_rate_anew():
    """Online soft Q-learning lowers it: at 0 the graph's replay leaves the parameters, at another rate it does not."""
    script = load("related/softq_online_minatar")
    torch.manual_seed(0)
    network = make_network(script, 3, temperature=0.05).to(CUDA)
    rate = torch.tensor(7e-4, device=CUDA)
    optimizer = torch.optim.RMSprop(network.parameters(), lr=rate, alpha=0.99, eps=1e-5, capturable=True)
    args = script.Args(num_steps=2)
    learn = script.capture(partial(learn_online, script, network, optimizer, args), optimizer)
    obs = torch.rand(3, 4, 10, 10, 4, device=CUDA) < 0.3
    none = torch.zeros(2, 4, device=CUDA)
    rollout = (obs[:2], torch.randint(3, (2, 4), device=CUDA), torch.randn(2, 4, device=CUDA), obs[1:], none, none)
    outputs = [learn(*rollout) for _ in range(6)]
    assert outputs[4][0] is outputs[5][0], "a graph is used"
    for value in (0.0, 7e-4):
        before = torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
        rate.fill_(value)
        learn(*rollout)
        after = torch.nn.utils.parameters_to_vector(network.parameters())
        assert torch.equal(before, after) == (value == 0)


def learn_online(script, network, optimizer, args, *rollout):
    return script.update(network, optimizer, args, script.Rollout(*rollout))


def test_replays_draw_new_heads():
    """iS-DQN acts by a random online head, also in a graph: each about a third of the time, and never the target's."""
    script = load("related/isdqn_minatar")
    torch.manual_seed(0)
    network = make_network(script, 3, 0.0, num_heads=4, layer_norm=True).to(CUDA)
    obs = (torch.rand(1, 10, 10, 4, device=CUDA) < 0.3).repeat(3000, 1, 1, 1)
    with torch.no_grad():
        values = network(obs[:1])[0]
    act = script.capture(partial(script.action_values, network, "random"))
    draws = []
    for _ in range(8):  # three real calls, and five of the graph
        drawn = act(obs)
        which = (drawn[:, None] - values[None]).abs().amax(2).argmin(1)
        counts = torch.bincount(which, minlength=4).tolist()
        assert counts[0] == 0 and min(counts[1:]) > 900  # 1,000 expected, the standard deviation is 26
        draws.append((drawn, which))
    assert draws[6][0] is draws[7][0], "a graph is used"
    assert not any(torch.equal(one, other) for (_, one), (_, other) in zip(draws, draws[1:], strict=False))


def test_periods_of_eaudeqn_between_replays():
    """Selection and pruning between the graph's replays are those of plain calls, and change no tensor's place."""
    torch.backends.cudnn.deterministic = True
    script = load("related/eaudeqn_atari")
    results = []
    for graphs in (False, True):
        torch.manual_seed(0)
        q_networks = script.QNetworks([make_network(script, 6, 6.0, width=64).to(CUDA) for _ in range(5)])
        target = make_network(script, 6, 6.0, width=64).to(CUDA, memory_format=torch.channels_last)
        target.requires_grad_(False)
        parameters = q_networks.parameters.values()
        optimizer = torch.optim.Adam(parameters, lr=6.25e-5, eps=1.5e-4, fused=True, capturable=True)
        args = script.Args(horizon=100_000, max_speed=0.2)
        learn = partial(learn_eaudeqn, script, q_networks, target, optimizer, args)
        learn = script.capture(learn, optimizer) if graphs else learn
        buffer, rng = filled_buffer(script, CUDA), np.random.default_rng(1)
        outputs, places = [], []
        for step in range(1, 31):
            outputs.append(learn(*buffer.sample(32, rng, CUDA)))
            moments = [moment for state in optimizer.state.values() for moment in state.values()]
            tensors = [*q_networks.parameters.values(), *q_networks.masks.values(), *target.parameters(), *moments]
            places.append([tensor.data_ptr() for tensor in (*tensors, q_networks.loss_sums)])
            if step % 10 == 0:
                script.end_period(q_networks, target, optimizer, args, rng, 3_000 * step)
        assert all(place == places[0] for place in places)
        assert (outputs[28][0] is outputs[29][0]) is graphs
        results.append((q_networks, target))
    (plain, _), (graphed, _) = results
    assert plain.sparsities == graphed.sparsities and max(plain.sparsities) > 0.2
    for name, stacked in plain.parameters.items():
        torch.testing.assert_close(stacked, graphed.parameters[name], rtol=1e-5, atol=1e-7)
    for name, mask in graphed.masks.items():
        assert (graphed.parameters[name][mask == 0] == 0).all()


def learn_eaudeqn(script, q_networks, target, optimizer, args, *batch):
    return script.update(q_networks, target, optimizer, args, script.Batch(*batch))


@pytest.mark.parametrize("name", TRAINED)
def test_whole_runs_with_and_without_graphs(name, tmp_path):
    flags = (
        "--env-id ALE/Pong-v5 --learning-starts 200 --buffer-size 2000 --total-timesteps 2000 --eval-frequency 2000 "
        "--eval-steps 1 --eval-envs 2 --num-envs 2 --checkpoint-frequency 600 --exploration-steps 1000000"
    )
    if GAMES_OF[name] != "Atari":
        env_id = {"MinAtar": "MinAtar/Breakout-v1", "Gym": "CartPole-v1"}[GAMES_OF[name]]
        flags = flags.replace("ALE/Pong-v5", env_id).replace("--eval-steps 1", "--eval-episodes 4")
    flags = accepted(name, flags)
    if "isdqn" in name:
        flags += " --eval-head random --target-network-frequency 400"  # with shifts in between
    if "eaudeqn" in name:
        flags += " --target-network-frequency 400"  # with periods that end
    choices = ["", "--no-cuda-graphs", "--buffer-device cpu"]
    if "online" in name:
        choices.remove("--buffer-device cpu")  # there is no replay
    for graphs in choices:
        folder = tmp_path / (graphs.strip("-").replace(" ", "") or "default")
        folder.mkdir()
        run(name, flags, graphs, cwd=folder, cuda=True)
    first, *others = [run_folders(folder)[0] for folder in sorted(tmp_path.iterdir())]
    for other in others:
        ours, theirs = [[s for s in scalars(f) if s[0].startswith("losses")] for f in (first, other)]
        assert [s[:2] for s in ours] == [s[:2] for s in theirs] and len(ours) >= 2
        np.testing.assert_allclose([s[2] for s in ours], [s[2] for s in theirs], rtol=1e-3)
        assert len(evaluations(other)) == 1


@pytest.mark.parametrize("first_device", ["cuda", "cpu"])
@pytest.mark.parametrize(
    "name",
    [
        "dqn_atari_mexp",
        "iqn_atari",
        "minatar_mexp",
        "related/eaudeqn_minatar",
        "related/isdqn_minatar",
        "related/softq_online_minatar",
    ],
)
def test_killed_and_resumed(name, first_device, tmp_path):
    """A run goes on from its checkpoint, on the GPU as one that was never killed there, and one of a CPU too, with its
    graphs. Its model and the best one can be played."""
    env_id = "ALE/Pong-v5" if GAMES_OF[name] == "Atari" else "MinAtar/Breakout-v1"
    flags = (
        f"--env-id {env_id} --learning-starts 200 --buffer-size 2000 --total-timesteps 2400 --eval-frequency 1600 "
        "--eval-envs 2 --num-envs 2 --checkpoint-frequency 600 --exploration-steps 1000000 "
        "--target-network-frequency 400 "
    )
    flags += "--eval-steps 1" if GAMES_OF[name] == "Atari" else "--eval-episodes 4"
    flags = accepted(name, flags) + " --save-model --save-best"
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if first_device == "cpu" else {}
    kill_at(1300, name, flags, cwd=tmp_path / "killed", cuda=True, **hidden)
    result = run(name, flags, "--resume", cwd=tmp_path / "killed", cuda=True)
    assert "goes on from step 1,200" in result.stdout
    assert ("device is now" in result.stdout) == (first_device == "cpu")
    (killed,) = run_folders(tmp_path / "killed")
    assert len(evaluations(killed)) == 1
    for best in ("", "--best"):
        played = run("play", f"{killed} --episodes 2 --epsilon 1", best, cwd=tmp_path)
        assert "score_mean" in played.stdout
    if first_device == "cuda":
        run(name, flags, cwd=tmp_path / "whole", cuda=True)
        (whole,) = run_folders(tmp_path / "whole")
        ours, theirs = [[s for s in scalars(f) if s[0].startswith("losses")] for f in (killed, whole)]
        assert [s[:2] for s in ours] == [s[:2] for s in theirs] and ours[-1][1] == 2_000  # after the kill
        np.testing.assert_allclose([s[2] for s in ours], [s[2] for s in theirs], rtol=1e-3)
