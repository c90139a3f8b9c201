"""The daemon: one loop on one thread that owns all state. Read `turn` first.

A record is *admitted* (decoded and gathered, or buried in the dead letters), its batch is *answered*, then learned
from, and now and then everything sent is *settled*: delivered first, committed after. A record is open in the ledger
from when it is read until it is answered or buried; an offset is committed only if nothing before it is open.

After a crash a record may come again that was answered, or learned from, or both: `Progress` knows what it still lacks.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from threading import Event

import structlog
import torch

from tta_daemon.answered import Answered, Hold
from tta_daemon.answers import About, answers, predictions
from tta_daemon.backoff import Backoff
from tta_daemon.control.checkpoint import Checkpoint
from tta_daemon.control.config import Config
from tta_daemon.control.errands import Done, Errand, Errands
from tta_daemon.control.scribe import Scribe
from tta_daemon.control.slot import Prepared, Result, Slot
from tta_daemon.control.stream_states import StreamStates
from tta_daemon.control.web.board import Board, Kind
from tta_daemon.errors import BrokerUnreachable, DeliveryError, RecordRejected
from tta_daemon.learner import Learner, Part
from tta_daemon.model.load import Deployed
from tta_daemon.model.publish import Publisher
from tta_daemon.partitions import Partitions
from tta_daemon.standing import standing
from tta_daemon.stream.batching import Batcher
from tta_daemon.stream.dead_letters import DeadLetters, RejectRatio
from tta_daemon.stream.decode import Bounds, Decoder
from tta_daemon.stream.ledger import Ledger
from tta_daemon.stream.progress import Progress
from tta_daemon.stream.records import Batch
from tta_daemon.stream.sink import Sink
from tta_daemon.stream.source import Source
from tta_daemon.streams.many import Many
from tta_daemon.streams.one import One
from tta_daemon.streams.progress import StreamProgress
from tta_daemon.watch.batch_line import batch_line
from tta_daemon.watch.guard import Decision
from tta_daemon.watch.labels import Labels
from tta_daemon.watch.metrics import Metrics, Restore
from tta_daemon.watch.traces import Traces
from tta_daemon.watch.watching import Watch

POLL_S = 0.5
"""The longest a turn waits for records: how soon a stop or a reload is noticed."""

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
        self.partitions = Partitions(self)
        self._stopping = Event()
        self.settings = config.masked()
        self._settled_at = self._reported_at = clock()

    def run(self) -> None:
        """Connect, turn until stopped, then drain. What goes wrong ends the process, with nothing lost."""
        try:
            if not self.connect():
                return
            while not self._stopping.is_set():
                self.turn()
            self.board.withdraw("draining")
            self.drain()
        finally:
            self.board.withdraw()
            self.disconnect()

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
            self.take_over()
            self.run_errands()
            self.partitions.follow()
            self.admit()
            for batches in self.streams.together(self.batcher.due(self.clock()), self.config.batch.size):
                self.answer(*batches)
                if not self.ledger.ragged:
                    self.settle_when_due()
                self.take_over(midway=True)
            if self.crowded:
                self.clear()
            self.hear_labels()
            self.settle_when_due()
        except DeliveryError as fault:
            self.read_again(fault)
        self.report()

    def take_over(self, *, midway: bool = False) -> None:
        """Go on by a new configuration, if one is ready, whatever becomes of the records that wait.

        Midway through the batches of a turn only by one that lets them stay as they were decoded.
        """
        ready = self.slot.take(with_decoder=not midway)
        if ready is None:
            return
        try:
            if ready.decoder is not None:
                self.clear()  # what waits is answered by the model that it was decoded for
        finally:
            self.go_by(ready)

    def go_by(self, ready: Prepared) -> None:
        """Put what was prepared in the place of the old. Builds nothing and cannot fail; learned weights stay."""
        if ready.decoder is not None:
            self.decoder.close()
            self.decoder = ready.decoder
        config = self.config = ready.config
        self.settings = config.masked()
        if ready.deployed is not None:
            self.deployed = ready.deployed
        self.learner.take(self.deployed, config.adapt, config.watch.sample, config.guard, ready.adapter, ready.deputy)
        self.scribe.every_s = config.checkpoint.every_s
        if self.publisher is not None:
            self.publisher.every_s = config.publish.every_s
        self.streams.tune(config.streams)
        if ready.adapter is not None:
            self.streams.rebuilt()
            self.departed(everyone=True)
            self._settled_at -= config.settle.every_s  # what is saved must not be another method's for long
        self.batcher.size, self.batcher.patience_s = config.batch.size, config.batch.patience_s
        self.reject_ratio.tune(config.limits.reject_ratio, config.limits.reject_window)
        if self.connected:
            self.labels.tune(config.watch, self.deployed.labels)
        self.taken(config)
        self.metrics.model(self.deployed.name, self.deployed.digest, config.adapt.method, config.model.device)
        self.metrics.runtimes(self.learner.providers)
        self.metrics.configured(config.digest)
        self.metrics.reloaded(Result.APPLIED, in_force=self.slot.taken().result is Result.APPLIED)
        changes = {change.path: f"{change.old} -> {change.new}" for change in ready.changes}
        log.info("configuration taken", digest=config.digest, **changes)
        self.board.happened(Kind.RELOAD_TAKEN, ", ".join(f"{path}: {change}" for path, change in changes.items()))

    def run_errands(self) -> None:
        """Do what was asked for from outside."""
        for errand, asked in self.errands.take().items():
            done = self.reset() if errand is Errand.RESET else self.save()
            log.info("errand", errand=errand.value, done=done.done, words=done.words)
            if done.done:
                self.board.happened(Kind.RESET if errand is Errand.RESET else Kind.SAVED, done.words)
            asked.set_result(done)

    def reset(self) -> Done:
        """Forget what was learned: the deployed model answers, and learning begins anew."""
        steps = self.learner.step
        self.streams.forget()
        self.departed(everyone=True)
        self.metrics.restored(Restore.REQUESTED)
        return Done(done=True, words=f"{self.learner.method} has forgotten {steps} steps and begins anew")

    def departed(self, *, everyone: bool = False) -> None:
        """What answers is not what was saved or published, nor what the canary images were shown to."""
        self.scribe.departed()
        if self.publisher is not None:
            self.publisher.departed(self.deployed, self.learner, everyone=everyone)
        if self.watch is not None and self.watch.canary is not None:
            self.watch.canary.forget()

    def save(self) -> Done:
        """Settle now, and save what was learned."""
        if self.scribe.checkpoint is None:
            return Done(done=False, words='no state is saved anywhere: checkpoint.kind is "none"')
        timeout_s = self.config.settle.timeout_s
        self.scribe.hasten(timeout_s)
        try:
            self.settle()
        except DeliveryError as fault:
            self.read_again(fault)
        if self.scribe.kept(self.progress.learned, timeout_s):
            return Done(done=True, words=f"the state is saved, at step {self.learner.step}")
        return Done(done=False, words="the state could not be saved; the log says why")

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
        for record, sample in zip(records, decoded, strict=True):
            teaches = self.progress.read(record.position, None if isinstance(sample, RecordRejected) else sample.of)
            if not isinstance(sample, RecordRejected):
                self.batcher.add(replace(sample, learned=not teaches), self.clock())
            elif self.progress.must_answer(record.position):
                self.sink.send(self.dead_letters.letter(record, sample))
                self.ledger.closed(record.position)
                self.metrics.rejected(sample.reason)
                (topic, number), offset = record.position
                log.warning("dead letter", reason=sample.reason.value, partition=f"{topic}-{number}", offset=offset)
                self.board.happened(Kind.DEAD_LETTER, f"dead letter: {sample.reason.replace('_', ' ')}")
            self.reject_ratio.saw(record.position, rejected=isinstance(sample, RecordRejected))

    def answer(self, *batches: Batch) -> None:
        """Ask for a batch's answers, or in one forward for those of several streams; then see to each."""
        asked_at = time.time()
        if len(batches) > 1:
            lives = self.streams.gather(batches)
            parts = [Part(torch.from_numpy(b.images()), *life) for b, life in zip(batches, lives, strict=True)]
            try:
                shared = self.learner.answer_together(parts)
            except (RuntimeError, ValueError) as fault:
                log.warning("streams cannot be answered together; one at a time", error=str(fault))
            else:
                for batch, part, answered in zip(batches, parts, shared, strict=True):
                    self.learner.life = part.life
                    self.see_to(batch, part.images, answered, asked_at)
                return
        for batch in batches:
            images = torch.from_numpy(batch.images())
            self.streams.turn_to(batch.of, images)
            answered = self.learner.answer(images, self._age_s(batch, asked_at), learned=batch.learned)
            self.see_to(batch, images, answered, asked_at)

    def see_to(self, batch: Batch, images: torch.Tensor, answered: Answered, asked_at: float) -> None:
        """The answer does not wait for learning: send, close, then learn."""
        unanswered = [self.progress.must_answer(record.position) for record in batch.records]
        lag_s = self._age_s(batch, asked_at)
        about = About(self.deployed.name, self.learner.method, answered.step, answered.serve)
        said = predictions(answered.logits, self.deployed.labels)
        replies = zip(batch.samples, answers(batch, said, answered, about), strict=True)
        with self.metrics.timed("produce"):
            for sample, reply in compress(replies, unanswered):
                self.sink.send(reply.message(self.config.kafka.output_topic, sample.record))
                self.ledger.closed(sample.record.position)
                self.labels.answered(reply, self.clock(), batch.of)
        if any(unanswered):
            self.metrics.answered(replace(batch, samples=tuple(compress(batch.samples, unanswered))), answered)
        self.metrics.relearned(unanswered.count(False))
        self.board.gallery.saw(batch, said, answered.source, self.deployed.labels)
        self.watch_over(batch, answered)
        began = self.clock()
        with self.metrics.timed("adapt"):
            signals = answered.learn()
        self.metrics.learned(signals, answered.hold)
        self.heed_guard()
        hold = Hold.FAILED if signals is None else answered.hold
        if self.publisher is not None and answered.together == 1:
            self.publisher.look(self.deployed, self.learner, batch.stream, images if hold is None else None)
        step = self.learner.step if answered.together == 1 else answered.step
        told = {"step": step, "age_s": round(lag_s, 3), "learn_s": round(self.clock() - began, 4)}
        log.info("batch", **batch_line(batch, answered, hold), **told)
        self.traces.answered(batch, hold, self.config.kafka.group_id, asked_at)
        if hold is Hold.FAILED:
            self.board.happened(Kind.REWOUND, f"{self.learner.method} failed: what it had learned is forgotten")
        self.progress.learned_from([record.position for record in batch.records], batch.of)
        self.streams.answered(batch, answered, moved=hold in {None, Hold.FAILED, Hold.GUARD})

    def watch_over(self, batch: Batch, answered: Answered) -> None:
        """What a batch says of the stream, told once the answers have left; nothing counts twice."""
        watch = self.watch
        if watch is None or answered.view is None or batch.learned:
            return
        with self.metrics.timed("watch"):
            events = watch.see(answered.view, answered.adapted, self.clock(), answered.head)
            if answered.together == 1:
                watch.ask_canary(self.learner.adapter.predict)
            watch.tell(self.metrics, events)
        for event in events:
            log.info("watch", happening=event.kind.value, images=event.images, **event.detail)
            self.board.happened(Kind(event.kind.value), event.words, 1, **event.detail)
        self.learner.life.drifted = watch.drift.covariate

    def hear_labels(self) -> None:
        """Labels judge the answers, and the estimates of their accuracy, and what the guard makes of both."""
        for scored in self.labels.join(self.clock()):
            self.streams.labeled(scored, self.clock())

    def heed_guard(self) -> None:
        """Tell what the guard has decided, and do what follows from it."""
        for verdict in self.learner.guard.verdicts():
            log.info("guard", decision=verdict.decision.value, words=verdict.words, **verdict.evidence)
            self.metrics.decided(verdict.decision)
            self.board.happened(Kind.GUARD, verdict.words, 1, **verdict.evidence)
            if verdict.decision in {Decision.REWIND, Decision.RESET}:
                self.metrics.restored(Restore.GUARD if verdict.decision is Decision.REWIND else Restore.SCHEDULED)
                self.departed()

    def settle_when_due(self) -> None:
        """Settle every so often; with exactly_once not while an answer is ahead of a record that still waits."""
        late_s = self.clock() - self._settled_at - self.config.settle.every_s
        if late_s < 0.0:
            return
        if self.ledger.ragged and self.config.kafka.delivery == "exactly_once":
            if late_s < self.config.settle.every_s:
                return  # the batch that closes the gap may be about to go out
            self.clear()
        self.settle()

    def settle(self) -> None:
        """Deliver what was sent, save what was learned, commit what it came from; with exactly_once, all as one."""
        offsets, timeout_s = self.ledger.safe(), self.config.settle.timeout_s
        with self.metrics.timed("commit"):
            self.sink.flush(timeout_s)
            self.scribe.offer(self.progress.learned, self.streams.saved)
            committed = self.sink.settle(self.source, offsets, timeout_s)
        if committed:
            self.ledger.settled(offsets)
        self.scribe.settled()
        self.metrics.settled()
        self._settled_at = self.clock()

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

    def clear(self) -> None:
        """Answer what waits, full batches or not."""
        for batches in self.streams.together(self.batcher.drain(), self.config.batch.size):
            self.answer(*batches)

    def drain(self) -> None:
        """Answer what waits, as long as there is time for it, settle with the state saved, and leave."""
        until = self.clock() + self.config.limits.drain_s
        for batch in self.batcher.drain():
            if self.clock() < until:
                self.answer(batch)
        if self.ledger.open_count:
            log.warning("no time to answer everything: whoever reads on will", open=self.ledger.open_count)
        if not (self.ledger.ragged and self.config.kafka.delivery == "exactly_once"):
            self.scribe.hasten(self.config.settle.timeout_s)
            self.settle()
        log.info("drained", open=self.ledger.open_count)

    def pause(self, pause_s: float) -> bool:
        """Wait for better times, not deaf to a new configuration meanwhile. False where the daemon is to stop."""
        for _ in range(max(1, round(pause_s / POLL_S))):
            self.take_over()
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

    def _age_s(self, batch: Batch, now: float) -> float:
        """How old the oldest record is; 0 where some were answered before."""
        if not all(self.progress.must_answer(record.position) for record in batch.records):
            return 0.0
        return max(0.0, now - min(record.timestamp_s for record in batch.records))

    def _patience_s(self) -> float:
        """How long to wait for records: not past the moment when a batch or a settlement is due."""
        now = self.clock()
        settlement = max(GAP_S, self._settled_at + self.config.settle.every_s - now)  # overdue: it waits for a gap
        due = self.batcher.deadline(now)
        patience_s = POLL_S if not self.partitions.arriving else GAP_S
        return max(0.0, min(patience_s, settlement, POLL_S if due is None else due))

    def _room(self) -> int:
        """How many records may come in before the batches that wait must go out."""
        return max(1, self.config.limits.waiting_images - self.batcher.waiting)


def decoder_of(config: Config, size: tuple[int, int]) -> Decoder:
    """The decoder as the configuration bounds it, of images of this height and width."""
    given = config.input
    bounds = Bounds(size, given.resize, given.max_bytes, given.max_pixels, given.max_images)
    return Decoder(bounds, config.streams.by, given.decoders)
