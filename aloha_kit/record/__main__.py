"""`python -m aloha_kit.record --task sim_transfer_cube --num_episodes 50`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aloha_kit.startup import quick_interrupts

with quick_interrupts():
    from aloha_kit.core.cli import command_line
    from aloha_kit.record.cli import parse, rig_of
    from aloha_kit.record.on_rig import record_on_rig
    from aloha_kit.record.plan import SessionResult
    from aloha_kit.record.recorder import record


def main(argv: Sequence[str] | None = None) -> None:
    """Record."""
    with command_line():
        args = parse(argv)
        result = record_on_rig(args) if rig_of(args).live else record(args)
        print(result.text())
        if isinstance(result, SessionResult) and result.fault:
            sys.exit(f"error: {result.fault}")
        if result.interrupted:
            raise KeyboardInterrupt(result.interrupted)


if __name__ == "__main__":
    main()
