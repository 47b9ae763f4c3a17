"""An operator's session without ROS: what each command does to the episode, the folder and the arms."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from aloha_kit.config import to_mapping
from aloha_kit.config.rig import ArmConfig, CameraConfig
from aloha_kit.core import EpisodeError, SafetyError, StreamError
from aloha_kit.episode import Episode, list_episodes, list_partials
from aloha_kit.record.__main__ import main
from aloha_kit.record.dataset_folder import CONTACT_SHEET, FAILED
from aloha_kit.record.gripper_gesture import GripperGesture
from tests.record.fake_rig import FakeTeleoperatedRig, NAMES, RIG, session, TASK


def lengths(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    found = []
    for file in list_episodes(folder):
        with Episode.open(file) as episode:
            found.append(episode.length)
    return found


def attributes(file: Path) -> tuple[Any, ...]:
    with Episode.open(file) as episode:
        return episode.length, episode.success, episode.attrs["reason"], bool(episode.attrs["error"])


def test_episode_after_episode_until_there_are_enough(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig()
    made, operator, output = session(tmp_path, env, wanted=2)
    result = made.run(env)
    assert (result.present, result.results, result.fault, result.interrupted) == (2, ("saved", "saved"), "", "")
    assert result.text() == f"2 of 2 episodes in {tmp_path}\nthis session: 2 saved"
    assert operator.states == ["waiting", "recording", "saving"] * 2 + ["saving", "ended"]
    assert operator.statuses[-1] == ("ended", "the arms are at rest; their torque is on")
    assert ("waiting", "close both leader grippers to begin (episode 2 of 2)") in operator.statuses
    assert env.parked == 1
    for file in list_episodes(tmp_path):
        assert attributes(file) == (10, None, "complete", False)  # nobody judged, and it counts
        with Episode.open(file) as episode:
            assert (episode.attrs["task"], episode.attrs["rig"], episode.attrs["sim"]) == ("stack", "bench", False)
            about = episode.describe
            assert about["rig"] == "bench"
            assert "seed" not in about  # a real rig has none
            assert about["guard"]["commands"] == 10
            assert about["timing"] == {
                "fps": 50.0, "worst_skew_ms": 2.0, "most_skewed": "qpos", "late": 0, "dropped": 0, "worst_gap_ms": 20.0
            }  # fmt: skip
    assert f"contact sheet of the cameras: {tmp_path}/cameras.jpg" in output.getvalue()
    sheet = cv2.imread(str(tmp_path / "cameras.jpg"))
    assert sheet is not None
    assert sheet.shape == (240, 300, 3)  # 8 by 10 pixels, enlarged
    assert abs(int(np.median(sheet)) - 200) <= 2
    rested = FakeTeleoperatedRig()
    again, operator, _ = session(tmp_path, rested, wanted=2)
    assert again.run(rested).present == 2
    assert operator.statuses == [("ended", "no command was sent")]
    assert rested.parked == rested.resets == 0
    assert "saving: episode_1 saved: full length; 10 steps at 50.0 fps\n" in output.getvalue()


@pytest.mark.parametrize("word", ["keep", "success"])
def test_keep_ends_now_and_counts(tmp_path: Path, word: str) -> None:
    env = FakeTeleoperatedRig(max_reward=4.0)  # a reward would judge it a failure: the operator's label has priority
    made, _, _ = session(tmp_path, env, ("recording", 4, word))
    assert made.run(env).results == ("saved",)
    assert attributes(tmp_path / "episode_0.hdf5") == (4, True, f"ended by the operator: {word}", False)


def test_discard_and_redo_leave_nothing_and_redo_begins_alike(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig(simulated=True)
    made, _, _ = session(tmp_path, env, ("recording", 3, "redo"), ("recording", 6, "discard"), wanted=1, seed=40)
    assert made.run(env).results == ("discarded", "discarded", "saved")
    assert env.seeds == [40, 40, 41]
    assert [file.name for file in sorted(tmp_path.iterdir())] == [CONTACT_SHEET, "episode_0.hdf5"]
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        assert episode.describe["seed"] == 41
        assert episode.attrs["sim"]


def test_seeds_that_are_in_the_folder_are_not_used_again(tmp_path: Path) -> None:
    for wanted in (1, 3):
        env = FakeTeleoperatedRig(simulated=True)
        session(tmp_path, env, wanted=wanted)[0].run(env)
    assert env.seeds == [1, 2]


def test_failures_are_put_aside_by_reward_or_word(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig(max_reward=4.0)
    env.rewards = [3.0, 4.0]
    made, _, output = session(tmp_path, env, ("recording", 5, "failure"), wanted=1)
    result = made.run(env)
    assert result.results == ("failed", "failed", "saved")
    assert "this session: 2 failed, 1 saved" in result.text()
    assert "episode_0 failed: full length without success, reward 3 of 4; 10 steps" in output.getvalue()
    aside = list_episodes(tmp_path / FAILED)
    assert [attributes(file) for file in aside] == [
        (5, False, "ended by the operator: failure", False),
        (10, False, "complete", False),
    ]
    assert attributes(tmp_path / "episode_0.hdf5") == (10, True, "complete", False)


def test_second_thoughts_between_episodes(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig(simulated=True, max_reward=4.0)
    made, _operator, output = session(
        tmp_path, env,
        ("waiting", 0, "discard"), ("waiting", 1, "start"),  # nothing is there yet
        ("waiting", 0, "failure"), ("waiting", 1, "failure"), ("waiting", 2, "start"),  # of the first
        ("waiting", 0, "redo"), ("waiting", 1, "start"),  # of the second
        ("waiting", 0, "discard"), ("waiting", 0, "discard"), ("waiting", 1, "start"),  # of that one
        ("waiting", 0, "success"), ("waiting", 1, "start"),  # of the one after it
        wanted=2, auto=False,
    )  # fmt: skip
    result = made.run(env)
    assert result.results == ("failed", "discarded", "discarded", "saved", "saved")
    # the attempt at seed 2 was prepared when "redo" sent it back behind seed 1
    assert env.seeds == [0, 1, 2, 1, 2, 3]
    assert lengths(tmp_path) == [10, 10]
    assert [attributes(file)[:2] for file in list_episodes(tmp_path / FAILED)] == [(10, False)]
    text = output.getvalue()
    assert "discard: there is nothing to discard" in text
    assert f"failure: episode_0 failed already, it is {tmp_path / FAILED}/episode_0.hdf5" in text
    assert text.count(" discarded\n") == 2
    assert [file.name for file in list_episodes(tmp_path)] == ["episode_0.hdf5", "episode_1.hdf5"]


def test_labels_go_to_the_episode_that_is_recorded_or_the_last_one(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig()
    made, _operator, output = session(
        tmp_path, env,
        ("waiting", 0, "grade 3"), ("waiting", 1, "start"),  # nothing is there yet
        ("recording", 2, "grade 2"), ("recording", 1, "instruction stack them slowly"), ("recording", 1, "keep"),
        ("waiting", 0, "note dropped it once, a retry"), ("waiting", 1, "grade 6"), ("waiting", 1, "start"),
        ("recording", 2, "failure"), ("waiting", 0, "grade 1"), ("waiting", 1, "start"),
        ("recording", 2, "keep"),
        wanted=2, auto=False,
    )  # fmt: skip
    assert made.run(env).results == ("saved", "failed", "saved")
    labels = []
    for file in [*list_episodes(tmp_path), *list_episodes(tmp_path / FAILED)]:
        with Episode.open(file) as episode:
            labels.append(tuple(episode.attrs.get(name) for name in ("grade", "note", "instruction", "success")))
    assert labels == [
        (2, "dropped it once, a retry", "stack them slowly", True),
        (None, None, "stack the cubes", True),
        (1, None, "stack the cubes", False),
    ]
    text = output.getvalue()
    assert "grade: there is no episode to label" in text
    assert "note of episode_0: dropped it once, a retry" in text
    assert "grade must be 1 to 5, given 6" in text


def test_a_pause_waits_for_the_end_of_an_episode_and_for_the_operator(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig()
    made, operator, _ = session(
        tmp_path, env, ("recording", 2, "pause"), ("paused", 7, "discard"), ("paused", 3, "resume"),
        ("waiting", 1, "pause"), ("paused", 2, "start"), wanted=2, auto=True,
    )  # fmt: skip
    assert made.run(env).results == ("discarded", "saved", "saved")
    assert operator.states[:6] == ["waiting", "recording", "saving", "waiting", "paused", "waiting"]
    assert lengths(tmp_path) == [10, 10]


def test_quit_keeps_what_was_recorded_aside_and_parks(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig()
    made, _operator, _ = session(tmp_path, env, ("recording", 6, "quit"), wanted=3)
    result = made.run(env)
    assert (result.present, result.results, result.fault) == (0, ("failed",), "")
    assert result.text() == f"0 of 3 episodes in {tmp_path}\n" + (
        "this session: 1 failed\nthe same command continues from here"
    )
    assert attributes(tmp_path / FAILED / "episode_0.hdf5") == (6, False, "the operator quit", False)
    assert env.parked == 1
    assert all(arm.locked for arm in env.leader_arms.values())


@pytest.mark.parametrize("state", ["waiting", "paused"])
def test_quit_between_episodes(tmp_path: Path, state: str) -> None:
    env = FakeTeleoperatedRig()
    lines = [("waiting", 2, "pause"), ("paused", 2, "quit")] if state == "paused" else [("waiting", 2, "quit")]
    made, _, _ = session(tmp_path, env, *lines, auto=False)
    result = made.run(env)
    assert (result.results, result.fault, env.parked, env.steps) == ((), "", 1, 0)
    assert [file.name for file in tmp_path.iterdir()] == [CONTACT_SHEET]


def test_a_fault_is_kept_with_its_reason_and_the_arms_wait_for_the_operator(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig()
    env.faults[5] = StreamError("cam_high is silent: 0.31 s old, bound 0.25 s")
    made, operator, output = session(tmp_path, env, ("paused", 30, "resume"))
    result = made.run(env)
    assert (result.results, result.fault) == (("failed", "saved"), "")
    reason = "StreamError: cam_high is silent: 0.31 s old, bound 0.25 s"
    assert attributes(tmp_path / FAILED / "episode_0.hdf5") == (4, False, reason, True)
    assert operator.states == [
        "waiting",
        "recording",
        "saving",
        "paused",
        "waiting",
        "recording",
        "saving",
        "saving",
        "ended",
    ]
    assert "paused: cam_high is silent: 0.31 s old, bound 0.25 s\nNo command is sent." in output.getvalue()
    assert env.resets == 2


@pytest.mark.parametrize("answer", ["quit", None])
def test_a_fault_that_nobody_mends_ends_the_session(tmp_path: Path, answer: str | None) -> None:
    env = FakeTeleoperatedRig()
    env.faults[5] = StreamError("cam_high is silent")
    lines = [("paused", 10, answer)] if answer else []
    made, _, _ = session(tmp_path, env, *lines, timeout_s=2.0)
    result = made.run(env)
    assert (result.fault, result.results, env.parked) == ("cam_high is silent", ("failed",), 1)
    assert all(arm.locked for arm in env.leader_arms.values())


def test_ros_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    class GoneError(StreamError):
        pass

    env = FakeTeleoperatedRig()
    env.faults[3] = StreamError("everything is silent")
    made, operator, _ = session(tmp_path, env)
    env.connection_error = GoneError("no master")
    assert made.run(env).fault == "no master"
    assert "paused" not in operator.states
    assert lengths(tmp_path / FAILED) == [2]


def pressing(env: FakeTeleoperatedRig, step: int) -> None:
    """The emergency stop is pressed, and let go at once, while the environment takes a step."""
    take = env.step

    def pressed(action: Any) -> Any:
        if env.steps == step:
            env.estop.press("the emergency stop was pressed (by /button)")
        return take(action)

    env.step = pressed  # type: ignore[method-assign]


def test_after_the_emergency_stop_nothing_moves_before_a_reset(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig()
    pressing(env, 2)
    made, operator, output = session(
        tmp_path, env, ("paused", 3, "resume"), ("paused", 2, "reset"), ("paused", 3, "resume")
    )
    result = made.run(env)
    assert result.results == ("failed", "saved")
    assert operator.states.count("paused") == 2
    assert env.resets == 2  # not between the two pauses
    reason = attributes(tmp_path / FAILED / "episode_0.hdf5")[2]
    assert "SafetyError: the emergency stop was pressed (by /button): no further motion was commanded" in reason
    assert "Release the emergency stop, then reset and resume, or quit" in output.getvalue()
    assert "the emergency stop is reset; nothing moves before resume, or quit\n" in output.getvalue()


@pytest.mark.parametrize("early", [("start",), ("reset", "resume")])
def test_commands_before_a_fault_are_no_leave_to_move_after_it(tmp_path: Path, early: tuple[str, ...]) -> None:
    env = FakeTeleoperatedRig()
    made, operator, _ = session(tmp_path, env, ("paused", 3, "quit"))
    printed: list[str] = []
    poll = operator.poll
    operator.poll = lambda: [printed.pop(0) for _ in list(printed)] or poll()  # type: ignore[method-assign]

    def refused() -> Any:  # the moves to the start take seconds in which nobody listens
        env.resets += 1
        printed.extend(early if env.resets == 1 else ())
        if "reset" in early:
            env.estop.press("the emergency stop was pressed (by /button)")
        raise SafetyError("a fault")

    env.reset = refused  # type: ignore[method-assign]
    result = made.run(env)
    assert env.resets == 1
    assert bool(env.estop()) == ("reset" in early), "nor was it reset"
    assert result.fault == "a fault"


def test_a_reset_is_refused_while_it_is_pressed_and_means_nothing_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = FakeTeleoperatedRig()
    pressing(env, 2)
    monkeypatch.setattr(env.estop, "refusal", lambda: "no reset: still pressed by /button")
    made, _, output = session(
        tmp_path, env, ("waiting", 1, "reset"), ("waiting", 1, "start"), ("paused", 2, "reset"), ("paused", 2, "quit"),
        auto=False,
    )  # fmt: skip
    assert "the emergency stop was pressed" in made.run(env).fault
    assert "reset: the emergency stop is not pressed" in output.getvalue()
    assert "no reset: still pressed by /button" in output.getvalue()
    assert env.estop()


def test_an_episode_that_could_not_be_saved_pauses_and_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aloha_kit.storage import writer

    finish, failures = writer.finish, [EpisodeError("the disk is full; 10 steps are safe in episode_0.hdf5.partial")]

    def full(*given: Any) -> None:
        if failures:
            raise failures.pop()
        finish(*given)

    monkeypatch.setattr(writer, "finish", full)
    env = FakeTeleoperatedRig()
    made, _operator, output = session(tmp_path, env, ("paused", 3, "resume"))
    result = made.run(env)
    assert result.results == ("failed", "saved")
    assert result.present == 1
    assert "paused: the disk is full; 10 steps are safe in episode_0.hdf5.partial" in output.getvalue()
    assert [file.name for file in list_partials(tmp_path)] == ["episode_0.hdf5.partial"]
    assert [file.name for file in list_episodes(tmp_path)] == ["episode_1.hdf5"]
    assert f"1 interrupted recording: `python -m aloha_kit.episode recover {tmp_path}`" in result.text()


def test_an_episode_is_not_begun_where_it_would_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    free = [1]
    monkeypatch.setattr("aloha_kit.record.status_line.shutil.disk_usage", lambda _: SimpleNamespace(free=free[0]))
    env = FakeTeleoperatedRig()
    made, operator, _output = session(tmp_path, env, ("paused", 3, "quit"), wanted=2)
    result = made.run(env)
    assert result.results == ("saved",)
    assert result.fault == (
        f"the disk of {tmp_path} has room for 0 s of recording, an episode takes up to 0 s: make room"
    )
    assert operator.states == ["waiting", "recording", "saving", "paused", "saving", "ended"]


def test_ctrl_c_keeps_what_was_recorded_aside_and_parks(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig()
    env.faults[8] = KeyboardInterrupt("SIGTERM")
    made, _, output = session(tmp_path, env, wanted=2)
    result = made.run(env)
    assert (result.interrupted, result.results, env.parked) == ("SIGTERM", ("failed",), 1)
    assert attributes(tmp_path / FAILED / "episode_0.hdf5") == (7, False, "KeyboardInterrupt: SIGTERM", True)
    assert all(arm.locked for arm in env.leader_arms.values())
    assert "saving: episode_0 failed: interrupted: SIGTERM; 7 steps" in output.getvalue()


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (
            KeyboardInterrupt(),
            "interrupted on the way to rest, nothing more was sent to the arms; their torque is on",
        ),
        (StreamError("silent"), "the arms were not parked: silent; their torque is on"),
    ],
)
def test_arms_that_do_not_come_to_rest_stay_and_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, words: str
) -> None:
    env = FakeTeleoperatedRig()
    monkeypatch.setattr(env, "park", lambda: (_ for _ in ()).throw(failure))
    made, operator, _ = session(tmp_path, env)
    assert made.run(env).present == 1
    assert operator.statuses[-1] == ("ended", words)


def test_ctrl_c_before_the_arms_move_to_rest_stops_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, answers = FakeTeleoperatedRig(), iter([KeyboardInterrupt()])

    def report() -> str:
        for interrupt in answers:
            raise interrupt
        return "their torque is on"

    monkeypatch.setattr(env, "torque_report", report)
    made, operator, _ = session(tmp_path, env)
    assert made.run(env).present == 1
    assert env.parked == 0
    text = "interrupted on the way to rest, nothing more was sent to the arms; their torque is on"
    assert operator.statuses[-1] == ("ended", text)


def test_nothing_is_parked_after_the_emergency_stop(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig()
    pressing(env, 3)
    made, operator, _ = session(tmp_path, env, ("paused", 2, "quit"))
    assert "the emergency stop was pressed (by /button)" in made.run(env).fault
    assert env.parked == 0
    assert operator.statuses[-1][1] == (
        "the arms were not parked: the emergency stop was pressed (by /button): no further motion was commanded; "
        "their torque is on"
    )


def test_a_leader_beyond_the_followers_range_is_recorded_as_it_was_done_and_counted(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig()
    env.leaders.path = lambda step: (0.0, 1.5 if step > 6 else 0.5, 0.0, 0.5)
    made, _, output = session(tmp_path, env)
    made.run(env)
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        np.testing.assert_allclose(episode.action[:6, 1], 0.5)
        assert 0.5 < episode.action[6, 1] <= 1.1
        assert episode.action[:, 1].max() <= np.float32(1.1)
        about = episode.describe["guard"]
    assert about["limited"] == 4
    assert about["limited_by"]["range"] == {"left_gripper": 4}
    assert "limited 4" in output.getvalue()


@pytest.mark.parametrize(("squeezes", "verdicts"), [(2, ("saved",)), (3, ("discarded", "saved"))])
def test_squeezing_both_grippers_ends_the_episode_without_the_squeezes(
    tmp_path: Path, squeezes: int, verdicts: tuple[str, ...]
) -> None:
    """Open until step 50; then each squeeze closes for 8 steps and opens for 8."""
    env = FakeTeleoperatedRig(episode_len=200)
    lives = [True]

    def path(step: int) -> tuple[float, ...]:
        if step == 190:
            lives.clear()
        phase = step - 50
        closed = lives and 0 <= phase < 16 * squeezes and phase % 16 < 8
        return (0.1, 0.1 if closed else 0.9, -0.1, 0.1 if closed else 0.9)

    env.leaders.path = path
    gestures = GripperGesture(NAMES, 50.0)
    resets = env.leaders.reset

    def reset() -> None:
        resets()
        if env.resets > 1:
            lives.clear()

    env.leaders.reset = reset  # type: ignore[method-assign]
    made, _, _ = session(tmp_path, env, gesture=gestures)
    assert made.run(env).results == verdicts
    length, success, reason, _ = attributes(tmp_path / "episode_0.hdf5")
    if squeezes == 2:
        assert (length, success, reason) == (49, True, "ended by the operator: keep")
    else:
        assert (length, success, reason) == (200, None, "complete")


def test_a_word_that_is_no_command_is_answered(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig()
    made, _, output = session(tmp_path, env, ("recording", 2, "kepp"))
    assert made.run(env).results == ("saved",)
    assert "'kepp' is no command. Did you mean 'keep'?" in output.getvalue()


def test_an_error_of_ours_is_not_swallowed(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig()
    env.faults[4] = ZeroDivisionError("ours")
    made, _, _ = session(tmp_path, env)
    with pytest.raises(ZeroDivisionError, match="ours"):
        made.run(env)
    assert all(arm.locked for arm in env.leader_arms.values())
    assert env.parked == 1
    assert attributes(tmp_path / FAILED / "episode_0.hdf5") == (3, False, "ZeroDivisionError: ours", True)


def test_a_safety_fault_before_the_first_command_records_nothing(tmp_path: Path) -> None:
    env = FakeTeleoperatedRig()
    env.leaders.path = lambda step: (np.nan if env.resets == 1 else 0.0, 0.5, 0.0, 0.5)
    made, _, output = session(tmp_path, env, ("paused", 2, "resume"))
    assert made.run(env).results[-1] == "saved"
    assert lengths(tmp_path / FAILED) == []
    assert "the action is not finite: left_waist = nan" in output.getvalue()


def own_rig(folder: Path, connect: str) -> list[str]:
    """Flags for a rig whose kind is a function of tests.record.fake_rig."""
    rig = dataclasses.replace(
        RIG, kind=f"tests.record.fake_rig:{connect}", cameras={"cam_high": CameraConfig(8, 10)},
        leaders={"left": ArmConfig(name="c"), "right": ArmConfig(name="d")},
    )  # fmt: skip
    (folder / "rig.yaml").write_text(yaml.safe_dump(to_mapping(rig)))
    task = dataclasses.replace(TASK, rig=str(folder / "rig.yaml"), dataset_dir=str(folder / "data"))
    (folder / "task.yaml").write_text(yaml.safe_dump(to_mapping(task)))
    return f"--task {folder}/task.yaml --num_episodes 2 --auto --no_keyboard --no_gestures --countdown 0".split()


def test_a_rig_of_ones_own_is_recorded_without_ros(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(own_rig(tmp_path, "connect"))
    assert lengths(tmp_path / "data") == [10, 10]
    shown = capsys.readouterr()
    assert shown.out == f"2 of 2 episodes in {tmp_path}/data\nthis session: 2 saved\n"
    assert "waiting: close both leader grippers to begin (episode 2 of 2)" in shown.err


def test_a_rig_without_the_capabilities_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    expected = (
        r"error: recording an operator on rig 'bench': environment FakeRig lacks 'camera_images', .*'leaders', .*"
    )
    with pytest.raises(SystemExit, match=expected):
        main(own_rig(tmp_path, "connect_without_leaders"))
