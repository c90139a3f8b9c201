"""Randomly changed ONNX files, loaded one after the other: each must be read or refused, soon, and in little memory.

python benchmarks/fuzz_onnx.py --files 8000 --seed 2
"""

import argparse
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import onnx
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from exported import KEPT, export

import adapters
from tta_daemon.control import logs
from tta_daemon.control.sections import Log, Model
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import load

ROOM = 6 << 30


class Small(nn.Module):
    """Something of everything, in few bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.batch = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.layer, self.linear = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, N x 3."""
        x = nn.functional.max_pool2d(torch.relu(self.batch(self.conv(x))), 2).flatten(2).transpose(1, 2)
        x = nn.functional.gelu(self.layer(x))
        x = torch.cat([x.mean(1, keepdim=True).expand(x.size(0), 1, 4), x], 1)
        return self.linear(x.reshape(x.size(0), -1, 4)[:, 0])


def seeds(folder: Path) -> list[bytes]:
    """Good files, of both exporters."""
    torch.manual_seed(0)
    path = folder / "good.onnx"
    made = [
        export(Small(), path, 8, 17, dynamo=False, **KEPT).read_bytes(),
        export(Small(), path, 8, 13, dynamo=False).read_bytes(),
        export(Small(), path, 8, 20, dynamo=True, external_data=False).read_bytes(),
    ]
    models = [onnx.load_from_string(content) for content in made]
    for model in models:  # what no reader looks at would take most of the changes
        for node in model.graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
    return [model.SerializeToString() for model in models]


def changed(content: bytes, dice: random.Random) -> bytes:
    """The file with some of its bytes set, flipped, cut out, put in, or copied from elsewhere."""
    held = bytearray(content)
    for _ in range(dice.choice([1, 1, 2, 4, 8])):
        at, how = dice.randrange(len(held)), dice.randrange(6)
        if how == 0:
            held[at] = dice.randrange(256)
        elif how == 1:
            held[at] ^= 1 << dice.randrange(8)
        elif how == 2:  # noqa: PLR2004 - one of six ways
            del held[at : at + dice.randrange(1, 8)]
        elif how == 3:  # noqa: PLR2004
            held[at:at] = dice.randbytes(dice.randrange(1, 8))
        elif how == 4:  # noqa: PLR2004
            other = dice.randrange(len(held))
            held[at : at + 16] = held[other : other + 16]
        else:
            held[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF])
    return bytes(held)


def main() -> None:
    """Load so many, and say what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    logs.configure(Log(level="error"))
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    dice, fates, slowest = random.Random(asked.seed), Counter[str](), 0.0  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as folder:
        good, path = seeds(Path(folder)), Path(folder) / "net.onnx"
        resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
        for _ in range(asked.files):
            path.write_bytes(changed(dice.choice(good), dice))
            began = time.perf_counter()
            try:
                model = load(Model.model_validate({"artifact": path}))
                adapters.step(adapters.build("source", model.classifier), torch.rand(3, 3, *model.size))
                fates["only ONNX Runtime reads it" if model.classifier.opaque else "read"] += 1
            except ConfigError:
                fates["refused"] += 1
            slowest = max(slowest, time.perf_counter() - began)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{dict(fates)}, the slowest in {slowest:.1f} s, {most} MiB at most")


if __name__ == "__main__":
    main()
