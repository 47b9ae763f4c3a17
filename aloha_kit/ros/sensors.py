"""Sensors of a rig: numbers of any ROS message as a named feature of an observation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import genpy.message
import numpy as np
import numpy.typing as npt

from aloha_kit.config.rig import RigConfig, SensorConfig
from aloha_kit.core import ConfigError, did_you_mean, Feature, StreamError
from aloha_kit.ros.readings import require_finite

Vector = npt.NDArray[np.float32]

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
    """One sensor: `message` is the class of its messages, `read` extracts its numbers from one.

    Attributes:
        entries: paths of the numbers in the message; `lengths`: {array: its required length}.
    """

    name: str
    message: Any
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
            if (given := len(_find(who, message, array))) != expected:
                raise StreamError(f"{who}: '{array}' of its messages holds {given} values, expected {expected}")
        try:
            values = np.array([float(_find(who, message, entry)) for entry in self.entries], np.float64)
        except (TypeError, ValueError) as error:
            raise StreamError(f"{who}: an entry of its messages is no number ({error})") from error
        require_finite(who, "value", self.entries, values)
        return values.astype(np.float32)


def rig_sensors(rig: RigConfig) -> dict[str, Sensor]:
    """The sensors of a rig, by name.

    Raises:
        ConfigError: a message type that is not installed, an entry it lacks, or a type whose entries must be listed.
    """
    return {name: _sensor(name, config) for name, config in rig.sensors.items()}


def _sensor(name: str, config: SensorConfig) -> Sensor:
    message = genpy.message.get_message_class(config.type)
    if message is None:
        raise ConfigError(
            f"sensor '{name}': the message type '{config.type}' is not installed here. "
            f"Source the workspace that has it. {did_you_mean(config.type, UNITS)}"
        )
    units = [(entry, unit) for field, unit in UNITS.get(config.type, {}).items() for entry in _inside(message(), field)]
    known = dict(units)
    if not (config.entries or known):
        raise ConfigError(
            f"sensor '{name}': entries of a {config.type} have to be listed, such as [data[4]] for four numbers of an "
            f"array, [position.finger] for a joint by its name. Its fields: {', '.join(message.__slots__)}"
        )
    lengths: dict[str, int] = {}
    entries: list[str] = []
    for entry in config.entries or known:
        array = _ARRAY.fullmatch(entry)
        if array:
            lengths[array[1]] = int(array[2])
        entries += [f"{array[1]}.{i}" for i in range(int(array[2]))] if array else [entry]
        _require_field(name, config.type, message(), array[1] if array else entry)
    if len(set(entries)) < len(entries) or not entries:
        raise ConfigError(f"sensor '{name}': each entry once, and at least one; given {', '.join(config.entries)}")
    given = config.units or tuple(known.get(entry, "unknown") for entry in entries)
    if len(given) not in (1, len(entries)):
        raise ConfigError(f"sensor '{name}': {len(given)} units for {len(entries)} entries; one each, or one for all")
    each = given if len(given) == len(entries) else given * len(entries)
    role = config.role or config.type.partition("/")[2].removesuffix("Stamped").lower()
    return Sensor(name, message, role, tuple(entries), tuple(each), lengths)


def _inside(value: Any, field: str) -> list[str]:
    """Paths of the numbers in a field: itself, or those of its x, y, z, w."""
    for part in field.split("."):
        value = getattr(value, part)
    return [f"{field}.{part}" for part in value.__slots__] if hasattr(value, "__slots__") else [field]


def _require_field(name: str, kind: str, value: Any, path: str) -> None:
    """Raise ConfigError where messages of this type have no such entry; indices in arrays are not checked."""
    for part in path.split("."):
        if isinstance(value, (list, tuple, bytes)):
            return
        if part not in getattr(value, "__slots__", ()):
            known = getattr(value, "__slots__", ())
            raise ConfigError(f"sensor '{name}': a {kind} has no '{path}'. {did_you_mean(part, known)}")
        value = getattr(value, part)


def _find(who: str, message: Any, path: str) -> Any:
    """Value at a path; each part is a field, an index in an array, or a joint's name in a JointState."""
    value = message
    for part in path.split("."):
        if not isinstance(value, (list, tuple, bytes)):
            value = getattr(value, part)
            continue
        names = list(getattr(message, "name", ()))
        index = int(part) if part.isdigit() else names.index(part) if part in names else -1
        if not 0 <= index < len(value):
            there = f"it names: {', '.join(names)}" if names else f"it holds {len(value)} values"
            raise StreamError(f"{who}: its message has no '{path}'; {there}")
        value = value[index]
    return value
