"""Layouts of episode files, recognised by their contents: ours, the ALOHA family's, RoboTwin's, XPolicyLab's.

The ALOHA family stores `/action` and `/observations/qpos`; its members differ in the other data sets. Old files do not
record their rate, joint names or units, so their contract is what their recorders used by default.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aloha_kit.core import Contract, EpisodeError, joint_names
from aloha_kit.core.contract import UNITS
from aloha_kit.core.errors import shown
from aloha_kit.core.lang import Message
from aloha_kit.core.versions import CLASSIC, SCHEMA
from aloha_kit.storage import hdf5
from aloha_kit.storage.contract_file import neutral_contract
from aloha_kit.storage.hdf5 import DAMAGE, require_rows
from aloha_kit.storage.image_format import is_encoded
from aloha_kit.storage.robotwin import Place, place_of, ROBOTWIN, XPOLICYLAB

OURS, ALOHA, ACT_SIM = "aloha_kit", "aloha", "act_sim"
MOBILE_ALOHA, COBOT_MAGIC = "mobile_aloha", "cobot_magic"
FAMILY = (ALOHA, ACT_SIM, MOBILE_ALOHA, COBOT_MAGIC)

_COBOT_JOINTS = tuple(f"{arm}_joint{i}" for arm in ("left", "right") for i in range(7))
_COBOT_CAMERAS = {"cam_high", "cam_left_wrist", "cam_right_wrist"}
_WORDS = {**dict.fromkeys(("true", "1", "yes"), True), **dict.fromkeys(("false", "0", "no", "none", ""), False)}
_BASE = ("base_linear", "base_angular")
_TEXT = 1 << 20  # bytes of an instruction
_SHOWN = 20  # data sets, in messages


@dataclass(frozen=True)
class Table:
    """A vector stream: the columns of several data sets side by side, rows from `first` on."""

    parts: tuple[str, ...]
    first: int = 0


@dataclass(frozen=True)
class Layout:
    """Places of the data in a file.

    Attributes:
        cameras, depth: {camera: path of its data set}.
        encoded: cameras whose rows are encoded images.
        tables: vectors stored elsewhere than in the ALOHA family, by the family's paths.
        names: of the state's columns where the layout determines them, else empty.
        rate_hz: the control rate, from the file or its recorder's default.
        recorded: which of "joints" and "rate" the file itself records.
        instruction: the task in words, where the file stores it as a data set.
        notes: what was assumed, and where attributes contradict the data; one line each.
    """

    name: str
    cameras: dict[str, str]
    depth: dict[str, str]
    encoded: tuple[str, ...] = ()
    tables: dict[str, Table] = dataclasses.field(default_factory=dict)
    names: tuple[str, ...] = ()
    rate_hz: float = 50.0
    recorded: tuple[str, ...] = ()
    instruction: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def units(self) -> Mapping[str, str]:
        """Units of joints and grippers; Cobot Magic records its grippers as their driver reports them."""
        return UNITS | {"gripper": "raw"} if self.name == COBOT_MAGIC else UNITS

    def renamed(self, names: Mapping[str, str], path: object) -> Layout:
        """Layout with renamed cameras, {the file's name: the new one}; names that the file lacks are ignored.

        Raises:
            EpisodeError: two cameras would have one name.
        """
        cameras = {names.get(name, name): place for name, place in self.cameras.items()}
        if len(cameras) < len(self.cameras):
            raise EpisodeError(
                "{path}: cameras {cameras} cannot be renamed, since two would be alike",
                path=path,
                cameras=", ".join(self.cameras),
            )
        return dataclasses.replace(
            self,
            cameras=cameras,
            depth={names.get(name, name): place for name, place in self.depth.items()},
            encoded=tuple(names.get(name, name) for name in self.encoded),
        )


def detect(file: Any, path: object) -> Layout:
    """Detect the layout of an open HDF5 file.

    Raises:
        EpisodeError: no known layout; lists what the file has.
    """
    schema = text_of(file.attrs.get("schema"))
    if schema not in (None, SCHEMA, CLASSIC):
        raise EpisodeError(
            "{path} has schema '{schema}', this version reads '{known}' and the ALOHA family's files",
            path=path,
            schema=schema,
            known=SCHEMA,
        )
    if schema is None and (place := place_of(file)) is not None:
        return _of_place(file, place)
    _require_family(file, path)
    cameras = tuple(file.get("observations/images", ()))
    if schema is not None and "camera_names" in file.attrs:
        cameras = _named_cameras(file, cameras, path)
    encoded = tuple(name for name in cameras if is_encoded(file[f"observations/images/{name}"]))
    depth = {
        name: f"observations/{group}/{name}"
        for group in ("images_depth", "depths")  # the second: an older Cobot Magic recorder
        for name in _members(file, f"observations/{group}")
    }
    name = OURS if schema is not None else _name(file, cameras, encoded, depth)
    return Layout(
        name,
        {camera: f"observations/images/{camera}" for camera in cameras},
        depth,
        encoded,
        rate_hz=30.0 if name == COBOT_MAGIC else 50.0,
        instruction=instruction_of(file),
        notes=tuple(_contradictions(file, cameras, encoded)),
    )


def _of_place(file: Any, place: Place) -> Layout:
    """Layout of a file of RoboTwin or XPolicyLab."""
    return Layout(
        place.name,
        place.cameras,
        place.depth,
        tuple(camera for camera, images in place.cameras.items() if is_encoded(file[images])),
        {"action": Table(place.action, place.action_from), "observations/qpos": Table(place.state)},
        place.names,
        place.rate_hz,
        place.recorded,
        instruction_of(file) or beside_of(file),
        place.notes,
    )


def _require_family(file: Any, path: object) -> None:
    """Require actions, measured joints and images where and as the ALOHA family stores them."""
    tables = ("action", "observations/qpos")
    if lacking := [key for key in tables if key not in file]:
        known = ", ".join((SCHEMA, *FAMILY, ROBOTWIN, XPOLICYLAB))
        raise EpisodeError(
            "{path} is in no known layout: it lacks /{lacking}. It has: {contents}. Known: {known}",
            path=path,
            lacking=lacking[0],
            contents=contents(file),
            known=known,
        )
    try:
        if not hasattr(images := file.get("observations/images", {}), "items"):
            raise EpisodeError("/observations/images is no group of cameras")
        for key in tables:
            shape = tuple(getattr(file[key], "shape", None) or ())
            if len(shape) != 2 or shape[1] == 0:
                raise EpisodeError("/{key} is no table of rows", key=key)
        for name in images:
            require_rows(images[name], f"observations/images/{name}")
    except EpisodeError as error:
        raise EpisodeError(
            "{path}: {error}. It has: {contents}", path=path, error=error, contents=contents(file)
        ) from None


def _named_cameras(file: Any, there: Collection[str], path: object) -> tuple[str, ...]:
    """Cameras of the attribute `camera_names`, in its order."""
    named = np.asarray(file.attrs["camera_names"])
    if named.ndim != 1 or named.dtype.kind not in "SUO":
        raise EpisodeError(
            "{path}: camera_names is {value}, expected names", path=path, value=shown(file.attrs["camera_names"])
        )
    cameras = tuple(dict.fromkeys(str(text_of(name)) for name in named))
    if missing := [name for name in cameras if name not in there]:
        raise EpisodeError(
            "{path}: camera_names has '{missing}', the file has no such images. It has: {contents}",
            path=path,
            missing=missing[0],
            contents=contents(file),
        )
    return cameras


def derive_contract(layout: Layout, state: int, action: int, base: int, sizes: dict[str, tuple[int, int]]) -> Contract:
    """Default contract of a foreign file's recorder; neutral names where the arms are not ALOHA's."""
    if layout.names:
        return Contract.of(layout.names, layout.names, sizes, rate_hz=layout.rate_hz)
    if (state, action, base) == (14, 16, 0):  # ACT++ may store the base's two in the same data set
        action, base = 14, 2
    if (state, action) != (14, 14) or base not in (0, 2):
        return neutral_contract(state, action, base, sizes, layout.rate_hz)
    names = _COBOT_JOINTS if layout.name == COBOT_MAGIC else joint_names()
    return Contract.of(names, (*names, *_BASE[:base]), sizes, layout.rate_hz, layout.units)


def instruction_of(file: Any) -> str | None:
    """The task in words from `/instruction` (text, bytes or uint8), or the first of `/instructions`."""
    for key in ("instruction", "instructions"):
        data = file.get(key)
        if not getattr(data, "size", 0) or data.size * data.dtype.itemsize > _TEXT:
            continue
        value = data[()]
        if isinstance(value, np.ndarray) and value.dtype == np.uint8:
            value = value.tobytes().rstrip(b"\0")
        found = text_of(value)
        if found is None:
            continue
        with contextlib.suppress(ValueError):  # RoboTwin stores a list in JSON
            listed = json.loads(found)
            found = str(listed[0]) if isinstance(listed, list) and listed else found
        return found
    return None


def beside_of(file: Any) -> str | None:
    """The task in words from RoboTwin's `instructions/episode<i>.json` beside the folder of a file: the first one."""
    path = Path(file.filename)
    beside = path.parent.parent / "instructions" / f"{path.stem}.json"
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        return str(json.loads(beside.read_text(encoding="utf-8"))["seen"][0])
    return None


def truth_of(value: Any) -> bool | None:
    """Boolean value of an attribute: also from a number, an array of one, or text; None for anything else."""
    if isinstance(value, np.ndarray):
        return truth_of(value.reshape(-1)[0]) if value.size == 1 else None
    if isinstance(value, (str, bytes)):
        return _WORDS.get(str(text_of(value)).strip().lower())
    return bool(value) if isinstance(value, (bool, int, float, np.generic)) else None


def text_of(value: Any) -> str | None:
    """Text of an attribute or a data set: a string, bytes, or the first of an array of them; None for other types."""
    if isinstance(value, np.ndarray):
        return text_of(value.reshape(-1)[0]) if value.size else None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value) if isinstance(value, str) else None


