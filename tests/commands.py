"""Commands run within the test's process."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from typing import Any

import pytest


def failure(run: Callable[..., Any], *argv: Any) -> str:
    """Run a command that must fail; returns its status, or its message (without the hint at --help) if it has one."""
    written = io.StringIO()
    with contextlib.redirect_stderr(written), pytest.raises(SystemExit) as caught:
        run(*argv)
    sys.stderr.write(written.getvalue())
    code = caught.value.code
    return written.getvalue().partition("; see `python")[0] if code == 2 else str(code)
