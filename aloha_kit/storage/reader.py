"""Reader of episode files, ours and other tools', without conversion."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, ContractError, EpisodeError, plural
from aloha_kit.core.errors import shown
from aloha_kit.core.features import SENSORS, VECTORS
from aloha_kit.storage import hdf5
from aloha_kit.storage.codec import (
    JpegOrder,
)
from aloha_kit.storage.contract_file import settle
from aloha_kit.storage.episode_file import Array
from aloha_kit.storage.episode_images import EpisodeImages
from aloha_kit.storage.hdf5 import damage_reported
from aloha_kit.storage.layouts import derive_contract, FAMILY, OURS


class Episode(EpisodeImages):
    """One episode file; data are read on access.

    `length` is T, the number of actions. Observations have `frames` rows: T + 1 in our own files, T in
    the others'. Action i was chosen from row i of the observations. Small arrays are
    cached once read; images are not. Threads may share an episode; it pickles as its path, and a
    forked or spawned process opens the file again.

    Attributes:
        path: the file.
        layout: "aloha_kit", or the other tool that wrote the file, see `docs/data_format.md`.
        length: T.
        frames: rows of the observations.
        cameras: names, in the recorder's order where the file records it, else alphabetically.
        depth_cameras: names of cameras with depth.
    """

    def __init__(
        self,
        path: str | Path,
        contract: Contract | None = None,
        jpeg_order: JpegOrder | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> None:
        self._given = contract
        super().__init__(path, jpeg_order, rename)

    @classmethod
    def open(
        cls,
        path: str | Path,
        contract: Contract | None = None,
        *,
        jpeg_order: JpegOrder | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> Episode:
        """Open an episode file; use it as a context manager or call `close`.

        Args:
            contract: for a file without one of its own, see `contract_file.given_contract`.
            jpeg_order: the order of red and blue in encoded images, for a file that does not record it.
            rename: cameras, {the name to read them by: the file's}; a file without such a camera is read as it is.

        Raises:
            EpisodeError: missing, damaged, or in no known layout; lists the contents.
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
        steps = plural(self.length, "step")
        return f"Episode({str(self.path)!r}, {self.layout}, {steps}, cameras {', '.join(self.cameras)})"

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def where(self) -> str:
        """Name of the episode in error messages: its path."""
        return str(self.path)

    @property
    def id(self) -> str:
        """Identity of the recording, the same in a copy: the id it was recorded under, or its size."""
        return str(self.attrs.get("id") or self.path.stat().st_size)

    @property
    def action(self) -> Array:
        """Commands of the arms (T, A); a base's are in `base_action`."""
        return self._vector("action")

    @property
    def base_action(self) -> Array | None:
        """Velocity commands of the base (T, 2), m/s and rad/s, or None."""
        return self._optional("base_action")

    @property
    def qpos(self) -> Array:
        """Joint positions (frames, S), rad, grippers normalised."""
        return self._vector("observations/qpos")

    @property
    def qvel(self) -> Array | None:
        """Joint velocities (frames, S), rad/s, or None, also where the file has an empty table in their place."""
        return self._optional("observations/qvel")

    @property
    def effort(self) -> Array | None:
        """Joint efforts (frames, S) as the driver reports them, or None, as with `qvel`."""
        return self._optional("observations/effort")

    @property
    def base_velocity(self) -> Array | None:
        """Measured velocity of the base (frames, 2), m/s and rad/s, or None."""
        return self._optional("observations/base_vel")

    @property
    def sensors(self) -> dict[str, Array]:
        """Further sensors, {sensor: (frames, D)}; the contract's `sensors` describe their entries."""
        return {name: self._array(f"observations/sensors/{name}") for name in self._sensor_names()}

    def _sensor_names(self) -> list[str]:
        with self._guard(), damage_reported(self.path):
            group = self._handle().get("observations/sensors")
            return [name for name, _ in hdf5.datasets(group)] if group is not None else []

    @property
    def vectors(self) -> Mapping[str, Array]:
        """Vectors of the observations, {feature: (frames, D)}, each read on access."""
        given = {name: f"observations/{name}" for name in VECTORS if self._has(f"observations/{name}")}
        sensors = {f"{SENSORS}{name}": f"observations/{SENSORS}{name}" for name in self._sensor_names()}
        return _Vectors(self._vector, given | sensors)

    @property
    def reward(self) -> Array | None:
        """Reward of each step (T,), or None."""
        return self._optional("reward")

    @property
    def stamps(self) -> dict[str, npt.NDArray[np.int64]]:
        """Capture times in ns, {stream: (frames,)}, `command` (T,); `NO_STAMP` where there was none.

        Empty in foreign files.
        """
        with self._guard(), damage_reported(self.path):
            group = self._handle().get("stamps", {})
            if not hasattr(group, "items"):
                raise EpisodeError(
                    "{path}: /stamps is a data set, expected a group with one for each stream", path=self.path
                )
            names = [name for name, _ in hdf5.datasets(group)] if group else []
        return {name: self._array(f"stamps/{name}") for name in names}

    @property
    def success(self) -> bool | None:
        """Success label of the episode; None if it was not judged."""
        value: bool | None = self.attrs.get("success")
        return value

    @property
    def describe(self) -> dict[str, Any]:
        """The environment's description when the episode was recorded; empty for foreign files."""
        text = self.attrs.get("describe")
        if not text or self.layout != OURS:
            return {}
        with damage_reported(self.path):
            return dict(json.loads(text))

    @property
    def action_offset(self) -> int:
        """Steps between an observation and its action: 1 where the observation was taken before the action that it is
        stored with, as by the real ALOHA's recorder; 0 in simulation and in our own files."""
        return int(self.layout in FAMILY and not self.attrs.get("sim", False))

    @property
    def rate_hz(self) -> float:
        """Control rate in Hz; the contract's where the file does not record it."""
        value = self.attrs.get("rate_hz")
        if value is None:
            return self.contract.rate_hz
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise EpisodeError(
                "{path}: rate_hz is {value}, expected a positive number", path=self.path, value=shown(value)
            )
        return float(value)

    @property
    def contract(self) -> Contract:
        """Contract of the episode: recorded, given (`contract.yaml` or a flag), or assumed (see `assumption`).

        Raises:
            ContractError: a contract that does not fit the file.
        """
        return self._settled()[0]

    @property
    def assumption(self) -> str:
        """Description of the assumed parts of the contract; empty where it is recorded or given."""
        return self._settled()[1]

    @property
    def assumed(self) -> Contract:
        """Contract suggested by the file's layout, regardless of a recorded or given one."""
        return derive_contract(self._layout, *self._widths(), self._sizes())

    def _settled(self) -> tuple[Contract, str]:
        if "contract" not in self._arrays:
            text = self.attrs.get("contract")
            recorded = None if text is None else _contract(text, self.path)
            state, action, base = self._widths()
            layout, widths = self._layout, (state, action + base)
            contract, assumed = settle(
                self.path,
                recorded,
                self._given,
                lambda: self.assumed,
                widths,
                layout.recorded,
                layout.units,
                adoptable=True,
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
    def moved(self) -> bool:
        """Whether vectors and images have other paths than in our files and the ALOHA family's."""
        return bool(self._layout.tables)


class _Vectors(Mapping[str, Array]):
    """Data sets of a file by other names, each read on access."""

    def __init__(self, read: Callable[[str], Array], places: Mapping[str, str]) -> None:
        self._read, self._places = read, places

    def __getitem__(self, name: str) -> Array:
        return self._read(self._places[name])

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _contract(text: str, path: Path) -> Contract:
    try:
        return Contract.from_json(text)
    except ContractError as error:
        raise ContractError("{path}: {error}", path=path, error=error) from error
