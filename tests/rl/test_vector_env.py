"""Processes of environments: one that ends as it starts is an error of its own, and leaves no process behind."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

from aloha_kit.core import ConfigError
from aloha_kit.rl.vector_env import EnvironmentProcessError, environments
from tests.waiting import until


class Broken:
    """Setup of an environment that cannot be connected to."""

    observe = ("joints",)

    def connect(self) -> None:
        raise ConfigError("no such GPU")


def test_a_process_that_ends_as_it_starts_is_named_and_ends_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    setup: Any = Broken()
    before = set(multiprocessing.active_children())
    with (
        pytest.raises(EnvironmentProcessError, match="a process of an environment ended"),
        environments(setup, 2, processes=True, seed=0, done=0),
    ):
        pass
    until(lambda: set(multiprocessing.active_children()) <= before, "the end of the processes", timeout=60)
    assert "no such GPU" in capfd.readouterr().err
