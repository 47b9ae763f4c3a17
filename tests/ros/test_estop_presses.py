"""Presses of the emergency stop at random times: an independent node sees no command after any of them.

As many as ALOHA_KIT_ESTOP_PRESSES; a few by default, since each takes a second.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aloha_kit import envs
from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import SafetyError, START_ARM_POSE
from aloha_kit.loop import Replay, run_episode
from aloha_kit.record.episode_attempt import RecordingPlan
from aloha_kit.record.operator_interface import Cues, Display, OperatorInterface
from aloha_kit.record.recording_session import RecordingSession
from aloha_kit.ros.ros_env import RosEnv
from aloha_kit.ros.start_sequence import StartSequence
from tests.ros.command_recorder import BASE, CommandRecorder
from tests.ros.master import Ros
from tests.ros.small_rig import simulated, write_task
from tests.waiting import until

PRESSES = int(os.environ.get("ALOHA_KIT_ESTOP_PRESSES", "24"))
HELD_S = (0.001, 0.005, 0.04, 0.15)
TRANSPORT_S = 0.025
"""What a message may be on its way between two busy processes; commands are due every 20 ms."""
LOADED_S = 0.1
"""The same and the time until the program has received the press, on a machine that is busy with other tests."""
QUIET_S = 0.2

START = np.tile([*START_ARM_POSE, 0.0], 2)
PATHS = ("start", "episode", "park", "replay", "teleop", "record")


class Stage:
    """A rig, its recorder, and the presses that were made."""

    def __init__(self, env: RosEnv, recorder: CommandRecorder) -> None:
        self.env, self.recorder = env, recorder
        self.latched = 0.0
        self.reactions: list[float] = []  # s from the button to the latch
        self.before = 0  # commands that arrived before a press
        env.estop.when_pressed(self._note)

    def _note(self) -> None:
        self.latched = time.monotonic()

    def press(self, delay_s: float, held_s: float, *, moving: bool = False) -> None:
        self.latched = 0.0
        self.recorder.press(delay_s, held_s, moving=moving)

    def check(self, path: str, held_s: float) -> None:
        """Nothing came after the press."""
        until(lambda: self.latched, f"{path}: the press of {1000 * held_s:g} ms is noticed")
        time.sleep(QUIET_S)
        seen = self.recorder.report()
        end = min(self.latched + TRANSPORT_S, seen["pressed"] + LOADED_S)
        late = [(when - seen["pressed"], topic, zero) for when, topic, zero in seen["arrivals"] if when > end]
        assert late == [], f"{path}, held for {1000 * held_s:g} ms: commands after the press"
        base = [zero for _, topic, zero in seen["arrivals"] if topic == BASE]
        assert not any(not zero for zero in base) or base[-2:] == [False, True], (
            "a base that was driven is stopped, once"
        )
        assert self.env.estop(), "letting go does not release it"
        self.before += sum(when < seen["pressed"] for when, _, _ in seen["arrivals"])
        self.reactions.append(self.latched - seen["pressed"])

    def reset(self) -> None:
        until(lambda: not self.env.estop.refusal(), "the button is let go")
        self.env.estop.reset()


@pytest.fixture(scope="module")
def task(session_ros: Ros, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = write_task(tmp_path_factory.mktemp("estop"), "mobile_aloha", cameras=(), episode_len=100_000)
    with simulated(session_ros, file, cameras=False):
        yield file


@pytest.fixture(scope="module")
def recorder(session_ros: Ros) -> Iterator[CommandRecorder]:
    recorder = CommandRecorder(session_ros.environment)
    yield recorder
    recorder.close()


def connect(task: Path, **options: Any) -> RosEnv:
    config = load(TaskConfig, "tasks", str(task))
    env = envs.connect(config, load(RigConfig, "rigs", config.rig), **options)
    assert isinstance(env, RosEnv)
    return env


class Swing:
    """Arms to and fro; a base in circles."""

    def __init__(self, *base: float) -> None:
        self.step, self.base = 0, base or (0.0, 0.0)

    def reset(self) -> None:
        self.step = 0

    def act(self, observation: Any) -> Any:
        self.step += 1
        action = START.copy()
        action[[0, 7]] = 0.2 * np.sin(self.step / 20)
        return np.array([*action, *self.base], np.float32)


def by_policy(env: RosEnv, policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    with pytest.raises(SafetyError, match="the emergency stop was pressed"), env.guarded(policy) as guard:
        run_episode(env, guard)
    assert "the arms were not parked: the emergency stop was pressed (by /command_recorder)" in caplog.messages[-1]
    assert caplog.messages[-1].endswith("their torque is on")


def by_swinging(env: RosEnv, caplog: pytest.LogCaptureFixture) -> None:
    by_policy(env, Swing(), caplog)


def by_driving(env: RosEnv, caplog: pytest.LogCaptureFixture) -> None:
    by_policy(env, Swing(0.2, 0.3), caplog)


def park(env: RosEnv, caplog: pytest.LogCaptureFixture) -> None:
    def for_ever() -> None:
        env.prepare()
        while True:
            env.park()

    with pytest.raises(SafetyError, match="the emergency stop was pressed"):
        for_ever()


def by_replay(env: RosEnv, caplog: pytest.LogCaptureFixture) -> None:
    swing = Swing()
    by_policy(env, Replay(np.array([swing.act(None) for _ in range(1000)], np.float32)), caplog)


def teleop(env: RosEnv, caplog: pytest.LogCaptureFixture) -> None:
    assert env.leaders is not None
    with pytest.raises(SafetyError, match="the emergency stop was pressed"):
        run_episode(env, env.guard(env.leaders))
    env.lock_leaders()
    assert env.torque_report() == "their torque is on"


RUN: dict[
    str, tuple[Callable[[RosEnv, pytest.LogCaptureFixture], None], float, float]
] = {  # a path, and when it is pressed, from and to (s)
    "start": (by_swinging, 0.0, 0.7),
    "episode": (by_driving, 1.0, 2.0),
    "park": (park, 0.0, 1.0),
    "replay": (by_replay, 0.8, 1.6),
    "teleop": (teleop, 0.0, 2.5),
}


def drawn(path: str) -> Sequence[tuple[float, float]]:
    """(share of the time, seconds held) of this path's presses."""
    rng = np.random.default_rng(9 + PATHS.index(path))
    count = len(range(PATHS.index(path), PRESSES, len(PATHS)))
    return [(float(rng.random()), held) for held in itertools.islice(itertools.cycle(HELD_S), count)]


