"""What is a stream's own stays its own: how often it is looked at, by which statistics it answers, what it saves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import images
from world import config

from adapters.parts.norms import FEWEST
from tta_daemon.answered import Hold
from tta_daemon.learner import Learner, Part
from tta_daemon.model.load import load
from tta_daemon.pace import Pace
from tta_daemon.watch.balanced import _newer_of_their_class
from tta_daemon.watch.guard import Serve

DEPLOYED = load(config().model)


def learner(sample=1.0, guard=None, **adapt):
    made = config(adapt={"learn_from": 4}, guard={"mode": "guarded", "window": 16} | (guard or {}))
    return Learner(DEPLOYED, made.adapt.model_copy(update=adapt), sample, made.guard)


@given(st.integers(1, 8), st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_each_of_several_streams_in_turn_is_looked_at_as_often_as_was_asked_for(streams, sample):
    ours = learner()
    pace, lives = Pace(config().adapt, sample, lambda: 0.0), [ours.new_life() for _ in range(streams)]
    seen = [sum(pace.watched(life) for _ in range(200)) for life in lives]
    assert all(abs(count - 200 * sample) <= 1 for count in seen)


def test_what_was_learned_before_is_not_counted_again():
    pace, life = Pace(config().adapt, 0.5, lambda: 0.0), learner().life
    assert not any(pace.watched(life, learned=True) for _ in range(10))
    assert life.sampled == 0.0


def test_a_stream_that_comes_back_goes_on_where_it_was_looked_at_and_where_nothing_had_drifted():
    ours = learner(sample=0.5, when="drift")
    ours.life.drifted, ours.life.sampled = False, 0.5
    other = learner(sample=0.5, when="drift")
    other.resume(ours.snapshot({}))
    assert (other.life.drifted, other.life.sampled) == (False, 0.5)
    assert other.answer(images(8)).hold is Hold.DRIFT
    assert other.life.sampled == 0.0


def test_a_guard_of_an_older_version_begins_anew_and_learns():
    ours = learner()
    for seed in range(3):
        ours.answer(images(8, seed=seed)).learn()
    saved = {name: tensor for name, tensor in ours.snapshot({}).beside.items() if name != "pace"}
    saved["guard/state"] = saved["guard/state"][:-1]
    other = learner()
    other.life.load(saved, 3)
    assert (other.life.drifted, other.life.batches, other.guard.every) == (True, 3, 1)
    other.guard.weigh, other.guard.sound = lambda *_: Serve.MIXED, True
    assert other.answer(images(8)).hold is None


@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("mode", ["guarded", "off"])
def test_a_stream_in_company_is_answered_by_its_own_statistics_and_keeps_them(size, mode):
    ours, shown = learner(when="never", guard={"mode": mode}), images(3 * size, seed=3).split(size)
    lives = [ours.new_life() for _ in shown]
    lives[1].guard.mixes = False
    lives[2].guard.serve = Serve.ADAPTED
    before = [life.guard.mixes for life in lives]
    together = ours.answer_together([Part(part, life, None) for part, life in zip(shown, lives, strict=True)])
    for part, life, mixes, answered in zip(shown, lives, before, together, strict=True):
        assert mode == "off" or life.guard.mixes is mixes
        ours.adapter.mix(1.0 if mixes and mode != "off" else 0.0)
        alone = ours._speakers.of_few(part) if size < 4 else ours._speakers.adapted(part)
        torch.testing.assert_close(answered.adapted, alone, rtol=1e-4, atol=1e-4)
    assert [life.batches for life in lives] == [1, 1, 1]


def test_in_company_only_those_are_looked_at_whose_turn_it_is():
    ours = learner(sample=0.5, when="never")
    lives = [ours.new_life() for _ in range(2)]
    lives[0].sampled = 0.5
    parts = [Part(part, life, None) for part, life in zip(images(8).split(4), lives, strict=True)]
    assert [answered.view is not None for answered in ours.answer_together(parts)] == [True, False]


def test_a_neighbor_whose_state_does_not_fit_is_not_adopted():
    ours = learner()
    assert ours.tells_more({"nothing": torch.zeros(1)}, images(16)) is False


def test_neighbors_are_compared_by_the_statistics_that_a_new_stream_lives_by():
    ours, lived = learner(), []
    predict = ours.adapter.predict
    ours.adapter.predict = lambda shown: lived.append(ours.adapter.mixed) or predict(shown)
    ours.adapter.mix(0.0)
    ours.tells_more(ours.adapter.birth, images(FEWEST))
    assert lived == [1.0, 1.0]


@given(st.lists(st.integers(0, 4), max_size=40))
def test_the_newest_of_each_class_are_counted_as_they_come(classes):
    found = _newer_of_their_class(torch.tensor(classes, dtype=torch.int64)).tolist()
    assert found == [classes[at + 1 :].count(each) for at, each in enumerate(classes)]
