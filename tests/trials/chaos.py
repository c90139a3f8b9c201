"""Daemons killed at random moments, a broker that goes and comes, replicas that join and leave. Read `run` first.

The embedded broker (noida-db 0.2.3) is a stricter judge than Kafka in some ways and no judge at all in others, so:

* A replica that is killed always comes back. One that leaves is taken off the group's list by the trial, as an operator
  may who scales down, and nothing else happens meanwhile. The broker waits for a static member for ever; Kafka gives
  its partitions to the others after `session_timeout_s`.
* With exactly_once the second replica leaves before the broker stops. The broker forgets its groups when it stops, and
  takes offsets in a transaction from a member of a group that is no more; Kafka keeps the group, and refuses.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from trials.feed import Feed, items
from trials.members import PARTITIONS, TOPICS, Member, dismiss, end
from trials.oracle import Onlooker, Verdict, judge
from tta_daemon.offline.broker import Broker

SILENCE_S = 150.0
"""Time without any progress after which the trial gives up and counts what is there."""

LOOK_S = 0.2
CALM_S = 4.0
"""More than it takes a member to notice that the group has something new in mind."""


class Blow(StrEnum):
    """What may happen to the daemons."""

    KILL = "kill"
    KILL_AT_START = "kill at start"
    OUTAGE = "outage"
    VISIT = "visit"
    """The second replica joins, or leaves if it is there."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    delivery: str = "exactly_once"
    records: int = 20_000
    kills: int = 20
    outages: int = 5
    visits: int = 4
    malformed: float = 0.01
    seed: int = 0

    def blows(self, chance: random.Random) -> list[Blow]:
        """All blows in random order; a fifth of the kills come while the daemon starts."""
        at_start = self.kills // 5
        found = [Blow.KILL] * (self.kills - at_start) + [Blow.KILL_AT_START] * at_start
        found += [Blow.OUTAGE] * self.outages + [Blow.VISIT] * self.visits
        chance.shuffle(found)
        return found


@dataclass(slots=True)
class Scene:
    """How far a trial is, for whoever looks on."""

    settled: int = 0
    sent: int = 0
    words: str = "starting"
    struck: list[str] = field(default_factory=list)


class StandsStill(Exception):  # noqa: N818 - named for what happened
    """Nothing was committed for a long time, though there is work."""


