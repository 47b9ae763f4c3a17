"""Features of LeRobot's data sets: columns, their names and statistics, for versions 3.0 and 2.1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core.contract import Contract
from aloha_kit.core.features import SENSORS
from aloha_kit.core.source import Image

STATE, ACTION, REWARD = "observation.state", "action", "next.reward"
IMAGES = "observation.images."
COLUMNS = {"qpos": STATE, "qvel": "observation.velocity", "effort": "observation.effort"}
"""{vector of an episode: column}; others are `observation.<name>`, and privileged ones `privileged.<name>`."""
BOOKKEEPING = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""Columns that every data set has, of one value a row."""

META = "meta/aloha_kit.json"
"""What LeRobot's own files have no place for: the contract, and which column is which array."""
EPISODES_META = "meta/aloha_kit_episodes.jsonl"
"""A line an episode: id, success, description and further attributes."""

_QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Stats = dict[str, list[Any]]


def column_of(contract: Contract, name: str) -> str:
    """Column of an array of an episode, by its name in `core.exporter.episode_arrays`."""
    if name in ("action", "reward"):
        return {"action": ACTION, "reward": REWARD}[name]
    if name.startswith("stamps/"):
        stream = name.removeprefix("stamps/").replace("images/", "camera/")  # `image` in a name is an image to LeRobot
        return f"stamp.{stream.replace('/', '.')}"
    sensor = next((sensor for sensor in contract.sensors if sensor.name == name), None)
    if sensor is not None and sensor.privileged:  # networks of LeRobot read every column that begins with observation
        return f"privileged.{name}"
    return COLUMNS.get(name, f"observation.{name.removeprefix(SENSORS).replace('/', '.')}")


def array_name_of(column: str) -> str:
    """Array of an episode that a column of a data set without `META` stands for; empty where it is none."""
    known = {column: name for name, column in COLUMNS.items()} | {REWARD: "reward", ACTION: "action"}
    if column in known:
        return known[column]
    if column.startswith("stamp."):  # ours, of a data set that LeRobot's own tools have edited
        stream = column.removeprefix("stamp.")
        return f"stamps/{stream.replace('camera.', 'images/', 1) if stream.startswith('camera.') else stream}"
    if column == "observation.environment_state":
        return "environment_state"
    return f"{SENSORS}{column.removeprefix('observation.')}" if column.startswith("observation.") else ""


def vector_feature(contract: Contract, name: str, values: npt.NDArray[Any]) -> dict[str, Any]:
    """LeRobot's description of a column."""
    width = values.shape[1] if values.ndim == 2 else 1
    feature = next((each for each in contract.features if each.name == name), None)
    names = list(feature.entries) if feature is not None and len(feature.entries) == width else None
    return {"dtype": str(values.dtype), "shape": [width], "names": names}


def video_feature(size: tuple[int, int], codec: str, rate_hz: int) -> dict[str, Any]:
    """LeRobot's description of a camera whose images are in videos."""
    return {
        "dtype": "video",
        "shape": [*size, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": size[0],
            "video.width": size[1],
            "video.codec": codec,
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": rate_hz,
            "video.channels": 3,
            "has_audio": False,
        },
    }


def bookkeeping_features() -> dict[str, Any]:
    """LeRobot's description of `BOOKKEEPING`."""
    return {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in BOOKKEEPING.items()}


def table_stats(values: npt.NDArray[Any]) -> Stats:
    """Statistics of the rows of a column, each a list of its width."""
    table = np.asarray(values, np.float64).reshape(len(values), -1)
    found: Stats = {
        "min": table.min(axis=0).tolist(),
        "max": table.max(axis=0).tolist(),
        "mean": table.mean(axis=0).tolist(),
        "std": table.std(axis=0).tolist(),
        "count": [len(table)],
    }
    return found | {key: np.quantile(table, q, axis=0).tolist() for key, q in _QUANTILES.items()}


class ImageStats:
    """Statistics of a camera's images, each channel from 0 to 1: every 4th pixel of about 100 images an episode.

    Args:
        rows: images of the episode.
    """

    def __init__(self, rows: int) -> None:
        self._every = max(1, rows // 100)
        self._counts = np.zeros((3, 256), np.int64)
        self._seen = 0

    def add(self, image: Image) -> None:
        """Take the next image into account."""
        if self._seen % self._every == 0:
            small = image[::4, ::4].reshape(-1, 3)
            for channel in range(3):
                self._counts[channel] += np.bincount(small[:, channel], minlength=256)
        self._seen += 1

    def result(self) -> Stats:
        """The statistics, each of shape (3, 1, 1)."""
        levels = np.arange(256) / 255
        total = self._counts.sum(axis=1)
        mean = self._counts @ levels / total
        spread = np.sqrt(np.maximum(self._counts @ levels**2 / total - mean**2, 0))
        there = self._counts > 0
        values = {
            "min": levels[there.argmax(axis=1)],
            "max": levels[255 - there[:, ::-1].argmax(axis=1)],
            "mean": mean,
            "std": spread,
        }
        below = self._counts.cumsum(axis=1)
        for key, q in _QUANTILES.items():
            values[key] = levels[(below >= q * total[:, None]).argmax(axis=1)]
        found: Stats = {key: value.reshape(3, 1, 1).tolist() for key, value in values.items()}
        return found | {"count": [-(-self._seen // self._every)]}


def joined_stats(episodes: Iterator[Mapping[str, Stats]]) -> dict[str, Stats]:
    """Statistics over episodes from those of each; the quantiles are means of the episodes', as LeRobot's are."""
    sums: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for stats in episodes:
        for feature, one in stats.items():
            values = {key: np.asarray(value, np.float64) for key, value in one.items()}
            count = values["count"][0]
            square = count * (values["std"] ** 2 + values["mean"] ** 2)
            weighted = {key: count * values[key] for key in ("mean", *_QUANTILES)} | {"square": square}
            total = sums.get(feature)
            if total is None:
                sums[feature] = weighted | {key: values[key] for key in ("min", "max", "count")}
                continue
            for key, value in weighted.items():
                total[key] = total[key] + value
            total["min"], total["max"] = (
                np.minimum(total["min"], values["min"]),
                np.maximum(total["max"], values["max"]),
            )
            total["count"] = total["count"] + values["count"]
    found: dict[str, Stats] = {}
    for feature, total in sums.items():
        count = total["count"][0]
        mean = total["mean"] / count
        found[feature] = {
            "min": total["min"].tolist(),
            "max": total["max"].tolist(),
            "mean": mean.tolist(),
            "std": np.sqrt(np.maximum(total["square"] / count - mean**2, 0)).tolist(),
            "count": [int(count)],
            **{key: (total[key] / count).tolist() for key in _QUANTILES},
        }
    return found


def numbered(first: int, episode: int, task: int, rows: int, rate_hz: int) -> dict[str, npt.NDArray[Any]]:
    """Columns of `BOOKKEEPING` of an episode whose first row is number `first` of the data set."""
    frame = np.arange(rows, dtype=np.int64)
    return {
        "timestamp": (frame / rate_hz).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full(rows, episode, np.int64),
        "index": first + frame,
        "task_index": np.full(rows, task, np.int64),
    }


def names_in(feature: Mapping[str, Any]) -> Sequence[str]:
    """Names of a column's entries as LeRobot's robots write them: a list, or a list in a mapping; empty without."""
    names = feature.get("names")
    if isinstance(names, Mapping):
        names = next(iter(names.values()), None)
    width = feature["shape"][0]
    if isinstance(names, list) and len(names) == width and all(isinstance(name, str) for name in names):
        return names
    return ()
