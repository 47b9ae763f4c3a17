"""Simulated arms: followers in the scene, leaders in the scripted operator's hands.

`Follower` and `Leader` are Interbotix arms behind their motors, (size,) in rad. `JointFollower` and
`JointLeader` are Cobot Magic's, (size,) with the gripper as metres of one finger. A hand's (size,) is what the
operator commands to the follower: joints in rad, and its gripper's opening, 0 closed to 1 open.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ArmModel, START_ARM_POSE, VX300S
from aloha_kit.ros.sim_rig.control_table import GRIPPER, JOINTS
from aloha_kit.ros.sim_rig.motors import MILLIAMPERE_PER_NEWTON_METRE, Motors
from aloha_kit.sim.live import LiveScene
from aloha_kit.sim.workcell import arm_rows, FINGER_METRES_PER_RADIAN

Vector = npt.NDArray[np.float64]

DRIVER_SLEEP = {"vx300s": (0.0, -1.85, 1.55, 0.0, 0.8, 0.0), "wx250s": (0.0, -1.80, 1.55, 0.0, 0.8, 0.0)}
"""{model: (dof,) rad}: what its driver calls the sleep position."""

HAND_SPEED = VX300S.vector(VX300S.velocity, 6.0)
"""(size,) rad/s: the operator moves a leader's joints no faster than its follower can go."""


def folded(model: ArmModel) -> Vector:
    """(size,) rad: an Interbotix arm asleep, its gripper half open."""
    return np.array([*DRIVER_SLEEP[model.name], np.mean([model.gripper.closed, model.gripper.open])])


class Follower:
    """An Interbotix follower: the scene's arm number `index` (0 left, 1 right), pulled by its motors."""

    def __init__(self, scene: LiveScene, index: int, motors: Motors) -> None:
        assert motors.model.crank is not None
        self.motors, self._crank = motors, motors.model.crank
        self._scene, self._rows = scene, arm_rows(index)

    @property
    def position(self) -> Vector:
        """(size,) rad."""
        position = self._scene.joints[self._rows]
        position[GRIPPER] = self._crank.angle(position[GRIPPER])
        return position

    @property
    def velocity(self) -> Vector:
        """(size,) rad/s."""
        velocity = self._scene.velocities[self._rows]
        # a stretched crank hardly moves its finger
        velocity[GRIPPER] /= max(self._crank.travel_rate(self.position[GRIPPER]), 1e-3)
        return velocity

    @property
    def effort(self) -> Vector:
        """(size,) mA."""
        torque = self._scene.forces[self._rows]
        torque[GRIPPER] *= FINGER_METRES_PER_RADIAN
        return np.asarray(torque * MILLIAMPERE_PER_NEWTON_METRE)

    @property
    def targets(self) -> Vector:
        """(size,) rad and metres: where the servos of the scene pull to."""
        targets = self.motors.setpoint.copy()
        targets[GRIPPER] = self._crank.travel(np.clip(targets[GRIPPER], -np.pi / 2, np.pi / 2))
        return targets

    @property
    def stiffness(self) -> Vector:
        """(size,) share of the servos' stiffness."""
        return self.motors.stiffness

    def fail(self, joints: Sequence[str]) -> None:
        """Shut motors off until they are rebooted."""
        self.motors.fail(joints)

    def advance(self, seconds: float) -> None:
        """Move the motors' setpoints."""
        self.motors.advance(seconds, self.position, self.velocity, self.effort)


class Leader:
    """An Interbotix leader, not in the scene: its motors or the operator's hand move it."""

    def __init__(self, motors: Motors) -> None:
        assert motors.model.crank is not None
        self.motors, self._crank, self._gripper = motors, motors.model.crank, motors.model.gripper
        self.position, self.velocity = motors.setpoint.copy(), np.zeros(VX300S.size)  # rad, rad/s
        self.effort = np.zeros(VX300S.size)  # mA
        fingers = [motors.model.crank.angle(travel) for travel in motors.model.finger_limits]
        stops = sorted([*fingers, self._gripper.closed, self._gripper.open])
        self._lower = np.array([*motors.model.lower, stops[0]])
        self._upper = np.array([*motors.model.upper, stops[-1]])

    @property
    def hand(self) -> Vector:
        """(size,) the follower's command now."""
        angle = VX300S.gripper.unnormalise(self._gripper.normalise(self.position[GRIPPER]))
        return np.append(self.position[:GRIPPER], _opening(float(angle)))

    def fail(self, joints: Sequence[str]) -> None:
        """Shut motors off until they are rebooted."""
        self.motors.fail(joints)

    def advance(self, seconds: float, hand: Vector | None) -> None:
        """Joints under torque follow their motors, the others the operator's hand, or stay."""
        self.motors.advance(seconds, self.position, self.velocity, self.effort)
        held = self.position if hand is None else np.append(hand[:GRIPPER], self._angle(hand[GRIPPER]))
        goal = np.where(self.motors.torque, self.motors.setpoint, held)
        fastest = np.where(self.motors.torque, self.motors.model.velocity, HAND_SPEED) * seconds
        before = self.position
        self.position = np.clip(before + np.clip(goal - before, -fastest, fastest), self._lower, self._upper)
        self.velocity, self.effort = (self.position - before) / seconds, self.motors.push

    def _angle(self, opening: float) -> float:
        """rad of this gripper that, through teleoperation, opens the follower's fingers so far."""
        assert VX300S.crank is not None
        follower = VX300S.crank.angle(float(VX300S.finger.unnormalise(opening)))
        return float(self._gripper.unnormalise(VX300S.gripper.normalise(follower)))


