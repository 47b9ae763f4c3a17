"""Algorithms of Stable-Baselines3: a line is the class and its arguments from the settings of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from aloha_kit.core import ConfigError
from aloha_kit.rl.groups import IMAGE_GROUP

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Algorithm:
    """An algorithm.

    Attributes:
        arguments: of the class, from the settings of a run.
        rewards: whether rewards are normalised; not for one that keeps old ones.
    """

    kind: type[BaseAlgorithm]
    arguments: Callable[[Settings], dict[str, Any]]
    rewards: bool


def _ppo(settings: Settings) -> dict[str, Any]:
    return {
        "n_steps": settings["rollout_steps"],
        "n_epochs": settings["epochs"],
        "gae_lambda": 0.95,
        "policy_kwargs": {"log_std_init": settings["log_std_init"]},
    }


def _sac(settings: Settings) -> dict[str, Any]:
    images = any(name.endswith(IMAGE_GROUP) for name in settings["observe"])  # 25 kB a step of 64 x 64 pixels
    return {
        "buffer_size": 40_000 if images else 200_000,
        "learning_starts": min(1000, settings["num_steps"] // 10),
        "train_freq": 1,
        "gradient_steps": settings["num_envs"],
    }


ALGORITHMS = {"ppo": Algorithm(PPO, _ppo, rewards=True), "sac": Algorithm(SAC, _sac, rewards=False)}


def choose_device(name: str, *, images: bool) -> str:
    """The device of the networks: `auto` is a GPU where there is one and images are read, else the CPU.

    Raises:
        ConfigError: the device is not there.
    """
    if name == "auto":
        name = "cuda" if images and torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError("device '{name}' cannot be used: {error}", name=name, error=error) from error
    return name
