"""Freed memory stays with the process: what that would bring. The daemon does not do it.

Blocks that are freed behind a small one that lives do not serve the next aligned tensor of their size: a process
may grow by a tensor a batch.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = -1


def keep() -> None:
    """Let glibc give no memory back, and take none that it would have to.

    By default each tensor of more than 32 MiB comes from the kernel and returns there, and clearing its pages takes
    longer than filling them.
    """
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_TRIM_THRESHOLD, NEVER)
    mallopt(M_MMAP_MAX, 0)
