"""The deployed network, given what a method says it answers by, answers as the method does."""

import pytest
import torch
from nets import images, tiny_cnn, tiny_vit
from samples import SAMPLES, make

import adapters
from adapters import METHODS

NETS = {"cnn": tiny_cnn, "vit": tiny_vit}
NOT_ONE = {("norm", "alpha"), ("norm", "instance"), ("rmt", "with replay"), ("rmt", "without"), ("ecotta", "default"),
           ("ecotta", "kept"), ("vida", "default"), ("vida", "symmetric")}  # fmt: skip
ONE_BATCH_BEHIND = {("norm", "ema"), ("norm", "ema in two passes")}
ROWS = [
    (name, variant, net)
    for name, sample in SAMPLES.items()
    for variant in sample.variants
    for net, network in NETS.items()
    if not adapters.unmet(name, network(), sample.prior)
]
every_row = pytest.mark.parametrize("row", ROWS, ids=["-".join(row) for row in ROWS])


def learned(row):
    """An adapter of this row that has learned, and the classifier that it shares."""
    name, variant, net = row
    classifier = NETS[net]()
    adapter = make(name, SAMPLES[name].variants[variant], classifier)
    for seed in range(3):
        adapters.step(adapter, images(32, seed=seed))
    return adapter, classifier


@every_row
def test_the_deployed_network_with_these_tensors_answers_as_the_method(row):
    adapter, _ = learned(row)
    answerer, seen = adapter.answerer(), images(32, seed=7)
    assert (answerer is None) == (row[:2] in NOT_ONE)
    if answerer is None:
        return
    deployed = NETS[row[2]]()
    state = deployed.network.state_dict()
    given = {**answerer.tensors(), **answerer.seen(seen)}
    assert given.keys() <= state.keys()
    before = adapter.dump()
    deployed.network.load_state_dict({**state, **given})
    said = adapter.finish(deployed(seen)).detach()
    if row[:2] not in ONE_BATCH_BEHIND:
        torch.testing.assert_close(said, adapter.predict(seen), rtol=0.02, atol=0.02)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.dump().items())


@every_row
def test_it_says_beforehand_which_tensors_move(row):
    adapter, _ = learned(row)
    if (answerer := adapter.answerer()) is None:
        return
    given = {**answerer.tensors(), **answerer.seen(images(8))}
    assert given.keys() <= set(answerer.moving())
    assert bool(given) or row[:2] == ("source", "default")


@pytest.mark.parametrize("name", [n for n in METHODS if n not in {"rmt", "ecotta", "vida"}])
def test_what_is_given_is_no_part_of_the_source(name):
    adapter, classifier = learned((name, next(iter(SAMPLES[name].variants)), "cnn"))
    untouched = {n: t.clone() for n, t in classifier.network.state_dict().items()}
    for tensor in adapter.answerer().seen(images(8)).values():
        tensor.zero_()
    assert all(torch.equal(t, untouched[n]) for n, t in classifier.network.state_dict().items())


def test_the_statistics_of_a_mixed_mode_lie_between_source_and_batch():
    classifier = tiny_cnn()
    mixed = make("norm", {"mode": "prior", "source_images": 32.0}, classifier).answerer().seen(images(32))
    batch = make("norm", {"mode": "batch"}, classifier).answerer().seen(images(32))
    source = classifier.network.bn1.running_mean
    torch.testing.assert_close(mixed["bn1.running_mean"], (source + batch["bn1.running_mean"]) / 2)
