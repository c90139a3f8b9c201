"""Drift as it is told outside: scores against thresholds, label shift apart from covariate shift, domain changes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tta_daemon.watch.blocks import Blocks, Saved
from tta_daemon.watch.drift.null import SCALED, STATISTICS, Null, apart
from tta_daemon.watch.drift.profile import Profile
from tta_daemon.watch.drift.scores import ENTROPY, FEATURES, LABELS, raw_scores
from tta_daemon.watch.events import Event, Happening
from tta_daemon.watch.view import DEPTHS, SourceView

COVARIATE = (STATISTICS, ENTROPY, FEATURES)
"""Detectors that proportions of classes leave cold."""

CALM = 0.8
"""How much of the usual distance between blocks stays at each block."""

STRANGE = 1.25
"""How much more is usual after a change: where blocks differ as a rule, that soon counts for nothing."""


@dataclass(frozen=True, slots=True)
class Score:
    """A detector's score in units of what is typical of the source, and its threshold in the same units."""

    score: float
    threshold: float

    @property
    def drifted(self) -> bool:
        """Whether chance would not put it there."""
        return self.score > self.threshold


class Drift:
    """Compares the newest block, and the window of the newest blocks, with the source.

    A block that is far from those before it is the first of another domain: the window then begins anew, so that
    it is always of one domain and is left behind at once.
    """

    def __init__(self, profile: Profile, null: Null, block: int, window: int) -> None:
        self.profile, self.null = profile, null
        self.blocks = Blocks(profile.width, block, max(1, window // block))
        self.scores: dict[str, Score] = {}
        self.depths: dict[str, float] = {}
        self.newest: dict[str, float] = {}
        self.seen = 0
        self.blocks_seen = 0
        self.left_domain = False
        self.covariate = False
        self.labels = False
        self._usual = 1.0

    def see(self, view: SourceView, now: float) -> list[Event]:
        """Count a batch in. Returns what has happened; mostly nothing."""
        if not bool(torch.isfinite(view.logits).all()):
            return []
        self.seen += len(view)
        if not self.blocks.add(self.profile.sums(view), len(view)):
            return []
        self.blocks_seen += 1
        changed = self._leave_domain()
        self.left_domain = changed > 0.0
        self._score()
        return self._events(changed, now)

    def _leave_domain(self) -> float:
        """Begin the window anew where the newest block is from elsewhere; how far from, or 0."""
        earlier, images = self.blocks.before()
        if not images:
            return 0.0
        newest, own = self.blocks.newest()
        distance = apart(newest, own, earlier, images, self.profile)
        changed = distance > self.null.change * self._usual
        if changed:
            self.blocks.keep_newest()
            self._usual *= STRANGE
        else:
            self._usual = max(1.0, CALM * self._usual + (1 - CALM) * distance)
        return distance if changed else 0.0

    def _score(self) -> None:
        newest, own = self.blocks.newest()
        scales = [(newest, own), (self.blocks.total(), self.blocks.images)]
        by_scale = [self._compared(sums, images) for sums, images in scales]
        self.scores = {name: max((at[0][name] for at in by_scale), key=_excess) for name in SCALED}
        self.newest = by_scale[0][1]
        self.depths = {name: max(at[1][name] for at in by_scale) for name in DEPTHS}

    def _compared(self, sums: Tensor, images: int) -> tuple[dict[str, Score], dict[str, float]]:
        scaled, limit = self.null.scaled(raw_scores(self.profile, sums, images), images), self.null.limit(images)
        return {name: Score(scaled[name], limit[name]) for name in SCALED}, scaled

    def _events(self, changed: float, now: float) -> list[Event]:
        covariate = any(self.scores[name].drifted for name in COVARIATE)
        labels = self.scores[LABELS].drifted and not covariate
        kinds = [Happening.DOMAIN_CHANGED] * bool(changed and (covariate or self.covariate))
        if covariate != self.covariate:
            kinds.append(Happening.DRIFT_BEGAN if covariate else Happening.DRIFT_ENDED)
        if labels != self.labels:
            kinds.append(Happening.LABEL_SHIFT_BEGAN if labels else Happening.LABEL_SHIFT_ENDED)
        self.covariate, self.labels = covariate, labels
        detail = {name: score.score for name, score in self.scores.items()} | {"distance": changed}
        return [Event(kind, now, self.seen, detail) for kind in kinds]

    def dump(self) -> Saved:
        """Everything that moves."""
        state = torch.tensor([self.seen, self.covariate, self.labels, self._usual], dtype=torch.float64)
        return {"state": state, **self.blocks.dump()}

    def load(self, saved: Saved) -> None:
        """Go on where ``saved`` was taken."""
        self.blocks.load(saved)
        seen, covariate, labels, self._usual = saved["state"].tolist()
        self.seen, self.covariate, self.labels = int(seen), bool(covariate), bool(labels)
        if len(self.blocks):
            self._score()


def _excess(score: Score) -> float:
    return score.score / max(score.threshold, 1e-9)
