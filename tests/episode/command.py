"""The episode command, run within the test's process."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aloha_kit.episode.__main__ import main as command


def main(argv: Sequence[str]) -> int:
    """Run the command with `argv`; returns its exit status, its message on standard error."""
    try:
        command(argv)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    return 0
