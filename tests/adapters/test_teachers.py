"""CoTTA, PETAL and RMT: what their algorithm boxes say, one line at a time."""

from collections.abc import Iterator
from math import log

import pytest
import torch
from nets import images, tiny_cnn, tiny_vit
from torch import Tensor, nn
from torch.nn import functional

import adapters
from adapters import Adapter
from adapters.cotta import Cotta, CottaOptions
from adapters.parts.dice import Dice
from adapters.parts.network import Network
from adapters.parts.views import answers, views
from adapters.petal import Petal, PetalOptions, PetalPrior, quantile, swag
from adapters.rmt import Rmt, RmtOptions, RmtPrior, contrastive_loss, estimate_prototypes

PLAIN = {"view_kind": "identity", "views": 2, "augment_below": 2.0}


def tensors(thing: object, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that can be reached from ``thing``."""
    if id(thing) in seen or isinstance(thing, type | torch.Generator | torch.device | torch.dtype):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
        yield from tensors(thing.grad if thing.is_leaf else None, seen)
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from tensors(key, seen)
            yield from tensors(value, seen)
    elif isinstance(thing, list | tuple | set):
        for value in thing:
            yield from tensors(value, seen)
    elif hasattr(thing, "__dict__"):
        yield from tensors(vars(thing), seen)


def held(adapter: Adapter) -> int:
    """Bytes of all storages that an adapter, its classifier and its optimizer hold together."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(adapter, set())}
    return sum(storages.values())


@pytest.mark.parametrize("net", [tiny_cnn, tiny_vit])
def test_cotta_holds_six_times_the_parameters(net: type) -> None:
    classifier = net()
    parameters = sum(p.numel() * p.element_size() for p in classifier.parameters())
    rest = sum(b.numel() * b.element_size() for b in classifier.buffers()) + 5200  # the dice weigh 5056 bytes
    adapter = adapters.build("cotta", classifier, CottaOptions(views=2))
    for seed in range(2):
        adapters.step(adapter, images(8, seed=seed))
    adapter.rewind()
    adapters.step(adapter, images(8))
    assert 5.9 * parameters < held(adapter) < 6 * parameters + rest


def test_petal_adds_its_belief_and_no_copy_of_it() -> None:
    classifier = tiny_cnn()
    parameters = sum(p.numel() * p.element_size() for p in classifier.parameters())
    weights = torch.cat([p.detach().reshape(-1) for p in classifier.parameters()])
    adapter = adapters.build("petal", classifier, PetalOptions(views=2), PetalPrior(weights, weights.square()))
    adapters.step(adapter, images(8))
    assert held(adapter) < 8.1 * parameters


@pytest.mark.parametrize("at_once", [1, 16, 20, 1000])
def test_views_that_share_a_pass_are_normalized_each_by_itself(at_once: int) -> None:
    classifier = tiny_cnn().double()
    network = Network(classifier)
    batch = images(8).double()
    together = answers(network, views(batch, 5, Dice(0, torch.device("cpu")), 1.0), at_once)
    alone = torch.stack([network(v) for v in views(batch, 5, Dice(0, torch.device("cpu")), 1.0)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_cotta_averages_over_views_only_where_the_source_is_unsure() -> None:
    sure, unsure = (adapters.build("cotta", tiny_cnn(), CottaOptions(views=3, augment_below=b)) for b in (0.0, 2.0))
    batch = images(8)
    plain = sure.predict(batch)
    assert torch.equal(adapters.step(sure, batch).logits, plain)
    outcome = adapters.step(unsure, batch)
    assert not torch.equal(outcome.logits, plain)
    assert (outcome.signals["augmented"], 0.2 <= outcome.signals["anchor_confidence"] <= 1.0) == (1.0, True)


def test_a_teacher_of_momentum_one_stands_still_and_a_rate_of_one_restores_all() -> None:
    options = CottaOptions(views=1, teacher_momentum=1.0, restore_rate=1.0)
    adapter = adapters.build("cotta", tiny_cnn(), options)
    assert isinstance(adapter, Cotta)
    before = adapter.teacher.network.learns.values.clone()
    outcome = adapters.step(adapter, images(8))
    assert torch.equal(adapter.teacher.network.learns.values, before)
    assert torch.equal(adapter.student.learns.values, adapter.student.source.values)
    assert outcome.signals["restored_ratio"] == 1.0


def test_the_restored_share_is_the_rate() -> None:
    for rate in (0.01, 0.9):
        adapter = adapters.build("cotta", tiny_cnn(), CottaOptions(views=1, restore_rate=rate))
        assert adapters.step(adapter, images(8)).signals["restored_ratio"] == pytest.approx(rate, rel=0.1)


def test_cotta_restores_after_the_teacher_has_followed() -> None:
    adapter = adapters.build("cotta", tiny_cnn(), CottaOptions(views=1, teacher_momentum=0.5, restore_rate=1.0))
    assert isinstance(adapter, Cotta)
    adapters.step(adapter, images(8))
    assert not torch.equal(adapter.teacher.network.learns.values, adapter.student.source.values)


@pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 0.5, 0.77, 1.0])
def test_quantile_is_the_interpolated_one(share: float) -> None:
    for seed in range(20):
        dice = torch.Generator().manual_seed(seed)
        n = int(torch.randint(1, 40, (), generator=dice))
        values = torch.randint(0, 8, (n,), generator=dice).double()
        assert quantile(values, share) == torch.quantile(values, share)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_petal_restores_the_elements_whose_gradient_was_least(share: float) -> None:
    adapter = adapters.build("petal", tiny_cnn(), PetalOptions(**PLAIN, restored_share=share))
    assert isinstance(adapter, Petal)
    outcome = adapters.step(adapter, images(8))
    fisher = adapter.student.learns.gradient.square()
    least = fisher < torch.quantile(fisher, share)
    values, source = adapter.student.learns.values, adapter.student.source.values
    assert torch.equal(values[least], source[least])
    stepped = ~least & (fisher > 1e-10)  # far below, Adam's steps are lost in rounding
    assert bool((values[stepped] != source[stepped]).all())
    assert outcome.signals["restored_ratio"] == pytest.approx(float(least.float().mean()))


def test_petal_is_pulled_toward_the_belief_by_its_precision() -> None:
    classifier = tiny_cnn().double()
    weights = torch.cat([p.detach().reshape(-1) for p in classifier.parameters()])
    belief = PetalPrior(weights + 0.1, torch.full_like(weights, 0.5).index_fill(0, torch.tensor([0]), -1e-9))
    adapter = adapters.build("petal", classifier, PetalOptions(**PLAIN, prior_weight=0.01), belief)
    assert isinstance(adapter, Petal)
    surprise = adapter.surprise()
    expected = 0.5 * 0.01 / (0.5 + 1e-6) * (weights.numel() - 1) + 0.5 * 0.01 / 1e-6
    assert float(surprise.detach()) == pytest.approx(expected)
    adapter.student.learns.gradient.zero_()
    surprise.backward()
    assert float(adapter.student.learns.gradient[1]) == pytest.approx(-0.1 / (0.5 + 1e-6))
    assert adapters.step(adapter, images(8)).signals["anchor_loss"] == pytest.approx(0.01 * expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_belief_fits_whatever_the_memory_format(layout: torch.memory_format) -> None:
    classifier = tiny_cnn()
    rows = torch.cat([p.detach().reshape(-1) for p in classifier.parameters()])
    classifier.network.to(memory_format=layout)
    adapter = adapters.build("petal", classifier, PetalOptions(**PLAIN), PetalPrior(rows, torch.ones_like(rows)))
    assert isinstance(adapter, Petal)
    assert float(adapter.surprise().detach()) == 0.0
    with pytest.raises(ValueError, match="elements"):
        adapters.build("petal", classifier, PetalOptions(**PLAIN), PetalPrior(rows[1:], rows[1:]))


def test_swag_is_mean_and_variance_of_the_snapshots() -> None:
    def epochs(count: int) -> list[list[tuple[Tensor, Tensor]]]:
        return [[(images(8, seed=s), torch.arange(8) % 5)] for s in range(count)]

    def snapshot(count: int) -> Tensor:
        network = tiny_cnn().network.requires_grad_(True).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        for ((batch, labels),) in epochs(count):
            optimizer.zero_grad()
            functional.cross_entropy(network((batch - 0.5) / 0.25), labels).backward()
            optimizer.step()
        return torch.cat([p.detach().reshape(-1) for p in network.parameters()])

    belief = swag(tiny_cnn(), epochs(3))
    snapshots = torch.stack([snapshot(count) for count in (1, 2, 3)])
    torch.testing.assert_close(belief.mean, snapshots.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(belief.variance, snapshots.var(0, correction=0), rtol=1e-2, atol=1e-7)
    with pytest.raises(ValueError, match="two epochs"):
        swag(tiny_cnn(), epochs(1))


def test_contrast_is_the_paper_equation() -> None:
    dice = torch.Generator().manual_seed(0)
    kin = torch.randn(4, 3, 6, dtype=torch.float64, generator=dice)
    rows = [(i, functional.normalize(kin[i, v], dim=0)) for i in range(4) for v in range(3)]
    total = 0.0
    for a, (image, one) in enumerate(rows):
        others = [float(one @ other) / 0.1 for b, (_, other) in enumerate(rows) if b != a]
        below = log(sum(torch.tensor(others, dtype=torch.float64).exp().tolist()))
        own = [float(one @ other) / 0.1 for b, (i, other) in enumerate(rows) if b != a and i == image]
        total += -0.5 * sum(s - below for s in own)
    assert float(contrastive_loss(kin, 0.1)) == pytest.approx(total / len(rows))


def test_prototypes_are_class_means_and_every_class_needs_an_image() -> None:
    classifier = tiny_cnn()
    batches = [(images(10, seed=s), (torch.arange(10) % 5).to(torch.uint8)) for s in (1, 2)]
    prototypes = estimate_prototypes(classifier, batches).prototypes
    network = Network(classifier)
    features = torch.cat([network.with_features(batch)[1] for batch, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    for c in range(5):
        torch.testing.assert_close(prototypes[c], features[labels == c].mean(0))
    with pytest.raises(ValueError, match=r"class \[4\]"):
        estimate_prototypes(classifier, [(images(8), torch.arange(8) % 4)])


def test_rmt_learns_from_what_it_has() -> None:
    classifier = tiny_cnn()
    replayed = (images(10) * 255).round().to(torch.uint8)
    known = RmtPrior(estimate_prototypes(classifier, [(images(10), torch.arange(10) % 5)]).prototypes)
    everything = RmtPrior(known.prototypes, replayed, (torch.arange(10) % 5).to(torch.uint8))
    signals = [adapters.step(adapters.build("rmt", classifier, None, p), images(8)).signals
               for p in (None, known, everything)]  # fmt: skip
    assert [s["contrastive_loss"] > 0 for s in signals] == [False, True, True]
    assert [s["source_loss"] > 0 for s in signals] == [False, False, True]


def test_the_projector_is_remembered_and_born_by_its_seed() -> None:
    one, other = (adapters.build("rmt", tiny_cnn(), RmtOptions(projection=8), None, seed) for seed in (0, 1))
    assert isinstance(one, Rmt)
    assert isinstance(one.projector[0], nn.Linear)
    assert one.projector[0].weight.shape == (8, 64)
    names = {name for name in one.dump() if name.startswith("projector")}
    assert len(names) == 4
    assert all(not torch.equal(one.dump()[n], other.dump()[n]) for n in names)
