"""Outline of Push-T's block: where the agent touches it, and the ways round it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pymunk
from gym_pusht.envs.pusht import PushTEnv
from shapely import LineString, MultiPoint, Point, Polygon, prepare
from shapely.geometry.polygon import orient
from shapely.ops import unary_union

Array = npt.NDArray[np.float64]

RADIUS = 15.0  # px, of the agent
SPACING = 10.0  # px between places on the block's outline that are tried
ARRIVED = 3.0  # px from a contact, where the agent is at it
CLEARANCE = 10.0  # px between agent and block's hull on the way round it


@dataclass(frozen=True)
class PlanarPose:
    """A pose in the plane, as a map from its own frame to the plane's (px, rad)."""

    position: Array
    angle: float

    def __call__(self, point: Array) -> Array:
        return self.position + self.rotated(point)

    def rotated(self, vector: Array) -> Array:
        """A direction, in the plane's frame."""
        return turned(vector, self.angle)

    def inverse(self, point: Array) -> Array:
        """A point of the plane, in the own frame."""
        return turned(point - self.position, -self.angle)


@dataclass(frozen=True)
class Outline:
    """Outline of the block where the agent can touch it, and the ways there; all in the block's frame, px.

    Attributes:
        contacts: (C, 2) the agent's centre where it just touches the block.
        normals: (C, 2) of the outline there, outward.
        touched: where the agent's centre is when it touches the block.
        hull: convex, wider than the block by the agent and a clearance.
    """

    block: Polygon
    touched: Polygon
    hull: Polygon
    contacts: Array
    normals: Array

    @classmethod
    def of_block(cls) -> Outline:
        """Outline of gym-pusht's block."""
        _, shapes = PushTEnv.add_tee(pymunk.Space(), (0, 0), 0)
        block = orient(unary_union([Polygon(shape.get_vertices()) for shape in shapes]))
        contacts, normals = [], []
        corners = np.array(block.exterior.coords)
        for a, b in itertools.pairwise(corners):
            along = (b - a) / np.linalg.norm(b - a)
            normal = np.array([along[1], -along[0]])
            count = max(1, round(float(np.linalg.norm(b - a)) / SPACING))
            for i in range(count):
                centre = a + (b - a) * (i + 0.5) / count + normal * (RADIUS + 1)
                if block.distance(Point(centre)) >= RADIUS:
                    contacts.append(centre)
                    normals.append(normal)
        hull = block.convex_hull.buffer(RADIUS + CLEARANCE, join_style="mitre")
        touched = block.buffer(RADIUS - 0.5)
        prepare(touched)
        return cls(block, touched, hull, np.array(contacts), np.array(normals))

    def normal_at(self, point: Array) -> Array:
        """(2,) outward, at the place of the outline that is nearest to a point."""
        ring = self.block.exterior
        nearest = np.array(ring.interpolate(ring.project(Point(point))).coords[0])
        away: Array = nearest - point if self.block.contains(Point(point)) else point - nearest
        size = float(np.linalg.norm(away))
        return away / size if size > 0 else np.array([0.0, -1.0])

    def route(self, start: Array, contact: int) -> list[Array]:
        """Points from `start` to a contact: straight where that is free and along its normal, else round the block."""
        end, apart = self.contacts[contact], start - self.contacts[contact]
        distance = float(np.linalg.norm(apart))
        if distance < ARRIVED:
            return [start]
        if distance < SPACING:
            return [start, end]
        if apart @ self.normals[contact] > 0.6 * distance and not self.touched.intersects(LineString([start, end])):
            return [start, end]
        leave = self._outside(start, self.normal_at(start))
        ready = self._outside(self.contacts[contact], self.normals[contact])
        return [start, *self._round(leave, ready), end]

    def _outside(self, point: Array, direction: Array) -> Array:
        """The first of some points from `point` on that is outside of the hull."""
        while self.hull.distance(Point(point)) == 0:
            point = point + 2 * direction
        return point

    def _round(self, a: Array, b: Array) -> list[Array]:
        """Shortest way from `a` to `b` outside of the hull."""
        if LineString([a, b]).intersection(self.hull).length < 1e-6:
            return [a, b]
        ring = [*MultiPoint([a, b, *self.hull.exterior.coords]).convex_hull.exterior.coords][:-1]
        i, j = ring.index(tuple(a)), ring.index(tuple(b))
        forward = [ring[k % len(ring)] for k in range(i, i + (j - i) % len(ring) + 1)]
        backward = [ring[k % len(ring)] for k in range(i, i - (i - j) % len(ring) - 1, -1)]
        return min(([np.array(point) for point in way] for way in (forward, backward)), key=length)


def turned(vector: Array, angle: float) -> Array:
    """A vector (2,) turned by `angle` rad, from x towards y."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]])


def length(way: Sequence[Array]) -> float:
    """Length of a way through points, in px."""
    return float(sum(np.linalg.norm(b - a) for a, b in itertools.pairwise(way)))
