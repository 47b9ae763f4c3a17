"""Tables of results in Markdown: one result in full, or several as rows of train/README.md.

python -m aloha_kit.reproduce.table     # renew the table of train/README.md from train/results
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aloha_kit.config import to_mapping
from aloha_kit.core import AlohaKitError, ConfigError, UsageError
from aloha_kit.core.files import make_folder, write_json, write_text
from aloha_kit.core.lang import Message
from aloha_kit.core.machine import CHECKOUT
from aloha_kit.reproduce.preset import load_preset
from aloha_kit.reproduce.result import (
    Coverage,
    new_result,
    read,
    Result,
    SeedResult,
    SuccessRate,
    Summary,
    Surroundings,
    WallTime,
)

UNKNOWN = "–"
ROWS = (
    *(
        ("transfer_cube", preset)
        for preset in (
            *("paper", "fast", "fast_from_scratch", "fast_diffusion"),
            *("cpu", "cpu_quick", "cpu_ten", "cpu_flow", "cpu_diffusion"),
        )
    ),
    *(("insertion", preset) for preset in ("paper", "fast", "cpu", "cpu_quick", "cpu_flow", "cpu_diffusion")),
    *(("insertion_human", preset) for preset in ("paper", "fast", "cpu")),
    *(("pusht_keypoints", f"pusht_{policy}") for policy in ("bc", "mip", "flow", "diffusion", "ibc", "act", "paper")),
    *(("pusht_image", f"pusht_{policy}") for policy in ("image", "paper")),
    *((task, preset) for task in ("lift", "lift_image") for preset in ("lift_bc_rnn", "lift_diffusion")),
)
"""(task, preset) of the README's table."""
BEGIN, END = "<!-- reproduction: written by aloha_kit.reproduce -->", "<!-- reproduction: end -->"


def details(result: Result) -> str:
    """One reproduction in full."""
    lines = [f"### {_words(result.task)}, preset `{result.preset}`"]
    if result.summary is None:
        lines.append("\nNo policy has been evaluated yet.")
    else:
        lines += ["", *_by_seed(result.seeds, result.summary), "", *_remarks(result, result.summary)]
    lines += [f"- On {_machine(each)}." for each in result.surroundings]
    return "\n".join([*lines, "", "```", *dict.fromkeys(a.command for a in result.attempts), "```"])


def overview(results: Sequence[Result]) -> str:
    """A table with a row for each result; one without a summary is marked as not run."""
    head = (
        "task", "preset", "demonstrations", "training", "success, held to the end", "by seed", "at any time",
        "best coverage, mean", "published", "one seed, from nothing", "target", "met",
    )  # fmt: skip
    rows = [_row(result) for result in results]
    notes = [
        f"- {_words(result.task)}, `{result.preset}`: {_machine(each)}."
        for result in results
        if result.summary is not None
        for each in result.surroundings
    ]
    return "\n".join([*_table([head, *rows]), *(["", *notes] if notes else [])])


def require_published(task: str, preset: str, train: Path = CHECKOUT / "train") -> None:
    """Check before hours of work that `publish` will be possible after them.

    Raises:
        ConfigError: the table has no such row, or there is no README with such a table.
    """
    if (task, preset) not in ROWS:
        presets = ", ".join(name for mine, name in ROWS if mine == task) or Message("none")
        raise UsageError(
            "the README's table has the presets {presets} of {task}, not {preset}; leave --update_readme out",
            presets=presets,
            task=task,
            preset=preset,
        )
    _parts(train / "README.md")


def publish(result: Result, train: Path = CHECKOUT / "train") -> str:
    """Save a result in `train`/results and renew the table of its README; returns a message.

    Raises:
        ConfigError: there is no README with such a table (the package does not run from a checkout).
    """
    _parts(train / "README.md")
    file = make_folder(train / "results") / f"{result.task}_{result.preset}.json"
    write_json(file, to_mapping(result))
    renew(train)
    return Message("saved as {file}, and {readme} renewed", file=file, readme=train / "README.md")


def renew(train: Path = CHECKOUT / "train") -> None:
    """Write the table of README.md from the results.

    Raises:
        ConfigError: no README with such a table, or a damaged result.
    """
    before, after = _parts(train / "README.md")
    text = f"{before}{BEGIN}\n{table(train / 'results')}\n{END}{after}"
    write_text(train / "README.md", text)


def table(results: Path) -> str:
    """The table of all tasks and presets; those without a file in `results` are marked as not run.

    Raises:
        ConfigError: a damaged result.
    """
    rows = []
    for task, preset in ROWS:
        file = results / f"{task}_{preset}.json"
        rows.append(read(file) if file.exists() else new_result(task, preset, load_preset(preset, task)))
    return overview(rows)


def _parts(readme: Path) -> tuple[str, str]:
    """The text before and after the table."""
    try:
        text = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            "no table to renew outside a checkout: '{readme}': {reason}", readme=readme, reason=error.strerror
        ) from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(
            "no table to renew: '{readme}' lacks the lines {begin} and {end}", readme=readme, begin=BEGIN, end=END
        )
    return before, after


