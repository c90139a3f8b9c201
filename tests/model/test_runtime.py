"""ONNX Runtime answers as torch does, by the tensors that it was last given, and says where it computes."""

import onnx
import onnxruntime
import pytest
import torch
from nets import cifar_resnet, images, tiny_cnn, tiny_vit
from onnxruntime import AdapterFormat, LoraAdapter, RunOptions
from torch import nn

from adapters import Classifier
from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.model import graph
from tta_daemon.model.load import load
from tta_daemon.model.runtime import Runtime, require_same, started
from tta_daemon.model.wanted import Wanted

HERE = Wanted("cpu", 1)
SIZE = (16, 16)


def answers_of(classifier, moving=(), size=SIZE):
    looked = graph.Answers(classifier)
    model = graph.traced(looked, looked.outputs, size)
    return Runtime(model, HERE, list(graph.held(model)) if moving == "all" else moving)


def norms(classifier):
    """Names of the tensors of every BatchNorm layer."""
    kind = nn.modules.batchnorm._BatchNorm
    layers = [name for name, module in classifier.network.named_modules() if isinstance(module, kind)]
    return [f"{layer}.{part}" for layer in layers for part in ("weight", "bias", "running_mean", "running_var")]


def same(got, want):
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
@pytest.mark.parametrize("count", [1, 7])
def test_the_frozen_network_answers_as_in_torch_at_any_batch_size(make, count):
    classifier = make()
    seen = images(count)
    for got, want in zip(answers_of(classifier)(seen), classifier.with_features(seen), strict=True):
        same(got, want)


@pytest.mark.parametrize("depth", [20, 56])
def test_a_trained_network_answers_as_in_torch(depth):
    classifier = cifar_resnet(depth)
    seen = images(5, 32)
    same(answers_of(classifier, size=(32, 32))(seen)[0], classifier(seen))


def test_tensors_bear_their_own_names_and_none_is_folded_or_merged():
    classifier = tiny_cnn()
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()  # equal by value, in every layer
            module.reset_parameters()
    looked = graph.Answers(classifier)
    held = graph.held(graph.traced(looked, looked.outputs, SIZE))
    state = {n: tuple(t.shape) for n, t in classifier.network.state_dict().items() if "num_batches" not in n}
    assert state.items() <= held.items()


class Named(nn.Module):
    """Has tensors of names that what it is wrapped in has too."""

    def __init__(self):
        super().__init__()
        self.normalization = nn.ParameterDict({"mean": torch.full((3, 1, 1), 0.2), "std": torch.full((3, 1, 1), 0.3)})
        self.linear = nn.Linear(3 * 16 * 16, 4)

    def forward(self, x):
        return self.linear(((x - self.normalization["mean"]) / self.normalization["std"]).flatten(1))


def test_a_network_may_have_tensors_of_any_name():
    classifier = Classifier(Named(), (0.5,) * 3, (0.25,) * 3)
    looked = graph.Answers(classifier)
    runtime = started(looked, looked.outputs, SIZE, HERE)
    same(runtime(images(4))[0], classifier(images(4)))
    held = graph.held(graph.traced(looked, looked.outputs, SIZE))
    assert {"normalization.mean", "normalization.std", "linear.weight", "linear.bias"} <= held.keys()


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
def test_every_tensor_can_be_given(make):
    classifier, other = make(seed=0), make(seed=1)
    runtime = answers_of(classifier, "all")
    seen = images(6)
    same(runtime(seen)[0], classifier(seen))
    state = {n: t for n, t in other.network.state_dict().items() if "num_batches" not in n}
    runtime.take(state)
    same(runtime(seen)[0], other(seen))
    runtime.take({})
    same(runtime(seen)[0], classifier(seen))


def test_norm_tensors_can_be_given_again_and_again():
    classifier = tiny_cnn()
    runtime = answers_of(classifier, norms(classifier))
    seen = images(6)
    for step in range(3):
        with torch.no_grad():
            for parameter in (p for n, p in classifier.network.state_dict().items() if n in norms(classifier)):
                parameter.mul_(1.1 + step)
        runtime.take({n: t for n, t in classifier.network.state_dict().items() if n in norms(classifier)})
        same(runtime(seen)[0], classifier(seen))


def test_what_was_given_is_not_changed_through_the_giver():
    classifier = tiny_cnn()
    runtime = answers_of(classifier, norms(classifier))
    given = {"bn1.weight": classifier.network.bn1.weight.detach().clone()}
    runtime.take(given)
    before = runtime(images(2))[0]
    given["bn1.weight"].zero_()
    assert torch.equal(runtime(images(2))[0], before)


@pytest.mark.parametrize("given", [{"bn1.weight": torch.ones(3)}, {"conv1.weight": torch.ones(16, 3, 3, 3)}])
def test_a_tensor_of_another_shape_or_that_does_not_move_is_refused(given):
    classifier = tiny_cnn()
    runtime = answers_of(classifier, norms(classifier))
    with pytest.raises(ValueError, match="no tensor that moves"):
        runtime.take(given)
    same(runtime(images(2))[0], classifier(images(2)))


