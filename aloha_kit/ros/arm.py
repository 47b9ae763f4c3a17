"""Arms behind ROS: one protocol for those that are read, moved and prepared, whatever their driver."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ArmModel, Clock, SafetyError
from aloha_kit.core.motion import GRIPPER_SPEED
from aloha_kit.ros.command_publisher import CommandPublisher
from aloha_kit.ros.node import RosError
from aloha_kit.ros.readings import TIMEOUT_S

Vector = npt.NDArray[np.float32]
Role = Literal["follower", "leader"]
Part = Literal["all", "arm", "gripper"]
T = TypeVar("T")

ANSWER_S = 2.0
"""How long a driver is waited for that is only asked how its motors are."""

ARRIVED, ARRIVAL_S = 0.2, 3.0
"""rad and s: an arm that lies on itself is near its target; a falling or blocked one is not."""

MOVE_HZ = 50.0
MOVE_SPEED = 1 / 3  # of a joint's speed
_ROUNDING = 1e-4  # rad: limits and commands pass through 32-bit floats


@dataclass(frozen=True)
class ArmState:
    """One reading of an arm: the entries of its model, joints and then grippers."""

    qpos: Vector  # (size,) rad, gripper normalised by its finger's travel
    qvel: Vector | None  # (size,) rad/s, gripper normalised /s; None where the driver does not give it for every joint
    effort: Vector | None  # (size,) as the driver reports it: mA on Dynamixel; or None


class Arm(Protocol):
    """One arm. A target is (size,): its model's joints in rad and grippers, 0 closed to 1 open by their motor's range.

    `qpos` and targets have different gripper scales, the finger's travel and the motor's angle, because
    ALOHA's data sets do; they disagree by up to 0.09.

    While the emergency stop is pressed, what moves the arm or takes its torque away raises SafetyError.
    """

    name: str
    model: ArmModel

    @property
    def last(self) -> npt.NDArray[np.float64] | None:
        """(size,) the last command; None where none was sent, or the arm may be somewhere else since."""
        ...

    def read(self, message: Any) -> ArmState:
        """The state in a sensor_msgs/JointState.

        Raises:
            ReadingError: a value is not finite, or the driver says it could not read its motors.
            StreamError: the message lacks a joint or its position.
        """
        ...

    def leader_action(self, message: Any) -> Vector:
        """(size,) the target that a leader's reading asks for. Raises as `read` does."""
        ...

    def reading(self) -> Vector:
        """(size,) the target that its next reading stands for.

        Raises:
            RosError: nothing is published.
            StreamError: what is published is no reading, for `TIMEOUT_S`.
        """
        ...

    def hold_target(self) -> Vector:
        """(size,) the target that keeps the arm where it is: its last command, or readings that agree.

        Raises as `reading`.

        No single reading is trusted, see `ros.readings`.
        """
        ...

    def check(self, target: npt.ArrayLike) -> None:
        """Raise SafetyError, naming joint, value and limit, where `command(target)` would."""

    def command(self, target: npt.ArrayLike) -> None:
        """Send a target, or as far towards it as a command may differ from the one before (`core.CommandLimiter`).

        Raises:
            SafetyError: the driver would refuse it; nothing was sent.
            StreamError: no driver listens any more.
        """

    def forget(self) -> None:
        """Start the next command from where the arm is, since another sender has moved it."""

    def prepare_follower(self, gripper_current_limit: int = 0) -> None:
        """Modes, limits and torque for following; moves nothing. A limit of 0 leaves the motor's own."""

    def prepare_leader(self) -> None:
        """Position mode and torque: the arm holds still until its torque is taken away."""

    def set_torque(self, on: bool, part: Part = "all") -> None:
        """Switch the motors; an arm that stands in the air falls when they go off."""

    def torque_state(self) -> dict[str, bool] | None:
        """{joint: whether its motor answers that it has torque}; None where the driver cannot be asked.

        Raises:
            RosError: no answer within `ANSWER_S`, or not of every motor.
        """
        ...

    def reboot_gripper(self) -> None:
        """Clear the gripper's overload error."""

    def move(self, target: npt.ArrayLike, seconds: float) -> None:
        """Go to a target smoothly; returns when the last command of the way was sent."""

    def close(self) -> None:
        """Leave ROS; torque and the last command stay as they are."""


