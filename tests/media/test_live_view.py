"""Live images with a real Rerun receiver, one that is stopped, and one that is killed."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dm_env
import numpy as np
import pytest
import rerun_cli

from aloha_kit.core import Contract, joint_names, Observation, Outcome
from aloha_kit.core.errors import ConfigError
from aloha_kit.core.jpeg import encode_jpeg
from aloha_kit.core.limits import SafetyLimits
from aloha_kit.media.live_view import LiveView, ViewAddress
from tests.waiting import until

RERUN = Path(rerun_cli.__file__).parent / "rerun"
CONTRACT = Contract.of(joint_names(), joint_names(), {"top": (24, 32), "wrist": (24, 32)}, 50.0)
LIMITS = SafetyLimits.of(CONTRACT, -1.5, 2.5, 3.0)
PERIOD_NS = 20_000_000


@contextlib.contextmanager
def receiver(file: Path) -> Iterator[tuple[subprocess.Popen[bytes], ViewAddress]]:
    """A Rerun server that writes what it receives into a file."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [RERUN, "--save", file, "--port", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield process, ViewAddress("127.0.0.1", port)
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait()


def timestep(step: int, *, size: tuple[int, int] = (24, 32)) -> dm_env.TimeStep:
    """`top` is raw, `wrist` a JPEG; joint i is at step + i / 100; `top` is captured 3 ms late at every step."""
    due = 1_000_000_000 + step * PERIOD_NS
    image = np.full((*size, 3), step % 256, np.uint8)
    observation = Observation(
        qpos=(step + np.arange(14) / 100).astype(np.float32),
        images={"top": image, "wrist": image},
        images_jpeg={"wrist": encode_jpeg(image, 90).tobytes()},
        stamps={"deadline": due, "qpos": due, "images/top": due + 3_000_000},
    )
    return dm_env.transition(0.0, observation) if step else dm_env.restart(observation)


def episode(view: LiveView, steps: int, *, size: tuple[int, int] = (24, 32), rate_hz: float = 200.0) -> None:
    view.on_reset(timestep(0, size=size))
    for step in range(1, steps + 1):
        time.sleep(1 / rate_hz)
        view.on_step(np.full(14, step + 0.5, np.float32), timestep(step, size=size))
    view.on_end(Outcome(steps, 0.0, 0.0, "complete"))


