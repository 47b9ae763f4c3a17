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
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from aloha_kit.config import to_mapping
from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import ConfigError
from aloha_kit.data.index import EpisodeTable
from aloha_kit.policies import checkpoint
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.train.cli import SNAPSHOT

STATE = "training_state.pt"


class Run:
    """Reads and writes the files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"

    @classmethod
    def create(cls, folder: Path, values: Mapping[str, Any]) -> Run:
        """A new run.

        Raises:
            ConfigError: the folder holds something already.
        """
        require_unused(folder)
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder)
        run.note(values)
        return run

    def note(self, values: Mapping[str, Any]) -> None:
        """Keep the values that the run is done with."""
        text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
        temporary = self.folder / f".{SNAPSHOT}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.folder / SNAPSHOT)

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
            ConfigError: there is none; says which checkpoints have one.
        """
        folder = self.checkpoints / "last" if path.resolve() == self.folder.resolve() else path
        spare = folder.with_name(f".{folder.name}.old")  # the machine stopped between the two renames of saving
        for file in (folder / STATE, spare / STATE):
            if file.is_file():
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
                return state
        raise ConfigError(f"'{folder}' has no training state to resume from; there are: {self._resumable()}")

    def resumable(self, path: Path, config: PolicyConfig, table: EpisodeTable) -> tuple[ChunkNetwork, dict[str, Any]]:
        """Network and training state to go on with from `path`. Normalisation stays that of the checkpoint, since the
        weights belong to it, also when episodes were added.

        Raises:
            ConfigError: nothing to resume, or another network was asked for; names what differs.
            ContractError: the episodes are of another embodiment than the checkpoint.
        """
        state = self.state(path)
        network = checkpoint.load(self.checkpoints / "last" if path.resolve() == self.folder.resolve() else path)
        was, now = to_mapping(network.config), to_mapping(config)
        differing = [f"{key} {was.get(key)} (now {now.get(key)})" for key in now if was.get(key) != now[key]]
        if network.config.kind != config.kind or differing:
            raise ConfigError(f"a resumed network keeps its values; it was trained with {', '.join(differing)}")
        network.contract.require(table.contract, mine="the checkpoint", theirs="the episodes")
        if state["data"] and state["data"] != describe_data(table):
            print(
                f"the episodes have changed ({state['data']} then, {describe_data(table)} now): order and split are new"
            )
        return network, state

    def _resumable(self) -> str:
        return ", ".join(sorted(p.parent.name for p in self.checkpoints.glob(f"*/{STATE}"))) or "(none)"


def describe_data(table: EpisodeTable) -> dict[str, int]:
    """What to know a data set by: enough to notice that it has changed."""
    return {"episodes": len(table.files), "steps": len(table)}


def require_unused(folder: Path) -> None:
    """Raise `ConfigError` if a run's folder holds something already: it is never written over."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        how = f"go on with it by --resume {folder}, or " if (folder / SNAPSHOT).is_file() else ""
        raise ConfigError(f"'{folder}' is not empty; {how}choose another place with --ckpt_dir")


class MetricsFile:
    """metrics.csv: one row a logged step, empty where a value was not measured then."""

    COLUMNS: Sequence[str] = (
        "step", "seconds", "loss", "l1", "kl", "lr", "grad_norm", "data_ms", "step_ms",
        "val_loss", "val_deployed", "success_rate",
    )  # fmt: skip

    def __init__(self, file: Path, *, after: int) -> None:
        """Continue the file after step `after`: rows that an interrupted run wrote beyond its checkpoint go."""
        kept = [row for row in read_metrics(file) if row["step"] <= after] if file.exists() else []
        with file.open("w", newline="", encoding="utf-8") as handle:
            csv.DictWriter(handle, self.COLUMNS).writeheader()
        self._file = file
        for row in kept:
            self.add(row)

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row; unknown columns are left to TensorBoard."""
        with self._file.open("a", newline="", encoding="utf-8") as handle:
            csv.DictWriter(handle, self.COLUMNS, extrasaction="ignore").writerow(
                {key: f"{value:.8g}" for key, value in row.items()}
            )


def read_metrics(file: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, values only where there are some."""
    with file.open(newline="", encoding="utf-8") as handle:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(handle)]
