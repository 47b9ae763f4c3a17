"""Checks of camera images: size, exposure and change."""

from __future__ import annotations

import cv2
import numpy as np

from aloha_kit.core.findings import About, Finding
from aloha_kit.core.lang import tr, tr_plural
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
    if camera.image is None:
        return [about.error(camera.error or tr("no image came"), tr("an image"), tr("see this camera's topic"))]
    height, width = camera.image.shape[:2]
    findings = _light(about, camera.image)
    if (height, width) != size:
        remedy = tr("set the driver to the configured size, or the rig's configuration to the driver's")
        findings.append(
            about.error(tr("{width}x{height} pixels", width=width, height=height), f"{size[1]}x{size[0]}", remedy)
        )
    return findings or [about.ok(tr("{width}x{height}, neither dark nor burnt", width=width, height=height))]


def _light(about: About, image: RgbImage) -> list[Finding]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    white, expected = float(np.mean(grey >= 250)), tr("an image with detail")
    if np.percentile(grey, 99) < BLACK:
        return [about.error(tr("black"), expected, tr("take the cap off, put the light on"))]
    if white >= BURNT[0]:
        remedy = tr("lower exposure or gain, and switch automatic exposure off")
        return [
            about.graded(
                white,
                BURNT,
                tr("over-exposed: {white:.0%} white", white=white),
                tr("under {limit:.0%}", limit=BURNT[0]),
                remedy,
            )
        ]
    if float(grey.std()) < FLAT:
        return [about.error(tr("one even colour"), expected, tr("uncover the lens, check the focus"))]
    return []


def check_life(topic: TopicMeasurement, *, moved: bool, simulated: bool) -> list[Finding]:
    """Whether images change. A real sensor's noise never repeats; a simulated one shows motion only."""
    about = About("life", topic.stream.removeprefix("images/"))
    count = len(topic.prints)
    if count < 3 or len(np.unique(topic.prints)) > 1:
        return []
    if simulated and not moved:
        return [about.ok(tr("still, as nothing moved"))]
    found = tr_plural("frozen: {n} image with the same pixels", "frozen: {n} images with the same pixels", count)
    return [about.error(found, tr("images that change"), tr("restart the camera's driver; it repeats its last image"))]
