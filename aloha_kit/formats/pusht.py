"""Human demonstrations of Push-T as Diffusion Policy publishes them (`pusht_cchi_v7_replay.zarr`), as a source."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import EpisodeError
from aloha_kit.core.pusht import contract, corners
from aloha_kit.core.source import Array, EpisodeData, EpisodeSource
from aloha_kit.formats import ReadOptions
from aloha_kit.formats.zarr_buffer import BufferImages, ReplayBuffer

CAMERA = "top"
_WIDTHS = {"action": 2, "state": 5}  # of the arrays that are read besides `img`


class PushTReplay(EpisodeSource):
    """Episodes of a replay buffer: `data/{action,state,img}` with the rows of all episodes, and `meta/episode_ends`.

    `state` is the agent's position, the block's position (px) and its angle (rad); `action` the agent's target (px);
    `img` 96 x 96 images, the camera `top`. Other arrays are not read: the published key points are others than those
    of `pusht_keypoints`, which follow from the block's pose.

    Raises:
        EpisodeError: no such folder, several of them, or not the layout of a replay buffer; names what is missing.
    """

    scene = "state"

    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        options.refuse("pusht", "contract", "jpeg_order", "rename", "task")
        if len(places) != 1:
            raise EpisodeError("Push-T's replay buffer is one folder, given {count}", count=len(places))
        self.place = Path(places[0])
        self._buffer = ReplayBuffer(self.place)
        shapes = self._buffer.names()
        _check(self.place, shapes)
        self._buffer.require_lengths(("action", "state", "img"))
        self._image_size = shapes["img"][1:3]
        self._count = len(self._buffer.ends[: options.first])

    def __len__(self) -> int:
        return self._count

    def name(self, number: int) -> str:
        return f"{self.place.stem}_{number}"

    def identity(self, number: int) -> str:
        rows = slice(*self._buffer.span(number))
        content = self._rows("action", number).tobytes() + self._rows("state", number).tobytes()
        return hashlib.sha256(content + f"{rows}{self._images}".encode()).hexdigest()

    def open(self, number: int) -> EpisodeData:
        span, name = self._buffer.span(number), self.name(number)
        state = self._rows("state", number)
        return EpisodeData(
            name,
            contract(self.scene, {CAMERA: (self._image_size[0], self._image_size[1])}),
            np.asarray(self._rows("action", number), np.float32),
            np.asarray(state[:, :2], np.float32),
            BufferImages(self._buffer, {CAMERA: "img"}, span, name),
            layout="Diffusion Policy's replay buffer",
            further_vectors={"environment_state": self._environment_state(state[:, 2:])},
        )

    def _environment_state(self, block: npt.NDArray[Any]) -> Array:
        return np.asarray(block, np.float32)

    def _rows(self, name: str, number: int) -> npt.NDArray[Any]:
        return self._buffer.rows(f"data/{name}").read(*self._buffer.span(number))

    @functools.cached_property
    def _images(self) -> str:
        """State of all files of images: the key that caches and runs were written with since the first version."""
        if not self.place.is_dir():
            return repr(self._buffer.rows("data/img").states(0, int(self._buffer.ends[-1])))
        files = sorted((self.place / "data" / "img").iterdir())
        return repr([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])


class PushTReplayKeypoints(PushTReplay):
    """Push-T replay with the block's corners in place of its pose, for `pusht_keypoints`."""

    scene = "keypoints"

    def _environment_state(self, block: npt.NDArray[Any]) -> Array:
        return corners(block).reshape(len(block), -1).astype(np.float32)


def _check(place: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if missing := [name for name in (*_WIDTHS, "img") if name not in shapes]:
        names = ", ".join(f"data/{name}" for name in missing)
        raise EpisodeError("{place} is no replay buffer of Push-T: it lacks {names}", place=place, names=names)
    for name, width in _WIDTHS.items():
        if shapes[name][1:] != (width,):
            raise EpisodeError(
                "{place}: {name} has shape {shape}, expected (rows, {width})",
                place=place,
                name=name,
                shape=shapes[name],
                width=width,
            )
    if len(shapes["img"]) != 4 or shapes["img"][-1] != 3:
        raise EpisodeError(
            "{place}: img has shape {shape}, expected (rows, height, width, 3)", place=place, shape=shapes["img"]
        )
