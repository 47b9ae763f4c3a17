"""Cached and direct frames against an independent resize of the recorded images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.data import cache
from aloha_kit.data.cache import cached_frames, folder_for
from aloha_kit.data.camera_frames import DirectFrames, frame, MappedFrames, OpenEpisodes, resized, RGB
from aloha_kit.data.index import read_table
from aloha_kit.formats import open_source
from tests.synthetic import make, write, write_dataset

CAMERAS = {"top": (24, 32), "wrist": (24, 32)}
NOT_AGAIN = replace(RGB, read=lambda *_: pytest.fail("decoded again"))


def pillow(pixels: np.ndarray[Any, np.dtype[np.uint8]], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Another implementation of the same filter."""
    image = PIL.Image.fromarray(pixels).resize(size[::-1], PIL.Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def test_resize_is_antialiased_bilinear() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    ours = resized(pixels, (12, 16)).numpy()
    assert ours.shape == (3, 12, 16)
    assert np.abs(ours.astype(int) - pillow(pixels, (12, 16))).max() <= 2
    np.testing.assert_array_equal(resized(pixels, (48, 64)).numpy(), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("workers", [1, 2, 5, 20])  # twelve frames: equal shares, unequal ones, some without any
@pytest.mark.parametrize("images", ["raw", "jpeg"])
def test_cache_and_direct_give_the_recorded_images(tmp_path: Path, images: str, workers: int) -> None:
    written = write_dataset(tmp_path, lengths=(9, 14), cameras=CAMERAS, images=images)
    table = read_table(open_source(tmp_path))
    sizes = {"top": (24, 32), "wrist": (12, 16)}
    rows = np.array([3, 22, 0, 8, 9, 9])
    cached = cached_frames(table, sizes, tmp_path / "c", workers=2, progress=False).gather(rows)
    direct = DirectFrames(table, sizes, workers).gather(rows)
    where = [(e, t) for e, episode in enumerate(written) for t in range(len(episode.action))]
    for camera, size in sizes.items():
        assert cached[camera].shape == (6, 3, *size)
        assert cached[camera].dtype == torch.uint8
        torch.testing.assert_close(cached[camera], direct[camera], rtol=0, atol=0)
        assert direct[camera].is_contiguous(memory_format=torch.channels_last)
        for i, row in enumerate(rows):
            e, t = where[row]
            difference = np.abs(
                cached[camera][i].numpy().astype(int) - pillow(written[e].images[camera][t], size).astype(int)
            )
            if images == "raw":
                assert difference.max() <= 1
            else:
                assert difference.mean() < 6  # JPEG's own error on hard edges


def test_a_second_run_decodes_nothing(tmp_path: Path) -> None:
    write_dataset(tmp_path, lengths=(9, 14))
    table = read_table(open_source(tmp_path))
    first = cached_frames(table, {"top": (12, 16)}, tmp_path / "c", workers=2, progress=False)
    second = cached_frames(table, {"top": (12, 16)}, tmp_path / "c", workers=2, progress=False, kind=NOT_AGAIN)
    rows = np.arange(len(table))
    assert torch.equal(first.gather(rows)["top"], second.gather(rows)["top"])


def test_new_episodes_are_appended_and_changed_ones_decoded_again(tmp_path: Path) -> None:
    write_dataset(tmp_path, lengths=(9, 14))
    sizes, folder = {"top": (24, 32)}, tmp_path / "c"
    cached_frames(read_table(open_source(tmp_path)), sizes, folder, workers=2, progress=False)
    before = next(folder.glob("*.frames")).stat().st_size
    extra = make(5, {"top": (24, 32)}, seed=9)
    write(tmp_path, extra)
    table = read_table(open_source(tmp_path))
    frames = cached_frames(table, sizes, folder, workers=2, progress=False)
    assert next(folder.glob("*.frames")).stat().st_size == before + 5 * 3 * 24 * 32
    expected = torch.from_numpy(extra.images["top"][:5].transpose(0, 3, 1, 2).copy())
    assert torch.equal(frames.gather(np.arange(23, 28))["top"], expected)
    # the same name with other contents
    (tmp_path / table.names[0]).unlink()
    changed = make(9, {"top": (24, 32)}, seed=77)
    write(tmp_path, changed)
    table = read_table(open_source(tmp_path))
    assert table.names[0] == "episode_0.hdf5"
    frames = cached_frames(table, sizes, folder, workers=2, progress=False)
    expected = torch.from_numpy(changed.images["top"][:9].transpose(0, 3, 1, 2).copy())
    assert torch.equal(frames.gather(np.arange(9))["top"], expected)


def test_an_interrupted_build_goes_on_with_the_next_episode(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, lengths=(9, 14, 6))
    table = read_table(open_source(tmp_path))
    sizes, folder = {"top": (24, 32)}, tmp_path / "c"
    count = 0

    def failing(*arguments: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        if count > 9 + 5:
            raise KeyboardInterrupt
        return frame(*arguments)

    with pytest.raises(KeyboardInterrupt):
        cached_frames(table, sizes, folder, workers=1, progress=False, kind=replace(RGB, read=failing))
    index = json.loads((folder / "top_24x32.json").read_text())
    assert [count for _, count in index["episodes"].values()] == [9]
    decoded: list[int] = []
    counting = replace(RGB, read=lambda *a: decoded.append(1) or frame(*a))
    frames = cached_frames(table, sizes, folder, workers=1, progress=False, kind=counting)
    assert len(decoded) == 14 + 6
    expected = np.concatenate([e.images["top"][:-1] for e in written]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(frames.gather(np.arange(29))["top"].numpy(), expected)


@pytest.mark.parametrize("damage", ["index", "frames"])
def test_a_damaged_cache_is_built_again(tmp_path: Path, damage: str) -> None:
    written = write_dataset(tmp_path, lengths=(9, 14))
    table = read_table(open_source(tmp_path))
    folder = tmp_path / "c"
    cached_frames(table, {"top": (24, 32)}, folder, workers=2, progress=False)
    if damage == "index":
        (folder / "top_24x32.json").write_text('{"version": 1, "epis')
    else:
        file = next(folder.glob("*.frames"))
        os.truncate(file, file.stat().st_size - 10)
    frames = cached_frames(table, {"top": (24, 32)}, folder, workers=2, progress=False)
    expected = np.concatenate([e.images["top"][:-1] for e in written]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(frames.gather(np.arange(23))["top"].numpy(), expected)


def test_stale_episodes_do_not_pile_up(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for seed in range(4):
        for file in tmp_path.glob("*.hdf5"):
            file.unlink()
        write(tmp_path, make(10, {"top": (24, 32)}, seed=seed))
        table = read_table(open_source(tmp_path))
        cached_frames(table, {"top": (24, 32)}, folder, workers=1, progress=False)
    frames = list(folder.glob("*.frames"))
    assert len(frames) == 1
    assert frames[0].stat().st_size <= 3 * 10 * 3 * 24 * 32


def test_a_full_disk_is_refused_beforehand_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path, lengths=(9,))
    table = read_table(open_source(tmp_path))
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10_000})())
    with pytest.raises(ConfigError, match=r"needs 0.0 GB more .*--image_size.*--cache_dir.*--cache none"):
        cached_frames(table, {"top": (24, 32)}, tmp_path / "c", workers=1, progress=False)
    assert not list((tmp_path / "c").glob("*.frames"))


def test_a_place_that_cannot_be_written_states_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path, lengths=(9,))

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("Permission denied: '/mnt'")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match=r"cannot be written: Permission denied.*--cache_dir"):
        cached_frames(read_table(open_source(tmp_path)), {"top": (24, 32)}, tmp_path / "c", workers=1, progress=False)


