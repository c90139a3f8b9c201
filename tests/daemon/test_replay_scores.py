"""The numbers of a replay against slow and plain ones."""

import math

import numpy as np
import pytest
from scipy import stats

from tta_daemon.offline.replay.scores import Bin, Sheet, beside, calibration_error, course, reliability, score, wilson


def sheet(count: int = 500, seed: int = 0) -> Sheet:
    chance = np.random.default_rng(seed)
    confidence = chance.uniform(0.1, 1, count).astype(np.float32)
    right = chance.uniform(size=count) < confidence
    return Sheet(np.ones(count, bool), right, confidence, -np.log(confidence), (1 - confidence) ** 2)


@pytest.mark.parametrize(("wrong", "images"), [(0, 50), (3, 50), (25, 50), (50, 50), (4825, 10_000)])
def test_wilson_is_scipys(wrong: int, images: int) -> None:
    theirs = stats.binomtest(wrong, images).proportion_ci(0.95, method="wilson")
    assert wilson(wrong, images) == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_a_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    chance, lost, won, images, covered = np.random.default_rng(1), 0.06, 0.03, 400, 0
    for _ in range(1000):
        cells = chance.multinomial(images, [lost, won, 1 - lost - won])
        against = beside(int(cells[0]), int(cells[1]), images)
        covered += against.low <= lost - won <= against.high
    assert 0.93 <= covered / 1000 <= 0.98


@pytest.mark.parametrize(
    ("lost", "won", "verdict"), [(60, 20, "worse"), (25, 20, "perhaps worse"), (20, 20, "alike"), (20, 60, "better")]
)
def test_the_verdict_is_what_chance_leaves(lost: int, won: int, verdict: str) -> None:
    assert beside(lost, won, 1000).verdict == verdict


def test_calibration_error_is_the_sum_over_bins() -> None:
    ours, expected = sheet(), 0.0
    for n in range(15):
        inside = (ours.confidence >= n / 15) & (ours.confidence < (n + 1) / 15)
        if inside.any():
            gap = abs(float(ours.confidence[inside].mean()) - float(ours.right[inside].mean()))
            expected += inside.mean() * gap
    assert calibration_error(reliability(ours.confidence, ours.right)) == pytest.approx(expected, abs=2e-4)
    assert sum(b.images for b in reliability(ours.confidence, ours.right)) == 500
    assert reliability(np.ones(3, np.float32), np.ones(3, bool)) == (Bin(3, 1.0, 1.0),)


def test_a_score_is_over_what_both_have_answered() -> None:
    ours, source = sheet(seed=0), sheet(seed=1)
    ours.answered[:100] = False
    both = slice(100, None)
    found = score(ours, source)
    assert found.images == 400
    assert found.error == pytest.approx(1 - ours.right[both].mean(), abs=1e-4)
    assert found.against.negative_flips == pytest.approx((source.right & ~ours.right)[both].mean(), abs=1e-4)
    assert found.against.positive_flips == pytest.approx((~source.right & ours.right)[both].mean(), abs=1e-4)
    assert found.nll == pytest.approx(float(ours.nll[both].mean()), abs=1e-4)
    assert found.brier == pytest.approx(float(ours.brier[both].mean()), abs=1e-4)


def test_the_course_is_the_error_window_by_window_and_nothing_where_nothing_was_answered() -> None:
    ours = sheet(100)
    ours.right[:] = np.repeat([True, False], 50)
    ours.answered[75:] = False
    found = course(ours, 4)
    assert found[:3] == (0.0, 0.0, 1.0)
    assert math.isnan(found[3])
