"""Recorded ROS messages of one bag: ROS 1, rosbag2 with sqlite3 or MCAP, read without ROS."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from aloha_kit.core import EpisodeError
from aloha_kit.core.errors import reason
from aloha_kit.sync.sensors import Fields

_IMAGES = ("sensor_msgs/Image", "sensor_msgs/CompressedImage")


class Bag:
    """One bag, open for reading; a context manager.

    Attributes:
        topics: {topic: type of its messages, sensor_msgs/Imu}; only topics with messages.

    Raises:
        EpisodeError: rosbags is not installed, or the bag is not there, not closed, damaged, cut off or not indexed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        active = path.with_name(f"{path.name.removesuffix('.active')}.active")
        if active.exists() and (active == path or not path.exists()):
            raise EpisodeError(
                "{path} is not closed: rosbag records it, or was killed. Once it has ended, "
                "run `rosbag reindex {name}` and remove .active from the name",
                path=active,
                name=active.name,
            )
        if not path.exists():
            raise EpisodeError("no bag '{path}'", path=path)
        try:
            from rosbags.highlevel import AnyReader
            from rosbags.typesys import get_typestore, Stores
        except ModuleNotFoundError as error:
            raise EpisodeError("reading {path} needs rosbags: pip install 'aloha_kit[bags]'", path=path) from error
        try:
            # sqlite3 bags of ROS 2 before Iron do not define their types: those of the common packages are known
            self._reader: Any = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
            self._reader.open()
        except Exception as error:  # the library's own errors, and those of what it is built on
            raise self._damaged(error) from error
        connections = [each for each in self._reader.connections if each.msgcount]
        self.topics = {each.topic: each.msgtype.replace("/msg/", "/") for each in connections}

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def fields(self, kind: str) -> Fields | None:
        """Fields of a message type; None where the bag does not define it. For `rig_sensors`."""
        return self._fields(kind.replace("/", "/msg/", 1) if "/msg/" not in kind else kind)

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        """Messages of some topics as (topic, arrival in ns, message), in order of arrival.

        Raises:
            EpisodeError: the bag is damaged, or a message does not fit its type.
        """
        chosen = [each for each in self._reader.connections if each.topic in topics]
        if not chosen:
            return
        try:
            for connection, arrival_ns, raw in self._reader.messages(connections=chosen):
                message = self._reader.deserialize(raw, connection.msgtype)
                if self.topics[connection.topic] in _IMAGES:
                    message.data = message.data.tobytes()
                yield connection.topic, arrival_ns, message
        except GeneratorExit:
            raise
        except Exception as error:
            raise self._damaged(error) from error

    def first(self, topic: str) -> Any:
        """First message of a topic."""
        return next(self.messages([topic]))[2]

    def _fields(self, kind: str) -> Fields | None:
        if kind not in self._reader.typestore.fielddefs:
            return None
        return {name: self._field(described) for name, described in self._reader.typestore.fielddefs[kind][1]}

    def _field(self, described: tuple[int, Any]) -> Fields | None:
        """Fields of a message's field: a number or text (1), a message (2), or an array (3 and 4)."""
        node, detail = described
        return None if node == 1 else self._fields(cast(str, detail)) if node == 2 else {}

    def _damaged(self, error: Exception) -> EpisodeError:
        return EpisodeError("{path} cannot be read as a bag: {error}", path=self.path, error=reason(error))
