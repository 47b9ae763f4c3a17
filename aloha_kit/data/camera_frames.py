"""Camera frames by table row, images or depth: from a memory-mapped cache, or decoded from the episodes on access."""

from __future__ import annotations

import functools
import itertools
import math
import mmap
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from aloha_kit.core.lang import Message
from aloha_kit.core.source import ImagesInPlace, RecordedEpisode
from aloha_kit.data.batch import nearest
from aloha_kit.data.index import EpisodeTable

Ints = npt.NDArray[np.int64]
Image = npt.NDArray[np.uint8]
Size = tuple[int, int]  # height, width

OVERSAMPLING = 2  # a JPEG is decoded at least so many times as high and wide as it is wanted
# What the network's filter does to the means of two pixels when it halves an image. A decoder gives about those.
_SMOOTHING = np.array([0.125, 0.75, 0.125])


class Frames(Protocol):
    """Source of camera frames."""

    def gather(self, rows: Ints, *, pin: bool = False) -> dict[str, Tensor]:
        """{camera: (B, 3, H, W) uint8} of B rows of the table, or (B, 1, H, W) uint16 of depth; with `pin`, tensors in
        the host's memory are page-locked."""
        ...


def resized(image: Image, size: Size, out: Tensor | None = None) -> Tensor:
    """(H, W, 3) uint8 to (3, height, width): the network's own filter (bilinear, antialiased), so that training on the
    cache and deployment on whole images have the same inputs except for rounding. In `out` where that is given.

    Raises:
        ValueError: another shape or type; OpenCV would leave planes unwritten, and torch would repeat one.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            Message(
                "an image must be (height, width, 3) uint8, given {shape} {dtype}", shape=image.shape, dtype=image.dtype
            )
        )
    if image.shape[:2] == tuple(size):
        out = RGB.empty(1, size)[0] if out is None else out
        pixels = _pixels(out)
        if pixels is None:
            cv2.split(image, list(out.numpy()))  # ten times as fast as copying the transposed view
        elif not np.may_share_memory(pixels, image):  # else it was decoded there
            pixels[...] = image
        return out
    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    found = F.interpolate(tensor[None], size=list(size), mode="bilinear", antialias=True, align_corners=False)[0]
    return found if out is None else out.copy_(found)


def frame(
    episode: RecordedEpisode, camera: str, i: int, size: Size, recorded: Size, out: Tensor | None = None
) -> Tensor:
    """Frame i of an episode, whose images were `recorded` in that size, as (3, height, width) uint8: see `decoded`."""
    pixels = None if out is None else _pixels(out)
    if pixels is None or not isinstance(episode, ImagesInPlace):
        return decoded(functools.partial(episode.image, camera, i), recorded, size, out)
    return decoded(functools.partial(episode.image_into, camera, i, pixels), recorded, size, out)


def _pixels(image: Tensor) -> Image | None:
    """The (H, W, 3) in whose order a (3, H, W) image is in memory; None where its memory is in another order."""
    pixels: Image = image.permute(1, 2, 0).numpy()
    return pixels if pixels.flags.c_contiguous else None


def decoded(read: Callable[[Size], Image], recorded: Size, size: Size, out: Tensor | None = None) -> Tensor:
    """An image that was recorded at one (height, width) as (3, height, width) uint8 of another `size`.

    A much larger JPEG is decoded at a fraction of its size, which takes about half the time, and for the last factor of
    2 or more the network's own filter is applied. Against whole decoding that is 0.3 grey levels off in simulated
    images, 1.2 in ones full of fine detail (means); decoding straight to the wanted size would be 0.6 and 8 off.

    A JPEG of exactly twice the size is decoded at half of it, which takes 0.4 of the time, and smoothed as the
    network's filter smooths: 0.2 and 2.9 off. Deployment reads images that were never encoded. In fine detail it is as
    close to those as whole decoding is, since JPEG itself loses more there.

    Args:
        read: reads it at no less than the (height, width) given, halved as often as that allows where it is a JPEG.
        out: where to write it; a new tensor when not given.
    """
    wanted = (OVERSAMPLING * size[0], OVERSAMPLING * size[1])
    if recorded != wanted:
        image = read(wanted)
        if image.shape[:2] == wanted:
            image = _halved(image)
        return resized(image, size, out)
    image = read(size)
    halved = image.shape[:2] == tuple(size)  # not where it is no JPEG
    if halved:  # written to `out`, not to the image, which may be the source's own
        pixels = None if out is None else _pixels(out)
        image = np.asarray(cv2.sepFilter2D(image, -1, _SMOOTHING, _SMOOTHING, dst=pixels), np.uint8)
    return resized(image, size, out)


def _halved(image: Image) -> Image:
    """An (H, W, 3) image at half of its even height and width, as the network's filter halves but for the outermost
    pixels, in a fourth of its time: that filter, (1, 3, 3, 1) / 8, is (1, 2, 1) / 4 and the mean of two pixels."""
    height, width = image.shape[:2]
    smooth = cv2.GaussianBlur(image, (3, 3), 0)
    return np.asarray(cv2.resize(smooth, (width // 2, height // 2), interpolation=cv2.INTER_AREA), np.uint8)


def depth_frame(
    episode: RecordedEpisode,
    camera: str,
    i: int,
    size: Size,
    recorded: Size | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Frame i of a camera's depth as (1, height, width) uint16 mm, 0 where nothing was measured.

    The size of the camera's images is not used: depth is read whole. In `out` where that is given.
    """
    found = nearest(torch.from_numpy(episode.depth(camera, i))[None, None], size)[0].to(torch.uint16)
    return found if out is None else out.copy_(found)


