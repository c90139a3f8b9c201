"""The learner owns the adapter: it answers every batch, and decides which it learns from.

Policy only. How an answer is computed and what is learned from it is the method's business (`adapters`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import structlog
import torch
from torch import Tensor

import adapters
from adapters.parts.norms import FEWEST, beside
from adapters.together import answers_together, predict_together
from tta_daemon import __version__
from tta_daemon.answered import Answered, Hold, Signals
from tta_daemon.birth import deputy_of, impression_of, newborn, probe_of
from tta_daemon.control.sections import Adapt
from tta_daemon.control.sections import Guard as GuardSettings
from tta_daemon.control.snapshot import REMEDY, Identity, Snapshot, identity_of
from tta_daemon.errors import CheckpointError
from tta_daemon.left import Fortune, Left
from tta_daemon.life import Life
from tta_daemon.model.load import Deployed
from tta_daemon.pace import Pace
from tta_daemon.speakers import Speakers
from tta_daemon.stream.records import Partition, Stream
from tta_daemon.watch.guard import Guard, Lives, Serve, blended
from tta_daemon.watch.information import Information, told
from tta_daemon.watch.view import Head, HeadTap, SourceView
from tta_daemon.watch.watching import watch_of

if TYPE_CHECKING:
    from tta_daemon.model.deputy import Deputy

log = structlog.get_logger(__name__)


NOBODYS = Answered(
    logits=torch.empty(0), adapted=torch.empty(0), serve=Serve.SOURCE, view=None, learn=dict, hold=None,
    repaired=0, seconds=0.0,
)  # fmt: skip
"""What streams that share a forward have in common."""


class Part(NamedTuple):
    """One stream's share of a forward: its images, its life, and what it has learned (None: nothing yet)."""

    images: Tensor
    life: Life
    memory: adapters.Memory | None


class _Said(NamedTuple):
    """The adapted model's answer, how it is learned from, why it is not, and what was repaired and heard of it."""

    logits: Tensor
    learn: Callable[[], Signals | None]
    hold: Hold | None
    repaired: int
    head: Head | None


