"""Summary of one episode as text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aloha_kit.core.lang import tr
from aloha_kit.replay.recording import Recording


def summary(recording: Recording) -> str:
    """Summary lines of a file: contents, outcome and timing."""
    episode, attrs = recording.episode, recording.episode.attrs
    cameras = ", ".join(
        f"{name} {size[1]}x{size[0]}"
        for name in episode.cameras
        for size in [recording.contract.cameras.get(name)]
        if size
    )
    assumed = tr(" (assumed)") if episode.assumption else ""
    lines = [
        f"{episode.where}  [{episode.layout}]",
        "  "
        + tr(
            "{actions} actions, {observations} observations, {rate_hz:g} Hz{assumed}, {seconds:.2f} s",
            actions=episode.length,
            observations=episode.frames,
            rate_hz=recording.rate_hz,
            assumed=assumed,
            seconds=episode.length / recording.rate_hz,
        ),
        "  " + tr("cameras: {cameras}", cameras=cameras or tr("(none)")),
    ]
    if recording.sensors:
        sensors = ", ".join(f"{name} ({table.shape[1]})" for name, table in recording.sensors.items())
        lines.append("  " + tr("sensors: {sensors}", sensors=sensors))
    lines += ["  " + tr("file: {note}", note=note) for note in (episode.assumption, *episode.notes) if note]
    if attrs.get("task"):
        task = f"{attrs['task']}   {attrs.get('instruction', '')}".rstrip()
        lines.append("  " + tr("task: {task}", task=task))
    if recording.verdict or attrs.get("reason"):
        reward = (
            ""
            if episode.reward is None
            else tr(", reward {last:g} at the end, {best:g} at best", last=episode.reward[-1], best=_best(recording))
        )
        lines.append(
            "  "
            + tr(
                "result: {verdict} ({reason}{reward})",
                verdict=tr(recording.verdict or "not judged"),
                reason=attrs.get("reason", "?"),
                reward=reward,
            )
        )
    if attrs.get("grade"):
        lines.append("  " + tr("grade: {grade} of 5", grade=attrs["grade"]))
    if attrs.get("note"):
        lines.append("  " + tr("note: {label}", label=attrs["note"]))
    return "\n".join([*lines, *_timing(recording)])


def _best(recording: Recording) -> float:
    return float(np.max(recording.episode.reward))  # type: ignore[arg-type]


def _timing(recording: Recording) -> list[str]:
    stamps = recording.stamps
    if "deadline" not in stamps:
        return ["  " + tr("timing: the file has no stamps (its recorder wrote none), so skew and lateness are unknown")]
    if recording.exact_timing:
        return [
            "  "
            + tr("timing: exact, a simulated clock: every interval {ms:g} ms, no skew", ms=1000 / recording.rate_hz)
        ]
    deadline = stamps["deadline"]
    intervals = np.diff(deadline) / 1e6
    lines = []
    if len(intervals):
        lines.append(
            "  "
            + tr(
                "timing: interval p50 {median:.2f} ms, longest {longest:.2f} ms",
                median=np.median(intervals),
                longest=intervals.max(),
            )
        )
    for name, values in stamps.items():
        if name not in {"deadline", "command"}:
            skew = (values - deadline) / 1e6
            repeats = int(np.count_nonzero(np.diff(values) == 0))
            lines.append(
                "    "
                + tr(
                    "{name}: skew to the deadline p50 {median:+.2f} ms, worst {worst:+.2f} ms",
                    name=name,
                    median=np.median(skew),
                    worst=_worst(skew),
                )
                + (tr(", {n} repeated", n=repeats) if repeats else "")
            )
    return lines


def _worst(values: npt.NDArray[np.float64]) -> float:
    return float(values[np.argmax(np.abs(values))])
