"""A dead letter is the record as it came, and says why; too many of them stop the daemon."""

import pytest

from tta_daemon.errors import Reason, RecordRejected, TooManyRejected
from tta_daemon.stream.dead_letters import DeadLetters, RejectRatio
from tta_daemon.stream.records import Partition, Position, Record

FAULT = RecordRejected(Reason.NON_FINITE, "the images hold NaN")


def record(value=b"pixels", key=b"cam", headers=()):
    return Record(Position(Partition("images", 2), 7), key, value, headers, 1_700_000_000.25)


def test_everything_untouched_and_the_reason_beside_it():
    headers = (("id", b"a1"), ("id", b"a2"), ("x", b"\xff"))
    letter = DeadLetters("dead").letter(record(headers=headers), FAULT)
    assert (letter.topic, letter.key, letter.value) == ("dead", b"cam", b"pixels")
    assert letter.headers[:3] == headers
    assert dict(letter.headers[3:]) == {
        "tta.dlq.reason": b"non_finite",
        "tta.dlq.message": b"the images hold NaN",
        "tta.dlq.topic": b"images",
        "tta.dlq.partition": b"2",
        "tta.dlq.offset": b"7",
        "tta.dlq.timestamp": b"1700000000250",
        "tta.dlq.attempt": b"1",
    }


def test_a_letter_that_comes_back_is_counted_not_grown():
    letters = DeadLetters("dead")
    first = letters.letter(record(), FAULT)
    again = letters.letter(record(headers=first.headers), FAULT)
    assert dict(again.headers)["tta.dlq.attempt"] == b"2"
    assert len(again.headers) == len(first.headers)


@pytest.mark.parametrize("said", [b"x", b"-1", b"9" * 40, "²".encode(), b"\xff"])
def test_a_wrong_attempt_counts_as_none(said):
    letter = DeadLetters("dead").letter(record(headers=(("tta.dlq.attempt", said),)), FAULT)
    assert dict(letter.headers)["tta.dlq.attempt"] == b"1"


def test_headers_of_kafka_connect_are_texts():
    headers = dict(DeadLetters("dead", connect_headers=True).letter(record(), FAULT).headers)
    assert headers["__connect.errors.topic"] == b"images"
    assert headers["__connect.errors.partition"] == b"2"
    assert headers["__connect.errors.exception.class.name"] == b"non_finite"


def test_a_letter_too_large_for_its_topic_goes_without_what_does_not_fit():
    letters = DeadLetters("dead", most_bytes=1000)
    kept = letters.letter(record(value=b"x" * 2000, headers=(("id", b"a1"),)), FAULT)
    assert (kept.key, kept.value, dict(kept.headers)["id"]) == (b"cam", None, b"a1")
    assert dict(kept.headers)["tta.dlq.omitted"] == b"2007"
    bare = letters.letter(record(key=b"k" * 2000), FAULT)
    assert (bare.key, bare.value) == (None, None)
    assert dict(bare.headers)["tta.dlq.offset"] == b"7"


def test_a_long_message_is_cut():
    letter = DeadLetters("dead").letter(record(), RecordRejected(Reason.UNDECODABLE, "\ud800" + "x" * 5000))
    assert len(dict(letter.headers)["tta.dlq.message"]) <= 1000


IMAGES = Partition("images", 0)


def saw(ratio, *rejections, offset=0):
    for at, rejected in enumerate(rejections, offset):
        ratio.saw(Position(IMAGES, at), rejected=rejected)


def test_the_ratio_stops_the_daemon_only_over_its_limit():
    ratio = RejectRatio(limit=0.5, window=20)
    saw(ratio, *[True, False] * 100)
    with pytest.raises(TooManyRejected, match=r"limits\.reject_ratio: 11 of the last 20"):
        saw(ratio, True, True, offset=200)


def test_a_few_bad_records_at_the_start_mean_nothing():
    ratio = RejectRatio(limit=0.5, window=1000)
    saw(ratio, *[True] * 49, *[False] * 500)
    with pytest.raises(TooManyRejected):
        saw(RejectRatio(limit=0.5, window=1000), *[True] * 100)


def test_old_rejections_leave_the_window():
    ratio = RejectRatio(limit=0.3, window=40)
    for n in range(2000):
        ratio.saw(Position(IMAGES, n), rejected=n % 40 >= 28)


def test_a_record_that_is_read_again_counts_once():
    ratio = RejectRatio(limit=0.5, window=20)
    saw(ratio, *[False] * 15, *[True] * 5)
    for _ in range(10):
        saw(ratio, *[True] * 5, offset=15)
    ratio.saw(Position(Partition("images", 1), 3), rejected=True)
    with pytest.raises(TooManyRejected, match="11 of the last 20"):
        saw(ratio, *[True] * 10, offset=20)
