"""`PushT`: a disc pushes a T-shaped block onto its goal; gym-pusht's physics behind the contract of environments."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import dm_env
import numpy as np
import numpy.typing as npt
from gym_pusht.envs.pusht import PushTEnv

from aloha_kit.core import (
    Action,
    Clock,
    ConfigError,
    did_you_mean,
    Observation,
    Policy,
    SafetyLimits,
    SimulatedEnvironment,
    time_step,
)
from aloha_kit.core.pusht import contract, RATE_HZ, SCENES, SIZE
from aloha_kit.pusht.expert import PushExpert


class PushT(SimulatedEnvironment):
    """The Push-T task (Chi et al., 2023) with gym-pusht's physics, starts, images, reward and success.

    Observation: `qpos` (2,) px, the agent's position; `environment_state`, see `core.pusht.SCENES` (px; the angle in
    rad, 0 to 2π); `images` {camera: (H, W, 3) uint8 RGB}. Action (2,) px: the agent's target position, which a PD
    controller follows at 100 Hz. The reward is the coverage of the goal / 0.95, at most 1. An episode ends as a success
    as soon as the coverage is above 0.95.

    The start of a seed is gym-pusht's of the same seed, which is not the pose that it draws: it sets the position
    before the angle, and an angle turns the block about its centre of gravity (see `place`).

    Args:
        scene: a name of `core.pusht.SCENES`.
        cameras: {name: (height, width)} of images, all of the whole plane; none for state alone.
        rate_hz: 10, the rate of its physics.
        episode_len: actions until LAST, where the block does not reach the goal before.
        clock: what `step` waits on: a `VirtualClock` runs as fast as it computes, a `WallClock` in real time.

    Attributes:
        late_ns: how late the last deadline was met.

    Raises:
        ConfigError: an unknown scene, or a rate that cannot be.
    """

    def __init__(
        self,
        scene: str = "state",
        *,
        cameras: Mapping[str, tuple[int, int]] | None = None,
        rate_hz: float = RATE_HZ,
        episode_len: int = 300,
        clock: Clock | None = None,
    ) -> None:
        if scene not in SCENES:
            raise ConfigError("Push-T has no scene '{scene}'. {known}", scene=scene, known=did_you_mean(scene, SCENES))
        if rate_hz != RATE_HZ:
            raise ConfigError(
                "Push-T runs at {expected:g} Hz, given rate_hz {rate_hz:g}", expected=RATE_HZ, rate_hz=rate_hz
            )
        self._scene, self._episode_len = scene, episode_len
        self._contract = contract(scene, cameras or {})
        self._limits = SafetyLimits.of(self._contract, lower=0, upper=SIZE, speed=SIZE * RATE_HZ, ramp=1)
        super().__init__(RATE_HZ, clock)
        self.late_ns = 0
        self.physics = PushTEnv(obs_type="state")

    @property
    def rest_action(self) -> Action:
        """(2,) px, the middle of the lower edge, where nothing is demonstrated."""
        return np.array([SIZE / 2, SIZE - 32], np.float32)

    @property
    def max_reward(self) -> float:
        return 1.0

    def expert(self, *, noise: float = 0.0, seed: int = 0) -> Policy:
        """An expert that chooses among pushes, see `PushExpert`."""
        return PushExpert(self.physics, noise=noise, seed=seed)

    def describe(self) -> dict[str, Any]:
        return {"scene": self._scene, "seed": self._seed, "gym_pusht": importlib.metadata.version("gym-pusht")}

    def reset(self) -> dm_env.TimeStep:
        self.physics.reset(seed=self._begin())
        return self._restart()

    def place(self, agent: npt.ArrayLike, block: npt.ArrayLike) -> dm_env.TimeStep:
        """Begin an episode with the agent at (x, y) px and the block at exactly (x, y, angle), px and rad."""
        self.physics.reset(seed=self._seed)
        self.physics.agent.position = tuple(map(float, np.asarray(agent)))
        x, y, angle = map(float, np.asarray(block))
        self.physics.block.angle = angle  # first, since it moves the position
        self.physics.block.position = (x, y)
        self.physics.space.reindex_shapes_for_body(self.physics.block)
        return self._restart()

    def step(self, action: Action) -> dm_env.TimeStep:
        """Give the agent its target, let a tenth of a second pass, observe.

        Raises:
            ValueError: an action of another shape, or one that is not finite.
        """
        if self._steps is None:
            return self.reset()
        command = np.clip(self.checked(action), 0.0, SIZE)
        command_ns = self._clock.now_ns()
        _, reward, success, _, _ = self.physics.step(command)
        self.late_ns = self._rate.sleep()
        self._steps += 1
        observation = self._observe(command=command_ns)
        last = success or self._steps >= self._episode_len
        if last:
            self._steps = None
        return time_step(float(reward), observation, last=last, success=success)

    def close(self) -> None:
        self.physics.close()

    def _restart(self) -> dm_env.TimeStep:
        self._steps = 0
        self._rate.reset()
        return dm_env.restart(self._observe())

    def _observe(self, **stamps: int) -> Observation:
        now, cameras = self._clock.now_ns(), self._contract.cameras
        stamps |= {"qpos": now, "deadline": self._rate.deadline_ns, **{f"images/{name}": now for name in cameras}}
        if self._scene == "keypoints":
            state = self.physics.get_keypoints(self.physics._block_shapes).ravel()
        else:
            state = self.physics.get_obs()[2:]
        return Observation(
            qpos=np.array(self.physics.agent.position, np.float32),
            environment_state=state.astype(np.float32),
            images={name: self._image(*size) for name, size in cameras.items()},
            stamps=stamps,
        )

    def _image(self, height: int, width: int) -> npt.NDArray[np.uint8]:
        """(H, W, 3) RGB as gym-pusht renders its observations, without the target."""
        image: npt.NDArray[np.uint8] = self.physics._get_img(self.physics._draw(), width=width, height=height)
        return image
