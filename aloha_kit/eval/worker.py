"""Worker process that simulates: one thread an environment, and rollout after rollout, exactly as deployment runs them.

Its chunks come from the parent, so no network and no torch is in here, and software OpenGL has the process to itself.
The threads take turns: one moves while the others wait for an answer. Side by side they gain nothing, since there is
a process a core, and Mesa crashes when two threads draw at the same time, each in a context of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.control.execution import Executor
from aloha_kit.control.history import with_history
from aloha_kit.control.simulated_latency import Execution
from aloha_kit.core import ConfigError, Contract, Environment, Observation, SafetyError
from aloha_kit.core.own_code import WorkerFailure
from aloha_kit.core.seeds import InferenceSeeds
from aloha_kit.envs import connect
from aloha_kit.eval.chunk_boundaries import BoundaryMonitor
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.loop import run_episode, SafetyGuard
from aloha_kit.loop.capabilities import render_on_request, require, StartPoses
from aloha_kit.loop.episode_loop import Observer
from aloha_kit.loop.rollouts import RolloutRecorder, RolloutResult
from aloha_kit.media.live_view import live_view, ViewAddress

REQUEST, RESPONSE = "request", "response"
ObjectPoses = npt.NDArray[np.float64]
"""(7 · objects,) x y z (m) and quaternion w x y z of each object of a scene."""
GONE = (EOFError, BrokenPipeError, ConnectionResetError)
"""The parent has closed the pipe, or has ended."""


@dataclass(frozen=True)
class EvaluationJob:
    """Settings that every worker process needs."""

    task: TaskConfig
    rig: RigConfig
    execution: Execution
    buffer: SharedBuffer
    starts: Mapping[int, ObjectPoses] = field(default_factory=dict)  # by seed, see `SimEnv.starts`
    view: ViewAddress | None = None  # where environment 0 shows its rollouts


@dataclass(frozen=True)
class Ready:
    """An environment is connected."""

    contract: Contract
    max_reward: float
    describe: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class EvaluatedRollout(RolloutResult):
    """One finished rollout in simulation.

    Attributes:
        guard: what the safety guard limited and held, see `SafetyGuard.report`.
        chunk_boundaries: jumps of the action, see `BoundaryMonitor.report`.
    """

    guard: Mapping[str, Any]
    chunk_boundaries: Mapping[str, Any]


def work(job: EvaluationJob, pipes: Sequence[tuple[int, Connection]]) -> None:
    """Body of a process.

    Args:
        pipes: (row of the shared buffer, pipe) of each environment. In come seeds, and a `RESPONSE` to each
            `REQUEST`, until the pipe ends; out go `Ready`, then a `REQUEST` for each inference and an
            `EvaluatedRollout` for each seed, or a
            `WorkerFailure`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to the whole group; the parent decides
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa would draw with a thread a core in each of the processes
    turn = threading.Lock()
    threads = [threading.Thread(target=_serve, args=(job, row, WorkerPipe(pipe, turn))) for row, pipe in pipes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class WorkerPipe:
    """A thread's pipe to the parent. While it waits for a message, another thread runs."""

    def __init__(self, pipe: Connection, turn: threading.Lock) -> None:
        self.turn, self._pipe = turn, pipe

    def send(self, message: Ready | EvaluatedRollout | WorkerFailure | str) -> None:
        self._pipe.send(message)

    def receive(self) -> int | str:
        """The next message; raises `EOFError` when the parent has closed the pipe, or has ended."""
        self.turn.release()
        try:
            message: int | str = self._pipe.recv()
        finally:
            self.turn.acquire()
        return message

    def close(self) -> None:
        """Close the pipe; a parent that waits for it gets the end of file."""
        self._pipe.close()


def _serve(job: EvaluationJob, row: int, pipe: WorkerPipe) -> None:
    with contextlib.closing(pipe), pipe.turn, contextlib.suppress(*GONE):
        try:
            with contextlib.closing(simulation(job)) as env:
                pipe.send(Ready(env.contract, env.max_reward, env.describe()))
                buffer = job.buffer
                source = ParentNetwork(buffer, row, pipe)
                policy = with_history(job.execution.executor(source), buffer.n_obs_steps, buffer.contract.cameras)
                with live_view(None if row else job.view, env, job.task.name) as views:
                    while isinstance(seed := pipe.receive(), int):
                        source.rollout = seed
                        pipe.send(roll_out(env, policy, seed, views))
        except GONE:
            raise
        except Exception as error:
            pipe.send(WorkerFailure.of(error))


def simulation(job: EvaluationJob) -> Environment:
    """The task's environment; it renders images only when an inference reads them."""
    env: Any = connect(job.task, job.rig)
    if not env.simulated:
        env.close()
        raise ConfigError("rig '{rig}' is no simulation; use aloha_kit.deploy there", rig=job.rig.name)
    if not env.measures_success:
        env.close()
        raise ConfigError(
            "nothing measures success in task '{task}' on rig '{rig}', so no success rate can be evaluated; "
            "roll the policy out with aloha_kit.deploy",
            task=job.task.name,
            rig=job.rig.name,
        )
    render_on_request(env)
    if job.starts:
        require(env, StartPoses, "--eval_poses")
        env.starts = job.starts
    return env  # type: ignore[no-any-return]


def roll_out(env: Environment, policy: Executor, seed: int, views: Sequence[Observer] = ()) -> EvaluatedRollout:
    """One rollout behind a safety guard. One that the guard ends is a failure; any other error is raised."""
    env.seed(seed)
    limits = env.limits
    monitor = BoundaryMonitor(policy, limits.step)
    guard = SafetyGuard(monitor, limits)
    recorder = RolloutRecorder()
    with contextlib.suppress(SafetyError):
        run_episode(env, guard, [recorder, *views])
    outcome = recorder.outcome
    return EvaluatedRollout(
        seed=seed,
        steps=outcome.steps,
        final_reward=outcome.final_reward,
        max_reward=outcome.max_reward,
        success=bool(env.succeeded(outcome)),
        touched=bool(env.touched(outcome)),
        reason=outcome.reason,
        actions=recorder.actions,
        guard=guard.report(),
        chunk_boundaries=monitor.report(),
    )


class ParentNetwork:
    """A source of chunks: the network in the parent process.

    Attributes:
        rollout: seed of the next one, which a policy that samples draws by.
    """

    def __init__(self, buffer: SharedBuffer, row: int, pipe: WorkerPipe) -> None:
        self._buffer, self._row, self._pipe = buffer, row, pipe
        self._seeds, self.rollout = InferenceSeeds(), 0

    def reset(self) -> None:
        """Begin the rollout."""
        self._seeds.start(self.rollout)

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        self._buffer.put_observation(self._row, observation, self._seeds.take())
        self._pipe.send(REQUEST)
        self._pipe.receive()
        return self._buffer.chunk(self._row)
