"""Objectives, norms and parts against the papers' equations, written as slow loops over samples."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nets import images, tiny_cnn, tiny_vit
from samples import make
from torch import Tensor, nn
from torch.nn import functional

import adapters
from adapters.eata import estimate_fisher
from adapters.parts.anchors import weighted_distance
from adapters.parts.descent import Descent
from adapters.parts.dice import Dice
from adapters.parts.memory_bank import Keeping, MemoryBank
from adapters.parts.network import Choice, Network, everything, norm_affine
from adapters.parts.norms import (
    StreamNorm,
    averaged,
    from_batch,
    from_running,
    from_source,
    instance_aware,
    keep,
    mixed,
    proposals,
    pseudo_counted,
    robust,
)
from adapters.parts.objectives import (
    cross_entropy,
    entropy,
    generalized_cross_entropy,
    mean_of,
    soft_likelihood_ratio,
    symmetric_cross_entropy,
)
from adapters.parts.source import pull, restore_at_random, restore_where
from adapters.parts.teacher import Teacher
from adapters.roid import stretch

quick = settings(max_examples=25, deadline=None)
sizes = st.tuples(st.integers(1, 6), st.integers(2, 7))


def tables(shape: tuple[int, int]) -> st.SearchStrategy[Tensor]:
    """Logits, N x C."""
    return arrays("float64", shape, elements=st.floats(-12, 12)).map(torch.from_numpy)


logits = sizes.flatmap(tables)
two_logits = sizes.flatmap(lambda shape: st.tuples(tables(shape), tables(shape)))


def soft(row: Tensor) -> list[float]:
    """The softmax of one row."""
    top = max(row.tolist())
    powers = [math.exp(z - top) for z in row.tolist()]
    return [power / sum(powers) for power in powers]


def close(ours: Tensor, slow: list[float] | Tensor) -> None:
    torch.testing.assert_close(ours, torch.as_tensor(slow, dtype=torch.float64), rtol=1e-9, atol=1e-9)


# ---- objectives


@quick
@given(logits)
def test_entropy(z: Tensor) -> None:
    close(entropy(z), [-sum(p * math.log(p) for p in soft(row)) for row in z])


@quick
@given(two_logits)
def test_cross_entropy_and_its_symmetric_form(pair: tuple[Tensor, Tensor]) -> None:
    one, other = pair
    forth = [-sum(q * math.log(p) for p, q in zip(soft(a), soft(b), strict=True)) for a, b in zip(*pair, strict=True)]
    back = [-sum(p * math.log(q) for p, q in zip(soft(a), soft(b), strict=True)) for a, b in zip(*pair, strict=True)]
    close(cross_entropy(one, other), forth)
    close(symmetric_cross_entropy(one, other), [(f + b) / 2 for f, b in zip(forth, back, strict=True)])


@quick
@given(logits, st.sampled_from([0.0, 0.3, 0.8, 1.0]))
def test_generalized_cross_entropy(z: Tensor, q: float) -> None:
    best = [max(soft(row)) for row in z]
    close(generalized_cross_entropy(z, q), [-math.log(p) if q == 0 else (1 - p**q) / q for p in best])


def test_generalized_cross_entropy_learns_through_the_label_it_gave_alone() -> None:
    z = torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    generalized_cross_entropy(z, 0.8).sum().backward()
    p = soft(z[0].detach())
    close(z.grad[0], [-(p[1] ** 0.8) * ((k == 1) - p[k]) for k in range(3)])


@quick
@given(logits)
def test_soft_likelihood_ratio(z: Tensor) -> None:
    slow = []
    for row in z:
        p = [min(x, 0.99) for x in soft(row)]
        slow.append(-sum(x * math.log(x / (1 - x) + 1e-5) for x in p))
    close(soft_likelihood_ratio(z), slow)


def test_mean_over_the_selected_and_over_nobody() -> None:
    losses = torch.tensor([1.0, 2.0, 6.0])
    assert float(mean_of(losses, torch.tensor([True, False, True]))) == 3.5
    assert math.isnan(float(mean_of(losses, torch.zeros(3, dtype=torch.bool))))


@quick
@given(arrays("float64", st.integers(1, 6), elements=st.floats(-5, 5)).map(torch.from_numpy))
def test_stretching_reaches_from_zero_to_one(values: Tensor) -> None:
    low, high = min(values.tolist()), max(values.tolist())
    if high - low > 1e-9:
        close(stretch(values), [(v - low) / (high - low) for v in values.tolist()])
    assert torch.isfinite(stretch(values)).all()


# ---- norms


def layer(channels: int = 3) -> StreamNorm:
    """A norm with source statistics that are no other's."""
    generator = torch.Generator().manual_seed(5)
    norm = nn.BatchNorm2d(channels).double()
    norm.running_mean = torch.randn(channels, generator=generator, dtype=torch.float64)
    norm.running_var = torch.rand(channels, generator=generator, dtype=torch.float64) + 0.5
    norm.weight.data.copy_(torch.rand(channels, generator=generator))
    norm.bias.data.copy_(torch.rand(channels, generator=generator))
    return StreamNorm(norm, moves=True)


