"""Human recorder: an operator demonstrates with the leader arms of a rig. The composition of its parts."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from aloha_kit.config.match_checkpoint import rig_joints
from aloha_kit.core.files import make_folder
from aloha_kit.core.lang import tr
from aloha_kit.envs import connect, needs_ros
from aloha_kit.loop import sigterm_interrupts
from aloha_kit.loop.capabilities import require, TeleoperatedRobot
from aloha_kit.media.live_view import live_view, ViewAddress
from aloha_kit.record.episode_attempt import RecordingPlan
from aloha_kit.record.gripper_gesture import GESTURE_HELP, GripperGesture
from aloha_kit.record.keyboard import KEY_HELP, open_keyboard
from aloha_kit.record.operator_interface import Channel, COMMANDS, Cues, Display, OperatorInterface
from aloha_kit.record.recording_result import SessionResult
from aloha_kit.record.recording_session import RecordingSession
from aloha_kit.storage import recovery

NAMESPACE = "/aloha_kit/record"
"""Of the operator's commands by topic and service."""


def record_human(
    plan: RecordingPlan,
    display: Display,
    cues: Cues,
    view: ViewAddress | None,
    *,
    gestures: bool,
    keyboard: bool,
    timeout_s: float | None,
    recover: bool,
) -> SessionResult:
    """Record an operator's demonstrations until the folder holds `plan.wanted` good episodes.

    Args:
        gestures: closing both leader grippers together is a command.
        keyboard: single keys on a terminal are commands.
        timeout_s: seconds after which a fault that is not fixed ends the session; None waits for the operator.
        recover: first recover the journals that an interrupted recording left in the folder.

    Raises:
        ConfigError: an unknown camera, an environment without leader arms, a folder that cannot be written to.
        RosError: no master, a driver that is not there, or another session that records.
        EpisodeError: the folder holds episodes of another task, or of other cameras, sizes or rate.
    """
    task, rig = plan.task, plan.rig
    make_folder(plan.folder)
    gesture = GripperGesture(rig_joints(rig)[0], task.rate_hz) if gestures and rig.leaders else None
    channels: list[Channel] = [gesture] if gesture else []
    operator = OperatorInterface(channels, display, cues)
    session = RecordingSession(plan, operator, gesture=gesture, timeout_s=timeout_s)
    with sigterm_interrupts(), contextlib.ExitStack() as stack:
        env: Any = connect(task, rig, leaders=True, start_sequence=session.start)
        stack.callback(env.close)
        require(env, TeleoperatedRobot, f"recording an operator on rig '{rig.name}'")
        operator.add(stack.enter_context(contextlib.closing(env.operator(COMMANDS, NAMESPACE))))
        session.observers += stack.enter_context(live_view(view, env, task.name))
        keys = open_keyboard(display) if keyboard else None
        if keys:
            operator.add(stack.enter_context(contextlib.closing(keys)))
        _journals(plan.folder, recover, operator)
        commands = tr("commands: rostopic pub or rosservice call, {namespace}/…", namespace=NAMESPACE)
        operator.message(commands if needs_ros(rig) and not keys else tr(KEY_HELP))
        if gesture and not env.listens_only:
            operator.message(tr(GESTURE_HELP))
        return session.run(env)


def _journals(folder: Path, recover: bool, operator: OperatorInterface) -> None:
    """Recover what interrupted recordings left, or show how to."""
    if recover:
        for found in recovery.recover_all(folder):
            operator.message(tr("{name}: {message}", name=found.journal.name, message=found.message))
    if hint := recovery.hint(folder):
        operator.message(tr("{hint}, or start with --recover", hint=hint))
