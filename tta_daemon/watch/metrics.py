"""The moments of the loop, and what each of them moves in Prometheus.

The loop says what happened (`answered`, `rejected`); which instruments that moves, and under which labels, is known
here alone. The instruments are declared in `instruments`.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from prometheus_client import Gauge, GCCollector, PlatformCollector, ProcessCollector
from torch import Tensor

from adapters import SIGNALS
from tta_daemon.answered import Answered, Hold
from tta_daemon.errors import Reason
from tta_daemon.stream.records import Batch, Partition, Record
from tta_daemon.watch.accuracy import Accuracy, Scored, Tally
from tta_daemon.watch.estimates import Estimate, Estimator
from tta_daemon.watch.events import Happening
from tta_daemon.watch.guard import Decision, Serve
from tta_daemon.watch.instruments import PHASES, Detector, Instruments, Restore
from tta_daemon.watch.stream_metrics import StreamMetrics

__all__ = ["Detector", "Metrics", "Restore"]

MEMORY_IMAGES = 1000.0
"""About how many answered images the smoothed gauges look back on."""


class Metrics:
    """What the loop tells, in numbers.

    Args:
        process: whether to export the process's and Python's own numbers too.
        now: wall clock, in seconds since the epoch.

    Attributes:
        learning: how many batches were learned from, and held back for which reason.
    """

    def __init__(self, *, process: bool = False, now: Callable[[], float] = time.time) -> None:
        self._at = Instruments()
        self.registry = self._at.registry
        self.streams = StreamMetrics(self._at)
        self.learning: Counter[str] = Counter()
        self._now = now
        self._smooth: dict[str, float] = {}
        self._tallied: dict[str, int] = {}
        self._known: set[Partition] = set()
        if process:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=self.registry)

    def consumed(self, records: Sequence[Record]) -> None:
        """Records were read."""
        if records:
            self._at.consumed.inc(len(records))
            self._at.last_record.set(self._now())

    def rejected(self, reason: Reason) -> None:
        """A record went to the dead letters."""
        self._at.dead.labels(reason).inc()

    def timed(self, phase: str) -> AbstractContextManager[Any]:
        """Count the time that the block takes to one of `PHASES`."""
        if phase not in PHASES:
            raise ValueError(f"{phase!r} is no phase; there are: {', '.join(PHASES)}")
        timer: AbstractContextManager[Any] = self._at.phases.labels(phase).time()
        return timer

    def answered(self, batch: Batch, answered: Answered) -> None:
        """A batch's answers have left."""
        self._at.answered.inc(len(batch.samples))
        self._at.images.inc(batch.size)
        self._at.repaired.inc(answered.repaired)
        self._at.batches.inc()
        self._at.batch_images.observe(batch.size)
        self._at.phases.labels("infer").observe(answered.seconds)
        now = self._now()
        for record in batch.records:
            self._at.latency.observe(max(0.0, now - record.timestamp_s))
        self._at.by.labels(answered.serve).inc(batch.size)
        for serve in Serve:
            self._at.serving.labels(serve).set(serve is answered.serve)
        self._looked_at("served", answered.logits)
        self._looked_at("adapted", answered.adapted)
        if answered.source is not None:
            self._at.phases.labels("source").observe(answered.source_seconds)
            self._at.phases.labels("guard").observe(answered.guard_seconds)
            self._looked_at("source", answered.source)
            agree = (answered.adapted.argmax(1) == answered.source.argmax(1)).double().mean()
            self._smoothed(self._at.agreement, "agreement", float(agree), batch.size)

    def learned(self, signals: Mapping[str, float] | None, hold: Hold | None) -> None:
        """A batch was learned from, or held back for a reason; None: the method failed and was put back to birth."""
        hold = Hold.FAILED if signals is None else hold
        self.learning["learned" if hold is None else hold.value] += 1
        if hold is None:
            self._at.steps.inc()
        else:
            self._at.skipped.labels(hold).inc()
        if hold is Hold.FAILED:
            self.restored(Restore.FAILED)
        for name, value in (signals or {}).items():
            if name in SIGNALS:
                self._at.signal.labels(name).set(value)

    def decided(self, decision: Decision) -> None:
        """The guard decided something."""
        self._at.decisions.labels(decision).inc()

    def restored(self, reason: Restore) -> None:
        """Learned state was put back."""
        self._at.restores.labels(reason).inc()

    def turned(self, waiting_images: int, open_records: int, lag: Mapping[Partition, int]) -> None:
        """The loop went round once."""
        self._at.last_turn.set(self._now())
        self._at.waiting.set(waiting_images)
        self._at.open.set(open_records)
        self.forget(self._known - set(lag))
        for partition, behind in lag.items():
            self._at.lag.labels(partition.topic, str(partition.number)).set(behind)
        self._known = set(lag)

    def settled(self) -> None:
        """Offsets were committed."""
        self._at.last_settled.set(self._now())

    def saved(self, size_bytes: int, seconds: float) -> None:
        """A state outlives us from now on."""
        self._at.save_bytes.set(size_bytes)
        self._at.saves.observe(seconds)
        self._at.saved_at.set(self._now())

    def unsaved(self) -> None:
        """A state could not be saved."""
        self._at.save_failures.inc()

    def published(self, result: str, version: int) -> None:
        """What was learned was handed on, taken back, or could not be."""
        self._at.publications.labels(result).inc()
        if result != "failed":
            self._at.published_at.set(self._now())
            self._at.published_version.set(version)

    def relearned(self, records: int) -> None:
        """Records are learned from that were answered before a restart."""
        self._at.relearned.inc(records)

    def undelivered(self) -> None:
        """A settlement failed; what it was to cover is read again."""
        self._at.undelivered.inc()

    def renewed(self) -> None:
        """The consumer stood still, and another one takes its place."""
        self._at.renewed.inc()

    def forget(self, partitions: Collection[Partition]) -> None:
        """Partitions went to another replica: what we knew of them is no longer true."""
        for topic, number in self._known.intersection(partitions):
            self._at.lag.remove(topic, str(number))
        self._known.difference_update(partitions)

    def labelled(self, scored: Scored, accuracy: Accuracy) -> None:
        """A label met its answer."""
        served = scored.adapted_right if scored.served_right is None else scored.served_right
        right_by = {"adapted": scored.adapted_right, "source": scored.source_right, "served": served}
        for model, right in right_by.items():
            if right is not None:
                self._at.labeled.labels(model).inc(scored.images)
                self._at.right.labels(model).inc(right)
                if scored.source_right is not None:
                    self._at.compared_right.labels(model).inc(right)
        self._at.compared.inc(0 if scored.source_right is None else scored.images)
        self._at.delay.observe(scored.delay_s)
        for window, ratio in (("recent", accuracy.recent), ("all", accuracy.overall)):
            self._at.judged.labels(window).set(ratio.images)
            for model, value in (("adapted", ratio.adapted), ("source", ratio.source), ("served", ratio.served)):
                self._at.accuracy.labels(model, window).set(math.nan if value is None else value)

    def tallied(self, tally: Tally) -> None:
        """What became of labels and answers so far."""
        for name, counter in self._at.tallies.items():
            total: int = getattr(tally, name)
            counter.inc(total - self._tallied.get(name, 0))
            self._tallied[name] = total

    def drifted(self, detector: Detector, score: float, threshold: float | None = None) -> None:
        """A detector gave its score, and may know the threshold above which that is drift."""
        self._at.drift.labels(detector).set(score)
        if threshold is not None:
            self._at.threshold.labels(detector).set(threshold)
            self._at.detected.labels(detector).set(score > threshold)

    def drifted_at(self, depth: str, score: float) -> None:
        """How far the moments of one quarter of the network are from the source's."""
        self._at.depth.labels(depth).set(score)

    def estimated(self, estimator: Estimator, model: str, estimate: Estimate) -> None:
        """An accuracy was estimated without labels."""
        at = self._at
        at.estimate.labels(estimator, model).set(estimate.value)
        at.estimate_low.labels(estimator, model).set(estimate.low)
        at.estimate_high.labels(estimator, model).set(estimate.high)
        at.estimate_images.labels(estimator, model).set(estimate.images)
        at.estimate_valid.labels(estimator, model).set(estimate.valid)

    def canary(self, accuracy: float, images: int) -> None:
        """Labeled source images were answered."""
        self._at.canary.set(accuracy)
        self._at.canary_images.set(images)

    def happened(self, kind: Happening) -> None:
        """The watch told of an event."""
        self._at.events.labels(kind).inc()
        self._at.event_at.labels(kind).set(self._now())

    def model(self, name: str, digest: str, method: str, device: str) -> None:
        """This model answers from now on, by this method."""
        self._at.model.clear()
        self._at.signal.clear()
        self._at.model.labels(name, digest[:12], method, device).set(1)

    def runtimes(self, providers: Mapping[str, tuple[str, str]]) -> None:
        """ONNX Runtime gives these answers from now on, by the provider that was asked for or by another."""
        self._at.runtime.clear()
        for answers, (asked, obtained) in providers.items():
            self._at.runtime.labels(answers, asked, obtained).set(1)

    def configured(self, digest: str) -> None:
        """This configuration is in force from now on."""
        self._at.config.clear()
        self._at.config.labels(digest).set(1)
        self._agreed(in_force=True)

    def reloaded(self, result: str, *, in_force: bool) -> None:
        """A reload was applied, refused, or changed nothing; is what the file says in force now?"""
        self._at.reloads.labels(result).inc()
        self._agreed(in_force=in_force)

    def _agreed(self, *, in_force: bool) -> None:
        self._at.reload_ok.set(in_force)
        if in_force:
            self._at.reload_at.set(self._now())

    def _looked_at(self, model: str, logits: Tensor) -> None:
        log_p = logits.detach().double().log_softmax(1)
        entropy, confidence = -(log_p.exp() * log_p).sum(1).mean(), log_p.max(1).values.exp().mean()
        self._smoothed(self._at.entropy.labels(model), f"entropy {model}", float(entropy), len(logits))
        self._smoothed(self._at.confidence.labels(model), f"confidence {model}", float(confidence), len(logits))

    def _smoothed(self, gauge: Gauge, name: str, value: float, images: int) -> None:
        if not math.isfinite(value):
            return
        before = self._smooth.get(name, value)
        self._smooth[name] = before + (value - before) * -math.expm1(-images / MEMORY_IMAGES)
        gauge.set(self._smooth[name])
