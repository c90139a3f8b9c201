"""What `scripts/chaos` does, for half a minute: daemons killed, the broker stopped, and every record accounted for."""

from collections import Counter

import pytest
from trials.chaos import Chaos, Plan
from trials.oracle import Verdict

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.mark.usefixtures("own_processes")
@pytest.mark.parametrize(("delivery", "kills"), [("exactly_once", 2), ("at_least_once", 1)])
def test_every_record_comes_out_whatever_is_killed_or_stopped(tmp_path, delivery, kills):
    plan = Plan(delivery, records=500, kills=kills, outages=1, visits=0, malformed=0.02, seed=2)
    verdict = Chaos(plan, tmp_path).run()
    assert list(verdict.problems(exactly_once=delivery == "exactly_once")) == []
    assert verdict.complaints == []
    counts = verdict.counts()
    assert (counts["distinct ids in the input"], counts["dead letters"]) == (500, sum(verdict.buried.values()))
    assert set(verdict.buried) == {name for name, reason in verdict.expected.items() if reason}


def verdict(**found):
    once = Counter({"a": 1, "b": 1, "bad": 1})
    given = {"sent": once, "answered": Counter("ab"), "buried": Counter(["bad"]), "reasons": {"bad": "empty_value"}}
    return Verdict(**(given | {"expected": {"a": "", "b": "", "bad": "empty_value"}, "left": 0} | found))


@pytest.mark.parametrize(
    ("found", "exactly_once", "said"),
    [
        ({}, True, []),
        ({"answered": Counter("a")}, False, ["1 records were lost"]),
        ({"answered": Counter("abb")}, False, []),
        ({"answered": Counter("abb")}, True, ["1 ids came out too often", "0 ids came out not often enough"]),
        ({"answered": Counter("abc")}, False, ["1 ids came out that were never sent"]),
        ({"sent": Counter("ab"), "buried": Counter()}, False, ["1 records never reached the input"]),
        ({"answered": Counter(["a", "b", "bad"])}, False, ["1 malformed records were answered"]),
        ({"reasons": {"bad": "too_large"}}, False, ["1 dead letters give another reason than theirs"]),
        ({"left": 3}, False, ["3 records of the input are not committed"]),
    ],
)
def test_the_oracle_sees_what_is_wrong(found, exactly_once, said):
    problems = list(verdict(**found).problems(exactly_once=exactly_once))
    assert [problem.startswith(words) for problem, words in zip(problems, said, strict=True)] == [True] * len(said)
