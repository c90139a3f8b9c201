"""EcoTTA and ViDA: where grafts go, what they add, and that a newborn one adds nothing."""

import copy

import pytest
import torch
from nets import CifarResNet, images, tiny_cnn, tiny_vit
from torch import Tensor, nn
from torch.nn import functional

import adapters
from adapters import Classifier, ecotta, vida
from adapters.ecotta import Ecotta, EcottaOptions, EcottaPrior
from adapters.norm_only import NormOnlyOptions
from adapters.parts.dice import Dice
from adapters.parts.dual_rank import DualRank, balanced, grow
from adapters.parts.grafts import MetaGraft, Recomputed
from adapters.parts.network import Network
from adapters.parts.surgery import Part, attention_or_convolutions, divide, parts_of, residual_blocks
from adapters.vida import Vida, VidaOptions, VidaPrior

CPU = torch.device("cpu")


def labelled(count: int, size: int = 20) -> list[tuple[Tensor, Tensor]]:
    """Images whose class is their strongest color."""
    batches = []
    for seed in range(count):
        batch = images(size, seed=100 + seed)
        batches.append((batch, batch.mean((2, 3)).argmax(1)))
    return batches


def error(adapter: adapters.Adapter) -> float:
    """Cross-entropy on what the grafts were warmed up on."""
    return sum(float(functional.cross_entropy(adapter.predict(x), y)) for x, y in labelled(4))


@pytest.mark.parametrize(
    ("blocks", "sizes"),
    [(12, [2, 2, 4, 4]), (18, [3, 3, 6, 6]), (16, [3, 3, 5, 5]), (9, [2, 1, 3, 3]), (2, [1, 1]), (1, [1])],
)
def test_partitions_are_the_published_ones(blocks: int, sizes: list[int]) -> None:
    assert divide(blocks) == sizes


def test_blocks_are_found_and_their_shapes() -> None:
    assert residual_blocks(CifarResNet(14)) == [f"layer{stage}.{i}" for stage in (1, 2, 3) for i in (0, 1)]
    parts = parts_of(Classifier(CifarResNet(14)))
    assert [len(part.blocks) for part in parts] == [1, 1, 2, 2]
    assert [(p.channels_in, p.channels_out, p.stride) for p in parts] == [
        (16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 64, 2),
    ]  # fmt: skip


def test_blocks_of_a_plain_network_have_to_be_named() -> None:
    layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, 1, 1), nn.AdaptiveAvgPool2d(1)]
    classifier = Classifier(nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 5)))
    with pytest.raises(ValueError, match="name its blocks"):
        adapters.build("ecotta", classifier)
    with pytest.raises(ValueError, match="no module 'nowhere'"):
        adapters.build("ecotta", classifier, EcottaOptions(blocks=("nowhere",)))
    with pytest.raises(ValueError, match="does not divide"):
        adapters.build("ecotta", classifier, EcottaOptions(blocks=("0", "2"), partition=(3,)))
    adapter = adapters.build("ecotta", classifier, EcottaOptions(blocks=("0", "2")))
    assert torch.isfinite(adapters.step(adapter, images(8)).logits).all()


def test_a_graft_is_the_paper_equation() -> None:
    graft = MetaGraft(Part(("a",), 3, 4, 2), torch.empty(0, dtype=torch.float64), Dice(0, CPU))
    with torch.no_grad():
        for parameter in graft.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    graft.normalize()
    before, x = torch.randn(5, 3, 8, 8).double(), torch.randn(5, 4, 4, 4).double()

    def norm(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        return y * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)

    convolved = functional.conv2d(before, graft.conv.weight, stride=2, padding=1)
    expected = norm(x, graft.keeps.weight, graft.keeps.bias)
    expected = expected + norm(convolved, graft.adds.weight, graft.adds.bias).clamp(min=0)
    torch.testing.assert_close(graft(before, x), expected)


def test_newborn_grafts_change_nothing_and_can_learn() -> None:
    plain = adapters.build("norm", tiny_cnn(), NormOnlyOptions(mode="batch"))
    batch = images(12)
    for name, options in (("ecotta", EcottaOptions(entropy_margin=1.0)), ("vida", VidaOptions(views=2))):
        adapter = adapters.build(name, tiny_cnn(), options)
        torch.testing.assert_close(adapter.predict(batch), plain.predict(batch), rtol=0, atol=1e-5)
        before = adapter.predict(batch)
        for _ in range(3):
            adapters.step(adapter, batch)
        assert not torch.equal(adapter.predict(batch), before)


