"""Steps per CPU-second of the environments for reinforcement learning, beside dm_control's GoToTarget, in one run.

    python benchmarks/rl_throughput.py

A random policy steps each of them in blocks that take turns, resets included; the median block is printed as a markdown
table. dm_control's own `GoToTarget` is built as its examples of the rat are: physics at 1 ms, control at 20 ms, the
model compiled anew for each episode, which ends where anything but a paw touches the floor; its image has the
quality that dm_control draws by default.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from aloha_kit.config import load, RigConfig, TaskConfig
from aloha_kit.envs import connect
from aloha_kit.loop.capabilities import DeltaActions

TASKS = {
    "reach": "one arm, state, 20 Hz",
    "reach_image": "one arm, 64x64 wrist image",
    "rat_target": "rat, state, 50 Hz, physics at 2 ms",
    "rat_target_image": "rat, 64x64 image from the head",
}


@dataclass(frozen=True)
class Options:
    """Throughput of the environments for reinforcement learning."""

    rounds: int = 5  # blocks that each environment gets
    steps: int = 100  # steps in a block


def random_steps(task_name: str) -> Callable[[], object]:
    """A function that takes one step of a task's environment with a random action."""
    task = load(TaskConfig, "tasks", task_name)
    env, rng = connect(task, load(RigConfig, "rigs", task.rig)), np.random.default_rng(0)
    limits, state = env.limits, {"action": env.limits.present(env.reset().observation["qpos"])}

    def step() -> None:
        if isinstance(env, DeltaActions):
            wanted = state["action"] + env.action_delta * rng.uniform(-1, 1, limits.lower.shape)
        else:
            wanted = rng.uniform(limits.lower, limits.upper)
        taken = env.step(np.clip(wanted, limits.lower, limits.upper))
        state["action"] = limits.present(taken.observation["qpos"]) if taken.first() else wanted

    return step


def random_stock_steps(*, image: bool) -> Callable[[], object]:
    """A function that takes one step of dm_control's `GoToTarget` with a random action."""
    from dm_control import composer
    from dm_control.locomotion.arenas import Floor
    from dm_control.locomotion.tasks import GoToTarget
    from dm_control.locomotion.walkers import Rat

    walker: Any = Rat()
    walker.observables.egocentric_camera.enabled = image
    task = GoToTarget(walker, Floor(), physics_timestep=0.001, control_timestep=0.02)
    env = composer.Environment(task, time_limit=5, random_state=0, strip_singleton_obs_buffer_dim=True)
    rng = np.random.default_rng(0)
    size = env.action_spec().shape
    return lambda: env.step(rng.uniform(-1, 1, size))


def rate(step: Callable[[], object], steps: int) -> float:
    """Steps per CPU-second of this process."""
    began = time.process_time()
    for _ in range(steps):
        step()
    return steps / (time.process_time() - began)


def main(options: Options) -> None:
    subjects = {text: random_steps(name) for name, text in TASKS.items()}
    subjects["dm_control's GoToTarget, rat, state"] = random_stock_steps(image=False)
    subjects["dm_control's GoToTarget, rat, 64x64 image"] = random_stock_steps(image=True)
    rates: dict[str, list[float]] = {text: [] for text in subjects}
    for _ in range(options.rounds):
        for text, step in subjects.items():
            rates[text].append(rate(step, options.steps))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| environment | steps per CPU-second | slowest and fastest block |\n|---|---|---|")
    for text, each in rates.items():
        print(f"| {text} | {statistics.median(each):.0f} | {min(each):.0f} to {max(each):.0f} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
