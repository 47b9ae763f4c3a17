"""Recipes for clusters: their syntax, and the commands of this package that they run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from aloha_kit.data.args import parse, Pull

TRAIN = Path(__file__).parents[2] / "train"


def checked(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_slurm_script_is_a_script() -> None:
    checked((TRAIN / "slurm.sbatch").read_text(encoding="utf-8"))


def test_the_skypilot_file_has_its_keys_and_scripts() -> None:
    task = yaml.safe_load((TRAIN / "sky.yaml").read_text(encoding="utf-8"))
    assert set(task) == {"name", "workdir", "resources", "envs", "file_mounts", "setup", "run"}
    assert task["file_mounts"]["/runs"] == {"source": "${RUNS}", "mode": "MOUNT_CACHED"}, "logs are appended to"
    assert set(task["envs"]) == {"DATA", "RUNS", "TASK"}
    for name in ("setup", "run"):
        checked(task[name])
    (line,) = [line for line in task["run"].splitlines() if "aloha_kit.data" in line]
    assert isinstance(parse(line.split()[3:]), Pull)


@pytest.mark.parametrize("script", ["if true; then", "wait ("])
def test_a_broken_script_is_found(script: str) -> None:
    with pytest.raises(AssertionError):
        checked(script)
