"""Human demonstrations of Push-T as Diffusion Policy publishes them (`pusht_cchi_v7_replay.zarr`), as a source."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from aloha_kit.core import EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.pusht import contract, corners
from aloha_kit.core.source import Array, EpisodeData, EpisodeSource, Image
from aloha_kit.formats import ReadOptions

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
        options.refuse("pusht", "contract", "jpeg_order", "rename")
        if len(places) != 1:
            raise EpisodeError(f"Push-T's replay buffer is one folder, given {len(places)}")
        self.place = Path(places[0])
        arrays = _arrays(self.place)
        self._action, self._state, self._ends = (
            np.asarray(arrays[name][:]) for name in ("data/action", "data/state", "meta/episode_ends")
        )
        self._image_shape = arrays["data/img"].shape[1:]
        _check(self.place, self._action, self._state, self._ends, arrays["data/img"].shape)
        files = sorted((self.place / "data" / "img").iterdir())
        self._images = repr([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files])
        self._count = len(self._ends) if options.first is None else min(options.first, len(self._ends))

    def __len__(self) -> int:
        return self._count

    def identity(self, number: int) -> str:
        rows = self._rows(number)
        content = self._action[rows].tobytes() + self._state[rows].tobytes() + f"{rows}{self._images}".encode()
        return hashlib.sha256(content).hexdigest()

    def open(self, number: int) -> EpisodeData:
        rows, name = self._rows(number), f"{self.place.stem}_{number}"
        state = np.asarray(self._state[rows], np.float32)

        @functools.cache
        def images() -> npt.NDArray[np.uint8]:
            """(T, H, W, 3) of the episode, whose chunks are decoded together."""
            stored = np.asarray(_arrays(self.place)["data/img"][rows])
            found: npt.NDArray[np.uint8] = np.clip(np.rint(stored), 0, 255).astype(np.uint8)
            return found

        def image(camera: str, i: int, at_least: tuple[int, int] | None) -> Image:
            if camera != CAMERA or not 0 <= i < len(state):
                raise EpisodeError(f"{name} has no image {i} of camera '{camera}'; its camera is {CAMERA}")
            one: Image = images()[i]
            return one

        return EpisodeData(
            name,
            contract(self.scene, {CAMERA: (self._image_shape[0], self._image_shape[1])}),
            np.asarray(self._action[rows], np.float32),
            state[:, :2],
            image,
            layout="Diffusion Policy's replay buffer",
            further_vectors={"environment_state": self._environment_state(self._state[rows, 2:])},
        )

    def _environment_state(self, block: npt.NDArray[Any]) -> Array:
        return np.asarray(block, np.float32)

    def _rows(self, number: int) -> slice:
        begin = int(self._ends[number - 1]) if number else 0
        return slice(begin, int(self._ends[number]))


class PushTReplayKeypoints(PushTReplay):
    """Push-T replay with the block's corners in place of its pose, for `pusht_keypoints`."""

    scene = "keypoints"

    def _environment_state(self, block: npt.NDArray[Any]) -> Array:
        return corners(block).reshape(len(block), -1).astype(np.float32)


def _arrays(place: Path) -> dict[str, Any]:
    """{path in the buffer: a zarr array}.

    Raises:
        EpisodeError: there is none, or it lacks one of them.
    """
    wanted = ("data/action", "data/state", "data/img", "meta/episode_ends")
    if not place.is_dir():
        raise EpisodeError(f"no folder '{place}'; expected a replay buffer such as pusht_cchi_v7_replay.zarr")
    try:
        group: Any = zarr.open_group(str(place), mode="r")
    except Exception as error:  # zarr 2 and 3 raise different ones
        raise EpisodeError(f"{place} is no zarr group: {reason(error)}") from error
    if missing := [name for name in wanted if name not in group]:
        raise EpisodeError(f"{place} is no replay buffer of Push-T: it lacks {', '.join(missing)}")
    return {name: group[name] for name in wanted}


def _check(
    place: Path, action: npt.NDArray[Any], state: npt.NDArray[Any], ends: npt.NDArray[Any], images: tuple[int, ...]
) -> None:
    for name, array in (("action", action), ("state", state)):
        if array.ndim != 2 or array.shape[1] != _WIDTHS[name]:
            raise EpisodeError(f"{place}: {name} has shape {array.shape}, expected (rows, {_WIDTHS[name]})")
    if len(images) != 4 or images[-1] != 3:
        raise EpisodeError(f"{place}: img has shape {images}, expected (rows, height, width, 3)")
    rows = {"action": len(action), "state": len(state), "img": images[0]}
    if ends.ndim != 1 or not len(ends) or ends[0] < 1 or (np.diff(ends) < 1).any():
        raise EpisodeError(f"{place}: meta/episode_ends must be ascending row numbers, given {ends.tolist()[:5]}")
    if set(rows.values()) != {int(ends[-1])}:
        lengths = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise EpisodeError(f"{place}: the last episode ends at row {ends[-1]}, and the arrays have rows: {lengths}")