def test_an_adapter_counts_in_a_plain_run_and_is_silently_ignored_by_one_with_bound_inputs(tmp_path):
    """Why this project never uses the two together."""
    classifier = tiny_cnn()
    looked = graph.Answers(classifier)
    model = graph.opened(graph.traced(looked, looked.outputs, SIZE), ["bn1.weight"])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = AdapterFormat()
    weight = torch.full_like(classifier.network.bn1.weight, 3.0)
    given.set_parameters({"bn1.weight": onnxruntime.OrtValue.ortvalue_from_numpy(weight.numpy())})
    given.export_adapter(str(tmp_path / "x.onnx_adapter"))
    adapter = LoraAdapter()
    adapter.Load(str(tmp_path / "x.onnx_adapter"))
    options = RunOptions()
    options.add_active_adapter(adapter)
    seen = images(4)
    plain = classifier(seen)
    adapted = torch.from_numpy(session.run(["logits"], {"images": seen.numpy()}, options)[0])
    bound = session.io_binding()
    bound.bind_cpu_input("images", seen.numpy())
    bound.bind_output("logits")
    session.run_with_iobinding(bound, options)
    ignored = torch.from_numpy(bound.copy_outputs_to_cpu()[0])
    same(ignored, plain)
    with torch.no_grad():
        classifier.network.bn1.weight.fill_(3.0)
    same(adapted, classifier(seen))
    assert not torch.allclose(adapted, ignored, atol=1e-2)


def test_a_device_that_was_not_obtained_is_refused_where_it_is_required():
    classifier = tiny_cnn()
    model = graph.traced(graph.Answers(classifier), ("logits", "features"), SIZE)
    with pytest.raises(ConfigError, match="asked for CUDAExecutionProvider and computes by CPU") as refused:
        Runtime(model, Wanted("cuda", 1))
    assert refused.value.path == "model.require_device"
    runtime = Runtime(model, Wanted("cuda", 1, required=False))
    assert (runtime.asked, runtime.provider) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    same(runtime(images(2))[0], classifier(images(2)))


def test_a_device_that_is_not_known_to_us_is_refused():
    model = graph.traced(graph.Answers(tiny_cnn()), ("logits", "features"), SIZE)
    with pytest.raises(ConfigError, match="not used on mps"):
        Runtime(model, Wanted("mps", 1))


def test_another_dtype_is_refused():
    classifier = tiny_cnn()
    double = Classifier(classifier.network.double(), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ConfigError, match="float32"):
        graph.traced(graph.Answers(double), ("logits", "features"), SIZE)


class Fickle(nn.Module):
    """Decides by its input, which a trace does not see."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 16 * 16, 4)

    def forward(self, x):
        y = self.linear(x.flatten(1))
        return y if float(x.abs().sum()) == 0.0 else -y


def test_a_network_that_a_trace_does_not_catch_is_refused():
    with pytest.raises(ConfigError, match="answers differently"):
        started(graph.Answers(Classifier(Fickle())), ("logits", "features"), SIZE, HERE)


class Unexportable(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 16 * 16, 4)

    def forward(self, x):
        return self.linear(torch.special.bessel_j0(x).flatten(1))


def test_a_network_that_cannot_be_exported_is_refused():
    with pytest.raises(ConfigError, match="cannot be exported to ONNX"):
        started(graph.Answers(Classifier(Unexportable())), ("logits", "features"), SIZE, HERE)


def test_a_runtime_with_other_tensors_is_told_from_its_network():
    classifier = tiny_cnn()
    runtime = answers_of(classifier, norms(classifier))
    require_same(runtime, graph.Answers(classifier), SIZE)
    runtime.take({"bn1.weight": classifier.network.bn1.weight * 2})
    with pytest.raises(ConfigError, match="answers differently"):
        require_same(runtime, graph.Answers(classifier), SIZE)


def test_what_was_exported_can_be_deployed_and_exported_again(tmp_path):
    classifier = tiny_cnn()
    looked = graph.Answers(classifier)
    for number in range(2):
        model = graph.traced(looked, looked.outputs, SIZE)
        del model.graph.output[1:]  # answers only
        onnx.save(model, tmp_path / f"{number}.onnx")
        deployed = load(Model(artifact=tmp_path / f"{number}.onnx", input_size=SIZE, frozen="runtime", threads=1))
        same(deployed.frozen(images(5)).logits, classifier(images(5)))
        looked = graph.Answers(deployed.classifier)


def test_graphs_are_whole():
    looked = graph.Answers(tiny_cnn())
    onnx.checker.check_model(graph.opened(graph.traced(looked, looked.outputs, SIZE), ["bn1.bias"]))
    with pytest.raises(ValueError, match="no tensor 'nothing'"):
        graph.opened(graph.traced(looked, looked.outputs, SIZE), ["nothing"])
