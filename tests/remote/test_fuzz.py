"""Wrong messages by the thousand: the server's memory does not grow and an honest client is answered throughout.

By itself, `python -m tests.remote.test_fuzz 100000` sends that many.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import psutil
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from aloha_kit.core import Contract
from aloha_kit.core.versions import PROTOCOL
from aloha_kit.remote import PolicyServer, RemoteError, RemotePolicy, ServedPolicy
from aloha_kit.remote.messages import Jpeg, pack, unpack

MOST_MB = 50
CONTRACT = Contract.of(("left_waist", "left_gripper"), ("left_waist", "left_gripper"), {"top": (48, 64)}, 50.0)
GOOD: dict[str, Any] = {"qpos": np.float32([0.5, 1]), "images": {"top": np.zeros((48, 64, 3), np.uint8)}}
HELLO = pack({"kind": "hello", "protocol": PROTOCOL, "token": "secret"})
ODD: tuple[Any, ...] = (
    None, True, -1, 2**63, float("nan"), "", "x" * 300, b"", bytes(300), [], [[[[]]]], {}, {"a": {"b": {}}},
    np.zeros(0), np.zeros((2, 2, 2, 2)), np.float32([np.nan, np.inf]), Jpeg(b""), Jpeg(b"\xff\xd8\xff\xd9"),
)  # fmt: skip


class StatePolicy:
    def reset(self) -> None: ...

    def predict_chunk(self, observation: Any) -> Any:
        return observation["qpos"][None]


def serve() -> None:
    """In a process of its own, whose memory is measured."""
    server = PolicyServer(ServedPolicy(StatePolicy(), CONTRACT, 1), "127.0.0.1", 0, "secret")
    print(server.port, flush=True)
    server.serve_forever()


def odd_message(rng: random.Random) -> bytes:
    """What is nearly right, of known kind, with one to three values replaced, or bytes changed, cut, or repeated."""
    observation = {**GOOD}
    message: dict[str, Any] = {"kind": "predict", "id": rng.randrange(99), "observation": observation}
    for _ in range(rng.randrange(1, 4)):
        key = rng.choice(["kind", "id", "observation", "qpos", "images", "x" * rng.randrange(40)])
        (observation if key in GOOD else message)[key] = rng.choice(ODD)
    how = rng.randrange(6)
    if how == 0:
        return rng.randbytes(rng.randrange(200))
    if how == 1:
        return bytes(msgpack.packb(rng.randrange(5)) * rng.randrange(1, 999))
    if how == 2:
        return bytes([rng.choice([0x91, 0x81, 0xDD, 0xDF, 0xC9])]) * rng.randrange(1, 20_000)
    data = bytearray(pack(message))
    if how == 3:
        for _ in range(rng.randrange(1, 9)):
            data[rng.randrange(min(len(data), 200))] = rng.randrange(256)
    return bytes(data[: rng.randrange(len(data))] if how == 4 else data)


def attack(port: int, number: int, seed: int) -> int:
    """Send `number` messages, from the first byte or after the token; returns how many."""
    rng, sent = random.Random(seed), 0
    while sent < number:
        with contextlib.suppress(OSError, WebSocketException, RemoteError), opened(port) as connection:
            known = rng.random() < 0.8
            if known:
                connection.send(HELLO)
                connection.recv(timeout=60)
            while sent < number:
                sent += 1
                connection.send(odd_message(rng))
                if unpack(connection.recv(timeout=60))["kind"] == "refused":
                    break
    return sent


def opened(port: int) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{port}", proxy=None, compression=None, ping_interval=None, close_timeout=1)


def fuzz(number: int, say: Callable[[str], None] = lambda words: None) -> None:
    """Attack from two threads beside an honest client; raises AssertionError where the server does wrong."""
    code = "from tests.remote.test_fuzz import serve; serve()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            port = int(process.stdout.readline())
            memory = psutil.Process(process.pid).memory_info
            honest = RemotePolicy(f"127.0.0.1:{port}", "secret", timeout_s=60.0)
            first = honest._connection
            attack(port, 200, seed=0)  # what is allocated once
            before, began, longest, number = memory().rss, time.monotonic(), 0.0, 0
            attackers = [threading.Thread(target=attack, args=(port, number // 2, seed)) for seed in (1, 2)]
            for each in attackers:
                each.start()
            while any(each.is_alive() for each in attackers):
                at = time.monotonic()
                chunk = honest.predict_chunk({"qpos": np.float32([number, 1]), "images": GOOD["images"], "stamps": {}})
                assert chunk.tolist() == [[number, 1]]
                longest, number = max(longest, time.monotonic() - at), number + 1
                time.sleep(0.02)
            assert honest._connection is first, "the honest client's connection was lost"
            grown = (memory().rss - before) / 2**20
            say(f"{number} messages in {time.monotonic() - began:.0f} s: memory {grown:+.1f} MB, an honest client was")
            say(f"answered {number} times, within {1000 * longest:.0f} ms at most")
            assert grown < MOST_MB
            assert psutil.Process(process.pid).num_threads() < 20
        finally:
            process.kill()


def test_wrong_messages_cost_no_memory_and_nobody_elses_answers() -> None:
    fuzz(10_000)


def test_wrong_messages_are_errors_by_name_whatever_they_are() -> None:
    rng = random.Random(3)
    for _ in range(90_000):
        data = odd_message(rng)
        try:
            message = unpack(data)
        except RemoteError as error:
            message = {"kind": str(error)}
        assert isinstance(message["kind"], str)
        assert len(message["kind"]) < 400


if __name__ == "__main__":
    fuzz(int(sys.argv[1]), print)
