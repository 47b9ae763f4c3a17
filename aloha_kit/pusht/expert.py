"""Expert of Push-T: at every step the push that lowers the block's distance from its goal at the highest rate."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pymunk
from gym_pusht.envs.pusht import PushTEnv

from aloha_kit.core import Action, ConfigError, Observation, Policy
from aloha_kit.core.pusht import CORNERS, corners, SIZE
from aloha_kit.pusht.outline import Array, length, Outline, PlanarPose, RADIUS, turned

ANGLES = np.deg2rad((-45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0))  # of a push, from the inward normal
LENGTHS = np.array((1.0, 2, 3, 4, 6, 8, 10, 13, 16, 20, 25, 31, 38, 46, 56, 68, 82, 98, 118, 140))  # px, of a push
WALK = 18.0  # px a step, on the way to a push
SLOWEST, FASTEST = 2.5, 12.0  # px a step, of a push
CHANGE_STEPS = 1.0  # steps that each push costs in addition to its way
LAG_STEPS = 2.0  # by which the agent follows its target, so the target is that far ahead
GOAL = (256.0, 256.0, np.pi / 4)  # x, y (px), angle (rad)
BUMP = 20.0  # px/s for each px a step of pushing speed: standard deviation of a bump at noise 1


class PushExpert(Policy):
    """Pushes the block to its goal; an action is a function of the present poses of block and agent alone.

    A push is a place on the block's outline, an angle and a length. Of all pushes it takes the one with the highest
    decrease of the logarithm of the block's distance in each step, steps of the way to its place included. The way
    gets shorter with each step, so the choice rarely changes before the push is done; there is no plan that a policy
    which imitates the expert could not observe.

    Deterministic from the poses. With `noise` above 0 the agent is bumped at random, while the actions stay the
    expert's: demonstrations then show how to recover (as in DART, Laskey et al., 2017). The n-th reset draws from
    (seed, n).

    Args:
        physics: of the environment; its poses are read, and its agent is bumped.

    Raises:
        ConfigError: a negative noise.
    """

    def __init__(self, physics: PushTEnv, *, noise: float = 0.0, seed: int = 0) -> None:
        if not noise >= 0:
            raise ConfigError("motion noise must be at least 0, given {noise}", noise=noise)
        self._physics, self._noise, self._seed, self._resets = physics, noise, seed, 0
        self._outline, self._pushes = Outline.of_block(), PushOutcomes.computed()
        self._rng = np.random.default_rng()

    def reset(self) -> None:
        """Begin the next episode's random numbers."""
        self._rng = np.random.default_rng([self._seed, self._resets])
        self._resets += 1

    def act(self, observation: Observation) -> Action:
        """(2,) px, the agent's next target."""
        body, agent = self._physics.block, np.array(self._physics.agent.position)
        block = PlanarPose(np.array(body.position), body.angle)
        speed = float(np.clip(distance(block) / 4, SLOWEST, FASTEST))
        target = self._target(block, agent, speed)
        if self._noise:
            bump = self._rng.normal(size=2) * BUMP * speed * self._noise
            self._physics.agent.velocity = tuple(np.array(self._physics.agent.velocity) + bump)
        return target.astype(np.float32)

    def _target(self, block: PlanarPose, agent: Array, speed: float) -> Array:
        """The place `LAG_STEPS` ahead on the way to the best push and along it; the agent's own where there is none."""
        outline, local = self._outline, block.inverse(agent)
        gains, steps = self._pushes.gains(block), LENGTHS / speed + CHANGE_STEPS
        straight = np.linalg.norm(outline.contacts - local, axis=1) / WALK
        bounds = (gains / (straight[:, None, None] + steps)).max((1, 2))
        best, target = -np.inf, agent
        for contact in np.argsort(-bounds):
            if bounds[contact] <= best:
                break  # no way is shorter than the straight one
            way = [block(point) for point in outline.route(local, contact)]
            if not all(np.all((point > 2) & (point < SIZE - 2)) for point in way[1:]):
                continue
            rates = gains[contact] / (length(way) / WALK + steps)
            if rates.max() > best:
                best = float(rates.max())
                angle, i = _peak(rates.max(1)), int(np.argmax(rates.max(0)))
                direction = block.rotated(turned(-outline.normals[contact], angle))
                target = _ahead(way, direction, speed, LENGTHS[i])
        return np.clip(target, 0, SIZE)


