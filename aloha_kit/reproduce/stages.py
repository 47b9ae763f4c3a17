"""Stages of a reproduction: the command of each, and the check on the disk that it is done."""

from __future__ import annotations

import datetime
import json
import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from aloha_kit.config import to_mapping
from aloha_kit.core import AlohaKitError
from aloha_kit.core.commands import flags_of, LockedFolder
from aloha_kit.core.files import free_path, write_json, write_text
from aloha_kit.core.lang import language, Message, shown, tr
from aloha_kit.reproduce.machine import ReproductionError
from aloha_kit.reproduce.preset import Preset, SIM
from aloha_kit.reproduce.result import Attempt, RESULT, Result, seed_result, summarise, Surroundings, TABLE
from aloha_kit.reproduce.table import details
from aloha_kit.storage import Episode, list_episodes

LOG = logging.getLogger(__name__)
FIRST_START, SEEDS_APART = 100_000, 10_000
"""Seeds of the rollouts' starts: the first one of training seed 0, and the distance to the next training seed's."""

History: TypeAlias = Sequence[Attempt]


@dataclass(frozen=True)
class ReproductionSetup:
    """Task, preset, folder and device of all stages."""

    task: str  # transfer_cube, insertion, pusht_keypoints, lift, …
    preset: Preset
    folder: Path
    device: str
    num_rollouts: int
    recorded: Path | None = None  # demonstrations recorded before, in place of recording

    @property
    def task_name(self) -> str:
        return f"sim_{self.task}" if self.task in SIM else self.task

    @property
    def episodes(self) -> Path:
        return self.recorded or self.folder / "episodes"

    def run(self, seed: int) -> Path:
        """Folder of a training."""
        return self.folder / f"seed_{seed}" / "policy"

    def evaluations(self, seed: int) -> Path:
        return self.folder / f"seed_{seed}" / "eval"

    def first_start(self, seed: int) -> int:
        """The first start's seed. Every training seed has its own starts, so that rollouts of several can be pooled."""
        return FIRST_START + SEEDS_APART * seed


class Stage(Protocol):
    """One command of a reproduction."""

    @property
    def name(self) -> str: ...

    @property
    def seed(self) -> int | None:
        """The training seed that it belongs to; None for a stage of all seeds."""

    def done(self, history: History) -> bool:
        """Whether there is nothing left to do; `history` is of this and all other stages."""

    def command(self) -> list[str]:
        """The command to run now, as words after `python -m`; after an interruption the one that goes on."""


@dataclass(frozen=True)
class RecordStage:
    """Recording of scripted demonstrations, the same ones for every training seed."""

    setup: ReproductionSetup
    name: str = "record"
    seed: None = None

    def done(self, history: History) -> bool:
        return _successes(self.setup.episodes) >= self.setup.preset.record.num_episodes

    def command(self) -> list[str]:
        flags = flags_of(to_mapping(self.setup.preset.record))
        return ["aloha_kit.record", "--task", self.setup.task_name, *flags, "--dataset_dir", str(self.setup.episodes)]


@dataclass(frozen=True)
class ValidateStage:
    """Validation of the episodes, since damaged ones are not usable for training."""

    setup: ReproductionSetup
    name: str = "validate"
    seed: None = None

    def done(self, history: History) -> bool:
        return _succeeded(self, history, since="record")

    def command(self) -> list[str]:
        return ["aloha_kit.episode", "validate", str(self.setup.episodes)]


@dataclass(frozen=True)
class TrainStage:
    """One training."""

    setup: ReproductionSetup
    seed: int
    name: str = "train"

    def done(self, history: History) -> bool:
        return _steps_done(self.setup.run(self.seed)) >= self.setup.preset.training.num_steps

    def command(self) -> list[str]:
        setup, run = self.setup, self.setup.run(self.seed)
        if _last(run) is not None:
            return ["aloha_kit.train", "--resume", str(run)]
        how = [*flags_of(setup.preset.train), "--seed", str(self.seed), "--device", setup.device]
        where = ["--dataset_dir", str(setup.episodes), "--ckpt_dir", str(run)]
        return ["aloha_kit.train", "--task", setup.task_name, *how, *where]

    def clear(self) -> None:
        """Move a training that was stopped before its first checkpoint: it can be neither resumed nor repeated."""
        run = self.setup.run(self.seed)
        if run.is_dir() and any(run.iterdir()) and _last(run) is None:
            run.rename(free_path(run.with_name("policy_without_checkpoint")))


@dataclass(frozen=True)
class EvaluateStage:
    """Rollouts of one training's policy."""

    setup: ReproductionSetup
    seed: int
    name: str = "eval"

    def done(self, history: History) -> bool:
        return _succeeded(self, history, since="train") and self.report() is not None

    def report(self) -> dict[str, Any] | None:
        """The newest evaluation with all its rollouts; None where there is none."""
        starts = [self.setup.first_start(self.seed), self.setup.first_start(self.seed) + self.setup.num_rollouts - 1]
        whole = []
        for file in self.setup.evaluations(self.seed).glob("eval*.json"):
            try:
                report = json.loads(file.read_text(encoding="utf-8"))
                (checkpoint,) = report["checkpoints"]
                if report["seeds"] == starts and checkpoint["success"]["trials"] == self.setup.num_rollouts:
                    whole.append((str(report["started"]), report))
            except (OSError, ValueError, LookupError, TypeError):
                continue  # interrupted before its first rollout, or damaged: evaluated again
        return max(whole, key=lambda found: found[0])[1] if whole else None

    def command(self) -> list[str]:
        setup, how = self.setup, to_mapping(self.setup.preset.eval)
        run = setup.run(self.seed)
        checkpoint = run if how.pop("checkpoint") == "best" else run / "checkpoints" / "last"
        starts = ["--num_rollouts", str(setup.num_rollouts), "--seed", str(setup.first_start(self.seed))]
        what = ["--ckpt", str(checkpoint), "--task", setup.task_name, *starts, *flags_of(how)]
        return ["aloha_kit.eval", *what, "--device", setup.device, "--output", str(setup.evaluations(self.seed))]


