"""Late labels meet answers: each counted once, in whatever order, within bounds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_daemon.errors import Reason, RecordRejected
from tta_daemon.stream.records import Partition, Position, Record
from tta_daemon.watch.accuracy import Accuracy, Label, LabelJoin, Ratio, Scored, Tally, parse_label


def test_an_answer_is_scored_when_its_label_comes():
    join = LabelJoin()
    assert join.answered("a", [3, 4], [3, 5], now=10.0) is None
    assert join.labelled("a", [3, 5], now=25.0) == Scored(images=2, adapted_right=1, source_right=2, delay_s=15.0)
    assert len(join) == 0


def test_a_label_may_come_before_its_answer():
    join = LabelJoin()
    assert join.labelled("a", [3], now=1.0) is None
    assert join.answered("a", [3], None, now=2.0) == Scored(images=1, adapted_right=1, source_right=None, delay_s=0.0)


def test_labels_are_counted_once():
    join = LabelJoin()
    join.answered("a", [3], None, now=0.0)
    assert join.labelled("a", [3], now=1.0)
    assert join.labelled("a", [3], now=2.0) is None
    assert join.answered("a", [3], None, now=3.0) is None
    assert join.labelled("early", [1], now=3.0) is None
    assert join.labelled("early", [1], now=3.0) is None
    assert join.tally == Tally(labels=4, duplicate=2)


def test_of_two_answers_to_one_record_the_later_counts():
    join = LabelJoin()
    join.answered("a", [3], None, now=0.0)
    join.answered("a", [4], None, now=5.0)
    assert join.labelled("a", [4], now=6.0) == Scored(1, 1, None, delay_s=1.0)


def test_names_are_classes():
    join = LabelJoin(["cat", "dog"])
    join.answered("a", [0, 1], None, now=0.0)
    assert join.labelled("a", ["cat", 1], now=0.0) == Scored(2, 2, None, 0.0)


@pytest.mark.parametrize("labels", [["bird", "cat"], [2, 0], [-1, 0], [True, 0], [0], [0, 1, 0], [], [10**400, 0]])
def test_a_label_that_makes_no_sense_is_counted_and_a_better_one_still_scores(labels):
    join = LabelJoin(["cat", "dog"])
    join.answered("a", [0, 1], None, now=0.0)
    assert join.labelled("a", labels, now=1.0) is None
    assert join.tally.invalid == 1
    assert join.labelled("a", [0, 1], now=2.0) == Scored(2, 2, None, 2.0)


def test_an_early_label_that_does_not_fit_leaves_the_answer_waiting():
    join = LabelJoin()
    join.labelled("a", [1, 2, 3], now=0.0)
    assert join.answered("a", [1], None, now=1.0) is None
    assert join.tally.invalid == 1
    assert join.labelled("a", [1], now=2.0) == Scored(1, 1, None, 1.0)


def test_nobody_waits_longer_than_the_wait():
    join = LabelJoin(wait_s=10.0)
    join.answered("a", [1], None, now=0.0)
    join.labelled("b", [1], now=0.0)
    assert join.labelled("a", [1], now=10.5) is None
    assert join.tally == Tally(labels=2, unlabeled=1, unmatched=1)


def test_no_more_wait_than_there_is_room_for():
    join = LabelJoin(most=3)
    for number in range(10):
        join.answered(str(number), [1], None, now=0.0)
        join.labelled(f"label {number}", [1], now=0.0)
    assert len(join) == 6
    assert (join.tally.unlabeled, join.tally.unmatched) == (7, 7)


IDS = st.sampled_from("abcdef")
CLASSES = st.lists(st.integers(-1, 3), min_size=1, max_size=2)
EVENTS = st.lists(
    st.tuples(st.sampled_from(["answer", "label"]), IDS, CLASSES, st.floats(0.0, 3.0), st.booleans()), max_size=60
)


@given(EVENTS, st.integers(1, 4), st.floats(0.5, 8.0))
def test_whatever_comes_the_join_stays_bounded_and_counts_everything(events, most, wait_s):
    join, now, scored, heard = LabelJoin(classes=3, most=most, wait_s=wait_s), 0.0, {}, 0
    for kind, name, classes, pause_s, watched in events:
        now += pause_s
        if kind == "answer":
            result = join.answered(name, classes, classes if watched else None, now)
        else:
            heard += 1
            result = join.labelled(name, classes, now)
        assert len(join) <= 2 * most
        assert join.tally.labels == heard
        if result is not None:
            assert 0 <= result.adapted_right <= result.images
            assert 0.0 <= result.delay_s <= wait_s * (1 + 1e-9)
            assert now - scored.get(name, -1e9) >= 0.0
            scored[name] = now


@given(EVENTS)
def test_with_room_and_time_an_id_is_scored_at_most_once(events):
    join, scored = LabelJoin(classes=3), []
    for kind, name, classes, _, _ in events:
        result = join.answered(name, classes, None, 0.0) if kind == "answer" else join.labelled(name, classes, 0.0)
        scored += [name] * (result is not None)
    assert len(scored) == len(set(scored))
    assert join.tally.unlabeled == join.tally.unmatched == 0


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4), st.none() | st.integers(0, 4)), max_size=50),
    st.integers(1, 10),
)
def test_accuracy_is_what_counting_again_would_give(answers, window):
    accuracy = Accuracy(window)
    answers = [Scored(n, min(a, n), None if s is None else min(s, n), 0.0) for n, a, s in answers]
    for scored in answers:
        accuracy.add(scored)
    recent = list(answers)
    while recent and sum(s.images for s in recent) - recent[0].images >= window:
        recent.pop(0)
    for got, expected in ((accuracy.overall, answers), (accuracy.recent, recent)):
        shared = [s for s in expected if s.source_right is not None]
        over = shared or expected
        images = sum(s.images for s in over)
        assert got.images == images
        assert got.adapted == (sum(s.adapted_right for s in over) / images if images else None)
        assert got.source == (sum(s.source_right for s in shared) / images if shared else None)


def test_both_accuracies_are_over_the_same_images():
    accuracy = Accuracy()
    accuracy.add(Scored(10, 10, None, 0.0))
    assert accuracy.overall == Ratio(10, 1.0, None, 1.0)
    accuracy.add(Scored(10, 4, 2, 0.0))
    assert accuracy.overall == Ratio(10, 0.4, 0.2, 0.4)


def record(value):
    return Record(Position(Partition("labels", 0), 0), None, value)


def test_a_label_is_read_from_its_record():
    value = json.dumps({"id": "é-1", "labels": [3, "cat"], "more": None}).encode()
    assert parse_label(record(value)) == Label("é-1", (3, "cat"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.EMPTY_VALUE),
        (b"", Reason.EMPTY_VALUE),
        (b"\xff\xfe", Reason.UNDECODABLE),
        (b"{", Reason.UNDECODABLE),
        (b"[" * 100_000, Reason.UNDECODABLE),
        (b'{"id": "a", "labels": [' + b"1" * 10_000 + b"]}", Reason.UNDECODABLE),
        (b" " * (2 << 20), Reason.TOO_LARGE),
        (b"[]", Reason.WRONG_SHAPE),
        (b"{}", Reason.WRONG_SHAPE),
        (b'{"id": 5, "labels": [1]}', Reason.WRONG_SHAPE),
        (b'{"id": "", "labels": [1]}', Reason.WRONG_SHAPE),
        (b'{"id": "a", "labels": []}', Reason.WRONG_SHAPE),
        (b'{"id": "a", "labels": "cat"}', Reason.WRONG_SHAPE),
        (b'{"id": "a", "labels": [1.5]}', Reason.WRONG_DTYPE),
        (b'{"id": "a", "labels": [true]}', Reason.WRONG_DTYPE),
        (b'{"id": "a", "labels": [null]}', Reason.WRONG_DTYPE),
        (b'{"id": "a", "labels": [NaN]}', Reason.WRONG_DTYPE),
    ],
)
def test_a_malformed_label_is_rejected(value, reason):
    with pytest.raises(RecordRejected) as caught:
        parse_label(record(value))
    assert caught.value.reason is reason


@given(st.binary(max_size=100) | st.text().map(str.encode))
def test_whatever_a_label_holds_it_is_read_or_rejected(value):
    try:
        label = parse_label(record(value))
    except RecordRejected:
        return
    assert label.labels
