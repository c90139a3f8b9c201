"""What the streams tell in numbers: how many there are and where, and by name only the worst."""

from collections.abc import Mapping
from enum import StrEnum

from tta_daemon.watch.instruments import Instruments


class Forgotten(StrEnum):
    """Why a stream begins anew: a closed set, because it becomes a metric's label."""

    NO_CHECKPOINT = "no_checkpoint"
    TOO_MANY = "too_many"
    UNSEEN = "unseen"
    UNFIT = "unfit"


class StreamMetrics:
    """The moments of `tta_daemon.streams`."""

    def __init__(self, at: Instruments) -> None:
        self._at = at
        self._named: tuple[set[str], set[str], set[str]] = (set(), set(), set())

    def born(self) -> None:
        """A stream was seen for the first time."""
        self._at.streams_born.inc()

    def adopted(self) -> None:
        """A new stream goes on from what another has learned."""
        self._at.streams_adopted.inc()

    def evicted(self) -> None:
        """A stream's state was put on the disk."""
        self._at.streams_evicted.inc()

    def returned(self) -> None:
        """A stream's state came back from the disk."""
        self._at.streams_returned.inc()

    def together(self, streams: int) -> None:
        """One forward is to answer so many streams."""
        self._at.together.inc()
        self._at.together_streams.inc(streams)

    def forgotten(self, why: Forgotten) -> None:
        """What a stream had learned is lost to it."""
        self._at.streams_forgotten.labels(why).inc()

    def restoring(self, states: int) -> None:
        """So many states of the partition that is coming to us are there."""
        self._at.streams_restoring.set(states)

    def restored(self, states: int, seconds: float, *, whole: bool) -> None:
        """A partition's streams are there, as far as there was time."""
        self._at.streams_restoring.set(0)
        self._at.streams_restored.inc(states)
        self._at.restores_seconds.observe(seconds)
        self._at.restores_cut.inc(not whole)

    def standing(self, known: int, resident: int, drifted: int) -> None:
        """How many there are, in memory, and drifted."""
        self._at.streams.set(known)
        self._at.streams_resident.set(resident)
        self._at.streams_drifted.set(drifted)

    def worst(self, gain: Mapping[str, float], drift: Mapping[str, float], accuracy: Mapping[str, float]) -> None:
        """The worst streams by each measure; the others are not named."""
        at = self._at
        gauges = at.stream_gain, at.stream_drift, at.stream_accuracy
        for gauge, before, named in zip(gauges, self._named, (gain, drift, accuracy), strict=True):
            for name in before - set(named):
                gauge.remove(name)
            for name, value in named.items():
                gauge.labels(name).set(value)
        self._named = set(gain), set(drift), set(accuracy)
