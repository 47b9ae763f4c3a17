"""Manage recorded episodes: validate, recover, describe, export, adopt."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from aloha_kit.core import AlohaKitError, ConfigError, Contract, EpisodeError, plural
from aloha_kit.core.errors import command, reason
from aloha_kit.core.files import make_folder
from aloha_kit.core.parallel import map_in_order, Workers
from aloha_kit.core.source import EpisodeSource, RecordedEpisode
from aloha_kit.episode import folder_summary
from aloha_kit.episode.adopt import adopt
from aloha_kit.episode.args import Adopt, Command, Export, Info, Label, ReadingArgs, Recover, Stats, Validate
from aloha_kit.episode.bounds import Bounds
from aloha_kit.episode.edit_app import edit_dataset
from aloha_kit.episode.validate import validate, ValidationResult, with_duplicates
from aloha_kit.formats import format_of, open_source, ReadOptions
from aloha_kit.storage import export, recovery
from aloha_kit.storage.codec import JpegOrder
from aloha_kit.storage.curation import Curation, curation_file, read_curation
from aloha_kit.storage.external_data import allow_external
from aloha_kit.storage.hdf5 import DAMAGE
from aloha_kit.storage.label import label, rename_cameras
from aloha_kit.storage.selection import select

_LOG = logging.getLogger(__name__)

S = TypeVar("S")
T = TypeVar("T")

_OPTIONAL = ("grade", "note", "edits")
"""Columns of `info` that are left out where no episode has an entry."""


def run(args: Command) -> int:
    """Run one subcommand; returns 0 on success, 1 where an episode has an error.

    Raises:
        AlohaKitError: no episodes, or a file that cannot be written.
    """
    allow_external(getattr(args, "allow_external", False))
    if isinstance(args, Validate):
        return _validate(args)
    if isinstance(args, Recover):
        return _recover(args)
    if isinstance(args, Info):
        return _info(args)
    if isinstance(args, Stats):
        return _stats(args)
    if isinstance(args, Export):
        return _export(args)
    if isinstance(args, Label):
        return _label(args)
    if isinstance(args, Adopt):
        adopt(args)
        return 0
    return edit_dataset(args)


def _validate(args: Validate) -> int:
    contract, order = args.embodiment.load(), args.embodiment.jpeg_order
    paths = _progress(_kept(_episodes(args.source, journals=True), read_curation(curation_file(args.source))))
    check = _Validation(args.bounds, contract, args.deep, order, args.allow_external)
    verdicts = list(map_in_order(check, paths, Workers(args.workers, args.ray)))
    verdicts = with_duplicates(verdicts)
    if args.json:
        _print_json([verdict.to_mapping() for verdict in verdicts])
    else:
        rows = [
            [v.path.name if i == 0 else "", str(v.steps) if i == 0 else "", *line]
            for v in verdicts
            for i, line in enumerate(_lines(v))
        ]
        print(_table(["episode", "steps", "verdict", "check", "what"], rows))
        levels = [v.level for v in verdicts]
        print(", ".join(f"{levels.count(level)} {level}" for level in ("ok", "warning", "error")))
    bad = {"error", "warning"} if args.strict else {"error"}
    return int(any(v.level in bad for v in verdicts))


@dataclass(frozen=True)
class _Validation:
    """Validation of one file; sent to other processes."""

    bounds: Bounds
    contract: Contract | None
    deep: bool
    jpeg_order: JpegOrder | None
    allow_external: bool

    def __call__(self, path: Path) -> ValidationResult:
        allow_external(self.allow_external)
        return validate(path, self.bounds, self.contract, deep=self.deep, jpeg_order=self.jpeg_order)


def _recover(args: Recover) -> int:
    found = recovery.recover_all(args.source)
    if args.json:
        _print_json([{**vars(r), "journal": str(r.journal), "episode": r.episode and str(r.episode)} for r in found])
    elif not found:
        print(f"nothing to recover in {args.source}")
    else:
        rows = [
            [r.journal.name, r.outcome, str(r.steps), r.episode.name if r.episode else "", r.message] for r in found
        ]
        print(_table(["journal", "outcome", "steps", "episode", "what"], rows))
    return int(any(r.outcome == "failed" for r in found))


def _info(args: Info) -> int:
    found, failed = _each_of(_source(args), folder_summary.info)
    if args.json:
        _print_json(found)
    elif found:
        heads = ["episode", "steps", "s", "images", "MB", "success", "grade", "task", "how it ended", "note", "edits"]
        rows = [heads, *map(_info_row, found)]
        used = [i for i, head in enumerate(heads) if head not in _OPTIONAL or any(row[i] for row in rows[1:])]
        heads, *rows = [[row[i] for i in used] for row in rows]
        print(_table(heads, rows))
        steps, size = sum(i["steps"] for i in found), sum(i["bytes"] for i in found)
        print(f"{plural(len(found), 'episode')}, {plural(steps, 'step')}, {size / 1e6:.1f} MB, {_successes(found)}")
        for assumed in dict.fromkeys(i["assumed"] for i in found if i["assumed"]):
            print(f"note: {assumed}")
        for note, count in Counter(note for i in found for note in i["notes"]).items():
            print(f"note: {note} (in {count} of {plural(len(found), 'episode')})")
    return failed


def _stats(args: Stats) -> int:
    sound, failed = _each_of(_source(args), folder_summary.moments)
    found = folder_summary.stats(sound)
    if args.json:
        _print_json({stream: s.to_mapping() for stream, s in found.items()})
    if args.json or not found:
        return failed
    rows = [
        [stream if i == 0 else "", name, *(f"{getattr(s, key)[i]:.4f}" for key in ("mean", "std", "min", "max"))]
        for stream, s in found.items()
        for i, name in enumerate(s.names)
    ]
    print(_table(["stream", "dimension", "mean", "std", "min", "max"], rows))
    actions = next((s.rows for s in found.values()), 0)
    print(f"{plural(len(sound), 'episode')}, {plural(actions, 'action')}")
    return failed


def _export(args: Export) -> int:
    curation, contract = read_curation(curation_file(args.source)), args.embodiment.load()
    paths = _kept(_episodes(args.source), curation)
    if curation.image_size:
        raise ConfigError(f"export copies images as they are, {curation_file(args.source)} resizes them: use convert")
    make_folder(args.target)

    def copy(path: Path) -> None:
        edit = curation.edit(path.stem)
        stops = [stop for stop in (args.stop, edit.stop) if stop is not None]
        written = export.export(
            path,
            args.target,
            start=max(args.start, edit.start),
            stop=min(stops, default=None),
            classic=args.classic,
            raw=args.raw,
            jpeg=args.jpeg,
            mobile_aloha=args.mobile_aloha,
            contract=contract,
            jpeg_order=args.embodiment.jpeg_order,
        )
        rename_cameras(written, {old: new for new, old in curation.cameras.items()})
        if edit.labels:
            label(written, **edit.labels)
        print(written)

    return _each(paths, copy)[1]


def _label(args: Label) -> int:
    def write(path: Path) -> None:
        label(path, **args.labels.given)
        print(path)

    return _each(_episodes(args.source), write)[1]


def _episodes(source: Path, *, journals: bool = False) -> list[Path]:
    """Files to process; those of a folder that are not used are logged."""
    selection = select(source)
    if journals:
        selection = selection.with_journals()
    if not selection.files:
        if (kind := format_of(source)) != "hdf5":
            raise EpisodeError(
                f"'{source}' has the format {kind}, and this command takes HDF5 episodes; "
                f"`{command('convert', source, f'{source}_hdf5')}` makes them"
            )
        there = recovery.hint(source) or selection.text() or "expected episode_<i>.hdf5 files"
        raise EpisodeError(f"no episodes in '{source}'; {there}")
    if text := selection.text():
        _LOG.info("%s", text)
    return list(selection.files)


def _kept(paths: list[Path], curation: Curation) -> list[Path]:
    """The files that the curation does not drop."""
    kept = [path for path in paths if not curation.edit(path.stem).drop]
    if len(kept) < len(paths):
        _LOG.info("%s", f"{plural(len(paths) - len(kept), 'episode')} left out: dropped by the curation")
    return kept


def _source(args: ReadingArgs) -> EpisodeSource:
    """The episodes of a data set of any format with their edits; what of it is not used is logged."""
    curated = not read_curation(curation_file(args.source)).empty
    if not curated and format_of(args.source) == "hdf5":
        _episodes(args.source)  # raises, with how to recover what is there
    options = ReadOptions(args.embodiment.load(), args.embodiment.jpeg_order)
    source = open_source(args.source, options=options)
    if source.unused and (curated or format_of(args.source) != "hdf5"):
        _LOG.info("%s", source.unused)
    return source


def _each_of(source: EpisodeSource, work: Callable[[RecordedEpisode], T]) -> tuple[list[T], int]:
    """As `_each`, for the episodes of a source."""

    def opened(number: int) -> T:
        try:
            with closing(source.episode(number)) as episode:
                return work(episode)
        except DAMAGE as error:
            raise EpisodeError(f"{source.place / source.name(number)} is damaged: {reason(error)}") from error

    return _each(range(len(source)), opened)


def _each(paths: Sequence[S], work: Callable[[S], T]) -> tuple[list[T], int]:
    """Results of `work` for the readable files, and the exit status; the others are reported and skipped."""
    results, failed = [], 0
    for path in _progress(paths):
        try:
            results.append(work(path))
        except export.TargetError:  # the next episode would fail in the same way
            raise
        except (AlohaKitError, *DAMAGE) as error:
            text = str(error) if isinstance(error, AlohaKitError) else f"{path} is damaged: {reason(error)}"
            _LOG.error("%s", text)
            failed = 1
    return results, failed


def _progress(paths: Sequence[Any]) -> Any:
    return tqdm(paths, unit="episode", disable=None, leave=False)  # None: only on a terminal


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _lines(verdict: ValidationResult) -> list[list[str]]:
    """Level, check and message of each finding; `ok` first where there is only information."""
    ok = [["ok", "", ""]] if verdict.level == "ok" else []
    return ok + [[f.level, f.check, f.found] for f in verdict.findings]


def _info_row(info: dict[str, Any]) -> list[str]:
    cameras = ", ".join(f"{name} {h}x{w}" for name, (h, w) in info["cameras"].items()) or "none"
    sensors = "".join(f", {name} ({len(entries)})" for name, entries in info["sensors"].items())
    order = f" ({info['jpeg_order']}, {info['jpeg_order_source']})" if info["jpeg_order_source"] != "file" else ""
    order = "" if info["jpeg_order"] is None else order
    success = {None: "?", True: "yes", False: "no"}[info["success"]]
    return [
        info["name"],
        str(info["steps"]),
        f"{info['seconds']:.1f}",
        f"{info['images']}{order}: {cameras}{sensors}",
        f"{info['bytes'] / 1e6:.1f}",
        success,
        str(info["grade"] or ""),
        str(info["task"] or info["layout"]),
        _shortened(str(info["reason"] or "")),
        _shortened(" ".join(str(info["note"] or "").split())),
        _shortened(info["edits"]),
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _successes(found: Sequence[dict[str, Any]]) -> str:
    judged = [i["success"] for i in found if i["success"] is not None]
    return f"{sum(judged)} of {len(judged)} judged ones successful" if judged else "none judged"


def _table(heads: list[str], rows: Any) -> str:
    """Aligned columns; numbers to the right. Long lines wrap, the dashes under the heads do not."""
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    numeric = [all(_number(line[i]) for line in lines[1:]) for i in range(len(heads))]

    def form(line: list[str]) -> str:
        cells = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True))
        return "  ".join(cells).rstrip()

    dashes = "  ".join("-" * width for width in widths)[: shutil.get_terminal_size().columns]
    return "\n".join([form(heads), dashes, *map(form, lines[1:])])


def _number(text: str) -> bool:
    return not text or text.replace(".", "", 1).lstrip("-").isdigit()
