"""Grid of a sweep: from a YAML file to the flags of each training.

flags:                          # of every run
  task: sim_transfer_cube
  policy: act_cpu
grid:                           # every combination; a list of such mappings is several grids
  lr: [1.0e-4, 5.0e-4]
  seed: [0, 1]
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloha_kit.config.load import read
from aloha_kit.core import ConfigError
from aloha_kit.core.commands import flags_of
from aloha_kit.core.errors import shown

_OWN = ("ckpt_dir", "resume", "resume_ckpt_path", "preflight_only", "debug")  # the sweep decides these


@dataclass(frozen=True)
class GridRun:
    """One training of a sweep.

    Attributes:
        number: in the order of the list, from 0.
        name: of its folder, from the values that vary.
        settings: the values that vary.
        flags: all words of its command line but the folder.
    """

    number: int
    name: str
    settings: Mapping[str, Any]
    flags: tuple[str, ...]


def read_grid(file: Path) -> list[GridRun]:
    """Every run of a grid file.

    Raises:
        ConfigError: no such file, or something else than a grid; names the key.
    """
    if not file.is_file():
        raise ConfigError("no file '{file}': expected a YAML file with the keys flags and grid", file=file)
    values = read(file)
    if not isinstance(values, dict) or set(values) - {"flags", "grid"} or "grid" not in values:
        keys = ", ".join(map(str, values)) if isinstance(values, dict) else shown(values)
        raise ConfigError("{file}: expected the keys flags and grid, given {keys}", file=file, keys=keys)
    common = values.get("flags") or {}
    if not isinstance(common, dict):
        raise ConfigError(
            "{file}: flags must be a mapping of flags to values, given {common}", file=file, common=shown(common)
        )
    grids = values["grid"] if isinstance(values["grid"], list) else [values["grid"]]
    combinations = [combination for grid in grids for combination in _combinations(file, grid)]
    for key in (*common, *(key for settings in combinations for key in settings)):
        if str(key).replace("-", "_") in _OWN:
            raise ConfigError(
                "{file}: {key} cannot be given, since a sweep decides it for each run", file=file, key=key
            )
    names = [_name(settings) for settings in combinations]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            "{file}: each combination can be given once, given twice: {twice}",
            file=file,
            twice=", ".join(sorted(twice)),
        )
    return [
        GridRun(number, name, settings, tuple(flags_of({**common, **settings})))
        for number, (name, settings) in enumerate(zip(names, combinations, strict=True))
    ]


def _combinations(file: Path, grid: Any) -> Sequence[dict[str, Any]]:
    if not isinstance(grid, dict) or not grid:
        raise ConfigError(
            "{file}: grid must be a mapping of flags to lists of values, given {grid}", file=file, grid=shown(grid)
        )
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(
                "{file}: grid: {key} must be a list of values, given {values}", file=file, key=key, values=shown(values)
            )
    return [dict(zip(grid, each, strict=True)) for each in itertools.product(*grid.values())]


def _name(settings: Mapping[str, Any]) -> str:
    """Folder name of a run: `lr_0.0001_seed_1`; of a path its last part without the extension."""
    words = [word for key, value in settings.items() for word in (key, _short(value))]
    return re.sub(r"[^\w.+-]+", "-", "_".join(words))


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_short, value))
    return Path(value).stem if isinstance(value, str) and "/" in value else str(value)
