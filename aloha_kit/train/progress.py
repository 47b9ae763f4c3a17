"""Progress of a training: a line with the time left, boards, metrics.csv; check that the loss is finite."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from aloha_kit.core import AlohaKitError
from aloha_kit.core.lang import marked, Message, tr
from aloha_kit.core.metrics_file import MetricsFile
from aloha_kit.data.batch import Batch
from aloha_kit.train.boards import Board, TensorBoard
from aloha_kit.train.device import memory_of
from aloha_kit.train.metrics import Columns
from aloha_kit.train.run_folder import Run
from aloha_kit.train.timing import Lap, OtherProcesses, Timing

LOG = logging.getLogger(__name__)
LOG_EVERY = 10  # steps between rows of the log; in between, losses stay on the device and nothing waits for it
PLAIN_SECONDS = 60.0  # between lines where there is no terminal to draw a bar on
ESTIMATE_SECONDS = 15.0  # from the first batch to the estimate of the whole duration
LONG_SECONDS = 86_400.0  # an estimate from which on there is a warning


class TrainingError(AlohaKitError):
    """Training failed in a way that more steps would not fix."""


class Progress:
    """Collects the loop's measurements and shows them every few steps. A context manager around the loop.

    A training that would take days is reported in its first seconds.
    """

    def __init__(
        self,
        run: Run,
        *,
        first_step: int,
        num_steps: int,
        columns: Columns,
        show: bool = True,
        limit_s: float | None = None,
        advice: str = "",
        boards: Sequence[Board] = (),
    ) -> None:
        """Open TensorBoard and metrics.csv.

        Args:
            limit_s: time that is left to the run.
            advice: for a training on a CPU that would take days.
            boards: which show what TensorBoard shows.
        """
        self._run, self._selects = run, columns.selects
        self._boards = (TensorBoard(run.folder / "tensorboard", after=first_step), *boards)
        self._metrics = MetricsFile(run.folder / "metrics.csv", columns.names, after=first_step)
        self._first_step, self._num_steps = first_step, num_steps
        self._limit_s, self._advice = limit_s, advice
        self._steps, self._began = 0, 0.0
        self._estimate_timer: threading.Timer | None = None
        self._others = OtherProcesses()
        self._bar = tqdm(
            total=num_steps,
            initial=first_step,
            desc=tr("Training"),
            disable=not (show and sys.stderr.isatty()),
            dynamic_ncols=True,
            # without tqdm's own estimate of the time left, which does not include the time limit
            bar_format="{desc} {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        self._plain = show and not sys.stderr.isatty()  # a bar in a file is one endless line
        self._logged_at = -math.inf
        self._pending: list[tuple[int, dict[str, Tensor]]] = []
        self._lr, self._samples = 0.0, 0
        self._timing, self._laps = Timing(), Lap(0, 0.0, 0.0, 0.0)
        self._validation = ""  # of the newest validation, for the line

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._estimate_timer is not None:
            self._estimate_timer.cancel()
        self._bar.close()
        for board in self._boards:
            board.close()

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches unchanged; measures how long the loop waits for each."""
        self._timing.batch_requested()
        for batch in batches:
            self._timing.batch_ready()
            if self._estimate_timer is None:
                self._began = time.monotonic()
                self._start_estimate(ESTIMATE_SECONDS)
            yield batch
            self._timing.batch_requested()

    def add(self, step: int, samples: int, losses: Mapping[str, Tensor], norm: Tensor, lr: float) -> None:
        """Take a step's losses, without waiting for the device."""
        self._pending.append((step, {**{k: v.detach() for k, v in losses.items()}, "grad_norm": norm.detach()}))
        self._timing.step_done(norm.device)
        self._steps += 1
        self._samples += samples
        self._lr = lr
        self._bar.update()

    def due(self, step: int) -> bool:
        """Whether it is time for a row of the log."""
        return step % LOG_EVERY == 0

    def flush(self, step: int, seconds: float, limit_s: float | None = None) -> None:
        """Log the mean of the steps since the last time; `limit_s` is the time limit of the run.

        Raises:
            TrainingError: a loss or a gradient was not finite; names the step and what to look at.
        """
        if not self._pending:
            return
        device, keys = self._pending[-1][1]["loss"].device, list(self._pending[-1][1])
        values = torch.stack([torch.stack([row[k].float() for k in keys]) for _, row in self._pending]).tolist()
        lap = self._timing.lap()  # the device has finished these steps, or there would be no values
        self._laps += lap
        for (at, _), row in zip(self._pending, values, strict=True):
            self._require_finite(at, dict(zip(keys, row, strict=True)))
        steps = len(values)
        means = {key: sum(row[i] for row in values) / steps for i, key in enumerate(keys)}
        times = {f"{name}_ms": 1e3 * getattr(lap, name) / steps for name in ("data", "step", "other")}
        memory = memory_of(device) / 1e9
        shown = {f"train/{key}": value for key, value in {**means, "lr": self._lr}.items()}
        shown |= {f"time/{key}": value for key, value in {**times, "memory_gb": memory}.items()}
        for board in self._boards:
            board.scalars(shown, step)
        self._metrics.add({"step": step, "seconds": seconds, **means, "lr": self._lr, **times})
        working = lap.data + lap.step
        # validations and checkpoints come every few hundred steps: their share of the whole session
        left = (self._num_steps - step) * (working / steps + self._laps.other / self._laps.steps)
        if limit_s is not None:
            left = min(left, max(limit_s - seconds, 0.0))
        self._show(
            step,
            tr(
                "loss {loss:.4f}{validation}, lr {lr:.1e}, data {data:.1f} ms, step {step:.0f} ms, "
                "{rate:.0f} samples/s, {memory:.1f} GB, {left} left, bottleneck: {bottleneck}{others}",
                loss=means["loss"],
                validation=self._validation,
                lr=self._lr,
                data=times["data_ms"],
                step=times["step_ms"],
                rate=self._samples / max(working, 1e-9),
                memory=memory,
                left=tqdm.format_interval(left),
                bottleneck=lap.bottleneck(self._laps),
                others=self._others.text(torch.get_num_threads()),
            ),
        )
        self._pending.clear()
        self._samples = 0

    def _show(self, step: int, text: str) -> None:
        self._bar.set_postfix_str(text)
        if self._plain and time.monotonic() - self._logged_at >= PLAIN_SECONDS:
            self._logged_at = time.monotonic()
            LOG.info(tr("Training {step}/{steps}: {text}", step=step, steps=self._num_steps, text=text))

    def _start_estimate(self, seconds: float) -> None:
        self._estimate_timer = threading.Timer(seconds, self._estimate)
        self._estimate_timer.daemon = True
        self._estimate_timer.start()

    def _estimate(self) -> None:
        """Warn of a training that would take days; a first step that is not done yet counts where there is advice."""
        if not self._steps and not self._advice:  # the first step on a GPU, or of a compiled network, is no measure
            self._start_estimate(1.0)
            return
        step_s, count = (time.monotonic() - self._began) / max(self._steps, 1), self._num_steps - self._first_step
        left = min(step_s * count, math.inf if self._limit_s is None else self._limit_s)
        if left >= LONG_SECONDS:
            text = marked("at {step_s:.1f} s a step, {count} steps will take {days:.1f} days{advice}")
            if not self._steps:
                text = marked("at {step_s:.1f} s a step, {count} steps will take at least {days:.1f} days{advice}")
            LOG.warning(tr(text, step_s=step_s, count=count, days=left / 86_400, advice=self._advice))

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Log the results of a validation or an evaluation."""
        for board in self._boards:
            board.scalars({f"eval/{key}": value for key, value in values.items()}, step)
        self._metrics.add({"step": step, **values})
        if self._selects in values:
            self._validation = f" (val {values[self._selects]:.4f})"
        shown = {key: value for key, value in values.items() if not key.endswith(("_first", "_last"))}
        LOG.info("step %d: %s", step, ", ".join(f"{key} {value:.4f}" for key, value in shown.items()))

    def images(self, batch: Batch) -> None:
        """Show up to eight images of each camera, as the network gets them."""
        for camera, images in batch["images"].items():
            some = images[:8].flatten(0, -4).cpu()
            scaled = some.float() / 255 if some.dtype == torch.uint8 else some
            for board in self._boards:
                board.images(f"camera/{camera}", scaled)

    def video(self, name: str, step: int, frames: npt.NDArray[np.uint8], rate_hz: float) -> None:
        """Show the (T, H, W, 3) frames of a rollout."""
        for board in self._boards:
            board.video(name, frames, rate_hz, step)

    def _require_finite(self, step: int, values: Mapping[str, float]) -> None:
        broken = [f"{key} {value}" for key, value in values.items() if not math.isfinite(value)]
        if not broken:
            return
        last = self._run.checkpoints / "last"
        saved = Message("no checkpoint was written before it")
        if last.exists():
            saved = Message("the checkpoint before it is {folder}", folder=last)
        raise TrainingError(
            "step {step}: {values}; {saved}. Look at the data first (--preflight_only), then try a smaller "
            "--lr, a smaller --grad_clip, or --no_amp",
            step=step,
            values=", ".join(broken),
            saved=saved,
        )


class NullProgress(Progress):
    """The progress of all processes but the first one: it writes no file and draws no bar."""

    def __init__(self) -> None:
        """Open nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close nothing."""

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        return iter(batches)

    def add(self, step: int, samples: int, losses: Mapping[str, Tensor], norm: Tensor, lr: float) -> None:
        """Record nothing."""

    def due(self, step: int) -> bool:
        return False

    def flush(self, step: int, seconds: float, limit_s: float | None = None) -> None:
        """Log nothing."""

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Log nothing; the first process has the same values."""

    def images(self, batch: Batch) -> None:
        """Write nothing."""
