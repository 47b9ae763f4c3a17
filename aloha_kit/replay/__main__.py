"""`python -m aloha_kit.replay EPISODE_OR_FOLDER`."""

from __future__ import annotations

from collections.abc import Sequence

from aloha_kit.startup import quick_interrupts

with quick_interrupts():
    import tyro

    from aloha_kit.core.cli import command_line
    from aloha_kit.replay.app import ReplayArgs, run


def main(argv: Sequence[str] | None = None) -> None:
    """Replay."""
    with command_line():
        run(tyro.cli(ReplayArgs, prog="python -m aloha_kit.replay", args=argv, use_underscores=True))


if __name__ == "__main__":
    main()
