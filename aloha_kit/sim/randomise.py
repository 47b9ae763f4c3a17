"""Random appearance of a scene (light, colours, cameras), drawn at each reset; its physics stays the same."""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np
import numpy.typing as npt

from aloha_kit.core import ConfigError, did_you_mean

OPTIONS = {
    "light": "strength (by up to this share) and direction of the lights",
    "colour": "colours of arms and objects, by up to this much of each channel",
    "table": "colour of the table, by up to this much of each channel",
    "camera_jitter": "cameras, by up to this many metres along each axis and four times as many radians about it",
}
"""{name: what its amount scales}; 0 is off."""


class Randomiser:
    """Random appearance of a model, from the same unchanged model at each reset.

    Raises:
        ConfigError: an unknown option (names the nearest), or an amount that is negative or not finite.
    """

    def __init__(self, model: mujoco.MjModel, amounts: Mapping[str, float]) -> None:
        for name, amount in amounts.items():
            if name not in OPTIONS:
                raise ConfigError("no randomisation '{name}'. {known}", name=name, known=did_you_mean(name, OPTIONS))
            if not (np.isfinite(amount) and amount >= 0):
                raise ConfigError(
                    "randomisation '{name}' needs an amount of at least 0, given {amount}", name=name, amount=amount
                )
        self.amounts = {name: float(amount) for name, amount in amounts.items()}
        self._model = model
        self._light = (model.light_diffuse.copy(), model.light_dir.copy())
        self._rgba = model.mat_rgba.copy()
        self._camera = (model.cam_pos.copy(), model.cam_quat.copy())
        self._material = [model.mat(i).name for i in range(model.nmat)]

    def apply(self, rng: np.random.Generator) -> None:
        """Draw every option anew; each has its own stream, so one does not change another's draw."""
        streams = dict(zip(OPTIONS, rng.spawn(len(OPTIONS)), strict=True))
        for name, amount in self.amounts.items():
            if name == "light":
                self._lights(streams[name], amount)
            elif name == "camera_jitter":
                self._cameras(streams[name], amount)
            else:
                self._colours(streams[name], amount, name)

    def _lights(self, rng: np.random.Generator, amount: float) -> None:
        diffuse, direction = self._light
        share = 1.0 + rng.uniform(-amount, amount, (len(diffuse), 1))
        self._model.light_diffuse[:] = np.clip(diffuse * share, 0.0, 1.0)
        turned = direction + rng.uniform(-0.5 * amount, 0.5 * amount, direction.shape)
        self._model.light_dir[:] = turned / np.linalg.norm(turned, axis=1, keepdims=True)

    def _colours(self, rng: np.random.Generator, amount: float, what: str) -> None:
        for row, name in enumerate(self._material):
            shift = rng.uniform(-amount, amount, 3)
            if (name == "table") == (what == "table"):
                self._model.mat_rgba[row, :3] = np.clip(self._rgba[row, :3] + shift, 0.0, 1.0)

    def _cameras(self, rng: np.random.Generator, amount: float) -> None:
        position, quaternion = self._camera
        self._model.cam_pos[:] = position + rng.uniform(-amount, amount, position.shape)
        turns = rng.uniform(-4.0 * amount, 4.0 * amount, position.shape)
        for row, turn in enumerate(turns):
            self._model.cam_quat[row] = _turned(quaternion[row], turn)


def _turned(quaternion: npt.NDArray[np.float64], turn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`quaternion` after a small rotation vector `turn` (rad) in its own frame."""
    angle = float(np.linalg.norm(turn))
    small = np.zeros(4)
    mujoco.mju_axisAngle2Quat(small, turn / max(angle, 1e-12), angle)
    result = np.zeros(4)
    mujoco.mju_mulQuat(result, quaternion, small)
    return result
