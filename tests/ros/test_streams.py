"""Streams over a real roscore: every kind of topic, what is not there, and simulated time that starts again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rospy
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CompressedImage, Image, JointState

from aloha_kit.config import ArmConfig, BaseConfig, CameraConfig, load, RigConfig, SyncConfig
from aloha_kit.core import Clock, ConfigError, StreamError, WallClock
from aloha_kit.ros import node
from aloha_kit.ros.streams import Streams
from aloha_kit.sync.topics import rig_topics, stream_spec, Topic
from tests.ros.master import Ros
from tests.waiting import until

RIG = RigConfig(
    "bench",
    "ros",
    cameras={
        "top": CameraConfig(topic="/streams/top/image_raw", depth_topic="/streams/top/depth", rate_hz=50),
        "wrist": CameraConfig(topic="/streams/wrist/image_raw/compressed", rate_hz=50),
    },
    followers={"left": ArmConfig(name="streams/puppet_left")},
    leaders={"left": ArmConfig(driver="joint_state", state_topic="/streams/master/joint_left")},
    base=BaseConfig(odom_topic="/streams/odom"),
    sync=SyncConfig(max_skew_s=0.5, max_age_s=2.0),  # a busy machine is not what is tested
)


class Publishers:
    """What the rig's drivers would publish; all of them each `tick`."""

    def __init__(self, **topics: tuple[str, type]) -> None:
        self.topics = {
            name: rospy.Publisher(topic, kind, queue_size=10, tcp_nodelay=True)
            for name, (topic, kind) in topics.items()
        }
        self.stamped = True
        self.count = 0

    def tick(self) -> None:
        self.count += 1
        for publisher in self.topics.values():
            message = publisher.data_class()
            message.header.frame_id = str(self.count)
            if self.stamped:
                message.header.stamp = rospy.Time.now()
            publisher.publish(message)

    def until(self, done: Callable[[], bool], timeout: float = 30.0) -> None:
        def ticked() -> bool:
            self.tick()
            time.sleep(0.02)
            return done()

        until(ticked, "nothing came of it", timeout)

    def close(self) -> None:
        for publisher in self.topics.values():
            publisher.unregister()


@pytest.fixture
def publishers(session_ros: Ros) -> Iterator[Publishers]:
    given = Publishers(
        arm=("/streams/puppet_left/joint_states", JointState),
        leader=("/streams/master/joint_left", JointState),
        base=("/streams/odom", Odometry),
        top=("/streams/top/image_raw", Image),
        depth=("/streams/top/depth", Image),
        wrist=("/streams/wrist/image_raw/compressed", CompressedImage),
    )
    yield given
    given.close()


@pytest.fixture
def clock(session_ros: Ros) -> Clock:
    return node.start("streams")


def ready(streams: Streams) -> bool:
    try:
        streams.sync.wait(0)
    except StreamError:
        return False
    return True


def test_every_topic_of_a_rig_becomes_a_stream(publishers: Publishers, clock: Clock) -> None:
    streams = Streams(RIG, ["top", "wrist"], leaders=True, clock=clock)
    try:
        publishers.until(lambda: ready(streams))
        matched = streams.sync.match()
        assert {name: type(sample.value) for name, sample in matched.samples.items()} == {
            "qpos_left": JointState,
            "leader_left": JointState,
            "base_vel": Odometry,
            "images/top": Image,
            "images_depth/top": Image,
            "images/wrist": CompressedImage,
        }
        for sample in matched.samples.values():
            assert sample.stamp_ns == sample.value.header.stamp.to_nsec()
            assert 0 <= sample.arrival_ns - sample.stamp_ns < 5_000_000_000
        assert streams.topics["leader_left"] == "/streams/master/joint_left"
        assert all(health.dropped == 0 and health.stamped for health in streams.sync.health().values())
    finally:
        streams.close()


def test_without_leaders_only_what_a_policy_reads(publishers: Publishers, clock: Clock) -> None:
    streams = Streams(RIG, ["wrist"], leaders=False, clock=clock)
    try:
        assert list(streams.topics) == ["qpos_left", "base_vel", "images/wrist"]
    finally:
        streams.close()


def test_a_driver_that_leaves_stamps_zero(publishers: Publishers, clock: Clock) -> None:
    publishers.stamped = False
    streams = Streams(RIG, ["wrist"], leaders=False, clock=clock)
    try:
        publishers.until(lambda: ready(streams))
        sample = streams.sync.newest("images/wrist")
        assert not sample.stamped
        assert sample.stamp_ns == sample.arrival_ns
        assert sample.value.header.stamp.to_nsec() == 0
    finally:
        streams.close()


def test_a_topic_that_nobody_publishes_is_named(session_ros: Ros, clock: Clock) -> None:
    quiet = RigConfig("quiet", "ros", {}, followers={"left": ArmConfig(name="nobody")})
    streams = Streams(quiet, [], leaders=False, clock=clock)
    try:
        words = r"stream 'qpos_left' \(/nobody/joint_states\) is silent: no message yet"
        with pytest.raises(StreamError, match=words):
            streams.sync.wait(0.1)
    finally:
        streams.close()


