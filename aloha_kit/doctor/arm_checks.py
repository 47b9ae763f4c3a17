"""Checks of arms: joint readings, motors, and the followers' tracking."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aloha_kit.core.findings import About, Finding, problems
from aloha_kit.core.lang import marked, tr, tr_plural
from aloha_kit.ros.rig_measurements import ArmMeasurement, MotorMeasurement

Rows = npt.NDArray[np.bool_]

OUTSIDE = (0.01, 0.2)
"""rad beyond a joint's limit: encoders and sagging arms stand a little outside, a wrong homing offset far."""
RESIDUAL = (0.15, 0.5)
"""rad between leader and follower while commands flow: warning, error."""
HOT = (60.0, 70.0)
"""Degrees Celsius; Dynamixel motors shut down at 72 to 80."""
POSITION_MODES = (3, 4, 5)
MODES = {0: marked("current"), 1: marked("velocity"), 16: "PWM"}
ERRORS = {
    0: marked("input voltage"),
    2: marked("overheating"),
    3: marked("encoder"),
    4: marked("electrical shock"),
    5: marked("overload"),
}
"""Bits of a Dynamixel's Hardware_Error_Status."""
REGISTERS = ("Hardware_Error_Status", "Torque_Enable", "Operating_Mode", "Present_Temperature")
"""What `check_motors` reads."""


def check_joints(arm: ArmMeasurement) -> list[Finding]:
    """NaN, failed reads, values outside the limits, fields of the wrong length."""
    about = About("joints", arm.stream)
    if arm.error:
        remedy = tr("check the arm's driver, its motors' configuration and the rig's")
        return [about.error(arm.error, tr("readings that can be used"), remedy)]
    if not len(arm.raw):
        return []
    bad = problems(*_failed_reads(about, arm), *_limits(about, arm), *_lengths(about, arm))
    return bad or [about.ok(tr_plural("{n} reading within the limits", "{n} readings within the limits", len(arm.raw)))]


def _failed_reads(about: About, arm: ArmMeasurement) -> list[Finding]:
    findings, total, remedy = [], len(arm.raw), tr("a motor is silent: check cables and supply, restart the driver")
    if count := int(np.count_nonzero(~_finite(arm))):
        findings.append(
            about.error(
                tr("{count} of {total} readings are not finite", count=count, total=total), tr("numbers"), remedy
            )
        )
    if count := int(np.count_nonzero(_unread(arm))):
        found = tr(
            "{count} of {total} readings are -π in every joint: the driver could not read its motors",
            count=count,
            total=total,
        )
        findings.append(about.error(found, tr("angles"), remedy))
    return findings


def _finite(arm: ArmMeasurement) -> Rows:
    return np.asarray(np.isfinite(arm.raw).all(axis=1))


def _unread(arm: ArmMeasurement) -> Rows:
    return np.asarray(np.all(np.abs(arm.raw[:, : arm.model.dof] + np.pi) < 1e-3, axis=1))


def _limits(about: About, arm: ArmMeasurement) -> list[Finding]:
    good = arm.raw[_finite(arm) & ~_unread(arm), : arm.model.dof]
    if not len(good):
        return []
    beyond = np.maximum(np.asarray(arm.model.lower) - good, good - np.asarray(arm.model.upper)).max(axis=0)
    remedy = tr("move it back by hand; if it is not there, its homing offset is wrong")
    return [
        about.graded(
            float(far),
            OUTSIDE,
            tr("{joint} is {far:.2f} rad beyond its limit", joint=joint, far=far),
            tr("within the limits"),
            remedy,
        )
        for joint, far in zip(arm.model.joints, beyond, strict=True)
    ]


def _lengths(about: About, arm: ArmMeasurement) -> list[Finding]:
    findings, (position, *others) = [], arm.lengths
    for name, length in zip(("velocity", "effort"), others, strict=True):
        if length != position:
            found = tr(
                "{length} values of {quantity} for {position} of position",
                length=length,
                quantity=name,
                position=position,
            )
            remedy = tr(
                "nothing, if the driver has none: episodes then lack {quantity}. Else another driver is running",
                quantity=name,
            )
            findings.append(about.warning(found, f"{position}", remedy))
    return findings


