"""Node of the simulated rig's cameras: renders the state of the arms' node and publishes as a camera driver does.

It has its own copy of the scene and takes joints and objects from /sim_rig/state, so that drawing never delays
the physics. An image carries the stamp of the state it shows. Only images with a subscriber are rendered or encoded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import rospy
import tyro
from sensor_msgs.msg import CompressedImage, Image, JointState

from aloha_kit.config import CameraConfig, load, RigConfig, TaskConfig
from aloha_kit.core import ConfigError, did_you_mean, plural, WallClock
from aloha_kit.core.cli import command_line
from aloha_kit.core.lang import Message
from aloha_kit.ros import image_messages, node
from aloha_kit.ros.node import interrupted_after
from aloha_kit.ros.sim_rig.camera_timer import CameraTimer, Pace
from aloha_kit.ros.sim_rig.faults import CameraFault, Faults
from aloha_kit.sim import SimEnv
from aloha_kit.sim.camera_renderer import CameraRenderer
from aloha_kit.sim.workcell import CAMERAS

STATE_TOPIC = "/sim_rig/state"
VIEWS = {"cam_high": "top", "cam_low": "front_close", "cam_left_wrist": "left_wrist", "cam_right_wrist": "right_wrist"}
"""{a real rig's camera: the scene's}; a camera that is called as one of the scene's is that one."""

_COMPRESSED = "/compressed"
_QUEUE = 5  # messages a slow listener may be behind


@dataclass(frozen=True)
class Frame:
    """Images of one state, stored for a frozen camera."""

    stamp_ns: int = 0
    colour: npt.NDArray[np.uint8] | None = None
    depth: npt.NDArray[np.uint16] | None = None


class Camera:
    """One camera's topics: X and X/compressed, and its depth where the rig has that."""

    def __init__(self, name: str, config: CameraConfig, size: tuple[int, int], jpeg_quality: int) -> None:
        self.name, self.size, self.rate_hz = name, size, config.rate_hz
        self.depth_size = config.depth_beside(size)
        self.timer = CameraTimer()
        self.last = Frame()
        self._quality = jpeg_quality
        topic = config.topic.removesuffix(_COMPRESSED)
        self._raw = rospy.Publisher(topic, Image, queue_size=_QUEUE)
        self._jpeg = rospy.Publisher(topic + _COMPRESSED, CompressedImage, queue_size=_QUEUE)
        self._depth = rospy.Publisher(config.depth_topic, Image, queue_size=_QUEUE) if config.depth_topic else None

    @property
    def has_image_subscriber(self) -> bool:
        """Whether its images have a subscriber."""
        return bool(self._raw.get_num_connections() or self._jpeg.get_num_connections())

    @property
    def has_depth_subscriber(self) -> bool:
        """Whether its depth has a subscriber."""
        return self._depth is not None and bool(self._depth.get_num_connections())

    @property
    def has_last(self) -> bool:
        """Whether `last` has every form that has a subscriber now."""
        return (self.last.colour is not None or not self.has_image_subscriber) and (
            self.last.depth is not None or not self.has_depth_subscriber
        )

    def take(self, renderer: CameraRenderer, view: str, stamp_ns: int) -> None:
        """Draw the images of the scene's camera `view` that have a subscriber."""
        self.last = Frame(
            stamp_ns,
            renderer.draw(view, self.size) if self.has_image_subscriber else None,
            self._draw_depth(renderer, view) if self.has_depth_subscriber else None,
        )

    def _draw_depth(self, renderer: CameraRenderer, view: str) -> npt.NDArray[np.uint16]:
        """Depth image of `depth_size`, registered to the middle of the colour: sensors of less height cover less."""
        rows, columns = self.depth_size
        depth = renderer.draw_depth(view, (max(rows, self.size[0]), max(columns, self.size[1])))
        top, left = (depth.shape[0] - rows) // 2, (depth.shape[1] - columns) // 2
        return np.ascontiguousarray(depth[top : top + rows, left : left + columns])

    def publish(self, stamp_ns: int) -> None:
        """Publish the last frame, each form only where it has a subscriber."""
        frame = self.last
        if frame.colour is not None and self._raw.get_num_connections():
            self._raw.publish(image_messages.to_image(frame.colour, "rgb8", stamp_ns, self.name))
        if frame.colour is not None and self._jpeg.get_num_connections():
            self._jpeg.publish(image_messages.to_compressed(frame.colour, stamp_ns, self._quality, self.name))
        if frame.depth is not None and self._depth is not None and self._depth.get_num_connections():
            self._depth.publish(image_messages.to_image(frame.depth, "16UC1", stamp_ns, self.name))

    def close(self) -> None:
        """Leave the topics."""
        for publisher in (self._raw, self._jpeg, self._depth):
            if publisher is not None:
                publisher.unregister()


