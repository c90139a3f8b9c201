"""Methods that need nothing but answers: against equations in plain numpy, and on networks nobody can open."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nets import images, tiny_cnn
from torch import Tensor, nn

import adapters
from adapters import Classifier
from adapters.labelshift import LabelshiftPrior, estimate_shares
from adapters.temperature import LEAST, MOST

quick = settings(max_examples=25, deadline=None)
sizes = st.tuples(st.integers(1, 9), st.integers(2, 7))
tables = sizes.flatmap(lambda shape: arrays("float64", shape, elements=st.floats(-12, 12)).map(torch.from_numpy))


class Pages(nn.Module):
    """Answers what is written in the image."""

    opaque = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, : self.classes]


def written(logits: Tensor) -> Tensor:
    """Images that are answered so."""
    n, classes = logits.shape
    return torch.nn.functional.pad(logits.float(), (0, -classes % 3)).view(n, 3, -1, 1)


def adapter(name: str, classes: int, *, prior: object = None, **options: object) -> adapters.Adapter:
    return adapters.build(
        name, Classifier(Pages(classes), num_classes=classes), adapters.METHODS[name].options(**options), prior
    )


# ---- shares of classes


def shares_by_saerens(p: np.ndarray, source: np.ndarray, smoothing: float, passes: int) -> np.ndarray:
    """Equations 2.9 of the paper over all images at once, in loops; the source counts as so many images of a class."""
    n, classes = p.shape
    shares, believed = source.copy(), smoothing * classes
    for _ in range(passes):
        expected = np.zeros(classes)
        for row in p:
            likely = [row[c] * shares[c] / source[c] for c in range(classes)]
            expected += np.array(likely) / sum(likely)
        shares = (expected + believed * source) / (n + believed)
    return shares


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@quick
@given(tables, st.sampled_from([1e-3, 1.0, 5.0]), st.integers(1, 30), st.integers(0, 99))
def test_shares_of_one_batch_are_those_of_the_paper(logits: Tensor, smoothing: float, passes: int, seed: int) -> None:
    classes = logits.size(1)
    source = np.random.default_rng(seed).dirichlet(np.full(classes, 3.0)) + 0.01
    source /= source.sum()
    prior = LabelshiftPrior(torch.from_numpy(source))
    ours = adapter("labelshift", classes, prior=prior, smoothing=smoothing, passes=passes, least=0.0)
    outcome = adapters.step(ours, written(logits))
    theirs = shares_by_saerens(softmax(logits.float().double().numpy()), source, smoothing, passes)
    shares = ours.shares().numpy()
    np.testing.assert_allclose(shares, theirs, rtol=1e-9, atol=1e-12)
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    assert torch.equal(outcome.logits, logits.float()), "the first answer knows of no shift"
    assert outcome.signals["label_shift"] == pytest.approx(float((theirs * np.log(theirs / source)).sum()), abs=1e-9)
    corrected = softmax(ours.predict(written(logits)).double().numpy())
    expected = softmax(logits.float().double().numpy()) * theirs / source
    np.testing.assert_allclose(corrected, expected / expected.sum(1, keepdims=True), rtol=2e-5, atol=1e-7)


def world(shares: list[float], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of three overlapping classes, so frequent; the answers of one who knows them, were they equally so."""
    dice = np.random.default_rng(seed)
    labels = dice.choice(3, count, p=shares)
    seen = dice.normal(np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])[labels])
    distance = ((seen[:, None] - np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])) ** 2).sum(2)
    return torch.from_numpy(-distance / 2), torch.from_numpy(labels)


def errors(ours: adapters.Adapter, logits: Tensor, labels: Tensor) -> float:
    said = torch.cat([adapters.step(ours, written(part)).logits for part in logits.split(50)])
    return float((said.argmax(1) != labels).double().mean())


@pytest.mark.parametrize("shares", [[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.5, 0.5, 0.0]])
def test_a_shift_of_shares_is_found_and_answers_gain_what_there_is_to_gain(shares: list[float]) -> None:
    logits, labels = world(shares, 4000, 1)
    ours = adapter("labelshift", 3, least=0.0)
    wrong, plain = errors(ours, logits, labels), float((logits.argmax(1) != labels).double().mean())
    known = float(((logits + torch.tensor(shares).clamp(min=1e-9).log()).argmax(1) != labels).double().mean())
    assert ours.shares().numpy() == pytest.approx(shares, abs=0.04)
    assert wrong < plain - 0.8 * (plain - known)


