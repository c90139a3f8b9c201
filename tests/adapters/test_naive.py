"""What is measured against answers the same: every naive method, over several batches, on a small network."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from nets import images, tiny_cnn
from samples import make, prior_of
from torch import Tensor

import adapters
from adapters import Classifier
from benchmarks.naive import NAIVE

DTYPE = torch.float64

SAR: Mapping[str, Any] = {"lr": 0.05, "excluded": (), "entropy_margin": 0.8}

CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "norm": ("norm", {"mode": "batch"}),
    "tent": ("tent", {}),
    "tent, sgd": ("tent", {"optimizer": "sgd", "nesterov": True, "lr": 0.05}),
    "rpl": ("rpl", {}),
    "eata": ("eata", {"entropy_margin": 0.9, "similarity_margin": 0.8, "fisher_weight": 1000.0}),
    "sar": ("sar", {**SAR, "recover_below": 0.0}),
    "sar, recovering": ("sar", {**SAR, "recover_below": 1.01}),
    "roid": ("roid", {}),
    "rotta": ("rotta", {}),
    "cotta": ("cotta", {"restore_rate": 0.0}),
    "cotta, sure": ("cotta", {"restore_rate": 0.0, "augment_below": 0.0, "loss": "symmetric"}),
    "petal": ("petal", {"prior_weight": 1e-3}),
    "rmt": ("rmt", {}),
}


def decided() -> Classifier:
    """A small network whose answers differ, and that is surer of some than of others."""
    classifier = tiny_cnn().double()
    with torch.no_grad():
        classifier.network.linear.weight *= 8
        classifier.network.linear.bias -= make("norm", {"mode": "batch"}, classifier).predict(unlike(9)).mean(0)
    return classifier


def unlike(seed: int) -> Tensor:
    """Images from dark to bright."""
    return images(12, seed=seed).to(DTYPE) * torch.linspace(0.1, 1.0, 12, dtype=DTYPE).view(-1, 1, 1, 1)


def test_every_naive_method_is_compared() -> None:
    assert {method for method, _ in CASES.values()} == set(NAIVE)


@pytest.mark.parametrize("case", CASES)
def test_naive_code_gives_the_same_answers(case: str) -> None:
    method, overrides = CASES[case]
    classifier = decided()
    prior = prior_of(method, classifier)
    ours = make(method, overrides, classifier, seed=3)
    theirs = NAIVE[method](decided(), ours.options, prior, 3)
    moved = 0.0
    for seed in range(5):
        batch = unlike(seed)
        plain = ours.predict(batch)
        answer = adapters.step(ours, batch).logits
        torch.testing.assert_close(answer, theirs(batch), rtol=0, atol=1e-6)
        moved = max(moved, float((ours.predict(batch) - plain).abs().max()))
    assert (moved > 1e-5) is (method != "norm"), "nothing was learned, so nothing was compared"
