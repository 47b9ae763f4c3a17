"""A reproduction on one screen: stages in their order, the result written after each."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aloha_kit.config import to_mapping
from aloha_kit.core.files import write_json
from aloha_kit.reproduce.args import ReproduceArgs
from aloha_kit.reproduce.keep import begun, RESULT, TABLE
from aloha_kit.reproduce.preset import load_preset
from aloha_kit.reproduce.readme import publish, require_published
from aloha_kit.reproduce.result import Attempt, fresh, Result, seed_result, summarise, Surroundings
from aloha_kit.reproduce.stages import Evaluate, Job, Stage, stages_of, Train
from aloha_kit.reproduce.surroundings import choose_device, look
from aloha_kit.reproduce.table import details
from aloha_kit.reproduce.work import ReproductionError, Workplace, workplace


def run(args: ReproduceArgs) -> None:
    """Do what is not done yet and print the result; with --dry_run only say what that is.

    Raises:
        ConfigError: a wrong preset or device, or a folder that holds something else.
        ReproductionError: a stage failed, or somebody else is at work in the folder; what is done stays.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, once the present stage has left its things in order.
    """
    preset = load_preset(args.preset, args.task)
    name = Path(args.preset).stem
    folder = args.output or Path("runs") / "reproduce" / f"{args.task}_{name}"
    if args.update_readme:
        require_published(name)
    new = fresh(args.task, name, preset)
    result = begun(folder, new)
    job = Job(args.task, preset, folder, args.device or preset.device, args.num_rollouts)
    if args.dry_run:
        _show(stages_of(job, args.seeds), result)
        return
    device, gpu = choose_device(job.device, preset.device, name, force=args.force)
    job = replace(job, device=device)
    with workplace(folder) as place:
        result = begun(folder, new)  # once more: until now somebody may have been at work here
        reproduction = Reproduction(job, args.seeds, result, look(device, gpu), place)
        for number, stage in enumerate(reproduction.stages, 1):
            reproduction.do(stage, number)
        result = reproduction.result
    print(f"\n{details(result)}\n\n{folder / RESULT}")
    if args.update_readme:
        print(publish(result))


class Reproduction:
    """Stages, and what came of them."""

    def __init__(
        self, job: Job, seeds: Sequence[int], result: Result, surroundings: Surroundings, place: Workplace
    ) -> None:
        known = result.surroundings
        self.job, self._place = job, place
        self.stages = stages_of(job, seeds)
        self.result = result if surroundings in known else replace(result, surroundings=(*known, surroundings))
        self._here = self.result.surroundings.index(surroundings)
        self._note()

    def do(self, stage: Stage, number: int) -> None:
        """Run a stage's command, unless it is done.

        Raises:
            ReproductionError: it failed.
            KeyboardInterrupt: it was interrupted.
        """
        title = f"== {number}/{len(self.stages)} {_title(stage)}"
        if stage.done(self.result.attempts):
            print(f"{title}: done", flush=True)
            return
        if isinstance(stage, Train):
            stage.clear()
        words = stage.command()
        command = shlex.join(["python", "-m", *words])
        print(f"\n{title}\n$ {command}", flush=True)
        began = Attempt(stage.name, command, _now(), self._here, stage.seed)
        before = self.result.attempts
        self._note((*before, began))  # now, so that a kill is known of
        ended = self._place.run(words)
        self._note((*before, replace(began, seconds=round(ended.seconds, 1), status=ended.status)))
        if ended.interrupted:
            raise KeyboardInterrupt(ended.interrupted)
        if stage.done(self.result.attempts):
            return
        how = f"ended with status {ended.status}" if ended.status else "stopped before its end"
        raise ReproductionError(f"{_title(stage)} {how}, see above; what is done is kept, and the same command goes on")

    def _note(self, attempts: tuple[Attempt, ...] | None = None) -> None:
        """Renew the result and its files."""
        result = self.result if attempts is None else replace(self.result, attempts=attempts)
        seeds = {stage.seed for stage in self.stages} | {attempt.seed for attempt in result.attempts}
        found = []
        for seed in sorted(seed for seed in seeds if seed is not None):
            evaluation = Evaluate(self.job, seed)
            if evaluation.done(result.attempts) and (report := evaluation.report()) is not None:
                found.append(seed_result(result, seed, report))
        result = replace(result, seeds=tuple(found))
        target = self.job.preset.target
        self.result = replace(result, summary=summarise(result, target.success, target.minutes))
        write_json(self.job.folder / RESULT, to_mapping(self.result))
        (self.job.folder / TABLE).write_text(details(self.result) + "\n", encoding="utf-8")


def _show(stages: Sequence[Stage], result: Result) -> None:
    for number, stage in enumerate(stages, 1):
        done = ": done" if stage.done(result.attempts) else ""
        print(f"== {number}/{len(stages)} {_title(stage)}{done}\n$ {shlex.join(['python', '-m', *stage.command()])}")


def _title(stage: Stage) -> str:
    return stage.name if stage.seed is None else f"{stage.name}, seed {stage.seed}"


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
