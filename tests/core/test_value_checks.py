"""Bounds of configuration values."""

from __future__ import annotations

import math
import re

import pytest

from aloha_kit.core.value_checks import at_least, positive, within


def test_values_at_their_bounds() -> None:
    at_least(1, steps=1)
    positive(rate=1e-9)
    within("[0, 1)", ema=0, dropout=0.999)
    within("(0, 1]", crop=1)


def test_a_value_that_was_not_given() -> None:
    at_least(1, steps=None)
    positive(rate=None)
    within("[0, 1)", ema=None)


@pytest.mark.parametrize(
    ("interval", "value"),
    [("[0, 1)", 1), ("[0, 1)", -1e-9), ("(0, 1]", 0), ("(0, 1]", 1.5), ("(0, 1)", 0), ("[0, 1]", math.nan)],
)
def test_a_value_outside_of_its_interval(interval: str, value: float) -> None:
    text = re.escape(f"dropout must be in {interval}, given {value}")
    with pytest.raises(ValueError, match=f"^{text}$"):
        within(interval, good=0.5, dropout=value)


def test_the_first_wrong_value_is_named() -> None:
    with pytest.raises(ValueError, match=r"^threads must be at least 2, given 1$"):
        at_least(2, workers=2, threads=1, steps=0)
    with pytest.raises(ValueError, match=r"^rate_hz must be positive, given nan$"):
        positive(rate_hz=math.nan)