@dataclass(frozen=True)
class PushOutcomes:
    """Motion of the block by each push, from a copy of the physics; walls are left out.

    Attributes:
        centre: (contacts, angles, lengths, 2) px, the mean of the block's corners after it, in the frame before it.
        turn: (contacts, angles, lengths) rad.
    """

    centre: Array
    turn: Array

    @classmethod
    @functools.cache
    def computed(cls) -> PushOutcomes:
        """Outcomes of the pushes at `Outline.contacts`, by `ANGLES` and `LENGTHS`."""
        outline, copy = Outline.of_block(), PhysicsCopy()
        here = np.array([SIZE / 2, SIZE / 2, 0.0])
        poses = np.empty((len(outline.contacts), len(ANGLES), len(LENGTHS), 3))
        for i, (contact, normal) in enumerate(zip(outline.contacts, outline.normals, strict=True)):
            for j, angle in enumerate(ANGLES):
                poses[i, j] = copy.push(here, here[:2] + contact, turned(-normal, angle)) - here
        return cls(corners(poses + here).mean(-2) - here[:2], poses[..., 2])

    def gains(self, block: PlanarPose) -> Array:
        """(contacts, angles, lengths) decrease of the logarithm of the block's distance from the goal, in px, + 1."""
        cos, sin = np.cos(block.angle), np.sin(block.angle)
        after = block.position + self.centre @ np.array([[cos, sin], [-sin, cos]])
        left = _distance(after, block.angle + self.turn)
        gains: Array = np.log((distance(block) + 1) / (left + 1))
        return gains


class PhysicsCopy:
    """gym-pusht's space without its callback for each contact, which would be most of the time."""

    def __init__(self) -> None:
        self._space = pymunk.Space()
        self._space.damping = 0.0
        self._agent = PushTEnv.add_circle(self._space, (0, 0), RADIUS)
        self._block, _ = PushTEnv.add_tee(self._space, (0, 0), 0)

    def load(self, block: npt.ArrayLike, agent: npt.ArrayLike) -> None:
        """Place the block at (x, y, angle), px and rad, and the agent at (x, y) px, both at rest."""
        x, y, angle = map(float, np.asarray(block))
        self._block.angle = angle  # first, since it moves the position
        self._block.position = (x, y)
        self._block.velocity, self._block.angular_velocity = (0.0, 0.0), 0.0
        self._agent.position, self._agent.velocity = tuple(map(float, np.asarray(agent))), (0.0, 0.0)

    def step(self, target: npt.ArrayLike) -> None:
        """One step of 0.1 s with the agent's controller, as `PushTEnv.step`."""
        x, y = map(float, np.asarray(target))
        for _ in range(10):
            (at_x, at_y), (v_x, v_y) = self._agent.position, self._agent.velocity
            self._agent.velocity = (v_x + x - at_x - 0.2 * v_x, v_y + y - at_y - 0.2 * v_y)
            self._space.step(0.01)

    def push(self, block: Array, agent: Array, direction: Array) -> Array:
        """(lengths, 3) poses of the block after the agent has moved by each of `LENGTHS` in a direction."""
        self.load(block, agent)
        travelled, poses = [0.0], [block]
        while travelled[-1] < LENGTHS[-1]:
            self.step(agent + direction * 4 * len(poses))
            travelled.append(max(float((np.array(self._agent.position) - agent) @ direction), travelled[-1]))
            poses.append(self.pose())
        return np.stack([np.interp(LENGTHS, travelled, values) for values in np.stack(poses, axis=1)], axis=1)

    def pose(self) -> Array:
        """(3,) the block's x, y (px) and angle (rad)."""
        return np.array([*self._block.position, self._block.angle])


def distance(block: PlanarPose) -> float:
    """Distance of the block's corners from the goal's, root mean square, px."""
    return float(_distance(block(CORNERS.mean(0)), np.asarray(block.angle)))


def _distance(centre: Array, angle: Array) -> Array:
    """(…) `distance` of blocks by the means of their corners (…, 2) and their angles (…)."""
    apart = np.square(centre - corners(GOAL).mean(0)).sum(-1)
    found: Array = np.sqrt(apart + 2 * CORNERS.var(0).sum() * (1 - np.cos(angle - GOAL[2])))
    return found


def _peak(rates: Array) -> float:
    """The angle, rad, of the top of the parabola through the highest of the rates (angles,) and its neighbours."""
    top = int(np.argmax(rates))
    if not 0 < top < len(ANGLES) - 1:
        return float(ANGLES[top])
    before, at, after = rates[top - 1 : top + 2]
    bend = before - 2 * at + after
    return float(ANGLES[top] + (0.5 * (before - after) / bend * (ANGLES[1] - ANGLES[0]) if bend < 0 else 0.0))


def _ahead(way: list[Array], direction: Array, speed: float, push: float) -> Array:
    """The place `LAG_STEPS` ahead on a way and then along a push of a length, px."""
    left, at = LAG_STEPS, way[0]
    for point in way[1:]:
        steps = float(np.linalg.norm(point - at)) / WALK
        if steps >= left:
            return at + (point - at) * left / steps
        left, at = left - steps, point
    return at + direction * min(left * speed, push)
