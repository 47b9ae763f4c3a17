"""Transfers that are tried again, and downloads that go on where they were cut."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from aloha_kit.core import AlohaKitError
from aloha_kit.core.errors import reason
from aloha_kit.stores.store import StoreError

ATTEMPTS = 8
"""Times in a row that a connection may bring nothing."""
FINAL = (FileNotFoundError, FileExistsError, PermissionError, AlohaKitError)
"""Errors that another attempt would end with, too."""

R = TypeVar("R")


def attempts(attempt: Callable[[], R], wait_s: float = 1.0) -> R:
    """The result of the first attempt that does not fail; the last error of `ATTEMPTS` as a StoreError.

    Args:
        wait_s: before another attempt; grows while attempts fail.

    Raises:
        one of `FINAL`, at once.
    """
    for number in range(ATTEMPTS):
        try:
            return attempt()
        except FINAL:
            raise
        except Exception as error:  # each driver has errors of its own
            if number == ATTEMPTS - 1:
                raise StoreError("{error} ({attempts} attempts)", error=reason(error), attempts=ATTEMPTS) from error
            time.sleep(wait_s * number)
    raise AssertionError("no attempt")


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