def stages_of(setup: ReproductionSetup, seeds: Sequence[int]) -> list[Stage]:
    """All stages in their order: a seed is evaluated before the next one trains, so that there is a result early."""
    each: list[Stage] = [stage for seed in seeds for stage in (TrainStage(setup, seed), EvaluateStage(setup, seed))]
    demonstrations: list[Stage] = [RecordStage(setup)] if setup.recorded is None else []
    return [*demonstrations, ValidateStage(setup), *each]


class Reproduction:
    """Runs stages and writes the result after each."""

    def __init__(
        self,
        setup: ReproductionSetup,
        seeds: Sequence[int],
        result: Result,
        surroundings: Surroundings,
        place: LockedFolder,
    ) -> None:
        known = result.surroundings
        self.setup, self._place = setup, place
        self.stages = stages_of(setup, seeds)
        self.result = result if surroundings in known else replace(result, surroundings=(*known, surroundings))
        self._here = self.result.surroundings.index(surroundings)
        self._write()

    def run(self, stage: Stage, number: int) -> None:
        """Run a stage's command, unless it is done.

        Raises:
            ReproductionError: it failed.
            KeyboardInterrupt: it was interrupted.
        """
        title = f"== {number}/{len(self.stages)} {shown(title_of(stage))}"
        if stage.done(self.result.attempts):
            LOG.info(tr("{title}: done", title=title))
            return
        if isinstance(stage, TrainStage):
            stage.clear()
        words = stage.command()
        command = shlex.join(["python", "-m", *words])
        LOG.info("%s\n$ %s", title, command)
        attempt = Attempt(stage.name, command, _now(), self._here, stage.seed)
        before = self.result.attempts
        self._write((*before, attempt))  # before it runs, so that a kill leaves a trace
        ended = self._place.run(words)
        self._write((*before, replace(attempt, seconds=round(ended.seconds, 1), status=ended.status)))
        if ended.interrupted:
            raise KeyboardInterrupt(ended.interrupted)
        if stage.done(self.result.attempts):
            return
        if ended.status:
            how = Message("{stage} ended with status {status}", stage=title_of(stage), status=ended.status)
        else:
            how = Message("{stage} stopped before its end", stage=title_of(stage))
        raise ReproductionError("{how}, see above; what is done is saved, and the same command goes on", how=how)

    def _write(self, attempts: tuple[Attempt, ...] | None = None) -> None:
        """Update the result and write its files."""
        result = self.result if attempts is None else replace(self.result, attempts=attempts)
        seeds = {stage.seed for stage in self.stages} | {attempt.seed for attempt in result.attempts}
        found = []
        for seed in sorted(seed for seed in seeds if seed is not None):
            evaluation = EvaluateStage(self.setup, seed)
            if evaluation.done(result.attempts) and (report := evaluation.report()) is not None:
                found.append(seed_result(result, seed, report))
        result = replace(result, seeds=tuple(found))
        self.result = replace(result, summary=summarise(result, self.setup.preset.target))
        write_json(self.setup.folder / RESULT, to_mapping(self.result))
        with language("en"):
            text = details(self.result)
        write_text(self.setup.folder / TABLE, text + "\n")


def title_of(stage: Stage) -> str:
    """The stage's name, with its seed where it has one."""
    return stage.name if stage.seed is None else Message("{stage}, seed {seed}", stage=stage.name, seed=stage.seed)


def _successes(folder: Path) -> int:
    """Successful episodes of a folder; a file that cannot be read is not counted, and recording names it."""
    count = 0
    for file in list_episodes(folder) if folder.is_dir() else []:
        try:
            with Episode.open(file) as episode:
                count += episode.success is not False
        except AlohaKitError:
            continue
    return count


def _last(run: Path) -> Path | None:
    """The checkpoint that a training resumes from: `last`, or the one before where saving was cut off."""
    return next((f for f in (run / "checkpoints" / name for name in ("last", ".last.old")) if f.is_dir()), None)


def _steps_done(run: Path) -> int:
    """Optimiser steps of a run's last checkpoint; without torch, which would keep memory that the training needs."""
    last = _last(run)
    try:
        return 0 if last is None else int(json.loads((last / "extra.json").read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0  # resuming reports what is damaged


def _succeeded(stage: Stage, history: History, *, since: str) -> bool:
    """Whether the stage succeeded, and stage `since`, whose files it reads, was not run after it."""
    mine = [i for i, a in enumerate(history) if (a.stage, a.seed) == (stage.name, stage.seed) and a.status == 0]
    theirs = [i for i, a in enumerate(history) if a.stage == since and a.seed in (None, stage.seed)]
    return bool(mine) and mine[-1] > max(theirs, default=-1)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
