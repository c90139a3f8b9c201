"""Mean error of every method over fifteen corruptions in a row, never reset; each batch is scored as it is answered.

    python benchmarks/continual.py --depth 20 --out benchmarks/results/continual-resnet20.json

Rows that the output file already has are kept, so an interrupted run goes on where it stopped.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from development import CORRUPTIONS, Pictures, add_arguments, classifier, source, stream
from torch import Tensor

import adapters
from adapters import Classifier, ecotta, petal, vida
from adapters.eata import estimate_fisher
from adapters.parts.dice import Dice
from adapters.parts.views import view
from adapters.rmt import estimate_prototypes

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Row:
    """One line of the table: a method, what differs from its defaults, and what it knows of the source."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    prior: str = ""


ROWS = {
    "source": Row("source"),
    "norm, batch statistics": Row("norm", {"mode": "batch"}),
    "norm, prior of 16 images": Row("norm"),
    "norm, running": Row("norm", {"mode": "ema"}),
    "norm, instance-aware": Row("norm", {"mode": "instance"}),
    "tent": Row("tent"),
    "rpl": Row("rpl"),
    "ent": Row("rpl", {"objective": "entropy"}),
    "eata": Row("eata", prior="fisher"),
    "eta": Row("eata", {"fisher_weight": 0.0}),
    "sar": Row("sar"),
    "roid": Row("roid"),
    "rotta": Row("rotta"),
    "rmt, nothing kept of the source": Row("rmt"),
    "rmt, prototypes": Row("rmt", prior="prototypes"),
    "rmt, prototypes and replay": Row("rmt", prior="replay"),
    "ecotta, not warmed up": Row("ecotta"),
    "ecotta, warmed up": Row("ecotta", prior="warmed parts"),
    "cotta": Row("cotta"),
    "cotta, no views": Row("cotta", {"augment_below": 0.0}),
    "petal": Row("petal"),
    "petal, source belief": Row("petal", prior="belief"),
    "vida, not warmed up": Row("vida"),
    "vida, warmed up": Row("vida", prior="warmed ranks"),
}


def shuffled(pictures: Pictures, size: int, seed: int) -> Batches:
    """An epoch over the source in another order, every other batch seen from elsewhere."""
    images, labels = next(pictures.batches("images", len(pictures.labels)))
    dice = Dice(seed, images.device)
    order = torch.randperm(len(labels), generator=dice.generator)
    for i, picked in enumerate(order.split(size)):
        yield view(images[picked], dice, 1.0 if i % 2 else 0.0), labels[picked]


def priors(data: Path, batch: int) -> dict[str, Callable[[Classifier], Any]]:
    """What each prior is made by, from the training images."""
    pictures = source(data)
    every = next(pictures.batches("images", len(pictures.labels)))

    def prototypes(net: Classifier) -> Any:  # noqa: ANN401 - each method's own
        return estimate_prototypes(net, pictures.batches("images", batch))

    def epochs(count: int) -> list[Batches]:
        return [shuffled(pictures, 64, seed) for seed in range(count)]

    return {
        "fisher": lambda net: estimate_fisher(net, (images for images, _ in pictures.batches("images", batch, 2000))),
        "prototypes": prototypes,
        "replay": lambda net: replace(prototypes(net), images=every[0], labels=every[1]),
        "belief": lambda net: petal.swag(net, epochs(5)),
        "warmed parts": lambda net: ecotta.warm_up(net, epochs(5)),
        "warmed ranks": lambda net: vida.warm_up(net, epochs(2)),
    }


def run(row: Row, net: Classifier, prior: object, pictures: Pictures, batch: int) -> dict[str, Any]:
    """Errors in percent by corruption, and seconds a batch."""
    adapter = adapters.build(row.method, net, adapters.METHODS[row.method].options(**row.options), prior)
    errors, signals, began = {}, [], time.perf_counter()
    for corruption in CORRUPTIONS:
        wrong = []
        for images, labels in pictures.batches(corruption, batch):
            outcome = adapters.step(adapter, images)
            wrong.append(outcome.logits.argmax(1) != labels)
            signals.append(outcome.signals)
        errors[corruption] = round(100 * float(torch.cat(wrong).double().mean()), 2)
    seconds = (time.perf_counter() - began) / len(signals)
    return {
        "mean_error": round(sum(errors.values()) / len(errors), 2),
        "seconds_per_batch": round(seconds, 3),
        "errors": errors,
        "signals": {name: round(sum(s[name] for s in signals) / len(signals), 4) for name in signals[0]},
    }


def table(rows: Mapping[str, Any]) -> str:
    """The rows so far, as text."""
    lines = [f"{'method':<34}{'error %':>8}{'s/batch':>9}  {'  '.join(name[:5] for name in CORRUPTIONS)}"]
    for label, row in rows.items():
        cells = "  ".join(f"{row['errors'][name]:5.1f}" for name in CORRUPTIONS)
        lines.append(f"{label:<34}{row['mean_error']:>8.2f}{row['seconds_per_batch']:>9.2f}  {cells}")
    return "\n".join(lines)


def main() -> None:
    """Run the rows that are not there yet, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--mixed", action="store_true", help="convolutions in bfloat16")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), help="rows of the table; all where absent")
    parser.add_argument("--out", type=Path, help="JSON file, added to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    made: dict[str, Any] = {"": None}
    makers, pictures = priors(options.data, options.batch), stream(options.data)
    found = json.loads(options.out.read_text()) if options.out and options.out.exists() else {"rows": {}}
    for label in options.rows:
        if label in found["rows"]:
            continue
        row = ROWS[label]
        net = classifier(options.data, options.depth, torch.bfloat16 if options.mixed else None)
        if row.prior not in made:
            print(f"making prior: {row.prior}", flush=True)
            made[row.prior] = makers[row.prior](net)
        result = run(row, net, made[row.prior], pictures, options.batch)
        found["rows"][label] = {**asdict(row), **result}
        print(f"{label:<34}{result['mean_error']:>8.2f} %{result['seconds_per_batch']:>9.2f} s a batch", flush=True)
        found |= {"network": f"ResNet-{options.depth}", "batch": options.batch, "threads": options.threads,
                  "mixed": options.mixed, "torch": torch.__version__, "machine": platform.machine()}  # fmt: skip
        found["rows"] = {name: found["rows"][name] for name in ROWS if name in found["rows"]}
        if options.out:
            options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found["rows"]))


if __name__ == "__main__":
    main()
