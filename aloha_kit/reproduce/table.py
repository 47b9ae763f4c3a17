"""Tables of results in Markdown: one result in full, or several as rows of train/README.md and its translation.

python -m aloha_kit.reproduce.table     # renew the table of both from train/results
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
from aloha_kit.core.lang import Language, language, Message, tr
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
            *("paper", "fast", "fast_from_scratch", "fast_ten", "fast_flow", "fast_diffusion"),
            *("cpu", "cpu_quick", "cpu_ten", "cpu_flow", "cpu_mip", "cpu_diffusion"),
        )
    ),
    *(
        ("insertion", preset)
        for preset in (
            *("paper", "fast", "fast_flow", "fast_diffusion"),
            *("cpu", "cpu_quick", "cpu_flow", "cpu_diffusion"),
        )
    ),
    *(("insertion_human", preset) for preset in ("paper", "fast", "cpu", "cpu_quick")),
    *(
        ("pusht_keypoints", f"pusht_{policy}")
        for policy in ("bc", "mip", "flow", "diffusion", "ibc", "act", "paper", "paper_ibc")
    ),
    *(("pusht_image", f"pusht_{policy}") for policy in ("image", "paper", "paper_ibc")),
    *(
        (task, f"lift_{policy}")
        for task in ("lift", "lift_image")
        for policy in ("bc_rnn", "diffusion", "paper_bc_rnn", "paper_diffusion")
    ),
)
"""(task, preset) of the README's table."""
READMES: dict[Language, str] = {"en": "README.md", "zh": "README.zh-CN.md"}
BEGIN, END = "<!-- reproduction: written by aloha_kit.reproduce -->", "<!-- reproduction: end -->"


def details(result: Result) -> str:
    """One reproduction in full."""
    lines = [tr("### {task}, preset `{preset}`", task=_words(result.task), preset=result.preset)]
    if result.summary is None:
        lines.append("\n" + tr("No policy has been evaluated yet."))
    else:
        lines += ["", *_by_seed(result.seeds, result.summary), "", *_remarks(result, result.summary)]
    lines += [tr("- On {machine}.", machine=_machine(each)) for each in result.surroundings]
    return "\n".join([*lines, "", "```", *dict.fromkeys(a.command for a in result.attempts), "```"])


def overview(results: Sequence[Result]) -> str:
    """A table with a row for each result; one without a summary is marked as not run."""
    head = (
        tr("task"), tr("preset"), tr("demonstrations"), tr("training"), tr("success, held to the end"), tr("by seed"),
        tr("at any time"), tr("best coverage, mean"), tr("published"), tr("one seed, from nothing"), tr("target"),
        tr("met"),
    )  # fmt: skip
    rows = [_row(result) for result in results]
    notes = [
        tr("- {task}, `{preset}`: {machine}.", task=_words(result.task), preset=result.preset, machine=_machine(each))
        for result in results
        if result.summary is not None
        for each in result.surroundings
    ]
    return "\n".join([*_table([head, *rows]), *(["", *notes] if notes else [])])


def require_published(task: str, preset: str, train: Path = CHECKOUT / "train") -> None:
    """Check before hours of work that `publish` will be possible after them.

    Raises:
        ConfigError: the tables have no such row, or a README lacks its table.
    """
    if (task, preset) not in ROWS:
        presets = ", ".join(name for mine, name in ROWS if mine == task) or Message("none")
        raise UsageError(
            "the README's table has the presets {presets} of {task}, not {preset}; leave --update_readme out",
            presets=presets,
            task=task,
            preset=preset,
        )
    _require_tables(train)


def publish(result: Result, train: Path = CHECKOUT / "train") -> str:
    """Save a result in `train`/results and renew the table of its READMEs; returns a message.

    Raises:
        ConfigError: there is no README with such a table (the package does not run from a checkout).
    """
    _require_tables(train)
    file = make_folder(train / "results") / f"{result.task}_{result.preset}.json"
    write_json(file, to_mapping(result))
    renew(train)
    return Message("saved as {file}, and {readme} renewed", file=file, readme=train / "README.md")


def renew(train: Path = CHECKOUT / "train") -> None:
    """Write the table of both READMEs from the results.

    Raises:
        ConfigError: no README with such a table, or a damaged result.
    """
    for name, readme in READMES.items():
        before, after = _parts(train / readme)
        with language(name):
            text = f"{before}{BEGIN}\n{table(train / 'results')}\n{END}{after}"
        write_text(train / readme, text)


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


def _require_tables(train: Path) -> None:
    for readme in READMES.values():
        _parts(train / readme)


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
    head = (tr("seed"), tr("success, held to the end"), tr("95 % Wilson interval"), tr("at any time"), "train", "eval")
    rows = [
        (str(s.seed), _share(s.held), _interval(s.held), _share(s.any_time), _time(s.train), _time(s.eval))
        for s in seeds
    ]
    both = (tr("together"), _share(summary.held), _interval(summary.held), _share(summary.any_time), "", "")
    return _table([head, *rows, both])


