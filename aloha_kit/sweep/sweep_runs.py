"""Runs of a sweep: what is done, the command that does the rest, and its result."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from aloha_kit.core import ConfigError
from aloha_kit.core.commands import CommandResult, FolderInUseError, locked
from aloha_kit.core.files import write_json
from aloha_kit.sweep.grid import GridRun

STATE = ".sweep"
"""Folder beside the runs with the result of each."""

_COMPLETE = 2  # exit status of a training that is resumed without other flags and has nothing left to do


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    Attributes:
        flags: of its command line; a run is not mixed with one of other flags.
        status: "done", "failed" or "interrupted"; "" before its first end.
        seconds: wall time of all its sessions, the start of the program included.
        error: the last line of its log where it failed.
    """

    flags: tuple[str, ...]
    status: str = ""
    seconds: float = 0.0
    error: str = ""


class SweepRuns:
    """The runs of a sweep in its folder."""

    def __init__(self, folder: Path, runs: Sequence[GridRun]) -> None:
        """Raises ConfigError where a run of this name exists with other flags."""
        self.folder, self.runs = folder, runs
        for run in runs:
            known = self.result(run)
            if known.flags != run.flags:
                raise ConfigError(
                    "'{folder}' was trained with other flags: {flags}; choose another place with --output",
                    folder=self.run_folder(run),
                    flags=" ".join(known.flags),
                )

    def run_folder(self, run: GridRun) -> Path:
        return self.folder / run.name

    def result(self, run: GridRun) -> RunResult:
        """The result so far."""
        file = self._state(run) / "result.json"
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return RunResult(**{**values, "flags": tuple(values["flags"])})
        except FileNotFoundError:
            return RunResult(run.flags)
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigError(
                "{file} is damaged: {error}. Remove it, and the run goes on", file=file, error=error
            ) from error

    def command(self, run: GridRun) -> list[str]:
        """The words after `python -m` that train it, or go on with it."""
        folder = self.run_folder(run)
        if (folder / "config.yaml").is_file():
            return ["aloha_kit.train", "--resume", str(folder)]
        return ["aloha_kit.train", *run.flags, "--ckpt_dir", str(folder)]

    def train(self, run: GridRun) -> RunResult:
        """Train a run to its end, in a child process.

        Raises:
            FolderInUseError: another process trains it.
            KeyboardInterrupt: an interruption, once the training has saved its work.
        """
        with locked(self._state(run), "process") as place:
            before = self.result(run)
            write_json(self._state(run) / "result.json", asdict(before))
            resumed = (self.run_folder(run) / "config.yaml").is_file()
            ended = place.run(self.command(run))
            status, error = self._ending(run, ended)
            seconds = round(before.seconds + ended.seconds, 1)
            result = replace(before, status=status, seconds=seconds, error=error)
            if resumed and ended.status == _COMPLETE:  # a sweep was killed, its training went on
                result = replace(result, status="done", error="")
            write_json(self._state(run) / "result.json", asdict(result))
        if ended.interrupted:
            raise KeyboardInterrupt(ended.interrupted)
        return result

    def wait_until_free(self, runs: Sequence[GridRun], timeout_s: float) -> None:
        """Wait until no process trains these runs, but no longer than `timeout_s` in all."""
        end = time.monotonic() + timeout_s
        for run in runs:
            while time.monotonic() < end:
                try:
                    with locked(self._state(run), "process"):
                        break
                except FolderInUseError:
                    time.sleep(0.2)

    def _ending(self, run: GridRun, ended: CommandResult) -> tuple[str, str]:
        """Status, and the error of a failure."""
        if ended.interrupted:
            return "interrupted", ""
        if ended.status == 0:
            return "done", ""
        log = self.run_folder(run) / "logs" / "log.txt"
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        return "failed", lines[-1] if lines else f"status {ended.status}, see its output"

    def _state(self, run: GridRun) -> Path:
        return self.folder / STATE / run.name


def duration(seconds: float) -> str:
    """`1:02:03`."""
    return f"{int(seconds) // 3600}:{time.strftime('%M:%S', time.gmtime(seconds))}"
