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
from adapters.parts.norms import FEWEST
from adapters.together import answers_together, predict_together
from tta_daemon import __version__
from tta_daemon.answered import Answered, Hold, Signals
from tta_daemon.birth import deputy_of, impression_of, newborn, probe_of
from tta_daemon.control.sections import Adapt
from tta_daemon.control.sections import Guard as GuardSettings
from tta_daemon.control.snapshot import REMEDY, Identity, Snapshot, identity_of
from tta_daemon.errors import CheckpointError
from tta_daemon.life import Life
from tta_daemon.model.load import Deployed
from tta_daemon.pace import Pace
from tta_daemon.stream.records import Partition, Stream
from tta_daemon.watch.guard import Guard, Lives, Serve, blended
from tta_daemon.watch.information import Information, told
from tta_daemon.watch.view import HeadTap, SourceView
from tta_daemon.watch.watching import watch_of

if TYPE_CHECKING:
    from tta_daemon.model.deputy import Deputy

MOST_LEFT = 4
"""States of methods that were left which are remembered: the latest."""

DICE = ("dice._extra_state/state",)
"""Where an adapter's memory holds its randomness."""

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


class _Left(NamedTuple):
    """What was learned by a method that is not in use any more, and what its randomness came from."""

    memory: adapters.Memory
    fortune: tuple[int, torch.device]


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
        self._deployed = deployed
        self._adapt = adapt
        self._clock = clock
        self._pace = Pace(adapt, sample, clock)
        self.adapter = newborn(deployed, adapt)
        self._deputy = deputy_of(deployed, adapt)
        self.life = Life.new(deployed, guard)
        self._probe = probe_of(deployed)
        self._tap = HeadTap()
        self._sociable = answers_together(self.adapter)
        self._left: dict[frozenset[tuple[str, str]], _Left] = {}

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
            self._left[frozenset(self.identity.items())] = _Left(self.adapter.dump(), self._fortune)
            self.adapter = adapter
            self.guard.departed()
        self._deputy = None if adapt.serve == "method" else deputy or self._deputy
        self.guard.settings = guard
        if deployed is not self._deployed:
            self._probe = probe_of(deployed)
            self.life.watch = watch_of(deployed)
        self._deployed, self._adapt = deployed, adapt
        self._pace.adapt, self._pace.sample = adapt, sample
        if adapter is None:
            self.adapter.tune(adapt.chosen())
        elif (left := self._left.pop(frozenset(self.identity.items()), None)) is not None:
            self._return_to(left)
        self._sociable = answers_together(self.adapter)
        while len(self._left) > MOST_LEFT:
            del self._left[next(iter(self._left))]

    @property
    def identity(self) -> Identity:
        """What a state that is learned now belongs to."""
        return identity_of(self._deployed, self._adapt)

    @property
    def _fortune(self) -> tuple[int, torch.device]:
        """What the adapter's randomness comes from."""
        return self._adapt.seed, self._deployed.classifier.mean.device

    def _return_to(self, left: "_Left") -> None:
        """Go on where this state was left; with new randomness, where that is wanted."""
        dice = {} if left.fortune == self._fortune else {n: t for n, t in self.adapter.dump().items() if n in DICE}
        try:
            self.adapter.load({**left.memory, **dice})
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
        return Life.new(self._deployed, self.guard.settings)

    def enter(self, life: Life, memory: adapters.Memory | None) -> None:
        """Answer for another stream from now on, which is newborn where it has no memory."""
        self.life = life
        if memory is None:
            self.adapter.rewind()
        else:
            self.adapter.load(memory)

    def impression(self, images: Tensor) -> Tensor:
        """What the frozen source model sees of images, as one vector; near for images of the same kind."""
        return impression_of(self._probe(images.to(self._deployed.classifier.mean.device)))

    def tells_more(self, memory: adapters.Memory, images: Tensor) -> bool:
        """Whether an adapter that has learned this tells more about the images than a newborn one does.

        The network is nobody's after it.
        """
        images = images.to(self._deployed.classifier.mean.device)
        self.adapter.load(memory)
        grown = told(self._predict(images))
        self.adapter.rewind()
        newborn = told(self._predict(images))
        if grown is None or newborn is None:
            return newborn is None and grown is not None
        pair = Information(), Information()
        for about, words in zip(pair, (grown, newborn), strict=True):
            about.add(words, len(images))
        return pair[0].information > pair[1].information

    def answer(self, images: Tensor, lag_s: float = 0.0, *, learned: bool = False) -> Answered:
        """Answer a batch: float32, N x 3 x H x W in [0, 1].

        ``lag_s`` is the age of its oldest record; ``learned`` ones are not learned from again.
        """
        began, step = self._clock(), self.step
        images = images.to(self._deployed.classifier.mean.device)
        hold = Hold.LEARNED if learned else self._pace.hold(self.life, len(images), lag_s)
        self.life.batches += not learned
        watched = self._pace.watched()
        self._live_by(self.guard, hold)
        if self.guard.balances:
            hold = Hold.RUNS
        try:
            with self._tap.on(self.adapter) if watched and self._deployed.known else nullcontext():
                adapted, learn = self._ask(images, hold)
        except (RuntimeError, ValueError) as fault:
            adapted, learn, hold = self._ask_source(images), _nothing, Hold.FAILED
            self._fail(fault)
        asked = self._clock()
        adapted, repaired = self._repair(adapted, images)
        looks = learned or not self._guarded or self.guard.looks(images, adapted)
        began_look = self._clock()
        view = self._probe(images) if watched and looks else None
        looked = self._clock()
        lived = self.guard.lives
        said = {lived: adapted}
        if view is not None and not learned:  # no batch is weighed twice
            said = {lived: self._single_view(adapted, images, hold)} | self._otherwise(images, hold)
        listened = self._clock()
        serve, worth_learning = self._weigh(said, view, learned=learned)
        leaves = adapted if self.guard.lives is lived else said.get(self.guard.lives, adapted)
        if not learned:
            self._remember(images, adapted)
        if hold is None and not worth_learning:
            learn, hold = _nothing, Hold.GUARD
        return Answered(
            step=step,
            logits=self._served(serve, leaves, view, images),
            adapted=adapted,
            serve=serve,
            view=view,
            learn=learn,
            hold=hold,
            repaired=repaired,
            seconds=asked - began,
            source_seconds=looked - began_look,
            guard_seconds=listened - looked,
            head=self._tap.behind(adapted) if watched and self._deployed.known else None,
        )

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
        began, device = self._clock(), self._deployed.classifier.mean.device
        images, sizes = torch.cat([part.images for part in parts]).to(device), [len(part.images) for part in parts]
        hold = Hold.NEVER if self._adapt.when == "never" else Hold.SMALL
        source_images = FEWEST if hold is Hold.SMALL else 0
        memories = [part.memory for part in parts]
        self.adapter.mix(self._mixture)
        logits = predict_together(self.adapter, images, sizes, memories, source_images) / self.adapter.temperature
        asked = self._clock()
        view = self._probe(images) if self._pace.watched() else None
        seconds = (asked - began) / len(parts), (self._clock() - asked) / len(parts)
        views = [None] * len(parts) if view is None else view.split(sizes)
        rows = zip(parts, torch.split(images, sizes), torch.split(logits, sizes), views, strict=True)
        shared = replace(NOBODYS, hold=hold, seconds=seconds[0], source_seconds=seconds[1], together=len(parts))
        return [self._one_of(*row, shared) for row in rows]

    def _one_of(
        self, part: Part, images: Tensor, logits: Tensor, view: SourceView | None, shared: Answered
    ) -> Answered:
        """What one stream's part of a shared forward comes to, judged by that stream's own guard."""
        self.life = part.life
        self.life.batches += 1
        self.guard.mixes, self.guard.balances = self.adapter.mixed > 0, False  # as all who share the forward
        adapted, repaired = self._repair(logits, images)
        serve, _ = self._weigh({self.guard.lives: adapted}, view)
        logits = self._served(serve, adapted, view, images)
        step = 0 if part.memory is None else int(part.memory["steps"])
        return replace(shared, logits=logits, adapted=adapted, serve=serve, view=view, repaired=repaired, step=step)

    def _weigh(
        self, said: Mapping[Lives, Tensor], view: SourceView | None, *, learned: bool = False
    ) -> tuple[Serve, bool]:
        """Whose answers leave, and whether the guard finds the batch worth learning from."""
        guard = self.guard
        if not self._guarded:
            return Serve.ADAPTED, True
        if not self.adapter.judged:
            best = guard.trust()
        elif learned:
            best = guard.serve
        else:
            best = guard.carry_on() if view is None else guard.weigh(view.logits, said)
        return Serve.SOURCE if guard.settings.mode == "observe" else best, guard.teachable

    @property
    def _guarded(self) -> bool:
        return self.guard.settings.mode != "off" and self._adapt.method != "source"

    @property
    def _mixture(self) -> float:
        """How many images of the source may count beside each of a batch: none where norms do not go by the batch."""
        able = self.adapter.by_batch and self.adapter.judged and self._deputy is None
        return self.guard.settings.mixed if self._guarded and able else 0.0

    def _live_by(self, guard: Guard, hold: Hold | None) -> None:
        """Let norms go by the batch, or mix the source in: whichever a stream's guard found to tell more."""
        mixture = self._mixture
        guard.mixes = guard.mixes and mixture > 0
        able = mixture > 0 and len(guard.memory) > 0 and hold not in {Hold.SMALL, Hold.DRIFT}
        guard.balances = guard.balances and able
        self.adapter.mix(mixture if guard.mixes else 0.0)

    def _otherwise(self, images: Tensor, hold: Hold | None) -> dict[Lives, Tensor]:
        """What the adapter would say by other statistics: what can be asked, and is worth asking."""
        guard, mixture = self.guard, self._mixture
        if not mixture or hold in {Hold.SMALL, Hold.DRIFT}:
            return {}  # small batches are mixed anyway, and where nothing drifted there is nothing to undo
        asked = {Lives.MIXED: mixture, Lives.BATCH: 0.0}
        said = {by: self._said_by(share, images) for by, share in asked.items() if by is not guard.lives}
        if guard.doubtful and len(guard.memory) and not guard.balances:
            said[Lives.BALANCED] = self._else_none(lambda: self._beside_memory(images), images)
        return {by: logits for by, logits in said.items() if logits is not None}

    def _said_by(self, share: float, images: Tensor) -> Tensor | None:
        lived = self.adapter.mixed
        self.adapter.mix(share)
        try:
            return self._else_none(lambda: self._predict(images), images)
        finally:
            self.adapter.mix(lived)

    def _beside_memory(self, images: Tensor) -> Tensor:
        """As `_predict`, normalized together with as many images of every class."""
        others = self.guard.memory.draw(len(images)).to(images)
        return self._predict(torch.cat((images, others)))[: len(images)]

    def _remember(self, images: Tensor, logits: Tensor) -> None:
        """Keep images of every class while labels may come in runs, and only then."""
        memory = self.guard.memory
        if not (self.guard.doubtful and self._mixture):
            memory.forget()
        elif len(images) >= FEWEST:
            finite = images.flatten(1).isfinite().all(1)
            memory.add(images[finite], logits[finite].argmax(1))

    def _single_view(self, adapted: Tensor, images: Tensor, hold: Hold | None) -> Tensor:
        """What the guard goes by: the answers, or what they would be were they no means over views."""
        if not (self._guarded and self.adapter.averages_views) or hold is not None:
            return adapted
        single = self._else_none(lambda: self._predict(images), images)
        return adapted if single is None else single

    def _else_none(self, ask: Callable[[], Tensor], images: Tensor) -> Tensor | None:
        try:
            return self._repair(ask(), images)[0]
        except (RuntimeError, ValueError):
            return None

    def _served(self, serve: Serve, adapted: Tensor, view: SourceView | None, images: Tensor) -> Tensor:
        """The logits that leave."""
        if serve in {Serve.MIXED, Serve.ADAPTED}:
            return adapted
        source = self._ask_source(images) if view is None else view.logits
        return source if serve is Serve.SOURCE else blended(source, adapted)

    def _ask(self, images: Tensor, hold: Hold | None) -> tuple[Tensor, Callable[[], Signals | None]]:
        if hold is Hold.SMALL:
            return self._predict_mixed(images, FEWEST), _nothing
        if hold is Hold.RUNS:
            beside = self._else_none(lambda: self._beside_memory(images), images)
            return self._predict(images) if beside is None else beside, _nothing
        if self._deputy is not None:
            return self._ask_deputy(self._deputy, images, hold)
        if hold is not None:
            return self._predict(images), _nothing
        answer = adapters.answer(self.adapter, images)
        return answer.logits / self.adapter.temperature, lambda: self._learn(answer, images)

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

    def _predict(self, images: Tensor) -> Tensor:
        """Logits whose softmax is a probability."""
        return self.adapter.predict(images) / self.adapter.temperature

    def _predict_mixed(self, images: Tensor, source_images: float) -> Tensor:
        """As `_predict`, by statistics mixed with the source's."""
        return self.adapter.predict_mixed(images, source_images) / self.adapter.temperature

    def _learn(self, answer: adapters.Answer, images: Tensor) -> Signals | None:
        """Learn; None where the method failed and is back at birth."""
        try:
            with self._pace.learning():
                signals = answer.learn()
                self._think_again(images)
        except (RuntimeError, ValueError) as fault:
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
            self.forget()
        elif (
            self.adapter.judged
            and self._remembers
            and guard.check_due()
            and guard.check(*self._grown_and_newborn(images))
        ):
            self.forget(guard.kept)

    @property
    def _remembers(self) -> bool:
        """Whether the adapter can differ from a newborn one: not where it goes by each batch alone."""
        answerer = self.adapter.answerer()
        return answerer is None or bool(answerer.tensors())

    def _grown_and_newborn(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the adapter says of the images, and what it said when it was born."""
        grown, memory = self._predict(images), self.adapter.dump()
        self.adapter.rewind()
        try:
            return grown, self._predict(images)
        finally:
            self.adapter.load(memory)

    def forget(self, kept: float = 0.0) -> None:
        """Back to birth, or to where only so much of what was learned is kept."""
        self.adapter.rewind(kept)
        self.guard.departed()

    def _fail(self, fault: Exception) -> None:
        """The method cannot go on from where it is: back to birth."""
        log.warning("adaptation failed; what was learned is forgotten", method=self.method, error=str(fault))
        self.forget()

    @torch.no_grad()
    def _ask_source(self, images: Tensor) -> Tensor:
        frozen, classifier = self._deployed.frozen, self._deployed.classifier
        if frozen is not None:
            return frozen(images).logits
        return torch.cat([classifier(part) for part in classifier.portions(images)])

    def _repair(self, logits: Tensor, images: Tensor) -> tuple[Tensor, int]:
        """Answers that are not finite are given by the source model instead."""
        broken = ~torch.isfinite(logits).all(1)
        count = int(broken.sum())
        if count:
            logits = torch.where(broken[:, None], self._ask_source(images), logits)
        return logits, count


def _nothing() -> Signals:
    return {}
