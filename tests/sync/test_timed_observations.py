"""Observations at the deadlines of a rig's control rate."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from aloha_kit.core import Contract, PIPER, VirtualClock
from aloha_kit.sync.arm_readers import JointStateReader
from aloha_kit.sync.observation import ObservationBuilder, TimedObservations
from aloha_kit.sync.soft_sync import SoftSync
from tests.sync.sync_bench import MS, spec, START

PERIOD = 20 * MS


class Driver(VirtualClock):
    """A clock on which an arm's joint states come each 10 ms, with velocities and efforts or without."""

    def __init__(self, given: bool) -> None:
        super().__init__(START)
        self.sync = SoftSync([spec("qpos_left", 100.0)], self)
        self._given, self._next = given, START

    def sleep_until(self, deadline_ns: int) -> None:
        while self._next <= deadline_ns:
            super().sleep_until(self._next)
            more = [0.0] * 7 if self._given else []
            message = SimpleNamespace(name=[f"j{i}" for i in range(7)], position=[0.0] * 7, velocity=more, effort=more)
            self.sync.add("qpos_left", self._next, message)
            self._next += 10 * MS
        super().sleep_until(deadline_ns)


@pytest.mark.parametrize("given", [True, False])
def test_the_first_step_takes_a_period_whatever_the_first_observation_took(given: bool) -> None:
    clock = Driver(given)
    clock.sleep_until(START + 505 * MS)
    contract = Contract.of(PIPER.names, PIPER.names, {}, rate_hz=50.0)
    builder = ObservationBuilder(contract, {"left": JointStateReader("left", PIPER)}, base=False)
    observations = TimedObservations(builder, clock.sync, clock, 50.0, None)
    first = observations.first()
    assert ("qvel" in first, "effort" in first) == (given, given)
    took = clock.now_ns() - START - 505 * MS
    assert (took == 0) if given else (took > PERIOD)
    deadlines = [int(first["stamps"]["deadline"])]
    assert deadlines == [clock.now_ns()]
    for _ in range(3):
        assert observations.rate.sleep() == 0
        deadlines.append(int(observations.read(clock.now_ns() - PERIOD)["stamps"]["deadline"]))
    assert np.diff(deadlines).tolist() == [PERIOD] * 3
