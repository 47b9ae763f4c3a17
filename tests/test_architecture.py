"""Imports point downwards only, and each stage loads without what another stage needs."""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "aloha_kit"

# What a package may import besides itself. Applications import packages, never one another.
LOWER = {
    "startup": set(),
    "core": {"startup"},
    "command": {"startup", "core"},
    "config": {"core"},
    "storage": {"core", "config"},
    "episode": {"startup", "command", "core", "config", "storage", "formats"},
    "loop": {"core"},
    "media": {"core"},
    "mujoco_images": {"core"},
    "sim": {"core", "config", "mujoco_images"},
    "pusht": {"core", "config", "loop"},
    "locomotion": {"core", "config", "mujoco_images"},
    "lift": {"core", "config", "formats", "mujoco_images"},
    "sync": {"core", "config"},
    "ros": {"core", "config", "loop", "sim", "sync"},
    "envs": {"core", "config"},
    "testing": {"core", "loop", "data", "policies"},
    "control": {"core"},
    "formats": {"core", "config", "loop", "sync", "storage", "stores", "media", "mujoco_images"},
    "data": {"command", "core", "config", "storage", "formats", "episode", "stores"},
    "stores": {"core"},
    "remote": {"core"},
    "policies": {"command", "core", "config", "storage", "formats", "data"},
}
# Every application also has `command` and `core`.
APPLICATIONS = {
    "record": {"config", "storage", "loop", "media", "envs"},
    "train": {"config", "storage", "episode", "loop", "media", "envs", "control", "formats", "data", "policies"},
    "deploy": {"config", "storage", "loop", "media", "envs", "control", "data", "policies", "remote"},
    "eval": {"config", "storage", "loop", "media", "envs", "control", "policies"},
    "replay": {"config", "storage", "episode", "loop", "media", "envs", "formats"},
    "diagnose": {"storage", "media", "formats", "data", "policies"},
    "doctor": {"config", "ros", "envs"},
    "teleop": {"config", "loop", "media", "envs", "ros"},
    "convert": {"storage", "episode", "formats"},
    "reproduce": {"config", "storage", "loop"},
    "sweep": {"config"},
    "report": {"config", "storage"},
    "rl": {"config", "storage", "loop", "media", "envs", "mujoco_images"},
}
LOWER |= {name: {"command", "core"} | packages for name, packages in APPLICATIONS.items()}


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported_packages(file: Path) -> set[str]:
    """Packages of aloha_kit that a file imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("aloha_kit."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "aloha_kit":
            found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("aloha_kit.")}
    return found


def package_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [f for f in sorted(PACKAGE.rglob("*.py")) if f.parent != PACKAGE or f.stem != "__init__"]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_downwards(file: Path) -> None:
    package = package_of(file)
    assert package in LOWER, f"a new package '{package}' must be placed in this table"
    wrong = imported_packages(file) - LOWER[package] - {package}
    assert not wrong, f"{package} must not import {', '.join(sorted(wrong))}"


def imported_files(file: Path) -> set[Path]:
    """Files of aloha_kit that a file imports, at any depth of its code, for types too."""
    names: set[str] = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    paths = {PACKAGE.parent / f"{name.replace('.', '/')}.py" for name in names if name.startswith("aloha_kit.")}
    return {path for path in paths if path.exists()}


def test_no_file_imports_itself_through_others() -> None:
    left = {file: imported_files(file) for file in FILES}
    while free := {file for file, imported in left.items() if not imported & left.keys()}:
        left = {file: imported for file, imported in left.items() if file not in free}
    assert not left, f"in a circle, or above one: {sorted(str(file.relative_to(PACKAGE)) for file in left)}"


# Where the one line is written that a failed command ends with, for one process and for several.
ENDS_A_COMMAND = {"core/cli.py", "train/distributed.py"}


@pytest.mark.parametrize("package", LOWER)
def test_only_what_is_imported_is_allowed(package: str) -> None:
    imported = {name for file in FILES if package_of(file) == package for name in imported_packages(file)}
    assert not LOWER[package] - imported, f"{package} no longer imports what the table allows it"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_print_is_for_results_on_standard_output(file: Path) -> None:
    """Applications print their results; other packages log, and nothing is printed to standard error."""
    nodes = list(ast.walk(parsed(file)))
    found = [node for node in nodes if isinstance(node, ast.Name) and node.id == "print"]
    if str(file.relative_to(PACKAGE)) in ENDS_A_COMMAND:
        return
    applications = {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
    assert not found or package_of(file) in applications, f"{file}: log it"
    calls = [node for node in nodes if isinstance(node, ast.Call) and node.func in found]
    elsewhere = [node.lineno for node in calls if any(keyword.arg == "file" for keyword in node.keywords)]
    assert not elsewhere, f"{file}: log it, lines {elsewhere}"


# What reads the flags of a command: its command line, its first file, and what completes them by prompts.
READS_FLAGS = {"args.py", "app.py", "__main__.py", "adopt.py"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_flags_end_in_the_first_file_of_a_command(file: Path) -> None:
    """A class of flags is imported by no file behind `app.py`, and is no field of what `app.py` passes on."""
    nodes = list(ast.walk(parsed(file)))
    classes = {
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith(".args")
        for alias in node.names
        if alias.name[0].isupper() and not alias.name.isupper()
    }
    assert not classes or file.name in READS_FLAGS, f"{file}: take values, not {', '.join(classes)}"
    fields = [item for node in nodes if isinstance(node, ast.ClassDef) for item in node.body]
    names = {
        node.id
        for field in fields
        if isinstance(field, ast.AnnAssign)
        for node in ast.walk(field.annotation)
        if isinstance(node, ast.Name)
    }
    assert not classes & names, f"{file}: hold values, not {', '.join(classes & names)}"


# What is imported, and what must not be needed for it. Everything that may be needed elsewhere is listed.
STAGES = (
    ("aloha_kit.core, aloha_kit.config, aloha_kit.loop", {"torch", "rospy", "mujoco", "h5py", "cv2"}),
    (
        "aloha_kit.sync.observation, aloha_kit.sync.leaders, aloha_kit.sync.topics",
        {"torch", "rospy", "genpy", "sensor_msgs", "mujoco", "h5py"},
    ),
    (
        "aloha_kit.formats.rosbag, aloha_kit.formats.mcap_source, aloha_kit.formats.mcap_export",
        {"torch", "rospy", "genpy", "sensor_msgs", "mujoco", "rosbags", "mcap"},
    ),
    ("aloha_kit.storage, aloha_kit.episode.app", {"torch", "rospy", "mujoco", "dm_control"}),
    ("aloha_kit.record.app, aloha_kit.record.recording_worker", {"torch", "rospy"}),
    ("aloha_kit.replay.args, aloha_kit.replay.app", {"torch", "rospy"}),
    ("aloha_kit.deploy.args, aloha_kit.deploy.app", {"torch", "rospy"}),  # a remote policy's side
    (
        "aloha_kit.control.async_inference, aloha_kit.control.simulated_latency",
        {"torch", "rospy", "mujoco", "h5py", "cv2"},
    ),
    ("aloha_kit.remote", {"torch", "rospy", "mujoco", "h5py"}),
    (
        "aloha_kit.data.index, aloha_kit.data.stats, aloha_kit.data.chunks, aloha_kit.data.sampler, "
        "aloha_kit.data.camera_statistics, aloha_kit.formats.hdf5_folder, aloha_kit.formats.robomimic",
        {"torch", "rospy", "mujoco", "dm_control"},
    ),
    ("aloha_kit.diagnose.args, aloha_kit.diagnose.figure", {"torch", "rospy", "mujoco", "dm_control"}),
    ("aloha_kit.diagnose.app", {"torch", "rospy", "mujoco", "dm_control", "matplotlib", "av"}),
    ("aloha_kit.pusht", {"torch", "rospy", "h5py", "mujoco", "dm_control"}),
    ("aloha_kit.sim", {"torch", "rospy", "h5py", "gymnasium"}),
    ("aloha_kit.eval.args, aloha_kit.eval.worker", {"torch", "rospy", "h5py"}),
    ("aloha_kit.sweep.app", {"torch", "rospy", "mujoco", "dm_control", "h5py", "matplotlib"}),
    ("aloha_kit.reproduce.app", {"torch", "rospy", "mujoco", "dm_control", "matplotlib"}),
    ("aloha_kit.train.args, aloha_kit.train.training_run", {"rospy", "mujoco", "dm_control", "rerun"}),
    (
        "aloha_kit.policies.build, aloha_kit.policies.reference, aloha_kit.data.cache",
        {"rospy", "mujoco", "dm_control", "rerun", "matplotlib"},
    ),
    ("aloha_kit.eval.app", {"rospy", "mujoco", "dm_control", "h5py", "matplotlib"}),
)

# One interpreter, and a fork of it for each stage, so that no stage profits from what another one imported; torch,
# which takes seconds, is imported once for those that may have it.
IMPORT_EACH = """
import importlib.abc, json, os, sys, traceback
import numpy
class Block(importlib.abc.MetaPathFinder):
    def __init__(self, blocked):
        self.blocked = blocked
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in self.blocked:
            raise ImportError('blocked: ' + name)
stages = enumerate(json.load(sys.stdin))
for number, (modules, blocked) in sorted(stages, key=lambda stage: 'torch' not in stage[1][1]):
    if 'torch' not in blocked:
        import torchvision
    child = os.fork()
    if not child:
        try:
            sys.meta_path.insert(0, Block(blocked))
            exec('import ' + modules)
        except BaseException:
            print(f'{number}:', traceback.format_exc().splitlines()[-1], flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(f'{number}: died', flush=True)
"""


@pytest.fixture(scope="module")
def failed_imports() -> dict[str, str]:
    """{number of a stage: the error}, of the stages whose import failed."""
    stages = json.dumps([(modules, sorted(blocked)) for modules, blocked in STAGES])
    done = subprocess.run([sys.executable, "-c", IMPORT_EACH], input=stages, capture_output=True, text=True, check=True)
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("number", range(len(STAGES)), ids=[modules.split(",")[0] for modules, _ in STAGES])
def test_stages_load_without_the_others_dependencies(number: int, failed_imports: dict[str, str]) -> None:
    assert str(number) not in failed_imports, failed_imports[str(number)]
