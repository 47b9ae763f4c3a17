"""Keys and words of the operator, and their effects."""

from __future__ import annotations

import os
import pty
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from aloha_kit.core import StopEpisode
from aloha_kit.deploy.operator import Operator, StopOnCommand, typed_lines
from tests.loop.fake_rig import Constant


class TypedWords:
    """One list of words at each call, as an operator types them."""

    def __init__(self, *words: Sequence[str]) -> None:
        self.words = list(words)

    def __call__(self) -> Sequence[str]:
        return self.words.pop(0) if self.words else []


def operator(*words: Sequence[str]) -> tuple[Operator, list[str], list[str]]:
    messages: list[str] = []
    states: list[str] = []
    return (
        Operator([TypedWords(*words)], message=messages.append, status=lambda state, _: states.append(state)),
        messages,
        states,
    )


@pytest.mark.parametrize(
    ("answer", "judgement"), [("y", True), ("SUCCESS", True), ("n", False), ("failure", False), ("", None)]
)
def test_a_question_is_answered_by_key_or_word(answer: str, judgement: bool | None) -> None:
    tried, messages, states = operator(["y"], [], [answer])  # the first "y" was messages before the question
    assert tried.judge("episode_3.hdf5: success?", 60) is judgement
    assert messages == [
        "episode_3.hdf5: success? y / n / Enter for neither, or success, failure, unjudged by /aloha_kit/deploy/command"
    ]
    assert states == ["judging", "waiting"]


def test_nobody_has_to_answer() -> None:
    tried, messages, _ = operator()
    assert tried.judge("success?", 0.01) is None
    assert messages[-1] == "no command within 0.01 s: not judged"


def test_words_that_are_no_commands_are_answered() -> None:
    tried, lines, _ = operator(["sucess"])
    assert tried.poll() is None
    assert lines == ["'sucess' is no command. Did you mean 'success'? Known: failure, quit, stop, success, unjudged."]


def test_who_quits_gets_no_further_prompt() -> None:
    tried, messages, _ = operator(["q"])
    assert tried.poll() == "quit"
    assert tried.quitting
    assert tried.judge("success?", 60) is None
    assert messages == []


@pytest.mark.parametrize(
    ("word", "judgement", "reason"),
    [("y", True, "success"), ("n", False, "failure"), ("s", None, "stop"), ("q", None, "quit")],
)
def test_a_rollout_ends_when_the_operator_reports_it(word: str, judgement: bool | None, reason: str) -> None:
    person, _, states = operator(["q"] if word == "q" else [], [], [""], [word])
    policy = StopOnCommand(Constant(np.ones(2)), person)
    policy.reset()
    if word != "q":
        for _ in range(2):  # Enter alone means nothing while the policy acts
            assert policy.act({}).tolist() == [1, 1]
    with pytest.raises(StopEpisode, match=f"the operator's command was {reason}"):
        policy.act({})
    assert policy.judgement is judgement
    policy.reset()
    assert policy.judgement is None
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
    tried, _, _ = operator(["y", "n"])
    assert tried.poll() == "failure"
    assert tried.poll() is None


def test_any_channel_is_read() -> None:
    collected: Any = Operator([TypedWords([], ["n"]), TypedWords(["y"])], message=print)
    assert collected.poll() == "success"
    assert collected.poll() == "failure"
