"""One query of the same ACT here and in LeRobot on this machine: prints one table, in 2 to 4 minutes.

    python benchmarks/query_latency.py
    python benchmarks/query_latency.py --cameras 4
    python benchmarks/query_latency.py --cameras 4 --device cuda

Both sides: ResNet-18 on 480x640 images, 512 wide, 3200 feed-forward, 4 encoder layers, 1 decoder layer that is used,
a chunk of 100, random weights, one observation. Ours goes from an observation in numpy to a chunk in numpy, as
deployment asks, with each engine and precision that deployment and evaluation take. LeRobot is shown twice: its network
alone on tensors that lie ready, which the ratios are of, and from the same observation through its own preparation,
preprocessor and postprocessor. Sides take turns, each in a process of its own; ours lets waiting threads sleep, as its
commands do (OMP_WAIT_POLICY=passive), LeRobot's spin, as OpenMP's do by default, which counts as CPU time and costs it
dearly on a machine that does other work: read ratios on an idle one, or with --threads 1. `off` is the largest
difference from eager fp32, in standard deviations of an action. torch.compile takes a minute or two before its first
answer, and gains little on a CPU: there it is asked only with --compile.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peers
from peers import Side

HERE = Path(__file__).parent


def sides(cuda: bool, compile: bool) -> list[Side]:
    """LeRobot's network alone first: the others are compared with it."""
    lerobot = str(peers.python_of("lerobot"))
    listed = [
        Side("LeRobot 0.6.1, network alone", lerobot, "query_latency_lerobot.py"),
        Side("LeRobot 0.6.1, from observation to actions", lerobot, "query_latency_lerobot.py", ("--whole",)),
    ]
    engines = ["eager"]
    if cuda or compile:
        engines.append("compile")
    if not cuda and importlib.util.find_spec("openvino") is not None:
        engines.append("openvino")
    for engine in engines:
        for precision in ("fp32", "bf16"):
            flags = ("--engine", engine, "--precision", precision)
            listed.append(Side(f"aloha_kit, {engine} {precision}", sys.executable, "query_latency_ours.py", flags))
    return listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile on a CPU too")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--queries", type=int, help="a turn; by default 50 over the cameras on a CPU, 1000 on a GPU")
    args = parser.parse_args()
    cuda = args.device == "cuda"
    queries = args.queries or (1000 if cuda else max(10, 50 // args.cameras))
    listed = sides(cuda, args.compile)
    seconds: dict[str, list[float]] = {side.name: [] for side in listed}
    cpu: dict[str, list[float]] = {side.name: [] for side in listed}
    about: dict[str, dict[str, Any]] = {}
    for _ in range(args.turns):
        for side in listed:
            given = [args.cameras, queries, args.device, *side.flags]
            told = peers.ask(side.python, str(HERE / side.script), given, args.threads, gpu=cuda)
            about[side.name] = told
            seconds[side.name] += told["seconds"]
            cpu[side.name] += told["cpu_seconds"]
    base, base_cpu = (float(np.median(times[listed[0].name])) for times in (seconds, cpu))
    print("| one query | p50 ms | p99 ms | CPU ms | times as fast | in CPU time | off | ready after s |")
    print("|---|---|---|---|---|---|---|---|")
    for side in listed:
        p50, p99 = (1e3 * float(np.percentile(seconds[side.name], q)) for q in (50, 99))
        cpu_ms = 1e3 * float(np.median(cpu[side.name]))
        off, ready = about[side.name].get("off"), about[side.name].get("ready")
        shown = [
            f"{p50:.1f}",
            f"{p99:.1f}",
            f"{cpu_ms:.0f}",
            f"{1e3 * base / p50:.2f}",
            f"{1e3 * base_cpu / cpu_ms:.2f}",
        ]
        shown += ["–" if off is None else f"{off:.1g}", "–" if ready is None else f"{ready:.0f}"]
        print(f"| {side.name} | {' | '.join(shown)} |")
    count = len(seconds[listed[0].name])
    print(f"\n{args.cameras} camera(s) 480x640, {count} queries each, {about[listed[0].name]['machine']}, "
          f"{args.threads} threads, load average {os.getloadavg()[0]:.1f} at the end.")  # fmt: skip
    print("; ".join(f"{name}: torch {told['torch']}" for name, told in list(about.items())[:: len(about) - 1]))


if __name__ == "__main__":
    main()
