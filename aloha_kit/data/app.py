"""Commands that list, download, send and fetch data sets, and that build manifests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from aloha_kit.core import ConfigError, did_you_mean, plural
from aloha_kit.core.errors import command
from aloha_kit.core.files import make_folder
from aloha_kit.core.lang import marked, tr
from aloha_kit.core.parallel import Workers
from aloha_kit.data.args import Command, Ls, Manifest, Pull, Push
from aloha_kit.data.build_manifest import build, BuildOptions
from aloha_kit.data.fetch import fetch
from aloha_kit.data.manifest_files import known_files, unwanted
from aloha_kit.data.published import PUBLISHED, PublishedDataset
from aloha_kit.data.pull import pull
from aloha_kit.data.push import push
from aloha_kit.data.store_records import read_records
from aloha_kit.data.transfer import MANIFEST, TransferOptions, TransferResult
from aloha_kit.formats import ReadOptions
from aloha_kit.formats.manifest import Manifest as EpisodeManifest
from aloha_kit.stores import open_store

SENT = (
    marked("{place}: {files} sent ({size:.1f} MB), {there} were there"),
    marked("{files} not sent, such as {path}: {why}"),
)
FETCHED = (
    marked("{place}: {files} fetched ({size:.1f} MB), {there} were there"),
    marked("{files} not fetched, such as {path}: {why}"),
)


def run(args: Command) -> int:
    """Run one subcommand; returns 1 where a file could not be transferred.

    Raises:
        ConfigError: no such data set, a folder that cannot be written, or a URL without a driver.
        FetchError, StoreError: see `fetch`, `push` and `pull`.
    """
    if isinstance(args, Push):
        known = known_files(args.folder / MANIFEST)
        result = push(args.folder, open_store(args.url), TransferOptions(args.jobs, args.check), known)
        return _report(result, SENT, args.url, command("data", "pull", args.url, args.folder))
    if isinstance(args, Pull):
        store = open_store(args.url)
        without = unwanted(store, args.where) if args.where else ()
        result = pull(store, args.folder, TransferOptions(args.jobs, args.check), without)
        return _report(result, FETCHED, args.folder, command("episode", "info", args.folder))
    if isinstance(args, Ls):
        _list(args)
        return 0
    if isinstance(args, Manifest):
        return _build(args)
    if args.name not in PUBLISHED:
        raise ConfigError(
            "no published data set '{args}'. {known}", args=args.name, known=did_you_mean(args.name, PUBLISHED)
        )
    dataset = PUBLISHED[args.name]
    place = fetch(dataset, args.folder or Path("data") / args.name, args.mirror)
    print(place)
    print(tr("licence: {licence}; described at {origin}", licence=dataset.licence, origin=dataset.origin))
    print(tr("next: {command}", command=command("episode", "info", place)))
    return 0


def _report(result: TransferResult, texts: tuple[str, str], place: str | Path, following: str) -> int:
    """Print the result of a transfer in the texts of what was transferred and of what was not; the status."""
    transferred, failed = texts
    files, size = plural(result.transferred, "file"), result.bytes / 1e6
    print(tr(transferred, place=place, files=files, size=size, there=result.there))
    if result.failed:
        path, why = result.failed[0]
        print(tr(failed, files=plural(len(result.failed), "file"), path=path, why=why))
        return 1
    print(tr("next: {command}", command=following))
    return 0


def _build(args: Manifest) -> int:
    reading = ReadOptions(args.embodiment.load(), args.embodiment.jpeg_order, rig=args.embodiment.rig or "")
    options = BuildOptions(not args.skip_sha256, args.validate, reading)
    make_folder(args.output.parent)
    built = build(args.places, args.output, options, Workers(args.workers, args.ray))
    count = len(built.manifest)
    print(
        tr(
            "{file}: {episodes}, {read} read now, {unchanged} unchanged",
            file=args.output,
            episodes=plural(count, "episode"),
            read=built.read,
            unchanged=count - built.read,
        )
    )
    if built.damaged:
        print(tr("{episodes} that cannot be read, excluded", episodes=plural(built.damaged, "episode")))
    print(tr("next: {command}", command=command("train", "--dataset_dir", args.output)))
    return int(bool(built.damaged))


def _list(args: Ls) -> None:
    if "://" in args.place:
        _list_store(args.place, as_json=args.json)
    elif args.place:
        manifest = EpisodeManifest.read(Path(args.place))
        manifest = manifest.where(args.where) if args.where else manifest
        if args.output:
            make_folder(args.output.parent)
            manifest.write(args.output)
        print(json.dumps(manifest.rows(), indent=2) if args.json else manifest.text())
    else:
        _list_published(as_json=args.json)


def _list_store(url: str, *, as_json: bool) -> None:
    records = read_records(open_store(url))
    if as_json:
        print(json.dumps([dataclasses.asdict(record) for record in records.values()], indent=2))
        return
    for record in records.values():
        print(f"{record.bytes:>14,}  {record.sha256}  {record.path}")
    size = sum(record.bytes for record in records.values()) / 1e6
    print(tr("{url}: {files}, {size:.1f} MB", url=url, files=plural(len(records), "file"), size=size))


def _list_published(*, as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: dataclasses.asdict(dataset) for name, dataset in PUBLISHED.items()}, indent=2))
        return
    for name, dataset in PUBLISHED.items():
        print(f"{name}: {dataset.about}")
        line = tr(
            "format {format}, {size}, licence {licence}, {origin}",
            format=dataset.format,
            size=_size(dataset),
            licence=dataset.licence,
            origin=dataset.origin,
        )
        print(f"    {line}")
        for file in dataset.files:
            print(f"    {file.address}")
            print(f"        SHA-256 {file.sha256 or tr('not published: recorded at the first download')}")


def _size(dataset: PublishedDataset) -> str:
    return tr("size not published") if dataset.size is None else f"{dataset.size / 1e6:.1f} MB"
