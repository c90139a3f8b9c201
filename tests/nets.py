"""The networks and images that tests run on; what comes from outside the checkout is skipped, with the reason."""

import copy
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from adapters import Classifier

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def shared(path: str) -> Path:
    """A file of the development data, or the test is skipped."""
    root = Path(os.environ.get("TTA_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (root / path).exists():
        pytest.skip(f"development data not here: {path} (set TTA_SHARED to the folder that holds it)")
    return root / path


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.pad = (outer - inner) // 2 if stride != 1 or inner != outer else 0
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        short = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return functional.relu(y + short)


class CifarResNet(nn.Module):
    """He et al. 2015, section 4.2, with parameter-free shortcuts."""

    def __init__(self, depth: int = 20, num_classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inner = 16
        for stage, width in enumerate((16, 32, 64), start=1):
            layers = []
            for i in range(blocks):
                layers.append(Block(inner, width, 2 if stage > 1 and i == 0 else 1))
                inner = width
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


WEIGHTS = {20: "resnet20-12fca82f.th", 32: "resnet32-d509ac18.th", 56: "resnet56-4bfd9763.th"}


def cifar_resnet(depth: int = 20, dtype: torch.dtype = torch.float32) -> Classifier:
    """A trained CIFAR ResNet with its normalization."""
    state = torch.load(shared(f"data/{WEIGHTS[depth]}"), map_location="cpu", weights_only=True)["state_dict"]
    network = CifarResNet(depth)
    network.load_state_dict({name.removeprefix("module."): t for name, t in state.items()})
    return Classifier(network.to(dtype), IMAGENET_MEAN, IMAGENET_STD)


def tiny_cnn(num_classes: int = 5, seed: int = 0) -> Classifier:
    """A small residual BatchNorm network with plausible running statistics."""
    return Classifier(copy.deepcopy(_tiny_cnn(num_classes, seed)), (0.5,) * 3, (0.25,) * 3)


@cache
def _tiny_cnn(num_classes: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = CifarResNet(8, num_classes)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(32, 3, 16, 16))
    return network


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(n, t, d))


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TinyViT(nn.Module):
    def __init__(self, num_classes: int = 5, width: int = 24, depth: int = 2, size: int = 16, patch: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(torch.randn(1, 1 + (size // patch) ** 2, width) * 0.1)
        self.blocks = nn.Sequential(*[Encoder(width, 2) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.size(0), -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


def tiny_vit(num_classes: int = 5, seed: int = 0) -> Classifier:
    """A small LayerNorm transformer."""
    torch.manual_seed(seed)
    return Classifier(TinyViT(num_classes), (0.5,) * 3, (0.25,) * 3)


def images(n: int = 16, size: int = 16, seed: int = 0) -> Tensor:
    """Smooth random pictures in [0, 1]."""
    rough = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(rough, size=(size, size), mode="bilinear", align_corners=False)


def golden_batches(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The ten batches of fifty that the golden trajectories were recorded on."""
    return _batches("golden/images.npz", dtype)


def source_batches(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The ten batches of fifty clean training images that the golden priors were made from."""
    return _batches("golden/source500.npz", dtype)


def _batches(path: str, dtype: torch.dtype) -> list[Tensor]:
    """Pixels through the recorded table: they were rounded to float32 before anything else."""
    table = torch.from_numpy(np.load(shared("golden/images.npz"))["float_lut"]).to(dtype)
    pixels = torch.from_numpy(np.load(shared(path))["images"]).permute(0, 3, 1, 2)
    return list(table[pixels.long()].split(50))
