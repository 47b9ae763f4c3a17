"""Inference engines: the network made ready in an engine and a precision, compared with eager fp32.

`eager` in fp32 is the network as it was trained, to the bit. Everything else is faster and rounds differently, so it
is compared with that before anything moves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from aloha_kit.config.inference import EngineKind, Precision
from aloha_kit.core import ConfigError
from aloha_kit.core.cli import LOG
from aloha_kit.core.features import DEPTH, IMAGE
from aloha_kit.core.inputs import shape_of
from aloha_kit.data.batch import Batch
from aloha_kit.policies import collate
from aloha_kit.policies.engine_bf16 import in_bf16
from aloha_kit.policies.engine_compile import compiled
from aloha_kit.policies.engine_openvino import OpenVINOModel
from aloha_kit.policies.generator import BatchGenerator, Draw, RecordingGenerator
from aloha_kit.policies.language import with_known_instructions
from aloha_kit.policies.network import ChunkNetwork, Predict

TOLERANCE: dict[Precision, float] = {"fp32": 0.01, "bf16": 0.1}
"""Largest difference from eager fp32 that is allowed, in standard deviations of each action: well above what rounding
was measured to do (2e-6 in fp32, 0.02 in bf16), well below what an engine that is wrong does."""

_PROBES = 3  # random batches; with one row each that is three observations


@dataclass(frozen=True)
class Checked:
    """Deviation of an engine from eager fp32.

    Attributes:
        errors: {action: largest absolute difference} in raw units.
        of_std: the largest of them as a share of that action's standard deviation, and `worst`, whose it is.
        tolerance: what `of_std` may be.
        ms, eager_ms: what one inference took, each in the best of those that were compared.
    """

    errors: dict[str, float]
    of_std: float
    worst: str
    tolerance: float
    ms: float
    eager_ms: float

    def __str__(self) -> str:
        return f"{self.of_std:.2g} standard deviations ({self.worst})"


@dataclass(frozen=True, eq=False)
class Engine:
    """A prepared network, for batches of as many observations as it was prepared for.

    Attributes:
        checked: None for eager fp32, which everything else is compared with.
        measured: chosen because it answers soonest, see `engine_choice.choose`.
    """

    kind: EngineKind
    precision: Precision
    predict: Predict
    checked: Checked | None = None
    measured: bool = False

    def __call__(self, batch: Batch, generator: BatchGenerator | None = None) -> Tensor:
        """(B, K, A) actions in raw units; without gradients."""
        with torch.inference_mode():
            return self.predict(batch, generator)

    def about(self) -> dict[str, Any]:
        """Plain values for a report."""
        about: dict[str, Any] = {"kind": self.kind, "precision": self.precision}
        if self.measured:
            about["measured"] = True
        if self.checked is not None:
            about["max_error"] = {name: float(f"{error:.2g}") for name, error in self.checked.errors.items()}
            about["max_error_of_std"] = float(f"{self.checked.of_std:.2g}")
            about["tolerance_of_std"] = self.checked.tolerance
        return about


def prepare(
    network: ChunkNetwork,
    *,
    engine: EngineKind = "eager",
    precision: Precision = "fp32",
    example: Batch,
) -> Engine:
    """Convert, compile and compare, which the first inference would otherwise wait for; compilation can take a minute.

    Compilers must not load once a software OpenGL context exists, so call this before any environment is built.

    Args:
        network: on the device that it is to run on; put into evaluation mode, otherwise left as it is.
        example: a batch of the size that inferences will have, see `blank`.

    Raises:
        ConfigError: the engine is not installed, does not run on this device, cannot convert this network, or
            differs from eager fp32.
    """
    network.eval()
    if (engine, precision) == ("eager", "fp32"):
        return Engine(engine, precision, network.predict)
    flags = f"--engine {engine} --precision {precision}"
    LOG.info("preparing %s", flags)
    start = time.perf_counter()
    device = example["qpos"].device
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("{gpu} has no bf16; use --precision fp32", gpu=torch.cuda.get_device_name(device))
    draws = draws_of(network, example)
    if engine == "openvino":
        predict = OpenVINOModel(network, example, draws).compiled(precision)
    else:
        predict = in_bf16(network) if precision == "bf16" else network.predict
        if engine == "compile":
            predict = compiled(predict, example, draws)
    made = verified(Engine(engine, precision, predict), network, example)
    assert made.checked is not None
    LOG.info(
        f"{flags} is ready after {time.perf_counter() - start:.1f} s; one inference {made.checked.ms:.0f} ms, eager"
        f" fp32 {made.checked.eager_ms:.0f} ms; it differs by at most {made.checked}"
    )
    return made


def verified(engine: Engine, network: ChunkNetwork, example: Batch, tolerance: float | None = None) -> Engine:
    """The engine after its first inference, which may take long, with the result of `check`; raises as that does."""
    engine(example, generator_of(network, example))
    return replace(engine, checked=check(engine, network, example, tolerance))


def check(engine: Engine, network: ChunkNetwork, example: Batch, tolerance: float | None = None) -> Checked:
    """Compare an engine with eager fp32 on the same inputs and random numbers.

    Args:
        tolerance: in standard deviations; by default the precision's, see `TOLERANCE`.

    Raises:
        ConfigError: they differ by more than that; names the action, the difference and a remedy.
    """
    names = network.contract.action_names
    errors, times = compared(engine, network, (example, *probes(network, example)))
    shares, worst = of_std(network, errors)
    ms, eager_ms = (1e3 * np.array(times).min(axis=0)).tolist()
    tolerance = TOLERANCE[engine.precision] if tolerance is None else tolerance
    checked = Checked(
        dict(zip(names, errors.tolist(), strict=True)), float(shares[worst]), names[worst], tolerance, ms, eager_ms
    )
    if not checked.of_std <= tolerance:  # NaN is not
        advice = "--precision fp32" if engine.precision == "bf16" else "--engine eager"
        raise ConfigError(
            "--engine {kind} --precision {precision} differs from eager fp32: {name} is off by "
            "{error:.3g}, {of_std:.3g} of its standard deviations; allowed are {tolerance:g}. Nothing has "
            "moved; use {advice}",
            kind=engine.kind,
            precision=engine.precision,
            name=names[worst],
            error=errors[worst],
            of_std=checked.of_std,
            tolerance=tolerance,
            advice=advice,
        )
    return checked


def compared(
    predict: Predict, network: ChunkNetwork, batches: Iterable[Batch]
) -> tuple[npt.NDArray[np.float64], list[list[float]]]:
    """(A,) the largest absolute difference from eager fp32 in raw units, on the same random numbers, NaN where one is;
    and the seconds of each batch, by `predict` and by eager."""
    errors, times = np.zeros(network.action_dim), []
    for batch in batches:
        start = time.perf_counter()
        given = predict(batch, generator_of(network, batch)).cpu()  # which waits for the device
        done = time.perf_counter()
        with torch.inference_mode():
            wanted = network.predict(batch, generator_of(network, batch)).cpu()
        times.append([done - start, time.perf_counter() - done])
        errors = np.maximum(errors, (given - wanted).abs().amax(dim=(0, 1)).double().numpy())  # NaN stays NaN
    return errors, times


def of_std(network: ChunkNetwork, errors: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], int]:
    """(A,) errors as shares of each action's standard deviation, and the index of the largest, of the first NaN where
    there is one."""
    shares = errors / np.maximum(network.stats["action"].std, network.config.std_floor)
    return shares, int(np.argmax(shares))


def draws_of(network: ChunkNetwork, example: Batch) -> list[Draw]:
    """Draws of `predict`, in its order; none for a policy that does not sample."""
    if not network.samples:
        return []
    generator = RecordingGenerator([(0, row) for row in range(len(example["qpos"]))])
    with torch.inference_mode():
        network.predict(example, generator)
    return generator.draws


def generator_of(network: ChunkNetwork, batch: Batch) -> BatchGenerator | None:
    """Generator of the same random numbers for both that are compared."""
    return network.generator([(0, row) for row in range(len(batch["qpos"]))])


def blank(network: ChunkNetwork, rows: int) -> Batch:
    """A batch of `rows` black observations, all vectors zero, on the network's device, laid out as real ones are."""
    steps = network.config.window
    zeros = {f.name: np.zeros((rows, *shape_of(f, steps)), f.dtype) for f in network.contract.inputs}
    return collate.on_device(with_known_instructions(network, zeros), next(network.parameters()).device)