def activations(n: int = 4, seed: int = 0) -> Tensor:
    return 2 * torch.randn(n, 3, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1


def normalized(norm: StreamNorm, x: Tensor, mean: list[Tensor], var: list[Tensor]) -> Tensor:
    """Channel by channel."""
    channels = [(x[:, c] - mean[c]) / torch.sqrt(var[c] + norm.eps) for c in range(3)]
    return torch.stack([y * norm.weight[c] + norm.bias[c] for c, y in enumerate(channels)], 1)


def measured(x: Tensor, correction: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Mean and variance of each channel."""
    values = [x[:, c].flatten() for c in range(3)]
    means = [sum(v) / len(v) for v in values]
    return means, [sum((v - m) ** 2) / (len(v) - correction) for v, m in zip(values, means, strict=True)]


def between(norm: StreamNorm, x: Tensor, weight: float, correction: int) -> tuple[list[Tensor], list[Tensor]]:
    mean, var = measured(x, correction)
    return (
        [(1 - weight) * s + weight * b for s, b in zip(norm.mean, mean, strict=True)],
        [(1 - weight) * s + weight * b for s, b in zip(norm.var, var, strict=True)],
    )


def test_statistics_of_the_source_and_of_the_batch() -> None:
    norm, x = layer(), activations()
    close(from_source(norm, x), normalized(norm, x, list(norm.mean), list(norm.var)))
    close(from_batch(norm, x), normalized(norm, x, *measured(x)))


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_a_fixed_share_of_the_batch(weight: float) -> None:
    norm, x = layer(), activations()
    close(mixed(weight)(norm, x), normalized(norm, x, *between(norm, x, weight, correction=1)))


@pytest.mark.parametrize("n", [1, 4])
def test_the_source_counts_as_so_many_images(n: int) -> None:
    norm, x = layer(), activations(n)
    close(pseudo_counted(16.0)(norm, x), normalized(norm, x, *between(norm, x, n / (16 + n), correction=0)))


def test_running_statistics_take_a_share_of_every_batch_and_are_kept_when_told() -> None:
    norm = layer()
    for seed in range(3):
        x = activations(seed=seed)
        expected = between(norm, x, 0.1, correction=1)
        before = norm.mean.clone()
        close(averaged(0.1)(norm, x), normalized(norm, x, *expected))
        assert torch.equal(before, norm.mean)
        keep(proposals(norm))
        close(norm.mean, torch.stack(expected[0]))
        close(norm.var, torch.stack(expected[1]))


def test_the_robust_norm_and_the_gradient_through_the_share_of_the_batch() -> None:
    norm, x = layer(), activations().requires_grad_()
    expected = between(norm, x, 0.05, correction=0)
    slow = normalized(norm, x, *expected)
    ours = robust(0.05)(norm, x)
    close(ours, slow)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    close(*(torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0] for y in (ours, slow)))
    keep(proposals(norm))
    close(from_running(norm, x), normalized(norm, x, *(torch.stack(s).detach() for s in expected)))


def test_statistics_are_kept_all_or_none() -> None:
    norms = nn.Sequential(layer(), layer())
    before = [norm.mean.clone() for norm in norms]
    for norm, x in zip(norms, (activations(), activations() * torch.nan), strict=True):
        averaged(0.1)(norm, x)
    keep(proposals(norms))
    assert all(torch.equal(norm.mean, mean) for norm, mean in zip(norms, before, strict=True))


def test_an_image_keeps_the_source_statistics_unless_it_leaves_them_by_more_than_chance() -> None:
    norm, x = layer(), activations()
    close(instance_aware(1e6)(norm, x), from_source(norm, x))
    rows = []
    for image in x:
        statistics = []
        for c in range(3):
            v = image[c].flatten()
            mean, var, spread = sum(v) / 6, sum((v - sum(v) / 6) ** 2) / 6, norm.var[c] + norm.eps
            away = [
                (mean - norm.mean[c], 0.5 * (spread / 6) ** 0.5),
                (var - norm.var[c], 0.5 * spread * (2 / 5) ** 0.5),
            ]
            shrunk = [d.sign() * max(abs(d) - by, 0.0 * d) for d, by in away]
            statistics.append((norm.mean[c] + shrunk[0], max(norm.var[c] + shrunk[1], 0.0 * var)))
        rows.append(normalized(norm, image[None], *zip(*statistics, strict=True)))
    close(instance_aware(0.5)(norm, x), torch.cat(rows))


# ---- parts


def student(choose: Choice = norm_affine) -> Network:
    """A network whose every learning element has left the source."""
    network = Network(tiny_cnn().double(), choose)
    network.learns.values.add_(torch.linspace(-1, 1, network.learns.values.numel()))
    return network


def test_a_weighted_distance_pulls_each_element() -> None:
    network = Network(tiny_cnn().double(), norm_affine)
    learns = network.learns
    weight = torch.linspace(0, 2, learns.values.numel(), dtype=torch.float64)
    center = learns.values - torch.linspace(-1, 1, learns.values.numel(), dtype=torch.float64)
    descend = Descent(learns)
    distance = weighted_distance(learns, center, weight)
    slow = [(w, float(x - c)) for w, x, c in zip(weight.tolist(), learns.values, center, strict=True)]
    assert float(distance.detach()) == pytest.approx(sum(w * d * d for w, d in slow))
    assert descend.backward(distance)
    close(learns.gradient, [2 * w * d for w, d in slow])


def test_an_element_is_restored_at_random_at_the_rate_that_was_asked_for() -> None:
    network, dice = student(everything), Dice(0, torch.device("cpu"))
    source, before = network.source.values, network.learns.values.clone()
    counts = torch.zeros(before.numel())
    rounds, rate = 40, 0.3
    for _ in range(rounds):
        network.learns.values.copy_(before)
        restore_at_random(network, rate, dice)
        back = network.learns.values == source
        assert torch.equal(network.learns.values[~back], before[~back])
        counts += back & (before != source)
    total = rounds * int((before != source).sum())
    assert float(counts.sum()) == pytest.approx(rate * total, abs=5 * math.sqrt(total * rate * (1 - rate)))
    spread = counts[before != source].var()  # binomial, so elements do not move together
    assert float(spread) == pytest.approx(rounds * rate * (1 - rate), rel=0.05)


def test_restoring_pulling_and_following_element_by_element() -> None:
    network = student()
    source, before = network.source.values, network.learns.values.clone()
    mask = torch.arange(before.numel()) % 3 == 0
    assert restore_where(network, mask) == pytest.approx(float(mask.double().mean()), abs=1e-6)
    expected = [s if m else b for m, s, b in zip(mask, source, before, strict=True)]
    assert torch.equal(network.learns.values, torch.stack(expected))
    network.learns.values.copy_(before)
    pull(network, 0.99)
    close(network.learns.values, 0.99 * before + 0.01 * source)
    teacher = Teacher(tiny_cnn().double(), norm_affine)
    network.learns.values.copy_(before)
    for _ in range(3):
        mean = teacher.network.learns.values.clone()
        teacher.follow(network, 0.9)
        close(teacher.network.learns.values, 0.9 * mean + 0.1 * before)


class SlowMemory:
    """RoTTA's memory as its paper tells it: a list a class, one image at a time."""

    def __init__(self, capacity: int, classes: int, age_weight: float, entropy_weight: float) -> None:
        self.capacity, self.classes = capacity, classes
        self.weights = age_weight, entropy_weight
        self.shelves: list[list[list[float]]] = [[] for _ in range(classes)]  # of [image, entropy, age]

    def score(self, uncertainty: float, age: float) -> float:
        timely = self.weights[0] / (1 + math.exp(-age / self.capacity))
        return timely + self.weights[1] * uncertainty / math.log(self.classes)

    def add(self, image: float, label: int, uncertainty: float) -> None:
        sizes = [len(shelf) for shelf in self.shelves]
        if sizes[label] >= self.capacity / self.classes:
            rivals = [label]
        elif sum(sizes) < self.capacity:
            rivals = []
        else:
            rivals = [c for c in range(self.classes) if sizes[c] == max(sizes)]
        worst = None
        for c in rivals:
            for i, (_, other, age) in enumerate(self.shelves[c]):
                if worst is None or self.score(other, age) >= worst[0]:
                    worst = (self.score(other, age), c, i)
        if worst is None or worst[0] > self.score(uncertainty, 0):
            if worst is not None:
                del self.shelves[worst[1]][worst[2]]
            self.shelves[label].append([image, uncertainty, 0])
        for shelf in self.shelves:
            for item in shelf:
                item[2] += 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.1, 0.5, 2.0, 4.0])), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    st.sampled_from([(1.0, 1.0), (0.0, 1.0), (1.0, 0.0)]),
)
def test_the_memory_holds_what_one_image_at_a_time_would(
    capacity: int, stream: list[tuple[int, float]], cuts: list[int], weights: tuple[float, float]
) -> None:
    bank, slow = MemoryBank(4, torch.zeros((), dtype=torch.float64)), SlowMemory(capacity, 4, *weights)
    rows = torch.stack([functional.one_hot(torch.tensor(label), 4) * sharp for label, sharp in stream]).double()
    pictures = torch.arange(len(stream)).double().view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    for image, (row, (label, _)) in enumerate(zip(rows, stream, strict=True)):
        slow.add(image, label, float(entropy(row[None])))
    for begin, end in pairwise(sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})):
        list(bank.admit(pictures[begin:end], rows[begin:end], 7, Keeping(capacity, *weights)))
    held = [(label, *item) for label, shelf in enumerate(slow.shelves) for item in shelf]
    ours = zip(bank.labels, bank.images[:, 0, 0, 0], bank.entropies, bank.ages, strict=True)
    assert sorted(tuple(float(x) for x in item) for item in ours) == sorted(held)


