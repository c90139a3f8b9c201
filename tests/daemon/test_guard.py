"""First, do no harm: the guard's choices as pure functions of evidence, and what the loop makes of them."""

import json
from dataclasses import replace
from types import SimpleNamespace

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
from tta_daemon.speakers import Speakers
from tta_daemon.watch.accuracy import Scored
from tta_daemon.watch.balanced import MOST, Balanced
from tta_daemon.watch.canary import Recall
from tta_daemon.watch.glance import Glance
from tta_daemon.watch.guard import CALM, Decision, Guard, Lives, Serve, blended
from tta_daemon.watch.information import PARTS, Information, told
from tta_daemon.watch.wager import Wager

CLASSES = 10


def said(sure, classes=range(CLASSES), count=200):
    """Logits of answers that go through ``classes`` in turn, each as ``sure`` as that."""
    which = torch.tensor([list(classes)[i % len(list(classes))] for i in range(count)])
    return functional.one_hot(which, CLASSES).double() * sure


def weigh(guard, source, own, other=None):
    """Whose answers leave, where the adapted model says ``own`` by what it lives by, and ``other`` by the other one."""
    others = {Lives.BATCH: Lives.MIXED, Lives.MIXED: Lives.BATCH}
    return guard.weigh(source, {guard.lives: own} | ({} if other is None else {others[guard.lives]: other}))


def by_batch_alone(**settings):
    """A guard that has no mixture to choose."""
    return Guard(Settings(mixed=0, **settings))


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
    assert weigh(by_batch_alone(), source, adapted) is serve


def test_what_is_not_finite_is_never_served():
    guard = by_batch_alone()
    broken = SHARP.clone()
    broken[0, 0] = torch.nan
    assert weigh(guard, DULL, broken) is Serve.SOURCE
    assert weigh(guard, DULL, SHARP) is Serve.ADAPTED  # and is forgotten at once


@pytest.mark.parametrize(
    ("source", "adapted", "sound"),
    [(SHARP, said(7.0), True), (SHARP, said(3.0), False), (SHARP, COLLAPSED, False), (DULL, SHARP, True)],
)
def test_what_is_far_worse_than_the_source_is_not_learned_from(source, adapted, sound):
    guard = Guard(Settings())
    weigh(guard, source, adapted)
    assert guard.sound is sound
    assert guard.teaches() is sound


def test_a_change_of_mind_is_told_once_with_its_evidence():
    guard = by_batch_alone()
    for _ in range(3):
        weigh(guard, DULL, SHARP)
    (verdict,) = guard.verdicts()
    assert verdict.decision is Decision.SERVE_ADAPTED
    assert verdict.evidence["adapted_information"] > verdict.evidence["source_information"]
    assert guard.verdicts() == []


def test_small_batches_are_judged_together():
    guard = by_batch_alone(window=64)
    for logits, better in zip(DULL.split(4), SHARP.split(4), strict=True):
        served = weigh(guard, logits, better)
    assert served is Serve.ADAPTED
    assert 64 <= guard.source.recent.images <= 64 + 8


def test_of_single_images_only_so_many_sums_are_kept():
    guard = Guard(Settings(window=128))
    for logits in SHARP.repeat(10, 1).split(1):
        weigh(guard, logits, logits, logits)
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
@pytest.mark.parametrize("lives_by_mixture", [True, False])
def test_statistics_mixed_with_the_sources_answer_where_that_tells_most(
    source, adapted, mixed, serve, lives_by_mixture
):
    guard = Guard(Settings())
    guard.mixes = lives_by_mixture
    own, other = (mixed, adapted) if lives_by_mixture else (adapted, mixed)
    if own is mixed and not own.isfinite().all():
        serve = Serve.SOURCE  # what would have left is broken: whatever else is, too, is not asked
    assert weigh(guard, source, own, other) is serve


