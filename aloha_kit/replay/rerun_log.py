"""Rerun recording of an episode: images, joints, actions, stamps and skew on one timeline."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rerun as rr
import rerun.blueprint as rrb

from aloha_kit.core.features import DEPTHS
from aloha_kit.core.files import replacing
from aloha_kit.core.jpeg import encode_jpeg
from aloha_kit.media.rerun_layout import arm_views, camera_grid, entity_of, JPEG_QUALITY
from aloha_kit.replay.recording import Recording


def save_rrd(recording: Recording, path: Path, advance: Callable[[int], object]) -> Path:
    """Write `path`; every entry lies at its own capture time on the timeline `time` (seconds from the
    first observation) and at its row on `step`. Files without stamps are laid out at their rate.
    """
    stream = rr.RecordingStream("aloha_kit", recording_id=uuid.uuid4())
    with replacing(path) as part:  # an interruption leaves nothing that looks like a recording
        stream.save(part, default_blueprint=_blueprint(recording))
        _log(stream, recording, advance)
        stream.flush()
        stream.disconnect()
    return path


def _log(stream: Any, recording: Recording, advance: Callable[[int], object]) -> None:
    stream.send_recording_name(recording.title)
    for camera in recording.cameras:
        times = _times(recording, f"images/{camera}")
        for i in range(recording.frames):
            _at(stream, i, times[i])
            stream.log(f"cameras/{camera}", _encoded_image(recording, camera, i))
            if camera == recording.cameras[0]:
                advance(1)
    for camera in recording.depth_cameras:
        times = _times(recording, f"{DEPTHS}{camera}")
        for i in range(recording.frames):
            _at(stream, i, times[i])
            stream.log(f"depth/{camera}", rr.DepthImage(recording.episode.depth(camera, i), meter=1000.0))
    state_times = _times(recording, "qpos")
    for i, name in enumerate(recording.contract.state_names):
        _curve(stream, f"{entity_of(name)}/qpos", state_times, recording.qpos[:, i])
    command_times = _times(recording, "command", rows=len(recording.action))
    for i, name in enumerate(recording.contract.action_names):
        _curve(stream, f"{entity_of(name)}/action", command_times, recording.action[:, i])
    for sensor, values in recording.sensors.items():
        times = _times(recording, f"sensors/{sensor}")
        for i, name in enumerate(recording.entries(sensor)):
            _curve(stream, f"sensors/{sensor}/{name}", times, values[:, i])
    if recording.episode.reward is not None:
        _curve(stream, "reward", state_times[1 : 1 + len(recording.action)], recording.episode.reward, first=1)
    _timing(stream, recording)
    stream.log("about", rr.TextDocument(_about(recording)), static=True)


def _timing(stream: Any, recording: Recording) -> None:
    stamps = recording.stamps
    if "deadline" not in stamps:
        return
    deadline = stamps["deadline"]
    times = _times(recording, "deadline")
    _curve(stream, "timing/interval_ms", times[1:], np.diff(deadline) / 1e6, first=1)
    for name, values in stamps.items():
        if name == "command":
            late = (values - deadline[: len(values)]) / 1e6
            _curve(stream, "timing/deadline_to_command_ms", times[: len(values)], late)
        elif name != "deadline":
            _curve(stream, f"timing/skew_ms/{name}", times, (values - deadline) / 1e6)
            _curve(stream, f"timing/stamp_s/{name}", times, (values - deadline[0]) / 1e9)


def _curve(stream: Any, entity: str, times: npt.NDArray[Any], values: npt.NDArray[Any], *, first: int = 0) -> None:
    stream.send_columns(
        entity,
        indexes=[
            rr.TimeColumn("time", duration=times),
            rr.TimeColumn("step", sequence=np.arange(first, first + len(times))),
        ],
        columns=rr.Scalars.columns(scalars=np.asarray(values, np.float64)),
    )


def _at(stream: Any, step: int, time_s: float) -> None:
    stream.set_time("time", duration=time_s)
    stream.set_time("step", sequence=step)


def _times(recording: Recording, stream: str, rows: int | None = None) -> npt.NDArray[np.float64]:
    """Seconds since the first deadline of each row of a stream."""
    rows = recording.frames if rows is None else rows
    stamps = recording.stamps.get(stream)
    if stamps is None or "deadline" not in recording.stamps:
        return np.arange(rows) / recording.rate_hz
    return np.asarray((stamps - recording.stamps["deadline"][0]) / 1e9, np.float64)[:rows]


def _encoded_image(recording: Recording, camera: str, i: int) -> Any:
    # Encoded anew even where the file holds a JPEG: Mobile ALOHA's have red and blue exchanged.
    image = recording.episode.image(camera, i)
    data = encode_jpeg(image, JPEG_QUALITY)
    return rr.EncodedImage(contents=data.tobytes(), media_type="image/jpeg")


def _blueprint(recording: Recording) -> Any:
    cameras, arms = camera_grid(recording.cameras, recording.depth_cameras), arm_views(recording.contract.action_names)
    sensors = [rrb.TimeSeriesView(origin=f"sensors/{name}", name=name) for name in recording.sensors]
    plots = rrb.Tabs(
        rrb.Vertical(*arms, name="joints"),
        rrb.Vertical(
            rrb.TimeSeriesView(origin="timing/skew_ms", name="skew to the deadline (ms)"),
            rrb.TimeSeriesView(
                contents=["timing/interval_ms", "timing/deadline_to_command_ms"], name="interval, lateness (ms)"
            ),
            name="timing",
        ),
        *([rrb.Vertical(*sensors, name="sensors")] if sensors else []),
        rrb.TimeSeriesView(origin="reward", name="reward"),
        rrb.TextDocumentView(origin="about", name="about"),
    )
    return rrb.Blueprint(rrb.Horizontal(cameras, plots), rrb.TimePanel(timeline="time"), collapse_panels=True)


def _about(recording: Recording) -> str:
    shown = ("task", "instruction", "rig", "created", "software", "success", "reason")
    attrs = recording.episode.attrs
    return "\n".join(
        [recording.title, f"{recording.rate_hz:g} Hz, {recording.frames} observations"]
        + [f"{key}: {attrs[key]}" for key in shown if key in attrs]
        + [f"{key}: {value}" for key, value in recording.describe.items()]
    )
