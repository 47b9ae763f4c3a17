"""`python -m aloha_kit.doctor --task aloha_transfer_cube`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from aloha_kit.startup import quick_interrupts

with quick_interrupts():
    import tyro

    from aloha_kit.core.cli import command_line
    from aloha_kit.doctor.app import DoctorArgs, examine


def main(argv: Sequence[str] | None = None) -> None:
    """Examine; status 0 for GO, 1 for NO-GO."""
    with command_line():
        args = tyro.cli(DoctorArgs, prog="python -m aloha_kit.doctor", args=argv, use_underscores=True)
        report = examine(args)
        print(json.dumps(report.to_mapping(), indent=2) if args.json else report.text())
        if not report.go:
            sys.exit(1)


if __name__ == "__main__":
    main()
