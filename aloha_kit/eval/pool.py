"""Pool of worker processes: seeds out, batched inference for their requests, rollouts in."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType

from aloha_kit.core import AlohaKitError, plural
from aloha_kit.core.lang import Message
from aloha_kit.core.own_code import WorkerFailure
from aloha_kit.eval.worker import EvaluatedRollout, EvaluationJob, Ready, REQUEST, RESPONSE, work
from aloha_kit.loop import interrupts_put_off


class EvaluationError(AlohaKitError):
    """Evaluation cannot go on; what was done stays."""


@dataclass(eq=False)
class _Environment:
    """The parent's side of one environment."""

    row: int  # of the shared buffer
    pipe: Connection
    process: SpawnProcess
    seed: int | None = None  # being rolled out
    waiting: bool = False  # for a chunk


class Pool:
    """Environments in worker processes, one for each row of the shared buffer. A context manager: leaving ends them.

    Args:
        workers: processes.

    Attributes:
        buffer: observations and chunks.
        inferences: number of batches that the network computed.
        network_s: time that it took, s.
    """

    def __init__(self, job: EvaluationJob, workers: int) -> None:
        self.buffer = job.buffer
        self._job, self._workers = job, min(workers, job.buffer.rows)
        self._environments: list[_Environment] = []
        self._processes: list[SpawnProcess] = []
        self.inferences, self.network_s = 0, 0.0

    def __enter__(self) -> Pool:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ready(self) -> Ready:
        """Wait until all environments are connected; they are all alike.

        Raises:
            EvaluationError: one cannot be connected; gives the reason.
        """
        messages = [self._receive(env) for env in self._environments]
        assert isinstance(messages[0], Ready)
        return messages[0]

    def run(self, seeds: Iterable[int], network: Callable[[Sequence[int]], None]) -> Iterator[EvaluatedRollout]:
        """Roll out every seed; gives each rollout as it ends.

        The network runs when all environments under way wait for it, so that batches are as large as can be and
        simulation and network do not compete for the cores.

        Args:
            network: predicts the chunks of some rows of the shared buffer.

        Raises:
            EvaluationError: a process died, or a rollout failed; names the seed.
        """
        following = iter(seeds)
        while True:
            for env in self._environments:
                if env.seed is None and (seed := next(following, None)) is not None:
                    env.seed = seed
                    self._send(env, seed)
            busy = [env for env in self._environments if env.seed is not None]
            if not busy:
                return
            simulating = [env for env in busy if not env.waiting]
            if not simulating:
                start = time.perf_counter()
                network([env.row for env in busy])
                self.network_s += time.perf_counter() - start
                self.inferences += 1
                for env in busy:
                    env.waiting = False
                    self._send(env, RESPONSE)
                continue
            ready = wait([env.pipe for env in simulating])
            for env in simulating:
                if env.pipe in ready:
                    message = self._receive(env)
                    if message == REQUEST:
                        env.waiting = True
                    else:
                        assert isinstance(message, EvaluatedRollout)
                        env.seed = None
                        yield message

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share torch's threads and GL's state
        for first in range(self._workers):
            pipes = [(row, *context.Pipe()) for row in range(first, self.buffer.rows, self._workers)]
            process = context.Process(
                target=work, args=(self._job, [(row, theirs) for row, _, theirs in pipes]), daemon=True
            )
            with interrupts_put_off():
                process.start()
                self._processes.append(process)
                for row, ours, theirs in pipes:
                    theirs.close()  # so that a dead process shows as the end of its pipes
                    self._environments.append(_Environment(row, ours, process))
        self._environments.sort(key=lambda env: env.row)

    def _send(self, env: _Environment, message: int | str) -> None:
        with contextlib.suppress(OSError):  # it has ended: `_receive` reports why
            env.pipe.send(message)

    def _receive(self, env: _Environment) -> Ready | EvaluatedRollout | str:
        where = Message("while it started") if env.seed is None else Message("at seed {seed}", seed=env.seed)
        try:
            message: Ready | EvaluatedRollout | WorkerFailure | str = env.pipe.recv()
        except (EOFError, OSError):
            env.process.join(timeout=10)
            raise EvaluationError(
                "a simulation process died (exit code {exitcode}) {where}. Out of memory? Under way: {workers} "
                "with {environments}: try a smaller --batch",
                exitcode=env.process.exitcode,
                where=where,
                workers=plural(len(self._processes), "worker"),
                environments=plural(len(self._environments), "environment"),
            ) from None
        if isinstance(message, WorkerFailure):
            text = message.text
            if env.seed is not None:
                text = Message("the rollout {where} failed: {error}", where=where, error=text)
            raise EvaluationError(text) from message.cause()
        return message

    def _end(self) -> None:
        for env in self._environments:
            env.pipe.close()  # the end of its pipe ends a thread at its next message, and all threads their process
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.terminate()
                process.join()
