"""Five answers for the one who is on call: healthy? worth it? drifted? who answers? what happened last?"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tta_daemon.answered import Hold
from tta_daemon.control.sections import Http
from tta_daemon.control.web.board import Board
from tta_daemon.control.web.chronicle import Kind, Tone
from tta_daemon.control.web.columns import DETECTORS, ESTIMATE, SERVES, estimator
from tta_daemon.control.web.history import History
from tta_daemon.control.web.reading import Reading

LATELY_S = 300.0
"""How far back a thing counts as lately."""

UNSETTLED_S = 60.0
"""Time without a commit after which something is wrong."""

SURE = 1.96
"""Standard errors by which two accuracies differ for sure."""

MANY_DEAD = 0.05
"""Share of dead letters worth a word."""

BEHIND_S = 30.0
"""Seconds of work that wait at which the lag is worth a word."""

SERVED = {"adapted": "Adapted model", "mixed": "Mixed norms", "blend": "Both, averaged", "source": "Frozen model"}
"""Whose answers leave, in words; the first of them is enough among others."""

DETECTOR_NAMES = {
    "bn_statistics": "layer statistics",
    "features": "features",
    "entropy": "entropy",
    "predicted_labels": "predicted classes",
    "adwin": "ADWIN",
    "page_hinkley": "Page-Hinkley",
}


@dataclass(frozen=True, slots=True)
class Card:
    """One answer: the question, how to take it, a few words, a line more, and when, where that matters."""

    question: str
    tone: Tone
    head: str
    words: str
    at: float | None = None


def cards(board: Board, http: Http, now: Reading, history: History) -> list[dict[str, Any]]:
    """The five answers, ready for JSON."""
    told = (_health(board, http, now, history), _gain(now), _drift(board, now), _who(now, history), _last(board))
    return [asdict(card) for card in told]


def _health(board: Board, http: Http, now: Reading, history: History) -> Card:
    troubles = list(_troubles(board, http, now, history))
    worst = next((card for tone in (Tone.BAD, Tone.NOTICE) for card in troubles if card.tone is tone), None)
    if worst is None:
        lag = now.total("tta_consumer_lag_records")
        behind = "nothing waits" if not lag > 0 else f"{lag:,.0f} records to read"
        return Card("Health", Tone.GOOD, "Healthy", f"the loop turns, answers are committed, {behind}")
    others = [card.head.lower() for card in troubles if card is not worst]
    more = f"; also: {', '.join(others)}" if others else ""
    return Card("Health", worst.tone, worst.head, worst.words + more)


def _troubles(board: Board, http: Http, now: Reading, history: History) -> Iterator[Card]:
    alive, ready = board.alive(http.stall_s), board.ready
    if not alive.good:
        yield _trouble(Tone.BAD, "Stuck", alive.words)
    if not ready.good:
        yield _trouble(Tone.NOTICE, ready.words.capitalize(), "not ready to answer")
    settled = now.value("tta_last_settlement_timestamp_seconds")
    if ready.good and 0.0 < settled < now.at - UNSETTLED_S:
        yield _trouble(Tone.BAD, "Not committing", f"nothing was committed for {now.at - settled:.0f} s")
    if times := history.growth("undelivered", LATELY_S):
        yield _trouble(Tone.BAD, "Delivery fails", f"{times:.0f} settlements failed and were read again lately")
    lag, rate = now.total("tta_consumer_lag_records"), history.growth("consumed", 30.0) / 30.0
    if lag > BEHIND_S * max(rate, 1.0):
        yield _trouble(Tone.NOTICE, "Behind", f"{lag:,.0f} records wait, {rate:,.0f} a second are read")
    dead, consumed = history.growth("dead", LATELY_S), history.growth("consumed", LATELY_S)
    if dead > MANY_DEAD * consumed:
        yield _trouble(Tone.NOTICE, "Dead letters", f"{dead:.0f} of {consumed:.0f} records lately")
    if now.value("tta_config_last_reload_successful") == 0.0 and now.labels("tta_config_info"):
        yield _trouble(Tone.NOTICE, "Reload refused", "the file is not what is in force; the log says why")
    if times := history.growth("unsaved", LATELY_S):
        yield _trouble(Tone.NOTICE, "State not saved", f"{times:.0f} times lately; a restart would lose what is new")


def _trouble(tone: Tone, head: str, words: str) -> Card:
    return Card("Health", tone, head, words)


def _gain(now: Reading) -> Card:
    """By labels where there are some, else by the estimates."""
    question = "Is adaptation worth it?"
    name, labeled = "tta_accuracy_ratio", now.value("tta_accuracy_images", window="recent")
    served, source = (now.value(name, model=model, window="recent") for model in ("served", "source"))
    if not math.isnan(served - source):
        both = f"answers {_percent(served)}, frozen {_percent(source)} of {labeled:,.0f} labeled images"
        error = math.sqrt((served * (1 - served) + source * (1 - source)) / labeled)
        return _judged(question, served - source, error, both)
    if not math.isnan(served):
        words = f"{_percent(served)} of {labeled:,.0f} labeled images; the frozen model was not asked"
        return Card(question, Tone.UNKNOWN, "Nothing to compare", words)
    estimators = {model: estimator(now, model) for model in ("adapted", "source")}
    told = {m: _estimate(now, m, e) for m, e in estimators.items() if e is not None}
    if len(told) < len(estimators):
        words = "no labels yet, and without a prior no estimates: run tta-daemon prepare"
        return Card(question, Tone.UNKNOWN, "Unknown", words)
    gain, error = told["adapted"][0] - told["source"][0], math.hypot(told["adapted"][1], told["source"][1])
    both = f"estimated: adapted {_percent(told['adapted'][0])}, frozen {_percent(told['source'][0])}"
    valid = all(now.value(f"{ESTIMATE}_valid", model=m, estimator=str(e)) == 1.0 for m, e in estimators.items())
    if not valid:
        return Card(question, Tone.UNKNOWN, f"Perhaps {_points(gain)}", f"{both}; beyond what the estimates know")
    return _judged(question, gain, error, f"{both}; no labels yet")


def _estimate(now: Reading, model: str, name: str) -> tuple[float, float]:
    """An estimate and its standard error."""
    labels = {"estimator": name, "model": model}
    value, low, high = (now.value(f"{ESTIMATE}{part}_ratio", **labels) for part in ("", "_low", "_high"))
    return value, (high - low) / 2 / SURE


def _judged(question: str, gain: float, error: float, words: str) -> Card:
    if abs(gain) <= SURE * error:
        return Card(question, Tone.GOOD, "About equal", f"{_points(gain)}: {words}")
    return Card(question, Tone.GOOD if gain > 0 else Tone.BAD, _points(gain), words)


def _drift(board: Board, now: Reading) -> Card:
    question = "Has the world drifted?"
    scores = {d: now.value("tta_drift_score", detector=d) for d in DETECTORS}
    if all(math.isnan(score) for score in scores.values()):
        return Card(question, Tone.UNKNOWN, "Not measured", "without a prior there is no drift: run tta-daemon prepare")
    over = [d for d in DETECTORS if now.value("tta_drift_detected", detector=d) == 1.0]
    if not over:
        return Card(question, Tone.GOOD, "No drift", "every score is below its threshold")
    lasting = [d for d in over if not d.startswith(("adwin", "page"))]
    began = next((e.at for e in reversed(board.events) if e.kind in {Kind.DRIFT_BEGAN, Kind.LABEL_SHIFT_BEGAN}), None)
    names = ", ".join(DETECTOR_NAMES[d] for d in over)
    if not lasting:
        return Card(question, Tone.NOTICE, "Changing", f"{names} tell of a change within the stream")
    worst = max(scores[d] / max(now.value("tta_drift_threshold", detector=d), 1e-9) for d in lasting)
    head = "Classes shifted" if lasting == ["predicted_labels"] else "Drifted"
    return Card(question, Tone.NOTICE, f"{head}, {_times(worst)}", f"above the threshold: {names}", began)


TOO_LITTLE = {
    Hold.SMALL.value: "batches have fewer images than adapt.learn_from: let them wait longer (batch.patience_s)",
    Hold.BUDGET.value: "adapt.budget leaves no time for it",
    Hold.LAG.value: "the stream is behind by more than adapt.max_lag_s",
}
"""What keeps everything from being learned from without anybody having asked for that."""


def _who(now: Reading, history: History) -> Card:
    question = "Who answers?"
    about = now.labels("tta_model_info")
    if not about:
        return Card(question, Tone.UNKNOWN, "Nobody yet", "the model is being loaded")
    method, model = about["method"], about["model"]
    if method == "source":
        return Card(question, Tone.GOOD, "Frozen model", f"{model}, as configured: nothing is learned")
    images = {serve: history.growth(f"by_{serve}", LATELY_S) for serve in SERVES}
    total = sum(images.values())
    if not total:
        return Card(question, Tone.UNKNOWN, "Nobody now", f"{model}: no image came in the last minutes")
    serving = next((s for s in SERVES if now.value("tta_guard_serving", model=s) == 1.0), "adapted")
    shares = [f"{SERVED[s].split()[0].strip(',').lower()} {_whole(images[s] / total)}" for s in SERVES if images[s]]
    learned = history.growth("learned", LATELY_S) / max(1.0, history.growth("batches", LATELY_S))
    lately = f"in 5 min: {', '.join(shares)}; {method} learned from {_whole(learned)} of the batches"
    held = {reason: now.value("tta_adaptation_skipped_total", reason=reason) for reason in TOO_LITTLE}
    worst = max(held, key=held.__getitem__)
    if not learned and held[worst] > 0.9 * now.value("tta_batches_processed_total"):
        return Card(question, Tone.NOTICE, "Nothing is learned", f"{TOO_LITTLE[worst]}; {lately}")
    return Card(question, Tone.GOOD, SERVED[serving], lately)


def _last(board: Board) -> Card:
    question = "What happened last?"
    event = next((event for event in reversed(board.events) if not event.passing), None)
    if event is None:
        return Card(question, Tone.UNKNOWN, "Nothing yet", "the log is below")
    return Card(question, event.tone, event.kind.replace("_", " ").capitalize(), event.words, event.at)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _whole(share: float) -> str:
    return f"{100 * share:.0f} %"


def _points(gain: float) -> str:
    return f"{100 * gain:+.1f} points".replace("-", "\N{MINUS SIGN}")


def _times(ratio: float) -> str:
    return f"{ratio:.1f}\N{MULTIPLICATION SIGN}" if ratio < 10 else f"{ratio:,.0f}\N{MULTIPLICATION SIGN}"  # noqa: PLR2004 - decimals nobody needs
