"""Weights, images and vectors from a formula of their name, so that golden values need no stored weights."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt


def waves(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Values in [-1, 1] that differ by name: sin(0.7 k² + phase), k the flat index modulo 9973."""
    phase = zlib.crc32(name.encode()) % 6283 / 1000
    k = np.arange(int(np.prod(shape)), dtype=np.float64) % 9973
    return np.sin(0.7 * k**2 + phase).reshape(shape)


def weight(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """A parameter or buffer of the published networks by its published name.

    Matrices and kernels have the variance of Xavier's initialisation, scales are near 1, running
    variances positive, biases small: activations keep their size from layer to layer.
    """
    value = waves(name, shape)
    if name.endswith("running_var"):
        value = 1 + 0.5 * np.abs(value)
    elif len(shape) == 1 and name.endswith("weight"):
        value = 1 + 0.2 * value
    elif len(shape) == 1:
        value = 0.1 * value
    elif "embed" not in name:
        fan_in = int(np.prod(shape[1:]))
        fan_out = shape[0] * int(np.prod(shape[2:]))
        value = value * np.sqrt(4 / (fan_in + fan_out))
    return value.astype(np.float32)


def image(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """uint8 pixels."""
    return np.round(127.5 + 127.5 * waves(name, shape)).astype(np.uint8)