def test_images_that_are_not_finite_never_enter_the_memory() -> None:
    bank = MemoryBank(3, torch.zeros(()))
    pictures, rows = torch.rand(6, 3, 2, 2), torch.randn(6, 3)
    pictures[1, 0, 0, 0], rows[4, 2] = torch.inf, torch.nan
    list(bank.admit(pictures, rows, 100, Keeping(4)))
    assert int(bank.seen) == 4
    assert torch.isfinite(bank.images).all()


# ---- methods


def test_fisher_is_the_mean_square_of_each_batch_gradient() -> None:
    classifier = tiny_vit().double()
    batches = [images(6, seed=seed).double() for seed in range(3)]
    fisher = estimate_fisher(classifier, batches).fisher
    norms = [p for m in classifier.modules() if isinstance(m, nn.LayerNorm) for p in (m.weight, m.bias)]
    total = [torch.zeros_like(p) for p in norms]
    for p in norms:
        p.requires_grad_()
    for batch in batches:
        z = classifier(batch)
        gradients = torch.autograd.grad(functional.cross_entropy(z, z.argmax(1)), norms)
        total = [square + g**2 / 3 for square, g in zip(total, gradients, strict=True)]
    close(fisher, torch.cat([t.flatten() for t in total]))


def test_eata_selects_weighs_and_grows_used_to_answers_one_image_at_a_time() -> None:
    numbers = {"lr": 0.0, "entropy_margin": 0.985, "similarity_margin": 0.9995, "fisher_weight": 0.0}
    adapter = make("eata", numbers, tiny_vit().double())
    margin, usual = 0.985 * math.log(5), None
    ratios = set()
    for seed in range(4):
        batch = images(8, seed=seed).double() * torch.linspace(0, 1, 8, dtype=torch.float64).view(-1, 1, 1, 1)
        rows = [soft(row) for row in adapter.predict(batch)]
        terms, chosen = [], []
        for p in rows:
            h = -sum(x * math.log(x) for x in p)
            cosine = 0.0 if usual is None else sum(map(math.prod, zip(p, usual, strict=True)))
            cosine /= math.hypot(*p) * math.hypot(*(usual or [1.0]))
            if h < margin and abs(cosine) < 0.9995:
                terms.append(math.exp(margin - h) * h)
                chosen.append(p)
        signals = adapters.step(adapter, batch).signals
        ratios.add(signals["selected_ratio"])
        assert signals["selected_ratio"] == pytest.approx(len(chosen) / 8)
        if chosen:
            assert signals["loss"] == pytest.approx(sum(terms) / len(terms))
            mean = [sum(column) / len(chosen) for column in zip(*chosen, strict=True)]
            usual = mean if usual is None else [0.9 * u + 0.1 * m for u, m in zip(usual, mean, strict=True)]
            close(adapter.usual, usual)
    assert len(ratios) > 1


