"""One row a method: how the tests run it. A method that is not here fails the conformance suite."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args, get_type_hints

import torch
from nets import images

import adapters
from adapters import METHODS, Adapter, Classifier, ecotta, vida
from adapters.eata import estimate_fisher
from adapters.labelshift import estimate_shares
from adapters.options import Knob, knobs
from adapters.petal import PetalPrior
from adapters.rmt import estimate_prototypes

Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Effect:
    """Another value of an option, and the other options under which it makes a difference."""

    value: Any
    under: Overrides = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """How one method is put to the test on a small untrained network.

    Attributes:
        options: what differs from the defaults in every test, so that few small batches are enough to learn.
        variants: further option sets that the whole suite runs.
        prior: makes the knowledge of the source, for every variant; none where absent.
        effects: values that show an option's effect, where another value alone does not.
        plain: what, beside no step size, makes it answer as batch statistics do; absent where nothing does.
        times: by how much such an answer is scaled.
        idle: variants that remember nothing.
        costs: options that change what a step costs and not what it gives.
    """

    options: Overrides = field(default_factory=dict)
    variants: Mapping[str, Overrides] = field(default_factory=lambda: {"default": {}})
    prior: Callable[[Classifier], Any] | None = None
    effects: Mapping[str, Effect] = field(default_factory=dict)
    plain: Overrides | None = None
    times: float = 1.0
    idle: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()


def fisher(classifier: Classifier) -> Any:
    return estimate_fisher(classifier, [images(16, seed=s).to(classifier.mean) for s in (90, 91)])


def shares(classifier: Classifier) -> Any:
    return estimate_shares(classifier, [images(16, seed=s).to(classifier.mean) for s in (95, 96)])


def belief(classifier: Classifier) -> Any:
    weights = torch.cat([p.detach().reshape(-1) for p in classifier.parameters()])
    return PetalPrior(weights, 1e-4 + 0.01 * weights.square())


def prototypes(classifier: Classifier) -> Any:
    replayed, labels = images(10, seed=92).to(classifier.mean), torch.arange(10) % classifier.num_classes
    return replace(estimate_prototypes(classifier, [(replayed, labels)]), images=replayed, labels=labels)


def labelled(classifier: Classifier) -> list[Any]:
    return [(images(10, seed=s).to(classifier.mean), torch.arange(10) % classifier.num_classes) for s in (93, 94)]


def warmed_parts(classifier: Classifier) -> Any:
    return ecotta.warm_up(classifier, [labelled(classifier)])


def warmed_ranks(classifier: Classifier) -> Any:
    return vida.warm_up(classifier, [labelled(classifier)], vida.VidaOptions(rank_high=8))


_PRIORS: dict[tuple[str, type, torch.dtype], Any] = {}

SAMPLES: Mapping[str, Sample] = {
    "source": Sample(idle=("default",)),
    "labelshift": Sample(
        prior=shares, effects={"passes": Effect(1), "correction": Effect(0.5, {"least": 0.0}), "least": Effect(0.0)}
    ),
    "temperature": Sample(options={"alike": True}),
    "norm": Sample(
        variants={
            **{mode: {"mode": mode} for mode in ("source", "batch", "alpha", "prior", "ema", "instance")},
            "ema in two passes": {"mode": "ema", "passes": 2},
        },
        effects={
            "mode": Effect("batch"),
            "alpha": Effect(0.7, {"mode": "alpha"}),
            "source_images": Effect(2.0, {"mode": "prior"}),
            "momentum": Effect(0.5, {"mode": "ema"}),
            "passes": Effect(2, {"mode": "ema"}),
            "strictness": Effect(0.5, {"mode": "instance"}),
        },
        idle=("source", "batch", "alpha", "prior", "instance"),
    ),
    "tent": Sample(variants={"adam": {}, "sgd": {"optimizer": "sgd", "nesterov": True}}, plain={}),
    "rpl": Sample(variants={"gce": {}, "entropy": {"objective": "entropy"}}, plain={}),
    "eata": Sample(
        options={"entropy_margin": 1.0, "similarity_margin": 2.0},
        variants={"default": {}, "rdumb": {"fisher_weight": 0.0, "reset_every": 5}},
        prior=fisher,
        effects={
            "entropy_margin": Effect(0.5),
            "similarity_margin": Effect(1e-3),
            "usual_momentum": Effect(0.1),
            "fisher_weight": Effect(2000.0),
            "reset_every": Effect(3),
        },
        plain={},
    ),
    "sar": Sample(
        options={"entropy_margin": 1.0, "lr": 0.05},
        variants={"default": {}, "adam": {"optimizer": "adam", "lr": 1e-3}},
        effects={"recover_below": Effect(10.0)},
        plain={},
    ),
    "roid": Sample(variants={"default": {}, "literal": {"literal": True}}, plain={"correction": 0.0}),
    "rotta": Sample(
        options={"capacity": 16, "update_every": 8},
        effects={"age_weight": Effect(0.0), "entropy_weight": Effect(1000.0)},
    ),
    "cotta": Sample(
        options={"views": 3, "augment_below": 2.0},
        variants={"views": {}, "no views": {"augment_below": 0.0}, "symmetric": {"loss": "symmetric", "views": 1}},
        effects={"augment_below": Effect(0.0)},
        costs=("images_at_once",),
        plain={"restore_rate": 0.0, "view_strength": 0.0},
    ),
    "petal": Sample(
        options={"views": 3, "augment_below": 2.0, "restored_share": 0.3},
        prior=belief,
        effects={"augment_below": Effect(0.0), "images_at_once": Effect(1), "prior_weight": Effect(1e-3)},
        costs=("images_at_once",),
        plain={"restore_rate": 0.0, "view_strength": 0.0},
    ),
    "rmt": Sample(
        variants={"with replay": {}, "without": {"source_weight": 0.0, "contrastive_weight": 0.0}},
        prior=prototypes,
        plain={},
        times=2.0,
    ),
    "ecotta": Sample(
        options={"entropy_margin": 1.0, "lr": 0.05},
        variants={"default": {}, "kept": {"recompute": False, "optimizer": "adam", "lr": 1e-3}},
        prior=warmed_parts,
        effects={"entropy_margin": Effect(0.5), "blocks": Effect(("layer1.0",)), "partition": Effect((1, 2))},
    ),
    "vida": Sample(
        options={"views": 3, "rank_high": 8},
        variants={"default": {}, "symmetric": {"loss": "symmetric", "views": 2}},
        prior=warmed_ranks,
        effects={"doubtful_from": Effect(0.0)},
        costs=("images_at_once",),
    ),
}


def options_of(name: str, overrides: Overrides) -> Any:
    """The method's options as the suite runs it, and as ``overrides`` say."""
    return METHODS[name].options(**{**SAMPLES[name].options, **overrides})


