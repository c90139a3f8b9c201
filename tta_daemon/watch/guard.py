"""First, do no harm: whose answers leave, what is learned from, and when what was learned is forgotten.

Pure functions of evidence, all of it without labels: how much the answers of the source and of the adapted model tell
about the images (`Information`), and how sure they are. Adapting to a drift makes answers tell more. Where nothing has
drifted they tell as much as before, and the source's are as good; where labels come in runs, or one class at a time,
batch statistics make the adapted answers unsure; where a model collapses, its answers are sure and all the same.
"""

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from tta_daemon.control.sections import Guard as Settings
from tta_daemon.watch.accuracy import Scored
from tta_daemon.watch.blocks import Saved
from tta_daemon.watch.information import Information, told
from tta_daemon.watch.wager import Wager

HARM = 3.0
"""How many times what is tolerated in an answer keeps a batch from being learned from."""

CHECKS = 2
"""Windows over which an adapter is compared with a newborn one."""


class Serve(StrEnum):
    """Whose answers leave: a closed set, because it becomes a metric's label."""

    SOURCE = "source"
    BLEND = "blend"
    ADAPTED = "adapted"


class Decision(StrEnum):
    """What the guard decided: a closed set, because it becomes a metric's label."""

    SERVE_SOURCE = "serve_source"
    SERVE_BLEND = "serve_blend"
    SERVE_ADAPTED = "serve_adapted"
    REWIND = "rewind"
    RESET = "reset"
    VETO = "labels_veto"
    TRUST = "labels_trust"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, and the numbers that it rests on."""

    decision: Decision
    words: str
    evidence: dict[str, float]


class Guard:
    """Chooses, batch by batch.

    Attributes:
        serve: whose answers are to leave now.
        teachable: whether the last batch is worth learning from: not where adapted answers are so much worse that
            labels seem to come in runs, or the model to collapse.
        vetoed: whether labels have said that the adapted model is worse.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.serve = Serve.SOURCE
        self.teachable = True
        self.vetoed = False
        self.source, self.adapted = Information(), Information()
        self.grown, self.newborn = Information(), Information()
        self._wager = Wager()
        self._told: list[Verdict] = []
        self._unchecked = 0

    def weigh(self, source: Tensor, adapted: Tensor) -> Serve:
        """Whose answers to a batch shall leave. Both are logits, N x C."""
        of_source, of_adapted, window = told(source), told(adapted), self.settings.window
        self.teachable = False
        if of_source is None or of_adapted is None:
            return self._turn_to(Serve.SOURCE)
        self.source.add(of_source, window)
        self.adapted.add(of_adapted, window)
        gain = self.adapted.information - self.source.information
        doubt, loss = self.source.confidence - self.adapted.confidence, -gain
        self.teachable = doubt <= HARM * self.settings.doubt and loss <= HARM * self.settings.loss and not self.vetoed
        if self.vetoed or doubt > self.settings.doubt or loss > self.settings.loss:
            return self._turn_to(Serve.SOURCE)
        return self._turn_to(Serve.ADAPTED if gain > self.settings.gain else Serve.BLEND)

    def trust(self) -> Serve:
        """Whose answers shall leave where how sure and diverse they are tells nothing of them: labels alone decide."""
        self.teachable = not self.vetoed
        return self._turn_to(Serve.SOURCE if self.vetoed else Serve.ADAPTED)

    def check_due(self) -> bool:
        """Count a batch that was learned from; whether it is time to look what a newborn would have answered."""
        self._unchecked += 1
        if not self.settings.check_every or self._unchecked < self.settings.check_every:
            return False
        self._unchecked = 0
        return True

    def check(self, adapted: Tensor, newborn: Tensor) -> bool:
        """Compare with what a newborn adapter says of the same images. True: what was learned does harm; forget it."""
        grown, fresh, window = told(adapted), told(newborn), self.settings.window * CHECKS
        if grown is None or fresh is None:
            return grown is None
        self.grown.add(grown, window)
        self.newborn.add(fresh, window)
        lost = self.newborn.information - self.grown.information
        if self.grown.images < window or lost <= self.settings.loss:
            return False
        evidence = {"newborn": self.newborn.information, "adapted": self.grown.information}
        words = "what was learned tells less than a newborn adapter: it is forgotten"
        self._told.append(Verdict(Decision.REWIND, words, evidence))
        return True

    def reset_due(self, steps: int) -> bool:
        """Whether so much was learned since birth that it is time to forget it (RDumb, Press et al. 2023)."""
        if not self.settings.reset_every or steps < self.settings.reset_every:
            return False
        words = f"{steps} steps were learned: a new beginning is due"
        self._told.append(Verdict(Decision.RESET, words, {"steps": float(steps)}))
        return True

    def labeled(self, scored: Scored) -> None:
        """Labels have come: where they say that the adapted model is worse, that holds until they say otherwise."""
        if scored.source_right is None:
            return
        won = self._wager.saw(scored.adapted_right, scored.source_right)
        if won and self.vetoed != (won == "worse"):
            self.vetoed = won == "worse"
            decision = Decision.VETO if self.vetoed else Decision.TRUST
            self._told.append(Verdict(decision, f"labels say that the adapted model is {won} than the source", {}))

    def departed(self) -> None:
        """Another state answers from now on: what was found about the last one says nothing of it."""
        for about in self._windows().values():
            about.forget()
        self._wager, self.vetoed, self._unchecked = Wager(), False, 0

    def verdicts(self) -> list[Verdict]:
        """What was decided since the last call."""
        said, self._told = self._told, []
        return said

    def evidence(self) -> dict[str, float]:
        """The numbers that the choice rests on."""
        models = {"source": self.source, "adapted": self.adapted}
        return {f"{name}_information": about.information for name, about in models.items()} | {
            f"{name}_confidence": about.confidence for name, about in models.items()
        }

    def dump(self) -> Saved:
        """Everything that moves, so that a restart decides as if nothing had happened."""
        state = [list(Serve).index(self.serve), self.vetoed, self._unchecked, self._wager.better, self._wager.worse]
        saved = {"state": torch.tensor(state, dtype=torch.float64)}
        for name, about in self._windows().items():
            saved |= {f"{name}/{key}": tensor for key, tensor in about.dump().items()}
        return saved

    def load(self, saved: Saved) -> None:
        """Go on where ``saved`` was taken.

        Raises:
            KeyError, ValueError: it is no guard's.
        """
        for name, about in self._windows().items():
            about.load({key: saved[f"{name}/{key}"] for key in ("classes", "numbers")})
        serve, vetoed, unchecked, self._wager.better, self._wager.worse = saved["state"].tolist()
        self.serve, self.vetoed, self._unchecked = list(Serve)[int(serve)], bool(vetoed), int(unchecked)

    def _windows(self) -> dict[str, Information]:
        return {"source": self.source, "adapted": self.adapted, "grown": self.grown, "newborn": self.newborn}

    def _turn_to(self, serve: Serve) -> Serve:
        if serve is not self.serve:
            self.serve = serve
            words = {Serve.SOURCE: "the source answers", Serve.BLEND: "source and adapted answer together",
                     Serve.ADAPTED: "the adapted model answers"}[serve]  # fmt: skip
            self._told.append(Verdict(Decision(f"serve_{serve}"), words, self.evidence()))
        return serve


def blended(source: Tensor, adapted: Tensor) -> Tensor:
    """The mean of two answers as logits, N x C."""
    both = torch.stack((source.log_softmax(1), adapted.log_softmax(1)))
    return torch.logsumexp(both, 0) - torch.log(torch.tensor(2.0, dtype=both.dtype, device=both.device))
