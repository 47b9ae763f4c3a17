"""Live images: an observer that shows an episode in a Rerun viewer while it runs.

The viewer is fed by a process of its own (`live_view_process`). Between the loop and that process lies a fixed block of
shared memory with two slots, one step each: a step for which no slot is free is dropped, so neither a slow viewer nor a
dead one delays the loop or takes memory.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import mmap
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dm_env
import numpy as np

from aloha_kit.core import Action, ConfigError, Contract, Environment, Observation, Outcome, UsageError
from aloha_kit.core.limits import SafetyLimits

LOG = logging.getLogger(__name__)

SCREEN = "screen"
SLOTS = 2
RATE_HZ = 15.0
"""Steps a second that are shown at most."""
MESSAGE_BYTES = 1 << 16
READY_S = 20.0
"""How long a view waits for its process, before the first episode."""
CLOSE_S = 10.0
"""How long closing waits for what is under way to the viewer."""


@dataclass(frozen=True)
class ViewAddress:
    """Destination of a live view: a viewer on this screen (nothing given), one at `host:port`, or into `file`."""

    host: str = ""
    port: int = 9876
    file: Path | None = None

    @classmethod
    def parse(cls, text: str | None) -> ViewAddress | None:
        """The value of `--view`: screen, HOST:PORT, or a file whose name ends in .rrd, to which the episode's number is
        added; None where there is none.

        Raises:
            ConfigError: it is something else, or there is no screen for a viewer.
        """
        if text is None:
            return None
        if text.endswith(".rrd"):
            return cls(file=Path(text))
        if text != SCREEN:
            host, colon, port = text.rpartition(":")
            if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
                raise UsageError(
                    "--view must be {screen}, HOST:PORT of a Rerun viewer, or NAME.rrd, given '{text}'",
                    screen=SCREEN,
                    text=text,
                )
            return cls(host, int(port))
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ConfigError(
                "--view has no screen here (DISPLAY is not set): give HOST:PORT of a machine where `rerun` runs"
            )
        return cls()


@contextlib.contextmanager
def live_view(address: ViewAddress | None, env: Environment, title: str) -> Iterator[list[LiveView]]:
    """Observers that show an environment's episodes: one, or none without an address."""
    if address is None:
        yield []
        return
    with contextlib.closing(LiveView(env.contract, address, limits=env.limits, title=title)) as view:
        yield [view]
        if view.dropped:
            LOG.info("live view: %d steps shown, %d dropped", view.shown, view.dropped)


