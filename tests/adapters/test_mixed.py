"""Mixed precision: what differs is rounding; what learns, is remembered or leaves is in float32 as ever."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from nets import images, tiny_cnn, tiny_vit
from samples import SAMPLES, make, prior_of
from test_group_norm import CODE
from torch import nn

import adapters
from adapters import METHODS, Adapter, Classifier
from adapters.parts.network import Network
from adapters.parts.norms import (
    Rule,
    averaged,
    by_group,
    by_part,
    from_batch,
    from_source,
    instance_aware,
    mixed,
    moments,
    normalizing,
    pseudo_counted,
    robust,
)

NETS: dict[str, Callable[[], Classifier]] = {"cnn": tiny_cnn, "vit": tiny_vit}
ROWS = [(name, net) for name in METHODS for net in NETS if not adapters.unmet(name, NETS[net](), SAMPLES[name].prior)]


def halved(classifier: Classifier) -> Classifier:
    mean, std = (buffer.flatten().tolist() for buffer in (classifier.mean, classifier.std))
    return Classifier(classifier.network, mean, std, head=classifier.head, mixed=torch.bfloat16)


def pair(name: str, net: str) -> tuple[Adapter, Adapter]:
    """The method in float32 and in mixed precision, with the same knowledge of the source."""
    variant, whole, half = next(iter(SAMPLES[name].variants.values())), NETS[net](), NETS[net]()
    prior_of(name, whole)
    return make(name, variant, whole), make(name, variant, halved(half))


@pytest.mark.parametrize(("name", "net"), ROWS)
def test_a_method_answers_as_in_float32_but_for_rounding_and_remembers_the_same_tensors(name: str, net: str) -> None:
    whole, half = pair(name, net)
    for seed in range(3):
        want, got = (adapters.step(adapter, images(12, seed=seed)).logits for adapter in (whole, half))
        assert got.dtype == torch.float32
        if name != "source":
            assert not torch.equal(got, want)
        assert (got - want).abs().max() < 0.1 * want.abs().max()
    said = [{key: (t.dtype, t.shape) for key, t in adapter.dump().items()} for adapter in (whole, half)]
    assert list(said[0].items()) == list(said[1].items())
    half.load(whole.dump())
    want, got = (adapter.predict(images(12, seed=9)) for adapter in (whole, half))
    assert (got - want).abs().max() < 0.05 * want.abs().max()


@pytest.mark.parametrize("net", NETS)
def test_maps_compute_in_bfloat16_and_the_head_does_not(net: str) -> None:
    classifier, seen = halved(NETS[net]()), {}
    for name, module in classifier.network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.dtype}))
    logits, features = classifier.with_features(images(4))
    assert seen.pop(classifier.head) == logits.dtype == features.dtype == torch.float32
    assert set(seen.values()) == {torch.bfloat16}


class Named(nn.Conv2d):
    """A convolution of somebody's own."""


def test_strided_depthwise_convolutions_compute_in_float32_and_keep_their_names() -> None:
    body = [nn.Conv2d(3, 8, 3), Named(8, 8, 3, 2, groups=8), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network, seen = nn.Sequential(*body, nn.Linear(8, 4)), []
    before = list(network.state_dict())
    classifier = Classifier(network, mixed=torch.bfloat16)
    weight = network[1].weight
    expected = nn.functional.conv2d(torch.ones(2, 8, 5, 5), weight, network[1].bias, 2, groups=8)
    network[1].register_forward_hook(lambda _, given, out: seen.append((given[0].dtype, out.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network[1](torch.ones(2, 8, 5, 5)), expected)
    classifier(images(4))
    assert seen == [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16)]
    assert list(network.state_dict()) == before
    assert isinstance(network[1], Named)
    assert network[1].weight is weight


RULES: dict[str, Rule] = {
    "source": from_source, "batch": from_batch, "parts": by_part(2), "shares": mixed(0.3), "counts": pseudo_counted(8),
    "running": averaged(0.1), "robust": robust(0.3), "instance": instance_aware(1.0),
    "groups": by_group(torch.arange(8) % 2, {}),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False)], ids=["affine", "plain"])
def test_norms_take_their_statistics_in_float32(rule: str, norm: nn.Module) -> None:
    torch.manual_seed(0)
    network = Network(Classifier(nn.Sequential(norm, nn.Flatten(), nn.Linear(48, 2))))
    layer, given = network.classifier.network[0], 100.0 + torch.randn(8, 3, 4, 4).bfloat16()
    with normalizing(network, RULES[rule]):
        want, got = layer(given.float()), layer(given)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=2**-8, atol=1e-3)
    for tensor in layer.proposed or ():
        assert tensor.dtype == torch.float32


def test_statistics_are_those_of_the_wide_images() -> None:
    given = (100.0 + torch.randn(8, 3, 4, 4)).bfloat16()
    for got, want in zip(moments(given), moments(given.float()), strict=True):
        torch.testing.assert_close(got, want)


def test_tent_learns_in_networks_with_group_norm() -> None:
    code = CODE.replace("nn.Linear(8, 4))", "nn.Linear(8, 4)), mixed=torch.bfloat16")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (said.returncode, said.stdout.strip()) == (0, "True"), said.stderr


def test_it_can_be_left_for_a_while() -> None:
    whole, half = tiny_cnn(), halved(tiny_cnn())
    with half.unmixed():
        torch.testing.assert_close(half(images(4)), whole(images(4)), rtol=0, atol=0)
    assert not torch.equal(half(images(4)), whole(images(4)))


def test_it_is_no_use_to_a_network_in_float64() -> None:
    with pytest.raises(ValueError, match="mixed"):
        Classifier(tiny_cnn().network.double(), mixed=torch.bfloat16)