class SimCameras:
    """All cameras of a rig, drawn in the thread that calls `run` (an OpenGL context belongs to one thread).

    Args:
        task: names the scene, its randomisation and, in place of the rig's, the size of the images.
        rig: its cameras' names, topics, rates and sizes.
        quality: of the drawing, see `SimEnv`; the rig's by default.
        jpeg_quality: 1 to 100.

    Raises:
        ConfigError: a camera that the scene has no view for, or a scene that cannot be.
    """

    def __init__(self, task: TaskConfig, rig: RigConfig, *, quality: str | None = None, jpeg_quality: int = 95) -> None:
        own = {name: camera.view for name, camera in rig.cameras.items() if camera.view}
        views = {name: name if name in own else VIEWS.get(name, name) for name in rig.cameras}
        for name, view in views.items():
            if view not in {*CAMERAS, *own}:
                raise ConfigError(
                    "camera '{name}' of rig '{rig}' cannot be simulated. {known}",
                    name=name,
                    rig=rig.name,
                    known=did_you_mean(name, {*VIEWS, *CAMERAS}),
                )
        self._views, self._wall = views, WallClock()
        self._env = SimEnv(task.scene, cameras={}, quality=quality or rig.quality, randomise=task.randomise, views=own)
        self._faults = Faults(rig, rospy.logerr)
        self._rng = np.random.default_rng(0)
        self._pace = Pace(rospy.logwarn)
        self._news = threading.Condition()
        self._state: JointState | None = None
        self.cameras = [
            Camera(name, config, task.image_size or (config.height, config.width), jpeg_quality)
            for name, config in rig.cameras.items()
        ]
        self._faults.watch()
        self._subscriber = rospy.Subscriber(STATE_TOPIC, JointState, self._receive, queue_size=1, tcp_nodelay=True)

    def run(self) -> None:
        """Draw until ROS ends.

        Raises:
            ConfigError: the state is another scene's.
        """
        # OpenGL takes half a second to start, better now than between a listener's first two images
        renderer = self._env.show(self._env.physics.data.qpos, 0)
        for camera in self.cameras:
            renderer.draw(self._views[camera.name], camera.size)
        while not rospy.is_shutdown():
            with self._news:
                self._news.wait_for(lambda: self._state is not None, timeout=0.2)
                state, self._state = self._state, None
            if state is not None:
                self.draw(state.header.stamp.to_nsec(), np.array(state.position), int(state.header.frame_id or 0))

    def draw(self, stamp_ns: int, qpos: npt.NDArray[np.float64], seed: int) -> None:
        """Take and publish the images that are due at `stamp_ns` and that have a subscriber."""
        wanted = [camera for camera in self.cameras if camera.has_image_subscriber or camera.has_depth_subscriber]
        faults = {camera: self._faults.of(camera.name, CameraFault) for camera in wanted}
        due = [c for c in wanted if c.timer.opens(stamp_ns, min(faults[c].slow or c.rate_hz, c.rate_hz))]
        if not due:
            return
        begun = self._wall.now_ns()
        renderer = self._env.show(qpos, seed)
        for camera in due:
            fault = faults[camera]
            if not fault.freeze or not camera.has_last:
                camera.take(renderer, self._views[fault.swap or camera.name], stamp_ns)
            if fault.passes(self._rng):
                camera.publish(fault.stamp_ns(camera.last.stamp_ns, self._rng))
        now = self._wall.now_ns()
        requested = ", ".join(sorted({f"{c.size[0]}x{c.size[1]} at {c.rate_hz:g} Hz" for c in wanted}))
        self._pace.round(
            now / 1e9, (now - begun) / 1e9, [c.timer for c in wanted], f"{plural(len(wanted), 'camera')}, {requested}"
        )

    def close(self) -> None:
        """Leave ROS and free the OpenGL contexts."""
        self._subscriber.unregister()
        for camera in self.cameras:
            camera.close()
        self._env.close()

    def _receive(self, state: JointState) -> None:
        with self._news:
            self._state = state
            self._news.notify()


@dataclass(frozen=True)
class SimCamerasArgs:
    """Serve the images of a simulated rig's cameras as real drivers would."""

    EXAMPLE: ClassVar[str] = "--task aloha_transfer_cube --image_size 240 320"
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = ()

    task: Annotated[str, tyro.conf.arg(aliases=["--task_name"])] = "aloha_transfer_cube"
    """Task name (configs/tasks) or YAML path; its scene is rendered."""
    rig: str | None = None
    """Rig name (configs/rigs) or YAML path; the task's when not given."""
    quality: str | None = None
    """Of the renderer: draft, fast or fine; the rig's when not given."""
    jpeg_quality: int = 95
    """1 to 100."""
    image_size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="H W")] = None
    """Height and width of the images, in place of the task's or the rig's."""
    camera_hz: float | None = None
    """Rate of every camera, in place of the rig's."""
    outlive: str = ""
    """Name of a ROS node: the first SIGINT takes effect only when that node has ended."""

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(
                Message("jpeg_quality must lie in 1 to 100, given {jpeg_quality}", jpeg_quality=self.jpeg_quality)
            )
        if self.camera_hz is not None and not 0 < self.camera_hz < math.inf:
            raise ValueError(Message("camera_hz must be above 0, given {camera_hz:g}", camera_hz=self.camera_hz))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the node `sim_cameras` until it is ended."""
    with command_line():
        args = node.node_args(SimCamerasArgs, "sim_cameras_node", argv)
        task = load(TaskConfig, "tasks", args.task, **({"image_size": args.image_size} if args.image_size else {}))
        rig = load(RigConfig, "rigs", args.rig or task.rig)
        if args.camera_hz is not None:
            paced = {name: dataclasses.replace(each, rate_hz=args.camera_hz) for name, each in rig.cameras.items()}
            rig = dataclasses.replace(rig, cameras=paced)
        node.require_master()
        # stamps come with the states, so this node waits for no /clock
        rospy.init_node("sim_cameras", disable_signals=True, disable_rostime=True)
        cameras = SimCameras(task, rig, quality=args.quality, jpeg_quality=args.jpeg_quality)
        with interrupted_after(args.outlive, rospy.loginfo), contextlib.closing(cameras):
            rospy.loginfo(f"cameras of '{rig.name}' in scene '{task.scene}': {', '.join(rig.cameras)}")
            cameras.run()
