"""The report page: one self-contained HTML text from a folder's results.

It shows what the other applications wrote and computes nothing anew, so a number here is the number that they wrote.
A stage that has not run is left out.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import html
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from aloha_kit import __version__
from aloha_kit.config import yaml_file
from aloha_kit.core import ConfigError, EpisodeError, plural
from aloha_kit.core.errors import command
from aloha_kit.core.files import names_in
from aloha_kit.core.lang import Message
from aloha_kit.core.machine import commit, cpu_name, memory_bytes
from aloha_kit.storage import Episode, list_episodes

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1d2733}
h1{font-size:1.7rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #d5dbe3}
.big{font-size:2.4rem;font-weight:650} .note{color:#5c6b7c;font-size:.92rem}
table{border-collapse:collapse} td,th{padding:.15rem .9rem .15rem 0;text-align:left;font-variant-numeric:tabular-nums}
video,img{max-width:100%;border-radius:6px} code{background:#eef1f5;padding:.1rem .3rem;border-radius:3px}
.row{display:grid;grid-template-columns:1fr 1fr;gap:.6rem} .row video{width:100%} .row>:first-child{grid-column:1/-1}
"""


def build(folder: Path) -> str:
    """The page of a folder with some of `episodes/`, `policy/`, `evaluation/`, `rollouts/`, `replay/` and `stages.csv`.

    Raises:
        ConfigError: the folder holds none of them, or a file of them is missing or damaged; names it.
    """
    sections = [
        _result(folder, _seeds(folder / "episodes")),
        _stages(folder / "stages.csv"),
        _demonstrations(folder),
        _training(folder / "policy"),
        _next(folder),
    ]
    if not any(sections):
        there = ", ".join(names_in(folder))
        raise ConfigError(
            "'{folder}' holds no results; expected some of episodes/, policy/, evaluation/, rollouts/, replay/ or "
            "stages.csv, found: {there}",
            folder=folder,
            there=there or Message("nothing"),
        )
    body = "\n".join(section for section in sections if section)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>aloha_kit: {html.escape(folder.name)}</title><style>{STYLE}</style>"
        f"<h1>From demonstrations to a policy</h1><p class=note>{html.escape(_machine())}</p>{body}</html>\n"
    )


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn the errors of a damaged file into a `ConfigError` that names it."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError("'{file}' is missing or damaged: {why}", file=file, why=why) from error


def _machine() -> str:
    """Software and machine that write the page."""
    at = commit()
    return (
        f"Written by aloha_kit {__version__}{f', commit {at}' if at else ''}, on {cpu_name()}, "
        f"{plural(os.cpu_count() or 1, 'core')}, {memory_bytes() / 2**30:.0f} GiB of memory, {date.today()}."
    )


def _seeds(folder: Path) -> set[int] | None:
    """The seeds that demonstrations were recorded with; None where one of them has none."""
    seeds = set()
    try:
        for path in list_episodes(folder) if folder.is_dir() else []:
            with Episode.open(path) as episode:
                seeds.add(int(episode.describe["seed"]))
    except (EpisodeError, KeyError):
        return None
    return seeds or None


def _result(folder: Path, used: set[int] | None) -> str:
    """Success as it was evaluated, or of the deployed rollouts where it was not; their videos and latency."""
    evaluation, deployment = folder / "evaluation" / "eval.json", folder / "rollouts" / "deploy.json"
    parts = []
    if evaluation.is_file():
        with _reading(evaluation):
            report = json.loads(evaluation.read_text(encoding="utf-8"))
            parts += [_success(each, used) for each in _evaluated(report)]
    if deployment.is_file():
        with _reading(deployment):
            report = json.loads(deployment.read_text(encoding="utf-8"))
            parts.append(_deployed(report) if parts else _success(report, used))
            parts.append(_videos(sorted(deployment.parent.rglob("*.mp4"))))
            parts.append(_latency(report.get("latency", {})))
    return "<h2>The policy's rollouts</h2>" + "".join(parts) if parts else ""