def test_where_nothing_has_shifted_answers_stay_almost_as_they_are() -> None:
    logits, labels = world([1 / 3] * 3, 4000, 2)
    ours = adapter("labelshift", 3)
    wrong, plain = errors(ours, logits, labels), float((logits.argmax(1) != labels).double().mean())
    assert wrong == pytest.approx(plain, abs=0.005)
    torch.testing.assert_close(ours.predict(written(logits)).softmax(1).double(), logits.softmax(1), rtol=0, atol=0.05)


def test_a_source_of_other_shares_than_equal_ones_is_no_shift_where_they_were_prepared() -> None:
    shares = [0.8, 0.1, 0.1]
    likelihoods, _ = world(shares, 4000, 3)
    logits = likelihoods + torch.tensor(shares).log()
    prior = estimate_shares(Classifier(Pages(3), num_classes=3), [written(logits)])
    assert prior.shares.numpy() == pytest.approx(shares, abs=0.02)
    ours, naive = adapter("labelshift", 3, prior=prior), adapter("labelshift", 3)
    for part in logits.split(50):
        signals = [adapters.step(one, written(part)).signals["label_shift"] for one in (ours, naive)]
    assert signals[0] < 0.01
    assert signals[1] > 0.3


def test_what_may_be_the_skew_of_a_drift_is_not_corrected() -> None:
    even, logits = adapter("labelshift", 3), world([0.33, 0.34, 0.33], 1000, 3)[0]
    errors(even, logits, torch.zeros(1000))
    assert torch.equal(even.predict(written(logits)), logits.float())
    answers = []
    for least in (0.0, 0.2, 0.5):
        ours = adapter("labelshift", 3, least=least)
        ours.counts.copy_(torch.tensor([900.0, 50.0, 50.0]))
        answers.append(ours.predict(written(torch.zeros(1, 3)))[0])
    shift = float(ours.shift(ours.counts)) / math.log(3)
    assert 0.5 < shift < 1.0  # in shares of ln C
    by_default = adapter("labelshift", 3)
    by_default.counts.copy_(torch.tensor([560.0, 220.0, 220.0]))
    half = float(by_default.shift(by_default.counts)) / math.log(3)
    assert 0.0 < half < 0.13
    assert not by_default.predict(written(torch.zeros(1, 3))).any()
    by_default.counts.copy_(torch.tensor([750.0, 125.0, 125.0]))
    shift_now = float(by_default.shift(by_default.counts)) / math.log(3)
    assert 0.26 < shift_now < 0.39
    wholly = by_default._times(by_default.counts).log().float()
    torch.testing.assert_close(by_default.predict(written(torch.zeros(1, 3)))[0], wholly)
    torch.testing.assert_close(answers[0], answers[1])
    torch.testing.assert_close(answers[2], answers[0] * (shift / 0.5 - 1), rtol=1e-4, atol=1e-6)


def test_the_past_fades() -> None:
    ours = adapter("labelshift", 3, window=200.0)
    for seed, shares in enumerate([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9]]):
        logits, _ = world(shares, 1000, seed)
        for part in logits.split(50):
            adapters.step(ours, written(part))
        assert ours.shares().argmax() == np.argmax(shares)
        assert float(ours.counts.sum()) < 200 + 50


def test_one_image_among_ten_thousand_classes_moves_little() -> None:
    ours, logits = adapter("labelshift", 10_000, least=0.0), torch.zeros(1, 10_000)
    logits[0, 17] = 30.0
    adapters.step(ours, written(logits))
    lean = ours.predict(written(torch.zeros(1, 10_000)))[0]
    assert 0.0 < float(lean[17]) < 0.2
    assert float(lean.abs().max()) == float(lean[17])


# ---- temperature


@quick
@given(st.integers(0, 999), st.floats(0.5, 8.0))
def test_a_temperature_is_that_of_least_cost_on_the_mixtures(seed: int, sure: float) -> None:
    dice = np.random.default_rng(seed)
    labels = torch.from_numpy(dice.integers(0, 5, 400))
    logits = torch.from_numpy(sure * (dice.normal(size=(400, 5)) + 2 * np.eye(5)[labels.numpy()]))
    ours = adapter("temperature", 5, unchanged=1e-9)
    ours.weigh(logits, labels)
    grid = np.exp(np.linspace(np.log(LEAST), np.log(MOST), 4001))
    chosen = [np.log(softmax(logits.numpy() / t))[np.arange(400), labels.numpy()].sum() for t in grid]
    assert math.log(ours.found()) == pytest.approx(math.log(grid[int(np.argmax(chosen))]), abs=0.02)


