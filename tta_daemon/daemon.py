"""The daemon: one loop on one thread that owns all state. Read `turn` first.

A record is *admitted* (decoded and gathered, or buried in the dead letters), its batch is *answered*, then learned
from, and now and then everything sent is *settled*: delivered first, committed after. A record is open in the ledger
from when it is read until it is answered or buried; an offset is committed only if nothing before it is open.

After a crash a record may come again that was answered, or learned from, or both: `Progress` knows what it still lacks.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import structlog

from tta_daemon.answering import Answering
from tta_daemon.backoff import Backoff
from tta_daemon.bell import Bell
from tta_daemon.control.checkpoint import Checkpoint
from tta_daemon.control.config import Config
from tta_daemon.control.errands import Errands
from tta_daemon.control.scribe import Scribe
from tta_daemon.control.slot import Slot
from tta_daemon.control.stream_states import StreamStates
from tta_daemon.control.web.board import Board, Kind
from tta_daemon.errors import BrokerUnreachable, DeliveryError, RecordRejected, TooManyRejected, TtaError
from tta_daemon.learner import Learner
from tta_daemon.model.load import Deployed
from tta_daemon.model.publish import Publisher
from tta_daemon.orders import Orders
from tta_daemon.partitions import Partitions
from tta_daemon.standing import standing
from tta_daemon.stream.batching import Batcher
from tta_daemon.stream.dead_letters import DeadLetters, RejectRatio
from tta_daemon.stream.decode import Bounds, Decoder
from tta_daemon.stream.ledger import Ledger
from tta_daemon.stream.progress import Progress
from tta_daemon.stream.records import Batch, Record
from tta_daemon.stream.sink import Sink
from tta_daemon.stream.source import Source
from tta_daemon.streams.many import Many
from tta_daemon.streams.one import One
from tta_daemon.streams.progress import StreamProgress
from tta_daemon.watch.labels import Labels
from tta_daemon.watch.metrics import Metrics
from tta_daemon.watch.traces import Traces
from tta_daemon.watch.watching import Watch

POLL_S = 0.5
"""The longest a turn waits for records: how soon a stop or a reload is noticed."""

TURN_S = 5.0
"""Answering for so long, the loop looks at all else before it goes on."""

GAP_S = 0.02
"""How long a turn waits for records while a settlement waits for the batch that closes a gap."""

REPORT_S = 0.25
"""Time between two reports to the outside."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class World:
    """What the loop meets outside itself: Kafka, or a log in memory."""

    source: Source
    sink: Sink
    labels: Labels
    checkpoint: Checkpoint | None = None
    states: StreamStates | None = None


