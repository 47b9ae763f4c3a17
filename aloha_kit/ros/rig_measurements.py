"""Rig measurements: plain records made by `inspect` and evaluated by the rig doctor. No ROS needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ArmModel

Times = npt.NDArray[np.int64]
RgbImage = npt.NDArray[np.uint8]


def empty_times() -> Times:
    """Empty (0,) array of times."""
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Publisher:
    """Publisher of a topic; `host` is the address that it registered."""

    node: str
    host: str = "localhost"
    reachable: bool = True  # its host's name resolves and it answers
    same_machine: bool = True


@dataclass(frozen=True, eq=False)
class TopicMeasurement:
    """Expected topic of the rig, and its messages received during the check."""

    stream: str  # name as in `Streams`: "images/cam_high", "qpos_left", "leader_left", "base_vel"
    topic: str
    expected_type: str
    rate_hz: float  # the configured one
    found_type: str = ""  # registered at the master; "" if it was never published
    publishers: tuple[Publisher, ...] = ()
    stamps_ns: Times = field(default_factory=empty_times)  # (N,) of the headers; 0 where the driver set none
    arrivals_ns: Times = field(default_factory=empty_times)  # (N,) on this machine's clock
    sizes: Times = field(default_factory=empty_times)  # (N,) bytes
    prints: Times = field(default_factory=empty_times)  # (N,) checksum of each image's bytes; empty for other streams
    instead: tuple[str, ...] = ()  # topics of the same source that are published, "name (type)"

    @property
    def bytes_per_s(self) -> float:
        """Mean data rate in bytes/s; 0 with fewer than two messages."""
        if len(self.arrivals_ns) < 2:
            return 0.0
        return float(self.sizes[1:].sum() / max((self.arrivals_ns[-1] - self.arrivals_ns[0]) / 1e9, 1e-9))


@dataclass(frozen=True, eq=False)
class CameraMeasurement:
    """Newest image of one camera, or the reason why there is none."""

    name: str
    image: RgbImage | None  # (H, W, 3) RGB
    error: str = ""


@dataclass(frozen=True, eq=False)
class ArmMeasurement:
    """One arm's joint states during the check."""

    stream: str
    model: ArmModel
    raw: npt.NDArray[np.float64]  # (N, size) joints in the order of the vectors: rad, gripper in the driver's unit
    stamps_ns: Times  # (N,), of arrival where the driver set none
    lengths: tuple[int, int, int] = (0, 0, 0)  # of position, velocity, effort in the newest message
    error: str = ""  # why the messages could not be used
    commands: int = 0  # messages on its command topics during the check


@dataclass(frozen=True)
class MotorMeasurement:
    """Registers of one arm's motors by name, one value a motor; empty where the driver gives none."""

    arm: str
    motors: tuple[str, ...] = ()
    registers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class NetworkMeasurement:
    """Network addresses and clock of the ROS graph, as measured by this process."""

    master_uri: str
    master_is_here: bool
    ros_ip: str = ""
    ros_hostname: str = ""
    own_addresses: tuple[str, ...] = ()
    hostname_address: str = ""  # address that this machine's name resolves to; "" if it does not
    use_sim_time: bool = False
    clock_published: bool = False
    clock_step_s: float = 0.0  # how far the wall clock moved against the monotonic one during the check


@dataclass(frozen=True)
class UsbCamera:
    """USB camera of this machine: its configured mode and its USB bus."""

    camera: str
    device: str
    bus: str
    bus_mbit_s: float
    bytes_per_s: float
    format: str


@dataclass(frozen=True)
class DiskMeasurement:
    """Free space and write speed of the data set's folder."""

    folder: str
    write_bytes_s: float
    free_bytes: int
    error: str = ""


@dataclass(frozen=True, eq=False)
class RigMeasurements:
    """All measurements of a rig. `motors` has no entry for arms whose driver has no registers."""

    topics: tuple[TopicMeasurement, ...]
    cameras: tuple[CameraMeasurement, ...]
    arms: tuple[ArmMeasurement, ...]
    motors: tuple[MotorMeasurement, ...]
    network: NetworkMeasurement
    simulated: bool
    drivers: dict[str, dict[str, Any]] = field(default_factory=dict)  # {camera: parameters of its driver's node}
