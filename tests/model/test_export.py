"""The exported file answers as torch does, as deployed or as adapted; what does not fit it is refused, unwritten."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import images
from typer.testing import CliRunner
from world import config

from tta_daemon.cli import app
from tta_daemon.control.checkpoint_file import FileCheckpoint
from tta_daemon.control.toml import document
from tta_daemon.learner import Learner
from tta_daemon.model.load import load
from tta_daemon.model.outlets import FolderOutlet
from tta_daemon.model.publish import Publisher
from tta_daemon.watch.metrics import Metrics


class Case:
    """A learner that has learned, what it published and saved, and the command."""

    def __init__(self, folder, method="tent", **adapt):
        self.folder = folder
        self.settings = config(adapt={"method": method, **adapt})
        (folder / "config.toml").write_text(document(self.settings.masked()))
        deployed = load(self.settings.model)
        self.classifier = deployed.classifier
        self.learner = Learner(deployed, self.settings.adapt, 1.0, self.settings.guard)
        self.seen = images(16, seed=3)
        outlet = FolderOutlet(folder / "published", ("safetensors",), 3)
        publisher = Publisher([outlet], 10.0, Metrics())
        for seed in (1, 2, 3):
            self.learner.answer(images(16, seed=seed)).learn()
        publisher.look(deployed, self.learner, "", self.seen)
        publisher.close()
        self.published = next((folder / "published").glob("adapter.*.safetensors"))
        with_state = FileCheckpoint(folder / "states")
        with_state.save(self.learner.snapshot({}))
        with_state.close()
        self.state = next((folder / "states").glob("*.safetensors"))

    def export(self, *more):
        self.out = self.folder / "out" / "model.onnx"
        given = ["export", "--config", str(self.folder / "config.toml"), "--out", str(self.out), *map(str, more)]
        return CliRunner().invoke(app, given)

    def said(self):
        session = onnxruntime.InferenceSession(self.out, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["logits"], {"images": self.seen.numpy()})[0])


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


def test_as_deployed(case):
    done = case.export()
    assert done.exit_code == 0, done.output
    assert "as deployed" in done.output
    torch.testing.assert_close(case.said(), case.classifier(case.seen), rtol=1e-3, atol=1e-3)
    model = onnx.load(case.out)
    onnx.checker.check_model(model)
    assert {p.key: p.value for p in model.metadata_props}["learned"] == "as deployed"
    assert [i.name for i in model.graph.input] == ["images"]


def test_as_published(case):
    done = case.export("--adapter", case.published)
    assert done.exit_code == 0, done.output
    assert "tent, step 3" in done.output
    learned = case.learner.adapter.predict(case.seen)
    torch.testing.assert_close(case.said(), learned, rtol=0.05, atol=0.05)
    assert not torch.allclose(case.said(), case.classifier(case.seen), atol=0.05)


def test_from_a_saved_state_with_images_for_its_statistics(case, tmp_path):
    pixels = (case.seen * 255).byte().permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "images.npz", images=pixels)
    assert "normalizes by the batch" in case.export("--state", case.state).output
    assert not case.out.exists()
    done = case.export("--state", case.state, "--images", tmp_path / "images.npz")
    assert done.exit_code == 0, done.output
    torch.testing.assert_close(case.said(), case.learner.adapter.predict(case.seen), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("method", "options"), [("norm", {"mode": "ema"}), ("labelshift", {"smoothing": 0.1, "least": 0.0})]
)
def test_from_a_saved_state_that_keeps_all_that_it_answers_by(tmp_path, method, options):
    case = Case(tmp_path, method, options=options)
    done = case.export("--state", case.state)
    assert done.exit_code == 0, done.output
    state = case.learner.adapter.answerer().tensors()
    case.classifier.network.load_state_dict({**case.classifier.network.state_dict(), **state})
    torch.testing.assert_close(case.said(), case.classifier(case.seen), rtol=1e-3, atol=1e-3)
    newborn = load(case.settings.model).classifier(case.seen)
    assert not torch.allclose(case.said(), newborn, rtol=1e-3, atol=1e-3)


def test_an_open_file_takes_what_is_given_and_answers_as_deployed_without(case):
    done = case.export("--open")
    assert done.exit_code == 0, done.output
    torch.testing.assert_close(case.said(), case.classifier(case.seen), rtol=1e-3, atol=1e-3)
    session = onnxruntime.InferenceSession(case.out, providers=["CPUExecutionProvider"])
    names = {given.name for given in session.get_overridable_initializers()}
    assert names == set(case.learner.adapter.answerer().moving())
    assert f"{len(names)} tensors may be given" in done.output


def test_what_is_of_another_model_is_refused(tmp_path):
    one = Case(tmp_path)
    text = (tmp_path / "config.toml").read_text()
    (tmp_path / "config.toml").write_text(text.replace("[model.arguments]", "[model.arguments]\nnum_classes = 6"))
    for option, file in (("--adapter", one.published), ("--state", one.state)):
        done = one.export(option, file)
        assert done.exit_code == 78
        assert option in done.output
        assert "model" in done.output
        assert not one.out.exists()


@pytest.mark.parametrize("option", ["--adapter", "--state"])
def test_what_is_no_such_file_is_refused(case, option, tmp_path):
    (tmp_path / "nonsense").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    for file in (tmp_path / "nonsense", tmp_path / "absent"):
        done = case.export(option, file)
        assert done.exit_code == 78, done.output
        assert option in done.output


def test_not_both(case):
    assert "give one of them" in case.export("--adapter", case.published, "--state", case.state).output


def test_a_method_without_one_network_cannot_be_opened(case):
    text = (case.folder / "config.toml").read_text().replace('method = "tent"', 'method = "rmt"')
    (case.folder / "config.toml").write_text(text.split("[adapt.options]")[0] + "[batch]\nsize = 64\n")
    done = case.export("--open")
    assert done.exit_code == 78
    assert "not those of one network" in done.output


def test_a_folder_that_cannot_be_written_is_refused(case):
    (case.folder / "out").write_text("a file")
    done = case.export()
    assert done.exit_code == 78
    assert "--out" in done.output
