"""Export to RLDS as TensorFlow Datasets reads it: TFRecord shards, features.json and dataset_info.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError
from aloha_kit.core.exporter import (
    array_of,
    attributes_of,
    contract_of,
    description_of,
    episode_arrays,
    EpisodeExporter,
    ExportRecord,
    PER_STEP,
    require_alike,
    WriteOptions,
)
from aloha_kit.core.features import SENSORS
from aloha_kit.core.files import write_json
from aloha_kit.core.jpeg import encode_depth_png, encode_png
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.formats.tfrecord import append, list_entry, Value, write_record

NAME, VERSION = "aloha_kit", "1.0.0"
"""Names of the data set and its version, which are folders: `tfds.load("aloha_kit", data_dir=TO)`."""
ABOUT = "aloha_kit.json"
"""The contract, and which feature is which array."""
EPISODE = "episode_metadata/aloha_kit"
"""Feature with what an episode has besides its arrays, JSON."""
DEPTH_SUFFIX = "_depth"
INSTRUCTION = "steps/language_instruction"
_SHARD = 256 << 20  # bytes
_CLASS = "tensorflow_datasets.core.features."
_SPLIT = "train"


class RldsExporter(EpisodeExporter):
    """RLDS in `aloha_kit/1.0.0`: `steps` with `observation`, `action`, `reward` and RLDS's flags, an episode a record.

    Images are PNG, so they are exact; so is depth, `<camera>_depth` of 16 bits (mm). The true stamps are `stamps`, and
    what only a simulator gives is `privileged`.
    """

    def __init__(self, folder: Path, parts: Path, options: WriteOptions) -> None:
        options.refuse("rlds", "images", "codec", "crf", "quality")
        super().__init__(folder, parts, options)

    def write(self, number: int, episode: RecordedEpisode, record: ExportRecord) -> None:
        rows, scratch, base = episode.length, self.scratch(number), episode.base_action
        tables: dict[str, npt.NDArray[Any]] = {}
        arrays: dict[str, str] = {}
        for name in episode_arrays(episode):
            if name == "base_action":
                continue
            values = array_of(episode, name)
            key = _key(episode, name)
            tables[key] = record.array(name, values if name in PER_STEP else values[:rows])
            arrays[key] = name
        if base is not None:
            tables["steps/action"] = np.concatenate([episode.action, record.array("base_action", base)], axis=1)
        if episode.reward is None:
            tables["steps/reward"] = np.zeros(rows, np.float32)
            record.notes.append("it has no rewards: they are 0")
        tables |= _flags(rows)
        described = {key: _tensor(values) for key, values in tables.items()}
        features: dict[str, Value] = dict(tables)
        for camera in episode.cameras:
            key = f"steps/observation/{camera}"
            if key in features:
                raise ConfigError("{where}: a camera and a vector would both be {key}", where=episode.where, key=key)
            features[key] = scratch / camera
            described[key] = _image((*episode.image_size(camera), 3), "uint8")
            with (scratch / camera).open("wb") as file:
                for image in record.pixels(episode, camera, rows):
                    file.write(list_entry(encode_png(image)))
        contract = contract_of(episode)
        depths = {f"steps/observation/{camera}{DEPTH_SUFFIX}": camera for camera in episode.depth_cameras}
        for key, camera in depths.items():
            if key in features:
                raise ConfigError(
                    "{where}: the depth of {camera} and another feature would both be {key}",
                    where=episode.where,
                    camera=camera,
                    key=key,
                )
            place = scratch / key.rpartition("/")[2]
            features[key] = place
            described[key] = _image((*contract.depth_cameras[camera], 1), "uint16")
            with place.open("wb") as file:
                for depth in record.depth(episode, camera, rows):
                    file.write(list_entry(encode_depth_png(depth)))
        instruction = str(episode.attrs.get("instruction") or episode.attrs.get("task") or "")
        texts = {INSTRUCTION: [instruction] * rows, EPISODE: [json.dumps(description_of(episode))]}
        texts["episode_metadata/file_path"] = [episode.where]
        features |= {key: [text.encode() for text in lines] for key, lines in texts.items()}
        described |= {key: {"pythonClassName": f"{_CLASS}text_feature.Text", "text": {}} for key in texts}
        write_record(self._part(number), features)
        shutil.rmtree(scratch)
        record.attributes = attributes_of(episode)
        cameras = {f"steps/observation/{camera}": camera for camera in episode.cameras}
        record.further = {
            "features": described,
            "arrays": arrays,
            "cameras": cameras,
            "depths": depths,
            "contract": contract.to_json(),
        }

    def finish(self, records: Sequence[ExportRecord]) -> None:
        for record in records:
            require_alike(records[0], record, "RLDS data set")
        folder = self.folder / NAME / VERSION
        shutil.rmtree(folder, ignore_errors=True)  # of an interrupted attempt
        folder.mkdir(parents=True)
        shards = _shards([self._part(record.number) for record in records])
        total = 0
        for i, parts in enumerate(shards):
            with (folder / f"{NAME}-{_SPLIT}.tfrecord-{i:05d}-of-{len(shards):05d}").open("wb") as file:
                total += sum(append(part, file) for part in parts)
        split = {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": _SPLIT,
            "numBytes": str(total),
            "shardLengths": [str(len(parts)) for parts in shards],
        }
        info = {"fileFormat": "tfrecord", "moduleName": NAME, "name": NAME, "splits": [split], "version": VERSION}
        write_json(folder / "dataset_info.json", info)
        first = records[0].further
        write_json(folder / "features.json", _tree(first["features"]))
        about = {"contract": json.loads(first["contract"]), "arrays": first["arrays"], "cameras": first["cameras"]}
        if first["depths"]:
            about["depths"] = first["depths"]
        write_json(folder / ABOUT, about)

    def _part(self, number: int) -> Path:
        return self.parts / f"{number:06d}.tfrecord"


def _key(episode: RecordedEpisode, name: str) -> str:
    """Feature of an array of an episode."""
    if name in ("action", "reward"):
        return f"steps/{name}"
    if name.startswith("stamps/"):
        return f"steps/stamps/{name.removeprefix('stamps/').replace('/', '.')}"
    sensor = next((sensor for sensor in episode.contract.sensors if sensor.name == name), None)
    group = "privileged" if sensor is not None and sensor.privileged else "observation"
    return f"steps/{group}/{'state' if name == 'qpos' else name.removeprefix(SENSORS).replace('/', '.')}"


def _flags(rows: int) -> dict[str, npt.NDArray[Any]]:
    last = np.arange(rows) == rows - 1
    return {
        "steps/discount": np.ones(rows, np.float32),
        "steps/is_first": np.arange(rows) == 0,
        "steps/is_last": last,
        "steps/is_terminal": last,
    }


def _tensor(values: npt.NDArray[Any]) -> dict[str, Any]:
    """TFDS's description of a step's numbers."""
    shape = {"dimensions": [str(size) for size in values.shape[1:]]} if values.ndim > 1 else {}
    kind = "tensor_feature.Tensor" if shape else "scalar.Scalar"
    tensor = {"dtype": str(values.dtype), "encoding": "none", "shape": shape}
    return {"pythonClassName": f"{_CLASS}{kind}", "tensor": tensor}


def _image(size: tuple[int, int, int], dtype: str) -> dict[str, Any]:
    shape = {"dimensions": [str(length) for length in size]}
    image = {"dtype": dtype, "encodingFormat": "png", "shape": shape}
    return {"pythonClassName": f"{_CLASS}image_feature.Image", "image": image}


def _tree(features: Mapping[str, Any]) -> dict[str, Any]:
    """TFDS's description of all features, of which `steps` is a data set in each episode."""
    groups: dict[str, dict[str, Any]] = {}
    for key, described in features.items():
        first, _, rest = key.partition("/")
        groups.setdefault(first, {})[rest] = described
    found = {}
    for name, group in groups.items():
        found[name] = group[""] if "" in group else _tree(group)
        if name == "steps":
            sequence = {"feature": found[name], "length": "-1"}
            found[name] = {"pythonClassName": f"{_CLASS}dataset_feature.Dataset", "sequence": sequence}
    return {"featuresDict": {"features": found}, "pythonClassName": f"{_CLASS}features_dict.FeaturesDict"}


def _shards(parts: Sequence[Path]) -> list[list[Path]]:
    """Files of episodes, divided into shards of bounded size."""
    found: list[list[Path]] = []
    size = 0
    for part in parts:
        more = part.stat().st_size
        if not found or size + more > _SHARD:
            found.append([])
            size = 0
        found[-1].append(part)
        size += more
    return found
