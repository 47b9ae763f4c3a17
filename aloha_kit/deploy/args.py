"""Command lines of deployment and of the policy server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast, ClassVar, Literal

from tyro.conf import arg, OmitSubcommandPrefixes, subcommand

from aloha_kit.config.inference import EngineKind, InferenceSettings, Precision
from aloha_kit.config.policy_flags import PolicyFlags
from aloha_kit.control.chunk_boundary import ChunkBoundary, resolve_boundary
from aloha_kit.control.simulated_latency import Execution
from aloha_kit.core import cli
from aloha_kit.core.lang import Message


@dataclass(frozen=True, kw_only=True)
class NetworkFlags(PolicyFlags):
    """Flags of a network that runs on this machine."""

    engine: EngineKind | None = None
    """How the network runs: operation by operation (eager, as trained), by torch.compile (with a CUDA graph on a GPU)
    or by OpenVINO. By default on a CPU the one that answers soonest, measured at the start, on a GPU eager. Anything
    but eager fp32 is compared with it before anything moves."""
    precision: Precision | None = None
    """What the network multiplies in: fp32 as trained, or bf16, much faster where the processor supports it. By default
    fp32, and without --engine also bf16 where it differs by at most 0.03 standard deviations."""

    @property
    def inference_settings(self) -> InferenceSettings:
        """Device, engine and precision of the network on this machine."""
        return InferenceSettings(self.device, self.engine, self.precision)


@dataclass(frozen=True, kw_only=True)
class DeployArgs(NetworkFlags):
    """Run a trained policy, save its rollouts as episodes and report their success.

    Stop with Ctrl-C at any time: the rollouts so far are saved and reported, arms on a rig are parked.
    """

    EXAMPLE: ClassVar[str] = "--ckpt runs/sim_transfer_cube/act --task sim_transfer_cube --num_rollouts 10"
    LOWEST: ClassVar[Mapping[str, float]] = {
        "num_rollouts": 1,
        "n_action_steps": 1,
        "seed": 0,
        "video": 0,
        "video_size": 1,
        "episode_len": 1,
        "timeout_s": 0,
        "hold_s": 0,
        "judge_s": 0,
    }
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = (
        "ckpt",
        "remote",
        "task",
        "num_rollouts",
        "temporal_agg",
        "n_action_steps",
        "inference",
        "engine",
        "output",
        "video",
        "device",
        "lang",
    )

    ckpt: Annotated[Path | None, arg(aliases=("--ckpt_dir",))] = None
    """A run (its best checkpoint is taken), a checkpoint folder, LeRobot's or the published ACT's policy_best.ckpt."""
    remote: str | None = None
    """In place of --ckpt, HOST:PORT of a policy server; this machine then needs no torch."""
    task: Annotated[str, arg(aliases=("--task_name",))]
    """Task: a name in configs/tasks or a YAML path."""
    temporal_agg: bool = False
    """Run inference at every step and average all predictions for the present one, older ones weighing more."""
    num_rollouts: int | None = None
    """Episodes to run; by default 50, or one a row of --eval_poses."""
    n_action_steps: Annotated[int | None, arg(aliases=("--horizon",))] = None
    """Steps executed between inferences; by default the policy's own number (8 of diffusion and flow policies, else the
    whole chunk, less what async inference and --chunk_boundary set aside), or 1 with --temporal_agg."""
    chunk_boundary: Annotated[ChunkBoundary | None, arg(aliases=("--seam",))] = None
    """Where a chunk takes over from the one before: switch (none), or fade while both cover the steps (blend); by
    default blend with async inference, else none."""
    inference: Literal["sync", "async"] | None = None
    """Run inference in the control loop, or in a thread beside it, so that a slow network makes the arms hold still and
    not stall; by default sync in simulation, async on a rig."""
    hold_s: float = 2.0
    """Longest time to hold still for want of a chunk (async) before the rollout is ended."""
    seed: int = 100_000
    """Seed of the first rollout, later ones count up; far from those that training data is recorded with."""
    output: Path | None = None
    """Folder for episodes, videos and deploy.json; by default deploy/TASK_TIME in the run."""
    video: int | None = None
    """Write an MP4 of the first so many rollouts; by default 3 in simulation, none on a rig (replay draws them)."""
    video_camera: str | None = None
    """Camera for the video; in simulation by default one that the policy does not read (angle, where there is one)."""
    video_size: Annotated[tuple[int, int], arg(metavar="H W")] = (480, 640)
    """Height and width of that camera's image."""
    eval_poses: Path | None = None
    """Start poses of the objects in simulation, a row a rollout, in place of poses drawn by --seed: .npy, .json, .yaml
    or .csv with x y z qw qx qy qz of the cube, or of peg and socket (the BOX_POSE of ACT's scripts)."""
    episode_len: int | None = None
    """Steps of a rollout, in place of the task's."""
    realtime: bool = False
    """Pace a simulated rig at the task's rate instead of as fast as it computes."""
    resize_images: bool = False
    """Robot: resize its images to those that the policy reads, as episode resize did with its episodes. Only larger
    images of the same proportions are resized."""
    token: str | None = None
    """Token of the policy server; by default $ALOHA_KIT_TOKEN, which other users of this machine cannot read."""
    timeout_s: float = 1.0
    """How long one answer of the policy server may take before the request is repeated."""
    jpeg: int | None = None
    """Quality of JPEGs for the policy server, made of images that came raw; by default they travel raw."""
    judge_s: float = 60.0
    """How long to wait for the operator's judgement of a rollout where nothing measures success; 0 does not wait."""
    view: Annotated[str | None, arg(metavar="[HOST:PORT]", aliases=("--onscreen_render",))] = None
    """Show cameras, joints, limits and skew while it runs: on this screen, or at HOST:PORT where `rerun` runs; NAME.rrd
    writes them into files."""
    release: bool = False
    """Switch off the arms' torque at the end, once they are parked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.ckpt is None) == (self.remote is None):
            raise ValueError(Message("give either --ckpt RUN, to run the network here, or --remote HOST:PORT"))
        if self.remote is not None and (self.engine or "eager", self.precision or "fp32") != ("eager", "fp32"):
            raise ValueError(
                Message("--engine and --precision are for where the network runs: give them to the policy server")
            )
        resolve_boundary(self.chunk_boundary, temporal_agg=self.temporal_agg, late=False)
        if self.jpeg is not None and not 1 <= self.jpeg <= 100:
            raise ValueError(Message("--jpeg must be 1 to 100, given {jpeg}", jpeg=self.jpeg))
        if self.remote is not None and self.cameras is not None:
            raise ValueError(Message("--cameras is for where the network runs: give it to the policy server"))
        if self.remote is not None and (self.rig or self.contract):
            raise ValueError(
                Message("--rig and --contract are for where the network runs: give them to the policy server")
            )
        if self.remote is not None and self.goal is not None:
            raise ValueError(Message("--goal is for where the network runs: give it to the policy server"))

    @property
    def rollouts(self) -> int:
        """Number of episodes to run."""
        return self.num_rollouts or 50

    def execution(self, inference: Literal["sync", "async"]) -> Execution:
        """Execution of chunks: how chunks become actions."""
        late = inference == "async"
        boundary = resolve_boundary(self.chunk_boundary, temporal_agg=self.temporal_agg, late=late)
        return Execution(self.temporal_agg, self.n_action_steps, boundary)


@dataclass(frozen=True, kw_only=True)
class ServeArgs(NetworkFlags):
    """Serve a policy to a robot on another machine, which runs `python -m aloha_kit.deploy --remote HOST:PORT …`.

    What travels is not encrypted: between networks, use a tunnel (ssh -L 8000:localhost:8000).
    """

    EXAMPLE: ClassVar[str] = "--ckpt runs/aloha_transfer_cube/act --host 0.0.0.0"
    LOWEST: ClassVar[Mapping[str, float]] = {"port": 0}
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = ("host", "port", "token", "engine", "instruction", "rig")

    ckpt: Annotated[Path, arg(aliases=("--ckpt_dir",))]
    """A run (its best checkpoint is taken), a checkpoint folder, LeRobot's or the published ACT's policy_best.ckpt."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every network that this machine is in."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    token: str | None = field(default_factory=lambda: os.environ.get("ALOHA_KIT_TOKEN"))
    """Token that robots must send; by default $ALOHA_KIT_TOKEN, else a new one that is printed."""
    cameras: Annotated[tuple[str, ...] | None, arg(metavar="NAME ...")] = None
    """Cameras that the policy reads, in its training's order, where the checkpoint lacks them (published ACT)."""
    rate_hz: float = 50.0
    """Steps a second, where the checkpoint lacks it (published ACT)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rate_hz <= 1000:
            raise ValueError(
                Message("--rate_hz must be more than 0 and at most 1000, given {rate_hz}", rate_hz=self.rate_hz)
            )


Command = Annotated[DeployArgs, subcommand("run")] | Annotated[ServeArgs, subcommand("serve")]


def parse(argv: Sequence[str] | None = None) -> DeployArgs | ServeArgs:
    """Turn flags into values: those of `run`, where no subcommand is given, or of `serve`; raises `UsageError`."""
    words = cli.with_value(argv, "screen", "--view", "--onscreen_render")
    command = cli.parse(Command, "deploy", words, usual="run", config=(OmitSubcommandPrefixes,))
    return cast(DeployArgs | ServeArgs, command)
