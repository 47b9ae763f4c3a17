"""Commands that list and download published data sets."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from aloha_kit.core import ConfigError, did_you_mean
from aloha_kit.core.errors import command
from aloha_kit.data.args import Fetch, Ls
from aloha_kit.data.fetch import fetch
from aloha_kit.data.published import PUBLISHED, PublishedDataset


def run(args: Fetch | Ls) -> None:
    """Run one subcommand.

    Raises:
        ConfigError: no such data set, or a folder that cannot be written.
        FetchError: see `fetch`.
    """
    if isinstance(args, Ls):
        _list(as_json=args.json)
        return
    if args.name not in PUBLISHED:
        raise ConfigError(f"no published data set '{args.name}'. {did_you_mean(args.name, PUBLISHED)}")
    dataset = PUBLISHED[args.name]
    place = fetch(dataset, args.folder or Path("data") / args.name, args.mirror)
    print(place)
    print(f"licence: {dataset.licence}; described at {dataset.origin}")
    print(f"next: {command('episode', 'info', place)}")


def _list(*, as_json: bool) -> None:
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