@dataclass(frozen=True)
class FrameKind:
    """Kind of frames: what a camera's images or its depth consist of.

    Attributes:
        name: at the end of the names of cache files.
        read: writes a frame of an open episode: episode, camera, row, size, size of its images, and the
            (channels, height, width) to write to.
    """

    name: str
    channels: int
    dtype: torch.dtype
    read: Callable[[RecordedEpisode, str, int, Size, Size, Tensor], Tensor]

    def shape(self, size: Size) -> tuple[int, int, int]:
        """(channels, height, width) of a frame."""
        return self.channels, *size

    def bytes(self, size: Size) -> int:
        """Bytes of a frame."""
        return math.prod(self.shape(size)) * self.dtype.itemsize

    def empty(
        self, count: int, size: Size, *, pin: bool = False, device: str | None = None, channels_last: bool = False
    ) -> Tensor:
        """(count, channels, height, width) of any content, in the host's memory unless `device` is given.

        Args:
            channels_last: a pixel's channels are side by side, as a decoder writes them and the networks read them.
        """
        channels, *sides = self.shape(size)
        shape = (count, *sides, channels) if channels_last else (count, channels, *sides)
        frames = torch.empty(shape, dtype=self.dtype, pin_memory=pin, device=device)
        return frames.permute(0, 3, 1, 2) if channels_last else frames

    @property
    def array_type(self) -> npt.DTypeLike:
        """The type of its pixels in numpy."""
        return torch.empty(0, dtype=self.dtype).numpy().dtype


RGB = FrameKind("", 3, torch.uint8, frame)
DEPTH = FrameKind("_depth", 1, torch.uint16, depth_frame)


