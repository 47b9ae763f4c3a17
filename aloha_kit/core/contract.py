"""The embodiment contract: the features of an observation and of the action, by name, role, shape and unit.

It travels in every episode and every checkpoint. Deployment compares it with the rig's and names
each difference, because a policy that runs with swapped joints or cameras fails silently.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aloha_kit.core.errors import ContractError, reason, shown

STATE, ACTION, IMAGE, DEPTH, PRIVILEGED = "state", "action", "image", "depth", "privileged"
ROLES = (STATE, ACTION, IMAGE, DEPTH, PRIVILEGED)
"""Roles of features with a place of their own in a contract. Any other word is the role of a sensor."""

IMAGES, SENSORS = "images/", "sensors/"  # before a camera's name, before a sensor's
VECTORS = ("qpos", "qvel", "effort", "base_vel", "environment_state")
"""Names of an observation's vectors that are no sensors of a rig's own, in the order of files and messages."""

_BASE_UNITS = {"base_linear": "m/s", "base_vx": "m/s", "base_vy": "m/s", "base_angular": "rad/s", "base_wz": "rad/s"}
_DTYPES = ("float32", "uint8", "uint16")


@dataclass(frozen=True)
class Feature:
    """One stream of an observation, or the action.

    Attributes:
        name: where it is in an observation and in an episode: `qpos`, `images/top`, `effort`, `sensors/left_wrench`.
        role: `STATE`, `ACTION`, `IMAGE`, `DEPTH`, `PRIVILEGED`, or any other word: a sensor's role.
        shape: of one sample.
        dtype: numpy's name of it.
        entries: of a vector, their names in order.
        units: of each entry; of an image or depth one for all pixels.
        rate_hz: of its samples, where it is not the contract's.
        optional: a device may leave it out, so that a contract with it fits one without it.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    entries: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    rate_hz: float | None = None
    optional: bool = False

    @classmethod
    def vector(
        cls, name: str, role: str, entries: Sequence[str], units: Sequence[str] | str, *, optional: bool = False
    ) -> Feature:
        """A float32 vector of named entries; `units` is one for all of them, or one each."""
        each = (units,) * len(entries) if isinstance(units, str) else tuple(units)
        return cls(name, role, (len(entries),), entries=tuple(entries), units=each, optional=optional)

    def __post_init__(self) -> None:
        if self.entries and self.shape != (len(self.entries),):
            raise ContractError(f"'{self.name}' names {len(self.entries)} entries and has shape {self.shape}")
        if self.entries and self.units and len(self.units) != len(self.entries):
            raise ContractError(f"'{self.name}' has {len(self.entries)} entries and {len(self.units)} units")


