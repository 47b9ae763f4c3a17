"""Episode table: all steps of all episodes, the rows of each episode, and all small arrays in memory."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from aloha_kit.config.match_checkpoint import BASE_NAMES
from aloha_kit.core import ConfigError, Contract, ContractError, did_you_mean, EpisodeError, plural
from aloha_kit.core.features import ACTION, Feature
from aloha_kit.core.source import EpisodeSource, RecordedEpisode
from aloha_kit.data.stats import Accumulator, Moments, Statistics
from aloha_kit.storage.hdf5 import damage_reported

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpisodeTable:
    """N steps of E episodes, concatenated in the source's order. Row r is step `r - starts[e]` of episode e.

    Images stay in the source (see `frames`); only vectors are stored here, some 200 bytes per step.
    """

    source: EpisodeSource
    numbers: tuple[int, ...]  # (E,) of the episodes in the source
    names: tuple[str, ...]  # (E,) of the episodes; what messages call them is in `where`
    where: tuple[str, ...]
    starts: Ints  # (E,) first row of each episode
    lengths: Ints  # (E,) steps, i.e. actions, of each episode
    offsets: Ints  # (E,) the first target of step t is the action of step max(0, t - offset)
    qpos: Floats  # (N, S) rad, gripper normalised
    action: Floats  # (N, A); with a mobile base the last two are m/s and rad/s
    contract: Contract  # the chosen cameras, at their recorded sizes; privileged features that every episode has
    ids: tuple[str, ...]  # (E,) identity of each episode, see `RecordedEpisode.id`
    tasks: tuple[str, ...]  # what the episodes were recorded for, each task once; empty for foreign files
    readings: tuple[str, ...]  # (E,) conversions of images when read, part of the cache key
    notes: tuple[str, ...] = ()  # what is converted, assumed or contradicted in the data, and in how many episodes
    further_vectors: Mapping[str, Floats] = field(default_factory=dict)  # {feature: (N, D)} of what is read beside qpos
    failed: int = 0  # episodes left out because they are marked as failures
    instructions: tuple[str, ...] = ()  # (E,) of the episodes, empty where one has none
    assumptions: tuple[str, ...] = ()  # what of the contract is assumed, see `RecordedEpisode.assumption`

    def __len__(self) -> int:
        return len(self.action)

    @property
    def vectors(self) -> dict[str, Floats]:
        """{feature: (N, D)} of an observation's vectors."""
        return {"qpos": self.qpos, **self.further_vectors}

    def without_privileged(self) -> EpisodeTable:
        """Table without the privileged features."""
        dropped = {feature.name for feature in self.contract.privileged}
        further = {name: rows for name, rows in self.further_vectors.items() if name not in dropped}
        return dataclasses.replace(self, further_vectors=further, contract=self.contract.without_privileged())

    def history(self, rows: Ints, n_obs_steps: int) -> Ints:
        """(B, n_obs_steps) rows that end with `rows`, oldest first; an episode's first row stands for those before."""
        back = np.arange(n_obs_steps - 1, -1, -1)
        history: Ints = np.maximum(rows[:, None] - back, self.first_rows(rows)[:, None])
        return history

    def last_rows(self, rows: Ints) -> Ints:
        """The last row of each row's episode."""
        episodes = self.episode_of(rows)
        return np.asarray(self.starts[episodes] + self.lengths[episodes] - 1)

    def later_rows(self, rows: Ints, seed: int, step: int) -> Ints:
        """A row after each row in its episode, and the last one for itself.

        Drawn for the whole table by seed and step, so that a row has the same one in any piece of a batch.
        """
        shares = np.random.default_rng([seed, step, 0x60A1]).random(len(self))[rows]
        last = self.last_rows(rows)
        return np.minimum(rows + 1 + (shares * (last - rows)).astype(np.int64), last)

    def first_rows(self, rows: Ints) -> Ints:
        """The first row of each row's episode."""
        return self.starts[self.episode_of(rows)]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras in the requested order."""
        return tuple(self.contract.cameras)

    def open(self, episode: int) -> RecordedEpisode:
        """One of the episodes, see `EpisodeSource.open`.

        Raises:
            EpisodeError: it is gone, or damaged by now.
        """
        return self.source.episode(self.numbers[episode])

    def cache_key(self, episode: int) -> str:
        """Key of an episode in image caches; it changes with the episode's content and with how images are read."""
        reading = self.readings[episode]
        return self.source.identity(self.numbers[episode]) + (f":{reading}" if reading else "")

    def episode_of(self, rows: Ints) -> Ints:
        """Which episode each row belongs to."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def rows_of(self, episodes: Iterable[int]) -> Ints:
        """All rows of some episodes, in order."""
        chosen = np.fromiter(episodes, np.int64)
        return rows_between(self.starts[chosen], self.lengths[chosen])

    def statistics(self) -> Statistics:
        """Moments of every vector over all episodes, validation included as in the reference: they describe the
        data set, and so do not change with the split. One pass in float64."""
        moments: dict[str, Moments] = {}
        for key, values in {"qpos": self.qpos, "action": self.action, **self.vectors}.items():
            accumulator = Accumulator()
            for start, length in zip(self.starts, self.lengths, strict=True):
                accumulator.add(values[start : start + length])
            moments[key] = accumulator.moments()
        return Statistics(moments)


def rows_between(starts: Ints, lengths: Ints) -> Ints:
    """All rows of some spans, in order."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    rows: Ints = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return rows


