"""Stability of the rat's physics at several steps: energies of random episodes, as one markdown table.

    python benchmarks/walker_stability.py

Each control of 20 ms is drawn anew from the whole range, which is harsher than any policy. The same episodes are run
with each physics step: if a longer step added energy, kinetic energy and joint speeds would grow with it. An episode
without control comes first; the energy that is left after two seconds of it is the drift of the solver.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
import tyro

from aloha_kit.core import EpisodeError
from aloha_kit.locomotion import GoToTarget, WalkerOptions

AT_REST = 100  # steps of 20 ms


@dataclass(frozen=True)
class Options:
    """Energies of the rat in random episodes."""

    episodes: int = 20  # of each physics step
    steps: int = 250  # in an episode
    timesteps: tuple[float, ...] = (0.001, 0.002, 0.004)  # s


def kinetic_energy(env: GoToTarget) -> float:
    """J, of the present state."""
    mujoco.mj_energyVel(env.physics.model.ptr, env.physics.data.ptr)
    return float(env.physics.data.energy[1])


def row(options: Options, timestep: float) -> str:
    """One line of the table."""
    env = GoToTarget(options=WalkerOptions(physics_timestep=timestep), episode_len=options.steps)
    env.reset()
    for _ in range(AT_REST):
        env.step(env.rest_action)
    rest = kinetic_energy(env)
    energies, speeds, unstable, fallen = [], [], 0, 0
    for seed in range(options.episodes):
        env.seed(seed)
        step, rng = env.reset(), np.random.default_rng(seed)
        try:
            while not step.last():
                step = env.step(rng.uniform(env.limits.lower, env.limits.upper).astype(np.float32))
                energies.append(kinetic_energy(env))
                speeds.append(float(np.abs(step.observation["qvel"]).max()))
            fallen += step.discount == 0
        except EpisodeError:
            unstable += 1
    env.close()
    energy = f"{np.median(energies) * 1e3:.0f} | {np.quantile(energies, 0.99) * 1e3:.0f} | {max(energies) * 1e3:.0f}"
    cells = f"{energy} | {np.quantile(speeds, 0.99):.0f} | {rest * 1e6:.2g} | {fallen} | {len(energies)} | {unstable}"
    return f"| {timestep * 1e3:g} ms | {cells} |"


def main(options: Options) -> None:
    print(f"{options.episodes} episodes of {options.steps} random steps at most, MuJoCo {mujoco.__version__}\n")
    print(
        "| physics step | kinetic energy, median, mJ | 99 % | highest | joint speed, 99 %, rad/s "
        "| energy at rest, µJ | episodes that fall | steps | unstable |\n|---|---|---|---|---|---|---|---|---|"
    )
    for timestep in options.timesteps:
        print(row(options, timestep), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
