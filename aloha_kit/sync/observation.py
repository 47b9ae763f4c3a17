"""Observation builder: matched ROS messages to an observation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from dm_env import specs

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.config.match_checkpoint import BASE_NAMES, rig_joints
from aloha_kit.core import Clock, Contract, ContractError, Feature, Observation, Rate, ReadingError
from aloha_kit.core.features import DEPTHS, joint_sensors
from aloha_kit.core.source import Depth
from aloha_kit.sync import images
from aloha_kit.sync.arm_readers import arm_description, ArmReader
from aloha_kit.sync.leaders import LeaderArms
from aloha_kit.sync.readings import base_velocity, GAP_S, require_believable, retry_read
from aloha_kit.sync.sensors import Sensor
from aloha_kit.sync.soft_sync import Matched, SoftSync
from aloha_kit.sync.topics import rig_topics

WARM_UP_S = 15.0
"""Timeout of the streams' first samples."""

QUANTITIES = {"qvel": "velocity", "effort": "effort"}
"""{observation key: JointState field} of quantities that drivers may omit."""


def rig_contract(task: TaskConfig, rig: RigConfig, simulated: bool, sensors: Mapping[str, Sensor]) -> Contract:
    """Contract of `task` on `rig` with its sensors; where it is simulated, the task may set the size of images.

    A feature has the rate of its stream, joints that of the slowest follower, where it is not the control rate.
    """
    small = task.image_size if simulated else None
    cameras = {name: small or (rig.cameras[name].height, rig.cameras[name].width) for name in task.cameras}
    states, actions = rig_joints(rig)
    features = list(joint_sensors(states, _effort_units(rig)))
    if rig.base:
        features.append(Feature.vector("base_vel", "velocity", BASE_NAMES, ("m/s", "rad/s"), optional=True))
    features += [sensor.feature() for sensor in sensors.values()]
    for name, size in cameras.items():
        if rig.cameras[name].depth_topic:
            features.append(Feature.depth(name, rig.cameras[name].depth_beside(size)))
    contract = Contract.of(states, actions, cameras, float(task.rate_hz), sensors=features)
    rates = {stream: topic.rate_hz for stream, topic in rig_topics(rig, task.cameras, leaders=False)}
    rates |= dict.fromkeys(("qpos", *QUANTITIES), min(arm.rate_hz for arm in rig.followers.values()))
    own = {name: float(rate) for name, rate in rates.items() if rate != task.rate_hz}
    return replace(contract, features=tuple(replace(f, rate_hz=own.get(f.name)) for f in contract.features))


def _effort_units(rig: RigConfig) -> list[str]:
    """Effort unit of each joint, from its arm's driver."""
    arms = [arm_description(arm) for arm in rig.followers.values()]
    return [arm.effort_unit for arm in arms for _ in arm.model().names]


def describe_streams(topics: Mapping[str, str], sync: SoftSync) -> dict[str, Any]:
    """Describe streams: {stream: its topic, whether stamps are the driver's or arrivals, and its clock offset}."""
    health = sync.health()
    return {
        name: {
            "topic": topic,
            "stamp": "header" if health[name].stamped else "arrival",
            "clock_offset_s": health[name].offset_s if health[name].stamped else 0.0,
            "corrected": health[name].corrected,
        }
        for name, topic in topics.items()
    }


