"""Sensors of a rig: numbers of any ROS message as a named feature of an observation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from aloha_kit.config import RigConfig
from aloha_kit.config.rig import SensorConfig
from aloha_kit.core import ConfigError, did_you_mean, Feature, StreamError
from aloha_kit.core.lang import Message
from aloha_kit.sync.readings import require_finite, Vector

Fields: TypeAlias = "Mapping[str, Fields | None]"
"""Fields of a message type: {name: the fields of a message in it, {} of an array, None of a number or text}."""
KnownTypes: TypeAlias = Callable[[str], "Fields | None"]
"""From a message type (sensor_msgs/Imu) to its fields; None where it is not known."""

UNITS = {
    "sensor_msgs/Imu": {"orientation": "1", "angular_velocity": "rad/s", "linear_acceleration": "m/s^2"},
    "geometry_msgs/WrenchStamped": {"wrench.force": "N", "wrench.torque": "N m"},
    "geometry_msgs/PoseStamped": {"pose.position": "m", "pose.orientation": "1"},
    "geometry_msgs/TwistStamped": {"twist.linear": "m/s", "twist.angular": "rad/s"},
    "geometry_msgs/PointStamped": {"point": "m"},
    "geometry_msgs/Vector3Stamped": {"vector": "unknown"},
    "sensor_msgs/Range": {"range": "m"},
    "sensor_msgs/Temperature": {"temperature": "°C"},
    "sensor_msgs/FluidPressure": {"fluid_pressure": "Pa"},
    "std_msgs/Float32": {"data": "unknown"},
    "std_msgs/Float64": {"data": "unknown"},
}
"""{message type: {field: its unit}}: the fields read where a rig's file lists no entries, every number in them."""

_ARRAY = re.compile(r"(.+)\[(\d+)\]")


@dataclass(frozen=True)
class Sensor:
    """One sensor: `read` extracts its numbers from a message.

    Attributes:
        entries: paths of the numbers in the message; `lengths`: {array: its required length}.
    """

    name: str
    role: str
    entries: tuple[str, ...]
    units: tuple[str, ...]
    lengths: dict[str, int]

    def feature(self) -> Feature:
        """Feature of the sensor in a contract."""
        return Feature.vector(f"sensors/{self.name}", self.role, self.entries, self.units)

    def read(self, message: Any) -> Vector:
        """Sensor values (D,) from a message.

        Raises:
            ReadingError: a value is not finite.
            StreamError: the message lacks an entry, or an array has another length.
        """
        who = f"sensor '{self.name}'"
        for array, expected in self.lengths.items():
            if (given := len(entry_value(who, message, array))) != expected:
                raise StreamError(
                    "{who}: '{array}' of its messages holds {given} values, expected {expected}",
                    who=who,
                    array=array,
                    given=given,
                    expected=expected,
                )
        try:
            values = np.array([float(entry_value(who, message, entry)) for entry in self.entries], np.float64)
        except (TypeError, ValueError) as error:
            raise StreamError("{who}: an entry of its messages is no number ({error})", who=who, error=error) from error
        require_finite(who, "value", self.entries, values)
        return values.astype(np.float32)


def rig_sensors(rig: RigConfig, known_types: KnownTypes) -> dict[str, Sensor]:
    """The sensors of a rig, by name.

    Raises:
        ConfigError: a message type that is not known, an entry it lacks, or a type whose entries must be listed.
    """
    return {name: _sensor(name, config, known_types(config.type)) for name, config in rig.sensors.items()}


def known_entries(kind: str, known_types: KnownTypes) -> tuple[str, ...]:
    """Entries of a type in `UNITS`, as they are read where a rig's file lists none; empty where it is not known."""
    fields = known_types(kind)
    return () if fields is None else tuple(entry for name in UNITS.get(kind, {}) for entry in _inside(fields, name))


def _sensor(name: str, config: SensorConfig, fields: Fields | None) -> Sensor:
    if fields is None:
        raise ConfigError(
            "sensor '{name}': the message type '{type}' is not installed here. Source the workspace that has "
            "it. {known}",
            name=name,
            type=config.type,
            known=did_you_mean(config.type, UNITS),
        )
    units = [(entry, unit) for field, unit in UNITS.get(config.type, {}).items() for entry in _inside(fields, field)]
    known = dict(units)
    if not (config.entries or known):
        raise ConfigError(
            "sensor '{name}': entries of a {type} have to be listed, such as [data[4]] for four numbers of "
            "an array, [position.finger] for a joint by its name. Its fields: {fields}",
            name=name,
            type=config.type,
            fields=", ".join(fields),
        )
    lengths: dict[str, int] = {}
    entries: list[str] = []
    for entry in config.entries or known:
        array = _ARRAY.fullmatch(entry)
        if array:
            lengths[array[1]] = int(array[2])
        entries += [f"{array[1]}.{i}" for i in range(int(array[2]))] if array else [entry]
        _require_field(name, config.type, fields, array[1] if array else entry)
    if len(set(entries)) < len(entries) or not entries:
        raise ConfigError(
            "sensor '{name}': each entry once, and at least one; given {entries}",
            name=name,
            entries=", ".join(config.entries),
        )
    given = config.units or tuple(known.get(entry, "unknown") for entry in entries)
    if len(given) not in (1, len(entries)):
        raise ConfigError(
            "sensor '{name}': {count} units for {entries} entries; one each, or one for all",
            name=name,
            count=len(given),
            entries=len(entries),
        )
    each = given if len(given) == len(entries) else given * len(entries)
    role = config.role or config.type.partition("/")[2].removesuffix("Stamped").lower()
    return Sensor(name, role, tuple(entries), tuple(each), lengths)


def _inside(fields: Fields, field: str) -> list[str]:
    """Paths of the numbers in a field: itself, or those of its x, y, z, w."""
    value: Fields | None = fields
    for part in field.split("."):
        value = (value or {})[part]
    return [f"{field}.{part}" for part in value] if value else [field]


def _require_field(name: str, kind: str, fields: Fields, path: str) -> None:
    """Raise ConfigError where messages of this type have no such entry; indices in arrays are not checked."""
    value: Fields | None = fields
    for part in path.split("."):
        if value is not None and not value:
            return
        if part not in (value or {}):
            raise ConfigError(
                "sensor '{name}': a {kind} has no '{path}'. {known}",
                name=name,
                kind=kind,
                path=path,
                known=did_you_mean(part, value or {}),
            )
        value = (value or {})[part]


def entry_value(who: str, message: Any, path: str) -> Any:
    """Value at a path in a message; each part is a field, an index in an array, or a joint's name in a JointState."""
    value = message
    for part in path.split("."):
        if not isinstance(value, (list, tuple, bytes, np.ndarray)):
            value = getattr(value, part)
            continue
        names = list(getattr(message, "name", ()))
        index = int(part) if part.isdigit() else names.index(part) if part in names else -1
        if not 0 <= index < len(value):
            there = (
                Message("it names: {names}", names=", ".join(names))
                if names
                else Message("it holds {n} values", n=len(value))
            )
            raise StreamError("{who}: its message has no '{path}'; {there}", who=who, path=path, there=there)
        value = value[index]
    return value
