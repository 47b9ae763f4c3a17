"""Device of a training, and the memory settings of its process."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import torch

from aloha_kit.core import ConfigError
from aloha_kit.train.launch import ALONE, Rank

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def choose_device(name: str, rank: Rank = ALONE) -> str:
    """The device that this process trains on: `auto` is a GPU where there is one, else the CPU.

    Of several processes on a machine with GPUs, each takes the GPU of its number.

    Raises:
        ConfigError: the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    name = own_device(name, rank)
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError("device '{name}' cannot be used: {error}", name=name, error=error) from error
    return name


def own_device(device: str, rank: Rank) -> str:
    """The device of one process of a launch: the CPU, or the GPU of its number on the machine.

    Raises:
        ConfigError: another device was given, or there is no GPU of that number.
    """
    if rank.size == 1 or device == "cpu":
        return device
    if device != "cuda":
        raise ConfigError(
            "--device {device} cannot be shared by {size} processes; give cuda, cpu or auto",
            device=device,
            size=rank.size,
        )
    if rank.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            "process {local_rank} of this machine would take cuda:{local_rank}, and there are {device_count} "
            "GPUs; start at most one process a GPU (--nproc_per_node gpu), or --device cpu",
            local_rank=rank.local_rank,
            device_count=torch.cuda.device_count(),
        )
    return f"cuda:{rank.local_rank}"


def set_gpu_arithmetic(*, tf32: bool) -> None:
    """Arithmetic of fp32 on this process's GPU: TF32 or all 23 bits, and kernels of convolutions chosen by trying them.

    A training's batches have one size, so the trials are few; which kernel wins may differ from run to run.
    """
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


def keep_freed_memory() -> bool:
    """Keep freed memory for the next request instead of returning it to the system; returns whether that is possible.

    A training step on a CPU requests the same gigabytes each time, and glibc returns them in between: mapping them
    anew was a twelfth of the step. The process then stays as large as it ever was. Only glibc has the setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def memory_of(device: torch.device) -> float:
    """Memory in bytes: of a GPU the most that tensors have taken; elsewhere what this process holds now, without the
    mapped frame cache, which the system can take back."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
        return 1024.0 * sum(int(status[name].split()[0]) for name in ("RssAnon", "RssShmem"))
    except (OSError, KeyError):  # not Linux: the most it ever held
        unit = 1 if sys.platform == "darwin" else 1024
        return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
