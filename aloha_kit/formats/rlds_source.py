"""RLDS as TensorFlow Datasets writes it (Open X-Embodiment, …) as a source, read without TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.features import SENSORS
from aloha_kit.core.jpeg import decode_rgb
from aloha_kit.core.source import Depth, EpisodeData, EpisodeSource, Image
from aloha_kit.formats import ReadOptions
from aloha_kit.formats.missing_rows import no_depth, no_image
from aloha_kit.formats.rlds_export import ABOUT, EPISODE
from aloha_kit.formats.tfrecord import FileBytes, Place, read_message, records
from aloha_kit.storage.codec import decode_depth
from aloha_kit.storage.contract_file import neutral_contract, settle

OBSERVATION, ACTION, REWARD = "steps/observation/", "steps/action", "steps/reward"
STATES = ("state", "proprio", "qpos", "robot_state", "joint_positions")
"""Names that the state has in observations of others; the first one that is there is read."""
VALIDATION = ("val", "validation")
"""Splits whose episodes are for validation."""
RATE_HZ = 10.0  # of data sets of others, which record none
_BOOKKEEPING = ("discount", "is_first", "is_last", "is_terminal")


class RldsSource(EpisodeSource):
    """Episodes of all splits of one version of a data set, in the order of their records.

    `steps/action` is the action, the state is `steps/observation/state` or another of `STATES`, images of three
    channels are cameras, and other vectors of an observation are sensors. Names, units and stamps are those of our own
    export; of other data sets they are given with a contract.

    Raises:
        EpisodeError: several places, no data set, another file format, or a damaged one.
        ContractError: the contract given does not fit.
    """

    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        options.refuse("rlds", "jpeg_order", "rename", "task")
        if len(places) != 1:
            raise EpisodeError("an RLDS data set is one folder, given {count}", count=len(places))
        self.place = Path(places[0])
        self._folder = version_folder(self.place)
        self._features = dict(_flat(_json(self._folder / "features.json")))
        self._episodes = list(_records(self._folder, _json(self._folder / "dataset_info.json")))[: options.first]
        if not self._episodes:
            raise EpisodeError("{folder} holds no episode", folder=self._folder)
        self.validation = tuple(one.name for one in self._episodes if one.split in VALIDATION)
        ours = self._folder / ABOUT
        self._ours = _json(ours) if ours.is_file() else {}
        self._depths: Mapping[str, str] = self._ours.get("depths", {})
        self._cameras, self._arrays = self._named()
        self._contract, self._assumption = self._settled(options)
        read = {*self._cameras, *self._depths, *self._arrays, *(f"steps/{name}" for name in _BOOKKEEPING), *self._texts}
        unread = [name for name in self._features if name not in read and not name.startswith("episode_metadata/")]
        self.unused = f"{self.place}: features that are not read: {', '.join(unread)}" if unread else ""

    def __len__(self) -> int:
        return len(self._episodes)

    def name(self, number: int) -> str:
        return self._episodes[number].name

    def identity(self, number: int) -> str:
        one, status = self._episodes[number], self._episodes[number].file.stat()
        return f"{one.file.name}:{status.st_size}:{status.st_mtime_ns}:{one.place[0]}"

    def open(self, number: int) -> EpisodeData:
        one = self._episodes[number]
        try:
            data = FileBytes(one.file)
        except OSError as error:
            raise EpisodeError("{file} cannot be read: {error}", file=one.file, error=reason(error)) from error
        try:
            return self._episode(one, data)
        except BaseException:
            data.close()
            raise

    def _episode(self, one: _Record, data: FileBytes) -> EpisodeData:
        message = read_message(data, one.place, one.where)
        rows = len(message.get(ACTION, ())) // self._width(ACTION)
        arrays = {name: self._array(message, key, rows, one.where) for key, name in self._arrays.items()}
        images, depths = (
            {camera: _images_of(message, key, rows, one.where) for key, camera in named.items()}
            for named in (self._cameras, self._depths)
        )
        text = _texts(data, message, EPISODE) if self._ours else []
        about = json.loads(text[0]) if text else {}
        instruction = next(iter(text for key in self._texts for text in _texts(data, message, key)), "")
        return EpisodeData.of_arrays(
            one.name,
            self._contract,
            arrays,
            _Images(data, images, one.where),
            about=about,
            attrs={"instruction": instruction},
            layout="RLDS",
            assumption=self._assumption,
            resources=(data,),
            read_depth=_Depth(data, depths, one.where) if depths else None,
        )

    def _array(self, message: Mapping[str, Any], key: str, rows: int, where: str) -> npt.NDArray[Any]:
        """(rows, values) of a feature."""
        values = message.get(key)
        if not isinstance(values, np.ndarray) or len(values) != rows * self._width(key) or not rows:
            there = f"{len(values)} numbers" if isinstance(values, np.ndarray) else "no numbers"
            raise EpisodeError(
                "{where} has {there} of {key}, expected {expected} for each of {rows} steps",
                where=where,
                there=there,
                key=key,
                expected=self._width(key),
                rows=rows,
            )
        return values.reshape(rows, -1)

    def _width(self, key: str) -> int:
        return int(np.prod(self._features[key].shape))

    @property
    def _texts(self) -> list[str]:
        """Features of an instruction."""
        return [key for key, one in self._features.items() if one.kind == "text" and "instruction" in key]

    def _named(self) -> tuple[dict[str, str], dict[str, str]]:
        """{feature: camera}, and {feature: array of an episode}.

        Raises:
            EpisodeError: state or action are missing, or no vectors.
        """
        if self._ours:
            return dict(self._ours["cameras"]), dict(self._ours["arrays"])
        vectors = [key for key, one in self._features.items() if one.kind == "tensor" and len(one.shape) < 2]
        seen = {key.removeprefix(OBSERVATION): key for key in vectors if key.startswith(OBSERVATION)}
        state = next((seen[name] for name in STATES if name in seen), None)
        if state is None or ACTION not in vectors:
            what = ACTION if state else f"{OBSERVATION}{' or '.join(STATES)}"
            raise EpisodeError(
                "{folder} has no vector {what}; its features: {features}",
                folder=self._folder,
                what=what,
                features=", ".join(self._features),
            )
        arrays = {ACTION: "action", state: "qpos"} | ({REWARD: "reward"} if REWARD in vectors else {})
        arrays |= {key: f"{SENSORS}{name}" for name, key in seen.items() if key != state}
        images = [key for key, one in self._features.items() if one.kind == "image" and one.shape[-1] == 3]
        cameras = {
            key: key.removeprefix(OBSERVATION).replace("/", ".") for key in images if key.startswith(OBSERVATION)
        }
        return cameras, arrays

    def _settled(self, options: ReadOptions) -> tuple[Contract, str]:
        """The contract, and what of it is assumed."""
        keys = {array: key for key, array in self._arrays.items()}
        widths = self._width(keys["qpos"]), self._width(ACTION)
        recorded = Contract.from_json(json.dumps(self._ours["contract"])) if self._ours else None
        sizes = {} if recorded else {camera: self._size(key) for key, camera in self._cameras.items()}
        file = self._folder / "features.json"
        return settle(file, recorded, options.contract, lambda: neutral_contract(*widths, 0, sizes, RATE_HZ), widths)

    def _size(self, key: str) -> tuple[int, int]:
        """(height, width) of a camera; of one that records none the first image's."""
        height, width = self._features[key].shape[:2]
        if height > 0 and width > 0:
            return height, width
        one = self._episodes[0]
        with closing(FileBytes(one.file)) as data:
            first = list(read_message(data, one.place, one.where).get(key, []))
            image = _Images(data, {key: first}, one.where)(key, 0, None)
        return image.shape[0], image.shape[1]


