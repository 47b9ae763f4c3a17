"""`python -m aloha_kit.reproduce transfer_cube --preset cpu --seeds 0 1 2`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from aloha_kit.startup import quick_interrupts

with quick_interrupts():
    from aloha_kit.core.cli import command_line
    from aloha_kit.reproduce.app import run
    from aloha_kit.reproduce.args import parse


def main(argv: Sequence[str] | None = None) -> None:
    """Reproduce."""
    again = shlex.join(["python", "-m", "aloha_kit.reproduce", *(sys.argv[1:] if argv is None else argv)])
    with command_line(kept=f"what is done is kept. Go on with:\n{again}"):
        run(parse(argv))


if __name__ == "__main__":
    main()