def _remarks(result: Result, summary: Summary) -> list[str]:
    published = tr("- Published: {published}.", published=_published(result))
    if result.published is not None:
        published = tr(
            "- Published by ACT's authors: {published}, a touch at any time counted.", published=_published(result)
        )
    record, seed = _time(summary.record), _time(summary.one_seed)
    took = tr("- Recorded and validated in {record}; with one seed, all stages took {seed}.", record=record, seed=seed)
    if result.episodes is not None:
        took = tr(
            "- Demonstrations of '{episodes}', recorded before: the time of recording is not included. Validated in "
            "{record}; with one seed, all other stages took {seed}.",
            episodes=result.episodes,
            record=record,
            seed=seed,
        )
    lines = [tr("- Target: {target}. Met: {met}.", target=_target(result), met=_met(result, summary))]
    if summary.deviation is not None:
        lines.append(
            tr(
                "- Between seeds: {low} to {high}, standard deviation {points} points. Their common interval covers "
                "the start states, not the seeds.",
                low=f"{summary.lowest:.1%}",
                high=f"{summary.highest:.1%}",
                points=f"{100 * summary.deviation:.1f}",
            )
        )
    if summary.coverage is not None:
        coverage = _coverage(summary.coverage)
        lines.append(tr("- Mean of the best coverage / 0.95 of each rollout: {coverage}.", coverage=coverage))
    trained = tr(
        "- From {demonstrations}; {training}.", demonstrations=_demonstrations(result), training=_training(result)
    )
    return [*lines, published, trained, took]


def _row(result: Result) -> tuple[str, ...]:
    what = (_words(result.task), f"`{result.preset}`", _demonstrations(result), _training(result))
    published, summary = _published(result), result.summary
    if summary is None:
        return (*what, tr("not run"), UNKNOWN, UNKNOWN, UNKNOWN, published, UNKNOWN, _target(result), UNKNOWN)
    return (
        *what,
        tr("{value} ({interval})", value=_share(summary.held), interval=_interval(summary.held)),
        ", ".join(f"{seed.held.rate:.1%}" for seed in result.seeds),
        _share(summary.any_time),
        UNKNOWN if summary.coverage is None else _coverage(summary.coverage),
        published,
        _time(summary.one_seed)
        if result.episodes is None
        else tr("{time} without recording", time=_time(summary.one_seed)),
        _target(result),
        _met(result, summary),
    )


def _demonstrations(result: Result) -> str:
    record: dict[str, Any] = result.values["record"]
    number, size = record["num_episodes"], record.get("image_size")
    return tr("{n} at {size}", n=number, size="{}x{}".format(*size)) if size else str(number)


def _training(result: Result) -> str:
    policy, steps = result.values["train"].get("policy", "act"), f"{result.num_steps:,}"
    return tr("`{policy}`, {steps} steps of {batch}", policy=policy, steps=steps, batch=result.batch_size)


def _target(result: Result) -> str:
    target: dict[str, Any] = result.values["target"]
    success, coverage, minutes = (target.get(name) for name in ("success", "coverage", "minutes"))
    wanted = [f"{success:.0%}"] if success else []
    wanted += [tr("coverage {value}", value=f"{coverage:g}")] if coverage else []
    text = tr(", ").join(wanted)
    return tr("{target} in {minutes} min", target=text, minutes=f"{minutes:g}") if minutes else text


def _published(result: Result) -> str:
    text = tr(str(result.values.get("published") or UNKNOWN))  # of our presets, there is a translation
    return text if result.published is None else tr("about {rate}", rate=f"{result.published:.0%}")


def _coverage(coverage: Coverage) -> str:
    low, high = (f"{end:.3f}" for end in coverage.interval())
    interval = tr("{low} to {high}", low=low, high=high)
    return tr("{value} ({interval})", value=f"{coverage.mean:.3f}", interval=interval)


def _met(result: Result, summary: Summary) -> str:
    wrong = [] if summary.success_reached else [tr("success rate")]
    if summary.coverage_reached is False:
        wrong.append(tr("coverage"))
    if summary.time_kept is False:
        wrong.append(tr("time") if summary.one_seed.complete else tr("time unknown, a stage was killed"))
    if not wrong and result.episodes is not None and result.values["target"].get("minutes"):
        return tr("yes, but for the time of recording")
    return tr("no ({reasons})", reasons=tr(", ").join(wrong)) if wrong else tr("yes")


def _machine(where: Surroundings) -> str:
    return tr(
        "{cpu}, {cores} cores, {gpu}; {versions}; commit {commit}",
        cpu=where.cpu,
        cores=where.cores,
        gpu=where.gpu or tr("no GPU used"),
        versions=tr(", ").join(f"{name} {version}" for name, version in where.versions.items()),
        commit=where.commit or tr("unknown"),
    )


def _share(rate: SuccessRate) -> str:
    return f"{rate.successes}/{rate.trials} = {rate.rate:.1%}"


def _interval(rate: SuccessRate) -> str:
    low, high = rate.wilson95
    return tr("{low} to {high}", low=f"{100 * low:.1f}", high=f"{high:.1%}")


def _time(wall: WallTime) -> str:
    hours, rest = divmod(round(wall.seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    text = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return text if wall.complete else tr("over {time}", time=text)


def _words(task: str) -> str:
    return task.replace("_", " ")


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def main() -> None:
    """Renew the tables of this checkout; takes no flags but --help."""
    argparse.ArgumentParser(
        description="Renew the table of train/README.md and its translation from train/results."
    ).parse_args()
    try:
        renew()
    except AlohaKitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
