"""The command line of deployment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from aloha_kit.core import ConfigError

LOWEST = {"num_rollouts": 1, "seed": 0, "video": 0, "video_size": 1, "image_size": 1, "episode_len": 1}


@dataclass(frozen=True, kw_only=True)
class DeployArgs:
    """Let a trained policy act, keep what happens as episodes, and say how well it did.

    Stop with Ctrl-C at any time: the rollouts so far are kept and reported.
    """

    ckpt: Annotated[Path, arg(aliases=("--ckpt_dir",))]
    """A run (its best checkpoint is taken), a checkpoint folder, or the published ACT's policy_best.ckpt."""
    task: Annotated[str, arg(aliases=("--task_name",))]
    """Task: a name in configs/tasks or a YAML path."""
    temporal_agg: bool = False
    """Ask at every step and average all predictions for the present one, older ones weighing more."""
    num_rollouts: int = 50
    """Episodes to run."""
    horizon: int | None = None
    """Steps from one query to the next; by default the whole chunk, or 1 with --temporal_agg."""
    seed: int = 100_000
    """Seed of the first rollout, later ones count up; far from those that training data is recorded with."""
    output: Path | None = None
    """Folder for episodes, videos and deploy.json; by default deploy/TASK_TIME in the run."""
    device: str | None = None
    """Where the network runs; by default cuda where there is one, else cpu."""
    video: int = 3
    """Write an MP4 of the first so many rollouts."""
    video_camera: str | None = None
    """Camera for the video; by default one that the policy does not see (angle, where there is one)."""
    video_size: Annotated[tuple[int, int], arg(metavar="H W")] = (480, 640)
    """Height and width of that camera's picture."""
    image_size: Annotated[tuple[int, int] | None, arg(metavar="H W")] = None
    """Height and width of what the policy sees, where the checkpoint does not say it (published ACT)."""
    episode_len: int | None = None
    """Steps of a rollout, in place of the task's."""
    realtime: bool = False
    """Pace a simulated rig at the task's rate instead of as fast as it computes."""

    def __post_init__(self) -> None:
        for name, lowest in LOWEST.items():
            given = getattr(self, name)
            values = given if isinstance(given, tuple) else (given,)
            if given is not None and min(values) < lowest:
                raise ConfigError(f"--{name} must be at least {lowest}, given {' '.join(map(str, values))}")
