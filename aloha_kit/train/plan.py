"""What can be known of a run before torch is loaded: where its episodes are, and that its folder may be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aloha_kit.config import TaskConfig
from aloha_kit.config.match_checkpoint import renames
from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.core.errors import command
from aloha_kit.core.files import make_folder
from aloha_kit.core.source import EpisodeSource
from aloha_kit.formats import open_source, ReadOptions
from aloha_kit.storage.contract_file import given_contract
from aloha_kit.storage.external_data import allow_external
from aloha_kit.train.args import read_snapshot, run_folder, SNAPSHOT, task_of, TrainArgs
from aloha_kit.train.launch import ALONE, Rank


@dataclass(frozen=True)
class Plan:
    """Flags that have been looked at."""

    args: TrainArgs[PolicyConfig]
    task: TaskConfig | None
    source: EpisodeSource  # of the episodes
    folder: Path  # of the run
    launch: Rank = ALONE


def make_plan(args: TrainArgs[PolicyConfig], launch: Rank = ALONE) -> Plan:
    """Look at the flags.

    Raises:
        ConfigError: an unknown task, a batch that cannot be divided, or the run's folder is in use.
        EpisodeError: there are no episodes.
    """
    _require_pieces(args, launch.size)
    _require_statistics(args)
    task = task_of(args)
    if args.training.eval_every and task is None:
        raise ConfigError("rollouts need a task: give --task, or --eval_every 0")
    if args.resume is not None:
        folder = run_folder(Path(args.resume))
    else:
        folder = Path(args.ckpt_dir or f"runs/{task.name if task else 'dataset'}/{Path(args.policy).stem}")
        if launch.first and not args.preflight_only:
            require_unused(folder)
    return Plan(args, task, _source(args, task), folder, launch)


@contextmanager
def reserved(plan: Plan) -> Iterator[None]:
    """Inside, the run's folder exists: what stands in its way is said before minutes of decoding. Gone again at the
    end if nothing came into it.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    if plan.args.preflight_only or not plan.launch.first:
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
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    how = ""
    if (folder / SNAPSHOT).is_file():
        with suppress(ConfigError):  # damaged, and so not to be resumed
            read_snapshot(folder)
            how = f"go on with it by --resume {folder}, or "
    raise ConfigError(f"'{folder}' is not empty; {how}choose another place with --ckpt_dir")


def _require_pieces(args: TrainArgs[PolicyConfig], processes: int) -> None:
    """Raise `ConfigError` where a batch in pieces would not train like the whole."""
    config, network = args.training, args.network
    pieces = processes * config.accumulate
    if config.batch_size % pieces:
        near = config.batch_size // pieces * pieces
        fitting = f"{near} or {near + pieces}" if near else str(pieces)
        raise ConfigError(
            f"--batch_size {config.batch_size} is what all processes share, and {processes} with --accumulate "
            f"{config.accumulate} cannot share it evenly; take {fitting}"
        )
    if pieces > 1 and network.use_images and network.backbone_norm == "batch":
        raise ConfigError(
            f"backbone_norm batch takes its statistics from a batch at once, and {processes} processes with "
            f"--accumulate {config.accumulate} see it in {pieces} pieces; use --backbone_norm frozen or group"
        )


def _require_statistics(args: TrainArgs[PolicyConfig]) -> None:
    """Raise `ConfigError` where weights would be averaged beside statistics that are not."""
    if args.training.ema and args.network.use_images and args.network.backbone_norm == "batch":
        raise ConfigError(
            f"--ema {args.training.ema:g} averages weights, and backbone_norm batch keeps running statistics that "
            "belong to the weights of one step: the averaged network would be validated and saved with another's. "
            "Use --ema 0, or --backbone_norm frozen or group"
        )


def _source(args: TrainArgs[PolicyConfig], task: TaskConfig | None) -> EpisodeSource:
    places = args.dataset_dir or ((task.dataset_dir.format(task=task.name),) if task else ())
    if not places:
        raise EpisodeError("no episodes: give a task with --task, or say where they are with --dataset_dir")
    allow_external(args.allow_external)
    options = ReadOptions(
        contract=given_contract(args.contract, args.rig),
        jpeg_order=args.jpeg_order,
        rename=renames(args.rename),
        first=args.num_episodes,
    )
    try:
        return open_source(*places, kind=args.format, options=options)
    except EpisodeError as error:
        raise EpisodeError(
            f"{str(error).rstrip('.')}. Record some with `{command('record', '--task', args.task)}`, or say where "
            "they are with --dataset_dir"
        ) from error
