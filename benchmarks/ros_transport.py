"""Four cameras and four arms over ROS 1 into the recorder, all on this machine: raw topics against compressed ones.

    . ./setup.sh; python benchmarks/ros_transport.py --seconds 20
    . ./setup.sh; python benchmarks/ros_transport.py --seconds 20 --view /tmp/live.rrd      # the same, shown meanwhile

Processes as on a rig: a roscore, one node a camera (50 Hz, free running, images made beforehand), one for the
arms' joint states (four at 100 Hz), and the recorder: `RosEnv`, a leader-arms policy and `EpisodeWriter` in the real
loop at 50 Hz, writing to disk. Nothing is sent to the arms (`teleop: hardware`). Three ways for an image to travel:

    raw          sensor_msgs/Image; the recorder encodes JPEG
    compressed   JPEG as a camera's own encoder gives it; the recorder stores the bytes
    encoded      compressed, by the camera's node from pixels: a camera without an encoder of its own

"late" is how long after its deadline an observation was there, including the wake-up; "skew" how far an image's
stamp is from the observation's reference time. Two free-running 50 Hz clocks repeat or skip a frame now and then.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rosgraph
import rospy
from episode_write import camera_images, NAMES
from sensor_msgs.msg import CompressedImage, Image, JointState

from aloha_kit.config import ArmConfig, CameraConfig, RigConfig, TaskConfig
from aloha_kit.core import StreamError
from aloha_kit.episode import Episode, EpisodeWriter
from aloha_kit.loop import run_episode
from aloha_kit.media.live_view import live_view, ViewAddress
from aloha_kit.ros.image_messages import to_compressed, to_image
from aloha_kit.ros.ros_env import RosEnv
from aloha_kit.sync.images import encode

RATE, ARM_RATE = 50.0, 100.0
PERIOD_MS = 1e3 / RATE
ARMS = ("puppet", "master")
WAYS = ("raw", "compressed", "encoded")


def camera(name: str, way: str, height: int, width: int) -> None:
    """A camera's node: stamps, then sends."""
    rospy.init_node(f"usb_{name}", disable_signals=True, disable_rosout=True)
    frames = camera_images(height, width)
    if way == "raw":
        messages = [to_image(frame, "rgb8", 0) for frame in frames]
    else:
        messages = [to_compressed(frame, 0) for frame in frames]
    publisher = rospy.Publisher(_topic(name, way), Image if way == "raw" else CompressedImage, queue_size=5)
    due = time.monotonic() + np.random.default_rng(sum(map(ord, name))).uniform(0, 1 / RATE)
    for number in range(1 << 40):
        due += 1 / RATE
        time.sleep(max(0.0, due - time.monotonic()))
        message = messages[number % len(messages)]
        message.header.stamp = rospy.Time.now()
        if way == "encoded":
            message.data = encode(frames[number % len(frames)])
        publisher.publish(message)


def arms() -> None:
    """The joint states of two followers and two leaders."""
    rospy.init_node("arms", disable_signals=True, disable_rosout=True)
    topics = [f"/{arm}/joint_{side}" for arm in ARMS for side in ("left", "right")]
    publishers = [rospy.Publisher(topic, JointState, queue_size=5) for topic in topics]
    due = time.monotonic()
    for number in range(1 << 40):
        due += 1 / ARM_RATE
        time.sleep(max(0.0, due - time.monotonic()))
        position = (0.3 * np.sin(0.01 * number + np.arange(7))).tolist()
        for publisher in publishers:
            message = JointState(position=position, velocity=[0.0] * 7, effort=[0.0] * 7)
            message.header.stamp = rospy.Time.now()
            publisher.publish(message)


