"""Policy server: inference for clients on other machines, which send observations and receive chunks.

A client is a stranger until it has sent the token: little of it is read, for a short time, and little of what it sends
is repeated. See `connections` for the limits.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import serve, Server, ServerConnection

from aloha_kit.core import ChunkSource, Contract
from aloha_kit.core.own_code import described
from aloha_kit.core.versions import PROTOCOL
from aloha_kit.remote.connections import ConnectionLimits, Connections, MeteredSocket, STRANGER_BYTES, STRANGER_S
from aloha_kit.remote.messages import MAX_TOKEN, pack, quoted, RemoteError, unpack
from aloha_kit.remote.observations import incoming, largest_observation

# The websocket library's own log repeats what strangers send.
_NO_LOG = logging.Logger("aloha_kit.remote", logging.CRITICAL + 1)
_PLAIN = "This is a policy server of aloha_kit; clients connect by websocket.\n"


@runtime_checkable
class SeededSource(Protocol):
    """A source whose random numbers the client's seeds decide."""

    def seed(self, rollout: int, inference: int) -> None: ...


@runtime_checkable
class InstructedSource(Protocol):
    """A source that reads the client's instruction, None for the server's own."""

    def instruct(self, text: str | None) -> None: ...


@dataclass(frozen=True)
class ServedPolicy:
    """A policy and its description for clients; `about` holds plain values."""

    source: ChunkSource
    contract: Contract
    chunk_size: int
    about: dict[str, Any] = field(default_factory=dict)
    n_obs_steps: int = 1
    n_action_steps: int | None = None
    ensemble_weight: float | None = None