def printed(file: Path, detail: str = "-vv") -> str:
    command = [str(RERUN), "rrd", "print", detail, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_viewer_elsewhere_gets_cameras_joints_limits_and_skew(tmp_path: Path) -> None:
    with receiver(tmp_path / "live.rrd") as (process, address):
        view = LiveView(CONTRACT, address, limits=LIMITS, title="test", rate_hz=1000)
        episode(view, 40)
        until(lambda: view._memory[:2] == b"\0\0", "both slots are free", 60.0)
        view.on_reset(timestep(0))
        until(lambda: view._memory[:2] == b"\0\0", "both slots are free", 60.0)
        view.close()
        assert view._process.returncode == 0
        time.sleep(0.5)
        process.terminate()
        process.wait()
    text = printed(tmp_path / "live.rrd")
    for entity in (
        "/cameras/top", "/cameras/wrist", "/arms/left/waist/qpos", "/arms/right/gripper/action",
        "/arms/left/waist/lower_limit", "/arms/left/waist/upper_limit", "/timing/skew_ms/images/top", "/episode",
    ):  # fmt: skip
        assert entity in text, entity
    recordings = set(re.findall(r'Recording,\s+"aloha_kit_live",\s+"([\w-]+)"', text))
    assert len(recordings) == 2, "one recording an episode"


@pytest.fixture
def rospy_timeout() -> Iterator[None]:
    """rospy sets a timeout for every socket of its process."""
    socket.setdefaulttimeout(60)
    yield
    socket.setdefaulttimeout(None)


@pytest.mark.usefixtures("rospy_timeout")
def test_a_recorded_view_holds_the_values_of_the_steps_shown(tmp_path: Path) -> None:
    view = LiveView(CONTRACT, ViewAddress.parse(str(tmp_path / "live.rrd")), limits=LIMITS, rate_hz=1000)
    view.on_reset(timestep(0))
    until(lambda: view._memory[:2] == b"\0\0", "both slots are free", 60.0)
    for step in (1, 2, 3):
        view.on_step(np.full(14, step + 0.5, np.float32), timestep(step))
        until(lambda: view._memory[:2] == b"\0\0", "both slots are free", 60.0)
    view.on_end(Outcome(3, 0.0, 0.0, "stopped by the operator"))
    assert view.shown == 4
    assert view.dropped == 0
    view.close()
    columns = values(tmp_path / "live_1.rrd")
    assert columns["/arms/left/shoulder/qpos"] == pytest.approx([0.01, 1.01, 2.01, 3.01])
    assert columns["/arms/left/waist/action"] == [1.5, 2.5, 3.5]
    assert columns["/arms/right/gripper/upper_limit"] == [2.5]
    assert columns["/timing/skew_ms/images/top"] == [3.0] * 4


def values(file: Path) -> dict[str, list[float]]:
    """{entity: its scalars} of a recording, as Rerun's own tool prints them."""
    found: dict[str, list[float]] = {}
    for chunk in printed(file, "-vvv").split("\nChunk("):
        entity = re.search(r"entity_path: (\S+)", chunk)
        rows = re.findall(r"row_.*┆ \[(-?[0-9.]+)\]", chunk)
        if entity is not None and rows:
            found.setdefault(entity[1], []).extend(map(float, rows))
    return found


def test_a_killed_viewer_does_not_end_the_episode_and_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with receiver(tmp_path / "live.rrd") as (process, address):
        view = LiveView(CONTRACT, address, rate_hz=1000)
        view.on_reset(timestep(0))
        until(lambda: view._memory[:2] == b"\0\0", "both slots are free", 60.0)
        process.kill()
        process.wait()
        began = time.monotonic()
        while not caplog.messages and time.monotonic() < began + 60:
            episode(view, 20)
        for _ in range(3):
            episode(view, 20)
        assert view.running
        view.close()
    assert [text.split(",")[0] for text in caplog.messages] == [f"live view: no viewer at 127.0.0.1:{address.port}"], (
        caplog.messages
    )


def test_a_viewer_that_stands_still_costs_steps_of_the_view_only_and_no_memory(tmp_path: Path) -> None:
    large = Contract.of(joint_names(), joint_names(), {"top": (480, 640)}, 50.0)
    with receiver(tmp_path / "live.rrd") as (process, address):
        view = LiveView(large, address, rate_hz=1000)
        view.on_reset(timestep(0, size=(480, 640)))
        until(lambda: view._memory[:2] == b"\0\0", "both slots are free", 60.0)
        process.send_signal(signal.SIGSTOP)
        episode(view, 100, size=(480, 640))
        before = resident(view._process.pid)
        for step in range(101, 301):
            image = timestep(step, size=(480, 640))
            view.on_step(np.zeros(14, np.float32), image)
            time.sleep(0.002)
        assert view.dropped > 100
        assert resident(view._process.pid) - before < 30e6
        process.send_signal(signal.SIGCONT)
        view.close()


def resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_loop_goes_on_when_the_process_of_the_view_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    view = LiveView(CONTRACT, ViewAddress(file=tmp_path / "live.rrd"), rate_hz=1000)
    view._process.kill()
    view._process.wait()
    with caplog.at_level(logging.WARNING):
        episode(view, 10)
    assert caplog.messages == ["live view: its process has ended; the episode goes on without it"]
    assert not view.running
    view.close()


def test_wrong_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for text in ("", "robot", "robot:", ":9876", "robot:99999", "robot:x"):
        with pytest.raises(ConfigError, match=f"HOST:PORT of a Rerun viewer, or NAME.rrd, given '{text}'"):
            ViewAddress.parse(text)
    with pytest.raises(ConfigError, match="DISPLAY is not set"):
        ViewAddress.parse("screen")
    monkeypatch.setenv("DISPLAY", ":0")
    assert ViewAddress.parse("screen") == ViewAddress()
    assert ViewAddress.parse("robot:9000") == ViewAddress("robot", 9000)
