"""Rig configuration: arms, cameras and optionally a base, simulated in process or behind ROS topics."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from aloha_kit.config.load import file_field
from aloha_kit.core import ConfigError, did_you_mean
from aloha_kit.core.arm_models import arm_model
from aloha_kit.core.features import role_of
from aloha_kit.core.lang import Message


@dataclass(frozen=True)
class ViewConfig:
    """Pose and field of view of a simulated camera, in metres in the frame of what it is mounted on.

    World: x from the left arm to the right one, y away from the viewer, z up from the table top. Gripper: x points
    out of it, y is the direction in which its fingers close.
    """

    position: tuple[float, float, float]  # where it is
    target: tuple[float, float, float]  # point at its image's centre
    fovy: float = 45.0  # vertical field of view in degrees
    mount: Literal["world", "left_gripper", "right_gripper"] = "world"  # what it moves with

    def __post_init__(self) -> None:
        if self.position == self.target:
            raise ValueError(
                Message("a camera's target cannot be its own position, given {position}", position=list(self.position))
            )
        if not 0 < self.fovy < 180:
            raise ValueError(Message("a camera's fovy lies between 0 and 180 degrees, given {fovy:g}", fovy=self.fovy))


@dataclass(frozen=True)
class CameraConfig:
    """One camera: its image size in pixels and where its images come from: a topic, or a view in simulation."""

    height: int = 480  # of the image, in pixels
    width: int = 640  # likewise
    topic: str = ""  # sensor_msgs/CompressedImage where it ends in "/compressed", else sensor_msgs/Image
    depth_topic: str = ""  # sensor_msgs/Image of 16UC1 (mm); none by default
    depth_size: tuple[int, int] | None = None  # height and width of its depth; the image's when not given
    rate_hz: float = 30.0  # what the driver is set to
    view: ViewConfig | None = None  # simulated cameras: the workcell's own camera of this name when not given

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(
                Message(
                    "an image needs pixels, given height {height}, width {width}", height=self.height, width=self.width
                )
            )
        if self.depth_size is not None and min(self.depth_size) < 1:
            raise ValueError(
                Message("a camera's depth_size needs pixels, given {depth_size}", depth_size=self.depth_size)
            )
        if not self.rate_hz > 0:
            raise ValueError(Message("a camera's rate_hz must be positive, given {rate_hz}", rate_hz=self.rate_hz))

    def depth_beside(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of its depth beside images of another size than its own, as a simulation may draw them."""
        height, width = self.depth_size or (self.height, self.width)
        return round(size[0] * height / self.height), round(size[1] * width / self.width)


@dataclass(frozen=True)
class ArmConfig:
    """One arm behind ROS.

    `driver` is a name in `ros.drivers.DRIVERS`, or my_package.module:Name of an own driver.
    "interbotix": an xs driver under the namespace `name` (`/puppet_left/joint_states`, …).
    "joint_state": sensor_msgs/JointState on `state_topic`, moved by publishing one on `command_topic`.
    """

    driver: str = "interbotix"  # a name in `ros.drivers.DRIVERS`, or my_package.module:Name of an own driver
    name: str = ""  # namespace of an interbotix driver, such as puppet_left
    model: str = "vx300s"  # a name in `core.ARM_MODELS`, or my_package.module:NAME of an own `ArmModel`
    state_topic: str = ""  # sensor_msgs/JointState of a joint_state driver
    command_topic: str = ""  # where a joint_state driver takes its targets
    rate_hz: float = 100.0  # of its joint states

    def __post_init__(self) -> None:
        try:
            arm_model(self.model)
        except ConfigError as error:
            raise ValueError(Message("an arm's model: {error}", error=error)) from error
        if not self.rate_hz > 0:
            raise ValueError(Message("an arm's rate_hz must be positive, given {rate_hz}", rate_hz=self.rate_hz))


@dataclass(frozen=True)
class BaseConfig:
    """A mobile base: nav_msgs/Odometry in, geometry_msgs/Twist out; linear x in m/s, angular z in rad/s."""

    odom_topic: str = "/odom"  # nav_msgs/Odometry
    command_topic: str = "/cmd_vel"  # geometry_msgs/Twist
    rate_hz: float = 50.0  # of its odometry


@dataclass(frozen=True)
class SensorConfig:
    """A further stream of numbers: entries of the ROS messages on a topic.

    An entry is a path in the message: `wrench.force.x`, `data[24]` for an array of 24, `position.finger` for a joint
    of a JointState by its name. Types that `sync.sensors.UNITS` lists have entries and units of their own.
    """

    topic: str  # where its messages are published
    type: str  # of the messages: sensor_msgs/Imu, std_msgs/Float32MultiArray, or any other that is installed
    entries: tuple[str, ...] = ()  # paths in the message; needed unless `sync.sensors.UNITS` lists the type
    units: tuple[str, ...] = ()  # of the entries, one each or one for all
    role: str = ""  # in the contract; by default what the type is called
    rate_hz: float = 100.0  # an observation is as old as the slowest stream's newest sample

    def __post_init__(self) -> None:
        if not self.topic:
            raise ValueError(Message("a sensor needs a topic"))
        if not re.fullmatch(r"\w+/\w+", self.type):
            raise ValueError(
                Message("a sensor's type is a message type such as sensor_msgs/Imu, given '{type}'", type=self.type)
            )
        if role_of(self.role).read != "listed":
            raise ValueError(
                Message("a sensor's role cannot be '{role}', which a contract has already", role=self.role)
            )
        if not self.rate_hz > 0:
            raise ValueError(Message("a sensor's rate_hz must be positive, given {rate_hz}", rate_hz=self.rate_hz))


