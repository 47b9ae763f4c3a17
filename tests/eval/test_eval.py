"""The command from flags to the report: real processes, real MuJoCo, small images, a few steps."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.control.simulated_latency import Execution
from aloha_kit.core import Contract
from aloha_kit.deploy.__main__ import main as deploy
from aloha_kit.episode import Episode, list_episodes
from aloha_kit.eval.__main__ import main
from aloha_kit.eval.batched_inference import BatchedInference
from aloha_kit.eval.pool import EvaluationError, Pool
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.eval.worker import EvaluationJob
from tests.commands import failure
from tests.eval.conftest import CONTRACT, save_checkpoint

TASK = ("--task", "sim_transfer_cube", "--episode_len", "14")


def evaluate(*argv: Any) -> None:
    main([str(word) for word in argv])


def fail(*argv: Any) -> str:
    return failure(evaluate, *argv)


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "eval.json").read_text())


@pytest.mark.parametrize(
    "how", [[], ["--temporal_agg"], ["--chunk_boundary", "blend", "--n_action_steps", "4"], ["--precision", "bf16"]]
)
def test_the_same_seeds_go_as_in_deployment(how: list[str], trained: Path, tmp_path: Path) -> None:
    """Every action is the same, to the bit, three rollouts at a time in two processes; and so are the results."""
    seeds = ("--ckpt", trained, *TASK, *how, "--engine", "eager", "--num_rollouts", 3, "--seed", 40)
    deploy([str(word) for word in (*seeds, "--video", 0, "--output", tmp_path / "deploy")])
    view = () if how else ("--onscreen_render", tmp_path / "live.rrd")  # which changes nothing
    evaluate(*seeds, "--batch", 3, "--workers", 2, "--output", tmp_path / "eval", *view)
    assert sorted(file.name for file in tmp_path.glob("live*")) == (["live_1.rrd"] if view else [])
    theirs = json.loads((tmp_path / "deploy" / "deploy.json").read_text())
    (ours,) = report(tmp_path / "eval")["checkpoints"]
    for key in ("seed", "steps", "final_reward", "max_reward", "success", "touched", "reason", "actions"):
        assert [r[key] for r in ours["rollouts"]] == [r[key] for r in theirs["rollouts"]]
    assert ours["success"] == theirs["success"]
    assert ours["guard"] == theirs["guard"]
    assert ours["n_action_steps"] == theirs["execution"]["n_action_steps"]
    assert ours["engine"] == theirs["execution"]["engine"]
    assert theirs["execution"]["chunk_boundary"] == ("blend" if "blend" in how else "none")
    executed = {}
    for file in list_episodes(tmp_path / "deploy"):
        with Episode.open(file) as episode:
            actions = np.asarray(episode.action, np.float32)
            assert actions.shape == (14, 14)
            executed[episode.describe["seed"]] = f"{zlib.crc32(actions.tobytes()):08x}"
    assert {r["seed"]: r["actions"] for r in ours["rollouts"]} == executed
    assert len(set(executed.values())) == 3


def test_two_checkpoints_are_compared_and_nothing_depends_on_the_processes(
    trained: Path, tmp_path: Path, capsys: Any
) -> None:
    """The same checkpoint twice is a draw; 5 rollouts, 4 at a time, so the last one is alone."""
    common = (*TASK, "--num_rollouts", 5, "--batch", 4)
    evaluate("--ckpt", trained, "--ckpt", trained / "checkpoints" / "best", *common, "--workers", 1,
             "--output", tmp_path / "two")  # fmt: skip
    text = capsys.readouterr()
    evaluate("--ckpt_dir", trained, *common, "--workers", 2, "--output", tmp_path / "one")
    two, one = report(tmp_path / "two"), report(tmp_path / "one")
    a, b = two["checkpoints"]
    (alone,) = one["checkpoints"]
    assert [r["seed"] for r in a["rollouts"]] == two["seeds"][:1] + [100_001, 100_002, 100_003, 100_004]
    assert a["rollouts"] == b["rollouts"] == alone["rollouts"]
    assert one["comparison"] is None
    assert two["comparison"]["neither"] == 5
    assert two["comparison"]["p_value"] == 1.0
    wilson = binomtest(0, 5).proportion_ci(0.95, method="wilson")
    assert a["success"]["wilson95"] == pytest.approx([wilson.low, wilson.high])
    # 14 steps in chunks of 6: three inferences for the first four rollouts, three for the last
    assert (a["speed"]["inferences"], a["chunk_size"], a["n_action_steps"]) == (6, 6, 6)
    assert a["guard"]["commands"] == 5 * 14
    assert two["execution"]["batch"] == 4
    assert "0/5 = 0.0%         95 % Wilson interval 0.0% to 43.4%" in text.out
    assert "only 0 of 5 starts differed" in text.out
    assert "A: rollout 5/5, success 0/5" in text.err


def test_late_chunks_are_faded_in_and_the_report_reports_it(trained: Path, tmp_path: Path, capsys: Any) -> None:
    evaluate("--ckpt", trained, *TASK, "--num_rollouts", 1, "--batch", 1, "--workers", 1, "--delay_steps", 2,
             "--output", tmp_path)  # fmt: skip
    found = report(tmp_path)
    assert (found["execution"]["delay_steps"], found["execution"]["chunk_boundary"]) == (2, "blend")
    (ours,) = found["checkpoints"]
    # of chunks of 6, two steps are set aside for the answer and one for the fade: inferences at 0, 3, 6, 9 and 12, and
    # played from 5, 8 and 11 on
    assert (ours["n_action_steps"], ours["speed"]["inferences"], ours["chunk_boundaries"]["count"]) == (3, 5, 3)
    assert ours["rollouts"][0]["chunk_boundaries"]["largest"] == ours["chunk_boundaries"]["largest_step"]["max"] > 0
    words = f"3 a rollout, largest step {ours['chunk_boundaries']['largest_step']['p50']:.2f} of what the guard allows"
    assert words in capsys.readouterr().out


def test_an_interruption_keeps_what_was_done(trained: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    requested = BatchedInference.__call__
    calls = 0

    def interrupted(self: BatchedInference, rows: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:  # the second inference of the second two
            signal.raise_signal(signal.SIGTERM)
        requested(self, rows)

    monkeypatch.setattr(BatchedInference, "__call__", interrupted)
    argv = ("--ckpt", trained, *TASK, "--num_rollouts", 9, "--batch", 2, "--workers", 1, "--output", tmp_path / "out")
    assert fail(*argv) == "143"
    (found,) = report(tmp_path / "out")["checkpoints"]
    assert [r["seed"] for r in found["rollouts"]] == [100_000, 100_001]
    assert found["success"]["trials"] == 2
    assert capsys.readouterr().err.endswith("interrupted (SIGTERM); what was done is saved\n")
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_named_and_what_was_done_is_kept(
    trained: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    requested = BatchedInference.__call__
    calls = 0

    def killing(self: BatchedInference, rows: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid or 0, signal.SIGKILL)
        requested(self, rows)

    monkeypatch.setattr(BatchedInference, "__call__", killing)
    text = fail("--ckpt", trained, *TASK, "--batch", 2, "--workers", 1, "--output", tmp_path / "out")
    assert text.startswith("error: a simulation process died (exit code -9) at seed 10000")
    assert "Under way: 1 worker with 2 environments: try a smaller --batch" in text
    (found,) = report(tmp_path / "out")["checkpoints"]
    assert [r["seed"] for r in found["rollouts"]] == [100_000, 100_001]
    assert multiprocessing.active_children() == []


def test_what_a_process_cannot_do_is_reported() -> None:
    task = replace(load(TaskConfig, "tasks", "sim_transfer_cube"), scene="transfer_cub", cameras=())
    job = EvaluationJob(task, load(RigConfig, "rigs", "sim"), Execution(), SharedBuffer(1, CONTRACT, 6))
    with Pool(job, workers=3) as pool, pytest.raises(EvaluationError, match="Did you mean 'transfer_cube'"):
        pool.ready()
    assert multiprocessing.active_children() == []


def test_the_second_checkpoint_is_looked_at_before_the_first_is_rolled_out(trained: Path, tmp_path: Path) -> None:
    names = list(CONTRACT.action_names)
    names[0], names[7] = names[7], names[0]
    wrong = Contract.of(CONTRACT.state_names, tuple(names), {"cam_high": (32, 48), "top": (32, 48)}, rate_hz=30.0)
    save_checkpoint(tmp_path / "wrong", wrong)
    text = fail("--ckpt", trained, "--ckpt", tmp_path / "wrong", *TASK, "--output", tmp_path / "out")
    assert f"policy {tmp_path / 'wrong'} does not fit rig 'sim' in task 'sim_transfer_cube':" in text
    assert "action[0]: 'right_waist' against 'left_waist'" in text
    assert "camera 'cam_high' is missing; there are: top" in text
    assert "rate: 30 Hz against 50 Hz" in text
    assert list((tmp_path / "out").iterdir()) == []


def test_flags_are_checked_before_anything_starts(trained: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(Pool, "__enter__", None)
    assert "neither model.safetensors" in fail("--ckpt", tmp_path, *TASK)
    assert "--n_action_steps must be 1 to the chunk size 6" in fail("--ckpt", trained, *TASK, "--horizon", 7)
    assert "--delay_steps must be 0 to 5, a chunk of" in fail("--ckpt", trained, *TASK, "--delay_steps", 6)
    assert "--delay_steps must be at least 0, given -1" in fail("--ckpt", trained, *TASK, "--delay_steps", -1)
    assert "--temporal_agg averages them instead" in fail("--ckpt", trained, *TASK, "--seam", "blend", "--temporal_agg")
    assert "Did you mean 'sim_insertion'?" in fail("--ckpt", trained, "--task", "sim_insrtion")
    assert "is done on rig 'aloha', which is no simulation" in fail("--ckpt", trained, "--task", "aloha_transfer_cube")
    assert fail(*("--ckpt", trained) * 3, *TASK) == (
        "error: --ckpt is given once, or twice to compare two checkpoints; given 3 times"
    )
    assert "--ray rolls out on others; leave one out" in fail("--ckpt", trained, *TASK, "--ray", "auto", "--view")
    assert fail("--ckpt", trained, *TASK, "--batch", 0) == "error: --batch must be at least 1, given 0"
    (tmp_path / "file").touch()
    assert "a file of that name is in the way" in fail("--ckpt", trained, *TASK, "--output", tmp_path / "file")
    save_checkpoint(tmp_path / "other", task="sim_insertion")
    capsys.readouterr()
    fail("--ckpt", tmp_path / "other", *TASK, "--horizon", 7)
    with pytest.raises(TypeError):  # the pool that was taken away
        evaluate("--ckpt", tmp_path / "other", *TASK)
    assert f"warning: {tmp_path / 'other'} was trained on sim_insertion, evaluated on sim_transfer_cube" in (
        capsys.readouterr().err
    )
