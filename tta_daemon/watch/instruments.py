"""Every instrument that Prometheus sees, declared with its meaning, on a registry of its own.

Label values come from closed sets and exist from the start, so that nothing appears out of nowhere.
"""

import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from tta_daemon import __version__
from tta_daemon.answered import Hold
from tta_daemon.errors import Reason
from tta_daemon.watch.estimates import PAIRS
from tta_daemon.watch.events import Happening
from tta_daemon.watch.guard import Decision, Serve
from tta_daemon.watch.view import DEPTHS

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
DELAYS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0, 7 * 24 * 3600.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
PHASES = ("decode", "infer", "source", "guard", "produce", "adapt", "watch", "commit")
MODELS = ("adapted", "source", "served")
WINDOWS = ("recent", "all")

# Birth times of series, which Prometheus' text format has no use for, and which promtool objects to.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Restore(StrEnum):
    """Why learned state was put back: a closed set, because it becomes a metric's label."""

    FAILED = "failed"
    GUARD = "guard"
    SCHEDULED = "scheduled"
    REQUESTED = "requested"


class Detector(StrEnum):
    """What looks for drift: a closed set, because it becomes a metric's label."""

    STATISTICS = "bn_statistics"
    ENTROPY = "entropy"
    LABELS = "predicted_labels"
    FEATURES = "features"
    ADWIN = "adwin"
    PAGE_HINKLEY = "page_hinkley"