class LiveView:
    """Observer of any number of episodes; close it when the last one is over.

    Args:
        contract: names of joints and commands; cameras and the sizes of their images.
        address: where the viewer is.
        limits: drawn beside the joints.
        title: of the recordings; each episode is one.
        rate_hz: steps a second that are shown at most.

    Attributes:
        shown, dropped: steps that were handed over, and those that were due but found no free slot.
        running: False once the viewer's process has ended, which is logged once and ends nothing else.

    Raises:
        ConfigError: Rerun is not installed.
    """

    def __init__(
        self,
        contract: Contract,
        address: ViewAddress,
        *,
        limits: SafetyLimits | None = None,
        title: str = "aloha_kit",
        rate_hz: float = RATE_HZ,
    ) -> None:
        if importlib.util.find_spec("rerun") is None:
            raise ConfigError("--view needs Rerun: pip install rerun-sdk")
        self.shown = self.dropped = 0
        self.running = True
        self._sizes = {camera: height * width * 3 for camera, (height, width) in contract.cameras.items()}
        self._slot_bytes = max(sum(self._sizes.values()), 1)
        self._period = 1 / rate_hz
        self._episode, self._step, self._next = 0, 0, 0.0
        self._skew: dict[str, float] = {}
        size = SLOTS * (1 + self._slot_bytes)
        memory = os.memfd_create("aloha_kit_live_view")
        os.ftruncate(memory, size)
        self._memory = mmap.mmap(memory, size)  # one byte a slot (1: full), then the slots
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [sys.executable, "-m", "aloha_kit.media.live_view_process", str(other.fileno()), str(memory), str(size)]
        with other:
            self._process = subprocess.Popen(
                words,
                pass_fds=(other.fileno(), memory),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the loop's
            )
        os.close(memory)
        about = {
            "host": address.host,
            "port": address.port,
            "file": None if address.file is None else str(address.file),
            "title": title,
            "cameras": dict(contract.cameras),
            "states": contract.state_names,
            "actions": contract.action_names,
            "limits": None if limits is None else (limits.lower, limits.upper),
        }
        self._socket.send(pickle.dumps(about))
        self._socket.settimeout(READY_S)
        with contextlib.suppress(OSError):  # one that is late shows later steps, one that failed is reported then
            self._socket.recv(MESSAGE_BYTES)
        self._socket.setblocking(False)

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        """The first observation of the next episode."""
        self._episode, self._step, self._next = self._episode + 1, 0, 0.0
        self._skew = {}
        self._show(timestep.observation, None)

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        """A step, shown if one is due and a slot is free."""
        self._step += 1
        self._show(timestep.observation, action)

    def on_end(self, outcome: Outcome) -> None:
        """The end of an episode, with its reason."""
        self._send({"episode": self._episode, "end": outcome.reason})

    def close(self) -> None:
        """End the process; what is under way to the viewer has 10 s."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_S)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._memory.close()

    def _show(self, observation: Observation, action: Action | None) -> None:
        if not self.running:
            return
        stamps = observation.get("stamps", {})
        deadline = stamps.get("deadline")
        if deadline is not None:
            for name, stamp in stamps.items():
                skew = (stamp - deadline) / 1e6
                if abs(skew) >= abs(self._skew.get(name, 0.0)):  # the worst since what was shown last
                    self._skew[name] = skew
        now = time.monotonic()
        if now < self._next:
            return
        slot = self._memory.find(b"\0", 0, SLOTS)
        if slot < 0:
            self.dropped += 1
            return
        self._skew.pop("deadline", None)
        message = {
            "episode": self._episode,
            "step": self._step,
            "deadline": deadline,
            "slot": slot,
            "images": self._copied(observation, SLOTS + slot * self._slot_bytes),
            "action": None if action is None else np.asarray(action),
            "skew": self._skew,
            "qpos": observation.get("qpos"),
        }
        self._memory[slot] = 1
        if not self._send(message):
            self._memory[slot] = 0
            self.dropped += 1
            return
        self.shown += 1
        self._skew = {}
        self._next = now + self._period

    def _copied(self, observation: Observation, at: int) -> dict[str, tuple[int, int, tuple[int, ...] | None]]:
        """Copy the images into a slot that begins at byte `at`: {camera: (place, bytes, shape; None for a JPEG)}."""
        copied: dict[str, tuple[int, int, tuple[int, ...] | None]] = {}
        encoded = observation.get("images_jpeg", {})
        images = observation.get("images", {})
        for camera, size in self._sizes.items():
            if camera in encoded and len(data := encoded[camera]) <= size:
                self._memory[at : at + len(data)] = bytes(data)
                copied[camera] = (at, len(data), None)
            elif camera in images and (image := images[camera]).nbytes == size:
                np.frombuffer(self._memory, np.uint8, size, at)[:] = image.reshape(-1)
                copied[camera] = (at, size, image.shape)
            at += size
        return copied

    def _send(self, message: dict[str, Any]) -> bool:
        """Hand a message over; False where it could not be, and then it is lost."""
        if not self.running:
            return False
        try:
            self._socket.send(pickle.dumps(message))
            self._log_reports()
        except BlockingIOError:
            return False
        except OSError:
            self._ended("its process has ended")
            return False
        return True

    def _log_reports(self) -> None:
        """Log what the viewer's process reports."""
        with contextlib.suppress(BlockingIOError):
            while report := self._socket.recv(MESSAGE_BYTES):
                LOG.warning("live view: %s", report.decode())
            self._ended("its process has ended")

    def _ended(self, why: str) -> None:
        if self.running:
            self.running = False
            LOG.warning("live view: %s; the episode goes on without it", why)
