"""Scripted operator at the leaders of a simulated rig: the scene's script, closed grippers included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError, START_ARM_POSE, VX300S
from aloha_kit.sim import scripts
from aloha_kit.sim.planning import least_jerk, Planner
from aloha_kit.sim.workcell import arm_rows, ARMS, START_GRIPPER

Vector = npt.NDArray[np.float64]
HandMode = Literal["rest", "home", "close", "play"]
"""Leave the leaders alone, hold the start pose, close the grippers, do the task."""

PLAN_HZ = 50.0
PLAN_S = 8.0
BLEND_S = 0.6  # from where a hand is into a motion
HOME_S = 1.5
REACTION_S = 0.5
CLOSE_S = 0.4
MOVED = 0.005  # m (or of a quaternion): objects that have moved so far need another plan

HOME = np.append(START_ARM_POSE.astype(float), float(VX300S.finger.normalise(START_GRIPPER)))


class ScriptedOperator:
    """Scripted operator: a hand for each leader, advanced every tick. A hand's (size,): see `simulated_arms`.

    The task begins with the first hand that is let play; another one joins it where it is by then.

    Args:
        script: what to do for the objects' poses, see `sim.tasks.script_of`.
        noise: of the motions, see `scripts.vary`; 0 does the same thing for the same objects.
        seed: of the noise.
        warn: called with the reason where there is nothing to do (objects out of reach).
    """

    def __init__(
        self,
        script: Callable[[Mapping[str, Vector]], scripts.Script],
        *,
        noise: float,
        seed: int,
        warn: Callable[[str], None],
    ) -> None:
        self._script, self._noise, self._seed, self._warn = script, noise, seed, warn
        self._planner = Planner(PLAN_HZ)
        self._worker = ThreadPoolExecutor(1, "operator")  # a plan takes longer than a tick of the drivers
        self._plan: Future[Vector | None] | None = None
        self._planned_for: dict[str, Vector] = {}
        self._hand_modes: dict[str, HandMode] = {}
        self._from: dict[str, Vector] = {}  # where a hand was when its mode began
        self._began: dict[str, float] = {}
        self._joined: dict[str, tuple[float, Vector]] = {}  # when a hand began to play, and where the task was
        self._task_began: float | None = None

    def prepare(self, objects: Mapping[str, Vector], seed: int) -> Future[Vector | None]:
        """Plan the task for these object poses; `advance` plays the result from then on."""
        self._planned_for = {name: pose.copy() for name, pose in objects.items()}
        self._plan = self._worker.submit(self._compute, self._planned_for, seed)
        return self._plan

    def able(self, objects: Callable[[], Mapping[str, Vector]], seed: int) -> bool | None:
        """Whether the task can be done with the objects where they are; None while that is being planned."""
        if self._plan is not None and not self._plan.done():
            return None
        if self._plan is None or self._stale(objects()):
            self._plan = self.prepare(objects(), seed)
            return None
        return self._plan.result() is not None

    def playing(self, now: float) -> float | None:
        """Seconds into the task, None while it is not being done."""
        since = None if self._task_began is None else now - self._task_began
        return since if since is not None and since < PLAN_S else None

    def advance(
        self,
        now: float,
        modes: Mapping[str, HandMode],
        hands: Mapping[str, Vector],
        objects: Callable[[], Mapping[str, Vector]],
        seed: int,
    ) -> dict[str, Vector | None]:
        """{side: (size,)} where the hands go, None where they let go.

        Args:
            now: s, on any clock.
            modes: what each hand is to do.
            hands: where they are.
            objects: gives their poses, called when the task begins.
            seed: of the objects.
        """
        if "play" not in modes.values():
            self._task_began = None
        elif "play" not in self._hand_modes.values() and self._stale(objects()):
            self.prepare(objects(), seed)
        for side, mode in modes.items():
            if mode != self._hand_modes.get(side, "rest"):
                self._from[side], self._began[side] = hands[side].copy(), now
                self._joined.pop(side, None)
        self._hand_modes = dict(modes)
        target = self._target(now)
        return {side: self._hand(side, now, target) for side in modes}

    def close(self) -> None:
        """Stop planning."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _hand(self, side: str, now: float, target: Vector | None) -> Vector | None:
        mode = self._hand_modes[side]
        if mode == "rest":
            return None
        begun, since = self._from[side], now - self._began[side]
        if mode == "home":
            return np.asarray(begun + least_jerk(since / HOME_S) * (HOME - begun))
        if mode == "close":
            share = least_jerk((since - REACTION_S) / CLOSE_S)
            return np.append(begun[:-1], (1 - share) * begun[-1])
        if target is None:
            return begun
        own = target[arm_rows(ARMS.index(side))]
        joined, there = self._joined.setdefault(side, (now, own))
        return np.asarray(own + (1.0 - least_jerk((now - joined) / BLEND_S)) * (begun - there))

    def _target(self, now: float) -> Vector | None:
        """(A,) where the task is, None while it is not being done or still planned."""
        if "play" not in self._hand_modes.values():
            return None
        if self._plan is None or not self._plan.done() or (rows := self._plan.result()) is None:
            self._task_began = None  # it starts when the plan is there
            self._joined.clear()
            return None
        if self._task_began is None:
            self._task_began = now
        place = min((now - self._task_began) * PLAN_HZ, len(rows) - 1.0)
        row = int(place)
        return np.asarray(rows[row] + (place - row) * (rows[min(row + 1, len(rows) - 1)] - rows[row]))

    def _stale(self, objects: Mapping[str, Vector]) -> bool:
        if self._plan is None:
            return True
        return any(np.abs(pose - self._planned_for[name]).max() > MOVED for name, pose in objects.items())

    def _compute(self, objects: Mapping[str, Vector], seed: int) -> Vector | None:
        """Plan (N, A): a row each 1 / PLAN_HZ s, the first is the start pose."""
        try:
            script = scripts.vary(self._script(objects), self._noise, np.random.default_rng([self._seed, seed]))
            actions = self._planner.actions(script, round(PLAN_S * PLAN_HZ))
        except (ConfigError, ValueError) as error:
            self._warn(f"the operator cannot do the task from here: {error}")
            return None
        return np.vstack([np.concatenate([HOME, HOME]), actions]).astype(float)