class PolicyServer:
    """Serves one policy on `host:port` to clients that send `token`.

    Several clients may be connected; they are answered one after another. The connection is not
    encrypted: between networks, put it through a tunnel (ssh -L).

    Args:
        port: 0 takes a free one; see `port`.
        log: gets a line for each client that connects, leaves or is refused.
        limits: of the number of connections.
        ping_s: how often clients are pinged; one that has not answered for twice as long is dropped.

    Raises:
        RemoteError: an empty token or an overlong one, or an address that cannot be served on.
    """

    def __init__(
        self,
        served: ServedPolicy,
        host: str,
        port: int,
        token: str,
        *,
        log: Callable[[str], None] = lambda line: None,
        limits: ConnectionLimits | None = None,
        ping_s: float = 5.0,
    ) -> None:
        if not token:
            raise RemoteError("a server needs a token, or anybody in the network could read the cameras' images")
        if len(token.encode()) > MAX_TOKEN:
            raise RemoteError(
                "a token has at most {most} bytes, given {count}", most=MAX_TOKEN, count=len(token.encode())
            )
        self._served, self._token, self._log = served, _digest(token), log
        self._one_at_a_time = threading.Lock()
        self._connections = Connections(limits or ConnectionLimits())
        try:
            # not compressed: JPEG does not shrink, and raw images would cost more time than they save
            self._server: Server = serve(
                self._talk, host, port, max_size=STRANGER_BYTES, max_queue=2, compression=None, logger=_NO_LOG,
                open_timeout=STRANGER_S, close_timeout=1.0, ping_interval=ping_s, ping_timeout=2 * ping_s,
                process_response=_without_echo,
            )  # fmt: skip
        except OSError as error:
            raise RemoteError(
                "cannot serve on {host}:{port}: {strerror}", host=host, port=port, strerror=error.strerror or error
            ) from error
        self._speak_websocket, self._server.handler = self._server.handler, self._admit
        self.host, self.port = host, int(self._server.socket.getsockname()[1])

    def serve_forever(self) -> None:
        """Answer until `close` is called, from another thread or by an interruption of this one."""
        self._server.serve_forever()

    def close(self) -> None:
        """Stop listening; clients' connections end."""
        self._connections.end_strangers()
        self._server.shutdown()

    @contextlib.contextmanager
    def running(self) -> Iterator[PolicyServer]:
        """Answer in a thread of its own for the body."""
        thread = threading.Thread(target=self.serve_forever, name="policy server", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.close()
            thread.join()

    def _admit(self, connected: socket.socket, address: Any) -> None:
        """Serve a connection in its own thread, from its first byte to its last."""
        connection = MeteredSocket(connected, address)
        self._connections.add(connection)
        try:
            self._speak_websocket(connection, address)
        finally:
            self._connections.remove(connection)

    def _talk(self, connection: ServerConnection) -> None:
        metered = connection.socket
        assert isinstance(metered, MeteredSocket)
        with contextlib.suppress(ConnectionClosed):
            try:
                self._greet(connection, metered)
                self._log(f"{metered.address} connected")
                session = _Session()
                while True:
                    answer = self._answer(unpack(connection.recv()), session)
                    if answer is not None:
                        connection.send(pack(answer))
            except RemoteError as error:
                self._log(f"{metered.address} refused: {error}")
                connection.send(pack({"kind": "refused", "why": str(error)}))
                return
            except ConnectionClosed:
                raise
            except Exception as error:  # ours; it ends this connection and no other
                self._log(f"{metered.address}: {type(error).__name__}: {quoted(error)}")
                return
        if metered.client:
            self._log(f"{metered.address} left")

    def _greet(self, connection: ServerConnection, metered: MeteredSocket) -> None:
        try:
            hello = unpack(connection.recv(timeout=STRANGER_S))
        except TimeoutError as error:
            raise RemoteError("no hello within {timeout_s:g} s", timeout_s=STRANGER_S) from error
        protocol, token = hello.get("protocol"), hello.get("token")
        if hello["kind"] != "hello" or type(protocol) is not int or protocol != PROTOCOL:
            raise RemoteError(
                "expected a hello of protocol {protocol}, given {given}", protocol=PROTOCOL, given=_whole(protocol)
            )
        # as digests, whose comparison takes as long whatever the token and its length
        if not (isinstance(token, str) and hmac.compare_digest(_digest(token), self._token)):
            raise RemoteError("the token is not the server's")
        if not self._connections.promote(metered):
            raise RemoteError("too many clients are connected")
        served = self._served
        connection.protocol.max_message_size = largest_observation(served.contract, served.n_obs_steps)
        connection.send(
            pack({"kind": "welcome", "contract": served.contract.to_json(), "chunk_size": served.chunk_size,
                  "n_obs_steps": served.n_obs_steps, "n_action_steps": served.n_action_steps,
                  "ensemble_weight": served.ensemble_weight, "about": served.about})
        )  # fmt: skip

    def _answer(self, message: dict[str, Any], session: _Session) -> dict[str, Any] | None:
        if message["kind"] == "reset":
            session.fresh = True
            return None
        if message["kind"] not in ("instruct", "predict"):
            raise RemoteError(
                "a message of kind '{kind}'; known: reset, instruct, predict", kind=quoted(message["kind"])
            )
        number = message.get("id")
        if type(number) is not int:
            raise RemoteError("the id of an observation is a whole number, given {number}", number=_whole(number))
        if message["kind"] == "instruct":
            return self._instructed(number, message)
        try:
            served, seed = self._served, _seed(message.get("seed"))
            # every message brings its own history, so that no client's reset touches another's
            observation = incoming(
                message.get("observation"), served.contract, served.n_obs_steps, message.get("history", ())
            )
            with self._one_at_a_time:
                if session.fresh:
                    self._served.source.reset()
                    session.fresh = False
                self._instruct(message)
                if seed is not None and isinstance(self._served.source, SeededSource):
                    self._served.source.seed(*seed)
                began = time.perf_counter()
                chunk = np.asarray(self._served.source.predict_chunk(observation), np.float32)
                took = time.perf_counter() - began
        except Exception as error:  # the policy's own failure: its client gets it, others are served on
            self._log(f"the policy failed: {described(error)}")
            return {"kind": "failed", "id": number, "why": described(error)}
        return {"kind": "chunk", "id": number, "actions": chunk, "took_ms": 1000 * took}

    def _instructed(self, number: int, message: dict[str, Any]) -> dict[str, Any]:
        """Answer to an instruction before the first observation with it: whether the policy takes it. A text encoder
        is loaded here, and not while the arms wait for a chunk."""
        try:
            with self._one_at_a_time:
                self._instruct(message)
        except Exception as error:  # the policy's own refusal: its client gets it
            return {"kind": "failed", "id": number, "why": described(error)}
        return {"kind": "instructed", "id": number}

    def _instruct(self, message: dict[str, Any]) -> None:
        text = message.get("instruction")  # which older clients do not send
        if text is not None and not isinstance(text, str):
            raise RemoteError("an instruction is a text, given {type}", type=type(text).__name__)
        if isinstance(self._served.source, InstructedSource):
            self._served.source.instruct(text)


@dataclass
class _Session:
    """State of one client's session, besides its observations."""

    fresh: bool = False  # an episode begins with its next observation


def _whole(number: Any) -> str:
    return str(number) if isinstance(number, int | None) else type(number).__name__


def _seed(value: Any) -> tuple[int, int] | None:
    """The seed in a message; None of an older client."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(n) is int and 0 <= n < 1 << 63 for n in value):
        raise RemoteError("the seed of an inference is two whole numbers from 0: rollout and inference")
    return value[0], value[1]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _without_echo(connection: ServerConnection, request: Request, response: Response) -> Response | None:
    """A plain answer to clients that do not use websockets."""
    if response.status_code == http.HTTPStatus.SWITCHING_PROTOCOLS:
        return None
    return connection.respond(response.status_code, _PLAIN)
