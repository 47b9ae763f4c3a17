"""ROS bags as episodes: rows worked out again by brute force, the same from all kinds of bags; bad ones in one line."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aloha_kit.convert.__main__ import main
from aloha_kit.core import PIPER, StreamError
from aloha_kit.core.arm_models import VX300S
from aloha_kit.formats import open_source, ReadOptions
from aloha_kit.formats.rosbag import RecordedBag, RosbagSource
from aloha_kit.storage import Episode
from aloha_kit.sync.arm_readers import InterbotixReader
from tests.commands import failure
from tests.formats import bags
from tests.formats.bags import CAMERA, COMMAND, DEPTH, LEADER, MS, ODOM, session, START, STATE, WRENCH

PERIOD = 40 * MS
Recorded = list[bags.Recorded]


def convert(place: Path, target: Path, task: Path, *flags: str) -> None:
    main([str(place), str(target), "--task", str(task), *flags])


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same session as an episode, from each kind of bag."""
    folder = tmp_path_factory.mktemp("bags")
    task = bags.write_task(folder)
    bags.write_ros1(folder / "session.bag", session(2.0))
    for storage in ("sqlite3", "mcap"):
        bags.write_ros2(folder / storage, session(2.0, 2), storage)
    for name in ("session.bag", "sqlite3", "mcap"):
        convert(folder / name, folder / "out" / name, task)
    return {name: folder / "out" / name / "episode_0.hdf5" for name in ("session.bag", "sqlite3", "mcap")}


def test_rows_are_the_samples_nearest_to_the_newest_time_of_all_streams(
    imported: dict[str, Path],
) -> None:
    stamps = {
        topic: np.array([ns - 2 * MS for ns, t, _ in session(2.0) if t == topic])
        for topic in (STATE, LEADER, CAMERA, ODOM, DEPTH, WRENCH)
    }
    streams = {
        "qpos_left": STATE, "images/top": CAMERA, "images_depth/top": DEPTH, "base_vel": ODOM, "sensors/wrist": WRENCH,
        "leader_left": LEADER,
    }  # fmt: skip
    with Episode.open(imported["session.bag"]) as episode:
        deadlines = episode.stamps["deadline"]
        np.testing.assert_array_equal(np.diff(deadlines), PERIOD)
        # each stream is trusted after ten samples; the cameras are the slowest
        assert 0 <= deadlines[0] - (START + 9 * 33_333_333 + 2 * MS) <= 34 * MS
        assert deadlines[-1] > START + 2_000 * MS - 2 * PERIOD
        for row, deadline in enumerate(deadlines):
            arrived = {topic: times[times + 2 * MS <= deadline] for topic, times in stamps.items()}
            reference = min(times[-1] for times in arrived.values())
            for stream, topic in streams.items():
                newest = arrived[topic][-1]
                if stream == "leader_left":  # of the action before
                    before = deadline - (PERIOD if row else 0)
                    newest = stamps[topic][stamps[topic] + 2 * MS <= before][-1]
                    assert episode.stamps[stream][row] == newest
                    continue
                far = np.abs(arrived[topic] - reference)
                expected = arrived[topic][len(far) - 1 - int(np.argmin(far[::-1]))]
                assert episode.stamps[stream][row] == expected, (stream, row)


def test_values_are_those_of_the_messages(imported: dict[str, Path]) -> None:
    low, high = PIPER.finger.closed, PIPER.finger.open
    with Episode.open(imported["session.bag"]) as episode:
        stamps = episode.stamps
        assert episode.contract.sensors[-1].units == ("mm",)
        for row in range(episode.frames):
            t = (stamps["qpos_left"][row] - START) / 1e9
            expected = bags.joints(t)
            velocity = 0.1 * expected
            expected[6], velocity[6] = (expected[6] - low) / (high - low), velocity[6] / (high - low)
            np.testing.assert_allclose(episode.qpos[row], expected, atol=1e-6)
            np.testing.assert_allclose(episode.vectors["qvel"][row], velocity, atol=1e-6)
            t = (stamps["base_vel"][row] - START) / 1e9
            np.testing.assert_allclose(episode.vectors["base_vel"][row], [0.1 * t, 0.2], atol=1e-6)
            t = (stamps["sensors/wrist"][row] - START - 2 * MS) / 1e9
            np.testing.assert_allclose(episode.vectors["sensors/wrist"][row], [t, 1, 2, 3, 4, 5], atol=1e-6)
            i = round((stamps["images/top"][row] - START) / 33_333_333)
            assert episode.encoded("top", row) == bags.picture(i), "byte for byte"
            assert (
                episode.depth("top", row) == 500 + round((stamps["images_depth/top"][row] - START) / 33_333_333)
            ).all()
        np.testing.assert_allclose(
            episode.vectors["effort"][0][1], 2 * bags.joints((stamps["qpos_left"][0] - START) / 1e9)[1]
        )
        leader = bags.joints((stamps["leader_left"][-1] - START - MS) / 1e9) + [*(0.01,) * 6, 0.001]
        leader[6] = (leader[6] - low) / (high - low)
        np.testing.assert_allclose(episode.action[-1], leader, atol=1e-6)
        np.testing.assert_array_equal(episode.base_action[-1], episode.vectors["base_vel"][-2])
        assert (episode.attrs["task"], episode.attrs["instruction"]) == ("bagged", "Do it.")
        assert episode.describe["bag"] == "session.bag"
        assert episode.describe["streams"]["images/top"]["topic"] == CAMERA
        assert json.loads(episode.attrs["edited"])["source"].endswith("session.bag")


