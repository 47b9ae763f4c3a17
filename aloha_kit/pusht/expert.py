"""Expert of Push-T: a greedy planner that tries pushes in a copy of the physics and takes the best one."""

from __future__ import annotations

from collections import deque

import numpy as np
import pymunk
from gym_pusht.envs.pusht import PushTEnv

from aloha_kit.core import Action, ConfigError, Observation, Policy
from aloha_kit.core.pusht import corners, SIZE
from aloha_kit.pusht.outline import Array, length, Outline, PlanarPose, RADIUS, spaced, turned

ANGLES = np.deg2rad((-40.0, -20.0, 0.0, 20.0, 40.0))  # of a push, from the inward normal
CORRECTIONS = np.deg2rad((0.0, -20.0, -10.0, 10.0, 20.0))  # of that angle, once the agent is there
WALK = 25.0  # px a step
SLOWEST, FASTEST = 3.0, 12.0  # px a step, of a push
PUSH_STEPS = 14
TRAVEL_COST = 0.005  # px of mean keypoint distance for each px that the agent travels
NOISE = 8.0  # px of mean keypoint distance by which noise 1 changes the cost of a push at most


class PushExpert(Policy):
    """Walks round the block to the best push, pushes, and plans anew, until the block is at the goal.

    A push is a place on the block's outline, an angle and a length. Each is simulated, and the cheapest is executed:
    mean distance of the block's corners from the goal's, plus a small cost of the way. Before it pushes, the agent
    chooses angle and length once more from where it arrived.

    Deterministic from the block's and agent's pose; with `noise` above 0 the costs are changed at random, and the n-th
    reset draws from (seed, n).

    Args:
        physics: of the environment; it is read when a push is planned.

    Raises:
        ConfigError: a negative noise.
    """

    def __init__(self, physics: PushTEnv, *, noise: float = 0.0, seed: int = 0) -> None:
        if not noise >= 0:
            raise ConfigError(f"motion noise must be at least 0, given {noise}")
        self._physics, self._noise, self._seed, self._resets = physics, noise, seed, 0
        self._copy, self._outline = PhysicsCopy(), Outline.of_block()
        self._rng = np.random.default_rng()
        self._targets: deque[Array] = deque()
        self._arrived = False  # the agent stands where it pushes from
        self._direction = np.zeros(2)  # of the push that is planned

    def reset(self) -> None:
        """Forget the plan."""
        self._rng = np.random.default_rng([self._seed, self._resets])
        self._resets += 1
        self._targets.clear()
        self._arrived = False

    def act(self, observation: Observation) -> Action:
        """(2,) px, the agent's next target."""
        if not self._targets:
            self._arrived = not self._arrived
            self._targets.extend(self._approach() if self._arrived else self._push())
        return self._targets.popleft().astype(np.float32)

    def _approach(self) -> list[Array]:
        """Targets that lead the agent to where the cheapest push begins."""
        block, agent = self._block(), np.array(self._physics.agent.position)
        speed, best, chosen = self._speed(), np.inf, [agent]
        for i, contact in enumerate(self._outline.contacts):
            way = [block(point) for point in self._outline.route(block.inverse(agent), i)]
            if not all(_inside(point) for point in way[1:]):
                continue
            start, travel = block(contact), TRAVEL_COST * length(way)
            for angle in ANGLES:
                direction = block.rotated(turned(-self._outline.normals[i], angle))
                cost, _ = self._try(start, np.zeros(2), direction, speed)
                if cost + travel < best:
                    best, chosen, self._direction = cost + travel, way, direction
        targets = spaced(chosen, WALK)
        return [*targets, targets[-1]]

    def _push(self) -> list[Array]:
        """Targets of the cheapest push from where the agent is, about the direction for which it came."""
        agent, velocity = np.array(self._physics.agent.position), np.array(self._physics.agent.velocity)
        speed, best, chosen, steps = self._speed(), np.inf, self._direction, 1
        for angle in CORRECTIONS:
            direction = turned(self._direction, angle)
            cost, count = self._try(agent, velocity, direction, speed)
            if cost < best:
                best, chosen, steps = cost, direction, count
        return [agent + chosen * speed * (i + 1) for i in range(steps)]

    def _try(self, agent: Array, velocity: Array, direction: Array, speed: float) -> tuple[float, int]:
        """Lowest cost of a push of any length from where the agent is, and its steps."""
        self._copy.load(self._physics, agent, velocity)
        best, steps = np.inf, 1
        disturbance = NOISE * self._noise * self._rng.random() if self._noise else 0.0
        for step in range(1, PUSH_STEPS + 1):
            target = agent + direction * speed * step
            if not _inside(target):
                break
            self._copy.step(target)
            cost = self._copy.distance() + TRAVEL_COST * speed * step + disturbance
            if cost < best:
                best, steps = cost, step
            elif cost > best + speed:
                break
        return best, steps

    def _speed(self) -> float:
        """Slower the nearer the block is to its goal."""
        self._copy.load(self._physics, np.zeros(2), np.zeros(2))
        return float(np.clip(self._copy.distance() / 5, SLOWEST, FASTEST))

    def _block(self) -> PlanarPose:
        block = self._physics.block
        return PlanarPose(np.array(block.position), block.angle)


class PhysicsCopy:
    """gym-pusht's space without its callback for each contact, which would be most of the time."""

    def __init__(self) -> None:
        self._space = pymunk.Space()
        self._space.damping = 0.0
        for a, b in (((5, 506), (5, 5)), ((5, 5), (506, 5)), ((506, 5), (506, 506)), ((5, 506), (506, 506))):
            self._space.add(PushTEnv.add_segment(self._space, a, b, 2))
        self._agent = PushTEnv.add_circle(self._space, (0, 0), RADIUS)
        self._block, _ = PushTEnv.add_tee(self._space, (0, 0), 0)
        self._goal = corners((256, 256, np.pi / 4))

    def load(self, physics: PushTEnv, agent: Array, velocity: Array) -> None:
        """Take the block's pose from `physics`; the agent is at `agent` px and moves with `velocity` px/s."""
        self._block.angle = physics.block.angle  # first, since it moves the position
        self._block.position = physics.block.position
        self._block.velocity, self._block.angular_velocity = (0.0, 0.0), 0.0
        self._agent.position, self._agent.velocity = tuple(agent), tuple(velocity)

    def step(self, target: Array) -> None:
        """One step of 0.1 s with the agent's controller, as `PushTEnv.step`."""
        x, y = map(float, target)
        for _ in range(10):
            (at_x, at_y), (v_x, v_y) = self._agent.position, self._agent.velocity
            self._agent.velocity = (v_x + x - at_x - 0.2 * v_x, v_y + y - at_y - 0.2 * v_y)
            self._space.step(0.01)

    def distance(self) -> float:
        """Mean distance of the block's corners from the goal's, in px."""
        there = corners((*self._block.position, self._block.angle))
        return float(np.linalg.norm(there - self._goal, axis=1).mean())


def _inside(point: Array) -> bool:
    return bool(np.all((point >= 0) & (point <= SIZE)))
