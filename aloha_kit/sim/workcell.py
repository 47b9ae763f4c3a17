"""Two ViperX 300s across a table: kinematics from the installed assets, everything else from here.

World frame: x from the left arm to the right one, y away from the viewer, z up from the table top,
metres. The arms' bases stand at x = ±0.469, y = 0.5. Collision shapes and physics are the same at
every image quality; only what is drawn differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import mujoco
import numpy as np

from aloha_kit.config import ViewConfig
from aloha_kit.core import ConfigError, did_you_mean, joint_names, VX300S
from aloha_kit.core.arm_models import ARM_JOINTS
from aloha_kit.sim import assets

ARMS = ("left", "right")
"""In the order of the vectors; both are a `VX300S`."""
GRIPPERS = [i for i, name in enumerate(joint_names(ARMS)) if name.endswith("gripper")]
"""Where the grippers' openings stand in a vector of both arms."""
TIMESTEP = 0.002  # s
START_GRIPPER = 0.02239  # m of finger travel: all but closed, where ALOHA's episodes begin
BASE_X, BASE_Y = 0.469, 0.5  # m: the right arm stands at (BASE_X, BASE_Y, 0), the left one at -BASE_X


@dataclass(frozen=True)
class Actuator:
    """A position servo: stiffness (N m/rad or N/m) and the most it can push (N m or N)."""

    stiffness: float
    limit: float
    rotor: float  # kg m² (kg for the fingers) as seen after the gearbox


# Limits are the stall torques of the arm's motors (XM540 single and in pairs, XM430); the stiffness is
# what holds gravity sag near a millimetre at the gripper, as the real servos do.
SERVOS = {
    "waist": Actuator(800.0, 10.6, 0.10),
    "shoulder": Actuator(1600.0, 21.2, 0.10),
    "elbow": Actuator(800.0, 21.2, 0.10),
    "forearm_roll": Actuator(200.0, 10.6, 0.02),
    "wrist_angle": Actuator(200.0, 10.6, 0.02),
    "wrist_rotate": Actuator(100.0, 4.1, 0.01),
    "gripper": Actuator(1000.0, 35.0, 0.20),
}
FINGER_METRES_PER_RADIAN = (VX300S.finger.open - VX300S.finger.closed) / (VX300S.gripper.open - VX300S.gripper.closed)
"""Finger travel for a turn of the gripper's motor, so that finger force (N) reads as motor torque (N m)."""

PINCH = 0.1437
"""Metres from a gripper's `gripper_link` to the point between its pads, 1 cm behind the finger tips."""

GRIP = {"condim": 4, "friction": (1.0, 0.02, 0.0001), "solref": (0.004, 1.0), "solimp": (0.95, 0.99, 0.001, 0.5, 2.0)}
"""Contact of pads and objects: rubber on plastic, stiff, with torsional friction (a pad is no point)."""


@dataclass(frozen=True)
class Quality:
    """Quality of rendered images; `cell` (m) is the detail of the arms' meshes below which they are simplified."""

    shadow_map: int  # texels a side, 0 for no shadows
    samples: int  # of multisampling, 0 for none
    cell: float  # m, 0 for the meshes as they are


QUALITIES = {
    "draft": Quality(shadow_map=0, samples=0, cell=0.008),
    "fast": Quality(shadow_map=1024, samples=0, cell=0.006),
    "fine": Quality(shadow_map=2048, samples=4, cell=0.0),
}


CAMERAS = {
    "top": ViewConfig((0.0, 0.46, 1.15), (0.0, 0.5, 0.0), 38.0),
    "angle": ViewConfig((0.0, -0.30, 0.75), (0.0, 0.5, 0.12), 46.0),
    "front_close": ViewConfig((0.0, -0.02, 0.42), (0.0, 0.5, 0.16), 55.0),
    # behind and above the gripper, looking at the pads
    "left_wrist": ViewConfig((-0.005, 0.0, 0.13), (PINCH, 0.0, 0.0), 62.0, mount="left_gripper"),
    "right_wrist": ViewConfig((-0.005, 0.0, 0.13), (PINCH, 0.0, 0.0), 62.0, mount="right_gripper"),
}
"""The cameras that every scene has; a rig's configuration may place them elsewhere and add others."""


def arm_rows(index: int) -> slice:
    """The entries of arm number `index` of `ARMS` in a vector of both arms."""
    return slice(VX300S.size * index, VX300S.size * (index + 1))


def quality(name: str) -> Quality:
    """The drawing settings called `name`.

    Raises:
        ConfigError: no such quality; names the nearest.
    """
    if name not in QUALITIES:
        raise ConfigError("no image quality '{name}'. {known}", name=name, known=did_you_mean(name, QUALITIES))
    return QUALITIES[name]


