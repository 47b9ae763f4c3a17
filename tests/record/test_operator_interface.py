"""Keys on a pseudo-terminal, gestures in made motions, what is displayed and spoken, and numbers from made stamps."""

from __future__ import annotations

import functools
import io
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dm_env
import numpy as np
import pytest

from aloha_kit.core import ConfigError, joint_names, VirtualClock
from aloha_kit.core.lang import language
from aloha_kit.record import keyboard as keyboard_module
from aloha_kit.record.args import parse, RecordArgs, rig_of, SessionArgs
from aloha_kit.record.gripper_gesture import GripperGesture
from aloha_kit.record.keyboard import Keyboard, open_keyboard
from aloha_kit.record.operator_interface import Cues, Display
from aloha_kit.record.status_line import DiskSpace, EpisodeTiming, status_text, TimingMonitor

NAMES = joint_names()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Both ends of a pseudo-terminal, ours and the program's; time stands still between keys."""
    monkeypatch.setattr(keyboard_module, "in_foreground", lambda: True)
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def read_keys(keys: Keyboard, ours: int, typed: str) -> list[str]:
    os.write(ours, typed.encode())
    end, found = time.monotonic() + 5, list[str]()
    while not found and time.monotonic() < end:
        found += keys.poll()
    return found


def test_keys_mean_what_the_moment_makes_of_them(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    keys = Keyboard(theirs, Display(io.StringIO()))
    try:
        assert read_keys(keys, ours, "kdrsfq") == ["keep", "discard", "redo", "success", "failure", "quit"]
        assert read_keys(keys, ours, "x p") == ["start", "pause"]  # no such key as x
        keys.status("paused", "")
        time.sleep(0.6)  # or it would be taken for a key that is held down
        assert read_keys(keys, ours, "p") == ["resume"]
        keys.status("recording", "")
        assert read_keys(keys, ours, " ") == ["keep"]
        assert read_keys(keys, ours, " \nK") == ["keep", "keep"]  # the space is held down; Enter and K are other keys
    finally:
        keys.close()


def test_a_text_is_typed_between_episodes_and_grades_are_digits(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    shown = Terminal()
    keys = Keyboard(theirs, Display(shown))

    def typed(text: str) -> list[str]:
        """Its commands, once all of it was read."""
        os.write(ours, text.encode())
        assert select.select([theirs], [], [], 5)[0]
        time.sleep(0.02)
        return list(keys.poll())

    try:
        keys.status("waiting", "")
        assert read_keys(keys, ours, "4") == ["grade 4"]
        assert typed("n") == []
        assert typed("Quick güß") == []  # a q is a letter here
        assert "note (Enter saves, Esc drops): Quick güß" in shown.getvalue()
        assert typed("\x1b[A") == []  # an arrow
        assert typed("\x7fß\n") == ["note Quick güß"]
        assert typed("iabc") == []
        assert typed("\x1b") == []  # Esc
        assert typed("n \n") == []  # no text
        assert typed("ihalf") == []
        keys.status("recording", "")
        assert "not saved, since the next episode has begun: instruction half" in shown.getvalue()
        time.sleep(0.6)
        assert typed("n5") == ["grade 5"]  # no text while an episode is recorded
    finally:
        keys.close()


def test_a_terminal_is_put_back_and_neither_echoes_nor_stops_meanwhile(terminal: tuple[int, int]) -> None:
    _, theirs = terminal
    before = termios.tcgetattr(theirs)
    keys = Keyboard(theirs, Display(io.StringIO()))
    during = termios.tcgetattr(theirs)
    assert not during[3] & (termios.ECHO | termios.ICANON)
    assert during[3] & termios.ISIG  # Ctrl-C is still an interrupt
    assert during[6][termios.VSUSP] == b"\0"
    keys.close()
    assert termios.tcgetattr(theirs) == before


def test_without_a_terminal_there_is_no_keyboard() -> None:
    reading, writing = os.pipe()
    try:
        assert open_keyboard(Display(io.StringIO()), reading) is None
    finally:
        os.close(reading)
        os.close(writing)


FOREGROUND = """
import os, sys, time
from aloha_kit.record.keyboard import in_foreground
if sys.argv[1:] == ["session"]:  # as roslaunch starts its nodes
    child = os.fork()
    if child == 0:
        os.setsid()
        print("node", in_foreground(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
print("foreground", in_foreground(), flush=True)
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    print("background", in_foreground(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_only_the_foreground_reads_keys() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", FOREGROUND, "session"])
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    os.waitpid(pid, 0)
    os.close(terminal)
    assert shown.decode().split() == ["node", "True", "foreground", "True", "background", "False"]


def play(motion: Callable[[float], tuple[float, float, float]], seconds: float = 6.0) -> tuple[list[str], int]:
    """Commands and the gesture's steps when both grippers and a joint follow `motion(t) -> left, right, waist`."""
    gesture = GripperGesture(NAMES, 50.0)
    found = list[str]()
    for step in range(round(seconds * 50)):
        left, right, waist = motion(step / 50)
        action = np.zeros(14, np.float32)
        action[[6, 13, 0]] = left, right, waist
        gesture.update(action)
        found += gesture.poll()
    return found, gesture.steps


def squeeze(t: float, *times: float, length: float = 0.2) -> float:
    return 0.1 if any(begin <= t < begin + length for begin in times) else 0.9


@pytest.mark.parametrize(
    ("times", "expected"),
    [((2.0, 2.5), ["keep"]), ((2.0, 2.6, 3.2), ["redo"]), ((2.0,), []), ((2.0, 2.5, 3.0, 3.5), []), ((2.0, 3.3), [])],
)
def test_two_squeezes_keep_and_three_begin_again(times: tuple[float, ...], expected: list[str]) -> None:
    found, steps = play(lambda t: (squeeze(t, *times), squeeze(t, *times), 0.1 * t / 6))
    assert found == expected
    if expected:  # from before the first squeeze until nothing followed the last: 0.8 s
        assert steps == pytest.approx(50 * (times[-1] - times[0] + 0.8), abs=3)


@pytest.mark.parametrize(
    "motion",
    [
        lambda t: (squeeze(t, 2.0, 2.5), 0.9, 0.0),  # one hand
        lambda t: (squeeze(t, 2.0, 2.6, length=0.5), squeeze(t, 2.45, 3.05, length=0.1), 0.0),  # not together
        lambda t: (squeeze(t, 2.0, 2.5), squeeze(t, 2.0, 2.5), 0.6 * t),  # on the move
        lambda t: (0.5 + 0.4 * np.cos(2 * np.pi * t),) * 2 + (0.0,),  # slowly, as in handling something
        lambda t: (0.1, 0.1, 0.0) if t < 3 else (0.9, 0.9, 0.0),  # opened once, from the start
        lambda t: (0.35 + 0.15 * np.cos(20 * t),) * 2 + (0.0,),  # trembling around half closed
    ],
)  # fmt: skip
def test_what_hands_do_in_a_task_is_no_gesture(motion: Any) -> None:
    assert play(motion)[0] == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_status_line_stays_in_its_place_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "aloha_kit.record.operator_interface.shutil.get_terminal_size", lambda: os.terminal_size((21, 24))
    )
    stream = Terminal()
    display = Display(stream)
    display.status("twenty characters fit, no more")
    display.prompt("note: a")
    display.status("not while somebody types", now=True)
    display.prompt("")
    display.status("shorter", now=True)
    display.status("too early to show")
    display.message("done")
    assert (
        stream.getvalue()
        == "\r\x1b[2Ktwenty characters fi\r\x1b[2Knote: a\r\x1b[2Knote: a\r\x1b[2K\r\x1b[2Kshorter\r\x1b[2Kdone\n"
    )


def test_chinese_characters_take_two_columns_of_the_status_line(monkeypatch: pytest.MonkeyPatch) -> None:
    size = os.terminal_size((21, 24))
    monkeypatch.setattr("aloha_kit.record.operator_interface.shutil.get_terminal_size", lambda: size)
    stream = Terminal()
    timing = EpisodeTiming(steps=50, late=2)
    with language("zh"):
        Display(stream).status(status_text(timing, episode="x", steps=100, rate_hz=50, stalls=0, minutes=None))
    assert stream.getvalue() == "\r\x1b[2Kx | 1.0 / 2.0 s | 超"


def test_without_a_terminal_there_are_plain_lines_now_and_then() -> None:
    stream = io.StringIO()
    display = Display(stream, plain_s=3600)
    display.message("recording")
    display.status("first")
    display.status("within the hour")
    display.status("now", now=True)
    assert not display.due()
    assert stream.getvalue() == "recording\nfirst\nnow\n"
    assert not Display(Terminal(), plain=True).live


def test_a_terminal_that_is_gone_is_no_reason_to_stop() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    Display(Gone()).message("still recording")
    closed = io.StringIO()
    closed.close()
    Cues("bell", stream=closed).give("go")


def test_cues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    Cues(stream=stream).give("go")
    assert stream.getvalue() == ""
    Cues("bell", stream=stream).give("stop", rings=2)
    assert stream.getvalue() == "\a\a"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="cues by speech need `spd-say` or `espeak-ng`"):
        Cues("speech")
    speaker, spoken = tmp_path / "espeak-ng", tmp_path / "spoken"
    speaker.write_text(f'#!/bin/sh\necho "$@" >> {spoken}\nexec /bin/sleep 60\n')
    speaker.chmod(0o755)
    cues = Cues("speech")
    for words in ("go", "stop"):
        cues.give(words)
        end = time.monotonic() + 20
        while (not spoken.exists() or words not in spoken.read_text()) and time.monotonic() < end:
            time.sleep(0.01)
    cues.close()
    assert spoken.read_text() == "go\nstop\n"


