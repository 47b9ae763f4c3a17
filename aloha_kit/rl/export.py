"""Export of a policy's rollouts as ordinary episodes."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import dm_env

from aloha_kit.core import Action, AlohaKitError, Environment, Outcome
from aloha_kit.core.files import make_folder
from aloha_kit.loop import run_episode, SafetyGuard, sigterm_interrupts
from aloha_kit.rl.policy import LoadedRun
from aloha_kit.storage import EpisodeWriter

LOG = logging.getLogger(__name__)


class ExportError(AlohaKitError):
    """Too few rollouts were successes; those that were saved stay."""


def export(
    loaded: LoadedRun, count: int, seed: int, *, cameras: tuple[str, ...] | None, folder: Path | None
) -> list[Path]:
    """Save `count` successful rollouts, from targets as the environment draws them; failures are discarded.

    Raises:
        ConfigError: a camera that the rig has not.
        ContractError: the environment is not the one of the run.
        ExportError: fewer than a third of the rollouts were successes.
    """
    most = max(3 * count, 10)
    target = make_folder(folder or loaded.run.folder / "episodes")
    files: list[Path] = []
    with sigterm_interrupts(), contextlib.closing(loaded.connect(cameras or ())) as env:
        policy = loaded.policy(env)
        for number in range(most):
            if len(files) == count:
                break
            env.seed(seed + number)
            episode = SuccessfulEpisode(loaded, env, target, seed + number)
            run_episode(env, SafetyGuard(policy, env.limits), [episode])
            if episode.file is not None:
                files.append(episode.file)
                LOG.info("%d of %d: %s", len(files), count, episode.file.name)
    if len(files) < count:
        raise ExportError(
            "only {found} of {tried} rollouts were successes, {count} were wanted",
            found=len(files),
            tried=most,
            count=count,
        )
    print(f"{len(files)} episodes in {target}, source {_source(loaded)}")
    return files


class SuccessfulEpisode:
    """Observer that writes an episode, and discards it at its end unless it is a success.

    Attributes:
        file: where it is; None where it was no success.
    """

    def __init__(self, loaded: LoadedRun, env: Environment, folder: Path, seed: int) -> None:
        self.file: Path | None = None
        self._loaded, self._env, self._folder, self._seed = loaded, env, folder, seed

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        setup, env = self._loaded.setup, self._env
        self._writer = EpisodeWriter(
            self._folder,
            contract=env.contract,
            task=setup.task.name,
            rig=setup.rig.name,
            sim=env.simulated,
            instruction=setup.task.instruction,
            describe={**env.describe(), "seed": self._seed, "source": _source(self._loaded)},
            judge=env.succeeded,
        )
        self._writer.on_reset(timestep)

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        self._writer.on_step(action, timestep)

    def on_end(self, outcome: Outcome) -> None:
        if not self._env.succeeded(outcome):
            self._writer.discard()
            return
        self._writer.on_end(outcome)
        if self._writer.committed:
            self.file = self._writer.path


def _source(loaded: LoadedRun) -> str:
    return f"rl:{loaded.run.name}"
