"""Work over items: in this process, in several, and on a local Ray cluster; failures and deaths name the item."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from aloha_kit.core import ConfigError
from aloha_kit.core.parallel import map_in_order, map_unordered, WorkError, Workers
from tests.ray_cluster import two_cores


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def fails(number: int) -> int:
    if number == 3:
        raise ConfigError(f"{number} cannot be used")
    return number


def dies(number: int) -> int:
    if number == 3:
        os._exit(7)
    return number


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    with two_cores() as address:
        yield address


def test_in_this_process_and_in_several() -> None:
    expected = [number * number for number in range(20)]
    one = list(map_in_order(square, range(20), Workers()))
    two = list(map_in_order(square, range(20), Workers(2)))
    assert [value for value, _ in one] == [value for value, _ in two] == expected
    assert {process for _, process in one} == {os.getpid()}
    assert len({process for _, process in two} - {os.getpid()}) == 2
    assert sorted(item for item, _ in map_unordered(square, range(3), Workers(8))) == [0, 1, 2]
    assert list(map_unordered(square, [], Workers(2))) == []


def test_failures_name_the_item() -> None:
    with pytest.raises(ConfigError, match="3 cannot be used"):
        list(map_unordered(fails, range(5), Workers()))
    with pytest.raises(WorkError, match="3 cannot be used"):
        list(map_unordered(fails, range(5), Workers(2)))
    with pytest.raises(WorkError, match=r"a process died \(exit code 7\) at item 3\. Out of memory\?"):
        list(map_unordered(dies, range(5), Workers(2)))


def test_on_ray(ray_address: str) -> None:
    found = list(map_in_order(square, range(20), Workers(ray=ray_address)))
    assert [value for value, _ in found] == [number * number for number in range(20)]
    assert os.getpid() not in {process for _, process in found}
    with pytest.raises(WorkError, match="3 cannot be used"):
        list(map_unordered(fails, range(5), Workers(ray=ray_address)))


def test_ray_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--ray needs Ray \(.*\): pip install 'aloha_kit\[ray\]'"):
        list(map_unordered(square, range(3), Workers(ray="auto")))
