"""Scripted recorder: processes in which a simulation's expert demonstrates one seed after another into one folder."""

from __future__ import annotations

import logging
import multiprocessing
import time
from contextlib import closing, ExitStack, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from tqdm import tqdm

from aloha_kit.core import AlohaKitError
from aloha_kit.core.files import make_folder
from aloha_kit.core.interrupt import signal_of
from aloha_kit.core.lang import Message, tr, tr_plural
from aloha_kit.core.own_code import WorkerFailure
from aloha_kit.envs import connect
from aloha_kit.loop import interrupts_put_off, sigterm_interrupts
from aloha_kit.record.dataset_folder import DatasetFolder, FAILED, write_contact_sheet
from aloha_kit.record.recording_result import RecordingResult
from aloha_kit.record.recording_worker import EpisodeOutcome, RecordingJob, work
from aloha_kit.storage import recovery

LOG = logging.getLogger(__name__)

POLL_S = 0.5
"""Period at which the progress is drawn, and other recorders' episodes are looked for."""
REPORT_S = 10.0
"""Longest time without a progress message where there is no terminal."""


class RecordingError(AlohaKitError):
    """Recording cannot continue; what is recorded stays."""


def record_scripted(
    job: RecordingJob, wanted: int, *, seed: int, workers: int, max_attempts: int, recover: bool, advice: Message
) -> RecordingResult:
    """Record until the folder holds `wanted` successful demonstrations.

    The seeds are the lowest ones from `seed` on that were not recorded yet, so an interrupted recording ends with the
    same episodes as one that ran through.

    Args:
        workers: processes that record at the same time.
        max_attempts: end after so many attempts.
        recover: first recover the journals that an interrupted recording left in the folder.
        advice: end of the error where too few of them succeeded.

    Raises:
        ConfigError: an unknown camera or scene, or a folder that cannot be written to.
        EpisodeError: the folder holds episodes of another task, or of other cameras, sizes or rate.
        RecordingError: a process failed, or too many demonstrations did.
    """
    task, path = job.task, job.folder
    with closing(connect(task, job.rig)) as env:  # errors of the configuration are raised once, not by every process
        make_folder(path)
        if recover:
            for found in recovery.recover_all(path):
                LOG.info("%s: %s", found.journal.name, found.message)
        folder = DatasetFolder(path, task.name, env.contract)
        missing = wanted - len(folder.good)
        if missing > 0 and task.cameras:
            env.seed(seed)
            LOG.info(write_contact_sheet(path, env.reset().observation["images"]))
    interrupted = ""
    with closing(folder.claims), _Progress(job, folder, wanted) as progress:
        if missing > 0:
            pool = _Pool(job, folder, progress, min(workers, missing))
            try:
                interrupted = pool.run(wanted, seed, max_attempts)
            except RecordingError as error:
                left = recovery.hint(path)
                if not left or (left.startswith("1 ") and "recover" in str(error)):  # the error names that one itself
                    raise
                raise RecordingError("{error}. There are {left}", error=error, left=left) from error
    outcomes = tuple(progress.outcomes)
    if not interrupted and len(folder.good) < wanted and len(outcomes) >= max_attempts:
        raise RecordingError(
            "only {good} of {tried} demonstrations succeeded, {wanted} were wanted; what was recorded is in "
            "{path}. {advice}",
            good=sum(outcome.success for outcome in outcomes),
            tried=len(outcomes),
            wanted=missing,
            path=path,
            advice=advice,
        )
    return RecordingResult(path, len(folder.good), wanted, outcomes, interrupted)


class _Progress:
    """Progress of a recording: a bar on a terminal, log lines elsewhere.

    Attributes:
        outcomes: of the demonstrations that ended.
    """

    def __init__(self, job: RecordingJob, folder: DatasetFolder, wanted: int) -> None:
        self.outcomes: list[EpisodeOutcome] = []
        self._folder, self._wanted = folder, wanted
        self._began = self._reported = time.monotonic()
        self._before = len(folder.good)
        # disable=None: only on a terminal
        self._bar = tqdm(
            total=wanted, initial=self._before, desc=tr("Recording {task}", task=job.task.name), unit=tr("episode"),
            disable=None,
        )  # fmt: skip

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def begin(self, processes: int) -> None:
        """Report the start."""
        episodes = tr_plural("{n} episode", "{n} episodes", self._wanted)
        workers = tr_plural("{n} worker", "{n} workers", processes)
        start = tr("recording {episodes}, with {workers}", episodes=episodes, workers=workers)
        if there := self._before:
            start = tr(
                "recording {episodes}, {there} are there, with {workers}",
                episodes=episodes, there=there, workers=workers,
            )  # fmt: skip
        LOG.info("%s", start)

    def add(self, outcome: EpisodeOutcome) -> None:
        """Report one demonstration."""
        self.outcomes.append(outcome)
        good = sum(each.success for each in self.outcomes)
        self._bar.n = len(self._folder.good)
        self._bar.set_postfix_str(tr("{good}/{tried} succeeded", good=good, tried=len(self.outcomes)), refresh=False)
        self._reported = time.monotonic()
        LOG.info("%s", tr("{result} ({state})", result=_line(outcome), state=self._state()))

    def update(self, under_way: int) -> None:
        """Redraw the bar; where there is none, report at least every `REPORT_S`."""
        if not self._bar.disable:
            self._bar.refresh()
        elif time.monotonic() - self._reported >= REPORT_S:
            self._reported = time.monotonic()
            episodes = tr_plural("{n} episode", "{n} episodes", under_way)
            LOG.info("%s", tr("{episodes} under way ({state})", episodes=episodes, state=self._state()))

    def _state(self) -> str:
        good = len(self._folder.good)
        if good == self._before or good >= self._wanted:
            return tr("{good} of {wanted}", good=good, wanted=self._wanted)
        left_s = (time.monotonic() - self._began) / (good - self._before) * (self._wanted - good)
        return tr("{good} of {wanted}, about {time} left", good=good, wanted=self._wanted, time=_duration(left_s))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    seed: int | None = None  # being recorded now


