"""The metrics: valid for Prometheus, there from the start, moved by the right moments."""

import math
import shutil
import subprocess

import pytest
import torch
from prometheus_client import generate_latest

from tta_daemon.answered import Answered, Hold
from tta_daemon.errors import Reason
from tta_daemon.stream.records import Batch, Partition, Position, Record, Sample
from tta_daemon.watch.accuracy import Accuracy, LabelJoin, Scored
from tta_daemon.watch.guard import Serve
from tta_daemon.watch.instruments import PHASES
from tta_daemon.watch.metrics import Detector, Metrics, Restore
from tta_daemon.watch.view import SourceView

NOW = 1_000_000.0


@pytest.fixture
def metrics():
    return Metrics(now=lambda: NOW)


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


def batch(count, age_s=0.5):
    image = torch.zeros(1, 3, 2, 2).numpy()
    samples = []
    for offset in range(count):
        record = Record(Position(Partition("images", 0), offset), None, b"", timestamp_s=NOW - age_s)
        samples.append(Sample(record, "", image))
    return Batch("", tuple(samples))


def answered(logits, source=None, repaired=0):
    view = None if source is None else SourceView(source, torch.zeros(0), torch.zeros(0))
    return Answered(logits, logits, Serve.ADAPTED, view, dict, None, repaired, seconds=0.02)


def live():
    """Metrics on which everything has happened once."""
    metrics = Metrics(process=True, now=lambda: NOW)
    metrics.consumed(batch(3).records)
    metrics.rejected(Reason.NON_FINITE)
    metrics.answered(batch(3), answered(torch.eye(3), torch.eye(3)))
    metrics.learned({"loss": 0.5}, None)
    metrics.learned({}, Hold.SMALL)
    metrics.restored(Restore.GUARD)
    metrics.turned(3, 4, {Partition("images", 0): 12})
    metrics.labelled(Scored(1, 1, 0, 3.0), Accuracy())
    metrics.drifted(Detector.ENTROPY, 0.5, 0.2)
    metrics.model("resnet", "f" * 64, "tent", "cpu")
    metrics.configured("abc")
    metrics.reloaded("refused", in_force=False)
    metrics.settled()
    return metrics


@pytest.mark.parametrize("make", [lambda: Metrics(process=True), live], ids=["at the start", "later"])
def test_promtool_has_nothing_to_say(make):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=generate_latest(make().registry),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_no_series_appears_out_of_nowhere(metrics):
    for reason in Reason:
        assert value(metrics, "tta_records_dead_lettered_total", reason=reason) == 0
    for hold in Hold:
        assert value(metrics, "tta_adaptation_skipped_total", reason=hold) == 0
    for phase in PHASES:
        assert value(metrics, "tta_batch_processing_seconds_count", phase=phase) == 0
    for model in ("adapted", "source"):
        assert value(metrics, "tta_labeled_images_total", model=model) == 0
        assert math.isnan(value(metrics, "tta_accuracy_ratio", model=model, window="recent"))


def test_names_follow_the_conventions(metrics):
    for family in metrics.registry.collect():
        assert family.name.startswith("tta_")
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_count", "_sum", "_bucket", "_total"))
        for sample in family.samples:
            assert not {"service", "env", "cluster", "job", "instance", "type"} & set(sample.labels)


def test_what_comes_in_and_goes_out_is_counted(metrics):
    metrics.consumed(batch(5).records)
    metrics.consumed([])
    metrics.rejected(Reason.PICKLED)
    metrics.answered(batch(4), answered(torch.zeros(4, 3), repaired=2))
    assert value(metrics, "tta_records_consumed_total") == 5
    assert value(metrics, "tta_records_dead_lettered_total", reason="pickled") == 1
    assert value(metrics, "tta_records_answered_total") == 4
    assert value(metrics, "tta_images_answered_total") == 4
    assert value(metrics, "tta_images_repaired_total") == 2
    assert value(metrics, "tta_batches_processed_total") == 1
    assert value(metrics, "tta_batch_images_sum") == 4
    assert value(metrics, "tta_batch_processing_seconds_sum", phase="infer") == pytest.approx(0.02)
    assert value(metrics, "tta_answer_latency_seconds_sum") == pytest.approx(2.0)
    assert value(metrics, "tta_last_record_timestamp_seconds") == NOW


def test_a_record_from_the_future_has_no_negative_latency(metrics):
    metrics.answered(batch(1, age_s=-100.0), answered(torch.zeros(1, 3)))
    assert value(metrics, "tta_answer_latency_seconds_sum") == 0


def test_how_sure_and_how_much_of_one_mind_the_models_are(metrics):
    sure, unsure = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 1e-6]])
    metrics.answered(batch(1), answered(sure, unsure))
    assert value(metrics, "tta_answer_confidence_ratio", model="adapted") == pytest.approx(1.0)
    assert value(metrics, "tta_answer_entropy_nats", model="source") == pytest.approx(math.log(2))
    assert value(metrics, "tta_agreement_ratio") == 0.0


