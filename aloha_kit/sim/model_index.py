"""Indices of a scene's joints, actuators, sites and geoms in MuJoCo's arrays."""

from __future__ import annotations

import mujoco
import numpy as np

from aloha_kit.core import joint_names
from aloha_kit.sim import tasks


class ModelIndex:
    """Indices into MuJoCo's arrays, looked up once.

    Attributes:
        qpos, qvel: of what the actuators drive.
        ctrl_range: (lower, upper) of the actuators.
        grippers: of the grippers' openings in a vector of all arms.
        mirror_qpos: of the fingers that follow the driven ones.
        pinch: {arm: its site between the pads}.
        object_qpos: of the objects' poses.
        part: names in `Touching` of every geom, or None.
    """

    def __init__(self, model: mujoco.MjModel, task: tasks.WorkcellScene) -> None:
        driven = model.actuator_trnid[:, 0]
        self.qpos = model.jnt_qposadr[driven]
        self.qvel = model.jnt_dofadr[driven]
        self.ctrl_range = (model.actuator_ctrlrange[:, 0].copy(), model.actuator_ctrlrange[:, 1].copy())
        self.mirror_qpos = [model.joint(f"vx300s_{arm}/right_finger").qposadr[0] for arm in task.arms]
        self.grippers = [i for i, name in enumerate(joint_names(task.arms)) if name.endswith("gripper")]
        self.pinch = {arm: model.site(f"{arm}_pinch").id for arm in task.arms}
        starts = [model.joint(name).qposadr[0] for name in task.objects]
        self.object_qpos = np.concatenate([np.arange(start, start + 7) for start in starts])
        self.part = [_part(model.geom(i).name, task) for i in range(model.ngeom)]


def _part(geom: str, task: tasks.WorkcellScene) -> str | None:
    if geom == "table":
        return "table"
    for arm in task.arms:
        if geom.startswith(f"{arm}_"):
            return f"{arm}_fingers"
    return task.part(geom)
