"""Evaluation on one screen: checkpoints, rollouts, report."""

from __future__ import annotations

import datetime
import os
import platform
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from aloha_kit import __version__
from aloha_kit.config import load, RigConfig, TaskConfig, to_mapping
from aloha_kit.config.match_checkpoint import renames
from aloha_kit.config.starts import starts_by_seed
from aloha_kit.core import ConfigError, ContractError
from aloha_kit.core.files import free_path, make_folder, write_json
from aloha_kit.eval.args import EvalArgs
from aloha_kit.eval.checkpoint_evaluator import CheckpointEvaluator
from aloha_kit.eval.report import Evaluated, table, to_json
from aloha_kit.loop import sigterm_interrupts
from aloha_kit.policies.find import find_checkpoint, run_folder


def run(args: EvalArgs) -> None:
    """Evaluate each checkpoint on the same seeds; the report is written every second and at the end, whatever ends it.

    Raises:
        ConfigError: a wrong name, path or value.
        ContractError: a policy and the simulation do not fit together; lists every difference.
        EvaluationError: a process died, or a rollout failed; what was done is kept and reported.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after everything done was kept and reported.
    """
    task = load(TaskConfig, "tasks", args.task)
    task = replace(task, episode_len=args.episode_len or task.episode_len)
    rig = load(RigConfig, "rigs", task.rig)
    if rig.has_drivers:
        raise ConfigError(
            f"task '{task.name}' is done on rig '{rig.name}', which is no simulation; count there with aloha_kit.deploy"
        )
    starts = starts_by_seed(args.eval_poses, args.seed, args.num_rollouts)
    args = replace(args, num_rollouts=len(starts) or args.num_rollouts)
    if args.threads:
        torch.set_num_threads(args.threads)
    sources = [find_checkpoint(path) for path in args.ckpt]
    output = make_folder(args.output or run_folder(sources[0]) / "eval" / f"{task.name}_{_now():%Y%m%d-%H%M%S}")
    file = free_path(output / "eval.json")
    evaluated: list[Evaluated] = []
    about = _about(args, task)
    written = 0.0

    def keep(*, now: bool = False) -> None:
        nonlocal written
        if now or time.monotonic() - written > 1:
            write_json(file, to_json(about, evaluated))
            written = time.monotonic()

    with sigterm_interrupts():
        candidates = [CheckpointEvaluator(source, args, task, rig, starts) for source in sources]
        for name in renames(args.rename):
            if not any(name in candidate.renamed for candidate in candidates):
                raise ContractError(f"--rename {name}=…: neither checkpoint has a camera '{name}'")
        for candidate in candidates[1:]:
            candidate.check()  # now, and not after the first one's rollouts
        try:
            for label, candidate in zip("AB", candidates, strict=False):
                evaluated.append(Evaluated(label, candidate.about()))
                candidate.evaluate(evaluated[-1], keep)
        finally:
            if any(each.rollouts for each in evaluated):
                keep(now=True)
                print(table(evaluated))
                print(f"\n{file}")


def _about(args: EvalArgs, task: TaskConfig) -> dict[str, Any]:
    versions = {"aloha_kit": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return {
        "task": to_mapping(task),
        "asked_rollouts": args.rollouts,
        "seeds": [args.seed, args.seed + args.rollouts - 1],
        "eval_poses": str(args.eval_poses) if args.eval_poses else None,
        "execution": {
            "temporal_agg": args.temporal_agg,
            "delay_steps": args.delay_steps,
            "seam": args.execution.seam,
            "batch": args.at_a_time,
            "workers": args.processes,
            "threads": torch.get_num_threads(),
        },
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "platform": platform.platform()},
        "versions": {**versions, "python": platform.python_version()},
        "started": _now().isoformat(timespec="seconds"),
    }


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()
