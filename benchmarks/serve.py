"""Who answers: the method in torch, or ONNX Runtime by what torch has learned; and what is published, how far behind.

    python benchmarks/serve.py --out benchmarks/results/serve.json

The continual stream of corruptions, never reset, through the daemon's own learner without a guard. Both learn from the
same share of batches; their batches take turns, so that whatever else the machine does meets both alike. The third is a
service that answers each image by itself, by the tensors published after every batch that was learned from, and so by
the statistics of that batch. Time is the processor's, so that waiting for it does not count.
"""

import argparse
import json
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from development import CORRUPTIONS, add_arguments, classifier, stream
from torch import Tensor

from tta_daemon.control.sections import Adapt, Guard
from tta_daemon.learner import Learner
from tta_daemon.model import graph
from tta_daemon.model.load import Deployed
from tta_daemon.model.runtime import Runtime
from tta_daemon.model.wanted import Wanted

LABELS = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass
class Kept:
    """Errors and seconds of one contender."""

    wrong: int = 0
    images: int = 0
    answering: float = 0.0
    learning: float = 0.0
    by_corruption: dict[str, int] = field(default_factory=dict)

    def saw(self, corruption: str, logits: Tensor, labels: Tensor) -> None:
        """Score a batch."""
        wrong = int((logits.argmax(1) != labels).sum())
        self.wrong, self.images = self.wrong + wrong, self.images + len(labels)
        self.by_corruption[corruption] = self.by_corruption.get(corruption, 0) + wrong

    def row(self) -> dict[str, float]:
        """For the table."""
        spent = self.answering + self.learning
        return {
            "error": round(100 * self.wrong / self.images, 2),
            "answering_ms_per_image": round(1000 * self.answering / self.images, 3),
            "images_per_second": round(self.images / spent, 1) if spent else 0.0,
        }


class Published:
    """A service that answers by what was last published."""

    def __init__(self, deployed: Deployed, learner: Learner) -> None:
        looked = graph.Answers(deployed.classifier)
        self.answerer = learner.adapter.answerer()
        assert self.answerer is not None  # noqa: S101 - the methods that are measured have one
        model = graph.traced(looked, looked.outputs, deployed.size)
        self.runtime = Runtime(model, deployed.wanted, self.answerer.moving())

    def learned(self, images: Tensor) -> None:
        """Publish."""
        self.runtime.take({**self.answerer.tensors(), **self.answerer.seen(images)})


def run(options: argparse.Namespace, method: str, every: int) -> dict[str, Any]:
    """One method at one learn share, both ways and as published."""
    net = classifier(options.data, options.depth)
    deployed = Deployed(net, LABELS, "", "net", (32, 32), wanted=Wanted("cpu", options.threads))
    learners = {
        serve: Learner(deployed, Adapt(method=method, serve=serve, every=every), 0.0, Guard(mode="off"))
        for serve in ("method", "runtime")
    }
    published = Published(deployed, learners["runtime"])
    kept = {name: Kept() for name in (*learners, "published")}
    pictures = stream(options.data)
    for corruption in CORRUPTIONS:
        for images, labels in pictures.batches(corruption, options.batch, options.images):
            kept["published"].saw(corruption, published.runtime(images)[0], labels)
            for serve, learner in learners.items():
                began = time.process_time()
                answered = learner.answer(images)
                gone = time.process_time()
                answered.learn()
                kept[serve].answering += gone - began
                kept[serve].learning += time.process_time() - gone
                kept[serve].saw(corruption, answered.logits, labels)
            if answered.hold is None:
                published.learned(images)
    rows = {name: one.row() for name, one in kept.items()}
    del rows["published"]["images_per_second"], rows["published"]["answering_ms_per_image"]
    return {"adapts": method, "learn_share": f"1/{every}" if every > 1 else "1", **rows}


def main() -> None:
    """Run every method at every learn share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=1000, help="images of each corruption")
    parser.add_argument("--methods", default="tent,rotta", help="with commas")
    parser.add_argument("--every", default="1,4,10", help="learn from every n-th batch, with commas")
    parser.add_argument("--out", type=Path, help="JSON file, added to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = json.loads(options.out.read_text()) if options.out and options.out.exists() else {"rows": []}
    found |= {"network": f"ResNet-{options.depth}", "batch": options.batch, "images": options.images,
              "threads": options.threads, "torch": torch.__version__, "machine": platform.machine()}  # fmt: skip
    for method in options.methods.split(","):
        for every in map(int, options.every.split(",")):
            row = run(options, method, every)
            found["rows"].append(row)
            print(json.dumps(row), flush=True)
            if options.out:
                options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
