"""A simulated rig gets the cameras of the policy."""

from __future__ import annotations

from dataclasses import replace

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.config.fit import as_trained, camera_sizes
from aloha_kit.core import Contract, joint_names

TASK = replace(load(TaskConfig, "tasks", "sim_transfer_cube"), cameras=("top", "angle"), image_size=(24, 32))
RIG = load(RigConfig, "rigs", "sim")


def contract(**cameras: tuple[int, int]) -> Contract:
    return Contract(joint_names(), joint_names(), cameras, 50.0)


def test_cameras_and_sizes_are_the_policys() -> None:
    task, rig = as_trained(TASK, RIG, contract(top=(32, 48), left_wrist=(8, 16)))
    assert (task.cameras, task.image_size) == (("top", "left_wrist"), None)
    assert {name: (rig.cameras[name].height, rig.cameras[name].width) for name in task.cameras} == {
        "top": (32, 48),
        "left_wrist": (8, 16),
    }
    assert rig.cameras["angle"] == RIG.cameras["angle"]


def test_a_camera_that_the_rig_has_not_is_left_for_the_contracts_to_name() -> None:
    task, rig = as_trained(TASK, RIG, contract(cam_high=(9, 9), top=(32, 48)), size=(60, 80))
    assert task.cameras == ("top",)
    assert (rig.cameras["top"].height, rig.cameras["top"].width) == (60, 80)


def test_sizes_of_policies_that_do_not_say() -> None:
    assert camera_sizes(TASK, RIG, (60, 80)) == {"top": (60, 80), "angle": (60, 80)}
    assert camera_sizes(TASK, RIG) == {"top": (24, 32), "angle": (24, 32)}
    assert camera_sizes(replace(TASK, image_size=None), RIG)["top"] == (480, 640)
    assert camera_sizes(replace(TASK, cameras=("top", "cam_high")), RIG) == {"top": (24, 32)}


def test_cameras_behind_ros_keep_their_sizes_unless_the_rig_is_told() -> None:
    task, rig = load(TaskConfig, "tasks", "aloha_transfer_cube"), load(RigConfig, "rigs", "aloha")
    seen, same = as_trained(task, rig, contract(cam_high=(24, 32), cam_low=(24, 32)))
    assert same is rig
    assert (seen.cameras, seen.image_size) == (("cam_high", "cam_low"), (24, 32))
    mixed, _ = as_trained(task, rig, contract(cam_high=(24, 32), cam_low=(9, 9)))
    assert mixed.image_size is None, "one size cannot stand for two"
