"""Refusal of HDF5 files that refer to data outside themselves, before any of it is read.

A file may name other files that hold its data (external storage), its objects (external links) or parts of them
(virtual data sets). A downloaded episode could thereby copy any file of this machine into a video or a checkpoint, or
block forever on a FIFO.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py

from aloha_kit.core import EpisodeError

ALLOW = "ALOHA_KIT_ALLOW_EXTERNAL"
"""Environment variable that allows such files where it is 1; processes that are started later inherit it."""


def allow_external(allowed: bool = True) -> None:
    """Allow files with external data, in this process and in those it starts; for the flag `--allow_external`."""
    if allowed:
        os.environ[ALLOW] = "1"


def require_own_data(file: Any, path: Path) -> None:
    """Refuse an open file with external data: search all its groups, opening data sets without reading them.

    Raises:
        EpisodeError: an object is stored outside the file; names the object and its location.
    """
    if os.environ.get(ALLOW) == "1":
        return
    for name, place in _outside(file.id):
        raise EpisodeError(
            "{path} reaches outside itself: /{name} {place}, which was not read; if you trust the file: "
            "--allow_external, or {allow}=1 for commands without the flag",
            path=path,
            name=name,
            place=place,
            allow=ALLOW,
        )


def _outside(root: Any) -> Any:
    """(name, location) of every object stored outside the file."""
    seen, groups = {h5py.h5o.get_info(root).addr}, [("", root)]
    while groups:
        prefix, group = groups.pop()
        for key in group:
            name = f"{prefix}{key.decode(errors='replace')}"
            try:
                kind = group.links.get_info(key).type
                if kind == h5py.h5l.TYPE_SOFT:
                    continue  # to a place in this file
                if kind != h5py.h5l.TYPE_HARD:
                    yield name, f"is a link to {_text(group.links.get_val(key)[0])}"
                    continue
                thing = h5py.h5o.open(group, key)
                address = h5py.h5o.get_info(thing).addr
                outside = _storage(thing) if isinstance(thing, h5py.h5d.DatasetID) else ""
            except (OSError, RuntimeError, KeyError, ValueError):
                continue  # damaged: not readable in any case
            if outside:
                yield name, outside
            if isinstance(thing, h5py.h5g.GroupID) and address not in seen:
                seen.add(address)
                groups.append((f"{name}/", thing))


def _storage(data: Any) -> str:
    plan = data.get_create_plist()
    if plan.get_external_count():
        return f"lies in {_text(plan.get_external(0)[0])}"
    if plan.get_layout() == h5py.h5d.VIRTUAL:
        for i in range(plan.get_virtual_count()):
            if (source := plan.get_virtual_filename(i)) != ".":
                return f"is put together from {_text(source)}"
            if not _holds_data(data, part := plan.get_virtual_dsetname(i)):
                return f"is put together from {_text(part)}, which holds no data itself"
    return ""


def _holds_data(data: Any, name: bytes | str) -> bool:
    """Whether a part of a virtual data set is an ordinary data set: HDF5 crashes where virtual ones form a cycle."""
    try:
        part = h5py.h5d.open(h5py.h5i.get_file_id(data), name if isinstance(name, bytes) else name.encode())
        return bool(part.get_create_plist().get_layout() != h5py.h5d.VIRTUAL)
    except (OSError, RuntimeError, KeyError, ValueError):
        return False


def _text(name: bytes | str) -> str:
    text = name.decode(errors="replace") if isinstance(name, bytes) else name
    return f"'{text[:200]}'"
