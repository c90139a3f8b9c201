"""What the files of a deployed model bring along: a network, and what they say of it."""

from dataclasses import dataclass

from torch import nn

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Brought:
    """A network, and what its files say. A setting that is given wins over what they say.

    Attributes:
        network: maps normalized images, N x 3 x H x W, to logits, N x C; on the CPU.
        name: what the model is called.
        setting: the setting that named it, for errors.
        labels: names of the classes.
        size: height and width of the images.
        mean: of red, green and blue.
        std: of red, green and blue.
        digest: of the files, where the network has no tensors to tell it by.
    """

    network: nn.Module
    name: str
    setting: str = "model.factory"
    labels: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    mean: Triple | None = None
    std: Triple | None = None
    digest: str = ""
