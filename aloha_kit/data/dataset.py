"""Steps of episodes as a plain `torch.utils.data.Dataset`, for custom training loops."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from aloha_kit.data.camera_frames import depth_frame, frame, OpenEpisodes
from aloha_kit.data.chunks import Chunks
from aloha_kit.data.index import EpisodeTable
from aloha_kit.data.stats import Moments

STD_FLOOR = 1e-2
"""The least standard deviation to divide by, as the policies' `std_floor`."""


class TrainingSample(TypedDict):
    """An observation and the K actions that follow it.

    Where several steps are read, all of the observation has an axis of `n_obs_steps` in front, oldest first.
    """

    image: dict[str, Tensor]  # {camera: (3, H, W)} uint8, or float in [0, 1] where normalised
    depth: dict[str, Tensor]  # {camera: (1, H, W)} uint16 mm, 0 where nothing was measured; float where normalised
    state: Tensor  # (S,) float32
    vectors: dict[str, Tensor]  # {feature: (D,)} float32: privileged state and sensors, by their names in the contract
    action: Tensor  # (K, A) float32
    is_pad: Tensor  # (K,) bool, True on rows past the episode's end
    instruction: str  # the episode's task in words; empty where it has none


class ChunkDataset(Dataset[TrainingSample]):
    """The steps of a table's episodes. A `DataLoader` batches and shuffles them, in any number of processes.

    Args:
        table: see `index.read_table`.
        chunk_size: K, the actions of a sample.
        episodes: which of the table's, such as one side of `index.split`; all by default.
        n_obs_steps: how many observations end with a sample's step; the first of an episode stands for those before it.
        image_size: (height, width) of the images; each camera's own by default.
        random_start: a sample is an episode, from a random step on that torch's generator draws; by default a sample is
            a step, and every step is one.
        normalise: give vectors and action as (value - mean) / std, std at least `STD_FLOOR`, and images as float from 0
            to 1; by default everything is as recorded. Rows of zeros past the end are normalised too, and masked.

    What is in a sample is what the table's contract has: privileged state where every episode has it, and the sensors
    and the depth that `read_table` was given.
    """

    def __init__(
        self,
        table: EpisodeTable,
        chunk_size: int,
        *,
        episodes: Iterable[int] | None = None,
        n_obs_steps: int = 1,
        image_size: tuple[int, int] | None = None,
        random_start: bool = False,
        normalise: bool = False,
    ) -> None:
        self.table = table
        self.statistics = table.statistics()
        self._episodes = list(range(len(table.names)) if episodes is None else episodes)
        self._rows = table.rows_of(self._episodes)
        self._chunks = Chunks(table, chunk_size)
        self._recorded = table.contract.cameras
        self._sizes = {camera: image_size or size for camera, size in self._recorded.items()}
        self._depth = {camera: self._sizes[camera] for camera in table.contract.depth_cameras}
        self._open = OpenEpisodes(table)
        self._n_obs_steps, self._random_start, self._normalise = n_obs_steps, random_start, normalise

    def __len__(self) -> int:
        return len(self._episodes if self._random_start else self._rows)

    def __getitem__(self, index: int) -> TrainingSample:
        """Sample `index`: a step, or with `random_start` an episode."""
        table, last = self.table, np.array([self._row(index)])
        number = int(table.episode_of(last)[0])
        action, is_pad = (torch.from_numpy(values[0]) for values in self._chunks(last))
        rows = table.history(last, self._n_obs_steps)[0]
        vectors = {
            name: self._observed([torch.from_numpy(values[row].copy()) for row in rows])
            for name, values in table.vectors.items()
        }
        episode, steps = self._open[number], (rows - table.starts[number]).tolist()
        image = {
            camera: self._observed([frame(episode, camera, i, size, self._recorded[camera]) for i in steps])
            for camera, size in self._sizes.items()
        }
        depth = {
            camera: self._observed([depth_frame(episode, camera, i, size) for i in steps])
            for camera, size in self._depth.items()
        }
        state = vectors.pop("qpos")
        sample = TrainingSample(
            image=image,
            depth=depth,
            state=state,
            vectors=vectors,
            action=action,
            is_pad=is_pad,
            instruction=table.instructions[number],
        )
        return self._normalised(sample) if self._normalise else sample

    def _observed(self, steps: list[Tensor]) -> Tensor:
        return steps[0] if self._n_obs_steps == 1 else torch.stack(steps)

    def _row(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        if not self._random_start:
            return int(self._rows[index])
        episode = self._episodes[index]
        return int(self.table.starts[episode]) + int(torch.randint(int(self.table.lengths[episode]), ()))

    def _normalised(self, sample: TrainingSample) -> TrainingSample:
        return TrainingSample(
            image={camera: image / 255 for camera, image in sample["image"].items()},
            depth={camera: values.to(torch.float32) for camera, values in sample["depth"].items()},
            state=_standard(sample["state"], self.statistics["qpos"]),
            vectors={name: _standard(values, self.statistics[name]) for name, values in sample["vectors"].items()},
            action=_standard(sample["action"], self.statistics["action"]),
            is_pad=sample["is_pad"],
            instruction=sample["instruction"],
        )


def _standard(values: Tensor, moments: Moments) -> Tensor:
    std = np.maximum(moments.std, np.float32(STD_FLOOR))
    return (values - torch.from_numpy(moments.mean)) / torch.from_numpy(std)