class JointFollower:
    """Cobot Magic's follower: it follows the leader's topic, as fast as its motors turn."""

    def __init__(self, scene: LiveScene, index: int) -> None:
        self._scene, self._rows = scene, arm_rows(index)
        self.targets, self._on, self._lost = self.position, True, np.zeros(VX300S.size, bool)
        self._goal = self.targets.copy()

    @property
    def position(self) -> Vector:
        """(size,) rad and m."""
        return self._scene.joints[self._rows]

    @property
    def stiffness(self) -> Vector:
        """(size,) share of the servos' stiffness."""
        return np.where(self._lost, 0.0, float(self._on))

    @property
    def velocity(self) -> Vector:
        """(size,) rad/s; the gripper's is not measured."""
        return np.append(self._scene.velocities[self._rows][:GRIPPER], 0.0)

    @property
    def effort(self) -> Vector:
        """(size,) N m of the gripper's motor; the arm's are not measured."""
        return np.append(np.zeros(VX300S.dof), self._scene.forces[self._rows][GRIPPER] * FINGER_METRES_PER_RADIAN)

    def command(self, position: Vector) -> None:
        """Follow (size,) rad and m; the gripper's is limited to 0 to 0.08."""
        if position.shape == (VX300S.size,) and np.all(np.isfinite(position)):
            self._goal = np.clip(position, [*VX300S.lower, 0.0], [*VX300S.upper, 0.08])

    def enable(self, on: bool) -> None:
        """Torque of every motor; where it comes on, the arm holds where it is."""
        if on and not self._on:
            self._goal, self.targets = self.position, self.position
        self._on = on

    def fail(self, joints: Sequence[str]) -> None:
        """Shut motors off, the others stay on; the driver clears errors itself."""
        self._lost = np.array([joint in joints for joint in JOINTS])

    def advance(self, seconds: float) -> None:
        """Move the servos' targets."""
        reach = VX300S.vector(VX300S.velocity, 0.2) * seconds
        self.targets = self.targets + np.clip(self._goal - self.targets, -reach, reach)


class JointLeader:
    """Cobot Magic's leader, held by the operator."""

    def __init__(self) -> None:
        self.position = np.append(START_ARM_POSE.astype(float), VX300S.finger.unnormalise(0.1))
        self.velocity, self.effort = np.zeros(VX300S.size), np.zeros(VX300S.size)

    @property
    def hand(self) -> Vector:
        """(size,) the follower's command now."""
        return np.append(self.position[:GRIPPER], VX300S.finger.normalise(self.position[GRIPPER]))

    def hold_at(self, position: Vector) -> None:
        """Be at (size,) rad and m, where another publisher on its topic puts it; else stay."""
        if position.shape == self.position.shape and np.all(np.isfinite(position)):
            self.position = position.copy()

    def fail(self, joints: Sequence[str]) -> None:
        """Do nothing: it has no motors."""

    def advance(self, seconds: float, hand: Vector | None) -> None:
        """Follow the operator's hand, or stay."""
        if hand is None:
            self.velocity = np.zeros(VX300S.size)
            return
        goal = np.append(hand[:GRIPPER], VX300S.finger.unnormalise(hand[GRIPPER]))
        before = self.position
        self.position = before + np.clip(goal - before, -HAND_SPEED * seconds, HAND_SPEED * seconds)
        self.velocity = np.append((self.position - before)[:GRIPPER] / seconds, 0.0)


def _opening(angle: float) -> float:
    """A follower's opening at its gripper's motor angle (rad)."""
    assert VX300S.crank is not None
    return float(VX300S.finger.normalise(VX300S.crank.travel(float(np.clip(angle, -np.pi / 2, np.pi / 2)))))
