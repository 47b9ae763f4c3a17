"""Simulated rig without ROS: scene, arms, scripted operator and base, advanced in time by the caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.config import RigConfig
from aloha_kit.config.rig import ArmConfig
from aloha_kit.core import ConfigError, did_you_mean, START_ARM_POSE, VX300S
from aloha_kit.core.arm_models import arm_model
from aloha_kit.core.lang import Message
from aloha_kit.ros.sim_rig.control_table import GRIPPER
from aloha_kit.ros.sim_rig.motors import Motors, REBOOT_S
from aloha_kit.ros.sim_rig.scripted_operator import HandMode, HOME, ScriptedOperator
from aloha_kit.ros.sim_rig.simulated_arms import folded, Follower, JointFollower, JointLeader, Leader
from aloha_kit.ros.sim_rig.simulated_base import SimulatedBase
from aloha_kit.sim.live import LiveScene
from aloha_kit.sim.workcell import ARMS, START_GRIPPER

Vector = npt.NDArray[np.float64]

AT_START, AWAY = 0.2, 0.4  # rad: how near to the start pose an arm counts as being there, and as having left it
ARRIVED_S = 0.3
FALLEN = -0.02  # m: an object whose centre is so far below the table's top has fallen off
HAND_TICK_S = 0.02  # longest time of the operator between two states: after a stall a hand goes on without a jump
ASIDE_S = 0.5  # how long the operator does not move the leaders after another node moved the arms


class SimRig:
    """A rig in simulation.

    Attributes:
        followers, leaders: {side: arm}; `names` are the driver's.
        base: the mobile base, or None.
        recording: whether a recording runs; where the leaders drive the followers, the operator acts on it.
        seed: of the present objects.

    Args:
        config: which arms there are; their sides must be "left" and "right", as the scenes have them.
        scene: a name of `sim.tasks.SCENES`, or `my_package.module:Name`.
        operator: holds the leaders, or None.
        seed: of the first objects, and again of the first reset.
        warn: called with what a driver would log, and the arm's name.
        reboot_s: how long an Interbotix driver is blocked by each motor that reboots.

    Raises:
        ConfigError: a rig that no scene has, or an unknown scene.
    """

    def __init__(
        self,
        config: RigConfig,
        scene: str,
        *,
        operator: ScriptedOperator | None,
        seed: int,
        warn: Callable[[str], None],
        reboot_s: float = REBOOT_S,
    ) -> None:
        if tuple(config.followers) != ARMS:
            raise ConfigError(
                "scenes have the arms {arms}; rig '{name}' has: {followers}",
                arms=", ".join(ARMS),
                name=config.name,
                followers=", ".join(config.followers) or Message("(none)"),
            )
        self.scene = LiveScene(scene, seed=seed)
        self.followers: dict[str, Follower | JointFollower] = {}
        self.leaders: dict[str, Leader | JointLeader] = {}
        self._warn, self._reboot_s = warn, reboot_s
        self._hardware = config.teleop == "hardware"
        self._wake(config)
        self.operator, self.base = operator, SimulatedBase() if config.base else None
        self.seed, self._next_seed = seed, seed
        self.recording, self.paused = False, False
        self._now, self._hand_now, self._aside_until = 0.0, 0.0, -np.inf
        self._locked: set[str] = set()  # leaders locked at the start pose: the operator moves them once released
        self._released: set[str] = set()  # leaders released there: the operator does the task with them
        self._away: dict[str, float] = dict.fromkeys(self.followers, np.inf)  # when a follower came back to the start
        self._begun = False  # whether a start was requested, and the operator has checked that the task can be done
        self.scene.place(seed)
        if operator is not None:
            operator.prepare(self.scene.object_poses(), seed)

    def advance(self, seconds: float) -> None:
        """Advance the rig; `seconds` is a whole number of the physics' 2 ms steps."""
        if seconds <= 0:
            return
        self._now += seconds
        hand_s = min(seconds, HAND_TICK_S)
        self._hand_now += hand_s
        hands: Mapping[str, Vector | None] = {}
        if self.operator is not None:
            modes = self._hand_modes()
            self._put_back_unreachable(modes)
            present = {side: leader.hand for side, leader in self.leaders.items()}
            hands = self.operator.advance(self._hand_now, modes, present, self.scene.object_poses, self.seed)
        for side, leader in self.leaders.items():
            leader.advance(hand_s, hands.get(side))
        for follower in self.followers.values():
            follower.advance(seconds)
        arms = self.followers.values()
        self.scene.command(
            np.concatenate([arm.targets for arm in arms]), np.concatenate([arm.stiffness for arm in arms])
        )
        self.scene.advance(seconds)
        self._tidy()
        if self.base is not None:
            self.base.advance(seconds, self._now, self.operator.playing(self._hand_now) if self.operator else None)

    @property
    def operator_holds(self) -> bool:
        """Whether the operator holds the leaders, so that Cobot Magic's publish their positions."""
        return self.operator is not None and self._now >= self._aside_until

    def reset(self, seed: int | None = None) -> Future[Vector | None] | None:
        """Put the objects back, as `seed` or the next one has them; the operator's plan for them comes later."""
        self.seed = self._next_seed if seed is None else seed
        self._next_seed = self.seed + 1
        self.scene.place(self.seed)
        return self.operator.prepare(self.scene.object_poses(), self.seed) if self.operator else None

    def drive(self, velocity: npt.ArrayLike) -> None:
        """Command the base: (2,) m/s, rad/s."""
        if self.base is not None:
            self.base.command(velocity, self._now)

    def follow(self, side: str, position: Vector, *, stranger: bool) -> None:
        """Command Cobot Magic's follower from its leader's topic; the operator pauses where another node sends it."""
        follower, leader = self.followers[side], self.leaders.get(side)
        if isinstance(follower, JointFollower):
            follower.command(position)
        if stranger:
            self._aside_until = self._now + ASIDE_S
            if isinstance(leader, JointLeader):
                leader.hold_at(position)

    def snapshot(self) -> dict[str, Any]:
        """State from which `restore` goes on from here in another process, in plain values."""
        leaders = {side: leader.position.tolist() for side, leader in self.leaders.items()}
        return {"qpos": self.scene.qpos.tolist(), "leaders": leaders, "seed": self.seed, "next_seed": self._next_seed}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a `snapshot`: everything lies and stands where it was, motors as a driver starts them.

        Raises:
            ConfigError: it is another scene's.
        """
        self.scene.restore(np.array(snapshot["qpos"], float))
        self.seed, self._next_seed = int(snapshot["seed"]), int(snapshot["next_seed"])
        for arm in self.followers.values():
            self._settle(arm)
        for side, leader in self.leaders.items():
            if side in snapshot["leaders"]:
                leader.position = np.array(snapshot["leaders"][side], float)
        if self.operator is not None:
            self.operator.prepare(self.scene.object_poses(), self.seed)

    def close(self) -> None:
        """End the operator's planning and free the physics."""
        if self.operator is not None:
            self.operator.close()
        self.scene.close()

    def _wake(self, config: RigConfig) -> None:
        """The arms as their drivers find them: Interbotix's asleep, Cobot Magic's at the start pose."""
        for role, group in (("follower", config.followers), ("leader", config.leaders)):
            for side, arm in group.items():
                if arm.driver not in SIMULATED:
                    raise ConfigError(
                        "the {role} {side} of rig '{name}' has driver '{driver}', which cannot be simulated. {known}",
                        role=role,
                        side=side,
                        name=config.name,
                        driver=arm.driver,
                        known=did_you_mean(arm.driver, SIMULATED),
                    )
        self.scene.pose(
            np.concatenate([SIMULATED[arm.driver].pose(side, arm) for side, arm in config.followers.items()])
        )
        for index, (side, arm) in enumerate(config.followers.items()):
            self.followers[side] = SIMULATED[arm.driver].follower(self, index, arm)
            self._settle(self.followers[side])
        for side, arm in config.leaders.items():
            self.leaders[side] = SIMULATED[arm.driver].leader(self, arm)

    def motors(self, arm: ArmConfig, *, torque: bool) -> Motors:
        """Motors of an Interbotix arm, folded; `warn` is called with what its driver would log."""
        model = arm_model(arm.model)
        return Motors(
            model,
            folded(model),
            torque=torque,
            warn=lambda words: self._warn(f"{arm.name}: {words}"),
            reboot_s=self._reboot_s,
        )

    @staticmethod
    def _settle(arm: Follower | JointFollower) -> None:
        """Let the motors hold where the arm is."""
        if isinstance(arm, Follower):
            arm.motors.settle(arm.position)
        else:
            arm.command(arm.position)
            arm.targets = arm.position

    def _hand_modes(self) -> dict[str, HandMode]:
        """Mode of each leader's hand."""
        if self._hardware:
            idle = not self.operator_holds or self.paused
            mode: HandMode = "rest" if idle else "play" if self.recording else "home"
            return dict.fromkeys(self.leaders, mode)
        modes = {side: self._of_leader(side, arm) for side, arm in self.leaders.items() if isinstance(arm, Leader)}
        if "close" in modes.values():  # one is still locked: the task begins when all that were locked are released
            return {side: "rest" if mode == "play" else mode for side, mode in modes.items()}
        return modes

    def _of_leader(self, side: str, leader: Leader) -> HandMode:
        """Mode of one leader: the operator does the task with it once it is released at the start pose, where it
        was locked, as scripts of ALOHA's kind do for one side or both. With the gripper alone free, it is closed."""
        held = leader.motors.torque[:GRIPPER]
        if held.all():
            self._released.discard(side)
            if np.abs(leader.hand[:GRIPPER] - HOME[:GRIPPER]).max() > AT_START:
                self._locked.discard(side)
                return "rest"
            self._locked.add(side)
            return "rest" if leader.motors.torque[GRIPPER] else "close"
        if not held.any() and side in self._locked:
            self._locked.discard(side)
            self._released.add(side)
        return "play" if side in self._released and not held.any() else "rest"

    def _put_back_unreachable(self, modes: Mapping[str, HandMode]) -> None:
        """Put the objects back where a start is requested and the operator cannot do the task from here."""
        assert self.operator is not None
        if not {"close", "home"} & set(modes.values()):
            self._begun = False
        elif not self._begun and (able := self.operator.able(self.scene.object_poses, self.seed)) is not None:
            self._begun = True
            if not able:
                self._put_back()

    def _tidy(self) -> None:
        """Put objects that have fallen off the table back when a follower comes to the start pose, where an attempt
        begins: programs that are not made for the simulation do not request a reset."""
        for side, follower in self.followers.items():
            far = np.abs(follower.position[:GRIPPER] - HOME[:GRIPPER]).max()
            if far > AWAY:
                self._away[side] = np.inf
            elif far < AT_START and self._away[side] == np.inf:
                self._away[side] = self._now
            elif 0 < self._away[side] <= self._now - ARRIVED_S:
                self._away[side] = -np.inf
                fallen = any(pose[2] < FALLEN for pose in self.scene.object_poses().values())
                if fallen and not (self.operator and self.operator.playing(self._hand_now)):
                    self._put_back()

    def _put_back(self) -> None:
        """Place the objects as the next seed has them; it stays the next one for `reset`."""
        self.seed = self._next_seed = self._next_seed + (self.seed == self._next_seed)
        self.scene.place(self.seed)
        if self.operator is not None:
            self.operator.prepare(self.scene.object_poses(), self.seed)


