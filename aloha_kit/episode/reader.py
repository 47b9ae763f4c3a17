"""Reads an episode, ours or any of the ALOHA family's, without converting it."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, ContractError, did_you_mean, EpisodeError
from aloha_kit.core.errors import reason, shown
from aloha_kit.episode import hdf5
from aloha_kit.episode.codec import (
    decode_depth,
    decode_image,
    Depth,
    Image,
    image_kind,
    ImageKind,
    JpegOrder,
    order_told,
    unpadded,
)
from aloha_kit.episode.elsewhere import ROBOTWIN
from aloha_kit.episode.embodiment import settle
from aloha_kit.episode.episode_file import Array, EpisodeFile
from aloha_kit.episode.hdf5 import DAMAGE, damage_told, require_rows
from aloha_kit.episode.layouts import (
    derive_contract,
    FAMILY,
    OURS,
    text_of,
)
from aloha_kit.episode.pixels import as_depth, depth_format, encoded_row, image_format, ImageFormat, is_encoded


class Episode(EpisodeFile):
    """One episode file, read as it is asked for.

    `length` is T, the number of actions. Observations have `frames` rows: T + 1 in our own files, T in
    the others'. Row i of the observations is what was seen when action i was chosen. Small arrays are
    kept once read; images never are. Threads may share an episode; it pickles as its path, and a
    forked or spawned process opens the file anew.

    Attributes:
        path: the file.
        layout: "aloha_kit", or what other tool wrote the file, see `docs/data_format.md`.
        length: T.
        frames: rows of the observations.
        cameras: names, in the recorder's order where the file says it, else alphabetically.
        depth_cameras: names of cameras with depth.
    """

    def __init__(
        self,
        path: str | Path,
        contract: Contract | None = None,
        jpeg_order: JpegOrder | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> None:
        self._given, self._given_order = contract, jpeg_order
        self._formats: dict[str, ImageFormat] = {}
        super().__init__(path, rename)

    @classmethod
    def open(
        cls,
        path: str | Path,
        contract: Contract | None = None,
        *,
        jpeg_order: JpegOrder | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> Episode:
        """Open a file; use it as a context manager or call `close`.

        Args:
            contract: what the vectors of a file mean that does not say it, see `embodiment.given_contract`.
            jpeg_order: the order of red and blue in encoded images, for a file that does not say it.
            rename: cameras, {the name to read them by: the file's}; a file without such a camera is read as it is.

        Raises:
            EpisodeError: missing, damaged, or in no known layout; says what is there.
        """
        return cls(path, contract, jpeg_order, rename)

    def __enter__(self) -> Episode:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Episode], tuple[Any, ...]]:
        return Episode, (self.path, self._given, self._given_order, self._renamed)

    def __repr__(self) -> str:
        return f"Episode({str(self.path)!r}, {self.layout}, {self.length} steps, cameras {', '.join(self.cameras)})"

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def where(self) -> str:
        """What error messages call the episode: its path."""
        return str(self.path)

    @property
    def id(self) -> str:
        """What tells the recording from any other, also in a copy: the id it was recorded under, or its size."""
        return str(self.attrs.get("id") or self.path.stat().st_size)

    @property
    def action(self) -> Array:
        """(T, A): the arms' commands; a base's are in `base_action`."""
        return self._vector("action")

    @property
    def base_action(self) -> Array | None:
        """(T, 2) m/s and rad/s, or None."""
        return self._optional("base_action")

    @property
    def qpos(self) -> Array:
        """(frames, S): rad, grippers normalised."""
        return self._vector("observations/qpos")

    @property
    def qvel(self) -> Array | None:
        """(frames, S): rad/s, or None, also where the file has an empty table in its place."""
        return self._if_any("observations/qvel")

    @property
    def effort(self) -> Array | None:
        """(frames, S): as the driver reports it, or None, as with `qvel`."""
        return self._if_any("observations/effort")

    @property
    def base_velocity(self) -> Array | None:
        """(frames, 2): m/s and rad/s, or None."""
        return self._optional("observations/base_vel")

    @property
    def environment_state(self) -> Array | None:
        """(frames, E): true object poses of a simulation, or None."""
        return self._optional("observations/environment_state")

    @property
    def sensors(self) -> dict[str, Array]:
        """{sensor: (frames, D)}; the contract's `sensors` say what their entries are."""
        with self._guard(), damage_told(self.path):
            group = self._handle().get("observations/sensors")
            names = [name for name, _ in hdf5.datasets(group)] if group is not None else []
        return {name: self._array(f"observations/sensors/{name}") for name in names}

    @property
    def reward(self) -> Array | None:
        """(T,), or None."""
        return self._optional("reward")

    @property
    def stamps(self) -> dict[str, npt.NDArray[np.int64]]:
        """Capture times in ns, {stream: (frames,)}, `command` (T,); `NO_STAMP` where there was none.

        Empty in foreign files.
        """
        with self._guard(), damage_told(self.path):
            group = self._handle().get("stamps", {})
            if not hasattr(group, "items"):
                raise EpisodeError(f"{self.path}: /stamps is a data set, expected a group with one for each stream")
            names = [name for name, _ in hdf5.datasets(group)] if group else []
        return {name: self._array(f"stamps/{name}") for name in names}

    @property
    def success(self) -> bool | None:
        """Whether the episode was judged a success; None if nobody judged it."""
        value: bool | None = self.attrs.get("success")
        return value

    @property
    def describe(self) -> dict[str, Any]:
        """What the environment said about itself when the episode was recorded; empty for foreign files."""
        text = self.attrs.get("describe")
        if not text or self.layout != OURS:
            return {}
        with damage_told(self.path):
            return dict(json.loads(text))

    @property
    def action_offset(self) -> int:
        """1 where the observation was taken before the action that it is stored with, as the real ALOHA's recorder
        does; 0 in simulation and in our own files."""
        return int(self.layout in FAMILY and not self.attrs.get("sim", False))

    @property
    def rate_hz(self) -> float:
        """The control rate; the contract's where the file does not say it."""
        value = self.attrs.get("rate_hz")
        if value is None:
            return self.contract.rate_hz
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise EpisodeError(f"{self.path}: rate_hz is {shown(value)}, expected a positive number")
        return float(value)

    @property
    def contract(self) -> Contract:
        """The embodiment: as recorded, as described (`contract.yaml`, or given), or what `assumption` tells.

        Raises:
            ContractError: a contract that does not fit the file.
        """
        return self._settled()[0]

    @property
    def assumption(self) -> str:
        """What of the contract is assumed, in words; empty where the file, or somebody, says it."""
        return self._settled()[1]

    @property
    def assumed(self) -> Contract:
        """The contract that the file's layout suggests, whatever the file or somebody says."""
        return derive_contract(self._layout, *self._widths(), self._sizes())

    def _settled(self) -> tuple[Contract, str]:
        if "contract" not in self._arrays:
            text = self.attrs.get("contract")
            recorded = None if text is None else _contract(text, self.path)
            state, action, base = self._widths()
            contract, assumed = settle(
                self.path, recorded, self._given, lambda: self.assumed, (state, action + base), self._layout.told
            )
            here = {old: name for old, name in self._names.items() if old in contract.cameras}
            self._arrays["contract"] = contract.renamed(here), assumed
        found: tuple[Contract, str] = self._arrays["contract"]
        return found

    def _widths(self) -> tuple[int, int, int]:
        """Entries of the state, of the action, and of a base's action."""
        base = self.base_action
        return self.qpos.shape[1], self.action.shape[1], 0 if base is None else base.shape[1]

    @property
    def compressed(self) -> bool:
        """Whether images are kept encoded, as JPEG, PNG or WebP."""
        return bool(self._layout.encoded)

    @property
    def moved(self) -> bool:
        """Whether vectors and images lie elsewhere than in our files and the ALOHA family's."""
        return bool(self._layout.tables)

    @property
    def image_kind(self) -> ImageKind | Literal["raw"]:
        """How images are kept, by the first one that is encoded."""
        for camera in self._layout.encoded:
            if self.rows(camera):
                return image_kind(self.encoded(camera, 0)) or "jpeg"  # a damaged one is what most are
        return "raw"

    @property
    def jpeg_order(self) -> JpegOrder:
        """The channels of the file's encoded images, see `docs/data_format.md`."""
        return self._jpeg_order()[0]

    @property
    def jpeg_order_source(self) -> Literal["file", "given", "guessed"]:
        """Who says so: the file, whoever opened it, or nobody (then it is what all recorders of such files write)."""
        return self._jpeg_order()[1]

    @property
    def jpeg_order_note(self) -> str:
        """A line where the order is guessed, what to do about it included; else empty."""
        if not self.compressed or self.jpeg_order_source != "guessed":
            return ""
        return (
            f"the file does not say the order of red and blue in its images: {self.jpeg_order} is assumed, as "
            f"{self.layout} recorders write it; if red and blue are exchanged, give --jpeg_order standard"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What is read otherwise than it is stored, what was assumed, and what contradicts the data; a line each."""
        lines: dict[str, list[str]] = {}
        for camera in self.cameras:
            with contextlib.suppress(EpisodeError):  # raised again by whoever reads this camera
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
            *([f"jpeg_order {self._given_order} is not used: the file says {order}"] if ignored else []),
            *([self.jpeg_order_note] if self.jpeg_order_note else []),
        )

    def reading(self, cameras: Collection[str]) -> str:
        """How some cameras' images are read where not simply as the file says; empty where they are."""
        words = {conversion for camera in cameras if (conversion := self.image_format(camera).conversion)}
        if self.compressed and self.jpeg_order_source == "given":
            words.add(f"jpeg_order {self.jpeg_order}")
        words |= {f"{name} is {self._renamed[name]}" for name in cameras if name in self._renamed}
        return "; ".join(sorted(words))

    def image_format(self, camera: str) -> ImageFormat:
        """How a camera's images are stored.

        Raises:
            EpisodeError: no such camera, or one whose images cannot be read without a guess; says what they are.
        """
        with self._guard():
            self._handle()
            data = self._camera(camera)
            if camera not in self._formats:
                try:
                    require_rows(data, camera)
                    self._formats[camera] = image_format(data)
                except EpisodeError as error:
                    raise EpisodeError(f"{self.path}: camera '{camera}': {error}") from None
                except DAMAGE as error:
                    raise EpisodeError(f"{self.path}: camera '{camera}' cannot be read: {reason(error)}") from error
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
            EpisodeError: no such camera or frame (says which exist), a damaged frame, or one that cannot be converted.
        """
        stored = self.image_format(camera)
        row = self._row(camera, i)
        try:
            return decode_image(row, self.jpeg_order, at_least) if stored.encoded else stored.to_rgb(row)
        except EpisodeError as error:
            raise EpisodeError(f"{self.path}: frame {i} of camera '{camera}' cannot be used: {error}") from None

    def jpeg(self, camera: str, i: int) -> bytes | None:
        """Frame i as the encoded image that the file holds, without its padding; None where it holds raw pixels.

        Its channels are in `jpeg_order`: `cv2.imdecode` gives RGB in Mobile ALOHA's, BGR in the standard one.
        """
        return self.encoded(camera, i) if self.image_format(camera).encoded else None

    def encoded(self, camera: str, i: int) -> bytes:
        """Frame i as it lies in the file: an encoded image without its padding, or raw pixels."""
        row = self._row(camera, i)
        return unpadded(row) if isinstance(row, bytes) else row.tobytes()

    def rows(self, camera: str) -> int:
        """How many frames a camera has; `frames` in a sound file."""
        with self._guard():
            self._handle()
            return int(self._camera(camera).shape[0])

    def depth(self, camera: str, i: int) -> Depth:
        """Frame i of a depth camera as (H, W) uint16 mm.

        Raises:
            EpisodeError: no such depth camera or frame, or values that are no whole mm.
        """
        with self._guard():
            self._handle()
            if camera not in self._depth:
                raise EpisodeError(f"{self.path} has no depth of '{camera}'. {did_you_mean(camera, self._depth)}")
            data = self._depth[camera]
            row = self._read(data, i, camera)
        try:
            depth_format(data)
            return decode_depth(row) if isinstance(row, bytes) else as_depth(row, rounded=self.layout == ROBOTWIN)
        except EpisodeError as error:
            raise EpisodeError(f"{self.path}: frame {i} of camera '{camera}': {error}") from None

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
        told = text_of(self._file.attrs.get("jpeg_order"))
        if told == "standard":
            return "standard", "file"
        if told == "mobile_aloha" or self.layout == OURS:
            return "mobile_aloha", "file"
        for camera in self._layout.encoded:
            if self.rows(camera) and order_told(self.encoded(camera, 0)) == "standard":
                return "standard", "file"
        return (self._given_order, "given") if self._given_order else ("mobile_aloha", "guessed")

    def _camera(self, camera: str) -> Any:
        if camera not in self._images:
            raise EpisodeError(f"{self.path} has no camera '{camera}'. {did_you_mean(camera, self._images)}")
        return self._images[camera]

    def _read(self, data: Any, i: int, camera: str) -> Any:
        try:
            require_rows(data, camera)
        except EpisodeError as error:
            raise EpisodeError(f"{self.path}: {error}") from None
        if not 0 <= i < data.shape[0]:
            raise EpisodeError(
                f"{self.path} has frames 0 to {data.shape[0] - 1} of camera '{camera}', asked for frame {i}"
            )
        try:
            return encoded_row(data, i) if is_encoded(data) else np.asarray(data[i])
        except EpisodeError as error:
            raise EpisodeError(f"{self.path}: frame {i} of camera '{camera}': {error}") from None
        except DAMAGE as error:
            raise EpisodeError(
                f"{self.path}: frame {i} of camera '{camera}' cannot be read: {reason(error)}"
            ) from error


def _contract(text: str, path: Path) -> Contract:
    try:
        return Contract.from_json(text)
    except ContractError as error:
        raise ContractError(f"{path}: {error}") from error