@dataclass(frozen=True)
class ObservationBuilder:
    """Observation builder; `followers` in the order of the vectors.

    Drivers have to give positions only. An episode has `qvel` or `effort` if every arm gives it at its first step.

    Attributes:
        required: the entries of `QUANTITIES` that every observation must have.
    """

    contract: Contract
    followers: Mapping[str, ArmReader]
    base: bool
    sensors: Mapping[str, Sensor] = field(default_factory=dict)
    required: frozenset[str] = frozenset()

    def read(self, sync: SoftSync, timeout_s: float) -> Observation:
        """Match and build one observation. Raises as `match`, `require_believable` and `observation` do."""
        matched = sync.match(timeout_s)
        for name, arm in self.followers.items():
            stream = f"qpos_{name}"
            sample = matched.samples[stream]
            require_believable(arm.name, arm.model, arm.leader_action, sample, sync, stream)
        return self.observation(matched)

    def observation(self, matched: Matched) -> Observation:
        """Build one observation. Images are decoded at their first access, depth at once.

        Raises:
            ReadingError: a driver lost this reading or a required quantity, or an image is torn.
            StreamError: a message lacks a required field.
            ContractError: a camera's images or its depth differ in size from its configuration.
        """
        values = {name: sample.value for name, sample in matched.samples.items()}
        states = [arm.read(values[f"qpos_{name}"]) for name, arm in self.followers.items()]
        messages = {name: values[f"images/{name}"] for name in self.contract.cameras}
        self._require_sizes(messages)
        observation = Observation(
            qpos=np.concatenate([state.qpos for state in states]),
            images=images.LazyImages(messages),
            images_jpeg=images.jpegs(messages),
            stamps={name: sample.stamp_ns for name, sample in matched.samples.items()},
        )
        for quantity, word in QUANTITIES.items():
            parts = [getattr(state, quantity) for state in states]
            lacking = [arm.name for arm, part in zip(self.followers.values(), parts, strict=True) if part is None]
            if not lacking:
                observation[quantity] = np.concatenate(parts)  # type: ignore[literal-required]
            elif quantity in self.required:
                raise ReadingError(
                    "{lacking}: joint states without {word}, which were there before",
                    lacking=", ".join(lacking),
                    word=word,
                )
        if depth := {name.removeprefix(DEPTHS): value for name, value in values.items() if name.startswith(DEPTHS)}:
            observation["images_depth"] = {name: self._depth(name, message) for name, message in depth.items()}
        if self.base:
            observation["base_vel"] = base_velocity(values["base_vel"])
        if self.sensors:
            read = {name: sensor.read(values[f"sensors/{name}"]) for name, sensor in self.sensors.items()}
            observation["sensors"] = read
        return observation

    def spec(self, newest: Mapping[str, Any]) -> dict[str, Any]:
        """Observation specs, nested like the observation; `newest`: a message of each stream."""
        joints = len(self.contract.state_names)
        given = [name for name in QUANTITIES if self._all_give(name, newest)]
        spec: dict[str, Any] = {name: specs.Array((joints,), np.float32, name) for name in ("qpos", *given)}
        spec["images"] = {
            name: specs.BoundedArray((*size, 3), np.uint8, 0, 255, f"images/{name}")
            for name, size in self.contract.cameras.items()
        }
        if self.base:
            spec["base_vel"] = specs.Array((2,), np.float32, "base_vel")
        if self.sensors:
            spec["sensors"] = {
                name: specs.Array((len(sensor.entries),), np.float32, f"sensors/{name}")
                for name, sensor in self.sensors.items()
            }
        if depth := self.contract.depth_cameras:
            spec["images_depth"] = {
                name: specs.Array(size, np.uint16, f"images_depth/{name}") for name, size in depth.items()
            }
        spec["stamps"] = {name: specs.Array((), np.int64, f"stamps/{name}") for name in [*newest, "deadline"]}
        return spec

    def action_spec(self) -> specs.BoundedArray:
        """Action spec (A,): joint targets within the limits (rad), normalised gripper openings, base velocity."""
        models = [arm.model for arm in self.followers.values()]
        free = np.full(len(self.contract.action_names) - len(self.contract.state_names), np.inf)
        low = np.concatenate([*(model.vector(model.lower, 0.0) for model in models), -free])
        high = np.concatenate([*(model.vector(model.upper, 1.0) for model in models), free])
        return specs.BoundedArray(low.shape, np.float32, low.astype(np.float32), high.astype(np.float32), "action")

    def _all_give(self, quantity: str, newest: Mapping[str, Any]) -> bool:
        if quantity in self.required:
            return True
        readings = (arm.read(newest[f"qpos_{name}"]) for name, arm in self.followers.items())
        return all(getattr(state, quantity) is not None for state in readings)

    def _require_sizes(self, messages: Mapping[str, Any]) -> None:
        for name, message in messages.items():
            try:
                size = images.size(message)
            except ReadingError as error:
                raise ReadingError("camera '{name}': {error}", name=name, error=error) from error
            if size != self.contract.cameras[name]:
                raise ContractError(
                    "camera '{name}' sends images of {height} x {width} (height x width) pixels, configured are "
                    "{its_height} x {its_width}",
                    name=name,
                    height=size[0],
                    width=size[1],
                    its_height=self.contract.cameras[name][0],
                    its_width=self.contract.cameras[name][1],
                )

    def _depth(self, name: str, message: Any) -> Depth:
        depth, configured = images.decode_depth(message), self.contract.depth_cameras[name]
        if depth.shape != configured:
            raise ContractError(
                "camera '{name}' sends depth of {height} x {width} (height x width) pixels, configured are "
                "{its_height} x {its_width}: set its depth_size in the rig's file",
                name=name,
                height=depth.shape[0],
                width=depth.shape[1],
                its_height=configured[0],
                its_width=configured[1],
            )
        return depth


class TimedObservations:
    """Observations of a rig, one at each deadline of the control rate, with the stamps of the step.

    Args:
        leaders: the policy whose readings are stamped too.

    Attributes:
        builder: makes the observations; after `first` with the quantities that the episode has.
        rate: gives the deadlines.
    """

    def __init__(
        self, builder: ObservationBuilder, sync: SoftSync, clock: Clock, rate_hz: float, leaders: LeaderArms | None
    ) -> None:
        self.builder, self.rate = builder, Rate(rate_hz, clock)
        self._sync, self._clock, self._leaders = sync, clock, leaders

    def first(self) -> Observation:
        """First observation of an episode: whether it has velocities and efforts, which are retried for `GAP_S`.

        The deadlines start once it is made: those retries may last longer than a step.
        """
        self.builder = replace(self.builder, required=frozenset(QUANTITIES))
        try:
            observation = self.read(command_ns=None)
        except ReadingError:
            self.builder = replace(self.builder, required=frozenset())
            observation = self.read(command_ns=None)
            self.builder = replace(self.builder, required=frozenset(QUANTITIES) & observation.keys())
        self.rate.reset()
        observation["stamps"]["deadline"] = self.rate.deadline_ns
        return observation

    def read(self, command_ns: int | None) -> Observation:
        """Observation now. Raises as `ObservationBuilder.read`, which is retried for `GAP_S`.

        Args:
            command_ns: when the action that led here was sent; None at a reset.
        """
        observation = retry_read(lambda: self.builder.read(self._sync, GAP_S), self._clock, GAP_S)
        stamps = observation["stamps"]
        if self._leaders is not None:
            stamps.update(self._leaders.stamps)
        stamps["deadline"] = self.rate.deadline_ns
        if command_ns is not None:
            stamps["command"] = command_ns
        return observation
