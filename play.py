# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#     "ale-py==0.12.1",
#     "gymnasium[box2d]==1.4.0",
#     "imageio-ffmpeg==0.8.1",
#     "MinAtar==1.0.15",
#     "numpy==2.4.6",
#     "psutil==7.2.2",
#     "seaborn==0.13.2",
#     "tensorboard==2.21.0",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "tyro==1.0.17",
# ]
# ///
"""Plays the network that a run has saved, with the script that trained it: prints the metrics, writes them to
`play.json` in the run's folder and, with `--video`, a film of the first episode to `play.mp4`.

Flags, k and network come from the run's `config.json`. A fork works too, if it keeps `Args`, `make_envs`,
`make_network`, `action_values` and `evaluate`.

Usage: python play.py runs/ALE/Breakout-v5__dqn_atari_mexp__1__1700000000 --video
"""

import importlib.util
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NoReturn, Optional

import gymnasium
import imageio_ffmpeg
import numpy as np
import seaborn
import torch
import tyro


@dataclass
class Args:
    run_folder: tyro.conf.Positional[Path]  # holds config.json and what --save-model or --save-best saved
    best: bool = False  # play the network of the best evaluation phase instead of the last one
    episodes: int = 30  # each in a game of its own, all at a time (30 in the authors' release)
    video: bool = False  # film the first episode
    epsilon: Optional[float] = None  # how often an action is random; as in the run's evaluations if None
    seed: Optional[int] = None  # of the episodes, none of which the run's evaluations played; the run's if None
    script: Optional[Path] = None  # the script that trained it, where config.json does not tell


def fail(message: object) -> NoReturn:
    """End the program over a user's mistake: one line on stderr, exit code 2."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    raise SystemExit(2)


def import_script(args: Args, config: dict) -> ModuleType:
    """The script that trained the run, found by its path in `config.json`, or, as runs of before November 2026 have
    none, beside this file by its name."""
    here = Path(__file__).parent
    name = Path(config.get("script", f"{config['args']['exp_name']}.py"))
    places = [args.run_folder / name, here / name.name, here / "related" / name.name]
    if args.script is not None:
        places = [args.script]
    path = next((place.resolve() for place in places if place.is_file()), None)
    if path is None:
        fail(f"the script {places[0]} that trained this run is not there; name it with --script")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def load_weights(path: Path) -> tuple[dict[str, torch.Tensor], Optional[int]]:
    """The network's state dict, and the agent step that it is of where the file tells."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        fail(f"{path} is not there; a run makes it with {'--save-best' if 'best' in path.name else '--save-model'}")
    except Exception as error:  # torch raises whatever a damaged file leads to
        fail(f"{path} is damaged ({error})")
    return saved.get("weights", saved), saved.get("step")


def record_first_game(script: ModuleType) -> tuple[list, list]:
    """Have the script's environments note the seed and the actions of their first game, in the lists returned."""
    seeds, actions = [], []
    make_envs = script.make_envs

    def make_recorded_envs(*args):
        envs = make_envs(*args)
        reset = envs.reset
        act_name = "send" if hasattr(envs, "send") else "step"
        act = getattr(envs, act_name)

        def recorded_reset(env_seeds: np.ndarray):
            seeds.append(env_seeds[0])
            return reset(env_seeds)

        def recorded_act(env_actions: np.ndarray):
            actions.append(env_actions[0])
            return act(env_actions)

        envs.reset = recorded_reset
        setattr(envs, act_name, recorded_act)
        return envs

    script.make_envs = make_recorded_envs
    return seeds, actions


def atari_frames(script: ModuleType, args, seeds: list, actions: list) -> Iterator[np.ndarray]:
    """The episode in colour, (210, 160, 3) uint8: the emulator is deterministic given its seed and the actions."""
    colour = {"grayscale": False, "img_height": 210, "img_width": 160, "stack_num": 1}
    envs = script.AtariEnvs(args.env_id, 1, args.full_action_space, **colour)
    yield envs.reset(np.array(seeds[:1]))[0, -1]
    for action in actions:
        envs.send(np.array([action]))
        *_, done, info = envs.recv()
        yield info["newest_frame"][0]
        if done[0]:
            return


