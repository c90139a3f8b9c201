"""Each stream its own state: one in the network, some in memory, the others on the disk, all of them saved."""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import structlog
import torch
from torch import Tensor

from adapters import Memory
from tta_daemon.answered import Answered
from tta_daemon.birth import impression_of
from tta_daemon.control.scribe import Scribe
from tta_daemon.control.sections import Streams as Settings
from tta_daemon.control.snapshot import Snapshot, decode, encode
from tta_daemon.control.stream_states import Round, StreamStates
from tta_daemon.control.web.board import Board
from tta_daemon.errors import CheckpointError
from tta_daemon.learner import Learner
from tta_daemon.life import Life
from tta_daemon.stream.records import Batch, Partition, Stream
from tta_daemon.streams.card import Card, worst
from tta_daemon.streams.progress import StreamProgress
from tta_daemon.streams.restoring import Restoring
from tta_daemon.streams.shelf import Shelf
from tta_daemon.watch.accuracy import Scored
from tta_daemon.watch.metrics import Metrics
from tta_daemon.watch.stream_metrics import Forgotten

SWEEP = 64
"""Streams whose time is over that are forgotten at a time, so that it never takes long."""

TELLING = 16
"""Fewest images by which to say whose state suits them."""

EPS = 1e-6

TELL_S = 2.0
"""Time between two looks at all streams."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Resident:
    """A stream in memory.

    Attributes:
        life: its guard and watch.
        memory: what its adapter has learned; None: nothing yet. Behind the network's while that is its.
        mark: the offset before which it has learned every record of its own.
        on_shelf: whether the disk has all this, too.
    """

    life: Life
    memory: Memory | None = None
    mark: int = 0
    moved: bool = False
    on_shelf: bool = False


class Many:
    """Swaps states in and out of the learner. Memory, disk and what is known of streams have limits.

    Invariant: the state of a stream that is known is in exactly one place: the network, memory, or the shelf; and what
    it has learned that no saved round holds yet is among the `_changed`.
    """

    follow_partitions = True

    def __init__(  # noqa: PLR0913 - each named
        self,
        learner: Learner,
        settings: Settings,
        progress: StreamProgress,
        metrics: Metrics,
        scribe: Scribe,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.known: OrderedDict[Stream, Card] = OrderedDict()
        self._learner, self._progress, self._metrics, self._scribe, self._now = learner, progress, metrics, scribe, now
        self._residents: OrderedDict[Stream, _Resident] = OrderedDict()
        self._shelf = Shelf()
        self._here: Stream | None = None
        self._changed: dict[Stream, None] = {}
        self._gone: set[Stream] = set()
        self._round: Round | None = None
        self._restoring: Restoring | None = None
        self._told_at = 0.0

    def open(self, states: StreamStates | None, told: Callable[[str], None], *, fresh: bool) -> None:
        """Save to, and restore from, these states; ``fresh`` sets aside what is there. ``told`` hears of it."""
        if states is not None:
            self._restoring = Restoring(states, lambda: self.identity, told, fresh=fresh)

    @property
    def identity(self) -> Mapping[str, str]:
        """What the states belong to."""
        return {**self._learner.identity, "streams.by": self.settings.by}

    def turn_to(self, stream: Stream, images: Tensor) -> None:
        """Have the learner answer for this stream, with what it has learned so far; ``images`` are what it shows."""
        if stream == self._here:
            return
        self._leave()
        new, resident = stream not in self.known, self._brought(stream)
        if new and self.settings.start == "nearest":
            resident.memory = self._nearest(images)
        self._enter(resident, stream)
        self._here = stream
        self._make_room()

    def together(self, batches: Sequence[Batch], most: int) -> Iterator[list[Batch]]:
        """The batches in their order, several at once where one forward of up to ``most`` images can answer them."""
        shared: list[Batch] = []
        company = min(self.settings.max_resident, self.settings.max_known)
        for batch in batches:
            alone = self._learner.stands_apart(batch.size, learned=batch.learned)
            full = sum(one.size for one in shared) + batch.size > most or len(shared) >= company
            if shared and (alone or full or any(one.of == batch.of for one in shared)):
                yield shared
                shared = []
            if alone:
                yield [batch]
            else:
                shared.append(batch)
        if shared:
            yield shared

    def gather(self, batches: Sequence[Batch]) -> list[tuple[Life, Memory | None]]:
        """The states of several streams, to be answered in one forward; the network is nobody's meanwhile."""
        self._leave()
        residents = [self._brought(batch.of) for batch in batches]
        self._make_room()
        self._metrics.streams.together(len(batches))
        return [(resident.life, resident.memory) for resident in residents]

    def answered(self, batch: Batch, answered: Answered, *, moved: bool) -> None:
        """The stream that is here was answered, and has learned if it may; ``moved``: its adapter is another now."""
        stream, resident = batch.of, self._residents[batch.of]
        card = self.known[stream]
        step = self._learner.step if stream == self._here else answered.step
        card.answered(len(batch.samples), answered, resident.life, step, self._now())
        self.known.move_to_end(stream)
        if self.settings.start == "nearest" and answered.view is not None:
            card.seen(impression_of(answered.view))
        resident.moved |= moved
        if not batch.learned:
            resident.on_shelf = False
            resident.mark = max(resident.mark, *(record.position.offset + 1 for record in batch.records))
            self._changed[stream] = None

    def labeled(self, scored: Scored, now: float) -> None:
        """Labels judge a stream's answers; its guard hears of it while it is in memory."""
        if scored.stream is None or (card := self.known.get(scored.stream)) is None:
            return
        card.labeled.add(scored)
        if (resident := self._residents.get(scored.stream)) is not None:
            resident.life.guard.labeled(scored, now)
            if resident.life.watch is not None:
                resident.life.watch.labeled(scored, now)

    def tune(self, settings: Settings) -> None:
        """Go on with other limits."""
        self.settings = settings
        for resident in self._residents.values():
            resident.life.guard.tune(self._learner.guard.settings)

    def told(self, board: Board) -> None:
        """Tell how many streams are ours and which are the worst; now and then, for there may be many."""
        now = self._now()
        if now < self._told_at + TELL_S:
            return
        self._told_at, rows = now, [(s, card) for s, card in self.known.items() if self._progress.holds(s.place)]
        board.publish_streams(rows)
        self._metrics.streams.standing(len(rows), len(self._residents), sum(card.drifted for _, card in rows))
        self._metrics.streams.worst(*worst(rows, self.settings.shown))

    # What outlives us

    def saved(self, learned: Mapping[Partition, int]) -> Round:
        """All that changed since the last round that is final."""
        last = self._round
        if last is not None and not self._scribe.holds(last.learned):
            self._changed = dict.fromkeys([*last.states, *self._changed])
            self._gone |= last.gone - set(self.known)
        self._sweep()
        ours = [stream for stream in self._changed if stream.place in learned]
        states = {stream: state for stream in ours if (state := self._state(stream)) is not None}
        self._round = Round(states, learned, self.identity, frozenset(s for s in self._gone if s.place in learned))
        self._changed = {stream: None for stream in self._changed if stream not in states}
        self._gone -= self._round.gone
        return self._round

    def ready(self, partition: Partition, committed: Callable[[], int | None]) -> bool:
        """Whether the states that the partition's streams had are there; goes on bringing them, for a moment, if not.

        Raises:
            BrokerUnreachable: they cannot be read, for now.
            CheckpointError: they are of another model, method or structural option.
        """
        restoring = self._restoring
        if restoring is None or not restoring.needed(partition, lambda: self._moved_on(partition, committed())):
            return True
        if partition not in restoring:
            self._drop([partition])
        found = restoring.go_on(partition, self.settings.restore_s, self._shelf)
        self._metrics.streams.restoring(restoring.states)
        if found is None:
            return False
        if found.floor is None:
            self._scribe.first()
        for stream, seen_at, step in found.streams:
            self.known[stream] = Card(seen_at, step=step)
        self.known = OrderedDict(sorted(self.known.items(), key=lambda entry: entry[1].seen_at))
        self._forget_beyond(self.settings.max_known)
        self._progress.restored(partition, found.floor, found.marks)
        self._metrics.streams.restored(len(found.streams), found.seconds, whole=found.whole)
        return True

    def let_go(self, partitions: Collection[Partition]) -> None:
        """These partitions are another's: what we have of them is of use only if they come back untouched."""
        self._progress.let_go(partitions)
        if self._restoring is not None:
            self._restoring.interrupt(partitions)

    def forget(self) -> None:
        """Every stream back to birth."""
        gone = {stream for stream in self.known if self._progress.holds(stream.place)}
        self.rebuilt()
        self._gone |= gone

    def rebuilt(self) -> None:
        """Another adapter answers: what the old one learned is of no use to it."""
        self._drop({stream.place for stream in self.known})
        self._round = None

    def close(self) -> None:
        """Let go of the disk."""
        self._shelf.close()

    # Where states are

    def _brought(self, stream: Stream) -> _Resident:
        """The stream's state in memory, newborn where there is none."""
        resident = self._residents.get(stream) or self._returned(stream)
        if resident is None:
            resident = _Resident(self._learner.new_life())
            self._metrics.streams.born()
        self._residents[stream] = resident
        self._residents.move_to_end(stream)
        if stream not in self.known:
            self._forget_beyond(self.settings.max_known - 1)
        self.known.setdefault(stream, Card(self._now()))
        self.known.move_to_end(stream)
        self._gone.discard(stream)
        return resident

    def _nearest(self, images: Tensor) -> Memory | None:
        """What the stream in memory has learned whose images are most like these; None where that tells no more.

        Distances are in units of how much the streams differ among themselves.
        """
        held = ((self.known[stream].impression, resident.memory) for stream, resident in self._residents.items())
        found = [(seen, memory) for seen, memory in held if seen is not None and memory is not None]
        if not found or len(images) < TELLING:
            return None
        kinds = torch.stack([seen for seen, _ in found])
        usual = kinds.std(0, correction=0) if len(found) > 1 else kinds[0].abs()
        apart = ((kinds - self._learner.impression(images)) / (usual + EPS)).square().mean(1)
        memory = found[int(apart.argmin())][1]
        if not self._learner.tells_more(memory, images):
            return None
        self._metrics.streams.adopted()
        return memory

    def _leave(self) -> None:
        """Take what the stream that is here has learned out of the network."""
        if self._here is not None:
            self._bring_up_to_date(self._residents[self._here])
            self._here = None

    def _enter(self, resident: _Resident, stream: Stream) -> None:
        try:
            self._learner.enter(resident.life, resident.memory)
        except (ValueError, KeyError, RuntimeError) as fault:
            log.warning("a stream begins anew: its state does not fit", stream=stream.name, error=str(fault))
            self._metrics.streams.forgotten(Forgotten.UNFIT)
            self._learner.enter(resident.life, None)
            resident.moved = True

    def _bring_up_to_date(self, resident: _Resident) -> None:
        if resident.moved:
            resident.memory = self._learner.adapter.dump()
            resident.moved = False

    def _state(self, stream: Stream) -> Snapshot | bytes | None:
        """The stream's state, ready to be saved; None where it was forgotten."""
        if stream not in self.known:
            return None
        resident = self._residents.get(stream)
        if resident is None:
            return self._shelf.get(stream)
        if stream == self._here:
            self._bring_up_to_date(resident)
        memory = resident.memory
        if memory is None:  # what is equal at birth is one tensor, and a file holds each of them
            memory = {name: tensor.clone() for name, tensor in self._learner.adapter.birth.items()}
        state = self._learner.snapshot_of(stream, resident.life, memory, {stream.place: resident.mark})
        about = {**state.about, "seen_at": str(self.known[stream].seen_at)}
        return replace(state, identity=self.identity, about=about)

    def _returned(self, stream: Stream) -> _Resident | None:
        """Back from the disk; None where there is nothing of it that is of use."""
        if stream not in self.known or (blob := self._shelf.get(stream)) is None:
            return None
        try:
            state = decode(blob)
            state.belongs_to(self.identity)
        except CheckpointError as fault:
            log.warning("a stream begins anew", stream=stream.name, error=str(fault))
            self._metrics.streams.forgotten(Forgotten.UNFIT)
            return None
        life = self._learner.new_life()
        life.load(state.beside, state.batches)
        self._metrics.streams.returned()
        return _Resident(life, state.memory, state.learned.get(stream.place, 0), on_shelf=True)

    def _make_room(self) -> None:
        """Put away whoever was used least recently, or forget it where there is nowhere to put it."""
        while len(self._residents) > self.settings.max_resident:
            stream = next(iter(self._residents))
            if self._restoring is None:
                self._forget(stream, Forgotten.NO_CHECKPOINT)
                continue
            resident = self._residents[stream]
            if not resident.on_shelf and isinstance(state := self._state(stream), Snapshot):
                self._shelf.put(stream, encode(state))
            del self._residents[stream]
            self._metrics.streams.evicted()

    def _sweep(self) -> None:
        """Forget whom nobody has seen for long, and the longest unseen where there are too many."""
        self._forget_beyond(self.settings.max_known)
        oldest = self._now() - self.settings.ttl_s
        for stream, card in list(islice(self.known.items(), SWEEP)):
            if not self.settings.ttl_s or card.seen_at >= oldest:
                break
            self._forget(stream, Forgotten.UNSEEN)

    def _forget_beyond(self, limit: int) -> None:
        """Forget the longest unseen until there are only so many."""
        while len(self.known) > limit:
            self._forget(next(iter(self.known)), Forgotten.TOO_MANY)

    def _forget(self, stream: Stream, why: Forgotten) -> None:
        if stream == self._here:
            self._here = None
        self.known.pop(stream, None)
        self._residents.pop(stream, None)
        self._changed.pop(stream, None)
        if self._restoring is not None:
            self._shelf.drop(stream)
        if not self._progress.holds(stream.place):
            return  # it is another's, who has it still
        self._metrics.streams.forgotten(why)
        if self._restoring is not None:
            self._gone.add(stream)

    def _drop(self, partitions: Collection[Partition]) -> None:
        """Forget the streams of these partitions here; what was saved of them stays."""
        for stream in [stream for stream in self.known if stream.home in partitions]:
            if stream == self._here:
                self._here = None
            self.known.pop(stream)
            self._residents.pop(stream, None)
        self._changed = {stream: None for stream in self._changed if stream.home not in partitions}
        self._gone = {stream for stream in self._gone if stream.home not in partitions}
        if self._restoring is not None:
            self._shelf.drop_all(partitions)

    def _moved_on(self, partition: Partition, committed: int | None) -> bool:
        """Whether somebody else has worked on the partition since we had it."""
        return self._progress.floor(partition) is None or self._progress.floor(partition) != committed
