"""What an application writes: folders made early and refused in words, files replaced whole."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aloha_kit.core.errors import ConfigError


def make_folder(path: Path) -> Path:
    """Make `path` and its parents; returns it. Call it before long work whose result goes there.

    Raises:
        ConfigError: it cannot be made or written to; says what stands in the way.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"'{path}' cannot be a folder: a file of that name is in the way") from error
    except OSError as error:
        raise ConfigError(f"cannot make the folder '{path}': {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to the folder '{path}': permission denied")
    return path


def special_file(path: Path) -> str | None:
    """What `path` is, in words, where it is neither a file nor a folder: to read it could take for ever.

    None for a file (or a link to one), a folder, and where nothing is.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    kinds = (
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a disk"),
    )
    return next((f"{word}, not a file" for check, word in kinds if check(mode)), None)


def free_path(path: Path) -> Path:
    """`path`, or the first of `name_1.ext`, `name_2.ext`, … that is not there, so that nothing is replaced."""
    k, candidate = 0, path
    while candidate.exists():
        k += 1
        candidate = path.with_name(f"{path.stem}_{k}{path.suffix}")
    return candidate


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values`; an earlier state of the file is replaced in one step, so it is whole at every instant."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)
