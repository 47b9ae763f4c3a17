"""Many processes, one folder: hands out seeds until enough demonstrations have succeeded."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from contextlib import closing, ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from tqdm import tqdm

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import AlohaKitError, plural
from aloha_kit.core.files import make_folder
from aloha_kit.core.interrupt import signal_of
from aloha_kit.envs import connect
from aloha_kit.loop import interrupts_put_off, sigterm_interrupts, wilson_interval
from aloha_kit.record.args import RecordArgs, task_of
from aloha_kit.record.folder import DataFolder, FAILED
from aloha_kit.record.worker import Plan, Verdict, work
from aloha_kit.storage import recovery

_LOOK_S = 0.5  # between looks at what other recorders have made of the last episodes


class RecordingError(AlohaKitError):
    """Recording cannot go on; what is recorded stays."""


@dataclass(frozen=True)
class Recorded:
    """What a session of recording came to."""

    folder: Path
    present: int  # successful episodes in the folder now
    verdicts: tuple[Verdict, ...]  # of this session, in the order in which they ended
    interrupted: str  # by which signal; empty if it was not

    def text(self) -> str:
        """A line or two for people."""
        lines = [f"{plural(self.present, 'episode')} in {self.folder}"]
        if self.verdicts:
            good, tried = sum(v.success for v in self.verdicts), len(self.verdicts)
            low, high = wilson_interval(good, tried)
            lines.append(
                f"this time: {good} of {tried} succeeded, {good / tried:.1%} "
                f"(95 % Wilson interval {low:.1%} to {high:.1%})"
            )
        if self.interrupted:
            lines.append("interrupted; the same command goes on from here")
        if hint := recovery.hint(self.folder):
            lines.append(hint)
        return "\n".join(lines)


def record(args: RecordArgs, *, show: bool = True) -> Recorded:
    """Record until the folder holds `num_episodes` successful demonstrations.

    The seeds are the lowest ones from `args.seed` on that were not recorded yet, so an interrupted recording ends with
    the same episodes as one that ran through.

    Raises:
        ConfigError: an unknown task, rig, camera or scene, or a folder that cannot be written to.
        EpisodeError: what the folder holds does not go with what would be recorded.
        RecordingError: a process failed, or too many demonstrations did.
    """
    task = task_of(args)
    rig = load(RigConfig, "rigs", task.rig)
    folder = Path(task.dataset_dir.format(task=task.name))
    with closing(connect(task, rig)) as env:  # what cannot be is told here, once, and not by every process
        contract = env.contract
    make_folder(folder)
    if args.recover:
        for found in recovery.recover_all(folder):
            print(f"{found.journal.name}: {found.message}")
    shared = DataFolder(folder, task.name, contract)
    plan = Plan(task, rig, folder, args.noise, args.images, args.quality, args.keep_failures)
    missing = args.num_episodes - len(shared.good)
    limit = args.max_attempts or max(3 * args.num_episodes, 10)
    verdicts: list[Verdict] = []
    with closing(shared.claims):
        try:
            interrupted = _record(plan, shared, args, limit, verdicts, show) if missing > 0 else ""
        except RecordingError as error:
            left = recovery.hint(folder)
            if not left or (left.startswith("1 ") and "recover" in str(error)):  # the error tells of that one itself
                raise
            raise RecordingError(f"{error}. There are {left}") from error
    good = sum(v.success for v in verdicts)
    if not interrupted and len(shared.good) < args.num_episodes and len(verdicts) >= limit:
        raise RecordingError(
            f"only {good} of {len(verdicts)} demonstrations succeeded, {missing} were wanted; "
            f"what was recorded is in {folder}. {_advice(args, task)}"
        )
    return Recorded(folder, len(shared.good), tuple(verdicts), interrupted)


def _record(plan: Plan, shared: DataFolder, args: RecordArgs, limit: int, verdicts: list[Verdict], show: bool) -> str:
    """Record what is missing, with a bar; adds to `verdicts` and gives the signal that ended it, if one did."""
    with tqdm(
        total=args.num_episodes,
        initial=len(shared.good),
        desc=f"Recording {plan.task.name}",
        unit="episode",
        disable=None if show else True,  # None: only on a terminal
    ) as bar:

        def judged(verdict: Verdict) -> None:
            verdicts.append(verdict)
            good = sum(v.success for v in verdicts)
            bar.set_postfix_str(f"{good}/{len(verdicts)} succeeded", refresh=False)
            bar.n = len(shared.good)
            if show:
                bar.write(_line(verdict))  # which draws the bar again, once

        workers = min(args.workers or os.cpu_count() or 1, args.num_episodes - len(shared.good))
        return _run(plan, shared, args, limit, workers, judged)


def _advice(args: RecordArgs, task: TaskConfig) -> str:
    usual = load(TaskConfig, "tasks", args.task).episode_len
    if task.episode_len < usual:
        return f"--episode_len {task.episode_len} is below the task's {usual}: too short for the whole motion?"
    smaller = "A smaller --noise, or more" if args.noise else "More"
    return f"{smaller} --max_attempts may help"


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    seed: int | None = None  # being recorded now


def _run(
    plan: Plan, shared: DataFolder, args: RecordArgs, limit: int, count: int, judged: Callable[[Verdict], None]
) -> str:
    """Keep `count` processes busy until the folder holds enough or `limit` attempts; gives the signal that ended it."""
    context = multiprocessing.get_context("spawn")  # a fork would share GL and HDF5 state
    stop = context.Event()
    workers: list[_Worker] = []
    seeds = shared.seeds(args.seed)
    tried = 0

    def settle(worker: _Worker) -> None:
        nonlocal tried
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            raise RecordingError(
                f"a recording process died (exit code {worker.process.exitcode}) at seed {worker.seed}; "
                "what was recorded stays. Out of memory? Try fewer --workers"
            ) from None
        if isinstance(answer, str):
            raise RecordingError(f"recording seed {worker.seed} failed: {answer}")
        worker.seed = None
        shared.look()
        shared.claims.end_attempt()
        if not answer.stopped:
            tried += 1
            judged(answer)

    with ExitStack() as stack:
        stack.callback(lambda: _end(workers))
        stack.enter_context(sigterm_interrupts())
        try:
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=work, args=(plan, theirs, stop, shared.claims), daemon=True)
                with interrupts_put_off():
                    process.start()
                    theirs.close()  # so that a dead process shows as the end of its pipe
                    workers.append(_Worker(process, ours))
            while True:
                busy = [worker for worker in workers if worker.seed is not None]
                for worker in workers:
                    left = worker.seed is None and tried + len(busy) < limit
                    if left and shared.begin_attempt(args.num_episodes):
                        worker.seed = next(seeds)
                        with suppress(OSError):  # it has died: `settle` finds out why
                            worker.pipe.send(worker.seed)
                        busy.append(worker)
                if not busy and (tried >= limit or len(shared.good) >= args.num_episodes):
                    break
                # with fewer at work than could be, another recorder may be at the last ones: see how it goes
                ready = wait([worker.pipe for worker in busy], None if len(busy) == len(workers) else _LOOK_S)
                for worker in busy:
                    if worker.pipe in ready:
                        settle(worker)
        except KeyboardInterrupt as interrupt:
            # the episodes under way are given up; what ended in the same moment still counts
            stop.set()
            for worker in workers:
                if worker.seed is not None:
                    settle(worker)
            return signal_of(interrupt).name
    return ""


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        try:
            worker.pipe.send(None)
        except OSError:
            continue
    for worker in workers:
        worker.process.join(timeout=10)
        if worker.process.is_alive():
            worker.process.terminate()
            worker.process.join()
        worker.pipe.close()


def _line(verdict: Verdict) -> str:
    word = "success" if verdict.success else "failure"
    kept = verdict.file.name if verdict.file else "dropped"
    if verdict.file and verdict.file.parent.name == FAILED:
        kept = f"{FAILED}/{kept}"
    return (
        f"seed {verdict.seed}: {word}, reward {verdict.final_reward:g} at the end, "
        f"{verdict.max_reward:g} at most; {kept}"
    )
