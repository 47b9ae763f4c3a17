"""What a server reads, remembers and repeats of whoever connects, over real sockets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from aloha_kit.core import Contract
from aloha_kit.core.versions import PROTOCOL
from aloha_kit.remote import PolicyServer, RemoteError, RemotePolicy, ServedPolicy
from aloha_kit.remote.connections import ConnectionLimits
from aloha_kit.remote.messages import pack, unpack
from aloha_kit.remote.observations import largest_observation
from tests.waiting import until

CONTRACT = Contract.of(("left_waist", "left_gripper"), ("left_waist", "left_gripper"), {"top": (4, 6)}, 50.0)
TOKEN = "secret"
HELLO = {"kind": "hello", "protocol": PROTOCOL, "token": TOKEN}
GOOD: Any = {"qpos": np.float32([0.5, 1]), "images": {"top": np.zeros((4, 6, 3), np.uint8)}, "stamps": {}}
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Hold:
    """Answers with the pose that it is shown; fails on request."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1
        if self.failure:
            raise self.failure

    def predict_chunk(self, observation: Any) -> Any:
        if self.failure:
            raise self.failure
        return observation["qpos"][None]


@contextlib.contextmanager
def serving(printed: list[str] | None = None, source: Any = None, **options: Any) -> Iterator[PolicyServer]:
    log = (printed if printed is not None else []).append
    with PolicyServer(
        ServedPolicy(source or Hold(), CONTRACT, 1), "127.0.0.1", 0, TOKEN, log=log, **options
    ).running() as server:
        yield server


def honest(server: PolicyServer) -> RemotePolicy:
    return RemotePolicy(f"127.0.0.1:{server.port}", TOKEN, timeout_s=60.0)


def answers(policy: RemotePolicy) -> bool:
    return bool((policy.predict_chunk(GOOD) == GOOD["qpos"]).all())


def opened(server: PolicyServer) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}", proxy=None, compression=None, max_size=None)


def admitted(server: PolicyServer) -> ClientConnection:
    connection = opened(server)
    connection.send(pack(HELLO))
    assert unpack(connection.recv(timeout=60))["kind"] == "welcome"
    return connection


def raw(server: PolicyServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def masked(message: bytes) -> bytes:
    """A client's frame, by a mask that changes nothing."""
    short = len(message) < 126
    size = bytes([0x80 | len(message)]) if short else b"\xfe" + len(message).to_bytes(2, "big")
    return b"\x82" + size + bytes(4) + message


def arrived(server: PolicyServer) -> socket.socket:
    """A stranger that the server knows, so that strangers are in order: a thread of its own adds each."""
    connection = raw(server)
    port = connection.getsockname()[1]
    until(lambda: port in [each.port for each in list(server._connections._there)], "the server knows it", 60.0)
    return connection


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side ends."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000,
        b"GET /" + b"z" * 5000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        UPGRADE + b"\x82\xfe\x20\x00" + bytes(4) + bytes(8192),  # a message of 8192 bytes
        UPGRADE + b"\x82\xff" + (1 << 40).to_bytes(8, "big") + bytes(4) + bytes(10_000),  # by its header a terabyte
        UPGRADE + b"\x02\xfe\x0f\x00" + bytes(4 + 0xF00) + b"\x00\xfe\x0f\x00" + bytes(4 + 0xF00),  # in two pieces
        UPGRADE + b"\x89\xfd" * 9000,  # pings
    ],
)
def test_before_the_token_nothing_large_is_read(sent: bytes) -> None:
    with serving() as server, raw(server) as stranger:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stranger.sendall(sent)
        assert len(everything(stranger)) < 4096  # and the connection is over
        assert answers(honest(server))


