from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aloha_kit.core import ConfigError
from aloha_kit.core.metrics_file import MetricsFile, read_metrics
from aloha_kit.train.args import parse, to_snapshot
from aloha_kit.train.metrics import Columns, plot_losses, wrong_chunk_end
from aloha_kit.train.run_folder import Run
from tests.train.job import COLUMNS


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", to_snapshot(parse(["--dataset_dir", "data"])))
    with pytest.raises(ConfigError, match=r"run' is not empty; go on with it by --resume .*run, or .*--ckpt_dir"):
        Run.create(tmp_path / "run", {})
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.pdf").touch()
    with pytest.raises(ConfigError, match=r"papers' is not empty; choose another place") as error:
        Run.create(tmp_path / "papers", {})
    assert "--resume" not in str(error.value)
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", {})


def test_nothing_to_resume_states_what_there_is(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    (run.checkpoints / "best").mkdir(parents=True)
    (run.checkpoints / "step_10").mkdir()
    (run.checkpoints / "step_10" / "training_state.pt").touch()
    with pytest.raises(ConfigError, match=r"last' has no training state .* resume an older .*--resume .*/step_10$"):
        run.state(run.folder)
    with pytest.raises(ConfigError, match=r"best' has no training state"):
        run.state(run.checkpoints / "best")


def test_metrics_go_on_where_the_checkpoint_is(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    first = MetricsFile(file, COLUMNS.names, after=0)
    for step in (10, 20, 30):
        first.add({"step": step, "loss": 1 / step, "something_else": 5.0})
    first.add({"step": 30, "val_loss": 0.5})
    second = MetricsFile(file, COLUMNS.names, after=20)
    second.add({"step": 30, "loss": 9.0})
    assert read_metrics(file) == [
        {"step": 10, "loss": 0.1},
        {"step": 20, "loss": 0.05},
        {"step": 30, "loss": 9.0},
    ]
    with file.open("ab") as handle:
        handle.write(b"40,1.5,0.2\n50,1.\xff,\n\0\0\0\nwords,2\n6")
    assert [row["step"] for row in read_metrics(file)] == [10, 20, 30, 40, 6]
    columns = Columns(("mse",), ("val_loss",), "val_loss")
    MetricsFile(file, columns.names, after=20).add({"step": 30, "mse": 4.0, "val_error_left": 5.0})
    assert read_metrics(file)[-1] == {"step": 30, "mse": 4.0}
    assert MetricsFile(file, COLUMNS.names, after=0)
    assert read_metrics(file) == []


def test_columns_that_a_run_has_stay(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("step,loss,l1,val_deployed\n10,3.5,2.5,\n10,,,1.5\n")
    MetricsFile(file, Columns((), ("val_loss",), "val_loss").names, after=10).add({"step": 20, "l1": 0.25})
    assert read_metrics(file) == [
        {"step": 10, "loss": 3.5, "l1": 2.5},
        {"step": 10, "val_deployed": 1.5},
        {"step": 20, "l1": 0.25},
    ]


def test_a_wrong_end_of_the_chunk_is_found_in_the_last_validation() -> None:
    def validated(**errors: tuple[float, float]) -> dict[str, float]:
        ends = {"_first": 0, "_last": 1}
        return {f"val_error_{group}{end}": errors[group][i] for group in errors for end, i in ends.items()}

    training = {"step": 30.0, "loss": 1.0}
    wrong = {"step": 20.0, **validated(left=(0.0075, 0.135), right=(0.018, 0.29), left_gripper=(0.015, 0.1))}
    assert wrong_chunk_end([training, wrong, training]) == ("right", 0.018, 0.29)
    sound = {"step": 40.0, **validated(left=(0.0127, 0.0555), right=(0.0139, 0.0625))}
    assert wrong_chunk_end([wrong, sound, training]) is None
    rests = {"step": 50.0, **validated(left=(1e-7, 1e-4), left_gripper=(0.0, 0.0), right=(0.0139, 0.0625))}
    assert wrong_chunk_end([wrong, rests]) is None, "an arm at rest"
    assert wrong_chunk_end([{"step": 50.0, **validated(left=(0.0, 0.0))}]) is None
    assert wrong_chunk_end([training]) is None
    assert wrong_chunk_end([]) is None


def test_the_image_of_the_losses(tmp_path: Path) -> None:
    import cv2

    rows = [{"step": s, "loss": 1 / s, "lr": 1e-4, "success_rate": 0.0} for s in range(1, 50)]
    plot_losses([*rows, {"step": 25, "val_loss": 0.1, "val_deployed": 0.2}], tmp_path / "loss.png", COLUMNS)
    image = cv2.imread(str(tmp_path / "loss.png"))
    assert image.shape[0] > 300
    assert (image != 255).any(axis=2).mean() > 0.01
    plot_losses([], tmp_path / "empty.png", COLUMNS)
    assert (tmp_path / "empty.png").exists()


def test_equal_curves_are_both_seen(tmp_path: Path) -> None:
    import cv2

    def green(*keys: str) -> int:
        rows = [{"step": step, **dict.fromkeys(keys, 1 / step)} for step in range(1, 200, 50)]
        plot_losses([{"step": 1, "loss": 1.0, "l1": 1.0}, *rows], tmp_path / "loss.png", COLUMNS)
        image = cv2.imread(str(tmp_path / "loss.png"))
        return int((np.abs(image.astype(int) - [44, 160, 44]).max(axis=2) < 30).sum())  # val_loss, the third curve

    assert green("val_loss", "val_deployed") > 0.2 * green("val_loss")
