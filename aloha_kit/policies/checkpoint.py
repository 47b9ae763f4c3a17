"""Checkpoints: a trained network as one self-contained folder.

```
model.safetensors   weights and nothing but weights: opening it runs no code
config.json         the number of this format, the family (`kind`) and its configuration
statistics.json     of the training data, for normalisation
contract.json       joints, cameras, sizes, rate, units
instructions.json   of the training data, with their vectors, where the policy reads them (`text_encoder`)
extra.json          notes of the training (task, step, scores)
checksums.json      SHA-256 of every other file, compared at loading, and of these entries; older checkpoints have none
```
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from aloha_kit.config import to_mapping
from aloha_kit.config.policies import policy_from_mapping, PolicyConfig
from aloha_kit.core import AlohaKitError, Contract, did_you_mean
from aloha_kit.core.cli import LOG
from aloha_kit.core.errors import reason
from aloha_kit.core.files import names_in, sync
from aloha_kit.core.lang import Message
from aloha_kit.core.versions import CHECKPOINT
from aloha_kit.data.instructions import Instructions
from aloha_kit.data.stats import Statistics
from aloha_kit.policies.build import build
from aloha_kit.policies.intact import CheckpointError, CHECKSUMS, digest, digest_of, read_json, require_intact
from aloha_kit.policies.network import ChunkNetwork, narrow

WEIGHTS = "model.safetensors"
FILES = (WEIGHTS, "config.json", "statistics.json", "contract.json")
_INSTRUCTIONS = "instructions.json"

_NEW = ".new."  # in the name of a folder that is being written

_SETTING = 100_000  # no setting of a small network is larger
DAMAGE = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
"""What building a network from damaged files can raise."""


def save(
    folder: str | Path,
    network: ChunkNetwork,
    config: PolicyConfig,
    stats: Statistics,
    contract: Contract,
    extra: Mapping[str, Any] | None = None,
    *,
    write: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint so that `folder` is at all times the old one or the new one, whole.

    Args:
        extra: JSON-able notes, read back by `notes`.
        write: called with the unfinished folder, to add files that must appear together with the
            weights (the training state).

    Raises:
        OSError: it cannot be written; an older checkpoint in `folder` is untouched.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent, folder.name)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}{_NEW}", dir=folder.parent))
    held = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # no locks on this file system
            fcntl.flock(held, fcntl.LOCK_EX)  # while it is held, no other process removes this folder
        fresh.chmod(0o755)  # mkdtemp's own is private, and others may deploy what one trains
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, fresh / WEIGHTS)
        arrays = {key: value.tolist() for key, value in stats.to_arrays().items()}
        _write_json(fresh / "config.json", {"format": CHECKPOINT, "kind": config.kind, **to_mapping(config)})
        _write_json(fresh / "statistics.json", arrays)
        (fresh / "contract.json").write_text(narrow(contract, config).to_json() + "\n", encoding="utf-8")
        if network.language is not None:
            _write_json(fresh / _INSTRUCTIONS, network.language.instructions.to_json())
        _write_json(fresh / "extra.json", dict(extra or {}))
        (fresh / WEIGHTS).chmod(stat.S_IMODE((fresh / "config.json").stat().st_mode))  # safetensors' own is private
        if write is not None:
            write(fresh)
        sums = {file.name: digest(file) for file in sorted(fresh.iterdir())}
        _write_json(fresh / CHECKSUMS, {**sums, CHECKSUMS: digest_of(sums)})
        for file in (*fresh.iterdir(), fresh):
            sync(file)
        _swap(fresh, folder)
    finally:
        os.close(held)
        shutil.rmtree(fresh, ignore_errors=True)


def sweep(parent: Path, name: str | None = None) -> None:
    """Remove what killed saves left in `parent` (of checkpoint `name`, or of any); what is being written stays."""
    for leftover in parent.glob(f".*{_NEW}*"):
        if leftover.is_dir() and (name is None or leftover.name.startswith(f".{name}{_NEW}")):
            held = os.open(leftover, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover, ignore_errors=True)
            except OSError:  # locked by a live process, or no locks on this file system
                pass
            finally:
                os.close(held)


def load(folder: str | Path, device: str = "cpu") -> ChunkNetwork:
    """The network of a checkpoint, in evaluation mode, on `device`; nothing is fetched from anywhere.

    Raises:
        CheckpointError: there is no such folder, a file of it is missing or damaged, or the weights
            are not those of its configuration; names the file.
    """
    folder = _existing(Path(folder))
    require_intact(folder)
    try:
        state = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError("{file} is damaged or cut short: {error}", file=folder / WEIGHTS, error=error) from error
    try:
        arrays = {key: np.asarray(value) for key, value in read_json(folder / "statistics.json").items()}
        values = _known_format(folder, read_json(folder / "config.json"))
        require_possible(values, state)
        config = policy_from_mapping(values, where=str(folder / "config.json"))
        contract = Contract.from_json((folder / "contract.json").read_text(encoding="utf-8"))
        stats = _sound(Statistics.from_arrays(arrays))
        instructions = Instructions.from_json(read_json(folder / _INSTRUCTIONS)) if config.reads_instruction else None
        network = build(config, contract, stats, pretrained=False, instructions=instructions)
    except AlohaKitError as error:
        raise CheckpointError("checkpoint {folder}: {error}", folder=folder, error=error) from error
    except DAMAGE as error:
        raise CheckpointError("checkpoint {folder} is damaged: {why}", folder=folder, why=reason(error)) from error
    load_weights(network, state, where=str(folder / WEIGHTS))
    return network.to(device).eval()


def _known_format(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the number of its format.

    Raises:
        CheckpointError: a newer format than this version reads, or no number.
    """
    number = values.pop("format", None)
    if number is None:
        return values
    if type(number) is not int or not 1 <= number <= CHECKPOINT:
        raise CheckpointError(
            "config.json: the format is {number!r}, and this version of aloha_kit reads 1 to {known}; update it",
            number=number,
            known=CHECKPOINT,
        )
    if not (folder / CHECKSUMS).exists():
        LOG.warning("%s has no %s: its files are loaded without comparing them", folder, CHECKSUMS)
    return values