@dataclass(frozen=True)
class _Feature:
    """A feature: its kind (`image`, `tensor`, `text` or another), and the shape of a step's value."""

    kind: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Record:
    """Where an episode is."""

    file: Path
    place: Place
    split: str
    number: int  # in the split

    @property
    def name(self) -> str:
        return f"{self.split}_{self.number:06d}"

    @property
    def where(self) -> str:
        return f"{self.file}: episode {self.number} of {self.split}"


@dataclass(frozen=True)
class _Images:
    """Encoded images of an episode, by camera and row."""

    data: FileBytes
    places: Mapping[str, Any]
    where: str

    def __call__(self, camera: str, i: int, at_least: tuple[int, int] | None) -> Image:
        if camera not in self.places or not 0 <= i < len(self.places[camera]):
            raise no_image(self.where, camera, i, self.places)
        begin, end = self.places[camera][i]
        image = decode_rgb(self.data[begin:end])
        if image is None:
            raise EpisodeError("{where}: image {i} of {camera} cannot be decoded", where=self.where, i=i, camera=camera)
        return image


@dataclass(frozen=True)
class _Depth:
    """Depth of an episode as PNG of 16 bits, by camera and row."""

    data: FileBytes
    places: Mapping[str, Any]
    where: str

    def __call__(self, camera: str, i: int) -> Depth:
        if camera not in self.places or not 0 <= i < len(self.places[camera]):
            raise no_depth(self.where, camera, i, self.places)
        begin, end = self.places[camera][i]
        try:
            return decode_depth(self.data[begin:end])
        except EpisodeError as error:
            raise EpisodeError(
                "{where}: depth {i} of {camera}: {error}", where=self.where, i=i, camera=camera, error=error
            ) from None


