"""What a person says, by keys and words, and what comes of it."""

from __future__ import annotations

import os
import pty
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from aloha_kit.core import StopEpisode
from aloha_kit.deploy.operator import Operator, typed_lines, UntilTold
from tests.loop.fake_rig import Constant


class Person:
    """Says one list of words each time they are listened to."""

    def __init__(self, *words: Sequence[str]) -> None:
        self.words = list(words)

    def __call__(self) -> Sequence[str]:
        return self.words.pop(0) if self.words else []


def operator(*words: Sequence[str]) -> tuple[Operator, list[str], list[str]]:
    said: list[str] = []
    states: list[str] = []
    return Operator([Person(*words)], say=said.append, tell=lambda state, _: states.append(state)), said, states


@pytest.mark.parametrize(
    ("answer", "verdict"), [("y", True), ("SUCCESS", True), ("n", False), ("failure", False), ("", None)]
)
def test_a_question_is_answered_by_key_or_word(answer: str, verdict: bool | None) -> None:
    asked, said, states = operator(["y"], [], [answer])  # the first "y" was said before the question
    assert asked.ask("episode_3.hdf5: success?", 60) is verdict
    assert said == [
        "episode_3.hdf5: success? y / n / Enter for neither, or success, failure, unjudged by /aloha_kit/deploy/command"
    ]
    assert states == ["judging", "waiting"]


def test_nobody_has_to_answer() -> None:
    asked, said, _ = operator()
    assert asked.ask("success?", 0.01) is None
    assert said[-1] == "nobody said anything for 0.01 s: not judged"


def test_words_that_are_no_commands_are_answered() -> None:
    asked, said, _ = operator(["sucess"])
    assert asked.poll() is None
    assert said == ["'sucess' is no command. Did you mean 'success'? Known: failure, quit, stop, success, unjudged."]


def test_who_wants_to_quit_is_not_asked_any_more() -> None:
    asked, said, _ = operator(["q"])
    assert asked.poll() == "quit"
    assert asked.quitting
    assert asked.ask("success?", 60) is None
    assert said == []


@pytest.mark.parametrize(
    ("word", "verdict", "reason"),
    [("y", True, "success"), ("n", False, "failure"), ("s", None, "stop"), ("q", None, "quit")],
)
def test_a_rollout_ends_when_the_operator_says_so(word: str, verdict: bool | None, reason: str) -> None:
    person, _, states = operator(["q"] if word == "q" else [], [], [""], [word])
    policy = UntilTold(Constant(np.ones(2)), person)
    policy.reset()
    if word != "q":
        for _ in range(2):  # Enter alone means nothing while the policy acts
            assert policy.act({}).tolist() == [1, 1]
    with pytest.raises(StopEpisode, match=f"the operator said {reason}"):
        policy.act({})
    assert policy.verdict is verdict
    policy.reset()
    assert policy.verdict is None
    assert states == ["acting", "acting"]


def test_lines_typed_in_a_terminal_are_read_without_waiting() -> None:
    ours, theirs = pty.openpty()
    try:
        lines = typed_lines(theirs)
        assert list(lines()) == []
        os.write(ours, b"y\n\nq\n")
        found: list[str] = []
        for _ in range(1000):
            found += lines()
            if len(found) == 3:
                break
        assert found == ["y", "", "q"]
    finally:
        os.close(ours)
        os.close(theirs)


def test_without_a_terminal_nobody_types() -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, b"y\n")
        assert list(typed_lines(reading)()) == []
    finally:
        os.close(reading)
        os.close(writing)


def test_the_newest_word_counts() -> None:
    asked, _, _ = operator(["y", "n"])
    assert asked.poll() == "failure"
    assert asked.poll() is None


def test_any_channel_is_heard() -> None:
    heard: Any = Operator([Person([], ["n"]), Person(["y"])], say=print)
    assert heard.poll() == "success"
    assert heard.poll() == "failure"
