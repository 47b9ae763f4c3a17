"""Scenes with their objects, rewards and scripts: the two tasks of ACT's simulation, in our own scenes."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import mujoco
import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError, Feature
from aloha_kit.core.plugins import call, resolve
from aloha_kit.sim import scripts
from aloha_kit.sim.workcell import ARMS, GRIP

Array = npt.NDArray[np.float64]
Touching = frozenset[tuple[str, str]]
"""Pairs of things in contact, each pair sorted: `left_fingers`, `right_fingers`, `table`, and the task's objects."""


@dataclass(frozen=True)
class Spawn:
    """A rectangle (m) in which an object's centre lies, upright, at the height where it rests."""

    x: tuple[float, float]
    y: tuple[float, float]
    z: float


class SceneState(Protocol):
    """What the rewards and sensors of a scene are computed from: a simulation at one instant."""

    def touching(self) -> Touching:
        """Which parts of the task, fingers and table are in contact."""
        ...

    def object_poses(self) -> dict[str, Array]:
        """Pose (7,) of each object: position (m) and unit quaternion w x y z, world frame."""
        ...

    def arm_joints(self) -> Array:
        """(J,) positions of all arms: rad, and metres of one finger for the grippers."""
        ...

    def gripper_position(self, arm: str) -> Array:
        """(3,) m, world frame: the point between the pads of a gripper."""
        ...

    def sensordata(self) -> Array:
        """(S,) what MuJoCo's sensors measure that the scene added, in its order."""
        ...


class WorkcellScene(abc.ABC):
    """A task in the workcell: what is added to it, how far an episode has come, and how an expert does it.

    Attributes:
        objects: {name: where it starts}, each a body with a free joint of that name.
        max_reward: the reward that means success when the last step holds it.
        min_reward: a lower bound of the reward, -inf for none.
        arms: those of `workcell.ARMS` that stand at the table.
        sensors: features of `sense`, named `sensors/<name>`.
    """

    objects: ClassVar[dict[str, Spawn]]
    max_reward: ClassVar[float] = 4.0
    min_reward: ClassVar[float] = 0.0
    arms: ClassVar[tuple[str, ...]] = ARMS
    sensors: ClassVar[tuple[Feature, ...]] = ()

    @abc.abstractmethod
    def build(self, spec: mujoco.MjSpec) -> None:
        """Add the objects' bodies, named as in `objects`, and whatever else there is."""

    def part(self, geom: str) -> str | None:
        """Name of a geom in `Touching`, or None where contacts do not matter; here: objects by their name."""
        return geom if geom in self.objects else None

    @abc.abstractmethod
    def reward_terms(self, state: SceneState) -> dict[str, float]:
        """{term: its part of the reward} of this instant alone, which sum to at most `max_reward`."""

    def sense(self, state: SceneState) -> dict[str, npt.NDArray[np.float32]]:
        """{name: values} of `sensors`."""
        return {}

    def spawn(self, rng: np.random.Generator) -> dict[str, Array]:
        """A random pose (7,) of each object; here its position is within its spawn region, upright."""
        return {
            name: np.array([rng.uniform(*region.x), rng.uniform(*region.y), region.z, 1.0, 0.0, 0.0, 0.0])
            for name, region in self.objects.items()
        }

    def script(self, poses: Mapping[str, Array]) -> scripts.Script:
        """Script of both arms for these object poses.

        Raises:
            ConfigError: the scene has no expert.
        """
        raise ConfigError(
            "scene {type} has no script; give the task one: script: my_package.module:Name", type=type(self).__name__
        )


class Scene(WorkcellScene):
    """A scene whose reward, the one term `stage`, follows from contacts and objects."""

    @abc.abstractmethod
    def reward(self, touching: Touching, poses: Mapping[str, Array]) -> float:
        """0 to `max_reward`, of this instant alone.

        Args:
            poses: {object: (7,) m, unit quaternion w x y z, world frame}.
        """

    def reward_terms(self, state: SceneState) -> dict[str, float]:
        return {"stage": float(self.reward(state.touching(), state.object_poses()))}


class TransferCube(Scene):
    """A red cube is picked up by the right arm and handed over to the left one, in the air.

    Reward: 1 the right fingers touch the cube, 2 and it is off the table, 3 the left fingers touch it,
    4 and it is off the table.
    """

    objects: ClassVar[dict[str, Spawn]] = {"cube": Spawn((0.0, 0.2), (0.4, 0.6), 0.02)}

    def build(self, spec: mujoco.MjSpec) -> None:
        spec.add_material(name="cube", rgba=(0.84, 0.13, 0.11, 1), specular=0.2, shininess=0.3)
        box(free_body(spec, "cube", self.objects["cube"]), "cube", (0.02, 0.02, 0.02), (0, 0, 0), "cube", 0.05)

    def reward(self, touching: Touching, poses: Mapping[str, Array]) -> int:
        lifted = ("cube", "table") not in touching
        if ("cube", "left_fingers") in touching:
            return 4 if lifted else 3
        if ("cube", "right_fingers") in touching:
            return 2 if lifted else 1
        return 0

    def script(self, poses: Mapping[str, Array]) -> scripts.Script:
        return scripts.transfer_cube(poses)


