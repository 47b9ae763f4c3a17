"""The bimanual rig in MuJoCo: `SimEnv`, its scenes, and scripted experts that solve them.

Usable alone: needs core, MuJoCo, dm_control and the arm meshes of the package gym-aloha 0.1.3.
"""

from aloha_kit.sim.environment import SimEnv
from aloha_kit.sim.expert import expert_for, ScriptedExpert

__all__ = ["ScriptedExpert", "SimEnv", "expert_for"]
