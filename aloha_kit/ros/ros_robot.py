"""`RosRobot`: the parts of a rig behind ROS 1, connected: arms, base, emergency stop, streams; hold, park, release."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rospy

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import AlohaKitError, Clock, ConfigError
from aloha_kit.ros import node
from aloha_kit.ros.arm import Arm, ArmSetup, Role
from aloha_kit.ros.competing_publishers import SoleCommander
from aloha_kit.ros.drivers import ArmDriver, rig_drivers
from aloha_kit.ros.estop import EStop
from aloha_kit.ros.followers import FollowerArms
from aloha_kit.ros.mobile_base import MobileBase
from aloha_kit.ros.operator_topics import OperatorTopics
from aloha_kit.ros.readings import next_reading
from aloha_kit.ros.simulation_client import first_state_timeout, simulated_rig, SimulationClient
from aloha_kit.ros.streams import Streams
from aloha_kit.sync.leaders import LeaderArms
from aloha_kit.sync.readings import GAP_S, Vector
from aloha_kit.sync.ring import StreamHealth


class RosRobot:
    """Robot behind ROS, without episodes.

    When anything fails nothing more is sent, so the followers stay at their last command; only `release` switches the
    torque off. Once the emergency stop was pressed nothing moves on any path until `estop.reset()`: a base is
    sent zero velocity, arms and leaders nothing.
    Where the rig's leaders drive its followers (`teleop: hardware`) and an operator records, nothing is sent at all.

    Args:
        leaders: connect the leader arms, which an operator moves; a base is pushed by hand then.
        clock: of the stamps; this process must be a ROS node then. By default the node is started here.

    Attributes:
        rig, task, clock; estop: EStop; streams: Streams; base: MobileBase or None.
        followers, leader_arms: {name: Arm}, in the order of the vectors.
        leaders: LeaderArms, the policy of the leader arms, or None without them.

    Raises:
        ConfigError: leaders are requested but the rig has none; another rig is simulated here.
        RosError: no master, or a driver or the rig's `estop` does not run.
    """

    def __init__(self, task: TaskConfig, rig: RigConfig, *, leaders: bool = False, clock: Clock | None = None) -> None:
        if leaders and not rig.leaders:
            raise ConfigError("rig '{rig}' has no leader arms for an operator", rig=rig.name)
        self.task, self.rig, self._teleoperated = task, rig, leaders
        drivers = rig_drivers(rig)  # unknown ones raise before anything is contacted
        self.clock = clock or node.start("aloha_teleop" if leaders else "aloha_kit", anonymous=True)
        first = next(iter(drivers["follower"].values()))
        # a simulation sets its parameter before its first state
        next_reading(first.state_topic, first.name, first_state_timeout())
        with contextlib.ExitStack() as opened:
            about = simulated_rig()
            if about and about.get("rig", rig.name) != rig.name:
                raise ConfigError(
                    "the simulated rig that runs here is '{running}', not '{rig}'", running=about["rig"], rig=rig.name
                )
            self._simulation = opened.enter_context(contextlib.closing(SimulationClient(about))) if about else None
            self.estop = opened.enter_context(contextlib.closing(EStop(rig.estop)))

            def connect(role: Role) -> dict[str, Arm]:
                return {name: self._connect(driver, role, opened) for name, driver in drivers[role].items()}

            self._arms = FollowerArms(
                connect("follower"), rig, self.clock, estop=self.estop,
                before_each=lambda: self._sole_commander.require(),
            )  # fmt: skip
            self.leader_arms = connect("leader") if leaders else {}
            base = MobileBase(rig.base, rate_hz=task.rate_hz, clock=self.clock) if rig.base else None
            self.base = opened.enter_context(contextlib.closing(base)) if base else None
            self.estop.when_pressed(self.hold)
            rospy.on_shutdown(self.hold)  # before the topics are closed
            self.streams = Streams(rig, task.cameras, leaders=leaders, clock=self.clock)
            opened.callback(self.streams.close)
            self.leaders = (
                LeaderArms(self.leader_arms, self.streams.sync, self.clock, base=bool(rig.base), timeout_s=GAP_S)
                if leaders
                else None
            )
            self._sole_commander = SoleCommander(
                rig, teleoperated=leaders, published_twice=self.streams.published_twice, disturbed=self._forget
            )
            opened.callback(self._sole_commander.close)
            self._opened = opened.pop_all()

    @property
    def followers(self) -> dict[str, Arm]:
        """Follower arms {name: arm}, in the order of the vectors."""
        return self._arms.arms

    @property
    def simulated(self) -> bool:
        """Whether the rig behind the topics is a simulation."""
        return self._simulation is not None

    @property
    def listens_only(self) -> bool:
        """Whether nothing may be sent: the leaders drive the followers while an operator records."""
        return self._teleoperated and self.rig.teleop == "hardware"

    @property
    def untouched(self) -> bool:
        """Whether no request was sent to the followers yet, so that there is nothing to park."""
        return self._arms.untouched

    def move(self, targets: Mapping[Arm, npt.ArrayLike], seconds: float) -> None:
        """Move followers or leaders to targets, together and smoothly. Raises as `Arm.command`."""
        self._arms.move(targets, seconds)

    def operator(self, commands: Sequence[str], namespace: str) -> OperatorTopics:
        """Operator commands by topic and service under `namespace`; `reset` is refused while the stop is still pressed.

        Raises:
            RosError: a running program uses this namespace already.
        """
        file = str(Path(self.task.file).resolve()) if self.task.file else ""
        channel = OperatorTopics(commands, namespace, file)
        channel.refuse("reset", self.estop.refusal)
        return channel

    def stream_health(self) -> dict[str, StreamHealth]:
        """Health {stream: its rate, age and problem}."""
        return self.streams.sync.health()

    def require_connection(self) -> None:
        """Raise RosError where ROS has shut this node down or no master answers, so that waiting is pointless."""
        node.require_running()
        node.require_master()

    def require_alone(self) -> None:
        """Raise SafetyError, naming the node, where another one commands this rig or publishes a stream too."""
        self._sole_commander.require()

    def prepare(self) -> None:
        """Set followers' modes, limits and torque, for `park` without a `reset`. Raises as `FollowerArms.prepare`."""
        self._sole_commander.listen()
        self._arms.prepare()

    def hold(self) -> None:
        """Hold still: a base stops; arms under torque stay at their last command by themselves."""
        if self.base is not None:
            self.base.stop()

    def leader_action(self, name: str) -> Vector:
        """Follower target from a leader's newest reading; raises StreamError where it is silent."""
        if self.leaders is None:
            raise ConfigError("this rig was connected without its leaders")
        return self.leaders.reading(name)

    def lock_leaders(self) -> None:
        """Lock the leaders in place, so that hands can leave them; one whose driver has ended is skipped."""
        if not self.listens_only:
            for arm in self.leader_arms.values():
                with contextlib.suppress(AlohaKitError):
                    arm.set_torque(True)

    def torque_report(self) -> str:
        """Torque state of the followers' motors as text: "their torque is on" where all of them have it."""
        return self._arms.torque_report()

    def park(self, seconds: float | None = None) -> None:
        """Park the followers at their rest pose, whatever the streams' state. Raises as `FollowerArms.park`."""
        self.hold()
        if not self.listens_only:
            self.estop.require_released()
            self._sole_commander.wait()
            self._arms.park(seconds)

    def release(self, *, even_if_they_fall: bool = False) -> None:
        """Switch the followers' torque off. Raises SafetyError unless they are parked."""
        self._arms.release(even_if_they_fall=even_if_they_fall)

    def close(self) -> None:
        """Stop a base and leave ROS; nothing is sent to the arms."""
        self._opened.close()

    def _connect(self, driver: ArmDriver, role: Role, opened: contextlib.ExitStack) -> Arm:
        model = driver.model(self._simulation.arm_model if self._simulation else None)
        topics, rate_hz = (driver.state_topic, driver.command_topics), self.task.rate_hz
        setup = ArmSetup(driver.name, model, self.clock, *topics, role=role, estop=self.estop, rate_hz=rate_hz)
        return opened.enter_context(contextlib.closing(driver.connect(setup)))

    def _send(self, command: npt.NDArray[np.float64]) -> None:
        """Send an action (A,) to the followers and, unless an operator pushes it, the base."""
        if self.listens_only:
            return
        with self.estop.sending():
            self._arms.send(command)
            if self.base is not None and not self._teleoperated:
                self.base.drive(command[-2:])

    def _forget(self) -> None:
        """Discard the last commands of all arms: another sender may have moved them."""
        self._arms.forget()
        for arm in self.leader_arms.values():
            arm.forget()
