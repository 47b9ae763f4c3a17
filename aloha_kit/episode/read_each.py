"""One function over the episodes of a data set, each opened where the work is done; unreadable ones do not end it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, TypeVar

from aloha_kit.core import AlohaKitError
from aloha_kit.core.errors import reason
from aloha_kit.core.lang import error_text, Message
from aloha_kit.core.parallel import map_in_order, Workers
from aloha_kit.core.source import EpisodeSource, RecordedEpisode
from aloha_kit.storage.external_data import allow_external
from aloha_kit.storage.hdf5 import DAMAGE

T = TypeVar("T")


@dataclass(frozen=True)
class Unreadable:
    """Why an episode cannot be read."""

    reason: str


def read_each(
    source: EpisodeSource, work: Callable[[RecordedEpisode], T], workers: Workers, *, external: bool
) -> Iterator[T | Unreadable]:
    """Results of `work` for each open episode of a source, in order.

    Args:
        external: whether HDF5 files may refer to data outside themselves.
    """
    reader = _EpisodeReader(source, work, external)
    return map_in_order(reader, range(len(source)), workers.at_most(len(source)))


@dataclass(frozen=True)
class _EpisodeReader(Generic[T]):
    """Reads one episode; sent to other processes."""

    source: EpisodeSource
    work: Callable[[RecordedEpisode], T]
    external: bool

    def __call__(self, number: int) -> T | Unreadable:
        allow_external(self.external)
        try:
            with closing(self.source.episode(number)) as episode:
                return self.work(episode)
        except AlohaKitError as error:
            return Unreadable(error_text(error))
        except DAMAGE as error:
            name = self.source.place / self.source.name(number)
            return Unreadable(Message("{name} is damaged: {error}", name=name, error=reason(error)))
