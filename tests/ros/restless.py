"""A program for tests of ways to end: it drives a rig's arms and base for ever, or until it fails at a step.

python -m tests.ros.restless TASK.yaml [STEP]
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

import numpy as np

from aloha_kit import envs
from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import START_ARM_POSE
from aloha_kit.loop import run_episode, sigterm_interrupts
from aloha_kit.loop.capabilities import guarded
from aloha_kit.ros import followers
from tests.ros.quick import quick_motions

DRIVEN = (0.2, 0.3)  # m/s, rad/s
RAISED = (0.0, -0.6, 0.8, 0.0, -0.3, 0.0)


class Restless:
    """Arms away from the start pose, the base driving in circles."""

    def __init__(self, fail_at: int | None) -> None:
        self.fail_at, self.step = fail_at, 0

    def reset(self) -> None:
        self.step = 0

    def act(self, observation: Any) -> Any:
        self.step += 1
        if self.step == 40:
            print("driving", flush=True)
        if self.step == self.fail_at:
            raise RuntimeError("the policy is broken")
        away = min(1.0, self.step / 40)
        arm = np.array(START_ARM_POSE) + away * (np.array(RAISED) - START_ARM_POSE)
        return np.array([*arm, 0.5, *arm, 0.5, *DRIVEN], np.float32)


def main(task_file: str, fail_at: str = "0") -> None:
    log = logging.getLogger("aloha_kit")
    log.addHandler(handler := logging.StreamHandler())
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    log.setLevel(logging.INFO)
    quick_motions()
    followers.SILENT_S = 1.0
    task = load(TaskConfig, "tasks", task_file)
    with sigterm_interrupts():
        env = envs.connect(task, load(RigConfig, "rigs", task.rig))
        with contextlib.closing(env), guarded(env, Restless(int(fail_at) or None)) as guard:
            run_episode(env, guard)


if __name__ == "__main__":
    main(*sys.argv[1:])
