"""Files that only ONNX Runtime understands: answered by it, and adapted by methods that need nothing but answers."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import CLASSES, classifier_of, closed, export
from nets import images, tiny_cnn
from onnx import TensorProto, helper
from world import Memory, config, pictures

import adapters
from tta_daemon.control.preflight import _model
from tta_daemon.control.sections import Model, Publish
from tta_daemon.errors import ConfigError
from tta_daemon.learner import Learner
from tta_daemon.model import graph
from tta_daemon.model.frozen import OpaqueView
from tta_daemon.model.load import Deployed, load
from tta_daemon.model.onnx_import import arithmetic
from tta_daemon.model.onnx_import.compare import Original
from tta_daemon.model.onnx_import.read import parse
from tta_daemon.model.wanted import Wanted
from tta_daemon.offline import prepare
from tta_daemon.watch.guard import Decision, Serve

BLIND = ("source", "labelshift", "temperature")


def deployed(path: Path, **settings: object) -> Deployed:
    return load(Model.model_validate({"artifact": path, **settings}))


def black_box(path: Path, **how: object) -> Path:
    """A file with an operator that is not in the table."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, CLASSES], torch.randn(15).tolist())
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["a"]),
        helper.make_node("Flatten", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["c"]),
        helper.make_node("Hardmax", ["c"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["logits"]),
    ]
    onnx.save(classifier_of(nodes, [weight], "logits", **how), path)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network as a black box."""
    return closed(export(tiny_cnn().network, tmp_path_factory.mktemp("box") / "net.onnx", 16, 17, dynamo=False))


def given(path: Path, model: dict[str, object] | None = None, **sections: dict[str, object]) -> object:
    plain = {"factory": "", "artifact": path, "mean": [0.5] * 3, "std": [0.25] * 3}
    return config(model={**plain, **(model or {})}, **sections)


@pytest.mark.parametrize("batch", ["n", 2])
def test_what_is_not_understood_answers_and_refuses_to_be_looked_into(tmp_path: Path, batch: str | int) -> None:
    path = black_box(tmp_path / "net.onnx", images=(batch, 3, 4, 4))
    model = deployed(path)
    assert model.classifier.opaque
    assert model.num_classes == CLASSES
    x = images(3, 4)
    outcome = adapters.step(adapters.build("source", model.classifier), x)
    theirs = Original(parse(path), path.parent)(torch.cat([x, x[-1:]]), ["logits"], 2)["logits"][:3]
    assert torch.equal(outcome.logits, theirs)
    assert model.digest != deployed(black_box(tmp_path / "other.onnx")).digest
    for method in adapters.METHODS:
        faults = adapters.unmet(method, model.classifier, object())
        assert (method in BLIND) == (not faults)
        assert all(
            "this one only answers; what works with it: source, labelshift, temperature" in fault for fault in faults
        )


def test_the_operator_that_is_not_known_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr("sys.stdout", said)
    deployed(black_box(tmp_path / "net.onnx"))
    assert "operator Hardmax is not known; first at node" in said.getvalue()
    assert arithmetic.OPERATORS.keys().isdisjoint({"Hardmax"})


@pytest.mark.parametrize("method", BLIND)
def test_it_answers_as_the_open_network_does_by_the_same_method(path: Path, method: str) -> None:
    classifier = deployed(path, mean=[0.5] * 3, std=[0.25] * 3).classifier
    assert classifier.opaque
    chosen = {"temperature": {"alike": True}, "labelshift": {"least": 0.0}}
    options = adapters.METHODS[method].options(**chosen.get(method, {}))
    ours, theirs = (adapters.build(method, net, options) for net in (classifier, tiny_cnn()))
    for seed in range(4):
        seen = images(12, seed=seed)
        one, other = adapters.step(ours, seen), adapters.step(theirs, seen)
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-3, atol=1e-4)
    assert method == "source" or not torch.allclose(one.logits, classifier(seen), atol=1e-4)


@pytest.mark.parametrize("method", BLIND)
@pytest.mark.parametrize("mode", ["off", "guarded", "observe"])
def test_a_daemon_learns_on_it_and_its_guard_leaves_sureness_out_of_account(path: Path, method: str, mode: str) -> None:
    world = Memory(given(path, adapt={"method": method}, guard={"mode": mode, "window": 16, "check_every": 1}))
    world.send(pictures(40))
    world.run_dry()
    bodies = [json.loads(record.value) for record in world.log.records("answers")]
    assert len(bodies) == 40
    assert world.daemon.learner.step == 5
    believed = "source" if mode == "observe" and method != "source" else "adapted"
    assert {body.get("by", "adapted") for body in bodies} == {believed}


def test_labels_can_veto_what_the_guard_cannot_judge() -> None:
    settings = config(adapt={"method": "labelshift"}, guard={"mode": "guarded"})
    learner = Learner(load(settings.model), settings.adapt, 1.0, settings.guard)
    first = learner.answer(images(8))
    assert first.serve is Serve.ADAPTED
    first.learn()
    learner.guard.vetoed = True
    answered = learner.answer(images(8))
    assert answered.serve is Serve.SOURCE
    assert torch.equal(answered.logits, answered.view.logits)
    assert answered.learn() == {}
    assert [v.decision for v in learner.guard.verdicts()] == [Decision.SERVE_ADAPTED, Decision.SERVE_SOURCE]


def test_a_restart_goes_on_bit_for_bit(path: Path) -> None:
    for method in BLIND[1:]:
        settings = given(path, adapt={"method": method}, guard={"mode": "guarded"})
        one, other = (Learner(load(settings.model), settings.adapt, 1.0, settings.guard) for _ in range(2))
        for seed in range(3):
            one.answer(images(12, seed=seed)).learn()
        other.resume(one.snapshot({}))
        for seed in range(3, 6):
            ours, theirs = one.answer(images(12, seed=seed)), other.answer(images(12, seed=seed))
            assert torch.equal(ours.logits, theirs.logits)
            assert ours.learn() == theirs.learn()


@pytest.mark.parametrize("frozen", ["torch", "runtime"])
def test_its_frozen_answers_are_onnx_runtimes_in_any_case(path: Path, frozen: str) -> None:
    settings = given(path, {"frozen": frozen}, adapt={"method": "labelshift"}, guard={"mode": "guarded"})
    model = load(settings.model)
    assert isinstance(model.frozen, OpaqueView)
    assert torch.equal(model.frozen(images(5)).logits, model.classifier(images(5)))
    learner = Learner(model, settings.adapt, 1.0, settings.guard)
    assert learner.providers == {"frozen": ("CPUExecutionProvider", "CPUExecutionProvider")}


def test_a_daemon_says_the_same_whatever_is_said_of_its_frozen_model(path: Path) -> None:
    said = []
    for frozen in ("torch", "runtime"):
        world = Memory(given(path, {"frozen": frozen}, adapt={"method": "labelshift"}, guard={"mode": "guarded"}))
        world.send(pictures(24))
        world.run_dry()
        said.append([record.value for record in world.log.records("answers")])
    assert len(said[0]) == 24
    assert said[0] == said[1]


def test_a_device_that_it_is_not_answered_on_is_refused_where_it_is_required(path: Path) -> None:
    classifier = deployed(path).classifier
    with pytest.raises(
        ConfigError, match=r"model\.require_device: .*asked for CUDAExecutionProvider and computes by CPU"
    ):
        OpaqueView(classifier, Wanted("cuda:0", 1))
    assert OpaqueView(classifier, Wanted("cuda:0", 1, required=False)).runtime.asked == "CUDAExecutionProvider"


def refused(settings: object) -> str:
    try:
        return " ".join(f"{fault.path}: {fault.message} ({fault.remedy})" for fault in _model(settings))
    except ConfigError as fault:
        return str(fault)


def test_what_cannot_be_done_with_it_is_refused(tmp_path: Path, path: Path) -> None:
    assert "source, labelshift, temperature" in refused(given(path, adapt={"method": "tent"}))
    assert "adapt.serve: the answers of labelshift are not those of one network" in refused(
        given(path, adapt={"method": "labelshift", "serve": "runtime"})
    )
    assert "model.artifact: it is a black box" in refused(given(path, adapt={"method": "source", "serve": "runtime"}))
    publishing = given(path, adapt={"method": "temperature"}, publish={"folder": tmp_path / "out"})
    assert isinstance(publishing.publish, Publish)
    assert "adapt.method: the answers of temperature are not those of one network" in refused(publishing)
    looked = graph.Answers(deployed(path).classifier)
    with pytest.raises(ConfigError, match="black box"):
        graph.traced(looked, looked.outputs, (16, 16))


@pytest.fixture
def prior(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `tta-daemon prepare` finds out of a black box."""
    for name, value in {"SHIFTS": 4, "SHIFTED": 32, "CHUNK": 64, "DOUBTFUL": 64, "CANARIES": 16}.items():
        monkeypatch.setattr(prepare, name, value)
    seen = images(96)
    labels = deployed(path, mean=[0.5] * 3, std=[0.25] * 3).classifier(seen).argmax(1)
    labels[:CLASSES] = torch.arange(CLASSES)
    np.savez(tmp_path / "s.npz", images=(seen * 255).byte().permute(0, 2, 3, 1).numpy(), labels=labels.numpy())
    settings = given(path, adapt={"method": "labelshift"})
    prepare.run(settings, tmp_path / "s.npz", tmp_path / "prior", quiet=True, window=64)
    return tmp_path / "prior"


def test_what_its_source_answers_on_average_is_prepared(path: Path, prior: Path) -> None:
    settings = given(path, {"prior": prior}, adapt={"method": "labelshift"}, guard={"mode": "guarded", "window": 16})
    shares = load(settings.model).prior("labelshift").shares
    seen = deployed(path, mean=[0.5] * 3, std=[0.25] * 3).classifier(images(96)).softmax(1).mean(0)
    torch.testing.assert_close(shares.float(), seen, rtol=0, atol=0.02)
    world = Memory(settings)
    world.send(pictures(40))
    world.run_dry()
    assert len(world.answered()) == 40
    assert world.daemon.learner.adapter.source.tolist() == shares.tolist()
