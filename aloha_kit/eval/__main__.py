"""`python -m aloha_kit.eval --ckpt RUN --task sim_transfer_cube --num_rollouts 200`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import tyro

from aloha_kit.core import AlohaKitError
from aloha_kit.eval.args import EvalArgs


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate; mistakes of the user end with one message and status 1, an interruption with 130."""
    try:
        args = tyro.cli(EvalArgs, prog="python -m aloha_kit.eval", args=argv, use_underscores=True)
        # read when torch loads: between queries its threads must sleep, for simulation needs the cores
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        from aloha_kit.eval.app import run  # which takes seconds, so the flags are checked first

        run(args)
    except AlohaKitError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{f' ({interrupt})' if str(interrupt) else ''}; what was done is kept", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
