"""`python -m aloha_kit.train --task sim_transfer_cube --policy act`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aloha_kit.core import AlohaKitError


def main(argv: Sequence[str] | None = None) -> None:
    """Train; mistakes of the user end with one message and status 1, an interruption with 130."""
    try:
        from aloha_kit.train.cli import parse
        from aloha_kit.train.launch import launched
        from aloha_kit.train.plan import make_plan, reserved

        launch = launched()
        with launch.one_voice():
            plan = make_plan(parse(argv), launch)
        with reserved(plan):
            from aloha_kit.train.app import run  # torch loads after the flags are known to be right

            run(plan)
    except AlohaKitError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:  # before training has begun, after it has ended, or for the second time in between
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