def test_settled_grafts_leave_the_images_they_settled_on_as_they_were() -> None:
    adapter = adapters.build("ecotta", tiny_cnn().double())
    assert isinstance(adapter, Ecotta)
    before = adapter.predict(images(12))
    adapter.network.settle(images(12))
    torch.testing.assert_close(adapter.predict(images(12)), before, rtol=0, atol=1e-9)
    assert not torch.allclose(adapter.predict(images(12, seed=1)), before)


@pytest.mark.parametrize("name", ["grafts.0.conv.weight", "grafts.2.keeps.bias", "grafts.1.adds.weight"])
def test_the_anchor_teaches_each_graft_by_itself(name: str) -> None:
    prior = ecotta.warm_up(tiny_cnn(), [labelled(4)])
    adapter = adapters.build("ecotta", tiny_cnn().double(), EcottaOptions(recompute=name.startswith("grafts.0")), prior)
    assert isinstance(adapter, Ecotta)
    network, weight = adapter.network, adapter.network.get_parameter(name)
    network.learns.gradient.zero_()
    _, trail = network(images(8))
    network.departure(trail).backward()
    given = [(before.detach(), x.detach()) for before, x in trail]
    index = int(name.split(".")[1])
    assert weight.grad is not None
    element, epsilon = int(weight.grad.abs().argmax()), 1e-6
    moved = []
    with torch.no_grad():
        for sign in (1, -1):
            weight.view(-1)[element] += sign * epsilon
            moved.append(float((network.grafts[index](*given[index]) - given[index][1]).abs().mean()))
            weight.view(-1)[element] -= sign * epsilon
    assert float(weight.grad.view(-1)[element]) == pytest.approx((moved[0] - moved[1]) / (2 * epsilon), rel=1e-4)


def test_recomputing_changes_no_gradient() -> None:
    prior = ecotta.warm_up(tiny_cnn(), [labelled(2)])
    kept, recomputed = (
        adapters.build("ecotta", tiny_cnn().double(), EcottaOptions(recompute=r), prior) for r in (False, True)
    )
    for seed in range(3):
        one, other = (adapters.step(adapter, images(8, seed=seed)).logits for adapter in (kept, recomputed))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_a_block_that_takes_more_than_images_can_be_recomputed() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, by: float = 1.0) -> Tensor:
            return (x * by).relu()

    x = torch.randn(3, requires_grad=True)
    block = Recomputed(Scaled())
    assert torch.equal(block(x, by=2.0), (2 * x).relu())
    block(x, by=2.0).sum().backward()
    assert torch.equal(x.grad, 2.0 * (x > 0))


def test_recomputing_keeps_less_than_half() -> None:
    def kept(recompute: bool) -> int:  # noqa: FBT001 - the option itself
        adapter = adapters.build("ecotta", tiny_cnn(), EcottaOptions(recompute=recompute))
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            adapters.answer(adapter, images(16))
        return sum(sizes.values())

    assert kept(True) < 0.5 * kept(False)


def test_warming_up_teaches_the_source() -> None:
    cold = error(adapters.build("ecotta", tiny_cnn()))
    parts = ecotta.warm_up(tiny_cnn(), [labelled(4)] * 10, lr=0.5)
    assert error(adapters.build("ecotta", tiny_cnn(), None, parts)) < 0.9 * cold
    ranks = vida.warm_up(tiny_cnn(), [labelled(4)] * 10, VidaOptions(rank_high=8), lr=1e-2)
    assert error(adapters.build("vida", tiny_cnn(), VidaOptions(rank_high=8), ranks)) < 0.9 * cold


def test_grafts_of_another_network_are_refused() -> None:
    for name, prior in (("ecotta", EcottaPrior(torch.zeros(7))), ("vida", VidaPrior(torch.zeros(7)))):
        with pytest.raises(ValueError, match="elements"):
            adapters.build(name, tiny_cnn(), None, prior)


