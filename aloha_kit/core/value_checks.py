"""Bounds of numbers in configurations and flags.

Each check raises `ValueError` for the first value outside of its bound, by its name. None stands for a value that was
not given and passes; nan never does.
"""

from __future__ import annotations

from aloha_kit.core.lang import Message


def at_least(lowest: int, **values: float | None) -> None:
    """Require values of at least `lowest`."""
    for name, value in values.items():
        if value is not None and not value >= lowest:
            raise ValueError(
                Message("{name} must be at least {lowest}, given {value}", name=name, lowest=lowest, value=value)
            )


def positive(**values: float | None) -> None:
    """Require values above 0."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(Message("{name} must be positive, given {value}", name=name, value=value))


def within(interval: str, **values: float | None) -> None:
    """Require values in an interval such as `[0, 1)`."""
    low, high = map(float, interval[1:-1].split(","))
    for name, value in values.items():
        if value is None:
            continue
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ValueError(
                Message("{name} must be in {interval}, given {value}", name=name, interval=interval, value=value)
            )
