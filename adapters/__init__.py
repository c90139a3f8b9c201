"""Test-time adaptation methods, one file a paper, behind one contract.

>>> import torch
>>> from torch import nn
>>> body = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
>>> network = nn.Sequential(*body, nn.Linear(8, 4))
>>> adapter = build("tent", Classifier(network))
>>> outcome = step(adapter, torch.rand(16, 3, 8, 8))
>>> outcome.logits.shape, sorted(outcome.signals)
(torch.Size([16, 4]), ['entropy', 'loss'])
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from adapters.adapter import SIGNALS, Adaptation, Adapter, Answer, Memory, Outcome, answer, step
from adapters.classifier import Classifier
from adapters.cotta import Cotta, CottaOptions
from adapters.eata import Eata, EataOptions, EataPrior
from adapters.ecotta import Ecotta, EcottaOptions, EcottaPrior
from adapters.labelshift import Labelshift, LabelshiftOptions, LabelshiftPrior
from adapters.norm_only import NormOnly, NormOnlyOptions
from adapters.parts.network import has_batch_norm, norm_affine
from adapters.parts.unfolded import candidates
from adapters.petal import Petal, PetalOptions, PetalPrior
from adapters.rmt import Rmt, RmtOptions, RmtPrior
from adapters.roid import Roid, RoidOptions
from adapters.rotta import Rotta, RottaOptions
from adapters.rpl import Rpl, RplOptions
from adapters.sar import Sar, SarOptions
from adapters.source_only import SourceOnly, SourceOnlyOptions
from adapters.temperature import Temperature, TemperatureOptions
from adapters.tent import Tent, TentOptions
from adapters.vida import Vida, VidaOptions, VidaPrior

__all__ = [
    "METHODS", "SIGNALS", "Adaptation", "Adapter", "Answer", "Classifier", "Memory", "Method", "Needs", "Outcome",
    "answer", "build", "step", "unmet",
]  # fmt: skip


FOLDED = "; an exporter may have folded them into the convolutions: a prior of `tta-daemon prepare` gives them back"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a method asks of the network and of what is known about the source."""

    layers: bool = True
    batch_norm: bool = False
    affine_norm: bool = False
    linear_head: bool = False
    prior: bool = False
    smallest_batch: int = 1


@dataclass(frozen=True, slots=True)
class Method:
    """One row of `METHODS`: the options, the prior knowledge it can use, the class, and what it needs."""

    options: type
    prior: type | None
    adapter: type[Adapter]
    needs: Needs = field(default_factory=Needs)


METHODS: Mapping[str, Method] = MappingProxyType({
    "source": Method(SourceOnlyOptions, None, SourceOnly, Needs(layers=False)),
    "labelshift": Method(LabelshiftOptions, LabelshiftPrior, Labelshift, Needs(layers=False)),
    "temperature": Method(TemperatureOptions, None, Temperature, Needs(layers=False, smallest_batch=2)),
    "norm": Method(NormOnlyOptions, None, NormOnly, Needs(batch_norm=True)),
    "tent": Method(TentOptions, None, Tent, Needs(affine_norm=True, smallest_batch=2)),
    "rpl": Method(RplOptions, None, Rpl, Needs(affine_norm=True, smallest_batch=2)),
    "eata": Method(EataOptions, EataPrior, Eata, Needs(affine_norm=True, smallest_batch=2)),
    "sar": Method(SarOptions, None, Sar, Needs(affine_norm=True, smallest_batch=2)),
    "roid": Method(RoidOptions, None, Roid, Needs(affine_norm=True, smallest_batch=2)),
    "rotta": Method(RottaOptions, None, Rotta, Needs(affine_norm=True)),
    "cotta": Method(CottaOptions, None, Cotta, Needs(smallest_batch=2)),
    "petal": Method(PetalOptions, PetalPrior, Petal, Needs(smallest_batch=2)),
    "rmt": Method(RmtOptions, RmtPrior, Rmt, Needs(linear_head=True, smallest_batch=2)),
    "ecotta": Method(EcottaOptions, EcottaPrior, Ecotta, Needs(batch_norm=True, smallest_batch=2)),
    "vida": Method(VidaOptions, VidaPrior, Vida, Needs(smallest_batch=2)),
})  # fmt: skip


def build(name: str, classifier: Classifier, options: Any = None, prior: Any = None, seed: int = 0) -> Adapter:  # noqa: ANN401 - narrowed by the method
    """A newborn adapter around ``classifier``, which it freezes and shares but never changes.

    Args:
        name: a key of `METHODS`.
        classifier: the deployed model, on its device and in its dtype.
        options: the method's options; its published defaults where absent.
        prior: the method's knowledge of the source domain, where it has a use for it.
        seed: of the adapter's own randomness.

    Raises:
        KeyError: there is no such method.
        ValueError: the method cannot work on this network, in words.
    """
    if name not in METHODS:
        raise KeyError(f"no method is called {name!r}; there are {', '.join(METHODS)}")
    method = METHODS[name]
    if faults := unmet(name, classifier, prior):
        raise ValueError(f"{name}: {'; '.join(faults)}")
    adapter = method.adapter(classifier, options if options is not None else method.options(), prior, seed)
    adapter.born()
    return adapter


def unmet(name: str, classifier: Classifier, prior: object = None) -> list[str]:
    """What the method needs and does not find, one sentence each; empty where it can work."""
    needs = METHODS[name].needs
    if needs.layers and classifier.opaque:
        blind = ", ".join(other for other, method in METHODS.items() if not method.needs.layers)
        return [f"it needs to look into the network, and this one only answers; what works with it: {blind}"]
    faults = []
    folded = FOLDED if candidates(classifier.network) else ""
    if needs.batch_norm and not has_batch_norm(classifier):
        faults.append(f"it needs BatchNorm layers, and the network has none{folded}")
    if needs.affine_norm and not list(norm_affine(classifier)) and not has_batch_norm(classifier):
        faults.append(f"it trains normalization layers, and the network has none{folded}")
    if needs.linear_head and not classifier.head:
        faults.append("it needs the features before a linear head, and the network has no linear layer")
    if needs.prior and prior is None:
        faults.append("it needs prior knowledge of the source domain; make it with `tta-daemon prepare`")
    return faults