def test_low_ranks_sit_on_attention_or_else_on_convolutions() -> None:
    assert [name for _, name in attention_or_convolutions(tiny_vit())] == ["weight"] * 4
    assert len(attention_or_convolutions(tiny_cnn())) == 7
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert [name for _, name in attention_or_convolutions(encoder)] == ["in_proj_weight", "weight"]
    with pytest.raises(ValueError, match="nothing here can learn"):
        adapters.build("vida", Classifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 5))))


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(6, 4, 3, 2, 1), nn.Conv2d(6, 4, 3, groups=2)])
def test_dual_ranks_add_both_products_by_their_scales(layer: nn.Module) -> None:
    layer = layer.double().requires_grad_(False)
    shape = (3, 6) if isinstance(layer, nn.Linear) else (3, 6, 8, 8)
    x = torch.randn(shape, dtype=torch.float64)
    weight = torch.as_tensor(layer.weight).clone()
    graft = DualRank(weight, 1, 5, Dice(0, CPU))
    with torch.no_grad():
        graft.up.copy_(torch.randn(graft.up.shape))
    low, high = torch.tensor(0.7, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)
    graft.scales = (low, high)
    expected = weight.flatten(1) + 0.7 * graft.up[:, :1] @ graft.down[:1] + 1.3 * graft.up[:, 1:] @ graft.down[1:]
    torch.testing.assert_close(graft(weight), expected.view(weight.shape))
    other = copy.deepcopy(layer)
    other.load_state_dict({**other.state_dict(), "weight": expected.detach().view(weight.shape)})
    nn.utils.parametrize.register_parametrization(layer, "weight", graft)
    torch.testing.assert_close(layer(x), other(x))
    assert float(graft.down[0].detach().std()) > 5 * float(graft.down[1:].detach().std())


def test_both_scales_really_change() -> None:
    adapter = adapters.build("vida", tiny_cnn(), VidaOptions(rank_high=4))
    assert isinstance(adapter, Vida)
    for doubt, (low, high) in ((0.02, (1.02, 0.98)), (0.2, (0.8, 1.2))):
        assert [float(s) for s in adapter.allot(torch.tensor(doubt))] == pytest.approx([low, high])
    grafts = [m for m in adapter.modules() if isinstance(m, DualRank)]
    with balanced(adapter, torch.tensor(0.8), torch.tensor(1.2)):
        assert {tuple(round(float(s), 6) for s in graft.scales) for graft in grafts} == {(0.8, 1.2)}
    assert {tuple(float(s) for s in graft.scales) for graft in grafts} == {(1.0, 1.0)}
    with torch.no_grad():
        adapter.grafts.values.add_(0.05)
    batch, answers = images(6), []
    for scales in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5)):
        with balanced(adapter, *map(torch.tensor, scales)):
            answers.append(adapter.student(batch))
    assert not torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


def test_doubt_is_a_tenth_of_the_variance_over_views_and_is_remembered() -> None:
    adapter = adapters.build("vida", tiny_cnn(), VidaOptions(views=2, view_kind="flip", rank_high=4))
    assert isinstance(adapter, Vida)
    batch = images(6)
    one, other = adapter.teacher(batch), adapter.teacher(batch.flip(3))
    expected = 0.1 * float(((one - other) ** 2 / 2).mean())
    assert adapters.step(adapter, batch).signals["uncertainty"] == pytest.approx(expected, rel=1e-4)
    assert float(adapter.dump()["doubt"]) == pytest.approx(expected, rel=1e-4)


def test_attention_of_torch_itself_is_grafted() -> None:
    class Seer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    torch.manual_seed(0)
    classifier = Classifier(Seer())
    plain = classifier(images(4))
    network = Network(classifier)
    grafts = grow(network, 1, 4, Dice(0, CPU))
    torch.testing.assert_close(network(images(4)), plain)
    with torch.no_grad():
        grafts.values.add_(0.1)
    assert not torch.allclose(network(images(4)), plain)
    assert torch.equal(classifier(images(4)), plain)
    adapter = adapters.build("vida", classifier, VidaOptions(rank_high=4, views=2))
    assert torch.isfinite(adapters.step(adapter, images(4)).logits).all()
