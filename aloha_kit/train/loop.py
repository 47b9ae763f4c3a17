"""The training loop: a straight line from a batch to a step, with validation and checkpoints on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from aloha_kit.config.training import TrainConfig
from aloha_kit.data.augment import Augment
from aloha_kit.data.batch import Batch, to_device
from aloha_kit.data.loader import Loader, prefetch
from aloha_kit.data.sampler import Sampler
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.train.optim import AveragedWeights, build_optimiser, lr_factor
from aloha_kit.train.progress import Progress
from aloha_kit.train.runs import Run

SAVE_SECONDS = 300.0  # `last` is never older than this, however rare validations are

Evaluator = Callable[[ChunkNetwork, int], float | None]
"""Success rate in [0, 1] of a network at a step; None if it was told to stop before it knew."""


@dataclass
class Job:
    """Everything that a `Trainer` works on."""

    config: TrainConfig
    network: ChunkNetwork  # on its device
    loader: Loader
    sampler: Sampler
    validation: Sequence[npt.NDArray[np.int64]]  # rows of each validation batch; may be empty
    run: Run
    num_steps: int
    data: Mapping[str, int | str] = field(default_factory=dict)  # what to know the episodes by when resuming
    task: str = ""  # what the episodes were recorded for; noted in every checkpoint
    evaluate: Evaluator | None = None
    stop: Callable[[], bool] = lambda: False  # asked after every step: save and leave


@dataclass
class Position:
    """How far a run has come."""

    step: int = 0  # optimiser steps done
    seconds: float = 0.0  # spent training, all sessions together
    best: float | None = None  # what `best` was chosen by, lower is better
    best_step: int = 0


class Trainer:
    """Trains until the steps, the time or somebody's patience are over.

    All its state is in `state()`: with the data's order a function of the step, a run that was stopped and resumed on
    a CPU ends with the same bits as one that was not.
    """

    def __init__(self, job: Job, progress: Progress, resumed: dict[str, Any] | None = None) -> None:
        self.job, self.config, self.network, self.progress = job, job.config, job.network, progress
        self.device = next(job.network.parameters()).device
        self.optimiser = build_optimiser(job.network, job.config)
        self.averaged = AveragedWeights(job.network, job.config.ema) if job.config.ema else None
        self.augment = Augment(seed=job.config.seed) if job.config.augment else None
        self.position = Position()
        if resumed is not None:
            self._restore(resumed)

    @property
    def deployed(self) -> ChunkNetwork:
        """The network that is validated and saved: the averaged one where there is one."""
        return self.averaged.network if self.averaged else self.network

    def fit(self) -> Position:
        """Run the loop; returns where it ended.

        Raises:
            AlohaKitError: the loss is not finite; the checkpoints are from before.
        """
        job, config, position = self.job, self.config, self.position
        began, before = time.monotonic(), position.seconds
        saved = began
        self.network.train()
        rows = job.sampler.batches(position.step, job.num_steps)
        with closing(prefetch(job.loader.batch, rows)) as batches, self.progress:
            for batch in self.progress.timed(batches):
                self._step(batch)
                position.seconds = before + time.monotonic() - began
                stopped = job.stop()
                last = position.step >= job.num_steps or self._progress() >= 1
                milestone = position.step % config.val_every == 0 or last
                if stopped or milestone or self.progress.due(position.step):
                    self.progress.flush(position.step, position.seconds, config.time_limit_s)
                if not stopped and self._judge(milestone, last):
                    self._save("best", resumable=False)
                if stopped or milestone or time.monotonic() - saved > SAVE_SECONDS:
                    self.progress.flush(position.step, position.seconds, config.time_limit_s)
                    self._save("last")
                    saved = time.monotonic()
                if config.save_every and position.step % config.save_every == 0:
                    self._save(f"step_{position.step}")
                if stopped or last:
                    break
        return position

    def _step(self, batch: Batch) -> None:
        config, position = self.config, self.position
        batch = to_device(batch, str(self.device))
        if self.augment is not None:
            batch = self.augment(batch, position.step)
        if position.step == 0:
            self.progress.pictures(batch)
        factor = lr_factor(config, position.step, self._progress())
        for group in self.optimiser.param_groups:
            group["lr"] = group["base_lr"] * factor
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.amp):
            losses = self.network.losses(batch)
        self.optimiser.zero_grad()
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.grad_clip or torch.inf)
        self.optimiser.step()
        if self.averaged:
            self.averaged.update(self.network)
        position.step += 1
        self.progress.add(position.step, len(batch["qpos"]), losses, norm, config.lr * factor)

    def _progress(self) -> float:
        """How much of the run is over, in [0, 1]: by steps, or by the clock where that is ahead."""
        limit = self.config.time_limit_s
        clock = self.position.seconds / limit if limit else 0.0
        return min(max(self.position.step / self.job.num_steps, clock), 1.0)

    def _judge(self, milestone: bool, last: bool) -> bool:
        """Validate and roll out where it is time to; says whether this is the best so far."""
        job, position = self.job, self.position
        score: float | None = None
        if milestone and job.validation:
            score = self._validate()
        if job.evaluate is not None:
            # success is what counts; the loss is known to fall on while success stays or sinks
            due = position.step % self.config.eval_every == 0 or last
            rate = self._roll_out(job.evaluate) if due else None
            score = None if rate is None else -rate
        if score is None:
            return last and position.best is None  # nothing to choose by: the end is as good as any
        if position.best is not None and score >= position.best:
            return False
        position.best, position.best_step = score, position.step
        return True

    def _validate(self) -> float:
        """Mean loss over the validation batches: with the latent the posterior gives as in training (`val_loss`), and
        with the zero latent of deployment (`val_deployed`, returned). Randomness of the training is left alone."""
        network, totals, count = self.deployed, {"val_loss": 0.0, "val_deployed": 0.0}, 0
        network.eval()
        with (
            self._own_randomness(),
            torch.no_grad(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp),
        ):
            for rows in self.job.validation:
                batch = to_device(self.job.loader.batch(rows), str(self.device))
                totals["val_loss"] += float(network.losses(batch)["loss"]) * len(rows)
                totals["val_deployed"] += float(network.losses(batch, sample_latent=False)["loss"]) * len(rows)
                count += len(rows)
        self.network.train()
        self.progress.report(self.position.step, {key: total / count for key, total in totals.items()})
        return totals["val_deployed"] / count

    def _roll_out(self, evaluate: Evaluator) -> float | None:
        self.deployed.eval()
        with self._own_randomness():
            rate = evaluate(self.deployed, self.position.step)
        self.network.train()
        if rate is not None:
            self.progress.report(self.position.step, {"success_rate": rate})
        return rate

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Inside, random generators of their own, the same ones each time: judging must not change the training."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.config.seed)
            yield

    def _save(self, name: str, *, resumable: bool = True) -> Path:
        position = self.position
        about = {"task": self.job.task, "step": position.step, "best": position.best, "best_step": position.best_step}
        return self.job.run.save(name, self.deployed, self.state() if resumable else None, about)

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs: weights, optimiser, averages, random generators, position."""
        cuda = self.device.type == "cuda"
        return {
            "position": asdict(self.position),
            "data": dict(self.job.data),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "averaged": self.averaged.network.state_dict() if self.averaged else None,
            "averaged_updates": self.averaged.updates if self.averaged else 0,
            "rng_cpu": torch.get_rng_state(),
            "rng_device": torch.cuda.get_rng_state(self.device) if cuda else None,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.position = Position(**state["position"])
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        for group, fresh in zip(
            self.optimiser.param_groups, build_optimiser(self.network, self.config).param_groups, strict=True
        ):
            group.update(base_lr=fresh["base_lr"], weight_decay=fresh["weight_decay"])  # these may be changed
        if self.averaged:
            # averaging that begins with this session starts from the weights as they are
            self.averaged.network.load_state_dict(state["averaged"] or state["network"])
            self.averaged.updates = state["averaged_updates"]
        torch.set_rng_state(state["rng_cpu"])
        if self.device.type == "cuda" and state["rng_device"] is not None:
            torch.cuda.set_rng_state(state["rng_device"], self.device)
