"""Recording with real MuJoCo, real processes and the real writer; episodes are a few steps long."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.envs import connect
from aloha_kit.episode import Episode, list_episodes
from aloha_kit.record import recording_worker as worker
from aloha_kit.record.__main__ import main
from aloha_kit.record.app import record
from aloha_kit.record.args import parse, RecordArgs, task_of
from aloha_kit.record.dataset_folder import CONTACT_SHEET, DatasetFolder, FAILED
from aloha_kit.record.recording_worker import record_one, RecordingJob
from aloha_kit.record.scripted_recorder import RecordingError
from aloha_kit.storage.recovery import recover_all
from tests.synthetic import make, write
from tests.waiting import until

SHORT = RecordArgs(task="sim_transfer_cube", image_size=(24, 32), episode_len=6)


def short(folder: Path, **changes: object) -> RecordArgs:
    return dataclasses.replace(SHORT, dataset_dir=str(folder), **changes)  # type: ignore[arg-type]


def seeds(folder: Path) -> list[int]:
    found = []
    for file in list_episodes(folder):
        with Episode.open(file) as episode:
            found.append(int(episode.describe["seed"]))
    return sorted(found)


@pytest.fixture
def always_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six steps lift no cube: let any reward count."""
    from aloha_kit.sim import SimEnv

    monkeypatch.setattr(SimEnv, "succeeded", lambda env, outcome: True)


def job_of(args: RecordArgs) -> RecordingJob:
    task = task_of(args)
    rig = load(RigConfig, "rigs", task.rig)
    return RecordingJob(task, rig, Path(task.dataset_dir), args.noise, args.images, args.quality, args.keep_failures)


@pytest.mark.usefixtures("always_succeeds")
def test_one_demonstration_holds_what_the_expert_did(tmp_path: Path) -> None:
    job = job_of(short(tmp_path, noise=0.5))
    env = connect(job.task, job.rig)
    verdicts = [record_one(env, job, seed) for seed in (3, 4, 3)]
    env.close()
    assert [v.success for v in verdicts] == [True] * 3
    episodes = [Episode.open(v.file) for v in verdicts if v.file]
    try:
        first, other, again = episodes
        assert first.length == 6
        assert first.attrs["task"] == "sim_transfer_cube"
        assert first.success is True
        assert first.image_size("top") == (24, 32)
        assert first.describe["noise"] == 0.5
        # the same seed is the same demonstration whatever came before it, another seed another
        np.testing.assert_array_equal(first.action, again.action)
        np.testing.assert_array_equal(first.qpos, again.qpos)
        np.testing.assert_array_equal(first.image("top", 6), again.image("top", 6))
        assert np.abs(first.vectors["environment_state"][0] - other.vectors["environment_state"][0]).max() > 1e-3
    finally:
        for episode in episodes:
            episode.close()


def test_failures_are_dropped_or_put_aside(tmp_path: Path) -> None:
    """Six steps of the expert cannot succeed."""
    for keep in (False, True):
        folder = tmp_path / str(keep)
        job = job_of(short(folder, keep_failures=keep))
        env = connect(job.task, job.rig)
        verdicts = [record_one(env, job, seed) for seed in (0, 1)]
        env.close()
        assert [v.success for v in verdicts] == [False, False]
        assert list_episodes(folder) == []
        assert not list(folder.glob("*.partial"))
        aside = folder / FAILED
        if keep:
            assert seeds(aside) == [0, 1]
            held = DatasetFolder(folder, "sim_transfer_cube", env.contract)
            assert (held.good, held.used) == (set(), {0, 1})
            with Episode.open(list_episodes(aside)[0]) as episode:
                assert episode.success is False
        else:
            assert not aside.exists()
            assert [v.file for v in verdicts] == [None, None]