def _by_seed(seeds: Sequence[SeedResult], summary: Summary) -> list[str]:
    head = ("seed", "success, held to the end", "95 % Wilson interval", "at any time", "train", "eval")
    rows = [
        (str(s.seed), _share(s.held), _interval(s.held), _share(s.any_time), _time(s.train), _time(s.eval))
        for s in seeds
    ]
    both = ("together", _share(summary.held), _interval(summary.held), _share(summary.any_time), "", "")
    return _table([head, *rows, both])


def _remarks(result: Result, summary: Summary) -> list[str]:
    by = " by ACT's authors" if result.published is not None else ""
    record = f"Recorded and validated in {_time(summary.record)}; with one seed, all stages took"
    if result.episodes is not None:
        record = (
            f"Demonstrations of '{result.episodes}', recorded before: the time of recording is not included. Validated "
            f"in {_time(summary.record)}; with one seed, all other stages took"
        )
    lines = [
        f"- Target: {_target(result)}. Met: {_met(result, summary)}.",
        f"- Published{by}: {_published(result)}{', a touch at any time counted' if by else ''}.",
        f"- From {_demonstrations(result)}; {_training(result)}.",
        f"- {record} {_time(summary.one_seed)}.",
    ]
    if summary.coverage is not None:
        lines.insert(1, f"- Mean of the best coverage / 0.95 of each rollout: {_coverage(summary.coverage)}.")
    if summary.deviation is not None:
        spread = f"{summary.lowest:.1%} to {summary.highest:.1%}, standard deviation {100 * summary.deviation:.1f}"
        lines.insert(
            1,
            f"- Between seeds: {spread} points. Their common interval covers the start states, not the seeds.",
        )
    return lines


def _row(result: Result) -> tuple[str, ...]:
    what = (_words(result.task), f"`{result.preset}`", _demonstrations(result), _training(result))
    published, summary = _published(result), result.summary
    if summary is None:
        return (*what, "not run", UNKNOWN, UNKNOWN, UNKNOWN, published, UNKNOWN, _target(result), UNKNOWN)
    return (
        *what,
        f"{_share(summary.held)} ({_interval(summary.held)})",
        ", ".join(f"{seed.held.rate:.1%}" for seed in result.seeds),
        _share(summary.any_time),
        UNKNOWN if summary.coverage is None else _coverage(summary.coverage),
        published,
        f"{_time(summary.one_seed)}{'' if result.episodes is None else ' without recording'}",
        _target(result),
        _met(result, summary),
    )


def _demonstrations(result: Result) -> str:
    record: dict[str, Any] = result.values["record"]
    size = record.get("image_size")
    return f"{record['num_episodes']}{' at {}x{}'.format(*size) if size else ''}"


def _training(result: Result) -> str:
    return f"`{result.values['train'].get('policy', 'act')}`, {result.num_steps:,} steps of {result.batch_size}"


def _target(result: Result) -> str:
    target: dict[str, Any] = result.values["target"]
    success, coverage, minutes = (target.get(name) for name in ("success", "coverage", "minutes"))
    wanted = [f"{success:.0%}"] if success else []
    wanted += [f"coverage {coverage:g}"] if coverage else []
    return f"{', '.join(wanted)}{f' in {minutes:g} min' if minutes else ''}"


def _published(result: Result) -> str:
    text = str(result.values.get("published") or UNKNOWN)
    return text if result.published is None else f"about {result.published:.0%}"


def _coverage(coverage: Coverage) -> str:
    low, high = coverage.interval()
    return f"{coverage.mean:.3f} ({low:.3f} to {high:.3f})"


def _met(result: Result, summary: Summary) -> str:
    wrong = [] if summary.success_reached else ["success"]
    if summary.coverage_reached is False:
        wrong.append("coverage")
    if summary.time_kept is False:
        wrong.append("time" if summary.one_seed.complete else "time unknown, a stage was killed")
    if not wrong and result.episodes is not None and result.values["target"].get("minutes"):
        return "yes, but for the time of recording"
    return f"no ({', '.join(wrong)})" if wrong else "yes"


def _machine(where: Surroundings) -> str:
    gpu = where.gpu or "no GPU used"
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    return f"{where.cpu}, {where.cores} cores, {gpu}; {versions}; commit {where.commit or 'unknown'}"


def _share(rate: SuccessRate) -> str:
    return f"{rate.successes}/{rate.trials} = {rate.rate:.1%}"


def _interval(rate: SuccessRate) -> str:
    low, high = rate.wilson95
    return f"{100 * low:.1f} to {high:.1%}"


def _time(wall: WallTime) -> str:
    hours, rest = divmod(round(wall.seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    text = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return text if wall.complete else f"over {text}"


def _words(task: str) -> str:
    return task.replace("_", " ")


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def main() -> None:
    """Renew the table of this checkout; takes no flags but --help."""
    argparse.ArgumentParser(description="Renew the table of train/README.md from train/results.").parse_args()
    try:
        renew()
    except AlohaKitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
