"""Distribution shift between a rollout and the training data: joints, start pose, images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from aloha_kit.core.features import IMAGES
from aloha_kit.core.findings import Finding
from aloha_kit.core.image_grid import GRID
from aloha_kit.core.lang import joined, Message
from aloha_kit.data.stats import Moments, START, Statistics
from aloha_kit.diagnose.causes import Cause, level, Limits, Runs, words
from aloha_kit.diagnose.evidence import Evidence
from aloha_kit.storage.vectors import runs

Table = npt.NDArray[np.float64]

_LEAST = 0.02  # rad or opening: distances from the training data below this count as none
_NARROWEST = 0.5  # rad or opening: a range that a joint hardly left in training counts as this wide


def check_start(evidence: Evidence, limits: Limits) -> Iterator[Cause]:
    """A start pose unlike those of the demonstrations."""
    if evidence.training is None or START not in evidence.training:
        return
    seen, first = evidence.training[START], evidence.qpos[0].astype(np.float64)
    if seen.size != len(first):
        return
    off = np.maximum(seen.min - first, first - seen.max)
    if (grade := level(float(off.max()), limits.start)) == "ok":
        return
    order = [int(i) for i in np.argsort(-off) if off[i] >= limits.start[0]]
    names = evidence.contract.state_names
    shown = [
        Message(
            "{name} {first:.2f} (training {low:.2f} to {high:.2f})",
            name=names[i],
            first=first[i],
            low=seen.min[i],
            high=seen.max[i],
        )
        for i in order[:4]
    ]
    found = Message(
        "begins where no demonstration began: {shown}{more}",
        shown=joined(shown, ", "),
        more=Message(" and more") if len(order) > 4 else "",
    )
    remedy = Message(
        "move the arms to the start pose first, or calibrate them; else record demonstrations from here too"
    )
    yield Cause(Finding(grade, "start", names[order[0]], found, Message("a start as in training"), remedy), ((0, 1),))


def check_joints(evidence: Evidence, limits: Limits) -> Iterator[Cause]:
    """Joints beyond the range of training."""
    if evidence.training is None or evidence.training["qpos"].size != evidence.qpos.shape[1]:
        return
    seen = evidence.training["qpos"]
    ranged = bool(np.isfinite(seen.min).all())  # the published ACT saves mean and deviation alone
    beyond = joints_beyond(evidence.qpos, seen)
    bounds = limits.beyond if ranged else limits.deviations
    deviations = np.abs(evidence.qpos - seen.mean) / np.maximum(seen.std, _LEAST)
    for i, name in enumerate(evidence.contract.state_names):
        if (grade := level(float(beyond[:, i].max()), bounds)) == "ok":
            continue
        where = tuple(runs(beyond[:, i] >= bounds[0]))
        worst = int(beyond[:, i].argmax())
        expected = (
            Message("{low:.2f} to {high:.2f}", low=seen.min[i], high=seen.max[i])
            if ranged
            else Message("{mean:.2f} with a standard deviation of {std:.2f}", mean=seen.mean[i], std=seen.std[i])
        )
        found = Message(
            "{position:.2f} at step {worst}, {deviations:.1f} standard deviations from training's mean; {count} steps "
            "unlike training: {steps}",
            position=evidence.qpos[worst, i],
            worst=worst,
            deviations=deviations[worst, i],
            count=sum(b - a for a, b in where),
            steps=words(where),
        )
        remedy = Message(
            "if it begins there: start pose or calibration; if it gets there: the policy has drifted, look at what "
            "comes before, and record demonstrations that recover from such poses"
        )
        yield Cause(Finding(grade, "joint", name, found, expected, remedy), where)


def joints_beyond(qpos: npt.NDArray[np.float32], seen: Moments) -> Table:
    """(T, S): how far each joint is beyond training's range, in shares of the range (in standard deviations from the
    mean, where the range is not known)."""
    if not np.isfinite(seen.min).all():
        return np.asarray(np.abs(qpos - seen.mean) / np.maximum(seen.std, _LEAST), np.float64)
    off = np.maximum(seen.min - qpos, qpos - seen.max)
    return np.asarray(np.where(off < _LEAST, 0.0, off / np.maximum(seen.max - seen.min, _NARROWEST)), np.float64)


def check_images(evidence: Evidence, limits: Limits) -> Iterator[Cause]:
    """Images with colours that training did not have at that place."""
    training = evidence.training
    if training is None:
        return
    for camera, statistics in evidence.camera_statistics.items():
        if f"{IMAGES}{camera}" not in training:
            continue
        outside = cells_beyond(statistics.described, training[f"{IMAGES}{camera}"], limits.cell)
        share = outside.mean(axis=1)
        if (grade := level(float(share.mean()), limits.cells)) == "ok":
            continue
        what, remedy = _explain(statistics.described, camera, training, limits)
        cells = GRID * GRID
        worst = int(share.argmax())
        where = _stretch(statistics.steps, share >= limits.cells[0], evidence.steps)
        found = Message(
            "{mean:.0%} of the image is outside the range of training ({outside:.0f} of {cells} cells, {worst:.0f} at "
            "step {step}); {steps}; {what}",
            mean=share.mean(),
            outside=share.mean() * cells,
            cells=cells,
            worst=share[worst] * cells,
            step=statistics.steps[worst],
            steps=words(where),
            what=what,
        )
        yield Cause(
            Finding(grade, "image", f"{IMAGES}{camera}", found, Message("colours as in training"), remedy), where
        )


def cells_beyond(described: npt.NDArray[np.float32], seen: Moments, margin: float) -> npt.NDArray[np.bool_]:
    """(N, 64): cells with a colour beyond training's range there."""
    off = np.maximum(seen.min - described, described - seen.max) > margin
    return np.asarray(off.reshape(len(described), -1, 3).any(axis=2))


