"""A point in the plane that is to reach a target: the smallest task with bands, reward terms, deltas and cameras."""

import dm_env
import numpy as np

from aloha_kit.core import Contract, Environment, Feature, Outcome, Rate, SafetyLimits, VirtualClock

REACHED = 0.05  # m


class PointReach(Environment):
    """The point moves to its commanded (x, y) at once; the reward is 1 inside of 5 cm, minus what a motion costs."""

    contract, limits, max_reward, simulated, measures_success = None, None, 1.0, True, True
    rest_action = np.zeros(2, np.float32)
    bands = ((0.1, 0.3), (0.3, 0.6))

    def __init__(self, task, rig, *, realtime=False):
        sizes = {name: (rig.cameras[name].height, rig.cameras[name].width) for name in task.cameras}
        target = Feature.vector("sensors/target", "target", ("dx", "dy"), "m")
        self.contract = Contract.of(
            ("x", "y"), ("x", "y"), sizes, task.rate_hz, units={"joints": "m"}, sensors=[target]
        )
        self.limits = SafetyLimits.of(self.contract, lower=-1, upper=1, speed=2)  # m, m/s
        self.band, self.drawn = None, []
        self._rate, self._len, self._seed = Rate(task.rate_hz, VirtualClock()), task.episode_len, 0
        self._step = None
        self.at = self.goal = np.zeros(2, np.float32)
        self.terms = {"inside": 0.0, "motion": 0.0}

    @property
    def action_delta(self):
        return np.array([0.05, 0.05])

    @property
    def target_distance(self):
        return float(np.linalg.norm(self.goal - self.at))

    @property
    def reward_terms(self):
        return self.terms

    def succeeded(self, outcome: Outcome):
        return not outcome.error and self.target_distance < REACHED

    def seed(self, seed):
        self._seed = seed

    def describe(self):
        return {"seed": self._seed - 1, "goal": self.goal.tolist()}

    def reset(self):
        rng, self._seed = np.random.default_rng(self._seed), self._seed + 1
        band = rng.integers(len(self.bands)) if self.band is None else self.band
        distance, angle = rng.uniform(*self.bands[band]), rng.uniform(0, 2 * np.pi)
        self.at = np.zeros(2, np.float32)
        self.goal = (distance * np.array([np.cos(angle), np.sin(angle)])).astype(np.float32)
        self._step = 0
        self._rate.reset()
        return dm_env.restart(self._observe())

    def step(self, action):
        if self._step is None or self._step >= self._len:
            return self.reset()
        before = self.at
        self.at = np.clip(self.checked(action), -1, 1).astype(np.float32)
        self._rate.sleep()
        self._step += 1
        moved = float(np.linalg.norm(self.at - before))
        self.terms = {"inside": float(self.target_distance < REACHED), "motion": -0.1 * moved}
        end = dm_env.truncation if self._step == self._len else dm_env.transition
        return end(sum(self.terms.values()), self._observe(command=self._rate.deadline_ns - 1))

    def _observe(self, **stamps):
        now = self._rate.deadline_ns
        stamps |= {"qpos": now, "deadline": now, **{f"images/{name}": now for name in self.contract.cameras}}
        images = {name: self._image(*size) for name, size in self.contract.cameras.items()}
        sensors = {"target": (self.goal - self.at).astype(np.float32)}
        return {"qpos": self.at.copy(), "sensors": sensors, "images": images, "stamps": stamps}

    def _image(self, height, width):
        self.drawn.append((height, width))
        image = np.full((height, width, 3), 40, np.uint8)
        y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
        for place, colour in ((self.goal, (220, 30, 30)), (self.at, (255, 255, 255))):
            image[np.hypot(x - place[0], y - place[1]) < 0.15] = colour
        return image