def move_together(
    targets: Mapping[Arm, npt.ArrayLike],
    seconds: float,
    clock: Clock,
    *,
    before_each: Callable[[], None] = lambda: None,
) -> None:
    """Move arms to their targets at the same time, half a cosine in time, so speed starts and ends at zero.

    A way that would need more than a third of a joint's speed takes longer than `seconds`, and so does a stall: each
    command goes one step further than the one before it, a whole period later, whatever the clock has done meanwhile.

    Args:
        before_each: called before each command; what it raises ends the move where it is.

    Raises:
        SafetyError: a target is out of an arm's reach, and nothing moved; or the emergency stop, which ends it at once.
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
                raise SafetyError(f"{arm.name} stopped {far:.2f} rad from its target. Is something in its way?")
            clock.sleep_until(clock.now_ns() + 20_000_000)


def answered(call: Callable[[], T], who: str, timeout_s: float = ANSWER_S) -> T:
    """`call()`, for a service of a driver that may hang.

    Raises:
        RosError: it takes longer than `timeout_s`.
    """
    results: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put(call())
        except Exception as error:
            results.put(error)

    threading.Thread(target=run, name=f"question to {who}", daemon=True).start()
    try:
        result = results.get(timeout=timeout_s)
    except queue.Empty:
        raise RosError(f"{who}: its driver does not answer within {timeout_s:g} s") from None
    if isinstance(result, Exception):
        raise result
    return result


def wait_for_listeners(publishers: Sequence[CommandPublisher], who: str, clock: Clock) -> None:
    """Until somebody listens to each of them: what is said before that is lost.

    Raises:
        RosError: nobody does within `TIMEOUT_S`.
    """
    end = clock.now_ns() + int(TIMEOUT_S * 1e9)
    while deaf := [publisher.resolved_name for publisher in publishers if publisher.get_num_connections() == 0]:
        if clock.now_ns() > end:
            raise RosError(f"{who}: nobody listens to {', '.join(deaf)}; is its driver running?")
        clock.sleep_until(clock.now_ns() + 10_000_000)


def single(values: npt.NDArray[np.float64] | None) -> Vector | None:
    """In single precision, as files keep it."""
    return None if values is None else values.astype(np.float32)


def if_given(names: Sequence[str], given: Sequence[str], numbers: Sequence[float]) -> npt.NDArray[np.float64] | None:
    """(N,) the values of the joints `names`, if a driver gives them: it may leave velocity and effort out (an empty
    list), give them for some joints only, or put NaN in their place. None then."""
    if len(numbers) != len(given) or any(name not in given for name in names):
        return None
    values = np.array([numbers[given.index(name)] for name in names], np.float64)
    return values if np.isfinite(values).all() else None


def check_target(who: str, model: ArmModel, target: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(size,) `target`, if a driver would take it.

    Raises:
        SafetyError: names the joint, its value and its limit.
    """
    goal = np.array(target, np.float64)
    if goal.shape != (model.size,):
        raise SafetyError(f"{who}: a target is ({model.size},): {', '.join(model.names)}; given shape {goal.shape}")
    values = model.vector(goal[: model.dof], model.gripper.unnormalise(goal[model.dof :]))
    low_high = model.gripper_limits
    lower, upper = model.vector(model.lower, low_high[0]), model.vector(model.upper, low_high[1])
    for joint, value, low, high in zip(model.names, values, lower, upper, strict=True):
        if not low - _ROUNDING <= value <= high + _ROUNDING:  # nor is NaN
            raise SafetyError(f"{who} cannot go there: {joint} {value:.4f} is outside [{low:.4f}, {high:.4f}]")
    return goal
