"""What the operator reads and hears: a line that stays in its place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from typing import Literal, TextIO, TypeAlias

from aloha_kit.core import ConfigError

CueMode: TypeAlias = Literal["off", "bell", "speech"]
_SPEAKERS = (("spd-say", "--wait"), ("espeak-ng",))


class Screen:
    """Messages, and one line that is rewritten. A terminal that is gone is no reason to stop recording.

    Args:
        stream: where to write.
        plain_s: seconds between two of the status lines where they cannot be rewritten.
        plain: write plain lines also to a terminal.
    """

    def __init__(self, stream: TextIO | None = None, *, plain_s: float = 5.0, plain: bool = False) -> None:
        self._stream = stream or sys.stdout
        self.live = self._stream.isatty() and not plain
        self._plain_s, self._written = plain_s, float("-inf")
        self._next_live = 0.0

    def say(self, text: str) -> None:
        """A message that stays."""
        self._write(("\r\x1b[2K" if self.live else "") + text + "\n")

    def status(self, text: str, shorter: str = "", *, now: bool = False) -> None:
        """The present state of things; at most ten times a second, elsewhere every `plain_s` unless it is `now`.

        Args:
            shorter: in place of `text` where that is wider than the terminal.
        """
        moment = time.monotonic()
        if self.live:
            if now or moment >= self._next_live:
                self._next_live = moment + 0.1
                room = shutil.get_terminal_size().columns - 1
                self._write("\r\x1b[2K" + (shorter if shorter and len(text) > room else text)[:room])
        elif now or moment - self._written >= self._plain_s:
            self._written = moment
            self._write(text + "\n")

    def due(self) -> bool:
        """Whether `status` would be shown now; saves making the line."""
        moment = time.monotonic()
        return moment >= self._next_live if self.live else moment - self._written >= self._plain_s

    def restart(self) -> None:
        """The next plain status line is due a whole interval from now."""
        self._written = time.monotonic()

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


class Cues:
    """Sounds for an operator who looks at the arms.

    Args:
        mode: "bell" rings the terminal's; "speech" speaks through `spd-say` or `espeak-ng`.

    Raises:
        ConfigError: there is nothing to speak with.
    """

    def __init__(self, mode: CueMode = "off", *, stream: TextIO | None = None) -> None:
        self._mode, self._stream = mode, stream or sys.stdout
        self._speaker: tuple[str, ...] = ()
        self._speaking: subprocess.Popen[bytes] | None = None
        if mode == "speech":
            found = [command for command in _SPEAKERS if shutil.which(command[0])]
            if not found:
                raise ConfigError(
                    "cues by speech need `spd-say` or `espeak-ng` (Debian: speech-dispatcher, espeak-ng); "
                    "--cues bell needs neither"
                )
            self._speaker = found[0]

    def give(self, words: str, *, rings: int = 1) -> None:
        """Say `words`, or ring so many times; returns at once. What is being said still is cut short."""
        if self._mode == "bell":
            with contextlib.suppress(OSError, ValueError):
                self._stream.write("\a" * rings)
                self._stream.flush()
        elif self._mode == "speech":
            self.close()
            with contextlib.suppress(OSError):
                self._speaking = subprocess.Popen(
                    [*self._speaker, words],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip

    def close(self) -> None:
        """Be silent."""
        if self._speaking is not None and self._speaking.poll() is None:
            self._speaking.terminate()
            self._speaking.wait()
        self._speaking = None
