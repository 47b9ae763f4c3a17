"""Folders that an application writes to: made early, refused in words."""

from __future__ import annotations

import os
from pathlib import Path

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
