"""Evaluation of checkpoints: rollouts in simulation and the report."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aloha_kit import __version__
from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.config.match_checkpoint import renames
from aloha_kit.config.starts import starts_by_seed
from aloha_kit.core import ConfigError, Contract, ContractError
from aloha_kit.core.files import free_path, make_folder, write_json
from aloha_kit.envs import is_robot
from aloha_kit.eval.args import EvalArgs
from aloha_kit.eval.checkpoint_evaluator import CheckpointEvaluator, EvaluationSettings
from aloha_kit.eval.evaluation_report import CheckpointResult
from aloha_kit.eval.ray_evaluation import BlockEvaluation, evaluate_on_ray
from aloha_kit.eval.task_report import table, TaskResult, to_json
from aloha_kit.eval.worker import ObjectPoses
from aloha_kit.loop import sigterm_interrupts
from aloha_kit.media.live_view import ViewAddress
from aloha_kit.policies.find import find_checkpoint, run_folder


def run(args: EvalArgs) -> None:
    """Evaluate each checkpoint on the same seeds, task by task.

    The report is written every second and at the end, whatever ends it.

    Raises:
        ConfigError: a wrong name or path.
        UsageError: flags that do not fit this task or the checkpoints.
        ContractError: a policy and the simulation do not fit together; lists every difference.
        EvaluationError: a process ended, or a rollout failed; the rollouts so far are reported.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the rollouts so far were reported.
    """
    tasks = [load(TaskConfig, "tasks", name) for name in args.task]
    tasks = [replace(task, episode_len=args.episode_len or task.episode_len) for task in tasks]
    starts = starts_by_seed(args.eval_poses, args.seed, args.num_rollouts)
    args = replace(args, num_rollouts=len(starts) or args.num_rollouts)
    settings = [_settings(args, task, starts) for task in tasks]
    if args.threads or args.ray:
        torch.set_num_threads(args.threads or 1)
    sources = [find_checkpoint(path) for path in args.ckpt]
    names = "+".join(task.name for task in tasks)
    output = make_folder(args.output or run_folder(sources[0]) / "eval" / f"{names}_{_now():%Y%m%d-%H%M%S}")
    report = _ReportFile(free_path(output / "eval.json"), _about(args), [TaskResult(task) for task in tasks])
    with sigterm_interrupts():
        evaluators = _evaluators(sources, settings[0])
        for task in tasks[1:]:
            for evaluator in evaluators:
                evaluator.require_instruction(task)  # now, and not after the first task's rollouts
        try:
            if args.ray:
                work = BlockEvaluation(sources, settings, torch.get_num_threads())
                evaluate_on_ray(work, args.ray, report.tasks, report.save)
            else:
                _evaluate_here(evaluators, sources, settings, report)
        finally:
            if any(each.rollouts for results in report.tasks for each in results.results):
                report.save(now=True)
                print(f"{table(report.tasks)}\n\n{report.path}")


def _evaluate_here(
    evaluators: list[CheckpointEvaluator],
    sources: Sequence[Path],
    settings: Sequence[EvaluationSettings],
    report: _ReportFile,
) -> None:
    """Task by task on this machine; `evaluators` are ready for the first one."""
    for number, results in enumerate(report.tasks):
        if number:
            evaluators = _evaluators(sources, replace(settings[number], view=None))
        for label, evaluator in zip("AB", evaluators, strict=False):
            results.results.append(CheckpointResult(label, evaluator.about()))
            evaluator.evaluate(results.results[-1], report.save)


def _evaluators(sources: Sequence[Path], settings: EvaluationSettings) -> list[CheckpointEvaluator]:
    """The checkpoints, ready for one task."""
    others = replace(settings, view=None)
    evaluators = [CheckpointEvaluator(source, others if i else settings) for i, source in enumerate(sources)]
    _require_renamed(evaluators, settings.rename)
    for evaluator in evaluators[1:]:
        evaluator.check()  # now, and not after the first one's rollouts
    return evaluators


def _settings(args: EvalArgs, task: TaskConfig, starts: Mapping[int, ObjectPoses]) -> EvaluationSettings:
    rig = load(RigConfig, "rigs", task.rig)
    if is_robot(rig):
        raise ConfigError(
            "task '{task}' is done on rig '{rig}', which is no simulation; use aloha_kit.deploy there. An "
            "own simulation states simulated = True",
            task=task.name,
            rig=rig.name,
        )
    return EvaluationSettings(
        task,
        rig,
        range(args.seed, args.seed + args.rollouts),
        args.execution,
        args.inference_settings,
        args.at_a_time,
        args.processes,
        args.inference_batch,
        args.cameras,
        args.image_size,
        renames(args.rename),
        starts,
        ViewAddress.parse(args.view),
        args.goal,
        _joints(args),
        args.instruction,
    )


def _joints(args: EvalArgs) -> Contract | None:
    """The contract of the policy's numbers that the flags give."""
    if args.contract is None and args.rig is None:
        return None
    from aloha_kit.storage.contract_file import given_contract  # needs h5py

    return given_contract(args.contract, args.rig)


def _require_renamed(evaluators: Sequence[CheckpointEvaluator], rename: Mapping[str, str]) -> None:
    """Raise `ContractError` for a renamed camera that no checkpoint has."""
    for name in rename:
        if not any(name in evaluator.renamed for evaluator in evaluators):
            if len(evaluators) == 1:
                evaluators[0].network.rename_cameras(rename)  # raises, with the cameras that there are
            raise ContractError("--rename {name}=…: no checkpoint has a camera '{name}'", name=name)


@dataclass
class _ReportFile:
    """The report in JSON, written at most once a second."""

    path: Path
    about: dict[str, Any]
    tasks: Sequence[TaskResult]
    written: float = 0.0

    def save(self, *, now: bool = False) -> None:
        """Write the results so far, unless that was done within the last second."""
        if now or time.monotonic() - self.written > 1:
            write_json(self.path, to_json(self.about, self.tasks))
            self.written = time.monotonic()


def _about(args: EvalArgs) -> dict[str, Any]:
    versions = {"aloha_kit": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return {
        "instruction": args.instruction,
        "asked_rollouts": args.rollouts,
        "seeds": [args.seed, args.seed + args.rollouts - 1],
        "eval_poses": str(args.eval_poses) if args.eval_poses else None,
        "execution": {
            "temporal_agg": args.temporal_agg,
            "delay_steps": args.delay_steps,
            "chunk_boundary": args.execution.chunk_boundary,
            "batch": args.at_a_time,
            "workers": args.processes,
            "ray": args.ray or None,
            "threads": torch.get_num_threads(),
        },
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "platform": platform.platform()},
        "versions": {**versions, "python": platform.python_version()},
        "started": _now().isoformat(timespec="seconds"),
    }


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()
