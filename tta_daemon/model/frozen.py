"""The frozen source model answered by ONNX Runtime, with all that is looked at inside it."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from adapters import Classifier
from tta_daemon.model import graph
from tta_daemon.model.runtime import PROVIDERS, Runtime, require, started
from tta_daemon.model.wanted import Wanted
from tta_daemon.watch.view import Probe, SourceView

MOMENTS = "moments"


class FrozenView:
    """Looks at images as a `Probe` does, by ONNX Runtime.

    Args:
        classifier: the deployed model.
        layers: how many norm layers are looked into; they cannot be folded away.
        size: height and width of the images.
        wanted: where to compute.

    Raises:
        ConfigError: ONNX Runtime cannot have this network, or answers differently.
    """

    def __init__(self, classifier: Classifier, layers: int, size: Sequence[int], wanted: Wanted) -> None:
        looked = _Looked(classifier, Probe(classifier, layers))
        self._outputs = looked.outputs
        self.runtime: Runtime = started(looked, looked.outputs, size, wanted)

    def __call__(self, images: Tensor) -> SourceView:
        """Look at images, N x 3 x H x W in [0, 1]."""
        seen = dict(zip(self._outputs, self.runtime(images), strict=True))
        nothing = images.new_zeros(len(images), 0)
        return SourceView(seen[graph.LOGITS], seen.get(graph.FEATURES, nothing), seen.get(MOMENTS, nothing))


class Computed(NamedTuple):
    """The execution provider that was asked for, and the one that was obtained."""

    asked: str
    provider: str


class OpaqueView:
    """Looks at the answers of a black box: ONNX Runtime gives them on the CPU, whatever else is wanted.

    Raises:
        ConfigError: they are wanted on another device and nowhere else.
    """

    def __init__(self, classifier: Classifier, wanted: Wanted) -> None:
        self._probe = Probe(classifier, layers=0)
        self.runtime = Computed(PROVIDERS.get(wanted.device.partition(":")[0], wanted.device), PROVIDERS["cpu"])
        require(wanted, *self.runtime)

    def __call__(self, images: Tensor) -> SourceView:
        """Look at images, N x 3 x H x W in [0, 1]: logits alone."""
        return self._probe(images)


class _Looked(nn.Module):
    """A probe as a module, so that what its hooks see is traced with the answer."""

    def __init__(self, classifier: Classifier, probe: Probe) -> None:
        super().__init__()
        self.classifier = classifier
        self.probe = probe

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        view = self.probe.look(images)
        given = {graph.LOGITS: view.logits, graph.FEATURES: view.features, MOMENTS: view.moments}
        return tuple(given[name] for name in self.outputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what is not empty."""
        features = (graph.FEATURES,) if self.classifier.head else ()
        return (graph.LOGITS, *features, *((MOMENTS,) if len(self.probe.depth) else ()))
