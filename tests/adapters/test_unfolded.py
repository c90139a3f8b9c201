"""Norms that were folded into convolutions, given back: nothing changes at birth, and methods do as they would have."""

import copy

import pytest
import torch
from nets import images, tiny_cnn, tiny_vit
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import adapters
from adapters import Classifier
from adapters.parts.unfolded import Unfolded, candidates, estimate, unfold

SOURCE = [images(32, seed=seed) for seed in range(4)]


def settled() -> Classifier:
    """A network whose norms know the statistics of the source exactly."""
    classifier = copy.deepcopy(tiny_cnn())
    norms = [m for m in classifier.network.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:  # one after the other: each sees what the settled ones before it give
            norm.weight.uniform_(-1.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
        for norm in norms:
            seen = []
            hook = norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # noqa: B023 - used at once
            classifier(torch.cat(SOURCE))
            hook.remove()
            norm.running_mean.copy_(seen[0].mean((0, 2, 3)))
            norm.running_var.copy_(seen[0].var((0, 2, 3), correction=0))
    return classifier


def folded(classifier: Classifier) -> Classifier:
    """The same network as an exporter writes it."""
    classifier = copy.deepcopy(classifier)
    for module in list(classifier.network.modules()):
        for number in ("1", "2"):
            if hasattr(module, f"bn{number}"):
                fused = fuse_conv_bn_eval(getattr(module, f"conv{number}"), getattr(module, f"bn{number}"))
                setattr(module, f"conv{number}", fused)
                setattr(module, f"bn{number}", nn.Identity().eval())
    return classifier


def unfolded(classifier: Classifier) -> Classifier:
    classifier = copy.deepcopy(classifier)
    unfold(classifier.network, estimate(classifier, SOURCE))
    return classifier


def test_newborn_it_answers_as_before() -> None:
    original = settled()
    grown = unfolded(folded(original))
    assert sum(isinstance(m, Unfolded) for m in grown.network.modules()) == 7
    x = images(16, seed=9)
    assert torch.allclose(grown(x), original(x), atol=1e-4)
    assert not any(p.requires_grad for p in grown.parameters())
    assert not any(m.training for m in grown.network.modules())


@pytest.mark.parametrize("method", ["norm", "tent", "eata", "sar", "roid", "rotta"])
def test_a_method_of_norms_does_as_it_would_have_on_the_original(method: str) -> None:
    options = adapters.METHODS[method].options
    chosen = options(mode="batch") if method == "norm" else options()
    original = settled()
    pair = [adapters.build(method, each, chosen) for each in (original, unfolded(folded(original)))]
    for seed in range(5):
        one, other = (adapters.step(each, images(32, seed=20 + seed)).logits for each in pair)
        assert float((one - other).abs().max()) < 1e-2 * float(one.abs().max())


def test_without_it_such_methods_are_refused_and_the_remedy_named() -> None:
    bare = folded(settled())
    for method in ("norm", "tent", "rotta", "ecotta"):
        assert "`tta-daemon prepare` gives them back" in adapters.unmet(method, bare)[0]
        assert not adapters.unmet(method, unfolded(bare))
    assert not adapters.unmet("cotta", bare)


class Squeezed(nn.Module):
    """A convolution, and two that weigh its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.less, self.more = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.plain, self.head = nn.Conv2d(8, 8, 1, bias=False), nn.Linear(8, 3)

    def forward(self, x):
        x = self.plain(self.conv(x))
        return self.head((x * torch.sigmoid(self.more(self.less(x.mean((2, 3), keepdim=True))))).mean((2, 3)))


def test_convolutions_that_had_no_norm_get_none() -> None:
    classifier = Classifier(Squeezed())
    assert set(candidates(classifier.network)) == {"conv", "less", "more"}
    assert set(estimate(classifier, SOURCE)) == {"conv"}
    for whole in (tiny_cnn(), tiny_vit()):
        assert not estimate(whole, SOURCE)


def test_statistics_of_another_network_are_refused() -> None:
    network = Squeezed()
    for name, width in (("conv", 9), ("elsewhere", 8), ("plain", 8)):
        with pytest.raises(ValueError, match=f"no convolution '{name}' of {width} channels"):
            unfold(network, {name: (torch.zeros(width), torch.ones(width))})
    assert not any(isinstance(m, Unfolded) for m in network.modules())


def test_a_channel_that_never_varies_is_left_alone_and_stays_finite() -> None:
    classifier = Classifier(Squeezed())
    with torch.no_grad():
        classifier.network.conv.weight[0] = 0.0
    grown = unfolded(classifier)
    assert torch.allclose(grown(SOURCE[0]), classifier(SOURCE[0]), atol=1e-5)
    adapter = adapters.build("tent", grown)
    for x in SOURCE:
        assert torch.isfinite(adapters.step(adapter, x).logits).all()