def require_possible(values: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raise `CheckpointError` where a configuration describes a network far larger than its weights: it would be built
    before the two are compared."""
    weights = sum(value.numel() for value in state.values())
    for key, value in values.items():
        layers = key.endswith("layers")
        if type(value) is int and value > (len(state) if layers else max(weights, _SETTING)):
            raise CheckpointError(
                "config.json: {key} is {value}, too much for the weights beside it", key=key, value=value
            )
    widths = [value for key, value in values.items() if key.endswith(("_dim", "_width", "_feedforward"))]
    if any(type(width) is int and width > 0 and width * 8 > weights for width in widths):
        raise CheckpointError(
            "config.json has widths of {widest}, the weights are {weights} values in all",
            widest=max(widths),
            weights=weights,
        )


def _sound(stats: Statistics) -> Statistics:
    """Statistics whose numbers are finite and belong together; raises `CheckpointError` where they do not.

    A published checkpoint lacks the range of its data, so that minimum and maximum may be unknown.
    """
    for key, moments in stats.moments.items():
        rows = [moments.mean, moments.std, moments.min, moments.max]
        if (
            any(row.shape != moments.mean.shape for row in rows)
            or not np.isfinite([moments.mean, moments.std]).all()
            or (moments.std < 0).any()
        ):
            raise CheckpointError("statistics.json: those of {key} are not finite, or of different shapes", key=key)
    return stats


def load_weights(network: ChunkNetwork, state: Mapping[str, Tensor], *, where: str) -> None:
    """Fill a network with weights that must be exactly its own.

    Raises:
        CheckpointError: names what is missing, superfluous or of another shape.
    """
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    wrong = [f"lacks {key}" for key in wanted.keys() - given.keys()]
    wrong += [f"has {key} which the configuration does not" for key in given.keys() - wanted.keys()]
    wrong += [f"{k} is {given[k]}, not {wanted[k]}" for k in wanted.keys() & given.keys() if wanted[k] != given[k]]
    if wrong:
        shown = "; ".join(sorted(wrong)[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise CheckpointError(
            "weights and configuration do not belong together: {where} {shown}", where=where, shown=shown
        )
    network.load_state_dict(state)


def notes(folder: str | Path) -> dict[str, Any]:
    """Notes that were passed to `save` as `extra`.

    Raises:
        CheckpointError: as `load`.
    """
    folder = _existing(Path(folder))
    require_intact(folder, "extra.json")
    return read_json(folder / "extra.json")


def _existing(folder: Path) -> Path:
    spare = _spare(folder)
    if not folder.exists() and spare.exists():
        folder = spare  # the machine stopped between the two renames of `save`
    if not folder.is_dir():
        beside = sorted(p.parent.name for p in folder.parent.glob(f"*/{WEIGHTS}") if not p.parent.name.startswith("."))
        raise CheckpointError(
            "no checkpoint folder {folder}. {known}", folder=folder, known=did_you_mean(folder.name, beside)
        )
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        present = ", ".join(names_in(folder)) or Message("(nothing)")
        raise CheckpointError(
            "{folder} is no checkpoint: it lacks {missing}; it holds {present}",
            folder=folder,
            missing=", ".join(missing),
            present=present,
        )
    return folder


def _spare(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _swap(fresh: Path, folder: Path) -> None:
    """Put `fresh` in the place of `folder`; replacing takes two calls, so the old one is renamed first."""
    spare = _spare(folder)
    if folder.exists():
        shutil.rmtree(spare, ignore_errors=True)
        os.rename(folder, spare)
    os.rename(fresh, folder)
    sync(folder.parent)
    shutil.rmtree(spare, ignore_errors=True)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