def test_closing_unsubscribes_and_frees(publishers: Publishers, clock: Clock) -> None:
    streams = Streams(RIG, ["top"], leaders=False, clock=clock)
    publishers.until(lambda: ready(streams))
    assert publishers.topics["top"].get_num_connections() == 1
    streams.close()
    publishers.until(lambda: publishers.topics["top"].get_num_connections() == 0)
    with pytest.raises(StreamError, match=r"'images/top' .* is silent: no message yet"):
        streams.sync.newest("images/top")


def topics(rig: RigConfig, cameras: Any, *, leaders: bool) -> dict[str, tuple[str, str]]:
    return {stream: (topic.name, topic.type) for stream, topic in rig_topics(rig, cameras, leaders=leaders)}


def test_topics_of_an_aloha() -> None:
    assert topics(load(RigConfig, "rigs", "aloha"), ["cam_high"], leaders=True) == {
        "qpos_left": ("/puppet_left/joint_states", "sensor_msgs/JointState"),
        "qpos_right": ("/puppet_right/joint_states", "sensor_msgs/JointState"),
        "leader_left": ("/master_left/joint_states", "sensor_msgs/JointState"),
        "leader_right": ("/master_right/joint_states", "sensor_msgs/JointState"),
        "images/cam_high": ("/usb_cam_high/image_raw/compressed", "sensor_msgs/CompressedImage"),
    }


def test_topics_of_a_cobot_magic() -> None:
    assert topics(load(RigConfig, "rigs", "cobot_magic"), ["cam_left_wrist"], leaders=False) == {
        "qpos_left": ("/puppet/joint_left", "sensor_msgs/JointState"),
        "qpos_right": ("/puppet/joint_right", "sensor_msgs/JointState"),
        "base_vel": ("/odom", "nav_msgs/Odometry"),
        "images/cam_left_wrist": ("/camera_l/color/image_raw", "sensor_msgs/Image"),
        "images_depth/cam_left_wrist": ("/camera_l/depth/image_raw", "sensor_msgs/Image"),
    }


def test_bounds_are_periods_and_at_least_the_seconds() -> None:
    sync = SyncConfig(max_skew_periods=1, max_skew_s=0.02, max_age_periods=9, max_age_s=0.2)
    arm = stream_spec("qpos_left", Topic("/puppet_left/joint_states", "sensor_msgs/JointState", 100), sync)
    assert (arm.max_skew_ns, arm.max_age_ns, arm.source) == (20_000_000, 200_000_000, "/puppet_left/joint_states")
    camera = stream_spec("images/top", Topic("/top", "sensor_msgs/Image", 30), sync)
    assert (camera.max_skew_ns, camera.max_age_ns) == (33_333_333, 300_000_000)


def test_wrong_names_say_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"rig 'bench' has no camera 'tpo'\. Did you mean 'top'\? Known: top, wrist"):
        Streams(RIG, ["tpo"], leaders=False, clock=WallClock())
    lonely = RigConfig("lonely", "ros", {}, followers={"left": ArmConfig(name="a")})
    with pytest.raises(ConfigError, match="rig 'lonely' has no leaders; leader arms are listed under `leaders`"):
        Streams(lonely, [], leaders=True, clock=WallClock())


# Simulated time runs twice as fast as ours and starts again after 4 s of it.
WORLD = """
import time
import rospy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
rospy.init_node("world", disable_signals=True)
clock = rospy.Publisher("/clock", Clock, queue_size=10, tcp_nodelay=True)
arm = rospy.Publisher("/arm/joint_states", JointState, queue_size=10, tcp_nodelay=True)
while True:
    for tick in range(400):
        now = rospy.Time(1, 0) + rospy.Duration.from_sec(0.01 * tick)
        clock.publish(Clock(now))
        message = JointState()
        message.header.stamp = now
        arm.publish(message)
        time.sleep(0.005)
"""

LISTENER = """
from aloha_kit.config import ArmConfig, RigConfig, SyncConfig
from aloha_kit.core import StreamError
from aloha_kit.ros import node
from aloha_kit.ros.streams import Streams
clock = node.start("listener")
sync = SyncConfig(max_age_s=0.5)
rig = RigConfig("simulated", "ros", {}, followers={"left": ArmConfig(name="arm")}, sync=sync)
streams = Streams(rig, [], leaders=False, clock=clock)
references = [streams.sync.wait(60.0).reference_ns]
print(type(clock).__name__, "matched within the five seconds:", 1_000_000_000 <= references[0] < 5_000_000_000)
restarts = streams.sync.health()["qpos_left"].restarts
while streams.sync.health()["qpos_left"].restarts == restarts:
    references.append(streams.sync.match(60.0).reference_ns)
    clock.sleep_until(clock.now_ns() + 20_000_000)
references.append(streams.sync.wait(60.0).reference_ns)
went_back = sum(after < before for before, after in zip(references, references[1:]))
print("times that time went back:", went_back)
streams.close()
"""


def test_simulated_time_that_starts_again(own_ros: Ros) -> None:
    set_time = own_ros.start("python", "-c", 'import rospy; rospy.set_param("/use_sim_time", True)')
    assert set_time.wait() == 0
    own_ros.start("python", "-c", WORLD)
    listener = own_ros.start("python", "-c", LISTENER)
    listener.wait_for("RosClock matched within the five seconds: True")
    listener.wait_for("times that time went back: 1")
    assert listener.wait() == 0
