"""First, do no harm: whose answers leave, what is learned from, and when what was learned is forgotten.

Pure functions of evidence, all of it without labels: how much the answers of the source and of the adapted model tell
about the images (`Information`), and how sure they are. Adapting to a drift makes answers tell more. Where nothing has
drifted they tell as much as before, and the source's are as good; where labels come in runs, or one class at a time,
batch statistics make the adapted answers unsure; where a model collapses, its answers are sure and all the same.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from tta_daemon.control.sections import Guard as Settings
from tta_daemon.watch.accuracy import Scored
from tta_daemon.watch.balanced import Balanced
from tta_daemon.watch.blocks import Saved
from tta_daemon.watch.canary import Recall
from tta_daemon.watch.glance import Glance
from tta_daemon.watch.information import Information, Told, told
from tta_daemon.watch.wager import Wager

HARM = 3.0
"""How many times what is tolerated in an answer keeps a batch from being learned from."""

CHECKS = 2
"""Windows over which an adapter is compared with a newborn one."""

LASTING = 4
"""Windows over which doubt is remembered: one domain that happens to look well does not end it."""

FADED = 0.7
"""What doubt of so long ago counts."""


SLOWEST = 16
"""After as many rewinds as it takes, only every so-many-th batch is learned from."""

SETTLED = 2
"""Windows for which nothing must have changed before the source is asked about fewer batches."""

RELAXED = 8
"""Times as many batches lie between two comparisons with a newborn, at most, while nothing changes or does harm."""

CALM = 4
"""Comparisons with a newborn, one after the other without harm, after which learning is twice as fast again."""

REMEMBERED = 13
"""Numbers that a saved guard has beside its windows, whom it believed, and its wager."""

HALF = 0.5
"""Share of the learning tensors that a first rewind leaves as learned, where rewinding is selective (ASR)."""


class Serve(StrEnum):
    """Whose answers leave: a closed set, because it becomes a metric's label."""

    SOURCE = "source"
    BLEND = "blend"
    MIXED = "mixed"
    ADAPTED = "adapted"


class Lives(StrEnum):
    """By which statistics the adapted model answers."""

    BATCH = "batch"
    MIXED = "mixed"
    BALANCED = "balanced"


