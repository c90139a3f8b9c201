"""A broker that goes away and comes back: nothing is lost, nothing hangs, and exactly once stays exactly once."""

import threading
import time
from collections import Counter

import pytest
from echo import Echo, Settled, answered, fill

from tta_daemon.errors import DeliveryError
from tta_daemon.stream.records import Message, Partition

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SETTLED_S = 6.0
"""noida-db writes its data out every second or so: what is younger is lost by a kill, as on a disk without fsync."""

PLACES = [Partition("images", 0), Partition("images", 1)]


def run_until(echo, count, seconds=60):
    """Turn until the group has committed so many records."""
    settled, deadline = Settled(echo.bootstrap, "g", PLACES), time.monotonic() + seconds
    while settled() < count:
        echo.turn()
        assert time.monotonic() < deadline
    settled.close()


@pytest.mark.parametrize("transactional_id", [None, "t"], ids=["at_least_once", "exactly_once"])
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_broker_that_comes_back(own_broker, transactional_id, how):
    own_broker.create_topics({"images": 2, "answers": 1})
    fill(own_broker.bootstrap, "images", range(200))
    echo = Echo(own_broker.bootstrap, transactional_id)
    run_until(echo, 200)
    fill(own_broker.bootstrap, "images", range(200, 400))
    echo.turn()
    if how == "kill":
        time.sleep(SETTLED_S)
        own_broker.kill()
    else:
        own_broker.stop()
    back = threading.Timer(4, own_broker.start)
    back.start()
    while back.is_alive():
        echo.turn()
    fill(own_broker.bootstrap, "images", range(400, 500))
    run_until(echo, 500)
    counts = answered(own_broker.bootstrap)
    echo.close()
    assert set(counts) == set(range(500))
    if transactional_id:
        assert counts.most_common(1)[0][1] == 1


def test_settling_while_the_broker_is_away_fails_in_time_and_is_made_good(own_broker):
    own_broker.create_topics({"images": 2, "answers": 1})
    fill(own_broker.bootstrap, "images", range(40))
    echo = Echo(own_broker.bootstrap, "t")
    records = []
    deadline = time.monotonic() + 20
    while len(records) < 40 and time.monotonic() < deadline:
        records += echo.source.poll(0.2, 50)
    for record in records:
        echo.ledger.opened(record.position)
        echo.sink.send(Message("answers", None, record.value))
        echo.ledger.closed(record.position)
    own_broker.stop()
    start = time.monotonic()
    with pytest.raises(DeliveryError):
        echo.sink.settle(echo.source, echo.ledger.safe(), 2.0)
    with pytest.raises(DeliveryError):
        echo.sink.abandon()
    with pytest.raises(DeliveryError):
        echo.sink.send(Message("answers", None, b"0"))
    assert time.monotonic() - start < 40
    own_broker.start()
    echo.read_again()
    run_until(echo, 40)
    counts = answered(own_broker.bootstrap)
    echo.close()
    assert counts == Counter(range(40))


def test_a_transaction_that_a_restart_of_the_broker_cut_in_two_is_not_counted_on(own_broker, until):
    own_broker.create_topics({"images": 2, "answers": 1})
    fill(own_broker.bootstrap, "images", range(40))
    echo = Echo(own_broker.bootstrap, "t")
    records = []
    until(lambda: records.extend(echo.source.poll(0.2, 50)) or len(records) == 40)

    for record in records[:20]:
        echo.ledger.opened(record.position)
        echo.sink.send(Message("answers", None, record.value))
        echo.ledger.closed(record.position)
    echo.sink.flush(10)
    own_broker.stop()
    own_broker.start()
    with pytest.raises(DeliveryError, match=r"connection was lost|not a member of the group"):
        echo.sink.settle(echo.source, echo.ledger.safe(), 10.0)
    echo.read_again()
    run_until(echo, 40)
    counts = answered(own_broker.bootstrap)
    echo.close()
    assert counts == Counter(range(40))
