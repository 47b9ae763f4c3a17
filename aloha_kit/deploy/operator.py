"""Operator commands during a rollout and the judgement after it, by keyboard and by topic."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Sequence

from tqdm import tqdm

from aloha_kit.core import Action, did_you_mean, Observation, Policy, StopEpisode
from aloha_kit.core.lang import marked, tr

NAMESPACE = "/aloha_kit/deploy"
KEYS = {"y": "success", "n": "failure", "": "unjudged", "s": "stop", "q": "quit"}
COMMANDS = tuple(KEYS.values())
HELP = marked("type y (success), n (failure), s (stop) or q (quit) and Enter; or the word by {namespace}/command")

Channel = Callable[[], Sequence[str]]
"""Words or keys since the last call; returns at once."""


def show(line: str) -> None:
    """Write a line to the operator's terminal: above the progress bar, and whatever `--log_level` is."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


def _no_status(state: str, message: str) -> None:
    """The status goes nowhere."""


class Operator:
    """Commands from every channel as one stream.

    Args:
        message: shows a line to the operator.
        status: publishes the state (acting, judging, waiting) with a line.

    Attributes:
        quitting: whether no further rollout is wanted.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        message: Callable[[str], None] = show,
        status: Callable[[str, str], None] = _no_status,
    ) -> None:
        self.quitting = False
        self._channels, self._message, self._status = channels, message, status

    def poll(self) -> str | None:
        """The newest command: success, failure, unjudged, stop, quit; an unknown word gets a message."""
        newest: str | None = None
        for channel in self._channels:
            for word in channel():
                command = KEYS.get(word.lower(), word.lower())
                if command not in COMMANDS:
                    known = did_you_mean(word, COMMANDS)
                    self._message(tr("'{word}' is no command. {known}", word=word, known=known))
                    continue
                newest = command
                self.quitting |= command == "quit"
        return newest

    def acting(self) -> None:
        """A rollout begins; commands given before it are dropped."""
        self.poll()
        self._status("acting", tr("the policy acts"))

    def judge(self, question: str, timeout_s: float) -> bool | None:
        """Whether the rollout succeeded; None where the operator leaves it open, or gives no command in time."""
        self.poll()
        if self.quitting:
            return None
        answers = marked("{question} y / n / Enter for neither, or success, failure, unjudged by {namespace}/command")
        self._message(tr(answers, question=question, namespace=NAMESPACE))
        self._status("judging", question)
        try:
            return self._judgement(timeout_s)
        finally:
            self._status("waiting", "")

    def _judgement(self, timeout_s: float) -> bool | None:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            command = self.poll()
            if command in {"success", "failure"}:
                return command == "success"
            if command in {"unjudged", "quit"}:
                return None
            time.sleep(0.02)
        self._message(tr("no command within {seconds:g} s: not judged", seconds=timeout_s))
        return None


class StopOnCommand:
    """A policy that acts until the operator ends the rollout; a judgement ends it too.

    Attributes:
        judgement: success or failure, where the operator commanded it while the rollout ran, else None.
    """

    def __init__(self, policy: Policy, operator: Operator) -> None:
        self.judgement: bool | None = None
        self._policy, self._operator = policy, operator

    def reset(self) -> None:
        self.judgement = None
        self._operator.acting()
        self._policy.reset()

    def act(self, observation: Observation) -> Action:
        command = self._operator.poll()
        if command in {"success", "failure"}:
            self.judgement = command == "success"
        if self._operator.quitting or command not in {None, "unjudged"}:
            raise StopEpisode(f"the operator's command was {command or 'quit'}")
        return self._policy.act(observation)


def typed_lines(fd: int = 0) -> Channel:
    """Lines typed in the terminal at `fd`; nothing where there is none, or where another program is typed to."""

    def poll() -> list[str]:
        lines: list[str] = []
        while os.isatty(fd) and _typed_to_us(fd) and select.select([fd], [], [], 0)[0]:
            typed = os.read(fd, 1024)  # a terminal gives one line at a time
            if not typed:  # Ctrl-D
                break
            lines.append(typed.decode(errors="replace").strip())
        return lines

    return poll


def _typed_to_us(fd: int) -> bool:
    # a process in the background that reads its terminal is stopped, arms in the air
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # a terminal, but not the one this session was started from
        return True
