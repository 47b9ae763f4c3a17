from __future__ import annotations

import threading

import pytest

from aloha_kit.core.prefetch import prefetch


def test_prefetch_keeps_order_and_stays_ahead() -> None:
    done: list[int] = []
    ahead = threading.Event()

    def square(x: int) -> int:
        done.append(x)
        if x == 2:
            ahead.set()
        return x * x

    results = prefetch(map(square, range(100)), depth=2)
    assert next(results) == 0
    assert ahead.wait(5), "the thread works without a request"
    assert [next(results) for _ in range(4)] == [1, 4, 9, 16]
    results.close()
    assert len(done) < 20, "but not further ahead than it may"


def test_prefetch_raises_what_went_wrong_and_ends_its_thread() -> None:
    def fail(x: int) -> int:
        if x == 2:
            raise RuntimeError("frame 7 is damaged")
        return x

    results = prefetch(map(fail, range(5)))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(RuntimeError, match="frame 7 is damaged"):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetch_of_nothing() -> None:
    assert list(prefetch([])) == []
