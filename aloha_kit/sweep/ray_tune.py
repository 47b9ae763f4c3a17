"""Runs of a sweep as trials of Ray Tune: each is a child process on the node that Tune chooses.

A trial runs `python -m aloha_kit.sweep GRID --only NUMBER`, as a job of a Slurm array does: what is done, resumed and
locked is decided there, in the sweep's folder, which all nodes share.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aloha_kit.core.errors import ConfigError
from aloha_kit.core.ray_cluster import LOCAL, ray_cluster
from aloha_kit.sweep.sweep_runs import STATE

POLL_S = 1.0
"""Seconds between two looks at a training; Tune can stop a trial between them."""
SAVING_S = 600.0
"""Seconds that a trial waits until its training has saved, where Ray leaves it the time; it saves in any case."""


def train_on_ray(
    address: str, grid: Path, folder: Path, numbers: Sequence[int], *, cpus: float, gpus: float
) -> list[int]:
    """Train runs of a grid on a Ray cluster; returns the numbers of those that failed.

    Args:
        address: as of `ray_cluster`.
        grid, folder: the grid's file and the sweep's folder, at the same paths on every node.
        cpus, gpus: that Ray reserves for each run; as many run at once as there is room for.

    Raises:
        ConfigError: Ray Tune is not installed, no cluster answers, or a local one lacks the resources of a run.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, which the trainings get as a SIGTERM each: they save their work.
    """
    with ray_cluster(address) as ray:
        try:
            from ray import tune
        except ImportError as error:
            raise ConfigError("--ray needs Ray Tune ({error}): pip install 'aloha_kit[ray]'", error=error) from error
        if address == LOCAL:
            _require_room(ray.cluster_resources(), cpus=cpus, gpus=gpus)
        words = [str(grid.absolute()), "--output", str(folder.absolute())]
        with _signals() as signals:
            tuner = tune.Tuner(
                tune.with_resources(_trainable(tune, words, Path.cwd()), {"cpu": cpus, "gpu": gpus}),
                param_space={"run": tune.grid_search(list(numbers))},
                run_config=tune.RunConfig(
                    name="ray",
                    storage_path=str((folder / STATE).absolute()),
                    stop=_stopper(tune, signals),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    verbose=0,
                ),
            )
            with contextlib.redirect_stdout(sys.stderr):  # what Tune prints is no result
                results = tuner.fit()
        if signals:
            raise KeyboardInterrupt(signals[0])
        ended = [results[i].metrics or {} for i in range(len(results))]
    succeeded = {metrics["config"]["run"] for metrics in ended if metrics.get("status") == 0}
    return [number for number in numbers if number not in succeeded]


def _trainable(tune: Any, words: Sequence[str], here: Path) -> Any:
    """Class of trials that train the run `run` of a grid; `words` are the sweep's flags, `here` its working folder."""

    class GridTrial(tune.Trainable):  # type: ignore[misc]  # its base is known only where Ray is installed
        """One run, in a child process."""

        def setup(self, config: dict[str, Any]) -> None:
            # its list and its table are this sweep's, so only its log is shown
            null = subprocess.DEVNULL
            command = [sys.executable, "-m", "aloha_kit.sweep", *words, "--only", str(config["run"])]
            self._process = subprocess.Popen(command, cwd=here, stdin=null, stdout=null, start_new_session=True)

        def step(self) -> dict[str, Any]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(POLL_S)
            status = self._process.returncode
            return {"done": status is not None, "status": status}

        def cleanup(self) -> None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(SAVING_S)

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Training saves its own checkpoints."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """The child goes on from the run's last checkpoint by itself."""

    return GridTrial


def _stopper(tune: Any, signals: Sequence[str]) -> Any:
    """Stopper of all trials, once there is a signal."""

    class OnSignal(tune.Stopper):  # type: ignore[misc]  # as above
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return bool(signals)

    return OnSignal()


@contextlib.contextmanager
def _signals() -> Iterator[list[str]]:
    """The names of the signals that came; inside, none of them ends this process.

    Tune's own handling of Ctrl-C, which knows no other signal and ends with status 0, is off.
    """
    came: list[str] = []
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in handled}
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    try:
        for number, was in before.items():
            if was is not signal.SIG_IGN:
                signal.signal(number, lambda signum, frame: came.append(signal.Signals(signum).name))
        yield came
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def _require_room(there: dict[str, float], *, cpus: float, gpus: float) -> None:
    for flag, name, wanted in (("--cpus", "CPU", cpus), ("--gpus", "GPU", gpus)):
        if wanted > there.get(name, 0.0):
            raise ConfigError(
                "{flag} {wanted} is more than this machine has: {there} {name}",
                flag=flag,
                wanted=f"{wanted:g}",
                there=f"{there.get(name, 0.0):g}",
                name=name,
            )
