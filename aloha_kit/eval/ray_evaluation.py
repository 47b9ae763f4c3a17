"""Evaluation on a Ray cluster: blocks of seeds, each rolled out by one core as this machine would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from aloha_kit.core.lang import Message
from aloha_kit.core.parallel import map_unordered, WorkError, Workers
from aloha_kit.eval.checkpoint_evaluator import CheckpointEvaluator, EvaluationSettings
from aloha_kit.eval.evaluation_report import CheckpointResult
from aloha_kit.eval.pool import EvaluationError
from aloha_kit.eval.task_report import TaskResult


@dataclass(frozen=True)
class SeedBlock:
    """Seeds of one checkpoint in one task: what a core works on at a time.

    Attributes:
        task, checkpoint: numbers, from 0.
    """

    task: int
    checkpoint: int
    seeds: Sequence[int]

    def __str__(self) -> str:
        return Message("seeds {first} to {last}", first=self.seeds[0], last=self.seeds[-1])


@dataclass(frozen=True)
class BlockEvaluation:
    """Rolls out a block of seeds; sent to other machines.

    Attributes:
        settings: of each task.
        threads: of the network.
    """

    sources: Sequence[Path]
    settings: Sequence[EvaluationSettings]
    threads: int

    def __call__(self, block: SeedBlock) -> CheckpointResult:
        torch.set_num_threads(self.threads)
        settings = replace(self.settings[block.task], seeds=block.seeds)
        evaluator = CheckpointEvaluator(self.sources[block.checkpoint], settings)
        result = CheckpointResult("AB"[block.checkpoint], evaluator.about())
        evaluator.evaluate(result, lambda: None)
        return result

    def blocks(self) -> Iterator[SeedBlock]:
        """All seeds of every task and checkpoint."""
        for task, settings in enumerate(self.settings):
            for checkpoint in range(len(self.sources)):
                for first in range(0, len(settings.seeds), settings.at_a_time):
                    yield SeedBlock(task, checkpoint, settings.seeds[first : first + settings.at_a_time])


def evaluate_on_ray(
    work: BlockEvaluation, address: str, tasks: Sequence[TaskResult], after_each: Callable[[], None]
) -> None:
    """Roll out every seed of every checkpoint in every task, adding to `tasks`.

    Raises:
        ConfigError: Ray is not installed, or not at this address.
        EvaluationError: a block failed, or its process died; what was done stays.
    """
    wanted = sum(len(block.seeds) for block in work.blocks())
    try:
        with tqdm(total=wanted, desc="Ray", unit="rollout", disable=None) as bar:
            for block, part in map_unordered(work, work.blocks(), Workers(ray=address)):
                _result(tasks[block.task], part.label).merge(part)
                after_each()
                bar.update(len(block.seeds))
    except WorkError as error:
        raise EvaluationError(*error.args) from error


def _result(task: TaskResult, label: str) -> CheckpointResult:
    """The result of a checkpoint, put where it belongs at its first block."""
    for result in task.results:
        if result.label == label:
            return result
    task.results.append(CheckpointResult(label, {}))
    task.results.sort(key=lambda result: result.label)
    return _result(task, label)
