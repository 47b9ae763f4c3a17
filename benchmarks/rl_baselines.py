"""Success by distance of policies that learn nothing, as a markdown table: what a learned one is compared with.

    python benchmarks/rl_baselines.py --task reach
    python benchmarks/rl_baselines.py --task rat_target

`zero` gives the rest action of a walker, or stays where the arm is; `random` draws every action anew, of an arm each
change of its targets; `expert` is the environment's own, where it has one. `held` is success: the episode ends at the
target. `touched` counts the episodes that were there at any step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.core import Observation
from aloha_kit.envs import connect
from aloha_kit.loop.capabilities import DeltaActions, Demonstrator

Act = Callable[[Observation], Any]
FIRST_SEED = 100_000  # not among those of training


@dataclass(frozen=True)
class Options:
    """Baselines of a task with bands of distance."""

    task: str = "reach"  # a name in configs/tasks
    episodes: int = 50  # in each band


def policies(env: Any) -> dict[str, Callable[[Observation], Act]]:
    """{name: a function of an episode's first observation that gives its policy}."""
    limits, rng = env.limits, np.random.default_rng(0)

    def zero(first: Observation) -> Act:
        held = limits.present(first["qpos"]).astype(np.float32)
        return lambda _observation: held

    def random(first: Observation) -> Act:
        target = limits.present(first["qpos"])

        def act(_observation: Observation) -> Any:
            nonlocal target
            if isinstance(env, DeltaActions):
                moved = target + env.action_delta * rng.uniform(-1, 1, target.shape)
                target = np.clip(moved, limits.lower, limits.upper)
                return target
            return rng.uniform(limits.lower, limits.upper)

        return act

    found: dict[str, Callable[[Observation], Act]] = {"zero": zero, "random": random}
    if isinstance(env, Demonstrator):
        expert = env.expert()

        def demonstrated(_first: Observation) -> Act:
            expert.reset()
            return expert.act

        found["expert"] = demonstrated
    return found


def main(options: Options) -> None:
    task = load(TaskConfig, "tasks", options.task)
    env: Any = connect(task, load(RigConfig, "rigs", task.rig))
    print(f"{options.task}, {options.episodes} episodes in each band\n")
    print("| policy | band, m | held | touched | steps in an episode |\n|---|---|---|---|---|")
    for name, begin in policies(env).items():
        for band, (nearest, farthest) in enumerate(env.bands):
            env.band, held, touched, steps = band, 0, 0, 0
            for seed in range(FIRST_SEED, FIRST_SEED + options.episodes):
                env.seed(seed)
                step, near = env.reset(), False
                act = begin(step.observation)
                while not step.last():
                    step = env.step(act(step.observation))
                    steps += 1
                    near |= env.is_highest(step.reward)
                held += env.is_highest(step.reward)
                touched += near
            shares = f"{held / options.episodes:.0%} | {touched / options.episodes:.0%}"
            print(f"| {name} | {nearest} to {farthest} | {shares} | {steps / options.episodes:.0f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
