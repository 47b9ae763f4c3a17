"""A fault is put into a rollout in simulation, and named. One of each kind, through the whole of deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aloha_kit.storage.step_log import read_steps, steps_path
from tests.diagnose.conftest import CHUNK, found, GRIPPERS, keys, motion, NAMES, play, rollout, show, STEPS


def test_a_clean_rollout_gets_no_finding(run: Path) -> None:
    diagnosis = found(run / "clean" / "episode_0.hdf5")
    assert diagnosis.causes == ()
    assert diagnosis.unknown == ()
    assert diagnosis.outcome == "failed; 60 steps (1.2 s); highest reward 0"
    assert "nothing found: loop, chunks, inputs and actions were as they should be\n" in diagnosis.text()


def test_a_slow_network_in_the_loop_makes_steps_late(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    play(monkeypatch, seconds=0.15)
    diagnosis = found(rollout(run, tmp_path, "--realtime", "--horizon", "4"))
    cause = next(cause for cause in diagnosis.causes if cause.finding.check == "late")
    assert (cause.finding.subject, cause.finding.level) == ("network", "error")
    assert "of which network took" in cause.finding.found
    assert "--inference async" in cause.finding.remedy
    requested = set(range(4, STEPS, 4))  # the first step is nobody's fault
    late = {step for begin, end in cause.steps for step in range(begin, end)}
    assert requested <= late
    assert ("late", "network") in keys(diagnosis)[:1]


def test_late_chunks_leave_steps_without_a_command(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    play(monkeypatch, seconds=1.0)  # a chunk lasts 0.4 s
    episode = rollout(run, tmp_path, "--realtime", "--inference", "async")
    held = next(cause for cause in found(episode).causes if cause.finding.check == "held")
    assert (held.finding.subject, held.finding.level) == ("chunks", "error")
    steps = read_steps(steps_path(episode))
    assert {step.step for step in steps if step.held} == {i for a, b in held.steps for i in range(a, b)}
    count = sum(bool(step.held) for step in steps)
    assert f"{count} of 60 steps" in held.finding.found
    assert f"no chunk in time ({count}x)" in held.finding.found
    assert held.begins == CHUNK
    assert "a larger chunk_size" in held.finding.remedy


def test_a_darker_image_is_brightness(dark: Path) -> None:
    diagnosis = found(dark / "episode_0.hdf5")
    assert keys(diagnosis) == [("image", "images/top")]
    (cause,) = diagnosis.causes
    assert cause.finding.level == "error"
    assert "brightness or colour: 0.60 times as bright as in training" in cause.finding.found
    assert cause.steps == ((0, STEPS),)


def test_a_camera_that_has_moved_is_content(run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    play(monkeypatch)
    show(monkeypatch, lambda image: np.roll(image, 9, axis=1))
    diagnosis = found(rollout(run, tmp_path))
    assert capsys.readouterr().out.endswith(f"why a rollout failed: python -m aloha_kit.diagnose {tmp_path}\n")
    assert keys(diagnosis) == [("image", "images/top")]
    assert "; content: it is 1.0" in diagnosis.causes[0].finding.found
    assert diagnosis.causes[0].finding.remedy.startswith("the camera has moved, shadows fall")


def test_red_and_blue_that_are_swapped_are_reported(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    play(monkeypatch)
    show(monkeypatch, lambda image: np.ascontiguousarray(image[:, :, ::-1]))
    diagnosis = found(rollout(run, tmp_path))
    assert keys(diagnosis) == [("image", "images/top")]
    assert diagnosis.causes[0].finding.found.endswith("it fits with red and blue swapped")


def test_a_joint_where_training_never_was_is_named(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    roll = NAMES.index("right_forearm_roll")

    def astray(steps: np.ndarray) -> np.ndarray:
        actions = motion(steps)
        actions[:, roll] += 0.6 * np.clip((np.asarray(steps) - 20) / 30, 0, 1)
        return actions

    play(monkeypatch, astray)
    diagnosis = found(rollout(run, tmp_path))
    (joint,) = [cause for cause in diagnosis.causes if cause.finding.check == "joint"]
    assert (joint.finding.subject, joint.finding.level) == ("right_forearm_roll", "error")
    assert 20 < joint.begins < 50
    assert joint.steps[-1][1] == STEPS
    assert {check for check, _ in keys(diagnosis)} <= {"joint", "image"}  # an arm elsewhere is seen elsewhere


def test_chunks_that_do_not_fit_together_are_found(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    wrist = NAMES.index("left_wrist_angle")

    def torn(steps: np.ndarray) -> np.ndarray:
        actions = motion(steps)
        actions[:, wrist] += 0.05 * (-1) ** (int(steps[0]) // 10)
        return actions

    play(monkeypatch, torn)
    diagnosis = found(rollout(run, tmp_path, "--horizon", "10"))
    assert keys(diagnosis)[0] == ("chunk boundaries", "left_wrist_angle")
    boundaries = next(cause for cause in diagnosis.causes if cause.finding.check == "chunk boundaries")
    assert [begin for begin, _ in boundaries.steps] == [10, 20, 30, 40, 50]
    assert "left_wrist_angle 0.0" in boundaries.finding.found
    assert "--temporal_agg" in boundaries.finding.remedy


def test_a_gripper_that_never_closes_is_named(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def open_handed(steps: np.ndarray) -> np.ndarray:
        actions = motion(steps)
        actions[:, GRIPPERS[0]] = motion(np.minimum(steps, STEPS // 2))[:, GRIPPERS[0]]
        return actions

    play(monkeypatch, open_handed)
    diagnosis = found(rollout(run, tmp_path))
    assert ("gripper", "left_gripper") in keys(diagnosis)
    assert ("gripper", "right_gripper") not in keys(diagnosis)
    (gripper,) = [cause for cause in diagnosis.causes if cause.finding.check == "gripper"]
    assert "never closes again: 0.9" in gripper.finding.found


def test_what_the_guard_cuts_down_and_a_policy_that_stands_still(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    waist = NAMES.index("left_waist")

    def hasty(steps: np.ndarray) -> np.ndarray:
        actions = motion(steps)
        actions[:, waist] = 0.4 * np.sign(np.sin(2 * np.pi * np.asarray(steps) / 20))
        return actions

    play(monkeypatch, hasty)
    assert ("limited", "left_waist") in keys(found(rollout(run, tmp_path / "hasty")))
    play(monkeypatch, lambda steps: motion(np.zeros(len(steps))))
    assert ("motion", "action") in keys(found(rollout(run, tmp_path / "still")))


def test_an_error_that_ended_the_rollout_is_reported(run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def broken(steps: np.ndarray) -> np.ndarray:
        return motion(steps) if steps[0] < 20 else np.full((CHUNK, 14), np.nan)

    play(monkeypatch, broken)
    with pytest.raises(SystemExit):
        rollout(run, tmp_path)
    assert "why a rollout failed" in capsys.readouterr().out
    diagnosis = found(tmp_path / "episode_0.hdf5")
    ending = next(cause for cause in diagnosis.causes if cause.finding.check == "ending")
    assert ending.finding.level == "error"
    assert "SafetyError: step 25: the action is not finite" in ending.finding.found
    assert ("held", "chunks") in keys(diagnosis)  # five steps were bridged before
