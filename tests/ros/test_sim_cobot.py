"""Cobot Magic, simulated: leaders that drive the followers themselves, with a person or a policy in their place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import rospy
from nav_msgs.msg import Odometry
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float32, String

from aloha_kit.config import load, RigConfig
from aloha_kit.core import START_ARM_POSE
from aloha_kit.ros.sim_rig.scripted_operator import ScriptedOperator
from aloha_kit.ros.sim_rig.simulated_rig import SimRig
from aloha_kit.sim import scripts
from tests.ros.master import Process, Ros
from tests.ros.rig_client import Received
from tests.waiting import until

TOPICS = ("/puppet/joint_left", "/puppet/joint_right", "/master/joint_left", "/master/joint_right")


@pytest.fixture(scope="module")
def node(session_ros: Ros) -> Iterator[Process]:
    """On a clock of its own, which gives a busy machine the time it needs."""
    process = session_ros.start(
        "python", "record/sim_arms_node", "--task", "cobot_magic_transfer_cube", "--speed", "0.9", log="sim_cobot"
    )
    process.wait_for("is up")
    yield process
    process.stop()


@pytest.fixture
def topics(node: Process) -> Iterator[dict[str, Received]]:
    collected = {topic: Received(topic, JointState) for topic in TOPICS} | {
        "/sim_rig/reward": Received("/sim_rig/reward", Float32)
    }
    for topic, received in collected.items():
        until(lambda received=received: received.newest, f"messages on {topic}")
    yield collected
    for received in collected.values():
        received.subscriber.unregister()


def position(received: Received) -> np.ndarray:
    return np.array(received.newest.position)


def periods(stamps: list[float], period: float) -> float:
    """The usual number of periods from one stamp to the next; all are whole, and more where a message was lost."""
    gaps = np.diff(stamps) / period
    np.testing.assert_allclose(gaps, np.maximum(1, np.round(gaps)), atol=1e-3)
    return float(np.median(np.round(gaps)))


def test_states_are_the_drivers(topics: dict[str, Received]) -> None:
    for topic in TOPICS:
        states = topics[topic].next(80)
        assert states[0].name == [f"joint{i}" for i in range(7)]
        assert {(len(s.position), len(s.velocity), len(s.effort)) for s in states} == {(7, 7, 7)}
        assert states[-1].velocity[6] == 0
        assert list(states[-1].effort[:6]) == [0] * 6
        assert 0.0 <= states[-1].position[6] <= 0.08, "metres"
        assert periods([s.header.stamp.to_sec() for s in states], 0.005) == 1
    base = Received("/odom", Odometry)
    odometry = base.next(10)
    assert periods([o.header.stamp.to_sec() for o in odometry], 0.02) == 1
    assert odometry[0].twist.twist.linear.x == 0
    base.subscriber.unregister()


def test_the_person_holds_the_start_pose_and_does_the_task_while_it_is_recorded(
    topics: dict[str, Received],
) -> None:
    until(
        lambda: np.abs(position(topics[TOPICS[0]])[:6] - START_ARM_POSE).max() < 0.03, "the follower at the start pose"
    )
    np.testing.assert_allclose(position(topics[TOPICS[2]])[:6], START_ARM_POSE, atol=0.01)
    record = rospy.Publisher("/aloha_kit/record/state", String, queue_size=1, latch=True)
    base = Received("/odom", Odometry)
    record.publish("recording")
    rewards = topics["/sim_rig/reward"].messages
    until(
        lambda: [m for m in rewards if m.data >= 2.0], "the cube is lifted by the follower that the leader drives", 30
    )
    assert any(o.twist.twist.angular.z != 0 for o in base.messages)
    record.publish("saving")
    until(lambda: np.abs(position(topics[TOPICS[3]])[:6] - START_ARM_POSE).max() < 0.01, "the leader back home")
    record.unregister()
    base.subscriber.unregister()


def test_the_person_gives_way_to_whoever_else_moves_the_arms(topics: dict[str, Received]) -> None:
    target = [*(START_ARM_POSE + np.float32([0.2, 0, 0, 0, 0, 0])), 0.05]
    policy = rospy.Publisher(TOPICS[2], JointState, queue_size=1)
    until(policy.get_num_connections, "the driver listens")

    def there() -> bool:
        policy.publish(JointState(name=[f"joint{i}" for i in range(7)], position=target))
        rospy.rostime.wallsleep(0.02)
        return bool(np.abs(position(topics[TOPICS[0]]) - target).max() < 0.02)

    until(there, "the left follower where the policy wants it")
    topics[TOPICS[2]].messages.clear()
    until(lambda: not there() or len(topics[TOPICS[2]].messages) > 10, "ten more commands")
    publishers = {message._connection_header["callerid"] for message in topics[TOPICS[2]].messages}
    assert publishers == {rospy.get_name()}, "the simulated operator sends nothing meanwhile"
    policy.unregister()
    until(lambda: np.abs(position(topics[TOPICS[0]])[:6] - START_ARM_POSE).max() < 0.03, "the person takes over again")


def test_motors_go_on_and_off_together(topics: dict[str, Received]) -> None:
    switch = rospy.Publisher("/enable_flag", Bool, queue_size=1)
    until(switch.get_num_connections, "the drivers listen")
    switch.publish(False)
    until(lambda: position(topics[TOPICS[1]])[2] > START_ARM_POSE[2] + 0.05, "the right follower sinks")
    switch.publish(True)
    until(lambda: np.abs(position(topics[TOPICS[1]])[:6] - START_ARM_POSE).max() < 0.03, "and comes back")
    switch.unregister()


def test_its_streams_break_by_their_names(topics: dict[str, Received]) -> None:
    rospy.set_param("/sim_rig_faults", {"puppet_left": {"nan": True}, "master_right": {"zero_stamp": True}})
    until(lambda: np.isnan(position(topics[TOPICS[0]])).all(), "NaN from the left follower")
    until(lambda: topics[TOPICS[3]].newest.header.stamp.to_nsec() == 0, "no stamps from the right leader")
    rospy.delete_param("/sim_rig_faults")
    until(lambda: np.isfinite(position(topics[TOPICS[0]])).all(), "it is well again")


def test_after_a_stall_the_persons_hands_go_on_and_do_not_jump() -> None:
    """Without ROS. What a hand does in one state is what the followers are commanded, so it is at most a step."""
    config = load(RigConfig, "rigs", "cobot_magic")
    operator = ScriptedOperator(scripts.transfer_cube, noise=1.0, seed=0, warn=print)
    rig = SimRig(config, "transfer_cube", operator=operator, seed=0, warn=print)
    try:
        rig.reset().result(60)  # type: ignore[union-attr] - there is a person
        rng, rig.recording = np.random.default_rng(0), True
        path = [np.concatenate([leader.position for leader in rig.leaders.values()])]
        for _ in range(250):
            rig.advance(0.1 if rng.random() < 0.1 else 0.01)
            path.append(np.concatenate([leader.position for leader in rig.leaders.values()]))
        ways = np.abs(np.diff(path, axis=0))
        assert ways[:, [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]].max() <= np.pi / 50
        assert np.abs(path[-1] - path[0]).max() > 0.3, "they do the task"
    finally:
        rig.close()
