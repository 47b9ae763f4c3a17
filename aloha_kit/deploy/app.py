"""Deployment on one screen: contract, rig, guard, observers, rollouts, report."""

from __future__ import annotations

import contextlib
import datetime
import platform
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from aloha_kit import __version__, rigs
from aloha_kit.config import CameraConfig, load, RigConfig, TaskConfig, to_mapping
from aloha_kit.core import ConfigError, Contract, Environment, nearest, Policy, WallClock
from aloha_kit.core.files import make_folder
from aloha_kit.deploy import source as sources
from aloha_kit.deploy.args import DeployArgs
from aloha_kit.deploy.operator import COMMANDS, HELP, NAMESPACE, Operator, typed_lines
from aloha_kit.deploy.report import Rollout, table, write_json
from aloha_kit.deploy.rollout import Runner
from aloha_kit.deploy.source import execution, Source
from aloha_kit.loop import LatencyReport, SafetyGuard, SafetyLimits, sigterm_interrupts
from aloha_kit.policies.asynchronous import AsyncChunks


def run(args: DeployArgs) -> list[Rollout]:
    """Run the rollouts; returns those that ended in good order. The report is written after each.

    Raises:
        ConfigError: a wrong name, path or value.
        ContractError: policy and rig do not fit together; lists every difference.
        SafetyError: the guard ended a rollout, or the network failed or hung.
        RemoteError: the policy server refuses, or is not there.
        StreamError, RosError: the rig is not there, or not all of it.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after everything done was kept and reported.

    On a rig the arms are parked whichever it is.
    """
    task = load(TaskConfig, "tasks", args.task)
    task = replace(task, episode_len=args.episode_len or task.episode_len)
    rig = load(RigConfig, "rigs", task.rig)
    on_rig = rig.kind == "ros"
    inference = _inference(args, on_rig)
    rollouts: list[Rollout] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_interrupts())
        source, output = _source(args, task, rig)
        stack.callback(source.close)
        if source.trained_on not in (None, task.name):
            print(f"warning: trained on {source.trained_on}, deployed on {task.name}", file=sys.stderr)
        task, rig = _as_trained(task, rig, source.contract, args.image_size)
        view, films = _view(args, task, rig)
        env: Any = rigs.connect(task, rig, realtime=args.realtime)
        stack.callback(env.close)
        fits = f"rig '{rig.name}' in task '{task.name}'"
        source.contract.require(env.contract, mine=f"policy {source.name}", theirs=fits)
        latency = LatencyReport(task.rate_hz, clock=env.clock if on_rig else WallClock() if args.realtime else None)
        chunks = source.timed(latency.beside if inference == "async" else latency.measure)
        policy = execution(
            chunks,
            source.chunk_size,
            temporal_agg=args.temporal_agg,
            horizon=args.horizon,
            inference=inference,
            rate_hz=task.rate_hz,
            hold_s=args.hold_s,
        )
        if isinstance(policy, AsyncChunks):
            stack.callback(policy.close)
        source.warm_up()
        filmed = env
        if films and view not in task.cameras:
            filmed = rigs.connect(*_with_view(task, rig, view, args.video_size), realtime=args.realtime)
            stack.callback(filmed.close)
        guard, operator = _on_rig(stack, env, policy, args.release) if on_rig else (_guard(env, policy), None)
        sim = env.simulated if on_rig else True
        runner = Runner(
            task, env.contract, guard, latency, output, sim, view, source.name, operator, judge_s=args.judge_s
        )
        report = _free(output / "deploy.json")
        about = {
            "checkpoint": source.name,
            "trained_on": source.trained_on,
            **_about(args, source, task, env, inference),
        }
        try:
            # disable=None: a bar only on a terminal; elsewhere a line each rollout.
            bar = stack.enter_context(tqdm(range(args.num_rollouts), task.name, unit="rollout", disable=None))
            for i in bar:
                film = i < films
                rollout = runner.run(filmed if film else env, args.seed + i, film=film)
                rollouts += [rollout] if rollout.steps else []  # an operator may say quit before the first step
                write_json(report, {**about, **_details(guard, latency, policy)}, rollouts)
                successes = _successes(rollouts)
                bar.set_postfix_str(successes)
                if bar.disable:
                    print(f"{task.name}: rollout {i + 1}/{args.num_rollouts}, {successes}", file=sys.stderr)
                if operator and operator.quitting:
                    break
        finally:
            if rollouts:
                print(table(rollouts, latency.table(), _details(guard, latency, policy)))
                print(f"\n{report}")
    return rollouts


def _inference(args: DeployArgs, on_rig: bool) -> Literal["sync", "async"]:
    inference = args.inference or ("async" if on_rig else "sync")
    if inference == "async" and not (on_rig or args.realtime):
        raise ConfigError("--inference async needs time that passes: add --realtime to a simulation in this process")
    return inference


