"""The frozen model answered by ONNX Runtime: the same view of the same images, and a daemon that says the same."""

import dataclasses
import json
import sys

import pytest
import torch
from nets import cifar_resnet, images, tiny_cnn, tiny_vit
from world import Memory, config, pictures

from tta_daemon.errors import ConfigError
from tta_daemon.learner import Learner
from tta_daemon.model.frozen import FrozenView
from tta_daemon.model.load import load
from tta_daemon.model.wanted import Wanted
from tta_daemon.watch.view import Probe

HERE = Wanted("cpu", 1)
RUNTIME = {"model": {"frozen": "runtime"}}


@pytest.mark.parametrize("layers", [0, 3])
@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
def test_what_is_looked_at_is_the_same_as_in_torch(make, layers):
    classifier, seen = make(), images(9)
    view, probe = FrozenView(classifier, layers, (16, 16), HERE)(seen), Probe(classifier, layers)(seen)
    for field in dataclasses.fields(probe):
        got, want = getattr(view, field.name), getattr(probe, field.name)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_trained_network_is_looked_into():
    classifier, seen = cifar_resnet(20), images(6, 32)
    view, probe = FrozenView(classifier, 8, (32, 32), HERE)(seen), Probe(classifier, 8)(seen)
    torch.testing.assert_close(view.moments, probe.moments, rtol=1e-4, atol=1e-4)


def test_a_daemon_says_the_same_by_either():
    answers = {}
    for name, given in {"torch": {}, "runtime": RUNTIME}.items():
        world = Memory(config(guard={"mode": "guarded", "window": 16}, **given))
        world.send(pictures(40))
        world.run_dry()
        answers[name] = [record.value for record in world.log.records("answers")]
        assert (world.daemon.deployed.frozen is None) == (name == "torch")
    assert len(answers["torch"]) == 40
    assert classes(answers["runtime"]) == classes(answers["torch"])


def classes(values):
    return [[said["class"] for said in json.loads(value)["predictions"]] for value in values]


def test_the_same_records_give_the_same_bytes_again():
    said = []
    for _ in range(2):
        world = Memory(config(guard={"mode": "guarded", "window": 16}, **RUNTIME))
        world.send(pictures(24))
        world.run_dry()
        said.append([record.value for record in world.log.records("answers")])
    assert said[0] == said[1]


def test_the_source_answers_by_it_where_the_adapted_model_fails():
    given = config(**RUNTIME)
    learner = Learner(load(given.model), given.adapt, 0.0, given.guard)
    seen = images(4)
    asked = []
    frozen = learner._deployed.frozen.runtime
    learner._deployed.frozen.runtime = lambda images: asked.append(len(images)) or frozen(images)
    learner.adapter.adapt = learner.adapter.predict = lambda _: (_ for _ in ()).throw(RuntimeError("out of memory"))
    answered = learner.answer(seen)
    assert asked == [4]
    torch.testing.assert_close(answered.logits, learner._deployed.classifier(seen), rtol=1e-4, atol=1e-4)


def test_what_answers_and_where_is_exported():
    given = config(**RUNTIME)
    learner = Learner(load(given.model), given.adapt, 1.0, given.guard)
    assert learner.providers == {"frozen": ("CPUExecutionProvider", "CPUExecutionProvider")}
    world = Memory(config())
    world.metrics.runtimes(learner.providers)
    labels = {"answers": "frozen", "asked": "CPUExecutionProvider", "obtained": "CPUExecutionProvider"}
    assert world.metrics.registry.get_sample_value("tta_runtime_info", labels) == 1
    world.metrics.runtimes({})
    assert world.metrics.registry.get_sample_value("tta_runtime_info", labels) is None


def test_without_onnx_runtime_it_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "tta_daemon.model.runtime", raising=False)
    monkeypatch.delitem(sys.modules, "tta_daemon.model.frozen", raising=False)
    with pytest.raises(ConfigError, match=r"model.frozen: onnxruntime is missing \(pip install 'tta-daemon\[onnx\]'\)"):
        load(config(**RUNTIME).model)
