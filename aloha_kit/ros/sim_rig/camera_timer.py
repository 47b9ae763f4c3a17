"""Image timing of simulated cameras, and a warning when the machine is too slow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_EARLY_NS = 5_000_000  # half a period of the states: an image may come this much before it is due


class CameraTimer:
    """Trigger on a grid of a camera's period, by the stamps of the states.

    Attributes:
        taken: images taken.
        missed: points of the grid that passed without one.
    """

    def __init__(self) -> None:
        self.taken = self.missed = 0
        self._due_ns: int | None = None

    def opens(self, stamp_ns: int, rate_hz: float) -> bool:
        """Whether an image of the state of `stamp_ns` is due at `rate_hz`."""
        period_ns = round(1e9 / rate_hz)
        if self._due_ns is None or self._due_ns - stamp_ns > 2 * period_ns:  # the first one, or time began anew
            self._due_ns = stamp_ns
        if stamp_ns < self._due_ns - _EARLY_NS:
            return False
        late = max(0, stamp_ns - self._due_ns) // period_ns
        self.missed += late
        self.taken += 1
        self._due_ns += (late + 1) * period_ns
        return True


class Pace:
    """Warn, once, that the machine is too slow for the requested images, with numbers and a remedy.

    Args:
        warn: called with the message.
        window_s: the period that is judged; the first one, when everything starts, does not count.
    """

    def __init__(self, warn: Callable[[str], None], window_s: float = 5.0) -> None:
        self._warn, self._window_s = warn, window_s
        self._begun_s: float | None = None
        self._busy_s, self._rounds = 0.0, 0
        self._settled = self._warned = False

    def round(self, now_s: float, busy_s: float, timers: Sequence[CameraTimer], requested: str) -> None:
        """Account for one round of images that took `busy_s`; `requested` describes them."""
        self._busy_s += busy_s
        self._rounds += 1
        if self._begun_s is not None and now_s - self._begun_s < self._window_s:
            return
        taken, missed = sum(s.taken for s in timers), sum(s.missed for s in timers)
        # Images are also missed when states come late; only a busy node is to blame itself.
        slow = missed > 0.1 * (taken + missed) and self._busy_s > 0.7 * (now_s - (self._begun_s or 0.0))
        if self._settled and slow and not self._warned:
            self._warned = True
            self._warn(
                f"this machine draws {taken / (taken + missed):.0%} of the requested images ({requested}): a round of "
                f"them takes {1e3 * self._busy_s / self._rounds:.0f} ms. Smaller images (image_size of the task), "
                "fewer cameras or --quality draft cost less"
            )
        self._settled = self._begun_s is not None
        self._begun_s, self._busy_s, self._rounds = now_s, 0.0, 0
        for timer in timers:
            timer.taken = timer.missed = 0
