"""Examination of a rig and of this machine: measure both, check what was measured, report what to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import ConfigError
from aloha_kit.core.findings import About, Finding
from aloha_kit.core.lang import language, tr
from aloha_kit.doctor import arm_checks, camera_checks, identity, machine_checks, stream_checks
from aloha_kit.doctor.args import DoctorArgs
from aloha_kit.doctor.doctor_report import DoctorReport
from aloha_kit.doctor.probe import probe_disk, probe_usb
from aloha_kit.envs import needs_ros
from aloha_kit.ros.rig_measurements import RigMeasurements

MOVED = 0.15
"""rad that a joint turned during the check, from which a simulated image should have changed too."""


def run(args: DoctorArgs) -> int:
    """Examine and print; returns 0 for GO, 1 for NO-GO."""
    if args.json:
        with language("en"):  # programs read it
            report = examine(args)
            print(json.dumps(report.to_mapping(), indent=2))
    else:
        report = examine(args)
        print(report.text())
    return 0 if report.go else 1


def examine(args: DoctorArgs) -> DoctorReport:
    """Measure the rig and check what was measured.

    Raises:
        ConfigError: a wrong task, a rig that is not behind ROS, a folder without references.
    """
    task = load(TaskConfig, "tasks", args.task or _running_task())
    rig = load(RigConfig, "rigs", args.rig or task.rig)
    if not needs_ros(rig):
        raise ConfigError(
            "rig '{rig}' of task '{task}' has kind '{kind}', which needs no ROS; the doctor examines rigs behind ROS 1",
            rig=rig.name,
            task=task.name,
            kind=rig.kind,
        )
    for name in task.cameras:
        rig.camera(name)
    references = {} if args.reference is None else identity.load_references(args.reference, task.cameras)
    from aloha_kit.ros.inspect import inspect  # after the flags are checked, since rospy takes long to load
    from aloha_kit.ros.node import RosError

    try:
        measured = inspect(rig, task.cameras, seconds=args.seconds, registers=arm_checks.REGISTERS)
    except RosError as error:
        remedy = tr(
            "start the rig's drivers with roslaunch, and set ROS_MASTER_URI to the machine that runs the master"
        )
        return DoctorReport(
            task.name, rig.name, False, (About("network", "ros").error(str(error), tr("a master"), remedy),)
        )
    images = {camera.name: camera.image for camera in measured.cameras if camera.image is not None}
    if args.save_reference is not None:
        identity.save_references(args.save_reference, images)
    findings = [
        *_streams(measured, task, rig),
        *_cameras(measured, task, rig),
        *(identity.check_identity(images, references) if references else [_not_recognised()]),
        *_arms(measured, rig),
        *_machine(measured, task, rig, args.dataset_dir),
    ]
    return DoctorReport(task.name, rig.name, measured.simulated, tuple(findings))


def _running_task() -> str:
    from aloha_kit.ros.operator_topics import running_task  # imports rospy

    return running_task(default="aloha_transfer_cube")


def _not_recognised() -> Finding:
    found = tr("not recognised: give --reference, made once with --save_reference")
    return About("identity", "cameras").ok(found)


def _streams(measured: RigMeasurements, task: TaskConfig, rig: RigConfig) -> list[Finding]:
    return [
        finding for topic in measured.topics for finding in stream_checks.check_topic(topic, rig.sync, task.rate_hz)
    ]


def _cameras(measured: RigMeasurements, task: TaskConfig, rig: RigConfig) -> list[Finding]:
    small = task.image_size if measured.simulated else None
    topics = {topic.stream: topic for topic in measured.topics}
    moved = any(
        bool(np.ptp(arm.raw[:, : arm.model.dof], axis=0).max() > MOVED) for arm in measured.arms if len(arm.raw)
    )
    findings = []
    for camera in measured.cameras:
        topic, config = topics[f"images/{camera.name}"], rig.cameras[camera.name]
        if not len(topic.arrivals_ns) and not camera.error:
            continue  # reported with the topics
        findings += camera_checks.check_image(camera, small or (config.height, config.width))
        findings += camera_checks.check_life(topic, moved=moved, simulated=measured.simulated)
    return findings


def _arms(measured: RigMeasurements, rig: RigConfig) -> list[Finding]:
    found = {arm.stream: arm for arm in measured.arms}
    followers = {arm.name for arm in rig.followers.values()}
    return [
        *(finding for arm in measured.arms for finding in arm_checks.check_joints(arm)),
        *(
            finding
            for motors in measured.motors
            for finding in arm_checks.check_motors(motors, follower=motors.arm in followers)
        ),
        *(
            finding
            for side in rig.leaders
            for finding in arm_checks.check_following(
                side, found[f"qpos_{side}"], found[f"leader_{side}"], hardware=rig.teleop == "hardware"
            )
        ),
    ]


def _machine(measured: RigMeasurements, task: TaskConfig, rig: RigConfig, folder: Path | None) -> list[Finding]:
    folder = folder or Path(task.dataset_dir.format(task=task.name))
    cameras = {name: rig.cameras[name] for name in task.cameras}
    return [
        *machine_checks.check_network(measured.network, measured.topics, simulated=measured.simulated),
        *machine_checks.check_usb(probe_usb(cameras, measured.drivers)),
        *machine_checks.check_bandwidth(measured.topics),
        *machine_checks.check_disk(probe_disk(folder), machine_checks.recorded_bytes_s(measured.topics)),
    ]
