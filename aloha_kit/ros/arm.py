"""Arm protocol over ROS: read, command and prepare an arm, the same for every driver."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ArmModel, Clock, SafetyError
from aloha_kit.core.motion import GRIPPER_SPEED
from aloha_kit.loop import Latch
from aloha_kit.ros.command_publisher import CommandPublisher
from aloha_kit.ros.node import RosError
from aloha_kit.ros.readings import TIMEOUT_S
from aloha_kit.sync.arm_readers import ArmReader
from aloha_kit.sync.arm_readers import ArmState as ArmState  # for own drivers
from aloha_kit.sync.readings import Vector

Role = Literal["follower", "leader"]
Part = Literal["all", "arm", "gripper"]
T = TypeVar("T")

ANSWER_S = 2.0
"""Timeout of a driver's answer to a request for the state of its motors."""

CONNECT_S = 20.0
"""Timeout of a driver that runs to connect to a new topic: ROS repeats a failed attempt after 1, 2, 4 and 8 s."""

ARRIVED, ARRIVAL_S = 0.2, 3.0
"""rad and s: an arm at its rest pose is this close to its target after this time; a falling or blocked one is not."""

MOVE_HZ = 50.0
MOVE_SPEED = 1 / 3  # of a joint's top speed
_ROUNDING = 1e-4  # rad: limits and commands pass through 32-bit floats


@dataclass(frozen=True)
class ArmSetup:
    """Setup of one arm: what a driver connects it with, and what its `Arm` is constructed from.

    Attributes:
        name: in messages; the namespace of an interbotix arm's driver.
        clock: of the commands.
        state_topic: sensor_msgs/JointState.
        command_topics: those for the joints first; empty where it takes no commands by topic.
        estop: while it is pressed, moving the arm or switching its torque off raises SafetyError.
        rate_hz: of the commands; limits the step between two of them.
        timeout_s: for the driver to appear, to answer, and to publish a valid reading.
    """

    name: str
    model: ArmModel
    clock: Clock
    state_topic: str
    command_topics: tuple[str, ...] = ()
    role: Role = "follower"
    estop: Latch = field(default_factory=Latch)
    rate_hz: float = MOVE_HZ
    timeout_s: float = TIMEOUT_S


class Arm(ArmReader, Protocol):
    """One arm: an `ArmReader`, whose targets it takes too.

    While the emergency stop is pressed, methods that move the arm or switch its torque off raise SafetyError.
    """

    @property
    def last(self) -> npt.NDArray[np.float64] | None:
        """(size,) the last command; None where none was sent, or the arm may have moved since."""
        ...

    def reading(self) -> Vector:
        """(size,) the target equivalent to the next joint state.

        Raises:
            RosError: nothing is published.
            StreamError: no valid reading is published within `ArmSetup.timeout_s`.
        """
        ...

    def hold_target(self) -> Vector:
        """(size,) the target that holds the arm in place: its last command, or consecutive readings that agree.

        Raises as `reading`.

        A single reading is never used, see `sync.readings`.
        """
        ...

    def check(self, target: npt.ArrayLike) -> None:
        """Raise SafetyError, naming joint, value and limit, where `command(target)` would."""

    def command(self, target: npt.ArrayLike) -> None:
        """Send a target, limited to the largest step from the previous command (`core.CommandLimiter`).

        Raises:
            SafetyError: the driver would refuse it; nothing was sent.
            StreamError: the driver no longer subscribes.
        """

    def forget(self) -> None:
        """Discard the last command: the next one starts from the measured pose, since another sender moved the arm."""

    def prepare_follower(self, gripper_current_limit: int = 0) -> None:
        """Set a follower's modes, limits and torque without moving it. A limit of 0 leaves the motor's own."""

    def prepare_leader(self) -> None:
        """Set position mode and torque on: the leader holds still until its torque is switched off."""

    def set_torque(self, on: bool, part: Part = "all") -> None:
        """Switch the motors' torque on or off; a raised arm falls when it goes off."""

    def torque_state(self) -> dict[str, bool] | None:
        """Torque state {joint: whether its motor reports torque on}; None where the driver does not report it.

        Raises:
            RosError: no answer within `ANSWER_S`, or not of every motor.
        """
        ...

    def reboot_gripper(self) -> None:
        """Clear the gripper's overload error."""

    def move(self, target: npt.ArrayLike, seconds: float) -> None:
        """Move smoothly to a target (size,) in at least `seconds`; returns once the last command is sent."""

    def close(self) -> None:
        """Leave ROS; torque and the last command stay as they are."""


