"""Training command. Everything that can be checked without torch is checked before torch is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloha_kit.config import TaskConfig
from aloha_kit.config.match_checkpoint import renames
from aloha_kit.config.policies import PolicyConfig
from aloha_kit.config.training import TrainConfig
from aloha_kit.core import EpisodeError, UsageError
from aloha_kit.core.errors import command
from aloha_kit.core.files import make_folder
from aloha_kit.core.source import EpisodeSource
from aloha_kit.formats import open_source, ReadOptions
from aloha_kit.storage.contract_file import given_contract
from aloha_kit.storage.external_data import allow_external
from aloha_kit.train.args import require_unused, run_folder, task_of, to_snapshot, TrainArgs
from aloha_kit.train.launch import ALONE, launched, Rank


def run(args: TrainArgs[PolicyConfig]) -> None:
    """Train, as one of the processes of a launch or as the only one.

    Raises:
        AlohaKitError: see `make_setup` and `train`.
        KeyboardInterrupt: the signal that ended the training early, after everything was saved.
    """
    rank = launched()
    with rank.rank0_only():
        setup = make_setup(args, rank)
    with reserved(setup):
        from aloha_kit.train.training import train

        train(setup)


@dataclass(frozen=True)
class TrainingSetup:
    """Values, episodes and folder of a training.

    Attributes:
        policy: name of the file of the network's values.
        cameras: that the policy reads, under its names; None for all.
        resume: run or checkpoint to go on from.
        snapshot: values of all flags, which are saved in the run's folder.
    """

    config: TrainConfig
    network: PolicyConfig
    policy: str
    task: TaskConfig | None
    source: EpisodeSource
    cameras: tuple[str, ...] | None
    folder: Path  # of the run
    resume: Path | None
    preflight: bool
    preflight_only: bool
    snapshot: Mapping[str, Any]
    rank: Rank


def make_setup(args: TrainArgs[PolicyConfig], rank: Rank = ALONE) -> TrainingSetup:
    """Check the flags, and find the episodes and the run's folder.

    Raises:
        ConfigError: an unknown task, or the run's folder is in use.
        UsageError: no task and no episodes, a batch that cannot be divided, or values that exclude one another.
        EpisodeError: there are no episodes.
    """
    config, network, policy = args.training, args.network, Path(args.policy).stem
    _require_pieces(config, network, rank.size)
    _require_statistics(config, network)
    task = task_of(args)
    if config.eval_every and task is None:
        raise UsageError("rollouts need a task: give --task, or --eval_every 0")
    resume = None if args.resume is None else Path(args.resume)
    if resume is not None:
        folder = run_folder(resume)
    else:
        folder = Path(args.ckpt_dir or f"runs/{task.name if task else 'dataset'}/{policy}")
        if rank.first and not args.preflight_only:
            require_unused(folder)
    return TrainingSetup(
        config=config,
        network=network,
        policy=policy,
        task=task,
        source=_source(args, task),
        cameras=_cameras(args, task),
        folder=folder,
        resume=resume,
        preflight=args.preflight,
        preflight_only=args.preflight_only,
        snapshot=to_snapshot(args),
        rank=rank,
    )


@contextmanager
def reserved(setup: TrainingSetup) -> Iterator[None]:
    """Make the run's folder, so that an obstacle is reported before minutes of decoding; remove it if it stays empty.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    if setup.preflight_only or not setup.rank.first:
        yield
        return
    make_folder(setup.folder)
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            setup.folder.rmdir()


def _require_pieces(config: TrainConfig, network: PolicyConfig, processes: int) -> None:
    """Raise `UsageError` where a batch in pieces would not give the gradients of the whole batch."""
    pieces = processes * config.accumulate
    if config.batch_size % pieces:
        near = config.batch_size // pieces * pieces
        fitting = f"{near} or {near + pieces}" if near else str(pieces)
        raise UsageError(
            f"--batch_size {config.batch_size} is the batch of all processes together, and {processes} with "
            f"--accumulate {config.accumulate} cannot divide it evenly; take {fitting}"
        )
    if pieces > 1 and network.use_images and network.backbone_norm == "batch":
        raise UsageError(
            f"backbone_norm batch takes its statistics from a whole batch, and {processes} processes with "
            f"--accumulate {config.accumulate} divide it into {pieces} pieces; use --backbone_norm frozen or group"
        )


def _require_statistics(config: TrainConfig, network: PolicyConfig) -> None:
    """Raise `UsageError` where averaged weights would be combined with running statistics that are not averaged."""
    if config.ema and network.use_images and network.backbone_norm == "batch":
        raise UsageError(
            f"--ema {config.ema:g} averages weights, and backbone_norm batch keeps running statistics that "
            "belong to the weights of one step: the averaged network would be validated and saved with another's. "
            "Use --ema 0, or --backbone_norm frozen or group"
        )


def _source(args: TrainArgs[PolicyConfig], task: TaskConfig | None) -> EpisodeSource:
    places = args.dataset_dir or ((task.dataset_dir.format(task=task.name),) if task else ())
    if not places:
        raise UsageError("no episodes: give a task with --task, or their folder with --dataset_dir")
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
            f"{str(error).rstrip('.')}. Record some with `{command('record', '--task', args.task)}`, or give "
            "their folder with --dataset_dir"
        ) from error


def _cameras(args: TrainArgs[PolicyConfig], task: TaskConfig | None) -> tuple[str, ...] | None:
    """Cameras that the policy reads, under its names; None for all of the episodes."""
    if not args.network.use_images:
        return ()
    cameras = args.cameras if args.cameras is not None else (task.cameras if task else None)
    if cameras is None:
        return None
    mine = {theirs: name for name, theirs in renames(args.rename).items()}  # they may be given under either name
    return tuple(mine.get(name, name) for name in cameras)
