"""Memory that is freed stays at hand, counted by the pages that the system has to map."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from aloha_kit.train.allocation import keep_freed_memory

PROBE = """
import resource, sys, threading, torch
from aloha_kit.train.allocation import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    before = pages()
    for _ in range(5):
        torch.ones(30_000_000)  # 120 MB
    return pages() - before
print(min(use() for _ in range(10)))  # until everything has found its place
threading.Thread(target=use).start()  # loaders ask from threads of their own
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again() -> None:
    mapped = {}
    for how in ("keep", "give back"):
        done = subprocess.run([sys.executable, "-c", PROBE, how], capture_output=True, text=True, check=True)
        mapped[how] = int(done.stdout)
    assert mapped["give back"] > 1000
    assert mapped["keep"] < 100


def test_a_c_library_without_the_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
