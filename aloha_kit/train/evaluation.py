"""Rollouts in simulation during training: the only part of training that needs a simulator."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dm_env
import numpy as np
import numpy.typing as npt

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.config.match_checkpoint import match_checkpoint
from aloha_kit.config.training import TrainConfig
from aloha_kit.control.history import with_history
from aloha_kit.control.simulated_latency import Execution
from aloha_kit.core import Action, ConfigError, Contract, Environment
from aloha_kit.envs import connect
from aloha_kit.loop import Outcome, run_episode
from aloha_kit.loop.capabilities import render_on_request
from aloha_kit.policies.chunk_policy import ChunkPolicy
from aloha_kit.policies.language import set_instruction
from aloha_kit.policies.network import ChunkNetwork
from aloha_kit.train.metrics import ROLLOUT_COLUMNS, success_of
from aloha_kit.train.progress import Progress

FIRST_SEED = 1_000_000  # far from the seeds that demonstrations are recorded with


class TasksEvaluator:
    """Success rates in one task or several, each with its own instruction.

    Args:
        tasks: of different names.
        folder: of the videos; those of several tasks are in folders of their names.
        stop: true ends the rollouts.
    """

    def __init__(
        self,
        tasks: Sequence[TaskConfig],
        config: TrainConfig,
        folder: Path,
        progress: Progress,
        stop: Callable[[], object] = lambda: False,
    ) -> None:
        several = len(tasks) > 1
        self._each = {
            task.name: SimEvaluator(
                task,
                config,
                folder / task.name if several else folder,
                progress,
                stop,
                video_name=f"rollout/{task.name}" if several else "rollout",
            )
            for task in tasks
        }

    def __call__(self, network: ChunkNetwork, step: int) -> dict[str, float] | None:
        """Means of the tasks with the names of `ROLLOUT_COLUMNS`, seconds added up, and of several tasks each one's
        success as `success_of` names it; None if training was stopped.

        Raises:
            ContractError, ConfigError: as `SimEvaluator`.
        """
        results: dict[str, dict[str, float]] = {}
        for name, evaluate in self._each.items():
            found = evaluate(network, step)
            if found is None:
                return None
            results[name] = found
        if len(results) == 1:
            return next(iter(results.values()))
        means = {column: statistics.mean(each[column] for each in results.values()) for column in ROLLOUT_COLUMNS}
        seconds = {"rollouts_s": sum(each["rollouts_s"] for each in results.values())}
        return means | seconds | {success_of(name): each["success_rate"] for name, each in results.items()}


class SimEvaluator:
    """Success rate in one task over the same few start states each time, with a video of the first one."""

    def __init__(
        self,
        task: TaskConfig,
        config: TrainConfig,
        folder: Path,
        progress: Progress,
        stop: Callable[[], object] = lambda: False,
        video_name: str = "rollout",
    ) -> None:
        self._task, self._config, self._folder, self._progress, self._stop = task, config, folder, progress, stop
        self._video_name = video_name
        self._env: Environment | None = None

    def __call__(self, network: ChunkNetwork, step: int) -> dict[str, float] | None:
        """Means over the rollouts, with the names of `ROLLOUT_COLUMNS`; None if training was stopped between two.

        Raises:
            ContractError: the simulation does not provide what the policy was trained on, or the policy was not
                trained on the task's instruction.
            ConfigError: the task has no reward.
        """
        env = self._connected(network.contract)
        set_instruction(network, None, self._task.name, self._task.instruction)
        source = ChunkPolicy(network, str(next(network.parameters()).device), seed=FIRST_SEED)
        execution = Execution(self._config.temporal_agg)
        execution = execution.with_default(
            network.config.n_action_steps, network.chunk_size, network.config.ensemble_weight
        )
        policy = with_history(execution.executor(source), network.config.n_obs_steps, network.contract.cameras)
        began, totals = time.monotonic(), np.zeros(4)
        for i in range(self._config.eval_rollouts):
            if self._stop():
                return None
            env.seed(FIRST_SEED + i)
            video, rewards = _FirstCamera(), _Return()
            outcome = run_episode(env, policy, [rewards, video] if i == 0 else [rewards])
            totals += (bool(env.succeeded(outcome)), rewards.total, outcome.max_reward, outcome.steps)
            if i == 0 and video.frames:
                self._write_video(video.frames, step)
        means = (totals / self._config.eval_rollouts).tolist()
        return dict(zip(ROLLOUT_COLUMNS, (*means, time.monotonic() - began), strict=True))

    def _connected(self, contract: Contract) -> Environment:
        """The task's environment with the policy's action space and cameras, at the sizes it was trained on; it renders
        images only when an inference or the video reads them."""
        if self._env is None:
            task, rig = match_checkpoint(self._task, load(RigConfig, "rigs", self._task.rig), contract)
            env: Any = connect(task, rig)
            render_on_request(env)
            if not env.measures_success:
                raise ConfigError("--eval_every counts successes; there is no reward in task '{task}'", task=task.name)
            contract.require(env.contract, mine="the policy", theirs=f"the simulation of '{task.name}'")
            self._env = env
        return self._env

    def _write_video(self, frames: list[npt.NDArray[np.uint8]], step: int) -> None:
        from aloha_kit.media.mp4 import Mp4Writer

        with Mp4Writer(self._folder / f"step_{step}.mp4", self._task.rate_hz) as video:
            for frame in frames:
                video.add(frame)
        smaller = max(frames[0].shape[1] // 320, 1)
        self._progress.video(self._video_name, step, np.stack(frames)[:, ::smaller, ::smaller], self._task.rate_hz)


class _Return:
    """Observer that adds up the rewards of an episode."""

    def __init__(self) -> None:
        self.total = 0.0

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        """The first observation has no reward."""

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        self.total += float(timestep.reward or 0.0)

    def on_end(self, outcome: Outcome) -> None:
        """Nothing to close."""


class _FirstCamera:
    """Observer that records the first camera's images of an episode."""

    def __init__(self) -> None:
        self.frames: list[npt.NDArray[np.uint8]] = []

    def on_reset(self, timestep: dm_env.TimeStep) -> None:
        self._add(timestep)

    def on_step(self, action: Action, timestep: dm_env.TimeStep) -> None:
        self._add(timestep)

    def on_end(self, outcome: Outcome) -> None:
        """Nothing to close."""

    def _add(self, timestep: dm_env.TimeStep) -> None:
        images = timestep.observation["images"]
        if images:
            self.frames.append(next(iter(images.values())).copy())
