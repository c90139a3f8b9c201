"""The contract of a method, and what no method writes again: memory, rewinding, answering before learning."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adapters.classifier import Classifier
from adapters.parts.answering import Answerer
from adapters.parts.dice import Dice
from adapters.parts.network import Network
from adapters.parts.norms import StreamNorm, mix, normalizing, pseudo_counted

Memory = Mapping[str, Tensor]
"""Everything of an adapter that moves and nothing that does not, by name: ready for one safetensors file."""

Signals = Mapping[str, Tensor | float]
"""A few named numbers about one step; the names and what they mean stand in `SIGNALS`."""

Adaptation = Generator[Tensor, None, Signals]
"""What `Adapter.adapt` returns: yields the answer once, then learns, then returns its signals."""

SIGNALS: Mapping[str, str] = {
    "loss": "The objective of the step, before it was taken.",
    "entropy": "Mean entropy of the answers, in nats.",
    "selected_ratio": "Share of the batch that the method chose to learn from.",
    "restored_ratio": "Share of the learning tensors' elements put back to their source value.",
    "augmented": "1 where the answer is an average over augmented views, else 0.",
    "anchor_confidence": "Mean confidence of the frozen source network on the batch.",
    "recovered": "1 where the method fell back to its source state at this step, else 0.",
    "consistency_loss": "The part of the loss that compares two views or two networks.",
    "contrastive_loss": "The part of the loss that draws the views of one image together.",
    "source_loss": "The part of the loss that comes from replayed source images.",
    "anchor_loss": "The part of the loss that holds learning tensors near the source.",
    "memory_used": "Images in the method's memory bank.",
    "uncertainty": "Variance of the answers over augmented views.",
    "label_shift": "How far the estimated shares of classes are from the source's: relative entropy, in nats.",
    "temperature": "What the method divides logits by.",
}

_EXTRA = "_extra_state"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a whole step gave: detached logits, N x C, and the signals as plain numbers."""

    logits: Tensor
    signals: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """Logits that may leave now, and the learning that may follow, once, or never."""

    logits: Tensor
    learn: Callable[[], Mapping[str, float]]