def _members(file: Any, name: str) -> list[str]:
    """Names in a group; none where there is no such group."""
    group = file.get(name)
    return [str(key) for key in group] if hasattr(group, "items") else []


def contents(file: Any) -> str:
    """Every data set with its shape, for messages about what a file has."""
    found: list[str] = []
    with contextlib.suppress(EpisodeError, *DAMAGE):  # then only what could be listed until there
        for name, data in hdf5.datasets(file):
            found.append(f"/{name} {data.shape}")
    listed = ", ".join(found[:_SHOWN]) or Message("(nothing)")
    more = len(found) - _SHOWN
    return listed if more <= 0 else Message("{listed} and {more} more", listed=listed, more=more)


def _name(file: Any, cameras: tuple[str, ...], encoded: tuple[str, ...], depth: dict[str, str]) -> str:
    """Name of the ALOHA family's recorder that wrote a file.

    Only Cobot Magic stores depth. Without depth, Cobot Magic is recognised by everything that its recorder always
    writes: raw images of its three cameras, `base_action`, and `compress` False. One of these alone is not enough:
    decompressed files of ALOHA and Mobile ALOHA have `compress` False too.
    """
    source = text_of(file.attrs.get("layout"))  # our exports record the layout of their source
    if source in (*FAMILY, ROBOTWIN, XPOLICYLAB):
        return str(source)
    base = "base_action" in file
    raw = "compress" in file.attrs and truth_of(file.attrs["compress"]) is False and "compress_len" not in file
    if depth or (base and raw and not encoded and set(cameras) <= _COBOT_CAMERAS):
        return COBOT_MAGIC
    if base or encoded:
        return MOBILE_ALOHA
    return ACT_SIM if truth_of(file.attrs.get("sim", False)) else ALOHA


def _contradictions(file: Any, cameras: tuple[str, ...], encoded: tuple[str, ...]) -> Iterator[str]:
    """Attributes and data sets that contradict the images, one line each."""
    if not cameras:
        return
    raw = [name for name in cameras if name not in encoded]
    if "compress" in file.attrs:
        value = file.attrs["compress"]
        compressed, given = truth_of(value), text_of(value) or str(value)
        wrong = raw if compressed else encoded if compressed is False else ()
        if compressed is None:
            yield f"attribute compress is '{given}', neither true nor false; the images decide"
        elif wrong:
            kind = "raw pixels" if compressed else "encoded"
            yield f"attribute compress is '{given}', the images of {', '.join(wrong)} are {kind}; the images decide"
    if "compress_len" in file and not encoded:
        yield "compress_len is not used: the images are raw pixels"
