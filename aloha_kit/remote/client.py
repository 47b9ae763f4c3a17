"""Remote policy: the robot's client, a source of chunks that a server predicts."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from aloha_kit.core import ConfigError, Contract, ContractError, Observation
from aloha_kit.core.inputs import window
from aloha_kit.core.seeds import InferenceSeeds
from aloha_kit.core.versions import PROTOCOL
from aloha_kit.remote.messages import ConnectionLostError, MAX_TOKEN, pack, quoted, RemoteError, unpack
from aloha_kit.remote.observations import outgoing, require_finite
from aloha_kit.remote.welcome import largest_answer, RUNS_ON, Welcome, WELCOME_BYTES

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_WORDS = 1000  # characters of the server's text that are shown


def address(text: str) -> tuple[str, int]:
    """Host and port of `host:port` (`[::1]:8000` for IPv6).

    Raises:
        ConfigError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError("an address is host:port, such as 192.168.1.5:8000; given '{text}'", text=text)
    return host.strip("[]"), int(port)


class RemotePolicy:
    """A source of chunks for `control.execution` and `control.async_inference`, predicted by a `PolicyServer`.

    Connects at once, and again whenever the connection was lost, waiting longer after each failure.

    Args:
        where: `host:port`.
        token: the server's.
        timeout_s: how long one request may take, a new connection included.
        connect_timeout_s: how long the first connection may take: a server loads its network first.
        rename: cameras, {the policy's name: the rig's}; `contract` has the rig's.
        seed: of the first rollout, for a policy that samples; each reset begins the next one.
        instruction: sent with each observation to a policy that reads one; the server refuses it here and now.
        quality: of JPEGs made of images that no camera sent as JPEG, 1 to 100; None sends them raw.

    Attributes:
        contract, chunk_size, n_obs_steps, n_action_steps, ensemble_weight, about: the server's policy.
        reads_instruction: whether it reads the task's instruction.
        took_ms: milliseconds that the network took for the last chunk, measured by the server.

    Raises:
        ConfigError: not an address, or not a quality.
        RemoteError: no answer, or the server refuses, such as the instruction; gives the reason.
    """

    contract: Contract
    chunk_size: int
    n_obs_steps: int
    n_action_steps: int | None
    ensemble_weight: float | None
    reads_instruction: bool
    about: dict[str, Any]

    def __init__(
        self,
        where: str,
        token: str,
        *,
        timeout_s: float = 1.0,
        connect_timeout_s: float = 10.0,
        quality: int | None = None,
        rename: Mapping[str, str] | None = None,
        seed: int = 0,
        instruction: str | None = None,
    ) -> None:
        if quality is not None and not 1 <= quality <= 100:
            raise ConfigError("a JPEG's quality is 1 to 100, given {quality}", quality=quality)
        if len(token.encode()) > MAX_TOKEN:
            raise RemoteError(
                "a token has at most {most} bytes, given {count}", most=MAX_TOKEN, count=len(token.encode())
            )
        host, port = address(where)
        self._uri = f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"
        self.where, self._token, self._quality, self._timeout_s = where, token, quality, timeout_s
        self._open = contextlib.ExitStack()
        self._connection: ClientConnection | None = None
        self._ids = itertools.count()
        self._pause_s = _FIRST_PAUSE_S  # doubles with each failure
        self._next_try = 0.0  # monotonic seconds
        self._why = ""  # the last try failed
        self._welcome: Welcome | None = None
        self._seeds = InferenceSeeds(seed)
        self._names: dict[str, str] = dict(rename or {})
        self.took_ms = 0.0
        self._connected(time.monotonic() + connect_timeout_s)
        assert self._welcome is not None
        self.contract, self.chunk_size = self._welcome.contract.renamed(self._names), self._welcome.chunk_size
        self.n_obs_steps, self.n_action_steps = self._welcome.n_obs_steps, self._welcome.n_action_steps
        self.ensemble_weight, self.about = self._welcome.ensemble_weight, dict(self._welcome.about)
        self.reads_instruction = self._welcome.reads_instruction
        self._instruction: dict[str, str] = {}
        if instruction is not None and self.reads_instruction:
            self._instruction = {"instruction": instruction}
            request = {"kind": "instruct", "id": next(self._ids), **self._instruction}
            try:
                self._require_done(self._request(request, answered=True, timeout_s=connect_timeout_s))
            except BaseException:
                self.close()
                raise

    def reset(self) -> None:
        """Begin an episode on the server.

        Raises:
            ConnectionLostError: it did not answer in time.
        """
        self._seeds.start()
        self._request({"kind": "reset"}, answered=False)

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        """(K, A) from the server.

        Raises:
            ConnectionLostError: no answer within `timeout_s`; the next call connects anew.
            ContractError: the chunk is not of the contract's width, or a vector of the observation is not.
            RemoteError: the policy failed, the chunk is not finite, an image is not of the contract, or the server is
                another one than before.
        """
        number = next(self._ids)
        *history, present = self._outgoing(observation)
        seed = self._seeds.take()
        request: dict[str, Any] = {"kind": "predict", "id": number, "observation": present, "seed": seed}
        request |= self._instruction
        if history:
            request["history"] = history
        answer = self._request(request, answered=True)
        self._require_done(answer)
        chunk = answer.get("actions")
        if not _is_answer(answer, number) or not isinstance(chunk, np.ndarray):
            self.close()
            raise RemoteError(
                "{where} answered observation {number} with '{kind}'",
                where=self.where,
                number=number,
                kind=quoted(answer["kind"]),
            )
        names = self.contract.action_names
        if chunk.shape != (self.chunk_size, len(names)) or chunk.dtype != np.float32:
            raise ContractError(
                "{where} sent a chunk of {shape} {dtype}, its contract has ({chunk_size}, {count}) float32",
                where=self.where,
                shape=chunk.shape,
                dtype=chunk.dtype,
                chunk_size=self.chunk_size,
                count=len(names),
            )
        try:
            require_finite("action", chunk, names)
        except RemoteError as error:
            raise RemoteError(
                "{where} sent a chunk that is not finite: {error}", where=self.where, error=error
            ) from error
        took = answer.get("took_ms")
        self.took_ms = float(took) if isinstance(took, int | float) and math.isfinite(took) else 0.0
        return chunk

    def _require_done(self, answer: Mapping[str, Any]) -> None:
        if answer["kind"] == "failed":
            raise RemoteError(
                "the policy on {server} failed: {why}", server=self.where, why=quoted(answer.get("why"), _WORDS)
            )

    def close(self) -> None:
        """End the connection; the next request opens one again."""
        self._connection = None
        with contextlib.suppress(WebSocketException, OSError):
            self._open.close()

    def _outgoing(self, observation: Observation) -> list[dict[str, Any]]:
        """Observations to send, oldest first: the rig's camera names checked, the policy's sent."""
        policys = {rig: policy for policy, rig in self._names.items()}
        steps = [outgoing(step, self.contract, self._quality) for step in window(observation, self.n_obs_steps)]
        return [{**s, "images": {policys.get(name, name): i for name, i in s["images"].items()}} for s in steps]

    def _request(self, message: dict[str, Any], *, answered: bool, timeout_s: float | None = None) -> dict[str, Any]:
        """Send, and receive if there is an answer, on a new connection where the old one turns out to be dead."""
        timeout_s = timeout_s or self._timeout_s
        end = time.monotonic() + timeout_s
        data = pack(message)
        while True:
            connection = self._connected(end)
            try:
                connection.send(data)
                return self._receive(connection, end) if answered else {}
            except (ConnectionClosed, ConnectionLostError, OSError) as error:
                self.close()  # a late answer must not be taken for the next request's
                if time.monotonic() >= end or isinstance(error, TimeoutError):
                    raise ConnectionLostError(
                        "no answer from {server} within {timeout_s:g} s", server=self.where, timeout_s=timeout_s
                    ) from error

    def _connected(self, end: float) -> ClientConnection:
        while self._connection is None:
            wait = self._next_try - time.monotonic()
            time.sleep(max(0.0, min(wait, end - time.monotonic())))
            if time.monotonic() >= end and self._why:
                raise ConnectionLostError(
                    "no policy server answers at {server}: {why}", server=self.where, why=self._why
                )
            try:
                self._connection = self._greeted(end)
                self._pause_s, self._why = _FIRST_PAUSE_S, ""
            except (OSError, WebSocketException) as error:
                self.close()
                self._why = str(error) or type(error).__name__
                self._next_try = time.monotonic() + self._pause_s
                self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return self._connection

    def _greeted(self, end: float) -> ClientConnection:
        left = max(0.1, end - time.monotonic())
        connection = self._open.enter_context(
            connect(self._uri, open_timeout=left, close_timeout=0.5, ping_interval=None, max_size=WELCOME_BYTES,
                    compression=None, proxy=None)
        )  # fmt: skip
        connection.send(pack({"kind": "hello", "protocol": PROTOCOL, "token": self._token}))
        welcome = self._receive(connection, end)
        if welcome["kind"] != "welcome":
            raise RemoteError(
                "{where} greeted with '{kind}': is it a policy server?",
                where=self.where,
                kind=quoted(welcome["kind"]),
            )
        description = Welcome.read(welcome, self.where)
        if self._welcome is not None and not description.same_policy(self._welcome):
            raise RemoteError("{where} serves another policy than before the connection was lost", where=self.where)
        if self._welcome is not None and description != self._welcome:
            _LOG.warning(
                "%s runs the policy otherwise than before the connection was lost: %s",
                self.where,
                quoted(json.dumps({key: description.about.get(key) for key in RUNS_ON}), _WORDS),
            )
        self._welcome = description
        connection.protocol.max_message_size = largest_answer(description)
        return connection

    def _receive(self, connection: ClientConnection, end: float) -> dict[str, Any]:
        message = unpack(connection.recv(timeout=max(0.0, end - time.monotonic())))
        if message["kind"] == "refused":
            self.close()
            raise RemoteError("{server} refused: {why}", server=self.where, why=quoted(message.get("why"), _WORDS))
        return message


def _is_answer(message: dict[str, Any], number: int) -> bool:
    return message["kind"] == "chunk" and type(message.get("id")) is int and message["id"] == number
