"""Files of LeRobot's ACT checkpoints (0.6.1): where they lie, settings, statistics. Needs no torch.

```
config.json                                   type, settings, features with their shapes
model.safetensors                             weights
policy_preprocessor.json                      steps before the network; one names a file of statistics
policy_postprocessor.json                     steps behind it, likewise
policy_*_processor.safetensors                statistics, `<feature>.<mean|std|min|max|…>`
aloha_kit_contract.json                       where we wrote the folder: names, units and rate, which LeRobot lacks
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from aloha_kit.core import ConfigError, ContractError
from aloha_kit.data.stats import Array, IMAGENET, Moments, Statistics
from aloha_kit.policies.intact import CheckpointError, read_json

CONFIG, WEIGHTS, CONTRACT = "config.json", "model.safetensors", "aloha_kit_contract.json"
PRE, POST = "policy_preprocessor", "policy_postprocessor"
NORMALIZE, UNNORMALIZE = "normalizer_processor", "unnormalizer_processor"
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."

_WITHIN = ("", "pretrained_model", "checkpoints/last/pretrained_model")
_NEUTRAL_STEPS = {"rename_observations_processor", "to_batch_processor", "device_processor"}
"""Steps that change no number; a renaming is of the robot's names, and the network's are in config.json."""

_READ = {"type": "act", "feedforward_activation": "relu", "n_obs_steps": 1, "use_peft": False}
"""{setting: the value that is read}; anything else is refused."""


def find(path: Path) -> Path | None:
    """The folder of the files at a checkpoint, a checkpoint's step or a run; None where there is none."""
    for folder in (path / within for within in _WITHIN):
        try:
            if (folder / WEIGHTS).is_file() and {"type", "input_features"} <= read_json(folder / CONFIG).keys():
                return folder
        except ConfigError:  # none, or one that ours is to name
            continue
    return None


def read_config(folder: Path) -> dict[str, Any]:
    """The settings in `config.json`.

    Raises:
        CheckpointError: damaged, or a policy that is not read; names what it has.
    """
    config = read_json(folder / CONFIG)
    wrong = [f"{key} is {config[key]}, not {want}" for key, want in _READ.items() if config.get(key, want) != want]
    if not isinstance(config.get("output_features"), dict) or not isinstance(config.get("input_features"), dict):
        wrong.append("it names no features")
    if wrong:
        raise CheckpointError(
            "{folder}: of LeRobot's policies aloha_kit reads ACT as it comes: {wrong}",
            folder=folder,
            wrong="; ".join(wrong),
        )
    return config


def read_sizes(folder: Path, config: Mapping[str, Any]) -> tuple[int, int, dict[str, tuple[int, int]]]:
    """Entries of the state, entries of the action, and {camera: (height, width)} in LeRobot's order.

    Raises:
        CheckpointError: no state, no action, object poses, or an image that is no RGB image; names it.
    """
    cameras = {}
    try:
        (state,), (action,) = config["input_features"][STATE]["shape"], config["output_features"][ACTION]["shape"]
        for key, feature in config["input_features"].items():
            if feature["type"] == "ENV":
                raise CheckpointError("{folder} reads {key}, which a robot does not measure", folder=folder, key=key)
            if feature["type"] == "VISUAL":
                channels, height, width = feature["shape"]
                if channels != 3:
                    raise CheckpointError(
                        "{folder}: {key} has {channels} channels, not the 3 of RGB",
                        folder=folder,
                        key=key,
                        channels=channels,
                    )
                cameras[camera_of(key)] = (height, width)
    except KeyError as error:
        raise CheckpointError("{path} lacks {error} among its features", path=folder / CONFIG, error=error) from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            "{path}: features of an odd shape ({error})", path=folder / CONFIG, error=error
        ) from error
    return state, action, cameras


def camera_of(key: str) -> str:
    """Name of the camera of an image feature: `top` of `observation.images.top`."""
    return key.removeprefix(IMAGES).removeprefix("observation.")


def read_statistics(folder: Path, config: Mapping[str, Any]) -> Statistics:
    """Statistics of the two processors, so that mean and std are what the network's numbers are shifted and scaled by.

    Of MEAN_STD they are the data's; LeRobot adds its epsilon to the deviation on the way in alone. Other modes are a
    shift and a scale as well.

    Raises:
        CheckpointError: a file is missing or damaged, or the processors do more than is read; names it.
    """
    state, action, _ = read_sizes(folder, config)
    before, after = _Step.read(folder, PRE, NORMALIZE), _Step.read(folder, POST, UNNORMALIZE)
    for key, feature in config["input_features"].items():
        if feature["type"] == "VISUAL":
            before.require_imagenet(key)
    return Statistics(
        {"qpos": before.moments(STATE, "STATE", state), "action": after.moments(ACTION, "ACTION", action, inverse=True)}
    )


