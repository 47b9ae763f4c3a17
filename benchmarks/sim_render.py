"""What a simulated step costs, beside gym-aloha's: prints one markdown table, measured in one run.

    python benchmarks/sim_render.py

gym-aloha 0.1.3 steps its transfer-cube environment (`obs_type="pixels_agent_pos"`) in a process of its
own. It renders three 480x640 cameras a step and returns one, so two ratios are given: for the one
returned image (our one camera against its step) and camera for camera (our three against its step).
Both take turns in short blocks, so other work on the machine weighs on both; medians are shown, wall
clock and CPU time of all threads.

Where gym-aloha does not run beside this package, give it an environment of its own:

    python -m venv peer && peer/bin/pip install 'gym-aloha==0.1.3' 'mujoco>=3.17,<4' 'dm_control>=1.0.50'
    python benchmarks/sim_render.py --peer_python peer/bin/python
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PEER_CAMERAS = ("top", "angle", "front_close")
WARM_UP = 3

Sample = tuple[float, float]  # wall and CPU ms of one step


@dataclass(frozen=True)
class Options:
    """Cost of a simulated step, ours and gym-aloha's."""

    rounds: int = 5  # blocks that each side gets
    steps: int = 10  # steps in a block
    peer_python: Path = Path(sys.executable)  # an interpreter that has gym-aloha 0.1.3


def timed(step: Callable[[], object], count: int) -> list[Sample]:
    """Wall and CPU milliseconds of each of `count` calls."""
    samples = []
    for _ in range(count):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        samples.append(((time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3))
    return samples


def serve_peer() -> None:
    """The other process: answers each number on stdin with that many timed gym-aloha steps."""
    import gym_aloha  # noqa: F401 - registers the environments
    import gymnasium
    import mujoco
    import numpy as np

    env = gymnasium.make("gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos", max_episode_steps=10**9)
    observation, _ = env.reset(seed=0)
    action = np.asarray(observation["agent_pos"], np.float32)
    timed(lambda: env.step(action), WARM_UP)
    print(json.dumps({"mujoco": mujoco.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(timed(lambda: env.step(action), int(line))), flush=True)


class Peer:
    """gym-aloha in its own process."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [str(python), __file__, "serve_peer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "MUJOCO_GL": "egl"},
        )
        self.version = json.loads(self._line())["mujoco"]

    def steps(self, count: int) -> list[Sample]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return [(wall, cpu) for wall, cpu in json.loads(self._line())]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("gym-aloha does not run in this interpreter; see --peer_python in this file's text")
        return line


def main() -> None:
    import tyro
    from tqdm import tqdm

    from aloha_kit.sim import SimEnv

    options = tyro.cli(Options)
    full, small = (480, 640), (120, 160)
    cases: dict[str, tuple[str, dict[str, tuple[int, int]]]] = {
        "physics alone": ("fast", {}),
        "120x160 top, draft": ("draft", {"top": small}),
        "120x160 top, fast": ("fast", {"top": small}),
        "480x640 top, draft": ("draft", {"top": full}),
        "480x640 top, fast": ("fast", {"top": full}),
        "480x640 top, fine": ("fine", {"top": full}),
        "three 480x640, draft": ("draft", dict.fromkeys(PEER_CAMERAS, full)),
        "three 480x640, fast": ("fast", dict.fromkeys(PEER_CAMERAS, full)),
        "three 480x640, fine": ("fine", dict.fromkeys(PEER_CAMERAS, full)),
    }
    steppers: dict[str, Callable[[int], list[Sample]]] = {}
    environments = []
    for name, (quality, cameras) in cases.items():
        env = SimEnv("transfer_cube", cameras=cameras, quality=quality, episode_len=10**9)
        action = env.reset().observation["qpos"]
        timed(lambda env=env, action=action: env.step(action), WARM_UP)  # type: ignore[misc]
        steppers[name] = lambda count, env=env, action=action: timed(lambda: env.step(action), count)  # type: ignore[misc]
        environments.append(env)
    peer = Peer(options.peer_python)
    steppers["gym-aloha"] = peer.steps
    samples: dict[str, list[Sample]] = {name: [] for name in steppers}
    for _ in tqdm(range(options.rounds), desc="rounds"):
        for name, stepper in steppers.items():
            samples[name] += stepper(options.steps)
    peer.close()
    for env in environments:
        env.close()
    print(table({name: middle(taken) for name, taken in samples.items()}, environments[0].describe(), peer.version))


def middle(taken: list[Sample]) -> Sample:
    """Median wall and CPU milliseconds."""
    return statistics.median(wall for wall, _ in taken), statistics.median(cpu for _, cpu in taken)


def table(cost: dict[str, Sample], describe: dict[str, object], peer_mujoco: str) -> str:
    """The figures as markdown, with the peer's cost over ours (CPU time in brackets)."""
    wall, cpu = cost["gym-aloha"]
    lines = [
        f"Cost of one 50 Hz step, {platform.machine()} with {os.cpu_count()} cores, "
        f"MuJoCo {describe['mujoco']} (gym-aloha's: {peer_mujoco}), OpenGL by {os.environ.get('MUJOCO_GL')}. "
        f"Load average {os.getloadavg()[0]:.1f}: above the number of cores, compare CPU time, not wall time.",
        "",
        "| step with | wall ms | CPU ms | gym-aloha's step costs |",
        "|---|---|---|---|",
        f"| gym-aloha 0.1.3: renders three 480x640, returns one | {wall:.1f} | {cpu:.1f} | 1 |",
    ]
    for name, (own_wall, own_cpu) in cost.items():
        if name != "gym-aloha":
            ratio = f"{wall / own_wall:.1f} times as much ({cpu / own_cpu:.1f} in CPU time)"
            lines.append(f"| {name} | {own_wall:.2f} | {own_cpu:.2f} | {ratio if 'x' in name else '–'} |")
    for words, name in (
        ("the one returned image", "480x640 top, fast"),
        ("camera for camera", "three 480x640, fast"),
    ):
        lines.append(f"\nFor {words}: {wall / cost[name][0]:.1f} times faster ({cpu / cost[name][1]:.1f} in CPU time).")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve_peer"]:
        serve_peer()
    else:
        main()
