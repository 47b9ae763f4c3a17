"""Imports point downwards only, and each stage loads without what another stage needs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "aloha_kit"

# What a room may import besides itself. Applications import rooms, never one another.
LOWER = {
    "startup": set(),
    "core": set(),
    "config": {"core"},
    "episode": {"startup", "core", "config"},
    "loop": {"core"},
    "media": {"core", "episode", "loop"},
    "sim": {"core", "config"},
    "ros": {"core", "config", "loop", "sim"},
    "rigs": {"core", "config", "sim", "ros"},
    "data": {"core", "config", "episode"},
    "remote": {"core"},
    "policies": {"startup", "core", "config", "data"},
}
APPLICATIONS = {"record", "train", "deploy", "replay", "report", "teleop", "doctor", "eval", "reproduce", "diagnose"}
LOWER |= {app: set(LOWER) for app in APPLICATIONS}


def imported_rooms(file: Path) -> set[str]:
    """Rooms of the package that a file imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("aloha_kit."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "aloha_kit":
            found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("aloha_kit.")}
    return found


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [f for f in sorted(PACKAGE.rglob("*.py")) if f.parent != PACKAGE or f.stem != "__init__"]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_downwards(file: Path) -> None:
    room = room_of(file)
    assert room in LOWER, f"a new room '{room}' must be placed in this table"
    wrong = imported_rooms(file) - LOWER[room] - {room}
    assert not wrong, f"{room} must not import {', '.join(sorted(wrong))}"


BLOCK = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Block())
import {modules}
"""


@pytest.mark.parametrize(
    ("modules", "blocked"),
    [
        ("aloha_kit.core, aloha_kit.config, aloha_kit.loop", {"torch", "rospy", "mujoco", "h5py", "cv2"}),
        ("aloha_kit.episode.__main__", {"torch", "rospy", "mujoco", "dm_control"}),
        ("aloha_kit.record.__main__, aloha_kit.record.worker", {"torch", "rospy"}),
        ("aloha_kit.replay.__main__, aloha_kit.replay.app", {"torch", "rospy"}),
        ("aloha_kit.train.__main__, aloha_kit.train.app", {"rospy", "mujoco", "dm_control", "rerun"}),
        (
            "aloha_kit.policies.build, aloha_kit.policies.reference, aloha_kit.data.cache",
            {"rospy", "mujoco", "dm_control", "rerun", "matplotlib"},
        ),
        ("aloha_kit.deploy.__main__, aloha_kit.deploy.app", {"torch", "rospy"}),  # a remote policy's side
        ("aloha_kit.remote, aloha_kit.policies.asynchronous", {"torch", "rospy", "mujoco", "h5py"}),
        ("aloha_kit.diagnose.__main__, aloha_kit.diagnose.picture", {"torch", "rospy", "mujoco", "dm_control"}),
        ("aloha_kit.diagnose.app", {"torch", "rospy", "mujoco", "dm_control", "matplotlib", "av"}),
        ("aloha_kit.sim", {"torch", "rospy", "h5py", "gymnasium"}),
        ("aloha_kit.eval.__main__, aloha_kit.eval.worker", {"torch", "rospy", "h5py"}),
        ("aloha_kit.reproduce.__main__", {"torch", "rospy", "mujoco", "dm_control", "matplotlib"}),
        ("aloha_kit.eval.app", {"rospy", "mujoco", "dm_control", "h5py", "matplotlib"}),
    ],
)
def test_stages_load_without_the_others_dependencies(modules: str, blocked: set[str]) -> None:
    code = BLOCK.format(blocked=blocked, modules=modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
