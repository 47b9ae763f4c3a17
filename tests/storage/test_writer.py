"""Files hold the observations; names are never reused; faults are reported and nothing is lost."""

import gc
import json
import multiprocessing
import os
import shutil
import threading
import time
from pathlib import Path

import cv2
import dm_env
import h5py
import numpy as np
import pytest

from aloha_kit.core import EpisodeError, StopEpisode, VirtualClock
from aloha_kit.episode import Episode, list_episodes, list_partials
from aloha_kit.episode.validate import validate
from aloha_kit.loop import run_episode
from aloha_kit.storage.recovery import recover_all
from aloha_kit.storage.vectors import names_of
from tests.storage.recording import feed, outcome, PERIOD, record, Rig, WRENCH, writer_for


def peak_error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize("images", ["raw", "jpeg"])
def test_every_value_comes_back(tmp_path: Path, images: str) -> None:
    rig = Rig(depth=True, base=True)
    path = record(
        tmp_path,
        30,
        rig,
        images=images,
        judge=lambda outcome: outcome.final_reward >= 4.0,
        describe={"seed": 7, "version": "1.2"},
    )
    assert path == tmp_path / "episode_0.hdf5"
    assert os.listdir(tmp_path) == ["episode_0.hdf5"]
    with Episode.open(path) as episode:
        assert (episode.length, episode.frames, episode.layout) == (30, 31, "aloha_kit")
        assert episode.cameras == ("cam_high", "cam_left_wrist", "cam_right_wrist")
        seen = [rig.observation(row) for row in range(31)]
        done = np.stack([rig.action(row) for row in range(30)])
        np.testing.assert_array_equal(episode.action, done[:, :14])
        np.testing.assert_array_equal(episode.base_action, done[:, 14:])
        for name, got in (
            ("qpos", episode.qpos),
            ("qvel", episode.qvel),
            ("effort", episode.effort),
            ("base_vel", episode.base_velocity),
            ("environment_state", episode.vectors["environment_state"]),
        ):
            np.testing.assert_array_equal(got, np.stack([o[name] for o in seen]))
        np.testing.assert_array_equal(episode.reward, [float(row % 5) for row in range(30)])
        for row in (0, 1, 17, 30):
            np.testing.assert_array_equal(episode.depth("cam_high", row), rig.depth_image(row))
            for camera in episode.cameras:
                difference = peak_error(episode.image(camera, row), rig.image(camera, row))
                assert difference == 0 if images == "raw" else difference < 12
        stamps = episode.stamps
        assert set(stamps) == {"qpos", "deadline", "command", *(f"images/{c}" for c in episode.cameras)}
        np.testing.assert_array_equal(np.diff(stamps["deadline"]), PERIOD)
        assert stamps["command"].shape == (30,)
        assert stamps["command"][0] == stamps["deadline"][0] + 100_000
        attrs = episode.attrs
        assert attrs["schema"] == "aloha_kit/1"
        assert (attrs["sim"], attrs["compress"]) == (True, images == "jpeg")
        assert (attrs["task"], attrs["rig"], attrs["instruction"]) == ("stack", "bench", "stack the cubes")
        assert (attrs["reason"], attrs["final_reward"], attrs["rate_hz"]) == ("complete", 4.0, 50.0)
        assert json.loads(attrs["describe"]) == {"seed": 7, "version": "1.2"}
        assert attrs["created"].startswith("20")
        assert "+00:00" in attrs["created"]
        assert attrs["software"].startswith("aloha_kit ")
        assert attrs["camera_names"] == list(episode.cameras)
        assert episode.contract == rig.contract
        assert episode.success is True


