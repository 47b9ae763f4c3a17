"""The machine of a reproduction: its description, its GPU, and the commands that run on it.

A folder is worked on by one reproduction at a time.
"""

from __future__ import annotations

import fcntl
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType

from aloha_kit import __version__
from aloha_kit.core import AlohaKitError, ConfigError
from aloha_kit.core.files import make_folder
from aloha_kit.reproduce.result import Surroundings

LOCK = ".lock"
CHECKOUT = Path(__file__).resolve().parents[2]
"""The repository that the package runs from, if it is not installed elsewhere."""

# In a process of its own: torch takes memory that the stages need, and a query of a GPU keeps some of its memory too.
_GPU_NAME = """
import sys, torch
device = torch.device(sys.argv[1])
torch.zeros(1, device=device)
print(torch.cuda.get_device_name(device) if device.type == "cuda" else device.type)
"""


class ReproductionError(AlohaKitError):
    """A reproduction cannot go on; finished stages stay."""


@dataclass(frozen=True)
class CommandResult:
    """Status and time of a command that has ended."""

    status: int
    seconds: float
    interrupted: str  # the signal that stopped the reproduction meanwhile; empty if there was none


class LockedFolder:
    """A locked folder. Every command inherits the lock, so it stays locked while a command outlives this process."""

    def __init__(self, lock: int) -> None:
        self._lock = lock

    def run(self, words: Sequence[str]) -> CommandResult:
        """Run `python -m words...` to its end.

        Ctrl-C, SIGTERM and SIGHUP are passed on as one SIGTERM each, on which all commands save their work and end.
        They run in a session of their own, or a terminal would send them a Ctrl-C as well.
        """
        process: subprocess.Popen[bytes] | None = None
        interrupted = ""

        def pass_on(signum: int, frame: FrameType | None) -> None:
            nonlocal interrupted
            interrupted = signal.Signals(signum).name
            if process is not None:
                process.terminate()

        began = time.monotonic()
        with _handled_by(pass_on):
            process = subprocess.Popen(
                [sys.executable, "-m", *words], start_new_session=True, pass_fds=(self._lock,), stdin=subprocess.DEVNULL
            )
            os.pwrite(self._lock, f"{process.pid:<10}\n".encode(), 0)
            if interrupted:
                process.terminate()
            status = process.wait()
        return CommandResult(status, time.monotonic() - began, interrupted)


@contextmanager
def locked(folder: Path) -> Iterator[LockedFolder]:
    """Lock a folder, which is made where it is missing.

    Raises:
        ConfigError: it cannot be made or written to.
        ReproductionError: another reproduction, or a command that it started, uses it.
    """
    lock = os.open(make_folder(folder) / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process = os.pread(lock, 32, 0).decode(errors="replace").strip()
            raise ReproductionError(
                f"another reproduction uses '{folder}'{f' (process {process})' if process else ''}; "
                "wait for it or end it, or choose another place with --output"
            ) from None
        os.pwrite(lock, f"{os.getpid():<10}\n".encode(), 0)
        yield LockedFolder(lock)
    finally:
        os.close(lock)


def describe_machine(device: str, gpu: str | None) -> Surroundings:
    """This machine and its software, for commands whose networks run on `device`."""
    versions = {"aloha_kit": __version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in ("torch", "mujoco", "numpy")}
    return Surroundings(versions, _cpu(), os.cpu_count() or 1, device, gpu, _commit())


def gpu_of(device: str) -> str | None:
    """Name of the GPU behind a torch device; None for the CPU.

    Raises:
        ConfigError: the device cannot be used.
    """
    if device == "cpu":
        return None
    done = subprocess.run([sys.executable, "-c", _GPU_NAME, device], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        why = last.removeprefix("RuntimeError: ").removeprefix("AssertionError: ").split(". ")[0]
        raise ConfigError(f"device '{device}' cannot be used: {why}")
    return done.stdout.strip()


def choose_device(device: str, intended: str, preset: str, *, force: bool) -> tuple[str, str | None]:
    """The device that networks run on, and its GPU.

    Args:
        device: the device that was given.
        intended: the preset's device.
        preset: its name.
        force: use the CPU where there is no GPU.

    Raises:
        ConfigError: the preset is for a GPU, and there is none.
    """
    for_gpu = intended != "cpu"
    try:
        gpu = gpu_of(device)
        if gpu is not None or not for_gpu or force:
            return device, gpu
        why = "--device cpu was given"
    except ConfigError as error:
        if force:
            return "cpu", None
        why = str(error)
    wanted = f"preset '{preset}' is for a GPU" if for_gpu else f"preset '{preset}' is for the CPU"
    advice = "take --preset cpu" if for_gpu else "leave --device out"
    raise ConfigError(f"{wanted}, and {why}; {advice}, or add --force to run it on the CPU, however long that takes")


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle interruptions by `handler`; ignored ones (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handled = [number for number, was in before.items() if was not in (signal.SIG_IGN, None)]
    for number in handled:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _commit() -> str | None:
    """The checkout's commit, marked where files differ from it."""
    if not (CHECKOUT / ".git").exists():
        return None
    try:
        commit, changed = (
            subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "--short=10", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit} with changes" if changed else commit
