"""Free sensors of a rig: read from another node's messages, stamped, recorded, validated, and named when they fail."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import genpy.message
import numpy as np
import pytest
from geometry_msgs.msg import WrenchStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32MultiArray

from aloha_kit import envs
from aloha_kit.config import from_mapping, load, RigConfig, TaskConfig
from aloha_kit.config.rig import ArmConfig, SensorConfig
from aloha_kit.core import ConfigError, Contract, PIPER, ReadingError, StreamError
from aloha_kit.data.index import read_table
from aloha_kit.doctor.stream_checks import check_topic
from aloha_kit.episode import Episode, EpisodeWriter
from aloha_kit.episode.validate import validate
from aloha_kit.formats import open_source
from aloha_kit.loop import run_episode
from aloha_kit.policies import checkpoint
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.ros import inspect
from aloha_kit.ros.ros_env import RosEnv
from aloha_kit.ros.streams import installed_fields
from aloha_kit.sync.observation import rig_contract
from aloha_kit.sync.sensors import rig_sensors, Sensor, UNITS
from tests.loop.fake_rig import Constant
from tests.policies.test_networks import cnnmlp
from tests.ros.fake_drivers import FakePiper
from tests.ros.master import ROOT, Ros
from tests.train.job import job, trainer, TRAINING

ARM = ArmConfig(driver="joint_state", model="piper", state_topic="/puppet/joint_left", command_topic="/master/joint")
SENSORS = {
    "imu": SensorConfig("/imu", "sensor_msgs/Imu"),
    "wrist": SensorConfig("/wrench", "geometry_msgs/WrenchStamped", role="force"),
    "touch": SensorConfig("/touch", "std_msgs/Float32MultiArray", entries=("data[24]",), units=("kPa",)),
    "hand": SensorConfig(
        "/hand", "sensor_msgs/JointState", entries=("position.index", "effort.thumb"), units=("rad", "N m")
    ),
}
RIG = RigConfig("felt", "ros", cameras={}, followers={"arm": ARM}, sensors=SENSORS)
TASK = TaskConfig("feel", "Feel.", rig="felt", episode_len=40, rate_hz=25, cameras=())


def with_sensor(**changes: Any) -> RigConfig:
    """The rig with one sensor: an IMU, or what `changes` make of it."""
    return replace(RIG, sensors={"one": SensorConfig(**{"topic": "/imu", "type": "sensor_msgs/Imu", **changes})})


def sensor(**changes: Any) -> Sensor:
    """The sensor of that rig."""
    return rig_sensors(with_sensor(**changes), installed_fields)["one"]


class Node:
    """`sensor_node` as a process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ros.sensor_node"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT,
        )  # fmt: skip
        assert self._process.stdout
        assert self._process.stdout.readline() == "up\n"

    def send(self, word: str) -> None:
        print(word, file=self._process.stdin, flush=True)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def node(session_ros: Ros) -> Iterator[Node]:
    with FakePiper("/puppet/joint_left", "/master/joint"), contextlib.closing(Node()) as sensors:
        yield sensors


def connect(rig: RigConfig = RIG) -> RosEnv:
    env = envs.connect(TASK, rig)
    assert isinstance(env, RosEnv)
    return env


def test_a_sensor_is_recorded_with_its_stamps_and_what_it_is(node: Node, tmp_path: Path) -> None:
    with contextlib.closing(connect()) as env:
        env.streams.sync.wait(20)
        known = env.describe()
        writer = EpisodeWriter(tmp_path, contract=env.contract, task="feel", rig="felt", sim=False, describe=known)
        moving = Constant(np.array([0.3, *PIPER.start[1:], 0.5], np.float32))
        assert run_episode(env, env.guard(moving), [writer]).reason == "complete"
        assert {name: spec.shape for name, spec in env.observation_spec()["sensors"].items()} == {
            "imu": (10,), "wrist": (6,), "touch": (24,), "hand": (2,)
        }  # fmt: skip
    report = validate(writer.path)
    assert [finding for finding in report.findings if finding.level == "error"] == []
    with Episode.open(writer.path) as episode:
        reported = {name: (stamps % 1_000_000_000) / 1e9 for name, stamps in episode.stamps.items()}
        imu, wrist, touch, hand = (episode.sensors[name] for name in ("imu", "wrist", "touch", "hand"))
        np.testing.assert_allclose(imu[:, 4], reported["sensors/imu"], atol=1e-6)  # the value of that very message
        np.testing.assert_allclose(imu[:, [3, 9]], np.tile([1.0, 9.81], (41, 1)), atol=1e-6)
        np.testing.assert_allclose(wrist[:, 0], 10 * reported["sensors/wrist"], atol=1e-5)
        np.testing.assert_allclose(wrist[:, 5], -reported["sensors/wrist"], atol=1e-6)
        np.testing.assert_allclose(hand, np.stack([reported["sensors/hand"], np.ones(41)], axis=1), atol=1e-6)
        np.testing.assert_allclose(touch - touch[:, :1], np.tile(np.arange(24.0), (41, 1)), atol=1e-3)
        assert (np.diff(touch[:, 0]) > 0).all(), "each step has a newer message, also of a type without stamps"
        assert (np.diff(episode.stamps["sensors/touch"]) > 0).all()
        features = {feature.name: feature for feature in episode.contract.sensors}
        assert (features["sensors/wrist"].role, features["sensors/imu"].role) == ("force", "imu")
        assert features["sensors/wrist"].entries[:1] == ("wrench.force.x",)
        assert features["sensors/wrist"].units == ("N",) * 3 + ("N m",) * 3
        assert features["sensors/touch"].entries[23] == "data.23"
        assert features["sensors/touch"].units == ("kPa",) * 24
        assert features["sensors/hand"].entries == ("position.index", "effort.thumb")
        assert {feature.rate_hz for feature in features.values() if "/" in feature.name} == {100.0}
        streams = episode.describe["streams"]
        assert (streams["sensors/touch"]["stamp"], streams["sensors/imu"]["stamp"]) == ("arrival", "header")


