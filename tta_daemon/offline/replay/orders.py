"""In what order a stream is sent, and when each image arrives. Everything by chance comes from one seed."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from tta_daemon.errors import ConfigError
from tta_daemon.offline.replay.streams import Stream
from tta_daemon.offline.replay.values import Indices

T = TypeVar("T", int, float)
Arrangement: TypeAlias = Literal["recorded", "continual", "gradual", "mixed"]

REMEDY = (
    "recorded, continual, gradual or mixed; recurring:N, correlated:CONCENTRATION (0 sorts) and bursts:MEAN, "
    "joined by + where wanted"
)


@dataclass(frozen=True, slots=True)
class Order:
    """How images follow one another.

    Attributes:
        arrangement: as in the file; one domain after the other; each domain growing and fading; or shuffled.
        rounds: how often the whole is sent.
        concentration: of the Dirichlet distribution by which labels clump; 0 sorts them, None leaves them to chance.
        burst: how many images come at once, on average; 0: all of them.
    """

    arrangement: Arrangement = "continual"
    rounds: int = 1
    concentration: float | None = None
    burst: int = 0


@dataclass(frozen=True)
class Plan:
    """Which image comes when: for each step the image's index, its round, and when it arrives."""

    images: Indices
    rounds: Indices
    arrivals: NDArray[np.float64]

    def __len__(self) -> int:
        """How many steps."""
        return len(self.images)


def parse(text: str) -> Order:
    """Read an order as the command line has it.

    >>> parse("recurring:5+correlated:0.1")
    Order(arrangement='continual', rounds=5, concentration=0.1, burst=0)
    """
    order = Order()
    for word in text.split("+"):
        name, _, number = word.strip().partition(":")
        try:
            match name:
                case "recorded" | "continual" | "gradual" | "mixed" if not number:
                    order = replace(order, arrangement=name)
                case "recurring":
                    order = replace(order, rounds=_at_least(1, int(number or "5")))
                case "correlated":
                    order = replace(order, concentration=_at_least(0.0, float(number or "0.1")))
                case "bursts":
                    order = replace(order, burst=_at_least(1, int(number or "100")))
                case _:
                    raise ConfigError("--order", f"{word!r} is no order", REMEDY)
        except ValueError as error:
            raise ConfigError("--order", f"{word!r}: {error}", REMEDY) from error
    return order


def plan(stream: Stream, order: Order, seed: int, gap_s: float = 1.0) -> Plan:
    """Lay out the stream, with ``gap_s`` of silence between two bursts.

    Raises:
        ConfigError: the stream does not know what the order goes by.
    """
    chance = np.random.default_rng([seed, 2])
    rounds = [_arranged(stream, order, chance) for _ in range(order.rounds)]
    images = np.concatenate(rounds)
    numbers = np.repeat(np.arange(order.rounds), [len(images) for images in rounds])
    return Plan(images, numbers, _bursts(len(images), order.burst, chance) * gap_s)


def _arranged(stream: Stream, order: Order, chance: np.random.Generator) -> Indices:
    everything = np.arange(len(stream))
    if order.arrangement == "recorded":
        if order.concentration is not None:
            raise ConfigError("--order", "a recorded order cannot be correlated as well", "choose one of them")
        return everything
    if order.arrangement == "mixed":
        return _shuffled(stream, everything, order, chance)
    stages = _ramps(stream) if order.arrangement == "gradual" else _domains(stream, everything)
    return np.concatenate([_shuffled(stream, stage, order, chance) for stage in stages])


def _domains(stream: Stream, chosen: Indices) -> list[Indices]:
    return [chosen[stream.domain[chosen] == d] for d in range(len(stream.domains))]


def _ramps(stream: Stream) -> list[Indices]:
    """Each domain from its weakest severity to its strongest and back."""
    if stream.severity is None:
        remedy = "give each image a severity, or let --corrupt and --severity 1-5 make them"
        raise ConfigError("--order", "gradual goes by severity, and the stream knows none", remedy)
    stages = []
    for inside in _domains(stream, np.arange(len(stream))):
        rising = [inside[stream.severity[inside] == s] for s in np.unique(stream.severity[inside])]
        stages += [*rising, *rising[-2::-1]]
    return stages


def _shuffled(stream: Stream, chosen: Indices, order: Order, chance: np.random.Generator) -> Indices:
    mixed = chance.permutation(chosen)
    if order.concentration is None:
        return mixed
    by_class = [mixed[stream.labels[mixed] == c] for c in chance.permutation(np.unique(stream.labels[mixed]))]
    if order.concentration == 0:
        return np.concatenate(by_class)
    return _clumped(by_class, order.concentration, chance)


def _clumped(by_class: list[Indices], concentration: float, chance: np.random.Generator) -> Indices:
    """Each class spread over as many slots as there are classes, by Dirichlet shares, in runs within each slot.

    As in Gong et al. 2022 (NOTE) and Yuan et al. 2023 (RoTTA): the smaller the concentration, the longer the runs.
    """
    slots: list[list[Indices]] = [[] for _ in by_class]
    for images in by_class:
        shares = chance.dirichlet(np.full(len(slots), concentration))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(images)).astype(int)
        for slot, run in zip(slots, np.split(images, cuts), strict=True):
            slot.append(run)
    return np.concatenate([slot[i] for slot in slots for i in chance.permutation(len(slot))])


def _bursts(steps: int, mean: int, chance: np.random.Generator) -> NDArray[np.float64]:
    """For each step the number of its burst; how many images a burst has is geometrically distributed."""
    if not mean:
        return np.zeros(steps)
    ends = np.cumsum(chance.geometric(1.0 / mean, size=steps))
    return np.searchsorted(ends, np.arange(steps), side="right").astype(np.float64)


def _at_least(least: T, value: T) -> T:
    if not value >= least:
        raise ValueError(f"less than {least}")
    return value
