"""Opening a data set of 100,000 episodes by its manifest, beside reading the episodes of a folder one by one.

    python benchmarks/manifest.py
    python benchmarks/manifest.py --episodes 100000 --files 1000

The manifest's rows are made up; opening it reads no episode. The folder holds one small recorded episode under many
names (hard links), which are opened one by one, as it takes to find tasks and labels without a manifest. Time and peak
memory are of a process each; the memory after its imports is given beside.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from aloha_kit.core.parallel import Workers
from aloha_kit.data.build_manifest import build, BuildOptions
from aloha_kit.formats.manifest import Manifest

MEASURED = """
import json, sys, time
from contextlib import closing
from pathlib import Path
import pyarrow.parquet
from aloha_kit.formats import open_source
from aloha_kit.formats.manifest import Manifest
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
imported = peak()
start, used = time.monotonic(), time.process_time()
{body}
seconds, cpu = time.monotonic() - start, time.process_time() - used
print(json.dumps(dict(episodes=count, seconds=seconds, cpu=cpu, peak_mb=peak(), imported_mb=imported)))
"""
OPEN = """
source = open_source(sys.argv[1])
count = len([source.name(number) for number in range(len(source))])
"""
WHERE = """
count = len(Manifest.read(Path(sys.argv[1])).where("task == 'task_3' and success"))
"""
ONE_BY_ONE = """
source = open_source(sys.argv[1])
count = len(source)
for number in range(count):
    with closing(source.episode(number)) as episode:
        episode.length, episode.success, dict(episode.attrs)
"""


def measured(body: str, place: Path) -> dict[str, Any]:
    """Episodes, wall and CPU seconds, and memory of a process that runs `body` on a place."""
    words = [sys.executable, "-c", MEASURED.format(body=body), str(place)]
    found: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


def linked(folder: Path, files: int) -> None:
    """Many names of one recorded episode."""
    command = [sys.executable, "-m", "aloha_kit.record", "--task", "sim_transfer_cube", "--dataset_dir", str(folder)]
    small = ["--num_episodes", "1", "--image_size", "48", "64", "--cameras", "top"]
    subprocess.run([*command, *small], check=True, stdout=sys.stderr)
    for number in range(1, files):
        os.link(folder / "episode_0.hdf5", folder / f"episode_{number}.hdf5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=1_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, one = Path(place) / "data", Path(place) / "one.parquet"
        linked(folder, args.files)
        (first,) = build([folder / "episode_0.hdf5"], one, BuildOptions(), Workers()).manifest.rows()
        made = [
            {
                **first,
                "id": f"{number:032x}",
                "name": f"episode_{number}.hdf5",
                "task": f"task_{number % 10}",
                "success": (None, True, False)[number % 3],
                "location": f"data/episode_{number}.hdf5",
                "sha256": f"{number:064x}",
                "identity": f"episode_{number}.hdf5:{number}:{number}",
            }
            for number in range(args.episodes)
        ]
        file = Path(place) / "manifest.parquet"
        Manifest.of_rows(Path(place), made).write(file)
        print(
            f"manifest of {args.episodes:,} episodes: {file.stat().st_size / 1e6:.1f} MB; load {os.getloadavg()[0]:.1f}"
        )
        for name, body, source in (
            ("open_source(manifest.parquet)", OPEN, file),
            ("--where \"task == 'task_3' and success\"", WHERE, file),
            ("folder, episodes one by one", ONE_BY_ONE, folder),
        ):
            found = measured(body, source)
            memory = f"peak {found['peak_mb']:.0f} MiB ({found['imported_mb']:.0f} MiB after the imports)"
            print(
                f"{name}: {found['episodes']:,} episodes, {found['seconds']:.2f} s ({found['cpu']:.2f} s CPU), {memory}"
            )


if __name__ == "__main__":
    main()