def test_every_kind_of_bag_gives_the_same_episode(imported: dict[str, Path]) -> None:
    hashes = []
    for file in imported.values():
        (line,) = (file.parent / "conversion_episodes.jsonl").read_text().splitlines()
        record = json.loads(line)
        hashes.append((record["arrays"], record["images"]))
        assert record["lost"] == []
        assert "images_depth/top" in record["arrays"]
    assert hashes[0] == hashes[1] == hashes[2]


def read_in_child(episode: RecordedBag, source: RosbagSource, queue: Any) -> None:
    queue.put((episode.image("top", 3).tobytes(), source.open(0).qpos.sum(), episode.origin))


def test_an_open_episode_travels_to_other_processes_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = bags.write_task(tmp_path)
    for number, seconds in enumerate((1.0, 1.4)):
        bags.write_ros1(tmp_path / f"session_{number}.bag", session(seconds))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    source = open_source(tmp_path, kind="rosbag", options=ReadOptions(task=str(task)))
    assert isinstance(source, RosbagSource)
    first, second = source.open(0), source.open(1)
    assert (first.length, second.length) == (17, 27)
    expected = second.image("top", 3).tobytes(), first.qpos.sum(), str(tmp_path / "session_1.bag")
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        child = context.Process(target=read_in_child, args=(second, source, queue))
        child.start()
        assert queue.get(timeout=60) == expected
        child.join()
    kept = pickle.dumps(first)
    folder = first.path.parent
    first.close()
    del first
    assert not folder.exists()
    with pickle.loads(kept) as again:
        assert (again.qpos.sum(), again.origin) == (expected[1], str(tmp_path / "session_0.bag"))
    assert second.path.is_file(), "a child removed the file of its parent"
    del source, second, again
    assert not list((tmp_path / "temporary").iterdir())


def test_a_bag_without_leaders_gives_what_was_commanded(tmp_path: Path) -> None:
    task = bags.write_task(tmp_path)
    bags.write_ros1(tmp_path / "rollout.bag", [each for each in session(1.0) if each[1] != LEADER])
    convert(tmp_path / "rollout.bag", tmp_path / "out", task)
    with Episode.open(tmp_path / "out" / "episode_0.hdf5") as episode:
        assert "leader_left" not in episode.stamps
        for row in range(episode.length):
            end = episode.stamps["deadline"][row] + PERIOD
            newest = (end - 5 * MS - START) // (20 * MS)  # the command that arrives last before the step ends
            target = bags.joints(newest * 0.02) + [*(0.02,) * 6, 0.002]
            np.testing.assert_allclose(episode.action[row][:6], target[:6], atol=1e-6)


