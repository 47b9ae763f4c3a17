"""What a reproduction's folder remembers of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from aloha_kit.config import from_mapping
from aloha_kit.core import ConfigError
from aloha_kit.reproduce.result import Result

RESULT, TABLE = "reproduce.json", "reproduce.md"


def read(file: Path) -> Result:
    """A result from its file.

    Raises:
        ConfigError: missing or damaged; says where.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"'{file}' is missing or damaged: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"'{file}' must hold an object, given: {type(values).__name__}")
    return from_mapping(Result, values, where=str(file))


def begun(folder: Path, new: Result) -> Result:
    """What a folder holds of the same reproduction, or `new` where it holds nothing.

    Raises:
        ConfigError: it holds something else, or a reproduction with other values; names them.
    """
    if not (folder / RESULT).is_file():
        there = sorted(path.name for path in folder.glob("[!.]*"))  # a lock, a file cut off in writing: both ours
        if there:
            raise ConfigError(
                f"'{folder}' is no reproduction: it lacks {RESULT} and holds {', '.join(there[:5])}; "
                "choose another place with --output"
            )
        return new
    then = read(folder / RESULT)
    was, now = ({**_flat(r.values), "task": r.task, "num_steps": r.num_steps} for r in (then, new))
    differing = [
        f"{key} {was.get(key)} (now {now.get(key)})"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key) and not key.startswith("target.")
    ]
    if differing:
        raise ConfigError(
            f"'{folder}' was begun with {', '.join(differing)}; choose another place with --output to begin anew"
        )
    return replace(then, preset=new.preset, values=new.values)


def _flat(values: object, at: str = "") -> dict[str, object]:
    """{"train.lr": 1e-4, …}"""
    if not isinstance(values, dict):
        return {at: values}
    inner = (_flat(value, f"{at}.{key}" if at else str(key)) for key, value in values.items())
    return {key: value for flat in inner for key, value in flat.items()}
