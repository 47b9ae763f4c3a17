"""Embodiment contract: the features of an observation and of the action, by name, role, shape and unit.

It is stored in every episode and every checkpoint. Deployment compares it with the robot's and names
each difference, because a policy that runs with swapped joints or cameras fails silently.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aloha_kit.core.errors import ContractError, reason, shown
from aloha_kit.core.features import ACTION, Feature, IMAGE, IMAGES, object_poses, STATE

_BASE_UNITS = {"base_linear": "m/s", "base_vx": "m/s", "base_vy": "m/s", "base_angular": "rad/s", "base_wz": "rad/s"}
_DTYPES = ("float32", "uint8", "uint16")
_POSES = "environment_state_names"  # JSON key of the object poses, from the time before features had roles


@dataclass(frozen=True)
class Contract:
    """Embodiment contract: the features that data, checkpoint and robot share, and the control rate.

    `features` lists all of them. Those that every robot has are given by their names and sizes; `sensors` are the
    others (true object poses, velocities, efforts, depth, force sensors), each described in full. Their names are
    those of `features.VECTORS`, `images_depth/<camera>` or `sensors/<name>`. `units` has the unit of an entry by its
    name, or that of all joints and of all grippers.

    Raises:
        ContractError: two features of one name.
    """

    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    cameras: dict[str, tuple[int, int]]  # {name: (height, width)} in pixels
    rate_hz: float
    units: dict[str, str] = field(default_factory=lambda: {"joints": "rad", "gripper": "0 closed, 1 open"})
    sensors: tuple[Feature, ...] = ()

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features] if self.sensors else []
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ContractError(f"a contract has two features of the name '{twice[0]}'")

    @property
    def features(self) -> tuple[Feature, ...]:
        """Every feature: state, action, images, sensors."""
        return (
            Feature.vector("qpos", STATE, self.state_names, self._units_of(self.state_names)),
            Feature.vector("action", ACTION, self.action_names, self._units_of(self.action_names)),
            *(Feature(f"{IMAGES}{camera}", IMAGE, (*size, 3), "uint8") for camera, size in self.cameras.items()),
            *self.sensors,
        )

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """Inputs of a network with this contract: every feature but the action."""
        return tuple(feature for feature in self.features if feature.role != ACTION)

    def only(self, *roles: str) -> Contract:
        """Contract without the features of other roles; state and action always stay."""
        return dataclasses.replace(
            self,
            cameras=self.cameras if IMAGE in roles else {},
            sensors=tuple(sensor for sensor in self.sensors if sensor.role in roles),
        )

    @property
    def privileged(self) -> tuple[Feature, ...]:
        """The privileged features: those that a policy reads only with `use_environment_state`."""
        return tuple(sensor for sensor in self.sensors if sensor.privileged)

    def without_privileged(self) -> Contract:
        """Contract without the privileged features."""
        return dataclasses.replace(self, sensors=tuple(sensor for sensor in self.sensors if not sensor.privileged))

    def _units_of(self, names: Sequence[str]) -> list[str]:
        joint, gripper = (self.units.get(key, "") for key in ("joints", "gripper"))
        known = {**_BASE_UNITS, **self.units}
        return [known.get(name, gripper if name.endswith("gripper") else joint) for name in names]

    def to_json(self) -> str:
        """One line of JSON, keys sorted. A contract is written as in version 0.1.0 wherever that could describe it."""
        values = dataclasses.asdict(self)
        poses = self.sensors[0].entries if self.sensors else ()
        if object_poses(poses) != self.sensors[:1]:
            poses = ()
        values[_POSES], sensors = poses, values.pop("sensors")[len(poses[:1]) :]
        return json.dumps(values | ({"sensors": sensors} if sensors else {}), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Inverse of `to_json`.

        Raises:
            ContractError: the text is not a contract; names the field that is missing or wrong.
        """
        try:
            raw = json.loads(text)
            return cls(
                state_names=_texts(raw["state_names"]),
                action_names=_texts(raw["action_names"]),
                cameras={name: (_pixels(h), _pixels(w)) for name, (h, w) in raw["cameras"].items()},
                rate_hz=_rate(raw["rate_hz"]),
                units=dict(zip(raw["units"], _texts(list(raw["units"].values())), strict=True)),
                sensors=(
                    *object_poses(_texts(raw.get(_POSES, ()))),
                    *(_feature(item) for item in raw.get("sensors", ())),
                ),
            )
        except KeyError as error:
            raise ContractError(f"not an embodiment contract, it lacks {error}: {shown(text)}") from error
        except (AttributeError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise ContractError(f"not an embodiment contract ({reason(error)}): {shown(text)}") from error

    def differences(self, other: Contract) -> list[str]:
        """Differences of `other` (a robot's contract) from this one (a policy's), one line each.

        Cameras and sensors that only `other` has, and optional ones that it lacks, are not listed.
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
        there = {feature.name: feature for feature in other.sensors}
        for sensor in self.sensors:
            if not sensor.optional:
                found += _sensor_differences(sensor, there)
        return found

    def named_sensors(self, names: Sequence[str]) -> tuple[Feature, ...]:
        """Sensors that a policy lists, in the order of `names`; none of them is optional any more.

        Raises:
            ContractError: no such vector, or a privileged one; lists those that there are.
        """
        there = {s.name: s for s in self.sensors if len(s.shape) == 1 and not s.privileged}
        if missing := [name for name in names if name not in there]:
            raise ContractError(
                f"the policy reads '{missing[0]}', which is not there; sensors: {', '.join(there) or '(none)'}"
            )
        return tuple(dataclasses.replace(there[name], optional=False) for name in names)

    def renamed(self, names: Mapping[str, str]) -> Contract:
        """Contract with renamed cameras, {this contract's: the new one}; their order stays.

        Raises:
            ContractError: no such camera, or one name for two cameras.
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
        """Require that there are no `differences`.

        Raises:
            ContractError: lists every difference; `mine` and `theirs` name the two sides.
        """
        found = self.differences(other)
        if found:
            lines = "\n  ".join(found)
            raise ContractError(f"{mine} does not fit {theirs}:\n  {lines}")


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
