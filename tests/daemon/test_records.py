"""Records know their id, batches their images, answers their wire format."""

import json
from pathlib import Path

import numpy as np
import pytest

from tta_daemon.errors import Reason
from tta_daemon.stream.records import Answer, Batch, Guess, Partition, Position, Prediction, Record, Sample


def record(*headers, key=b"cam"):
    return Record(Position(Partition("images", 3), 42), key, b"value", tuple(headers))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], "images-3-42"),
        ([("id", b"a1")], "a1"),
        ([("ID", b"a1")], "a1"),
        ([("ce_id", b"e7")], "e7"),
        ([("ce_id", b"e7"), ("id", b"a1")], "a1"),
        ([("id", b"")], "images-3-42"),
        ([("id", b"a1"), ("id", b"a2")], "a2"),
    ],
)
def test_id(headers, expected):
    assert record(*headers).id == expected


def test_undecodable_header_does_not_raise():
    assert record(("id", b"\xff\xfe")).id == "��"


def test_a_header_without_value_is_an_empty_text():
    assert record(("id", None)).header("id") == ""


def test_batch_puts_bytes_and_floats_on_one_scale():
    white = Sample(record(), "", np.full((1, 3, 2, 2), 255, np.uint8))
    gray = Sample(record(), "", np.full((2, 3, 2, 2), 0.5, np.float32))
    batch = Batch("", (white, gray))
    assert batch.size == 3
    images = batch.images()
    assert images.dtype == np.float32
    assert images[:, 0, 0, 0].tolist() == [1.0, 0.5, 0.5]
    assert batch.split("abc") == ["a", "bc"]
    with pytest.raises(ValueError, match="2 values for 3 images"):
        batch.split("ab")


def test_answer_on_the_wire():
    asked = record(("id", b"a1"), ("traceparent", b"00-abc-def-01"), ("secret", b"x"))
    prediction = Prediction(7, "seven", 0.75, (Guess(7, "seven", 0.75), Guess(1, "one", 0.25)))
    message = Answer("a1", "cam", (prediction,), (1,), "digits", "tent", 12).message("answers", asked)
    assert (message.topic, message.key) == ("answers", b"cam")
    assert dict(message.headers) == {
        "id": b"a1",
        "content-type": b"application/json",
        "traceparent": b"00-abc-def-01",
    }
    assert json.loads(message.value) == {
        "id": "a1",
        "predictions": [
            {
                "class": 7,
                "label": "seven",
                "confidence": 0.75,
                "top": [
                    {"class": 7, "label": "seven", "confidence": 0.75},
                    {"class": 1, "label": "one", "confidence": 0.25},
                ],
            }
        ],
        "source_class": [1],
        "by": "adapted",
        "model": "digits",
        "method": "tent",
        "step": 12,
        "stream": "cam",
    }


def test_the_page_of_records_names_every_reason_and_every_field():
    page = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")
    assert {reason for reason in Reason if f"| `{reason}` |" not in page} == set()
    shown = json.loads(page.partition("```json\n")[2].partition("```")[0])
    guess = Guess(3, "cat", 0.9)
    said = Answer("a", "", (Prediction(3, "cat", 0.9, (guess,)),), (5,), "m", "tent", 1, (3,), "blend")
    ours = json.loads(said.message("answers", Record(Position(Partition("images", 0), 0), None, b"")).value)
    assert list(ours) == list(shown)
    assert ours["predictions"][0].keys() == shown["predictions"][0].keys()