def test_a_lost_value_is_bridged_and_a_lasting_loss_is_named(node: Node) -> None:
    with contextlib.closing(connect()) as env:
        env.reset()
        hold = np.array([*PIPER.start, 0.0], np.float32)
        node.send("nan")
        for _ in range(10):
            assert env.step(hold).observation["sensors"]["imu"][9] == pytest.approx(9.81)
        node.send("lost")
        with pytest.raises(ReadingError, match=r"sensor 'imu': the value of linear_acceleration\.z is not a finite"):
            _until_it_fails(env, hold)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("short", "sensor 'touch': 'data' of its messages holds 23 values, expected 24"),
        ("silent", r"sensors/wrist.* silent|'sensors/wrist'"),
    ],
)
def test_a_sensor_of_another_length_or_a_silent_one_ends_the_step_by_name(node: Node, word: str, message: str) -> None:
    with contextlib.closing(connect()) as env:
        env.reset()
        node.send(word)
        with pytest.raises(StreamError, match=message):
            _until_it_fails(env, np.array([*PIPER.start, 0.0], np.float32))


def test_the_doctor_looks_at_sensors_too(node: Node) -> None:
    wrong = replace(RIG, sensors={**SENSORS, "imu": replace(SENSORS["imu"], topic="/nowhere")})
    seen = {topic.stream: topic for topic in inspect.inspect(wrong, [], seconds=1.0, registers=[]).topics}
    assert seen["sensors/wrist"].found_type == seen["sensors/wrist"].expected_type == "geometry_msgs/WrenchStamped"
    assert len(seen["sensors/wrist"].stamps_ns) > 10
    assert (np.diff(seen["sensors/wrist"].stamps_ns) > 0).all()
    touch = seen["sensors/touch"]  # plain arrays have no stamps: they count as captured when they arrive
    np.testing.assert_array_equal(touch.stamps_ns, touch.arrivals_ns)
    (missing,) = check_topic(seen["sensors/imu"], wrong.sync, 25)
    assert (missing.level, missing.found) == ("error", "nobody publishes /nowhere")
    assert all("zero" not in finding.found for finding in check_topic(seen["sensors/touch"], wrong.sync, 25))