@dataclass(frozen=True)
class _Simulated:
    """Simulation of the arms of one driver."""

    pose: Callable[[str, ArmConfig], npt.ArrayLike]  # (size,) rad and m: where a side's driver finds its arm
    follower: Callable[[SimRig, int, ArmConfig], Follower | JointFollower]  # the scene's arm of this number
    leader: Callable[[SimRig, ArmConfig], Leader | JointLeader]


def _asleep(side: str, arm: ArmConfig) -> npt.ArrayLike:
    model = arm_model(arm.model)
    if model.name != "vx300s" or model.crank is None:
        raise ConfigError("scenes have vx300s followers, the {side} one is a {name}", side=side, name=model.name)
    pose = folded(model)
    return model.vector(pose[:-1], model.crank.travel(pose[-1]))


SIMULATED = {
    "interbotix": _Simulated(
        pose=_asleep,
        follower=lambda rig, index, arm: Follower(rig.scene, index, rig.motors(arm, torque=True)),
        leader=lambda rig, arm: Leader(rig.motors(arm, torque=False)),
    ),
    "joint_state": _Simulated(
        pose=lambda side, arm: VX300S.vector(START_ARM_POSE, START_GRIPPER),
        follower=lambda rig, index, arm: JointFollower(rig.scene, index),
        leader=lambda rig, arm: JointLeader(),
    ),
}
"""{driver: how its arms are simulated}; other drivers have no simulation."""
