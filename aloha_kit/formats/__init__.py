"""Formats of recorded episodes: tables from a format's name to the class that reads it and the one that writes it."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from aloha_kit.core import ConfigError, Contract
from aloha_kit.core.errors import shown
from aloha_kit.core.exporter import EpisodeExporter, WriteOptions
from aloha_kit.core.plugins import call, resolve
from aloha_kit.core.source import EpisodeSource
from aloha_kit.storage import JpegOrder
from aloha_kit.storage.curation import CURATION, Curation, curation_file, read_curation
from aloha_kit.storage.hdf5 import DAMAGE

FORMATS = {
    "hdf5": "aloha_kit.formats.hdf5_folder:Hdf5Source",
    "lerobot": "aloha_kit.formats.lerobot:LeRobotSource",
    "manifest": "aloha_kit.formats.manifest:open_manifest",
    "mcap": "aloha_kit.formats.mcap_source:McapSource",
    "mp4": "aloha_kit.formats.mp4_source:Mp4Source",
    "pusht": "aloha_kit.formats.pusht:PushTReplay",
    "pusht_keypoints": "aloha_kit.formats.pusht:PushTReplayKeypoints",
    "rlds": "aloha_kit.formats.rlds_source:RldsSource",
    "robomimic": "aloha_kit.formats.robomimic:RobomimicSource",
    "robomimic_states": "aloha_kit.formats.robomimic_states:RobomimicStates",
    "rosbag": "aloha_kit.formats.rosbag:RosbagSource",
    "shards": "aloha_kit.formats.shard_source:ShardSource",
    "zarr": "aloha_kit.formats.zarr_source:ZarrSource",
}
"""{name: "module:Class"}; the class is made with the places that were given and a `ReadOptions`."""

EXPORTERS = {
    "act": "aloha_kit.formats.hdf5_export:ActExporter",
    "cobot_magic": "aloha_kit.formats.hdf5_export:ActExporter",
    "hdf5": "aloha_kit.formats.hdf5_export:Hdf5Exporter",
    "lerobot": "aloha_kit.formats.lerobot_export:LeRobotExporter",
    "lerobot_v21": "aloha_kit.formats.lerobot_v21_export:LeRobotV21Exporter",
    "mcap": "aloha_kit.formats.mcap_export:McapExporter",
    "mobile_aloha": "aloha_kit.formats.hdf5_export:MobileAlohaExporter",
    "mp4": "aloha_kit.formats.mp4_export:Mp4Exporter",
    "openpi": "aloha_kit.formats.lerobot_v21_export:OpenPiExporter",
    "rlds": "aloha_kit.formats.rlds_export:RldsExporter",
    "robomimic": "aloha_kit.formats.robomimic_export:RobomimicExporter",
    "robomimic_obs": "aloha_kit.formats.robomimic_export:RobomimicObsExporter",
    "robomimic_states": "aloha_kit.lift.export:LiftExporter",
    "shards": "aloha_kit.formats.shard_export:ShardExporter",
    "zarr": "aloha_kit.formats.zarr_export:ZarrExporter",
}
"""{name: "module:Class"} of the formats that are written; the class is an `EpisodeExporter`."""

AUTO = "auto"
"""In place of a format's name: `shards` for a URL or their folder, `manifest` for a file `.parquet`, `lerobot`, `zarr`,
`mp4` or `rlds` for its folder, `pusht` for the published replay buffer, `robomimic` for one file of its layout, `mcap`
and `rosbag` for their files, else `hdf5`."""


BAGS = (".bag", ".mcap", ".db3")
"""Endings of the files of ROS bags."""
UNCLOSED_BAG = ".bag.active"
"""That of a ROS 1 bag until rosbag closes it."""


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading episodes. A format that does not support one of them calls `refuse`.

    Attributes:
        contract: for episodes without one of their own.
        jpeg_order: the order of red and blue in encoded images of files that do not record it.
        rename: cameras, {the name to read them by: the episodes'}.
        first: use only so many episodes.
        curation: edits of the episodes; by default those of the file beside them, see `storage.curation`.
        rig, task: names of the rig and the task that bags are of, or their YAML files.
        default_task: the task where `task` is not given; formats that need none leave it unread.
        cache_dir, cache_gb: where files of a URL are kept, and how much of them; by default in the user's cache folder.
    """

    contract: Contract | None = None
    jpeg_order: JpegOrder | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    first: int | None = None
    curation: Curation | None = None
    rig: str = ""
    task: str = ""
    default_task: str = ""
    cache_dir: str | None = None
    cache_gb: float | None = None

    def refuse(self, kind: str, *names: str) -> None:
        """Raise `ConfigError` where an option was given that a format does not support."""
        if given := [name for name in names if getattr(self, name)]:
            raise ConfigError(
                "episodes of format {kind} are read without --{given}", kind=kind, given=", --".join(given)
            )


