"""Mouse teleoperation of Push-T: a page in the operator's browser shows the task, and its pointer is the action."""

from __future__ import annotations

import base64
import contextlib
import importlib.resources
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dm_env
import numpy as np
import numpy.typing as npt

from aloha_kit.core import (
    Action,
    Clock,
    ConfigError,
    Observation,
    Policy,
    SafetyLimits,
    StreamError,
    WallClock,
)
from aloha_kit.core.jpeg import encode_jpeg
from aloha_kit.core.lang import Message, tr
from aloha_kit.core.pusht import SIZE
from aloha_kit.loop import Latch, SafetyGuard
from aloha_kit.pusht.outline import RADIUS
from aloha_kit.pusht.pusht_env import PushT

LOG = logging.getLogger(__name__)

IMAGE_PX = 384
"""Height and width of the image that the operator is shown."""
SILENT_S = 3.0
"""Silence of the page that ends an episode; browsers run a page in the background once a second."""
_LARGEST = 10_000  # bytes of a message
_POLL_NS = 20_000_000


@dataclass(frozen=True)
class PageStatus:
    """Rate (Hz) and age (s) of the messages from the operator's page, and the problem; empty where there is none."""

    problem: str
    rate_hz: float
    age_s: float


@dataclass(frozen=True)
class PageAddress:
    """Address of the operator's page: `options` of a rig."""

    host: str = "127.0.0.1"  # this machine alone; 0.0.0.0 for others too, without a password
    port: int = 8010  # 0 takes a free one


