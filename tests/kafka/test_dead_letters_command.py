"""`tta-daemon dead-letters` on a real broker: what it shows, what it sends back, and that nothing goes back twice."""

import json

import pytest
from kafka import KafkaConsumer, TopicPartition
from typer.testing import CliRunner

from tta_daemon.cli import app
from tta_daemon.errors import Fenced, Reason, RecordRejected
from tta_daemon.stream import resubmission
from tta_daemon.stream.dead_letters import DeadLetters
from tta_daemon.stream.kafka_sink import KafkaSink
from tta_daemon.stream.records import Partition, Position, Record

pytestmark = pytest.mark.kafka

WRONG_SHAPE = RecordRejected(Reason.WRONG_SHAPE, "8x8 pixels, not \x1b[2J28x28")
EMPTY = RecordRejected(Reason.EMPTY_VALUE, "the record has no value")


class Desk:
    """A topic of dead letters, and the command at work on it."""

    def __init__(self, broker, folder, delivery):
        self.broker = broker
        self.images, self.dead = broker.topic(2), broker.topic(2, what="dead")
        self.config = folder / "config.toml"
        self.config.write_text(
            f'[kafka]\nbootstrap_servers = ["{broker.bootstrap}"]\ninput_topic = "{self.images}"\n'
            f'dead_letter_topic = "{self.dead}"\ngroup_id = "{broker.name("g")}"\ndelivery = "{delivery}"\n'
            'group_instance_id = "pod-0"\n[model]\nfactory = "world:network"\n'
        )

    def bury(self, *, offset, fault, value=b"pixels", attempt=0, topic="", most_bytes=1_000_000):
        headers = (("id", b"a%d" % offset), *((("tta.dlq.attempt", b"%d" % attempt),) if attempt else ()))
        record = Record(Position(Partition(topic or self.images, 1), offset), b"cam", value, headers, 1_700_000_000.0)
        sink = KafkaSink(self.broker.client)
        sink.send(DeadLetters(self.dead, most_bytes=most_bytes).letter(record, fault))
        sink.flush(10)
        sink.close()

    def ask(self, *words, said=None):
        return CliRunner().invoke(app, ["dead-letters", "--config", str(self.config), *words], input=said)

    def listed(self, *words):
        return json.loads(self.ask("--json", *words).stdout)

    def came_back(self):
        places = [TopicPartition(self.images, number) for number in (0, 1)]
        consumer = KafkaConsumer(**self.broker.client, isolation_level="read_committed")
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        found, ends = [], consumer.end_offsets(places)
        while any(consumer.position(place) < ends[place] for place in places):
            found += [record for records in consumer.poll(1000).values() for record in records]
        consumer.close()
        by_id = {dict(record.headers)["id"].decode(): record for record in found}
        assert len(by_id) == len(found)
        return by_id


@pytest.fixture(params=["at_least_once", "exactly_once"])
def desk(broker, tmp_path, request):
    return Desk(broker, tmp_path, request.param)


@pytest.fixture
def one_desk(broker, tmp_path):
    return Desk(broker, tmp_path, "exactly_once")


def test_the_table_says_when_why_and_where_from(one_desk):
    one_desk.bury(offset=7, fault=WRONG_SHAPE)
    one_desk.bury(offset=8, fault=EMPTY, value=None, attempt=2)
    shown = one_desk.ask()
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["when", "reason", "where", "from", "attempts", "message"]
    assert f"{one_desk.images}-1@7" in shown.stdout
    assert "8x8 pixels, not \ufffd[2J28x28" in shown.stdout
    assert lines[-1].endswith(": 1 wrong_shape, 1 empty_value")
    assert "wrong_shape" not in one_desk.ask("--reason", "empty_value").stdout
    newest = one_desk.ask("--limit", "1").stdout
    assert "@7" not in newest
    assert "--limit shows more" in newest


def test_json_holds_all_of_it(one_desk):
    one_desk.bury(offset=7, fault=WRONG_SHAPE, attempt=1)
    (letter,) = one_desk.listed()
    assert letter["reason"] == "wrong_shape"
    assert (letter["topic"], letter["partition"], letter["offset"]) == (one_desk.images, 1, 7)
    assert (letter["id"], letter["attempt"], letter["resubmitted"]) == ("a7", 2, False)
    assert letter["letter"]["topic"] == one_desk.dead


