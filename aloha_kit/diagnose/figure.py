"""Figure of a rollout: causes over time, and its images beside those of training."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aloha_kit.core.arm_models import BASE, by_arm
from aloha_kit.core.features import IMAGES
from aloha_kit.core.image_grid import GRID
from aloha_kit.diagnose.causes import Limits
from aloha_kit.diagnose.chunk_checks import boundary_changes
from aloha_kit.diagnose.diagnosis import Diagnosis
from aloha_kit.diagnose.distribution_shift import cells_beyond, joints_beyond
from aloha_kit.diagnose.evidence import Evidence
from aloha_kit.media.plots import ACTION, PALETTE, STATE, tidy

ERROR, WARNING = "#c53030", "#dd9b23"
_STAGES = ("observation", "preprocessing", "network", "command", "recording")
_SHOWN = 10  # causes drawn


def draw(evidence: Evidence, found: Diagnosis, file: Path) -> None:
    """Write a PNG: causes over time, reward, step times, chunks, joints and images against training."""
    panels: list[tuple[Any, float]] = [(_causes, 0.4 + 0.22 * min(len(found.causes), _SHOWN))] if found.causes else []
    panels += [(_reward, 1.0)] if evidence.reward is not None else []
    panels += [(_times, 1.3), (_chunks, 1.1)] if evidence.log else []
    seen = evidence.training
    if seen is not None and seen["qpos"].size == evidence.qpos.shape[1]:
        panels.append((_joints, 2.2))
    panels.append((_movement, 1.0))
    cameras = [c for c in evidence.camera_statistics if seen is not None and f"{IMAGES}{c}" in seen]
    panels += [(_cells, 1.0)] if cameras else []
    figure = Figure(figsize=(14, 1.0 + 1.45 * sum(height for _, height in panels)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left: Any = figure
    if evidence.camera_statistics:
        left, right = np.ravel(figure.subfigures(1, 2, width_ratios=(2.6, 1), squeeze=False))
        _camera(right, evidence, cameras)
    axes = left.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=[height for _, height in panels])
    for axis, (panel, _) in zip(axes[:, 0], panels, strict=True):
        panel(axis, evidence, found)
        axis.set_xlim(0, evidence.steps)
    axes[-1, 0].set_xlabel(f"step (1/{evidence.rate_hz:g} s)", fontsize=8)
    figure.suptitle(f"{found.episode}: {found.outcome}", fontsize=11, x=0.01, ha="left")
    figure.savefig(file)


def _causes(axis: Any, evidence: Evidence, found: Diagnosis) -> None:
    shown = found.causes[:_SHOWN]
    for row, cause in enumerate(shown):
        colour = ERROR if cause.finding.level == "error" else WARNING
        least = evidence.steps / 200  # a single step still shows
        axis.broken_barh([(a, max(b - a, least)) for a, b in cause.steps], (row - 0.35, 0.7), color=colour, lw=0)
    axis.set_yticks(range(len(shown)), [f"{c.finding.subject} ({c.finding.check})" for c in shown])
    axis.set_ylim(len(shown) - 0.5, -0.5)
    more = f", {len(found.causes) - _SHOWN} more not shown" if len(found.causes) > _SHOWN else ""
    _title(axis, f"what was found: errors red, warnings yellow{more}", "")


def _reward(axis: Any, evidence: Evidence, found: Diagnosis) -> None:
    assert evidence.reward is not None
    axis.step(np.arange(evidence.steps) + 1, evidence.reward, color=STATE, lw=1.4)
    axis.set_ylim(-0.2, max(1.2, 1.05 * float(evidence.reward.max())))
    _title(axis, "reward", "")


def _times(axis: Any, evidence: Evidence, found: Diagnosis) -> None:
    log = evidence.log or ()
    stages = [np.array([step.ms.get(stage, 0.0) for step in log]) for stage in _STAGES]
    axis.stackplot(np.arange(len(log)) + 0.5, *stages, labels=_STAGES, colors=PALETTE, step="mid", lw=0)
    period = 1000 / evidence.rate_hz
    axis.axhline(period, color="0.2", lw=1, ls="--", label=f"period {period:g} ms")
    # one slow first step would flatten all others
    axis.set_ylim(0, max(1.5 * period, 1.1 * max((step.ms["total"] for step in log[1:]), default=0)))
    axis.legend(fontsize=7, ncols=6, loc="upper right", frameon=False)
    _title(axis, "time of each step" + (" (simulated time: costs nothing)" * evidence.simulated_time), "ms")


def _chunks(axis: Any, evidence: Evidence, found: Diagnosis) -> None:
    log = evidence.log or ()
    age = [np.nan if step.newest is None else step.step - step.newest for step in log]
    axis.step(np.arange(len(log)), age, where="post", color=STATE, lw=1.2)
    axis.set_ylim(0, max(1.0, 1.05 * float(np.nanmax([*age, 0]))))
    held = [step.step for step in log if step.held]
    axis.bar(held, axis.get_ylim()[1], width=1, align="edge", color=ERROR, alpha=0.3, lw=0)
    boundaries, change = boundary_changes(evidence)
    title = "age of the newest chunk played" + (", red where held still" if held else "")
    if 0 < len(boundaries) <= len(log) / 4:
        jump = axis.twinx()
        jump.vlines(boundaries, 0, change[boundaries].max(axis=1), color=ACTION, lw=1.5)
        jump.set_ylim(0, max(0.1, 1.1 * float(change[boundaries].max())))
        jump.tick_params(labelsize=8, colors=ACTION)
        jump.spines[["top"]].set_visible(False)
        title += "; orange: largest jump where a new one takes over (rad)"
    _title(axis, title, "steps")


def _joints(axis: Any, evidence: Evidence, found: Diagnosis) -> None:
    assert evidence.training is not None
    seen = evidence.training["qpos"]
    deviations = (evidence.qpos - seen.mean) / np.maximum(seen.std, 0.02)
    axis.imshow(
        deviations.T,
        aspect="auto",
        interpolation="nearest",
        cmap="RdBu_r",
        vmin=-4,
        vmax=4,
        extent=(0, evidence.steps, seen.size - 0.5, -0.5),
    )
    beyond = joints_beyond(evidence.qpos, seen) >= (Limits().beyond if np.isfinite(seen.min).all() else (5.0,))[0]
    for i in range(seen.size):
        steps = np.flatnonzero(beyond[:, i])
        axis.plot(steps + 0.5, np.full(len(steps), i), "k.", ms=2.5)
    axis.set_yticks(range(seen.size), [name.replace("_", " ") for name in evidence.contract.state_names])
    _title(
        axis, "joints: standard deviations from training's mean (-4 blue to 4 red), black where beyond its range", ""
    )
    axis.tick_params(axis="y", labelsize=6)
    axis.grid(False)


def _movement(axis: Any, evidence: Evidence, found: Diagnosis) -> None:
    speed = np.abs(np.diff(evidence.action, axis=0)) * evidence.rate_hz
    names = evidence.contract.action_names
    arms, grippers = [], [name for name in names if name.endswith("gripper")]
    for k, (arm, entries) in enumerate(by_arm(names).items()):
        columns = [i for i in entries if arm != BASE and names[i] not in grippers]
        if columns:
            arms.append(arm)
            fastest = speed[:, columns].max(axis=1)
            axis.plot(np.arange(1, evidence.steps), fastest, lw=1, color=PALETTE[k % len(PALETTE)], label=arm or "arm")
    for k, name in enumerate(grippers):
        opening, colour = evidence.action[:, names.index(name)], PALETTE[k % len(PALETTE)]
        axis.plot(np.arange(evidence.steps), opening, lw=1.2, ls=":", color=colour)
    unit = evidence.contract.units.get("joints", "rad")
    title = ["commands"]
    if arms:  # a legend of nothing is a warning
        axis.legend(fontsize=7, ncols=2, loc="upper right", frameon=False)
        title.append(f"fastest entry of each arm ({unit}/s)")
    title += ["grippers dotted (0 closed, 1 open)"] if grippers else []
    _title(axis, ", ".join(title), "")


def _cells(axis: Any, evidence: Evidence, found: Diagnosis) -> None:
    assert evidence.training is not None
    for k, (camera, statistics) in enumerate(evidence.camera_statistics.items()):
        if f"{IMAGES}{camera}" in evidence.training:
            outside = cells_beyond(statistics.described, evidence.training[f"{IMAGES}{camera}"], Limits().cell)
            axis.plot(
                statistics.steps, 100 * outside.mean(axis=1), lw=1.4, color=PALETTE[k % len(PALETTE)], label=camera
            )
    axis.axhline(100 * Limits().cells[0], color="0.2", lw=1, ls="--")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=7, loc="upper right", frameon=False)
    _title(axis, "share of the image that is unlike anything in training", "%")


def _camera(figure: Any, evidence: Evidence, cameras: list[str]) -> None:
    """The worst camera's worst image with its odd cells framed, it and training's mean in small."""
    if not cameras or evidence.training is None:
        camera = next(iter(evidence.camera_statistics))
        _image(figure.subplots(3, 1)[0], evidence, camera, 0, f"{camera} at step 0")
        for axis in figure.axes[1:]:
            axis.set_visible(False)
        return
    outside = {
        camera: cells_beyond(
            evidence.camera_statistics[camera].described, evidence.training[f"{IMAGES}{camera}"], Limits().cell
        )
        for camera in cameras
    }
    camera = max(cameras, key=lambda name: float(outside[name].mean()))
    statistics, odd = evidence.camera_statistics[camera], outside[camera]
    worst = int(odd.mean(axis=1).argmax())
    top, middle, bottom = figure.subplots(3, 1)
    height, width = _image(
        top, evidence, camera, int(statistics.steps[worst]), f"{camera} at step {statistics.steps[worst]}"
    )
    for cell in np.flatnonzero(odd[worst]):
        row, column = divmod(int(cell), GRID)
        x, y = np.array([0, 1, 1, 0, 0]) * width / GRID, np.array([0, 0, 1, 1, 0]) * height / GRID
        top.plot(x + column * width / GRID - 0.5, y + row * height / GRID - 0.5, color=ERROR, lw=1)
    small = {
        middle: (statistics.described[worst], "the same in small: mean colours of 8x8 cells"),
        bottom: (evidence.training[f"{IMAGES}{camera}"].mean, "training on average"),
    }
    for axis, (cells, title) in small.items():
        axis.imshow(np.clip(cells.reshape(GRID, GRID, 3), 0, 1), aspect=height / width)
        axis.set_title(title, fontsize=9, loc="left", pad=2)
        axis.axis("off")


def _image(axis: Any, evidence: Evidence, camera: str, step: int, title: str) -> tuple[int, int]:
    with closing(evidence.open()) as episode:
        image = episode.image(camera, step)
    axis.imshow(image)
    axis.set_title(title, fontsize=9, loc="left", pad=2)
    axis.axis("off")
    return image.shape[0], image.shape[1]


def _title(axis: Any, title: str, unit: str) -> None:
    axis.set_title(title, fontsize=9, loc="left", pad=2)
    axis.set_ylabel(unit, fontsize=8)
    tidy(axis)
