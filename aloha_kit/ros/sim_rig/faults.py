"""Fault injection: what the parameter /sim_rig_faults requests, and what that does to a stream.

`rosparam set /sim_rig_faults "{cam_high: {freeze: true}, puppet_left: {offset_s: 0.2}}"` breaks a running
rig, `rosparam delete /sim_rig_faults` heals it. Streams are called as the rig's configuration calls its
cameras and arms, a mobile base is `base`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import rospy

from aloha_kit.config import from_mapping, RigConfig
from aloha_kit.core import ConfigError, did_you_mean
from aloha_kit.core.arm_models import ARM_JOINTS
from aloha_kit.core.lang import Message

PARAM = "/sim_rig_faults"
POLL_S = 0.2


@dataclass(frozen=True)
class StreamFault:
    """Faults of any stream; the defaults are none."""

    stop: bool = False  # nothing is published
    drop: float = 0.0  # share of the messages that get lost, 0 to 1
    offset_s: float = 0.0  # added to every stamp: a clock that is wrong
    jitter_s: float = 0.0  # up to this much added to or taken from a stamp, anew each time

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 1:
            raise ValueError(Message("drop is a share from 0 to 1, given {drop}", drop=self.drop))
        if not self.jitter_s >= 0:
            raise ValueError(Message("jitter_s must be at least 0, given {jitter_s}", jitter_s=self.jitter_s))

    def passes(self, rng: np.random.Generator) -> bool:
        """Whether this message is published."""
        return not self.stop and (self.drop == 0 or rng.random() >= self.drop)

    def stamp_ns(self, stamp_ns: int, rng: np.random.Generator) -> int:
        """The stamp that a message taken at `stamp_ns` carries."""
        shift = self.offset_s + (rng.uniform(-self.jitter_s, self.jitter_s) if self.jitter_s else 0.0)
        return max(0, stamp_ns + round(shift * 1e9))


@dataclass(frozen=True)
class CameraFault(StreamFault):
    """Faults of a camera."""

    freeze: bool = False  # the same image with the same stamp, again and again
    slow: float = 0.0  # Hz in place of its own rate; 0 is off
    swap: str = ""  # the camera whose images this one shows

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.slow >= 0:
            raise ValueError(Message("slow is a rate in Hz, given {slow}", slow=self.slow))


@dataclass(frozen=True)
class ArmFault(StreamFault):
    """Faults of an arm."""

    nan: bool = False  # every position is NaN
    read_failure: bool = False  # the driver lost the bus and reports -π for every joint
    zero_stamp: bool = False  # the driver leaves stamps empty
    torque_loss: bool | str = False  # overloaded motors have shut off: all, or the joint of this name

    def __post_init__(self) -> None:
        super().__post_init__()
        joints = (*ARM_JOINTS, "gripper")
        if isinstance(self.torque_loss, str) and self.torque_loss not in joints:
            raise ValueError(
                Message(
                    "torque_loss: no joint '{torque_loss}'. {known}",
                    torque_loss=self.torque_loss,
                    known=did_you_mean(self.torque_loss, joints),
                )
            )

    def stamp_ns(self, stamp_ns: int, rng: np.random.Generator) -> int:
        return 0 if self.zero_stamp else super().stamp_ns(stamp_ns, rng)


Fault = TypeVar("Fault", bound=StreamFault)


def arm_names(rig: RigConfig) -> dict[str, str]:
    """{name of an arm: "follower left", …}; arms without a driver's name are puppet_… and master_…"""
    followers = {arm.name or f"puppet_{side}": f"follower {side}" for side, arm in rig.followers.items()}
    leaders = {arm.name or f"master_{side}": f"leader {side}" for side, arm in rig.leaders.items()}
    return {**followers, **leaders}


class Faults:
    """Active faults of a rig, read by the nodes before each message; `watch` keeps them current.

    Args:
        rig: whose streams can be broken.
        warn: called once for each fault that does not exist, with those that do. The others stay in force.
    """

    def __init__(self, rig: RigConfig, warn: Callable[[str], None]) -> None:
        kinds: dict[str, type[StreamFault]] = dict.fromkeys(rig.cameras, CameraFault)
        kinds |= dict.fromkeys(arm_names(rig), ArmFault)
        if rig.base is not None:
            kinds["base"] = StreamFault
        self._kinds, self._cameras, self._warn = kinds, set(rig.cameras), warn
        self._active: dict[str, StreamFault] = {}
        self._reported: set[str] = set()

    def of(self, stream: str, kind: type[Fault]) -> Fault:
        """Active fault of `stream`; `kind` is `CameraFault`, `ArmFault` or, for the base, `StreamFault`."""
        found = self._active.get(stream)
        return found if isinstance(found, kind) else kind()

    def set(self, given: object) -> None:
        """Replace the active faults by {stream: {kind: value}}."""
        active: dict[str, StreamFault] = {}
        wrong: list[str] = []
        if not isinstance(given, Mapping):
            wrong.append(f"{PARAM} must be {{stream: {{fault: value}}}}, it is {given!r}")
            given = {}
        for stream, values in given.items():
            try:
                active[str(stream)] = self._fault(str(stream), values)
            except ConfigError as error:
                wrong.append(str(error))
        self._active = active
        for words in wrong:
            if words not in self._reported:
                self._warn(words)
        self._reported = set(wrong)

    def _fault(self, stream: str, values: object) -> StreamFault:
        if stream not in self._kinds:
            raise ConfigError(
                "{param}: no stream '{stream}'. {known}",
                param=PARAM,
                stream=stream,
                known=did_you_mean(stream, self._kinds),
            )
        if not isinstance(values, Mapping):
            raise ConfigError(
                "{param}: {stream} needs {{fault: value}}, it is {values!r}", param=PARAM, stream=stream, values=values
            )
        fault = from_mapping(self._kinds[stream], values, where=f"{PARAM}: {stream}")
        if isinstance(fault, CameraFault) and fault.swap and fault.swap not in self._cameras:
            raise ConfigError(
                "{param}: {stream}: swap: no camera '{swap}'. {known}",
                param=PARAM,
                stream=stream,
                swap=fault.swap,
                known=did_you_mean(fault.swap, self._cameras),
            )
        return fault

    def read(self) -> None:
        """Read the parameter; without a master everything stays as it is."""
        try:
            given = rospy.get_param(PARAM, {})
        except (OSError, rospy.ROSException):
            return
        self.set(given)

    def watch(self) -> None:
        """Read the parameter every `POLL_S` seconds, until ROS ends."""

        def follow() -> None:
            while not rospy.is_shutdown():
                self.read()
                time.sleep(POLL_S)

        self.read()
        threading.Thread(target=follow, name="faults", daemon=True).start()
