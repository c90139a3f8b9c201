"""Methods that need nothing but answers, on an ONNX file that only ONNX Runtime understands.

    python benchmarks/black_box.py --out benchmarks/results/black-box-resnet20.json

The file is the exported ResNet with an operator at its end that our importer does not know, and that changes nothing.
Streams: as the test images come (each class a tenth), and with one class at nine of ten images, each class in turn;
clean ones, and fifteen corruptions in a row. Never reset. What is told: error, negative log-likelihood in nats, and the
expected calibration error in fifteen bins. Rows that the output file already has are kept.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

import torch
from development import CORRUPTIONS, Pictures, add_arguments, classifier, stream
from folded import exported
from torch import Tensor
from torch.nn import functional

import adapters
from adapters import Classifier
from tta_daemon.control.sections import Model
from tta_daemon.model.load import load

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from exported import closed

METHODS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "source": ("source", {}),
    "labelshift": ("labelshift", {}),
    "labelshift, temperature 3": ("labelshift", {"temperature": 3.0}),
    "temperature": ("temperature", {}),
}

WORLDS: Mapping[str, Sequence[str]] = {"clean": ("clean",), "corrupted": CORRUPTIONS}

Batches = Iterator[tuple[Tensor, Tensor]]


def one_class(pictures: Pictures, keys: Sequence[str], frequent: int, share: float, batch: int) -> Batches:
    """Of each key all images of one class, and so many others that they are ``share`` of them, in random order."""
    for key in keys:
        images, labels = next(pictures.batches(key, len(pictures.labels)))
        dice = torch.Generator().manual_seed(frequent)
        own, others = (labels == frequent).nonzero()[:, 0], (labels != frequent).nonzero()[:, 0]
        few = others[torch.randperm(len(others), generator=dice)[: round(len(own) * (1 - share) / share)]]
        mixed = torch.cat((own, few))
        for picked in mixed[torch.randperm(len(mixed), generator=dice)].split(batch):
            yield images[picked], labels[picked]


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Error in percent, negative log-likelihood, and expected calibration error in percent."""
    sure, said = logits.double().softmax(1).max(1)
    right, bins = (said == labels).double(), (sure * 15).ceil().long().clamp(1, 15)
    gaps = [(bins == b).double().mean() * (sure - right)[bins == b].mean().abs() for b in bins.unique()]
    return {
        "error": round(100 * float(1 - right.mean()), 2),
        "nll": round(float(functional.cross_entropy(logits.double(), labels)), 3),
        "ece": round(100 * float(torch.stack(gaps).sum()), 2),
    }


def answered(net: Classifier, method: str, options: Mapping[str, Any], batches: Batches) -> tuple[Tensor, Tensor]:
    """Logits of one stream, and its labels."""
    adapter = adapters.build(method, net, adapters.METHODS[method].options(**options))
    pairs = [(adapters.step(adapter, images).logits, labels) for images, labels in batches]
    return torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs])


def streams(pictures: Pictures, keys: Sequence[str], batch: int, *, even: bool) -> list[Batches]:
    """What each run answers: everything as it comes, or one class after the other as the frequent one."""
    if even:
        return [chain.from_iterable(pictures.batches(key, batch) for key in keys)]
    return [one_class(pictures, keys, frequent, 0.9, batch) for frequent in range(10)]


def read_back(original: Classifier, threads: int) -> Classifier:
    """The network as a file that only ONNX Runtime understands."""
    mean, std = ([float(x) for x in values.flatten()] for values in (original.mean, original.std))
    with tempfile.TemporaryDirectory() as folder:
        path = closed(exported(original, Path(folder)))
        model = Model.model_validate({"artifact": path, "mean": mean, "std": std, "threads": threads})
        net = load(model).classifier
    assert net.opaque  # noqa: S101 - else it is no black box that is measured
    return net


def main() -> None:
    """Run the rows that are not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--out", type=Path, help="JSON file, added to")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    pictures, net = stream(asked.data), read_back(classifier(asked.data, asked.depth), asked.threads)
    found = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else {"rows": {}}
    found |= {"network": f"ResNet-{asked.depth}", "batch": asked.batch, "torch": torch.__version__}
    for world, shares, label in product(WORLDS, ("even", "nine of ten"), METHODS):
        name = f"{world}, {shares} | {label}"
        if name in found["rows"]:
            continue
        method, options = METHODS[label]
        runs = streams(pictures, WORLDS[world], asked.batch, even=shares == "even")
        said = [answered(net, method, options, batches) for batches in runs]
        logits, labels = (torch.cat(parts) for parts in zip(*said, strict=True))
        found["rows"][name] = {"images": len(labels), **scores(logits, labels)}
        print(f"{name:<50}{found['rows'][name]}", flush=True)
        if asked.out:
            asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
