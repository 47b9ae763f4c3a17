"""`--debug`: a whole training of a task with a simulation, made small."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
import yaml

from aloha_kit.config import load, TaskConfig
from aloha_kit.config.policies import ActConfig
from aloha_kit.core import UsageError
from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.policies import checkpoint
from aloha_kit.train.__main__ import main
from aloha_kit.train.args import parse
from aloha_kit.train.debug import debug_folder, simulated, small_network


def test_a_training_runs_through_all_its_parts(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*flags, "--debug", "--task", "sim_transfer_cube", "--val_fraction", "0.34"])
    expected = (
        "--debug, in place of the values in brackets: num_steps 3 (20), batch_size 2 (8), val_every 3 (10), "
        "val_batches 1 (20), eval_every 3 (0), eval_rollouts 2 (10), image_size [96, 128] (None), num_episodes 3, "
        "rollouts of 20 steps"
    )
    assert expected in capsys.readouterr().err
    run = tmp_path / "run_debug"
    assert not (tmp_path / "run").exists(), "the folder of the real training stays free"
    rows = read_metrics(run / "metrics.csv")
    assert [row["step"] for row in rows] == [3, 3, 3]
    assert {key for row in rows for key in row} >= {"loss", "val_deployed", "success_rate", "rollout_steps"}
    assert rows[-1]["rollout_steps"] == 20
    assert checkpoint.load(run / "checkpoints" / "last").config.image_size == (96, 128)
    with av.open(str(run / "rollouts" / "step_3.mp4")) as video:
        assert len(list(video.decode(video=0))) == 21
    # the run is one like the others
    assert "debug" not in yaml.safe_load((run / "config.yaml").read_text())
    assert debug_folder(tmp_path / "run") == tmp_path / "run_debug_2"


def test_what_is_small_already_stays() -> None:
    small = ActConfig(image_size=(60, 80))
    assert small_network(small) == small
    assert small_network(ActConfig(use_images=False, use_environment_state=True)).image_size is None


def test_rollouts_are_for_tasks_with_a_simulation_in_this_process() -> None:
    assert simulated(load(TaskConfig, "tasks", "sim_insertion"))
    assert not simulated(load(TaskConfig, "tasks", "aloha_transfer_cube"))
    assert not simulated(None)


def test_no_run_is_resumed_for_a_trial(tmp_path: Path, flags: list[str]) -> None:
    main([*flags, "--no_preflight", "--num_steps", "2"])
    with pytest.raises(UsageError, match=r"^--debug makes a run of its own: leave --resume out$"):
        parse(["--resume", str(tmp_path / "run"), "--debug"])
