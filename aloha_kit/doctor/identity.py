"""Identity of cameras: each image against all saved reference images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError
from aloha_kit.core.files import make_folder, names_in
from aloha_kit.core.findings import About, Finding
from aloha_kit.core.lang import marked, Message, tr
from aloha_kit.ros.rig_measurements import RgbImage

ALIKE = 0.5
"""Lowest likeness of an image and its reference."""
CLEARLY = 0.1
"""Margin by which another camera's reference must be more alike for a swap to be reported."""
TWINS = 0.9
"""Likeness of two references that cannot be distinguished, such as two wrist cameras that show only grippers."""
THUMB = (24, 32)
"""(height, width) that images are compared at: arms and objects move, the room and the table stay."""
SHIFT = 2
"""Largest shift of a camera's view, in pixels of the thumbnail."""


def check_identity(images: Mapping[str, RgbImage], references: Mapping[str, RgbImage]) -> list[Finding]:
    """Compare each camera's image with its reference and with the other cameras' references."""
    names = [name for name in images if name in references]
    new = [About("identity", name) for name in images if name not in references]
    findings = [
        about.warning(tr("there is no reference image"), tr("one"), tr("save it with --save_reference"))
        for about in new
    ]
    table = np.array([[likeness(images[a], references[b]) for b in names] for a in names])
    best = _assignment(table)
    for i, name in enumerate(names):
        about, j = About("identity", name), best[i]
        own, other = table[i, i], table[i, j]
        twin = max((n for n in names if n != name), key=lambda n: likeness(references[name], references[n]), default="")
        if _rather(other, own):
            shows = marked("shows the view of '{camera}' (likeness {other:.2f}, with its own {own:.2f})")
            if best[j] == i:
                shows = marked(
                    "shows the view of '{camera}', and the other way round: they are swapped "
                    "(likeness {other:.2f}, with its own {own:.2f})"
                )
            found = tr(shows, camera=names[j], other=other, own=own)
            remedy = tr("exchange the cables, or the serial numbers in the udev rules, of these cameras")
            findings.append(about.error(found, tr("the view of '{name}'", name=name), remedy))
        elif own < ALIKE:
            remedy = tr("moved, covered, or other light? If that is intended, save it again with --save_reference")
            found = tr("likeness {own:.2f} with its reference", own=own)
            findings.append(about.warning(found, tr("at least {limit:g}", limit=ALIKE), remedy))
        elif twin and (both := likeness(references[name], references[twin])) > TWINS:
            remedy = tr("put something into one of the two views, then --save_reference and the check again")
            found = tr(
                "can hardly be distinguished from '{twin}' (likeness {both:.2f} of their references)",
                twin=twin,
                both=both,
            )
            findings.append(about.warning(found, tr("references under {limit:g}", limit=TWINS), remedy))
        else:
            findings.append(about.ok(tr("likeness {own:.2f} with its reference", own=own)))
    return findings


def _rather(other: float, own: float) -> bool:
    """Whether another reference fits clearly better, or leaves less than half of what its own does not explain."""
    return other >= ALIKE and (other > own + CLEARLY or (other > own + 0.01 and 1 - other < (1 - own) / 2))


def likeness(one: RgbImage, other: RgbImage) -> float:
    """Likeness of two images, -1 to 1: the best correlation of their thumbnails over small shifts.

    Broad differences of light are removed first, so that a cloud or a lamp does not change the result.
    """
    a, b = _features(one), _features(other)
    inner = a[SHIFT:-SHIFT, SHIFT:-SHIFT]
    height, width, _ = inner.shape
    shifts = itertools.product(range(2 * SHIFT + 1), repeat=2)
    return max(_correlation(inner, b[dy : dy + height, dx : dx + width]) for dy, dx in shifts)


def save_references(folder: Path, images: Mapping[str, RgbImage]) -> list[Path]:
    """`FOLDER/<camera>.png` each, in place of an earlier one.

    Raises:
        ConfigError: the folder cannot be made or written to.
    """
    make_folder(folder)
    files = [folder / f"{name}.png" for name in images]
    for file, image in zip(files, images.values(), strict=True):
        if not cv2.imwrite(str(file), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
            raise ConfigError("cannot write '{file}'", file=file)
    return files


def load_references(folder: Path, names: Sequence[str]) -> dict[str, RgbImage]:
    """The references that there are for these cameras.

    Raises:
        ConfigError: no folder, or not one reference in it; lists the folder.
    """
    if not folder.is_dir():
        raise ConfigError(
            "no folder '{folder}' with reference images; make one with --save_reference {folder}", folder=folder
        )
    images: dict[str, RgbImage] = {}
    for name in names:
        image = cv2.imread(str(folder / f"{name}.png"))
        if image is not None:
            images[name] = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    if not images:
        there = ", ".join(names_in(folder, 8)) or Message("nothing")
        raise ConfigError(
            "no image of {names} in '{folder}'; there is: {there}", names=", ".join(names), folder=folder, there=there
        )
    return images


def _assignment(table: npt.NDArray[np.float64]) -> Sequence[int]:
    """The arrangement of cameras with the highest total likeness; rigs have few cameras, so all are tried."""
    if len(table) > 7:
        return [int(row.argmax()) for row in table]
    return max(
        itertools.permutations(range(len(table))), key=lambda order: sum(table[i, j] for i, j in enumerate(order))
    )


def _features(image: RgbImage) -> npt.NDArray[np.float32]:
    """(24, 32, 3): what stands out from its surroundings."""
    small = cv2.resize(image.astype(np.float32), THUMB[::-1], interpolation=cv2.INTER_AREA)
    flat = small - cv2.GaussianBlur(small, (0, 0), 5)
    # A lamp or its reflection must not decide alone: far values count less.
    return np.asarray(np.tanh(flat / (2 * flat.std() + 1e-6)), np.float32)


def _correlation(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / scale if scale > 1e-6 else 0.0