class Daemon:
    """Every record that is read is answered or buried; nothing is committed before that was delivered."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of the loop, each named
        self,
        config: Config,
        deployed: Deployed,
        connect: Callable[[], World],
        learner: Learner,
        metrics: Metrics,
        board: Board,
        *,
        slot: Slot | None = None,
        taken: Callable[[Config], None] = lambda _: None,
        fresh_state: bool = False,
        traces: Traces | None = None,
        publisher: Publisher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.deployed = deployed
        self._connect = connect
        self.learner = learner
        self.metrics = metrics
        self.board = board
        self.slot = slot or Slot(config, deployed)
        self.errands = Errands()
        self.taken = taken
        self.fresh_state = fresh_state
        self.traces = traces or Traces()
        self.publisher = publisher
        self.clock = clock
        self.decoder = decoder_of(config, deployed.size)
        self.batcher = Batcher(config.batch.size, config.batch.patience_s)
        self.ledger = Ledger()
        self.scribe = Scribe(None, config.checkpoint.every_s, metrics, clock)
        self.progress: Progress | StreamProgress
        self.streams: One | Many
        if config.streams.by == "none":
            self.progress, self.streams = Progress(relearn_most=config.checkpoint.relearn_most), One(learner)
        else:
            self.progress = StreamProgress(config.checkpoint.relearn_most)
            self.streams = Many(learner, config.streams, self.progress, metrics, self.scribe)
        self.dead_letters = DeadLetters(config.kafka.dead_letters, connect_headers=config.kafka.connect_headers)
        self.reject_ratio = RejectRatio(config.limits.reject_ratio, config.limits.reject_window)
        self.partitions, self.orders, self.answering = Partitions(self), Orders(self), Answering(self)
        self._stopping = Bell()
        self.settings = config.masked()
        self._settled_at = self._reported_at = clock()
        self._images_per_record = 1.0

    def run(self) -> None:
        """Connect, turn until stopped, then drain. What goes wrong ends the process, with nothing lost."""
        try:
            if not self.connect():
                return
            try:
                while not self._stopping.is_set():
                    self.turn()
            except TooManyRejected:
                self._settle_for_good()
                raise
            self.board.withdraw("draining")
            self.drain()
        finally:
            self.board.withdraw()
            self.disconnect()

    def _settle_for_good(self) -> None:
        """What is buried stays so, and does not come again with every restart; if that fails, it does."""
        try:
            self.drain()
        except TtaError as late:
            log.warning("what was buried could not be settled", error=str(late))

    def connect(self) -> bool:
        """Reach the broker, however long it takes. False where the daemon was stopped before it could."""
        backoff = Backoff(self.clock)
        while not self._stopping.is_set():
            try:
                world = self._connect()
            except BrokerUnreachable as fault:
                pause_s = backoff.failed()
                log.warning("no broker; trying again", error=str(fault), in_s=pause_s)
                self.board.happened(Kind.BROKER_AWAY, f"no broker yet: {fault}")
                self.pause(pause_s)
            else:
                self.source, self.sink, self.labels = world.source, world.sink, world.labels
                self.labels.heard = self.board.gallery.labeled
                self.scribe.checkpoint = world.checkpoint or world.states
                self.resume(world)
                self._settled_at = self.clock()
                self.board.announce()
                self.board.happened(Kind.READY, f"ready: {self.deployed.name} answers, {self.learner.method} adapts")
                return not self.stopping
        return False

    def resume(self, world: World) -> None:
        """Go on from the newest saved state, if there is one, and from the records that it has not learned yet.

        States of streams come with their partitions.
        """
        checkpoint = world.checkpoint
        if isinstance(self.streams, Many):
            self.streams.open(world.states, partial(self.board.happened, Kind.RESUMED), fresh=self.fresh_state)
        elif checkpoint is None:
            return
        elif self.fresh_state:
            log.info("saved states are set aside", states=checkpoint.set_aside(""))
        elif (snapshot := checkpoint.latest("")) is not None:
            self.learner.resume(snapshot)
            self.progress = Progress(snapshot.learned, self.config.checkpoint.relearn_most)
            self.scribe.resumed(snapshot)
            log.info("state resumed", partitions=len(snapshot.learned), **snapshot.about)
            self.board.happened(Kind.RESUMED, f"goes on from the saved state, at step {self.learner.step}")

    def disconnect(self) -> None:
        """Close what `connect` opened, as far as it came; whatever one of them does, the others are closed."""
        with ExitStack() as closing:
            closing.callback(self.decoder.close)
            for end in ("labels", "sink", "source"):
                if (opened := getattr(self, end, None)) is not None:
                    closing.callback(opened.close)
            closing.callback(self.streams.close)
            closing.callback(self.scribe.close, self.config.settle.timeout_s)

    @property
    def watch(self) -> Watch | None:
        """Looks at the stream that was answered last; None where nothing is known of the source."""
        return self.learner.life.watch

    @property
    def stopping(self) -> bool:
        """Whether somebody asked to."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Ask the loop to drain and end. Safe to call from a signal handler."""
        self._stopping.set()

    def turn(self) -> None:
        """Everything that changes state happens here, in this order, on this thread."""
        try:
            self.orders.take_over()
            self.orders.run_errands()
            self.partitions.follow()
            self.admit()
            self.answer_due()
            if self.crowded:
                self.clear(TURN_S)
            self.hear_labels()
            self.settle_when_due()
        except DeliveryError as fault:
            self.read_again(fault)
        self.report()

    def answer_due(self) -> None:
        """Answer the batches whose time has come, for a few seconds at most: then there is the rest of the loop."""
        for _ in self._answer(self.batcher.due(self.clock()), TURN_S):
            if not self.ledger.ragged:
                self.settle_when_due()
            self.orders.take_over(midway=True)

    def clear(self, for_s: float = math.inf, *, heed_stop: bool = True) -> None:
        """Answer what waits, full batches or not."""
        for _ in self._answer(self.batcher.drain(), for_s, heed_stop=heed_stop):
            pass

    def _answer(self, batches: Sequence[Batch], for_s: float, *, heed_stop: bool = True) -> Iterator[None]:
        """Answer one after the other; after so long, or where the daemon is to stop, what is left waits again."""
        began, left = self.clock(), self.streams.together(batches, self.config.batch.size)
        for several in left:
            self.answering.answer(*several)
            yield
            self.report()
            if for_s < math.inf and ((heed_stop and self.stopping) or self.clock() - began > for_s):
                self.batcher.put_back(batch for later in left for batch in later)

    def departed(self, *, everyone: bool = False) -> None:
        """What answers is not what was saved or published, nor what the canary images were shown to."""
        self.scribe.departed()
        if self.publisher is not None:
            self.publisher.departed(self.deployed, self.learner, everyone=everyone)
        if self.watch is not None and self.watch.canary is not None:
            self.watch.canary.forget()

    def admit(self) -> None:
        """Read records; let the good ones wait for their batch, bury the others. What was answered stays answered."""
        polled = self.source.poll(self._patience_s(), self._room())
        records = [record for record in polled if record.position.partition in self.partitions]
        for record in records:
            if self.progress.must_answer(record.position):
                self.ledger.opened(record.position, record.size_bytes)
        if not records:
            return
        self.metrics.consumed(records)
        with self.metrics.timed("decode"):
            decoded = self.decoder.decode_all(records)
        images = [sample.size for sample in decoded if not isinstance(sample, RecordRejected)]
        self._images_per_record = max(1.0, sum(images) / max(1, len(images)))
        for record, sample in zip(records, decoded, strict=True):
            teaches = self.progress.read(record.position, None if isinstance(sample, RecordRejected) else sample.of)
            if not isinstance(sample, RecordRejected):
                self.batcher.add(replace(sample, learned=not teaches), self.clock())
            elif self.progress.must_answer(record.position):
                self.bury(record, sample)
            self.reject_ratio.saw(record.position, rejected=isinstance(sample, RecordRejected))

    def bury(self, record: Record, fault: RecordRejected) -> None:
        """A record that cannot be answered goes to the dead letters, with the reason."""
        self.sink.send(self.dead_letters.letter(record, fault))
        self.ledger.closed(record.position)
        self.metrics.rejected(fault.reason)
        (topic, number), offset = record.position
        log.warning("dead letter", reason=fault.reason.value, partition=f"{topic}-{number}", offset=offset)
        self.board.happened(Kind.DEAD_LETTER, f"dead letter: {fault.reason.replace('_', ' ')}")

    def hear_labels(self) -> None:
        """Labels judge the answers, and the estimates of their accuracy, and what the guard makes of both."""
        for scored in self.labels.join(self.clock()):
            self.streams.labeled(scored, self.clock())

    def settle_when_due(self) -> None:
        """Settle every so often; with exactly_once not while an answer is ahead of a record that still waits."""
        late_s = self.clock() - self._settled_at - self.config.settle.every_s
        if late_s < 0.0:
            return
        if self.gaping and late_s < self.config.settle.every_s:
            return  # the batch that closes the gap may be about to go out
        self.close_gaps(TURN_S)
        if not self.gaping:
            self.settle()

    def close_gaps(self, for_s: float = math.inf) -> None:
        """Answer what waits where an answer that is ahead of it would be final before it."""
        if self.gaping:
            self.clear(for_s)

    @property
    def gaping(self) -> bool:
        """Whether what was answered cannot be settled before what waits is."""
        return self.ledger.ragged and self.config.kafka.delivery == "exactly_once"

    def settle(self) -> None:
        """Deliver what was sent, save what was learned, commit what it came from; with exactly_once, all as one."""
        offsets, timeout_s = self.ledger.safe(), self.config.settle.timeout_s
        with self.metrics.timed("commit"):
            self.sink.flush(timeout_s)
            self.scribe.offer(self.progress.learned, self.streams.saved)
            committed = self.sink.settle(self.source, offsets, timeout_s)
        if committed:
            self.ledger.settled(offsets)
            self.metrics.settled()
        self.scribe.settled()
        self._settled_at = self.clock()

    def settle_soon(self) -> None:
        """Wait with the next settlement no longer."""
        self._settled_at -= self.config.settle.every_s

    def read_again(self, fault: DeliveryError) -> None:
        """Forget what was not settled and go back to where the group stands: nothing is lost, some may come twice."""
        self.partitions.read_again(fault)
        self._settled_at = self.clock()

    def report(self) -> None:
        """Tell the outside how things stand."""
        self.board.turned()
        if self.clock() - self._reported_at < REPORT_S:
            return
        self._reported_at = self.clock()
        self.metrics.turned(self.batcher.waiting, self.ledger.open_count, self.source.lag())
        self.board.publish(standing(self))
        self.streams.told(self.board)

    @property
    def crowded(self) -> bool:
        """Whether so much waits that it must wait for company no longer."""
        limits = self.config.limits
        return self.batcher.waiting >= limits.waiting_images or self.ledger.open_bytes >= limits.waiting_bytes

    def drain(self) -> None:
        """Answer what waits, as long as there is time for it, settle with the state saved, and leave."""
        until = self.clock() + self.config.limits.drain_s
        for batch in self.batcher.drain():
            if self.clock() < until:
                self.answering.answer(batch)
        if self.ledger.open_count:
            log.warning("no time to answer everything: whoever reads on will", open=self.ledger.open_count)
        if not self.gaping:
            self.scribe.hasten(self.config.settle.timeout_s)
            self.settle()
        log.info("drained", open=self.ledger.open_count)

    def pause(self, pause_s: float) -> bool:
        """Wait for better times, not deaf to a new configuration meanwhile. False where the daemon is to stop."""
        for _ in range(max(1, round(pause_s / POLL_S))):
            self.orders.take_over()
            if self.connected:
                self.report()
            else:
                self.board.publish(standing(self))
            if self._stopping.wait(min(POLL_S, pause_s)):
                return False
        return True

    @property
    def connected(self) -> bool:
        """Whether there is a broker to work with."""
        return getattr(self, "labels", None) is not None

    def _patience_s(self) -> float:
        """How long to wait for records: not past the moment when a batch or a settlement is due."""
        now = self.clock()
        settlement = max(GAP_S, self._settled_at + self.config.settle.every_s - now)  # overdue: it waits for a gap
        due = self.batcher.deadline(now)
        patience_s = POLL_S if not self.partitions.arriving else GAP_S
        return max(0.0, min(patience_s, settlement, POLL_S if due is None else due))

    def _room(self) -> int:
        """How many records may come in before the batches that wait must go out."""
        return max(1, int((self.config.limits.waiting_images - self.batcher.waiting) / self._images_per_record))


def decoder_of(config: Config, size: tuple[int, int]) -> Decoder:
    """The decoder as the configuration bounds it, of images of this height and width."""
    given = config.input
    bounds = Bounds(size, given.resize, given.max_bytes, given.max_pixels, given.max_images)
    return Decoder(bounds, config.streams.by, given.decoders)
