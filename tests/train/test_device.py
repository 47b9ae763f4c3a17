"""The device of a training; memory that is freed and used again, counted by the pages that the system maps."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aloha_kit.train.device import choose_device, keep_freed_memory, memory_of

PROBE = """
import resource, sys, threading, torch
from aloha_kit.train.device import keep_freed_memory
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    before = pages()
    for _ in range(5):
        torch.ones(10_000_000)  # 40 MB
    return pages() - before
def least():
    return min(use() for _ in range(10))  # until everything has found its place
usual = least()
assert keep_freed_memory()
print(usual, least())
threading.Thread(target=use).start()  # loaders call it from threads of their own
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, whose allocator is set")
def test_freed_memory_is_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 1000
    assert kept < 100


def test_a_c_library_without_the_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False


ARITHMETIC = """
import sys, torch
from aloha_kit.train.device import set_gpu_arithmetic
set_gpu_arithmetic(tf32=sys.argv[1] == "True")
cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
print(cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
"""


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_for_products_and_convolutions(tf32: bool) -> None:
    command = [sys.executable, "-c", ARITHMETIC, str(tf32)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tf32), str(tf32), "True"]


HELD = """
import sys
import numpy as np, torch
from aloha_kit.train.device import memory_of

cpu, size = torch.device("cpu"), int(sys.argv[2])
marks = [memory_of(cpu)]
block = torch.ones(size, dtype=torch.uint8)
marks.append(memory_of(cpu))
mapped = np.memmap(sys.argv[1], np.uint8, "r")
assert mapped[::4096].sum() == 0
marks.append(memory_of(cpu))
print(*marks)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux, which has /proc/self/status")
def test_memory_is_what_the_process_holds_without_mapped_files(tmp_path: Path) -> None:
    """In a process of its own: here, what other tests have freed and the allocator has kept would be taken first."""
    size = 200_000_000
    (tmp_path / "cache").write_bytes(bytes(size))
    reported = subprocess.run(
        [sys.executable, "-c", HELD, str(tmp_path / "cache"), str(size)], capture_output=True, text=True, check=True
    )
    before, held, mapped = map(float, reported.stdout.split())
    assert 0.9 * size < held - before < 1.5 * size
    assert mapped - held < 0.5 * size


def test_memory_of_a_gpu_is_the_most_that_tensors_took(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {gpu: 7_000_000}.__getitem__)
    assert memory_of(gpu) == 7e6


def test_device_is_checked() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in {"cpu", "cuda"}
    with pytest.raises(Exception, match=r"device 'gpu' cannot be used"):
        choose_device("gpu")