class Learner:
    """One adapter and the rules by which it learns.

    Args:
        deployed: the model as it was deployed.
        adapt: the ``[adapt]`` section.
        sample: the share of batches that the frozen source model sees as well.
        guard: the ``[guard]`` section.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        deployed: Deployed,
        adapt: Adapt,
        sample: float,
        guard: GuardSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._adapt = adapt
        self._clock = clock
        self._pace = Pace(adapt, sample, clock)
        self._speakers = Speakers(deployed, newborn(deployed, adapt))
        self._deputy = deputy_of(deployed, adapt)
        self.life = Life.new(deployed, guard, clock())
        self._probe = probe_of(deployed)
        self._tap = HeadTap()
        self._sociable = answers_together(self.adapter)
        self._left = Left()

    @property
    def adapter(self) -> adapters.Adapter:
        """What has learned."""
        return self._speakers.adapter

    @property
    def _deployed(self) -> Deployed:
        return self._speakers.deployed

    @property
    def method(self) -> str:
        """The name of the method that answers."""
        return self._adapt.method

    @property
    def guard(self) -> Guard:
        """Decides who is believed, and what is learned from."""
        return self.life.guard

    @property
    def step(self) -> int:
        """Steps learned since birth, restarts included."""
        return int(self.adapter.steps)

    @property
    def providers(self) -> Mapping[str, tuple[str, str]]:
        """What ONNX Runtime answers: the execution providers asked for and obtained."""
        answers = {"frozen": self._deployed.frozen, "adapted": self._deputy}
        return {name: (by.runtime.asked, by.runtime.provider) for name, by in answers.items() if by is not None}

    def take(  # noqa: PLR0913, PLR0917 - what a reload may change
        self,
        deployed: Deployed,
        adapt: Adapt,
        sample: float,
        guard: GuardSettings,
        adapter: adapters.Adapter | None,
        deputy: "Deputy | None" = None,
    ) -> None:
        """Go on by other settings, with another adapter or deputy where one was built. Cannot fail.

        What the old adapter learned is kept, and given back when the same model, method and structural options return.
        """
        if adapter is not None:
            self._left.leave(self.identity, self.adapter, self._fortune)
            self.life.guard = Guard(guard, self._clock())
        self.guard.tune(guard)
        self._deputy = None if adapt.serve == "method" else deputy or self._deputy
        if deployed is not self._deployed:
            self._probe = probe_of(deployed)
            self.life.watch = watch_of(deployed)
        self._speakers, self._adapt = Speakers(deployed, adapter or self.adapter), adapt
        self._pace.adapt, self._pace.sample = adapt, sample
        if adapter is None:
            self.adapter.tune(adapt.chosen())
        else:
            self._return()
        self._sociable = answers_together(self.adapter)

    @property
    def identity(self) -> Identity:
        """What a state that is learned now belongs to."""
        return identity_of(self._deployed, self._adapt)

    @property
    def _fortune(self) -> Fortune:
        """What the adapter's randomness comes from."""
        return self._adapt.seed, self._device

    @property
    def _device(self) -> torch.device:
        return self._deployed.classifier.mean.device

    def _return(self) -> None:
        """Go on where the method was left, if it was here before."""
        try:
            self._left.give_back(self.identity, self.adapter, self._fortune)
        except (ValueError, KeyError, RuntimeError) as fault:
            self._fail(fault)

    def snapshot(self, learned: Mapping[Partition, int]) -> Snapshot:
        """A copy of all that was learned and seen of the records before these offsets."""
        return self.snapshot_of(Stream(), self.life, self.adapter.dump(), learned)

    def snapshot_of(
        self, stream: Stream, life: Life, memory: adapters.Memory, learned: Mapping[Partition, int]
    ) -> Snapshot:
        """What is to be saved of a stream whose adapter was dumped."""
        about = {"tta-daemon": __version__, "torch": torch.__version__, "step": str(int(memory["steps"]))}
        about |= {"options": str(self._adapt.chosen()), "saved_at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        return Snapshot(stream.name, memory, dict(learned), self.identity, life.batches, about, life.dump())

    def resume(self, snapshot: Snapshot) -> None:
        """Go on from what was learned and seen before, bit for bit.

        Raises:
            CheckpointError: it was learned with another model, method or structural option.
        """
        snapshot.belongs_to(self.identity)
        try:
            self.adapter.load(snapshot.memory)
        except (ValueError, KeyError, RuntimeError) as fault:
            raise CheckpointError(f"the saved state does not fit: {fault} ({REMEDY})") from fault
        self.life.load(snapshot.beside, snapshot.batches)

    def new_life(self) -> Life:
        """Of a stream that nothing was seen of yet."""
        return Life.new(self._deployed, self.guard.settings, self._clock())

    def enter(self, life: Life, memory: adapters.Memory | None) -> None:
        """Answer for another stream from now on, which is newborn where it has no memory."""
        self.life = life
        if memory is None:
            self.adapter.rewind()
        else:
            self.adapter.load(memory)

    def impression(self, images: Tensor) -> Tensor:
        """What the frozen source model sees of images, as one vector; near for images of the same kind."""
        return impression_of(self._probe(images.to(self._device)))

    def tells_more(self, memory: adapters.Memory, images: Tensor) -> bool:
        """Whether an adapter that has learned this tells more about the images than a newborn one does.

        The network is nobody's after it.
        """
        images = images.to(self._device)
        self.adapter.mix(self._mixture)
        try:
            self.adapter.load(memory)
            said = self._speakers.grown_and_newborn(images)
        except (ValueError, KeyError, RuntimeError):
            return False
        grown, fresh = map(told, said)
        if grown is None or fresh is None:
            return fresh is None and grown is not None
        pair = Information(), Information()
        for about, words in zip(pair, (grown, fresh), strict=True):
            about.add(words, len(images))
        return pair[0].information > pair[1].information

    def answer(self, images: Tensor, lag_s: float = 0.0, *, learned: bool = False) -> Answered:
        """Answer a batch: float32, N x 3 x H x W in [0, 1].

        ``lag_s`` is the age of its oldest record; ``learned`` ones are not learned from again.
        """
        began, step = self._clock(), self.step
        images = images.to(self._device)
        hold = Hold.LEARNED if learned else self._pace.hold(self.life, len(images), lag_s)
        self.life.batches += not learned
        watched = self._pace.watched(self.life, learned=learned)
        self._settle_statistics(hold)
        said = self._say(images, hold, listen=watched and self._deployed.known is not None)
        asked = self._clock()
        looks = learned or not self._guarded or self.guard.looks(images, said.logits)
        began_look = self._clock()
        view = self._probe(images) if watched and looks else None
        looked = self._clock()
        weighed, lived = (None if learned else view), self.guard.lives  # no batch is weighed twice
        once = said.logits if weighed is None and self.guard.averages else self._single_view(said, images)
        voices = {lived: once} if weighed is None else {lived: once} | self._otherwise(images, said.hold)
        if weighed is not None and once is not said.logits:
            self.guard.weigh_views(once, said.logits)
        listened = self._clock()
        serve = self._weigh(voices, weighed)
        adapted = said.logits if self.guard.averages else once
        leaves = adapted if self.guard.lives is lived else voices.get(self.guard.lives, adapted)
        if said.hold is Hold.FAILED or said.repaired == len(images):
            serve, leaves = Serve.SOURCE, said.logits  # which are the source's
        else:
            leaves = self._served(serve, leaves, view, images)
        if not learned:
            self._remember(images, adapted)
        vain = said.hold is None and self._guarded and not self.guard.teaches()
        return Answered(
            step=step,
            logits=leaves,
            adapted=adapted,
            serve=serve,
            view=view,
            learn=_nothing if vain else said.learn,
            hold=Hold.GUARD if vain else said.hold,
            repaired=said.repaired,
            seconds=asked - began,
            source_seconds=looked - began_look,
            guard_seconds=listened - looked,
            head=said.head,
        )

    def _say(self, images: Tensor, hold: Hold | None, *, listen: bool) -> _Said:
        """What the adapted model says. Where it cannot, or what it has learned is not finite, the source speaks."""
        try:
            with self._tap.on(self.adapter) if listen else nullcontext():
                logits, learn, hold = self._ask(images, hold)
            logits, repaired = self._speakers.repaired(logits, images)
            if repaired:
                self._assert_finite()
        except (ArithmeticError, RuntimeError, ValueError) as fault:
            self._fail(fault)
            return _Said(self._speakers.source(images), _nothing, Hold.FAILED, 0, None)
        return _Said(logits, learn, hold, repaired, self._tap.behind(logits) if listen else None)

    def stands_apart(self, images: int, *, learned: bool) -> bool:
        """Whether a batch of so many images needs a forward of its own, for it may be learned from, or was before."""
        if learned or self._adapt.when == "drift" or not self._sociable:
            return True
        return self._adapt.when == "always" and images >= self._pace.smallest

    def answer_together(self, parts: Sequence[Part]) -> list[Answered]:
        """Answer batches of several streams, none of which `stands_apart`, in one forward.

        Raises:
            RuntimeError, ValueError: that cannot be done; nothing has changed.
        """
        began = self._clock()
        images, sizes = torch.cat([part.images for part in parts]).to(self._device), [len(p.images) for p in parts]
        source_images, memories = [self._source_images(part) for part in parts], [part.memory for part in parts]
        logits = predict_together(self.adapter, images, sizes, memories, source_images) / self.adapter.temperature
        asked = self._clock()
        watched = [self._pace.watched(part.life) for part in parts]
        views = self._probe(images).split(sizes) if any(watched) else [None] * len(parts)
        seen = [view if due else None for view, due in zip(views, watched, strict=True)]
        seconds = (asked - began) / len(parts), (self._clock() - asked) / len(parts)
        rows = zip(parts, torch.split(images, sizes), torch.split(logits, sizes), seen, strict=True)
        hold = Hold.NEVER if self._adapt.when == "never" else Hold.SMALL
        shared = replace(NOBODYS, hold=hold, seconds=seconds[0], source_seconds=seconds[1], together=len(parts))
        return [self._one_of(*row, shared) for row in rows]

    def _source_images(self, part: Part) -> float:
        """What the source counts as beside a stream's images, as when that stream is answered by itself."""
        mixture = self._mixture if part.life.guard.mixes else 0.0
        return max(FEWEST if self._few(part.images) else 0.0, beside(mixture, len(part.images)))

    def _one_of(
        self, part: Part, images: Tensor, logits: Tensor, view: SourceView | None, shared: Answered
    ) -> Answered:
        """What one stream's part of a shared forward comes to, judged by that stream's own guard."""
        self.life = part.life
        self.life.batches += 1
        self._settle_statistics(shared.hold, beside_memory=self._few(images))  # who are many cannot be, in company
        adapted, repaired = self._speakers.repaired(logits, images)
        serve = Serve.SOURCE if repaired == len(images) else self._weigh({self.guard.lives: adapted}, view)
        logits = self._served(serve, adapted, view, images)
        step = 0 if part.memory is None else int(part.memory["steps"])
        return replace(shared, logits=logits, adapted=adapted, serve=serve, view=view, repaired=repaired, step=step)

    def _weigh(self, said: Mapping[Lives, Tensor], view: SourceView | None) -> Serve:
        """Whose answers leave; those that are not to be weighed have no ``view``."""
        guard = self.guard
        if not self._guarded:
            return Serve.ADAPTED
        if not self.adapter.judged:
            best = guard.trust()
        else:
            best = guard.carry_on() if view is None else guard.weigh(view.logits, said)
        return Serve.SOURCE if guard.settings.mode == "observe" else best

    def _few(self, images: Tensor) -> bool:
        """Whether they are too few to go by their own statistics, whatever they are not learned from for."""
        return len(images) < self._pace.smallest

    @property
    def _guarded(self) -> bool:
        return self.guard.settings.mode != "off" and self._adapt.method != "source"

    @property
    def _mixture(self) -> float:
        """How many images of the source may count beside each of a batch: none where norms do not go by the batch."""
        able = self.adapter.by_batch and self.adapter.judged and self._deputy is None
        return self.guard.settings.mixed if self._guarded and able else 0.0

    def _settle_statistics(self, hold: Hold | None, *, beside_memory: bool = True) -> None:
        """Let norms go by the batch, mix the source in, or ask the memory: whichever a stream's guard found best."""
        guard, mixture, before = self.guard, self._mixture, self.guard.lives
        guard.mixes = guard.mixes and mixture > 0
        able = beside_memory and mixture > 0 and len(guard.memory) > 0 and hold is not Hold.DRIFT
        guard.balances = guard.balances and able
        if guard.lives is not before:
            guard.unsettle()
        self.adapter.mix(mixture if guard.mixes else 0.0)

    def _otherwise(self, images: Tensor, hold: Hold | None) -> dict[Lives, Tensor]:
        """What the adapter would say by other statistics: what can be asked, and is worth asking."""
        guard, mixture, speakers = self.guard, self._mixture, self._speakers
        if not mixture or self._few(images) or hold is Hold.DRIFT:
            return {}  # few images are mixed anyway, and where nothing drifted there is nothing to undo
        shares = {Lives.MIXED: mixture, Lives.BATCH: 0.0}
        found = {by: speakers.by(share, images) for by, share in shares.items() if by is not guard.lives}
        if guard.doubtful and len(guard.memory) and not guard.balances:
            found[Lives.BALANCED] = self._beside_memory(images)
        return {by: logits for by, logits in found.items() if logits is not None}

    def _beside_memory(self, images: Tensor) -> Tensor | None:
        """What the adapter says of a batch normalized together with as many images of every class, if it can."""
        return self._speakers.beside(self.guard.memory.draw(len(images)), images)

    def _remember(self, images: Tensor, logits: Tensor) -> None:
        """Keep images of every class while labels may come in runs, and only then."""
        memory = self.guard.memory
        if not (self.guard.doubtful and self._mixture):
            memory.forget()
        elif len(images) >= FEWEST:
            finite = images.flatten(1).isfinite().all(1)
            memory.add(images[finite], logits[finite].argmax(1))

    def _single_view(self, said: _Said, images: Tensor) -> Tensor:
        """What the guard goes by: the answers, or what they would be were they no means over views."""
        if not (self._guarded and self.adapter.averages_views) or said.hold is not None:
            return said.logits
        single = self._speakers.by(self.adapter.mixed, images)
        return said.logits if single is None else single

    def _served(self, serve: Serve, adapted: Tensor, view: SourceView | None, images: Tensor) -> Tensor:
        """The logits that leave."""
        if serve in {Serve.MIXED, Serve.ADAPTED}:
            return adapted
        source = self._speakers.source(images) if view is None else view.logits
        return source if serve is Serve.SOURCE else blended(source, adapted)

    def _ask(self, images: Tensor, hold: Hold | None) -> tuple[Tensor, Callable[[], Signals | None], Hold | None]:
        """What the adapted model says, how it is learned from, and why it is not."""
        if self._few(images):
            return self._speakers.of_few(images), _nothing, hold
        if self.guard.balances:
            beside_memory = self._beside_memory(images)
            said = self._speakers.adapted(images) if beside_memory is None else beside_memory
            return said, _nothing, hold if hold is Hold.LEARNED else Hold.RUNS
        if self._deputy is not None:
            return *self._ask_deputy(self._deputy, images, hold), hold
        if hold is not None:
            return self._speakers.adapted(images), _nothing, hold
        answer = adapters.answer(self.adapter, images)
        return answer.logits / self.adapter.temperature, lambda: self._learn(answer, images), None

    def _ask_deputy(
        self, deputy: "Deputy", images: Tensor, hold: Hold | None
    ) -> tuple[Tensor, Callable[[], Signals | None]]:
        """Another answers; the method computes its own answer when it learns, after the other's has left."""
        logits, head = deputy(self.adapter, images)
        if head is not None:
            self._tap.heard(head)
        if hold is not None:
            return logits / self.adapter.temperature, _nothing
        later = adapters.Answer(logits, lambda: adapters.answer(self.adapter, images).learn())
        return logits / self.adapter.temperature, lambda: self._learn(later, images)

    def _learn(self, answer: adapters.Answer, images: Tensor) -> Signals | None:
        """Learn; None where the method failed and is back at birth."""
        try:
            with self._pace.learning():
                signals = answer.learn()
                self._assert_finite()
                self._think_again(images)
        except (ArithmeticError, RuntimeError, ValueError) as fault:
            self._fail(fault)
            return None
        else:
            return signals

    def _think_again(self, images: Tensor) -> None:
        """Forget what was learned, where that is due or where a newborn adapter would tell more about these images."""
        guard = self.guard
        if guard.settings.mode == "off":
            return
        if guard.reset_due(self.step):
            self._rewind()
        elif (
            self.adapter.judged
            and self._remembers
            and guard.check_due()
            and guard.check(*self._speakers.grown_and_newborn(images), self._speakers.recall(self.step))
        ):
            self._rewind(guard.kept)

    @property
    def _remembers(self) -> bool:
        """Whether the adapter can differ from a newborn one: not where it goes by each batch alone."""
        answerer = self.adapter.answerer()
        return answerer is None or bool(answerer.tensors())

    def forget(self) -> None:
        """Back to birth, for somebody asked for it: nothing was found about what answers from now on."""
        self.adapter.rewind()
        self.life.guard = Guard(self.guard.settings, self._clock())

    def _rewind(self, kept: float = 0.0) -> None:
        """Back to birth, or to where only so much of what was learned is kept."""
        self.adapter.rewind(kept)
        self.guard.departed(self._clock())

    def _assert_finite(self) -> None:
        if not self.adapter.finite:
            raise FloatingPointError("what was learned is not finite")

    def _fail(self, fault: Exception) -> None:
        """The method cannot go on from where it is: back to birth."""
        log.warning("adaptation failed; what was learned is forgotten", method=self.method, error=str(fault))
        self._rewind()


def _nothing() -> Signals:
    return {}
