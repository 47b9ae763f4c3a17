"""`python -m aloha_kit.deploy --ckpt RUN --task sim_transfer_cube --temporal_agg`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from aloha_kit.core import AlohaKitError
from aloha_kit.deploy.args import DeployArgs


def main(argv: Sequence[str] | None = None) -> None:
    """Deploy; mistakes of the user end with one message and status 1, an interruption with 130."""
    try:
        args = tyro.cli(DeployArgs, prog="python -m aloha_kit.deploy", args=argv, use_underscores=True)
        from aloha_kit.deploy.app import run  # torch loads after the flags are known to be right

        run(args)
    except AlohaKitError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{f' ({interrupt})' if str(interrupt) else ''}; what was done is kept", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