def test_no_letters_is_said(one_desk):
    assert one_desk.ask().stdout.strip() == f"No dead letters in {one_desk.dead}."
    assert one_desk.listed() == []


def test_what_goes_back_is_the_record_and_it_goes_once(desk):
    for offset in (1, 2, 3):
        desk.bury(offset=offset, fault=WRONG_SHAPE)
    desk.bury(offset=4, fault=EMPTY, value=None)
    back = desk.ask("--reason", "wrong_shape", "--resubmit", "--yes")
    assert back.exit_code == 0, back.output
    assert f"3 records went back to {desk.images}." in back.stdout
    found = desk.came_back()
    assert set(found) == {"a1", "a2", "a3"}
    assert (found["a1"].key, found["a1"].value) == (b"cam", b"pixels")
    assert dict(found["a1"].headers) == {"id": b"a1", "tta.dlq.attempt": b"1"}
    again = desk.ask("--resubmit", "--yes")
    assert "1 of 4 dead letters would go back" in again.stdout
    assert "3 would not: went back before" in again.stdout
    assert set(desk.came_back()) == {"a1", "a2", "a3", "a4"}
    assert {letter["resubmitted"] for letter in desk.listed()} == {True}


def test_a_dry_run_and_a_no_send_nothing(one_desk):
    one_desk.bury(offset=1, fault=WRONG_SHAPE)
    dry = one_desk.ask("--resubmit", "--dry-run")
    assert dry.exit_code == 0
    assert "1 of 1 dead letters would go back" in dry.stdout
    assert one_desk.ask("--resubmit", said="n\n").exit_code == 1
    assert one_desk.ask("--resubmit", said="").exit_code == 1
    assert one_desk.came_back() == {}
    assert one_desk.ask("--resubmit", said="y\n").exit_code == 0
    assert set(one_desk.came_back()) == {"a1"}


def test_what_cannot_or_should_not_go_back_stays(one_desk):
    one_desk.bury(offset=1, fault=WRONG_SHAPE, attempt=2)
    one_desk.bury(offset=2, fault=WRONG_SHAPE, topic="elsewhere")
    one_desk.bury(offset=3, fault=WRONG_SHAPE, value=b"x" * 5000, most_bytes=1000)
    said = one_desk.ask("--resubmit", "--yes").stdout
    assert "0 of 3 dead letters would go back" in said
    assert "1 would not: rejected 3 times or more" in said
    assert f"1 would not: did not come from '{one_desk.images}'" in said
    assert "1 would not: too large for the dead letters" in said
    assert "1 of 3" in one_desk.ask("--resubmit", "--dry-run", "--max-attempts", "4").stdout


def test_two_people_at_once_do_not_send_twice(one_desk, monkeypatch):
    monkeypatch.setattr(resubmission, "LOT_LETTERS", 1)
    for offset in (1, 2, 3):
        one_desk.bury(offset=offset, fault=WRONG_SHAPE)
    client, dead = one_desk.broker.client, one_desk.dead
    chosen = {letter.record.position for letter in resubmission.look(client, dead).letters}
    first, second = (resubmission.resubmit(client, dead, chosen, one_desk.dead) for _ in range(2))
    assert next(first) == 1
    assert list(second) == [1, 2]
    with pytest.raises(Fenced):
        next(first)
    assert len(one_desk.came_back()) == 3


def test_wrong_usage_is_refused(one_desk):
    assert one_desk.ask("--yes").exit_code == 2
    assert one_desk.ask("--json", "--resubmit").exit_code == 2
    assert one_desk.ask("--reason", "boredom").exit_code == 2


def test_a_broker_that_is_away_is_said_and_ends_with_1(one_desk):
    one_desk.config.write_text(one_desk.config.read_text().replace(one_desk.broker.bootstrap, "127.0.0.1:1"))
    failed = one_desk.ask()
    assert failed.exit_code == 1
    assert "no broker answered at" in failed.stderr
