"""Many streams and ONNX Runtime in one daemon: each is answered, learns and is published as it would be by itself."""

import io
import json

import numpy as np
import pytest
import torch
from cameras import PARTITIONS, alone, found, records, same, setting, stream_of, values
from nets import tiny_cnn
from safetensors.torch import load_file
from world import Memory

from tta_daemon.control.stream_states import MemoryStates
from tta_daemon.learner import Learner
from tta_daemon.model.load import load
from tta_daemon.model.outlets import FolderOutlet
from tta_daemon.model.publish import Publisher
from tta_daemon.stream.memory_log import MemoryLog

RUNTIME = {"adapt": {"serve": "runtime"}}
WIDE = {"batch": {"size": 64, "patience_s": 0.0}, "streams": {"max_resident": 4}}
"""Whatever waits is answered at once, of up to four streams in one forward."""


def topics():
    return MemoryLog({"images": PARTITIONS, "answers": 1, "labels": 1, "images-dlq": 1})


def filled(log, name=None):
    """The records of all cameras, or of one."""
    for key, partition, headers, value in values():
        if name is None or key.decode() == name:
            log.append("images", value, key=key, headers=headers, partition=partition)
    return log


def said(world):
    """What each record was answered."""
    world.run_dry()
    return {body["id"]: body for body in (json.loads(record.value) for record in world.log.records("answers"))}


def pixels(value):
    seen = np.load(io.BytesIO(value)).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(seen)).float() / 255


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A daemon that answers by ONNX Runtime for cameras of which two fit into memory, and where it publishes."""
    folder, states = tmp_path_factory.mktemp("published"), MemoryStates()
    world = Memory(setting(**RUNTIME), filled(topics()), None, states)
    world.daemon.publisher = Publisher([FolderOutlet(folder, ("safetensors",), 3)], 0.0, world.metrics)
    answers = said(world)
    world.daemon.publisher.close(60.0)
    return folder, states, answers


def test_each_stream_is_answered_as_by_a_daemon_of_its_own(published):
    _, _, answers = published
    names = {stream_of(n)[0] for n in range(len(records()))}
    assert len(names) > 2
    for name in sorted(names):
        own = said(Memory(setting(**RUNTIME, streams={"by": "none"}), filled(topics(), name)))
        assert own
        for number, body in own.items():
            assert body["predictions"] == answers[number]["predictions"]


def test_answers_are_those_of_torch_but_for_rounding(published):
    by_torch = said(Memory(setting(), filled(topics()), None, MemoryStates()))
    assert by_torch.keys() == published[2].keys()
    for number, body in by_torch.items():
        for one, other in zip(body["predictions"], published[2][number]["predictions"], strict=True):
            assert one["confidence"] == pytest.approx(other["confidence"], abs=2e-5)


def test_each_stream_learns_what_it_learns_where_torch_answers(published):
    assert same(found(published[1]), alone()) == ""


def test_each_stream_is_published_in_a_folder_of_its_own_as_it_answers_now(published):
    folder = published[0]
    given = setting()
    learner = Learner(load(given.model), given.adapt, 0.0, given.guard)
    last = {stream_of(n)[0]: value for n, value in enumerate(records()) if value != b"nonsense"}
    assert {path.name for path in folder.iterdir()} == set(last)
    versions = []
    for stream, (memory, count) in alone().items():
        manifest = json.loads((folder / stream.name / "latest.json").read_text())
        assert (manifest["stream"], manifest["step"]) == (stream.name, count)
        versions.append(manifest["version"])
        learner.adapter.load(memory)
        answerer = learner.adapter.answerer()
        wanted = {**answerer.tensors(), **answerer.seen(pixels(last[stream.name]))}
        tensors = load_file(folder / stream.name / manifest["files"]["safetensors"]["name"])
        assert tensors.keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in tensors.items())
    assert len(set(versions)) == len(versions)


@pytest.mark.parametrize("serve", ["method", "runtime"])
@pytest.mark.parametrize("mode", ["off", "observe"])
def test_a_shared_forward_is_answered_alike_where_onnx_runtime_answers_for_the_source(mode, serve):
    bodies, classifier = {}, tiny_cnn()
    for frozen in ("torch", "runtime"):
        sections = {"adapt": {"when": "never", "serve": serve}, "guard": {"mode": mode}, "model": {"frozen": frozen}}
        world = Memory(setting(**sections, **WIDE), filled(topics()))
        bodies[frozen] = said(world)
        assert world.metrics.registry.get_sample_value("tta_forwards_together_total") > 1
    assert bodies["torch"].keys() == bodies["runtime"].keys()
    for number, body in bodies["runtime"].items():
        source = classifier(pixels(records()[int(number)])).argmax(1).tolist()
        assert [int(c) for c in body["source_class"]] == source
        if mode == "observe":
            assert [int(one["class"]) for one in body["predictions"]] == source
        for one, other in zip(body["predictions"], bodies["torch"][number]["predictions"], strict=True):
            assert one["class"] == other["class"]
            assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-3)
