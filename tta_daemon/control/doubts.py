"""What a configuration may well mean and mostly does not: said by ``tta-daemon check``, and never refused."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adapters import METHODS
from tta_daemon.control.faults import Fault

if TYPE_CHECKING:
    from tta_daemon.control.sections import Config

EACH = {"none": "the stream", "partition": "a partition", "key": "a key"}


def doubts(config: "Config") -> Iterator[Fault]:
    """Every one of them."""
    adapt, streams = config.adapt, config.streams
    if adapt.method != "source" and adapt.when != "never":
        yield from _never_learns(config)
        yield _rate(config)
    if config.guard.mode == "off" and adapt.method != "source":
        yield Fault(
            "guard.mode", '"off": nothing notices where adapting does harm', 'say "guarded", or "observe" first'
        )
    if streams.by != "none" and config.checkpoint.kind == "none":
        message = f'checkpoint.kind is "none": beyond {streams.max_resident} streams the longest unseen is forgotten'
        yield Fault("streams.max_resident", message, 'say checkpoint.kind = "kafka" or "file", or raise it')
    if config.input.resize == "refuse":
        size = " x ".join(map(str, config.model.input_size))
        message = f'"refuse": pictures that are not {size} go to the dead letters'
        yield Fault("input.resize", message, 'say "crop" or "stretch" if others come')


def _never_learns(config: "Config") -> Iterator[Fault]:
    adapt = config.adapt
    if adapt.budget == 0.0:
        yield Fault("adapt.budget", "0: nothing is ever learned", 'raise it, or say adapt.when = "never"')
    if getattr(adapt.chosen(), "lr", None) == 0.0:
        yield Fault("adapt.options.lr", "0: no step changes anything", "leave it out for the method's own")
    smallest = METHODS[adapt.method].needs.smallest_batch
    if config.batch.size < smallest:
        message = f"{adapt.method} learns from {smallest} images or more: here only from records that hold as many"
        yield Fault("batch.size", message, f"at least {smallest}")


def _rate(config: "Config") -> Fault:
    """From how many images a second on anything is learned."""
    adapt, wait_s, because = config.adapt, config.batch.patience_s, "batch.patience_s"
    if config.kafka.delivery == "exactly_once" and 2 * config.settle.every_s < wait_s:
        wait_s, because = 2 * config.settle.every_s, "twice settle.every_s, with exactly_once"
    fewest = max(adapt.learn_from, METHODS[adapt.method].needs.smallest_batch)
    each = EACH[config.streams.by]
    if not wait_s:
        message = f"a batch waits for nobody ({because} is 0), and is learned from if it has {fewest} images"
    else:
        message = (
            f"{each} is learned from while it brings {fewest / wait_s:,.3g} images a second or more: "
            f"a batch waits {wait_s:g} s ({because}) and needs {fewest}"
        )
    return Fault("adapt.learn_from", message, f"where {each} brings fewer, let batches wait longer or need less")
