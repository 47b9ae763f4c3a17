"""`python -m aloha_kit.train --task sim_transfer_cube --policy act`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aloha_kit.core import AlohaKitError
from aloha_kit.train.cli import parse


def main(argv: Sequence[str] | None = None) -> None:
    """Train; mistakes of the user end with one message and status 1."""
    try:
        args = parse(argv)
        from aloha_kit.train.app import run  # torch loads after the flags are known to be right

        run(args)
    except AlohaKitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
