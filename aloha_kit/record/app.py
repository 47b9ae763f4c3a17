"""Recording: by an operator on a rig, or by a scripted expert in simulation."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core.lang import Message
from aloha_kit.envs import has_operator
from aloha_kit.media.live_view import ViewAddress
from aloha_kit.record.args import RecordArgs, rig_of, task_of
from aloha_kit.record.episode_attempt import RecordingPlan
from aloha_kit.record.human_recorder import record_human
from aloha_kit.record.operator_interface import Cues, Display
from aloha_kit.record.recording_result import RecordingResult, SessionResult
from aloha_kit.record.recording_worker import RecordingJob
from aloha_kit.record.scripted_recorder import record_scripted


def run(args: RecordArgs) -> None:
    """Record and print the result.

    Raises:
        AlohaKitError: see `record`.
        KeyboardInterrupt: an interruption, after everything was saved.
    """
    result = record(args)
    print(result.text())
    if isinstance(result, SessionResult) and result.fault:
        sys.exit(f"error: {result.fault}")
    if result.interrupted:
        raise KeyboardInterrupt(result.interrupted)


def record(args: RecordArgs) -> SessionResult | RecordingResult:
    """Record until the folder holds `num_episodes` good episodes; they count if they are there already.

    Raises:
        ConfigError: an unknown task or rig, flags that do not apply to it, or no program for spoken cues.
        AlohaKitError: see `record_human` and `record_scripted`.
    """
    task, rig = task_of(args), rig_of(args)
    folder = Path(task.dataset_dir.format(task=task.name))
    if has_operator(rig):
        return _record_human(args, task, rig, folder)
    view = ViewAddress.parse(args.view)
    job = RecordingJob(task, rig, folder, args.noise, args.images, args.quality, args.keep_failures, view)
    return record_scripted(
        job,
        args.num_episodes,
        seed=args.seed,
        workers=args.workers or os.cpu_count() or 1,
        max_attempts=args.max_attempts or max(3 * args.num_episodes, 10),
        recover=args.recover,
        advice=_advice(args, task),
    )


def _record_human(args: RecordArgs, task: TaskConfig, rig: RigConfig, folder: Path) -> SessionResult:
    session = args.session
    plan = RecordingPlan(
        task, rig, folder, args.num_episodes, args.seed, args.images, args.quality, session.auto, session.countdown
    )
    return record_human(
        plan,
        Display(plain=session.plain),
        Cues(session.cues),
        ViewAddress.parse(args.view),
        gestures=session.gestures,
        keyboard=session.keyboard,
        timeout_s=session.timeout_s or None,
        recover=args.recover,
    )


def _advice(args: RecordArgs, task: TaskConfig) -> Message:
    """Flags to change where too many demonstrations fail."""
    usual = load(TaskConfig, "tasks", args.task).episode_len
    if task.episode_len < usual:
        return Message(
            "--episode_len {given} is below the task's {usual}: too short for the whole motion?",
            given=task.episode_len,
            usual=usual,
        )
    if args.noise:
        return Message("A smaller --noise, or more --max_attempts may help")
    return Message("More --max_attempts may help")
