"""The `main` of every application."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aloha_kit.startup import limit_spinning, quick_interrupts


def command(name: str) -> Callable[..., None]:
    """Return the `main(argv)` of application `aloha_kit.NAME`."""

    def main(argv: Sequence[str] | None = None) -> None:
        """Run the command with `argv`, by default the process's own; end the process if its status is not 0."""
        limit_spinning()
        with quick_interrupts():
            from aloha_kit.core.cli import run_application
        run_application(name, argv)

    return main