def probes(network: ChunkNetwork, example: Batch) -> Iterator[Batch]:
    """Batches of the example's size, always the same: vectors like the training data's, images of soft patches, depth
    of any values."""
    rng = np.random.default_rng(0)
    layout = {feature.name: feature for feature in network.contract.inputs}
    shapes = {name: tuple(tensor.shape) for name, tensor in collate.disassembled(example).items()}
    for _ in range(_PROBES):
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name in (name for name in layout if layout[name].role == IMAGE):
            lead, size = shapes[name][:-3], shapes[name][-3:-1]
            patches = torch.from_numpy(rng.integers(0, 256, (math.prod(lead), 3, 8, 8)).astype(np.float32))
            image = F.interpolate(patches, size=list(size), mode="bilinear").to(torch.uint8)
            arrays[name] = image.permute(0, 2, 3, 1).contiguous().numpy().reshape(shapes[name])
        for name in (name for name in layout if layout[name].role == DEPTH):
            most = round(1500 * network.config.depth_max_m)
            arrays[name] = rng.integers(0, min(most, 1 << 16), shapes[name]).astype(np.uint16)
        for name in (name for name in layout if layout[name].role not in (IMAGE, DEPTH)):
            arrays[name] = _like(network, name, shapes[name][:-1], rng)
        yield collate.on_device(with_known_instructions(network, arrays), next(network.parameters()).device)


def _like(network: ChunkNetwork, key: str, lead: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(*lead, D) normal draws by a vector's statistics, kept within its extremes where they are known."""
    moments = network.stats[key]
    drawn = rng.normal(moments.mean, moments.std, (*lead, moments.size))
    return np.asarray(np.fmax(np.fmin(drawn, moments.max), moments.min), np.float32)  # fmin and fmax ignore NaN
