"""A trained policy as a `Policy` of this package, rebuilt from its run's folder."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

# Before anything makes a GL context: software EGL and torch's compiler stack otherwise crash one another (two LLVMs).
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from aloha_kit.core import Action, ConfigError, Contract, ContractError, Environment, Observation
from aloha_kit.rl.actions import ActionMapping
from aloha_kit.rl.algorithms import ALGORITHMS, choose_device
from aloha_kit.rl.environment import EnvironmentSetup, require_same
from aloha_kit.rl.groups import ObservationGroups
from aloha_kit.rl.run_folder import Checkpoint, MODEL, NORMALISER, RunFolder


class RLPolicy:
    """A policy of reinforcement learning, without exploration.

    Args:
        env: the environment that it acts in.
    """

    def __init__(
        self, model: BaseAlgorithm, normaliser: VecNormalize, groups: tuple[str, ...], env: Environment
    ) -> None:
        self._model, self._normaliser = model, normaliser
        self._groups, self._mapping = ObservationGroups(groups, env.contract), ActionMapping(env)

    def reset(self) -> None:
        self._mapping.reset()

    def act(self, observation: Observation) -> Action:
        normalised = self._normaliser.normalize_obs(self._groups.read(observation))
        values, _ = self._model.predict(normalised, deterministic=True)
        return self._mapping.command(values, observation)


@dataclass(frozen=True)
class LoadedRun:
    """A run that was loaded: its folder, environment and networks."""

    run: RunFolder
    setup: EnvironmentSetup
    checkpoint: Checkpoint
    model: BaseAlgorithm
    normaliser: VecNormalize

    @classmethod
    def load(cls, folder: Path, device: str) -> LoadedRun:
        """Load the newest checkpoint of a run. It holds pickles, which run code: load runs that you trust only.

        Raises:
            ConfigError: no run, no checkpoint, or a damaged one.
            ContractError: config.yaml, env.json and the network do not agree.
        """
        run = RunFolder(folder)
        settings, recorded, checkpoint = run.settings(), run.environment(), run.checkpoint()
        if checkpoint is None:
            raise ConfigError("'{folder}' has no checkpoint yet: it was stopped before its first one", folder=folder)
        if settings["observe"] != recorded["observe"]:
            raise ContractError(
                "'{folder}': observe is {observe} in config.yaml and {recorded} in env.json",
                folder=folder,
                observe=settings["observe"],
                recorded=recorded["observe"],
            )
        algorithm = ALGORITHMS.get(settings["algorithm"])
        if algorithm is None:
            raise ConfigError(
                "'{folder}': algorithm is '{algorithm}', expected {algorithms}",
                folder=folder,
                algorithm=settings["algorithm"],
                algorithms=", ".join(ALGORITHMS),
            )
        try:
            model = algorithm.kind.load(checkpoint.folder / MODEL, device=choose_device(device, images=False))
            normaliser = pickle.loads((checkpoint.folder / NORMALISER).read_bytes())
        except (OSError, ValueError, KeyError, EOFError, AssertionError, pickle.UnpicklingError) as error:
            raise ConfigError("{folder} cannot be loaded: {error}", folder=checkpoint.folder, error=error) from error
        loaded = cls(
            run,
            EnvironmentSetup.from_json(recorded, settings["observe"]),
            checkpoint,
            model,
            normaliser,
        )
        loaded.require_spaces(ObservationGroups(settings["observe"], _contract(recorded)))
        return loaded

    def require_spaces(self, groups: ObservationGroups) -> None:
        """Raise `ContractError` where the network reads other groups than the run states."""
        trained = getattr(self.model.observation_space, "spaces", {})
        for name in dict.fromkeys((*trained, *groups.names)):
            was, now = trained.get(name), groups.space.spaces.get(name)
            if was is None or now is None or was.shape != now.shape:
                shapes = [getattr(each, "shape", "missing") for each in (was, now)]
                raise ContractError(
                    "observation group '{name}': the network reads {read}, the run has {given}",
                    name=name,
                    read=shapes[0],
                    given=shapes[1],
                )

    def connect(self, cameras: tuple[str, ...] = (), size: tuple[int, int] | None = None) -> Environment:
        """The environment of the run, with further cameras.

        Raises:
            ContractError: it is not the one of the training; names every difference.
        """
        env = self.setup.with_cameras(cameras, size).connect()
        try:
            require_same(self.run.environment(), env)
        except ContractError:
            env.close()
            raise
        return env

    def policy(self, env: Environment) -> RLPolicy:
        """The policy in an environment that `connect` gave."""
        return RLPolicy(self.model, self.normaliser, self.setup.observe, env)


def _contract(recorded: dict[str, object]) -> Contract:
    return Contract.from_json(json.dumps(recorded["contract"]))