def make(name: str, overrides: Overrides, classifier: Classifier, seed: int = 0) -> Adapter:
    """A newborn adapter around ``classifier``."""
    return adapters.build(name, classifier, options_of(name, overrides), prior_of(name, classifier), seed)


def prior_of(name: str, classifier: Classifier) -> Any:
    """What the method knows of the source; made once for each of the small networks."""
    kind = (name, type(classifier.network), classifier.mean.dtype)
    if kind not in _PRIORS:
        prior = SAMPLES[name].prior
        _PRIORS[kind] = prior(classifier) if prior is not None else None
    return _PRIORS[kind]


def changed(name: str, option: Knob) -> Effect:
    """Another value of an option: the row's, or one that is surely different."""
    if option.name in SAMPLES[name].effects:
        return SAMPLES[name].effects[option.name]
    value = getattr(options_of(name, {}), option.name)
    hint = get_type_hints(METHODS[name].options)[option.name]
    if isinstance(value, bool):
        return Effect(not value)
    if isinstance(value, int):
        return Effect(value + 1)
    if isinstance(value, float):
        return Effect(value / 2 if value else 0.5)
    if isinstance(value, str):
        return Effect(next(other for other in get_args(hint) if other != value))
    return Effect(type(value)())


def live(name: str) -> list[Knob]:
    """The method's options that may change while it lives."""
    return [option for option in knobs(METHODS[name].options) if option.reach == "live"]
