"""From flags to how chunks become actions."""

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
from aloha_kit.deploy.args import DeployArgs
from aloha_kit.deploy.source import execution, executor, Source
from aloha_kit.loop import LatencyReport


class Chunks:
    def reset(self) -> None: ...

    def predict_chunk(self, observation: Any) -> npt.NDArray[np.float32]:
        return np.zeros((50, 1), np.float32)


SOURCE = Source(Contract(("left_waist",), ("left_waist",), {}, 50.0), 50, "still", None, {}, lambda measure: Chunks())


def args(**flags: Any) -> DeployArgs:
    return DeployArgs(ckpt=Path("run"), task="sim_transfer_cube", **flags)


def test_late_chunks_are_faded_in_by_default() -> None:
    assert execution(args(), "async") == Execution(seam="blend")
    assert execution(args(), "sync") == Execution(seam="none")
    assert execution(args(temporal_agg=True), "async") == Execution(temporal_agg=True, seam="none")
    assert execution(args(seam="none", horizon=9), "async") == Execution(horizon=9, seam="none")
    with pytest.raises(ConfigError, match="--temporal_agg averages them instead"):
        args(seam="blend", temporal_agg=True)


@pytest.mark.parametrize(("seam", "asked"), [("blend", 40), ("none", 50), (None, 40)])
def test_the_thread_keeps_steps_for_the_fade(seam: Any, asked: int) -> None:
    policy = executor(SOURCE, args(seam=seam), LatencyReport(50.0), "async", 50.0)
    assert isinstance(policy, AsyncInferencePolicy)
    with contextlib.closing(policy):
        assert policy._timeline.interval(50, 0) == asked


def test_in_the_loop_a_fade_is_asked_for() -> None:
    for flags, kind in (({}, ChunkExecutor), ({"seam": "blend"}, SimulatedLatencyPolicy)):
        assert type(executor(SOURCE, args(**flags), LatencyReport(50.0), "sync", 50.0)) is kind


def test_a_horizon_beyond_the_chunk_is_refused() -> None:
    with pytest.raises(ConfigError, match="--horizon must be 1 to the chunk size 50, given 51"):
        executor(SOURCE, args(horizon=51), LatencyReport(50.0), "sync", 50.0)
