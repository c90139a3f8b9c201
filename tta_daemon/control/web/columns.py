"""The numbers that the status page draws over time, each read from what Prometheus sees."""

import math
from collections.abc import Callable, Mapping

from tta_daemon.control.web.reading import Reading

LATENCY = "tta_answer_latency_seconds"
ESTIMATE = "tta_accuracy_estimate"

DETECTORS = ("bn_statistics", "features", "entropy", "predicted_labels", "adwin", "page_hinkley")

SERVES = ("adapted", "mixed", "blend", "source")
"""Whose answers leave."""

ESTIMATORS = {"adapted": ("combined", "agreement", "aetta"), "source": ("agreement", "atc", "doc", "importance")}
"""Which estimate is shown of each model: the first one that is valid, else the first there is."""

Column = Callable[[Reading, Reading], float]
"""A number from what is read now, and what was read a few seconds ago."""


def estimator(now: Reading, model: str) -> str | None:
    """The estimator to believe, if any has spoken."""
    known = [e for e in ESTIMATORS[model] if not math.isnan(now.value(f"{ESTIMATE}_ratio", estimator=e, model=model))]
    valid = [e for e in known if now.value(f"{ESTIMATE}_valid", estimator=e, model=model) == 1.0]
    return next(iter([*valid, *known]), None)


def _gauge(name: str, **labels: str) -> Column:
    return lambda now, _: now.value(name, **labels)


def _total(name: str, **labels: str) -> Column:
    return lambda now, _: now.total(name, **labels)


def _rate(name: str) -> Column:
    def rate(now: Reading, before: Reading) -> float:
        passed = now.at - before.at
        return (now.total(name) - before.total(name)) / passed if passed > 0.0 else math.nan

    return rate


def _quantile(share: float) -> Column:
    return lambda now, before: now.quantile(share, LATENCY, before)


def _estimate(model: str, part: str = "") -> Column:
    def estimate(now: Reading, _: Reading) -> float:
        name = estimator(now, model)
        return math.nan if name is None else now.value(f"{ESTIMATE}{part}_ratio", estimator=name, model=model)

    return estimate


def _per_model(name: str, **labels: str) -> dict[str, Column]:
    return {model: _gauge(name, model=model, **labels) for model in ("served", "adapted", "source")}


COLUMNS: Mapping[str, Column] = {
    **{f"accuracy_{m}": c for m, c in _per_model("tta_accuracy_ratio", window="recent").items()},
    "labeled": _gauge("tta_accuracy_images", window="recent"),
    **{f"estimate_{model}{part}": _estimate(model, part) for model in ESTIMATORS for part in ("", "_low", "_high")},
    **{f"drift_{detector}": _gauge("tta_drift_score", detector=detector) for detector in DETECTORS},
    **{f"threshold_{detector}": _gauge("tta_drift_threshold", detector=detector) for detector in DETECTORS},
    **{f"confidence_{model}": c for model, c in _per_model("tta_answer_confidence_ratio").items()},
    "agreement": _gauge("tta_agreement_ratio"),
    "latency_median": _quantile(0.5),
    "latency_p99": _quantile(0.99),
    "images_per_s": _rate("tta_images_answered_total"),
    "records_per_s": _rate("tta_records_consumed_total"),
    "lag": _total("tta_consumer_lag_records"),
    "waiting": _gauge("tta_waiting_images"),
}

TOTALS: Mapping[str, Column] = {
    "consumed": _total("tta_records_consumed_total"),
    "dead": _total("tta_records_dead_lettered_total"),
    "undelivered": _total("tta_delivery_failures_total"),
    "unsaved": _total("tta_checkpoint_failures_total"),
    **{f"by_{model}": _gauge("tta_answers_total", model=model) for model in SERVES},
    "batches": _total("tta_batches_processed_total"),
    "learned": _total("tta_adaptation_steps_total"),
}
"""What only grows: the summary goes by how much, lately."""
