"""Success, decided in one place, and limits of an environment."""

from typing import Any

import numpy as np
import pytest

from aloha_kit.core import Contract, Outcome, SafetyLimits
from tests.loop.fake_rig import FakeRig


class Unmeasured(FakeRig):
    max_reward = 0.0  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("final", "highest", "error", "succeeded", "touched"),
    [
        (5.0, 5.0, False, True, True),
        (4.9, 5.0, False, False, True),  # reached and lost again
        (4.9, 4.9, False, False, False),
        (5.0, 5.0, True, False, True),
    ],
)
def test_success_is_the_highest_reward_at_the_last_step(
    final: float, highest: float, error: bool, succeeded: bool, touched: bool
) -> None:
    outcome = Outcome(5, final, highest, "complete", error)
    assert FakeRig(5).succeeded(outcome) is succeeded
    assert FakeRig(5).touched(outcome) is touched


@pytest.mark.parametrize("error", [False, True])
def test_nothing_is_judged_where_nothing_measures_success(error: bool) -> None:
    outcome = Outcome(5, 0.0, 0.0, "complete", error)
    assert Unmeasured(5).succeeded(outcome) is None
    assert Unmeasured(5).touched(outcome) is None
    assert (Unmeasured(5).measures_success, FakeRig(5).measures_success) == (False, True)
    assert not Unmeasured(5).is_highest(0.0)


def test_limits_by_name_targets_ramp_and_velocities_do_not() -> None:
    contract = Contract.of(("x", "y"), ("y", "wheel", "x"), {}, rate_hz=10.0)
    limits = SafetyLimits.of(contract, [-1, -2, -3], 3.0, [1, 2, 0.5], ramp=0.5)
    assert (limits.names, limits.state_index) == (("y", "wheel", "x"), (1, None, 0))
    expected: dict[str, Any] = {
        "lower": [-1, -2, -3], "upper": [3, 3, 3], "step": [0.1, 0.2, 0.05], "ramp": [0.05, 0.2, 0.025],
    }  # fmt: skip
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(limits, name), values, rtol=1e-7, err_msg=name)
    np.testing.assert_array_equal(limits.present([0.25, 0.5]), [0.5, 0.0, 0.25])
