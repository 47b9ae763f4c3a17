"""Arm readings: parse them, and accept only plausible ones.

One wrong value among good ones must not become a command.

Drivers publish single wrong values (a byte lost on the bus, a counter that overflows) that are finite and within the
joint's range. A joint has a top speed, so a reading is accepted when neighbouring readings agree with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from aloha_kit.config.match_checkpoint import BASE_NAMES
from aloha_kit.core import ArmModel, Clock, did_you_mean, ReadingError, StreamError
from aloha_kit.core.motion import GRIPPER_SPEED
from aloha_kit.sync.soft_sync import Sample, SoftSync

Vector = npt.NDArray[np.float32]
T = TypeVar("T")

GAP_S = 0.1
"""How long the message after a lost one or a failed reading is awaited: a little over two images at 30 Hz."""

HAND_SPEED = 10.0  # rad/s: an arm without torque moves as fast as an operator's hand
SLACK = (0.1, 0.3)  # rad and openings: noise, and messages that arrive together


def retry_read(read: Callable[[], T], clock: Clock, timeout_s: float) -> T:
    """Retry `read()` while it raises ReadingError, at most for `timeout_s`.

    Raises:
        ReadingError: the last one's.
    """
    end = clock.now_ns() + int(timeout_s * 1e9)
    while True:
        try:
            return read()
        except ReadingError as error:
            if clock.now_ns() > end:
                raise ReadingError("{error} (for {timeout_s:g} s)", error=error, timeout_s=timeout_s) from error
        clock.sleep_until(clock.now_ns() + 5_000_000)


def joint_values(who: str, names: Sequence[str], message: Any, quantity: str) -> npt.NDArray[np.float64]:
    """Values (N,) of a JointState's `quantity` for the joints `names`.

    Raises:
        StreamError: a joint or the quantity is missing.
        ReadingError: a value is not finite.
    """
    given, numbers = list(message.name), getattr(message, quantity)
    if missing := [name for name in names if name not in given]:
        raise StreamError(
            "{who}: no joint '{missing}' in its joint states. {known}",
            who=who,
            missing=missing[0],
            known=did_you_mean(missing[0], given),
        )
    if len(numbers) != len(given):
        raise StreamError(
            "{who}: its joint states name {count} joints, with {values} values of {quantity}",
            who=who,
            count=len(given),
            values=len(numbers),
            quantity=quantity,
        )
    values = np.array([numbers[given.index(name)] for name in names], np.float64)
    require_finite(who, quantity, names, values)
    return values


def base_velocity(message: Any) -> Vector:
    """Velocity (2,) of a base, m/s and rad/s, from a nav_msgs/Odometry. Raises ReadingError where it is not finite."""
    twist = message.twist.twist
    values = np.array([twist.linear.x, twist.angular.z], np.float64)
    require_finite("base", "velocity", BASE_NAMES, values)
    return values.astype(np.float32)


def require_finite(who: str, quantity: str, names: Sequence[str], values: npt.NDArray[np.float64]) -> None:
    """Raise ReadingError, naming the joints, unless `values` are finite."""
    bad = [name for name, value in zip(names, values, strict=True) if not np.isfinite(value)]
    if bad:
        raise ReadingError(
            "{who}: the {quantity} of {bad} is not a finite number", who=who, quantity=quantity, bad=", ".join(bad)
        )


def require_reading(who: str, position: npt.NDArray[np.float64]) -> None:
    """Raise ReadingError where the motors' `position` is the value that drivers report after a failed read."""
    if np.all(np.abs(position + np.pi) < 1e-3):
        raise ReadingError("{who}: its driver could not read the motors (it reports -π for every joint)", who=who)


def disagreement(model: ArmModel, before: npt.ArrayLike, now: npt.ArrayLike, seconds: float) -> str:
    """Joints of (size,) `now` that no motion explains, `seconds` after (size,) `before`; text or empty."""
    first, second = np.asarray(before, np.float64), np.asarray(now, np.float64)
    reach = model.vector(HAND_SPEED, 2 * GRIPPER_SPEED) * abs(seconds) + model.vector(*SLACK)
    beyond = np.abs(second - first) - reach
    joint = int(np.argmax(beyond))
    if beyond[joint] <= 0:
        return ""
    name, unit = model.names[joint], "rad" if joint < model.dof else "openings"
    return (
        f"{name} is read at {second[joint]:.2f} {unit}, {abs(seconds) * 1e3:.0f} ms from a reading of "
        f"{first[joint]:.2f}; no motion explains more than {reach[joint]:.2f} between them"
    )


def require_agreement(
    who: str, model: ArmModel, now: npt.ArrayLike, others: Iterable[tuple[float, npt.ArrayLike]]
) -> None:
    """Raise ReadingError unless (size,) `now` agrees with one of its neighbouring readings.

    Args:
        others: (seconds between, (size,) reading).
    """
    found = "a single reading cannot be checked, there is none next to it"
    for seconds, other in others:
        found = disagreement(model, other, now, seconds)
        if not found:
            return
    raise ReadingError("{who}: {found}", who=who, found=found)


def require_believable(
    who: str, model: ArmModel, parse: Callable[[Any], Vector], sample: Sample, sync: SoftSync, stream: str
) -> None:
    """Raise ReadingError where a stream's `sample` is invalid or agrees with none of its neighbours."""

    def others() -> Iterator[tuple[float, Vector]]:
        for other in sync.around(stream, sample.stamp_ns):
            with contextlib.suppress(ReadingError):
                yield (sample.stamp_ns - other.stamp_ns) / 1e9, parse(other.value)

    require_agreement(who, model, parse(sample.value), others())
