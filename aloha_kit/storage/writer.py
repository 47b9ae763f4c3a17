"""Recording of an episode as a loop observer: rows to a journal while it runs, one HDF5 file at its end."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import queue
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import dm_env
import numpy as np
import numpy.typing as npt

from aloha_kit.core import Action, Contract, EpisodeError, Observation, Outcome, plural
from aloha_kit.core.errors import command
from aloha_kit.core.jpeg import jpeg_size
from aloha_kit.core.lang import Message
from aloha_kit.core.versions import package_version
from aloha_kit.storage import transaction
from aloha_kit.storage.codec import encode_depth, encode_jpeg
from aloha_kit.storage.journal import Bytes, Contents, END, HEADER, Journal, row_parts, STEP
from aloha_kit.storage.journal_to_hdf5 import finish
from aloha_kit.storage.paths import episode_path, partial_path
from aloha_kit.storage.rows import fill_row, RowLayout

_QUEUE_BYTES = 64 << 20  # uncompressed images waiting for the encoder
_DESCRIBE_BYTES = 48_000  # an HDF5 attribute holds less than 64 kB

_CameraImage = npt.NDArray[np.uint8] | bytes  # pixels to encode, or a JPEG to save as it is
_Row = tuple[npt.NDArray[np.void], list[_CameraImage], list[npt.NDArray[np.uint16]]]


class EpisodeWriter:
    """Writes one episode; a loop `Observer`, so `run_episode(env, policy, [writer])` is all it takes.

    The control loop only copies the observation into a bounded queue. A thread behind it encodes and
    appends each row to `episode_<i>.hdf5.partial`, where it survives `kill -9` at once and a power cut
    after the next sync, at most `flush_s` later where the disk keeps up. When the queue is full
    `on_step` waits and counts it in `stalls`: a late step is better than a lost one. `on_end` converts the
    journal to `episode_<i>.hdf5`; an episode without steps leaves no file.

    A JPEG that a camera sent (`images_jpeg`) is saved byte for byte without being decoded; if the first
    observation has one, all images of the file are in the standard channel order (see `codec.JpegOrder`).

    Args:
        folder: where the episode goes; created if missing.
        contract: joint names, cameras and rate; the observations must match it.
        task, rig, instruction: names of the task and the rig, and the task in words.
        sim: whether the rig was simulated.
        index: the `<i>` to use; the lowest free one by default.
        images: "jpeg" (of `quality`, 1 to 100, where pixels have to be encoded) or "raw".
        flush_s: seconds between syncs to the disk, and at most this much recording waits in the queue.
        describe: description of the environment, JSON-able, below 48 kB.
        judge: success of an episode by its outcome, as `Environment.succeeded`; None leaves `success` unset
            unless it is assigned before the end.
        id: of the recording that this is a copy of; a new one by default.
        encoders: threads that encode JPEG; by default one, or two where a step has over 600 000 pixels.

    Raises:
        EpisodeError: `index` exists; a bad setting; see the methods for the rest.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        contract: Contract,
        task: str,
        rig: str,
        sim: bool,
        instruction: str = "",
        index: int | None = None,
        images: Literal["jpeg", "raw"] = "jpeg",
        quality: int = 95,
        flush_s: float = 0.5,
        describe: Mapping[str, Any] | None = None,
        judge: Callable[[Outcome], bool | None] | None = None,
        encoders: int | None = None,
        id: str = "",
    ) -> None:
        if images not in ("jpeg", "raw") or not 1 <= quality <= 100 or not flush_s > 0:
            raise EpisodeError(
                "images must be 'jpeg' or 'raw', quality 1 to 100, flush_s positive; given {images!r}, "
                "{quality}, {flush_s}",
                images=images,
                quality=quality,
                flush_s=flush_s,
            )
        if index is not None and episode_path(folder, index).exists():
            raise EpisodeError("{path} exists and is never overwritten", path=episode_path(folder, index))
        self.success: bool | None = None  # an operator's verdict; wins over `judge`
        self.stalls = 0  # steps that had to wait for room in the queue
        self.cut = 0  # last steps that are not part of the episode: the gripper gesture that ended it
        self.notes: dict[str, Any] = {}  # notes collected during the episode, JSON-able; added to `describe` at the end
        self._header = {
            "task": task,
            "rig": rig,
            "sim": bool(sim),
            "instruction": instruction,
            "images": images,
            "quality": quality,
            "rate_hz": contract.rate_hz,
            "contract": json.loads(contract.to_json()),
            "describe": _jsonable(describe or {}),
        }
        self._folder, self._index, self._contract, self._id = Path(folder), index, contract, id
        self._flush_s, self._judge, self._encoders = flush_s, judge, encoders
        self._path: Path | None = None
        self._fd = -1
        self._state: Literal["new", "recording", "committed", "kept", "empty", "discarded"] = "new"
        self._rows = 0
        self._synced = 0  # of them, how many the disk has confirmed
        self._failure: Exception | None = None

    @property
    def path(self) -> Path:
        """Path of the episode, `folder/episode_<i>.hdf5`; reading this property reserves the index."""
        if self._path is None:
            try:
                self._path, self._fd = transaction.reserve(self._folder, self._index)
            except OSError as error:
                raise EpisodeError(
                    "no episode can be begun in '{folder}': {error}", folder=self._folder, error=error
                ) from error
        return self._path

    @property
    def written(self) -> int:
        """Number of steps in the journal, which survive if this process is killed now."""
        return max(0, self._rows - 1)

    @property
    def committed(self) -> bool:
        """Whether the episode is complete under its final name."""
        return self._state == "committed"

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        """Open the journal and record the first observation.

        Raises:
            EpisodeError: the observation does not fit the contract, a write failed, or this writer was used before.
        """
        if self._state != "new":
            raise EpisodeError("a writer writes one episode; {name} is {state}", name=self.path.name, state=self._state)
        observation: Observation = timestep.observation
        layout = RowLayout.of(self._contract, observation)
        if self._header["images"] == "jpeg":
            self._header["jpeg_order"] = "standard" if observation.get("images_jpeg") else "mobile_aloha"
        row = self._row(layout, observation, None, 0.0)
        _, colour, depth = row
        pixels = sum(0 if isinstance(p, bytes) else p.size // 3 for p in colour) + sum(p.size for p in depth)
        limit = _QUEUE_BYTES // max(1, sum(len(p) if isinstance(p, bytes) else p.nbytes for p in (*colour, *depth)))
        self._header.update(
            layout=layout.to_mapping(),
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
            software=f"aloha_kit {package_version()}",
            id=self._id or uuid.uuid4().hex,
        )
        path = self.path
        try:
            self._journal = Journal(self._fd)
            self._journal.append_json(HEADER, self._header)
        except OSError as error:
            self._remove()
            raise EpisodeError("{path} cannot be begun: {error}", path=path, error=error) from error
        self._contents = Contents(self._header, layout)
        self._queue: queue.Queue[_Row | None] = queue.Queue(
            max(2, min(limit, round(self._flush_s * self._contract.rate_hz)))
        )
        self._state = "recording"
        workers = self._encoders if self._encoders is not None else 1 + (pixels > 600_000)
        self._pool = ThreadPoolExecutor(workers, "encode") if workers > 1 else None
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"episode-{name}", daemon=True)
            for name, target in (("write", self._write_rows), ("sync", self._sync))
        ]
        for thread in self._threads:
            thread.start()
        self._queue.put(row)

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        """Queue an action and the observation that follows it.

        Raises:
            EpisodeError: the disk is full or failed (reports how many steps are saved and where), or the
                observation or action has changed its shape.
        """
        self._raise_failure()
        if self._state != "recording":
            raise EpisodeError("no episode is being recorded: it is {state}", state=self._state)
        row = self._row(self._contents.layout, timestep.observation, action, float(timestep.reward or 0.0))
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self.stalls += 1
            self._queue.put(row)

    def on_end(self, outcome: Outcome) -> None:
        """Commit the episode, also one that ended with an error; the outcome is stored in `reason`.

        Raises:
            EpisodeError: it could not be committed; the journal holds every step written.
        """
        if self._state != "recording":
            return
        self._stop()
        if self._failure is not None or not self.written:
            if self._failure is None:
                self._remove()
            self._close("kept" if self._failure is not None else "empty")
            self._raise_failure()
            return
        success = self.success
        if success is None and self._judge is not None:
            success = self._judge(outcome)
        try:
            end = {
                "success": False if outcome.error else success,
                "reason": outcome.reason[:4000],
                "error": outcome.error,
                "final_reward": float(outcome.final_reward),
                "max_reward": float(outcome.max_reward),
                "stalls": self.stalls,
                "cut": max(0, min(self.cut, self.written - 1)),
                "describe": _jsonable({**self._header["describe"], **self.notes}),
            }
            self._contents.close(end)
            with contextlib.suppress(OSError):  # the disk is full: recovery works without the end record
                self._journal.append_json(END, end)
            finish(self._fd, self._contents, self.path, partial_path(self.path))
            transaction.remove(partial_path(self.path))
        except BaseException:
            self._close("kept")
            raise
        self._close("committed")

    def discard(self) -> None:
        """Discard this episode, running or committed, at the operator's request."""
        if self._state == "recording":
            self._stop()
        if self._state in ("recording", "kept") or (self._state == "new" and self._path):
            self._remove()
        elif self._state == "committed":
            self.path.unlink(missing_ok=True)
        self._close("discarded")

    def __del__(self) -> None:
        if getattr(self, "_state", "") == "new" and self._fd >= 0:  # reserved, but the episode never began
            self._remove()
            self._close("empty")

    def _row(self, layout: RowLayout, observation: Observation, action: Action | None, reward: float) -> _Row:
        """A copy of everything that a row contains: the environment may reuse its buffers."""
        record = fill_row(layout, observation, action, reward)
        kept = observation.get("images_jpeg", {}) if self._header.get("jpeg_order") == "standard" else {}
        colour = [_sent(kept, *camera) or _copy(observation["images"], *camera, 3) for camera in layout.cameras]
        depth = [_copy(observation.get("images_depth", {}), *camera) for camera in layout.depth]
        return record, colour, depth

    def _write_rows(self) -> None:
        while (row := self._queue.get()) is not None:
            if self._failure is not None:
                continue  # keep emptying the queue, so that `on_step` does not block
            try:
                record, colour, depth = row
                parts, lengths = row_parts(record, self._encode(colour, depth))
                self._contents.add_row(self._journal.append(STEP, parts), lengths)
                self._rows += 1
            except Exception as failure:
                with contextlib.suppress(OSError):
                    self._journal.sync()
                    self._synced = self._rows
                self._failure = failure

    def _encode(self, colour: list[_CameraImage], depth: list[npt.NDArray[np.uint16]]) -> list[Bytes]:
        mapping: Any = self._pool.map if self._pool else map
        images: list[Bytes] = list(colour)
        if self._header["images"] == "jpeg":
            images = list(mapping(self._jpeg, colour))
        return [*images, *mapping(encode_depth, depth)]

    def _jpeg(self, image: _CameraImage) -> Bytes:
        if isinstance(image, bytes):
            return image
        return encode_jpeg(image, self._header["quality"], self._header["jpeg_order"])

    def _sync(self) -> None:
        while not self._over.wait(self._flush_s):
            rows = self._rows
            if self._failure is None and rows > self._synced:
                try:
                    self._journal.sync()
                    self._synced = max(self._synced, rows)
                except OSError as failure:  # do not retry: a second sync may succeed although data were lost
                    self._failure = failure

    def _stop(self) -> None:
        self._queue.put(None)
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._pool:
            self._pool.shutdown()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            safe = max(0, self._synced - 1)
            known = Message("{steps} are safe in {path}", steps=plural(safe, "step"), path=partial_path(self.path))
            if unsure := self.written - safe:
                known = Message(
                    "{known} ({n} more were written, which the disk does not confirm)", known=known, n=unsure
                )
            recover = command("episode", "recover", self._folder)
            remedy = (
                Message("make room, then run: {command}", command=recover)
                if isinstance(self._failure, OSError)
                else Message("run: {command}", command=recover)
            )
            raise EpisodeError(
                "recording {name} failed: {failure}. {known}; {remedy}",
                name=self.path.name,
                failure=self._failure,
                known=known,
                remedy=remedy,
            ) from self._failure

    def _remove(self) -> None:
        partial_path(self.path).unlink(missing_ok=True)

    def _close(self, state: Literal["committed", "kept", "empty", "discarded"]) -> None:
        self._state = state
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _sent(images: Mapping[str, bytes], name: str, height: int, width: int) -> bytes | None:
    """The JPEG that camera `name` sent, None where it sent something else."""
    data = images.get(name)
    if data is None:
        return None
    try:
        size = jpeg_size(data)
    except ValueError as error:
        raise EpisodeError("camera '{name}' gave {error}", name=name, error=error) from None
    if size != (height, width):
        raise EpisodeError(
            "camera '{name}' gave a JPEG of {size}, expected {expected} (height, width)",
            name=name,
            size=size,
            expected=(height, width),
        )
    return bytes(data)


def _copy(images: Mapping[str, npt.NDArray[Any]], name: str, height: int, width: int, *channels: int) -> Any:
    """A copy of camera `name`'s pixels: uint8 with channels, uint16 without."""
    expected, dtype = (height, width, *channels), np.dtype(np.uint8 if channels else np.uint16)
    if name not in images:
        raise EpisodeError(
            "the observation lacks camera '{name}'; it has: {there}",
            name=name,
            there=", ".join(images) or Message("(none)"),
        )
    image = images[name]
    if image.shape != expected or image.dtype != dtype:
        raise EpisodeError(
            "camera '{name}' gave {given}, expected {expected}",
            name=name,
            given=f"{image.shape} {image.dtype}",
            expected=f"{expected} {dtype}",
        )
    return np.array(image, order="C")


def _jsonable(describe: Mapping[str, Any]) -> Any:
    try:
        text = json.dumps(describe)
    except (TypeError, ValueError) as error:
        raise EpisodeError("describe must be JSON-able: {error}", error=error) from error
    if len(text) > _DESCRIBE_BYTES:
        raise EpisodeError(
            "describe is {count} bytes of JSON, at most {most} fit",
            count=len(text),
            most=_DESCRIBE_BYTES,
        )
    return json.loads(text)
