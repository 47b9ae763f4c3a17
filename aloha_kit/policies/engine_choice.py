"""Choice of the inference engine on a CPU: the fastest of those that predict what eager fp32 predicts.

Evaluation does not choose: the same command must give the same actions on every run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from aloha_kit.config.inference import EngineKind, InferenceSettings, Precision
from aloha_kit.config.policies import FAMILIES
from aloha_kit.core import ConfigError
from aloha_kit.core.cli import LOG
from aloha_kit.data.batch import Batch
from aloha_kit.policies.engine import draws_of, Engine, generator_of, prepare, verified
from aloha_kit.policies.engine_bf16 import in_bf16
from aloha_kit.policies.engine_openvino import OpenVINOModel
from aloha_kit.policies.network import ChunkNetwork

EXACT = 0.03
"""Largest difference from eager fp32, in standard deviations of each action, of an engine that is chosen and not named.
Trained policies were measured at 2e-6 in fp32 and 0.01 to 0.02 in bf16."""

FAST_MS = 3.0  # an eager inference that takes less is kept: preparing another engine takes seconds
GAIN = 1.15  # times as fast as one that is preferred otherwise; or the choice would follow the noise
_TURNS, _LEAST_TURNS, _TURNS_S = 20, 3, 1.0


def choose(network: ChunkNetwork, settings: InferenceSettings, example: Batch) -> Engine:
    """The engine that the settings name; else on a CPU the fastest one, on a GPU eager.

    What was chosen is logged in one line. A precision that is given restricts the choice to it.

    Args:
        network, example: as for `prepare`.

    Raises:
        ConfigError: as `prepare`; an engine that is not named and cannot be used is left out instead.
    """
    if settings.engine is not None or example["qpos"].device.type != "cpu":
        kind, precision = settings.engine or "eager", settings.precision or "fp32"
        return prepare(network, engine=kind, precision=precision, example=example)
    start = time.perf_counter()
    tolerance = EXACT if settings.precision is None else None
    network.eval()
    engines = [_eager(network, settings.precision or "fp32", example, tolerance)]
    refused: list[str] = []
    times = durations_ms(engines, network, example)
    if times[0] >= FAST_MS and own_family(network):
        refused = ["other engines, which a family of your own gets only by name (--engine openvino)"]
    elif times[0] >= FAST_MS:
        LOG.info("preparing other engines: eager fp32 takes %.0f ms an inference; --engine eager skips this", times[0])
        others, refused = _others(network, settings.precision, example, tolerance)
        engines += others
        times = durations_ms(engines, network, example)
    chosen = soonest(times)
    LOG.info(_line(engines, times, chosen, refused, time.perf_counter() - start))
    return replace(engines[chosen], measured=True)


def own_family(network: ChunkNetwork) -> bool:
    """Whether a network is of a user's own family.

    OpenVINO can end the process on a graph that it cannot compile, which nothing can catch; the families of the table
    were tried with it.
    """
    return network.config.kind not in FAMILIES


def soonest(times: Sequence[float]) -> int:
    """Number of the engine to take, given what an inference takes with each, in order of preference."""
    best = 0
    for number, taken in enumerate(times):
        if GAIN * taken < times[best]:
            best = number
    return best


def durations_ms(engines: Sequence[Engine], network: ChunkNetwork, example: Batch) -> list[float]:
    """Milliseconds of an inference with each, in turns, the least of several: other work only ever adds to it."""
    times: list[list[float]] = []
    began = time.perf_counter()
    while len(times) < _LEAST_TURNS or (len(times) < _TURNS and time.perf_counter() - began < _TURNS_S):
        times.append([])
        for engine in engines:
            start = time.perf_counter()
            engine(example, generator_of(network, example))
            times[-1].append(1e3 * (time.perf_counter() - start))
    least: list[float] = np.min(times, axis=0).tolist()
    return least


def _eager(network: ChunkNetwork, precision: Precision, example: Batch, tolerance: float | None) -> Engine:
    if precision == "fp32":
        return Engine("eager", "fp32", network.predict)
    return verified(Engine("eager", "bf16", in_bf16(network)), network, example, tolerance)


def _others(
    network: ChunkNetwork, given: Precision | None, example: Batch, tolerance: float | None
) -> tuple[list[Engine], list[str]]:
    """All but the first one, in order of preference, and why others are left out."""
    wanted: list[tuple[EngineKind, Precision]] = [("openvino", given)] if given else [("openvino", "fp32")]
    if given is None and multiplies_bf16():
        wanted += [("eager", "bf16"), ("openvino", "bf16")]
    engines: list[Engine] = []
    refused: list[str] = []
    model: OpenVINOModel | None = None
    try:
        model = OpenVINOModel(network, example, draws_of(network, example))
    except ConfigError as error:
        refused.append(str(error))
    for kind, precision in wanted:
        try:
            if kind == "eager":
                engines.append(_eager(network, precision, example, tolerance))
            elif model is not None:
                engine = Engine(kind, precision, model.compiled(precision))
                engines.append(verified(engine, network, example, tolerance))
        except ConfigError as error:
            refused.append(str(error))
    return engines, refused


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor has instructions for bf16 (AVX512-BF16, AMX, Arm's), as Linux lists them."""
    try:
        return any(word.endswith("bf16") for word in cpuinfo.read_text(encoding="utf-8").split())
    except OSError:
        return False


def _line(
    engines: Sequence[Engine], times: Sequence[float], chosen: int, refused: Sequence[str], seconds: float
) -> str:
    shown = [f"{engine.kind} {engine.precision} {taken:.1f} ms" for engine, taken in zip(engines, times, strict=True)]
    engine = engines[chosen]
    line = f"inference by --engine {engine.kind} --precision {engine.precision}: {times[chosen]:.1f} ms"
    if others := [text for number, text in enumerate(shown) if number != chosen]:
        line += f" ({', '.join(others)}; measured in {seconds:.1f} s)"
    if engine.checked is not None:
        line += f"; it differs from eager fp32 by at most {engine.checked}; --engine eager for the network as trained"
    return line + "".join(f". Left out: {reason}" for reason in refused)
