"""The command line of evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, ClassVar

from tyro.conf import arg, UseAppendAction

from aloha_kit.config.inference import EngineKind, Precision
from aloha_kit.config.match_checkpoint import renames
from aloha_kit.control.chunk_boundary import chosen, Seam
from aloha_kit.control.simulated_latency import Execution
from aloha_kit.core import cli
from aloha_kit.core.cli import CommandArgs

LOWEST = {
    "num_rollouts": 1,
    "seed": 0,
    "delay_steps": 0,
    "workers": 1,
    "batch": 1,
    "threads": 1,
    "image_size": 1,
    "episode_len": 1,
}


@dataclass(frozen=True, kw_only=True)
class EvalArgs(CommandArgs):
    """Count how often a trained policy succeeds in simulation, many rollouts at a time.

    Two checkpoints are compared on the same starts. Nothing is kept of a rollout but how it went; to watch some,
    deploy. Stop with Ctrl-C at any time: what was done is reported.
    """

    EXAMPLE: ClassVar[str] = "--ckpt runs/sim_transfer_cube/act --task sim_transfer_cube"
    MAIN_FLAGS: ClassVar[tuple[str, ...]] = (
        "ckpt",
        "task",
        "num_rollouts",
        "temporal_agg",
        "horizon",
        "delay_steps",
        "seed",
        "workers",
        "batch",
        "device",
        "output",
    )

    ckpt: Annotated[UseAppendAction[tuple[Path, ...]], arg(aliases=("--ckpt_dir",))]
    """A run (its best checkpoint is taken), a checkpoint folder, or the published ACT's policy_best.ckpt; twice to
    compare two."""
    task: Annotated[str, arg(aliases=("--task_name",))]
    """Task: a name in configs/tasks or a YAML path."""
    temporal_agg: bool = False
    """Ask at every step and average all predictions for the present one, older ones weighing more."""
    num_rollouts: int | None = None
    """Rollouts of each checkpoint; by default 200, or one a row of --eval_poses."""
    horizon: int | None = None
    """Steps from one query to the next; by default the whole chunk, less what --delay_steps and --seam set aside, or
    1 with --temporal_agg."""
    delay_steps: int = 0
    """Steps from an observation to the first action of its chunk, as a slow network has them with deploy's async
    inference; the arms wait for an episode's first chunk."""
    seam: Seam | None = None
    """Where a chunk takes over from the one before: switch (none), or fade while both cover the steps (blend); by
    default blend with --delay_steps, else none."""
    seed: int = 100_000
    """Seed of the first rollout, later ones count up; far from those that training data is recorded with."""
    workers: int | None = None
    """Processes that simulate; the cores of the machine when not given."""
    batch: int | None = None
    """Rollouts at a time, whose queries the network answers together; 8 when not given, or one a worker where there
    are more. Rounding depends on it a little (1 is a query as in deploy), on --workers not at all."""
    threads: int | None = None
    """Threads of the network on a CPU; the cores of the machine when not given."""
    device: str | None = None
    """Where the network runs; by default cuda where there is one, else cpu."""
    engine: EngineKind = "eager"
    """How the network is run: as it is, by torch.compile (with a CUDA graph on a GPU) or by OpenVINO (best on a CPU).
    Whatever is not eager fp32 is compared with that before anything moves."""
    precision: Precision = "fp32"
    """What the network multiplies in: fp32 as trained, or bf16, quicker by far where the processor knows it."""
    output: Path | None = None
    """Folder for eval.json; by default eval/TASK_TIME in the first run."""
    image_size: Annotated[tuple[int, int] | None, arg(metavar="H W")] = None
    """Height and width of what the policy sees, where the checkpoint does not say it (published ACT)."""
    cameras: Annotated[tuple[str, ...] | None, arg(metavar="NAME ...")] = None
    """Cameras that the policy sees, in its training's order, where the checkpoint does not say it (published ACT); by
    default the task's."""
    rename: Annotated[tuple[str, ...], arg(metavar="POLICY=RIG ...")] = ()
    """Cameras that the rig names otherwise than the policy, such as top=cam_high."""
    eval_poses: Path | None = None
    """Start poses of the objects in simulation, a row a rollout, in place of poses drawn by --seed: .npy, .json, .yaml
    or .csv with x y z qw qx qy qz of the cube, or of peg and socket (the BOX_POSE of ACT's scripts)."""
    episode_len: int | None = None
    """Steps of a rollout, in place of the task's."""

    def kept(self) -> str:
        return "what was done is kept"

    def __post_init__(self) -> None:
        if not 1 <= len(self.ckpt) <= 2:
            raise ValueError(f"--ckpt is given once, or twice to compare two checkpoints; given {len(self.ckpt)} times")
        for name, lowest in LOWEST.items():
            given = getattr(self, name)
            values = given if isinstance(given, tuple) else (given,)
            if given is not None and min(values) < lowest:
                raise ValueError(f"--{name} must be at least {lowest}, given {' '.join(map(str, values))}")

        chosen(self.seam, temporal_agg=self.temporal_agg, late=False)
        renames(self.rename)

    @property
    def rollouts(self) -> int:
        """Rollouts of each checkpoint."""
        return self.num_rollouts or 200

    @property
    def execution(self) -> Execution:
        """How chunks become actions."""
        seam = chosen(self.seam, temporal_agg=self.temporal_agg, late=self.delay_steps > 0)
        return Execution(self.temporal_agg, self.horizon, seam, self.delay_steps)

    @property
    def processes(self) -> int:
        """How many processes simulate."""
        return self.workers or os.cpu_count() or 1

    @property
    def at_a_time(self) -> int:
        """How many rollouts a query is for."""
        return self.batch or max(8, self.processes)


def parse(argv: Sequence[str] | None = None) -> EvalArgs:
    """Turn flags into values; raises `UsageError`."""
    # read when torch loads: between queries its threads must sleep, for simulation needs the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return cast(EvalArgs, cli.parse(EvalArgs, "eval", argv))
