"""Execution of a recording's actions on a rig, and comparison of the results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dm_env
import numpy as np
import numpy.typing as npt

from aloha_kit import envs
from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.config.match_checkpoint import match_action_space
from aloha_kit.core import Action, ConfigError, Environment, UsageError
from aloha_kit.core.features import ACTION, STATE
from aloha_kit.core.files import write_json
from aloha_kit.core.lang import Message, pad, tr, width
from aloha_kit.loop import guarded, Outcome, Replay, run_episode, SafetyGuard, sigterm_interrupts
from aloha_kit.media.plots import joint_traces
from aloha_kit.replay.recording import Recording

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ReplayResult:
    """Result of executing recorded actions.

    Attributes:
        qpos: (T' + 1, S) observed this time; error is its difference from the recorded rows.
        success: whether the environment counts it as a success; None where nothing measures it.
        same_scene: whether the scene was set up as when it was recorded (it is simulated, and its seed is known).
    """

    names: tuple[str, ...]
    units: Mapping[str, str]  # of the contract
    recorded: Array
    qpos: Array
    outcome: Outcome
    success: bool | None
    recorded_success: bool | None
    recorded_reward: float | None
    same_scene: bool
    guard: dict[str, Any]

    @property
    def error(self) -> Array:
        """(rows, S) observed now minus recorded, over the rows that both have."""
        rows = min(len(self.qpos), len(self.recorded))
        return self.qpos[:rows] - self.recorded[:rows]

    @property
    def rms(self) -> Array:
        """(S,) root mean square of the error, in the units of the joints (openings for grippers)."""
        return np.asarray(np.sqrt(np.mean(np.square(self.error), axis=0)), np.float32)

    @property
    def worst(self) -> Array:
        """(S,) largest absolute error, likewise."""
        return np.asarray(np.max(np.abs(self.error), axis=0), np.float32)

    @property
    def agrees(self) -> bool | None:
        """Whether the result is the recorded one; None where one of them was not judged."""
        if self.success is None or self.recorded_success is None:
            return None
        return self.success == self.recorded_success

    def text(self) -> str:
        """A table for people."""
        lines = ["  " + tr("executed {n} actions; tracking error against the recorded qpos:", n=self.outcome.steps)]
        lines.append(f"    {pad(tr('joint'), 22)}{'rms':>10}{' ' * (10 - width(tr('worst')))}{tr('worst')}")
        for i, name in enumerate(self.names):
            unit = "opening" if name.endswith("gripper") else self.units.get(name, self.units["joints"])
            lines.append(f"    {name:<22}{self.rms[i]:>10.5f}{self.worst[i]:>10.5f}  {unit}")
        if not self.same_scene and self.success is not None:
            lines.append(
                "  "
                + tr("the file does not record the scene's seed: objects lay elsewhere, results cannot be compared")
            )
        word = {None: tr("not judged"), True: tr("success"), False: tr("failure")}
        verdict = {None: "", True: tr(" (agree)"), False: tr(" (DISAGREE)")}[self.agrees if self.same_scene else None]
        before = "" if self.recorded_reward is None else tr(", final reward {reward:g}", reward=self.recorded_reward)
        lines.append("  " + tr("recorded: {result}", result=word[self.recorded_success] + before))
        after = tr(", final reward {reward:g}", reward=self.outcome.final_reward)
        lines.append("  " + tr("executed: {result}", result=word[self.success] + after + verdict))
        if self.guard["limited"]:
            lines.append(
                "  "
                + tr(
                    "the guard limited {limited} of {commands} commands: {limited_by}",
                    limited=self.guard["limited"],
                    commands=self.guard["commands"],
                    limited_by=json.dumps(self.guard["limited_by"]),
                )
            )
        return "\n".join(lines)

    def save(self, recording: Recording, stem: Path) -> list[Path]:
        """`<stem>_execute.json` and `<stem>_execute.png`."""
        report, plot = (stem.with_name(f"{stem.name}_execute{suffix}") for suffix in (".json", ".png"))
        values = {
            "episode": recording.episode.where,
            "steps": self.outcome.steps,
            "reason": self.outcome.reason,
            "tracking": {
                name: {"rms": float(self.rms[i]), "worst": float(self.worst[i])} for i, name in enumerate(self.names)
            },
            "same_scene": self.same_scene,
            "recorded_success": self.recorded_success,
            "success": self.success,
            "agrees": self.agrees,
            "final_reward": self.outcome.final_reward,
            "guard": self.guard,
        }
        write_json(report, values)
        figure = joint_traces(
            self.qpos,
            self.recorded,
            self.names,
            recording.rate_hz,
            units=self.units,
            title=f"{recording.name}: executed again",
            labels=("executed qpos", "recorded qpos"),
            dashed=True,
        )
        figure.savefig(plot)
        return [report, plot]


def execute(
    recording: Recording, task: str | None = None, *, realtime: bool = False, release: bool = False
) -> ReplayResult:
    """Play the recording on the rig of its task; a simulated one is set up from the recorded seed.

    Arms behind ROS go to their start pose first, and are parked however it ends (but see `ros.parking`).

    Args:
        release: switch such arms' torque off once they are parked.

    Raises:
        ConfigError: no task is known, or the recording is of another scene than the task's.
        ContractError: the rig's joints, order, units or rate are not the recording's.
        SafetyError: the guard stopped it, or the emergency stop was pressed.
        RosError, StreamError: the rig is not there, or not all of it.
    """
    config = _task(recording, task)
    rig = load(RigConfig, "rigs", config.rig)
    with sigterm_interrupts(), contextlib.closing(envs.connect(config, rig, realtime=realtime)) as env:
        joints = recording.contract.only(STATE, ACTION)
        joints.require(
            env.contract,
            mine=Message("episode {episode}", episode=recording.episode.where),
            theirs=Message("rig '{rig}'", rig=config.rig),
        )
        with guarded(env, Replay(recording.action), release=release) as guard:
            return _run(env, recording, guard)


def _task(recording: Recording, name: str | None) -> TaskConfig:
    name = name or recording.episode.attrs.get("task")
    if not name:
        raise UsageError("{episode} does not hold its task; give --task", episode=recording.episode.where)
    config = load(TaskConfig, "tasks", name)
    scene = recording.describe.get("scene", config.scene)
    if scene != config.scene:
        raise ConfigError(
            "{episode} is of scene '{scene}', task '{task}' is '{its_scene}'",
            episode=recording.episode.where,
            scene=scene,
            task=config.name,
            its_scene=config.scene,
        )
    # The same drawing of randomised things, and the end where the recording ended; no images are needed.
    drawn = {str(k): float(v) for k, v in dict(recording.describe.get("randomise", config.randomise)).items()}
    config = match_action_space(config, recording.contract)
    return replace(config, episode_len=len(recording.action), rate_hz=recording.rate_hz, cameras=(), randomise=drawn)


def _run(env: Environment, recording: Recording, guard: SafetyGuard) -> ReplayResult:
    seed = recording.describe.get("seed")
    if seed is not None:
        env.seed(int(seed))
    seen = _Seen()
    outcome = run_episode(env, guard, [seen])
    reward = recording.episode.reward
    return ReplayResult(
        env.contract.state_names,
        env.contract.units,
        recording.qpos,
        np.stack(seen.qpos),
        outcome,
        env.succeeded(outcome),
        recording.episode.success,
        None if reward is None else float(reward[-1]),
        seed is not None and env.measures_success,
        guard.report(),
    )


class _Seen:
    """Observer that stores the observed joints."""

    def __init__(self) -> None:
        self.qpos: list[Array] = []

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        self.qpos.append(timestep.observation["qpos"])

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        self.qpos.append(timestep.observation["qpos"])

    def on_end(self, outcome: Outcome) -> None:
        """Nothing to close."""
