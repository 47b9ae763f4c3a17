"""The progress of a process that tells nothing, because the first one does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType

from torch import Tensor

from aloha_kit.data.batch import Batch
from aloha_kit.train.progress import Progress


class NullProgress(Progress):
    """Writes no file and draws no bar."""

    def __init__(self) -> None:
        """Nothing is opened."""

    def __enter__(self) -> NullProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        return iter(batches)

    def add(self, step: int, samples: int, losses: Mapping[str, Tensor], norm: Tensor, lr: float) -> None:
        """Forgotten."""

    def due(self, step: int) -> bool:
        return False

    def flush(self, step: int, seconds: float, limit_s: float | None = None) -> None:
        """Nothing was kept."""

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """The first process has the same values."""

    def pictures(self, batch: Batch) -> None:
        """Of the first process's share, there."""
