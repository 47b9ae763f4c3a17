"""`Lift`: a Panda arm lifts a cube from a table; robosuite's task behind the contract of environments."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import dm_env
import numpy as np

from aloha_kit.core import (
    Action,
    Clock,
    ConfigError,
    did_you_mean,
    EpisodeError,
    Observation,
    Policy,
    SafetyLimits,
    SimulatedEnvironment,
    time_step,
)
from aloha_kit.core.robomimic import contract, OBJECT_KEY, ROBOSUITE, SimulatorRecord, STATE_KEYS, VISUAL_GROUPS
from aloha_kit.core.source import RecordedEpisode
from aloha_kit.lift.expert import LiftExpert
from aloha_kit.mujoco_images import Image, ImagesLater, ModelRenderer

logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
try:
    import robosuite
    from robosuite.controllers import load_composite_controller_config
except ImportError as missing:
    raise ConfigError(
        "Lift is robosuite's, which is not installed here ({missing}); `make robosuite` installs it in "
        ".venv-robosuite, whose python runs the same commands",
        missing=missing,
    ) from missing

RATE_HZ = 20.0
SAME = 1e-5
"""Largest difference between the states of an episode and those of its repetition, m or of a quaternion."""


class Lift(SimulatedEnvironment):
    """The Lift task of robosuite: Panda, delta poses of its end effector (OSC_POSE), reward 1 once the cube is lifted.

    Observation: `qpos` (9,), the end effector's position (m) and quaternion (x, y, z, w) in the world and the positions
    of both fingers (m); `environment_state` (10,), the cube's pose and its position from the gripper (m); `images`
    {camera: (H, W, 3) uint8 RGB}. Action (7,) in [-1, 1]: change of the end effector's position (1 is 0.05 m) and
    rotation vector (1 is 0.5 rad) in the frame of the robot's base, and the gripper, which opens below 0 and closes
    above it. An episode ends as a success as soon as the cube is 4 cm above the table.

    Args:
        cameras: {name of a camera of the model: (height, width)}; none for state alone.
        rate_hz: control rate.
        episode_len: actions until LAST, where the cube is not lifted before.
        shadows: draw shadows in images.
        lazy_images: render an image when it is first read, which has to be before the next step.
        clock: what `step` waits on: a `VirtualClock` runs as fast as it computes, a `WallClock` in real time.

    Raises:
        ConfigError: an unknown camera.
    """

    def __init__(
        self,
        *,
        cameras: Mapping[str, tuple[int, int]] | None = None,
        rate_hz: float = RATE_HZ,
        episode_len: int = 400,
        shadows: bool = False,
        lazy_images: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.lazy_images = lazy_images
        controllers = load_composite_controller_config(controller="BASIC", robot="Panda")
        controllers["body_parts"] = {"right": controllers["body_parts"]["right"]}
        kwargs = {
            "robots": "Panda",
            "controller_configs": controllers,
            "control_freq": rate_hz,
            "horizon": episode_len,
            "ignore_done": True,
            "reward_shaping": False,
            "has_renderer": False,
            "has_offscreen_renderer": False,
            "use_camera_obs": False,
            "use_object_obs": True,
        }
        self.env_args = {
            "env_name": "Lift",
            "env_version": robosuite.__version__,
            "type": ROBOSUITE,
            "env_kwargs": kwargs,
        }
        self._contract = contract(self.env_args, {"robot0": 2}, 7, 10, cameras or {})
        self._limits = SafetyLimits.of(self._contract, lower=-1, upper=1, speed=2 * rate_hz)
        self._episode_len, self._shadows = episode_len, shadows
        super().__init__(rate_hz, clock)
        self._round = 0  # of images that are rendered when they are read
        self._renderer: ModelRenderer | None = None
        # its own viewer is not wanted; the default one would be made, unseen, for every environment
        self._env: Any = robosuite.make("Lift", renderer="mujoco", seed=0, **kwargs)
        there = list(self._env.sim.model.camera_names)
        for name in self._contract.cameras:
            if name not in there:
                raise ConfigError("Lift has no camera '{name}'. {known}", name=name, known=did_you_mean(name, there))

    @property
    def rest_action(self) -> Action:
        """(7,) zeros: the arm stays, and the gripper too."""
        return np.zeros(7, np.float32)

    @property
    def max_reward(self) -> float:
        return 1.0

    def expert(self, *, noise: float = 0.0, seed: int = 0) -> Policy:
        """A script that grasps and lifts, see `LiftExpert`."""
        return LiftExpert(noise=noise, seed=seed)

    def describe(self) -> dict[str, Any]:
        described = {"scene": "Lift", "seed": self._seed, "robosuite": robosuite.__version__}
        return {**described, "env_args": self.env_args}

    def reset(self) -> dm_env.TimeStep:
        # it draws the cube's size and pose and the arm's start from one generator
        self._env.rng = self._env.placement_initializer.rng = np.random.default_rng(self._begin())
        observed = self._env.reset()
        self._free_renderer()  # the model is a new one
        self._steps = 0
        self._rate.reset()
        return dm_env.restart(self._observe(observed))

    def step(self, action: Action) -> dm_env.TimeStep:
        """Command the change of pose, let one period pass, observe.

        Raises:
            ValueError: an action of another shape, or one that is not finite.
        """
        if self._steps is None:
            return self.reset()
        command = np.clip(self.checked(action), -1.0, 1.0)
        command_ns = self._clock.now_ns()
        observed, reward, _, _ = self._env.step(command)
        self._rate.sleep()
        self._steps += 1
        observation = self._observe(observed, command=command_ns)
        success = self.is_highest(float(reward))
        last = success or self._steps >= self._episode_len
        if last:
            self._steps = None
        return time_step(float(reward), observation, last=last, success=success)

    def simulate_again(self, episode: RecordedEpisode) -> SimulatorRecord:
        """States and model of a recorded episode, by its seed and its actions; the next `step` begins a new one.

        Raises:
            EpisodeError: no seed is recorded, or the observations of the episode do not come out again, as with other
                versions of robosuite and MuJoCo.
        """
        described = episode.describe
        if "seed" not in described:
            raise EpisodeError(
                "{where} records no seed, from which its simulator states would follow", where=episode.where
            )
        self.seed(described["seed"])
        observed, states = self.reset().observation, []
        model = self._env.sim.model.get_xml()
        for row, action in enumerate(episode.action):
            difference = float(np.abs(observed["qpos"] - episode.qpos[row]).max())
            if not difference < SAME:
                versions = f"robosuite {robosuite.__version__}, recorded with {described.get('robosuite', 'another')}"
                raise EpisodeError(
                    "{where} does not come out again in the simulator ({versions}): at step {row} the state differs "
                    "by {difference:.1e} (at most {same:.0e})",
                    where=episode.where,
                    versions=versions,
                    row=row,
                    difference=difference,
                    same=SAME,
                )
            states.append(self._env.sim.get_state().flatten())
            observed = self.step(action).observation
        self._steps = None
        return SimulatorRecord(self.env_args, np.array(states), model)

    def close(self) -> None:
        self._free_renderer()
        with contextlib.suppress(AttributeError):  # closed before
            self._env.close()

    def _observe(self, observed: Mapping[str, Any], **stamps: int) -> Observation:
        now, cameras = self._clock.now_ns(), self._contract.cameras
        stamps |= {"qpos": now, "deadline": self._rate.deadline_ns, **{f"images/{name}": now for name in cameras}}
        self._round += 1
        round_ = self._round
        later = ImagesLater(cameras, self._image, lambda: self._round == round_)
        return Observation(
            qpos=np.concatenate([observed[f"robot0_{key}"] for key in STATE_KEYS]).astype(np.float32),
            environment_state=observed[f"{OBJECT_KEY}-state"].astype(np.float32),
            images=later if self.lazy_images else dict(later),
            stamps=stamps,
        )

    def _image(self, camera: str) -> Image:
        if self._renderer is None:
            sim = self._env.sim
            self._renderer = ModelRenderer(
                sim.model._model, sim.data._data, groups=VISUAL_GROUPS, shadows=self._shadows
            )
        return self._renderer.draw(camera, self._contract.cameras[camera])

    def _free_renderer(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
