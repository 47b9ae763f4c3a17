"""Node of the simulated rig's physics, arms, base and scripted operator, and of /clock at another speed."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import rosgraph
import rospy
import tyro
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32
from std_srvs.srv import Trigger, TriggerResponse

from aloha_kit.config import find, load, RigConfig, TaskConfig
from aloha_kit.core import ConfigError, Rate, WallClock
from aloha_kit.core.cli import command_line
from aloha_kit.core.lang import Message
from aloha_kit.ros import node
from aloha_kit.ros.node import interrupted_after
from aloha_kit.ros.sim_rig import faults
from aloha_kit.ros.sim_rig.scripted_operator import ScriptedOperator
from aloha_kit.ros.sim_rig.simulated_arms import Follower, Leader
from aloha_kit.ros.sim_rig.simulated_drivers import (
    SimulatedBaseDriver,
    SimulatedInterbotixDriver,
    SimulatedJointStateDriver,
    SimulatedSwitches,
    stamp,
)
from aloha_kit.ros.sim_rig.simulated_rig import SimRig
from aloha_kit.ros.simulation_client import PARAM, STARTING
from aloha_kit.sim import tasks

RESUME, SEED = "/sim_rig_resume", "/sim_rig_seed"
STATE_HZ, REWARD_HZ = 100.0, 10.0
STEP_NS = 2_000_000  # of the physics
LONGEST_NS = 100_000_000  # what is made up for when the machine was away; more is lost time
PLANNING_S = 20.0


@dataclass(frozen=True)
class SimArmsArgs:
    """Serve a simulated rig's arms, base and scripted operator as real drivers would."""

    EXAMPLE: ClassVar[str] = "--task aloha_transfer_cube --speed 0.5"
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = ()

    task: Annotated[str, tyro.conf.arg(aliases=["--task_name"])] = "aloha_transfer_cube"
    """Task name (configs/tasks) or YAML path; its scene is what is simulated."""
    rig: str | None = None
    """Rig name (configs/rigs) or YAML path; the task's when not given."""
    operator: Annotated[
        bool, tyro.conf.FlagConversionOff, tyro.conf.arg(metavar="{True,False}", aliases=["--person"])
    ] = True
    """Whether a scripted operator holds the leaders and does the task."""
    noise: float = 0.0
    """Of the operator's motions: 0 does the same for the same objects, about 1 is lively."""
    seed: int = 0
    """Of the objects' places at the first reset; later ones count up."""
    speed: float = 1.0
    """Seconds of the rig's time in one of the wall's; other than 1, the rig's time is published on /clock."""
    reboot_s: float = 1.0
    """How long an Interbotix driver is blocked by each motor that reboots, as the real one is."""
    outlive: str = ""
    """Name of a ROS node: the first SIGINT takes effect only when that node has ended, so that it can park the arms."""

    def __post_init__(self) -> None:
        if not (self.speed > 0 and math.isfinite(self.speed)):
            raise ValueError(Message("speed must be positive, given {speed}", speed=self.speed))
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            raise ValueError(Message("noise must be at least 0, given {noise}", noise=self.noise))
        if not (self.reboot_s >= 0 and math.isfinite(self.reboot_s)):
            raise ValueError(Message("reboot_s must be at least 0, given {reboot_s}", reboot_s=self.reboot_s))
        if self.seed < 0:
            raise ValueError(Message("seed cannot be negative, given {seed}", seed=self.seed))