def step_at(
    monitor: TimingMonitor, clock: VirtualClock, ms: float, stamps: dict[str, float], action: bool = True
) -> None:
    """A row at `ms`, its stamps in ms as well."""
    clock.sleep_until(round(ms * 1e6))
    observation = {"stamps": {name: round(value * 1e6) for name, value in stamps.items()}}
    if action:
        monitor.on_step(np.zeros(2), dm_env.transition(0.0, observation))
    else:
        monitor.on_reset(dm_env.restart(observation))


def test_figures_from_stamps() -> None:
    clock = VirtualClock()
    monitor = TimingMonitor(50.0, clock)
    assert monitor.timing() == EpisodeTiming()
    step_at(monitor, clock, 101, {"a": 95, "b": 96, "c": 96, "deadline": 100}, action=False)
    step_at(
        monitor, clock, 121, {"a": 115, "b": 116, "c": 116, "leader_left": 90, "deadline": 120, "command": 101}, True
    )
    # sent 3 ms after its deadline, but within the period: late, nothing dropped; b is 13 ms from the median
    step_at(
        monitor, clock, 147, {"a": 135, "b": 149, "c": 136, "leader_left": 130, "deadline": 140, "command": 143}, True
    )
    # two periods late: the schedule was put off
    step_at(
        monitor, clock, 202, {"a": 199, "b": 200, "c": 200, "leader_left": 196, "deadline": 200, "command": 181}, True
    )
    timing = monitor.timing()
    assert (timing.steps, timing.late, timing.dropped) == (3, 2, 2)
    assert timing.fps == pytest.approx(1000 * 3 / 101)
    assert (timing.skew, timing.skewed, timing.worst_gap) == (13.0, "b", 55.0)
    line = functools.partial(status_text, episode="episode 3 of 50 | 2 good", steps=400)
    assert line(timing, rate_hz=50, stalls=0, minutes=12.4) == (
        "episode 3 of 50 | 2 good | 0.1 of 8.0 s | late 2 | dropped 2"
    )
    # at 100 Hz a period is less than the 13 ms that b was apart
    assert line(timing, rate_hz=100, stalls=1, minutes=9.4) == (
        "episode 3 of 50 | 2 good | 0.0 of 4.0 s | b 13 ms apart | late 2 | dropped 2 | stalls 1 | disk 9 min"
    )
    calm = EpisodeTiming(steps=60, fps=50.0, skew=8.0, skewed="images/cam_low")
    assert line(calm, rate_hz=50, stalls=0, minutes=None) == "episode 3 of 50 | 2 good | 1.2 of 8.0 s"
    monitor.on_reset(dm_env.restart({"stamps": {"a": 0, "deadline": 0}}))
    assert monitor.timing() == EpisodeTiming()


