"""OpenVINO inference: the fastest that was measured on a CPU, in either precision, Intel's or AMD's."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aloha_kit.config.inference import Precision
from aloha_kit.config.policies import FAMILIES
from aloha_kit.core import ConfigError
from aloha_kit.core.features import DEPTHS, IMAGES
from aloha_kit.data.batch import Batch, nearest
from aloha_kit.policies.flat import FlatNetwork
from aloha_kit.policies.generator import BatchGenerator, Draw
from aloha_kit.policies.network import ChunkNetwork, Predict
from aloha_kit.policies.openvino_cache import converted, key_of

_HINT: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}


class OpenVINOModel:
    """A network as OpenVINO's model, for batches of the example's size; converted once, see `openvino_cache`.

    Args:
        draws: random numbers that `predict` draws; they become inputs, so that each inference has its own.

    Raises:
        ConfigError: it is not installed, the network is not on a CPU, or OpenVINO cannot convert it.
    """

    def __init__(self, network: ChunkNetwork, example: Batch, draws: Sequence[Draw] = ()) -> None:
        if example["qpos"].device.type != "cpu":
            raise ConfigError(
                "--engine openvino is for a CPU, the network is on {device}; use --engine compile",
                device=example["qpos"].device,
            )
        self._library = _library()
        self._flat = _Flat(network, example, draws).eval()
        inputs = self._flat.arguments(example, None)

        def convert() -> Any:
            return self._library.convert_model(torch.export.export(self._flat, inputs, strict=False))

        with _converting(), torch.no_grad():
            if network.config.kind not in FAMILIES:  # the code of a user's family is not in the key
                self._model = convert()
                return
            key = key_of(network, inputs, self._library)
            self._model = converted(key, convert, library=self._library, core=_core(self._library))

    def compiled(self, precision: Precision) -> Predict:
        """`network.predict` in this precision, on as many threads as torch has.

        Raises:
            ConfigError: OpenVINO cannot compile it.
        """
        settings = {
            "INFERENCE_PRECISION_HINT": _HINT[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        with _converting():
            request = _core(self._library).compile_model(self._model, "CPU", settings).create_infer_request()

        def predict(batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
            inputs = [tensor.numpy() for tensor in self._flat.arguments(batch, generator)]
            return torch.from_numpy(request.infer(inputs, share_inputs=True)[0].copy())

        return predict


@contextlib.contextmanager
def _converting() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # torch and OpenVINO each have their own
        raise ConfigError(
            "--engine openvino cannot convert this network: {error}. Use --engine eager",
            error=str(error).strip().splitlines()[-1],
        ) from error


class _Flat(FlatNetwork):
    """The network with images of its own size, and depth as floats."""

    def arguments(self, batch: Batch, generator: BatchGenerator | None) -> tuple[Tensor, ...]:
        inputs = super().arguments(batch, generator)
        count = len(self.features)
        sized = (self._sized(name, tensor) for name, tensor in zip(self.features, inputs[:count], strict=True))
        return *sized, *inputs[count:]

    def _sized(self, name: str, tensor: Tensor) -> Tensor:
        """Vectors as they are; OpenVINO has no antialiased resizing, so images are resized before it, which is the
        same before or after normalising. Depth is float, since it has no uint16."""
        if not name.startswith((IMAGES, DEPTHS)):
            return tensor
        assert self.network.vision is not None
        if name.startswith(DEPTHS):
            size = self.network.vision.sizes[name.removeprefix(DEPTHS)]
            return nearest(tensor.reshape(-1, 1, *tensor.shape[-2:]), size).reshape(*tensor.shape[:-2], *size)
        size = self.network.vision.sizes[name.removeprefix(IMAGES)]
        if tensor.shape[-3:-1] != size:
            image = tensor.movedim(-1, -3).flatten(0, -4) / 255
            image = F.interpolate(image, size=list(size), mode="bilinear", antialias=True)
            tensor = image.reshape(*tensor.shape[:-3], *image.shape[1:]).movedim(-3, -1)
        return tensor.contiguous()


@functools.cache
def _core(library: Any) -> Any:
    """OpenVINO's core, one for the life of the process.

    The plugin of each core gives the thread another stack for signal handlers, and frees it when the core ends. With
    several cores that end in any order, a freed one remains: the next signal, such as Ctrl-C while arms move, would
    end the process at once.
    """
    return library.Core()


def _library() -> Any:
    # when imported it would report its use to its makers over the network, without the user's consent
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise ConfigError(
            "--engine openvino needs OpenVINO ({error}). Install it with: pip install openvino (or pip "
            "install 'aloha_kit[openvino]'), or use --engine eager",
            error=error,
        ) from error
