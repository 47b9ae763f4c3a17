"""One recording process: an environment, and episode after episode into a folder."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Literal

import dm_env

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.core import Action, AlohaKitError, Environment, Observation, Policy, StopEpisode
from aloha_kit.envs import connect
from aloha_kit.loop import Outcome, run_episode
from aloha_kit.loop.capabilities import Demonstrator, require
from aloha_kit.record.claims import Claims
from aloha_kit.record.folder import FAILED, put_aside
from aloha_kit.storage import EpisodeWriter


@dataclass(frozen=True)
class Plan:
    """What every process has to know; small and picklable."""

    task: TaskConfig
    rig: RigConfig
    folder: Path
    noise: float
    images: Literal["jpeg", "raw"]
    quality: int
    keep_failures: bool


@dataclass(frozen=True)
class Verdict:
    """How one demonstration went."""

    seed: int
    success: bool
    final_reward: float
    max_reward: float
    file: Path | None  # where it is kept; None if it was dropped
    stopped: bool = False  # given up on request, so it says nothing about the expert


def record_one(env: Environment, plan: Plan, seed: int, stop: Event | None = None) -> Verdict:
    """Record the demonstration of one seed; deterministic from the plan and the seed."""
    require(env, Demonstrator, f"task '{plan.task.name}' cannot be demonstrated by a script")
    env.seed(seed)
    policy = _Stoppable(env.expert(noise=plan.noise, seed=seed), stop)
    keeper = Keeper(env, plan, seed)
    outcome = run_episode(env, policy, [keeper])
    return Verdict(seed, keeper.success, outcome.final_reward, outcome.max_reward, keeper.file, policy.stopped)


class Keeper:
    """An observer that decides after the last step whether an episode is kept."""

    def __init__(self, env: Environment, plan: Plan, seed: int) -> None:
        self._env, self._plan, self._seed = env, plan, seed
        self._writer: EpisodeWriter | None = None
        self.success = False
        self.file: Path | None = None

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        plan = self._plan
        self._writer = EpisodeWriter(
            plan.folder,
            contract=self._env.contract,
            task=plan.task.name,
            rig=plan.rig.name,
            sim=self._env.simulated,
            instruction=plan.task.instruction,
            images=plan.images,
            quality=plan.quality,
            describe={**self._env.describe(), "seed": self._seed, "noise": plan.noise},
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
        if not (self.success or outcome.error or (complete and self._plan.keep_failures)):
            self._writer.discard()  # the seed gives the same motion again, whenever somebody wants it
            return
        self._writer.on_end(outcome)  # after an error too: a full disk is told from here, and what was written stays
        if self._writer.committed:
            path = self._writer.path
            self.file = path if self.success else put_aside(path, self._plan.folder / FAILED)


def work(plan: Plan, pipe: Connection, stop: Event, claims: Claims | None = None) -> None:
    """Body of a process: seeds come in by the pipe (None ends it), `Verdict`s or an error's text go back.

    It holds the recorder's claims too, which so last until its episode is over when the recorder is killed.
    """
    # the terminal sends Ctrl-C to the whole group; the parent alone decides, by `stop`
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        try:
            env = connect(plan.task, plan.rig)
            with contextlib.closing(env):
                while (seed := pipe.recv()) is not None:
                    pipe.send(record_one(env, plan, seed, stop))
        except AlohaKitError as error:
            pipe.send(str(error))
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")


class _Stoppable:
    """A policy that gives up as soon as somebody asks for it."""

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