def _explain(described: npt.NDArray[np.float32], camera: str, training: Statistics, limits: Limits) -> tuple[str, str]:
    """Kind of difference, and what to do: the simplest change that makes the images fit again."""
    seen = training[f"{IMAGES}{camera}"]

    def share(images: npt.NDArray[np.float32], other: Moments = seen) -> float:
        return float(cells_beyond(images, other, limits.cell).mean())

    before = share(described)
    for other in training.moments:
        if other.startswith(IMAGES) and other != f"{IMAGES}{camera}" and share(described, training[other]) < before / 3:
            name = other.removeprefix(IMAGES)
            return Message("it fits the training images of '{name}'", name=name), Message(
                "'{camera}' and '{name}' are swapped: change them over", camera=camera, name=name
            )
    colours = described.reshape(len(described), -1, 3)
    if share(colours[:, :, ::-1].reshape(described.shape)) < before / 3:
        return Message("it fits with red and blue swapped"), Message(
            "the camera's driver sends BGR as RGB, or the other way round"
        )
    gain = _gain(colours, seen)
    light = float(gain.mean())
    tint = gain / light
    red, green, blue = tint
    tone = (
        Message(", red {red:.2f}, green {green:.2f}, blue {blue:.2f} of that", red=red, green=green, blue=blue)
        if np.ptp(tint) > 0.05
        else ""
    )
    shift = Message("{light:.2f} times as bright as in training{tone}", light=light, tone=tone)
    if share((colours / gain).reshape(described.shape)) < before / 2:
        remedy: str = Message(
            "light, exposure, white balance or the colour of something large: make it as it was, or record "
            "demonstrations in more kinds of light; training with --augment tolerates some of it"
        )
        return Message("brightness or colour: {shift}", shift=shift), remedy
    remedy = Message(
        "the camera has moved, shadows fall where none were, or something new is in view: compare with a demonstration "
        "(python -m aloha_kit.replay), put things back, or record demonstrations like this"
    )
    return Message("content: it is {shift}, but that does not explain it", shift=shift), remedy


def _gain(colours: npt.NDArray[np.float32], seen: Moments) -> npt.NDArray[np.float32]:
    """(3,) by what each colour is brighter than in training: the median over cells."""
    usual = np.asarray(seen.mean).reshape(-1, 3)
    ratio = colours.mean(axis=0) / np.maximum(usual, 1 / 255)
    lit = usual.min(axis=1) > 0.03
    return np.asarray(np.maximum(np.median(ratio[lit] if lit.any() else ratio, axis=0), 1 / 255), np.float32)


def _stretch(steps: npt.NDArray[np.int64], flags: npt.NDArray[np.bool_], length: int) -> Runs:
    """Runs of flags that were looked at every few steps, as steps: a sample represents the steps up to the next."""
    ends = np.append(steps[1:], length)
    return tuple((int(steps[a]), int(ends[b - 1])) for a, b in runs(flags))
