"""A result for people: one in full, or several as rows of one table. Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aloha_kit.reproduce.result import Rate, Result, SeedResult, Summary, Surroundings, Wall

UNKNOWN = "–"


def details(result: Result) -> str:
    """Everything that is known of one reproduction."""
    lines = [f"### {_spoken(result.task)}, preset `{result.preset}`"]
    if result.summary is None:
        lines.append("\nNo policy has been evaluated yet.")
    else:
        lines += ["", *_by_seed(result.seeds, result.summary), "", *_remarks(result, result.summary)]
    lines += [f"- On {_machine(each)}." for each in result.surroundings]
    return "\n".join([*lines, "", "```", *dict.fromkeys(a.command for a in result.attempts), "```"])


def overview(results: Sequence[Result]) -> str:
    """A row a result; one without a summary is marked as not run."""
    head = (
        "task", "preset", "demonstrations", "training", "success, held to the end", "by seed", "at any time",
        "published", "one seed, from nothing", "target", "met",
    )  # fmt: skip
    rows = [_row(result) for result in results]
    notes = [
        f"- {_spoken(result.task)}, `{result.preset}`: {_machine(each)}."
        for result in results
        if result.summary is not None
        for each in result.surroundings
    ]
    return "\n".join([*_table([head, *rows]), *(["", *notes] if notes else [])])


def _by_seed(seeds: Sequence[SeedResult], summary: Summary) -> list[str]:
    head = ("seed", "success, held to the end", "95 % Wilson interval", "at any time", "train", "eval")
    rows = [
        (str(s.seed), _share(s.held), _interval(s.held), _share(s.any_time), _time(s.train), _time(s.eval))
        for s in seeds
    ]
    both = ("together", _share(summary.held), _interval(summary.held), _share(summary.any_time), "", "")
    return _table([head, *rows, both])


def _remarks(result: Result, summary: Summary) -> list[str]:
    record = f"Recorded and validated in {_time(summary.record)}; with one seed, all stages took"
    lines = [
        f"- Target: {_target(result)}. Met: {_met(result, summary)}.",
        f"- Published by ACT's authors: about {result.published:.0%}, a touch at any time counted.",
        f"- From {_demonstrations(result)}; {_training(result)}.",
        f"- {record} {_time(summary.one_seed)}.",
    ]
    if summary.deviation is not None:
        spread = f"{summary.lowest:.1%} to {summary.highest:.1%}, standard deviation {100 * summary.deviation:.1f}"
        lines.insert(
            1, f"- Between seeds: {spread} points. The interval of all together knows the starts' luck, not the seeds'."
        )
    return lines


def _row(result: Result) -> tuple[str, ...]:
    what = (_spoken(result.task), f"`{result.preset}`", _demonstrations(result), _training(result))
    published = f"about {result.published:.0%}"
    summary = result.summary
    if summary is None:
        return (*what, "not run", UNKNOWN, UNKNOWN, published, UNKNOWN, _target(result), UNKNOWN)
    return (
        *what,
        f"{_share(summary.held)} ({_interval(summary.held)})",
        ", ".join(f"{seed.held.rate:.1%}" for seed in result.seeds),
        _share(summary.any_time),
        published,
        _time(summary.one_seed),
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
    minutes = target.get("minutes")
    return f"{target['success']:.0%}{f' in {minutes:g} min' if minutes else ''}"


def _met(result: Result, summary: Summary) -> str:
    wrong = [] if summary.success_reached else ["success"]
    if summary.time_kept is False:
        wrong.append("time" if summary.one_seed.complete else "time unknown, a stage was killed")
    return f"no ({', '.join(wrong)})" if wrong else "yes"


def _machine(where: Surroundings) -> str:
    gpu = where.gpu or "no GPU used"
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    return f"{where.cpu}, {where.cores} cores, {gpu}; {versions}; commit {where.commit or 'unknown'}"


def _share(rate: Rate) -> str:
    return f"{rate.successes}/{rate.trials} = {rate.rate:.1%}"


def _interval(rate: Rate) -> str:
    low, high = rate.wilson95
    return f"{100 * low:.1f} to {high:.1%}"


def _time(wall: Wall) -> str:
    hours, rest = divmod(round(wall.seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    text = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return text if wall.complete else f"over {text}"


def _spoken(task: str) -> str:
    return task.replace("_", " ")


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]
