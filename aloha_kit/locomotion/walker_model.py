"""A walker of dm_control on a floor with a target: one model for all episodes, and its features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt
from dm_control import composer, mjcf
from dm_control.locomotion.walkers import legacy_base

from aloha_kit.core import ConfigError, Contract, did_you_mean, Feature
from aloha_kit.core.features import SENSORS, target_vector, VELOCITY, vestibular
from aloha_kit.core.lang import Message
from aloha_kit.core.plugins import call, resolve

Array = npt.NDArray[np.float64]

WALKERS = {"rat": "dm_control.locomotion.walkers.rodent:Rat"}
"""{name of a walker: its class}, derived from dm_control's `legacy_base.Walker`; the place of its egocentric camera is
its head."""

SHADOW_MAPS = {"draft": (0, 0), "fast": (1024, 0), "fine": (2048, 4)}
"""{quality: texels a side of the shadow map, samples of a pixel}; 0 for none, which is several times faster."""

RED = (0.90, 0.12, 0.10, 1.0)


@dataclass(frozen=True)
class WalkerOptions:
    """Settings of a rig of kind `locomotion`; the lengths are meant for a rat."""

    walker: str = "rat"  # a name in `WALKERS`, or my_package.module:Walker
    physics_timestep: float = 0.002  # s
    bands: tuple[tuple[float, float], ...] = ((0.12, 0.20), (0.20, 0.35), (0.35, 0.60), (0.60, 1.00))
    # m from the head to the target at the start, near to far
    reached: float = 0.05  # m from the head to the target that count as there
    target_radius: float = 0.02  # m, of the ball that is drawn
    spread: float = 0.8  # rad to either side of straight ahead in which the target is at the start

    def __post_init__(self) -> None:
        if not self.physics_timestep > 0:
            raise ValueError(
                Message(
                    "physics_timestep must be positive, given {physics_timestep}",
                    physics_timestep=self.physics_timestep,
                )
            )
        flat = [distance for band in self.bands for distance in band]
        if not flat or flat != sorted(flat):
            raise ValueError(
                Message("bands are (nearest, farthest) distances in m, near to far, given {bands}", bands=self.bands)
            )
        if not 0 < self.reached <= min(flat[0], flat[-1] / 3):
            raise ValueError(
                Message(
                    "reached must be positive, at most the nearest target and a third of the farthest one, given "
                    "{reached}",
                    reached=self.reached,
                )
            )


class WalkerModel:
    """A walker's physics, compiled once, and where its parts stand in MuJoCo's arrays.

    Raises:
        ConfigError: no such walker or quality, or a walker without a root that moves freely.
    """

    def __init__(self, options: WalkerOptions, *, quality: str) -> None:
        if quality not in SHADOW_MAPS:
            raise ConfigError(
                "no image quality '{quality}'. {known}", quality=quality, known=did_you_mean(quality, SHADOW_MAPS)
            )
        kind = resolve("walkers", options.walker, WALKERS, base=legacy_base.Walker)
        self.walker: Any = call("walkers", options.walker, kind, {})
        arena = composer.Arena(name="arena")
        self.walker.create_root_joints(arena.attach(self.walker))
        proprioception = self.walker.observables.proprioception  # adds sensors of its own
        _surroundings(arena.mjcf_model, options.target_radius)
        head = _add_senses(arena.mjcf_model, self.walker.egocentric_camera.parent)
        shadow_map, samples = SHADOW_MAPS[quality]
        arena.mjcf_model.visual.quality.set_attributes(shadowsize=shadow_map, offsamples=samples)
        arena.mjcf_model.option.timestep = options.physics_timestep
        self.physics = mjcf.Physics.from_mjcf_model(arena.mjcf_model)
        self.entities = tuple(arena.iter_entities())
        for entity in self.entities:
            entity.after_compile(self.physics, np.random.RandomState(0))
        model = self.physics.model.ptr
        joints = self.walker.observable_joints
        index = np.asarray(self.physics.bind(joints).element_id)
        self.qpos, self.qvel = model.jnt_qposadr[index], model.jnt_dofadr[index]
        self.actuators = np.asarray(self.physics.bind(self.walker.actuators).element_id)
        self.root = int(self.physics.bind(self.walker.root_body).element_id)
        self.head = int(self.physics.bind(head).element_id)
        self.target = int(model.body("target").mocapid[0])
        start = int(model.sensor("gyro_senses").adr[0])
        self._senses = slice(start, start + 12)
        self._proprioception = [observed.observation_callable(self.physics) for observed in proprioception]
        self.joint_names = tuple(joint.name for joint in joints)
        self.actuator_names = tuple(actuator.name for actuator in self.walker.actuators)
        cameras = arena.mjcf_model.find_all("camera")
        self.cameras = {camera.name: camera.full_identifier for camera in reversed(cameras)}

    @property
    def control_range(self) -> tuple[Array, Array]:
        """(A,) lower and upper bounds of the controls; -1 and 1 of an actuator without limits."""
        model = self.physics.model.ptr
        limited = model.actuator_ctrllimited[self.actuators].astype(bool)[:, None]
        low, high = np.where(limited, model.actuator_ctrlrange[self.actuators], [-1.0, 1.0]).T
        return low, high

    def contract(self, cameras: Mapping[str, tuple[int, int]], rate_hz: float) -> Contract:
        """Contract of joint angles, controls, senses and cameras.

        A control is no joint angle, though most actuators have a joint's name: it is called `<actuator>_control`.
        """
        controls = tuple(f"{name}_control" for name in self.actuator_names)
        felt = [f"proprioception_{i}" for i in range(len(self.proprioception()))]
        sensors = (
            Feature.vector("qvel", VELOCITY, self.joint_names, "rad/s"),
            vestibular(),
            target_vector(),
            Feature.vector(f"{SENSORS}proprioception", "proprioception", felt, ""),
        )
        units = {"joints": "rad", **dict.fromkeys(controls, "1")}
        return Contract.of(self.joint_names, controls, cameras, rate_hz, units, sensors)

    def vestibular(self) -> Array:
        """(12,) see `core.features.vestibular`, in the axes of the head's body."""
        return np.array(self.physics.data.sensordata[self._senses])

    def proprioception(self) -> Array:
        """(P,) what the walker lists as its proprioception, in its order."""
        return np.concatenate([np.ravel(read()) for read in self._proprioception])

    def head_position(self) -> Array:
        """(3,) m, world frame: origin of the head's body."""
        return np.array(self.physics.data.site_xpos[self.head])

    def ahead(self, direction: Array) -> Array:
        """(3,) world frame: a horizontal direction (x ahead, y left of the root body), along the floor."""
        x, y = self.physics.data.xmat[self.root].reshape(3, 3)[:2, 0]
        heading = np.hypot(x, y)
        return np.asarray(np.array([[x, -y, 0.0], [y, x, 0.0], [0.0, 0.0, heading]]) @ direction / heading)

    def to_target(self) -> Array:
        """(3,) m: from the head to the target, in the axes of the head's body."""
        data = self.physics.data
        axes = data.site_xmat[self.head].reshape(3, 3)
        return np.asarray((data.mocap_pos[self.target] - data.site_xpos[self.head]) @ axes)

    def upright(self) -> float:
        """Cosine of the angle between the root body's z axis and the world's: 1 upright, -1 upside-down."""
        return float(self.physics.data.xmat[self.root, 8])

    def reset(self, seed: int) -> None:
        """Bring the walker to its initial pose, at rest."""
        random_state = np.random.RandomState(seed)
        with self.physics.reset_context():
            self.physics.data.ctrl[:] = 0.0
            self.walker.reinitialize_pose(self.physics, random_state)
            for entity in self.entities:
                entity.initialize_episode(self.physics, random_state)

    def place_target(self, position: npt.ArrayLike) -> None:
        """Put the target at (3,) m, world frame."""
        self.physics.data.mocap_pos[self.target] = position
        self.physics.forward()

    def camera_options(self) -> dict[str, mujoco.MjvOption]:
        """{camera's full name: what its observable draws}, of the egocentric camera: not the walker's own body."""
        camera = self.walker.egocentric_camera
        option = self.walker.observables.egocentric_camera.scene_option
        return {} if option is None else {camera.full_identifier: option}