def move_together(
    targets: Mapping[Arm, npt.ArrayLike],
    seconds: float,
    clock: Clock,
    *,
    before_each: Callable[[], None] = lambda: None,
) -> None:
    """Move arms to their targets at the same time on a half-cosine profile: speed starts and ends at zero.

    A motion that would exceed a third of a joint's top speed takes longer than `seconds`, and so does a stall: each
    command is one step beyond the previous one and sent a whole period later, however far the clock has advanced.

    Args:
        before_each: called before each command; what it raises ends the move where it is.

    Raises:
        SafetyError: a target is outside an arm's limits, and nothing moved; or the emergency stop, at once.
    """
    ways: dict[Arm, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}
    for arm, target in targets.items():
        arm.check(target)
        here, end = arm.hold_target().astype(np.float64), np.asarray(target, np.float64)
        joints = here[: arm.model.dof]  # a view
        joints[:] = np.clip(joints, arm.model.lower, arm.model.upper)  # a resting arm sags past its limits
        ways[arm] = (here, end)
        speed = arm.model.vector(MOVE_SPEED * arm.model.velocity, GRIPPER_SPEED)
        seconds = max(seconds, np.pi / 2 * float((np.abs(end - here) / speed).max()))
    steps = max(1, math.ceil(seconds * MOVE_HZ))
    for step in range(1, steps + 1):
        before_each()
        share = (1 - np.cos(np.pi * step / steps)) / 2
        for arm, (here, end) in ways.items():
            arm.command(here + share * (end - here))
        clock.sleep_until(clock.now_ns() + round(1e9 / MOVE_HZ))


def require_arrival(targets: Mapping[Arm, npt.ArrayLike], clock: Clock) -> None:
    """Wait until the arms' joints, not their grippers, are at their targets.

    Raises:
        SafetyError: one of them does not get there within `ARRIVAL_S`.
    """
    end = clock.now_ns() + int(ARRIVAL_S * 1e9)
    for arm, target in targets.items():
        joints = slice(arm.model.dof)
        while (far := float(np.abs(arm.reading() - np.asarray(target, np.float64))[joints].max())) > ARRIVED:
            if clock.now_ns() > end:
                raise SafetyError(
                    "{name} stopped {far:.2f} rad from its target. Is something in its way?", name=arm.name, far=far
                )
            clock.sleep_until(clock.now_ns() + 20_000_000)


def answered(call: Callable[[], T], who: str, timeout_s: float = ANSWER_S) -> T:
    """Call a driver's service that may hang: the result of `call()`.

    Raises:
        RosError: it takes longer than `timeout_s`.
    """
    results: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put(call())
        except Exception as error:
            results.put(error)

    threading.Thread(target=run, name=f"request to {who}", daemon=True).start()
    try:
        result = results.get(timeout=timeout_s)
    except queue.Empty:
        raise RosError(
            "{who}: its driver does not answer within {timeout_s:g} s", who=who, timeout_s=timeout_s
        ) from None
    if isinstance(result, Exception):
        raise result
    return result


def wait_for_subscribers(publishers: Sequence[CommandPublisher], setup: ArmSetup, timeout_s: float = CONNECT_S) -> None:
    """Wait until every publisher has a subscriber; messages published before that are lost.

    Raises:
        RosError: no subscriber within the timeout.
    """
    clock = setup.clock
    end = clock.now_ns() + int(timeout_s * 1e9)
    while missing := [publisher.resolved_name for publisher in publishers if publisher.get_num_connections() == 0]:
        if clock.now_ns() > end:
            raise RosError(
                "{name}: no subscriber of {missing} after {seconds:g} s; is its driver running?",
                name=setup.name,
                missing=", ".join(missing),
                seconds=timeout_s,
            )
        clock.sleep_until(clock.now_ns() + 10_000_000)


def check_target(who: str, model: ArmModel, target: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Validate a target: (size,) `target`, if a driver would accept it.

    Raises:
        SafetyError: names the joint, its value and its limit.
    """
    goal = np.array(target, np.float64)
    if goal.shape != (model.size,):
        raise SafetyError(
            "{who}: a target is ({size},): {names}; given shape {shape}",
            who=who,
            size=model.size,
            names=", ".join(model.names),
            shape=goal.shape,
        )
    values = model.vector(goal[: model.dof], model.gripper.unnormalise(goal[model.dof :]))
    low_high = model.gripper_limits
    lower, upper = model.vector(model.lower, low_high[0]), model.vector(model.upper, low_high[1])
    for joint, value, low, high in zip(model.names, values, lower, upper, strict=True):
        if not low - _ROUNDING <= value <= high + _ROUNDING:  # nor is NaN
            raise SafetyError(
                "{who} cannot go there: {joint} {value:.4f} is outside [{low:.4f}, {high:.4f}]",
                who=who,
                joint=joint,
                value=value,
                low=low,
                high=high,
            )
    return goal
