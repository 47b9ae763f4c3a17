"""Videos that decode to what went in, captions that fit, cursors at the right place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from aloha_kit.core import joint_names
from aloha_kit.media.frames import caption, fit, INK, row, tag
from aloha_kit.media.mp4 import Mp4Writer
from aloha_kit.media.plots import joint_traces, Strip, timing


def decode(path: Path) -> Any:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, float(stream.average_rate), stream.codec_context.name, stream.codec_context.pix_fmt


def test_a_video_holds_every_frame_at_its_rate(tmp_path: Path) -> None:
    with Mp4Writer(tmp_path / "new" / "a.mp4", 50.0) as video:
        for i in range(12):
            video.add(np.full((48, 64, 3), (10 + 18 * i, 200, 30), np.uint8))
    frames, rate, codec, pixels = decode(video.path)
    assert (len(frames), video.frames, rate, codec, pixels) == (12, 12, 50.0, "h264", "yuv420p")
    for i, frame in enumerate(frames):
        assert frame.shape == (48, 64, 3)
        np.testing.assert_allclose(frame.mean((0, 1)), (10 + 18 * i, 200, 30), atol=4)
    assert [p.name for p in video.path.parent.iterdir()] == ["a.mp4"]


def test_an_odd_size_is_padded_by_a_pixel(tmp_path: Path) -> None:
    with Mp4Writer(tmp_path / "a.mp4", 30.0) as video:
        video.add(np.full((49, 63, 3), 128, np.uint8))
    frames, rate, *_ = decode(video.path)
    assert frames[0].shape == (50, 64, 3)
    assert frames[0].min() > 115  # no black border
    assert rate == 30.0


ENCODE = """
import hashlib, sys
import numpy as np
from aloha_kit.media.mp4 import Mp4Writer
rows, columns = np.mgrid[:96, :128]
frames = [np.stack([columns + 3 * i, 2 * rows + i, rows * columns // 50 + i], -1).astype(np.uint8) for i in range(30)]
noise = np.random.default_rng(0).integers(0, 40, (96, 128, 3), dtype=np.uint8)
for number in range(300):
    height, width = ((64, 96), (96, 128))[number % 2]
    with Mp4Writer(sys.argv[1], 50.0, crf=23, gop=2, threads=1) as video:
        for i, frame in enumerate(frames):
            video.add((frame // 2 + np.roll(noise, i, 1))[:height, :width])
    print(height, hashlib.sha256(video.path.read_bytes()).hexdigest())
"""


def test_the_same_images_give_the_same_file_beside_other_encoders(tmp_path: Path) -> None:
    """x264's AVX-512 code did not, in one encoding of some hundred."""
    encoders = [
        subprocess.Popen([sys.executable, "-c", ENCODE, str(tmp_path / f"{i}.mp4")], stdout=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    found = {line for encoder in encoders for line in encoder.communicate()[0].splitlines()}
    assert [encoder.returncode for encoder in encoders] == [0, 0, 0]
    assert sorted(line.split()[0] for line in found) == ["64", "96"]


def test_an_encoder_leaves_no_thread_with_a_real_time_priority(tmp_path: Path) -> None:
    """As root SVT-AV1 takes the highest one for its caller, whose later children inherit it."""
    with Mp4Writer(tmp_path / "a.mp4", 50.0, codec="av1", preset="12") as video:
        for i in range(8):
            video.add(np.full((64, 96, 3), 20 * i, np.uint8))
        threads = [int(name) for name in os.listdir("/proc/self/task")]
        assert len(threads) > 2  # the encoder's are there
        assert not {os.sched_getscheduler(thread) for thread in threads} & {os.SCHED_FIFO, os.SCHED_RR}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_failure_leaves_no_half_video(tmp_path: Path) -> None:
    def fail() -> None:
        with Mp4Writer(tmp_path / "a.mp4", 50.0) as video:
            video.add(np.zeros((32, 32, 3), np.uint8))
            raise OSError("camera gone")

    with pytest.raises(OSError, match="camera gone"):
        fail()
    with Mp4Writer(tmp_path / "empty.mp4", 50.0):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (np.zeros((32, 32), np.uint8), r"a frame is \(H, W, 3\) uint8, given \(32, 32\) uint8"),
        (np.zeros((32, 32, 3), np.float32), "given .* float32"),
        (np.zeros((32, 30, 3), np.uint8), r"frame 1 is \(32, 30, 3\), those before \(32, 32, 3\)"),
    ],
)
def test_frames_that_do_not_fit_are_refused(tmp_path: Path, frame: Any, text: str) -> None:
    with Mp4Writer(tmp_path / "a.mp4", 50.0) as video:
        video.add(np.zeros((32, 32, 3), np.uint8))
        with pytest.raises(ValueError, match=text):
            video.add(frame)


def test_images_keep_their_proportions_side_by_side() -> None:
    small, wide = np.full((60, 80, 3), 50, np.uint8), np.full((90, 160, 3), 250, np.uint8)
    out = row([small, wide], 120, gap=4)
    assert out.shape == (120, 160 + 4 + round(160 * 120 / 90), 3)
    assert np.all(out[:, :160] == 50)
    assert np.all(out[:, 164:] == 250)
    boxed = fit(wide, 100, 100)
    inside = np.argwhere(boxed[..., 0] == 250)
    assert boxed.shape == (100, 100, 3)
    assert np.ptp(inside[:, 1]) + 1 == 100
    assert abs(np.ptp(inside[:, 0]) + 1 - 56) <= 1
    assert np.array_equal(fit(small, 60), small)


def test_a_tag_marks_the_corner_and_leaves_the_original_alone() -> None:
    image = np.full((120, 160, 3), 90, np.uint8)
    tagged = tag(image, "top")
    assert np.all(image == 90)
    assert np.any(tagged[:20, :40] != 90)
    assert np.all(tagged[40:] == 90)
    assert tag(np.zeros((8, 9, 3), np.uint8), "a long name").shape == (8, 9, 3)


def test_a_caption_that_is_too_long_makes_room_for_the_result() -> None:
    alone = caption(400, "", "success", colour=(0, 255, 0))
    crowded = caption(400, "an instruction that goes on and on " * 4, "success", colour=(0, 255, 0))
    assert crowded.shape == (36, 400, 3)
    start = np.argwhere(np.any(alone[..., 1] > 100, axis=0))[0, 0]
    np.testing.assert_array_equal(crowded[:, start:], alone[:, start:])
    assert np.any(crowded[:, : start - 12, 0] > 100)


def traces() -> Any:
    time = np.linspace(0, 3, 101)[:, None]
    qpos = np.sin(time + np.arange(14)).astype(np.float32)
    return qpos[1:], qpos


@pytest.mark.parametrize("size", [(240, 1280), (480, 640)])
def test_the_cursor_moves_evenly_and_nothing_else_changes(size: tuple[int, int]) -> None:
    action, qpos = traces()
    strip = Strip(action, qpos, joint_names(), 50.0, size)
    plain = strip.at(0)
    assert plain.shape == (*size, 3)

    def columns(step: int) -> Any:
        changed = np.any(strip.at(step) != plain, axis=(0, 2))
        return np.flatnonzero(changed & np.all(strip.at(step)[size[0] // 4] == INK, axis=1))

    quarter, half, whole = (columns(step)[0] for step in (25, 50, 100))
    assert half - quarter == pytest.approx((whole - half) / 2, abs=2)


def test_plots_show_every_entry_and_draw_still_joints_flat(tmp_path: Path) -> None:
    action, qpos = traces()
    qpos = qpos.copy()
    qpos[:, 0] = 1e-6 * qpos[:, 0]
    action = np.concatenate([action, np.ones((100, 2), np.float32)], 1)
    action[:, 0] = 0
    names = (*joint_names(), "base_linear", "base_angular")
    figure = joint_traces(action, qpos, names, 50.0, title="t", labels=("action", "qpos"))
    shown = {axis.get_title("left"): axis for axis in figure.axes if axis.get_visible()}
    assert sorted(shown) == sorted(name.replace("_", " ") for name in names)
    assert [len(shown[name].lines) for name in ("left waist", "base linear")] == [2, 1]
    np.testing.assert_allclose(shown["left elbow"].lines[1].get_ydata(), qpos[:, 2])
    assert np.ptp(shown["left waist"].get_ylim()) >= 0.1
    figure.savefig(tmp_path / "a.png")
    again = joint_traces(qpos, qpos, names[:14], 50.0, labels=("executed", "recorded"), dashed=True)
    assert [line.get_linestyle() for line in again.axes[0].lines] == ["-", "--"]


def test_timing_shows_interval_skew_and_delay_in_ms() -> None:
    deadline = np.arange(5) * 20_000_000
    stamps = {"deadline": deadline, "images/top": deadline - 3_000_000, "command": deadline[:4] + 7_000_000}
    interval, skew, late = timing(stamps, 50.0).axes
    np.testing.assert_allclose(interval.lines[1].get_ydata(), 20.0)
    np.testing.assert_allclose(skew.lines[0].get_ydata(), -3.0)
    np.testing.assert_allclose(late.lines[0].get_ydata(), 7.0)
    with pytest.raises(ValueError, match="there are: qpos"):
        timing({"qpos": deadline}, 50.0)


def test_the_title_of_a_narrow_figure_covers_no_legend() -> None:
    still = np.zeros((5, 2), np.float32)
    figure = joint_traces(
        still,
        still,
        ("agent_x", "agent_y"),
        10.0,
        title="a title as wide as the figure " * 2,
        labels=("action", "qpos"),
    )
    figure.canvas.draw()
    (legend,) = figure.legends
    assert figure._suptitle is not None
    assert not figure._suptitle.get_window_extent().overlaps(legend.get_window_extent())
    assert not any(axis.get_tightbbox().overlaps(legend.get_window_extent()) for axis in figure.axes)
