"""A run's folder, from which everything can be rebuilt.

config.yaml             all values of the run: task, observation groups, algorithm, seed, ...
env.json                what it was trained in: task, rig, contract, bands, versions
checkpoints/step_N/     model.zip, normaliser.pkl, state.json (level, steps); the newest one only
episodes.jsonl          one line an episode: band, level, success, return, terms of the reward
progress.jsonl          one line an update: success by band, level, CPU time, losses
tensorboard/            the same as curves
logs/log.txt            all that the terminal showed
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aloha_kit.config.load import read
from aloha_kit.core import ConfigError
from aloha_kit.core.files import make_folder, sync, sync_folder, write_json, write_text
from aloha_kit.core.run_log import SNAPSHOT

ENVIRONMENT, STATE = "env.json", "state.json"
MODEL, NORMALISER, REPLAY_BUFFER = "model.zip", "normaliser.pkl", "replay_buffer.pkl"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: its folder, and its `state.json`."""

    folder: Path
    state: Mapping[str, Any]


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def require_unused(self) -> None:
        """Raise `ConfigError` if the folder is not empty: a run is never overwritten."""
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise ConfigError(
                "'{folder}' is not empty; go on with its run by --resume {folder}, or choose another place with "
                "--output",
                folder=self.folder,
            )

    def create(self, settings: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write what the run is, before its first step."""
        make_folder(self.folder)
        write_json(self.folder / ENVIRONMENT, environment)
        self.write_settings(settings)

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Write config.yaml."""
        write_text(self.folder / SNAPSHOT, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))

    def settings(self) -> dict[str, Any]:
        """Values of config.yaml; raises ConfigError where there are none."""
        file = self.folder / SNAPSHOT
        if not file.is_file():
            raise ConfigError(
                "'{folder}' is no run of aloha_kit.rl: it has no {file}", folder=self.folder, file=SNAPSHOT
            )
        values = read(file)
        if not isinstance(values, dict) or "algorithm" not in values or "observe" not in values:
            raise ConfigError("{file} is not of a run of aloha_kit.rl: it lacks algorithm or observe", file=file)
        return values

    def environment(self) -> dict[str, Any]:
        """Values of env.json; raises ConfigError where they cannot be read, or not all are there."""
        keys = ("task", "rig", "observe", "contract", "bands", "actions", "versions")
        return _json(self.folder / ENVIRONMENT, keys)

    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint; None before the first one.

        Raises:
            ConfigError: its state.json cannot be read, or not all values are there.
        """
        found = {int(path.name.removeprefix("step_")): path for path in self._checkpoints.glob("step_*")}
        if not found:
            return None
        folder = found[max(found)]
        return Checkpoint(folder, _json(folder / STATE, ("steps", "cpu_s", "curriculum")))

    def save(self, steps: int, state: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
        """Write a checkpoint, whole or not at all, and remove the one before it.

        Args:
            write: writes model and normaliser to the folder that it is given.
        """
        folder = self._checkpoints / f"step_{steps}"
        part = self._checkpoints / f".step_{steps}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write(part)
        write_json(part / STATE, state)
        for file in (*part.iterdir(), part):
            sync(file)
        shutil.rmtree(folder, ignore_errors=True)  # resumed, and stopped before the first step
        part.rename(folder)
        sync_folder(self._checkpoints)
        for other in self._checkpoints.iterdir():
            if other != folder:
                shutil.rmtree(other)
        return folder

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"


class JsonLines:
    """Writer of a .jsonl file with a key `step` in every line."""

    def __init__(self, file: Path, *, after: int) -> None:
        """Continue the file after step `after`: lines that a killed session wrote beyond its checkpoint are removed."""
        kept = [row for row in read_lines(file) if row["step"] <= after]
        write_text(file, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = file

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line."""
        with self._file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Lines of a .jsonl file; the end of one that a crash cut off is left out, and no file has none."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _json(file: Path, keys: Sequence[str]) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("{file} cannot be read: {error}", file=file, error=error) from error
    if not isinstance(values, dict):
        raise ConfigError("{file} holds no mapping", file=file)
    if missing := [key for key in keys if key not in values]:
        raise ConfigError("{file} is damaged: it lacks {missing}", file=file, missing=", ".join(missing))
    return values
