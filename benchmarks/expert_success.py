"""How often the scripted experts succeed: the top reward held at the last step, over many seeds.

    python benchmarks/expert_success.py --num_seeds 200
    python benchmarks/expert_success.py --num_seeds 200 --noise 1.0

Also prints the time to plan an episode and to step the physics, without images.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from dataclasses import dataclass

SCENES = ("transfer_cube", "insertion")


@dataclass(frozen=True)
class Options:
    """Success of the scripted experts over seeds."""

    num_seeds: int = 200
    noise: float = 0.0  # of the motion, see ScriptedExpert
    processes: int = 2
    first_seed: int = 0
    scenes: tuple[str, ...] = SCENES


@dataclass(frozen=True)
class Trial:
    """One episode: did it succeed, did it ever reach the top, from which step on did it hold."""

    scene: str
    seed: int
    final: float
    best: float
    steady: int
    plan_s: float
    step_s: float


def trial(job: tuple[str, int, float]) -> Trial:
    """Run one seed in this process."""
    from aloha_kit.sim import SimEnv

    scene, seed, noise = job
    env = SimEnv(scene, cameras={}, seed=seed)
    expert = env.expert(noise=noise, seed=seed)
    timestep = env.reset()
    begin = time.perf_counter()
    expert.reset()
    planned = time.perf_counter()
    rewards = []
    while not timestep.last():
        timestep = env.step(expert.act(timestep.observation))
        rewards.append(timestep.reward)
    end = time.perf_counter()
    below = [i for i, reward in enumerate(rewards) if reward < env.max_reward]
    env.close()
    steady = below[-1] + 1 if below else 0
    return Trial(scene, seed, rewards[-1], max(rewards), steady, planned - begin, (end - planned) / len(rewards))


def wilson(successes: int, count: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927)."""
    z, p = 1.959964, successes / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return centre - half, centre + half


def main() -> None:
    import tyro
    from tqdm import tqdm

    options = tyro.cli(Options)
    jobs = [
        (scene, seed, options.noise)
        for scene in options.scenes
        for seed in range(options.first_seed, options.first_seed + options.num_seeds)
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        trials = list(tqdm(pool.imap(trial, jobs, chunksize=4), total=len(jobs), desc="episodes"))
    print(f"Motion noise {options.noise:g}, 400 steps, seeds {options.first_seed} and on\n")
    print("| scene | reward 4 at the end | 95 % interval | ever reward 4 | steady from step | plan s | ms a step |")
    print("|---|---|---|---|---|---|---|")
    for scene in options.scenes:
        own = [t for t in trials if t.scene == scene]
        wins = sum(t.final >= 4 for t in own)
        low, high = wilson(wins, len(own))
        steady = [t.steady for t in own if t.final >= 4] or [0]
        print(
            f"| {scene} | {wins}/{len(own)} | {low:.1%} to {high:.1%} | {sum(t.best >= 4 for t in own)} "
            f"| median {statistics.median(steady):.0f}, latest {max(steady)} "
            f"| {statistics.median(t.plan_s for t in own):.2f} | {statistics.median(t.step_s for t in own) * 1e3:.2f} |"
        )
        if failed := [t.seed for t in own if t.final < 4]:
            print(f"\n{scene} failed on seeds {failed}\n")


if __name__ == "__main__":
    main()
