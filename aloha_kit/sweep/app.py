"""Sweep command: lists the runs, trains those that are not done, and writes the table."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from aloha_kit.core import UsageError
from aloha_kit.core.commands import FolderInUseError
from aloha_kit.core.files import make_folder
from aloha_kit.core.lang import tr, tr_plural
from aloha_kit.sweep.args import SweepArgs
from aloha_kit.sweep.grid import GridRun, read_grid
from aloha_kit.sweep.ray_tune import SAVING_S, train_on_ray
from aloha_kit.sweep.slurm import write_script
from aloha_kit.sweep.sweep_runs import SweepRuns
from aloha_kit.sweep.sweep_table import CSV, MARKDOWN, write_tables

LOG = logging.getLogger(__name__)


def run(args: SweepArgs) -> int:
    """Train the runs of a grid, one after another or on Ray; returns 1 if any failed.

    Raises:
        ConfigError: a wrong grid, a run of other flags in its folder, or with --ray as `train_on_ray`.
        UsageError: a number that no run has.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, once the present training has saved its work.
    """
    grid = read_grid(args.grid)
    folder = args.output or Path("runs") / "sweep" / args.grid.stem
    runs = SweepRuns(folder, grid)
    if wrong := [number for number in args.only or () if not 0 <= number < len(grid)]:
        raise UsageError(
            "--only takes numbers of runs, 0 to {last}, given {given}",
            last=len(grid) - 1,
            given=" ".join(map(str, wrong)),
        )
    print(tr_plural("{n} run in {folder}", "{n} runs in {folder}", len(grid), folder=folder))
    for each in grid:
        status = runs.result(each).status
        print(f"{each.number:>3} {each.name}{f': {tr(status)}' if status else ''}")
        print(f"    $ {shlex.join(['python', '-m', *runs.command(each)])}", flush=True)
    if args.dry_run:
        return 0
    if args.slurm:
        print(tr("submit them with: {command}", command=f"sbatch {write_script(args.grid, folder, len(grid))}"))
        return 0
    make_folder(folder)
    chosen = grid if args.only is None else [grid[number] for number in args.only]
    try:
        failed = _train_here(runs, chosen) if args.ray is None else _train_on_ray(args, args.ray, runs, chosen)
    finally:
        table = write_tables(runs)
    print(f"{table}\n\n{folder / MARKDOWN}, {folder / CSV}")
    return 1 if failed else 0


def _train_here(runs: SweepRuns, chosen: Sequence[GridRun]) -> int:
    """Train runs one after another; returns how many failed."""
    failed = 0
    for each in chosen:
        title = f"== {each.number + 1}/{len(runs.runs)} {each.name}"
        if runs.result(each).status == "done":
            LOG.info(tr("{title}: done", title=title))
            continue
        LOG.info("%s", title)
        try:
            result = runs.train(each)
        except FolderInUseError as error:
            LOG.warning(tr("{title}: left out: {error}", title=title, error=error))
            continue
        if result.status != "done":
            failed += 1
            LOG.warning(tr("{title}: failed: {error}", title=title, error=result.error))
    return failed


def _train_on_ray(args: SweepArgs, address: str, runs: SweepRuns, chosen: Sequence[GridRun]) -> int:
    """Train runs on a Ray cluster, as many at a time as it has room for; returns how many failed."""
    waiting = [each for each in chosen if runs.result(each).status != "done"]
    if not waiting:
        return 0
    numbers = [each.number for each in waiting]
    try:
        failed = train_on_ray(address, args.grid, runs.folder, numbers, cpus=args.cpus, gpus=args.gpus)
    except KeyboardInterrupt:
        runs.wait_until_free(waiting, SAVING_S)  # Ray does not wait until they have saved
        raise
    for each in waiting:
        if each.number in failed:
            error = runs.result(each).error or tr("it was not started or not ended")
            LOG.warning(tr("{title}: failed: {error}", title=each.name, error=error))
    return len(failed)
