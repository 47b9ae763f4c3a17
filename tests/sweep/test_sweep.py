"""Sweeps of real trainings of a few steps, each a child process."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from aloha_kit.core import ConfigError, lang
from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.policies.act import ActNetwork
from aloha_kit.sweep.__main__ import main
from aloha_kit.sweep.grid import read_grid
from aloha_kit.sweep.sweep_runs import RunResult, SweepRuns
from aloha_kit.sweep.sweep_table import write_tables
from tests.commands import failure
from tests.synthetic import write_dataset
from tests.tiny import write_policy
from tests.train.job import dataset, job, trainer, TRAINING


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """A grid of two learning rates and a batch size that is refused."""
    write_dataset(tmp_path / "data", lengths=(12, 12), cameras={})
    flags = {
        "policy": str(write_policy(tmp_path / "tiny.yaml", use_images=False)),
        "dataset_dir": [str(tmp_path / "data")],
        "preflight": False,
        "num_steps": 4,
        "val_every": 2,
        "val_fraction": 0.5,
        "threads": 1,
        "device": "cpu",
    }
    grids = [{"lr": [1.0e-3, 1.0e-5], "batch_size": [4]}, {"batch_size": [0]}]
    return _write(tmp_path / "rates.yaml", {"flags": flags, "grid": grids})


def _write(file: Path, values: Any) -> Path:
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def test_all_runs_are_trained_and_compared(grid: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    main([str(grid), "--output", str(out), "--dry_run"])
    listed = capfd.readouterr().out
    assert listed.startswith(f"3 runs in {out}\n  0 lr_0.001_batch_size_4\n    $ python -m aloha_kit.train --policy ")
    assert "--no_preflight --num_steps 4" in listed
    assert not out.exists()
    assert failure(main, [str(grid), "--output", str(out)]) == "1", "one of them failed, and the others were trained"
    written = capfd.readouterr()
    assert "error: batch_size must be at least 1, given 0" in written.err
    first, second, third = csv.DictReader((out / "table.csv").open())
    for row, name in ((first, "lr_0.001_batch_size_4"), (second, "lr_1e-05_batch_size_4")):
        assert (row["run"], row["status"], row["steps"], row["of"]) == (name, "done", "4", "val_deployed")
        values = [each["val_deployed"] for each in read_metrics(out / name / "metrics.csv") if "val_deployed" in each]
        assert float(row["best validation"]) == pytest.approx(min(values), rel=1e-3)
        assert float(row["seconds"]) > 0
    assert (first["lr"], second["lr"]) == ("0.001", "1e-05")
    assert (third["run"], third["status"], third["error"]) == ("batch_size_0", "failed", "status 2, see its output")
    table = (out / "table.md").read_text()
    assert table in written.out
    assert re.search(
        r"^\| lr_0.001_batch_size_4 \| 0.001 \| 4 \| done \| 4 \| [\d.]+ \| val_deployed \|  \| \d+:\d\d:\d\d ",
        table,
        re.M,
    )
    # again, as a job of an array: what is done is not repeated, the rest is tried again
    main([str(grid), "--output", str(out), "--slurm"])
    script = (out / "sweep.sbatch").read_text()
    assert "#SBATCH --array=0-2\n" in script
    before = (out / "lr_0.001_batch_size_4" / "metrics.csv").stat().st_mtime_ns
    for number, status in ((0, 0), (2, 1)):
        words = ["env", f"SLURM_ARRAY_TASK_ID={number}", "bash", str(out / "sweep.sbatch")]
        assert subprocess.run(words, capture_output=True, check=False).returncode == status
    assert (out / "lr_0.001_batch_size_4" / "metrics.csv").stat().st_mtime_ns == before


def test_runs_are_compared_by_the_metric_that_their_family_selects(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ActNetwork, "selects", "val_of_mine")
    runs = SweepRuns(tmp_path / "out", read_grid(grid)[:1])
    folder = runs.run_folder(runs.runs[0])
    trainer(job(folder, dataset(tmp_path / "episodes"), dataclasses.replace(TRAINING, num_steps=4, val_every=2))).fit()

    def row() -> dict[str, str]:
        write_tables(runs)
        (found,) = csv.DictReader((runs.folder / "table.csv").open())
        return found

    def lowest(name: str) -> float:
        return min(values[name] for values in read_metrics(folder / "metrics.csv") if name in values)

    assert row()["of"] == "val_of_mine"
    with lang.language("zh"):
        assert "| 最佳验证值 | 指标 |" in write_tables(runs)
    assert "| best validation | of |" in (runs.folder / "table.md").read_text()
    assert float(row()["best validation"]) == pytest.approx(lowest("val_of_mine"), rel=1e-3)
    notes = folder / "checkpoints" / "last" / "extra.json"
    older = json.loads(notes.read_bytes())
    del older["validation_metric"]
    for content in (json.dumps(older), "{", "[]"):  # of an earlier version, or damaged
        notes.write_text(content)
        assert row()["of"] == "val_loss"
        assert float(row()["best validation"]) == pytest.approx(lowest("val_loss"), rel=1e-3)


def test_a_run_that_was_stopped_goes_on(grid: Path, tmp_path: Path) -> None:
    runs = read_grid(grid)
    state = SweepRuns(tmp_path / "out", runs)
    run = tmp_path / "out" / runs[0].name
    assert state.command(runs[0]) == ["aloha_kit.train", *runs[0].flags, "--ckpt_dir", str(run)]
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    assert state.command(runs[0]) == ["aloha_kit.train", "--resume", str(run)]
    # a run of other flags is not mixed with these
    file = tmp_path / "out" / ".sweep" / runs[0].name / "result.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"flags": ["--lr", "7"], "status": "done", "seconds": 1.0, "error": ""}))
    with pytest.raises(ConfigError, match=r"was trained with other flags: --lr 7; choose another place with --output"):
        SweepRuns(tmp_path / "out", runs)
    assert SweepRuns(tmp_path / "out", runs[1:]).result(runs[1]) == RunResult(runs[1].flags)


def test_a_training_that_went_on_after_its_sweep_was_killed_is_done(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")  # its refusal to train more is Chinese
    state = SweepRuns(tmp_path / "out", [read_grid(grid)[0]])
    assert state.train(state.runs[0]).status == "done"
    (tmp_path / "out/.sweep" / state.runs[0].name / "result.json").unlink()
    result = state.train(state.runs[0])
    assert (result.status, result.error) == ("done", "")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"flags": {}}, r"expected the keys flags and grid, given flags"),
        ({"grid": {"lr": 1}}, r"grid: lr must be a list of values, given 1"),
        ({"grid": {}}, r"grid must be a mapping of flags to lists of values, given \{\}"),
        ({"flags": {"resume": "x"}, "grid": {"lr": [1]}}, r"resume cannot be given, since a sweep decides it"),
        ({"grid": [{"lr": [1]}, {"lr": [1, 2]}]}, r"each combination can be given once, given twice: lr_1$"),
    ],
)
def test_what_is_no_grid_is_refused(values: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        read_grid(_write(tmp_path / "grid.yaml", values))
    with pytest.raises(ConfigError, match=r"no file 'nowhere.yaml'"):
        read_grid(Path("nowhere.yaml"))


def test_names_and_flags_of_runs(tmp_path: Path) -> None:
    values = {
        "flags": {"task": "sim_insertion"},
        "grid": {"policy": ["a/mine.yaml", "act"], "image_size": [[48, 64]], "augment": [True, False]},
    }
    runs = read_grid(_write(tmp_path / "grid.yaml", values))
    assert [run.name for run in runs][:2] == [
        "policy_mine_image_size_48-64_augment_True",
        "policy_mine_image_size_48-64_augment_False",
    ]
    assert runs[3].flags == (
        "--task", "sim_insertion", "--policy", "act", "--image_size", "48", "64", "--no_augment"
    )  # fmt: skip
