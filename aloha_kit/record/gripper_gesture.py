"""Gripper gesture: commands by the leader grippers, for an operator whose hands are on them.

Both grippers closed together twice end the episode and keep it; three times discard it and begin again. The gesture
does not occur by accident during a task: both hands have to close from open within 0.4 s of each other, again within
0.8 s, and the arms have to stand still meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Action, Observation, Policy
from aloha_kit.core.lang import marked
from aloha_kit.record.operator_interface import Command, State

MEANING: dict[int, Command] = {2: "keep", 3: "redo"}
GESTURE_HELP = marked("close both leader grippers together, arms still: twice keep, three times redo")

_CLOSED, _OPEN = 0.35, 0.55  # opening; between the two a gripper stays what it was
_TOGETHER_S = 0.4  # from both open to both closed
_NEXT_S = 0.8  # from one closing to the next
_STILL = 0.25  # rad that a joint may drift meanwhile: hands do not hold perfectly still


class GripperGesture:
    """Operator channel that finds the gesture in the leaders' actions, which it gets through `watch`.

    Args:
        names: of the action's entries; those at its end that are neither joint nor gripper are left out.
        rate_hz: of the actions.

    Attributes:
        steps: number of last steps that the gesture took, 0 where there was none; they are no part of the task.
    """

    def __init__(self, names: Sequence[str], rate_hz: float) -> None:
        self._grippers = [i for i, name in enumerate(names) if name.endswith("gripper")]
        self._joints = [i for i in range(len(names)) if i not in self._grippers]
        self._together, self._next = (round(s * rate_hz) for s in (_TOGETHER_S, _NEXT_S))
        self._commands: list[Command] = []
        self.reset()

    def reset(self) -> None:
        """Begin a new episode."""
        self._commands.clear()
        self.steps = self._step = self._count = self._last = self._began = self._opened = 0
        self._closed = np.ones(len(self._grippers), bool)  # the gesture begins with open grippers
        self._armed = False
        self._pose: npt.NDArray[np.float32] = np.zeros(len(self._joints), np.float32)

    def watch(self, leaders: Policy) -> Policy:
        """Return `leaders` as a policy whose actions this channel gets."""
        return _GestureReader(leaders, self)

    def update(self, action: Action) -> None:
        """Take the next action into account."""
        self._step += 1
        opening = action[self._grippers]
        self._closed = np.where(self._closed, opening < _OPEN, opening < _CLOSED)
        if self._count and np.max(np.abs(action[self._joints] - self._pose), initial=0.0) > _STILL:
            self._count = 0
        if not self._closed.any():
            self._armed, self._opened = True, self._step
        elif self._closed.all() and self._armed:
            self._armed = False
            if self._step - self._opened <= self._together:
                self._closing(action)
        if self._count and self._step - self._last > self._next:
            if self._count in MEANING:
                self._commands.append(MEANING[self._count])
                self.steps = self._step - self._began
            self._count = 0

    def _closing(self, action: Action) -> None:
        if self._count == 0:
            self._began, self._pose = self._opened, action[self._joints].copy()
        self._count, self._last = self._count + 1, self._step

    def poll(self) -> Sequence[str]:
        commands, self._commands = self._commands, []
        return commands

    def status(self, state: State, message: str) -> None:
        """No display."""

    def close(self) -> None:
        """Nothing to restore."""


class _GestureReader:
    def __init__(self, leaders: Policy, gesture: GripperGesture) -> None:
        self._leaders, self._gesture = leaders, gesture

    def reset(self) -> None:
        self._leaders.reset()
        self._gesture.reset()

    def act(self, observation: Observation) -> Action:
        action = self._leaders.act(observation)
        self._gesture.update(action)
        return action
