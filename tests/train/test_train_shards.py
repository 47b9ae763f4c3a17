"""Training from shards: the losses of HDF5 bit for bit, on a bounded cache, and after a kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from aloha_kit.config.training import TrainConfig
from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.data.index import read_table
from aloha_kit.formats import open_joined, open_source, shard_export
from aloha_kit.policies import checkpoint
from aloha_kit.train.__main__ import main
from aloha_kit.train.training_data import decodes_episodes
from tests.commands import failure
from tests.synthetic import write_dataset
from tests.tiny import FLOW, write_policy
from tests.waiting import until

ROOT = Path(__file__).parents[2]
SMALL = 560_000  # bytes of cache: two windows of one or two shards
CAMERAS = {"top": (24, 32), "left_wrist": (16, 24)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes in `ours`, the same in `shards`, one in each."""
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder / "ours", (30, 41, 25, 33, 20, 38), CAMERAS, images="jpeg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_export, "SHARD_BYTES", 1)
        convert([str(folder / "ours"), str(folder / "shards"), "--format", "shards"])
    write_policy(folder / "tiny.yaml", FLOW, image_size=(12, 16))  # two steps of observation, resized images
    return folder


def flags(data: Path, place: str | Path, run: Path, **more: Any) -> list[str]:
    given = {
        "policy": data / "tiny.yaml",
        "dataset_dir": place,
        "ckpt_dir": run,
        "num_steps": 12,
        "schedule": "constant",
        "warmup_steps": 0,
        "batch_size": 6,
        "val_every": 4,
        "threads": 1,
        "workers": 2,
        "device": "cpu",
        **more,
    }
    return ["--no_preflight", *(word for key, value in given.items() for word in (f"--{key}", str(value)))]


def result(run: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """The log without times, and the weights."""
    rows = [
        {key: value for key, value in row.items() if key not in {"seconds", "data_ms", "step_ms"}}
        for row in read_metrics(run / "metrics.csv")
    ]
    return rows, checkpoint.load(run / "checkpoints/last").state_dict()


def require_equal(one: Path, two: Path) -> None:
    (rows, weights), (others, their_weights) = result(one), result(two)
    assert rows == others
    assert [name for name in weights if not torch.equal(weights[name], their_weights[name])] == []


def occupied(cache: Path) -> int:
    return sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())


def test_losses_and_weights_are_those_of_hdf5(data: Path, tmp_path: Path) -> None:
    main(flags(data, data / "ours", tmp_path / "ours", cache="none"))
    main(flags(data, data / "shards", tmp_path / "folder"))
    main(flags(data, f"file://{data}/shards", tmp_path / "url", cache_dir=tmp_path / "cache"))
    main(flags(data, data / "shards", tmp_path / "cached", cache="disk", cache_dir=tmp_path / "cache"))
    for other in ("folder", "url", "cached"):
        require_equal(tmp_path / "ours", tmp_path / other)
    assert len(list(tmp_path.glob("cache/*/shards/*.tar"))) == 5  # the validation episode is read by ranges
    assert not (data / "shards/.cache").exists()


def test_a_killed_run_on_a_small_cache_goes_on_bit_for_bit(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, small = f"file://{data}/shards", {"cache_gb": SMALL / 1e9, "num_steps": 40}
    main(flags(data, url, tmp_path / "straight", cache_dir=tmp_path / "one", **small))
    assert "windows of shards, two of which --cache_gb holds" in caplog.text
    assert 100_000 < occupied(tmp_path / "one") <= SMALL
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "aloha_kit.train"]
    killed = flags(data, url, tmp_path / "killed", cache_dir=tmp_path / "two", **{**small, "num_steps": 100_000})
    process = subprocess.Popen([*command, *killed], env=environment, stderr=subprocess.DEVNULL)
    last, largest = tmp_path / "killed/checkpoints/last", 0

    def trained() -> bool:
        nonlocal largest
        largest = max(largest, occupied_now(tmp_path / "two"))
        return last.is_dir() and process.poll() is None

    until(trained, "a checkpoint", timeout=120)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < largest <= SMALL
    reached = checkpoint.notes(last)["step"]
    assert reached < 40
    shutil.rmtree(next(tmp_path.glob("two/*/shards")))  # another machine has nothing there
    main(["--resume", str(tmp_path / "killed"), "--num_steps", "40"])
    require_same_end(tmp_path / "straight", tmp_path / "killed", reached)
    assert occupied(tmp_path / "two") <= SMALL


def test_shards_are_fetched_once_for_the_frame_cache_and_not_without_images(data: Path, tmp_path: Path) -> None:
    url, small = f"file://{data}/shards", {"cache_gb": SMALL / 1e9}
    main(flags(data, data / "ours", tmp_path / "ours", cache="none"))
    main(flags(data, url, tmp_path / "cached", cache="disk", cache_dir=tmp_path / "cache", **small))
    require_equal(tmp_path / "ours", tmp_path / "cached")  # one shuffle of all: no window
    shutil.rmtree(next(tmp_path.glob("cache/*/shards")))
    main(flags(data, url, tmp_path / "again", cache="disk", cache_dir=tmp_path / "cache", **small))
    require_equal(tmp_path / "ours", tmp_path / "again")
    main([*flags(data, url, tmp_path / "blind", cache_dir=tmp_path / "cache", **small), "--no_use_images"])
    assert not list(tmp_path.glob("cache/*/shards/*.tar"))


def test_data_sets_of_which_one_has_shards_use_no_frame_cache(data: Path) -> None:
    joined = open_joined([data / "ours", data / "shards"])
    for source, direct in ((joined, True), (open_source(data / "ours"), False), (open_source(data / "shards"), True)):
        assert decodes_episodes(read_table(source), FLOW, TrainConfig()) is direct


def occupied_now(cache: Path) -> int:
    """Bytes in a cache that another process changes meanwhile."""
    try:
        return occupied(cache)
    except FileNotFoundError:
        return 0


def require_same_end(straight: Path, resumed: Path, after: int) -> None:
    (rows, weights), (others, their_weights) = result(straight), result(resumed)
    assert [row for row in rows if row["step"] > after][-3:] == others[-3:]
    assert all(torch.equal(weights[name], their_weights[name]) for name in weights)


def test_weights_and_a_cache_that_is_too_small_are_refused(data: Path, tmp_path: Path) -> None:
    url = f"file://{data}/shards"
    both = ["--dataset_dir", url, str(data / "ours"), "--weights", "1", "1", "--cache_dir", str(tmp_path)]
    common = flags(data, url, tmp_path / "run", cache_gb=SMALL / 1e9)
    assert "--weights draws from all shards at once" in failure(main, [*common, *both])
    tiny = flags(data, url, tmp_path / "run", cache_gb=1e-6, cache_dir=tmp_path)
    assert "--cache_gb 1e-06 is too small" in failure(main, tiny)
