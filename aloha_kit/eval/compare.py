"""Comparison of two policies by a paired test: both were run from the same start states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from aloha_kit.core import plural
from aloha_kit.loop import wilson_interval

SURE = 0.05
"""A smaller p-value is called a difference."""


@dataclass(frozen=True)
class CheckpointComparison:
    """Numbers of start states by which of A and B succeeded."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @classmethod
    def of(cls, a: Mapping[int, bool], b: Mapping[int, bool]) -> CheckpointComparison:
        """Comparison from {seed: success} of each; seeds that only one of them has are left out."""
        pairs = [(a[seed], b[seed]) for seed in a if seed in b]
        return cls(*(pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))))

    @property
    def starts(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """Success rate of B less that of A."""
        return (self.only_b - self.only_a) / self.starts

    def p_value(self) -> float:
        """Exact McNemar test (Biometrika 1947), two-sided: a sign test on the starts where just one succeeded.

        If the two were equally good, each of those starts would be a fair coin.
        """
        odd = self.only_a + self.only_b
        fewer = min(self.only_a, self.only_b)
        return min(1.0, sum(math.comb(odd, k) for k in range(fewer + 1)) / 2 ** (odd - 1)) if odd else 1.0

    def interval(self) -> tuple[float, float]:
        """95 % interval of `difference`: Newcombe's square-and-add of Wilson intervals for paired proportions.

        R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
        paired data", Statistics in Medicine 17 (1998), method 10. Has a width even where no start differs.
        """
        n = self.starts
        hits_a, hits_b = self.both + self.only_a, self.both + self.only_b
        low_a, high_a = wilson_interval(hits_a, n)
        low_b, high_b = wilson_interval(hits_b, n)
        below_a, above_a = hits_a / n - low_a, high_a - hits_a / n
        below_b, above_b = hits_b / n - low_b, high_b - hits_b / n
        phi = self._correlation()
        down = math.sqrt(max(0.0, below_b**2 - 2 * phi * below_b * above_a + above_a**2))
        up = math.sqrt(max(0.0, above_b**2 - 2 * phi * above_b * below_a + below_a**2))
        return self.difference - down, self.difference + up

    def _correlation(self) -> float:
        """Correlation of success on the same start, Newcombe's estimate, drawn towards 0 where positive."""
        n = self.starts
        product = self.both * self.neither - self.only_a * self.only_b
        shrunk = product if product <= 0 else max(0.0, product - n / 2)
        hits_a, hits_b = self.both + self.only_a, self.both + self.only_b
        spread = hits_a * (n - hits_a) * hits_b * (n - hits_b)
        return shrunk / math.sqrt(spread) if spread else 0.0

    def verdict(self) -> str:
        """The conclusion in one sentence."""
        odd, p = self.only_a + self.only_b, self.p_value()
        if p < SURE:
            better, worse = ("B", "A") if self.only_b > self.only_a else ("A", "B")
            return (
                f"{better} is better than {worse}: if they were equally good, "
                f"so uneven a split would come up with probability {p:.2g}"
            )
        if odd < 6:
            return (
                f"no difference shown: only {odd} of {plural(self.starts, 'start')} differed, "
                f"and fewer than 6 never decide (p = {p:.2g})"
            )
        low, high = self.interval()
        return (
            f"no difference shown (p = {p:.2g}): the data fit anything from "
            f"{100 * low:+.1f} to {100 * high:+.1f} points; more rollouts would narrow that"
        )

    def table(self) -> str:
        """The comparison for people."""
        low, high = self.interval()
        points = f"{100 * self.difference:+.1f} points"
        return "\n".join(
            [
                f"B against A on the same {plural(self.starts, 'start')}",
                f"  {'':<26} {'B succeeds':>12}{'B fails':>12}",
                f"  {'A succeeds':<26} {self.both:>12}{self.only_a:>12}",
                f"  {'A fails':<26} {self.only_b:>12}{self.neither:>12}",
                f"  {'success of B less A':<26} {points:<18} 95 % interval {100 * low:+.1f} to {100 * high:+.1f}",
                f"  {'exact McNemar test':<26} p = {self.p_value():.2g}",
                f"  {self.verdict()}",
            ]
        )
