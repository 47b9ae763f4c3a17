"""Processes of environments: they render where their parent is told to; one that ends as it starts is an error."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import pytest

from aloha_kit.core import ConfigError
from aloha_kit.rl.vector_env import EnvironmentProcessError, environments
from tests.waiting import until


class Broken:
    """Setup of an environment that cannot be connected to."""

    observe = ("joints",)

    def connect(self) -> None:
        raise ConfigError(f"no GPU {os.environ['MUJOCO_EGL_DEVICE_ID']}")


def test_a_process_that_ends_as_it_starts_is_named_and_ends_the_others(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "7")
    setup: Any = Broken()
    before = set(multiprocessing.active_children())
    with (
        pytest.raises(EnvironmentProcessError, match="a process of an environment ended"),
        environments(setup, 2, processes=True, seed=0, done=0),
    ):
        pass
    until(lambda: set(multiprocessing.active_children()) <= before, "the end of the processes", timeout=60)
    assert "no GPU 7" in capfd.readouterr().err
