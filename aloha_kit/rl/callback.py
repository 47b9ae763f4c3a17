"""What happens beside the learning: curriculum, logs, checkpoints, warnings, and stopping on request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecNormalize

from aloha_kit.rl.curriculum import Curriculum, ZeroRewardWatch
from aloha_kit.rl.episodes import EpisodeSummary
from aloha_kit.rl.gym import EPISODE
from aloha_kit.rl.run_folder import JsonLines, MODEL, NORMALISER, REPLAY_BUFFER, RunFolder
from aloha_kit.rl.vector_env import cpu_seconds

LOG = logging.getLogger(__name__)

LINE_SECONDS = 15.0  # between lines on the terminal; the files have every update


class TrainingCallback(BaseCallback):
    """Callback of Stable-Baselines3 for one session of a run.

    Args:
        stop: returns the name of the signal that asks to stop; empty before.
        done: steps of the sessions before, and `spent` their CPU time in seconds.
    """

    def __init__(
        self,
        run: RunFolder,
        curriculum: Curriculum,
        watch: ZeroRewardWatch,
        *,
        save_every: int,
        stop: Callable[[], str],
        done: int,
        spent: float,
    ) -> None:
        super().__init__()
        self.curriculum = curriculum
        self._run, self._watch, self._save_every, self._stop = run, watch, save_every, stop
        self._saved, self._spent, self._began = done, spent, cpu_seconds()
        self._episodes = JsonLines(run.folder / "episodes.jsonl", after=done)

    @property
    def cpu_s(self) -> float:
        """CPU time of the run so far, all processes and sessions."""
        return self._spent + cpu_seconds() - self._began

    def _on_step(self) -> bool:
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if done:
                self._add(EpisodeSummary(**info[EPISODE]))
        return not self._stop()

    def _on_rollout_start(self) -> None:
        """Save between an update and the next rollout, so that a run that is resumed has lost no update."""
        if self.num_timesteps - self._saved >= self._save_every:
            self.save()

    def _on_rollout_end(self) -> None:
        self._record()

    def save(self) -> Path:
        """Write a checkpoint of the present step."""
        state = {"steps": self.num_timesteps, "cpu_s": round(self.cpu_s, 1), "curriculum": self.curriculum.to_json()}
        self._saved = self.num_timesteps
        return self._run.save(self.num_timesteps, state, self._write)

    def _write(self, folder: Path) -> None:
        self.model.save(folder / MODEL)
        normaliser = self.training_env
        assert isinstance(normaliser, VecNormalize)
        normaliser.save(str(folder / NORMALISER))
        if hasattr(self.model, "save_replay_buffer"):
            self.model.save_replay_buffer(folder / REPLAY_BUFFER)

    def _add(self, episode: EpisodeSummary) -> None:
        level = self.curriculum.level
        self._episodes.add({"step": self.num_timesteps, "level": level, **asdict(episode)})
        self.logger.record_mean("rollout/return", episode.returned)
        self.logger.record_mean(f"return/band_{episode.band}", episode.returned)
        for name, value in episode.terms.items():
            self.logger.record_mean(f"reward/{name}", value)
        if warning := self._watch.add(episode):
            LOG.warning("%s", warning)
        if self.curriculum.add(episode):
            self._set_bands()
            LOG.info("step %d: band %d is mastered (level %d)", self.num_timesteps, episode.band, self.curriculum.level)

    def _record(self) -> None:
        """Values of the curriculum, for the next dump of the logger."""
        self.logger.record("curriculum/level", self.curriculum.level)
        self.logger.record("time/cpu_s", self.cpu_s)
        for band, success in enumerate(self.curriculum.success):
            if success is not None:
                self.logger.record(f"success/band_{band}", success)

    def _set_bands(self) -> None:
        self.training_env.env_method("set_bands", self.curriculum.weights)


class RunLogWriter(KVWriter):
    """Writer of what Stable-Baselines3 logs: TensorBoard, progress.jsonl, and a line on the terminal."""

    def __init__(self, run: RunFolder, *, after: int, num_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import; --help should not pay it

        self._board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=after + 1)
        self._lines = JsonLines(run.folder / "progress.jsonl", after=after)
        self._num_steps, self._shown = num_steps, 0.0

    def write(self, key_values: Mapping[str, Any], key_excluded: Mapping[str, tuple[str, ...]], step: int = 0) -> None:
        values = {key: float(value) for key, value in key_values.items() if isinstance(value, (int, float, np.number))}
        for key, value in values.items():
            self._board.add_scalar(key, value, step)
        self._lines.add({"step": step, **values})
        if time.monotonic() - self._shown < LINE_SECONDS and step < self._num_steps:
            return
        self._shown = time.monotonic()
        bands = [f"{value:.0%}" for key, value in sorted(values.items()) if key.startswith("success/")]
        LOG.info(
            "%d of %d steps, level %d, success by band %s, %.0f CPU-s",
            step,
            self._num_steps,
            values.get("curriculum/level", 0),
            " ".join(bands) or "-",
            values.get("time/cpu_s", 0.0),
        )

    def close(self) -> None:
        self._board.close()


def logger_of(run: RunFolder, *, after: int, num_steps: int) -> Logger:
    """Logger for Stable-Baselines3."""
    return Logger(str(run.folder), [RunLogWriter(run, after=after, num_steps=num_steps)])
