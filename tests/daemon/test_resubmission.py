"""A dead letter can be read, and tried again as the record it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_daemon.errors import Reason, RecordRejected
from tta_daemon.stream.dead_letters import DeadLetters
from tta_daemon.stream.records import Partition, Position, Record
from tta_daemon.stream.resubmission import Letter

FAULT = RecordRejected(Reason.WRONG_SHAPE, "8x8 pixels")


def record(topic="images", offset=7, headers=(), value=b"pixels"):
    return Record(Position(Partition(topic, 2), offset), b"cam", value, headers, 1_700_000_000.0)


def buried(original, **more):
    message = DeadLetters("dead", **more).letter(original, FAULT)
    return Record(Position(Partition("dead", 0), 0), message.key, message.value, message.headers)


def test_there_and_back():
    original = record(headers=(("id", b"a1"), ("content-type", b"image/png")))
    letter = Letter.of(buried(original, connect_headers=True))
    assert (letter.reason, letter.message, letter.origin, letter.attempt) == (
        "wrong_shape",
        "8x8 pixels",
        original.position,
        1,
    )
    again = letter.again()
    assert (again.topic, again.key, again.value) == ("images", b"cam", b"pixels")
    assert again.headers == (*original.headers, ("tta.dlq.attempt", b"1"))
    assert letter.again("elsewhere").topic == "elsewhere"


def test_the_attempts_go_on_counting():
    first = Letter.of(buried(record())).again()
    second = Letter.of(buried(record(headers=first.headers)))
    assert second.attempt == 2


def test_a_letter_without_its_value_is_not_tried_again():
    letter = Letter.of(buried(record(value=b"x" * 2000), most_bytes=1000))
    assert letter.omitted_bytes > 2000
    with pytest.raises(ValueError, match="too large"):
        letter.again()


def test_a_record_that_is_no_letter():
    letter = Letter.of(record())
    assert (letter.reason, letter.origin, letter.attempt) == ("unknown", None, 0)
    with pytest.raises(ValueError, match="where it came from"):
        letter.again()


NAMES = ["reason", "message", "topic", "partition", "offset", "attempt", "omitted"]


@given(st.dictionaries(st.sampled_from([f"tta.dlq.{name}" for name in NAMES]), st.binary(max_size=30)))
def test_whatever_the_headers_say(headers):
    letter = Letter.of(record(headers=tuple(headers.items())))
    assert letter.attempt >= 0
    assert letter.reason in {*Reason, "unknown"}
