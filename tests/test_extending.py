"""What docs/extending.md shows, done as it says: outside of the repository, in a folder of one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aloha_kit.replay.__main__ import main as replay
from tests.synthetic import make, write_dataset

GUIDE = Path(__file__).parents[1] / "docs" / "extending.md"


def blocks(heading: str) -> list[str]:
    """The Python code under a heading."""
    section = re.split(r"^## ", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading + "\n")]
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_a_format_of_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "data" / "npz").mkdir(parents=True)
    for number, steps in enumerate((9, 6)):
        made = make(steps, {"top": (24, 32)}, seed=number, joints=3)
        np.savez(
            tmp_path / "data" / "npz" / f"take_{number}.npz", action=made.action, qpos=made.qpos, top=made.images["top"]
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    source, check = blocks("A format of episodes")
    Path("my_formats.py").write_text(source)
    exec(check, {})
    replay(["data/npz", "--format", "my_formats:NpzFolder", "--no_rrd", "--no_video"])
    assert "9 actions, 10 observations, 20 Hz" in capsys.readouterr().out
    assert sorted(path.name for path in Path("data/npz/replay").glob("*_joints.png")) == [
        "take_0_joints.png",
        "take_1_joints.png",
    ]


def test_your_own_training_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data" / "my_task", lengths=(30, 41, 25))
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("Your own training loop")
    torch.manual_seed(0)
    shown: dict[str, Any] = {}
    exec(code, shown)
    assert np.mean(shown["losses"][-3:]) < 0.7 * np.mean(shown["losses"][:3])
