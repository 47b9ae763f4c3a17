"""Training command. Everything that can be checked without torch is checked before torch is loaded."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NoReturn

from aloha_kit.config import load, TaskConfig
from aloha_kit.config.match_checkpoint import renames
from aloha_kit.config.policies import PolicyConfig
from aloha_kit.core import EpisodeError, UsageError
from aloha_kit.core.errors import command
from aloha_kit.core.lang import shown, tr
from aloha_kit.core.run_log import run_log
from aloha_kit.core.source import EpisodeSource
from aloha_kit.formats import open_joined, open_source, ReadOptions
from aloha_kit.storage.contract_file import given_contract
from aloha_kit.storage.external_data import allow_external
from aloha_kit.train.args import PUBLISHED, require_unused, run_folder, task_of, to_snapshot, TrainArgs
from aloha_kit.train.debug import changes, debug_folder, EPISODES, simulated, small_network, small_task, small_training
from aloha_kit.train.launch import ALONE, launched, Rank
from aloha_kit.train.setup import require_pieces, require_statistics, reserved, TrainingSetup

LOG = logging.getLogger(__name__)


def run(args: TrainArgs[PolicyConfig]) -> None:
    """Train, as one of the processes of a launch or as the only one.

    Raises:
        AlohaKitError: see `make_setup` and `train`.
        KeyboardInterrupt: the signal that ended the training early, after everything was saved.
    """
    if args.eval:
        _roll_out(args)
    rank = launched()
    with rank.rank0_only():
        setup = make_setup(args, rank)
    with reserved(setup), _logged(setup, args):
        for note in setup.notes:
            LOG.info("%s", note)
        from aloha_kit.train.training_run import train

        train(setup)


def _roll_out(args: TrainArgs[PolicyConfig]) -> NoReturn:
    """Become the deployment of a trained policy, for ACT's `--eval`."""
    if not args.task:
        raise UsageError("--eval needs the task of the rollouts: give --task")
    words = ["--ckpt", args.ckpt_dir or str(default_folder(args, task_of(args))), "--task", args.task]
    words += ["--temporal_agg"] if args.training.temporal_agg else []
    words += ["--device", args.training.device] if args.training.device != "auto" else []
    words += ["--view"] if args.onscreen_render else []
    LOG.info("--eval: %s", command("deploy", *words))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "aloha_kit.deploy", *words])


def default_folder(args: TrainArgs[PolicyConfig], task: TaskConfig | None) -> Path:
    """Folder of a run where --ckpt_dir is not given: runs/TASK/POLICY."""
    return Path("runs") / (task.name if task else "dataset") / Path(args.policy).stem


def _logged(setup: TrainingSetup, args: TrainArgs[PolicyConfig]) -> AbstractContextManager[None]:
    """The run's log; none where there is no run."""
    if setup.preflight_only:
        return nullcontext()
    return run_log(setup.folder, command("train", *args.words) if setup.rank.first else "")


def make_setup(args: TrainArgs[PolicyConfig], rank: Rank = ALONE) -> TrainingSetup:
    """Check the flags, and find the episodes and the run's folder.

    Raises:
        ConfigError: an unknown task, or the run's folder is in use.
        UsageError: no task and no episodes, a batch that cannot be divided, or values that exclude one another.
        EpisodeError: there are no episodes.
    """
    policy, task = Path(args.policy).stem, task_of(args)
    notes = [_published(args)] if policy in PUBLISHED.values() and args.resume is None else []
    if args.debug:
        args, task, note = _small(args, task, rank)
        notes.append(note)
    config, network = args.training, args.network
    require_pieces(config, network, rank.size)
    require_statistics(config, network)
    rollout_tasks = _rollout_tasks(args, task)
    if config.eval_every and not rollout_tasks:
        raise UsageError("rollouts need a task: give --task, or --eval_every 0")
    if config.eval_every and network.reads_goal and config.eval_goal is None:
        raise UsageError("rollouts of a policy that reads a goal need one: give --eval_goal, or --eval_every 0")
    resume = None if args.resume is None else Path(args.resume)
    if resume is not None:
        folder = run_folder(resume)
    else:
        folder = Path(args.ckpt_dir) if args.ckpt_dir else default_folder(args, task)
        folder = debug_folder(folder) if args.debug else folder
        if rank.first and not args.preflight_only:
            require_unused(folder)
    return TrainingSetup(
        config=config,
        network=network,
        policy=policy,
        task=task,
        source=_source(args, task),
        weights=args.weights,
        rollout_tasks=rollout_tasks,
        cameras=_cameras(args, task),
        folder=folder,
        resume=resume,
        preflight=args.preflight,
        preflight_only=args.preflight_only,
        snapshot=to_snapshot(args),
        rank=rank,
        notes=tuple(notes),
    )


def _rollout_tasks(args: TrainArgs[PolicyConfig], task: TaskConfig | None) -> tuple[TaskConfig, ...]:
    """Tasks of the rollouts while training: those of --eval_tasks, or `task`; none without --eval_every."""
    if not args.training.eval_every:
        return ()
    if not args.training.eval_tasks:
        return () if task is None else (task,)
    tasks = [load(TaskConfig, "tasks", name) for name in args.training.eval_tasks]
    if len({each.name for each in tasks}) < len(tasks):
        given = " ".join(args.training.eval_tasks)
        raise UsageError("--eval_tasks names each task once, given {given}", given=given)
    return tuple(small_task(each) for each in tasks) if args.debug else tuple(tasks)


def _published(args: TrainArgs[PolicyConfig]) -> str:
    """Description of a published network and its training, in a line."""
    config = args.training
    length = f"{config.num_epochs} epochs" if config.num_epochs else f"{config.num_steps} steps"
    start = "one random start an episode" if config.sampling == "one_per_episode" else "every step of every episode"
    return (
        f"{args.policy}: the network and the training of ACT's repository with the flags given: {length} of {start}, "
        f"batch {config.batch_size}, lr {config.lr:g} {config.schedule}, "
        f"{'' if config.augment else 'no '}augmentation, {config.val_fraction:.0%} for validation. "
        f"--policy {args.policy.removesuffix('_reference')} has the improved defaults"
    )


def _small(
    args: TrainArgs[PolicyConfig], task: TaskConfig | None, rank: Rank
) -> tuple[TrainArgs[PolicyConfig], TaskConfig | None, str]:
    """The flags and the task of `--debug`, and what it changes."""
    rollouts = simulated(task) and (not args.network.reads_goal or args.training.eval_goal is not None)
    config = small_training(args.training, processes=rank.size, simulated=rollouts)
    network = small_network(args.network)
    episodes = min(args.num_episodes or EPISODES, EPISODES)
    task = small_task(task) if task else None
    changed = [*changes(args.training, config), *changes(args.network, network), f"num_episodes {episodes}"]
    if config.eval_every and task:
        changed.append(f"rollouts of {task.episode_len} steps")
    note = f"--debug, in place of the values in brackets: {', '.join(changed)}"
    return dataclasses.replace(args, training=config, network=network, num_episodes=episodes), task, note


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
        rig=args.rig or "",
        default_task=args.task,
        cache_dir=args.training.cache_dir,
        cache_gb=args.training.cache_gb,
    )
    try:
        if args.weights:
            return open_joined(places, args.format, options)
        return open_source(*places, kind=args.format, options=options)
    except EpisodeError as error:
        raise EpisodeError(
            tr(
                "{problem}. Record some with `{command}`, or give their folder with --dataset_dir",
                problem=shown(error).rstrip(".。"),
                command=command("record", "--task", args.task),
            )
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
