"""The bimanual rig in MuJoCo: `SimEnv`, its scenes, and scripted experts that solve them.

Usable alone: needs core, MuJoCo, dm_control, mink and the arm meshes of the package gym-aloha 0.1.3.
"""

import os
import sys

if sys.platform == "linux":  # servers and robots have no display; MuJoCo reads this once, when it loads
    os.environ.setdefault("MUJOCO_GL", "egl")

from aloha_kit.sim.environment import SimEnv
from aloha_kit.sim.expert import expert_for, ScriptedExpert

__all__ = ["ScriptedExpert", "SimEnv", "expert_for"]
