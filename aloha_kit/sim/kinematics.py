"""Differential inverse kinematics: joint angles for whole paths of the grippers in space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mink
import mujoco
import numpy as np
import numpy.typing as npt
from pyquaternion import Quaternion

from aloha_kit.core.arm_models import ARM_JOINTS
from aloha_kit.core.lang import Message
from aloha_kit.sim import workcell

Array = npt.NDArray[np.float64]
LONGEST_STEP = 0.2  # rad of any joint in one iteration
FOLLOWED = 1e-6  # m and rad: a followed pose is reached


@dataclass(frozen=True)
class Pose:
    """Pose of a gripper: position of its pinch point (m, world frame) and orientation.

    A gripper's x axis points out of it, y is the direction in which its fingers close.
    """

    position: Array  # (3,)
    turn: Quaternion  # world from gripper

    @classmethod
    def of(cls, matrix: Array) -> Pose:
        """Pose from a (4, 4) homogeneous transform."""
        return cls(matrix[:3, 3].copy(), Quaternion(matrix=matrix))

    def matrix(self) -> Array:
        """(4, 4) homogeneous transform, world from gripper."""
        result: Array = self.turn.transformation_matrix
        result[:3, 3] = self.position
        return result


class Kinematics:
    """The arms alone, without objects: forward and inverse kinematics and the load of gravity.

    Inverse kinematics is mink's quadratic program over joint velocities within the joint limits
    (solved by daqp), iterated to convergence. Joint vectors are (dof,) rad, in the order of `ARM_JOINTS`.

    Args:
        arms: those of `workcell.ARMS` that there are.
    """

    def __init__(self, arms: Sequence[str] = workcell.ARMS) -> None:
        self.model = workcell.base(workcell.QUALITIES["draft"], arms=arms).compile()
        self._configuration = mink.Configuration(self.model)
        self._columns = {
            arm: [self.model.joint(f"vx300s_{arm}/{joint}").qposadr[0] for joint in ARM_JOINTS] for arm in arms
        }
        self._stiffness = np.array([workcell.SERVOS[joint].stiffness for joint in ARM_JOINTS])
        self._tasks = {
            arm: mink.FrameTask(f"{arm}_pinch", "site", position_cost=1.0, orientation_cost=0.3, lm_damping=1e-6)
            for arm in arms
        }
        # damped more, so that an arm stretched towards a pose out of its reach stands still
        self._followers = {
            arm: mink.FrameTask(f"{arm}_pinch", "site", position_cost=1.0, orientation_cost=0.3, lm_damping=1e-2)
            for arm in arms
        }
        self._points = {
            arm: mink.FrameTask(f"{arm}_pinch", "site", position_cost=1.0, orientation_cost=0.0, lm_damping=1e-4)
            for arm in arms
        }
        self._limits = [mink.ConfigurationLimit(self.model)]

    def forward(self, arm: str, joints: Array) -> Pose:
        """Pose of a gripper's pinch point at its arm's (dof,) joint angles."""
        self._set({arm: joints})
        return Pose.of(self._configuration.get_transform_frame_to_world(f"{arm}_pinch", "site").as_matrix())

    def inverse(self, arm: str, pose: Pose, start: Array, *, tolerance: float = 1e-4, iterations: int = 60) -> Array:
        """(dof,) joint angles that bring a gripper's pinch point to `pose`, the solution that `start` leads to.

        Raises:
            ValueError: a pose out of reach, off by more than `tolerance` (m, rad) after all iterations.
        """
        self._set({arm: start})
        task = self._tasks[arm]
        task.set_target(mink.SE3.from_matrix(pose.matrix()))
        for _ in range(iterations):
            error = float(np.abs(task.compute_error(self._configuration)).max())
            if error < tolerance:
                return np.array(self._configuration.q[self._columns[arm]])
            velocity = mink.solve_ik(self._configuration, [task], 1.0, solver="daqp", damping=1e-9, limits=self._limits)
            # a step this long stays where the linear model is true
            self._configuration.integrate_inplace(velocity / max(1.0, np.abs(velocity).max() / LONGEST_STEP), 1.0)
        raise ValueError(
            Message(
                "the {arm} gripper does not reach {position} m in the given orientation: still {error:.4f} (m or "
                "rad) away after {iterations} iterations",
                arm=arm,
                position=np.round(pose.position, 3).tolist(),
                error=error,
                iterations=iterations,
            )
        )

    def inverse_position(
        self, arm: str, position: Array, start: Array, *, tolerance: float = 1e-4, iterations: int = 100
    ) -> Array:
        """(dof,) joint angles near `start` that bring a gripper's pinch point to `position` (m), in any orientation.

        Raises:
            ValueError: a position out of reach, off by more than `tolerance` (m) after all iterations.
        """
        self._set({arm: start})
        task = self._points[arm]
        task.set_target(mink.SE3.from_translation(position))
        for _ in range(iterations):
            velocity = mink.solve_ik(self._configuration, [task], 1.0, solver="daqp", damping=1e-4, limits=self._limits)
            self._configuration.integrate_inplace(velocity / max(1.0, np.abs(velocity).max() / LONGEST_STEP), 1.0)
            place = self._configuration.get_transform_frame_to_world(f"{arm}_pinch", "site").translation()
            error = float(np.linalg.norm(place - position))
            if error < tolerance:
                return np.array(self._configuration.q[self._columns[arm]])
        raise ValueError(
            Message(
                "the {arm} gripper does not reach {position} m: still {error:.4f} m away after {iterations} iterations",
                arm=arm,
                position=np.round(position, 3).tolist(),
                error=error,
                iterations=iterations,
            )
        )

    def follow(self, poses: dict[str, Array], start: dict[str, Array], *, iterations: int = 10) -> dict[str, Array]:
        """{arm: (dof,)} joint angles near `start` that bring the grippers to `poses` (4, 4), or as near as they get.

        For a target that moves a little from call to call: a few iterations, and no error where a pose is out of reach.
        """
        self._set(start)
        tasks = [self._followers[arm] for arm in poses]
        for arm, pose in poses.items():
            self._followers[arm].set_target(mink.SE3.from_matrix(pose))
        for _ in range(iterations):
            if max(float(np.abs(task.compute_error(self._configuration)).max()) for task in tasks) < FOLLOWED:
                break
            velocity = mink.solve_ik(self._configuration, tasks, 1.0, solver="daqp", damping=1e-9, limits=self._limits)
            self._configuration.integrate_inplace(velocity / max(1.0, np.abs(velocity).max() / LONGEST_STEP), 1.0)
        return {arm: np.array(self._configuration.q[self._columns[arm]]) for arm in poses}

    def sag(self, joints: dict[str, Array]) -> dict[str, Array]:
        """(dof,) rad an arm by which gravity pulls the servos off their targets at rest."""
        self._set(joints)
        data = self._configuration.data
        data.qvel[:] = 0
        mujoco.mj_forward(self.model, data)
        return {arm: data.qfrc_bias[self._columns[arm]] / self._stiffness for arm in joints}

    def _set(self, joints: dict[str, Array]) -> None:
        q = self._configuration.q.copy()
        for arm, values in joints.items():
            q[self._columns[arm]] = values
        self._configuration.update(q)
