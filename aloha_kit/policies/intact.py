"""Checksums of a checkpoint's files. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aloha_kit.core import ConfigError
from aloha_kit.core.cli import LOG
from aloha_kit.core.errors import reason
from aloha_kit.core.files import special_file

CHECKSUMS = "checksums.json"


class CheckpointError(ConfigError):
    """A checkpoint that is missing, incomplete or damaged."""


def require_intact(folder: Path, *names: str) -> None:
    """Compare files of a checkpoint (all of them where none is named) with its checksums, where it has some.

    A file that was saved and is gone is a warning: what needs it names it.

    Raises:
        CheckpointError: a file is not as it was saved; names it.
    """
    if not (folder / CHECKSUMS).exists():
        return
    known = read_json(folder / CHECKSUMS)
    if known.pop(CHECKSUMS, None) != digest_of(known):
        raise CheckpointError(
            "{path} is damaged: its own checksum differs. Without it, nothing is compared", path=folder / CHECKSUMS
        )
    if gone := [name for name in known if not names and not (folder / name).is_file()]:
        LOG.warning("%s lacks %s, saved with the checkpoint", folder, ", ".join(gone))
    for name in names or known:
        if name in known and (folder / name).is_file() and digest(folder / name) != known[name]:
            raise CheckpointError(
                "{file} is not as it was saved, its SHA-256 differs: damaged, or edited. To use it as it is, "
                "remove {checksums} beside it",
                file=folder / name,
                checksums=CHECKSUMS,
            )


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with file.open("rb", buffering=0) as handle:
        while block := handle.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def digest_of(sums: Mapping[str, Any]) -> str:
    """SHA-256 of a table of checksums."""
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint; CheckpointError where there is none."""
    if special := special_file(file):
        raise CheckpointError("{file} is {special}", file=file, special=special)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise CheckpointError("{file} is missing or damaged: {why}", file=file, why=reason(error)) from error
    if not isinstance(content, dict):
        raise CheckpointError("{file} must hold an object, given: {type}", file=file, type=type(content).__name__)
    return content
