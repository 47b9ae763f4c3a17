"""`RosEnv`: a rig behind ROS 1 topics, real or simulated, as one environment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dm_env
import numpy as np
import numpy.typing as npt
import rospy
from dm_env import specs

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import (
    Action,
    aloha_limits,
    Clock,
    Contract,
    Environment,
    Policy,
    SafetyLimits,
)
from aloha_kit.core.versions import package_version
from aloha_kit.loop import SafetyGuard
from aloha_kit.ros.parking import parked_at_exit
from aloha_kit.ros.ros_robot import RosRobot
from aloha_kit.ros.start_sequence import StartSequence
from aloha_kit.ros.streams import installed_fields
from aloha_kit.sync import images
from aloha_kit.sync.observation import (
    describe_streams,
    ObservationBuilder,
    rig_contract,
    TimedObservations,
    WARM_UP_S,
)
from aloha_kit.sync.sensors import rig_sensors
from aloha_kit.sync.topics import guard_bounds


class RosEnv(RosRobot, Environment):
    """ROS environment: followers, cameras and optionally a base, with the observations and actions of `core`.

    `reset` brings the followers to their start pose (it sets torque and the driver's modes first; it
    raises SafetyError, and moves nothing, while another node commands them, which ends a step too),
    puts a simulated rig's objects back, runs `start_sequence`, and gives FIRST when every stream is alive. `step`
    sends, waits for the deadline and matches one sample of each stream. Stamps: "qpos_left", …,
    "images/<camera>", "base_vel", "sensors/<sensor>", "leader_left", … (source of the action), "deadline",
    "command".

    Args:
        leaders, clock: as of `RosRobot`.
        start_sequence: run in `reset` once the followers are at the start pose (see `ros.start_sequence`).

    Attributes:
        late_ns: how late the last deadline was met.

    Raises:
        ConfigError, RosError: as `RosRobot`.
    """

    def __init__(
        self,
        task: TaskConfig,
        rig: RigConfig,
        *,
        leaders: bool = False,
        start_sequence: Callable[[RosEnv], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        sensors = rig_sensors(rig, installed_fields)  # unknown ones raise before anything is contacted
        super().__init__(task, rig, leaders=leaders, clock=clock)
        self.late_ns = 0
        self._start_sequence = start_sequence
        self._steps: int | None = None  # None: the next step begins an episode
        self._next_seed: int | None = None
        contract = rig_contract(task, rig, self.simulated, sensors)
        builder = ObservationBuilder(contract, self.followers, self.base is not None, sensors)
        self._observations = TimedObservations(builder, self.streams.sync, self.clock, task.rate_hz, self.leaders)

    @property
    def contract(self) -> Contract:
        return self._observations.builder.contract

    @property
    def limits(self) -> SafetyLimits:
        """Safety limits: each follower's own, and a base's."""
        return aloha_limits(self.contract, arm={name: arm.model for name, arm in self.followers.items()})

    @property
    def rest_action(self) -> Action:
        """Rest pose (A,), grippers open; `park` moves the followers there."""
        arms = np.concatenate([arm.model.vector(arm.model.rest, 1.0) for arm in self.followers.values()])
        return np.append(arms, np.zeros(len(self.contract.action_names) - len(arms))).astype(np.float32)

    @property
    def max_reward(self) -> float:
        return self._simulation.max_reward if self._simulation else 0.0

    @property
    def episode_len(self) -> int:
        """Actions in an episode."""
        return self.task.episode_len

    @property
    def last_command(self) -> npt.NDArray[np.float64] | None:
        """Last command (A,), a base at rest: the start of the next command. None where nothing was sent."""
        sent = self._arms.last
        return None if sent is None else np.append(sent, np.zeros(len(self.contract.action_names) - len(sent)))

    def seed(self, seed: int) -> None:
        """Set the seed of a simulated rig's next reset; a real rig has no random start."""
        self._next_seed = int(seed)

    def describe(self) -> dict[str, Any]:
        """Describe the rig, seed, arms, and each stream's topic and kind of stamps; plain values for JSON."""
        return {
            "rig": self.rig.name,
            "simulated": dict(self._simulation.about) if self._simulation else False,
            "seed": self._simulation.seed if self._simulation else None,
            "teleop": self.rig.teleop,
            "arms": {name: arm.model.name for name, arm in self.followers.items()},
            "streams": describe_streams(self.streams.topics, self.streams.sync),
            "software": {
                "aloha_kit": package_version(),
                "ros": rospy.get_param("/rosdistro", "").strip(),
            },
        }

    def reset(self) -> dm_env.TimeStep:
        self._steps = None
        self.estop.require_released()
        self.streams.sync.wait(WARM_UP_S)  # without images nothing moves
        self.hold()
        if not self.listens_only:
            self._sole_commander.listen()
            self._arms.to_start()
        self.estop.require_released()
        if self._simulation:
            self._simulation.reset(self._next_seed)
            self._next_seed = None
        if self._start_sequence is not None:
            self._start_sequence(self)
        self._start_from_where_they_are()
        # The streams may still hold samples from before the reset.
        ready_ns = self.clock.now_ns()
        while self.streams.sync.wait(WARM_UP_S).reference_ns < ready_ns:
            self.clock.sleep_until(self.clock.now_ns() + 2_000_000)
        for name in self.leader_arms:
            self.leader_action(name)
        self.estop.require_released()
        self._steps = 0
        return dm_env.restart(self._observations.first())

    def step(self, action: Action) -> dm_env.TimeStep:
        """Send an action (A,), wait for the deadline, observe. An action further from the previous command than the
        guard's largest step is limited to that step.

        Raises:
            ValueError: an action of another shape, or one that is not finite.
            SafetyError: a driver would refuse it, and no arm was sent anything; or a follower no longer follows.
            StreamError: a stream is silent, frozen or out of bound; the followers hold.
        """
        if self._steps is None or self._steps >= self.task.episode_len:
            return self.reset()
        try:
            command = self.checked(action)
            self._sole_commander.require()
            command_ns = self.clock.now_ns()
            self._send(command)
            self.late_ns = self._observations.rate.sleep()
            observation = self._observations.read(command_ns)
            if not self.listens_only:
                self._arms.watch(observation)
        except BaseException:
            self.hold()
            raise
        self._steps += 1
        reward = self._simulation.reward if self._simulation else 0.0
        if self._steps >= self.task.episode_len:
            self.hold()
            return dm_env.truncation(reward, observation)
        return dm_env.transition(reward, observation)

    @contextlib.contextmanager
    def guarded(self, policy: Policy, *, release: bool = False) -> Iterator[SafetyGuard]:
        """Context of the guard between `policy` and the arms, parked at every exit as `parked_at_exit` describes."""
        with parked_at_exit(self, release=release):
            yield self.guard(policy)

    def guard(self, policy: Policy, *, limits: SafetyLimits | None = None) -> SafetyGuard:
        """Guard between `policy` and the arms, without parking; with the followers' limits unless others are given.

        Its bound on the age of streams is the rig's, its emergency stop is the environment's.
        """
        return SafetyGuard(
            policy,
            limits or self.limits,
            **guard_bounds(self.rig, self.contract),
            estop=self.estop,
            start=lambda: self.last_command,
        )

    def run_start_sequence(
        self, *, status: Callable[[str, str], None], poll: Callable[[], str | None], countdown_s: float
    ) -> None:
        """Start sequence of an episode with leader arms. Arguments and errors as of `ros.start_sequence`."""
        StartSequence(status=status, poll=poll, countdown_s=countdown_s)(self)

    def camera_images(self) -> Mapping[str, npt.NDArray[np.uint8]]:
        """Newest images {camera: (H, W, 3) RGB}; raises StreamError where a camera is silent or its image is torn."""
        cameras = self.contract.cameras
        return images.LazyImages({name: self.streams.sync.newest(f"images/{name}").value for name in cameras})

    def observation_spec(self) -> dict[str, Any]:
        """Observation specs, nested like the observation; `stamps` of a reset lacks `command`. Needs every stream."""
        return self._observations.builder.spec(
            {name: self.streams.sync.newest(name).value for name in self.streams.topics}
        )

    def action_spec(self) -> specs.BoundedArray:
        """Action spec (A,): joint targets within the followers' limits, normalised gripper openings, base velocity."""
        return self._observations.builder.action_spec()

    def _start_from_where_they_are(self) -> None:
        """Start the next commands from the measured poses: a follower may have been moved during the start sequence."""
        if not self.listens_only:
            for arm in self.followers.values():
                arm.hold_target()
