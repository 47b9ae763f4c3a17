"""ROS 2 messages of an episode's rows, as MCAP files hold them, and back."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError
from aloha_kit.sync.sensors import entry_value, known_entries, UNITS
from aloha_kit.sync.topics import COMPRESSED_IMAGE, IMAGE, JOINT_STATE

TWIST, STAMPS, REWARD = "geometry_msgs/TwistStamped", "aloha_kit_msgs/Stamps", "std_msgs/Float32"
BASE_ENTRIES = ("twist.linear.x", "twist.angular.z")
METADATA = "aloha_kit"
"""Name of the metadata record, and the beginning of a file's library."""

_STAMPS_DEFINITION = "string[] streams\nint64[] nanoseconds\n"
_BASE, _MESSAGE = 1, 2  # kinds of fields in rosbags' definitions; the others are arrays


def topic_of(feature: str) -> str:
    """Topic of a feature: `/images/top`, `/sensors/wrist`; joints are in `/joint_states`."""
    return "/joint_states" if feature == "qpos" else f"/{feature}"


def vector_type(feature: str, entries: Sequence[str]) -> str:
    """Type of a vector's messages: a base's velocity, the type whose fields a sensor's entries are, else JointState."""
    if feature in ("base_vel", "base_action") and len(entries) == len(BASE_ENTRIES):
        return TWIST
    stamped = (kind for kind in UNITS if "header" in (messages().fields(kind) or {}))
    return next((kind for kind in stamped if known_entries(kind, messages().fields) == tuple(entries)), JOINT_STATE)


class MessageTypes:
    """ROS 2's common message types, and `aloha_kit_msgs/Stamps`: made, serialised and read.

    Raises:
        ConfigError: rosbags is not installed.
    """

    def __init__(self) -> None:
        try:
            from rosbags.typesys import get_types_from_msg, get_typestore, Stores
        except ModuleNotFoundError as error:
            raise ConfigError("MCAP needs rosbags and mcap: pip install 'aloha_kit[bags]'") from error
        self._store: Any = get_typestore(Stores.ROS2_HUMBLE)
        self._store.register(get_types_from_msg(_STAMPS_DEFINITION, _full(STAMPS)))

    def definition(self, kind: str) -> bytes:
        """Schema of a type in the encoding ros2msg."""
        text, _ = self._store.generate_msgdef(_full(kind), ros_version=2)
        return str(text).encode()

    def serialise(self, kind: str, message: Any) -> bytes:
        """CDR of a message."""
        return bytes(self._store.serialize_cdr(message, _full(kind)))

    def read(self, kind: str, data: bytes) -> Any:
        """Message of its CDR."""
        return self._store.deserialize_cdr(data, _full(kind))

    def fields(self, kind: str) -> Mapping[str, Any] | None:
        """Fields of a type, as `sync.sensors.Fields`; None where it is not known."""
        if _full(kind) not in self._store.fielddefs:
            return None
        return {
            name: None if node == _BASE else self.fields(detail) if node == _MESSAGE else {}
            for name, (node, detail) in self._store.fielddefs[_full(kind)][1]
        }

    def make(self, kind: str, stamp_ns: int | None = None, **fields: Any) -> Any:
        """Message of a type with a stamp; what is not given is 0 or empty. `a__b` is the field b of the field a."""
        message = self._default(_full(kind))
        if stamp_ns is not None:
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        for path, value in fields.items():
            *outer, name = path.split("__")
            setattr(functools.reduce(getattr, outer, message), name, value)
        return message

    def vector(self, kind: str, entries: Sequence[str], values: npt.NDArray[Any], stamp_ns: int) -> Any:
        """Message of one row (D,) of a vector."""
        numbers = [float(value) for value in values]
        if kind == JOINT_STATE:
            return self.make(kind, stamp_ns, name=list(entries), position=np.array(numbers))
        paths = BASE_ENTRIES if kind == TWIST and len(entries) == len(BASE_ENTRIES) else entries
        return self.make(kind, stamp_ns, **{path.replace(".", "__"): n for path, n in zip(paths, numbers, strict=True)})

    def jpeg(self, data: bytes, stamp_ns: int, frame_id: str) -> Any:
        """sensor_msgs/CompressedImage of a JPEG."""
        held = np.frombuffer(data, np.uint8)
        return self.make(COMPRESSED_IMAGE, stamp_ns, header__frame_id=frame_id, format="jpeg", data=held)

    def depth(self, rows: npt.NDArray[np.uint16], stamp_ns: int, frame_id: str) -> Any:
        """sensor_msgs/Image of depth in mm."""
        return self._image(rows.astype("<u2"), "16UC1", stamp_ns, frame_id)

    def pixels(self, image: npt.NDArray[np.uint8], stamp_ns: int, frame_id: str) -> Any:
        """sensor_msgs/Image of RGB pixels."""
        return self._image(image, "rgb8", stamp_ns, frame_id)

    def _image(self, array: npt.NDArray[Any], encoding: str, stamp_ns: int, frame_id: str) -> Any:
        height, width = array.shape[:2]
        return self.make(
            IMAGE, stamp_ns, header__frame_id=frame_id, height=height, width=width, encoding=encoding,
            step=array.nbytes // height, data=np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8),
        )  # fmt: skip

    def _default(self, kind: str) -> Any:
        values: dict[str, Any] = {}
        for name, (node, detail) in self._store.fielddefs[kind][1]:
            if node == _MESSAGE:
                values[name] = self._default(detail)
            elif node == _BASE:
                values[name] = "" if detail[0] == "string" else False if detail[0] == "bool" else 0
            else:
                (inner, element), length = detail[0], detail[1] or 0
                numeric = inner == _BASE and element[0] != "string"
                values[name] = np.zeros(length, element[0] if element[0] != "byte" else "uint8") if numeric else []
        return self._store.types[kind](**values)


@functools.cache
def messages() -> MessageTypes:
    """The message types, made once."""
    return MessageTypes()


def vector_values(kind: str, entries: Sequence[str], message: Any) -> npt.NDArray[np.float32]:
    """(D,) of a vector's message; inverse of `MessageTypes.vector`."""
    if kind == JOINT_STATE:
        return np.asarray(message.position, np.float32)
    paths = BASE_ENTRIES if kind == TWIST and len(entries) == len(BASE_ENTRIES) else entries
    return np.array([entry_value(kind, message, path) for path in paths], np.float32)


def _full(kind: str) -> str:
    return kind if "/msg/" in kind else kind.replace("/", "/msg/", 1)
