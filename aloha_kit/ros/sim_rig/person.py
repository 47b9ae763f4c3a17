"""The person who holds the leaders of a simulated rig: does the scene's script, gestures included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt

from aloha_kit.core import START_ARM_POSE, VX300S
from aloha_kit.sim import scripts
from aloha_kit.sim.environment import START_GRIPPER
from aloha_kit.sim.planning import least_jerk, Planner

Vector = npt.NDArray[np.float64]
Gesture = Literal["rest", "home", "close", "play"]
"""What the moment asks for: leave the leaders alone, hold the start pose, close the grippers, do the task."""

PLAN_HZ = 50.0
PLAN_S = 8.0
BLEND_S = 0.6  # from where a hand is into a motion
HOME_S = 1.5
REACTION_S = 0.5
CLOSE_S = 0.4
MOVED = 0.005  # m (or of a quaternion): objects that have moved so far need another plan

HOME = np.append(START_ARM_POSE.astype(float), float(VX300S.finger.normalise(START_GRIPPER)))


class Person:
    """Two hands, told again and again what the moment asks for. A hand's (7,): see `sim_rig.arms`.

    Args:
        scene: whose script to do.
        noise: of the motions, see `scripts.vary`; 0 does the same thing for the same objects.
        seed: of the noise.
        complain: told why there is nothing to do (objects out of reach).
    """

    def __init__(self, scene: str, *, noise: float, seed: int, complain: Callable[[str], None]) -> None:
        self._scene, self._noise, self._seed, self._complain = scene, noise, seed, complain
        self._planner = Planner(PLAN_HZ)
        self._worker = ThreadPoolExecutor(1, "person")  # a plan takes longer than a tick of the drivers
        self._plan: Future[Vector | None] | None = None
        self._planned_for: dict[str, Vector] = {}
        self._gesture: Gesture = "rest"
        self._from: dict[str, Vector] = {}
        self._began = 0.0
        self._playing = False

    def prepare(self, objects: Mapping[str, Vector], seed: int) -> Future[Vector | None]:
        """Think the task over for these object poses; the answer is what `advance` plays from then on."""
        self._planned_for = {name: pose.copy() for name, pose in objects.items()}
        self._plan = self._worker.submit(self._think, self._planned_for, seed)
        return self._plan

    def playing(self, now: float) -> float | None:
        """Seconds into the task, None while it is not being done."""
        return now - self._began if self._playing and now - self._began < PLAN_S else None

    def advance(
        self,
        now: float,
        gesture: Gesture,
        hands: Mapping[str, Vector],
        objects: Callable[[], Mapping[str, Vector]],
        seed: int,
    ) -> dict[str, Vector] | None:
        """{side: (7,)} where the hands go, None where they let go.

        Args:
            now: s, on any clock.
            hands: where they are.
            objects: poses, asked for when the task begins.
            seed: of the objects.
        """
        if gesture != self._gesture:
            self._gesture, self._began, self._playing = gesture, now, False
            self._from = {side: hand.copy() for side, hand in hands.items()}
            if gesture == "play" and self._stale(objects()):
                self.prepare(objects(), seed)
        since = now - self._began
        if gesture == "rest":
            return None
        if gesture == "home":
            return {side: hand + least_jerk(since / HOME_S) * (HOME - hand) for side, hand in self._from.items()}
        if gesture == "close":
            share = least_jerk((since - REACTION_S) / CLOSE_S)
            return {side: np.append(hand[:6], (1 - share) * hand[6]) for side, hand in self._from.items()}
        return self._play(now)

    def close(self) -> None:
        """Stop thinking."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _play(self, now: float) -> dict[str, Vector]:
        if self._plan is None or not self._plan.done() or (rows := self._plan.result()) is None:
            self._began = now  # still thinking: it starts when the plan is there
            return self._from
        self._playing = True
        since = now - self._began
        place = min(since * PLAN_HZ, len(rows) - 1.0)
        row = int(place)
        target = rows[row] + (place - row) * (rows[min(row + 1, len(rows) - 1)] - rows[row])
        away = 1.0 - least_jerk(since / BLEND_S)
        return {
            side: target[7 * i : 7 * i + 7] + away * (self._from[side] - rows[0, 7 * i : 7 * i + 7])
            for i, side in enumerate(("left", "right"))
        }

    def _stale(self, objects: Mapping[str, Vector]) -> bool:
        if self._plan is None:
            return True
        return any(np.abs(pose - self._planned_for[name]).max() > MOVED for name, pose in objects.items())

    def _think(self, objects: Mapping[str, Vector], seed: int) -> Vector | None:
        """(N, 14) a row each 1 / PLAN_HZ s, the first is the start pose."""
        try:
            script = scripts.script_of(self._scene, objects)
            script = scripts.vary(script, self._noise, np.random.default_rng([self._seed, seed]))
            actions = self._planner.actions(script, round(PLAN_S * PLAN_HZ))
        except ValueError as error:
            self._complain(f"the person cannot do the task from here: {error}")
            return None
        return np.vstack([np.concatenate([HOME, HOME]), actions]).astype(float)
