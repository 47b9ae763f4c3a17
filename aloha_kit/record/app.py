"""Recording: by an operator on a rig, or by a scripted expert in simulation."""

from __future__ import annotations

import sys

from aloha_kit.record.args import RecordArgs, rig_of
from aloha_kit.record.human_recorder import record_human
from aloha_kit.record.result import SessionResult
from aloha_kit.record.scripted_recorder import record_scripted


def run(args: RecordArgs) -> None:
    """Record and print the result.

    Raises:
        AlohaKitError: see `record_human` and `record_scripted`.
        KeyboardInterrupt: an interruption, after everything was kept.
    """
    result = record_human(args) if rig_of(args).has_drivers else record_scripted(args)
    print(result.text())
    if isinstance(result, SessionResult) and result.fault:
        sys.exit(f"error: {result.fault}")
    if result.interrupted:
        raise KeyboardInterrupt(result.interrupted)