def open_source(*places: str | Path, kind: str = AUTO, options: ReadOptions | None = None) -> EpisodeSource:
    """Open the episodes at some places: folders or files, or other places that a format defines.

    Their curation is applied, see `storage.curation`.

    Args:
        kind: a name in `FORMATS`, `my_package.module:Name`, or `AUTO`.

    Raises:
        ConfigError: no such format, one that is incomplete, takes other arguments, or does not support an option; or
            the curation does not fit the episodes.
        EpisodeError: there are no episodes.
    """
    return _open(places, kind, options or ReadOptions(), ())


def open_joined(places: Sequence[str | Path], kind: str = AUTO, options: ReadOptions | None = None) -> EpisodeSource:
    """Open several data sets, each by itself with its own curation, as one. `EpisodeSource.part` tells them apart."""
    return _joined(places, kind, options or ReadOptions(), ())


def _open(places: Sequence[str | Path], kind: str, options: ReadOptions, within: tuple[Path, ...]) -> EpisodeSource:
    """The episodes at some places; `within` are the folders that name them, from the outermost."""
    if len(places) > 1 and (kind == AUTO or kind in FORMATS) and not _one_source(places, kind, options):
        return _joined(places, kind, options, within)
    path, key = split_filter_key(places[0])
    file = curation_file(path) if len(places) == 1 else Path()
    curation = read_curation(file) if options.curation is None else options.curation
    if curation.empty:
        return make_source(places, kind, options)
    from aloha_kit.formats.curated import CuratedSource, renamed

    options = dataclasses.replace(options, curation=None)
    edits_cameras = bool(curation.cameras or curation.image_size)  # by names that `rename` then changes
    inner = dataclasses.replace(options, first=None, rename={} if edits_cameras else options.rename)
    if curation.data:
        if file.resolve() in within:
            raise ConfigError("{file}: data names {place} itself, or a data set that does", file=file, place=places[0])
        parts = [file.parent / place for place in curation.data]
        source = _joined(parts, AUTO, inner, (*within, file.resolve()))
    else:
        source = make_source(places, kind, inner)
    curation = renamed(curation, options.rename) if edits_cameras else curation
    whole = not key and (path.is_dir() or file.name != CURATION)
    return CuratedSource(source, curation, file, first=options.first, whole=whole)


def _one_source(places: Sequence[str | Path], kind: str, options: ReadOptions) -> bool:
    """Whether one `Hdf5Source` reads all places: none of them is of another format, or curated."""
    plain = options.curation is not None or all(read_curation(curation_file(place)).empty for place in places)
    return plain and (kind if kind != AUTO else "hdf5") == "hdf5" and {format_of(place) for place in places} == {"hdf5"}


def _joined(places: Sequence[str | Path], kind: str, options: ReadOptions, within: tuple[Path, ...]) -> EpisodeSource:
    from aloha_kit.formats.curated import CuratedSource
    from aloha_kit.formats.joined import JoinedSource

    each = dataclasses.replace(options, first=None)
    joined = JoinedSource([_open([place], kind, each, within) for place in places])
    return joined if options.first is None else CuratedSource(joined, Curation(), first=options.first)


def make_source(places: Sequence[str | Path], kind: str, options: ReadOptions) -> EpisodeSource:
    """The episodes at some places, as they are recorded."""
    kind = format_of(*places) if kind == AUTO else kind
    make = resolve("formats", kind, FORMATS)
    if inspect.isabstract(make):
        missing = ", ".join(sorted(make.__abstractmethods__))
        raise ConfigError(
            "'{kind}' of the formats lacks methods of an EpisodeSource: {missing}", kind=kind, missing=missing
        )
    source = call("formats", kind, make, {"places": tuple(places), "options": options})
    if not isinstance(source, EpisodeSource) or not hasattr(source, "place"):
        raise ConfigError(
            "'{kind}' of the formats must give an EpisodeSource with a `place`, gave {source}",
            kind=kind,
            source=shown(source),
        )
    return source


