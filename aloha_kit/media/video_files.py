"""Video files of recorded episodes: frames by number, several files joined without encoding, quality in dB."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from aloha_kit.core import EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.files import part_of, put
from aloha_kit.core.jpeg import psnr
from aloha_kit.media.mp4 import Image

_AHEAD = 64  # frames that are decoded in passing rather than sought


def join_videos(parts: Iterable[tuple[Path, int]], target: Path, rate_hz: int) -> None:
    """Write videos of one encoder, size and rate one after the other into one file, without encoding them again.

    Args:
        parts: (file, number of its frames).

    Raises:
        OSError: a file cannot be read or written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, stream, before = part_of(target), None, 0
    with av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as joined:
        for file, frames in parts:
            with av.open(str(file)) as container:
                source = container.streams.video[0]
                if stream is None:  # opaque: by the stream's parameters, since of a codec there may be a decoder only
                    stream = joined.add_stream_from_template(source, opaque=True)
                shift = int(Fraction(before, rate_hz) / _base(source))  # whole: a frame is a whole number of ticks
                for packet in container.demux(source):
                    if packet.dts is not None:  # the last one is empty
                        packet.dts += shift
                        packet.pts = (packet.pts or 0) + shift
                        packet.stream = stream
                        joined.mux(packet)
            before += frames
    put(part, target)


def quality(path: Path, originals: Mapping[int, Image]) -> tuple[int, list[float]]:
    """Decode every frame of a video; their number, and the `psnr` of those of which there is an original.

    Raises:
        EpisodeError: it cannot be read.
    """
    count, found = 0, []
    try:
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for count, frame in enumerate(container.decode(video=0), 1):
                if count - 1 in originals:
                    image = originals[count - 1]  # without the padding of odd sizes
                    decoded = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                    found.append(psnr(image, decoded[: image.shape[0], : image.shape[1]]))
    except (av.FFmpegError, IndexError) as error:
        raise EpisodeError("{path} cannot be decoded: {error}", path=path, error=reason(error)) from error
    return count, found


class VideoFrames:
    """Frames of a span of a video by number; frames in order are decoded once. Threads may share it.

    Args:
        path: the file.
        rate_hz: its rate.
        first: number in the file of the span's first frame.
        count: frames of the span.
    """

    def __init__(self, path: Path, rate_hz: float, first: int, count: int) -> None:
        self._path, self._rate, self._first, self._count = path, Fraction(rate_hz).limit_denominator(1000), first, count
        self._lock = threading.Lock()
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._at, self._last = -1, np.zeros((0, 0, 3), np.uint8)  # number in the file, and pixels, of the newest frame

    def read(self, i: int) -> Image:
        """Frame i as (H, W, 3) uint8 RGB.

        Raises:
            EpisodeError: there is no such frame, or the file cannot be read.
        """
        if not 0 <= i < self._count:
            raise EpisodeError(
                "{path} has frames 0 to {count} of this episode, given frame {i}",
                path=self._path,
                count=self._count - 1,
                i=i,
            )
        wanted = self._first + i
        with self._lock:
            if wanted == self._at:
                return self._last
            try:
                self._decode_to(wanted)
            except (av.FFmpegError, IndexError, StopIteration) as error:
                raise EpisodeError(
                    "{path}: frame {i} cannot be decoded: {error}", path=self._path, i=i, error=reason(error)
                ) from error
            return self._last

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._container is not None:
                self._container.close()
                self._container, self._at = None, -1

    def _decode_to(self, wanted: int) -> None:
        if self._container is None:
            self._container = av.open(str(self._path))
            self._container.streams.video[0].codec_context.thread_count = 1
            self._at = -1
        if self._at < 0 or not self._at < wanted <= self._at + _AHEAD:
            stream = self._container.streams.video[0]
            self._container.seek(self._time(wanted, stream), stream=stream)
            self._frames = self._container.decode(video=0)
        while True:
            frame = next(self._frames)
            self._at = self._number(frame)
            if self._at >= wanted:
                break
        if self._at != wanted:
            self._at = -1
            raise EpisodeError("{path} has no frame {wanted}", path=self._path, wanted=wanted)
        self._last = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)

    def _time(self, number: int, stream: Any) -> int:
        """Time of a frame of the file, in ticks of the stream."""
        return int(Fraction(number, 1) / self._rate / _base(stream))

    def _number(self, frame: Any) -> int:
        """Number in the file of a decoded frame."""
        number: int = round(Fraction(frame.pts) * frame.time_base * self._rate)
        return number


class IndexedFrames(VideoFrames):
    """Frames of a whole video by number, whatever their times are: those of others need not have a constant rate."""

    def __init__(self, path: Path, index: VideoIndex) -> None:
        super().__init__(path, 1, 0, len(index.times))
        self._times = index.times

    def _time(self, number: int, stream: Any) -> int:
        return int(self._times[number])

    def _number(self, frame: Any) -> int:
        number = bisect.bisect_left(self._times, int(frame.pts))
        return number if self._times[number : number + 1] == (frame.pts,) else -1


@dataclass(frozen=True)
class VideoIndex:
    """Frames of a video.

    Attributes:
        times: of each frame in ticks, in the order of display.
        rate_hz: the average one; 0 where the file states none.
        size: (height, width) in pixels.
    """

    times: tuple[int, ...]
    rate_hz: float
    size: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> VideoIndex:
        """Index of a file; nothing is decoded.

        Raises:
            EpisodeError: it cannot be read.
        """
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                times = tuple(sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None))
                return cls(times, float(stream.average_rate or 0), (stream.height, stream.width))
        except (av.FFmpegError, IndexError) as error:
            raise EpisodeError(
                "{path} is no video that can be read: {error}", path=path, error=reason(error)
            ) from error


def _base(stream: Any) -> Fraction:
    return Fraction(stream.time_base)
