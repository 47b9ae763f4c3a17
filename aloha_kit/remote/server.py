"""The side with the network: answers observations with chunks."""

from __future__ import annotations

import contextlib
import hmac
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve, Server, ServerConnection

from aloha_kit.core import AlohaKitError, Contract, Observation
from aloha_kit.remote.messages import incoming, MAX_BYTES, pack, PROTOCOL, RemoteError, unpack


class Source(Protocol):
    """Predicts the next K actions, as `policies.execution.ChunkSource`."""

    def reset(self) -> None: ...
    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True)
class Served:
    """A policy and what its clients are told of it; `about` holds plain values."""

    source: Source
    contract: Contract
    chunk_size: int
    about: dict[str, Any] = field(default_factory=dict)


class PolicyServer:
    """Serves one policy on `host:port` to whoever knows `token`.

    Several clients may be connected; they are answered one after another. The connection is not
    encrypted: between networks, put it through a tunnel (ssh -L).

    Args:
        port: 0 takes a free one; see `port`.
        say: told who comes and goes.

    Raises:
        RemoteError: an empty token, or an address that cannot be served on.
    """

    def __init__(
        self, served: Served, host: str, port: int, token: str, *, say: Callable[[str], None] = lambda words: None
    ) -> None:
        if not token:
            raise RemoteError("a server needs a token, or anybody in the network could see the cameras' pictures")
        self._served, self._token, self._say = served, token, say
        self._one_at_a_time = threading.Lock()
        try:
            # not compressed: JPEG does not shrink, and raw pictures would cost more time than they save
            self._server: Server = serve(
                self._talk, host, port, max_size=MAX_BYTES, compression=None, ping_interval=None
            )
        except OSError as error:
            raise RemoteError(f"cannot serve on {host}:{port}: {error.strerror or error}") from error
        self.host, self.port = host, int(self._server.socket.getsockname()[1])

    def serve_forever(self) -> None:
        """Answer until `close` is called, from another thread or by an interruption of this one."""
        self._server.serve_forever()

    def close(self) -> None:
        """Stop listening; clients see their connection end."""
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

    def _talk(self, connection: ServerConnection) -> None:
        who = "{}:{}".format(*connection.remote_address[:2])
        with contextlib.suppress(ConnectionClosed):
            try:
                self._greet(connection)
                self._say(f"{who} connected")
                while True:
                    answer = self._answer(unpack(connection.recv()))
                    if answer is not None:
                        connection.send(pack(answer))
            except RemoteError as error:
                self._say(f"{who} refused: {error}")
                connection.send(pack({"kind": "refused", "why": str(error)}))
                return
        self._say(f"{who} left")

    def _greet(self, connection: ServerConnection) -> None:
        try:
            hello = unpack(connection.recv(timeout=10.0))
        except TimeoutError as error:
            raise RemoteError("no hello within 10 s") from error
        if hello["kind"] != "hello" or hello.get("protocol") != PROTOCOL:
            raise RemoteError(f"expected a hello of protocol {PROTOCOL}, given {hello.get('protocol')!r}")
        # as bytes, because compare_digest takes no other text than ASCII
        if not hmac.compare_digest(str(hello.get("token")).encode(), self._token.encode()):
            raise RemoteError("the token is not the server's")
        served = self._served
        connection.send(
            pack({"kind": "welcome", "contract": served.contract.to_json(), "chunk_size": served.chunk_size,
                  "about": served.about})
        )  # fmt: skip

    def _answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        if message["kind"] == "reset":
            with self._one_at_a_time:
                self._served.source.reset()
            return None
        if message["kind"] != "predict":
            raise RemoteError(f"a message of kind '{message['kind']}'; known: reset, predict")
        observation = incoming(message.get("observation"))
        try:
            with self._one_at_a_time:
                began = time.perf_counter()
                chunk = np.asarray(self._served.source.predict_chunk(observation), np.float32)
                took = time.perf_counter() - began
        except Exception as error:  # the policy's own failure: its client hears it, others are served on
            name = "" if isinstance(error, AlohaKitError) else f"{type(error).__name__}: "
            self._say(f"the policy failed: {name}{error}")
            return {"kind": "failed", "id": message.get("id"), "why": f"{name}{error}"}
        return {"kind": "chunk", "id": message.get("id"), "actions": chunk, "took_ms": 1000 * took}
