"""The most memory that one step takes: of torch's tensors, and of the process."""

import gc
from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torch.profiler import ProfilerActivity, profile

MIB = 1 << 20


def tensors(step: Callable[[Tensor], object], images: Tensor) -> float:
    """MiB of tensors at the fullest moment of a step, beside those that were there before."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step(images)
    moves = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for move in sorted(moves, key=lambda e: e.start_ns()):
        held += move.nbytes()
        most = max(most, held)
    return most / MIB


def process(step: Callable[[Tensor], object], images: Tensor) -> float:
    """MiB by which the process grows at most during a step."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _status("VmRSS")
    step(images)
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])
