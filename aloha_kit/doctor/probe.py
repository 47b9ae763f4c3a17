"""Measurements of this machine: write speed of the disk, and the USB bus of each camera."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aloha_kit.config import CameraConfig
from aloha_kit.ros.rig_measurements import DiskMeasurement, UsbCamera

BLOCK = 4 * 1024 * 1024
BYTES_A_PIXEL = {"yuyv": 2.0, "uyvy": 2.0, "yuvmono10": 2.0, "rgb24": 3.0, "bgr24": 3.0, "grey": 1.0}
"""Of formats that cameras send uncompressed, by usb_cam's names."""
MJPEG = 0.4
"""Bytes a pixel of camera-made JPEG, generously: detailed scenes reach it."""


def probe_disk(folder: Path, *, seconds: float = 1.0, most: int = 256 * 1024 * 1024) -> DiskMeasurement:
    """Write blocks of 4 MB with an fsync each, for `seconds` or `most` bytes; nothing is left behind.

    Without fsync the page cache is measured, which an hour of recording exceeds. A folder that is
    not there yet is looked at where it would be made.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        block = os.urandom(BLOCK)  # a compressing file system would make zeros look fast
        with tempfile.TemporaryFile(dir=place) as file:
            written, began = 0, time.monotonic()
            while written < most and (written == 0 or time.monotonic() - began < seconds):
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
                written += BLOCK
            speed = written / max(time.monotonic() - began, 1e-9)
        return DiskMeasurement(str(folder), speed, shutil.disk_usage(place).free)
    except OSError as error:
        return DiskMeasurement(str(folder), 0.0, 0, f"cannot write there: {error.strerror or error}")


def probe_usb(
    cameras: Mapping[str, CameraConfig],
    params: Mapping[str, Mapping[str, Any]],
    *,
    sys: Path = Path("/sys/class/video4linux"),
    dev: Path = Path("/dev"),
) -> list[UsbCamera]:
    """Find the cameras on this machine's USB: bus and bytes/s of each.

    A camera's device is its driver's `video_device` parameter, else the udev name /dev/CAM_HIGH for
    `cam_high`. Cameras that are not on this machine's USB are left out.
    """
    found = []
    for name, camera in cameras.items():
        driver = params.get(name, {})
        device = dev / str(driver.get("video_device") or name.upper()).removeprefix("/dev/")
        node = sys / device.resolve().name
        bus = _bus(node)
        if bus is None:
            continue
        label, mbit_s = bus
        width, height = int(driver.get("image_width", camera.width)), int(driver.get("image_height", camera.height))
        form = str(driver.get("pixel_format", "yuyv")).lower()
        pixel = MJPEG if "jpeg" in form else BYTES_A_PIXEL.get(form, 2.0)
        rate = float(driver.get("framerate", camera.rate_hz))
        found.append(UsbCamera(name, str(device), label, mbit_s, width * height * pixel * rate, form))
    return found


def _bus(node: Path) -> tuple[str, float] | None:
    """Name and Mbit/s of the root hub above a video device; a USB 2 camera on a USB 3 port uses the USB 2 bus."""
    if not (node / "device").exists():
        return None
    for path in (node / "device").resolve().parents:
        if re.fullmatch(r"usb\d+", path.name) and (path / "speed").is_file():
            return f"bus {path.name.removeprefix('usb')}", float((path / "speed").read_text())
    return None
