"""Inputs of a diagnosis: a rollout's episode, the files beside it, and its policy's statistics of training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import Contract, ContractError, EpisodeError
from aloha_kit.core.image_grid import describe
from aloha_kit.core.lang import error_text, Message
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.data.stats import Statistics
from aloha_kit.diagnose.training_statistics import find_training
from aloha_kit.formats import AUTO, open_source, ReadOptions
from aloha_kit.storage.rows import NO_STAMP
from aloha_kit.storage.step_log import read_steps, RecordedStep, steps_path

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

IMAGES_CHECKED = 100
"""Images of each camera that are described, spread evenly over the rollout."""


@dataclass(frozen=True)
class CameraStatistics:
    """Statistics of one camera's images at N of the steps.

    Attributes:
        described: (N, 192), see `data.camera_statistics.describe`.
    """

    steps: Ints
    described: Floats


@dataclass(frozen=True)
class Evidence:
    """One rollout of T steps; row i of everything is what step i's action was chosen by, or that action.

    Attributes:
        path: of its episode, or where it would be in a folder.
        open: opens the episode, its cameras named as the policy names them.
        reward: (T,) after each step; None where nothing measures it.
        success: the episode's label; None where it was not judged.
        reason: how it ended; `error`: whether by an error.
        stamps: {stream: (T,) ns}, `deadline` among them; a stream that was not stamped somewhere is left out.
        begin: {entry: value} of the privileged state at the first step; empty where nothing gives one.
        log: a line a step; None where there is none.
        report: the deployment that it is of; empty where there is none.
        training: what its policy was trained on; None where that is not known.
        unknown: what could not be checked, and why, in words.
    """

    path: Path
    open: Callable[[], RecordedEpisode]
    contract: Contract
    action: Floats  # (T, A)
    qpos: Floats  # (T, S)
    reward: Floats | None
    success: bool | None
    reason: str
    error: bool
    stamps: Mapping[str, Ints]
    begin: Mapping[str, float]
    camera_statistics: Mapping[str, CameraStatistics]
    log: tuple[RecordedStep, ...] | None
    report: Mapping[str, Any]
    training: Statistics | None
    unknown: tuple[str, ...]

    @property
    def steps(self) -> int:
        """T."""
        return len(self.action)

    @property
    def rate_hz(self) -> float:
        return self.contract.rate_hz

    @property
    def simulated_time(self) -> bool:
        """Whether time waited for the computation: then nothing was ever late. A real clock is never this exact."""
        deadline = self.stamps.get("deadline")
        if deadline is None or len(deadline) < 2:
            return False
        return bool((np.diff(deadline) == round(1e9 / self.rate_hz)).all()) and all(
            np.array_equal(stamps, deadline) for stamps in self.streams.values()
        )

    @property
    def streams(self) -> dict[str, Ints]:
        """Stamps of what sensors sent."""
        return {
            name: stamps
            for name, stamps in self.stamps.items()
            if name not in {"deadline", "command"} and not name.startswith("leader_")
        }


def gather(place: Path, ckpt: Path | None = None, *, kind: str = AUTO, number: int = 0) -> Evidence:
    """Read what there is of a rollout.

    Args:
        place: its episode, or a place that has several.
        ckpt: a run or checkpoint, in place of the one that the episode names.
        kind: the format of the episodes, see `formats.FORMATS`.
        number: of the episode in the source at `place`.

    Raises:
        EpisodeError: the episode, or the log beside it, is missing or damaged, or has no step.
        ConfigError: there is no checkpoint at `ckpt`, or no such format.
    """
    unknown: list[str] = []
    source = open_source(place, kind=kind)
    with closing(source.episode(number)) as episode:
        path = source.place / episode.name
    report = _report(path, unknown)
    options = ReadOptions(rename=_policy_names(report))

    def open_rollout() -> RecordedEpisode:
        return open_source(place, kind=kind, options=options).episode(number)

    with closing(open_rollout()) as episode:
        steps, contract = episode.length, episode.contract
        if not steps:
            raise EpisodeError("{path} has no step", path=path)
        base = episode.base_action
        action = episode.action if base is None else np.concatenate([episode.action, base], axis=1)
        log = _log(path, steps, unknown)
        training = _training(episode, path, ckpt, unknown)
        return Evidence(
            path=path,
            open=open_rollout,
            contract=contract,
            action=action,
            qpos=episode.qpos[:steps],
            reward=_reward(episode),
            success=episode.success,
            reason=str(episode.attrs.get("reason") or ""),
            error=bool(episode.attrs.get("error", False)),
            stamps=_stamps(episode, steps),
            begin=_begin(episode),
            camera_statistics={camera: _camera_statistics(episode, camera) for camera in episode.cameras},
            log=log,
            report=report,
            training=training,
            unknown=tuple(unknown),
        )


def _begin(episode: RecordedEpisode) -> dict[str, float]:
    vectors = episode.vectors
    named = [f for f in episode.contract.privileged if f.name in vectors]
    return {entry: float(v) for f in named for entry, v in zip(f.entries, vectors[f.name][0], strict=False)}


def _reward(episode: RecordedEpisode) -> Floats | None:
    """Reward of an episode, None where nothing measures one: it is then 0 throughout, as in a rollout without any
    success, but only an episode with a measured reward has a success label in simulation."""
    reward = episode.reward
    measured = reward is not None and (reward.any() or (episode.attrs.get("sim") and episode.success is not None))
    return reward if measured else None


def _stamps(episode: RecordedEpisode, steps: int) -> dict[str, Ints]:
    rows = {name: stamps[:steps] for name, stamps in episode.stamps.items()}
    return {name: stamps for name, stamps in rows.items() if len(stamps) == steps and (stamps != NO_STAMP).all()}


def _camera_statistics(episode: RecordedEpisode, camera: str) -> CameraStatistics:
    chosen = np.unique(np.linspace(0, episode.length - 1, min(episode.length, IMAGES_CHECKED)).round().astype(np.int64))
    return CameraStatistics(chosen, np.stack([describe(episode.image(camera, int(i))) for i in chosen]))


def _log(path: Path, steps: int, unknown: list[str]) -> tuple[RecordedStep, ...] | None:
    file = steps_path(path)
    if not file.is_file():
        unknown.append(
            Message(
                "which stage was late, chunks, holds and what the guard limited: there is no {file}", file=file.name
            )
        )
        return None
    lines = read_steps(file)[:steps]
    if len(lines) < steps:
        unknown.append(
            Message(
                "how steps went from {count} on: {file} ends there (a crash, or a full disk)",
                count=len(lines),
                file=file.name,
            )
        )
    return tuple(lines)


def _policy_names(report: Mapping[str, Any]) -> dict[str, str]:
    """{the policy's name of a camera: the episode's} of a deployment with `--rename`."""
    return {str(name): str(rig) for name, rig in dict(report.get("rename") or {}).items()}


def _report(path: Path, unknown: list[str]) -> Mapping[str, Any]:
    """The newest deploy.json that lists this rollout."""
    for file in sorted(path.parent.glob("deploy*.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
            if any(rollout["episode"] == path.name for rollout in report["rollouts"]):
                return dict(report)
        except (OSError, ValueError, LookupError, TypeError) as error:
            unknown.append(Message("the deployment: {file} cannot be read ({error})", file=file.name, error=error))
    return {}


def _training(episode: RecordedEpisode, path: Path, ckpt: Path | None, unknown: list[str]) -> Statistics | None:
    named = str(episode.describe.get("policy") or "")
    try:
        return find_training(named, path, ckpt)
    except ContractError as error:
        unknown.append(error_text(error))
        return None
