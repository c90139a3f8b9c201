"""Where adapting does harm: every method on streams that break it, beside the frozen model on the same images.

    python benchmarks/harm.py --out benchmarks/results/harm-resnet20.json
    python benchmarks/harm.py --methods cotta petal --limit 100 --out benchmarks/results/harm-resnet20.json

Each cell is one replay: the daemon's loop, batcher and learner on a log in memory, nothing watching it. Cells that the
output file already has are kept, so an interrupted run goes on where it stopped.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from development import CORRUPTIONS, WEIGHTS, add_arguments, classifier, stream

from adapters import METHODS
from tta_daemon.control.config import Config
from tta_daemon.model.load import Deployed
from tta_daemon.offline.replay.orders import Plan, parse, plan
from tta_daemon.offline.replay.results import judged
from tta_daemon.offline.replay.run import Run, run
from tta_daemon.offline.replay.streams import Stream
from tta_daemon.offline.replay.values import Arrays

LABELS = tuple(map(str, range(10)))


@dataclass(frozen=True)
class Column:
    """A kind of stream, and the settings under which it is answered."""

    order: str
    batch: int = 200
    adapt: Mapping[str, Any] = field(default_factory=dict)


COLUMNS = {
    "continual": Column("continual"),
    "recurring x5": Column("recurring:5"),
    "mixed": Column("mixed"),
    "correlated 0.1": Column("correlated:0.1"),
    "batch 10": Column("continual", 10, {"learn_from": 1}),
    "batch 1": Column("continual", 1, {"learn_from": 1}),
    "bursts of 10": Column("continual+bursts:10"),
}
"""In ``bursts of 10`` the daemon's rule holds: what has fewer than adapt.learn_from = 16 images teaches nothing."""


def images(data: Path, limit: int) -> Stream:
    """The first images of each corruption, the clean ones first."""
    pictures, names = stream(data), ("clean", *CORRUPTIONS)
    pixels = [next(pictures.batches(name, limit))[0].mul(255).round().byte() for name in names]
    arrays = torch.cat(pixels).permute(0, 2, 3, 1).contiguous().numpy()
    labels = np.tile(pictures.labels[:limit].numpy(), len(names))
    return Stream("cifar10c", Arrays(arrays), labels, names, np.repeat(np.arange(len(names)), limit))


def cell(method: str, column: Column, deployed: Deployed, source: Stream, frozen: Run | None) -> tuple[Run, Plan]:
    """One replay; the frozen model's answers do not depend on the batches, so one of them serves all."""
    config = Config.model_validate(
        {
            "model": {"input_size": [32, 32]},
            "adapt": {"method": method, **column.adapt},
            "batch": {"size": column.batch, "patience_s": 1.0},
            "watch": {"sample": 0.0},
        }
    )
    laid = plan(source, parse(column.order), seed=0)
    return (frozen or run(config, deployed, source, laid, lambda _: None)), laid


def summary(ours: Run, frozen: Run, source: Stream, laid: Plan) -> dict[str, Any]:
    """What the table and a reader who doubts it need."""
    entry = judged([frozen, ours], [{}, {}], source, laid, {}).methods[1]
    return {
        **asdict(entry.overall),
        "domains": {
            name: [score.error, score.against.difference, score.against.verdict]
            for name, score in entry.domains.items()
        },
        "rounds": [score.error for score in entry.rounds],
        "ms_per_image": round(entry.cost.answer_ms + entry.cost.learn_ms, 2),
        "learned_from": entry.learned_from,
        "batches": entry.batches,
        "held": dict(entry.held),
        "rewound": dict(entry.rewound),
    }


def written(found: Mapping[str, Any]) -> str:
    """As JSON, a line for each cell."""
    columns = (
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f"{json.dumps(method)}: {json.dumps(cell)}" for method, cell in cells.items())
        + "\n}"
        for name, cells in found["cells"].items()
    )
    heads = (f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in found.items() if key != "cells")
    return "{\n" + "".join(heads) + '"cells": {\n' + ",\n".join(columns) + "\n}\n}\n"


def main() -> None:
    """Fill in the cells that are not there yet, column by column."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--columns", nargs="*", default=list(COLUMNS))
    parser.add_argument("--limit", type=int, default=250, help="images of each corruption")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, added to")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    torch.set_num_threads(options.threads)
    net = classifier(options.data, options.depth)
    deployed = Deployed(net, LABELS, "", WEIGHTS[options.depth])
    source = images(options.data, options.limit)
    found = json.loads(options.out.read_text()) if options.out.exists() else {"cells": {}}
    found |= {"network": f"ResNet-{options.depth}", "threads": options.threads, "torch": torch.__version__}
    for name in options.columns:
        column, frozen = COLUMNS[name], None
        for method in options.methods:
            cells = found["cells"].setdefault(name, {})
            if method in cells:
                continue
            began = time.perf_counter()
            frozen, laid = cell("source", column, deployed, source, frozen)
            ours, _ = cell(method, column, deployed, source, frozen if method == "source" else None)
            cells[method] = summary(ours, frozen, source, laid)
            options.out.write_text(written(found))
            error, verdict = cells[method]["error"], cells[method]["against"]["verdict"]
            print(
                f"{name:20} {method:8} {100 * error:5.1f} {verdict:14} {time.perf_counter() - began:6.0f} s", flush=True
            )


if __name__ == "__main__":
    main()
