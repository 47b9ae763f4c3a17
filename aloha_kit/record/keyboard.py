"""Operator's keyboard: single keys of a terminal as commands."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import termios
import time
import tty
from collections.abc import Sequence
from pathlib import Path

from aloha_kit.core.lang import marked, tr
from aloha_kit.record.operator_interface import Display, State
from aloha_kit.storage.label import GRADES

KEYS: dict[str, tuple[str, str]] = {  # a key's command between episodes, and while one is recorded
    " ": ("start", "keep"),  # one pedal starts and ends
    "\n": ("start", "keep"),
    "k": ("keep", "keep"),
    "s": ("success", "success"),
    "f": ("failure", "failure"),
    "d": ("discard", "discard"),
    "r": ("redo", "redo"),
    "p": ("pause", "pause"),
    "q": ("quit", "quit"),
    "e": ("reset", "reset"),
    **{str(grade): (f"grade {grade}", f"grade {grade}") for grade in GRADES},
}
TEXT_KEYS = {"n": marked("note"), "i": marked("instruction")}
"""Keys that begin a text for the last episode, typed until Enter; Esc drops it. Not while an episode is recorded."""
KEY_HELP = marked(
    "space start / end and keep   d discard   r redo   f failure   1-5 grade   n note   i instruction   p pause   "
    "e reset e-stop   q quit"
)

_BOUNCE_S = 0.5  # a key held down repeats: "start" must not become "keep"


class Keyboard:
    """Single keys of a terminal, without Enter and without echo; a foot pedal is a keyboard too.

    `close` restores the terminal. Ctrl-C stays an interrupt; Ctrl-Z does nothing, since a stopped process would leave
    arms under torque without control.

    Args:
        fd: the terminal's file descriptor.
        display: shows a text while it is typed.
    """

    def __init__(self, fd: int, display: Display) -> None:
        self._fd, self._display = fd, display
        self._decode = codecs.getincrementaldecoder("utf-8")("ignore").decode
        self._label, self._text = "", ""  # what is typed, for which label
        self._before = termios.tcgetattr(fd)
        self._state: State = "starting"
        self._pressed: dict[str, float] = {}
        tty.setcbreak(fd, termios.TCSADRAIN)
        settings = termios.tcgetattr(fd)
        settings[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(fd, termios.TCSADRAIN, settings)

    def poll(self) -> Sequence[str]:
        if not select.select([self._fd], [], [], 0)[0] or not in_foreground():
            return []
        try:
            typed = self._decode(os.read(self._fd, 64))
        except OSError:  # the terminal is gone; SIGHUP decides what that means
            return []
        if typed.startswith("\x1b"):  # Esc, or a key such as an arrow, which sends more than one character
            self._end_text() if typed == "\x1b" else None
            return []
        return [command for key in typed if (command := self._type(key) if self._label else self._meaning(key.lower()))]

    def _type(self, key: str) -> str | None:
        """Take a character of the text; returns the label with the whole text at its end."""
        if key in ("\r", "\n"):
            return self._end_text()
        if key in ("\x7f", "\b"):
            self._text = self._text[:-1]
        elif key.isprintable():
            self._text += key
        self._display.prompt(tr("{label} (Enter saves, Esc drops): {text}", label=tr(self._label), text=self._text))
        return None

    def _end_text(self) -> str | None:
        label, text = self._label, self._text.strip()
        self._label = self._text = ""
        self._display.prompt("")
        return f"{label} {text}" if label and text else None

    def _meaning(self, key: str) -> str | None:
        now, last = time.monotonic(), self._pressed.get(key, -_BOUNCE_S)
        self._pressed[key] = now
        if key in TEXT_KEYS and self._state in ("waiting", "paused"):
            self._label = TEXT_KEYS[key]
            return self._type("")
        if key not in KEYS or now - last < _BOUNCE_S:
            return None
        between, during = KEYS[key]
        if key == "p" and self._state == "paused":
            return "resume"
        return during if self._state == "recording" else between

    def status(self, state: State, message: str) -> None:
        self._state = state
        if state == "recording" and (dropped := self._end_text()):
            self._display.message(tr("not saved, since the next episode has begun: {label}", label=dropped))

    def close(self) -> None:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)


def open_keyboard(display: Display, fd: int = 0) -> Keyboard | None:
    """Keyboard of the terminal at `fd`; None where there is no terminal, or another program is in its foreground."""
    return Keyboard(fd, display) if os.isatty(fd) and in_foreground() else None


def in_foreground() -> bool:
    """Whether this process is in the foreground of its terminal.

    A process in the background that reads its terminal is stopped, and one that changes its settings changes the
    shell's. roslaunch gives each node a session of its own, without a terminal: then its parent counts.
    """
    pid = os.getpid()
    while pid > 1:
        parent, group, terminal, foreground = _process(pid)
        if terminal:
            return group == foreground
        pid = parent
    return True  # no job control anywhere (a container's first process)


def _process(pid: int) -> tuple[int, int, int, int]:
    """Parent, process group, controlling terminal (0: none) and that terminal's foreground group."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()  # a program's name may hold anything, parentheses too
    return int(fields[1]), int(fields[2]), int(fields[4]), int(fields[5])
