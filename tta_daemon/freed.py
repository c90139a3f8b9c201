"""Freed memory stays with the process: the next batch does not ask the kernel for the same pages again."""

import ctypes
import sys
from collections.abc import Mapping

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = -1

TUNED = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Variables by which somebody has decided otherwise."""


def keep(environ: Mapping[str, str]) -> bool:
    """Let glibc give no memory back, and take none that it would have to; True where that was possible.

    By default each tensor of more than 32 MiB comes from the kernel and returns there, and clearing its pages takes
    longer than filling them. Nothing changes under another C library, or where the environment tunes the allocator.
    """
    if not sys.platform.startswith("linux") or any(name.startswith(TUNED) for name in environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_TRIM_THRESHOLD, NEVER)) and bool(mallopt(M_MMAP_MAX, 0))