def cameras(views: Mapping[str, ViewConfig], arms: Sequence[str] = ARMS) -> dict[str, ViewConfig]:
    """{name: view} of the workcell's cameras and of `views`, or in their place, but for absent arms'."""
    mounts = {"world", *(f"{arm}_gripper" for arm in arms)}
    return {name: view for name, view in {**CAMERAS, **views}.items() if view.mount in mounts}


def base(
    drawing: Quality, views: Mapping[str, ViewConfig] = MappingProxyType({}), arms: Sequence[str] = ARMS
) -> mujoco.MjSpec:
    """Arms, table, lights and cameras, with an actuator for each entry of an action, in its order; no objects yet.

    Args:
        views: cameras beside the workcell's, or in their place.
        arms: those of `ARMS` that stand at the table.
    """
    folder = assets.folder()
    files = "".join(f'<include file="{folder}/vx300s_{arm}.xml"/>' for arm in arms)
    spec = mujoco.MjSpec.from_string(
        f'<mujoco model="aloha"><compiler meshdir="{folder}" angle="radian"/>'
        f'<include file="{folder}/vx300s_dependencies.xml"/><worldbody>'
        f"{files}"
        "</worldbody></mujoco>"
    )
    _options(spec, drawing)
    _simplified_meshes(spec, drawing)
    for arm in arms:
        _gripper(spec, arm)
    for arm in arms:
        _servos(spec, arm)
    _surroundings(spec)
    for name, view in cameras(views, arms).items():
        _add_camera(spec, name, view)
    return spec


def _options(spec: mujoco.MjSpec, drawing: Quality) -> None:
    spec.compiler.inertiagrouprange = (0, 5)  # the assets would leave our objects without mass
    option = spec.option
    option.timestep = TIMESTEP
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST  # servo damping stays stable at 2 ms
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10.0  # friction nearly as hard as the normal force: a held object does not creep
    # more contacts than corners need make a peg jam in its socket
    option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_MULTICCD)
    spec.visual.quality.shadowsize = drawing.shadow_map
    spec.visual.quality.offsamples = drawing.samples
    spec.visual.headlight.ambient = (0.34, 0.34, 0.34)
    spec.visual.headlight.diffuse = (0.18, 0.18, 0.18)
    spec.visual.headlight.specular = (0.0, 0.0, 0.0)
    spec.visual.map.znear = 0.02
    spec.visual.map.zfar = 6.0
    spec.visual.map.shadowclip = 0.8
    spec.stat.extent = 1.0
    spec.stat.center = (0.0, 0.5, 0.1)


def _simplified_meshes(spec: mujoco.MjSpec, drawing: Quality) -> None:
    """Each asset mesh becomes two geoms: its convex hull to collide (group 3, never drawn) and one to draw.

    Fingers are the exception: a hull would fill the hollow of the finger, so their pads are boxes.
    """
    drawn: dict[str, str] = {}
    for mesh in list(spec.meshes):
        drawn[mesh.name] = mesh.name
        if drawing.cell > 0:
            triangles = assets.read_stl(assets.folder() / mesh.file)
            vertices, faces = assets.simplify(triangles, drawing.cell / mesh.scale[0])
            drawn[mesh.name] = f"{mesh.name}_drawn"
            spec.add_mesh(
                name=drawn[mesh.name],
                uservert=(vertices * mesh.scale).ravel().tolist(),
                userface=faces.ravel().tolist(),
                inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
            )
    spec.add_material(name="arm", rgba=(0.16, 0.17, 0.19, 1), specular=0.35, shininess=0.4)
    spec.add_material(name="finger", rgba=(0.33, 0.35, 0.38, 1), specular=0.2, shininess=0.3)
    for geom in list(spec.geoms):
        finger = "finger" in geom.name
        shape = geom.parent.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH,
            name=f"{geom.name}_drawn",
            meshname=drawn[geom.meshname],
            pos=geom.pos,
            quat=geom.quat,
            material="finger" if finger else "arm",
            group=1,
            contype=0,
            conaffinity=0,
            mass=0,
        )
        shape.alt.type, shape.alt.euler = geom.alt.type, geom.alt.euler
        if finger:
            spec.delete(geom)
        else:
            geom.group = 3
            geom.mass = 0  # bodies carry their own inertia


