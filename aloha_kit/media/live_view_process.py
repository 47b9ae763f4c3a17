"""Process of a live view: from a `LiveView` to a Rerun viewer.

    python -m aloha_kit.media.live_view_process SOCKET MEMORY SIZE

It waits for the viewer after every step and frees the step's slot only then. So what is under way is one step, however
slow the viewer is. A viewer elsewhere that has ended is connected to again when it is back.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import socket
import sys
import time
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from aloha_kit.core.jpeg import encode_jpeg
from aloha_kit.media.rerun_layout import arm_views, camera_grid, entity_of, JPEG_QUALITY

FLUSH_S = 1.0
RETRY_S = 2.0
LIMITS_EVERY = 15  # shown steps
VIEWER_MEMORY = "1GB"


class Feed:
    """Recordings of one viewer, an episode each."""

    def __init__(self, about: Mapping[str, Any], link: socket.socket) -> None:
        self._about, self._link = about, link
        self._entities = [entity_of(name) for name in about["actions"]]
        self._states = [entity_of(name) for name in about["states"]]
        self._local = not about["host"] and about["file"] is None
        self._stream: Any = None
        self._episode, self._shown, self._first = 0, 0, 0
        self._retry, self._away = 0.0, False
        if self._local:
            rr.spawn(connect=False, memory_limit=VIEWER_MEMORY, hide_welcome_screen=True)

    def show(self, message: Mapping[str, Any], memory: mmap.mmap) -> None:
        """Send a step, or the end of an episode, and wait until the viewer has it."""
        if self._stream is None and time.monotonic() < self._retry:
            return
        if (message["episode"] != self._episode or self._stream is None) and not self._begin(message):
            return
        if "end" in message:
            self._stream.log("episode", rr.TextLog(f"end: {message['end']}"))
        else:
            self._log(message, memory)
        self._wait()

    def close(self) -> None:
        """End the last recording."""
        if self._stream is not None:
            with contextlib.suppress(Exception):
                self._stream.disconnect()

    def _begin(self, message: Mapping[str, Any]) -> bool:
        """A new recording: of the next episode, or the rest of one after the viewer was away; False without viewer."""
        if self._stream is not None:
            self._stream.disconnect()
            self._stream = None
        if self._about["host"] and (error := unreachable(self._about["host"], self._about["port"])):
            self._lost(error)
            return False
        self._episode, self._shown = message["episode"], 0
        self._first = message.get("deadline") or 0
        stream = self._stream = rr.RecordingStream("aloha_kit_live", recording_id=uuid.uuid4())
        if self._about["file"] is not None:
            root, end = os.path.splitext(self._about["file"])
            stream.save(f"{root}_{self._episode}{end}", default_blueprint=self._blueprint())
        else:
            host = self._about["host"] or "127.0.0.1"
            url = f"rerun+http://{host}:{self._about['port']}/proxy"
            stream.connect_grpc(url, default_blueprint=self._blueprint())
        stream.send_recording_name(f"{self._about['title']}, episode {self._episode}")
        return True

    def _log(self, message: Mapping[str, Any], memory: mmap.mmap) -> None:
        stream = self._stream
        deadline = message["deadline"]
        stream.set_time("step", sequence=message["step"])
        if deadline is not None:
            stream.set_time("time", duration=(deadline - self._first) / 1e9)
        for camera, (at, size, shape) in message["images"].items():
            data = memory[at : at + size]
            if shape is not None:
                data = encode_jpeg(np.frombuffer(data, np.uint8).reshape(shape), JPEG_QUALITY).tobytes()
            stream.log(f"cameras/{camera}", rr.EncodedImage(contents=data, media_type="image/jpeg"))
        for entities, key in ((self._states, "qpos"), (self._entities, "action")):
            for entity, value in zip(entities, () if message[key] is None else message[key], strict=False):
                stream.log(f"{entity}/{key}", rr.Scalars(float(value)))
        for name, skew in message["skew"].items():
            path = "timing/deadline_to_command_ms" if name == "command" else f"timing/skew_ms/{name}"
            stream.log(path, rr.Scalars(skew))
        if self._about["limits"] is not None and self._shown % LIMITS_EVERY == 0:
            for entity, lower, upper in zip(self._entities, *self._about["limits"], strict=True):
                stream.log(f"{entity}/lower_limit", rr.Scalars(float(lower)))
                stream.log(f"{entity}/upper_limit", rr.Scalars(float(upper)))
        self._shown += 1

    def _wait(self) -> None:
        """Return when the viewer has everything, or is gone.

        Raises:
            SystemExit: a viewer on this screen was closed.
        """
        while True:
            began = time.monotonic()
            try:
                self._stream.flush(timeout_sec=FLUSH_S)
                self._away = False
                return
            except Exception as error:  # its type differs between versions
                if time.monotonic() - began < FLUSH_S / 2:  # no timeout: the connection is cut
                    if self._local:
                        sys.exit()
                    self._lost(str(error))
                    return
                if self._closed():
                    sys.exit()  # the episode is over, and the viewer takes nothing

    def _lost(self, error: str) -> None:
        """Try again later; reported once until the viewer is back."""
        if not self._away:
            where = f"{self._about['host']}:{self._about['port']}"
            self._report(f"no viewer at {where}, it is tried again every {RETRY_S:g} s: {error}")
        self._stream, self._retry, self._away = None, time.monotonic() + RETRY_S, True

    def _closed(self) -> bool:
        """Whether the loop's side of the socket is closed and nothing more is in it."""
        try:
            return self._link.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    def _report(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._link.send(text.encode()[:1000], socket.MSG_DONTWAIT)

    def _blueprint(self) -> Any:
        timing = rrb.TimeSeriesView(origin="timing", name="skew to the deadline, lateness (ms)")
        plots = rrb.Vertical(*arm_views(self._about["actions"]), timing)
        return rrb.Blueprint(rrb.Horizontal(camera_grid(self._about["cameras"]), plots), collapse_panels=True)


def unreachable(host: str, port: int) -> str:
    """Reason that nothing answers at an address; empty where something does. Rerun itself waits 5 s for a viewer."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return ""
    except OSError as error:
        return str(error)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)  # the loop comes first
    number, memory_file, size = map(int, sys.argv[1:])
    with socket.socket(fileno=number) as link, mmap.mmap(memory_file, size) as memory:
        link.setblocking(True)  # rospy's default timeout makes every new socket non-blocking
        feed: Feed | None = None
        while data := link.recv(1 << 16):
            message = pickle.loads(data)
            if feed is None:
                feed = Feed(message, link)
                link.send(b"ready")
                continue
            try:
                feed.show(message, memory)
            finally:
                if "slot" in message:
                    memory[message["slot"]] = 0
        if feed is not None:
            feed.close()


if __name__ == "__main__":
    main()
