"""Episodes that are one demonstration twice: recorded with one seed, copied, or exported in another form."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def motion_key(action: npt.NDArray[np.float32], qpos: npt.NDArray[np.float32]) -> str:
    """What two episodes share that hold the same motion: a digest of the actions and of the joints before each.

    Images, stamps and attributes do not count, nor does the observation after the last action, which exports drop.

    Args:
        action: (T, A).
        qpos: (T or T + 1, S).
    """
    digest = hashlib.blake2b(f"{action.shape}".encode(), digest_size=16)
    for table in (action, qpos[: len(action)]):
        digest.update(np.ascontiguousarray(table, "<f4").tobytes())
    return digest.hexdigest()


def duplicates(keys: Sequence[str]) -> dict[int, int]:
    """{place of a key that was there before: place of the first one}; empty keys are no episodes."""
    first: dict[str, int] = {}
    return {i: first[key] for i, key in enumerate(keys) if key and first.setdefault(key, i) != i}
