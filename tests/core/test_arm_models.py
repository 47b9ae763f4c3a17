"""Joint order and gripper scales are those of ALOHA's data sets."""

import numpy as np
import pytest

from aloha_kit.core import ARM_MODELS, ArmModel, joint_names, VX300S, WX250S


def test_vector_order_is_left_arm_left_gripper_right_arm_right_gripper() -> None:
    names = joint_names()
    assert len(names) == 14
    assert (names[0], names[6], names[7], names[13]) == ("left_waist", "left_gripper", "right_waist", "right_gripper")


@pytest.mark.parametrize("scale", [VX300S.finger, VX300S.gripper, WX250S.finger, WX250S.gripper])
def test_gripper_scale_maps_its_ends_and_inverts(scale) -> None:  # type: ignore[no-untyped-def]
    assert scale.normalise(scale.closed) == pytest.approx(0, abs=1e-6)
    assert scale.normalise(scale.open) == pytest.approx(1, abs=1e-6)
    travel = np.linspace(scale.closed - 0.1, scale.open + 0.1, 7)
    np.testing.assert_allclose(scale.unnormalise(scale.normalise(travel)), travel, atol=1e-6)


def test_finger_and_motor_scale_differ_as_measured_on_aloha() -> None:
    """A finger's travel is x = h sin q + sqrt(a² - (h cos q)²): the two normalisations disagree by up to 0.093."""
    h, a = 0.022, 0.036
    angle = np.linspace(VX300S.gripper.closed, VX300S.gripper.open, 500)
    travel = h * np.sin(angle) + np.sqrt(a**2 - (h * np.cos(angle)) ** 2)
    gap = np.abs(VX300S.finger.normalise(travel) - VX300S.gripper.normalise(angle)).max()
    assert gap == pytest.approx(0.093, abs=0.005)


def test_velocity_scale_is_the_derivative_of_the_position_scale() -> None:
    scale, dt = VX300S.finger, 1e-3
    numeric = (scale.normalise(0.03 + 0.5 * dt) - scale.normalise(0.03)) / dt
    assert scale.normalise_velocity(0.5) == pytest.approx(numeric, rel=1e-3)


@pytest.mark.parametrize("model", [VX300S, WX250S])
def test_finger_speed_is_the_derivative_of_finger_travel(model) -> None:  # type: ignore[no-untyped-def]
    """The drivers publish no finger speed: it comes from the motor's through the crank."""
    for angle in np.linspace(-1.2, 1.4, 27):
        slope = (model.crank.travel(angle + 1e-5) - model.crank.travel(angle - 1e-5)) / 2e-5
        assert model.crank.travel_rate(angle) == pytest.approx(slope, rel=1e-5)


def test_crank_gives_the_travel_that_aloha_measured() -> None:
    """ALOHA's constants list both scales of each gripper; half a millimetre is how well they agree."""
    for model in (VX300S, WX250S):
        assert model.crank is not None
        assert model.crank.travel(model.gripper.open) == pytest.approx(model.finger.open, abs=5e-4)
        assert model.crank.travel(model.gripper.closed) == pytest.approx(model.finger.closed, abs=5e-4)


@pytest.mark.parametrize("model", ARM_MODELS.values(), ids=lambda model: model.name)
def test_an_arm_can_be_where_it_starts_and_rests(model) -> None:  # type: ignore[no-untyped-def]
    for pose in (model.start, model.rest):
        assert all(low <= value <= high for low, value, high in zip(model.lower, pose, model.upper, strict=True))


@pytest.mark.parametrize("model", [VX300S, WX250S], ids=lambda model: model.name)
def test_the_cranks_angle_is_the_inverse_of_its_travel(model: ArmModel) -> None:
    for angle in np.linspace(-1.5, 1.5, 13):
        assert model.crank.angle(model.crank.travel(angle)) == pytest.approx(angle, abs=1e-9)
    assert model.crank.angle(0.0) == pytest.approx(-np.pi / 2)
    assert model.crank.angle(1.0) == pytest.approx(np.pi / 2), "no further than it goes"
