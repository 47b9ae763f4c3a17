"""A policy server in a thread of the test's process; in eager, as what it is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from aloha_kit.config.inference import InferenceSettings
from aloha_kit.deploy.local_policy import local
from aloha_kit.loop import LatencyReport
from aloha_kit.policies.find import find_checkpoint
from aloha_kit.remote import PolicyServer, ServedPolicy


@contextlib.contextmanager
def served(run: Path, token: str = "secret") -> Iterator[str]:
    """The address of a server of the policy that was trained in `run`."""
    source = local(find_checkpoint(run), settings=InferenceSettings(engine="eager"))
    about = {**source.about, "checkpoint": source.name, "trained_on": source.trained_on}
    chunks = source.timed(LatencyReport(50.0).beside)
    answering = ServedPolicy(
        chunks, source.contract, source.chunk_size, about, source.n_obs_steps, source.n_action_steps
    )
    with PolicyServer(answering, "127.0.0.1", 0, token).running() as server:
        yield f"127.0.0.1:{server.port}"
