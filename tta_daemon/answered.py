"""What the learner makes of a batch: the logits that leave, what stands beside them, and why it may not learn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from tta_daemon.watch.guard import Serve
from tta_daemon.watch.view import Head, SourceView

Signals = Mapping[str, float]


class Hold(StrEnum):
    """Why a batch is answered but not learned from: a closed set, because it becomes a metric's label."""

    LEARNED = "learned_before"
    NEVER = "never"
    DRIFT = "no_drift"
    SMALL = "small_batch"
    EVERY = "every"
    LAG = "lag"
    BUDGET = "budget"
    FAILED = "failed"
    GUARD = "guard"
    RUNS = "label_runs"


@dataclass(frozen=True, slots=True)
class Answered:
    """Logits for each image of a batch, N x C, and what the frozen source model sees in the same images.

    ``logits`` are what leaves: the adapted model's, the source's or both, as ``serve`` says; ``adapted`` is what the
    adapted model would have said.
    ``learn`` is to be called after the answers have left. It never raises; None where it failed, and all that was
    learned is forgotten. ``head`` is what the adapted answers were made from, where somebody wants to know. Seconds are
    what each of the two models took, and what the guard asked of the adapted one besides. ``step`` is the adapter's
    before it learned. Where ``together`` is above 1, so many streams shared the forward, and the learner's network is
    none of theirs.
    """

    logits: Tensor
    adapted: Tensor
    serve: Serve
    view: SourceView | None
    learn: Callable[[], Signals | None]
    hold: Hold | None
    repaired: int
    seconds: float
    source_seconds: float = 0.0
    guard_seconds: float = 0.0
    head: Head | None = None
    step: int = 0
    together: int = 1

    @property
    def source(self) -> Tensor | None:
        """The source model's logits, N x C, where it was asked."""
        return None if self.view is None else self.view.logits
