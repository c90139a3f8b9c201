"""`tta-daemon prepare`: everything anyone will need to know of the source, in one file, before deployment.

Every piece of work is kept beside the output until all is done, so that an interrupted run goes on where it was. The
same data, model and settings give the same bytes.
"""

import hashlib
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor

import adapters
from adapters.parts.norms import Statistics
from adapters.parts.unfolded import estimate, unfold
from tta_daemon import __version__
from tta_daemon.control.config import Config
from tta_daemon.errors import ConfigError
from tta_daemon.model.load import Deployed
from tta_daemon.model.load import load as load_model
from tta_daemon.offline.priors import make
from tta_daemon.offline.shifts import shifted, turned
from tta_daemon.offline.source_images import SourceImages, read
from tta_daemon.watch.drift.null import Null, null_of, sizes_between
from tta_daemon.watch.drift.profile import Profile, profile_of
from tta_daemon.watch.estimates import Calibration, Estimator, aetta, calibrate, inputs
from tta_daemon.watch.knowledge import Knowledge, Manifest, to_bytes
from tta_daemon.watch.lines import Line, fit_line
from tta_daemon.watch.tallies import Tallies, shares_of
from tta_daemon.watch.view import Head, HeadTap, Probe, SourceView

WINDOW = 1024
CHUNK = 512
"""Images in a piece of work."""

UNSEEN = (0.15, 0.1, 0.25)
"""How far images are turned and zoomed so that a network sees them as those it was not trained on: the first is what
the source is taken to look like, the others how sure of that we are."""

DOUBTFUL = 2048
"""Images looked at under the others."""

SHIFTS, SHIFTED = 48, 256
"""Synthetic shifts, and images of each."""

CANARIES = 256

Piece = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be prepared, and how.

    Attributes:
        held_out: whether the model was never trained on these images. Where it was, its confidence in them is
            inflated; entropy, features and confidence are then taken from images turned a little.
        methods: whose priors to make.
        folded: what was found out of norms that were folded into convolutions; the deployed model has them again.
    """

    config: Config
    deployed: Deployed
    source: SourceImages
    held_out: bool
    methods: tuple[str, ...]
    window: int = WINDOW
    seed: int = 0
    folded: Mapping[str, Statistics] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Images in a production batch."""
        return self.config.batch.size

    def digest(self) -> str:
        """Of everything that the result depends on."""
        what = (self.deployed.digest, self.source.digest, self.held_out, self.methods, self.config.adapt.method)
        how = (self.batch, self.window, self.seed, self.config.adapt.chosen(), __version__, torch.__version__)
        return hashlib.sha256(repr((what, how)).encode()).hexdigest()[:12]


def named(methods: str) -> tuple[str, ...]:
    """Methods named with commas between; ``all`` is every method that has a prior.

    Raises:
        ConfigError: one of them is none.
    """
    known = tuple(name for name, method in adapters.METHODS.items() if method.prior is not None)
    if methods == "all":
        return known
    wanted = tuple(name.strip() for name in methods.split(",") if name.strip())
    for name in wanted:
        if name not in known:
            raise ConfigError("--methods", f"{name!r} has no prior", f"there are: {', '.join(known)}, and all")
    return wanted


def run(  # noqa: PLR0913 - what a person may say on the command line
    config: Config,
    source: Path,
    output: Path,
    *,
    labels: bool = True,
    held_out: bool = False,
    methods: tuple[str, ...] = (),
    window: int = WINDOW,
    quiet: bool = False,
) -> Knowledge:
    """Prepare, and write the prior to ``output``.

    Args:
        config: names the model, the method and the batch size.
        source: an .npz file, or a folder of one folder a class.
        output: the file to write.
        labels: whether to use the labels that come with the images.
        held_out: whether the model was not trained on these images.
        methods: whose priors to make; that of ``adapt.method``, eata's and rmt's where absent.
        window: images over which drift and accuracy will be watched.
        quiet: whether to show no progress bar.

    Raises:
        ConfigError: the model or the data are not what they should be.
    """
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    deployed = load_model(config.model.model_copy(update={"prior": None}))
    images = read(source, deployed.size, deployed.labels, labeled=labels)
    folded = estimate(deployed.classifier, in_batches(images, deployed, config.batch.size))
    unfold(deployed.classifier.network, folded)
    wanted = methods or tuple(sorted({config.adapt.method, "eata", "rmt"}))
    task = Task(config, deployed, images, held_out, wanted, max(window, config.batch.size), config.adapt.seed, folded)
    kept = output.with_name(f"{output.name}.{task.digest()}.partial")
    command = f"tta-daemon prepare --source {source.name}" + " --held-out" * held_out + " --no-labels" * (not labels)
    with _bar(quiet=quiet) as bar:
        knowledge = _Preparing(task, kept, bar).knowledge(command)
    _write(output, to_bytes(knowledge))
    shutil.rmtree(kept, ignore_errors=True)
    return knowledge


