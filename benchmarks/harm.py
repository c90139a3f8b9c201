"""Where adapting does harm: every method on streams that break it, beside the frozen model on the same images.

    python benchmarks/harm.py --out benchmarks/results/harm-resnet20.json
    python benchmarks/harm.py --guard guarded --out benchmarks/results/guarded-resnet20.json
    python benchmarks/harm.py --methods cotta petal --limit 100 --out benchmarks/results/harm-resnet20.json

Each cell is one replay: the daemon's loop, batcher, learner and guard on a log in memory. Cells that the output file
already has are kept, so an interrupted run goes on where it stopped.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog
import torch
from development import CORRUPTIONS, add_arguments, deployed, stream

from adapters import METHODS
from tta_daemon.control.config import Config
from tta_daemon.model.load import Deployed, load
from tta_daemon.offline import digits as trained
from tta_daemon.offline import scans
from tta_daemon.offline.replay.orders import Plan, parse, plan
from tta_daemon.offline.replay.results import judged
from tta_daemon.offline.replay.run import Run, run
from tta_daemon.offline.replay.streams import Stream
from tta_daemon.offline.replay.values import Arrays, Indices, Pixels
from tta_daemon.offline.worlds import WORLDS, Stretch


@dataclass(frozen=True)
class Column:
    """A kind of stream, and the settings under which it is answered."""

    order: str = "continual"
    batch: int = 100
    adapt: Mapping[str, Any] = field(default_factory=dict)
    pictures: str = "every"


COLUMNS = {
    "clean": Column(pictures="clean"),
    "continual": Column(),
    "sorted": Column("correlated:0"),
    "correlated 0.1": Column("correlated:0.1"),
    "90 % one class": Column(pictures="one class"),
    "mixed": Column("mixed"),
    "flip": Column("recorded", pictures="flip"),
    "garbage": Column(pictures="garbage"),
    "brightness": Column(pictures="brightness"),
    "jpeg": Column(pictures="jpeg_compression"),
    "inverted": Column(pictures="inverted"),
    "batch 10": Column("continual", 10, {"learn_from": 1}),
    "recurring x5": Column("recurring:5"),
    "batch 1": Column("continual", 1, {"learn_from": 1}),
    "bursts of 10": Column("continual+bursts:10"),
    "recurring x20": Column("recurring:20"),
    "too fast x5": Column("recurring:5", 100, {"options": {"lr": 0.03}}),
}
"""In ``bursts of 10`` the daemon's rule holds: what has fewer than adapt.learn_from = 16 images teaches nothing.
``flip`` changes between clean and Gaussian noise with every batch; in ``garbage`` one image in twenty is noise.
``too fast`` is thirty times the learning rate of Tent."""

NAMES = ("clean", *CORRUPTIONS)


class Album(NamedTuple):
    """Pictures of the same scenes in several worlds, uint8 N x H x W x 3; the first world is what was trained for."""

    name: str
    worlds: Mapping[str, Pixels]
    truth: Indices

    @property
    def clean(self) -> Pixels:
        """As trained for."""
        return next(iter(self.worlds.values()))

    @property
    def noisy(self) -> Pixels:
        """The world that is noise."""
        return next(pixels for name, pixels in self.worlds.items() if "noise" in name)


def cifar(data: Path) -> Album:
    """CIFAR-10 test images, clean and under fifteen corruptions of severity 5."""
    held = stream(data)
    return Album("cifar10c", {name: held.pixels(name) for name in NAMES}, held.labels.numpy())


def digits() -> Album:
    """The demo's: held-out MNIST digits in six worlds."""
    _, held_out = scans.load()
    seen = {name: Stretch(name, 1).see(held_out.images, np.random.default_rng(n)) for n, name in enumerate(WORLDS)}
    return Album("digits", seen, held_out.labels.astype(np.int64))


