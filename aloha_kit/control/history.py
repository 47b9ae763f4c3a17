"""Observation history: the steps before the present one, for policies that read several."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from aloha_kit.control.execution import ChunkProvenance, Executor
from aloha_kit.core import Action, Observation


class ObservationHistory:
    """A policy whose observations carry the `n_obs_steps - 1` control steps before them as `history`, oldest first.

    It wraps the executor, since it needs every step and not only those with an inference. It belongs to one
    session: at the start of an episode the first observation takes the place of those before it.

    Args:
        policy: what acts.
        n_obs_steps: how many steps the policy reads, the present one included.
        cameras: those that it reads. Their images, and all depth, are taken at once, because an environment may draw
            an image only until the next step; a camera's own JPEG stays undecoded.
    """

    def __init__(self, policy: Executor, n_obs_steps: int, cameras: Iterable[str]) -> None:
        self._policy, self._cameras = policy, tuple(cameras)
        self._earlier: deque[Observation] = deque(maxlen=n_obs_steps - 1)

    @property
    def provenance(self) -> ChunkProvenance | None:
        """Provenance of the wrapped policy's last action."""
        return self._policy.provenance

    def reset(self) -> None:
        self._earlier.clear()
        self._policy.reset()

    def act(self, observation: Observation) -> Action:
        images, jpegs = observation["images"], observation.get("images_jpeg", {})
        if any(name not in jpegs for name in self._cameras):
            observation = {**observation, "images": {name: images[name] for name in images if name in self._cameras}}
        if "images_depth" in observation:
            observation = {**observation, "images_depth": dict(observation["images_depth"])}
        while len(self._earlier) < (self._earlier.maxlen or 0):
            self._earlier.append(observation)
        history = list(self._earlier)
        self._earlier.append(observation)
        return self._policy.act({**observation, "history": history})


def with_history(policy: Executor, n_obs_steps: int, cameras: Iterable[str]) -> Executor:
    """The policy with the history that it reads; itself where it reads the present observation only."""
    return policy if n_obs_steps == 1 else ObservationHistory(policy, n_obs_steps, cameras)
