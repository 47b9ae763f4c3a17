"""`GoToTarget`: a walker brings its head to a target; dm_control's rat behind the contract of environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dm_env
import mujoco
import numpy as np
from dm_control.rl.control import PhysicsError

from aloha_kit.core import (
    Action,
    Clock,
    ConfigError,
    did_you_mean,
    EpisodeError,
    Observation,
    SafetyLimits,
    SimulatedEnvironment,
)
from aloha_kit.locomotion.walker_model import WalkerModel, WalkerOptions
from aloha_kit.mujoco_images import Image, ImagesLater, ModelRenderer

DRAWN_GROUPS = (0, 1, 2)
POSTURE = 0.05  # what lying upside-down would pay in a step; half of it on the side
UPSIDE_DOWN = -0.5  # cosine of 120 degrees from upright: lying on its side is not upside-down

SCENES = {"target": 0.0, "target_dense": 1.0}
"""{scene: weight of the distance in the reward}."""


class GoToTarget(SimulatedEnvironment):
    """A walker of dm_control brings its head to a red ball on the floor, which nothing collides with.

    Observation: `qpos`, `qvel` the angles (rad) and velocities (rad/s) of the joints that the walker observes;
    `sensors/vestibular` at the head and `sensors/target`, the vector from head to target (m), both in the axes of the
    head's body; `sensors/proprioception`, what the walker itself lists, in its units; `images` {camera: (H, W, 3) uint8
    RGB}. The egocentric camera draws what its observable draws: not the walker's own body. Action: the actuators'
    controls, -1 to 1 for the rat; 0 is no command.

    Reward terms, of each step: `inside`, 1 within `reached` of the target; `posture`, 0 upright down to -0.05
    upside-down; `distance`, minus the distance in shares of the farthest band's (scene `target_dense`). A walker that
    lies upside-down ends the episode (discount 0); the term `fallen` then takes what it would cost to lie there until
    the end, so that falling never pays. An episode that ends inside is a success.

    The model is compiled once, and physics runs at 2 ms. The hooks that dm_control's walkers may have for each step or
    substep are not called, those for an episode are.

    Args:
        scene: a name of `SCENES`.
        cameras: {name: (height, width)} of the walker's cameras and `overview`; none for state alone.
        rate_hz: control rate; the period has to be a multiple of the physics step.
        episode_len: actions until LAST, where the walker does not fall before.
        quality: "draft", "fast" or "fine" images.
        lazy_images: render an image when it is first read, which has to be before the next step.
        clock: what `step` waits on: a `VirtualClock` runs as fast as it computes, a `WallClock` in real time.

    Attributes:
        band: index in `bands` that the next resets draw the target from; None: all of them, each as often.

    Raises:
        ConfigError: an unknown scene, walker, camera or quality, or a rate that cannot be.
    """

    def __init__(
        self,
        scene: str = "target",
        *,
        options: WalkerOptions | None = None,
        cameras: Mapping[str, tuple[int, int]] | None = None,
        rate_hz: float = 50.0,
        episode_len: int = 250,
        quality: str = "draft",
        lazy_images: bool = False,
        clock: Clock | None = None,
    ) -> None:
        if scene not in SCENES:
            raise ConfigError("no scene '{scene}' of walkers. {known}", scene=scene, known=did_you_mean(scene, SCENES))
        self._options = options or WalkerOptions()
        self._substeps = round(1 / (rate_hz * self._options.physics_timestep))
        if self._substeps < 1 or abs(self._substeps * self._options.physics_timestep * rate_hz - 1) > 1e-9:
            raise ConfigError(
                "{rate_hz:g} Hz is no whole number of {step:g} ms physics steps",
                rate_hz=rate_hz,
                step=self._options.physics_timestep * 1000.0,
            )
        self.band: int | None = None
        self.lazy_images = lazy_images
        self._scene, self._episode_len = scene, episode_len
        self._model = WalkerModel(self._options, quality=quality)
        self.physics = self._model.physics
        for name in cameras or {}:
            if name not in self._model.cameras:
                raise ConfigError(
                    "no camera '{name}' of the walker. {known}",
                    name=name,
                    known=did_you_mean(name, self._model.cameras),
                )
        self._contract = self._model.contract(cameras or {}, rate_hz)
        low, high = self._model.control_range
        self._limits = SafetyLimits.of(self._contract, low, high, speed=(high - low) * rate_hz)
        super().__init__(rate_hz, clock)
        self._round = 0  # of images that are rendered when they are read
        self._terms: dict[str, float] = {}
        self._renderer = ModelRenderer(
            self.physics.model.ptr,
            self.physics.data.ptr,
            groups=DRAWN_GROUPS,
            shadows=quality != "draft",
            options=self._model.camera_options(),
        )

    @property
    def rest_action(self) -> Action:
        """(A,) zeros: no command."""
        return np.zeros(len(self._contract.action_names), np.float32)

    @property
    def max_reward(self) -> float:
        return 1.0

    @property
    def bands(self) -> Sequence[tuple[float, float]]:
        """(nearest, farthest) distance of a target from the head at the start, m; near to far."""
        return self._options.bands

    @property
    def target_distance(self) -> float:
        """Distance of the head from the target now, m."""
        return float(np.linalg.norm(self._model.to_target()))

    @property
    def reward_terms(self) -> Mapping[str, float]:
        """{term: its part of the last step's reward}; 0 each at a reset."""
        return self._terms

    def is_highest(self, reward: float) -> bool:
        """Whether a reward is that of a step inside: the other terms are too small to make up for that."""
        return reward > self.max_reward / 2

    def reward_spec(self) -> Any:
        """Bounds of the reward: at most 1, and below 0 without an end, as distances are."""
        return super().reward_spec().replace(minimum=-np.inf)

    def describe(self) -> dict[str, Any]:
        described = {"scene": self._scene, "seed": self._seed, "mujoco": mujoco.__version__}
        return {**described, "walker": self._options.walker}

    def reset(self) -> dm_env.TimeStep:
        rng = np.random.default_rng(self._begin())
        self._model.reset(int(rng.integers(1 << 31)))
        nearest, farthest = self.bands[int(rng.integers(len(self.bands))) if self.band is None else self.band]
        angle, distance = rng.uniform(-self._options.spread, self._options.spread), rng.uniform(nearest, farthest)
        direction = np.array([np.cos(angle), np.sin(angle), 0.0])
        self._model.place_target(self._model.head_position() + distance * self._model.ahead(direction))
        self._terms = dict.fromkeys(self._reward_terms(fallen=False, left=0), 0.0)
        self._steps = 0
        self._rate.reset()
        return dm_env.restart(self._observe())

    def step(self, action: Action) -> dm_env.TimeStep:
        """Control the actuators, let one period pass, observe.

        Raises:
            ValueError: an action of another shape, or one that is not finite.
            EpisodeError: the physics became unstable.
        """
        if self._steps is None:
            return self.reset()
        command = np.clip(self.checked(action), self._limits.lower, self._limits.upper)
        command_ns = self._clock.now_ns()
        self._model.walker.apply_action(self.physics, command, None)
        try:
            self.physics.step(self._substeps)
        except PhysicsError as error:
            where, self._steps = f"step {self._steps} of seed {self._seed}", None
            raise EpisodeError(
                "{where}: {error}; a smaller physics_timestep is more stable", where=where, error=error
            ) from error
        self._rate.sleep()
        self._steps += 1
        observation = self._observe(command=command_ns)
        fallen, over = self._model.upright() < UPSIDE_DOWN, self._steps >= self._episode_len
        self._terms = self._reward_terms(fallen=fallen, left=self._episode_len - self._steps)
        reward = float(sum(self._terms.values()))
        if not (fallen or over):
            return dm_env.transition(reward, observation)
        self._steps = None
        return (dm_env.termination if fallen else dm_env.truncation)(reward, observation)

    def close(self) -> None:
        self._renderer.close()
        self.physics.free()

    def _reward_terms(self, *, fallen: bool, left: int) -> dict[str, float]:
        """The terms of the present state; `left` steps are left in the episode."""
        distance = self.target_distance
        each = {"posture": -POSTURE * (1 - self._model.upright()) / 2}
        if weight := SCENES[self._scene]:
            each["distance"] = -weight * distance / self.bands[-1][1]
        return {"inside": float(distance < self._options.reached), **each, "fallen": fallen * left * sum(each.values())}

    def _observe(self, **stamps: int) -> Observation:
        now, cameras = self._clock.now_ns(), self._contract.cameras
        stamps |= {"qpos": now, "deadline": self._rate.deadline_ns, **{f"images/{name}": now for name in cameras}}
        self._round += 1
        round_ = self._round
        later = ImagesLater(cameras, self._image, lambda: self._round == round_)
        data, model = self.physics.data, self._model
        senses = {
            "vestibular": model.vestibular(),
            "target": model.to_target(),
            "proprioception": model.proprioception(),
        }
        return Observation(
            qpos=data.qpos[model.qpos].astype(np.float32),
            qvel=data.qvel[model.qvel].astype(np.float32),
            images=later if self.lazy_images else dict(later),
            sensors={name: values.astype(np.float32) for name, values in senses.items()},
            stamps=stamps,
        )

    def _image(self, camera: str) -> Image:
        return self._renderer.draw(self._model.cameras[camera], self._contract.cameras[camera])
