"""Training of one run: environments, networks, and the loop of Stable-Baselines3."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from aloha_kit.core import ConfigError, UsageError
from aloha_kit.core.commands import locked
from aloha_kit.core.errors import command
from aloha_kit.core.interrupt import stop_requests
from aloha_kit.core.run_log import run_log
from aloha_kit.rl.algorithms import Algorithm, ALGORITHMS, choose_device
from aloha_kit.rl.callback import logger_of, TrainingCallback
from aloha_kit.rl.curriculum import Curriculum, ZeroRewardWatch
from aloha_kit.rl.environment import describe, EnvironmentSetup, require_same
from aloha_kit.rl.episodes import bands_of
from aloha_kit.rl.groups import ObservationGroups
from aloha_kit.rl.run_folder import Checkpoint, MODEL, NORMALISER, REPLAY_BUFFER, RunFolder
from aloha_kit.rl.vector_env import environments, normalised

LOG = logging.getLogger(__name__)


def train(run: RunFolder, settings: Mapping[str, Any], *, resume: bool, title: str) -> None:
    """Train a run, or go on with it, until its number of steps or a signal.

    Args:
        title: of this session, for the log.

    Raises:
        ConfigError: a task, group or device that is not there, or a run that cannot be resumed.
        ContractError: a resumed run's environment has changed.
        UsageError: a resumed run has reached its number of steps.
        EnvironmentProcessError: a process of an environment ended.
        KeyboardInterrupt: the signal that stopped it, after everything was saved.
    """
    size = tuple(settings["image_size"])
    setup = (
        EnvironmentSetup.from_json(run.environment(), settings["observe"])
        if resume
        else EnvironmentSetup.of(settings["task"], settings["observe"], (size[0], size[1]))
    )
    with contextlib.closing(setup.connect()) as env:  # errors are raised once, and not by every process
        groups = ObservationGroups(settings["observe"], env.contract, setup.rig.cameras)
        device = choose_device(settings["device"], images=bool(setup.task.cameras))
        curriculum, watch = (
            Curriculum(max(len(bands_of(env)), 1), enabled=settings["curriculum"]),
            ZeroRewardWatch(bands_of(env)),
        )
        if resume:
            require_same(run.environment(), env)
        described = describe(setup, env)
    checkpoint = run.checkpoint() if resume else None
    done = int(checkpoint.state["steps"]) if checkpoint else 0
    if done >= settings["num_steps"]:
        raise UsageError(
            "already at step {done}; give a larger --num_steps than {num_steps}",
            done=done,
            num_steps=settings["num_steps"],
        )
    torch.set_num_threads(1)
    with locked(run.folder, "training"), run_log(run.folder, title), stop_requests() as stop:
        if resume:
            run.write_settings(settings)
        else:
            run.create(settings, described)
        with _environments(setup, settings, done) as vector:
            model = _model(ALGORITHMS[settings["algorithm"]], settings, vector, groups, device, checkpoint)
            if checkpoint:
                curriculum.restore(checkpoint.state["curriculum"])
            vector.env_method("set_bands", curriculum.weights)  # before the first reset
            callback = TrainingCallback(
                run,
                curriculum,
                watch,
                save_every=settings["save_every"],
                stop=stop,
                done=done,
                spent=checkpoint.state["cpu_s"] if checkpoint else 0.0,
            )
            model.set_logger(logger_of(run, after=done, num_steps=settings["num_steps"]))
            LOG.info("%s on %s from step %d; stop and save with Ctrl-C", settings["algorithm"], device, done)
            model.learn(settings["num_steps"] - done, callback, reset_num_timesteps=checkpoint is None)
            folder = callback.save()
            model.logger.close()
    by_band = " ".join("-" if success is None else f"{success:.0%}" for success in curriculum.success)
    done, cpu_s = model.num_timesteps, callback.cpu_s
    print(f"{done} steps, {cpu_s:.0f} CPU-s, level {curriculum.level}, success by band {by_band}; saved in {folder}")
    if stopped := stop():
        LOG.info(
            "stopped by %s and saved; go on with: %s. A long run outlives its terminal in tmux",
            stopped,
            command("rl", "train", "--resume", run.folder),
        )
        raise KeyboardInterrupt(stopped)


def _environments(
    setup: EnvironmentSetup, settings: Mapping[str, Any], done: int
) -> contextlib.AbstractContextManager[VecEnv]:
    processes = {"auto": bool(setup.task.cameras), "yes": True, "no": False}[settings["processes"]]
    return environments(setup, settings["num_envs"], processes=processes, seed=settings["seed"], done=done)


def _model(
    algorithm: Algorithm,
    settings: Mapping[str, Any],
    vector: Any,
    groups: ObservationGroups,
    device: str,
    checkpoint: Checkpoint | None,
) -> BaseAlgorithm:
    """A new network in normalised environments, or the one of a checkpoint."""
    saved = checkpoint.folder if checkpoint else None
    normaliser: VecNormalize = normalised(
        vector,
        list(groups.vectors),
        settings["gamma"],
        rewards=algorithm.rewards,
        saved=saved / NORMALISER if saved else None,
    )
    set_random_seed(settings["seed"] + (checkpoint.state["steps"] if checkpoint else 0))
    if saved is not None:
        try:
            model = algorithm.kind.load(saved / MODEL, env=normaliser, device=device)
        except (OSError, ValueError, AssertionError) as error:  # AssertionError: a model.zip that was cut
            raise ConfigError("{saved} cannot be resumed: {error}", saved=saved, error=error) from error
        if (saved / REPLAY_BUFFER).is_file():
            model.load_replay_buffer(saved / REPLAY_BUFFER)  # type: ignore[attr-defined]
        return model
    kind: Any = algorithm.kind  # arguments differ
    return kind(  # type: ignore[no-any-return]
        "MultiInputPolicy",  # NatureCNN for images, beside the vectors
        normaliser,
        learning_rate=settings["lr"],
        gamma=settings["gamma"],
        batch_size=settings["batch_size"],
        device=device,
        **algorithm.arguments(settings),
    )