class ArmsNode:
    """The rig on its topics; `run` is its loop."""

    def __init__(self, task: TaskConfig, config: RigConfig, args: SimArmsArgs) -> None:
        self._config, self._task, self._speed = config, task, args.speed
        self._lock = threading.RLock()
        self._faults = faults.Faults(config, rospy.logerr)
        script = tasks.script_of(tasks.scene(task.scene), task.script)
        operator = ScriptedOperator(script, noise=args.noise, seed=args.seed, warn=_warn) if args.operator else None
        self._rig = SimRig(config, task.scene, operator=operator, seed=args.seed, warn=_warn, reboot_s=args.reboot_s)
        self._resume()
        rng = np.random.default_rng(args.seed)
        self._clock = rospy.Publisher("/clock", ClockMessage, queue_size=10) if args.speed != 1.0 else None
        self._state = rospy.Publisher("/sim_rig/state", JointState, queue_size=1)
        self._reward = rospy.Publisher("/sim_rig/reward", Float32, queue_size=1, latch=True)
        self._rewarded: tuple[float, int] = (-1.0, 0)
        self._arms = self._drivers(rng)
        self._base = None
        if config.base is not None:
            topics = (config.base.odom_topic, config.base.command_topic)
            self._base = SimulatedBaseDriver(self._rig, topics, self._faults, self._lock, rng)
        self._hz = max([STATE_HZ, *(arm.rate_hz for arm in config.followers.values())])
        rospy.set_param(PARAM, {
            "rig": config.name, "task": task.name, "task_config": str(find("tasks", args.task).resolve()),
            "scene": task.scene, "arm_model": "vx300s",
            "max_reward": self._rig.scene.max_reward, "operator": args.operator,
        })  # fmt: skip
        rospy.Service("/sim_rig/reset", Trigger, self._reset)
        rospy.Service("/sim_rig/apply_faults", Trigger, self._apply_faults)
        self._faults.watch()
        self._ended = threading.Event()
        self._snapshots = threading.Thread(target=self._remember, name="snapshots", daemon=True)
        self._snapshots.start()

    def run(self) -> None:
        """Advance and publish until ROS ends."""
        wall = WallClock()
        rate = Rate(self._hz * self._speed, wall)
        period = round(1e9 / self._hz)
        now = simulated = wall.now_ns()
        tick = 0
        while not rospy.is_shutdown():
            rate.sleep()
            now = now + period if self._clock else wall.now_ns()
            if self._clock:
                self._clock.publish(ClockMessage(clock=stamp(now)))
            simulated = max(simulated, now - LONGEST_NS)
            steps = (now - simulated) // STEP_NS
            simulated += steps * STEP_NS
            with self._lock:
                for arm in self._arms:
                    arm.advance(now / 1e9)
                self._rig.advance(steps * STEP_NS / 1e9)
                self._publish(now, tick)
            tick += 1

    def close(self) -> None:
        """Delete the parameters that mark a simulated rig, unless another node took this one's name, and end."""
        self._ended.set()
        self._snapshots.join()
        with contextlib.suppress(OSError, rosgraph.MasterException):
            if rosgraph.Master(rospy.get_name()).lookupNode(rospy.get_name()) == rospy.get_node_uri():
                for param in (PARAM, RESUME, *(["/use_sim_time"] if self._clock else [])):
                    with contextlib.suppress(KeyError):
                        rospy.delete_param(param)
        self._rig.close()

    def _publish(self, now: int, tick: int) -> None:
        for arm in self._arms:
            arm.publish(now)
        if tick % round(self._hz / STATE_HZ) == 0:
            state = JointState(position=self._rig.scene.qpos.tolist())
            state.header.stamp, state.header.frame_id = stamp(now), str(self._rig.seed)
            self._state.publish(state)
        if self._base and self._config.base and tick % round(self._hz / self._config.base.rate_hz) == 0:
            self._base.publish(now)
        reward = self._rig.scene.reward
        if reward != self._rewarded[0] or now - self._rewarded[1] >= 1e9 / REWARD_HZ:
            self._rewarded = (reward, now)
            self._reward.publish(Float32(data=reward))

    def _drivers(self, rng: np.random.Generator) -> list[SimulatedInterbotixDriver | SimulatedJointStateDriver]:
        config, rig = self._config, self._rig
        drivers: list[SimulatedInterbotixDriver | SimulatedJointStateDriver] = []
        for side, follower in rig.followers.items():
            arm, leader = config.followers[side], config.leaders.get(side)
            if isinstance(follower, Follower):
                drivers.append(SimulatedInterbotixDriver(arm.name, follower, self._faults, self._lock, rng))
            else:
                names = (arm.name or f"puppet_{side}", leader.name if leader and leader.name else f"master_{side}")
                topics = (arm.state_topic, arm.command_topic)
                drivers.append(SimulatedJointStateDriver(rig, side, names, topics, self._faults, self._lock, rng))
        for side, held in rig.leaders.items():
            if isinstance(held, Leader):
                name = config.leaders[side].name
                drivers.append(SimulatedInterbotixDriver(name, held, self._faults, self._lock, rng))
        if config.teleop == "hardware":
            SimulatedSwitches(rig, self._lock)
        return drivers

    def _reset(self, request: Any) -> Any:
        """Reset the objects; answers when the operator has planned the task."""
        seed = rospy.get_param(SEED, None)
        with self._lock:
            planning = self._rig.reset(None if seed is None else int(seed))
            used = self._rig.seed
        if seed is not None:
            rospy.delete_param(SEED)
        if planning is not None:
            planning.result(PLANNING_S)
        return TriggerResponse(success=True, message=json.dumps({"seed": used}))

    def _apply_faults(self, request: Any) -> Any:
        """Read the faults; answers when the cameras' node has read them too."""
        self._faults.read()
        wall = WallClock()
        wall.sleep_until(wall.now_ns() + int(1.25e9 * faults.POLL_S))
        return TriggerResponse(success=True, message=f"faults are those of {faults.PARAM}")

    def _resume(self) -> None:
        """Restore the arms and objects of a node that did not end cleanly."""
        last = rospy.get_param(RESUME, None)
        if not isinstance(last, dict) or last.get("scene") != self._task.scene or last.get("rig") != self._config.name:
            return
        try:
            self._rig.restore(last)
            rospy.logwarn("the last simulated rig here did not end cleanly; arms and objects are where it left them")
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            rospy.logwarn(f"{RESUME} is of no use: {error}")

    def _remember(self) -> None:
        """Store the state for `_resume` twice a second, outside of the loop."""
        while not self._ended.wait(0.5):
            with self._lock:
                snapshot = self._rig.snapshot()
            with contextlib.suppress(OSError, rospy.ROSException):
                rospy.set_param(RESUME, {"scene": self._task.scene, "rig": self._config.name, **snapshot})


def _warn(words: str) -> None:
    rospy.logwarn_throttle_identical(5.0, words)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the node `sim_arms` until it is ended."""
    sys.setswitchinterval(0.001)  # the operator's planning must not delay joint states for 5 ms at a time
    with command_line():
        args = node.node_args(SimArmsArgs, "sim_arms_node", argv)
        task = load(TaskConfig, "tasks", args.task)
        config = load(RigConfig, "rigs", args.rig or task.rig)
        node.require_master()
        rospy.set_param("/use_sim_time", args.speed != 1.0)
        # this node is where time comes from, so it waits for none
        rospy.init_node("sim_arms", disable_signals=True, disable_rostime=True)
        with interrupted_after(args.outlive, rospy.loginfo):
            try:
                served = ArmsNode(task, config, args)
            finally:
                with contextlib.suppress(KeyError):
                    rospy.delete_param(STARTING)
            try:
                rospy.loginfo(f"simulated rig '{config.name}' in scene '{task.scene}' is up")
                served.run()
            finally:
                served.close()
                rospy.signal_shutdown("the simulated rig ends")