class Adapter(nn.Module):
    """A classifier that learns from the unlabelled images that it answers.

    A method writes ``__init__`` (its parts), ``adapt`` and ``predict``. All that it remembers lives in module state:
    tensors that it does not share with ``classifier``, and the extra state of its parts. Knowledge of the source
    domain (``prior``) is never written to.
    """

    Options: ClassVar[type]
    temperature: ClassVar[float] = 1.0
    """What the logits are to be divided by so that their softmax is a probability: networks summed, for one."""
    averages_views: ClassVar[bool] = False
    """Whether answers are means over augmented views: less sure by their making than what `predict` says."""
    judged: ClassVar[bool] = True
    """Whether how sure and how diverse answers are tells how good they are: not where a method changes just that."""
    steps: Tensor

    def __init__(self, classifier: Classifier, options: Any, prior: Any = None, seed: int = 0) -> None:  # noqa: ANN401 - each method narrows both
        super().__init__()
        self.options = options
        self.prior = prior
        self.dice = Dice(seed, classifier.mean.device)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.mixed = 0.0
        self._still = {id(t): t for t in (*classifier.parameters(), *classifier.buffers())}
        self._birth: Memory = {}

    @abstractmethod
    def adapt(self, images: Tensor) -> Adaptation:
        """Yield the answer to ``images`` (N x 3 x H x W in [0, 1]) as logits N x C, then learn from them."""

    @abstractmethod
    def predict(self, images: Tensor) -> Tensor:
        """Logits, N x C, without learning. Changes nothing."""

    @property
    def by_batch(self) -> bool:
        """Whether answers go by the statistics of the batch, so that the source's can be mixed in."""
        answerer = self.answerer()
        return self._normalizes and (answerer is None or answerer.by_batch)

    @property
    def follows_stream(self) -> bool:
        """Whether answers go by statistics that follow the stream, beyond the batch."""
        return self._normalizes and not self.by_batch

    @property
    def _normalizes(self) -> bool:
        return any(isinstance(module, StreamNorm) for module in self.modules())

    def mix(self, source_images: float) -> None:
        """From here on norms that go by the batch count the source's statistics as so many images for each image of it.

        Both for answers and in what is learned from. 0, as at birth: what was published. Where norms do not go
        `by_batch` there is nothing to mix. Schneider et al. 2020, eq. 3.
        """
        if source_images != self.mixed and (self.by_batch or not source_images):
            self.mixed = source_images
            for network in self._networks():
                mix(network, source_images)

    def predict_mixed(self, images: Tensor, source_images: float) -> Tensor:
        """As `predict`, by the batch's statistics beside the source's, which count as so many images.

        Where norms do not go `by_batch`, that is what `predict` gives. Schneider et al. 2020, eq. 3.
        """
        with ExitStack() as stack:
            for network in self._networks():
                stack.enter_context(normalizing(network, pseudo_counted(source_images)))
            return self.predict(images)

    def answerer(self) -> Answerer | None:
        """The one network of the deployed architecture that `predict` asks; None where there is no such one."""
        return None

    def finish(self, logits: Tensor) -> Tensor:
        """What `predict` makes of the logits that the answerer gives for a whole batch, N x C."""
        return logits

    def tune(self, options: Any) -> None:  # noqa: ANN401 - the method's own options type
        """Go on with other numbers, nothing forgotten.

        Raises:
            ValueError: a field differs that shapes the adapter and so needs a new one.
        """
        for field in fields(options):
            if field.metadata["reach"] == "rebuild" and getattr(options, field.name) != getattr(
                self.options, field.name
            ):
                raise ValueError(f"{field.name}: shapes the adapter, so it cannot change while it lives; build anew")
        self.options = options

    def born(self) -> None:
        """Remember this state as birth. Tensors equal to the source's are remembered by reference."""
        kept: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}
        for tensor in self._still.values():
            kept.setdefault((tensor.shape, tensor.dtype), []).append(tensor.detach())
        birth: dict[str, Tensor] = {}
        for name, tensor in self._moving():
            known = kept.setdefault((tensor.shape, tensor.dtype), [])
            twin = next((t for t in known if torch.equal(t, tensor)), None)
            if twin is None:
                twin = tensor.detach().clone()
                known.append(twin)
            birth[name] = twin
        self._birth = birth

    @property
    def birth(self) -> Memory:
        """What this adapter was born with; never to be written to."""
        return self._birth

    def rewind(self, kept: float = 0.0) -> None:
        """Return to birth, exactly: weights, statistics, optimizer, memories, randomness.

        Args:
            kept: the share of the learning tensors, on the side of the images, that stay as learned (ASR, 2026).
        """
        vectors = [network.vector for network in self._networks() if network.vector is not None]
        learned = [[p.detach().clone() for p in v.parameters[: int(kept * len(v.parameters))]] for v in vectors]
        self.load(self._birth)
        with torch.no_grad():
            for vector, tensors in zip(vectors, learned, strict=True):
                for parameter, tensor in zip(vector.parameters, tensors, strict=False):
                    parameter.copy_(tensor)

    def dump(self) -> Memory:
        """A copy of everything that moves, row by row. Feeding it to `load` resumes bit for bit."""
        return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in self._moving()}

    @property
    def finite(self) -> bool:
        """Whether all that was learned is finite."""
        found = [tensor.detach().isfinite().all() for _, tensor in self._moving() if tensor.is_floating_point()]
        return not found or bool(torch.stack([each.to(found[0].device) for each in found]).all())

    @torch.no_grad()
    def load(self, memory: Memory) -> None:
        """Take over what `dump` returned, all of it or nothing. Only buffers that are born empty change their shape.

        Raises:
            ValueError: ``memory`` is of another method, another network, or other structural options.
        """
        state = self.state_dict(keep_vars=True)
        mine = {name: t for name, t in state.items() if isinstance(t, Tensor) and id(t) not in self._still}
        extras: dict[str, dict[str, Tensor]] = {name: {} for name in state if name.endswith(_EXTRA)}
        for name, tensor in memory.items():
            owner, found, key = name.partition(f"{_EXTRA}/")
            if found and f"{owner}{_EXTRA}" in extras:
                extras[f"{owner}{_EXTRA}"][key] = tensor
            elif name not in mine:
                raise ValueError(f"memory holds {name!r}, which this adapter does not have")
            elif tensor.shape != mine[name].shape and self._birth.get(name, mine[name]).numel() > 0:
                raise ValueError(f"memory holds {name!r} as {tuple(tensor.shape)}, not {tuple(mine[name].shape)}")
        if missing := [name for name in mine if name not in memory]:
            raise ValueError(f"memory lacks {missing[0]!r}, which this adapter has")
        self._load_extras(extras)
        for name, target in mine.items():
            if target.shape == memory[name].shape:
                target.copy_(memory[name])
            else:
                owner, _, leaf = name.rpartition(".")
                setattr(self.get_submodule(owner), leaf, memory[name].to(target).clone())

    def _load_extras(self, extras: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Hand the parts their extra state; where one refuses its own, all keep what they had."""
        parts = {name: self.get_submodule(name.removesuffix(_EXTRA).removesuffix(".")) for name in extras}
        before = {name: part.get_extra_state() for name, part in parts.items()}
        try:
            for name, part in parts.items():
                part.set_extra_state(extras[name])
        except (KeyError, RuntimeError, ValueError) as fault:
            for name, part in parts.items():
                part.set_extra_state(before[name])
            raise ValueError(f"memory does not fit: {fault}") from fault

    def _networks(self) -> Iterator[Network]:
        """Forks of the source: what a method grows beside them has no source's statistics."""
        return (module for module in self.modules() if isinstance(module, Network))

    def _moving(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.state_dict(keep_vars=True).items():
            if isinstance(value, Tensor):
                if id(value) not in self._still:
                    yield name, value
            else:
                for key, tensor in value.items():
                    yield f"{name}/{key}", tensor


def answer(adapter: Adapter, images: Tensor) -> Answer:
    """Run a step up to its answer; what is learned from it comes when, and if, ``learn`` is called."""
    adaptation = adapter.adapt(images)
    with torch.enable_grad():
        logits = next(adaptation).detach()

    def learn() -> Mapping[str, float]:
        if inspect.getgeneratorstate(adaptation) == inspect.GEN_CLOSED:
            raise RuntimeError("this answer has been learned from")
        adapter.steps += 1  # before, so that a method that returns to birth begins again at 0
        try:
            with torch.enable_grad():
                next(adaptation)
        except StopIteration as end:
            return {name: float(value) for name, value in end.value.items()}
        raise RuntimeError(f"{type(adapter).__name__}.adapt yields more than once")

    return Answer(logits, learn)


def step(adapter: Adapter, images: Tensor) -> Outcome:
    """Answer ``images`` and learn from them, to the end."""
    answered = answer(adapter, images)
    return Outcome(answered.logits, answered.learn())
