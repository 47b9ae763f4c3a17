"""Deployment of a policy: contract, rig, guard, observers, rollouts, report."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from aloha_kit import __version__, envs
from aloha_kit.config import load, RigConfig, TaskConfig, to_mapping
from aloha_kit.config.match_checkpoint import assumed_setup, AssumedSetup, match_checkpoint, renames
from aloha_kit.config.starts import starts_by_seed
from aloha_kit.control.async_inference import AsyncInferencePolicy
from aloha_kit.control.history import with_history
from aloha_kit.control.simulated_latency import Execution
from aloha_kit.core import Contract, ContractError, Environment, Policy, UsageError, WallClock
from aloha_kit.core.cli import LOG
from aloha_kit.core.files import make_folder
from aloha_kit.core.lang import Message, tr
from aloha_kit.deploy.args import DeployArgs, ServeArgs
from aloha_kit.deploy.deployment_report import DeployedRollout, DeploymentReport
from aloha_kit.deploy.operator import COMMANDS, HELP, NAMESPACE, Operator, show, typed_lines
from aloha_kit.deploy.policy_source import executor, PolicySource, served
from aloha_kit.deploy.resized_images import resizable, with_resized_images
from aloha_kit.deploy.rollout import Runner
from aloha_kit.deploy.serve import serve
from aloha_kit.deploy.video_camera import choose_view, with_view
from aloha_kit.loop import LatencyReport, SafetyGuard, sigterm_interrupts
from aloha_kit.loop.capabilities import LiveRobot, render_on_request, require, StartPoses
from aloha_kit.media.live_view import live_view, ViewAddress
from aloha_kit.remote import RemotePolicy
from aloha_kit.storage.contract_file import given_contract


def run(args: DeployArgs | ServeArgs) -> None:
    """Deploy or serve."""
    if isinstance(args, ServeArgs):
        serve(_policy_to_serve(args), args.host, args.port, args.token)
    else:
        deploy(args)


def _policy_to_serve(args: ServeArgs) -> PolicySource:
    from aloha_kit.deploy import local_policy  # torch, which the robot's side may not have
    from aloha_kit.policies.find import find_checkpoint

    setup = AssumedSetup(
        dict.fromkeys(args.cameras or (), args.image_size or (480, 640)),
        args.rate_hz,
        sizes_from="--image_size" if args.image_size else "the default",
        named=args.cameras is not None,
        cautious=True,
        joints=given_contract(args.contract, args.rig),
    )
    path = find_checkpoint(args.ckpt)
    return local_policy.local(
        path, setup, args.inference_settings, renames(args.rename), goal=args.goal, instruction=args.instruction
    )


def deploy(args: DeployArgs) -> list[DeployedRollout]:
    """Run the rollouts; returns those that ended without an error. The report is written after each.

    On a rig the arms are parked at every ending, except after an emergency stop (see `ros.parking`).

    Raises:
        AlohaKitError: flags that do not fit, a policy and a rig that do not match, a rollout that the guard ended, a
            rig, network or policy server that fails.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the rollouts so far were saved and reported.
    """
    task, rig, robot = _configuration(args)
    starts = starts_by_seed(args.eval_poses, args.seed, args.num_rollouts)
    args = replace(args, num_rollouts=len(starts) or args.num_rollouts)
    address = ViewAddress.parse(args.view)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_interrupts())
        source, output = _source(args, task, rig, robot)
        stack.callback(source.close)
        task, rig = match_checkpoint(task, rig, source.contract, args.image_size, robot=robot)
        view, videos = choose_view(task, rig, args.video_camera, args.video, robot=robot)
        shown = with_view(task, rig, view, args.video_size) if videos and view not in task.cameras else None
        env, recorded = _connected(stack, task, rig, shown, starts, realtime=args.realtime)
        source = _fitting(source, task, rig, env.contract, resize=args.resize_images)
        live = isinstance(env, LiveRobot)
        inference = args.inference or ("async" if live else "sync")
        execution = args.execution(inference).with_default(
            source.n_action_steps, source.chunk_size, source.ensemble_weight
        )
        latency = LatencyReport(task.rate_hz, clock=env.clock if live else WallClock() if args.realtime else None)
        policy = executor(source, execution, latency, inference, task.rate_hz, args.hold_s)
        if isinstance(policy, AsyncInferencePolicy):
            stack.callback(policy.close)
        acting = with_history(policy, source.n_obs_steps, source.contract.cameras)
        source.warm_up()
        guard, operator = SafetyGuard(acting, env.limits), None
        if live:
            guard, operator = _attended(stack, env, acting, args.release)
        views = stack.enter_context(live_view(address, env, task.name))
        runner = Runner(task, env.contract, guard, policy, latency, output, view, source, operator, args.judge_s, views)
        about = _about(args, source, task, env, execution, inference)
        report = stack.enter_context(DeploymentReport(output, about, guard, latency, policy))
        # disable=None: a bar only on a terminal; elsewhere a line each rollout.
        bar = stack.enter_context(tqdm(range(args.rollouts), task.name, unit="rollout", disable=None))
        for i in bar:
            report.add(runner.run(recorded if i < videos else env, args.seed + i, video=i < videos))
            bar.set_postfix_str(report.successes)
            if bar.disable:
                LOG.info(report.progress(task.name, i + 1, args.rollouts))
            if operator and operator.quitting:
                break
    return report.rollouts


def _configuration(args: DeployArgs) -> tuple[TaskConfig, RigConfig, bool]:
    """The task, the rig, and whether that is a robot. Raises UsageError for flags that do not apply to it."""
    task = load(TaskConfig, "tasks", args.task)
    task = replace(
        task,
        episode_len=args.episode_len or task.episode_len,
        instruction=task.instruction if args.instruction is None else args.instruction,
    )
    rig = load(RigConfig, "rigs", task.rig)
    robot = envs.is_robot(rig)
    if args.eval_poses is not None and robot:
        raise UsageError("--eval_poses is for simulation; rig '{rig}' has objects that a person places", rig=rig.name)
    if args.inference == "async" and not (robot or args.realtime):
        raise UsageError("--inference async needs real time: add --realtime to a simulation in this process")
    return task, rig, robot


def _fitting(source: PolicySource, task: TaskConfig, rig: RigConfig, robot: Contract, *, resize: bool) -> PolicySource:
    """The policy on the robot's observations. Raises ContractError where it does not fit them."""
    fits = Message("rig '{rig}' in task '{task}'", rig=rig.name, task=task.name)
    if resize:
        source = with_resized_images(source, robot)
    try:
        source.contract.require(robot, mine=Message("policy {name}", name=source.name), theirs=fits)
    except ContractError as error:
        sizes = resizable(source.contract, robot)
        if not sizes:
            raise
        raise ContractError(
            "{error}\n  if images of {cameras} were resized for the training: --resize_images",
            error=error,
            cameras=", ".join(sizes),
        ) from None
    return source


