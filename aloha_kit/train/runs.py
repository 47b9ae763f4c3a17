"""A run's folder: its values, its checkpoints, its metrics.

config.yaml            every value it was started with
checkpoints/last       newest state; resuming continues from here
checkpoints/best       lowest validation loss, or most successes; a policy only, nothing to resume
checkpoints/step_N     kept for good
metrics.csv            one row a logged step        loss.png      the curves
tensorboard/           the same and more            rollouts/     videos of evaluations
"""

from __future__ import annotations

import csv
import hashlib
import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from aloha_kit.config import to_mapping
from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import ConfigError
from aloha_kit.core.files import make_folder, write_text
from aloha_kit.data.index import EpisodeTable
from aloha_kit.policies import checkpoint
from aloha_kit.policies.intact import CheckpointError, require_intact
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.train.args import SNAPSHOT
from aloha_kit.train.plan import require_unused

STATE = "training_state.pt"
_DAMAGE = (AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError)


@dataclass
class Position:
    """How far a run has come."""

    step: int = 0  # optimiser steps done
    seconds: float = 0.0  # spent training, all sessions together
    best: float | None = None  # what `best` was chosen by, lower is better
    best_step: int = 0


class Run:
    """Reads and writes the files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"

    @property
    def empty(self) -> bool:
        """Whether the run was stopped before its first checkpoint, so that it can only begin again."""
        found = self.checkpoints.glob(f"*/{checkpoint.WEIGHTS}")
        return all(".new." in file.parent.name for file in found)  # of a save that was killed

    @classmethod
    def create(cls, folder: Path, values: Mapping[str, Any]) -> Run:
        """A new run.

        Raises:
            ConfigError: the folder holds something already.
        """
        require_unused(folder)
        run = cls(make_folder(folder))
        run.note(values)
        return run

    def note(self, values: Mapping[str, Any]) -> None:
        """Keep the values that the run is done with."""
        text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
        write_text(self.folder / SNAPSHOT, text)

    def save(self, name: str, network: ChunkNetwork, state: Mapping[str, Any] | None, about: dict[str, Any]) -> Path:
        """Write checkpoints/`name`, whole or not at all; `state` is what resuming needs."""

        def write_state(folder: Path) -> None:
            if state is not None:
                torch.save(dict(state), folder / STATE)

        folder = self.checkpoints / name
        checkpoint.save(
            folder, network, network.config, network.stats, network.contract, extra=about, write=write_state
        )
        return folder

    def state(self, path: Path) -> dict[str, Any]:
        """The training state that a path names: a run (its `last`), or one of its checkpoints.

        Raises:
            ConfigError: there is none, or it is damaged; says what to resume from instead.
        """
        folder = self._checkpoint(path)
        spare = folder.with_name(f".{folder.name}.old")  # the machine stopped between the two renames of saving
        for file in (folder / STATE, spare / STATE):
            if file.is_file():
                try:
                    require_intact(file.parent, STATE)
                    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
                    Position(**state["position"])
                    dict(state["data"])
                    if not (isinstance(state["network"], dict) and isinstance(state["optimiser"], dict)):
                        raise ValueError("network and optimiser are no mappings")
                except CheckpointError as error:
                    raise ConfigError(f"{error}; {self._instead(folder)}") from error
                except _DAMAGE as error:
                    raise ConfigError(f"{file} is damaged; {self._instead(folder)}") from error
                return state
        raise ConfigError(f"'{folder}' has no training state to resume from; {self._instead(folder)}")

    def _checkpoint(self, path: Path) -> Path:
        return self.checkpoints / "last" if path.resolve() == self.folder.resolve() else path

    def resumable(self, path: Path, config: PolicyConfig, table: EpisodeTable) -> tuple[ChunkNetwork, dict[str, Any]]:
        """Network and training state to go on with from `path`. Normalisation stays that of the checkpoint, since the
        weights belong to it, also when episodes were added.

        Raises:
            ConfigError: nothing to resume, or another network was asked for; names what differs.
            ContractError: the episodes are of another embodiment than the checkpoint.
        """
        state = self.state(path)
        folder = self._checkpoint(path)
        try:
            network = checkpoint.load(folder)
        except CheckpointError as error:
            raise ConfigError(f"{error}; {self._instead(folder)}") from error
        was, wanted = to_mapping(network.config), to_mapping(config)
        differing = [f"{key} {was.get(key)} (now {value})" for key, value in wanted.items() if was.get(key) != value]
        if network.config.kind != config.kind or differing:
            raise ConfigError(f"a resumed network keeps its values; it was trained with {', '.join(differing)}")
        network.contract.require(table.contract, mine="the checkpoint", theirs="the episodes")
        recorded, present = state["data"], describe_data(table)
        if any(present.get(key) != value for key, value in recorded.items()):
            then, now = (", ".join(f"{k} {v}" for k, v in data.items()) for data in (recorded, present))
            print(f"the episodes have changed ({then} then; {now} now): order and split are new")
        return network, state

    def _instead(self, folder: Path) -> str:
        """What to do where `folder` cannot be resumed from: the newest other checkpoint, or a new run."""
        states = sorted(self.checkpoints.glob(f"[!.]*/{STATE}"), key=lambda file: file.stat().st_mtime, reverse=True)
        others = [file.parent for file in states if file.parent.resolve() != folder.resolve()]
        if others:
            return f"go on from an older checkpoint with --resume {others[0]}"
        return "no other checkpoint can be resumed from; start a new run with another --ckpt_dir"


def describe_data(table: EpisodeTable) -> dict[str, int | str]:
    """What to know a data set by: enough to notice that it has changed, also where its size has not."""
    named = "\n".join(f"{name} {what}" for name, what in zip(table.names, table.ids, strict=True))
    key = hashlib.sha256(named.encode()).hexdigest()[:12]
    images = "; ".join(sorted({reading for reading in table.readings if reading}))
    return {"episodes": len(table.names), "steps": len(table), "key": key, **({"images": images} if images else {})}


@dataclass(frozen=True)
class Columns:
    """What a network calls its metrics: parts of the loss, results of a validation, and which of these selects."""

    losses: tuple[str, ...]
    validation: tuple[str, ...]
    selects: str

    @classmethod
    def of(cls, network: ChunkNetwork) -> Columns:
        """Those of a network."""
        return cls(network.loss_columns, network.validation_columns, network.selects)


COLUMNS = Columns(("l1", "kl"), ("val_loss", "val_deployed"), "val_deployed")
"""Those of an ACT, without the errors by group of joints."""


class MetricsFile:
    """metrics.csv: one row a logged step, empty where a value was not measured then."""

    def __init__(self, file: Path, *, after: int, columns: Columns = COLUMNS) -> None:
        """Continue the file after step `after`: rows that an interrupted run wrote beyond its checkpoint go. Columns
        that it has stay."""
        kept = [row for row in read_metrics(file) if row["step"] <= after] if file.exists() else []
        self.names = dict.fromkeys(
            ("step", "seconds", "loss", *columns.losses, "lr", "grad_norm", "data_ms", "step_ms", *columns.validation,
             "success_rate", *(key for row in kept for key in row))
        )  # fmt: skip
        with file.open("w", newline="", encoding="utf-8") as handle:
            csv.DictWriter(handle, self.names).writeheader()
        self._file = file
        for row in kept:
            self.add(row)

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row; unknown columns are left to TensorBoard."""
        with self._file.open("a", newline="", encoding="utf-8") as handle:
            csv.DictWriter(handle, self.names, extrasaction="ignore").writerow(
                {key: f"{value:.8g}" for key, value in row.items()}
            )


def read_metrics(file: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, values only where there are some; rows that a crash damaged are left out."""
    rows = []
    with file.open(newline="", encoding="utf-8", errors="replace") as handle:
        for row in csv.DictReader(line.replace("\0", "") for line in handle):
            with suppress(TypeError, ValueError):
                rows.append({key: float(value) for key, value in row.items() if value})
    return [row for row in rows if "step" in row]
