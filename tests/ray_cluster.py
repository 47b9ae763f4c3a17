"""A local Ray cluster of two cores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.stores_server import free_port


@contextmanager
def two_cores() -> Iterator[str]:
    """Address of a cluster in processes of its own; skips the test where Ray is not installed."""
    pytest.importorskip("ray", reason="Ray is not installed, or has no build for this Python")
    program, port = Path(sys.executable).with_name("ray"), free_port()
    command = [str(program), "start", "--head", "--block", "--num-cpus=2", f"--port={port}", "--disable-usage-stats"]
    command += ["--include-dashboard=false", "--object-store-memory=80000000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # the cluster is on the loopback
        head = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert head.stdout is not None
        printed: list[str] = []
        try:
            for line in head.stdout:
                printed.append(line)
                if "Ray runtime started" in line:
                    break
            assert head.poll() is None, "".join(printed)
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(timeout=60)
