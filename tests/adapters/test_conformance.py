"""What every method keeps, whatever its paper says; over every row of `METHODS`, on a CNN and on a transformer."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import FrozenInstanceError, fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import images, tiny_cnn, tiny_vit
from safetensors.torch import load, save
from samples import SAMPLES, changed, live, make, options_of
from torch import Tensor

import adapters
from adapters import METHODS, SIGNALS, Adapter, Classifier, Memory
from adapters.norm_only import NormOnly
from adapters.options import Knob, knobs
from adapters.parts.network import Network
from adapters.parts.norms import from_source, normalizing

NETS: Mapping[str, Callable[[], Classifier]] = {"cnn": tiny_cnn, "vit": tiny_vit}
ROWS = [
    (name, variant, net)
    for name in METHODS
    for number, variant in enumerate(SAMPLES[name].variants if name in SAMPLES else ())
    for net, network in NETS.items()
    if (net == "cnn" or number == 0) and not adapters.unmet(name, network(), SAMPLES[name].prior)
]
"""Method, variant of its options, network: what the whole suite runs; the transformer, each method's first variant."""

every_row = pytest.mark.parametrize("row", ROWS, ids=["-".join(row) for row in ROWS])


def born(row: tuple[str, str, str], seed: int = 0) -> Adapter:
    """A newborn adapter around a network of its own."""
    name, variant, net = row
    return make(name, SAMPLES[name].variants[variant], NETS[net](), seed)


def learn(adapter: Adapter, seeds: range, size: int = 12) -> list[Tensor]:
    """The answers to so many batches, each learned from."""
    return [adapters.step(adapter, images(size, seed=seed)).logits for seed in seeds]


def difference(one: Memory, other: Memory) -> set[str]:
    """The names of what differs between two memories."""
    return {n for n in one.keys() | other.keys() if n not in one or n not in other or not torch.equal(one[n], other[n])}


def moved(one: Memory, other: Memory) -> set[str]:
    """What differs but for the count of steps and the dice, which may move without anything being learned."""
    return {name for name in difference(one, other) if name != "steps" and "dice." not in name}


def finite(memory: Memory) -> bool:
    return all(bool(torch.isfinite(tensor.double()).all()) for tensor in memory.values())


def test_every_method_has_a_sample() -> None:
    assert list(SAMPLES) == list(METHODS)
    assert {name for name, _, _ in ROWS} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_row_in_the_documentation(name: str) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "methods.md"
    assert f"\n| `{name}` |" in page.read_text(encoding="utf-8")


@every_row
def test_every_sample_is_answered(row: tuple[str, str, str]) -> None:
    adapter = born(row)
    for size in (12, 2, 5):
        logits = adapters.step(adapter, images(size)).logits
        assert logits.shape == (size, 5)
        assert torch.isfinite(logits).all()
        assert not logits.requires_grad


@every_row
def test_adapt_yields_once_and_then_returns_known_signals(row: tuple[str, str, str]) -> None:
    adaptation = born(row).adapt(images(12))
    next(adaptation)
    with pytest.raises(StopIteration) as end:
        next(adaptation)
    assert end.value.value.keys() <= SIGNALS.keys()
    assert all(isinstance(float(signal), float) for signal in end.value.value.values())


@every_row
def test_an_answer_is_learned_from_once(row: tuple[str, str, str]) -> None:
    adapter = born(row)
    answer = adapters.answer(adapter, images(12))
    answer.learn()
    before = adapter.dump()
    with pytest.raises(RuntimeError, match="has been learned from"):
        answer.learn()
    assert not difference(before, adapter.dump())


@every_row
def test_statistics_mixed_with_none_of_the_source_are_the_batchs_and_with_much_of_it_the_sources(
    row: tuple[str, str, str],
) -> None:
    adapter = born(row)
    learn(adapter, range(2))
    before, batch = adapter.dump(), images(12, seed=50)
    mixtures = [adapter.predict_mixed(batch, share) for share in (0.0, 12.0, 1e12)]
    assert not difference(before, adapter.dump())
    if adapter.by_batch:
        ask = adapter.network if isinstance(adapter, NormOnly) else adapter.predict  # its predict has rules of its own
        with ExitStack() as forks, torch.no_grad():
            for network in (module for module in adapter.modules() if isinstance(module, Network)):
                forks.enter_context(normalizing(network, from_source))
            by_source = ask(batch)
        assert torch.allclose(mixtures[2], by_source, atol=1e-4)
        assert not torch.allclose(mixtures[0], mixtures[1], atol=1e-4)
    else:
        assert all(torch.equal(mixture, adapter.predict(batch)) for mixture in mixtures)


