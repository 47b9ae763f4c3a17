"""Folders of HDF5 episodes as a target: our own files, and those that ACT, ACT++, Mobile ALOHA and Cobot Magic read."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import dm_env
import numpy as np

from aloha_kit.core import EpisodeError, Observation, Outcome
from aloha_kit.core.exporter import (
    array_of,
    attributes_of,
    episode_arrays,
    EpisodeExporter,
    ExportRecord,
    PER_STEP,
    WriteOptions,
)
from aloha_kit.core.features import SENSORS
from aloha_kit.core.files import put
from aloha_kit.core.jpeg import is_jpeg
from aloha_kit.core.source import Image, RecordedEpisode
from aloha_kit.formats.curated import CuratedEpisode
from aloha_kit.storage import Episode, EpisodeWriter
from aloha_kit.storage.export import export
from aloha_kit.storage.label import label, rename_cameras
from aloha_kit.storage.paths import episode_path, list_episodes


class Hdf5Exporter(EpisodeExporter):
    """Episodes `episode_<number>.hdf5`. HDF5 files are copied, JPEG byte for byte; others are written as recorded.

    Images of other formats become JPEG of quality 95, or raw pixels with `--images raw`.
    """

    classic, raw, mobile_aloha = False, False, False  # as in `export`

    def __init__(self, folder: Path, parts: Path, options: WriteOptions) -> None:
        options.refuse("hdf5", "codec", "crf", "quality", *(["images"] if self.classic else []))
        super().__init__(folder, parts, options)

    def write(self, number: int, episode: RecordedEpisode, record: ExportRecord) -> None:
        scratch = self.scratch(number)
        path, classic = None, self.classic
        episode = episode.flat() if isinstance(episode, CuratedEpisode) else episode
        whole = file_of(episode)
        if whole is None:
            path = record_anew(episode, scratch / "recorded", images="raw" if self.raw else self.options.images)
            classic = classic or episode.frames == episode.length
        if path is None or classic:
            described = path is None and "contract" not in episode.attrs and not episode.assumption
            given = whole is not None and whole.jpeg_order_source == "given"
            curated = episode if whole is not None and isinstance(episode, CuratedEpisode) else None
            path = export(
                path or Path(episode.where),
                scratch / "copy",
                start=curated.start if curated else 0,
                stop=curated.stop if curated else None,
                classic=classic,
                raw=self.raw or self.options.images == "raw",
                jpeg=getattr(whole, "jpeg_order", "mobile_aloha") if self.options.images == "jpeg" else None,
                mobile_aloha=self.mobile_aloha,
                contract=whole.contract if whole is not None and described else None,
                jpeg_order=whole.jpeg_order if whole is not None and given else None,
                origin=getattr(episode, "origin", episode.where),
            )
            if curated:
                rename_cameras(path, {old: new for new, old in curated.renamed.items() if old != new})
                if curated.edit.labels:
                    label(path, **curated.edit.labels)
        with Episode.open(path) as copy:
            _record(episode, copy, record)
        put(path, episode_path(self.folder, number))
        shutil.rmtree(scratch)

    def finish(self, records: Sequence[ExportRecord]) -> None:
        written = {episode_path(self.folder, record.number) for record in records}
        for file in list_episodes(self.folder):
            if file not in written:  # of an episode that the source no longer has, or that is damaged since
                file.unlink()


class ActExporter(Hdf5Exporter):
    """As many observations as actions and raw pixels: for ACT and Cobot Magic."""

    classic, raw = True, True


class MobileAlohaExporter(Hdf5Exporter):
    """As many observations as actions and JPEG with red and blue exchanged: for ACT++ and Mobile ALOHA."""

    classic, mobile_aloha = True, True


def record_anew(episode: RecordedEpisode, folder: Path, *, images: Any = None) -> Path:
    """Write an episode of any format as the recorder would; returns the file.

    Where there is no observation after the last action, the last one stands for it; `export(classic=True)` drops it.
    """
    attrs = episode.attrs
    writer = EpisodeWriter(
        folder,
        contract=episode.contract,
        task=str(attrs.get("task") or ""),
        rig=str(attrs.get("rig") or ""),
        sim=bool(attrs.get("sim")),
        instruction=str(attrs.get("instruction") or ""),
        images=images or "jpeg",
        id=episode.id,
        describe={**episode.describe, "converted": {"from": episode.where, "id": episode.id, "layout": episode.layout}},
    )
    writer.success = episode.success
    jpeg = {camera: read for camera in episode.cameras if (read := stored_jpeg(episode, camera))}
    vectors, stamps, base = dict(episode.vectors), dict(episode.stamps), episode.base_action
    commands = stamps.pop("command", None)
    action = episode.action if base is None else np.concatenate([episode.action, base], axis=1)
    reward = np.zeros(episode.length, np.float32) if episode.reward is None else episode.reward

    def observation(i: int) -> Observation:
        row = min(i, episode.frames - 1)
        found: dict[str, Any] = {name: table[row] for name, table in vectors.items() if not name.startswith(SENSORS)}
        sensors = {k.removeprefix(SENSORS): t[row] for k, t in vectors.items() if k.startswith(SENSORS)}
        found["stamps"] = {name: int(times[row]) for name, times in stamps.items()}
        if i and commands is not None:
            found["stamps"]["command"] = int(commands[i - 1])
        found["images_jpeg"] = {camera: read(row) for camera, read in jpeg.items()}
        found["images"] = _Images(episode, row)
        if depth_cameras := getattr(episode, "depth_cameras", ()):
            depth: Any = episode
            found["images_depth"] = {camera: depth.depth(camera, row) for camera in depth_cameras}
        return cast(Observation, found | ({"sensors": sensors} if sensors else {}))

    try:
        writer.on_reset(dm_env.restart(observation(0)))
        for i in range(episode.length):
            writer.on_step(action[i], dm_env.transition(float(reward[i]), observation(i + 1)))
    except BaseException:
        writer.discard()
        raise
    ended = str(attrs.get("reason") or "converted")
    writer.on_end(
        Outcome(episode.length, float(reward[-1]), float(reward.max()), ended, error=bool(attrs.get("error")))
    )
    if given := {key: attrs[key] for key in ("note", "grade") if attrs.get(key)}:
        label(writer.path, **given)
    return writer.path


def file_of(episode: RecordedEpisode) -> Episode | None:
    """The HDF5 file of an episode, edited or not, whose stored images the episode has; None where it has others."""
    if isinstance(episode, CuratedEpisode):
        episode = episode.original if not episode.sizes else episode
    return episode if isinstance(episode, Episode) else None


class _Images(Mapping[str, Image]):
    """Images of a row {camera: (H, W, 3) RGB}, each read when it is taken: a stored JPEG is not decoded."""

    def __init__(self, episode: RecordedEpisode, row: int) -> None:
        self._episode, self._row = episode, row

    def __getitem__(self, camera: str) -> Image:
        return self._episode.image(camera, self._row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._episode.cameras)

    def __len__(self) -> int:
        return len(self._episode.cameras)


def _record(episode: RecordedEpisode, copy: Episode, record: ExportRecord) -> None:
    """Note what the copy holds, and compare it with the episode.

    Raises:
        EpisodeError: an array or an image that was to be copied unchanged differs.
    """
    held = set(episode_arrays(copy))
    for name in episode_arrays(episode):
        if name not in held:
            continue
        values = array_of(episode, name)
        rows = values if name in PER_STEP else values[: copy.frames]
        if not np.array_equal(record.array(name, rows), array_of(copy, name), equal_nan=True):
            raise EpisodeError("{where}: {name} does not read back as it was written", where=episode.where, name=name)
    for camera in copy.depth_cameras:
        _record_depth(episode, copy, record, camera)
    for camera in copy.cameras:
        if (stored := stored_images(episode, camera)) and _same_bytes(copy, camera, stored):
            digest = hashlib.sha256()
            for i in range(copy.frames):
                if (code := copy.encoded(camera, i)) != stored(i):
                    raise EpisodeError(
                        "{where}: image {i} of {camera} does not read back as it was written",
                        where=episode.where,
                        i=i,
                        camera=camera,
                    )
                digest.update(code)
            record.images[camera] = {"rows": copy.frames, "sha256": digest.hexdigest(), "of": "stored"}
            continue
        exact = not copy.image_format(camera).encoded
        for i, image in enumerate(record.pixels(episode, camera, copy.frames)):
            if exact and not np.array_equal(image, copy.image(camera, i)):
                raise EpisodeError(
                    "{where}: image {i} of {camera} does not read back as it was written",
                    where=episode.where,
                    i=i,
                    camera=camera,
                )
        if not exact:
            record.notes.append("images are encoded anew as JPEG")
    if episode.reward is None and copy.reward is not None:
        record.notes.append("it has no rewards: they are 0")
    record.notes = list(dict.fromkeys(record.notes))
    record.attributes = attributes_of(episode)


def _record_depth(episode: RecordedEpisode, copy: Episode, record: ExportRecord, camera: str) -> None:
    """Note what the copy holds of a camera's depth, and compare it with the episode.

    Raises:
        EpisodeError: a row differs.
    """
    digest, shape = hashlib.sha256(), (0,)
    for i in range(copy.frames):
        rows = copy.depth(camera, i)
        if not np.array_equal(rows, getattr(episode, "depth", copy.depth)(camera, i)):
            raise EpisodeError(
                "{where}: depth {i} of {camera} does not read back as it was written",
                where=episode.where,
                i=i,
                camera=camera,
            )
        digest.update(rows.tobytes())
        shape = rows.shape
    entry = {"shape": [copy.frames, *shape], "dtype": "uint16", "sha256": digest.hexdigest()}
    record.arrays[f"images_depth/{camera}"] = entry


def stored_images(episode: RecordedEpisode, camera: str) -> Callable[[int], bytes] | None:
    """Reader of the encoded images that an episode, edited or not, has stored of a camera; None where it has none."""
    start = 0
    if isinstance(episode, CuratedEpisode):
        episode = episode.flat()
        if camera in episode.sizes:
            return None
        camera, start, episode = episode.renamed[camera], episode.start, episode.original
    if isinstance(episode, Episode):
        read: Callable[[str, int], Any] = episode.encoded if episode.image_format(camera).encoded else _nothing
    else:
        read = getattr(episode, "jpeg", _nothing)
    return None if read(camera, 0) is None else lambda i: bytes(read(camera, start + i))


def stored_order(episode: RecordedEpisode) -> str:
    """Order of red and blue in the stored images of an episode, edited or not."""
    original = episode.flat().original if isinstance(episode, CuratedEpisode) else episode
    return str(getattr(original, "jpeg_order", "standard"))


def stored_jpeg(episode: RecordedEpisode, camera: str) -> Callable[[int], bytes] | None:
    """Reader of a camera's stored JPEG with red and blue in the standard order; None where it has none."""
    read = stored_images(episode, camera)
    return read if read is not None and is_jpeg(read(0)) and stored_order(episode) == "standard" else None


def _nothing(camera: str, row: int) -> None:
    """Stored JPEG of an episode that has none."""


def _same_bytes(copy: Episode, camera: str, stored: Callable[[int], bytes]) -> bool:
    """Whether the images of a copy are to be the bytes of the original."""
    return copy.image_format(camera).encoded and copy.encoded(camera, 0) == stored(0)
