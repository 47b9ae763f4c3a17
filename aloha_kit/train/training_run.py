"""Training run: data, network, preflight and loop."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

# Before anything makes a GL context: software EGL and torch's compiler stack otherwise crash one another (two LLVMs).
import torch
import torch._dynamo

from aloha_kit.config.policies import PolicyConfig
from aloha_kit.config.training import TrainConfig
from aloha_kit.core import ConfigError, plural, UsageError
from aloha_kit.core.errors import command
from aloha_kit.core.lang import Message, tr
from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.data.cache import cached_frames, folder_for
from aloha_kit.data.camera_frames import DirectFrames, Frames
from aloha_kit.data.camera_statistics import add_camera_statistics
from aloha_kit.data.index import EpisodeTable, read_table, split
from aloha_kit.data.loader import Loader
from aloha_kit.data.resident import resident_frames
from aloha_kit.data.sampler import Sampler, validation_rows
from aloha_kit.policies import checkpoint
from aloha_kit.policies.build import build
from aloha_kit.train.boards import require_wandb, WandbBoard
from aloha_kit.train.device import choose_device, keep_freed_memory
from aloha_kit.train.distributed import Distributed, processes
from aloha_kit.train.loop import Trainer, TrainingJob
from aloha_kit.train.metrics import Columns, plot_losses
from aloha_kit.train.preflight import inspect
from aloha_kit.train.progress import NullProgress, Progress
from aloha_kit.train.run_folder import describe_data, Run
from aloha_kit.train.setup import TrainingSetup

LOG = logging.getLogger(__name__)


def train(setup: TrainingSetup) -> None:
    """Train a policy.

    Raises:
        AlohaKitError: data, settings or folder cannot be used; the preflight found an error; the loss diverged.
    """
    config = setup.config
    device = choose_device(config.device, setup.rank)
    with setup.rank.rank0_only():
        if config.wandb:
            require_wandb()
        if config.eval_every:
            _require_rollouts()
        if config.amp == "fp16" and not device.startswith("cuda"):
            raise ConfigError(
                Message(
                    "--amp fp16 is for CUDA GPUs, and this run is on {device}; use --amp bf16, or --amp no",
                    device=device,
                )
            )
    if config.threads:
        torch.set_num_threads(config.threads)
    if device == "cpu":
        keep_freed_memory()
    with processes(setup.rank, torch.device(device)) as world:
        stopped = _train(setup, device, world)
    if stopped:
        raise KeyboardInterrupt(stopped)


def _train(setup: TrainingSetup, device: str, world: Distributed) -> str:
    """Returns the signal that stopped the training early, in every process; empty where it came to its end."""
    config, network_config, task, folder = setup.config, setup.network, setup.task, setup.folder
    torch.manual_seed(config.seed)
    if setup.source.unused:
        LOG.info("%s", setup.source.unused)
    table = _table(setup)
    own = [number for number, name in enumerate(table.names) if name in setup.source.validation]
    training, validation = split(len(table.names), config.val_fraction, config.seed, own)
    sampler = Sampler(table, training, config.batch_size, seed=config.seed, sampling=config.sampling)
    num_steps = sampler.steps(config.num_epochs) if config.num_epochs else config.num_steps
    run_, resumed, first = Run(folder), None, 0
    if setup.resume is not None and not run_.empty:
        network, resumed = run_.resumable(setup.resume, network_config, table)
        first = resumed["position"]["step"]
        _require_more(resumed["position"], num_steps, config)
    else:
        if setup.resume is not None:
            LOG.info("'%s' was stopped before its first checkpoint: training starts from the beginning", folder)
        network = build(network_config, table.contract, table.statistics())
    frames = open_frames(table, network_config, config, device)
    loader = Loader(
        table,
        frames,
        network_config.chunk_size,
        n_obs_steps=network_config.n_obs_steps,
        goal=network_config.reads_goal,
        pin=device.startswith("cuda"),
    )
    network.to(device)
    place = device if world.size == 1 else f"{world.size} x {torch.device(device).type}"
    _describe(table, training, validation, network, num_steps, sampler, place)
    if setup.preflight_only or (setup.preflight and resumed is None):
        report = world.from_first(lambda: inspect(table, loader, network, seed=config.seed))
        print(report.text())
        if setup.preflight_only:
            return ""
        report.require()
    if world.first and setup.resume is not None:
        checkpoint.sweep(run_.checkpoints)
        run_.write_config(setup.snapshot)
    elif world.first:
        Run.create(folder, setup.snapshot)
    network.stats = add_camera_statistics(network.stats, table, frames, training)
    with stop_requests(second_interrupts=world.size == 1) as stop:
        job = TrainingJob(
            config=config,
            network=network,
            loader=loader,
            sampler=sampler,
            validation=validation_rows(table, validation, config.batch_size, config.val_batches),
            run=run_,
            num_steps=num_steps,
            data=describe_data(table),
            task=", ".join(table.tasks),
            stop=stop,
            world=world,
        )
        columns = Columns.of(network)
        boards = [WandbBoard(config.wandb, folder, setup.snapshot)] if config.wandb and world.first else []
        progress = (
            Progress(
                run_,
                first_step=first,
                num_steps=num_steps,
                columns=columns,
                limit_s=config.time_limit_s,
                advice=_faster(setup, device),
                boards=boards,
            )
            if world.first
            else NullProgress()
        )
        if config.eval_every and task is not None:
            from aloha_kit.train.evaluation import SimEvaluator

            job.evaluate = SimEvaluator(task, config, folder / "rollouts", progress, stop)
        trainer = Trainer(job, progress, resumed)
        end = trainer.fit()
        # the request may have reached another process than the first one
        stopped = world.from_first(lambda: stop() or signal.SIGTERM.name) if trainer.stopped else ""
    if not world.first:
        return stopped
    try:
        plot_losses(read_metrics(folder / "metrics.csv"), folder / "loss.png", columns)
    except ImportError as error:  # the run has not failed
        LOG.warning("no loss.png: %s; the numbers are in %s", error, folder / "metrics.csv")
    where = run_.checkpoints / ("best" if (run_.checkpoints / "best").exists() else "last")
    print(
        tr(
            "{steps} steps in {seconds:.0f} s; policy: {where} (step {best})",
            steps=end.step,
            seconds=end.seconds,
            where=where,
            best=end.best_step or end.step,
        )
    )
    if stopped:
        share, last = end.step / num_steps, run_.checkpoints / "last"
        resume = command("train", "--resume", folder)
        LOG.info(
            tr(
                "stopped by {signal}: {done} are done and saved in {folder}; go on with: {command}",
                signal=stopped,
                done=tr("{done} of {steps} steps ({share:.0%})", done=end.step, steps=num_steps, share=share),
                folder=last,
                command=resume,
            )
        )
    return stopped


def open_frames(table: EpisodeTable, network: PolicyConfig, config: TrainConfig, device: str) -> Frames | None:
    """Images at the network's size, cached or decoded as needed; None for a network without image inputs."""
    if not network.use_images:
        return None
    sizes = {name: network.image_size or size for name, size in table.contract.cameras.items()}
    workers = config.workers or os.cpu_count() or 1
    if config.cache == "none":
        return DirectFrames(table, sizes, workers)
    folder = folder_for(table, config.cache_dir)
    if config.cache == "device":
        return resident_frames(table, sizes, folder, device, workers=workers)
    return cached_frames(table, sizes, folder, workers=workers)