class MappedFrames:
    """Rows of memory-mapped files, one a camera, laid out (rows, channels, H, W): gathering is a copy, nothing else."""

    RESIDENT = 2e9  # bytes/s; a gather that was slower had to wait for the disk

    def __init__(
        self,
        files: Mapping[str, Path],
        sizes: Mapping[str, Size],
        rows: Mapping[str, Ints],
        kind: FrameKind = RGB,
    ) -> None:
        """`rows[camera]` (N,) is the row in the camera's file of each row of the table."""
        self._rows = dict(rows)
        self._maps: dict[str, mmap.mmap] = {}
        self._frames: dict[str, npt.NDArray[Any]] = {}
        self._sizes, self._kind = dict(sizes), kind
        self._cold = True
        for camera, file in files.items():
            shape = kind.shape(sizes[camera])
            with file.open("rb") as opened:
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            count = len(mapped) // kind.bytes(sizes[camera])
            pixels = np.frombuffer(mapped, kind.array_type, count * math.prod(shape))
            self._maps[camera], self._frames[camera] = mapped, pixels.reshape(count, *shape)

    def gather(self, rows: Ints, *, pin: bool = False) -> dict[str, Tensor]:
        places = {camera: where[rows] for camera, where in self._rows.items()}
        images = {camera: self._kind.empty(len(rows), self._sizes[camera], pin=pin) for camera in self._frames}
        if self._cold:
            self._read_ahead(places)
        began = time.perf_counter()
        for camera, frames in self._frames.items():
            # numpy: one memcpy a frame, without the interpreter's lock. torch's index_select would use threads that the
            # training step needs, and its indexing with [] takes five times as long
            np.take(frames, places[camera], axis=0, out=images[camera].numpy(), mode="clip")
        size = sum(image.nbytes for image in images.values())
        self._cold = size < self.RESIDENT * (time.perf_counter() - began)
        return images

    def _read_ahead(self, places: Mapping[str, Ints]) -> None:
        """Have the system read these frames side by side: touching them fetches one stretch of pages after another."""
        for camera, where in places.items():
            size = self._kind.bytes(self._sizes[camera])
            for start in (where * size).tolist():
                first = start - start % mmap.PAGESIZE
                self._maps[camera].madvise(mmap.MADV_WILLNEED, first, start + size - first)


class OpenEpisodes:
    """The episodes of a table by number, opened when they are wanted; the ones wanted last stay open.

    Threads may share it. Another process opens its own.
    """

    LIMIT = 128  # more would run into the usual limit of 1024 descriptors on large data sets

    def __init__(self, table: EpisodeTable) -> None:
        self._table = table
        self._open: OrderedDict[int, RecordedEpisode] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, number: int) -> RecordedEpisode:
        with self._lock:
            if number not in self._open:
                if len(self._open) >= self.LIMIT:
                    # dropped, not closed: another thread may be reading it; the last reference closes it
                    self._open.popitem(last=False)
                self._open[number] = self._table.open(number)
            self._open.move_to_end(number)
            return self._open[number]

    def __reduce__(self) -> tuple[type[OpenEpisodes], tuple[EpisodeTable]]:
        return OpenEpisodes, (self._table,)


class DirectFrames:
    """Decodes each frame on access, several in parallel: slower than the cache, but needs no disk.

    A pixel's channels are side by side in the batches' memory, so that a JPEG is decoded where the batch keeps it.
    """

    def __init__(self, table: EpisodeTable, sizes: Mapping[str, Size], workers: int, kind: FrameKind = RGB) -> None:
        self._table = table
        self._sizes, self._kind = dict(sizes), kind
        self._recorded = {camera: table.contract.cameras.get(camera, size) for camera, size in sizes.items()}
        self._pool, self._workers = ThreadPoolExecutor(workers, thread_name_prefix="decode"), workers
        self._open = OpenEpisodes(table)

    def gather(self, rows: Ints, *, pin: bool = False) -> dict[str, Tensor]:
        episodes = self._table.episode_of(rows)
        steps = rows - self._table.starts[episodes]
        images = {
            camera: self._kind.empty(len(rows), size, pin=pin, channels_last=True)
            for camera, size in self._sizes.items()
        }
        # one task a thread, which takes frames until none is left: a task for each frame takes a fifth longer, handing
        # it over and waiting for it
        jobs = itertools.product(self._sizes, range(len(rows)))

        def decode(_: int) -> None:
            for camera, i in jobs:
                # an episode serialises its readers, not its decoding
                episode = self._open[int(episodes[i])]
                size, recorded = self._sizes[camera], self._recorded[camera]
                self._kind.read(episode, camera, int(steps[i]), size, recorded, images[camera][i])

        for _ in self._pool.map(decode, range(self._workers)):
            pass  # raises what a job raised
        return images
