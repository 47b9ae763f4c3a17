"""Checks of camera images: size, exposure and change."""

from __future__ import annotations

import cv2
import numpy as np

from aloha_kit.core import plural
from aloha_kit.core.findings import About, Finding
from aloha_kit.ros.rig_measurements import CameraMeasurement, RgbImage, TopicMeasurement

BLACK = 12.0
"""99th percentile of the grey values below which an image shows nothing."""
FLAT = 3.0
"""Standard deviation below which an image has no content (a cap on the lens, one colour)."""
BURNT = (0.15, 0.5)
"""Share of pixels at full white: warning, error."""


def check_image(camera: CameraMeasurement, size: tuple[int, int]) -> list[Finding]:
    """Size (height, width) and light of the newest image."""
    about = About("image", camera.name)
    if camera.picture is None:
        return [about.error(camera.error or "no image came", "an image", "see this camera's topic")]
    height, width = camera.picture.shape[:2]
    findings = _light(about, camera.picture)
    if (height, width) != size:
        remedy = "set the driver to the configured size, or the rig's configuration to the driver's"
        findings.append(about.error(f"{width}x{height} pixels", f"{size[1]}x{size[0]}", remedy))
    return findings or [about.ok(f"{width}x{height}, neither dark nor burnt")]


def _light(about: About, image: RgbImage) -> list[Finding]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    white, expected = float(np.mean(grey >= 250)), "something to see"
    if np.percentile(grey, 99) < BLACK:
        return [about.error("black", expected, "take the cap off, put the light on")]
    if white >= BURNT[0]:
        remedy = "lower exposure or gain, and switch automatic exposure off"
        return [about.graded(white, BURNT, f"over-exposed: {white:.0%} white", f"under {BURNT[0]:.0%}", remedy)]
    if float(grey.std()) < FLAT:
        return [about.error("one even colour", expected, "uncover the lens, check the focus")]
    return []


def check_life(topic: TopicMeasurement, *, moved: bool, simulated: bool) -> list[Finding]:
    """Whether images change. A real sensor's noise never repeats; a simulated one shows motion only."""
    about = About("life", topic.stream.removeprefix("images/"))
    count = len(topic.prints)
    if count < 3 or len(np.unique(topic.prints)) > 1:
        return []
    if simulated and not moved:
        return [about.ok("still, as nothing moved")]
    found = f"frozen: {plural(count, 'image')} with the same pixels"
    return [about.error(found, "images that change", "restart the camera's driver; it repeats its last image")]