class Chaos:
    """One trial: the broker, the feed, two replicas and the blows that fall on them."""

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[Scene], None] = lambda _: None) -> None:
        self.plan, self.folder, self.tell = plan, folder, tell
        self.chance = random.Random(plan.seed)  # noqa: S311 - repeatable on purpose
        self.broker = Broker(folder / "broker")
        self.scene = Scene()
        self.onlooker = Onlooker(self.broker.bootstrap)
        self.allowed = 0
        self._began = time.monotonic()

    def run(self) -> Verdict:
        """Strike all blows while the records flow, let everything come to rest, and judge."""
        expected = {item.id: item.reason for item in self._items()}
        with self.broker:
            self.broker.create_topics(TOPICS)
            host, guest = (
                Member(self.broker, self.folder, name, self.plan.delivery) for name in ("replica-0", "replica-1")
            )
            stopped = ""
            try:
                with Feed(self.broker.bootstrap, self._items(), lambda: self.allowed) as self.feed:
                    host.start()
                    self._strike(host, guest)
                    self._rest(host, guest)
            except StandsStill as still:
                stopped = str(still)
            finally:
                for member in (host, guest):
                    member.stop()
                end((host, guest))
            self.scene.words = "counting"
            self.tell(self.scene)
            verdict = judge(self.broker.bootstrap, expected)
            self.onlooker.close()
        verdict.complaints += [*host.complaints, *guest.complaints]
        if stopped:
            verdict.complaints.append(stopped)
        if self.feed.error is not None:
            verdict.complaints.append(f"the feed broke: {self.feed.error!r}")
        return verdict

    def _items(self) -> Iterator:
        return items(self.plan.records, self.plan.malformed, self.plan.seed)

    def _strike(self, host: Member, guest: Member) -> None:
        """Each blow falls once its share of the records is settled, and a random while later, while more come in."""
        blows = self.plan.blows(self.chance)
        share = self.plan.records / (len(blows) + 1)
        for number, blow in enumerate(blows, 1):
            self.allowed = round(share * (number + 3))
            if blow is Blow.KILL_AT_START:
                self._turn(host, guest, self.chance.uniform(0.0, 6.0))
            else:
                self._until(host, guest, round(share * number))
                self._turn(host, guest, self.chance.uniform(0.0, 1.0))
            self._fall(blow, host, guest)

    def _fall(self, blow: Blow, host: Member, guest: Member) -> None:
        present = [member for member in (host, guest) if member.service is not None]
        if blow in {Blow.KILL, Blow.KILL_AT_START}:
            member = self.chance.choice(present)
            self._say(f"SIGKILL to {member.name}")
            member.kill()
            member.start()
        elif blow is Blow.OUTAGE:
            if self.plan.delivery == "exactly_once":
                self._leave(host, guest)
            self._say("the broker stops")
            self.broker.stop()
            self._turn(host, guest, self.chance.uniform(1.0, 8.0))
            self.broker.start()
            self._say("the broker is back")
        elif guest.service is None:
            self._say(f"{guest.name} joins")
            guest.start()
        else:
            self._leave(host, guest)

    def _leave(self, host: Member, guest: Member) -> None:
        if guest.service is not None:
            self._calm(host, guest)
            self._say(f"{guest.name} leaves")
            guest.stop()
            dismiss(self.broker.bootstrap, guest.name)
            self._calm(host, guest)

    def _calm(self, host: Member, guest: Member) -> None:
        """Wait until the group has come to rest with those of them in it that run, as far as they know."""
        self.scene.words = "the group comes to rest"
        calm_at, until = time.monotonic(), time.monotonic() + SILENCE_S
        while time.monotonic() - calm_at < CALM_S and time.monotonic() < until:
            self._turn(host, guest, LOOK_S)
            held = [member.held for member in (host, guest) if member.service is not None]
            if sum(held) != PARTITIONS or not all(held):
                calm_at = time.monotonic()

    def _rest(self, host: Member, guest: Member) -> None:
        """Let all records be settled."""
        self.scene.words, self.allowed = "coming to rest", self.plan.records
        self._until(host, guest, self.plan.records)

    def _until(self, host: Member, guest: Member, settled: int) -> None:
        """Turn until so many records are settled; StandsStill where nothing moves."""
        before, moved_at = -1, time.monotonic()
        while self.scene.settled < settled or (settled == self.plan.records and not self.feed.done):
            self._turn(host, guest, LOOK_S)
            if self.scene.settled != before:
                before, moved_at = self.scene.settled, time.monotonic()
            if time.monotonic() - moved_at > SILENCE_S:
                raise StandsStill(f"nothing was settled for {SILENCE_S:g} s, at {before} of {self.plan.records}")

    def _turn(self, host: Member, guest: Member, seconds: float) -> None:
        """Let some time go by, looking after everybody."""
        until = time.monotonic() + seconds
        while True:
            for member in (host, guest):
                member.mind()
            self.scene.settled, self.scene.sent = self.onlooker.settled(), self.feed.sent
            self.tell(self.scene)
            if time.monotonic() >= until:
                return
            time.sleep(min(LOOK_S, max(0.0, until - time.monotonic())))

    def _say(self, words: str) -> None:
        self.scene.words = words
        open_ = self.feed.sent - self.onlooker.settled()
        when = time.monotonic() - self._began
        self.scene.struck.append(f"{when:6.1f} s  settled {self.scene.settled:6d}, not yet {open_:5d}: {words}")
        self.tell(self.scene)
