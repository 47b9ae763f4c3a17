"""A run's folder: configuration, checkpoints, metrics.

config.yaml            all values of the run
checkpoints/last       newest state; resuming continues from here
checkpoints/best       lowest validation loss, or most successes; a policy only, nothing to resume
checkpoints/step_N     kept for good, and epoch_N
metrics.csv            one row a logged step        loss.png      the curves
tensorboard/           the same and more            rollouts/     videos of evaluations
logs/log.txt           all that the terminal showed
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from aloha_kit.config import to_mapping
from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import ConfigError
from aloha_kit.core.files import make_folder, write_text
from aloha_kit.core.lang import Message
from aloha_kit.core.run_log import SNAPSHOT
from aloha_kit.data.index import EpisodeTable
from aloha_kit.policies import checkpoint
from aloha_kit.policies.intact import CheckpointError, require_intact
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.train.args import require_unused

LOG = logging.getLogger(__name__)
STATE = "training_state.pt"
_DAMAGE = (AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError)


@dataclass
class Position:
    """Steps, time and best score of a run."""

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
        """Whether the run was stopped before its first checkpoint, so that it can only start from the beginning."""
        found = self.checkpoints.glob(f"*/{checkpoint.WEIGHTS}")
        return all(".new." in file.parent.name for file in found)  # of a save that was killed

    @classmethod
    def create(cls, folder: Path, values: Mapping[str, Any]) -> Run:
        """A new run.

        Raises:
            ConfigError: the folder is not empty.
        """
        require_unused(folder)
        run = cls(make_folder(folder))
        run.write_config(values)
        return run

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Write the values of the run to config.yaml."""
        text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
        write_text(self.folder / SNAPSHOT, text)

    def save(self, name: str, network: ChunkNetwork, state: Mapping[str, Any] | None, about: dict[str, Any]) -> Path:
        """Write checkpoints/`name`, whole or not at all; `state` is needed to resume from it."""

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
            ConfigError: there is none, or it is damaged; names what to resume from instead.
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
                        raise ValueError(Message("network and optimiser are no mappings"))
                except CheckpointError as error:
                    raise ConfigError("{error}; {advice}", error=error, advice=self._instead(folder)) from error
                except _DAMAGE as error:
                    raise ConfigError("{file} is damaged; {remedy}", file=file, remedy=self._instead(folder)) from error
                return state
        raise ConfigError(
            "'{folder}' has no training state to resume from; {remedy}", folder=folder, remedy=self._instead(folder)
        )

    def _checkpoint(self, path: Path) -> Path:
        return self.checkpoints / "last" if path.resolve() == self.folder.resolve() else path

    def resumable(self, path: Path, config: PolicyConfig, table: EpisodeTable) -> tuple[ChunkNetwork, dict[str, Any]]:
        """Network and training state to resume from `path`.

        Normalisation stays that of the checkpoint, since the weights belong to it, also when episodes were added.

        Raises:
            ConfigError: nothing to resume, or another network was configured; names the differences.
            ContractError: the episodes are of another embodiment than the checkpoint.
        """
        state = self.state(path)
        folder = self._checkpoint(path)
        try:
            network = checkpoint.load(folder)
        except CheckpointError as error:
            raise ConfigError("{error}; {advice}", error=error, advice=self._instead(folder)) from error
        was, wanted = to_mapping(network.config), to_mapping(config)
        differing = [f"{key} {was.get(key)} (now {value})" for key, value in wanted.items() if was.get(key) != value]
        if network.config.kind != config.kind or differing:
            raise ConfigError(
                "a resumed network keeps its values; it was trained with {differing}", differing=", ".join(differing)
            )
        network.contract.require(table.contract, mine=Message("the checkpoint"), theirs=Message("the episodes"))
        recorded, present = state["data"], describe_data(table)
        if any(present.get(key) != value for key, value in recorded.items()):
            then, now = (", ".join(f"{k} {v}" for k, v in data.items()) for data in (recorded, present))
            LOG.warning("the episodes have changed (%s then; %s now): order and split are new", then, now)
        return network, state

    def _instead(self, folder: Path) -> Message:
        """Advice where `folder` cannot be resumed: the newest other checkpoint, or a new run."""
        states = sorted(self.checkpoints.glob(f"[!.]*/{STATE}"), key=lambda file: file.stat().st_mtime, reverse=True)
        others = [file.parent for file in states if file.parent.resolve() != folder.resolve()]
        if others:
            return Message("resume an older checkpoint with --resume {folder}", folder=others[0])
        return Message("no other checkpoint can be resumed; start a new run with another --ckpt_dir")


def describe_data(table: EpisodeTable) -> dict[str, int | str]:
    """Size and fingerprint of a data set, to detect that it has changed, also where its size has not."""
    named = "\n".join(f"{name} {what}" for name, what in zip(table.names, table.ids, strict=True))
    key = hashlib.sha256(named.encode()).hexdigest()[:12]
    images = "; ".join(sorted({reading for reading in table.readings if reading}))
    return {"episodes": len(table.names), "steps": len(table), "key": key, **({"images": images} if images else {})}