def _source(args: DeployArgs, task: TaskConfig, rig: RigConfig) -> tuple[Source, Path]:
    """The policy, and the folder for what comes of it, which is made before anything long."""
    folder = f"{task.name}_{_now():%Y%m%d-%H%M%S}"
    if args.ckpt is None:
        output = make_folder(args.output or Path("rollouts") / folder)
        return sources.remote(args), output
    from aloha_kit.deploy import agent  # torch

    path = agent.find_checkpoint(args.ckpt)
    output = make_folder(args.output or _run_folder(path) / "deploy" / folder)
    return agent.local(path, _camera_sizes(task, rig, args.image_size), args.device), output


def _guard(env: Environment, policy: Policy) -> SafetyGuard:
    return SafetyGuard(policy, SafetyLimits.for_contract(env.contract))


def _on_rig(stack: contextlib.ExitStack, env: Any, policy: Policy, release: bool) -> tuple[SafetyGuard, Operator]:
    """The guard with the rig's limits and emergency stop, under which the arms are parked on every way out."""
    from aloha_kit.ros.operator import RosOperator
    from aloha_kit.ros.safety import guarded

    by_topic = stack.enter_context(contextlib.closing(RosOperator(COMMANDS, NAMESPACE)))
    print(HELP, file=sys.stderr)
    operator = Operator([typed_lines(), by_topic.poll], tell=by_topic.tell)
    return stack.enter_context(guarded(env, policy, release=release)), operator


def _details(guard: SafetyGuard, latency: LatencyReport, policy: Policy) -> dict[str, Any]:
    inference = {"inference": policy.report()} if isinstance(policy, AsyncChunks) else {}
    return {"guard": guard.report(), "latency": latency.report(), **inference}


def _successes(rollouts: list[Rollout]) -> str:
    judged = [r.success for r in rollouts if r.success is not None]
    unjudged = f", {len(rollouts) - len(judged)} not judged" if len(judged) < len(rollouts) else ""
    return f"success {sum(judged)}/{len(judged)}{unjudged}"


def _camera_sizes(task: TaskConfig, rig: RigConfig, size: tuple[int, int] | None) -> dict[str, tuple[int, int]]:
    """What the task shows, for checkpoints that do not say what they were shown."""
    cameras = {name: rig.cameras[name] for name in task.cameras if name in rig.cameras}
    return {name: size or task.image_size or (c.height, c.width) for name, c in cameras.items()}


def _as_trained(
    task: TaskConfig, rig: RigConfig, contract: Contract, size: tuple[int, int] | None
) -> tuple[TaskConfig, RigConfig]:
    """A simulated rig shows what the policy was trained on: its cameras, at their sizes.

    Only cameras that the rig has are asked for; the contract's comparison names those it has not. Real cameras
    are as large as they are, and a rig that is simulated behind ROS as it was started.
    """
    names = tuple(name for name in contract.cameras if name in rig.cameras)
    if rig.kind == "ros":
        return replace(task, cameras=names, image_size=size or task.image_size or _common_size(contract)), rig
    cameras = {name: CameraConfig(*(size or contract.cameras[name])) for name in names}
    return replace(task, cameras=names, image_size=None), replace(rig, cameras={**rig.cameras, **cameras})


def _common_size(contract: Contract) -> tuple[int, int] | None:
    sizes = set(contract.cameras.values())
    return sizes.pop() if len(sizes) == 1 else None


def _view(args: DeployArgs, task: TaskConfig, rig: RigConfig) -> tuple[str, int]:
    """The camera for people, and how many rollouts are filmed.

    In simulation a camera that the policy does not see, else one that it does. A real camera is on the wires
    or it is not, and drawing costs time that a control loop has not: there only what the policy sees, on request.
    """
    others = [name for name in rig.cameras if name not in task.cameras]
    if rig.kind == "ros":
        if args.video_camera and args.video_camera not in task.cameras:
            raise ConfigError(
                f"on a rig a video shows what the policy sees, not '{args.video_camera}'."
                f" {nearest(args.video_camera, task.cameras)}"
            )
        return args.video_camera or next(iter(task.cameras), ""), args.video or 0
    view = args.video_camera or ("angle" if "angle" in others else [*others, *task.cameras][0])
    return view, 3 if args.video is None else args.video


def _with_view(task: TaskConfig, rig: RigConfig, view: str, size: tuple[int, int]) -> tuple[TaskConfig, RigConfig]:
    # A camera that the rig has not stays unknown, so that connecting names those there are.
    cameras = {name: CameraConfig(*size) if name == view else camera for name, camera in rig.cameras.items()}
    return replace(task, cameras=(*task.cameras, view)), replace(rig, cameras=cameras)


def _about(args: DeployArgs, source: Source, task: TaskConfig, env: Environment, inference: str) -> Mapping[str, Any]:
    about = dict(source.about)
    versions = {"aloha_kit": __version__, "numpy": np.__version__, "torch": about.pop("torch", None)}
    every = 1 if args.temporal_agg else source.chunk_size if inference == "sync" else None  # None: as its delay allows
    return {
        "policy": about.pop("policy", None),
        "task": to_mapping(task),
        "execution": {
            "temporal_agg": args.temporal_agg,
            "horizon": args.horizon or every,
            "chunk_size": source.chunk_size,
            "inference": inference,
            "remote": args.remote,
            "realtime": args.realtime,
            **about,
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
