"""Unfinished conversions: a hidden folder beside the target with its lock, its plan and one record an episode."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

from aloha_kit.core import ConfigError
from aloha_kit.core.exporter import ExportRecord
from aloha_kit.core.files import make_folder, sync, sync_folder, write_json

_MANY = 500  # files: to sync each takes longer than to sync whole file systems once


class Staging:
    """The hidden folder `.TO.partial`: the data set, parts of it, and a record of each finished episode.

    A context manager that holds the folder's lock; the records outlive a kill.

    Attributes:
        folder: the data set, until `commit` gives it its name.
        parts: what the exporter joins at the end.
    """

    def __init__(self, target: Path, plan: Mapping[str, Any]) -> None:
        self.target, self._plan = target, dict(plan)
        self.root = target.parent / f".{target.name}.partial"
        self.folder, self.parts = self.root / "dataset", self.root / "parts"
        self._records = self.root / "records"
        self._locks: list[int] = []

    def __enter__(self) -> Staging:
        """Begin, or go on with an interrupted conversion.

        Raises:
            ConfigError: the target exists, another process writes it, or what is there is another conversion.
        """
        if self.target.exists() and (not self.target.is_dir() or any(self.target.iterdir())):
            raise ConfigError(
                "'{target}' exists already; nothing in it is changed: give another folder", target=self.target
            )
        try:
            self._begin()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _begin(self) -> None:
        make_folder(self.target.parent)
        make_folder(self.root)
        for lock in (self.lock, self.workers_lock):
            self._locks.append(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
            try:
                fcntl.flock(self._locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    "another process writes '{target}'; wait until it has ended", target=self.target
                ) from None
        fcntl.flock(self._locks[-1], fcntl.LOCK_UN)  # it showed that no worker of a killed conversion is left
        if not any(self._records.glob("[0-9]*")):  # nothing to go on with
            for folder in (self.folder, self.parts):
                shutil.rmtree(folder, ignore_errors=True)
            self._plan_file.unlink(missing_ok=True)
        for folder in (self.folder, self.parts, self._records):
            make_folder(folder)
        self._require_same_plan()

    def _release(self) -> None:
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()

    @property
    def lock(self) -> Path:
        """Locked by the process that writes the target."""
        return self.root / "lock"

    @property
    def workers_lock(self) -> Path:
        """Locked by every worker process, which may outlive a killed parent by one episode."""
        return self.root / "workers"

    @property
    def _plan_file(self) -> Path:
        return self.root / "plan.json"

    def _require_same_plan(self) -> None:
        if not self._plan_file.is_file():
            write_json(self._plan_file, self._plan)
            return
        there = json.loads(self._plan_file.read_text(encoding="utf-8"))
        if different := [key for key, value in self._plan.items() if there.get(key) != value]:
            key = different[0]
            raise ConfigError(
                "'{root}' holds an unfinished conversion with {key} {get}, now {plan}; remove it, or give "
                "another target",
                root=self.root,
                key=key,
                get=there.get(key),
                plan=self._plan[key],
            )

    def keep(self, record: ExportRecord) -> None:
        """Note that an episode is finished."""
        write_json(self._file(record.number), record.to_mapping())

    def finished(self, number: int, identity: str) -> bool:
        """Whether an episode is finished and has not changed since."""
        file = self._file(number)
        return file.is_file() and self.record(number).identity == identity

    def record(self, number: int) -> ExportRecord:
        """The record of a finished episode."""
        return ExportRecord.from_mapping(json.loads(self._file(number).read_text(encoding="utf-8")))

    def records(self, numbers: Sequence[int]) -> Sequence[ExportRecord]:
        """The records of finished episodes, each read when it is taken."""
        return _Records(self, numbers)

    def commit(self) -> None:
        """Give the data set its name, and remove everything else.

        Raises:
            ConfigError: the target appeared meanwhile; the conversion stays in its hidden folder.
        """
        paths = (*self.folder.rglob("*"), self.folder)
        if len(paths) > _MANY:
            os.sync()
        else:
            for path in paths:
                (sync_folder if path.is_dir() else sync)(path)
        try:
            os.rename(self.folder, self.target)
        except OSError as error:
            raise ConfigError("'{target}' appeared meanwhile; it was not overwritten", target=self.target) from error
        sync_folder(self.target.parent)
        shutil.rmtree(self.root)

    def _file(self, number: int) -> Path:
        return self._records / f"{number:06d}.json"


class _Records(Sequence[ExportRecord]):
    def __init__(self, staging: Staging, numbers: Sequence[int]) -> None:
        self._staging, self._numbers = staging, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> ExportRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ExportRecord]: ...
    def __getitem__(self, index: int | slice) -> ExportRecord | Sequence[ExportRecord]:
        if isinstance(index, slice):
            return _Records(self._staging, self._numbers[index])
        return self._staging.record(self._numbers[index])
