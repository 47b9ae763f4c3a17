"""Limits and start pose of the ALOHA environments, simulated or behind ROS, by the names of the joints."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aloha_kit.core.arm_models import ARM_JOINTS, ArmModel, START_ARM_POSE, VX300S
from aloha_kit.core.contract import Contract
from aloha_kit.core.errors import ConfigError, did_you_mean
from aloha_kit.core.limits import SafetyLimits
from aloha_kit.core.motion import BASE_ACCELERATION, GRIPPER_SPEED
from aloha_kit.core.policy import Action


def aloha_limits(
    contract: Contract,
    *,
    arm: ArmModel | Mapping[str, ArmModel] = VX300S,
    margin: float = 0.02,
    speed: float = 1.0,
    gripper_slack: float = 0.1,
    gripper_speed: float = GRIPPER_SPEED,
    base_velocity: tuple[float, float] = (0.5, 1.0),
    base_acceleration: tuple[float, float] = BASE_ACCELERATION,
    ramp: float = 1 / 3,
) -> SafetyLimits:
    """Limits of arms and a base, by the names of the actions (`left_waist`, …, `base_linear`, `base_angular`).

    Args:
        arm: the model of all arms, or {what its names begin with: the model} of each.
        margin: rad kept free inside the URDF's joint limits.
        speed: fraction of the URDF's joint speed (π rad/s) that a command may move at.
        gripper_slack: opening allowed beyond 0 and 1. People press a leader's gripper past its
            stop to hold firmly, so demonstrations go there and policies learn it.
        gripper_speed: openings per second.
        base_velocity, base_acceleration: linear (m/s, m/s²) and angular (rad/s, rad/s²).
        ramp: fraction of a joint's speed that holds until the policy's command has been met once.

    Raises:
        ConfigError: an action entry that is neither a joint, a gripper nor a base velocity, or
            one whose present value is not in the state.
    """
    joints: dict[str, tuple[float, float, float]] = {}
    models = {f"{name}_": each for name, each in arm.items()} if isinstance(arm, Mapping) else {"": arm}
    for prefix, model in models.items():
        for name, lower, upper in zip(model.joints, model.lower, model.upper, strict=True):
            joints[prefix + name] = (lower + margin, upper - margin, speed * model.velocity)
        for name in model.grippers:
            joints[prefix + name] = (-gripper_slack, 1 + gripper_slack, gripper_speed)
    base = {
        name: (-base_velocity[i], base_velocity[i], base_acceleration[i])
        for i, name in enumerate(("linear", "angular"))
    }
    bounds: list[tuple[float, float, float]] = []
    for name in contract.action_names:
        joint = name if name in joints else next((j for j in joints if name.endswith(f"_{j}")), None)
        moved = next((b for b in base if b in name), None)
        if joint is None and moved is None:
            raise ConfigError(
                "no safety limits are known for action '{name}'. {known}",
                name=name,
                known=did_you_mean(name, {*joints, *base}),
            )
        if joint is not None and name not in contract.state_names:
            raise ConfigError(
                "action '{name}' moves no entry of the state. {known}",
                name=name,
                known=did_you_mean(name, contract.state_names),
            )
        bounds.append(joints[joint] if joint is not None else base[str(moved)])
    return SafetyLimits.of(contract, *np.array(bounds, np.float64).reshape(-1, 3).T, ramp=ramp)


def aloha_start(contract: Contract, *, gripper: float = 1.0) -> Action:
    """(A,) ALOHA's start pose by joint name, grippers open, so that what they hold is released on the table."""
    values = {**dict(zip(ARM_JOINTS, START_ARM_POSE, strict=True)), "gripper": gripper}
    return np.array(
        [next((v for joint, v in values.items() if name.endswith(joint)), 0.0) for name in contract.action_names],
        np.float32,
    )
