"""Environment of a run: connected from a task or from a run's folder, and compared with what it was trained in."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aloha_kit import envs
from aloha_kit.config import from_mapping, load, RigConfig, TaskConfig, to_mapping
from aloha_kit.core import ConfigError, Contract, ContractError, did_you_mean, Environment
from aloha_kit.core.versions import package_version
from aloha_kit.rl.actions import ActionMapping
from aloha_kit.rl.episodes import bands_of
from aloha_kit.rl.groups import cameras_of

LOG = logging.getLogger(__name__)

PACKAGES = ("stable_baselines3", "gymnasium", "torch", "numpy", "mujoco", "dm_control")


@dataclass(frozen=True)
class EnvironmentSetup:
    """Task and rig of a run, with the cameras that its observation groups read and no others."""

    task: TaskConfig
    rig: RigConfig
    observe: tuple[str, ...]

    @classmethod
    def of(cls, task: str, observe: Sequence[str], image_size: tuple[int, int]) -> EnvironmentSetup:
        """Setup of a task by its name or path.

        Raises:
            ConfigError: an unknown task, or one that is not simulated.
        """
        config = load(TaskConfig, "tasks", task)
        rig = load(RigConfig, "rigs", config.rig)
        if envs.is_robot(rig):
            raise ConfigError(
                "task '{name}' is done on rig '{rig}', which is no simulation: policies learn in simulation only",
                name=config.name,
                rig=rig.name,
            )
        cameras = cameras_of(observe, rig.cameras)
        rig = _resized(rig, dict.fromkeys(cameras, image_size))
        return cls(replace(config, cameras=cameras, depth_cameras=(), image_size=None), rig, tuple(observe))

    @classmethod
    def from_json(cls, values: Mapping[str, Any], observe: Sequence[str]) -> EnvironmentSetup:
        """Setup of a run, from its env.json; raises ConfigError for values that are none."""
        task = from_mapping(TaskConfig, values["task"], where="env.json: task")
        rig = from_mapping(RigConfig, values["rig"], where="env.json: rig")
        return cls(task, rig, tuple(observe))

    def with_cameras(self, cameras: Sequence[str], size: tuple[int, int] | None = None) -> EnvironmentSetup:
        """The same with further cameras of the rig.

        Args:
            size: height and width of those that the policy does not read; the rig's when not given.

        Raises:
            ConfigError: a camera that the rig has not.
        """
        for name in cameras:
            if name not in self.rig.cameras:
                raise ConfigError(
                    "rig '{rig}' has no camera '{name}'. {known}",
                    rig=self.rig.name,
                    name=name,
                    known=did_you_mean(name, self.rig.cameras),
                )
        more = tuple(name for name in dict.fromkeys(cameras) if name not in self.task.cameras)
        rig = _resized(self.rig, dict.fromkeys(more, size)) if size else self.rig
        return replace(self, rig=rig, task=replace(self.task, cameras=(*self.task.cameras, *more)))

    def connect(self) -> Environment:
        """The environment; raises ConfigError where nothing measures success, or as `envs.connect` does."""
        env = envs.connect(self.task, self.rig)
        if not env.measures_success:
            env.close()
            raise ConfigError(
                "nothing measures success in task '{name}', so nothing can be learnt from it", name=self.task.name
            )
        return env


def describe(setup: EnvironmentSetup, env: Environment) -> dict[str, Any]:
    """Values of env.json: what the policy was trained in."""
    return {
        "task": to_mapping(setup.task),
        "rig": to_mapping(setup.rig),
        "observe": list(setup.observe),
        "cameras": list(setup.task.cameras),
        "contract": json.loads(env.contract.to_json()),
        "bands": [list(band) for band in bands_of(env)],
        "actions": ActionMapping(env).space.shape[0],
        "versions": versions(),
    }


def require_same(recorded: Mapping[str, Any], env: Environment) -> None:
    """Require the environment that a run was trained in; other versions of packages are a warning.

    Raises:
        ContractError: it has other features, bands or actions; names every difference.
    """
    trained = Contract.from_json(json.dumps(recorded["contract"]))
    found = [str(line) for line in trained.differences(env.contract)]
    bands, actions = [list(band) for band in bands_of(env)], ActionMapping(env).space.shape[0]
    for name, was, now in (("bands", recorded["bands"], bands), ("actions", recorded["actions"], actions)):
        if was != now:
            found.append(f"{name}: {was} against {now}")
    if found:
        lines = "\n  ".join(found)
        raise ContractError("the environment is not the one of the run:\n  {lines}", lines=lines)
    now_there = versions()
    for name, version in recorded["versions"].items():
        if now_there.get(name) != version:
            LOG.warning("trained with %s %s, here is %s", name, version, now_there.get(name, "none"))


def versions() -> dict[str, str]:
    """{package: version} of what a policy depends on."""
    found = {"aloha_kit": package_version(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _resized(rig: RigConfig, sizes: Mapping[str, tuple[int, int] | None]) -> RigConfig:
    cameras = dict(rig.cameras)
    for name, size in sizes.items():
        if size is not None:
            cameras[name] = replace(cameras[name], height=size[0], width=size[1])
    return replace(rig, cameras=cameras)
