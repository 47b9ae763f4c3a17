"""One attempt at an episode: written as it happens, saved, moved to failed/ or discarded at its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import dm_env

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import Action, Environment, EpisodeError
from aloha_kit.core.lang import marked, shown, tr
from aloha_kit.loop import Outcome
from aloha_kit.record.dataset_folder import move_to_failed
from aloha_kit.storage import EpisodeWriter
from aloha_kit.storage.label import label, require_valid, Value
from aloha_kit.storage.paths import partial_path

AttemptResult: TypeAlias = Literal["saved", "failed", "discarded"]
"""`failed`: moved to failed/."""
RESULTS: dict[AttemptResult, str] = {
    "saved": marked("saved"),
    "failed": marked("failed"),
    "discarded": marked("discarded"),
}
"""Results as `tr` shows them."""


@dataclass(frozen=True)
class RecordingPlan:
    """Task, rig, folder and format of a session."""

    task: TaskConfig
    rig: RigConfig
    folder: Path
    wanted: int  # good episodes in the folder
    seed: int = 0  # of the first episode on a simulated rig; later ones count up and leave out what is there
    images: Literal["jpeg", "raw"] = "jpeg"
    quality: int = 95
    auto: bool = False  # begin episodes without a command
    countdown_s: float = 3.0  # between closing the grippers and the first step

    def writer(self, env: Environment, metadata: Mapping[str, Any], seed: int) -> EpisodeWriter:
        """Writer of one episode; `metadata` of the environment is stored in it, and the seed of a simulated rig."""
        return EpisodeWriter(
            self.folder,
            contract=env.contract,
            task=self.task.name,
            rig=self.rig.name,
            sim=env.simulated,
            instruction=self.task.instruction,
            images=self.images,
            quality=self.quality,
            describe={**metadata, **({"seed": seed} if env.simulated else {})},
            judge=env.succeeded,
        )


class EpisodeAttempt:
    """Observer that writes an episode; `settle` decides what becomes of it, and a thread saves it.

    Args:
        make: returns the writer.

    Attributes:
        outcome: of the episode loop; None before its end, and when it never began.
        result: given to `settle`.
        file: where the episode is, once saved; None when there is none.
        seed: of a simulated rig's objects, to record the same start again.
    """

    def __init__(self, make: Callable[[], EpisodeWriter]) -> None:
        self.outcome: Outcome | None = None
        self.result: AttemptResult | None = None
        self.file: Path | None = None
        self.writer: EpisodeWriter | None = None
        self.seed = 0
        self._make = make
        self._labels: dict[str, Value] = {}  # given while it is recorded
        self._saving: threading.Thread | None = None
        self._failure: BaseException | None = None

    def begin(self) -> EpisodeWriter:
        """Create the journal, before the first observation: a busy disk may take longer for it than a step."""
        self.writer = self._make()
        _ = self.writer.path
        return self.writer

    def cancel(self) -> None:
        """Remove the journal of an attempt that never began."""
        if self.writer is not None:
            self.writer.discard()

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        (self.writer or self.begin()).on_reset(timestep)

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        assert self.writer is not None
        self.writer.on_step(action, timestep)

    def on_end(self, outcome: Outcome) -> None:
        self.outcome = outcome

    @property
    def name(self) -> str:
        """`episode_3`."""
        return self.writer.path.stem if self.writer else "episode"

    @property
    def stalls(self) -> int:
        """Steps that had to wait for the disk or the encoder."""
        return self.writer.stalls if self.writer else 0

    def size(self) -> int:
        """Bytes in the journal so far; 0 where there is none."""
        try:
            return partial_path(self.writer.path).stat().st_size if self.writer else 0
        except OSError:
            return 0

    def settle(
        self, result: AttemptResult, *, success: bool | None = None, cut: int = 0, notes: dict[str, Any] | None = None
    ) -> None:
        """Begin to save, move to failed/ or discard what was recorded; returns at once.

        Args:
            success: as the operator labelled it; None leaves it to the reward, where there is one.
            cut: last steps that are no part of the episode.
            notes: metadata to store in it.
        """
        self.result = result
        writer, outcome = self.writer, self.outcome
        if writer is None or outcome is None:
            return
        if result == "discarded":
            writer.discard()
            return
        writer.success = False if result == "failed" else success
        writer.cut, writer.notes = cut, notes or {}
        self._in_thread(lambda: self._save(writer, outcome))

    def _in_thread(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread, after that of the call before; `wait` raises what it raises."""
        before = self._saving

        def run() -> None:
            if before is not None:
                before.join()
            try:
                work()
            except BaseException as failure:
                self._failure = failure

        # a daemon: a second Ctrl-C does not wait, and what is not committed by then stays in its journal
        self._saving = threading.Thread(target=run, name="save", daemon=True)
        self._saving.start()

    def _save(self, writer: EpisodeWriter, outcome: Outcome) -> None:
        writer.on_end(outcome)
        if writer.committed:
            self.file = writer.path
            if self.result == "failed":
                self.file = move_to_failed(writer.path)
            if self._labels:
                label(self.file, **self._labels)

    def annotate(self, name: str, value: Value, report: Callable[[str], None]) -> None:
        """Set a label; in an episode that is saved already by a thread, since it replaces the file.

        Args:
            report: called with what is wrong where it could not be written.

        Raises:
            EpisodeError: an unknown label or value, or no episode.
        """
        require_valid(name, value)
        if self.result == "discarded":
            raise EpisodeError("{name} was discarded, there is no episode to label", name=self.name)
        if self.result is None:
            self._labels[name] = value
            return

        def write() -> None:
            try:
                if self.file is not None:
                    label(self.file, **{name: value})
            except EpisodeError as error:  # the episode itself is saved
                report(shown(error))

        self._in_thread(write)

    def wait(self) -> None:
        """Wait until it is saved.

        Raises:
            EpisodeError: it could not be saved; names the file that holds its steps. Raised once.
        """
        if self._saving is not None:
            self._saving.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            self.result = "failed"
            raise failure

    def discard(self) -> None:
        """Remove an episode that was saved."""
        self.wait()
        if self.file is not None:
            self.file.unlink(missing_ok=True)
            self.file, self.result = None, "discarded"

    def relabel(self, *, success: bool) -> str:
        """Label a saved episode a success, or a failure and move it to failed/; returns a message for the operator."""
        self.wait()
        if self.result == "discarded":
            return tr("{name} was discarded, there is no episode to label", name=self.name)
        if self.file is None:
            return tr("{name} failed already, it is in its journal", name=self.name)
        if self.result != "saved":
            return tr("{name} failed already, it is {file}", name=self.name, file=self.file)
        label(self.file, success=success)
        if not success:
            self.file, self.result = move_to_failed(self.file), "failed"
        if success:
            return tr("{name} is labelled a success: {file}", name=self.name, file=self.file)
        return tr("{name} is labelled a failure: {file}", name=self.name, file=self.file)
