"""One inference of the same ACT here and in LeRobot on this machine: prints one table, in 2 to 4 minutes.

    python benchmarks/inference_latency.py
    python benchmarks/inference_latency.py --cameras 4
    python benchmarks/inference_latency.py --cameras 4 --device cuda
    python benchmarks/inference_latency.py --rebuilt                    # where LeRobot cannot be installed

Both sides: ResNet-18 on 480x640 images, 512 wide, 3200 feed-forward, 4 encoder layers, 1 decoder layer that is used,
a chunk of 100, random weights, one observation. Ours goes from an observation in numpy to a chunk in numpy, as
deployment does: on a CPU with the engine that `deploy` chooses, then with each engine and precision. LeRobot is shown
twice: its network alone on tensors that lie ready, which the ratios are of, and from the same observation through its
own preparation, preprocessor and postprocessor. Sides take turns, each in a process of its own; ours lets waiting
threads sleep soon, as its commands do (GOMP_SPINCOUNT=1000), LeRobot's spin, as OpenMP's do by default, which counts
as CPU time and costs it dearly on a machine that does other work: read ratios on an idle one, or with --threads 1.
`off` is the largest difference from eager fp32, in standard deviations of an action. torch.compile takes a minute or
two before its first answer, and gains little on a CPU: there it runs only with --compile.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys

import numpy as np
import peers
from peers import Measured, Side

OURS, LEROBOT = "inference_latency_ours.py", "inference_latency_lerobot.py"
DEFAULT = "aloha_kit, what `deploy` takes by itself"
GOALS_MS = {"fp32": 10.0, "bf16": 5.0}  # p99 of an inference of 4 cameras on a data-centre GPU
AIM_MS = 3.0


def sides(cuda: bool, compile: bool, rebuilt: bool) -> list[Side]:
    """LeRobot's network alone first: the others are compared with it."""
    if rebuilt:
        listed = [Side("LeRobot's ACT rebuilt, network alone", sys.executable, "inference_latency_rebuilt.py")]
    else:
        lerobot = str(peers.python_of("lerobot"))
        listed = [
            Side("LeRobot 0.6.1, network alone", lerobot, LEROBOT),
            Side("LeRobot 0.6.1, from observation to actions", lerobot, LEROBOT, ("--whole",)),
        ]
    if not cuda:
        listed.append(Side(DEFAULT, sys.executable, OURS, ("--engine", "default")))
    engines = ["eager"]
    if cuda or compile:
        engines.append("compile")
    if not cuda and importlib.util.find_spec("openvino") is not None:
        engines.append("openvino")
    for engine in engines:
        for precision in ("fp32", "bf16"):
            flags = ("--engine", engine, "--precision", precision)
            listed.append(Side(f"aloha_kit, {engine} {precision}", sys.executable, OURS, flags))
    return listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="of the images in place of 480 640")
    parser.add_argument("--policy", default="act", help="ours, a name in configs/policies")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile on a CPU too")
    parser.add_argument("--rebuilt", action="store_true", help="LeRobot's ACT rebuilt in plain PyTorch, for LeRobot")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--inferences", type=int, help="a turn; by default 50 over the cameras on a CPU, 1000 on a GPU")
    parser.add_argument("--queries", dest="inferences", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    cuda = args.device == "cuda"
    inferences = args.inferences or (1000 if cuda else max(10, 50 // args.cameras))
    listed = sides(cuda, args.compile, args.rebuilt)
    size = args.size or (480, 640)

    def arguments(side: Side) -> list[object]:
        given: list[object] = [args.cameras, inferences, args.device, *side.flags]
        given += ["--size", *size] if side.script != LEROBOT else []
        return given + (["--policy", args.policy] if side.script == OURS else [])

    print("| one inference | p50 ms | p99 ms | CPU ms | times as fast | in CPU time | off | ready after s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    done: dict[str, Measured] = {}
    for side, measured in peers.in_turns(listed, args.turns, arguments, args.threads, gpu=cuda):
        if measured.error:
            print(f"| {side.name} | {measured.error} |" + " – |" * 6, flush=True)
        else:
            done[side.name] = measured
            chosen = f" ({measured.about['engine']})" if side.name == DEFAULT else ""
            print(row(side.name + chosen, measured, done[listed[0].name]), flush=True)
    machine = done[listed[0].name].about["machine"]
    print(f"\n{args.cameras} camera(s) {size[0]}x{size[1]}, {inferences * args.turns} inferences each, {machine}, "
          f"{args.threads} threads, load average {os.getloadavg()[0]:.1f} at the end.")  # fmt: skip
    print("; ".join(f"{name}: torch {each.about['torch']}" for name, each in done.items()))
    if cuda:
        print("\n" + goals({name: each.seconds for name, each in done.items()}))


def row(name: str, mine: Measured, base: Measured) -> str:
    """A side's line of the table; ratios are of medians."""
    p50, p99 = (1e3 * float(np.percentile(mine.seconds, q)) for q in (50, 99))
    cpu_ms = 1e3 * float(np.median(mine.cpu_seconds))
    faster, in_cpu = 1e3 * float(np.median(base.seconds)) / p50, 1e3 * float(np.median(base.cpu_seconds)) / cpu_ms
    off, ready = mine.about.get("off"), mine.about.get("ready")
    shown = [f"{p50:.1f}", f"{p99:.1f}", f"{cpu_ms:.0f}", f"{faster:.2f}", f"{in_cpu:.2f}"]
    shown += ["–" if off is None else f"{off:.1g}", "–" if ready is None else f"{ready:.0f}"]
    return f"| {name} | {' | '.join(shown)} |"


def goals(seconds: dict[str, list[float]]) -> str:
    """The best p99 of ours in each precision, beside what it should be."""
    lines = []
    for precision, goal in GOALS_MS.items():
        p99 = {name: 1e3 * float(np.percentile(values, 99)) for name, values in seconds.items()
               if name.startswith("aloha_kit") and name.endswith(precision)}  # fmt: skip
        if p99:
            best = min(p99, key=lambda name: p99[name])
            met = "met" if p99[best] < goal else "not met"
            aim = f", and the aim of {AIM_MS:g} ms {'too' if p99[best] < AIM_MS else 'not'}" if met == "met" else ""
            lines.append(f"p99 under {goal:g} ms in {precision}: {met}{aim} ({best}: {p99[best]:.2f} ms).")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
