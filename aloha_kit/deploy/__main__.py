"""`python -m aloha_kit.deploy --ckpt RUN --task sim_transfer_cube --temporal_agg`, or `… deploy serve --ckpt RUN`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from aloha_kit.startup import quick_interrupts

with quick_interrupts():
    import tyro

    from aloha_kit.core.cli import command_line
    from aloha_kit.deploy.args import DeployArgs, ServeArgs

PROGRAM = "python -m aloha_kit.deploy"


def main(argv: Sequence[str] | None = None) -> None:
    """Deploy or serve."""
    given = list(sys.argv[1:] if argv is None else argv)
    # read when torch loads: between its operations threads must sleep, for cameras and control loop need the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with command_line(kept="what was done is kept"):
        # what is needed loads after the flags are known to be right; the robot's side may have no torch
        if given[:1] == ["serve"]:
            serving = tyro.cli(ServeArgs, prog=f"{PROGRAM} serve", args=given[1:], use_underscores=True)
            from aloha_kit.deploy.serve import serve

            serve(serving)
        else:
            args = tyro.cli(DeployArgs, prog=PROGRAM, args=given, use_underscores=True)
            from aloha_kit.deploy.app import run

            run(args)


if __name__ == "__main__":
    main()
