"""Description of this machine and of the checkout, for reports."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
"""The repository that the package runs from, if it is not installed elsewhere."""


def cpu_name() -> str:
    """Model of the processor."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction sets of the processor by Linux's names, such as `avx2`; none where they are not known."""
    return frozenset(_cpuinfo("flags").split())


def _cpuinfo(field: str) -> str:
    """A field of the first processor in Linux's /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.partition("\t")[0] == field), "")


def memory_bytes() -> int:
    """Size of the main memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def commit() -> str | None:
    """The checkout's commit, marked where files differ from it; None outside a checkout."""
    if not (CHECKOUT / ".git").exists():
        return None
    try:
        name, changed = (
            subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "--short=10", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{name} with changes" if changed else name
