"""A simulated rig that a loaded machine can serve: small images at a low rate, in files that a command line takes."""

from __future__ import annotations

import contextlib
import dataclasses
import xmlrpc.client
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from aloha_kit.config import ArmConfig, CameraConfig, load, RigConfig, TaskConfig, to_mapping
from aloha_kit.core import START_ARM_POSE
from aloha_kit.remote import PolicyServer, ServedPolicy
from aloha_kit.sync.observation import rig_contract
from tests.ros.master import Process, Ros

SIZE = (48, 64)
CAMERA_HZ = 10.0
TELEOPERATED = RigConfig(
    name="fake",
    kind="ros",
    followers={"left": ArmConfig(name="puppet_left"), "right": ArmConfig(name="puppet_right")},
    leaders={
        "left": ArmConfig(name="master_left", model="wx250s"),
        "right": ArmConfig(name="master_right", model="wx250s"),
    },
    cameras={"cam_high": CameraConfig(48, 64, topic="/usb_cam_high/image_raw/compressed")},
)
"""Two leaders, two followers and a camera, for the fake drivers."""


def write_task(
    folder: Path, rig: str = "mobile_aloha", *, cameras: Sequence[str] | None = None, **changes: Any
) -> Path:
    """The task file of a rig whose cameras are slow and small; arms keep their rates."""
    config = load(RigConfig, "rigs", rig)
    slow = {name: dataclasses.replace(camera, rate_hz=CAMERA_HZ) for name, camera in config.cameras.items()}
    config = dataclasses.replace(config, name=f"small_{rig}", cameras=slow)
    task = load(TaskConfig, "tasks", f"{rig}_transfer_cube")
    file = folder / f"{rig}.yaml"
    changes = {"cameras": tuple(cameras if cameras is not None else task.cameras), "image_size": SIZE, **changes}
    task = dataclasses.replace(task, rig=str(folder / f"rig_{rig}.yaml"), dataset_dir=str(folder / "data"), **changes)
    Path(task.rig).write_text(yaml.safe_dump(to_mapping(config)), encoding="utf-8")
    file.write_text(yaml.safe_dump(to_mapping(task)), encoding="utf-8")
    return file


@contextlib.contextmanager
def simulated(ros: Ros, task: Path, *, cameras: bool = True, **options: object) -> Iterator[Callable[[], Process]]:
    """The rig's nodes for the body; what is given starts the arms' node anew, for tests that killed it."""
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]

    def arms() -> Process:
        process = ros.start("python", "record/sim_arms_node", "--task", str(task), *given)
        process.wait_for("is up")
        started.append(process)
        return process

    started: list[Process] = []
    try:
        arms()
        if cameras:
            started.append(ros.start("python", "record/sim_cameras_node", "--task", str(task)))
            started[-1].wait_for("cameras of")
        yield arms
    finally:
        for process in started:
            process.stop()
        for name in ("/sim_rig", "/sim_rig_resume", "/sim_rig_faults"):
            delete_param(ros, name)


class Swinging:
    """A network that moves both waists."""

    def reset(self) -> None: ...

    def predict_chunk(self, observation: Any) -> Any:
        chunk = np.tile([*START_ARM_POSE, 0.0], (100, 2)).astype(np.float32)
        chunk[:, [0, 7]] = 0.3 * np.sin(np.arange(100) * 2 * np.pi / 100)[:, None]
        return chunk


@contextlib.contextmanager
def swinging_policy(task: Path) -> Iterator[tuple[str, ...]]:
    """The flags of a deployment whose policy is on another machine: its process needs no torch."""
    config = load(TaskConfig, "tasks", str(task))
    contract = rig_contract(config, load(RigConfig, "rigs", config.rig), True, {})
    with PolicyServer(ServedPolicy(Swinging(), contract, 100), "127.0.0.1", 0, "secret").running() as serving:
        yield "--remote", f"127.0.0.1:{serving.port}", "--token", "secret"


def set_param(ros: Ros, name: str, value: object) -> None:
    """Set a parameter without being a node."""
    xmlrpc.client.ServerProxy(ros.environment["ROS_MASTER_URI"]).setParam("/tests", name, value)


def delete_param(ros: Ros, name: str) -> None:
    """Delete one, if it is there."""
    xmlrpc.client.ServerProxy(ros.environment["ROS_MASTER_URI"]).deleteParam("/tests", name)


def recording(folder: Path, size: int = 20_000) -> bool:
    """Whether an episode in `folder` is under way: steps are in its journal, not its header alone."""
    return any(file.stat().st_size > size for file in folder.glob("*.partial"))