class _Preparing:
    """The pieces of work, each done once and kept."""

    def __init__(self, task: Task, kept: Path, bar: Progress) -> None:
        self._task, self._kept, self._bar = task, kept, bar
        self._probe = Probe(task.deployed.classifier)
        self._device = task.deployed.classifier.mean.device
        kept.mkdir(parents=True, exist_ok=True)
        self._line = bar.add_task("preparing", total=self._pieces())

    def knowledge(self, command: str) -> Knowledge:
        task = self._task
        versions = {"tta-daemon": __version__, "torch": torch.__version__, "numpy": np.__version__,
                    "python": platform.python_version()}  # fmt: skip
        manifest = Manifest(
            task.deployed.digest, task.source.digest, len(task.source), task.deployed.num_classes,
            task.source.labels is not None, task.held_out, task.config.adapt.method, task.batch, task.window, task.seed,
            command, versions,
        )  # fmt: skip
        view = self._view("source", None, len(task.source))
        unseen = () if task.held_out else tuple(
            self._view(f"unseen{i}", strength, len(task.source) if i == 0 else min(DOUBTFUL, len(task.source)))
            for i, strength in enumerate(UNSEEN)
        )  # fmt: skip
        profile = profile_of(view, self._probe.depth, task.seed, unseen[0] if unseen else None)
        null = self._null(profile, view, unseen, manifest.block)
        calibration = self._calibration(unseen[0] if unseen else view)
        priors = {method: prior for method in task.methods if (prior := self._prior(method)) is not None}
        return Knowledge(manifest, profile, null, calibration, self._canary(), priors, task.folded)

    def _pieces(self) -> int:
        chunks = -(-len(self._task.source) // CHUNK)
        doubtful = -(-min(DOUBTFUL, len(self._task.source)) // CHUNK)
        views = chunks if self._task.held_out else 2 * chunks + (len(UNSEEN) - 1) * doubtful
        return views + SHIFTS * (self._task.source.labels is not None) + len(self._task.methods) + 1

    def _once(self, name: str, work: Callable[[], Piece]) -> Piece:
        """A piece of work from an earlier run, or done now and kept."""
        file = self._kept / f"{name}.safetensors"
        if not file.exists():
            unfinished = file.with_suffix(".unfinished")
            save_file({key: t.contiguous() for key, t in work().items()}, unfinished)
            unfinished.replace(file)
        self._bar.advance(self._line)
        return load_file(file)

    def _view(self, name: str, turn: float | None, images: int) -> SourceView:
        def look(start: int) -> Piece:
            pictures = self._task.source.floats(slice(start, min(images, start + CHUNK)))
            if turn is not None:
                pictures = turned(pictures, turn, torch.Generator().manual_seed(self._task.seed + start))
            looks = [self._probe(part.to(self._device)) for part in torch.split(pictures, self._task.batch)]
            return {part: torch.cat([getattr(v, part) for v in looks]).cpu() for part in SourceView.__slots__}

        pieces = [self._once(f"{name}-{start}", lambda start=start: look(start)) for start in range(0, images, CHUNK)]  # type: ignore[misc]
        return SourceView(**{part: torch.cat([piece[part] for piece in pieces]) for part in SourceView.__slots__})

    def _null(self, profile: Profile, view: SourceView, unseen: tuple[SourceView, ...], block: int) -> Null:
        worlds = [(profile.residuals(view), view.logits.argmax(1))]
        for turned_view in unseen:
            count, moments = len(turned_view), view.moments.size(1)
            still = SourceView(view.logits[:count], view.features[:count], view.moments[:count])
            residuals = profile.residuals(turned_view)
            residuals[:, :moments] = profile.residuals(still)[:, :moments]
            worlds.append((residuals, still.logits.argmax(1)))
        null = null_of(profile, worlds, sizes_between(block, self._task.window), seed=self._task.seed)
        self._bar.advance(self._line)
        return null

    def _calibration(self, view: SourceView) -> Calibration:
        labels = self._task.source.labels
        if labels is None:
            return calibrate(view.logits, None, {}, 0.0)
        rough = calibrate(view.logits, labels, {}, 0.0)
        taught = [self._once(f"shift-{number}", lambda n=number: self._shift(n, rough)) for number in range(SHIFTS)]  # type: ignore[misc]
        lines, error = lines_of(taught, self._task.deployed.num_classes)
        return calibrate(view.logits, labels, lines, error)

    def _shift(self, number: int, rough: Calibration) -> Piece:
        """One synthetic shift of some source images: what the estimators see of it, and the truth."""
        task = self._task
        assert task.source.labels is not None  # noqa: S101 - only asked for with labels
        dice = torch.Generator().manual_seed(1000 * task.seed + number)
        picked = torch.randperm(len(task.source), generator=dice)[:SHIFTED]
        pictures, labels = task.source.floats(picked), task.source.labels[picked]
        if number % 12:
            pictures = shifted(pictures, dice)
        adapter = adapters.build(task.config.adapt.method, task.deployed.classifier, task.config.adapt.chosen())
        tallies = Tallies(rough.threshold, rough.edges, task.deployed.num_classes, task.batch, task.window)
        return lesson(self._probe, adapter, tallies, pictures, labels, task.batch)

    def _prior(self, method: str) -> object | None:
        task = self._task
        kind = adapters.METHODS[method].prior
        if kind is None or adapters.unmet(method, task.deployed.classifier):
            self._bar.advance(self._line)
            return None
        options = task.config.adapt.chosen() if method == task.config.adapt.method else None
        made = make(method, task.deployed.classifier, task.source, task.batch, options, task.seed)
        if made is None:
            self._bar.advance(self._line)
            return None
        try:
            prior: object = kind(**self._once(f"method-{method}", made))
        except ValueError as fault:
            raise ConfigError("--source", f"{method}: {fault}", "give more images, or leave the method out") from fault
        return prior

    def _canary(self) -> tuple[Tensor, Tensor] | None:
        labels = self._task.source.labels
        if labels is None:
            return None
        dice = torch.Generator().manual_seed(self._task.seed)
        picked = torch.randperm(len(labels), generator=dice)[:CANARIES].sort().values
        return self._task.source.pixels[picked], labels[picked]


def in_batches(source: SourceImages, deployed: Deployed, size: int) -> Iterator[Tensor]:
    """All source images where the model is, so many at a time."""
    for start in range(0, len(source), size):
        yield source.floats(slice(start, start + size)).to(deployed.classifier.mean.device)


def lesson(  # noqa: PLR0913, PLR0917 - who answers, what is counted, and what is asked
    probe: Probe, adapter: adapters.Adapter, tallies: Tallies, pictures: Tensor, labels: Tensor, batch: int
) -> Piece:
    """What estimators see of some pictures, and the accuracies of the source and of the adapter on them."""
    tap, sums, right = HeadTap(), torch.zeros(()), torch.zeros(2, dtype=torch.float64)
    for part, truth in zip(torch.split(pictures, batch), torch.split(labels, batch), strict=True):
        on_device = part.to(probe.classifier.mean.device)
        view = probe(on_device)
        with tap.on(adapter):
            said = adapter.predict(on_device)
        sums = sums + tallies.sums(_on_cpu(view), said.float().cpu(), _head_on_cpu(tap.behind(said)))
        right += torch.tensor([float((a.argmax(1).cpu() == truth).sum()) for a in (view.logits, said)])
    return {"sums": sums, "right": right / len(labels)}


def lines_of(taught: list[Piece], classes: int) -> tuple[Mapping[str, Line], float]:
    """The lines that read accuracies off shares, fitted on shifts; and the error of AETTA on them."""
    shares = [shares_of(piece["sums"]) for piece in taught]
    source, adapted = torch.stack([piece["right"] for piece in taught]).double().unbind(1)
    heads = all(share["heads"] for share in shares)
    lines: dict[str, Line] = {}
    if min(share["agreement"] for share in shares) < 0.99:  # noqa: PLR2004 - else the method answers as the source does
        for model, accuracy in (("source", source), ("adapted", adapted)):
            lines[f"{Estimator.AGREEMENT}/{model}"] = _line(Estimator.AGREEMENT, shares, accuracy)
        if heads:
            lines[f"{Estimator.COMBINED}/adapted"] = _line(Estimator.COMBINED, shares, adapted)
    guessed = torch.tensor([aetta(share, classes) for share in shares], dtype=torch.float64)
    return lines, float((guessed - adapted).square().mean().sqrt()) if heads else 0.0


def _line(estimator: Estimator, shares: list[dict[str, float]], accuracy: Tensor) -> Line:
    return fit_line(torch.tensor([inputs(estimator, share) for share in shares], dtype=torch.float64), accuracy)


def _on_cpu(view: SourceView) -> SourceView:
    return SourceView(view.logits.cpu(), view.features.cpu(), view.moments.cpu())


def _head_on_cpu(head: Head | None) -> Head | None:
    if head is None:
        return None
    return Head(head.features.cpu(), head.weight.cpu(), None if head.bias is None else head.bias.cpu())


def _bar(*, quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, disable=quiet)


def _write(output: Path, content: bytes) -> None:
    unfinished = output.with_name(f"{output.name}.unfinished")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(output)
    except OSError as fault:
        raise ConfigError(
            "--output", f"cannot write {output}: {fault.strerror}", "is there room, and may we?"
        ) from fault
