"""Replay buffers of Diffusion Policy (Zarr, version 2) as a source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aloha_kit.core import Contract, ContractError, EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.core.features import SENSORS
from aloha_kit.core.source import EpisodeData, EpisodeSource
from aloha_kit.formats import ReadOptions
from aloha_kit.formats.zarr_buffer import BufferDepth, BufferImages, ReplayBuffer
from aloha_kit.storage.contract_file import neutral_contract, settle

OURS, EPISODES = "aloha_kit", "aloha_kit_episodes.jsonl"
"""Attribute of the group with contract and array names, and a file of a line an episode: id, success, description."""
STATES = ("state", "qpos", "agent_pos", "robot_eef_pose")
"""Names that the state's array has in buffers of others; the first one that is there is read."""
RATE_HZ = 10.0  # Diffusion Policy's, of buffers that record none
_NUMBERS = "biuf"  # kinds of numpy's types


class ZarrSource(EpisodeSource):
    """Episodes of a replay buffer: `meta/episode_ends`, and arrays `data/*` with the rows of all of them.

    `action` is the action; the state is `state`, or another of `STATES`. Arrays of (rows, H, W, 3) or (rows, 3, H, W)
    are cameras of their names. `reward` is the reward, `timestamp` (s) when the step was due, and every other array of
    numbers that has a row of values or of points is a sensor. Names and units are those of our own export; of other
    buffers they are given with a contract.

    Raises:
        EpisodeError: several places, no buffer, another layout or version, or a damaged one.
        ContractError: the contract given does not fit.
    """

    def __init__(self, places: Sequence[str | Path], options: ReadOptions) -> None:
        options.refuse("zarr", "jpeg_order", "rename", "task")
        if len(places) != 1:
            raise EpisodeError("a replay buffer is one folder or .zip, given {count}", count=len(places))
        self.place = Path(places[0])
        self._buffer = ReplayBuffer(self.place)
        self._count = len(self._buffer.ends[: options.first])
        self._ours: Mapping[str, Any] = dict(self._buffer.group.attrs).get(OURS) or {}
        self._about = self._episodes() if self._ours else []
        self._cameras, self._arrays = self._named()
        self._depths: Mapping[str, str] = self._ours.get("depths", {})
        self._read = sorted({*self._cameras.values(), *self._depths.values(), *self._arrays})
        self._buffer.require_lengths(self._read)
        self._contract, self._assumption = self._settled(options)
        unread = [name for name in self._buffer.names() if name not in self._read]
        self.unused = f"{self.place}: arrays that are not read: {', '.join(unread)}" if unread else ""

    def __len__(self) -> int:
        return self._count

    def name(self, number: int) -> str:
        return f"episode_{number:06d}"

    def identity(self, number: int) -> str:
        span = self._buffer.span(number)
        states = [self._buffer.rows(f"data/{name}").states(*span) for name in self._read]
        return hashlib.sha256(f"{span} {self._read} {states}".encode()).hexdigest()

    def open(self, number: int) -> EpisodeData:
        span, name = self._buffer.span(number), self.name(number)
        arrays = {array: self._buffer.rows(f"data/{key}").read(*span) for key, array in self._arrays.items()}
        deadline = arrays.get("stamps/deadline")
        if deadline is not None and deadline.dtype.kind == "f":  # seconds
            arrays["stamps/deadline"] = np.rint(deadline * 1e9)
        return EpisodeData.of_arrays(
            name,
            self._contract,
            arrays,
            BufferImages(self._buffer, self._cameras, span, f"{self.place}: {name}"),
            read_depth=BufferDepth(self._buffer, self._depths, span, f"{self.place}: {name}") if self._depths else None,
            about=self._about[number] if number < len(self._about) else {},
            layout="Diffusion Policy's replay buffer",
            assumption=self._assumption,
        )

    def _episodes(self) -> list[Mapping[str, Any]]:
        try:
            return [json.loads(line) for line in self._buffer.text(EPISODES).splitlines()]
        except ValueError as error:
            raise EpisodeError("{path} is damaged: {error}", path=self.place / EPISODES, error=reason(error)) from error

    def _named(self) -> tuple[dict[str, str], dict[str, str]]:
        """{camera: its array}, and {array: array of an episode}.

        Raises:
            EpisodeError: the state or the action is missing, or no table of numbers.
        """
        if self._ours:
            return dict(self._ours["cameras"]), dict(self._ours["arrays"])
        cameras, arrays, shapes = {}, {}, self._buffer.names()
        state = next((name for name in STATES if name in shapes), None)
        if state is None:
            raise EpisodeError(
                "{place} has no array of the state: expected {states}; it has: {there}",
                place=self.place,
                states=" or ".join(STATES),
                there=", ".join(shapes),
            )
        known = {"action": "action", state: "qpos", "reward": "reward", "timestamp": "stamps/deadline"}
        for name, shape in shapes.items():
            numbers = self._buffer.array(f"data/{name}").dtype.kind in _NUMBERS
            if name in ("action", state) and not (numbers and len(shape) == 2 and shape[1]):
                given = f"{shape} {self._buffer.array(f'data/{name}').dtype}"
                raise EpisodeError(
                    "{place}: {name} is {given}, expected numbers of the shape (rows, values)",
                    place=self.place,
                    name=name,
                    given=given,
                )
            if not numbers:
                continue
            if len(shape) == 4 and 3 in (shape[1], shape[3]):
                cameras[name] = name
            elif len(shape) in (1, 2) or (len(shape) == 3 and shape[2] in (2, 3)):
                arrays[name] = known.get(name, f"{SENSORS}{name}")
        return cameras, arrays

    def _settled(self, options: ReadOptions) -> tuple[Contract, str]:
        """The contract, and what of it is assumed."""
        shapes, keys = self._buffer.names(), {array: key for key, array in self._arrays.items()}
        widths = shapes[keys["qpos"]][1], shapes[keys["action"]][1]
        recorded = Contract.from_json(json.dumps(self._ours["contract"])) if self._ours else None
        sizes = {camera: size_of(shapes[name]) for camera, name in self._cameras.items()}
        file = self.place / "data" if self.place.is_dir() else self.place  # contract.yaml is looked for beside it
        contract, assumption = settle(
            file, recorded, options.contract, lambda: neutral_contract(*widths, 0, sizes, RATE_HZ), widths
        )
        if self._ours and (len(contract.state_names), len(contract.action_names)) != widths:
            raise ContractError(
                "{place}: state and action have {widths} entries, its contract has others",
                place=self.place,
                widths=widths,
            )
        return contract, assumption


def size_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of a camera's array, (rows, H, W, 3) or (rows, 3, H, W)."""
    height, width = shape[1:3] if shape[3] == 3 else shape[2:]
    return height, width
