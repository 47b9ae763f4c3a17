"""The driver that docs/extending.md shows: an arm of seven joints that speaks degrees, moved, guarded and parked."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import numpy as np
import pytest
import rospy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from aloha_kit import envs
from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import SafetyError
from aloha_kit.loop import run_episode
from aloha_kit.ros.ros_env import RosEnv
from tests.loop.fake_rig import Constant
from tests.ros.fake_drivers import Ticking
from tests.ros.master import Ros
from tests.test_extending import FILES
from tests.waiting import until

START = np.rad2deg([0.0, -0.5, 0.0, -2.0, 0.0, 1.5, 0.7])
REST = np.rad2deg([0.0, -1.6, 0.0, -2.9, 0.0, 1.2, 0.0])


class DegreesNode:
    """What the arm's driver does: seven joints in degrees and a gripper in millimetres, at 100 Hz."""

    def __init__(self) -> None:
        self.values, self._lock = np.append(REST, 40.0), threading.Lock()
        self._states = rospy.Publisher("/arm/state", JointState, queue_size=5)
        self._goals = rospy.Subscriber("/arm/goal", Float64MultiArray, self._move)
        self._ticking = Ticking(100.0, self._publish)

    def _move(self, message: Float64MultiArray) -> None:
        with self._lock:
            self.values = np.array(message.data)

    def _publish(self) -> None:
        message = JointState(position=self.values.tolist())
        message.header.stamp = rospy.Time.now()
        self._states.publish(message)

    def close(self) -> None:
        self._ticking.close()
        self._states.unregister()
        self._goals.unregister()


def test_the_driver_of_the_guide_moves_its_arm_and_parks_it(
    session_ros: Ros, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("my_arm.py", "my_rig.yaml"):
        (tmp_path / file).write_text(FILES[file], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    rig = load(RigConfig, "rigs", "my_rig.yaml")
    task = TaskConfig("reach", "Reach.", rig="my_rig", episode_len=15, rate_hz=25, cameras=())
    with contextlib.closing(DegreesNode()) as node, contextlib.closing(envs.connect(task, rig)) as env:
        assert isinstance(env, RosEnv)
        assert env.contract.state_names == (*(f"arm_joint{i}" for i in range(1, 8)), "arm_gripper")
        efforts = [feature.units for feature in env.contract.sensors if feature.name == "effort"]
        assert efforts == [("N m",) * 8]
        target = np.append(np.deg2rad(START + 2.0), 0.25).astype(np.float32)
        with env.guarded(Constant(target)) as guard:
            assert run_episode(env, guard).steps == 15
            until(lambda: bool(np.allclose(node.values, [*(START + 2.0), 20.0], atol=1e-3)), "at its target")
        np.testing.assert_allclose(node.values, [*REST, 80.0], atol=1e-3)
        env.estop.press("a test pressed it")
        with pytest.raises(SafetyError, match="a test pressed it"):
            env.followers["arm"].command(env.followers["arm"].hold_target())
