"""Training run: data, network, preflight and loop."""

from __future__ import annotations

import importlib
import logging
import signal
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

# Before anything makes a GL context: software EGL and torch's compiler stack otherwise crash one another (two LLVMs).
import torch
import torch._dynamo

from aloha_kit.config.training import TrainConfig
from aloha_kit.core import ConfigError, UsageError
from aloha_kit.core.errors import command
from aloha_kit.core.interrupt import stop_requests
from aloha_kit.core.lang import tr
from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.data.camera_frames import DEPTH
from aloha_kit.data.camera_statistics import add_camera_statistics
from aloha_kit.data.instructions import Instructions
from aloha_kit.data.loader import Loader
from aloha_kit.data.sampler import validation_rows
from aloha_kit.data.windows import ShardFetcher
from aloha_kit.policies import checkpoint
from aloha_kit.policies.build import build
from aloha_kit.policies.goal import set_goal
from aloha_kit.policies.language import require_instruction
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.train.boards import require_wandb, WandbBoard
from aloha_kit.train.device import choose_device, keep_freed_memory, set_gpu_arithmetic
from aloha_kit.train.distributed import Distributed, processes
from aloha_kit.train.loop import Trainer, TrainingJob
from aloha_kit.train.metrics import Columns, plot_losses, wrong_chunk_end
from aloha_kit.train.preflight import inspect
from aloha_kit.train.progress import NullProgress, Progress
from aloha_kit.train.run_folder import describe_data, Position, Run
from aloha_kit.train.setup import TrainingSetup
from aloha_kit.train.training_data import decodes_episodes, open_frames, TrainingData

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
                "--amp fp16 is for CUDA GPUs, and this run is on {device}; use --amp bf16, or --amp no", device=device
            )
    if config.threads:
        torch.set_num_threads(config.threads)
    if device == "cpu":
        keep_freed_memory()
    elif device.startswith("cuda"):
        set_gpu_arithmetic(tf32=config.tf32)
    with processes(setup.rank, torch.device(device)) as world:
        stopped = _train(setup, device, world)
    if stopped:
        raise KeyboardInterrupt(stopped)


def _train(setup: TrainingSetup, device: str, world: Distributed) -> str:
    """Returns the signal that stopped the training early, in every process; empty where it came to its end."""
    config, folder, run = setup.config, setup.folder, Run(setup.folder)
    torch.manual_seed(config.seed)
    if setup.source.unused:
        LOG.info("%s", setup.source.unused)
    data = TrainingData.read(setup)
    network, resumed = _network(setup, run, data)
    for task in setup.rollout_tasks:
        require_instruction(network, task.instruction)  # now, and not at the first rollout
    if config.eval_goal is not None or (setup.rollout_tasks and setup.network.reads_goal):
        set_goal(network, config.eval_goal, f"policy {setup.policy}", flag="--eval_goal")
    frames = open_frames(data.table, setup.network, config, device)
    loader = Loader(
        data.table,
        frames,
        setup.network.chunk_size,
        depth=open_frames(data.table, setup.network, config, device, DEPTH),
        n_obs_steps=setup.network.n_obs_steps,
        goal=setup.network.reads_goal,
        goal_seed=config.seed if setup.network.samples_goal else None,
        instructions=None if network.language is None else network.language.instructions,
        pin=device.startswith("cuda"),
    )
    network.to(device)
    data.report(network, device if world.size == 1 else f"{world.size} x {torch.device(device).type}")
    if setup.preflight_only or (setup.preflight and resumed is None):
        report = world.from_first(lambda: inspect(data.table, loader, network, seed=config.seed))
        print(report.text())
        if setup.preflight_only:
            return ""
        report.require()
    if world.first and setup.resume is not None:
        checkpoint.sweep(run.checkpoints)
        run.write_config(setup.snapshot)
    elif world.first:
        Run.create(folder, setup.snapshot)
    network.stats = add_camera_statistics(network.stats, data.table, frames, data.training)
    needed = decodes_episodes(data.table, setup.network, config)
    with (
        stop_requests(second_interrupts=world.size == 1) as stop,
        closing(ShardFetcher(data.table, data.sampler, needed=needed)) as shards,
    ):
        job = TrainingJob(
            config=config,
            network=network,
            loader=loader,
            sampler=data.sampler,
            validation=validation_rows(data.table, data.validation, config.batch_size, config.val_batches),
            run=run,
            num_steps=data.num_steps,
            data=describe_data(data.table),
            task=", ".join(data.table.tasks),
            fetch=shards.fetch,
            stop=stop,
            world=world,
        )
        progress = _progress(setup, job, resumed, device)
        if setup.rollout_tasks:
            from aloha_kit.train.evaluation import TasksEvaluator

            job.evaluate = TasksEvaluator(setup.rollout_tasks, config, folder / "rollouts", progress, stop)
        trainer = Trainer(job, progress, resumed)
        end = trainer.fit()
        # the request may have reached another process than the first one
        stopped = world.from_first(lambda: stop() or signal.SIGTERM.name) if trainer.stopped else ""
    if world.first:
        _report_end(job, end, stopped)
    return stopped