def _surroundings(model: Any, radius: float) -> None:
    """Floor, sky, light, a camera on the whole, and the target: a ball that nothing collides with."""
    model.visual.headlight.set_attributes(ambient=[0.4] * 3, diffuse=[0.6] * 3, specular=[0.1] * 3)
    model.visual.map.set_attributes(znear=0.01, zfar=50)
    grey = {"rgb1": [0.42, 0.45, 0.50], "rgb2": [0.30, 0.33, 0.38]}
    checks = model.asset.add("texture", name="floor", type="2d", builtin="checker", width=200, height=200, **grey)
    material = model.asset.add("material", name="floor", texture=checks, texrepeat=[5, 5], texuniform=True)
    model.asset.add(
        "texture", name="sky", type="skybox", builtin="gradient", rgb1=[0.62, 0.68, 0.74], rgb2=[0.36, 0.40, 0.46],
        width=64, height=384,
    )  # fmt: skip
    world = model.worldbody
    world.add("geom", name="floor", type="plane", size=[10, 10, 0.25], material=material)
    world.add("light", name="sun", directional=True, pos=[0, 0, 3], dir=[0.2, 0.2, -1], diffuse=[0.5] * 3)
    world.add("camera", name="overview", pos=[-0.9, -0.9, 0.8], xyaxes=[1, -1, 0, 0.4, 0.4, 1.1], fovy=50)
    target = world.add("body", name="target", mocap=True)
    target.add("geom", name="target", type="sphere", size=[radius], rgba=RED, contype=0, conaffinity=0, group=0)


def _add_senses(model: Any, head: Any) -> Any:
    """Sensors of balance at the origin of the head's body, in its axes, one after the other; their site."""
    site = head.add("site", name="head_senses", size=[0.001], group=4)
    for kind in ("gyro", "accelerometer", "velocimeter"):
        model.sensor.add(kind, name=f"{kind}_senses", site=site)
    model.sensor.add("framezaxis", name="z_axis_senses", objtype="xbody", objname="world", reftype="site", refname=site)
    return site
