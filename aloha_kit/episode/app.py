"""Manage recorded episodes: validate, recover, describe, export, adopt."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from aloha_kit.core import AlohaKitError, ConfigError, Contract, EpisodeError, plural
from aloha_kit.core.errors import command, reason
from aloha_kit.core.files import make_folder
from aloha_kit.core.lang import joined, marked, Message, pad, shown, tr, width
from aloha_kit.core.parallel import map_in_order, Workers
from aloha_kit.core.source import EpisodeSource, RecordedEpisode
from aloha_kit.episode import folder_summary
from aloha_kit.episode.adopt import adopt
from aloha_kit.episode.args import Adopt, Command, Export, Info, Label, ParallelArgs, Recover, Stats, Validate
from aloha_kit.episode.bounds import Bounds
from aloha_kit.episode.edit_app import edit_dataset
from aloha_kit.episode.read_each import read_each, Unreadable
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

_COLUMNS = (
    marked("episode"),
    marked("steps"),
    "s",
    marked("images"),
    "MB",
    marked("success"),
    marked("grade"),
    marked("task"),
    marked("how it ended"),
    marked("note"),
    marked("edits"),
)
_LEVELS = {"ok": marked("ok"), "info": marked("info"), "warning": marked("warning"), "error": marked("error")}
_OUTCOMES = {
    "recovered": marked("recovered"),
    "finished": marked("finished"),
    "empty": marked("empty"),
    "busy": marked("busy"),
    "failed": marked("failed"),
}
_OPTIONAL = ("grade", "note", "edits")
"""Columns of `info`; which of them are left out where no episode has an entry."""


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
        print(_table([tr("episode"), tr("steps"), tr("verdict"), tr("check"), tr("what")], rows))
        levels = [v.level for v in verdicts]
        print(
            tr(
                "{ok} ok, {warning} warning, {error} error",
                ok=levels.count("ok"),
                warning=levels.count("warning"),
                error=levels.count("error"),
            )
        )
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
        print(tr("nothing to recover in {place}", place=args.source))
    else:
        rows = [
            [
                r.journal.name,
                tr(_OUTCOMES[r.outcome]),
                str(r.steps),
                r.episode.name if r.episode else "",
                shown(r.message),
            ]
            for r in found
        ]
        print(_table([tr("journal"), tr("outcome"), tr("steps"), tr("episode"), tr("what")], rows))
    return int(any(r.outcome == "failed" for r in found))


def _info(args: Info) -> int:
    found, failed = _each_of(args, folder_summary.info)
    if args.json:
        _print_json(found)
    elif found:
        heads = list(_COLUMNS)
        rows = [heads, *map(_info_row, found)]
        used = [i for i, head in enumerate(heads) if head not in _OPTIONAL or any(row[i] for row in rows[1:])]
        heads, *rows = [[row[i] for i in used] for row in rows]
        print(_table([tr(head) for head in heads], rows))
        steps, size = sum(i["steps"] for i in found), sum(i["bytes"] for i in found)
        total = [plural(len(found), "episode"), plural(steps, "step"), f"{size / 1e6:.1f} MB", _successes(found)]
        print(shown(joined(total, ", ")))
        for assumed in dict.fromkeys(i["assumed"] for i in found if i["assumed"]):
            print(tr("note: {text}", text=assumed))
        for note, count in Counter(note for i in found for note in i["notes"]).items():
            print(tr("note: {text} (in {n} of {episodes})", text=note, n=count, episodes=total[0]))
    return failed


def _stats(args: Stats) -> int:
    sound, failed = _each_of(args, folder_summary.moments)
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
    print(_table([tr("stream"), tr("dimension"), tr("mean"), tr("std"), tr("min"), tr("max")], rows))
    actions = next((s.rows for s in found.values()), 0)
    print(shown(joined([plural(len(sound), "episode"), plural(actions, "action")], ", ")))
    return failed


def _export(args: Export) -> int:
    curation, contract = read_curation(curation_file(args.source)), args.embodiment.load()
    paths = _kept(_episodes(args.source), curation)
    if curation.image_size:
        raise ConfigError(
            "export copies images as they are, {file} resizes them: use convert", file=curation_file(args.source)
        )
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
                "'{source}' has the format {kind}, and this command takes HDF5 episodes; `{command}` makes them",
                source=source,
                kind=kind,
                command=command("convert", source, f"{source}_hdf5"),
            )
        there = recovery.hint(source) or selection.text() or Message("expected episode_<i>.hdf5 files")
        raise EpisodeError("no episodes in '{source}'; {there}", source=source, there=there)
    if text := selection.text():
        _LOG.info("%s", shown(text))
    return list(selection.files)


def _kept(paths: list[Path], curation: Curation) -> list[Path]:
    """The files that the curation does not drop."""
    kept = [path for path in paths if not curation.edit(path.stem).drop]
    if len(kept) < len(paths):
        left_out = plural(len(paths) - len(kept), "episode")
        _LOG.info("%s", tr("{episodes} left out: dropped by the curation", episodes=left_out))
    return kept


def _source(args: ParallelArgs) -> EpisodeSource:
    """The episodes of a data set of any format with their edits; what of it is not used is logged."""
    curated = not read_curation(curation_file(args.source)).empty
    if not curated and format_of(args.source) == "hdf5":
        _episodes(args.source)  # raises, with how to recover what is there
    options = ReadOptions(args.embodiment.load(), args.embodiment.jpeg_order)
    source = open_source(args.source, options=options)
    if source.unused and (curated or format_of(args.source) != "hdf5"):
        _LOG.info("%s", shown(source.unused))
    return source


def _each_of(args: ParallelArgs, work: Callable[[RecordedEpisode], T]) -> tuple[list[T], int]:
    """As `_each`, for the episodes of a data set of any format, in the processes that the flags give."""
    source, workers = _source(args), Workers(args.workers, args.ray)
    sound: list[T] = []
    for found in _progress(read_each(source, work, workers, external=args.allow_external), len(source)):
        if isinstance(found, Unreadable):
            _LOG.error("%s", shown(found.reason))
        else:
            sound.append(found)
    return sound, int(len(sound) < len(source))


def _each(paths: Sequence[S], work: Callable[[S], T]) -> tuple[list[T], int]:
    """Results of `work` for the readable files, and the exit status; the others are reported and skipped."""
    results, failed = [], 0
    for path in _progress(paths):
        try:
            results.append(work(path))
        except export.TargetError:  # the next episode would fail in the same way
            raise
        except (AlohaKitError, *DAMAGE) as error:
            damaged = Message("{name} is damaged: {error}", name=path, error=reason(error))
            _LOG.error("%s", shown(error if isinstance(error, AlohaKitError) else damaged))
            failed = 1
    return results, failed


def _progress(paths: Iterable[Any], total: int | None = None) -> Any:
    return tqdm(paths, total=total, unit="episode", disable=None, leave=False)  # None: only on a terminal


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _lines(verdict: ValidationResult) -> list[list[str]]:
    """Level, check and message of each finding; `ok` first where there is only information."""
    ok = [[tr("ok"), "", ""]] if verdict.level == "ok" else []
    return ok + [[tr(_LEVELS[f.level]), tr(f.check), shown(f.found)] for f in verdict.findings]


def _info_row(info: dict[str, Any]) -> list[str]:
    cameras = ", ".join(f"{name} {h}x{w}" for name, (h, w) in info["cameras"].items()) or tr("none")
    sensors = "".join(f", {name} ({len(entries)})" for name, entries in info["sensors"].items())
    order = f" ({info['jpeg_order']}, {info['jpeg_order_source']})" if info["jpeg_order_source"] != "file" else ""
    order = "" if info["jpeg_order"] is None else order
    success = {None: "?", True: tr("yes"), False: tr("no")}[info["success"]]
    return [
        info["name"],
        str(info["steps"]),
        f"{info['seconds']:.1f}",
        f"{info['images']}{order}: {cameras}{sensors}",
        f"{info['bytes'] / 1e6:.1f}",
        success,
        str(info["grade"] or ""),
        str(info["task"] or info["layout"]),
        _shortened(shown(info["reason"] or "")),
        _shortened(" ".join(str(info["note"] or "").split())),
        _shortened(shown(info["edits"])),
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _successes(found: Sequence[dict[str, Any]]) -> str:
    judged = [i["success"] for i in found if i["success"] is not None]
    if not judged:
        return Message("none judged")
    return Message("{n} of {judged} judged ones successful", n=sum(judged), judged=len(judged))


def _table(heads: list[str], rows: Any) -> str:
    """Aligned columns; numbers to the right. Long lines wrap, the dashes under the heads do not."""
    lines = [heads, *rows]
    widths = [max(width(line[i]) for line in lines) for i in range(len(heads))]
    numeric = [all(_number(line[i]) for line in lines[1:]) for i in range(len(heads))]

    def form(line: list[str]) -> str:
        cells = (" " * (w - width(c)) + c if n else pad(c, w) for c, w, n in zip(line, widths, numeric, strict=True))
        return "  ".join(cells).rstrip()

    dashes = "  ".join("-" * columns for columns in widths)[: shutil.get_terminal_size().columns]
    return "\n".join([form(heads), dashes, *map(form, lines[1:])])


def _number(text: str) -> bool:
    return not text or text.replace(".", "", 1).lstrip("-").isdigit()
