"""Keeps freed memory in the process, so that a call does not pay for its pages again and again."""

from __future__ import annotations

import ctypes
import sys

# mallopt(3) of glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep() -> bool:
    """Tells the C library's malloc to return no memory to the system; False where it cannot.

    By default glibc maps every array above 32 MB anew and unmaps it when it is freed: the kernel
    then clears page after page while an op writes its result, which takes several times as long as
    combine_film itself (docs/profiling.md). Every contender in the process gains. Threads share one
    arena from here on: in those of their own, arrays above 64 MB, such as XLA's temporary ones, are
    always mapped. So call it before JAX makes its threads.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = (
        (_MMAP_MAX, 0),
        (_TRIM_THRESHOLD, 2**31 - 1),
        (_TOP_PAD, 64 << 20),
        (_ARENA_MAX, 1),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)
