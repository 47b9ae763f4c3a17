"""Episodes of joints on sine waves and moving images, without simulation: for a machine that cannot render.

python benchmarks/gpu_episodes.py FOLDER --size 480 640 --cameras 3 --episodes 2 --steps 200
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.synthetic import make, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", nargs=2, type=int, required=True, metavar=("H", "W"))
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    cameras = {f"cam_{i}": (args.size[0], args.size[1]) for i in range(args.cameras)}
    for seed in range(args.episodes):
        write(args.folder, make(args.steps, cameras, seed=seed), images="jpeg", state=False)


if __name__ == "__main__":
    main()