def test_mixtures_are_of_images_that_are_answered_differently_and_labeled_by_the_larger_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = adapter("temperature", 3, mixed=0.75)
    seen: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(ours, "weigh", lambda *pair: seen.append(pair))
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [4.0, 0.0, 0.0], [torch.nan, 0.0, 0.0]]).repeat(4, 1)
    adapters.step(ours, written(logits))
    mixed, labels = seen[0]
    assert len(mixed)
    assert mixed.tolist() == [[3.0, 1.0, 0.0] if label == 0 else [1.0, 3.0, 0.0] for label in labels.tolist()]


@quick
@given(tables, st.floats(-3, 3))
def test_no_answer_changes(logits: Tensor, nats: float) -> None:
    ours = adapter("temperature", logits.size(1))
    ours.costs.copy_((ours.grid - nats).square() * 1e3)
    assert ours.found() == pytest.approx(math.exp(min(max(nats, math.log(LEAST)), math.log(MOST))), rel=0.2)
    said = ours.predict(written(logits))
    assert torch.equal(said.max(1).values, said.gather(1, logits.float().argmax(1, keepdim=True))[:, 0])


def test_answers_that_are_too_sure_come_to_be_as_sure_as_they_are_right() -> None:
    logits, labels = world([1 / 3] * 3, 4000, 4)
    ours, plain = adapter("temperature", 3), []
    for part in (6 * logits).split(50):
        plain.append(part.softmax(1).amax(1))
        said = adapters.step(ours, written(part)).logits
    right = float((logits.argmax(1) == labels).double().mean())
    sure = float(ours.predict(written(6 * logits)).softmax(1).amax(1).mean())
    assert float(torch.cat(plain).mean()) - right > 0.12
    assert abs(sure - right) < 0.08
    assert torch.isfinite(said).all()


@pytest.mark.parametrize("garbage", [1e30, -1e30, 1e4])
def test_one_answer_beyond_reason_moves_little(garbage: float) -> None:
    torch.manual_seed(0)
    clean, spoiled = adapter("temperature", 4), adapter("temperature", 4)
    for step in range(10):
        part = 3 * torch.randn(32, 4)
        adapters.step(clean, written(part))
        part[step, 0] = garbage
        adapters.step(spoiled, written(part))
    assert spoiled.found() == pytest.approx(clean.found(), rel=0.25)


# ---- both


@pytest.mark.parametrize("name", ["labelshift", "temperature"])
def test_all_that_is_remembered_is_a_few_numbers(name: str) -> None:
    ours = adapter(name, 7)
    adapters.step(ours, written(torch.randn(16, 7)))
    kept = {key: tensor.numel() for key, tensor in ours.dump().items() if "dice." not in key}
    assert kept == {"steps": 1} | ({"counts": 7} if name == "labelshift" else {"costs": 33})


@pytest.mark.parametrize(("name", "state"), [("labelshift", "counts"), ("temperature", "costs")])
def test_what_was_learned_can_be_read_from_the_head(name: str, state: str) -> None:
    classifier = tiny_cnn()
    options = {"least": 0.0} if name == "labelshift" else {}
    ours = adapters.build(name, classifier, adapters.METHODS[name].options(**options))
    getattr(ours, state).copy_(torch.linspace(1, 90, len(getattr(ours, state))))
    tensors = ours.answerer().tensors()
    assert set(tensors) == {"linear.weight", "linear.bias"} == set(ours.answerer().moving())
    deployed = tiny_cnn()
    deployed.network.load_state_dict({**deployed.network.state_dict(), **tensors})
    said = ours.predict(images(8))
    assert not torch.allclose(said, classifier(images(8)), atol=1e-2)
    torch.testing.assert_close(deployed(images(8)), said, rtol=1e-4, atol=1e-5)
    headless = adapters.build(name, Classifier(Pages(5), num_classes=5))
    assert headless.answerer() is None


def test_a_prior_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="the prior has 4 classes, the network has 5"):
        adapter("labelshift", 5, prior=SimpleNamespace(shares=torch.full((4,), 0.25)))
