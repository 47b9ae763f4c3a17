"""Arguments of recording."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, cast, ClassVar, Literal

import tyro

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import cli, ConfigError, UsageError
from aloha_kit.core.cli import CommandArgs
from aloha_kit.core.lang import Message
from aloha_kit.core.value_checks import at_least
from aloha_kit.envs import has_operator

_SCRIPTED = ("noise", "workers", "keep_failures", "max_attempts")  # flags of the scripted expert's recording
_LEADERS = ("countdown", "gestures")  # flags of an operator's recording with leader arms


@dataclass(frozen=True)
class SessionArgs:
    """Flags of the human recorder, for an operator on a rig, real or simulated."""

    rate_hz: float | None = None
    """Control rate, in place of the task's."""
    countdown: int = 3
    """Seconds between closing the leader grippers and the first step."""
    auto: bool = False
    """Begin episodes after the countdown, without closed grippers or a command."""
    keyboard: bool = True
    """Single keys on a terminal are commands."""
    gestures: bool = True
    """Closing both leader grippers together ends an episode: twice keeps it, three times discards it."""
    cues: Literal["off", "bell", "speech"] = "off"
    """Sounds: the terminal's bell, or speech through spd-say or espeak-ng."""
    timeout_s: Annotated[float, tyro.conf.arg(aliases=["--patience"])] = 0.0
    """Seconds after which a fault that is not fixed ends the session; 0 waits for the operator."""
    plain: bool = False
    """Plain lines instead of a status line, also on a terminal."""

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not 0 < self.rate_hz <= 1000:
            raise ValueError(
                Message("rate_hz must lie above 0 and up to 1000, given {rate_hz:g}", rate_hz=self.rate_hz)
            )
        at_least(0, countdown=self.countdown, timeout_s=self.timeout_s)


@dataclass(frozen=True)
class RecordArgs(CommandArgs):
    """Record demonstrations of a task until there are enough good ones.

    In simulation a scripted expert does the task, in several processes at a time. On a rig an operator does it, with
    the leader arms. Interrupted or run again, it continues where it stopped: episodes that are there count.
    """

    EXAMPLE: ClassVar[str] = "--task sim_transfer_cube --num_episodes 50"
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = (
        "task",
        "num_episodes",
        "rig",
        "dataset_dir",
        "image_size",
        "cameras",
        "seed",
        "noise",
        "workers",
        "keep_failures",
        "recover",
        "countdown",
        "lang",
    )

    task: Annotated[str, tyro.conf.arg(aliases=["--task_name"])]
    """Task name (configs/tasks) or YAML path."""
    num_episodes: Annotated[int, tyro.conf.arg(aliases=["--episodes"])] = 50
    """Good episodes that the folder holds in the end."""
    rig: str | None = None
    """Rig name (configs/rigs) or YAML path, in place of the task's."""
    dataset_dir: str | None = None
    """Folder to record into, in place of the task's."""
    seed: int = 0
    """Seed of the first episode; later ones count up from it."""
    noise: float = 0.0
    """Motion noise of the scripted expert: 0 is the same motion for the same start, 1 varies it strongly."""
    workers: int | None = None
    """Processes that record at the same time; the cores of the machine when not given."""
    image_size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="H W")] = None
    """Height and width of the images, in place of the rig's."""
    cameras: tuple[str, ...] | None = None
    """Cameras to record, in place of the task's."""
    depth_cameras: tuple[str, ...] | None = None
    """Cameras of a MuJoCo simulation whose depth is recorded too, in place of the task's. A robot records the depth of
    the cameras for which its rig has a depth_topic."""
    images: Literal["jpeg", "raw"] = "jpeg"
    """Format of the images in the episode."""
    quality: int = 95
    """JPEG quality, 1 to 100."""
    action_space: Literal["joints", "ee", "ee_delta"] | None = None
    """Actions of a simulation with two arms: joint targets (joints, its own), or of each gripper its pose (ee: x y z in
    m, rotation as the gripper's x and y axis, opening) or the change of its pose in a step (ee_delta: m, rotation
    vector in rad, opening), in the world frame."""
    episode_len: int | None = None
    """Steps an episode, in place of the task's."""
    keep_failures: bool = False
    """Keep failed demonstrations in a folder failed/ beside the others instead of discarding them."""
    max_attempts: int | None = None
    """End after so many attempts; three times --num_episodes, and at least 10, when not given."""
    view: Annotated[str | None, tyro.conf.arg(metavar="[HOST:PORT]", aliases=["--onscreen_render"])] = None
    """Show cameras, joints, limits and skew while it runs (of a scripted expert, the first process): on this screen, or
    at HOST:PORT where `rerun` runs; NAME.rrd writes them into files."""
    recover: bool = False
    """First recover the journals that an interrupted recording left in the folder."""
    session: Annotated[SessionArgs, tyro.conf.arg(name="")] = SessionArgs()

    def __post_init__(self) -> None:
        at_least(1, num_episodes=self.num_episodes, workers=self.workers, max_attempts=self.max_attempts)
        at_least(0, seed=self.seed)
        if not 1 <= self.quality <= 100:
            raise ValueError(Message("quality must lie in 1 to 100, given {quality}", quality=self.quality))
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            raise ValueError(Message("noise must be a finite number from 0 on, given {noise}", noise=self.noise))


def parse(argv: Sequence[str] | None = None) -> RecordArgs:
    """Turn flags into values; raises `UsageError`."""
    return cast(
        RecordArgs, cli.parse(RecordArgs, "record", cli.with_value(argv, "screen", "--view", "--onscreen_render"))
    )


def task_of(args: RecordArgs) -> TaskConfig:
    """Task with the values of the flags in place of its own.

    Raises:
        ConfigError: an unknown task, or values that it refuses.
    """
    task = load(TaskConfig, "tasks", args.task)
    given = {
        key: getattr(args, key)
        for key in ("rig", "image_size", "cameras", "depth_cameras", "action_space", "episode_len", "dataset_dir")
    }
    given["rate_hz"] = args.session.rate_hz
    try:
        return dataclasses.replace(task, **{key: value for key, value in given.items() if value is not None})
    except ValueError as error:
        raise ConfigError("task '{task}': {error}", task=task.name, error=error) from error


def rig_of(args: RecordArgs) -> RigConfig:
    """Rig named by the flags or the task; refuses flags that do not apply to it.

    Raises:
        ConfigError: an unknown task or rig, or such a flag.
    """
    rig = load(RigConfig, "rigs", task_of(args).rig)
    usual = RecordArgs(task=args.task)
    operated = has_operator(rig)
    if operated:
        wrong = [name for name in _SCRIPTED if getattr(args, name) != getattr(usual, name)]
        reason = Message("an operator records there")
        if not (wrong or rig.leaders):
            wrong = [name for name in _LEADERS if getattr(args.session, name) != getattr(usual.session, name)]
            reason = Message("it has no leader arms")
    else:
        names = [field.name for field in dataclasses.fields(SessionArgs) if field.name != "rate_hz"]
        wrong = [name for name in names if getattr(args.session, name) != getattr(usual.session, name)]
        reason = Message("a scripted expert records there")
    if wrong:
        raise UsageError(
            "{flag} does not apply to rig '{rig}': {reason}", flag=f"--{wrong[0]}", rig=rig.name, reason=reason
        )
    return rig
