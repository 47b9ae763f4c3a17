"""`python -m aloha_kit.diagnose EPISODE_OR_FOLDER`: why a rollout may have failed."""

from __future__ import annotations

from collections.abc import Sequence

from aloha_kit.startup import quick_interrupts

with quick_interrupts():
    import tyro

    from aloha_kit.core.cli import command_line
    from aloha_kit.diagnose.app import DiagnoseArgs, run


def main(argv: Sequence[str] | None = None) -> None:
    """Diagnose."""
    with command_line():
        run(tyro.cli(DiagnoseArgs, prog="python -m aloha_kit.diagnose", args=argv, use_underscores=True))


if __name__ == "__main__":
    main()
