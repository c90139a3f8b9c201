"""One line a batch: it names the records, never what they hold."""

import pytest
import structlog
from world import Memory, config, npy, pictures

from tta_daemon.answered import Hold

SECRET = b"a payload that no log may show"


@pytest.fixture
def lines():
    with structlog.testing.capture_logs() as captured:
        yield captured


def of(lines, event):
    return [line for line in lines if line["event"] == event]


def test_every_batch_leaves_one_line(lines):
    world = Memory(config())
    world.send(pictures(20))
    world.run_dry()
    batches = of(lines, "batch")
    assert [line["offsets"] for line in batches] == [{"images-0": "0-7"}, {"images-0": "8-15"}, {"images-0": "16-19"}]
    assert [line["images"] for line in batches] == [8, 8, 4]
    assert [line["step"] for line in batches] == [1, 2, 3]
    assert all(line["learned"] and line["infer_s"] > 0.0 and line["learn_s"] > 0.0 for line in batches)


def test_it_says_why_nothing_was_learned(lines):
    world = Memory(config(adapt={"when": "never"}))
    world.send(pictures(8))
    world.run_dry()
    (line,) = of(lines, "batch")
    assert (line["learned"], line["held"], line["step"]) == (False, Hold.NEVER.value, 0)


def test_no_line_shows_a_payload(lines):
    world = Memory(config(limits={"reject_ratio": 1.0}))
    world.log.append("images", SECRET, key=SECRET, headers=(("content-type", b"image/png"), ("id", b"photo-1")))
    world.log.append("images", npy(0), headers=(("content-type", b"application/x-npy"),))
    world.run_dry()
    letters = of(lines, "dead letter")
    assert [(line["partition"], line["offset"]) for line in letters] == [("images-0", 0), ("images-0", 1)]
    assert SECRET.decode() not in str(lines)
