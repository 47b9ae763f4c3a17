"""Where chunks come from, here or on another machine, and how they become actions. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aloha_kit.config.match_checkpoint import renames
from aloha_kit.control.async_inference import AsyncInferencePolicy
from aloha_kit.control.chunk_boundary import chosen, fade_of
from aloha_kit.control.execution import ChunkSource, ENSEMBLE, Executor
from aloha_kit.control.simulated_latency import Execution
from aloha_kit.core import ConfigError, Contract, Observation
from aloha_kit.deploy.args import DeployArgs
from aloha_kit.loop import LatencyReport
from aloha_kit.remote import RemotePolicy

Measure = Callable[[str], AbstractContextManager[None]]
"""Times a stage by name: `LatencyReport.measure`, or `beside` for a thread of its own."""


@dataclass(frozen=True, eq=False)
class Source:
    """A policy before it acts.

    Attributes:
        name: what to call it in reports and episodes: a path, or an address.
        trained_on: the task of its demonstrations, where it says it.
        about: its kind, configuration and surroundings, plain values for JSON.
        timed: the source of chunks, with its stages timed.
        warm_up: first queries allocate, which would pass for latency.
        close: gives back what it holds.
        n_obs_steps: steps of observation that it reads.
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


def remote(args: DeployArgs) -> Source:
    """The policy that a server on another machine runs.

    Raises:
        ConfigError: no token.
        RemoteError: nobody answers, or the server refuses.
    """
    token = args.token or os.environ.get("ALOHA_KIT_TOKEN")
    if not token:
        raise ConfigError("the policy server wants its token: give --token, or set ALOHA_KIT_TOKEN")
    policy = RemotePolicy(
        str(args.remote),
        token,
        timeout_s=args.timeout_s,
        quality=args.jpeg,
        rename=renames(args.rename),
        seed=args.seed,
    )
    about = dict(policy.about)
    name, trained_on = f"{about.pop('checkpoint', '?')} on {args.remote}", about.pop("trained_on", None)
    return Source(
        policy.contract,
        policy.chunk_size,
        name,
        trained_on,
        about,
        lambda measure: _TimedRemote(policy, measure),
        close=policy.close,  # the server has warmed up
        n_obs_steps=policy.n_obs_steps,
    )


class _TimedRemote:
    """The round trip is what the loop sees of the network."""

    def __init__(self, policy: RemotePolicy, measure: Measure) -> None:
        self._policy, self._measure = policy, measure

    def reset(self) -> None:
        self._policy.reset()

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        with self._measure("network"):
            return self._policy.predict_chunk(observation)


def execution(args: DeployArgs, inference: Literal["sync", "async"]) -> Execution:
    """What the flags come to."""
    seam = chosen(args.seam, temporal_agg=args.temporal_agg, late=inference == "async")
    return Execution(args.temporal_agg, args.horizon, seam)


def executor(
    source: Source, args: DeployArgs, latency: LatencyReport, inference: Literal["sync", "async"], rate_hz: float
) -> Executor:
    """How chunks become actions. A step waits for an asynchronous network for at most a quarter of a period.

    Raises:
        ConfigError: a horizon outside 1 … chunk size.
    """
    if args.horizon is not None and not 1 <= args.horizon <= source.chunk_size:
        raise ConfigError(f"--horizon must be 1 to the chunk size {source.chunk_size}, given {args.horizon}")
    how = execution(args, inference)
    if inference == "async":
        return AsyncInferencePolicy(
            source.timed(latency.beside),
            rate_hz,
            coefficient=ENSEMBLE if args.temporal_agg else None,
            every=args.horizon,
            fade=fade_of(how.seam),
            budget_s=0.25 / rate_hz,
            hold_s=args.hold_s,
        )
    return how.executor(source.timed(latency.measure))
