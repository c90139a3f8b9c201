"""What a configuration asks of the world, tried before the daemon starts: the model, its method, secrets, brokers."""

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kafka import KafkaAdminClient

import adapters
from tta_daemon.birth import deputy_of, newborn
from tta_daemon.control.config import Config, revealed
from tta_daemon.control.faults import Fault, faults_of
from tta_daemon.errors import BrokerUnreachable, ConfigError
from tta_daemon.model.load import load
from tta_daemon.model.publish import answerer_of
from tta_daemon.stream.connection import connection
from tta_daemon.stream.kafka_client import Caller, opened

PATIENCE_S = 5.0


def faults(config: Config) -> Iterator[Fault]:
    """Everything that the world does not have as the configuration wants it."""
    for check in (_model, _token, _folders, _brokers):
        yield from _collected(check, config)


def _collected(check: Callable[[Config], Iterator[Fault]], config: Config) -> Iterator[Fault]:
    try:
        yield from check(config)
    except ConfigError as error:
        yield from faults_of(error)


def _model(config: Config) -> Iterator[Fault]:
    deployed = load(config.model)
    for words in adapters.unmet(config.adapt.method, deployed.classifier, deployed.prior(config.adapt.method)):
        yield Fault("adapt.method", f"{config.adapt.method}: {words}", "docs/methods.md says what each method needs")
        return
    deputy_of(deployed, config.adapt)
    if config.publish.wanted:
        answerer_of(newborn(deployed, config.adapt), config.adapt.method, "adapt.method")


def _token(config: Config) -> Iterator[Fault]:
    if config.http.lifecycle and not revealed(config.http.token, config.http.token_file, "http.token"):
        yield Fault("http.token", "is empty", "anybody could reload the daemon; write a long random text")


def _folders(config: Config) -> Iterator[Fault]:
    """Write where states will go, or where their folder will be made; leaves nothing behind."""
    wanted = {
        "checkpoint.folder": config.checkpoint.folder if config.checkpoint.kind == "file" else None,
        "publish.folder": config.publish.folder,
    }
    for path, folder in wanted.items():
        if folder is None:
            continue
        there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            reason = f"nothing can be written to {folder}: {error.strerror} at {there}"
            yield Fault(path, reason, "name a folder that we may write to and that outlives a restart")


def _brokers(config: Config) -> Iterator[Fault]:
    kafka = config.kafka
    caller = Caller("preflight")
    try:
        with _silence("kafka"):
            admin = opened(KafkaAdminClient, caller, connection(kafka), PATIENCE_S)
            there = set(caller.within(PATIENCE_S, admin.list_topics))
            caller.within(PATIENCE_S, admin.close)
    except (BrokerUnreachable, TimeoutError) as error:
        remedy = "is the broker up, is the address right, and does [kafka.security] fit it?"
        yield Fault("kafka.bootstrap_servers", str(error).removeprefix("kafka.bootstrap_servers: "), remedy)
        return
    finally:
        caller.close()
    wanted = {
        "kafka.input_topic": kafka.input_topic,
        "kafka.output_topic": kafka.output_topic,
        "kafka.dead_letter_topic": kafka.dead_letters,
        "kafka.labels_topic": kafka.labels_topic,
    }
    for path, topic in wanted.items():
        if topic and topic not in there:
            yield Fault(path, f"the brokers have no topic {topic!r}", "create it, or let the brokers create topics")


@contextmanager
def _silence(library: str) -> Iterator[None]:
    """What goes wrong meanwhile is said once, as a fault."""
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
