"""From parsed flags to a trained policy: composes data, network, preflight and loop."""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# Before anything makes a GL context: software EGL and torch's compiler stack otherwise crash one another (two LLVMs).
import torch
import torch._dynamo

from aloha_kit.config import TaskConfig
from aloha_kit.config.policies import PolicyConfig
from aloha_kit.config.training import TrainConfig
from aloha_kit.core import ConfigError, EpisodeError
from aloha_kit.data.cache import cached_frames, folder_for
from aloha_kit.data.frames import DirectFrames, Frames
from aloha_kit.data.index import EpisodeTable, read_table, split
from aloha_kit.data.loader import Loader
from aloha_kit.data.sampler import Sampler, spread
from aloha_kit.episode import list_episodes
from aloha_kit.policies.build import build
from aloha_kit.train.cli import run_folder, task_of, to_snapshot, TrainArgs
from aloha_kit.train.loop import Job, Trainer
from aloha_kit.train.preflight import inspect
from aloha_kit.train.progress import plot_losses, Progress
from aloha_kit.train.runs import describe_data, read_metrics, require_unused, Run


def run(args: TrainArgs[PolicyConfig]) -> Path:
    """Train as the flags say; returns the run's folder.

    Raises:
        AlohaKitError: data, settings or folder cannot be used; the preflight found the data unfit; the loss diverged.
    """
    config, task = args.training, task_of(args)
    folder = Path(args.ckpt_dir or f"runs/{args.task or 'dataset'}/{Path(args.policy).stem}")
    if args.resume:
        folder = run_folder(Path(args.resume))
    elif not args.preflight_only:
        require_unused(folder)  # before minutes are spent on decoding
    if config.eval_every:
        _require_rollouts(task)
    device = choose_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    table = _table(args, task)
    training, validation = split(len(table.files), config.val_fraction, config.seed)
    frames = open_frames(table, args.network, config)
    loader = Loader(table, frames, args.network.chunk_size, pin=device.startswith("cuda"))
    sampler = Sampler(table, training, config.batch_size, seed=config.seed, sampling=config.sampling)
    run_, resumed = Run(folder), None
    if args.resume:
        network, resumed = run_.resumable(Path(args.resume), args.network, table)
    else:
        network = build(args.network, table.contract, table.statistics())
    network.to(device)
    num_steps = sampler.steps(config.num_epochs) if config.num_epochs else config.num_steps
    _describe(table, training, validation, network, num_steps, sampler, device)
    if args.preflight_only or (args.preflight and not args.resume):
        report = inspect(table, loader, network, seed=config.seed)
        print(report.text())
        if args.preflight_only:
            return Path()
        report.require()
    if args.resume:
        run_.note(to_snapshot(args))
    else:
        Run.create(folder, to_snapshot(args))
    with stop_requests() as stop:
        job = Job(
            config=config,
            network=network,
            loader=loader,
            sampler=sampler,
            validation=spread(table, validation, config.batch_size, config.val_batches),
            run=run_,
            num_steps=num_steps,
            data=describe_data(table),
            stop=stop,
        )
        first = resumed["position"]["step"] if resumed else 0
        progress = Progress(run_, first_step=first, num_steps=num_steps)
        if config.eval_every and task is not None:
            from aloha_kit.train.evaluation import SimEvaluator

            job.evaluate = SimEvaluator(task, config, folder / "rollouts", progress, stop)
        end = Trainer(job, progress, resumed).fit()
    try:
        plot_losses(read_metrics(folder / "metrics.csv"), folder / "loss.png")
    except ImportError as error:  # a picture is not worth a failed run
        print(f"no loss.png: {error}; the numbers are in {folder / 'metrics.csv'}")
    where = run_.checkpoints / ("best" if (run_.checkpoints / "best").exists() else "last")
    print(f"{end.step} steps in {end.seconds:.0f} s; policy: {where} (step {end.best_step or end.step})")
    if end.step < num_steps and stop():
        print(f"stopped on request; go on with: python -m aloha_kit.train --resume {folder}")
    return folder


def choose_device(name: str) -> str:
    """`auto` to what there is; anything else is checked.

    Raises:
        ConfigError: the device is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device '{name}' cannot be used: {error}") from error
    return name


def open_frames(table: EpisodeTable, network: PolicyConfig, config: TrainConfig) -> Frames | None:
    """Pictures at the network's size, cached or decoded as needed; None for a network without eyes."""
    if not network.use_images:
        return None
    sizes = {name: network.image_size or size for name, size in table.contract.cameras.items()}
    workers = config.workers or os.cpu_count() or 1
    if config.cache == "none":
        return DirectFrames(table, sizes, workers)
    return cached_frames(table, sizes, folder_for(table, config.cache_dir), workers=workers)


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Inside, the first SIGINT or SIGTERM only asks to stop after the present step; a second one interrupts."""
    asked = threading.Event()

    def ask(signum: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt(signal.Signals(signum).name)
        asked.set()
        print(f"\n{signal.Signals(signum).name}: saving after this step", flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_rollouts(task: TaskConfig | None) -> None:
    """Raise `ConfigError` now if rollouts cannot be had, rather than after hours."""
    if task is None:
        raise ConfigError("rollouts need a task: give --task, or --eval_every 0")
    try:
        for room in ("aloha_kit.sim", "aloha_kit.media"):
            importlib.import_module(room)
    except ImportError as error:
        raise ConfigError(f"rollouts need the extras sim and view ({error}); or train with --eval_every 0") from error


def _table(args: TrainArgs[PolicyConfig], task: TaskConfig | None) -> EpisodeTable:
    folder = Path(args.dataset_dir or (task.dataset_dir.format(task=task.name) if task else ""))
    if not folder.is_dir():
        raise EpisodeError(
            f"no episodes at '{folder}'. Record some with `python -m aloha_kit.record --task {args.task}`, "
            "or say where they are with --dataset_dir"
        )
    files = list_episodes(folder)[: args.num_episodes]
    if not files:
        raise EpisodeError(f"no episode_<i>.hdf5 in '{folder}'")
    cameras = args.cameras if args.cameras is not None else (task.cameras if task else None)
    table = read_table(
        files,
        cameras=cameras if args.network.use_images else (),
        action_offset=args.training.action_offset,
        include_failed=args.training.include_failed,
    )
    if not args.network.use_environment_state:
        table = dataclasses.replace(
            table,
            environment_state=None,
            contract=dataclasses.replace(table.contract, environment_state_names=()),
        )
    return table


def _describe(
    table: EpisodeTable,
    training: list[int],
    validation: list[int],
    network: torch.nn.Module,
    num_steps: int,
    sampler: Sampler,
    device: str,
) -> None:
    count = sum(p.numel() for p in network.parameters() if p.requires_grad)
    skipped = f", {table.failed} failures left out" if table.failed else ""
    print(
        f"{len(training)} episodes to train on, {len(validation)} to validate{skipped}; {len(table)} steps; "
        f"cameras: {', '.join(table.cameras) or '(none)'}\n"
        f"{count / 1e6:.2f} M parameters on {device}; {num_steps} steps of {sampler.batch_size}, "
        f"{num_steps * sampler.batch_size / sampler.epoch_size:.1f} epochs of {sampler.epoch_size}"
    )
