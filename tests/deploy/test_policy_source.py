"""From flags to the execution of chunks."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aloha_kit.control.async_inference import AsyncInferencePolicy
from aloha_kit.control.execution import ChunkExecutor
from aloha_kit.control.simulated_latency import Execution, SimulatedLatencyPolicy
from aloha_kit.core import ConfigError, Contract
from aloha_kit.deploy import args as deploy_args
from aloha_kit.deploy.args import DeployArgs
from aloha_kit.deploy.policy_source import executor, PolicySource
from aloha_kit.eval import args as eval_args
from aloha_kit.loop import LatencyReport


class Chunks:
    def reset(self) -> None: ...

    def predict_chunk(self, observation: Any) -> npt.NDArray[np.float32]:
        return np.zeros((50, 1), np.float32)


SOURCE = PolicySource(
    Contract.of(("left_waist",), ("left_waist",), {}, 50.0), 50, "still", None, {}, lambda measure: Chunks()
)


def args(**flags: Any) -> DeployArgs:
    return DeployArgs(ckpt=Path("run"), task="sim_transfer_cube", **flags)


def test_late_chunks_are_faded_in_by_default() -> None:
    assert args().execution("async") == Execution(chunk_boundary="blend")
    assert args().execution("sync") == Execution(chunk_boundary="none")
    assert args(temporal_agg=True).execution("async") == Execution(temporal_agg=True, chunk_boundary="none")
    assert args(chunk_boundary="none", n_action_steps=9).execution("async") == Execution(n_action_steps=9)
    with pytest.raises(ConfigError, match="--temporal_agg averages them instead"):
        args(chunk_boundary="blend", temporal_agg=True)


@pytest.mark.parametrize(("boundary", "interval"), [("blend", 40), ("none", 50), (None, 40)])
def test_the_thread_keeps_steps_for_the_fade(boundary: Any, interval: int) -> None:
    policy = executor(SOURCE, args(chunk_boundary=boundary).execution("async"), LatencyReport(50.0), "async", 50.0)
    assert isinstance(policy, AsyncInferencePolicy)
    with contextlib.closing(policy):
        assert policy._schedule.interval(50, 0) == interval


def test_in_the_loop_a_fade_is_chosen_by_the_flag() -> None:
    for flags, kind in (({}, ChunkExecutor), ({"chunk_boundary": "blend"}, SimulatedLatencyPolicy)):
        assert type(executor(SOURCE, args(**flags).execution("sync"), LatencyReport(50.0), "sync", 50.0)) is kind


def test_more_action_steps_than_a_chunk_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="--n_action_steps must be 1 to the chunk size 50, given 51"):
        executor(SOURCE, Execution(n_action_steps=51), LatencyReport(50.0), "sync", 50.0)


@pytest.mark.parametrize("command", [deploy_args.parse, eval_args.parse])
def test_earlier_flags_mean_the_same(command: Any) -> None:
    given = ["--ckpt_dir", "run", "--task_name", "sim_transfer_cube"]
    now = command([*given, "--n_action_steps", "7", "--chunk_boundary", "blend"])
    assert command([*given, "--horizon", "7", "--seam", "blend"]) == now
    assert (now.n_action_steps, now.chunk_boundary) == (7, "blend")
