"""Reaching for a target with one arm: scenes with a sparse or a dense reward, and their environment with bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import mujoco
import numpy as np
import numpy.typing as npt

from aloha_kit.core import Feature, Policy, START_ARM_POSE, VX300S
from aloha_kit.core.features import target_vector, vestibular
from aloha_kit.sim.reach_expert import ReachExpert
from aloha_kit.sim.sim_env import SimEnv
from aloha_kit.sim.tasks import free_body, SceneState, Spawn, WorkcellScene
from aloha_kit.sim.workcell import BASE_X, BASE_Y

Array = npt.NDArray[np.float64]

REACHED = 0.03  # m from the target
POSTURE = 0.05  # the most that a pose pays, with every joint a whole range away from the start pose
START = np.array([0.17421, 0.5, 0.30960])
"""(3,) m, world frame: the point between the right gripper's pads in the start pose."""
LOWEST, NEAREST, FARTHEST = 0.03, 0.2, 0.7
"""m: height of the lowest target above the table, and distances of a target from the axis of the waist (horizontal) and
from the shoulder. All such places that are at most 35 cm from the start are within the arm's reach."""
SHOULDER = np.array([BASE_X, BASE_Y, 0.127])
RADIUS = 0.02  # m, of the target that is drawn


class Reach(WorkcellScene):
    """The right arm alone brings the point between its fingers to a target, a red ball that nothing collides with.

    Reward terms, of each step: `inside`, 1 within 3 cm of the target; `posture`, 0 in the start pose down to -0.05 with
    the mean square of the joints' distances from it, in shares of their ranges. The sum is above 0.5 inside only.

    Sensors: `vestibular` at the wrist, in the axes of the gripper (x out of it, y across the fingers); `target`, the
    vector from the point between the fingers to the target, in the axes of the world.

    Attributes:
        bands: (nearest, farthest) distance of the target from where the gripper starts, m.
        band: which of them a target is drawn from, None for any.
    """

    arms: ClassVar[tuple[str, ...]] = ("right",)
    objects: ClassVar[dict[str, Spawn]] = {"target": Spawn((0.0, 0.3), (0.3, 0.7), START[2])}
    sensors: ClassVar[tuple[Feature, ...]] = (vestibular(), target_vector())
    max_reward: ClassVar[float] = 1.0
    min_reward: ClassVar[float] = -np.inf
    bands: ClassVar[tuple[tuple[float, float], ...]] = ((0.03, 0.10), (0.10, 0.16), (0.16, 0.24), (0.24, 0.35))
    band: int | None = None

    def build(self, spec: mujoco.MjSpec) -> None:
        spec.add_material(name="target", rgba=(0.90, 0.12, 0.10, 1), specular=0.1, shininess=0.1)
        target = free_body(spec, "target", self.objects["target"])
        target.gravcomp = 1.0
        target.add_geom(
            name="target",
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            size=(RADIUS, 0, 0),
            material="target",
            mass=0.01,
            group=1,
            contype=0,
            conaffinity=0,
        )
        (arm,) = self.arms
        spec.body(f"vx300s_{arm}/gripper_link").add_site(name=f"{arm}_wrist", group=4)
        for kind in (mujoco.mjtSensor.mjSENS_GYRO, mujoco.mjtSensor.mjSENS_ACCELEROMETER):
            spec.add_sensor(type=kind, objtype=mujoco.mjtObj.mjOBJ_SITE, objname=f"{arm}_wrist")
        spec.add_sensor(
            type=mujoco.mjtSensor.mjSENS_VELOCIMETER, objtype=mujoco.mjtObj.mjOBJ_SITE, objname=f"{arm}_wrist"
        )
        spec.add_sensor(
            type=mujoco.mjtSensor.mjSENS_FRAMEZAXIS,
            objtype=mujoco.mjtObj.mjOBJ_XBODY,
            objname="world",
            reftype=mujoco.mjtObj.mjOBJ_SITE,
            refname=f"{arm}_wrist",
        )

    def part(self, geom: str) -> str | None:
        return None

    def reward_terms(self, state: SceneState) -> dict[str, float]:
        inside = float(np.linalg.norm(self.to_target(state)) < REACHED)
        away = (state.arm_joints()[: VX300S.dof] - START_ARM_POSE) / np.subtract(VX300S.upper, VX300S.lower)
        return {"inside": inside, "posture": -POSTURE * float(np.mean(away**2))}

    def sense(self, state: SceneState) -> dict[str, npt.NDArray[np.float32]]:
        return {
            "vestibular": state.sensordata().astype(np.float32),
            "target": self.to_target(state).astype(np.float32),
        }

    def to_target(self, state: SceneState) -> Array:
        """(3,) m, world frame: from the point between the fingers to the target."""
        (arm,) = self.arms
        return np.asarray(state.object_poses()["target"][:3] - state.gripper_position(arm))

    def spawn(self, rng: np.random.Generator) -> dict[str, Array]:
        """A target in a random direction from the start, at a distance that is uniform in the band, within reach."""
        nearest, farthest = self.bands[int(rng.integers(len(self.bands))) if self.band is None else self.band]
        while True:
            direction = rng.standard_normal(3)
            place = START + direction / np.linalg.norm(direction) * rng.uniform(nearest, farthest)
            if within_reach(place):
                return {"target": np.array([*place, 1.0, 0.0, 0.0, 0.0])}


class DenseReach(Reach):
    """`Reach` with the term `distance` too: minus the distance from the target, in m."""

    def reward_terms(self, state: SceneState) -> dict[str, float]:
        return {**super().reward_terms(state), "distance": -float(np.linalg.norm(self.to_target(state)))}


def within_reach(place: Array) -> bool:
    """Whether the right gripper can get to a (3,) place in the world (m), near its start."""
    around = float(np.hypot(*(place - SHOULDER)[:2]))
    return bool(place[2] >= LOWEST and around >= NEAREST and np.linalg.norm(place - SHOULDER) <= FARTHEST)


class ReachEnv(SimEnv):
    """`SimEnv` of a `Reach` scene: one arm, whose targets are drawn by bands of distance, and an expert by kinematics.

    An episode always lasts `episode_len` actions; it is a success when it ends within 3 cm of the target.

    Attributes:
        band: index in `bands` that the next resets draw the target from; None: all of them, each as often.
    """

    _task: Reach

    @property
    def bands(self) -> Sequence[tuple[float, float]]:
        """(nearest, farthest) distance of a target from where the gripper starts, m; near to far."""
        return self._task.bands

    @property
    def band(self) -> int | None:
        return self._task.band

    @band.setter
    def band(self, band: int | None) -> None:
        self._task.band = band

    @property
    def target_distance(self) -> float:
        """Distance of the point between the fingers from the target now, m."""
        return float(np.linalg.norm(self._task.to_target(self)))

    def is_highest(self, reward: float) -> bool:
        """Whether a reward is that of a step inside: the other terms are too small to make up for that."""
        return reward > self.max_reward / 2

    def expert(self, *, noise: float = 0.0, seed: int = 0) -> Policy:
        """A motion to the target that inverse kinematics plans at each reset, see `ReachExpert`."""
        return ReachExpert(self, self._task.arms[0], noise=noise, seed=seed)
