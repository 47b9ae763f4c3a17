"""`python -m aloha_kit.report FOLDER`: one page about a recorded, trained and deployed policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aloha_kit.startup import quick_interrupts

with quick_interrupts():
    import tyro
    from tyro.conf import Positional

    from aloha_kit.core import ConfigError
    from aloha_kit.core.cli import command_line
    from aloha_kit.core.files import make_folder
    from aloha_kit.report.page import build


@dataclass(frozen=True)
class ReportArgs:
    """Gather what a loop left in a folder (episodes, policy, rollouts, replay) into one self-contained HTML page."""

    folder: Positional[Path]
    """Folder of the results."""
    output: Path | None = None
    """Where the page goes; report.html in the folder when not given."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    with command_line():
        args = tyro.cli(ReportArgs, prog="python -m aloha_kit.report", args=argv, use_underscores=True)
        page = build(args.folder)
        file = args.output or args.folder / "report.html"
        make_folder(file.parent)
        try:
            file.write_text(page, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write '{file}': {error.strerror}") from error
        print(file)


if __name__ == "__main__":
    main()
