"""Results of an episode and of a recording, for the operator: why it ended, how many there are, how to go on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from aloha_kit.core.lang import tr, tr_plural
from aloha_kit.loop import Outcome, wilson_interval
from aloha_kit.record.episode_attempt import AttemptResult, RESULTS
from aloha_kit.record.recording_worker import EpisodeOutcome
from aloha_kit.storage import recovery


@dataclass(frozen=True)
class SessionResult:
    """Result of a session."""

    folder: Path
    present: int  # good episodes in the folder now
    wanted: int
    results: tuple[AttemptResult, ...]  # of this session's attempts, in their order
    interrupted: str = ""  # name of the signal; empty if it was not
    fault: str = ""  # why it had to end; empty if it did not
    unfixed: str = ""  # fault that it was waiting for when it was interrupted

    def text(self) -> str:
        """Result in a few lines."""
        lines = [_present(self.present, self.wanted, self.folder)]
        counts = {result: self.results.count(result) for result in dict.fromkeys(self.results)}
        if counts:
            named = tr(", ").join(f"{number} {tr(RESULTS[result])}" for result, number in counts.items())
            lines.append(tr("this session: {results}", results=named))
        if self.present < self.wanted:
            lines.append(tr("the same command continues from here"))
        if hint := recovery.hint(self.folder):
            lines.append(hint)
        if self.unfixed:
            lines.append(tr("interrupted while paused: {fault}", fault=self.unfixed))
        return "\n".join(lines)


@dataclass(frozen=True)
class RecordingResult:
    """Result of a scripted recording."""

    folder: Path
    present: int  # successful episodes in the folder now
    wanted: int
    outcomes: tuple[EpisodeOutcome, ...]  # of this recording, in the order in which they ended
    interrupted: str  # name of the signal; empty if it was not

    def text(self) -> str:
        """Result in a few lines."""
        lines = [_present(self.present, self.wanted, self.folder)]
        if self.outcomes:
            good, tried = sum(outcome.success for outcome in self.outcomes), len(self.outcomes)
            low, high = wilson_interval(good, tried)
            lines.append(
                tr(
                    "this recording: {good} of {tried} succeeded, {share:.1%} "
                    "(95 % Wilson interval {low:.1%} to {high:.1%})",
                    good=good,
                    tried=tried,
                    share=good / tried,
                    low=low,
                    high=high,
                )
            )
        if self.interrupted:
            lines.append(tr("interrupted; the same command continues from here"))
        if hint := recovery.hint(self.folder):
            lines.append(hint)
        return "\n".join(lines)


def reason_of_end(outcome: Outcome, result: AttemptResult, max_reward: float) -> str:
    """Reason that an episode ended.

    Args:
        max_reward: highest reward of the environment; 0 where it has none.
    """
    if outcome.reason.startswith("KeyboardInterrupt"):
        return outcome.reason.replace("KeyboardInterrupt", tr("interrupted"))
    if outcome.reason != "complete":
        return tr(re.sub(r"^(Safety|Stream|Ros|Episode)Error: ", "", outcome.reason))
    length = tr("full length without success") if result == "failed" else tr("full length")
    if not max_reward:
        return length
    return tr("{length}, reward {final:g} of {best:g}", length=length, final=outcome.final_reward, best=max_reward)


def _present(present: int, wanted: int, folder: Path) -> str:
    return tr_plural(
        "{present} of {n} episode in {folder}",
        "{present} of {n} episodes in {folder}",
        wanted,
        present=present,
        folder=folder,
    )
