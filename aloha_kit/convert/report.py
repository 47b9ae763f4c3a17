"""Report of a conversion: what was carried, what the target cannot hold, SHA-256 of every array and image stream."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aloha_kit.core import plural
from aloha_kit.core.exporter import ExportRecord
from aloha_kit.core.features import IMAGES
from aloha_kit.core.files import write_json
from aloha_kit.core.lang import marked, tr
from aloha_kit.core.versions import package_version

REPORT, EPISODES = "conversion.json", "conversion_episodes.jsonl"


def write_report(
    folder: Path, plan: Mapping[str, Any], records: Iterable[ExportRecord], damaged: Mapping[int, str]
) -> dict[str, Any]:
    """Write `conversion.json` and, with a line for each episode, `conversion_episodes.jsonl`; returns the former.

    Args:
        plan: what was converted, from which format to which, with which options.
        damaged: {number: reason} of the episodes that were left out.
    """
    summary = ConversionSummary()
    with (folder / EPISODES).open("w", encoding="utf-8") as lines:
        for record in records:
            summary.add(record)
            lines.write(json.dumps(record.to_mapping()) + "\n")
    report = {
        "software": f"aloha_kit {package_version()}",
        "plan": dict(plan),
        **dataclasses.asdict(summary),
        "damaged": {str(number): why for number, why in damaged.items()},
    }
    write_json(folder / REPORT, report)
    return report


@dataclass
class ConversionSummary:
    """Totals over the episodes; `carried`, `lost` and `changed` are {what: in how many episodes}, `lowest_psnr_db` the
    PSNR of each camera's worst episode."""

    episodes: int = 0
    steps: int = 0
    carried: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    lowest_psnr_db: dict[str, float] = field(default_factory=dict)

    def add(self, record: ExportRecord) -> None:
        """Count an episode."""
        self.episodes += 1
        self.steps += record.steps
        images = [f"{IMAGES}{camera}" for camera in record.images]
        for totals, names in (
            (self.carried, [*record.arrays, *images, *record.attributes]),
            (self.lost, record.lost),
            (self.changed, record.notes),
        ):
            for name in dict.fromkeys(names):
                totals[name] = totals.get(name, 0) + 1
        for camera, entry in record.images.items():
            if "psnr_db" in entry:
                self.lowest_psnr_db[camera] = min(entry["psnr_db"], self.lowest_psnr_db.get(camera, 100.0))


def print_report(report: Mapping[str, Any], target: Path, *, as_json: bool = False) -> None:
    """Print the report, as text or as JSON."""
    if as_json:
        print(json.dumps(report, indent=2))
        return
    count = report["episodes"]
    print(
        tr(
            "{target}: {episodes}, {steps}, format {format}",
            target=target,
            episodes=plural(count, "episode"),
            steps=plural(report["steps"], "step"),
            format=report["plan"]["format"],
        )
    )
    for heading, key in (
        (marked("carried"), "carried"),
        (marked("not carried"), "lost"),
        (marked("changed"), "changed"),
    ):
        lines = [
            name if n == count else tr("{name} (in {n} of {count})", name=name, n=n, count=count)
            for name, n in report[key].items()
        ]
        if lines or key != "changed":
            listed = ("; " if key == "changed" else ", ").join(lines) or tr("(nothing)")
            print(tr("{heading}: {listed}", heading=tr(heading), listed=listed))
    if quality := report["lowest_psnr_db"]:
        listed = ", ".join(f"{camera} {db:.1f} dB" for camera, db in quality.items())
        print(tr("lowest PSNR of what was encoded anew: {listed}", listed=listed))
    if report["damaged"]:
        print(tr("left out as damaged: episodes {names}", names=", ".join(report["damaged"])))
    print(tr("SHA-256 of every array and image stream: {file}", file=target / EPISODES))
