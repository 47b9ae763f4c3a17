"""`python -m aloha_kit.episode validate|recover|info|stats|export|adopt`: look after recorded episodes."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from aloha_kit.startup import quick_interrupts

with quick_interrupts():
    import tyro
    from tqdm import tqdm

    from aloha_kit.core import AlohaKitError, counted, EpisodeError
    from aloha_kit.core.cli import exit_status
    from aloha_kit.core.errors import reason
    from aloha_kit.core.files import make_folder
    from aloha_kit.episode import edit, summary
    from aloha_kit.episode import recover as recovery
    from aloha_kit.episode.adopt import Adopt
    from aloha_kit.episode.codec import JpegOrder
    from aloha_kit.episode.embodiment import ContractFlags
    from aloha_kit.episode.external import allow_external
    from aloha_kit.episode.findings import Bounds, Verdict
    from aloha_kit.episode.hdf5 import DAMAGE
    from aloha_kit.episode.selection import select
    from aloha_kit.episode.validate import validate, with_duplicates

T = TypeVar("T")

Source = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="SOURCE")]]
AllowExternal = Annotated[bool, tyro.conf.arg(help="Also read files whose data lie outside of them.")]
Target = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="TARGET")]]


@dataclass(frozen=True)
class Validate:
    """Check episodes: shapes, finite values, time, cameras, actions. Exit status 1 if one has an error."""

    source: Source
    """A folder of episodes, or one file."""
    json: bool = False
    """Print JSON for programs."""
    strict: bool = False
    """Count warnings as errors."""
    deep: bool = False
    """Read every byte and compare it with the checksums of the file."""
    embodiment: tyro.conf.OmitArgPrefixes[ContractFlags] = field(default_factory=ContractFlags)
    bounds: Bounds = field(default_factory=Bounds)
    allow_external: AllowExternal = False

    def run(self) -> int:
        contract, order = self.embodiment.load(), self.embodiment.jpeg_order
        paths = _progress(_episodes(self.source, journals=True))
        verdicts = [validate(path, self.bounds, contract, deep=self.deep, jpeg_order=order) for path in paths]
        verdicts = with_duplicates(verdicts)
        if self.json:
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
        bad = {"error", "warning"} if self.strict else {"error"}
        return int(any(v.level in bad for v in verdicts))


@dataclass(frozen=True)
class Recover:
    """Turn the journals of interrupted recordings into episodes. Exit status 1 if one could not be."""

    source: Source
    """A folder, or one episode_<i>.hdf5.partial."""
    json: bool = False
    """Print JSON for programs."""

    def run(self) -> int:
        found = recovery.recover_all(self.source)
        if self.json:
            _print_json(
                [{**vars(r), "journal": str(r.journal), "episode": r.episode and str(r.episode)} for r in found]
            )
        elif not found:
            print(f"nothing to recover in {self.source}")
        else:
            rows = [
                [r.journal.name, r.outcome, str(r.steps), r.episode.name if r.episode else "", r.message] for r in found
            ]
            print(_table(["journal", "outcome", "steps", "episode", "what"], rows))
        return int(any(r.outcome == "failed" for r in found))


@dataclass(frozen=True)
class Info:
    """Say what each episode is: length, cameras, size, success, task."""

    source: Source
    """A folder of episodes, or one file."""
    json: bool = False
    """Print JSON for programs."""
    embodiment: tyro.conf.OmitArgPrefixes[ContractFlags] = field(default_factory=ContractFlags)
    allow_external: AllowExternal = False

    def run(self) -> int:
        work = partial(summary.info, contract=self.embodiment.load(), jpeg_order=self.embodiment.jpeg_order)
        found, failed = _each(_episodes(self.source), work)
        if self.json:
            _print_json(found)
        elif found:
            print(
                _table(
                    ["episode", "steps", "s", "images", "MB", "success", "task", "how it ended"], map(_info_row, found)
                )
            )
            steps, size = sum(i["steps"] for i in found), sum(i["bytes"] for i in found)
            print(
                f"{counted(len(found), 'episode')}, {counted(steps, 'step')}, {size / 1e6:.1f} MB, {_successes(found)}"
            )
            for assumed in dict.fromkeys(i["assumed"] for i in found if i["assumed"]):
                print(f"note: {assumed}")
            for note, count in Counter(note for i in found for note in i["notes"]).items():
                print(f"note: {note} (in {count} of {counted(len(found), 'episode')})")
        return failed


@dataclass(frozen=True)
class Stats:
    """Mean, standard deviation and range of every dimension over all episodes."""

    source: Source
    """A folder of episodes, or one file."""
    json: bool = False
    """Print JSON for programs."""
    embodiment: tyro.conf.OmitArgPrefixes[ContractFlags] = field(default_factory=ContractFlags)
    allow_external: AllowExternal = False

    def run(self) -> int:
        sound, failed = _each(_episodes(self.source), partial(summary.moments, contract=self.embodiment.load()))
        found = summary.stats(sound)
        if self.json:
            _print_json({stream: s.to_mapping() for stream, s in found.items()})
        if self.json or not found:
            return failed
        rows = [
            [stream if i == 0 else "", name, *(f"{getattr(s, key)[i]:.4f}" for key in ("mean", "std", "min", "max"))]
            for stream, s in found.items()
            for i, name in enumerate(s.names)
        ]
        print(_table(["stream", "dimension", "mean", "std", "min", "max"], rows))
        actions = next((s.rows for s in found.values()), 0)
        print(f"{counted(len(sound), 'episode')}, {counted(actions, 'action')}")
        return failed


@dataclass(frozen=True)
class Export:
    """Copy episodes: a part of them, or for the readers of other repositories. Sources are not touched.

    ACT reads what `--classic --raw` writes, ACT++ and Mobile ALOHA `--classic --mobile_aloha`, Cobot Magic
    `--classic --raw`.
    """

    source: Source
    """A folder of episodes, or one file."""
    target: Target
    """The folder to copy into; created if missing, nothing in it is overwritten."""
    classic: bool = False
    """As many observations as actions (the last one dropped): for the data loader and the statistics of ACT, ACT++ and
    Cobot Magic."""
    raw: bool = False
    """Decode images into raw pixels: for ACT's and Cobot Magic's readers, which know no JPEG."""
    jpeg: JpegOrder | None = None
    """Write all images as JPEG: standard, ordinary ones for any viewer, or mobile_aloha, red and blue exchanged, for
    Mobile ALOHA's and ACT++'s readers. Images that are so already are kept byte for byte."""
    mobile_aloha: bool = False
    """The same as --jpeg mobile_aloha, where the source has encoded images."""
    start: int = 0
    """The first action to keep."""
    stop: int | None = None
    """The first action to drop again; all are kept by default."""
    embodiment: tyro.conf.OmitArgPrefixes[ContractFlags] = field(default_factory=ContractFlags)
    allow_external: AllowExternal = False

    def run(self) -> int:
        paths, contract = _episodes(self.source), self.embodiment.load()
        if self.raw and self.jpeg:
            raise EpisodeError(f"--raw and --jpeg {self.jpeg} exclude each other; give one of them")
        make_folder(self.target)

        def copy(path: Path) -> None:
            written = edit.export(
                path,
                self.target,
                start=self.start,
                stop=self.stop,
                classic=self.classic,
                raw=self.raw,
                jpeg=self.jpeg,
                mobile_aloha=self.mobile_aloha,
                contract=contract,
                jpeg_order=self.embodiment.jpeg_order,
            )
            print(written)

        return _each(paths, copy)[1]


Command = Validate | Recover | Info | Stats | Export | Adopt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; return the exit status: 0 fine, 1 something is wrong with the episodes."""

    def run() -> int:
        command: Command = tyro.cli(
            Command,
            args=arguments,
            prog="python -m aloha_kit.episode",
            description="Look after recorded episodes.",
            use_underscores=True,
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
        )
        allow_external(getattr(command, "allow_external", False))
        return command.run()

    return exit_status(run)