def test_two_processes_fill_a_folder_and_a_second_session_goes_on(tmp_path: Path) -> None:
    """A whole transfer takes the expert about 400 steps; small images keep it to seconds."""
    args = short(tmp_path, episode_len=400, num_episodes=2, workers=2, cameras=("angle",))
    first = record(dataclasses.replace(args, view=str(tmp_path / "live.rrd")))
    assert first.present == 2
    assert (tmp_path / "live_1.rrd").stat().st_size > 10_000, "the first process shows its episodes"
    assert not first.interrupted
    assert {v.seed for v in first.outcomes} >= set(seeds(tmp_path))
    assert all(v.success == (v.final_reward == 4.0) for v in first.outcomes)
    assert "2 of 2 succeeded, 100.0% (95 % Wilson interval 34.2% to 100.0%)" in first.text()
    for file in list_episodes(tmp_path):
        with Episode.open(file) as episode:
            assert (episode.cameras, episode.length, episode.frames) == (("angle",), 400, 401)
            assert episode.reward is not None
            assert episode.reward[-1] == 4.0
    sheet = cv2.imread(str(tmp_path / "cameras.jpg"))
    assert sheet is not None
    assert sheet.shape == (240, 320, 3)  # one camera of 24 by 32 pixels, enlarged
    before = {file: file.read_bytes() for file in list_episodes(tmp_path)}
    nothing = record(args)
    assert (nothing.present, nothing.outcomes) == (2, ())
    more = record(dataclasses.replace(args, num_episodes=3))
    assert [v.seed for v in more.outcomes] == [2]
    assert seeds(tmp_path) == [0, 1, 2]
    assert all(file.read_bytes() == content for file, content in before.items())


def test_an_expert_that_never_succeeds_ends_with_an_error(tmp_path: Path) -> None:
    args = short(tmp_path, num_episodes=2, workers=1, max_attempts=3, keep_failures=True)
    expected = r"(?s)only 0 of 3 demonstrations succeeded, 2 were wanted.*--episode_len 6 is below the task's 400"
    with pytest.raises(RecordingError, match=expected):
        record(args)
    assert seeds(tmp_path / FAILED) == [0, 1, 2]


def test_what_cannot_be_recorded_is_reported_before_a_process_starts(tmp_path: Path) -> None:
    task = tmp_path / "odd.yaml"
    task.write_text("name: odd\ninstruction: x\nscene: transfer_cub\n")
    data = tmp_path / "data"
    with pytest.raises(ConfigError, match=r"odd\.yaml: scene: no 'transfer_cub' among the scenes. Did you mean 'tr"):
        record(dataclasses.replace(short(data), task=str(task)))
    assert not data.exists()
    with pytest.raises(ConfigError, match=r"odd.yaml' cannot be a folder: a file of that name is in the way"):
        record(short(task))


class Pipe:
    """A parent that requests one seed and stores the reply."""

    def __init__(self) -> None:
        self.got: list[object] = []

    def recv(self) -> int:
        return 0

    def send(self, value: object) -> None:
        self.got.append(value)
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("error", "text"), [(EpisodeError("disk full"), "disk full"), (KeyError("x"), "KeyError: 'x'")]
)
def test_what_goes_wrong_in_a_process_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(worker, "record_one", fail)
    pipe, before = Pipe(), signal.getsignal(signal.SIGINT)
    try:
        worker.work(job_of(short(tmp_path)), pipe, None)  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGINT, before)
    assert [failure.text for failure in pipe.got] == [text]


@pytest.mark.usefixtures("always_succeeds")
def test_a_folder_holds_one_kind_of_episode(tmp_path: Path) -> None:
    job = job_of(short(tmp_path))
    with contextlib.closing(connect(job.task, job.rig)) as env:
        record_one(env, job, 0)
    for changes, difference in (
        ({"image_size": (48, 64)}, r"camera 'top': \(24, 32\) \(height, width\) against \(48, 64\)"),
        ({"cameras": ("top", "angle")}, "camera 'angle' is missing; there are: top"),
    ):
        with pytest.raises(
            EpisodeError, match=rf"episode_0.hdf5 was recorded otherwise:\n  {difference}\n.*dataset_dir"
        ):
            record(short(tmp_path, **changes))
    done = record(short(tmp_path, num_episodes=1))
    assert done.text() == f"1 of 1 episode in {tmp_path}"
    (tmp_path / "episode_4.hdf5.partial").write_bytes(b"")
    hint = f"1 interrupted recording: `python -m aloha_kit.episode recover {tmp_path}`"
    assert done.text().splitlines()[1] == hint
    (tmp_path / "episode_7.hdf5").write_bytes(b"junk")
    with pytest.raises(
        EpisodeError, match=r"(?s)episode_7.hdf5 is damaged.*Move .*episode_7.hdf5 away, or run `python"
    ):
        record(short(tmp_path))


