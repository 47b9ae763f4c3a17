"""Replay of a bag as an environment: the recorder's soft sync, observations and actions, on the bag's own time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import dm_env
import numpy as np
from dm_env import specs

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import Action, aloha_limits, Observation, Policy, StopEpisode, StreamError
from aloha_kit.core.lang import Message
from aloha_kit.formats.bag_file import Bag
from aloha_kit.loop import SafetyGuard
from aloha_kit.sync import images
from aloha_kit.sync.arm_readers import arm_description, ArmReader
from aloha_kit.sync.leaders import LeaderArms
from aloha_kit.sync.observation import (
    describe_streams,
    ObservationBuilder,
    rig_contract,
    TimedObservations,
    WARM_UP_S,
)
from aloha_kit.sync.readings import GAP_S
from aloha_kit.sync.sensors import rig_sensors
from aloha_kit.sync.soft_sync import POLL_NS, SoftSync
from aloha_kit.sync.topics import guard_bounds, stream_specs, Topic

Arrival: TypeAlias = tuple[str, int, Any]
"""Topic, time in ns, message."""


class ReplayClock:
    """Clock of a recording: to wait until a time is to receive what arrived until then.

    Args:
        arrivals: messages in order of arrival; at least one.
        receive: called with the topic and the message when the clock is at its arrival.
    """

    def __init__(self, arrivals: Iterator[Arrival], receive: Callable[[str, Any], None]) -> None:
        self._arrivals, self._receive = arrivals, receive
        self._next: Arrival | None = next(arrivals)
        self._now = self.start_ns = self._next[1]

    def now_ns(self) -> int:
        return self._now

    def sleep_until(self, deadline_ns: int) -> None:
        """Receive all messages until `deadline_ns`; raises StopEpisode where the recording ends before."""
        while self._next is not None and self._next[1] <= deadline_ns:
            topic, self._now, message = self._next
            self._receive(topic, message)
            self._next = next(self._arrivals, None)
        if self._next is None:
            raise StopEpisode("the bag ends")
        self._now = max(self._now, deadline_ns)


class BagReplay(dm_env.Environment):  # type: ignore[misc]
    """A rig whose messages come from a bag. What is given to `step` moves nothing.

    Args:
        topics: {stream: topic} of all streams, leaders' too where they give the actions.
        followers, leaders: readers of the arms, in the order of the vectors.

    Attributes:
        policy: what the recorder takes the actions from, see `recorded_actions`.
    """

    def __init__(
        self,
        bag: Bag,
        task: TaskConfig,
        rig: RigConfig,
        topics: Mapping[str, Topic],
        *,
        followers: Mapping[str, ArmReader],
        leaders: Mapping[str, ArmReader],
    ) -> None:
        self.rig, self._topics = rig, {stream: topic.name for stream, topic in topics.items()}
        streams: dict[str, list[str]] = {}
        for stream, topic in self._topics.items():
            streams.setdefault(topic, []).append(stream)
        self._streams = streams
        self.clock = ReplayClock(bag.messages(streams), self._receive)
        self.sync = SoftSync(stream_specs(topics, rig.sync), self.clock, clock_offset_s=rig.sync.clock_offset_s)
        sensors = rig_sensors(rig, bag.fields)
        small = task.image_size is not None and all(
            images.size(bag.first(rig.cameras[name].topic)) == task.image_size for name in task.cameras
        )
        self.contract = rig_contract(task, rig, small, sensors)
        self.arms = {name: reader.model for name, reader in followers.items()}
        builder = ObservationBuilder(self.contract, followers, rig.base is not None, sensors)
        base = rig.base is not None
        self.leaders = LeaderArms(leaders, self.sync, self.clock, base=base, timeout_s=GAP_S) if leaders else None
        self._observations = TimedObservations(builder, self.sync, self.clock, task.rate_hz, self.leaders)
        self._begin_ns = self._command_ns = 0

    @property
    def seconds(self) -> float:
        """Time since the bag's first message."""
        return (self.clock.now_ns() - self.clock.start_ns) / 1e9

    def begin_at(self, time_ns: int) -> None:
        """Begin the episode no earlier than at a time of arrivals."""
        self._begin_ns = time_ns

    def reset(self) -> dm_env.TimeStep:
        """First observation, once every stream is ready. Raises StreamError as `SoftSync.wait`, within `WARM_UP_S`."""
        if self._begin_ns > self.clock.now_ns():
            self.clock.sleep_until(self._begin_ns)
        self.sync.wait(WARM_UP_S)
        for name in self.leaders.arms if self.leaders else ():
            self.leaders.reading(name)  # type: ignore[union-attr]
        return dm_env.restart(self._observations.first())

    def step(self, action: Action) -> dm_env.TimeStep:
        """Observation at the next deadline. Raises as the recorder's environment does, StopEpisode at the end."""
        if self.clock.now_ns() <= self._command_ns:  # after a late step; a recorder's own work takes time too
            self.clock.sleep_until(self._command_ns + POLL_NS)
        self._command_ns = command_ns = self.clock.now_ns()
        self._observations.rate.sleep()
        observation = self._observations.read(command_ns)
        if stepped := [name for name, health in self.sync.health().items() if health.restarts]:
            raise StreamError(
                "the clock of stream '{stream}' ({topic}) was set back",
                stream=stepped[0],
                topic=self._topics[stepped[0]],
            )
        return dm_env.transition(0.0, observation)

    def observation_spec(self) -> dict[str, Any]:
        """Observation specs, nested like the observation."""
        return self._observations.builder.spec({name: self.sync.newest(name).value for name in self._topics})

    def action_spec(self) -> specs.BoundedArray:
        """Action spec (A,)."""
        return self._observations.builder.action_spec()

    def describe(self) -> dict[str, Any]:
        """Arms, and each stream's topic and kind of stamps; plain values for JSON."""
        return {
            "rig": self.rig.name,
            "teleop": self.rig.teleop,
            "arms": {name: model.name for name, model in self.arms.items()},
            "streams": describe_streams(self._topics, self.sync),
        }

    def recorded_actions(self) -> Policy:
        """The leaders behind the guard, as the recorder has them; raises ValueError without leaders."""
        if self.leaders is None:
            raise ValueError(Message("this bag is replayed without leaders"))
        limits = aloha_limits(self.contract, arm=self.arms).recorded(self.rig.teleop == "hardware")
        return SafetyGuard(self.leaders, limits, **guard_bounds(self.rig, self.contract))

    def _receive(self, topic: str, message: Any) -> None:
        header = getattr(message, "header", None)
        stamp_ns = 0 if header is None else header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
        for stream in self._streams[topic]:
            self.sync.add(stream, stamp_ns, message, (getattr(header, "seq", 0) or None) if header else None)


