"""What can be known of a run before torch is loaded: where its episodes are, and that its folder may be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aloha_kit.config import TaskConfig
from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.core.files import make_folder
from aloha_kit.episode import list_episodes
from aloha_kit.train.cli import run_folder, SNAPSHOT, task_of, TrainArgs


@dataclass(frozen=True)
class Plan:
    """Flags that have been looked at."""

    args: TrainArgs[PolicyConfig]
    task: TaskConfig | None
    files: tuple[Path, ...]  # the episodes, at least one
    folder: Path  # of the run


def make_plan(args: TrainArgs[PolicyConfig]) -> Plan:
    """Look at the flags.

    Raises:
        ConfigError: an unknown task, or the run's folder is in use.
        EpisodeError: there are no episodes.
    """
    task = task_of(args)
    if args.training.eval_every and task is None:
        raise ConfigError("rollouts need a task: give --task, or --eval_every 0")
    if args.resume is not None:
        folder = run_folder(Path(args.resume))
    else:
        folder = Path(args.ckpt_dir or f"runs/{task.name if task else 'dataset'}/{Path(args.policy).stem}")
        if not args.preflight_only:
            require_unused(folder)
    return Plan(args, task, _episodes(args, task), folder)


@contextmanager
def reserved(plan: Plan) -> Iterator[None]:
    """Inside, the run's folder exists: what stands in its way is said before minutes of decoding. Gone again at the
    end if nothing came into it.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    if plan.args.preflight_only:
        yield
        return
    make_folder(plan.folder)
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            plan.folder.rmdir()


def require_unused(folder: Path) -> None:
    """Raise `ConfigError` if a run's folder holds something already: it is never written over."""
    if folder.is_dir() and any(folder.iterdir()):
        how = f"go on with it by --resume {folder}, or " if (folder / SNAPSHOT).is_file() else ""
        raise ConfigError(f"'{folder}' is not empty; {how}choose another place with --ckpt_dir")


def _episodes(args: TrainArgs[PolicyConfig], task: TaskConfig | None) -> tuple[Path, ...]:
    folder = Path(args.dataset_dir or (task.dataset_dir.format(task=task.name) if task else ""))
    if not folder.is_dir():
        raise EpisodeError(
            f"no episodes at '{folder}'. Record some with `python -m aloha_kit.record --task {args.task}`, "
            "or say where they are with --dataset_dir"
        )
    files = tuple(list_episodes(folder)[: args.num_episodes])
    if not files:
        raise EpisodeError(f"no episode_<i>.hdf5 in '{folder}'")
    return files
