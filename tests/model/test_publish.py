"""What was learned reaches the service next door: whole, newer each time, if the guard believes it, never waiting."""

import hashlib
import json
import threading

import pytest
import torch
from nets import images, tiny_cnn
from safetensors.torch import load_file
from samples import make
from world import Memory, config, pictures

from tta_daemon.assemble import prepare, publisher_of
from tta_daemon.birth import newborn
from tta_daemon.control.preflight import _folders, _model
from tta_daemon.errors import ConfigError, PublishError
from tta_daemon.learner import Learner
from tta_daemon.model import graph
from tta_daemon.model.load import load
from tta_daemon.model.outlets import FolderOutlet
from tta_daemon.model.publication import LATEST, Publication
from tta_daemon.model.publish import Publisher, answerer_of
from tta_daemon.model.runtime import Runtime
from tta_daemon.model.wanted import Wanted
from tta_daemon.watch.guard import Serve
from tta_daemon.watch.metrics import Metrics

FORMATS = ("safetensors", "onnx_adapter")


class Shelf:
    """An outlet in memory, which may be broken or slow."""

    def __init__(self):
        self.put_there, self.broken, self.open = [], False, threading.Event()
        self.open.set()

    def put(self, publication):
        self.open.wait(10)
        if self.broken:
            raise PublishError("no space left")
        self.put_there.append(publication)

    def latest(self, _):
        return None

    def close(self):
        pass


class Case:
    """A learner that publishes on a shelf, and a clock that stands still."""

    def __init__(self, *, mode="off", method="tent", outlets=None, now=1000.0, options=None):
        given = config(guard={"mode": mode, "window": 16}, adapt={"method": method, "options": options or {}})
        self.deployed = load(given.model)
        self.learner = Learner(self.deployed, given.adapt, 1.0, given.guard)
        self.shelf, self.metrics, self.time = Shelf(), Metrics(), 0.0
        outlets = [self.shelf] if outlets is None else outlets
        self.publisher = Publisher(outlets, 10.0, self.metrics, lambda: self.time, lambda: now)

    def batch(self, seed=0, stream=""):
        seen = images(16, seed=seed)
        answered = self.learner.answer(seen)
        answered.learn()
        self.publisher.look(self.deployed, self.learner, stream, seen if answered.hold is None else None)

    def believe(self, serve):
        self.learner.guard.weigh, self.learner.guard.sound = lambda *_: serve, True
        self.learner.guard.serve = serve

    def out(self):
        """What was published, once all is written."""
        self.publisher.close()
        return self.shelf.put_there

    def count(self, result):
        return self.metrics.registry.get_sample_value("tta_publish_total", {"result": result})


def test_it_publishes_what_was_learned_as_often_as_is_wanted():
    case = Case()
    for seed in range(3):
        case.batch(seed)
        case.time += 4.0
    assert [p.about["step"] for p in case.out()] == [1]
    case.batch(3)
    (first, second) = case.out()
    assert second.about["step"] == 4
    assert second.version > first.version
    assert case.count("published") == 2
    assert case.metrics.registry.get_sample_value("tta_publish_version") == second.version
    assert first.about["verdict"] == "unguarded"
    assert first.about["digest"] == case.deployed.digest


def test_nothing_is_published_twice():
    case = Case()
    case.batch()
    case.time += 100.0
    case.publisher.look(case.deployed, case.learner, "", images(16))
    assert len(case.out()) == 1


@pytest.mark.parametrize("method", ["tent", "labelshift"])
def test_the_deployed_network_with_the_published_tensors_answers_like_the_adapted_one(method):
    case = Case(method=method, options={"least": 0.0} if method == "labelshift" else {})
    for seed in range(4):
        case.batch(seed)
        case.time += 11.0
    published = case.out()[-1]
    looked = graph.Answers(case.deployed.classifier)
    runtime = Runtime(graph.traced(looked, looked.outputs, (16, 16)), Wanted("cpu", 1), list(published.tensors))
    runtime.take(published.tensors)
    seen = images(16, seed=3)
    said, learned = runtime(seen)[0], case.learner.adapter.predict(seen)
    torch.testing.assert_close(said, learned, rtol=0.05, atol=0.05)
    assert not torch.allclose(said, case.deployed.classifier(seen), atol=0.05)


@pytest.mark.parametrize("mode", ["guarded", "observe"])
def test_what_the_guard_does_not_believe_is_not_published(mode):
    case = Case(mode=mode)
    case.believe(Serve.SOURCE if mode == "guarded" else Serve.ADAPTED)
    case.batch()
    assert case.out() == []


@pytest.mark.parametrize("serve", [Serve.BLEND, Serve.ADAPTED])
def test_what_it_believes_is_published_with_its_verdict(serve):
    case = Case(mode="guarded")
    case.believe(serve)
    case.batch()
    assert [p.about["verdict"] for p in case.out()] == [serve.value]


