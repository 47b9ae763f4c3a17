"""Environments of the peers: installed once, kept outside the checkout, run by their own Python."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = Path(os.environ.get("ALOHA_KIT_PEERS", Path.home() / ".cache" / "aloha_kit" / "peers"))
PEERS: dict[str, tuple[str, str]] = {"lerobot": ("lerobot[training]==0.6.1", "3.12")}  # name: what to install, Python


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its name, its interpreter, its script, its script's arguments."""

    name: str
    python: str
    script: str
    flags: tuple[str, ...] = ()


class SideError(SystemExit):
    """A side's script failed; uncaught, it ends the comparison with its message."""


def installed(peer: str) -> bool:
    """Whether a peer's environment is here."""
    return (ROOT / peer / "installed").is_file()


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made first where it is missing (a minute, 5 GB).

    Exits with a message where it cannot be had.
    """
    requirement, version = PEERS[peer]
    folder = ROOT / peer
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.is_file() or done.read_text(encoding="utf-8") != requirement:
        uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
        print(f"installing {requirement} into {folder}", file=sys.stderr)
        try:
            subprocess.run([uv, "venv", "-q", "--allow-existing", "--python", version, str(folder)], check=True)
            subprocess.run([uv, "pip", "install", "-q", "-p", str(python), requirement], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"{peer} cannot be installed here: {error}")
        done.write_text(requirement, encoding="utf-8")
    return python


def ffmpeg_of(python: Path) -> list[str]:
    """Folders to add to a peer's library path, so that LeRobot's own video decoder runs.

    torchcodec wants FFmpeg's libraries from the system, and LeRobot takes a slower decoder where there are none. PyAV,
    which it has too, brings them along under other names; here they get the usual ones.
    """
    packed = next(iter(python.parents[1].glob("lib/python*/site-packages/av.libs")), None)
    if packed is None or ROOT not in python.parents:
        return []
    folder = python.parents[1] / "ffmpeg"
    folder.mkdir(exist_ok=True)
    for file in (*packed.glob("libav*-*.so.*"), *packed.glob("libsw*-*.so.*")):  # libavcodec-7ee0753d.so.61.19.101
        library, version = file.name.split("-")[0], file.name.split(".so.")[1].split(".")[0]
        with contextlib.suppress(FileExistsError):
            (folder / f"{library}.so.{version}").symlink_to(file)
    return [str(folder), str(packed)]


def run_side(python: str | Path, script: str, arguments: Sequence[object], threads: int, *, gpu: bool = False) -> Any:
    """Run `script ARGUMENTS…` under an interpreter; it prints progress to stderr and one line of JSON last.

    Raises:
        SideError: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    if script.endswith("_ours.py"):
        environment = {"GOMP_SPINCOUNT": "1000", **environment}  # as our commands do, see aloha_kit.startup
    if not gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    libraries = ffmpeg_of(Path(python))
    if libraries:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")])
    done = subprocess.run(
        [str(python), script, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
    )
    sys.stderr.write(done.stderr)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise SideError(f"{Path(script).name} failed: {reason.replace('|', '/')}")
    return json.loads(done.stdout.strip().splitlines()[-1])


@dataclass
class Measured:
    """What a side's script measured in all its turns: see `stopwatch.timed`."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)  # the last turn's values
    error: str = ""  # why there is nothing


def in_turns(
    sides: Sequence[Side], turns: int, arguments: Callable[[Side], Sequence[object]], threads: int, *, gpu: bool
) -> Iterator[tuple[Side, Measured]]:
    """Run the sides one after the other, so many times; each is given as soon as it has had its last turn.

    Raises:
        SideError: the first one failed, which the others are compared with. Another that fails is given with its error.
    """
    measured = [Measured() for _ in sides]
    for turn in range(turns):
        for side, mine in zip(sides, measured, strict=True):
            if mine.error:
                continue
            try:
                mine.about = run_side(side.python, str(HERE / side.script), arguments(side), threads, gpu=gpu)
                mine.seconds += mine.about["seconds"]
                mine.cpu_seconds += mine.about["cpu_seconds"]
            except SideError as error:
                if side is sides[0]:
                    raise
                mine.error = str(error)
            if mine.error or turn == turns - 1:
                yield side, mine
