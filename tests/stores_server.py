"""An S3-compatible server in a process of its own, a proxy in front of it that cuts connections, and an SFTP server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.waiting import until

REASON = "no moto_server on PATH: pip install 'moto[s3,server]' into an environment of its own"


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """Port of a running server with a bucket `robots`; skips the test where there is none to start."""
    program = shutil.which("moto_server")
    if program is None:
        pytest.skip(REASON)
    port = free_port()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (folder / "moto.log").open("wb") as log:
        server = subprocess.Popen(
            [program, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log, env=env, start_new_session=True
        )
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/robots", method="PUT")

        def made() -> bool:
            with contextlib.suppress(OSError):
                return bool(urllib.request.urlopen(request, timeout=5).status == 200)
            assert server.poll() is None, (folder / "moto.log").read_text()
            return False

        until(made, "the S3 server answers", timeout=60)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def sftp_server(home: Path) -> Iterator[int]:
    """Port of a running SFTP server on 127.0.0.1 that gives all files to everybody; `home`/.ssh gets to know it."""
    asyncssh = pytest.importorskip("asyncssh")
    key, loop = asyncssh.generate_private_key("ssh-ed25519"), asyncio.new_event_loop()

    class Open(asyncssh.SSHServer):  # type: ignore[misc]  # its base is known only where asyncssh is installed
        def begin_auth(self, username: str) -> bool:
            return False

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def listen() -> Any:
        return await asyncssh.listen("127.0.0.1", 0, server_host_keys=[key], server_factory=Open, sftp_factory=True)

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result(timeout=60)
    port = int(server.get_port())
    (home / ".ssh").mkdir()
    (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=60)


class CuttingProxy:
    """Passes TCP connections on to a port; ends `cuts` of them after a random number of bytes each."""

    def __init__(self, port: int, cuts: int, *, most: int = 60_000, seed: int = 0) -> None:
        self.cut = 0
        self._target, self._cuts, self._most = port, cuts, most
        self._rng, self._lock = np.random.default_rng(seed), threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                left = [int(self._rng.integers(1, self._most))]
                theirs = socket.create_connection(("127.0.0.1", self._target))
                for source, sink in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pass_on, args=(source, sink, left), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(16_384):
                with self._lock:
                    ends = self.cut < self._cuts and left[0] < len(block)
                    left[0] -= 0 if ends else len(block)
                    self.cut += ends
                if ends:
                    sink.sendall(block[: max(0, left[0])])
                    break
                sink.sendall(block)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
