"""Table of a sweep: settings, best validation, success of rollouts and wall time of each run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from aloha_kit.core.files import write_text
from aloha_kit.core.lang import marked, tr
from aloha_kit.core.metrics_file import read_metrics
from aloha_kit.sweep.grid import GridRun
from aloha_kit.sweep.sweep_runs import duration, SweepRuns

MARKDOWN, CSV = "table.md", "table.csv"
VALIDATIONS = ("val_deployed", "val_loss")
"""For runs whose checkpoints do not name their metric: the first that was measured. Lower is better."""
COLUMNS = (
    *(marked("run"), marked("status"), marked("steps"), marked("best validation"), marked("of")),
    *(marked("best success"), marked("wall time"), marked("error")),
)
"""Columns of each run beside its settings; `of` is the metric of the best validation."""
STATES = (marked("done"), marked("failed"), marked("interrupted"), marked("not run"))


def write_tables(runs: SweepRuns) -> str:
    """Write table.md and table.csv; returns the former, its words in the operator's language."""
    rows = [_row(runs, run) for run in runs.runs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    output = io.StringIO()
    writer = csv.DictWriter(output, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(runs.folder / CSV, output.getvalue())
    head = ["wall time" if name == "seconds" else name for name in names]
    rows = [{**row, "seconds": duration(float(row["seconds"]))} for row in rows]
    write_text(runs.folder / MARKDOWN, _table(head, [[row.get(name, "") for name in names] for row in rows]) + "\n")
    translated = [{**row, "status": tr(row["status"])} for row in rows]
    head = [tr(name) if name in COLUMNS else name for name in head]
    return _table(head, [[row.get(name, "") for name in names] for row in translated])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([_line(head), f"|{'---|' * len(head)}", *map(_line, rows)])


def _row(runs: SweepRuns, run: GridRun) -> dict[str, str]:
    result, file = runs.result(run), runs.run_folder(run) / "metrics.csv"
    metrics = read_metrics(file) if file.is_file() else []
    measured = {key for row in metrics for key in row}
    candidates = (_validation_metric(runs.run_folder(run)), *VALIDATIONS)
    selected = next((name for name in candidates if name in measured), "")
    # of a metric, the values where it was measured
    best = min((row[selected] for row in metrics if selected in row), default=None)
    success = max((row["success_rate"] for row in metrics if "success_rate" in row), default=None)
    steps = max((row["step"] for row in metrics), default=0)
    row: Mapping[str, str] = {
        "run": run.name,
        **{key: str(value) for key, value in run.settings.items()},
        "status": result.status or "not run",
        "steps": f"{steps:g}",
        "best validation": "" if best is None else f"{best:.4g}",
        "of": selected,
        "best success": "" if success is None else f"{success:.1%}",
        "seconds": f"{result.seconds:.1f}",
        "error": result.error,
    }
    return dict(row)


def _validation_metric(folder: Path) -> str:
    """Metric that a run's checkpoints are compared by; empty before the first one, and in older ones."""
    try:
        return str(json.loads((folder / "checkpoints" / "last" / "extra.json").read_bytes())["validation_metric"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
