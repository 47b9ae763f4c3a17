"""The machine of a reproduction: its description and its GPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata

from aloha_kit import __version__
from aloha_kit.core import AlohaKitError, ConfigError
from aloha_kit.core.lang import error_text, Message
from aloha_kit.core.machine import commit, cpu_name
from aloha_kit.reproduce.result import Surroundings

# In a process of its own: torch takes memory that the stages need, and a query of a GPU keeps some of its memory too.
_GPU_NAME = """
import sys, torch
device = torch.device(sys.argv[1])
torch.zeros(1, device=device)
print(torch.cuda.get_device_name(device) if device.type == "cuda" else device.type)
"""


class ReproductionError(AlohaKitError):
    """A reproduction cannot go on; finished stages stay."""


def describe_machine(device: str, gpu: str | None) -> Surroundings:
    """Machine and software in use, for commands whose networks run on `device`."""
    versions = {"aloha_kit": __version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in ("torch", "mujoco", "numpy")}
    return Surroundings(versions, cpu_name(), os.cpu_count() or 1, device, gpu, commit())


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
        raise ConfigError("device '{device}' cannot be used: {why}", device=device, why=why)
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
        why: str = Message("--device cpu was given")
    except ConfigError as error:
        if force:
            return "cpu", None
        why = error_text(error)
    if for_gpu:
        raise ConfigError(
            "preset '{preset}' is for a GPU, and {why}; take --preset cpu, or add --force to run it on the "
            "CPU, however long that takes",
            preset=preset,
            why=why,
        )
    raise ConfigError(
        "preset '{preset}' is for the CPU, and {why}; leave --device out, or add --force to run it on "
        "the CPU, however long that takes",
        preset=preset,
        why=why,
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
