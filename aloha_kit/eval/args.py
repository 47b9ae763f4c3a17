"""Command line of evaluation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, ClassVar

from tyro.conf import arg, UseAppendAction

from aloha_kit.config.inference import EngineKind, InferenceSettings, Precision
from aloha_kit.config.policy_flags import PolicyFlags
from aloha_kit.control.chunk_boundary import ChunkBoundary, resolve_boundary
from aloha_kit.control.simulated_latency import Execution
from aloha_kit.core import cli
from aloha_kit.core.lang import Message


@dataclass(frozen=True, kw_only=True)
class EvalArgs(PolicyFlags):
    """Success rate of a trained policy in simulation, many rollouts at a time.

    Two checkpoints are compared on the same starts. No episodes are saved; deployment saves them. Stop with
    Ctrl-C at any time: the rollouts so far are reported.
    """

    EXAMPLE: ClassVar[str] = "--ckpt runs/sim_transfer_cube/act --task sim_transfer_cube"
    LOWEST: ClassVar[Mapping[str, float]] = {
        "num_rollouts": 1,
        "n_action_steps": 1,
        "seed": 0,
        "delay_steps": 0,
        "workers": 1,
        "batch": 1,
        "inference_batch": 1,
        "threads": 1,
        "episode_len": 1,
    }
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = (
        "ckpt",
        "task",
        "num_rollouts",
        "temporal_agg",
        "n_action_steps",
        "delay_steps",
        "seed",
        "workers",
        "batch",
        "device",
        "output",
    )

    ckpt: Annotated[UseAppendAction[tuple[Path, ...]], arg(aliases=("--ckpt_dir",))]
    """A run (its best checkpoint is taken), a checkpoint folder, LeRobot's or the published ACT's policy_best.ckpt;
    twice to compare two."""
    task: Annotated[tuple[str, ...], arg(aliases=("--task_name",), metavar="TASK [TASK ...]")]
    """Task: a name in configs/tasks or a YAML path; of several, each is evaluated with its own instruction."""
    temporal_agg: bool = False
    """Run inference at every step and average all predictions for the present one, older ones weighing more."""
    num_rollouts: int | None = None
    """Rollouts of each checkpoint; by default 200, or one a row of --eval_poses."""
    n_action_steps: Annotated[int | None, arg(aliases=("--horizon",))] = None
    """Steps executed between inferences; by default the policy's own number (8 of diffusion and flow policies, else the
    whole chunk, less what --delay_steps and --chunk_boundary set aside), or 1 with --temporal_agg."""
    delay_steps: int = 0
    """Steps from an observation to the first action of its chunk, as a slow network has them with deploy's async
    inference; the arms wait for an episode's first chunk."""
    chunk_boundary: Annotated[ChunkBoundary | None, arg(aliases=("--seam",))] = None
    """Where a chunk takes over from the one before: switch (none), or fade while both cover the steps (blend); by
    default blend with --delay_steps, else none."""
    seed: int = 100_000
    """Seed of the first rollout, later ones count up; far from those that training data is recorded with."""
    workers: int | None = None
    """Processes that simulate; the cores of the machine when not given."""
    ray: str = ""
    """Address of a Ray cluster that rolls out on its CPUs, --batch rollouts a core, in place of --workers. Its machines
    have the same checkpoints. Actions are the same to the bit with the same --threads, which are 1 here by default."""
    batch: int | None = None
    """Rollouts at a time, whose inferences run together; 8 when not given, or one a worker where there are more."""
    inference_batch: int | None = None
    """Observations that the network computes at once; by default 1 on a CPU, which gives deployment's actions to the
    bit, and --batch on a GPU. More are faster for a large network, and round otherwise."""
    threads: int | None = None
    """Threads of the network on a CPU; the cores of the machine when not given."""
    engine: EngineKind = "eager"
    """How the network runs: operation by operation, by torch.compile (with a CUDA graph on a GPU) or by OpenVINO (best
    on a CPU). Anything but eager fp32 is compared with it before anything moves. Evaluation does not measure which is
    fastest, as deployment does: the same command gives the same actions on every run."""
    precision: Precision = "fp32"
    """What the network multiplies in: fp32 as trained, or bf16, much faster where the processor supports it."""
    output: Path | None = None
    """Folder for eval.json; by default eval/TASK_TIME in the first run."""
    eval_poses: Path | None = None
    """Start poses of the objects in simulation, a row a rollout, in place of poses drawn by --seed: .npy, .json, .yaml
    or .csv with x y z qw qx qy qz of the cube, or of peg and socket (the BOX_POSE of ACT's scripts)."""
    view: Annotated[str | None, arg(metavar="[HOST:PORT]", aliases=("--onscreen_render",))] = None
    """Show the rollouts of the (first) checkpoint's first environment while they run: on this screen, or at HOST:PORT
    where `rerun` runs; NAME.rrd writes them into files."""
    episode_len: int | None = None
    """Steps of a rollout, in place of the task's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.ckpt) <= 2:
            raise ValueError(
                Message(
                    "--ckpt is given once, or twice to compare two checkpoints; given {count} times",
                    count=len(self.ckpt),
                )
            )
        if not self.task or len(set(self.task)) < len(self.task):
            given = " ".join(self.task) or Message("(none)")
            raise ValueError(Message("--task names one task or several, each once; given {given}", given=given))
        if len(self.task) > 1 and (self.instruction is not None or self.eval_poses is not None):
            given = " ".join(self.task)
            raise ValueError(
                Message("--instruction and --eval_poses are for one task, given --task {given}", given=given)
            )
        if self.ray and self.view is not None:
            raise ValueError(Message("--view shows rollouts of this machine, --ray rolls out on others; leave one out"))
        resolve_boundary(self.chunk_boundary, temporal_agg=self.temporal_agg, late=False)

    @property
    def rollouts(self) -> int:
        """Rollouts of each checkpoint."""
        return self.num_rollouts or 200

    @property
    def execution(self) -> Execution:
        """Execution of chunks: how chunks become actions."""
        boundary = resolve_boundary(self.chunk_boundary, temporal_agg=self.temporal_agg, late=self.delay_steps > 0)
        return Execution(self.temporal_agg, self.n_action_steps, boundary, self.delay_steps)

    @property
    def inference_settings(self) -> InferenceSettings:
        """Device, engine and precision of the network."""
        return InferenceSettings(self.device, self.engine, self.precision)

    @property
    def processes(self) -> int:
        """Number of processes that simulate; on Ray, of each of its tasks."""
        return 1 if self.ray else self.workers or os.cpu_count() or 1

    @property
    def at_a_time(self) -> int:
        """Rollouts at a time."""
        return self.batch or max(8, self.processes)


def parse(argv: Sequence[str] | None = None) -> EvalArgs:
    """Turn flags into values; raises `UsageError`."""
    return cast(EvalArgs, cli.parse(EvalArgs, "eval", cli.with_value(argv, "screen", "--view", "--onscreen_render")))
