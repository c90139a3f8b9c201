"""Estimates of accuracy: each against its definition, in and out of the domain that it holds in."""

import math

import pytest
import torch
from nets import images, tiny_cnn, tiny_vit
from torch import Tensor

import adapters
from adapters import classifier as classifiers
from adapters.parts.objectives import entropy
from tta_daemon.watch.canary import Canary
from tta_daemon.watch.correction import Correction, corrected
from tta_daemon.watch.estimates import (
    FEW,
    OFF_SOURCE,
    OUTSIDE,
    UNLABELED,
    UNTAUGHT,
    Calibration,
    Estimate,
    Estimator,
    aetta,
    calibrate,
    estimates,
)
from tta_daemon.watch.lines import fit_line
from tta_daemon.watch.tallies import BINS, Tallies, dropped_out, shares_of
from tta_daemon.watch.view import Head, HeadTap, Probe, SourceView

CLASSES = 5


def answers(count: int, sharpness: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are right as often as they claim, and the truth."""
    dice = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(count, CLASSES, generator=dice)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=dice).flatten()


def seen(logits: Tensor) -> SourceView:
    return SourceView(logits, logits[:, :0], logits[:, :0])


def tallied(
    calibration: Calibration, logits: Tensor, adapted: Tensor | None = None, head: Head | None = None
) -> dict[str, float]:
    tallies = Tallies(calibration.threshold, calibration.edges, CLASSES, len(logits), len(logits))
    tallies.see(seen(logits), adapted, head)
    return tallies.shares()


def test_atc_certifies_as_many_source_images_as_are_right() -> None:
    logits, labels = answers(4000, 3.0)
    calibration = calibrate(logits, labels, {}, 0.0)
    right = float((logits.argmax(1) == labels).double().mean())
    assert float((entropy(logits) <= calibration.threshold).double().mean()) == pytest.approx(right, abs=1e-3)


def test_on_the_source_every_estimate_of_the_source_model_is_right() -> None:
    calibration = calibrate(*answers(4000, 3.0), {}, 0.0)
    logits, labels = answers(2000, 3.0, seed=1)
    found = estimates(calibration, tallied(calibration, logits), CLASSES, drifted=False)
    truth = float((logits.argmax(1) == labels).double().mean())
    for estimator in (Estimator.ATC, Estimator.DOC, Estimator.IMPORTANCE):
        estimate = found[estimator, "source"]
        assert estimate.valid
        assert estimate.low < truth < estimate.high
        assert estimate.value == pytest.approx(truth, abs=0.03)


def test_importance_and_doc_follow_confidence_that_is_honest() -> None:
    calibration = calibrate(*answers(4000, 3.0), {}, 0.0)
    logits, labels = answers(4000, 1.5, seed=1)
    found = estimates(calibration, tallied(calibration, logits), CLASSES, drifted=False)
    truth = float((logits.argmax(1) == labels).double().mean())
    assert found[Estimator.IMPORTANCE, "source"].value == pytest.approx(truth, abs=0.05)
    assert found[Estimator.DOC, "source"].value == pytest.approx(truth, abs=0.05)


def test_doubts_are_named() -> None:
    logits, labels = answers(500, 3.0)
    calibration = calibrate(logits, labels, {}, 0.0)
    shares = tallied(calibration, logits, logits)
    drifted = estimates(calibration, shares, CLASSES, drifted=True)
    assert drifted[Estimator.ATC, "source"].doubt == OFF_SOURCE
    assert drifted[Estimator.AGREEMENT, "source"].doubt == UNTAUGHT
    assert math.isnan(drifted[Estimator.AGREEMENT, "source"].value)
    few = estimates(calibration, tallied(calibration, logits[:20]), CLASSES, drifted=False)
    assert few[Estimator.ATC, "source"].doubt == FEW
    blind = calibrate(logits, None, {}, 0.0)
    assert estimates(blind, tallied(blind, logits), CLASSES, drifted=False)[Estimator.DOC, "source"].doubt == UNLABELED


def test_a_line_is_not_trusted_far_beyond_what_it_was_fitted_on() -> None:
    shares = torch.linspace(0.6, 0.9, 12, dtype=torch.float64)[:, None]
    line = fit_line(shares, 0.9 * shares[:, 0])
    assert line.at([0.7]) == (pytest.approx(0.63, abs=0.02), True)
    assert not line.at([0.2])[1]
    logits, labels = answers(500, 3.0)
    calibration = calibrate(logits, labels, {"agreement/adapted": line}, 0.0)
    other = logits.roll(1, 1)
    found = estimates(calibration, tallied(calibration, logits, other), CLASSES, drifted=False)
    assert found[Estimator.AGREEMENT, "adapted"].doubt == OUTSIDE


def test_aetta_against_its_definition() -> None:
    dice = torch.Generator().manual_seed(0)
    head = Head(torch.randn(40, 8, generator=dice), torch.randn(CLASSES, 8, generator=dice), None)
    adapted = head.logits(head.features)
    disagreeing, sums = dropped_out(head, adapted)
    again = torch.Generator().manual_seed(40)
    slow, answer = 0.0, torch.zeros(CLASSES)
    for _ in range(10):
        mask = (torch.rand(40, 8, generator=again) >= 0.4).float() / 0.6
        for i in range(40):
            logits = head.weight @ (head.features[i] * mask[i])
            slow += float(logits.argmax() != adapted[i].argmax()) / 10
            answer += logits.softmax(0) / 10
    assert disagreeing == pytest.approx(slow)
    assert torch.allclose(sums.float(), answer, atol=1e-4)


def test_aetta_takes_collapse_for_error() -> None:
    steady = {"disagreement": 0.1, "spread": 1.0}
    assert aetta(steady, CLASSES) == pytest.approx(0.9)
    assert aetta(steady | {"spread": 0.4}, CLASSES) == pytest.approx(0.2)
    assert aetta(steady | {"disagreement": 0.0, "spread": 0.0}, CLASSES) == 1.0


def test_shares_are_shares() -> None:
    logits, labels = answers(300, 2.0)
    calibration = calibrate(logits, labels, {}, 0.0)
    shares = tallied(calibration, logits, logits, Head(logits, torch.eye(CLASSES), None))
    assert shares["agreement"] == 1.0
    assert sum(shares[f"bin{i}"] for i in range(BINS)) == pytest.approx(1.0)
    assert 0 < shares["disagreement"] < 1
    assert 0.9 < shares["spread"] <= 1.0 + 1e-9
    assert shares_of(torch.zeros(7 + BINS + CLASSES, dtype=torch.float64))["images"] == 0


def test_labels_move_estimates_toward_the_truth_and_are_forgotten() -> None:
    correction, pair = Correction(), (Estimator.AETTA, "adapted")
    for _ in range(40):
        correction.labeled({pair: 0.9}, {"adapted": 35.0}, 50)
    assert correction.of(pair) == pytest.approx(-0.2, abs=0.03)
    other = Correction()
    other.load(correction.dump())
    assert other.of(pair) == correction.of(pair)
    moved = corrected(Estimate(0.1, 0.0, 0.2, 50), correction.of(pair))
    assert (moved.low, moved.value) == (0.0, 0.0)
    for _ in range(10):
        correction.doubt()
    assert abs(correction.of(pair)) < 0.05


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
def test_a_probe_answers_as_the_model_and_looks_into_its_norms(make) -> None:
    classifier = make()
    probe, x = Probe(classifier), images(6)
    view = probe(x)
    assert torch.equal(view.logits, classifier(x))
    assert view.moments.shape == (6, probe.depth.numel())
    assert torch.isfinite(view.moments).all()
    assert set(probe.depth.tolist()) == {0, 1, 2, 3}
    assert not any(module._forward_pre_hooks for module in classifier.modules())


def test_moments_are_those_of_the_batch() -> None:
    classifier = tiny_cnn()
    first = next(m for m in classifier.modules() if isinstance(m, torch.nn.BatchNorm2d))
    caught = []
    hook = first.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    view = Probe(classifier)(images(6))
    hook.remove()
    width = first.num_features
    assert torch.allclose(view.moments[:, :width], caught[0].mean((2, 3)), atol=1e-5)
    assert torch.allclose(view.moments[:, width : 2 * width], caught[0].square().mean((2, 3)), atol=1e-4)


@pytest.mark.parametrize("method", ["norm", "tent", "cotta", "rmt"])
def test_a_tap_finds_the_head_that_answered(method: str) -> None:
    adapter = adapters.build(method, tiny_cnn())
    tap, x = HeadTap(), images(8)
    with tap.on(adapter):
        answer = adapters.answer(adapter, x)
    head = tap.behind(answer.logits)
    assert head is not None
    agree = float((head.logits(head.features).argmax(1) == answer.logits.argmax(1)).float().mean())
    assert agree == 1.0 if method in {"norm", "tent"} else agree > 0.5
    assert tap.behind(answer.logits[:3]) is None
    answer.learn()


@pytest.mark.parametrize("method", ["source", "rotta"])
def test_a_tap_finds_the_head_that_answered_part_by_part(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(classifiers, "PIXELS", 3 * 16 * 16)
    adapter, tap = adapters.build(method, tiny_cnn()), HeadTap()
    with tap.on(adapter):
        answer = adapters.answer(adapter, images(8))
    head = tap.behind(answer.logits)
    assert head is not None
    torch.testing.assert_close(head.logits(head.features), answer.logits)


def test_a_canary_is_scored_in_turns() -> None:
    pixels = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 3, 2, 2)
    canary = Canary(pixels, torch.tensor([0, 1] * 10), batch=5, every=2)

    def always_zero(x: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)

    assert canary.accuracy is None
    assert [canary.see(always_zero) for _ in range(8)] == [False, True] * 4
    assert (canary.images, canary.accuracy) == (20, 0.5)
    other = Canary(pixels, torch.tensor([0, 1] * 10), batch=5, every=2)
    other.load(canary.dump())
    assert (other.images, other.accuracy) == (20, 0.5)
    other.forget()
    assert other.accuracy is None