@dataclass(frozen=True)
class Contract:
    """The features that data, checkpoint and rig have to share, and the control rate.

    `features` lists all of them. Those that every rig has are given by their names and sizes; `sensors` are the
    others (velocities, efforts, depth, force sensors), each described in full. Their names are `qvel`, `effort`,
    `base_vel`, `images_depth/<camera>` or `sensors/<name>`.

    Raises:
        ContractError: two features of one name.
    """

    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    cameras: dict[str, tuple[int, int]]  # {name: (height, width)} in pixels
    rate_hz: float
    units: dict[str, str] = field(default_factory=lambda: {"joints": "rad", "gripper": "0 closed, 1 open"})
    environment_state_names: tuple[str, ...] = ()
    sensors: tuple[Feature, ...] = ()

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features] if self.sensors else []
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ContractError(f"a contract has two features of the name '{twice[0]}'")

    @property
    def features(self) -> tuple[Feature, ...]:
        """Every feature: state, action, images, privileged state, sensors."""
        found = [
            Feature.vector("qpos", STATE, self.state_names, self._units_of(self.state_names)),
            Feature.vector("action", ACTION, self.action_names, self._units_of(self.action_names)),
            *(Feature(f"{IMAGES}{camera}", IMAGE, (*size, 3), "uint8") for camera, size in self.cameras.items()),
        ]
        if names := self.environment_state_names:
            units = ["m" if name.endswith(("_x", "_y", "_z")) else "1" for name in names]
            found.append(Feature.vector("environment_state", PRIVILEGED, names, units))
        return (*found, *self.sensors)

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """What a network of this contract reads: every feature but the action."""
        return tuple(feature for feature in self.features if feature.role != ACTION)

    def only(self, *roles: str) -> Contract:
        """The same without the features of other roles; state and action always stay."""
        return self._having(lambda role: role in roles)

    def without(self, *roles: str) -> Contract:
        """The same without the features of some roles; state and action always stay."""
        return self._having(lambda role: role not in roles)

    def _having(self, wanted: Callable[[str], bool]) -> Contract:
        return dataclasses.replace(
            self,
            cameras=self.cameras if wanted(IMAGE) else {},
            environment_state_names=self.environment_state_names if wanted(PRIVILEGED) else (),
            sensors=tuple(sensor for sensor in self.sensors if wanted(sensor.role)),
        )

    def _units_of(self, names: Sequence[str]) -> list[str]:
        joint, gripper = (self.units.get(key, "") for key in ("joints", "gripper"))
        return [_BASE_UNITS.get(name, gripper if name.endswith("gripper") else joint) for name in names]

    def to_json(self) -> str:
        """One line of JSON, keys sorted. A contract without sensors reads as it did before there were any."""
        values = dataclasses.asdict(self)
        if not self.sensors:
            del values["sensors"]
        return json.dumps(values, sort_keys=True)

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
                sensors=tuple(_feature(item) for item in raw.get("sensors", ())),
            )
        except KeyError as error:
            raise ContractError(f"not an embodiment contract, it lacks {error}: {shown(text)}") from error
        except (AttributeError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise ContractError(f"not an embodiment contract ({reason(error)}): {shown(text)}") from error

    def differences(self, other: Contract) -> list[str]:
        """How `other` (the rig) fails to give what this contract (the policy) needs; empty if it does.

        What the rig has beyond the policy's needs, cameras for example, is no difference; nor is an optional feature
        that it lacks.
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
        there = {feature.name: feature for feature in other.sensors}
        for sensor in self.sensors:
            if not sensor.optional:
                found += _sensor_differences(sensor, there)
        return found

    def named_sensors(self, names: Sequence[str]) -> tuple[Feature, ...]:
        """Those of the sensors that are read, in the order of `names`; none of them is optional any more.

        Raises:
            ContractError: there is no such vector; says which there are.
        """
        there = {sensor.name: sensor for sensor in self.sensors if len(sensor.shape) == 1}
        if missing := [name for name in names if name not in there]:
            raise ContractError(
                f"the policy reads '{missing[0]}', which is not there; sensors: {', '.join(there) or '(none)'}"
            )
        return tuple(dataclasses.replace(there[name], optional=False) for name in names)

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
        depth = {f"images_depth/{name}": f"images_depth/{new}" for name, new in names.items()}
        sensors = tuple(dataclasses.replace(s, name=depth.get(s.name, s.name)) for s in self.sensors)
        return dataclasses.replace(self, cameras=cameras, sensors=sensors)

    def require(self, other: Contract, *, mine: str, theirs: str) -> None:
        """Raise `ContractError` that lists every difference, naming the two sides in words."""
        found = self.differences(other)
        if found:
            lines = "\n  ".join(found)
            raise ContractError(f"{mine} does not fit {theirs}:\n  {lines}")


def joint_sensors(names: Sequence[str], effort: Sequence[str] | str) -> tuple[Feature, ...]:
    """`qvel` and `effort` of joints: optional, since a driver may leave them out; `effort` is its unit, or one each."""
    speeds = ["1/s" if name.endswith("gripper") else "rad/s" for name in names]
    return (
        Feature.vector("qvel", "velocity", names, speeds, optional=True),
        Feature.vector("effort", "effort", names, effort, optional=True),
    )


def _sensor_differences(wanted: Feature, there: Mapping[str, Feature]) -> list[str]:
    found = there.get(wanted.name)
    if found is None:
        return [f"{wanted.role} '{wanted.name}' is missing; there are: {', '.join(there) or '(none)'}"]
    return [
        f"{what} of '{wanted.name}': {mine} against {theirs}"
        for what, mine, theirs in (
            ("shape", wanted.shape, found.shape),
            ("entries", wanted.entries, found.entries),
            ("units", wanted.units, found.units),
        )
        if mine != theirs
    ]


def _feature(raw: Any) -> Feature:
    shape = tuple(_pixels(size) for size in raw["shape"])
    if raw.get("dtype", "float32") not in _DTYPES:
        raise ValueError(f"{shown(raw['dtype'])} is no type of a feature; there are: {', '.join(_DTYPES)}")
    rate, (name, role) = raw.get("rate_hz"), _texts([raw["name"], raw["role"]])
    return Feature(
        name,
        role,
        shape,
        raw.get("dtype", "float32"),
        _texts(raw.get("entries", ())),
        _texts(raw.get("units", ())),
        None if rate is None else _rate(rate),
        raw.get("optional") is True,
    )


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