def _gripper(spec: mujoco.MjSpec, arm: str) -> None:
    """Pads that grip, a link between the fingers as the real crank makes it, and the wrist camera."""
    prefix = f"vx300s_{arm}"
    for side, sign in (("left", 1.0), ("right", -1.0)):
        finger = spec.body(f"{prefix}/{side}_finger_link")
        # in the finger's frame: the pad's face is 22.45 mm on the other side of the slider's zero
        finger.add_geom(
            name=f"{arm}_{side}_pad",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=(0.0525, sign * (-0.02245 + 0.004), 0),
            size=(0.0325, 0.004, 0.006),
            group=3,
            mass=0,
            **GRIP,
        )
        finger.add_geom(
            name=f"{arm}_{side}_knuckle",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=(0.0085, sign * (-0.02245 + 0.0122), 0),
            size=(0.0135, 0.0122, 0.028),
            group=3,
            mass=0,
        )
    fingers = (f"{prefix}/left_finger_link", f"{prefix}/right_finger_link")
    spec.add_exclude(bodyname1=fingers[0], bodyname2=fingers[1])
    for finger in fingers:
        spec.add_exclude(bodyname1=finger, bodyname2=f"{prefix}/gripper_prop_link")
    link = spec.add_equality(
        name=f"{arm}_crank",
        type=mujoco.mjtEq.mjEQ_JOINT,
        objtype=mujoco.mjtObj.mjOBJ_JOINT,
        name1=f"{prefix}/right_finger",
        name2=f"{prefix}/left_finger",
        solref=(0.004, 1.0),
        solimp=(0.95, 0.99, 0.001, 0.5, 2.0),
    )
    link.data[:5] = (0.0, -1.0, 0.0, 0.0, 0.0)
    hand = spec.body(f"{prefix}/gripper_link")
    hand.add_site(name=f"{arm}_pinch", pos=(PINCH, 0, 0), group=4)
    spec.delete(next(c for c in spec.cameras if c.name == f"{arm}_wrist"))


def _servos(spec: mujoco.MjSpec, arm: str) -> None:
    limits = dict(zip(ARM_JOINTS, zip(VX300S.lower, VX300S.upper, strict=True), strict=True))
    limits["gripper"] = VX300S.finger_limits
    for name, servo in SERVOS.items():
        joint = spec.joint(f"vx300s_{arm}/{'left_finger' if name == 'gripper' else name}")
        joints = [joint]
        if name == "gripper":
            joints.append(spec.joint(f"vx300s_{arm}/right_finger"))
        for each in joints:
            each.armature = servo.rotor
            each.frictionloss = 0.0  # the asset's values hold a joint against 60 N m; the servo's damping takes over
        actuator = spec.add_actuator(
            name=f"{arm}_{name}",
            target=joint.name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            ctrllimited=True,
            ctrlrange=limits[name],
            forcelimited=True,
            forcerange=(-servo.limit, servo.limit),
        )
        actuator.set_to_position(kp=servo.stiffness, dampratio=1.0)


def _surroundings(spec: mujoco.MjSpec) -> None:
    world = spec.worldbody
    spec.add_material(name="table", rgba=(0.78, 0.70, 0.58, 1), specular=0.0, shininess=0.0)
    spec.add_texture(
        name="room",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=(0.62, 0.68, 0.74),
        rgb2=(0.36, 0.40, 0.46),
        width=64,
        height=384,
    )
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=(0, 0.6, -0.015),
        size=(0.61, 0.381, 0.015),
        material="table",
        group=1,
        condim=4,
        friction=(1.0, 0.02, 0.0001),
        solref=(0.004, 1.0),
    )
    # the key light is steep and stands at the near right: from elsewhere its coarse shadow map stripes the table
    for name, position, direction, strength, shadow in (
        ("key", (0.45, 0.05, 1.5), (-0.15, 0.15, -1.0), 0.42, True),
        ("fill", (-0.75, -0.4, 0.9), (0.4, 0.7, -0.6), 0.22, False),
    ):
        world.add_light(
            name=name,
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            pos=position,
            dir=direction,
            diffuse=(strength,) * 3,
            specular=(0.3 * strength,) * 3,
            castshadow=shadow,
        )


def _add_camera(spec: mujoco.MjSpec, name: str, view: ViewConfig) -> None:
    arm = view.mount.removesuffix("_gripper")
    body = spec.worldbody if view.mount == "world" else spec.body(f"vx300s_{arm}/gripper_link")
    axes = look_at(view.position, view.target, up=(0, 0, 1))
    body.add_camera(name=name, pos=view.position, xyaxes=axes, fovy=view.fovy)


def look_at(
    position: tuple[float, float, float], target: tuple[float, float, float], up: tuple[float, float, float]
) -> tuple[float, ...]:
    """The x and y axes (6 numbers) of a camera at `position` whose -z axis points at `target`."""
    forward = np.asarray(target, float) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-9:  # straight up or down: the image's upper edge is the far one
        right = np.cross(forward, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    return (*right.tolist(), *np.cross(right, forward).tolist())
