"""A point in the plane with one camera: the smallest environment of one's own."""

import dm_env
import numpy as np

from aloha_kit.core import Contract, Environment, Rate, SafetyLimits, VirtualClock, WallClock


class PointEnv(Environment):
    """A white point, commanded by (x, y) in m within ±1, is brought to a red goal. It moves to its target at once."""

    contract, limits, max_reward, simulated = None, None, 1.0, True
    rest_action = np.zeros(2, np.float32)

    def __init__(self, task, rig, *, realtime=False):
        sizes = {name: task.image_size or (rig.cameras[name].height, rig.cameras[name].width) for name in task.cameras}
        self.contract = Contract.of(("x", "y"), ("x", "y"), sizes, task.rate_hz, units={"joints": "m"})
        self.limits = SafetyLimits.of(self.contract, lower=-1, upper=1, speed=2)  # m, m/s
        self._clock = WallClock() if realtime else VirtualClock()
        self._rate, self._len, self._seed = Rate(task.rate_hz, self._clock), task.episode_len, 0
        self._step = None  # None: the next step begins an episode

    def seed(self, seed):
        self._seed = seed

    def reset(self):
        rng, self._seed = np.random.default_rng(self._seed), self._seed + 1
        self.at, self.goal = (rng.uniform(-0.8, 0.8, 2).astype(np.float32) for _ in "ab")
        self._step = 0
        self._rate.reset()
        return dm_env.restart(self._observe())

    def step(self, action):
        if self._step is None or self._step >= self._len:
            return self.reset()
        sent = self._clock.now_ns()
        self.at = np.clip(self.checked(action), -1, 1).astype(np.float32)
        self._rate.sleep()
        self._step += 1
        reward = float(np.abs(self.at - self.goal).max() < 0.05)
        end = dm_env.truncation if self._step == self._len else dm_env.transition
        return end(reward, self._observe(command=sent))

    def expert(self, *, noise=0.0, seed=0):
        return Straight(self)

    def _observe(self, **stamps):
        now = self._clock.now_ns()
        stamps |= {"qpos": now, "deadline": self._rate.deadline_ns}
        stamps |= {f"images/{name}": now for name in self.contract.cameras}
        images = {name: self._image(*size) for name, size in self.contract.cameras.items()}
        return {"qpos": self.at.copy(), "images": images, "stamps": stamps}

    def _image(self, height, width):
        image = np.full((height, width, 3), 40, np.uint8)
        y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
        for place, colour in ((self.goal, (220, 30, 30)), (self.at, (255, 255, 255))):
            image[np.hypot(x - place[0], y - place[1]) < 0.15] = colour
        return image


class Straight:
    """The expert: at most 3 cm a step towards the goal."""

    def __init__(self, env):
        self._env = env

    def reset(self):
        """Nothing is remembered."""

    def act(self, observation):
        way = self._env.goal - observation["qpos"]
        return observation["qpos"] + np.clip(way, -0.03, 0.03)