def test_jpeg_rows_are_padded_like_mobile_aloha(tmp_path: Path) -> None:
    path = record(tmp_path, 12)
    with h5py.File(path) as file, Episode.open(path) as episode:
        lengths = file["compress_len"][()]
        assert lengths.shape == (3, 13)
        assert lengths.dtype == np.float32
        for number, camera in enumerate(episode.cameras):
            assert file.attrs["camera_names"][number].decode() == camera
            rows = file[f"observations/images/{camera}"][()]
            assert rows.dtype == np.uint8
            assert rows.shape == (13, int(lengths[number].max()))
            for i, row in enumerate(rows):
                size = int(lengths[number, i])
                assert episode.jpeg(camera, i) == row[:size].tobytes()
                assert not row[size:].any()
                assert row[size - 2 : size].tolist() == [0xFF, 0xD9]


def test_quality_is_a_setting(tmp_path: Path) -> None:
    fine, coarse = record(tmp_path, 5, quality=95), record(tmp_path, 5, quality=20)
    with Episode.open(fine) as a, Episode.open(coarse) as b:
        assert len(b.jpeg("cam_high", 2) or b"") < len(a.jpeg("cam_high", 2) or b"")
        assert (a.attrs["jpeg_quality"], b.attrs["jpeg_quality"]) == (95, 20)


def test_the_environment_may_reuse_its_buffers(tmp_path: Path) -> None:
    rig = Rig(depth=True)
    writer = writer_for(tmp_path, rig, images="raw")
    shared = rig.observation(0)
    writer.on_reset(dm_env.restart(shared))
    for row in range(20):
        fresh = rig.observation(row + 1)
        for key in ("qpos", "qvel", "effort", "environment_state"):
            shared[key][:] = fresh[key]  # type: ignore[literal-required]
        for camera, image in fresh["images"].items():
            shared["images"][camera][:] = image
        shared["images_depth"]["cam_high"][:] = fresh["images_depth"]["cam_high"]
        shared["stamps"] = fresh["stamps"]
        writer.on_step(rig.action(row), dm_env.transition(0.0, shared))
    writer.on_end(outcome(20))
    with Episode.open(writer.path) as episode:
        for row in range(21):
            np.testing.assert_array_equal(episode.image("cam_high", row), rig.image("cam_high", row))
            np.testing.assert_array_equal(episode.depth("cam_high", row), rig.depth_image(row))
            np.testing.assert_array_equal(episode.qpos[row], rig.qpos(row))


class Env(dm_env.Environment):
    """A rig that can fail at a step, for the real loop."""

    def __init__(self, rig: Rig, steps: int, fail_at: int | None = None) -> None:
        self.rig, self.steps, self.fail_at, self.row = rig, steps, fail_at, 0

    def reset(self) -> dm_env.TimeStep:
        self.row = 0
        return dm_env.restart(self.rig.observation(0))

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        self.row += 1
        if self.row == self.fail_at:
            raise RuntimeError("gripper motor lost")
        observation = self.rig.observation(self.row)
        end = self.row == self.steps
        return dm_env.termination(2.0, observation) if end else dm_env.transition(1.0, observation)

    def action_spec(self) -> None: ...
    def observation_spec(self) -> None: ...


class Script:
    def __init__(self, rig: Rig, stop_at: int | None = None) -> None:
        self.rig, self.stop_at, self.row = rig, stop_at, 0

    def reset(self) -> None:
        self.row = -1

    def act(self, observation: object) -> np.ndarray:
        self.row += 1
        if self.row == self.stop_at:
            raise StopEpisode("operator pressed q")
        return self.rig.action(self.row)


@pytest.mark.parametrize(
    ("fail_at", "stop_at", "steps", "success", "reason"),
    [
        (None, None, 10, True, "complete"),
        (7, None, 6, False, "RuntimeError: gripper motor lost"),
        (None, 4, 4, False, "operator pressed q"),
    ],
)
def test_as_an_observer_of_the_loop(
    tmp_path: Path, fail_at: int | None, stop_at: int | None, steps: int, success: bool, reason: str
) -> None:
    rig = Rig()
    writer = writer_for(tmp_path, rig, judge=lambda outcome: outcome.final_reward >= 2.0)
    try:
        run_episode(Env(rig, 10, fail_at), Script(rig, stop_at), [writer])
    except RuntimeError as error:
        assert fail_at is not None and "gripper" in str(error)  # noqa: PT017, PT018
    assert writer.committed
    with Episode.open(writer.path) as episode:
        assert (episode.length, episode.success, episode.attrs["reason"]) == (steps, success, reason)
        assert episode.attrs["error"] is (fail_at is not None)


