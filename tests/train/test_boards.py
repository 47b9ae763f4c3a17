"""Weights & Biases by a stand-in that keeps its calls: the real one needs an account."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from aloha_kit.train.__main__ import main
from aloha_kit.train.boards import WandbBoard


class StandIn(ModuleType):
    """The parts of wandb that are used."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = object()  # type: ignore[assignment]
        self.runs: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **values: Any) -> StandIn:
        self.runs.append(values)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1

    def Image(self, pixels: Any) -> Any:  # noqa: N802 - its name
        return pixels

    def Video(self, file: Any, format: str) -> tuple[str, bytes]:  # noqa: N802
        return format, file.read()


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_training_is_shown_and_goes_on_in_the_same_run(tmp_path: Path, flags: list[str], wandb: StandIn) -> None:
    main([*flags, "--no_preflight", "--wandb", "cubes"])
    (run,) = wandb.runs
    assert (run["project"], run["name"], run["dir"]) == ("cubes", "run", str(tmp_path / "run"))
    assert run["config"]["training"]["num_steps"] == 20
    assert wandb.finished == 1
    curves = {key: step for step, values in wandb.logged for key in values}
    assert curves.items() >= {"train/loss": 20, "time/step_ms": 20, "eval/val_deployed": 20, "camera/top": 0}.items()
    images = next(values["camera/top"] for _, values in wandb.logged if "camera/top" in values)
    assert {(image.shape, image.dtype) for image in images} == {((24, 32, 3), np.dtype(np.uint8))}
    main(["--resume", str(tmp_path / "run"), "--num_steps", "22"])
    assert [each["id"] for each in wandb.runs] == [run["id"]] * 2
    assert wandb.runs[1]["resume"] == "allow"
    assert wandb.logged[-1][0] == 22


def test_a_rollout_is_a_moving_image(tmp_path: Path, wandb: StandIn) -> None:
    WandbBoard("cubes", tmp_path / "run", {}).video("rollout", np.zeros((20, 8, 8, 3), np.uint8), 50.0, 7)
    ((step, values),) = wandb.logged
    assert step == 7
    assert values["rollout"][0] == "gif"
    assert values["rollout"][1].startswith(b"GIF89a")


def test_what_keeps_it_from_starting_is_one_line(
    tmp_path: Path, flags: list[str], wandb: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**values: Any) -> None:
        raise RuntimeError("api_key not configured (no-tty)")

    monkeypatch.setattr(wandb, "init", refused)
    expected = r"^error: --wandb cubes cannot start: api_key not configured \(no-tty\)\. Log in with `wandb login`, set"
    with pytest.raises(SystemExit, match=expected):
        main([*flags, "--no_preflight", "--wandb", "cubes"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^error: --wandb needs the package wandb, which is not installed: pip "):
        main([*flags, "--ckpt_dir", str(tmp_path / "other"), "--wandb", "cubes"])
    assert not (tmp_path / "other").exists()
