"""First, do no harm: the guard's choices as pure functions of evidence, and what the loop makes of them."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import images
from torch.nn import functional
from world import Memory, config, pictures

from tta_daemon.answered import Hold
from tta_daemon.control.sections import Guard as Settings
from tta_daemon.learner import Learner
from tta_daemon.model.load import load
from tta_daemon.watch.accuracy import Scored
from tta_daemon.watch.guard import CALM, Decision, Guard, Serve, blended
from tta_daemon.watch.information import PARTS, Information, told
from tta_daemon.watch.wager import Wager

CLASSES = 10


def said(sure, classes=range(CLASSES), count=200):
    """Logits of answers that go through ``classes`` in turn, each as ``sure`` as that."""
    which = torch.tensor([list(classes)[i % len(list(classes))] for i in range(count)])
    return functional.one_hot(which, CLASSES).double() * sure


SHARP, DULL, COLLAPSED = said(8.0), said(2.0), said(12.0, classes=[3])


@pytest.mark.parametrize(
    ("source", "adapted", "serve"),
    [
        (SHARP, SHARP, Serve.BLEND),  # both tell as much
        (SHARP, said(5.0), Serve.SOURCE),  # adapted answers are less sure: nothing had drifted, or labels come in runs
        (DULL, SHARP, Serve.ADAPTED),  # adapting to a drift made answers sharp
        (said(8.0, classes=[0, 1]), SHARP, Serve.ADAPTED),  # a drift made the source see two classes everywhere
        (SHARP, COLLAPSED, Serve.SOURCE),  # sure, and all the same
        (COLLAPSED, COLLAPSED, Serve.BLEND),
    ],
)
def test_whoever_tells_more_answers(source, adapted, serve):
    assert Guard(Settings()).weigh(source, adapted) is serve


def test_what_is_not_finite_is_never_served():
    guard = Guard(Settings())
    broken = SHARP.clone()
    broken[0, 0] = torch.nan
    assert guard.weigh(DULL, broken) is Serve.SOURCE
    assert guard.weigh(DULL, SHARP) is Serve.ADAPTED  # and is forgotten at once


@pytest.mark.parametrize(
    ("source", "adapted", "teachable"),
    [(SHARP, said(7.0), True), (SHARP, said(3.0), False), (SHARP, COLLAPSED, False), (DULL, SHARP, True)],
)
def test_what_is_far_worse_than_the_source_is_not_learned_from(source, adapted, teachable):
    guard = Guard(Settings())
    guard.weigh(source, adapted)
    assert guard.teachable is teachable


def test_a_change_of_mind_is_told_once_with_its_evidence():
    guard = Guard(Settings())
    for _ in range(3):
        guard.weigh(DULL, SHARP)
    (verdict,) = guard.verdicts()
    assert verdict.decision is Decision.SERVE_ADAPTED
    assert verdict.evidence["adapted_information"] > verdict.evidence["source_information"]
    assert guard.verdicts() == []


def test_small_batches_are_judged_together():
    guard = Guard(Settings(window=64))
    for logits, better in zip(DULL.split(4), SHARP.split(4), strict=True):
        served = guard.weigh(logits, better)
    assert served is Serve.ADAPTED
    assert 64 <= guard.source.recent.images <= 64 + 8


def test_of_single_images_only_so_many_sums_are_kept():
    guard = Guard(Settings(window=128))
    for logits in SHARP.repeat(10, 1).split(1):
        guard.weigh(logits, logits, logits)
    kept = [len(tensor) for name, tensor in guard.dump().items() if name.endswith("/numbers")]
    assert 4 < max(kept) <= PARTS + 1
    assert guard.source.lasting.images >= 4 * 128


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(16, 256))
def test_a_window_holds_the_newest_images_and_little_more(sizes, window):
    about = Information()
    for size in sizes:
        about.add(told(said(3.0, count=size)), window)
    assert min(sum(sizes), window) <= about.images <= window + max(*sizes, window // PARTS)


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from([16, 100, 5_000])), min_size=1, max_size=80))
def test_what_a_window_tells_is_what_its_batches_say_whatever_the_window_becomes(given):
    about, shown, dice = Information(), [], torch.Generator().manual_seed(0)
    for size, window in given:
        logits = 4 * torch.randn(size, CLASSES, generator=dice, dtype=torch.float64)
        about.add(told(logits), window)
        shown += logits.split(1)
        p = torch.cat(shown[-about.images :]).softmax(1)
        assert about.confidence == pytest.approx(float(p.amax(1).mean()))
        mean = p.mean(0)
        entropies = float(-(p * p.log()).sum(1).mean()), float(-(mean * mean.log()).sum())
        if about.images > 1:
            most = torch.tensor(float(min(CLASSES, about.images))).log()
            assert about.information == pytest.approx((entropies[1] - entropies[0]) / float(most), abs=1e-6)
    again = Information()
    again.load(about.dump())
    assert (again.information, again.confidence, again.images) == (about.information, about.confidence, about.images)


@pytest.mark.parametrize(
    ("source", "adapted", "mixed", "serve"),
    [
        (DULL, said(5.0), SHARP, Serve.MIXED),  # both are better than the source, the mixture most of all
        (DULL, SHARP, said(5.0), Serve.ADAPTED),
        (SHARP, said(5.0), SHARP, Serve.BLEND),  # batch statistics mislead, the mixture is no worse than the source
        (SHARP, said(5.0), said(6.0), Serve.SOURCE),
        (DULL, SHARP, COLLAPSED, Serve.ADAPTED),
        (DULL, SHARP, torch.full_like(SHARP, torch.nan), Serve.ADAPTED),
    ],
)
def test_statistics_mixed_with_the_sources_answer_where_that_tells_most(source, adapted, mixed, serve):
    assert Guard(Settings()).weigh(source, adapted, mixed) is serve


def test_the_mixture_is_compared_on_the_same_images_even_where_it_was_not_asked_for_all():
    guard = Guard(Settings(window=100))
    assert guard.weigh(DULL[:50], said(5.0, count=50), SHARP[:50]) is Serve.MIXED
    assert guard.evidence()["mixed_information"] > guard.evidence()["adapted_information"]
    assert guard.weigh(DULL[:10], said(5.0, count=10)) is Serve.ADAPTED  # there are no such answers to this batch
    assert guard.mixed.recent.images == guard.adapted.recent.images
    for _ in range(3):
        guard.weigh(DULL[:50], said(5.0, count=50))
    assert "mixed_information" not in guard.evidence()


def test_what_misled_for_long_is_not_believed_for_one_good_window():
    guard = Guard(Settings(window=100))
    for _ in range(3):
        guard.weigh(SHARP[:100], said(3.0, count=100))
    assert guard.weigh(DULL[:100], SHARP[:100]) is Serve.SOURCE  # one window says adapted, three before said source
    for _ in range(4):
        served = guard.weigh(DULL[:100], SHARP[:100])
    assert served is Serve.ADAPTED


def test_what_was_learned_is_forgotten_where_a_newborn_tells_more():
    guard = Guard(Settings(window=150))
    assert not guard.check(COLLAPSED, SHARP)  # too few images to be sure
    assert guard.check(COLLAPSED, SHARP)
    (verdict,) = guard.verdicts()
    assert verdict.decision is Decision.REWIND
    guard.departed()
    assert not any(guard.check(SHARP, DULL) for _ in range(5))


def test_after_a_rewind_learning_is_slower_until_all_is_calm():
    guard = Guard(Settings(window=50, check_every=1))
    assert guard.every == 1
    for slower in (2, 4, 8, 16, 16):
        assert guard.check(COLLAPSED, SHARP)
        guard.departed()
        assert guard.every == slower
    taught = []
    for _ in range(32):
        guard.weigh(DULL, SHARP)
        taught.append(guard.teachable)
    assert sum(taught) == 2
    for faster in (8, 4, 2, 1, 1):
        assert not any(guard.check(SHARP, SHARP) for _ in range(CALM))
        assert guard.every == faster


@pytest.mark.parametrize(("rewind", "first"), [("full", 0.0), ("selective", 0.5)])
def test_a_selective_rewind_keeps_a_half_at_first_and_nothing_where_that_does_not_help(rewind, first):
    guard = Guard(Settings(window=50, rewind=rewind))
    assert guard.check(COLLAPSED, SHARP)
    assert guard.kept == first
    assert guard.check(COLLAPSED, SHARP)
    assert guard.kept == 0.0


def test_a_check_is_due_at_every_so_many_batches():
    guard = Guard(Settings(check_every=3))
    assert [guard.check_due() for _ in range(6)] == [False, False, True] * 2
    never = Guard(Settings(check_every=0))
    assert not any(never.check_due() for _ in range(20))


def test_a_new_beginning_is_due_after_so_many_steps():
    guard = Guard(Settings(reset_every=100))
    assert not guard.reset_due(99)
    assert guard.reset_due(100)
    assert not Guard(Settings()).reset_due(10**9)


def test_labels_overrule_what_answers_seem_to_tell():
    guard = Guard(Settings())
    for _ in range(40):
        guard.labeled(Scored(1, 0, 1, 0.0))
    assert guard.vetoed
    assert guard.weigh(DULL, SHARP) is Serve.SOURCE
    for _ in range(40):
        guard.labeled(Scored(1, 1, 0, 0.0))
    assert not guard.vetoed
    assert [v.decision for v in guard.verdicts()] == [Decision.VETO, Decision.TRUST]


@given(st.lists(st.booleans(), max_size=60))
def test_bets_never_lose_everything_and_win_on_one_side_alone(rights):
    wager = Wager()
    for adapted in rights:
        wager.saw(int(adapted), int(not adapted))
        assert wager.better > 0
        assert wager.worse > 0
        assert min(wager.better, wager.worse) <= 1.0


def test_a_fair_game_is_seldom_won():
    dice, won = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        wager = Wager()
        steps = torch.randint(0, 2, (500,), generator=dice).tolist()
        won += any(wager.saw(step, 1 - step) for step in steps)
    assert won <= 200 * 2 / 20 * 1.5


@given(st.integers(1, 6), st.integers(0, 3), st.integers(2, 12))
def test_information_is_a_share(batches, seed, classes):
    about, dice = Information(), torch.Generator().manual_seed(seed)
    for _ in range(batches):
        about.add(told(torch.randn(8, classes, generator=dice) * 4), 10_000)
    assert -1e-9 <= about.information <= 1.0 + 1e-9
    assert 1 / classes <= about.confidence <= 1.0


def test_a_blend_is_the_mean_of_both():
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    assert torch.allclose(blended(a, b).softmax(1), (a.softmax(1) + b.softmax(1)) / 2, atol=1e-6)


def test_a_restart_decides_as_if_nothing_had_happened():
    guard, other = Guard(Settings()), Guard(Settings())
    guard.weigh(DULL, said(5.0), SHARP)
    guard.check(SHARP, DULL)
    guard.check_due()
    guard.labeled(Scored(3, 2, 1, 0.0))
    other.load(guard.dump())
    assert other.evidence() == guard.evidence()
    assert other.serve is guard.serve
    assert all(torch.equal(tensor, other.dump()[name]) for name, tensor in guard.dump().items())


def learner(**guard):
    """A learner on the small network, whose adapted answers are all the same from its first step on."""
    given = config(adapt={"learn_from": 4, "options": {"lr": 0.5}}, guard={"mode": "guarded", "window": 16} | guard)
    return Learner(load(given.model), given.adapt, 1.0, given.guard)


def test_a_batch_that_the_guard_rejects_is_answered_by_the_source_and_not_learned_from():
    ours = learner()
    ours.guard.vetoed = True
    answered = ours.answer(images(8))
    assert answered.logits.equal(answered.source)
    assert answered.hold is Hold.GUARD
    answered.learn()
    assert ours.step == 0


def test_to_observe_is_to_answer_with_the_source_and_to_learn_all_the_same():
    ours = learner(mode="observe")
    ours.guard.weigh = lambda *_: ours.guard._turn_to(Serve.ADAPTED)
    answered = ours.answer(images(8))
    assert answered.logits.equal(answered.source)
    assert answered.serve is Serve.SOURCE
    assert not answered.adapted.equal(answered.source)
    answered.learn()
    assert ours.step == 1


def test_a_batch_that_was_learned_before_a_restart_is_not_weighed_again():
    ours = learner()
    ours.answer(images(8))
    before = ours.guard.dump()
    ours.answer(images(8, seed=1), learned=True)
    assert all(torch.equal(tensor, ours.guard.dump()[name]) for name, tensor in before.items())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_mixture_leaves_where_it_was_chosen_and_is_asked_only_where_wanted(share):
    ours = learner(mixed=share)
    given_to_guard = []
    ours.guard.weigh = lambda *said: given_to_guard.append(said) or ours.guard._turn_to(Serve.MIXED)
    answered, mixed = ours.answer(images(8)), ours._predict_mixed(images(8), 8.0)
    if share:
        assert answered.serve is Serve.MIXED
        assert answered.logits.equal(mixed)
        assert not mixed.equal(answered.adapted)
    else:
        assert given_to_guard[0][2] is None
        assert answered.serve is Serve.ADAPTED
        assert answered.logits is answered.adapted


def test_a_mean_over_views_is_judged_by_what_one_view_says():
    given = config(
        adapt={"method": "cotta", "learn_from": 4, "options": {"views": 2, "augment_below": 2.0}},
        guard={"mode": "guarded", "window": 16},
    )
    ours = Learner(load(given.model), given.adapt, 1.0, given.guard)
    heard = []
    ours.guard.weigh = lambda *said: heard.append(said[1:]) or ours.guard._turn_to(Serve.ADAPTED)
    answered = ours.answer(images(8))
    assert answered.logits is answered.adapted
    ((single, mixed),) = heard
    assert single.equal(ours._predict(images(8)))
    assert not single.equal(answered.adapted)
    assert mixed is None


def test_without_a_guard_the_adapted_model_answers():
    ours = learner(mode="off")
    answered = ours.answer(images(8))
    assert answered.logits is answered.adapted


POISON = {
    "not a number": lambda clean: torch.full_like(clean, torch.nan),
    "infinite": lambda clean: torch.full_like(clean, torch.inf),
    "huge": lambda clean: torch.full_like(clean, 1e30),
    "black": torch.zeros_like,
    "saturated": torch.ones_like,
    "identical": lambda clean: clean[:1].expand_as(clean),
}


@pytest.mark.parametrize("how_many", [1, 8])
@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("method", ["norm", "tent", "eata", "sar", "cotta", "rotta", "labelshift", "temperature"])
def test_whatever_a_batch_is_poisoned_with_answers_and_state_stay_sound_and_learning_goes_on(method, poison, how_many):
    options = {"views": 2} if method == "cotta" else {}
    given = config(
        adapt={"method": method, "learn_from": 4, "options": options}, guard={"mode": "guarded", "window": 16}
    )
    ours = Learner(load(given.model), given.adapt, 1.0, given.guard)
    for seed in range(3):
        ours.answer(images(8, seed=seed)).learn()
    clean = images(8, seed=9)
    batch = torch.cat([POISON[poison](clean[:how_many]), clean[how_many:]])
    answered = ours.answer(batch)
    broken = not torch.isfinite(ours._ask_source(batch)[:how_many]).all()  # nobody has an answer to these
    others = answered.logits[how_many if broken else 0 :]
    assert torch.isfinite(others).all()
    answered.learn()
    assert all(torch.isfinite(tensor.double()).all() for tensor in ours.adapter.dump().values())
    assert all(torch.isfinite(tensor).all() for tensor in ours.guard.dump().values())
    before = ours.step
    for seed in range(10, 14):
        again = ours.answer(images(8, seed=seed))
        assert torch.isfinite(again.logits).all()
        again.learn()
    assert ours.step > before


def test_looking_at_a_newborn_changes_nothing():
    ours = learner(mode="off")
    for seed in range(3):
        ours.answer(images(8, seed=seed)).learn()
    before, batch = ours.adapter.dump(), images(8, seed=9)
    grown, newborn = ours._grown_and_newborn(batch)
    assert all(torch.equal(tensor, ours.adapter.dump()[name]) for name, tensor in before.items())
    assert not torch.equal(grown, newborn)
    ours.adapter.rewind()
    assert torch.equal(newborn, ours._predict(batch))


def test_a_model_that_collapses_is_put_back_to_birth():
    ours = learner(check_every=1)
    ours.guard.weigh = lambda *_: ours.guard._turn_to(Serve.ADAPTED)
    ours._grown_and_newborn = lambda _: (COLLAPSED, SHARP)
    ours.answer(images(16)).learn()
    assert Decision.REWIND in [verdict.decision for verdict in ours.guard.verdicts()]
    assert ours.step == 0


def test_answers_say_who_was_believed_and_what_the_others_say():
    world = Memory(config(guard={"mode": "observe"}))
    world.send(pictures(8))
    world.run_dry()
    body = json.loads(world.log.records("answers")[0].value)
    assert body["by"] == "source"
    assert body["predictions"][0]["class"] == body["source_class"][0]
    assert len(body["adapted_class"]) == 1
    assert world.metrics.registry.get_sample_value("tta_answers_total", {"model": "source"}) == 8
