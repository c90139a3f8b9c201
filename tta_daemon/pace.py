"""How often: which batches are learned from, and which the frozen model sees as well."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from adapters import METHODS
from tta_daemon.answered import Hold
from tta_daemon.control.sections import Adapt
from tta_daemon.life import Life


class Pace:
    """The settings on when to learn and when to watch, and what they need to remember.

    Args:
        adapt: the ``[adapt]`` section.
        sample: the share of batches that the frozen model sees as well.
        clock: monotonic seconds.
    """

    def __init__(self, adapt: Adapt, sample: float, clock: Callable[[], float]) -> None:
        self.adapt, self.sample = adapt, sample
        self._clock = clock
        self._learned_at = self._learned_for = 0.0

    @property
    def smallest(self) -> int:
        """Fewest images that anything is learned from."""
        return max(self.adapt.learn_from, METHODS[self.adapt.method].needs.smallest_batch)

    def hold(self, life: Life, images: int, lag_s: float) -> Hold | None:
        """Why a batch of so many images is not learned from; None: it is."""
        adapt = self.adapt
        reasons = {
            Hold.NEVER: adapt.when == "never",
            Hold.DRIFT: adapt.when == "drift" and not life.drifted,
            Hold.SMALL: images < self.smallest,
            Hold.EVERY: life.batches % adapt.every != 0,
            Hold.LAG: 0.0 < adapt.max_lag_s < lag_s,
            Hold.BUDGET: adapt.budget == 0.0 or self._clock() < self._learned_at + self._rest(adapt.budget),
        }
        return next((reason for reason, applies in reasons.items() if applies), None)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Within, something is learned: how long that takes says how long to rest after it."""
        began = self._clock()
        try:
            yield
        finally:
            self._learned_at = self._clock()
            self._learned_for = self._learned_at - began

    def watched(self, life: Life, *, learned: bool = False) -> bool:
        """Count a batch of a stream; True for the share of them that the frozen model sees, evenly spread.

        ``learned`` ones were counted before: they are seen where all are.
        """
        if learned:
            return self.sample >= 1.0
        life.sampled += self.sample
        watched = life.sampled >= 1.0
        life.sampled -= float(watched)
        return watched

    def _rest(self, budget: float) -> float:
        """Seconds from the end of the last learning to the next."""
        return self._learned_for * (1.0 / budget - 1.0)
