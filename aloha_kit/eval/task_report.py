"""Report of an evaluation by task: eval.json for programs, a table for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aloha_kit.config import TaskConfig, to_mapping
from aloha_kit.core.lang import pad, tr, width
from aloha_kit.eval import evaluation_report
from aloha_kit.eval.evaluation_report import CheckpointResult
from aloha_kit.loop import wilson_interval


@dataclass
class TaskResult:
    """One task and the rollouts of each checkpoint in it so far."""

    task: TaskConfig
    results: list[CheckpointResult] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values: the task, its checkpoints and their comparison."""
        return evaluation_report.to_json({"task": to_mapping(self.task)}, self.results)


def to_json(about: Mapping[str, Any], tasks: Sequence[TaskResult]) -> dict[str, Any]:
    """The whole report as plain values: of one task as `evaluation_report.to_json` gives it, of several by task and
    with the mean of their success rates by checkpoint."""
    if len(tasks) == 1:
        return {**about, **tasks[0].to_json()}
    mean = {label: statistics.mean(rates.values()) for label, rates in _rates(tasks).items()}
    return {**about, "tasks": {each.task.name: each.to_json() for each in tasks}, "mean_success": mean}


def table(tasks: Sequence[TaskResult]) -> str:
    """The whole report as text: each task, and of several a table by task."""
    done = [each for each in tasks if any(result.rollouts for result in each.results)]
    if len(tasks) == 1:
        return evaluation_report.table(done[0].results) if done else ""
    parts = [f"\n{each.task.name}: {each.task.instruction}{evaluation_report.table(each.results)}" for each in done]
    return "\n".join([*parts, "", *_by_task(done)])


def _by_task(tasks: Sequence[TaskResult]) -> Iterator[str]:
    """Lines of success by task, with Wilson intervals, and the mean of the tasks."""
    columns = max((width(each.task.name) for each in tasks), default=0) + 1
    for label, rates in _rates(tasks).items():
        yield tr("{label}: success held to the end, by task", label=label)
        for each in tasks:
            for result in (result for result in each.results if result.label == label and result.rollouts):
                low, high = wilson_interval(result.successes, len(result.rollouts))
                share = f"{result.successes}/{len(result.rollouts)} = {rates[each.task.name]:.1%}"
                interval = tr("95 % Wilson interval {low:.1%} to {high:.1%}", low=low, high=high)
                yield f"  {pad(each.task.name, columns)} {share:<18} {interval}"
        yield f"  {pad(tr('mean'), columns)} {statistics.mean(rates.values()):.1%}"


def _rates(tasks: Sequence[TaskResult]) -> dict[str, dict[str, float]]:
    """{label of a checkpoint: {task: success rate}} of what was rolled out."""
    rates: dict[str, dict[str, float]] = {}
    for each in tasks:
        for result in (result for result in each.results if result.rollouts):
            rates.setdefault(result.label, {})[each.task.name] = result.successes / len(result.rollouts)
    return rates
