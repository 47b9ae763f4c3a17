"""Parking of a rig's arms at every exit of a program that moved them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from aloha_kit.core import AlohaKitError, SafetyError
from aloha_kit.core.lang import tr
from aloha_kit.ros.ros_robot import RosRobot

LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def parked_at_exit(robot: RosRobot, *, release: bool = False) -> Iterator[None]:
    """Context at whose every exit the arms of `robot` are parked; the state in which they were left is logged.

    Once the emergency stop was pressed, or where the arms could not be prepared, nothing moves and they are not parked.

    Args:
        release: switch the torque off once the arms are parked.

    Raises:
        SafetyError: nothing failed before, but the arms were not parked, or their torque is still on.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(SafetyError):  # the first error is the one raised
            _park(robot, release)
        raise
    _park(robot, release)


def _park(robot: RosRobot, release: bool) -> None:
    """Park and log the result. Raises SafetyError where the arms are not parked, or not released as requested."""
    if robot.untouched:
        LOG.info(tr("nothing was sent to the arms"))
        return
    try:
        robot.park()
    except AlohaKitError as error:
        torque = robot.torque_report()
        LOG.warning(tr("the arms were not parked: {error}; {torque}", error=error, torque=torque))
        raise SafetyError("the arms were not parked: {error}", error=error) from error
    except KeyboardInterrupt:
        torque = robot.torque_report()
        LOG.warning(tr("interrupted on the way to park, nothing more was sent to the arms; {torque}", torque=torque))
        raise
    if release:
        try:
            robot.release()
        except AlohaKitError as error:
            torque = robot.torque_report()
            LOG.warning(tr("the arms are parked, but were not released: {error}; {torque}", error=error, torque=torque))
            raise SafetyError("the arms were not released: {error}", error=error) from error
    torque = robot.torque_report()
    if release:
        LOG.info(tr("the arms are parked; {torque}", torque=torque))
    else:
        LOG.info(tr("the arms are parked; {torque} (--release switches it off)", torque=torque))