def test_an_episode_without_steps_leaves_nothing(tmp_path: Path) -> None:
    rig = Rig()
    writer = writer_for(tmp_path, rig)
    with pytest.raises(RuntimeError, match="gripper"):
        run_episode(Env(rig, 10, fail_at=1), Script(rig), [writer])
    assert not writer.committed
    assert os.listdir(tmp_path) == []


def test_success_is_unknown_until_somebody_judges(tmp_path: Path) -> None:
    rig = Rig()
    path = record(tmp_path, 3, rig)
    with Episode.open(path) as episode:
        assert episode.success is None
        assert "success" not in episode.attrs
    writer = writer_for(tmp_path, rig, judge=lambda outcome: outcome.final_reward >= 4.0)
    feed(writer, rig, 3)
    writer.success = False  # the operator's label has priority over the reward
    writer.on_end(outcome(3))
    with Episode.open(writer.path) as episode:
        assert episode.success is False


def test_indices_fill_the_lowest_gap_and_are_never_overwritten(tmp_path: Path) -> None:
    for expected in (0, 1, 2):
        assert record(tmp_path, 2).name == f"episode_{expected}.hdf5"
    (tmp_path / "episode_1.hdf5").unlink()
    assert record(tmp_path, 2).name == "episode_1.hdf5"
    (tmp_path / "episode_3.hdf5.partial").write_bytes(b"")  # another recording in progress
    assert record(tmp_path, 2).name == "episode_4.hdf5"
    before = (tmp_path / "episode_2.hdf5").read_bytes()
    with pytest.raises(EpisodeError, match=r"episode_2\.hdf5 exists and is never overwritten"):
        writer_for(tmp_path, Rig(), index=2)
    writer = writer_for(tmp_path, Rig(), index=3)
    with pytest.raises(EpisodeError, match=r"episode 3 exists already .* used there: 0, 1, 2, 3, 4"):
        feed(writer, Rig(), 1)
    assert (tmp_path / "episode_2.hdf5").read_bytes() == before
    assert record(tmp_path, 2, index=17).name == "episode_17.hdf5"


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    rig = Rig()
    writer = writer_for(tmp_path, rig)
    feed(writer, rig, 5)
    writer.path.write_bytes(b"somebody else's")
    with pytest.raises(EpisodeError, match="appeared meanwhile"):
        writer.on_end(outcome(5))
    assert writer.path.read_bytes() == b"somebody else's"
    (found,) = recover_all(tmp_path)
    assert (found.outcome, found.steps, found.episode) == ("recovered", 5, tmp_path / "episode_1.hdf5")


def test_discard(tmp_path: Path) -> None:
    rig = Rig()
    running = writer_for(tmp_path, rig)
    feed(running, rig, 5)
    running.discard()
    running.on_end(outcome(5))
    assert os.listdir(tmp_path) == []
    done = writer_for(tmp_path, rig)
    feed(done, rig, 5)
    done.on_end(outcome(5))
    done.discard()
    assert os.listdir(tmp_path) == []
    requested = writer_for(tmp_path, rig)
    assert requested.path.name == "episode_0.hdf5"
    assert len(list_partials(tmp_path)) == 1
    requested.discard()
    assert os.listdir(tmp_path) == []


def test_a_reservation_that_never_begins_is_given_back(tmp_path: Path) -> None:
    writer = writer_for(tmp_path, Rig())
    assert writer.path.name == "episode_0.hdf5"
    assert writer.path.name == "episode_0.hdf5"
    assert len(list_partials(tmp_path)) == 1
    del writer
    gc.collect()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("images", ["raw", "jpeg"])
