"""The log of steps: its records of a rollout, and what is there after a crash."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dm_env
import numpy as np
import pytest

from aloha_kit.control.execution import ChunkProvenance
from aloha_kit.deploy.__main__ import main
from aloha_kit.deploy.local_policy import TimedChunkPolicy
from aloha_kit.deploy.log import StepLog
from aloha_kit.loop import Outcome
from aloha_kit.storage.step_log import read_steps
from tests.deploy.conftest import CHUNK

MS = 1_000_000


def observed(**stamps: int) -> dm_env.TimeStep:
    return dm_env.transition(0.0, {"stamps": {name.replace("__", "/"): ms * MS for name, ms in stamps.items()}})


def test_a_line_is_about_the_observation_that_its_action_was_chosen_by(tmp_path: Path) -> None:
    latency: Any = SimpleNamespace(period_ms=20.0, last={"total": 25.0, "network": 24.0, "blending": 0.5})
    guard: Any = SimpleNamespace(held="", limited=(("left_waist", "speed"),))
    executor: Any = SimpleNamespace(provenance=ChunkProvenance(0, 0, 0, 1, 0, True))
    now = 0.0
    log = StepLog(tmp_path / "log.csv", latency, guard, executor, now_s=lambda: now)
    action = np.zeros(14, np.float32)
    log.on_reset(observed(qpos=990, images__top=967, deadline=1000))
    assert not (tmp_path / "log.csv").exists()
    log.on_step(action, observed(qpos=1019, images__top=1000, deadline=1020, command=1001))
    latency.last, guard.held, guard.limited = {"total": 3.0}, "no chunk in time", ()
    now = 0.5
    log.on_step(action, observed(qpos=1039, images__top=1033, deadline=1040, command=1021))
    first, second = read_steps(tmp_path / "log.csv")  # nobody closed it: this is what a crash leaves
    assert (first.age_ms, first.stalest, first.missed) == (33.0, "images/top", True)
    assert (first.newest, first.row, first.boundary, first.limited) == (0, 0, True, (("left_waist", "speed"),))
    assert first.ms == {"total": 25.0, "network": 24.0, "blending": 0.5}  # a stage that is not one of ours
    assert (second.age_ms, second.stalest, second.missed) == (20.0, "images/top", False)
    assert (second.held, second.newest, second.boundary, second.limited) == ("no chunk in time", None, False, ())
    now = 0.6
    log.on_step(action, observed(qpos=1059, deadline=1060))
    assert len(read_steps(tmp_path / "log.csv")) == 2  # not handed over yet: that would cost a call a step
    log.on_end(Outcome(3, 0.0, 0.0, "complete"))
    assert [step.step for step in read_steps(tmp_path / "log.csv")] == [0, 1, 2]


def test_a_rollout_leaves_a_line_a_step(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["--ckpt", str(trained), "--task", "sim_transfer_cube", "--episode_len", "12", "--num_rollouts", "1",
          "--video", "0", "--output", str(out)])  # fmt: skip
    steps = read_steps(out / "episode_0.steps.csv")
    assert [step.step for step in steps] == list(range(12))
    assert [step.newest for step in steps] == [CHUNK * (i // CHUNK) for i in range(12)]
    assert [step.row for step in steps] == [i % CHUNK for i in range(12)]
    assert [step.boundary for step in steps] == [i % CHUNK == 0 for i in range(12)]
    assert ["network" in step.ms for step in steps] == [i % CHUNK == 0 for i in range(12)]
    for step in steps:
        assert step.ms["total"] == pytest.approx(sum(step.ms.values()) - step.ms["total"], abs=0.01)
        assert (step.held, step.age_ms) == ("", 0.0)  # simulated time: every stream is stamped alike
    # the gripper starts closed and the network commands it half open: a slow start, then as fast as it goes
    assert ("left_gripper", "ramp") in steps[0].limited


def test_the_log_of_a_rollout_that_an_error_ended_is_kept(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    requested = TimedChunkPolicy.predict_chunk
    calls = 0

    def failing(self: Any, observation: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:  # after those of steps 0 and 5
            raise RuntimeError("the network fell over")
        return requested(self, observation)

    monkeypatch.setattr(TimedChunkPolicy, "predict_chunk", failing)
    with pytest.raises(RuntimeError, match="fell over"):
        main(["--ckpt", str(trained), "--task", "sim_transfer_cube", "--episode_len", "30", "--num_rollouts", "1",
              "--video", "0", "--output", str(tmp_path / "out")])  # fmt: skip
    assert len(read_steps(tmp_path / "out" / "episode_0.steps.csv")) == 10