@dataclass(frozen=True, slots=True)
class Instrument:
    """What the reference says of one metric."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]


class Instruments:
    """All instruments, by the names that the moments know them by."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.declared: list[Instrument] = []
        self._declare_flow()
        self._declare_adaptation()
        self._declare_checkpoint()
        self._declare_publications()
        self._declare_judgement()
        self._declare_streams()
        self._declare_identity()

    def _make(self, kind: Any, name: str, text: str, labels: Mapping[str, Iterable[str]] = {}, **more: Any) -> Any:  # noqa: ANN401 - any instrument; the default is only read
        made = kind(name, text, tuple(labels), registry=self.registry, **more)
        full = f"{name}_total" if kind is Counter else name
        self.declared.append(Instrument(full, kind.__name__.lower(), text, tuple(labels)))
        if len(labels) == 1:
            for value in next(iter(labels.values())):
                made.labels(value)
        return made

    def _declare_flow(self) -> None:
        make = self._make
        self.consumed = make(Counter, "tta_records_consumed", "Records read from the input topic.")
        self.answered = make(Counter, "tta_records_answered", "Records answered.")
        reasons = {"reason": list(Reason)}
        self.dead = make(Counter, "tta_records_dead_lettered", "Records that could not be answered.", reasons)
        self.images = make(Counter, "tta_images_answered", "Images answered.")
        self.repaired = make(
            Counter,
            "tta_images_repaired",
            "Images answered by the source model because the adapted one failed on them.",
        )
        self.batches = make(Counter, "tta_batches_processed", "Batches answered.")
        self.batch_images = make(Histogram, "tta_batch_images", "Images in a batch.", buckets=SIZES)
        self.phases = make(
            Histogram, "tta_batch_processing_seconds", "Time spent, by phase.", {"phase": PHASES}, buckets=SECONDS
        )
        self.latency = make(
            Histogram,
            "tta_answer_latency_seconds",
            "From a record's timestamp to its answer.",
            buckets=(*SECONDS, *DELAYS[3:6]),
        )
        partition: dict[str, Iterable[str]] = {"topic": (), "partition": ()}
        self.lag = make(Gauge, "tta_consumer_lag_records", "Records not yet read, by partition held.", partition)
        self.waiting = make(Gauge, "tta_waiting_images", "Images that wait for their batch to fill.")
        self.open = make(Gauge, "tta_open_records", "Records read and not yet answered or dead-lettered.")
        self.undelivered = make(Counter, "tta_delivery_failures", "Settlements that failed and were read again.")
        self.renewed = make(Counter, "tta_consumer_renewals", "Consumers replaced because they stood still.")
        self.last_record = make(Gauge, "tta_last_record_timestamp_seconds", "When a record was last read.")
        self.last_turn = make(Gauge, "tta_last_turn_timestamp_seconds", "When the loop last turned.")
        self.last_settled = make(Gauge, "tta_last_settlement_timestamp_seconds", "When offsets were last committed.")

    def _declare_adaptation(self) -> None:
        make = self._make
        self.steps = make(Counter, "tta_adaptation_steps", "Batches learned from.")
        self.skipped = make(
            Counter, "tta_adaptation_skipped", "Batches answered and not learned from.", {"reason": list(Hold)}
        )
        self.restores = make(
            Counter, "tta_restores", "Times that learned state was put back.", {"reason": list(Restore)}
        )
        serve: dict[str, Iterable[str]] = {"model": list(Serve)}
        self.by = make(Counter, "tta_answers", "Images answered, by who was believed.", serve)
        self.serving = make(Gauge, "tta_guard_serving", "Whose answers leave: 1 for one of them.", serve)
        decision: dict[str, Iterable[str]] = {"decision": list(Decision)}
        self.decisions = make(Counter, "tta_guard_decisions", "What the guard decided.", decision)
        self.signal = make(Gauge, "tta_adaptation_signal", "What the method said of its last step.", {"signal": ()})

    def _declare_checkpoint(self) -> None:
        make = self._make
        self.saves = make(
            Histogram, "tta_checkpoint_seconds", "Time that it took to save the state.", buckets=(*SECONDS, 60.0, 120.0)
        )
        self.save_failures = make(Counter, "tta_checkpoint_failures", "States that could not be saved.")
        self.save_bytes = make(Gauge, "tta_checkpoint_size_bytes", "Size of the last state that was saved.")
        self.saved_at = make(
            Gauge, "tta_checkpoint_last_success_timestamp_seconds", "When the state was last saved; 0: not yet."
        )
        self.relearned = make(
            Counter, "tta_records_relearned", "Records learned from after a restart, that had been answered before it."
        )

    def _declare_publications(self) -> None:
        make, results = self._make, {"result": ("published", "reverted", "failed")}
        self.publications = make(Counter, "tta_publish", "States handed to the service next door.", results)
        self.published_at = make(
            Gauge, "tta_publish_last_success_timestamp_seconds", "When a state was last published; 0: not yet."
        )
        self.published_version = make(Gauge, "tta_publish_version", "Version of the last state that was published.")

    def _declare_streams(self) -> None:
        make = self._make
        self.streams = make(Gauge, "tta_streams", "Streams that are known; 0 where all records share one adapter.")
        self.streams_resident = make(Gauge, "tta_streams_resident", "Streams whose state is in memory.")
        self.streams_drifted = make(Gauge, "tta_streams_drifted", "Streams that have drifted.")
        self.streams_born = make(Counter, "tta_streams_born", "Streams seen for the first time.")
        self.streams_adopted = make(Counter, "tta_streams_adopted", "New streams that began as another one is.")
        self.streams_evicted = make(Counter, "tta_streams_evicted", "States put on the disk to make room in memory.")
        self.streams_returned = make(Counter, "tta_streams_returned", "States that came back from the disk.")
        why = {"reason": ("no_checkpoint", "too_many", "unseen", "unfit")}
        self.streams_forgotten = make(Counter, "tta_streams_forgotten", "Streams whose state was lost to them.", why)
        self.streams_restoring = make(Gauge, "tta_streams_restoring", "States read so far of a partition that comes.")
        self.streams_restored = make(Counter, "tta_streams_restored", "States restored with their partitions.")
        self.restores_seconds = make(
            Histogram, "tta_stream_restore_seconds", "Time to restore a partition's streams.", buckets=(*SECONDS, 120.0)
        )
        self.restores_cut = make(Counter, "tta_stream_restores_cut", "Restorations that took longer than allowed.")
        name: dict[str, Iterable[str]] = {"stream": ()}
        self.stream_gain = make(
            Gauge, "tta_stream_gain_ratio", "What adapted answers tell beyond the source's, where least.", name
        )
        self.stream_drift = make(
            Gauge, "tta_stream_drift_ratio", "Drift score over its threshold, where largest.", name
        )
        self.stream_accuracy = make(
            Gauge, "tta_stream_accuracy_ratio", "Accuracy of answers by labels, where lowest.", name
        )
        self.together = make(Counter, "tta_forwards_together", "Forwards that answered several streams at once.")
        self.together_streams = make(Counter, "tta_streams_answered_together", "Streams that were answered by those.")

    def _declare_judgement(self) -> None:
        make, models = self._make, {"model": MODELS}
        about = "of about the last thousand answered images"
        self.entropy = make(Gauge, "tta_answer_entropy_nats", f"Mean entropy of the answers {about}.", models)
        self.confidence = make(Gauge, "tta_answer_confidence_ratio", f"Mean confidence {about}.", models)
        self.agreement = make(Gauge, "tta_agreement_ratio", f"Share {about} on which adapted and source agree.")
        both = {"model": MODELS, "window": WINDOWS}
        self.accuracy = make(
            Gauge, "tta_accuracy_ratio", "Share of labeled images answered right; NaN: none yet.", both
        )
        self.judged = make(Gauge, "tta_accuracy_images", "Labeled images behind that share.", {"window": WINDOWS})
        self.labeled = make(Counter, "tta_labeled_images", "Labeled images that a model answered.", models)
        self.right = make(Counter, "tta_labeled_images_correct", "Labeled images that a model answered right.", models)
        both_answered = "Labeled images that the source model answered too"
        self.compared = make(Counter, "tta_compared_images", f"{both_answered}: what accuracies are compared over.")
        self.compared_right = make(
            Counter, "tta_compared_images_correct", f"{both_answered}, and that a model answered right.", models
        )
        self.delay = make(Histogram, "tta_label_delay_seconds", "From an answer to its label.", buckets=DELAYS)
        self.tallies = {
            "labels": make(Counter, "tta_labels_received", "Records read from the labels topic."),
            "invalid": make(Counter, "tta_labels_invalid", "Labels that made no sense, or did not fit their answer."),
            "duplicate": make(Counter, "tta_labels_duplicate", "Labels of an answer that had one already."),
            "unmatched": make(Counter, "tta_labels_unmatched", "Labels whose answer was not seen in time."),
            "unlabeled": make(Counter, "tta_answers_unlabeled", "Answers forgotten before a label came."),
        }
        detectors: dict[str, Iterable[str]] = {"detector": ()}
        self.drift = make(Gauge, "tta_drift_score", "How far the stream is from the source domain.", detectors)
        self.threshold = make(Gauge, "tta_drift_threshold", "The score above which drift is called so.", detectors)
        self.detected = make(Gauge, "tta_drift_detected", "Whether the score is above its threshold.", detectors)
        self._declare_estimates()
        for gauge in (self.entropy, self.confidence):
            for model in MODELS:
                gauge.labels(model).set(math.nan)
        self.agreement.set(math.nan)
        for model in MODELS:
            for window in WINDOWS:
                self.accuracy.labels(model, window).set(math.nan)

    def _declare_estimates(self) -> None:
        make = self._make
        depths: dict[str, Iterable[str]] = {"depth": DEPTHS}
        self.depth = make(Gauge, "tta_drift_depth_score", "Distance at the norm layers of a quarter's depth.", depths)
        pair: dict[str, Iterable[str]] = {"estimator": (), "model": ()}
        estimate = "tta_accuracy_estimate"
        self.estimate = make(Gauge, f"{estimate}_ratio", "Accuracy estimated without labels.", pair)
        self.estimate_low = make(Gauge, f"{estimate}_low_ratio", "Lower end of its 95 % interval.", pair)
        self.estimate_high = make(Gauge, f"{estimate}_high_ratio", "Upper end of its 95 % interval.", pair)
        self.estimate_images = make(Gauge, f"{estimate}_images", "Images behind the estimate.", pair)
        self.estimate_valid = make(Gauge, f"{estimate}_valid", "Whether nothing speaks against the estimate.", pair)
        for estimator, model in PAIRS:
            for gauge in (self.estimate, self.estimate_low, self.estimate_high):
                gauge.labels(estimator, model).set(math.nan)
            self.estimate_images.labels(estimator, model)
            self.estimate_valid.labels(estimator, model)
        self.canary = make(Gauge, "tta_canary_accuracy_ratio", "Labeled source images answered right; NaN: none yet.")
        self.canary.set(math.nan)
        self.canary_images = make(Gauge, "tta_canary_images", "Labeled source images behind that.")
        kinds: dict[str, Iterable[str]] = {"event": list(Happening)}
        self.events = make(Counter, "tta_watch_events", "What the watch told of.", kinds)
        self.event_at = make(Gauge, "tta_watch_event_timestamp_seconds", "When it last did.", kinds)

    def _declare_identity(self) -> None:
        make = self._make
        build: dict[str, Iterable[str]] = {"version": (), "python": (), "torch": ()}
        self.build = make(Gauge, "tta_build_info", "Versions of what is running; always 1.", build)
        self.build.labels(__version__, platform.python_version(), torch.__version__).set(1)
        model: dict[str, Iterable[str]] = {"model": (), "digest": (), "method": (), "device": ()}
        self.model = make(Gauge, "tta_model_info", "The model and method that answer; always 1.", model)
        runtime: dict[str, Iterable[str]] = {"answers": (), "asked": (), "obtained": ()}
        self.runtime = make(
            Gauge, "tta_runtime_info", "What ONNX Runtime answers, and its execution provider; always 1.", runtime
        )
        self.config = make(Gauge, "tta_config_info", "The configuration in force; always 1.", {"digest": ()})
        self.reload_ok = make(Gauge, "tta_config_last_reload_successful", "Whether the last reload was taken.")
        self.reload_at = make(
            Gauge, "tta_config_last_reload_success_timestamp_seconds", "When the configuration in force was taken."
        )
        results = {"result": ("applied", "refused", "unchanged")}
        self.reloads = make(Counter, "tta_config_reloads", "Reloads asked for.", results)