def make_exporter(kind: str, folder: Path, parts: Path, options: WriteOptions) -> EpisodeExporter:
    """Exporter to a format.

    Args:
        kind: a name in `EXPORTERS`, or `my_package.module:Name`.
        folder, parts: see `EpisodeExporter`.

    Raises:
        ConfigError: no such format, or one that does not support an option.
    """
    make = resolve("exporters", kind, EXPORTERS, base=EpisodeExporter)
    made: EpisodeExporter = call("exporters", kind, make, {"folder": folder, "parts": parts, "options": options})
    return made


def format_of(*places: str | Path, images: bool = False) -> str:
    """Name of the format that `AUTO` stands for; where `images` are needed, one that has or renders them."""
    if len(places) != 1:
        return "hdf5"
    if "://" in str(places[0]) or (Path(places[0]) / "shards.json").is_file():
        return "shards"
    file, _ = split_filter_key(places[0])
    if file.suffix == ".parquet":
        return "manifest"
    if (file / "meta/info.json").is_file():
        return "lerobot"
    if any((file / name).is_file() for name in (".zgroup", "zarr.json")) or file.suffix == ".zip":
        return "pusht" if _is_pusht(file / "data") else "zarr"
    if any(file.glob("*.hdf5")):  # whatever is in folders below
        return "hdf5"
    # of TensorFlow Datasets, of our own folders of MP4, and of ABC's
    for mark, kind in (("features.json", "rlds"), ("episode.json", "mp4"), ("states_actions.bin", "mp4")):
        if any(next(file.glob(f"{up}{mark}"), None) for up in ("", "*/", "*/*/")):
            return kind
    if mcap_files(file):
        return "mcap"
    if bags_in(file):
        return "rosbag"
    if not file.is_file() or not h5py.is_hdf5(file):
        return "hdf5"
    try:
        with h5py.File(file, "r") as content:
            if not is_robomimic(content):
                return "hdf5"
            obs = next(demo for name, demo in content["data"].items() if name.startswith("demo_")).get("obs", {})
            return "robomimic_states" if images and not any(k.endswith("_image") for k in obs) else "robomimic"
    except DAMAGE:
        return "hdf5"  # whose reader names the damage


def _is_pusht(data: Path) -> bool:
    """Whether the arrays of a replay buffer are the published ones of Push-T."""
    widths = {"action": [2], "state": [5], "keypoint": [9, 2], "img": [96, 96, 3]}
    try:
        return all(json.loads((data / name / ".zarray").read_text())["shape"][1:] == widths[name] for name in widths)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def is_robomimic(file: Any) -> bool:
    """Whether an open HDF5 file has robomimic's layout: `data/demo_<i>`, and `env_args` of `data`."""
    data = file.get("data")
    return isinstance(data, h5py.Group) and "env_args" in data.attrs and any(name.startswith("demo_") for name in data)


def bags_in(place: Path) -> list[Path]:
    """ROS bags at a place by their names: a file, a rosbag2 folder, or those in a folder, sorted.

    Those that are not there, or not closed, are among them: their reader names them.
    """
    if (place / "metadata.yaml").is_file():
        return [place]
    if not place.is_dir():
        return [place] if _named_as_bag(place) else []
    return [path for path in sorted(place.iterdir()) if _named_as_bag(path) or (path / "metadata.yaml").is_file()]


def _named_as_bag(path: Path) -> bool:
    return path.suffix in BAGS or path.name.endswith(UNCLOSED_BAG)


def mcap_files(place: Path) -> list[Path]:
    """MCAP files of `McapExporter` at a place, a file or a folder, by number."""
    files = place.glob("*.mcap") if place.is_dir() else [place] if place.suffix == ".mcap" and place.is_file() else []
    return sorted((file for file in files if _is_ours(file)), key=lambda file: (len(file.name), file.name))


def _is_ours(file: Path) -> bool:
    """Whether an MCAP file names this package as the library that wrote it, in the header at its beginning."""
    with file.open("rb") as stream:
        return b"aloha_kit " in stream.read(64)


def split_filter_key(place: str | Path) -> tuple[Path, str]:
    """`FILE:KEY` as a file and the name of a robomimic filter key, which is empty where none is given."""
    text = str(place)
    if Path(text).exists() or ":" not in text or "://" in text:
        return Path(text), ""
    file, _, key = text.rpartition(":")
    return Path(file), key
