"""MCAP export: decoded by the mcap packages from the schemas in the file, by rosbags, and read back as it was."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core.exporter import ExportRecord, WriteOptions
from aloha_kit.formats import format_of, open_source
from aloha_kit.formats.mcap_export import McapExporter
from aloha_kit.storage import Episode
from aloha_kit.testing.exporters import check_exporter
from aloha_kit.testing.sources import check_source
from tests.commands import failure
from tests.formats import bags
from tests.synthetic import write_dataset

CAMERAS = {"cam_high": (20, 28), "cam_low": (16, 16)}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported session with a base, a wrench, JPEG and depth; and its export `mcap`, read back as `again`."""
    folder = tmp_path_factory.mktemp("mcap")
    bags.write_ros1(folder / "session.bag", bags.session(1.0))
    convert([str(folder / "session.bag"), str(folder / "episodes"), "--task", str(bags.write_task(folder))])
    convert([str(folder / "episodes"), str(folder / "mcap"), "--format", "mcap"])
    convert([str(folder / "mcap"), str(folder / "again")])
    return folder


def decoded(file: Path) -> dict[str, list[tuple[Any, Any, Any]]]:
    """{topic: (schema, message record, message)} in the order of the rows."""
    found: dict[str, list[tuple[Any, Any, Any]]] = {}
    with file.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        for schema, channel, record, message in reader.iter_decoded_messages():
            found.setdefault(channel.topic, []).append((schema, record, message))
    return {topic: sorted(rows, key=lambda row: row[1].sequence) for topic, rows in found.items()}


def stamp(message: Any) -> int:
    return int(message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec)


def test_messages_are_those_that_foxglove_shows(session: Path) -> None:
    topics = decoded(session / "mcap" / "episode_0.mcap")
    assert {topic: rows[0][0].name for topic, rows in topics.items()} == {
        "/joint_states": "sensor_msgs/msg/JointState",
        "/action": "sensor_msgs/msg/JointState",
        "/base_action": "geometry_msgs/msg/TwistStamped",
        "/base_vel": "geometry_msgs/msg/TwistStamped",
        "/sensors/wrist": "geometry_msgs/msg/WrenchStamped",
        "/images/top": "sensor_msgs/msg/CompressedImage",
        "/images_depth/top": "sensor_msgs/msg/Image",
        "/reward": "std_msgs/msg/Float32",
        "/stamps": "aloha_kit_msgs/msg/Stamps",
    }
    assert {rows[0][0].encoding for rows in topics.values()} == {"ros2msg"}
    with Episode.open(session / "episodes" / "episode_0.hdf5") as episode:
        stamps = episode.stamps
        for topic, count in {"/joint_states": episode.frames, "/action": episode.length}.items():
            assert [record.sequence for _, record, _ in topics[topic]] == list(range(count))
        for row, (_, record, joints) in enumerate(topics["/joint_states"]):
            np.testing.assert_array_equal(np.float32(joints.position), episode.qpos[row])
            np.testing.assert_array_equal(np.float32(joints.velocity), episode.vectors["qvel"][row])
            np.testing.assert_array_equal(np.float32(joints.effort), episode.vectors["effort"][row])
            assert list(joints.name) == list(episode.contract.state_names)
            assert stamp(joints) == record.log_time == stamps["qpos_left"][row]
            image = topics["/images/top"][row][2]
            assert (bytes(image.data), image.format) == (episode.encoded("top", row), "jpeg")
            assert (image.header.frame_id, stamp(image)) == ("top", stamps["images/top"][row])
            depth = topics["/images_depth/top"][row][2]
            assert (depth.encoding, depth.width, depth.height, depth.step) == ("16UC1", 32, 24, 64)
            np.testing.assert_array_equal(
                np.frombuffer(bytes(depth.data), "<u2").reshape(24, 32), episode.depth("top", row)
            )
            force = topics["/sensors/wrist"][row][2].wrench.force
            np.testing.assert_array_equal(np.float32([force.x, force.y]), episode.vectors["sensors/wrist"][row][:2])
        for row, (_, record, action) in enumerate(topics["/action"]):
            np.testing.assert_array_equal(np.float32(action.position), episode.action[row])
            assert record.log_time == stamps["command"][row]
            twist = topics["/base_action"][row][2].twist
            np.testing.assert_array_equal(np.float32([twist.linear.x, twist.angular.z]), episode.base_action[row])


def test_rosbags_opens_the_file(session: Path) -> None:
    with AnyReader([session / "mcap" / "episode_0.mcap"]) as reader:
        connections = [each for each in reader.connections if each.topic == "/joint_states"]
        raw = [data for _, _, data in reader.messages(connections)]
        assert reader.deserialize(raw[0], connections[0].msgtype).name[0] == "left_waist"


def test_the_way_back_is_the_same_episode(session: Path) -> None:
    records = [json.loads((session / place / "conversion_episodes.jsonl").read_text()) for place in ("mcap", "again")]
    assert records[0]["arrays"] == records[1]["arrays"]
    assert records[0]["images"] == records[1]["images"]
    assert records[0]["lost"] == records[1]["lost"] == records[1]["notes"] == []
    with (
        Episode.open(session / "episodes" / "episode_0.hdf5") as before,
        Episode.open(session / "again" / "episode_0.hdf5") as after,
    ):
        assert after.contract == before.contract
        assert (after.id, after.describe["streams"]) == (before.id, before.describe["streams"])
        for row in range(before.frames):
            assert after.encoded("top", row) == before.encoded("top", row)
            np.testing.assert_array_equal(after.depth("top", row), before.depth("top", row))


def test_episodes_of_any_format_are_written(tmp_path: Path) -> None:
    """Simulated ones, whose JPEG has red and blue exchanged, and pixels."""
    write_dataset(tmp_path / "episodes", (9, 12), CAMERAS)
    (tmp_path / "out").mkdir()
    target = check_exporter(McapExporter, open_source(tmp_path / "episodes"), tmp_path / "out")
    assert format_of(target) == format_of(target / "episode_1.mcap") == "mcap"
    check_source(open_source(target))
    (tmp_path / "raw").mkdir()
    raw = McapExporter(tmp_path / "raw", tmp_path, WriteOptions(images="raw"))
    source = open_source(tmp_path / "episodes")
    with closing(source.episode(1)) as episode:
        raw.write(1, episode, ExportRecord.of(1, episode, ""))
        with closing(open_source(tmp_path / "raw").episode(0)) as again:
            assert again.name == "episode_1.mcap"
            np.testing.assert_array_equal(again.qpos, episode.qpos)
            for row in range(again.frames):
                np.testing.assert_array_equal(again.image("cam_low", row), episode.image("cam_low", row))


@pytest.mark.parametrize("length", [0.5, 0.98])
def test_a_file_that_was_cut_off_is_one_line(session: Path, tmp_path: Path, length: float) -> None:
    whole = (session / "mcap" / "episode_0.mcap").read_bytes()
    file = tmp_path / "episode_0.mcap"
    file.write_bytes(whole[: int(length * len(whole))])
    errors = failure(convert, [str(file), str(tmp_path / "out")])
    assert f"{file} cannot be read as an episode: " in errors
    assert "\n" not in errors
    assert not (tmp_path / "out").exists()
