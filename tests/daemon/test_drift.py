"""Drift is seen where it is, not where it is not, and other proportions of classes are not taken for it."""

import pytest
import torch
from torch import Tensor

from tta_daemon.watch.blocks import Blocks
from tta_daemon.watch.drift.alarms import Alarms
from tta_daemon.watch.drift.detectors import Drift
from tta_daemon.watch.drift.null import STATISTICS, Null, null_of, sizes_between, tail
from tta_daemon.watch.drift.profile import Profile, profile_of
from tta_daemon.watch.drift.scores import frechet, jensen_shannon, sampling_noise
from tta_daemon.watch.events import Happening
from tta_daemon.watch.view import SourceView

CLASSES, MOMENTS, WIDTH = 6, 16, 12


class Stream:
    """Images as their numbers, class by class, that never run out."""

    def __init__(self, seed: int = 0) -> None:
        self.dice = torch.Generator().manual_seed(seed)
        fixed = torch.Generator().manual_seed(99)
        self.moments = torch.randn(CLASSES, MOMENTS, generator=fixed)
        self.features = 2 * torch.randn(CLASSES, WIDTH, generator=fixed)

    def draw(self, images: int, *, only: int | None = None, offset: float = 0.0, doubt: float = 0.0) -> SourceView:
        classes = torch.randint(CLASSES, (images,), generator=self.dice)
        if only is not None:
            classes = torch.full_like(classes, only)
        logits = torch.randn(images, CLASSES, generator=self.dice)
        logits[torch.arange(images), classes] += 8.0 - doubt
        moments = self.moments[classes] + torch.randn(images, MOMENTS, generator=self.dice) + offset
        features = self.features[classes] + torch.randn(images, WIDTH, generator=self.dice)
        return SourceView(logits, features, moments)


@pytest.fixture(scope="module")
def known() -> tuple[Profile, Null]:
    view = Stream().draw(3000)
    profile = profile_of(view, torch.arange(MOMENTS) % 4)
    worlds = [(profile.residuals(view), view.logits.argmax(1))]
    return profile, null_of(profile, worlds, sizes_between(32, 256), draws=200)


@pytest.fixture
def drift(known: tuple[Profile, Null]) -> Drift:
    return Drift(*known, 32, 256)


def kinds(drift: Drift, views: list[SourceView]) -> list[str]:
    return [event.kind for view in views for event in drift.see(view, 0.0)]


def test_nothing_is_told_of_the_source(drift: Drift) -> None:
    stream = Stream(1)
    assert kinds(drift, [stream.draw(32) for _ in range(200)]) == []
    assert all(0.2 < score.score < score.threshold for score in drift.scores.values())


def test_a_shift_of_the_images_is_told_once_and_its_end_too(drift: Drift) -> None:
    stream = Stream(1)
    assert kinds(drift, [stream.draw(32) for _ in range(10)]) == []
    began = kinds(drift, [stream.draw(32, offset=1.0) for _ in range(10)])
    assert began == [Happening.DOMAIN_CHANGED, Happening.DRIFT_BEGAN]
    assert drift.scores[STATISTICS].drifted
    ended = kinds(drift, [stream.draw(32) for _ in range(10)])
    assert ended == [Happening.DOMAIN_CHANGED, Happening.DRIFT_ENDED]


def test_another_drift_after_the_first_is_a_change_of_domain(drift: Drift) -> None:
    stream = Stream(1)
    kinds(drift, [stream.draw(32, offset=1.0) for _ in range(10)])
    assert kinds(drift, [stream.draw(32, offset=-1.0) for _ in range(3)]) == [Happening.DOMAIN_CHANGED]


def test_doubt_alone_is_drift_by_entropy(drift: Drift) -> None:
    stream = Stream(1)
    assert Happening.DRIFT_BEGAN in kinds(drift, [stream.draw(32, doubt=4.0) for _ in range(8)])
    assert drift.scores["entropy"].drifted


def test_one_class_alone_is_label_shift_and_nothing_else(drift: Drift) -> None:
    stream = Stream(1)
    told = kinds(drift, [stream.draw(32, only=2) for _ in range(30)])
    assert told == [Happening.LABEL_SHIFT_BEGAN]
    assert not drift.covariate
    assert kinds(drift, [stream.draw(32) for _ in range(30)]) == [Happening.LABEL_SHIFT_ENDED]


def test_a_poisoned_batch_is_not_looked_at(drift: Drift) -> None:
    view = Stream(1).draw(32)
    view.logits[3, 1] = torch.nan
    assert drift.see(view, 0.0) == []
    assert drift.seen == 0


