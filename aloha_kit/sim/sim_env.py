"""`SimEnv`: the bimanual rig in MuJoCo, with the real rig's observations and actions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import dm_env
import mujoco
import numpy as np
import numpy.typing as npt
from dm_control.mujoco import Physics
from dm_control.mujoco.wrapper import MjModel
from dm_env import specs

from aloha_kit.config import ViewConfig
from aloha_kit.core import (
    Action,
    aloha_limits,
    aloha_start,
    Clock,
    ConfigError,
    Contract,
    did_you_mean,
    joint_names,
    Observation,
    Policy,
    SimulatedEnvironment,
    START_ARM_POSE,
    VX300S,
)
from aloha_kit.core.features import DEPTHS, Feature, IMAGES, joint_sensors, object_poses
from aloha_kit.sim import tasks, workcell
from aloha_kit.sim.camera_renderer import CameraRenderer
from aloha_kit.sim.model_index import ModelIndex
from aloha_kit.sim.randomise import Randomiser
from aloha_kit.sim.scripted_expert import ScriptedExpert
from aloha_kit.sim.scripts import Script
from aloha_kit.sim.workcell import START_GRIPPER

TOP_CAMERA: Mapping[str, tuple[int, int]] = {"top": (480, 640)}


class SimEnv(SimulatedEnvironment):
    """Two simulated ViperX 300s and a task, one dm_env environment.

    Observation (see `core.Observation`): `qpos` (J,) rad with grippers 0 closed to 1 open, `qvel` (J,)
    in the same units a second, `effort` (J,) N m, `images` {camera: (H, W, 3) uint8 RGB}, `images_depth`
    {camera: (H, W) uint16 mm along the camera's axis, 0 where nothing is} of `depth_cameras`,
    `environment_state` object poses (7 numbers an object: m, unit quaternion w x y z, world frame) and
    `stamps` (ns). Action (A,): joint targets, the same order and units; a gripper beyond [0, 1] closes
    or opens as far as its servo goes. The action holds for one period, physics runs at 2 ms.

    The reward is of the instant, 0 to 4; an episode counts as a success when its last step holds 4.

    Args:
        scene: a name of `tasks.SCENES`, or `my_package.module:Name` of a `tasks.WorkcellScene`.
        cameras: {name: (height, width)}; any of `workcell.CAMERAS` and of `views`, none for state alone.
        depth_cameras: those of them whose depth is rendered too.
        rate_hz: control rate; the period has to be a multiple of the 2 ms physics step.
        episode_len: actions until LAST.
        quality: "draft", "fast" or "fine" images; physics does not depend on it.
        randomise: {what: amount}, see `sim.randomise.OPTIONS`; drawn anew at each reset from its seed.
        clock: what `step` waits on: a `VirtualClock` runs as fast as it computes, a `WallClock` in real time.
        seed: of the first reset; each later reset uses the next number.
        views: {name: where it is and what it looks at} of further cameras, or in place of the workcell's own.
        script: how the expert does the task: a name of `scripts.SCRIPTS`, or `my_package.module:Name`; the scene's own
            without it.
        lazy_images: draw an image when it is first read, which has to be before the next step: for
            policies that read few images. An attribute, too.

    Raises:
        ConfigError: an unknown scene, camera, quality or option, or a size or rate that cannot be.
    """

    def __init__(
        self,
        scene: str,
        *,
        cameras: Mapping[str, tuple[int, int]] = TOP_CAMERA,
        depth_cameras: Collection[str] = (),
        rate_hz: float = 50.0,
        episode_len: int = 400,
        quality: str = "fast",
        randomise: Mapping[str, float] | None = None,
        clock: Clock | None = None,
        seed: int = 0,
        lazy_images: bool = False,
        views: Mapping[str, ViewConfig] | None = None,
        script: str = "",
    ) -> None:
        self.scene = scene
        self.lazy_images = lazy_images
        self._starts: Mapping[int, npt.NDArray[np.float64]] = {}
        self._task = tasks.scene(scene)
        self._script = tasks.script_of(self._task, script)
        arms = self._task.arms
        self._cameras = _checked_cameras(cameras, workcell.cameras(views or {}, arms))
        if unknown := sorted(set(depth_cameras) - self._cameras.keys()):
            raise ConfigError(
                "depth of '{unknown}', which is none of the cameras. {known}",
                unknown=unknown[0],
                known=did_you_mean(unknown[0], cameras),
            )
        self._substeps = _substeps(rate_hz)
        if episode_len < 1:
            raise ConfigError(
                "an episode needs at least 1 step, given episode_len {episode_len}", episode_len=episode_len
            )
        self._episode_len = episode_len
        self._quality = quality
        spec = workcell.base(workcell.quality(quality), views or {}, arms)
        self._task.build(spec)
        self.physics = Physics.from_model(MjModel(spec.compile()))
        self._randomiser = Randomiser(self.physics.model.ptr, randomise or {})
        self._renderer = CameraRenderer(self.physics, self._cameras, depth_cameras)
        self._index = ModelIndex(self.physics.model.ptr, self._task)
        super().__init__(rate_hz, clock, seed=seed)
        self._shown: int | None = None  # the seed of the present looks
        self._terms: dict[str, float] = {}
        names = joint_names(arms)
        self._contract = self._joint_contract = Contract.of(
            state_names=names,
            action_names=names,
            cameras=self._cameras,
            rate_hz=float(rate_hz),
            sensors=(
                *object_poses(tasks.pose_entries(self._task)),
                *joint_sensors(names, effort="N m"),
                *(Feature.depth(name, self._cameras[name]) for name in depth_cameras),
                *self._task.sensors,
            ),
        )
        self._limits = self._joint_limits = aloha_limits(self._joint_contract)

    @property
    def rest_action(self) -> Action:
        """(A,) the start pose, grippers open."""
        return aloha_start(self._joint_contract)

    @property
    def max_reward(self) -> float:
        return self._task.max_reward

    @property
    def task(self) -> tasks.WorkcellScene:
        """Scene: the objects on the table and the reward."""
        return self._task

    def expert(self, *, noise: float = 0.0, seed: int = 0) -> Policy:
        """The scripted expert of the scene, see `sim.scripted_expert`."""
        return ScriptedExpert(self, noise=noise, seed=seed)

    @property
    def reward_terms(self) -> Mapping[str, float]:
        """{term: its part of the last step's reward}, see `tasks.WorkcellScene.reward_terms`; 0 each at a reset."""
        return self._terms

    @property
    def action_delta(self) -> npt.NDArray[np.float64]:
        """(A,) a third of what the guard lets through at full speed, so that it limits nothing of such actions."""
        return self.limits.ramp

    @property
    def episode_len(self) -> int:
        """Actions in an episode."""
        return self._episode_len

    @property
    def starts(self) -> Mapping[int, npt.NDArray[np.float64]]:
        """Poses (7 · objects,) of all objects at the start of an episode, by its seed; other seeds draw theirs.

        Raises:
            ConfigError: set to poses of another number of objects.
        """
        return self._starts

    @starts.setter
    def starts(self, starts: Mapping[int, npt.NDArray[np.float64]]) -> None:
        width = 7 * len(self._task.objects)
        for pose in starts.values():
            if pose.shape != (width,):
                raise ConfigError(
                    "scene '{scene}' starts with {width} numbers, 7 each of {objects}; given {size}",
                    scene=self.scene,
                    width=width,
                    objects=", ".join(self._task.objects),
                    size=pose.size,
                )
        self._starts = starts

    def describe(self) -> dict[str, Any]:
        """Scene, the present episode's seed, drawing and versions; plain values for JSON."""
        return {
            "scene": self.scene,
            "seed": self._seed,
            "quality": self._quality,
            "randomise": dict(self._randomiser.amounts),
            "mujoco": mujoco.__version__,
        }

    def reset(self) -> dm_env.TimeStep:
        start = self._starts.get(self._begin())
        if start is None:
            return self.reset_to(self._task.spawn(np.random.default_rng([self._seed, 0])))
        return self.reset_to(dict(zip(self._task.objects, start.reshape(-1, 7), strict=True)))

    def reset_to(self, poses: Mapping[str, npt.ArrayLike]) -> dm_env.TimeStep:
        """Begin an episode with the objects at given poses (7,) (m, quaternion w x y z), e.g. to redo a recording.

        Raises:
            ConfigError: a name that is no object of the scene, or an object without a pose.
        """
        for name in poses:
            if name not in self._task.objects:
                raise ConfigError(
                    "no object '{name}' in scene '{scene}'. {known}",
                    name=name,
                    scene=self.scene,
                    known=did_you_mean(name, self._task.objects),
                )
        if missing := [name for name in self._task.objects if name not in poses]:
            raise ConfigError(
                "scene '{scene}' needs a pose of: {missing}", scene=self.scene, missing=", ".join(missing)
            )
        self._randomiser.apply(np.random.default_rng([self._seed, 1]))
        self._shown = self._seed
        with self.physics.reset_context():
            data = self.physics.data
            start = np.concatenate([START_ARM_POSE, [START_GRIPPER]])
            data.qpos[self._index.qpos] = data.ctrl[:] = np.tile(start, len(self._task.arms))
            data.qpos[self._index.mirror_qpos] = -START_GRIPPER
            for name, pose in poses.items():
                data.joint(name).qpos[:] = np.asarray(pose, float)
        self.physics.forward()  # dm_control leaves the servos out of its reset; their effort is observed
        self._terms = dict.fromkeys(self._task.reward_terms(self), 0.0)
        self._steps = 0
        self._rate.reset()
        return dm_env.restart(self._observe(command_ns=None))

    def step(self, action: Action) -> dm_env.TimeStep:
        """Command the servos, let one period pass, observe.

        Raises:
            ValueError: an action of another shape, or one that is not finite.
        """
        if self._steps is None or self._steps >= self._episode_len:
            return self.reset()
        command = self._joint_targets(self.checked(action))
        command_ns = self._clock.now_ns()
        command[self._index.grippers] = VX300S.finger.unnormalise(command[self._index.grippers])
        self.physics.data.ctrl[:] = np.clip(command, *self._index.ctrl_range)
        self.physics.step(self._substeps)
        self._rate.sleep()
        self._steps += 1
        observation = self._observe(command_ns)
        self._terms = self._task.reward_terms(self)
        reward = float(sum(self._terms.values()))
        if self._steps >= self._episode_len:
            return dm_env.truncation(reward, observation)
        return dm_env.transition(reward, observation)

    def show(self, qpos: npt.ArrayLike, seed: int) -> CameraRenderer:
        """Show another instance of the same scene, with its MuJoCo state `qpos` and the appearance that `seed` drew.

        The next step begins an episode.

        Raises:
            ConfigError: `qpos` is another scene's.
        """
        state = np.asarray(qpos, float)
        if state.shape != self.physics.data.qpos.shape:
            raise ConfigError(
                "scene '{scene}' has {size} coordinates, given {shape}",
                scene=self.scene,
                size=self.physics.data.qpos.size,
                shape=state.shape,
            )
        if seed != self._shown:
            self._randomiser.apply(np.random.default_rng([seed, 1]))
            self._shown = seed
        self.physics.data.qpos[:] = state
        self.physics.forward()
        self._steps = None
        return self._renderer

    def script(self) -> Script:
        """Script of both arms for the current object poses; raises ConfigError where the scene has no script."""
        return self._script(self.object_poses())

    def reward(self) -> float:
        """Reward at the current time."""
        return float(sum(self._task.reward_terms(self).values()))

    def object_poses(self) -> dict[str, npt.NDArray[np.float64]]:
        """True pose (7,) of each object: position (m) and unit quaternion w x y z, world frame."""
        return {name: self.physics.data.joint(name).qpos.copy() for name in self._task.objects}

    def touching(self) -> tasks.Touching:
        """Which parts of the task, fingers and table are in contact now."""
        geoms = self.physics.data.contact.geom
        parts = self._index.part
        return frozenset(
            (min(a, b), max(a, b)) for a, b in ((parts[i], parts[j]) for i, j in geoms.tolist()) if a and b and a != b
        )

    def arm_joints(self) -> npt.NDArray[np.float64]:
        """(J,) positions of all arms: rad, and metres of one finger for the grippers."""
        joints: npt.NDArray[np.float64] = self.physics.data.qpos[self._index.qpos]
        return joints

    def gripper_position(self, arm: str) -> npt.NDArray[np.float64]:
        """(3,) m, world frame: the point between the pads of a gripper."""
        return np.array(self.physics.data.site_xpos[self._index.pinch[arm]])

    def sensordata(self) -> npt.NDArray[np.float64]:
        """(S,) what MuJoCo's sensors measure that the scene added, in its order."""
        return np.array(self.physics.data.sensordata)

    def reward_spec(self) -> specs.BoundedArray:
        """Bounds of the scene's reward."""
        return specs.BoundedArray((), float, self._task.min_reward, self.max_reward, "reward")

    def action_spec(self) -> specs.BoundedArray:
        """(A,) joint targets within the servos' ranges; grippers in normalised opening."""
        low, high = (limit.copy() for limit in self._index.ctrl_range)
        low[self._index.grippers], high[self._index.grippers] = 0.0, 1.0
        return specs.BoundedArray(low.shape, np.float32, low.astype(np.float32), high.astype(np.float32), "action")

    def _joint_targets(self, action: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(J,) joint targets of an action (A,), grippers normalised."""
        return action

    def _state(self, joints: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(D,) `qpos` of an observation by the present (J,) joints."""
        return joints

    def close(self) -> None:
        """Free GL contexts and the physics."""
        self._renderer.close()
        self.physics.free()

    def _observe(self, command_ns: int | None) -> Observation:
        data = self.physics.data
        qpos, qvel, effort = data.qpos[self._index.qpos], data.qvel[self._index.qvel], data.actuator_force.copy()
        qpos[self._index.grippers] = VX300S.finger.normalise(qpos[self._index.grippers])
        qvel[self._index.grippers] = VX300S.finger.normalise_velocity(qvel[self._index.grippers])
        effort[self._index.grippers] *= workcell.FINGER_METRES_PER_RADIAN
        now = self._clock.now_ns()
        images, depth = self._renderer.later() if self.lazy_images else self._renderer.render()
        drawn = [*(f"{IMAGES}{name}" for name in images), *(f"{DEPTHS}{name}" for name in depth)]
        stamps = {"qpos": now, "deadline": self._rate.deadline_ns, **dict.fromkeys(drawn, now)}
        if command_ns is not None:
            stamps["command"] = command_ns
        observation = Observation(
            qpos=self._state(qpos.astype(np.float32)),
            qvel=qvel.astype(np.float32),
            effort=effort.astype(np.float32),
            images=images,
            environment_state=data.qpos[self._index.object_qpos].astype(np.float32),
            stamps=stamps,
        )
        if depth:
            observation["images_depth"] = depth
        if self._task.sensors:
            observation["sensors"] = self._task.sense(self)
        return observation


def _checked_cameras(
    cameras: Mapping[str, tuple[int, int]], known: Mapping[str, ViewConfig]
) -> dict[str, tuple[int, int]]:
    for name, size in cameras.items():
        if name not in known:
            raise ConfigError("no simulated camera '{name}'. {known}", name=name, known=did_you_mean(name, known))
        if len(size) != 2 or any(int(n) != n or not 1 <= n <= 4096 for n in size):
            raise ConfigError(
                "camera '{name}' needs (height, width) from 1 to 4096 pixels, given {size}", name=name, size=tuple(size)
            )
    return {name: (int(size[0]), int(size[1])) for name, size in cameras.items()}


def _substeps(rate_hz: float) -> int:
    if not (rate_hz > 0 and np.isfinite(rate_hz)):
        raise ConfigError("rate_hz must be positive, given {rate_hz}", rate_hz=rate_hz)
    count = round(1.0 / (rate_hz * workcell.TIMESTEP))
    if count < 1 or abs(count * workcell.TIMESTEP * rate_hz - 1.0) > 1e-9:
        raise ConfigError(
            "{rate_hz:g} Hz is no whole number of {step:g} ms physics steps; try 50, 25, 20, 100 or 125 Hz",
            rate_hz=rate_hz,
            step=workcell.TIMESTEP * 1000.0,
        )
    return count