@every_row
def test_whoever_lives_by_mixed_statistics_answers_and_learns_by_them_and_can_go_back(
    row: tuple[str, str, str],
) -> None:
    adapter, published = born(row), born(row)
    batch = images(12, seed=50)
    adapter.mix(2.0)
    mixed, alone = adapter.predict(batch), published.predict(batch)
    if adapter.by_batch:
        torch.testing.assert_close(mixed, adapter.predict_mixed(batch, 24.0), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(mixed, alone, atol=1e-4)
    else:
        assert torch.equal(mixed, alone)
    learn(adapter, range(3))
    adapter.rewind()
    adapter.mix(0.0)
    for ours, theirs in zip(learn(adapter, range(3)), learn(published, range(3)), strict=True):
        assert torch.equal(ours, theirs)
    assert not difference(adapter.dump(), published.dump())


@every_row
def test_a_rewind_may_leave_what_is_near_the_images_as_learned(row: tuple[str, str, str]) -> None:
    adapter = born(row)
    birth = adapter.dump()
    learn(adapter, range(2))
    learned = adapter.dump()
    adapter.rewind(0.5)
    between = adapter.dump()
    stays = [n for n in moved(birth, learned) if n not in moved(learned, between)]
    back = [n for n in moved(birth, learned) if n not in moved(birth, between)]
    vectors = [m.vector for m in adapter.modules() if isinstance(m, Network) and m.vector is not None]
    assert bool(back) == bool(moved(birth, learned))
    assert bool(stays) == bool(vectors and moved(birth, learned))
    assert set(stays) | set(back) == moved(birth, learned)
    adapter.rewind(0.0)
    assert not difference(birth, adapter.dump())


@every_row
def test_predict_changes_nothing(row: tuple[str, str, str]) -> None:
    adapter = born(row)
    learn(adapter, range(2))
    before = adapter.dump()
    one, again = adapter.predict(images(12, seed=50)), adapter.predict(images(12, seed=50))
    assert torch.equal(one, again)
    assert not one.requires_grad
    assert not difference(before, adapter.dump())


@every_row
def test_predict_between_an_answer_and_its_learning_changes_nothing(row: tuple[str, str, str]) -> None:
    adapter, undisturbed = born(row), born(row)
    answer = adapters.answer(adapter, images(12))
    adapter.predict(images(3, seed=50))
    answer.learn()
    learn(undisturbed, range(1))
    assert not difference(adapter.dump(), undisturbed.dump())


@every_row
def test_adapt_changes_something(row: tuple[str, str, str]) -> None:
    adapter = born(row)
    before = adapter.dump()
    learn(adapter, range(3))
    assert bool(moved(before, adapter.dump())) is (row[1] not in SAMPLES[row[0]].idle)
    assert int(adapter.steps) == 3
    assert adapter.finite


@every_row
def test_an_answer_never_depends_on_when_its_learning_runs(row: tuple[str, str, str]) -> None:
    late, soon = born(row), born(row)
    for seed in range(3):
        answer = adapters.answer(late, images(12, seed=seed))
        left = answer.logits.clone()
        answer.learn()
        assert torch.equal(left, answer.logits)
        assert torch.equal(left, adapters.step(soon, images(12, seed=seed)).logits)


@every_row
def test_an_answer_that_is_not_learned_from_teaches_nothing(row: tuple[str, str, str]) -> None:
    adapter = born(row)
    learn(adapter, range(2))
    before = adapter.dump()
    adapters.answer(adapter, images(12, seed=50))
    assert not moved(before, adapter.dump())


@every_row
def test_learning_needs_no_one_to_enable_gradients(row: tuple[str, str, str]) -> None:
    adapter, other = born(row), born(row)
    with torch.no_grad():
        learn(adapter, range(2))
    learn(other, range(2))
    assert not difference(adapter.dump(), other.dump())


@every_row
def test_rewind_returns_to_birth_exactly_and_twice(row: tuple[str, str, str]) -> None:
    adapter = born(row)
    birth = adapter.dump()
    first = learn(adapter, range(2))
    for _ in range(2):
        adapter.rewind()
        assert not difference(birth, adapter.dump())
        assert all(torch.equal(a, b) for a, b in zip(first, learn(adapter, range(2)), strict=True))


@every_row
def test_a_dumped_memory_resumes_bit_for_bit_in_another_adapter(row: tuple[str, str, str]) -> None:
    adapter, other = born(row), born(row)
    learn(adapter, range(2))
    learn(other, range(20, 21))
    other.load(load(save(dict(adapter.dump()))))
    straight, resumed = learn(adapter, range(2, 4)), learn(other, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
    assert not difference(adapter.dump(), other.dump())


@every_row
def test_a_dump_is_a_copy(row: tuple[str, str, str]) -> None:
    adapter = born(row)
    memory = adapter.dump()
    before = {name: tensor.clone() for name, tensor in memory.items()}
    learn(adapter, range(2))
    assert not difference(before, memory)


@every_row
def test_a_foreign_memory_is_refused_and_changes_nothing(row: tuple[str, str, str]) -> None:
    adapter = born(row)
    learn(adapter, range(2))
    good = dict(adapter.dump())
    learn(adapter, range(2, 3))
    before = adapter.dump()
    short = {name: tensor for name, tensor in good.items() if name != "steps"}
    reckless = {name: tensor for name, tensor in good.items() if "dice." not in name}
    for foreign in ({**good, "stranger": torch.zeros(1)}, short, reckless):
        with pytest.raises(ValueError, match="memory"):
            adapter.load(foreign)
        assert not difference(before, adapter.dump())


@every_row
def test_one_sample_is_a_batch(row: tuple[str, str, str]) -> None:
    adapter = born(row)
    assert all(torch.isfinite(logits).all() for logits in learn(adapter, range(4), size=1))
    assert finite(adapter.dump())


@every_row
def test_a_poisoned_batch_changes_nothing(row: tuple[str, str, str]) -> None:
    adapter = born(row)
    learn(adapter, range(1))
    before = adapter.dump()
    for poison in (torch.nan, torch.inf, -torch.inf):
        adapters.step(adapter, torch.full((12, 3, 16, 16), poison))
        assert not moved(before, adapter.dump())


@every_row
@pytest.mark.parametrize("poison", [torch.nan, 1e30])
def test_learning_goes_on_after_one_poisoned_image(row: tuple[str, str, str], poison: float) -> None:
    adapter = born(row)
    learn(adapter, range(1))
    batch = images(12, seed=60)
    batch[3] = poison
    adapters.step(adapter, batch)
    before = adapter.dump()
    assert finite(before)
    assert all(torch.isfinite(logits).all() for logits in learn(adapter, range(2, 4)))
    assert finite(adapter.dump())
    assert bool(moved(before, adapter.dump())) is (row[1] not in SAMPLES[row[0]].idle)


@every_row
def test_images_that_are_all_alike_do_no_harm(row: tuple[str, str, str]) -> None:
    adapter = born(row)
    one = images(1)
    for alike in (one, one, torch.zeros_like(one), torch.zeros_like(one), torch.ones_like(one)):
        assert torch.isfinite(adapters.step(adapter, alike.repeat(6, 1, 1, 1)).logits).all()
        assert finite(adapter.dump())
    assert all(torch.isfinite(logits).all() for logits in learn(adapter, range(1)))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", [name for name in METHODS if name in SAMPLES and SAMPLES[name].plain is not None])
def test_without_a_step_size_the_answer_is_that_of_batch_statistics(name: str, net: str) -> None:
    classifier = NETS[net]()
    if adapters.unmet(name, classifier, SAMPLES[name].prior):
        pytest.skip("the method does not work on this network")
    adapter = make(name, {"lr": 0.0, **(SAMPLES[name].plain or {})}, classifier)
    norm = "norm" if net == "cnn" else "source"
    plain = make(norm, {"mode": "batch"} if net == "cnn" else {}, NETS[net]())
    for ours, theirs in zip(learn(adapter, range(3)), learn(plain, range(3)), strict=True):
        torch.testing.assert_close(ours, SAMPLES[name].times * theirs, rtol=0, atol=1e-6)


LIVE = [(name, option) for name in METHODS if name in SAMPLES for option in live(name)]


@cache
def untuned(name: str, under: tuple[tuple[str, Any], ...]) -> tuple[Memory, Tensor, Memory]:
    """What was learned from two batches, the answers to the next two, and what was learned then."""
    adapter = make(name, dict(under), tiny_cnn())
    learn(adapter, range(2))
    return adapter.dump(), torch.cat(learn(adapter, range(2, 4))), adapter.dump()


@pytest.mark.parametrize(("name", "option"), LIVE, ids=[f"{name}-{option.name}" for name, option in LIVE])
def test_tuning_an_option_has_its_effect_and_is_all_there_is_to_it(name: str, option: Knob) -> None:
    effect = changed(name, option)
    memory, untuned_answers, untuned_memory = untuned(name, tuple(effect.under.items()))
    wanted = {**effect.under, option.name: effect.value}
    tuned, built = make(name, effect.under, tiny_cnn()), make(name, wanted, tiny_cnn())
    tuned.load(memory)
    built.load(memory)
    tuned.tune(options_of(name, wanted))
    assert not difference(memory, tuned.dump())
    answers = torch.cat(learn(tuned, range(2, 4)))
    assert torch.equal(answers, torch.cat(learn(built, range(2, 4)))), "a number was kept at birth"
    assert not difference(tuned.dump(), built.dump()), "a number was kept at birth"
    if option.name in SAMPLES[name].costs:
        torch.testing.assert_close(answers, untuned_answers, rtol=0, atol=1e-4)
    else:
        assert not torch.equal(answers, untuned_answers) or difference(tuned.dump(), untuned_memory)


@pytest.mark.parametrize("name", SAMPLES)
def test_an_option_that_shapes_the_adapter_is_refused_while_it_lives(name: str) -> None:
    adapter = make(name, {}, tiny_cnn() if not adapters.unmet(name, tiny_cnn(), SAMPLES[name].prior) else tiny_vit())
    for option in knobs(METHODS[name].options):
        if option.reach == "rebuild":
            with pytest.raises(ValueError, match=option.name):
                adapter.tune(options_of(name, {option.name: changed(name, option).value}))
            assert adapter.options == options_of(name, {})


@pytest.mark.parametrize("name", METHODS)
def test_options_are_frozen_and_explain_themselves(name: str) -> None:
    options = METHODS[name].options()
    assert not hasattr(options, "__dict__")
    for option in knobs(type(options)):
        assert option.doc.endswith(".")
        with pytest.raises(FrozenInstanceError):
            setattr(options, option.name, option.default)
    assert all(field.metadata["reach"] in ("live", "rebuild") for field in fields(options))


@every_row
def test_the_classifier_is_never_changed(row: tuple[str, str, str]) -> None:
    name, variant, net = row
    classifier = NETS[net]()
    before = {key: tensor.clone() for key, tensor in classifier.state_dict().items()}
    answer = classifier(images(4))
    adapter = make(name, SAMPLES[name].variants[variant], classifier)
    learn(adapter, range(3))
    assert not difference(before, classifier.state_dict())
    assert torch.equal(answer, classifier(images(4)))
    assert all(p.grad is None and not p.requires_grad for p in classifier.parameters())


@every_row
def test_adapters_that_share_a_classifier_do_not_touch_each_other(row: tuple[str, str, str]) -> None:
    name, variant, net = row
    classifier = NETS[net]()
    one, other = (make(name, SAMPLES[name].variants[variant], classifier) for _ in range(2))
    birth = other.dump()
    first = learn(one, range(2))
    assert not difference(birth, other.dump())
    assert all(torch.equal(a, b) for a, b in zip(first, learn(other, range(2)), strict=True))


@every_row
def test_randomness_is_its_own_and_follows_its_seed(row: tuple[str, str, str]) -> None:
    one, again = born(row, seed=3), born(row, seed=3)
    torch.manual_seed(1)
    first = learn(one, range(2))
    before = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(first, learn(again, range(2)), strict=True))
    assert torch.equal(before, torch.get_rng_state())


@every_row
def test_training_mode_is_no_signal(row: tuple[str, str, str]) -> None:
    adapter, other = born(row), born(row)
    adapter.train()
    assert all(torch.equal(a, b) for a, b in zip(learn(adapter, range(2)), learn(other, range(2)), strict=True))


@every_row
def test_it_works_in_the_dtype_of_the_network(row: tuple[str, str, str]) -> None:
    name, variant, net = row
    adapter = make(name, SAMPLES[name].variants[variant], NETS[net]().double())
    assert all(logits.dtype == torch.float64 for logits in learn(adapter, range(3)))
    floats = {tensor.dtype for tensor in adapter.dump().values() if tensor.is_floating_point() and tensor.dim() > 0}
    assert floats <= {torch.float64}
