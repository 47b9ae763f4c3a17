"""Conversion of a data set: open, write every episode, join, report."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

from tqdm import tqdm

from aloha_kit.convert.args import ConvertArgs
from aloha_kit.convert.report import print_report, write_report
from aloha_kit.convert.staging import Staging
from aloha_kit.convert.workers import ConversionJob, Damaged, stopped, write_all
from aloha_kit.core import ConfigError, EpisodeError, plural
from aloha_kit.core.exporter import WriteOptions
from aloha_kit.core.lang import shown
from aloha_kit.core.parallel import Workers
from aloha_kit.core.source import EpisodeSource, RecordedEpisode
from aloha_kit.episode.adopt import suggested_contract
from aloha_kit.episode.ranges import measure_source
from aloha_kit.formats import AUTO, format_of, make_exporter, open_source, ReadOptions
from aloha_kit.storage.contract_file import CONTRACT, UNKNOWN
from aloha_kit.storage.curation import Curation, given

_LOG = logging.getLogger(__name__)
_PLAIN_SECONDS = 30.0  # between lines where there is no terminal to draw a bar on


def run(args: ConvertArgs) -> int:
    """Convert and print the report; returns 1 where episodes were left out as damaged.

    Raises:
        AlohaKitError: nothing to convert, an existing target, data without a contract, damaged episodes, a full disk.
    """
    curation = None if args.curation == "auto" else Curation() if args.curation == "none" else given(args.curation)
    reading = ReadOptions(
        args.embodiment.load(),
        args.embodiment.jpeg_order,
        first=args.num_episodes,
        rig=args.embodiment.rig or "",
        task=args.task or "",
        curation=curation,
    )
    options = WriteOptions(args.images, args.codec, args.crf, args.quality)
    kind = format_of(args.source) if args.from_format == AUTO else args.from_format
    source = open_source(args.source, kind=kind, options=reading)
    if source.unused:
        _LOG.info("%s", source.unused)
    if source.validation and not args.format.startswith("robomimic"):
        _LOG.info("which %d episodes are for validation is not carried", len(source.validation))
    _require_units(source, Path(args.source))
    if args.target.resolve().is_relative_to(Path(args.source).resolve()):
        raise ConfigError(
            "'{target}' lies in the source '{source}'; give a folder outside of it",
            target=args.target,
            source=args.source,
        )
    plan = {
        "source": str(Path(args.source).resolve()) if Path(args.source).exists() else args.source,
        "from_format": kind,
        "format": args.format,
        "options": {key: value for key, value in vars(options).items() if value is not None},
        "contract": reading.contract.to_json() if reading.contract else None,
        "jpeg_order": reading.jpeg_order,
        "curation": dict(source.edits) or None,
        **({"task": reading.task, "rig": reading.rig} if reading.task else {}),
    }
    staging = Staging(args.target, plan)
    exporter = make_exporter(args.format, staging.folder, staging.parts, options)
    job = ConversionJob(source, exporter, staging.workers_lock)
    try:
        with staging:
            damaged = _write(job, staging, Workers(args.workers, args.ray))
            numbers = [number for number in range(len(source)) if number not in damaged]
            _require_sound(damaged, len(numbers), args)
            records = staging.records(numbers)
            exporter.finish(records)
            report = write_report(staging.folder, plan, records, damaged)
            staging.commit()
    except OSError as error:
        raise stopped(error) from error
    print_report(report, args.target, as_json=args.json)
    return int(bool(damaged))


def _require_units(source: EpisodeSource, place: Path) -> None:
    """Refuse data whose units are not known; print what their ranges suggest."""
    with closing(_first_sound(source)) as episode:
        if UNKNOWN not in episode.contract.units.values():
            if episode.assumption:
                _LOG.warning("%s: %s", episode.where, shown(episode.assumption))
            return
    measured = measure_source(source)
    print(f"{measured.text()}\n\n# {CONTRACT} as sizes and ranges suggest it; check every name and unit\n")
    print(suggested_contract(place, measured))
    raise ConfigError(
        "{place} does not record names and units of its numbers: give --rig NAME, or save what is "
        "printed above, checked, as {value} or another file for --contract FILE",
        place=place,
        value=place / CONTRACT if place.is_dir() else CONTRACT,
    )


def _first_sound(source: EpisodeSource) -> RecordedEpisode:
    """The first episode that can be opened.

    Raises:
        EpisodeError: none can; the reason of the first one.
    """
    for number in range(len(source)):
        with suppress(EpisodeError):
            return source.episode(number)
    return source.episode(0)


def _write(job: ConversionJob, staging: Staging, workers: Workers) -> dict[int, str]:
    """Write the episodes that are not finished yet; returns {number: reason} of those that cannot be read."""
    total = len(job.source)
    open_ = [number for number in range(total) if not staging.finished(number, job.source.identity(number))]
    if len(open_) < total:
        _LOG.info("%s finished already; going on", plural(total - len(open_), "episode"))
    damaged: dict[int, str] = {}
    began = reported = time.monotonic()
    with tqdm(total=total, initial=total - len(open_), desc="Converting", unit="episode", disable=None) as bar:
        for done, written in enumerate(write_all(job, open_, workers.at_most(len(open_))), 1):
            if isinstance(written, Damaged):
                damaged[written.number] = written.reason
                _LOG.error("episode %d is left out: %s", written.number, written.reason)
            else:
                staging.keep(written)
            bar.update()
            now = time.monotonic()
            if not sys.stderr.isatty() and now - reported > _PLAIN_SECONDS:
                reported, left = now, (now - began) / done * (len(open_) - done)
                _LOG.info("%d of %d episodes, %.0f s left", total - len(open_) + done, total, left)
    return damaged


def _require_sound(damaged: dict[int, str], sound: int, args: ConvertArgs) -> None:
    if not sound:
        raise EpisodeError(
            "no episode of {source} can be read: {next}", source=args.source, next=next(iter(damaged.values()))
        )
    if damaged and not args.skip_damaged:
        number, why = next(iter(damaged.items()))
        raise EpisodeError(
            "{episodes} of {sound} cannot be read, such as {number}: {why}. The others are written: repair "
            "or remove it and run the command again, or leave it out with --skip_damaged",
            episodes=plural(len(damaged), "episode"),
            sound=sound + len(damaged),
            number=number,
            why=why,
        )
