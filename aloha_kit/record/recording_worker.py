"""Recording process of the scripted recorder: an environment with an expert, and one episode a seed."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Literal

import dm_env

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import Action, Environment, Observation, Policy, StopEpisode
from aloha_kit.core.own_code import WorkerFailure
from aloha_kit.envs import connect
from aloha_kit.loop import Outcome, run_episode
from aloha_kit.loop.capabilities import Demonstrator, require
from aloha_kit.loop.episode_loop import Observer
from aloha_kit.media.live_view import live_view, ViewAddress
from aloha_kit.record.dataset_folder import move_to_failed, SeedClaims
from aloha_kit.storage import EpisodeWriter


@dataclass(frozen=True)
class RecordingJob:
    """Task, rig, folder and format of what every process records; small and picklable."""

    task: TaskConfig
    rig: RigConfig
    folder: Path
    noise: float
    images: Literal["jpeg", "raw"]
    quality: int
    keep_failures: bool
    view: ViewAddress | None = None  # where the process shows its episodes live


@dataclass(frozen=True)
class EpisodeOutcome:
    """Result of one demonstration."""

    seed: int
    success: bool
    final_reward: float
    max_reward: float
    file: Path | None  # where it is saved; None if it was discarded
    stopped: bool = False  # stopped on request, so it is no evidence about the expert


def record_one(
    env: Environment, job: RecordingJob, seed: int, stop: Event | None = None, views: Sequence[Observer] = ()
) -> EpisodeOutcome:
    """Record the demonstration of one seed; deterministic from the job and the seed. `views` observe it too."""
    require(env, Demonstrator, f"task '{job.task.name}' cannot be demonstrated by a script")
    env.seed(seed)
    policy = _Stoppable(env.expert(noise=job.noise, seed=seed), stop)
    writer = ConditionalWriter(env, job, seed)
    outcome = run_episode(env, policy, [writer, *views])
    return EpisodeOutcome(seed, writer.success, outcome.final_reward, outcome.max_reward, writer.file, policy.stopped)


class ConditionalWriter:
    """Observer that writes an episode, and discards it if it failed and failures are not kept."""

    def __init__(self, env: Environment, job: RecordingJob, seed: int) -> None:
        self._env, self._job, self._seed = env, job, seed
        self._writer: EpisodeWriter | None = None
        self.success = False
        self.file: Path | None = None

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        job = self._job
        self._writer = EpisodeWriter(
            job.folder,
            contract=self._env.contract,
            task=job.task.name,
            rig=job.rig.name,
            sim=self._env.simulated,
            instruction=job.task.instruction,
            images=job.images,
            quality=job.quality,
            describe={**self._env.describe(), "seed": self._seed, "noise": job.noise},
            judge=self._env.succeeded,
        )
        self._writer.on_reset(timestep)

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        assert self._writer is not None
        self._writer.on_step(action, timestep)

    def on_end(self, outcome: Outcome) -> None:
        if self._writer is None:
            return
        complete = not outcome.error and outcome.reason == "complete"
        # where nothing measures success, a demonstration that ran to its end counts
        self.success = complete and self._env.succeeded(outcome) is not False
        if not (self.success or outcome.error or (complete and self._job.keep_failures)):
            self._writer.discard()  # the seed gives the same motion again when it is needed
            return
        self._writer.on_end(outcome)  # after an error too: it reports a full disk, and what was written stays
        if self._writer.committed:
            path = self._writer.path
            self.file = path if self.success else move_to_failed(path)


def work(job: RecordingJob, pipe: Connection, stop: Event, claims: SeedClaims | None = None) -> None:
    """Main function of a process: seeds arrive by the pipe (None ends it), outcomes or a failure go back.

    It holds the recorder's claims too, so that they last until its episode is over when the recorder is killed.
    """
    # the terminal sends Ctrl-C to the whole group; the parent alone decides, by `stop`
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        try:
            env = connect(job.task, job.rig)
            with contextlib.closing(env), live_view(job.view, env, job.task.name) as views:
                while (seed := pipe.recv()) is not None:
                    pipe.send(record_one(env, job, seed, stop, views))
        except Exception as error:
            pipe.send(WorkerFailure.of(error))


class _Stoppable:
    """Policy that ends the episode once the event `stop` is set."""

    def __init__(self, policy: Policy, stop: Event | None) -> None:
        self._policy, self._stop = policy, stop
        self.stopped = False

    def reset(self) -> None:
        self._policy.reset()

    def act(self, observation: Observation) -> Action:
        if self._stop is not None and self._stop.is_set():
            self.stopped = True
            raise StopEpisode("stopped on request")
        return self._policy.act(observation)
