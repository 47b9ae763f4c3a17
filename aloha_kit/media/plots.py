"""Plots of actions, observations and timing; drawn off screen, without pyplot's global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aloha_kit.core.arm_models import BASE, by_arm
from aloha_kit.core.lang import Message
from aloha_kit.media.frames import BACKGROUND, FAINT, INK

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

ACTION, STATE = "#d9622b", "#2b6cb0"
MOST_LABELS = 8  # of the lines in one subplot of a sensor
PALETTE = ("#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#b07aa1", "#edc948")


def joint_traces(
    action: Floats,
    qpos: Floats,
    names: Sequence[str],
    rate_hz: float,
    *,
    title: str = "",
    labels: tuple[str, str],
    dashed: bool = False,
    units: Mapping[str, str] | None = None,
) -> Figure:
    """One subplot an entry: action (T, A) against qpos (T or T + 1, S) over time in seconds.

    Entries are laid out by arm, one a column. Entries of the action beyond the state
    (a base's velocities) are drawn alone. `labels` names the two lines; with `dashed` the second one
    lets the first show through where both are the same. `units` are the contract's.
    """
    columns = list(by_arm(names).values())
    joint, gripper = ((units or {}).get(key, unit) for key, unit in (("joints", "rad"), ("gripper", "opening")))
    gripper = "opening" if gripper.startswith("0 closed") else gripper
    rows = max(len(column) for column in columns)
    figure = Figure(figsize=(5.5 * len(columns) + 0.5, 1.45 * rows + 0.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, len(columns), sharex=True, squeeze=False)
    for c, column in enumerate(columns):
        for r in range(rows):
            axis = axes[r][c]
            if r >= len(column):
                axis.set_visible(False)
                continue
            i = column[r]
            axis.plot(np.arange(len(action)) / rate_hz, action[:, i], color=ACTION, lw=1.3, label=labels[0])
            if i < qpos.shape[1]:
                style = (0, (3, 5)) if dashed else "-"
                axis.plot(np.arange(len(qpos)) / rate_hz, qpos[:, i], color=STATE, lw=1.3, ls=style, label=labels[1])
            axis.set_title(names[i].replace("_", " "), fontsize=9, loc="left", pad=2)
            base = names[i].startswith(BASE)
            axis.set_ylabel("m/s, rad/s" if base else gripper if "gripper" in names[i] else joint, fontsize=8)
            # A joint that stays put is drawn flat, not as magnified noise.
            low, high = axis.get_ylim()
            if high - low < 0.1:
                axis.set_ylim((low + high) / 2 - 0.05, (low + high) / 2 + 0.05)
            tidy(axis)
        axes[len(column) - 1][c].set_xlabel("time (s)", fontsize=8)
        axes[len(column) - 1][c].tick_params(labelbottom=True)
    lines, words = axes[0][0].get_legend_handles_labels()
    figure.legend(lines, words, loc="outside lower right", ncols=2, fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def sensor_traces(
    sensors: Mapping[str, Floats],
    entries: Mapping[str, Sequence[str]],
    units: Mapping[str, Sequence[str]],
    rate_hz: float,
    *,
    title: str = "",
) -> Figure:
    """One subplot a sensor and unit: {sensor: (rows, D)} over time in seconds, with the names and units of entries."""
    panels = [
        (name, unit, [i for i, each in enumerate(units[name]) if each == unit])
        for name in sensors
        for unit in dict.fromkeys(units[name])
    ]
    figure = Figure(figsize=(11, 1.8 * len(panels) + 0.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, unit, columns) in zip(axes, panels, strict=True):
        for k, i in enumerate(columns):
            label = entries[name][i] if len(columns) <= MOST_LABELS else None
            time_s = np.arange(len(sensors[name])) / rate_hz
            axis.plot(time_s, sensors[name][:, i], lw=1, color=PALETTE[k % len(PALETTE)], label=label)
        axis.set_title(name, fontsize=9, loc="left", pad=2)
        axis.set_ylabel(unit, fontsize=8)
        tidy(axis)
        if len(columns) <= MOST_LABELS:
            axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes[-1].set_xlabel("time (s)", fontsize=8)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def timing(stamps: Mapping[str, npt.NDArray[np.int64]], rate_hz: float, *, title: str = "") -> Figure:
    """Three subplots from stamps in ns: intervals of each stream, skew of each stream against the
    deadline of its step, and how long after the deadline each command was sent; all in ms.

    Raises:
        ValueError: there are no stamps (an episode of another tool).
    """
    if "deadline" not in stamps:
        raise ValueError(
            Message(
                "timing needs the deadlines' stamps; there are: {stamps}", stamps=", ".join(stamps) or Message("(none)")
            )
        )
    deadline = np.asarray(stamps["deadline"])
    time_s = (deadline - deadline[0]) / 1e9
    streams = [name for name in stamps if name not in {"deadline", "command"}]
    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    interval, skew, late = figure.subplots(3, 1, sharex=True)
    interval.axhline(1000 / rate_hz, color="0.6", lw=1, ls="--", label=f"period {1000 / rate_hz:g} ms")
    for k, name in enumerate(["deadline", *streams]):
        colour = "0.25" if name == "deadline" else PALETTE[(k - 1) % len(PALETTE)]
        interval.plot(time_s[1:], np.diff(stamps[name]) / 1e6, lw=1, color=colour, label=name)
        if name != "deadline":
            skew.plot(time_s, (np.asarray(stamps[name]) - deadline) / 1e6, lw=1, color=colour, label=name)
    if "command" in stamps:
        command = np.asarray(stamps["command"])
        late.plot(time_s[: len(command)], (command - deadline[: len(command)]) / 1e6, lw=1, color=ACTION)
    for axis, name in ((interval, "interval"), (skew, "skew to deadline"), (late, "deadline to command")):
        axis.set_title(name, fontsize=9, loc="left", pad=2)
        axis.set_ylabel("ms", fontsize=8)
        tidy(axis)
        low, high = axis.get_ylim()
        if high - low < 2:
            axis.set_ylim((low + high) / 2 - 1, (low + high) / 2 + 1)
    interval.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    late.set_xlabel("time (s)", fontsize=8)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


class Strip:
    """A plot panel for a video: drawn once, then only a cursor moves.

    Args:
        action, qpos: (T, A) and (T or T + 1, S); qpos is drawn solid, the action dotted.
        names: of the action's entries; one panel an arm.
        size: (height, width) in pixels. Panels are stacked when the strip is taller than wide.
    """

    def __init__(
        self, action: Floats, qpos: Floats, names: Sequence[str], rate_hz: float, size: tuple[int, int]
    ) -> None:
        height, width = size
        groups = by_arm(names)
        stacked = height > 0.6 * width
        figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
        figure.set_facecolor(_hex(BACKGROUND))
        canvas = FigureCanvasAgg(figure)
        grid = (len(groups), 1) if stacked else (1, len(groups))
        axes = list(np.ravel(figure.subplots(*grid, squeeze=False)))
        for axis, (name, members) in zip(axes, groups.items(), strict=True):
            for k, i in enumerate(members):
                colour, what = PALETTE[k % len(PALETTE)], names[i].removeprefix(f"{name}_").replace("_", " ")
                if i < qpos.shape[1]:
                    axis.plot(np.arange(len(qpos)) / rate_hz, qpos[:, i], color=colour, lw=1.2, label=what)
                axis.plot(
                    np.arange(len(action)) / rate_hz,
                    action[:, i],
                    color=colour,
                    lw=1.2,
                    ls=(0, (1, 1.5)) if i < qpos.shape[1] else "-",
                    label=None if i < qpos.shape[1] else what,
                )
            axis.set_title(
                f"{name or 'joints'}: state solid, action dotted", fontsize=8, loc="left", pad=3, color=_hex(INK)
            )
            axis.set_facecolor(_hex((32, 35, 42)))
            axis.set_xlim(0, max(len(qpos) - 1, 1) / rate_hz)
            axis.tick_params(colors=_hex(FAINT), labelsize=7)
            axis.grid(color="#3a3f4a", lw=0.5)
            for spine in axis.spines.values():
                spine.set_color("#3a3f4a")
        # One legend for all: the arms have the same joints in the same colours.
        lines, words = max((axis.get_legend_handles_labels() for axis in axes), key=lambda found: len(found[1]))
        figure.legend(
            lines,
            words,
            loc="outside lower center",
            ncols=min(len(words), max(2, width // 90)),
            fontsize=7,
            frameon=False,
            labelcolor=_hex(INK),
        )
        canvas.draw()  # type: ignore[no-untyped-call]
        self._panel = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
        self._rate = rate_hz
        self._axes = [_extent(axis, height, rate_hz) for axis in axes]

    def at(self, step: int) -> Image:
        """The panel with the cursor at observation `step`."""
        out = self._panel.copy()
        for top, bottom, zero, per_step in self._axes:
            x = min(max(round(zero + per_step * step), 0), out.shape[1] - 2)
            out[top:bottom, x : x + 2] = INK
        return out


def _extent(axis: Any, height: int, rate_hz: float) -> tuple[int, int, float, float]:
    box = axis.get_window_extent()
    zero, one = axis.transData.transform([(0, 0), (1 / rate_hz, 0)])[:, 0]
    return height - int(box.y1), height - int(box.y0), float(zero), float(one - zero)


def _hex(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def tidy(axis: Any) -> None:
    """A light grid, small figures, no frame."""
    axis.grid(alpha=0.25, lw=0.6)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.01)