def test_a_folder_of_another_task_is_refused(tmp_path: Path) -> None:
    write(tmp_path, make(4, {}, seed=0))
    with pytest.raises(EpisodeError, match=r"is of task 'synthetic', not 'sim_transfer_cube'.*--dataset_dir"):
        record(short(tmp_path))


def interrupted(folder: Path, episodes: str, moment: Callable[[subprocess.Popen[str]], Any]) -> tuple[str, str]:
    """Output and errors of a recording whose process group gets Ctrl-C at a moment, as a terminal sends it."""
    command = [sys.executable, "-m", "aloha_kit.record", "--task", "sim_transfer_cube", "--num_episodes", episodes]
    command += ["--dataset_dir", str(folder), "--image_size", "24", "32", "--workers", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        until(lambda: moment(process) or process.poll() is not None, "the moment to interrupt", 240.0)
        assert process.poll() is None, process.communicate()[1]
        os.killpg(process.pid, signal.SIGINT)
        out, error = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, error
    return out, error


def recorded_in_chinese(folder: Path, *flags: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "aloha_kit.record", "--task", "sim_transfer_cube", "--num_episodes", "1"]
    command += ["--dataset_dir", str(folder), "--image_size", "24", "32", "--workers", "1", "--lang", "zh", *flags]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, timeout=240, check=False)


def test_a_recording_in_chinese(tmp_path: Path) -> None:
    done = recorded_in_chinese(tmp_path, "--cameras", "top")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.decode().splitlines()
    assert first == f"{tmp_path} 中已有 1 条轨迹，共需 1 条"
    assert second.startswith("本次采集：1 次中成功 1 次，100.0%（95 % Wilson 区间 ")
    assert "采集 1 条轨迹，使用 1 个进程" in done.stderr.decode()
    (file,) = list_episodes(tmp_path)
    with Episode.open(file) as episode:  # what is stored is English
        assert episode.attrs["reason"] == "complete"


