"""What a learner is made of, as the settings ask for it: an adapter, who answers for it, who looks at the source."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

import adapters
from tta_daemon.control.sections import Adapt
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import Deployed
from tta_daemon.watch.view import Probe, SourceView

if TYPE_CHECKING:
    from tta_daemon.model.deputy import Deputy


def newborn(deployed: Deployed, adapt: Adapt) -> adapters.Adapter:
    """The adapter that the settings ask for.

    Raises:
        ConfigError: the method cannot work on this model.
    """
    try:
        known = deployed.prior(adapt.method)
        return adapters.build(adapt.method, deployed.classifier, adapt.chosen(), known, adapt.seed)
    except ValueError as fault:
        raise ConfigError("adapt.method", str(fault), "docs/methods.md says what each method needs") from fault


def deputy_of(deployed: Deployed, adapt: Adapt) -> "Deputy | None":
    """Who answers by ONNX Runtime, where the settings ask for that.

    Raises:
        ConfigError: nobody can for this method or model, or ONNX Runtime is missing.
    """
    if adapt.serve == "method":
        return None
    try:
        from tta_daemon.model.deputy import Deputy  # noqa: PLC0415 - an extra brings ONNX Runtime
    except ImportError as fault:
        raise ConfigError("adapt.serve", f"{fault.name} is missing", "pip install 'tta-daemon[onnx]'") from fault
    return Deputy(deployed, newborn(deployed, adapt), adapt.method)


def probe_of(deployed: Deployed) -> Callable[[Tensor], SourceView]:
    """Looks into the layers only where it is known what they should look like."""
    if deployed.frozen is not None:
        return deployed.frozen
    return Probe(deployed.classifier) if deployed.known is not None else Probe(deployed.classifier, layers=0)


def impression_of(view: SourceView) -> Tensor:
    """A batch as one vector: how its layers see it, where they were looked into; else its features or answers."""
    for seen in (view.moments, view.features):
        if seen.numel():
            return seen.mean(0)
    return view.logits.softmax(1).mean(0)
