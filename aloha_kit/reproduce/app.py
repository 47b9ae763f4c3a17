"""A reproduction on one screen: stages in their order, the result written after each."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aloha_kit.config import to_mapping
from aloha_kit.core import ConfigError
from aloha_kit.core.files import write_json
from aloha_kit.reproduce.args import ReproduceArgs
from aloha_kit.reproduce.preset import load_preset, Preset
from aloha_kit.reproduce.readme import publish
from aloha_kit.reproduce.result import Attempt, fresh, read, Result, seed_result, summarise, Surroundings
from aloha_kit.reproduce.stages import Evaluate, Job, Stage, stages_of, Train
from aloha_kit.reproduce.surroundings import gpu_of, look
from aloha_kit.reproduce.table import details
from aloha_kit.reproduce.work import LOCK, ReproductionError, Workplace, workplace

RESULT, TABLE = "reproduce.json", "reproduce.md"


def run(args: ReproduceArgs) -> Result | None:
    """Do what is not done yet; None after a dry run.

    Raises:
        ConfigError: a wrong preset or device, or a folder that holds something else.
        ReproductionError: a stage failed, or somebody else is at work in the folder; what is done stays.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, once the present stage has left its things in order.
    """
    preset = load_preset(args.preset, args.task)
    name = Path(args.preset).stem
    folder = args.output or Path("runs") / "reproduce" / f"{args.task}_{name}"
    result = _begun(folder, fresh(args.task, name, preset))
    job = Job(args.task, preset, folder, args.device or preset.device, args.num_rollouts)
    if args.dry_run:
        _show(stages_of(job, args.seeds), result)
        return None
    device, gpu = _device(job.device, preset, name, force=args.force)
    job = replace(job, device=device)
    with workplace(folder) as place:
        reproduction = Reproduction(job, args.seeds, result, look(device, gpu), place)
        for number, stage in enumerate(reproduction.stages, 1):
            reproduction.do(stage, number)
        result = reproduction.result
    print(f"\n{details(result)}\n\n{folder / RESULT}")
    if args.update_readme:
        print(publish(result))
    return result


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
        if stage.done(self.result.attempts):
            return
        if ended.interrupted:
            raise KeyboardInterrupt
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


def _begun(folder: Path, new: Result) -> Result:
    """What a folder holds of the same reproduction, or `new` where it holds nothing.

    Raises:
        ConfigError: it holds something else, or a reproduction with other values; names them.
    """
    if not (folder / RESULT).is_file():
        there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        if set(there) - {LOCK}:
            raise ConfigError(
                f"'{folder}' is no reproduction: it lacks {RESULT} and holds {', '.join(there[:5])}; "
                "choose another place with --output"
            )
        return new
    begun = read(folder / RESULT)
    then, now = ({**_flat(r.values), "task": r.task, "num_steps": r.num_steps} for r in (begun, new))
    differing = [
        f"{key} {then.get(key)} (now {now.get(key)})"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key) and not key.startswith("target.")
    ]
    if differing:
        raise ConfigError(
            f"'{folder}' was begun with {', '.join(differing)}; choose another place with --output to begin anew"
        )
    return replace(begun, preset=new.preset, values=new.values)


def _flat(values: object, at: str = "") -> dict[str, object]:
    """{"train.lr": 1e-4, …}"""
    if not isinstance(values, dict):
        return {at: values}
    inner = (_flat(value, f"{at}.{key}" if at else str(key)) for key, value in values.items())
    return {key: value for flat in inner for key, value in flat.items()}


def _device(device: str, preset: Preset, name: str, *, force: bool) -> tuple[str, str | None]:
    """The device that networks run on, and its GPU.

    Raises:
        ConfigError: a GPU is meant, and there is none.
    """
    meant_for_gpu = preset.device != "cpu"
    try:
        gpu = gpu_of(device)
        if gpu is not None or not meant_for_gpu or force:
            return device, gpu
        why = "--device cpu was given"
    except ConfigError as error:
        if force:
            return "cpu", None
        why = str(error)
    wanted = f"preset '{name}' is meant for a GPU" if meant_for_gpu else f"preset '{name}' does without a GPU"
    advice = "take --preset cpu" if meant_for_gpu else "leave --device out"
    raise ConfigError(f"{wanted}, and {why}; {advice}, or add --force to run it on the CPU, however long that takes")


def _show(stages: Sequence[Stage], result: Result) -> None:
    for number, stage in enumerate(stages, 1):
        done = ": done" if stage.done(result.attempts) else ""
        print(f"== {number}/{len(stages)} {_title(stage)}{done}\n$ {shlex.join(['python', '-m', *stage.command()])}")


def _title(stage: Stage) -> str:
    return stage.name if stage.seed is None else f"{stage.name}, seed {stage.seed}"


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
