"""Training batches a second: our loader, LeRobot's, the reference ACT's way, and a plain memory copy: prints one table.

    python benchmarks/data_loading.py

The same demonstrations everywhere, 480x640, in batches of 8 with chunks of 100 actions, with one camera and with four;
`lerobot_dataset.py` makes them, once. Everything that a side reads lies in the page cache before the clock runs.

- cached: rows of our frame cache, gathered in the calling thread; "ahead" as training takes it, from a thread.
- float: the same, also converted as the reference's loader delivers (images float in [0, 1], vectors normalised).
  The other rows of ours, and LeRobot's, deliver uint8 images, which the training step converts on its device.
- jpeg: no cache, decoded as needed by two threads.
- LeRobot: its video data set, as its training sets the loader up (uint8 images, shuffled); torchcodec is the decoder
  it prefers, PyAV the one it falls back to.
- reference: one file opened and one raw image a camera read for each sample by one worker, float images.
- copy: as many bytes copied from memory to memory by one thread, other ones every time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

import peers
from lerobot_dataset import converted, FOUR, recorded

HERE = Path(__file__).parent
CHUNK, BATCH = 100, 8
TURNS = 2
NAMES = {
    "copy": "plain memory copy",
    "cached": "aloha_kit, cached",
    "cached, ahead": "aloha_kit, cached, ahead",
    "cached, float": "aloha_kit, cached, ahead, float",
    "jpeg": "aloha_kit, straight from JPEG",
    "jpeg, 120x160": "aloha_kit, from JPEG to 120x160",
    "jpeg, 120x160, decoded whole": "the same without scaled decoding",
    "torchcodec, 0 workers": "LeRobot, torchcodec, no worker",
    "torchcodec, 2 workers": "LeRobot, torchcodec, 2 workers",
    "pyav, 0 workers": "LeRobot, PyAV, no worker",
    "pyav, 2 workers": "LeRobot, PyAV, 2 workers",
    "reference": "reference's way, 1 worker, raw files",
}
Results = dict[str, dict[str, float]]


def measured(cameras: tuple[str, ...], episodes: int, seconds: float) -> Results:
    """Rate and CPU time of every row, for some cameras; means over turns of the two sides."""
    ours = recorded(cameras, episodes)
    theirs = converted(ours)
    sides = (
        (sys.executable, "data_loading_ours.py", ours),
        (peers.python_of("lerobot"), "data_loading_lerobot.py", theirs),
    )
    turns: list[Results] = []
    for _ in range(TURNS):
        turn: Results = {}
        for python, script, folder in sides:
            arguments = [folder, CHUNK, BATCH, seconds / TURNS]
            turn |= peers.run_side(python, str(HERE / script), arguments, os.cpu_count() or 1)
        turns.append(turn)
    return {
        row: {key: statistics.fmean(turn[row][key] for turn in turns) for key in ("rate", "cpu_ms")} for row in NAMES
    }


def table(cameras: int, results: Results) -> str:
    """One row a way to load; ratios to LeRobot's and the reference's best."""
    lerobot = max(result["rate"] for name, result in results.items() if "workers" in name)
    reference, copy = results["reference"]["rate"], results["copy"]["rate"]
    lines = [
        f"| {cameras} camera{'s' * (cameras > 1)}, 480x640 | samples a second | CPU ms a sample | times LeRobot's best "
        "| times the reference | of the copy's speed |",
        "|---|---|---|---|---|---|",
    ]
    for key, name in NAMES.items():
        rate, cpu = results[key]["rate"], results[key]["cpu_ms"]
        ratios = f"{rate / lerobot:.1f} | {rate / reference:.1f} | {rate / copy:.1%}"
        lines.append(f"| {name} | {rate:,.0f} | {cpu:.{3 if cpu < 1 else 1}f} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row")
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 4], choices=(1, 4))
    args = parser.parse_args()
    for cameras in args.cameras:
        names, episodes = (FOUR[:1], 6) if cameras == 1 else (FOUR, 2)
        print(table(cameras, measured(names, episodes, args.seconds)), flush=True)
        print(f"\n{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n", flush=True)


if __name__ == "__main__":
    main()
