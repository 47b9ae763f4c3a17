"""Scene, arms, person and base as one machine that is told how much time passes. No ROS in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.config import RigConfig
from aloha_kit.core import ARM_MODELS, ConfigError, START_ARM_POSE
from aloha_kit.ros.sim_rig.arms import folded, Follower, JointFollower, JointLeader, Leader
from aloha_kit.ros.sim_rig.base import Base
from aloha_kit.ros.sim_rig.motors import GRIPPER, Motors, REBOOT_S
from aloha_kit.ros.sim_rig.person import Gesture, HOME, Person
from aloha_kit.sim.environment import START_GRIPPER
from aloha_kit.sim.live import LiveScene
from aloha_kit.sim.workcell import ARMS

Vector = npt.NDArray[np.float64]

AT_START = 0.1  # rad: how near to the start pose a locked leader counts as being there
HAND_TICK_S = 0.02  # the person's time between two states at most: after a stall a hand goes on, it does not jump
ASIDE_S = 0.5  # the person leaves the leaders alone so long after somebody else moved the arms


class SimRig:
    """A rig in simulation.

    Attributes:
        followers, leaders: {side: arm}; `names` tells what a driver calls them.
        base: the mobile base, or None.
        recording: whether a recording runs; where the leaders drive the followers, the person acts on it.
        seed: of the present objects.

    Args:
        config: which arms there are; their sides must be "left" and "right", as the scenes have them.
        scene: "transfer_cube" or "insertion".
        person: who holds the leaders, or None.
        seed: of the first objects, and again of the first reset.
        complain: told, with the arm's name, what a driver would log.
        reboot_s: how long an Interbotix driver is blocked by each motor that reboots.

    Raises:
        ConfigError: a rig that no scene has, or an unknown scene.
    """

    def __init__(
        self,
        config: RigConfig,
        scene: str,
        *,
        person: Person | None,
        seed: int,
        complain: Callable[[str], None],
        reboot_s: float = REBOOT_S,
    ) -> None:
        if tuple(config.followers) != ARMS:
            raise ConfigError(
                f"scenes have the arms {', '.join(ARMS)}; "
                f"rig '{config.name}' has: {', '.join(config.followers) or '(none)'}"
            )
        self.scene = LiveScene(scene, seed=seed)
        self.followers: dict[str, Follower | JointFollower] = {}
        self.leaders: dict[str, Leader | JointLeader] = {}
        self._complain, self._reboot_s = complain, reboot_s
        self._hardware = config.teleop == "hardware"
        self._wake(config)
        self.person, self.base = person, Base() if config.base else None
        self.seed, self._next_seed = seed, seed
        self.recording, self.paused = False, False
        self._now, self._hand_now = 0.0, 0.0
        self._locked, self._aside_until = False, -np.inf
        self.scene.place(seed)
        if person is not None:
            person.prepare(self.scene.object_poses(), seed)

    def advance(self, seconds: float) -> None:
        """Let time pass; `seconds` is a whole number of the physics' 2 ms steps."""
        if seconds <= 0:
            return
        self._now += seconds
        hand_s = min(seconds, HAND_TICK_S)
        self._hand_now += hand_s
        hands = None
        if self.person is not None:
            present = {side: leader.hand for side, leader in self.leaders.items()}
            hands = self.person.advance(self._hand_now, self._gesture(), present, self.scene.object_poses, self.seed)
        for side, leader in self.leaders.items():
            leader.advance(hand_s, hands[side] if hands else None)
        for follower in self.followers.values():
            follower.advance(seconds)
        arms = self.followers.values()
        self.scene.command(
            np.concatenate([arm.targets for arm in arms]), np.concatenate([arm.stiffness for arm in arms])
        )
        self.scene.advance(seconds)
        if self.base is not None:
            self.base.advance(seconds, self._now, self.person.playing(self._hand_now) if self.person else None)

    @property
    def person_holds(self) -> bool:
        """Whether the leaders are in the person's hands, so that Cobot Magic's say where they are."""
        return self.person is not None and self._now >= self._aside_until

    def reset(self, seed: int | None = None) -> Future[Vector | None] | None:
        """Put the objects back, as `seed` or the next one has them; the person's plan for them comes later."""
        self.seed = self._next_seed if seed is None else seed
        self._next_seed = self.seed + 1
        self.scene.place(self.seed)
        return self.person.prepare(self.scene.object_poses(), self.seed) if self.person else None

    def drive(self, velocity: npt.ArrayLike) -> None:
        """Command the base: (2,) m/s, rad/s."""
        if self.base is not None:
            self.base.command(velocity, self._now)

    def follow(self, side: str, position: Vector, *, stranger: bool) -> None:
        """What Cobot Magic's follower is told on its leader's topic; from a stranger, the person gives way."""
        follower, leader = self.followers[side], self.leaders.get(side)
        if isinstance(follower, JointFollower):
            follower.command(position)
        if stranger:
            self._aside_until = self._now + ASIDE_S
            if isinstance(leader, JointLeader) and position.shape == (7,) and np.all(np.isfinite(position)):
                leader.position = position.copy()

    def snapshot(self) -> dict[str, Any]:
        """What `restore` needs to go on from here in another process, in plain values."""
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
        if self.person is not None:
            self.person.prepare(self.scene.object_poses(), self.seed)

    def close(self) -> None:
        """End the person's thinking and free the physics."""
        if self.person is not None:
            self.person.close()
        self.scene.close()

    def _wake(self, config: RigConfig) -> None:
        """The arms as their drivers find them: Interbotix's asleep, Cobot Magic's at the start pose."""
        poses = []
        for side, arm in config.followers.items():
            model = ARM_MODELS[arm.model]
            if arm.driver == "interbotix":
                if model.name != "vx300s":
                    raise ConfigError(f"scenes have vx300s followers, the {side} one is a {model.name}")
                pose = folded(model)
                assert model.crank is not None
                poses.append([*pose[:6], model.crank.travel(pose[6])])
            else:
                poses.append([*START_ARM_POSE, START_GRIPPER])
        self.scene.pose(np.concatenate(poses))
        for index, (side, arm) in enumerate(config.followers.items()):
            if arm.driver == "interbotix":
                motors = self._motors(arm.name, arm.model, torque=True)
                self.followers[side] = Follower(self.scene, index, motors)
            else:
                self.followers[side] = JointFollower(self.scene, index)
            self._settle(self.followers[side])
        for side, arm in config.leaders.items():
            interbotix = arm.driver == "interbotix"
            self.leaders[side] = (
                Leader(self._motors(arm.name, arm.model, torque=False)) if interbotix else JointLeader()
            )

    def _motors(self, name: str, model: str, *, torque: bool) -> Motors:
        known = ARM_MODELS[model]
        return Motors(
            known,
            folded(known),
            torque=torque,
            complain=lambda words: self._complain(f"{name}: {words}"),
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

    def _gesture(self) -> Gesture:
        if self._hardware:
            if not self.person_holds or self.paused:
                return "rest"
            return "play" if self.recording else "home"
        motors = [leader.motors for leader in self.leaders.values() if isinstance(leader, Leader)]
        held = [each.torque[:GRIPPER] for each in motors]
        if not motors or not np.any(held):
            return "play" if self._locked else "rest"  # arms that were never locked are nobody's sign to begin
        if not np.all(held):
            return "rest"
        self._locked = True
        ready = all(np.abs(leader.hand[:6] - HOME[:6]).max() < AT_START for leader in self.leaders.values())
        return "close" if ready and not any(each.torque[GRIPPER] for each in motors) else "rest"
