"""Development data and networks for benchmarks: read from a folder that is no part of the product."""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from adapters import Classifier
from tta_daemon.model.load import Deployed

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
"""In the order of the continual benchmark."""

WEIGHTS = {20: "resnet20-12fca82f.th", 32: "resnet32-d509ac18.th", 56: "resnet56-4bfd9763.th"}


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.stride = stride
        self.pad = (outer - inner) // 2

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of both branches."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(y + (functional.pad(short, (0, 0, 0, 0, self.pad, self.pad)) if self.pad else short))


class CifarResNet(nn.Module):
    """He et al. 2015, section 4.2."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        stages, inner = [], 16
        for outer in (16, 32, 64):
            count = (depth - 2) // 6
            shapes = [(inner, outer, outer // inner)] + [(outer, outer, 1)] * (count - 1)
            stages.append(nn.Sequential(*(Block(*shape) for shape in shapes)))
            inner = outer
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, N x 10."""
        x = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the data is and which network reads it."""
    here = Path(os.environ.get("TTA_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    parser.add_argument("--data", type=Path, default=here / "data", help="folder of the development data")
    parser.add_argument("--depth", type=int, default=20, choices=sorted(WEIGHTS), help="layers of the ResNet")
    parser.add_argument("--threads", type=int, default=1, help="of torch")


def classifier(data: Path, depth: int, mixed: torch.dtype | None = None) -> Classifier:
    """A trained CIFAR ResNet, computing in ``mixed`` precision where that is given."""
    state = torch.load(data / WEIGHTS[depth], map_location="cpu", weights_only=True)["state_dict"]
    network = CifarResNet(depth)
    network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    return Classifier(network, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), mixed=mixed)


def deployed(data: Path, depth: int) -> Deployed:
    """The same, as the daemon holds it."""
    return Deployed(classifier(data, depth), tuple(map(str, range(10))), "", WEIGHTS[depth], (32, 32))


def spent(work: Callable[[], object]) -> float:
    """Milliseconds that this thread computes; what else the machine does has little part in it."""
    began = time.thread_time()
    work()
    return 1000 * (time.thread_time() - began)


def resident_kib() -> int:
    """Memory of this process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


class Pictures:
    """Images of one file by key, and their labels."""

    def __init__(self, path: Path) -> None:
        self._file = np.load(path)
        self.labels = torch.from_numpy(self._file["labels"].astype(np.int64))

    def pixels(self, key: str) -> np.ndarray:
        """The images of a key as they are in the file: uint8, N x H x W x 3."""
        return self._file[key]

    def batches(self, key: str, size: int, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, N x 3 x H x W in [0, 1], and labels, in the order of the file."""
        pixels = torch.from_numpy(self._file[key][:limit])
        for images, labels in zip(pixels.split(size), self.labels[:limit].split(size), strict=True):
            yield images.permute(0, 3, 1, 2).float() / 255, labels


def stream(data: Path) -> Pictures:
    """The corrupted test images."""
    return Pictures(data / "cifar10c_like_s5_1000.npz")


def source(data: Path) -> Pictures:
    """Training images, under key ``images``."""
    return Pictures(data / "cifar10_train_8068.npz")
