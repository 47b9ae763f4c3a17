"""`python -m aloha_kit.replay EPISODE_OR_FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from aloha_kit.core import AlohaKitError
from aloha_kit.replay.app import ReplayArgs, run


def main(argv: Sequence[str] | None = None) -> None:
    """Replay; mistakes of the user end with one message and status 1, an interruption with 130."""
    try:
        run(tyro.cli(ReplayArgs, prog="python -m aloha_kit.replay", args=argv, use_underscores=True))
    except AlohaKitError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
