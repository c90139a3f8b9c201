"""Labels from their topic: scored, counted whatever they are, and forgotten where the classes have changed."""

import json

import pytest

from tta_daemon.control.sections import Watch
from tta_daemon.stream.memory_log import MemoryLog, MemoryTail
from tta_daemon.stream.records import Answer, Guess, Prediction
from tta_daemon.watch.accuracy import Accuracy, LabelJoin
from tta_daemon.watch.labels import Labels
from tta_daemon.watch.metrics import Metrics

NAMES = ("cat", "dog")


@pytest.fixture
def log():
    return MemoryLog({"labels": 1})


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def labels(log, metrics):
    return Labels(MemoryTail(log, "labels"), LabelJoin(NAMES), Accuracy(), metrics)


def answer(name, class_=0):
    prediction = Prediction(class_, NAMES[class_], 1.0, (Guess(class_, NAMES[class_], 1.0),))
    return Answer(name, "", (prediction,), None, "net", "tent", 0)


def said(log, name, *labels):
    log.append("labels", json.dumps({"id": name, "labels": labels}).encode())


def count(metrics, name):
    return metrics.registry.get_sample_value(name)


def test_every_label_is_counted_once_whatever_it_is(labels, log, metrics):
    labels.answered(answer("a"), 0.0)
    said(log, "a", "cat")
    said(log, "a", "cat")
    said(log, "b", "cow")
    log.append("labels", b"not JSON")
    for _ in range(3):
        labels.join(1.0)
    assert count(metrics, "tta_labels_received_total") == 4
    assert count(metrics, "tta_labels_invalid_total") == 2
    assert count(metrics, "tta_labels_duplicate_total") == 1
    assert metrics.registry.get_sample_value("tta_labeled_images_correct_total", {"model": "adapted"}) == 1


def test_smaller_bounds_forget_the_oldest(labels, log, metrics):
    for n in range(5):
        labels.answered(answer(str(n)), float(n))
    labels.tune(Watch(label_window=2), NAMES)
    labels.answered(answer("5"), 5.0)
    labels.join(5.0)
    assert count(metrics, "tta_answers_unlabeled_total") == 4
    for n in range(6):
        said(log, str(n), "cat")
    labels.join(6.0)
    assert labels.accuracy.overall.images == 2


def test_other_classes_forget_what_waits_for_a_label_and_the_labels_that_wait(labels, log, metrics):
    labels.answered(answer("a"), 0.0)
    said(log, "later", "cat")
    labels.join(0.0)
    labels.tune(Watch(), ("lynx", "wolf", "bear"))
    said(log, "a", "lynx")
    labels.answered(answer("later"), 1.0)
    labels.join(1.0)
    assert labels.accuracy.overall.images == 0
    assert count(metrics, "tta_answers_unlabeled_total") == 1
    assert count(metrics, "tta_labels_unmatched_total") == 1
    said(log, "b", "bear")
    labels.join(2.0)
    assert count(metrics, "tta_labels_invalid_total") == 0


def test_the_same_classes_forget_nothing(labels, log):
    labels.answered(answer("a"), 0.0)
    labels.tune(Watch(), list(NAMES))
    said(log, "a", "cat")
    labels.join(1.0)
    assert labels.accuracy.overall.images == 1
