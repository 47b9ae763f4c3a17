"""Cache of converted OpenVINO models in the user's cache folder: a start that finds its model converts nothing.

A conversion follows the network through its graph, which takes seconds for ACT and far longer for a family that
denoises in many steps. What it gives depends on the network, the size of its inputs and the versions of all who
convert, which are the key. The result is compared with eager fp32 at every start all the same (`engine.check`).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloha_kit.core.cli import LOG
from aloha_kit.core.files import sync, sync_folder, user_cache
from aloha_kit.core.versions import package_version
from aloha_kit.policies.network import ChunkNetwork

KEPT = 4
"""Models that are kept; each takes as much room as its weights in fp32."""
_MODEL, _WEIGHTS = "model.xml", "model.bin"


def key_of(network: ChunkNetwork, inputs: Sequence[Tensor], library: Any) -> str:
    """Key of a network's model for inputs of these shapes: whatever changes the model changes the key."""
    versions = [package_version(), torch.__version__, library.__version__]
    digest = hashlib.sha256(repr([*versions, network.config, network.contract]).encode())
    digest.update(repr([(tuple(tensor.shape), tensor.dtype) for tensor in inputs]).encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):  # a checkout changes without a new version
        digest.update(file.read_bytes())
    # named_buffers: the normalisation is in no state_dict
    for name, tensor in sorted(itertools.chain(network.named_parameters(), network.named_buffers())):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def converted(key: str, convert: Callable[[], Any], *, library: Any, core: Any) -> Any:
    """The model of this key from the cache, where `convert` and the disk have put it if it was not there.

    A first start reads it back too: a model that was written rounds a little otherwise than one that was not.
    """
    folder = user_cache() / "openvino" / key
    if (model := _read(folder, core)) is not None:
        return model
    model = convert()
    try:
        _keep(model, folder, library)
    except (OSError, RuntimeError) as error:  # a full or read-only disk is no reason not to run
        LOG.debug("the converted model is not kept in %s: %s", folder, error)
    return _read(folder, core) or model


def _read(folder: Path, core: Any) -> Any | None:
    if not (folder / _MODEL).is_file():
        return None
    try:
        model = core.read_model(folder / _MODEL)
    except RuntimeError as error:
        LOG.debug("%s is damaged and made anew: %s", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    with contextlib.suppress(OSError):  # another user's folder
        os.utime(folder)  # the newest are kept
    return model


def _keep(model: Any, folder: Path, library: Any) -> None:
    """Write a model whole or not at all, and remove the oldest beyond `KEPT`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
    try:
        library.save_model(model, part / _MODEL, compress_to_fp16=False)
        for name in (_MODEL, _WEIGHTS):
            sync(part / name)
        os.rename(part, folder)  # refused where another process was first
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync_folder(folder.parent)
    models = [each for each in folder.parent.iterdir() if each.is_dir() and not each.name.startswith(".")]
    for old in sorted(models, key=lambda each: each.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
