"""Operator interface of a recording session: commands in; status, messages and sounds out."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import cast, Literal, Protocol, TextIO, TypeAlias

from aloha_kit.core import Clock, ConfigError, did_you_mean
from aloha_kit.core.lang import cut, marked, tr

Command: TypeAlias = Literal[
    "keep", "discard", "redo", "pause", "resume", "quit", "start", "success", "failure", "reset"
]
State: TypeAlias = Literal["starting", "waiting", "countdown", "recording", "saving", "paused", "ended"]

COMMANDS: tuple[Command, ...] = (
    "keep", "discard", "redo", "pause", "resume", "quit", "start", "success", "failure", "reset",
)  # fmt: skip


LABELS = ("grade", "note", "instruction")
"""Labels of an episode that a command sets: `grade 4`, `note dropped the cube`."""


class Channel(Protocol):
    """Source of the operator's commands: keys, a topic, a gesture."""

    def poll(self) -> Sequence[str]:
        """Commands, and labels with their values, since the last call, oldest first; returns at once."""
        ...

    def status(self, state: State, message: str) -> None:
        """Show the state that the session is in."""

    def close(self) -> None:
        """Stop reading commands."""


CueMode: TypeAlias = Literal["off", "bell", "speech"]
_SPEAKERS = (("spd-say", "--wait"), ("espeak-ng",))


class Display:
    """Messages, and one status line that is rewritten on a terminal. A terminal that was closed is ignored.

    Args:
        stream: where to write, standard error by default.
        plain_s: seconds between two status lines where they cannot be rewritten.
        plain: write plain lines also to a terminal.
    """

    def __init__(self, stream: TextIO | None = None, *, plain_s: float = 5.0, plain: bool = False) -> None:
        self._stream = stream or sys.stderr
        self.live = self._stream.isatty() and not plain
        self._plain_s, self._written = plain_s, float("-inf")
        self._next_live = 0.0
        self._prompt = ""

    def prompt(self, text: str) -> None:
        """Show what the operator is typing in place of the status line; "" shows the status again."""
        self._prompt = text
        self.status("", now=True)

    def message(self, text: str) -> None:
        """Show a message that stays."""
        self._write(("\r\x1b[2K" if self.live else "") + text + "\n")

    def status(self, text: str, *, now: bool = False) -> None:
        """Show the status line; at most ten times a second, elsewhere every `plain_s` unless it is `now`."""
        moment = time.monotonic()
        if self.live:
            if now or moment >= self._next_live:
                self._next_live = moment + 0.1
                self._write("\r\x1b[2K" + cut(self._prompt or text, shutil.get_terminal_size().columns - 1))
        elif now or moment - self._written >= self._plain_s:
            self._written = moment
            self._write(text + "\n")

    def due(self) -> bool:
        """Whether `status` would show a line now."""
        moment = time.monotonic()
        return moment >= self._next_live if self.live else moment - self._written >= self._plain_s

    def restart(self) -> None:
        """Show the next plain status line a whole interval from now."""
        self._written = time.monotonic()

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


class Cues:
    """Sounds for an operator who looks at the arms, not at the display.

    Args:
        mode: "bell" is the terminal's; "speech" uses `spd-say` or `espeak-ng`.

    Raises:
        ConfigError: no speech program is installed.
    """

    def __init__(self, mode: CueMode = "off", *, stream: TextIO | None = None) -> None:
        self._mode, self._stream = mode, stream or sys.stderr
        self._speaker: tuple[str, ...] = ()
        self._speaking: subprocess.Popen[bytes] | None = None
        if mode == "speech":
            found = [command for command in _SPEAKERS if shutil.which(command[0])]
            if not found:
                raise ConfigError(
                    "cues by speech need `spd-say` or `espeak-ng` (Debian: speech-dispatcher, espeak-ng); --cues "
                    "bell needs neither"
                )
            self._speaker = found[0]

    def give(self, text: str, *, rings: int = 1) -> None:
        """Speak `text`, or ring so many times; returns at once. Speech still under way is ended."""
        if self._mode == "bell":
            with contextlib.suppress(OSError, ValueError):
                self._stream.write("\a" * rings)
                self._stream.flush()
        elif self._mode == "speech":
            self.close()
            with contextlib.suppress(OSError):
                self._speaking = subprocess.Popen(
                    [*self._speaker, text],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip

    def close(self) -> None:
        """End speech that is under way."""
        if self._speaking is not None and self._speaking.poll() is None:
            self._speaking.terminate()
            self._speaking.wait()
        self._speaking = None


_POLL_NS = 20_000_000

_SHOWN: dict[State, str] = {  # on the display; channels get the state itself
    "starting": marked("starting"),
    "waiting": marked("waiting"),
    "countdown": marked("countdown"),
    "recording": marked("recording"),
    "saving": marked("saving"),
    "paused": marked("paused"),
    "ended": marked("ended"),
}
_CUES: dict[str, tuple[str, int]] = {  # text to speak, and number of rings of the bell, when a state begins
    "waiting": ("ready", 1),
    "recording": ("go", 1),
    "saving": ("stop", 2),
    "paused": ("paused", 3),
    "ended": ("the end", 2),
}


class OperatorInterface:
    """Operator interface of a session: commands from all channels, status on the display, sounds.

    Attributes:
        state, state_message: of the last call of `status`.
        on_label: called with a label's name and value when the operator gives one.
    """

    def __init__(self, channels: Sequence[Channel], display: Display, cues: Cues) -> None:
        self.state: State = "starting"
        self.state_message = ""
        self.display = display
        self.on_label: Callable[[str, str], None] = lambda name, value: None
        self._channels, self._cues = list(channels), cues

    def add(self, channel: Channel) -> None:
        """Take commands from one more channel."""
        self._channels.append(channel)

    def status(self, state: str, message: str) -> None:
        """Enter a state and show the message for it."""
        begun = state != self.state
        self.state, self.state_message = cast(State, state), message
        for channel in self._channels:
            channel.status(self.state, message)
        self.display.message(tr("{state}: {message}", state=tr(_SHOWN[self.state]), message=message))
        if state == "countdown":
            self._cues.give(message)
        elif begun and state in _CUES:
            spoken, rings = _CUES[state]
            self._cues.give(spoken, rings=rings)

    def message(self, text: str) -> None:
        """Show a message that changes no state."""
        self.display.message(text)

    def commands(self) -> list[Command]:
        """Commands since the last call; labels go to `on_label`, an unknown word gets the nearest command."""
        commands: list[Command] = []
        for channel in self._channels:
            for word in channel.poll():
                name, _, value = word.partition(" ")
                if word in COMMANDS:
                    commands.append(word)
                elif name in LABELS:
                    self.on_label(name, value.strip())
                else:
                    known = did_you_mean(word, (*COMMANDS, *LABELS))
                    self.message(tr("'{word}' is no command. {known}", word=word, known=known))
        return commands

    def wait_for(
        self,
        answers: Sequence[Command],
        clock: Clock,
        *,
        timeout_s: float | None = None,
        meanwhile: Callable[[Command], None],
    ) -> Command | None:
        """First of `answers` that is given; other commands go to `meanwhile`. None after `timeout_s`."""
        end = None if timeout_s is None else clock.now_ns() + int(timeout_s * 1e9)
        while end is None or clock.now_ns() < end:
            for command in self.commands():
                if command in answers:
                    return command
                meanwhile(command)
            clock.sleep_until(clock.now_ns() + _POLL_NS)
        return None