def test_a_hello_of_four_kilobytes_is_no_hello() -> None:
    with serving() as server:
        with opened(server) as stranger:
            stranger.send(pack({**HELLO, "more": "x" * 5000}))
            with pytest.raises(ConnectionClosed):
                stranger.recv(timeout=60)
        with pytest.raises(RemoteError, match="a token has at most 1024 bytes, given 1025"):
            PolicyServer(ServedPolicy(Hold(), CONTRACT, 1), "127.0.0.1", 0, "x" * 1025)
        with pytest.raises(RemoteError, match="a token has at most 1024 bytes, given 1026"):
            RemotePolicy(f"127.0.0.1:{server.port}", "é" * 513)


EVIL = "\x1b[31m" + "E" * 1500 + "\n"


@pytest.mark.parametrize(
    "hello",
    [
        pack({"kind": EVIL}),
        pack({"kind": "hello", "protocol": EVIL}),
        pack({"kind": "hello", "protocol": {EVIL: EVIL}}),
        pack({"kind": "hello", "protocol": np.zeros(2)}),
        pack({"kind": "hello", "protocol": PROTOCOL, "token": EVIL}),
        pack({"kind": "hello", "protocol": PROTOCOL, "token": [TOKEN]}),
        pack({"kind": "hello", "protocol": PROTOCOL, "token": np.zeros(2)}),
        msgpack.packb({"kind": "x", "a": msgpack.ExtType(1, msgpack.packb([EVIL, [1], b""]))}),
        msgpack.packb({"kind": "x", "a": msgpack.ExtType(1, msgpack.packb(["<f4", [-1] * 4, b""]))}),
        msgpack.packb(EVIL),
        EVIL.encode(),
        b"\xa4\xff\xff\xff\xff",
        b"",
    ],
)
def test_little_of_a_strangers_words_is_repeated(hello: bytes, capfd: Any) -> None:
    printed: list[str] = []
    with serving(printed) as server, opened(server) as stranger:
        stranger.send(hello)
        refused = unpack(stranger.recv(timeout=60))
        assert refused["kind"] == "refused"
        until(lambda: printed, "the server", 60.0)
    assert len(printed) == 1
    for words in (refused["why"], printed[0]):
        assert words.isprintable()
        assert words.count("E") <= 101
        assert len(words) < 250
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "path", [b"E" * 3000, b"/" + b"E" * 3000 + b" HTTP/1.1", b"/ HTTP/1.1\r\nUpgrade: " + b"E" * 500]
)
def test_whoever_is_no_websocket_client_gets_no_echo(path: bytes, capfd: Any) -> None:
    printed: list[str] = []
    with serving(printed) as server, raw(server) as stranger:
        stranger.sendall(b"GET " + path + b"\r\n\r\n")
        assert b"EEEE" not in everything(stranger)
    assert printed == []
    assert capfd.readouterr() == ("", "")


def test_strangers_that_wait_do_not_keep_a_client_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aloha_kit.remote.server.STRANGER_S", 600.0)  # 5 s pass on a busy machine
    limits = ConnectionLimits(strangers=6, strangers_per_address=4)
    with serving(limits=limits) as server, contextlib.ExitStack() as stack:
        policy = honest(server)
        waiting = [stack.enter_context(contextlib.closing(arrived(server))) for _ in range(20)]
        assert answers(honest(server))
        for early in waiting[:16]:
            assert everything(early) == b""  # over, so that no more than four wait
        waiting[-1].settimeout(0.05)
        with pytest.raises(TimeoutError):
            waiting[-1].recv(1)
        assert answers(policy)


def test_a_stranger_that_sends_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aloha_kit.remote.server.STRANGER_S", 0.2)
    printed: list[str] = []
    with serving(printed) as server, raw(server) as silent, raw(server) as slow:
        slow.sendall(UPGRADE[:20])
        assert everything(silent) == everything(slow) == b""
        with opened(server) as greeting:
            assert unpack(greeting.recv(timeout=60))["why"] == "no hello within 0.2 s"
        with opened(server) as half:
            half.socket.sendall(b"\x82\xfe\x01\x00")
            assert unpack(half.recv(timeout=60))["why"] == "no hello within 0.2 s"


