"""Commands that list, download, send and fetch data sets, and that build manifests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from aloha_kit.core import ConfigError, did_you_mean, plural
from aloha_kit.core.errors import command
from aloha_kit.core.files import make_folder
from aloha_kit.core.lang import Message
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


def run(args: Command) -> int:
    """Run one subcommand; returns 1 where a file could not be transferred.

    Raises:
        ConfigError: no such data set, a folder that cannot be written, or a URL without a driver.
        FetchError, StoreError: see `fetch`, `push` and `pull`.
    """
    if isinstance(args, Push):
        known = known_files(args.folder / MANIFEST)
        result = push(args.folder, open_store(args.url), TransferOptions(args.jobs, args.check), known)
        return _report(result, "sent", args.url, command("data", "pull", args.url, args.folder))
    if isinstance(args, Pull):
        store = open_store(args.url)
        without = unwanted(store, args.where) if args.where else ()
        result = pull(store, args.folder, TransferOptions(args.jobs, args.check), without)
        return _report(result, "fetched", args.folder, command("episode", "info", args.folder))
    if isinstance(args, Ls):
        _list(args)
        return 0
    if isinstance(args, Manifest):
        return _build(args)
    if args.name not in PUBLISHED:
        raise ConfigError(
            Message("no published data set '{args}'. {known}", args=args.name, known=did_you_mean(args.name, PUBLISHED))
        )
    dataset = PUBLISHED[args.name]
    place = fetch(dataset, args.folder or Path("data") / args.name, args.mirror)
    print(place)
    print(f"licence: {dataset.licence}; described at {dataset.origin}")
    print(f"next: {command('episode', 'info', place)}")
    return 0


def _report(result: TransferResult, what: str, place: str | Path, following: str) -> int:
    """Print the result of a transfer; the status."""
    print(
        f"{place}: {plural(result.transferred, 'file')} {what} ({result.bytes / 1e6:.1f} MB), {result.there} were there"
    )
    if result.failed:
        print(f"{plural(len(result.failed), 'file')} not {what}, such as {result.failed[0][0]}: {result.failed[0][1]}")
        return 1
    print(f"next: {following}")
    return 0


def _build(args: Manifest) -> int:
    reading = ReadOptions(args.embodiment.load(), args.embodiment.jpeg_order, rig=args.embodiment.rig or "")
    options = BuildOptions(not args.skip_sha256, args.validate, reading)
    make_folder(args.output.parent)
    built = build(args.places, args.output, options, Workers(args.workers, args.ray))
    count = len(built.manifest)
    print(f"{args.output}: {plural(count, 'episode')}, {built.read} read now, {count - built.read} unchanged")
    if built.damaged:
        print(f"{plural(built.damaged, 'episode')} that cannot be read, excluded")
    print(f"next: {command('train', '--dataset_dir', args.output)}")
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
    print(f"{url}: {plural(len(records), 'file')}, {sum(record.bytes for record in records.values()) / 1e6:.1f} MB")


def _list_published(*, as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: dataclasses.asdict(dataset) for name, dataset in PUBLISHED.items()}, indent=2))
        return
    for name, dataset in PUBLISHED.items():
        print(f"{name}: {dataset.about}")
        print(f"    format {dataset.format}, {_size(dataset)}, licence {dataset.licence}, {dataset.origin}")
        for file in dataset.files:
            print(f"    {file.address}")
            print(f"        SHA-256 {file.sha256 or 'not published: recorded at the first download'}")


def _size(dataset: PublishedDataset) -> str:
    return "size not published" if dataset.size is None else f"{dataset.size / 1e6:.1f} MB"
