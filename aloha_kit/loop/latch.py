"""A stop that stays until it is reset, and that every command is checked against."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from aloha_kit.core import SafetyError


class Latch:
    """A stop that stays until it is reset, and the lock under which commands are sent.

    Whoever sends does so inside `sending()`: once `press` has returned, nothing more leaves.
    """

    def __init__(self) -> None:
        self._sending = threading.RLock()
        self._state = threading.Lock()
        self._reason, self._presses = "", 0
        self._then: list[Callable[[], None]] = []

    def __call__(self) -> str:
        """Reason that the emergency stop is pressed; empty while it is not."""
        return self._reason

    def press(self, reason: str) -> None:
        """Latch. Returns when no command is being sent any more; further presses change nothing."""
        with self._state:
            first, self._reason = not self._reason, self._reason or reason
            self._presses += 1
        with self._sending:
            pass
        if first:
            for act in self._then:
                act()

    def when_pressed(self, act: Callable[[], None]) -> None:
        """Call `act` at once when it is pressed, in the thread that pressed it."""
        self._then.append(act)

    def require_released(self) -> None:
        """Raise SafetyError, saying why it is pressed, while it is."""
        self._take_in()
        self._require()

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """The body may send commands. Raises SafetyError instead while the stop is pressed."""
        self._take_in()
        with self._sending:
            self._require()
            yield

    def _require(self) -> None:
        if self._reason:
            raise SafetyError("{reason}: no further motion was commanded", reason=self._reason)

    def _take_in(self) -> None:
        """Let a press that has reached this process, but not this object, be noticed first."""

    def refusal(self) -> str:
        """Reason that a reset would be refused; empty where it would not."""
        return ""

    def reset(self) -> None:
        """Allow motion again; call it only from the thread that moves the arms, while nothing moves.

        Raises:
            SafetyError: the stop is still pressed; names by whom.
        """
        before = self._presses
        if why := self.refusal():
            raise SafetyError(why)
        with self._state:
            if self._presses != before:
                raise SafetyError("no reset: the emergency stop was pressed again meanwhile")
            self._reason = ""