def images(album: Album, kind: str, limit: int) -> Stream:
    """The pictures of a column: the first of each world, the clean ones first; or those of one world."""
    dice, truth = np.random.default_rng(0), album.truth

    def of(parts: Mapping[str, tuple[Pixels, Indices]]) -> Stream:
        shown, labels = (np.concatenate(both) for both in zip(*parts.values(), strict=True))
        domain = np.repeat(np.arange(len(parts)), [len(part) for part, _ in parts.values()])
        return Stream(album.name, Arrays(shown), labels, tuple(parts), domain)

    if kind == "every":
        return of({name: (pixels[:limit], truth[:limit]) for name, pixels in album.worlds.items()})
    if kind == "garbage":
        every = {name: (pixels[:limit].copy(), truth[:limit]) for name, pixels in album.worlds.items()}
        for shown, _ in every.values():
            noise = dice.random(limit) < 0.05  # noqa: PLR2004 - one in twenty
            shown[noise] = dice.integers(0, 256, (int(noise.sum()), *shown.shape[1:]), dtype=np.uint8)
        return of(every)
    if kind == "one class":
        most, others = np.flatnonzero(truth == 3)[:103], np.flatnonzero(truth != 3)  # noqa: PLR2004 - cats, or threes
        chosen = np.concatenate((most, others[: len(most) // 9]))
        return of({name: (pixels[chosen], truth[chosen]) for name, pixels in album.worlds.items()})
    if kind == "flip":
        pair, size = (album.clean, album.noisy), COLUMNS["flip"].batch
        turns = [(pair[i % 2][at : at + size], truth[at : at + size]) for at in range(0, 1000, size) for i in range(2)]
        return of({f"{number}": turn for number, turn in enumerate(turns)})
    shown = album.clean if kind == "clean" else 255 - album.clean if kind == "inverted" else album.worlds[kind]
    return of({kind: (shown[:1000], truth[:1000])})


def cell(  # noqa: PLR0913, PLR0917 - what a replay is of
    method: str,
    column: Column,
    model: Mapping[str, Any],
    guard: Mapping[str, Any],
    deployed: Deployed,
    source: Stream,
    frozen: Run | None,
) -> tuple[Run, Plan]:
    """One replay; the frozen model's answers do not depend on the batches, so one of them serves all."""
    config = Config.model_validate(
        {
            "model": model,
            "adapt": {"method": method, **column.adapt, **({"options": {}} if method == "source" else {})},
            "batch": {"size": column.batch, "patience_s": 1.0},
            "watch": {"sample": 0.0 if guard["mode"] == "off" else guard["sample"]},
            "guard": {"mode": guard["mode"]},
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
        "served": dict(entry.served),
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


class Subject(NamedTuple):
    """What is measured: pictures, the settings of the model, the model, and what the two are called."""

    album: Album
    model: Mapping[str, Any]
    deployed: Deployed
    name: str


def photographic(data: Path, depth: int) -> Subject:
    """CIFAR-10 and a ResNet."""
    return Subject(cifar(data), {"input_size": [32, 32]}, deployed(data, depth), f"ResNet-{depth}")


def digital() -> Subject:
    """MNIST and the demo's network."""
    settings = {
        "factory": "tta_daemon.offline.digits:network",
        "weights": str(trained.WEIGHTS),
        "input_size": [28, 28],
        "mean": list(trained.MEAN),
        "std": list(trained.STD),
    }
    return Subject(digits(), settings, load(Config.model_validate({"model": settings}).model), "digits")


def main() -> None:
    """Fill in the cells that are not there yet, column by column."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--digits", action="store_true", help="the demo's digits and network instead of CIFAR-10")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--columns", nargs="*", default=list(COLUMNS))
    parser.add_argument("--limit", type=int, default=200, help="images of each corruption")
    parser.add_argument("--guard", default="off", choices=["off", "guarded", "observe"])
    parser.add_argument("--sample", type=float, default=1.0, help="share of the batches that the guard weighs")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, added to")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    torch.set_num_threads(options.threads)
    album, model, deployed, network = digital() if options.digits else photographic(options.data, options.depth)
    found = json.loads(options.out.read_text()) if options.out.exists() else {"cells": {}}
    found |= {"network": network, "threads": options.threads, "torch": torch.__version__}
    found |= {"guard": options.guard} | ({"sample": options.sample} if options.sample < 1 else {})
    guard = {"mode": options.guard, "sample": options.sample}
    for name in options.columns:
        column, frozen = COLUMNS[name], None
        if column.pictures in CORRUPTIONS and column.pictures not in album.worlds:
            continue
        source = images(album, column.pictures, options.limit)
        for method in options.methods:
            cells = found["cells"].setdefault(name, {})
            if method in cells:
                continue
            began = time.perf_counter()
            frozen, laid = cell("source", column, model, guard, deployed, source, frozen)
            known = frozen if method == "source" else None
            ours, _ = cell(method, column, model, guard, deployed, source, known)
            cells[method] = summary(ours, frozen, source, laid)
            options.out.write_text(written(found))
            error, verdict = cells[method]["error"], cells[method]["against"]["verdict"]
            print(
                f"{name:20} {method:8} {100 * error:5.1f} {verdict:14} {time.perf_counter() - began:6.0f} s", flush=True
            )


if __name__ == "__main__":
    main()