def test_each_dataset_has_a_folder_of_its_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dataset(tmp_path / name, lengths=(3,))
    a, b = (read_table(open_source(tmp_path / name)) for name in ("a", "b"))
    assert folder_for(a, None) == tmp_path / "a" / ".cache"
    assert folder_for(a, "/fast") != folder_for(b, "/fast")
    assert folder_for(a, "/fast").parent == Path("/fast")


def test_a_damaged_frame_names_file_and_frame(tmp_path: Path) -> None:
    import h5py

    write_dataset(tmp_path, lengths=(5,), images="jpeg")
    table = read_table(open_source(tmp_path))
    with h5py.File(tmp_path / table.names[0], "r+") as root:
        root["observations/images/top"][3] = 0
    with pytest.raises(EpisodeError, match=r"episode_0.hdf5: frame 3 of camera 'top' cannot be used"):
        cached_frames(table, {"top": (24, 32)}, tmp_path / "c", workers=2, progress=False)
    with pytest.raises(EpisodeError, match=r"episode_0.hdf5: frame 3 of camera 'top' cannot be used"):
        DirectFrames(table, {"top": (24, 32)}, workers=2).gather(np.array([0, 3]))


def test_more_episodes_than_files_that_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_dataset(tmp_path, lengths=(3,) * 6)
    monkeypatch.setattr(OpenEpisodes, "LIMIT", 2)
    rows = np.random.default_rng(0).permutation(18)
    images = DirectFrames(read_table(open_source(tmp_path)), {"top": (24, 32)}, workers=3).gather(rows)["top"]
    expected = np.concatenate([e.images["top"][:-1] for e in written]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(images.numpy(), expected[rows])


def test_a_run_on_some_episodes_leaves_the_others_cached(tmp_path: Path) -> None:
    write_dataset(tmp_path, lengths=(9, 9, 9, 9))
    table = read_table(open_source(tmp_path))
    cached_frames(table, {"top": (24, 32)}, tmp_path / "c", workers=2, progress=False)
    few = read_table(open_source(tmp_path / table.names[0]))
    cached_frames(few, {"top": (24, 32)}, tmp_path / "c", workers=2, progress=False)
    cached_frames(table, {"top": (24, 32)}, tmp_path / "c", workers=2, progress=False, kind=NOT_AGAIN)


def test_a_slow_disk_is_read_ahead_and_a_fast_one_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_dataset(tmp_path, lengths=(9, 14))
    recorded = np.concatenate([e.images["top"][:-1] for e in written]).transpose(0, 3, 1, 2)
    frames = cached_frames(
        read_table(open_source(tmp_path)), {"top": (24, 32)}, tmp_path / "c", workers=2, progress=False
    )
    requested: list[tuple[int, int]] = []
    monkeypatch.setattr(MappedFrames, "RESIDENT", float("inf"))  # no memory is that fast: all gathers count as slow
    rows = np.array([22, 0, 7])  # the first and the last of the file, and one across a page's border
    for _ in range(2):
        np.testing.assert_array_equal(frames.gather(rows)["top"].numpy(), recorded[rows])
    monkeypatch.setattr(MappedFrames, "_read_ahead", lambda self, places: requested.append(tuple(places["top"])))
    frames.gather(rows)
    assert requested == [(22, 0, 7)]
    monkeypatch.setattr(MappedFrames, "RESIDENT", 0.0)
    for _ in range(3):
        frames.gather(rows)
    assert len(requested) == 2, "once more, since the gather before was slow"


def test_read_only_episodes_get_a_cache_in_the_users_cache_directory(tmp_path: Path) -> None:
    """Two data sets of one name, on a real read-only mount: each has a folder of its own, which is logged."""
    for name in ("a", "b"):
        write_dataset(tmp_path / name / "data", lengths=(6,), cameras={"top": (24, 32)})
    code = (
        "import sys\nfrom aloha_kit.data.cache import cached_frames, folder_for\n"
        "from aloha_kit.data.index import read_table\nfrom aloha_kit.formats import open_source\n"
        "for folder in sys.argv[1:]:\n"
        "    table = read_table(open_source(folder))\n"
        "    cached_frames(table, {'top': (24, 32)}, folder_for(table, None), workers=1)\n"
    )
    places = [str(tmp_path / name / "data") for name in ("a", "b")]
    mounts = "; ".join(f"mount --bind {p} {p}; mount -o remount,bind,ro {p}" for p in places)
    own, xdg, home = ({"ALOHA_KIT_CACHE": str(tmp_path / "own")}, {"XDG_CACHE_HOME": str(tmp_path / "xdg")},
                      {"XDG_CACHE_HOME": "", "HOME": str(tmp_path / "home")})  # fmt: skip
    roots = {"own": own | xdg, "xdg/aloha_kit": xdg, "home/.cache/aloha_kit": home}
    for place, variables in roots.items():
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", f'set -e; {mounts}; exec "$@"', "sh", sys.executable, "-c", code, *places],
            env={**os.environ, "ALOHA_KIT_CACHE": "", **variables}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "unshare" in done.stderr or "mount:" in done.stderr:
            pytest.skip("this machine allows no mounts")
        assert done.returncode == 0, done.stderr
        folders = sorted((tmp_path / place).iterdir())
        assert len(folders) == 2
        lines = done.stderr.splitlines()
        assert [line.partition(" (")[0] for line in lines] == [f"{p} cannot be written" for p in places]
        assert {line.rpartition(" in ")[2] for line in lines} == set(map(str, folders))
        assert all("Read-only file system" in line for line in lines)
        assert all(list(folder.glob("top_24x32.*.frames")) for folder in folders)
