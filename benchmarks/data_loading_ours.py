"""Our side of `data_loading.py`, and beside it the reference's way to load and a plain memory copy."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
from pace import Pace

from aloha_kit.core.prefetch import prefetch
from aloha_kit.data import camera_frames
from aloha_kit.data.batch import Batch
from aloha_kit.data.cache import cached_frames, folder_for
from aloha_kit.data.camera_frames import DirectFrames
from aloha_kit.data.index import EpisodeTable, read_table
from aloha_kit.data.loader import Loader
from aloha_kit.data.sampler import Sampler
from aloha_kit.episode import Episode
from aloha_kit.formats import open_source

WORKERS = 2
ROUNDS = 3


class PerSample(torch.utils.data.Dataset[tuple[torch.Tensor, ...]]):
    """How ACT's reference loader goes about it: for each sample a file is opened, the actions of the whole episode are
    read, then one state and one raw image a camera; vectors are normalised and images made float in [0, 1]."""

    def __init__(self, files: list[Path], cameras: tuple[str, ...], table: EpisodeTable) -> None:
        self._files, self._cameras = files, cameras
        moments = table.statistics()
        self._qpos, self._action = moments["qpos"], moments["action"]

    def __len__(self) -> int:
        return 1_000_000  # samples, drawn from the episodes in turn: its own epochs would end after one an episode

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        with h5py.File(self._files[index % len(self._files)], "r") as file:
            steps, size = file["action"].shape
            start = np.random.choice(steps)
            action = file["action"][()][start:]
            qpos = file["observations/qpos"][start]
            frames = np.stack([file[f"observations/images/{camera}"][start] for camera in self._cameras])
        padded = np.zeros((steps, size), np.float32)
        padded[: len(action)] = action
        is_pad = torch.arange(steps) >= len(action)
        images = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255.0
        normalised = (padded - self._action.mean) / self._action.std
        state = (qpos - self._qpos.mean) / self._qpos.std
        return images, torch.from_numpy(state).float(), torch.from_numpy(normalised).float(), is_pad


def uncompressed(table: EpisodeTable) -> list[Path]:
    """The same episodes as the reference stores them: raw images, one chunk each."""
    sources = [Path(where) for where in table.where]
    folder = sources[0].parent.with_name(sources[0].parent.name.replace("ours", "raw"))
    folder.mkdir(exist_ok=True)
    files = []
    for source in sources:
        target = folder / source.name
        files.append(target)
        if target.exists():
            continue
        partial = target.with_suffix(".partial")
        with Episode.open(source) as episode, h5py.File(partial, "w") as file:
            file["action"], file["observations/qpos"] = episode.action, episode.qpos[: episode.length]
            for camera in episode.cameras:
                shape = (*episode.image_size(camera), 3)
                name = f"observations/images/{camera}"
                kept = file.create_dataset(name, (episode.length, *shape), np.uint8, chunks=(1, *shape))
                for i in range(episode.length):
                    kept[i] = episode.image(camera, i)
        partial.rename(target)
    return files


def per_sample(table: EpisodeTable, files: list[Path], batch: int) -> Iterator[object]:
    data = PerSample(files, table.cameras, table)
    yield from torch.utils.data.DataLoader(data, batch, shuffle=True, num_workers=1, prefetch_factor=1)


def copies(like: Batch, count: int) -> Iterator[object]:
    """The bytes of a batch copied from one place in memory to another, camera by camera; other bytes every time."""
    frames = {name: image.numpy() for name, image in like["images"].items()}
    sources = [{name: image.copy() for name, image in frames.items()} for _ in range(count)]
    targets = [{name: image.copy() for name, image in frames.items()} for _ in range(3)]
    vectors = [like[name].numpy() for name in ("qpos", "actions", "is_pad")]
    places = [vector.copy() for vector in vectors]
    for number in itertools.count():
        for name, source in sources[number % count].items():
            np.copyto(targets[number % 3][name], source)
        for place, vector in zip(places, vectors, strict=True):
            np.copyto(place, vector)
        yield targets[number % 3]


class Converted:
    """Batches as the reference's loader delivers them: images float in [0, 1], vectors normalised."""

    def __init__(self, loader: Loader, table: EpisodeTable) -> None:
        moments = table.statistics()
        self._loader = loader
        self._qpos, self._action = (
            (torch.from_numpy(moments[key].mean), torch.from_numpy(moments[key].std)) for key in ("qpos", "action")
        )

    def batch(self, rows: np.ndarray) -> Batch:
        batch = self._loader.batch(rows)
        batch["images"] = {name: image.float().div_(255) for name, image in batch["images"].items()}
        batch["qpos"] = (batch["qpos"] - self._qpos[0]) / self._qpos[1]
        batch["actions"] = (batch["actions"] - self._action[0]) / self._action[1]
        return batch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("chunk", type=int)
    parser.add_argument("batch", type=int)
    parser.add_argument("seconds", type=float)
    args = parser.parse_args()
    table = read_table(open_source(args.folder))
    sampler = Sampler(table, range(len(table.names)), args.batch)
    whole = dict(table.contract.cameras)
    small = dict.fromkeys(whole, (120, 160))
    mapped = cached_frames(table, whole, folder_for(table, None), workers=WORKERS)
    files = uncompressed(table)
    cached = Loader(table, mapped, args.chunk)
    jpeg, jpeg_small = (Loader(table, DirectFrames(table, sizes, WORKERS), args.chunk) for sizes in (whole, small))

    def ahead(loader: Loader | Converted) -> Callable[[], Iterator[object]]:
        return lambda: prefetch(map(loader.batch, sampler.batches(0, 10**9)))  # as training takes them

    def decoded_whole() -> Iterator[object]:
        camera_frames.OVERSAMPLING = 1000
        try:
            yield from ahead(jpeg_small)()
        finally:
            camera_frames.OVERSAMPLING = 2

    for rows in sampler.batches(0, sampler.steps(2)):  # whatever is read from files is in memory before the clock runs
        cached.batch(rows)
    for file in files:
        with file.open("rb") as opened:
            while opened.read(1 << 24):
                pass
    example = cached.batch(sampler.batch(0))
    modes: dict[str, tuple[Callable[[], Iterator[object]], int]] = {  # and batches before the clock runs
        "copy": (lambda: copies(example, max(2, 80 // len(whole))), 100),
        "cached": (lambda: map(cached.batch, sampler.batches(0, 10**9)), 100),
        "cached, ahead": (ahead(cached), 20),
        "cached, float": (ahead(Converted(cached, table)), 20),
        "jpeg": (ahead(jpeg), 10),
        "jpeg, 120x160": (ahead(jpeg_small), 10),
        "jpeg, 120x160, decoded whole": (decoded_whole, 10),
        "reference": (lambda: per_sample(table, files, args.batch), 4),
    }
    paces = {name: Pace() for name in modes}
    for _ in range(ROUNDS):  # in turns, so that whatever else the machine does meets all of them
        for name, (batches, warm_up) in modes.items():
            paces[name].measure(batches, args.batch, args.seconds / ROUNDS, warm_up)
    print(json.dumps({name: pace.result() for name, pace in paces.items()}))


if __name__ == "__main__":
    main()
