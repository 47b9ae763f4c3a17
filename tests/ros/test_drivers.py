"""The table of drivers: each one's description of its arm, what is refused, and a driver of the user's own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sensor_msgs.msg import JointState

from aloha_kit import envs
from aloha_kit.config import RigConfig, TaskConfig, to_mapping
from aloha_kit.config.rig import ArmConfig
from aloha_kit.core import ConfigError, PIPER, VX300S
from aloha_kit.ros import inspect
from aloha_kit.ros.arm import ArmSetup
from aloha_kit.ros.drivers import arm_driver, DRIVERS
from aloha_kit.ros.interbotix import InterbotixDriver
from aloha_kit.ros.joint_state_arm import JointStateArm, JointStateDriver
from aloha_kit.ros.sim_rig.simulated_rig import SimRig
from tests.ros.fake_drivers import FakePiper
from tests.ros.master import Ros
from tests.waiting import until

INTERBOTIX = ArmConfig(name="puppet_left")
PIPERS = ArmConfig(driver="joint_state", model="piper", state_topic="/puppet/joint_left", command_topic="/master/joint")
UNKNOWN = r"no 'dynamixel_x' among the drivers\. Known: interbotix, joint_state\. One of your own is given as"


class HalfSpeedDriver(JointStateDriver):
    """An own driver: the joint states are half of what the joints are."""

    effort_unit = "N m"

    def connect(self, setup: ArmSetup) -> JointStateArm:
        return HalvedArm(setup)


class HalvedArm(JointStateArm):
    def leader_action(self, message: Any) -> Any:
        return super().leader_action(JointState(position=[2 * value for value in message.position]))

    def read(self, message: Any) -> Any:
        return super().read(JointState(position=[2 * value for value in message.position]))


OWN = "tests.ros.test_drivers:HalfSpeedDriver"


def rig(**changes: Any) -> RigConfig:
    """One arm, no camera."""
    return RigConfig("one", "ros", cameras={}, followers={"arm": replace(PIPERS, **changes)})


TASK = TaskConfig("reach", "Reach.", rig="one", episode_len=5, rate_hz=25, cameras=())


def test_each_driver_reports_its_topics_its_unit_and_its_model() -> None:
    interbotix, pipers = arm_driver(INTERBOTIX), arm_driver(PIPERS)
    assert isinstance(interbotix, InterbotixDriver)
    assert (interbotix.name, interbotix.state_topic) == ("puppet_left", "/puppet_left/joint_states")
    assert interbotix.command_topics == tuple(
        f"/puppet_left/commands/{topic}" for topic in ("joint_group", "joint_single", "joint_trajectory")
    )
    assert (pipers.name, pipers.state_topic) == ("/puppet/joint_left", "/puppet/joint_left")
    assert pipers.command_topics == ("/master/joint",)
    assert arm_driver(replace(PIPERS, command_topic="")).command_topics == ()
    assert (interbotix.effort_unit, pipers.effort_unit) == ("mA", "unknown")
    assert pipers.motor_registers(["Torque_Enable"]) is None
    # a simulated rig's arms are its scene's, but for drivers whose topics tell the model
    assert (interbotix.model(PIPER), pipers.model(), pipers.model(VX300S)) == (VX300S, PIPER, VX300S)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ArmConfig(), r"an interbotix arm needs a name, the namespace of its driver \(puppet_left\)"),
        (ArmConfig(driver="joint_state"), r"a joint_state arm needs a state_topic \(/puppet/joint_left\)"),
        (ArmConfig(name="arm", driver="dynamixel_x"), UNKNOWN),
        (ArmConfig(name="arm", driver="interbotics"), "Did you mean 'interbotix'"),
        (ArmConfig(name="arm", driver="tests.ros.test_drivers:TASK"), "must be a class derived from ArmDriver, found"),
        (ArmConfig(name="arm", driver="tests.ros.test_drivers:Nothing"), "has no 'Nothing'"),
    ],
)
def test_an_unknown_driver_or_a_lack_is_named(config: ArmConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arm_driver(config)


def test_every_user_of_a_rig_refuses_an_unknown_driver_before_it_contacts_anything(tmp_path: Path) -> None:
    """None takes it for another one. There is no master: what is contacted first would fail otherwise."""
    unknown = rig(driver="dynamixel_x")
    with pytest.raises(ConfigError, match=UNKNOWN):
        envs.connect(TASK, unknown)
    with pytest.raises(ConfigError, match=UNKNOWN):
        inspect.inspect(unknown, [], seconds=0.1, registers=[])
    arms = {side: replace(PIPERS, driver="dynamixel_x") for side in ("left", "right")}
    with pytest.raises(ConfigError, match=r"follower left of rig 'one' has driver 'dynamixel_x', which cannot be"):
        SimRig(replace(unknown, followers=arms), "transfer_cube", operator=None, seed=0, warn=print)
    with_leaders = replace(unknown, leaders=unknown.followers)
    files = {"rig": to_mapping(with_leaders), "task": {**to_mapping(TASK), "rig": str(tmp_path / "rig.yaml")}}
    for name, values in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    for command in ("record", "doctor"):
        words = [sys.executable, "-m", f"aloha_kit.{command}", "--task", str(tmp_path / "task.yaml")]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert f"error: {tmp_path / 'rig.yaml'}: followers: arm: no 'dynamixel_x' among the drivers" in done.stderr, (
            done.stderr
        )
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr


def test_only_the_driver_that_is_used_is_imported() -> None:
    code = (
        "import sys\nfrom aloha_kit.config.rig import ArmConfig\nfrom aloha_kit.ros import inspect, ros_env\n"
        "from aloha_kit.ros.drivers import arm_driver\narm_driver(ArmConfig(driver='joint_state', state_topic='/a'))\n"
        "print([name for name in ('interbotix', 'joint_state_arm') if f'aloha_kit.ros.{name}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['joint_state_arm']", done.stderr
    assert all(target.startswith("aloha_kit.ros.") for target in DRIVERS.values())


def test_an_own_driver_reads_and_moves_its_arm(session_ros: Ros) -> None:
    own = rig(driver=OWN)
    assert arm_driver(own.followers["arm"]).effort_unit == "N m"
    with FakePiper("/puppet/joint_left", "/master/joint") as driver:
        driver.broken = lambda message: setattr(message, "position", [value / 2 for value in message.position])
        with contextlib.closing(envs.connect(TASK, own)) as env:
            env.reset()
            target = [0.05, 0.02, -0.03, 0, 0, 0, 0.5]
            for _ in range(2):
                observation = env.step(np.array(target, np.float32)).observation
            until(lambda: bool(np.allclose(driver.joints, [*target[:6], 0.04], atol=1e-6)), "it is where it was sent")
            assert set(observation) == {"qpos", "images", "images_jpeg", "stamps"}, "it reads positions alone"
            np.testing.assert_allclose(observation["qpos"], target, atol=1e-3)
