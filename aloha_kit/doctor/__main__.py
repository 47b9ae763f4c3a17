"""`python -m aloha_kit.doctor --task aloha_transfer_cube`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import tyro

from aloha_kit.core import AlohaKitError
from aloha_kit.doctor.app import DoctorArgs, examine


def main(argv: Sequence[str] | None = None) -> None:
    """Examine; status 0 for go, 1 for no-go and for mistakes of the user, 130 for an interruption."""
    try:
        args = tyro.cli(DoctorArgs, prog="python -m aloha_kit.doctor", args=argv, use_underscores=True)
        report = examine(args)
    except AlohaKitError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    print(json.dumps(report.to_mapping(), indent=2) if args.json else report.text())
    sys.exit(0 if report.go else 1)


if __name__ == "__main__":
    main()
