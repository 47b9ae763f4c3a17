"""Episodes as one long table of steps: which rows belong to which file, and every small array in memory."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aloha_kit.config.fit import BASE_NAMES
from aloha_kit.core import ConfigError, Contract, ContractError, counted, EpisodeError, nearest
from aloha_kit.core.errors import command
from aloha_kit.data.stats import Accumulator, Moments, Statistics
from aloha_kit.episode import Episode, JpegOrder, list_episodes
from aloha_kit.episode.hdf5 import damage_told
from aloha_kit.episode.layouts import FAMILY

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpisodeTable:
    """N steps of E episodes, concatenated in file order. Row r is step `r - starts[e]` of episode e.

    Images stay in the files (see `frames`); only vectors are kept here, some 200 bytes a step.
    """

    files: tuple[Path, ...]
    starts: Ints  # (E,) first row of each episode
    lengths: Ints  # (E,) steps, i.e. actions, of each episode
    offsets: Ints  # (E,) the first target of step t is the action of step max(0, t - offset)
    qpos: Floats  # (N, S) rad, gripper normalised
    action: Floats  # (N, A); with a mobile base the last two are m/s and rad/s
    environment_state: Floats | None  # (N, Z), where every episode has it
    contract: Contract  # cameras: the ones asked for, at their recorded sizes
    identities: tuple[str, ...]  # (E,) what tells an episode from any other: the id it was recorded under, or its size
    tasks: tuple[str, ...]  # what the episodes were recorded for, each task once; empty for foreign files
    readings: tuple[str, ...]  # (E,) how images are read where not simply as the file says, by which caches tell them
    jpeg_order: JpegOrder | None = None  # what was given for files that do not say theirs
    rename: Mapping[str, str] | None = None  # cameras, {the name here: the files'}
    notes: tuple[str, ...] = ()  # what is converted, assumed or contradicted in the files, and in how many
    failed: int = 0  # episodes left out because they are marked as failures
    assumptions: tuple[str, ...] = ()  # what of the contract is assumed, see `Episode.assumption`

    def __len__(self) -> int:
        return len(self.action)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras in the order they were asked for."""
        return tuple(self.contract.cameras)

    def open(self, episode: int) -> Episode:
        """One of the episodes, read as the table was.

        Raises:
            EpisodeError: it is gone, or damaged by now.
        """
        return Episode.open(self.files[episode], jpeg_order=self.jpeg_order, rename=self.rename)

    def episode_of(self, rows: Ints) -> Ints:
        """Which episode each row belongs to."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def rows_of(self, episodes: Iterable[int]) -> Ints:
        """All rows of some episodes, in order."""
        pieces = [np.arange(self.starts[e], self.starts[e] + self.lengths[e]) for e in episodes]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)

    def statistics(self) -> Statistics:
        """Moments of every vector over all episodes, validation included as in the reference: they describe the
        data set, and so do not change with the split. One pass in float64."""
        keys = {"qpos": self.qpos, "action": self.action}
        if self.environment_state is not None:
            keys["environment_state"] = self.environment_state
        moments: dict[str, Moments] = {}
        for key, values in keys.items():
            accumulator = Accumulator()
            for start, length in zip(self.starts, self.lengths, strict=True):
                accumulator.add(values[start : start + length])
            moments[key] = accumulator.moments()
        return Statistics(moments)


def read_table(
    source: str | Path | Sequence[Path],
    *,
    cameras: Sequence[str] | None = None,
    action_offset: int | None = None,
    include_failed: bool = False,
    contract: Contract | None = None,
    jpeg_order: JpegOrder | None = None,
    rename: Mapping[str, str] | None = None,
) -> EpisodeTable:
    """Index a folder of episodes, or the given files.

    Args:
        cameras: which to use, in this order; all of the first episode when None.
        action_offset: see `EpisodeTable.offsets`; None decides file by file: 1 for files of the real ALOHA, whose
            observation is taken before the action it is stored with, 0 for simulation and for our own files.
        include_failed: take episodes that are marked as failures too.
        contract: what the vectors of files that do not say it mean, see `Episode.open`.
        jpeg_order: the order of red and blue in encoded images, for files that do not say it.
        rename: cameras, {the name here: the files'}, see `Episode.open`.

    Raises:
        EpisodeError: no episode, or a file that is damaged, whose streams are shorter than its actions, or that holds
            a value which is not finite; names file, stream and row.
        ConfigError: a camera that a file has not; says which it has.
        ContractError: episodes that describe different embodiments; lists the differences by file.
    """
    files = list_episodes(Path(source)) if isinstance(source, (str, Path)) else list(source)
    parts: list[_Part] = []
    failed = 0
    for file in files:
        try:
            with (
                damage_told(file),
                Episode.open(file, contract, jpeg_order=jpeg_order, rename=rename) as episode,
            ):
                if episode.success is False and not include_failed:
                    failed += 1
                    continue
                parts.append(_read(file, episode, cameras, action_offset, rename or {}))
        except EpisodeError as error:
            raise EpisodeError(
                f"{error}; move it away, or see `{command('episode', 'validate', file.parent)}`"
            ) from error
    if not parts:
        where = source if isinstance(source, (str, Path)) else f"the {len(files)} files given"
        skipped = f"; {failed} are marked as failures (use include_failed)" if failed else ""
        raise EpisodeError(f"no episode to train on in {where}{skipped}")
    _require_alike(parts)
    lengths = np.array([len(p.action) for p in parts], np.int64)
    with_state = all(p.environment_state is not None for p in parts)
    embodiment = parts[0].contract
    return EpisodeTable(
        files=tuple(p.file for p in parts),
        starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
        lengths=lengths,
        offsets=np.array([p.offset for p in parts], np.int64),
        qpos=np.concatenate([p.qpos for p in parts]),
        action=np.concatenate([p.action for p in parts]),
        environment_state=np.concatenate([p.environment_state for p in parts if p.environment_state is not None])
        if with_state
        else None,
        contract=embodiment if with_state else dataclasses.replace(embodiment, environment_state_names=()),
        identities=tuple(p.identity for p in parts),
        tasks=tuple(sorted({p.task for p in parts if p.task})),
        readings=tuple(p.reading for p in parts),
        jpeg_order=jpeg_order,
        rename=rename,
        notes=_counted_notes(parts),
        failed=failed,
        assumptions=tuple(dict.fromkeys(p.assumption for p in parts if p.assumption)),
    )


def split(episodes: int, val_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Training and validation episodes: disjoint, sorted, the same for the same seed.

    At least one episode stays on each side, unless there is only one episode or `val_fraction` is 0.
    """
    if episodes < 2 or val_fraction <= 0:
        return list(range(episodes)), []
    kept = min(max(round(episodes * val_fraction), 1), episodes - 1)
    order = np.random.default_rng([seed, 0x5911]).permutation(episodes)
    return sorted(order[kept:].tolist()), sorted(order[:kept].tolist())


@dataclass(frozen=True)
class _Part:
    file: Path
    offset: int
    qpos: Floats
    action: Floats
    environment_state: Floats | None
    contract: Contract
    identity: str
    task: str
    assumption: str
    reading: str
    notes: tuple[str, ...]


def _read(
    file: Path,
    episode: Episode,
    cameras: Sequence[str] | None,
    action_offset: int | None,
    rename: Mapping[str, str],
) -> _Part:
    steps = episode.length
    if steps < 1:
        raise EpisodeError(f"{file} holds no action")
    present = list(episode.cameras)
    for camera in cameras or ():
        if camera not in present:
            raise ConfigError(f"{file} has no camera '{camera}'. {nearest(camera, present)}")
    chosen = list(cameras) if cameras is not None else present
    streams = {
        "action": episode.action,
        "qpos": episode.qpos,
        "base_action": episode.base_action,
        "environment_state": episode.environment_state,
    }
    vectors = {name: _steps_of(file, name, rows, steps) for name, rows in streams.items() if rows is not None}
    for camera in chosen:
        _require_rows(file, f"camera '{camera}'", episode.rows(camera), steps)
    action = vectors["action"]
    if "base_action" in vectors:
        action = np.concatenate([action, vectors["base_action"]], axis=1)
    contract = episode.contract
    for camera in chosen:
        if camera not in contract.cameras:
            episode.image_size(camera)  # raises why a contract that was derived lacks it
            raise ConfigError(f"{file}: its contract lacks camera '{camera}'. {nearest(camera, contract.cameras)}")
    names = contract.action_names
    if len(names) + len(BASE_NAMES) == action.shape[1]:
        names = (*names, *BASE_NAMES)
    contract = dataclasses.replace(
        contract, action_names=names, cameras={camera: contract.cameras[camera] for camera in chosen}
    )
    if action_offset is None:
        action_offset = int(episode.layout in FAMILY and not episode.attrs.get("sim", False))
    return _Part(
        file=file,
        offset=action_offset,
        qpos=vectors["qpos"],
        action=action,
        environment_state=vectors.get("environment_state"),
        contract=contract,
        identity=str(episode.attrs.get("id") or file.stat().st_size),
        task=str(episode.attrs.get("task") or ""),
        assumption=episode.assumption,
        reading=_reading(episode, chosen, rename),
        notes=(*episode.notes, *filter(None, [episode.jpeg_order_note])) if chosen else (),
    )


def _reading(episode: Episode, cameras: Sequence[str], rename: Mapping[str, str]) -> str:
    conversions = {conversion for camera in cameras if (conversion := episode.image_format(camera).conversion)}
    given = (
        {f"jpeg_order {episode.jpeg_order}"} if episode.compressed and episode.jpeg_order_source == "given" else set()
    )
    renamed = {f"{name} is {rename[name]}" for name in cameras if name in rename}
    return "; ".join(sorted(conversions | given | renamed))


def _counted_notes(parts: Sequence[_Part]) -> tuple[str, ...]:
    counts = Counter(note for part in parts for note in part.notes)
    return tuple(f"{note} (in {count} of {counted(len(parts), 'episode')})" for note, count in counts.items())


def _steps_of(file: Path, name: str, rows: Floats, steps: int) -> Floats:
    """The first `steps` rows of a stream: all there, since a table joins episodes end to end, and all finite."""
    _require_rows(file, name, len(rows), steps)
    values = np.asarray(rows[:steps], np.float32)
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        row, column = broken[0]
        raise EpisodeError(f"{file}: {name} is {values[row, column]} at row {row}, column {column}")
    return values


def _require_rows(file: Path, name: str, rows: int, steps: int) -> None:
    if rows < steps:
        raise EpisodeError(f"{file}: {rows} rows of {name} for {steps} actions")


def _require_alike(parts: Sequence[_Part]) -> None:
    first = parts[0]
    lines: list[str] = []
    for part in parts[1:]:
        found = first.contract.differences(part.contract)
        for label, mine, theirs in (("qpos", first.qpos, part.qpos), ("action", first.action, part.action)):
            if mine.shape[1] != theirs.shape[1]:
                found.append(f"{label}: {mine.shape[1]} dimensions against {theirs.shape[1]}")
        lines += [f"{part.file.name}: {difference}" for difference in found]
    if lines:
        more = f"\n  … and {len(lines) - 20} more" if len(lines) > 20 else ""
        listed = "\n  ".join(lines[:20])
        raise ContractError(f"episodes that differ from {first.file}:\n  {listed}{more}")