def conclude(path: str, stage: Stage) -> None:
    assert len(stage.reactions) == len(drawn(path))
    assert stage.before > 0, "it was in motion when it was pressed"
    print(f"{path}: {len(stage.reactions)} presses, latched after {1000 * max(stage.reactions):.1f} ms at most")


@pytest.mark.parametrize("path", RUN)
def test_nothing_is_sent_after_a_press(
    task: Path, recorder: CommandRecorder, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    run, first, last = RUN[path]
    leaders: dict[str, Any] = {
        "leaders": True,
        "start_sequence": StartSequence(poll=lambda: "start", countdown_s=0, move_s=0.2),
    }
    with contextlib.closing(connect(task, **(leaders if path == "teleop" else {}))) as env:
        stage = Stage(env, recorder)
        for number, (share, held) in enumerate(drawn(path)):
            # the first one while it begins, on a busy machine before anything moves
            stage.press(first + share * (last - first), held, moving=number > 0)
            run(env, caplog)
            stage.check(path, held)
            stage.reset()
        conclude(path, stage)


class Presser:
    """An operator who presses the button while a session records, then resets it and resumes."""

    def __init__(self, presses: Sequence[tuple[float, float]]) -> None:
        self.stage: Stage | None = None
        self._presses, self._words = list(presses), list[str]()
        self._held: float | None = None

    def status(self, state: str, message: str) -> None:
        if state == "starting" and self._held is None and self._presses:
            share, self._held = self._presses.pop(0)
            assert self.stage is not None
            self.stage.press(3.0 * share, self._held)
        if state == "paused":
            self._words = ["reset", "resume"]

    def poll(self) -> list[str]:
        if not self._words:
            return []
        if self._words[0] == "reset" and self._held is not None:
            assert self.stage is not None
            self.stage.check("record", self._held)
            until(lambda: self.stage and not self.stage.env.estop.refusal(), "the button is let go")
            self._held = None
            if not self._presses:
                self._words = ["quit"]
        return [self._words.pop(0)]

    def close(self) -> None: ...


def test_nothing_is_sent_after_a_press_while_a_person_records(
    task: Path, recorder: CommandRecorder, tmp_path: Path
) -> None:
    config = load(TaskConfig, "tasks", str(task))
    presser, output = Presser(drawn("record")), io.StringIO()
    plan = RecordingPlan(config, load(RigConfig, "rigs", config.rig), tmp_path, 1000, 0, "jpeg", 90, True, 0.0)
    session = RecordingSession(plan, OperatorInterface([presser], Display(output), Cues()))
    with contextlib.closing(connect(task, leaders=True, start_sequence=session.start)) as env:
        presser.stage = Stage(env, recorder)
        result = session.run(env)
    assert "the emergency stop was pressed (by /command_recorder)" in result.fault
    assert "ended: the arms were not parked: the emergency stop was pressed (by /command_recorder)" in output.getvalue()
    conclude("record", presser.stage)
