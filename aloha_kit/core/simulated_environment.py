"""What simulations in this process share: clock and rate, contract and limits, a seed for each episode."""

from __future__ import annotations

from aloha_kit.core.clock import Clock, Rate, VirtualClock
from aloha_kit.core.contract import Contract
from aloha_kit.core.environment import Environment
from aloha_kit.core.limits import SafetyLimits


class SimulatedEnvironment(Environment):
    """An environment that is simulated in this process. A class derived from it sets `_contract` and `_limits`.

    Args:
        rate_hz: control rate.
        clock: what `step` waits on: a `VirtualClock` runs as fast as it computes (default), a `WallClock` in real time.
        seed: of the first reset.
    """

    _contract: Contract
    _limits: SafetyLimits

    def __init__(self, rate_hz: float, clock: Clock | None, *, seed: int = 0) -> None:
        self._clock = clock if clock is not None else VirtualClock()
        self._rate = Rate(rate_hz, self._clock)
        self._next_seed, self._seed = seed, seed
        self._steps: int | None = None  # None: the next step begins an episode

    @property
    def contract(self) -> Contract:
        return self._contract

    @property
    def limits(self) -> SafetyLimits:
        return self._limits

    @property
    def simulated(self) -> bool:
        return True

    def seed(self, seed: int) -> None:
        """The next reset uses exactly `seed`, those after it the numbers that follow."""
        self._next_seed = int(seed)

    def _begin(self) -> int:
        """Seed of the episode that begins."""
        self._seed, self._next_seed = self._next_seed, self._next_seed + 1
        return self._seed
