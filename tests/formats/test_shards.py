"""Data sets of shards: nothing is lost, WebDataset reads them, and they are read from a server that fails at times."""

from __future__ import annotations

import functools
import http.server
import io
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.core.image_grid import describe
from aloha_kit.data.camera_statistics import add_camera_statistics
from aloha_kit.data.index import read_table
from aloha_kit.data.stats import Accumulator
from aloha_kit.episode import Episode
from aloha_kit.formats import EXPORTERS, format_of, open_source, ReadOptions, shard_export, shard_store
from aloha_kit.formats.shard_export import GRIDS, ShardExporter
from aloha_kit.formats.shard_source import ShardSource
from aloha_kit.storage.curation import Curation, EpisodeEdit
from aloha_kit.testing.exporters import check_exporter
from aloha_kit.testing.sources import check_source
from tests.commands import failure
from tests.formats.round_trip import convert_interrupted, InterruptedOnce, LENGTHS, write_ours
from tests.synthetic import write_dataset

CAMERAS = {"top": (24, 32), "left_wrist": (16, 24)}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder / "ours", LENGTHS, CAMERAS, base=True, images="jpeg")
    return folder / "ours"


@pytest.fixture(scope="module")
def shards(ours: Path) -> Path:
    """Episodes 0 and 1 in a shard, 2 in another."""
    made = ours.with_name("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_export, "SHARD_BYTES", 140_000)
        convert([str(ours), str(made), "--format", "shards"])
    return made


class Files(http.server.SimpleHTTPRequestHandler):
    """Files with ranges, after `fail` refusals; `whole` is a server that knows no ranges."""

    fail, whole, asked = 0, False, list[str]()

    def do_GET(self) -> None:
        kind = type(self)
        kind.asked.append(self.path.rsplit("/", 1)[-1])
        if kind.fail:
            kind.fail -= 1
            self.send_error(503)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if kind.whole or not wanted:
            super().do_GET()
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = map(int, wanted.groups())
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(data[first : last + 1])))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def url(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The data set behind HTTP on the loopback."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(shard_store, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(Files, "fail", 0)
    monkeypatch.setattr(Files, "whole", False)
    monkeypatch.setattr(Files, "asked", [])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=str(shards.parent)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/shards"
    server.shutdown()
    server.server_close()
    thread.join()


def opened(place: str | Path, cache: Path, **more: Any) -> ShardSource:
    source = open_source(place, options=ReadOptions(cache_dir=str(cache), **more))
    assert isinstance(source, ShardSource)
    return source


def require_equal(source: ShardSource, ours: Path) -> None:
    """Assert that every value and pixel is that of the episodes."""
    for number in range(len(LENGTHS)):
        with Episode.open(ours / f"episode_{number}.hdf5") as old, closing(source.open(number)) as new:
            assert (new.length, new.frames, new.id) == (old.length, old.length + 1, old.id)
            assert (new.name, new.contract, new.success) == (old.name, old.contract, old.success)
            assert (new.attrs["task"], new.rate_hz) == (old.attrs["task"], old.rate_hz)
            for name in ("action", "base_action", "reward"):
                assert np.array_equal(getattr(new, name), getattr(old, name)), name
            assert {name: values.tolist() for name, values in new.vectors.items()} == {
                name: values.tolist() for name, values in old.vectors.items()
            }
            assert {name: values.tolist() for name, values in new.stamps.items()} == {
                name: values.tolist() for name, values in old.stamps.items()
            }
            for camera in CAMERAS:
                for row in range(old.frames):
                    assert new.jpeg(camera, row) == old.encoded(camera, row)
                    assert np.array_equal(new.image(camera, row), old.image(camera, row))


def test_nothing_is_lost(ours: Path, shards: Path, tmp_path: Path, capsys: Any) -> None:
    index = json.loads((shards / "shards.json").read_text())
    assert [(shard["name"], shard["episodes"]) for shard in index["shards"]] == [
        ("shard-000000.tar", 2),
        ("shard-000001.tar", 1),
    ]
    report = json.loads((shards / "conversion.json").read_text())
    assert (report["lost"], report["changed"]) == ({}, {})
    assert format_of(shards) == "shards"
    require_equal(opened(shards, tmp_path), ours)
    convert([str(shards), str(tmp_path / "back"), "--format", "hdf5"])
    with Episode.open(ours / "episode_1.hdf5") as old, Episode.open(tmp_path / "back/episode_1.hdf5") as new:
        assert np.array_equal(new.qpos, old.qpos)
        assert abs(new.image("top", 12).astype(int) - old.image("top", 12)).mean() < 3  # encoded anew


def test_contracts(ours: Path, shards: Path, tmp_path: Path) -> None:
    made = check_exporter(ShardExporter, open_source(ours), tmp_path)
    for name in ("tables/places.images.top.npy", "episodes.jsonl"):
        assert (made / name).read_bytes() == (shards / name).read_bytes()
    check_source(opened(shards, tmp_path))
    check_source(opened(f"file://{shards}", tmp_path / "cache"))


def test_webdataset_reads_a_sample_for_each_action(ours: Path, shards: Path) -> None:
    wds = pytest.importorskip("webdataset")
    files = [str(file) for file in sorted(shards.glob("shard-*.tar"))]
    samples = list(wds.WebDataset(files, shardshuffle=False).decode())
    assert [len(sample) for sample in samples] == [7] * sum(LENGTHS)  # with __key__, __url__, __local_path__
    row = 0
    for number, length in enumerate(LENGTHS):
        with Episode.open(ours / f"episode_{number}.hdf5") as episode:
            assert episode.base_action is not None
            for i in range(length):
                sample = samples[row]
                assert sample["__key__"] == f"{number:06d}_{i:06d}"
                assert np.array_equal(sample["state.npy"], episode.qpos[i])
                assert np.array_equal(sample["action.npy"], [*episode.action[i], *episode.base_action[i]])
                assert sample["left_wrist.jpg"] == episode.encoded("left_wrist", i)
                row += 1


def test_pixels_become_jpeg_or_png(tmp_path: Path) -> None:
    ours = write_ours(tmp_path, CAMERAS)  # raw
    convert([str(ours), str(tmp_path / "png"), "--format", "shards", "--images", "raw"])
    convert([str(ours), str(tmp_path / "jpeg"), "--format", "shards"])
    png, jpeg = opened(tmp_path / "png", tmp_path), opened(tmp_path / "jpeg", tmp_path)
    with Episode.open(ours / "episode_2.hdf5") as old:
        assert np.array_equal(png.open(2).image("top", 5), old.image("top", 5))
        difference = jpeg.open(2).image("top", 5).astype(int) - old.image("top", 5)
        assert 0 < abs(difference).mean() < 6
    changed = json.loads((tmp_path / "jpeg/conversion.json").read_text())["changed"]
    assert changed == {"images are encoded as JPEG of quality 95": 3}


def test_depth_is_carried(tmp_path: Path) -> None:
    from tests.policies.test_depth import record, RIG

    record(tmp_path / "ours", 6, RIG)
    convert([str(tmp_path / "ours"), str(tmp_path / "shards"), "--format", "shards"])
    with (
        closing(opened(tmp_path / "shards", tmp_path).open(0)) as new,
        closing(open_source(tmp_path / "ours").open(0)) as old,
    ):
        assert new.depth_cameras == old.depth_cameras == ("cam_high",)
        for row in range(old.frames):
            assert np.array_equal(new.depth("cam_high", row), old.depth("cam_high", row))
        with pytest.raises(EpisodeError, match="no row 99 of images_depth/cam_high"):
            new.depth("cam_high", 99)


class Interrupted(InterruptedOnce, ShardExporter):
    """Ends in the middle of the second episode, once."""

    def half_written(self) -> Path:
        return self.parts / "000001/episode.tar"


def test_an_interrupted_conversion_goes_on(ours: Path, shards: Path, tmp_path: Path, capsys: Any) -> None:
    convert_interrupted(Interrupted, ours, tmp_path / "out", capsys)
    require_equal(opened(tmp_path / "out", tmp_path), ours)


def test_statistics_of_cameras_are_those_of_the_stored_images(ours: Path, shards: Path, tmp_path: Path) -> None:
    table = read_table(opened(shards, tmp_path))

    class NoFrames:
        def gather(self, rows: Any, *, pin: bool = False) -> Any:
            raise AssertionError("an image was decoded")

    found = add_camera_statistics(table.statistics(), table, NoFrames(), [0, 2])["images/top"]
    expected = Accumulator()
    for number in (0, 2):
        with Episode.open(ours / f"episode_{number}.hdf5") as episode:
            for row in np.linspace(0, episode.length - 1, GRIDS).round().astype(int):
                expected.add(describe(episode.image("top", row))[None])
    assert found.count == 2 * GRIDS
    np.testing.assert_allclose(found.mean, expected.moments().mean, rtol=1e-6)
    np.testing.assert_allclose(found.std, expected.moments().std, rtol=1e-5)
    for edited in (Curation(image_size={"top": (12, 16)}), Curation(episodes={"episode_0": EpisodeEdit(start=1)})):
        source = open_source(shards, options=ReadOptions(curation=edited))
        assert not source.image_grids(0)


def test_an_image_is_read_by_its_range_and_a_shard_is_kept(ours: Path, url: str, tmp_path: Path) -> None:
    source = opened(url, tmp_path)
    with Episode.open(ours / "episode_2.hdf5") as episode:
        expected = episode.image("top", 3)
    assert np.array_equal(source.open(2).image("top", 3), expected)
    assert Files.asked.count("shard-000001.tar") == 1
    assert not list(tmp_path.glob("*/shards/*"))
    for _ in range(2):
        source.fetch(2)
    kept = next(tmp_path.glob("*/shards/shard-000001.tar"))
    for _ in range(5):
        assert np.array_equal(source.open(2).image("top", 3), expected)
    assert Files.asked.count("shard-000001.tar") == 2
    assert Files.asked.count("places.images.top.npy") == 1
    kept.unlink()
    assert np.array_equal(source.open(2).image("top", 3), expected)  # evicted meanwhile
    require_equal(source, ours)


def test_a_server_without_ranges(ours: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Files, "whole", True)
    monkeypatch.setattr(shard_store, "_BLOCK", 50_000)
    source = opened(url, tmp_path)
    source.fetch(0)
    require_equal(source, ours)


def test_failures_of_the_network_are_tried_again(
    url: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shard_store, "_BLOCK", 50_000)
    source = opened(url, tmp_path)
    Files.fail = 2
    source.fetch(0)
    assert next(tmp_path.glob("*/shards/*")).read_bytes() == (shards / "shard-000000.tar").read_bytes()
    assert caplog.text.count("shard-000000.tar: ") == 2
    Files.fail = 99
    with pytest.raises(EpisodeError, match=r"shards/shard-000001.tar cannot be read, tried 3 times: 503"):
        source.fetch(2)
    assert [path.name for path in tmp_path.glob("*/shards/*")] == ["shard-000000.tar"]
    with pytest.raises(EpisodeError, match=r"tried 3 times"):
        opened(url, tmp_path)


def test_what_is_missing_changed_or_too_small_is_named(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    with (copy / "shard-000001.tar").open("r+b") as stream:
        stream.seek(3000)
        stream.write(b"changed")
    source = opened(f"file://{copy}", tmp_path / "cache")
    with pytest.raises(EpisodeError, match=r"shard-000001.tar differs from what shards.json lists"):
        source.fetch(2)
    (copy / "shard-000000.tar").unlink()
    with pytest.raises(EpisodeError, match=r"shard-000000.tar does not exist"):
        source.fetch(0)
    with pytest.raises(EpisodeError, match=r"shard-000000.tar cannot be read"):
        opened(copy, tmp_path).open(0).image("top", 0)
    with pytest.raises(ConfigError, match=r"--cache_gb 0.0001 is too small for file://.*: give at least 0\.\d+"):
        opened(f"file://{shards}", tmp_path / "cache", cache_gb=0.0001)
    index = json.loads((copy / "shards.json").read_text())
    (copy / "shards.json").write_text(json.dumps({**index, "aloha_kit_shards": 2}))
    with pytest.raises(EpisodeError, match="shards of version 2, this program reads version 1"):
        opened(copy, tmp_path)
    (copy / "shards.json").write_text("{")
    with pytest.raises(EpisodeError, match=r"shards.json is damaged"):
        opened(copy, tmp_path)
    (copy / "shards.json").unlink()
    with pytest.raises(EpisodeError, match=r"lacks shards\.json"):
        opened(f"file://{copy}", tmp_path)
    assert "written without --crf" in failure(
        convert, [str(shards), str(tmp_path / "x"), "--format", "shards", "--crf", "3"]
    )
    with pytest.raises(ConfigError, match="read without --rename"):
        opened(shards, tmp_path, rename={"a": "top"})


@pytest.mark.parametrize("order", ["mobile_aloha", "standard"])
def test_images_are_encoded_anew_on_request(order: str, tmp_path: Path, capsys: Any) -> None:
    """The stored JPEG is decoded and encoded by OpenCV; the quality is computed from what it decodes again."""
    write_dataset(tmp_path / "ours", (3,), CAMERAS, images="jpeg")
    with h5py.File(tmp_path / "ours" / "episode_0.hdf5", "r+") as file:
        file.attrs["jpeg_order"] = order
    convert([str(tmp_path / "ours"), str(tmp_path / "small"), "--format", "shards", "--quality", "40", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["changed"] == {"images are encoded as JPEG of quality 40": 1}
    source = opened(tmp_path / "small", tmp_path / "cache")
    with Episode.open(tmp_path / "ours" / "episode_0.hdf5") as old, closing(source.open(0)) as new:
        for camera in CAMERAS:
            errors = []
            for row in range(old.frames):
                pixels = old.image(camera, row)
                given = pixels if order == "mobile_aloha" else pixels[..., ::-1]
                code = cv2.imencode(".jpg", given, [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
                assert new.jpeg(camera, row) == code.tobytes()
                decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
                decoded = decoded if order == "mobile_aloha" else decoded[..., ::-1]
                assert np.array_equal(new.image(camera, row), decoded)
                errors.append(10 * np.log10(255**2 / np.mean((decoded.astype(float) - pixels) ** 2)))
            assert report["lowest_psnr_db"][camera] == pytest.approx(np.mean(errors), abs=0.006)
            assert 15 < np.mean(errors) < 60


def test_a_quality_that_does_not_apply_is_refused(ours: Path, tmp_path: Path) -> None:
    flags = [str(ours), str(tmp_path / "x"), "--quality"]
    assert "--quality must be 1 to 100, given 0" in failure(convert, [*flags, "0", "--format", "shards"])
    raw = failure(convert, [*flags, "80", "--format", "shards", "--images", "raw"])
    assert "episodes of format shards --images raw are written without --quality" in raw
    for kind in EXPORTERS.keys() - {"shards", "robomimic_states"}:  # the last is robomimic in another environment
        assert "are written without --quality" in failure(convert, [*flags, "80", "--format", kind]), kind


def test_a_damaged_image_is_named(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    (copy / "shard-000001.tar").write_bytes(bytes((copy / "shard-000001.tar").stat().st_size))
    with pytest.raises(EpisodeError, match=r"copy: episode_2.hdf5: row 4 of images/top cannot be used: not a JPEG"):
        opened(copy, tmp_path).open(2).image("top", 4)


def test_a_shard_that_is_cut_off_is_named(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    os.truncate(copy / "shard-000001.tar", (copy / "shard-000001.tar").stat().st_size // 2)
    episode = opened(copy, tmp_path).open(2)
    assert episode.jpeg("top", 0)
    with pytest.raises(EpisodeError, match=r"shard-000001.tar is cut off: it ends before byte \d+"):
        episode.jpeg("top", LENGTHS[2])
    assert "is cut off" in failure(convert, [str(copy), str(tmp_path / "out"), "--format", "shards"])


def test_a_full_disk_is_named(shards: Path, tmp_path: Path) -> None:
    store = opened(f"file://{shards}", tmp_path).store
    assert isinstance(store, shard_store.UrlStore)
    with pytest.raises(ConfigError, match=r"shard-000000.tar of file://.* in /dev: No space left .*--cache_dir"):
        store._download("shard-000000.tar", Path("/dev/full"))


def test_edits_of_edits_keep_the_stored_images(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", (9, 5), CAMERAS, images="jpeg")
    write_dataset(tmp_path / "b", (7,), CAMERAS, images="jpeg")
    (tmp_path / "a/curation.yaml").write_text("version: 1\nepisodes:\n  episode_0: {start: 2, stop: 7}\n")
    (tmp_path / "joined").mkdir()
    (tmp_path / "joined/curation.yaml").write_text("version: 1\ndata: [../a, ../b]\ncameras: {front: top}\n")
    convert([str(tmp_path / "joined"), str(tmp_path / "shards"), "--format", "shards"])
    assert json.loads((tmp_path / "shards/conversion.json").read_text())["changed"] == {}
    with Episode.open(tmp_path / "a/episode_0.hdf5") as old:
        assert opened(tmp_path / "shards", tmp_path).open(0).jpeg("front", 1) == old.encoded("top", 3)


def test_episodes_that_differ_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", (5,), CAMERAS, images="jpeg")
    write_dataset(tmp_path / "b", (5,), {"top": (24, 32)}, images="jpeg")
    shutil.copy(tmp_path / "b/episode_0.hdf5", tmp_path / "a/episode_1.hdf5")
    with pytest.raises(SystemExit):
        convert([str(tmp_path / "a"), str(tmp_path / "out"), "--format", "shards"])


def test_npy_members_are_plain(shards: Path) -> None:
    """Without pickle, so that reading runs no code."""
    import tarfile

    with tarfile.open(shards / "shard-000001.tar") as tar:
        names = tar.getnames()
        assert names[-1] == f"__last__/000002_{LENGTHS[2]:06d}.state.npy"
        member = tar.extractfile("000002_000000.state.npy")
        assert member is not None
        assert np.load(io.BytesIO(member.read()), allow_pickle=False).shape == (14,)
