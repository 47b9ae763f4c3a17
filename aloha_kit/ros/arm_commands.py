"""Command sequence of one arm: each command starts from the previous one, the first from the measured pose."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import rospy
from sensor_msgs.msg import JointState

from aloha_kit.core import command_step, CommandLimiter, ReadingError
from aloha_kit.ros.arm import ArmSetup
from aloha_kit.ros.node import RosError
from aloha_kit.sync.readings import require_agreement, Vector

Array = npt.NDArray[np.float64]

AGREEING = 4
"""Readings in a row that have to agree before the first command starts from one."""
OUTSIDE = 0.2  # rad: a resting arm sags past its limits by less

FOLLOWED = 0.2  # rad: an arm further than this from its last command, for so long, does not follow it
SETTLE_S = 1.0
FASTEST_HZ = 100.0  # moves send at 50 Hz, so a task with a very short period must not make their steps too large


class ArmCommands:
    """Last command of one arm, and the limit on the step to the next one.

    The largest step is the joints' top speed divided by the rate of the commands.

    Args:
        parse: gives the (size,) target equivalent to a joint state; raises ReadingError where it is invalid.
        next_reading: waits for the next joint state's, and raises as `Arm.reading`.
    """

    def __init__(self, setup: ArmSetup, parse: Callable[[Any], Vector], next_reading: Callable[[], Vector]) -> None:
        self._setup, self._parse, self._next_reading = setup, parse, next_reading
        rate_hz = min(setup.rate_hz, FASTEST_HZ)
        self._limiter = CommandLimiter(command_step(setup.model, rate_hz), rate_hz)

    @property
    def last(self) -> Array | None:
        """(size,) the last command; None before the first and after `forget`."""
        return self._limiter.last

    def start(self) -> Array:
        """(size,) start of the next command: the last command while the arm follows it, else the measured pose.

        Raises:
            RosError: nothing is published.
            ReadingError: no plausible readings.
        """
        if self.last is not None and not self._follows():
            self.forget()
        if self.last is None:
            pose, model = agreed_reading(self._setup, self._parse).astype(np.float64), self._setup.model
            joints = pose[: model.dof]  # a view
            joints[:] = np.clip(joints, model.lower, model.upper)  # a resting arm sags past its limits
            self._limiter.begin(pose)
        assert self.last is not None
        return self.last.copy()

    def limit(self, goal: npt.ArrayLike) -> Array:
        """(size,) `goal` limited to the largest step of a command. Raises as `start`, before the first command."""
        if self.last is None:
            self.start()
        return self._limiter.limit(goal, self._setup.clock.now_ns())

    def sent(self, command: Array) -> None:
        """Record (size,) `command` as sent."""
        self._limiter.sent(command, self._setup.clock.now_ns())

    def forget(self) -> None:
        """Discard the last command: the arm may have left it, since its torque was off or its driver ended."""
        self._limiter.forget()

    def _follows(self) -> bool:
        """Whether the joints are near the last command; the gripper need not be, it may hold an object."""
        assert self.last is not None
        clock, joints = self._setup.clock, slice(self._setup.model.dof)
        end = clock.now_ns() + int(SETTLE_S * 1e9)
        while np.abs(self._next_reading() - self.last)[joints].max() > FOLLOWED:
            if clock.now_ns() > end:
                return False
        return True


def agreed_reading(setup: ArmSetup, parse: Callable[[Any], Vector]) -> Vector:
    """Agreed reading (size,): the newest of `AGREEING` readings in a row that agree, each within the joint limits.

    Args:
        parse: gives a message's (size,) reading; raises ReadingError where it is invalid.

    Raises:
        RosError: nothing is published within the timeout.
        ReadingError: no such readings in that time; names the joint, the value read and the value expected.
    """
    clock, topic = setup.clock, setup.state_topic
    arrived: deque[tuple[int, Any]] = deque(maxlen=1000)
    end = clock.now_ns() + int(setup.timeout_s * 1e9)
    agreeing: list[tuple[int, Vector]] = []
    problem, received = "", False
    states = rospy.Subscriber(
        topic, JointState, lambda message: arrived.append((clock.now_ns(), message)), queue_size=100
    )
    try:
        while clock.now_ns() <= end:
            if not arrived:
                clock.sleep_until(clock.now_ns() + 2_000_000)
                continue
            at_ns, message = arrived.popleft()
            received = True
            try:
                reading = parse(message)
                _require_range(setup, reading)
                if agreeing:
                    then_ns, before = agreeing[-1]
                    require_agreement(setup.name, setup.model, reading, [((at_ns - then_ns) / 1e9, before)])
            except ReadingError as error:
                problem = str(error)
                agreeing.clear()
                continue
            agreeing.append((at_ns, reading))
            if len(agreeing) >= AGREEING:
                return reading
    finally:
        states.unregister()
    if not received:
        raise RosError(
            "{who}: nothing on {topic} for {timeout_s:g} s; is its driver running?",
            who=setup.name,
            topic=topic,
            timeout_s=setup.timeout_s,
        )
    raise ReadingError(
        "{problem} (for {timeout_s:g} s)",
        problem=problem or f"{setup.name}: fewer than {AGREEING} readings",
        timeout_s=setup.timeout_s,
    )


def _require_range(setup: ArmSetup, reading: Vector) -> None:
    """Raise ReadingError where a joint is read further outside its limits than an arm can be."""
    model = setup.model
    for joint, value, low, high in zip(model.joints, reading[: model.dof], model.lower, model.upper, strict=True):
        if not low - OUTSIDE <= value <= high + OUTSIDE:
            raise ReadingError(
                "{name}: {joint} is read at {value:.2f} rad, where it cannot be; expected [{low:.2f}, {high:.2f}]",
                name=setup.name,
                joint=joint,
                value=value,
                low=low,
                high=high,
            )
