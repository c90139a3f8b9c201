"""What happened last, for a person to read: a bounded log that any thread writes to and any thread reads."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

MOST = 256
"""Entries that are remembered."""

MOST_PASSING = 64
"""Entries among them that are told in the log alone: they must not drive out the others."""

SAME_S = 60.0
"""What happens again within this time in the same words is counted, not told again."""

LONGEST = 500
"""Letters of an entry's words."""


class Tone(StrEnum):
    """How to take it."""

    GOOD = "good"
    NOTICE = "notice"
    BAD = "bad"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """What can happen; the watch's own happenings are among them, by the same names."""

    READY = "ready"
    RESUMED = "resumed"
    BROKER_AWAY = "broker_away"
    RELOAD_TAKEN = "reload_taken"
    RELOAD_REFUSED = "reload_refused"
    RESET = "reset"
    SAVED = "saved"
    UNSAVED = "unsaved"
    REWOUND = "rewound"
    GUARD = "guard"
    DRIFT_BEGAN = "drift_began"
    DRIFT_ENDED = "drift_ended"
    DOMAIN_CHANGED = "domain_changed"
    LABEL_SHIFT_BEGAN = "label_shift_began"
    LABEL_SHIFT_ENDED = "label_shift_ended"
    ALARM = "alarm"
    PARTITIONS = "partitions"
    UNDELIVERED = "undelivered"
    DEAD_LETTER = "dead_letter"


BAD = frozenset({Kind.BROKER_AWAY, Kind.UNDELIVERED})
GOOD = frozenset({
    Kind.READY, Kind.RESUMED, Kind.RELOAD_TAKEN, Kind.SAVED, Kind.DRIFT_ENDED, Kind.LABEL_SHIFT_ENDED,
})  # fmt: skip
PLAIN = frozenset({Kind.PARTITIONS})

PASSING = frozenset({Kind.PARTITIONS, Kind.SAVED, Kind.DEAD_LETTER, Kind.ALARM, Kind.UNSAVED})
"""What is told in the log alone: neither in the summary nor beside the charts."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened.

    Attributes:
        number: grows by one with every write, so that a reader knows what is new.
        kind: what.
        words: for a person, one line.
        at: when, in seconds since the epoch; the last time, where it happened more than once.
        first: the number that it had the first time.
        times: how often.
        numbers: what was measured, by name.
    """

    number: int
    kind: Kind
    words: str
    at: float
    first: int = 0
    times: int = 1
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def tone(self) -> Tone:
        """Whether it is good or bad."""
        for kinds, tone in ((BAD, Tone.BAD), (GOOD, Tone.GOOD), (PLAIN, Tone.UNKNOWN)):
            if self.kind in kinds:
                return tone
        return Tone.NOTICE

    @property
    def passing(self) -> bool:
        """Whether it is told in the log alone."""
        return self.kind in PASSING

    def plain(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "first": self.first,
            "kind": self.kind.value,
            "tone": self.tone.value,
            "passing": self.passing,
            "words": self.words,
            "at": self.at,
            "times": self.times,
            "numbers": dict(self.numbers),
        }


class Chronicle:
    """The newest entries, oldest first. Writers take turns; readers get a tuple that never changes."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._written = 0
        self.entries: tuple[Entry, ...] = ()

    def write(self, kind: Kind, words: str, numbers: Mapping[str, float], times: int = 1) -> None:
        """Add an entry, or count it to the one that said the same a moment ago."""
        words, now = words[:LONGEST], self._now()
        with self._lock:
            self._written += 1
            entry = Entry(self._written, kind, words, now, self._written, times, dict(numbers))
            recent = self.entries if entry.passing else self.entries[-1:]
            same = next((e for e in recent if (e.kind, e.words) == (kind, words) and now - e.at <= SAME_S), None)
            if same is not None:
                entry = replace(entry, first=same.first, times=same.times + times)
            passing = [e for e in self.entries if e.passing][: -(MOST_PASSING - 1)]
            kept = [e for e in self.entries if e is not same and e not in passing]
            self.entries = (*kept[-(MOST - 1) :], entry)
