"""Sweeps on a Ray cluster of this machine: real trainings, each in a process that Ray Tune starts."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from aloha_kit.sweep.__main__ import main
from tests.commands import failure
from tests.synthetic import write_dataset
from tests.tiny import write_policy

STEPS = 1500


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """A grid of one training that takes seconds, and of one that is refused."""
    write_dataset(tmp_path / "data", lengths=(12, 12), cameras={})
    flags: dict[str, Any] = {
        "policy": str(write_policy(tmp_path / "tiny.yaml", use_images=False)),
        "dataset_dir": [str(tmp_path / "data")],
        "preflight": False,
        "num_steps": STEPS,
        "val_every": 50,
        "val_fraction": 0.5,
        "threads": 1,
        "device": "cpu",
    }
    file = tmp_path / "rates.yaml"
    file.write_text(yaml.safe_dump({"flags": flags, "grid": [{"batch_size": [4]}, {"batch_size": [0]}]}))
    return file


def test_trials_are_stopped_gone_on_with_and_compared(
    grid: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray.tune", reason="needs Ray Tune: pip install 'aloha_kit[ray]'")
    words = [str(grid), "--output", str(tmp_path / "out"), "--ray", "--cpus", "1"]
    run, state = tmp_path / "out" / "batch_size_4", tmp_path / "out" / ".sweep" / "batch_size_4" / "result.json"
    last = run / "checkpoints" / "last" / "extra.json"
    over = threading.Event()

    def stop() -> None:
        while not over.wait(0.02):
            if last.exists():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    other = threading.Thread(target=stop)
    other.start()
    try:
        assert failure(main, words) == "143"
    finally:
        over.set()
        other.join()
    listed = capfd.readouterr().out
    assert listed.startswith(
        f"2 runs in {tmp_path}/out\n  0 batch_size_4\n    $ python -m aloha_kit.train --dataset_dir "
    )
    stopped = json.loads(last.read_text())["step"]
    assert 50 <= stopped < STEPS
    assert json.loads(state.read_text())["status"] in ("interrupted", "")  # Ray may kill its process before it notes it

    assert failure(main, words) == "1", "one of them is refused, and the other goes on"
    assert f"$ python -m aloha_kit.train --resume {run}\n" in capfd.readouterr().out
    assert json.loads(last.read_text())["step"] == STEPS
    done, refused = csv.DictReader((tmp_path / "out" / "table.csv").open())
    assert (done["run"], done["status"], done["steps"]) == ("batch_size_4", "done", str(STEPS))
    assert (refused["run"], refused["status"], refused["error"]) == (
        "batch_size_0", "failed", "status 2, see its output",
    )  # fmt: skip

    before = last.stat().st_mtime_ns
    main([*words, "--only", "0"])
    assert "| batch_size_4 | 4 | done | 1500 |" in capfd.readouterr().out
    assert last.stat().st_mtime_ns == before, "what is done is skipped"


def test_without_ray_its_extra_is_named(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    error = failure(main, [str(grid), "--output", str(tmp_path / "out"), "--ray"])
    assert error.startswith("error: --ray needs Ray (")
    assert error.endswith("): pip install 'aloha_kit[ray]'")
    assert not list((tmp_path / "out").rglob("checkpoints"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--ray", "--slurm"], "give --slurm or --ray, not both"),
        (["--ray", "--cpus", "0"], "--cpus must be above 0 and --gpus at least 0, given 0 and 0"),
    ],
)
def test_flags_that_do_not_fit(flags: list[str], expected: str, grid: Path) -> None:
    assert failure(main, [str(grid), *flags]) == f"error: {expected}"
