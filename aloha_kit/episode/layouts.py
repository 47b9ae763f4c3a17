"""Telling the ALOHA family's files apart: ours, ALOHA, ACT's simulation, Mobile ALOHA, Cobot Magic.

All keep `/action` and `/observations/qpos`; they differ in what lies beside. Old files do not say
their rate, joint names or units, so a contract for them is what their recorders used by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aloha_kit.core import Contract, EpisodeError, joint_names
from aloha_kit.episode.embodiment import neutral_contract
from aloha_kit.episode.schema import CLASSIC, SCHEMA

OURS, ALOHA, ACT_SIM = "aloha_kit", "aloha", "act_sim"
MOBILE_ALOHA, COBOT_MAGIC = "mobile_aloha", "cobot_magic"

_COBOT_JOINTS = tuple(f"{arm}_joint{i}" for arm in ("left", "right") for i in range(7))
_BASE = ("base_linear", "base_angular")


@dataclass(frozen=True)
class Layout:
    """Where a file keeps things."""

    name: str
    compressed: bool  # images are padded JPEG
    cameras: tuple[str, ...]
    depth: dict[str, str]  # {camera: path of its data set}
    extra_row: bool  # one observation more than actions


def detect(file: Any, path: object) -> Layout:
    """The layout of an open HDF5 file.

    Raises:
        EpisodeError: none that is known; lists what the file has.
    """
    schema = file.attrs.get("schema")
    schema = schema.decode(errors="replace") if isinstance(schema, bytes) else schema
    if schema not in (None, SCHEMA, CLASSIC):
        raise EpisodeError(f"{path} has schema '{schema}', this version reads '{SCHEMA}' and the ALOHA family's files")
    for key in ("action", "observations/qpos"):
        if key not in file:
            raise EpisodeError(
                f"{path} is in no known layout: it lacks /{key}. It has: {contents(file)}. Known: "
                f"{', '.join((SCHEMA, ALOHA, ACT_SIM, MOBILE_ALOHA, COBOT_MAGIC))}"
            )
    images = file.get("observations/images", {})
    wanted = {"action": (2,), "observations/qpos": (2,), **{f"observations/images/{name}": (2, 4) for name in images}}
    for key, dimensions in wanted.items():
        if getattr(file[key], "ndim", None) not in dimensions:
            raise EpisodeError(f"{path}: /{key} is no table of rows. It has: {contents(file)}")
    cameras = tuple(images)
    if schema is not None and "camera_names" in file.attrs:
        cameras = tuple(name.decode() for name in file.attrs["camera_names"])
        for name in cameras:
            if name not in images:
                raise EpisodeError(
                    f"{path}: camera_names says '{name}', the file has no such pictures. It has: {contents(file)}"
                )
    compressed = bool(file.attrs.get("compress", False)) or any(image.ndim == 2 for image in images.values())
    depth = {
        name: f"observations/{group}/{name}"
        for group in ("images_depth", "depths")  # the second: an older Cobot Magic recorder
        for name in file.get(f"observations/{group}", {})
    }
    return Layout(_name(file, schema, depth), compressed, cameras, depth, schema == SCHEMA)


def derive_contract(layout: Layout, state: int, action: int, base: int, sizes: dict[str, tuple[int, int]]) -> Contract:
    """The contract that a foreign file's recorder used by default; neutral names where the arms are not ALOHA's."""
    if (state, action, base) == (14, 16, 0):  # ACT++ may keep the base's two in the same data set
        action, base = 14, 2
    if (state, action) != (14, 14) or base not in (0, 2):
        return neutral_contract(state, action, base, sizes, 50.0)
    cobot = layout.name == COBOT_MAGIC
    names = _COBOT_JOINTS if cobot else joint_names()
    contract = Contract(names, (*names, *_BASE[:base]), sizes, rate_hz=30.0 if cobot else 50.0)
    if cobot:  # its grippers are recorded as the driver reports them
        contract.units["gripper"] = "raw"
    return contract


def contents(file: Any) -> str:
    """Every data set with its shape, for messages about what a file has."""
    found: list[str] = []

    def note(name: str, item: Any) -> None:
        if hasattr(item, "shape"):
            found.append(f"/{name} {item.shape}")

    file.visititems(note)
    shown = ", ".join(found[:40]) or "(nothing)"
    return shown if len(found) <= 40 else f"{shown} and {len(found) - 40} more"


def _name(file: Any, schema: Any, depth: dict[str, str]) -> str:
    if schema is not None:
        return OURS
    if "compress_len" in file:
        return MOBILE_ALOHA
    if depth or ("base_action" in file and "compress" in file.attrs and not file.attrs["compress"]):
        return COBOT_MAGIC
    if file.attrs.get("compress", False) or "base_action" in file:
        return MOBILE_ALOHA
    if "compress" in file.attrs:
        return COBOT_MAGIC
    return ACT_SIM if bool(file.attrs.get("sim", False)) else ALOHA
