"""Attempts of a recording session: how many are good, the next seed, and the operator's commands for the last one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from aloha_kit.core import AlohaKitError, EpisodeError
from aloha_kit.core.lang import shown, tr
from aloha_kit.record.dataset_folder import DatasetFolder
from aloha_kit.record.episode_attempt import AttemptResult, EpisodeAttempt
from aloha_kit.record.operator_interface import Command


class SessionAttempts:
    """Attempts of a session, in a folder that other recorders may fill too.

    Args:
        folder: what the session records into.
        seed: of the first episode on a simulated rig; later ones count up and leave out what is there.
        message: called with messages for the operator.

    Attributes:
        current: the one that is recorded or about to be; None before the first.
    """

    def __init__(self, folder: DatasetFolder, seed: int, message: Callable[[str], None]) -> None:
        self.current: EpisodeAttempt | None = None
        self._ended: list[EpisodeAttempt] = []
        self._folder, self._message = folder, message
        self._new_seeds = folder.seeds(seed)
        self._again: deque[int] = deque()  # seeds that come before new ones
        self._saved = 0  # attempts whose saving was waited for
        self._elsewhere = 0  # good episodes in the folder that this session did not record
        self.refresh()

    @property
    def present(self) -> int:
        """Good episodes in the folder, the one that is being saved included."""
        return self._elsewhere + self._results.count("saved")

    @property
    def results(self) -> tuple[AttemptResult, ...]:
        """Results of the attempts that have one, in their order."""
        return tuple(result for result in self._results if result)

    @property
    def _results(self) -> list[AttemptResult | None]:
        return [attempt.result for attempt in self._ended]

    def refresh(self) -> None:
        """Count what other recorders have added to the folder meanwhile."""
        self._folder.refresh()
        ours = {attempt.writer.path for attempt in self._ended if attempt.writer and attempt.result == "saved"}
        self._elsewhere = len(self._folder.good - ours)

    def count(self, wanted: int) -> str:
        """Number of the next episode, and how many are good and failed."""
        failed = self._results.count("failed")
        number = tr("episode {number} of {wanted}", number=self.present + 1, wanted=wanted)
        if failed:
            return tr("{number} | {good} good, {failed} failed", number=number, good=self.present, failed=failed)
        return tr("{number} | {good} good", number=number, good=self.present)

    def next_seed(self) -> int:
        """Seed of the next attempt: one to be repeated, else a new one."""
        return self._again.popleft() if self._again else next(self._new_seeds)

    def repeat(self, seed: int) -> None:
        """Use `seed` for the next attempt."""
        self._again.appendleft(seed)

    def put_back(self, seed: int) -> None:
        """Use the seed of an attempt that never began after those to be repeated."""
        self._again.append(seed)

    def add(self, attempt: EpisodeAttempt) -> None:
        """Add an attempt that was recorded and is being saved."""
        self._ended.append(attempt)

    def collect(self) -> None:
        """Wait until every attempt is saved.

        Raises:
            EpisodeError: one could not be saved; names the file that holds its steps.
        """
        while self._saved < len(self._ended):
            attempt = self._ended[self._saved]
            self._saved += 1
            attempt.wait()
            if attempt.file is not None:
                self._message(tr("saved {file}", file=attempt.file))

    def finish(self) -> str:
        """Wait until every attempt and its labels are saved; returns what is wrong where one could not be."""
        try:
            self.collect()
            for attempt in self._ended:
                attempt.wait()
        except AlohaKitError as error:
            return shown(error)
        return ""

    def change_last(self, command: Command) -> bool:
        """Obey discard, redo, success or failure for the last attempt; returns whether it is to be recorded again."""
        last = self._ended[-1] if self._ended else None
        if command in ("success", "failure"):
            relabelled = last.relabel(success=command == "success") if last else tr("there is no episode to label")
            self._message(tr("{name}: {message}", name=command, message=relabelled))
            return False
        if last is None or last.result == "discarded":
            self._message(tr("{command}: there is nothing to discard", command=command))
            return False
        last.discard()
        self._message(tr("{name} discarded", name=last.name))
        if command == "redo":
            self.repeat(last.seed)
        return command == "redo"

    def label(self, name: str, value: str, *, recording: bool) -> None:
        """Label the episode that is recorded, or between episodes the last one.

        Args:
            recording: an episode is recorded now.
        """
        attempt = self.current if recording else None
        attempt = attempt or (self._ended[-1] if self._ended else None)
        if attempt is None:
            self._message(tr("{name}: {message}", name=name, message=tr("there is no episode to label")))
            return
        try:
            attempt.annotate(name, int(value) if value.isdecimal() else value, self._message)
        except EpisodeError as error:
            self._message(shown(error))
        else:
            self._message(tr("{label} of {name}: {value}", label=name, name=attempt.name, value=value))
