"""Formats of recorded episodes: a table from a format's name to the class that reads it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aloha_kit.core import ConfigError, Contract
from aloha_kit.core.errors import shown
from aloha_kit.core.plugins import call, resolve
from aloha_kit.core.source import EpisodeSource
from aloha_kit.storage import JpegOrder

FORMATS = {
    "hdf5": "aloha_kit.formats.hdf5_folder:Hdf5Source",
    "pusht": "aloha_kit.formats.pusht:PushTReplay",
    "pusht_keypoints": "aloha_kit.formats.pusht:PushTReplayKeypoints",
}
"""{name: "module:Class"}; the class is made with the places that were given and a `ReadOptions`."""


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading episodes. A format that does not support one of them calls `refuse`.

    Attributes:
        contract: for episodes without one of their own.
        jpeg_order: the order of red and blue in encoded images of files that do not record it.
        rename: cameras, {the name to read them by: the episodes'}.
        first: use only so many episodes.
    """

    contract: Contract | None = None
    jpeg_order: JpegOrder | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    first: int | None = None

    def refuse(self, kind: str, *names: str) -> None:
        """Raise `ConfigError` where an option was given that a format does not support."""
        if given := [name for name in names if getattr(self, name)]:
            raise ConfigError(f"episodes of format {kind} are read without --{', --'.join(given)}")


def open_source(*places: str | Path, kind: str = "hdf5", options: ReadOptions | None = None) -> EpisodeSource:
    """Open the episodes at some places: folders or files, or other places that a format defines.

    Args:
        kind: a name in `FORMATS`, or `my_package.module:Name`.

    Raises:
        ConfigError: no such format, one that is incomplete, takes other arguments, or does not support an option.
        EpisodeError: there are no episodes.
    """
    make = resolve("formats", kind, FORMATS)
    if inspect.isabstract(make):
        missing = ", ".join(sorted(make.__abstractmethods__))
        raise ConfigError(f"'{kind}' of the formats lacks methods of an EpisodeSource: {missing}")
    source = call("formats", kind, make, {"places": places, "options": options or ReadOptions()})
    if not isinstance(source, EpisodeSource) or not hasattr(source, "place"):
        raise ConfigError(f"'{kind}' of the formats must give an EpisodeSource with a `place`, gave {shown(source)}")
    return source
