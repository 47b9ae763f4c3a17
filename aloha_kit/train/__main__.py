"""`python -m aloha_kit.train --task sim_transfer_cube --policy act`."""

from __future__ import annotations

from collections.abc import Sequence

from aloha_kit.startup import quick_interrupts

with quick_interrupts():
    from aloha_kit.core.cli import command_line


def main(argv: Sequence[str] | None = None) -> None:
    """Train."""
    with command_line():
        from aloha_kit.train.cli import parse
        from aloha_kit.train.launch import launched
        from aloha_kit.train.plan import make_plan, reserved

        launch = launched()
        with launch.one_voice():
            plan = make_plan(parse(argv), launch)
        with reserved(plan):
            from aloha_kit.train.app import run  # torch loads after the flags are known to be right

            run(plan)


if __name__ == "__main__":
    main()
