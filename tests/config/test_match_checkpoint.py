"""A simulated rig gets the cameras of the policy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.config.match_checkpoint import assumed_setup, match_checkpoint, renames
from aloha_kit.core import ConfigError, Contract, joint_names

TASK = replace(load(TaskConfig, "tasks", "sim_transfer_cube"), cameras=("top", "angle"), image_size=(24, 32))
RIG = load(RigConfig, "rigs", "sim")


def contract(**cameras: tuple[int, int]) -> Contract:
    return Contract.of(joint_names(), joint_names(), cameras, 50.0)


def test_cameras_and_sizes_are_the_policys() -> None:
    task, rig = match_checkpoint(TASK, RIG, contract(top=(32, 48), left_wrist=(8, 16)))
    assert (task.cameras, task.image_size) == (("top", "left_wrist"), None)
    assert {name: (rig.cameras[name].height, rig.cameras[name].width) for name in task.cameras} == {
        "top": (32, 48),
        "left_wrist": (8, 16),
    }
    assert rig.cameras["angle"] == RIG.cameras["angle"]


def test_a_camera_that_the_rig_has_not_is_left_for_the_contracts_to_name() -> None:
    task, rig = match_checkpoint(TASK, RIG, contract(cam_high=(9, 9), top=(32, 48)), size=(60, 80))
    assert task.cameras == ("top",)
    assert (rig.cameras["top"].height, rig.cameras["top"].width) == (60, 80)


def test_cameras_of_policies_that_do_not_record_them_are_the_tasks_or_named() -> None:
    assert assumed_setup(TASK, RIG, None, (60, 80)).cameras == {"top": (60, 80), "angle": (60, 80)}
    plain = assumed_setup(TASK, RIG)
    assert plain.cameras == {"top": (24, 32), "angle": (24, 32)}
    assert (plain.named, plain.cautious, plain.rate_hz) == (False, False, 50.0)
    assert (plain.cameras_from, plain.sizes_from) == ("task 'sim_transfer_cube'", "task 'sim_transfer_cube'")
    assert assumed_setup(replace(TASK, image_size=None), RIG).cameras["top"] == (480, 640)
    assert assumed_setup(replace(TASK, cameras=("top", "cam_high")), RIG).cameras == {"top": (24, 32)}

    named = assumed_setup(TASK, RIG, ("left_wrist", "cam_high"), None, {"cam_high": "top"})
    assert list(named.cameras) == ["left_wrist", "cam_high"]  # the training's order
    assert (named.named, named.cameras_from) == (True, "--cameras")
    task, rig = load(TaskConfig, "tasks", "aloha_transfer_cube"), load(RigConfig, "rigs", "aloha")
    renamed = assumed_setup(task, rig, None, None, {"top": "cam_high"}, robot=True)
    assert "top" in renamed.cameras
    assert "cam_high" not in renamed.cameras
    assert renamed.cautious
    with pytest.raises(ConfigError, match="--cameras names each camera once, given: top top"):
        assumed_setup(TASK, RIG, ("top", "top"))


def test_cameras_are_renamed_in_words() -> None:
    assert renames(("top=cam_high", "left=cam_left_wrist")) == {"top": "cam_high", "left": "cam_left_wrist"}
    for words in (("top",), ("=top",), ("top=",), ("a=b=c",)):
        with pytest.raises(ConfigError, match=r"--rename takes POLICY_CAMERA=RIG_CAMERA, such as top=cam_high; given"):
            renames(words)
    for words in (("a=b", "a=c"), ("a=b", "c=b")):
        with pytest.raises(ConfigError, match="--rename names a camera twice"):
            renames(words)


def test_the_cameras_of_a_robot_keep_their_sizes() -> None:
    task, rig = load(TaskConfig, "tasks", "aloha_transfer_cube"), load(RigConfig, "rigs", "aloha")
    seen, same = match_checkpoint(task, rig, contract(cam_high=(24, 32), cam_low=(24, 32)), robot=True)
    assert same is rig
    assert (seen.cameras, seen.image_size) == (("cam_high", "cam_low"), (24, 32))
    mixed, _ = match_checkpoint(task, rig, contract(cam_high=(24, 32), cam_low=(9, 9)), robot=True)
    assert mixed.image_size is None, "one size cannot stand for two"