def read_table(
    source: EpisodeSource,
    *,
    cameras: Sequence[str] | None = None,
    sensors: Sequence[str] = (),
    depth_cameras: Sequence[str] = (),
    action_offset: int | None = None,
    include_failed: bool = False,
) -> EpisodeTable:
    """Index a source of episodes, see `formats.open_source`.

    Args:
        cameras: which to use, in this order; all of the first episode when None.
        sensors: vectors to read beside state, action and privileged features, by their names in the contract.
        depth_cameras: cameras whose depth is read.
        action_offset: see `EpisodeTable.offsets`; None takes each episode's own.
        include_failed: take episodes that are marked as failures too.

    Raises:
        EpisodeError: no episode, or one that is damaged, whose streams are shorter than its actions, or that holds
            a value which is not finite; names episode, stream and row.
        ConfigError: a camera or depth that an episode lacks; lists its cameras.
        ContractError: episodes that describe different embodiments; lists the differences by episode.
    """
    parts: list[_EpisodeVectors] = []
    failed = 0
    for number in range(len(source)):
        try:
            with closing(source.episode(number)) as episode, damage_reported(episode.where):
                if episode.success is False and not include_failed:
                    failed += 1
                    continue
                parts.append(_read(number, episode, cameras, sensors, depth_cameras, action_offset))
        except EpisodeError as error:
            raise EpisodeError("{error}; {advice}", error=error, advice=source.advice) from error
    if not parts:
        if failed:
            raise EpisodeError(
                "no episode to train on in {place}; {count} are marked as failures (use --include_failed)",
                place=source.place,
                count=failed,
            )
        raise EpisodeError("no episode to train on in {place}", place=source.place)
    _require_alike(parts)
    lengths = np.array([len(p.action) for p in parts], np.int64)
    contract = parts[0].contract
    if any(feature.name not in part.further_vectors for part in parts for feature in contract.privileged):
        contract = contract.without_privileged()
    read = [*(feature.name for feature in contract.privileged), *sensors]
    return EpisodeTable(
        source=source,
        numbers=tuple(p.number for p in parts),
        names=tuple(p.name for p in parts),
        where=tuple(p.where for p in parts),
        starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
        lengths=lengths,
        offsets=np.array([p.offset for p in parts], np.int64),
        qpos=np.concatenate([p.qpos for p in parts]),
        action=np.concatenate([p.action for p in parts]),
        contract=contract,
        further_vectors={name: np.concatenate([p.further_vectors[name] for p in parts]) for name in read},
        ids=tuple(p.id or source.identity(p.number) for p in parts),
        tasks=tuple(sorted({p.task for p in parts if p.task})),
        readings=tuple(p.reading for p in parts),
        notes=_counted_notes(parts),
        failed=failed,
        instructions=tuple(p.instruction for p in parts),
        assumptions=tuple(dict.fromkeys(p.assumption for p in parts if p.assumption)),
    )


