"""What the papers' equations imply, whatever the images: neutral numbers, extreme numbers, recoveries."""

import math

import pytest
import torch
from nets import images, tiny_cnn, tiny_vit
from samples import make
from torch import Tensor

import adapters
from adapters import Adapter, Memory
from adapters.parts.memory_bank import Keeping, MemoryBank


def learn(adapter: Adapter, seeds: range, size: int = 12) -> list[Tensor]:
    return [adapters.step(adapter, images(size, seed=seed)).logits for seed in seeds]


def same(one: Memory, other: Memory, *, but: tuple[str, ...] = ("steps",)) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one if name not in but and "dice." not in name)


def weights(adapter: Adapter, network: str) -> Tensor:
    return getattr(adapter, network).learns.values


def batch_statistics(seeds: range) -> list[Tensor]:
    return learn(make("norm", {"mode": "batch"}, tiny_cnn()), seeds)


def test_roid_without_a_step_size_is_batch_statistics_times_the_prior() -> None:
    ours = learn(make("roid", {"lr": 0.0, "literal": True}, tiny_cnn()), range(3))
    for logits, plain in zip(ours, batch_statistics(range(3)), strict=True):
        prior = plain.softmax(1).mean(0)
        smooth = max(1 / 12, 1 / 5) / prior.max()
        torch.testing.assert_close(logits, plain * (prior + smooth) / (1 + 5 * smooth), rtol=0, atol=1e-6)


def test_roid_corrects_probabilities_not_logits() -> None:
    ours = learn(make("roid", {"lr": 0.0}, tiny_cnn()), range(3))
    for logits, plain in zip(ours, batch_statistics(range(3)), strict=True):
        p = plain.softmax(1)
        smooth = max(1 / 12, 1 / 5) / p.mean(0).max()
        corrected = p * (p.mean(0) + smooth)
        torch.testing.assert_close(logits.softmax(1), corrected / corrected.sum(1, keepdim=True), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["cotta", "petal", "rmt", "rotta", "vida"])
def test_a_teacher_with_momentum_one_stands_still(name: str) -> None:
    frozen = {"teacher_momentum": 1.0}
    frozen |= {"graft_momentum": 1.0} if name == "vida" else {}
    adapter = make(name, frozen, tiny_cnn())
    before = adapter.teacher.network.learns.values.clone()
    learn(adapter, range(3))
    assert torch.equal(before, adapter.teacher.network.learns.values)


@pytest.mark.parametrize("name", ["cotta", "petal"])
def test_restoring_everything_leaves_the_student_at_the_source(name: str) -> None:
    adapter = make(name, {"restore_rate": 1.0}, tiny_cnn())
    for seed in range(3):
        assert adapters.step(adapter, images(12, seed=seed)).signals["restored_ratio"] >= 1.0
        assert torch.equal(weights(adapter, "student"), adapter.student.source.values)


def test_petal_with_share_zero_restores_nothing_and_with_one_all_but_the_largest_gradient() -> None:
    adapter = make("petal", {"restored_share": 0.0, "restore_rate": 0.0}, tiny_cnn())
    assert adapters.step(adapter, images(12)).signals["restored_ratio"] == 0.0
    adapter = make("petal", {"restored_share": 1.0, "restore_rate": 0.0}, tiny_cnn())
    adapters.step(adapter, images(12))
    away = weights(adapter, "student") != adapter.student.source.values
    assert int(away.sum()) == 1
    assert int(away.nonzero()) == int(adapter.student.learns.gradient.abs().argmax())