def _connected(
    stack: contextlib.ExitStack,
    task: TaskConfig,
    rig: RigConfig,
    shown: tuple[TaskConfig, RigConfig] | None,
    starts: Mapping[int, npt.NDArray[np.float64]],
    *,
    realtime: bool,
) -> tuple[Any, Any]:
    """The environment of the policy, and the one of rollouts with a video: another one where `shown` adds a camera."""
    env: Any = envs.connect(task, rig, realtime=realtime)
    stack.callback(env.close)
    recorded: Any = env
    if shown is not None:
        recorded = envs.connect(*shown, realtime=realtime)
        stack.callback(recorded.close)
    for each in (env, recorded):
        if not realtime:  # in real time inference may read an image a step later
            render_on_request(each)
        if starts:
            require(each, StartPoses, "--eval_poses")
            each.starts = starts
    return env, recorded


def _source(args: DeployArgs, task: TaskConfig, rig: RigConfig, robot: bool) -> tuple[PolicySource, Path]:
    """The policy, and the output folder, which is made before anything that takes long."""
    folder = f"{task.name}_{_now():%Y%m%d-%H%M%S}"
    if args.ckpt is None:
        output = make_folder(args.output or Path("rollouts") / folder)
        source = served(_connect(args, task))
    else:
        from aloha_kit.deploy import local_policy  # torch
        from aloha_kit.policies.find import find_checkpoint, run_folder

        path, rename = find_checkpoint(args.ckpt), renames(args.rename)
        output = make_folder(args.output or run_folder(path) / "deploy" / folder)
        joints = given_contract(args.contract, args.rig)
        setup = assumed_setup(task, rig, args.cameras, args.image_size, rename, joints=joints, robot=robot)
        source = local_policy.local(
            path, setup, args.inference_settings, rename, args.seed, args.goal, args.instruction, task.instruction
        )
    if source.trained_on not in (None, task.name):
        LOG.warning(tr("trained on {trained}, deployed on {task}", trained=source.trained_on, task=task.name))
    return source, output


