"""A policy on a rig: guarded while it acts, and the arms at rest however it ends."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

from aloha_kit.core import AlohaKitError, Policy, SafetyError
from aloha_kit.loop import SafetyGuard, SafetyLimits
from aloha_kit.ros.environment import RosEnv
from aloha_kit.ros.estop import EStop


@contextlib.contextmanager
def guarded(
    env: RosEnv, policy: Policy, *, release: bool = False, say: Callable[[str], None] = print
) -> Iterator[SafetyGuard]:
    """Inside, the guard between `policy` and the arms of `env`; on every way out the arms are parked.

    Its limits are the arms' own, its patience with streams is the rig's, its emergency stop is the topic's.
    While that is pressed nothing moves, so the arms then stay where they are.

    Args:
        release: let the torque go once the arms are parked.
        say: told how the arms were left.
    """
    with contextlib.closing(EStop()) as estop:
        guard = make_guard(env, policy, estop=estop)
        try:
            yield guard
        finally:
            _leave(env, estop, release, say)


def make_guard(
    env: RosEnv, policy: Policy, *, estop: Callable[[], bool], limits: SafetyLimits | None = None
) -> SafetyGuard:
    """The guard of `policy` on this rig, with the followers' own limits unless others are given."""
    patience_s = _patience_s(env)
    return SafetyGuard(
        policy,
        limits or SafetyLimits.for_contract(env.contract, arm=env.arm_model),
        frozen=max(5, math.ceil(patience_s * env.contract.rate_hz) + 1),
        stale_s=patience_s,
        estop=estop,
    )


def require_released(guard: SafetyGuard) -> None:
    """Raise SafetyError while the emergency stop is pressed; ask before a reset, which moves the arms."""
    if guard.stopped:
        raise SafetyError("the emergency stop is pressed: release it first")


def _patience_s(env: RosEnv) -> float:
    """Twice the age at which `RosEnv` gives its slowest stream up: a second opinion, not a stricter one."""
    rig = env.rig
    rates = [arm.rate_hz for arm in rig.followers.values()]
    rates += [rig.cameras[name].rate_hz for name in env.contract.cameras]
    return 2 * max(rig.sync.max_age_s, rig.sync.max_age_periods / min(rates))


def _leave(env: RosEnv, estop: EStop, release: bool, say: Callable[[str], None]) -> None:
    if estop():
        say("the emergency stop is pressed: the arms stay where they are, under torque")
        return
    try:
        env.park()
        if release:
            env.release()
    except AlohaKitError as error:
        say(f"warning: the arms could not be parked; they hold where they are, under torque: {error}")
        return
    say("the arms are parked; " + ("their torque is off" if release else "their torque is on (--release lets it go)"))