@contextmanager
def stop_requests(*, second_interrupts: bool = True) -> Iterator[Callable[[], str]]:
    """Turn the first SIGINT, SIGTERM or SIGHUP (a closed ssh connection) into a request to stop after this step.

    Yields a function that returns the signal's name, empty before one came. A second signal raises `KeyboardInterrupt`
    if `second_interrupts`; not under a launcher, which passes on signals that its processes have received already and
    ends those that do not stop. An ignored SIGHUP (nohup) stays ignored.
    """
    received: list[str] = []

    def request(signum: int, frame: FrameType | None) -> None:
        name = signal.Signals(signum).name
        if received:
            # the shell of a closed terminal passes on the terminal's SIGHUP
            if second_interrupts and signum != signal.SIGHUP:
                raise KeyboardInterrupt(name)
            return
        received.append(name)
        with suppress(RuntimeError):  # the signal came in the middle of another line
            LOG.info(tr("{signal}: saving after this step", signal=name))

    def stop() -> str:
        return received[0] if received else ""

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, request) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _faster(setup: TrainingSetup, device: str) -> str:
    """Advice for a training on a CPU that would take days; empty where the first step is not representative."""
    if device != "cpu" or setup.config.compile:
        return ""
    if setup.policy == "act_cpu":
        return tr("; give fewer --num_steps or a smaller --batch_size")
    return tr("; without a GPU take --policy act_cpu, a small ACT that trains in minutes on two cores")


def _require_rollouts() -> None:
    """Raise `ConfigError` now if rollouts cannot run, rather than after hours."""
    try:
        for package in ("aloha_kit.sim", "aloha_kit.media"):
            importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            Message("rollouts need the extras sim and view ({error}); or train with --eval_every 0", error=error)
        ) from error


def _require_more(position: Mapping[str, Any], num_steps: int, config: TrainConfig) -> None:
    """Raise `UsageError` if a run has reached its number of steps or its time limit."""
    reached, flag = position["step"], "num_epochs" if config.num_epochs else "num_steps"
    if num_steps <= reached:
        raise UsageError(
            Message(
                "already at step {reached} of {steps}; give a larger {flag}",
                reached=reached,
                steps=num_steps,
                flag=f"--{flag}",
            )
        )
    if config.time_limit_s is not None and position["seconds"] >= config.time_limit_s:
        raise UsageError(
            Message(
                "already trained for {seconds:.0f} s of {limit_s:g}; give a larger --time_limit_s",
                seconds=position["seconds"],
                limit_s=config.time_limit_s,
            )
        )


def _table(setup: TrainingSetup) -> EpisodeTable:
    """The episodes, with those of their features that the policy reads."""
    task = setup.task
    table = read_table(
        setup.source,
        cameras=setup.cameras,
        sensors=setup.network.sensors,
        action_offset=setup.config.action_offset,
        include_failed=setup.config.include_failed,
    )
    for note in (*table.assumptions, *table.notes):
        LOG.info(tr("note: {note}", note=note))
    if task is not None and any(name != task.name for name in table.tasks):
        LOG.warning("the episodes were recorded for %s, not for --task %s", ", ".join(table.tasks), task.name)
    return table if setup.network.use_environment_state else table.without_privileged()


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
    LOG.info(
        f"{plural(len(training), 'episode')} to train on, {len(validation)} to validate{skipped}; "
        f"{plural(len(table), 'step')}; cameras: {', '.join(table.cameras) or '(none)'}"
    )
    LOG.info(
        f"{count / 1e6:.2f} M parameters on {device}; {plural(num_steps, 'step')} of {sampler.batch_size}, "
        f"{num_steps * sampler.batch_size / sampler.epoch_size:.1f} epochs of {sampler.epoch_size}"
    )