class Decision(StrEnum):
    """What the guard decided: a closed set, because it becomes a metric's label."""

    SERVE_SOURCE = "serve_source"
    SERVE_BLEND = "serve_blend"
    SERVE_MIXED = "serve_mixed"
    SERVE_ADAPTED = "serve_adapted"
    REWIND = "rewind"
    RESET = "reset"
    LOOK_ONCE = "look_once"
    AVERAGE_VIEWS = "average_views"
    VETO = "labels_veto"
    TRUST = "labels_trust"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, and the numbers that it rests on."""

    decision: Decision
    words: str
    evidence: dict[str, float]


class Voice:
    """What one of those who may answer has said lately, and for longer."""

    def __init__(self) -> None:
        self.recent, self.lasting = Information(), Information()

    def hear(self, words: Told, window: int) -> None:
        """Count its answers to a batch in."""
        self.recent.add(words, window)
        self.lasting.add(words, window * LASTING)

    def gain(self, other: "Voice") -> float:
        """How much more it tells than another, as a share of all there is to tell."""
        return self.recent.information - other.recent.information

    def doubt(self, other: "Voice") -> float:
        """How much less sure it is than another, or was for long."""
        lasting = other.lasting.confidence - self.lasting.confidence
        return max(other.recent.confidence - self.recent.confidence, FADED * lasting)


class Guard:
    """Chooses, batch by batch.

    Attributes:
        serve: whose answers are to leave now.
        sound: whether what was last looked at is worth learning from: not where adapted answers are so much worse that
            labels seem to come in runs, or the model to collapse; nor where nobody has looked yet.
        every: only every so-many-th batch is learned from, since what was learned did harm.
        mixes: whether the adapter is to live by statistics mixed with the source's, or by the batch's alone.
        balances: whether batches are to be normalized together with the memory, for labels come in runs; then nothing
            is learned.
        doubtful: whether, by either statistics, the adapted model is too unsure to answer: the memory fills.
        averages: whether of a method that answers by the mean over views that mean is believed, not a single look.
        memory: images of every class.
        vetoed: whether labels have said that the adapted model is worse.
    """

    def __init__(self, settings: Settings, now: float = -math.inf) -> None:
        self.settings = settings
        self.serve = Serve.SOURCE
        self.sound = False
        self.vetoed = False
        self.mixes, self.balances, self.doubtful = settings.mixed > 0, False, False
        self.averages = True
        self.memory = Balanced()
        self.source, self.adapted, self.mixed, self.balanced = Voice(), Voice(), Voice(), Voice()
        self.grown, self.newborn = Information(), Information()
        self.once, self.averaged = Information(), Information()
        self._glance = Glance()
        self._wager = Wager()
        self._told: list[Verdict] = []
        self.every = 1
        self._departed_at = now
        self._unlooked = self._settled = self._unchecked = self._harmless = self._passed = self._calm = 0

    def tune(self, settings: Settings) -> None:
        """Go on by other settings. Who was off has seen nothing meanwhile: what it found before is old."""
        was_off, self.settings = self.settings.mode == "off", settings
        if was_off and settings.mode != "off":
            self._begin_anew()

    def looks(self, images: Tensor, logits: Tensor) -> bool:
        """Count a batch, N x 3 x H x W, and its answers, N x C: whether the source is to be asked about it.

        It is asked about every batch while it has a part in the answers, and from when images change until nothing
        has for a while; else about every ``guard.look_every``-th.
        """
        if self._glance.changed(images, logits):
            self._settled = self._harmless = 0
        asked_anyway = self.settings.mode == "observe" or self.serve in {Serve.SOURCE, Serve.BLEND}
        due = asked_anyway or self._settled < SETTLED * self.settings.window
        self._unlooked += 1
        return due or self._unlooked >= self.settings.look_every

    def carry_on(self) -> Serve:
        """Whose answers shall leave where the source was not asked: whoever's did, unless labels have spoken since."""
        self.sound = self.sound and not self.vetoed
        if self.vetoed or (self.doubtful and not self.balances):
            return self._turn_to(Serve.SOURCE)
        return self._turn_to(self._own) if self.serve in {Serve.MIXED, Serve.ADAPTED} else self.serve

    def unsettle(self) -> None:
        """The adapted model answers otherwise from now on: nobody has looked yet."""
        self._settled, self.sound = 0, False

    @property
    def lives(self) -> Lives:
        """The statistics that the adapted model is to answer by."""
        return Lives.BALANCED if self.balances else Lives.MIXED if self.mixes else Lives.BATCH

    def weigh(self, source: Tensor, said: Mapping[Lives, Tensor]) -> Serve:
        """Whose answers to a batch shall leave.

        All are logits, N x C: the source's, and what the adapted model ``said`` by the statistics that it `lives` by,
        and by others, where it was asked: else they count as saying the same.
        """
        of_source, allowed = told(source), self.settings
        heard = {by: words for by, logits in said.items() if (words := told(logits)) is not None}
        if of_source is None or self.lives not in heard:
            self.unsettle()
            return self._turn_to(Serve.SOURCE)
        self._settled += len(source)
        self._unlooked = 0
        self.source.hear(of_source, allowed.window)
        for by, voice in self._voices.items():
            voice.hear(heard.get(by, heard[self.lives]), allowed.window)
        lived = self._voices[self.lives]
        gain, doubt = lived.gain(self.source), lived.doubt(self.source)
        self.sound = doubt <= HARM * allowed.doubt and -gain <= HARM * allowed.loss and not self.vetoed
        self._settle_on(set(heard))
        best = self._voices[self.lives]
        gain, doubt = best.gain(self.source), best.doubt(self.source)
        if self.vetoed or doubt > allowed.doubt or -gain > allowed.loss:
            return self._turn_to(Serve.SOURCE)
        if gain <= allowed.gain:
            return self._turn_to(Serve.BLEND)
        return self._turn_to(self._own)

    def weigh_views(self, once: Tensor, averaged: Tensor) -> None:
        """Whether the mean over views is believed, or a single look at each image; both are logits, N x C.

        A mean is less sure by its making. Where it tells as much less as an undone drift would tell more, the views are
        not of the same thing: mirrored digits.
        """
        pair, window = (told(once), told(averaged)), self.settings.window
        if pair[0] is None or pair[1] is None:
            return
        self.once.add(pair[0], window)
        self.averaged.add(pair[1], window)
        averages = self.once.information - self.averaged.information <= self.settings.gain
        if averages is not self.averages:
            self.averages = averages
            decision = Decision.AVERAGE_VIEWS if averages else Decision.LOOK_ONCE
            words = "the mean over views is believed again" if averages else "views blur: a single look answers"
            evidence = {"once": self.once.information, "averaged": self.averaged.information}
            self._told.append(Verdict(decision, words, evidence))

    @property
    def _own(self) -> Serve:
        """What the adapted model's answers are called."""
        return Serve.ADAPTED if self.lives is Lives.BATCH else Serve.MIXED

    def _settle_on(self, asked: set[Lives]) -> None:
        """By which of the statistics that it was asked about the adapted model is to live from now on."""
        if {Lives.BATCH, Lives.MIXED} <= asked:
            self.mixes = self.mixed.gain(self.adapted) >= -self.settings.loss
        plain = self.mixed if self.mixes else self.adapted
        self.doubtful = plain.doubt(self.source) > self.settings.doubt
        if Lives.BALANCED in asked:
            self.balances = self.doubtful and self.balanced.gain(plain) > 0

    @property
    def _voices(self) -> dict[Lives, Voice]:
        return {Lives.BATCH: self.adapted, Lives.MIXED: self.mixed, Lives.BALANCED: self.balanced}

    def trust(self) -> Serve:
        """Whose answers shall leave where how sure and diverse they are tells nothing of them: labels alone decide."""
        self.sound = not self.vetoed
        return self._turn_to(Serve.SOURCE if self.vetoed else Serve.ADAPTED)

    def teaches(self) -> bool:
        """Count a batch that could be learned from; whether it is."""
        self._passed += self.sound
        return self.sound and self._passed % self.every == 0

    def check_due(self) -> bool:
        """Count a batch that was learned from; whether it is time to look what a newborn would have answered."""
        self._unchecked += 1
        interval = self.settings.check_every * min(RELAXED, 1 + self._harmless // 2)
        if not interval or self._unchecked < interval:
            return False
        self._unchecked = 0
        return True

    def check(self, adapted: Tensor, newborn: Tensor, recall: Recall | None = None) -> bool:
        """Compare with what a newborn adapter says of the same images. True: what was learned does harm; forget it.

        Both are logits, N x C; of images of which one of them says nothing finite, nothing is made. A model that has
        taken one class for another tells as much as before: that only labeled source images show, where there are any.
        """
        if recall is not None and recall.forgotten:
            words = "of labeled source images it knows not even half of those that a newborn adapter knows"
            return self._undo(words, {"canary_newborn": recall.newborn, "canary_adapted": recall.adapted})
        finite = torch.isfinite(adapted).all(1) & torch.isfinite(newborn).all(1)
        grown, fresh, window = told(adapted[finite]), told(newborn[finite]), self.settings.window * CHECKS
        if grown is None or fresh is None:
            return False
        self.grown.add(grown, window)
        self.newborn.add(fresh, window)
        lost = self.newborn.information - self.grown.information
        if self.grown.images < window or lost <= self.settings.loss:
            self._calm += 1
            self._harmless += self.grown.images >= window
            if self._calm % CALM == 0:
                self.every = max(1, self.every // 2)
            return False
        evidence = {"newborn": self.newborn.information, "adapted": self.grown.information}
        return self._undo("what was learned tells less than a newborn adapter", evidence)

    def _undo(self, why: str, evidence: dict[str, float]) -> bool:
        self._calm, self._harmless, self.every = 0, 0, min(SLOWEST, self.every * 2)
        words, evidence = f"{why}: it is forgotten, and learning slows down", evidence | {"learn_every": self.every}
        self._told.append(Verdict(Decision.REWIND, words, evidence))
        return True

    @property
    def kept(self) -> float:
        """The share of what was learned that stays where `check` has just said that it does harm."""
        return HALF if self.settings.rewind == "selective" and self.every == 2 else 0.0  # noqa: PLR2004 - for the first time

    def reset_due(self, steps: int) -> bool:
        """Whether so much was learned since birth that it is time to forget it (RDumb, Press et al. 2023)."""
        if not self.settings.reset_every or steps < self.settings.reset_every:
            return False
        words = f"{steps} steps were learned: a new beginning is due"
        self._told.append(Verdict(Decision.RESET, words, {"steps": float(steps)}))
        return True

    def labeled(self, scored: Scored, now: float) -> None:
        """Labels have come: where they say that the adapted model is worse, that holds until they say otherwise.

        Those of answers from before the state that answers now was born say nothing of it. ``now`` is in seconds.
        """
        if scored.source_right is None or now - scored.delay_s < self._departed_at:
            return
        won = self._wager.saw(scored.adapted_right, scored.source_right)
        if won and self.vetoed != (won == "worse"):
            self.vetoed = won == "worse"
            decision = Decision.VETO if self.vetoed else Decision.TRUST
            self._told.append(Verdict(decision, f"labels say that the adapted model is {won} than the source", {}))

    def departed(self, now: float = -math.inf) -> None:
        """Another state answers from ``now`` on, in seconds: what was found about the last one says nothing of it.

        How slowly is learned stays, for it was the method that did harm.
        """
        self._begin_anew()
        self._wager, self.vetoed, self._departed_at = Wager(), False, now

    def _begin_anew(self) -> None:
        for about in self._windows().values():
            about.forget()
        self._glance.forget()
        self.memory.forget()
        self.mixes, self.balances, self.doubtful = self.settings.mixed > 0, False, False
        self.averages = True
        self.serve = Serve.SOURCE
        self._unlooked = self._unchecked = self._harmless = 0
        self.unsettle()

    def verdicts(self) -> list[Verdict]:
        """What was decided since the last call."""
        said, self._told = self._told, []
        return said

    def evidence(self) -> dict[str, float]:
        """The numbers that the choice rests on."""
        heard = {"source": self.source.recent, "adapted": self.adapted.recent}
        if self.mixed.gain(self.adapted) != 0.0:
            heard["mixed"] = self.mixed.recent
        if self.balances:
            heard["balanced"] = self.balanced.recent
        return {f"{name}_information": about.information for name, about in heard.items()} | {
            f"{name}_confidence": about.confidence for name, about in heard.items()
        }

    def dump(self) -> Saved:
        """Everything that moves, so that a restart decides as if nothing had happened."""
        state = [list(Serve).index(self.serve), self.vetoed, self._wager.better, self._wager.worse]
        state += [self.mixes, self.balances, self.doubtful, self.sound, self.averages]
        state += [self.every, self._unlooked, self._settled, self._unchecked, self._harmless, self._passed, self._calm]
        state += [self.settings.mode == "off"]
        saved = {"state": torch.tensor(state, dtype=torch.float64), "glance": self._glance.dump()["seen"]}
        saved |= {f"memory/{name}": tensor for name, tensor in self.memory.dump().items()}
        for name, about in self._windows().items():
            saved |= {f"{name}/{key}": tensor for key, tensor in about.dump().items()}
        return saved

    def load(self, saved: Saved) -> None:
        """Go on where ``saved`` was taken.

        Raises:
            KeyError, ValueError: it is no guard's.
        """
        serve, vetoed, better, worse, *rest = saved["state"].tolist()
        if len(rest) != REMEMBERED:
            raise ValueError("the saved guard is of another version")
        for name, about in self._windows().items():
            about.load({key: saved[f"{name}/{key}"] for key in ("classes", "numbers")})
        self._glance.load({"seen": saved["glance"]})
        self.memory.load({name: saved[f"memory/{name}"] for name in ("images", "classes")})
        self.serve, self.vetoed = list(Serve)[int(serve)], bool(vetoed)
        self._wager.better, self._wager.worse = better, worse
        self.mixes, self.balances, self.doubtful, self.sound, self.averages = map(bool, rest[:5])
        self.every, self._unlooked, self._settled, self._unchecked, *counts = map(int, rest[5:])
        self._harmless, self._passed, self._calm, was_off = counts
        self._departed_at = -math.inf
        if was_off and self.settings.mode != "off":
            self._begin_anew()

    def _windows(self) -> dict[str, Information]:
        voices = {"source": self.source, "adapted": self.adapted, "mixed": self.mixed, "balanced": self.balanced}
        recent = {name: voice.recent for name, voice in voices.items()}
        lasting = {f"{name}/lasting": voice.lasting for name, voice in voices.items()}
        compared = {"grown": self.grown, "newborn": self.newborn, "once": self.once, "averaged": self.averaged}
        return recent | lasting | compared

    @property
    def _others(self) -> str:
        return "those of images of every class" if self.balances else "the source's"

    def _turn_to(self, serve: Serve) -> Serve:
        if serve is not self.serve:
            if {serve, self.serve} != {Serve.MIXED, Serve.ADAPTED}:
                self._settled = 0
            self.serve = serve
            words = {Serve.SOURCE: "the source answers", Serve.BLEND: "source and adapted answer together",
                     Serve.MIXED: f"the adapted model answers, its statistics mixed with {self._others}",
                     Serve.ADAPTED: "the adapted model answers"}[serve]  # fmt: skip
            self._told.append(Verdict(Decision(f"serve_{serve}"), words, self.evidence()))
        return serve


def blended(source: Tensor, adapted: Tensor) -> Tensor:
    """The mean of two answers as logits, N x C."""
    both = torch.stack((source.log_softmax(1), adapted.log_softmax(1)))
    return torch.logsumexp(both, 0) - torch.log(torch.tensor(2.0, dtype=both.dtype, device=both.device))
