"""Limits of the checks of recorded episodes, and findings graded by them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aloha_kit.core.findings import Finding, Level
from aloha_kit.core.lang import marked

CHECKS = (
    *(marked("file"), marked("journal"), marked("checksums"), marked("format"), marked("contract"), marked("shapes")),
    *(marked("finite"), marked("ending"), marked("constant"), marked("action"), marked("gripper"), marked("jump")),
    *(marked("stamps"), marked("skew"), marked("rate"), marked("gap"), marked("images"), marked("depth")),
    *(marked("frozen"), marked("repeats"), marked("black"), marked("flat"), marked("duplicate")),
)
"""Names of the checks, as findings have them."""


def finding(level: Level, check: str, found: str) -> Finding:
    """A finding about a file."""
    return Finding(level, check, "", found)


def graded(value: float, limits: tuple[float, float], check: str, message: str) -> Iterator[Finding]:
    """A warning at the first limit, an error at the second, nothing below."""
    if value >= limits[1]:
        yield finding("error", check, message)
    elif value >= limits[0]:
        yield finding("warning", check, message)


@dataclass(frozen=True)
class Bounds:
    """Limits of a valid episode; pairs are (warning, error) limits."""

    rate: tuple[float, float] = (0.05, 0.2)
    """Deviation of the mean control rate from the nominal one, as a fraction."""
    gap_periods: tuple[float, float] = (2.5, 10.0)
    """Longest time between two steps, in control periods."""
    skew_periods: tuple[float, float] = (1.5, 5.0)
    """99th percentile of a stream's distance from the middle of the streams of its row, in control periods."""
    frozen_s: tuple[float, float] = (0.3, 1.0)
    """A camera's image, or a stream's stamp, standing still for this many seconds."""
    frozen_motion: float = 0.15
    """A still image counts only if a joint that is in the camera's image moved this far meanwhile (rad)."""
    repeats: float = 0.2
    """Fraction of a camera's frames that repeat the one before while joints move."""
    black: float = 8.0
    """Brightest pixel of an image that counts as black (0 to 255)."""
    gripper: tuple[float, float] = (0.25, 1.0)
    """Normalised gripper beyond [0, 1] by this much."""
    state_jump: tuple[float, float] = (0.15, 0.5)
    """Measured joint change between two rows (rad); π rad/s is 0.063 a row at 50 Hz."""
    action_jump: float = 0.5
    """Commanded joint change between two steps (rad)."""