def _evaluated(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """An evaluation as reports of one checkpoint on one task each, like those of deployment."""
    for task in report.get("tasks", {"": report}).values():  # of several tasks it has them by name
        for checkpoint in task["checkpoints"]:
            if checkpoint.get("success"):  # not where it was interrupted before the first rollout
                execution = {**report["execution"], "n_action_steps": checkpoint["n_action_steps"]}
                yield {**report, "task": task["task"], **checkpoint, "execution": execution}


def _success(report: dict[str, Any], used: set[int] | None) -> str:
    held, touched = report["success"], report["success_any_time"]
    task, execution = report["task"], report["execution"]
    steps = execution.get("n_action_steps", execution.get("horizon"))  # its name in older reports
    how = "temporal ensembling" if execution["temporal_agg"] else f"chunks of {steps}"
    lines = [f"<p class=note>{html.escape(task['instruction'])}</p>"]
    if held is not None:
        low, high = held["wilson95"]
        lines.append(
            f"<p><span class=big>{held['rate']:.0%}</span> success: {held['successes']} of {held['trials']} rollouts "
            f"held the top reward to the end (95 % Wilson interval {low:.0%} to {high:.0%}). The looser count, top "
            f"reward at any time: {touched['successes']} of {touched['trials']}.</p>"
        )
    first, last = report["seeds"]
    shared = None if used is None else len(used & set(range(first, last + 1)))
    seen = {None: "", 0: ", which no demonstration used"}.get(shared, f", {shared} of them used by demonstrations")
    lines.append(
        f"<p class=note>{report['policy']['kind'].upper()} with {how}, {task['episode_len']} steps at "
        f"{task['rate_hz']:g} Hz, seeds {first} to {last}{seen}. <code>{html.escape(report['checkpoint'])}</code></p>"
    )
    reached = report["max_reward_histogram"]
    lines.append(_table(["highest reward reached", *reached], [["rollouts", *reached.values()]]))
    return "".join(lines)


def _deployed(report: dict[str, Any]) -> str:
    held = report["success"]
    success = "" if held is None else f", {held['successes']} with success"
    first, last = report["seeds"]
    return f"<h3>Deployed</h3><p>Seeds {first} to {last}, recorded as episodes{success}.</p>"


def _latency(report: dict[str, Any]) -> str:
    if not report.get("stages"):
        return ""
    columns = ["p50", "p99", "max"]
    rows = [[name, *(f"{values[column]:.2f}" for column in columns)] for name, values in report["stages"].items()]
    if report["missed"] is None:
        late = f"{report['steps']} steps in simulated time, where a step may take as long as it needs."
    else:
        late = f"{report['missed']} of {report['steps']} steps took longer than {report['period_ms']:g} ms."
    return _table(["latency, ms", *columns], rows) + f"<p class=note>{late}</p>"


def _stages(file: Path) -> str:
    if not file.is_file():
        return ""
    with _reading(file), file.open(newline="", encoding="utf-8") as handle:
        rows = [(row["stage"], float(row["seconds"])) for row in csv.DictReader(handle)]
    total = sum(seconds for _, seconds in rows)
    shown = [[stage, f"{seconds:.0f} s"] for stage, seconds in [*rows, ("together", total)]]
    return "<h2>Where the time went</h2>" + _table(["stage", "wall time"], shown)


def _demonstrations(folder: Path) -> str:
    episodes = list_episodes(folder / "episodes") if (folder / "episodes").is_dir() else []
    replays = sorted((folder / "replay").rglob("*.mp4"))
    plots = sorted((folder / "replay").rglob("*.png"))
    if not episodes and not replays:
        return ""
    size = sum(file.stat().st_size for file in episodes) / 1e6
    text = f"<p>{len(episodes)} episode{'s' * (len(episodes) != 1)}, {size:.0f} MB.</p>"
    return "<h2>Demonstrations</h2>" + text + _videos(replays[:1], row=False) + "".join(map(_image, plots))


def _training(folder: Path) -> str:
    curve = folder / "loss.png"
    if not curve.is_file():
        return ""
    metrics = folder / "metrics.csv"
    with _reading(metrics), metrics.open(newline="", encoding="utf-8") as handle:
        timed = [row for row in csv.DictReader(handle) if row["seconds"]]  # rows of validations have none
        steps, seconds = (float(timed[-1][key]) for key in ("step", "seconds"))
    text = f"<p>{steps:.0f} optimiser steps in {seconds:.0f} s.</p>"
    return "<h2>Training</h2>" + text + _image(curve)


def _next(folder: Path) -> str:
    """Commands to try on these results."""
    policy, task = folder / "policy", _trained_task(folder / "policy")
    if not task:
        return ""
    tries = [
        ("measure success on 200 starts", command("eval", "--ckpt", policy, "--task", task)),
        ("find out why rollouts fail", command("diagnose", folder / "rollouts")),
        ("look into an episode", command("replay", folder / "episodes" / "episode_0.hdf5", "--view", "rerun")),
    ]
    items = "".join(f"<li>{what}: <code>{html.escape(words)}</code></li>" for what, words in tries)
    guides = (
        "<p>Guides in the repository: your own data (<code>docs/your_old_data.md</code>), your own task, camera, "
        "policy or robot (<code>docs/extending.md</code>), a robot over ROS (<code>README.md</code>).</p>"
    )
    shell = "<p>In the checkout, after <code>. .venv/bin/activate</code>:</p>"
    return f"<h2>What next</h2>{shell}<ul>{items}</ul>{guides}"


def _trained_task(policy: Path) -> str:
    """Task of a run; empty where there is none."""
    file = policy / "config.yaml"
    if not file.is_file():
        return ""
    with _reading(file):
        return str(yaml_file.parse(file)["task"])


def _videos(files: Iterable[Path], *, row: bool = True) -> str:
    tags = "".join(
        f"<video src='{_embedded(file, 'video/mp4')}' controls muted loop autoplay></video>" for file in files
    )
    return f"<div class=row>{tags}</div>" if row and tags else tags


def _image(file: Path) -> str:
    return f"<p><img src='{_embedded(file, 'image/png')}' alt='{html.escape(file.stem)}'></p>"


def _embedded(file: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"
