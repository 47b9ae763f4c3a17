"""Each check on evidence made by hand: what a simulation in this process cannot show."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from aloha_kit.core import Contract
from aloha_kit.core.arm_models import joint_names
from aloha_kit.core.findings import Finding
from aloha_kit.core.image_grid import SIZE
from aloha_kit.data.stats import Moments, Statistics
from aloha_kit.diagnose.causes import Cause, words
from aloha_kit.diagnose.comparison import compare
from aloha_kit.diagnose.diagnosis import diagnose, Diagnosis
from aloha_kit.diagnose.evidence import CameraStatistics
from aloha_kit.diagnose.figure import draw
from aloha_kit.storage.step_log import RecordedStep
from tests.diagnose.conftest import evidence, keys, motion, NAMES, PERIOD_NS

MS = 1_000_000
STEPS = 100


def only(**changes: Any) -> Cause:
    """The one cause that these changes to a faultless rollout lead to."""
    (cause,) = diagnose(evidence(**changes)).causes
    return cause


def log(**changes: Any) -> tuple[RecordedStep, ...]:
    """100 steps of 5 ms each that play chunks of 25; changes by step."""
    fixed = [
        RecordedStep(i, {"total": 5.0, "network": 4.0}, i // 25 * 25, i // 25 * 25, 1, i % 25, i % 25 == 0)
        for i in range(STEPS)
    ]
    for number, change in changes.items():
        step = int(number.removeprefix("step_"))
        fixed[step] = dataclasses.replace(fixed[step], **change)
    return tuple(fixed)


def test_nothing_wrong_is_nothing_found() -> None:
    assert diagnose(evidence(log=log())).causes == ()


def test_the_stage_of_late_steps_is_blamed() -> None:
    slow = {"missed": True, "ms": {"total": 90.0, "network": 4.0, "observation": 85.0}}
    cause = only(log=log(step_40=slow, step_41=slow, step_42=slow, step_70=slow))
    assert cause.finding == Finding(
        "warning",
        "late",
        "observation",
        "4 of 100 steps (4.0%) took longer than the period of 20 ms, up to 90 ms, of which observation took 85 ms on "
        "average; 3 in a row from step 40",
        "every step within its period",
        cause.finding.remedy,
    )
    assert cause.finding.remedy.startswith("run python -m aloha_kit.doctor")
    assert cause.steps == ((40, 43), (70, 71))


def test_without_a_log_deadlines_tell_what_was_late() -> None:
    fixed = evidence()
    stamps = {name: values.copy() for name, values in fixed.stamps.items()}
    for values in stamps.values():
        values[51:] += 150 * MS
    cause = only(stamps=stamps)
    assert (cause.finding.check, cause.finding.subject, cause.steps) == ("late", "loop", ((50, 51),))
    assert "up to 170 ms" in cause.finding.found


def test_where_time_waits_nothing_is_late() -> None:
    stamps = {name: np.arange(STEPS) * PERIOD_NS for name in ("deadline", "qpos", "images/top")}
    slow = {"missed": True, "ms": {"total": 900.0}}
    diagnosis = diagnose(evidence(stamps=stamps, log=log(**{f"step_{i}": slow for i in range(50)})))
    assert diagnosis.causes == ()
    assert "share of steps late" not in diagnosis.measures


def test_an_old_stream_and_one_that_stands_still_are_named() -> None:
    fixed = evidence()
    old = {**fixed.stamps, "images/top": fixed.stamps["deadline"] - 140 * MS}
    cause = only(stamps=old)
    assert (cause.finding.check, cause.finding.subject, cause.finding.level) == ("stale", "images/top", "warning")
    assert cause.finding.found == "140 ms old (95th percentile), up to 140 ms; steps 0 to 99"
    still = fixed.stamps["images/top"].copy()
    still[30:48] = still[29]
    causes = {c.finding.check: c for c in diagnose(evidence(stamps={**fixed.stamps, "images/top": still})).causes}
    assert causes["repeated"].finding.subject == "images/top"
    assert causes["repeated"].steps == ((30, 48),)
    assert "18% of the steps have the sample of the step before, up to 18 in a row (0.36 s) from step 30" in (
        causes["repeated"].finding.found
    )
    slow = fixed.stamps["deadline"] // (100 * MS) * (100 * MS)  # a camera of 10 Hz
    assert ("repeated", "images/top") in keys(diagnose(evidence(stamps={**fixed.stamps, "images/top": slow})))


def test_chunks_that_come_late_are_counted_in_steps() -> None:
    late = {f"step_{i}": {"row": 14, "newest": i - 14} for i in (25, 50, 75)}
    cause = only(log=log(**late))
    assert (cause.finding.check, cause.finding.level) == ("delay", "warning")
    assert "14 steps (0.28 s, median of 3), 14 at most" in cause.finding.found
    assert cause.steps == ((25, 26), (50, 51), (75, 76))


def test_a_hold_for_a_dead_camera_names_the_camera() -> None:
    why = {"held": "stream 'images/top' is frozen: the same stamp 6 times in a row", "newest": None, "boundary": False}
    cause = only(log=log(**{f"step_{i}": why for i in range(60, 66)}))
    assert (cause.finding.check, cause.finding.subject) == ("held", "images/top")
    assert "6 of 100 steps (6.0%) repeated the command before, up to 6 in a row (0.12 s) from step 60" in (
        cause.finding.found
    )
    assert "doctor" in cause.finding.remedy


def stopping(at: int, steps: int = 300) -> dict[str, Any]:
    """A rollout with an inference every 5 steps that from a step on twitches towards the next movement and back."""
    now = np.arange(steps)
    twitch = 0.02 * (now % 5 / 4)[:, None] * (now >= at)[:, None]
    rows = (motion(np.minimum(now, at)) + twitch).astype(np.float32)
    steps_log = tuple(
        RecordedStep(i, {"total": 5.0}, i // 5 * 5, i // 5 * 5, 1, i % 5, i % 5 == 0) for i in range(steps)
    )
    return {"action": rows, "qpos": rows, "log": steps_log, "stamps": {}}


def ending(at: int) -> Statistics:
    """Of demonstrations that end in the pose of a step."""
    return Statistics({**trained().moments, **Statistics.of(end=motion(np.array([at - 2, at]))).moments})


def test_arms_that_stop_and_do_not_go_on_have_stalled() -> None:
    cause = only(**stopping(at=80), training=ending(at=95))
    assert (cause.finding.check, cause.finding.level) == ("stalled", "error")
    ((begin, end),) = cause.steps
    assert 70 <= begin <= 80  # the last steps before it are slow, too
    assert end == 300
    assert f"stands still for {(300 - begin) / 50:.1f} s, from step {begin} to the end" in cause.finding.found
    assert cause.finding.found.endswith("; an inference every 5 steps")
    assert "--temporal_agg" in cause.finding.remedy


def test_where_demonstrations_end_a_standstill_is_no_stall_and_unknown_it_may_be_one() -> None:
    assert diagnose(evidence(**stopping(at=80), training=ending(at=80))).causes == ()
    cause = only(**stopping(at=80))
    assert (cause.finding.check, cause.finding.level) == ("stalled", "warning")
    assert cause.finding.found.endswith("training's statistics do not record where demonstrations end")


@pytest.mark.parametrize(
    "changes",
    [
        {"success": True},
        {**stopping(at=80), "success": None},
        stopping(at=180),  # 2.4 s: done, and resting
        stopping(at=300),
    ],
)
def test_resting_is_no_stall(changes: dict[str, Any]) -> None:
    checks = [cause.finding.check for cause in diagnose(evidence(**{**stopping(at=80), **changes})).causes]
    assert "stalled" not in checks


def test_steps_held_for_want_of_a_chunk_are_no_stall() -> None:
    changes = stopping(at=80)
    changes["log"] = tuple(
        dataclasses.replace(step, held="no chunk in time" if step.step >= 80 else "") for step in changes["log"]
    )
    assert [cause.finding.check for cause in diagnose(evidence(**changes)).causes] == ["held"]


def test_averaged_chunks_have_no_boundaries_to_check() -> None:
    rough = motion(np.arange(STEPS)) + np.random.default_rng(0).normal(0, 0.05, (STEPS, 14))
    steps = tuple(RecordedStep(i, {"total": 5.0}, i, max(0, i - 24), 25, 0, True) for i in range(STEPS))
    assert diagnose(evidence(action=rough.astype(np.float32), log=steps)).causes == ()


def trained(**changes: Moments) -> Statistics:
    rows = motion(np.arange(STEPS))
    return Statistics({**Statistics.of(qpos=rows, action=rows, start=rows[:1]).moments, **changes})


def test_a_start_pose_unlike_trainings_is_named() -> None:
    qpos = motion(np.arange(STEPS)).astype(np.float32)
    qpos[:3, NAMES.index("left_waist")] -= 0.2
    causes = diagnose(evidence(qpos=qpos, training=trained())).causes
    start = next(cause for cause in causes if cause.finding.check == "start")
    assert (start.finding.level, start.finding.subject) == ("error", "left_waist")
    assert start.finding.found == "begins where no demonstration began: left_waist -0.20 (training 0.00 to 0.00)"


def test_of_the_published_act_only_mean_and_deviation_are_known() -> None:
    rows = motion(np.arange(STEPS))
    nothing = np.full(14, np.nan, np.float32)
    known = Moments(rows.mean(0).astype(np.float32), rows.std(0).astype(np.float32), nothing, nothing, 0)
    training = Statistics({"qpos": known, "action": known})
    assert diagnose(evidence(training=training)).causes == ()
    qpos = rows.astype(np.float32)
    elbow = NAMES.index("left_elbow")
    qpos[40:60, elbow] = known.mean[elbow] + 6 * known.std[elbow]
    cause = only(qpos=qpos, training=training)
    assert (cause.finding.check, cause.finding.subject, cause.steps) == ("joint", "left_elbow", ((40, 60),))
    assert (
        "6.0 standard deviations from training's mean; 20 steps unlike training: steps 40 to 59" in cause.finding.found
    )


def statistics(value: np.ndarray) -> CameraStatistics:
    return CameraStatistics(np.arange(0, STEPS, 10), np.tile(value.astype(np.float32), (10, 1)))


def seen(value: np.ndarray) -> Moments:
    return Statistics.of(start=np.stack([value - 0.01, value + 0.01]))["start"]


def test_cameras_that_were_changed_over_are_reported() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.uniform(0.1, 0.9, (2, SIZE))
    training = trained(**{"images/cam_left_wrist": seen(left), "images/cam_right_wrist": seen(right)})
    fine = {"cam_left_wrist": statistics(left), "cam_right_wrist": statistics(right)}
    assert diagnose(evidence(camera_statistics=fine, training=training)).causes == ()
    swapped = {"cam_left_wrist": statistics(right), "cam_right_wrist": statistics(left)}
    causes = diagnose(evidence(camera_statistics=swapped, training=training)).causes
    assert [cause.finding.subject for cause in causes] == ["images/cam_left_wrist", "images/cam_right_wrist"]
    assert "it fits the training images of 'cam_right_wrist'" in causes[0].finding.found
    assert "swapped" in causes[0].finding.remedy


def test_something_new_in_one_corner_for_a_while() -> None:
    usual = np.full(SIZE, 0.5)
    odd = usual.reshape(8, 8, 3).copy()
    odd[:4, :4] = 0.9
    described = np.tile(usual, (10, 1)).astype(np.float32)
    described[5:8] = odd.reshape(-1)
    training = trained(**{"images/top": seen(usual)})
    cause = only(camera_statistics={"top": CameraStatistics(np.arange(0, STEPS, 10), described)}, training=training)
    assert cause.steps == ((50, 80),)
    assert "8% of the image is outside the range of training (5 of 64 cells, 16 at step 50); steps 50 to 79" in (
        cause.finding.found
    )
    assert "content: it is 1.00 times as bright" in cause.finding.found


def test_what_statistics_lack_is_reported() -> None:
    diagnosis = diagnose(
        evidence(camera_statistics={"top": statistics(np.full(SIZE, 0.5))}, training=trained(), unknown=("no log",))
    )
    assert diagnosis.unknown == (
        "no log",
        "whether images are as in training: its statistics lack top (an older checkpoint)",
    )
    assert diagnosis.text().endswith("its statistics lack top (an older checkpoint)")


def test_the_outcome_in_words() -> None:
    reward = np.zeros(STEPS, np.float32)
    reward[30:50], reward[50:60], reward[60:] = 2, 3, 1
    assert diagnose(evidence(reward=reward)).outcome == (
        "failed; 100 steps (2.0 s); highest reward 3, reached at step 50; lost for good at step 60, 1 at the end"
    )
    assert diagnose(evidence(success=None, reason="the operator's command was stop")).outcome == (
        "not judged; 100 steps (2.0 s); the operator's command was stop"
    )


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (((7, 8),), "step 7"),
        (((0, 3), (9, 10)), "steps 0 to 2, 9"),
        (((0, 3), (9, 10), (20, 40), (50, 52), (60, 61)), "steps 0 to 2, 20 to 39, 50 to 51 and 2 more stretches"),
    ],
)
def test_steps_in_words(runs: Any, expected: str) -> None:
    assert words(runs) == expected


def diagnosis(success: bool | None, check: str = "", **measures: float) -> Diagnosis:
    causes = (Cause(Finding("error", check, "x", "…"), ((0, 1),)),) if check else ()
    return Diagnosis("episode_0.hdf5", success, "", causes, measures, ())


def test_what_failed_rollouts_share_and_where_they_differ() -> None:
    failed = [
        diagnosis(False, "image" if i < 5 else "chunk boundaries", cube_x=0.1 + 0.01 * i, noise=i % 2) for i in range(6)
    ]
    fine = [diagnosis(True, "chunk boundaries" if i < 2 else "", cube_x=0.01 * i, noise=i % 2) for i in range(8)]
    comparison = compare([*failed, *fine, diagnosis(None)])
    assert (comparison.failed, comparison.succeeded, comparison.unjudged) == (6, 8, 1)
    assert [(s.check, s.failed, s.succeeded) for s in comparison.shared] == [("image", 5, 0)]  # one is not shared
    (difference,) = comparison.differences
    assert (difference.measure, difference.more) == ("cube_x", 1.0)
    assert (difference.failed, difference.succeeded) == (pytest.approx(0.125), pytest.approx(0.035))
    text = comparison.text()
    assert text.startswith("6 failed rollouts, 8 successful, 1 not judged\n")
    assert "  x: image        5 of 6 failed, 0 of 8 successful" in text
    assert "  cube_x: 0.125 against 0.035" in text
    assert compare(failed[:2] + fine).differences == ()  # two prove nothing


@pytest.mark.filterwarnings("error")  # a legend without entries
@pytest.mark.parametrize("arms", [("left", "right"), ("arm",), ()])
def test_the_speed_of_every_arm_is_drawn(arms: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    names = (*joint_names(arms), "base_linear", "base_angular")
    action = np.zeros((STEPS, len(names)), np.float32)
    for number in range(len(arms)):
        action[:, 7 * number + 2] = np.arange(STEPS) * 0.01 * (number + 1)  # at 50 Hz 0.5 rad/s, and 1
    action[:, -2:] = np.arange(STEPS)[:, None]
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: drawn.append(figure))
    made = evidence(contract=Contract.of(names[:-2], names, {}, 50.0), action=action, qpos=action[:, :-2])
    draw(made, diagnosis(False), Path("figure.png"))
    curves = {line.get_label(): line.get_ydata() for line in drawn[0].axes[0].lines}
    assert [label for label in curves if not label.startswith("_")] == list(arms)
    assert ("gripper" in drawn[0].axes[0].get_title(loc="left")) == bool(arms)
    for number, arm in enumerate(arms):
        np.testing.assert_allclose(curves[arm], 0.5 * (number + 1), rtol=1e-3)
