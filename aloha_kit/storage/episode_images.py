"""Images of an open episode file: their formats, the order of their channels, frames and depth as arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aloha_kit.core import did_you_mean, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.storage.codec import (
    decode_depth,
    decode_image,
    Depth,
    Image,
    image_kind,
    ImageKind,
    jpeg_order_of,
    JpegOrder,
    unpadded,
)
from aloha_kit.storage.episode_file import EpisodeFile
from aloha_kit.storage.hdf5 import DAMAGE, require_rows
from aloha_kit.storage.image_format import as_depth, depth_format, encoded_row, image_format, ImageFormat, is_encoded
from aloha_kit.storage.layouts import OURS, text_of
from aloha_kit.storage.robotwin import ROBOTWIN


class EpisodeImages(EpisodeFile):
    """Cameras of an episode file; images are read one at a time and not cached.

    Args:
        jpeg_order: the order of red and blue in encoded images, for a file that does not record it.
        rename: cameras, {the name to read them by: the file's}.
    """

    def __init__(
        self, path: str | Path, jpeg_order: JpegOrder | None = None, rename: Mapping[str, str] | None = None
    ) -> None:
        self._given_order = jpeg_order
        self._formats: dict[str, ImageFormat] = {}
        super().__init__(path, rename)

    @property
    def compressed(self) -> bool:
        """Whether images are stored encoded, as JPEG, PNG or WebP."""
        return bool(self._layout.encoded)

    @property
    def image_kind(self) -> ImageKind | Literal["raw"]:
        """Kind of the stored images, by the first one that is encoded."""
        for camera in self._layout.encoded:
            if self.rows(camera):
                return image_kind(self.encoded(camera, 0)) or "jpeg"  # for a damaged image, the common kind
        return "raw"

    @property
    def jpeg_order(self) -> JpegOrder:
        """Channel order of the file's encoded images, see `docs/data_format.md`."""
        return self._jpeg_order()[0]

    @property
    def jpeg_order_source(self) -> Literal["file", "given", "guessed"]:
        """Source of `jpeg_order`: the file, the caller, or a guess (what all such recorders write)."""
        return self._jpeg_order()[1]

    @property
    def jpeg_order_note(self) -> str:
        """One-line note with a remedy where the channel order is guessed; else empty."""
        if not self.compressed or self.jpeg_order_source != "guessed":
            return ""
        return (
            f"the file does not record the order of red and blue in its images: {self.jpeg_order} is assumed, as "
            f"{self.layout} recorders write it; if red and blue are exchanged, give --jpeg_order standard"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Conversions, assumptions, and attributes that contradict the data; one line each."""
        lines: dict[str, list[str]] = {}
        for camera in self.cameras:
            with contextlib.suppress(EpisodeError):  # raised again when this camera is read
                lines.setdefault(self.image_format(camera).conversion, []).append(camera)
        for camera, data in self._depth.items():
            with contextlib.suppress(EpisodeError):
                lines.setdefault(depth_format(data), []).append(f"depth of {camera}")
        lines.pop("", None)
        order, source = self._jpeg_order()
        ignored = self._given_order not in (None, order) and source == "file"
        return (
            *(f"{', '.join(names)}: {line}" for line, names in lines.items()),
            *self._layout.notes,
            *([f"jpeg_order {self._given_order} is not used: the file records {order}"] if ignored else []),
            *([self.jpeg_order_note] if self.jpeg_order_note else []),
        )

    def reading(self, cameras: Collection[str]) -> str:
        """Description of how some cameras' images are converted or renamed when read; empty where they are not."""
        words = {conversion for camera in cameras if (conversion := self.image_format(camera).conversion)}
        if self.compressed and self.jpeg_order_source == "given":
            words.add(f"jpeg_order {self.jpeg_order}")
        words |= {f"{name} is {self._renamed[name]}" for name in cameras if name in self._renamed}
        return "; ".join(sorted(words))

    def image_format(self, camera: str) -> ImageFormat:
        """Format of a camera's stored images.

        Raises:
            EpisodeError: no such camera, or one whose images cannot be read without a guess; names type and shape.
        """
        with self._guard():
            self._handle()
            data = self._camera(camera)
            if camera not in self._formats:
                try:
                    require_rows(data, camera)
                    self._formats[camera] = image_format(data)
                except EpisodeError as error:
                    raise EpisodeError(
                        "{path}: camera '{camera}': {error}", path=self.path, camera=camera, error=error
                    ) from None
                except DAMAGE as error:
                    raise EpisodeError(
                        "{path}: camera '{camera}' cannot be read: {error}",
                        path=self.path,
                        camera=camera,
                        error=reason(error),
                    ) from error
            return self._formats[camera]

    def image_size(self, camera: str) -> tuple[int, int]:
        """(height, width) in pixels."""
        size = self.image_format(camera).size
        if size is not None:
            return size
        height, width = self.image(camera, 0).shape[:2]
        return height, width

    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Sizes of the cameras whose images can be read."""
        sizes = {}
        for camera in self.cameras:
            with contextlib.suppress(EpisodeError):
                sizes[camera] = self.image_size(camera)
        return sizes

    def image(self, camera: str, i: int, at_least: tuple[int, int] | None = None) -> Image:
        """Frame i as (H, W, 3) uint8 RGB; a JPEG perhaps halved up to three times, but `at_least` (height, width).

        Raises:
            EpisodeError: no such camera or frame (lists which exist), a damaged frame, or one that cannot be converted.
        """
        return self._image(camera, i, at_least, None)

    def image_into(self, camera: str, i: int, out: Image, at_least: tuple[int, int] | None = None) -> Image:
        """See `core.source.ImagesInPlace`."""
        return self._image(camera, i, at_least, out)

    def _image(self, camera: str, i: int, at_least: tuple[int, int] | None, out: Image | None) -> Image:
        stored = self.image_format(camera)
        row = self._row(camera, i)
        try:
            return decode_image(row, self.jpeg_order, at_least, out) if stored.encoded else stored.to_rgb(row)
        except EpisodeError as error:
            raise EpisodeError(
                "{path}: frame {i} of camera '{camera}' cannot be used: {error}",
                path=self.path,
                i=i,
                camera=camera,
                error=error,
            ) from None

    def jpeg(self, camera: str, i: int) -> bytes | None:
        """Frame i as the stored encoded image, without its padding; None where the file holds raw pixels.

        Its channels are in `jpeg_order`: `cv2.imdecode` gives RGB in Mobile ALOHA's, BGR in the standard one.
        """
        return self.encoded(camera, i) if self.image_format(camera).encoded else None

    def encoded(self, camera: str, i: int) -> bytes:
        """Frame i as it is stored in the file: an encoded image without its padding, or raw pixels."""
        row = self._row(camera, i)
        return unpadded(row) if isinstance(row, bytes) else row.tobytes()

    def rows(self, camera: str) -> int:
        """Number of frames of a camera; `frames` in an undamaged file."""
        with self._guard():
            self._handle()
            return int(self._camera(camera).shape[0])

    def depth(self, camera: str, i: int) -> Depth:
        """Frame i of a depth camera as (H, W) uint16 mm.

        Raises:
            EpisodeError: no such depth camera or frame, or values that are not whole mm.
        """
        with self._guard():
            self._handle()
            if camera not in self._depth:
                raise EpisodeError(
                    "{path} has no depth of '{camera}'. {known}",
                    path=self.path,
                    camera=camera,
                    known=did_you_mean(camera, self._depth),
                )
            data = self._depth[camera]
            row = self._read(data, i, camera)
        try:
            depth_format(data)
            return decode_depth(row) if isinstance(row, bytes) else as_depth(row, rounded=self.layout == ROBOTWIN)
        except EpisodeError as error:
            raise EpisodeError(
                "{path}: frame {i} of camera '{camera}': {error}", path=self.path, i=i, camera=camera, error=error
            ) from None

    def _row(self, camera: str, i: int) -> Any:
        """Frame i as it is stored: bytes of an encoded image, or an array."""
        with self._guard():
            self._handle()
            return self._read(self._camera(camera), i, camera)

    def _jpeg_order(self) -> tuple[JpegOrder, Literal["file", "given", "guessed"]]:
        with self._guard():
            self._handle()
            if "jpeg_order" not in self._arrays:
                self._arrays["jpeg_order"] = self._find_jpeg_order()
            found: tuple[JpegOrder, Literal["file", "given", "guessed"]] = self._arrays["jpeg_order"]
            return found

    def _find_jpeg_order(self) -> tuple[JpegOrder, Literal["file", "given", "guessed"]]:
        order = text_of(self._file.attrs.get("jpeg_order"))
        if order == "standard":
            return "standard", "file"
        if order == "mobile_aloha" or self.layout == OURS:
            return "mobile_aloha", "file"
        for camera in self._layout.encoded:
            if self.rows(camera) and jpeg_order_of(self.encoded(camera, 0)) == "standard":
                return "standard", "file"
        return (self._given_order, "given") if self._given_order else ("mobile_aloha", "guessed")

    def _camera(self, camera: str) -> Any:
        if camera not in self._images:
            raise EpisodeError(
                "{path} has no camera '{camera}'. {known}",
                path=self.path,
                camera=camera,
                known=did_you_mean(camera, self._images),
            )
        return self._images[camera]

    def _read(self, data: Any, i: int, camera: str) -> Any:
        try:
            require_rows(data, camera)
        except EpisodeError as error:
            raise EpisodeError("{path}: {error}", path=self.path, error=error) from None
        if not 0 <= i < data.shape[0]:
            raise EpisodeError(
                "{path} has frames 0 to {last} of camera '{camera}', given frame {i}",
                path=self.path,
                last=data.shape[0] - 1,
                camera=camera,
                i=i,
            )
        try:
            return encoded_row(data, i) if is_encoded(data) else np.asarray(data[i])
        except EpisodeError as error:
            raise EpisodeError(
                "{path}: frame {i} of camera '{camera}': {error}", path=self.path, i=i, camera=camera, error=error
            ) from None
        except DAMAGE as error:
            raise EpisodeError(
                "{path}: frame {i} of camera '{camera}' cannot be read: {error}",
                path=self.path,
                i=i,
                camera=camera,
                error=reason(error),
            ) from error
