"""One attempt at an episode: written while it happens, judged at its end, saved while the arms return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import dm_env

from aloha_kit.core import Action
from aloha_kit.episode.label import label
from aloha_kit.loop import Outcome
from aloha_kit.record.folder import FAILED, put_aside
from aloha_kit.storage import EpisodeWriter
from aloha_kit.storage.paths import partial_path

Verdict: TypeAlias = Literal["kept", "failed", "discarded"]


class Take:
    """An observer that leaves the decision about its episode to `settle`, and the work of saving to a thread.

    Args:
        make: makes the writer.

    Attributes:
        outcome: how it ended; None before, and when it never began.
        verdict: what `settle` was told.
        file: where the episode is, once saved; None when there is none.
        seed: of a simulated rig's objects; for whoever wants the same again.
    """

    def __init__(self, make: Callable[[], EpisodeWriter]) -> None:
        self.outcome: Outcome | None = None
        self.verdict: Verdict | None = None
        self.file: Path | None = None
        self.writer: EpisodeWriter | None = None
        self.seed = 0
        self._make = make
        self._saving: threading.Thread | None = None
        self._failure: BaseException | None = None

    def begin(self) -> EpisodeWriter:
        """Create the journal. Ahead of the first observation: a busy disk may take longer for it than a step."""
        self.writer = self._make()
        _ = self.writer.path
        return self.writer

    def cancel(self) -> None:
        """It never began."""
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
        self, verdict: Verdict, *, success: bool | None = None, cut: int = 0, notes: dict[str, Any] | None = None
    ) -> None:
        """Begin to save, put aside (`failed/`) or discard what was recorded; returns at once.

        Args:
            success: a person's verdict; None leaves it to the reward, where there is one.
            cut: last steps that are no part of the episode.
            notes: what to remember about it.
        """
        self.verdict = verdict
        writer, outcome = self.writer, self.outcome
        if writer is None or outcome is None:
            return
        if verdict == "discarded":
            writer.discard()
            return
        writer.success = False if verdict == "failed" else success
        writer.cut, writer.notes = cut, notes or {}
        # not to be waited for at a second Ctrl-C: what is not committed by then stays in its journal
        self._saving = threading.Thread(target=self._save, args=(writer, outcome), name="save", daemon=True)
        self._saving.start()

    def _save(self, writer: EpisodeWriter, outcome: Outcome) -> None:
        try:
            writer.on_end(outcome)
            if writer.committed:
                self.file = writer.path
                if self.verdict == "failed":
                    self.file = put_aside(writer.path, writer.path.parent / FAILED)
        except BaseException as failure:  # told by `wait`, in the thread that can do something about it
            self._failure = failure

    def wait(self) -> None:
        """Until it is saved.

        Raises:
            EpisodeError: it could not be saved; says where its steps are safe. Told once.
        """
        if self._saving is not None:
            self._saving.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            self.verdict = "failed"
            raise failure

    def throw_away(self) -> None:
        """On second thoughts: remove a saved episode."""
        self.wait()
        if self.file is not None:
            self.file.unlink(missing_ok=True)
            self.file, self.verdict = None, "discarded"

    def relabel(self, *, success: bool) -> bool:
        """On second thoughts: a kept episode shows a success, or a failure and is put aside; False if there is none."""
        self.wait()
        if self.file is None or self.verdict != "kept":
            return False
        label(self.file, success=success)
        if not success:
            self.file, self.verdict = put_aside(self.file, self.file.parent / FAILED), "failed"
        return True
