"""Recording on a rig behind ROS, composed: configuration, operator, environment, session."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aloha_kit.config.match_checkpoint import rig_joints
from aloha_kit.core import Policy
from aloha_kit.core.files import make_folder
from aloha_kit.envs import connect
from aloha_kit.loop import SafetyGuard, sigterm_interrupts
from aloha_kit.record.args import RecordArgs, rig_of, task_of
from aloha_kit.record.ceremony import Ceremony
from aloha_kit.record.conversation import Conversation
from aloha_kit.record.gesture import HELP as GESTURE_HELP
from aloha_kit.record.gesture import Squeezes
from aloha_kit.record.operator import Channel, COMMANDS, KEY_HELP, keyboard
from aloha_kit.record.plan import Plan, SessionResult
from aloha_kit.record.screen import Cues, Screen
from aloha_kit.record.session import Session
from aloha_kit.storage import recovery

if TYPE_CHECKING:
    from aloha_kit.ros.ros_env import RosEnv

_UNBOUNDED = 1e9


def record_on_rig(args: RecordArgs) -> SessionResult:
    """Record a person until the folder holds `num_episodes` good episodes.

    Raises:
        ConfigError: an unknown task, rig or camera, a folder that cannot be written to, nothing to speak cues with.
        RosError: no master, or a driver that is not there.
        EpisodeError: what the folder holds does not go with what would be recorded.
    """
    task, rig = task_of(args), rig_of(args)
    folder = make_folder(Path(task.dataset_dir.format(task=task.name)))
    cues = Cues(args.session.cues)  # what cannot be is told before a node starts
    from aloha_kit.ros import node
    from aloha_kit.ros.drivers import rig_drivers
    from aloha_kit.ros.operator_topics import OperatorTopics
    from aloha_kit.ros.ros_env import RosEnv

    rig_drivers(rig)  # an unknown one is told before a node starts
    screen = Screen(plain=args.session.plain)
    with sigterm_interrupts(), contextlib.ExitStack() as stack:
        node.start("aloha_record", anonymous=True)
        squeezes = Squeezes(rig_joints(rig)[0], task.rate_hz) if args.session.gestures else None
        keys = keyboard() if args.session.keyboard else None
        by_topic = stack.enter_context(contextlib.closing(OperatorTopics(COMMANDS)))
        channels: list[Channel] = [by_topic]
        channels += [stack.enter_context(contextlib.closing(keys))] if keys else []
        talk = Conversation([*channels, *([squeezes] if squeezes else [])], screen, cues)
        _old_journals(folder, args.recover, talk)
        session = Session(
            Plan(task, rig, folder, args.num_episodes, args.seed, args.images, args.quality, args.session.auto),
            talk,
            guard=_guard,
            squeezes=squeezes,
            require_rig=_require_ros,
            timeout_s=args.session.patience or None,
        )
        ceremony = Ceremony(session, countdown_s=args.session.countdown)
        env = stack.enter_context(contextlib.closing(connect(task, rig, leaders=True, start_sequence=ceremony)))
        assert isinstance(env, RosEnv)
        by_topic.refuse("reset", env.estop.refusal)
        talk.say(f"{KEY_HELP if keys else 'commands: rostopic pub or rosservice call, /aloha_kit/record/…'}")
        if squeezes and not env.listens_only:
            talk.say(GESTURE_HELP)
        return session.run(env)


def _require_ros() -> None:
    from aloha_kit.ros import node

    node.require_running()
    node.require_master()


def _old_journals(folder: Path, recover: bool, talk: Conversation) -> None:
    if recover:
        for found in recovery.recover_all(folder):
            talk.say(f"{found.journal.name}: {found.message}")
    if hint := recovery.hint(folder):
        talk.say(f"{hint}, or start with --recover")


def _guard(env: RosEnv, leaders: Policy) -> SafetyGuard:
    """Limits are the followers' own. What this process does not send it does not limit either: a base is pushed
    by the person, and some leaders drive their followers themselves; then what is recorded is what they say."""
    from aloha_kit.ros.safety import make_guard

    limits = env.limits
    free = np.array([index is None or env.listens_only for index in limits.state_index])
    limits = dataclasses.replace(
        limits,
        lower=np.where(free, -_UNBOUNDED, limits.lower),
        upper=np.where(free, _UNBOUNDED, limits.upper),
        step=np.where(free, _UNBOUNDED, limits.step),
        ramp=np.where(free, _UNBOUNDED, limits.ramp),
    )
    return make_guard(env, leaders, limits=limits)