class BrowserPage:
    """A page for one operator: the image and the session's state out, the pointer and commands in.

    It is a channel of the operator's commands (`loop.capabilities.OperatorChannel`).

    Args:
        address: where it is served.

    Attributes:
        url: of the page.
        pointer: (2,) px in the plane, where the pointer was last; None before it was over the image.

    Raises:
        ConfigError: the address cannot be served.
    """

    def __init__(self, address: PageAddress) -> None:
        self.pointer: npt.NDArray[np.float32] | None = None
        self._lock = threading.Lock()
        self._known: tuple[str, ...] = ()
        self._commands: list[str] = []
        self._state, self._message = "starting", ""
        self._image, self._frame = b"", 0
        self._heard_s = float("-inf")
        try:
            self._server = ThreadingHTTPServer((address.host, address.port), _handler(self))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                "the page cannot be served at {host}:{port}: {error}", host=address.host, port=address.port, error=error
            ) from error
        self._server.daemon_threads = True
        self.url = f"http://{address.host}:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, name="page", daemon=True).start()

    def allow(self, commands: Sequence[str]) -> None:
        """Take these commands from now on; none at first."""
        self._known = tuple(commands)

    def poll(self) -> Sequence[str]:
        """Commands since the last call, oldest first."""
        with self._lock:
            commands, self._commands = self._commands, []
        return commands

    def status(self, state: str, message: str) -> None:
        """Show the state that the session is in."""
        self._state, self._message = state, message

    def show(self, image: npt.NDArray[np.uint8]) -> None:
        """Show an image (H, W, 3) RGB."""
        self._image, self._frame = encode_jpeg(image, 90).tobytes(), self._frame + 1

    def close(self) -> None:
        """Take no more commands."""
        self.allow(())

    def stop(self) -> None:
        """Stop serving the page."""
        self._server.shutdown()
        self._server.server_close()

    def age_s(self) -> float:
        """Seconds since the page's last message; infinite before the first."""
        return time.monotonic() - self._heard_s

    def exchange(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Take a message {pointer, commands, frame}; returns the answer.

        Raises:
            ValueError, TypeError: a pointer that is no two numbers, or commands that are no list.
        """
        pointer, commands = message.get("pointer"), list(message.get("commands", ()))
        if pointer is not None:
            x, y = map(float, pointer)
            if not np.isfinite((x, y)).all():
                raise ValueError(Message("pointer must be finite, given {pointer}", pointer=pointer))
            self.pointer = np.clip(np.array((x, y), np.float32), 0, SIZE)
        with self._lock:
            self._commands += map(str, commands) if self._known else ()
        self._heard_s = time.monotonic()
        answer: dict[str, Any] = {"state": self._state, "message": self._message, "commands": self._known}
        if message.get("frame") != self._frame and self._image:
            answer |= {"frame": self._frame, "image": base64.b64encode(self._image).decode()}
        return answer


class PointerPolicy(Policy):
    """Operator's pointer as the agent's target; the agent stays where it is before there is one."""

    def __init__(self, page: BrowserPage) -> None:
        self._page = page

    def reset(self) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Observation) -> Action:
        """Action (2,) px.

        Raises:
            StreamError: the page is silent.
        """
        if self._page.age_s() > SILENT_S:
            raise StreamError("the operator's page is silent: open {url}", url=self._page.url)
        return observation["qpos"] if self._page.pointer is None else self._page.pointer


class MousePushT(PushT):
    """Push-T in real time, teleoperated from a browser: what recording needs of a `TeleoperatedRobot`.

    An episode begins when the pointer is moved onto the agent, or by the command `start`.

    Args:
        page: where it is served.
        start_sequence: called in `reset` with the environment.
        options: of `PushT`.

    Raises:
        ConfigError: as `PushT` and `BrowserPage`.
    """

    listens_only = False

    def __init__(
        self, scene: str, *, page: PageAddress, start_sequence: Callable[[Any], None] | None, **options: Any
    ) -> None:
        super().__init__(scene, clock=WallClock(), **options)
        self.estop = Latch()
        self._start_sequence = start_sequence
        self._page = BrowserPage(page)
        self.leaders = PointerPolicy(self._page)
        LOG.info("open %s in a browser", self._page.url)

    @property
    def clock(self) -> Clock:
        return self._clock

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "teleop": "mouse"}

    def operator(self, commands: Sequence[str], namespace: str) -> BrowserPage:
        """The page, on which the operator may give one of `commands`."""
        self._page.allow(commands)
        return self._page

    def guard(self, policy: Policy, *, limits: SafetyLimits | None = None) -> SafetyGuard:
        """Guard between `policy` and the agent."""
        return SafetyGuard(policy, limits or self.limits, estop=self.estop)

    @contextlib.contextmanager
    def guarded(self, policy: Policy, *, release: bool = False) -> Iterator[SafetyGuard]:
        """Context of the guard; there is nothing to park."""
        yield self.guard(policy)

    def run_start_sequence(
        self, *, status: Callable[[str, str], None], poll: Callable[[], str | None], countdown_s: float
    ) -> None:
        """Wait until the pointer is on the agent, or for the operator's start; raises as `poll` does."""
        where = tr("move the pointer onto the round agent to begin, at {url}", url=self._page.url)
        status("waiting", where)
        while poll() != "start" and not self._pointer_on_agent():
            self._clock.sleep_until(self._clock.now_ns() + _POLL_NS)

    def camera_images(self) -> Mapping[str, npt.NDArray[np.uint8]]:
        """{camera: (H, W, 3) RGB} of the present state."""
        return {name: self._image(*size) for name, size in self.contract.cameras.items()}

    def stream_health(self) -> Mapping[str, PageStatus]:
        """State of the page."""
        age = self._page.age_s()
        problem = Message("no browser shows {url}", url=self._page.url) if age > SILENT_S else ""
        return {"page": PageStatus(problem, 0.0 if problem else 50.0, age)}

    def torque_report(self) -> str:
        """Empty: there are no motors."""
        return ""

    def close(self) -> None:
        self._page.stop()
        super().close()

    def prepare(self) -> None:
        """Nothing to prepare."""

    def hold(self) -> None:
        """Nothing moves between steps."""

    def park(self, seconds: float | None = None) -> None:
        """Nothing to park."""

    def release(self) -> None:
        """Nothing to release."""

    def lock_leaders(self) -> None:
        """A pointer cannot be locked."""

    def require_connection(self) -> None:
        """The page may be opened at any time."""

    def _restart(self) -> dm_env.TimeStep:
        self._page.show(self._image(IMAGE_PX, IMAGE_PX))
        if self._start_sequence is not None:
            self._start_sequence(self)
        return super()._restart()

    def _observe(self, **stamps: int) -> Observation:
        observation = super()._observe(**stamps)
        self._page.show(self._image(IMAGE_PX, IMAGE_PX))
        return observation

    def _pointer_on_agent(self) -> bool:
        pointer = self._page.pointer
        if pointer is None or self._page.age_s() > SILENT_S:
            return False
        return bool(np.linalg.norm(pointer - np.array(self.physics.agent.position)) <= RADIUS)


def _handler(page: BrowserPage) -> type[BaseHTTPRequestHandler]:
    """Handler of the page's requests: GET / gives the page, POST /pointer exchanges messages in JSON."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # one connection for all messages

        def do_GET(self) -> None:
            if self.path != "/":
                self.send_error(404)
                return
            self._answer("text/html; charset=utf-8", importlib.resources.read_binary(__package__, "mouse.html"))

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            # pages of other origins cannot send this type
            if self.path != "/pointer" or self.headers.get("Content-Type") != "application/json" or size > _LARGEST:
                self.close_connection = True
                self.send_error(400)
                return
            try:
                answer = page.exchange(json.loads(self.rfile.read(size)))
            except (ValueError, TypeError, AttributeError) as error:
                self.send_error(400, explain=str(error))
                return
            self._answer("application/json", json.dumps(answer).encode())

        def _answer(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: there are fifty messages a second."""

    return Handler