class Insertion(Scene):
    """The right arm's peg is pushed into the left arm's socket, in the air, until it meets the pin inside.

    Reward: 1 each arm's fingers touch their part, 2 and both parts are off the table, 3 peg and socket
    touch while both are off the table, 4 the peg touches the pin.
    """

    objects: ClassVar[dict[str, Spawn]] = {
        "peg": Spawn((0.1, 0.2), (0.4, 0.6), 0.01),
        "socket": Spawn((-0.2, -0.1), (0.4, 0.6), 0.022),
    }

    def build(self, spec: mujoco.MjSpec) -> None:
        spec.add_material(name="peg", rgba=(0.84, 0.13, 0.11, 1), specular=0.2, shininess=0.3)
        spec.add_material(name="socket", rgba=(0.12, 0.30, 0.72, 1), specular=0.2, shininess=0.3)
        box(free_body(spec, "peg", self.objects["peg"]), "peg", (0.06, 0.01, 0.01), (0, 0, 0), "peg", 0.05)
        socket = free_body(spec, "socket", self.objects["socket"])
        for name, size, pos in (
            ("socket_floor", (0.06, 0.018, 0.002), (0, 0, -0.02)),
            ("socket_roof", (0.06, 0.018, 0.002), (0, 0, 0.02)),
            ("socket_far", (0.06, 0.002, 0.022), (0, 0.02, 0)),
            ("socket_near", (0.06, 0.002, 0.022), (0, -0.02, 0)),
        ):
            box(socket, name, size, pos, "socket", 0.01)
        box(socket, "pin", (0.04, 0.01, 0.01), (0, 0, 0), "peg", 0.01)

    def part(self, geom: str) -> str | None:
        if geom.startswith("socket_"):
            return "socket"
        return geom if geom in {"peg", "pin"} else None

    def reward(self, touching: Touching, poses: Mapping[str, Array]) -> int:
        lifted = ("peg", "table") not in touching and ("socket", "table") not in touching
        held = ("left_fingers", "socket") in touching and ("peg", "right_fingers") in touching
        if ("peg", "pin") in touching:
            return 4
        if ("peg", "socket") in touching and lifted:
            return 3
        if held:
            return 2 if lifted else 1
        return 0

    def script(self, poses: Mapping[str, Array]) -> scripts.Script:
        return scripts.insertion(poses)


SCENES = {
    "transfer_cube": "aloha_kit.sim.tasks:TransferCube",
    "transfer_cube_shaped": "aloha_kit.sim.shaped_transfer_cube:ShapedTransferCube",
    "hold_cube": "aloha_kit.sim.hold_cube:HoldCube",
    "insertion": "aloha_kit.sim.tasks:Insertion",
    "reach": "aloha_kit.sim.reach:Reach",
    "reach_dense": "aloha_kit.sim.reach:DenseReach",
}


def scene(name: str) -> WorkcellScene:
    """The task called `name`: one of `SCENES`, or `my_package.module:Name`.

    Raises:
        ConfigError: no such scene; names the nearest.
    """
    made: WorkcellScene = call("scenes", name, resolve("scenes", name, SCENES, base=WorkcellScene), {})
    return made


def script_of(task: WorkcellScene, name: str = "") -> Callable[[Mapping[str, Array]], scripts.Script]:
    """The script called `name`, one of `scripts.SCRIPTS` or `my_package.module:Name`; the scene's own without a name.

    Raises:
        ConfigError: no such script; names the nearest.
    """
    found: Callable[[Mapping[str, Array]], scripts.Script] = (
        resolve("scripts", name, scripts.SCRIPTS) if name else task.script
    )
    return found


def pose_entries(task: WorkcellScene) -> tuple[str, ...]:
    """Names of the entries of the objects' poses: position (m) and unit quaternion, world frame."""
    return tuple(f"{name}_{axis}" for name in task.objects for axis in ("x", "y", "z", "qw", "qx", "qy", "qz"))


def free_body(spec: mujoco.MjSpec, name: str, region: Spawn) -> mujoco.MjsBody:
    """A body that moves freely, with a joint of its own name."""
    body = spec.worldbody.add_body(name=name, pos=(np.mean(region.x), np.mean(region.y), region.z))
    body.add_freejoint(name=name)
    return body


def box(
    body: mujoco.MjsBody,
    name: str,
    size: tuple[float, float, float],
    pos: tuple[float, float, float],
    material: str,
    mass: float,
) -> None:
    """A box that the grippers can hold: half sizes and place in its body (m), mass (kg)."""
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=size,
        pos=pos,
        material=material,
        mass=mass,
        group=1,
        **GRIP,
    )
