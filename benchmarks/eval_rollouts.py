"""Rollouts an hour of `aloha_kit.eval`, beside gym-aloha's environment evaluated as its users do: prints one table.

    python benchmarks/eval_rollouts.py

The peer's way is one environment, step after step, each rendering three 480x640 images, and an inference of the
network when a chunk is played out (or at every step, with temporal ensembling). Both sides run the same networks,
untrained, in chunks as the presets have them, over 400 steps: `act` (but for its BatchNorm, which needs
downloaded weights) fed the 480x640 image, and `act_cpu` fed 96x128, to which the peer scales its image.

The peer's rollouts are extrapolated from a few dozen steps and a few inferences (medians; half of them before ours ran
and half after). Ours are whole rollouts of the command itself, start-up left out of the rate and in the CPU time;
only the row that is marked so is extrapolated from its first steps. The peer's CPU time is that of all its threads.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

EPISODE = 400
WARM_UP = 3

Cost = tuple[float, float]  # wall and CPU seconds


@dataclass(frozen=True)
class Options:
    """How long to measure."""

    steps: int = 30  # of the peer's environment
    inferences: Annotated[int, arg(aliases=("--queries",))] = 4  # of the peer's, each network


@dataclass(frozen=True)
class Case:
    """A network, how it is executed, and how many rollouts of ours are run."""

    policy: str
    size: tuple[int, int]
    temporal_agg: bool
    rollouts: int
    steps: int = EPISODE

    @property
    def name(self) -> str:
        how = "inference at every step" if self.temporal_agg else "whole chunks"
        return f"{self.policy}, {self.size[0]}x{self.size[1]}, {how}"


CASES = (
    Case("act", (480, 640), False, 16),
    Case("act_cpu", (96, 128), False, 80),
    Case("act_cpu", (96, 128), True, 8),
    Case("act", (480, 640), True, 8, steps=8),
)


def save_network(folder: Path, policy: str, size: tuple[int, int]) -> None:
    """An untrained network of a preset, as a checkpoint."""
    import numpy as np

    from aloha_kit.config.policies import load_policy
    from aloha_kit.core import Contract, joint_names, START_ARM_POSE
    from aloha_kit.data.stats import Statistics
    from aloha_kit.policies import checkpoint
    from aloha_kit.policies.build import build

    rows = np.tile([*START_ARM_POSE, 0.5], 2) + np.random.default_rng(0).normal(0, 0.05, (200, 14))
    stats = Statistics.of(qpos=rows, action=rows)
    config = load_policy(policy, pretrained_backbone=False, backbone_norm="group")
    contract = Contract.of(joint_names(), joint_names(), {"top": size}, rate_hz=50.0)
    checkpoint.save(folder, build(config, contract, stats), config, stats, contract, {"task": "sim_transfer_cube"})


def timed(call: Callable[[], object], count: int) -> list[Cost]:
    """Wall and CPU seconds of each of `count` calls."""
    costs = []
    for _ in range(count):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        costs.append((time.perf_counter() - wall, time.process_time() - cpu))
    return costs


def serve_peer(folders: list[Path]) -> None:
    """The other process: for each line of stdin (steps, inferences) that many timed ones, of each network."""
    import cv2
    import gym_aloha  # noqa: F401 - registers the environments
    import gymnasium
    import numpy as np
    import torch._dynamo  # noqa: F401 - before any OpenGL context

    from aloha_kit.policies import checkpoint
    from aloha_kit.policies.chunk_policy import ChunkPolicy

    env = gymnasium.make("gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos", max_episode_steps=10**9)
    observation, _ = env.reset(seed=0)
    action = np.asarray(observation["agent_pos"], np.float32)
    agents = {folder.name: ChunkPolicy(checkpoint.load(folder)) for folder in folders}

    def infer(agent: ChunkPolicy) -> None:
        height, width = agent.contract.cameras["top"]
        image = cv2.resize(observation["pixels"]["top"], (width, height), interpolation=cv2.INTER_AREA)
        agent.predict_chunk({"qpos": action, "images": {"top": image}})

    for line in itertools.chain([json.dumps([WARM_UP, 2])], sys.stdin):
        steps, inferences = json.loads(line)
        taken = {"step": timed(lambda: env.step(action), steps)}
        for name, agent in agents.items():
            taken[name] = timed(lambda agent=agent: infer(agent), inferences)  # type: ignore[misc]
        print(json.dumps(taken), flush=True)


class Peer:
    """gym-aloha and the networks in a process of their own."""

    def __init__(self, folders: list[Path]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve_peer", *map(str, folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "MUJOCO_GL": "egl"},
        )
        self._line()  # the warm-up
        self.costs: dict[str, list[Cost]] = {}

    def measure(self, steps: int, inferences: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([steps, inferences]) + "\n")
        self._process.stdin.flush()
        for name, taken in self._line().items():
            self.costs.setdefault(name, []).extend((wall, cpu) for wall, cpu in taken)

    def rollout(self, network: str, inferences: int) -> Cost:
        """Wall and CPU seconds of a rollout with so many inferences."""
        (step, step_cpu), (inference, inference_cpu) = (
            (statistics.median(w for w, _ in self.costs[name]), statistics.median(c for _, c in self.costs[name]))
            for name in ("step", network)
        )
        return EPISODE * step + inferences * inference, EPISODE * step_cpu + inferences * inference_cpu

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _line(self) -> dict[str, list[list[float]]]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the peer's process ended; gym-aloha 0.1.3 has to be installed beside aloha_kit")
        found: dict[str, list[list[float]]] = json.loads(line)
        return found


def evaluate(case: Case, folder: Path, output: Path) -> tuple[Cost, dict[str, Any]]:
    """Our command; wall and CPU seconds a rollout of `EPISODE` steps, and its report."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "aloha_kit.eval", "--ckpt", str(folder), "--task", "sim_transfer_cube"]
    command += ["--num_rollouts", str(case.rollouts), "--episode_len", str(case.steps), "--output", str(output)]
    command += ["--temporal_agg"] * case.temporal_agg
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (report,) = output.glob("*.json")
    values = json.loads(report.read_text())
    scale = EPISODE / case.steps / case.rollouts
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (values["checkpoints"][0]["speed"]["seconds"] * scale, cpu * scale), values