def test_the_mixture_is_compared_on_the_same_images_even_where_the_other_was_not_asked_for_all():
    guard = Guard(Settings(window=100))
    assert weigh(guard, DULL[:50], SHARP[:50], said(5.0, count=50)) is Serve.MIXED
    assert guard.evidence()["mixed_information"] > guard.evidence()["adapted_information"]
    assert weigh(guard, DULL[:10], said(5.0, count=10)) is Serve.MIXED  # there are no other answers to this batch
    assert guard.mixed.recent.images == guard.adapted.recent.images
    for _ in range(3):
        weigh(guard, DULL[:50], said(5.0, count=50))
    assert "mixed_information" not in guard.evidence()


def test_a_mixture_that_tells_little_less_is_lived_by_all_the_same():
    guard = Guard(Settings(loss=0.05))
    assert weigh(guard, DULL, said(6.0), said(6.1)) is Serve.MIXED
    assert weigh(guard, DULL, said(4.0), SHARP) is Serve.ADAPTED
    assert not guard.mixes


def looked_at(guard, batches, dice, brightness=0.5):
    """How many of so many batches of the like the source is asked about, where the adapted model tells more."""
    count = 0
    for _ in range(batches):
        shown = brightness + 0.1 * torch.randn(50, 3, 8, 8, generator=dice)
        if guard.looks(shown, SHARP[:50]):
            count += 1
            weigh(guard, DULL[:50], SHARP[:50])
        else:
            guard.carry_on()
    return count


def test_where_nothing_changes_the_source_is_asked_about_few_batches():
    guard, dice = by_batch_alone(window=100, look_every=10), torch.Generator().manual_seed(0)
    first = looked_at(guard, 20, dice)
    assert first <= 8
    assert looked_at(guard, 100, dice) == 10
    assert guard.sound
    assert (
        looked_at(guard, 4, dice, brightness=0.3) == 4
    )  # the images change: who says that what was found still holds?
    assert looked_at(guard, 100, dice, brightness=0.3) <= 11


