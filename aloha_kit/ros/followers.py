"""Follower arms of a rig: send commands, monitor tracking, move to the start pose, park, switch torque off."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from aloha_kit.config import RigConfig
from aloha_kit.core import AlohaKitError, Clock, Observation, SafetyError
from aloha_kit.core.lang import tr
from aloha_kit.loop import Latch
from aloha_kit.ros.arm import Arm, move_together, require_arrival
from aloha_kit.ros.drivers import arm_driver
from aloha_kit.ros.node import RosError, running_publishers
from aloha_kit.ros.tracking_monitor import TrackingMonitor

START_S, GRIPPER_S, PARK_S = 1.0, 0.5, 2.0
"""Minimum duration (s) of the moves to the start pose, of the grippers and to the rest pose."""

SILENT_S = 12.0
"""How long parking waits for a silent driver: it publishes nothing while its motors reboot, a second each."""


class FollowerArms:
    """Follower arms by name, in the order of the vectors; under torque they hold their last command by themselves.

    Nothing is sent while the emergency stop is pressed, nor before `prepare` has succeeded.

    Args:
        before_each: called before each command of a move; what it raises ends the move.
    """

    def __init__(
        self,
        arms: Mapping[str, Arm],
        rig: RigConfig,
        clock: Clock,
        *,
        estop: Latch,
        before_each: Callable[[], None] = lambda: None,
    ) -> None:
        self.arms, self._before_each = dict(arms), before_each
        self._rig, self._clock, self._estop = rig, clock, estop
        self.untouched = True  # no request was sent to them yet
        self._unready = "they were not prepared"  # why nothing is sent to them; empty once they are
        self._parked = False
        self._following = {
            arm: TrackingMonitor(arm.name, arm.model, milliamperes=arm_driver(rig.followers[name]).effort_unit == "mA")
            for name, arm in arms.items()
        }

    @property
    def last(self) -> npt.NDArray[np.float64] | None:
        """Last command, in the order of the vectors; None where an arm's next command starts from its reading."""
        sent = [arm.last for arm in self.arms.values() if arm.last is not None]
        return np.concatenate(sent) if len(sent) == len(self.arms) else None

    def forget(self) -> None:
        """Discard the last commands: the next start from the measured poses, since another sender moved the arms."""
        for arm in self.arms.values():
            arm.forget()

    def send(self, command: npt.NDArray[np.float64]) -> None:
        """Send a command to all arms or none: all targets are checked first. Raises as `Arm.command`."""
        self._require_ready()
        for arm, place in self._arm_slices():
            arm.check(command[place])
        with self._estop.sending():
            self._parked = False
            for arm, place in self._arm_slices():
                arm.command(command[place])

    def watch(self, observation: Observation) -> None:
        """Raise SafetyError where an arm no longer follows, or has no torque."""
        now_ns, efforts = self._clock.now_ns(), observation.get("effort")
        for arm, place in self._arm_slices():
            if (sent := arm.last) is not None:
                effort = None if efforts is None else efforts[place]
                if self._following[arm].slack(effort, now_ns):
                    self._require_torque(arm)
                self._following[arm].check(sent, observation["qpos"][place], effort, now_ns)

    def move(self, targets: Mapping[Arm, npt.ArrayLike], seconds: float) -> None:
        """Move arms (leaders too) to targets, together and smoothly. Raises as `Arm.command`."""
        if not targets.keys().isdisjoint(self.arms.values()):
            self._require_ready()
            self._parked = False
        move_together(targets, seconds, self._clock, before_each=self._before_each)

    def prepare(self) -> None:
        """Set modes, limits and torque. Where a driver refuses, nothing is sent to any arm until `prepare` succeeds.

        Raises:
            SafetyError: the emergency stop is pressed.
            RosError: a driver refuses; gives the reason.
        """
        self._estop.require_released()
        self.untouched, self._unready = False, "they were not prepared"
        for arm in self.arms.values():
            try:
                arm.prepare_follower(self._rig.gripper_current_limit)
            except AlohaKitError as error:
                self._unready = f"they could not be prepared ({error})"
                raise
            self._following[arm].reset()
        self._unready = ""

    def to_start(self) -> None:
        """Move to the start pose under torque; grippers open, which releases held objects, and close."""
        self.prepare()
        grippers = {arm: arm.hold_target()[arm.model.dof :] for arm in self.arms.values()}
        targets = {arm: arm.model.vector(arm.model.start, opening) for arm, opening in grippers.items()}
        self.move(targets, START_S)
        require_arrival(targets, self._clock)
        for opening in (1.0, 0.0):
            self.move({arm: arm.model.vector(arm.model.start, opening) for arm in self.arms.values()}, GRIPPER_S)

    def park(self, seconds: float | None = None) -> None:
        """Park: move to the start pose with grippers open, then to the rest pose.

        Args:
            seconds: minimum duration of each of the two moves, `PARK_S` by default.

        Raises:
            SafetyError: an arm does not get there; or nothing may be sent, or one has no torque, and nothing was.
            RosError: a driver has ended, or is silent for longer than the motors of a whole arm take to reboot.
        """
        self._estop.require_released()
        self._require_ready()
        for name, arm in self.arms.items():
            self._await_driver(name, arm)
            self._require_torque(arm)
        for pose in ("start", "rest"):
            targets = {arm: arm.model.vector(getattr(arm.model, pose), 1.0) for arm in self.arms.values()}
            self.move(targets, seconds or PARK_S)
        require_arrival(targets, self._clock)
        self._parked = True

    def release(self, *, even_if_they_fall: bool = False) -> None:
        """Switch the torque off.

        Raises:
            SafetyError: they are not parked, so they would fall.
        """
        if not (self._parked or even_if_they_fall):
            raise SafetyError("the followers are not parked: without torque they would fall. Park them first")
        for arm in self.arms.values():
            arm.set_torque(False)

    def torque_report(self) -> str:
        """Torque state that the motors report, as text."""
        states = {arm.name: _torque(arm) for arm in self.arms.values()}
        if len(set(states.values())) == 1:
            return tr("their torque is {state}", state=next(iter(states.values())))
        return tr("torque: {states}", states=", ".join(f"{name} {state}" for name, state in states.items()))

    def _await_driver(self, name: str, arm: Arm) -> None:
        topic, end = arm_driver(self._rig.followers[name]).state_topic, self._clock.now_ns() + int(SILENT_S * 1e9)
        while True:
            try:
                arm.reading()
                return
            except RosError:
                if self._clock.now_ns() > end or not running_publishers(topic):  # none: its process has ended
                    raise
            self._estop.require_released()
            self._clock.sleep_until(self._clock.now_ns() + 20_000_000)  # raises where simulated time stands still

    def _require_torque(self, arm: Arm) -> None:
        """Raise SafetyError where motors of the arm's joints report torque off; a driver without that report passes."""
        with contextlib.suppress(RosError):
            off = [joint for joint, on in (arm.torque_state() or {}).items() if not on and joint in arm.model.joints]
            if off:
                raise SafetyError(
                    "{arm} does not follow: no torque at {joints}; another program has switched it off, or the motor "
                    "has shut off",
                    arm=arm.name,
                    joints=", ".join(off),
                )

    def _require_ready(self) -> None:
        if self._unready:
            raise SafetyError("nothing is sent to the followers: {unready}", unready=self._unready)

    def _arm_slices(self) -> Iterator[tuple[Arm, slice]]:
        """Each arm and its slice of the vectors."""
        first = 0
        for arm in self.arms.values():
            yield arm, slice(first, first := first + arm.model.size)


def _torque(arm: Arm) -> str:
    try:
        answers = arm.torque_state()
    except AlohaKitError:
        return tr("not known, the driver does not answer")
    if answers is None:
        return tr("not known, the driver does not report it")
    off = [joint for joint, on in answers.items() if not on]
    if off and len(off) < len(answers):
        return tr("off at {joints}", joints=", ".join(off))
    return tr("off") if off else tr("on")
