"""Steps of one method for a sampling profiler to look at, and a flame graph of what it saw inside them.

py-spy record --format raw --output out/cotta.txt -- python benchmarks/flame.py steps cotta resnet20
python benchmarks/flame.py draw out/cotta.txt docs/flame-cotta.svg
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import torch

WIDTH, ROW, LEAST = 1200, 17, 2.5
INSIDE = ".adapt (adapters/"
"""The frame below which a step is learned and answered; what torch puts between modules is left out."""

LEFT_OUT = ("_wrapped_call_impl", "_call_impl", "decorate_context", "_bootstrap", "<locals>")


@dataclass
class Frame:
    """A function, how often it was seen, and what it called."""

    seen: int = 0
    calls: dict[str, "Frame"] = field(default_factory=dict)


def grown(stacks: str) -> Frame:
    """The tree of all stacks inside steps."""
    root = Frame()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.rpartition(":")[0] + ")" if ":" in frame else frame for frame in stack.split(";")]
        start = next((i for i, frame in enumerate(frames) if INSIDE in frame), None)
        if start is None:
            continue
        at = root
        at.seen += int(count)
        for frame in frames[start:]:
            if not any(name in frame for name in LEFT_OUT):
                at = at.calls.setdefault(frame, Frame())
                at.seen += int(count)
    return root


def boxes(frame: Frame, x: float, depth: int, scale: float) -> Iterator[tuple[float, int, float, str, int]]:
    """Left edge, row, width, name and count of everything wide enough to see."""
    for name, call in sorted(frame.calls.items(), key=lambda pair: -pair[1].seen):
        if call.seen * scale >= LEAST:
            yield x, depth, call.seen * scale, name, call.seen
            yield from boxes(call, x, depth + 1, scale)
        x += call.seen * scale


def drawing(root: Frame) -> str:
    """The flame graph as SVG: below each function what it called, as wide as the time it took."""
    found = list(boxes(root, 0.0, 0, WIDTH / root.seen))
    height = (max(depth for _, depth, *_ in found) + 1) * ROW + 2
    view = f'viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="11"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {view}>', '<rect width="100%" height="100%" fill="#fff"/>']
    for x, depth, width, name, count in found:
        shade = 45 + 40 * (depth % 2)
        words = escape(name.replace("torch/nn/", "").replace("site-packages/", ""))
        shown = words if len(name) * 6.7 < width else escape(name[: max(0, int(width / 6.7) - 1)])
        parts.append(
            f'<g><title>{words}: {100 * count / root.seen:.1f} %</title><rect x="{x:.1f}" y="{depth * ROW}" '
            f'width="{width:.1f}" height="{ROW - 1}" fill="hsl({shade},80%,68%)"/>'
            f'<text x="{x + 3:.1f}" y="{depth * ROW + 12}">{shown}</text></g>'
        )
    return "\n".join([*parts, "</svg>\n"])


def steps(options: argparse.Namespace) -> None:
    """Answer and learn so many times."""
    import contestants  # noqa: PLC0415 - not for drawing

    torch.set_num_threads(options.threads)
    place = contestants.ground(options.network, options.data, options.batch)
    step = contestants.ours(options.method, place)
    for turn in range(options.steps):
        step(place.batches[turn % len(place.batches)])


def main() -> None:
    """Either."""
    from development import add_arguments  # noqa: PLC0415 - finds the data, which drawing does not need

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(required=True)
    running = ways.add_parser("steps")
    running.add_argument("method")
    running.add_argument("network")
    add_arguments(running)
    running.add_argument("--batch", type=int, default=200)
    running.add_argument("--steps", type=int, default=3)
    running.set_defaults(do=steps)
    showing = ways.add_parser("draw")
    showing.add_argument("stacks", type=Path)
    showing.add_argument("out", type=Path)
    showing.set_defaults(do=lambda o: o.out.write_text(drawing(grown(o.stacks.read_text()))))
    options = parser.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
