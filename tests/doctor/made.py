"""Evidence as a healthy rig would give it, to be spoilt by the tests."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from aloha_kit.core import VX300S
from aloha_kit.ros.rig_measurements import ArmMeasurement, NetworkMeasurement, Publisher, TopicMeasurement

NOW = 1_700_000_000_000_000_000


def topic(
    stream: str = "images/cam_high", rate_hz: float = 30.0, seconds: float = 5.0, **changes: Any
) -> TopicMeasurement:
    """A stream whose stamps are 10 ms older than their arrivals."""
    count = int(seconds * rate_hz)
    stamps = NOW + (np.arange(count) * 1e9 / rate_hz).astype(np.int64)
    values: dict[str, Any] = {
        "stream": stream,
        "topic": f"/usb/{stream}",
        "expected_type": "sensor_msgs/CompressedImage",
        "rate_hz": rate_hz,
        "found_type": "sensor_msgs/CompressedImage",
        "publishers": (Publisher("/driver"),),
        "stamps_ns": stamps,
        "arrivals_ns": stamps + 10_000_000,
        "sizes": np.full(count, 100_000),
        "prints": np.arange(count),
    }
    return TopicMeasurement(**{**values, **changes})


def arm(stream: str = "qpos_left", count: int = 100, **changes: Any) -> ArmMeasurement:
    """An arm that stands at its start pose."""
    values: dict[str, Any] = {
        "stream": stream,
        "model": VX300S,
        "raw": np.tile([0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.5], (count, 1)),
        "stamps_ns": NOW + np.arange(count) * 10_000_000,
        "lengths": (9, 9, 9),
    }
    return ArmMeasurement(**{**values, **changes})


def network(**changes: Any) -> NetworkMeasurement:
    """One machine, addressed by its loopback, as most rigs without a network of their own."""
    values: dict[str, Any] = {
        "master_uri": "http://localhost:11311",
        "master_is_here": True,
        "own_addresses": ("127.0.0.1", "10.0.0.5"),
        "hostname_address": "127.0.1.1",
    }
    return NetworkMeasurement(**{**values, **changes})


def view(seed: int, *, height: int = 480, width: int = 640) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An image of a made-up room: large shapes in colours of their own, with a sensor's noise."""
    rng = np.random.default_rng(seed)
    image = np.full((480, 640, 3), rng.integers(60, 160, 3), np.uint8)
    for _ in range(12):
        corner, size = rng.integers(0, (640, 480)), rng.integers(40, 260, 2)
        cv2.rectangle(image, corner.tolist(), (corner + size).tolist(), rng.integers(20, 230, 3).tolist(), -1)
    noisy = image + rng.normal(0, 4, image.shape)
    return cv2.resize(np.clip(noisy, 0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_AREA)
