"""Start poses are read from every kind of file, and refused by row."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aloha_kit.config.starts import read_starts, starts_by_seed
from aloha_kit.core import ConfigError

CUBE = [[0.1, 0.5, 0.05, 1, 0, 0, 0], [0.2, 0.4, 0.02, 0, 0, 0, 1]]
INSERTION = [[0.15, 0.5, 0.05, 1, 0, 0, 0, -0.15, 0.5, 0.05, 1, 0, 0, 0]]


def write(path: Path, rows: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".yaml":
        path.write_text(f"poses: {json.dumps(rows)}\n")
    else:
        path.write_text("# x y z qw qx qy qz\n" + "\n".join(", ".join(map(str, row)) for row in rows) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".npy", ".json", ".yaml", ".csv", ".txt"])
@pytest.mark.parametrize("rows", [CUBE, INSERTION])
def test_every_file_gives_the_same_poses(suffix: str, rows: Any, tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_starts(write(tmp_path / f"poses{suffix}", rows)), rows)


def test_one_pose_and_a_pose_for_each_object_are_rows(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_starts(write(tmp_path / "one.npy", CUBE[0])), CUBE[:1])
    objects = np.reshape(INSERTION, (1, 2, 7))
    np.testing.assert_array_equal(read_starts(write(tmp_path / "two.npy", objects)), INSERTION)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], r"numbers of shape \(1, 0\); expected rows of x y z qw qx qy qz"),
        ([[1, 2, 3]], r"numbers of shape \(1, 3\)"),
        ([CUBE[0], [0.1, 0.5, 0.05, 0.5, 0, 0, 0]], r"row 1: \[0.5, 0.0, 0.0, 0.0\] is no unit quaternion \(w x y z\)"),
        ([CUBE[0], [0.1, 0.5, 5, 1, 0, 0, 0]], r"row 1: an object at z = 5 m; the table is 0 to 0.5 m"),
        ([[-0.9, 0.5, 0.1, 1, 0, 0, 0]], r"row 0: an object at x = -0.9 m; the table is -0.6 to 0.6 m"),
        ([[float("nan")] * 7], "row 0: a pose that is not finite"),
        ([CUBE[0], [1]], "cannot be read as start poses"),
        ("text", "cannot be read as start poses"),
        ({"a": 1}, "cannot be read as start poses"),
        ([[None] * 7], "row 0: a pose that is not finite"),
    ],
)
def test_poses_that_cannot_be_are_refused(rows: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read_starts(write(tmp_path / "poses.json", rows))
    assert "\n" not in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "poses.mat").touch()
    (tmp_path / "objects.npy").write_bytes(b"junk")
    os.mkfifo(tmp_path / "pipe.csv")
    np.save(tmp_path / "pickled.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    for name, words in (
        ("none.npy", "No such file"),
        ("poses.mat", "a '.mat' file; known: .npy, .json, .yaml, .csv"),
        ("objects.npy", "cannot be read"),
        ("pickled.npy", "cannot be read"),
        ("pipe.csv", "it is a FIFO"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_starts(tmp_path / name)


def test_starts_go_by_seed_one_a_rollout(tmp_path: Path) -> None:
    file = write(tmp_path / "poses.npy", CUBE)
    assert starts_by_seed(None, 7, None) == {}
    found = starts_by_seed(file, 7, None)
    assert list(found) == [7, 8]
    np.testing.assert_array_equal(found[8], CUBE[1])
    assert list(starts_by_seed(file, 7, 1)) == [7]
    with pytest.raises(ConfigError, match=r"--num_rollouts 3, but .*poses.npy has 2 starts, one a rollout"):
        starts_by_seed(file, 7, 3)