@dataclass(frozen=True)
class Commands:
    """Commands of one arm or base that a bag holds: when each arrived, and the whole target after it (size,)."""

    arrivals_ns: list[int]
    targets: list[Action]

    def until(self, time_ns: int) -> Action:
        """(size,) the newest target at a time; the first one before it came."""
        return self.targets[max(0, bisect_right(self.arrivals_ns, time_ns) - 1)]


class CommandedTargets:
    """Policy of a bag without leaders: what was commanded, (A,), in the step that begins now.

    Args:
        arms: {arm: its commands} in the order of the action.
        base: of a mobile base; without, its observed velocity is the action, as of one that is pushed.
    """

    def __init__(
        self, arms: Mapping[str, Commands], base: Commands | None, has_base: bool, env: BagReplay, period_ns: int
    ) -> None:
        self._arms, self._base, self._has_base = dict(arms), base, has_base
        self._env, self._period_ns = env, period_ns

    @property
    def begin_ns(self) -> int:
        """When every arm had been commanded."""
        return max(commands.arrivals_ns[0] for commands in self._arms.values())

    def reset(self) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Observation) -> Action:
        """Action (A,): the newest command of each arm before the step's end."""
        end_ns = self._env.clock.now_ns() + self._period_ns
        parts = [commands.until(end_ns) for commands in self._arms.values()]
        if self._has_base:
            parts.append(self._base.until(end_ns) if self._base else observation["base_vel"])
        return np.concatenate(parts).astype(np.float32)


def read_commands(
    bag: Bag, rig: RigConfig, followers: Mapping[str, ArmReader]
) -> tuple[dict[str, Commands], Commands | None] | None:
    """Commands of every follower {arm: its commands}, and the base's where there are some; None where an arm has none.

    Raises:
        StreamError: a command does not fit its arm.
    """
    owners = {topic: name for name, arm in rig.followers.items() for topic in arm_description(arm).command_topics}
    base = rig.base.command_topic if rig.base else ""
    partial = {name: np.full(reader.model.size, np.nan, np.float32) for name, reader in followers.items()}
    found = {name: Commands([], []) for name in followers}
    driven = Commands([], [])
    for topic, arrival_ns, message in bag.messages([*owners, *([base] if base else [])]):
        if topic == base:
            velocity = np.array([message.linear.x, message.angular.z], np.float32)
            driven.arrivals_ns.append(arrival_ns)
            driven.targets.append(velocity)
            continue
        name = owners[topic]
        commanded = getattr(followers[name], "commanded", None)
        values = commanded(message) if commanded else {}
        for entry, value in values.items():
            partial[name][entry] = value
        if values and np.isfinite(partial[name]).all():
            found[name].arrivals_ns.append(arrival_ns)
            found[name].targets.append(partial[name].copy())
    if not all(commands.targets for commands in found.values()):
        return None
    return found, driven if driven.targets else None
