"""A log gives back what was put in, and reports what is cut or damaged."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from aloha_kit.core import EpisodeError
from aloha_kit.storage.step_log import columns, read_steps, RecordedStep, steps_path

STAGES = ("total", "network")
STEPS = [
    RecordedStep(
        0, {"total": 21.5, "network": 20.25}, 0, 0, 1, 0, True, "", (("left_waist", "ramp"),), 3.5, "qpos", True
    ),
    RecordedStep(
        1, {"total": 0.125}, held="stream 'images/top' is stale, \"quite\"", stalest="images/top", age_ms=260.0
    ),
    RecordedStep(2, {"total": 1.0}, 2, 0, 3, 0, True, limited=(("left_waist", "range"), ("right_gripper", "speed"))),
]


def write(path: Path, steps: list[RecordedStep]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, lineterminator="\n").writerows([columns(STAGES), *(step.cells(STAGES) for step in steps)])
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = steps_path(tmp_path / "episode_3.hdf5")
    assert path.name == "episode_3.steps.csv"
    assert read_steps(write(path, STEPS)) == STEPS


def test_a_line_that_a_crash_cut_is_left_out(tmp_path: Path) -> None:
    whole = write(tmp_path / "log.csv", STEPS).read_text()
    last = whole.rstrip("\n").rindex("\n") + 1
    for end in range(last + 1, len(whole) - 2):
        (tmp_path / "log.csv").write_text(whole[:end])
        assert read_steps(tmp_path / "log.csv") == STEPS[:2]
    (tmp_path / "log.csv").write_text(whole[:last].replace("21.500", "x"))
    with pytest.raises(EpisodeError, match=r"is damaged at line 2: could not convert string to float: 'x'"):
        read_steps(tmp_path / "log.csv")


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=r"the log '.*nothing.csv' cannot be read: .*No such file"):
        read_steps(tmp_path / "nothing.csv")
    (tmp_path / "other.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(EpisodeError, match=r"is no log of steps; its columns: step, loss"):
        read_steps(tmp_path / "other.csv")


def test_an_older_log_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", STEPS)
    path.write_text(path.read_text().replace(",boundary,", ",seam,", 1))
    assert read_steps(path) == STEPS
