"""What a run tells while it trains: one line, TensorBoard, metrics.csv; and the check that its loss is a number."""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from aloha_kit.core import AlohaKitError
from aloha_kit.data.batch import Batch
from aloha_kit.train.runs import COLUMNS, Columns, MetricsFile, Run
from aloha_kit.train.timing import Lap, memory_of, Timing

LOG_EVERY = 10  # steps between rows of the log; in between, losses stay on the device and nothing waits for it
PLAIN_SECONDS = 60.0  # between lines where there is no terminal to draw a bar on


class TrainingError(AlohaKitError):
    """Training went wrong in a way that more steps would not fix."""


class Progress:
    """Collects what the loop measures and shows it every few steps. A context manager around the loop."""

    def __init__(
        self, run: Run, *, first_step: int, num_steps: int, columns: Columns = COLUMNS, show: bool = True
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import; --help should not pay it

        self._run, self._selects = run, columns.selects
        self._board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=first_step + 1)
        self._metrics = MetricsFile(run.folder / "metrics.csv", after=first_step, columns=columns)
        self._num_steps = num_steps
        self._bar = tqdm(
            total=num_steps,
            initial=first_step,
            desc="Training",
            disable=not (show and sys.stderr.isatty()),
            dynamic_ncols=True,
            # without tqdm's own guess of the time left, which knows of no time limit
            bar_format="{desc} {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        self._plain = show and not sys.stderr.isatty()  # a bar in a file is one endless line
        self._told = -math.inf
        self._pending: list[tuple[int, dict[str, Tensor]]] = []
        self._lr, self._samples, self._row = 0.0, 0, {}  # type: tuple[float, int, dict[str, float]]
        self._timing, self._laps = Timing(), Lap(0, 0.0, 0.0, 0.0)
        self._shown = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._board.close()

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; measures how long the loop waits for each."""
        self._timing.ask()
        for batch in batches:
            self._timing.come()
            yield batch
            self._timing.ask()

    def add(self, step: int, samples: int, losses: Mapping[str, Tensor], norm: Tensor, lr: float) -> None:
        """Take note of a step, without waiting for the device."""
        self._pending.append((step, {**{k: v.detach() for k, v in losses.items()}, "grad_norm": norm.detach()}))
        self._timing.done(norm.device)
        self._samples += samples
        self._lr = lr
        self._bar.update()

    def due(self, step: int) -> bool:
        """Whether it is time for a row of the log."""
        return step % LOG_EVERY == 0

    def flush(self, step: int, seconds: float, limit_s: float | None = None) -> None:
        """Log the mean of the steps since the last time; `limit_s` is when the clock will end the run.

        Raises:
            TrainingError: a loss or a gradient was not finite; names the step and what to look at.
        """
        if not self._pending:
            return
        device, keys = self._pending[-1][1]["loss"].device, list(self._pending[-1][1])
        values = torch.stack([torch.stack([row[k].float() for k in keys]) for _, row in self._pending]).tolist()
        lap = self._timing.lap()  # the device is through with these steps, or there would be no values
        self._laps += lap
        for (at, _), row in zip(self._pending, values, strict=True):
            self._require_finite(at, dict(zip(keys, row, strict=True)))
        steps = len(values)
        means = {key: sum(row[i] for row in values) / steps for i, key in enumerate(keys)}
        times = {f"{name}_ms": 1e3 * getattr(lap, name) / steps for name in ("data", "step", "other")}
        memory = memory_of(device) / 1e9
        for key, value in {**means, "lr": self._lr}.items():
            self._board.add_scalar(f"train/{key}", value, step)
        for key, value in {**times, "memory_gb": memory}.items():
            self._board.add_scalar(f"time/{key}", value, step)
        self._metrics.add({"step": step, "seconds": seconds, **means, "lr": self._lr, **times})
        working = lap.data + lap.step
        # what lies between steps comes every few hundred of them: a share of the whole session
        left = (self._num_steps - step) * (working / steps + self._laps.other / self._laps.steps)
        if limit_s is not None:
            left = min(left, max(limit_s - seconds, 0.0))
        self._tell(
            step,
            f"loss {means['loss']:.4f}{self._shown}, lr {self._lr:.1e}, data {times['data_ms']:.1f} ms, "
            f"step {times['step_ms']:.0f} ms, {self._samples / max(working, 1e-9):.0f} samples/s, {memory:.1f} GB, "
            f"{tqdm.format_interval(left)} left, bottleneck: {lap.bottleneck(self._laps)}",
        )
        self._pending.clear()
        self._samples = 0

    def _tell(self, step: int, text: str) -> None:
        self._bar.set_postfix_str(text)
        if self._plain and time.monotonic() - self._told >= PLAIN_SECONDS:
            self._told = time.monotonic()
            print(f"Training {step}/{self._num_steps}: {text}", file=sys.stderr, flush=True)

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Results of a validation or an evaluation."""
        for key, value in values.items():
            self._board.add_scalar(f"judged/{key}", value, step)
        self._metrics.add({"step": step, **values})
        if self._selects in values:
            self._shown = f" (val {values[self._selects]:.4f})"
        shown = {key: value for key, value in values.items() if not key.endswith(("_first", "_last"))}
        text = ", ".join(f"{key} {value:.4f}" for key, value in shown.items())
        self._bar.write(f"step {step}: {text}")

    def pictures(self, batch: Batch) -> None:
        """Up to eight samples of each camera, as the network gets them."""
        for camera, images in batch["images"].items():
            some = images[:8].flatten(0, -4).cpu()
            pictures = some.float() / 255 if some.dtype == torch.uint8 else some
            self._board.add_images(f"camera/{camera}", pictures, 0)

    def video(self, step: int, frames: npt.NDArray[np.uint8], rate_hz: float) -> None:
        """(T, H, W, 3) frames as an animated image; TensorBoard's own video needs moviepy."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        data = _gif(frames, rate_hz)
        picture = Summary.Image(height=frames.shape[1], width=frames.shape[2], colorspace=3, encoded_image_string=data)
        board: Any = self._board
        board._get_file_writer().add_summary(Summary(value=[Summary.Value(tag="rollout", image=picture)]), step)

    def _require_finite(self, step: int, values: Mapping[str, float]) -> None:
        broken = [f"{key} {value}" for key, value in values.items() if not math.isfinite(value)]
        if not broken:
            return
        last = self._run.checkpoints / "last"
        kept = f"the checkpoint before it is {last}" if last.exists() else "no checkpoint was written before it"
        raise TrainingError(
            f"step {step}: {', '.join(broken)}; {kept}. Look at the data first (--preflight_only), "
            "then try a smaller --lr, a smaller --grad_clip, or --no_amp"
        )


def _gif(frames: npt.NDArray[np.uint8], rate_hz: float) -> bytes:
    from PIL import Image

    every = max(round(rate_hz / 10), 1)  # ten images a second are enough to judge a rollout by
    pictures = [Image.fromarray(frame) for frame in frames[::every]]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 * every / rate_hz), loop=0
    )
    return buffer.getvalue()


_LEGEND = {
    "val_loss": "validation loss",
    "val_deployed": "validation, as deployed (zero latent)",
}


def plot_losses(rows: Iterable[Mapping[str, float]], file: Path, columns: Columns = COLUMNS) -> None:
    """Training loss with its parts, validation, success, and learning rate over the steps, as an image."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        rows = list(rows)
        success = above.twinx() if any("success_rate" in row for row in rows) else above
        # of a validation these alone, since errors in raw units are of another scale
        judged = [("val_loss", "o-"), *([(columns.selects, "o--")] if columns.selects != "val_loss" else [])]
        for axis, key, label, style in (
            (above, "loss", "training loss", "-"),
            # dashed: where a loss has one part, the curves are one
            *((above, part, f"training {part}", "--") for part in columns.losses),
            *((above, name, _LEGEND.get(name, name), style) for name, style in judged),
            (success, "success_rate", "success rate", "C4s--"),
            (below, "lr", "learning rate", "-"),
        ):
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                axis.plot(*zip(*points, strict=True), style, label=label, lw=1, ms=3)
        if success is not above:
            success.set(ylim=(-0.02, 1.02), ylabel="success rate")
            success.spines["right"].set_visible(True)
        if lines := [*above.lines, *(success.lines if success is not above else [])]:
            above.legend(lines, [line.get_label() for line in lines], frameon=False)
        above.set_yscale("log")
        above.set_ylabel("loss (normalised units)")
        below.set_ylabel("learning rate")
        below.set_xlabel("step")
        figure.savefig(file, dpi=120)
