"""From a configuration to a daemon: the only place that wires."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from adapters import Adapter
from tta_daemon.birth import deputy_of, newborn
from tta_daemon.control import logs
from tta_daemon.control.checkpoint_file import FileCheckpoint
from tta_daemon.control.checkpoint_kafka import KafkaCheckpoint
from tta_daemon.control.config import Config, Reach, changes, revealed
from tta_daemon.control.reload import Reloader
from tta_daemon.control.slot import Prepared, Result, Slot, Verdict
from tta_daemon.control.stream_changelog import StreamChangelog
from tta_daemon.control.stream_folder import StreamFolder
from tta_daemon.control.systemd import Systemd
from tta_daemon.control.web.board import Board, Kind
from tta_daemon.control.web.server import Server
from tta_daemon.daemon import Daemon, World, decoder_of
from tta_daemon.errors import ConfigError
from tta_daemon.learner import Learner
from tta_daemon.model.load import Deployed, load
from tta_daemon.model.outlets import FolderOutlet, Outlet, TopicOutlet
from tta_daemon.model.publish import Publisher, answerer_of
from tta_daemon.stream import kafka_changelog, kafka_reading
from tta_daemon.stream.connection import connection
from tta_daemon.stream.kafka_sink import KafkaSink
from tta_daemon.stream.kafka_source import KafkaSource
from tta_daemon.stream.kafka_tail import KafkaTail
from tta_daemon.stream.source import Tail
from tta_daemon.watch.accuracy import Accuracy, LabelJoin
from tta_daemon.watch.labels import Labels
from tta_daemon.watch.metrics import Metrics
from tta_daemon.watch.traces import traces

HEARTBEAT_S = 3.0
"""Time between two heartbeats, by which a rebalance is noticed; less where the session times out in thrice that."""


class Running(NamedTuple):
    """A daemon, and who watches its configuration."""

    daemon: Daemon
    reloader: Reloader


@contextmanager
def assemble(config: Config, path: Path, *, fresh_state: bool = False) -> Iterator[Running]:
    """A daemon on Kafka, served by HTTP and reconfigured from ``path`` for as long as the block lasts.

    With ``fresh_state`` it sets saved states aside and begins anew.

    Raises:
        ConfigError: a setting does not fit the world: the model's files, the port, a secret's file.
        CheckpointError: no state can be saved in the folder.
    """
    require_token(config)
    threads = torch.get_num_threads()
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    metrics, systemd = Metrics(process=True), Systemd(os.environ)
    board = Board(systemd=systemd)
    with ExitStack() as ending:
        server = Server(config.http, board, metrics.registry)
        server.start()
        ending.callback(server.stop)
        deployed = load(config.model)
        metrics.model(deployed.name, deployed.digest, config.adapt.method, config.model.device)
        metrics.configured(config.digest)
        client = connection(config.kafka)
        learner = Learner(deployed, config.adapt, config.watch.sample, config.guard)
        metrics.runtimes(learner.providers)
        folder = ending.enter_context(closing(folder_of(config))) if config.checkpoint.kind == "file" else None

        def connect() -> World:
            topic = config.state_topic
            like = "" if config.streams.by == "none" else config.kafka.input_topic
            partitions = kafka_changelog.ensure(client, topic, like) if topic else 0
            world = on_kafka(daemon.config, client, daemon.deployed, metrics)
            if topic:
                return with_changelog(world, config, client, partitions, lambda: daemon.stopping)
            states = folder if isinstance(folder, StreamFolder) else None
            return replace(world, checkpoint=folder if isinstance(folder, FileCheckpoint) else None, states=states)

        def taken(new: Config) -> None:
            server.tune(new.http)
            logs.configure(new.log)
            torch.set_num_threads(new.model.threads or threads)
            systemd.reloaded(f"answering by configuration {new.digest}")

        def preparing(old: Config, new: Config, deployed: Deployed) -> Prepared:
            systemd.reloading()
            return prepare(old, new, deployed)

        def told(verdict: Verdict) -> None:
            if verdict.result is not Result.PREPARED:  # the loop counts what it takes
                metrics.reloaded(verdict.result, in_force=verdict.result is Result.UNCHANGED)
                systemd.reloading()
                systemd.reloaded(f"reload {verdict.result}: {verdict.words}")
            if verdict.result is Result.REFUSED:
                board.happened(Kind.RELOAD_REFUSED, f"reload refused: {verdict.words}")

        publisher = publisher_of(config, client, metrics, learner.adapter)
        if publisher is not None:
            ending.callback(publisher.close)
        slot = Slot(config, deployed)
        reloader = Reloader(path, os.environ, preparing, slot, told)
        daemon = Daemon(
            config,
            deployed,
            connect,
            learner,
            metrics,
            board,
            slot=slot,
            taken=taken,
            fresh_state=fresh_state,
            traces=ending.enter_context(traces(os.environ)),
            publisher=publisher,
        )
        server.lifecycle.serve(reloader, daemon.errands)
        reloader.start()
        ending.callback(reloader.stop)
        yield Running(daemon, reloader)


def prepare(old: Config, new: Config, deployed: Deployed) -> Prepared:
    """Build what stands between two configurations, beside what runs.

    Raises:
        ConfigError: something cannot be built; nothing has changed.
    """
    require_token(new)
    found = tuple(changes(old, new))
    rebuilt = {change.path.partition(".")[0] for change in found if change.reach is Reach.REBUILD}
    fresh = load(new.model) if "model" in rebuilt else None
    adapter = newborn(fresh or deployed, new.adapt) if rebuilt & {"model", "adapt"} else None
    if adapter is not None and new.publish.wanted:
        answerer_of(adapter, new.adapt.method, "adapt.method")
    decoder = decoder_of(new, (fresh or deployed).size) if rebuilt & {"model", "input"} else None
    stale = any(change.path.partition(".")[0] in {"model", "adapt"} for change in found)
    deputy = deputy_of(fresh or deployed, new.adapt) if stale else None
    return Prepared(new, found, fresh, adapter, decoder, deputy)


def require_token(config: Config) -> None:
    """Refuse to let anybody change anything without one. Raises ConfigError where there is none, or no file of it."""
    http = config.http
    if http.lifecycle and not revealed(http.token, http.token_file, "http.token"):
        remedy = "anybody could reload the daemon; write a long random text"
        raise ConfigError("http.token_file" if http.token_file else "http.token", "is empty", remedy)


def on_kafka(config: Config, client: dict[str, object], deployed: Deployed, metrics: Metrics) -> World:
    """The clients of the loop. Raises BrokerUnreachable where no broker answers; nothing is left open then."""
    kafka = config.kafka
    exactly_once = kafka.delivery == "exactly_once"
    patience = {"request_timeout_ms": round(kafka.request_timeout_s * 1000)}
    sink = KafkaSink(client, transactional_id=kafka.transaction_name if exactly_once else None, settings=patience)
    source = KafkaSource(
        client,
        [kafka.input_topic],
        kafka.group_id,
        instance=kafka.group_instance_id or None,
        start=kafka.start,
        renewed=metrics.renewed,
        settings=patience
        | {
            "max_poll_interval_ms": round(kafka.max_poll_interval_s * 1000),
            "session_timeout_ms": round(kafka.session_timeout_s * 1000),
            "heartbeat_interval_ms": round(min(HEARTBEAT_S, kafka.session_timeout_s / 3) * 1000),
        },
    )
    since_s = time.time() - config.watch.label_wait_s
    tail = KafkaTail(client, kafka.labels_topic, since_s=since_s, settings=patience) if kafka.labels_topic else None
    return World(source, sink, labels_of(config, deployed, tail, metrics))


def folder_of(config: Config) -> FileCheckpoint | StreamFolder:
    """The folder of saved states. Raises CheckpointError where none can be saved there."""
    folder, keep = config.checkpoint.folder or Path(), config.checkpoint.keep
    return FileCheckpoint(folder, keep) if config.streams.by == "none" else StreamFolder(folder, keep)


def publisher_of(config: Config, client: dict[str, object], metrics: Metrics, adapter: Adapter) -> Publisher | None:
    """Hands on what is learned, where that is wanted. Raises ConfigError where this method has nothing to hand on."""
    if not config.publish.wanted:
        return None
    wanted = config.publish
    answerer_of(adapter, config.adapt.method, "adapt.method")
    if wanted.folder and "onnx_adapter" in wanted.formats and find_spec("onnxruntime") is None:
        remedy = "pip install 'tta-daemon[onnx]', or leave out onnx_adapter"
        raise ConfigError("publish.formats", "onnxruntime is missing", remedy)
    outlets: list[Outlet] = [FolderOutlet(wanted.folder, wanted.formats, wanted.keep)] if wanted.folder else []
    outlets += [TopicOutlet(client, wanted.topic)] if wanted.topic else []
    return Publisher(outlets, wanted.every_s, metrics)


def with_changelog(
    world: World, config: Config, client: dict[str, object], partitions: int, stopped: Callable[[], bool]
) -> World:
    """States go to a topic of so many partitions; reading all of it ends early once ``stopped``."""
    topic = config.state_topic
    if config.streams.by == "none":
        read = partial(kafka_changelog.read_all, client, topic, stopped=stopped)
        return replace(world, checkpoint=KafkaCheckpoint(world.sink, topic, read, config.kafka.group_instance_id))
    slices = partial(kafka_reading.slices, client, topic)
    return replace(world, states=StreamChangelog(world.sink, topic, partitions, slices, config.settle.timeout_s))


def labels_of(config: Config, deployed: Deployed, tail: Tail | None, metrics: Metrics) -> Labels:
    """The join of answers and late labels, as the configuration bounds it."""
    watch = config.watch
    join = LabelJoin(deployed.labels, most=watch.label_window, wait_s=watch.label_wait_s)
    return Labels(tail, join, Accuracy(watch.window), metrics)
