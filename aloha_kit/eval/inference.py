"""One network for many environments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from aloha_kit.core import plural
from aloha_kit.eval.pool import EvaluationError
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.policies.inputs import Collator
from aloha_kit.policies.network import Ask, ChunkNetwork


class BatchedNetwork:
    """Answers the rows of a shared buffer, together, without gradients and in evaluation mode.

    Every query has `size` rows, filled up with copies where fewer ask. Matrix products round differently at
    different sizes: with one size, a rollout is the same bits whoever else asked at the same time.

    Args:
        ask: the network made ready for `size` rows, see `policies.engine`; by default the network as it is.
    """

    def __init__(
        self,
        network: ChunkNetwork,
        mailbox: SharedBuffer,
        size: int,
        ask: Ask | None = None,
    ) -> None:
        self._network, self._mailbox, self._size = network.eval(), mailbox, size
        self._ask = ask or network.predict
        self._collate = Collator(next(network.parameters()).device)

    def __call__(self, rows: Sequence[int]) -> None:
        """Read the observations of some rows, at most `size`, and answer them.

        Raises:
            EvaluationError: the device cannot do it; most often its memory is too small.
        """
        for row, chunk in zip(rows, self._chunks([*rows, *[rows[0]] * (self._size - len(rows))]), strict=False):
            self._mailbox.answer(row, chunk)

    def warm_up(self) -> None:
        """Ask once about what lies there: first queries allocate and choose their kernels."""
        self._chunks([0] * self._size)

    def _chunks(self, rows: Sequence[int]) -> npt.NDArray[np.float32]:
        try:
            with torch.inference_mode():
                generator = self._network.generator(self._mailbox.seeds(rows))
                chunks = self._ask(self._collate(self._mailbox.read(rows)), generator)
            return np.asarray(chunks.float().cpu().numpy(), np.float32)
        except RuntimeError as error:
            raise EvaluationError(
                f"the network failed on {plural(len(rows), 'observation')} at once: {str(error).splitlines()[0]}. "
                "If memory is short, try a smaller --batch"
            ) from error
