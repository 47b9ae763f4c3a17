"""Makes believable episodes: joints on smooth paths, cameras that see them move, stamps of a 50 Hz rig."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dm_env
import numpy as np

from aloha_kit.core import Contract, Feature, joint_names, Observation
from aloha_kit.core.features import object_poses
from aloha_kit.episode import EpisodeWriter
from aloha_kit.loop import Outcome

SIZES = {"cam_high": (24, 32), "cam_left_wrist": (16, 16), "cam_right_wrist": (16, 16)}
WRENCH = Feature.vector("sensors/wrench", "wrench", ("force", "torque"), ("N", "N m"))
PERIOD = 20_000_000


@dataclass
class Rig:
    """Observations and actions as a function of the row, so a test can compute what a file should hold."""

    sizes: dict[str, tuple[int, int]] = field(default_factory=lambda: dict(SIZES))
    depth: bool = False
    base: bool = False
    environment_state: bool = True
    wrench: bool = False
    rate_hz: float = 50.0

    @property
    def contract(self) -> Contract:
        names = joint_names()
        base = ("base_linear", "base_angular") if self.base else ()
        state = ("cube_x", "cube_y", "cube_z") if self.environment_state else ()
        sensors = (*object_poses(state), *((WRENCH,) if self.wrench else ()))
        return Contract.of(names, (*names, *base), dict(self.sizes), self.rate_hz, sensors=sensors)

    def qpos(self, row: int) -> np.ndarray:
        phase = np.arange(14) * 0.4
        qpos = 0.5 * np.sin(row * 0.05 + phase)
        qpos[[6, 13]] = 0.5 + 0.4 * np.sin(row * 0.05 + phase[[6, 13]])
        return qpos.astype(np.float32)

    def action(self, row: int) -> np.ndarray:
        """The command of row `row`: it leads where the arms will be."""
        command = self.qpos(row + 1) + np.float32(0.003)
        return np.concatenate([command, [0.1, -0.2]]).astype(np.float32) if self.base else command

    def image(self, camera: str, row: int) -> np.ndarray:
        """Red falls from left to right, blue rises downwards, and a green wave moves with the row."""
        height, width = self.sizes[camera]
        image = np.zeros((height, width, 3), np.uint8)
        image[..., 0] = np.linspace(220, 20, width)[None]
        image[..., 2] = np.linspace(20, 120, height)[:, None]
        image[..., 1] = 60 + 50 * np.sin((np.arange(width)[None] + 2 * row) * 0.3)
        image[0, 0] = row % 200
        return image

    def force(self, row: int) -> np.ndarray:
        return np.array([np.sin(row), row * 0.5], np.float32)

    def depth_image(self, row: int) -> np.ndarray:
        height, width = self.sizes["cam_high"]
        return (np.arange(height * width, dtype=np.uint16).reshape(height, width) * 7 + row).astype(np.uint16)

    def observation(self, row: int) -> Observation:
        now = 1_700_000_000_000_000_000 + row * PERIOD
        stamps = {"qpos": now - 1_000_000, "deadline": now}
        stamps |= {f"images/{name}": now - 3_000_000 for name in self.sizes}
        if row:
            stamps["command"] = now - PERIOD + 100_000
        observation: dict[str, Any] = {
            "qpos": self.qpos(row),
            "qvel": (self.qpos(row + 1) - self.qpos(row)) * 50,
            "effort": self.qpos(row) * 10,
            "images": {name: self.image(name, row) for name in self.sizes},
            "stamps": stamps,
        }
        if self.base:
            observation["base_vel"] = np.array([0.1, row * 0.01], np.float32)
        if self.depth:
            observation["images_depth"] = {"cam_high": self.depth_image(row)}
        if self.environment_state:
            observation["environment_state"] = np.array([row * 0.001, 0.5, 0.02], np.float32)
        if self.wrench:
            observation["sensors"] = {"wrench": self.force(row)}
        return observation  # type: ignore[return-value]


def writer_for(folder: Path, rig: Rig, **settings: Any) -> EpisodeWriter:
    defaults: dict[str, Any] = {"task": "stack", "rig": "bench", "sim": True, "instruction": "stack the cubes"}
    return EpisodeWriter(folder, contract=rig.contract, **{**defaults, **settings})


def feed(writer: EpisodeWriter, rig: Rig, steps: int, start: int = 0) -> None:
    """Reset (unless it goes on) and `steps` steps."""
    if start == 0:
        writer.on_reset(dm_env.restart(rig.observation(0)))
    for row in range(start, start + steps):
        writer.on_step(rig.action(row), dm_env.transition(float(row % 5), rig.observation(row + 1)))


def outcome(steps: int, **changes: Any) -> Outcome:
    values: dict[str, Any] = {"steps": steps, "final_reward": 4.0, "max_reward": 4.0, "reason": "complete"}
    return Outcome(**{**values, **changes})


def record(folder: Path, steps: int = 60, rig: Rig | None = None, **settings: Any) -> Path:
    """A committed episode."""
    rig = rig or Rig()
    ending: Mapping[str, Any] = settings.pop("ending", {})
    writer = writer_for(folder, rig, **settings)
    feed(writer, rig, steps)
    writer.on_end(outcome(steps, **ending))
    return writer.path