def split(episodes: int, val_fraction: float, seed: int, own: Collection[int] = ()) -> tuple[list[int], list[int]]:
    """Training and validation episodes: disjoint, sorted, the same for the same seed.

    At least one episode stays on each side, unless there is only one episode or `val_fraction` is 0. A data set's `own`
    validation episodes take the place of a random choice of that fraction.
    """
    if episodes < 2 or val_fraction <= 0:
        return list(range(episodes)), []
    if 0 < len(own) < episodes:
        return [number for number in range(episodes) if number not in own], sorted(own)
    kept = min(max(round(episodes * val_fraction), 1), episodes - 1)
    order = np.random.default_rng([seed, 0x5911]).permutation(episodes)
    return sorted(order[kept:].tolist()), sorted(order[:kept].tolist())


@dataclass(frozen=True)
class _EpisodeVectors:
    number: int
    name: str
    where: str
    offset: int
    qpos: Floats
    action: Floats
    further_vectors: Mapping[str, Floats]
    contract: Contract
    id: str
    task: str
    instruction: str
    assumption: str
    reading: str
    notes: tuple[str, ...]


def _read(
    number: int,
    episode: RecordedEpisode,
    cameras: Sequence[str] | None,
    sensors: Sequence[str],
    depth_cameras: Sequence[str],
    action_offset: int | None,
) -> _EpisodeVectors:
    if episode.length < 1:
        raise EpisodeError("{where} holds no action", where=episode.where)
    chosen = _chosen_cameras(episode, cameras)
    vectors = _vectors(episode, sensors)
    for camera in chosen:
        _require_rows(episode.where, f"camera '{camera}'", episode.rows(camera), episode.length)
    action, qpos = vectors.pop("action"), vectors.pop("qpos")
    if "base_action" in vectors:
        action = np.concatenate([action, vectors.pop("base_action")], axis=1)
    return _EpisodeVectors(
        number=number,
        name=episode.name,
        where=episode.where,
        offset=episode.action_offset if action_offset is None else action_offset,
        qpos=qpos,
        action=action,
        further_vectors=vectors,
        contract=_narrow(episode, chosen, sensors, depth_cameras, action.shape[1]),
        id=episode.id,
        task=str(episode.attrs.get("task") or ""),
        instruction=str(episode.attrs.get("instruction") or "").strip(),
        assumption=episode.assumption,
        reading=episode.reading(chosen),
        notes=tuple(episode.notes) if chosen else (),
    )


def _chosen_cameras(episode: RecordedEpisode, cameras: Sequence[str] | None) -> list[str]:
    """The cameras wanted, all by default; `ConfigError` where the episode lacks one."""
    present = list(episode.cameras)
    for camera in cameras or ():
        if camera not in present:
            raise ConfigError(
                "{where} has no camera '{camera}'. {known}",
                where=episode.where,
                camera=camera,
                known=did_you_mean(camera, present),
            )
    return present if cameras is None else list(cameras)


def _vectors(episode: RecordedEpisode, sensors: Sequence[str]) -> dict[str, Floats]:
    """{name: (T, N) rows} of action, state, a base's action, privileged features and `sensors`, of those recorded."""
    measured, contract = episode.vectors, episode.contract
    for name in sensors:
        if name not in measured:
            raise ConfigError(
                "{where} has no '{name}'. {known}",
                where=episode.where,
                name=name,
                known=did_you_mean(name, [s.name for s in contract.sensors]),
            )
    streams = {"action": episode.action, "qpos": episode.qpos, "base_action": episode.base_action}
    further = (*(feature.name for feature in contract.privileged), *sensors)
    streams |= {name: measured[name] for name in further if name in measured}
    return {
        name: _steps_of(episode.where, name, rows, episode.length) for name, rows in streams.items() if rows is not None
    }


