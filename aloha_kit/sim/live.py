"""Scene in continuous time for a simulated robot: no episodes, torque that can be off, objects that are reset."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError
from aloha_kit.sim.sim_env import SimEnv
from aloha_kit.sim.workcell import ARMS, GRIPPERS, TIMESTEP

Array = npt.NDArray[np.float64]


class LiveScene:
    """Simulated scene for a rig behind real drivers.

    Vectors are (A,), ordered like an action, in the servos' own units: rad, and metres of one finger for
    the grippers.

    Args:
        scene: a name of `tasks.SCENES`, or `my_package.module:Name`.
        seed: of the objects' first poses.

    Raises:
        ConfigError: an unknown scene; names the nearest.
    """

    def __init__(self, scene: str, *, seed: int = 0) -> None:
        self._env = SimEnv(scene, cameras={}, quality="draft", seed=seed)  # `reset` spawns, its clock stays unused
        self._env.reset()
        self._physics, self._task = self._env.physics, self._env.task
        model = self._physics.model.ptr
        driven = model.actuator_trnid[:, 0]
        self._qpos, self._qvel = model.jnt_qposadr[driven], model.jnt_dofadr[driven]
        self._mirrors = [model.joint(f"vx300s_{arm}/right_finger").qposadr[0] for arm in ARMS]
        self._range = model.actuator_ctrlrange.T.copy()
        self._stiffness = model.actuator_gainprm[:, 0].copy()
        self._model, self._data = model, self._physics.data

    @property
    def qpos(self) -> Array:
        """(nq,) everything's place, as MuJoCo orders it: arms, then objects."""
        return np.array(self._data.qpos)

    @property
    def joints(self) -> Array:
        """(A,) where the arms are."""
        return np.array(self._data.qpos[self._qpos])

    @property
    def velocities(self) -> Array:
        """(A,) rad/s, m/s."""
        return np.array(self._data.qvel[self._qvel])

    @property
    def forces(self) -> Array:
        """(A,) what the servos push: N m, and N for the grippers."""
        return np.array(self._data.actuator_force)

    @property
    def max_reward(self) -> float:
        """The highest reward of the scene."""
        return self._env.max_reward

    @property
    def reward(self) -> float:
        """0 to `max_reward`, of this instant."""
        return self._env.reward()

    def object_poses(self) -> dict[str, Array]:
        """True pose (7,) of each object: position (m) and unit quaternion w x y z, world frame."""
        return self._env.object_poses()

    def command(self, targets: Array, stiffness: Array) -> None:
        """Set the servos' targets and their share of the stiffness, 0 for none.

        A servo without torque keeps its damping, as a gearbox does: the arm sinks slowly.
        """
        self._data.ctrl[:] = np.clip(targets, *self._range)
        self._model.actuator_gainprm[:, 0] = stiffness * self._stiffness
        self._model.actuator_biasprm[:, 1] = -stiffness * self._stiffness

    def advance(self, seconds: float) -> None:
        """Let time pass, in whole steps of the physics."""
        self._physics.step(round(seconds / TIMESTEP))

    def place(self, seed: int) -> None:
        """Put the objects where an episode of this seed begins, at rest; the arms stay where they are."""
        self._put(self._task.spawn(np.random.default_rng([seed, 0])), self.joints)

    def pose(self, joints: Array) -> None:
        """Put the arms (A,) somewhere, at rest: before the first reading, never under way."""
        self._put(self.object_poses(), joints)
        self._data.ctrl[:] = np.clip(joints, *self._range)

    def restore(self, qpos: Array) -> None:
        """Set all positions to `qpos` (nq,), at rest.

        Raises:
            ConfigError: it is another scene's.
        """
        given = np.asarray(qpos, float)
        if given.shape != self._data.qpos.shape or not np.all(np.isfinite(given)):
            raise ConfigError(
                "this scene's qpos is {expected} finite numbers, given {given}",
                expected=self._data.qpos.shape,
                given=given.shape,
            )
        with self._physics.reset_context():
            self._data.qpos[:] = given
        self._data.ctrl[:] = np.clip(self.joints, *self._range)

    def close(self) -> None:
        """Free the physics."""
        self._env.close()

    def _put(self, objects: dict[str, Array], joints: Array) -> None:
        moving, targets, time = self._data.qvel.copy(), self._data.ctrl.copy(), self._data.time
        with self._physics.reset_context():
            self._data.qpos[self._qpos] = joints
            self._data.qpos[self._mirrors] = -joints[GRIPPERS]
            for name, pose in objects.items():
                self._data.joint(name).qpos[:] = pose
            self._data.qvel[:] = moving
            for name in objects:
                self._data.joint(name).qvel[:] = 0
            self._data.time = time
            self._data.ctrl[:] = targets
