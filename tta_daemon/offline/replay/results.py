"""Everything that a replay found, in the form in which it is printed, charted and written as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tta_daemon.offline.replay.orders import Plan
from tta_daemon.offline.replay.run import Run
from tta_daemon.offline.replay.scores import Bin, Score, course, reliability, score
from tta_daemon.offline.replay.streams import Stream

FORMAT = 1
"""Raised when the JSON changes so that a reader must know."""

SOURCE = "source"
"""The method that every other is held against: the model as it was deployed."""

WINDOWS = 120
SMALLEST_WINDOW = 50
MOST_STRETCHES = 100


@dataclass(frozen=True, slots=True)
class Cost:
    """What a method takes: milliseconds an image on the way to its answer, and after it; memory above the model's."""

    answer_ms: float
    learn_ms: float
    total_s: float
    peak_mib: float | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the stream that belongs to one domain: where it begins, as a share of the whole."""

    domain: str
    begins: float


@dataclass(frozen=True)
class Entry:
    """One method: how right, how sure, and at what price."""

    method: str
    options: Mapping[str, Any]
    overall: Score
    domains: Mapping[str, Score]
    rounds: tuple[Score, ...]
    course: tuple[float, ...]
    reliability: tuple[Bin, ...]
    cost: Cost
    batches: int
    learned_from: int
    held: Mapping[str, int]
    rewound: Mapping[str, int]
    served: Mapping[str, int]
    rejected: Mapping[str, int]
    signals: Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """A replay. ``about`` says of what, in which order and with which settings; the first method is the source."""

    about: Mapping[str, Any]
    window: int
    stretches: tuple[Stretch, ...]
    methods: tuple[Entry, ...]

    @property
    def source(self) -> Entry:
        """The frozen model."""
        return self.methods[0]

    @property
    def others(self) -> tuple[Entry, ...]:
        """The methods that adapt, the best first."""
        return tuple(sorted(self.methods[1:], key=lambda entry: entry.overall.error))

    def text(self) -> str:
        """As JSON; what is not a number is null."""
        return json.dumps(_plain({"format": FORMAT, **asdict(self)}), indent=1, allow_nan=False) + "\n"


def judged(
    runs: Sequence[Run], options: Sequence[Mapping[str, Any]], stream: Stream, plan: Plan, about: Mapping[str, Any]
) -> Results:
    """Score every run against the first, which is the frozen model's."""
    windows = max(1, min(WINDOWS, len(plan) // SMALLEST_WINDOW))
    domain = stream.domain[plan.images]
    return Results(
        about=about,
        window=math.ceil(len(plan) / windows),
        stretches=stretches(stream, plan),
        methods=tuple(
            _entry(run, runs[0], given, (stream.domains, domain, plan.rounds), windows)
            for run, given in zip(runs, options, strict=True)
        ),
    )


def stretches(stream: Stream, plan: Plan) -> tuple[Stretch, ...]:
    """Where the stream passes from one domain to another; none where it does so all the time."""
    domain = stream.domain[plan.images]
    starts = [0, *(np.flatnonzero(np.diff(domain)) + 1)]
    if len(starts) > MOST_STRETCHES or len(stream.domains) == 1:
        return ()
    return tuple(Stretch(stream.domains[domain[start]], round(float(start) / len(plan), 4)) for start in starts)


def _entry(run: Run, source: Run, options: Mapping[str, Any], groups: Any, windows: int) -> Entry:  # noqa: ANN401 - three columns
    names, domain, rounds = groups
    sheet = run.sheet
    answered = max(int(sheet.answered.sum()), 1)
    return Entry(
        method=run.method,
        options=options,
        overall=score(sheet, source.sheet),
        domains={
            name: score(sheet.at(domain == number), source.sheet.at(domain == number))
            for number, name in enumerate(names)
        },
        rounds=tuple(score(sheet.at(rounds == n), source.sheet.at(rounds == n)) for n in range(rounds[-1] + 1)),
        course=course(sheet, windows),
        reliability=reliability(sheet.confidence[sheet.answered], sheet.right[sheet.answered]),
        cost=Cost(
            answer_ms=round(1000 * run.seconds.get("answer", 0.0) / answered, 3),
            learn_ms=round(1000 * run.seconds.get("adapt", 0.0) / answered, 3),
            total_s=round(run.seconds["total"], 1),
            peak_mib=run.peak_mib,
        ),
        batches=run.batches,
        learned_from=run.learned_from,
        held=run.held,
        rewound=run.rewound,
        served=run.served,
        rejected=run.rejected,
        signals=run.signals,
    )


def _plain(value: Any) -> Any:  # noqa: ANN401 - what JSON holds
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
