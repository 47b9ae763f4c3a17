"""Metrics of a run: their columns, and their curves in loss.png."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aloha_kit.config import TaskConfig
from aloha_kit.policies.network import ChunkNetwork


@dataclass(frozen=True)
class Columns:
    """Names of a network's metrics: parts of the loss, results of a validation, and which of these selects `best`.

    Attributes:
        tasks: of the rollouts, where they are several: each has a column of its own beside the means.
    """

    losses: tuple[str, ...]
    validation: tuple[str, ...]
    selects: str
    tasks: tuple[str, ...] = ()

    @classmethod
    def of(cls, network: ChunkNetwork, tasks: Sequence[TaskConfig] = ()) -> Columns:
        """The columns of a network and of the tasks of its rollouts."""
        several = tuple(task.name for task in tasks) if len(tasks) > 1 else ()
        return cls(network.loss_columns, network.validation_columns, network.selects, several)

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of metrics.csv."""
        optimiser = ("step", "seconds", "loss", *self.losses, "lr", "grad_norm", "data_ms", "step_ms")
        return (*optimiser, *self.validation, *ROLLOUT_COLUMNS, *map(success_of, self.tasks))


ROLLOUT_COLUMNS = ("success_rate", "return", "max_reward", "rollout_steps", "rollouts_s")
"""Results of rollouts while training: share that succeeded; means of the sum of rewards, of the highest reward and of
the number of steps; seconds that all of them took."""


def success_of(task: str) -> str:
    """Column of the share that succeeded in one of several tasks."""
    return f"success_rate/{task}"


WRONG_END = 8.0
"""From this ratio of errors on, the end of a chunk is reported. Policies that succeeded had up to 4, one that failed by
it 12 (train/TUNING.md)."""


def wrong_chunk_end(rows: Sequence[Mapping[str, float]]) -> tuple[str, float, float] | None:
    """Joints whose error at the last action of a chunk is the largest, in the last validation.

    Errors are compared over all joints: those of an arm that hardly moves have any ratio.

    Args:
        rows: of metrics.csv.

    Returns:
        (group, its error at the first action, at the last) where the largest error at the last action is more than
        `WRONG_END` times the largest at the first; else None.
    """
    ends = ("_first", "_last")
    found = next((row for row in reversed(rows) if any(name.endswith(ends) for name in row)), {})
    first, last = (
        {name.removeprefix("val_error_").removesuffix(end): found[name] for name in found if name.endswith(end)}
        for end in ends
    )
    group = max(last, key=last.__getitem__, default="")
    if not group or last[group] <= WRONG_END * max(first.values()):
        return None
    return group, first[group], last[group]


_LEGEND = {
    "val_loss": "validation loss",
    "val_deployed": "validation, as deployed",
}


def plot_losses(rows: Iterable[Mapping[str, float]], file: Path, columns: Columns) -> None:
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
        validated = [("val_loss", "o-"), *([(columns.selects, "o--")] if columns.selects != "val_loss" else [])]
        for axis, key, label, style in (
            (above, "loss", "training loss", "-"),
            # dashed: where a loss has one part, the curves are one
            *((above, part, f"training {part}", "--") for part in columns.losses),
            *((above, name, _LEGEND.get(name, name), style) for name, style in validated),
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
