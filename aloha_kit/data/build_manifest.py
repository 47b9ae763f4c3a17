"""Building of manifests: what of each episode is in its row, read in parallel, and only where it changed."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aloha_kit.core import AlohaKitError, ConfigError
from aloha_kit.core.errors import reason
from aloha_kit.core.files import sha256_of
from aloha_kit.core.parallel import map_unordered, Workers
from aloha_kit.core.source import EpisodeSource
from aloha_kit.episode.bounds import Bounds
from aloha_kit.episode.validate import validate
from aloha_kit.formats import format_of, open_source, ReadOptions
from aloha_kit.formats.manifest import Manifest, relative
from aloha_kit.storage.curation import Curation, curation_file, EpisodeEdit, read_curation
from aloha_kit.storage.hdf5 import DAMAGE

_LOG = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True)
class BuildOptions:
    """How a manifest is built.

    Attributes:
        sha256: whether files are read whole for their SHA-256.
        validated: whether HDF5 episodes are validated, for the column `verdict`.
        reading: how episodes are read.
    """

    sha256: bool = True
    validated: bool = False
    reading: ReadOptions = ReadOptions()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class BuildResult:
    """Rows of a manifest, how many of them were read now, and how many of all are episodes that cannot be read."""

    manifest: Manifest
    read: int
    damaged: int


def build(places: Sequence[Path], output: Path, options: BuildOptions, workers: Workers) -> BuildResult:
    """Build the manifest of data sets, or bring it up to date.

    What it says of an episode that did not change is kept. What is read is noted in a hidden file beside it, so that an
    interrupted build goes on.

    Raises:
        ConfigError: a place without episodes, or one that joins other data sets.
        EpisodeError: there are no episodes, or the manifest that is there is damaged.
        WorkError: a worker process died.
    """
    journal = output.with_name(f".{output.name}.rows")
    known = _known(output, journal)
    rows: list[Row] = []
    read = 0
    for place in places:
        source, curation = _opened(place, options)
        base = _Base(place, output.parent, format_of(place))
        edits = [curation.edit(Path(source.name(number)).stem) for number in range(len(source))]
        found: dict[int, Row] = {}
        for number, edit in enumerate(edits):
            row = known.get(base.key(source, number))
            if row is not None and _current(row, source, number, edit, options):
                found[number] = row
        left = [number for number in range(len(source)) if number not in found]
        with journal.open("a", encoding="utf-8") as notes:
            for number, row in _read(_Reader(source, base, edits, options), left, workers):
                found[number] = row
                notes.write(json.dumps(row) + "\n")
                notes.flush()
        read += len(left)
        rows += [found[number] for number in range(len(source))]
    manifest = Manifest.of_rows(output.parent, rows)
    manifest.write(output)
    journal.unlink()
    return BuildResult(manifest, read, sum(row["verdict"] == "error" and not row["steps"] for row in rows))


def _opened(place: Path, options: BuildOptions) -> tuple[EpisodeSource, Curation]:
    file = curation_file(place)
    curation = read_curation(file)
    if curation.data:
        raise ConfigError(
            "{file} joins data sets: give these ({data}) in place of '{place}'",
            file=file,
            data=", ".join(curation.data),
            place=place,
        )
    source = open_source(place, options=dataclasses.replace(options.reading, curation=Curation()))
    if source.unused:
        _LOG.info("%s", source.unused)
    return source, curation


@dataclass(frozen=True)
class _Base:
    """A data set in a manifest."""

    place: Path
    folder: Path  # of the manifest
    kind: str

    def key(self, source: EpisodeSource, number: int) -> tuple[str, int]:
        """Location and number of an episode: what its row is found by."""
        file = source.file(number)
        return relative(file or self.place, self.folder), 0 if file else number


@dataclass(frozen=True)
class _Reader:
    """Reads the row of an episode; sent to other processes."""

    source: EpisodeSource
    base: _Base
    edits: Sequence[EpisodeEdit]
    options: BuildOptions

    def __call__(self, number: int) -> Row:
        file, edit = self.source.file(number), self.edits[number]
        location, within = self.base.key(self.source, number)
        status = file.stat() if file and file.is_file() else None
        row: Row = {
            "name": self.source.name(number),
            "curated": edit.text(),
            "excluded": edit.drop,
            "source": relative(self.base.place, self.base.folder),
            "format": self.base.kind,
            "number": within,
            "location": location,
            "bytes": status and status.st_size,
            "mtime_ns": status and status.st_mtime_ns,
            "identity": self.source.identity(number),
            "edit": _text(edit),
        }
        try:
            row |= self._recorded(number, edit)
            row["sha256"] = sha256_of(file) if status and file and self.options.sha256 else None
            row["verdict"] = self._verdict(file) if self.options.validated else ""
        except (AlohaKitError, *DAMAGE) as error:
            _LOG.error("%s is excluded: %s", location, reason(error))
            row |= {"id": "", "rig": "", "task": "", "instruction": "", "steps": 0, "rate_hz": 0.0, "success": None}
            row |= {"sha256": None, "verdict": "error", "excluded": True}
        return row

    def _recorded(self, number: int, edit: EpisodeEdit) -> Row:
        with closing(self.source.episode(number)) as episode:
            attrs = {**episode.attrs, **edit.labels}
            steps = (episode.length if edit.stop is None else min(edit.stop, episode.length)) - edit.start
            success = edit.labels.get("success", episode.success)
            return {
                "id": episode.id,
                **{name: str(attrs.get(name) or "") for name in ("rig", "task", "instruction")},
                "steps": steps,
                "rate_hz": float(episode.rate_hz),
                "success": None if success is None else bool(success),
            }

    def _verdict(self, file: Path | None) -> str:
        reading = self.options.reading
        if file is None or self.base.kind != "hdf5":
            return ""
        return validate(file, Bounds(), reading.contract, jpeg_order=reading.jpeg_order).level


def _read(reader: _Reader, numbers: Sequence[int], workers: Workers) -> Iterator[tuple[int, Row]]:
    with tqdm(total=len(numbers), desc=str(reader.base.place), unit="episode", disable=None) as bar:
        for number, row in map_unordered(reader, numbers, workers.at_most(len(numbers))):
            bar.update()
            yield number, row


def _known(output: Path, journal: Path) -> dict[tuple[str, int], Row]:
    """Rows of the manifest that is there, and of a build that was interrupted, by location and number."""
    rows = Manifest.read(output).rows() if output.is_file() else []
    if journal.is_file():
        for line in journal.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # the last line may be cut
                rows.append(json.loads(line))
    return {(row["location"], row["number"]): row for row in rows}


def _current(
    row: Mapping[str, Any], source: EpisodeSource, number: int, edit: EpisodeEdit, options: BuildOptions
) -> bool:
    """Whether a row holds for an episode as it is now, with all that is wanted."""
    has_file = row["bytes"] is not None
    return (
        row["identity"] == source.identity(number)
        and row["edit"] == _text(edit)
        and (bool(row["sha256"]) or not (options.sha256 and has_file) or row["verdict"] == "error")
        and (bool(row["verdict"]) or not (options.validated and row["format"] == "hdf5"))
    )


def _text(edit: EpisodeEdit) -> str:
    return "" if edit == EpisodeEdit() else json.dumps(dataclasses.asdict(edit), sort_keys=True)