def _narrow(
    episode: RecordedEpisode,
    cameras: Sequence[str],
    sensors: Sequence[str],
    depth_cameras: Sequence[str],
    actions: int,
) -> Contract:
    """The episode's contract with these cameras, sensors and depth, for `actions` entries of action, a base's
    included."""
    contract = episode.contract
    for camera in cameras:
        if camera not in contract.cameras:
            episode.image_size(camera)  # raises why a contract that was derived lacks it
            raise ConfigError(
                "{where}: its contract lacks camera '{camera}'. {known}",
                where=episode.where,
                camera=camera,
                known=did_you_mean(camera, contract.cameras),
            )
    if len(contract.action_names) + len(BASE_NAMES) == actions:
        state, command, *others = contract.features
        names, units = (*command.entries, *BASE_NAMES), (*command.units, "m/s", "rad/s")
        command = Feature.vector("action", ACTION, names, units)
        contract = dataclasses.replace(contract, features=(state, command, *others))
    contract = contract.with_cameras({camera: contract.cameras[camera] for camera in cameras})
    depth = [_depth_of(episode, camera) for camera in depth_cameras]
    return contract.with_sensors((*contract.privileged, *contract.named_sensors(sensors), *depth))


def _depth_of(episode: RecordedEpisode, camera: str) -> Feature:
    """A camera's depth in the contract of an episode; files of other tools have it without a contract of their own."""
    if camera not in episode.depth_cameras:
        raise ConfigError(
            "{where} has no depth of camera '{camera}'. {known}",
            where=episode.where,
            camera=camera,
            known=did_you_mean(camera, episode.depth_cameras),
        )
    height, width = episode.depth(camera, 0).shape
    return Feature.depth(camera, (height, width))


def _counted_notes(parts: Sequence[_EpisodeVectors]) -> tuple[str, ...]:
    counts = Counter(note for part in parts for note in part.notes)
    return tuple(f"{note} (in {count} of {plural(len(parts), 'episode')})" for note, count in counts.items())


def _steps_of(where: str, name: str, rows: Floats, steps: int) -> Floats:
    """The first `steps` rows of a stream: all there, since a table joins episodes end to end, and all finite."""
    _require_rows(where, name, len(rows), steps)
    values = np.asarray(rows[:steps], np.float32)
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        row, column = broken[0]
        raise EpisodeError(
            "{where}: {name} is {values} at row {row}, column {column}",
            where=where,
            name=name,
            values=values[row, column],
            row=row,
            column=column,
        )
    return values


def _require_rows(where: str, name: str, rows: int, steps: int) -> None:
    if rows < steps:
        raise EpisodeError(
            "{where}: {rows} rows of {name} for {steps} actions", where=where, rows=rows, name=name, steps=steps
        )


def _require_alike(parts: Sequence[_EpisodeVectors]) -> None:
    first = parts[0]
    lines: list[str] = []
    for part in parts[1:]:
        found = first.contract.differences(part.contract)
        for label, mine, theirs in (("qpos", first.qpos, part.qpos), ("action", first.action, part.action)):
            if mine.shape[1] != theirs.shape[1]:
                found.append(f"{label}: {mine.shape[1]} dimensions against {theirs.shape[1]}")
        lines += [f"{part.name}: {difference}" for difference in found]
    if lines:
        more = f"\n  … and {len(lines) - 20} more" if len(lines) > 20 else ""
        listed = "\n  ".join(lines[:20])
        remedy = "`episode rename-camera` and `resize` make cameras alike, --cameras chooses those that all have"
        raise ContractError(
            "episodes that differ from {where}:\n  {listed}{more}\n{remedy}",
            where=first.where,
            listed=listed,
            more=more,
            remedy=remedy,
        )
