"""What the person beside the rig says of a rollout: by keyboard, by topic, or nothing."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence

from aloha_kit.core import Action, did_you_mean, Observation, Policy, StopEpisode

NAMESPACE = "/aloha_kit/deploy"
KEYS = {"y": "success", "n": "failure", "": "unjudged", "s": "stop", "q": "quit"}
COMMANDS = tuple(KEYS.values())
HELP = f"type y (success), n (failure), s (stop) or q (quit) and Enter; or the word by {NAMESPACE}/command"

Channel = Callable[[], Sequence[str]]
"""Words or keys since the last call; returns at once."""


def _silent(state: str, words: str) -> None:
    """Nobody is told."""


class Operator:
    """Commands from every channel as one stream.

    Args:
        say: shows words to people.
        tell: is told the state (acting, judging, waiting) too.

    Attributes:
        quitting: whether no further rollout is wanted.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        say: Callable[[str], None] = print,
        tell: Callable[[str, str], None] = _silent,
    ) -> None:
        self.quitting = False
        self._channels, self._say, self._tell = channels, say, tell

    def poll(self) -> str | None:
        """The newest command: success, failure, unjudged, stop, quit; an unknown word is answered."""
        newest: str | None = None
        for channel in self._channels:
            for word in channel():
                command = KEYS.get(word.lower(), word.lower())
                if command not in COMMANDS:
                    self._say(f"'{word}' is no command. {did_you_mean(word, COMMANDS)}")
                    continue
                newest = command
                self.quitting |= command == "quit"
        return newest

    def acting(self) -> None:
        """A rollout begins; what was said before belongs to what was before."""
        self.poll()
        self._tell("acting", "the policy acts")

    def ask(self, question: str, timeout_s: float) -> bool | None:
        """Whether the rollout succeeded; None where the operator does not want to say, or says nothing in time."""
        self.poll()
        if self.quitting:
            return None
        self._say(f"{question} y / n / Enter for neither, or success, failure, unjudged by {NAMESPACE}/command")
        self._tell("judging", question)
        try:
            return self._answer(timeout_s)
        finally:
            self._tell("waiting", "")

    def _answer(self, timeout_s: float) -> bool | None:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            command = self.poll()
            if command in {"success", "failure"}:
                return command == "success"
            if command in {"unjudged", "quit"}:
                return None
            time.sleep(0.02)
        self._say(f"nobody said anything for {timeout_s:g} s: not judged")
        return None


class UntilTold:
    """A policy that acts until the operator ends the rollout; a verdict ends it too.

    Attributes:
        verdict: success or failure as the operator said it while the rollout ran, else None.
    """

    def __init__(self, policy: Policy, operator: Operator) -> None:
        self.verdict: bool | None = None
        self._policy, self._operator = policy, operator

    def reset(self) -> None:
        self.verdict = None
        self._operator.acting()
        self._policy.reset()

    def act(self, observation: Observation) -> Action:
        command = self._operator.poll()
        if command in {"success", "failure"}:
            self.verdict = command == "success"
        if self._operator.quitting or command not in {None, "unjudged"}:
            raise StopEpisode(f"the operator said {command or 'quit'}")
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