def test_one_bad_batch_does_not_blind_the_smoothed_gauges(metrics):
    metrics.answered(batch(1), answered(torch.tensor([[100.0, 0.0]])))
    metrics.answered(batch(1), answered(torch.full((1, 2), torch.nan)))
    assert value(metrics, "tta_answer_confidence_ratio", model="adapted") == pytest.approx(1.0)


def test_learning_and_holding_back(metrics):
    metrics.learned({"loss": 0.25, "something private": 1.0}, None)
    metrics.learned({}, Hold.LAG)
    assert value(metrics, "tta_adaptation_steps_total") == 1
    assert value(metrics, "tta_adaptation_skipped_total", reason="lag") == 1
    assert value(metrics, "tta_adaptation_signal", signal="loss") == 0.25
    assert value(metrics, "tta_adaptation_signal", signal="something private") is None
    metrics.model("net", "d" * 64, "norm", "cpu")
    assert value(metrics, "tta_adaptation_signal", signal="loss") is None


def test_lag_is_forgotten_with_its_partition(metrics):
    first, second = Partition("images", 0), Partition("images", 1)
    metrics.turned(1, 2, {first: 10, second: 20})
    metrics.forget({first, Partition("images", 7)})
    assert value(metrics, "tta_consumer_lag_records", topic="images", partition="0") is None
    metrics.turned(1, 2, {first: 3})
    assert value(metrics, "tta_consumer_lag_records", topic="images", partition="0") == 3
    assert value(metrics, "tta_consumer_lag_records", topic="images", partition="1") is None
    assert value(metrics, "tta_last_turn_timestamp_seconds") == NOW


def test_labels_become_accuracy(metrics):
    join, accuracy = LabelJoin(), Accuracy()
    join.answered("a", [1, 2], [1, 1], now=0.0)
    scored = join.labelled("a", [1, 2], now=30.0)
    accuracy.add(scored)
    metrics.labelled(scored, accuracy)
    join.labelled("a", [1, 2], now=31.0)
    metrics.tallied(join.tally)
    metrics.tallied(join.tally)
    assert value(metrics, "tta_accuracy_ratio", model="adapted", window="recent") == 1.0
    assert value(metrics, "tta_accuracy_ratio", model="source", window="all") == 0.5
    assert value(metrics, "tta_accuracy_images", window="all") == 2
    assert value(metrics, "tta_labeled_images_correct_total", model="source") == 1
    assert value(metrics, "tta_compared_images_total") == 2
    assert value(metrics, "tta_label_delay_seconds_sum") == 30.0
    assert value(metrics, "tta_labels_received_total") == 2
    assert value(metrics, "tta_labels_duplicate_total") == 1


def test_models_are_compared_over_the_images_that_both_answered(metrics):
    join, accuracy = LabelJoin(), Accuracy()
    for name, source in (("asked", [1, 1]), ("not asked", None)):
        join.answered(name, [1, 2], source, now=0.0)
        metrics.labelled(join.labelled(name, [1, 2], now=30.0), accuracy)
    assert value(metrics, "tta_labeled_images_total", model="served") == 4
    assert value(metrics, "tta_compared_images_total") == 2
    assert value(metrics, "tta_compared_images_correct_total", model="served") == 2
    assert value(metrics, "tta_compared_images_correct_total", model="source") == 1


def test_drift_is_score_threshold_and_state(metrics):
    metrics.drifted(Detector.ADWIN, 0.7)
    assert value(metrics, "tta_drift_detected", detector="adwin") is None
    metrics.drifted(Detector.ADWIN, 0.7, threshold=0.5)
    assert value(metrics, "tta_drift_score", detector="adwin") == 0.7
    assert value(metrics, "tta_drift_detected", detector="adwin") == 1


def test_reloads_follow_the_convention_of_prometheus(metrics):
    metrics.configured("one")
    metrics.reloaded("refused", in_force=False)
    assert value(metrics, "tta_config_last_reload_successful") == 0
    metrics.reloaded("unchanged", in_force=True)
    assert value(metrics, "tta_config_last_reload_successful") == 1
    metrics.configured("two")
    metrics.reloaded("applied", in_force=True)
    assert value(metrics, "tta_config_last_reload_successful") == 1
    assert value(metrics, "tta_config_reloads_total", result="refused") == 1
    assert value(metrics, "tta_config_last_reload_success_timestamp_seconds") == NOW
    assert value(metrics, "tta_config_info", digest="one") is None
    assert value(metrics, "tta_config_info", digest="two") == 1


def test_time_is_counted_by_phase(metrics):
    with metrics.timed("decode"):
        pass
    assert value(metrics, "tta_batch_processing_seconds_count", phase="decode") == 1
    with pytest.raises(ValueError, match="no phase"):
        metrics.timed("lunch")


def test_two_sets_of_metrics_do_not_know_each_other(metrics):
    Metrics().rejected(Reason.PICKLED)
    assert value(metrics, "tta_records_dead_lettered_total", reason="pickled") == 0
