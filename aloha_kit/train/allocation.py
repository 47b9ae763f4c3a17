"""How this process's C library hands out memory."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Have what is freed kept for the next request, instead of given back to the system; says whether that can be had.

    A training step on a CPU asks for the same gigabytes each time, and glibc gives them back in between: mapping them
    anew was a twelfth of the step. The process then stays as large as it ever was. Only glibc knows how.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
