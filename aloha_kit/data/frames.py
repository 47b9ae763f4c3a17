"""Frames by row: from a memory-mapped cache decoded once, or straight from the episodes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from aloha_kit.data.index import EpisodeTable
from aloha_kit.episode import Episode

Ints = npt.NDArray[np.int64]
Picture = npt.NDArray[np.uint8]


class Frames(Protocol):
    """Where pictures come from."""

    def gather(self, rows: Ints) -> dict[str, Tensor]:
        """{camera: (B, 3, H, W) uint8} of B rows of the table."""
        ...


def resized(picture: Picture, size: tuple[int, int]) -> Tensor:
    """(H, W, 3) uint8 to (3, height, width): the network's own filter (bilinear, antialiased), so that training on the
    cache and deploying on whole pictures see the same but for rounding."""
    image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
    if tuple(image.shape[1:]) == tuple(size):
        return image
    return F.interpolate(image[None], size=list(size), mode="bilinear", antialias=True, align_corners=False)[0]


class MappedFrames:
    """Rows of memory-mapped files, one a camera, laid out (rows, 3, H, W): gathering is a copy and nothing else."""

    def __init__(
        self, files: Mapping[str, Path], sizes: Mapping[str, tuple[int, int]], rows: Mapping[str, Ints]
    ) -> None:
        """`rows[camera]` (N,) says where each row of the table lies in the camera's file."""
        self._rows = {camera: torch.from_numpy(where) for camera, where in rows.items()}
        self._maps: dict[str, Tensor] = {}
        for camera, file in files.items():
            height, width = sizes[camera]
            # copy-on-write only because torch warns about read-only memory; nothing is ever written
            mapped = np.memmap(file, np.uint8, "c")
            frame = 3 * height * width
            self._maps[camera] = torch.from_numpy(mapped[: len(mapped) // frame * frame].reshape(-1, 3, height, width))

    def gather(self, rows: Ints) -> dict[str, Tensor]:
        wanted = torch.from_numpy(rows)
        # index_select, not indexing: five times faster on bytes
        return {camera: frames.index_select(0, self._rows[camera][wanted]) for camera, frames in self._maps.items()}


class DirectFrames:
    """Decodes each frame when it is asked for, several at a time: slower than the cache, but needs no disk."""

    OPEN_FILES = 128  # more would run into the usual limit of 1024 descriptors on large data sets

    def __init__(self, table: EpisodeTable, sizes: Mapping[str, tuple[int, int]], workers: int) -> None:
        self._table = table
        self._sizes = dict(sizes)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._open: OrderedDict[int, Episode] = OrderedDict()
        self._lock = threading.Lock()

    def gather(self, rows: Ints) -> dict[str, Tensor]:
        episodes = self._table.episode_of(rows)
        steps = rows - self._table.starts[episodes]
        images: dict[str, Tensor] = {}
        for camera, size in self._sizes.items():

            def decode(i: int, camera: str = camera, size: tuple[int, int] = size) -> Tensor:
                # an episode serialises its readers, not its decoding
                return resized(self._episode(int(episodes[i])).image(camera, int(steps[i])), size)

            images[camera] = torch.stack(list(self._pool.map(decode, range(len(rows)))))
        return images

    def _episode(self, number: int) -> Episode:
        with self._lock:
            if number not in self._open:
                if len(self._open) >= self.OPEN_FILES:
                    # dropped, not closed: another thread may be reading it; the last reference closes it
                    self._open.popitem(last=False)
                self._open[number] = Episode.open(self._table.files[number])
            self._open.move_to_end(number)
            return self._open[number]
