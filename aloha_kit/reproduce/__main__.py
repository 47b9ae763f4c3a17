"""`python -m aloha_kit.reproduce transfer_cube --preset cpu --seeds 0 1 2`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from aloha_kit.core import AlohaKitError
from aloha_kit.loop import sigterm_interrupts
from aloha_kit.reproduce.app import run
from aloha_kit.reproduce.args import parse


def main(argv: Sequence[str] | None = None) -> None:
    """Reproduce; mistakes of the user end with one message and status 1, an interruption with 130."""
    try:
        args = parse(argv)
        with sigterm_interrupts():
            run(args)
    except AlohaKitError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        again = shlex.join(["python", "-m", "aloha_kit.reproduce", *(sys.argv[1:] if argv is None else argv)])
        print(f"\ninterrupted; what is done is kept. Go on with:\n{again}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
