"""What the benchmarks of watching share: a prior of the development data, and every domain as the source sees it."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from development import CORRUPTIONS, WEIGHTS
from torch import Tensor

from tta_daemon.control.config import Config
from tta_daemon.model.load import Deployed, load
from tta_daemon.offline.prepare import run
from tta_daemon.watch import knowledge
from tta_daemon.watch.knowledge import Knowledge
from tta_daemon.watch.view import Probe, SourceView

DOMAINS = ("clean", *CORRUPTIONS)


def config(shared: Path, depth: int, method: str = "tent", batch: int = 64) -> Config:
    """The configuration of a development network."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the factory is the tests' own
    model = {
        "factory": "nets:CifarResNet",
        "arguments": {"depth": depth},
        "weights": str(shared / "data" / WEIGHTS[depth]),
        "checkpoint_key": "state_dict",
        "strip_prefix": "module.",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "threads": 1,
    }
    sections: dict[str, Any] = {"model": model, "adapt": {"method": method}, "batch": {"size": batch}}
    return Config.model_validate(sections)


def prior(shared: Path, depth: int, folder: Path, method: str = "tent") -> tuple[Deployed, Knowledge]:
    """The deployed network and its prior, from the 8,068 training images; made where ``folder`` does not hold it."""
    settings = config(shared, depth, method)
    deployed = load(settings.model)
    file = folder / f"resnet{depth}-{method}.safetensors"
    if not file.exists():
        run(settings, shared / "data" / "cifar10_train_8068.npz", file, methods=("source",))
    return deployed, knowledge.load(file, deployed.digest)


def pictures(shared: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Every domain as float images, all in one shuffled order, and their labels."""
    with np.load(shared / "data" / "cifar10c_like_s5_1000.npz") as held:
        order = np.random.default_rng(0).permutation(len(held["labels"]))
        images = {name: torch.from_numpy(held[name][order]).permute(0, 3, 1, 2).float() / 255 for name in DOMAINS}
        return images, torch.from_numpy(held["labels"][order]).long()


def views(deployed: Deployed, images: dict[str, Tensor]) -> dict[str, SourceView]:
    """Every domain as the frozen source model sees it."""
    probe = Probe(deployed.classifier)
    return {name: joined([probe(part) for part in torch.split(x, 100)]) for name, x in images.items()}


def joined(parts: list[SourceView]) -> SourceView:
    """Views end to end."""
    return SourceView(*(torch.cat([getattr(part, name) for part in parts]) for name in SourceView.__slots__))


def picked(view: SourceView, which: Tensor) -> SourceView:
    """The view of some of the images."""
    return SourceView(view.logits[which], view.features[which], view.moments[which])


def shared_default() -> Path:
    """Where the development data lie unless told."""
    return Path(os.environ.get("TTA_SHARED", Path(__file__).resolve().parents[2] / "shared"))