def _connect(args: DeployArgs, task: TaskConfig) -> RemotePolicy:
    token = args.token or os.environ.get("ALOHA_KIT_TOKEN")
    if not token:
        raise UsageError("the policy server needs its token: give --token, or set ALOHA_KIT_TOKEN")
    policy = RemotePolicy(
        str(args.remote),
        token,
        timeout_s=args.timeout_s,
        quality=args.jpeg,
        rename=renames(args.rename),
        seed=args.seed,
        instruction=task.instruction,
    )
    if args.instruction is not None and not policy.reads_instruction:
        policy.close()
        raise UsageError("{policy} reads no instruction (no text_encoder), given --instruction", policy=args.remote)
    return policy


def _attended(
    stack: contextlib.ExitStack, env: LiveRobot, policy: Policy, release: bool
) -> tuple[SafetyGuard, Operator]:
    """The guard with the robot's limits and emergency stop, under which it is parked on every way out; its operator."""
    channel = stack.enter_context(contextlib.closing(env.operator(COMMANDS, NAMESPACE)))
    show(tr(HELP, namespace=NAMESPACE))
    operator = Operator([typed_lines(), channel.poll], status=channel.status)
    return stack.enter_context(env.guarded(policy, release=release)), operator


def _about(
    args: DeployArgs,
    source: PolicySource,
    task: TaskConfig,
    env: Environment,
    execution: Execution,
    inference: Literal["sync", "async"],
) -> Mapping[str, Any]:
    about = dict(source.about)
    versions = {"aloha_kit": __version__, "numpy": np.__version__, "torch": about.pop("torch", None)}
    as_delay_allows = inference == "async" and not (execution.n_action_steps or execution.temporal_agg)
    return {
        "checkpoint": source.name,
        "trained_on": source.trained_on,
        "policy": about.pop("policy", None),
        "assumed": about.pop("assumed", None),
        "rename": renames(args.rename),
        "task": to_mapping(task),
        "execution": {
            "temporal_agg": execution.temporal_agg,
            "ensemble_weight": execution.average,
            "n_action_steps": None if as_delay_allows else execution.interval(source.chunk_size),
            "chunk_boundary": execution.chunk_boundary,
            "chunk_size": source.chunk_size,
            "inference": inference,
            "remote": args.remote,
            "realtime": args.realtime,
            **about,
        },
        "seeds": [args.seed, args.seed + args.rollouts - 1],
        "asked_rollouts": args.rollouts,
        "eval_poses": str(args.eval_poses) if args.eval_poses else None,
        "rig": env.describe(),
        "versions": {**versions, "python": platform.python_version(), "platform": platform.platform()},
        "started": _now().isoformat(timespec="seconds"),
    }


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()
