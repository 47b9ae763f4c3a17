"""Downloads that go on where they were cut."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

ATTEMPTS = 8
"""Times in a row that a connection may bring nothing."""


def resume(attempt: Callable[[], str], part: Path, *, wait_s: float = 1.0) -> str:
    """Call `attempt`, which appends to `part`, until the file is complete.

    Args:
        attempt: returns "" once the file is complete, or why it was cut.
        wait_s: before another attempt; grows while nothing comes.

    Returns:
        "" for a complete file, or the last reason where `ATTEMPTS` in a row brought nothing.
    """
    without = 0
    while True:
        before = _size(part)
        if not (why := attempt()):
            return ""
        without = 0 if _size(part) > before else without + 1
        if without >= ATTEMPTS:
            return why
        time.sleep(wait_s * without)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
