"""Script of a Slurm job array: one job a run of a sweep."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from aloha_kit.core.files import make_folder, write_text

SCRIPT = """#!/bin/bash
# Submit with: sbatch {script}
# Afterwards `{again}` writes the table, and trains what failed.
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@300       # five minutes before the end: save, and go on in a new job
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={output}/slurm_%a.log
cd {here} || exit 1
out_of_time=
trap 'out_of_time=yes; kill -TERM "$run"' TERM
{command} --only "$SLURM_ARRAY_TASK_ID" &
run=$!
status=0
wait "$run" || status=$?
if [[ $out_of_time ]]; then
    wait "$run" || true  # the first wait ended with the signal, this one with the training
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
    exit 0
fi
exit "$status"
"""


def write_script(grid: Path, folder: Path, count: int) -> Path:
    """Write sweep.sbatch to the sweep's folder; returns it. Resources are examples to be edited."""
    make_folder(folder)
    words = ["-m", "aloha_kit.sweep", str(grid), "--output", str(folder)]
    text = SCRIPT.format(
        script=folder / "sweep.sbatch",
        again=shlex.join(["python", *words]),
        name=folder.name,
        last=count - 1,
        output=folder,
        here=shlex.quote(str(Path.cwd())),
        command=shlex.join([sys.executable, *words]),
    )
    write_text(folder / "sweep.sbatch", text)
    return folder / "sweep.sbatch"
