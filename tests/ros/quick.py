"""Arms that move as fast as their joints may: most tests show nothing by waiting for them.

python -m tests.ros.quick MODULE [ARGUMENT …] runs a command of aloha_kit in this way.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable

from aloha_kit.ros import arm, followers


def quick_motions(replace: Callable[[object, str, float], None] = setattr) -> None:
    """Let motions to the start and rest poses take as long as their joints need at nearly full speed."""
    for name in ("START_S", "GRIPPER_S", "PARK_S"):
        replace(followers, name, 0.1)
    replace(arm, "MOVE_SPEED", 0.9)


if __name__ == "__main__":
    quick_motions()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
