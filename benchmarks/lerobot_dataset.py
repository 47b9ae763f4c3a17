"""The same demonstrations as our episodes and as a LeRobot 0.6.1 video data set: made once, kept outside the checkout.

    python benchmarks/lerobot_dataset.py                                            # 6 episodes, 1 camera 480x640
    python benchmarks/lerobot_dataset.py --episodes 2 --cameras top angle left_wrist right_wrist

Episodes are recorded by `aloha_kit.record` in simulation (JPEG, quality 95). The data set is written by LeRobot in its
own environment from the decoded images, with its default encoder (AV1, crf 30, every second image a key frame), the
same joints and the same actions. Prints both folders. A folder that is there is used as it is; delete it to begin anew.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import peers

from aloha_kit.core.jpeg import psnr
from aloha_kit.episode import Episode, list_episodes
from aloha_kit.storage.codec import decode_image, encode_jpeg

HERE = Path(__file__).parent
ROOT = peers.ROOT.parent / "datasets"
RATE_HZ = 50  # of the task
FOUR = ("top", "angle", "left_wrist", "right_wrist")


def recorded(cameras: Sequence[str], episodes: int, size: tuple[int, int] = (480, 640)) -> Path:
    """A folder of our episodes of 400 steps."""
    folder = ROOT / f"ours_{len(cameras)}x{size[0]}x{size[1]}_{episodes}"
    command = [sys.executable, "-m", "aloha_kit.record", "--task", "sim_transfer_cube", "--dataset_dir", str(folder)]
    command += ["--num_episodes", str(episodes), "--image_size", *map(str, size), "--cameras", *cameras]
    if not folder.is_dir() or len(list_episodes(folder)) < episodes:
        subprocess.run(command, check=True, stdout=sys.stderr)
    return folder


def resized(episodes: Path, size: tuple[int, int]) -> Path:
    """A folder of the same episodes with images of another size."""
    folder = episodes.with_name(f"{episodes.name}_at_{size[0]}x{size[1]}")
    if not folder.is_dir():
        command = [sys.executable, "-m", "aloha_kit.episode", "resize", str(episodes), "--size", *map(str, size)]
        subprocess.run([*command, "--copy", str(folder)], check=True, stdout=sys.stderr)
    return folder


def converted(episodes: Path) -> Path:
    """The folder of LeRobot's data set with the images, joints and actions of a folder of episodes."""
    folder = episodes.with_name(episodes.name.replace("ours", "lerobot"))
    if not (folder / "complete").is_file():
        with tempfile.TemporaryDirectory() as exchange:
            for number, file in enumerate(list_episodes(episodes)):
                hand_over(file, Path(exchange) / f"{number:03d}")
            arguments = [exchange, folder, RATE_HZ]
            peers.run_side(peers.python_of("lerobot"), str(HERE / "lerobot_dataset_lerobot.py"), arguments, 1)
        (folder / "complete").touch()
    return folder


def decibels(episodes: Path, videos: Path, quality: int) -> tuple[float, float]:
    """Mean PSNR to every 20th recorded image of the first episode: of JPEG of a quality, and of LeRobot's video."""
    ours, theirs = [], []
    with Episode.open(list_episodes(episodes)[0]) as episode:
        for camera in episode.cameras:
            (file,) = sorted(videos.glob(f"videos/observation.images.{camera}/**/*.mp4"))
            with av.open(str(file)) as video:
                for i, frame in enumerate(itertools.islice(video.decode(video=0), episode.length)):
                    if i % 20 == 0:
                        image = episode.image(camera, i)
                        ours.append(psnr(image, decode_image(encode_jpeg(image, quality))))
                        theirs.append(psnr(image, np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)))
    return float(np.mean(ours)), float(np.mean(theirs))


def hand_over(file: Path, folder: Path) -> None:
    """One episode as plain arrays: LeRobot's environment has no HDF5. JPEG is decoded over there."""
    folder.mkdir(parents=True)
    with Episode.open(file) as episode:
        np.save(folder / "action.npy", episode.action)
        np.save(folder / "qpos.npy", episode.qpos[: episode.length])
        for camera in episode.cameras:
            images = [episode.encoded(camera, i) for i in range(episode.length)]
            width = max(map(len, images))
            padded = np.frombuffer(b"".join(image.ljust(width, b"\0") for image in images), np.uint8)
            np.save(folder / f"images_{camera}.npy", padded.reshape(len(images), width))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=6)
    parser.add_argument("--cameras", nargs="+", default=["top"])
    parser.add_argument("--image_size", nargs=2, type=int, default=(480, 640), metavar=("H", "W"))
    args = parser.parse_args()
    ours = recorded(args.cameras, args.episodes, tuple(args.image_size))
    print(f"ours: {ours}\nLeRobot: {converted(ours)}")


if __name__ == "__main__":
    main()