def main() -> None:
    import tyro

    options = tyro.cli(Options)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folders = {policy: root / policy for policy in dict.fromkeys(case.policy for case in CASES)}
        for case in CASES:
            if not folders[case.policy].exists():
                save_network(folders[case.policy], case.policy, case.size)
        peer = Peer(list(folders.values()))
        load = os.getloadavg()[0]
        peer.measure(options.steps // 2, options.inferences // 2)
        ours = [evaluate(case, folders[case.policy], root / f"out{i}") for i, case in enumerate(CASES)]
        peer.measure(options.steps - options.steps // 2, options.inferences - options.inferences // 2)
        peer.close()
    print(
        f"Rollouts of {EPISODE} steps, {platform.machine()} with {os.cpu_count()} cores, "
        f"load average {load:.1f} at the start (1 is the peer itself)\n"
    )
    print("| network, image, execution | gym-aloha, peer's way: an hour | aloha_kit.eval: an hour | times as many |"
          " CPU s a rollout |")  # fmt: skip
    print("|---|---|---|---|---|")
    for case, ((wall, cpu), values) in zip(CASES, ours, strict=True):
        chunk = values["checkpoints"][0]["chunk_size"]
        count = EPISODE if case.temporal_agg else math.ceil(EPISODE / chunk)
        peer_wall, peer_cpu = peer.rollout(case.policy, count)
        note = "" if case.steps == EPISODE else f" (extrapolated from {case.steps} steps)"
        cpu_words = f"{peer_cpu:.1f} / {cpu:.2f}" if case.steps == EPISODE else f"{peer_cpu:.1f} / –"
        hourly = f"{3600 / peer_wall:,.0f} | {3600 / wall:,.0f} | {peer_wall / wall:.1f}"
        print(f"| {case.name}{note} | {hourly} | {cpu_words} |")
    step, *inferences = ((name, statistics.median(w for w, _ in costs)) for name, costs in peer.costs.items())
    words = ", ".join(f"one inference of {name} {1e3 * seconds:.0f} ms" for name, seconds in inferences)
    print(f"\nThe peer's step takes {1e3 * step[1]:.0f} ms, {words}.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve_peer"]:
        serve_peer([Path(folder) for folder in sys.argv[2:]])
    else:
        main()
