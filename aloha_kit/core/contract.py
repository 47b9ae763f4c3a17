"""The embodiment contract: what a vector's entries and a picture's pixels mean.

It travels in every episode and every checkpoint. Deployment compares it with the rig's and names
each difference, because a policy that runs with swapped joints or cameras fails silently.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aloha_kit.core.errors import ContractError, reason, shown


@dataclass(frozen=True)
class Contract:
    """Names, units, sizes and rate that data, checkpoint and rig have to share."""

    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    cameras: dict[str, tuple[int, int]]  # {name: (height, width)} in pixels
    rate_hz: float
    units: dict[str, str] = field(default_factory=lambda: {"joints": "rad", "gripper": "0 closed, 1 open"})
    environment_state_names: tuple[str, ...] = ()

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Inverse of `to_json`.

        Raises:
            ContractError: the text is not a contract; says which field is missing or unknown.
        """
        try:
            raw = json.loads(text)
            return cls(
                state_names=_texts(raw["state_names"]),
                action_names=_texts(raw["action_names"]),
                cameras={name: (_pixels(h), _pixels(w)) for name, (h, w) in raw["cameras"].items()},
                rate_hz=_rate(raw["rate_hz"]),
                units=dict(zip(raw["units"], _texts(list(raw["units"].values())), strict=True)),
                environment_state_names=_texts(raw.get("environment_state_names", ())),
            )
        except KeyError as error:
            raise ContractError(f"not an embodiment contract, it lacks {error}: {shown(text)}") from error
        except (AttributeError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise ContractError(f"not an embodiment contract ({reason(error)}): {shown(text)}") from error

    def differences(self, other: Contract) -> list[str]:
        """How `other` (the rig) fails to give what this contract (the policy) needs; empty if it does.

        Cameras and environment state that the rig has beyond the policy's needs are no difference.
        """
        found: list[str] = []
        for label, mine, theirs in (
            ("state", self.state_names, other.state_names),
            ("action", self.action_names, other.action_names),
        ):
            if len(mine) != len(theirs):
                found.append(f"{label}: {len(mine)} entries against {len(theirs)}")
            found += [
                f"{label}[{i}]: '{a}' against '{b}'"
                for i, (a, b) in enumerate(zip(mine, theirs, strict=False))
                if a != b
            ]
        for name, size in self.cameras.items():
            if name not in other.cameras:
                found.append(f"camera '{name}' is missing; there are: {', '.join(other.cameras) or '(none)'}")
            elif other.cameras[name] != size:
                found.append(f"camera '{name}': {size} (height, width) against {other.cameras[name]}")
        if self.rate_hz != other.rate_hz:
            found.append(f"rate: {self.rate_hz:g} Hz against {other.rate_hz:g} Hz")
        found += [
            f"unit of {key}: '{unit}' against '{other.units.get(key, '(none)')}'"
            for key, unit in self.units.items()
            if other.units.get(key) != unit
        ]
        missing = [n for n in self.environment_state_names if n not in other.environment_state_names]
        if missing:
            found.append(f"environment state lacks: {', '.join(missing)}")
        return found

    def renamed(self, names: Mapping[str, str]) -> Contract:
        """The same with other names of cameras, {this contract's: the new one}; their order stays.

        Raises:
            ContractError: a name that is no camera here, or one for two cameras.
        """
        there = ", ".join(self.cameras) or "(none)"
        for name, new in names.items():
            if name not in self.cameras:
                hint = f"; did you mean {new}={name}?" if new in self.cameras else ""
                raise ContractError(f"cannot rename camera '{name}' to '{new}': there are: {there}{hint}")
        cameras = {names.get(name, name): size for name, size in self.cameras.items()}
        if len(cameras) != len(self.cameras):
            raise ContractError(f"cannot rename {dict(names)}: two cameras of {there} would have one name")
        return dataclasses.replace(self, cameras=cameras)

    def require(self, other: Contract, *, mine: str, theirs: str) -> None:
        """Raise `ContractError` that lists every difference, naming the two sides in words."""
        found = self.differences(other)
        if found:
            lines = "\n  ".join(found)
            raise ContractError(f"{mine} does not fit {theirs}:\n  {lines}")


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{shown(values)} are no names")
    return tuple(values)


def _pixels(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 16:
        raise ValueError(f"{shown(value)} is no number of pixels")
    return value


def _rate(value: Any) -> float:
    if isinstance(value, (str, bool)) or not 0 < float(value) < math.inf:
        raise ValueError(f"{shown(value)} is no rate in Hz")
    return float(value)
