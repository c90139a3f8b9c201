"""Answering a batch: the answers leave first, what follows from it comes after."""

import time
from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING

import structlog
import torch

from tta_daemon.answered import Answered, Hold
from tta_daemon.answers import About, answers, predictions
from tta_daemon.control.web.board import Kind
from tta_daemon.errors import Reason, RecordRejected
from tta_daemon.learner import Part
from tta_daemon.stream.records import Batch, Sample
from tta_daemon.streams.many import Many
from tta_daemon.watch.batch_line import batch_line
from tta_daemon.watch.guard import Decision
from tta_daemon.watch.metrics import Restore

if TYPE_CHECKING:
    from tta_daemon.daemon import Daemon

log = structlog.get_logger(__name__)


class Answering:
    """Has the learner answer for the loop, and on its thread, and sees to all that each answer is told to."""

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon

    def answer(self, *batches: Batch) -> None:
        """Ask for a batch's answers, or in one forward for those of several streams; then see to each."""
        daemon, asked_at = self._daemon, time.time()
        if len(batches) > 1 and isinstance(daemon.streams, Many):
            lives = daemon.streams.gather(batches)
            parts = [Part(torch.from_numpy(b.images()), *life) for b, life in zip(batches, lives, strict=True)]
            try:
                shared = daemon.learner.answer_together(parts)
            except (RuntimeError, ValueError) as fault:
                log.warning("streams cannot be answered together; one at a time", error=str(fault))
            else:
                for batch, part, answered in zip(batches, parts, shared, strict=True):
                    daemon.learner.life = part.life
                    self._see_to(batch, part.images, answered, asked_at)
                return
        for batch in batches:
            images = torch.from_numpy(batch.images())
            daemon.streams.turn_to(batch.of, images)
            answered = daemon.learner.answer(images, self._age_s(batch, asked_at), learned=batch.learned)
            self._see_to(batch, images, answered, asked_at)

    def _see_to(self, batch: Batch, images: torch.Tensor, answered: Answered, asked_at: float) -> None:
        """The answer does not wait for learning: send, close, then learn."""
        daemon = self._daemon
        unanswered = [daemon.progress.must_answer(record.position) for record in batch.records]
        lag_s = self._age_s(batch, asked_at)
        about = About(daemon.deployed.name, daemon.learner.method, answered.step, answered.serve)
        said = predictions(answered.logits, daemon.deployed.labels)
        replies = zip(batch.samples, answers(batch, said, answered, about), strict=True)
        sent: list[Sample] = []
        with daemon.metrics.timed("produce"):
            for sample, reply in compress(replies, unanswered):
                message = reply.message(daemon.config.kafka.output_topic, sample.record)
                if message.size_bytes > daemon.dead_letters.most_bytes:  # the broker would refuse it again and again
                    words = f"its answer is of {message.size_bytes} bytes"
                    daemon.bury(sample.record, RecordRejected(Reason.UNDELIVERABLE, words))
                    continue
                daemon.sink.send(message)
                sent.append(sample)
                daemon.ledger.closed(sample.record.position)
                daemon.labels.answered(reply, daemon.clock(), batch.of)
        if sent:
            daemon.metrics.answered(replace(batch, samples=tuple(sent)), answered)
        daemon.metrics.relearned(unanswered.count(False))
        daemon.board.gallery.saw(batch, said, answered.source, daemon.deployed.labels)
        self._watch_over(batch, answered)
        began = daemon.clock()
        with daemon.metrics.timed("adapt"):
            signals = answered.learn()
        daemon.metrics.learned(signals, answered.hold)
        self._heed_guard()
        hold = Hold.FAILED if signals is None else answered.hold
        if daemon.publisher is not None and answered.together == 1:
            daemon.publisher.look(daemon.deployed, daemon.learner, batch.stream, images if hold is None else None)
        step = daemon.learner.step if answered.together == 1 else answered.step
        told = {"step": step, "age_s": round(lag_s, 3), "learn_s": round(daemon.clock() - began, 4)}
        log.info("batch", **batch_line(batch, answered, hold), **told)
        daemon.traces.answered(batch, hold, daemon.config.kafka.group_id, asked_at)
        if hold is Hold.FAILED:
            daemon.board.happened(Kind.REWOUND, f"{daemon.learner.method} failed: what it had learned is forgotten")
        daemon.progress.learned_from([record.position for record in batch.records], batch.of)
        daemon.streams.answered(batch, answered, moved=hold in {None, Hold.FAILED, Hold.GUARD})

    def _watch_over(self, batch: Batch, answered: Answered) -> None:
        """What a batch says of the stream, told once the answers have left; nothing counts twice."""
        daemon = self._daemon
        watch = daemon.watch
        if watch is None or answered.view is None or batch.learned:
            return
        with daemon.metrics.timed("watch"):
            events = watch.see(answered.view, answered.adapted, daemon.clock(), answered.head)
            if answered.together == 1:
                watch.ask_canary(daemon.learner.adapter.predict)
            watch.tell(daemon.metrics, events)
        for event in events:
            log.info("watch", happening=event.kind.value, images=event.images, **event.detail)
            daemon.board.happened(Kind(event.kind.value), event.words, 1, **event.detail)
        daemon.learner.life.drifted = watch.drift.covariate

    def _heed_guard(self) -> None:
        """Tell what the guard has decided, and do what follows from it."""
        daemon = self._daemon
        for verdict in daemon.learner.guard.verdicts():
            log.info("guard", decision=verdict.decision.value, words=verdict.words, **verdict.evidence)
            daemon.metrics.decided(verdict.decision)
            daemon.board.happened(Kind.GUARD, verdict.words, 1, **verdict.evidence)
            if verdict.decision in {Decision.REWIND, Decision.RESET}:
                daemon.metrics.restored(Restore.GUARD if verdict.decision is Decision.REWIND else Restore.SCHEDULED)
                daemon.departed()

    def _age_s(self, batch: Batch, now: float) -> float:
        """How old the oldest record is; 0 where some were answered before."""
        daemon = self._daemon
        if not all(daemon.progress.must_answer(record.position) for record in batch.records):
            return 0.0
        return max(0.0, now - min(record.timestamp_s for record in batch.records))
