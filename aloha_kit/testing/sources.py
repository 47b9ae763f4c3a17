"""Contract of every source of recorded episodes, as one reusable check."""

from __future__ import annotations

import pickle
from contextlib import closing
from pathlib import Path

import numpy as np

from aloha_kit.core import EpisodeError
from aloha_kit.core.source import EpisodeSource, RecordedEpisode


def check_source(source: EpisodeSource) -> None:
    """Assert the contract of a source: names, shapes, types, images, identities, and that it can be pickled.

    Args:
        source: with at least one episode; all of them are opened, and a few images of each are read.
    """
    assert len(source) > 0, "a source has at least one episode"
    assert isinstance(source.place, Path)
    keys = [source.identity(number) for number in range(len(source))]
    assert len(set(keys)) == len(keys), f"two episodes have one identity: {keys}"
    assert keys == [source.identity(number) for number in range(len(source))], "an identity changes by itself"
    assert set(keys) <= set(source.identities()), "identities() lacks some of the episodes"
    names = []
    for number in range(len(source)):
        with closing(source.episode(number)) as episode:
            names.append(episode.name)
            assert source.name(number) == episode.name, f"name({number}) is {source.name(number)}, not {episode.name}"
            _vectors_fit(episode)
            _images_fit(episode)
            with closing(pickle.loads(pickle.dumps(source)).episode(number)) as copy:  # as processes of a DataLoader do
                assert copy.name == episode.name
                assert np.array_equal(copy.action, episode.action), "a pickled source opens another episode"
    stems = [Path(name).stem for name in names]
    assert len(set(stems)) == len(stems), f"two episodes have one name, without its ending: {names}"
    assert all(name == Path(name).name for name in names), f"a name is no file name: {names}"


def _vectors_fit(episode: RecordedEpisode) -> None:
    contract = episode.contract
    assert episode.length >= 1, f"{episode.where}: no action"
    assert episode.frames in (episode.length, episode.length + 1), (
        f"{episode.where}: {episode.frames} observations for {episode.length} actions"
    )
    base = 0 if episode.base_action is None else np.shape(episode.base_action)[1]
    expected = {
        "action": (episode.length, len(contract.action_names) - base),
        "base_action": (episode.length, base),
        "reward": (episode.length,),
    }
    described = {feature.name: feature.shape for feature in contract.inputs}
    vectors = episode.vectors
    assert np.array_equal(vectors["qpos"], episode.qpos), f"{episode.where}: vectors['qpos'] is not qpos"
    expected |= {name: (episode.frames, *described.get(name, vectors[name].shape[1:])) for name in vectors}
    found = {"action": episode.action, "base_action": episode.base_action, "reward": episode.reward, **vectors}
    for name, value in found.items():
        if value is None:
            continue
        shape = expected[name]
        assert value.shape == shape, f"{episode.where}: {name} has shape {value.shape}, expected {shape}"
        assert value.dtype == np.float32, f"{episode.where}: {name} is {value.dtype}, expected float32"
    for name, stamps in episode.stamps.items():
        wanted = episode.length if name == "command" else episode.frames
        assert len(stamps) == wanted, f"{episode.where}: {len(stamps)} stamps of {name}, expected {wanted}"
        assert stamps.dtype == np.int64, f"{episode.where}: stamps of {name} are {stamps.dtype}, expected int64 ns"
    assert episode.success in (None, True, False)
    assert episode.rate_hz > 0
    assert episode.action_offset in (0, 1)


def _images_fit(episode: RecordedEpisode) -> None:
    assert set(episode.cameras) == set(episode.contract.cameras), f"{episode.where}: cameras differ from the contract's"
    assert isinstance(episode.reading(episode.cameras), str)
    for camera in episode.cameras:
        size = episode.image_size(camera)
        assert size == tuple(episode.contract.cameras[camera]), f"{episode.where}: the size of {camera}"
        assert episode.rows(camera) == episode.frames, f"{episode.where}: rows of {camera}"
        for i in (0, episode.frames - 1):
            image = episode.image(camera, i)
            assert image.shape == (*size, 3), f"{episode.where}: image {i} of {camera} has shape {image.shape}"
            assert image.dtype == np.uint8
            least = (max(1, size[0] // 8), max(1, size[1] // 8))
            small = episode.image(camera, i, least)
            assert small.dtype == np.uint8
            assert small.shape[2] == 3
            assert all(have >= want for have, want in zip(small.shape, least, strict=False)), (
                f"{episode.where}: image {i} of {camera} is {small.shape}, wanted at least {least}"
            )
        _refused(episode, camera, episode.frames)
    _refused(episode, "no such camera", 0)


def _refused(episode: RecordedEpisode, camera: str, i: int) -> None:
    try:
        episode.image(camera, i)
    except EpisodeError:
        return
    raise AssertionError(f"{episode.where}: image {i} of {camera} is not there and must raise EpisodeError")
