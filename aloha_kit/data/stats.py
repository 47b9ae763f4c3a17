"""Normalisation statistics of a data set's vectors, one dimension at a time. numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aloha_kit.core import ContractError, did_you_mean
from aloha_kit.core.features import IMAGES, SENSORS, VECTORS

Array = npt.NDArray[np.float32]

START, END = "start", "end"  # qpos where episodes begin and end
KEYS = (*VECTORS, "action", START, END)
_FIELDS = ("mean", "std", "min", "max")

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Of ImageNet's images, channels R, G, B from 0 to 1: what every network here normalises images by."""


@dataclass(frozen=True)
class Moments:
    """One vector's statistics: each array (D,), in the vector's own units; `count` rows were read.

    `std` is the plain unbiased one. A floor against constant dimensions is applied where the
    statistics are used, so that a checkpoint still shows which dimensions never moved.
    """

    mean: Array
    std: Array
    min: Array
    max: Array
    count: int

    def __post_init__(self) -> None:
        sizes = {name: np.shape(getattr(self, name)) for name in _FIELDS}
        if len(set(sizes.values())) != 1 or len(self.mean.shape) != 1:
            raise ContractError("statistics must be vectors of one length, given: {sizes}", sizes=sizes)

    @property
    def size(self) -> int:
        """Number of dimensions of the vector."""
        return len(self.mean)


class Accumulator:
    """Running moments over rows that arrive in pieces (Chan, Golub and LeVeque's pairwise update, 1979).

    Sums of squares would lose the variance of a joint that hardly moves; this keeps it.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._square = self._min = self._max = np.zeros(0)

    def add(self, rows: npt.ArrayLike) -> None:
        """Take (N, D) rows into account; N may be 0.

        Raises:
            ContractError: D differs from the rows before, or a value is not finite.
        """
        values = np.asarray(rows, np.float64)
        if values.ndim != 2:
            raise ContractError("statistics need (N, D) rows, given shape {shape}", shape=values.shape)
        if not len(values):
            return
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise ContractError(
                "row {row}, dimension {column} is {value}: statistics need finite values",
                row=row,
                column=column,
                value=values[row, column],
            )
        n, mean = len(values), values.mean(axis=0)
        square = ((values - mean) ** 2).sum(axis=0)
        low, high = values.min(axis=0), values.max(axis=0)
        if not self._count:
            self._count, self._mean, self._square, self._min, self._max = n, mean, square, low, high
            return
        if len(mean) != len(self._mean):
            raise ContractError(
                "rows of {count} dimensions after rows of {before}", count=len(mean), before=len(self._mean)
            )
        total = self._count + n
        delta = mean - self._mean
        self._square = self._square + square + delta**2 * self._count * n / total
        self._mean = self._mean + delta * n / total
        self._min, self._max = np.minimum(self._min, low), np.maximum(self._max, high)
        self._count = total

    def moments(self) -> Moments:
        """The moments of all rows so far.

        Raises:
            ContractError: no row was added.
        """
        if not self._count:
            raise ContractError("statistics of no rows at all: there is nothing to normalise by")
        std = np.sqrt(self._square / max(self._count - 1, 1))
        mean, std, low, high = (np.asarray(a, np.float32) for a in (self._mean, std, self._min, self._max))
        return Moments(mean, std, low, high, self._count)


@dataclass(frozen=True)
class Statistics:
    """Moments by key: `qpos` and `action` always, other features where they are read.

    What normalises nothing may be missing (in old checkpoints it is): `start` and `end`, the qpos that episodes begin
    and end with, and `images/<camera>`, the statistics of a camera's images. A rollout is compared with
    them to detect a distribution shift.
    """

    moments: Mapping[str, Moments]

    def __post_init__(self) -> None:
        for key in self.moments:
            if key not in KEYS and not key.startswith((IMAGES, SENSORS)):
                raise ContractError("unknown statistics '{key}'. {known}", key=key, known=did_you_mean(key, KEYS))

    def __getitem__(self, key: str) -> Moments:
        if key not in self.moments:
            raise ContractError("no statistics of '{key}'. {known}", key=key, known=did_you_mean(key, self.moments))
        return self.moments[key]

    def __contains__(self, key: object) -> bool:
        return key in self.moments

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Flat `{"qpos.mean": (D,) …, "qpos.count": ()}`, ready for a file of arrays."""
        flat: dict[str, npt.NDArray[np.generic]] = {}
        for key, moments in self.moments.items():
            flat.update({f"{key}.{name}": getattr(moments, name) for name in _FIELDS})
            flat[f"{key}.count"] = np.asarray(moments.count, np.int64)
        return flat

    @classmethod
    def from_arrays(cls, flat: Mapping[str, npt.NDArray[np.generic]]) -> Statistics:
        """Inverse of `to_arrays`.

        Raises:
            ContractError: an array is missing; names it and lists the existing ones.
        """
        try:
            moments = {}
            for key in dict.fromkeys(name.rpartition(".")[0] for name in flat):
                mean, std, low, high = (np.asarray(flat[f"{key}.{name}"], np.float32) for name in _FIELDS)
                moments[key] = Moments(mean, std, low, high, int(flat[f"{key}.count"]))
            return cls(moments)
        except KeyError as error:
            raise ContractError(
                "statistics lack {error}; there are: {there}", error=error, there=", ".join(sorted(flat))
            ) from error

    @classmethod
    def of(cls, **rows: npt.ArrayLike) -> Statistics:
        """Statistics of (N, D) rows that are already in memory: `Statistics.of(qpos=…, action=…)`."""
        moments = {}
        for key, values in rows.items():
            accumulator = Accumulator()
            accumulator.add(values)
            moments[key] = accumulator.moments()
        return cls(moments)
