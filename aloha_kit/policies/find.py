"""Search and loading of checkpoints by path, in every supported layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from aloha_kit.config.match_checkpoint import AssumedSetup
from aloha_kit.core import ConfigError, ContractError
from aloha_kit.core.files import names_in
from aloha_kit.core.lang import Message
from aloha_kit.policies import checkpoint, lerobot, native, published
from aloha_kit.policies.network import ChunkNetwork


class Layout(Protocol):
    """Files of a kind of checkpoint: a module with these."""

    NAME: str

    def find(self, path: Path) -> Path | None:
        """The checkpoint at a path, a folder or a file; None where it has none of this layout. Of one that it found it
        finds itself."""

    def load(self, source: Path, setup: AssumedSetup | None) -> ChunkNetwork:
        """The network of a checkpoint that `find` found, with what it lacks from `setup`."""

    def describe(self, source: Path) -> list[str]:
        """Description of such a checkpoint, as lines of text."""


LAYOUTS: tuple[Layout, ...] = (lerobot, native, published)
"""Layouts in the order in which they are looked for: LeRobot's weights have the name of ours."""


def find_checkpoint(path: Path) -> Path:
    """A checkpoint's folder, or a file of the published ACT repository.

    Args:
        path: one of them, or the folder of the latter; or a run, ours or LeRobot's (or its `checkpoints`), of which
            the best (else the last) checkpoint is taken.

    Raises:
        ConfigError: there is none; lists what exists.
    """
    return locate(path)[1]


def locate(path: Path) -> tuple[Layout, Path]:
    """The layout of the checkpoint at a path, and the checkpoint; raises as `find_checkpoint`."""
    for layout in LAYOUTS:
        if (source := layout.find(path)) is not None:
            return layout, source
    if path.is_dir():
        there = ", ".join(names_in(path)) or Message("(nothing)")
    elif path.exists():
        raise ConfigError(
            "no checkpoint at {path}: it is a file; expected a run, a checkpoint's folder or a .ckpt", path=path
        )
    else:
        beside = ", ".join(names_in(path.parent)) or Message("(nothing)")
        there = Message("no such folder; beside it: {names}", names=beside)
    raise ConfigError(
        "no checkpoint at {path}: neither {weights}, checkpoints/best, checkpoints/last nor {reference}. "
        "There is: {there}",
        path=path,
        weights=checkpoint.WEIGHTS,
        reference=published.BEST,
        there=there,
    )


def load_network(
    source: Path,
    setup: AssumedSetup | None = None,
    device: str | None = None,
    rename: Mapping[str, str] | None = None,
) -> ChunkNetwork:
    """Load the network of a checkpoint found by `find_checkpoint`.

    Args:
        setup: training setup of a checkpoint that does not record it.
        device: by default cuda where there is one, else cpu.
        rename: cameras, {the policy's name: the rig's}.

    Raises:
        ConfigError: damaged files, an unusable device, or cameras that have to be named.
        ContractError: cameras that are not the checkpoint's.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    layout = next((each for each in LAYOUTS if each.find(source) is not None), native)
    network = layout.load(source, setup)
    if rename:
        try:
            network.rename_cameras(rename)
        except ContractError as error:
            raise ContractError("{source}: {error}", source=source, error=error) from error
    try:
        return network.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            "device '{device}' cannot be used: {why}", device=device, why=str(error).splitlines()[0]
        ) from error


def run_folder(source: Path) -> Path:
    """The run that a checkpoint belongs to; never the checkpoint's own folder, which training replaces."""
    folders = (folder for folder in list(source.parents)[:2] if folder.name == "checkpoints")
    return next(folders, source).parent
