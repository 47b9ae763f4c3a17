"""Rollouts in simulation whose fault is known: a scripted motion in the network's place, and its own statistics."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aloha_kit.core import joint_names, Observation, START_ARM_POSE
from aloha_kit.data.camera_frames import DirectFrames
from aloha_kit.data.camera_statistics import add_camera_statistics
from aloha_kit.data.index import read_table
from aloha_kit.deploy.__main__ import main
from aloha_kit.deploy.local_policy import TimedChunkPolicy
from aloha_kit.diagnose.diagnosis import diagnose, Diagnosis
from aloha_kit.diagnose.evidence import Evidence, gather
from aloha_kit.formats import open_source
from aloha_kit.policies import checkpoint
from aloha_kit.policies.build import build
from aloha_kit.sim import SimEnv
from tests.deploy.conftest import CONFIG, CONTRACT
from tests.tiny import statistics

STEPS = 60
CHUNK = 20
NAMES = joint_names()
GRIPPERS = [NAMES.index(f"{arm}_gripper") for arm in ("left", "right")]
PERIOD_NS = 20_000_000

Motion = Callable[[np.ndarray], np.ndarray]


def motion(steps: np.ndarray) -> np.ndarray:
    """(K, 14) smooth commands from the start pose and back to it within 60 steps, slow enough for the guard's ramp."""
    way = (1 - np.cos(2 * np.pi * np.asarray(steps) / STEPS))[:, None] / 2
    amplitude = np.tile([0.2, 0.2, -0.2, 0.2, 0.2, 0.2, 0.8], 2)
    return np.tile([*START_ARM_POSE, 0.1], 2) + way * amplitude


def play(monkeypatch: pytest.MonkeyPatch, motion: Motion = motion, seconds: float = 0.0) -> None:
    """Every network now answers with `motion`, after so many seconds."""
    first: dict[str, int] = {}

    def reset(self: TimedChunkPolicy) -> None:
        first.clear()

    def predict_chunk(self: TimedChunkPolicy, observation: Observation) -> np.ndarray:
        with self._measure("network"):
            now = observation["stamps"]["qpos"]
            step = round((now - first.setdefault("ns", now)) / PERIOD_NS)
            time.sleep(seconds)
            return motion(step + np.arange(CHUNK)).astype(np.float32)

    monkeypatch.setattr(TimedChunkPolicy, "reset", reset)
    monkeypatch.setattr(TimedChunkPolicy, "predict_chunk", predict_chunk)


def show(monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Every simulated camera now shows `change` of its image."""
    observe = SimEnv._observe

    def changed(self: SimEnv, command_ns: int | None) -> Observation:
        observation = observe(self, command_ns)
        observation["images"] = {name: change(image) for name, image in observation["images"].items()}
        return observation

    monkeypatch.setattr(SimEnv, "_observe", changed)


def rollout(run: Path, output: Path, *flags: str) -> Path:
    """Deploy once and give the episode."""
    main(["--ckpt", str(run), "--task", "sim_transfer_cube", "--num_rollouts", "1", "--video", "0", "--episode_len",
          str(STEPS), "--output", str(output), *flags])  # fmt: skip
    return output / "episode_0.hdf5"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose statistics are those of a clean rollout, of the seed that all rollouts here have."""
    folder = tmp_path_factory.mktemp("run")
    best = folder / "checkpoints" / "best"
    config = dataclasses.replace(CONFIG, chunk_size=CHUNK)
    checkpoint.save(best, build(config, CONTRACT, statistics()), config, statistics(), CONTRACT, {"step": 0})
    with pytest.MonkeyPatch.context() as patch:
        play(patch)
        table = read_table(open_source(rollout(folder, folder / "clean")), include_failed=True)
    frames = DirectFrames(table, table.contract.cameras, workers=1)
    arrays = add_camera_statistics(table.statistics(), table, frames, [0]).to_arrays()
    (best / "statistics.json").write_text(json.dumps({key: value.tolist() for key, value in arrays.items()}))
    (best / "checksums.json").unlink(missing_ok=True)  # the statistics are not those that were saved
    return folder


@pytest.fixture(scope="session")
def dark(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a rollout in the dark."""
    folder = tmp_path_factory.mktemp("dark")
    with pytest.MonkeyPatch.context() as patch:
        play(patch)
        show(patch, lambda image: (image * 0.6).astype(np.uint8))
        rollout(run, folder)
    return folder


def found(episode: Path, ckpt: Path | None = None) -> Diagnosis:
    return diagnose(gather(episode, ckpt))


def keys(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    return [(cause.finding.check, cause.finding.subject) for cause in diagnosis.causes]


def evidence(**changes: Any) -> Evidence:
    """Two seconds of a real rig in which nothing is wrong and nothing is known."""
    steps = 100
    deadline = 1_700_000_000 * 10**9 + np.arange(steps) * PERIOD_NS
    moving = motion(np.arange(steps)).astype(np.float32)
    fixed = Evidence(
        path=Path("episode_0.hdf5"),
        open=lambda: pytest.fail("nothing reads the episode again"),
        contract=CONTRACT,
        action=moving,
        qpos=moving,
        reward=None,
        success=False,
        reason="complete",
        error=False,
        stamps={"deadline": deadline, "qpos": deadline - 1_000_000, "images/top": deadline - 20_000_000},
        begin={},
        camera_statistics={},
        log=None,
        report={},
        training=None,
        unknown=(),
    )
    return dataclasses.replace(fixed, **changes)
