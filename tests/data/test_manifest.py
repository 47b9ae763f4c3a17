"""Manifests: rows against the files, incremental and interrupted builds, filters, training from one, stores."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aloha_kit.core import EpisodeError
from aloha_kit.core.parallel import WorkError, Workers
from aloha_kit.data.__main__ import main as data
from aloha_kit.data.build_manifest import build, BuildOptions
from aloha_kit.data.index import read_table
from aloha_kit.episode.__main__ import main as episode
from aloha_kit.formats import open_source
from aloha_kit.formats.manifest import Manifest
from tests.commands import failure
from tests.synthetic import write_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "a")
    return tmp_path / "a"


def rows(file: Path) -> list[dict[str, object]]:
    return Manifest.read(file).rows()


def test_rows_are_what_the_files_hold(folder: Path, tmp_path: Path) -> None:
    episode(["label", str(folder / "episode_1.hdf5"), "--success", "no"])
    data(["manifest", str(folder), "-o", str(tmp_path / "m.parquet"), "--validate"])
    found = rows(tmp_path / "m.parquet")
    files = [folder / f"episode_{i}.hdf5" for i in range(3)]
    assert [row["location"] for row in found] == [f"a/{file.name}" for file in files]
    assert [row["sha256"] for row in found] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert [row["bytes"] for row in found] == [file.stat().st_size for file in files]
    assert [row["steps"] for row in found] == [30, 41, 25]
    assert found[1]["success"] is False
    assert {row["verdict"] for row in found} <= {"ok", "warning", "error"}
    with closing(open_source(folder).episode(0)) as first:
        assert (found[0]["id"], found[0]["task"], found[0]["rate_hz"]) == (
            first.id,
            str(first.attrs.get("task") or ""),
            first.rate_hz,
        )


def test_training_reads_the_same_from_a_manifest(folder: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "b", lengths=(12, 13))
    episode(["drop", str(folder), "2"])
    episode(["trim", str(folder), "0", "--start", "5"])
    file = tmp_path / "lists" / "m.parquet"
    data(["manifest", str(folder), str(tmp_path / "b"), "-o", str(file)])
    source, direct = open_source(file), open_source(folder, tmp_path / "b")
    assert [source.name(i) for i in range(len(source))] == [direct.name(i) for i in range(len(direct))]
    assert [source.identity(i) for i in range(len(source))] == [direct.identity(i) for i in range(len(direct))]
    mine, theirs = read_table(source), read_table(direct)
    np.testing.assert_array_equal(mine.action, theirs.action)
    np.testing.assert_array_equal(mine.lengths, [25, 41, 12, 13])
    assert [row["steps"] for row in rows(file)] == [25, 41, 25, 12, 13]
    assert [row["excluded"] for row in rows(file)] == [False, False, True, False, False]
    assert "1 episode excluded" in source.unused
    assert len(open_source(file, options=None)) == 4


def test_a_build_reads_only_what_changed(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.parquet"
    options = BuildOptions()
    assert build([folder], file, options, Workers()).read == 3
    assert build([folder], file, options, Workers()).read == 0
    os.utime(folder / "episode_1.hdf5")
    episode(["relabel", str(folder), "0", "--success", "yes"])
    assert build([folder], file, options, Workers()).read == 2
    assert rows(file)[0]["success"] is True
    write_dataset(folder, lengths=(7,))
    assert build([folder], file, options, Workers()).read == 1
    assert len(rows(file)) == 4


def test_an_interrupted_build_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aloha_kit.data import build_manifest

    def killed(path: Path) -> str:
        if path.name == "episode_2.hdf5":
            raise KeyboardInterrupt
        return "00"

    file = tmp_path / "m.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(build_manifest, "sha256_of", killed)
        with pytest.raises(KeyboardInterrupt):
            build([folder], file, BuildOptions(), Workers())
    assert not file.exists(), "a part of a manifest has not its name"
    with (tmp_path / ".m.parquet.rows").open("a") as journal:
        journal.write('{"cut')
    assert build([folder], file, BuildOptions(), Workers()).read == 1
    assert [row["sha256"] for row in rows(file)][:2] == ["00", "00"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "m.parquet"]


def test_damaged_episodes_are_excluded(folder: Path, tmp_path: Path) -> None:
    (folder / "episode_1.hdf5").write_bytes(b"no episode")
    built = build([folder], tmp_path / "m.parquet", BuildOptions(), Workers())
    assert (built.read, built.damaged) == (3, 1)
    again = build([folder], tmp_path / "m.parquet", BuildOptions(), Workers())
    assert (again.read, again.damaged) == (0, 1), "it is still damaged"
    assert [row["excluded"] for row in rows(tmp_path / "m.parquet")] == [False, True, False]
    assert len(open_source(tmp_path / "m.parquet")) == 2


def test_a_file_that_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    build([folder], tmp_path / "m.parquet", BuildOptions(), Workers())
    source = open_source(tmp_path / "m.parquet")
    os.utime(folder / "episode_0.hdf5")
    with pytest.raises(EpisodeError, match=r"episode_0\.hdf5 changed since .*m\.parquet was built"):
        source.episode(0)
    (folder / "episode_1.hdf5").unlink()
    with pytest.raises(EpisodeError, match=r"episode_1\.hdf5, of .*m\.parquet, cannot be read: No such file"):
        source.episode(1)


def test_filters(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "m.parquet"
    episode(["label", str(folder / "episode_0.hdf5"), "--success", "unknown"])
    data(["manifest", str(folder), "-o", str(file)])
    capsys.readouterr()
    data(["ls", str(file), "--where", "steps > 28 and name != 'episode_0.hdf5'", "--json"])
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["episode_1.hdf5"]
    data(["ls", str(file), "--where", "steps > 28", "-o", str(tmp_path / "x/subset.parquet")])
    out = capsys.readouterr().out
    assert "2 episodes, 2 not excluded with 71 steps" in out
    subset = open_source(tmp_path / "x/subset.parquet")
    assert [subset.name(i) for i in range(len(subset))] == ["episode_0.hdf5", "episode_1.hdf5"]
    assert subset.episode(0).length == 30
    assert [row["name"] for row in Manifest.read(file).where("success").rows()] == ["episode_1.hdf5", "episode_2.hdf5"]
    message = failure(data, ["ls", str(file), "--where", "colour == 1"])
    assert "--where \"colour == 1\": name 'colour' is not defined; columns: id, name, rig" in message
    assert "no manifest" in failure(data, ["ls", str(tmp_path / "none.parquet")])
    assert failure(data, ["ls", str(folder)]) == (
        f"error: '{folder}' is a folder and no manifest; `python -m aloha_kit.data manifest {folder} -o "
        f"{folder}/manifest.parquet` makes one of it"
    )


def test_a_data_set_of_one_place(folder: Path, tmp_path: Path) -> None:
    from aloha_kit.convert.__main__ import main as convert

    convert([str(folder), str(tmp_path / "lerobot"), "--format", "lerobot"])
    data(["manifest", str(tmp_path / "lerobot"), "-o", str(tmp_path / "m.parquet")])
    found = rows(tmp_path / "m.parquet")
    assert [(row["number"], row["location"], row["bytes"]) for row in found] == [(i, "lerobot", None) for i in range(3)]
    source = open_source(tmp_path / "m.parquet")
    with closing(source.episode(2)) as last:
        assert last.length == 25


def test_a_manifest_goes_to_a_store_and_back(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    data(["manifest", str(folder), "-o", str(folder / "manifest.parquet")])
    url = f"file://{tmp_path}/share"
    data(["push", str(folder), url])
    data(["pull", url, str(tmp_path / "part"), "--where", "steps > 28"])
    there = sorted(path.name for path in (tmp_path / "part").glob("[!.]*"))
    assert there == ["episode_0.hdf5", "episode_1.hdf5", "manifest.parquet"]
    data(["pull", url, str(tmp_path / "all")])
    assert build([tmp_path / "all"], tmp_path / "all/manifest.parquet", BuildOptions(), Workers()).read == 0
    np.testing.assert_array_equal(
        read_table(open_source(tmp_path / "all/manifest.parquet")).action, read_table(open_source(folder)).action
    )


def test_a_process_that_dies_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aloha_kit.data import build_manifest

    monkeypatch.setattr(build_manifest, "_Reader", Dies)
    with pytest.raises(WorkError, match="a process died"):
        build([folder], tmp_path / "m.parquet", BuildOptions(), Workers(2))


class Dies:
    def __init__(self, source: object, base: object, edits: object, options: object) -> None:
        self.base = base

    def __call__(self, number: int) -> None:
        os._exit(9)
