"""A process that simulates: one thread an environment, and rollout after rollout, exactly as deployment runs them.

It asks the parent for chunks, so no network and no torch is in here, and software OpenGL has the process to itself.
The threads take turns: one moves while the others wait for an answer. Side by side they gain nothing, since there is
a process a core, and Mesa crashes when two threads draw at the same time, each in a context of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import dm_env
import numpy as np
import numpy.typing as npt

from aloha_kit.config import RigConfig, TaskConfig
from aloha_kit.control.execution import Executor
from aloha_kit.control.history import with_history
from aloha_kit.control.simulated_latency import Execution
from aloha_kit.core import Action, AlohaKitError, ConfigError, Contract, Environment, Observation, SafetyError
from aloha_kit.core.seeds import InferenceSeeds
from aloha_kit.envs import connect
from aloha_kit.eval.chunk_boundaries import BoundaryMonitor
from aloha_kit.eval.shared_buffer import SharedBuffer
from aloha_kit.loop import Outcome, run_episode, SafetyGuard
from aloha_kit.loop.capabilities import LazyImages, require, StartPoses

ASKED, ANSWERED = "asked", "answered"
Pose = npt.NDArray[np.float64]
"""(7 · objects,) x y z (m) and quaternion w x y z of each object of a scene."""
GONE = (EOFError, BrokenPipeError, ConnectionResetError)
"""The parent has had enough, or is gone."""


@dataclass(frozen=True)
class Plan:
    """What every process has to know."""

    task: TaskConfig
    rig: RigConfig
    execution: Execution
    mailbox: SharedBuffer
    starts: Mapping[int, Pose] = field(default_factory=dict)  # by seed, see `SimEnv.starts`


@dataclass(frozen=True)
class Ready:
    """An environment stands."""

    contract: Contract
    max_reward: float
    describe: Mapping[str, Any]


@dataclass(frozen=True)
class Failure:
    """Why an environment cannot go on."""

    text: str


@dataclass(frozen=True)
class Rollout:
    """How one rollout went. `actions` is a checksum of all that was commanded: equal where two rollouts are."""

    seed: int
    steps: int
    final_reward: float
    max_reward: float
    success: bool  # the top reward held at the end
    touched: bool  # the top reward at any step, which is what the published ACT counts
    reason: str
    actions: str
    guard: Mapping[str, Any]  # what the safety guard did, see `SafetyGuard.report`
    seams: Mapping[str, Any]  # how hard it jumped from chunk to chunk, see `BoundaryMonitor.report`


def work(plan: Plan, pipes: Sequence[tuple[int, Connection]]) -> None:
    """Body of a process.

    Args:
        pipes: (row of the shared buffer, pipe) of each environment. In come seeds, and `ANSWERED` after each `ASKED`,
            until the pipe ends; out go `Ready`, then an `ASKED` for each query and a `Rollout` for each seed, or a
            `Failure`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to the whole group; the parent decides
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa would draw with a thread a core in each of the processes
    turn = threading.Lock()
    threads = [threading.Thread(target=_serve, args=(plan, row, WorkerPipe(pipe, turn))) for row, pipe in pipes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class WorkerPipe:
    """A thread's pipe to the parent. While it waits for an answer, it is another thread's turn."""

    def __init__(self, pipe: Connection, turn: threading.Lock) -> None:
        self.turn, self._pipe = turn, pipe

    def tell(self, message: Ready | Rollout | Failure | str) -> None:
        self._pipe.send(message)

    def hear(self) -> int | str:
        """The next message; raises `EOFError` when the parent has had enough, or is gone."""
        self.turn.release()
        try:
            message: int | str = self._pipe.recv()
        finally:
            self.turn.acquire()
        return message

    def close(self) -> None:
        """Nothing more comes from here; the parent, if it still waits, hears so."""
        self._pipe.close()


def _serve(plan: Plan, row: int, line: WorkerPipe) -> None:
    with contextlib.closing(line), line.turn, contextlib.suppress(*GONE):
        try:
            with contextlib.closing(simulation(plan)) as env:
                line.tell(Ready(env.contract, env.max_reward, env.describe()))
                mailbox = plan.mailbox
                source = Remote(mailbox, row, line)
                policy = with_history(plan.execution.executor(source), mailbox.n_obs_steps, mailbox.contract.cameras)
                while isinstance(seed := line.hear(), int):
                    source.rollout = seed
                    line.tell(roll_out(env, policy, seed))
        except GONE:
            raise
        except AlohaKitError as error:
            line.tell(Failure(str(error)))
        except Exception as error:
            line.tell(Failure(f"{type(error).__name__}: {error}"))


def simulation(plan: Plan) -> Environment:
    """The task's environment, which draws only what a policy looks at: between two queries nobody does."""
    env: Any = connect(plan.task, plan.rig)
    if env.max_reward <= 0:
        env.close()
        raise ConfigError(
            f"nothing measures success in task '{plan.task.name}' on rig '{plan.rig.name}', so no success rate can be "
            "evaluated; roll the policy out with aloha_kit.deploy"
        )
    if isinstance(env, LazyImages):
        env.lazy_images = True
    if plan.starts:
        require(env, StartPoses, "--eval_poses")
        env.starts = plan.starts
    return env  # type: ignore[no-any-return]


def roll_out(env: Environment, policy: Executor, seed: int) -> Rollout:
    """One rollout behind a safety guard. One that the guard ends has failed; any other error is raised."""
    env.seed(seed)
    limits = env.limits
    seams = BoundaryMonitor(policy, limits.step)
    guard = SafetyGuard(seams, limits)
    witness = RolloutRecorder()
    with contextlib.suppress(SafetyError):
        run_episode(env, guard, [witness])
    outcome = witness.outcome
    return Rollout(
        seed,
        outcome.steps,
        outcome.final_reward,
        outcome.max_reward,
        bool(env.succeeded(outcome)),
        bool(env.touched(outcome)),
        outcome.reason,
        f"{witness.checksum:08x}",
        guard.report(),
        seams.report(),
    )


class Remote:
    """A source of chunks: the network in the parent.

    Attributes:
        rollout: seed of the next one, which a policy that samples draws by.
    """

    def __init__(self, mailbox: SharedBuffer, row: int, line: WorkerPipe) -> None:
        self._mailbox, self._row, self._line = mailbox, row, line
        self._seeds, self.rollout = InferenceSeeds(), 0

    def reset(self) -> None:
        """Begin the rollout."""
        self._seeds.start(self.rollout)

    def predict_chunk(self, observation: Observation) -> npt.NDArray[np.float32]:
        self._mailbox.post(self._row, observation, self._seeds.take())
        self._line.tell(ASKED)
        self._line.hear()
        return self._mailbox.chunk(self._row)


class RolloutRecorder:
    """An observer that remembers how an episode ended and what was commanded."""

    outcome: Outcome

    def __init__(self) -> None:
        self.checksum = 0

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        """Nothing was commanded yet."""

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        self.checksum = zlib.crc32(np.ascontiguousarray(action, np.float32).tobytes(), self.checksum)

    def on_end(self, outcome: Outcome) -> None:
        self.outcome = outcome