def test_sar_climbs_and_descends_parameter_by_parameter() -> None:
    numbers = {"lr": 0.1, "radius": 0.5, "excluded": (), "entropy_margin": 2.0, "momentum": 0.0, "recover_below": 0.0}
    adapter, classifier, batch = make("sar", numbers, tiny_vit().double()), tiny_vit().double(), images(8).double()
    norms = [p for m in classifier.modules() if isinstance(m, nn.LayerNorm) for p in (m.weight, m.bias)]
    for p in norms:
        p.requires_grad_()
    start = [p.detach().clone() for p in norms]
    uphill = torch.autograd.grad(entropy(classifier(batch)).mean(), norms)
    length = math.sqrt(sum(float((g**2).sum()) for g in uphill))
    with torch.no_grad():
        for p, g in zip(norms, uphill, strict=True):
            p.add_(0.5 * g / length)
    there = torch.autograd.grad(entropy(classifier(batch)).mean(), norms)
    adapters.step(adapter, batch)
    moved = torch.cat([(p - 0.1 * g).flatten() for p, g in zip(start, there, strict=True)])
    close(adapter.network.learns.values, moved)


def test_roid_weighs_one_image_at_a_time() -> None:
    adapter = make("roid", {"lr": 0.0, "view_strength": 0.0}, tiny_vit().double())
    usual = [0.2] * 5
    for seed in range(3):
        batch = images(8, seed=seed).double() * torch.linspace(0, 1, 8, dtype=torch.float64).view(-1, 1, 1, 1)
        rows = [soft(row) for row in adapter.network(batch).detach()]
        entropies = [-sum(x * math.log(x) for x in p) for p in rows]
        diversity, certainty = [], [-h for h in entropies]
        for p in rows:
            dot = sum(x * u for x, u in zip(p, usual, strict=True))
            diversity.append(1 - dot / (math.hypot(*p) * math.hypot(*usual)))
        diversity, certainty = ([(v - min(x)) / (max(x) - min(x)) for v in x] for x in (diversity, certainty))
        loss, kept = 0.0, 0
        for p, h, d, c in zip(rows, entropies, diversity, certainty, strict=True):
            if d >= sum(diversity) / 8:
                ratio = -sum(min(x, 0.99) * math.log(min(x, 0.99) / (1 - min(x, 0.99)) + 1e-5) for x in p)
                loss += math.exp(d * c * 3) * (ratio + h) / 8  # the same view twice: cross-entropy is entropy
                kept += 1
        signals = adapters.step(adapter, batch).signals
        assert signals["loss"] == pytest.approx(loss)
        assert signals["selected_ratio"] == kept / 8
        usual = [0.9 * u + 0.1 * sum(column) / 8 for u, column in zip(usual, zip(*rows, strict=True), strict=True)]
        close(adapter.usual, usual)


def test_rotta_weighs_by_age_and_distills_the_teacher_on_memory() -> None:
    adapter = make("rotta", {"lr": 0.0, "capacity": 8, "update_every": 8, "view_strength": 0.0}, tiny_vit().double())
    adapters.step(adapter, images(5).double())
    signals = adapters.step(adapter, images(3, seed=1).double()).signals
    rows = [soft(row) for row in adapter.predict(adapter.bank.images)]
    slow = 0.0
    for p, age in zip(rows, adapter.bank.ages.tolist(), strict=True):
        slow += math.exp(-age / 8) / (1 + math.exp(-age / 8)) * -sum(x * math.log(x) for x in p)
    assert signals["loss"] == pytest.approx(slow / len(rows))