def taken_back(case):
    """Whether the last that was published is the source, tensor by tensor."""
    last, state = case.out()[-1], tiny_cnn().network.state_dict()
    return last.about["verdict"] == "source" and all(torch.equal(t, state[n]) for n, t in last.tensors.items())


def test_what_the_guard_stops_believing_is_taken_back_once_and_at_once():
    case = Case(mode="guarded")
    case.believe(Serve.ADAPTED)
    case.batch()
    assert not taken_back(case)
    case.believe(Serve.SOURCE)
    case.batch(1)
    case.batch(2)
    assert taken_back(case)
    assert len(case.out()) == 2
    assert case.count("reverted") == 1
    case.believe(Serve.ADAPTED)
    case.time += 11.0
    case.batch(3)
    assert [p.about["verdict"] for p in case.out()] == ["adapted", "source", "adapted"]


def test_a_reset_takes_back_what_was_published():
    case = Case()
    case.batch()
    case.learner.forget()
    case.publisher.departed(case.deployed, case.learner)
    assert taken_back(case)


def test_streams_are_published_each_by_itself_and_forgotten_together():
    case = Case()
    case.batch(0, "north")
    case.batch(1, "south")
    assert [p.stream for p in case.out()] == ["north", "south"]
    case.learner.forget()
    case.publisher.departed(case.deployed, case.learner, everyone=True)
    assert {p.stream for p in case.out() if p.about["verdict"] == "source"} == {"north", "south"}
    assert len(case.out()) == 4


def test_streams_beyond_the_limit_are_not_published_and_that_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr("tta_daemon.model.publish.MOST_STREAMS", 1)
    case = Case()
    for stream in ("north", "south", "south"):
        case.batch(0, stream)
        case.time += 11.0
    assert {p.stream for p in case.out()} == {"north"}
    assert capsys.readouterr().out.count("more streams than are published") == 1


def test_a_place_that_is_broken_is_counted_and_tried_again_with_the_next_state():
    case = Case()
    case.shelf.broken = True
    case.batch()
    assert case.out() == []
    assert case.count("failed") == 1
    case.shelf.broken, case.time = False, 11.0
    case.batch(1)
    assert [p.about["step"] for p in case.out()] == [2]


def test_a_place_that_hangs_holds_nobody_up_and_gets_the_newest():
    case = Case()
    case.shelf.open.clear()
    for seed in range(6):
        case.batch(seed)
        case.time += 11.0
    case.shelf.open.set()
    steps = [p.about["step"] for p in case.out()]
    assert steps[-1] == 6
    assert len(steps) <= 3


@pytest.mark.parametrize("name", ["rmt", "ecotta", "vida"])
def test_methods_whose_answers_are_not_one_networks_are_refused(name):
    with pytest.raises(ConfigError, match="not those of one network"):
        answerer_of(make(name, {}, tiny_cnn()), name, "adapt.method")


def publication(version=7, stream="", seed=0):
    about = {"model": "net", "digest": "d" * 64, "method": "tent", "step": 3, "verdict": "adapted"}
    return Publication(stream, version, {"bn1.weight": torch.full((4,), float(seed))}, about)


def test_files_appear_whole_with_a_manifest_that_knows_them(tmp_path):
    outlet = FolderOutlet(tmp_path / "out", FORMATS, 2)
    outlet.put(publication())
    manifest = json.loads((tmp_path / "out" / LATEST).read_text())
    assert manifest["version"] == 7
    assert (manifest["method"], manifest["verdict"], manifest["digest"]) == ("tent", "adapted", "d" * 64)
    assert set(manifest["files"]) == set(FORMATS)
    for told in manifest["files"].values():
        blob = (tmp_path / "out" / told["name"]).read_bytes()
        assert told["sha256"] == hashlib.sha256(blob).hexdigest()
        assert told["bytes"] == len(blob)
    assert torch.equal(load_file(tmp_path / "out" / "adapter.7.safetensors")["bn1.weight"], torch.zeros(4))
    assert outlet.latest("") == manifest
    assert not list(tmp_path.rglob("*.unfinished"))


def test_an_onnx_adapter_holds_the_same_tensors(tmp_path):
    from onnxruntime import AdapterFormat  # noqa: PLC0415

    FolderOutlet(tmp_path, ("onnx_adapter",), 2).put(publication(seed=5))
    read = AdapterFormat.read_adapter(str(tmp_path / "adapter.7.onnx_adapter"))
    assert read.get_adapter_version() == 7
    assert read.get_parameters()["bn1.weight"].numpy().tolist() == [5.0] * 4


def test_the_newest_few_stay_and_other_files_are_left_alone(tmp_path):
    (tmp_path / "model.onnx").touch()
    outlet = FolderOutlet(tmp_path, ("safetensors",), 2)
    for version in (9, 10, 11):
        outlet.put(publication(version))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.onnx", LATEST, *(f"adapter.{v}.{s}" for v in (10, 11) for s in ("safetensors", "json"))}


