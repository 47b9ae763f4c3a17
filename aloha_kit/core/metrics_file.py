"""The file metrics.csv of a training run: one row a logged step."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

OLD_COLUMNS = {"horizon": "rollout_steps"}
"""{name in older files: today's}"""


class MetricsFile:
    """Writer of metrics.csv; a value that was not measured at a step is empty there."""

    def __init__(self, file: Path, names: Iterable[str], *, after: int) -> None:
        """Continue the file after step `after`: rows that an interrupted run wrote beyond its checkpoint are removed.

        Args:
            names: of the columns, `step` among them; columns that exist stay, old ones under today's names.
        """
        rows = [row for row in read_metrics(file) if row["step"] <= after] if file.exists() else []
        self.names = dict.fromkeys((*names, *(key for row in rows for key in row)))
        with file.open("w", newline="", encoding="utf-8") as handle:
            csv.DictWriter(handle, self.names).writeheader()
        self._file = file
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row; unknown columns are in TensorBoard only."""
        with self._file.open("a", newline="", encoding="utf-8") as handle:
            csv.DictWriter(handle, self.names, extrasaction="ignore").writerow(
                {key: f"{value:.8g}" for key, value in row.items()}
            )


def read_metrics(file: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, values only where there are some; rows that a crash damaged are left out.

    Old columns are given under today's names.
    """
    rows = []
    with file.open(newline="", encoding="utf-8", errors="replace") as handle:
        for row in csv.DictReader(line.replace("\0", "") for line in handle):
            with suppress(TypeError, ValueError):
                rows.append({OLD_COLUMNS.get(key, key): float(value) for key, value in row.items() if value})
    return [row for row in rows if "step" in row]
