"""Step log of a rollout, `episode_N.steps.csv` beside its episode: one line per step.

A line describes one action: the duration of its step by stage, the chunks that the action came from, the guard's
interventions, and the age of the observation that it was chosen from.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aloha_kit.core import EpisodeError
from aloha_kit.core.lang import Message

_AFTER = ("newest", "oldest", "chunks", "row", "boundary", "held", "limited", "age_ms", "stalest", "missed")


@dataclass(frozen=True)
class RecordedStep:
    """Line of a step log: one executed step.

    Attributes:
        ms: {stage: milliseconds}, `total` among them; stages that the step did not run are missing.
        newest, oldest, chunks, row, boundary: as `control.execution.ChunkProvenance`; None (False) while holding still.
        held: why the previous command was repeated; empty where it was not.
        limited: (entry, rule) of each limit that the guard applied.
        age_ms, stalest: age of the observation's oldest sample against its newest stamp, and its stream.
        missed: whether the step took longer than its period.
    """

    step: int
    ms: Mapping[str, float] = field(default_factory=dict)
    newest: int | None = None
    oldest: int | None = None
    chunks: int | None = None
    row: int | None = None
    boundary: bool = False
    held: str = ""
    limited: tuple[tuple[str, str], ...] = ()
    age_ms: float = 0.0
    stalest: str = ""
    missed: bool = False

    def cells(self, stages: Sequence[str]) -> list[str]:
        """The line, in the order of `columns(stages)`."""
        times = [f"{self.ms[stage]:.3f}" if stage in self.ms else "" for stage in stages]
        chunk = ["" if n is None else str(n) for n in (self.newest, self.oldest, self.chunks, self.row)]
        limited = " ".join(f"{entry}:{rule}" for entry, rule in self.limited)
        rest = [str(int(self.boundary)), self.held, limited, f"{self.age_ms:.3f}", self.stalest, str(int(self.missed))]
        return [str(self.step), *times, *chunk, *rest]


def steps_path(episode: Path) -> Path:
    """Path of the step log of an episode."""
    return episode.with_suffix(".steps.csv")


def columns(stages: Sequence[str]) -> list[str]:
    """Header of the log: `step`, a column `<stage>_ms` per stage, the fields of `RecordedStep`."""
    return ["step", *(f"{stage}_ms" for stage in stages), *_AFTER]


def read_steps(path: Path) -> list[RecordedStep]:
    """Read the lines of a log; a last one that a crash cut short is left out.

    Raises:
        EpisodeError: no such file, or it is not a step log; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            lines = list(csv.reader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EpisodeError("the log '{path}' cannot be read: {error}", path=path, error=error) from error
    header = ["boundary" if name == "seam" else name for name in lines[0]] if lines else []  # its name in older logs
    if header[:1] != ["step"] or header[-len(_AFTER) :] != list(_AFTER):
        raise EpisodeError(
            "'{path}' is no log of steps; its columns: {columns}",
            path=path,
            columns=", ".join(header) or Message("(none)"),
        )
    stages = [name.removesuffix("_ms") for name in header[1 : -len(_AFTER)]]
    steps = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            steps.append(_parse(line, stages))
        except ValueError as error:
            if number < len(lines):
                raise EpisodeError(
                    "'{path}' is damaged at line {number}: {error}", path=path, number=number, error=error
                ) from error
    return steps


def _parse(line: Sequence[str], stages: Sequence[str]) -> RecordedStep:
    if len(line) != 1 + len(stages) + len(_AFTER):
        raise ValueError(f"{len(line)} columns, expected {1 + len(stages) + len(_AFTER)}")
    values = dict(zip(_AFTER, line[1 + len(stages) :], strict=True))
    newest, oldest, chunks, row = (int(values[name]) if values[name] else None for name in _AFTER[:4])
    return RecordedStep(
        step=int(line[0]),
        ms={stage: float(text) for stage, text in zip(stages, line[1:], strict=False) if text},
        newest=newest,
        oldest=oldest,
        chunks=chunks,
        row=row,
        boundary=bool(int(values["boundary"])),
        held=values["held"],
        limited=tuple((entry, rule) for entry, _, rule in (word.rpartition(":") for word in values["limited"].split())),
        age_ms=float(values["age_ms"]),
        stalest=values["stalest"],
        missed=bool(int(values["missed"])),
    )
