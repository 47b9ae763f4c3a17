"""The stages of a reproduction: the command that does each, and how to see on the disk that it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from aloha_kit.config import to_mapping
from aloha_kit.core import AlohaKitError
from aloha_kit.core.files import free_path
from aloha_kit.reproduce.preset import Preset
from aloha_kit.reproduce.result import Attempt
from aloha_kit.storage import Episode, list_episodes

FIRST_START, SEEDS_APART = 100_000, 10_000
"""Seeds of the rollouts' starts: the first one of training seed 0, and from one training seed's to the next's."""

History: TypeAlias = Sequence[Attempt]


@dataclass(frozen=True)
class Job:
    """What all stages share."""

    task: str  # transfer_cube, insertion
    preset: Preset
    folder: Path
    device: str
    num_rollouts: int

    @property
    def task_name(self) -> str:
        return f"sim_{self.task}"

    @property
    def episodes(self) -> Path:
        return self.folder / "episodes"

    def run(self, seed: int) -> Path:
        """Folder of a training."""
        return self.folder / f"seed_{seed}" / "policy"

    def evaluations(self, seed: int) -> Path:
        return self.folder / f"seed_{seed}" / "eval"

    def first_start(self, seed: int) -> int:
        """Every training seed has starts of its own, so that rollouts of several can be counted together."""
        return FIRST_START + SEEDS_APART * seed


class Stage(Protocol):
    """One command of a reproduction."""

    @property
    def name(self) -> str: ...

    @property
    def seed(self) -> int | None:
        """The training seed that it belongs to; None for what all share."""

    def done(self, history: History) -> bool:
        """Whether there is nothing left to do; `history` is of this and all other stages."""

    def command(self) -> list[str]:
        """What to run now, as words after `python -m`; goes on from what an interruption left."""


@dataclass(frozen=True)
class Record:
    """Scripted demonstrations, the same ones for every training seed."""

    job: Job
    name: str = "record"
    seed: None = None

    def done(self, history: History) -> bool:
        return _successes(self.job.episodes) >= self.job.preset.record.num_episodes

    def command(self) -> list[str]:
        flags = flags_of(to_mapping(self.job.preset.record))
        return ["aloha_kit.record", "--task", self.job.task_name, *flags, "--dataset_dir", str(self.job.episodes)]


@dataclass(frozen=True)
class Validate:
    """Nothing is learned from damaged episodes."""

    job: Job
    name: str = "validate"
    seed: None = None

    def done(self, history: History) -> bool:
        return _succeeded(self, history, since="record")

    def command(self) -> list[str]:
        return ["aloha_kit.episode", "validate", str(self.job.episodes)]


@dataclass(frozen=True)
class Train:
    """One training."""

    job: Job
    seed: int
    name: str = "train"

    def done(self, history: History) -> bool:
        return _steps_done(self.job.run(self.seed)) >= self.job.preset.training.num_steps

    def command(self) -> list[str]:
        job, run = self.job, self.job.run(self.seed)
        if _last(run) is not None:
            return ["aloha_kit.train", "--resume", str(run)]
        how = [*flags_of(job.preset.train), "--seed", str(self.seed), "--device", job.device]
        where = ["--dataset_dir", str(job.episodes), "--ckpt_dir", str(run)]
        return ["aloha_kit.train", "--task", job.task_name, *how, *where]

    def clear(self) -> None:
        """Put a training aside that was stopped before its first checkpoint: it can be neither resumed nor repeated."""
        run = self.job.run(self.seed)
        if run.is_dir() and any(run.iterdir()) and _last(run) is None:
            run.rename(free_path(run.with_name("policy_without_checkpoint")))


@dataclass(frozen=True)
class Evaluate:
    """Rollouts of one training's policy."""

    job: Job
    seed: int
    name: str = "eval"

    def done(self, history: History) -> bool:
        return _succeeded(self, history, since="train") and self.report() is not None

    def report(self) -> dict[str, Any] | None:
        """The newest evaluation with all its rollouts; None where there is none."""
        starts = [self.job.first_start(self.seed), self.job.first_start(self.seed) + self.job.num_rollouts - 1]
        whole = []
        for file in self.job.evaluations(self.seed).glob("eval*.json"):
            try:
                report = json.loads(file.read_text(encoding="utf-8"))
                (checkpoint,) = report["checkpoints"]
                if report["seeds"] == starts and checkpoint["success"]["trials"] == self.job.num_rollouts:
                    whole.append((str(report["started"]), report))
            except (OSError, ValueError, LookupError, TypeError):
                continue  # interrupted before its first rollout, or damaged: it is done again
        return max(whole, key=lambda found: found[0])[1] if whole else None

    def command(self) -> list[str]:
        job, how = self.job, to_mapping(self.job.preset.eval)
        run = job.run(self.seed)
        checkpoint = run if how.pop("checkpoint") == "best" else run / "checkpoints" / "last"
        starts = ["--num_rollouts", str(job.num_rollouts), "--seed", str(job.first_start(self.seed))]
        what = ["--ckpt", str(checkpoint), "--task", job.task_name, *starts, *flags_of(how)]
        return ["aloha_kit.eval", *what, "--device", job.device, "--output", str(job.evaluations(self.seed))]


def stages_of(job: Job, seeds: Sequence[int]) -> list[Stage]:
    """All stages in their order: a seed is evaluated before the next one trains, so that there is a result early."""
    each: list[Stage] = [stage for seed in seeds for stage in (Train(job, seed), Evaluate(job, seed))]
    return [Record(job), Validate(job), *each]


def flags_of(values: Mapping[str, Any]) -> list[str]:
    """Values as a user types them; None is not said.

    >>> flags_of({"image_size": [96, 128], "augment": False, "amp": True, "cameras": None, "lr": 1e-4})
    ['--image_size', '96', '128', '--no_augment', '--amp', '--lr', '0.0001']
    """
    words: list[str] = []
    for key, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{key}" if value else f"--no_{key}")
        elif isinstance(value, (list, tuple)):
            words += [f"--{key}", *map(str, value)]
        elif value is not None:
            words += [f"--{key}", str(value)]
    return words


def _successes(folder: Path) -> int:
    """Successful episodes of a folder; a file that cannot be read is none, and recording names it."""
    count = 0
    for file in list_episodes(folder) if folder.is_dir() else []:
        try:
            with Episode.open(file) as episode:
                count += episode.success is not False
        except AlohaKitError:
            continue
    return count


def _last(run: Path) -> Path | None:
    """The checkpoint that a training goes on from; where saving it was cut off, the one before steps in."""
    return next((f for f in (run / "checkpoints" / name for name in ("last", ".last.old")) if f.is_dir()), None)


def _steps_done(run: Path) -> int:
    """Optimiser steps of a run's last checkpoint; without torch, which would keep memory that the training needs."""
    last = _last(run)
    try:
        return 0 if last is None else int(json.loads((last / "extra.json").read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0  # resuming says what is damaged


def _succeeded(stage: Stage, history: History, *, since: str) -> bool:
    """Whether the stage ended well, and the one that it works on was not run since."""
    mine = [i for i, a in enumerate(history) if (a.stage, a.seed) == (stage.name, stage.seed) and a.status == 0]
    theirs = [i for i, a in enumerate(history) if a.stage == since and a.seed in (None, stage.seed)]
    return bool(mine) and mine[-1] > max(theirs, default=-1)
