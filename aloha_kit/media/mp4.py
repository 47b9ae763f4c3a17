"""MP4 writer for widely supported video: H.264 or AV1, yuv420p, constant rate."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt

from aloha_kit.core.files import part_of, put
from aloha_kit.core.lang import Message
from aloha_kit.core.machine import cpu_flags

Image = npt.NDArray[np.uint8]

Codec = Literal["h264", "av1"]
_ENCODERS = {"h264": "libx264", "av1": "libsvtav1"}
_REPEATABLE = {"x264-params": "asm=AVX2,FMA3,BMI2"}
"""On a busy machine x264's AVX-512 code was seen to give one of several results for the same images, with AVX2 always
the same one; it costs 4 % of the time."""


class Mp4Writer:
    """Writer of one MP4 file; a context manager.

    The file appears under its name only when it is whole: an error inside leaves nothing that looks
    like a video and isn't. Frames must share one size; odd sizes are padded by a pixel, because
    yuv420p halves both.

    Args:
        path: the `.mp4` to write.
        rate_hz: frames per second.
        crf: the encoder's quality, lower is better (x264: 18 is visually lossless).
        preset: the encoder's effort: x264's names, SVT-AV1's numbers.
        gop: a key frame every so many frames and none that depends on later ones, for quick random access; by default
            the encoder's choice.
        threads: encoder threads; few, since a rollout goes on beside it.
    """

    def __init__(
        self,
        path: str | Path,
        rate_hz: float,
        *,
        codec: Codec = "h264",
        crf: int = 20,
        preset: str = "veryfast",
        gop: int | None = None,
        threads: int = 2,
    ) -> None:
        self.path = Path(path)
        self.frames = 0
        self._part = part_of(self.path)
        self._rate = Fraction(rate_hz).limit_denominator(1000)
        self._encoder = _ENCODERS[codec]
        self._options = {"crf": str(crf), "preset": preset, "threads": str(threads)}
        if codec == "h264" and "avx512f" in cpu_flags():
            self._options |= _REPEATABLE
        if codec == "av1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only: by default it writes its settings to stderr
            self._options["svtav1-params"] = f"lp={threads}"
        if gop is not None:
            self._options |= {"g": str(gop)} | ({"bf": "0"} if codec == "h264" else {})
        self._container: Any = None
        self._stream: Any = None
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> Mp4Writer:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # faststart puts the index in front, so that a browser can start before it has the whole file.
        self._container = av.open(str(self._part), "w", format="mp4", options={"movflags": "faststart"})
        return self

    def add(self, frame: Image) -> None:
        """Append one (H, W, 3) RGB frame.

        Raises:
            ValueError: not RGB uint8, or another size than the first frame's.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(
                Message("a frame is (H, W, 3) uint8, given {shape} {dtype}", shape=frame.shape, dtype=frame.dtype)
            )
        if self._stream is None:
            self._shape = frame.shape
            self._stream = self._container.add_stream(self._encoder, rate=self._rate, options=self._options)
            self._stream.height = frame.shape[0] + frame.shape[0] % 2
            self._stream.width = frame.shape[1] + frame.shape[1] % 2
            self._stream.pix_fmt = "yuv420p"
            if self._encoder == "libsvtav1":
                with _no_priorities():
                    self._stream.codec_context.open()
        if frame.shape != self._shape:
            raise ValueError(
                Message(
                    "frame {frames} is {shape}, those before {expected}",
                    frames=self.frames,
                    shape=frame.shape,
                    expected=self._shape,
                )
            )
        odd = (frame.shape[0] % 2, frame.shape[1] % 2)
        if any(odd):
            frame = np.pad(frame, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
        encoded = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._container.mux(self._stream.encode(encoded))
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        whole = kind is None and self._stream is not None
        if whole:
            self._container.mux(self._stream.encode())
        self._container.close()
        if whole:
            put(self._part, self.path)
        else:
            self._part.unlink(missing_ok=True)


@contextlib.contextmanager
def _no_priorities() -> Iterator[None]:
    """Context in which this thread, and those that it starts, cannot get a real-time priority (CAP_SYS_NICE of Linux).

    As root, SVT-AV1 gives the thread that opens it and all of its own the highest one. They would take the cores from
    every other program, and so would all programs that this one starts afterwards. Other users cannot do that.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, of this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; the capabilities from 32 on follow
    libc.capget(header, sets)
    before, sets[0] = sets[0], sets[0] & ~(1 << 23)
    libc.capset(header, sets)
    try:
        yield
    finally:
        sets[0] = before
        libc.capset(header, sets)
