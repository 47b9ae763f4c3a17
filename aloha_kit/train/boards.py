"""Boards that show a training's curves, images and videos: TensorBoard, and Weights & Biases where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import io
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aloha_kit.core import ConfigError
from aloha_kit.core.errors import reason
from aloha_kit.core.files import write_text


class Board(Protocol):
    """Experiment board: where the measurements of a training are shown."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""

    def images(self, name: str, images: Tensor) -> None:
        """Show (N, 3, H, W) images in [0, 1] of the first step."""

    def video(self, name: str, frames: npt.NDArray[np.uint8], rate_hz: float, step: int) -> None:
        """Show the (T, H, W, 3) frames of a rollout as `rollout` or `rollout/TASK`."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Curves, images and videos in a folder that `tensorboard --logdir` shows."""

    def __init__(self, folder: Path, *, after: int) -> None:
        """Continue a folder after step `after`."""
        from torch.utils.tensorboard import SummaryWriter  # a second to import; --help should not pay it

        self._writer = SummaryWriter(str(folder), purge_step=after + 1)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def images(self, name: str, images: Tensor) -> None:
        self._writer.add_images(name, images, 0)

    def video(self, name: str, frames: npt.NDArray[np.uint8], rate_hz: float, step: int) -> None:
        """Write a video as an animated image; the board's own video needs moviepy."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        data = _gif(frames, rate_hz)
        image = Summary.Image(height=frames.shape[1], width=frames.shape[2], colorspace=3, encoded_image_string=data)
        writer: Any = self._writer
        writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def close(self) -> None:
        self._writer.close()


def require_wandb() -> None:
    """Raise `ConfigError` where Weights & Biases is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError("--wandb needs the package wandb, which is not installed: pip install wandb, or leave it out")


class WandbBoard:
    """A run of Weights & Biases; resuming a training goes on with the same one.

    Its files are in the run's folder wandb. It reads its own environment variables: WANDB_MODE=offline keeps all on
    this machine.
    """

    def __init__(self, project: str, folder: Path, values: Mapping[str, Any]) -> None:
        """Raises `ConfigError` where it cannot start: not logged in, no network.

        Args:
            folder: of the training's run; its name is the run's.
            values: all values of the training.
        """
        self._wandb: Any = importlib.import_module("wandb")
        file = folder / "wandb" / "run_id"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, secrets.token_hex(4))
        try:
            self._run = self._wandb.init(
                project=project,
                dir=str(folder),
                name=folder.name,
                id=file.read_text(encoding="utf-8").strip(),
                resume="allow",
                config=dict(values),
            )
        except Exception as error:  # of its own kinds, which depend on its version
            raise ConfigError(
                "--wandb {project} cannot start: {error}. Log in with `wandb login`, set WANDB_MODE=offline, or "
                "leave --wandb out",
                project=project,
                error=reason(error),
            ) from error

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def images(self, name: str, images: Tensor) -> None:
        pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        self._run.log({name: [self._wandb.Image(image) for image in pixels]}, step=0)

    def video(self, name: str, frames: npt.NDArray[np.uint8], rate_hz: float, step: int) -> None:
        video = self._wandb.Video(io.BytesIO(_gif(frames, rate_hz)), format="gif")
        self._run.log({name: video}, step=step)

    def close(self) -> None:
        self._run.finish()


def _gif(frames: npt.NDArray[np.uint8], rate_hz: float) -> bytes:
    from PIL import Image

    stride = max(round(rate_hz / 10), 1)  # ten images a second show a rollout well enough
    images = [Image.fromarray(frame) for frame in frames[::stride]]
    buffer = io.BytesIO()
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], duration=round(1000 * stride / rate_hz), loop=0
    )
    return buffer.getvalue()
