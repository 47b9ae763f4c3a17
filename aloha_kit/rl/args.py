"""Command line of reinforcement learning: train, eval, render and export."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, cast, ClassVar, Literal, TypeAlias

from tyro.conf import arg, OmitSubcommandPrefixes, Positional, Suppress

from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import marked, Message
from aloha_kit.core.value_checks import at_least, positive, within


@dataclass(frozen=True, kw_only=True)
class Train(CommandArgs):
    """Train a policy by actor-critic reinforcement learning in simulation.

    Its run folder holds everything that eval, render and export need. Ctrl-C saves and stops, and so does a closed
    terminal; --resume goes on.
    """

    EXAMPLE: ClassVar[str] = "--task reach --output runs/rl/reach"
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = (
        *("task", "output", "resume", "observe", "algorithm", "num_steps", "num_envs", "curriculum", "seed"),
        *("device", "render_device"),
    )

    task: str = "reach"
    """Task: a name in configs/tasks or a YAML path."""
    output: Path | None = None
    """Folder of this run; runs/rl/TASK when not given."""
    resume: Path | None = None
    """A run's folder to go on with; all its values are kept but those of --num_steps, --save_every and the devices."""
    observe: Annotated[tuple[str, ...], arg(metavar="GROUP [GROUP ...]")] = ("joints", "target")
    """Observation groups: joints (positions and velocities), a feature or sensor of the task by its name, such as
    target or vestibular, and NAME_image for the images of a camera."""
    algorithm: Literal["ppo", "sac"] = "ppo"
    """PPO, or SAC, which takes more computation a step and fewer steps."""
    num_steps: int = 120_000
    """Steps of all environments together."""
    num_envs: int = 8
    """Environments at the same time."""
    processes: Literal["auto", "yes", "no"] = "auto"
    """Whether each environment has a process with one thread, or this process steps them in turn, which takes less CPU
    time in all. auto: processes where images are read."""
    curriculum: bool = True
    """Draw targets from the nearest band first; --no_curriculum draws from all bands at once."""
    seed: int = 0
    """Seed of the network, of exploration and of the targets."""
    lr: float = 3e-4
    """Learning rate."""
    gamma: float = 0.95
    """Discount of the reward of one step later."""
    batch_size: int = 256
    """Samples of a gradient step."""
    rollout_steps: int = 128
    """Steps of each environment between updates of PPO."""
    epochs: int = 10
    """Passes over a rollout in an update of PPO."""
    log_std_init: float = -0.5
    """Logarithm of the standard deviation of PPO's exploration at the beginning, in shares of an action's range of
    -1 to 1. Robots that fall need less than the -0.5 of an arm."""
    image_size: tuple[int, int] = (64, 64)
    """Height and width of the images that the policy reads."""
    save_every: int = 20_000
    """Steps between checkpoints."""
    device: str = "auto"
    """Device of the networks: cpu, cuda:1, or auto: a GPU where there is one and the policy reads images."""
    render_device: int | None = None
    """GPU that renders images (MUJOCO_EGL_DEVICE_ID)."""
    words: Suppress[tuple[str, ...]] = ()
    """The flags as they were given, for the run's log."""

    def __post_init__(self) -> None:
        _require_at_least(self, num_steps=1, num_envs=1, batch_size=2, rollout_steps=2, epochs=1, save_every=1, seed=0)
        at_least(1, image_height=self.image_size[0], image_width=self.image_size[1])
        positive(lr=self.lr)
        within("[0, 1]", gamma=self.gamma)
        if not self.observe:
            raise ValueError(Message("--observe needs a group, such as joints"))
        if self.resume is not None and self.output is not None:
            raise ValueError(
                Message("--resume goes on in its own folder, {folder}: give it without --output", folder=self.resume)
            )

    def settings(self) -> dict[str, Any]:
        """Values of the run, for its config.yaml."""
        hidden = {"lang", "log_level", "output", "resume", "words"}
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in hidden}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def given(self, flag: str) -> bool:
        """Whether a flag stands on the command line."""
        return any(word.partition("=")[0].replace("-", "_") in (f"__{flag}", f"__no_{flag}") for word in self.words)


@dataclass(frozen=True, kw_only=True)
class _OfRun(CommandArgs):
    run: Positional[Path]
    """Folder of a run."""
    device: str = "cpu"
    """Device of the policy: cpu or cuda:i."""
    render_device: int | None = None
    """GPU that renders images (MUJOCO_EGL_DEVICE_ID)."""
    seed: int = 100_000
    """Seed of the first rollout, later ones count up; far from those of training."""

    def __post_init__(self) -> None:
        counts = {"num_rollouts": 1, "num_episodes": 1, "video": 0, "seed": 0}
        _require_at_least(self, **{name: least for name, least in counts.items() if hasattr(self, name)})


@dataclass(frozen=True, kw_only=True)
class Eval(_OfRun):
    """Success of a trained policy by band of distance, with a report and videos.

    Everything is rebuilt from the run's folder. The report has the Wilson intervals.
    """

    EXAMPLE: ClassVar[str] = "runs/rl/reach"

    num_rollouts: int = 50
    """Rollouts in each band."""
    video: int = 1
    """Rollouts in each band that a video is made of."""
    camera: str | None = None
    """Camera of the videos: any of the rig's, also one that the training did not use."""
    output: Path | None = None
    """Folder of eval.json and the videos; eval/TIME in the run when not given."""


@dataclass(frozen=True, kw_only=True)
class Render(_OfRun):
    """Videos of a trained policy, from any camera."""

    EXAMPLE: ClassVar[str] = "runs/rl/reach --camera top"

    num_rollouts: int = 1
    """Videos of each band."""
    camera: str | None = None
    """Camera of the videos: any of the rig's, also one that the training did not use."""
    output: Path | None = None
    """Folder of the videos; videos/TIME in the run when not given."""


@dataclass(frozen=True, kw_only=True)
class Export(_OfRun):
    """Record rollouts of a trained policy as ordinary episodes, to validate, replay and train on.

    Only successes are saved. The metadata of an episode names the run: source = rl:RUN.
    """

    EXAMPLE: ClassVar[str] = "runs/rl/reach --output data/rl_reach"

    num_episodes: int = 50
    """Episodes to save."""
    cameras: Annotated[tuple[str, ...] | None, arg(metavar="[NAME ...]")] = None
    """Cameras to record, of the rig; those that the policy reads when not given."""
    output: Path | None = None
    """Folder of the episodes; episodes in the run when not given."""


def _require_at_least(args: CommandArgs, **lowest: int) -> None:
    for name, least in lowest.items():
        at_least(least, **{name: getattr(args, name)})


Command: TypeAlias = Train | Eval | Render | Export


def parse(argv: Sequence[str] | None = None) -> Command:
    """Parse the flags; raises `UsageError`."""
    words = sys.argv[1:] if argv is None else list(argv)
    description = marked("Train policies by actor-critic reinforcement learning, and evaluate, render and export them.")
    args = cast(Command, cli.parse(Command, "rl", words, description=description, config=(OmitSubcommandPrefixes,)))
    if isinstance(args, Train):
        return Train(**{**_values(args), "words": tuple(words[1:])})
    return args


def _values(args: Train) -> Mapping[str, Any]:
    return {field.name: getattr(args, field.name) for field in fields(args)}
