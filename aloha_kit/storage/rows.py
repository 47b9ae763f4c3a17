"""Layout of one row of an episode: the observation and the action that led to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, EpisodeError, Observation
from aloha_kit.core.features import SENSORS, VECTORS
from aloha_kit.core.lang import Message

NO_STAMP = -(2**63)  # in place of a stamp: this stream was not stamped here (a virtual clock may be negative)


@dataclass(frozen=True)
class RowLayout:
    """Fields, streams and cameras of one row (an observation and the action that led to it).

    Fixed when an episode begins, from the contract and the first observation, and saved in the
    journal's header, so every row has the same size apart from its images.
    """

    fields: tuple[tuple[str, tuple[int, ...]], ...]  # float32: vectors, then action, base_action, reward
    streams: tuple[str, ...]  # int64 ns stamps
    cameras: tuple[tuple[str, int, int], ...]  # name, height, width; uint8 RGB
    depth: tuple[tuple[str, int, int], ...]  # name, height, width; uint16 mm

    @classmethod
    def of(cls, contract: Contract, observation: Observation) -> RowLayout:
        """The layout of an episode that begins with `observation`.

        Raises:
            EpisodeError: the observation lacks what the contract requires, or has another shape.
        """
        for key in ("qpos", "images", "stamps"):
            if key not in observation:
                raise EpisodeError(
                    "the observation lacks '{key}'; it has: {there}",
                    key=key,
                    there=", ".join(observation) or Message("(nothing)"),
                )
        fields: list[tuple[str, tuple[int, ...]]] = []
        for key in VECTORS:
            if key in observation:
                fields.append((key, np.shape(observation[key])))  # type: ignore[literal-required]
        fields += [(f"{SENSORS}{name}", np.shape(value)) for name, value in observation.get("sensors", {}).items()]
        if fields[0][1] != (len(contract.state_names),):
            raise EpisodeError(
                "qpos has shape {shape}, the contract names {count} joints",
                shape=fields[0][1],
                count=len(contract.state_names),
            )
        seen, promised = list(observation["images"]), list(contract.cameras)
        if sorted(seen) != sorted(promised):
            raise EpisodeError(
                "cameras differ: the contract has {promised}, the observation has {seen}",
                promised=", ".join(promised) or Message("(none)"),
                seen=", ".join(seen) or Message("(none)"),
            )
        base = base_size(contract)
        fields.append(("action", (len(contract.action_names) - base,)))
        if base:
            fields.append(("base_action", (base,)))
        fields.append(("reward", ()))
        streams = dict.fromkeys([*observation["stamps"], "deadline", "command"])
        depth = observation.get("images_depth", {})
        return cls(
            tuple(fields),
            tuple(streams),
            tuple((name, *contract.cameras[name]) for name in promised),
            tuple((name, image.shape[0], image.shape[1]) for name, image in depth.items()),
        )

    @property
    def dtype(self) -> np.dtype[np.void]:
        """A row without its images as one numpy record."""
        stamps = ("stamps", "<i8", (len(self.streams),))
        return np.dtype([*((name, "<f4", shape) for name, shape in self.fields), stamps])

    def to_mapping(self) -> dict[str, Any]:
        """Mapping for the journal's JSON header."""
        return {"fields": self.fields, "streams": self.streams, "cameras": self.cameras, "depth": self.depth}

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> RowLayout:
        """Inverse of `to_mapping`."""
        return cls(
            tuple((str(name), tuple(int(n) for n in shape)) for name, shape in raw["fields"]),
            tuple(str(name) for name in raw["streams"]),
            tuple((str(name), int(h), int(w)) for name, h, w in raw["cameras"]),
            tuple((str(name), int(h), int(w)) for name, h, w in raw["depth"]),
        )


def base_size(contract: Contract) -> int:
    """Number of entries at the action's end that drive a mobile base: those named `base…`."""
    return sum(name.startswith("base") for name in contract.action_names)


def fill_row(
    layout: RowLayout, observation: Observation, action: npt.ArrayLike | None, reward: float
) -> npt.NDArray[np.void]:
    """One row as a record of `layout.dtype`; a reset has no action (zeros) and no command stamp.

    Raises:
        EpisodeError: a missing or differently shaped entry; a stamp of an unknown stream.
    """
    row = np.zeros((), layout.dtype)
    values: dict[str, Any] = dict(observation)
    values.update({f"{SENSORS}{name}": value for name, value in observation.get("sensors", {}).items()})
    if action is not None:
        action = np.asarray(action)
        joints = dict(layout.fields)["action"][0]
        expected = sum(shape[0] for name, shape in layout.fields if name.endswith("action"))
        if action.shape != (expected,):
            raise EpisodeError(
                "action has shape {shape}, the contract names {expected} entries", shape=action.shape, expected=expected
            )
        values.update(action=action[:joints], base_action=action[joints:], reward=reward)
    for name, shape in layout.fields:
        if name in values:
            value = np.asarray(values[name])
            if value.shape != shape:
                raise EpisodeError(
                    "'{name}' has shape {given}, this episode began with {shape}",
                    name=name,
                    given=value.shape,
                    shape=shape,
                )
            row[name] = value
        elif name in VECTORS or name.startswith(SENSORS):
            raise EpisodeError("the observation lacks '{name}', which this episode began with", name=name)
    stamps = observation["stamps"]
    unknown = set(stamps) - set(layout.streams)
    if unknown:
        raise EpisodeError(
            "stamps of unknown streams {unknown}; this episode began with {streams}",
            unknown=sorted(unknown),
            streams=layout.streams,
        )
    row["stamps"] = [stamps.get(name, NO_STAMP) for name in layout.streams]
    return row
