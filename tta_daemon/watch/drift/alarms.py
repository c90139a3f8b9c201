"""Change detectors that know no source: they compare a signal with its own past.

ADWIN: Bifet and Gavalda 2007. Page-Hinkley: Page 1954. Both are River's. They are fed one number a block, in [0, 1].
"""

from collections import deque
from collections.abc import Sequence

import torch
from river.drift import ADWIN, PageHinkley

from tta_daemon.watch.blocks import Saved

ADWIN_DELTA = 0.002
"""Chance of a false alarm at one look; a look is taken at each block."""

TOLERANCE, PATIENCE = 0.05, 2.5
"""Page-Hinkley's delta and lambda, for a signal in [0, 1] whose noise is about 0.1 a block."""

REMEMBERED = 512
"""Blocks that a restart is fed with, so that the detectors are where they were."""

LATCHED = 16
"""Blocks for which an alarm is shown."""


class Alarms:
    """ADWIN and Page-Hinkley on one signal, restart-safe by feeding them their recent past."""

    NAMES = ("adwin", "page_hinkley")

    def __init__(self) -> None:
        self._past: deque[float] = deque(maxlen=REMEMBERED)
        self.count = dict.fromkeys(self.NAMES, 0)
        self._since = dict.fromkeys(self.NAMES, LATCHED)
        self._begin()

    def see(self, value: float) -> Sequence[str]:
        """Feed one positive number, 1 being usual. Returns the names of those that raise the alarm."""
        signal = value / (value + 3.0)
        self._past.append(signal)
        raised = self._feed(signal)
        for name in self.NAMES:
            self._since[name] = 0 if name in raised else self._since[name] + 1
            self.count[name] += name in raised
        return raised

    def raised(self, name: str) -> bool:
        """Whether there was an alarm a short time ago."""
        return self._since[name] < LATCHED

    def dump(self) -> Saved:
        """Everything that moves."""
        counts = [*self.count.values(), *self._since.values()]
        return {"past": torch.tensor(list(self._past), dtype=torch.float64), "counts": torch.tensor(counts)}

    def load(self, saved: Saved) -> None:
        """Go on where ``saved`` was taken."""
        self._begin()
        self._past = deque(saved["past"].tolist(), maxlen=REMEMBERED)
        for signal in self._past:
            self._feed(signal)
        numbers = saved["counts"].tolist()
        self.count = dict(zip(self.NAMES, numbers[:2], strict=True))
        self._since = dict(zip(self.NAMES, numbers[2:], strict=True))

    def _begin(self) -> None:
        self._adwin = ADWIN(delta=ADWIN_DELTA, clock=1, grace_period=8)  # type: ignore[no-untyped-call]
        self._page_hinkley = PageHinkley(min_instances=8, delta=TOLERANCE, threshold=PATIENCE, mode="both")

    def _feed(self, signal: float) -> list[str]:
        detectors = dict(zip(self.NAMES, (self._adwin, self._page_hinkley), strict=True))
        for detector in detectors.values():
            detector.update(signal)
        return [name for name, detector in detectors.items() if detector.drift_detected]
