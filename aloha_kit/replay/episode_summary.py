"""Summary of one episode as text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
    assumed = " (assumed)" if episode.assumption else ""
    lines = [
        f"{episode.where}  [{episode.layout}]",
        f"  {episode.length} actions, {episode.frames} observations, {recording.rate_hz:g} Hz{assumed},"
        f" {episode.length / recording.rate_hz:.2f} s",
        f"  cameras: {cameras or '(none)'}",
    ]
    if recording.sensors:
        sensors = ", ".join(f"{name} ({table.shape[1]})" for name, table in recording.sensors.items())
        lines.append(f"  sensors: {sensors}")
    lines += [f"  file: {note}" for note in (episode.assumption, *episode.notes) if note]
    if attrs.get("task"):
        lines.append(f"  task: {attrs['task']}   {attrs.get('instruction', '')}".rstrip())
    if recording.verdict or attrs.get("reason"):
        reward = (
            ""
            if episode.reward is None
            else f", reward {episode.reward[-1]:g} at the end, {_best(recording):g} at best"
        )
        lines.append(f"  result: {recording.verdict or 'not judged'} ({attrs.get('reason', '?')}{reward})")
    labels = {"grade": f"{attrs['grade']} of 5" if attrs.get("grade") else "", "note": attrs.get("note", "")}
    lines += [f"  {name}: {value}" for name, value in labels.items() if value]
    return "\n".join([*lines, *_timing(recording)])


def _best(recording: Recording) -> float:
    return float(np.max(recording.episode.reward))  # type: ignore[arg-type]


def _timing(recording: Recording) -> list[str]:
    stamps = recording.stamps
    if "deadline" not in stamps:
        return ["  timing: the file has no stamps (its recorder wrote none), so skew and lateness are unknown"]
    if recording.exact_timing:
        return [f"  timing: exact, a simulated clock: every interval {1000 / recording.rate_hz:g} ms, no skew"]
    deadline = stamps["deadline"]
    intervals = np.diff(deadline) / 1e6
    lines = []
    if len(intervals):
        lines.append(f"  timing: interval p50 {np.median(intervals):.2f} ms, longest {intervals.max():.2f} ms")
    for name, values in stamps.items():
        if name not in {"deadline", "command"}:
            skew = (values - deadline) / 1e6
            repeats = int(np.count_nonzero(np.diff(values) == 0))
            lines.append(
                f"    {name}: skew to the deadline p50 {np.median(skew):+.2f} ms, worst {_worst(skew):+.2f} ms"
                + (f", {repeats} repeated" if repeats else "")
            )
    return lines


def _worst(values: npt.NDArray[np.float64]) -> float:
    return float(values[np.argmax(np.abs(values))])
