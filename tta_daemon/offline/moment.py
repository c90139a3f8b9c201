"""What is known at one moment of the demo: what was sent, what came out, what the daemon says of itself."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from tta_daemon.offline.scoreboard import Scoreboard


@dataclass(slots=True)
class Moment:
    """One moment. `metrics` are the daemon's own: `name{label="value"}` to number, as Prometheus reads them."""

    board: Scoreboard
    metrics: Mapping[str, float]
    seconds: float
    per_second: float

    @property
    def lag(self) -> float:
        """Records that the daemon has not read yet."""
        return sum(value for name, value in self.metrics.items() if name.startswith("tta_consumer_lag_records"))

    @property
    def stretch(self) -> int:
        """Where in the journey the last answered photo was taken."""
        recent = self.board.recent
        return recent[-1].photo.stretch if recent else 0

    def facts(self) -> dict[str, str]:
        """Return what a person wants to know beside the accuracy, as it is shown."""
        drift = {
            f"drift in {_detector(name)}": f"{value:.2f}"
            for name, value in self.metrics.items()
            if name.startswith("tta_drift_score{") and not math.isnan(value)
        }
        return {
            "records/s": f"{self.per_second:.0f}",
            "lag": f"{self.lag:.0f}",
            "answered": f"{self.board.answered:,}",
            "dead-lettered": f"{len(self.board.buried)}",
            "entropy adapted": self._metric('tta_answer_entropy_nats{model="adapted"}'),
            "entropy frozen": self._metric('tta_answer_entropy_nats{model="source"}'),
            "agreement": self._metric("tta_agreement_ratio"),
            "steps learned": f"{self.metrics.get('tta_adaptation_steps_total', 0):.0f}",
            **drift,
        }

    def said(self) -> str:
        """Put the moment into one line, for a log."""
        board, lately = self.board, self.board.lately
        return (
            f"{self.seconds:4.0f} s  {board.journey[self.stretch].world:12}  "
            f"answered {board.answered:,} of {len(board.sent):,}  {self.per_second:3.0f}/s  lag {self.lag:.0f}  "
            f"right lately: adapted {percent(lately.adapted)}, frozen {percent(lately.source)}"
        )

    def _metric(self, name: str) -> str:
        value = self.metrics.get(name, math.nan)
        return "-" if math.isnan(value) else f"{value:.2f}"


@dataclass(slots=True)
class Pace:
    """Records per second over the last few seconds."""

    over_s: float = 4.0
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def at(self, now: float, count: int) -> float:
        """Note how many records had come by now, and return the pace."""
        self._seen.append((now, count))
        while now - self._seen[0][0] > self.over_s:
            self._seen.popleft()
        (then, before) = self._seen[0]
        return (count - before) / (now - then) if now > then else 0.0


def percent(share: float) -> str:
    """Write a share for a person; a dash where there is none."""
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def _detector(series: str) -> str:
    """Return which detector a series of `tta_drift_score` is of.

    >>> _detector('tta_drift_score{detector="bn_statistics"}')
    'bn statistics'
    """
    return series.split('"')[1].replace("_", " ")
