"""Presets of a reproduction: configs/reproduce/NAME.yaml.

A preset holds values for all tasks, and under `tasks` the values that differ for one of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aloha_kit.config import find, from_mapping, load, names
from aloha_kit.config.load import read
from aloha_kit.config.policies import load_policy
from aloha_kit.config.training import TrainConfig
from aloha_kit.core import ConfigError, did_you_mean
from aloha_kit.core.lang import Message

SIM = ("transfer_cube", "insertion", "insertion_human")
_FIXED = {
    "seed": Message("it is given by --seeds"),
    "device": Message("it stands beside `train`, since evaluation uses it too"),
    "num_epochs": Message("a reproduction is counted in steps: give num_steps"),
    "time_limit_s": Message("it would make a result depend on the machine: give num_steps"),
}
"""Values of training that a preset cannot have, and why."""


@dataclass(frozen=True)
class Target:
    """Success rate, coverage and wall time to reach; None where there is no limit."""

    success: float | None = None
    """Share of the rollouts, all seeds together, that have the highest reward at the last step."""
    minutes: float | None = None
    """Wall time of all stages, with one training seed."""
    coverage: float | None = None
    """Push-T: mean over the rollouts of each one's best reward, coverage / 0.95 up to 1."""

    def __post_init__(self) -> None:
        if self.success is None and self.coverage is None:
            raise ValueError(Message("give success, coverage or both"))
        for name, value in (("success", self.success), ("coverage", self.coverage)):
            if value is not None and not 0 < value <= 1:
                raise ValueError(
                    Message("{name} must lie above 0 and up to 1, given {value:g}", name=name, value=value)
                )


@dataclass(frozen=True)
class RecordingFlags:
    """Flags of `aloha_kit.record`; None is the command's default."""

    num_episodes: int
    image_size: tuple[int, int] | None = None  # (height, width)
    cameras: tuple[str, ...] | None = None
    noise: float | None = None
    seed: int | None = None  # of the first episode


@dataclass(frozen=True)
class Evaluation:
    """Flags of `aloha_kit.eval` (None is the command's default), and the checkpoint that is evaluated."""

    checkpoint: Literal["best", "last"] = "best"
    temporal_agg: bool | None = None
    n_action_steps: int | None = field(default=None, metadata={"aliases": ("horizon",)})


@dataclass(frozen=True)
class Preset:
    """Values of all stages, for one task."""

    device: str
    target: Target
    record: RecordingFlags
    train: dict[str, Any]  # flags of `aloha_kit.train` without their dashes: policy, recipe, values of both
    eval: Evaluation = field(default_factory=Evaluation)
    only: tuple[str, ...] = SIM  # tasks that it is for
    published: str = ""  # figure of a paper, for the table

    @property
    def training(self) -> TrainConfig:
        """The training configuration that `aloha_kit.train` reads from the flags.

        Raises:
            ConfigError: an unknown policy or recipe, or a wrong value.
        """
        given = {key: value for key, value in self.train.items() if key in _fields(TrainConfig)}
        policy = Path(self.policy).stem
        recipe = self.train.get("recipe", policy if policy in names("training") else None)
        if recipe is None:
            return from_mapping(TrainConfig, given)
        return load(TrainConfig, "training", recipe, **given)

    @property
    def policy(self) -> str:
        """Name or path of the policy that is trained."""
        return str(self.train.get("policy", "act"))


def load_preset(name: str, task: str) -> Preset:
    """A preset by name or path, with the values of `task`.

    Raises:
        ConfigError: not found, not YAML, an unknown key or flag, a wrong value, or of other tasks; names what exists.
    """
    path = find("reproduce", name)
    raw = read(path)
    special = raw.pop("tasks", None) or {}
    if not isinstance(special, dict) or not isinstance(special.get(task, {}), dict):
        raise ConfigError("{path}: tasks must hold values by task, given {special!r}", path=path, special=special)
    preset = from_mapping(Preset, _merged(raw, special.get(task, {})), where=str(path))
    if task not in preset.only:
        fitting = [known for known in names("reproduce") if task in read(find("reproduce", known)).get("only", SIM)]
        raise ConfigError(
            "preset '{stem}' is for {only}, not {task}; give --preset {fitting}",
            stem=path.stem,
            only=", ".join(preset.only),
            task=task,
            fitting=" or ".join(fitting),
        )
    _check_training(preset, f"{path}: train")
    return preset


def _merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with those of `over` in their place, section by section."""
    both = dict(values)
    for key, value in over.items():
        mine = both.get(key)
        both[key] = _merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return both


def _check_training(preset: Preset, where: str) -> None:
    """Raise `ConfigError` for a wrong flag now, and not after the recording."""
    network = load_policy(preset.policy)
    known = {"policy", "recipe"} | _fields(TrainConfig) | _fields(type(network))
    for key in preset.train:
        if key in _FIXED:
            raise ConfigError("{where}: {key} cannot be set here, {fixed}", where=where, key=key, fixed=_FIXED[key])
        if key not in known:
            raise ConfigError(
                "{where}: unknown flag '{key}'. {known}",
                where=where,
                key=key,
                known=did_you_mean(key, known - _FIXED.keys()),
            )
    load_policy(preset.policy, **{key: v for key, v in preset.train.items() if key in _fields(type(network))})
    if preset.training.num_epochs is not None:
        raise ConfigError(
            "{where}: the recipe of '{policy}' counts in epochs; give a recipe with num_steps",
            where=where,
            policy=preset.policy,
        )


def _fields(cls: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}
