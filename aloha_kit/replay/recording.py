"""Recording for replay: whole action vectors, names, a rate, the chosen cameras of an episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, did_you_mean, EpisodeError
from aloha_kit.core.features import SENSORS
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.episode.bounds import Bounds
from aloha_kit.episode.checks import check_shapes
from aloha_kit.storage.vectors import names_of

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Recording:
    """Data of one open episode that are shown and executed.

    Attributes:
        action: (T, A) with a base's velocities behind the arms' commands.
        qpos: (frames, S); frames is T + 1 in our own files, T in those of other tools.
        depth_cameras: those of `cameras` whose depth is recorded.
        stamps: {stream: (frames,) ns}; empty in files of other tools.
        describe: the environment's description (scene, seed), empty in files of other tools.
    """

    episode: RecordedEpisode
    name: str
    contract: Contract
    cameras: tuple[str, ...]
    depth_cameras: tuple[str, ...]
    action: Array
    qpos: Array
    stamps: dict[str, npt.NDArray[np.int64]]
    describe: dict[str, Any]
    sensors: dict[str, Array]  # {sensor: (frames, D)}; `entries` and `units` describe its columns

    @classmethod
    def of(cls, episode: RecordedEpisode, cameras: Sequence[str] = (), rate_hz: float | None = None) -> Recording:
        """Read everything but the images.

        Raises:
            EpisodeError: a camera that the episode lacks (lists its cameras), no actions, streams whose
                numbers of rows do not fit together, or damaged data.
        """
        for camera in cameras:
            if camera not in episode.cameras:
                raise EpisodeError(
                    "{episode} has no camera '{camera}'. {known}",
                    episode=episode.where,
                    camera=camera,
                    known=did_you_mean(camera, episode.cameras),
                )
        action, qpos = episode.action, episode.qpos
        if episode.base_action is not None:
            action = np.concatenate([action, episode.base_action], axis=1)
        if len(action) == 0 or len(qpos) == 0:
            raise EpisodeError(
                "{episode} holds no steps: {actions} actions, {observations} observations",
                episode=episode.where,
                actions=len(action),
                observations=len(qpos),
            )
        wrong = [f.found for f in check_shapes(episode, Bounds()) if f.level == "error"]
        if episode.reward is not None and len(episode.reward) != len(action):
            wrong.append(f"reward has {len(episode.reward)} rows, expected {len(action)}")
        if wrong:
            raise EpisodeError(
                "{episode} does not fit together: {wrong}", episode=episode.where, wrong="; ".join(wrong)
            )
        contract = episode.contract
        if rate_hz is not None:
            contract = replace(contract, rate_hz=rate_hz)
        chosen = tuple(cameras or episode.cameras)
        return cls(
            episode,
            Path(episode.name).stem,
            contract,
            chosen,
            tuple(camera for camera in chosen if camera in episode.depth_cameras),
            action,
            qpos,
            {name: stamps for name, stamps in episode.stamps.items() if np.any(stamps >= 0)},
            dict(episode.describe),
            {n.removeprefix(SENSORS): table for n, table in episode.vectors.items() if n.startswith(SENSORS)},
        )

    def entries(self, sensor: str) -> list[str]:
        """Names of a sensor's columns, numbers where the file does not record them."""
        return names_of(self.episode, f"{SENSORS}{sensor}")

    def units(self, sensor: str) -> Sequence[str]:
        """Units of a sensor's columns."""
        units = {feature.name: feature.units for feature in self.contract.sensors}.get(f"{SENSORS}{sensor}", ())
        columns = self.entries(sensor)
        return units if len(units) == len(columns) else ["unknown"] * len(columns)

    @property
    def frames(self) -> int:
        """Rows of the observations."""
        return self.episode.frames

    @property
    def rate_hz(self) -> float:
        """The control rate."""
        return self.contract.rate_hz

    @property
    def exact_timing(self) -> bool:
        """Whether no stamp deviates from its step's deadline, as with a simulated clock."""
        if "deadline" not in self.stamps:
            return False
        deadline = self.stamps["deadline"]
        return bool(np.all(np.diff(deadline) == round(1e9 / self.rate_hz))) and all(
            np.array_equal(values, deadline[: len(values)]) for values in self.stamps.values()
        )

    @property
    def title(self) -> str:
        """One line: which episode, of what."""
        attrs = self.episode.attrs
        parts = [self.name, str(attrs.get("task") or self.episode.layout), str(attrs.get("instruction") or "")]
        return " · ".join(part for part in parts if part)

    @property
    def verdict(self) -> str:
        """`success`, `failure`, or empty where the episode was not judged."""
        return {None: "", True: "success", False: "failure"}[self.episode.success]
