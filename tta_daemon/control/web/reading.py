"""What Prometheus would read at one moment, by name and labels: the status page draws nothing else."""

import math
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry

PREFIX = "tta_"


class Reading:
    """All series of ours, as one scrape shows them.

    >>> registry = CollectorRegistry()
    >>> from prometheus_client import Counter
    >>> Counter("tta_pets", "Pets.", ["kind"], registry=registry).labels("cat").inc(2)
    >>> reading = Reading(registry, 0.0)
    >>> reading.value("tta_pets_total", kind="cat"), reading.value("tta_pets_total", kind="dog")
    (2.0, nan)
    """

    def __init__(self, registry: CollectorRegistry, at: float) -> None:
        self.at = at
        self._series: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in registry.collect():
            if family.name.startswith(PREFIX):
                for sample in family.samples:
                    self._series.setdefault(sample.name, []).append((sample.labels, sample.value))

    def series(self, name: str, **labels: str) -> Iterator[tuple[Mapping[str, str], float]]:
        """Every series of this name whose labels say this, among others."""
        for known, value in self._series.get(name, ()):
            if all(known.get(label) == wanted for label, wanted in labels.items()):
                yield known, value

    def value(self, name: str, **labels: str) -> float:
        """The first such series' value; NaN where there is none."""
        return next((value for _, value in self.series(name, **labels)), math.nan)

    def total(self, name: str, **labels: str) -> float:
        """The sum over such series; NaN where there is none."""
        values = [value for _, value in self.series(name, **labels)]
        return sum(values) if values else math.nan

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values of a family, by one of its labels."""
        return {labels[label]: value for labels, value in self.series(name) if label in labels}

    def labels(self, name: str) -> Mapping[str, str]:
        """What the first series of a name is labeled; nothing where there is none."""
        return next((labels for labels, _ in self.series(name)), {})

    def quantile(self, share: float, name: str, before: "Reading") -> float:
        """What ``share`` of a histogram's observations since ``before`` do not exceed, as `histogram_quantile` has it.

        NaN where nothing was observed since; the last finite bound where it lies beyond.
        """
        earlier = before.by(f"{name}_bucket", "le")
        now = self.by(f"{name}_bucket", "le")
        counts = [(float(bound), count - earlier.get(bound, 0.0)) for bound, count in now.items()]
        if not counts or counts[-1][1] <= 0.0:
            return math.nan
        rank, low, under = share * counts[-1][1], 0.0, 0.0
        for bound, count in counts:
            if count >= rank:
                return low if math.isinf(bound) else low + (bound - low) * (rank - under) / max(count - under, 1e-9)
            low, under = bound, count
        return low
