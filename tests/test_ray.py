"""Commands whose work is shared on a Ray cluster: each gives what it gives on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.data.__main__ import main as data
from aloha_kit.episode.__main__ import main as episode
from aloha_kit.eval.__main__ import main as evaluate
from tests import tiny
from tests.commands import failure
from tests.ray_cluster import two_cores
from tests.synthetic import write_dataset

STEPS = (12, 9, 14)


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    with two_cores() as address:
        yield address


@pytest.mark.parametrize("command", ["validate", "info", "stats"])
def test_what_is_read_is_the_same_everywhere(
    command: str, ray_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "data", STEPS)
    (tmp_path / "data" / "episode_1.hdf5").write_bytes(b"no episode")
    monkeypatch.chdir(tmp_path)
    found = []
    for flags in ([], ["--workers", "2"], ["--ray", ray_address]):
        assert failure(episode, [command, "data", "--json", *flags]) == "1"
        found.append(capsys.readouterr())
    assert found[0].out == found[1].out == found[2].out
    assert len(found[0].out.splitlines()) > 20
    assert all("episode_1" in each.out + each.err for each in found)


def test_conversion_is_the_same_on_ray(ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data", STEPS)
    monkeypatch.chdir(tmp_path)
    for kind in ("hdf5", "lerobot"):
        convert(["data", f"here/{kind}", "--format", kind])
        convert(["data", f"ray/{kind}", "--format", kind, "--ray", ray_address])
    files = sorted(path.relative_to("here") for path in Path("here").rglob("*") if path.is_file())
    assert files == sorted(path.relative_to("ray") for path in Path("ray").rglob("*") if path.is_file())
    assert len(files) > 10
    assert [file for file in files if ("here" / file).read_bytes() != ("ray" / file).read_bytes()] == []


def test_a_manifest_is_the_same_on_ray(ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data", STEPS)
    monkeypatch.chdir(tmp_path)
    for name, flags in (("here", []), ("ray", ["--ray", ray_address])):
        data(["manifest", "data", "-o", f"{name}.parquet", "--validate", *flags])
    here, ray = (pyarrow.parquet.read_table(f"{name}.parquet").to_pylist() for name in ("here", "ray"))
    assert here == ray
    assert len(here) == 3
    assert all(row["sha256"] and row["verdict"] for row in here)


def test_rollouts_are_the_same_on_ray(ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two checkpoints by seed: 3 rollouts, in blocks of 2."""
    for name in "ab":
        tiny.save_checkpoint(tmp_path / name, tiny.contract(), task="sim_transfer_cube")
    monkeypatch.chdir(tmp_path)
    words = ["--ckpt", "a", "--ckpt", "b", "--task", "sim_transfer_cube", "--episode_len", "10", "--num_rollouts", "3"]
    words += ["--batch", "2", "--threads", "1"]
    evaluate([*words, "--workers", "1", "--output", "here"])
    evaluate([*words, "--ray", ray_address, "--output", "ray"])
    here, ray = (json.loads(Path(name, "eval.json").read_text()) for name in ("here", "ray"))
    assert [each["label"] for each in ray["checkpoints"]] == ["A", "B"]
    for ours, theirs in zip(here["checkpoints"], ray["checkpoints"], strict=True):
        assert len({rollout["actions"] for rollout in ours["rollouts"]}) == 3
        assert {**ours, "speed": 0} == {**theirs, "speed": 0}
    assert here["comparison"] == ray["comparison"]
