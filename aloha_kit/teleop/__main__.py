"""`python -m aloha_kit.teleop --task aloha_transfer_cube`, and `--park` to go to sleep."""

from __future__ import annotations

from collections.abc import Sequence

from aloha_kit.startup import quick_interrupts

with quick_interrupts():
    import tyro

    from aloha_kit.core.cli import command_line
    from aloha_kit.teleop.app import run, TeleopArgs


def main(argv: Sequence[str] | None = None) -> None:
    """Teleoperate."""
    with command_line(kept="the followers hold"):
        run(tyro.cli(TeleopArgs, prog="python -m aloha_kit.teleop", args=argv, use_underscores=True))


if __name__ == "__main__":
    main()
