"""The simulated cameras: the state is drawn, on the topics of the rig's drivers, and no more than that."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import rospy
from sensor_msgs.msg import CompressedImage, Image, JointState

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import ConfigError
from aloha_kit.ros import image_messages
from aloha_kit.ros.sim_rig.camera_timer import CameraTimer, Pace
from aloha_kit.ros.sim_rig.cameras_node import SimCameras
from aloha_kit.ros.sim_rig.faults import PARAM
from aloha_kit.sim import SimEnv
from aloha_kit.sync import images
from tests.ros.master import Ros
from tests.waiting import until

SIZE = (48, 64)
PERIOD = 40_000_000  # of the test's rig: 25 Hz
images_until = partial(until, what="the images", timeout=30.0)
VIEWS = {"cam_high": "top", "cam_low": "front_close", "cam_left_wrist": "left_wrist", "cam_right_wrist": "right_wrist"}
LOOKS = {"light": 0.3, "colour": 0.2, "camera_jitter": 0.02}


def task_of(rig: str) -> TaskConfig:
    return dataclasses.replace(load(TaskConfig, "tasks", f"{rig}_transfer_cube"), image_size=SIZE, randomise=LOOKS)


def rig_of(name: str) -> RigConfig:
    rig = load(RigConfig, "rigs", name)
    cameras = {key: dataclasses.replace(camera, rate_hz=25.0) for key, camera in rig.cameras.items()}
    return dataclasses.replace(rig, cameras=cameras)


@contextlib.contextmanager
def serving(rig: str) -> Iterator[SimCameras]:
    """The cameras in this process, drawn by this thread."""
    with contextlib.closing(SimCameras(task_of(rig), rig_of(rig))) as cameras:
        yield cameras


@contextlib.contextmanager
def listening(cameras: SimCameras, topics: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
    """Messages that arrive on {topic: type}, once the cameras have their subscribers."""
    collected: dict[str, list[Any]] = {topic: [] for topic in topics}
    subscribers = [
        rospy.Subscriber(topic, kind, collected[topic].append, queue_size=50) for topic, kind in topics.items()
    ]
    try:
        images_until(lambda: all(subscriber.get_num_connections() for subscriber in subscribers))
        wanted = {topic.removesuffix("/compressed") for topic in topics}
        images_until(
            lambda: sum(c.has_image_subscriber + c.has_depth_subscriber for c in cameras.cameras) == len(wanted)
        )
        yield collected
    finally:
        for subscriber in subscribers:
            subscriber.unregister()
        images_until(lambda: not any(c.has_image_subscriber or c.has_depth_subscriber for c in cameras.cameras))


@pytest.fixture(scope="module")
def scene() -> Iterator[SimEnv]:
    """What the arms' node would be: the same scene, which renders what the cameras should have sent."""
    sizes = dict.fromkeys(VIEWS.values(), SIZE)
    with contextlib.closing(SimEnv("transfer_cube", cameras=sizes, randomise=LOOKS, seed=3)) as env:
        yield env


@pytest.fixture
def no_faults(session_ros: Ros) -> Iterator[None]:
    yield
    if rospy.has_param(PARAM):
        rospy.delete_param(PARAM)


def test_images_are_those_of_the_state(session_ros: Ros, scene: SimEnv) -> None:
    """Raw to the last bit; JPEG of the same image; the seed's looks; the state's stamp."""
    with serving("aloha") as cameras:
        topics = {f"/usb_{name}/image_raw": Image for name in VIEWS}
        topics["/usb_cam_high/image_raw/compressed"] = CompressedImage
        with listening(cameras, topics) as collected:
            for number, seed in enumerate((3, 4)):
                scene.seed(seed)
                stamp = 1_700_000_000_000_000_000 + number * PERIOD
                seen = scene.reset().observation
                cameras.draw(stamp, scene.physics.data.qpos.copy(), seed)
                images_until(lambda: all(len(messages) == number + 1 for messages in collected.values()))  # noqa: B023
                for name, view in VIEWS.items():
                    message = collected[f"/usb_{name}/image_raw"][-1]
                    assert message.header.stamp.to_nsec() == stamp
                    assert message.encoding == "rgb8"
                    np.testing.assert_array_equal(images.decode(message), seen["images"][view])
                small = collected["/usb_cam_high/image_raw/compressed"][-1]
                assert images.size(small) == SIZE
                assert np.abs(images.decode(small).astype(int) - seen["images"]["top"]).mean() < 4
                assert images.jpeg_bytes(small) is not None


