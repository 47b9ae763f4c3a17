"""Inference for many environments at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from aloha_kit.core import plural
from aloha_kit.eval.pool import EvaluationError
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.policies.collate import Collator
from aloha_kit.policies.goal import with_goal
from aloha_kit.policies.language import with_instruction
from aloha_kit.policies.network import ChunkNetwork, Predict


class BatchedInference:
    """Predicts the chunks of rows of a shared buffer, without gradients and in evaluation mode.

    Sums round differently at different batch sizes, so every batch has `size` rows, filled up with copies: a rollout is
    then the same to the bit whatever else runs. With a size of 1 it is so at any number of rollouts at a time, and as
    in deployment.

    Args:
        size: rows of a batch; see `batch_size`.
        predict: the network made ready for `size` rows, see `policies.engine`; by default the network as it is.
    """

    def __init__(self, network: ChunkNetwork, buffer: SharedBuffer, size: int, predict: Predict | None = None) -> None:
        self._network, self._buffer, self._size = network.eval(), buffer, size
        self._predict = predict or network.predict
        self._collate = Collator(next(network.parameters()).device)

    def __call__(self, rows: Sequence[int]) -> None:
        """Read the observations of some rows, and write their chunks.

        Raises:
            EvaluationError: the device cannot do it; most often its memory is too small.
        """
        for first in range(0, len(rows), self._size):
            some = rows[first : first + self._size]
            chunks = self._chunks([*some, *[some[0]] * (self._size - len(some))])
            for row, chunk in zip(some, chunks, strict=False):
                self._buffer.put_chunk(row, chunk)

    def warm_up(self) -> None:
        """Run one inference on whatever the buffer holds: first ones allocate and choose their kernels."""
        self._chunks([0] * self._size)

    def _chunks(self, rows: Sequence[int]) -> npt.NDArray[np.float32]:
        try:
            with torch.inference_mode():
                generator = self._network.generator(self._buffer.seeds(rows))
                seen = with_instruction(self._network, with_goal(self._network, self._buffer.read(rows)))
                chunks = self._predict(self._collate(seen), generator)
            return np.asarray(chunks.float().cpu().numpy(), np.float32)
        except RuntimeError as error:
            raise EvaluationError(
                "the network failed on {observations} at once: {reason}. If memory is short, try a smaller --batch",
                observations=plural(len(rows), "observation"),
                reason=str(error).splitlines()[0],
            ) from error


def batch_size(network: ChunkNetwork, at_a_time: int) -> int:
    """Rows that the network computes at once by default for so many rollouts: one on a CPU, which gives deployment's
    actions to the bit and costs a small network nothing (act_cpu: 0.95 times, act: 1.35 times a batch's time); all on a
    GPU."""
    return 1 if next(network.parameters()).device.type == "cpu" else at_a_time
