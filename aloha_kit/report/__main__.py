"""`python -m aloha_kit.report FOLDER`: one page about a recorded, trained and deployed policy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

from aloha_kit.core import AlohaKitError
from aloha_kit.report.page import build


@dataclass(frozen=True)
class ReportArgs:
    """Gather what a loop left in a folder (episodes, policy, rollouts, replay) into one self-contained HTML page."""

    folder: Positional[Path]
    """Folder of the results."""
    output: Path | None = None
    """Where the page goes; report.html in the folder when not given."""


def main(argv: Sequence[str] | None = None) -> int:
    args = tyro.cli(ReportArgs, prog="python -m aloha_kit.report", args=argv, use_underscores=True)
    try:
        page = build(args.folder)
    except AlohaKitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    file = args.output or args.folder / "report.html"
    file.write_text(page, encoding="utf-8")
    print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