class _Pool:
    """Recording processes of one recorder."""

    def __init__(self, job: RecordingJob, folder: DatasetFolder, progress: _Progress, count: int) -> None:
        self._folder, self._progress, self._count, self._job = folder, progress, count, job
        self._workers: list[_Worker] = []

    def run(self, wanted: int, first_seed: int, limit: int) -> str:
        """Keep the processes busy until the folder holds `wanted` episodes or `limit` attempts were made.

        Returns the name of the signal that interrupted it; empty if none did.

        Raises:
            RecordingError: a process failed.
        """
        context = multiprocessing.get_context("spawn")  # a fork would share GL and HDF5 state
        stop = context.Event()
        seeds, folder, outcomes = self._folder.seeds(first_seed), self._folder, self._progress.outcomes
        with ExitStack() as stack:
            stack.callback(self._end)
            stack.enter_context(sigterm_interrupts())
            try:
                self._progress.begin(self._count)
                for number in range(self._count):
                    ours, theirs = context.Pipe()
                    job = self._job if number == 0 else replace(self._job, view=None)
                    process = context.Process(target=work, args=(job, theirs, stop, folder.claims), daemon=True)
                    with interrupts_put_off():
                        process.start()
                        theirs.close()  # so that a dead process shows as the end of its pipe
                        self._workers.append(_Worker(process, ours))
                while True:
                    busy = [worker for worker in self._workers if worker.seed is not None]
                    for worker in self._workers:
                        free = worker.seed is None and len(outcomes) + len(busy) < limit
                        if free and folder.begin_attempt(wanted):
                            self._begin(worker, next(seeds))
                            busy.append(worker)
                    if not busy and (len(outcomes) >= limit or len(folder.good) >= wanted):
                        return ""
                    # with fewer at work than could be, another recorder may be at the last ones
                    ready = wait([worker.pipe for worker in busy], POLL_S)
                    with interrupts_put_off():  # or an answer taken in part would be waited for again
                        for worker in busy:
                            if worker.pipe in ready:
                                self._settle(worker)
                    self._progress.update(len(busy))
            except KeyboardInterrupt as interrupt:
                # the episodes under way are stopped; those that ended in the same moment still count
                stop.set()
                for worker in self._workers:
                    if worker.seed is not None:
                        self._settle(worker)
                return signal_of(interrupt).name

    def _begin(self, worker: _Worker, seed: int) -> None:
        """Send a process its next seed."""
        with interrupts_put_off(), suppress(OSError):  # it has died: `_settle` finds out why
            worker.seed = seed
            worker.pipe.send(seed)

    def _settle(self, worker: _Worker) -> None:
        """Take the outcome of a process's episode."""
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(timeout=10)
            raise RecordingError(
                "a recording process died (exit code {code}) at seed {seed}; what was recorded stays. Out of "
                "memory? Try fewer --workers",
                code=worker.process.exitcode,
                seed=worker.seed,
            ) from None
        if isinstance(answer, WorkerFailure):
            failed = Message("recording seed {seed} failed: {why}", seed=worker.seed, why=answer.text)
            raise RecordingError(failed) from answer.cause()
        worker.seed = None
        self._folder.refresh()
        self._folder.claims.end_attempt()
        if not answer.stopped:
            self._progress.add(answer)

    def _end(self) -> None:
        for worker in self._workers:
            with suppress(OSError):
                worker.pipe.send(None)
        for worker in self._workers:
            worker.process.join(timeout=10)
            if worker.process.is_alive():
                worker.process.terminate()
                worker.process.join()
            worker.pipe.close()


def _line(outcome: EpisodeOutcome) -> str:
    where = outcome.file.name if outcome.file else tr("discarded")
    if outcome.file and outcome.file.parent.name == FAILED:
        where = f"{FAILED}/{where}"
    return tr(
        "seed {seed}: {success}, final reward {final:g}, highest {highest:g}; {where}",
        seed=outcome.seed,
        success=tr("success") if outcome.success else tr("failure"),
        final=outcome.final_reward,
        highest=outcome.max_reward,
        where=where,
    )
