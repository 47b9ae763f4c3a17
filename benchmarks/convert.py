"""Writing of a LeRobot v3.0 data set: ours against LeRobot 0.6.1's own writer, from the same recorded episodes.

    python benchmarks/convert.py --episodes 1
    python benchmarks/convert.py --episodes 2 --cameras top left_wrist

Both decode the same JPEG and encode the same images, in turns, with a process each. LeRobot has its default encoder
(AV1, crf 30), in its default way, with a PNG for each image first, and in its faster one, streaming. Ours has H.264,
the default, and AV1 with LeRobot's settings; it also decodes every video again, measures its quality and computes the
report's SHA-256, which LeRobot does not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
import time
from pathlib import Path

import peers
from lerobot_dataset import hand_over, RATE_HZ, recorded

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.episode import list_episodes

HERE = Path(__file__).parent


def ours(episodes: Path, folder: Path, codec: str) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.monotonic(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        convert([str(episodes), str(folder), "--format", "lerobot", "--codec", codec, "--log_level", "error"])
    return time.monotonic() - wall, time.process_time() - cpu


def theirs(exchange: Path, folder: Path, *flags: str) -> tuple[float, float]:
    """Wall and CPU seconds, without the start of the interpreter."""
    script = str(HERE / "lerobot_dataset_lerobot.py")
    found = peers.run_side(peers.python_of("lerobot"), script, [exchange, folder, RATE_HZ, *flags], 1)
    return found["seconds"], found["cpu_seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--cameras", nargs="+", default=["top"])
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    episodes = recorded(args.cameras, args.episodes)
    measured: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        exchange = Path(place) / "exchange"
        for number, file in enumerate(list_episodes(episodes)[: args.episodes]):
            hand_over(file, exchange / f"{number:03d}")
        for turn in range(args.turns):
            for name in ("ours, H.264", "ours, AV1", "LeRobot, streaming", "LeRobot"):
                folder = Path(place) / "out"
                if name.startswith("ours"):
                    times = ours(episodes, folder, "av1" if name.endswith("AV1") else "h264")
                else:
                    times = theirs(exchange, folder, *([] if "streaming" in name else ["--png"]))
                measured.setdefault(name, []).append(times)
                shutil.rmtree(folder)
                print(f"turn {turn}: {name}: {times[0]:.1f} s, CPU {times[1]:.1f} s", file=sys.stderr)
    best = {name: (min(w for w, _ in times), min(c for _, c in times)) for name, times in measured.items()}
    reference = best["LeRobot"]
    print("| writer | s | CPU s | times as fast (CPU) |\n|---|---|---|---|")
    for name, (wall, cpu) in best.items():
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {reference[0] / wall:.1f} ({reference[1] / cpu:.1f}) |")


if __name__ == "__main__":
    main()
