"""Human recorder: an operator demonstrates with the leader arms of a rig. The composition of its parts."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from aloha_kit.config.match_checkpoint import rig_joints
from aloha_kit.core.files import make_folder
from aloha_kit.core.lang import tr
from aloha_kit.envs import connect
from aloha_kit.loop import sigterm_interrupts
from aloha_kit.loop.capabilities import require, TeleoperatedRobot
from aloha_kit.media.live_view import live_view, ViewAddress
from aloha_kit.record.args import RecordArgs, rig_of, task_of
from aloha_kit.record.episode_attempt import RecordingPlan
from aloha_kit.record.gripper_gesture import GESTURE_HELP, GripperGesture
from aloha_kit.record.keyboard import KEY_HELP, keyboard
from aloha_kit.record.operator_interface import Channel, COMMANDS, Cues, Display, OperatorInterface
from aloha_kit.record.recording_session import RecordingSession
from aloha_kit.record.result import SessionResult
from aloha_kit.storage import recovery

NAMESPACE = "/aloha_kit/record"
"""Of the operator's commands by topic and service."""


def record_human(args: RecordArgs) -> SessionResult:
    """Record an operator's demonstrations until the folder holds `num_episodes` good episodes.

    Raises:
        ConfigError: an unknown task, rig or camera, an environment without leader arms, a folder that cannot be
            written to, no program for spoken cues.
        RosError: no master, a driver that is not there, or another session that records.
        EpisodeError: the folder holds episodes of another task, or of other cameras, sizes or rate.
    """
    task, rig = task_of(args), rig_of(args)
    folder = make_folder(Path(task.dataset_dir.format(task=task.name)))
    plan = RecordingPlan(
        task, rig, folder, args.num_episodes, args.seed, args.images, args.quality, args.session.auto,
        args.session.countdown,
    )  # fmt: skip
    view = ViewAddress.parse(args.session.view)
    display, cues = Display(plain=args.session.plain), Cues(args.session.cues)
    gesture = GripperGesture(rig_joints(rig)[0], task.rate_hz) if args.session.gestures else None
    channels: list[Channel] = [gesture] if gesture else []
    operator = OperatorInterface(channels, display, cues)
    session = RecordingSession(plan, operator, gesture=gesture, timeout_s=args.session.timeout_s or None)
    with sigterm_interrupts(), contextlib.ExitStack() as stack:
        env: Any = connect(task, rig, leaders=True, start_sequence=session.start)
        stack.callback(env.close)
        require(env, TeleoperatedRobot, f"recording an operator on rig '{rig.name}'")
        operator.add(stack.enter_context(contextlib.closing(env.operator(COMMANDS, NAMESPACE))))
        session.observers += stack.enter_context(live_view(view, env, task.name))
        keys = keyboard(display) if args.session.keyboard else None
        if keys:
            operator.add(stack.enter_context(contextlib.closing(keys)))
        _journals(folder, args.recover, operator)
        commands = tr("commands: rostopic pub or rosservice call, {namespace}/…", namespace=NAMESPACE)
        operator.message(tr(KEY_HELP) if keys else commands)
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
