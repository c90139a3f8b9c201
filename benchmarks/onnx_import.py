"""Every family of networks, by both exporters of torch, at several opsets: how our reading differs from ONNX Runtime's.

    python benchmarks/onnx_import.py --out benchmarks/results/onnx-import.json

The networks are small and their weights random; transformers builds them. Rows that the output file has are kept.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from exported import export, small

from tta_daemon.control import logs
from tta_daemon.control.sections import Log, Model
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import load
from tta_daemon.model.onnx_import.compare import Original, difference
from tta_daemon.model.onnx_import.read import parse

FAMILIES = ("resnet", "vit", "swin", "convnext", "poolformer", "efficientnet", "mobilenet")
EXPORTS = (
    ("traced", 17), ("dynamo", 20), ("traced", 11), ("dynamo", 23), ("traced", 20), ("dynamo", 18), ("traced", 13),
)  # fmt: skip
"""Breadth first: every family by both exporters before the next opset."""

LAYERS = (torch.nn.Conv2d, torch.nn.Linear, torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.BatchNorm2d)


def row(family: str, exporter: str, opset: int, folder: Path) -> dict[str, Any]:
    """What became of one export: not to be had, refused, or read with this difference."""
    network, size = small(family)
    more = {"external_data": False} if exporter == "dynamo" else {}
    try:
        path = export(network, folder / "net.onnx", size, opset, dynamo=exporter == "dynamo", **more)
    except Exception as fault:  # noqa: BLE001 - whatever the exporter cannot do
        return {"exporter_fails": str(fault).splitlines()[0][:160]}
    operators = sorted({node.op_type for node in onnx.load(path).graph.node})
    try:
        imported = load(Model.model_validate({"artifact": path})).classifier.network
    except ConfigError as fault:
        return {"refused": str(fault), "operators": operators}
    if not isinstance(imported.steps, tuple):
        return {"black_box": True, "operators": operators}
    original, apart = Original(parse(path), folder), 0.0
    for count in (1, 5, 16):
        images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            apart = max(apart, difference(imported(images), original(images, ["logits"])["logits"]))
    kinds = [type(module) for module in imported.modules()]
    layers = {kind.__name__: kinds.count(kind) for kind in LAYERS if kind in kinds}
    return {"apart": float(f"{apart:.1e}"), "layers": layers, "operators": operators}


def main() -> None:
    """Fill in the rows that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file, added to")
    asked = parser.parse_args()
    logs.configure(Log(level="error"))
    torch.set_num_threads(1)
    found = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else {"rows": {}}
    found["torch"] = torch.__version__
    for exporter, opset in EXPORTS:
        for family in FAMILIES:
            key = f"{family} | {exporter} | {opset}"
            if key in found["rows"]:
                continue
            with tempfile.TemporaryDirectory() as folder:
                found["rows"][key] = row(family, exporter, opset, Path(folder))
            said = {name: value for name, value in found["rows"][key].items() if name != "operators"}
            print(f"{key:<28}{said}", flush=True)
            if asked.out:
                asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
