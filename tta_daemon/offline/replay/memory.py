"""How much memory a piece of work takes at its peak, above what was taken when it began."""

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

import torch

RESET_PEAK = "5"
MIB = 1 << 20
STATUS, REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """Watches from when it is made. On a GPU what torch has allocated there; else what the process holds, on Linux."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before: float | None = float(torch.cuda.memory_allocated(device))
            return
        with suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL(None).malloc_trim(0)
        try:
            REFS.write_text(RESET_PEAK)
            self._before = _status("VmRSS")
        except OSError:
            self._before = None

    @property
    def mib(self) -> float | None:
        """MiB at the peak, less those at the beginning; None where the system does not say."""
        if self._before is None:
            return None
        on_gpu = self._device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._device) if on_gpu else _status("VmHWM")
        return round((peak - self._before) / MIB, 1)


def _status(name: str) -> float:
    """A line of the process's status, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return float(line.split()[1]) * 1024
