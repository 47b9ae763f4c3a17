"""Optional capabilities: an environment has one by having its methods, and is parked by its own method."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from aloha_kit.core import ConfigError, VirtualClock
from aloha_kit.loop import guarded, run_episode, SafetyGuard
from aloha_kit.loop.capabilities import Demonstrator, ImagesOnRequest, LiveRobot, require, StartPoses
from tests.loop.fake_rig import Constant, FakeRig


class Robot(FakeRig):
    """Parks itself, whatever happens."""

    def __init__(self) -> None:
        super().__init__(5)
        self.clock = VirtualClock()
        self.left: list[str] = []

    def operator(self, commands: Any, namespace: str) -> Any: ...

    @contextlib.contextmanager
    def guarded(self, policy: Any, *, release: bool = False) -> Iterator[SafetyGuard]:
        try:
            yield SafetyGuard(policy, self.limits)
        finally:
            self.left.append("released" if release else "parked")


def test_an_environment_that_fails_is_left_at_its_rest_action() -> None:
    rig = FakeRig(1000, fail_at=30)

    def fails_once() -> None:
        with guarded(rig, Constant(np.array([1.0, 0.5]))) as guard:
            try:
                run_episode(rig, guard)
            finally:
                rig.fail_at = None

    with pytest.raises(OSError, match="bus"):
        fails_once()
    np.testing.assert_allclose(rig.sent[-1], rig.rest_action, atol=1e-6)
    assert len(rig.sent) > 60


def test_an_environment_that_ends_in_good_order_is_not_moved() -> None:
    rig = FakeRig(5)
    with guarded(rig, Constant(np.zeros(2))) as guard:
        run_episode(rig, guard)
    assert len(rig.sent) == 5


@pytest.mark.parametrize("release", [False, True])
def test_a_live_robot_is_parked_by_itself_on_every_way_out(release: bool) -> None:
    robot = Robot()
    assert isinstance(robot, LiveRobot)
    with guarded(robot, Constant(np.zeros(2)), release=release) as guard:
        run_episode(robot, guard)
    with pytest.raises(KeyboardInterrupt), guarded(robot, Constant(np.zeros(2)), release=release):
        raise KeyboardInterrupt
    assert robot.left == ["released" if release else "parked"] * 2
    assert len(robot.sent) == 5


def test_what_is_lacking_is_named() -> None:
    rig = FakeRig()
    for protocol in (Demonstrator, ImagesOnRequest, StartPoses, LiveRobot):
        assert not isinstance(rig, protocol)
    with pytest.raises(ConfigError, match=r"^--eval_poses: environment FakeRig lacks 'starts'$"):
        require(rig, StartPoses, "--eval_poses")
    with pytest.raises(ConfigError, match=r"FakeRig lacks 'clock', 'guarded', 'operator'$"):
        require(rig, LiveRobot, "here")
