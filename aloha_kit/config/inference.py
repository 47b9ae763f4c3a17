"""Inference settings: device, engine, precision. Needs no torch, so that every machine's command line has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EngineKind = Literal["eager", "compile", "openvino"]
"""eager: operation by operation, as in training. compile: torch.compile, and a CUDA graph on a GPU. openvino: Intel's
runtime for any CPU."""

Precision = Literal["fp32", "bf16"]
"""What the network multiplies in. Normalisation and its last layer keep fp32."""


@dataclass(frozen=True)
class InferenceSettings:
    """Device, engine and precision of a trained network.

    Attributes:
        device: None is cuda where there is one, else cpu.
        engine: None is on a CPU the one that answers soonest (`policies.engine_choice`), on a GPU eager.
        precision: None is fp32, and where the engine is chosen whichever precision answers soonest.
    """

    device: str | None = None
    engine: EngineKind | None = None
    precision: Precision | None = None
