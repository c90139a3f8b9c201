"""A broker that is away for long while its producer goes on: is anything lost, and what does the daemon hold?"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trials.feed import Feed, items
from trials.members import TOPICS, Member, end
from trials.oracle import Onlooker, Verdict, judge
from trials.vitals import Vitals
from tta_daemon.offline.broker import Broker

LOOK_S = 0.5
SETTLED_S = 300.0
WARM_S = 20.0
"""How long the daemon runs before the broker goes away and after everything is settled."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and how many records: a third before, the others while the broker is away and after."""

    delivery: str = "exactly_once"
    records: int = 6000
    away_s: float = 600.0
    seed: int = 0


@dataclass(slots=True)
class Report:
    """What came out, what the daemon held, and when the broker was away, in seconds of the vitals."""

    verdict: Verdict
    vitals: Vitals
    away_s: tuple[float, float]
    caught_up_s: float


def run(plan: Plan, folder: Path, tell: Callable[[str, int], None] = lambda *_: None) -> Report:
    """Feed, take the broker away in the middle of it, bring it back, wait until everything is settled, judge."""
    broker = Broker(folder / "broker")
    with broker:
        broker.create_topics(TOPICS)
        onlooker, allowed = Onlooker(broker.bootstrap), [plan.records // 3]
        member = Member(broker, folder, "replica-0", plan.delivery)
        feed = Feed(broker.bootstrap, items(plan.records, seed=plan.seed), lambda: allowed[0])
        pid = lambda: member.service and member.service.pid  # noqa: E731 - one question
        try:
            with feed, Vitals(pid) as vitals:
                member.start()
                _until(member, onlooker, plan.records // 6, tell)
                _pass(member, onlooker, WARM_S, lambda settled: tell("before", settled))
                broker.stop()
                allowed[0], gone_s = plan.records, vitals.now()
                _pass(member, onlooker, plan.away_s, lambda settled: tell("the broker is away", settled))
                broker.start()
                back_s = vitals.now()
                _until(member, onlooker, plan.records, tell)
                caught_up_s = vitals.now() - back_s
                _pass(member, onlooker, WARM_S, lambda settled: tell("after", settled))
            member.stop()
        finally:
            end([member])
        onlooker.close()
        verdict = judge(broker.bootstrap, {item.id: item.reason for item in items(plan.records, seed=plan.seed)})
        verdict.complaints += member.complaints
    if feed.error is not None:
        verdict.complaints.append(f"the feed broke: {feed.error!r}")
    return Report(verdict, vitals, (gone_s, back_s), caught_up_s)


def _until(member: Member, onlooker: Onlooker, settled: int, tell: Callable[[str, int], None]) -> None:
    """Wait until so many records are settled."""
    until = time.monotonic() + SETTLED_S
    while (now := onlooker.settled()) < settled:
        if time.monotonic() > until:
            raise TimeoutError(f"only {now} of {settled} records were settled within {SETTLED_S:g} s")
        member.mind()
        tell("working", now)
        time.sleep(LOOK_S)


def _pass(member: Member, onlooker: Onlooker, seconds: float, tell: Callable[[int], None]) -> None:
    """Let time go by."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        member.mind()
        tell(onlooker.settled())
        time.sleep(LOOK_S)