def test_more_clients_than_there_may_be_are_refused() -> None:
    with serving(limits=ConnectionLimits(clients=9, clients_per_address=2)) as server:
        first, second = honest(server), honest(server)
        with pytest.raises(RemoteError, match=r"refused: too many clients are connected"):
            honest(server)
        first.close()
        until(
            lambda: len([1 for each in list(server._connections._there) if each.client]) == 1,
            "the server gets there",
            60.0,
        )
        assert answers(honest(server))
        assert answers(second)


def test_a_client_that_does_not_answer_pings_is_dropped() -> None:
    printed: list[str] = []
    with serving(printed, ping_s=0.1) as server, raw(server) as silent:
        policy = honest(server)
        silent.sendall(UPGRADE)
        silent.sendall(masked(pack(HELLO)))
        assert b"welcome" in everything(silent)
        until(lambda: any("left" in words for words in printed), "the server", 60.0)
        assert answers(policy)  # pinged too, and there
        assert len(printed) == 3


def test_a_client_that_does_not_read_its_answers_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Long(Hold):
        def predict_chunk(self, observation: Any) -> Any:
            return np.tile(observation["qpos"], (10_000, 1))  # 80 kB, so that buffers are full soon

    monkeypatch.setattr("aloha_kit.remote.connections._SEND_S", 0.3)
    served = ServedPolicy(Long(), CONTRACT, 10_000)
    with PolicyServer(served, "127.0.0.1", 0, TOKEN).running() as server, raw(server) as deaf:
        policy = honest(server)
        deaf.sendall(UPGRADE)
        until(lambda: b"\r\n\r\n" in deaf.recv(65536, socket.MSG_PEEK), "the server", 60.0)
        deaf.sendall(masked(pack(HELLO)))
        question = masked(pack({"kind": "predict", "id": 1, "observation": {k: GOOD[k] for k in ("qpos", "images")}}))
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(100_000):
                deaf.sendall(question)
            pytest.fail("the connection goes on")
        assert answers(policy)


def test_after_the_token_a_message_is_as_large_as_an_observation_may_be() -> None:
    with serving() as server, admitted(server) as client:
        most = largest_observation(CONTRACT)
        client.send(pack({"kind": "predict", "id": 1, "observation": {"images": {}, "more": "x" * (most - 200)}}))
        assert unpack(client.recv(timeout=60))["kind"] == "failed"
        client.send(bytes(most + 1))
        with pytest.raises(ConnectionClosed, match="1009"):
            client.recv(timeout=60)
        assert answers(honest(server))


@pytest.mark.parametrize("message", [{"kind": "predict", "id": "1"}, {"kind": EVIL}, {"kind": "predict", "id": EVIL}])
def test_a_client_is_repeated_as_little(message: dict[str, Any]) -> None:
    printed: list[str] = []
    with serving(printed) as server, admitted(server) as client:
        client.send(pack(message))
        why = unpack(client.recv(timeout=60))["why"]
        until(lambda: len(printed) == 2, "the server", 60.0)
    assert all(len(words) < 250 and words.isprintable() for words in (why, printed[1]))


def test_an_observation_that_is_none_is_refused_by_name_and_the_client_stays() -> None:
    with serving() as server:
        policy, other = honest(server), honest(server)
        bad = {**GOOD, "qpos": np.float32([0, np.nan])}
        for _ in range(3):
            with pytest.raises(RemoteError, match=r"failed: qpos\[1\] \(left_gripper\) is nan"):
                policy.predict_chunk(bad)
            assert answers(other)
        assert answers(policy)
        assert policy._connection is not None


def test_a_source_that_fails_to_begin_an_episode_fails_its_client_alone() -> None:
    source = Hold()
    with serving(source=source) as server:
        policy, other = honest(server), honest(server)
        source.failure = RuntimeError("no memory")
        policy.reset()
        with pytest.raises(RemoteError, match="failed: RuntimeError: no memory"):
            policy.predict_chunk(GOOD)
        source.failure = None
        assert answers(other)
        assert source.resets == 1
        assert answers(policy)
        assert source.resets == 2