@pytest.mark.parametrize("size", [1, 7, 32, 100])
def test_batches_of_any_size_fill_blocks(drift: Drift, size: int) -> None:
    stream = Stream(1)
    assert kinds(drift, [stream.draw(size) for _ in range(640 // size)]) == []
    assert drift.blocks.images <= 8 * (32 + size)
    assert len(drift.blocks) <= 8


def test_a_dump_resumes_where_it_was_taken(known: tuple[Profile, Null]) -> None:
    one, other, stream = Drift(*known, 32, 256), Drift(*known, 32, 256), Stream(1)
    kinds(one, [stream.draw(20, offset=0.7) for _ in range(9)])
    other.load(one.dump())
    rest = [stream.draw(20) for _ in range(9)]
    assert kinds(one, rest) == kinds(other, rest)
    assert one.scores == other.scores
    assert all(
        torch.equal(mine, theirs) for mine, theirs in zip(one.dump().values(), other.dump().values(), strict=True)
    )


def test_the_same_draws_give_the_same_null(known: tuple[Profile, Null]) -> None:
    profile, _ = known
    view = Stream().draw(500)
    worlds = [(profile.residuals(view), view.logits.argmax(1))]
    one, other = (null_of(profile, worlds, [32], draws=50, seed=3) for _ in range(2))
    assert torch.equal(one.limits, other.limits)
    assert one.change == other.change


def test_residuals_cancel_whatever_the_classes(known: tuple[Profile, Null]) -> None:
    profile, _ = known
    for only in range(CLASSES):
        residuals = profile.residuals(Stream(2).draw(2000, only=only))
        assert float(residuals.mean(0)[:MOMENTS].abs().max()) < 0.2


def test_features_are_white_within_classes(known: tuple[Profile, Null]) -> None:
    profile, _ = known
    residuals = profile.residuals(Stream(2).draw(20_000))[:, MOMENTS + 1 :]
    assert torch.allclose(residuals.T @ residuals / len(residuals), torch.eye(WIDTH), atol=0.15)


def test_frechet_against_the_general_formula() -> None:
    dice = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=dice, dtype=torch.float64)
    covariance, mean = root @ root.T, torch.randn(5, generator=dice, dtype=torch.float64)
    values = torch.linalg.eigvals(covariance).real
    slow = mean.square().sum() + covariance.trace() + 5 - 2 * values.sqrt().sum()
    assert frechet(mean, covariance + torch.outer(mean, mean)) == pytest.approx(float(slow))


def test_jensen_shannon_is_bounded_and_symmetric() -> None:
    one, other = torch.tensor([1e6, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1e6])
    assert jensen_shannon(one, other) == pytest.approx(float(torch.tensor(2.0).log()), abs=1e-4)
    assert jensen_shannon(one, other) == pytest.approx(jensen_shannon(other, one))


def test_noise_counts_both_samples() -> None:
    noise = sampling_noise(torch.tensor([32.0, 0.0]), torch.tensor([31.0, 1e9]))
    assert noise == pytest.approx((1 / 32 + 1 / 32) ** 0.5)


def test_the_tail_of_equal_values_is_their_value() -> None:
    assert tail([2.0] * 50, 1e-6) == 2.0


def test_a_network_without_norms_is_watched_by_entropy_and_features() -> None:
    bare = Stream().draw(1000)
    view = SourceView(bare.logits, bare.features, bare.moments[:, :0])
    profile = profile_of(view, torch.zeros(0, dtype=torch.int64))
    null = null_of(profile, [(profile.residuals(view), view.logits.argmax(1))], [32], draws=50)
    drift = Drift(profile, null, 32, 32)
    odd = Stream(3).draw(64, doubt=5.0)
    assert Happening.DRIFT_BEGAN in kinds(drift, [SourceView(odd.logits, odd.features, odd.moments[:, :0])])


def feed(alarms: Alarms, values: Tensor) -> list[str]:
    return [name for value in values.tolist() for name in alarms.see(value)]


def test_alarms_are_raised_by_change_and_only_by_it() -> None:
    dice, alarms = torch.Generator().manual_seed(0), Alarms()
    assert feed(alarms, 1 + 0.2 * torch.randn(2000, generator=dice)) == []
    raised = feed(alarms, 9 + torch.randn(100, generator=dice))
    assert set(raised) == set(Alarms.NAMES)
    assert alarms.count["page_hinkley"] >= 1


def test_alarms_survive_a_restart() -> None:
    dice, one, other = torch.Generator().manual_seed(0), Alarms(), Alarms()
    feed(one, 1 + 0.2 * torch.randn(300, generator=dice))
    other.load(one.dump())
    values = 6 + torch.randn(60, generator=dice)
    assert feed(one, values) == feed(other, values)
    assert one.count == other.count


def test_a_saved_window_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="not of 3"):
        Blocks(3, 4, 2).load(Blocks(5, 4, 2).dump())