def test_a_folder_is_an_episode_a_bag_and_a_damaged_one_can_be_left_out(tmp_path: Path) -> None:
    task = bags.write_task(tmp_path)
    (tmp_path / "day").mkdir()
    for name in ("a", "b"):
        bags.write_ros1(tmp_path / "day" / f"{name}.bag", session(0.8))
    whole = (tmp_path / "day" / "a.bag").read_bytes()
    (tmp_path / "day" / "b.bag").write_bytes(whole[: len(whole) // 2])
    assert "1 episode of 2 cannot be read, such as 1: " in failure(convert, tmp_path / "day", tmp_path / "out", task)
    assert not (tmp_path / "out").exists()
    assert failure(convert, tmp_path / "day", tmp_path / "out", task, "--skip_damaged") == "1", "one was left out"
    assert [file.name for file in (tmp_path / "out").glob("*.hdf5")] == ["episode_0.hdf5"]


def test_a_bag_that_rosbag_has_not_closed_is_named(tmp_path: Path) -> None:
    task = bags.write_task(tmp_path)
    (tmp_path / "day").mkdir()
    bags.write_ros1(tmp_path / "day" / "a.bag", session(0.8))
    active = (tmp_path / "day" / "a.bag").rename(tmp_path / "day" / "a.bag.active")
    for place in (tmp_path / "day", tmp_path / "day" / "a.bag", active):
        told = failure(convert, place, tmp_path / "out", task)
        assert f"{active} is not closed: rosbag records it, or was killed" in told, place
    bags.write_ros1(tmp_path / "day" / "a.bag", session(0.8))
    convert(tmp_path / "day" / "a.bag", tmp_path / "out", task)


def without(topic: str) -> Callable[[Recorded], Recorded]:
    return lambda recorded: [each for each in recorded if each[1] != topic]


def silent(recorded: Recorded) -> Recorded:
    return [each for each in recorded if each[1] != CAMERA or each[0] < START + 700 * MS]


def frozen(recorded: Recorded) -> Recorded:
    """The wrench's stamps stand still from 0.7 s on."""
    for arrival, topic, message in recorded:
        if topic == WRENCH and arrival > START + 700 * MS:
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(START + 700 * MS, 1_000_000_000)
    return recorded


def out_of_bound(recorded: Recorded) -> Recorded:
    """The base's odometry is missing for 0.1 s, and only late messages close the gap."""
    gap = range(START + 700 * MS, START + 800 * MS)
    return [(a + 200 * MS if t == ODOM and a in gap else a, t, m) for a, t, m in recorded]


def set_back(recorded: Recorded) -> Recorded:
    for arrival, topic, message in recorded:
        if topic == STATE and arrival > START + 700 * MS:
            nanoseconds = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec - 20_000 * MS
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(nanoseconds, 1_000_000_000)
    return recorded


def jump(recorded: Recorded) -> Recorded:
    """The recorder's clock is set forward by a minute."""
    return [(a + 60_000 * MS if a > START + 700 * MS else a, t, m) for a, t, m in recorded]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(CAMERA), f"has no messages on {CAMERA} (images/top); its topics: {COMMAND}, {LEADER}, {ODOM}"),
        (
            lambda recorded: without(LEADER)(without(COMMAND)(recorded)),
            f"has no actions: neither {LEADER} nor {COMMAND} have messages; its topics: {ODOM}, {STATE}",
        ),
        (silent, f"stream 'images/top' ({CAMERA}) is silent: no message for 0.3"),
        (frozen, f"stream 'sensors/wrist' ({WRENCH}) is frozen: messages come, but no new stamp for 0.3"),
        (set_back, f"the clock of stream 'qpos_left' ({STATE}) was set back"),
        (jump, "is silent: no message for 0.3"),
    ],
    ids=["missing", "no actions", "silent", "frozen", "set back", "jump"],
)
def test_what_the_recorder_would_refuse_is_refused_by_name(
    change: Callable[[Recorded], Recorded], message: str, tmp_path: Path
) -> None:
    task = bags.write_task(tmp_path)
    bags.write_ros1(tmp_path / "bad.bag", change(session(1.5)))
    errors = failure(convert, tmp_path / "bad.bag", tmp_path / "out", task)
    assert message in errors
    assert "\n" not in errors
    assert not (tmp_path / "out").exists()


def test_a_wrong_type_no_task_and_a_file_that_is_no_bag(tmp_path: Path) -> None:
    sensor = {"wrist": {"topic": WRENCH, "type": "sensor_msgs/Imu"}}
    task = bags.write_task(tmp_path, sensors=sensor)
    bag = bags.write_ros1(tmp_path / "session.bag", session(0.5))
    (tmp_path / "text.bag").write_text("no bag at all")
    (tmp_path / "empty.mcap").write_bytes(b"")
    cases: dict[str, tuple[Path, list[str]]] = {
        f"{WRENCH} has messages of geometry_msgs/WrenchStamped, expected sensor_msgs/Imu": (bag, ["--task", str(task)]),
        "give --task": (bag, []),
        "text.bag cannot be read as a bag": (tmp_path / "text.bag", ["--task", str(task)]),
        "empty.mcap cannot be read as a bag": (tmp_path / "empty.mcap", ["--task", str(task)]),
        "no bag '": (tmp_path / "absent.bag", ["--task", str(task)]),
    }
    for message, (place, flags) in cases.items():
        errors = failure(main, [str(place), str(tmp_path / "out"), *flags])
        assert message in errors
        assert "\n" not in errors
    assert not (tmp_path / "out").exists()


class Command:
    """A JointGroupCommand or JointSingleCommand."""

    def __init__(self, name: str, cmd: Any) -> None:
        self.name, self.cmd = name, cmd


def test_commands_of_an_interbotix_arm_set_the_entries_of_its_target() -> None:
    reader = InterbotixReader("puppet_left", VX300S)
    assert reader.commanded(Command("arm", np.arange(6))) == dict(enumerate(range(6)))
    assert reader.commanded(Command("gripper", VX300S.gripper.open)) == {6: pytest.approx(1.0)}
    assert reader.commanded(Command("waist", 0.3)) == reader.commanded(object()) == {}
    with pytest.raises(StreamError, match="puppet_left: a command of its arm has 5 values, expected 6"):
        reader.commanded(Command("arm", np.arange(5)))
