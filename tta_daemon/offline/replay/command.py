"""What `tta-daemon replay` does: read, lay out, send through every method, show."""

import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tta_daemon import __version__
from tta_daemon.control import logs
from tta_daemon.control.config import Config
from tta_daemon.control.sections import Log
from tta_daemon.daemon import decoder_of
from tta_daemon.errors import ConfigError, RecordRejected
from tta_daemon.model.load import Deployed, load
from tta_daemon.offline.replay import corruptions, orders, report, table
from tta_daemon.offline.replay.orders import Plan
from tta_daemon.offline.replay.results import Results, judged
from tta_daemon.offline.replay.run import Run, run
from tta_daemon.offline.replay.streams import Stream, read
from tta_daemon.offline.replay.values import Pixels, Value
from tta_daemon.offline.replay.wishes import ALL, configurations, fitting
from tta_daemon.stream.records import Partition, Position, Record

NOWHERE = Position(Partition("replay", 0), 0)


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for."""

    stream: Path
    config: Path
    methods: str = ""
    settings: Sequence[str] = ()
    order: str = "continual"
    corrupt: str = ""
    severity: str = "5"
    limit: int = 0
    seed: int = 0
    json: Path | None = None
    report: Path | None = None


def run_request(asked: Request, out: Console | None = None, err: Console | None = None) -> Results:
    """Replay, print the tables, write the files; what came of it.

    Raises:
        ConfigError: something asked for cannot be done.
    """
    out, err = out or Console(), err or Console(stderr=True)
    logs.configure(Log(level="warning"), sys.stderr)
    for file in (asked.json, asked.report):
        if file is not None and not file.absolute().parent.is_dir():
            raise ConfigError(str(file), "its folder does not exist", "make the folder first")
    order = orders.parse(asked.order)
    configs = configurations(asked.config, asked.methods, asked.settings)
    config = next(iter(configs.values()))
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    deployed = load(config.model)
    configs, left_out = fitting(configs, deployed, strict=asked.methods != ALL)
    with _progress(err) as progress:
        stream = prepared(asked, config, deployed)
        plan = orders.plan(stream, order, asked.seed, gap_s=2 * config.batch.patience_s + 1)
        _make(stream, plan, progress)
        runs = list(_runs(configs, deployed, stream, plan, progress))
    options = [asdict(c.adapt.chosen()) for c in configs.values()]
    results = judged(runs, options[: len(runs)], stream, plan, about(asked, config, deployed, plan, left_out))
    _show(asked, results, out)
    return results


def prepared(asked: Request, config: Config, deployed: Deployed) -> Stream:
    """The stream as it will be sent: read, cut down, corrupted; its first image decodes."""
    stream = read(asked.stream, deployed.labels)
    if asked.limit:
        stream = stream.limited(asked.limit, asked.seed)
    decoder = decoder_of(config, deployed.size)

    def pixels(value: Value) -> Pixels:
        record = Record(NOWHERE, None, value.data, (("content-type", value.kind.encode()),))
        try:
            return np.ascontiguousarray(decoder.decode(record).images[0].transpose(1, 2, 0)).astype(
                np.uint8, copy=False
            )
        except RecordRejected as fault:
            remedy = 'input.resize = "crop" makes images of any size fit' if fault.reason == "wrong_shape" else ""
            raise ConfigError(str(asked.stream), f"an image is rejected: {fault.message}", remedy) from fault

    pixels(stream.values[0])
    if asked.corrupt:
        kinds, severities = corruptions.chosen(asked.corrupt), corruptions.strengths(asked.severity)
        stream = corruptions.corrupted(stream, kinds, severities, pixels, deployed.size, asked.seed)
    return stream


def about(asked: Request, config: Config, deployed: Deployed, plan: Plan, left_out: Sequence[str]) -> Mapping[str, Any]:
    """Of what the results are: enough to get them again."""
    where = torch.cuda.get_device_name() if config.model.device.startswith("cuda") else _processor()
    facts = {
        "Stream": asked.stream.name,
        "Order": f"{asked.order}, seed {asked.seed}"
        + (f", at most {asked.limit} images a domain" if asked.limit else ""),
        "Corruptions": f"{asked.corrupt}, severity {asked.severity}" if asked.corrupt else "as in the stream",
        "Model": f"{deployed.name}, {deployed.num_classes} classes, weights {deployed.digest[:12]}",
        "Batches": f"{config.batch.size} images; learned from {config.adapt.learn_from} images on",
        "Learning": f"{config.adapt.when}, every {config.adapt.every}, budget {config.adapt.budget:g}",
        "Set": ", ".join(asked.settings) or "nothing beside the file",
        "Left out": " ".join(left_out) or "no method",
        "Machine": f"{where}, {config.model.device}, {torch.get_num_threads()} threads",
        "Versions": f"tta-daemon {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }
    return {
        "stream": asked.stream.stem,
        "model": deployed.name,
        "digest": deployed.digest,
        "images": len(plan),
        "order": asked.order,
        "batch_size": config.batch.size,
        "learn_from": config.adapt.learn_from,
        "seed": asked.seed,
        "began": time.strftime("%Y-%m-%d %H:%M"),
        "facts": facts,
    }


def _runs(
    configs: Mapping[str, Config], deployed: Deployed, stream: Stream, plan: Plan, progress: Progress
) -> Iterator[Run]:
    """One run after the other; Ctrl-C ends them, and those that are complete count."""
    width = max(map(len, configs))
    for number, (name, config) in enumerate(configs.items(), start=1):
        words = f"{name:<{width}} ({number} of {len(configs)})"
        try:
            yield run(config, deployed, stream, plan, _bar(progress, words, len(plan)))
        except KeyboardInterrupt:
            if number == 1:
                raise
            return


def _make(stream: Stream, plan: Plan, progress: Progress) -> None:
    """Corrupt what the plan needs before the first method begins, so that no method pays for it."""
    if isinstance(stream.values, corruptions.Corrupted):
        wanted = np.unique(plan.images)
        told = _bar(progress, "corrupting", len(wanted))
        for image in wanted:
            stream.values.make(int(image))
            told(1)


def _bar(progress: Progress, words: str, total: int) -> Callable[[int], None]:
    task = progress.add_task(words, total=total)
    return lambda images: progress.advance(task, images)


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        yield progress


def _show(asked: Request, results: Results, out: Console) -> None:
    out.print(table.tables(results, out))
    if asked.json is not None:
        asked.json.write_text(results.text(), encoding="utf-8")
        out.print(f"numbers: {asked.json}")
    if asked.report is not None:
        asked.report.write_text(report.page(results), encoding="utf-8")
        out.print(f"report: {asked.report}")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