def _episodes(source: Path, *, journals: bool = False) -> list[Path]:
    """The files to look at; which of a folder's are left out is said on stderr."""
    selection = select(source)
    if journals:
        selection = selection.with_journals()
    if not selection.files:
        there = recovery.hint(source) or selection.text() or "expected episode_<i>.hdf5 files"
        raise EpisodeError(f"no episodes in '{source}'; {there}")
    if text := selection.text():
        print(text, file=sys.stderr)
    return list(selection.files)


def _each(paths: list[Path], work: Callable[[Path], T]) -> tuple[list[T], int]:
    """What `work` makes of the sound files, and the exit status; the others are reported and skipped."""
    results, failed = [], 0
    for path in _progress(paths):
        try:
            results.append(work(path))
        except edit.TargetError:  # the next one would meet the same
            raise
        except (AlohaKitError, *DAMAGE) as error:
            text = str(error) if isinstance(error, AlohaKitError) else f"{path} is damaged: {reason(error)}"
            print(f"error: {text}", file=sys.stderr)
            failed = 1
    return results, failed


def _progress(paths: list[Path]) -> Any:
    return tqdm(paths, unit="episode", disable=None, leave=False)  # None: only on a terminal


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _lines(verdict: Verdict) -> list[list[str]]:
    """Level, check and message of each finding; `ok` first where there is nothing but information."""
    ok = [["ok", "", ""]] if verdict.level == "ok" else []
    return ok + [[f.level, f.check, f.message] for f in verdict.findings]


def _info_row(info: dict[str, Any]) -> list[str]:
    cameras = ", ".join(f"{name} {h}x{w}" for name, (h, w) in info["cameras"].items()) or "none"
    sensors = "".join(f", {name} ({len(entries)})" for name, entries in info["sensors"].items())
    order = f" ({info['jpeg_order']}, {info['jpeg_order_source']})" if info["jpeg_order_source"] != "file" else ""
    order = "" if info["jpeg_order"] is None else order
    success = {None: "?", True: "yes", False: "no"}[info["success"]]
    reason = str(info["reason"] or "")
    return [
        Path(info["path"]).name,
        str(info["steps"]),
        f"{info['seconds']:.1f}",
        f"{info['images']}{order}: {cameras}{sensors}",
        f"{info['bytes'] / 1e6:.1f}",
        success,
        str(info["task"] or info["layout"]),
        reason if len(reason) <= 60 else reason[:59] + "…",
    ]


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


if __name__ == "__main__":
    sys.exit(main())
