"""The arms' kinematics against a product of exponentials from the arm's drawing."""

from __future__ import annotations

import numpy as np
import pytest
from pyquaternion import Quaternion

from aloha_kit.sim import SimEnv
from aloha_kit.sim.kinematics import Kinematics, Pose
from aloha_kit.sim.workcell import PINCH

LIMITS = np.array([[-2.0, 2.0], [-1.6, 1.1], [-1.6, 1.5], [-2.0, 2.0], [-1.6, 2.0], [-2.5, 2.5]])

# ViperX 300s at zero angles, in its base's frame: each joint's axis and a point on it (m).
AXES = np.array([[0, 0, 1], [0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]], float)
SHOULDER = 0.079 + 0.04805
POINTS = np.array(
    [
        [0, 0, 0],
        [0, 0, SHOULDER],
        [0.05955, 0, SHOULDER + 0.3],
        [0.05955, 0, SHOULDER + 0.3],
        [0.05955 + 0.3, 0, SHOULDER + 0.3],
        [0.05955 + 0.3, 0, SHOULDER + 0.3],
    ]
)
HOME = np.array([0.05955 + 0.3 + 0.069744 + PINCH, 0, SHOULDER + 0.3])


def product_of_exponentials(arm: str, joints: np.ndarray) -> np.ndarray:
    """(4, 4) pose of the pinch point in the world (Brockett 1984)."""
    result = np.eye(4)
    result[:3, :3] = np.diag([1, 1, 1]) if arm == "left" else np.diag([-1, -1, 1])
    result[:3, 3] = [-0.469 if arm == "left" else 0.469, 0.5, 0]
    for axis, point, angle in zip(AXES, POINTS, joints, strict=True):
        cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
        rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        screw = np.eye(4)
        screw[:3, :3], screw[:3, 3] = rotation, point - rotation @ point
        result = result @ screw
    home = np.eye(4)
    home[:3, 3] = HOME
    return result @ home


@pytest.fixture(scope="module")
def kinematics() -> Kinematics:
    return Kinematics()


@pytest.mark.parametrize("arm", ["left", "right"])
def test_forward_kinematics_is_the_arms(arm: str, kinematics: Kinematics) -> None:
    rng = np.random.default_rng(0)
    for joints in rng.uniform(LIMITS[:, 0], LIMITS[:, 1], (20, 6)):
        pose = kinematics.forward(arm, joints)
        # the assets turn the right base by 3.1416 rather than pi, and round a length to 1e-5 m
        np.testing.assert_allclose(pose.matrix(), product_of_exponentials(arm, joints), atol=2e-5)


def test_the_environment_has_the_same_arms() -> None:
    env = SimEnv("transfer_cube", cameras={})
    start = env.reset().observation["qpos"]
    for arm, joints in (("left", start[:6]), ("right", start[7:13])):
        site = env.physics.data.site(f"{arm}_pinch")
        wanted = product_of_exponentials(arm, np.asarray(joints, float))
        np.testing.assert_allclose(site.xpos, wanted[:3, 3], atol=2e-5)
        np.testing.assert_allclose(site.xmat.reshape(3, 3), wanted[:3, :3], atol=2e-5)


def test_pads_close_on_the_pinch_point() -> None:
    """The faces of the pads are 2 (finger - 22.45 mm) apart, with the pinch point in the middle."""
    env = SimEnv("transfer_cube", cameras={})
    env.reset()
    with env.physics.reset_context():
        for side, sign in (("left", 1), ("right", -1)):
            env.physics.data.joint(f"vx300s_left/{side}_finger").qpos[0] = sign * 0.05
    hand = env.physics.data.site("left_pinch")
    across = hand.xmat.reshape(3, 3)[:, 1]
    for side, sign in (("left", 1), ("right", -1)):
        pad = env.physics.data.geom(f"left_{side}_pad").xpos - hand.xpos
        face = pad @ across - sign * env.physics.model.geom(f"left_{side}_pad").size[1]
        assert face == pytest.approx(sign * (0.05 - 0.02245), abs=1e-6)


@pytest.mark.parametrize("arm", ["left", "right"])
def test_inverse_kinematics_reaches_what_forward_gave(arm: str, kinematics: Kinematics) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        joints = np.array([0.2, -0.6, 1.0, 0.1, 0.7, 0.2]) + rng.uniform(-0.2, 0.2, 6)
        target = product_of_exponentials(arm, joints)
        found = kinematics.inverse(arm, Pose.of(target), np.array([0.0, -0.5, 0.9, 0.0, 0.6, 0.0]))
        np.testing.assert_allclose(product_of_exponentials(arm, found), target, atol=3e-4)


def test_what_is_out_of_reach_is_named(kinematics: Kinematics) -> None:
    far = Pose(np.array([0.9, 0.5, 0.3]), Quaternion())
    with pytest.raises(ValueError, match=r"the left gripper does not reach \[0.9, 0.5, 0.3\] m"):
        kinematics.inverse("left", far, np.zeros(6))


def test_gravity_is_made_up_for(kinematics: Kinematics) -> None:
    """Servos commanded to a pose plus the sag come to rest at the pose."""
    env = SimEnv("transfer_cube", cameras={}, episode_len=150)
    action = env.reset().observation["qpos"].astype(float)
    joints = np.array([0.1, -0.4, 0.8, 0.1, 0.5, 0.2])
    action[:6] = joints + kinematics.sag({"left": joints})["left"]
    plain = joints.copy()
    action[7:13] = plain
    for _ in range(150):
        qpos = env.step(action.astype(np.float32)).observation["qpos"]
    np.testing.assert_allclose(qpos[:6], joints, atol=2e-4)
    assert np.abs(qpos[7:13] - plain).max() > 2e-3, "without it the arm hangs lower"
