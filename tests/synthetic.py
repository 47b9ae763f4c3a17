"""Small episodes with known contents, written by the real writer: joints on sine waves, images that show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import dm_env
import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, joint_names, Observation
from aloha_kit.core.features import Feature, object_poses
from aloha_kit.episode import EpisodeWriter
from aloha_kit.loop import Outcome

LAG = 2  # steps by which the synthetic joints follow their commands


@dataclass
class Synthetic:
    """What one episode holds, before it is written: T actions, T + 1 observations."""

    action: npt.NDArray[np.float32]  # (T, A)
    qpos: npt.NDArray[np.float32]  # (T + 1, S)
    images: dict[str, npt.NDArray[np.uint8]]  # {camera: (T + 1, H, W, 3)}
    environment_state: npt.NDArray[np.float32]  # (T + 1, 3)
    names: tuple[str, ...] = field(default_factory=joint_names)


def make(
    steps: int, cameras: Mapping[str, tuple[int, int]], *, seed: int, base: bool = False, joints: int = 14
) -> Synthetic:
    """Joints on sine waves of one random phase an episode; each camera has its own background, and a bright bar whose
    place encodes the phase and the time."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi)
    time = np.arange(-LAG, steps + 1)[:, None]  # command at -LAG is what the joints show at 0
    waves = 0.5 * np.sin(2 * np.pi * time / 40 + phase + np.arange(joints)) + 0.1 * np.arange(joints)
    action = waves[LAG : LAG + steps]
    qpos = waves[: steps + 1] + rng.normal(0, 1e-3, (steps + 1, joints))
    if base:
        action = np.concatenate([action, rng.normal(0, 0.2, (steps, 2))], axis=1)
    images = {}
    for number, (camera, (height, width)) in enumerate(cameras.items()):
        background = np.full((height, width, 3), 40, np.uint8)
        background[:, :, number % 3] = 120
        # a gradient of its own distinguishes every camera even at 8x8 pixels
        background[:, :, (number + 1) % 3] = np.linspace(20, 220, width if number % 2 else height, dtype=np.uint8)[
            None if number % 2 else slice(None), slice(None) if number % 2 else None
        ]
        frames = np.repeat(background[None], steps + 1, axis=0)
        for t in range(steps + 1):
            column = int((0.5 + 0.5 * np.sin(2 * np.pi * t / 40 + phase)) * (width - 4))
            frames[t, :, column : column + 4] = 255
        images[camera] = frames
    state = np.stack([np.full(steps + 1, phase), np.arange(steps + 1), np.zeros(steps + 1)], axis=1)
    names = joint_names()[:joints] + (("base_linear", "base_angular") if base else ())
    return Synthetic(action.astype(np.float32), qpos.astype(np.float32), images, state.astype(np.float32), names)


def write(
    folder: Path,
    episode: Synthetic,
    *,
    images: Literal["jpeg", "raw"] = "raw",
    success: bool = True,
    sim: bool = True,
    state: bool = True,
    rate_hz: float = 50.0,
    describe: Mapping[str, Any] | None = None,
    task: str = "synthetic",
    depth: Mapping[str, npt.NDArray[np.uint16]] | None = None,
) -> Path:
    """Write one episode through `EpisodeWriter`, as the loop would; `depth` is {camera: (T + 1, H, W) mm}."""
    depth = depth or {}
    contract = Contract.of(
        state_names=tuple(n for n in episode.names if not n.startswith("base")),
        action_names=episode.names,
        cameras={camera: (frames.shape[1], frames.shape[2]) for camera, frames in episode.images.items()},
        rate_hz=rate_hz,
        sensors=[
            *object_poses(("phase", "time", "nothing") if state else ()),
            *(Feature.depth(camera, (rows.shape[1], rows.shape[2])) for camera, rows in depth.items()),
        ],
    )
    writer = EpisodeWriter(folder, contract=contract, task=task, rig="none", sim=sim, images=images, describe=describe)
    writer.success = success
    steps = len(episode.action)

    def observation(t: int) -> Observation:
        now = round(t * 1e9 / rate_hz)
        stamps = {"qpos": now, "deadline": now, **{f"images/{camera}": now for camera in episode.images}}
        if t:
            stamps["command"] = now - 1_000_000
        seen = Observation(
            qpos=episode.qpos[t], images={camera: frames[t] for camera, frames in episode.images.items()}, stamps=stamps
        )
        if depth:
            seen["images_depth"] = {camera: rows[t] for camera, rows in depth.items()}
        if state:
            seen["environment_state"] = episode.environment_state[t]
        return seen

    writer.on_reset(dm_env.restart(observation(0)))
    for t in range(steps):
        writer.on_step(episode.action[t], dm_env.transition(0.0, observation(t + 1)))
    writer.on_end(Outcome(steps, 0.0, 0.0, "complete"))
    return writer.path


def write_dataset(
    folder: Path,
    lengths: Sequence[int] = (30, 41, 25),
    cameras: Mapping[str, tuple[int, int]] | None = None,
    *,
    change: Callable[[int, Synthetic], None] | None = None,
    base: bool = False,
    **options: Any,
) -> list[Synthetic]:
    """Episodes 0, 1, … of these lengths; `change(index, episode)` may spoil one before it is written."""
    written = []
    for index, steps in enumerate(lengths):
        episode = make(steps, {"top": (24, 32)} if cameras is None else cameras, seed=index, base=base)
        if change is not None:
            change(index, episode)
        write(folder, episode, **options)
        written.append(episode)
    return written
