"""The bounded cache: never above its limit, one fetch for all, and nothing left of a killed process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from aloha_kit.core import ConfigError
from aloha_kit.storage.shard_cache import ShardCache

ROOT = Path(__file__).parents[2]
HELD_UP = """
import sys, time
from pathlib import Path
from aloha_kit.storage.shard_cache import ShardCache

def fetch(name, part):
    part.write_bytes(b"half")
    print("fetching", flush=True)
    time.sleep(600)

ShardCache(Path(sys.argv[1]), 1000, fetch).fetch("a", 400)
"""


def content(name: str) -> bytes:
    return name.encode() * (400 // len(name))


def occupied(folder: Path) -> int:
    """Bytes of all files; an unfinished one counts as what it will have."""
    sizes = []
    for entry in os.scandir(folder):
        try:
            sizes.append(400 if entry.name.endswith(".part") else entry.stat().st_size)
        except FileNotFoundError:
            continue
    return sum(sizes)


def test_threads_that_want_everything_never_exceed_the_limit(tmp_path: Path) -> None:
    largest, lock, fetched = [0], threading.Lock(), []

    def fetch(name: str, part: Path) -> None:
        part.write_bytes(content(name)[:150])
        with lock:
            fetched.append(name)
            largest[0] = max(largest[0], occupied(tmp_path))
        part.write_bytes(content(name))

    caches = [ShardCache(tmp_path, 1700, fetch) for _ in range(2)]  # as two processes have: nothing is shared
    names = [f"{number:04d}" for number in range(12)]

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(40):
            name, cache = draw.choice(names), caches[seed % 2]
            cache.fetch(name, 400)
            held = cache.read(name, 8, 12)
            assert held in (None, content(name)[8:20])  # None: evicted by now

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert 1200 < largest[0] <= 1700
    assert occupied(tmp_path) <= 1700
    assert len(fetched) > len(names)  # some were evicted
    assert not list(tmp_path.glob("*.part"))


def test_the_one_that_was_used_last_stays(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 1000, lambda name, part: part.write_bytes(content(name)) and None)
    cache.fetch("a", 400)
    cache.fetch("b", 400)
    for name, second in (("a", 2), ("b", 1)):
        os.utime(tmp_path / name, (second, second))
    cache.fetch("c", 400)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]
    os.utime(tmp_path / "a", (1, 1))
    cache.fetch("a", 400)  # it is there: only marked as used
    os.utime(tmp_path / "c", (2, 2))
    cache.fetch("b", 400)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert cache.read("c", 0, 3) is None


def test_many_fetch_one_file_once(tmp_path: Path) -> None:
    begun, go, fetched = threading.Event(), threading.Event(), []

    def fetch(name: str, part: Path) -> None:
        fetched.append(name)
        begun.set()
        go.wait(20)
        part.write_bytes(content(name))

    caches = [ShardCache(tmp_path, 1000, fetch) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(cache.fetch, "a", 400) for cache in caches]
        assert begun.wait(20)
        assert caches[0].read("a", 0, 1) is None
        go.set()
        assert {future.result(20) for future in waiting} == {tmp_path / "a"}
    assert fetched == ["a"]
    assert (tmp_path / "a").read_bytes() == content("a")


def test_a_killed_process_leaves_neither_a_lock_nor_an_unfinished_file(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HELD_UP, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "fetching\n"
    cache = ShardCache(folder, 1000, lambda name, part: part.write_bytes(content(name)) and None)
    cache.fetch("b", 400)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(cache.fetch, "c", 400).result(20)  # 400 are reserved by the other process: b makes room
        assert sorted(path.name for path in folder.iterdir()) == ["a.400.part", "c"]
        same = pool.submit(cache.fetch, "a", 400)
        assert not wait([same], 0.3).done  # the other process has it
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert same.result(20).read_bytes() == content("a")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "c"]


def test_a_failure_leaves_nothing_and_a_file_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    def fail(name: str, part: Path) -> None:
        part.write_bytes(b"half")
        raise OSError("the cable")

    cache = ShardCache(tmp_path, 1000, fail)
    with pytest.raises(OSError, match="the cable"):
        cache.fetch("a", 400)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="--cache_gb"):
        cache.fetch("a", 1001)