def test_a_terminal_that_cannot_print_chinese_ends_no_recording(tmp_path: Path) -> None:
    flags = ("--episode_len", "6", "--max_attempts", "1")
    done = recorded_in_chinese(tmp_path, *flags, PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    text = done.stderr.decode("ascii").encode().decode("unicode_escape")
    assert f"error: 1 次示教中只成功了 0 次，需要 1 次；已录的在 {tmp_path}。--episode_len 6 小于任务的 400" in text


def test_ctrl_c_keeps_whole_episodes_only_and_the_next_run_goes_on(tmp_path: Path) -> None:
    # with three files at two workers, one worker has long reported its first
    out, error = interrupted(tmp_path, "500", lambda process: len(list_episodes(tmp_path)) >= 3)
    assert "interrupted; the same command continues from here" in out
    assert "Traceback" not in error
    files = list_episodes(tmp_path)
    assert files
    assert not list(tmp_path.glob("*.partial"))
    assert "\r" not in error  # no bar where there is no terminal
    reported = re.findall(r"seed \d+: success", error)
    assert reported
    assert len(reported) == len(set(reported)), "a line is logged twice"
    for file in files:
        with Episode.open(file) as episode:
            assert episode.length == 400
            assert episode.success is True


INTERRUPTED_PIPE = """
import signal, sys
from multiprocessing.connection import Connection
from aloha_kit.record.__main__ import main

if __name__ == "__main__":  # not in the recording processes
    method, number = sys.argv.pop(1), signal.Signals[sys.argv.pop(1)]
    transfer, calls = getattr(Connection, method), []

    def interrupted(pipe, *data):
        calls.append(data)
        if method == "send" and len(calls) == 2:  # the process is given its seed, and does not have it
            signal.raise_signal(number)
        done = transfer(pipe, *data)
        if method != "send" and len(calls) == 2:
            signal.raise_signal(number)
        return done

    setattr(Connection, method, interrupted)
    main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("method", ["send", "recv", "_recv"])
def test_an_interrupt_in_the_middle_of_a_message_ends_it_as_any_other(
    method: str, number: signal.Signals, tmp_path: Path
) -> None:
    script = tmp_path / "recording.py"
    script.write_text(INTERRUPTED_PIPE, encoding="utf-8")
    command = [sys.executable, str(script), method, number.name, "--task", "sim_transfer_cube", "--num_episodes", "9"]
    command += ["--dataset_dir", str(tmp_path / "data"), "--image_size", "24", "32", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 128 + number, done.stderr
    assert "interrupted; the same command continues from here" in done.stdout
    assert "Traceback" not in done.stderr


def workers_of(pid: int | None = None) -> list[psutil.Process]:
    """Recording processes below `pid` (this process); one that ends while it is looked at is none."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_ctrl_c_while_the_processes_import_is_quiet(tmp_path: Path) -> None:
    out, error = interrupted(tmp_path / "data", "9", lambda process: workers_of(process.pid))
    assert "0 of 9 episodes in" in out
    assert "Traceback" not in error
    assert "died" not in error


def test_a_killed_process_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory looks like this from outside."""
    import multiprocessing.connection

    from aloha_kit.record import scripted_recorder

    def kill_then_wait(pipes: list[object], timeout: float | None) -> list[object]:
        for child in workers_of():
            child.kill()
        return multiprocessing.connection.wait(pipes, timeout)  # type: ignore[arg-type]

    monkeypatch.setattr(scripted_recorder, "wait", kill_then_wait)
    with pytest.raises(RecordingError, match=r"a recording process died \(exit code -9\) at seed 0"):
        record(short(tmp_path, workers=1, num_episodes=1))


def test_flags() -> None:
    flags = "--task_name sim_insertion --num_episodes 7 --cameras top angle --image_size 96 128 --images raw"
    assert parse([*flags.split(), "--onscreen_render"]).view == "screen"
    args = parse(flags.split())
    assert args == RecordArgs(
        task="sim_insertion", num_episodes=7, cameras=("top", "angle"), image_size=(96, 128), images="raw"
    )
    task = task_of(args)
    assert (task.cameras, task.image_size, task.episode_len) == (("top", "angle"), (96, 128), 400)
    assert task.dataset_dir == load(TaskConfig, "tasks", "sim_insertion").dataset_dir


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--task", "sim_transfer_cub"], r"error: no configuration 'sim_transfer_cub' .*'sim_transfer_cube'"),
        (["--task", "sim_transfer_cube", "--cameras", "topp"], r"error: .*has no camera 'topp'.* Did you mean 'top'"),
        (["--task", "sim_transfer_cube", "--episode_len", "0"], r"error: .*episode_len must be at least 1"),
    ],
)
def test_mistakes_are_answered(tmp_path: Path, flags: list[str], expected: str) -> None:
    with pytest.raises(SystemExit, match=expected):
        main([*flags, "--dataset_dir", str(tmp_path / "data"), "--num_episodes", "1", "--workers", "1"])


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="num_episodes must be at least 1, given 0"):
        RecordArgs(task="x", num_episodes=0)
    with pytest.raises(ValueError, match="quality must lie in 1 to 100, given 101"):
        RecordArgs(task="x", quality=101)
    with pytest.raises(ValueError, match="seed must be at least 0, given -1"):
        RecordArgs(task="x", seed=-1)
    with pytest.raises(ValueError, match="noise must be a finite number from 0 on, given inf"):
        RecordArgs(task="x", noise=float("inf"))
    with pytest.raises(ConfigError, match="each camera can be named once, given top, top"):
        task_of(RecordArgs(task="sim_transfer_cube", cameras=("top", "top")))
    with pytest.raises(ConfigError, match="no configuration 'x' in tasks"):
        task_of(RecordArgs(task="x"))


def test_recording_needs_neither_torch_nor_ros() -> None:
    code = (
        "import sys\nfor name in ('rospy', 'torch'):\n    sys.modules[name] = None\n"
        "import aloha_kit.record.app, aloha_kit.record.recording_worker\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_full_disk_costs_no_step(tmp_path: Path) -> None:
    """A script that meets a file-size limit: the error names the journal and its steps, and they are all there."""
    command = [sys.executable, "-m", "aloha_kit.record", "--task", "sim_transfer_cube", "--dataset_dir", str(tmp_path)]
    command += [
        "--num_episodes",
        "1",
        "--workers",
        "1",
        "--images",
        "raw",
        "--image_size",
        "24",
        "32",
        "--cameras",
        "top",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000)),
    )  # fmt: skip
    assert done.returncode == 1
    journal = tmp_path / "episode_0.hdf5.partial"
    files = {path.name for path in tmp_path.iterdir() if path.is_file() and path.name[0] != "."}
    assert files == {CONTACT_SHEET, journal.name}
    printed = re.search(rf"File too large. (\d+) steps are safe in {re.escape(str(journal))};", done.stderr)
    assert printed, done.stderr
    assert "Traceback" not in done.stderr
    steps = int(printed[1])
    assert steps > 10
    (found,) = recover_all(tmp_path)
    assert (found.outcome, found.steps) == ("recovered", steps)
    with Episode.open(tmp_path / "episode_0.hdf5") as episode:
        assert (episode.length, episode.success) == (steps, False)
        assert np.ptp(episode.qpos, axis=0).max() > 0
        contract = episode.contract
    assert contract is not None
    assert not DatasetFolder(tmp_path, "sim_transfer_cube", contract).good  # counts as no demonstration


def test_recorders_in_one_folder_share_its_seeds(tmp_path: Path) -> None:
    """Six steps never succeed, so each of the two tries four seeds: eight different ones, the lowest."""
    command = [sys.executable, "-m", "aloha_kit.record", "--task", "sim_transfer_cube", "--dataset_dir", str(tmp_path)]
    command += ["--image_size", "24", "32", "--episode_len", "6", "--workers", "1", "--keep_failures"]
    command += ["--num_episodes", "4", "--max_attempts", "4"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as other:
        while not (tmp_path / ".claims").exists():
            assert other.poll() is None
            time.sleep(0.05)
        with pytest.raises(RecordingError, match="only 0 of 4 demonstrations succeeded"):
            record(short(tmp_path, num_episodes=4, workers=1, keep_failures=True, max_attempts=4))
        _, errors = other.communicate(timeout=100)
    assert "only 0 of 4 demonstrations succeeded" in errors
    assert seeds(tmp_path / FAILED) == list(range(8))


@pytest.mark.usefixtures("always_succeeds")
def test_recorders_in_one_folder_stop_together(tmp_path: Path) -> None:
    """Both together record exactly the requested number, and neither waits for one that was killed."""
    job = job_of(short(tmp_path))
    with contextlib.closing(connect(job.task, job.rig)) as env:
        mine, other = (DatasetFolder(tmp_path, "sim_transfer_cube", env.contract) for _ in range(2))
        first, second = mine.seeds(0), other.seeds(0)
        assert mine.begin_attempt(3)
        assert other.begin_attempt(3)
        assert mine.begin_attempt(3)
        assert not mine.begin_attempt(3)  # three are under way
        assert not other.begin_attempt(3)
        assert (next(first), next(second), next(first)) == (0, 1, 2)
        record_one(env, job, 1)
        other.claims.end_attempt()
        assert not other.begin_attempt(3)  # one is there and two are under way
        mine.claims.close()  # as when it is killed
        assert other.begin_attempt(3)
        assert (next(second), other.used) == (2, {1})
        again = DatasetFolder(tmp_path, "sim_transfer_cube", env.contract)
        # let go of, 0 is free again; 1 is recorded, 2 is the other's
        assert (next(third := again.seeds(0)), next(third), next(third)) == (0, 3, 4)
        record_one(env, job, 5)
        assert next(third) == 6  # recorded since the last look
        other.claims.close()
        assert (tmp_path / ".claims").exists()
        again.claims.close()
        assert not (tmp_path / ".claims").exists()
