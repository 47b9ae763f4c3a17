"""Cost of recording an episode: our writer beside the ALOHA way (lists in memory, one HDF5 file at the end).

    python benchmarks/episode_write.py --seconds 8

Both record the same images at the same pace; every image is a fresh array, as a camera driver leaves
it. "step" is how long the control loop is blocked by recording one step, "end" how long the operator waits
afterwards (ours until the file is synced to the disk, the reference until the last write call returns),
"peak" the resident memory above the start. The reference way is written here from its description: nothing
is encoded or written before the end; then images go to HDF5, raw or as JPEG of the same quality.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Literal

import cv2
import dm_env
import h5py
import numpy as np
import psutil

from aloha_kit.core import Contract, joint_names, Observation
from aloha_kit.episode import EpisodeWriter
from aloha_kit.loop import Outcome

Images = Literal["jpeg", "raw"]
NAMES = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
RATE = 50.0


def camera_images(height: int, width: int) -> list[np.ndarray[Any, Any]]:
    """Sixteen frames that compress like a camera's: smooth shapes and sensor noise (sigma 2)."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(30, 220, (9, 12, 3)).astype(np.uint8)
    base = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    edges = cv2.resize(rng.integers(-25, 25, (48, 64, 3)).astype(np.float32), (width, height), interpolation=0)
    return [
        np.clip(np.roll(base + edges, 3 * i, 1) + rng.normal(0, 2, base.shape), 0, 255).astype(np.uint8)
        for i in range(16)
    ]


class Ours:
    def __init__(self, folder: Path, contract: Contract, images: Images, quality: int) -> None:
        self.writer = EpisodeWriter(
            folder, contract=contract, task="benchmark", rig="none", sim=True, images=images, quality=quality
        )

    def reset(self, observation: Observation) -> None:
        self.writer.on_reset(dm_env.restart(observation))

    def step(self, action: np.ndarray[Any, Any], observation: Observation) -> None:
        self.writer.on_step(action, dm_env.transition(0.0, observation))

    def end(self, steps: int) -> Path:
        self.writer.on_end(Outcome(steps, 0.0, 0.0, "complete"))
        return self.writer.path


class InMemory:
    """The ALOHA way."""

    def __init__(self, folder: Path, contract: Contract, images: Images, quality: int) -> None:
        self.path, self.images, self.quality, self.cameras = (
            folder / "reference.hdf5",
            images,
            quality,
            contract.cameras,
        )
        self.observations: list[Observation] = []
        self.actions: list[np.ndarray[Any, Any]] = []

    def reset(self, observation: Observation) -> None:
        self.step(None, observation)

    def step(self, action: np.ndarray[Any, Any] | None, observation: Observation) -> None:
        self.observations.append(observation)
        if action is not None:
            self.actions.append(action)

    def end(self, steps: int) -> Path:
        with h5py.File(self.path, "w", rdcc_nbytes=2 << 20) as file:
            file["observations/qpos"] = np.array([o["qpos"] for o in self.observations[:-1]])
            file["observations/qvel"] = np.array([o["qvel"] for o in self.observations[:-1]])
            file["observations/effort"] = np.array([o["effort"] for o in self.observations[:-1]])
            file["action"] = np.array(self.actions)
            frames = {name: [o["images"][name] for o in self.observations[:-1]] for name in self.cameras}
            if self.images == "jpeg":
                flag = [cv2.IMWRITE_JPEG_QUALITY, self.quality]
                frames = {k: [cv2.imencode(".jpg", f, flag)[1].reshape(-1) for f in v] for k, v in frames.items()}
                longest = max(len(f) for v in frames.values() for f in v)
                frames = {k: [np.pad(f, (0, longest - len(f))) for f in v] for k, v in frames.items()}
            for name, values in frames.items():
                shape = values[0].shape
                data = file.create_dataset(
                    f"observations/images/{name}", (len(values), *shape), "uint8", chunks=(1, *shape)
                )
                data[...] = np.array(values)
        return self.path


def measure(kind: str, images: Images, options: argparse.Namespace, folder: str, results: Any) -> None:
    """One recording in a process of its own, so that memory and CPU are its own too."""
    process = psutil.Process()
    contract = Contract.of(joint_names(), joint_names(), dict.fromkeys(NAMES, (options.height, options.width)), RATE)
    frames, steps = camera_images(options.height, options.width), round(options.seconds * RATE)
    recorder = (Ours if kind == "ours" else InMemory)(Path(folder), contract, images, options.quality)
    qpos = np.zeros(14, np.float32)

    def observation(row: int) -> Observation:
        stamp = row * 20_000_000
        return {
            "qpos": qpos + row, "qvel": qpos, "effort": qpos,
            "images": {name: frames[(row + i) % 16].copy() for i, name in enumerate(NAMES)},
            "stamps": {"qpos": stamp, "deadline": stamp, "command": stamp, **{f"images/{n}": stamp for n in NAMES}},
        }  # fmt: skip

    start, peak, watching = process.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not watching.wait(0.02):
            peak = max(peak, process.memory_info().rss - start)

    threading.Thread(target=watch, daemon=True).start()
    used, began, blocked, late = time.process_time(), time.monotonic(), [], 0
    recorder.reset(observation(0))
    for row in range(1, steps + 1):
        due = began + row / RATE
        if (left := due - time.monotonic()) > 0:
            time.sleep(left)
        else:
            late += 1
        seen = observation(row)
        before = time.perf_counter()
        recorder.step(qpos + row, seen)
        blocked.append(time.perf_counter() - before)
    during = time.process_time() - used
    before = time.perf_counter()
    path = recorder.end(steps)
    end = time.perf_counter() - before
    total = time.process_time() - used
    watching.set()
    results.put(
        {
            "cpu ms/step": 1e3 * total / steps,
            "of it live": 1e3 * during / steps,
            "step p50 ms": 1e3 * float(np.percentile(blocked, 50)),
            "step p99 ms": 1e3 * float(np.percentile(blocked, 99)),
            "step max ms": 1e3 * max(blocked),
            "late steps": late,
            "end s": end,
            "peak MB": peak / 1e6,
            "file MB": path.stat().st_size / 1e6,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the episode")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--quality", type=int, default=95, help="of JPEG")
    parser.add_argument("--folder", default=None, help="where to write (the temporary folder by default)")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    size = f"{options.height}x{options.width}"
    print(f"{len(NAMES)} cameras {size}, {RATE:g} Hz, {options.seconds:g} s, {os.cpu_count()} cores")
    kinds: tuple[Images, ...] = ("jpeg", "raw")
    for images in kinds:
        rows: dict[str, dict[str, float]] = {}
        for kind in ("in memory", "ours"):
            results: Any = context.Queue()
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                worker = context.Process(target=measure, args=(kind, images, options, folder, results))
                worker.start()
                rows[kind] = results.get(timeout=600)
                worker.join()
        print(f"\n{images:12s}{'in memory':>12s}{'ours':>12s}{'ours/in memory':>16s}")
        for key in rows["ours"]:
            a, b = rows["in memory"][key], rows["ours"][key]
            print(f"{key:12s}{a:12.2f}{b:12.2f}{b / a if a else float('nan'):16.2f}")


if __name__ == "__main__":
    main()
