"""The README's animation: one scripted episode, its cameras above joints and actions over time.

python docs/animation.py                  # records an episode, replays it to a video, writes docs/episode.gif
python docs/animation.py VIDEO.mp4        # from a video that `python -m aloha_kit.replay` wrote
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import av
from PIL import Image

OUTPUT = Path(__file__).with_name("episode.gif")
WIDTH = 800  # pixels
EVERY = 10  # of 50 frames a second
FRAME_MS, LAST_MS = 120, 2000  # 1.7 times as fast as the arms moved


def main() -> None:
    """Write the animation."""
    if len(sys.argv) > 1:
        write(Path(sys.argv[1]), OUTPUT)
        return
    with tempfile.TemporaryDirectory() as folder:
        episodes, size = f"{folder}/episodes", ["--image_size", "240", "320"]
        cameras = ["--cameras", "top", "front_close", "right_wrist"]
        task = ["--task", "sim_transfer_cube", "--num_episodes", "1", "--dataset_dir", episodes]
        run("record", *task, *cameras, *size)
        run("replay", f"{episodes}/episode_0.hdf5", "--output", folder, "--no_rrd", "--no_plots")
        write(Path(folder) / "episode_0.mp4", OUTPUT)


def run(command: str, *flags: str) -> None:
    """Run a command of the toolkit; raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", f"aloha_kit.{command}", *flags], check=True)


def write(video: Path, output: Path) -> None:
    """Every tenth frame of a video as an animated GIF of one common palette."""
    with av.open(str(video)) as container:
        frames = [frame.to_image() for i, frame in enumerate(container.decode(video=0)) if i % EVERY == 0]
    small = [frame.resize((WIDTH, WIDTH * frame.height // frame.width), Image.Resampling.LANCZOS) for frame in frames]
    first, *rest = quantised(small)
    durations = [FRAME_MS] * len(rest) + [LAST_MS]
    first.save(output, save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)
    print(f"{output}: {len(small)} frames, {output.stat().st_size / 1e3:.0f} kB")


def quantised(frames: list[Image.Image]) -> list[Image.Image]:
    """The frames in 128 colours: the half that suits the cameras' areas best, the half that covers the plot's lines."""
    middle = frames[len(frames) // 2]
    methods = (Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE)
    colours = [value for method in methods for value in middle.quantize(64, method=method).getpalette() or []]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


if __name__ == "__main__":
    main()