def test_room_on_the_disk_in_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aloha_kit.record.status_line.shutil.disk_usage", lambda _: SimpleNamespace(free=6_000_000_000))
    disk = DiskSpace(tmp_path)
    assert disk.minutes() is None
    disk.update(0, 5.0)  # no warning where nothing is recorded
    assert disk.minutes() is None
    disk.update(50_000_000, 10.0)
    assert disk.minutes() == 20.0


def test_flags_that_mean_nothing_on_a_rig_are_refused() -> None:
    on_rig = RecordArgs(task="aloha_transfer_cube")
    assert rig_of(on_rig).name == "aloha"
    flags = "--task aloha_transfer_cube --rig mobile_aloha --countdown 1 --auto --no_keyboard --cues bell"
    args = parse(flags.split())
    assert args.session == SessionArgs(countdown=1, auto=True, keyboard=False, cues="bell")
    assert rig_of(args).name == "mobile_aloha"
    with pytest.raises(ConfigError, match="--workers does not apply to rig 'aloha': an operator records there"):
        rig_of(RecordArgs(task="aloha_transfer_cube", workers=2))
    with pytest.raises(ConfigError, match="--countdown does not apply to rig 'sim': a scripted expert records there"):
        rig_of(RecordArgs(task="sim_transfer_cube", session=SessionArgs(countdown=5)))
    mouse = RecordArgs(task="pusht_image", rig="pusht_mouse", session=SessionArgs(auto=True, gestures=False))
    with pytest.raises(ConfigError, match="--gestures does not apply to rig 'pusht_mouse': it has no leader arms"):
        rig_of(mouse)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--countdown -1", "countdown must be at least 0, given -1"),
        ("--rate_hz 0", "rate_hz must lie above 0 and up to 1000, given 0"),
        ("--patience -2", "timeout_s must be at least 0, given -2"),
    ],
)
def test_values_that_cannot_be_are_refused(flags: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aloha_kit.record", "--task", "aloha_transfer_cube", *flags.split()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert words in " ".join(done.stderr.replace("│", " ").split())