def check_motors(motors: MotorMeasurement, *, follower: bool) -> list[Finding]:
    """Error bits, torque, modes and temperature, by motor."""
    about = About("motors", motors.arm)
    if motors.error:
        return [
            about.error(motors.error, tr("registers that can be read"), tr("check that the driver runs and answers"))
        ]
    if not motors.registers:
        return []
    bad = [*_errors(about, motors), *_heat(about, motors)]
    if follower:
        bad += [*_torque(about, motors), *_modes(about, motors)]
    return bad or [about.ok(tr_plural("{n} motor without errors", "{n} motors without errors", len(motors.motors)))]


def _errors(about: About, motors: MotorMeasurement) -> list[Finding]:
    findings = []
    for motor, value in _values(motors, "Hardware_Error_Status"):
        words = tr(" and ").join(tr(word) for bit, word in ERRORS.items() if value >> bit & 1) or tr(
            "error {value}", value=value
        )
        remedy = tr(
            "take the load off, then: rosservice call /{arm}/reboot_motors single {motor} true false",
            arm=motors.arm,
            motor=motor,
        )
        if value:
            findings.append(about.error(f"{motor}: {words}", tr("no error"), remedy))
    return findings


def _torque(about: About, motors: MotorMeasurement) -> list[Finding]:
    states = _values(motors, "Torque_Enable")
    limp = [motor for motor, value in states if not value]
    if not limp:
        return []
    if len(limp) == len(states):
        remedy = tr("support the arm; recording and deployment switch it on when they start")
        return [about.warning(tr("no motor has torque"), tr("torque"), remedy)]
    remedy = tr("support the arm, then: rosservice call /{arm}/reboot_motors group all true true", arm=motors.arm)
    return [about.error(tr("no torque in {motors}", motors=", ".join(limp)), tr("torque in all motors"), remedy)]


def _modes(about: About, motors: MotorMeasurement) -> list[Finding]:
    modes = _values(motors, "Operating_Mode")
    wrong = [f"{motor} ({tr(MODES.get(value, str(value)))})" for motor, value in modes if value not in POSITION_MODES]
    remedy = tr("recording and deployment set it when they start; check the driver's modes file")
    return (
        [about.warning(tr("other modes: {motors}", motors=", ".join(wrong)), tr("position modes"), remedy)]
        if wrong
        else []
    )


def _heat(about: About, motors: MotorMeasurement) -> list[Finding]:
    remedy = tr("let it cool; check that nothing pulls at the resting arm")
    return problems(
        *(
            about.graded(
                value,
                HOT,
                tr("{motor} has {value} °C", motor=motor, value=value),
                tr("under {limit:g} °C", limit=HOT[0]),
                remedy,
            )
            for motor, value in _values(motors, "Present_Temperature")
        )
    )


def _values(motors: MotorMeasurement, register: str) -> list[tuple[str, int]]:
    return list(zip(motors.motors, motors.registers.get(register, ()), strict=False))


def check_following(side: str, follower: ArmMeasurement, leader: ArmMeasurement, *, hardware: bool) -> list[Finding]:
    """Distance of a follower from its leader's command, while something commands it.

    Without teleoperation there is no error: the distance is reported, since it is the way to the first command.
    """
    if not len(follower.raw) or not len(leader.raw):
        return []
    nearest = np.clip(np.searchsorted(leader.stamps_ns, follower.stamps_ns), 0, len(leader.raw) - 1)
    if follower.model.names != leader.model.names:
        return []  # a leader of another kind, whose commands are not one angle a joint
    apart = np.abs(follower.raw - leader.raw[nearest])[:, : follower.model.dof]
    apart = apart[np.isfinite(apart).all(axis=1)]
    if not len(apart):
        return []
    about, typical = About("following", tr("follower {side}", side=side)), np.median(apart, axis=0)
    worst = int(typical.argmax())
    found = tr(
        "{joint} is {distance:.2f} rad from the leader's", joint=follower.model.joints[worst], distance=typical[worst]
    )
    if not (hardware or follower.commands):
        return [about.ok(tr("not teleoperated now; {found}", found=found))]
    remedy = tr("check the follower's torque and errors, and that both arms are of the configured models")
    return [about.graded(float(typical[worst]), RESIDUAL, found, tr("under {limit:g} rad", limit=RESIDUAL[0]), remedy)]
