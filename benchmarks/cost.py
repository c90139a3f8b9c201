"""What a batch costs by every method, against a plain forward and against the same method written naively.

    python benchmarks/cost.py resnet20 --out benchmarks/results/cost-resnet20.json

All contestants take turns on the same batches in one process, so that whatever else the machine does meets all of them
alike. A turn is counted in seconds of processor time, which other processes do not lengthen; the fastest turn counts.
Memory is measured in a process of its own for each.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import contestants
import peak
import torch
from contestants import METHODS, Contestant, Ground
from development import add_arguments
from naive import NAIVE

SIZES = {"resnet20": 200, "resnet56": 200, "lite0": 32}
MEASURED = ("norm", "tent", "rmt", "cotta", "ecotta")
"""Methods whose memory is measured: one of each kind."""

FORKED = ("norm", "tent", "rpl", "eata", "sar", "roid")
"""Methods of one network."""

HALF = ", bfloat16"
"""What the name of a contestant in mixed precision ends with."""

SIDES = {"ours": "", "half": HALF, "naive": ", naive"}
"""How a method is run, and what its name then ends with."""

PATIENCE_S = 4.0
FEW = 2
"""A contestant whose turn takes longer has only so few."""


def entrants(place: Ground, methods: list[str], *, compiled: bool) -> dict[str, Contestant]:
    """Everyone by name."""
    half = contestants.halved(place)
    found = {f"frozen, {name}": contestant for name, contestant in contestants.frozen(place).items()}
    for method in methods:
        found[method] = contestants.ours(method, place)
        found[method + HALF] = contestants.ours(method, half)
        if compiled and method in FORKED:
            found[f"{method}, compiled"] = contestants.compiled(method, place)
        if method in NAIVE:
            found[f"{method}, naive"] = contestants.naive(method, place)
    if "tent" in methods:
        found |= contestants.learners(place, "tent")
        found |= {name + HALF: learner for name, learner in contestants.learners(half, "tent").items()}
    return found


def compete(everyone: Mapping[str, Contestant], place: Ground, rounds: int) -> dict[str, dict[str, float]]:
    """The fastest turn of each, in seconds of processor and of wall time."""
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in everyone}
    for turn in range(rounds):
        for name, contestant in everyone.items():
            if turn >= FEW and turns[name][0][0] > PATIENCE_S:
                continue
            spent, wall = time.process_time(), time.perf_counter()
            contestant(place.batches[turn % len(place.batches)])
            turns[name].append((time.process_time() - spent, time.perf_counter() - wall))
        print(f"round {turn + 1} of {rounds}", end="\r", flush=True)
    return {
        name: {
            "seconds": min(spent for spent, _ in took),
            "median_s": sorted(spent for spent, _ in took)[len(took) // 2],
            "wall_s": min(wall for _, wall in took),
            "turns": len(took),
        }
        for name, took in turns.items()
    }


def remembered(name: str, data: Path, size: int, method: str, side: str) -> tuple[float, float]:
    """Memory of a step, tensors and process, in this process."""
    torch.set_num_threads(1)
    place = contestants.ground(name, data, size)
    if side == "naive":
        step = contestants.naive(method, place)
    else:
        step = contestants.ours(method, place if side == "ours" else contestants.halved(place))
    step(place.batches[0])
    return peak.process(step, place.batches[1]), peak.tensors(step, place.batches[2])


def apart(work: Callable[..., Any], *given: object) -> Any:  # noqa: ANN401 - whatever the work gives
    """Do it in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Seconds, and how many forwards of the frozen network they are."""
    units = [rows[f"frozen, torch{laid}"]["seconds"] for laid in ("", ", channels last", HALF)]
    titles = ("s/batch", "x torch", "x ch.last", "x bf16", "naive/ours", "tensors", "process")
    lines = [f"{'':<48}{''.join(f'{title:>11}' for title in titles)}"]
    for name, row in rows.items():
        if "seconds" not in row:
            continue
        spent = row["seconds"]
        rival = rows.get(f"{name}, naive", {}).get("seconds", 0.0) / spent
        memory = "".join(f"{row[key]:>11.0f}" if key in row else f"{'':>11}" for key in ("tensors_mib", "process_mib"))
        against = f"{rival:>11.2f}" if rival else f"{'':>11}"
        forwards = "".join(f"{spent / unit:>11.2f}" for unit in units)
        lines.append(f"{name:<48}{spent:>11.3f}{forwards}{against}{memory}")
    return "\n".join(lines)


def main() -> None:
    """Compete, remember, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(SIZES))
    add_arguments(parser)
    parser.add_argument("--batch", type=int, help="images in a batch; 200, of 224 pixels 32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument(
        "--memory", nargs="*", default=["norm", "tent", "rmt", "cotta", "ecotta"], help="of which methods"
    )
    parser.add_argument("--compiled", action="store_true", help="with torch.compile as well")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = options.batch or SIZES[options.network]
    place = contestants.ground(options.network, options.data, size)
    rows = compete(entrants(place, options.methods, compiled=options.compiled), place, options.rounds)
    for method in options.memory:
        for side, name in SIDES.items():
            if side == "naive" and method not in NAIVE:
                continue
            process, tensors = apart(remembered, options.network, options.data, size, method, side)
            row = rows.setdefault(method + name, {})
            row |= {"process_mib": process, "tensors_mib": tensors}
            print(f"{method}, {side}: {tensors:.0f} MiB of tensors, the process grows by {process:.0f} MiB", flush=True)
    print(table(rows))
    if options.out:
        about = {"network": options.network, "batch": list(place.batches[0].shape), "threads": options.threads,
                 "rounds": options.rounds, "torch": torch.__version__, "cores": os.cpu_count(),
                 "allocator": Path(os.environ.get("LD_PRELOAD", "")).name, "load": os.getloadavg()}  # fmt: skip
        options.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