class Probe:
    """An observer that measures; it comes before the writer, so the writer's time shows in the next step."""

    def __init__(self, env: RosEnv, news: Any) -> None:
        self._env, self._news, self._process = env, news, psutil.Process()
        self.late_ms: list[float] = []
        self.skew_ms: list[float] = []
        self.missed = self._peak = 0
        self._over = threading.Event()
        self.taken_ns: dict[str, list[int]] = {f"images/{name}": [] for name in NAMES}
        match, add = env.streams.sync.match, env.streams.sync.add

        def plural(name: str, stamp_ns: int, value: Any, seq: int | None = None) -> None:
            if name in self.taken_ns:
                self.taken_ns[name].append(stamp_ns)
            add(name, stamp_ns, value, seq)

        def noted(timeout_s: float = 0.0) -> Any:
            matched = match(timeout_s)
            self.skew_ms.append(max(abs(matched.skew_ns(s)) for s in matched.samples if s.startswith("images/")) / 1e6)
            return matched

        env.streams.sync.match, env.streams.sync.add = noted, plural  # type: ignore[method-assign]

    def on_reset(self, timestep: Any) -> None:
        self._before = self._process.memory_info().rss
        self._lost = self._dropped()
        threading.Thread(target=self._watch, daemon=True).start()
        self.skew_ms.clear()
        for taken in self.taken_ns.values():
            taken.clear()
        self._news.put(("begin", None))

    def on_step(self, action: Any, timestep: Any) -> None:
        late_ns = self._env.clock.now_ns() - timestep.observation["stamps"]["deadline"]
        self.late_ms.append(late_ns / 1e6)
        # A step more than a period late moves the later deadlines, so that the rate that was reached counts as well.
        self.missed += max(late_ns, self._env.late_ns) > 1e9 / RATE

    def on_end(self, outcome: Any) -> None:
        self._over.set()
        self._news.put(("end", None))
        self.lost, self.megabytes = self._dropped() - self._lost, (self._peak - self._before) / 1e6

    def _dropped(self) -> int:
        return sum(h.dropped for name, h in self._env.streams.sync.health().items() if name.startswith("images/"))

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self._peak = max(self._peak, self._process.memory_info().rss)


def recorder(way: str, options: argparse.Namespace, folder: str, news: Any) -> None:
    """One episode through the real recording path."""
    size = {"height": options.height, "width": options.width, "rate_hz": RATE}
    rig = RigConfig(
        "bench", "ros", {name: CameraConfig(topic=_topic(name, way), **size) for name in NAMES}, teleop="hardware",
        followers={side: _arm("puppet", side) for side in ("left", "right")},
        leaders={side: _arm("master", side) for side in ("left", "right")},
    )  # fmt: skip
    steps = round(options.seconds * RATE)
    env = RosEnv(TaskConfig("bench", "", rig="bench", episode_len=steps, cameras=NAMES), rig, leaders=True)
    writer = EpisodeWriter(Path(folder), contract=env.contract, task="bench", rig="bench", sim=False)
    probe = Probe(env, news)
    viewed = ViewAddress.parse(options.view)
    assert env.leaders is not None
    ended = ""
    try:
        with live_view(viewed, env, "bench") as views:
            run_episode(env, env.leaders, [probe, writer, *views])
    except StreamError as error:  # a machine too busy to run the cameras: what was recorded is saved
        ended = ", then a StreamError"
        print(f"{way}: {error}")
    with Episode.open(writer.path) as episode:
        stamps = [episode.stamps[f"images/{name}"] for name in NAMES]
        repeated = float(np.mean([np.mean(np.diff(each) == 0) for each in stamps]))
        kept = f"{episode.length} of {steps}{ended}"
    late, gaps = np.array(probe.late_ms), [np.diff(taken) / 1e6 for taken in probe.taken_ns.values()]
    p50, p99 = np.percentile(late, (50, 99))
    news.put(
        (
            "result",
            {
                "steps recorded": kept,
                "deadlines missed by more than a period": f"{probe.missed}",
                "late ms, p50 / p99 / worst": f"{p50:.1f} / {p99:.1f} / {late.max():.1f}",
                f"skew ms, p50 / p99 / worst (bound {PERIOD_MS / 2:g})": "{:.1f} / {:.1f} / {:.1f}".format(
                    *np.percentile(probe.skew_ms, (50, 99, 100))
                ),
                "longest gap between a camera's stamps, ms": f"{max(gap.max() for gap in gaps):.1f}",
                "images lost on the way": f"{probe.lost}",
                "frames repeated": f"{repeated:.1%}",
                "steps that waited for the writer": f"{writer.stalls}",
                "recorder's memory, peak over start, MB": f"{probe.megabytes:.0f}",
                "live view: steps shown, dropped": ", ".join(f"{v.shown}, {v.dropped}" for v in views) or "–",
                "file MB": f"{writer.path.stat().st_size / 1e6:.0f}",
            },
        )
    )
    env.close()