class _Step:
    """The step of a processor that normalises or undoes it."""

    def __init__(self, file: Path, config: Mapping[str, Any], stats: Mapping[str, Array]) -> None:
        self._file, self._stats = file, stats
        self._modes, self._eps = dict(config["norm_map"]), float(config["eps"])

    @classmethod
    def read(cls, folder: Path, processor: str, name: str) -> _Step:
        file = folder / f"{processor}.json"
        if not file.is_file():
            raise CheckpointError(
                "{folder} lacks {name}: a checkpoint of a LeRobot before 0.4, which had its statistics among the "
                "weights; LeRobot's lerobot.processor.migrate_policy_normalization writes it anew",
                folder=folder,
                name=file.name,
            )
        try:
            steps = {step["registry_name"]: step for step in read_json(file)["steps"]}
            if others := sorted(steps.keys() - _NEUTRAL_STEPS - {name}):
                raise CheckpointError(
                    "{file} has steps that aloha_kit does not read: {others}", file=file, others=", ".join(others)
                )
            return cls(file, steps[name]["config"], load_file(folder / steps[name]["state_file"]))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                "{file}: its statistics are missing or damaged: {error}", file=file, error=error
            ) from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError("{file} is not LeRobot's, or damaged: {error!r}", file=file, error=error) from error

    def moments(self, feature: str, role: str, size: int, *, inverse: bool = False) -> Moments:
        """Shift and scale of a feature as mean and std; `inverse` is the way out of the network."""
        prefix = f"{feature}."
        of = {key.removeprefix(prefix): value for key, value in self._stats.items() if key.startswith(prefix)}
        mode = self._modes.get(role, "IDENTITY") if of else "IDENTITY"
        if mode not in _AFFINE:
            raise CheckpointError(
                "{file} normalises {feature} by {mode}; known: {known}",
                file=self._file,
                feature=feature,
                mode=mode,
                known=", ".join(_AFFINE),
            )
        try:
            mean, std = _AFFINE[mode](of) if of else (np.zeros(size, np.float32), np.ones(size, np.float32))
            unknown = np.full(size, np.nan, np.float32)
            moments = Moments(mean, std, of.get("min", unknown), of.get("max", unknown), int(of.get("count", [0])[0]))
        except (ContractError, IndexError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                "{file}: statistics of {feature} that {mode} cannot use: {error}",
                file=self._file,
                feature=feature,
                mode=mode,
                error=error,
            ) from error
        if not inverse and mode == "MEAN_STD":
            return Moments(mean, std + np.float32(self._eps), moments.min, moments.max, moments.count)
        if not inverse and (still := np.flatnonzero(std == 0)).size:
            raise CheckpointError(
                "{file}: entry {entry} of {feature} never moved, and {mode} divides by its range",
                file=self._file,
                entry=still[0],
                feature=feature,
                mode=mode,
            )
        return moments

    def require_imagenet(self, feature: str) -> None:
        """Raise `CheckpointError` for images that are normalised otherwise than ours."""
        given = {name: self._stats.get(f"{feature}.{name}") for name in IMAGENET}
        alike = all(
            value is not None and value.size == 3 and np.allclose(value.ravel(), IMAGENET[name], atol=1e-4)
            for name, value in given.items()
        )
        mode = self._modes.get("VISUAL", "IDENTITY")
        if mode != "MEAN_STD" or not alike:
            raise CheckpointError(
                "{file} normalises {feature} by {mode} of other numbers than ImageNet's; aloha_kit reads what "
                "was trained with --dataset.use_imagenet_stats=true, the default",
                file=self._file,
                feature=feature,
                mode=mode,
            )


def _of_range(low: str, high: str) -> Callable[[Mapping[str, Array]], tuple[Array, Array]]:
    half = np.float32(0.5)
    return lambda of: ((of[low] + of[high]) * half, (of[high] - of[low]) * half)


_AFFINE: dict[str, Callable[[Mapping[str, Array]], tuple[Array, Array]]] = {
    "MEAN_STD": lambda of: (of["mean"], of["std"]),
    "MIN_MAX": _of_range("min", "max"),
    "IDENTITY": lambda of: (0 * of["mean"], 0 * of["mean"] + 1),
    "QUANTILES": _of_range("q01", "q99"),
    "QUANTILE10": _of_range("q10", "q90"),
}
"""{mode of LeRobot: shift and scale, of a feature's statistics}."""