def _until_it_fails(env: RosEnv, action: Any) -> None:
    for _ in range(39):
        env.step(action)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "tactile_msgs/Skin"}, "the message type 'tactile_msgs/Skin' is not installed here"),
        ({"entries": ("angular_velocity.q",)}, r"a sensor_msgs/Imu has no 'angular_velocity\.q'. .*Known: x, y, z"),
        ({"type": "sensor_msgs/JointState"}, "entries of a sensor_msgs/JointState have to be listed"),
        ({"units": ("rad/s", "N")}, "2 units for 10 entries; one each, or one for all"),
        ({"entries": ("orientation.x", "orientation.x")}, "each entry once, and at least one"),
    ],
)
def test_what_cannot_be_read_is_named_before_anything_is_contacted(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"sensor 'one': {message}"):
        envs.connect(TASK, with_sensor(**changes))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"topic": "", "type": "sensor_msgs/Imu"}, "a sensor needs a topic"),
        ({"topic": "/imu", "type": "Imu"}, "a sensor's type is a message type such as sensor_msgs/Imu, given 'Imu'"),
        ({"topic": "/imu", "type": "sensor_msgs/Imu", "role": "image"}, "a sensor's role cannot be 'image'"),
        ({"topic": "/imu", "type": "sensor_msgs/Imu", "rate_hz": 0}, "a sensor's rate_hz must be positive, given 0"),
        ({"topic": "/imu", "type": "sensor_msgs/Imu", "rate": 10}, "unknown key 'rate'. Did you mean 'rate_hz'"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(values: dict[str, Any], message: str) -> None:
    rig = {"name": "mine", "kind": "ros", "cameras": {}, "followers": {"arm": {"name": "puppet_left"}}}
    with pytest.raises(ConfigError) as caught:
        from_mapping(RigConfig, {**rig, "sensors": {"one": values}})
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", sorted(UNITS))
def test_every_known_type_is_read_without_a_list_of_entries(kind: str) -> None:
    one = sensor(type=kind)
    values = one.read(genpy.message.get_message_class(kind)())
    assert values.shape == (len(one.entries),) == (len(one.units),)
    assert values.dtype == np.float32


def test_entries_are_read_by_path_by_index_and_by_name() -> None:
    hand = sensor(type="sensor_msgs/JointState", entries=("position.b", "position.0"))
    np.testing.assert_array_equal(hand.read(JointState(name=["a", "b"], position=[1.0, 2.0])), [2.0, 1.0])
    with pytest.raises(StreamError, match=r"its message has no 'position\.b'; it names: a, c"):
        hand.read(JointState(name=["a", "c"], position=[1.0, 2.0]))
    force = sensor(type="geometry_msgs/WrenchStamped", entries=("wrench.force.z",))
    message = WrenchStamped()
    message.wrench.force.z = -3.5
    assert (force.read(message), force.units) == ([-3.5], ("N",))
    array = sensor(type="std_msgs/Float32MultiArray", entries=("data.2",))
    with pytest.raises(StreamError, match=r"its message has no 'data\.2'; it holds 2 values"):
        array.read(Float32MultiArray(data=[1.0, 2.0]))


def test_features_have_the_rate_of_their_streams_which_no_comparison_reads() -> None:
    task = load(TaskConfig, "tasks", "mobile_aloha_transfer_cube")  # 50 Hz, as its base; cameras of 30 Hz, arms of 100
    rig = load(RigConfig, "rigs", "mobile_aloha")
    slow = {**rig.followers, "right": replace(rig.followers["right"], rate_hz=80.0)}
    rig = replace(rig, followers=slow, sensors=SENSORS)
    contract = rig_contract(task, rig, False, rig_sensors(rig, installed_fields))
    assert {feature.name: feature.rate_hz for feature in contract.features} == {
        "qpos": 80.0, "action": None, "qvel": 80.0, "effort": 80.0, "base_vel": None,
        **dict.fromkeys(("images/cam_high", "images/cam_left_wrist", "images/cam_right_wrist"), 30.0),
        **{f"sensors/{name}": 100.0 for name in SENSORS},
    }  # fmt: skip
    before = replace(contract, features=tuple(replace(feature, rate_hz=None) for feature in contract.features))
    assert before.differences(contract) == contract.differences(before) == []
    assert Contract.from_json(contract.to_json()) == contract


def test_a_policy_that_reads_a_sensor_is_trained_on_the_recording_and_acts_on_the_rig(
    node: Node, tmp_path: Path
) -> None:
    settings = cnnmlp(sensors=("sensors/wrist", "sensors/touch"), use_images=False, chunk_size=5)
    with contextlib.closing(connect()) as env:
        for shoulder in (0.3, 0.4):
            writer = EpisodeWriter(tmp_path / "data", contract=env.contract, task="feel", rig="felt", sim=False)
            moving = Constant(np.array([0.2, shoulder, *PIPER.start[2:], 0.5], np.float32))
            run_episode(env, env.guard(moving), [writer])
        table = read_table(open_source(tmp_path / "data"), sensors=settings.sensors)
        training = TRAINING.__class__(**{**vars(TRAINING), "num_steps": 2})
        trainer(job(tmp_path / "run", table, training, policy=settings)).fit()
        policy = ChunkPolicy(checkpoint.load(tmp_path / "run" / "checkpoints" / "last"))
        assert [feature.name for feature in policy.contract.sensors] == ["sensors/wrist", "sensors/touch"]
        assert policy.contract.differences(env.contract) == []
        without = replace(RIG, sensors={"wrist": SENSORS["wrist"]})
        assert "array 'sensors/touch' is missing" in " ".join(
            policy.contract.differences(rig_contract(TASK, without, False, rig_sensors(without, installed_fields)))
        )
        observation = env.reset().observation
        chunk = policy.predict_chunk(observation)
        assert chunk.shape == (5, 7)
        pressed = {**observation, "sensors": {**observation["sensors"], "wrist": np.full(6, 30, np.float32)}}
        assert np.abs(policy.predict_chunk(pressed) - chunk).max() > 1e-4, "the sensor's reading has an effect"