def test_a_rig_without_cameras(tmp_path: Path, images: str) -> None:
    with Episode.open(record(tmp_path, 7, Rig(sizes={}), images=images)) as episode:
        assert (episode.cameras, episode.length, episode.frames) == ((), 7, 8)


def test_words_that_hdf5_would_refuse(tmp_path: Path) -> None:
    """An error's text may hold anything."""
    path = record(tmp_path, 3, ending={"reason": "read \x00\ud800 from port " + "x" * 9000, "error": True})
    with Episode.open(path) as episode:
        assert episode.attrs["reason"].startswith("read  ? from port xxx")
        assert len(episode.attrs["reason"]) == 4000


def test_a_writer_writes_one_episode(tmp_path: Path) -> None:
    rig = Rig()
    writer = writer_for(tmp_path, rig)
    feed(writer, rig, 2)
    writer.on_end(outcome(2))
    with pytest.raises(EpisodeError, match=r"a writer writes one episode; episode_0\.hdf5 is committed"):
        writer.on_reset(dm_env.restart(rig.observation(0)))
    with pytest.raises(EpisodeError, match="no episode is being recorded: it is committed"):
        feed(writer, rig, 1, start=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.pop("qpos"), "the observation lacks 'qpos'; it has: qvel"),
        (lambda o: o.update(qpos=o["qpos"][:7]), r"qpos has shape \(7,\), the contract names 14 joints"),
        (lambda o: o["images"].pop("cam_high"), "cameras differ: the contract has cam_high, cam_left_wrist"),
        (lambda o: o["images"].update(cam_high=np.zeros((8, 8, 3), np.uint8)), r"'cam_high' gave \(8, 8, 3\) uint8"),
        (lambda o: o["images"].update(cam_high=np.zeros((24, 32, 3))), r"expected \(24, 32, 3\) uint8"),
    ],
)
def test_a_first_observation_that_does_not_fit(tmp_path: Path, change: object, message: str) -> None:
    rig = Rig()
    observation = rig.observation(0)
    change(observation)  # type: ignore[operator]
    writer = writer_for(tmp_path, rig)
    with pytest.raises(EpisodeError, match=message):
        writer.on_reset(dm_env.restart(observation))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o, a: (o, a[:7]), r"action has shape \(7,\), the contract names 14 entries"),
        (lambda o, a: ({k: v for k, v in o.items() if k != "effort"}, a), "lacks 'effort', which this episode began"),
        (lambda o, a: ({**o, "qvel": o["qvel"][:3]}, a), r"'qvel' has shape \(3,\), this episode began with \(14,\)"),
        (lambda o, a: ({**o, "stamps": {**o["stamps"], "lidar": 1}}, a), r"unknown streams \['lidar'\]"),
        (lambda o, a: ({**o, "images": {}}, a), "lacks camera 'cam_high'"),
    ],
)
def test_a_later_row_that_does_not_fit_keeps_those_before(tmp_path: Path, change: object, message: str) -> None:
    rig = Rig()
    writer = writer_for(tmp_path, rig)
    feed(writer, rig, 6)
    observation, action = change(rig.observation(7), rig.action(6))  # type: ignore[operator]
    with pytest.raises(EpisodeError, match=message):
        writer.on_step(action, dm_env.transition(0.0, observation))
    writer.on_end(outcome(6, error=True, reason="bad row"))
    with Episode.open(writer.path) as episode:
        assert (episode.length, episode.success) == (6, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": "png"}, "images must be 'jpeg' or 'raw'"),
        ({"quality": 0}, "quality 1 to 100"),
        ({"flush_s": 0.0}, "flush_s positive"),
        ({"describe": {"a": object()}}, "describe must be JSON-able"),
        ({"describe": {"a": "x" * 60_000}}, "at most 48000 fit"),
    ],
)
def test_bad_settings(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(EpisodeError, match=message):
        writer_for(tmp_path, Rig(), **settings)


def test_on_step_waits_when_the_queue_is_full_and_counts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that stalls: nothing is dropped, the waits are counted, and few rows are held in memory."""
    gate, real = threading.Event(), os.writev

    def stalled(fd: int, parts: list) -> int:
        gate.wait(20)
        return real(fd, parts)

    rig = Rig()
    writer = writer_for(tmp_path, rig, flush_s=0.1)  # room for 5 rows
    writer.on_reset(dm_env.restart(rig.observation(0)))
    monkeypatch.setattr(os, "writev", stalled)
    threading.Timer(0.3, gate.set).start()
    for row in range(20):
        writer.on_step(rig.action(row), dm_env.transition(0.0, rig.observation(row + 1)))
    assert gate.is_set()  # the loop could not run ahead of the disk
    writer.on_end(outcome(20))
    assert 1 <= writer.stalls <= 15
    with Episode.open(writer.path) as episode:
        assert (episode.length, episode.attrs["stalls"]) == (20, writer.stalls)


def test_the_journal_follows_within_the_flush_time(tmp_path: Path) -> None:
    rig = Rig()
    writer = writer_for(tmp_path, rig)
    feed(writer, rig, 10)
    deadline = time.monotonic() + 10
    while writer.written < 10 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert writer.written == 10  # without any further step or end
    (partial,) = list_partials(tmp_path)
    assert partial.stat().st_size > 10 * 14 * 4
    assert recover_all(tmp_path)[0].outcome == "busy"
    writer.on_end(outcome(10))
    assert list_episodes(tmp_path) == [writer.path]


def _record_many(folder: str, count: int, barrier: object, found: object) -> None:
    rig = Rig(sizes={"top": (8, 8)})
    barrier.wait()  # type: ignore[attr-defined]
    found.put([record(Path(folder), 3, rig, task=f"{os.getpid()}").name for _ in range(count)])  # type: ignore[attr-defined]


def test_several_processes_allocate_without_collision(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(3), context.Queue()
    workers = [context.Process(target=_record_many, args=(str(tmp_path), 6, barrier, found)) for _ in range(3)]
    for worker in workers:
        worker.start()
    names = [name for _ in workers for name in found.get(timeout=60)]
    for worker in workers:
        worker.join()
    assert sorted(names) == sorted({f"episode_{i}.hdf5" for i in range(18)})
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    for path in list_episodes(tmp_path):
        with Episode.open(path) as episode:
            assert episode.length == 3


def test_memory_does_not_grow_with_the_episode(tmp_path: Path) -> None:
    """Peak traced memory of a run four times as long is about the same; keeping it all would be four times as much."""
    import tracemalloc

    rig = Rig(sizes={"top": (64, 64), "angle": (64, 64)}, environment_state=False)

    def peak(steps: int) -> int:
        tracemalloc.start()
        record(tmp_path, steps, rig, images="raw")
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(20)  # imports and caches
    short, long = peak(350), peak(1400)
    held = 1400 * 2 * 64 * 64 * 3
    assert long < short * 1.3
    assert long < held / 3


def test_virtual_time_may_begin_at_zero(tmp_path: Path) -> None:
    """A stamp before the clock's zero is a time, not "none"."""
    clock, rig = VirtualClock(), Rig()
    writer = writer_for(tmp_path, rig)
    first = rig.observation(0)
    first["stamps"] = {"qpos": clock.now_ns() - 1, "images/cam_high": -5}
    writer.on_reset(dm_env.restart(first))
    later = rig.observation(1)
    later["stamps"] = {"qpos": 7, "images/cam_high": 6, "deadline": 8, "command": 1}
    writer.on_step(rig.action(0), dm_env.transition(0.0, later))
    writer.on_end(outcome(1))
    with Episode.open(writer.path) as episode:
        assert episode.stamps["qpos"].tolist() == [-1, 7]
        assert episode.stamps["images/cam_high"].tolist() == [-5, 6]
        assert episode.stamps["command"].tolist() == [1]
        assert episode.stamps["deadline"].tolist() == [-(2**63), 8]


def test_images_keep_red_red(tmp_path: Path) -> None:
    """RGB in, RGB out of our reader and of a plain imdecode alike."""
    rig = Rig()
    path = record(tmp_path, 2, rig)
    with Episode.open(path) as episode:
        ours = episode.image("cam_high", 1)
        plain = cv2.imdecode(np.frombuffer(episode.jpeg("cam_high", 1) or b"", np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(ours, plain)
        assert ours[:, 1:4, 0].mean() > 180 > 120 > ours[:, 1:4, 2].mean()


@pytest.mark.parametrize("killed", [False, True])
def test_last_steps_can_be_cut_off_and_notes_join_the_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """The same whether the episode is committed at its end or, killed right after it, recovered."""
    rig = Rig()
    writer = writer_for(tmp_path, rig, describe={"seed": 7}, images="raw")
    feed(writer, rig, 20)
    writer.cut, writer.notes = 6, {"limited": 3}
    if killed:
        monkeypatch.setattr("aloha_kit.storage.writer.finish", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            writer.on_end(outcome(20))
        (found,) = recover_all(tmp_path)
        assert (found.outcome, found.steps) == ("recovered", 14)
    else:
        writer.on_end(outcome(20))
    kept = ["episode_0.hdf5.kept"] if killed else []  # the journal, for the steps that were cut off
    assert sorted(os.listdir(tmp_path)) == ["episode_0.hdf5", *kept]
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        assert (episode.length, episode.frames) == (14, 15)
        np.testing.assert_array_equal(episode.action, [rig.action(row) for row in range(14)])
        np.testing.assert_array_equal(episode.image("cam_high", 14), rig.image("cam_high", 14))
        assert json.loads(episode.attrs["describe"]) == {"seed": 7, "limited": 3}
        assert episode.attrs["cut"] == 6


def test_at_least_one_step_stays(tmp_path: Path) -> None:
    rig = Rig()
    writer = writer_for(tmp_path, rig)
    feed(writer, rig, 3)
    writer.cut = 99
    writer.on_end(outcome(3))
    with Episode.open(writer.path) as episode:
        assert episode.length == 1


def test_a_folder_removed_while_recording_is_made_again(tmp_path: Path) -> None:
    folder, rig = tmp_path / "data", Rig()
    writer = writer_for(folder, rig)
    feed(writer, rig, 20)
    while writer.written < 20:
        time.sleep(0.001)
    shutil.rmtree(folder)
    writer.on_end(outcome(20))
    assert os.listdir(folder) == ["episode_0.hdf5"]
    with Episode.open(writer.path) as episode:
        np.testing.assert_array_equal(episode.qpos, np.stack([rig.qpos(row) for row in range(21)]))


def test_a_folder_that_cannot_be_made_again_is_not_reported_as_safe(tmp_path: Path) -> None:
    folder, rig = tmp_path / "data", Rig()
    writer = writer_for(folder, rig)
    feed(writer, rig, 5)
    while writer.written < 5:
        time.sleep(0.001)
    shutil.rmtree(folder)
    folder.write_text("a file in the way")
    with pytest.raises(EpisodeError, match=r"was removed, so its 5 steps are lost when this process ends"):
        writer.on_end(outcome(5))


def test_a_sensor_is_kept_with_what_it_is(tmp_path: Path) -> None:
    rig = Rig(wrench=True)
    with Episode.open(record(tmp_path, 10, rig)) as episode:
        np.testing.assert_array_equal(episode.sensors["wrench"], [rig.force(row) for row in range(11)])
        assert episode.contract.sensors[1:] == (WRENCH,)
        assert names_of(episode, "sensors/wrench") == ["force", "torque"]
    assert [f for f in validate(tmp_path / "episode_0.hdf5", deep=True).findings if f.level == "error"] == []