def test_where_the_source_has_a_part_in_the_answers_it_is_asked_about_every_batch():
    guard = Guard(Settings(window=16, look_every=10))
    shown = torch.rand(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(20):
        assert guard.looks(shown, SHARP[:50])
        assert weigh(guard, SHARP[:50], SHARP[:50]) is Serve.BLEND


def test_who_only_observes_looks_at_every_batch_for_the_source_answers_them_all():
    guard, dice = by_batch_alone(window=16, mode="observe"), torch.Generator().manual_seed(0)
    assert looked_at(guard, 30, dice) == 30


def test_a_guard_that_does_not_look_still_learns_as_slowly_as_it_decided():
    guard = by_batch_alone(window=16)
    weigh(guard, DULL, SHARP)
    guard.every = 4
    taught = [guard.carry_on() is Serve.ADAPTED and guard.teaches() for _ in range(16)]
    assert sum(taught) == 4


def test_comparisons_with_a_newborn_are_fewer_while_nothing_changes_or_does_harm():
    guard = by_batch_alone(window=50, check_every=2)
    due = 0
    for _ in range(200):
        if guard.check_due():
            due += 1
            guard.check(SHARP, SHARP)
    assert due < 30
    still = torch.zeros(50, 3, 8, 8)
    guard.looks(still, SHARP[:50])
    guard.looks(1 + still, SHARP[:50])  # another world
    assert [guard.check_due() for _ in range(4)].count(True) >= 1


@given(
    st.lists(st.sampled_from([1, 3, 50]), min_size=2, max_size=12),
    st.sampled_from(["brightness", "contrast", "sharpness", "answers"]),
)
def test_a_glance_notices_a_change_and_not_its_absence(sizes, what):
    dice, glance = torch.Generator().manual_seed(0), Glance()

    def shown(count, level):
        noise = torch.randn(count, 3, 8, 8, generator=dice)
        smooth = torch.randn(count, 3, 1, 1, generator=dice).expand(count, 3, 8, 8)
        kinds = {
            "brightness": 0.5 + 0.1 * noise + level,
            "contrast": 0.5 + (0.1 + level) * noise,
            "sharpness": 0.5 + 0.1 * (smooth if level else noise),
            "answers": 0.5 + 0.1 * noise,
        }
        return kinds[what], SHARP[:count] * (1 - level if what == "answers" else 1)

    glance.changed(*shown(50, 0.0))
    assert sum(glance.changed(*shown(size, 0.0)) for size in sizes) == 0
    again = Glance()
    again.load(glance.dump())
    changed = shown(50, 0.7)
    assert glance.changed(*changed)
    assert again.changed(*changed)
    assert not glance.changed(*shown(50, 0.7))


def test_a_glance_at_what_is_not_finite_is_a_change_and_leaves_no_trace():
    glance, still = Glance(), torch.zeros(50, 3, 8, 8)
    glance.changed(still, SHARP[:50])
    before = glance.dump()["seen"]
    assert glance.changed(torch.full_like(still, torch.nan), SHARP[:50])
    assert glance.dump()["seen"].equal(before)
    with pytest.raises(ValueError, match="other numbers"):
        glance.load({"seen": torch.zeros(3)})


def test_where_labels_come_in_runs_images_of_every_class_are_normalized_with():
    guard, one_class = Guard(Settings(window=100)), said(8.0, classes=[3])
    assert guard.weigh(one_class, {Lives.MIXED: said(2.0, classes=[3]), Lives.BATCH: said(1.0)}) is Serve.SOURCE
    assert guard.doubtful
    assert not guard.balances  # it was not asked
    known = {Lives.MIXED: said(2.0, classes=[3]), Lives.BATCH: said(1.0), Lives.BALANCED: said(8.0, classes=[3, 4])}
    for _ in range(4):
        served = guard.weigh(one_class, known)
    assert served is Serve.MIXED
    assert guard.lives is Lives.BALANCED
    assert not guard.sound or guard.doubtful
    assert "images of every class" in guard.verdicts()[-1].words
    assert guard.evidence()["balanced_information"] > guard.evidence()["mixed_information"]
    for _ in range(6):
        guard.weigh(one_class, known | dict.fromkeys((Lives.MIXED, Lives.BATCH), SHARP))
    assert guard.lives is Lives.MIXED  # labels do not come in runs any more
    assert not guard.doubtful


@given(st.lists(st.integers(0, 4), min_size=1, max_size=400))
def test_a_balanced_memory_keeps_the_newest_of_each_class(classes):
    memory, at = Balanced(), 0
    for size in (1, 50, 120, 400):
        part = torch.tensor(classes[at : at + size], dtype=torch.int64)
        stamps = torch.arange(at, at + len(part)).float()
        shown = torch.stack([stamps // 256, stamps % 256, 0 * stamps], 1)[:, :, None, None] / 255
        memory.add(shown, part)
        at += size
    kept = [int(256 * a + b) for a, b, _ in (memory.draw(MOST) * 255).round().flatten(1).tolist()]
    assert len(kept) == len(memory) == min(MOST, len(classes))
    for which in set(classes):
        own = [at for at, is_of in enumerate(classes) if is_of == which]
        mine = sorted(at for at in kept if classes[at] == which)
        assert mine == own[len(own) - len(mine) :]
        if len(mine) < len(own):
            assert len(mine) >= max(sum(classes[at] == other for at in kept) for other in set(classes)) - 1
    first = [classes[at] for at in kept[: len(set(classes))]]
    assert sorted(first) == sorted(set(classes))  # each class in turn
    again = Balanced()
    again.load(memory.dump())
    assert again.draw(MOST).equal(memory.draw(MOST))


@pytest.mark.parametrize("saved", [(torch.zeros(2, 3, 4, 4), torch.zeros(1)), (torch.zeros(2, 3), torch.zeros(2))])
def test_what_is_no_memory_is_refused(saved):
    with pytest.raises(ValueError, match="not of images"):
        Balanced().load(dict(zip(("images", "classes"), saved, strict=True)))


def test_images_of_another_size_begin_a_memory_anew():
    memory = Balanced()
    memory.add(torch.rand(5, 3, 8, 8), torch.arange(5))
    memory.add(torch.rand(2, 3, 4, 4), torch.arange(2))
    assert memory.draw(10).shape == (2, 3, 4, 4)


def test_what_misled_for_long_is_not_believed_for_one_good_window():
    guard = by_batch_alone(window=100)
    for _ in range(3):
        weigh(guard, SHARP[:100], said(3.0, count=100))
    assert weigh(guard, DULL[:100], SHARP[:100]) is Serve.SOURCE  # one window says adapted, three before said source
    for _ in range(4):
        served = weigh(guard, DULL[:100], SHARP[:100])
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
        weigh(guard, DULL, SHARP)
        taught.append(guard.teaches())
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
        guard.labeled(Scored(1, 0, 1, 0.0), 0.0)
    assert guard.vetoed
    assert weigh(guard, DULL, SHARP) is Serve.SOURCE
    for _ in range(40):
        guard.labeled(Scored(1, 1, 0, 0.0), 0.0)
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
    weigh(guard, DULL, said(5.0), SHARP)
    guard.check(SHARP, DULL)
    guard.check_due()
    guard.labeled(Scored(3, 2, 1, 0.0), 0.0)
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
    ours.guard.weigh, ours.guard.sound = lambda *_: ours.guard._turn_to(Serve.MIXED), True
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
def test_the_adapter_lives_by_the_mixture_until_the_batch_alone_tells_more(share):
    ours, heard = learner(mixed=share), []

    def decided(*said):
        heard.append(said)
        ours.guard.mixes = False
        return ours.guard._turn_to(Serve.ADAPTED)

    ours.guard.weigh = decided
    mixed, alone = ours._speakers.of_few(images(8)), ours._speakers.adapted(images(8))
    answered = ours.answer(images(8))
    assert answered.serve is Serve.ADAPTED
    assert answered.logits.equal(alone)
    if share:
        assert answered.adapted.allclose(mixed)
        assert heard[0][1][Lives.BATCH].equal(alone)
    else:
        assert answered.logits is answered.adapted
        assert heard[0][1].keys() == {Lives.BATCH}
    answered.learn()
    assert ours.answer(images(8)).adapted.equal(ours._speakers.adapted(images(8)))  # from now on, it learns by it too
    assert ours.adapter.mixed == 0


@pytest.mark.parametrize("method", ["tent", "cotta"])
def test_the_source_and_the_other_statistics_are_asked_only_where_the_guard_looks(method):
    given = config(
        adapt={"method": method, "learn_from": 4, "options": {"views": 2} if method == "cotta" else {}},
        guard={"mode": "guarded", "window": 16},
    )
    ours = Learner(load(given.model), given.adapt, 1.0, given.guard)
    ours.guard.looks = lambda *_: False
    ours.guard.serve = Serve.MIXED
    answered = ours.answer(images(8))
    assert answered.view is None
    assert answered.serve is Serve.MIXED
    assert answered.logits is answered.adapted
    ours.guard.serve = Serve.SOURCE  # whoever is believed answers, looked at or not
    assert ours.answer(images(8)).logits.equal(ours._speakers.source(images(8)))


def test_in_doubt_the_learner_remembers_images_and_normalizes_with_them():
    ours, asked = learner(), []

    def decided(_, said):
        asked.append(set(said))
        ours.guard.doubtful = True
        ours.guard.balances = Lives.BALANCED in said
        return ours.guard._turn_to(Serve.MIXED)

    ours.guard.weigh = decided
    assert ours.answer(images(16)).hold is not Hold.RUNS
    assert len(ours.guard.memory) == 16
    second = ours.answer(images(16, seed=1))
    assert asked == [{Lives.MIXED, Lives.BATCH}, set(Lives)]
    assert not second.logits.equal(second.adapted)
    third = ours.answer(images(16, seed=2))  # from now on it answers so
    assert third.hold is Hold.RUNS
    assert third.logits is third.adapted
    assert third.learn() == {}
    assert ours.step == 0
    ours.guard.doubtful = False
    ours._remember(images(16), third.logits)
    assert len(ours.guard.memory) == 0


def in_runs(**adapt):
    """A learner whose guard normalizes with a memory of images, and goes on so as long as it may."""
    given = config(adapt={"learn_from": 4} | adapt, guard={"mode": "guarded", "window": 16})
    ours = Learner(load(given.model), given.adapt, 1.0, given.guard)
    ours.guard.memory.add(images(16), torch.arange(16) % 5)
    ours.guard.doubtful = ours.guard.balances = True
    return ours


def test_whatever_holds_learning_back_batches_in_runs_are_normalized_with_the_memory():
    for adapt in ({"every": 1000}, {"when": "never"}, {"budget": 0.0}):
        ours = in_runs(**adapt)
        beside = ours._beside_memory(images(16))
        ours.adapter.mix(1.0)
        answered = ours.answer(images(16))
        assert answered.hold is Hold.RUNS
        assert not answered.adapted.allclose(ours._speakers.adapted(images(16)))
        assert answered.adapted.shape == beside.shape


def test_a_batch_too_small_goes_by_the_source_and_ends_nothing():
    ours = in_runs(learn_from=8)
    ours.guard.looks = lambda *_: False
    answered = ours.answer(images(3))
    assert answered.hold is Hold.SMALL
    assert answered.adapted.equal(ours._speakers.of_few(images(3)))
    assert ours.guard.lives is Lives.BALANCED
    assert ours.answer(images(16)).hold is Hold.RUNS


@pytest.mark.parametrize(("adapt", "learned"), [({}, True), ({"when": "never"}, False), ({"when": "drift"}, False)])
@pytest.mark.parametrize("mode", ["guarded", "off"])
def test_few_images_lean_on_the_source_whatever_they_are_not_learned_from_for(adapt, learned, mode):
    given = config(adapt={"learn_from": 4}, guard={"mode": mode, "mixed": 0.0})
    ours = Learner(load(given.model), given.adapt.model_copy(update=adapt), 1.0, given.guard)
    ours.life.drifted = False
    answered = ours.answer(images(2), learned=learned)
    assert answered.hold is not Hold.SMALL
    assert answered.adapted.equal(ours._speakers.of_few(images(2)))
    assert not answered.adapted.allclose(ours._speakers.adapted(images(2)))


def settled(**guard):
    """A learner whose adapted model answers alone, and whose guard sees no change anywhere."""
    ours = learner(look_every=1000, **guard)
    ours.guard._glance.changed = lambda *_: False
    ours.guard.serve, ours.guard._settled, ours.guard.sound = Serve.MIXED, 10**6, True
    return ours


def test_where_the_adapted_model_answers_otherwise_than_was_judged_the_guard_looks_again():
    ours = settled()
    assert ours.answer(images(8)).view is None
    ours.take(ours._deployed, ours._adapt, 1.0, ours.guard.settings.model_copy(update={"mixed": 0.0}), None)
    again = ours.answer(images(8))
    assert again.view is not None
    assert again.serve is not Serve.MIXED


def test_who_is_seldom_looked_at_is_not_believed_nor_learned_from_by_statistics_that_nobody_judged():
    ours = settled()
    ours.guard.memory.add(images(16), torch.arange(16) % 5)
    ours.guard.doubtful = ours.guard.balances = True
    assert ours.answer(images(16)).serve is Serve.MIXED
    ours.guard.memory.forget()
    ours._pace.sample = 0.0
    answered = ours.answer(images(16))
    assert answered.serve is Serve.SOURCE
    assert answered.hold is Hold.GUARD


def test_learning_slowly_goes_together_with_learning_from_some_batches_only():
    given = config(adapt={"learn_from": 4, "every": 2}, guard={"mode": "guarded", "window": 16})
    ours = Learner(load(given.model), given.adapt, 1.0, given.guard)
    ours.guard.weigh, ours.guard.sound, ours.guard.every = lambda *_: Serve.MIXED, True, 2
    held = []
    for seed in range(16):
        answered = ours.answer(images(8, seed=seed))
        held.append(answered.hold)
    assert held.count(None) == 4
    assert held.count(Hold.GUARD) == 4
    assert held.count(Hold.EVERY) == 8


def test_labels_of_answers_that_another_state_gave_say_nothing_of_this_one():
    guard = Guard(Settings())
    guard.departed(100.0)
    for _ in range(40):
        guard.labeled(Scored(1, 0, 1, 60.0), 150.0)
    assert not guard.vetoed
    for _ in range(40):
        guard.labeled(Scored(1, 0, 1, 40.0), 150.0)
    assert guard.vetoed


def test_who_asks_for_a_new_beginning_gets_all_of_it():
    ours = learner()
    ours.guard.every, ours.guard.serve, ours.guard.sound = 16, Serve.ADAPTED, True
    ours.forget()
    assert (ours.guard.every, ours.guard.serve, ours.guard.sound) == (1, Serve.SOURCE, False)
    ours.guard.every = 16
    ours._fail(RuntimeError("no"))
    assert ours.guard.every == 16  # it was the method's doing
    assert ours.guard.serve is Serve.SOURCE


@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_found_before_the_guard_was_off_is_old(restarted):
    guard = by_batch_alone(window=16)
    assert weigh(guard, DULL, SHARP) is Serve.ADAPTED
    guard.labeled(Scored(1, 0, 1, 0.0), 0.0)
    wagered = guard._wager.worse
    off = guard.settings.model_copy(update={"mode": "off"})
    guard.tune(off)
    assert guard.serve is Serve.ADAPTED
    if restarted:
        saved, guard = guard.dump(), by_batch_alone(window=16)
        guard.load(saved)
    else:
        guard.tune(guard.settings.model_copy(update={"mode": "guarded"}))
    assert guard.serve is Serve.SOURCE
    assert guard.source.recent.images == 0
    assert guard._wager.worse == wagered


def test_of_one_class_nothing_can_be_told():
    assert weigh(Guard(Settings()), torch.randn(4, 1), torch.randn(4, 1)) is Serve.BLEND


@pytest.mark.parametrize("mode", ["guarded", "off"])
def test_what_was_learned_and_is_not_finite_is_forgotten_at_once(mode):
    ours = learner(mode=mode, rewind="selective")
    ours.answer(images(8)).learn()
    with torch.no_grad():
        ours.adapter.network.learns.parameters[0].fill_(torch.nan)
    answered = ours.answer(images(8, seed=1))
    assert (answered.hold, answered.serve) == (Hold.FAILED, Serve.SOURCE)
    assert answered.logits.equal(ours._speakers.source(images(8, seed=1)))
    assert ours.adapter.finite
    assert ours.step == 0


def test_a_step_whose_outcome_is_not_finite_is_taken_back_before_anybody_sees_it():
    ours = learner(mode="off")
    answered = ours.answer(images(8))
    with torch.no_grad():
        ours.adapter.network.learns.parameters[0].fill_(torch.inf)
    assert answered.learn() is None
    assert ours.adapter.finite


def test_an_image_that_is_not_finite_is_no_reason_to_forget():
    guard, broken = Guard(Settings(window=50)), SHARP.clone()
    broken[0] = torch.nan
    assert not any(guard.check(broken, SHARP) for _ in range(5))
    assert not guard.check(broken[:1], SHARP[:1])
    assert guard.check(torch.cat((broken[:1], COLLAPSED[1:])), SHARP)


def test_where_the_memory_cannot_be_normalized_with_the_batch_is_answered_and_nothing_forgotten_or_learned():
    ours = in_runs()
    ours.adapter.steps += 3
    predict = ours.adapter.predict

    def fails(shown):
        if len(shown) > 16:
            raise RuntimeError("out of memory")
        return predict(shown)

    ours.adapter.predict = fails
    answered = ours.answer(images(16))
    assert answered.logits.isfinite().all()
    assert answered.hold is Hold.RUNS
    assert ours.step == 3


def test_labels_are_heard_between_two_looks():
    guard = by_batch_alone(window=16)
    assert weigh(guard, DULL, SHARP) is Serve.ADAPTED
    assert guard.carry_on() is Serve.ADAPTED
    guard.vetoed = True
    assert guard.carry_on() is Serve.SOURCE
    assert not guard.sound


def test_a_comparison_of_too_few_images_says_nothing_of_harm():
    guard = by_batch_alone(window=1000, check_every=2)
    for _ in range(40):
        guard.check(SHARP[:10], SHARP[:10])
    assert [guard.check_due() for _ in range(6)] == [False, True] * 3


def test_a_mean_over_views_is_judged_by_what_one_view_says():
    given = config(
        adapt={"method": "cotta", "learn_from": 4, "options": {"views": 2, "augment_below": 2.0}},
        guard={"mode": "guarded", "window": 16},
    )
    ours = Learner(load(given.model), given.adapt, 1.0, given.guard)
    heard = []
    ours.guard.weigh = lambda _, said: heard.append(said) or ours.guard._turn_to(Serve.MIXED)
    answered = ours.answer(images(8))
    assert answered.logits is answered.adapted
    (said,) = heard
    assert said[Lives.MIXED].equal(ours._speakers.adapted(images(8)))
    assert not said[Lives.MIXED].equal(answered.adapted)
    ours.adapter.mix(0.0)
    assert said[Lives.BATCH].equal(ours._speakers.adapted(images(8)))


def test_a_mean_over_views_that_tells_much_less_than_one_look_is_not_believed():
    guard = Guard(Settings(window=200))
    assert guard.averages
    guard.weigh_views(SHARP, said(7.0))  # less sure by its making
    assert guard.averages
    assert not guard.verdicts()
    guard.weigh_views(SHARP, said(2.0))
    assert not guard.averages
    (verdict,) = guard.verdicts()
    assert verdict.decision is Decision.LOOK_ONCE
    assert verdict.evidence["once"] > verdict.evidence["averaged"] + guard.settings.gain
    again = Guard(Settings(window=200))
    again.load(guard.dump())
    assert not again.averages
    for one in (guard, again):
        one.weigh_views(SHARP, torch.full_like(SHARP, torch.nan))  # says nothing
        assert not one.averages
        one.weigh_views(SHARP, SHARP)
        assert one.averages
        assert [verdict.decision for verdict in one.verdicts()] == [Decision.AVERAGE_VIEWS]
        one.weigh_views(SHARP, said(2.0))
        one.departed()
        assert one.averages


@pytest.mark.parametrize("method", ["cotta", "petal"])
def test_where_views_blur_a_single_look_answers_and_learning_goes_on(method, monkeypatch):
    given = config(
        adapt={"method": method, "learn_from": 4, "options": {"views": 2, "augment_below": 2.0}},
        guard={"mode": "guarded", "window": 16, "gain": 0.0, "look_every": 2},
    )
    ours = Learner(load(given.model), given.adapt, 1.0, given.guard)
    monkeypatch.setattr("adapters.cotta.answers", lambda network, *_: network(images(8)).mul(0.0)[None])
    for seed in range(6):
        before = ours.step
        ours.guard.looks = lambda *_, looks=seed % 2 == 0: looks
        answered = ours.answer(images(8, seed=seed))
        assert not ours.guard.averages
        assert answered.adapted.equal(ours._speakers.by(ours.adapter.mixed, images(8, seed=seed)))
        answered.learn()
        assert ours.step == before + (answered.hold is None)
    assert ours.step


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
    broken = not torch.isfinite(ours._speakers.source(batch)[:how_many]).all()  # nobody has an answer to these
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
    grown, newborn = ours._speakers.grown_and_newborn(batch)
    assert all(torch.equal(tensor, ours.adapter.dump()[name]) for name, tensor in before.items())
    assert not torch.equal(grown, newborn)
    ours.adapter.rewind()
    assert torch.equal(newborn, ours._speakers.adapted(batch))


def test_a_model_that_collapses_is_put_back_to_birth(monkeypatch):
    ours = learner(check_every=1)
    ours.guard.weigh = lambda *_: ours.guard._turn_to(Serve.ADAPTED)
    monkeypatch.setattr(Speakers, "grown_and_newborn", lambda *_: (COLLAPSED, SHARP))
    ours.guard.sound = True
    ours.answer(images(16)).learn()
    assert Decision.REWIND in [verdict.decision for verdict in ours.guard.verdicts()]
    assert ours.step == 0


@pytest.mark.parametrize(
    ("recall", "lost"),
    [(Recall(60, 60), False), (Recall(31, 60), False), (Recall(30, 60), True), (Recall(0, 15), False), (None, False)],
)
def test_whoever_has_forgotten_half_of_the_source_has_lost_the_task(recall, lost):
    guard = by_batch_alone()
    assert guard.check(SHARP, SHARP, recall) is lost
    if lost:
        (verdict,) = guard.verdicts()
        assert verdict.decision is Decision.REWIND
        assert verdict.evidence == {"canary_adapted": 30, "canary_newborn": 60, "learn_every": 2}


def knowing(ours, pictures, labels):
    """The learner's model with labeled source images, and nothing else known of its source."""
    known = SimpleNamespace(canary=(pictures, labels), manifest=SimpleNamespace(batch=32))
    return Speakers(replace(ours._speakers.deployed, known=known), ours.adapter)


def test_a_model_that_takes_one_class_for_another_tells_as_much_and_is_found_out_by_labeled_source_images(monkeypatch):
    whatever = {"mode": "guarded", "check_every": 1, "loss": 1.0, "doubt": 1.0}
    given = config(adapt={"method": "cotta", "learn_from": 4, "options": {"views": 2}}, guard=whatever)
    ours = Learner(load(given.model), given.adapt, 1.0, given.guard)
    pictures = (images(100) * 255).to(torch.uint8)
    labels = torch.empty(100, dtype=torch.int64)
    for turn in range(3):
        labels[turn::3] = ours._speakers.adapted(pictures[turn::3] / 255).argmax(1)
    speakers = knowing(ours, pictures, labels)
    assert [speakers.recall(turn) for turn in range(4)] == [Recall(n, n) for n in (34, 33, 33, 34)]
    memory = ours.adapter.dump()
    head = {name: tensor.roll(1, 0) for name, tensor in memory.items() if ".linear." in name}
    ours.adapter.load({**memory, **head})
    grown, newborn = map(told, speakers.grown_and_newborn(images(64, seed=3)))
    assert grown.entropy == pytest.approx(newborn.entropy)  # nothing of it shows without labels
    for turn in range(3):
        recall = speakers.recall(turn)
        assert recall.forgotten
        assert recall.newborn >= 33
    with monkeypatch.context() as patched:
        patched.setattr(Speakers, "adapted", lambda *_: torch.empty(0).view(1))  # as where memory is short
        assert speakers.recall(0) is None
    monkeypatch.setattr(Speakers, "recall", lambda *_: Recall(0, 64))
    ours.answer(images(32)).learn()
    assert Decision.REWIND in [verdict.decision for verdict in ours.guard.verdicts()]
    assert all(torch.equal(t, memory[name]) for name, t in ours.adapter.dump().items() if name in head)


@pytest.mark.parametrize(("method", "asked"), [("tent", True), ("cotta", True), ("rotta", False)])
def test_statistics_that_follow_the_stream_are_not_asked_about_the_source(method, asked):
    given = config(adapt={"method": method, "learn_from": 4})
    ours = Learner(load(given.model), given.adapt, 1.0, given.guard)
    assert ours._speakers.recall(0) is None
    pictures = (images(20) * 255).to(torch.uint8)
    recall = knowing(ours, pictures, torch.zeros(20, dtype=torch.int64)).recall(0)
    assert (recall is not None) is asked


def test_answers_say_who_was_believed_and_what_the_others_say():
    world = Memory(config(guard={"mode": "observe"}))
    world.send(pictures(8))
    world.run_dry()
    body = json.loads(world.log.records("answers")[0].value)
    assert body["by"] == "source"
    assert body["predictions"][0]["class"] == body["source_class"][0]
    assert len(body["adapted_class"]) == 1
    assert world.metrics.registry.get_sample_value("tta_answers_total", {"model": "source"}) == 8
