"""The training loop: batch, step, validation, rollouts, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from aloha_kit.config.training import TrainConfig
from aloha_kit.core import ConfigError
from aloha_kit.core.prefetch import prefetch
from aloha_kit.data.batch import Batch, to_device
from aloha_kit.data.loader import Loader
from aloha_kit.data.sampler import Sampler
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.train.distributed import Distributed
from aloha_kit.train.optim import lr_factor
from aloha_kit.train.progress import Progress
from aloha_kit.train.run_folder import Position, Run
from aloha_kit.train.step import seed_of, TrainingStep

SAVE_SECONDS = 300.0  # `last` is never older than this, however rare validations are

Evaluator = Callable[[ChunkNetwork, int], Mapping[str, float] | None]
"""Results of rollouts with a network at a step, `success_rate` in [0, 1] among them; None if training was stopped
before the last rollout."""


@dataclass
class TrainingJob:
    """Everything that a `Trainer` works on."""

    config: TrainConfig
    network: ChunkNetwork  # on its device
    loader: Loader
    sampler: Sampler
    validation: Sequence[npt.NDArray[np.int64]]  # rows of each validation batch; may be empty
    run: Run
    num_steps: int
    data: Mapping[str, int | str] = field(default_factory=dict)  # the data set's fingerprint, see `describe_data`
    task: str = ""  # of the episodes; written to every checkpoint
    evaluate: Evaluator | None = None
    fetch: Callable[[int, npt.NDArray[np.int64]], None] = lambda step, rows: None  # called before rows are read
    stop: Callable[[], object] = lambda: False  # checked after every step: true saves and ends
    world: Distributed = field(default_factory=Distributed)


class Trainer:
    """Trains until the steps or the time are over, or until it is stopped.

    All its state is in `state()`: with order, augmentation and noise functions of the step, a run that was stopped and
    resumed on a CPU ends with the same bits as one that was not. Each of several processes runs the same loop; the
    first one's clock counts, and it alone writes files and runs rollouts.
    """

    def __init__(self, job: TrainingJob, progress: Progress, resumed: dict[str, Any] | None = None) -> None:
        self.job, self.config, self.network, self.progress = job, job.config, job.network, progress
        self.step = TrainingStep(job.network, job.config, job.world)
        self.position = Position()
        self.stopped = False  # by a request, before its end
        if resumed is not None:
            self.position = Position(**resumed["position"])
            try:
                self.step.restore(resumed)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise ConfigError(
                    "the training state of {folder} does not fit its network and optimiser: {error}. Resume another "
                    "checkpoint, or start a new run with another --ckpt_dir",
                    folder=job.run.folder,
                    error=error,
                ) from error

    @property
    def deployed(self) -> ChunkNetwork:
        """The network that is validated and saved: the averaged one where there is one."""
        return self.step.averaged.network if self.step.averaged else self.network

    def fit(self) -> Position:
        """Run the loop; returns the position at its end.

        Raises:
            AlohaKitError: the loss is not finite; the checkpoints are from before that.
        """
        job, config, position = self.job, self.config, self.position
        began, before = time.monotonic(), position.seconds
        saved = began
        self.network.train()
        rows = enumerate(job.sampler.batches(position.step, job.num_steps), start=position.step)
        with closing(prefetch(map(self._load, rows))) as batches, self.progress:
            for batch in self.progress.timed(batches):
                self._step(batch)
                stopped = self._stop_requested(before + time.monotonic() - began)
                last = position.step >= job.num_steps or self._progress() >= 1
                milestone = position.step % config.val_every == 0 or last
                if stopped or milestone or self.progress.due(position.step):
                    self.progress.flush(position.step, position.seconds, config.time_limit_s)
                if not stopped and self._evaluate(milestone, last):
                    self._save("best", resumable=False)
                if stopped or milestone or time.monotonic() - saved > SAVE_SECONDS:
                    self.progress.flush(position.step, position.seconds, config.time_limit_s)
                    self._save("last")
                    saved = time.monotonic()
                if config.save_every and position.step % config.save_every == 0:
                    self._save(f"step_{position.step}")
                if config.save_every_epochs and self._ended_epochs(config.save_every_epochs):
                    self._save(f"epoch_{job.sampler.epochs(position.step)}")
                if stopped or last:
                    self.stopped = stopped and not last
                    break
        return position

    def _load(self, numbered: tuple[int, npt.NDArray[np.int64]]) -> Batch:
        """Batch share of this process, by the number of the step and the rows of the whole batch."""
        job, (step, rows) = self.job, numbered
        in_pieces = job.world.size * self.config.accumulate > 1
        share = job.world.share(rows)
        job.fetch(step, share)
        return job.loader.batch(share, whole=rows if in_pieces else None, step=step)

    def _step(self, batch: Batch) -> None:
        config, position = self.config, self.position
        if position.step == 0:
            self.progress.images(next(self.step.pieces(batch, 0)))
        factor = lr_factor(config, position.step, self._progress(), self.job.sampler.epochs(position.step))
        losses, norm = self.step(batch, position.step, factor)
        position.step += 1
        self.progress.add(position.step, config.batch_size, losses, norm, config.lr * factor)

    def _ended_epochs(self, number: int) -> bool:
        """Whether the last step ended an epoch whose number, from 1, is a multiple of `number`, or passed it."""
        now, before = (self.job.sampler.epochs(self.position.step - back) // number for back in (0, 1))
        return now > before

    def _stop_requested(self, seconds: float) -> bool:
        """Whether any process was requested to stop; the first one's clock is taken over."""
        world = self.job.world
        requests, self.position.seconds = world.total(float(bool(self.job.stop())), seconds if world.first else 0.0)
        return requests > 0

    def _progress(self) -> float:
        """Share of the run that is done, in [0, 1]: by steps, or by the time limit where that is ahead."""
        limit = self.config.time_limit_s
        clock = self.position.seconds / limit if limit else 0.0
        return min(max(self.position.step / self.job.num_steps, clock), 1.0)

    def _evaluate(self, milestone: bool, last: bool) -> bool:
        """Validate and run rollouts where they are due; returns whether this is the best checkpoint so far."""
        job, position = self.job, self.position
        score: float | None = None
        if milestone and job.validation:
            score = self._validate()
        if job.evaluate is not None:
            # the loss is known to fall on while success stays or falls
            due = position.step % self.config.eval_every == 0 or last
            rate = self._roll_out(job.evaluate) if due else None
            score = None if rate is None else -rate
        if score is None:
            return last and position.best is None  # there is no score: the end is as good as any
        if position.best is not None and score >= position.best:
            return False
        position.best, position.best_step = score, position.step
        return True

    def _validate(self) -> float:
        """Report the network's metrics over the validation batches, divided among the processes.

        Returns the one that `best` is selected by.
        """
        network, world, batches = self.deployed, self.job.world, self.job.validation
        columns = network.validation_columns
        totals, weights = np.zeros(len(columns)), np.zeros(len(columns))
        network.eval()
        with torch.no_grad(), self.step.autocast():
            for number in range(world.rank, len(batches), world.size):
                batch = to_device(self.job.loader.batch(batches[number]), str(self.step.device))
                torch.manual_seed(seed_of(self.config.seed, number))  # at every validation the same
                draws = [(self.config.seed, number, row) for row in range(len(batches[number]))]
                metrics = network.validation(batch, network.generator(draws))
                count = np.array([metrics[name].weight for name in columns])
                totals += count * np.array([float(metrics[name].value) for name in columns])
                weights += count
        self.network.train()
        sums = world.total(*totals.tolist(), *weights.tolist())
        means = zip(columns, sums[: len(columns)], sums[len(columns) :], strict=True)
        found = {name: total / weight for name, total, weight in means if weight}
        self.progress.report(self.position.step, found)
        return found[network.selects]

    def _roll_out(self, evaluate: Evaluator) -> float | None:
        self.deployed.eval()
        torch.manual_seed(self.config.seed)
        found = self.job.world.from_first(lambda: evaluate(self.deployed, self.position.step))
        self.network.train()
        if found is None:
            return None
        self.progress.report(self.position.step, found)
        return found["success_rate"]

    def _save(self, name: str, *, resumable: bool = True) -> None:
        if not self.job.world.first:
            return
        position = self.position
        about = {"task": self.job.task, "step": position.step, "best": position.best, "best_step": position.best_step}
        about["validation_metric"] = self.deployed.selects  # what a sweep compares runs by
        about |= {"images": images} if (images := self.job.data.get("images")) else {}  # how images were read
        self.job.run.save(name, self.deployed, self.state() if resumable else None, about)

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs, with any number of processes."""
        return {"position": asdict(self.position), "data": dict(self.job.data), **self.step.state()}
