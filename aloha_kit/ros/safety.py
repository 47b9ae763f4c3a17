"""Safe execution of a policy on a rig: guarded commands, and parked arms at every exit."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from aloha_kit.core import AlohaKitError, Policy, SafetyError, SafetyLimits
from aloha_kit.core.lang import marked, Message, shown, tr
from aloha_kit.loop import SafetyGuard

if TYPE_CHECKING:
    from aloha_kit.ros.ros_env import RosEnv


@contextlib.contextmanager
def guarded(
    env: RosEnv, policy: Policy, *, release: bool = False, report: Callable[[str], None] = print
) -> Iterator[SafetyGuard]:
    """Context of the guard between `policy` and the arms of `env`; the arms are parked at every exit.

    Its limits are the arms' own, its bound on the age of streams is the rig's, its emergency stop is the environment's.
    Once it was pressed, or where the arms could not be prepared, nothing moves and they are not parked.

    Args:
        release: switch the torque off once the arms are parked.
        report: called with a message about the state in which the arms were left.

    Raises:
        SafetyError: nothing failed before, but the arms were not parked, or their torque is still on.
    """
    try:
        yield make_guard(env, policy)
    except BaseException:
        with contextlib.suppress(SafetyError):  # the first error is the one raised
            _leave(env, release, report)
        raise
    _leave(env, release, report)


def make_guard(env: RosEnv, policy: Policy, *, limits: SafetyLimits | None = None) -> SafetyGuard:
    """Make the guard of `policy` on this rig, with the followers' own limits unless others are given."""
    timeout_s = _stale_s(env)
    return SafetyGuard(
        policy,
        limits or env.limits,
        frozen=max(5, math.ceil(timeout_s * env.contract.rate_hz) + 1),
        stale_s=timeout_s,
        estop=env.estop,
        start=lambda: env.last_command,
    )


def _stale_s(env: RosEnv) -> float:
    """Stale bound (s): twice the age at which `RosEnv` raises for its slowest stream, so that `RosEnv` raises first."""
    rig = env.rig
    rates = [arm.rate_hz for arm in rig.followers.values()]
    rates += [rig.cameras[name].rate_hz for name in env.contract.cameras]
    rates += [sensor.rate_hz for sensor in rig.sensors.values()]
    return 2 * max(rig.sync.max_age_s, rig.sync.max_age_periods / min(rates))


def _leave(env: RosEnv, release: bool, report: Callable[[str], None]) -> None:
    """Park and report the result. Raises SafetyError where the arms are not parked, or not released as requested."""
    if env.untouched:
        report(tr("nothing was sent to the arms"))
        return
    try:
        env.park()
    except AlohaKitError as error:
        torque = env.torque_report()
        report(tr("warning: the arms were not parked: {error}; {torque}", error=shown(error), torque=torque))
        raise SafetyError(Message("the arms were not parked: {error}", error=error)) from error
    except KeyboardInterrupt:
        torque = env.torque_report()
        report(
            tr("warning: interrupted on the way to park, nothing more was sent to the arms; {torque}", torque=torque)
        )
        raise
    if release:
        try:
            env.release()
        except AlohaKitError as error:
            text = marked("warning: the arms are parked, but were not released: {error}; {torque}")
            report(tr(text, error=shown(error), torque=env.torque_report()))
            raise SafetyError(Message("the arms were not released: {error}", error=error)) from error
    torque = env.torque_report()
    if release:
        report(tr("the arms are parked; {torque}", torque=torque))
    else:
        report(tr("the arms are parked; {torque} (--release switches it off)", torque=torque))