def _images_of(message: Mapping[str, Any], key: str, rows: int, where: str) -> Any:
    """Places of the encoded images of a feature."""
    found = message.get(key, [])
    if len(found) != rows:
        raise EpisodeError(
            "{where} has {count} images of {key} for {rows} actions", where=where, count=len(found), key=key, rows=rows
        )
    return found


def version_folder(place: Path) -> Path:
    """The folder of a data set's version: `place`, or the newest one in it.

    Raises:
        EpisodeError: there is none.
    """
    for pattern in ("", "*/", "*/*/"):
        found = [one for one in (place.glob(pattern) if pattern else [place]) if (one / "features.json").is_file()]
        names = {one.parent.name for one in found}
        if len(names) > 1:
            raise EpisodeError(
                "{place} holds several data sets, give one of them: {names}",
                place=place,
                names=", ".join(sorted(names)),
            )
        if found:
            return max(found, key=lambda one: [int(t) if t.isdigit() else -1 for t in one.name.split(".")])
    raise EpisodeError("no RLDS data set in '{place}'; expected features.json and dataset_info.json", place=place)


def _flat(described: Mapping[str, Any], name: str = "") -> list[tuple[str, _Feature]]:
    """(name, feature) of every feature in a description of TFDS."""
    if "sequence" in described:
        return _flat(described["sequence"]["feature"], name)
    if "featuresDict" in described:
        parts = described["featuresDict"]["features"].items()
        return [each for key, value in parts for each in _flat(value, f"{name}/{key}" if name else key)]
    kind = next((kind for kind in ("image", "tensor", "text") if kind in described), "other")
    about = described.get(kind, {})
    if kind == "tensor" and (about.get("encoding", "none") != "none" or about.get("dtype") in ("string", "object")):
        kind = "text" if about.get("dtype") in ("string", "object") else "other"
    shape = tuple(map(int, about.get("shape", {}).get("dimensions", ())))
    return [(name, _Feature("other" if kind == "tensor" and min(shape, default=1) < 1 else kind, shape))]


def _records(folder: Path, info: Mapping[str, Any]) -> list[_Record]:
    """Places of the episodes of all splits.

    Raises:
        EpisodeError: another file format, a missing or damaged file, or another number of episodes than is stated.
    """
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise EpisodeError(
            "{folder} is of the file format {format}; read is tfrecord", folder=folder, format=info["fileFormat"]
        )
    found = []
    for split in info.get("splits", ()):
        lengths = [int(length) for length in split.get("shardLengths", ())]
        template = split.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        number = 0
        for shard, length in enumerate(lengths):
            named = {"{DATASET}": info["name"], "{SPLIT}": split["name"], "{FILEFORMAT}": "tfrecord"}
            name = template.replace("{SHARD_X_OF_Y}", f"{shard:05d}-of-{len(lengths):05d}")
            for key, value in named.items():
                name = name.replace(key, str(value))
            file = folder / name
            if not file.is_file():
                raise EpisodeError("{folder} lacks {name}", folder=folder, name=name)
            places = records(file)
            if len(places) != length:
                raise EpisodeError(
                    "{file} has {count} episodes, dataset_info.json states {length}",
                    file=file,
                    count=len(places),
                    length=length,
                )
            for place in places:
                found.append(_Record(file, place, str(split["name"]), number))
                number += 1
    return found


def _texts(data: FileBytes, message: Mapping[str, Any], key: str) -> list[str]:
    return [data[slice(*place)].decode(errors="replace") for place in message.get(key, ())]


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError) as error:
        raise EpisodeError("{path} cannot be read: {error}", path=path, error=reason(error)) from error
