"""What the watch tells when something has happened: few kinds, each with its time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Happening(StrEnum):
    """A closed set, because it becomes a metric's label."""

    DRIFT_BEGAN = "drift_began"
    DRIFT_ENDED = "drift_ended"
    DOMAIN_CHANGED = "domain_changed"
    LABEL_SHIFT_BEGAN = "label_shift_began"
    LABEL_SHIFT_ENDED = "label_shift_ended"
    ALARM = "alarm"


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened.

    Attributes:
        kind: what.
        at: when, by the clock that the watch was given.
        images: how many images had been watched by then.
        detail: the numbers that say so.
    """

    kind: Happening
    at: float
    images: int
    detail: Mapping[str, float] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """For a person, one line."""
        return f"{self.kind.value.replace('_', ' ')}, after {self.images} watched images"
