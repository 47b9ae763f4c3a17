"""`EndEffectorEnv`: the bimanual rig in MuJoCo with poses of the grippers as actions, by inverse kinematics inside."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import dm_env
import mink
import numpy as np
import numpy.typing as npt
from dm_env import specs

from aloha_kit.core import Action, ConfigError, Contract, Environment, Policy, SafetyLimits, VX300S
from aloha_kit.core.end_effector import action_names, DELTA, EE, entry_units, POSE, pose_names
from aloha_kit.core.motion import GRIPPER_SPEED
from aloha_kit.sim.kinematics import Kinematics
from aloha_kit.sim.scripted_expert import ScriptedExpert
from aloha_kit.sim.scripts import Script
from aloha_kit.sim.sim_env import SimEnv
from aloha_kit.sim.workcell import arm_rows, ARMS

Array = npt.NDArray[np.float64]

WORKSPACE = np.array([[-1.2, -0.3, 0.0], [1.2, 1.3, 1.0]])
"""m, world frame: bounds of a commanded position; z 0 is the table top."""
SPEED, TURN_SPEED = 1.5, 2 * np.pi  # m/s and rad/s of a gripper
LEAD = np.array([0.05, 0.3])  # m and rad; the joints are slower than a gripper where the wrist is stretched
GRIPPER_SLACK = 0.1  # opening allowed beyond 0 and 1, as of joint actions
AXIS_SLACK = 0.5  # an entry of an axis beyond -1 and 1, which a policy predicts where an axis lies along the world's


class EndEffectorEnv(SimEnv):
    """`SimEnv` whose actions are poses of the grippers (`ee`) or their changes (`ee_delta`), see `core.end_effector`.

    Action (A,), of each arm: the 9 entries of a pose, 20 in all; or the 6 of its change since the last action's target,
    14 in all; then the gripper's target, 0 closed to 1 open. Inverse kinematics turns them into joint targets, kept
    within the joints' limits and speed: what is out of reach is approached. Changes add up to a target that is at most
    `LEAD` ahead of the joint targets, so that they do not wind up. Gravity is made up for.

    Observation: `qpos` has the joints, as in `SimEnv`, then the measured pose of both grippers (9 entries each).

    Args:
        space: "ee" or "ee_delta".
        keywords: as of `SimEnv`.
    """

    def __init__(self, scene: str, *, space: str = EE, **keywords: Any) -> None:
        super().__init__(scene, **keywords)
        if self._task.arms != ARMS:
            raise ConfigError(
                "action space '{space}' needs both arms; scene '{scene}' has: {arms}",
                space=space,
                scene=scene,
                arms=", ".join(self._task.arms),
            )
        joints = self._joint_contract
        self._contract = Contract.of(
            (*joints.state_names, *pose_names(ARMS)),
            action_names(space, ARMS),
            joints.cameras,
            joints.rate_hz,
            {**joints.units, **entry_units(space, ARMS)},
            joints.sensors,
        )
        self._space, self._limits = space, _limits(self._contract, space)
        self._kinematics = Kinematics()
        self._targets: dict[str, Array] = {}  # (dof,) rad, without what makes up for gravity
        self._poses: dict[str, Array] = {}  # (4, 4) that the next changes start from

    @property
    def rest_action(self) -> Action:
        """(A,) the start pose, or no change of the pose, grippers open."""
        still = np.array([[*VX300S.start, 1.0]])
        rest: Action = self.actions(dict.fromkeys(ARMS, still))[0]
        return rest

    def action_spec(self) -> specs.BoundedArray:
        """(A,) commands within the limits."""
        return Environment.action_spec(self)

    def expert(self, *, noise: float = 0.0, seed: int = 0) -> Policy:
        """The scripted expert of the scene, with the gripper poses of its joint targets as actions."""
        return _Expert(self, noise=noise, seed=seed)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "action_space": self._space}

    def reset_to(self, poses: Mapping[str, npt.ArrayLike]) -> dm_env.TimeStep:
        self._targets = {arm: np.array(VX300S.start, np.float64) for arm in ARMS}
        self._poses = {arm: self._reached(arm) for arm in ARMS}
        return super().reset_to(poses)

    def actions(self, lines: Mapping[str, Array]) -> npt.NDArray[np.float32]:
        """(T, A) actions that follow {arm: (T, joints and gripper)} lines, the first one from the start pose."""
        columns: list[Array] = []
        for arm in ARMS:
            joints, grippers = lines[arm][:, :-1], lines[arm][:, -1:]
            path = [self._kinematics.forward(arm, row).matrix() for row in (np.array(VX300S.start), *joints)]
            if self._space == EE:
                rows = [pose_entries(pose) for pose in path[1:]]
            else:
                rows = [change(before, after) for before, after in pairwise(path)]
            columns += [np.array(rows), grippers]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def _joint_targets(self, action: Array) -> Array:
        rows = dict(zip(ARMS, action.reshape(len(ARMS), -1), strict=True))
        wanted = {arm: self._pose(arm, row[:-1]) for arm, row in rows.items()}
        found, limits = self._kinematics.follow(wanted, self._targets), self._joint_limits
        for i, arm in enumerate(ARMS):
            joints = slice(arm_rows(i).start, arm_rows(i).stop - 1)
            reach = np.clip(found[arm] - self._targets[arm], -limits.step[joints], limits.step[joints])
            self._targets[arm] = np.clip(self._targets[arm] + reach, limits.lower[joints], limits.upper[joints])
            reached = self._reached(arm)
            ahead = change(reached, wanted[arm]).reshape(2, 3)
            lengths = np.maximum(np.linalg.norm(ahead, axis=1), 1e-9)
            self._poses[arm] = moved(reached, (ahead * np.minimum(1.0, LEAD / lengths)[:, None]).ravel())
        sag = self._kinematics.sag(self._targets)
        return np.concatenate([[*(self._targets[arm] + sag[arm]), rows[arm][-1]] for arm in ARMS])

    def _pose(self, arm: str, entries: Array) -> Array:
        """(4, 4) the commanded pose inside the workspace."""
        pose = pose_matrix(entries) if self._space == EE else moved(self._poses[arm], entries)
        pose[:3, 3] = np.clip(pose[:3, 3], *WORKSPACE)
        return pose

    def _reached(self, arm: str) -> Array:
        """(4, 4) pose at the joint targets."""
        return self._kinematics.forward(arm, self._targets[arm]).matrix()

    def _state(self, joints: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        sites = [self.physics.data.site(f"{arm}_pinch") for arm in ARMS]
        poses = [np.concatenate([site.xpos, *site.xmat.reshape(3, 3).T[:2]]) for site in sites]
        return np.concatenate([joints, *poses]).astype(np.float32)


class _Expert(ScriptedExpert):
    _env: EndEffectorEnv

    def _plan(self, script: Script) -> npt.NDArray[np.float32]:
        return self._env.actions(self._planner.joints(script, self._env.episode_len))


def _limits(contract: Contract, space: str) -> SafetyLimits:
    """Bounds of a pose are the workspace and a bit more than unit vectors, those of a change what a step may move."""
    gripper = (-GRIPPER_SLACK, 1 + GRIPPER_SLACK, GRIPPER_SPEED)
    if space == EE:
        pose = [
            *((*bounds, SPEED) for bounds in WORKSPACE.T),
            *[(-1 - AXIS_SLACK, 1 + AXIS_SLACK, TURN_SPEED)] * (len(POSE) - 3),
        ]
    else:
        moves = np.repeat([SPEED, TURN_SPEED], [3, len(DELTA) - 3]) / contract.rate_hz
        pose = [(-move, move, 10 * move) for move in moves]  # from rest to full speed in a tenth of a second
    return SafetyLimits.of(contract, *np.array([*pose, gripper] * len(ARMS), np.float64).T)


def pose_entries(pose: npt.ArrayLike) -> Array:
    """(9,) entries `POSE` of a (4, 4) homogeneous transform, world from gripper."""
    matrix = np.asarray(pose, np.float64)
    return np.concatenate([matrix[:3, 3], matrix[:3, 0], matrix[:3, 1]])


def pose_matrix(entries: npt.ArrayLike) -> Array:
    """(4, 4) homogeneous transform of (9,) entries `POSE`, whose axes need be neither unit vectors nor orthogonal.

    Gram-Schmidt keeps the direction of the x axis; axes that are zero or parallel are replaced by others.
    """
    values = np.asarray(entries, np.float64)
    x = _unit(values[3:6], np.array([1.0, 0.0, 0.0]))
    other = np.cross(np.eye(3)[np.argmin(np.abs(x))], x)
    y = _unit(values[6:9] - x * (x @ values[6:9]), other / np.linalg.norm(other))
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([x, y, np.cross(x, y)], axis=1)
    matrix[:3, 3] = values[:3]
    return matrix


def moved(pose: npt.ArrayLike, delta: npt.ArrayLike) -> Array:
    """(4, 4) pose after a change of (6,) entries `DELTA`."""
    matrix, change = np.array(pose, np.float64), np.asarray(delta, np.float64)
    matrix[:3, 3] += change[:3]
    matrix[:3, :3] = mink.SO3.exp(change[3:]).as_matrix() @ matrix[:3, :3]
    return matrix


def change(before: npt.ArrayLike, after: npt.ArrayLike) -> Array:
    """(6,) entries `DELTA` that lead from one (4, 4) pose to another, by less than half a turn."""
    one, two = np.asarray(before, np.float64), np.asarray(after, np.float64)
    turn = mink.SO3.from_matrix(two[:3, :3] @ one[:3, :3].T).log()
    return np.concatenate([two[:3, 3] - one[:3, 3], turn])


def _unit(vector: Array, otherwise: Array) -> Array:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-9 else otherwise
