"""The two sides of a session's talk with its operator: every way to speak, every way to be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from aloha_kit.core import Clock, did_you_mean
from aloha_kit.record.operator import Channel, Command, COMMANDS, State
from aloha_kit.record.screen import Cues, Screen

_POLL_NS = 20_000_000

_CUES: dict[str, tuple[str, int]] = {  # what is spoken, or how often the bell rings, when a state begins
    "waiting": ("ready", 1),
    "recording": ("go", 1),
    "saving": ("stop", 2),
    "paused": ("paused", 3),
    "ended": ("the end", 2),
}


class Conversation:
    """All channels, the screen and the cues as one.

    Attributes:
        state, words: what was told last.
    """

    def __init__(self, channels: Sequence[Channel], screen: Screen, cues: Cues) -> None:
        self.state: State = "starting"
        self.words = ""
        self.screen = screen
        self._channels, self._cues = tuple(channels), cues

    def tell(self, state: str, words: str) -> None:
        """The session is in this state now; `words` say what that means for the operator."""
        begun = state != self.state
        self.state, self.words = cast(State, state), words
        for channel in self._channels:
            channel.status(self.state, words)
        self.screen.say(f"{state}: {words}")
        if state == "countdown":
            self._cues.give(words)
        elif begun and state in _CUES:
            spoken, rings = _CUES[state]
            self._cues.give(spoken, rings=rings)

    def say(self, text: str) -> None:
        """Something worth reading that changes no state."""
        self.screen.say(text)

    def heard(self) -> list[Command]:
        """What was said since the last call. A word that is no command is answered with those that are."""
        commands: list[Command] = []
        for channel in self._channels:
            for word in channel.poll():
                if word in COMMANDS:
                    commands.append(word)
                else:
                    self.say(f"'{word}' is no command. {did_you_mean(word, COMMANDS)}")
        return commands

    def wait_for(
        self,
        answers: Sequence[Command],
        clock: Clock,
        *,
        timeout_s: float | None = None,
        meanwhile: Callable[[Command], None],
    ) -> Command | None:
        """The first of `answers` that is said; other commands go to `meanwhile`. None after `timeout_s`."""
        end = None if timeout_s is None else clock.now_ns() + int(timeout_s * 1e9)
        while end is None or clock.now_ns() < end:
            for command in self.heard():
                if command in answers:
                    return command
                meanwhile(command)
            clock.sleep_until(clock.now_ns() + _POLL_NS)
        return None
