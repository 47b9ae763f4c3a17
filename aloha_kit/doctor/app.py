"""Examination of a rig and of this machine: measure both, check what was measured, report what to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import ConfigError, did_you_mean
from aloha_kit.core.findings import About, Finding
from aloha_kit.core.lang import language, tr
from aloha_kit.doctor import arm_checks, camera_checks, identity, machine_checks, stream_checks
from aloha_kit.doctor.args import DoctorArgs
from aloha_kit.doctor.probe import probe_disk, probe_usb
from aloha_kit.doctor.report import DoctorReport
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
    if not rig.has_drivers:
        raise ConfigError(f"rig '{rig.name}' of task '{task.name}' lists no followers: there is nothing to check")
    for name in task.cameras:
        if name not in rig.cameras:
            raise ConfigError(f"task '{task.name}' wants camera '{name}'. {did_you_mean(name, rig.cameras)}")
    references = {} if args.reference is None else identity.load_references(args.reference, task.cameras)
    from aloha_kit.ros.inspect import inspect  # rospy loads only after the flags are known to be right
    from aloha_kit.ros.node import RosError

    try:
        seen = inspect(rig, task.cameras, seconds=args.seconds, registers=arm_checks.REGISTERS)
    except RosError as error:
        remedy = tr(
            "start the rig's drivers with roslaunch, and set ROS_MASTER_URI to the machine that runs the master"
        )
        return DoctorReport(
            task.name, rig.name, False, (About("network", "ros").error(str(error), tr("a master"), remedy),)
        )
    images = {camera.name: camera.picture for camera in seen.cameras if camera.picture is not None}
    if args.save_reference is not None:
        identity.save_references(args.save_reference, images)
    findings = [
        *_streams(seen, task, rig),
        *_cameras(seen, task, rig),
        *(identity.check_identity(images, references) if references else [_not_recognised()]),
        *_arms(seen, rig),
        *_machine(seen, task, rig, args.dataset_dir),
    ]
    return DoctorReport(task.name, rig.name, seen.simulated, tuple(findings))


def _running_task() -> str:
    from aloha_kit.ros.simulated_rig import running_task  # imports rospy

    return running_task(default="aloha_transfer_cube")


def _not_recognised() -> Finding:
    found = tr("not recognised: give --reference, made once with --save_reference")
    return About("identity", "cameras").ok(found)


def _streams(seen: RigMeasurements, task: TaskConfig, rig: RigConfig) -> list[Finding]:
    return [finding for topic in seen.topics for finding in stream_checks.check_topic(topic, rig.sync, task.rate_hz)]


def _cameras(seen: RigMeasurements, task: TaskConfig, rig: RigConfig) -> list[Finding]:
    small = task.image_size if seen.simulated else None
    heard = {topic.stream: topic for topic in seen.topics}
    moved = any(bool(np.ptp(arm.raw[:, : arm.model.dof], axis=0).max() > MOVED) for arm in seen.arms if len(arm.raw))
    findings = []
    for camera in seen.cameras:
        topic, config = heard[f"images/{camera.name}"], rig.cameras[camera.name]
        if not len(topic.arrivals_ns) and not camera.error:
            continue  # a silent topic has been said
        findings += camera_checks.check_image(camera, small or (config.height, config.width))
        findings += camera_checks.check_life(topic, moved=moved, simulated=seen.simulated)
    return findings


def _arms(seen: RigMeasurements, rig: RigConfig) -> list[Finding]:
    found = {arm.stream: arm for arm in seen.arms}
    followers = {arm.name for arm in rig.followers.values()}
    return [
        *(finding for arm in seen.arms for finding in arm_checks.check_joints(arm)),
        *(
            finding
            for motors in seen.motors
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


def _machine(seen: RigMeasurements, task: TaskConfig, rig: RigConfig, folder: Path | None) -> list[Finding]:
    folder = folder or Path(task.dataset_dir.format(task=task.name))
    asked = {name: rig.cameras[name] for name in task.cameras}
    return [
        *machine_checks.check_network(seen.network, seen.topics, simulated=seen.simulated),
        *machine_checks.check_usb(probe_usb(asked, seen.drivers)),
        *machine_checks.check_bandwidth(seen.topics),
        *machine_checks.check_disk(probe_disk(folder), machine_checks.recorded_bytes_s(seen.topics)),
    ]
