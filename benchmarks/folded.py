"""Methods on an exported network whose BatchNorm was folded into its convolutions, beside the network it came from.

    python benchmarks/folded.py --out benchmarks/results/folded-resnet20.json

Fifteen corruptions in a row, never reset. The exported network is read by our importer; the statistics of its norms are
estimated from source images, as `tta-daemon prepare` does. Rows that the output file already has are kept.
"""

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from development import CORRUPTIONS, add_arguments, classifier, source, stream

import adapters
from adapters import Classifier
from adapters.parts.unfolded import estimate, unfold
from tta_daemon.control.sections import Model
from tta_daemon.model.load import load

METHODS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "source": ("source", {}),
    "norm, batch statistics": ("norm", {"mode": "batch"}),
    "tent": ("tent", {}),
    "cotta, 4 views": ("cotta", {"views": 4}),
    "cotta": ("cotta", {}),
}
SOURCES = (2000, 500, 100)
"""Source images that statistics are estimated from; those after the first for Tent alone."""


WIDELY = ("original", f"folded, {SOURCES[0]} source images")
"""The networks on which every method runs."""


def exported(original: Classifier, folder: Path) -> Path:
    """The network as today's exporter writes it by default."""
    path = folder / "net.onnx"
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            original.network, (torch.rand(2, 3, 32, 32),), str(path), dynamo=True, external_data=False, verbose=False,
            input_names=["images"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )  # fmt: skip
    logging.disable(logging.NOTSET)
    return path


def imported(path: Path, like: Classifier) -> Classifier:
    """That file, read back."""
    mean, std = ([float(x) for x in values.flatten()] for values in (like.mean, like.std))
    return load(Model.model_validate({"artifact": path, "mean": mean, "std": std})).classifier


@torch.no_grad()
def variances(net: Classifier, data: Path, images: int = 500) -> dict[str, float]:
    """By norm: the variance that source images have there, as a share of the one it keeps; of the median channel."""
    norms = {name: m for name, m in net.network.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        norm.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0].var((0, 2, 3))}))
        for name, norm in norms.items()
    ]
    net(next(source(data).batches("images", images, images))[0])
    for hook in hooks:
        hook.remove()
    return {name: round(float((seen[name] / norm.running_var).median()), 2) for name, norm in norms.items()}


def run(  # noqa: PLR0913, PLR0917 - what is run, and on what
    net: Classifier, method: str, options: Mapping[str, Any], data: Path, images: int, batch: int
) -> dict[str, Any]:
    """Errors in percent by corruption."""
    adapter = adapters.build(method, net, adapters.METHODS[method].options(**options))
    pictures, errors, began = stream(data), {}, time.perf_counter()
    for corruption in CORRUPTIONS:
        batches = pictures.batches(corruption, batch, images)
        wrong = [adapters.step(adapter, x).logits.argmax(1) != y for x, y in batches]
        errors[corruption] = round(100 * float(torch.cat(wrong).double().mean()), 2)
    mean = round(sum(errors.values()) / len(errors), 2)
    return {"mean_error": mean, "errors": errors, "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    """Run the rows that are not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--images", type=int, default=200, help="of each corruption")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--out", type=Path, help="JSON file, added to")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    original = classifier(asked.data, asked.depth)
    found = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else {"rows": {}}
    found |= {"network": f"ResNet-{asked.depth}", "images": asked.images, "batch": asked.batch}
    found |= {"torch": torch.__version__}
    found["source_variance_to_kept"] = variances(original, asked.data)
    with tempfile.TemporaryDirectory() as folder:
        path = exported(original, Path(folder))
        nets: dict[str, Classifier] = {"original": original}
        for count in SOURCES:
            nets[f"folded, {count} source images"] = net = imported(path, original)
            unfold(net.network, estimate(net, (x for x, _ in source(asked.data).batches("images", 100, count))))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    for label, (method, options) in METHODS.items():
        for name, net in nets.items():
            key = f"{label} | {name}"
            if key in found["rows"] or (label != "tent" and name not in WIDELY):
                continue
            found["rows"][key] = run(net, method, options, asked.data, asked.images, asked.batch)
            print(f"{key:<50}{found['rows'][key]['mean_error']:>8.2f} %", flush=True)
            if asked.out:
                asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