def test_eata_that_lets_all_pass_weighs_by_certainty_alone() -> None:
    free = {"entropy_margin": 1.0, "similarity_margin": 2.0, "fisher_weight": 0.0}
    adapter = make("eata", free, tiny_cnn())
    plain = batch_statistics(range(1))[0]
    signals = adapters.step(adapter, images(12)).signals
    log_p = plain.log_softmax(1)
    entropies = -(log_p.exp() * log_p).sum(1)
    assert signals["selected_ratio"] == 1.0
    assert signals["loss"] == pytest.approx(float((torch.exp(math.log(5) - entropies) * entropies).mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["eata", "sar", "ecotta"])
def test_a_batch_without_a_certain_answer_moves_not_a_bit(name: str) -> None:
    adapter = make(name, {"entropy_margin": 1.0}, tiny_cnn())
    learn(adapter, range(2))
    adapter.tune(make(name, {"entropy_margin": 0.0}, tiny_cnn()).options)
    before = adapter.dump()
    assert adapters.step(adapter, images(12, seed=9)).signals["selected_ratio"] == 0.0
    assert same(before, adapter.dump())


def test_eata_learns_nothing_from_what_it_has_grown_used_to() -> None:
    adapter = make("eata", {"similarity_margin": 1e-6}, tiny_cnn())
    assert adapters.step(adapter, images(12)).signals["selected_ratio"] == 1.0  # nothing is usual yet
    assert adapters.step(adapter, images(12)).signals["selected_ratio"] == 0.0


def test_rdumb_at_step_t_is_as_at_birth_and_runs_in_a_circle() -> None:
    adapter = make("eata", {"fisher_weight": 0.0, "reset_every": 3}, tiny_cnn())
    birth = adapter.dump()
    first = learn(adapter, range(3))
    assert same(birth, adapter.dump(), but=())
    assert all(torch.equal(a, b) for a, b in zip(first, learn(adapter, range(3)), strict=True))
    assert same(birth, adapter.dump(), but=())


def test_sar_recovers_completely_and_not_again_at_once() -> None:
    adapter = make("sar", {"recover_below": 0.0}, tiny_cnn())
    birth = adapter.dump()
    learn(adapter, range(2))
    loss = adapters.step(adapter, images(12, seed=2)).signals["loss"]
    adapter.tune(make("sar", {"recover_below": 2.0}, tiny_cnn()).options)
    assert loss < 2.0
    assert adapters.step(adapter, images(12, seed=3)).signals["recovered"] == 1.0
    assert same(birth, adapter.dump(), but=())
    adapter.tune(make("sar", {"recover_below": loss / 2}, tiny_cnn()).options)
    assert adapters.step(adapter, images(12, seed=4)).signals["recovered"] == 0.0
    fresh = make("sar", {"recover_below": 0.0}, tiny_cnn())
    adapters.step(fresh, images(12, seed=4))
    assert same(fresh.dump(), adapter.dump())


def test_sar_without_a_radius_is_tent_on_the_reliable() -> None:
    every = {"entropy_margin": 2.0, "excluded": (), "radius": 0.0, "lr": 0.01, "recover_below": 0.0}
    sar, tent = make("sar", every, tiny_vit()), make("tent", {"optimizer": "sgd", "lr": 0.01}, tiny_vit())
    for ours, theirs in zip(learn(sar, range(3)), learn(tent, range(3)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_sar_leaves_the_excluded_norms_alone() -> None:
    adapter = make("sar", {"excluded": ("layer3.*", "bn1")}, tiny_cnn())
    before = adapter.dump()
    learn(adapter, range(2))
    after = adapter.dump()
    names = {name for name in before if "classifier" in name}
    assert not any("layer3" in name or ".network.bn1." in name for name in names)
    assert any("layer2.0.bn1" in name and not torch.equal(before[name], after[name]) for name in names)


def test_roid_that_keeps_nothing_is_back_at_the_source_after_every_step() -> None:
    adapter = make("roid", {"ensembling": 0.0}, tiny_cnn())
    learn(adapter, range(2))
    assert torch.equal(weights(adapter, "network"), adapter.network.source.values)


@pytest.mark.parametrize(("classes", "most"), [(10, 7), (64, 1), (100, 1)])
def test_rotta_never_holds_more_than_its_capacity_nor_than_a_share_of_one_class(classes: int, most: int) -> None:
    bank, keeping = MemoryBank(classes, torch.zeros(())), Keeping(64)
    logits = torch.zeros(500, classes)
    logits[:, 3] = torch.linspace(1, 5, 500)
    for _ in range(20):  # ten thousand images of one class
        assert not list(bank.admit(torch.rand(500, 3, 1, 1), logits, 10**9, keeping))
        assert len(bank.images) <= most
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        list(bank.admit(torch.rand(100, 3, 1, 1), torch.randn(100, classes, generator=generator), 10**9, keeping))
        assert len(bank.images) <= 64
        assert int(torch.bincount(bank.labels).max()) <= most
    assert int(bank.seen) == 12_000


def test_a_memory_whose_capacity_is_tuned_down_lets_its_worst_go() -> None:
    bank, generator = MemoryBank(4, torch.zeros(())), torch.Generator().manual_seed(0)
    for capacity, most in ((64, 16), (10, 3), (1, 1), (64, 16)):
        list(bank.admit(torch.rand(100, 3, 1, 1), torch.randn(100, 4, generator=generator), 10**9, Keeping(capacity)))
        assert len(bank.images) == capacity
        assert int(torch.bincount(bank.labels).max()) <= most


def test_rotta_learns_once_for_every_so_many_images_however_they_come() -> None:
    whole, pieces = (make("rotta", {"update_every": 16}, tiny_cnn()) for _ in range(2))
    stream = images(48)
    adapters.step(whole, stream)
    moments = [adapters.step(pieces, part).signals for part in stream.split(8)]
    assert ["loss" in signals for signals in moments] == [False, True] * 3
    for adapter in (whole, pieces):
        assert int(adapter.dump()["descend._extra_state/0/step"]) == 3


def test_moments_of_another_optimizer_are_refused_and_nothing_changes() -> None:
    memories = {}
    for optimizer in ("adam", "sgd"):
        adapter = make("tent", {"optimizer": optimizer}, tiny_cnn())
        learn(adapter, range(2))
        memories[optimizer] = adapter.dump()
    for optimizer, other in (("adam", "sgd"), ("sgd", "adam")):
        adapter = make("tent", {"optimizer": optimizer}, tiny_cnn())
        adapter.load(memories[optimizer])
        with pytest.raises(ValueError, match="memory does not fit"):
            adapter.load(memories[other])
        assert same(memories[optimizer], adapter.dump(), but=())
        learn(adapter, range(1))


def test_a_memory_of_other_classes_is_refused() -> None:
    adapter = make("eata", {}, tiny_vit(5))
    with pytest.raises(ValueError, match="usual"):
        adapter.load(adapters.build("eata", tiny_vit(7)).dump())
