"""A folder with the task of `point_reach`, and a run that was trained in it for seconds."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("stable_baselines3") else ["test_*.py"]

RIG = (
    "name: point\nkind: point_reach:PointReach\n"
    "cameras:\n  top: {height: 48, width: 64}\n  side: {height: 40, width: 40}\n"
)
TASK = (
    "name: point_reach\ninstruction: Reach the target.\nrig: point.yaml\nepisode_len: 20\nrate_hz: 20\ncameras: [top]\n"
)
QUICK = ["--num_envs", "2", "--rollout_steps", "64", "--batch_size", "64", "--epochs", "2"]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the environment, its rig and its task."""
    folder = tmp_path_factory.mktemp("rl")
    shutil.copy(Path(__file__).with_name("point_reach.py"), folder)
    (folder / "point.yaml").write_text(RIG)
    (folder / "reach.yaml").write_text(TASK)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder as the current one."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])
    return place


@pytest.fixture(scope="session")
def run(place: Path) -> Path:
    """A run of 1280 steps, whose policy reads the images of one camera too."""
    from aloha_kit.rl.__main__ import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "path", [str(place), *sys.path])
        main(["train", "--task", "reach.yaml", "--output", "run", "--num_steps", "1280", "--processes", "no", *QUICK])
    return place / "run"