def _network(setup: TrainingSetup, run: Run, data: TrainingData) -> tuple[ChunkNetwork, dict[str, Any] | None]:
    """A new network; or the one to resume, with its training state.

    Raises:
        ConfigError, ContractError: as `Run.resumable`.
        EpisodeError, ConfigError: as `Instructions.of_episodes`.
        UsageError: the run has reached its end.
    """
    if setup.resume is not None and not run.empty:
        network, state = run.resumable(setup.resume, setup.network, data.table)
        _require_more(state["position"], data.num_steps, setup.config)
        return network, state
    if setup.resume is not None:
        LOG.info("'%s' was stopped before its first checkpoint: training starts from the beginning", run.folder)
    table, encoder = data.table, setup.network.text_encoder
    instructions = None if encoder is None else Instructions.of_episodes(table.where, table.instructions, encoder)
    return build(setup.network, table.contract, table.statistics(), instructions=instructions), None


def _progress(setup: TrainingSetup, job: TrainingJob, resumed: Mapping[str, Any] | None, device: str) -> Progress:
    """Terminal, metrics.csv and boards of the first process; nothing in the others."""
    if not job.world.first:
        return NullProgress()
    config = setup.config
    return Progress(
        job.run,
        first_step=0 if resumed is None else resumed["position"]["step"],
        num_steps=job.num_steps,
        columns=Columns.of(job.network, setup.rollout_tasks),
        limit_s=config.time_limit_s,
        advice=_faster(setup, device),
        boards=[WandbBoard(config.wandb, setup.folder, setup.snapshot)] if config.wandb else [],
    )


def _report_end(job: TrainingJob, end: Position, stopped: str) -> None:
    """Plot the losses; print where the policy is, and how to go on after a signal."""
    metrics, run = job.run.folder / "metrics.csv", job.run
    rows = read_metrics(metrics)
    try:
        plot_losses(rows, run.folder / "loss.png", Columns.of(job.network))
    except ImportError as error:  # the run has not failed
        LOG.warning("no loss.png: %s; the numbers are in %s", error, metrics)
    _warn_of_chunk_end(job.network, rows)
    where = run.checkpoints / ("best" if (run.checkpoints / "best").exists() else "last")
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
        share, last = end.step / job.num_steps, run.checkpoints / "last"
        LOG.info(
            tr(
                "stopped by {signal}: {done} are done and saved in {folder}; go on with: {command}",
                signal=stopped,
                done=tr("{done} of {steps} steps ({share:.0%})", done=end.step, steps=job.num_steps, share=share),
                folder=last,
                command=command("train", "--resume", run.folder),
            )
        )


def _warn_of_chunk_end(network: ChunkNetwork, rows: Sequence[Mapping[str, float]]) -> None:
    """Report a wrong end of the chunk to whoever would execute it."""
    config, size = network.config, network.chunk_size
    wrong = wrong_chunk_end(rows)
    if wrong is None or config.ensemble_weight is not None or (config.n_action_steps or size) < size:
        return
    group, first, last = wrong
    LOG.warning(
        tr(
            "the last action of a chunk is wrong: its error is {last:.2g} ({group}), that of the first {first:.2g}. "
            "Execute fewer than its {size} actions (--n_action_steps in training, eval and deploy); a narrow network "
            "of flow or diffusion predicts it better with --prediction_type sample",
            last=last,
            group=group,
            first=first,
            size=size,
        )
    )


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
            "rollouts need the extras sim and view ({error}); or train with --eval_every 0", error=error
        ) from error


def _require_more(position: Mapping[str, Any], num_steps: int, config: TrainConfig) -> None:
    """Raise `UsageError` if a run has reached its number of steps or its time limit."""
    reached, flag = position["step"], "num_epochs" if config.num_epochs else "num_steps"
    if num_steps <= reached:
        raise UsageError(
            "already at step {reached}; give a larger {flag} than {steps}",
            reached=reached,
            steps=num_steps,
            flag=f"--{flag}",
        )
    if config.time_limit_s is not None and position["seconds"] >= config.time_limit_s:
        raise UsageError(
            "already trained for {seconds:.0f} s of {limit_s:g}; give a larger --time_limit_s",
            seconds=position["seconds"],
            limit_s=config.time_limit_s,
        )
