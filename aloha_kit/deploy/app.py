"""Deployment on one screen: contract, rig, guard, observers, rollouts, report."""

from __future__ import annotations

import contextlib
import datetime
import platform
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from aloha_kit import __version__, rigs
from aloha_kit.config import CameraConfig, load, RigConfig, TaskConfig, to_mapping
from aloha_kit.core import Contract, Environment, WallClock
from aloha_kit.core.files import make_folder
from aloha_kit.deploy.agent import execution, find_checkpoint, load_network, TimedAgent, trained_task
from aloha_kit.deploy.args import DeployArgs
from aloha_kit.deploy.report import Rollout, table, write_json
from aloha_kit.deploy.rollout import Runner
from aloha_kit.loop import LatencyReport, SafetyGuard, SafetyLimits, sigterm_interrupts
from aloha_kit.policies.network import ChunkNetwork


def run(args: DeployArgs) -> list[Rollout]:
    """Run the rollouts; returns those that ended in good order. The report is written after each.

    Raises:
        ConfigError: a wrong name, path or value.
        ContractError: policy and rig do not fit together; lists every difference.
        SafetyError: the guard ended a rollout.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after everything done was kept and reported.
    """
    task = load(TaskConfig, "tasks", args.task)
    task = replace(task, episode_len=args.episode_len or task.episode_len)
    rig = load(RigConfig, "rigs", task.rig)
    source = find_checkpoint(args.ckpt)
    output = make_folder(args.output or _run_folder(source) / "deploy" / f"{task.name}_{_now():%Y%m%d-%H%M%S}")
    if (trained_on := trained_task(source)) not in (None, task.name):
        print(f"warning: trained on {trained_on}, deployed on {task.name}", file=sys.stderr)
    network = load_network(source, _camera_sizes(task, rig, args.image_size), args.device)
    task, rig = _as_trained(task, rig, network.contract, args.image_size)
    view = args.video_camera or _unseen(task, rig)

    latency = LatencyReport(task.rate_hz, clock=WallClock() if args.realtime else None)
    agent = TimedAgent(network, latency)
    policy = execution(agent, temporal_agg=args.temporal_agg, horizon=args.horizon)
    rollouts: list[Rollout] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_interrupts())
        env = rigs.connect(task, rig, realtime=args.realtime)
        stack.callback(env.close)
        agent.contract.require(env.contract, mine=f"policy {source}", theirs=f"rig '{rig.name}' in task '{task.name}'")
        agent.warm_up()
        filmed = env
        if args.video and view not in task.cameras:
            filmed = rigs.connect(*_with_view(task, rig, view, args.video_size), realtime=args.realtime)
            stack.callback(filmed.close)
        guard = SafetyGuard(policy, SafetyLimits.for_contract(env.contract))
        runner = Runner(task, env.contract, guard, latency, output, rig.kind == "sim", view, str(source))
        report = _free(output / "deploy.json")
        about = {"checkpoint": str(source), "trained_on": trained_on, **_about(args, network, task, env)}
        try:
            # disable=None: a bar only on a terminal; elsewhere a line each rollout.
            bar = stack.enter_context(tqdm(range(args.num_rollouts), task.name, unit="rollout", disable=None))
            for i in bar:
                film = i < args.video
                rollouts.append(runner.run(filmed if film else env, args.seed + i, film=film))
                details = {"guard": guard.report(), "latency": latency.report()}
                write_json(report, {**about, **details}, rollouts)
                successes = f"success {sum(bool(r.success) for r in rollouts)}/{len(rollouts)}"
                bar.set_postfix_str(successes)
                if bar.disable:
                    print(f"{task.name}: rollout {i + 1}/{args.num_rollouts}, {successes}", file=sys.stderr)
        finally:
            if rollouts:
                print(table(rollouts, latency.table(), guard.report()))
                print(f"\n{report}")
    return rollouts


def _camera_sizes(task: TaskConfig, rig: RigConfig, size: tuple[int, int] | None) -> dict[str, tuple[int, int]]:
    """What the task shows, for checkpoints that do not say what they were shown."""
    cameras = {name: rig.cameras[name] for name in task.cameras if name in rig.cameras}
    return {name: size or task.image_size or (c.height, c.width) for name, c in cameras.items()}


def _as_trained(
    task: TaskConfig, rig: RigConfig, contract: Contract, size: tuple[int, int] | None
) -> tuple[TaskConfig, RigConfig]:
    """A simulated rig shows what the policy was trained on: its cameras, at their sizes.

    Only cameras that the rig has are asked for; the contract's comparison names those it has not.
    """
    names = tuple(name for name in contract.cameras if name in rig.cameras)
    cameras = {name: CameraConfig(*(size or contract.cameras[name])) for name in names}
    return replace(task, cameras=names, image_size=None), replace(rig, cameras={**rig.cameras, **cameras})


def _unseen(task: TaskConfig, rig: RigConfig) -> str:
    """A camera for people: one that the policy does not see, else one that it does."""
    others = [name for name in rig.cameras if name not in task.cameras]
    return "angle" if "angle" in others else [*others, *task.cameras][0]


def _with_view(task: TaskConfig, rig: RigConfig, view: str, size: tuple[int, int]) -> tuple[TaskConfig, RigConfig]:
    # A camera that the rig has not stays unknown, so that connecting names those there are.
    cameras = {name: CameraConfig(*size) if name == view else camera for name, camera in rig.cameras.items()}
    return replace(task, cameras=(*task.cameras, view)), replace(rig, cameras=cameras)


def _about(args: DeployArgs, network: ChunkNetwork, task: TaskConfig, env: Environment) -> Mapping[str, Any]:
    versions = {"aloha_kit": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return {
        "policy": {"kind": network.config.kind, **to_mapping(network.config)},
        "task": to_mapping(task),
        "execution": {
            "temporal_agg": args.temporal_agg,
            "horizon": args.horizon or (1 if args.temporal_agg else network.chunk_size),
            "chunk_size": network.chunk_size,
            "realtime": args.realtime,
            "device": str(next(network.parameters()).device),
        },
        "seeds": [args.seed, args.seed + args.num_rollouts - 1],
        "asked_rollouts": args.num_rollouts,
        "rig": env.describe(),
        "versions": {**versions, "python": platform.python_version(), "platform": platform.platform()},
        "started": _now().isoformat(timespec="seconds"),
    }


def _run_folder(source: Path) -> Path:
    """The run that a checkpoint belongs to; never the checkpoint's own folder, which training replaces."""
    return source.parent.parent if source.parent.name == "checkpoints" else source.parent


def _free(path: Path) -> Path:
    """`path`, or the first of `deploy_1.json`, `deploy_2.json`, … that is not there: a report is not replaced."""
    k, candidate = 0, path
    while candidate.exists():
        k += 1
        candidate = path.with_name(f"{path.stem}_{k}{path.suffix}")
    return candidate


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()
