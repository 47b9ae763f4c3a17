"""CPU time of decoding a JPEG to RGB, beside OpenCV, in one thread: prints a table, and stops where a pixel differs.

    python benchmarks/jpeg_decoding.py

Images of three simulated cameras, of 480x640 and of 240x320, JPEG of quality 95 as recorded. A half is what training
decodes for a network of half the size. The sides take turns, and each row has the fastest of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from lerobot_dataset import recorded, resized

from aloha_kit.core.jpeg import decode_rgb
from aloha_kit.episode import Episode, list_episodes

NAMES = {1: "whole", 2: "half", 4: "quarter"}
FLAGS = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    folder = recorded(("top", "left_wrist", "right_wrist"), 2)
    print("| images | decoded | OpenCV, ms | ours, ms | of OpenCV's time |\n|---|---|---|---|---|")
    for size, episodes in (("480x640", folder), ("240x320", resized(folder, (240, 320)))):
        with Episode.open(list_episodes(episodes)[0]) as episode:
            codes = [episode.encoded(camera, i) for camera in episode.cameras for i in range(0, episode.length, 20)]
        for fraction, name in NAMES.items():
            sides = partial(by_opencv, fraction), partial(by_us, fraction)
            assert all(np.array_equal(sides[0](code), sides[1](code)) for code in codes)
            turns = [[milliseconds(side, codes) for side in sides] for _ in range(args.turns)]
            theirs, ours = map(min, zip(*turns, strict=True))
            print(f"| {size} | {name} | {theirs:.3f} | {ours:.3f} | {ours / theirs:.2f} |")


def by_opencv(fraction: int, code: bytes) -> Any:
    image: Any = cv2.imdecode(np.frombuffer(code, np.uint8), FLAGS[fraction])
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def by_us(fraction: int, code: bytes) -> Any:
    return decode_rgb(code, fraction=fraction)


def milliseconds(decode: Callable[[bytes], Any], codes: Sequence[bytes]) -> float:
    """CPU time of an image."""
    began = time.thread_time()
    for code in codes:
        decode(code)
    return 1e3 * (time.thread_time() - began) / len(codes)


if __name__ == "__main__":
    main()