def minatar_frames(script: ModuleType, args, seeds: list, actions: list) -> Iterator[np.ndarray]:
    """The episode in the colours in which the package displays its games, (10, 10, 3) uint8."""
    envs = script.MinAtarEnvs(args.env_id, 1)
    num_channels = envs.obs_shape[-1]
    colours = np.array([(0, 0, 0), *seaborn.color_palette("cubehelix", num_channels)])

    def draw(obs: np.ndarray) -> np.ndarray:
        topmost = (obs * np.arange(1, num_channels + 1)).max(-1)  # 0 is nothing, i + 1 is channel i
        return (255 * colours[topmost]).astype(np.uint8)

    yield draw(envs.reset(np.array(seeds[:1]))[0])
    for action in actions:
        *_, done, info = envs.step(np.array([action]))
        yield draw(info["final_obs"][0])
        if done[0]:
            return


def gym_frames(script: ModuleType, args, seeds: list, actions: list) -> Iterator[np.ndarray]:
    """The episode as the environment draws it, (H, W, 3) uint8. Raises gymnasium.error.Error where it cannot."""
    env = gymnasium.make(args.env_id, render_mode="rgb_array")
    env.reset(seed=int(seeds[0]))
    yield env.render()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(env.action_space.start + action)
        yield env.render()
        if terminated or truncated:
            break
    env.close()


def write_video(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    """An MP4 of (H, W, 3) uint8 frames; small ones are enlarged, to 320 pixels of width."""
    first = next(frames)
    height, width, _ = first.shape
    zoom = ["-vf", f"scale={max(320, width)}:-2:flags=neighbor"]
    video = imageio_ffmpeg.write_frames(str(path), (width, height), fps=fps, macro_block_size=1, output_params=zoom)
    video.send(None)  # starts the generator
    video.send(np.ascontiguousarray(first))
    for frame in frames:
        video.send(np.ascontiguousarray(frame))
    video.close()


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    if args.episodes < 1:
        fail(f"--episodes {args.episodes} must be at least 1")
    if args.epsilon is not None and not 0 <= args.epsilon <= 1:
        fail(f"--epsilon {args.epsilon} must be from 0 to 1")
    try:
        config = json.loads((args.run_folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        fail(f"{args.run_folder} is no run's folder ({error}); it must hold a config.json")
    weights, step = load_weights(args.run_folder / ("model_best.pt" if args.best else "model.pt"))
    script = import_script(args, config)

    # The run's flags, with one game for each episode
    flags = vars(script.Args())
    run_args = script.Args(**{name: value for name, value in config["args"].items() if name in flags})
    length = {"eval_steps": 1} if "eval_steps" in flags else {"eval_episodes": args.episodes}
    run_args = replace(run_args, eval_envs=args.episodes, **length)
    if args.epsilon is not None:
        run_args = replace(run_args, eval_epsilon=args.epsilon)
    if args.seed is not None:
        run_args = replace(run_args, seed=args.seed)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(run_args.seed)
    q_network = script.make_network(run_args, script.make_envs(run_args, 1))
    try:
        q_network.load_state_dict(weights)
    except RuntimeError as error:
        fail(f"the network of {script.__file__} does not fit: {error}")
    q_network.to(device)
    # Some scripts' `action_values` take flags between the network and the observations
    between = list(inspect.signature(script.action_values).parameters)[1:-1]
    values = partial(script.action_values, q_network, *(getattr(run_args, name) for name in between))

    seeds, actions = record_first_game(script)
    metrics = script.evaluate(values, run_args, 0, device)  # step 0, at which no run evaluates
    for name, value in metrics.items():
        print(f"{name} {value:.5g}")
    result = {"script": script.__file__, "best": args.best, "step": step, "seed": run_args.seed}
    result |= {"epsilon": run_args.eval_epsilon} | metrics
    (args.run_folder / "play.json").write_text(json.dumps(result, indent=2))
    if args.video:
        frames_of = {"ALE": atari_frames, "MinAtar": minatar_frames}.get(run_args.env_id.split("/")[0], gym_frames)
        try:
            fps = 50 if frames_of is gym_frames else 15
            write_video(args.run_folder / "play.mp4", frames_of(script, run_args, seeds, actions), fps)
        except (gymnasium.error.Error, ImportError) as error:
            fail(f"--video: {run_args.env_id} cannot be drawn ({error})")
        print(args.run_folder / "play.mp4")