@dataclass(frozen=True)
class EStopConfig:
    """A required emergency stop: std_msgs/Bool, true while it is pressed, repeated by its source."""

    topic: str = "/aloha_kit/estop"  # std_msgs/Bool
    timeout_s: float = 0.5  # silence of a source that counts as pressed; it sends several times as often

    def __post_init__(self) -> None:
        if not self.topic.startswith("/"):
            raise ValueError(Message("an emergency stop's topic begins with '/', given '{topic}'", topic=self.topic))
        if not 0.05 <= self.timeout_s <= 10:
            raise ValueError(
                Message(
                    "an emergency stop's timeout_s lies between 0.05 and 10 s, given {timeout_s}",
                    timeout_s=self.timeout_s,
                )
            )


@dataclass(frozen=True)
class SyncConfig:
    """Time synchronisation: bounds on the skew and age of the streams of one observation.

    A stream's skew bound is `max_skew_periods` of its own period, and at least `max_skew_s`; its silence
    bound `max_age_periods` of them, and at least `max_age_s`.
    """

    max_skew_periods: float = 1.0  # largest distance from the reference time, in periods of the stream
    max_skew_s: float = 0.02  # fast streams: a lost message or a late thread is no reason to stop
    max_age_periods: float = 5.0  # longest silence, in periods of the stream
    max_age_s: float = 0.25  # longest silence at least
    clock_offset_s: float = 0.1  # stamps further than this from their arrivals are another clock's: corrected, reported


@dataclass(frozen=True)
class RigConfig:
    """A rig. Arms are keyed "left", "right": the order of the keys is the order in the vectors.

    `teleop` is how the followers follow the leaders: "software" (we send the leaders' positions), or "hardware"
    (the leaders drive them, as on Cobot Magic; recording only subscribes). "mouse": the operator moves Push-T's agent
    in a browser, and there are no arms.
    """

    name: str  # in messages and in episodes
    kind: str  # environment: a name in `envs.ENVIRONMENTS`, or my_package.module:Name
    cameras: dict[str, CameraConfig]  # by name
    quality: Literal["draft", "fast", "fine"] = "fast"  # of simulated images: shadows and edges
    followers: dict[str, ArmConfig] = field(default_factory=dict)  # arms that do the task
    leaders: dict[str, ArmConfig] = field(default_factory=dict)  # arms that the operator holds, as their followers
    base: BaseConfig | None = None  # a mobile base
    sensors: dict[str, SensorConfig] = field(default_factory=dict)  # further streams, by name
    estop: EStopConfig | None = None  # none: /aloha_kit/estop is subscribed to, but no publisher is required
    teleop: Literal["software", "hardware", "mouse"] = "software"  # what moves the followers
    sync: SyncConfig = field(default_factory=SyncConfig)  # bounds of the streams of one observation
    gripper_closed_to_start: float = -0.3  # rad of a leader's gripper below which the operator starts an episode
    options: dict[str, Any] = field(default_factory=dict)  # settings of a custom environment
    gripper_current_limit: int = 300  # of the followers' grippers, in the motor's units; 0 leaves it as it is
    file: str = file_field()

    def camera(self, name: str) -> CameraConfig:
        """Configuration of a camera; raises ConfigError, with the cameras that exist, for another name."""
        if name not in self.cameras:
            raise ConfigError(
                "rig '{rig}' has no camera '{name}'. {known}",
                rig=self.name,
                name=name,
                known=did_you_mean(name, self.cameras),
            )
        return self.cameras[name]

    def refuse_devices(self) -> None:
        """Raise `ConfigError` where the rig has devices that a simulation in this process would ignore."""
        given = {"sensors": self.sensors, "base": self.base, "followers": self.followers, "leaders": self.leaders}
        if unused := [name for name, value in given.items() if value]:
            raise ConfigError(
                "rig '{name}' has kind '{kind}', a simulation in this process, which has no {unused}. Remove "
                "them from its file; a rig with drivers of its own has kind 'ros' (simulated: sim_rig.launch)",
                name=self.name,
                kind=self.kind,
                unused=", ".join(unused),
            )

    def __post_init__(self) -> None:
        if wrong := [name for name in self.sensors if not re.fullmatch(r"\w+", name)]:
            raise ValueError(Message("a sensor's name is letters, digits and _, given '{wrong}'", wrong=wrong[0]))
        if unknown := [arm for arm in self.leaders if arm not in self.followers]:
            raise ValueError(
                Message(
                    "no follower for the leaders {unknown}; there are: {followers}",
                    unknown=", ".join(unknown),
                    followers=", ".join(self.followers) or Message("(none)"),
                )
            )
        for name, arm in self.leaders.items():
            mine, theirs = arm_model(arm.model).names, arm_model(self.followers[name].model).names
            if mine != theirs:
                raise ValueError(
                    Message(
                        "the leader {name} ({model}) must have the joints of its follower: {theirs}; it has: {mine}",
                        name=name,
                        model=arm.model,
                        theirs=", ".join(theirs),
                        mine=", ".join(mine),
                    )
                )
