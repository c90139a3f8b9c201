"""One method over one stream, through the daemon's own loop, batcher and learner, on a log in memory."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from tta_daemon.answered import Answered
from tta_daemon.assemble import labels_of
from tta_daemon.control.config import Config
from tta_daemon.control.web.board import Board
from tta_daemon.daemon import Daemon, World
from tta_daemon.learner import Learner
from tta_daemon.model.load import Deployed
from tta_daemon.offline.replay.memory import Peak
from tta_daemon.offline.replay.orders import Plan
from tta_daemon.offline.replay.reel import Clock, Reel
from tta_daemon.offline.replay.scores import Sheet
from tta_daemon.offline.replay.streams import Stream
from tta_daemon.offline.replay.tape import See, Tape
from tta_daemon.offline.replay.values import Indices
from tta_daemon.stream.memory_log import MemoryLog, MemorySink
from tta_daemon.stream.records import Batch, Record

SHORTEST_PATIENCE_S = 1e-3
"""Whoever waits for nobody gets whatever the poll brought; a replay fills its batches, as a stream under load does."""

LETTERS_KEPT = 100


@dataclass(frozen=True)
class Run:
    """What came of one method.

    Attributes:
        method: its name.
        sheet: what was answered to each step of the plan.
        batches, learned_from: how many there were, and how many of them taught.
        held, rewound, rejected: how often, by reason.
        served: images by who answered them: source, adapted, mixed or blend.
        signals: the method's own signals, averaged over its steps.
        seconds: of wall time in each phase of the loop, and in all (``total``).
        peak_mib: memory above what was taken before; None where the system does not say.
        letters: the first dead letters.
    """

    method: str
    sheet: Sheet
    batches: int
    learned_from: int
    held: Mapping[str, int]
    rewound: Mapping[str, int]
    served: Mapping[str, int]
    rejected: Mapping[str, int]
    signals: Mapping[str, float]
    seconds: Mapping[str, float]
    peak_mib: float | None
    letters: tuple[Record, ...] = ()


def run(config: Config, deployed: Deployed, stream: Stream, plan: Plan, told: Callable[[int], None]) -> Run:
    """Send the stream through a newborn daemon. ``told`` hears how many images were answered, batch by batch."""
    sheet = Sheet.empty(len(plan))
    score = scorer(sheet, stream.labels[plan.images])

    def see(batch: Batch, answered: Answered) -> None:
        score(batch, answered)
        told(batch.size)

    tape, log = Tape(see), MemoryLog()
    daemon, reel = in_memory(config, deployed, log, tape, stream, plan)
    peak, began = Peak(deployed.classifier.mean.device), time.perf_counter()
    drive(daemon, reel, log)
    seconds = {**tape.seconds, "total": time.perf_counter() - began}
    peak_mib = peak.mib
    steps = max(tape.learned_from, 1)
    return Run(
        method=config.adapt.method,
        sheet=sheet,
        batches=tape.batches,
        learned_from=tape.learned_from,
        held=dict(tape.held),
        rewound=dict(tape.rewound),
        served=dict(tape.served),
        rejected=dict(tape.rejected_for),
        signals={name: round(total / steps, 4) for name, total in tape.signals.items()},
        seconds={name: round(value, 3) for name, value in seconds.items()},
        peak_mib=peak_mib,
        letters=tuple(log.records(config.kafka.dead_letters)[:LETTERS_KEPT]),
    )


def in_memory(  # noqa: PLR0913, PLR0917 - what a daemon is made of
    config: Config, deployed: Deployed, log: MemoryLog, tape: Tape, stream: Stream, plan: Plan
) -> tuple[Daemon, Reel]:
    """A daemon as `assemble` makes it, with ``log`` in Kafka's place."""
    clock, kafka = Clock(), config.kafka
    patience = {"patience_s": max(config.batch.patience_s, SHORTEST_PATIENCE_S)}
    config = config.model_copy(update={"batch": config.batch.model_copy(update=patience)})
    reel = Reel(log, kafka.input_topic, kafka.group_id, stream, plan, clock)

    def connect() -> World:
        sink = MemorySink(log, exactly_once=kafka.delivery == "exactly_once")
        return World(reel, sink, labels_of(config, deployed, None, tape))

    learner = Learner(deployed, config.adapt, config.watch.sample, config.guard)
    return Daemon(config, deployed, connect, learner, tape, Board(), clock=clock), reel


def drive(daemon: Daemon, reel: Reel, log: MemoryLog, *, keep: bool = False) -> None:
    """Turn until everything is answered. Without ``keep`` the answers are forgotten once they are settled."""
    answers = log.partitions[log.of(daemon.config.kafka.output_topic)[0]]
    daemon.connect()
    while not reel.over or any(reel.lag().values()) or daemon.batcher.waiting:
        daemon.turn()
        daemon.settle()
        if not keep:
            answers.clear()
    daemon.drain()
    daemon.disconnect()
    daemon.decoder.close()


def scorer(sheet: Sheet, labels: Indices) -> See:
    """Write down each answer on ``sheet`` as it comes; the step of an image is the offset of its record."""

    def see(batch: Batch, answered: Answered) -> None:
        steps = np.array([record.position.offset for record in batch.records])
        truth = torch.from_numpy(labels[steps])
        log_p = answered.logits.detach().double().cpu().log_softmax(1)
        p = log_p.exp()
        best = p.max(1)
        own = p.gather(1, truth[:, None])[:, 0]
        sheet.answered[steps] = True
        sheet.right[steps] = (best.indices == truth).numpy()
        sheet.confidence[steps] = best.values.numpy()
        sheet.nll[steps] = -log_p.gather(1, truth[:, None])[:, 0].numpy()
        sheet.brier[steps] = (p.square().sum(1) - 2 * own + 1).numpy()

    return see
