"""Training windows a second from shards, against Lance, our frame cache, HDF5 and LeRobot's loader: prints one table.

    pip install pylance webdataset
    python benchmarks/shards.py

The same demonstrations everywhere: three cameras 480x640 as JPEG of quality 95, batches of 8 with chunks of 100
actions, drawn from all steps at random, images resized to what the network reads. Everything lies in the page cache
before the clock runs, and the sides take turns. On a busy machine the CPU time of a sample is what compares.
`lerobot_dataset.py` makes the demonstrations, once.

- shards: our loader on `convert --format shards`, tar files in WebDataset's layout with tables of where images are.
- "of 240x320": the same demonstrations after `episode resize --size 240 320 --copy`, which a network of that size needs
  only; as shards and, by LeRobot's writer, as its video data set. All are compared with LeRobot's rows of 480x640.
- "of quality 87": the shards after `convert --quality 87`, about as near to the recorded images as LeRobot's video is;
  the PSNR of both is printed.
- Lance: the same loader and the same JPEG, which are taken as binary columns of a Lance data set (version 2.0 of its
  file format, the fastest one here) in one call a batch.
- HDF5: the same loader on our episodes; cached: the frame cache, decoded and resized before.
- stream: WebDataset's own reader, in the order of the files with its shuffle buffer, decoded by the same function.
- LeRobot: its video data set as its training sets the loader up, whole images: it resizes in the training step.
- bytes: the JPEG alone, not decoded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

import peers
from lerobot_dataset import converted, decibels, recorded, resized

HERE = Path(__file__).parent
CHUNK, BATCH, TURNS = 100, 8, 3
CAMERAS = ("top", "left_wrist", "right_wrist")
LEROBOT = "LeRobot"
SMALL = (240, 320)
QUALITY = 87


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each row")
    parser.add_argument("--episodes", type=int, default=2)
    args = parser.parse_args()
    ours = recorded(CAMERAS, args.episodes)
    data = {"": ours, f" of {SMALL[0]}x{SMALL[1]}": resized(ours, SMALL)}
    videos = {of: converted(folder) for of, folder in data.items()}
    settings, lerobot = (CHUNK, BATCH, args.seconds / TURNS), peers.python_of("lerobot")
    turns: list[dict[str, dict[str, float]]] = []
    for _ in range(TURNS):
        turn: dict[str, dict[str, float]] = {}
        for of, folder in data.items():
            few = ["--only", "shards, to"]
            for more, what in (((few if of else []), of), ([*few, "--quality", QUALITY], f"{of} of quality {QUALITY}")):
                arguments = [folder, *settings, *more]
                found = peers.run_side(sys.executable, str(HERE / "shards_ours.py"), arguments, os.cpu_count() or 1)
                turn |= {f"{name}{what}": result for name, result in found.items()}
        for of, folder in videos.items():
            script = str(HERE / "data_loading_lerobot.py")
            found = peers.run_side(lerobot, script, [folder, *settings], os.cpu_count() or 1)
            turn |= {f"{LEROBOT}{of}, {name}": result for name, result in found.items()}
        turns.append(turn)
    means = {
        row: {key: statistics.fmean(turn[row][key] for turn in turns) for key in ("rate", "cpu_ms")} for row in turns[0]
    }
    best = max(result["rate"] for name, result in means.items() if name.startswith(f"{LEROBOT}, "))
    least = min(result["cpu_ms"] for name, result in means.items() if name.startswith(f"{LEROBOT}, "))
    print("| three cameras 480x640 | samples a second | times LeRobot's best | CPU ms a sample | LeRobot's by it |")
    print("|---|---|---|---|---|")
    for name, result in means.items():
        rate, cpu = result["rate"], result["cpu_ms"]
        print(f"| {name} | {rate:,.0f} | {rate / best:.1f} | {cpu:.3g} | {least / cpu:.1f} |")
    for of, folder in data.items():
        near = decibels(folder, videos[of], QUALITY)
        print(f"\nPSNR{of}: {near[0]:.1f} dB of quality {QUALITY}, {near[1]:.1f} dB of {LEROBOT}'s video")
    print(f"\n{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