def test_a_stream_has_a_folder_whatever_its_name(tmp_path):
    outlet = FolderOutlet(tmp_path, ("safetensors",), 2)
    outlet.put(publication(stream="../etc"))
    assert (tmp_path / "..%2Fetc" / LATEST).exists()
    assert outlet.latest("../etc")["version"] == 7
    assert outlet.latest("") is None


@pytest.mark.parametrize("stream", [".", "..", "latest.json", "adapter.3", "adapter.7.json", "名" * 100, "a.b"])
def test_no_name_of_a_stream_reaches_beyond_its_folder_or_into_anothers(tmp_path, stream):
    folder = tmp_path / "out"
    outlet = FolderOutlet(folder, ("safetensors",), 1)
    outlet.put(publication(1))
    for version in (7, 8):
        outlet.put(publication(version, stream=stream))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert outlet.latest("")["version"] == 1
    assert outlet.latest(stream)["version"] == 8
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 1


def test_a_full_disk_leaves_what_was_published(tmp_path, monkeypatch):
    outlet = FolderOutlet(tmp_path, ("safetensors",), 2)
    outlet.put(publication(1))
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(PublishError, match="No space left"):
        outlet.put(publication(2))
    assert json.loads((tmp_path / LATEST).read_text())["version"] == 1
    assert not list(tmp_path.glob("*.unfinished"))


def test_who_begins_anew_takes_back_what_an_earlier_run_published_and_who_goes_on_does_not(tmp_path):
    outlet = FolderOutlet(tmp_path, ("safetensors",), 5)
    before = Case(outlets=[outlet])
    before.batch()
    before.publisher.close()
    version = outlet.latest("")["version"]
    resumed = Case(outlets=[outlet])
    resumed.learner.adapter.steps += 40
    resumed.publisher.look(resumed.deployed, resumed.learner, "", None)
    resumed.publisher.close()
    assert outlet.latest("")["version"] == version
    anew = Case(outlets=[outlet])
    anew.publisher.look(anew.deployed, anew.learner, "", None)
    anew.publisher.close()
    assert outlet.latest("")["verdict"] == "source"
    assert outlet.latest("")["version"] > version


def test_a_daemon_publishes_and_a_reset_reaches_the_folder(tmp_path):
    world = Memory(config())
    outlet = FolderOutlet(tmp_path, FORMATS, 3)
    world.daemon.publisher = Publisher([outlet], 1000.0, world.metrics)
    world.send(pictures(16))
    world.run_dry(disconnect=False)
    world.daemon.publisher.close()
    assert (outlet.latest("")["step"], outlet.latest("")["verdict"]) == (1, "unguarded")
    world.daemon.orders.reset()
    world.daemon.publisher.close()
    assert outlet.latest("")["verdict"] == "source"
    world.daemon.disconnect()


def wired(folder, method="tent", **publish):
    given = config(folder, adapt={"method": method}, publish={"folder": "published", **publish})
    deployed = load(given.model)
    return publisher_of(given, {}, Metrics(), newborn(deployed, given.adapt)), given, deployed


def test_the_settings_make_a_publisher_or_none(tmp_path):
    assert publisher_of(config(), {}, Metrics(), newborn(load(config().model), config().adapt)) is None
    publisher, given, deployed = wired(tmp_path, every_s=5.0, topic="adapters", formats=["safetensors"])
    assert publisher.every_s == 5.0
    folder, topic = publisher._outlets
    assert (folder.folder, folder.formats, folder.keep) == (tmp_path / "published", ("safetensors",), 3)
    assert topic.topic == "adapters"
    assert list(_model(given)) == []
    assert deployed.frozen is None


def test_a_method_that_cannot_be_published_is_refused_at_start_by_check_and_on_reload(tmp_path):
    with pytest.raises(ConfigError, match="answers of ecotta are not those of one network"):
        wired(tmp_path, "ecotta")
    _, old, deployed = wired(tmp_path)
    new = config(tmp_path, adapt={"method": "ecotta"}, publish={"folder": "published"})
    with pytest.raises(ConfigError, match="answers of ecotta"):
        prepare(old, new, deployed)
    with pytest.raises(ConfigError, match="answers of ecotta"):
        list(_model(new))


def test_an_onnx_adapter_needs_onnx_runtime(tmp_path, monkeypatch):
    monkeypatch.setattr("tta_daemon.assemble.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"publish.formats: onnxruntime is missing \(pip install"):
        wired(tmp_path)
    wired(tmp_path, formats=["safetensors"])


def test_a_folder_that_cannot_be_written_is_found_by_check(tmp_path):
    (tmp_path / "file").touch()
    given = config(tmp_path, publish={"folder": "file/published"})
    assert [fault.path for fault in _folders(given)] == ["publish.folder"]
    assert list(_folders(config(tmp_path, publish={"folder": "new/published"}))) == []
