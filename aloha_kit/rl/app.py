"""Commands of reinforcement learning; what needs Stable-Baselines3 is imported once it is known to be there."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aloha_kit.core import ConfigError, UsageError
from aloha_kit.core.errors import command
from aloha_kit.core.lang import Message
from aloha_kit.rl.args import Command, Eval, Export, Render, Train

NEEDS = ("stable_baselines3", "gymnasium", "torch", "tensorboard")


def run(args: Command) -> None:
    """Run one subcommand.

    Raises:
        ConfigError: the extra `rl` is not installed, a wrong name, or a folder that is no run.
        ContractError: the environment is not the one of the run; names every difference.
        KeyboardInterrupt: the signal that ended a training early, after everything was saved.
    """
    require_extra()
    _render_on(args.render_device)
    commands: dict[type, Callable[[Any], None]] = {Train: _train, Eval: _eval, Render: _render, Export: _export}
    commands[type(args)](args)


def require_extra() -> None:
    """Raise `ConfigError` where Stable-Baselines3, or what it needs, is not installed."""
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            "aloha_kit.rl needs {missing}, not installed here; install the extra with: pip install "
            "'aloha_kit[rl,sim,view]'",
            missing=", ".join(missing),
        )


def _render_on(device: int | None) -> None:
    """Render on a device of EGL by its number, also in the processes of environments, which inherit the variable."""
    if device is None:
        return
    from aloha_kit.mujoco_images import egl_devices

    if device not in (known := range(egl_devices())):
        raise ConfigError(
            "--render_device {device} is not there. EGL has: {known}",
            device=device,
            known=", ".join(map(str, known)) or Message("none"),
        )
    os.environ["MUJOCO_EGL_DEVICE_ID"] = str(device)  # read when the first GL context is made


def _train(args: Train) -> None:
    from aloha_kit.rl.run_folder import RunFolder
    from aloha_kit.rl.training import train

    if args.resume is None:
        run = RunFolder(args.output or Path("runs") / "rl" / Path(args.task).stem)
        run.require_unused()
        settings = args.settings()
    else:
        run = RunFolder(args.resume)
        kept = {"num_steps", "device", "render_device", "save_every"}
        settings = Train().settings() | run.settings()  # flags that the run is older than
        changed = {key: value for key, value in args.settings().items() if args.given(key)}
        if wrong := sorted(changed.keys() - kept):
            raise UsageError(
                "--{wrong} does not go with --resume: the run keeps {wrong} {value}",
                wrong=wrong[0],
                value=settings[wrong[0]],
            )
        settings |= changed
        _render_on(settings["render_device"])
    train(run, settings, resume=args.resume is not None, title=command("rl", "train", *args.words))


def _eval(args: Eval) -> None:
    from aloha_kit.rl.evaluation import evaluate
    from aloha_kit.rl.policy import LoadedRun

    loaded = LoadedRun.load(args.run, args.device)
    evaluate(loaded, args.num_rollouts, args.seed, camera=args.camera, videos=args.video, output=args.output)


def _render(args: Render) -> None:
    from aloha_kit.rl.evaluation import render
    from aloha_kit.rl.policy import LoadedRun

    loaded = LoadedRun.load(args.run, args.device)
    render(loaded, args.num_rollouts, args.seed, camera=args.camera, output=args.output)


def _export(args: Export) -> None:
    from aloha_kit.rl.export import export
    from aloha_kit.rl.policy import LoadedRun

    loaded = LoadedRun.load(args.run, args.device)
    export(loaded, args.num_episodes, args.seed, cameras=args.cameras, folder=args.output)
