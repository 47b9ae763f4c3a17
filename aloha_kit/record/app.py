"""Recording: by a person on a rig, or by a script in simulation."""

from __future__ import annotations

import sys

from aloha_kit.record.args import RecordArgs, rig_of
from aloha_kit.record.on_rig import record_on_rig
from aloha_kit.record.plan import SessionResult
from aloha_kit.record.recorder import record


def run(args: RecordArgs) -> None:
    """Record and print what it came to.

    Raises:
        AlohaKitError: see `record_on_rig` and `record`.
        KeyboardInterrupt: an interruption, after everything was kept.
    """
    result = record_on_rig(args) if rig_of(args).has_drivers else record(args)
    print(result.text())
    if isinstance(result, SessionResult) and result.fault:
        sys.exit(f"error: {result.fault}")
    if result.interrupted:
        raise KeyboardInterrupt(result.interrupted)
