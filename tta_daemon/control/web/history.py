"""The last day of the numbers that the page draws: fine for a quarter of an hour, coarser beyond, and bounded."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FINE_S = 1.0
TIERS = {900: FINE_S, 6 * 3600: 15.0, 24 * 3600: 60.0}
"""How far back each resolution reaches, and the seconds between two of its samples."""

DIGITS = 4
"""Decimals of what is told."""


class _Tier:
    """Means over steps of equal length, the newest of them."""

    def __init__(self, span_s: int, step_s: float, width: int) -> None:
        self.step_s = step_s
        self.rows: deque[tuple[float, NDArray[np.float64]]] = deque(maxlen=int(span_s / step_s))
        self._began = -math.inf
        self._sum, self._count = np.zeros(width), np.zeros(width)

    def add(self, at: float, row: NDArray[np.float64]) -> None:
        if self.step_s == FINE_S:
            self.rows.append((at, row))
            return
        if at >= self._began + self.step_s:
            if self._count.any():
                self._close()
            self._began = math.floor(at / self.step_s) * self.step_s
        known = np.isfinite(row)
        self._sum[known] += row[known]
        self._count += known

    def _close(self) -> None:
        mean = np.divide(self._sum, self._count, out=np.full(len(self._sum), math.nan), where=self._count > 0)
        self.rows.append((self._began, mean))
        self._sum[:], self._count[:] = 0.0, 0.0


class History:
    """Rows of named numbers, one a second.

    Args:
        drawn: names of the numbers that are told.
        kept: names of those that are only remembered, for `growth`.
    """

    def __init__(self, drawn: Iterable[str], kept: Iterable[str] = ()) -> None:
        self.drawn = tuple(drawn)
        self.names = (*self.drawn, *kept)
        self._tiers = {span: _Tier(span, step, len(self.names)) for span, step in TIERS.items()}

    def add(self, at: float, row: Mapping[str, float]) -> None:
        """Remember what was read at this time, in seconds since the epoch."""
        values = np.array([row[name] for name in self.names], np.float64)
        for tier in self._tiers.values():
            tier.add(at, values)

    def since(self, span_s: int, after: float) -> dict[str, Any]:
        """Everything later than ``after`` at the resolution that reaches ``span_s`` back, ready for JSON.

        Numbers that nobody knows are absent, or None among others that somebody does.
        """
        tier = self._tiers[span_s]
        rows = [(at, row) for at, row in tier.rows if at > after]
        table = np.array([row for _, row in rows], np.float64).reshape(len(rows), len(self.names))
        columns = {name: _told(column) for name, column in zip(self.names, table.T, strict=True) if name in self.drawn}
        columns = {name: column for name, column in columns.items() if any(value is not None for value in column)}
        return {"step": tier.step_s, "at": [at for at, _ in rows], "values": columns}

    def growth(self, name: str, over_s: float) -> float:
        """How much a total has grown in the last so many seconds, at most as long as there is history; 0 without."""
        rows, column = self._tiers[next(iter(TIERS))].rows, self.names.index(name)
        if not rows:
            return 0.0
        newest, now = rows[-1]
        then = next(row for at, row in rows if at >= newest - over_s)
        grown = float(now[column] - then[column])
        return grown if math.isfinite(grown) else 0.0


def _told(column: NDArray[np.float64]) -> list[float | None]:
    return [round(value, DIGITS) if math.isfinite(value) else None for value in column.tolist()]
