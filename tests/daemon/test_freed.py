"""Freed memory stays, in a process of its own: pages are counted, not seconds."""

import os
import platform
import subprocess
import sys

import pytest

from tta_daemon import freed

COUNT = """
import os, resource, torch
from tta_daemon import freed
kept = freed.keep({tuned})
def batch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(32 << 20)  # 128 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
batch()
print(kept, batch())
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")


def second_batch(tuned):
    """Whether memory was kept, and how many pages the second batch had to ask for."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(freed.TUNED)}
    run = [sys.executable, "-c", COUNT.format(tuned=tuned)]
    kept, pages = subprocess.run(run, env=clean, check=True, capture_output=True, text=True).stdout.split()
    return kept == "True", int(pages)


def test_the_second_batch_finds_its_memory_there():
    kept, pages = second_batch({})
    assert kept
    assert pages < 100


def test_who_tunes_the_allocator_is_left_alone():
    kept, pages = second_batch({"MALLOC_ARENA_MAX": "2"})
    assert not kept
    assert pages > 100
