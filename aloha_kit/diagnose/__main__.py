"""`python -m aloha_kit.diagnose EPISODE_OR_FOLDER`: why a rollout may have failed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from aloha_kit.core import AlohaKitError
from aloha_kit.diagnose.app import DiagnoseArgs, run


def main(argv: Sequence[str] | None = None) -> None:
    """Diagnose; mistakes of the user end with one message and status 1, an interruption with 130."""
    try:
        run(tyro.cli(DiagnoseArgs, prog="python -m aloha_kit.diagnose", args=argv, use_underscores=True))
    except AlohaKitError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
