"""The demo's classifier: a small convolutional network with batch normalization that reads one digit."""

from pathlib import Path

from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("digits.safetensors")
"""What `scripts/train_digits` left behind."""

MEAN = (0.1307, 0.1307, 0.1307)
STD = (0.3081, 0.3081, 0.3081)
"""MNIST's brightness, the same in all three channels; the daemon normalizes with these before the network."""


class Digits(nn.Module):
    """Four convolutions, each followed by batch normalization, an average over what is left, and a linear head."""

    def __init__(self, widths: tuple[int, int, int, int] = (32, 48, 64, 96), classes: int = 10) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.body = nn.Sequential(
            *_block(3, first, stride=1),
            *_block(first, second, stride=2),
            *_block(second, third, stride=2),
            *_block(third, fourth, stride=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(fourth, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N x 10) for normalized images (N x 3 x 28 x 28)."""
        logits: Tensor = self.head(self.body(images))
        return logits


def network() -> nn.Module:
    """Return the network with fresh weights: what a config's `model` section names as its factory."""
    return Digits()


def _block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
