"""Members that come and go, politely or not: every record is answered, and with transactions exactly once."""

import random
import time

import pytest
from echo import Echo, Settled, answered, fill

from tta_daemon.stream.records import Partition

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

RECORDS, PARTITIONS = 1500, 4


def vanish(echo):
    """What SIGKILL does: nobody leaves the group, nobody ends the transaction."""
    echo.sink._drop()
    echo.source._consumer._client.close()
    echo.source._caller.close()
    echo.source._consumer = None


@pytest.mark.parametrize("exactly_once", [False, True], ids=["at_least_once", "exactly_once"])
def test_members_come_and_go(broker, exactly_once):
    images, answers, group = broker.topic(PARTITIONS), broker.topic(what="answers"), broker.name("g")
    places = [Partition(images, number) for number in range(PARTITIONS)]
    fill(broker.bootstrap, images, range(RECORDS), PARTITIONS)
    rng = random.Random(3)  # noqa: S311 - repeatable on purpose

    def member(name):
        where = {"images": images, "answers": answers, "group": group, "instance": name}
        return Echo(broker.bootstrap, f"{group}-{name}" if exactly_once else None, **where)

    members = {"a": member("a"), "b": member("b")}
    settled, turns, deadline = Settled(broker.bootstrap, group, places), 0, time.monotonic() + 150
    while settled() < RECORDS:
        assert time.monotonic() < deadline, settled()
        turns += 1
        for echo in members.values():
            echo.turn(most=10)
        if turns % 12 == 0:  # somebody comes, leaves or is replaced
            name = rng.choice("abc")
            if name not in members:
                members[name] = member(name)
            elif len(members) > 1:
                gone = members.pop(name)
                if rng.random() < 0.5:
                    gone.close()
                else:
                    vanish(gone)
                    members[name] = member(name)
    counts = answered(broker.bootstrap, answers)
    for opened in (settled, *members.values()):
        opened.close()
    assert set(counts) == set(range(RECORDS))
    if exactly_once:
        assert counts.most_common(1)[0][1] == 1
