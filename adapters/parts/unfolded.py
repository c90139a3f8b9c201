"""BatchNorm given back to a network whose exporter folded it into the convolutions.

Folding multiplies a convolution's weights by scale / deviation and moves the mean into its bias; which statistics it
had is then lost. They are estimated anew from source images, of what the convolution gives now, and a BatchNorm layer
is put behind it whose scale and shift undo its own normalization: newborn it changes nothing, and by the statistics of
a batch it does what the layer that was folded away would have done.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from adapters.classifier import Classifier
from adapters.parts.norms import Statistics

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # noqa: SLF001 - torch's only common base

Convolution = nn.Conv1d | nn.Conv2d


class Unfolded(nn.Sequential):
    """A convolution and the norm behind it."""

    def __init__(self, conv: Convolution, statistics: Statistics) -> None:
        mean, var = (values.to(conv.weight) for values in statistics)
        norm = (nn.BatchNorm2d if isinstance(conv, nn.Conv2d) else nn.BatchNorm1d)(conv.out_channels).to(conv.weight)
        with torch.no_grad():
            cast("Tensor", norm.running_mean).copy_(mean)
            cast("Tensor", norm.running_var).copy_(var)
            norm.weight.copy_(torch.sqrt(var + norm.eps))
            norm.bias.copy_(mean)
        super().__init__()
        self.add_module("conv", conv)
        self.add_module("norm", norm)
        self.eval().requires_grad_(False)


def candidates(network: nn.Module) -> dict[str, Convolution]:
    """Convolutions that a norm may have been folded into, by name: those with a bias, where no norm is left at all."""
    if any(isinstance(module, _NORMS) for module in network.modules()):
        return {}
    found = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d)}
    return {name: conv for name, conv in found.items() if conv.bias is not None and name}


@torch.no_grad()
def estimate(classifier: Classifier, batches: Iterable[Tensor]) -> dict[str, Statistics]:
    """Mean and variance of each channel that such convolutions give, over source images; empty where there are none.

    Left out are convolutions that give a single position, as those that weigh channels do: they had no norm.

    Args:
        classifier: the deployed model.
        batches: source images, N x 3 x H x W in [0, 1].
    """
    sums: dict[str, list[Tensor]] = {}
    convolutions = candidates(classifier.network)
    hooks = [
        conv.register_forward_hook(lambda _, __, out, name=name: _add(sums, name, out))
        for name, conv in convolutions.items()
    ]
    try:
        for images in batches if convolutions else ():
            classifier(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _moments(*totals) for name, totals in sums.items()}


def unfold(network: nn.Module, statistics: Mapping[str, Statistics]) -> None:
    """Put a norm behind each convolution that is named, in place. What the network answers stays what it was.

    Raises:
        ValueError: the network has no such convolution, or one of another width.
    """
    convolutions = candidates(network)
    for name, (mean, _) in statistics.items():
        if name not in convolutions or convolutions[name].out_channels != len(mean):
            raise ValueError(f"the network has no convolution {name!r} of {len(mean)} channels to put a norm behind")
    for name, moments in statistics.items():
        network.set_submodule(name, Unfolded(convolutions[name], moments))


def _add(sums: dict[str, list[Tensor]], name: str, out: Tensor) -> None:
    """Count, sum and sum of squares by channel, in double precision."""
    spots = out.detach().flatten(2)
    if spots.size(2) < 2:  # noqa: PLR2004 - a single position
        return
    wide = spots.double()
    more = [torch.tensor(float(spots.size(0) * spots.size(2))), wide.sum((0, 2)), wide.square().sum((0, 2))]
    sums[name] = [a + b for a, b in zip(sums[name], more, strict=True)] if name in sums else more


def _moments(count: Tensor, total: Tensor, squares: Tensor) -> Statistics:
    mean = total / count.to(total)
    var = (squares / count.to(total) - mean.square()).clamp(min=0.0)
    return mean.float().cpu(), var.float().cpu()