def measure(way: str, options: argparse.Namespace) -> dict[str, str]:
    """Start everything, record, end everything; shares of CPU are of one core, between first and last step."""
    context = multiprocessing.get_context("spawn")
    news: Any = context.Queue()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        groups = {
            "cameras": [
                context.Process(target=camera, args=(name, way, options.height, options.width)) for name in NAMES
            ],
            "arms": [context.Process(target=arms)],
            "recorder": [context.Process(target=recorder, args=(way, options, folder, news))],
        }
        everyone = [process for group in groups.values() for process in group]
        try:
            for process in everyone:
                process.daemon = True
                process.start()
            ours = {name: [psutil.Process(p.pid) for p in group] for name, group in groups.items()}
            begin = _until(news, "begin", groups["recorder"][0]), _cpu(ours), time.monotonic()
            end = _until(news, "end", groups["recorder"][0]), _cpu(ours), time.monotonic()
            used = {name: (end[1][name] - begin[1][name]) / (end[2] - begin[2]) for name in begin[1]}
            result: dict[str, str] = _until(news, "result", groups["recorder"][0])
        finally:
            for process in everyone:
                process.terminate()
                process.join()
    return result | {f"CPU of {name}": f"{share:.0%}" for name, share in used.items()}


def _until(news: Any, kind: str, recorder_process: Any) -> Any:
    while True:
        with contextlib.suppress(multiprocessing.queues.Empty):  # type: ignore[attr-defined]
            given, value = news.get(timeout=1.0)
            assert given == kind
            return value
        if not recorder_process.is_alive():
            raise SystemExit("the recorder ended early; its error is above")


def _cpu(ours: dict[str, list[psutil.Process]]) -> dict[str, float]:
    """Seconds of CPU used so far by each group, and by everything else on this machine."""
    used = {name: sum(sum(p.cpu_times()[:2]) for p in group) for name, group in ours.items()}
    machine = psutil.cpu_times()
    busy = machine.user + machine.system + machine.nice
    return {**used, "everything else here": busy - sum(used.values())}


def _topic(name: str, way: str) -> str:
    return f"/usb_{name}/image_raw" + ("" if way == "raw" else "/compressed")


def _arm(kind: str, side: str) -> ArmConfig:
    return ArmConfig("joint_state", f"{kind}_{side}", "vx300s", state_topic=f"/{kind}/joint_{side}", rate_hz=ARM_RATE)


@contextlib.contextmanager
def master(folder: str) -> Iterator[None]:
    """A roscore on a free port, for the processes started meanwhile."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    os.environ |= {"ROS_MASTER_URI": f"http://127.0.0.1:{port}", "ROS_IP": "127.0.0.1", "ROS_HOME": folder}
    os.environ.pop("ROS_HOSTNAME", None)
    core = subprocess.Popen(["roscore", "-p", str(port)], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while not rosgraph.is_master_online():
            time.sleep(0.1)
        yield
    finally:
        core.send_signal(signal.SIGINT)
        core.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each episode")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--folder", default=None, help="where to write (the temporary folder by default)")
    parser.add_argument("--view", help="live images too: HOST:PORT where `rerun` runs, or NAME.rrd")
    parser.add_argument("--nice", type=int, default=0, help="below 0: go before other work on the machine (as root)")
    options = parser.parse_args()
    os.nice(options.nice)  # the processes started from here inherit it
    with tempfile.TemporaryDirectory() as folder, master(folder):
        results = {way: measure(way, options) for way in options.ways}
    print(
        f"{len(NAMES)} cameras {options.height}x{options.width} at {RATE:g} Hz and 4 arms at {ARM_RATE:g} Hz, "
        f"{options.seconds:g} s at {RATE:g} Hz, {os.cpu_count()} cores, nice {os.nice(0)}; CPU in shares of one core\n"
    )
    print(f"| | {' | '.join(options.ways)} |\n|---|{'---|' * len(options.ways)}")
    for row in results[options.ways[0]]:
        print(f"| {row} | {' | '.join(results[way][row] for way in options.ways)} |")


if __name__ == "__main__":
    main()
