"""Policy sources: chunks predicted on this machine or by a server, and their executors. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aloha_kit.control.async_inference import AsyncInferencePolicy
from aloha_kit.control.chunk_boundary import fade_steps
from aloha_kit.control.execution import Executor
from aloha_kit.control.simulated_latency import Execution
from aloha_kit.core import ChunkSource, Contract, Observation, UsageError
from aloha_kit.loop import LatencyReport
from aloha_kit.remote import RemotePolicy

Measure = Callable[[str], AbstractContextManager[None]]
"""Times a stage by name: `LatencyReport.measure`, or `beside` for a thread of its own."""


@dataclass(frozen=True, eq=False)
class PolicySource:
    """A policy before it is deployed.

    Attributes:
        name: in reports and episodes: a path, or an address.
        trained_on: the task of its demonstrations; None where it is not known.
        about: its kind, configuration and surroundings, plain values for JSON.
        timed: the source of chunks, with its stages timed.
        warm_up: first inferences allocate, which would count as latency.
        close: releases its resources.
        n_obs_steps: steps of observation that it reads.
        n_action_steps: actions of a chunk that it is meant to execute; None is all.
        ensemble_weight: of the temporal ensembling that it is meant for; None is none.
    """

    contract: Contract
    chunk_size: int
    name: str
    trained_on: str | None
    about: Mapping[str, Any]
    timed: Callable[[Measure], ChunkSource]
    warm_up: Callable[[], None] = lambda: None
    close: Callable[[], None] = lambda: None
    n_obs_steps: int = 1
    n_action_steps: int | None = None
    ensemble_weight: float | None = None

    @property
    def engine(self) -> str:
        """Engine and precision, such as `openvino fp32`."""
        about = self.about.get("engine") or {}
        return f"{about.get('kind', '?')} {about.get('precision', '?')}"


def served(policy: RemotePolicy) -> PolicySource:
    """The policy that a server on another machine runs."""
    about = dict(policy.about)
    name, trained_on = f"{about.pop('checkpoint', '?')} on {policy.where}", about.pop("trained_on", None)
    return PolicySource(
        policy.contract,
        policy.chunk_size,
        name,
        trained_on,
        about,
        lambda measure: _TimedRemote(policy, measure),
        close=policy.close,  # the server has warmed up
        n_obs_steps=policy.n_obs_steps,
        n_action_steps=policy.n_action_steps,
        ensemble_weight=policy.ensemble_weight,
    )


class _TimedRemote:
    """A remote policy whose round trip counts as the network's time."""

    def __init__(self, policy: RemotePolicy, measure: Measure) -> None:
        self._policy, self._measure = policy, measure

    def reset(self) -> None:
        self._policy.reset()

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        with self._measure("network"):
            return self._policy.predict_chunk(observation)


def executor(
    source: PolicySource,
    execution: Execution,
    latency: LatencyReport,
    inference: Literal["sync", "async"],
    rate_hz: float,
    hold_s: float = 2.0,
) -> Executor:
    """The policy that executes the chunks of a source. A step waits for asynchronous inference for at most a quarter of
    a period.

    Args:
        hold_s: the longest to hold still for want of a chunk (async) before the rollout is ended.

    Raises:
        UsageError: `n_action_steps` outside 1 … chunk size.
    """
    given = execution.n_action_steps
    if given is not None and not 1 <= given <= source.chunk_size:
        raise UsageError(
            "--n_action_steps must be 1 to the chunk size {size}, given {given}", size=source.chunk_size, given=given
        )
    if inference == "async":
        return AsyncInferencePolicy(
            source.timed(latency.beside),
            rate_hz,
            ensemble_weight=execution.average,
            inference_interval=given,
            fade=fade_steps(execution.chunk_boundary),
            budget_s=0.25 / rate_hz,
            hold_s=hold_s,
        )
    return execution.executor(source.timed(latency.measure))
