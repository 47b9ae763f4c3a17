"""`python -m aloha_kit.teleop --task aloha_transfer_cube`, and `--park` to go to sleep."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from aloha_kit.core import AlohaKitError
from aloha_kit.teleop.app import run, TeleopArgs


def main(argv: Sequence[str] | None = None) -> None:
    """Teleoperate; mistakes of the user and faults end with one message and status 1, an interruption with 130."""
    try:
        run(tyro.cli(TeleopArgs, prog="python -m aloha_kit.teleop", args=argv, use_underscores=True))
    except AlohaKitError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{f' ({interrupt})' if str(interrupt) else ''}; the followers hold", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
