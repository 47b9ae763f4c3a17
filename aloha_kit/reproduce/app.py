"""Reproduction command: runs the stages in their order and writes the result after each."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aloha_kit.core.commands import locked
from aloha_kit.core.lang import shown, tr
from aloha_kit.reproduce.args import ReproduceArgs
from aloha_kit.reproduce.machine import choose_device, describe_machine
from aloha_kit.reproduce.preset import load_preset
from aloha_kit.reproduce.recorded import require_recorded
from aloha_kit.reproduce.result import new_result, read_or_new, RESULT, Result
from aloha_kit.reproduce.stages import Reproduction, ReproductionSetup, Stage, stages_of, title_of
from aloha_kit.reproduce.table import details, publish, require_published

LOG = logging.getLogger(__name__)


def run(args: ReproduceArgs) -> None:
    """Run the stages that are not done and print the result; with --dry_run only print their commands.

    Raises:
        ConfigError: a wrong preset or device, a folder of something else, or demonstrations that are not the preset's.
        ReproductionError: a stage failed; what is done stays.
        FolderInUseError: another reproduction uses the folder.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, once the present stage has saved its work.
    """
    preset = load_preset(args.preset, args.task)
    name = Path(args.preset).stem
    folder = args.output or Path("runs") / "reproduce" / f"{args.task}_{name}"
    if args.update_readme:
        require_published(args.task, name)
    new = new_result(args.task, name, preset, args.episodes)
    result = read_or_new(folder, new)
    device = args.device or preset.device
    setup = ReproductionSetup(args.task, preset, folder, device, args.num_rollouts, args.episodes)
    if args.episodes is not None:
        require_recorded(args.episodes, setup.task_name, preset.record)
    if args.dry_run:
        _show(stages_of(setup, args.seeds), result)
        return
    device, gpu = choose_device(setup.device, preset.device, name, force=args.force)
    setup = replace(setup, device=device)
    with locked(folder, "reproduction") as place:
        result = read_or_new(folder, new)  # again: another reproduction may have ended since
        reproduction = Reproduction(setup, args.seeds, result, describe_machine(device, gpu), place)
        for number, stage in enumerate(reproduction.stages, 1):
            reproduction.run(stage, number)
        result = reproduction.result
    print(f"{details(result)}\n\n{folder / RESULT}")
    if args.update_readme:
        LOG.info(shown(publish(result)))


def _show(stages: Sequence[Stage], result: Result) -> None:
    for number, stage in enumerate(stages, 1):
        title = f"== {number}/{len(stages)} {shown(title_of(stage))}"
        done = stage.done(result.attempts)
        print(tr("{title}: done", title=title) if done else title)
        print(f"$ {shlex.join(['python', '-m', *stage.command()])}")