def test_depth_is_the_distance_to_the_table(session_ros: Ros, scene: SimEnv) -> None:
    topics = ("/camera_f/color/image_raw", "/camera_f/depth/image_raw")
    scene.seed(3)
    scene.reset()
    with serving("cobot_magic") as cameras, listening(cameras, dict.fromkeys(topics, Image)) as collected:
        cameras.draw(PERIOD, scene.physics.data.qpos.copy(), 3)
        images_until(lambda: all(collected.values()))
    colour, message = (collected[topic][0] for topic in topics)
    assert message.encoding == "16UC1"
    assert message.header.stamp == colour.header.stamp
    depth = images.decode_depth(message)
    assert depth.shape == (SIZE[0] * 400 // 480, SIZE[1]), "40 rows of 480 less above and below"
    # The camera looks down from 1.15 m above the table's top; it was moved by up to 2 cm and 0.08 rad.
    assert 1080 < np.median(depth) < 1220
    assert depth[depth > 0].min() < 950, "arms stand out"
    rows = (SIZE[0] - depth.shape[0]) // 2
    whole = scene.show(scene.physics.data.qpos, 3).draw_depth("top", SIZE)
    np.testing.assert_array_equal(depth, whole[rows : rows + depth.shape[0]], "padded, it lies on the colour")


def test_nobody_listens_nothing_is_drawn(session_ros: Ros, scene: SimEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    qpos = scene.physics.data.qpos.copy()
    with serving("aloha") as cameras:
        rendered = cameras._env.show(qpos, 3)
        draw = rendered.draw
        monkeypatch.setattr(rendered, "draw", lambda view, size: (drawn.append(view), draw(view, size))[1])
        encoded: list[bytes] = []
        encode = image_messages.encode
        monkeypatch.setattr(image_messages, "encode", lambda *a: (encoded.append(data := encode(*a)), data)[1])
        cameras.draw(PERIOD, qpos, 3)
        assert drawn == []
        with listening(cameras, {"/usb_cam_low/image_raw": Image}) as collected:
            cameras.draw(2 * PERIOD, qpos, 3)
            images_until(lambda: bool(collected["/usb_cam_low/image_raw"]))
        assert (drawn, encoded) == (["front_close"], [])
        with listening(cameras, {"/usb_cam_low/image_raw/compressed": CompressedImage}) as collected:
            cameras.draw(3 * PERIOD, qpos, 3)
            images_until(lambda: bool(collected["/usb_cam_low/image_raw/compressed"]))
        assert (drawn, len(encoded)) == (["front_close"] * 2, 1)


def test_faults_of_a_running_camera(session_ros: Ros, scene: SimEnv, no_faults: None) -> None:
    """Each fault alone, on the wire; healed again when the parameter goes."""
    topics = {f"/usb_{name}/image_raw": Image for name in ("cam_high", "cam_low")}
    scene.seed(3)
    seen = scene.reset().observation["images"]
    rest = scene.physics.data.qpos.copy()
    moved = rest.copy()
    moved[0] += 0.5  # the left arm's waist
    with serving("aloha") as cameras, listening(cameras, topics) as collected:
        row = 0

        def run(fault: dict[str, Any], count: int = 2) -> list[Image]:
            """What cam_high sent while the arm went to and fro, `count` periods long."""
            nonlocal row
            rospy.set_param(PARAM, {"cam_high": fault})
            cameras._faults.read()
            for messages in collected.values():
                messages.clear()
            for _ in range(count):
                row += 1
                cameras.draw(row * PERIOD, moved if row % 2 else rest, 3)
            images_until(lambda: len(collected["/usb_cam_low/image_raw"]) == count)
            if not {"stop", "drop", "slow"} & set(fault):
                images_until(lambda: len(collected["/usb_cam_high/image_raw"]) == count)
            return list(collected["/usb_cam_high/image_raw"])

        def stamps(messages: list[Image]) -> list[int]:
            return [message.header.stamp.to_nsec() for message in messages]

        whole = run({})
        assert stamps(whole) == [PERIOD, 2 * PERIOD]
        assert whole[0].data != whole[1].data
        frozen = run({"freeze": True})
        assert stamps(frozen) == [2 * PERIOD] * 2
        assert [message.data for message in frozen] == [whole[1].data] * 2
        assert run({"stop": True}) == []
        assert stamps(run({"slow": 12.5}, 4)) in ([7 * PERIOD, 9 * PERIOD], [8 * PERIOD, 10 * PERIOD])
        swapped = run({"swap": "cam_low"})
        low = collected["/usb_cam_low/image_raw"]
        assert [message.data for message in swapped] == [message.data for message in low]
        np.testing.assert_array_equal(images.decode(swapped[1]), seen["front_close"])
        assert stamps(run({"offset_s": 2.5})) == [13 * PERIOD + 2_500_000_000, 14 * PERIOD + 2_500_000_000]
        assert stamps(low) == [13 * PERIOD, 14 * PERIOD], "the other camera is well"
        shaken = np.array(stamps(run({"jitter_s": 0.01}, 6))) - PERIOD * np.arange(15, 21)
        assert np.all(np.abs(shaken) <= 10_000_000)
        assert len(set(shaken.tolist())) == 6
        assert 0 < len(run({"drop": 0.5}, 12)) < 12
        rospy.delete_param(PARAM)
        cameras._faults.read()
        assert stamps(run({})) == [33 * PERIOD, 34 * PERIOD]


def test_a_state_of_another_scene_and_a_camera_without_a_view(session_ros: Ros) -> None:
    with (
        serving("aloha") as cameras,
        listening(cameras, {"/usb_cam_high/image_raw": Image}),
        pytest.raises(ConfigError, match=r"scene 'transfer_cube' has 23 coordinates, given \(30,\)"),
    ):
        cameras.draw(PERIOD, np.zeros(30), 0)
    rig = rig_of("aloha")
    odd = dataclasses.replace(rig, cameras={"cam_hihg": rig.cameras["cam_high"]})
    with pytest.raises(
        ConfigError, match=r"camera 'cam_hihg' of rig 'aloha' cannot be simulated\. Did you mean 'cam_high'"
    ):
        SimCameras(task_of("aloha"), odd)


@pytest.mark.parametrize(
    ("rate_hz", "states", "wanted"),
    [
        # a camera slower than the states takes those nearest to its grid
        (30.0, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100], [0, 30, 70, 100]),
        (50.0, [0, 10, 20, 31, 39, 50, 60], [0, 20, 39, 60]),
        (100.0, [0, 10, 20, 30], [0, 10, 20, 30]),
        # a busy node loses whole periods and goes on upon the grid
        (50.0, [0, 50, 60, 70, 80], [0, 50, 60, 80]),
        # time that begins anew
        (50.0, [900, 920, 0, 10, 20], [900, 920, 0, 20]),
    ],
)
def test_a_shutter_keeps_to_its_grid(rate_hz: float, states: list[int], wanted: list[int]) -> None:
    timer = CameraTimer()
    assert [state for state in states if timer.opens(state * 1_000_000, rate_hz)] == wanted
    assert timer.taken == len(wanted)
    assert timer.missed == (1 if states[1] == 50 else 0)


def pace(busy_s: float, missed: int, rounds: int = 400) -> list[str]:
    printed: list[str] = []
    watch, timer = Pace(printed.append), CameraTimer()
    for number in range(rounds):
        timer.taken += 1
        timer.missed += missed
        watch.round(1000.0 + 0.06 * number, busy_s, [timer], "2 cameras, 480x640 at 50 Hz")
    return printed


def test_a_slow_machine_reports_it_once_with_numbers() -> None:
    assert pace(busy_s=0.056, missed=2) == [
        "this machine draws 33% of the requested images (2 cameras, 480x640 at 50 Hz): a round of them takes 56 ms. "
        "Smaller images (image_size of the task), fewer cameras or --quality draft cost less"
    ]
    assert pace(busy_s=0.056, missed=0) == []
    assert pace(busy_s=0.010, missed=2) == [], "states that come late are not the machine's drawing"
    assert pace(busy_s=0.056, missed=2, rounds=100) == [], "the start does not count"


def test_as_a_node_of_its_own(session_ros: Ros, scene: SimEnv) -> None:
    """As a launch file starts it, fed with states as the arms' node sends them; its rate, its end on Ctrl-C."""
    node = session_ros.start("record/sim_cameras_node", "--task", "cobot_magic_transfer_cube", "__name:=eyes")
    states = rospy.Publisher("/sim_rig/state", JointState, queue_size=1)
    collected: list[CompressedImage] = []
    subscriber = rospy.Subscriber(
        "/camera_r/color/image_raw/compressed", CompressedImage, collected.append, queue_size=5
    )
    over, qpos = threading.Event(), scene.physics.data.qpos.tolist()
    sent: set[int] = set()

    def send() -> None:
        while not over.wait(0.01):
            message = JointState(position=qpos)
            message.header.stamp, message.header.frame_id = rospy.Time.now(), "3"
            sent.add(message.header.stamp.to_nsec())
            states.publish(message)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        node.wait_for("cameras of 'cobot_magic' in scene 'transfer_cube': cam_high, cam_left_wrist, cam_right_wrist")
        until(lambda: len(collected) >= 5, "five images", 60.0)
        stamps = [message.header.stamp.to_nsec() for message in collected]
        assert set(stamps) <= sent
        assert min(np.diff(stamps)) > 15_000_000, "30 Hz, not the states' 100"
        assert images.size(collected[0]) == (480, 640)
        node.signal(signal.SIGINT)
        assert node.wait() == 130
        assert "Traceback" not in node.text()
    finally:
        over.set()
        sender.join()
        subscriber.unregister()
        states.unregister()
        node.stop()
    wrong = session_ros.start("record/sim_cameras_node", "--task", "aloha_transfer_cub")
    assert wrong.wait() == 1
    assert "Did you mean 'aloha_transfer_cube'?" in wrong.text()
