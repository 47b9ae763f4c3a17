"""The command as a user types it, on small episodes."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.policies import checkpoint
from aloha_kit.policies.intact import CHECKSUMS
from aloha_kit.train import metrics
from aloha_kit.train.__main__ import main
from aloha_kit.train.loop import Trainer
from tests.commands import failure
from tests.synthetic import make, Synthetic, write, write_dataset
from tests.tiny import CNNMLP, write_policy


def test_a_run_leaves_everything_it_promises(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*flags, "--save_every", "10", "--image_size", "12", "16"])
    results, log = capsys.readouterr()
    # no terminal: lines in place of bars
    assert "\r" not in log
    assert re.search(r"^\d\d:\d\d:\d\d Training 10/20: loss ", log, re.MULTILINE)
    assert "2 episodes to train on, 1 to validate; 96 steps; cameras: top" in log
    assert results.startswith("Preflight: GO\n")
    assert re.fullmatch(r"20 steps in \d+ s; policy: \S+/best \(step \d+\)", results.splitlines()[-1])
    run = tmp_path / "run"
    assert {p.name for p in run.iterdir()} == {
        "checkpoints", "config.yaml", "logs", "loss.png", "metrics.csv", "tensorboard"}  # fmt: skip
    network = checkpoint.load(run / "checkpoints" / "best")
    assert network.config.image_size == (12, 16)
    assert network.contract.cameras == {"top": (24, 32)}
    assert {"start", "images/top"} <= network.stats.moments.keys()
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) >= {"train/loss", "train/lr", "train/grad_norm", "eval/val_deployed"}
    assert "camera/top" in board.Tags()["images"]
    rows = read_metrics(run / "metrics.csv")
    logged = [(event.step, event.value) for event in board.Scalars("train/loss")]
    assert logged == [(row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in rows if "loss" in row]
    # again: refused, and nothing is touched
    before = (run / "metrics.csv").read_bytes()
    with pytest.raises(SystemExit, match=r"error: .*run' is not empty; go on with it by --resume"):
        main(flags)
    assert (run / "metrics.csv").read_bytes() == before


def test_a_wrong_end_of_the_chunk_is_reported_to_whoever_executes_it(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main([*flags, "--no_preflight"])
    assert "the last action of a chunk" not in capsys.readouterr().err
    monkeypatch.setattr(metrics, "WRONG_END", 0.0)
    warning = "the last action of a chunk is wrong: its error is "
    for more, warned in ("", True), ("--n_action_steps 3", False), ("--ensemble_weight 0.01", False):
        main([*flags, "--no_preflight", "--ckpt_dir", str(tmp_path / (more or "whole")), *more.split()])
        assert (warning in capsys.readouterr().err) == warned, more


def test_resume_goes_on_and_takes_new_values(tmp_path: Path, flags: list[str]) -> None:
    main([*flags, "--no_preflight"])
    (tmp_path / "run" / "checkpoints" / ".best.new.x").mkdir()  # of a save that was killed
    main(["--resume", str(tmp_path / "run"), "--num_steps", "30"])
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    assert checkpoint.notes(tmp_path / "run" / "checkpoints" / "last")["step"] == 30
    assert [r["step"] for r in read_metrics(tmp_path / "run" / "metrics.csv") if "loss" in r] == [10, 20, 30]
    main(["--resume", str(tmp_path / "run" / "checkpoints" / "last"), "--num_steps", "32"])
    assert checkpoint.notes(tmp_path / "run" / "checkpoints" / "last")["step"] == 32
    refused = failure(main, ["--resume", str(tmp_path / "run")])
    assert "error: already at step 32; give a larger --num_steps than 32\n" in refused
    refused = failure(main, ["--resume", str(tmp_path / "run"), "--num_steps", "9"])
    assert "error: already at step 32; give a larger --num_steps than 9\n" in refused


def test_resuming_on_as_many_other_episodes_is_noticed(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*flags, "--no_preflight", "--num_steps", "2"])
    main(["--resume", str(tmp_path / "run"), "--num_steps", "3"])
    assert "the episodes have changed" not in capsys.readouterr().err
    write_dataset(tmp_path / "others", lengths=(30, 41, 25), cameras={"top": (24, 32)})
    main(["--resume", str(tmp_path / "run"), "--num_steps", "4", "--dataset_dir", str(tmp_path / "others")])
    assert "the episodes have changed (episodes 3, steps 96, key" in capsys.readouterr().err


def test_a_damaged_state_names_the_other_checkpoints(tmp_path: Path, flags: list[str]) -> None:
    main([*flags, "--no_preflight", "--num_steps", "4", "--save_every", "2"])
    state = tmp_path / "run" / "checkpoints" / "last" / "training_state.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    others = rf"; resume an older checkpoint with --resume {tmp_path}/run/\S+/step_4$"
    with pytest.raises(SystemExit, match=rf"last/training_state.pt is not as it was saved, .*{others}"):
        main(["--resume", str(tmp_path / "run"), "--num_steps", "6"])
    state.write_bytes(content[:2000])
    (state.parent / CHECKSUMS).unlink()  # as in a checkpoint of an older version
    with pytest.raises(SystemExit, match=rf"last/training_state.pt is damaged{others}"):
        main(["--resume", str(tmp_path / "run"), "--num_steps", "6"])


def test_a_checkpoint_records_what_its_episodes_were_recorded_for(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*flags, "--no_preflight", "--num_steps", "2", "--task", "sim_transfer_cube"])
    warning = "warning: the episodes were recorded for synthetic, not for --task sim_transfer_cube"
    assert warning in capsys.readouterr().err
    assert checkpoint.notes(tmp_path / "run" / "checkpoints" / "last")["task"] == "synthetic"


def test_a_place_that_cannot_be_a_run_is_refused_before_decoding(tmp_path: Path, flags: list[str]) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(SystemExit, match=r"error: '.*run' cannot be a folder: a file of that name is in the way"):
        main(flags)
    assert not (tmp_path / "data" / ".cache").exists()


def test_cache_or_none_trains_the_same(tmp_path: Path, flags: list[str]) -> None:
    weights = []
    for cache in ("disk", "none"):
        main([*flags, "--no_preflight", "--cache", cache, "--ckpt_dir", str(tmp_path / cache), "--num_steps", "5"])
        weights.append(checkpoint.load(tmp_path / cache / "checkpoints" / "last").state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_cnnmlp_trains(tmp_path: Path, flags: list[str]) -> None:
    write_policy(tmp_path / "plain.yaml", CNNMLP, chunk_size=1)
    main([*flags, "--policy", str(tmp_path / "plain.yaml"), "--num_steps", "4"])
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last").chunk_size == 1
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert rows[0]["mse"] == pytest.approx(rows[0]["loss"])
    assert rows[-1]["val_loss"] > 0
    groups = {"left", "left_gripper", "right", "right_gripper"}
    assert rows[-1].keys() - {"step", "val_loss"} == {f"val_error_{group}" for group in groups}


def test_preflight_only_trains_nothing(tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*flags, "--preflight_only"])
    assert "Preflight: GO" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_preflight_stops_a_hopeless_run(tmp_path: Path, flags: list[str]) -> None:
    def change(index: int, episode: Synthetic) -> None:
        episode.action[:] = episode.qpos[:-1]

    write_dataset(tmp_path / "measured", change=change)
    flags += ["--dataset_dir", str(tmp_path / "measured")]
    with pytest.raises(SystemExit, match=r"error: the preflight found 1 error \(--no_preflight trains nevertheless\)"):
        main(flags)
    assert not (tmp_path / "run").exists()
    main([*flags, "--no_preflight", "--num_steps", "2"])
    assert (tmp_path / "run" / "checkpoints" / "last").is_dir()


def test_missing_data_states_how_to_get_some(tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"error: no episodes at '.*nowhere'.*\. Record some with `python"):
        main([*flags, "--dataset_dir", str(tmp_path / "nowhere")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"error: no episode_<i>.hdf5 in '.*empty'"):
        main([*flags, "--dataset_dir", str(tmp_path / "empty")])


def test_rollouts_need_a_task(tmp_path: Path, flags: list[str]) -> None:
    refused = failure(main, [*flags, "--no_preflight", "--eval_every", "5"])
    assert refused == "error: rollouts need a task: give --task, or --eval_every 0\n"
    assert not (tmp_path / "run").exists()


def test_rollouts_that_cannot_be_had_are_refused_at_once(
    tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("aloha_kit.sim")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(SystemExit, match=r"error: rollouts need the extras sim and view \(.*mujoco"):
        main([*flags, "--eval_every", "5", "--task", "sim_transfer_cube"])
    assert not (tmp_path / "run").exists()


def test_resuming_keeps_network_and_normalisation(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*flags, "--no_preflight"])
    resume = ["--resume", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match=r"error: a resumed network keeps its values; .*with hidden_dim 16 \(now 32\)"):
        main([*resume, "--hidden_dim", "32"])
    before = checkpoint.load(tmp_path / "run" / "checkpoints" / "last").stats
    added = make(50, {"top": (24, 32)}, seed=8)
    added.qpos += 3.0
    write(tmp_path / "data", added)
    main([*resume, "--num_steps", "22"])
    printed = capsys.readouterr().err
    assert re.search(
        r"changed \(episodes 3, steps 96, key \w+ then; episodes 4, steps 146, key \w+ now\): order", printed
    )
    after = checkpoint.load(tmp_path / "run" / "checkpoints" / "last")
    assert (after.stats["qpos"].mean == before["qpos"].mean).all()
    assert checkpoint.notes(tmp_path / "run" / "checkpoints" / "last")["step"] == 22
    write(tmp_path / "other", make(20, {"top": (24, 32)}, seed=0), rate_hz=25.0)
    with pytest.raises(SystemExit, match=r"error: the checkpoint does not fit the episodes:\n  rate: 50 Hz against 25"):
        main([*resume, "--dataset_dir", str(tmp_path / "other"), "--num_steps", "24"])


def test_fp16_is_refused_without_a_gpu(tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(
        SystemExit, match=r"^error: --amp fp16 is for CUDA GPUs, and this run is on cpu; use --amp bf16"
    ):
        main([*flags, "--amp", "fp16"])
    assert not (tmp_path / "run").exists()


def test_ctrl_c_saves_and_stops(tmp_path: Path, flags: list[str]) -> None:
    command = [sys.executable, "-m", "aloha_kit.train", *flags, "--no_preflight", "--num_steps", "1000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        metrics = tmp_path / "run" / "metrics.csv"
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and not (metrics.exists() and "\n10," in metrics.read_text()):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT, error
    require_saved(tmp_path / "run", error, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_another_signal_saves_and_stops(
    tmp_path: Path, flags: list[str], number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """In this process, which gets the signal at step 10."""
    usual = Trainer._stop_requested

    def signalled(trainer: Trainer, *args: Any) -> bool:
        if trainer.position.step == 10:
            signal.raise_signal(number)
        return usual(trainer, *args)

    monkeypatch.setattr(Trainer, "_stop_requested", signalled)
    with pytest.raises(SystemExit) as end:
        main([*flags, "--no_preflight", "--num_steps", "1000000"])
    assert end.value.code == 128 + number
    require_saved(tmp_path / "run", capsys.readouterr().err, number)


def require_saved(run: Path, error: str, number: signal.Signals) -> None:
    """What a training leaves that a signal stopped: a checkpoint of its last step, and the command that goes on."""
    assert "Traceback" not in error
    assert f"{number.name}: saving after this step" in error
    last = run / "checkpoints" / "last"
    saved = checkpoint.notes(last)["step"]
    assert f"stopped by {number.name}: {saved} of 1000000 steps (0%) are done and saved in {last}; " in error
    assert f"go on with: python -m aloha_kit.train --resume {run}\n" in error
    assert saved == read_metrics(run / "metrics.csv")[-1]["step"]


def test_every_state_of_a_run_has_one_next_command(tmp_path: Path, flags: list[str]) -> None:
    """What a fresh start names works, and never leads back to it."""
    run, resume = tmp_path / "run", ["--resume", str(tmp_path / "run")]
    last = run / "checkpoints" / "last"
    elsewhere = "no other checkpoint can be resumed; start a new run with another --ckpt_dir"

    def refused(words: list[str]) -> str:
        with pytest.raises(SystemExit) as end:
            main(words)
        return str(end.value.code)

    assert refused(resume).endswith("Leave --resume out to start a new one")
    main([*flags, "--no_preflight", "--num_steps", "2"])
    # killed before its first checkpoint, and within it
    shutil.rmtree(run / "checkpoints" / "best")
    shutil.move(last, run / "checkpoints" / ".last.new.abc")
    assert refused(flags).endswith(
        f"is not empty; go on with it by --resume {run}, or choose another place with --ckpt_dir"
    )
    main([*resume, "--num_steps", "3"])
    assert checkpoint.notes(last)["step"] == 3
    # a state that cannot be read, and nothing else to go on from
    whole = (last / "training_state.pt").read_bytes()
    (last / "training_state.pt").write_bytes(whole[:-1])
    assert "training_state.pt is not as it was saved" in (printed := refused(resume))
    assert printed.endswith(elsewhere)
    (last / CHECKSUMS).unlink()  # as in a checkpoint of an older version
    for damage in (b"", whole[:1000], b"\x80\x04]\x94."):
        (last / "training_state.pt").write_bytes(damage)
        assert refused(resume).endswith(f"is damaged; {elsewhere}")
    for state in ([1], {"position": 3}, {"position": {"step": 1}, "data": {}}):
        torch.save(state, last / "training_state.pt")
        assert "is damaged; no other checkpoint" in refused(resume)
    (last / "training_state.pt").unlink()
    assert refused(resume).endswith(f"to resume from; {elsewhere}")
    (run / "config.yaml").write_bytes(b"\0" * 300)  # after a power cut
    assert refused(flags).endswith("run' is not empty; choose another place with --ckpt_dir")
    assert "is damaged, so its run cannot be resumed" in refused(resume)
    assert checkpoint.load(last).chunk_size > 0, "nothing was written over"


def test_time_that_is_used_up_is_reported(tmp_path: Path, flags: list[str]) -> None:
    main([*flags, "--no_preflight", "--time_limit_s", "0.001"])
    refused = failure(main, ["--resume", str(tmp_path / "run")])
    assert re.search(r"error: already trained for \d+ s of 0.001; give a larger --time_limit_s\n", refused)


def test_averaged_weights_beside_running_statistics_are_refused(tmp_path: Path, flags: list[str]) -> None:
    refused = failure(main, [*flags, "--ema", "0.9", "--backbone_norm", "batch"])
    assert refused.startswith("error: --ema 0.9 averages weights, and backbone_norm batch keeps running")
    assert not (tmp_path / "run").exists()


def test_cameras_are_renamed_for_the_policy_and_the_run_goes_on_so(tmp_path: Path, flags: list[str]) -> None:
    shutil.rmtree(tmp_path / "data")
    write_dataset(tmp_path / "data", lengths=(30, 41, 25), cameras={"cam_high": (24, 32)})
    main([*flags, "--rename", "top=cam_high", "--cameras", "cam_high", "--no_preflight"])
    assert checkpoint.load(tmp_path / "run/checkpoints/last").contract.cameras == {"top": (24, 32)}
    main(["--resume", str(tmp_path / "run"), "--num_steps", "24"])
    assert checkpoint.notes(tmp_path / "run/checkpoints/last")["step"] == 24
    refused = failure(main, [*flags[:-2], "--ckpt_dir", str(tmp_path / "other"), "--rename", "top"])
    assert "--rename takes POLICY_CAMERA=RIG_CAMERA" in refused
