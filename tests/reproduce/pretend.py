"""Commands that leave on the disk what the real ones leave, in no time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from aloha_kit.core.commands import CommandResult, LockedFolder
from tests.synthetic import make, write

STEPS = 40


def preset_file(folder: Path, **changes: Any) -> Path:
    """A preset for tasks of a moment, with sections changed."""
    values = {
        "device": "cpu",
        "target": {"success": 0.8, "minutes": 60},
        "record": {"num_episodes": 2, "image_size": [24, 32]},
        "train": {"policy": "act_cpu", "num_steps": STEPS, "batch_size": 4},
        **changes,
    }
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def argument(words: Sequence[str], flag: str) -> str:
    return words[words.index(flag) + 1]


class Commands:
    """Stands in for `LockedFolder.run`.

    Attributes:
        words: of every command that was run.
        stop: {application: how it ends once}: "failed", or "interrupted" half-way, or "killed" at once.
        seconds: what every command takes.
    """

    def __init__(self, successes: Mapping[int, int], touched: int = 0, seconds: float = 60.0) -> None:
        self.successes, self.touched, self.seconds = successes, touched, seconds
        self.words: list[list[str]] = []
        self.stop: dict[str, str] = {}
        self._evaluations = 0

    def __call__(self, place: LockedFolder, words: Sequence[str]) -> CommandResult:
        self.words.append(list(words))
        application = words[0].removeprefix("aloha_kit.")
        how = self.stop.pop(application, "")
        if how == "killed":
            raise SystemExit("SIGKILL")  # we die with it: nothing after it is done
        if how == "failed":
            return CommandResult(1, self.seconds, interrupted="")
        getattr(self, f"_{application}")(words, half=how == "interrupted")
        return CommandResult(130 if how else 0, self.seconds, interrupted="SIGTERM" if how else "")

    def _record(self, words: Sequence[str], half: bool) -> None:
        folder = Path(argument(words, "--dataset_dir"))
        there = len(list(folder.glob("*.hdf5")))
        for seed in range(there, 1 if half else int(argument(words, "--num_episodes"))):
            write(folder, make(3, {"top": (8, 8)}, seed=seed))

    def _episode(self, words: Sequence[str], half: bool) -> None:
        """`validate` leaves nothing."""

    def _train(self, words: Sequence[str], half: bool) -> None:
        run = Path(argument(words, "--resume" if "--resume" in words else "--ckpt_dir"))
        checkpoint(run, STEPS // 2 if half else STEPS)

    def _eval(self, words: Sequence[str], half: bool) -> None:
        wanted, first = int(argument(words, "--num_rollouts")), int(argument(words, "--seed"))
        self._evaluations += 1
        trials = wanted // 2 if half else wanted
        successes = min(self.successes[(first - 100_000) // 10_000], trials)
        folder = Path(argument(words, "--output"))
        folder.mkdir(parents=True, exist_ok=True)
        report = {
            "seeds": [first, first + wanted - 1],
            "asked_rollouts": wanted,
            "started": f"2026-01-01T00:00:{self._evaluations:02}+00:00",
            "checkpoints": [
                {
                    "success": {"successes": successes, "trials": trials},
                    "success_any_time": {"successes": successes + self.touched, "trials": trials},
                }
            ],
        }
        (folder / f"eval_{self._evaluations}.json").write_text(json.dumps(report))


def checkpoint(run: Path, step: int, name: str = "last") -> None:
    """A run's checkpoint, as far as a reproduction looks at it."""
    folder = run / "checkpoints" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "extra.json").write_text(json.dumps({"step": step}))
    (run / "config.yaml").touch()
