"""Manifests: one row an episode in a Parquet file, which is a data set without opening or listing its files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aloha_kit.core import ConfigError, EpisodeError, plural
from aloha_kit.core.errors import command, reason
from aloha_kit.core.files import replacing
from aloha_kit.core.lang import joined
from aloha_kit.core.source import EpisodeSource, RecordedEpisode
from aloha_kit.formats import make_source, ReadOptions
from aloha_kit.formats.curated import CuratedSource
from aloha_kit.formats.joined import JoinedSource
from aloha_kit.storage.curation import Curation, curation_file, read_curation

COLUMNS = {
    "id": "string",
    "name": "string",
    "rig": "string",
    "task": "string",
    "instruction": "string",
    "steps": "int32",
    "rate_hz": "float64",
    "success": "bool",
    "verdict": "string",
    "curated": "string",
    "excluded": "bool",
    "source": "string",
    "format": "string",
    "number": "int32",
    "location": "string",
    "bytes": "int64",
    "mtime_ns": "int64",
    "sha256": "string",
    "identity": "string",
    "edit": "string",
}
"""{column: type}. `source` is the data set's folder or file and `location` the episode's file, or the data set where it
has none of its own; both are relative to the manifest's folder where they lie in it. `number` is the episode's in its
source. `verdict` is that of `episode validate`, empty where it was not run; `curated` its edits in words."""


@dataclass(frozen=True)
class Manifest:
    """Rows of episodes.

    Attributes:
        folder: what relative places are relative to.
        table: a `pyarrow.Table` of `COLUMNS`, or of those that were read.
    """

    folder: Path
    table: Any

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @classmethod
    def of_rows(cls, folder: Path, rows: Iterable[Mapping[str, Any]]) -> Manifest:
        """Manifest of rows whose places are relative to a folder."""
        pa, _ = _pyarrow()
        return cls(folder, pa.Table.from_pylist([dict(row) for row in rows], schema=_schema()))

    @classmethod
    def read(cls, file: Path, columns: Iterable[str] = COLUMNS) -> Manifest:
        """Read some columns of a manifest.

        Raises:
            EpisodeError: no such file, or no manifest.
        """
        _, pq = _pyarrow()
        if file.is_dir():
            making = command("data", "manifest", file, "-o", file / "manifest.parquet")
            raise EpisodeError(
                "'{file}' is a folder and no manifest; `{making}` makes one of it", file=file, making=making
            )
        if not file.is_file():
            raise EpisodeError(
                "no manifest '{file}'; `{command}` makes one",
                file=file,
                command=command("data", "manifest", "DIR", "-o", file),
            )
        try:
            with pq.ParquetFile(file) as content:  # not `read_table`, which imports pandas first
                if missing := [name for name in COLUMNS if name not in content.schema_arrow.names]:
                    raise EpisodeError(
                        "{file} is no manifest: it lacks the column {missing}", file=file, missing=missing[0]
                    )
                return cls(file.parent, content.read(list(columns)).select(list(columns)))
        except (OSError, ValueError) as error:
            raise EpisodeError("{file} is no manifest or damaged: {error}", file=file, error=reason(error)) from error

    def write(self, file: Path) -> None:
        """Write the manifest whole; places become relative to its new folder."""
        pa, pq = _pyarrow()
        table = self.table
        if file.parent.resolve() != self.folder.resolve():
            for name in ("source", "location"):
                places = [relative(self.folder / place, file.parent) for place in table.column(name).to_pylist()]
                table = table.set_column(table.column_names.index(name), name, pa.array(places, pa.string()))
        with replacing(file) as part:
            pq.write_table(table, part, compression="zstd")

    def where(self, expression: str) -> Manifest:
        """The rows for which an expression of the columns holds, such as `task == 'cube' and success`.

        Unknown values count as false.

        Raises:
            ConfigError: not an expression of pandas, or not one that is true or false.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ConfigError("--where needs pandas: pip install pandas, or 'aloha_kit[stores]'") from error
        frame = self.table.to_pandas(types_mapper=pd.ArrowDtype)
        try:
            found = frame.eval(expression, engine="python", local_dict={}, global_dict={})
            mask = pd.Series(found, index=frame.index).astype("boolean").fillna(False).to_numpy(bool)
        except Exception as error:  # whatever the expression ends with
            columns = ", ".join(COLUMNS)
            raise ConfigError(
                '--where "{expression}": {error}; columns: {columns}',
                expression=expression,
                error=reason(error),
                columns=columns,
            ) from error
        pa, _ = _pyarrow()
        return dataclasses.replace(self, table=self.table.filter(pa.array(mask)))

    def text(self) -> str:
        """A line for each episode, and the sums."""
        heads = ("name", "task", "steps", "success", "verdict", "curated", "bytes", "location")
        rows = self.rows(*heads, "excluded")
        lines = [
            (row["name"], row["task"], str(row["steps"]), {None: "?", True: "yes", False: "no"}[row["success"]])
            + (row["verdict"], row["curated"] or ("excluded" if row["excluded"] else ""))
            + ("" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}", row["location"])
            for row in rows
        ]
        table = [("episode", "task", "steps", "success", "verdict", "curated", "MB", "file"), *lines]
        widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
        shown = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
        ]
        used = [row for row in rows if not row["excluded"]]
        size = sum(row["bytes"] or 0 for row in rows) / 1e6
        steps = sum(row["steps"] for row in used)
        counts = f"{plural(len(rows), 'episode')}, {len(used)} not excluded with {plural(steps, 'step')}, {size:.1f} MB"
        return "\n".join([*shown, counts])

    def rows(self, *columns: str) -> list[dict[str, Any]]:
        """Rows as plain values, with all columns by default."""
        found: list[dict[str, Any]] = self.table.select(list(columns or COLUMNS)).to_pylist()
        return found


