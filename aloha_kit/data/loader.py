"""Rows to batches, one step ahead of the training loop."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aloha_kit.data.batch import Batch
from aloha_kit.data.camera_frames import Frames
from aloha_kit.data.chunks import Chunks
from aloha_kit.data.index import EpisodeTable
from aloha_kit.data.instructions import Instructions

Ints = npt.NDArray[np.int64]


class Loader:
    """Gathers batches by indexing whole arrays: no Python runs per sample."""

    def __init__(
        self,
        table: EpisodeTable,
        frames: Frames | None,
        chunk_size: int,
        *,
        depth: Frames | None = None,
        n_obs_steps: int = 1,
        goal: bool = False,
        goal_seed: int | None = None,
        instructions: Instructions | None = None,
        pin: bool = False,
    ) -> None:
        """`frames` None for policies without cameras, `depth` for those without depth; `n_obs_steps` observations end
        with each row, with `goal` that of the episode's last step is in front of them, or with `goal_seed` that of a
        drawn later one; with `instructions` the vector of the episode's instruction is beside them; `pin` gathers into
        page-locked memory, from which a GPU takes batches while it computes. Frames that live on the GPU stay there."""
        self._table = table
        self._frames, self._depth = frames, depth
        self._chunks = Chunks(table, chunk_size)
        self._steps, self._goal, self._goal_seed = n_obs_steps, goal, goal_seed
        self._instructions: npt.NDArray[np.float32] | None = None
        if instructions is not None:
            self._instructions = np.stack([*map(instructions.vector, table.instructions)])
        self._pin = pin

    def batch(self, rows: Ints, whole: Ints | None = None, step: int = 0) -> Batch:
        """The observations at B rows and the `chunk_size` actions that follow each; `whole` are the rows of the batch
        that these are a piece of, `step` is the training's, by which goals are drawn."""
        actions, is_pad = self._chunks(rows)
        seen = rows if self._steps == 1 else self._table.history(rows, self._steps)
        if self._goal:
            table, seed = self._table, self._goal_seed
            goals = table.last_rows(rows) if seed is None else table.later_rows(rows, seed, step)
            seen = np.concatenate([goals[:, None], seen.reshape(len(rows), -1)], axis=1)
        vectors = {name: self._tensor(values[seen]) for name, values in self._table.vectors.items()}
        future = {"actions": self._tensor(actions), "is_pad": self._tensor(is_pad)}
        batch = cast(Batch, {**vectors, "images": self._gather(self._frames, seen), **future})
        if self._instructions is not None:
            batch["instruction"] = self._tensor(self._instructions[self._table.episode_of(rows)])
        if self._depth is not None:
            batch["images_depth"] = self._gather(self._depth, seen)
        if whole is not None:
            batch["valid_rows"] = self._tensor(np.array(self._chunks.present(whole).mean(), np.float32))
        return batch

    def _gather(self, frames: Frames | None, rows: Ints) -> dict[str, Tensor]:
        if frames is None:
            return {}
        images = frames.gather(rows.reshape(-1), pin=self._pin)
        return images if rows.ndim == 1 else {name: i.reshape(*rows.shape, *i.shape[1:]) for name, i in images.items()}

    def _tensor(self, values: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self._pin else tensor
