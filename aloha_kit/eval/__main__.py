"""`python -m aloha_kit.eval --ckpt RUN --task sim_transfer_cube --num_rollouts 200`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from aloha_kit.startup import quick_interrupts

with quick_interrupts():
    import tyro

    from aloha_kit.core.cli import command_line
    from aloha_kit.eval.args import EvalArgs


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate."""
    with command_line(kept="what was done is kept"):
        args = tyro.cli(EvalArgs, prog="python -m aloha_kit.eval", args=argv, use_underscores=True)
        # read when torch loads: between queries its threads must sleep, for simulation needs the cores
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        from aloha_kit.eval.app import run  # which takes seconds, so the flags are checked first

        run(args)


if __name__ == "__main__":
    main()