def relative(place: Path, folder: Path) -> str:
    """A place relative to a folder if it lies in it, else absolute; with `/`."""
    whole, base = place.resolve(), folder.resolve()
    return (whole.relative_to(base) if whole.is_relative_to(base) else whole).as_posix()


def open_manifest(places: Sequence[str | Path], options: ReadOptions) -> EpisodeSource:
    """The episodes of a manifest that are not excluded, as one data set, with the curation of each of its sources.

    Raises:
        EpisodeError: no such manifest, or no episode in it.
        ConfigError: a curation does not fit the episodes.
    """
    (file,) = map(Path, places)
    columns = ("source", "format", "number", "name", "location", "bytes", "mtime_ns", "identity", "excluded")
    manifest = Manifest.read(file, columns)
    values = [manifest.table.column(name).to_pylist() for name in columns]
    parts: dict[tuple[str, str], list[_Row]] = {}
    excluded = 0
    for source, kind, *row, out in zip(*values, strict=True):
        excluded += out
        if not out:
            parts.setdefault((source, kind), []).append(_Row(*row))
    if not parts:
        if excluded:
            raise EpisodeError("no episode in {file}: {excluded} are excluded", file=file, excluded=excluded)
        raise EpisodeError("no episode in {file}", file=file)
    inner = dataclasses.replace(options, first=None)
    made = [
        _curated(ManifestPart(file, manifest.folder, source, kind, rows, inner), options)
        for (source, kind), rows in parts.items()
    ]
    whole = made[0] if len(made) == 1 else JoinedSource(made)
    if options.first is not None:
        whole = CuratedSource(whole, Curation(), first=options.first)
    whole.unused = joined(
        [*([whole.unused] if whole.unused else []), *([_excluded(file, excluded)] if excluded else [])]
    )
    return whole


def _excluded(file: Path, count: int) -> str:
    return f"{file}: {plural(count, 'episode')} excluded"


def _curated(part: ManifestPart, options: ReadOptions) -> EpisodeSource:
    file = curation_file(part.place)
    curation = read_curation(file) if options.curation is None else options.curation
    return part if curation.empty else CuratedSource(part, curation, file, whole=False)


class _Row(NamedTuple):  # made 100,000 times: a dataclass takes twice as long
    number: int
    name: str
    location: str
    bytes: int | None
    mtime_ns: int | None
    identity: str


class ManifestPart(EpisodeSource):
    """The episodes of a manifest that are of one data set, as they are recorded."""

    def __init__(
        self, file: Path, folder: Path, source: str, kind: str, rows: Sequence[_Row], options: ReadOptions
    ) -> None:
        self._file, self._folder, self._source, self._kind, self._rows = file, folder, source, kind, rows
        self._options = dataclasses.replace(options, curation=None)
        self._opened: EpisodeSource | None = None
        self.place = folder / source
        self.advice = f"build the manifest again: `{command('data', 'manifest', self.place, '-o', file)}`"

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, number: int) -> str:
        return self._rows[number].name

    def identity(self, number: int) -> str:
        return self._rows[number].identity

    def open(self, number: int) -> RecordedEpisode:
        row = self._rows[number]
        path = self._folder / row.location
        if row.location != self._source:
            self._require_unchanged(path, row)
            return make_source([path], self._kind, self._options).episode(0)
        if self._opened is None:
            self._opened = make_source([path], self._kind, self._options)
        if row.number >= len(self._opened) or self._opened.identity(row.number) != row.identity:
            raise EpisodeError(
                "{path}: episode {name} changed since {file} was built", path=path, name=row.name, file=self._file
            )
        return self._opened.episode(row.number)

    def _require_unchanged(self, path: Path, row: _Row) -> None:
        try:
            status = os.stat(path)
        except OSError as error:
            raise EpisodeError(
                "{path}, of {file}, cannot be read: {strerror}", path=path, file=self._file, strerror=error.strerror
            ) from error
        if row.bytes is not None and (status.st_size, status.st_mtime_ns) != (row.bytes, row.mtime_ns):
            raise EpisodeError("{path} changed since {file} was built", path=path, file=self._file)


def _schema() -> Any:
    pa, _ = _pyarrow()
    return pa.schema([(name, getattr(pa, kind.replace("bool", "bool_"))()) for name, kind in COLUMNS.items()])


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError("a manifest needs pyarrow: pip install pyarrow, or 'aloha_kit[stores]'") from error
    return pa, pq
