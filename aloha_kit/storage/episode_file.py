"""Open episode file of a known layout: attributes and tables. Threads share it, other processes open it again."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.core import EpisodeError
from aloha_kit.core.errors import command, reason
from aloha_kit.core.lang import Message
from aloha_kit.storage import hdf5
from aloha_kit.storage.hdf5 import DAMAGE, require_table
from aloha_kit.storage.layouts import contents, detect, Layout, Table, truth_of
from aloha_kit.storage.paths import missing, partial_path

Array = npt.NDArray[np.float32]

_MAY_BE_EMPTY = ("observations/qvel", "observations/effort")  # some recorders write the table and nothing into it
_BOOLEANS = ("sim", "compress", "success", "error")


class EpisodeFile:
    """HDF5 file under an `Episode`: opened, closed, and read table by table; small tables are cached once read.

    Args:
        rename: cameras, {the name to read them by: the file's}.

    Raises:
        EpisodeError: missing, damaged, or in no known layout; lists the contents.
    """

    def __init__(self, path: str | Path, rename: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        self._renamed = dict(rename or {})
        self._names = {theirs: name for name, theirs in self._renamed.items()}
        self._open()

    def _open(self) -> None:
        self._file = _open_file(self.path)
        self._process, self._lock = os.getpid(), threading.RLock()
        self._arrays: dict[str, Any] = {}
        try:
            self._layout: Layout = detect(self._file, self.path).renamed(self._names, self.path)
            self.length, self.frames = self._rows_of("action"), self._rows_of("observations/qpos")
            self._images = {name: self._file[place] for name, place in self._layout.cameras.items()}
            self._depth = {name: self._file[place] for name, place in self._layout.depth.items()}
        except BaseException as error:
            self._file.close()
            if isinstance(error, DAMAGE):
                raise EpisodeError("{path} is damaged: {error}", path=self.path, error=reason(error)) from error
            raise
        self.layout = self._layout.name
        self.cameras = tuple(self._layout.cameras)
        self.depth_cameras = tuple(self._depth)

    def close(self) -> None:
        """Close the file."""
        with self._guard():
            self._file.close()

    @property
    def attrs(self) -> dict[str, Any]:
        """The file's attributes as plain Python values, and `instruction` where the file stores it as a data set.

        `sim`, `compress`, `success` and `error` are booleans however they were written, and absent if they are none.
        """
        with self._guard():
            file = self._handle()
            if "attrs" not in self._arrays:
                try:
                    attrs = {key: _plain(value) for key, value in file.attrs.items() if key not in _BOOLEANS}
                    truths = {key: truth_of(file.attrs[key]) for key in _BOOLEANS if key in file.attrs}
                    attrs |= {key: value for key, value in truths.items() if value is not None}
                    if self._layout.instruction is not None:
                        attrs.setdefault("instruction", self._layout.instruction)
                    self._arrays["attrs"] = attrs
                except DAMAGE as error:
                    raise EpisodeError(
                        "{path}: its attributes cannot be read: {error}", path=self.path, error=reason(error)
                    ) from error
            return dict(self._arrays["attrs"])

    def _rows_of(self, name: str) -> int:
        table = self._layout.tables.get(name, Table((name,)))
        return max(0, int(self._file[table.parts[0]].shape[0]) - table.first)

    def _vector(self, name: str) -> Array:
        return np.asarray(self._array(name), np.float32)

    def _optional(self, name: str) -> Array | None:
        return self._vector(name) if self._has(name) else None

    def _has(self, name: str) -> bool:
        """Whether there is such a table; an empty one of velocities or efforts counts as none."""
        with self._guard():
            if name in self._layout.tables:
                return True
            data = self._handle().get(name)
            empty = name in _MAY_BE_EMPTY and getattr(data, "size", 1) == 0
            return data is not None and not empty

    def _array(self, name: str) -> Any:
        with self._guard():
            file = self._handle()
            if name not in self._arrays:
                try:
                    array = self._joined(file, name)
                except EpisodeError as error:
                    raise EpisodeError("{path}: {error}", path=self.path, error=error) from None
                except DAMAGE as error:
                    raise EpisodeError(
                        "{path}: /{name} cannot be read: {error}. It has: {contents}",
                        path=self.path,
                        name=name,
                        error=reason(error),
                        contents=contents(file),
                    ) from error
                if array.dtype == np.float64:
                    array = array.astype(np.float32)
                array.flags.writeable = False
                self._arrays[name] = array
            return self._arrays[name]

    def _joined(self, file: Any, name: str) -> Any:
        """A data set whole; in some layouts several side by side, (rows,) counting as (rows, 1)."""
        table = self._layout.tables.get(name)
        scalars = name == "reward" or name.startswith("stamps/")  # one number a row
        for part in table.parts if table else (name,):
            require_table(file[part], part, (1, 2) if table else (1,) if scalars else (2,))
        if table is None:
            return file[name][()]
        parts = [file[part][table.first :] for part in table.parts]
        return np.concatenate([part[:, None] if part.ndim == 1 else part for part in parts], axis=1)

    def _guard(self) -> threading.RLock:
        """The lock of this process; in a forked one a new lock and a file opened anew."""
        if self._process != os.getpid():
            self._open()
        return self._lock

    def _handle(self) -> Any:
        if not self._file:
            raise EpisodeError("{path} was closed", path=self.path)
        return self._file


def _open_file(path: Path) -> Any:
    if not path.is_file():
        if path.exists() or path.is_symlink():
            raise EpisodeError("{missing}; expected an episode", missing=missing(path))
        beside = sorted(p.name for p in path.parent.glob("*.hdf5*")) if path.parent.is_dir() else []
        shown = ", ".join(beside[:20]) + (" …" if len(beside) > 20 else "")
        raise EpisodeError(
            "no episode '{path}'; the folder has: {episodes}", path=path, episodes=shown or Message("(no episodes)")
        )
    if not os.access(path, os.R_OK):
        raise EpisodeError("cannot read {path}: permission denied", path=path)
    try:
        return hdf5.reading(path)
    except DAMAGE as error:
        hint = ""
        if partial_path(path).exists():
            hint = Message(
                "; its journal is still there, run: {command}", command=command("episode", "recover", path.parent)
            )
        elif path.name.endswith(".partial"):
            hint = Message(
                "; it is the journal of a recording, run: {command}", command=command("episode", "recover", path)
            )
        raise EpisodeError(
            "{path} is damaged or not an episode ({size} bytes on disk): {why}{hint}",
            path=path,
            size=path.stat().st_size,
            why=reason(error),
            hint=hint,
        ) from error


def _plain(value: Any) -> Any:
    """An attribute as a JSON value; types that JSON lacks become text."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str):  # h5py returns bytes that are not UTF-8 as lone surrogates
        return value.encode(errors="surrogateescape").decode(errors="replace")
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
